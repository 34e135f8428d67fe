//! The receiving half: the future itself, which lives at its home.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::cell::Cell;
use super::completer::Completer;
use super::envelope::{Envelope, Landing};
use super::inbox::{Inbox, Permit};
use super::outcome::{End, Outcome};

/// A future whose outcome is written, whose waiter is woken and whose value is dropped by its home only.
///
/// It is `Send`, since a tokio task may move between the threads of its runtime. Polled outside its home it ends with
/// [`End::WrongHome`]; dropped there, it posts its value back for the home to drop.
///
/// On a plain thread it ends while the thread waits by [`LocalHome::block_on`](super::LocalHome::block_on) or turns its home. An executor
/// that does neither waits for ever; a warning names that, once a thread.
///
/// # Cancel safety
/// Dropping it before it has ended is the way to give up; what arrives later is dropped at home. It counts as open until
/// its [`Completer`] is used or dropped too: the holder of the completer holds the home's permit for it.
#[must_use = "futures do nothing unless awaited"]
pub struct HomeFuture<T: Send + 'static> {
    /// `None` once it has ended in the hands of its owner.
    cell: Option<Arc<Cell<T>>>,
}

/// A completer and its future, at the home of this permit.
pub(crate) fn pair<T: Send + 'static>(permit: Permit) -> (Completer<T>, HomeFuture<T>) {
    let cell = Cell::new(permit);
    (Completer::new(Arc::clone(&cell)), HomeFuture { cell: Some(cell) })
}

impl<T: Send + 'static> HomeFuture<T> {
    /// Something that ends this future as timed out when its home handles it.
    pub(crate) fn deadline(&self) -> Option<Deadline> {
        let cell = self.cell.as_ref()?;
        Some(Deadline { inbox: Arc::clone(cell.inbox()), cell: Arc::clone(cell) as Arc<dyn Landing> })
    }

    /// Of its home; `None` once it has ended.
    pub(crate) fn inbox(&self) -> Option<&Arc<Inbox>> {
        self.cell.as_ref().map(|cell| cell.inbox())
    }

    /// True when the calling code is at the home of this future, where it can be awaited.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.cell.as_ref().is_none_or(|cell| cell.inbox().identity().is_here())
    }

    /// The poll of who waits no longer than this: a callback's own look, which is within an envelope as often as not.
    pub(crate) fn look(&mut self, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        let Some(cell) = &self.cell else { return Poll::Ready(Err(End::Taken)) };
        if !cell.inbox().identity().is_here() {
            let end = if cell.inbox().is_closed() { End::HomeEnded } else { End::WrongHome };
            if let Some(cell) = self.cell.take() {
                Self::leave(cell);
            }
            return Poll::Ready(Err(end));
        }
        let polled = cell.poll(context);
        if polled.is_ready() {
            self.cell = None;
        } else if cell.inbox().is_closed() {
            // Guards: a poll after the end of the home, whose completion was handed back or dropped: it would wait for ever.
            if let Some(cell) = self.cell.take() {
                cell.discard_after_home();
            }
            return Poll::Ready(Err(End::HomeEnded));
        } else {
            // Guards: a wait without an end, in silence.
            #[cfg(not(homing_loom))]
            if cell.inbox().is_of_thread() {
                super::current::report_unturned();
            }
        }
        polled
    }

    fn leave(cell: Arc<Cell<T>>) {
        let inbox = Arc::clone(cell.inbox());
        if inbox.identity().is_here() {
            cell.discard();
        } else {
            // Guards: a drop away from home. The value is dropped by the home; where that has ended, by us.
            if let Err(cell) = inbox.post_as(cell, |cell| Envelope::Returned(cell)) {
                cell.discard_after_home();
            }
        }
    }
}

impl<T: Send + 'static> Future for HomeFuture<T> {
    type Output = Outcome<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        let looked = self.look(context);
        if looked.is_pending() {
            // Guards: an executor's own wait within a done-callback, tokio's `block_on` for instance. What ends this future may be
            // in the hands of the drain task that stands here.
            super::drain::relieve();
        }
        looked
    }
}

impl<T: Send + 'static> Drop for HomeFuture<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.cell.take() {
            Self::leave(cell);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for HomeFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HomeFuture").finish_non_exhaustive()
    }
}

/// Ends one future as timed out: a timer's completer. Firing it is sending an envelope, as every completion is, so that loom
/// can model it.
pub struct Deadline {
    inbox: Arc<Inbox>,
    cell: Arc<dyn Landing>,
}

impl Deadline {
    /// Sends the deadline home. A future that has ended by then stays as it is.
    pub fn fire(self) {
        // Where the home has ended, so has the future.
        let _ = self.inbox.post_as(self.cell, Envelope::Deadline);
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deadline").finish_non_exhaustive()
    }
}
