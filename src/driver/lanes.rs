//! Which lane (channel) a consumer gets: one of its own, so that a channel that the broker closes costs one consumer. A
//! connection has a limited number of channels: beyond a stated number, consumers share.

use std::collections::BTreeMap;

use crate::broker::Lane;

/// How many lanes consumers get of their own. RabbitMQ allows 2047 channels on a connection, unless it was set.
const MOST: u32 = 256;

#[derive(Debug)]
pub(super) struct Lanes {
    /// How many there may be on this connection.
    most: u32,
    /// How many there may be on any, as far as the broker has said so.
    allowed: u32,
    /// How many use each.
    users: BTreeMap<Lane, usize>,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes { most: MOST, allowed: MOST, users: BTreeMap::new() }
    }
}

impl Lanes {
    /// None is in use any more, and there may be so many, as far as that is not too many.
    ///
    /// Guards: consumers that take every channel of a connection, so that none is left for replies and new queues.
    pub(super) fn begin_anew(&mut self, most: u32) {
        self.most = most.clamp(1, self.allowed);
        self.users.clear();
    }

    /// The connection was closed for one channel too many: from here on there are half as many as there were.
    ///
    /// Guards: a limit of the user's, which no connection tells of. Each connection would be closed as the last was, with all that
    /// it serves; and other programs of that user count, so that half of them is looked for until it fits.
    pub(super) fn refused(&mut self) {
        let opened = u32::try_from(self.users.len()).unwrap_or(self.most);
        self.allowed = (opened / 2).max(1);
    }

    /// Whether a connection was closed for one channel too many.
    pub(super) fn are_refused(&self) -> bool {
        self.allowed < MOST
    }

    /// The lane with the fewest users; a new one while there may be more.
    pub(super) fn take(&mut self) -> Lane {
        let fewest =
            self.users.iter().min_by_key(|(lane, users)| (**users, **lane)).map(|(lane, users)| (*lane, *users));
        let opened = u32::try_from(self.users.len()).unwrap_or(self.most);
        let lane = match fewest {
            Some((lane, 0)) => lane,
            Some((lane, _)) if opened >= self.most => lane,
            // Lane 0 is for what needs no acknowledgement.
            _ => Lane(opened + 1),
        };
        *self.users.entry(lane).or_default() += 1;
        lane
    }

    /// Its consumer has ended. The lane stays open for the next, and for what is still to be acknowledged by it.
    pub(super) fn give_back(&mut self, lane: Lane) {
        if let Some(users) = self.users.get_mut(&lane) {
            *users = users.saturating_sub(1);
        }
    }

    /// How many consumers have a lane; for tests.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.users.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_lanes_are_taken_than_the_connection_has() {
        let mut lanes = Lanes::default();
        for (allowed, taken) in [(6, 6), (0, 1), (u32::MAX, MOST)] {
            lanes.begin_anew(allowed);
            let all: Vec<Lane> = (0..1000).map(|_| lanes.take()).collect();
            assert_eq!(all.iter().max(), Some(&Lane(taken)), "{allowed}");
        }
    }

    #[test]
    fn a_connection_that_was_closed_for_too_many_leaves_half_of_them() {
        let mut lanes = Lanes::default();
        assert!(!lanes.are_refused());
        for opened in [10, 5, 2, 1, 1] {
            lanes.begin_anew(u32::MAX);
            let all: Vec<Lane> = (0..10).map(|_| lanes.take()).collect();
            assert_eq!(all.iter().max(), Some(&Lane(opened)));
            lanes.refused();
            assert!(lanes.are_refused());
        }
    }

    #[test]
    fn lanes_come_back_and_are_shared_at_the_limit() {
        let mut lanes = Lanes::default();
        let one = lanes.take();
        let two = lanes.take();
        assert_ne!(one, two);
        lanes.give_back(one);
        assert_eq!(lanes.take(), one);
        let all: Vec<Lane> = (0..10_000).map(|_| lanes.take()).collect();
        assert!(all.iter().all(|lane| (1..=MOST).contains(&lane.0)));
        let most = lanes.users.values().max().copied().unwrap_or(0);
        let least = lanes.users.values().min().copied().unwrap_or(0);
        assert!(most - least <= 1, "{least} to {most}");
    }
}
