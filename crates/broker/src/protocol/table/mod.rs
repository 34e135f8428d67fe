//! Field tables as RabbitMQ writes and reads them: kept as bytes, read one field at a time.
//!
//! The types of RabbitMQ differ from those that the specification prints: `s` is a 16-bit integer and `S` a long
//! string, `l` a signed 64-bit integer, `x` bytes.

mod read;
mod value;
mod write;

pub use read::{Array, ArrayIter, Table, TableIter};
pub use value::{Decimal, Value};
pub use write::{ArrayWriter, TableWriter};

/// How deeply tables and arrays may lie within each other. What clients send has two or three levels; a frame full of
/// opening brackets must not fill the stack of whoever walks it.
pub const MAXIMUM_DEPTH: usize = 64;
