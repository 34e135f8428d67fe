//! From a [`Value`] to a program's own types, by serde. [`super::ser`] describes how a `Value` itself is serialized.

use std::fmt;

use num_traits::ToPrimitive;
use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::{Deserialize, Deserializer as _};

use super::ser::{JSON_NUMBER, VALUE};
use super::value::{Map, Value};
use super::{json, json_form};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn from_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T> {
    T::deserialize(Deserializer(value))
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::new(ErrorKind::Decode, format!("the value has another shape than expected: {message}"))
    }

    // serde's own texts quote the value. Guards: a body in an error, and by that in a log.
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("{}, expected {expected}", kind(&unexpected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("{} that does not fit, expected {expected}", kind(&unexpected)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("an unknown variant, expected one of {}", expected.join(", ")))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!("an unknown field, expected one of {}", expected.join(", ")))
    }
}

/// What a value is, without the value.
fn kind(unexpected: &de::Unexpected<'_>) -> &'static str {
    match unexpected {
        de::Unexpected::Bool(_) => "a boolean",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "an integer",
        de::Unexpected::Float(_) => "a float",
        de::Unexpected::Char(_) | de::Unexpected::Str(_) => "a string",
        de::Unexpected::Bytes(_) => "bytes",
        de::Unexpected::Unit | de::Unexpected::Option => "null",
        de::Unexpected::Seq => "a sequence",
        de::Unexpected::Map => "a mapping",
        _ => "another kind of value",
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, FormVisitor)
    }
}

/// Reads a value in its JSON form from any format.
struct FormVisitor;

impl FormVisitor {
    fn finish<E: de::Error>(plain: Result<Value, E>) -> Result<Value, E> {
        json_form::decode(plain?).map_err(E::custom)
    }
}

/// What a format without newtypes calls goes the same way.
macro_rules! visits {
    ($($visit:ident($what:ty),)*) => {$(
        fn $visit<E: de::Error>(self, value: $what) -> Result<Value, E> {
            Self::finish(PlainVisitor.$visit(value))
        }
    )*};
}

impl<'de> Visitor<'de> for FormVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Self::finish(deserializer.deserialize_any(PlainVisitor))
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Self::finish(PlainVisitor.visit_some(deserializer))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        Self::finish(PlainVisitor.visit_seq(seq))
    }
    fn visit_map<A: MapAccess<'de>>(self, pairs: A) -> Result<Value, A::Error> {
        Self::finish(PlainVisitor.visit_map(pairs))
    }
    visits! {
        visit_bool(bool),
        visit_i64(i64),
        visit_i128(i128),
        visit_u64(u64),
        visit_u128(u128),
        visit_f64(f64),
        visit_str(&str),
        visit_string(String),
        visit_bytes(&[u8]),
        visit_byte_buf(Vec<u8>),
    }
}

/// Reads nothing but data: an object such as `{"$tuple": []}` is a mapping.
struct PlainVisitor;

/// The same as a seed, for what is inside.
struct Plain;

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(value.to_vec()))
    }
    fn visit_byte_buf<E>(self, value: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Plain)? {
            items.push(item);
        }
        Ok(Value::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = pairs.next_key_seed(Plain)? {
            let value = pairs.next_value_seed(Plain)?;
            if map.is_empty() && key.as_str() == Some(JSON_NUMBER) {
                // A number, from a `serde_json` with `arbitrary_precision`.
                let number = value.as_str().and_then(json::number);
                return number.ok_or_else(|| de::Error::custom("a number is too large"));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}

struct Deserializer<'de>(&'de Value);

impl<'de> de::Deserializer<'de> for Deserializer<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::BigInt(value) => match (value.to_u64(), value.to_i128(), value.to_u128()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (None, Some(value), _) => visitor.visit_i128(value),
                (None, None, Some(value)) => visitor.visit_u128(value),
                _ => Err(de::Error::custom("an integer of over 128 bits")),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(text) | Value::Timestamp(text) => visitor.visit_borrowed_str(text),
            Value::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Value::List(items) | Value::Tuple(items) => {
                let mut seq = de::value::SeqDeserializer::new(items.iter().map(Deserializer));
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Value::Set(members) => {
                let mut seq = de::value::SeqDeserializer::new(members.keys().map(Deserializer));
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Value::Map(map) => {
                let pairs = map.iter().map(|(key, value)| (Deserializer(key), Deserializer(value)));
                let mut pairs = de::value::MapDeserializer::new(pairs);
                let value = visitor.visit_map(&mut pairs)?;
                pairs.end()?;
                Ok(value)
            }
            // A type of a program's own reads what is under the tag.
            Value::Tagged(tagged) => Deserializer(&tagged.value).deserialize_any(visitor),
            Value::Opaque(object) => {
                Err(de::Error::custom(format_args!("an object of the program's own type {}", object.type_name())))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Int(_) | Value::Float(_) => visitor.visit_f64(self.0.as_f64().unwrap_or(f64::NAN)),
            Value::BigInt(value) => visitor.visit_f64(value.to_f64().unwrap_or(f64::NAN)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        // serde takes a `Vec<u8>` for a list of numbers.
        let Value::Bytes(bytes) = self.0 else { return self.deserialize_any(visitor) };
        let mut seq = de::value::SeqDeserializer::new(bytes.iter().copied());
        let value = visitor.visit_seq(&mut seq)?;
        seq.end()?;
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name == VALUE {
            return visitor.visit_newtype_struct(Owned(json_form::encode(self.0)));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(Variant { name: variant.clone(), content: None }),
            Value::Map(map) if map.len() == 1 => match map.iter().next() {
                Some((Value::String(name), content)) => {
                    visitor.visit_enum(Variant { name: name.clone(), content: Some(content) })
                }
                _ => Err(de::Error::custom("the name of a variant must be a string")),
            },
            Value::Tagged(tagged) => Deserializer(&tagged.value).deserialize_enum(name, variants, visitor),
            _ => Err(de::Error::custom("a variant must be a string, or a mapping with one key")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Deserializer<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A value of JSON's kinds that is handed over.
struct Owned(Value);

impl<'de> de::Deserializer<'de> for Owned {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Int(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::String(text) => visitor.visit_string(text),
            Value::List(items) => visitor.visit_seq(de::value::SeqDeserializer::new(items.into_iter().map(Owned))),
            Value::Map(map) => {
                let pairs = map.into_iter().map(|(key, value)| (Owned(key), Owned(value)));
                visitor.visit_map(de::value::MapDeserializer::new(pairs))
            }
            // `json_form::encode` leaves no other kind.
            _ => visitor.visit_unit(),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Owned {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Variant<'a> {
    name: String,
    content: Option<&'a Value>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Error;
    type Variant = Content<'de>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'de>)> {
        let name: StringDeserializer<Error> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, Content(self.content)))
    }
}

struct Content<'a>(Option<&'a Value>);

impl<'a> Content<'a> {
    fn there(&self) -> Result<Deserializer<'a>> {
        self.0.map(Deserializer).ok_or_else(|| de::Error::custom("the variant needs a value"))
    }
}

impl<'de> VariantAccess<'de> for Content<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        match self.0 {
            None | Some(Value::Null) => Ok(()),
            Some(_) => Err(de::Error::custom("the variant has no value")),
        }
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        seed.deserialize(self.there()?)
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value> {
        self.there()?.deserialize_any(visitor)
    }
    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.there()?.deserialize_any(visitor)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Serialize};

    use crate::codec::Value;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Unit,
        New(u8),
        Pair(u8, String),
        Named { a: Option<f64> },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        kinds: Vec<Kind>,
        pair: (i32, bool),
        big: u128,
        by_number: BTreeMap<i64, String>,
        nothing: Option<String>,
        dynamic: Value,
        letter: char,
        ratio: f32,
    }

    #[test]
    fn types_come_back_the_same() {
        let everything = Everything {
            kinds: vec![Kind::Unit, Kind::New(1), Kind::Pair(2, "x".into()), Kind::Named { a: Some(0.5) }],
            pair: (-1, true),
            big: u128::MAX,
            by_number: BTreeMap::from([(1, "one".to_owned())]),
            nothing: None,
            dynamic: Value::Tuple(vec![Value::Bytes(vec![1]), Value::Float(f64::NAN)]),
            letter: 'ß',
            ratio: 2.0,
        };
        let value = Value::from_serialize(&everything).unwrap();
        assert_eq!(value.get("pair"), Some(&Value::Tuple(vec![Value::from(-1), Value::from(true)])));
        assert_eq!(value.get("dynamic"), Some(&everything.dynamic));
        assert_eq!(value.deserialize::<Everything>().unwrap(), everything);
    }

    #[test]
    fn a_value_goes_through_formats_of_others_in_its_json_form() {
        let value = Value::Tuple(vec![Value::from_iter([("a", Value::Bytes(vec![255]))])]);
        let text = serde_json::to_string(&value).unwrap();
        assert_eq!(text, r#"{"$tuple":[{"a":{"$bytes":"/w=="}}]}"#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn a_wrong_shape_is_a_decode_error() {
        let error = Value::from("text").deserialize::<Vec<u8>>().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Decode);
        assert!(Value::from(300).deserialize::<u8>().is_err());
        assert!(Value::List(vec![1.into(), 2.into()]).deserialize::<(u8,)>().is_err());
    }

    #[test]
    fn an_integer_is_a_float_where_one_is_asked_for() {
        assert!((Value::from(3).deserialize::<f64>().unwrap() - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn strings_and_bytes_can_be_borrowed() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Borrowed<'a> {
            name: &'a str,
            #[serde(borrow)]
            words: Vec<&'a str>,
            raw: &'a [u8],
        }
        let value = Value::from_iter([
            ("name", Value::from("n")),
            ("words", Value::from(["a", "b"])),
            ("raw", Value::Bytes(vec![1, 2])),
        ]);
        let borrowed: Borrowed<'_> = value.deserialize().unwrap();
        assert_eq!(borrowed, Borrowed { name: "n", words: vec!["a", "b"], raw: &[1, 2] });
    }

    #[test]
    fn bytes_are_a_list_of_numbers_where_one_is_asked_for() {
        let bytes = Value::Bytes(vec![1, 255]);
        assert_eq!(bytes.deserialize::<Vec<u8>>().unwrap(), [1, 255]);
        assert_eq!(bytes.deserialize::<[u8; 2]>().unwrap(), [1, 255]);
        assert!(bytes.deserialize::<[u8; 3]>().is_err());
        assert_eq!(Value::from([1_u16, 255]).deserialize::<Vec<u8>>().unwrap(), [1, 255]);
    }

    #[test]
    fn numbers_of_every_size_come_back() {
        for int in [i128::MIN, i128::from(i64::MIN) - 1, -1, 0, i128::from(u64::MAX), i128::MAX] {
            let value = Value::from_serialize(&int).unwrap();
            assert_eq!(value, Value::from(int));
            assert_eq!(value.deserialize::<i128>().unwrap(), int);
        }
        for int in [0, u128::from(u64::MAX) + 1, u128::MAX] {
            assert_eq!(Value::from(int).deserialize::<u128>().unwrap(), int);
        }
        assert_eq!(Value::from(u64::MAX).deserialize::<u64>().unwrap(), u64::MAX);
        assert!((Value::from(i128::MAX).deserialize::<f64>().unwrap() / 1.7e38 - 1.0).abs() < 0.1);
        assert!(Value::from(num_bigint::BigInt::from(1) << 200).deserialize::<i128>().is_err());
        assert!(Value::from(u128::MAX).deserialize::<serde_json::Value>().is_err(), "rounded in silence");
    }

    #[test]
    fn options_are_null_in_every_place() {
        type Nested = (Option<u8>, Vec<Option<String>>, BTreeMap<String, Option<bool>>, Option<Vec<Option<()>>>);
        let nested: Nested =
            (None, vec![None, Some("x".into())], BTreeMap::from([("k".into(), None)]), Some(vec![None]));
        let value = Value::from_serialize(&nested).unwrap();
        assert_eq!(value.deserialize::<Nested>().unwrap(), nested);
        assert_eq!(
            Value::from_serialize(&Some(Kind::New(1))).unwrap().deserialize::<Option<Kind>>().unwrap(),
            Some(Kind::New(1))
        );
        assert_eq!(Value::from_serialize(&Some(Value::from(1))).unwrap(), Value::from(1));
        assert_eq!(Value::Null.deserialize::<Option<Value>>().unwrap(), None);
    }

    #[test]
    fn enums_are_tagged_in_every_way_that_serde_has() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "type")]
        enum Internal {
            A { n: i64 },
            B,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "t", content = "c")]
        enum Adjacent {
            A(u8, u8),
            B { list: Vec<u64> },
            C,
        }
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(untagged)]
        enum Untagged {
            Number(u64),
            Text(String),
            Pair((i8, i8)),
            Named { x: Option<Box<Untagged>> },
        }
        type All = (Vec<Internal>, Vec<Adjacent>, Vec<Untagged>, BTreeMap<Kindless, u8>);
        #[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        enum Kindless {
            One,
            Two,
        }
        let all: All = (
            vec![Internal::A { n: -1 }, Internal::B],
            vec![Adjacent::A(1, 2), Adjacent::B { list: vec![u64::MAX] }, Adjacent::C],
            vec![
                Untagged::Number(u64::MAX),
                Untagged::Text("x".into()),
                Untagged::Pair((1, -1)),
                Untagged::Named { x: Some(Box::new(Untagged::Number(1))) },
            ],
            BTreeMap::from([(Kindless::One, 1), (Kindless::Two, 2)]),
        );
        let value = Value::from_serialize(&all).unwrap();
        assert_eq!(value.deserialize::<All>().unwrap(), all);
        let body = crate::codec::Codec::encode(&crate::codec::Yaml::default(), &value).unwrap();
        let read = crate::codec::Codec::decode(&crate::codec::Yaml::default(), &body).unwrap();
        assert_eq!(read.deserialize::<All>().unwrap(), all);
    }

    #[test]
    fn keys_of_mappings_are_of_any_type() {
        type Keys = (
            BTreeMap<i64, u8>,
            BTreeMap<(u8, String), u8>,
            BTreeMap<bool, u8>,
            BTreeMap<char, u8>,
            BTreeMap<Option<i8>, u8>,
        );
        let keys: Keys = (
            BTreeMap::from([(-1, 1)]),
            BTreeMap::from([((1, "x".into()), 2)]),
            BTreeMap::from([(true, 3)]),
            BTreeMap::from([('k', 4)]),
            BTreeMap::from([(None, 5)]),
        );
        let value = Value::from_serialize(&keys).unwrap();
        assert_eq!(value.deserialize::<Keys>().unwrap(), keys);
        assert!(value.as_slice().unwrap()[0].as_map().unwrap().get_value(&Value::from(-1)).is_some());
    }

    #[test]
    fn a_value_in_a_value_is_untouched() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Holder {
            inner: Option<Value>,
            by_value: std::collections::HashMap<Value, Value>,
        }
        let odd = Value::Tuple(vec![
            Value::Set([(Value::from(1), Value::Null)].into_iter().collect()),
            Value::from_iter([("$tuple", Value::from(u128::MAX))]),
            Value::Timestamp("2024-02-29".into()),
        ]);
        let holder =
            Holder { inner: Some(odd.clone()), by_value: [(Value::Tuple(vec![1.into()]), odd.clone())].into() };
        let value = Value::from_serialize(&holder).unwrap();
        assert_eq!(value.get("inner"), Some(&odd));
        assert_eq!(value.deserialize::<Holder>().unwrap(), holder);
        assert_eq!(value.deserialize::<Value>().unwrap(), value);
        // Where a format hands over a plain string, number or list.
        let from = |json: serde_json::Value| serde_json::from_value::<Vec<Value>>(json).unwrap();
        assert_eq!(from(serde_json::json!(["x", 1, null, {"$tuple": []}])).len(), 4);
        let plain = serde::de::value::StrDeserializer::<crate::Error>::new("x");
        assert_eq!(<Value as serde::Deserialize>::deserialize(plain).unwrap(), Value::from("x"));
    }

    #[test]
    fn a_number_of_serde_json_with_arbitrary_precision_is_a_number() {
        // What `serde_json` hands over when its feature `arbitrary_precision` is on.
        #[derive(Serialize, Deserialize)]
        #[serde(rename = "$serde_json::private::Number")]
        struct Number {
            #[serde(rename = "$serde_json::private::Number")]
            digits: String,
        }
        let digits = "123456789012345678901234567890";
        let value =
            Value::from_serialize(&[Number { digits: digits.into() }, Number { digits: "1.5".into() }]).unwrap();
        let expected = Value::Tuple(vec![Value::BigInt(digits.parse().unwrap()), Value::Float(1.5)]);
        assert_eq!(value, expected);
        let json = serde_json::json!({"$serde_json::private::Number": digits});
        assert_eq!(serde_json::from_value::<Value>(json).unwrap(), Value::BigInt(digits.parse().unwrap()));
    }
}
