//! The handle that programs hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::body::Body;
use super::builder::CommunicatorBuilder;
use super::queue::TaskQueue;
use super::send::{BroadcastSend, RpcSend, TaskSend};
use crate::broker::url::BrokerUrl;
use crate::broker::{ConnectOptions, Kept};
use crate::driver::command::{Closing, Command, SubscriberName};
use crate::driver::port::{Port, Transfer};
use crate::driver::{self, CloseReport, ConnectionState, Events, Plan};
use crate::error::Result;
use crate::home::Home;
use crate::serve::{
    BroadcastFilter, BroadcastSubscriber, Broadcasts, CodecInput, Context, Defaults, Handing, RpcSubscriber,
    TaskSubscriber, add_broadcast_subscriber, add_rpc_subscriber, broadcast_stream, remove_subscriber,
    start_codec_loop, with_refusal,
};
use crate::wire::names::{Identifier, IntoIdentifier};

/// A handle to a communicator: one thread that owns the connection to the broker. Cheap to clone, good on any thread and in any
/// tokio runtime; futures live at the home that makes them.
///
/// The communicator closes when the last handle is dropped (without waiting), or by [`close`](Communicator::close).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Communicator, RpcSubscriber};
///
/// let communicator = Communicator::connect("memory:").await?;
/// let double = RpcSubscriber::closure(|request: homing::RpcRequest| request.body().as_i64().unwrap_or(0) * 2);
/// communicator.add_rpc_subscriber("double", double).await?;
/// assert_eq!(communicator.rpc_send("double", 21).await?.as_i64(), Some(42));
/// communicator.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Communicator {
    handle: Arc<Handle>,
    /// Where the subscribers run that are added by this handle; `None` is where it is done.
    home: Option<Home>,
}

/// Closes the communicator when the last clone of the handle goes.
struct Handle {
    context: Context,
    codec: mpsc::UnboundedSender<CodecInput>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.port().notify(Command::Close { how: Closing::LastHandle, done: None });
    }
}

impl Handle {
    fn port(&self) -> &Arc<Port> {
        &self.context.port
    }
}

/// Counts of what was dropped or repeated since the communicator connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommunicatorCounts {
    /// Replies whose caller had its outcome, or was gone.
    pub late_replies: u64,
    /// Replies whose caller was not found before their time was up: its queue was gone.
    pub replies_unroutable: u64,
    /// Requests that named no queue to reply to.
    pub replies_not_wanted: u64,
    /// Broadcasts that could not be read.
    pub broadcasts_unreadable: u64,
    /// Broadcasts that a subscriber lost since its home did not keep up.
    pub broadcasts_lagged: u64,
    /// Tasks that went to the quarantine queue.
    pub tasks_quarantined: u64,
    /// Tasks that came again while they ran here, and were not run twice.
    pub tasks_adopted: u64,
    /// Tasks that came again after they had ended here: they were acknowledged and answered again, and not run twice. The
    /// last 10,000 outcomes are kept for that, of at most 64 MiB.
    pub tasks_answered_again: u64,
    /// Answers that were sent again, for a caller that had lost its connection and had not got them.
    pub answered_again: u64,
}

impl Communicator {
    /// Connects with all defaults to `amqp://…`, `amqps://…` (with the feature `tls`), `local:` (with the feature `local`: a durable
    /// broker that the programs of one user on this machine share), `memory:` (a broker of this communicator's own) or `memory:NAME`
    /// (one that all communicators of this process share). Several brokers, with commas between their URLs, are tried in turn.
    /// [`CommunicatorBuilder`] has the parameters of a URL.
    ///
    /// # Errors
    /// See [`CommunicatorBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropped, it gives the attempt up; what has been opened is closed in the background.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// The options of a communicator, to be set before it connects.
    pub fn builder(url: &str) -> CommunicatorBuilder {
        CommunicatorBuilder::new(url)
    }

    pub(super) async fn start(builder: CommunicatorBuilder, urls: Vec<BrokerUrl>) -> Result<Self> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let transfer = if urls.iter().any(BrokerUrl::is_memory) { Transfer::Passed } else { Transfer::Encoded };
        let brokers = urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let close_timeout = builder.limits.close_timeout;
        let operation_timeout = builder.connect.operation_timeout;
        let port = Arc::new(Port::new(
            commands,
            builder.names,
            transfer,
            brokers,
            builder.in_flight,
            close_timeout,
            operation_timeout,
        ));
        let defaults = Defaults {
            call_timeout: builder.call_timeout,
            task_timeout: builder.task_timeout,
            task_prefetch: builder.task_prefetch,
        };
        let context = Context::new(Arc::clone(&port), defaults, builder.codec, builder.trace_context);
        let context = with_refusal(context);
        let (codec, work) = mpsc::unbounded_channel();
        let (handing, handover) = Handing::new(context.clone());
        let codec_loop = {
            let codec = codec.clone();
            let name = format!("{}-codec", builder.thread_name);
            Box::new(move || start_codec_loop(name, handover, codec, work))
        };
        // Guards: a connect that is given up. The handle is there from now on, and its drop closes what is being connected.
        let handle = Arc::new(Handle { context, codec });
        let plan = Plan {
            port,
            commands: inbox,
            urls: urls.into(),
            // Its own, whatever else was made of this builder.
            connect: ConnectOptions { kept: Kept::default(), ..builder.connect },
            reconnect: builder.reconnect,
            limits: builder.limits,
            codec: codec_loop,
            thread_name: builder.thread_name,
        };
        driver::start(plan).await?;
        handing.done();
        Ok(Communicator { handle, home: None })
    }

    pub(crate) fn context(&self) -> &Context {
        &self.handle.context
    }

    pub(super) fn port(&self) -> &Arc<Port> {
        self.handle.port()
    }

    /// A call to the subscriber of this name. The body is anything that converts to a [`Value`](crate::Value), or [`Body::of`] a type that
    /// serde can write.
    pub fn rpc_send(&self, recipient: impl IntoIdentifier, body: impl Into<Body>) -> RpcSend {
        RpcSend::new(self.context().clone(), recipient.into_identifier(), body.into())
    }

    /// A call with types of your own, through serde: [`rpc_send`](Self::rpc_send) with [`Body::of`] and
    /// [`returning`](RpcSend::returning).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use std::time::Duration;
    /// use homing::{Communicator, HandlerResult, RpcSubscriber};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Point { x: i64, y: i64 }
    ///
    /// let communicator = Communicator::connect("memory:").await?;
    /// let mirror = RpcSubscriber::typed(|point: Point| async move { HandlerResult::Ok(Point { x: point.y, y: point.x }) });
    /// communicator.add_rpc_subscriber("mirror", mirror).await?;
    /// let mirrored: Point = communicator.call("mirror", &Point { x: 1, y: 2 }).timeout(Duration::from_secs(5)).await?;
    /// assert_eq!((mirrored.x, mirrored.y), (2, 1));
    /// # Ok(()) }
    /// ```
    ///
    /// Awaiting it fails as awaiting an [`RpcSend`] does, and with `Encode` or `Decode` when a value does not fit.
    pub fn call<T: DeserializeOwned>(
        &self,
        recipient: impl IntoIdentifier,
        body: &(impl Serialize + ?Sized),
    ) -> RpcSend<T> {
        self.rpc_send(recipient, Body::of(body)).returning()
    }

    /// A handle to the same communicator whose subscribers run on this home, on whatever thread they are added. It is what
    /// plumpy's `LoopCommunicator` is to a loop.
    ///
    /// Without it a subscriber runs on the home that adds it: on the tokio runtime, on the event loop or on the thread.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use homing::home::EventLoop;
    /// use homing::{Communicator, RpcRequest, RpcSubscriber};
    ///
    /// let event_loop = EventLoop::start("the-loop")?;
    /// let communicator = Communicator::connect("memory:").await?;
    /// let who = RpcSubscriber::closure(|_: RpcRequest| std::thread::current().name().map(str::to_owned));
    /// communicator.bound_to(&event_loop.handle().home()).add_rpc_subscriber("who", who).await?;
    /// assert_eq!(communicator.rpc_send("who", ()).await?.as_str(), Some("the-loop"));
    /// # communicator.close().await?; Ok(()) }
    /// ```
    #[must_use]
    pub fn bound_to(&self, home: &Home) -> Self {
        Communicator { handle: Arc::clone(&self.handle), home: Some(home.clone()) }
    }

    /// Where a subscriber runs that is added now.
    #[must_use]
    pub fn home(&self) -> Home {
        self.home.clone().unwrap_or_else(Home::current)
    }

    /// This handle if it is bound to a home, or else one that is bound to that which the caller has for it.
    pub(super) fn bound_or(&self, home: impl FnOnce() -> Result<Home>) -> Result<Self> {
        let home = self.home.clone().map_or_else(home, Ok)?;
        Ok(Communicator { handle: Arc::clone(&self.handle), home: Some(home) })
    }

    /// Adds a subscriber to calls under a name. It runs on this handle's [home](Self::home).
    ///
    /// # Errors
    /// `DuplicateSubscriberIdentifier` when the name is taken on this communicator; `InvalidArgument` for the name; `TimedOut` when
    /// the [broker is silent](crate::CommunicatorBuilder::operation_timeout) or away; `HomeEnded`; `ConnectionLost`;
    /// `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the subscriber is removed again.
    pub async fn add_rpc_subscriber(
        &self,
        identifier: impl IntoIdentifier,
        subscriber: RpcSubscriber,
    ) -> Result<Identifier> {
        let identifier = identifier.into_identifier()?;
        add_rpc_subscriber(self.context(), &self.home(), identifier.clone(), subscriber).await?;
        Ok(identifier)
    }

    /// Removes a subscriber. Calls that it works on go on to their end.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none of that name; `TimedOut` when it is removed here and the broker has not answered within
    /// the [time for operations](crate::CommunicatorBuilder::operation_timeout).
    ///
    /// # Cancel safety
    /// Dropped, the subscriber is removed all the same.
    pub async fn remove_rpc_subscriber(&self, identifier: impl IntoIdentifier) -> Result<()> {
        let name = SubscriberName::Rpc(identifier.into_identifier()?);
        remove_subscriber(self.port(), "removing an RPC subscriber", name).await
    }

    /// A task for the default task queue.
    pub fn task_send(&self, task: impl Into<Body>) -> TaskSend {
        TaskSend::new(self.context().clone(), self.port().names.task_queue.clone(), task.into())
    }

    /// Adds a subscriber to tasks of the default queue.
    ///
    /// # Errors
    /// See [`TaskQueue::add_task_subscriber`].
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the subscriber is removed again.
    pub async fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        self.default_task_queue()?.add_task_subscriber(subscriber).await
    }

    /// Removes a subscriber of the default queue.
    ///
    /// # Errors
    /// See [`TaskQueue::remove_task_subscriber`].
    ///
    /// # Cancel safety
    /// Dropped, the subscriber is removed all the same.
    pub async fn remove_task_subscriber(&self, identifier: &Identifier) -> Result<()> {
        self.default_task_queue()?.remove_task_subscriber(identifier).await
    }

    /// A task queue of this name, on the communicator's task exchange. It is declared at its first use.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is empty or too long, that has a wildcard word (`*`, `#`), or that begins as homing's
    /// own queues do (`homing-delay-`, `homing-until-`, `homing-unique-`, `homing-lease-`, `homing-control-`).
    pub fn task_queue(&self, name: impl AsRef<str>) -> Result<TaskQueue> {
        TaskQueue::new(self.context().clone(), self.home.clone(), name.as_ref().into())
    }

    /// The default task queue.
    ///
    /// # Errors
    /// As [`task_queue`](Self::task_queue).
    pub fn default_task_queue(&self) -> Result<TaskQueue> {
        TaskQueue::new(self.context().clone(), self.home.clone(), self.port().names.task_queue.clone())
    }

    /// A broadcast to all subscribers.
    pub fn broadcast_send(&self, body: impl Into<Body>) -> BroadcastSend {
        BroadcastSend::new(self.context().clone(), body.into())
    }

    /// Adds a subscriber to the broadcasts that pass a filter. It runs on this handle's [home](Self::home); a broadcast that
    /// does not pass never reaches that home.
    ///
    /// # Errors
    /// `DuplicateSubscriberIdentifier` when its identifier is taken; `TimedOut` when the
    /// [broker is silent](crate::CommunicatorBuilder::operation_timeout) or away; `HomeEnded`; `ConnectionLost`;
    /// `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the subscriber is removed again.
    pub async fn add_broadcast_subscriber(
        &self,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        let (context, codec) = (self.context(), &self.handle.codec);
        add_broadcast_subscriber(context, codec, &self.home(), filter, subscriber).await
    }

    /// The broadcasts that pass a filter, as a stream of the current home. A receiver that does not keep up loses the oldest,
    /// and gets [`Lagged`](crate::Lagged) in their place: 1024 of them wait for it, and no more than take 64 MiB of memory.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use homing::{BroadcastFilter, Communicator};
    ///
    /// let communicator = Communicator::connect("memory:").await?;
    /// let mut changes = communicator.broadcasts(BroadcastFilter::new().subject("state_changed.*")?).await?;
    /// communicator.broadcast_send("not for them").subject("other").await?;
    /// communicator.broadcast_send(4).subject("state_changed.running").await?;
    /// if let Some(Ok(change)) = changes.next().await {
    ///     assert_eq!(change.subject(), Some("state_changed.running"));
    /// }
    /// # communicator.close().await.map(drop) }
    /// ```
    ///
    /// # Errors
    /// `TimedOut` when the [broker is silent](crate::CommunicatorBuilder::operation_timeout) or away; `ConnectionLost`;
    /// `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the subscription is removed again.
    pub async fn broadcasts(&self, filter: BroadcastFilter) -> Result<Broadcasts> {
        broadcast_stream(self.context(), &self.handle.codec, filter).await
    }

    /// Removes a subscriber.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none of that name; `TimedOut` when it is removed here and the broker has not answered within
    /// the [time for operations](crate::CommunicatorBuilder::operation_timeout).
    ///
    /// # Cancel safety
    /// Dropped, the subscriber is removed all the same.
    pub async fn remove_broadcast_subscriber(&self, identifier: &Identifier) -> Result<()> {
        let name = SubscriberName::Broadcasts(identifier.clone());
        remove_subscriber(self.port(), "removing a broadcast subscriber", name).await
    }

    /// Resolves after this time, from its first poll on, by the communicator's clock: on every home, one without timers
    /// included. It does not keep the communicator open.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use std::time::Duration;
    ///
    /// let communicator = homing::Communicator::connect("memory:").await?;
    /// communicator.sleep(Duration::from_millis(5)).await?;
    /// # communicator.close().await.map(drop) }
    /// ```
    ///
    /// # Errors
    /// `HomeEnded`; `ConnectionLost` or `CommunicatorClosed` as soon as the communicator ends.
    ///
    /// # Cancel safety
    /// Dropped, its timer is taken back.
    pub fn sleep(&self, time: Duration) -> impl Future<Output = Result<()>> + Send + use<> {
        let port = Arc::clone(self.port());
        async move { port.pause(time).await }
    }

    /// The broker's properties: `product`, `version` and so on.
    #[must_use]
    pub fn server_properties(&self) -> Vec<(String, String)> {
        self.port().server_properties()
    }

    /// What happens to the connection and to subscribers, from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.port().events()
    }

    /// The state of the connection now. [`events`](Self::events) emits each change.
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        self.port().state()
    }

    /// Counts of what was dropped or repeated so far.
    #[must_use]
    pub fn counts(&self) -> CommunicatorCounts {
        let counters = &self.port().counters;
        // Ordering: Relaxed, for counters order nothing.
        CommunicatorCounts {
            late_replies: counters.late_replies.load(Ordering::Relaxed),
            replies_unroutable: counters.replies_unroutable.load(Ordering::Relaxed),
            replies_not_wanted: counters.replies_not_wanted.load(Ordering::Relaxed),
            broadcasts_unreadable: counters.broadcasts_unreadable.load(Ordering::Relaxed),
            broadcasts_lagged: counters.broadcasts_lagged.load(Ordering::Relaxed),
            tasks_quarantined: counters.tasks_quarantined.load(Ordering::Relaxed),
            tasks_adopted: counters.tasks_adopted.load(Ordering::Relaxed),
            tasks_answered_again: counters.tasks_answered_again.load(Ordering::Relaxed),
            answered_again: counters.answered_again.load(Ordering::Relaxed),
        }
    }

    /// What is held of it, by name.
    #[cfg(test)]
    pub(crate) fn leftovers(&self) -> Vec<(&'static str, usize)> {
        self.port().leftovers()
    }

    /// True when it is closed, or its connection is lost.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.port().has_ended()
    }

    /// Closes: new work is refused, what was sent before goes out, tasks in hand go back, callers that still wait get
    /// `communicator closed`, the connection ends and its threads are joined. Bounded by
    /// [`close_timeout`](CommunicatorBuilder::close_timeout). May be called from anywhere, any number of times; each call gets the same
    /// report.
    ///
    /// # Errors
    /// `HomeEnded` when the home that it is called on is ending.
    ///
    /// # Cancel safety
    /// Dropped, the communicator closes all the same.
    pub async fn close(&self) -> Result<CloseReport> {
        driver::close(self.port(), Duration::ZERO).await
    }

    /// Closes when the work under way has ended: from now on it receives no call, task or broadcast; handlers that run may end within
    /// `limit`, and their answers are acknowledged and sent. Then it closes as [`close`](Self::close) does; the report has what
    /// was left.
    ///
    /// A task that ended while there was no connection could not be acknowledged. The broker hands it out again, marked as
    /// redelivered, and a communicator that drains does not receive it: another worker does. Where that matters, drain after
    /// the connection is back and `tasks_answered_again` of [`counts`](Self::counts) has risen by as many, as `homing task work` does.
    ///
    /// An answer is sent when it comes. Where its caller is not there by then, it may have lost the same broker and be back a
    /// little later: for three seconds after this communicator was back, its answer is waited for. An answer whose caller was not
    /// found goes with this communicator, and is counted in `replies_unroutable`; the caller waits until its own time is up.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    ///
    /// # Cancel safety
    /// Dropped, the communicator drains and closes all the same.
    pub async fn drain(&self, limit: Duration) -> Result<CloseReport> {
        driver::close(self.port(), limit).await
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("broker", &self.port().broker).finish_non_exhaustive()
    }
}
