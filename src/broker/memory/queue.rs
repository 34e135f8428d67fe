//! A queue: what waits in it, in order, and who is to get it.

use std::collections::VecDeque;
use std::time::Instant;

use super::node::SessionId;
use crate::broker::{Body, Lane, Properties, QueueSpec};

/// A message in a queue, or out to a consumer.
pub(super) struct Stored {
    /// Its place in the queue, which it keeps when it comes back.
    pub(super) place: u64,
    pub(super) redelivered: bool,
    pub(super) expires: Option<Instant>,
    pub(super) properties: Properties,
    pub(super) body: Body,
}

pub(super) struct Consumer {
    pub(super) session: SessionId,
    pub(super) tag: String,
    pub(super) lane: Lane,
    /// `None` where nothing is acknowledged.
    pub(super) prefetch: Option<u16>,
    /// How many it has not acknowledged.
    pub(super) out: usize,
}

impl Consumer {
    fn takes_more(&self) -> bool {
        match self.prefetch {
            None | Some(0) => true,
            Some(most) => self.out < usize::from(most),
        }
    }
}

pub(super) struct Queue {
    pub(super) spec: QueueSpec,
    /// The connection that has it for itself alone.
    pub(super) owner: Option<SessionId>,
    ready: VecDeque<Stored>,
    next_place: u64,
    /// The next to get a message is at the front.
    consumers: VecDeque<Consumer>,
    pub(super) last_used: Instant,
}

impl Queue {
    pub(super) fn new(spec: QueueSpec, owner: Option<SessionId>, now: Instant) -> Self {
        Queue { spec, owner, ready: VecDeque::new(), next_place: 0, consumers: VecDeque::new(), last_used: now }
    }

    pub(super) fn push(&mut self, mut message: Stored, now: Instant) {
        message.place = self.next_place;
        message.expires = self.spec.message_ttl.map(|ttl| now + ttl);
        self.next_place += 1;
        self.ready.push_back(message);
    }

    /// Puts a message back to where it was.
    pub(super) fn put_back(&mut self, mut message: Stored) {
        message.redelivered = true;
        let at = self.ready.partition_point(|waiting| waiting.place < message.place);
        self.ready.insert(at, message);
    }

    /// The first message that has not expired; those that have go into `expired`.
    pub(super) fn pop(&mut self, now: Instant, expired: &mut Vec<Stored>) -> Option<Stored> {
        while let Some(message) = self.ready.pop_front() {
            if message.expires.is_some_and(|at| at <= now) {
                expired.push(message);
            } else {
                return Some(message);
            }
        }
        None
    }

    pub(super) fn add_consumer(&mut self, consumer: Consumer) {
        self.consumers.push_back(consumer);
    }

    /// Takes a consumer out; true when it was there.
    pub(super) fn remove_consumer(&mut self, session: SessionId, tag: &str) -> bool {
        let before = self.consumers.len();
        self.consumers.retain(|consumer| consumer.session != session || consumer.tag != tag);
        self.consumers.len() < before
    }

    pub(super) fn has_consumers(&self) -> bool {
        !self.consumers.is_empty()
    }

    pub(super) fn consumers(&self) -> impl Iterator<Item = &Consumer> {
        self.consumers.iter()
    }

    /// The consumer whose turn it is, with one message more on its account; after it come the others.
    pub(super) fn next_consumer(&mut self) -> Option<&Consumer> {
        if self.ready.is_empty() {
            return None;
        }
        let at = self.consumers.iter().position(Consumer::takes_more)?;
        self.consumers.rotate_left(at + 1);
        let consumer = self.consumers.back_mut()?;
        if consumer.prefetch.is_some() {
            consumer.out += 1;
        }
        Some(consumer)
    }

    /// A message of this consumer was settled, or was not there to be given.
    pub(super) fn settled(&mut self, session: SessionId, tag: &str) {
        let consumer = self.consumers.iter_mut().find(|consumer| consumer.session == session && consumer.tag == tag);
        if let Some(consumer) = consumer {
            consumer.out = consumer.out.saturating_sub(1);
        }
    }

    /// Everything that waits in it, for whoever deletes it.
    pub(super) fn into_messages(self) -> VecDeque<Stored> {
        self.ready
    }
}
