//! What the engine refuses, and why: data, so that each front (a call in the process, a protocol) puts it into its own words.

use std::sync::Arc;

use crate::broker::differs;
use crate::error::{Error, ErrorKind};

/// A request that was refused. Comments name the reply code of AMQP 0-9-1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The session has ended.
    NoSession,
    /// 404.
    NoQueue(String),
    /// 404.
    NoExchange(String),
    /// 405: the queue is exclusive to another session, or is not declared as exclusive as it is.
    Locked { queue: String },
    /// 406: it exists with another argument.
    Differs { object: &'static str, name: String, argument: &'static str, have: String, want: String },
    /// 406: an argument that cannot be.
    BadArgument { queue: String, argument: &'static str },
    /// 406: nothing is out under this delivery tag.
    UnknownDeliveryTag(u64),
    /// 403: names that begin with `amq.`, and the default exchange, are the broker's own.
    Reserved { object: &'static str, name: String },
    /// 530: the tag names a consumer of this session already.
    TagTaken(Arc<str>),
}

impl Refusal {
    /// In words, for a call in this process. (Not a `From`: a second one for [`Error`] would leave `?` undecided elsewhere.)
    pub(crate) fn into_error(self) -> Error {
        let missing = |what, name| (ErrorKind::NotFound, format!("there is no {what} {name:?} on this broker"));
        let (kind, message) = match self {
            Refusal::NoSession => (ErrorKind::ConnectionLost, "the connection to the broker was lost".to_owned()),
            Refusal::NoQueue(name) => missing("queue", name),
            Refusal::NoExchange(name) => missing("exchange", name),
            Refusal::Locked { queue } => {
                let message = format!("the queue {queue:?} is exclusive to another connection, or is shared already");
                (ErrorKind::ResourceLocked, message)
            }
            Refusal::Differs { object, name, argument, have, want } => {
                return differs(object, &name, argument, &have, &want);
            }
            Refusal::BadArgument { queue, argument } => (
                ErrorKind::PreconditionFailed,
                format!("the queue {queue:?} cannot be declared with {argument} = 0; leave it out or make it longer"),
            ),
            Refusal::UnknownDeliveryTag(tag) => (
                ErrorKind::PreconditionFailed,
                format!("unknown delivery tag {tag}: nothing is to be acknowledged under it"),
            ),
            Refusal::Reserved { object, name } => (
                ErrorKind::AccessRefused,
                format!(
                    "the {object} {name:?} belongs to the broker itself; choose a name that does not begin with \"amq.\""
                ),
            ),
            Refusal::TagTaken(tag) => (
                ErrorKind::DuplicateSubscriberIdentifier,
                format!("a consumer {tag:?} exists on this connection already"),
            ),
        };
        Error::new(kind, message)
    }
}
