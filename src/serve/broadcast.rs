//! The home side of broadcasts: a mailbox for each subscriber, and the task that serves it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};

use super::answer::{Handler, NOBODY, Subscriber, settled};
use super::codec_loop::{self, CodecInput};
use super::context::Context;
use super::filter::BroadcastFilter;
use super::registration::Registration;
use crate::broker::Body;
use crate::codec::Value;
use crate::driver::command::{ServedBy, Subscription};
use crate::driver::port::{ConnectionEvent, Mailbox, MailboxLimits, MailboxSender, MailboxStream, Received};
use crate::error::Result;
use crate::home::Home;
use crate::observe::{Handling, Incoming, MessageKind};
use crate::wire::broadcast::Content;
use crate::wire::headers::TraceHeaders;
use crate::wire::names::{BROADCAST_TOPIC, Identifier};

/// What waits for one subscriber's home before the oldest is dropped.
const BROADCAST_BACKLOG: MailboxLimits = MailboxLimits { items: 1024, bytes: 64 << 20 };

/// How many handlers of one subscriber run side by side; the rest waits in the backlog.
const HANDLERS_MOST: usize = 256;

/// A broadcast, as its subscribers receive it.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Broadcast, BroadcastFilter, BroadcastSubscriber};
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// let log = BroadcastSubscriber::closure(|broadcast: Broadcast| {
///     println!("{:?} from {:?}: {}", broadcast.subject(), broadcast.sender(), broadcast.body());
/// });
/// communicator.add_broadcast_subscriber(BroadcastFilter::new().subject("job.*")?, log).await?;
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone)]
pub struct Broadcast(Arc<Arrived>);

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Content { body, sender, subject, correlation_id } = &self.0.content;
        f.debug_struct("Broadcast")
            .field("body", body)
            .field("sender", sender)
            .field("subject", subject)
            .field("correlation_id", correlation_id)
            .finish()
    }
}

#[derive(Debug)]
struct Arrived {
    content: Content,
    bytes: Option<usize>,
    /// How much it holds in memory, which may be a million times what it had on the wire, where aliases stand for much.
    weight: usize,
    trace: Option<Box<TraceHeaders>>,
}

/// A broadcast in a subscriber's mailbox.
#[derive(Clone, Debug)]
pub(crate) enum Delivered {
    /// Read on the codec thread, and past the filter.
    Read(Broadcast),
    /// For a codec that may be called at homes only.
    Unread(Body, Option<Box<TraceHeaders>>),
}

/// A subscriber to broadcasts. What it returns is not sent to anybody; a failure is logged.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator};
/// let communicator = Communicator::connect("memory:").await?;
///
/// let print = BroadcastSubscriber::closure(|broadcast: Broadcast| println!("{}", broadcast.body()));
/// communicator.add_broadcast_subscriber(BroadcastFilter::new().subject("job.*")?, print).await?;
/// communicator.broadcast_send("all done").subject("job.finished").await?;
/// # communicator.close().await.map(drop) }
/// ```
pub type BroadcastSubscriber = Subscriber<Broadcast>;

impl Delivered {
    /// How much it holds in memory.
    pub(super) fn weight(&self) -> usize {
        match self {
            Delivered::Read(broadcast) => broadcast.0.weight,
            Delivered::Unread(body, _) => body.size(),
        }
    }
}

impl Broadcast {
    pub(super) fn new(content: Content, bytes: Option<usize>, weight: usize, trace: Option<Box<TraceHeaders>>) -> Self {
        Broadcast(Arc::new(Arrived { content, bytes, weight, trace }))
    }

    /// What was sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.0.content.body
    }

    /// The body as a type of your own.
    ///
    /// # Errors
    /// `Decode` when it has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.0.content.body.deserialize()
    }

    /// Who sent it: a process id of any type, or null.
    #[must_use]
    pub fn sender(&self) -> &Value {
        &self.0.content.sender
    }

    /// The subject, if it is a string.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.0.content.subject.as_str()
    }

    /// The subject as it was sent, null if there is none.
    #[must_use]
    pub fn subject_value(&self) -> &Value {
        &self.0.content.subject
    }

    /// The sender's mark, or null.
    #[must_use]
    pub fn correlation_id(&self) -> &Value {
        &self.0.content.correlation_id
    }
}

/// Where a subscriber's broadcasts come in. Dropped, it takes the subscriber out, and drops what was not read.
struct Inlet {
    context: Context,
    codec: mpsc::UnboundedSender<CodecInput>,
    number: u64,
    identifier: Identifier,
    filter: BroadcastFilter,
    mailbox: Arc<Mailbox<Delivered>>,
    registration: Registration,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // A thread that has ended keeps nothing.
        let _ = self.codec.send(CodecInput::Remove { number: self.number });
        // Guards: the communicator thread, which has the sending side, and may be the last that holds the mailbox.
        self.mailbox.end();
    }
}

impl Inlet {
    /// What was delivered, if it is for this receiver. Called at home.
    fn read(&self, delivered: Delivered) -> Option<Broadcast> {
        match delivered {
            Delivered::Read(broadcast) => Some(broadcast),
            Delivered::Unread(body, trace) => codec_loop::read(&self.context, body, trace)
                .ok()
                .flatten()
                .filter(|broadcast| self.filter.passes(broadcast.subject_value(), broadcast.sender())),
        }
    }

    /// Reports how many were dropped for this receiver since it last took one. They are counted, and logged, when they are dropped.
    fn lost(&self, missed: u64) {
        let port = &self.context.port;
        let identifier = self.identifier.clone();
        crate::log::info!(%identifier, missed, "a broadcast subscriber that did not keep up takes broadcasts again");
        port.emit(&ConnectionEvent::Lagged { identifier, missed });
    }
}

/// Adds a subscriber at a home.
///
/// # Errors
/// Why it cannot be added.
pub(crate) async fn add(
    context: &Context,
    codec: &mpsc::UnboundedSender<CodecInput>,
    home: &Home,
    filter: BroadcastFilter,
    subscriber: BroadcastSubscriber,
) -> Result<Identifier> {
    let identifier = subscriber.identifier.unwrap_or_else(Identifier::unique);
    let inlet = subscribe(context, codec, home, filter, identifier.clone(), ServedBy::Task).await?;
    home.spawn_uncounted(serve(home.clone(), subscriber.handler, inlet));
    Ok(identifier)
}

/// Opens a mailbox for the broadcasts that pass a filter.
async fn subscribe(
    context: &Context,
    codec: &mpsc::UnboundedSender<CodecInput>,
    home: &Home,
    filter: BroadcastFilter,
    identifier: Identifier,
    served_by: ServedBy,
) -> Result<Inlet> {
    let mailbox = Mailbox::new(BROADCAST_BACKLOG);
    let number = context.port.next_id();
    let mut inlet = Inlet {
        context: context.clone(),
        codec: codec.clone(),
        number,
        identifier: identifier.clone(),
        filter: filter.clone(),
        mailbox: Arc::clone(&mailbox),
        registration: Registration::new(&context.port),
    };
    let subscription =
        Subscription::Broadcasts { identifier: identifier.clone(), mailbox: MailboxSender::new(&mailbox) };
    // Before the queue is there, so that its first message is received. A closed communicator is found out below.
    let _ = codec.send(CodecInput::Add { number, identifier, filter, mailbox });
    inlet.registration.add(home, "a broadcast subscriber", subscription, served_by).await?;
    Ok(inlet)
}

/// Broadcasts as they come; a [`Stream`]. Made by [`Communicator::broadcasts`](crate::Communicator::broadcasts). Dropped, its
/// subscription ends.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{BroadcastFilter, Lagged};
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// let mut broadcasts = communicator.broadcasts(BroadcastFilter::new()).await?;
/// communicator.broadcast_send(1).await?;
/// match broadcasts.next().await {
///     Some(Ok(broadcast)) => assert_eq!(broadcast.body().as_i64(), Some(1)),
///     Some(Err(Lagged { missed, .. })) => eprintln!("{missed} were lost"),
///     None => eprintln!("the communicator has closed"),
/// }
/// # communicator.close().await.map(drop) }
/// ```
#[must_use = "dropped, its subscription ends"]
pub struct Broadcasts {
    received: MailboxStream<Delivered>,
    inlet: Inlet,
}

/// A receiver did not keep up with the broadcasts: the oldest were dropped. Those that follow are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lagged {
    /// How many were lost.
    pub missed: u64,
}

impl fmt::Display for Lagged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the receiver did not keep up and lost {} broadcasts", self.missed)
    }
}

impl std::error::Error for Lagged {}

impl Broadcasts {
    /// The next broadcast, or that some were lost; `None` when the communicator has closed, or the home that waits has ended.
    ///
    /// # Errors
    /// [`Lagged`] when this receiver did not keep up. The broadcasts that follow are there.
    ///
    /// # Cancel safety
    /// No broadcast is lost when it is dropped.
    pub async fn next(&mut self) -> Option<std::result::Result<Broadcast, Lagged>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Broadcasts {
    type Item = std::result::Result<Broadcast, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Poll::Ready(received) = self.received.poll_next(context) else { return Poll::Pending };
            return Poll::Ready(match received {
                Some(Received::Item(delivered)) => match self.inlet.read(delivered) {
                    Some(broadcast) => Some(Ok(broadcast)),
                    None => continue,
                },
                Some(Received::Missed(missed)) => {
                    self.inlet.lost(missed);
                    Some(Err(Lagged { missed }))
                }
                None => None,
            });
        }
    }
}

impl fmt::Debug for Broadcasts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcasts").finish_non_exhaustive()
    }
}

/// Subscribes to broadcasts that nobody handles but who asks for them.
///
/// # Errors
/// Why it cannot be added.
pub(crate) async fn stream(
    context: &Context,
    codec: &mpsc::UnboundedSender<CodecInput>,
    filter: BroadcastFilter,
) -> Result<Broadcasts> {
    let inlet = subscribe(context, codec, &Home::current(), filter, Identifier::unique(), ServedBy::Stream).await?;
    Ok(Broadcasts { received: MailboxStream::new(Arc::clone(&inlet.mailbox)), inlet })
}

/// The task of one subscriber at its home. Handlers start in the order of the broadcasts.
async fn serve(home: Home, handler: Handler<Broadcast>, inlet: Inlet) {
    let mut running = FuturesUnordered::new();
    // On a thread or a loop.
    let spawned = Arc::new(Semaphore::new(HANDLERS_MOST));
    loop {
        let permit = match home.is_runtime() {
            true => None,
            // Closed by nobody.
            false => Arc::clone(&spawned).acquire_owned().await.ok(),
        };
        let received = tokio::select! {
            biased;
            Some(()) = running.next() => continue,
            received = inlet.mailbox.receive(), if running.len() < HANDLERS_MOST => received,
        };
        match received {
            Some(Received::Item(delivered)) => {
                let Some(broadcast) = inlet.read(delivered) else { continue };
                let context = inlet.context.clone();
                let handled = handle(context, home.clone(), inlet.identifier.clone(), handler.clone(), broadcast);
                // On a runtime, tasks of their own could start in any order. On a thread they start in order, and must be
                // tasks of their own, since one that waits there stands on the stack and cannot be polled.
                if home.is_runtime() {
                    running.push(handled);
                } else {
                    home.spawn_uncounted(async move {
                        handled.await;
                        drop(permit);
                    });
                }
            }
            Some(Received::Missed(missed)) => inlet.lost(missed),
            None => break,
        }
    }
    drop(inlet);
    while running.next().await.is_some() {}
}

async fn handle(
    context: Context,
    home: Home,
    identifier: Identifier,
    handler: Handler<Broadcast>,
    broadcast: Broadcast,
) {
    let correlation_id = broadcast.correlation_id().clone();
    let mut handling = Handling::new(
        &context,
        &Incoming {
            kind: MessageKind::Broadcast,
            exchange: &context.port.names.message_exchange,
            key: BROADCAST_TOPIC,
            identifier: Some(identifier.as_str()),
            message_id: None,
            conversation: broadcast.correlation_id().as_str(),
            bytes: broadcast.0.bytes,
            attempt: None,
            redelivered: false,
            trace: broadcast.0.trace.as_deref(),
        },
    );
    let span = handling.span();
    let handled = async {
        let settled = settled(handler.run(&home, broadcast), NOBODY).await;
        handling.end(&settled);
        match settled {
            Ok(value) => value.dispose(),
            Err(error) if error.is_warning() => {
                crate::log::warn!(%identifier, %correlation_id, failure = error.to_string(), "a broadcast failed in its handler");
            }
            Err(_) => {}
        }
    };
    span.around(handled).await;
}

#[cfg(test)]
mod tests {
    use super::super::codec_loop;
    use super::*;
    use crate::Communicator;

    /// Guards: the bound of a mailbox against few bytes that stand for much.
    #[tokio::test]
    async fn a_broadcast_weighs_what_it_holds_in_memory() {
        let communicator = Communicator::connect("memory:").await.unwrap();
        let read = |text: &str| {
            let body = Body::Encoded(text.to_owned().into());
            codec_loop::read(communicator.context(), body, None).unwrap().expect("a broadcast")
        };
        let small = read("{body: null, sender: null, subject: null, correlation_id: null}");
        let more: String = ["a", "b", "c", "d"]
            .windows(2)
            .map(|two| format!(", &{1} [{0}]", ["*"; 9].map(|star| format!("{star}{}", two[0])).join(", "), two[1]))
            .collect();
        let text = format!(
            "{{body: [&a [{}]{more}], sender: null, subject: null, correlation_id: null}}",
            ["1"; 9].join(", ")
        );
        let broadcast = read(&text);
        assert!(text.len() < 400 && small.0.weight < 1000);
        assert!(broadcast.0.weight > 6561 * size_of::<Value>(), "{}", broadcast.0.weight);
        communicator.close().await.unwrap();
    }

    /// The communicator thread has the sending side of each mailbox, and drops it when it comes to that.
    #[tokio::test]
    async fn what_a_stream_leaves_unread_is_dropped_with_the_stream() {
        let communicator = Communicator::connect("memory:").await.unwrap();
        let stream = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();
        let mailbox = Arc::clone(&stream.inlet.mailbox);
        let sender = MailboxSender::new(&mailbox);
        let content =
            || Content { body: Value::Null, sender: Value::Null, subject: Value::Null, correlation_id: Value::Null };
        let broadcast = Broadcast::new(content(), None, 0, None);
        let left = Arc::downgrade(&broadcast.0);
        mailbox.put(Delivered::Read(broadcast), 0);
        drop(stream);
        assert_eq!(left.strong_count(), 0);
        let late = Broadcast::new(content(), None, 0, None);
        let left = Arc::downgrade(&late.0);
        mailbox.put(Delivered::Read(late), 0);
        assert_eq!(left.strong_count(), 0);
        drop(sender);
        communicator.close().await.unwrap();
    }
}
