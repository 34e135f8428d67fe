//! Whether the calling thread may wait here, and what has to happen before it does.
//!
//! A thread that no runtime drives may always wait: its home goes on meanwhile. A thread that drives a current-thread tokio
//! runtime may not, since that runtime cannot be entered twice and whatever ends the wait may be one of its tasks: it is
//! refused at once. A worker of a multi-thread runtime may, after its other tasks have moved to another thread, of which a
//! runtime has no endless supply.

use std::fmt;

/// How deep waits may stand within each other on one home before the next one is refused.
pub const MAX_DEPTH: usize = 1000;

/// How many bytes of stack may lie between the outermost wait of a home and the next one before that is refused. On a thread
/// with less it is refused while 128 KiB are left; where the system does not report what is left, from 128 KiB on. An
/// [`EventLoop`](super::EventLoop) brings a larger stack and has [`EVENT_LOOP_STACK`].
pub const MAX_STACK: usize = 1 << 20;

/// The same for an event loop, whose thread has a stack of 16 MiB (of which the system gives what is used).
pub const EVENT_LOOP_STACK: usize = 12 << 20;

/// How many workers of one multi-thread tokio runtime may stand in waits at once. Each has another thread of the runtime
/// work in its place; a runtime has 512 of these unless its builder sets another number, and blocking subscribers need some too.
pub const MAX_WAITING_WORKERS: usize = 256;

/// Why a wait was not begun, or not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitRefused {
    /// [`MAX_DEPTH`] waits stand within each other on this home, or as many as its stack holds.
    TooDeep,
    /// Waiting here would block the only thread that could end the wait.
    WouldDeadlock,
    /// [`MAX_WAITING_WORKERS`] workers of this runtime wait already.
    TooManyWorkers,
    /// The loop that waits was stopped.
    Stopped,
    /// The home has ended, and nothing of it goes on.
    HomeEnded,
}

impl fmt::Display for WaitRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitRefused::TooDeep => f.write_str(
                "waiting here would deadlock or run out of stack: too many waits stand within each other on this home; \
                 answer with a future instead of waiting for it",
            ),
            WaitRefused::WouldDeadlock => f.write_str(
                "waiting here would deadlock: this thread drives a current-thread tokio runtime, and nothing of it could go \
                 on; use the async API, or a subscriber made with `Subscriber::blocking`",
            ),
            WaitRefused::TooManyWorkers => write!(
                f,
                "waiting here would deadlock: {MAX_WAITING_WORKERS} workers of this tokio runtime wait already, and it runs \
                 out of threads; use the async API"
            ),
            WaitRefused::Stopped => f.write_str("the loop was stopped while it waited"),
            WaitRefused::HomeEnded => f.write_str("the home has ended; a wait on it would not end"),
        }
    }
}

impl std::error::Error for WaitRefused {}

impl From<WaitRefused> for super::End {
    fn from(refused: WaitRefused) -> Self {
        match refused {
            WaitRefused::TooDeep => super::End::TooDeep,
            WaitRefused::WouldDeadlock | WaitRefused::TooManyWorkers => super::End::WouldDeadlock,
            WaitRefused::Stopped | WaitRefused::HomeEnded => super::End::HomeEnded,
        }
    }
}

#[cfg(homing_loom)]
pub(crate) fn admitted<T>(run: impl FnOnce() -> Result<T, WaitRefused>) -> Result<T, WaitRefused> {
    run()
}

#[cfg(not(homing_loom))]
pub(crate) use on_runtimes::admitted;
#[cfg(all(test, not(homing_loom)))]
pub(crate) use on_runtimes::waiting;
#[cfg(not(homing_loom))]
pub use on_runtimes::{Allowed, allow};

#[cfg(not(homing_loom))]
mod on_runtimes {
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::future::Future;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::{Context, Wake, Waker};

    use tokio::runtime::{Handle, Id, RuntimeFlavor};

    use super::{MAX_WAITING_WORKERS, WaitRefused};
    use crate::by_process::ByProcess;
    use crate::drain;
    use crate::lock::Mutex;

    thread_local! {
        /// Set while this thread is one that a runtime keeps for blocking.
        static MAY_BLOCK: Cell<bool> = const { Cell::new(false) };
    }

    /// How many workers wait, of each runtime where some do.
    static WAITING: ByProcess<Mutex<HashMap<Id, usize>>> = ByProcess::new();

    /// While it lives, this thread may wait although it is in the context of a current-thread runtime.
    #[derive(Debug)]
    pub struct Allowed(bool);

    /// For a library that runs the blocking code of its users on a thread which a runtime keeps for that.
    #[must_use = "it counts while it lives"]
    pub fn allow() -> Allowed {
        Allowed(MAY_BLOCK.replace(true))
    }

    impl Drop for Allowed {
        fn drop(&mut self) {
            MAY_BLOCK.set(self.0);
        }
    }

    /// Runs a wait where this thread may wait.
    pub(crate) fn admitted<T>(run: impl FnOnce() -> Result<T, WaitRefused>) -> Result<T, WaitRefused> {
        let Ok(runtime) = Handle::try_current() else { return run() };
        match runtime.runtime_flavor() {
            RuntimeFlavor::MultiThread => {
                let _counted = Worker::counted(runtime.id())?;
                let mut run = Some(run);
                let waited = catch_unwind(AssertUnwindSafe(|| tokio::task::block_in_place(|| run.take().map(begin))));
                match waited {
                    Ok(Some(waited)) => waited,
                    Ok(None) => Err(WaitRefused::WouldDeadlock),
                    // tokio refused (a `LocalSet`, say, whose tasks cannot move away), before anything was begun.
                    Err(_) if run.is_some() => Err(WaitRefused::WouldDeadlock),
                    Err(panic) => resume_unwind(panic),
                }
            }
            _ if MAY_BLOCK.get() => run(),
            _ => Err(WaitRefused::WouldDeadlock),
        }
    }

    /// Guards: a wait within a done-callback. The drain task of this runtime stands on this thread; another one goes on.
    fn begin<T>(run: impl FnOnce() -> Result<T, WaitRefused>) -> Result<T, WaitRefused> {
        drain::relieve();
        run()
    }

    /// How many workers of this runtime are counted as waiting.
    #[cfg(test)]
    pub(crate) fn waiting(runtime: &Handle) -> usize {
        WAITING.here().lock().get(&runtime.id()).copied().unwrap_or(0)
    }

    /// True where a wait here has the runtime find another thread: on one of its workers that has not given its place away
    /// already. Not on a thread of `spawn_blocking`, nor on one that only entered the runtime's context.
    fn takes_a_thread() -> bool {
        struct Woken(AtomicBool);

        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Relaxed);
            }
        }

        // There is no question for it. But who yields is woken by a worker when that has done its other work, and at once where
        // there is no worker.
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        let yields = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker)).is_pending();
        yields && !woken.0.load(Relaxed)
    }

    /// A worker that stands in a wait, counted once however deep it waits.
    struct Worker(Option<Id>);

    impl Worker {
        fn counted(runtime: Id) -> Result<Self, WaitRefused> {
            if !takes_a_thread() {
                return Ok(Worker(None));
            }
            let mut waiting = WAITING.here().lock();
            let count = waiting.entry(runtime).or_insert(0);
            if *count >= MAX_WAITING_WORKERS {
                return Err(WaitRefused::TooManyWorkers);
            }
            *count += 1;
            Ok(Worker(Some(runtime)))
        }
    }

    impl Drop for Worker {
        fn drop(&mut self) {
            let Some(runtime) = self.0 else { return };
            let mut waiting = WAITING.here().lock();
            if let Some(count) = waiting.get_mut(&runtime) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(&runtime);
                }
            }
        }
    }
}
