//! How long a task pauses before it goes back: longer each time, so that a task that nobody can run does not spin.

use std::collections::BTreeMap;
use std::time::Duration;

/// The first pause. Each one after it is twice as long.
const FIRST: Duration = Duration::from_millis(20);
/// No pause is longer.
pub(super) const LONGEST: Duration = Duration::from_secs(5);
/// For at most twice as many messages it is known how often they went back.
const REMEMBERED: usize = 5_000;

/// Counts how often messages went back. Of many, those that did not go back for the longest time are forgotten first.
#[derive(Clone, Debug, Default)]
pub(super) struct Pauses {
    young: BTreeMap<u64, u32>,
    old: BTreeMap<u64, u32>,
}

impl Pauses {
    /// The pause before a message goes back; the next one will be longer.
    pub(super) fn next(&mut self, key: u64) -> Duration {
        pause(self.count(key))
    }

    /// None the first time; afterwards as [`next`](Self::next).
    pub(super) fn next_after_first(&mut self, key: u64) -> Duration {
        match self.count(key) {
            0 => Duration::ZERO,
            times => pause(times - 1),
        }
    }

    /// The message has ended.
    pub(super) fn forget(&mut self, key: u64) {
        self.young.remove(&key);
        self.old.remove(&key);
    }

    /// How often it went back before this time.
    fn count(&mut self, key: u64) -> u32 {
        let times = self.young.get(&key).copied().or_else(|| self.old.remove(&key)).unwrap_or(0);
        self.young.insert(key, times.saturating_add(1));
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        times
    }

    #[cfg(test)]
    pub(super) fn times(&self, key: u64) -> u32 {
        self.young.get(&key).or_else(|| self.old.get(&key)).copied().unwrap_or(0)
    }
}

fn pause(times: u32) -> Duration {
    FIRST.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_anew_when_forgotten() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(1), FIRST);
        assert_eq!(pauses.next(1), FIRST * 2);
        for _ in 0..100 {
            assert!(pauses.next(1) <= LONGEST);
        }
        assert_eq!(pauses.next(1), LONGEST);
        pauses.forget(1);
        assert_eq!(pauses.next_after_first(1), Duration::ZERO);
        assert_eq!(pauses.next_after_first(1), FIRST);
        assert_eq!(pauses.next_after_first(2), Duration::ZERO);
    }

    #[test]
    fn a_bounded_number_is_remembered_and_the_latest_stay() {
        let mut pauses = Pauses::default();
        for key in 0..100_000 {
            let _ = pauses.next(key);
            let _ = pauses.next(7);
        }
        assert!(pauses.young.len() + pauses.old.len() <= 2 * REMEMBERED);
        assert_eq!(pauses.next(7), LONGEST);
        assert_eq!(pauses.next(0), FIRST);
    }
}
