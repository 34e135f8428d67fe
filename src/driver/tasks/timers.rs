//! Every deadline of the book. Nothing else in the book compares times.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::message::{LeaseId, TaskId};

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Due {
    /// The pause of a task is over.
    Pause(TaskId),
    /// A task is to go on lease, or its lease is to be renewed.
    Lease(TaskId),
    /// The lease of a task has run out.
    LeaseOver(TaskId),
    /// A lease queue that could not be deleted is to be deleted.
    Delete(LeaseId),
    /// A lease that another one has replaced has run out.
    FormerOver(LeaseId),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Instant, Due)>,
    times: BTreeMap<Due, Instant>,
}

/// Far enough to be never, and near enough to be added to.
const NEVER: Duration = Duration::from_secs(86_400 * 365 * 30);

/// A time from now. Durations that users give may be as long as there are.
pub(super) fn after(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration.min(NEVER)).unwrap_or(now)
}

impl Timers {
    /// In place of an earlier time for the same thing.
    pub(super) fn set(&mut self, due: Due, at: Instant) {
        self.clear(due);
        self.times.insert(due, at);
        self.by_time.insert((at, due));
    }

    pub(super) fn clear(&mut self, due: Due) {
        if let Some(at) = self.times.remove(&due) {
            self.by_time.remove(&(at, due));
        }
    }

    pub(super) fn is_set(&self, due: Due) -> bool {
        self.times.contains_key(&due)
    }

    pub(super) fn of(&self, due: Due) -> Option<Instant> {
        self.times.get(&due).copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The first that is due by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Due> {
        let (at, due) = *self.by_time.first()?;
        if at > now {
            return None;
        }
        self.clear(due);
        Some(due)
    }

    pub(super) fn clear_all(&mut self) {
        self.by_time.clear();
        self.times.clear();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty() && self.by_time.is_empty()
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = Due> {
        self.times.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_is_a_time_that_never_comes() {
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(Due::Pause(TaskId(1)), after(now, Duration::MAX));
        timers.set(Due::Pause(TaskId(2)), after(now, Duration::from_secs(1)));
        assert!(timers.next() < Some(now + Duration::from_secs(2)));
        assert_eq!(timers.pop(after(now, Duration::from_secs(86_400 * 365))), Some(Due::Pause(TaskId(2))));
        assert_eq!(timers.pop(after(now, Duration::from_secs(86_400 * 365))), None);
    }
}
