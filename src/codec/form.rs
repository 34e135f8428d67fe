//! The JSON form of a value: what JSON has not, as a mapping with one key that begins with `$`.
//!
//! It is also how a [`Value`] goes through serde into formats of others.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use num_bigint::BigInt;

use super::value::{Map, Tagged, Value};
use crate::error::{Error, ErrorKind, Result};

/// The same value of JSON's kinds only: null, bool, 64-bit integers, finite floats, texts, lists, mappings of texts.
pub(super) fn form(value: &Value) -> Value {
    let one = |key: &str, value: Value| Value::from_iter([(key, value)]);
    match value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::String(_) => value.clone(),
        Value::Float(float) if float.is_finite() => value.clone(),
        Value::Float(float) if float.is_nan() => one("$float", "nan".into()),
        Value::Float(float) => one("$float", if *float > 0.0 { "inf" } else { "-inf" }.into()),
        Value::BigInt(int) => one("$int", int.to_string().into()),
        Value::Bytes(bytes) => one("$bytes", BASE64.encode(bytes).into()),
        Value::Timestamp(text) => one("$timestamp", text.into()),
        Value::List(items) => Value::List(items.iter().map(form).collect()),
        Value::Tuple(items) => one("$tuple", Value::List(items.iter().map(form).collect())),
        Value::Set(members) => one("$set", Value::List(members.keys().map(form).collect())),
        Value::Tagged(tagged) => Value::from_iter([("$tag", Value::from(&tagged.tag)), ("value", form(&tagged.value))]),
        Value::Map(map) if map.keys().all(|key| key.as_str().is_some_and(|key| !key.starts_with('$'))) => {
            Value::Map(map.iter().map(|(key, value)| (key.clone(), form(value))).collect())
        }
        Value::Map(map) => {
            let pairs = map.iter().map(|(key, value)| Value::List(vec![form(key), form(value)]));
            one("$map", Value::List(pairs.collect()))
        }
    }
}

/// Reads what [`form`] wrote.
pub(super) fn unform(value: Value) -> Result<Value> {
    match value {
        Value::List(items) => items.into_iter().map(unform).collect::<Result<_>>().map(Value::List),
        Value::Map(map) => {
            let special = map.keys().find_map(|key| key.as_str().filter(|key| key.starts_with('$')).map(str::to_owned));
            match special {
                Some(key) => special_form(&key, map),
                None => map
                    .into_iter()
                    .map(|(key, value)| Ok((key, unform(value)?)))
                    .collect::<Result<Vec<_>>>()
                    .map(|pairs| Value::Map(pairs.into_iter().collect())),
            }
        }
        other => Ok(other),
    }
}

fn special_form(key: &str, mut map: Map) -> Result<Value> {
    let bad = |wanted: &str| Error::new(ErrorKind::Decode, format!("the JSON form {{{key:?}: …}} needs {wanted}"));
    let expected = if key == "$tag" { 2 } else { 1 };
    if map.len() != expected {
        return Err(bad(
            "no other keys beside it (a mapping with such a key is written {\"$map\": [[key, value], …]})",
        ));
    }
    let content = map.remove(key).unwrap_or(Value::Null);
    let text = |value: &Value, wanted: &str| value.as_str().map(str::to_owned).ok_or_else(|| bad(wanted));
    let items = |value: Value| match value {
        Value::List(items) => items.into_iter().map(unform).collect::<Result<Vec<_>>>(),
        _ => Err(bad("a list")),
    };
    match key {
        "$tuple" => Ok(Value::Tuple(items(content)?)),
        "$set" => Ok(Value::Set(items(content)?.into_iter().map(|member| (member, Value::Null)).collect())),
        "$bytes" => {
            let wanted = "a text in base64";
            Ok(Value::Bytes(BASE64.decode(text(&content, wanted)?).map_err(|_| bad(wanted))?))
        }
        "$int" => {
            let wanted = "an integer as a text";
            Ok(text(&content, wanted)?.parse::<BigInt>().map_err(|_| bad(wanted))?.into())
        }
        "$float" => match content.as_str() {
            Some("nan") => Ok(Value::Float(f64::NAN)),
            Some("inf") => Ok(Value::Float(f64::INFINITY)),
            Some("-inf") => Ok(Value::Float(f64::NEG_INFINITY)),
            _ => Err(bad("\"nan\", \"inf\" or \"-inf\"")),
        },
        "$timestamp" => Ok(Value::Timestamp(text(&content, "a text")?)),
        "$tag" => {
            let tag = text(&content, "a text such as \"!uuid\"")?;
            if !tag.starts_with('!') || tag == "!" {
                return Err(bad("a tag that begins with !"));
            }
            let value = map.remove("value").ok_or_else(|| bad("the key \"value\" beside it"))?;
            Ok(Value::Tagged(Box::new(Tagged { tag, value: unform(value)? })))
        }
        "$map" => {
            let pairs = items(content)?.into_iter().map(|pair| match pair {
                Value::List(pair) => <[Value; 2]>::try_from(pair).map_err(|_| bad("pairs")),
                _ => Err(bad("pairs")),
            });
            let pairs = pairs.collect::<Result<Vec<_>>>()?;
            Ok(Value::Map(pairs.into_iter().map(|[key, value]| (key, value)).collect()))
        }
        _ => Err(Error::new(
            ErrorKind::Decode,
            format!(
                "{key:?} is no JSON form that is known; a mapping with such a key is written {{\"$map\": [[key, value], …]}}"
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
        // `form` leaves no other kind.
        _ => Json::Null,
    }
}

/// JSON as a value, forms not read.
pub(super) fn from_json(json: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(int), _, _) => Value::Int(int),
            (None, Some(int), _) => Value::from(int),
            (None, None, float) => Value::Float(float.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(map) => map.iter().map(|(key, value)| (key.as_str(), from_json(value))).collect(),
    }
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
