//! The cell that a future and its completer share, in one allocation.
//!
//! It has two sides that never meet. The *parcel* is the envelope's content: the completer puts the outcome in and posts
//! the cell; from then on the home alone has it. The *landed* side is the future itself: its outcome, its waker; it is
//! touched by the home only. [`Landing::land`] carries the one over to the other, on the home.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use super::audit::{self, Event};
use super::envelope::{Envelope, Landing};
use super::inbox::{Inbox, Permit};
use super::outcome::{End, Outcome};
use super::sync::{AtomicBool, Mutex, Ordering};

pub(crate) struct Cell<T> {
    parcel: Mutex<Option<Outcome<T>>>,
    landed: Mutex<Landed<T>>,
    /// Set by the home when nobody waits any more; a hint to the completer, which never looks at the landed side.
    unwanted: AtomicBool,
    /// Given back with the cell: its envelope has been handled by then, or will never be.
    permit: Permit,
}

/// The future's own side.
enum Landed<T> {
    /// Nothing has arrived. The waker is that of the last poll.
    Waiting(Option<Waker>),
    /// The outcome is there to be taken.
    Ready(Outcome<T>),
    /// The outcome was taken, or the future dropped.
    Gone,
}

impl<T: Send + 'static> Cell<T> {
    pub(crate) fn new(permit: Permit) -> Arc<Self> {
        Arc::new(Cell {
            parcel: Mutex::new(None),
            landed: Mutex::new(Landed::Waiting(None)),
            unwanted: AtomicBool::new(false),
            permit,
        })
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        self.permit.inbox()
    }

    /// Sends an outcome home. Called once, by the completer.
    ///
    /// # Errors
    /// The outcome itself, when the home has ended: its sender may drop it.
    pub(crate) fn send_home(self: Arc<Self>, outcome: Outcome<T>) -> Result<(), Outcome<T>> {
        *self.parcel.lock() = Some(outcome);
        let inbox = Arc::clone(self.inbox());
        // Guards: nothing of the future is touched from here. Only the parcel was written, and the cell itself moves into
        // the inbox, so that not even its last reference can be dropped on this thread.
        inbox.post_as(self, |cell| Envelope::Completion(cell)).map_err(|cell| {
            let outcome = cell.parcel.lock().take();
            outcome.unwrap_or(Err(End::HomeEnded))
        })
    }

    /// Puts an outcome where the home finds it, and no envelope. For seeded faults.
    #[cfg(all(feature = "audit", not(homing_loom)))]
    pub(crate) fn put(&self, outcome: Outcome<T>) {
        *self.parcel.lock() = Some(outcome);
    }

    /// Polls on the home.
    pub(crate) fn poll(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        let mut landed = self.landed.lock();
        match &mut *landed {
            Landed::Waiting(waker) => {
                // Guards: a poll with another waker. The last one counts; a home that lands now waits for this lock.
                let old = match waker {
                    Some(known) if known.will_wake(context.waker()) => None,
                    _ => {
                        // Guards: the end of the home. It wakes every cell that holds a waker.
                        self.permit.enlist(|| Arc::downgrade(self) as Weak<dyn Landing>);
                        waker.replace(context.waker().clone())
                    }
                };
                drop(landed);
                drop(old);
                Poll::Pending
            }
            Landed::Ready(_) => match std::mem::replace(&mut *landed, Landed::Gone) {
                Landed::Ready(outcome) => Poll::Ready(outcome),
                _ => Poll::Ready(Err(End::Taken)),
            },
            Landed::Gone => Poll::Ready(Err(End::Taken)),
        }
    }

    /// The future is gone, and so is its home: what is left of it is dropped by whoever has it.
    pub(crate) fn discard_after_home(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
        let old = std::mem::replace(&mut *self.landed.lock(), Landed::Gone);
        drop(old);
    }

    /// True when nobody waits for the future any more, or its home has ended.
    pub(crate) fn is_unwanted(&self) -> bool {
        // Ordering: Relaxed, for it is a hint and carries no data.
        self.unwanted.load(Ordering::Relaxed) || self.inbox().is_closed()
    }

    fn end(&self, outcome: Outcome<T>) {
        audit::event(self.inbox().identity(), Event::Write);
        let mut landed = self.landed.lock();
        let late = match &mut *landed {
            Landed::Waiting(waker) => {
                let waker = waker.take();
                *landed = Landed::Ready(outcome);
                drop(landed);
                // Not under the lock: waking may poll at once.
                if let Some(waker) = waker {
                    audit::event(self.inbox().identity(), Event::Wake);
                    waker.wake();
                }
                return;
            }
            // Guards: exactly one end. What arrives after it (a completion behind a deadline, or for a future that was
            // dropped) is dropped here, on the home.
            Landed::Ready(_) | Landed::Gone => outcome,
        };
        drop(landed);
        audit::event(self.inbox().identity(), Event::Drop);
        drop(late);
    }
}

impl<T: Send + 'static> Landing for Cell<T> {
    fn land(&self) {
        let arrived = self.parcel.lock().take();
        if let Some(outcome) = arrived {
            self.end(outcome);
        }
    }

    fn expire(&self) {
        // Whoever waited has the deadline's outcome; what the completer could bring would be dropped.
        self.unwanted.store(true, Ordering::Relaxed);
        self.end(Err(End::TimedOut));
    }

    fn end_with_home(&self) {
        let arrived = self.parcel.lock().take();
        // Not under a lock: this drop runs what users put into their values.
        drop(arrived);
    }

    fn wake_at_end(&self) {
        let waiter = match &mut *self.landed.lock() {
            Landed::Waiting(waker) => waker.take(),
            Landed::Ready(_) | Landed::Gone => None,
        };
        if let Some(waker) = waiter {
            audit::event(self.inbox().identity(), Event::Wake);
            waker.wake();
        }
    }

    fn discard(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
        let old = std::mem::replace(&mut *self.landed.lock(), Landed::Gone);
        if !matches!(old, Landed::Gone) {
            audit::event(self.inbox().identity(), Event::Drop);
        }
        // Not under the lock: this drop runs what users put into their values.
        drop(old);
    }
}
