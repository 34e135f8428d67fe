//! The task that is a runtime's home: it alone takes the envelopes of that runtime's futures out and lands them.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::inbox::{Envelope, Inbox};
use super::local::guarded;

/// How many envelopes are landed before the runtime's other tasks get their turn.
const TURN: usize = if cfg!(homing_loom) { 2 } else { 256 };

/// Resolves never; ends the home when it is dropped, by the runtime's end.
pub(crate) struct Drain {
    inbox: Arc<Inbox>,
    tray: VecDeque<Envelope>,
}

impl Drain {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        Drain { inbox, tray: VecDeque::new() }
    }
}

impl Future for Drain {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..TURN {
            if this.tray.is_empty() && this.inbox.poll_take_all(&mut this.tray, context).is_pending() {
                return Poll::Pending;
            }
            match this.tray.pop_front() {
                Some(Envelope::Completion(cell)) => guarded(|| cell.land()),
                Some(Envelope::Deadline(cell)) => guarded(|| cell.expire()),
                Some(Envelope::Returned(cell)) => guarded(|| cell.discard()),
                Some(Envelope::Run(call)) => this.inbox.call(call),
                // Tasks of a runtime are the runtime's own.
                Some(Envelope::Wake(_) | Envelope::Nudge) | None => {}
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.inbox.close();
        for envelope in std::mem::take(&mut self.tray) {
            envelope.end();
        }
    }
}
