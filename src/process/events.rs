//! Changes of state, as a stream.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Pid, StateChange};
use crate::error::Result;
use crate::{BroadcastFilter, Broadcasts, Communicator, Lagged};

/// The subjects of changes of state.
const SUBJECTS: &str = r"state_changed\.";

/// Changes of state as they come; a [`Stream`]. Made by [`ProcessController::events`](super::ProcessController::events).
/// Dropped, its subscription ends.
///
/// A receiver that does not keep up loses the oldest, and gets [`Lagged`] in their place, which counts broadcasts of all
/// processes. While the connection is away nobody keeps broadcasts: an event of the
/// [communicator](crate::Communicator::events) reports the gap.
#[must_use = "dropped, its subscription ends"]
pub struct ProcessEvents {
    broadcasts: Broadcasts,
    /// Whose; all if it is empty.
    pids: HashSet<Pid>,
}

impl ProcessEvents {
    pub(super) async fn subscribe(communicator: &Communicator, pids: HashSet<Pid>) -> Result<Self> {
        let filter = BroadcastFilter::new().subject_regex(SUBJECTS)?;
        Ok(ProcessEvents { broadcasts: communicator.broadcasts(filter).await?, pids })
    }

    /// The next change, or that broadcasts were lost; `None` when the communicator has closed.
    ///
    /// # Errors
    /// [`Lagged`] when this receiver did not keep up. The changes that follow are there.
    ///
    /// # Cancel safety
    /// No change is lost when it is dropped.
    pub async fn next(&mut self) -> Option<std::result::Result<StateChange, Lagged>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn is_wanted(&self, change: &StateChange) -> bool {
        self.pids.is_empty() || self.pids.contains(change.pid())
    }
}

impl Stream for ProcessEvents {
    type Item = std::result::Result<StateChange, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let broadcast = match std::task::ready!(Pin::new(&mut self.broadcasts).poll_next(context)) {
                Some(Ok(broadcast)) => broadcast,
                Some(Err(lagged)) => return Poll::Ready(Some(Err(lagged))),
                None => return Poll::Ready(None),
            };
            match StateChange::from_broadcast(&broadcast) {
                Ok(Some(change)) if self.is_wanted(&change) => return Poll::Ready(Some(Ok(change))),
                Ok(_) => {}
                Err(error) => crate::log::warn!(%error, "a change of state cannot be read"),
            }
        }
    }
}

impl fmt::Debug for ProcessEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessEvents").field("pids", &self.pids).finish_non_exhaustive()
    }
}
