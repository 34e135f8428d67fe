//! A queue: what waits in it, in order, and what limits it has.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::consumer::Consumers;
use super::counts::Counts;
use super::exchange::ExchangeKey;
use super::id::{CopyId, SessionId};
use super::message::{Message, Stored};
use super::settings::{Activity, Overflow, QueueKind, Settings};
use super::spec::{Access, AutoDelete, Durability, QueueSpec};
use super::table::Key;
use super::time::Moment;

/// Stands for a queue in its key.
pub(super) enum AQueue {}

pub(super) type QueueKey = Key<AQueue>;

/// The order in a queue: what is more urgent comes first, and of what is as urgent the first that came.
type Rank = (Reverse<u8>, CopyId);

/// For how many messages a queue keeps memory that it does not use.
const ROOM: usize = 1024;

pub(super) struct Queue<M> {
    pub(super) spec: QueueSpec,
    pub(super) settings: Settings,
    /// The session that has it for itself alone.
    pub(super) owner: Option<SessionId>,
    /// The exchanges that it is bound to, and by which keys.
    pub(super) sources: BTreeSet<(ExchangeKey, Arc<str>)>,
    pub(super) consumers: Consumers,
    /// What has not been handed out yet, in order.
    fresh: VecDeque<Stored<M>>,
    /// What came back: any of it may come before or between the fresh. In a queue with priorities everything lies here.
    returned: BTreeMap<Rank, Stored<M>>,
    pub(super) last_used: Moment,
    /// When the engine sees to it. May be earlier than there is something to do, never later.
    pub(super) wake: Option<Moment>,
    /// Bytes of what waits.
    pub(super) waiting_bytes: usize,
    /// Bytes of the bodies of what waits.
    pub(super) waiting_body_bytes: usize,
    /// How many are out and not acknowledged, and their bytes.
    pub(super) out: usize,
    pub(super) out_bytes: usize,
    pub(super) counts: Counts,
}

impl<M: Message> Queue<M> {
    pub(super) fn new(spec: QueueSpec, settings: Settings, owner: Option<SessionId>, now: Moment) -> Self {
        Queue {
            consumers: Consumers::new(settings.activity),
            spec,
            settings,
            owner,
            sources: BTreeSet::new(),
            fresh: VecDeque::new(),
            returned: BTreeMap::new(),
            last_used: now,
            wake: None,
            waiting_bytes: 0,
            waiting_body_bytes: 0,
            out: 0,
            out_bytes: 0,
            counts: Counts::default(),
        }
    }

    /// Whether it survives a restart. An exclusive one goes with its session.
    pub(super) fn is_kept(&self) -> bool {
        self.spec.durability == Durability::Durable && self.spec.access == Access::Shared
    }

    /// When a message that comes in now is over. By the queue's own time, what comes first also expires first; a message with less
    /// time of its own waits until it is at the head, as in RabbitMQ.
    pub(super) fn expiry(&self, now: Moment, message: &M) -> Moment {
        let ttl = [self.settings.message_ttl, message.time_to_live()].into_iter().flatten().min();
        ttl.map_or(Moment::NEVER, |ttl| now.after(ttl))
    }

    /// Whether it has no room for this message, and refuses rather than drops.
    pub(super) fn refuses(&self, message: &M) -> bool {
        self.settings.overflow != Overflow::DropHead
            && self.exceeds(self.len() + 1, self.waiting_body_bytes + message.body_len())
    }

    /// Whether more waits than may, and the oldest is to go.
    pub(super) fn is_over_limit(&self) -> bool {
        self.settings.overflow == Overflow::DropHead && self.exceeds(self.len(), self.waiting_body_bytes)
    }

    fn exceeds(&self, length: usize, bytes: usize) -> bool {
        self.settings.max_length.is_some_and(|most| length > most)
            || self.settings.max_bytes.is_some_and(|most| bytes > most)
    }

    fn rank(&self, stored: &Stored<M>) -> Rank {
        let most = self.settings.priorities.unwrap_or(0);
        (Reverse(stored.message.priority().min(most)), stored.copy)
    }

    fn comes(&mut self, stored: &Stored<M>) {
        self.waiting_bytes += stored.message.weight();
        self.waiting_body_bytes += stored.message.body_len();
    }

    /// Puts a message behind all others, or behind those that are as urgent.
    pub(super) fn push(&mut self, stored: Stored<M>) {
        self.comes(&stored);
        match self.settings.priorities {
            None => self.fresh.push_back(stored),
            Some(_) => drop(self.returned.insert(self.rank(&stored), stored)),
        }
    }

    /// Puts a message back to where it was.
    pub(super) fn put_back(&mut self, mut stored: Stored<M>) {
        stored.redelivered = true;
        stored.returns = stored.returns.saturating_add(1);
        self.comes(&stored);
        self.returned.insert(self.rank(&stored), stored);
    }

    /// A message is in a client's hands now.
    pub(super) fn goes_out(&mut self, stored: &Stored<M>) {
        self.out += 1;
        self.out_bytes += stored.message.weight();
    }

    /// A message is in a client's hands no longer.
    pub(super) fn is_in(&mut self, stored: &Stored<M>) {
        self.out -= 1;
        self.out_bytes -= stored.message.weight();
    }

    /// Whether a message that comes back now came back too often.
    pub(super) fn is_worn_out(&self, stored: &Stored<M>) -> bool {
        self.settings.delivery_limit.is_some_and(|most| stored.returns >= most)
    }

    /// Whether messages are only handed to the one consumer that it serves.
    pub(super) fn is_for_one_consumer(&self) -> bool {
        self.settings.kind == QueueKind::Quorum && self.settings.activity == Activity::Single
    }

    /// How often a message came back, where that is counted.
    pub(super) fn returns_of(&self, stored: &Stored<M>) -> Option<u32> {
        (self.settings.kind == QueueKind::Quorum).then_some(stored.returns)
    }

    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.returned.len()
    }

    pub(super) fn has_messages(&self) -> bool {
        !self.fresh.is_empty() || !self.returned.is_empty()
    }

    fn returned_is_first(&self) -> bool {
        match (self.returned.first_key_value(), self.fresh.front()) {
            (Some(((_, copy), _)), Some(fresh)) => *copy < fresh.copy,
            (returned, _) => returned.is_some(),
        }
    }

    fn head(&self) -> Option<&Stored<M>> {
        if self.returned_is_first() {
            self.returned.first_key_value().map(|(_, stored)| stored)
        } else {
            self.fresh.front()
        }
    }

    /// Takes the first message out.
    pub(super) fn pop(&mut self) -> Option<Stored<M>> {
        let stored = if self.returned_is_first() {
            self.returned.pop_first().map(|(_, stored)| stored)
        } else {
            self.fresh.pop_front()
        };
        if let Some(stored) = &stored {
            self.waiting_bytes -= stored.message.weight();
            self.waiting_body_bytes -= stored.message.body_len();
        }
        // A queue that was long once gives its memory back, and not for every message that comes and goes.
        if self.fresh.capacity() > ROOM && self.fresh.len() < self.fresh.capacity() / 4 {
            self.fresh.shrink_to(self.fresh.capacity() / 2);
        }
        stored
    }

    /// The first message, if its time is over. What comes behind it has more time.
    pub(super) fn pop_expired(&mut self, now: Moment) -> Option<Stored<M>> {
        let expired = self.head()?.expires <= now;
        if expired { self.pop() } else { None }
    }

    /// Whether nobody has used it for its time.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.idle_until() <= now
    }

    /// When it goes if nobody uses it.
    fn idle_until(&self) -> Moment {
        match self.settings.expires {
            Some(expires) if self.consumers.is_empty() => self.last_used.after(expires),
            _ => Moment::NEVER,
        }
    }

    /// When something in it will be over.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let message = self.head().map_or(Moment::NEVER, |stored| stored.expires);
        let first = message.min(self.idle_until());
        (!first.is_never()).then_some(first)
    }

    /// Whether its last consumer has gone, and it is to go with it.
    pub(super) fn deletes_itself(&self) -> bool {
        self.spec.auto_delete == AutoDelete::Yes && self.consumers.had_any && self.consumers.is_empty()
    }

    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.fresh.capacity()
    }

    /// What waits, in order, for the tests.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> Vec<&Stored<M>> {
        assert!(self.fresh.iter().is_sorted_by_key(|stored| stored.copy), "the fresh are in order");
        let mut waiting: Vec<_> = self.returned.values().chain(&self.fresh).collect();
        waiting.sort_by_key(|stored| self.rank(stored));
        waiting
    }
}
