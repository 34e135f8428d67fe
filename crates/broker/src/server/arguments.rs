//! Field tables of the protocol as the engine's arguments, and back.

use crate::engine::{Arguments, Field};
use crate::protocol::table::{ArrayWriter, Decimal};
use crate::protocol::{Table, TableWriter, Value};
use bytes::Bytes;
use std::sync::Arc;

/// A table that was checked when it was read. Names that are not UTF-8 are read as near as they can be.
pub(super) fn arguments(table: Table<'_>) -> Arguments {
    table
        .iter()
        .map_while(Result::ok)
        .map(|(name, value)| (Arc::from(String::from_utf8_lossy(name)), field(value)))
        .collect()
}

/// One value.
pub(super) fn field(value: Value<'_>) -> Field {
    match value {
        Value::Bool(value) => Field::Bool(value),
        Value::I8(value) => Field::I8(value),
        Value::U8(value) => Field::U8(value),
        Value::I16(value) => Field::I16(value),
        Value::U16(value) => Field::U16(value),
        Value::I32(value) => Field::I32(value),
        Value::U32(value) => Field::U32(value),
        Value::I64(value) => Field::I64(value),
        Value::F32(value) => Field::F32(value),
        Value::F64(value) => Field::F64(value),
        Value::Decimal(Decimal { scale, value }) => Field::Decimal { scale, value },
        Value::String(bytes) => Field::Text(Bytes::copy_from_slice(bytes)),
        Value::Bytes(bytes) => Field::Bytes(Bytes::copy_from_slice(bytes)),
        Value::Timestamp(value) => Field::Timestamp(value),
        Value::Array(array) => Field::Array(array.iter().map_while(Result::ok).map(field).collect()),
        Value::Table(table) => Field::Table(arguments(table)),
        Value::Void => Field::Void,
    }
}

/// Writes arguments as a table, which [`arguments`] reads again.
pub(super) fn write(table: &mut TableWriter<'_>, arguments: &Arguments) {
    for (name, field) in arguments.iter() {
        match field {
            Field::Array(fields) => table.array(name.as_bytes(), |array| write_fields(array, fields)),
            Field::Table(inner) => table.table(name.as_bytes(), |table| write(table, inner)),
            field => table.field(name.as_bytes(), &scalar(field)),
        }
    }
}

fn write_fields(array: &mut ArrayWriter<'_>, fields: &[Field]) {
    for field in fields {
        match field {
            Field::Array(fields) => array.array(|array| write_fields(array, fields)),
            Field::Table(inner) => array.table(|table| write(table, inner)),
            field => array.value(&scalar(field)),
        }
    }
}

fn scalar(field: &Field) -> Value<'_> {
    match field {
        Field::Bool(value) => Value::Bool(*value),
        Field::I8(value) => Value::I8(*value),
        Field::U8(value) => Value::U8(*value),
        Field::I16(value) => Value::I16(*value),
        Field::U16(value) => Value::U16(*value),
        Field::I32(value) => Value::I32(*value),
        Field::U32(value) => Value::U32(*value),
        Field::I64(value) => Value::I64(*value),
        Field::F32(value) => Value::F32(*value),
        Field::F64(value) => Value::F64(*value),
        Field::Decimal { scale, value } => Value::Decimal(Decimal { scale: *scale, value: *value }),
        Field::Text(bytes) => Value::String(bytes),
        Field::Bytes(bytes) => Value::Bytes(bytes),
        Field::Timestamp(value) => Value::Timestamp(*value),
        // Both are written by whoever calls this.
        Field::Void | Field::Array(_) | Field::Table(_) => Value::Void,
    }
}
