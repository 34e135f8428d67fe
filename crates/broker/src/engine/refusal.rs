//! What the engine refuses, and why: data, so that each front (a call in the process, a protocol) puts it into its own words.

use std::sync::Arc;

use super::field::Field;
use super::id::ChannelId;

/// What kind of thing a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
}

impl Object {
    /// Its name in AMQP.
    pub fn as_str(self) -> &'static str {
        match self {
            Object::Exchange => "exchange",
            Object::Queue => "queue",
        }
    }
}

/// A request that was refused. Comments name the reply code of AMQP 0-9-1.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// The session has ended.
    NoSession,
    /// 504: the channel is not open.
    NoChannel(ChannelId),
    /// 504: the channel is open already.
    ChannelOpen(ChannelId),
    /// 404.
    NotFound {
        /// What is missing.
        object: Object,
        /// Its name.
        name: Arc<str>,
    },
    /// 405: the queue is exclusive to another session, or is not declared as exclusive as it is.
    Locked {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// 405: a quorum queue with a single active consumer serves no gets.
    OnlyConsumed {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// 406: it exists with another value. Both are given for a property; an argument may be missing on either side.
    Differs {
        /// What exists.
        object: Object,
        /// Its name.
        name: Arc<str>,
        /// The property or argument, as RabbitMQ names it.
        argument: Arc<str>,
        /// What it has.
        have: Option<Field>,
        /// What was asked for.
        want: Option<Field>,
    },
    /// 406: an argument that cannot be.
    BadArgument {
        /// What was to be declared.
        object: Object,
        /// Its name.
        name: Arc<str>,
        /// The argument.
        argument: Arc<str>,
        /// What is wrong with it.
        problem: Problem,
    },
    /// 406: a quorum queue is durable, shared, and stays.
    BadProperty {
        /// The queue.
        queue: Arc<str>,
        /// RabbitMQ's name of the property that it cannot have: `non-durable`, `exclusive` or `auto-delete`.
        property: &'static str,
    },
    /// 406: it is used, and was to be deleted if it is not.
    InUse {
        /// What is used.
        object: Object,
        /// Its name.
        name: Arc<str>,
    },
    /// 406: messages wait in it, and it was to be deleted if none do.
    NotEmpty {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// 406: nothing is out under this delivery tag.
    UnknownDeliveryTag(u64),
    /// 403: names that begin with `amq.` are the broker's own.
    Reserved {
        /// What was to be declared or deleted.
        object: Object,
        /// The name.
        name: Arc<str>,
    },
    /// 403: the default exchange is neither declared, deleted nor bound.
    DefaultExchange,
    /// 403: clients do not publish to an internal exchange.
    InternalExchange {
        /// Its name.
        name: Arc<str>,
    },
    /// 403: the queue has an exclusive consumer, or has consumers beside which none can be exclusive.
    ExclusiveUse {
        /// The queue's name.
        queue: Arc<str>,
    },
    /// 530: the tag names a consumer of this channel already.
    TagTaken(Arc<str>),
    /// 506: queues that sessions share would hold more than the engine [may](super::Engine::holding_at_most).
    NoRoom {
        /// How many bytes are held.
        held: usize,
        /// How many may be.
        most: usize,
    },
}

/// What is wrong with an argument.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// An integer is expected, and this is the type that came.
    NotAnInteger(&'static str),
    /// Another type is expected than this one.
    UnacceptableType(&'static str),
    /// Less than nothing.
    Negative(i64),
    /// Nothing.
    Zero,
    /// More than is possible.
    TooLarge(i64),
    /// None of the values that there are.
    UnknownValue(Field),
    /// `x-dead-letter-routing-key` without `x-dead-letter-exchange`.
    KeyWithoutExchange,
    /// Queues of this type (`classic` or `quorum`) have no such argument.
    NotForThisType(&'static str),
    /// There are no such queues here: `x-queue-type` is `stream`, for example.
    UnsupportedQueueType(Field),
    /// `x-match` of a binding is none of the values that there are.
    UnknownMatch(Field),
}
