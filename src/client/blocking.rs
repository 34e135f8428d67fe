//! The same methods for plain threads and loops: each call waits, and everything else of the calling thread's home goes on
//! meanwhile.
//!
//! ```
//! use homing::blocking::Communicator;
//! use homing::{RpcRequest, RpcSubscriber};
//!
//! let server = Communicator::connect("memory:blocking-doc")?;
//! server.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body))?;
//!
//! let client = Communicator::connect("memory:blocking-doc")?;
//! assert_eq!(client.rpc_send("echo", "hello").wait()?.as_str(), Some("hello"));
//! client.close()?;
//! server.close()?;
//! # Ok::<(), homing::Error>(())
//! ```
//!
//! Subscribers run on a thread of the communicator's own, `homing-subscribers`, whatever the thread that added them does. That
//! thread runs one handler at a time; while a handler waits by this API, other handlers run on it, and so do async handlers while one of them awaits. For handlers that work side by side, or on a loop of yours, bind a handle to another home
//! ([`Communicator::bound_to`]). To serve on the calling thread, bind a handle to it and let it serve until a signal comes:
//!
//! ```
//! use homing::blocking::Communicator;
//! use homing::home::Home;
//! use homing::{RpcRequest, RpcSubscriber};
//!
//! let communicator = Communicator::connect("memory:serve-until-doc")?;
//! let here = communicator.bound_to(&Home::current());
//! here.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body))?;
//!
//! // In a program, the thread that waits for signals completes this.
//! let (stop, stopped) = Home::current().try_future::<()>().expect("a place");
//! let caller = std::thread::spawn({
//!     let communicator = communicator.clone();
//!     move || {
//!         let answer = communicator.rpc_send("echo", 1).wait();
//!         stop.complete(()).ok();
//!         answer
//!     }
//! });
//! here.serve_until(stopped)?.ok();
//! assert_eq!(caller.join().expect("no panic")?.as_i64(), Some(1));
//! communicator.drain(std::time::Duration::from_secs(10))?;
//! # Ok::<(), homing::Error>(())
//! ```
//!
//! In the context of a current-thread tokio runtime a wait would block the only thread that could end it, and is refused at
//! once; inside a [blocking subscriber](crate::Subscriber::blocking) it is allowed. On a worker of a multi-thread runtime the
//! worker's other tasks move away first.

use std::cell::RefCell;
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::home::lock::Mutex;
use futures_util::future::{Either, select};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    Body, BroadcastSend, CommunicatorBuilder, CommunicatorCounts, Reply, ReplyStage, RpcSend, TaskSend,
    TaskSendNoReply, Tasks,
};
use crate::codec::Value;
use crate::driver::command::{Closing, Command};
use crate::driver::port::home_ended;
use crate::driver::{CloseReport, ConnectionEvent, ConnectionState, Events};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{EventLoop, Home, LocalHome, WaitRefused};
use crate::serve::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, Broadcasts, IncomingTask, Lagged, RpcSubscriber, TaskSubscriber,
};
use crate::wire::names::{Identifier, IntoIdentifier};

thread_local! {
    /// What this thread waits for, the innermost last.
    static STANDING: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Waits for an async call on the calling thread. Meanwhile the other work of the thread's home goes on.
///
/// Nested waits end last in, first out. A wait that only an outer frame can end runs into its timeout, and its error names both.
///
/// # Errors
/// `WouldDeadlock` at once in the context of a current-thread tokio runtime, and where waits stand too deep within each
/// other; `HomeEnded` when it waits on an event loop that is stopped.
pub fn wait<T>(call: impl IntoFuture<Output = Result<T>>) -> Result<T> {
    wait_for("a call".to_owned(), call)
}

fn wait_for<T>(what: String, call: impl IntoFuture<Output = Result<T>>) -> Result<T> {
    wait_by(what, |home| home.block_on(call.into_future()))
}

/// Waits for the next item of a stream, which loses none when this gives up.
pub(crate) fn next_within<T>(what: &str, limit: Duration, next: impl Future<Output = Result<T>>) -> Result<T> {
    let timed_out = || Err(Error::new(ErrorKind::TimedOut, format!("no {what} came within {limit:?}")));
    wait_by(format!("a {what}"), |home| Ok(home.block_on_timeout(next, limit)?.unwrap_or_else(timed_out)))
}

fn wait_by<T>(what: String, wait: impl FnOnce(&LocalHome) -> std::result::Result<Result<T>, WaitRefused>) -> Result<T> {
    let within = STANDING.try_with(|standing| standing.borrow().last().cloned()).ok().flatten();
    let _standing = Standing::begin(what);
    let waited = wait(&LocalHome::of_this_thread()).unwrap_or_else(|refused| {
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
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use homing::blocking::Communicator;
/// use homing::{TaskRequest, TaskSubscriber};
///
/// let communicator = Communicator::connect("memory:")?;
/// let square = TaskSubscriber::closure(|task: TaskRequest| task.body().as_i64().unwrap_or(0).pow(2));
/// communicator.add_task_subscriber(square)?;
/// assert_eq!(communicator.task_send(7).timeout(Duration::from_secs(5)).wait()?.as_i64(), Some(49));
/// communicator.close()?;
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Communicator {
    inner: super::Communicator,
    background: Arc<Background>,
}

impl From<super::Communicator> for Communicator {
    fn from(inner: super::Communicator) -> Self {
        Communicator { inner, background: Arc::default() }
    }
}

/// The home of subscribers that are bound to no other: a thread, from the first of them until the communicator closes.
#[derive(Debug, Default)]
struct Background(Mutex<Loop>);

#[derive(Debug, Default)]
enum Loop {
    #[default]
    NotNeeded,
    Runs(EventLoop),
    Ended,
}

impl Background {
    fn home(&self) -> Result<Home> {
        let mut state = self.0.lock();
        if let Loop::NotNeeded = *state {
            *state = EventLoop::start("homing-subscribers").map(Loop::Runs).map_err(|error| {
                let text = format!("the thread for subscribers cannot be started: {error}");
                Error::with_source(ErrorKind::Internal, text, error)
            })?;
        }
        match &*state {
            Loop::Runs(event_loop) => Ok(event_loop.handle().home()),
            _ => Err(Error::new(ErrorKind::CommunicatorClosed, "the communicator is closed; connect a new one")),
        }
    }

    /// Ends the thread, and waits for it at most this long: a handler may block.
    fn end(&self, limit: Duration) {
        let Loop::Runs(event_loop) = std::mem::replace(&mut *self.0.lock(), Loop::Ended) else { return };
        let handle = event_loop.handle();
        handle.stop();
        if handle.home().is_here() {
            // A handler closes. Its thread ends when it returns.
            return drop(event_loop);
        }
        let (joined, wait) = mpsc::channel::<()>();
        let (hand, handed) = mpsc::channel::<EventLoop>();
        let join = crate::home::fork::spawn(std::thread::Builder::new().name("homing-join".to_owned()), move || {
            drop(handed.recv());
            drop(joined);
        });
        if join.is_err() {
            // Guards: a system that gives no thread. Dropped here, the loop would be waited for without a limit; its thread ends
            // all the same when it returns from its handler.
            return std::mem::forget(event_loop);
        }
        if hand.send(event_loop).is_ok()
            && wait.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout)
            && !limit.is_zero()
        {
            crate::log::warn!("a handler still runs on the thread homing-subscribers after the close");
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl CommunicatorBuilder {
    /// Connects and waits for it.
    ///
    /// # Errors
    /// As [`connect`](CommunicatorBuilder::connect).
    pub fn connect_blocking(self) -> Result<Communicator> {
        wait(self.connect()).map(Communicator::from)
    }
}

macro_rules! waits {
    ($($name:ty => $output:ty $(, $t:ident)?;)*) => {$(
        impl $(<$t: DeserializeOwned + 'static>)? $name {
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

waits!(RpcSend<T> => T, T; TaskSend<T> => T, T; TaskSendNoReply => (); BroadcastSend => (); Reply => Value;);

impl<T> RpcSend<T> {
    /// Sends it and waits until the broker has taken it over.
    ///
    /// # Errors
    /// As [`send`](RpcSend::send).
    pub fn send_blocking(self) -> Result<Reply> {
        wait_for(self.what(), self.send())
    }
}

impl<T> TaskSend<T> {
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
    pub fn stage_blocking(&mut self) -> Result<ReplyStage> {
        wait_for(self.what(), self.stage())
    }
}

impl Broadcasts {
    /// Waits for the next broadcast; `None` when the communicator has closed.
    ///
    /// # Errors
    /// `WouldDeadlock` where a wait cannot be.
    pub fn next_blocking(&mut self) -> Result<Option<std::result::Result<Broadcast, Lagged>>> {
        wait(async { Ok(self.next().await) })
    }

    /// The same for at most this long; with [`Duration::ZERO`] it takes what is there.
    ///
    /// ```
    /// use std::time::Duration;
    /// use homing::blocking::Communicator;
    /// use homing::{BroadcastFilter, ErrorKind};
    ///
    /// let communicator = Communicator::connect("memory:")?;
    /// let mut broadcasts = communicator.broadcasts(BroadcastFilter::new())?;
    /// communicator.broadcast_send("hello").wait()?;
    /// let hello = broadcasts.next_blocking_timeout(Duration::from_secs(10))?;
    /// assert!(hello.is_some_and(|hello| hello.is_ok()));
    /// let error = broadcasts.next_blocking_timeout(Duration::from_millis(10)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// communicator.close()?;
    /// # Ok::<(), homing::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TimedOut` when none came; `WouldDeadlock` where a wait cannot be.
    ///
    /// # Cancel safety
    /// No broadcast is lost when the time is up.
    pub fn next_blocking_timeout(&mut self, limit: Duration) -> Result<Option<std::result::Result<Broadcast, Lagged>>> {
        next_within("broadcast", limit, async { Ok(self.next().await) })
    }
}

impl Tasks {
    /// Waits for the next task, as long as it takes; `None` after an error.
    ///
    /// # Errors
    /// As [`next_task`](super::TaskQueue::next_task); `WouldDeadlock` where a wait cannot be.
    pub fn next_blocking(&mut self) -> Result<Option<IncomingTask>> {
        wait(async { self.next().await.transpose() })
    }

    /// The same for at most this long. To ask once, and to have no task kept for later, there is
    /// [`TaskQueue::next_task`](super::TaskQueue::next_task).
    ///
    /// ```
    /// use std::time::Duration;
    /// use homing::ErrorKind;
    /// use homing::blocking::Communicator;
    ///
    /// let communicator = Communicator::connect("memory:")?;
    /// let queue = communicator.task_queue("squares")?;
    /// let mut tasks = queue.tasks();
    /// let error = tasks.next_blocking_timeout(Duration::from_millis(10)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// queue.task_send(7).no_reply().wait()?;
    /// if let Some(task) = tasks.next_blocking_timeout(Duration::from_secs(10))? {
    ///     task.process(|task| task.body().as_i64().map(|number| number * number));
    /// }
    /// communicator.close()?;
    /// # Ok::<(), homing::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TimedOut` when none came; as [`next_task`](super::TaskQueue::next_task); `WouldDeadlock` where a wait cannot be.
    ///
    /// # Cancel safety
    /// No task is lost when the time is up: one that comes afterwards is the next, and goes back when the stream is dropped.
    pub fn next_blocking_timeout(&mut self, limit: Duration) -> Result<Option<IncomingTask>> {
        next_within("task", limit, async { self.next().await.transpose() })
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

    /// The same for at most this long; with [`Duration::ZERO`] it takes what is there.
    ///
    /// ```
    /// use std::time::Duration;
    /// use homing::blocking::Communicator;
    /// use homing::{ConnectionEvent, ErrorKind};
    ///
    /// let communicator = Communicator::connect("memory:")?;
    /// let mut events = communicator.events();
    /// let error = events.next_blocking_timeout(Duration::from_millis(10)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// communicator.close()?;
    /// let event = events.next_blocking_timeout(Duration::from_secs(10))?;
    /// assert!(matches!(event, Some(ConnectionEvent::Closed)));
    /// # Ok::<(), homing::Error>(())
    /// ```
    ///
    /// # Errors
    /// `TimedOut` when none came; `WouldDeadlock` where a wait cannot be.
    ///
    /// # Cancel safety
    /// No event is lost when the time is up.
    pub fn next_blocking_timeout(&mut self, limit: Duration) -> Result<Option<ConnectionEvent>> {
        next_within("event", limit, async { Ok(self.next().await) })
    }
}

impl Communicator {
    /// Connects with all defaults; see [`Communicator::connect`](super::Communicator::connect).
    ///
    /// # Errors
    /// As there.
    pub fn connect(url: &str) -> Result<Self> {
        CommunicatorBuilder::new(url).connect_blocking()
    }

    /// The options of a communicator, to be set before [`connect_blocking`](CommunicatorBuilder::connect_blocking).
    pub fn builder(url: &str) -> CommunicatorBuilder {
        CommunicatorBuilder::new(url)
    }

    /// The async handle to the same communicator.
    #[must_use]
    pub fn to_async(&self) -> super::Communicator {
        self.inner.clone()
    }

    /// A call; [`wait`](RpcSend::wait) for its outcome.
    pub fn rpc_send(&self, recipient: impl IntoIdentifier, body: impl Into<Body>) -> RpcSend {
        self.inner.rpc_send(recipient, body)
    }

    /// A call with types of your own; [`wait`](RpcSend::wait) for its outcome.
    pub fn call<T: DeserializeOwned>(
        &self,
        recipient: impl IntoIdentifier,
        body: &(impl Serialize + ?Sized),
    ) -> RpcSend<T> {
        self.inner.call(recipient, body)
    }

    /// A handle to the same communicator whose subscribers run on this home, on whatever thread they are added; see
    /// [`bound_to`](super::Communicator::bound_to). Those of a thread's home run while that thread waits for something, in
    /// [`serve_until`](Self::serve_until) for example.
    #[must_use]
    pub fn bound_to(&self, home: &Home) -> Self {
        Communicator { inner: self.inner.bound_to(home), background: Arc::clone(&self.background) }
    }

    /// The handle whose subscribers run where those of this one run.
    fn serving(&self) -> Result<super::Communicator> {
        self.inner.bound_or(|| self.background.home())
    }

    /// Where a subscriber runs that is added now: the home that this handle is bound to, or else the thread `homing-subscribers`, which
    /// the first subscriber that needs it starts.
    ///
    /// # Errors
    /// `CommunicatorClosed`; `Internal` when the system gives no thread.
    pub fn home(&self) -> Result<Home> {
        self.serving().map(|serving| serving.home())
    }

    /// Adds a subscriber to calls under a name.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_rpc_subscriber(&self, identifier: impl IntoIdentifier, subscriber: RpcSubscriber) -> Result<Identifier> {
        let identifier = identifier.into_identifier()?;
        wait(self.serving()?.add_rpc_subscriber(identifier, subscriber))
    }

    /// Removes a subscriber.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn remove_rpc_subscriber(&self, identifier: impl IntoIdentifier) -> Result<()> {
        wait(self.inner.remove_rpc_subscriber(identifier))
    }

    /// A task for the default queue; [`wait`](TaskSend::wait) for its outcome.
    pub fn task_send(&self, task: impl Into<Body>) -> TaskSend {
        self.inner.task_send(task)
    }

    /// The default task queue.
    ///
    /// # Errors
    /// As [`task_queue`](Self::task_queue).
    pub fn default_task_queue(&self) -> Result<TaskQueue> {
        self.inner.default_task_queue().map(|inner| TaskQueue { inner, background: Arc::clone(&self.background) })
    }

    /// A task queue of this name.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is empty or too long.
    pub fn task_queue(&self, name: impl AsRef<str>) -> Result<TaskQueue> {
        self.inner.task_queue(name).map(|inner| TaskQueue { inner, background: Arc::clone(&self.background) })
    }

    /// Adds a subscriber to tasks of the default queue.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        self.default_task_queue()?.add_task_subscriber(subscriber)
    }

    /// Removes a subscriber of the default queue.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn remove_task_subscriber(&self, identifier: &Identifier) -> Result<()> {
        self.default_task_queue()?.remove_task_subscriber(identifier)
    }

    /// A broadcast; [`wait`](BroadcastSend::wait) until the broker has taken it over.
    pub fn broadcast_send(&self, body: impl Into<Body>) -> BroadcastSend {
        self.inner.broadcast_send(body)
    }

    /// Adds a subscriber to the broadcasts that pass a filter.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_broadcast_subscriber(
        &self,
        filter: BroadcastFilter,
        subscriber: BroadcastSubscriber,
    ) -> Result<Identifier> {
        wait(self.serving()?.add_broadcast_subscriber(filter, subscriber))
    }

    /// The broadcasts that pass a filter; [`next_blocking`](Broadcasts::next_blocking) waits for the next,
    /// [`next_blocking_timeout`](Broadcasts::next_blocking_timeout) no longer than a limit.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn broadcasts(&self, filter: BroadcastFilter) -> Result<Broadcasts> {
        wait(self.inner.broadcasts(filter))
    }

    /// Removes a subscriber.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn remove_broadcast_subscriber(&self, identifier: &Identifier) -> Result<()> {
        wait(self.inner.remove_broadcast_subscriber(identifier))
    }

    /// Waits this long, while the calling thread's home goes on.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn sleep(&self, time: Duration) -> Result<()> {
        wait(self.inner.sleep(time))
    }

    /// The broker's properties.
    #[must_use]
    pub fn server_properties(&self) -> Vec<(String, String)> {
        self.inner.server_properties()
    }

    /// What happens to the connection and to subscribers, from now on; [`next_blocking`](Events::next_blocking) waits for the next,
    /// [`next_blocking_timeout`](Events::next_blocking_timeout) no longer than a limit.
    #[must_use]
    pub fn events(&self) -> Events {
        self.inner.events()
    }

    /// The state of the connection now. [`events`](Self::events) emits each change.
    #[must_use]
    pub fn connection_state(&self) -> ConnectionState {
        self.inner.connection_state()
    }

    /// Counts of what was dropped or repeated so far.
    #[must_use]
    pub fn counts(&self) -> CommunicatorCounts {
        self.inner.counts()
    }

    /// True when it is closed, or its connection is lost.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Runs the calling thread's home until a signal comes, which may be any future: subscribers that are bound to this home run on the
    /// thread. Returns the signal's value.
    ///
    /// # Errors
    /// `CommunicatorClosed` or `ConnectionLost` when the communicator ends first; `HomeEnded`; `WouldDeadlock` where a wait cannot
    /// be.
    pub fn serve_until<T>(&self, signal: impl IntoFuture<Output = T>) -> Result<T> {
        wait(async {
            let mut events = self.inner.events();
            let ended = async { while events.next().await.is_some() {} };
            let (signal, ended) = (pin!(signal.into_future()), pin!(ended));
            match select(signal, ended).await {
                Either::Left((value, _)) => Ok(value),
                Either::Right(_) => {
                    let port = self.inner.port();
                    Err(if port.has_ended() { port.gone() } else { home_ended("serving") })
                }
            }
        })
    }

    /// Closes; see [`close`](super::Communicator::close). The thread `homing-subscribers` ends too.
    ///
    /// # Errors
    /// `WouldDeadlock` where a wait cannot be; the communicator closes all the same.
    pub fn close(&self) -> Result<CloseReport> {
        self.ended(Duration::ZERO, wait(self.inner.close()))
    }

    /// Closes when the work under way has ended; see [`drain`](super::Communicator::drain).
    ///
    /// # Errors
    /// As [`close`](Self::close).
    pub fn drain(&self, limit: Duration) -> Result<CloseReport> {
        self.ended(limit, wait(self.inner.drain(limit)))
    }

    fn ended(&self, drain: Duration, closed: Result<CloseReport>) -> Result<CloseReport> {
        let port = self.inner.port();
        if closed.is_ok() {
            self.background.end(port.close_timeout);
        } else {
            // Guards: a wait that was refused before it had asked for anything.
            port.notify(Command::Close { how: Closing::Drain(drain), done: None });
            if drain.is_zero() {
                self.background.end(Duration::ZERO);
            }
        }
        closed
    }
}

/// A task queue whose calls wait.
#[derive(Clone, Debug)]
pub struct TaskQueue {
    inner: super::TaskQueue,
    background: Arc<Background>,
}

impl TaskQueue {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.inner.name()
    }

    /// A task for this queue; [`wait`](TaskSend::wait) for its outcome.
    pub fn task_send(&self, task: impl Into<Body>) -> TaskSend {
        self.inner.task_send(task)
    }

    /// Adds a subscriber. It runs where those of the queue's communicator run.
    ///
    /// # Errors
    /// As the async call of this name.
    pub fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        let serving = self.inner.bound_or(|| self.background.home())?;
        wait(serving.add_task_subscriber(subscriber))
    }

    /// Removes a subscriber.
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

    /// The tasks of this queue as they come; [`next_blocking`](Tasks::next_blocking) waits for the next,
    /// [`next_blocking_timeout`](Tasks::next_blocking_timeout) no longer than a limit.
    pub fn tasks(&self) -> Tasks {
        self.inner.tasks()
    }

    /// The tasks that are in the queue, one after the other, until it is empty. A task that is dropped without an outcome goes back,
    /// and comes again.
    ///
    /// # Errors
    /// An item is an error where a task could not be taken, as of [`try_next`](Self::try_next).
    pub fn iter(&self) -> impl Iterator<Item = Result<IncomingTask>> + '_ {
        std::iter::from_fn(move || match self.try_next() {
            Err(error) if error.kind() == ErrorKind::QueueEmpty => None,
            next => Some(next),
        })
    }
}
