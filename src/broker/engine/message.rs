//! A message inside the engine: one content, shared by the queues that hold it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{Body, Message, Properties, Receipt};

/// What a message is besides its place in a queue. Never changed once it is in one.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub exchange: Arc<str>,
    pub routing_key: Arc<str>,
    pub properties: Properties,
    pub body: Body,
    /// The queues that this message was dead-lettered from, the last one first.
    deaths: Vec<Death>,
    weight: usize,
}

/// How often a message left one queue for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Death {
    queue: Arc<str>,
    reason: Reason,
    count: u64,
}

/// Why a message is dead-lettered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its time in the queue was over.
    Expired,
    /// A consumer refused it without a requeue.
    Rejected,
}

impl Reason {
    /// As RabbitMQ writes it.
    fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::Rejected => "rejected",
        }
    }
}

impl Content {
    /// Takes a message over. The time that this takes depends on the size of a body that is a value, so it is called
    /// outside of locks.
    pub(crate) fn new(message: Message) -> Arc<Self> {
        let Message { exchange, routing_key, properties, body, .. } = message;
        let weight =
            size_of::<Content>() + size_of::<Stored>() + routing_key.len() + properties.wire_size() + body.size();
        Arc::new(Content { exchange, routing_key, properties, body, deaths: Vec::new(), weight })
    }

    /// How long it may wait by its own property. One that is no number acts not at all.
    pub(super) fn time_to_live(&self) -> Option<Duration> {
        self.properties.rest()?.expiration.as_deref()?.parse().ok().map(Duration::from_millis)
    }

    /// About how many bytes it takes in memory, with the place that it has in a queue.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// The same message on its way from the queue that it died in. The first death is marked in headers, by RabbitMQ's names.
    pub(super) fn after_death(self: Arc<Self>, from: &Arc<str>, reason: Reason, to: &str) -> Arc<Self> {
        let mut content = Arc::unwrap_or_clone(self);
        let known = content.deaths.iter().position(|death| death.queue == *from && death.reason == reason);
        let mut death = match known {
            Some(at) => content.deaths.remove(at),
            None => Death { queue: Arc::clone(from), reason, count: 0 },
        };
        death.count += 1;
        content.deaths.insert(0, death);
        if content.properties.header("x-first-death-queue").is_none() {
            for (name, value) in [
                ("x-first-death-exchange", &*content.exchange),
                ("x-first-death-queue", from),
                ("x-first-death-reason", reason.as_str()),
            ] {
                content.properties.set_text(name, value);
                content.weight += name.len() + value.len() + size_of::<[String; 2]>();
            }
        }
        // Its own time has acted.
        if let Some(rest) = content.properties.rest.as_mut() {
            rest.expiration = None;
        }
        // Dead letters go by the default exchange.
        content.exchange = "".into();
        content.routing_key = to.into();
        Arc::new(content)
    }

    /// Whether this queue would get the message for a second time with no client between: RabbitMQ drops what goes in
    /// circles by itself.
    pub(super) fn circles(&self, queue: &str) -> bool {
        match self.deaths.iter().position(|death| &*death.queue == queue) {
            Some(at) => self.deaths[..=at].iter().all(|death| death.reason != Reason::Rejected),
            None => false,
        }
    }
}

/// A message in a queue, or out to a consumer.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its place in the queue, which it keeps when it comes back.
    pub(super) place: u64,
    pub(super) redelivered: bool,
    pub(super) expires: Option<Instant>,
    pub(super) content: Arc<Content>,
}

/// A message as it is handed out.
#[derive(Debug)]
pub(crate) struct Handed {
    pub receipt: Receipt,
    pub redelivered: bool,
    pub content: Arc<Content>,
}
