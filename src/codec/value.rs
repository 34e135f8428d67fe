//! The dynamic value of a body: what PyYAML's values keep, kept.

use std::fmt;
use std::hash::{Hash, Hasher};

use indexmap::{Equivalent, IndexMap};
use num_bigint::BigInt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{de, form, ser};
use crate::error::Result;

/// A value as a body carries it. Python's kinds are kept apart where a peer would see the difference: a tuple is no list,
/// bytes are no text. A tag that is not known is carried with its value; nothing is ever constructed from it.
///
/// Equality is by value: mappings and sets regardless of order, NaN equal to itself, and 1 not equal to 1.0.
///
/// ```
/// use homing::Value;
///
/// let value = Value::from_iter([("pid", Value::from(4)), ("paused", Value::from(false))]);
/// assert_eq!(value.get("pid").and_then(Value::as_i64), Some(4));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer that does not fit into 64 bits.
    BigInt(BigInt),
    /// A floating-point number.
    Float(f64),
    /// A text.
    String(String),
    /// Bytes: `!!binary`.
    Bytes(Vec<u8>),
    /// A date or a time, as it was written: `!!timestamp`.
    Timestamp(String),
    /// A list.
    List(Vec<Value>),
    /// Python's tuple: `!!python/tuple`.
    Tuple(Vec<Value>),
    /// A set, `!!set`: its members are the keys.
    Set(Map),
    /// A mapping.
    Map(Map),
    /// A value with a tag that is not known here, `!uuid` or `!!python/object:uuid.UUID`.
    Tagged(Box<Tagged>),
}

/// A value with its tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tagged {
    /// As one writes it: `!uuid`, `!!python/object:uuid.UUID`, or `!<…>` with a whole URI.
    pub tag: String,
    /// The value under it.
    pub value: Value,
}

/// A mapping: any value as key, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(IndexMap<Value, Value>);

impl Map {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a value under a key; returns the one that was there.
    pub fn insert(&mut self, key: impl Into<Value>, value: impl Into<Value>) -> Option<Value> {
        self.0.insert(key.into(), value.into())
    }

    /// What is under a text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(&Text(key))
    }

    /// What is under a key of any kind.
    #[must_use]
    pub fn get_value(&self, key: &Value) -> Option<&Value> {
        self.0.get(key)
    }

    /// True when there is something under a text.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.0.contains_key(&Text(key))
    }

    /// Takes out what is under a text. The others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.0.shift_remove(&Text(key))
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Value, &Value)> {
        self.0.iter()
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.0.keys()
    }
}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Map(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl IntoIterator for Map {
    type Item = (Value, Value);
    type IntoIter = indexmap::map::IntoIter<Value, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// A text that is looked up as the value that it would be.
#[derive(Hash)]
struct Text<'a>(&'a str);

impl Equivalent<Value> for Text<'_> {
    fn equivalent(&self, key: &Value) -> bool {
        key.as_str() == Some(self.0)
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::BigInt(a), Value::BigInt(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => same_float(*a) == same_float(*b),
            (Value::String(a), Value::String(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => a == b,
            (Value::Set(a), Value::Set(b)) | (Value::Map(a), Value::Map(b)) => a == b,
            (Value::Tagged(a), Value::Tagged(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            // As `Text`, by which texts are looked up.
            Value::String(text) => return text.hash(state),
            Value::Null => {}
            Value::Bool(value) => value.hash(state),
            Value::Int(value) => value.hash(state),
            Value::BigInt(value) => value.hash(state),
            Value::Float(value) => same_float(*value).hash(state),
            Value::Bytes(bytes) => bytes.hash(state),
            Value::Timestamp(text) => text.hash(state),
            Value::List(items) | Value::Tuple(items) => items.hash(state),
            // The order of pairs must not count; their number is enough to be right.
            Value::Set(map) | Value::Map(map) => map.len().hash(state),
            Value::Tagged(tagged) => tagged.hash(state),
        }
        std::mem::discriminant(self).hash(state);
    }
}

/// The bits that stand for a float in comparisons: one NaN, one zero.
fn same_float(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits()
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

impl Value {
    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one of 64 bits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if it is a float or an integer of 64 bits (which may be rounded).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "said in the documentation, as `float(n)` in Python")]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The items, if it is a list or a tuple.
    #[must_use]
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) | Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The mapping, if it is one.
    #[must_use]
    pub fn as_map(&self) -> Option<&Map> {
        match self {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    /// What a mapping has under a text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?.get(key)
    }

    /// True for null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// True for what Python takes for true: everything but null, false, zero and what is empty.
    #[must_use]
    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::String(text) => !text.is_empty(),
            Value::Bytes(bytes) => !bytes.is_empty(),
            Value::List(items) | Value::Tuple(items) => !items.is_empty(),
            Value::Set(map) | Value::Map(map) => !map.is_empty(),
            Value::BigInt(_) | Value::Timestamp(_) | Value::Tagged(_) => true,
        }
    }

    /// About how many bytes it takes in memory. In a loop, so that depth does not matter.
    pub(crate) fn weight(&self) -> usize {
        let mut total = 0;
        let mut left = Vec::new();
        let mut next = Some(self);
        while let Some(value) = next {
            total += size_of::<Value>();
            match value {
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
                Value::BigInt(value) => total += usize::try_from(value.bits() / 8).unwrap_or(usize::MAX),
                Value::String(text) | Value::Timestamp(text) => total += text.len(),
                Value::Bytes(bytes) => total += bytes.len(),
                Value::List(items) | Value::Tuple(items) => left.extend(items),
                Value::Set(map) | Value::Map(map) => {
                    // The hash and the index of each pair.
                    total += map.len() * size_of::<[usize; 2]>();
                    left.extend(map.iter().flat_map(|(key, value)| [key, value]));
                }
                Value::Tagged(tagged) => {
                    total += tagged.tag.len();
                    left.push(&tagged.value);
                }
            }
            next = left.pop();
        }
        total
    }

    /// A value of any type that serde can write: structs become mappings, tuples tuples, bytes bytes.
    ///
    /// # Errors
    /// `Encode` when the type's own serializing fails.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        ser::to_value(value)
    }

    /// The value as a type of one's own.
    ///
    /// # Errors
    /// `Decode` when it has another shape.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T> {
        de::from_value(self)
    }

    /// The value as JSON. What JSON has not is written in a form that [`from_json`](Self::from_json) reads back the same:
    /// `{"$tuple": […]}`, `{"$bytes": "base64"}`, `{"$int": "123…"}` for integers over 64 bits, `{"$float": "nan"}` (`inf`,
    /// `-inf`), `{"$set": […]}`, `{"$timestamp": "…"}`, `{"$tag": "!uuid", "value": …}`, and `{"$map": [[key, value], …]}` for a
    /// mapping with keys that are no texts, or with a key that begins with `$`.
    ///
    /// ```
    /// use homing::Value;
    ///
    /// let value = Value::Tuple(vec![Value::from("continue"), Value::from(false)]);
    /// assert_eq!(value.to_json_text(), r#"{"$tuple":["continue",false]}"#);
    /// assert_eq!(Value::from_json(&value.to_json())?, value);
    /// # Ok::<(), homing::Error>(())
    /// ```
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        form::to_json(&form::form(self))
    }

    /// The same as one line of text.
    #[must_use]
    pub fn to_json_text(&self) -> String {
        self.to_json().to_string()
    }

    /// Reads JSON, with the forms of [`to_json`](Self::to_json).
    ///
    /// # Errors
    /// `Decode` for a form that says something impossible, such as `{"$bytes": 1}`.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        form::unform(form::from_json(json))
    }

    /// The value as YAML, for people: block style, texts plain where that is safe.
    #[must_use]
    pub fn to_yaml_text(&self) -> String {
        super::yaml::pretty(self)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json_text())
    }
}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Value {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Value::Map(pairs.into_iter().collect())
    }
}

macro_rules! from {
    ($($from:ty, $value:ident => $to:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        }
    )*};
}

from! {
    (), _nothing => Value::Null;
    bool, value => Value::Bool(value);
    i8, value => Value::Int(value.into());
    i16, value => Value::Int(value.into());
    i32, value => Value::Int(value.into());
    i64, value => Value::Int(value);
    u8, value => Value::Int(value.into());
    u16, value => Value::Int(value.into());
    u32, value => Value::Int(value.into());
    u64, value => BigInt::from(value).into();
    f32, value => Value::Float(value.into());
    f64, value => Value::Float(value);
    &str, value => Value::String(value.to_owned());
    String, value => Value::String(value);
    &String, value => Value::String(value.clone());
    Vec<u8>, value => Value::Bytes(value);
    Vec<Value>, value => Value::List(value);
    Map, value => Value::Map(value);
    &Value, value => value.clone();
    BigInt, value => match i64::try_from(&value) { Ok(small) => Value::Int(small), Err(_) => Value::BigInt(value) };
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_counts_what_is_inside_however_deep_it_is() {
        let one = size_of::<Value>();
        assert_eq!(Value::from(1).weight(), one);
        assert_eq!(Value::from("x".repeat(1000)).weight(), one + 1000);
        let map = Value::from_iter([("key", Value::Bytes(vec![0; 100]))]);
        assert!((100 + 3 * one..200 + 3 * one).contains(&map.weight()), "{}", map.weight());
        let mut deep = Value::Null;
        for _ in 0..5000 {
            deep = Value::List(vec![deep]);
        }
        assert_eq!(deep.weight(), 5001 * one);
    }
}
