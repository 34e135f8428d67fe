//! Which home the calling thread is at, so that a call finds the home of its future by itself.

#[cfg(not(homing_loom))]
use std::cell::Cell;
use std::cell::RefCell;

use super::LocalHome;

#[cfg(not(homing_loom))]
thread_local! {
    /// The homes that this thread turns or waits on now, the innermost last.
    static ENTERED: RefCell<Vec<LocalHome>> = const { RefCell::new(Vec::new()) };
    /// The home of this thread itself, made when it is first asked for.
    static OF_THREAD: OfThread = OfThread(LocalHome::plain(super::DEFAULT_CAPACITY));
    /// Whether it was reported that a future is awaited here where nothing turns this thread's home.
    static REPORTED: Cell<bool> = const { Cell::new(false) };
}

#[cfg(homing_loom)]
super::sync::engine::thread_local! {
    static ENTERED: RefCell<Vec<LocalHome>> = RefCell::new(Vec::new());
}

/// Ends the home with its thread.
#[cfg(not(homing_loom))]
struct OfThread(LocalHome);

#[cfg(not(homing_loom))]
impl Drop for OfThread {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(not(homing_loom))]
fn of_thread() -> Option<LocalHome> {
    OF_THREAD.try_with(|home| home.0.clone()).ok()
}

/// A modelled thread is a home where the model makes it one.
#[cfg(homing_loom)]
fn of_thread() -> Option<LocalHome> {
    None
}

/// While it lives, the thread is at this home.
pub(crate) struct Entered(());

pub(crate) fn enter(home: &LocalHome) -> Entered {
    // Guards: a thread that ends, in a destructor of its thread-local state. It has no list any more, and needs none.
    let _ = ENTERED.try_with(|entered| entered.borrow_mut().push(home.clone()));
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        let home = ENTERED.try_with(|entered| entered.borrow_mut().pop());
        drop(home);
    }
}

/// The local home that this thread is at now, if it is at one.
pub(crate) fn entered() -> Option<LocalHome> {
    // A thread that ends has no list any more; what is dropped then is at no home.
    ENTERED.try_with(|entered| entered.borrow().last().cloned()).ok().flatten()
}

/// Reports, once a thread, that a future of this plain thread is awaited by an executor of others: what ends it comes to the
/// thread's home, which nothing turns.
#[cfg(not(homing_loom))]
pub(crate) fn report_unturned() {
    let is_entered = ENTERED.try_with(|entered| !entered.borrow().is_empty()).unwrap_or(true);
    if is_entered || REPORTED.try_with(|reported| reported.replace(true)).unwrap_or(true) {
        return;
    }
    super::panics::guarded(|| {
        tracing::warn!(
            "a future is awaited on a plain thread by an executor that does not turn the thread's home, so that nothing ends it: \
             await it inside of a tokio runtime, or wait for it by `homing::blocking::wait`"
        );
    });
}

impl LocalHome {
    /// The home of the calling thread: that of the event loop or foreign loop which it turns, else one of the thread's
    /// own, made at the first call and ended with the thread. To the destructors of thread-local values it may have ended
    /// already.
    #[must_use]
    pub fn of_this_thread() -> Self {
        entered().or_else(of_thread).unwrap_or_else(LocalHome::ended)
    }
}

/// A future of the calling thread and its completer, for any other thread.
///
/// # Errors
/// [`ReserveError`](super::ReserveError) when as many futures are open here as may be, or the thread is about to end.
pub fn thread_future<T: Send + 'static>() -> Result<(super::Completer<T>, super::LocalFuture<T>), super::ReserveError> {
    LocalHome::of_this_thread().future()
}
