//! Deadlines in order, for tables where most come in order and go before they ring.

use std::collections::{BTreeSet, VecDeque};

use tokio::time::Instant;

/// How many entries that were taken out stay at least before they are cleared away.
const LEFT: usize = 64;

/// A set of deadlines, by time and then by key. It does what a `BTreeSet<(Instant, K)>` does, at a tenth of the cost: messages of
/// one kind have one timeout, so that each deadline is the last of all when it comes, and mostly among the first when it goes.
pub(super) struct Deadlines<K> {
    /// Sorted. An entry that was taken out stays until it is the first, or until there are many such. The first one is there.
    in_order: VecDeque<Entry<K>>,
    /// How many entries were taken out.
    gone: usize,
    /// Those that were not the last of all when they came.
    others: BTreeSet<(Instant, K)>,
}

struct Entry<K> {
    at: (Instant, K),
    is_there: bool,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { in_order: VecDeque::new(), gone: 0, others: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Deadlines<K> {
    pub(super) fn insert(&mut self, at: (Instant, K)) {
        if self.in_order.back().is_none_or(|last| last.at < at) && !self.others.contains(&at) {
            self.in_order.push_back(Entry { at, is_there: true });
        } else if self.find(at).is_none_or(|entry| !entry.is_there) {
            self.others.insert(at);
        }
    }

    pub(super) fn remove(&mut self, at: &(Instant, K)) {
        if self.others.remove(at) {
            return;
        }
        let Some(entry) = self.find(*at) else { return };
        if std::mem::replace(&mut entry.is_there, false) {
            self.gone += 1;
            self.clear();
        }
    }

    pub(super) fn first(&self) -> Option<&(Instant, K)> {
        let in_order = self.in_order.front().map(|first| &first.at);
        in_order.into_iter().chain(self.others.first()).min()
    }

    pub(super) fn pop_first(&mut self) {
        if let Some(first) = self.first().copied() {
            self.remove(&first);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Instant, K)> {
        let all: BTreeSet<_> =
            self.in_order.iter().filter(|entry| entry.is_there).map(|entry| &entry.at).chain(&self.others).collect();
        all.into_iter()
    }

    fn find(&mut self, at: (Instant, K)) -> Option<&mut Entry<K>> {
        let found = match self.in_order.front() {
            Some(first) if first.at == at => 0,
            _ => self.in_order.binary_search_by(|entry| entry.at.cmp(&at)).ok()?,
        };
        self.in_order.get_mut(found)
    }

    /// Clears away what was taken out: at the front, and everywhere where it is more than is there.
    fn clear(&mut self) {
        while self.in_order.front().is_some_and(|first| !first.is_there) {
            self.in_order.pop_front();
            self.gone -= 1;
        }
        if self.gone > LEFT && self.gone > self.in_order.len() / 2 {
            self.in_order.retain(|entry| entry.is_there);
            self.gone = 0;
        }
        if self.in_order.capacity() > LEFT && self.in_order.len() < self.in_order.capacity() / 8 {
            self.in_order.shrink_to(2 * self.in_order.len().max(LEFT));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Everything that is asked of it, in any order, beside a plain set.
    #[test]
    fn it_is_a_set_in_the_order_of_time() {
        let zero = Instant::now();
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for round in 0..200 {
            let (mut deadlines, mut known) = (Deadlines::default(), BTreeSet::new());
            // From mostly in order to in no order at all, and from a few that are there at once to many.
            let (spread, many) = (1 + 40 * (round % 5), 1 + 100 * (round % 4));
            for step in 0..1000 {
                let at = |time: u64, key: u64| (zero + Duration::from_millis(time), key);
                match draw(8) {
                    0..4 => {
                        let new = at(step + draw(spread), draw(3));
                        deadlines.insert(new);
                        known.insert(new);
                    }
                    4 => {
                        let any = at(draw(step + spread), draw(3));
                        deadlines.remove(&any);
                        known.remove(&any);
                    }
                    _ if (known.len() as u64) < many => {}
                    5 | 6 => {
                        let early = known.iter().nth(draw(3) as usize).copied();
                        if let Some(early) = early {
                            deadlines.remove(&early);
                            known.remove(&early);
                        }
                    }
                    _ => {
                        deadlines.pop_first();
                        known.pop_first();
                    }
                }
                assert_eq!(deadlines.first(), known.first());
                assert!(deadlines.in_order.len() <= 2 * known.len() + LEFT + 1, "what was taken out piles up");
            }
            assert!(deadlines.iter().eq(&known));
        }
    }

    #[test]
    fn memory_of_many_is_given_back() {
        let zero = Instant::now();
        let all: Vec<_> = (0..100_000).map(|key| (zero + Duration::from_nanos(key), key)).collect();
        let mut deadlines = Deadlines::default();
        all.iter().for_each(|at| deadlines.insert(*at));
        // Those in the middle first.
        all[1..].iter().rev().for_each(|at| deadlines.remove(at));
        assert!(deadlines.in_order.capacity() <= 16 * LEFT, "{}", deadlines.in_order.capacity());
        assert_eq!(deadlines.first(), all.first());
    }
}
