//! The engine as the trait [`Broker`](crate::broker::Broker) has it: lanes, which open at their first use and close when something on
//! them is refused; consumer tags that are unique on the connection; receipts that mean nothing once their lane was closed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use homing_broker::engine::{
    Acknowledge as EngineAcknowledge, Binding, ChannelId, ConsumeSpec as EngineConsumeSpec, DeleteQueue, Effect,
    Engine, ExchangeKind, ExchangeSpec as EngineExchangeSpec, Handed, Message as _, Nack as EngineNack, Published,
    Refusal, SessionId, Tags,
};

use super::content::Content;
use super::{refusal, specs};
use crate::broker::{Acknowledge, BrokerEvent, ConsumeSpec, Delivery, ExchangeSpec, Lane, Nack, QueueSpec, Receipt};

type Result<T> = std::result::Result<T, Refusal>;

/// How many bytes of messages a broker in a process holds, about. Senders of tasks that nobody takes get an error then, where
/// the process would run out of memory; callers and senders of broadcasts at twice as many. 1 GiB.
pub(super) const MOST_BYTES: usize = 1 << 30;

pub(super) struct Lanes {
    engine: Engine<Content>,
    sessions: BTreeMap<SessionId, Session>,
    events: Vec<(SessionId, BrokerEvent)>,
}

#[derive(Default)]
struct Session {
    lanes: BTreeMap<Lane, Opening>,
    /// The lanes of its consumers, by tag.
    consumers: BTreeMap<Arc<str>, Lane>,
}

/// A lane. Stays when it is closed, so that it opens under a new number.
#[derive(Default)]
struct Opening {
    is_open: bool,
    /// Counts from one.
    number: u32,
}

impl Lanes {
    pub(super) fn new(now: Instant) -> Self {
        Self::holding_at_most(MOST_BYTES, now)
    }

    pub(super) fn holding_at_most(bytes: usize, now: Instant) -> Self {
        let engine = Engine::new(now).collecting_released().holding_at_most(bytes);
        Lanes { engine, sessions: BTreeMap::new(), events: Vec::new() }
    }

    /// What the sessions are notified of, in order.
    pub(super) fn events(&mut self) -> impl Iterator<Item = (SessionId, BrokerEvent)> {
        self.take_effects();
        self.events.drain(..)
    }

    /// The messages that the engine has let go of.
    pub(super) fn released(&mut self) -> &mut Vec<Content> {
        self.engine.released()
    }

    pub(super) fn advance(&mut self, now: Instant) {
        self.engine.advance(now);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.engine.next_deadline()
    }

    pub(super) fn is_spent(&self) -> bool {
        self.engine.is_spent()
    }

    #[cfg(test)]
    pub(super) fn sessions(&self) -> Vec<SessionId> {
        self.engine.sessions().collect()
    }

    pub(super) fn connect(&mut self, now: Instant) -> SessionId {
        let session = self.engine.connect(now);
        self.sessions.insert(session, Session::default());
        session
    }

    pub(super) fn disconnect(&mut self, session: SessionId, now: Instant) {
        self.sessions.remove(&session);
        self.engine.disconnect(session, now);
    }

    pub(super) fn declare_exchange(&mut self, session: SessionId, spec: &ExchangeSpec, now: Instant) -> Result<()> {
        let spec = EngineExchangeSpec {
            durability: specs::durability(spec.durability),
            auto_delete: specs::auto_delete(spec.auto_delete),
            ..EngineExchangeSpec::new(&spec.name, ExchangeKind::Topic)
        };
        self.engine.declare_exchange(session, &spec, now)
    }

    pub(super) fn declare_queue(&mut self, session: SessionId, spec: &QueueSpec, now: Instant) -> Result<()> {
        self.engine.declare_queue(session, &specs::queue(spec), now).map(drop)
    }

    pub(super) fn bind(
        &mut self,
        session: SessionId,
        queue: &str,
        exchange: &str,
        key: &str,
        now: Instant,
    ) -> Result<()> {
        self.engine.bind(session, &Binding::to_queue(exchange, queue, key), now)
    }

    pub(super) fn unbind(
        &mut self,
        session: SessionId,
        queue: &str,
        exchange: &str,
        key: &str,
        now: Instant,
    ) -> Result<()> {
        self.engine.unbind(session, &Binding::to_queue(exchange, queue, key), now)
    }

    pub(super) fn delete_queue(&mut self, session: SessionId, queue: &str, now: Instant) -> Result<()> {
        self.engine.delete_queue(session, queue, DeleteQueue::default(), now).map(drop)
    }

    pub(super) fn publish(&mut self, session: SessionId, content: Content, now: Instant) -> Result<Published<Content>> {
        self.engine.publish(session, content, now)
    }

    pub(super) fn consume(&mut self, session: SessionId, spec: &ConsumeSpec, now: Instant) -> Result<()> {
        let tag: Arc<str> = spec.tag.as_str().into();
        // Those that ended with their queues have left their tags.
        self.take_effects();
        if self.sessions.get(&session).is_some_and(|known| known.consumers.contains_key(&tag)) {
            return Err(Refusal::TagTaken(tag));
        }
        let (acknowledge, prefetch) = match spec.acknowledge {
            Acknowledge::Manual { prefetch } => (EngineAcknowledge::Manual, Some(prefetch)),
            Acknowledge::None => (EngineAcknowledge::None, None),
        };
        let channel = ChannelId(spec.lane.0);
        let consume =
            EngineConsumeSpec { acknowledge, prefetch, ..EngineConsumeSpec::new(&spec.queue, channel, &spec.tag) };
        self.on_lane(session, spec.lane, now, |engine| engine.consume(session, &consume, now))?;
        if let Some(known) = self.sessions.get_mut(&session) {
            known.consumers.insert(tag, spec.lane);
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, session: SessionId, tag: &str, now: Instant) -> Result<()> {
        let Some(known) = self.sessions.get_mut(&session) else { return Err(Refusal::NoSession) };
        match known.consumers.remove(tag) {
            Some(lane) => self.engine.cancel(session, ChannelId(lane.0), tag, now),
            None => Ok(()),
        }
    }

    pub(super) fn get(
        &mut self,
        session: SessionId,
        queue: &str,
        lane: Lane,
        now: Instant,
    ) -> Result<Option<Delivery>> {
        let got = self.on_lane(session, lane, now, |engine| {
            engine.get(session, ChannelId(lane.0), queue, EngineAcknowledge::Manual, now)
        })?;
        let known = self.sessions.get(&session).ok_or(Refusal::NoSession)?;
        Ok(got.map(|got| known.delivery(lane, got.handed)))
    }

    /// A receipt of another opening of its lane means nothing any more; a delivery tag under which nothing is out closes the
    /// lane.
    pub(super) fn ack(&mut self, session: SessionId, receipt: Receipt, now: Instant) {
        self.settle(session, receipt, now, |engine, channel, tag| engine.ack(session, channel, tag, now));
    }

    pub(super) fn nack(&mut self, session: SessionId, receipt: Receipt, then: Nack, now: Instant) {
        let then = match then {
            Nack::Requeue => EngineNack::Requeue,
            Nack::Discard => EngineNack::Discard,
        };
        self.settle(session, receipt, now, |engine, channel, tag| engine.nack(session, channel, tag, then, now));
    }

    fn settle(
        &mut self,
        session: SessionId,
        receipt: Receipt,
        now: Instant,
        settle: impl FnOnce(&mut Engine<Content>, ChannelId, Tags) -> Result<()>,
    ) {
        let lane = self.sessions.get(&session).and_then(|session| session.lanes.get(&receipt.lane));
        // Guards: a receipt of a lane that was closed since and opened anew must not settle what has the same tag now.
        if !lane.is_some_and(|lane| lane.is_open && lane.number == receipt.opening) {
            crate::log::trace!(?receipt, "acknowledgement dropped: the lane it came by has gone");
            return;
        }
        if let Err(why) = settle(&mut self.engine, ChannelId(receipt.lane.0), Tags::One(receipt.tag)) {
            self.close_lane(session, receipt.lane, why, now);
        }
    }

    /// Asks something through a lane, which is open then; a refusal closes it.
    fn on_lane<T>(
        &mut self,
        session: SessionId,
        lane: Lane,
        now: Instant,
        ask: impl FnOnce(&mut Engine<Content>) -> Result<T>,
    ) -> Result<T> {
        let Some(known) = self.sessions.get_mut(&session) else { return Err(Refusal::NoSession) };
        let opening = known.lanes.entry(lane).or_default();
        if !opening.is_open {
            self.engine.open_channel(session, ChannelId(lane.0), now)?;
            opening.is_open = true;
            opening.number += 1;
        }
        let answer = ask(&mut self.engine);
        if let Err(why) = &answer {
            self.close_lane(session, lane, why.clone(), now);
        }
        answer
    }

    /// Closes a lane as a server does after an error.
    fn close_lane(&mut self, session: SessionId, lane: Lane, why: Refusal, now: Instant) {
        // What was sent on it before.
        self.take_effects();
        let Some(known) = self.sessions.get_mut(&session) else { return };
        let Some(opening) = known.lanes.get_mut(&lane).filter(|opening| opening.is_open) else { return };
        opening.is_open = false;
        let opening = opening.number;
        let mut consumers = Vec::new();
        known.consumers.retain(|tag, on| {
            if *on == lane {
                consumers.push(tag.to_string());
            }
            *on != lane
        });
        crate::log::debug!(lane = lane.0, ?why, "closed a lane");
        let error = refusal::into_error(why);
        self.events.push((session, BrokerEvent::LaneClosed { lane, opening, consumers, error }));
        self.engine.close_channel(session, ChannelId(lane.0), now);
    }

    /// Turns what the engine sends into events.
    fn take_effects(&mut self) {
        for effect in self.engine.effects() {
            match effect {
                Effect::Delivery { session, channel, consumer, handed } => {
                    let Some(known) = self.sessions.get(&session) else { continue };
                    let delivery = known.delivery(Lane(channel.0), handed);
                    self.events.push((session, BrokerEvent::Delivery { consumer, delivery }));
                }
                Effect::ConsumerCancelled { session, consumer, .. } => {
                    if let Some(known) = self.sessions.get_mut(&session) {
                        known.consumers.remove(&consumer);
                    }
                    let consumer = consumer.to_string();
                    self.events.push((session, BrokerEvent::ConsumerCancelled { consumer }));
                }
                // Nothing is kept: a broker in the process ends with it.
                _ => {}
            }
        }
    }
}

impl Session {
    /// A message as the trait has it.
    fn delivery(&self, lane: Lane, handed: Handed<Content>) -> Delivery {
        let opening = self.lanes.get(&lane).map_or(0, |opening| opening.number);
        let (properties, body) = handed.message.into_properties_and_body();
        let receipt = Receipt { lane, opening, tag: handed.tag };
        Delivery { receipt, redelivered: handed.redelivered, properties, body }
    }
}

/// Where a message was to go, for errors.
pub(super) fn address(content: &Content) -> (&str, &str) {
    (content.exchange(), content.routing_key())
}
