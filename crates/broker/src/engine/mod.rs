//! A broker as one value: exchanges, queues, bindings, consumers, acknowledgements, expiry, limits and dead letters, as one
//! virtual host of RabbitMQ has them. Not here: I/O, clocks, locks and threads. The owner of an [`Engine`] passes in requests with
//! the time, takes the [`Effect`]s out, and calls again at [`Engine::next_deadline`].
//!
//! The same requests at the same times have the same results and effects in the same order. A request costs the same however
//! many queues, bindings, consumers and waiting messages there are, but for the logarithm in the ordered maps.
//!
//! What a message is, is the owner's choice: see [`Message`].
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Instant;
//!
//! use homing_broker::engine::{ChannelId, ConsumeSpec, Death, Effect, Engine, Message, QueueSpec, Tags};
//!
//! /// A text for the queue of a name.
//! #[derive(Clone)]
//! struct Letter(Arc<str>, Arc<str>);
//!
//! impl Message for Letter {
//!     fn exchange(&self) -> &str {
//!         ""
//!     }
//!     fn routing_key(&self) -> &str {
//!         &self.0
//!     }
//!     fn is_persistent(&self) -> bool {
//!         false
//!     }
//!     fn weight(&self) -> usize {
//!         self.0.len() + self.1.len()
//!     }
//!     fn body_len(&self) -> usize {
//!         self.1.len()
//!     }
//!     fn after_death(self, _exchange: &Arc<str>, key: Option<&Arc<str>>, _deaths: &[Death]) -> Self {
//!         Letter(key.cloned().unwrap_or(self.0), self.1)
//!     }
//! }
//!
//! # fn main() -> Result<(), homing_broker::engine::Refusal> {
//! let now = Instant::now();
//! let mut engine = Engine::new(now);
//! let (client, channel) = (engine.connect(now), ChannelId(1));
//! engine.open_channel(client, channel, now)?;
//! engine.declare_queue(client, &QueueSpec::new("work"), now)?;
//! engine.consume(client, &ConsumeSpec::new("work", channel, "consumer"), now)?;
//! engine.publish(client, Letter("work".into(), "hello".into()), now)?;
//! let delivered: Vec<_> = engine
//!     .effects()
//!     .filter_map(|effect| match effect {
//!         Effect::Delivery { handed, .. } => Some(handed),
//!         _ => None,
//!     })
//!     .collect();
//! assert_eq!(&*delivered[0].message.1, "hello");
//! engine.ack(client, channel, Tags::One(delivered[0].tag), now)?;
//! # Ok(())
//! # }
//! ```
//!
//! # How the files stand on each other
//! `field`, `id`, `spec`, `refusal`, `effect`, `message` and `time` are what is passed in and out; `table`, `topic` and `headers`
//! know nothing of brokers; `exchange`, `queue`, `consumer` and `session` own one kind of state each, and never each other's. The
//! engine joins them, one file for one kind of request: `topology`, `bindings`, `routing`, `delivery`, `flow`,
//! `settle`, `dead`, `expiry`, `restore`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

mod bindings;
mod consumer;
mod counts;
mod dead;
mod delivery;
mod effect;
mod exchange;
mod expiry;
mod field;
mod flow;
mod headers;
mod id;
mod inspect;
mod message;
#[cfg(test)]
mod properties;
mod queue;
mod refusal;
mod restore;
mod routing;
mod session;
mod settings;
mod settle;
mod spec;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod topic;
mod topology;

pub use counts::Counts;
pub use delivery::Got;
pub use effect::{Definition, Effect, Published};
pub use field::{Arguments, Field};
pub use id::{ChannelId, CopyId, SessionId};
pub use inspect::{ChannelView, ConsumerView, QueueView};
pub use message::{Death, Handed, Message, Reason};
pub use refusal::{Object, Problem, Refusal};
pub use spec::{
    Access, Acknowledge, AutoDelete, Binding, ConsumeSpec, Declared, DeleteExchange, DeleteQueue, Destination,
    Durability, ExchangeKind, ExchangeSpec, Nack, Naming, Prefetch, Publishers, QueueSpec, Tags,
};

use consumer::Consumer;
use dead::Dead;
use exchange::{Exchange, ExchangeKey};
use queue::{AQueue, Queue, QueueKey};
use routing::Scratch;
use session::{AChannel, Channel, ChannelKey, Session};
use table::Table;
use time::{Epoch, Moment};

type Result<T> = std::result::Result<T, Refusal>;

/// The broker. See the [module](self).
pub struct Engine<M> {
    sessions: BTreeMap<SessionId, Session>,
    next_session: u64,
    channels: Table<Channel<M>, AChannel>,
    queues: Table<Queue<M>, AQueue>,
    exchanges: Table<Exchange>,
    consumers: Table<Consumer>,
    /// Only looked up, never walked through: the order of a hash map must not be seen.
    queue_names: HashMap<Arc<str>, QueueKey>,
    exchange_names: HashMap<Arc<str>, ExchangeKey>,
    /// When which queue has something that will be over.
    wakes: BTreeSet<(Moment, QueueKey)>,
    epoch: Epoch,
    /// The latest time that was passed in. Time does not go backwards.
    now: Moment,
    next_copy: u64,
    dead: VecDeque<Dead<M>>,
    effects: Vec<Effect<M>>,
    released: Vec<M>,
    collects_released: bool,
    bytes: usize,
    /// How many bytes may be held before queues that sessions share take no more.
    most_bytes: usize,
    /// What went through queues that have gone.
    past: Counts,
    /// Kept for its memory.
    scratch: Scratch,
}

/// The exchanges that every broker has, but for the default one, which needs no entry.
const STANDARD: [(&str, ExchangeKind, Publishers); 6] = [
    ("amq.direct", ExchangeKind::Direct, Publishers::Anybody),
    ("amq.fanout", ExchangeKind::Fanout, Publishers::Anybody),
    ("amq.headers", ExchangeKind::Headers, Publishers::Anybody),
    ("amq.match", ExchangeKind::Headers, Publishers::Anybody),
    ("amq.rabbitmq.trace", ExchangeKind::Topic, Publishers::Exchanges),
    ("amq.topic", ExchangeKind::Topic, Publishers::Anybody),
];

impl<M: Message> Engine<M> {
    /// A broker with the standard exchanges and nothing else.
    pub fn new(now: Instant) -> Self {
        let epoch = Epoch::new(now);
        let mut engine = Engine {
            sessions: BTreeMap::new(),
            next_session: 1,
            channels: Table::default(),
            queues: Table::default(),
            exchanges: Table::default(),
            consumers: Table::default(),
            queue_names: HashMap::new(),
            exchange_names: HashMap::new(),
            wakes: BTreeSet::new(),
            epoch,
            now: epoch.moment(now),
            next_copy: 1,
            dead: VecDeque::new(),
            effects: Vec::new(),
            released: Vec::new(),
            collects_released: false,
            bytes: 0,
            most_bytes: usize::MAX,
            past: Counts::default(),
            scratch: Scratch::default(),
        };
        for (name, kind, publishers) in STANDARD {
            engine.add_exchange(ExchangeSpec { publishers, ..ExchangeSpec::new(name, kind) });
        }
        engine
    }

    /// Keeps the messages that the engine lets go of for [`released`](Self::released), instead of dropping them.
    #[must_use]
    pub fn collecting_released(mut self) -> Self {
        self.collects_released = true;
        self
    }

    /// Refuses messages for queues that sessions share ([`Refusal::NoRoom`]) once so many [bytes](Self::bytes) are held. Without
    /// this, nothing but the limits of each queue bounds them. Messages for exclusive queues alone are taken up to twice as many
    /// bytes, so that what nobody takes from a shared queue keeps nobody from calling. Dead letters, which would be lost, are taken
    /// all the same, and messages that [make room](Message::makes_room).
    #[must_use]
    pub fn holding_at_most(mut self, bytes: usize) -> Self {
        self.most_bytes = bytes;
        self
    }

    /// What is to be sent and kept, in order. Requests before the last call have left nothing behind.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect<M>> {
        self.effects.drain(..)
    }

    /// The messages that the engine has let go of, to be dropped wherever the owner likes: outside of its lock, for one may be
    /// large. Empty unless the engine [collects](Self::collecting_released) them.
    pub fn released(&mut self) -> &mut Vec<M> {
        &mut self.released
    }

    /// A client has come.
    pub fn connect(&mut self, now: Instant) -> SessionId {
        self.advance(now);
        let id = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(id, Session::default());
        id
    }

    /// A client has gone, in order or not: its consumers end, what it has in hand goes back, its own queues go. Doing it twice
    /// is no error.
    pub fn disconnect(&mut self, id: SessionId, now: Instant) {
        self.advance(now);
        let Some(session) = self.sessions.remove(&id) else { return };
        let mut touched = BTreeSet::new();
        // First the consumers of all channels: what comes back on one must not go out on the next.
        for channel in session.channels.values() {
            self.end_consumers(*channel, &mut touched);
        }
        for channel in session.channels.into_values() {
            self.give_back(channel, &mut touched);
            self.channels.remove(channel);
        }
        for queue in session.own {
            self.remove_queue(queue);
        }
        self.settle_queues(&touched);
        self.bury();
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// [`Refusal::ChannelOpen`] where it is open already.
    pub fn open_channel(&mut self, session: SessionId, id: ChannelId, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        let Some(state) = self.sessions.get_mut(&session) else { return Err(Refusal::NoSession) };
        if state.channels.contains_key(&id) {
            return Err(Refusal::ChannelOpen(id));
        }
        let key = self.channels.insert(Channel::new(session, id, state));
        state.channels.insert(id, key);
        Ok(())
    }

    /// Closes a channel, in order or after an error: its consumers end and what is out goes back. Nothing happens where it is not
    /// open.
    pub fn close_channel(&mut self, session: SessionId, id: ChannelId, now: Instant) {
        self.advance(now);
        let Some(key) = self.sessions.get_mut(&session).and_then(|session| session.channels.remove(&id)) else {
            return;
        };
        let mut touched = BTreeSet::new();
        self.end_consumers(key, &mut touched);
        self.give_back(key, &mut touched);
        self.channels.remove(key);
        self.settle_queues(&touched);
        self.bury();
    }

    /// What every request of a session begins with.
    fn begin(&mut self, session: SessionId, now: Instant) -> Result<()> {
        self.advance(now);
        if self.sessions.contains_key(&session) { Ok(()) } else { Err(Refusal::NoSession) }
    }

    /// What every request on a channel begins with.
    fn begin_on(&mut self, session: SessionId, channel: ChannelId, now: Instant) -> Result<ChannelKey> {
        self.advance(now);
        let session = self.sessions.get(&session).ok_or(Refusal::NoSession)?;
        session.channels.get(&channel).copied().ok_or(Refusal::NoChannel(channel))
    }

    /// A queue that this session may use.
    fn queue_of(&self, session: SessionId, name: &str) -> Result<QueueKey> {
        let found = self.queue_names.get(name).and_then(|key| Some((*key, self.queues.get(*key)?)));
        let (key, queue) = found.ok_or_else(|| Refusal::NotFound { object: Object::Queue, name: name.into() })?;
        if queue.owner.is_none_or(|owner| owner == session) {
            return Ok(key);
        }
        Err(Refusal::Locked { queue: name.into() })
    }

    fn release(&mut self, message: M) {
        if self.collects_released {
            self.released.push(message);
        }
    }
}
