//! What becomes of messages that clients have in hand: acknowledged, refused, or given back; and how many they may have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::message::{Message, Reason, Stored};
use super::queue::QueueKey;
use super::refusal::Refusal;
use super::session::{ChannelKey, Out};
use super::spec::{Nack, Prefetch, Tags};
use super::{ChannelId, Engine, Result, SessionId};

impl<M: Message> Engine<M> {
    /// Acknowledges.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`]; [`Refusal::UnknownDeliveryTag`], and nothing is acknowledged then.
    pub fn ack(&mut self, session: SessionId, channel: ChannelId, tags: Tags, now: Instant) -> Result<()> {
        self.settle(session, channel, tags, now, |engine, queue, stored| {
            if let Some(queue) = engine.queues.get_mut(queue) {
                queue.counts.acknowledged += 1;
            }
            engine.forget(stored);
        })
    }

    /// Refuses: the messages go back to their places, or away, which is to the dead-letter exchange if there is one.
    ///
    /// # Errors
    /// As of [`ack`](Self::ack).
    pub fn nack(&mut self, session: SessionId, channel: ChannelId, tags: Tags, then: Nack, now: Instant) -> Result<()> {
        self.settle(session, channel, tags, now, |engine, queue, stored| match then {
            Nack::Requeue => engine.come_back(queue, stored),
            Nack::Discard => engine.dies_in(queue, stored, Reason::Rejected),
        })
    }

    /// Puts everything that is out on a channel back into the queues.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`].
    pub fn recover(&mut self, session: SessionId, channel: ChannelId, now: Instant) -> Result<()> {
        self.nack(session, channel, Tags::UpTo(0), Nack::Requeue, now)
    }

    /// The same but for these, which stay out.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`].
    pub fn recover_others(
        &mut self,
        session: SessionId,
        channel: ChannelId,
        stay: &BTreeSet<u64>,
        now: Instant,
    ) -> Result<()> {
        let key = self.begin_on(session, channel, now)?;
        let Some(channel_state) = self.channels.get_mut(key) else { return Ok(()) };
        let kept: Vec<_> = stay.iter().filter_map(|tag| Some((*tag, channel_state.out.remove(tag)?))).collect();
        let recovered = self.recover(session, channel, now);
        if let Some(channel_state) = self.channels.get_mut(key) {
            channel_state.out.extend(kept);
        }
        recovered
    }

    /// Limits how many messages may be out at once. As in RabbitMQ, a limit for each consumer takes the place of the channel's.
    ///
    /// # Errors
    /// [`Refusal::NoChannel`].
    pub fn qos(&mut self, session: SessionId, channel: ChannelId, prefetch: Prefetch, now: Instant) -> Result<()> {
        let key = self.begin_on(session, channel, now)?;
        let Some(channel) = self.channels.get_mut(key) else { return Ok(()) };
        match prefetch {
            Prefetch::EachConsumer(most) => {
                channel.consumer_prefetch = most;
                channel.prefetch = 0;
            }
            Prefetch::Channel(most) => channel.prefetch = most,
        }
        self.serve_held_up(key);
        self.bury();
        Ok(())
    }

    fn settle(
        &mut self,
        session: SessionId,
        channel: ChannelId,
        tags: Tags,
        now: Instant,
        mut each: impl FnMut(&mut Self, QueueKey, Stored<M>),
    ) -> Result<()> {
        let key = self.begin_on(session, channel, now)?;
        let Some(channel) = self.channels.get_mut(key) else { return Ok(()) };
        match tags {
            Tags::One(tag) => {
                let Some(out) = channel.out.remove(&tag) else { return Err(Refusal::UnknownDeliveryTag(tag)) };
                let queue = out.queue;
                let stored = self.out_of_hand(key, out);
                each(self, queue, stored);
                self.drop_over_limit(queue);
                self.hand_out(queue);
            }
            Tags::UpTo(tag) => {
                if tag != 0 && !channel.out.contains_key(&tag) {
                    return Err(Refusal::UnknownDeliveryTag(tag));
                }
                let later = if tag == 0 { BTreeMap::new() } else { channel.out.split_off(&(tag + 1)) };
                let settled = std::mem::replace(&mut channel.out, later);
                let mut touched = BTreeSet::new();
                for out in settled.into_values() {
                    let queue = out.queue;
                    let stored = self.out_of_hand(key, out);
                    each(self, queue, stored);
                    touched.insert(queue);
                }
                for queue in touched {
                    self.drop_over_limit(queue);
                    self.hand_out(queue);
                }
            }
        }
        self.serve_held_up(key);
        self.bury();
        Ok(())
    }

    /// A message is not in its client's hands any more: its consumer, its channel and its queue count it no longer.
    fn out_of_hand(&mut self, channel: ChannelKey, out: Out<M>) -> Stored<M> {
        if out.consumer.is_some()
            && let Some(channel) = self.channels.get_mut(channel)
        {
            channel.consumed = channel.consumed.saturating_sub(1);
        }
        if let Some(queue) = self.queues.get_mut(out.queue) {
            queue.is_in(&out.stored);
            if let Some((key, consumer)) = out.consumer.and_then(|key| Some((key, self.consumers.get_mut(key)?))) {
                consumer.out = consumer.out.saturating_sub(1);
                queue.consumers.line_up(key, consumer);
            }
        }
        out.stored
    }

    /// Puts back what is out on a channel and will not be acknowledged any more.
    pub(super) fn give_back(&mut self, channel: ChannelKey, touched: &mut BTreeSet<QueueKey>) {
        let out = self.channels.get_mut(channel).map(super::session::Channel::take_out).unwrap_or_default();
        for out in out.into_values() {
            let queue = out.queue;
            let stored = self.out_of_hand(channel, out);
            self.come_back(queue, stored);
            touched.insert(queue);
        }
    }

    fn come_back(&mut self, key: QueueKey, stored: Stored<M>) {
        match self.queues.get_mut(key) {
            None => self.forget(stored),
            Some(queue) if queue.is_worn_out(&stored) => self.dies_in(key, stored, Reason::DeliveryLimit),
            Some(queue) => queue.put_back(stored),
        }
    }

    /// Serves the consumers that were passed over because of their channel, one by one, as far as it takes more now.
    pub(super) fn serve_held_up(&mut self, key: ChannelKey) {
        while let Some(channel) = self.channels.get_mut(key) {
            let Some(consumer_key) = channel.next_held_up() else { return };
            let Some(consumer) = self.consumers.get_mut(consumer_key) else { continue };
            consumer.held_up = None;
            let queue_key = consumer.queue;
            if let Some(queue) = self.queues.get_mut(queue_key) {
                queue.consumers.line_up(consumer_key, consumer);
                // Those of one queue were passed over one behind the other, and take turns.
                while let Some((next, consumer)) = channel
                    .first_held_up()
                    .and_then(|next| Some((next, self.consumers.get_mut(next)?)))
                    .filter(|(_, consumer)| consumer.queue == queue_key)
                {
                    channel.next_held_up();
                    consumer.held_up = None;
                    queue.consumers.line_up(next, consumer);
                }
                self.hand_out(queue_key);
            }
        }
    }
}
