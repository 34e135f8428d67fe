//! A loop of somebody else's as a home: a GUI's, an epoll loop, another language's.

use std::fmt;
use std::sync::Arc;

use super::inbox::Bell;
use super::local::LocalHome;
use super::panics::guarded;
use super::sync::{Condvar, Mutex};
use super::{Completer, DEFAULT_CAPACITY, Home, LocalFuture, ReserveError};

/// The calling thread's own loop as a home.
///
/// The program gives a hook that wakes its loop: it is called once when something arrives where there was nothing, from any
/// thread and under no lock, and must not block (one that takes over 10 ms is logged). The loop then calls [`run_pending`](ForeignLoop::run_pending) on its own
/// thread. Waiting in a callback goes on with everything else of this home.
///
/// # Examples
///
/// ```
/// use std::sync::mpsc;
/// use homing_home::ForeignLoop;
///
/// // A loop that lives on messages, as a GUI's does.
/// let (wake, events) = mpsc::channel();
/// let home = ForeignLoop::sending(wake, "wake");
/// let (completer, future) = home.future::<u32>()?;
/// future.on_done(|outcome| assert_eq!(outcome, Ok(42)));
/// std::thread::spawn(move || completer.complete(42));
///
/// let mut handled = 0;
/// while handled < 3 {
///     let _wake = events.recv()?;
///     handled += home.run_pending(16);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping it ends the home, and drops the hook.
pub struct ForeignLoop {
    home: LocalHome,
    hook: Arc<Hook>,
}

/// The hook, which is rung from any thread, and taken out when the loop ends.
///
/// Guards: what the hook holds, which is the program's own and is dropped at home. The inbox lives for as long as somebody has a
/// completer of it, the communicator thread for instance. Only a ring that is under way as the loop ends may be the one that drops it.
struct Hook(Mutex<Option<Arc<dyn Fn() + Send + Sync>>>);

impl Hook {
    fn ring(&self) {
        let Some(hook) = self.0.lock().clone() else { return };
        // Apart, so that a panic in each ends itself alone.
        guarded(&*hook);
        guarded(|| drop(hook));
    }

    fn end(&self) {
        let hook = self.0.lock().take();
        guarded(|| drop(hook));
    }
}

impl ForeignLoop {
    /// Makes the loop of the calling thread a home.
    ///
    /// A hook that panics is logged, and the loop may then miss what arrived.
    #[must_use]
    pub fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        let hook = Arc::new(Hook(Mutex::new(Some(Arc::new(hook)))));
        let rung = Arc::clone(&hook);
        let bell = Bell::Hook { hook: Box::new(move || rung.ring()), waiting: Condvar::default() };
        ForeignLoop { home: LocalHome::new(bell, DEFAULT_CAPACITY), hook }
    }

    /// The same with a hook that sends this message to the loop, for a loop that lives on a channel, as a GUI's does. A loop
    /// that has dropped its receiver is not rung.
    #[must_use]
    pub fn sending<M: Clone + Send + Sync + 'static>(sender: std::sync::mpsc::Sender<M>, message: M) -> Self {
        Self::new(move || drop(sender.send(message.clone())))
    }

    /// The same with a hook that writes to an eventfd, a pipe or a socket, for a loop that lives on `epoll`, `poll` or
    /// `select`: eight bytes, the number one as this machine writes it, which is what an eventfd takes.
    ///
    /// The loop is to read it empty each time it is woken, before [`run_pending`](Self::run_pending). Make it non-blocking,
    /// so that a pipe that nobody reads stops no one: it is full then, which wakes as well.
    #[cfg(unix)]
    #[must_use]
    pub fn writing_to(bell: impl Into<std::os::fd::OwnedFd>) -> Self {
        use std::io::Write;

        let bell = std::fs::File::from(bell.into());
        Self::new(move || drop((&bell).write(&1_u64.to_ne_bytes())))
    }

    /// When the next timer of this home is due, for the loop's own sleep.
    #[must_use]
    pub fn next_timer(&self) -> Option<std::time::Instant> {
        self.home.next_timer()
    }

    /// Handles what has arrived, `limit` envelopes at most, and timers that are due. When something is left, the hook is
    /// called once more. Returns how many envelopes it was. Never waits.
    pub fn run_pending(&self, limit: usize) -> usize {
        let handled = self.home.turn(limit);
        if self.home.has_left() {
            self.home.inbox().ring_again();
        }
        handled
    }

    /// A completer and its future, which lives here.
    ///
    /// # Errors
    /// [`ReserveError::Full`] when as many futures are open as may be.
    pub fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, LocalFuture<T>), ReserveError> {
        self.home.future()
    }

    /// The loop's own side, for tasks and timers.
    #[must_use]
    pub fn local(&self) -> &LocalHome {
        &self.home
    }

    /// The loop as a home, to register subscribers with.
    #[must_use]
    pub fn home(&self) -> Home {
        Home::local(Arc::clone(self.home.inbox()))
    }
}

impl Drop for ForeignLoop {
    fn drop(&mut self) {
        self.home.end();
        self.hook.end();
    }
}

impl fmt::Debug for ForeignLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignLoop").finish_non_exhaustive()
    }
}
