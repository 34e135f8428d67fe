//! From a program's own types to a [`Value`], by serde.
//!
//! A [`Value`] itself is serialized in its [JSON form](super::json_form), as a newtype whose name only this serializer and its
//! counterpart know: here it comes out unchanged, and other formats get something readable.

use std::fmt;

use num_bigint::BigInt;
use serde::ser::{self, Serialize, SerializeMap, SerializeSeq};

use super::value::{MAX_DEPTH, Map, Value};
use super::{json, json_form};
use crate::error::{Error, ErrorKind, Result};

/// Why a value is refused that is deeper than [`MAX_DEPTH`].
pub(crate) const TOO_DEEP: &str = "it is nested deeper than 200 levels";

pub(super) const VALUE: &str = "$homing::Value";

/// How `serde_json` serializes a number when its feature `arbitrary_precision` is on: a struct of this name, with one field
/// of this name, which is a string.
pub(super) const JSON_NUMBER: &str = "$serde_json::private::Number";

pub(super) fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value> {
    value.serialize(Serializer { left: MAX_DEPTH })
}

impl Serialize for Value {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_too_deep() {
            return Err(ser::Error::custom(TOO_DEEP));
        }
        serializer.serialize_newtype_struct(VALUE, &Plain(&json_form::encode(self)))
    }
}

/// A value of JSON's kinds only.
struct Plain<'a>(&'a Value);

impl Serialize for Plain<'_> {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::String(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| seq.serialize_element(&Plain(item)))?;
                seq.end()
            }
            Value::Map(map) => {
                let mut pairs = serializer.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, value)| pairs.serialize_entry(&Plain(key), &Plain(value)))?;
                pairs.end()
            }
            // `encode` leaves no other kind.
            _ => serializer.serialize_unit(),
        }
    }
}

impl ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Error::new(ErrorKind::Encode, format!("the value cannot be written: {message}"))
    }
}

/// Where so many levels may come below.
struct Serializer {
    left: usize,
}

impl Serializer {
    fn below(self) -> Result<Serializer> {
        below(self.left)
    }
}

/// Guards: a program's own type that is nested deeper than a value may be.
fn below(left: usize) -> Result<Serializer> {
    left.checked_sub(1).map(|left| Serializer { left }).ok_or_else(|| ser::Error::custom(TOO_DEEP))
}

impl ser::Serializer for Serializer {
    type Ok = Value;
    type Error = Error;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Pairs;
    type SerializeStruct = Pairs;
    type SerializeStructVariant = Pairs;

    fn serialize_bool(self, value: bool) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_i8(self, value: i8) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_i16(self, value: i16) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_i32(self, value: i32) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_i64(self, value: i64) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_i128(self, value: i128) -> Result<Value> {
        Ok(BigInt::from(value).into())
    }
    fn serialize_u8(self, value: u8) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_u16(self, value: u16) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_u32(self, value: u32) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_u64(self, value: u64) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_u128(self, value: u128) -> Result<Value> {
        Ok(BigInt::from(value).into())
    }
    fn serialize_f32(self, value: f32) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_f64(self, value: f64) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_char(self, value: char) -> Result<Value> {
        Ok(value.to_string().into())
    }
    fn serialize_str(self, value: &str) -> Result<Value> {
        Ok(value.into())
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<Value> {
        Ok(Value::Bytes(value.to_vec()))
    }
    fn serialize_none(self) -> Result<Value> {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value> {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _name: &'static str) -> Result<Value> {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Result<Value> {
        Ok(variant.into())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Value> {
        if name == VALUE {
            // Its depth has been looked at; its form has more levels.
            return json_form::decode(value.serialize(Serializer { left: usize::MAX })?);
        }
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value> {
        Ok(under(Some(variant), value.serialize(self.below()?)?))
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<Items> {
        Ok(Items {
            items: Vec::with_capacity(len.unwrap_or(0).min(1024)),
            kind: Value::List,
            variant: None,
            left: self.left,
        })
    }
    fn serialize_tuple(self, _len: usize) -> Result<Items> {
        Ok(Items { items: Vec::new(), kind: Value::Tuple, variant: None, left: self.left })
    }
    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Items> {
        self.serialize_tuple(len)
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Items> {
        let left = self.below()?.left;
        Ok(Items { items: Vec::new(), kind: Value::Tuple, variant: Some(variant), left })
    }
    fn serialize_map(self, _len: Option<usize>) -> Result<Pairs> {
        Ok(Pairs { map: Map::new(), key: None, variant: None, is_number: false, left: self.left })
    }
    fn serialize_struct(self, name: &'static str, _len: usize) -> Result<Pairs> {
        Ok(Pairs { map: Map::new(), key: None, variant: None, is_number: name == JSON_NUMBER, left: self.left })
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Pairs> {
        let left = self.below()?.left;
        Ok(Pairs { map: Map::new(), key: None, variant: Some(variant), is_number: false, left })
    }
}

/// A variant is a mapping with its name as the key, as in serde's JSON.
fn under(variant: Option<&str>, value: Value) -> Value {
    match variant {
        Some(variant) => Value::from_iter([(variant, value)]),
        None => value,
    }
}

struct Items {
    items: Vec<Value>,
    kind: fn(Vec<Value>) -> Value,
    variant: Option<&'static str>,
    left: usize,
}

impl Items {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.items.push(value.serialize(below(self.left)?)?);
        Ok(())
    }

    fn finish(self) -> Value {
        under(self.variant, (self.kind)(self.items))
    }
}

impl SerializeSeq for Items {
    type Ok = Value;
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }
    fn end(self) -> Result<Value> {
        Ok(self.finish())
    }
}

impl ser::SerializeTuple for Items {
    type Ok = Value;
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }
    fn end(self) -> Result<Value> {
        Ok(self.finish())
    }
}

impl ser::SerializeTupleStruct for Items {
    type Ok = Value;
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }
    fn end(self) -> Result<Value> {
        Ok(self.finish())
    }
}

impl ser::SerializeTupleVariant for Items {
    type Ok = Value;
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.push(value)
    }
    fn end(self) -> Result<Value> {
        Ok(self.finish())
    }
}

struct Pairs {
    map: Map,
    key: Option<Value>,
    variant: Option<&'static str>,
    is_number: bool,
    left: usize,
}

impl Pairs {
    fn finish(self) -> Result<Value> {
        if self.is_number {
            let number = self.map.get(JSON_NUMBER).and_then(Value::as_str).and_then(json::number);
            return number.ok_or_else(|| ser::Error::custom("a number is too large"));
        }
        Ok(under(self.variant, Value::Map(self.map)))
    }
}

impl SerializeMap for Pairs {
    type Ok = Value;
    type Error = Error;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        self.key = Some(key.serialize(below(self.left)?)?);
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        let key = self.key.take().ok_or_else(|| <Error as ser::Error>::custom("a value came before its key"))?;
        self.map.insert(key, value.serialize(below(self.left)?)?);
        Ok(())
    }
    fn end(self) -> Result<Value> {
        self.finish()
    }
}

impl ser::SerializeStruct for Pairs {
    type Ok = Value;
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
        self.map.insert(key, value.serialize(below(self.left)?)?);
        Ok(())
    }
    fn end(self) -> Result<Value> {
        self.finish()
    }
}

impl ser::SerializeStructVariant for Pairs {
    type Ok = Value;
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
        self.map.insert(key, value.serialize(below(self.left)?)?);
        Ok(())
    }
    fn end(self) -> Result<Value> {
        self.finish()
    }
}
