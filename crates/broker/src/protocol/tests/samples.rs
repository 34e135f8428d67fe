//! Random values that depend on the seed alone. Tests leak them: a few kilobytes.

use crate::protocol::{Properties, Table, TableWriter, Value, table::Decimal};
use fastrand::Rng;

pub(crate) fn bytes(random: &mut Rng, longest: usize) -> &'static [u8] {
    let length = random.usize(..=longest);
    Vec::leak((0..length).map(|_| random.u8(..)).collect())
}

/// Up to 255 bytes of UTF-8.
pub(crate) fn text(random: &mut Rng) -> &'static str {
    let mut text = String::new();
    for _ in 0..random.usize(..100) {
        let next = random.char(..);
        if text.len() + next.len_utf8() <= 255 {
            text.push(next);
        }
    }
    String::leak(text)
}

pub(crate) fn table(random: &mut Rng) -> Table<'static> {
    let mut bytes = Vec::new();
    fill(random, &mut TableWriter::new(&mut bytes), 3);
    Table::checked(Vec::leak(bytes)).expect("what is written is well formed")
}

fn fill(random: &mut Rng, table: &mut TableWriter<'_>, depth: usize) {
    for _ in 0..random.usize(..6) {
        let name = text(random).as_bytes();
        match random.u8(..10) {
            0 if depth > 0 => table.table(name, |inner| fill(random, inner, depth - 1)),
            1 if depth > 0 => table.array(name, |inner| {
                inner.value(&value(random));
                inner.table(|inner| fill(random, inner, depth - 1));
                inner.array(|inner| inner.value(&Value::Void));
            }),
            _ => table.field(name, &value(random)),
        }
    }
}

pub(crate) fn value(random: &mut Rng) -> Value<'static> {
    match random.u8(..15) {
        0 => Value::Bool(random.bool()),
        1 => Value::I8(random.i8(..)),
        2 => Value::U8(random.u8(..)),
        3 => Value::I16(random.i16(..)),
        4 => Value::U16(random.u16(..)),
        5 => Value::I32(random.i32(..)),
        6 => Value::U32(random.u32(..)),
        7 => Value::I64(random.i64(..)),
        8 => Value::F32(random.f32()),
        9 => Value::F64(random.f64()),
        10 => Value::Decimal(Decimal { scale: random.u8(..), value: random.u32(..) }),
        11 => Value::String(bytes(random, 300)),
        12 => Value::Timestamp(random.u64(..)),
        13 => Value::Bytes(bytes(random, 300)),
        _ => Value::Void,
    }
}

pub(crate) fn properties(random: &mut Rng) -> Properties<'static> {
    fn sometimes<T>(random: &mut Rng, make: impl FnOnce(&mut Rng) -> T) -> Option<T> {
        random.bool().then(|| make(random))
    }
    fn short(random: &mut Rng) -> Option<&'static [u8]> {
        sometimes(random, |random| bytes(random, 255))
    }
    Properties {
        content_type: short(random),
        content_encoding: short(random),
        headers: sometimes(random, table),
        delivery_mode: sometimes(random, |random| random.u8(..)),
        priority: sometimes(random, |random| random.u8(..)),
        correlation_id: short(random),
        reply_to: short(random),
        expiration: short(random),
        message_id: short(random),
        timestamp: sometimes(random, |random| random.u64(..)),
        kind: short(random),
        user_id: short(random),
        app_id: short(random),
        cluster_id: short(random),
    }
}
