//! The timers of handles: waits at homes that end by the communicator's clock.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::command::{Expiry, TimerId};

#[derive(Default)]
pub(super) struct Timers {
    running: BTreeMap<TimerId, (Instant, Expiry)>,
    order: BTreeSet<(Instant, TimerId)>,
}

impl Timers {
    pub(super) fn start(&mut self, id: TimerId, at: Instant, expiry: Expiry) {
        self.running.insert(id, (at, expiry));
        self.order.insert((at, id));
    }

    /// Its wait has ended otherwise.
    pub(super) fn cancel(&mut self, id: TimerId) {
        if let Some((at, _)) = self.running.remove(&id) {
            self.order.remove(&(at, id));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The next one that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(TimerId, Expiry)> {
        let (at, id) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.order.pop_first();
        self.running.remove(&id).map(|(_, expiry)| (id, expiry))
    }

    #[cfg(test)]
    #[allow(dead_code, reason = "the simulation asks for it")]
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}
