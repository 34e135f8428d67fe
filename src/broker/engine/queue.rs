//! A queue: what waits in it, in order, and who is to get it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::SessionId;
use super::exchange::Exchange;
use super::message::{Content, Stored};
use super::table::{Key, Table};
use crate::broker::{AutoDelete, Lane, QueueSpec};

/// The order in a queue: what is more urgent comes first, and of what is as urgent the first that came.
type Rank = (Reverse<u8>, u64);

/// A consumer of a queue.
pub(super) struct Consumer {
    pub(super) session: SessionId,
    pub(super) tag: Arc<str>,
    pub(super) lane: Lane,
    pub(super) queue: Key<Queue>,
    /// `None` where nothing is acknowledged.
    pub(super) prefetch: Option<u16>,
    /// How many it has not acknowledged.
    pub(super) out: usize,
    /// Its place among those that wait for messages. `None` once it was passed over because it takes no more.
    turn: Option<u64>,
}

impl Consumer {
    pub(super) fn new(session: SessionId, tag: Arc<str>, lane: Lane, queue: Key<Queue>, prefetch: Option<u16>) -> Self {
        Consumer { session, tag, lane, queue, prefetch, out: 0, turn: None }
    }

    pub(super) fn takes_more(&self) -> bool {
        match self.prefetch {
            None | Some(0) => true,
            Some(most) => self.out < usize::from(most),
        }
    }
}

pub(super) struct Queue {
    pub(super) name: Arc<str>,
    pub(super) spec: QueueSpec,
    pub(super) dead_letter_to: Option<Arc<str>>,
    /// The session that has it for itself alone.
    pub(super) owner: Option<SessionId>,
    pub(super) bindings: BTreeSet<(Key<Exchange>, Arc<str>)>,
    pub(super) consumers: BTreeSet<Key<Consumer>>,
    /// Whether it ever had a consumer: a queue that deletes itself waits for its first.
    was_consumed: bool,
    /// Those that wait for messages, the next one first. One that has as much as it takes stays until it is passed over, as
    /// in RabbitMQ.
    turns: BTreeMap<u64, Key<Consumer>>,
    next_turn: u64,
    /// What has not been handed out yet, by place.
    fresh: VecDeque<Stored>,
    /// What came back, by place: any of it may come before or between the fresh. In a queue with priorities everything lies
    /// here.
    returned: BTreeMap<Rank, Stored>,
    next_place: u64,
    pub(super) last_used: Instant,
    /// When the engine sees to it. May be earlier than there is something to do, never later.
    pub(super) wake: Option<Instant>,
    /// Bytes of what waits.
    pub(super) waiting_bytes: usize,
    /// Bytes of what is out and not acknowledged.
    pub(super) out_bytes: usize,
}

impl Queue {
    pub(super) fn new(spec: QueueSpec, owner: Option<SessionId>, now: Instant) -> Self {
        Queue {
            name: spec.name.as_str().into(),
            dead_letter_to: spec.dead_letter_to.as_deref().map(Arc::from),
            spec,
            owner,
            bindings: BTreeSet::new(),
            consumers: BTreeSet::new(),
            was_consumed: false,
            turns: BTreeMap::new(),
            next_turn: 0,
            fresh: VecDeque::new(),
            returned: BTreeMap::new(),
            next_place: 0,
            last_used: now,
            wake: None,
            waiting_bytes: 0,
            out_bytes: 0,
        }
    }

    /// The place and the time of a message that comes in now. By the queue's own time, what comes first also expires first; a
    /// message with less time of its own waits until it is at the head, as in RabbitMQ.
    pub(super) fn admit(&mut self, now: Instant, content: &Content) -> (u64, Option<Instant>) {
        let place = self.next_place;
        self.next_place += 1;
        let ttl = [self.spec.message_ttl, content.time_to_live()].into_iter().flatten().min();
        (place, ttl.and_then(|ttl| later(now, ttl)))
    }

    fn rank(&self, message: &Stored) -> Rank {
        let most = self.spec.priorities.unwrap_or(0);
        (Reverse(message.content.properties.priority.unwrap_or(0).min(most)), message.place)
    }

    /// Puts a message behind all others, or behind those that are as urgent.
    pub(super) fn push(&mut self, message: Stored) {
        self.waiting_bytes += message.content.weight();
        match self.spec.priorities {
            None => self.fresh.push_back(message),
            Some(_) => drop(self.returned.insert(self.rank(&message), message)),
        }
    }

    /// Puts a message back to where it was.
    pub(super) fn put_back(&mut self, mut message: Stored) {
        message.redelivered = true;
        self.waiting_bytes += message.content.weight();
        self.returned.insert(self.rank(&message), message);
    }

    pub(super) fn has_messages(&self) -> bool {
        !self.fresh.is_empty() || !self.returned.is_empty()
    }

    fn returned_is_first(&self) -> bool {
        match (self.returned.first_key_value(), self.fresh.front()) {
            (Some(((_, place), _)), Some(fresh)) => *place < fresh.place,
            (returned, _) => returned.is_some(),
        }
    }

    fn head(&self) -> Option<&Stored> {
        if self.returned_is_first() {
            self.returned.first_key_value().map(|(_, message)| message)
        } else {
            self.fresh.front()
        }
    }

    /// Takes the first message out.
    pub(super) fn pop(&mut self) -> Option<Stored> {
        let message = if self.returned_is_first() {
            self.returned.pop_first().map(|(_, message)| message)
        } else {
            self.fresh.pop_front()
        };
        if let Some(message) = &message {
            self.waiting_bytes -= message.content.weight();
        }
        message
    }

    /// The first message, if its time is over. What comes behind it has more time.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        let expired = self.head()?.expires.is_some_and(|at| at <= now);
        if expired { self.pop() } else { None }
    }

    /// Everything that waits in it, in order.
    pub(super) fn take_messages(&mut self) -> impl Iterator<Item = Stored> {
        std::iter::from_fn(|| self.pop())
    }

    /// Whether nobody has used it for its time.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.idle_until().is_some_and(|at| at <= now)
    }

    /// When it goes if nobody uses it.
    fn idle_until(&self) -> Option<Instant> {
        let expires = self.spec.expires.filter(|_| self.consumers.is_empty())?;
        later(self.last_used, expires)
    }

    /// When something in it will be over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let message = self.head().and_then(|message| message.expires);
        [message, self.idle_until()].into_iter().flatten().min()
    }

    pub(super) fn add_consumer(&mut self, key: Key<Consumer>, consumer: &mut Consumer) {
        self.consumers.insert(key);
        self.was_consumed = true;
        self.line_up(key, consumer);
    }

    /// Whether its last consumer has gone, and it is to go with it.
    pub(super) fn deletes_itself(&self) -> bool {
        self.spec.auto_delete == AutoDelete::Yes && self.was_consumed && self.consumers.is_empty()
    }

    /// A consumer waits for messages, behind those that do already.
    pub(super) fn line_up(&mut self, key: Key<Consumer>, consumer: &mut Consumer) {
        if consumer.turn.is_none() {
            consumer.turn = Some(self.next_turn);
            self.turns.insert(self.next_turn, key);
            self.next_turn += 1;
        }
    }

    /// Takes a consumer out.
    pub(super) fn remove_consumer(&mut self, key: Key<Consumer>, consumer: &Consumer) {
        self.consumers.remove(&key);
        if let Some(turn) = consumer.turn {
            self.turns.remove(&turn);
        }
    }

    /// The consumer whose turn it is; after it come the others.
    pub(super) fn next_consumer(&mut self, consumers: &mut Table<Consumer>) -> Option<Key<Consumer>> {
        while let Some((_, key)) = self.turns.pop_first() {
            let Some(consumer) = consumers.get_mut(key) else { continue };
            consumer.turn = None;
            if consumer.takes_more() {
                self.line_up(key, consumer);
                return Some(key);
            }
        }
        None
    }

    /// How many messages have come into it.
    #[cfg(test)]
    pub(super) fn arrivals(&self) -> u64 {
        self.next_place
    }

    /// What waits, in order, for the tests.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> Vec<&Stored> {
        let mut waiting: Vec<_> = self.returned.values().chain(&self.fresh).collect();
        waiting.sort_by_key(|message| message.place);
        assert!(self.fresh.iter().is_sorted_by_key(|message| message.place), "the fresh are in order");
        waiting
    }
}

/// A time so far away that it cannot be written never comes.
fn later(now: Instant, by: Duration) -> Option<Instant> {
    now.checked_add(by)
}

#[cfg(test)]
pub(super) fn a_key() -> Key<Queue> {
    let spec = QueueSpec {
        name: String::new(),
        durability: crate::broker::Durability::Transient,
        access: crate::broker::Access::Shared,
        auto_delete: crate::broker::AutoDelete::No,
        message_ttl: None,
        expires: None,
        dead_letter_to: None,
        priorities: None,
    };
    Table::default().insert(Queue::new(spec, None, Instant::now()))
}
