//! The threads of a communicator: each runs one future on a current-thread tokio runtime of its own.

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};

use tokio::task::LocalSet;

/// A thread that runs one future.
#[derive(Debug)]
pub(crate) struct ThreadHandle(Kind);

#[derive(Debug)]
enum Kind {
    Thread(JoinHandle<()>),
    #[cfg(test)]
    Simulated(crate::simulation::executor::Group),
}

/// Starts a thread that makes a future and runs it to its end. The future need not be `Send`.
///
/// # Errors
/// When the system gives no thread or no runtime.
pub(crate) fn start<F: Future<Output = ()> + 'static>(
    name: String,
    make: impl FnOnce() -> F + Send + 'static,
) -> io::Result<ThreadHandle> {
    #[cfg(test)]
    if let Some(simulation) = crate::simulation::executor::current() {
        return Ok(ThreadHandle(Kind::Simulated(simulation.start_thread(&name, make))));
    }
    // The standard library panics at a name with a NUL in it.
    let name = if name.contains('\0') { name.replace('\0', "\u{fffd}") } else { name };
    start_as(thread::Builder::new().name(name), make)
}

fn start_as<F: Future<Output = ()> + 'static>(
    thread: thread::Builder,
    make: impl FnOnce() -> F + Send + 'static,
) -> io::Result<ThreadHandle> {
    let runtime = OwnRuntime(Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
    let thread = crate::home::fork::spawn(thread, move || {
        let runtime = runtime;
        let Some(runtime) = &runtime.0 else { return };
        let local = LocalSet::new();
        local.block_on(runtime, async move { make().await });
    })?;
    Ok(ThreadHandle(Kind::Thread(thread)))
}

/// The runtime of a thread. A name look-up that hangs has a thread of this runtime; it is not waited for.
// Guards: a system that gives no thread. The runtime is dropped where the thread was asked for, by a task of another runtime, in
// which tokio panics at a drop that may wait.
struct OwnRuntime(Option<tokio::runtime::Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl ThreadHandle {
    /// True when the future has ended.
    pub(crate) fn is_finished(&self) -> bool {
        match &self.0 {
            Kind::Thread(thread) => thread.is_finished(),
            #[cfg(test)]
            Kind::Simulated(group) => group.is_over(),
        }
    }

    /// True for the thread that calls this.
    pub(crate) fn is_current(&self) -> bool {
        match &self.0 {
            Kind::Thread(thread) => thread.thread().id() == thread::current().id(),
            #[cfg(test)]
            Kind::Simulated(group) => group.is_here(),
        }
    }

    /// Waits for the end of the thread. False when it panicked.
    ///
    /// A simulated thread is not waited for: whoever asks knows that nothing is left for it to do but return.
    pub(crate) fn join(self) -> bool {
        match self.0 {
            Kind::Thread(thread) => thread.join().is_ok(),
            #[cfg(test)]
            Kind::Simulated(group) => !group.has_panicked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_system_that_gives_no_thread_is_an_error_and_no_panic() {
        let too_large = thread::Builder::new().stack_size(1 << 50);
        assert!(start_as(too_large, || async {}).is_err());
    }

    #[test]
    fn a_name_that_no_thread_can_have_is_replaced() {
        let thread = start("a\0b".to_owned(), || async {
            assert_eq!(thread::current().name(), Some("a\u{fffd}b"));
        });
        assert!(thread.expect("a thread").join(), "it ran, under a name that can be");
    }
}
