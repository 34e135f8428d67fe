//! A message as the engine of `memory:` holds it: one content, shared by the queues that it is in.

use std::sync::Arc;
use std::time::Duration;

use homing_broker::engine::{Death, Field, Message as EngineMessage};

use crate::broker::{Body, Durability, Message, Origin, Properties};

/// A message inside the broker. Never changed once it is in a queue.
#[derive(Clone, Debug)]
pub(super) struct Content(Arc<Parts>);

#[derive(Clone, Debug)]
pub(super) struct Parts {
    exchange: Arc<str>,
    routing_key: Arc<str>,
    pub(super) properties: Properties,
    pub(super) body: Body,
    durability: Durability,
    origin: Origin,
    /// The queues that this message was dead-lettered from, the last one first.
    deaths: Vec<Death>,
    weight: usize,
}

/// What a queue needs for a message, about.
const PLACE: usize = 64;

impl Content {
    /// Takes a message over. The time that this takes depends on the size of a body that is a value, so it is called
    /// outside of locks.
    pub(super) fn new(message: Message) -> Self {
        let Message { exchange, routing_key, properties, body, durability, origin, .. } = message;
        let weight = size_of::<Parts>() + PLACE + routing_key.len() + properties.wire_size() + body.size();
        let deaths = Vec::new();
        Content(Arc::new(Parts { exchange, routing_key, properties, body, durability, origin, deaths, weight }))
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn arc(&self) -> &Arc<Parts> {
        &self.0
    }

    /// Moved where nobody else holds it.
    pub(super) fn into_properties_and_body(self) -> (Properties, Body) {
        match Arc::try_unwrap(self.0) {
            Ok(parts) => (parts.properties, parts.body),
            Err(parts) => (parts.properties.clone(), parts.body.clone()),
        }
    }
}

impl EngineMessage for Content {
    fn exchange(&self) -> &str {
        &self.0.exchange
    }

    fn routing_key(&self) -> &str {
        &self.0.routing_key
    }

    fn priority(&self) -> u8 {
        self.0.properties.priority.unwrap_or(0)
    }

    /// A property that is no number acts not at all.
    fn time_to_live(&self) -> Option<Duration> {
        self.0.properties.rest()?.expiration.as_deref()?.parse().ok().map(Duration::from_millis)
    }

    fn is_persistent(&self) -> bool {
        self.0.durability == Durability::Durable
    }

    fn weight(&self) -> usize {
        self.0.weight
    }

    fn makes_room(&self) -> bool {
        self.0.origin == Origin::Handling
    }

    fn body_len(&self) -> usize {
        self.0.body.size()
    }

    fn headers(&self, _each: &mut dyn FnMut(&str, &Field)) {
        // There are topic exchanges only.
    }

    fn deaths(&self) -> Vec<Death> {
        self.0.deaths.clone()
    }

    fn after_death(self, exchange: &Arc<str>, key: Option<&Arc<str>>, deaths: &[Death]) -> Self {
        let mut parts = Arc::unwrap_or_clone(self.0);
        if let (Some(death), None) = (deaths.first(), parts.properties.header("x-first-death-queue")) {
            for (name, value) in [
                ("x-first-death-exchange", &*death.exchange),
                ("x-first-death-queue", &death.queue),
                ("x-first-death-reason", death.reason.as_str()),
            ] {
                parts.properties.set_text(name, value);
                parts.weight += name.len() + value.len() + size_of::<[String; 2]>();
            }
        }
        // Its own time has acted.
        if let Some(rest) = parts.properties.rest.as_mut() {
            rest.expiration = None;
        }
        parts.deaths = deaths.to_vec();
        parts.exchange = Arc::clone(exchange);
        if let Some(key) = key {
            parts.routing_key = Arc::clone(key);
        }
        Content(Arc::new(parts))
    }
}
