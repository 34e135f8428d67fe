//! Makes a failing seed small: leaves choices out, which are then harmless, as long as it goes on failing in the same way.

use super::choices::{Key, Keys};

/// The choices without which the failure does not come, of those with which it does. `fails` runs the seed with the given
/// choices alone; it is called `budget` times at most.
pub(super) fn shrink(choices: &[Key], mut budget: usize, fails: impl Fn(&Keys) -> bool) -> Vec<Key> {
    let mut kept = choices.to_vec();
    let mut fails = |kept: &[Key]| {
        budget = budget.saturating_sub(1);
        budget > 0 && fails(&kept.iter().copied().collect())
    };
    // Whole streams first, for most of them have nothing to do with it.
    let mut streams: Vec<u64> = kept.iter().map(|key| key.0).collect();
    streams.sort_unstable();
    streams.dedup();
    for stream in streams {
        let others: Vec<Key> = kept.iter().copied().filter(|key| key.0 != stream).collect();
        if fails(&others) {
            kept = others;
        }
    }
    // Then smaller and smaller parts, until nothing more can go.
    loop {
        let before = kept.len();
        let mut size = kept.len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            while at < kept.len() {
                let end = (at + size).min(kept.len());
                let others: Vec<Key> = kept[..at].iter().chain(&kept[end..]).copied().collect();
                if fails(&others) {
                    kept = others;
                } else {
                    at = end;
                }
            }
            if size == 1 {
                break;
            }
            size = size.div_ceil(2);
        }
        if kept.len() == before {
            return kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_nothing_to_do_with_the_failure_goes() {
        let all: Vec<Key> = (0..40).flat_map(|stream| (0..20).map(move |number| (stream, number))).collect();
        let needed = [(3, 7), (3, 8), (31, 0)];
        let kept = shrink(&all, usize::MAX, |kept| needed.iter().all(|key| kept.contains(key)));
        assert_eq!(kept, needed);
    }

    #[test]
    fn the_budget_bounds_the_runs() {
        let runs = std::cell::Cell::new(0);
        let all: Vec<Key> = (0..100).map(|stream| (stream, 0)).collect();
        let kept = shrink(&all, 10, |_| {
            runs.set(runs.get() + 1);
            true
        });
        assert!(runs.get() < 10 && kept.len() > 80, "{} runs, {} left", runs.get(), kept.len());
    }
}
