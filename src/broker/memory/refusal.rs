//! What the engine refuses, in words, for a call in this process.

use homing_broker::engine::{Field, Refusal};

use crate::broker::differs;
use crate::error::{Error, ErrorKind};

pub(super) fn into_error(refusal: Refusal) -> Error {
    let (kind, message) = match refusal {
        Refusal::NoSession => (ErrorKind::ConnectionLost, "the connection to the broker was lost".to_owned()),
        Refusal::NotFound { object, name } => {
            (ErrorKind::NotFound, format!("there is no {} {name:?} on this broker", object.as_str()))
        }
        Refusal::Locked { queue } => (
            ErrorKind::ResourceLocked,
            format!("the queue {queue:?} is exclusive to another connection, or is shared already"),
        ),
        Refusal::Differs { object, name, argument, have, want } => {
            return differs(object.as_str(), &name, &argument, &written(have.as_ref()), &written(want.as_ref()));
        }
        Refusal::BadArgument { object, name, argument, problem } => (
            ErrorKind::PreconditionFailed,
            format!("the {} {name:?} cannot be declared with this {argument}: {problem:?}", object.as_str()),
        ),
        Refusal::UnknownDeliveryTag(tag) => (
            ErrorKind::PreconditionFailed,
            format!("unknown delivery tag {tag}: nothing is to be acknowledged under it"),
        ),
        Refusal::Reserved { object, name } => (
            ErrorKind::AccessRefused,
            format!(
                "the {} {name:?} belongs to the broker itself; choose a name that does not begin with \"amq.\"",
                object.as_str()
            ),
        ),
        Refusal::DefaultExchange => (
            ErrorKind::AccessRefused,
            "the default exchange belongs to the broker itself: it is neither declared nor bound".to_owned(),
        ),
        Refusal::TagTaken(tag) => {
            (ErrorKind::DuplicateSubscriberIdentifier, format!("a consumer {tag:?} exists on this connection already"))
        }
        Refusal::NoRoom { held, most } => (
            ErrorKind::Full,
            format!(
                "the broker in this process holds {} MiB of messages that nobody has taken, and takes {} MiB: start a \
                 worker for them or delete their queues, or use a broker of its own (homing broker, RabbitMQ)",
                held >> 20,
                most >> 20
            ),
        ),
        // What the trait cannot ask for.
        other => (ErrorKind::PreconditionFailed, format!("the broker refused: {other:?}")),
    };
    Error::new(kind, message)
}

fn written(field: Option<&Field>) -> String {
    match field {
        None => "none".to_owned(),
        Some(Field::Bool(value)) => value.to_string(),
        Some(field) => match (field.as_integer(), field.as_text()) {
            (Some(value), _) => value.to_string(),
            (None, Some(text)) => text.to_owned(),
            (None, None) => format!("{field:?}"),
        },
    }
}
