//! Messages to and from lapin's form.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery as LapinDelivery;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use super::topology::short;
use crate::broker::{Body, Delivery, Durability, Message, Properties, Receipt, Routing};
use crate::error::{Error, ErrorKind, Result};

/// A message ready to be written.
pub(crate) struct Outgoing {
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub options: BasicPublishOptions,
    pub properties: BasicProperties,
    pub body: Bytes,
    /// By which a return of it is known.
    pub message_id: String,
}

impl Outgoing {
    /// Checks what the wire cannot carry, before anything is sent.
    pub(crate) fn new(message: Message) -> Result<Self> {
        let Body::Encoded(body) = message.body else {
            return Err(Error::new(ErrorKind::Encode, "RabbitMQ carries bytes only: the body was not encoded"));
        };
        let given = message.properties;
        let message_id = given.message_id.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
        let mut headers = FieldTable::default();
        for (name, value) in &given.headers {
            headers.insert(short("header name", name.as_str())?, AMQPValue::LongString(value.as_str().into()));
        }
        // What kiwipy sets and nothing else; an empty table of headers is there too.
        let mut properties = BasicProperties::default()
            .with_headers(headers)
            .with_priority(0)
            .with_delivery_mode(match message.durability {
                Durability::Durable => 2,
                Durability::Transient => 1,
            })
            .with_message_id(short("message id", message_id.as_str())?);
        if let Some(id) = given.correlation_id {
            properties = properties.with_correlation_id(short("correlation id", id)?);
        }
        if let Some(queue) = given.reply_to {
            properties = properties.with_reply_to(short("reply-to", queue)?);
        }
        Ok(Outgoing {
            exchange: short("exchange name", &*message.exchange)?,
            routing_key: short("routing key", message.routing_key)?,
            options: BasicPublishOptions { mandatory: message.routing == Routing::Mandatory, immediate: false },
            properties,
            body,
            message_id,
        })
    }
}

/// A delivery as the communicator reads it; the body is moved, not copied.
pub(crate) fn incoming(delivery: LapinDelivery, receipt: Receipt) -> Delivery {
    Delivery {
        receipt,
        redelivered: delivery.redelivered,
        properties: properties(&delivery.properties),
        body: Body::Encoded(Bytes::from(delivery.data)),
    }
}

fn properties(given: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let headers = given.headers().iter().flat_map(FieldTable::inner);
    Properties {
        message_id: text(given.message_id()),
        correlation_id: text(given.correlation_id()),
        reply_to: text(given.reply_to()),
        headers: headers.filter_map(|(name, value)| Some((name.to_string(), header_text(value)?))).collect(),
    }
}

fn header_text(value: &AMQPValue) -> Option<String> {
    let long = |text: &LongString| String::from_utf8(text.as_bytes().to_vec()).ok();
    match value {
        AMQPValue::LongString(text) => long(text),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}
