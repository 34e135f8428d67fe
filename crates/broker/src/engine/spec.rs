//! What clients ask for: exchanges, queues, bindings and consumers as they are declared.

use std::sync::Arc;

use super::field::Arguments;
use super::id::ChannelId;

/// Whether an exchange or a queue survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It does.
    Durable,
    /// It does not.
    Transient,
}

/// Whether an object goes when its last user has gone (for a queue: its last consumer; for an exchange: its last binding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoDelete {
    /// It does, but never before it had its first.
    Yes,
    /// It stays until it is deleted.
    No,
}

/// Who may use a queue, or consume from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A queue: only the session that declared it; it goes with that session. A consumer: no other beside it.
    Exclusive,
    /// Everybody.
    Shared,
}

/// Who may publish to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publishers {
    /// Clients and exchanges.
    Anybody,
    /// Other exchanges only: AMQP's `internal`.
    Exchanges,
}

/// Who made up the name of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The client. Names that begin with `amq.` are refused.
    Client,
    /// The server, for a client that gave none.
    Server,
}

/// How an exchange finds the bindings that a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// The routing key is the binding's.
    Direct,
    /// Every binding.
    Fanout,
    /// The binding's key is a pattern.
    Topic,
    /// The binding's arguments are compared with the message's headers.
    Headers,
}

impl ExchangeKind {
    /// Its name in AMQP.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
        }
    }

    /// The kind of this name in AMQP.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            _ => return None,
        })
    }
}

/// An exchange as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeSpec {
    /// Unique among exchanges.
    pub name: Arc<str>,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Whether it survives a restart.
    pub durability: Durability,
    /// Whether it goes with its last binding.
    pub auto_delete: AutoDelete,
    /// Who may publish to it.
    pub publishers: Publishers,
    /// `alternate-exchange` is read; all others are kept.
    pub arguments: Arguments,
}

impl ExchangeSpec {
    /// A durable exchange without arguments.
    pub fn new(name: &str, kind: ExchangeKind) -> Self {
        ExchangeSpec {
            name: name.into(),
            kind,
            durability: Durability::Durable,
            auto_delete: AutoDelete::No,
            publishers: Publishers::Anybody,
            arguments: Arguments::new(),
        }
    }
}

/// A queue as it is declared.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSpec {
    /// Unique among queues.
    pub name: Arc<str>,
    /// Who made it up.
    pub naming: Naming,
    /// Whether it survives a restart.
    pub durability: Durability,
    /// Whether other sessions may use it.
    pub access: Access,
    /// Whether it goes with its last consumer.
    pub auto_delete: AutoDelete,
    /// `x-message-ttl` and so on; those that the engine does not know are kept.
    pub arguments: Arguments,
}

impl QueueSpec {
    /// A durable queue that all share, without arguments.
    pub fn new(name: &str) -> Self {
        QueueSpec {
            name: name.into(),
            naming: Naming::Client,
            durability: Durability::Durable,
            access: Access::Shared,
            auto_delete: AutoDelete::No,
            arguments: Arguments::new(),
        }
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// The queue of this name.
    Queue(Arc<str>),
    /// The exchange of this name.
    Exchange(Arc<str>),
}

/// A binding. Two that differ in any part are two.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    /// The exchange that messages come from.
    pub source: Arc<str>,
    /// Where they go.
    pub destination: Destination,
    /// The routing key, or the pattern.
    pub key: Arc<str>,
    /// What a headers exchange compares; elsewhere part of the binding's identity and nothing else.
    pub arguments: Arguments,
}

impl Binding {
    /// A binding of a queue, without arguments.
    pub fn to_queue(source: &str, queue: &str, key: &str) -> Self {
        Binding {
            source: source.into(),
            destination: Destination::Queue(queue.into()),
            key: key.into(),
            arguments: Arguments::new(),
        }
    }
}

/// Whether deliveries are to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledge {
    /// They are. There is no limit to the time that this takes.
    Manual,
    /// The engine forgets a message when it has handed it out.
    None,
}

/// A consumer as it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumeSpec {
    /// What it consumes from.
    pub queue: Arc<str>,
    /// Its name, unique on its channel.
    pub tag: Arc<str>,
    /// The channel that its deliveries come by.
    pub channel: ChannelId,
    /// Whether they are to be acknowledged.
    pub acknowledge: Acknowledge,
    /// Whether it is to be the only consumer.
    pub access: Access,
    /// Of several consumers those with the highest are served first, as long as they take more.
    pub priority: i32,
    /// How many may be out to it at once, 0 for no limit. `None` is what [`qos`](super::Engine::qos) set for new consumers of the
    /// channel.
    pub prefetch: Option<u16>,
}

impl ConsumeSpec {
    /// A consumer that acknowledges, shares its queue, and takes the channel's prefetch.
    pub fn new(queue: &str, channel: ChannelId, tag: &str) -> Self {
        ConsumeSpec {
            queue: queue.into(),
            tag: tag.into(),
            channel,
            acknowledge: Acknowledge::Manual,
            access: Access::Shared,
            priority: 0,
            prefetch: None,
        }
    }
}

/// What a limit of [`qos`](super::Engine::qos) is counted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// Each consumer that is started on the channel from now on, 0 for no limit. The channel has no limit of its own then.
    EachConsumer(u16),
    /// All consumers of the channel together, those that there are included, 0 for no limit. What each of them may have stays.
    Channel(u16),
}

/// Which deliveries an acknowledgement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// The one of this delivery tag.
    One(u64),
    /// This one and all before it on the channel; with 0 all that there are.
    UpTo(u64),
}

/// What a message that was refused becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// It goes back to its place in the queue and is marked as redelivered.
    Requeue,
    /// It is dead-lettered where its queue has an exchange for that, otherwise dropped.
    Discard,
}

/// On what condition an exchange is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteExchange {
    /// None.
    Always,
    /// Nothing is bound to it.
    IfUnused,
}

/// On what conditions a queue is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteQueue {
    /// It has no consumers.
    pub if_unused: bool,
    /// Nothing waits in it.
    pub if_empty: bool,
}

/// How much there is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Declared {
    /// The messages that wait; those that are out do not count.
    pub messages: usize,
    /// Its consumers.
    pub consumers: usize,
}
