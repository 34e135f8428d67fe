//! The threads of a communicator: each runs one future on a current-thread tokio runtime of its own.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use tokio::task::LocalSet;

/// A thread that runs one future.
#[derive(Debug)]
pub(crate) struct ThreadHandle(JoinHandle<()>);

/// Starts a thread that makes a future and runs it to its end. The future need not be `Send`.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub(crate) fn start<F: Future<Output = ()>>(
    name: String,
    make: impl FnOnce() -> F + Send + 'static,
) -> io::Result<ThreadHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name(name).spawn(move || {
        let local = LocalSet::new();
        local.block_on(&runtime, async move { make().await });
        drop(local);
        // A name look-up that hangs has a thread of this runtime; it is not waited for.
        runtime.shutdown_background();
    })?;
    Ok(ThreadHandle(thread))
}

impl ThreadHandle {
    /// True when the future has ended.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// True for the thread that calls this.
    pub(crate) fn is_current(&self) -> bool {
        self.0.thread().id() == thread::current().id()
    }

    /// Waits for the end of the thread. False when it panicked.
    pub(crate) fn join(self) -> bool {
        self.0.join().is_ok()
    }
}
