//! Publishing, consuming and getting: how a message comes in, and who has it then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::consumer::{Consumer, ConsumerKey};
use super::effect::{Effect, Published};
use super::message::{Handed, Message, Reason, Stored};
use super::queue::{Queue, QueueKey};
use super::refusal::{Object, Refusal};
use super::session::{ChannelKey, Out};
use super::settings::{Overflow, QueueKind};
use super::spec::{Acknowledge, ConsumeSpec, Publishers};
use super::{ChannelId, CopyId, Engine, Result, SessionId};

/// What became of a message at one queue.
enum Arrival {
    /// It came in, and this copy has to be kept.
    Kept(CopyId),
    /// It came in.
    Taken,
    /// The queue is full.
    Refused,
}

/// What a get brings.
#[derive(Debug)]
#[non_exhaustive]
pub struct Got<M> {
    /// The message.
    pub handed: Handed<M>,
    /// How many wait in the queue after it.
    pub left: usize,
}

impl<M: Message> Engine<M> {
    /// Puts a message into the queues that it is routed to. Deliveries to consumers that wait are among the effects.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::InternalExchange`]; [`Refusal::NoRoom`] where the engine
    /// [holds](Engine::holding_at_most) what it may; no queue has the message then.
    pub fn publish(&mut self, session: SessionId, message: M, now: Instant) -> Result<Published<M>> {
        self.begin(session, now)?;
        let mut queues = std::mem::take(&mut self.scratch.queues);
        queues.clear();
        let routed = self.find_queues(&message, &mut queues).and_then(|()| self.check_room(&message, &queues));
        let published = routed.map(|()| match queues.split_last() {
            None => Published::Unroutable(message),
            Some((last, others)) => {
                let (mut stored, mut refused) = (None, false);
                let mut arrived = |arrival| match arrival {
                    Arrival::Kept(copy) => stored = Some(copy),
                    Arrival::Taken => {}
                    Arrival::Refused => refused = true,
                };
                for queue in others {
                    arrived(self.arrive(*queue, message.clone()));
                }
                // The last queue, mostly the only one, has the message itself.
                arrived(self.arrive(*last, message));
                self.bury();
                if refused { Published::Rejected } else { Published::Routed { stored } }
            }
        });
        self.scratch.queues = queues;
        published
    }

    fn check_room(&self, message: &M, queues: &[QueueKey]) -> Result<()> {
        let held = self.bytes.saturating_add(message.weight());
        if held <= self.most_bytes || message.makes_room() {
            return Ok(());
        }
        let is_shared = |key: &QueueKey| self.queues.get(*key).is_some_and(|queue| queue.owner.is_none());
        let most = if queues.iter().any(is_shared) { self.most_bytes } else { self.most_bytes.saturating_mul(2) };
        if held > most && !queues.is_empty() {
            return Err(Refusal::NoRoom { held: self.bytes, most });
        }
        Ok(())
    }

    pub(super) fn find_queues(&mut self, message: &M, queues: &mut Vec<QueueKey>) -> Result<()> {
        let name = message.exchange();
        if name.is_empty() {
            self.route_by_name(message, queues);
            return Ok(());
        }
        let known = self.exchange_names.get(name).and_then(|key| Some((*key, self.exchanges.get(*key)?)));
        let missing = || Refusal::NotFound { object: Object::Exchange, name: name.into() };
        let (key, exchange) = known.ok_or_else(missing)?;
        if exchange.spec.publishers == Publishers::Exchanges {
            return Err(Refusal::InternalExchange { name: name.into() });
        }
        self.route(key, message, queues);
        Ok(())
    }

    /// Starts a consumer.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`], [`Refusal::TagTaken`], [`Refusal::NotFound`], [`Refusal::Locked`], [`Refusal::ExclusiveUse`].
    pub fn consume(&mut self, session: SessionId, spec: &ConsumeSpec, now: Instant) -> Result<()> {
        let channel_key = self.begin_on(session, spec.channel, now)?;
        let Some(channel) = self.channels.get(channel_key) else { return Err(Refusal::NoChannel(spec.channel)) };
        if channel.consumers.contains_key(&spec.tag) {
            return Err(Refusal::TagTaken(Arc::clone(&spec.tag)));
        }
        let prefetch = match spec.acknowledge {
            Acknowledge::Manual => Some(spec.prefetch.unwrap_or(channel.consumer_prefetch)),
            Acknowledge::None => None,
        };
        let queue_key = self.queue_of(session, &spec.queue)?;
        if self.queues.get(queue_key).is_some_and(|queue| !queue.consumers.admits(spec.access)) {
            return Err(Refusal::ExclusiveUse { queue: Arc::clone(&spec.queue) });
        }
        let tag = Arc::clone(&spec.tag);
        let consumer = Consumer::new(tag, channel_key, queue_key, prefetch, spec.priority, spec.access);
        let key = self.consumers.insert(consumer);
        if let Some(channel) = self.channels.get_mut(channel_key) {
            channel.consumers.insert(Arc::clone(&spec.tag), key);
        }
        if let (Some(queue), Some(consumer)) = (self.queues.get_mut(queue_key), self.consumers.get_mut(key)) {
            queue.consumers.add(key, consumer);
        }
        self.hand_out(queue_key);
        self.bury();
        Ok(())
    }

    /// Ends a consumer; what it has in hand stays out. One that is not there has ended already.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`].
    pub fn cancel(&mut self, session: SessionId, channel: ChannelId, tag: &str, now: Instant) -> Result<()> {
        let channel = self.begin_on(session, channel, now)?;
        let known = self.channels.get(channel).and_then(|channel| channel.consumers.get(tag).copied());
        if let Some(key) = known {
            let mut touched = BTreeSet::new();
            self.end_consumer(key, &mut touched);
            self.settle_queues(&touched);
            self.bury();
        }
        Ok(())
    }

    /// Takes the first message of a queue. With [`Acknowledge::None`] it has left the broker then.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`], [`Refusal::NotFound`], [`Refusal::Locked`], [`Refusal::OnlyConsumed`].
    pub fn get(
        &mut self,
        session: SessionId,
        channel: ChannelId,
        queue: &str,
        acknowledge: Acknowledge,
        now: Instant,
    ) -> Result<Option<Got<M>>> {
        let channel_key = self.begin_on(session, channel, now)?;
        let key = self.queue_of(session, queue)?;
        if self.queues.get(key).is_some_and(Queue::is_for_one_consumer) {
            return Err(Refusal::OnlyConsumed { queue: queue.into() });
        }
        self.drop_expired(key);
        let mut got = self.take_first(key, channel_key, acknowledge);
        // What was behind it and is over is not among those that are left.
        self.drop_expired(key);
        if let (Some(got), Some(queue)) = (&mut got, self.queues.get(key)) {
            got.left = queue.len();
        }
        self.plan(key);
        self.bury();
        Ok(got)
    }

    fn take_first(&mut self, key: QueueKey, channel: ChannelKey, acknowledge: Acknowledge) -> Option<Got<M>> {
        let (queue, channel) = (self.queues.get_mut(key)?, self.channels.get_mut(channel)?);
        queue.last_used = self.now;
        let stored = queue.pop()?;
        queue.counts.deliver(stored.redelivered);
        let left = queue.len();
        let (redelivered, returns) = (stored.redelivered, queue.returns_of(&stored));
        let tag = channel.next_tag();
        let message = match acknowledge {
            Acknowledge::Manual => {
                let message = stored.message.clone();
                queue.goes_out(&stored);
                channel.out.insert(tag, Out { queue: key, consumer: None, stored });
                message
            }
            Acknowledge::None => self.leaves(stored),
        };
        Some(Got { handed: Handed { tag, redelivered, returns, message }, left })
    }

    /// A message comes into a queue. A consumer that waits has it at once; it never lies in the queue then, whatever its time.
    pub(super) fn take_in(&mut self, key: QueueKey, message: M) {
        self.arrive(key, message);
    }

    fn arrive(&mut self, key: QueueKey, message: M) -> Arrival {
        let Some(queue) = self.queues.get_mut(key) else { return Arrival::Taken };
        if queue.refuses(&message) {
            if queue.settings.overflow == Overflow::RejectAndBury {
                self.dies(key, message, None, Reason::MaxLength);
            }
            return Arrival::Refused;
        }
        queue.counts.published += 1;
        let copy = CopyId(self.next_copy);
        self.next_copy += 1;
        // A quorum queue keeps whatever comes.
        let kept = queue.is_kept() && (message.is_persistent() || queue.settings.kind == QueueKind::Quorum);
        let expires = queue.expiry(self.now, &message);
        let mut stored = Stored { copy, expires, returns: 0, redelivered: false, kept, message };
        self.bytes += stored.message.weight();
        // Where something waits, no consumer takes more.
        let consumer =
            if queue.has_messages() { None } else { queue.consumers.next(&mut self.consumers, &mut self.channels) };
        // What goes to one that does not acknowledge is not kept: it would be forgotten at once.
        stored.kept &= consumer.is_none_or(|key| self.consumers.get(key).is_some_and(|known| known.prefetch.is_some()));
        let kept = stored.kept;
        if kept {
            self.effects.push(Effect::Store {
                copy,
                queue: Arc::clone(&queue.spec.name),
                expires: self.epoch.instant(expires),
                message: stored.message.clone(),
            });
        }
        if let Some(consumer) = consumer {
            self.hand_to(consumer, key, stored);
        } else {
            if kept {
                let weight = stored.message.weight();
                stored.message.put_away(copy, queue.len());
                self.bytes = self.bytes - weight + stored.message.weight();
            }
            queue.push(stored);
            self.drop_over_limit(key);
            self.plan(key);
        }
        if kept { Arrival::Kept(copy) } else { Arrival::Taken }
    }

    /// Drops from the head of a queue what is too much.
    pub(super) fn drop_over_limit(&mut self, key: QueueKey) {
        while let Some(queue) = self.queues.get_mut(key).filter(|queue| queue.is_over_limit()) {
            let Some(stored) = queue.pop() else { return };
            self.dies_in(key, stored, Reason::MaxLength);
        }
    }

    /// Hands out what waits in a queue, as far as its consumers take it.
    pub(super) fn hand_out(&mut self, key: QueueKey) {
        loop {
            self.drop_expired(key);
            let Some(queue) = self.queues.get_mut(key) else { return };
            if !queue.has_messages() {
                break;
            }
            let Some(consumer) = queue.consumers.next(&mut self.consumers, &mut self.channels) else { break };
            let Some(stored) = queue.pop() else { break };
            self.hand_to(consumer, key, stored);
        }
        self.plan(key);
    }

    fn hand_to(&mut self, consumer_key: ConsumerKey, queue_key: QueueKey, stored: Stored<M>) {
        let Some(consumer) = self.consumers.get_mut(consumer_key) else { return };
        let (Some(queue), Some(channel)) = (self.queues.get_mut(queue_key), self.channels.get_mut(consumer.channel))
        else {
            return;
        };
        let tag = channel.next_tag();
        let (redelivered, returns) = (stored.redelivered, queue.returns_of(&stored));
        queue.counts.deliver(redelivered);
        let (session, id, name) = (channel.session, channel.id, Arc::clone(&consumer.tag));
        let (is_counted, weight) = (channel.is_counted, stored.message.weight());
        let (message, gone) = if consumer.prefetch.is_some() {
            consumer.out += 1;
            channel.consumed += 1;
            let message = stored.message.clone();
            queue.goes_out(&stored);
            channel.out.insert(tag, Out { queue: queue_key, consumer: Some(consumer_key), stored });
            (message, None)
        } else {
            // Nobody gives it back, so that it goes as it is.
            self.bytes -= weight;
            (stored.message, stored.kept.then_some(stored.copy))
        };
        let handed = Handed { tag, redelivered, returns, message };
        self.effects.push(Effect::Delivery { session, channel: id, consumer: name, handed });
        if let Some(copy) = gone {
            self.effects.push(Effect::Forget { copy });
        }
        if is_counted {
            self.count_delivery(session, weight);
        }
    }

    /// A message leaves the broker with whoever took it.
    fn leaves(&mut self, stored: Stored<M>) -> M {
        self.bytes -= stored.message.weight();
        if stored.kept {
            self.effects.push(Effect::Forget { copy: stored.copy });
        }
        stored.message
    }

    /// A message is over.
    pub(super) fn forget(&mut self, stored: Stored<M>) {
        let message = self.leaves(stored);
        self.release(message);
    }

    /// Takes all consumers of a channel out of everything that knows them.
    pub(super) fn end_consumers(&mut self, channel: ChannelKey, touched: &mut BTreeSet<QueueKey>) {
        let Some(channel) = self.channels.get(channel) else { return };
        let consumers: Vec<_> = channel.consumers.values().copied().collect();
        for consumer in consumers {
            self.end_consumer(consumer, touched);
        }
    }

    /// Takes a consumer out of everything that knows it. Its queue is among those that are to be settled then.
    fn end_consumer(&mut self, key: ConsumerKey, touched: &mut BTreeSet<QueueKey>) {
        let Some(consumer) = self.consumers.remove(key) else { return };
        if let Some(channel) = self.channels.get_mut(consumer.channel) {
            channel.consumers.remove(&consumer.tag);
            if let Some(at) = consumer.held_up {
                channel.forget_held_up(at);
            }
        }
        if let Some(queue) = self.queues.get_mut(consumer.queue) {
            queue.consumers.remove(key, &consumer, &mut self.consumers);
            if queue.consumers.is_empty() {
                queue.last_used = self.now;
            }
            touched.insert(consumer.queue);
        }
    }

    /// Consumers of these queues have ended, or messages came back: those that delete themselves go, the others hand out.
    pub(super) fn settle_queues(&mut self, touched: &BTreeSet<QueueKey>) {
        for key in touched {
            if self.queues.get(*key).is_some_and(Queue::deletes_itself) {
                self.remove_queue(*key);
            } else {
                self.drop_over_limit(*key);
                self.hand_out(*key);
            }
        }
    }
}
