//! Waiting for a permit of a home, so that a future can be made there; and what ends that wait by somebody else's clock.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::completer::Completer;
use super::future::{HomeFuture, pair};
use super::inbox::{Inbox, Permit, Wait};
use super::outcome::ReserveError;
use super::permits::Ticket;

/// A wait for a permit of a home; resolves to a completer and its future.
///
/// Reservations of one home are served in the order in which they were made. Each is served, timed out and woken at its home, and
/// is to be awaited there: polled elsewhere it ends with [`ReserveError::WrongHome`].
///
/// # Cancel safety
/// Dropping it is the way to give up: its turn, its permit and everything it holds are free at once, whatever becomes of its
/// [`Expirer`].
#[must_use = "futures do nothing unless awaited"]
pub struct Reservation<T: Send + 'static> {
    inbox: Arc<Inbox>,
    state: State,
    _value: PhantomData<fn() -> T>,
}

enum State {
    Granted(Permit),
    Waits(Ticket),
    /// The home had ended when it was asked.
    Refused(ReserveError),
    /// Resolved before.
    Done,
}

/// Ends a [`Reservation`] as timed out, from any thread: what a timer keeps.
///
/// It can do nothing else. It never blocks, runs no code of the waiter's side and takes no place in the inbox: it leaves a note, and
/// the home ends the wait and wakes the waiter. Dropped unused it changes nothing: the reservation waits on.
#[must_use = "an expirer that is dropped leaves the reservation waiting"]
pub struct Expirer {
    inbox: Arc<Inbox>,
    /// `None` where there was nothing to wait for.
    ticket: Option<Ticket>,
}

/// A wait for a permit of this inbox, and what ends it.
pub(crate) fn reserve<T: Send + 'static>(inbox: &Arc<Inbox>) -> (Reservation<T>, Expirer) {
    let (state, ticket) = match inbox.begin_wait() {
        Ok(Wait::Over(permit)) => (State::Granted(permit), None),
        Ok(Wait::Stands(ticket)) => (State::Waits(ticket), Some(ticket)),
        Err(error) => (State::Refused(error), None),
    };
    let expirer = Expirer { inbox: Arc::clone(inbox), ticket };
    (Reservation { inbox: Arc::clone(inbox), state, _value: PhantomData }, expirer)
}

impl<T: Send + 'static> Future for Reservation<T> {
    type Output = Result<(Completer<T>, HomeFuture<T>), ReserveError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.inbox.identity().is_here() {
            let error = if this.inbox.is_closed() { ReserveError::Ended } else { ReserveError::WrongHome };
            this.give_up();
            return Poll::Ready(Err(error));
        }
        let permit = match std::mem::replace(&mut this.state, State::Done) {
            State::Granted(permit) => Ok(permit),
            State::Refused(error) => Err(error),
            State::Waits(ticket) => match this.inbox.poll_wait(ticket, context) {
                Poll::Ready(permit) => permit,
                Poll::Pending => {
                    this.state = State::Waits(ticket);
                    // Guards: the same wait as in a future's poll.
                    super::drain::relieve();
                    return Poll::Pending;
                }
            },
            State::Done => Err(ReserveError::Ended),
        };
        Poll::Ready(permit.map(pair))
    }
}

impl<T: Send + 'static> Reservation<T> {
    fn give_up(&mut self) {
        if let State::Waits(ticket) = std::mem::replace(&mut self.state, State::Done) {
            self.inbox.give_up_wait(ticket);
        }
    }
}

impl<T: Send + 'static> Drop for Reservation<T> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<T: Send + 'static> fmt::Debug for Reservation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").finish_non_exhaustive()
    }
}

impl Expirer {
    /// Has the home end the wait as timed out. A wait that has ended by then stays as it is.
    pub fn expire(self) {
        if let Some(ticket) = self.ticket {
            self.inbox.expire_wait(ticket);
        }
    }

    /// True when the wait has ended or was given up: a timer may drop this early.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.ticket.is_none_or(|ticket| !self.inbox.is_waiting(ticket))
    }
}

impl fmt::Debug for Expirer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expirer").finish_non_exhaustive()
    }
}
