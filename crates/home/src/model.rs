//! What the loom models need of this floor beyond its public side: runtimes and foreign loops that loom can see, small
//! inboxes, and panics that tell a model's own from a failure of the model.

use std::any::Any;
use std::cell::Cell as StdCell;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use super::drain::Drain;
use super::identity::Identity;
use super::inbox::{Bell, Inbox};
use super::sync::Condvar;
use super::{Completer, Deadline, Expirer, HomeFuture, LocalHome, Reservation, ReserveError, future, reserve};

super::sync::engine::thread_local! {
    /// The modelled runtime in whose context this thread is, as tokio keeps its own.
    static RUNTIME: StdCell<Option<usize>> = StdCell::new(None);
}

pub(crate) fn entered_runtime() -> Option<usize> {
    RUNTIME.with(StdCell::get)
}

/// What a handle to a home has for a runtime: none. The homes of modelled runtimes are [`RuntimeHome`]s.
#[derive(Clone, Debug)]
pub(crate) struct NoRuntime(());

impl NoRuntime {
    pub(crate) fn spawn<F>(&self, _task: F) -> Self {
        unreachable!("no handle has one")
    }

    pub(crate) fn spawn_blocking<F>(&self, _call: F) -> Self {
        unreachable!("no handle has one")
    }
}

/// What a model panics with on purpose, so that homes treat it as they treat any panic of user code.
#[derive(Debug)]
pub struct OnPurpose;

/// Any other panic is a failure of the model (a failed assertion, loom's report of a deadlock): it goes on, through the
/// very places that catch the panics of user code.
pub(crate) fn on_purpose(panic: Box<dyn Any + Send>) -> Box<dyn Any + Send> {
    if panic.is::<OnPurpose>() { panic } else { resume_unwind(panic) }
}

/// A runtime as a home, for those of its threads that do not run its drain task.
#[derive(Clone, Debug)]
pub struct RuntimeHome {
    inbox: Arc<Inbox>,
    id: usize,
}

/// The drain task of a modelled runtime; the home ends when it is dropped. One thread of the runtime polls it.
pub struct DrainTask(Drain);

impl std::fmt::Debug for DrainTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DrainTask")
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

/// A runtime with so many permits, and its drain task. Its threads are those that [enter](RuntimeHome::enter) it.
#[must_use]
pub fn runtime(capacity: usize) -> (RuntimeHome, DrainTask) {
    runtime_with(capacity, |_| panic!("nothing waits within an envelope here"))
}

/// The same, where what it handles may wait: `spawn` is given the drain task that takes over then.
#[must_use]
pub fn runtime_with(capacity: usize, spawn: impl Fn(DrainTask) + Send + Sync + 'static) -> (RuntimeHome, DrainTask) {
    let id = next_id();
    let inbox = Inbox::new(Identity::Runtime(id), Bell::Task, capacity);
    let drain = DrainTask(Drain::new(Arc::clone(&inbox), Arc::new(move |drain| spawn(DrainTask(drain)))));
    (RuntimeHome { inbox, id }, drain)
}

fn next_id() -> usize {
    // Not loom's: it makes names, and its order shows in nothing.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What a wait of the library does on a worker before it begins: where it is within an envelope, another drain task takes over.
pub fn relieve() {
    super::drain::relieve();
}

/// The homes of several runtimes, as the library keeps them.
pub struct Registry(super::runtime::Registry<usize>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry(super::runtime::Registry::default())
    }
}

impl Registry {
    /// The home of this runtime; `spawn` is given its drain task where it is made.
    pub fn home_of(&self, id: usize, spawn: impl Fn(DrainTask) + Send + Sync + 'static) -> RuntimeHome {
        let spawn = || Arc::new(move |drain| spawn(DrainTask(drain))) as super::drain::Spawn;
        RuntimeHome { inbox: self.0.find_or_make(id, Identity::Runtime(id), 1, spawn), id }
    }

    /// How many runtimes are known, and how many of their homes live.
    #[must_use]
    pub fn known(&self) -> (usize, usize) {
        self.0.known()
    }
}

impl RuntimeHome {
    /// Makes the calling thread one of this runtime's.
    pub fn enter(&self) {
        RUNTIME.with(|runtime| runtime.set(Some(self.id)));
    }

    /// True on the threads of this runtime.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.inbox.identity().is_here()
    }

    /// A completer and its future.
    ///
    /// # Errors
    /// [`ReserveError`] when all permits are taken, or the home has ended.
    pub fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), ReserveError> {
        Ok(future::pair(self.inbox.try_reserve()?))
    }

    /// The same, waiting for a permit.
    pub fn reserve<T: Send + 'static>(&self) -> (Reservation<T>, Expirer) {
        reserve::reserve(&self.inbox)
    }
}

impl PartialEq for RuntimeHome {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inbox, &other.inbox)
    }
}

impl DrainTask {
    /// Polls the drain task once.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Makes the calling thread a foreign loop, which is rung by this hook.
#[must_use]
pub fn foreign_loop(hook: impl Fn() + Send + Sync + 'static, capacity: usize) -> LocalHome {
    LocalHome::new(Bell::Hook { hook: Box::new(hook), waiting: Condvar::default() }, capacity)
}

/// A bounded turn of a foreign loop, which rings once more when it leaves something.
pub fn turn_and_ring_again(home: &LocalHome, limit: usize) -> usize {
    let handled = home.turn(limit);
    if home.has_left() {
        home.inbox().ring_again();
    }
    handled
}

/// A wait for a permit of a home that is a thread.
pub fn reserve<T: Send + 'static>(home: &LocalHome) -> (Reservation<T>, Expirer) {
    reserve::reserve(home.inbox())
}

/// Ends a home that is a thread, on that thread.
pub fn end(home: &LocalHome) {
    home.end();
}

/// What ends this future as timed out, for a modelled timer.
#[must_use]
pub fn deadline<T: Send + 'static>(future: &HomeFuture<T>) -> Option<Deadline> {
    future.deadline()
}
