//! A home's inbox: where every completion, wake and call for that home arrives, and the bell that rings for it.
//!
//! Any thread may [post](Inbox::post), which never blocks and runs no user code but the wake hook of a foreign loop; only the
//! home takes out. A permit for a future is [taken](Inbox::try_reserve) when the future is made, so that a
//! completion never finds the inbox full: what is bounded is the number of futures, calls and tasks, and with them the envelopes.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::audit::{self, Event};
use super::envelope::{Envelope, Landing};
use super::identity::Identity;
use super::outcome::ReserveError;
use super::panics::guarded;
use super::permits::{Begun, Call, Permits, Ticket};
use super::sync::{AtomicUsize, Condvar, Mutex, Ordering};

/// How many futures, calls and tasks a home may have open at once, unless [`Home::set_capacity`](super::Home::set_capacity)
/// was called.
pub const DEFAULT_CAPACITY: usize = 1 << 20;

/// How long a wake hook may take before it is reported.
const HOOK_LIMIT: std::time::Duration = std::time::Duration::from_millis(10);

/// One future, call or task that a home may have open. Given back when dropped.
pub(crate) struct Permit {
    inbox: Arc<Inbox>,
    /// Where the list of waiting cells has the one that holds this permit.
    listed: AtomicUsize,
}

const NOT_LISTED: usize = usize::MAX;

impl Permit {
    /// Of a home that has counted it.
    fn counted(inbox: &Arc<Inbox>) -> Self {
        Permit { inbox: Arc::clone(inbox), listed: AtomicUsize::new(NOT_LISTED) }
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Has the home wake this cell when it ends. Called when the cell gets a waker, at home; once is enough.
    pub(crate) fn enlist(&self, cell: impl FnOnce() -> Weak<dyn Landing>) {
        // Ordering: Relaxed, here and below. Only the cell's own polls write it, under the cell's lock, and the drop of its
        // last reference comes after them.
        if self.listed.load(Ordering::Relaxed) == NOT_LISTED {
            let index = self.inbox.permits.enlist(cell());
            self.listed.store(index, Ordering::Relaxed);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let listed = self.listed.load(Ordering::Relaxed);
        let call = self.inbox.permits.release(if listed == NOT_LISTED { None } else { Some(listed) });
        self.inbox.answer(call);
    }
}

/// A wait for a permit.
pub(crate) enum Wait {
    Over(Permit),
    Stands(Ticket),
}

/// How a home learns that its inbox is not empty any more.
pub(crate) enum Bell {
    /// The home is a thread that sleeps on this.
    Condvar(Condvar),
    /// The home is a task; its waker is kept in the inbox.
    Task,
    /// The home is a foreign loop, whose hook we call; where it waits in a callback of its own, it sleeps on the other.
    Hook { hook: Box<dyn Fn() + Send + Sync>, waiting: Condvar },
}

pub(crate) struct Inbox {
    identity: Identity,
    state: Mutex<State>,
    bell: Bell,
    permits: Permits,
}

struct State {
    queue: VecDeque<Envelope>,
    /// Of the drain task, where the home is one.
    waker: Option<Waker>,
    /// Set once, when the home ends. From then on what is posted is handed back.
    closed: bool,
    /// Set when the loop that the home is was asked to end.
    stopping: bool,
    /// How often the home has taken out what was there.
    rounds: u64,
}

impl Inbox {
    pub(crate) fn new(identity: Identity, bell: Bell, capacity: usize) -> Arc<Self> {
        Arc::new(Inbox {
            identity,
            state: Mutex::new(State { queue: VecDeque::new(), waker: None, closed: false, stopping: false, rounds: 0 }),
            bell,
            permits: Permits::new(capacity),
        })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether the home is a thread that takes its envelopes out when it turns or waits, and has nothing else that would.
    #[cfg(not(homing_loom))]
    pub(crate) fn is_of_thread(&self) -> bool {
        matches!(self.bell, Bell::Condvar(_))
    }

    /// Changes how many permits there are. From any thread.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        let call = self.permits.set_capacity(capacity);
        self.answer(call);
    }

    /// How many permits are taken, of how many.
    pub(crate) fn open(&self) -> (usize, usize) {
        self.permits.taken()
    }

    /// How many envelopes wait, and how often they were taken out so far.
    pub(crate) fn queued(&self) -> (usize, u64) {
        let state = self.state.lock();
        (state.queue.len(), state.rounds)
    }

    /// A permit for one more future, call or task, if there is one.
    pub(crate) fn try_reserve(self: &Arc<Self>) -> Result<Permit, ReserveError> {
        self.permits.take()?;
        Ok(Permit::counted(self))
    }

    /// The same, or a wait for one.
    pub(crate) fn begin_wait(self: &Arc<Self>) -> Result<Wait, ReserveError> {
        Ok(match self.permits.begin()? {
            Begun::Granted => Wait::Over(Permit::counted(self)),
            Begun::Waits(ticket) => Wait::Stands(ticket),
        })
    }

    /// Whether a wait for a permit has ended. On the home only.
    pub(crate) fn poll_wait(
        self: &Arc<Self>,
        ticket: Ticket,
        context: &mut Context<'_>,
    ) -> Poll<Result<Permit, ReserveError>> {
        self.permits.poll(ticket, context).map(|granted| granted.map(|()| Permit::counted(self)))
    }

    /// The one who waited has gone.
    pub(crate) fn give_up_wait(&self, ticket: Ticket) {
        let (waker, call) = self.permits.give_up(ticket, self.identity.is_here());
        self.answer(call);
        drop(waker);
    }

    /// Has the home end a wait as timed out. From any thread.
    pub(crate) fn expire_wait(&self, ticket: Ticket) {
        let call = self.permits.expire(ticket);
        self.answer(call);
    }

    /// True while this wait stands.
    pub(crate) fn is_waiting(&self, ticket: Ticket) -> bool {
        self.permits.is_waiting(ticket)
    }

    /// Calls the home where its permits ask for that.
    fn answer(&self, call: Call) {
        if let Call::Home = call {
            // A home that has ended has refused whoever waited.
            let _ = self.post(Envelope::Permits);
        }
    }

    /// Does what the notes about permits ask for. On the home only.
    pub(crate) fn settle_permits(&self) {
        let (wake, given_up, call) = self.permits.settle();
        self.answer(call);
        for waker in wake {
            audit::event(self.identity, Event::Wake);
            guarded(|| waker.wake());
        }
        for waker in given_up {
            guarded(|| drop(waker));
        }
    }

    /// Calls something of this home. On the home only.
    pub(crate) fn call(&self, call: impl FnOnce()) {
        audit::event(self.identity, Event::Callback);
        guarded(call);
    }

    /// Puts an envelope in and rings when the inbox was empty.
    ///
    /// # Errors
    /// The envelope itself, when the home has ended.
    pub(crate) fn post(&self, envelope: Envelope) -> Result<(), Envelope> {
        self.post_as(envelope, |envelope| envelope)
    }

    /// The same for something that becomes an envelope only when the inbox takes it.
    pub(crate) fn post_as<E>(&self, content: E, envelope: impl FnOnce(E) -> Envelope) -> Result<(), E> {
        let mut state = self.state.lock();
        // Guards: a completion against the end of its home. Both are under this lock, so an envelope is either in the
        // queue that `close` empties or handed back, never in a queue that nobody looks at again.
        if state.closed {
            drop(state);
            return Err(content);
        }
        let was_empty = state.queue.is_empty();
        state.queue.push_back(envelope(content));
        // Guards: the last wake. The drain task looks at the queue and leaves its waker under one hold of this lock, so
        // either it sees this envelope or we see its waker.
        let waker = if was_empty { state.waker.take() } else { None };
        drop(state);
        // Never under the lock: a waker or a hook may come back to this inbox.
        if was_empty {
            self.ring(waker);
        }
        Ok(())
    }

    /// Asks the loop that the home is to end. Once is enough, and makes one envelope.
    pub(crate) fn stop(&self) {
        if !std::mem::replace(&mut self.state.lock().stopping, true) {
            // A loop that has ended needs no word of it.
            let _ = self.post(Envelope::Stop);
        }
    }

    fn ring(&self, waker: Option<Waker>) {
        match &self.bell {
            Bell::Condvar(condvar) => condvar.notify_one(),
            Bell::Task => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            // A hook is user code on a foreign thread: its panic must not become that of whoever completes.
            Bell::Hook { hook, waiting } => {
                waiting.notify_one();
                let begun = Instant::now();
                guarded(&**hook);
                let taken = begun.elapsed();
                if taken > HOOK_LIMIT {
                    // A log is user code on a foreign thread, too.
                    guarded(|| {
                        tracing::warn!(
                            ?taken,
                            "the wake hook of a foreign loop blocked a thread that completes a future"
                        );
                    });
                }
            }
        }
    }

    /// Moves all that is there into `tray`. On the home only.
    pub(crate) fn take_all(&self, tray: &mut VecDeque<Envelope>) {
        let mut state = self.state.lock();
        state.rounds += 1;
        if tray.is_empty() {
            std::mem::swap(tray, &mut state.queue);
        } else {
            tray.append(&mut state.queue);
        }
    }

    /// The same for a home that is a task: with nothing there, the task's waker is left and will be woken. On the home only.
    pub(crate) fn poll_take_all(&self, tray: &mut VecDeque<Envelope>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            let old = state.waker.replace(context.waker().clone());
            drop(state);
            // Not under the lock: dropping a waker may drop the task that it belongs to.
            drop(old);
            return Poll::Pending;
        }
        state.rounds += 1;
        std::mem::swap(tray, &mut state.queue);
        Poll::Ready(())
    }

    /// Sleeps until something is there, or until the deadline. On the home only, and only where its bell is a condvar.
    pub(crate) fn sleep(&self, until: Option<Instant>) {
        let (Bell::Condvar(condvar) | Bell::Hook { waiting: condvar, .. }) = &self.bell else { return };
        let mut state = self.state.lock();
        // Guards: the ring between the look and the sleep. The condvar gives the lock up and sleeps in one step.
        while state.queue.is_empty() && !state.closed && until.is_none_or(|deadline| Instant::now() < deadline) {
            state = condvar.wait(state, until);
        }
    }

    /// Rings once more, when a bounded turn left something. On the home only.
    pub(crate) fn ring_again(&self) {
        let waker = self.state.lock().waker.take();
        self.ring(waker);
    }

    /// True when nothing is there. On the home only: anywhere else it may be false by then.
    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().queue.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Ends the inbox: from here on, posting hands back. What was there is dropped here, by the home.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.queue);
        let waker = state.waker.take();
        drop(state);
        // Not under the lock: these drops run what users put into their values, and one that panics ends itself alone.
        for envelope in left {
            envelope.end();
        }
        guarded(|| drop(waker));
        let (wake, given_up, cells) = self.permits.close();
        for waker in wake {
            audit::event(self.identity, Event::Wake);
            guarded(|| waker.wake());
        }
        for waker in given_up {
            guarded(|| drop(waker));
        }
        // Guards: a waiter that outlives its home, in a runtime that was shut down under a `block_on` elsewhere. The home wakes it
        // while it still can, so that no sender has to: polled again, it finds that its home has ended.
        for cell in cells.into_iter().filter_map(|cell| cell.upgrade()) {
            guarded(move || cell.wake_at_end());
        }
    }
}
