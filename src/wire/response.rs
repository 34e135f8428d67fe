//! The contents of a reply: kiwipy's response mappings (`rmq/utils.py`), written and read.

use crate::codec::{Map, Value};
use crate::error::{Error, ErrorKind, Result};

const CANCELLED: &str = "cancelled";
const EXCEPTION: &str = "exception";
pub(crate) const RESULT: &str = "result";
const PENDING: &str = "pending";
const HOST: &str = "host";
/// A key of our own beside `exception`; kiwipy looks at that one alone.
const DETAILS: &str = "homing-error";

/// How many causes of an error are written and read.
const CHAIN_MOST: usize = 64;

/// What is known of a remote error beside its text. homing's subscribers send it, kiwipy's do not.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Communicator, HandlerError, HandlerResult, RpcRequest, RpcSubscriber};
///
/// let communicator = Communicator::connect("memory:").await?;
/// let pay = RpcSubscriber::closure(|_: RpcRequest| -> HandlerResult<i64> {
///     Err(HandlerError::exception("3 are missing").with_type("InsufficientFunds").with_data(3))
/// });
/// communicator.add_rpc_subscriber("pay", pay).await?;
/// if let Err(error) = communicator.rpc_send("pay", 10).await {
///     assert_eq!(error.remote_text(), Some("3 are missing"));
///     let details = error.remote_details().expect("sent by homing");
///     assert_eq!(details.type_name(), Some("InsufficientFunds"));
///     assert_eq!(details.data().as_i64(), Some(3));
/// }
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ErrorDetails {
    pub(crate) type_name: Option<String>,
    pub(crate) message: String,
    pub(crate) chain: Vec<String>,
    pub(crate) data: Value,
}

impl ErrorDetails {
    /// What kind of error it is, as the other end calls it: a name that its handler chose, or that of its Rust type, which is
    /// for people and may change with the compiler.
    #[must_use]
    pub fn type_name(&self) -> Option<&str> {
        self.type_name.as_deref()
    }

    /// The error's own message, without those of its causes.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The messages of its causes, the nearest first.
    #[must_use]
    pub fn chain(&self) -> &[String] {
        &self.chain
    }

    /// What the handler has added for its caller; null where it added nothing.
    #[must_use]
    pub fn data(&self) -> &Value {
        &self.data
    }

    /// Without its message where that is the text of the exception: errors that go through many hands are long.
    fn into_value(self, text: &str) -> Value {
        let mut map = Map::new();
        if let Some(name) = self.type_name {
            map.insert("type", Value::from(name));
        }
        if self.message != text {
            map.insert("message", Value::from(self.message));
        }
        if !self.chain.is_empty() {
            map.insert("chain", Value::List(self.chain.into_iter().take(CHAIN_MOST).map(Value::from).collect()));
        }
        if self.data != Value::Null {
            map.insert("data", self.data);
        }
        Value::Map(map)
    }

    /// What a peer has sent. Of a wrong shape is only what is not there: the text of the exception is there in any case.
    fn from_value(value: Value, of: &str) -> Option<Self> {
        let Value::Map(mut map) = value else { return None };
        let text = |value: Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        let chain = match map.remove("chain") {
            Some(Value::List(causes)) => causes,
            _ => Vec::new(),
        };
        Some(ErrorDetails {
            type_name: text(map.remove("type")),
            message: text(map.remove("message")).unwrap_or_else(|| of.to_owned()),
            chain: chain.into_iter().take(CHAIN_MOST).filter_map(|cause| text(Some(cause))).collect(),
            data: map.remove("data").unwrap_or(Value::Null),
        })
    }
}

impl Error {
    /// What is known of a remote exception beside [its text](Error::remote_text), where the other end is homing and has sent it.
    #[must_use]
    pub fn remote_details(&self) -> Option<&ErrorDetails> {
        self.attached()
    }
}

/// A reply.
#[derive(Clone, Debug)]
pub(crate) enum Response {
    Cancelled,
    Exception(String, Option<Box<ErrorDetails>>),
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
    /// An exception of which no more is known than its text.
    pub(crate) fn exception(text: impl Into<String>) -> Self {
        Response::Exception(text.into(), None)
    }

    pub(crate) fn into_value(self, host: Host) -> Value {
        let mut further = None;
        let (key, value) = match self {
            Response::Cancelled => (CANCELLED, Value::from("")),
            Response::Exception(text, details) => {
                further = details.map(|details| details.into_value(&text));
                (EXCEPTION, Value::from(text))
            }
            Response::Result(value) => (RESULT, value),
            Response::Pending => (PENDING, Value::Null),
        };
        let mut map = Map::new();
        if host == Host::Named {
            map.insert(HOST, this_host());
        }
        map.insert(key, value);
        if let Some(details) = further {
            map.insert(DETAILS, details);
        }
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
            let text = match exception {
                Value::String(text) => text.to_string(),
                other => other.to_string(),
            };
            let details = map.remove(DETAILS).and_then(|details| ErrorDetails::from_value(details, &text));
            Ok(Response::Exception(text, details.map(Box::new)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn through(response: Response) -> (Value, Response) {
        let value = response.into_value(Host::Unnamed);
        (value.clone(), Response::from_value(value).expect("a response"))
    }

    #[test]
    fn an_exception_is_its_text_and_its_details_stand_beside_it() {
        let details = ErrorDetails {
            type_name: Some("Funds".into()),
            message: "outer".into(),
            chain: vec!["inner".into()],
            data: Value::from(3),
        };
        let (value, read) = through(Response::Exception("outer: inner".into(), Some(Box::new(details.clone()))));
        let Value::Map(map) = &value else { panic!("{value:?}") };
        assert_eq!(map.get(EXCEPTION).and_then(Value::as_str), Some("outer: inner"));
        assert!(matches!(read, Response::Exception(text, Some(read)) if text == "outer: inner" && *read == details));
        // A message that is the text is not written twice.
        let details = ErrorDetails { message: "same".into(), chain: Vec::new(), ..details };
        let (value, read) = through(Response::Exception("same".into(), Some(Box::new(details.clone()))));
        assert_eq!(format!("{value:?}").matches("same").count(), 1, "{value:?}");
        assert!(matches!(read, Response::Exception(_, Some(read)) if *read == details));
        let (value, read) = through(Response::exception("plain"));
        assert!(matches!(&value, Value::Map(map) if map.len() == 1), "{value:?}");
        assert!(matches!(read, Response::Exception(_, None)));
    }

    #[test]
    fn details_of_a_wrong_shape_do_not_cost_the_text() {
        let odd = [Value::Null, Value::from(1), Value::List(vec![]), Value::Map(Map::new())];
        for details in odd {
            let mut map = Map::new();
            map.insert(EXCEPTION, Value::from("text"));
            map.insert(DETAILS, details);
            let read = Response::from_value(Value::Map(map)).expect("an exception");
            assert!(matches!(read, Response::Exception(text, _) if text == "text"));
        }
        let mut map = Map::new();
        map.insert("type", Value::from(1));
        map.insert("chain", Value::List(vec![Value::from("a"), Value::from(2)]));
        let details = ErrorDetails::from_value(Value::Map(map), "text").expect("what can be read");
        assert_eq!(
            (details.type_name(), details.message(), details.chain()),
            (None, "text", ["a".to_owned()].as_slice())
        );
    }
}
