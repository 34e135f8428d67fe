//! The consumers of a queue, and whose turn it is.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::queue::QueueKey;
use super::session::{AChannel, Channel, ChannelKey};
use super::settings::Activity;
use super::spec::Access;
use super::table::{Key, Table};

pub(super) type ConsumerKey = Key<Consumer>;

/// The most urgent first, and of those that are as urgent the one that came first.
type Standing = (Reverse<i32>, u64);

/// A consumer of a queue.
pub(super) struct Consumer {
    pub(super) tag: Arc<str>,
    pub(super) channel: ChannelKey,
    pub(super) queue: QueueKey,
    /// `None` where nothing is acknowledged.
    pub(super) prefetch: Option<u16>,
    pub(super) priority: i32,
    pub(super) access: Access,
    /// How many it has not acknowledged.
    pub(super) out: usize,
    /// Its place among all consumers of its queue.
    standing: Standing,
    /// Its place among those that wait for messages. `None` once it was passed over because it takes no more.
    turn: Option<Standing>,
    /// It was passed over because of its channel, which knows it.
    pub(super) held_up: Option<u64>,
}

impl Consumer {
    pub(super) fn new(
        tag: Arc<str>,
        channel: ChannelKey,
        queue: QueueKey,
        prefetch: Option<u16>,
        priority: i32,
        access: Access,
    ) -> Self {
        let standing = (Reverse(priority), 0);
        Consumer { tag, channel, queue, prefetch, priority, access, out: 0, standing, turn: None, held_up: None }
    }

    #[cfg(test)]
    pub(super) fn is_in_line(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether its own limit allows it one more.
    pub(super) fn takes_more(&self) -> bool {
        match self.prefetch {
            None | Some(0) => true,
            Some(most) => self.out < usize::from(most),
        }
    }
}

/// The consumers of one queue.
pub(super) struct Consumers {
    all: BTreeMap<Standing, ConsumerKey>,
    /// Those that wait for messages, the next one first. One that has as much as it takes stays until it is passed over, as
    /// in RabbitMQ.
    turns: BTreeMap<Standing, ConsumerKey>,
    next: u64,
    /// Whether there ever was one: a queue that deletes itself waits for its first.
    pub(super) had_any: bool,
    activity: Activity,
    /// The one that is served, where only one is.
    active: Option<ConsumerKey>,
    /// The one beside which there is no other.
    pub(super) exclusive: Option<ConsumerKey>,
}

impl Consumers {
    pub(super) fn new(activity: Activity) -> Self {
        Consumers {
            all: BTreeMap::new(),
            turns: BTreeMap::new(),
            next: 0,
            had_any: false,
            activity,
            active: None,
            exclusive: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them, the most urgent first.
    pub(super) fn iter(&self) -> impl Iterator<Item = ConsumerKey> {
        self.all.values().copied()
    }

    /// Whether one that wants such access can be added.
    pub(super) fn admits(&self, access: Access) -> bool {
        match access {
            Access::Exclusive => self.is_empty() && self.activity == Activity::All,
            Access::Shared => self.exclusive.is_none(),
        }
    }

    pub(super) fn add(&mut self, key: ConsumerKey, consumer: &mut Consumer) {
        consumer.standing = (Reverse(consumer.priority), self.next);
        self.next += 1;
        self.all.insert(consumer.standing, key);
        self.had_any = true;
        if consumer.access == Access::Exclusive {
            self.exclusive = Some(key);
        }
        if self.activity == Activity::Single && self.active.is_none() {
            self.active = Some(key);
        }
        self.line_up(key, consumer);
    }

    /// Takes one out. Another may be the active one then, and waits for messages.
    pub(super) fn remove(&mut self, key: ConsumerKey, gone: &Consumer, consumers: &mut Table<Consumer>) {
        self.all.remove(&gone.standing);
        if let Some(turn) = gone.turn {
            self.turns.remove(&turn);
        }
        if self.exclusive == Some(key) {
            self.exclusive = None;
        }
        if self.active == Some(key) {
            self.active = self.all.values().next().copied();
            if let Some((key, consumer)) = self.active.and_then(|key| Some((key, consumers.get_mut(key)?))) {
                self.line_up(key, consumer);
            }
        }
    }

    /// Whether it is served at all: not where another one is the active one.
    pub(super) fn serves(&self, key: ConsumerKey) -> bool {
        self.activity == Activity::All || self.active == Some(key)
    }

    /// A consumer waits for messages, behind those that do already.
    pub(super) fn line_up(&mut self, key: ConsumerKey, consumer: &mut Consumer) {
        if consumer.turn.is_none() && consumer.held_up.is_none() && self.serves(key) {
            let turn = (Reverse(consumer.priority), self.next);
            self.next += 1;
            consumer.turn = Some(turn);
            self.turns.insert(turn, key);
        }
    }

    /// The consumer whose turn it is; after it come the others. One whose channel takes no more is known to the channel from now
    /// on, which lines it up again.
    pub(super) fn next<M>(
        &mut self,
        consumers: &mut Table<Consumer>,
        channels: &mut Table<Channel<M>, AChannel>,
    ) -> Option<ConsumerKey> {
        while let Some((turn, key)) = self.turns.first_key_value().map(|(turn, key)| (*turn, *key)) {
            let consumer = consumers.get_mut(key);
            let Some((channel, consumer)) = consumer.and_then(|known| Some((channels.get_mut(known.channel)?, known)))
            else {
                self.turns.remove(&turn);
                continue;
            };
            let is_free = consumer.takes_more();
            let takes_more = is_free && channel.takes_more();
            // Mostly there is one consumer, and nobody to go behind.
            if takes_more && self.turns.len() == 1 {
                return Some(key);
            }
            self.turns.remove(&turn);
            consumer.turn = None;
            if takes_more {
                self.line_up(key, consumer);
                return Some(key);
            }
            if is_free {
                consumer.held_up = Some(channel.hold_up(key));
            }
        }
        None
    }
}
