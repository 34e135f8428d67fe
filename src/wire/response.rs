//! The contents of a reply: kiwipy's response mappings (`rmq/utils.py`), written and read.

use crate::codec::{Map, Value};
use crate::error::{Error, ErrorKind, Result};

const CANCELLED: &str = "cancelled";
const EXCEPTION: &str = "exception";
const RESULT: &str = "result";
const PENDING: &str = "pending";
const HOST: &str = "host";

/// A reply.
#[derive(Clone, Debug)]
pub(crate) enum Response {
    Cancelled,
    Exception(String),
    Result(Value),
    /// Another reply to the same request will follow.
    Pending,
}

/// Whether a reply names its host. kiwipy's replies to tasks do, those to calls do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Named,
    Unnamed,
}

impl Response {
    pub(crate) fn into_value(self, host: Host) -> Value {
        let (key, value) = match self {
            Response::Cancelled => (CANCELLED, Value::from("")),
            Response::Exception(text) => (EXCEPTION, Value::from(text)),
            Response::Result(value) => (RESULT, value),
            Response::Pending => (PENDING, Value::Null),
        };
        let mut map = Map::new();
        if host == Host::Named {
            map.insert(HOST, this_host());
        }
        map.insert(key, value);
        Value::Map(map)
    }

    /// Reads a reply. Where several keys stand, the first of cancelled, exception, result, pending counts; others are
    /// ignored.
    ///
    /// # Errors
    /// `Decode` for a value that is no mapping or has none of the keys; kiwipy's callers hang on these.
    pub(crate) fn from_value(value: Value) -> Result<Self> {
        let Value::Map(mut map) = value else {
            return Err(Error::new(
                ErrorKind::Decode,
                "the reply is not a mapping; the peer does not speak kiwipy's format",
            ));
        };
        if map.contains_key(CANCELLED) {
            Ok(Response::Cancelled)
        } else if let Some(exception) = map.remove(EXCEPTION) {
            Ok(Response::Exception(match exception {
                Value::String(text) => text.to_string(),
                other => other.to_string(),
            }))
        } else if let Some(result) = map.remove(RESULT) {
            Ok(Response::Result(result))
        } else if map.contains_key(PENDING) {
            Ok(Response::Pending)
        } else {
            Err(Error::new(
                ErrorKind::Decode,
                "the reply has none of the keys cancelled, exception, result and pending; the peer does not speak kiwipy's \
                 format",
            ))
        }
    }
}

fn this_host() -> Value {
    let mut host = Map::new();
    host.insert("hostname", Value::from(hostname()));
    host.insert("pid", Value::from(i64::from(std::process::id())));
    Value::Map(host)
}

fn hostname() -> &'static str {
    static NAME: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let name = name.or_else(|| std::env::var("HOSTNAME").ok());
        name.map_or_else(|| "unknown".to_owned(), |name| name.trim().to_owned())
    })
}
