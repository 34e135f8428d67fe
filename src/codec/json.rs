//! JSON, for peers that were given a JSON codec.

use super::{Codec, Limits, Value, check_limits, check_size, form, text};
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
        let body = serde_json::to_vec(&plain(value)?)
            .map_err(|error| Error::with_source(ErrorKind::Encode, format!("JSON: {error}"), error))?;
        check_size(body.len(), &self.limits, ErrorKind::Encode)?;
        Ok(body)
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        let read = serde_json::from_str(text(body, &self.limits)?).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Error::new(ErrorKind::Decode, format!("JSON, line {line} column {column}: it is not JSON from here on"))
        })?;
        let value = form::from_json(&read);
        check_limits(&value, &self.limits).map_err(|error| Error::new(ErrorKind::Decode, error.to_string()))?;
        Ok(value)
    }

    fn check(&self, value: &Value) -> Result<()> {
        check_limits(value, &self.limits)?;
        plain(value).map(drop)
    }
}

fn plain(value: &Value) -> Result<serde_json::Value> {
    use serde_json::Value as Json;
    let refused =
        |what: &str| Error::new(ErrorKind::Encode, format!("JSON has no {what}; use the YAML codec, or another value"));
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::from(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) if value.is_finite() => Json::from(*value),
        Value::Float(_) => return Err(refused("NaN or infinity")),
        Value::BigInt(value) => Json::from(u64::try_from(value).map_err(|_| refused("integer of over 64 bits here"))?),
        Value::String(text) => Json::from(text.as_str()),
        Value::List(items) | Value::Tuple(items) => Json::Array(items.iter().map(plain).collect::<Result<_>>()?),
        Value::Map(map) => {
            let pairs = map.iter().map(|(key, value)| match key.as_str() {
                Some(key) => Ok((key.to_owned(), plain(value)?)),
                None => Err(refused("key that is no text")),
            });
            Json::Object(pairs.collect::<Result<_>>()?)
        }
        Value::Bytes(_) => return Err(refused("bytes")),
        Value::Timestamp(_) => return Err(refused("date or time")),
        Value::Set(_) => return Err(refused("set")),
        Value::Tagged(_) => return Err(refused("tag")),
    })
}
