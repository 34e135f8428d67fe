//! What is declared on a broker, as one line of JSON carries it: every argument with its type, which clients compare.

use std::sync::Arc;

use homing_broker::engine::{
    Access, Arguments, AutoDelete, Binding, Destination, Durability, ExchangeKind, ExchangeSpec, Field, Naming,
    Publishers, QueueSpec,
};
use homing_broker::server::Definitions;
use serde::{Deserialize, Serialize};

/// Exchanges, queues and bindings of a virtual host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Topology {
    pub exchanges: Vec<ExchangeEntry>,
    pub queues: Vec<QueueEntry>,
    pub bindings: Vec<BindingEntry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ExchangeEntry {
    name: String,
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    arguments: Vec<(String, Entry)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct QueueEntry {
    name: String,
    is_named_by_server: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    arguments: Vec<(String, Entry)>,
    /// Messages that wait.
    pub waiting: usize,
    /// Messages that consumers have.
    pub out: usize,
    /// About how many bytes those that wait take.
    pub bytes: usize,
    pub consumers: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BindingEntry {
    source: String,
    destination: String,
    is_to_exchange: bool,
    key: String,
    arguments: Vec<(String, Entry)>,
}

/// A value of a table. Floats are their bits: JSON has no NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Void,
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(u32),
    F64(u64),
    Decimal(u8, u32),
    Text(String),
    /// One that is no UTF-8.
    RawText(Vec<u8>),
    Bytes(Vec<u8>),
    Timestamp(u64),
    Array(Vec<Entry>),
    Table(Vec<(String, Entry)>),
}

impl From<Definitions> for Topology {
    fn from(definitions: Definitions) -> Self {
        let queue = |queue: homing_broker::server::DefinedQueue| QueueEntry {
            name: queue.spec.name.to_string(),
            is_named_by_server: queue.spec.naming == Naming::Server,
            durable: queue.spec.durability == Durability::Durable,
            exclusive: queue.spec.access == Access::Exclusive,
            auto_delete: queue.spec.auto_delete == AutoDelete::Yes,
            arguments: entries(&queue.spec.arguments),
            waiting: queue.waiting,
            out: queue.out,
            bytes: queue.bytes,
            consumers: queue.consumers,
        };
        let exchange = |spec: ExchangeSpec| ExchangeEntry {
            name: spec.name.to_string(),
            kind: spec.kind.as_str().to_owned(),
            durable: spec.durability == Durability::Durable,
            auto_delete: spec.auto_delete == AutoDelete::Yes,
            internal: spec.publishers == Publishers::Exchanges,
            arguments: entries(&spec.arguments),
        };
        let binding = |binding: Binding| {
            let (is_to_exchange, destination) = match &binding.destination {
                Destination::Queue(name) => (false, name),
                Destination::Exchange(name) => (true, name),
            };
            BindingEntry {
                source: binding.source.to_string(),
                destination: destination.to_string(),
                is_to_exchange,
                key: binding.key.to_string(),
                arguments: entries(&binding.arguments),
            }
        };
        Topology {
            exchanges: definitions.exchanges.into_iter().map(exchange).collect(),
            queues: definitions.queues.into_iter().map(queue).collect(),
            bindings: definitions.bindings.into_iter().map(binding).collect(),
        }
    }
}

impl ExchangeEntry {
    /// `None` for a kind that this version does not know.
    pub(super) fn spec(&self) -> Option<ExchangeSpec> {
        Some(ExchangeSpec {
            durability: durability(self.durable),
            auto_delete: auto_delete(self.auto_delete),
            publishers: if self.internal { Publishers::Exchanges } else { Publishers::Anybody },
            arguments: arguments(&self.arguments),
            ..ExchangeSpec::new(&self.name, ExchangeKind::from_name(&self.kind)?)
        })
    }
}

impl QueueEntry {
    pub(super) fn spec(&self) -> QueueSpec {
        QueueSpec {
            naming: if self.is_named_by_server { Naming::Server } else { Naming::Client },
            durability: durability(self.durable),
            access: if self.exclusive { Access::Exclusive } else { Access::Shared },
            auto_delete: auto_delete(self.auto_delete),
            arguments: arguments(&self.arguments),
            ..QueueSpec::new(&self.name)
        }
    }
}

impl BindingEntry {
    pub(super) fn binding(&self) -> Binding {
        let to: Arc<str> = self.destination.as_str().into();
        Binding {
            source: self.source.as_str().into(),
            destination: if self.is_to_exchange { Destination::Exchange(to) } else { Destination::Queue(to) },
            key: self.key.as_str().into(),
            arguments: arguments(&self.arguments),
        }
    }
}

fn durability(durable: bool) -> Durability {
    if durable { Durability::Durable } else { Durability::Transient }
}

fn auto_delete(auto_delete: bool) -> AutoDelete {
    if auto_delete { AutoDelete::Yes } else { AutoDelete::No }
}

fn entries(arguments: &Arguments) -> Vec<(String, Entry)> {
    arguments.iter().map(|(name, field)| (name.to_string(), entry(field))).collect()
}

fn arguments(entries: &[(String, Entry)]) -> Arguments {
    entries.iter().map(|(name, entry)| (name.as_str().into(), field(entry))).collect()
}

fn entry(field: &Field) -> Entry {
    match field {
        Field::Void => Entry::Void,
        Field::Bool(value) => Entry::Bool(*value),
        Field::I8(value) => Entry::I8(*value),
        Field::U8(value) => Entry::U8(*value),
        Field::I16(value) => Entry::I16(*value),
        Field::U16(value) => Entry::U16(*value),
        Field::I32(value) => Entry::I32(*value),
        Field::U32(value) => Entry::U32(*value),
        Field::I64(value) => Entry::I64(*value),
        Field::F32(value) => Entry::F32(value.to_bits()),
        Field::F64(value) => Entry::F64(value.to_bits()),
        Field::Decimal { scale, value } => Entry::Decimal(*scale, *value),
        Field::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Entry::Text(text.to_owned()),
            Err(_) => Entry::RawText(bytes.to_vec()),
        },
        Field::Bytes(bytes) => Entry::Bytes(bytes.to_vec()),
        Field::Timestamp(value) => Entry::Timestamp(*value),
        Field::Array(fields) => Entry::Array(fields.iter().map(entry).collect()),
        Field::Table(table) => Entry::Table(entries(table)),
    }
}

fn field(entry: &Entry) -> Field {
    match entry {
        Entry::Void => Field::Void,
        Entry::Bool(value) => Field::Bool(*value),
        Entry::I8(value) => Field::I8(*value),
        Entry::U8(value) => Field::U8(*value),
        Entry::I16(value) => Field::I16(*value),
        Entry::U16(value) => Field::U16(*value),
        Entry::I32(value) => Field::I32(*value),
        Entry::U32(value) => Field::U32(*value),
        Entry::I64(value) => Field::I64(*value),
        Entry::F32(bits) => Field::F32(f32::from_bits(*bits)),
        Entry::F64(bits) => Field::F64(f64::from_bits(*bits)),
        Entry::Decimal(scale, value) => Field::Decimal { scale: *scale, value: *value },
        Entry::Text(text) => Field::text(text),
        Entry::RawText(bytes) => Field::Text(bytes.clone().into()),
        Entry::Bytes(bytes) => Field::Bytes(bytes.clone().into()),
        Entry::Timestamp(value) => Field::Timestamp(*value),
        Entry::Array(entries) => Field::Array(entries.iter().map(field).collect()),
        Entry::Table(entries) => Field::Table(arguments(entries)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_argument_survives_a_line_of_json() {
        let all = vec![
            Field::Void,
            Field::Bool(true),
            Field::I8(-1),
            Field::U8(200),
            Field::I16(-300),
            Field::U16(60_000),
            Field::I32(-70_000),
            Field::U32(4_000_000_000),
            Field::I64(i64::MIN),
            Field::F32(0.1),
            Field::F64(f64::INFINITY),
            Field::Decimal { scale: 2, value: 314 },
            Field::text("täxt"),
            Field::Text(vec![0xff, 0xfe].into()),
            Field::Bytes(vec![0, 1, 255].into()),
            Field::Timestamp(u64::MAX),
        ];
        let deep = Arguments::new().with("array", Field::Array(all.clone()));
        let given = Arguments::new().with("z", Field::Array(all)).with("a", Field::Table(deep));
        let line = serde_json::to_string(&entries(&given)).expect("it can be written");
        let read: Vec<(String, Entry)> = serde_json::from_str(&line).expect("it can be read");
        assert_eq!(arguments(&read), given, "{line}");
    }
}
