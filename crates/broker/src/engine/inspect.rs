//! What there is, for those who show or limit it. All lists are in a fixed order.

use std::sync::Arc;

use super::counts::Counts;
use super::message::Message;
use super::queue::Queue;
use super::spec::{Access, Acknowledge, Binding, ExchangeSpec, QueueSpec};
use super::{ChannelId, Engine, SessionId};

/// A queue and how much there is in it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct QueueView<'e> {
    /// As it was declared.
    pub spec: &'e QueueSpec,
    /// The session that has it for itself.
    pub owner: Option<SessionId>,
    /// Messages that wait.
    pub waiting: usize,
    /// Messages that are out and not acknowledged.
    pub out: usize,
    /// About how many bytes those that wait take in memory.
    pub waiting_bytes: usize,
    /// About how many bytes those that are out take in memory.
    pub out_bytes: usize,
    /// Its consumers.
    pub consumers: usize,
    /// What has gone through it.
    pub counts: Counts,
}

/// A consumer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerView<'e> {
    /// Whose it is.
    pub session: SessionId,
    /// Where its deliveries go.
    pub channel: ChannelId,
    /// Its name.
    pub tag: &'e Arc<str>,
    /// What it consumes from.
    pub queue: &'e Arc<str>,
    /// Whether it acknowledges.
    pub acknowledge: Acknowledge,
    /// How many may be out to it at once, 0 for no limit.
    pub prefetch: u16,
    /// Whether it is the only one.
    pub access: Access,
    /// How urgent it is.
    pub priority: i32,
    /// How many it has not acknowledged.
    pub out: usize,
    /// Whether it is served: not where another consumer is the single active one.
    pub is_active: bool,
}

/// A channel.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ChannelView {
    /// Whose it is.
    pub session: SessionId,
    /// Its number.
    pub id: ChannelId,
    /// How many messages are out on it.
    pub out: usize,
    /// Its consumers.
    pub consumers: usize,
    /// How many may be out to each new consumer, 0 for no limit.
    pub consumer_prefetch: u16,
    /// How many may be out to all consumers together, 0 for no limit.
    pub prefetch: u16,
}

impl<M: Message> Engine<M> {
    /// About how many bytes of messages are held, in queues and by clients that have not acknowledged them. A message in two
    /// queues counts twice.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What has gone through all queues, those that have gone too.
    pub fn counts(&self) -> Counts {
        self.queues.iter().fold(self.past, |mut counts, (_, queue)| {
            counts += queue.counts;
            counts
        })
    }

    /// True where nothing would be lost with this broker but exchanges: no queue, no session.
    pub fn is_spent(&self) -> bool {
        self.sessions.is_empty() && self.queues.is_empty()
    }

    /// The sessions that there are.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// The session that has a queue for itself alone.
    pub fn owner_of(&self, queue: &str) -> Option<SessionId> {
        self.queues.get(*self.queue_names.get(queue)?)?.owner
    }

    /// A queue.
    pub fn queue(&self, name: &str) -> Option<QueueView<'_>> {
        self.queues.get(*self.queue_names.get(name)?).map(view)
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = QueueView<'_>> {
        self.queues.iter().map(|(_, queue)| view(queue))
    }

    /// An exchange.
    pub fn exchange(&self, name: &str) -> Option<&ExchangeSpec> {
        self.exchanges.get(*self.exchange_names.get(name)?).map(|exchange| &exchange.spec)
    }

    /// All exchanges but the default one.
    pub fn exchanges(&self) -> impl Iterator<Item = &ExchangeSpec> {
        self.exchanges.iter().map(|(_, exchange)| &exchange.spec)
    }

    /// All bindings but those of the default exchange.
    pub fn bindings(&self) -> impl Iterator<Item = Binding> {
        self.exchanges.iter().flat_map(move |(source, exchange)| {
            exchange
                .bindings()
                .filter_map(move |(target, key, arguments)| self.binding_of(source, target, key, arguments))
        })
    }

    /// All channels.
    pub fn channels(&self) -> impl Iterator<Item = ChannelView> {
        self.channels.iter().map(|(_, channel)| ChannelView {
            session: channel.session,
            id: channel.id,
            out: channel.out.len(),
            consumers: channel.consumers.len(),
            consumer_prefetch: channel.consumer_prefetch,
            prefetch: channel.prefetch,
        })
    }

    /// The delivery tags under which messages are out on a channel, the oldest first.
    pub fn outstanding(&self, session: SessionId, channel: ChannelId) -> impl Iterator<Item = u64> {
        let key = self.sessions.get(&session).and_then(|session| session.channels.get(&channel));
        let channel = key.and_then(|key| self.channels.get(*key));
        channel.into_iter().flat_map(|channel| channel.out.keys().copied())
    }

    /// Whether a message is out under a delivery tag.
    pub fn is_outstanding(&self, session: SessionId, channel: ChannelId, tag: u64) -> bool {
        let key = self.sessions.get(&session).and_then(|session| session.channels.get(&channel));
        key.and_then(|key| self.channels.get(*key)).is_some_and(|channel| channel.out.contains_key(&tag))
    }

    /// All consumers.
    pub fn consumers(&self) -> impl Iterator<Item = ConsumerView<'_>> {
        self.consumers.iter().filter_map(|(key, consumer)| {
            let (channel, queue) = (self.channels.get(consumer.channel)?, self.queues.get(consumer.queue)?);
            Some(ConsumerView {
                session: channel.session,
                channel: channel.id,
                tag: &consumer.tag,
                queue: &queue.spec.name,
                acknowledge: consumer.prefetch.map_or(Acknowledge::None, |_| Acknowledge::Manual),
                prefetch: consumer.prefetch.unwrap_or(0),
                access: consumer.access,
                priority: consumer.priority,
                out: consumer.out,
                is_active: queue.consumers.serves(key),
            })
        })
    }
}

fn view<M: Message>(queue: &Queue<M>) -> QueueView<'_> {
    QueueView {
        spec: &queue.spec,
        owner: queue.owner,
        waiting: queue.len(),
        out: queue.out,
        waiting_bytes: queue.waiting_bytes,
        out_bytes: queue.out_bytes,
        consumers: queue.consumers.len(),
        counts: queue.counts,
    }
}
