//! An event-loop thread of our own, for programs that have no loop.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::envelope::Envelope;
use super::inbox::{Bell, Inbox};
use super::local::LocalHome;
use super::panics::guarded;
use super::sync::{self, Condvar, JoinHandle, mpsc};
use super::{DEFAULT_CAPACITY, EVENT_LOOP_STACK, Home, ReserveError};

/// Of the loop's thread, in bytes: what waits within waits may take, and room beyond.
const STACK: usize = 16 << 20;

/// A thread that is a home: it runs tasks, timers and calls, until it is stopped.
///
/// # Examples
///
/// ```
/// use homing_home::EventLoop;
///
/// let event_loop = EventLoop::start("loop")?;
/// let (completer, future) = homing_home::thread_future::<String>()?;
/// event_loop.run(move |_home| {
///     // On the loop's thread.
///     completer.complete(std::thread::current().name().unwrap_or("").to_owned()).ok();
/// })?;
/// assert_eq!(future.wait()?, "loop");
/// event_loop.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping it stops the loop and waits for its thread, except on that thread itself. In a process that was forked from the one
/// that started it there is no such thread, and dropping it does nothing.
#[derive(Debug)]
pub struct EventLoop {
    handle: EventLoopHandle,
    thread: Option<JoinHandle<()>>,
}

/// A handle to an event loop, for any thread.
#[derive(Clone)]
pub struct EventLoopHandle {
    inbox: Arc<Inbox>,
    /// Where the loop's thread is.
    process: u32,
}

impl EventLoop {
    /// Starts a loop on a thread of this name.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(name: impl Into<String>) -> io::Result<Self> {
        let (inbox_out, inbox_in) = mpsc::channel();
        let thread = sync::start_thread(name.into(), STACK, move || {
            let home = LocalHome::new(Bell::Condvar(Condvar::default()), DEFAULT_CAPACITY);
            home.set_stack_limit(EVENT_LOOP_STACK);
            // Whoever started us waits for this; had it gone, nobody could stop us.
            if inbox_out.send(Arc::clone(home.inbox())).is_ok() {
                home.run();
            }
            home.end();
        })?;
        let inbox = inbox_in.recv().map_err(|_| io::Error::other("the event loop's thread ended as it started"))?;
        Ok(EventLoop { handle: EventLoopHandle { inbox, process: std::process::id() }, thread: Some(thread) })
    }

    /// One whose thread has panicked.
    #[cfg(all(test, not(homing_loom)))]
    pub(crate) fn of_a_thread_that_panics() -> Self {
        let mut event_loop = Self::start("panics").expect("a thread");
        event_loop.handle.stop();
        let ended = event_loop.thread.replace(std::thread::spawn(|| std::panic::resume_unwind(Box::new("on purpose"))));
        ended.expect("it has one").join().expect("it ends");
        event_loop
    }

    /// A handle to it that others may keep.
    #[must_use]
    pub fn handle(&self) -> EventLoopHandle {
        self.handle.clone()
    }

    /// See [`EventLoopHandle::run`].
    ///
    /// # Errors
    /// [`ReserveError`] when the loop has as much open as it may have, or has ended.
    pub fn run(&self, call: impl FnOnce(&LocalHome) + Send + 'static) -> Result<(), ReserveError> {
        self.handle.run(call)
    }

    /// Stops the loop after the call or task that it is in, and waits for its thread. Waits that stand on the loop end with
    /// [`End::HomeEnded`](super::End::HomeEnded), the innermost first. What the loop still holds is dropped there.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if !self.handle.has_thread() {
            // Guards: a fork. The handle of a thread that is not there must be neither joined, which panics, nor detached.
            return std::mem::forget(self.thread.take());
        }
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            // On its own thread a join would wait for ever; the loop ends when the caller returns.
            if thread.thread().id() != sync::this_thread() && thread.join().is_err() {
                guarded(|| tracing::error!("an event loop's thread panicked"));
            }
        }
    }
}

impl EventLoopHandle {
    /// The loop as a home, to register subscribers with.
    #[must_use]
    pub fn home(&self) -> Home {
        Home::local(Arc::clone(&self.inbox))
    }

    /// Calls something on the loop, with the loop's own side, which can make futures, tasks and timers there.
    ///
    /// # Errors
    /// [`ReserveError`] when the loop has as much open as it may have, or has ended.
    pub fn run(&self, call: impl FnOnce(&LocalHome) + Send + 'static) -> Result<(), ReserveError> {
        let permit = self.inbox.try_reserve()?;
        let run = Envelope::Run(Box::new(move || {
            let _permit = permit;
            call(&LocalHome::of_this_thread());
        }));
        self.inbox.post(run).map_err(|_| ReserveError::Ended)
    }

    /// Asks the loop to end. Returns at once. Does nothing in a process that was forked from the loop's.
    pub fn stop(&self) {
        // Guards: a fork, in which a thread that is not there may hold the inbox's lock for ever.
        if self.has_thread() {
            self.inbox.stop();
        }
    }

    /// Whether this process has the loop's thread; one that was forked from it has not.
    fn has_thread(&self) -> bool {
        self.process == std::process::id()
    }
}

impl fmt::Debug for EventLoopHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoopHandle").finish_non_exhaustive()
    }
}
