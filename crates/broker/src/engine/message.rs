//! A message: what the engine asks of one, and its copies in queues.

use std::sync::Arc;
use std::time::Duration;

use super::field::Field;
use super::id::CopyId;
use super::time::Moment;

/// A message as its owner has it. The engine moves it, asks it these questions, and reads nothing else of it.
///
/// A clone must be cheap, as of an `Arc`.
pub trait Message: Clone {
    /// The exchange that it was published to; empty for the default one.
    fn exchange(&self) -> &str;

    /// Its routing key.
    fn routing_key(&self) -> &str;

    /// Further routing keys: the header `CC`.
    fn cc(&self) -> &[Arc<str>] {
        &[]
    }

    /// Further routing keys that receivers do not see: the header `BCC`, which the owner takes out of what it delivers.
    fn bcc(&self) -> &[Arc<str>] {
        &[]
    }

    /// Its priority; 0 is the least and the default.
    fn priority(&self) -> u8 {
        0
    }

    /// How long it may wait in a queue, by its own property `expiration`.
    fn time_to_live(&self) -> Option<Duration> {
        None
    }

    /// Whether it survives a restart in a durable queue: delivery mode 2.
    fn is_persistent(&self) -> bool;

    /// About how many bytes it takes in memory. Changes by [`put_away`](Self::put_away) at most.
    fn weight(&self) -> usize;

    /// True for one by which others leave, such as a reply, or a copy that takes the place of a message. It is taken where there
    /// is [no room](super::Engine::holding_at_most): if it were refused, there would never be room.
    fn makes_room(&self) -> bool {
        false
    }

    /// How many bytes its body has, for queues with a limit.
    fn body_len(&self) -> usize;

    /// Passes its headers, for headers exchanges.
    fn headers(&self, each: &mut dyn FnMut(&str, &Field)) {
        let _ = each;
    }

    /// The queues that it was dead-lettered from, the last one first: the header `x-death`.
    fn deaths(&self) -> Vec<Death> {
        Vec::new()
    }

    /// The same message on its way from the queue that it died in: `deaths` is its header `x-death` from now on, it has no
    /// expiration any more, and `exchange` is its exchange. With a `key` that is its routing key and the only one (`CC` and
    /// `BCC` go); without one it keeps its keys. The first death is also written as `x-first-death-exchange`, `-queue` and
    /// `-reason`.
    #[must_use]
    fn after_death(self, exchange: &Arc<str>, key: Option<&Arc<str>>, deaths: &[Death]) -> Self;

    /// It has to wait in a queue, with so many others before it, and was reported as [stored](super::Effect::Store). An owner that
    /// keeps such messages on a disk may drop here what it can read again.
    fn put_away(&mut self, copy: CopyId, before: usize) {
        let _ = (copy, before);
    }
}

/// How often a message left one queue for one reason: an entry of the header `x-death`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Death {
    /// The queue that it left.
    pub queue: Arc<str>,
    /// Why.
    pub reason: Reason,
    /// How often.
    pub count: u64,
    /// The exchange that it had been published to the first time.
    pub exchange: Arc<str>,
    /// Its routing key then, and those of `CC`.
    pub keys: Vec<Arc<str>>,
    /// Seconds since 1970 of the first time. `None` for one that happened just now: whoever writes it knows the time.
    pub at: Option<u64>,
    /// The property `expiration` that it had the first time. For one that happened just now whoever writes it has it.
    pub original_expiration: Option<Arc<str>>,
}

/// Why a message is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// Its time in the queue was over.
    Expired,
    /// A consumer refused it without a requeue.
    Rejected,
    /// Its queue was full.
    MaxLength,
    /// It was handed out more often than its queue allows.
    DeliveryLimit,
}

impl Reason {
    /// As RabbitMQ writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Rejected => "rejected",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }

    /// The reason that RabbitMQ writes so.
    pub fn from_name(name: &str) -> Option<Self> {
        [Reason::Expired, Reason::Rejected, Reason::MaxLength, Reason::DeliveryLimit]
            .into_iter()
            .find(|reason| reason.as_str() == name)
    }
}

/// A message in a queue, or out to a consumer.
#[derive(Debug)]
pub(super) struct Stored<M> {
    /// Also its place in the queue, which it keeps when it comes back.
    pub(super) copy: CopyId,
    pub(super) expires: Moment,
    /// How often it came back.
    pub(super) returns: u32,
    pub(super) redelivered: bool,
    /// Whether it is to survive a restart, and was reported as stored.
    pub(super) kept: bool,
    pub(super) message: M,
}

/// A message as it is handed out.
#[derive(Debug)]
#[non_exhaustive]
pub struct Handed<M> {
    /// What it is acknowledged by, unique on its channel as long as that is open.
    pub tag: u64,
    /// Whether it may have been handed out before.
    pub redelivered: bool,
    /// How often it came back before, where its queue counts that (a quorum queue, which tells it in `x-delivery-count`).
    pub returns: Option<u32>,
    /// The message.
    pub message: M,
}
