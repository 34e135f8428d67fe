//! An engine for the tests, with messages that are numbers, and the time.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::*;

/// A message of the tests.
#[derive(Clone, Debug)]
pub(in super::super) struct Note(Arc<Parts>);

#[derive(Clone, Debug, Default)]
pub(in super::super) struct Parts {
    pub(in super::super) exchange: String,
    pub(in super::super) key: String,
    pub(in super::super) number: i64,
    pub(in super::super) priority: u8,
    pub(in super::super) ttl: Option<Duration>,
    pub(in super::super) is_transient: bool,
    pub(in super::super) makes_room: bool,
    /// Of the body.
    pub(in super::super) size: usize,
    pub(in super::super) cc: Vec<Arc<str>>,
    pub(in super::super) bcc: Vec<Arc<str>>,
    pub(in super::super) headers: Arguments,
    pub(in super::super) deaths: Vec<Death>,
}

impl Note {
    pub(in super::super) fn new(exchange: &str, key: &str, number: i64) -> Self {
        Note::of(Parts { exchange: exchange.to_owned(), key: key.to_owned(), number, size: 10, ..Parts::default() })
    }

    pub(in super::super) fn of(parts: Parts) -> Self {
        Note(Arc::new(parts))
    }
}

impl std::ops::Deref for Note {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

thread_local! {
    /// The dead letters that were written on this thread.
    static DEATHS: RefCell<Vec<(i64, Arc<str>, Reason)>> = const { RefCell::new(Vec::new()) };
}

/// The dead letters that were written since it was asked last: number, queue, why.
pub(in super::super) fn take_deaths() -> Vec<(i64, Arc<str>, Reason)> {
    DEATHS.take()
}

impl Message for Note {
    fn exchange(&self) -> &str {
        &self.exchange
    }

    fn routing_key(&self) -> &str {
        &self.key
    }

    fn cc(&self) -> &[Arc<str>] {
        &self.cc
    }

    fn bcc(&self) -> &[Arc<str>] {
        &self.bcc
    }

    fn priority(&self) -> u8 {
        self.priority
    }

    fn time_to_live(&self) -> Option<Duration> {
        self.ttl
    }

    fn is_persistent(&self) -> bool {
        !self.is_transient
    }

    fn weight(&self) -> usize {
        100 + self.size
    }

    fn makes_room(&self) -> bool {
        self.makes_room
    }

    fn body_len(&self) -> usize {
        self.size
    }

    fn headers(&self, each: &mut dyn FnMut(&str, &Field)) {
        self.headers.iter().for_each(|(name, field)| each(name, field));
    }

    fn deaths(&self) -> Vec<Death> {
        self.deaths.clone()
    }

    fn after_death(self, exchange: &Arc<str>, key: Option<&Arc<str>>, deaths: &[Death]) -> Self {
        let mut parts = Arc::unwrap_or_clone(self.0);
        let last = &deaths[0];
        DEATHS.with_borrow_mut(|all| all.push((parts.number, Arc::clone(&last.queue), last.reason)));
        parts.exchange = exchange.to_string();
        if let Some(key) = key {
            parts.key = key.to_string();
            parts.cc.clear();
            parts.bcc.clear();
        }
        parts.ttl = None;
        parts.deaths = deaths.to_vec();
        Note::of(parts)
    }
}

/// The channel that every session of a world has, and the second one.
pub(super) const CHANNEL: ChannelId = ChannelId(1);
pub(super) const SECOND_CHANNEL: ChannelId = ChannelId(2);
pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(in super::super) fn millis(time: Duration) -> Field {
    Field::I64(time.as_millis().try_into().unwrap())
}

pub(in super::super) fn queue(name: &str) -> QueueSpec {
    QueueSpec::new(name)
}

/// A queue with one argument more.
pub(super) fn with(mut spec: QueueSpec, argument: &str, field: Field) -> QueueSpec {
    spec.arguments.insert(argument, field);
    spec
}

pub(super) fn lasting(spec: QueueSpec, ttl: Duration) -> QueueSpec {
    with(spec, "x-message-ttl", millis(ttl))
}

pub(super) fn expiring(spec: QueueSpec, expires: Duration) -> QueueSpec {
    with(spec, "x-expires", millis(expires))
}

/// A queue whose dead letters go to another by its name.
pub(in super::super) fn lettered(spec: QueueSpec, to: &str) -> QueueSpec {
    let spec = with(spec, "x-dead-letter-exchange", Field::text(""));
    with(spec, "x-dead-letter-routing-key", Field::text(to))
}

pub(super) fn exchange(name: &str, kind: ExchangeKind) -> ExchangeSpec {
    ExchangeSpec::new(name, kind)
}

/// An engine and the time.
pub(super) struct World {
    pub(super) engine: Engine<Note>,
    pub(super) now: Instant,
}

/// A delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) consumer: String,
    pub(super) number: i64,
    pub(super) redelivered: bool,
    pub(super) tag: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        World { engine: Engine::new(now), now }
    }

    /// With one session and a queue.
    pub(super) fn with_queue(spec: &QueueSpec) -> (Self, SessionId) {
        let mut world = World::new();
        let session = world.connect();
        world.declare(session, spec).unwrap();
        (world, session)
    }

    pub(super) fn connect(&mut self) -> SessionId {
        let session = self.engine.connect(self.now);
        for channel in [CHANNEL, SECOND_CHANNEL] {
            self.engine.open_channel(session, channel, self.now).unwrap();
        }
        session
    }

    pub(super) fn disconnect(&mut self, session: SessionId) {
        self.engine.disconnect(session, self.now);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.advance(self.now);
    }

    pub(super) fn declare(&mut self, session: SessionId, spec: &QueueSpec) -> Result<Declared> {
        self.engine.declare_queue(session, spec, self.now)
    }

    pub(super) fn declare_exchange(&mut self, session: SessionId, spec: &ExchangeSpec) {
        self.engine.declare_exchange(session, spec, self.now).unwrap();
    }

    pub(super) fn bind(&mut self, session: SessionId, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.engine.bind(session, &Binding::to_queue(exchange, queue, key), self.now)
    }

    pub(super) fn unbind(&mut self, session: SessionId, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.engine.unbind(session, &Binding::to_queue(exchange, queue, key), self.now)
    }

    pub(super) fn delete(&mut self, session: SessionId, queue: &str) -> Result<usize> {
        self.engine.delete_queue(session, queue, DeleteQueue::default(), self.now)
    }

    /// Whether a queue took it.
    pub(super) fn send(&mut self, session: SessionId, key: &str, number: i64) -> bool {
        self.publish(session, "", key, number).unwrap()
    }

    pub(super) fn publish(&mut self, session: SessionId, exchange: &str, key: &str, number: i64) -> Result<bool> {
        self.publish_note(session, Note::new(exchange, key, number))
    }

    pub(super) fn publish_note(&mut self, session: SessionId, note: Note) -> Result<bool> {
        let published = self.engine.publish(session, note, self.now)?;
        Ok(matches!(published, Published::Routed { .. }))
    }

    pub(super) fn consume(&mut self, session: SessionId, queue: &str, tag: &str, prefetch: u16) -> Result<()> {
        let prefetch = Some(prefetch);
        let spec = ConsumeSpec { prefetch, ..ConsumeSpec::new(queue, CHANNEL, tag) };
        self.engine.consume(session, &spec, self.now)
    }

    pub(super) fn consume_by(&mut self, session: SessionId, spec: &ConsumeSpec) -> Result<()> {
        self.engine.consume(session, spec, self.now)
    }

    pub(super) fn cancel(&mut self, session: SessionId, tag: &str) {
        self.engine.cancel(session, CHANNEL, tag, self.now).unwrap();
    }

    pub(super) fn try_get(&mut self, session: SessionId, queue: &str) -> Result<Option<Got<Note>>> {
        self.engine.get(session, CHANNEL, queue, Acknowledge::Manual, self.now)
    }

    pub(super) fn get(&mut self, session: SessionId, queue: &str) -> Option<Handed<Note>> {
        self.try_get(session, queue).unwrap().map(|got| got.handed)
    }

    /// The numbers that wait in a queue, taken and put back.
    pub(super) fn waiting(&mut self, queue: &str) -> Vec<i64> {
        let key = self.engine.queue_names[queue];
        self.engine.queues.get(key).unwrap().waiting().iter().map(|stored| stored.message.number).collect()
    }

    pub(super) fn ack(&mut self, session: SessionId, tag: u64) {
        self.engine.ack(session, CHANNEL, Tags::One(tag), self.now).unwrap();
    }

    pub(super) fn nack(&mut self, session: SessionId, tag: u64, then: Nack) {
        self.engine.nack(session, CHANNEL, Tags::One(tag), then, self.now).unwrap();
    }

    /// What consumers got; what a store is told is left out.
    pub(super) fn delivered(&mut self) -> Vec<Delivered> {
        let got = |effect: Effect<Note>| match effect {
            Effect::Delivery { consumer, handed, .. } => Some(Delivered {
                consumer: consumer.to_string(),
                number: handed.message.number,
                redelivered: handed.redelivered,
                tag: handed.tag,
            }),
            Effect::ConsumerCancelled { .. } => panic!("unexpected: {effect:?}"),
            _ => None,
        };
        self.engine.effects().filter_map(got).collect()
    }

    /// Of what consumers got.
    pub(super) fn numbers(&mut self) -> Vec<i64> {
        self.delivered().into_iter().map(|got| got.number).collect()
    }

    /// The consumers that got something.
    pub(super) fn consumers(&mut self) -> Vec<String> {
        self.delivered().into_iter().map(|got| got.consumer).collect()
    }

    /// What a store is told.
    pub(super) fn kept(&mut self) -> Vec<String> {
        let written = |effect: Effect<Note>| match effect {
            Effect::Store { copy, queue, message, .. } => Some(format!("store {} {queue} {}", copy.0, message.number)),
            Effect::Forget { copy } => Some(format!("forget {}", copy.0)),
            Effect::Defined(definition) => Some(format!("+{}", short(&definition))),
            Effect::Undefined(definition) => Some(format!("-{}", short(&definition))),
            _ => None,
        };
        self.engine.effects().filter_map(written).collect()
    }
}

fn short(definition: &Definition) -> String {
    match definition {
        Definition::Exchange(spec) => format!("exchange {}", spec.name),
        Definition::Queue(spec) => format!("queue {}", spec.name),
        Definition::Binding(Binding { source, destination: Destination::Queue(to), key, .. }) => {
            format!("binding {source}-{key}-{to}")
        }
        Definition::Binding(Binding { source, destination: Destination::Exchange(to), key, .. }) => {
            format!("binding {source}-{key}->{to}")
        }
    }
}
