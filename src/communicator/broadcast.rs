//! Broadcasts: decoded once and filtered on one thread of ours, the codec thread, then handed to each subscriber's home.
//!
//! The codec thread keeps the communicator thread free of users' decoders and of dropping users' values, and it never waits
//! for a home: of a home that does not keep up the oldest broadcasts are dropped, counted and reported.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast::{self, error::RecvError};

use super::answer::{Answer, Handler, Subscriber};
use super::command::{Command, RpcDelivery};
use super::driver::Ticket;
use super::events::Event;
use super::filter::BroadcastFilter;
use super::names::Identifier;
use super::rpc;
use super::shared::{Shared, count};
use crate::broker::Body;
use crate::codec::{Map, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;

/// How many broadcasts wait for one subscriber's home before the oldest is dropped.
pub const BROADCAST_BACKLOG: usize = 1024;

/// How many handlers of one subscriber run side by side on a runtime; the rest waits in the backlog.
const HANDLERS_MAX: usize = 256;

/// A broadcast, as its subscribers get it.
#[derive(Clone, Debug)]
pub struct Broadcast(Arc<Content>);

#[derive(Debug)]
struct Content {
    body: Value,
    sender: Value,
    subject: Value,
    correlation_id: Value,
}

/// A subscriber to broadcasts. What it answers is not sent to anybody; a failure is logged.
pub type BroadcastSubscriber = Subscriber<Broadcast>;

impl Broadcast {
    /// What was sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.0.body
    }

    /// The body as a type of one's own.
    ///
    /// # Errors
    /// `Decode` when it has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.0.body.deserialize()
    }

    /// Who sent it: a process id of any type, or null.
    #[must_use]
    pub fn sender(&self) -> &Value {
        &self.0.sender
    }

    /// What it is about, where the sender said so in a text.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_str()
    }

    /// The subject as it came, null where there is none.
    #[must_use]
    pub fn subject_value(&self) -> &Value {
        &self.0.subject
    }

    /// The sender's mark, or null.
    #[must_use]
    pub fn correlation_id(&self) -> &Value {
        &self.0.correlation_id
    }

    /// A body as it goes on the wire: kiwipy's mapping of four.
    pub(crate) fn into_value(body: Value, sender: Value, subject: Value, correlation_id: Value) -> Value {
        let mut map = Map::new();
        map.insert("body", body);
        map.insert("correlation_id", correlation_id);
        map.insert("sender", sender);
        map.insert("subject", subject);
        Value::Map(map)
    }

    fn from_value(value: Value) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorKind::Decode, format!("a broadcast that {why}"));
        let Value::Map(mut map) = value else { return Err(bad("is not a mapping")) };
        let mut take = |key: &str| map.remove(key).ok_or_else(|| bad(&format!("lacks the key {key:?}")));
        Ok(Broadcast(Arc::new(Content {
            body: take("body")?,
            sender: take("sender")?,
            subject: take("subject")?,
            correlation_id: take("correlation_id")?,
        })))
    }
}

/// A subscriber as the codec thread has it: its filter, and the way to its home.
pub(crate) struct BroadcastSink {
    pub filter: BroadcastFilter,
    pub mailbox: broadcast::Sender<Broadcast>,
}

/// What the codec thread is asked for.
pub(crate) enum CodecWork {
    Add {
        identifier: Identifier,
        sink: BroadcastSink,
    },
    Remove {
        identifier: Identifier,
    },
    Broadcast {
        ticket: Ticket,
        body: Body,
    },
    /// A call whose subscriber's home has ended is answered, and dropped, here.
    Refuse(RpcDelivery),
    /// The communicator ends.
    End,
}

/// The codec thread.
pub(crate) fn codec_thread(shared: &Arc<Shared>, work: &crossbeam_channel::Receiver<CodecWork>) {
    let mut sinks: Vec<(Identifier, BroadcastSink)> = Vec::new();
    for work in work {
        if matches!(work, CodecWork::End) {
            return;
        }
        // A user's decoder may panic; that costs the broadcast that it read, not those to come.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match work {
            CodecWork::Add { identifier, sink } => sinks.push((identifier, sink)),
            CodecWork::Remove { identifier } => sinks.retain(|(known, _)| *known != identifier),
            CodecWork::Broadcast { ticket, body } => spread(shared, &sinks, ticket, body),
            CodecWork::Refuse(delivery) => rpc::refuse(shared, &delivery),
            CodecWork::End => {}
        }));
        if let Err(panic) = done {
            count(&shared.counters.broadcasts_unreadable);
            tracing::error!(panic = crate::home::panic_text(&*panic), "the codec panicked");
        }
    }
}

fn spread(shared: &Arc<Shared>, sinks: &[(Identifier, BroadcastSink)], ticket: Ticket, body: Body) {
    let value = match shared.decode(body) {
        Ok(value) => value,
        Err(error) => {
            count(&shared.counters.broadcasts_unreadable);
            tracing::warn!(%error, "a broadcast that cannot be read was dropped");
            return shared.tell(Command::Discard { ticket });
        }
    };
    match Broadcast::from_value(value) {
        Ok(broadcast) => {
            for (_, sink) in sinks {
                if sink.filter.passes(&broadcast.0.subject, &broadcast.0.sender) {
                    // Without a receiver its home has ended, which is said elsewhere.
                    let _ = sink.mailbox.send(broadcast.clone());
                }
            }
        }
        Err(error) => {
            count(&shared.counters.broadcasts_unreadable);
            tracing::warn!(%error, "a broadcast of the wrong shape was dropped");
        }
    }
    shared.tell(Command::Ack { ticket });
}

/// The task of one subscriber at its home. Handlers start in the order of the broadcasts.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    home: Home,
    identifier: Identifier,
    handler: Handler<Broadcast>,
    mailbox: broadcast::Receiver<Broadcast>,
) {
    let mut inlet = Inlet { shared: Arc::clone(&shared), identifier, mailbox: Some(mailbox) };
    let mut running = FuturesUnordered::new();
    while let Some(mailbox) = &mut inlet.mailbox {
        let received = tokio::select! {
            received = mailbox.recv(), if running.len() < HANDLERS_MAX => received,
            Some(()) = running.next() => continue,
        };
        match received {
            Ok(broadcast) => {
                let handled = handle(home.clone(), inlet.identifier.clone(), handler.clone(), broadcast);
                // On a runtime, tasks of their own could start in any order. On a thread they start in order, and must be
                // tasks of their own, since one that waits there stands on the stack and cannot be polled.
                if home.is_runtime() {
                    running.push(handled);
                } else {
                    home.spawn_uncounted(handled);
                }
            }
            Err(RecvError::Closed) => break,
            Err(RecvError::Lagged(missed)) => {
                shared.counters.broadcasts_lagged.fetch_add(missed, std::sync::atomic::Ordering::Relaxed);
                let identifier = inlet.identifier.clone();
                tracing::warn!(%identifier, missed, "a broadcast subscriber did not keep up and lost the oldest");
                // Nobody may be listening for events.
                let _ = shared.events.send(Event::Lagged { identifier, missed });
            }
        }
    }
    drop(inlet);
    while running.next().await.is_some() {}
}

async fn handle(home: Home, identifier: Identifier, handler: Handler<Broadcast>, broadcast: Broadcast) {
    let mut answered = handler.run(&home, broadcast).await;
    while let Ok(Answer::Later(later)) = answered {
        answered = later.answered().await;
    }
    if let Err(failure) = answered {
        tracing::error!(%identifier, ?failure, "a broadcast subscriber failed");
    }
}

/// Where a subscriber's broadcasts come in. When its home ends, it unsubscribes.
struct Inlet {
    shared: Arc<Shared>,
    identifier: Identifier,
    /// Taken when dropped.
    mailbox: Option<broadcast::Receiver<Broadcast>>,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.mailbox = None;
        // No news to a driver that took this subscriber out itself.
        self.shared.tell(Command::Sweep);
    }
}
