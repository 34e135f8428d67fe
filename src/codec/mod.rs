//! Bodies: a [`Value`] that keeps what PyYAML's values keep, and the [`Codec`]s that write and read it.
//!
//! This layer knows no broker and no kiwipy: what a body means is the communicator's business.

mod de;
mod depth;
mod json;
mod json_form;
mod opaque;
mod ser;
mod value;
mod yaml;

use crate::error::{Error, ErrorKind, Part, Result};

pub(crate) use ser::TOO_DEEP;

pub use json::Json;
pub use opaque::Opaque;
pub use value::{Map, Tagged, Value};
pub use yaml::Yaml;

/// Writes and reads bodies. A program may bring its own codec; it is called on the homes of callers and subscribers and on
/// the codec thread, never on the communicator thread.
///
/// What it is given is the whole body as kiwipy has it: of a call its argument, of a task the pair `(task, no_reply)`, of a
/// broadcast and of a reply a mapping. A codec that reads objects of its own as [`Value::Opaque`] keeps these outermost
/// containers values.
pub trait Codec: Send + Sync + 'static {
    /// The codec's name in logs and errors.
    fn name(&self) -> &'static str;

    /// Where it may be called. Asked once, as a communicator connects.
    fn place(&self) -> CodecPlace {
        CodecPlace::Anywhere
    }

    /// Writes a value.
    ///
    /// # Errors
    /// `Encode` for a value that the format cannot represent, or that exceeds a limit. The error names the place.
    fn encode(&self, value: &Value) -> Result<Vec<u8>>;

    /// Reads a body.
    ///
    /// # Errors
    /// `Decode`, with the place of the fault. The error does not repeat the text.
    fn decode(&self, body: &[u8]) -> Result<Value>;

    /// Checks that a value can be written. The default writes it and drops the result.
    ///
    /// # Errors
    /// The same as [`encode`](Self::encode).
    fn check(&self, value: &Value) -> Result<()> {
        self.encode(value).map(drop)
    }

    /// Checks that a value can be written, and returns it as the reader of its body would get it: for a broker in this process, which
    /// passes values. The default returns it as it is; a codec whose format loses something, such as which lists were tuples, brings
    /// its own, so that receivers get the same from every broker. Where the value that it returns has an object of the program's own in
    /// it, that value is written by [`encode`](Self::encode) instead.
    ///
    /// # Errors
    /// The same as [`check`](Self::check).
    fn pass(&self, value: Value) -> Result<Value> {
        self.check(&value).map(|()| value)
    }
}

/// Where a codec may be called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CodecPlace {
    /// At homes and on the codec thread, where a broadcast is read once for all subscribers.
    #[default]
    Anywhere,
    /// Only at homes: for a codec that needs what a thread of homing's own has not, such as an interpreter. A broadcast is then read
    /// by each subscriber, before its filter; and the answer to a call whose subscriber is gone is written as the
    /// communicator connects, where its caller is.
    HomesOnly,
}

/// How large a body may be. A body comes from others; without limits a small one could take all memory.
///
/// ```
/// use homing::codec::{Limits, Yaml};
/// let mut limits = Limits::default();
/// limits.max_depth = 20;
/// let yaml = Yaml::with_limits(limits);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of a body. Default 64 MiB.
    pub max_bytes: usize,
    /// How many lists, mappings and tags may stand within each other, the empty ones included. Default 100; 200 at most.
    pub max_depth: usize,
    /// Values in a body; what an alias stands for counts each time. Default 4 million.
    pub max_nodes: usize,
    /// Aliases in a body. Default 10,000.
    pub max_aliases: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_bytes: 64 << 20, max_depth: 100, max_nodes: 4_000_000, max_aliases: 10_000 }
    }
}

/// Reads what a person typed or a program printed: JSON if the whole text is JSON, YAML otherwise.
///
/// A JSON text may have the forms of [`Value::to_json`], and its numbers keep all their digits. So `1e22` is a number, alone
/// as well as in `[1e22]`, while `{n: 1e22}` is YAML 1.1, where it is a string.
///
/// ```
/// use homing::Value;
/// use homing::codec::parse_text;
///
/// assert_eq!(parse_text(b"1e22")?, Value::from(1e22));
/// assert_eq!(parse_text(b"{pid: 4}")?, Value::from_iter([("pid", 4)]));
/// assert_eq!(parse_text(br#"{"$tuple": [1]}"#)?, Value::Tuple(vec![1.into()]));
/// # Ok::<(), homing::Error>(())
/// ```
///
/// # Errors
/// `Decode`, with the place of the fault.
pub fn parse_text(text: &[u8]) -> Result<Value> {
    let limits = Limits::default();
    check_size(text.len(), &limits, ErrorKind::Decode)?;
    let text = yaml::decode(text)?;
    match json::read(text.strip_prefix('\u{feff}').unwrap_or(&text), &limits) {
        Ok(value) => json_form::decode(value),
        Err(fault) if fault.is_json => Err(fault.into_error()),
        Err(_) => Yaml::default().decode(text.as_bytes()),
    }
}

/// Checks that a value is neither too deep nor too large to be written, and each value in it by `inspect`, which answers with
/// the reason for a refusal. The error names the place as a JSON pointer (RFC 6901).
fn check_value(value: &Value, limits: &Limits, inspect: &mut dyn FnMut(&Value) -> Result<(), String>) -> Result<()> {
    let mut walk = Walk { limits, nodes: 0, inspect };
    walk.check(value, 0).map_err(|refusal| {
        let steps = refusal.steps.into_iter().rev().collect();
        Error::unwritable(Part { why: refusal.why, steps })
    })
}

struct Walk<'a> {
    limits: &'a Limits,
    nodes: usize,
    inspect: &'a mut dyn FnMut(&Value) -> Result<(), String>,
}

/// Why a value is refused, and the way to it from the inside out.
struct Refusal {
    why: String,
    steps: Vec<String>,
}

impl Refusal {
    fn below(mut self: Box<Self>, step: impl FnOnce() -> String) -> Box<Self> {
        self.steps.push(step());
        self
    }
}

type Checked = Result<(), Box<Refusal>>;

impl Walk<'_> {
    fn check(&mut self, value: &Value, depth: usize) -> Checked {
        let refused = |why: String| Err(Box::new(Refusal { why, steps: Vec::new() }));
        self.nodes += 1;
        if self.nodes > self.limits.max_nodes {
            return refused(format!("the value has more than {} values in it", self.limits.max_nodes));
        }
        // As a reader counts: those that may hold something.
        if depth >= self.limits.max_depth && value.holds_values() {
            return refused(format!("the value is nested deeper than {}", self.limits.max_depth));
        }
        if let Err(why) = (self.inspect)(value) {
            return refused(why);
        }
        match value {
            Value::List(items) | Value::Tuple(items) => items.iter().enumerate().try_for_each(|(index, item)| {
                self.check(item, depth + 1).map_err(|refusal| refusal.below(|| index.to_string()))
            }),
            Value::Map(map) | Value::Set(map) => map.iter().try_for_each(|(key, value)| {
                self.check(key, depth + 1).map_err(|refusal| refusal.below(|| step(key)))?;
                self.check(value, depth + 1).map_err(|refusal| refusal.below(|| step(key)))
            }),
            Value::Tagged(tagged) => self.check(&tagged.value, depth + 1),
            Value::Opaque(object) => refused(format!(
                "an object of the program's own type {} can be written by a codec of its own only",
                object.type_name()
            )),
            _ => Ok(()),
        }
    }
}

/// A key in a JSON pointer, cut where it is long.
fn step(key: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match key {
        Value::String(text) => text.chars().take(LONGEST + 1).collect(),
        Value::List(_) | Value::Tuple(_) | Value::Set(_) | Value::Map(_) | Value::Tagged(_) => "(key)".to_owned(),
        key => key.to_json_text().chars().take(LONGEST + 1).collect::<String>(),
    };
    let text: String = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    text.replace('~', "~0").replace('/', "~1")
}

fn check_size(bytes: usize, limits: &Limits, kind: ErrorKind) -> Result<()> {
    if bytes <= limits.max_bytes {
        return Ok(());
    }
    Err(Error::new(kind, format!("the body has {bytes} bytes, over the limit of {}", limits.max_bytes)))
}

/// A body that is UTF-8.
fn utf8(body: &[u8]) -> Result<&str> {
    std::str::from_utf8(body).map_err(|error| {
        Error::new(ErrorKind::Decode, format!("the body is not UTF-8 at byte {}", error.valid_up_to()))
    })
}
