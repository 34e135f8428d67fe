//! Messages and queues for the tests of every broker.

use bytes::Bytes;

use super::{Access, AutoDelete, Body, Delivery, Durability, Message, Origin, Properties, QueueSpec, Routing};

/// A mandatory message whose body is this text.
pub(crate) fn message(exchange: &str, key: &str, body: &str) -> Message {
    Message {
        exchange: exchange.into(),
        routing_key: key.into(),
        properties: Properties::default(),
        body: Body::Encoded(Bytes::copy_from_slice(body.as_bytes())),
        routing: Routing::Mandatory,
        durability: Durability::Transient,
        origin: Origin::Sent,
    }
}

/// What such a message says when it arrives.
pub(crate) fn text(delivery: &Delivery) -> String {
    match &delivery.body {
        Body::Encoded(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Body::Value(_) => panic!("bytes were sent"),
    }
}

/// A durable queue that all share, without limits.
pub(crate) fn queue(name: &str) -> QueueSpec {
    QueueSpec {
        name: name.to_owned(),
        durability: Durability::Durable,
        access: Access::Shared,
        auto_delete: AutoDelete::No,
        message_ttl: None,
        expires: None,
        dead_letter_to: None,
        priorities: None,
        max_length: None,
    }
}
