//! Walking a table or an array without copying it.

use super::{Decimal, MAXIMUM_DEPTH, Value};
use crate::protocol::{Violation, read::Reader};
use std::fmt;

/// A field table: the bytes after its length.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Table<'a> {
    bytes: &'a [u8],
}

/// An array of values: the bytes after its length.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Array<'a> {
    bytes: &'a [u8],
}

impl<'a> Table<'a> {
    /// A table without fields.
    pub const EMPTY: Table<'static> = Table { bytes: &[] };

    /// A table whose every field is known to be readable, all levels of it.
    ///
    /// # Errors
    /// A field is cut, of an unknown type, or nested more deeply than [`MAXIMUM_DEPTH`].
    pub fn checked(bytes: &'a [u8]) -> Result<Self, Violation> {
        check_table(bytes, MAXIMUM_DEPTH)?;
        Ok(Self { bytes })
    }

    /// A table that has not been checked: a fault in it appears when it is read.
    pub fn unchecked(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The bytes, without the length before them.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The fields in their order. Names are any bytes, as RabbitMQ takes them.
    pub fn iter(&self) -> TableIter<'a> {
        TableIter { reader: Reader::new(self.bytes) }
    }

    /// The first field of that name. A table that breaks off before it does not have it.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        self.iter().map_while(Result::ok).find(|(found, _)| *found == name.as_bytes()).map(|(_, value)| value)
    }
}

impl<'a> Array<'a> {
    /// The bytes, without the length before them.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The values in their order.
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter { reader: Reader::new(self.bytes) }
    }
}

impl<'a> IntoIterator for &Table<'a> {
    type Item = Result<(&'a [u8], Value<'a>), Violation>;
    type IntoIter = TableIter<'a>;
    fn into_iter(self) -> TableIter<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &Array<'a> {
    type Item = Result<Value<'a>, Violation>;
    type IntoIter = ArrayIter<'a>;
    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

/// The fields of a table. Ends after the first violation.
#[derive(Clone, Debug)]
pub struct TableIter<'a> {
    reader: Reader<'a>,
}

/// The values of an array. Ends after the first violation.
#[derive(Clone, Debug)]
pub struct ArrayIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for TableIter<'a> {
    type Item = Result<(&'a [u8], Value<'a>), Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let field = field(&mut self.reader);
        if field.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(field)
    }
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Result<Value<'a>, Violation>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let value = value(&mut self.reader);
        if value.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(value)
    }
}

fn field<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], Value<'a>), Violation> {
    let name = reader.short_bytes()?;
    Ok((name, value(reader)?))
}

fn value<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>, Violation> {
    Ok(match reader.u8()? {
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::I8(reader.u8()?.cast_signed()),
        b'B' => Value::U8(reader.u8()?),
        b's' => Value::I16(reader.u16()?.cast_signed()),
        b'u' => Value::U16(reader.u16()?),
        b'I' => Value::I32(reader.u32()?.cast_signed()),
        b'i' => Value::U32(reader.u32()?),
        b'l' | b'L' => Value::I64(reader.u64()?.cast_signed()),
        b'f' => Value::F32(f32::from_bits(reader.u32()?)),
        b'd' => Value::F64(f64::from_bits(reader.u64()?)),
        b'D' => Value::Decimal(Decimal { scale: reader.u8()?, value: reader.u32()? }),
        b'S' => Value::String(reader.long_bytes()?),
        b'A' => Value::Array(Array { bytes: reader.long_bytes()? }),
        b'T' => Value::Timestamp(reader.u64()?),
        b'F' => Value::Table(Table { bytes: reader.long_bytes()? }),
        b'V' => Value::Void,
        b'x' => Value::Bytes(reader.long_bytes()?),
        unknown => return Err(Violation::ValueType(unknown)),
    })
}

fn check_table(bytes: &[u8], depth: usize) -> Result<(), Violation> {
    Table { bytes }.iter().try_for_each(|field| check_value(&field?.1, depth))
}

fn check_value(value: &Value<'_>, depth: usize) -> Result<(), Violation> {
    match value {
        Value::Table(table) => check_table(table.bytes, depth.checked_sub(1).ok_or(Violation::TooDeep)?),
        Value::Array(array) => {
            let depth = depth.checked_sub(1).ok_or(Violation::TooDeep)?;
            array.iter().try_for_each(|value| check_value(&value?, depth))
        }
        _ => Ok(()),
    }
}

impl fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not followed into depths that have not been checked: printing must not fill the stack either.
        f.debug_map()
            .entries(
                self.iter()
                    .map_while(Result::ok)
                    .map(|(name, value)| (name.escape_ascii().to_string(), Shallow(value))),
            )
            .finish()
    }
}

impl fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map_while(Result::ok).map(Shallow)).finish()
    }
}

/// Prints a value, of tables and arrays only their size.
struct Shallow<'a>(Value<'a>);

impl fmt::Debug for Shallow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Table(table) => write!(f, "Table({} bytes)", table.bytes.len()),
            Value::Array(array) => write!(f, "Array({} bytes)", array.bytes.len()),
            value => value.fmt(f),
        }
    }
}
