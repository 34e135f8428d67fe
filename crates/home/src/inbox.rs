//! A home's inbox: where every completion, wake and call for that home arrives, and the bell that says so.
//!
//! Any thread may [post](Inbox::post), which never blocks and runs no user code but the wake hook of a foreign loop; only the
//! home takes out. A place for a future's completion is [reserved](Inbox::reserve) when the future is made, so that a
//! completion never finds the inbox full: what is bounded is the number of futures, and with them the envelopes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::unconstrained;

use super::audit::{self, Event};
use super::cell::Landing;
use super::identity::Identity;
use super::local::guarded;
use super::sync::{Condvar, Mutex};

/// How many futures and calls a home may have open at once, unless its builder says otherwise.
pub const DEFAULT_CAPACITY: usize = 1 << 20;

/// How long a wake hook may take before it is reported.
const HOOK_LIMIT: std::time::Duration = std::time::Duration::from_millis(10);

/// What a home finds in its inbox. Handled on the home only.
pub(crate) enum Envelope {
    /// The outcome that this cell carries is to be written, and its waiter woken.
    Completion(Arc<dyn Landing>),
    /// The deadline of this cell's future has passed.
    Deadline(Arc<dyn Landing>),
    /// The future of this cell was dropped off its home: its value is to be dropped here.
    Returned(Arc<dyn Landing>),
    /// A task of the home's own executor wants to be polled.
    Wake(usize),
    /// Something that a waiting frame of this home looks for has changed.
    Nudge,
    /// To be called on the home.
    Run(Box<dyn FnOnce() + Send>),
}

impl Envelope {
    /// Its home has ended: what it brings is dropped, and whoever waits for it hears so. On the home only, at its end.
    pub(crate) fn end(self) {
        match self {
            Envelope::Completion(cell) | Envelope::Deadline(cell) | Envelope::Returned(cell) => {
                guarded(|| cell.end_with_home());
                guarded(|| drop(cell));
            }
            other => guarded(|| drop(other)),
        }
    }
}

/// A place in the inbox; given back when dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// How a home learns that its inbox is not empty any more.
pub(crate) enum Bell {
    /// The home is a thread that sleeps on this.
    Condvar(Condvar),
    /// The home is a task; its waker is kept in the inbox.
    Task,
    /// The home is our event loop: a token in this channel wakes its `recv`.
    #[cfg(not(homing_loom))]
    Channel(crossbeam_channel::Sender<()>),
    /// The home is a foreign loop, whose hook we call; where it waits in a callback of its own, it sleeps on the other.
    Hook { hook: Box<dyn Fn() + Send + Sync>, waiting: Condvar },
}

pub(crate) struct Inbox {
    identity: Identity,
    state: Mutex<State>,
    bell: Bell,
    places: Arc<Semaphore>,
}

struct State {
    queue: VecDeque<Envelope>,
    /// Of the drain task, where the home is one.
    waker: Option<Waker>,
    /// Set once, when the home ends. From then on what is posted is handed back.
    closed: bool,
}

impl Inbox {
    pub(crate) fn new(identity: Identity, bell: Bell, capacity: usize) -> Arc<Self> {
        Arc::new(Inbox {
            identity,
            state: Mutex::new(State { queue: VecDeque::new(), waker: None, closed: false }),
            bell,
            places: Arc::new(Semaphore::new(capacity.min(Semaphore::MAX_PERMITS))),
        })
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// A place, or `None` when all are taken.
    pub(crate) fn try_reserve(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits for a place. Cancel safe.
    pub(crate) async fn reserve(&self) -> Option<Place> {
        // Outside of tokio's budget. Where one task has thousands of these within it (a `FuturesUnordered`, a `join_all`), the
        // budget lets 128 of them through each time and has all others polled in vain: the square of their number.
        unconstrained(Arc::clone(&self.places).acquire_owned()).await.ok()
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

    fn ring(&self, waker: Option<Waker>) {
        match &self.bell {
            Bell::Condvar(condvar) => condvar.notify_one(),
            Bell::Task => {
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            #[cfg(not(homing_loom))]
            Bell::Channel(bell) => {
                // A full channel holds a token already, and one token is enough.
                let _ = bell.try_send(());
            }
            // A hook is user code on a foreign thread: its panic must not become that of whoever completes.
            Bell::Hook { hook, waiting } => {
                waiting.notify_one();
                let begun = Instant::now();
                guarded(&**hook);
                let taken = begun.elapsed();
                if taken > HOOK_LIMIT {
                    tracing::warn!(?taken, "the wake hook of a foreign loop held up whoever completes a future of it");
                }
            }
        }
    }

    /// Moves all that is there into `tray`. On the home only.
    pub(crate) fn take_all(&self, tray: &mut VecDeque<Envelope>) {
        let mut state = self.state.lock();
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
        std::mem::swap(tray, &mut state.queue);
        Poll::Ready(())
    }

    /// Sleeps until something is there, or until the deadline. On the home only, and only where its bell is a condvar.
    pub(crate) fn sleep(&self, until: Option<Instant>) {
        let (Bell::Condvar(condvar) | Bell::Hook { waiting: condvar, .. }) = &self.bell else { return };
        let mut state = self.state.lock();
        // Guards: the ring between the look and the sleep. The condvar gives the lock up and sleeps in one step.
        while state.queue.is_empty() && until.is_none_or(|deadline| Instant::now() < deadline) {
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
        self.places.close();
    }
}
