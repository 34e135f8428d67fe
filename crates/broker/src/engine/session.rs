//! A session: one client, its channels, and what it has in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::consumer::ConsumerKey;
use super::id::{ChannelId, SessionId};
use super::message::Stored;
use super::queue::QueueKey;
use super::table::Key;

/// Stands for a channel in its key.
pub(super) enum AChannel {}

pub(super) type ChannelKey = Key<AChannel>;

#[derive(Default)]
pub(super) struct Session {
    pub(super) channels: BTreeMap<ChannelId, ChannelKey>,
    /// The queues that are its alone.
    pub(super) own: BTreeSet<QueueKey>,
    pub(super) is_paused: bool,
    /// How many bytes it takes until it is paused by itself.
    pub(super) allowance: Option<usize>,
    /// How many bytes of that it was handed.
    pub(super) handed: usize,
}

/// A channel and what goes through it.
pub(super) struct Channel<M> {
    pub(super) session: SessionId,
    pub(super) id: ChannelId,
    last_tag: u64,
    /// By delivery tag.
    pub(super) out: BTreeMap<u64, Out<M>>,
    /// How many of those came by consumers.
    pub(super) consumed: usize,
    /// By tag.
    pub(super) consumers: BTreeMap<Arc<str>, ConsumerKey>,
    /// For consumers that are started from now on.
    pub(super) consumer_prefetch: u16,
    /// For all of its consumers together, 0 for no limit.
    pub(super) prefetch: u16,
    /// Its session takes no deliveries for now.
    pub(super) is_paused: bool,
    /// Its session has an allowance.
    pub(super) is_counted: bool,
    /// The consumers that were passed over because of it, in order.
    held_up: BTreeMap<u64, ConsumerKey>,
    next_held_up: u64,
}

/// A message that a client has in hand.
pub(super) struct Out<M> {
    pub(super) queue: QueueKey,
    /// `None` for one that was taken by a get.
    pub(super) consumer: Option<ConsumerKey>,
    pub(super) stored: Stored<M>,
}

impl<M> Channel<M> {
    pub(super) fn new(session: SessionId, id: ChannelId, of: &Session) -> Self {
        Channel {
            session,
            id,
            last_tag: 0,
            out: BTreeMap::new(),
            consumed: 0,
            consumers: BTreeMap::new(),
            consumer_prefetch: 0,
            prefetch: 0,
            is_paused: of.is_paused,
            is_counted: of.allowance.is_some(),
            held_up: BTreeMap::new(),
            next_held_up: 0,
        }
    }

    /// The delivery tag of the next message: unique on the channel as long as it is open.
    pub(super) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Whether its consumers may be handed one more. As in RabbitMQ, those that do not acknowledge wait for the prefetch too,
    /// though it does not count what they get.
    pub(super) fn takes_more(&self) -> bool {
        !self.is_paused && (self.prefetch == 0 || self.consumed < usize::from(self.prefetch))
    }

    /// A consumer is passed over because of this channel.
    pub(super) fn hold_up(&mut self, key: ConsumerKey) -> u64 {
        let at = self.next_held_up;
        self.next_held_up += 1;
        self.held_up.insert(at, key);
        at
    }

    /// A consumer that was passed over because of this channel, if that takes more now.
    pub(super) fn next_held_up(&mut self) -> Option<ConsumerKey> {
        if !self.takes_more() {
            return None;
        }
        self.held_up.pop_first().map(|(_, key)| key)
    }

    /// The consumer that was passed over before all others.
    pub(super) fn first_held_up(&self) -> Option<ConsumerKey> {
        self.held_up.first_key_value().map(|(_, key)| *key)
    }

    pub(super) fn forget_held_up(&mut self, at: u64) {
        self.held_up.remove(&at);
    }

    /// Takes everything out of its client's hands, in order.
    pub(super) fn take_out(&mut self) -> BTreeMap<u64, Out<M>> {
        self.consumed = 0;
        std::mem::take(&mut self.out)
    }
}
