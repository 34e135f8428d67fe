//! Bodies: a [`Value`] that keeps what PyYAML's values keep, and the [`Codec`]s that write and read it.
//!
//! This floor knows no broker and no kiwipy: what a body means is the communicator's.

mod de;
mod form;
mod json;
mod ser;
mod value;
mod yaml;

use crate::error::{Error, ErrorKind, Result};

pub use json::Json;
pub use value::{Map, Tagged, Value};
pub use yaml::Yaml;

/// Writes and reads bodies. A program may bring its own; it is called on the homes of callers and subscribers and on the
/// codec thread, never on the communicator thread.
pub trait Codec: Send + Sync + 'static {
    /// How it is called in logs and errors.
    fn name(&self) -> &'static str;

    /// Writes a value.
    ///
    /// # Errors
    /// `Encode` for one that the format has not, or that passes a limit.
    fn encode(&self, value: &Value) -> Result<Vec<u8>>;

    /// Reads a body.
    ///
    /// # Errors
    /// `Decode`, with the place where it went wrong and none of what stands there.
    fn decode(&self, body: &[u8]) -> Result<Value>;

    /// Says whether a value could be written. By default writes it and drops the result.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn check(&self, value: &Value) -> Result<()> {
        self.encode(value).map(drop)
    }
}

/// How large a body may be. A body comes from others; without limits a small one could take all memory.
///
/// ```
/// use homing::codec::{Limits, Yaml};
/// let yaml = Yaml::with_limits(Limits { max_depth: 20, ..Limits::default() });
/// ```
#[derive(Clone, Debug)]
pub struct Limits {
    /// Of the body. Default 64 MiB.
    pub max_bytes: usize,
    /// How deep lists and mappings may stand within each other. Default 100.
    pub max_depth: usize,
    /// How many values there may be, what aliases stand for counted each time. Default 4 million.
    pub max_nodes: usize,
    /// How many aliases there may be. Default 10,000.
    pub max_aliases: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_bytes: 64 << 20, max_depth: 100, max_nodes: 4_000_000, max_aliases: 10_000 }
    }
}

/// That a value is neither too deep nor too large to be written.
fn check_limits(value: &Value, limits: &Limits) -> Result<()> {
    let mut nodes = 0;
    check_below(value, limits, 0, &mut nodes)
}

fn check_below(value: &Value, limits: &Limits, depth: usize, nodes: &mut usize) -> Result<()> {
    *nodes += 1;
    if *nodes > limits.max_nodes {
        return Err(Error::new(
            ErrorKind::Encode,
            format!("the value has more than {} values in it", limits.max_nodes),
        ));
    }
    let mut below = |value: &Value| {
        if depth >= limits.max_depth {
            return Err(Error::new(ErrorKind::Encode, format!("the value is nested deeper than {}", limits.max_depth)));
        }
        check_below(value, limits, depth + 1, nodes)
    };
    match value {
        Value::List(items) | Value::Tuple(items) => items.iter().try_for_each(below),
        Value::Map(map) | Value::Set(map) => {
            map.iter().try_for_each(|(key, value)| below(key).and_then(|()| below(value)))
        }
        Value::Tagged(tagged) => match &tagged.value {
            Value::Bytes(_) | Value::Timestamp(_) | Value::Tuple(_) | Value::Set(_) | Value::Tagged(_) => {
                let text = format!(
                    "a body has one tag a value: {} cannot stand on bytes, a date, a tuple, a set or another tag; put a list \
                     or a mapping between",
                    tagged.tag
                );
                Err(Error::new(ErrorKind::Encode, text))
            }
            value => below(value),
        },
        _ => Ok(()),
    }
}

fn check_size(bytes: usize, limits: &Limits, kind: ErrorKind) -> Result<()> {
    if bytes <= limits.max_bytes {
        return Ok(());
    }
    Err(Error::new(kind, format!("the body has {bytes} bytes, over the limit of {}", limits.max_bytes)))
}

/// A body as text.
fn text<'a>(body: &'a [u8], limits: &Limits) -> Result<&'a str> {
    check_size(body.len(), limits, ErrorKind::Decode)?;
    std::str::from_utf8(body).map_err(|error| {
        Error::new(ErrorKind::Decode, format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
    })
}
