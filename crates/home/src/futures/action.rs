//! An action that somebody asked for and somebody else runs, once, unless it was cancelled before.

use std::fmt;

use super::super::{Completer, Home, HomeFuture, ReserveError};
use super::capture::{Captured, caught};

type Call<A, T> = Box<dyn FnOnce(A) -> Result<T, Box<dyn std::error::Error + Send + Sync>> + Send>;

/// Something to be done later, once, by its holder. Whoever asked for it holds its future: dropping that cancels the
/// action, as long as it has not run. Dropped without being run, it ends the future as abandoned.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_home::futures::{CancellableAction, Ran};
/// use homing_home::Home;
///
/// let (pause, paused) = CancellableAction::new(&Home::current(), |state: String| Ok::<_, std::fmt::Error>(state + ", paused"))?;
/// std::thread::spawn(move || assert_eq!(pause.run("running".to_owned()), Ran::Yes));
/// assert_eq!(paused.await??, "running, paused");
///
/// let (kill, killed) = CancellableAction::new(&Home::current(), |_: String| Ok::<_, std::fmt::Error>(()))?;
/// drop(killed);
/// assert_eq!(kill.run("running".to_owned()), Ran::Cancelled);
/// # Ok(()) }
/// ```
#[must_use = "an action that is dropped ends its future as abandoned"]
pub struct CancellableAction<A, T: Send + 'static> {
    completer: Completer<Result<T, Captured>>,
    call: Call<A, T>,
}

/// Whether an action was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It was; its outcome, be it an error or a panic, is on its way to the future.
    Yes,
    /// Nobody wanted it any more.
    Cancelled,
}

impl<A: 'static, T: Send + 'static> CancellableAction<A, T> {
    /// An action and the future of its outcome at this home. A panic or an error of the action is captured into the future.
    ///
    /// # Errors
    /// [`ReserveError`] when the home has as many futures open as it may have, or has ended.
    pub fn new<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        home: &Home,
        call: impl FnOnce(A) -> Result<T, E> + Send + 'static,
    ) -> Result<(Self, HomeFuture<Result<T, Captured>>), ReserveError> {
        let (completer, future) = home.try_future()?;
        let call: Call<A, T> = Box::new(move |argument| call(argument).map_err(Into::into));
        Ok((CancellableAction { completer, call }, future))
    }

    /// Runs it on the calling thread, unless it was cancelled. It can be run once, for it is used up by that.
    #[must_use = "it may have been cancelled"]
    pub fn run(self, argument: A) -> Ran {
        // A cancellation that comes from here on is too late: the action runs, and its outcome is dropped at home.
        if self.completer.is_unwanted() {
            return Ran::Cancelled;
        }
        drop(self.completer.complete(caught(|| (self.call)(argument))));
        Ran::Yes
    }

    /// True when the one who asked for it has given it up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.completer.is_unwanted()
    }

    /// Cancels it from this side: its future ends as cancelled.
    pub fn cancel(self) {
        self.completer.cancel();
    }
}

impl<A, T: Send + 'static> fmt::Debug for CancellableAction<A, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancellableAction").finish_non_exhaustive()
    }
}
