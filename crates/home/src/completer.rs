//! The sending half: all that there is of a future away from its home.

use std::fmt;
use std::sync::Arc;

use super::cell::Cell;
use super::outcome::{End, Outcome};

/// Completes one future, from any thread, once.
///
/// It can do nothing but put an envelope into the inbox of the future's home: it never blocks, runs no code of the
/// future's side and cannot be used twice. Dropped unused, by a panic for instance, it ends its future as
/// [`End::Abandoned`].
///
/// The holder of the completer holds one of the home's permits: the future counts as open until its completion has been
/// handled at home, even if the future was dropped long before. [`is_unwanted`](Self::is_unwanted) is true when that is in vain.
///
/// # Examples
///
/// ```
/// let (completer, future) = homing_home::thread_future::<u32>()?;
/// std::thread::spawn(move || completer.complete(42));
/// assert_eq!(future.wait()?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Using it twice does not compile:
///
/// ```compile_fail,E0382
/// let (completer, future) = homing_home::thread_future::<u32>()?;
/// completer.complete(1).ok();
/// completer.complete(2).ok();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a completer that is dropped ends its future as abandoned"]
pub struct Completer<T: Send + 'static> {
    /// Taken when used.
    cell: Option<Arc<Cell<T>>>,
}

/// What could not be delivered, because the home of the future had ended. It belongs to the sender again, who may drop it.
pub struct HandedBack<T>(pub T);

impl<T> fmt::Display for HandedBack<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the home of the future has ended; its completion was handed back")
    }
}

impl<T> fmt::Debug for HandedBack<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandedBack").finish_non_exhaustive()
    }
}

impl<T> std::error::Error for HandedBack<T> {}

impl<T: Send + 'static> Completer<T> {
    pub(crate) fn new(cell: Arc<Cell<T>>) -> Self {
        Completer { cell: Some(cell) }
    }

    /// Sends the value home.
    ///
    /// # Errors
    /// The value itself, when the home has ended.
    pub fn complete(mut self, value: T) -> Result<(), HandedBack<T>> {
        match self.send(Ok(value)) {
            Err(Ok(value)) => Err(HandedBack(value)),
            _ => Ok(()),
        }
    }

    /// Ends the future as [`End::Cancelled`].
    pub fn cancel(mut self) {
        // A home that has ended needs no word of it.
        let _ = self.send(Err(End::Cancelled));
    }

    /// Ends the future as another one has ended.
    ///
    /// # Errors
    /// The outcome itself, when the home has ended.
    pub fn finish(mut self, outcome: Outcome<T>) -> Result<(), HandedBack<Outcome<T>>> {
        self.send(outcome).map_err(HandedBack)
    }

    /// True when nobody waits for the future any more: it was dropped, or its home has ended. A hint
    /// that the work can be spared; it may be true a moment later.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.is_unwanted())
    }

    fn send(&mut self, outcome: Outcome<T>) -> Result<(), Outcome<T>> {
        match self.cell.take() {
            Some(cell) => cell.send_home(outcome),
            None => Ok(()),
        }
    }
}

impl<T: Send + 'static> Drop for Completer<T> {
    fn drop(&mut self) {
        let _ = self.send(Err(End::Abandoned));
    }
}

impl<T: Send + 'static> fmt::Debug for Completer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completer").finish_non_exhaustive()
    }
}
