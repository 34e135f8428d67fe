//! The facade through which this floor reaches locks, condition variables, flags and thread identities, so that loom runs
//! the very code that ships (`--cfg homing_loom`; see `loom-tests`). With `--cfg homing_shuttle` beside it, the modelled
//! build stands on shuttle instead, for models that are too large for loom.
//!
//! Wakers are `std::task::Waker` in both builds: the models bring wakers of their own that loom watches.

#[cfg(not(homing_loom))]
mod shipped {
    use std::cell::Cell;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use std::sync::mpsc;
    pub(crate) use std::thread::{JoinHandle, ThreadId};

    pub(crate) use crate::lock::{Condvar, Mutex};

    /// Starts a thread of this name, with a stack of so many bytes.
    pub(crate) fn start_thread(
        name: String,
        stack: usize,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        // The standard library panics at a name with a NUL in it.
        let name = if name.contains('\0') { name.replace('\0', "\u{fffd}") } else { name };
        crate::fork::spawn(std::thread::Builder::new().name(name).stack_size(stack), run)
    }

    thread_local! {
        /// Guards: a question in a destructor of thread-local state, when the thread's own handle may be gone. This has none.
        static THIS_THREAD: Cell<Option<ThreadId>> = const { Cell::new(None) };
    }

    pub(crate) fn this_thread() -> ThreadId {
        THIS_THREAD.get().unwrap_or_else(|| {
            let id = std::thread::current().id();
            THIS_THREAD.set(Some(id));
            id
        })
    }
}

#[cfg(homing_loom)]
mod modelled {
    #[cfg(not(homing_shuttle))]
    pub(crate) use loom as engine;
    #[cfg(homing_shuttle)]
    pub(crate) use shuttle as engine;

    pub(crate) use engine::sync::MutexGuard;
    pub(crate) use engine::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(crate) use engine::sync::mpsc;
    pub(crate) use engine::thread::{JoinHandle, ThreadId};
    use std::sync::PoisonError;
    use std::time::Instant;

    pub(crate) fn this_thread() -> ThreadId {
        engine::thread::current().id()
    }

    #[expect(clippy::unnecessary_wraps, reason = "as the shipped one, which the system may refuse")]
    pub(crate) fn start_thread(
        _name: String,
        _stack: usize,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        Ok(engine::thread::spawn(run))
    }

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(engine::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(engine::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Condvar(engine::sync::Condvar);

    impl Condvar {
        pub(crate) fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Neither engine has timed waits: deadlines come as envelopes from a modelled timer, and a wait ends by them.
        pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>, _until: Option<Instant>) -> MutexGuard<'a, T> {
            self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(homing_loom)]
pub(crate) use modelled::*;
#[cfg(not(homing_loom))]
pub(crate) use shipped::*;
