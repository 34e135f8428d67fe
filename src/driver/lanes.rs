//! Which lane (channel) a consumer gets: one of its own, so that a channel that the broker closes costs one consumer, and no task
//! that is in hand from before. A connection has a limited number of channels: beyond a stated number, they are shared.

use std::collections::BTreeMap;

use super::connection::Sureness;
use super::tasks::Channel;
use crate::broker::Lane;

/// How many lanes consumers get of their own.
const MOST: u32 = 256;
/// The same for pulls, each of which leaves a task in hand by its lane. RabbitMQ allows 2047 channels on a connection, unless it was set.
const PULLS_MOST: u32 = 1024;

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Consumer,
    Pull,
}

#[derive(Debug)]
pub(super) struct Lanes {
    /// How many there may be on this connection.
    most: u32,
    /// How many there may be on any, as far as the broker has said so.
    allowed: u32,
    /// How many use each.
    users: BTreeMap<Lane, usize>,
    /// The tasks that came by each and are not settled.
    in_hand: BTreeMap<Lane, InHand>,
}

#[derive(Debug)]
struct InHand {
    channel: Channel,
    tasks: usize,
    is_closed: bool,
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes { most: PULLS_MOST, allowed: PULLS_MOST, users: BTreeMap::new(), in_hand: BTreeMap::new() }
    }
}

impl Lanes {
    /// None is in use any more, and there may be so many, as far as that is not too many.
    ///
    /// Guards: consumers that take every channel of a connection, so that none is left for replies and new queues.
    pub(super) fn begin_anew(&mut self, most: u32) {
        self.most = most.clamp(1, self.allowed);
        self.users.clear();
        self.in_hand.clear();
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
        self.allowed < PULLS_MOST
    }

    /// A lane that nobody uses, by which no task is in hand: a new one, while there may be more, or else the one with the fewest
    /// users.
    ///
    /// Guards: a task in hand, whose channel is closed for a question of somebody else, about a queue that is gone. Others would
    /// have it while it runs here.
    pub(super) fn take(&mut self, what_for: Use) -> Lane {
        let most = match what_for {
            Use::Consumer => self.most.min(MOST),
            Use::Pull => self.most,
        };
        let used = |lane: &Lane, users: usize| (users, self.tasks_by(*lane), *lane);
        let fewest = self.users.iter().map(|(lane, users)| used(lane, *users)).min();
        let opened = u32::try_from(self.users.len()).unwrap_or(self.most);
        let lane = match fewest {
            Some((0, 0, lane)) => lane,
            Some((_, _, lane)) if opened >= most => lane,
            // Lane 0 is for what needs no acknowledgement.
            _ => Lane(opened + 1),
        };
        *self.users.entry(lane).or_default() += 1;
        lane
    }

    /// Its consumer has ended. The lane stays open for what is still to be acknowledged by it, and then for the next.
    pub(super) fn give_back(&mut self, lane: Lane) {
        if let Some(users) = self.users.get_mut(&lane) {
            *users = users.saturating_sub(1);
        }
    }

    /// How sure it has to be that a queue stands before it is asked for by this lane.
    ///
    /// Guards: tasks in hand by a lane that is shared, since there are no more, or that may come by it before the question goes. One about
    /// a queue that is gone closes it.
    pub(super) fn sureness(&self, lane: Lane) -> Sureness {
        let is_shared = self.users.get(&lane).is_some_and(|users| *users > 1);
        if is_shared || self.tasks_by(lane) > 0 { Sureness::DeclaredNow } else { Sureness::Declared }
    }

    fn tasks_by(&self, lane: Lane) -> usize {
        self.in_hand.get(&lane).map_or(0, |in_hand| in_hand.tasks)
    }

    /// A task has come by this channel.
    pub(super) fn task_came(&mut self, channel: Channel) {
        let in_hand = self.of(channel);
        // Guards: one that was read from the events behind the end of its channel. It is the broker's again.
        if !in_hand.is_closed {
            in_hand.tasks += 1;
        }
    }

    /// A task that came by this channel is acknowledged, or goes back.
    pub(super) fn task_settled(&mut self, channel: Channel) {
        if let Some(in_hand) = self.in_hand.get_mut(&Lane(channel.lane)).filter(|in_hand| in_hand.channel == channel) {
            in_hand.tasks = in_hand.tasks.saturating_sub(1);
        }
    }

    /// The broker closed this channel, and has what came by it.
    pub(super) fn closed(&mut self, channel: Channel) {
        let in_hand = self.of(channel);
        (in_hand.tasks, in_hand.is_closed) = (0, true);
    }

    /// What came by this channel; what came by an earlier one of the same lane is the broker's.
    fn of(&mut self, channel: Channel) -> &mut InHand {
        let in_hand = self.in_hand.entry(Lane(channel.lane)).or_insert(InHand { channel, tasks: 0, is_closed: false });
        if in_hand.channel != channel {
            *in_hand = InHand { channel, tasks: 0, is_closed: false };
        }
        in_hand
    }

    /// How many consumers and tasks have a lane; for tests.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.users.values().sum::<usize>() + self.in_hand.values().map(|in_hand| in_hand.tasks).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tasks::Generation;

    #[test]
    fn no_more_lanes_are_taken_than_the_connection_has() {
        let mut lanes = Lanes::default();
        for (allowed, taken, pulled) in [(6, 6, 6), (0, 1, 1), (300, MOST, 300), (u32::MAX, MOST, PULLS_MOST)] {
            for (what_for, taken) in [(Use::Consumer, taken), (Use::Pull, pulled)] {
                lanes.begin_anew(allowed);
                let all: Vec<Lane> = (0..2000).map(|_| lanes.take(what_for)).collect();
                assert_eq!(all.iter().max(), Some(&Lane(taken)), "{allowed}");
            }
        }
    }

    #[test]
    fn a_connection_that_was_closed_for_too_many_leaves_half_of_them() {
        let mut lanes = Lanes::default();
        assert!(!lanes.are_refused());
        for opened in [10, 5, 2, 1, 1] {
            lanes.begin_anew(u32::MAX);
            let all: Vec<Lane> = (0..10).map(|_| lanes.take(Use::Consumer)).collect();
            assert_eq!(all.iter().max(), Some(&Lane(opened)));
            lanes.refused();
            assert!(lanes.are_refused());
        }
    }

    #[test]
    fn a_lane_is_taken_again_when_the_tasks_that_came_by_it_are_settled() {
        let channel = |lane: Lane, incarnation| Channel { generation: Generation(1), lane: lane.0, incarnation };
        let mut lanes = Lanes::default();
        let one = lanes.take(Use::Consumer);
        lanes.task_came(channel(one, 1));
        lanes.task_came(channel(one, 1));
        lanes.give_back(one);
        let two = lanes.take(Use::Consumer);
        assert_ne!(one, two, "a task is in hand by it");
        lanes.task_settled(channel(one, 1));
        let three = lanes.take(Use::Consumer);
        assert!(three != one && three != two, "another one is");
        lanes.task_settled(channel(one, 1));
        assert_eq!(lanes.take(Use::Consumer), one);
        // Closed, and opened again.
        lanes.task_came(channel(one, 1));
        lanes.closed(channel(one, 1));
        lanes.task_came(channel(one, 1));
        lanes.give_back(one);
        assert_eq!(lanes.take(Use::Consumer), one, "what came by it is the broker's");
        lanes.task_came(channel(one, 2));
        lanes.task_settled(channel(one, 1));
        lanes.give_back(one);
        assert_ne!(lanes.take(Use::Consumer), one);
        lanes.begin_anew(1);
        assert_eq!(lanes.in_use(), 0);
        let only = lanes.take(Use::Consumer);
        lanes.task_came(channel(only, 1));
        assert_eq!(lanes.sureness(only), Sureness::DeclaredNow);
        assert_eq!(lanes.take(Use::Consumer), only, "there are no more");
        lanes.task_settled(channel(only, 1));
        assert_eq!(lanes.sureness(only), Sureness::DeclaredNow, "a task may come by it");
        lanes.give_back(only);
        assert_eq!(lanes.sureness(only), Sureness::Declared);
    }

    #[test]
    fn lanes_come_back_and_are_shared_at_the_limit() {
        let mut lanes = Lanes::default();
        let one = lanes.take(Use::Consumer);
        let two = lanes.take(Use::Consumer);
        assert_ne!(one, two);
        lanes.give_back(one);
        assert_eq!(lanes.take(Use::Consumer), one);
        let all: Vec<Lane> = (0..10_000).map(|_| lanes.take(Use::Consumer)).collect();
        assert!(all.iter().all(|lane| (1..=MOST).contains(&lane.0)));
        let most = lanes.users.values().max().copied().unwrap_or(0);
        let least = lanes.users.values().min().copied().unwrap_or(0);
        assert!(most - least <= 1, "{least} to {most}");
    }
}
