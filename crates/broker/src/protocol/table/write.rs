//! Building a table.

use super::{Decimal, Value};
use crate::protocol::write::Writer;

/// Appends the fields of a table to a buffer.
///
/// ```
/// use homing_broker::protocol::{Table, TableWriter, Value};
///
/// let mut bytes = Vec::new();
/// let mut table = TableWriter::new(&mut bytes);
/// table.field(b"version", &Value::String(b"1"));
/// table.table(b"capabilities", |capabilities| {
///     capabilities.field(b"basic.nack", &Value::Bool(true));
/// });
/// let table = Table::checked(&bytes).expect("it is well formed");
/// assert_eq!(table.get("version"), Some(Value::String(b"1")));
/// ```
#[derive(Debug)]
pub struct TableWriter<'a> {
    out: &'a mut Vec<u8>,
}

/// Appends the values of an array to a buffer.
#[derive(Debug)]
pub struct ArrayWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> TableWriter<'a> {
    /// Appends to `out`, without a length before it.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Appends a field. A name is cut after 255 bytes.
    pub fn field(&mut self, name: &[u8], value: &Value<'_>) {
        self.name(name);
        write_value(self.out, value);
    }

    /// Appends a table that `fill` writes.
    pub fn table(&mut self, name: &[u8], fill: impl FnOnce(&mut TableWriter<'_>)) {
        self.name(name);
        nested(self.out, b'F', |out| fill(&mut TableWriter { out }));
    }

    /// Appends an array that `fill` writes.
    pub fn array(&mut self, name: &[u8], fill: impl FnOnce(&mut ArrayWriter<'_>)) {
        self.name(name);
        nested(self.out, b'A', |out| fill(&mut ArrayWriter { out }));
    }

    fn name(&mut self, name: &[u8]) {
        Writer::new(self.out).short_bytes(name);
    }
}

impl ArrayWriter<'_> {
    /// Appends a value.
    pub fn value(&mut self, value: &Value<'_>) {
        write_value(self.out, value);
    }

    /// Appends a table that `fill` writes.
    pub fn table(&mut self, fill: impl FnOnce(&mut TableWriter<'_>)) {
        nested(self.out, b'F', |out| fill(&mut TableWriter { out }));
    }

    /// Appends an array that `fill` writes.
    pub fn array(&mut self, fill: impl FnOnce(&mut ArrayWriter<'_>)) {
        nested(self.out, b'A', |out| fill(&mut ArrayWriter { out }));
    }
}

fn nested(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    // Nothing of 4 GiB comes through a frame.
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value<'_>) {
    let mut put = |kind: u8, bytes: &[u8]| {
        out.push(kind);
        out.extend_from_slice(bytes);
    };
    match *value {
        Value::Bool(value) => put(b't', &[value.into()]),
        Value::I8(value) => put(b'b', &value.to_be_bytes()),
        Value::U8(value) => put(b'B', &[value]),
        Value::I16(value) => put(b's', &value.to_be_bytes()),
        Value::U16(value) => put(b'u', &value.to_be_bytes()),
        Value::I32(value) => put(b'I', &value.to_be_bytes()),
        Value::U32(value) => put(b'i', &value.to_be_bytes()),
        Value::I64(value) => put(b'l', &value.to_be_bytes()),
        Value::F32(value) => put(b'f', &value.to_be_bytes()),
        Value::F64(value) => put(b'd', &value.to_be_bytes()),
        Value::Decimal(Decimal { scale, value }) => {
            put(b'D', &[scale]);
            out.extend_from_slice(&value.to_be_bytes());
        }
        Value::Timestamp(value) => put(b'T', &value.to_be_bytes()),
        Value::Void => put(b'V', &[]),
        Value::String(bytes) => long(out, b'S', bytes),
        Value::Bytes(bytes) => long(out, b'x', bytes),
        Value::Array(array) => long(out, b'A', array.as_bytes()),
        Value::Table(table) => long(out, b'F', table.as_bytes()),
    }
}

fn long(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    Writer::new(out).long_bytes(bytes);
}
