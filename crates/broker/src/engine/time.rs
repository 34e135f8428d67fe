//! Time inside the engine: half the size of an `Instant`, for every message has one.

use std::time::{Duration, Instant};

/// Nanoseconds since the engine began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    /// Later than all others; a time so far away that it cannot be written.
    pub(super) const NEVER: Moment = Moment(u64::MAX);

    pub(super) fn after(self, time: Duration) -> Self {
        Moment(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(super) fn is_never(self) -> bool {
        self == Moment::NEVER
    }
}

/// The engine's own count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch(Instant);

impl Epoch {
    pub(super) fn new(now: Instant) -> Self {
        Epoch(now)
    }

    /// What lies before the engine began is its beginning.
    pub(super) fn moment(self, at: Instant) -> Moment {
        Moment(0).after(at.saturating_duration_since(self.0))
    }

    /// `None` for what never comes.
    pub(super) fn instant(self, at: Moment) -> Option<Instant> {
        if at.is_never() { None } else { self.0.checked_add(Duration::from_nanos(at.0)) }
    }
}
