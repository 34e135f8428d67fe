//! The broker itself: exchanges, queues, and who is connected. One lock; what is in it takes no time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::exchange::Exchange;
use super::queue::{Consumer, Queue, Stored};
use crate::broker::{
    Access, Acknowledge, AutoDelete, BrokerEvent, ConsumeSpec, Delivery, Durability, EventSender, ExchangeSpec, Lane,
    Message, Nack, QueueSpec, Receipt, Routing, differs,
};
use crate::error::{Error, ErrorKind, Result};

pub(super) type SessionId = u64;

/// The named brokers of this process. They stay until it ends, as durable queues do.
static NAMED: Mutex<BTreeMap<String, Arc<Node>>> = Mutex::new(BTreeMap::new());

pub(super) struct Node {
    state: Mutex<State>,
    /// Publishing waits while this says so.
    pub(super) blocked: watch::Sender<bool>,
    /// Nobody can connect while this says so.
    down: AtomicBool,
}

#[derive(Default)]
struct State {
    exchanges: HashMap<String, Exchange>,
    queues: HashMap<String, Queue>,
    sessions: HashMap<SessionId, Session>,
    next_session: SessionId,
    /// When the next unused queue is to go.
    next_expiry: Option<Instant>,
    /// What is to be dropped once the lock is given up.
    dropped: Vec<Stored>,
}

struct Session {
    events: EventSender,
    next_receipt: u64,
    /// By delivery tag.
    unacknowledged: HashMap<u64, Unacknowledged>,
    /// Dropped with it.
    ended: watch::Sender<()>,
}

struct Unacknowledged {
    queue: String,
    /// `None` for one that was taken by a get.
    consumer: Option<String>,
    message: Stored,
}

impl Node {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Node { state: Mutex::default(), blocked: watch::channel(false).0, down: AtomicBool::new(false) })
    }

    pub(super) fn named(name: &str) -> Arc<Self> {
        NAMED.lock().entry(name.to_owned()).or_insert_with(Node::new).clone()
    }

    /// The same for a session that has to be there.
    fn asked<T>(&self, session: SessionId, work: impl FnOnce(&mut State, Instant) -> Result<T>) -> Result<T> {
        self.locked(|state, now| if state.sessions.contains_key(&session) { work(state, now) } else { Err(lost()) })
    }

    /// Does something under the lock. What it lets go of is dropped after it: a message may be large.
    fn locked<T>(&self, work: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.expire_queues(now);
        let done = work(&mut state, now);
        let dropped = std::mem::take(&mut state.dropped);
        drop(state);
        drop(dropped);
        done
    }

    pub(super) fn connect(&self, events: EventSender) -> Result<SessionId> {
        // Ordering: Relaxed, for it orders nothing.
        if self.down.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Connection, "nobody answers at memory: as a broker just now"));
        }
        Ok(self.locked(|state, _| {
            let id = state.next_session;
            state.next_session += 1;
            let (ended, _) = watch::channel(());
            state.sessions.insert(id, Session { events, next_receipt: 1, unacknowledged: HashMap::new(), ended });
            id
        }))
    }

    /// Ends when the session does.
    pub(super) fn ended(&self, session: SessionId) -> Option<watch::Receiver<()>> {
        self.locked(|state, _| state.sessions.get(&session).map(|session| session.ended.subscribe()))
    }

    /// The end of a connection, in order or not: what it has unacknowledged goes back, its own queues go.
    pub(super) fn disconnect(&self, session: SessionId) {
        self.locked(|state, now| state.disconnect(session, now));
    }

    /// Lets nobody connect, as a broker that is being started does not.
    #[cfg(test)]
    pub(super) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Relaxed);
    }

    /// Breaks every connection, as a broker that dies does.
    #[cfg(test)]
    pub(super) fn lose_connections(&self) {
        self.locked(|state, now| {
            for session in state.sessions.keys().copied().collect::<Vec<_>>() {
                state.say(session, BrokerEvent::Lost { error: lost() });
                state.disconnect(session, now);
            }
        });
    }

    /// Stops or starts to take messages, as a broker in alarm does.
    #[cfg(test)]
    pub(super) fn set_blocked(&self, reason: Option<&str>) {
        self.blocked.send_replace(reason.is_some());
        self.locked(|state, _| {
            for session in state.sessions.values() {
                let event = match reason {
                    Some(reason) => BrokerEvent::Blocked { reason: reason.to_owned() },
                    None => BrokerEvent::Unblocked,
                };
                let _ = session.events.send(event);
            }
        });
    }

    pub(super) fn declare_exchange(&self, session: SessionId, spec: &ExchangeSpec) -> Result<()> {
        self.asked(session, |state, _| {
            let Some(known) = state.exchanges.get(&*spec.name) else {
                state.exchanges.insert(spec.name.to_string(), Exchange::new(spec.clone()));
                return Ok(());
            };
            let pairs = [
                ("durable", durable(known.spec.durability), durable(spec.durability)),
                ("auto_delete", auto_delete(known.spec.auto_delete), auto_delete(spec.auto_delete)),
            ];
            first_difference("exchange", &spec.name, &pairs)
        })
    }

    pub(super) fn declare_queue(&self, session: SessionId, spec: &QueueSpec) -> Result<()> {
        self.asked(session, |state, now| {
            let Some(known) = state.queues.get_mut(&spec.name) else {
                let owner = (spec.access == Access::Exclusive).then_some(session);
                state.queues.insert(spec.name.clone(), Queue::new(spec.clone(), owner, now));
                state.plan_expiry(&spec.name);
                return Ok(());
            };
            owned_by(known, session)?;
            known.last_used = now;
            let exclusive = |access| (access == Access::Exclusive).to_string();
            let millis =
                |time: Option<std::time::Duration>| time.map_or("none".to_owned(), |time| time.as_millis().to_string());
            let pairs = [
                ("durable", durable(known.spec.durability), durable(spec.durability)),
                ("exclusive", exclusive(known.spec.access), exclusive(spec.access)),
                ("auto_delete", auto_delete(known.spec.auto_delete), auto_delete(spec.auto_delete)),
                ("x-message-ttl", millis(known.spec.message_ttl), millis(spec.message_ttl)),
                ("x-expires", millis(known.spec.expires), millis(spec.expires)),
            ];
            first_difference("queue", &spec.name, &pairs)
        })
    }

    pub(super) fn bind(&self, session: SessionId, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.asked(session, |state, _| {
            owned_by(state.queue(queue)?, session)?;
            state.exchange(exchange)?.bind(key, queue);
            Ok(())
        })
    }

    pub(super) fn unbind(&self, session: SessionId, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.asked(session, |state, _| {
            owned_by(state.queue(queue)?, session)?;
            state.exchange(exchange)?.unbind(key, queue);
            state.drop_unbound_exchange(exchange);
            Ok(())
        })
    }

    pub(super) fn delete_queue(&self, session: SessionId, queue: &str) -> Result<()> {
        self.asked(session, |state, _| {
            if let Some(known) = state.queues.get(queue) {
                owned_by(known, session)?;
                state.delete_queue(queue);
            }
            Ok(())
        })
    }

    pub(super) fn publish(&self, session: SessionId, message: Message) -> Result<()> {
        self.asked(session, |state, now| {
            let key = message.routing_key;
            let queues = if message.exchange.is_empty() {
                if state.queues.contains_key(&key) { vec![key.clone()] } else { Vec::new() }
            } else {
                state.exchange(&message.exchange)?.route(&key)
            };
            if queues.is_empty() {
                return match message.routing {
                    Routing::Optional => Ok(()),
                    Routing::Mandatory => Err(Error::new(
                        ErrorKind::Unroutable,
                        format!(
                            "no queue is bound to the exchange {:?} for the routing key {key:?}",
                            &*message.exchange
                        ),
                    )),
                };
            }
            let mut left = queues.len();
            let mut whole = Some((message.properties, message.body));
            for name in queues {
                left -= 1;
                // The last queue, mostly the only one, has the message itself.
                let content = if left == 0 { whole.take() } else { whole.clone() };
                if let (Some(queue), Some((properties, body))) = (state.queues.get_mut(&name), content) {
                    queue.push(Stored { place: 0, redelivered: false, expires: None, properties, body }, now);
                    state.deliver(&name, now);
                }
            }
            Ok(())
        })
    }

    pub(super) fn consume(&self, session: SessionId, spec: &ConsumeSpec) -> Result<()> {
        self.asked(session, |state, now| {
            let queue = state.queue(&spec.queue)?;
            owned_by(queue, session)?;
            let prefetch = match spec.acknowledge {
                Acknowledge::Manual { prefetch } => Some(prefetch),
                Acknowledge::None => None,
            };
            let (tag, lane) = (spec.tag.clone(), spec.lane);
            queue.add_consumer(Consumer { session, tag, lane, prefetch, out: 0 });
            state.deliver(&spec.queue, now);
            Ok(())
        })
    }

    pub(super) fn cancel(&self, session: SessionId, tag: &str) {
        self.locked(|state, now| {
            let queues: Vec<String> = state
                .queues
                .iter_mut()
                .filter_map(|(name, queue)| queue.remove_consumer(session, tag).then(|| name.clone()))
                .collect();
            for queue in queues {
                state.lost_consumer(&queue, now);
            }
        });
    }

    pub(super) fn get(&self, session: SessionId, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        self.asked(session, |state, now| {
            let known = state.queues.get_mut(queue).ok_or_else(|| not_found("queue", queue))?;
            owned_by(known, session)?;
            known.last_used = now;
            let Some(message) = known.pop(now, &mut state.dropped) else { return Ok(None) };
            Ok(state.sessions.get_mut(&session).map(|session| session.take(queue, None, lane, message)))
        })
    }

    pub(super) fn ack(&self, session: SessionId, receipt: Receipt) {
        self.locked(|state, now| {
            if let Some((queue, message)) = state.settle(session, receipt) {
                state.dropped.push(message);
                state.deliver(&queue, now);
            }
        });
    }

    pub(super) fn nack(&self, session: SessionId, receipt: Receipt, then: Nack) {
        self.locked(|state, now| {
            let Some((queue, message)) = state.settle(session, receipt) else { return };
            match (then, state.queues.get_mut(&queue)) {
                (Nack::Requeue, Some(known)) => known.put_back(message),
                _ => state.dropped.push(message),
            }
            state.deliver(&queue, now);
        });
    }
}

impl State {
    fn queue(&mut self, name: &str) -> Result<&mut Queue> {
        self.queues.get_mut(name).ok_or_else(|| not_found("queue", name))
    }

    fn exchange(&mut self, name: &str) -> Result<&mut Exchange> {
        self.exchanges.get_mut(name).ok_or_else(|| not_found("exchange", name))
    }

    fn say(&self, session: SessionId, event: BrokerEvent) {
        if let Some(session) = self.sessions.get(&session) {
            // A session that is being dropped does not listen any more.
            let _ = session.events.send(event);
        }
    }

    /// Hands out what waits in a queue, as far as its consumers take it.
    fn deliver(&mut self, name: &str, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        while let Some(consumer) = queue.next_consumer() {
            let (id, tag, lane, acknowledged) =
                (consumer.session, consumer.tag.clone(), consumer.lane, consumer.prefetch.is_some());
            let Some(message) = queue.pop(now, &mut self.dropped) else {
                queue.settled(id, &tag);
                return;
            };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let delivery = if acknowledged {
                session.take(name, Some(tag.clone()), lane, message)
            } else {
                let receipt = session.receipt(lane);
                // Nobody gives it back, so that it goes as it is.
                let Stored { redelivered, properties, body, .. } = message;
                Delivery { receipt, redelivered, properties, body }
            };
            // Sending never waits and runs nothing but a waker, so it may be done under the lock, which keeps the order.
            let _ = session.events.send(BrokerEvent::Delivery { consumer: tag, delivery });
        }
    }

    fn settle(&mut self, session: SessionId, receipt: Receipt) -> Option<(String, Stored)> {
        let Some(taken) = self.sessions.get_mut(&session)?.unacknowledged.remove(&receipt.tag) else {
            tracing::trace!(tag = receipt.tag, "an acknowledgement of nothing was ignored");
            return None;
        };
        if let (Some(consumer), Some(queue)) = (&taken.consumer, self.queues.get_mut(&taken.queue)) {
            queue.settled(session, consumer);
        }
        Some((taken.queue, taken.message))
    }

    fn disconnect(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let mut used: Vec<String> = Vec::new();
        for (name, queue) in &mut self.queues {
            let tags: Vec<String> = queue
                .consumers()
                .filter(|consumer| consumer.session == id)
                .map(|consumer| consumer.tag.clone())
                .collect();
            for tag in tags {
                queue.remove_consumer(id, &tag);
                used.push(name.clone());
            }
        }
        for taken in session.unacknowledged.into_values() {
            match self.queues.get_mut(&taken.queue) {
                Some(queue) => {
                    queue.put_back(taken.message);
                    used.push(taken.queue);
                }
                None => self.dropped.push(taken.message),
            }
        }
        let own: Vec<String> =
            self.queues.iter().filter(|(_, queue)| queue.owner == Some(id)).map(|(name, _)| name.clone()).collect();
        for queue in own {
            self.delete_queue(&queue);
        }
        for queue in used {
            self.lost_consumer(&queue, now);
            self.deliver(&queue, now);
        }
    }

    fn delete_queue(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else { return };
        for consumer in queue.consumers() {
            self.say(consumer.session, BrokerEvent::ConsumerCancelled { consumer: consumer.tag.clone() });
        }
        self.dropped.extend(queue.into_messages());
        let unbound: Vec<String> = self
            .exchanges
            .iter_mut()
            .filter_map(|(exchange, known)| known.forget(name).then(|| exchange.clone()))
            .collect();
        for exchange in unbound {
            self.drop_unbound_exchange(&exchange);
        }
    }

    /// An exchange that deletes itself goes with its last binding.
    fn drop_unbound_exchange(&mut self, name: &str) {
        let goes = |exchange: &Exchange| exchange.spec.auto_delete == AutoDelete::Yes && exchange.bindings() == 0;
        if self.exchanges.get(name).is_some_and(goes) {
            self.exchanges.remove(name);
        }
    }

    /// A consumer of this queue has ended.
    fn lost_consumer(&mut self, name: &str, now: Instant) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        if queue.has_consumers() {
            return;
        }
        queue.last_used = now;
        if queue.spec.auto_delete == AutoDelete::Yes {
            self.delete_queue(name);
        } else {
            self.plan_expiry(name);
        }
    }

    fn plan_expiry(&mut self, name: &str) {
        let expiry = self.queues.get(name).and_then(|queue| Some(queue.last_used + queue.spec.expires?));
        self.next_expiry = match (self.next_expiry, expiry) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// Deletes what nobody has used for its time. Looked at whenever anything is asked of the broker, so that nobody can see
    /// a queue that should be gone.
    fn expire_queues(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|at| at > now) {
            return;
        }
        self.next_expiry = None;
        let idle = |queue: &Queue| !queue.has_consumers() && queue.spec.expires.is_some();
        let expired = |queue: &Queue| queue.spec.expires.is_some_and(|time| queue.last_used + time <= now);
        let queues: Vec<(String, bool)> = self
            .queues
            .iter()
            .filter(|(_, queue)| idle(queue))
            .map(|(name, queue)| (name.clone(), expired(queue)))
            .collect();
        for (name, expired) in queues {
            if expired {
                self.delete_queue(&name);
            } else {
                self.plan_expiry(&name);
            }
        }
    }
}

impl Session {
    fn receipt(&mut self, lane: Lane) -> Receipt {
        let tag = self.next_receipt;
        self.next_receipt += 1;
        Receipt { lane, opening: 0, tag }
    }

    /// Hands a message out, to be acknowledged.
    fn take(&mut self, queue: &str, consumer: Option<String>, lane: Lane, message: Stored) -> Delivery {
        let receipt = self.receipt(lane);
        let delivery = Delivery {
            receipt,
            redelivered: message.redelivered,
            properties: message.properties.clone(),
            body: message.body.clone(),
        };
        self.unacknowledged.insert(receipt.tag, Unacknowledged { queue: queue.to_owned(), consumer, message });
        delivery
    }
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the connection to the broker was lost")
}

fn owned_by(queue: &Queue, session: SessionId) -> Result<()> {
    if queue.owner.is_none_or(|owner| owner == session) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ResourceLocked,
        format!("the queue {:?} is exclusive to another connection", queue.spec.name),
    ))
}

fn not_found(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no {what} {name:?} on this broker"))
}

fn durable(durability: Durability) -> String {
    (durability == Durability::Durable).to_string()
}

fn auto_delete(auto_delete: AutoDelete) -> String {
    (auto_delete == AutoDelete::Yes).to_string()
}

fn first_difference(what: &str, name: &str, pairs: &[(&str, String, String)]) -> Result<()> {
    match pairs.iter().find(|(_, have, want)| have != want) {
        Some((argument, have, want)) => Err(differs(what, name, argument, have, want)),
        None => Ok(()),
    }
}
