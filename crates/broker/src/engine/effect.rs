//! What comes of requests besides their answers.

use std::sync::Arc;
use std::time::Instant;

use super::id::{ChannelId, CopyId, SessionId};
use super::message::Handed;
use super::spec::{Binding, ExchangeSpec, QueueSpec};

/// What a client is notified of, and what a store has to keep. Effects are in order: what is restored from a part of them is what
/// the engine was then.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect<M> {
    /// A message for a consumer.
    Delivery {
        /// Whose it is.
        session: SessionId,
        /// The channel that it comes by.
        channel: ChannelId,
        /// The consumer's tag.
        consumer: Arc<str>,
        /// The message.
        handed: Handed<M>,
    },
    /// The queue of this consumer is gone, and the consumer with it.
    ConsumerCancelled {
        /// Whose it was.
        session: SessionId,
        /// The channel that it was on.
        channel: ChannelId,
        /// Its tag.
        consumer: Arc<str>,
    },
    /// To be kept: a persistent message has come into a durable queue.
    Store {
        /// Names it.
        copy: CopyId,
        /// The queue.
        queue: Arc<str>,
        /// When its time in the queue is over.
        expires: Option<Instant>,
        /// The message.
        message: M,
    },
    /// A message that was stored has left its queue.
    Forget {
        /// Names it.
        copy: CopyId,
    },
    /// To be kept: something durable was declared.
    Defined(Definition),
    /// Something durable has gone. Of a queue that goes, each stored message is [forgotten](Effect::Forget) then, and what is out
    /// when its client is done with it: a store that is opened in between drops what has no queue. Bindings go before what they
    /// join.
    Undefined(Definition),
}

/// Something that survives a restart besides messages.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Definition {
    /// An exchange.
    Exchange(ExchangeSpec),
    /// A queue.
    Queue(QueueSpec),
    /// A binding between two durable ones.
    Binding(Binding),
}

/// What became of a publish.
#[derive(Debug)]
pub enum Published<M> {
    /// At least one queue took it.
    Routed {
        /// The last copy that has to be kept before the publish is confirmed; `None` where nothing has to.
        stored: Option<CopyId>,
    },
    /// No queue took it. Whether it is returned or dropped is for the caller to decide.
    Unroutable(M),
    /// A full queue refused it; others may have taken it.
    Rejected,
}
