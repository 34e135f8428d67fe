//! The handle that programs hold.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{broadcast, mpsc};

use super::bound::BoundCommunicator;
use super::broadcast::{self as broadcasts, BROADCAST_BACKLOG, BroadcastSink, BroadcastSubscriber};
use super::builder::Builder;
use super::command::{CloseReport, Command, Patience, Repeat};
use super::driver;
use super::events::{ConnectionState, Events};
use super::filter::BroadcastFilter;
use super::names::{Identifier, IntoIdentifier};
use super::queue::TaskQueue;
use super::rpc::{self, RpcSubscriber};
use super::send::{BroadcastSend, RpcSend, SharedRef, TaskSend};
use super::shared::Shared;
use super::task::TaskSubscriber;
use crate::broker::url::BrokerUrl;
use crate::codec::Value;
use crate::error::Result;
use crate::home::Home;

/// A handle to a communicator: one thread that owns one broker connection. Cheap to clone, good on any thread and in any
/// tokio runtime; futures live at the home that makes them.
///
/// The communicator closes when the last handle is dropped (without waiting), or by [`close`](Communicator::close).
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
}

/// Closes the communicator when the last clone of the handle goes.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.tell(Command::Close { done: None });
    }
}

/// What was dropped by rule rather than by error, since the communicator was connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Replies whose caller had its outcome, or was gone.
    pub late_replies: u64,
    /// Replies that came back since their caller's queue was gone.
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
    /// Connects with all defaults to `amqp://…`, `amqps://…` (with the feature `tls`), `memory:` (a broker of this
    /// communicator's own) or `memory:NAME` (one that all communicators of this process share). Several brokers, with commas between their URLs, are tried in turn.
    ///
    /// # Errors
    /// See [`Builder::connect`].
    pub async fn connect(url: &str) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// Options first.
    pub fn builder(url: &str) -> Builder {
        Builder::new(url)
    }

    pub(crate) async fn start(builder: Builder, urls: Vec<BrokerUrl>) -> Result<Self> {
        let connecting = driver::start(builder, urls).await?;
        // Guards: a connect that is given up. The handle is there from now on, and its drop closes what is being connected.
        let handle = Arc::new(Handle { shared: connecting.shared.clone() });
        connecting.finish().await?;
        Ok(Communicator { handle })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    fn shared_ref(&self) -> SharedRef {
        SharedRef(self.shared().clone())
    }

    /// A call to the subscriber of this name.
    pub fn rpc_send(&self, recipient: impl IntoIdentifier, body: impl Into<Value>) -> RpcSend {
        RpcSend {
            shared: self.shared_ref(),
            recipient: recipient.into_identifier(),
            body: body.into(),
            patience: Patience::For(self.shared().call_timeout),
            repeat: Repeat::Never,
        }
    }

    /// A call with types of one's own, through serde.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use homing::{Answer, Communicator, RpcRequest, RpcSubscriber};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Point { x: i64, y: i64 }
    ///
    /// let communicator = Communicator::connect("memory:").await?;
    /// let mirror = RpcSubscriber::closure(|request: RpcRequest| {
    ///     let point: Point = request.decode()?;
    ///     Answer::of(&Point { x: point.y, y: point.x })
    /// });
    /// communicator.add_rpc_subscriber("mirror", mirror).await?;
    /// let mirrored: Point = communicator.call("mirror", &Point { x: 1, y: 2 }).await?;
    /// assert_eq!((mirrored.x, mirrored.y), (2, 1));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As awaiting an [`RpcSend`]; `Encode` and `Decode` when a value does not fit.
    pub async fn call<T: DeserializeOwned>(
        &self,
        recipient: impl IntoIdentifier,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T> {
        let body = Value::from_serialize(body)?;
        // Made before the wait, since the recipient need not be `Send`.
        let call = self.rpc_send(recipient, body);
        call.await?.deserialize()
    }

    /// Adds a subscriber to calls under a name, on the current home.
    ///
    /// # Errors
    /// `DuplicateSubscriberIdentifier` when the name is taken on this communicator; `InvalidArgument` for the name;
    /// `ConnectionLost`; `CommunicatorClosed`.
    pub async fn add_rpc_subscriber(
        &self,
        identifier: impl IntoIdentifier,
        subscriber: RpcSubscriber,
    ) -> Result<Identifier> {
        let identifier = identifier.into_identifier();
        self.add_rpc_subscriber_on(&Home::current(), identifier?, subscriber).await
    }

    /// The same on another home.
    ///
    /// # Errors
    /// As [`add_rpc_subscriber`](Self::add_rpc_subscriber).
    pub async fn add_rpc_subscriber_on(
        &self,
        home: &Home,
        identifier: Identifier,
        subscriber: RpcSubscriber,
    ) -> Result<Identifier> {
        let shared = self.shared();
        let (sink, calls) = mpsc::unbounded_channel();
        let inlet = rpc::Inlet { shared: shared.clone(), identifier: identifier.clone(), calls };
        let name = identifier.clone();
        shared.ask("an RPC subscriber", |done| Command::AddRpc { identifier: name, sink, done }).await?;
        home.spawn_uncounted(rpc::serve(home.clone(), subscriber.handler, inlet));
        Ok(identifier)
    }

    /// Takes a subscriber out. Calls that it has in hand go on to their end.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none of that name.
    pub async fn remove_rpc_subscriber(&self, identifier: impl IntoIdentifier) -> Result<()> {
        let identifier = identifier.into_identifier()?;
        let remove = |done| Command::RemoveRpc { identifier, done };
        self.shared().ask("removing an RPC subscriber", remove).await
    }

    /// The communicator bound to a home, as plumpy's `LoopCommunicator` is to a loop: every subscriber that is added through
    /// it runs there, whoever adds it.
    #[must_use]
    pub fn bound_to(&self, home: &Home) -> BoundCommunicator {
        BoundCommunicator { communicator: self.clone(), home: home.clone() }
    }

    /// A task for the default task queue.
    pub fn task_send(&self, task: impl Into<Value>) -> TaskSend {
        let queue = self.shared().names.task_queue.clone();
        let patience = Patience::For(self.shared().task_timeout);
        TaskSend { shared: self.shared_ref(), queue, body: task.into(), patience }
    }

    /// Adds a subscriber to tasks of the default queue, on the current home.
    ///
    /// # Errors
    /// See [`TaskQueue::add_task_subscriber`].
    pub async fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        self.default_task_queue()?.add_task_subscriber(subscriber).await
    }

    /// Takes a subscriber of the default queue out.
    ///
    /// # Errors
    /// See [`TaskQueue::remove_task_subscriber`].
    pub async fn remove_task_subscriber(&self, identifier: &Identifier) -> Result<()> {
        self.default_task_queue()?.remove_task_subscriber(identifier).await
    }

    /// A task queue of this name, on the communicator's task exchange. It is declared at its first use.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is empty or too long.
    pub fn task_queue(&self, name: impl AsRef<str>) -> Result<TaskQueue> {
        TaskQueue::new(self.shared_ref(), name.as_ref().into())
    }

    /// The default task queue.
    ///
    /// # Errors
    /// As [`task_queue`](Self::task_queue).
    pub fn default_task_queue(&self) -> Result<TaskQueue> {
        TaskQueue::new(self.shared_ref(), self.shared().names.task_queue.clone())
    }

    /// A broadcast to all who hear.
    pub fn broadcast_send(&self, body: impl Into<Value>) -> BroadcastSend {
        BroadcastSend {
            shared: self.shared_ref(),
            body: body.into(),
            sender: Value::Null,
            subject: Value::Null,
            correlation_id: Value::Null,
        }
    }

    /// Adds a subscriber to the broadcasts that pass a filter, on the current home.
    ///
    /// # Errors
    /// `ConnectionLost`; `CommunicatorClosed`.
    pub async fn add_broadcast_subscriber(
        &self,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        self.add_broadcast_subscriber_on(&Home::current(), Identifier::unique(), filter, subscriber).await
    }

    /// The same on another home and under a name of one's own.
    ///
    /// # Errors
    /// `DuplicateSubscriberIdentifier` too.
    pub async fn add_broadcast_subscriber_on(
        &self,
        home: &Home,
        identifier: Identifier,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        let shared = self.shared();
        let (sender, mailbox) = broadcast::channel(BROADCAST_BACKLOG);
        let sink = BroadcastSink { filter, mailbox: sender };
        let name = identifier.clone();
        shared.ask("a broadcast subscriber", |done| Command::AddBroadcast { identifier: name, sink, done }).await?;
        home.spawn_uncounted(broadcasts::serve(
            shared.clone(),
            home.clone(),
            identifier.clone(),
            subscriber.handler,
            mailbox,
        ));
        Ok(identifier)
    }

    /// Takes a subscriber out.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none of that name.
    pub async fn remove_broadcast_subscriber(&self, identifier: &Identifier) -> Result<()> {
        let identifier = identifier.clone();
        let remove = |done| Command::RemoveBroadcast { identifier, done };
        self.shared().ask("removing a broadcast subscriber", remove).await
    }

    /// What the broker says of itself: `product`, `version` and so on.
    #[must_use]
    pub fn server_properties(&self) -> Vec<(String, String)> {
        self.shared().server_properties.lock().clone()
    }

    /// What happens to the connection and to subscribers, from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        Events(self.shared().events.subscribe())
    }

    /// How things stand with the connection just now. [`events`](Self::events) says each change.
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        *self.shared().state.lock()
    }

    /// What was dropped by rule so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.shared().counters;
        // Ordering: Relaxed, for counters order nothing.
        Counts {
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

    /// True when it is closed, or its connection is lost.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared().report.get().is_some() || self.shared().lost.get().is_some()
    }

    /// Closes: new work is refused, what was sent before goes out, tasks in hand go back, callers that still wait get
    /// `communicator closed`, the connection ends and its threads are joined. Bounded by
    /// [`close_timeout`](Builder::close_timeout). May be called from anywhere, any number of times; each call gets the same
    /// report.
    ///
    /// # Errors
    /// As an async call: when the home that it is made at is ending.
    ///
    /// # Cancel safety
    /// Dropped, the communicator closes all the same.
    pub async fn close(&self) -> Result<CloseReport> {
        driver::close(self.shared()).await
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").field("broker", &self.shared().broker).finish_non_exhaustive()
    }
}
