//! YAML 1.1 as PyYAML writes and reads it, kiwipy's default codec.

mod parse;
mod pretty;
mod read;
mod resolve;
mod scan;
mod tags;
mod write;

use std::collections::HashSet;

use super::value::MAX_DEPTH;
use super::{Codec, Limits, Map, Value, check_size, check_value};
use crate::error::{Error, ErrorKind, Result};

pub(super) use pretty::pretty;
pub(super) use read::decode;

/// kiwipy's own codec: PyYAML's `FullLoader` reads what it writes as the equal value, and it reads what PyYAML writes. Tags
/// of an application are carried; nothing is constructed from them.
///
/// **Reading.** A body is UTF-8, or UTF-16 behind a byte order mark. Every text is read as `FullLoader` reads it, or is a
/// decode error. An error is also what follows: a value that contains itself; a lone surrogate (an escape `"\ud800"` without
/// its other half), which Python's strings can hold and these cannot. Two escapes for the two halves of a character are read
/// as that character, as in JSON. Of an object that stands in a body several times, each place has a copy.
///
/// **Writing.** What `FullLoader` could not construct is an encode error that names the place: a date that does not exist, an
/// unhashable key, two keys that are equal in Python (`1`, `1.0` and `True`), an integer tag on a string. A peer reads an
/// application's own tag only if its loader knows it. A scalar under such a tag has no kind in YAML: `!x 5` is read as `!x "5"`.
///
/// # Examples
///
/// ```
/// use homing::codec::{Codec, Yaml};
///
/// let yaml = Yaml::default();
/// let value = yaml.decode(b"!!python/tuple\n- {task: continue, args: {pid: 4}}\n- false\n")?;
/// assert_eq!(yaml.encode(&value)?, br#"!!python/tuple [{"task": "continue", "args": {"pid": 4}}, false]"#);
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Yaml {
    limits: Limits,
}

impl Yaml {
    /// A codec with these limits. The depth is 200 at most.
    #[must_use]
    pub fn with_limits(mut limits: Limits) -> Self {
        limits.max_depth = limits.max_depth.min(MAX_DEPTH);
        Yaml { limits }
    }
}

impl Codec for Yaml {
    fn name(&self) -> &'static str {
        "yaml"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>> {
        self.check(value)?;
        let mut out = String::with_capacity(128);
        write::write(&mut out, value);
        check_size(out.len(), &self.limits, ErrorKind::Encode)?;
        Ok(out.into_bytes())
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        read::read(body, &self.limits)
    }

    fn check(&self, value: &Value) -> Result<()> {
        check_value(value, &self.limits, &mut constructible)
    }

    /// What is under a tag, and the tag, as a reader gets them: a scalar under one has no kind, and a tag may be written in several ways.
    fn pass(&self, value: Value) -> Result<Value> {
        let mut is_read_otherwise = false;
        check_value(&value, &self.limits, &mut |part| {
            if let Value::Tagged(tagged) = part {
                is_read_otherwise |= !tags::is_read_as_written(&tagged.tag, &tagged.value);
            }
            constructible(part)
        })?;
        if !is_read_otherwise {
            return Ok(value);
        }
        let text = self.encode(&value)?;
        self.decode(&text).map_err(|error| Error::new(ErrorKind::Encode, error.to_string()))
    }
}

/// That PyYAML makes a date or a time of a text.
pub(super) fn check_timestamp(text: &str) -> Result<(), &'static str> {
    resolve::check_timestamp(text)
}

/// That PyYAML constructs a value, apart from what is inside it.
fn constructible(value: &Value) -> Result<(), String> {
    match value {
        Value::Timestamp(text) => resolve::check_timestamp(text).map_err(str::to_owned),
        Value::Tagged(tagged) => tags::check(&tagged.tag, &tagged.value)
            .map_err(|why| format!("a value of type Tagged cannot be sent: {why}")),
        Value::Map(map) | Value::Set(map) => keys(map),
        _ => Ok(()),
    }
}

/// That Python can have these keys, each of them once.
fn keys(map: &Map) -> Result<(), String> {
    let mut known = HashSet::new();
    for key in map.keys().filter(|key| !matches!(key, Value::String(_))) {
        if let Some(kind) = resolve::unhashable(key) {
            return Err(format!("a {kind} is a key, which Python cannot have"));
        }
        if let Some(canonical) = resolve::key_of(key)
            && !known.insert(canonical)
        {
            return Err("two keys are equal in Python, as 1, 1.0 and True are".to_owned());
        }
    }
    Ok(())
}
