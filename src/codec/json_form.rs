//! The JSON form of a value: what JSON cannot represent becomes a mapping with one key that begins with `$`.
//!
//! A [`Value`] is also serialized to other formats in this form.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use num_bigint::BigInt;

use super::value::{Map, Tagged, Value, fits_digits};
use super::{json, yaml};
use crate::error::{Error, ErrorKind, Result};

/// The same value of JSON's kinds only: null, bool, 64-bit integers, finite floats, strings, lists, mappings with string keys.
pub(super) fn encode(value: &Value) -> Value {
    let one = |key: &str, value: Value| Value::from_iter([(key, value)]);
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::String(_) => value.clone(),
        Value::Float(float) if float.is_finite() => value.clone(),
        Value::Float(float) if float.is_nan() => one("$float", "nan".into()),
        Value::Float(float) => one("$float", if *float > 0.0 { "inf" } else { "-inf" }.into()),
        Value::BigInt(int) if fits_digits(int) => one("$int", int.to_string().into()),
        // Decimal digits would take time with the square of their number.
        Value::BigInt(int) => one("$int", format!("{int:#x}").into()),
        Value::Bytes(bytes) => one("$bytes", BASE64.encode(bytes).into()),
        Value::Timestamp(text) => one("$timestamp", text.into()),
        Value::List(items) => Value::List(items.iter().map(encode).collect()),
        Value::Tuple(items) => one("$tuple", Value::List(items.iter().map(encode).collect())),
        Value::Set(members) => one("$set", Value::List(members.keys().map(encode).collect())),
        Value::Opaque(object) => one("$opaque", object.type_name().into()),
        Value::Tagged(tagged) => {
            Value::from_iter([("$tag", Value::from(&tagged.tag)), ("value", encode(&tagged.value))])
        }
        Value::Map(map) if map.keys().all(|key| key.as_str().is_some_and(|key| !key.starts_with('$'))) => {
            Value::Map(map.iter().map(|(key, value)| (key.clone(), encode(value))).collect())
        }
        Value::Map(map) => {
            let pairs = map.iter().map(|(key, value)| Value::List(vec![encode(key), encode(value)]));
            one("$map", Value::List(pairs.collect()))
        }
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(value: Value) -> Result<Value> {
    match value {
        Value::List(items) => items.into_iter().map(decode).collect::<Result<_>>().map(Value::List),
        Value::Map(map) => {
            let mark = map.keys().find_map(|key| key.as_str().filter(|key| key.starts_with('$')).map(str::to_owned));
            match mark {
                Some(key) => special(&key, map),
                None => map
                    .into_iter()
                    .map(|(key, value)| Ok((key, decode(value)?)))
                    .collect::<Result<Vec<_>>>()
                    .map(|pairs| Value::Map(pairs.into_iter().collect())),
            }
        }
        other => Ok(other),
    }
}

fn bad(key: &str, wanted: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("{{{key:?}: …}} needs {wanted}"))
}

/// What a mapping with a mark stands for. What holds no other values is read by [`plain`], so that the recursion takes little
/// stack for each level.
fn special(key: &str, mut map: Map) -> Result<Value> {
    let expected = if key == "$tag" { 2 } else { 1 };
    if map.len() != expected {
        return Err(bad(
            key,
            "no other keys beside it (a mapping with such a key is written {\"$map\": [[key, value], …]})",
        ));
    }
    let content = map.remove(key).unwrap_or(Value::Null);
    match key {
        "$tuple" => items(key, content).map(Value::Tuple),
        "$set" => Ok(Value::Set(items(key, content)?.into_iter().map(|member| (member, Value::Null)).collect())),
        "$tag" => tagged(key, &content, map),
        "$map" => pairs(key, content),
        _ => plain(key, &content),
    }
}

fn items(key: &str, content: Value) -> Result<Vec<Value>> {
    let Value::List(items) = content else { return Err(bad(key, "a list")) };
    items.into_iter().map(decode).collect()
}

fn tagged(key: &str, tag: &Value, mut map: Map) -> Result<Value> {
    let tag = string(key, tag, "a string such as \"!uuid\"")?;
    if !tag.starts_with('!') || tag == "!" {
        return Err(bad(key, "a tag that begins with !"));
    }
    let value = map.remove("value").ok_or_else(|| bad(key, "the key \"value\" beside it"))?;
    Ok(Value::Tagged(Box::new(Tagged { tag, value: decode(value)? })))
}

fn pairs(key: &str, content: Value) -> Result<Value> {
    let pairs = items(key, content)?.into_iter().map(|pair| match pair {
        Value::List(pair) => <[Value; 2]>::try_from(pair).map_err(|_| bad(key, "pairs")),
        _ => Err(bad(key, "pairs")),
    });
    let pairs = pairs.collect::<Result<Vec<_>>>()?;
    Ok(Value::Map(pairs.into_iter().map(|[key, value]| (key, value)).collect()))
}

fn string(key: &str, value: &Value, wanted: &str) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| bad(key, wanted))
}

fn plain(key: &str, content: &Value) -> Result<Value> {
    match key {
        "$bytes" => {
            let wanted = "a string in base64";
            Ok(Value::Bytes(BASE64.decode(string(key, content, wanted)?).map_err(|_| bad(key, wanted))?))
        }
        "$int" => {
            let wanted = "an integer as a string";
            Ok(int(&string(key, content, wanted)?).ok_or_else(|| bad(key, wanted))?.into())
        }
        "$float" => match content.as_str() {
            Some("nan") => Ok(Value::Float(f64::NAN)),
            Some("inf") => Ok(Value::Float(f64::INFINITY)),
            Some("-inf") => Ok(Value::Float(f64::NEG_INFINITY)),
            _ => Err(bad(key, "\"nan\", \"inf\" or \"-inf\"")),
        },
        "$timestamp" => {
            let time = string(key, content, "a string")?;
            yaml::check_timestamp(&time).map_err(|wanted| bad(key, wanted))?;
            Ok(Value::Timestamp(time))
        }
        _ => Err(Error::new(
            ErrorKind::Decode,
            format!(
                "a key that begins with $ stands for a value of its own, and {key:?} for none; a mapping with such a key is written {{\"$map\": [[key, value], …]}}"
            ),
        )),
    }
}

/// A value of JSON's kinds, as JSON.
pub(super) fn to_json(value: &Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) => Json::from(*value),
        Value::String(text) => Json::from(text.as_str()),
        Value::List(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Map(map) => {
            let pairs = map.iter().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), to_json(value))));
            Json::Object(pairs.collect())
        }
        // `encode` leaves no other kind.
        _ => Json::Null,
    }
}

/// JSON as nothing but data.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(value) => number(value),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(map) => map.iter().map(|(key, value)| (key.as_str(), from_json(value))).collect(),
    }
}

/// The same, without a copy of its strings.
pub(super) fn from_json_owned(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::List(items.into_iter().map(from_json_owned).collect()),
        Json::Object(map) => map.into_iter().map(|(key, value)| (key, from_json_owned(value))).collect(),
        other => from_json(&other),
    }
}

fn number(number: &serde_json::Number) -> Value {
    if let Some(int) = number.as_i64() {
        return Value::Int(int);
    }
    // With `arbitrary_precision` the text has more digits than any of the types.
    json::number(&number.to_string()).unwrap_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)))
}

/// An integer in decimal digits, or in hexadecimal ones behind `0x`.
fn int(text: &str) -> Option<BigInt> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match digits.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (digits, 10),
    };
    if digits.is_empty()
        || !digits.chars().all(|digit| digit.is_digit(radix))
        || (radix == 10 && digits.len() > super::value::MAX_DIGITS)
    {
        return None;
    }
    let magnitude = BigInt::parse_bytes(digits.as_bytes(), radix)?;
    Some(if negative { -magnitude } else { magnitude })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_the_same() {
        let values = vec![
            Value::Null,
            Value::Tuple(vec![Value::Set([(Value::from(1), Value::Null)].into_iter().collect())]),
            Value::Bytes(vec![0, 255]),
            Value::Float(f64::NEG_INFINITY),
            "123456789012345678901234567890".parse::<BigInt>().unwrap().into(),
            Value::Timestamp("2020-01-01".into()),
            Value::from_iter([(Value::from(1), Value::from(2))]),
            Value::from_iter([("$tuple", Value::from(1))]),
            Value::Tagged(Box::new(Tagged { tag: "!uuid".into(), value: Value::from("x") })),
            Value::from(u64::MAX),
        ];
        for value in values.iter().chain([&Value::List(values.clone())]) {
            let json = serde_json::from_str(&value.to_json_text()).unwrap();
            assert_eq!(&Value::from_json(&json).unwrap(), value);
        }
    }

    #[test]
    fn an_impossible_form_is_an_error() {
        for text in [
            r#"{"$bytes": 1}"#,
            r#"{"$int": "x"}"#,
            r#"{"$tag": "!x"}"#,
            r#"{"$tag": "x", "value": 1}"#,
            r#"{"$map": [[1]]}"#,
            r#"{"$what": 1}"#,
            r#"{"$tuple": [], "more": 1}"#,
        ] {
            let json = serde_json::from_str(text).unwrap();
            assert_eq!(Value::from_json(&json).unwrap_err().kind(), ErrorKind::Decode, "{text}");
        }
    }
}
