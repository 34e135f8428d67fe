//! The same words for plain threads and loops: each call waits, and everything else of the calling thread's home goes on
//! meanwhile.
//!
//! ```
//! use homing::blocking::Communicator;
//! use homing::{RpcRequest, RpcSubscriber};
//!
//! let server = Communicator::connect("memory:blocking-doc")?;
//! let event_loop = homing::home::EventLoop::start("server").expect("a thread");
//! server.add_rpc_subscriber_on(
//!     &event_loop.handle().home(),
//!     "echo",
//!     RpcSubscriber::closure(|request: RpcRequest| request.into_body()),
//! )?;
//!
//! let client = Communicator::connect("memory:blocking-doc")?;
//! assert_eq!(client.rpc_send("echo", "hello").wait()?.as_str(), Some("hello"));
//! client.close()?;
//! server.close()?;
//! # Ok::<(), homing::Error>(())
//! ```
//!
//! In the context of a current-thread tokio runtime a wait would block the only thread that could end it, and says so at
//! once; inside a [blocking subscriber](crate::Subscriber::blocking) it is allowed. On a worker of a multi-thread runtime the
//! worker's other tasks move away first.

use std::cell::RefCell;
use std::future::IntoFuture;
use std::num::NonZeroU16;
use std::time::Duration;

use super::{BroadcastSend, Builder, Counts, Reply, RpcSend, Stage, TaskSend, TaskSendNoReply};
use crate::codec::Value;
use crate::driver::{CloseReport, ConnectionEvent, Events};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Home, LocalHome, WaitRefused};
use crate::serve::{BroadcastFilter, BroadcastSubscriber, IncomingTask, RpcSubscriber, TaskSubscriber};
use crate::wire::names::{Identifier, IntoIdentifier};
use serde::Serialize;
use serde::de::DeserializeOwned;

thread_local! {
    /// What this thread waits for, the innermost last.
    static STANDING: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Waits for an async call on the calling thread, whose home goes on meanwhile.
///
/// Waits within each other end last in, first out: one that only an outer frame can end runs into its deadline, and its
/// error names both.
///
/// # Errors
/// `WouldDeadlock` at once in the context of a current-thread tokio runtime, and where waits stand too deep within each
/// other; `HomeEnded` when it waits on an event loop that is stopped.
pub fn wait<T>(call: impl IntoFuture<Output = Result<T>>) -> Result<T> {
    wait_for("a call".to_owned(), call)
}

fn wait_for<T>(what: String, call: impl IntoFuture<Output = Result<T>>) -> Result<T> {
    let within = STANDING.try_with(|standing| standing.borrow().last().cloned()).ok().flatten();
    let _standing = Standing::begin(what);
    let waited = LocalHome::of_this_thread().block_on(call.into_future()).unwrap_or_else(|refused| {
        let kind = match refused {
            WaitRefused::Stopped => ErrorKind::HomeEnded,
            _ => ErrorKind::WouldDeadlock,
        };
        Err(Error::with_source(kind, refused.to_string(), refused))
    });
    match (waited, within) {
        (Err(error), Some(outer)) if error.kind() == ErrorKind::TimedOut => Err(Error::with_source(
            ErrorKind::TimedOut,
            format!(
                "{error}; it stood within the wait for {outer} on the same home, which could not go on before this one ended: \
                 if that is what this one waited for, answer with a future instead of waiting"
            ),
            error,
        )),
        (waited, _) => waited,
    }
}

/// One wait of this thread, while it stands.
struct Standing(());

impl Standing {
    fn begin(what: String) -> Self {
        // Guards: a wait in the destructor of a thread-local value, where a panic would abort the process. The list may be gone.
        let _ = STANDING.try_with(|standing| standing.borrow_mut().push(what));
        Standing(())
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        drop(STANDING.try_with(|standing| standing.borrow_mut().pop()));
    }
}

/// A handle to a communicator whose calls wait. Cheap to clone; good on any thread.
#[derive(Clone, Debug)]
pub struct Communicator {
    inner: super::Communicator,
}

impl From<super::Communicator> for Communicator {
    fn from(inner: super::Communicator) -> Self {
        Communicator { inner }
    }
}

impl Builder {
    /// Connects and waits for it.
    ///
    /// # Errors
    /// As [`connect`](Builder::connect).
    pub fn connect_blocking(self) -> Result<Communicator> {
        wait(self.connect()).map(Communicator::from)
    }
}

macro_rules! waits {
    ($($name:ident => $output:ty),*) => {$(
        impl $name {
            /// Sends it and waits for its end, while the calling thread's home goes on.
            ///
            /// # Errors
            /// As awaiting it; `WouldDeadlock` where a wait cannot be.
            pub fn wait(self) -> Result<$output> {
                wait_for(self.what(), self)
            }
        }
    )*};
}

waits!(RpcSend => Value, TaskSend => Value, TaskSendNoReply => (), BroadcastSend => (), Reply => Value);

impl RpcSend {
    /// Sends it and waits until the broker has taken it over.
    ///
    /// # Errors
    /// As [`send`](RpcSend::send).
    pub fn send_blocking(self) -> Result<Reply> {
        wait_for(self.what(), self.send())
    }
}

impl TaskSend {
    /// Sends it and waits until the broker has taken it over.
    ///
    /// # Errors
    /// As [`send`](TaskSend::send).
    pub fn send_blocking(self) -> Result<Reply> {
        wait_for(self.what(), self.send())
    }
}

impl Reply {
    /// Waits for the next stage.
    ///
    /// # Errors
    /// As [`stage`](Reply::stage).
    pub fn stage_blocking(&mut self) -> Result<Stage> {
        wait_for(self.what(), self.stage())
    }
}

impl Events {
    /// Waits for the next event; `None` when the communicator has closed.
    ///
    /// # Errors
    /// `WouldDeadlock` where a wait cannot be.
    pub fn next_blocking(&mut self) -> Result<Option<ConnectionEvent>> {
        wait(async { Ok(self.next().await) })
    }
}

impl Communicator {
    /// Connects with all defaults; see [`Communicator::connect`](super::Communicator::connect).
    ///
    /// # Errors
    /// As there.
    pub fn connect(url: &str) -> Result<Self> {
        Builder::new(url).connect_blocking()
    }

    /// The async handle to the same communicator.
    #[must_use]
    pub fn to_async(&self) -> super::Communicator {
        self.inner.clone()
    }

    /// A call; [`wait`](RpcSend::wait) for its outcome.
    pub fn rpc_send(&self, recipient: impl IntoIdentifier, body: impl Into<Value>) -> RpcSend {
        self.inner.rpc_send(recipient, body)
    }

    /// A call with types of one's own.
    ///
    /// # Errors
    /// As [`call`](super::Communicator::call).
    pub fn call<T: DeserializeOwned>(
        &self,
        recipient: impl IntoIdentifier,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T> {
        wait(self.inner.call(recipient, body))
    }

    /// Adds a subscriber on this thread's home: it runs while this thread waits for something.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_rpc_subscriber(&self, identifier: impl IntoIdentifier, subscriber: RpcSubscriber) -> Result<Identifier> {
        self.add_rpc_subscriber_on(&current(), identifier, subscriber)
    }

    /// Adds a subscriber on another home: an event loop's, say.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_rpc_subscriber_on(
        &self,
        home: &Home,
        identifier: impl IntoIdentifier,
        subscriber: RpcSubscriber,
    ) -> Result<Identifier> {
        wait(self.inner.add_rpc_subscriber_on(home, identifier.into_identifier()?, subscriber))
    }

    /// Takes a subscriber out.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn remove_rpc_subscriber(&self, identifier: impl IntoIdentifier) -> Result<()> {
        wait(self.inner.remove_rpc_subscriber(identifier))
    }

    /// A task for the default queue; [`wait`](TaskSend::wait) for its outcome.
    pub fn task_send(&self, task: impl Into<Value>) -> TaskSend {
        self.inner.task_send(task)
    }

    /// The default task queue.
    ///
    /// # Errors
    /// As [`task_queue`](Self::task_queue).
    pub fn default_task_queue(&self) -> Result<TaskQueue> {
        self.inner.default_task_queue().map(|inner| TaskQueue { inner })
    }

    /// A task queue of this name.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is empty or too long.
    pub fn task_queue(&self, name: impl AsRef<str>) -> Result<TaskQueue> {
        self.inner.task_queue(name).map(|inner| TaskQueue { inner })
    }

    /// Adds a subscriber to tasks of the default queue on this thread's home.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        self.default_task_queue()?.add_task_subscriber_on(&current(), Identifier::unique(), subscriber)
    }

    /// A broadcast; [`wait`](BroadcastSend::wait) until the broker has taken it over.
    pub fn broadcast_send(&self, body: impl Into<Value>) -> BroadcastSend {
        self.inner.broadcast_send(body)
    }

    /// Adds a subscriber to broadcasts on this thread's home.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_broadcast_subscriber(
        &self,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        self.add_broadcast_subscriber_on(&current(), filter, subscriber)
    }

    /// Adds a subscriber to broadcasts on another home.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_broadcast_subscriber_on(
        &self,
        home: &Home,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        wait(self.inner.add_broadcast_subscriber_on(home, Identifier::unique(), filter, subscriber))
    }

    /// Takes a subscriber out.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn remove_broadcast_subscriber(&self, identifier: &Identifier) -> Result<()> {
        wait(self.inner.remove_broadcast_subscriber(identifier))
    }

    /// What the broker says of itself.
    #[must_use]
    pub fn server_properties(&self) -> Vec<(String, String)> {
        self.inner.server_properties()
    }

    /// What happens to the connection and to subscribers, from now on.
    #[must_use]
    pub fn events(&self) -> Events {
        self.inner.events()
    }

    /// What was dropped by rule so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.inner.counts()
    }

    /// True when it is closed, or its connection is lost.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Closes; see [`close`](super::Communicator::close).
    ///
    /// # Errors
    /// `WouldDeadlock` where a wait cannot be; the communicator closes all the same.
    pub fn close(&self) -> Result<CloseReport> {
        wait(self.inner.close())
    }

    /// Closes when what is in hand has ended; see [`drain`](super::Communicator::drain).
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub fn drain(&self, limit: Duration) -> Result<CloseReport> {
        wait(self.inner.drain(limit))
    }
}

/// A task queue whose calls wait.
#[derive(Clone, Debug)]
pub struct TaskQueue {
    inner: super::TaskQueue,
}

impl TaskQueue {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// With another prefetch than the communicator's.
    #[must_use]
    pub fn prefetch(self, count: NonZeroU16) -> Self {
        TaskQueue { inner: self.inner.prefetch(count) }
    }

    /// A task for this queue; [`wait`](TaskSend::wait) for its outcome.
    pub fn task_send(&self, task: impl Into<Value>) -> TaskSend {
        self.inner.task_send(task)
    }

    /// Adds a subscriber on a home.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_task_subscriber_on(
        &self,
        home: &Home,
        identifier: Identifier,
        subscriber: TaskSubscriber,
    ) -> Result<Identifier> {
        wait(self.inner.add_task_subscriber_on(home, identifier, subscriber))
    }

    /// Takes a subscriber out.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn remove_task_subscriber(&self, identifier: &Identifier) -> Result<()> {
        wait(self.inner.remove_task_subscriber(identifier))
    }

    /// Takes a task out, if there is one.
    ///
    /// # Errors
    /// `QueueEmpty` when there is none.
    pub fn try_next(&self) -> Result<IncomingTask> {
        wait(self.inner.try_next())
    }

    /// Takes a task out, and waits this long for one to come.
    ///
    /// # Errors
    /// `QueueEmpty` when none came.
    pub fn next_task(&self, timeout: Duration) -> Result<IncomingTask> {
        wait(self.inner.next_task(timeout))
    }

    /// The tasks that are there, one after the other, until the queue is empty. Each that is dropped without an outcome
    /// goes back, and would be met again.
    pub fn iter(&self) -> impl Iterator<Item = Result<IncomingTask>> + '_ {
        std::iter::from_fn(move || match self.try_next() {
            Err(error) if error.kind() == ErrorKind::QueueEmpty => None,
            next => Some(next),
        })
    }
}

/// The home of this thread: a wait turns it, whatever runtime the thread may be in the context of.
fn current() -> Home {
    LocalHome::of_this_thread().home()
}
