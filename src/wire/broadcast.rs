//! A broadcast's body: a mapping of four.

use crate::codec::{Map, Value};
use crate::error::{Error, ErrorKind, Result};

/// Where the mapping has the body.
pub(crate) const BODY: &str = "body";

/// What a broadcast holds.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) body: Value,
    pub(crate) sender: Value,
    pub(crate) subject: Value,
    pub(crate) correlation_id: Value,
}

impl Content {
    pub(crate) fn encode(self) -> Value {
        let mut map = Map::new();
        map.insert(BODY, self.body);
        map.insert("correlation_id", self.correlation_id);
        map.insert("sender", self.sender);
        map.insert("subject", self.subject);
        Value::Map(map)
    }

    /// # Errors
    /// `Decode` for what is no mapping or lacks one of the keys.
    pub(crate) fn decode(value: Value) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorKind::Decode, format!("a broadcast that {why}"));
        let Value::Map(mut map) = value else { return Err(bad("is not a mapping")) };
        let mut take = |key: &str| map.remove(key).ok_or_else(|| bad(&format!("lacks the key {key:?}")));
        Ok(Content {
            body: take(BODY)?,
            sender: take("sender")?,
            subject: take("subject")?,
            correlation_id: take("correlation_id")?,
        })
    }
}
