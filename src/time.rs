//! Points in time that a user's durations cannot overflow.

use std::time::Duration;

use tokio::time::Instant;

/// What stands for *never*: far enough that nobody waits for it, near enough that every clock can add it.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// The instant `time` after `now`. Times of more than 30 years count as 30 years.
///
/// Guards: `now + Duration::MAX` panics.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    now.checked_add(time.min(FAR)).unwrap_or(now)
}

/// The instant `time` from now on.
pub(crate) fn from_now(time: Duration) -> Instant {
    after(Instant::now(), time)
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
