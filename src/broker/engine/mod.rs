//! A broker as one value: exchanges, queues, bindings, consumers, acknowledgements, expiry and dead letters, as RabbitMQ has
//! them. Not here: I/O, clocks, locks and threads. The owner of an [`Engine`] passes in requests with the time, takes the
//! [`Effect`]s out, and calls again at [`Engine::next_deadline`].
//!
//! The same requests at the same times have the same results and effects in the same order. A request costs the same however
//! many queues, bindings, consumers and waiting messages there are, but for the logarithm in the ordered maps.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use crate::broker::{
    Access, Acknowledge, AutoDelete, ConsumeSpec, Durability, ExchangeSpec, Lane, Nack, QueueSpec, Receipt,
};

mod exchange;
mod message;
#[cfg(test)]
mod properties;
mod queue;
mod refusal;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod topic;

pub(crate) use exchange::ExchangeKind;
pub(crate) use message::{Content, Handed};
pub(crate) use refusal::Refusal;

use exchange::Exchange;
use message::{Reason, Stored};
use queue::{Consumer, Queue};
use session::{Out, Session};
use table::{Key, Table};

type Result<T> = std::result::Result<T, Refusal>;

/// One client of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(u64);

/// What became of a publish.
#[derive(Debug)]
pub(crate) enum Published {
    /// At least one queue took it.
    Routed,
    /// No queue took it. Whether it is returned or dropped is for the caller to decide.
    Unroutable(Arc<Content>),
}

/// What a client is notified of.
#[derive(Debug)]
pub(crate) enum Effect {
    /// A message for a consumer.
    Delivery { session: SessionId, consumer: Arc<str>, message: Handed },
    /// The queue of this consumer is gone, and the consumer with it.
    ConsumerCancelled { session: SessionId, consumer: Arc<str> },
    /// The lane was closed: these consumers are gone, and what they had in hand is back in the queues.
    LaneClosed { session: SessionId, lane: Lane, opening: u32, consumers: Vec<Arc<str>>, why: Refusal },
}

/// A message that leaves a queue for good, or for another one.
struct Dead {
    from: Arc<str>,
    to: Arc<str>,
    reason: Reason,
    content: Arc<Content>,
}

/// The broker. See the [module](self).
pub(crate) struct Engine {
    sessions: BTreeMap<SessionId, Session>,
    next_session: u64,
    queues: Table<Queue>,
    exchanges: Table<Exchange>,
    consumers: Table<Consumer>,
    /// Only looked up, never walked through: the order of a hash map must not be seen.
    queue_names: HashMap<Arc<str>, Key<Queue>>,
    exchange_names: HashMap<Arc<str>, Key<Exchange>>,
    /// When which queue has something that will be over.
    wakes: BTreeSet<(Instant, Key<Queue>)>,
    /// The latest time that was passed in. Time does not go backwards.
    now: Instant,
    dead: VecDeque<Dead>,
    effects: Vec<Effect>,
    released: Vec<Arc<Content>>,
    bytes: usize,
    /// Kept for its memory.
    routed: Vec<Key<Queue>>,
}

/// The exchanges that every broker has, but for the default one, which needs no entry.
const STANDARD: [(&str, ExchangeKind); 2] = [("amq.direct", ExchangeKind::Direct), ("amq.topic", ExchangeKind::Topic)];

impl Engine {
    /// A broker with the standard exchanges and nothing else.
    pub(crate) fn new(now: Instant) -> Self {
        let mut engine = Engine {
            sessions: BTreeMap::new(),
            next_session: 1,
            queues: Table::default(),
            exchanges: Table::default(),
            consumers: Table::default(),
            queue_names: HashMap::new(),
            exchange_names: HashMap::new(),
            wakes: BTreeSet::new(),
            now,
            dead: VecDeque::new(),
            effects: Vec::new(),
            released: Vec::new(),
            bytes: 0,
            routed: Vec::new(),
        };
        for (name, kind) in STANDARD {
            let spec = ExchangeSpec { name: name.into(), durability: Durability::Durable, auto_delete: AutoDelete::No };
            engine.add_exchange(&spec, kind);
        }
        engine
    }

    /// Lets time pass: what is over goes. Every request does this first.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        // A dead letter may be over as it arrives; what goes in circles ends in `bury`.
        while self.wakes.first().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((_, key)) = self.wakes.pop_first() {
                self.wake(key);
            }
            self.bury();
        }
    }

    /// When [`advance`](Self::advance) is to be called at the latest, if no request comes before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// What is to be sent, in order.
    pub(crate) fn effects(&mut self) -> impl Iterator<Item = Effect> {
        self.effects.drain(..)
    }

    /// The messages that the engine has let go of, to be dropped wherever the owner likes: outside of its lock, for one may be
    /// large.
    pub(crate) fn released(&mut self) -> &mut Vec<Arc<Content>> {
        &mut self.released
    }

    /// About how many bytes of messages are held, in queues and by clients that have not acknowledged them. A message in two
    /// queues counts twice.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever limits a broker or shows it"))]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// About how many bytes of messages a queue holds: those that wait, and those that are out.
    #[cfg_attr(not(test), expect(dead_code, reason = "for whoever limits a queue or shows it"))]
    pub(crate) fn queue_bytes(&self, name: &str) -> Option<(usize, usize)> {
        let queue = self.queues.get(*self.queue_names.get(name)?)?;
        Some((queue.waiting_bytes, queue.out_bytes))
    }

    /// True where nothing would be lost with this broker but exchanges: no queue, no session.
    pub(crate) fn is_spent(&self) -> bool {
        self.sessions.is_empty() && self.queues.is_empty()
    }

    /// The sessions that there are.
    #[cfg(test)]
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// A client has come.
    pub(crate) fn connect(&mut self, now: Instant) -> SessionId {
        self.advance(now);
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(id, Session::default());
        id
    }

    /// A client has gone, in order or not: its consumers end, what it has in hand goes back, its own queues go. Doing it twice
    /// is no error.
    pub(crate) fn disconnect(&mut self, id: SessionId, now: Instant) {
        self.advance(now);
        let Some(session) = self.sessions.remove(&id) else { return };
        let mut touched = BTreeSet::new();
        for key in session.consumers.into_values() {
            self.end_consumer(key, &mut touched);
        }
        for lane in session.lanes.into_values() {
            self.give_back(lane.out, &mut touched);
        }
        for queue in session.own {
            self.remove_queue(queue);
        }
        self.settle_queues(&touched);
        self.bury();
    }

    pub(crate) fn declare_exchange(
        &mut self,
        session: SessionId,
        spec: &ExchangeSpec,
        kind: ExchangeKind,
        now: Instant,
    ) -> Result<()> {
        self.begin(session, now)?;
        let Some(known) = self.exchange_names.get(&*spec.name).and_then(|key| self.exchanges.get(*key)) else {
            if is_reserved(&spec.name) || spec.name.is_empty() {
                return Err(Refusal::Reserved { object: "exchange", name: spec.name.to_string() });
            }
            self.add_exchange(spec, kind);
            return Ok(());
        };
        let pairs = [
            ("type", known.kind.as_str().to_owned(), kind.as_str().to_owned()),
            ("durable", durable(known.spec.durability), durable(spec.durability)),
            ("auto_delete", auto_delete(known.spec.auto_delete), auto_delete(spec.auto_delete)),
        ];
        first_difference("exchange", &spec.name, pairs)
    }

    fn add_exchange(&mut self, spec: &ExchangeSpec, kind: ExchangeKind) {
        let key = self.exchanges.insert(Exchange::new(spec.clone(), kind));
        self.exchange_names.insert(Arc::clone(&spec.name), key);
    }

    pub(crate) fn declare_queue(&mut self, session: SessionId, spec: &QueueSpec, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        let Some(key) = self.queue_names.get(spec.name.as_str()).copied() else {
            return self.add_queue(session, spec);
        };
        let now = self.now;
        let Some(known) = self.queues.get_mut(key) else { return Ok(()) };
        owned_by(known, session)?;
        if known.spec.access != spec.access {
            return Err(Refusal::Locked { queue: spec.name.clone() });
        }
        let millis =
            |time: Option<std::time::Duration>| time.map_or("none".to_owned(), |time| time.as_millis().to_string());
        let letters = |spec: &QueueSpec| spec.dead_letter_to.clone().unwrap_or_else(|| "none".to_owned());
        let levels = |spec: &QueueSpec| spec.priorities.map_or("none".to_owned(), |most| most.to_string());
        let pairs = [
            ("durable", durable(known.spec.durability), durable(spec.durability)),
            ("auto_delete", auto_delete(known.spec.auto_delete), auto_delete(spec.auto_delete)),
            ("x-message-ttl", millis(known.spec.message_ttl), millis(spec.message_ttl)),
            ("x-expires", millis(known.spec.expires), millis(spec.expires)),
            ("x-dead-letter-routing-key", letters(&known.spec), letters(spec)),
            ("x-max-priority", levels(&known.spec), levels(spec)),
        ];
        first_difference("queue", &spec.name, pairs)?;
        known.last_used = now;
        Ok(())
    }

    fn add_queue(&mut self, session: SessionId, spec: &QueueSpec) -> Result<()> {
        if is_reserved(&spec.name) {
            return Err(Refusal::Reserved { object: "queue", name: spec.name.clone() });
        }
        if spec.expires.is_some_and(|expires| expires.is_zero()) {
            return Err(Refusal::BadArgument { queue: spec.name.clone(), argument: "x-expires" });
        }
        let owner = (spec.access == Access::Exclusive).then_some(session);
        let queue = Queue::new(spec.clone(), owner, self.now);
        let name = Arc::clone(&queue.name);
        let key = self.queues.insert(queue);
        self.queue_names.insert(name, key);
        if owner.is_some()
            && let Some(session) = self.sessions.get_mut(&session)
        {
            session.own.insert(key);
        }
        self.plan(key);
        Ok(())
    }

    pub(crate) fn bind(
        &mut self,
        session: SessionId,
        queue: &str,
        exchange: &str,
        key: &str,
        now: Instant,
    ) -> Result<()> {
        self.begin(session, now)?;
        let queue_key = self.queue_of(session, queue)?;
        if exchange.is_empty() {
            return Err(Refusal::Reserved { object: "exchange", name: String::new() });
        }
        let exchange_key =
            *self.exchange_names.get(exchange).ok_or_else(|| Refusal::NoExchange(exchange.to_owned()))?;
        let key: Arc<str> = key.into();
        if let (Some(exchange), Some(queue)) = (self.exchanges.get_mut(exchange_key), self.queues.get_mut(queue_key)) {
            exchange.bind(&key, queue_key);
            queue.bindings.insert((exchange_key, key));
        }
        Ok(())
    }

    /// What is not bound, or is not there, is unbound already.
    pub(crate) fn unbind(
        &mut self,
        session: SessionId,
        queue: &str,
        exchange: &str,
        key: &str,
        now: Instant,
    ) -> Result<()> {
        self.begin(session, now)?;
        let queue_key = match self.queue_of(session, queue) {
            Err(Refusal::NoQueue(_)) => return Ok(()),
            other => other?,
        };
        if let Some(exchange) = self.exchange_names.get(exchange).copied() {
            let binding = (exchange, Arc::from(key));
            if self.queues.get_mut(queue_key).is_some_and(|queue| queue.bindings.remove(&binding)) {
                self.remove_binding(exchange, key, queue_key);
            }
        }
        Ok(())
    }

    /// Deletes a queue, whatever it holds. One that is not there is no error.
    pub(crate) fn delete_queue(&mut self, session: SessionId, queue: &str, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        match self.queue_of(session, queue) {
            Err(Refusal::NoQueue(_)) => {}
            Err(refusal) => return Err(refusal),
            Ok(key) => self.remove_queue(key),
        }
        Ok(())
    }

    /// Puts a message into the queues that it is routed to. Deliveries to consumers that wait are among the effects.
    pub(crate) fn publish(&mut self, session: SessionId, content: Arc<Content>, now: Instant) -> Result<Published> {
        self.begin(session, now)?;
        let mut routed = std::mem::take(&mut self.routed);
        routed.clear();
        let known = self.route(&content.exchange, &content.routing_key, &mut routed);
        let published = match (known, routed.split_last()) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), None) => Ok(Published::Unroutable(content)),
            (Ok(()), Some((last, others))) => {
                for queue in others {
                    self.arrive(*queue, Arc::clone(&content));
                }
                // The last queue, mostly the only one, has the message itself.
                self.arrive(*last, content);
                Ok(Published::Routed)
            }
        };
        self.routed = routed;
        published
    }

    /// Starts a consumer.
    ///
    /// # Errors
    /// What is refused by its queue closes the lane.
    pub(crate) fn consume(&mut self, session: SessionId, spec: &ConsumeSpec, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        let tag: Arc<str> = spec.tag.as_str().into();
        if self.sessions.get(&session).is_some_and(|session| session.consumers.contains_key(&tag)) {
            return Err(Refusal::TagTaken(tag));
        }
        let queue_key = self.on_lane(session, spec.lane, |engine| engine.queue_of(session, &spec.queue))?;
        let prefetch = match spec.acknowledge {
            Acknowledge::Manual { prefetch } => Some(prefetch),
            Acknowledge::None => None,
        };
        let key = self.consumers.insert(Consumer::new(session, Arc::clone(&tag), spec.lane, queue_key, prefetch));
        if let Some(session) = self.sessions.get_mut(&session) {
            session.consumers.insert(tag, key);
            session.lane(spec.lane).consumers.insert(key);
        }
        if let (Some(queue), Some(consumer)) = (self.queues.get_mut(queue_key), self.consumers.get_mut(key)) {
            queue.add_consumer(key, consumer);
        }
        self.hand_out(queue_key);
        self.bury();
        Ok(())
    }

    /// Ends a consumer; what it has in hand stays out. One that is not there has ended already.
    pub(crate) fn cancel(&mut self, session: SessionId, tag: &str, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        let known = self.sessions.get(&session).and_then(|session| session.consumers.get(tag).copied());
        if let Some(key) = known {
            let mut touched = BTreeSet::new();
            self.end_consumer(key, &mut touched);
            self.settle_queues(&touched);
        }
        Ok(())
    }

    /// Takes the first message of a queue, to be acknowledged.
    ///
    /// # Errors
    /// What is refused closes the lane.
    pub(crate) fn get(&mut self, session: SessionId, queue: &str, lane: Lane, now: Instant) -> Result<Option<Handed>> {
        self.begin(session, now)?;
        let key = self.on_lane(session, lane, |engine| engine.queue_of(session, queue))?;
        let now = self.now;
        let Some(queue) = self.queues.get_mut(key) else { return Ok(None) };
        queue.last_used = now;
        let Some(message) = queue.pop() else { return Ok(None) };
        queue.out_bytes += message.content.weight();
        let Some(session) = self.sessions.get_mut(&session) else { return Ok(None) };
        let state = session.lane(lane);
        let receipt = state.receipt(lane);
        let handed = Handed { receipt, redelivered: message.redelivered, content: Arc::clone(&message.content) };
        state.out.insert(receipt.tag, Out { queue: key, consumer: None, message });
        Ok(Some(handed))
    }

    /// Acknowledges. A receipt of another opening of its lane means nothing any more; a delivery tag under which nothing is out
    /// closes the lane.
    pub(crate) fn ack(&mut self, session: SessionId, receipt: Receipt, now: Instant) {
        self.advance(now);
        if let Some((queue, message)) = self.settle(session, receipt) {
            self.release(message.content);
            self.hand_out(queue);
        }
        self.bury();
    }

    /// Refuses: the message goes back to its place, or away, which is to the dead-letter queue if there is one.
    pub(crate) fn nack(&mut self, session: SessionId, receipt: Receipt, then: Nack, now: Instant) {
        self.advance(now);
        if let Some((key, message)) = self.settle(session, receipt) {
            match (then, self.queues.get_mut(key)) {
                (Nack::Requeue, Some(queue)) => {
                    queue.put_back(message);
                    self.plan(key);
                }
                (Nack::Discard, Some(_)) => self.dies(key, message, Reason::Rejected),
                (_, None) => self.release(message.content),
            }
            self.hand_out(key);
        }
        self.bury();
    }

    /// Closes a lane as the server does after an error: its consumers end and what is out goes back. It opens anew at its next
    /// use. Nothing happens where it is not open.
    pub(crate) fn close_lane(&mut self, id: SessionId, lane: Lane, why: Refusal, now: Instant) {
        self.advance(now);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let Some(state) = session.lanes.get_mut(&lane).filter(|state| state.open) else { return };
        state.open = false;
        let opening = state.opening;
        let (out, keys) = (std::mem::take(&mut state.out), state.consumers.clone());
        let mut touched = BTreeSet::new();
        let mut consumers: Vec<_> = keys.into_iter().filter_map(|key| self.end_consumer(key, &mut touched)).collect();
        consumers.sort_unstable();
        self.give_back(out, &mut touched);
        self.effects.push(Effect::LaneClosed { session: id, lane, opening, consumers, why });
        self.settle_queues(&touched);
        self.bury();
    }

    /// What every request of a session begins with.
    fn begin(&mut self, session: SessionId, now: Instant) -> Result<()> {
        self.advance(now);
        if self.sessions.contains_key(&session) { Ok(()) } else { Err(Refusal::NoSession) }
    }

    /// A queue that this session may use.
    fn queue_of(&self, session: SessionId, name: &str) -> Result<Key<Queue>> {
        let found = self.queue_names.get(name).and_then(|key| Some((*key, self.queues.get(*key)?)));
        let (key, queue) = found.ok_or_else(|| Refusal::NoQueue(name.to_owned()))?;
        owned_by(queue, session)?;
        Ok(key)
    }

    /// Asks something through a lane, which is open then; a refusal closes it.
    fn on_lane<T>(&mut self, session: SessionId, lane: Lane, ask: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.lane(lane);
        }
        let answer = ask(self);
        if let Err(why) = &answer {
            self.close_lane(session, lane, why.clone(), self.now);
        }
        answer
    }

    /// Adds the queues that a message goes to, each once.
    fn route(&mut self, exchange: &str, key: &str, queues: &mut Vec<Key<Queue>>) -> Result<()> {
        if exchange.is_empty() {
            queues.extend(self.queue_names.get(key));
            return Ok(());
        }
        let known = self.exchange_names.get(exchange).and_then(|key| self.exchanges.get_mut(*key));
        known.ok_or_else(|| Refusal::NoExchange(exchange.to_owned()))?.route(key, queues);
        Ok(())
    }

    /// A message comes into a queue. A consumer that waits has it at once; it never lies in the queue then, whatever its time.
    fn arrive(&mut self, key: Key<Queue>, content: Arc<Content>) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let (place, expires) = queue.admit(self.now, &content);
        let message = Stored { place, redelivered: false, expires, content };
        self.bytes += message.content.weight();
        // Where something waits, no consumer takes more.
        if queue.has_messages() {
            let first_may_change = queue.spec.priorities.is_some();
            queue.push(message);
            if first_may_change {
                self.plan(key);
            }
        } else if let Some(consumer) = queue.next_consumer(&mut self.consumers) {
            self.hand_to(consumer, key, message);
        } else {
            queue.push(message);
            self.plan(key);
        }
    }

    /// Hands out what waits in a queue, as far as its consumers take it.
    fn hand_out(&mut self, key: Key<Queue>) {
        loop {
            let Some(queue) = self.queues.get_mut(key) else { return };
            if let Some(expired) = queue.pop_expired(self.now) {
                self.dies(key, expired, Reason::Expired);
                continue;
            }
            if !queue.has_messages() {
                return;
            }
            let Some(consumer) = queue.next_consumer(&mut self.consumers) else { return };
            let Some(message) = queue.pop() else { return };
            self.hand_to(consumer, key, message);
        }
    }

    fn hand_to(&mut self, consumer_key: Key<Consumer>, queue_key: Key<Queue>, message: Stored) {
        let Some(consumer) = self.consumers.get_mut(consumer_key) else { return };
        let Some(session) = self.sessions.get_mut(&consumer.session) else { return };
        let lane = session.lane(consumer.lane);
        let receipt = lane.receipt(consumer.lane);
        let redelivered = message.redelivered;
        let weight = message.content.weight();
        let content = if consumer.prefetch.is_some() {
            consumer.out += 1;
            let content = Arc::clone(&message.content);
            lane.out.insert(receipt.tag, Out { queue: queue_key, consumer: Some(consumer_key), message });
            if let Some(queue) = self.queues.get_mut(queue_key) {
                queue.out_bytes += weight;
            }
            content
        } else {
            // Nobody gives it back, so that it goes as it is.
            self.bytes -= weight;
            message.content
        };
        self.effects.push(Effect::Delivery {
            session: consumer.session,
            consumer: Arc::clone(&consumer.tag),
            message: Handed { receipt, redelivered, content },
        });
    }

    /// Takes a message out of its session's hands.
    fn settle(&mut self, session: SessionId, receipt: Receipt) -> Option<(Key<Queue>, Stored)> {
        let lane = self.sessions.get_mut(&session)?.lanes.get_mut(&receipt.lane)?;
        // Guards: a receipt of a lane that was closed since and opened anew must not settle what has the same tag now.
        if !lane.open || lane.opening != receipt.opening {
            crate::log::trace!(?receipt, "acknowledgement dropped: the lane it came by has gone");
            return None;
        }
        let Some(out) = lane.out.remove(&receipt.tag) else {
            self.close_lane(session, receipt.lane, Refusal::UnknownDeliveryTag(receipt.tag), self.now);
            return None;
        };
        if let Some(queue) = self.queues.get_mut(out.queue) {
            queue.out_bytes -= out.message.content.weight();
            if let Some((key, consumer)) = out.consumer.and_then(|key| Some((key, self.consumers.get_mut(key)?))) {
                consumer.out = consumer.out.saturating_sub(1);
                queue.line_up(key, consumer);
            }
        }
        Some((out.queue, out.message))
    }

    /// Takes a consumer out of everything that knows it. Its queue is among those that are to be settled then.
    fn end_consumer(&mut self, key: Key<Consumer>, touched: &mut BTreeSet<Key<Queue>>) -> Option<Arc<str>> {
        let consumer = self.consumers.remove(key)?;
        if let Some(session) = self.sessions.get_mut(&consumer.session) {
            session.consumers.remove(&consumer.tag);
            if let Some(lane) = session.lanes.get_mut(&consumer.lane) {
                lane.consumers.remove(&key);
            }
        }
        if let Some(queue) = self.queues.get_mut(consumer.queue) {
            queue.remove_consumer(key, &consumer);
            if queue.consumers.is_empty() {
                queue.last_used = self.now;
            }
            touched.insert(consumer.queue);
        }
        Some(consumer.tag)
    }

    /// Puts back what was out and will not be acknowledged any more.
    fn give_back(&mut self, out: BTreeMap<u64, Out>, touched: &mut BTreeSet<Key<Queue>>) {
        for Out { queue: key, consumer, message } in out.into_values() {
            let Some(queue) = self.queues.get_mut(key) else {
                self.release(message.content);
                continue;
            };
            queue.out_bytes -= message.content.weight();
            if let Some((consumer_key, consumer)) = consumer.and_then(|key| Some((key, self.consumers.get_mut(key)?))) {
                consumer.out = consumer.out.saturating_sub(1);
                queue.line_up(consumer_key, consumer);
            }
            queue.put_back(message);
            touched.insert(key);
        }
    }

    /// Consumers of these queues have ended, or messages came back: those that delete themselves go, the others hand out.
    fn settle_queues(&mut self, touched: &BTreeSet<Key<Queue>>) {
        for key in touched {
            let Some(queue) = self.queues.get(*key) else { continue };
            if queue.deletes_itself() {
                self.remove_queue(*key);
            } else {
                self.plan(*key);
                self.hand_out(*key);
            }
        }
    }

    fn remove_queue(&mut self, key: Key<Queue>) {
        let Some(mut queue) = self.queues.remove(key) else { return };
        self.queue_names.remove(&queue.name);
        if let Some(at) = queue.wake {
            self.wakes.remove(&(at, key));
        }
        for consumer in &queue.consumers {
            let Some(consumer) = self.consumers.remove(*consumer) else { continue };
            if let Some(session) = self.sessions.get_mut(&consumer.session) {
                let key = session.consumers.remove(&consumer.tag);
                if let (Some(lane), Some(key)) = (session.lanes.get_mut(&consumer.lane), key) {
                    lane.consumers.remove(&key);
                }
                self.effects.push(Effect::ConsumerCancelled { session: consumer.session, consumer: consumer.tag });
            }
        }
        if let Some(session) = queue.owner.and_then(|owner| self.sessions.get_mut(&owner)) {
            session.own.remove(&key);
        }
        for (exchange, binding) in std::mem::take(&mut queue.bindings) {
            self.remove_binding(exchange, &binding, key);
        }
        for message in queue.take_messages() {
            self.release(message.content);
        }
    }

    /// An exchange that deletes itself goes with its last binding.
    fn remove_binding(&mut self, exchange_key: Key<Exchange>, key: &str, queue: Key<Queue>) {
        let Some(exchange) = self.exchanges.get_mut(exchange_key) else { return };
        exchange.unbind(key, queue);
        if exchange.spec.auto_delete == AutoDelete::Yes
            && !exchange.has_bindings()
            && let Some(gone) = self.exchanges.remove(exchange_key)
        {
            self.exchange_names.remove(&gone.spec.name);
        }
    }

    fn release(&mut self, content: Arc<Content>) {
        self.bytes -= content.weight();
        self.released.push(content);
    }

    /// A message has left its queue unread: on to the dead-letter queue, if there is one.
    fn dies(&mut self, from: Key<Queue>, message: Stored, reason: Reason) {
        let queue = self.queues.get(from);
        match queue.and_then(|queue| Some((Arc::clone(&queue.name), queue.dead_letter_to.clone()?))) {
            Some((from, to)) => {
                self.bytes -= message.content.weight();
                self.dead.push_back(Dead { from, to, reason, content: message.content });
            }
            None => self.release(message.content),
        }
    }

    /// Sends dead letters on, by the default exchange. One that no queue takes, or that goes in circles with no client between,
    /// is dropped.
    fn bury(&mut self) {
        while let Some(Dead { from, to, reason, content }) = self.dead.pop_front() {
            let target = self.queue_names.get(&*to).copied();
            let content = content.after_death(&from, reason, &to);
            match target {
                Some(key) if reason == Reason::Rejected || !content.circles(&to) => self.arrive(key, content),
                _ => self.released.push(content),
            }
        }
    }

    /// Plans to see to a queue when something in it is over. A plan that is too early stays: it is made anew then, so that
    /// messages that come and go cost nothing here.
    fn plan(&mut self, key: Key<Queue>) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let Some(at) = queue.deadline() else { return };
        if queue.wake.is_none_or(|planned| at < planned) {
            if let Some(planned) = queue.wake.replace(at) {
                self.wakes.remove(&(planned, key));
            }
            self.wakes.insert((at, key));
        }
    }

    /// The time of a queue's plan has come.
    fn wake(&mut self, key: Key<Queue>) {
        let now = self.now;
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.wake = None;
        while let Some(expired) = self.queues.get_mut(key).and_then(|queue| queue.pop_expired(now)) {
            self.dies(key, expired, Reason::Expired);
        }
        if self.queues.get(key).is_some_and(|queue| queue.is_over(now)) {
            self.remove_queue(key);
        } else {
            self.plan(key);
        }
    }
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("amq.")
}

fn owned_by(queue: &Queue, session: SessionId) -> Result<()> {
    if queue.owner.is_none_or(|owner| owner == session) {
        return Ok(());
    }
    Err(Refusal::Locked { queue: queue.spec.name.clone() })
}

fn durable(durability: Durability) -> String {
    (durability == Durability::Durable).to_string()
}

fn auto_delete(auto_delete: AutoDelete) -> String {
    (auto_delete == AutoDelete::Yes).to_string()
}

fn first_difference<const N: usize>(
    object: &'static str,
    name: &str,
    pairs: [(&'static str, String, String); N],
) -> Result<()> {
    match pairs.into_iter().find(|(_, have, want)| have != want) {
        Some((argument, have, want)) => Err(Refusal::Differs { object, name: name.to_owned(), argument, have, want }),
        None => Ok(()),
    }
}
