//! The task that is a runtime's home: it alone takes the envelopes of that runtime's futures out and lands them.
//!
//! What it calls may wait, on a multi-thread runtime: a done-callback, the drop of a value. The task cannot go on then, since its
//! thread stands in that wait; so another task takes over all that it has, and the first one ends when the wait is over. A wait by
//! an executor's own means is known by its first poll of a future or reservation that is pending.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::envelope::Envelope;
use super::inbox::Inbox;
use super::panics::guarded;

/// How many envelopes are landed before the runtime's other tasks get their turn.
const TURN: usize = if cfg!(homing_loom) { 2 } else { 256 };

/// Ends the home when it is dropped, by the runtime's end. Resolves only when another one has taken over.
pub(crate) struct Drain {
    /// `None` once another one has taken over.
    work: Option<Work>,
}

/// Starts another drain task on the runtime.
pub(crate) type Spawn = Arc<dyn Fn(Drain) + Send + Sync>;

/// All that a drain task has. It is one task's at a time.
struct Work {
    inbox: Arc<Inbox>,
    tray: VecDeque<Envelope>,
    spawn: Spawn,
}

#[cfg(not(homing_loom))]
thread_local! {
    /// The work of the drain task that handles an envelope on this thread now, for whoever waits within that.
    static HANDLING: RefCell<Option<Work>> = const { RefCell::new(None) };
}

#[cfg(homing_loom)]
super::sync::engine::thread_local! {
    static HANDLING: RefCell<Option<Work>> = RefCell::new(None);
}

impl Drain {
    pub(crate) fn new(inbox: Arc<Inbox>, spawn: Spawn) -> Self {
        Drain { work: Some(Work { inbox, tray: VecDeque::new(), spawn }) }
    }
}

/// Called where this thread is about to wait, or may be: when it does so within an envelope of a drain task, another task takes over.
pub(crate) fn relieve() {
    // A thread that ends runs no task.
    if let Some(work) = HANDLING.try_with(|handling| handling.borrow_mut().take()).ok().flatten() {
        let spawn = Arc::clone(&work.spawn);
        spawn(Drain { work: Some(work) });
    }
}

impl Work {
    /// Handles an envelope; `None` when another task took over meanwhile.
    fn handle(self, envelope: Envelope) -> Option<Self> {
        let inbox = match &envelope {
            Envelope::Run(_) | Envelope::Permits => Some(Arc::clone(&self.inbox)),
            _ => None,
        };
        let outer = HANDLING.with(|handling| handling.borrow_mut().replace(self));
        match (envelope, inbox) {
            (Envelope::Completion(cell), _) => guarded(move || cell.land()),
            (Envelope::Deadline(cell), _) => guarded(move || cell.expire()),
            (Envelope::Returned(cell), _) => guarded(move || cell.discard()),
            (Envelope::Run(call), Some(inbox)) => inbox.call(call),
            (Envelope::Permits, Some(inbox)) => inbox.settle_permits(),
            // Tasks of a runtime are the runtime's own, and so is its end.
            (Envelope::Wake(_) | Envelope::Nudge | Envelope::Stop | Envelope::Run(_) | Envelope::Permits, _) => {}
        }
        HANDLING.with(|handling| std::mem::replace(&mut *handling.borrow_mut(), outer))
    }
}

impl Future for Drain {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..TURN {
            // Guards: a wait within what was handled. Whoever took over has the tray and the inbox; this one touches them no more.
            let Some(work) = &mut this.work else { return Poll::Ready(()) };
            if work.tray.is_empty() && work.inbox.poll_take_all(&mut work.tray, context).is_pending() {
                return Poll::Pending;
            }
            if let Some(envelope) = work.tray.pop_front() {
                this.work = this.work.take().and_then(|work| work.handle(envelope));
            }
        }
        if this.work.is_none() {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        work.inbox.close();
        for envelope in work.tray {
            envelope.end();
        }
    }
}
