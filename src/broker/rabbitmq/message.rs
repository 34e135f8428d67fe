//! Messages to and from lapin's form.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery as LapinDelivery;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, ShortString};

use super::topology::short;
use crate::broker::{Body, Delivery, Durability, HeaderValue, Message, Properties, Receipt, Rest, Routing};
use crate::error::{Detail, Error, ErrorKind, Result};

/// A message ready to be written.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub options: BasicPublishOptions,
    pub properties: BasicProperties,
    pub body: Bytes,
}

impl Outgoing {
    /// Checks what the wire cannot carry, before anything is sent. A message that has no id of its own gets this one, by which a
    /// return of it is known.
    pub(crate) fn new(message: &Message, message_id: Option<&Arc<str>>, most: usize) -> Result<Self> {
        let Body::Encoded(body) = &message.body else {
            return Err(Error::new(ErrorKind::Encode, "RabbitMQ carries bytes only: the body was not encoded"));
        };
        let given = &message.properties;
        let bytes = given.wire_size();
        if bytes > most {
            return Err(too_large(message, bytes, most));
        }
        let mut headers = FieldTable::default();
        for (name, value) in given.headers() {
            headers.insert(short("header name", name.as_str())?, to_amqp(value)?);
        }
        // What kiwipy sets stands in every message; an empty table of headers is there too.
        let mut properties =
            BasicProperties::default().with_headers(headers).with_delivery_mode(match message.durability {
                Durability::Durable => 2,
                Durability::Transient => 1,
            });
        if let Some(priority) = given.priority {
            properties = properties.with_priority(priority);
        }
        if let Some(id) = given.message_id.as_ref().or(message_id) {
            properties = properties.with_message_id(short("message id", &**id)?);
        }
        if let Some(id) = &given.correlation_id {
            properties = properties.with_correlation_id(short("correlation id", &**id)?);
        }
        if let Some(queue) = &given.reply_to {
            properties = properties.with_reply_to(short("reply-to", &**queue)?);
        }
        if let Some(rest) = given.rest() {
            properties = with_rest(properties, rest)?;
        }
        Ok(Outgoing {
            exchange: short("exchange name", &*message.exchange)?,
            routing_key: short("routing key", &*message.routing_key)?,
            options: BasicPublishOptions { mandatory: message.routing == Routing::Mandatory, immediate: false },
            properties,
            body: body.clone(),
        })
    }
}

fn too_large(message: &Message, bytes: usize, most: usize) -> Error {
    let largest = message.properties.headers().iter().max_by_key(|(_, value)| value.wire_size());
    let largest = largest.map_or(String::new(), |(name, _)| format!(" (the largest header is {name:?})"));
    Error::with_detail(
        ErrorKind::Encode,
        format!(
            "the message for {:?} on the exchange {:?} cannot be sent: its properties take {bytes} bytes, and a frame of this \
             connection has room for {most}{largest}. Put what is large into the body, or raise frame_max",
            message.routing_key, &*message.exchange
        ),
        Detail::TooLarge { bytes, most },
    )
}

fn with_rest(mut properties: BasicProperties, rest: &Rest) -> Result<BasicProperties> {
    if let Some(text) = &rest.content_type {
        properties = properties.with_content_type(short("content type", text.as_str())?);
    }
    if let Some(text) = &rest.content_encoding {
        properties = properties.with_content_encoding(short("content encoding", text.as_str())?);
    }
    if let Some(text) = &rest.kind {
        properties = properties.with_type(short("type", text.as_str())?);
    }
    if let Some(text) = &rest.app_id {
        properties = properties.with_app_id(short("app id", text.as_str())?);
    }
    if let Some(text) = &rest.expiration {
        properties = properties.with_expiration(short("expiration", text.as_str())?);
    }
    if let Some(text) = &rest.user_id {
        properties = properties.with_user_id(short("user id", text.as_str())?);
    }
    if let Some(text) = &rest.cluster_id {
        properties = properties.with_cluster_id(short("cluster id", text.as_str())?);
    }
    if let Some(seconds) = rest.timestamp {
        properties = properties.with_timestamp(seconds);
    }
    Ok(properties)
}

/// A delivery as the communicator reads it, with the properties that lapin could not read, if there are such; the body is
/// moved, not copied.
pub(crate) fn incoming(delivery: LapinDelivery, receipt: Receipt, diverted: Option<Properties>) -> Delivery {
    Delivery {
        receipt,
        redelivered: delivery.redelivered,
        properties: diverted.unwrap_or_else(|| properties(&delivery.properties)),
        body: Body::Encoded(Bytes::from(delivery.data)),
    }
}

pub(crate) fn properties(given: &BasicProperties) -> Properties {
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let shared = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().into());
    let mut properties = Properties {
        message_id: shared(given.message_id()),
        correlation_id: shared(given.correlation_id()),
        reply_to: shared(given.reply_to()),
        priority: *given.priority(),
        ..Properties::default()
    };
    let headers = given.headers().as_ref().filter(|headers| !headers.inner().is_empty());
    let strings = [
        given.content_type(),
        given.content_encoding(),
        given.kind(),
        given.app_id(),
        given.expiration(),
        given.user_id(),
        given.cluster_id(),
    ];
    if headers.is_some() || given.timestamp().is_some() || strings.iter().any(|string| string.is_some()) {
        *properties.rest_mut() = Rest {
            headers: headers.map(from_table).unwrap_or_default(),
            content_type: text(given.content_type()),
            content_encoding: text(given.content_encoding()),
            kind: text(given.kind()),
            app_id: text(given.app_id()),
            timestamp: *given.timestamp(),
            expiration: text(given.expiration()),
            user_id: text(given.user_id()),
            cluster_id: text(given.cluster_id()),
            oddities: Vec::new(),
        };
    }
    properties
}

fn from_table(table: &FieldTable) -> Vec<(String, HeaderValue)> {
    table.inner().iter().map(|(name, value)| (name.to_string(), from_amqp(value))).collect()
}

fn from_amqp(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Boolean(value) => HeaderValue::Bool(*value),
        AMQPValue::ShortShortInt(value) => HeaderValue::I8(*value),
        AMQPValue::ShortShortUInt(value) => HeaderValue::U8(*value),
        AMQPValue::ShortInt(value) => HeaderValue::I16(*value),
        AMQPValue::ShortUInt(value) => HeaderValue::U16(*value),
        AMQPValue::LongInt(value) => HeaderValue::I32(*value),
        AMQPValue::LongUInt(value) => HeaderValue::U32(*value),
        AMQPValue::LongLongInt(value) => HeaderValue::I64(*value),
        AMQPValue::Float(value) => HeaderValue::F32(*value),
        AMQPValue::Double(value) => HeaderValue::F64(*value),
        AMQPValue::DecimalValue(value) => HeaderValue::Decimal { scale: value.scale, value: value.value },
        AMQPValue::ShortString(text) => HeaderValue::Text(text.to_string()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => HeaderValue::Text(text.to_owned()),
            Err(_) => HeaderValue::Bytes(text.as_bytes().to_vec()),
        },
        AMQPValue::FieldArray(values) => HeaderValue::Array(values.as_slice().iter().map(from_amqp).collect()),
        AMQPValue::Timestamp(seconds) => HeaderValue::Timestamp(*seconds),
        AMQPValue::FieldTable(table) => HeaderValue::Table(from_table(table)),
        AMQPValue::ByteArray(bytes) => HeaderValue::ByteArray(bytes.as_slice().to_vec()),
        AMQPValue::Void => HeaderValue::Void,
    }
}

fn to_amqp(value: &HeaderValue) -> Result<AMQPValue> {
    Ok(match value {
        HeaderValue::Bool(value) => AMQPValue::Boolean(*value),
        HeaderValue::I8(value) => AMQPValue::ShortShortInt(*value),
        HeaderValue::U8(value) => AMQPValue::ShortShortUInt(*value),
        HeaderValue::I16(value) => AMQPValue::ShortInt(*value),
        HeaderValue::U16(value) => AMQPValue::ShortUInt(*value),
        HeaderValue::I32(value) => AMQPValue::LongInt(*value),
        HeaderValue::U32(value) => AMQPValue::LongUInt(*value),
        HeaderValue::I64(value) => AMQPValue::LongLongInt(*value),
        HeaderValue::F32(value) => AMQPValue::Float(*value),
        HeaderValue::F64(value) => AMQPValue::Double(*value),
        HeaderValue::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value }),
        HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        HeaderValue::Bytes(bytes) => AMQPValue::LongString(bytes.clone().into()),
        HeaderValue::ByteArray(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.clone())),
        HeaderValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        HeaderValue::Array(values) => {
            AMQPValue::FieldArray(FieldArray::from(values.iter().map(to_amqp).collect::<Result<Vec<_>>>()?))
        }
        HeaderValue::Table(entries) => {
            let mut table = FieldTable::default();
            for (name, value) in entries {
                table.insert(short("header name", name.as_str())?, to_amqp(value)?);
            }
            AMQPValue::FieldTable(table)
        }
        HeaderValue::Void => AMQPValue::Void,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Properties {
        let all = vec![
            HeaderValue::Bool(true),
            HeaderValue::I8(-1),
            HeaderValue::U8(200),
            HeaderValue::I16(-300),
            HeaderValue::U16(60_000),
            HeaderValue::I32(-70_000),
            HeaderValue::U32(4_000_000_000),
            HeaderValue::I64(i64::MIN),
            HeaderValue::F32(0.5),
            HeaderValue::F64(1e300),
            HeaderValue::Decimal { scale: 2, value: 314 },
            HeaderValue::Text("täxt".into()),
            HeaderValue::Bytes(vec![0xff, 0xfe]),
            HeaderValue::ByteArray(vec![0, 1, 255]),
            HeaderValue::Timestamp(u64::MAX),
            HeaderValue::Void,
            HeaderValue::Array(vec![]),
        ];
        let mut properties = Properties {
            message_id: Some("m".into()),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            priority: Some(9),
            ..Properties::default()
        };
        *properties.rest_mut() = Rest {
            headers: Vec::new(),
            content_type: Some("text/plain".into()),
            content_encoding: Some("gzip".into()),
            kind: Some("k".into()),
            app_id: Some("a".into()),
            timestamp: Some(1),
            expiration: Some("60000".into()),
            user_id: Some("u".into()),
            cluster_id: Some("cl".into()),
            oddities: Vec::new(),
        };
        let table = vec![("deep".to_owned(), HeaderValue::Array(all.clone()))];
        properties.set("array", HeaderValue::Array(all));
        properties.set("table", HeaderValue::Table(table));
        properties
    }

    #[test]
    fn every_property_and_every_type_of_header_survives() {
        let message = Message {
            exchange: "e".into(),
            routing_key: "k".into(),
            properties: everything(),
            body: Body::Encoded(Bytes::new()),
            routing: Routing::Optional,
            durability: Durability::Durable,
            origin: crate::broker::Origin::Sent,
        };
        let outgoing = Outgoing::new(&message, None, 131_064).expect("it can be sent");
        assert_eq!(properties(&outgoing.properties), message.properties);
    }
}
