//! JSON, for peers that were given a JSON codec.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, Serializer};

use super::{Codec, Limits, Map, Value, check_limits, check_size, text};
use crate::error::{Error, ErrorKind, Result};

/// Plain JSON, as Python's `json` module writes and reads it, but for NaN and infinities, which JSON has not.
///
/// Tuples are written as lists. What else JSON has not (bytes, sets, tags, keys that are no texts, integers over 64 bits) is an
/// `Encode` error: a peer would not understand a form of ours. On reading, integers over 64 bits become floats.
#[derive(Clone, Debug, Default)]
pub struct Json {
    limits: Limits,
}

impl Json {
    /// With other limits. Depth is 127 at most, whatever they say.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Json { limits }
    }
}

impl Codec for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>> {
        check_limits(value, &self.limits)?;
        writable(value)?;
        let body = serde_json::to_vec(&Outgoing(value))
            .map_err(|error| Error::with_source(ErrorKind::Encode, format!("JSON: {error}"), error))?;
        check_size(body.len(), &self.limits, ErrorKind::Encode)?;
        Ok(body)
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        let Incoming(value) = serde_json::from_str(text(body, &self.limits)?).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::new(ErrorKind::Decode, format!("JSON, line {line} column {column}: it is not JSON from here on"))
        })?;
        check_limits(&value, &self.limits).map_err(|error| Error::new(ErrorKind::Decode, error.to_string()))?;
        Ok(value)
    }

    fn check(&self, value: &Value) -> Result<()> {
        check_limits(value, &self.limits)?;
        writable(value)
    }
}

/// That JSON has everything that is in a value.
fn writable(value: &Value) -> Result<()> {
    let refused =
        |what: &str| Error::new(ErrorKind::Encode, format!("JSON has no {what}; use the YAML codec, or another value"));
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::String(_) => Ok(()),
        Value::Float(value) if value.is_finite() => Ok(()),
        Value::Float(_) => Err(refused("NaN or infinity")),
        Value::BigInt(value) if u64::try_from(value).is_ok() => Ok(()),
        Value::BigInt(_) => Err(refused("integer of over 64 bits here")),
        Value::List(items) | Value::Tuple(items) => items.iter().try_for_each(writable),
        Value::Map(map) => map.iter().try_for_each(|(key, value)| match key {
            Value::String(_) => writable(value),
            _ => Err(refused("key that is no text")),
        }),
        Value::Bytes(_) => Err(refused("bytes")),
        Value::Timestamp(_) => Err(refused("date or time")),
        Value::Set(_) => Err(refused("set")),
        Value::Tagged(_) => Err(refused("tag")),
    }
}

/// A value that is [`writable`], on its way out.
struct Outgoing<'a>(&'a Value);

impl Serialize for Outgoing<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            Value::Bool(value) => to.serialize_bool(*value),
            Value::Int(value) => to.serialize_i64(*value),
            Value::Float(value) => to.serialize_f64(*value),
            Value::BigInt(value) => to.serialize_u64(u64::try_from(value).map_err(S::Error::custom)?),
            Value::String(text) => to.serialize_str(text),
            Value::List(items) | Value::Tuple(items) => to.collect_seq(items.iter().map(Outgoing)),
            Value::Map(map) => to.collect_map(map.iter().map(|(key, value)| (Outgoing(key), Outgoing(value)))),
            Value::Null => to.serialize_unit(),
            other => Err(S::Error::custom(format!("JSON has no form for {other:?}"))),
        }
    }
}

/// A value as it is read, without a tree of serde_json's in between.
struct Incoming(Value);

impl<'de> Deserialize<'de> for Incoming {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(Reader).map(Incoming)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Value, E> {
        Ok(Value::from(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        // No room is made ahead for what a body only announces.
        let mut list = Vec::new();
        while let Some(Incoming(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        // Of a key that comes twice the last value counts, as Python has it.
        while let Some((key, Incoming(value))) = pairs.next_entry::<String, _>()? {
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_in_its_order() {
        let text = r#"{"z":[1,-2,18446744073709551615,1.5,true,null,"\u00e9\n"],"a":{"deep":[[]]},"z2":-0.0}"#;
        let value = Json::default().decode(text.as_bytes()).unwrap();
        let written = Json::default().encode(&value).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), text.replace("\\u00e9", "é"));
        let twice = Json::default().decode(br#"{"a":1,"b":2,"a":3}"#).unwrap();
        assert_eq!(twice, Value::from_iter([("a", Value::from(3)), ("b", Value::from(2))]));
        assert!(matches!(Json::default().decode(b"123456789012345678901234567890").unwrap(), Value::Float(_)));
    }

    #[test]
    fn what_json_has_not_is_refused_wherever_it_stands() {
        let bad = [
            Value::Float(f64::NAN),
            Value::Bytes(vec![1]),
            Value::Timestamp("2020-01-01".into()),
            Value::from_iter([(Value::from(1), Value::from(2))]),
            "123456789012345678901234567890".parse::<num_bigint::BigInt>().unwrap().into(),
        ];
        for bad in bad {
            for value in [bad.clone(), Value::List(vec![bad.clone()]), Value::from_iter([("key", bad.clone())])] {
                let error = Json::default().encode(&value).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Encode);
                assert!(error.to_string().contains("JSON has no"), "{error}");
                assert_eq!(Json::default().check(&value).unwrap_err().to_string(), error.to_string());
            }
        }
    }

    #[test]
    fn what_is_no_json_says_where() {
        for text in ["", "{", "[1,", "{\"a\" 1}", "nul", "[1] 2", "\u{feff}1", &"[".repeat(200)] {
            let error = Json::default().decode(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{text}");
            assert!(error.to_string().contains("line 1 column"), "{error}");
        }
    }
}
