//! Values of AMQP's field tables, as far as the engine reads them: arguments of queues, exchanges and bindings, and headers.

use std::sync::Arc;

use bytes::Bytes;

/// A value in a field table, in each type that RabbitMQ carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// No value.
    Void,
    /// `t`.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`.
    U8(u8),
    /// `s`.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l`.
    I64(i64),
    /// `f`.
    F32(f32),
    /// `d`.
    F64(f64),
    /// `D`.
    Decimal {
        /// How many digits stand behind the point.
        scale: u8,
        /// All digits as one number.
        value: u32,
    },
    /// `S`, a long string. Mostly, but not always, UTF-8.
    Text(Bytes),
    /// `x`.
    Bytes(Bytes),
    /// `T`, seconds since 1970.
    Timestamp(u64),
    /// `A`.
    Array(Vec<Field>),
    /// `F`.
    Table(Arguments),
}

impl Field {
    /// A long string.
    pub fn text(text: &str) -> Self {
        Field::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// RabbitMQ's name of the type, as its errors write it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Field::Void => "void",
            Field::Bool(_) => "bool",
            Field::I8(_) => "byte",
            Field::U8(_) => "unsignedbyte",
            Field::I16(_) => "short",
            Field::U16(_) => "unsignedshort",
            Field::I32(_) => "signedint",
            Field::U32(_) => "unsignedint",
            Field::I64(_) => "long",
            Field::F32(_) => "float",
            Field::F64(_) => "double",
            Field::Decimal { .. } => "decimal",
            Field::Text(_) => "longstr",
            Field::Bytes(_) => "binary",
            Field::Timestamp(_) => "timestamp",
            Field::Array(_) => "array",
            Field::Table(_) => "table",
        }
    }

    /// An integer of any width.
    pub fn as_integer(&self) -> Option<i64> {
        Some(match *self {
            Field::I8(value) => value.into(),
            Field::U8(value) => value.into(),
            Field::I16(value) => value.into(),
            Field::U16(value) => value.into(),
            Field::I32(value) => value.into(),
            Field::U32(value) => value.into(),
            Field::I64(value) => value,
            _ => return None,
        })
    }

    /// A long string that is UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Field::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Whether RabbitMQ takes the two for the same: the width of a number does not matter.
    pub fn is_equivalent(&self, other: &Field) -> bool {
        match (self, other) {
            (Field::F32(one), Field::F64(two)) => f64::from(*one) == *two,
            (Field::F64(one), Field::F32(two)) => *one == f64::from(*two),
            _ => match (self.as_integer(), other.as_integer()) {
                (Some(one), Some(two)) => one == two,
                _ => self == other,
            },
        }
    }
}

/// A field table: names and values, in the order in which they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arguments(Vec<(Arc<str>, Field)>);

impl Arguments {
    /// An empty table.
    pub fn new() -> Self {
        Arguments::default()
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Field> {
        self.0.iter().find(|(known, _)| &**known == name).map(|(_, field)| field)
    }

    /// Adds a value, or replaces the one that has this name.
    pub fn insert(&mut self, name: &str, field: Field) {
        match self.0.iter_mut().find(|(known, _)| &**known == name) {
            Some((_, known)) => *known = field,
            None => self.0.push((name.into(), field)),
        }
    }

    /// The same table with one more value.
    #[must_use]
    pub fn with(mut self, name: &str, field: Field) -> Self {
        self.insert(name, field);
        self
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Field)> {
        self.0.iter().map(|(name, field)| (name, field))
    }

    /// As text, by which equal tables are found; empty for an empty one.
    pub(super) fn written(&self) -> Box<str> {
        if self.0.is_empty() { Box::default() } else { format!("{:?}", self.0).into() }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Arc<str>, Field)> for Arguments {
    /// Of two values of one name the first stays.
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Field)>>(fields: I) -> Self {
        let mut arguments = Arguments::default();
        for (name, field) in fields {
            if arguments.get(&name).is_none() {
                arguments.0.push((name, field));
            }
        }
        arguments
    }
}
