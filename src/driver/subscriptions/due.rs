//! When services want attention: one time for each.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::Key;

/// The time of a service may be earlier than needed, which harms nothing: what is due then is decided anew. It goes with the
/// service.
///
/// Guards: times that nobody takes out. A pull may wait for as long as there is, and be given up at once.
#[derive(Default)]
pub(super) struct Due {
    by_time: BTreeSet<(Instant, Key)>,
    times: BTreeMap<Key, Instant>,
}

impl Due {
    /// This service wants attention then, or earlier where that is known already.
    pub(super) fn by(&mut self, key: &Key, at: Instant) {
        match self.times.get_mut(key) {
            Some(known) if *known <= at => return,
            Some(known) => {
                self.by_time.remove(&(*known, key.clone()));
                *known = at;
            }
            None => {
                self.times.insert(key.clone(), at);
            }
        }
        self.by_time.insert((at, key.clone()));
    }

    /// In place of the time that is known.
    pub(super) fn set(&mut self, key: &Key, at: Option<Instant>) {
        self.clear(key);
        if let Some(at) = at {
            self.by(key, at);
        }
    }

    pub(super) fn clear(&mut self, key: &Key) {
        if let Some((key, at)) = self.times.remove_entry(key) {
            self.by_time.remove(&(at, key));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The first that is due by now.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.times.remove(&key);
        Some(key)
    }

    #[cfg(test)]
    pub(super) fn time_of(&self, key: &Key) -> Option<Instant> {
        self.times.get(key).copied()
    }

    /// Which services have a time.
    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        assert_eq!(self.times.len(), self.by_time.len(), "one time for each");
        self.times.keys()
    }
}
