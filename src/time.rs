//! Points in time that a user's durations cannot overflow.

use std::cell::Cell;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout_at};

/// What stands for *never*: far enough that nobody waits for it, near enough that every clock can add it.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The instant `time` after `now`. Times of more than 30 years count as 30 years.
///
/// Guards: `now + Duration::MAX` panics.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time.min(FAR)).unwrap_or(now)
}

/// The time by the system's clock, by which the communicator thread ends every wait.
// Guards: a home whose runtime has a clock of its own, which `tokio::time::pause` stops and `advance` sets forward. A deadline of that
// clock would be over before it was set, or come minutes late.
pub(crate) fn now() -> Instant {
    // In the simulation everybody has one clock, which is paused.
    if cfg!(test) { Instant::now() } else { std::time::Instant::now().into() }
}

/// The time of day, by which tasks are due.
pub(crate) fn time_of_day() -> SystemTime {
    // In the simulation it goes with the one clock.
    #[cfg(test)]
    if let Some(simulation) = crate::simulation::executor::current() {
        return SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000) + simulation.now();
    }
    SystemTime::now()
}

/// The instant `time` from now on.
pub(crate) fn from_now(time: Duration) -> Instant {
    after(now(), time)
}

/// When something that many wait for has last come forward.
#[derive(Default)]
pub(crate) struct Progress(Cell<Option<Instant>>);

impl Progress {
    /// It has come forward.
    pub(crate) fn note(&self) {
        self.0.set(Some(Instant::now()));
    }

    /// When that was.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.0.get()
    }

    /// Waits for as long as it comes forward, each time within this limit. None means that it did not.
    // Guards: one who waits behind slow ones, and would be given up though it comes forward. Guards as well: what is silent, for
    // which a thousand would wait a thousand limits.
    pub(crate) async fn wait<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let came = Instant::now();
        let mut work = pin!(work);
        loop {
            let last = self.0.get().map_or(came, |noted| noted.max(came));
            match timeout_at(after(last, limit), work.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if self.0.get() > Some(last) => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_duration_is_a_point_in_time() {
        let now = Instant::now();
        assert!(after(now, Duration::MAX) > after(now, Duration::from_secs(1 << 20)));
        assert_eq!(after(now, Duration::ZERO), now);
    }
}
