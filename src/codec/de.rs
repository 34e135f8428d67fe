//! From a [`Value`] to types of a program's own, by serde. See [`super::ser`] for how a `Value` itself goes through serde.

use std::fmt;

use num_traits::ToPrimitive;
use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, Deserializer as _};

use super::form;
use super::ser::VALUE;
use super::value::{Map, Value};
use crate::error::{Error, ErrorKind, Result};

pub(super) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T> {
    T::deserialize(Deserializer(value))
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::new(ErrorKind::Decode, format!("the value has another shape than was asked for: {message}"))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, FormVisitor)
    }
}

/// Reads a value in its JSON form, whatever the format.
struct FormVisitor;

impl<'de> Visitor<'de> for FormVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        form::unform(deserializer.deserialize_any(PlainVisitor)?).map_err(de::Error::custom)
    }
}

/// Reads what is there, forms not read.
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
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(value.to_vec()))
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
            map.insert(key, pairs.next_value_seed(Plain)?);
        }
        Ok(Value::Map(map))
    }
}

struct Deserializer<'a>(&'a Value);

impl<'de> de::Deserializer<'de> for Deserializer<'_> {
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
            Value::String(text) | Value::Timestamp(text) => visitor.visit_str(text),
            Value::Bytes(bytes) => visitor.visit_bytes(bytes),
            Value::List(items) | Value::Tuple(items) => {
                let mut seq = de::value::SeqDeserializer::new(items.iter().map(Deserializer));
                let value = visitor.visit_seq(&mut seq)?;
                seq.end()?;
                Ok(value)
            }
            Value::Set(members) => visitor.visit_seq(de::value::SeqDeserializer::new(members.keys().map(Deserializer))),
            Value::Map(map) => {
                let pairs = map.iter().map(|(key, value)| (Deserializer(key), Deserializer(value)));
                let mut pairs = de::value::MapDeserializer::new(pairs);
                let value = visitor.visit_map(&mut pairs)?;
                pairs.end()?;
                Ok(value)
            }
            // A type of one's own looks at what is under the tag.
            Value::Tagged(tagged) => Deserializer(&tagged.value).deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.as_f64() {
            Some(value) => visitor.visit_f64(value),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        if name == VALUE {
            return visitor.visit_newtype_struct(Deserializer(&form::form(self.0)));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(Variant { name: variant.clone(), content: None }),
            Value::Map(map) if map.len() == 1 => match map.iter().next() {
                Some((Value::String(name), content)) => {
                    visitor.visit_enum(Variant { name: name.clone(), content: Some(content) })
                }
                _ => Err(de::Error::custom("the name of a variant must be a text")),
            },
            _ => Err(de::Error::custom("a variant must be a text, or a mapping of one")),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Deserializer<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Variant<'a> {
    name: String,
    content: Option<&'a Value>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Content<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'a>)> {
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

impl<'de> VariantAccess<'de> for Content<'_> {
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
}
