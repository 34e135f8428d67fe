//! Rows in the form that RabbitMQ's API gives them.

use super::rates::Rates;
use super::rows::{BindingRow, ChannelRow, ConnectionRow, ConsumerRow, ExchangeRow, QueueRow, kind_of};
use crate::engine::{Access, Arguments, AutoDelete, Counts, Destination, Durability, Field, Publishers};
use crate::server::peer::Selected;
use serde_json::{Map, Value as Json, json};
use std::hash::{Hash, Hasher};
use std::time::{SystemTime, UNIX_EPOCH};

/// The only node that there is.
pub(super) const NODE: &str = "homing@localhost";

/// A value of a field table. Bytes that are no text are read as near as they can be.
pub(super) fn field(field: &Field) -> Json {
    match field {
        Field::Void => Json::Null,
        Field::Bool(value) => Json::from(*value),
        Field::F32(value) => Json::from(*value),
        Field::F64(value) => Json::from(*value),
        Field::Timestamp(value) => Json::from(*value),
        Field::Text(bytes) | Field::Bytes(bytes) => Json::from(String::from_utf8_lossy(bytes)),
        Field::Array(fields) => fields.iter().map(self::field).collect(),
        Field::Table(table) => arguments(table),
        other => other.as_integer().map_or(Json::Null, Json::from),
    }
}

pub(super) fn arguments(arguments: &Arguments) -> Json {
    Json::Object(arguments.iter().map(|(name, value)| (name.to_string(), field(value))).collect())
}

/// What a request gives as arguments.
pub(super) fn read_arguments(given: Option<&Json>) -> Result<Arguments, String> {
    match given {
        None | Some(Json::Null) => Ok(Arguments::new()),
        Some(Json::Object(map)) => read_map(map),
        // RabbitMQ's own tools send an empty list.
        Some(Json::Array(list)) if list.is_empty() => Ok(Arguments::new()),
        Some(_) => Err("arguments have to be an object".to_owned()),
    }
}

fn read_map(map: &Map<String, Json>) -> Result<Arguments, String> {
    map.iter().map(|(name, value)| Ok((name.as_str().into(), read_field(name, value)?))).collect()
}

fn read_field(name: &str, value: &Json) -> Result<Field, String> {
    Ok(match value {
        Json::Null => Field::Void,
        Json::Bool(value) => Field::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(value), _) => Field::I64(value),
            (None, Some(value)) => Field::F64(value),
            (None, None) => return Err(format!("the number of {name} is too large")),
        },
        Json::String(text) => Field::text(text),
        Json::Array(list) => Field::Array(list.iter().map(|value| read_field(name, value)).collect::<Result<_, _>>()?),
        Json::Object(map) => Field::Table(read_map(map)?),
    })
}

fn details(rate: f64) -> Json {
    json!({ "rate": rate })
}

/// Counts and how fast they grow.
pub(super) fn stats(counts: &Counts, rates: &Rates) -> Json {
    json!({
        "publish": counts.published,
        "publish_details": details(rates.published),
        "deliver_get": counts.delivered,
        "deliver_get_details": details(rates.delivered),
        "redeliver": counts.redelivered,
        "redeliver_details": details(rates.redelivered),
        "ack": counts.acknowledged,
        "ack_details": details(rates.acknowledged),
    })
}

pub(super) fn queue(row: &QueueRow, rates: &Rates) -> Json {
    let spec = &row.spec;
    json!({
        "name": *spec.name,
        "vhost": *row.host,
        "type": kind_of(&spec.arguments),
        "durable": spec.durability == Durability::Durable,
        "auto_delete": spec.auto_delete == AutoDelete::Yes,
        "exclusive": spec.access == Access::Exclusive,
        "owner_pid_details": row.owner.as_ref().map_or(json!({}), |name| json!({ "name": **name })),
        "arguments": arguments(&spec.arguments),
        "node": NODE,
        "state": "running",
        "policy": null,
        "operator_policy": null,
        "effective_policy_definition": {},
        "consumers": row.consumers,
        "messages": row.waiting + row.out,
        "messages_details": details(rates.waiting + rates.out),
        "messages_ready": row.waiting,
        "messages_ready_details": details(rates.waiting),
        "messages_unacknowledged": row.out,
        "messages_unacknowledged_details": details(rates.out),
        "memory": row.waiting_bytes + row.out_bytes,
        "message_bytes": row.waiting_bytes + row.out_bytes,
        "message_bytes_ready": row.waiting_bytes,
        "message_bytes_unacknowledged": row.out_bytes,
        "message_stats": stats(&row.counts, rates),
    })
}

pub(super) fn exchange(row: &ExchangeRow) -> Json {
    let spec = &row.spec;
    json!({
        "name": *spec.name,
        "vhost": *row.host,
        "type": spec.kind.as_str(),
        "durable": spec.durability == Durability::Durable,
        "auto_delete": spec.auto_delete == AutoDelete::Yes,
        "internal": spec.publishers == Publishers::Exchanges,
        "arguments": arguments(&spec.arguments),
        "policy": null,
        "user_who_performed_action": "",
    })
}

pub(super) fn binding(row: &BindingRow) -> Json {
    let binding = &row.binding;
    let (destination, kind) = match &binding.destination {
        Destination::Queue(name) => (name, "queue"),
        Destination::Exchange(name) => (name, "exchange"),
    };
    json!({
        "source": *binding.source,
        "vhost": *row.host,
        "destination": **destination,
        "destination_type": kind,
        "routing_key": *binding.key,
        "arguments": arguments(&binding.arguments),
        "properties_key": properties_key(row),
    })
}

/// What tells bindings between the same two apart: the key, and something of the arguments if there are any.
pub(super) fn properties_key(row: &BindingRow) -> String {
    let binding = &row.binding;
    if binding.arguments.is_empty() {
        return if binding.key.is_empty() { "~".to_owned() } else { binding.key.to_string() };
    }
    let mut hasher = std::hash::DefaultHasher::new();
    arguments(&binding.arguments).to_string().hash(&mut hasher);
    format!("{}~{:x}", binding.key, hasher.finish())
}

pub(super) fn connection(row: &ConnectionRow) -> Json {
    let facts = &row.facts;
    let (peer, own) = facts.ends.unzip();
    json!({
        "name": *row.name,
        "vhost": *row.host,
        "user": *row.user,
        "user_who_performed_action": *row.user,
        "node": NODE,
        "state": if row.is_blocked { "blocked" } else { "running" },
        "type": "network",
        "protocol": "AMQP 0-9-1",
        "ssl": facts.tls.is_some(),
        // "tlsv1.3" of TLSv1_3.
        "ssl_protocol": facts.tls.map(|version| version.to_lowercase().replace('_', ".")),
        "auth_mechanism": facts.mechanism,
        "peer_host": peer.map(|address| address.ip().to_string()),
        "peer_port": peer.map(|address| address.port()),
        "host": own.map(|address| address.ip().to_string()),
        "port": own.map(|address| address.port()),
        "channels": row.channels,
        "channel_max": facts.channel_max,
        "frame_max": row.frame_max,
        "timeout": row.heartbeat,
        "send_pend": row.unsent,
        "connected_at": milliseconds(facts.since),
        "client_properties": arguments(&facts.properties),
    })
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(since).unwrap_or(u64::MAX)
}

/// The connection that a channel or a consumer is on.
fn connection_details(row: &ConnectionRow) -> Json {
    let peer = row.facts.ends.map(|(peer, _)| peer);
    json!({
        "name": *row.name,
        "peer_host": peer.map(|address| address.ip().to_string()),
        "peer_port": peer.map(|address| address.port()),
    })
}

pub(super) fn channel(row: &ChannelRow) -> Json {
    json!({
        "name": row.connection.channel_name(row.number),
        "number": row.number,
        "vhost": *row.connection.host,
        "user": *row.connection.user,
        "node": NODE,
        "state": "running",
        "connection_details": connection_details(&row.connection),
        "consumer_count": row.consumers,
        "messages_unacknowledged": row.out,
        "prefetch_count": row.consumer_prefetch,
        "global_prefetch_count": row.prefetch,
        "confirm": row.selected() == Some(Selected::Confirms),
        "transactional": row.selected() == Some(Selected::Transactions),
    })
}

pub(super) fn consumer(row: &ConsumerRow) -> Json {
    let peer = row.connection.facts.ends.map(|(peer, _)| peer);
    json!({
        "consumer_tag": *row.tag,
        "queue": { "name": *row.queue, "vhost": *row.connection.host },
        "channel_details": {
            "name": row.connection.channel_name(row.channel),
            "number": row.channel,
            "node": NODE,
            "user": *row.connection.user,
            "connection_name": *row.connection.name,
            "peer_host": peer.map(|address| address.ip().to_string()),
            "peer_port": peer.map(|address| address.port()),
        },
        "ack_required": row.acknowledges,
        "prefetch_count": row.prefetch,
        "exclusive": row.is_exclusive,
        "active": row.is_active,
        "activity_status": if row.is_active { "up" } else { "waiting" },
        "arguments": { "x-priority": row.priority },
        "messages_unacknowledged": row.out,
    })
}
