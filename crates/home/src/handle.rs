//! A home as others see it: where to run something, and where to make a future.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

#[cfg(not(homing_loom))]
use tokio::runtime::Handle;

use super::envelope::Envelope;
use super::inbox::{Inbox, Permit};
use super::reserve::Expirer;
use super::{
    Completer, HomeFuture, LocalHome, Reservation, ReserveError, SpawnError, current, future, panics, reserve, runtime,
};

/// How full a home is; see [`Home::occupancy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// How many futures, calls and tasks are open.
    pub open: usize,
    /// How many may be.
    pub capacity: usize,
    /// How many envelopes wait in the inbox: what has arrived, and the home has not turned to.
    pub queued: usize,
    /// How often it has turned to its inbox so far. A home with something there that does not stands: what runs on it blocks, or
    /// waits for what it alone can bring.
    pub rounds: u64,
}

/// A handle to a home of any kind; cheap to clone, good on any thread.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_home::Home;
///
/// // A future of the home that this code runs on, and what completes it from anywhere.
/// let (completer, future) = Home::current().try_future::<u32>()?;
/// std::thread::spawn(move || completer.complete(7).ok());
/// assert_eq!(future.await?, 7);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Home {
    inbox: Arc<Inbox>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    #[cfg_attr(homing_loom, expect(dead_code, reason = "modelled runtimes are homes of their own"))]
    Runtime(runtime::Runtime),
    Local,
    #[cfg(all(feature = "simulation", not(homing_loom)))]
    Simulated(u64),
}

impl Home {
    pub(crate) fn local(inbox: Arc<Inbox>) -> Self {
        Home { inbox, kind: Kind::Local }
    }

    #[cfg(all(feature = "simulation", not(homing_loom)))]
    pub(crate) fn simulated(number: u64, inbox: Arc<Inbox>) -> Self {
        Home { inbox, kind: Kind::Simulated(number) }
    }

    /// A tokio runtime as a home.
    #[cfg(not(homing_loom))]
    #[must_use]
    pub fn of_runtime(runtime: &Handle) -> Self {
        Home { inbox: runtime::inbox_of(runtime), kind: Kind::Runtime(runtime.clone()) }
    }

    /// The home that the calling code is at: the loop or thread home that this thread turns or waits on now; else the tokio
    /// runtime whose context it is in; else the home of the plain thread.
    #[must_use]
    pub fn current() -> Self {
        if let Some(home) = current::entered() {
            return Self::local(Arc::clone(home.inbox()));
        }
        #[cfg(all(feature = "simulation", not(homing_loom)))]
        if let Some(home) = super::simulated::home_here() {
            return home;
        }
        #[cfg(not(homing_loom))]
        if let Ok(runtime) = Handle::try_current() {
            return Self::of_runtime(&runtime);
        }
        Self::local(Arc::clone(LocalHome::of_this_thread().inbox()))
    }

    /// True when the calling code is at this home.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.inbox.identity().is_here()
    }

    #[cfg(any(test, feature = "audit"))]
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// True when this home is a tokio runtime.
    #[must_use]
    pub fn is_runtime(&self) -> bool {
        !matches!(self.kind, Kind::Local)
    }

    /// Changes how many futures, calls and tasks may be open here at once ([`DEFAULT_CAPACITY`](super::DEFAULT_CAPACITY) to
    /// begin with). What is open stays open, though it be more.
    pub fn set_capacity(&self, capacity: usize) {
        self.inbox.set_capacity(capacity);
    }

    /// How much is open and waits here just now.
    #[must_use]
    pub fn occupancy(&self) -> Occupancy {
        let (open, capacity) = self.inbox.open();
        let (queued, rounds) = self.inbox.queued();
        Occupancy { open, capacity, queued, rounds }
    }

    /// True when both are handles to one home.
    #[must_use]
    pub fn is_same(&self, other: &Home) -> bool {
        Arc::ptr_eq(&self.inbox, &other.inbox)
    }

    /// True when this home has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.inbox.is_closed()
    }

    /// A future of this home and its completer. Waits, at this home, while as many are open as may be: for ever, where nothing
    /// ends. [`reserve`](Self::reserve) is the same with an end from outside.
    ///
    /// # Errors
    /// [`ReserveError::Ended`] when the home has ended; [`ReserveError::WrongHome`] when this is polled away from it.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), ReserveError> {
        self.reserve().0.await
    }

    /// A wait for a future of this home, in the order of these calls, and what ends that wait from any thread.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use homing_home::Home;
    ///
    /// let (reservation, expirer) = Home::current().reserve::<u32>();
    /// // A timer of another thread.
    /// std::thread::spawn(move || expirer.expire());
    /// // There was a permit at once, so that there is no wait to end.
    /// let (completer, future) = reservation.await?;
    /// completer.complete(42)?;
    /// assert_eq!(future.await, Ok(42));
    /// # Ok(()) }
    /// ```
    pub fn reserve<T: Send + 'static>(&self) -> (Reservation<T>, Expirer) {
        reserve::reserve(&self.inbox)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// [`ReserveError::Full`] when as many futures, calls and tasks are open here as may be, or others wait;
    /// [`ReserveError::Ended`] when the home has ended.
    pub fn try_future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), ReserveError> {
        Ok(future::pair(self.inbox.try_reserve()?))
    }

    /// Runs a task on this home, where it counts as open until it has ended. A task on a home that ends meanwhile is dropped.
    ///
    /// # Errors
    /// The task, with [`ReserveError::Full`] when the home has as much open as it may have, or [`ReserveError::Ended`].
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) -> Result<(), SpawnError<F>> {
        match self.inbox.try_reserve() {
            Ok(permit) => self.start(task, Some(permit)).map_err(|task| SpawnError::new(ReserveError::Ended, task)),
            Err(error) => Err(SpawnError::new(error, task)),
        }
    }

    /// Runs a task on this home without counting it; on a home that has ended it is dropped at once. For what answers a
    /// delivery or a future, and is as bounded as those are: a full home is to be able to answer.
    #[doc(hidden)]
    pub fn spawn_uncounted(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.start(task, None));
    }

    fn start<F: Future<Output = ()> + Send + 'static>(&self, task: F, permit: Option<Permit>) -> Result<(), F> {
        match &self.kind {
            Kind::Runtime(runtime) => {
                if self.inbox.is_closed() {
                    return Err(task);
                }
                drop(runtime.spawn(async move {
                    let _permit = permit;
                    task.await;
                }));
                Ok(())
            }
            #[cfg(all(feature = "simulation", not(homing_loom)))]
            Kind::Simulated(number) => {
                if self.inbox.is_closed() {
                    return Err(task);
                }
                super::simulated::spawn(*number, async move {
                    let _permit = permit;
                    task.await;
                });
                Ok(())
            }
            Kind::Local => {
                // Guards: a thread that has two homes, its loop's and its own. Its own is the current one while the loop is
                // not turned, and the task is not for that.
                if self.is_here() {
                    let current = LocalHome::of_this_thread();
                    if Arc::ptr_eq(current.inbox(), &self.inbox) {
                        current.start(task, permit);
                        return Ok(());
                    }
                }
                let run =
                    |(task, permit)| Envelope::Run(Box::new(move || LocalHome::of_this_thread().start(task, permit)));
                self.inbox.post_as((task, permit), run).map_err(|(task, _)| task)
            }
        }
    }

    /// Calls something that may block: on a runtime, on one of its threads for that; elsewhere on the home's own thread,
    /// which is there to be blocked. It is not counted: whoever calls has a future for it.
    ///
    /// # Errors
    /// What the runtime says where the system gives it no thread. The call is dropped then.
    #[doc(hidden)]
    pub fn spawn_blocking(&self, call: impl FnOnce() + Send + 'static) -> Result<(), String> {
        match &self.kind {
            Kind::Runtime(runtime) => {
                // Guards: tokio, which panics without a thread.
                return panics::caught(|| drop(runtime.spawn_blocking(call)));
            }
            Kind::Local => self.spawn_uncounted(async move { call() }),
            #[cfg(all(feature = "simulation", not(homing_loom)))]
            Kind::Simulated(_) => self.spawn_uncounted(async move { call() }),
        }
        Ok(())
    }
}

impl LocalHome {
    /// A handle to this home, for any thread.
    #[must_use]
    pub fn home(&self) -> Home {
        Home::local(Arc::clone(self.inbox()))
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("identity", &self.inbox.identity()).finish_non_exhaustive()
    }
}
