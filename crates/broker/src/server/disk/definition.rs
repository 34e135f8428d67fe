//! Definitions as the store keeps them: a key that sorts exchanges before queues before bindings, and a field table, which
//! a later version can add fields to.

use crate::engine::{
    Access, AutoDelete, Binding, Definition, Destination, Durability, ExchangeKind, ExchangeSpec, Naming, Publishers,
    QueueSpec,
};
use crate::protocol::{Table, TableWriter, Value};
use crate::server::arguments;
use std::sync::Arc;

const EXCHANGE: u8 = b'1';
const QUEUE: u8 = b'2';
const BINDING: u8 = b'3';

/// The key of an exchange or a queue is its name; that of a binding is all of it, for two that differ in any part are two.
pub(super) fn key(definition: &Definition) -> Vec<u8> {
    let named = |kind: u8, name: &str| [&[kind], name.as_bytes()].concat();
    match definition {
        Definition::Exchange(spec) => named(EXCHANGE, &spec.name),
        Definition::Queue(spec) => named(QUEUE, &spec.name),
        Definition::Binding(binding) => {
            let mut key = vec![BINDING];
            write_binding(&mut TableWriter::new(&mut key), binding);
            key
        }
    }
}

/// What is kept under the key. `number` is by what messages name their queue.
pub(super) fn value(definition: &Definition, number: u64) -> Vec<u8> {
    let mut value = Vec::new();
    let mut table = TableWriter::new(&mut value);
    match definition {
        Definition::Exchange(spec) => {
            table.field(b"type", &Value::String(spec.kind.as_str().as_bytes()));
            table.field(b"auto-delete", &Value::Bool(spec.auto_delete == AutoDelete::Yes));
            table.field(b"internal", &Value::Bool(spec.publishers == Publishers::Exchanges));
            table.table(b"arguments", |table| arguments::write(table, &spec.arguments));
        }
        Definition::Queue(spec) => {
            table.field(b"number", &Value::I64(number.cast_signed()));
            table.field(b"auto-delete", &Value::Bool(spec.auto_delete == AutoDelete::Yes));
            table.field(b"named-by-server", &Value::Bool(spec.naming == Naming::Server));
            table.table(b"arguments", |table| arguments::write(table, &spec.arguments));
        }
        Definition::Binding(_) => {}
    }
    value
}

/// A definition that was kept, and of a queue its number. `None` for one that cannot be read.
pub(super) fn read(key: &[u8], value: &[u8]) -> Option<(Definition, u64)> {
    let (kind, name) = key.split_first()?;
    let table = Table::checked(value).ok()?;
    let flag = |name| table.get(name).and_then(|value| value.as_bool()).unwrap_or(false);
    let auto_delete = if flag("auto-delete") { AutoDelete::Yes } else { AutoDelete::No };
    let kept =
        || table.get("arguments").and_then(|value| value.as_table()).map(arguments::arguments).unwrap_or_default();
    match *kind {
        EXCHANGE => {
            let spec = ExchangeSpec {
                name: std::str::from_utf8(name).ok()?.into(),
                kind: ExchangeKind::from_name(table.get("type")?.as_str()?)?,
                durability: Durability::Durable,
                auto_delete,
                publishers: if flag("internal") { Publishers::Exchanges } else { Publishers::Anybody },
                arguments: kept(),
            };
            Some((Definition::Exchange(spec), 0))
        }
        QUEUE => {
            let spec = QueueSpec {
                name: std::str::from_utf8(name).ok()?.into(),
                naming: if flag("named-by-server") { Naming::Server } else { Naming::Client },
                durability: Durability::Durable,
                // What is exclusive goes with its connection, and is not kept.
                access: Access::Shared,
                auto_delete,
                arguments: kept(),
            };
            Some((Definition::Queue(spec), table.get("number")?.as_i64()?.cast_unsigned()))
        }
        BINDING => Some((Definition::Binding(read_binding(Table::checked(name).ok()?)?), 0)),
        _ => None,
    }
}

fn write_binding(table: &mut TableWriter<'_>, binding: &Binding) {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => (b"queue".as_slice(), name),
        Destination::Exchange(name) => (b"exchange".as_slice(), name),
    };
    table.field(b"source", &Value::String(binding.source.as_bytes()));
    table.field(kind, &Value::String(destination.as_bytes()));
    table.field(b"key", &Value::String(binding.key.as_bytes()));
    table.table(b"arguments", |table| arguments::write(table, &binding.arguments));
}

fn read_binding(table: Table<'_>) -> Option<Binding> {
    let text = |name| table.get(name).and_then(|value| value.as_str()).map(Arc::<str>::from);
    Some(Binding {
        source: text("source")?,
        destination: match text("queue") {
            Some(queue) => Destination::Queue(queue),
            None => Destination::Exchange(text("exchange")?),
        },
        key: text("key")?,
        arguments: table.get("arguments").and_then(|value| value.as_table()).map(arguments::arguments)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Arguments, Field};
    use bytes::Bytes;

    fn all_types() -> Arguments {
        let inner: Arguments = [("deep".into(), Field::Array(vec![Field::Void, Field::I64(-1)]))].into_iter().collect();
        [
            Field::Void,
            Field::Bool(true),
            Field::I8(-8),
            Field::U8(8),
            Field::I16(-16),
            Field::U16(16),
            Field::I32(-32),
            Field::U32(32),
            Field::I64(i64::MIN),
            Field::F32(0.5),
            Field::F64(-0.25),
            Field::Decimal { scale: 2, value: 314 },
            Field::text("text"),
            Field::Bytes(Bytes::from_static(b"\xff\0")),
            Field::Timestamp(1_700_000_000),
            Field::Array(vec![Field::Table(inner.clone()), Field::Array(vec![Field::U8(1)])]),
            Field::Table(inner),
        ]
        .into_iter()
        .enumerate()
        .map(|(number, field)| (Arc::from(format!("x-{number}")), field))
        .collect()
    }

    #[test]
    fn what_is_kept_is_what_was_declared() {
        let exchange = ExchangeSpec {
            auto_delete: AutoDelete::Yes,
            publishers: Publishers::Exchanges,
            arguments: all_types(),
            ..ExchangeSpec::new("an exchange", ExchangeKind::Headers)
        };
        let queue = QueueSpec { naming: Naming::Server, arguments: all_types(), ..QueueSpec::new("amq.gen-é") };
        let to_exchange = Binding {
            destination: Destination::Exchange("there".into()),
            arguments: all_types(),
            ..Binding::to_queue("here", "", "a.#")
        };
        for definition in [
            Definition::Exchange(exchange),
            Definition::Queue(queue),
            Definition::Binding(Binding::to_queue("here", "queue", "")),
            Definition::Binding(to_exchange),
        ] {
            let (read, number) = read(&key(&definition), &value(&definition, u64::MAX)).expect("it can be read");
            assert_eq!(read, definition);
            assert!(number == u64::MAX || !matches!(definition, Definition::Queue(_)));
        }
    }

    #[test]
    fn what_cannot_be_read_is_none() {
        let definition = Definition::Queue(QueueSpec::new("q"));
        let (key, value) = (key(&definition), value(&definition, 7));
        for (key, value) in [
            (&b""[..], &value[..]),
            (b"9q", &value),
            (b"2\xff", &value),
            (&key, b""),
            (&key, &value[..value.len() - 1]),
            (b"3q", b""),
            (b"1x", &value),
        ] {
            assert_eq!(read(key, value), None, "{key:?} {value:?}");
        }
    }
}
