//! How many futures, calls and tasks a home may have open at once, and who waits for a permit.
//!
//! A permit is given back on whatever thread drops it. Who waits for one is served, woken and refused at home only: giving back and
//! expiring leave a note here and have the home called, by one envelope however many notes there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Weak;
use std::task::{Context, Poll, Waker};

use super::envelope::Landing;
use super::outcome::ReserveError;
use super::sync::Mutex;

/// How many waits are ended before the home's other envelopes get their turn.
const TURN: usize = if cfg!(homing_loom) { 2 } else { 64 };

/// The number of a wait for a permit. No two waits of a home have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// What a wait for a permit has come to.
enum Ended {
    /// It has a permit, which is counted.
    Granted,
    TimedOut,
}

/// The permits of one home.
pub(crate) struct Permits {
    state: Mutex<State>,
}

struct State {
    capacity: usize,
    taken: usize,
    /// Set once, when the home ends.
    closed: bool,
    next: u64,
    /// Who waits, first come first, each with the waker of its last poll.
    waiting: BTreeMap<Ticket, Option<Waker>>,
    /// Waits that have ended, and have not been polled since.
    ended: HashMap<Ticket, Ended>,
    /// Notes for the home: waits that somebody's clock has given up.
    expired: Vec<Ticket>,
    /// Notes for the home: wakers of waits that were dropped elsewhere.
    given_up: Vec<Waker>,
    /// Set while the home has been called for its notes and has not come.
    called: bool,
    /// Cells that hold a waker. A home that ends wakes them.
    waiting_cells: Slab,
}

/// Numbered places, each with a cell.
#[derive(Default)]
struct Slab {
    cells: Vec<Option<Weak<dyn Landing>>>,
    free: Vec<usize>,
}

impl Slab {
    fn insert(&mut self, cell: Weak<dyn Landing>) -> usize {
        if let Some(index) = self.free.pop() {
            self.cells[index] = Some(cell);
            index
        } else {
            self.cells.push(Some(cell));
            self.cells.len() - 1
        }
    }

    fn remove(&mut self, index: usize) -> Option<Weak<dyn Landing>> {
        // A home that has ended has no cells any more.
        let cell = self.cells.get_mut(index)?.take();
        self.free.push(index);
        cell
    }
}

/// Whether the home is to be called.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    Home,
    Nobody,
}

/// How a wait for a permit begins.
pub(crate) enum Begun {
    Granted,
    Waits(Ticket),
}

impl Permits {
    pub(crate) fn new(capacity: usize) -> Self {
        Permits {
            state: Mutex::new(State {
                capacity,
                taken: 0,
                closed: false,
                next: 0,
                waiting: BTreeMap::new(),
                ended: HashMap::new(),
                expired: Vec::new(),
                given_up: Vec::new(),
                called: false,
                waiting_cells: Slab::default(),
            }),
        }
    }

    /// Changes how many there are. Those that are taken stay so.
    pub(crate) fn set_capacity(&self, capacity: usize) -> Call {
        let mut state = self.state.lock();
        state.capacity = capacity;
        state.call()
    }

    /// How many are taken, of how many.
    pub(crate) fn taken(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.taken, state.capacity)
    }

    /// A permit, unless none is free or others wait for one.
    pub(crate) fn take(&self) -> Result<(), ReserveError> {
        self.state.lock().take()
    }

    /// Has the home wake this cell when it ends.
    pub(crate) fn enlist(&self, cell: Weak<dyn Landing>) -> usize {
        self.state.lock().waiting_cells.insert(cell)
    }

    /// A permit, or a place in the queue for one.
    pub(crate) fn begin(&self) -> Result<Begun, ReserveError> {
        let mut state = self.state.lock();
        match state.take() {
            Ok(()) => Ok(Begun::Granted),
            // Guards: a permit that is given back. It is under this lock, so either it was free above or its holder sees us wait.
            Err(ReserveError::Full) => {
                let ticket = Ticket(state.next);
                state.next += 1;
                state.waiting.insert(ticket, None);
                Ok(Begun::Waits(ticket))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a wait has ended. At home only.
    pub(crate) fn poll(&self, ticket: Ticket, context: &mut Context<'_>) -> Poll<Result<(), ReserveError>> {
        let mut state = self.state.lock();
        if state.closed {
            return Poll::Ready(Err(ReserveError::Ended));
        }
        match state.ended.remove(&ticket) {
            Some(Ended::Granted) => return Poll::Ready(Ok(())),
            Some(Ended::TimedOut) => return Poll::Ready(Err(ReserveError::TimedOut)),
            None => {}
        }
        let old = match state.waiting.get_mut(&ticket) {
            Some(Some(known)) if known.will_wake(context.waker()) => None,
            Some(waker) => waker.replace(context.waker().clone()),
            None => return Poll::Ready(Err(ReserveError::Ended)),
        };
        drop(state);
        // Not under the lock: dropping a waker may drop the task that it belongs to.
        drop(old);
        Poll::Pending
    }

    /// Ends a wait whose reservation is dropped or polled away; its waker is returned where the caller may drop it.
    pub(crate) fn give_up(&self, ticket: Ticket, at_home: bool) -> (Option<Waker>, Call) {
        let mut state = self.state.lock();
        if let Some(Ended::Granted) = state.ended.remove(&ticket) {
            state.taken -= 1;
        }
        let mut waker = state.waiting.remove(&ticket).flatten();
        // Guards: the waker of a wait that is given up away from home. It is user code, and is dropped at home.
        if !at_home
            && !state.closed
            && let Some(waker) = waker.take()
        {
            state.given_up.push(waker);
        }
        let call = state.call();
        (waker, call)
    }

    /// Notes that a wait is to end as timed out.
    pub(crate) fn expire(&self, ticket: Ticket) -> Call {
        let mut state = self.state.lock();
        if state.waiting.contains_key(&ticket) {
            state.expired.push(ticket);
        }
        state.call()
    }

    pub(crate) fn is_waiting(&self, ticket: Ticket) -> bool {
        self.state.lock().waiting.contains_key(&ticket)
    }

    /// Takes a permit back.
    pub(crate) fn release(&self, listed: Option<usize>) -> Call {
        let mut state = self.state.lock();
        state.taken -= 1;
        let cell = listed.and_then(|index| state.waiting_cells.remove(index));
        let call = state.call();
        drop(state);
        drop(cell);
        call
    }

    /// Ends waits as the notes have it, and hands free permits to the first that wait. At home only: returns whom to wake,
    /// and whose wakers to drop.
    pub(crate) fn settle(&self) -> (Vec<Waker>, Vec<Waker>, Call) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.called = false;
        let given_up = std::mem::take(&mut state.given_up);
        let mut wake = Vec::new();
        for _ in 0..TURN {
            let (ticket, waker, ended) = if let Some(ticket) = state.expired.pop() {
                // Else it has ended, or was given up.
                let Some(waker) = state.waiting.remove(&ticket) else { continue };
                (ticket, waker, Ended::TimedOut)
            } else if state.taken < state.capacity
                && let Some((ticket, waker)) = state.waiting.pop_first()
            {
                state.taken += 1;
                (ticket, waker, Ended::Granted)
            } else {
                break;
            };
            state.ended.insert(ticket, ended);
            wake.extend(waker);
        }
        let call = state.call();
        (wake, given_up, call)
    }

    /// Ends all waits. At home only: returns whom to wake, whose wakers to drop, and the cells that wait.
    pub(crate) fn close(&self) -> (Vec<Waker>, Vec<Waker>, Vec<Weak<dyn Landing>>) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ended = HashMap::new();
        state.expired = Vec::new();
        let wake = std::mem::take(&mut state.waiting).into_values().flatten().collect();
        let cells = std::mem::take(&mut state.waiting_cells).cells.into_iter().flatten().collect();
        (wake, std::mem::take(&mut state.given_up), cells)
    }
}

impl State {
    fn take(&mut self) -> Result<(), ReserveError> {
        if self.closed {
            return Err(ReserveError::Ended);
        }
        // Guards: first come, first served. A permit that is free while others wait is on its way to the first of them.
        if self.taken >= self.capacity || !self.waiting.is_empty() {
            return Err(ReserveError::Full);
        }
        self.taken += 1;
        Ok(())
    }

    /// Whether the home has something to do here, and has not been called for it.
    fn call(&mut self) -> Call {
        let work = !self.expired.is_empty()
            || !self.given_up.is_empty()
            || (self.taken < self.capacity && !self.waiting.is_empty());
        if work && !self.called && !self.closed {
            // Guards: one envelope, whoever leaves how many notes. It is taken back under this lock, with all of them.
            self.called = true;
            Call::Home
        } else {
            Call::Nobody
        }
    }
}
