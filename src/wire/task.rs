//! A task's body: `(task, no_reply)`.

use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};

/// Whether the sender of a task waits for its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoReply {
    Yes,
    No,
}

/// Where the pair has the task, as a step of a JSON pointer.
pub(crate) const BODY: &str = "0";

/// The pair that is sent.
pub(crate) fn encode(body: Value, no_reply: NoReply) -> Value {
    Value::Tuple(vec![body, Value::Bool(no_reply == NoReply::Yes)])
}

/// Reads the pair; any sequence of two is one, as for kiwipy.
///
/// # Errors
/// `Decode` for anything else.
pub(crate) fn decode(value: Value) -> Result<(Value, NoReply)> {
    let items = match value {
        Value::Tuple(items) | Value::List(items) => items,
        _ => Vec::new(),
    };
    match <[Value; 2]>::try_from(items) {
        Ok([body, no_reply]) if no_reply.is_truthy() => Ok((body, NoReply::Yes)),
        Ok([body, _]) => Ok((body, NoReply::No)),
        Err(_) => Err(Error::new(
            ErrorKind::Decode,
            "a task's body must be a sequence of two: the task, and whether no reply is wanted",
        )),
    }
}
