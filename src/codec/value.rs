//! The dynamic value of a body, which keeps what PyYAML's values keep.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

use indexmap::{Equivalent, IndexMap};
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::{Limits, Opaque, TOO_DEEP, de, depth, json, json_form, ser};
use crate::error::{Error, ErrorKind, Result};

/// The depth to which a codec reads and writes at most, whatever its limits are: copying, comparing and dropping a value
/// takes stack for each level. PyYAML fails at about 250 tuples within each other.
pub(super) const MAX_DEPTH: usize = 200;

/// How many levels of JSON a level of a value takes at most: `{"$map": [[key, value]]}`.
const JSON_LEVELS: usize = 3;

/// The decimal digits of an integer that Python reads (`sys.int_info.default_max_str_digits`). Without a limit, reading
/// takes time with the square of their number.
pub(super) const MAX_DIGITS: usize = 4300;

/// That an integer has no more than [`MAX_DIGITS`] decimal digits.
pub(super) fn fits_digits(int: &BigInt) -> bool {
    // 2 to the power of 14,284 has 4300 digits, and so have some that are a little larger.
    int.bits() <= 14_284 || (int.bits() <= 14_285 && int.magnitude().to_string().len() <= MAX_DIGITS)
}

/// A value as a body carries it. Python's kinds are kept apart where a peer would see the difference: a tuple is not a list,
/// bytes are not a string. A tag that is not known is carried with its value; nothing is ever constructed from it.
///
/// Values nest up to 200 levels: deeper ones are neither read nor sent. A program that nests more by hand does so within the stack
/// of the thread, for copying, comparing, printing and dropping a value takes some of it for each level.
///
/// Strings are Unicode text. Python's strings can also hold lone surrogates (halves of a character, as in `"\ud800"`); these
/// cannot, and a body with one is a decode error.
///
/// Equality is by value: mappings and sets regardless of order, NaN equal to itself, and 1 not equal to 1.0. Rust numbers,
/// strings, `Option`, `Vec`, maps and [`serde_json::Value`] convert by `From`; types of your own by
/// [`from_serialize`](Self::from_serialize).
///
/// # Examples
///
/// ```
/// use homing::Value;
///
/// let value = Value::from_iter([("pid", Value::from(4)), ("paused", Value::from(false))]);
/// assert_eq!(value.get("pid").and_then(Value::as_i64), Some(4));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// An integer that does not fit into 64 bits.
    BigInt(BigInt),
    /// A floating-point number.
    Float(f64),
    /// A string.
    String(String),
    /// Bytes: `!!binary`.
    Bytes(Vec<u8>),
    /// A date or a time as it was written, `2024-02-29` or `2024-02-29T12:30:00.5+01:00`: `!!timestamp`. A codec refuses one
    /// that does not exist.
    Timestamp(String),
    /// A list.
    List(Vec<Value>),
    /// Python's tuple: `!!python/tuple`.
    Tuple(Vec<Value>),
    /// A set, `!!set`. Its members are the keys; their values do not count.
    Set(Map),
    /// A mapping.
    Map(Map),
    /// A value with a tag that is not known here, `!uuid` or `!!python/object:uuid.UUID`. Tags of the YAML standard for which
    /// there is a kind above (`!!int`, `!!set`) are refused when the value is written.
    Tagged(Box<Tagged>),
    /// An object of the program's own, for a codec of its own. Every other codec refuses it, and no peer ever sends one.
    Opaque(Opaque),
}

/// A value with its tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tagged {
    /// The tag as YAML writes it: `!uuid`, `!!python/object:uuid.UUID`, or `!<…>` with a whole URI.
    pub tag: String,
    /// The value under it.
    pub value: Value,
}

/// A mapping. Keys are values of any kind, and keep their order.
#[derive(Clone)]
pub struct Map(Pairs);

/// How many pairs are looked through one by one. Most bodies have fewer, and hash nothing.
const FEW: usize = 8;

#[derive(Clone)]
enum Pairs {
    Few(Vec<(Value, Value)>),
    /// In a box, so that a value is small.
    Many(Box<IndexMap<Value, Value>>),
}

impl Map {
    /// An empty mapping.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the value of a key and returns the value that it had.
    pub fn insert(&mut self, key: impl Into<Value>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match &mut self.0 {
            Pairs::Many(pairs) => pairs.insert(key, value),
            Pairs::Few(pairs) => {
                if let Some((_, known)) = pairs.iter_mut().find(|(known, _)| *known == key) {
                    return Some(std::mem::replace(known, value));
                }
                if pairs.len() < FEW {
                    pairs.push((key, value));
                } else {
                    let pairs = std::mem::take(pairs).into_iter().chain([(key, value)]);
                    self.0 = Pairs::Many(Box::new(pairs.collect()));
                }
                None
            }
        }
    }

    fn find(&self, key: &(impl Hash + Equivalent<Value>)) -> Option<&Value> {
        match &self.0 {
            Pairs::Few(pairs) => pairs.iter().find(|(known, _)| key.equivalent(known)).map(|(_, value)| value),
            Pairs::Many(pairs) => pairs.get(key),
        }
    }

    /// The value of a string key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(&Text(key))
    }

    /// The value of a key of any kind.
    #[must_use]
    pub fn get_value(&self, key: &Value) -> Option<&Value> {
        self.find(key)
    }

    /// True if there is such a string key.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Removes a string key and returns its value. The other keys keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        match &mut self.0 {
            Pairs::Few(pairs) => {
                let at = pairs.iter().position(|(known, _)| Text(key).equivalent(known))?;
                Some(pairs.remove(at).1)
            }
            Pairs::Many(pairs) => pairs.shift_remove(&Text(key)),
        }
    }

    /// The number of pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Pairs::Few(pairs) => pairs.len(),
            Pairs::Many(pairs) => pairs.len(),
        }
    }

    /// True if there are no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Value, &Value)> {
        match &self.0 {
            Pairs::Few(pairs) => Iter::Few(pairs.iter()),
            Pairs::Many(pairs) => Iter::Many(pairs.iter()),
        }
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &Value> {
        self.iter().map(|(key, _)| key)
    }
}

impl Default for Map {
    fn default() -> Self {
        Map(Pairs::Few(Vec::new()))
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Regardless of order.
impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get_value(key) == Some(value))
    }
}

impl Eq for Map {}

enum Iter<'a> {
    Few(std::slice::Iter<'a, (Value, Value)>),
    Many(indexmap::map::Iter<'a, Value, Value>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a Value, &'a Value);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Iter::Few(pairs) => pairs.next().map(|(key, value)| (key, value)),
            Iter::Many(pairs) => pairs.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Iter::Few(pairs) => pairs.size_hint(),
            Iter::Many(pairs) => pairs.size_hint(),
        }
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut map = Map::new();
        for (key, value) in pairs {
            map.insert(key, value);
        }
        map
    }
}

impl IntoIterator for Map {
    type Item = (Value, Value);
    type IntoIter = std::vec::IntoIter<(Value, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        match self.0 {
            Pairs::Few(pairs) => pairs.into_iter(),
            Pairs::Many(pairs) => pairs.into_iter().collect::<Vec<_>>().into_iter(),
        }
    }
}

/// A string that is looked up as if it were a value.
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
            (Value::Map(a), Value::Map(b)) => a == b,
            (Value::Set(a), Value::Set(b)) => {
                a.len() == b.len() && a.keys().all(|member| b.get_value(member).is_some())
            }
            (Value::Tagged(a), Value::Tagged(b)) => a == b,
            (Value::Opaque(a), Value::Opaque(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            // As `Text`, by which strings are looked up.
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
            Value::Opaque(object) => object.hash(state),
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
    /// The string, if it is one.
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

    /// The boolean, if it is one.
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

    /// The object, if it is one of the program's own.
    #[must_use]
    pub fn as_opaque(&self) -> Option<&Opaque> {
        match self {
            Value::Opaque(object) => Some(object),
            _ => None,
        }
    }

    /// The value of a string key, if this is a mapping that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?.get(key)
    }

    /// True for null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// True for what Python holds for true: everything except null, false, zero and what is empty.
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
            Value::BigInt(_) | Value::Timestamp(_) | Value::Tagged(_) | Value::Opaque(_) => true,
        }
    }

    /// Converts a value of any type that implements `Serialize`: structs become mappings, tuples tuples, bytes bytes. A
    /// `Value` within it stays as it is.
    ///
    /// # Errors
    /// `Encode` if the type's own `Serialize` fails, or what it writes is nested deeper than 200 levels.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        ser::to_value(value)
    }

    /// Converts the value to a type that implements `Deserialize`, which may borrow strings and bytes from it. Lists, tuples
    /// and sets are sequences; a tag is ignored in favour of what is under it.
    ///
    /// Where serde itself stores values before it knows their type (`#[serde(untagged)]`, `flatten`, an internal tag), a
    /// tuple arrives as a list and a `Value` within loses what JSON cannot represent.
    ///
    /// # Errors
    /// `Decode` if the value has another shape, or is nested deeper than 200 levels.
    pub fn deserialize<'de, T: Deserialize<'de>>(&'de self) -> Result<T> {
        if self.is_too_deep() {
            return Err(Error::new(ErrorKind::Decode, TOO_DEEP));
        }
        de::from_value(self)
    }

    /// The value as JSON. Values that JSON cannot represent are written as objects that [`from_json`](Self::from_json) reads:
    /// `{"$tuple": […]}`, `{"$bytes": "base64"}`, `{"$int": "123…"}` for integers over 64 bits (`"0x…"` over 4300 digits),
    /// `{"$float": "nan"}` (`inf`, `-inf`), `{"$set": […]}`, `{"$timestamp": "…"}`, `{"$tag": "!uuid", "value": …}`, and
    /// `{"$map": [[key, value], …]}` for a mapping with non-string keys, or with a key that begins with `$`. An
    /// [`Opaque`](Value::Opaque) is written as `{"$opaque": "its type"}`, which nothing reads.
    ///
    /// An object of `serde_json` sorts its keys unless its feature `preserve_order` is on. To keep the order, use
    /// [`to_json_text`](Self::to_json_text).
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
        json_form::to_json(&json_form::encode(self))
    }

    /// The same as one line of text, with the keys in their order.
    #[must_use]
    pub fn to_json_text(&self) -> String {
        let mut text = String::new();
        json::write(&mut text, &json_form::encode(self));
        text
    }

    /// Converts JSON, with the objects that [`to_json`](Self::to_json) writes. For JSON that is nothing but data, use
    /// `Value::from(json)`.
    ///
    /// `serde_json` rounds integers over 64 bits before this function sees them, unless its feature `arbitrary_precision` is
    /// on; [`from_json_text`](Self::from_json_text) keeps all digits.
    ///
    /// # Errors
    /// `Decode` for an object such as `{"$bytes": 1}` that stands for no value, or for JSON that is nested too deep.
    pub fn from_json(json: &serde_json::Value) -> Result<Self> {
        // As for a text: each level of JSON counts, and a value may take up to three of them for one of its own.
        if depth::json_is_deeper_than(json, MAX_DEPTH) {
            return Err(Error::new(ErrorKind::Decode, TOO_DEEP));
        }
        json_form::decode(json_form::from_json(json))
    }

    /// Reads a JSON text, with the objects that [`to_json`](Self::to_json) writes. Keys keep their order, and integers all
    /// their digits.
    ///
    /// # Errors
    /// `Decode` if it is not JSON, has an object such as `{"$bytes": 1}` that stands for no value, or stands for a value that is
    /// nested deeper than 200 levels.
    pub fn from_json_text(text: &str) -> Result<Self> {
        let limits = Limits { max_depth: (MAX_DEPTH + 1) * JSON_LEVELS, ..Limits::default() };
        let value = json_form::decode(json::read(text, &limits).map_err(json::Fault::into_error)?)?;
        if value.is_too_deep() {
            value.dispose();
            return Err(Error::new(ErrorKind::Decode, TOO_DEEP));
        }
        Ok(value)
    }

    /// The value as YAML, for people: block style, strings plain where that is safe.
    #[must_use]
    pub fn to_yaml_text(&self) -> String {
        super::yaml::pretty(self)
    }

    /// About how many bytes of memory the value takes, with all that is in it. For limits; the allocator's own overhead and
    /// spare capacity are not counted. Takes no stack for deep values.
    #[must_use]
    pub fn weight(&self) -> usize {
        fn add<'a>(within: &'a Value, weight: &mut usize, open: &mut Vec<&'a Value>) {
            *weight += within.own_weight();
            if within.holds_values() {
                open.push(within);
            }
        }
        let mut weight = size_of::<Value>() + self.own_weight();
        // Mostly it is one value, or holds only such that hold none: then no list is needed.
        let (mut next, mut open) = (Some(self), Vec::new());
        while let Some(value) = next {
            match value {
                Value::List(items) | Value::Tuple(items) => {
                    items.iter().for_each(|item| add(item, &mut weight, &mut open));
                }
                Value::Map(map) | Value::Set(map) => map.iter().for_each(|(key, value)| {
                    add(key, &mut weight, &mut open);
                    add(value, &mut weight, &mut open);
                }),
                Value::Tagged(tagged) => add(&tagged.value, &mut weight, &mut open),
                _ => {}
            }
            next = open.pop();
        }
        weight
    }

    /// The same without what is in it, and without itself.
    fn own_weight(&self) -> usize {
        match self {
            // Of an object only its owner knows more.
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Opaque(_) => 0,
            Value::BigInt(int) => usize::try_from(int.bits() / 8).unwrap_or(usize::MAX).saturating_add(8),
            Value::String(text) | Value::Timestamp(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(items) | Value::Tuple(items) => items.len() * size_of::<Value>(),
            // Beside the pair, its hash and its place in the table of hashes.
            Value::Map(map) | Value::Set(map) => map.len() * (2 * size_of::<Value>() + 3 * size_of::<usize>()),
            Value::Tagged(tagged) => tagged.tag.len() + size_of::<Tagged>(),
        }
    }
}

/// As it would be derived; an integer of over 4300 digits in hexadecimal ones.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut variant = |name: &str, value: &dyn fmt::Debug| f.debug_tuple(name).field(value).finish();
        match self {
            Value::Null => f.write_str("Null"),
            Value::Bool(value) => variant("Bool", value),
            Value::Int(value) => variant("Int", value),
            Value::BigInt(value) if fits_digits(value) => variant("BigInt", value),
            // Guards: a peer's integer that would take hours to be printed in decimal digits, by a program that logs what it gets.
            Value::BigInt(value) => variant("BigInt", &format_args!("{value:#x}")),
            Value::Float(value) => variant("Float", value),
            Value::String(value) => variant("String", value),
            Value::Bytes(value) => variant("Bytes", value),
            Value::Timestamp(value) => variant("Timestamp", value),
            Value::List(value) => variant("List", value),
            Value::Tuple(value) => variant("Tuple", value),
            Value::Set(value) => variant("Set", value),
            Value::Map(value) => variant("Map", value),
            Value::Tagged(value) => variant("Tagged", value),
            Value::Opaque(value) => variant("Opaque", value),
        }
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
    i128, value => BigInt::from(value).into();
    isize, value => BigInt::from(value).into();
    u8, value => Value::Int(value.into());
    u16, value => Value::Int(value.into());
    u32, value => Value::Int(value.into());
    u64, value => BigInt::from(value).into();
    u128, value => BigInt::from(value).into();
    usize, value => BigInt::from(value).into();
    f32, value => Value::Float(value.into());
    f64, value => Value::Float(value);
    char, value => Value::String(value.into());
    &str, value => Value::String(value.to_owned());
    String, value => Value::String(value);
    &String, value => Value::String(value.clone());
    &[u8], value => Value::Bytes(value.to_vec());
    Map, value => Value::Map(value);
    Opaque, object => Value::Opaque(object);
    &Value, value => value.clone();
    BigInt, value => match i64::try_from(&value) { Ok(small) => Value::Int(small), Err(_) => Value::BigInt(value) };
    // Nothing but data: an object such as `{"$tuple": []}` is a mapping. `from_json` reads it as what it stands for.
    serde_json::Value, value => json_form::from_json_owned(value);
    &serde_json::Value, value => json_form::from_json(value);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

/// A `Vec<u8>` becomes [`Value::Bytes`], any other a [`Value::List`].
impl<T: Into<Value> + 'static> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Self {
        if TypeId::of::<T>() == TypeId::of::<u8>() {
            let items: Box<dyn Any> = Box::new(items);
            return items.downcast::<Vec<u8>>().map_or(Value::Null, |bytes| Value::Bytes(*bytes));
        }
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

/// The same as the `Vec`.
impl<T: Into<Value> + 'static, const N: usize> From<[T; N]> for Value {
    fn from(items: [T; N]) -> Self {
        Vec::from(items).into()
    }
}

impl<K: Into<Value>, V: Into<Value>> From<BTreeMap<K, V>> for Value {
    fn from(pairs: BTreeMap<K, V>) -> Self {
        pairs.into_iter().collect()
    }
}

impl<K: Into<Value>, V: Into<Value>, S: BuildHasher> From<HashMap<K, V, S>> for Value {
    fn from(pairs: HashMap<K, V, S>) -> Self {
        pairs.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_values_convert_to_the_kind_that_python_would_have() {
        assert_eq!(Value::from(i128::MAX).to_json_text(), format!(r#"{{"$int":"{}"}}"#, i128::MAX));
        assert_eq!(Value::from(u128::from(7_u8)), Value::Int(7));
        assert_eq!(Value::from(usize::MAX), Value::from(u64::MAX));
        assert_eq!(Value::from(-1_isize), Value::Int(-1));
        assert_eq!(Value::from('ß'), Value::from("ß"));
        assert_eq!(Value::from(vec![1_u8, 2]), Value::Bytes(vec![1, 2]));
        assert_eq!(Value::from([1_u8, 2]), Value::Bytes(vec![1, 2]));
        assert_eq!(Value::from(&[1_u8, 2][..]), Value::Bytes(vec![1, 2]));
        assert_eq!(Value::from(vec![1_u16, 2]), Value::List(vec![1.into(), 2.into()]));
        assert_eq!(Value::from(["a", "b"]), Value::List(vec!["a".into(), "b".into()]));
        assert_eq!(Value::from(vec![Some("a"), None]), Value::List(vec!["a".into(), Value::Null]));
        assert_eq!(Value::from(vec![vec![0.5_f32]]), Value::List(vec![Value::List(vec![Value::Float(0.5)])]));
        assert_eq!(Value::from(BTreeMap::from([(1, true)])), Value::from_iter([(1, true)]));
        assert_eq!(Value::from(HashMap::from([("k", 1)])), Value::from_iter([("k", 1)]));
    }

    #[test]
    fn json_converts_as_nothing_but_data() {
        let json = serde_json::json!({"$tuple": [1, u64::MAX, -1.5, null, true, {"$x": "y"}]});
        let value = Value::from(&json);
        assert_eq!(Value::from(json.clone()), value);
        assert_eq!(value.get("$tuple").and_then(Value::as_slice).map(<[_]>::len), Some(6));
        assert_eq!(value.deserialize::<serde_json::Value>().unwrap(), json);
        assert_eq!(Value::from_serialize(&json).unwrap(), value);
    }

    /// Against a list of pairs, below and above the number of pairs that are looked through.
    #[test]
    fn a_mapping_keeps_its_order_whatever_its_size() {
        for pairs in [0, 1, FEW - 1, FEW, FEW + 1, 3 * FEW] {
            let key = |n: usize| format!("key {n}");
            let mut map: Map = (0..pairs).map(|n| (key(n), n)).collect();
            let mut model: Vec<(Value, Value)> = (0..pairs).map(|n| (key(n).into(), n.into())).collect();
            for n in (0..pairs).step_by(3) {
                assert_eq!(map.insert(key(n), "new"), Some(Value::from(n)));
                model[n].1 = "new".into();
            }
            for n in (1..pairs).step_by(4) {
                assert_eq!(
                    map.remove(&key(n)).as_ref(),
                    Some(&model.iter().find(|pair| pair.0 == key(n).into()).unwrap().1)
                );
                model.retain(|pair| pair.0 != key(n).into());
                assert_eq!((map.remove(&key(n)), map.contains_key(&key(n))), (None, false));
            }
            assert_eq!(map.insert(1, "by a number"), None);
            model.push((1.into(), "by a number".into()));
            assert_eq!((map.len(), map.is_empty(), map.iter().len()), (model.len(), false, model.len()));
            assert!(map.iter().eq(model.iter().map(|(key, value)| (key, value))), "{map:?}");
            assert!(model.iter().all(|(key, value)| map.get_value(key) == Some(value)));
            let backwards: Map = model.iter().rev().cloned().collect();
            assert_eq!(map, backwards, "regardless of order");
            assert_ne!(map, model.iter().skip(1).cloned().collect());
            assert!(map.into_iter().eq(model));
        }
    }

    #[test]
    fn a_set_is_its_members() {
        let set = |value: Value| Value::Set([(Value::from(1), value)].into_iter().collect());
        assert_eq!(set(Value::Null), set(Value::from(2)));
        assert_ne!(set(Value::Null), Value::Set([(Value::from(2), Value::Null)].into_iter().collect()));
    }

    #[test]
    fn the_weight_counts_everything_and_needs_no_stack() {
        assert!(Value::Null.weight() >= size_of::<Value>());
        assert!(Value::from("x".repeat(1000)).weight() >= 1000);
        assert!(Value::Bytes(vec![0; 1000]).weight() >= 1000);
        assert!(Value::from(BigInt::from(1) << 80_000).weight() >= 10_000);
        assert!(Value::from(vec![0_u16; 1000]).weight() >= 1000 * size_of::<Value>());
        let tagged = Value::Tagged(Box::new(Tagged { tag: "!x".to_owned(), value: Value::from("y".repeat(500)) }));
        assert!(tagged.weight() > 500);
        assert!(Value::from_iter([("k".repeat(300), tagged)]).weight() > 800);
        let mut deep = Value::Null;
        for _ in 0..1_000_000 {
            deep = Value::List(vec![deep]);
        }
        assert!(deep.weight() >= 1_000_000 * size_of::<Value>());
        // Taken apart by hand, for dropping it as a whole would need the stack.
        while let Value::List(mut items) = deep {
            deep = items.pop().unwrap_or(Value::Null);
        }
    }

    #[test]
    fn the_number_of_digits_is_counted_right() {
        let power = BigInt::from(10).pow(4300);
        assert!(!fits_digits(&power));
        assert!(fits_digits(&(&power - 1)));
        assert!(fits_digits(&(1 - &power)));
        assert!(!fits_digits(&(-power)));
    }

    #[test]
    fn an_integer_of_any_length_is_printed_in_time_with_its_length() {
        let long: BigInt = BigInt::from(-1) << 20_000;
        let value = Value::List(vec![Value::from(long), Value::from(BigInt::from(1) << 80)]);
        let digits = "0".repeat(5000);
        assert_eq!(format!("{value:?}"), format!("List([BigInt(-0x1{digits}), BigInt(1208925819614629174706176)])"));
        // Of a body of 16 MB. In decimal digits it would take hours.
        assert!(format!("{:?}", Value::from(BigInt::from(1) << 64_000_000)).len() > 16_000_000);
    }
}
