//! What is sent to a home.

use std::sync::Arc;

use super::panics::guarded;

/// A cell as its home handles it, whatever the type of its value. Called on the home only.
pub(crate) trait Landing: Send + Sync {
    /// Writes the outcome that has arrived and wakes the waiter.
    fn land(&self);
    /// Ends the future as timed out, if it has not ended.
    fn expire(&self);
    /// The future is gone: drops what is there and what will still arrive.
    fn discard(&self);
    /// The home ends: drops what has arrived.
    fn end_with_home(&self);
    /// The home ends: wakes the waiter, who finds that out.
    fn wake_at_end(&self);
}

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
    /// There are notes about permits for the home.
    Permits,
    /// The loop that the home is shall end.
    Stop,
}

impl Envelope {
    /// Its home has ended: what it brings is dropped, and its waiter is notified. On the home only, at its end.
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
