//! What the simulated broker keeps: exchanges, queues and sessions with the semantics of AMQP 0-9-1 as RabbitMQ 3.10 has
//! them. No I/O and no clock: time comes in, events are left for each session. Written apart from the brokers that ship, so
//! that it does not share their mistakes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{
    Access, Acknowledge, AutoDelete, Body, BrokerEvent, ConsumeSpec, Delivery, Durability, ExchangeSpec, Lane, Message,
    Nack, Properties, QueueSpec, Receipt, Routing,
};
use crate::error::{Detail, Error, ErrorKind, Result};

/// A connection, as the server numbers it.
pub(super) type SessionId = u64;

#[derive(Clone)]
struct Stored {
    /// Its place in its queue, to which it returns.
    position: u64,
    properties: Properties,
    body: Body,
    durability: Durability,
    redelivered: bool,
    expires: Option<Instant>,
}

struct Exchange {
    spec: ExchangeSpec,
    /// Key and queue.
    bindings: Vec<(String, String)>,
}

struct Consumer {
    /// Another one may have its tag later.
    serial: u64,
    session: SessionId,
    tag: String,
    lane: Lane,
    acknowledge: Acknowledge,
    out: u16,
}

struct Queue {
    spec: QueueSpec,
    owner: Option<SessionId>,
    ready: VecDeque<Stored>,
    consumers: VecDeque<Consumer>,
    last_used: Instant,
    next_position: u64,
    had_consumer: bool,
}

struct Out {
    queue: String,
    /// By its serial number.
    consumer: Option<u64>,
    lane: Lane,
    message: Stored,
}

#[derive(Default)]
struct Session {
    events: VecDeque<BrokerEvent>,
    out: BTreeMap<u64, Out>,
    last_tag: u64,
    /// What was out and went with its queue.
    gone: BTreeSet<u64>,
    openings: BTreeMap<Lane, u32>,
}

/// A queue as it is seen from outside.
#[derive(Clone, Debug)]
pub(super) struct QueueState {
    pub(super) name: String,
    pub(super) exclusive: bool,
    pub(super) ready: usize,
    pub(super) out: usize,
    /// Sessions of the consumers.
    pub(super) consumers: Vec<SessionId>,
}

#[derive(Default)]
pub(super) struct Store {
    exchanges: BTreeMap<String, Exchange>,
    queues: BTreeMap<String, Queue>,
    sessions: BTreeMap<SessionId, Session>,
    last_session: SessionId,
    last_consumer: u64,
    /// Something is left for a session.
    has_events: bool,
    /// What a broker closes a channel for: deliveries that were settled and were not out.
    pub(super) settled_wrongly: Vec<String>,
}

fn gone() -> Error {
    Error::new(ErrorKind::ConnectionLost, "simulated: the server has dropped this connection")
}

fn missing(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("simulated: there is no {what} {name:?}"))
}

/// Whether a binding's key matches a routing key: `*` is one word, `#` any number of them.
fn matches(pattern: &str, key: &str) -> bool {
    fn words(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|skipped| words(rest, &key[skipped..])),
            Some((word, rest)) => {
                key.split_first().is_some_and(|(first, others)| (*word == "*" || word == first) && words(rest, others))
            }
        }
    }
    if !pattern.contains(['*', '#']) {
        return pattern == key;
    }
    words(&pattern.split('.').collect::<Vec<_>>(), &key.split('.').collect::<Vec<_>>())
}

impl Store {
    pub(super) fn connect(&mut self) -> SessionId {
        self.last_session += 1;
        self.sessions.insert(self.last_session, Session::default());
        self.last_session
    }

    /// The server ends a session: its consumers and exclusive queues go, what it had out returns.
    pub(super) fn disconnect(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let owned: Vec<String> = self.named(|queue| queue.owner == Some(id));
        for queue in owned {
            self.remove_queue(&queue);
        }
        let mut used = self.named(|queue| queue.consumers.iter().any(|consumer| consumer.session == id));
        for name in &used {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.consumers.retain(|consumer| consumer.session != id);
            }
        }
        for (_, out) in session.out {
            used.push(out.queue.clone());
            self.put_back(out);
        }
        self.see_to(used, now);
    }

    pub(super) fn is_connected(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// The broker starts anew: what is not durable is gone.
    pub(super) fn restart(&mut self, now: Instant) {
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.disconnect(session, now);
        }
        let transient = self.named(|queue| queue.spec.durability == Durability::Transient);
        for queue in transient {
            self.remove_queue(&queue);
        }
        self.exchanges.retain(|_, exchange| exchange.spec.durability == Durability::Durable);
        for queue in self.queues.values_mut() {
            queue.ready.retain(|message| message.durability == Durability::Durable);
        }
    }

    /// What is left for each session, by session.
    pub(super) fn take_events(&mut self) -> Vec<(SessionId, VecDeque<BrokerEvent>)> {
        if !std::mem::take(&mut self.has_events) {
            return Vec::new();
        }
        let left = self.sessions.iter_mut().filter(|(_, session)| !session.events.is_empty());
        left.map(|(id, session)| (*id, std::mem::take(&mut session.events))).collect()
    }

    fn named(&self, which: impl Fn(&Queue) -> bool) -> Vec<String> {
        self.queues.iter().filter(|(_, queue)| which(queue)).map(|(name, _)| name.clone()).collect()
    }

    fn tell(&mut self, session: SessionId, event: BrokerEvent) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.events.push_back(event);
            self.has_events = true;
        }
    }

    fn check(&self, session: SessionId) -> Result<()> {
        if self.is_connected(session) { Ok(()) } else { Err(gone()) }
    }

    fn queue_for(&mut self, session: SessionId, name: &str) -> Result<&mut Queue> {
        self.check(session)?;
        match self.queues.get_mut(name) {
            None => Err(missing("queue", name)),
            Some(queue) if queue.owner.is_some_and(|owner| owner != session) => {
                Err(Error::new(ErrorKind::ResourceLocked, format!("simulated: the queue {name:?} is another's")))
            }
            Some(queue) => Ok(queue),
        }
    }

    pub(super) fn declare_exchange(&mut self, session: SessionId, spec: &ExchangeSpec) -> Result<()> {
        self.check(session)?;
        match self.exchanges.get(&*spec.name) {
            Some(known) if known.spec != *spec => {
                Err(Error::new(ErrorKind::PreconditionFailed, format!("simulated: the exchange {} differs", spec.name)))
            }
            Some(_) => Ok(()),
            None => {
                let exchange = Exchange { spec: spec.clone(), bindings: Vec::new() };
                self.exchanges.insert(spec.name.to_string(), exchange);
                Ok(())
            }
        }
    }

    pub(super) fn declare_queue(&mut self, session: SessionId, spec: &QueueSpec, now: Instant) -> Result<()> {
        self.check(session)?;
        if self.queues.contains_key(&spec.name) {
            let queue = self.queue_for(session, &spec.name)?;
            queue.last_used = now;
            if queue.spec != *spec {
                let text = format!("simulated: the queue {} differs", spec.name);
                return Err(Error::new(ErrorKind::PreconditionFailed, text));
            }
            return Ok(());
        }
        let queue = Queue {
            owner: (spec.access == Access::Exclusive).then_some(session),
            spec: spec.clone(),
            ready: VecDeque::new(),
            consumers: VecDeque::new(),
            last_used: now,
            next_position: 0,
            had_consumer: false,
        };
        self.queues.insert(spec.name.clone(), queue);
        Ok(())
    }

    pub(super) fn bind(&mut self, session: SessionId, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.queue_for(session, queue)?;
        let exchange = self.exchanges.get_mut(exchange).ok_or_else(|| missing("exchange", exchange))?;
        let binding = (key.to_owned(), queue.to_owned());
        if !exchange.bindings.contains(&binding) {
            exchange.bindings.push(binding);
        }
        Ok(())
    }

    pub(super) fn unbind(&mut self, session: SessionId, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.check(session)?;
        self.unbind_where(|name, bound, to| name == exchange && bound == key && to == queue);
        Ok(())
    }

    fn unbind_where(&mut self, which: impl Fn(&str, &str, &str) -> bool) {
        self.exchanges.retain(|name, exchange| {
            let before = exchange.bindings.len();
            exchange.bindings.retain(|(key, queue)| !which(name, key, queue));
            let emptied = exchange.bindings.is_empty() && before > 0;
            !(emptied && exchange.spec.auto_delete == AutoDelete::Yes)
        });
    }

    /// Returns how many messages went with it.
    pub(super) fn delete_queue(&mut self, session: SessionId, name: &str) -> Result<u32> {
        let ready = match self.queue_for(session, name) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            queue => queue?.ready.len(),
        };
        self.remove_queue(name);
        Ok(u32::try_from(ready).unwrap_or(u32::MAX))
    }

    /// Deletes a queue; returns the bodies that were in it or out of it.
    pub(super) fn remove_queue(&mut self, name: &str) -> Vec<Body> {
        let Some(queue) = self.queues.remove(name) else { return Vec::new() };
        self.unbind_where(|_, _, to| to == name);
        for consumer in queue.consumers {
            self.tell(consumer.session, BrokerEvent::ConsumerCancelled { consumer: consumer.tag });
        }
        let mut bodies: Vec<Body> = queue.ready.into_iter().map(|message| message.body).collect();
        for session in self.sessions.values_mut() {
            let (bodies, gone) = (&mut bodies, &mut session.gone);
            session.out.retain(|tag, out| {
                if out.queue == name {
                    bodies.push(out.message.body.clone());
                    gone.insert(*tag);
                }
                out.queue != name
            });
        }
        bodies
    }

    pub(super) fn consume(&mut self, session: SessionId, spec: &ConsumeSpec, now: Instant) -> Result<()> {
        self.queue_for(session, &spec.queue)?;
        if self.lane_of(session, &spec.tag).is_some() {
            return Err(Error::new(ErrorKind::InvalidState, format!("simulated: the tag {} is in use", spec.tag)));
        }
        self.last_consumer += 1;
        let serial = self.last_consumer;
        let queue = self.queue_for(session, &spec.queue)?;
        queue.last_used = now;
        queue.had_consumer = true;
        queue.consumers.push_back(Consumer {
            serial,
            session,
            tag: spec.tag.clone(),
            lane: spec.lane,
            acknowledge: spec.acknowledge,
            out: 0,
        });
        self.deliver(&spec.queue, now);
        Ok(())
    }

    pub(super) fn cancel(&mut self, session: SessionId, tag: &str, now: Instant) -> Result<()> {
        self.check(session)?;
        self.end_consumer(session, tag, now);
        Ok(())
    }

    fn end_consumer(&mut self, session: SessionId, tag: &str, now: Instant) {
        let is_it = |consumer: &Consumer| consumer.session == session && consumer.tag == tag;
        let used = self.named(|queue| queue.consumers.iter().any(is_it));
        for name in &used {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.consumers.retain(|consumer| !is_it(consumer));
                queue.last_used = now;
            }
        }
        self.see_to(used, now);
    }

    /// The lane that a consumer is on.
    pub(super) fn lane_of(&self, session: SessionId, tag: &str) -> Option<Lane> {
        let consumers = self.queues.values().flat_map(|queue| &queue.consumers);
        consumers
            .filter(|consumer| consumer.session == session && consumer.tag == tag)
            .map(|consumer| consumer.lane)
            .next()
    }

    pub(super) fn get(&mut self, session: SessionId, name: &str, lane: Lane, now: Instant) -> Result<Option<Delivery>> {
        self.expire(now);
        let queue = self.queue_for(session, name)?;
        queue.last_used = now;
        let Some(message) = queue.ready.pop_front() else { return Ok(None) };
        let session = self.sessions.get_mut(&session).ok_or_else(gone)?;
        Ok(Some(session.hand_out(name, None, lane, message)))
    }

    pub(super) fn publish(&mut self, session: SessionId, message: &Message, now: Instant) -> Result<()> {
        self.check(session)?;
        self.publish_late(message, now)
    }

    /// A publish that is read from a connection whose other half the server has given up.
    pub(super) fn publish_late(&mut self, message: &Message, now: Instant) -> Result<()> {
        self.expire(now);
        let mut queues: Vec<String> = if message.exchange.is_empty() {
            let queue = message.routing_key.to_string();
            self.queues.contains_key(&queue).then_some(queue).into_iter().collect()
        } else {
            let exchange =
                self.exchanges.get(&*message.exchange).ok_or_else(|| missing("exchange", &message.exchange))?;
            let bound = exchange.bindings.iter().filter(|(key, _)| matches(key, &message.routing_key));
            bound.map(|(_, queue)| queue.clone()).collect()
        };
        queues.sort();
        queues.dedup();
        if queues.is_empty() && message.routing == Routing::Mandatory {
            let text = format!("simulated: no queue is bound for {:?}", message.routing_key);
            return Err(Error::new(ErrorKind::Unroutable, text));
        }
        let is_full = |name: &String| {
            self.queues
                .get(name)
                .is_some_and(|queue| queue.spec.max_length.is_some_and(|most| queue.ready.len() >= most as usize))
        };
        if queues.iter().any(is_full) {
            return Err(Error::with_detail(
                ErrorKind::DeliveryFailed,
                "simulated: the queue is full",
                Detail::NotTaken,
            ));
        }
        for name in queues {
            let stored = Stored {
                position: 0,
                properties: message.properties.clone(),
                body: message.body.clone(),
                durability: message.durability,
                redelivered: false,
                expires: None,
            };
            self.push(&name, stored, now);
        }
        Ok(())
    }

    fn push(&mut self, name: &str, mut message: Stored, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        message.position = queue.next_position;
        queue.next_position += 1;
        let own = message.properties.rest().and_then(|rest| rest.expiration.as_deref()?.parse().ok());
        let time = [queue.spec.message_ttl, own.map(Duration::from_millis)].into_iter().flatten().min();
        message.expires = time.and_then(|time| now.checked_add(time));
        queue.ready.push_back(message);
        self.deliver(name, now);
    }

    pub(super) fn ack(&mut self, session: SessionId, receipt: Receipt, now: Instant) {
        if let Some(out) = self.settle(session, receipt) {
            self.see_to(vec![out.queue], now);
        }
    }

    pub(super) fn nack(&mut self, session: SessionId, receipt: Receipt, then: Nack, now: Instant) {
        if let Some(out) = self.settle(session, receipt) {
            let queue = out.queue.clone();
            if then == Nack::Requeue {
                self.put_back(out);
            }
            self.see_to(vec![queue], now);
        }
    }

    fn settle(&mut self, id: SessionId, receipt: Receipt) -> Option<Out> {
        let session = self.sessions.get_mut(&id)?;
        if session.opening(receipt.lane) != receipt.opening {
            return None;
        }
        let Some(out) = session.out.remove(&receipt.tag) else {
            if !session.gone.remove(&receipt.tag) {
                self.settled_wrongly.push(format!("session {id}, {:?}, tag {}", receipt.lane, receipt.tag));
            }
            return None;
        };
        if let Some(queue) = self.queues.get_mut(&out.queue)
            && let Some(consumer) = queue.consumers.iter_mut().find(|known| Some(known.serial) == out.consumer)
        {
            consumer.out -= 1;
        }
        Some(out)
    }

    fn put_back(&mut self, out: Out) {
        let Some(queue) = self.queues.get_mut(&out.queue) else { return };
        let message = Stored { redelivered: true, ..out.message };
        let at = queue.ready.iter().position(|other| other.position > message.position).unwrap_or(queue.ready.len());
        queue.ready.insert(at, message);
    }

    /// The server closes a channel.
    pub(super) fn close_lane(&mut self, id: SessionId, lane: Lane, why: Error, now: Instant) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let opening = session.opening(lane);
        session.openings.insert(lane, opening + 1);
        let tags: Vec<u64> = session.out.iter().filter(|(_, out)| out.lane == lane).map(|(tag, _)| *tag).collect();
        let back: Vec<Out> = tags.into_iter().filter_map(|tag| session.out.remove(&tag)).collect();
        let mut consumers = Vec::new();
        let mut used = Vec::new();
        for (name, queue) in &mut self.queues {
            queue.consumers.retain(|consumer| {
                let goes = consumer.session == id && consumer.lane == lane;
                if goes {
                    consumers.push(consumer.tag.clone());
                    used.push(name.clone());
                }
                !goes
            });
        }
        self.tell(id, BrokerEvent::LaneClosed { lane, opening, consumers, error: why });
        for out in back {
            used.push(out.queue.clone());
            self.put_back(out);
        }
        self.see_to(used, now);
    }

    /// The server ends a consumer of its own accord.
    pub(super) fn cancel_consumer(&mut self, session: SessionId, tag: &str, now: Instant) {
        self.end_consumer(session, tag, now);
        self.tell(session, BrokerEvent::ConsumerCancelled { consumer: tag.to_owned() });
    }

    /// Deletes queues whose last consumer has gone, and delivers from the others.
    fn see_to(&mut self, mut queues: Vec<String>, now: Instant) {
        queues.sort();
        queues.dedup();
        for name in queues {
            let goes = self.queues.get(&name).is_some_and(|queue| {
                queue.spec.auto_delete == AutoDelete::Yes && queue.had_consumer && queue.consumers.is_empty()
            });
            if goes {
                self.remove_queue(&name);
            } else {
                self.deliver(&name, now);
            }
        }
    }

    fn deliver(&mut self, name: &str, now: Instant) {
        self.expire(now);
        let Some(queue) = self.queues.get_mut(name) else { return };
        while !queue.ready.is_empty() {
            let free = queue.consumers.iter().position(|consumer| match consumer.acknowledge {
                Acknowledge::Manual { prefetch } => prefetch == 0 || consumer.out < prefetch,
                Acknowledge::None => true,
            });
            let Some(mut consumer) = free.and_then(|at| queue.consumers.remove(at)) else { return };
            if let (Some(session), Some(message)) = (self.sessions.get_mut(&consumer.session), queue.ready.pop_front())
            {
                let tag = consumer.tag.clone();
                let delivery = if consumer.acknowledge == Acknowledge::None {
                    session.delivery(consumer.lane, &message)
                } else {
                    consumer.out += 1;
                    session.hand_out(name, Some(consumer.serial), consumer.lane, message)
                };
                session.events.push_back(BrokerEvent::Delivery { consumer: tag.into(), delivery });
                self.has_events = true;
            }
            // The next message is the next consumer's.
            queue.consumers.push_back(consumer);
        }
    }

    /// Sees to messages and queues whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        loop {
            let over = self.queues.iter().find_map(|(name, queue)| {
                let message_over = queue.ready.front().and_then(|message| message.expires).is_some_and(|at| at <= now);
                let queue_over = queue.expires().is_some_and(|at| at <= now);
                (message_over || queue_over).then(|| (name.clone(), queue_over))
            });
            let Some((name, queue_over)) = over else { return };
            if queue_over {
                self.remove_queue(&name);
                continue;
            }
            let Some(queue) = self.queues.get_mut(&name) else { return };
            let message = queue.ready.pop_front();
            if let (Some(mut message), Some(to)) = (message, queue.spec.dead_letter_to.clone()) {
                if message.properties.rest().is_some_and(|rest| rest.expiration.is_some()) {
                    message.properties.rest_mut().expiration = None;
                }
                self.push(&to, Stored { redelivered: false, ..message }, now);
            }
        }
    }

    /// When `expire` has something to do next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let messages = self.queues.values().filter_map(|queue| queue.ready.front()?.expires);
        messages.chain(self.queues.values().filter_map(Queue::expires)).min()
    }

    pub(super) fn queues(&self) -> Vec<QueueState> {
        let out = |name: &str| {
            self.sessions.values().flat_map(|session| session.out.values()).filter(|out| out.queue == name).count()
        };
        let state = |(name, queue): (&String, &Queue)| QueueState {
            name: name.clone(),
            exclusive: queue.spec.access == Access::Exclusive,
            ready: queue.ready.len(),
            out: out(name),
            consumers: queue.consumers.iter().map(|consumer| consumer.session).collect(),
        };
        self.queues.iter().map(state).collect()
    }

    /// Session and tag of every consumer.
    pub(super) fn consumers(&self) -> Vec<(SessionId, String)> {
        let consumers = self.queues.values().flat_map(|queue| &queue.consumers);
        let mut consumers: Vec<_> = consumers.map(|consumer| (consumer.session, consumer.tag.clone())).collect();
        consumers.sort();
        consumers
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Queue and body of every message, whether it waits or is out.
    pub(super) fn bodies(&self) -> Vec<(&str, &Body)> {
        let ready =
            self.queues.iter().flat_map(|(name, queue)| queue.ready.iter().map(move |m| (name.as_str(), &m.body)));
        let out = self.sessions.values().flat_map(|session| session.out.values());
        ready.chain(out.map(|out| (out.queue.as_str(), &out.message.body))).collect()
    }
}

impl Queue {
    fn expires(&self) -> Option<Instant> {
        let time = self.spec.expires.filter(|_| self.consumers.is_empty())?;
        self.last_used.checked_add(time)
    }
}

impl Session {
    fn opening(&self, lane: Lane) -> u32 {
        self.openings.get(&lane).copied().unwrap_or(0)
    }

    fn delivery(&mut self, lane: Lane, message: &Stored) -> Delivery {
        self.last_tag += 1;
        Delivery {
            receipt: Receipt { lane, opening: self.opening(lane), tag: self.last_tag },
            redelivered: message.redelivered,
            properties: message.properties.clone(),
            body: message.body.clone(),
        }
    }

    /// Hands a message out, to be acknowledged.
    fn hand_out(&mut self, queue: &str, consumer: Option<u64>, lane: Lane, message: Stored) -> Delivery {
        let delivery = self.delivery(lane, &message);
        let out = Out { queue: queue.to_owned(), consumer, lane, message };
        self.out.insert(delivery.receipt.tag, out);
        delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_match_as_the_specification_has_it() {
        for (pattern, key) in [("a", "a"), ("a.*", "a.b"), ("#", ""), ("#", "a.b"), ("a.#", "a"), ("a.#.c", "a.b.b.c")]
        {
            assert!(matches(pattern, key), "{pattern} {key}");
        }
        for (pattern, key) in [("a", "b"), ("a.*", "a"), ("a.*", "a.b.c"), ("*", "a.b"), ("a.#.c", "a.b")] {
            assert!(!matches(pattern, key), "{pattern} {key}");
        }
    }
}
