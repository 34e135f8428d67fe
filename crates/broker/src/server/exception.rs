//! Errors as clients get them: a code and RabbitMQ's words.

use crate::engine::{Field, Object, Problem, Refusal};
use crate::protocol::{ReplyCode, Violation};
use std::fmt::Write;

/// The longest reply text, in bytes.
const LONGEST: usize = 255;

/// What closes a channel or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exception {
    pub(super) code: ReplyCode,
    text: String,
}

pub(super) type Result<T, E = Exception> = std::result::Result<T, E>;

impl Exception {
    pub(super) fn new(code: ReplyCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The name of the code and what is wrong, cut as RabbitMQ cuts it.
    pub(super) fn reply_text(&self) -> String {
        let mut text = self.code.name().to_owned();
        if !self.text.is_empty() {
            text.push_str(" - ");
            text.push_str(&self.text);
        }
        if text.len() > LONGEST {
            let mut end = LONGEST - 3;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push_str("...");
        }
        text
    }

    pub(super) fn not_found(object: Object, name: &str, host: &str) -> Self {
        Self::new(ReplyCode::NotFound, format!("no {} '{name}' in vhost '{host}'", object.as_str()))
    }

    pub(super) fn precondition(text: impl Into<String>) -> Self {
        Self::new(ReplyCode::PreconditionFailed, text)
    }

    /// A refusal of the engine of this virtual host, in RabbitMQ's words.
    pub(super) fn refused(refusal: &Refusal, host: &str) -> Self {
        use ReplyCode::{
            AccessRefused, ChannelError, InternalError, NotAllowed, PreconditionFailed, ResourceError, ResourceLocked,
        };
        match refusal {
            Refusal::NoChannel(_) => Self::new(ChannelError, "expected 'channel.open'"),
            Refusal::ChannelOpen(_) => Self::new(ChannelError, "second 'channel.open' seen"),
            Refusal::NotFound { object, name } => Self::not_found(*object, name, host),
            Refusal::Locked { queue } => Self::new(
                ResourceLocked,
                format!(
                    "cannot obtain exclusive access to locked queue '{queue}' in vhost '{host}'. It could be originally \
                     declared on another connection or the exclusive property value does not match that of the original \
                     declaration."
                ),
            ),
            Refusal::OnlyConsumed { queue } => Self::new(
                ResourceLocked,
                format!(
                    "cannot obtain access to locked queue '{queue}' in vhost '{host}'. basic.get operations are not \
                     supported by quorum queues with single active consumer"
                ),
            ),
            Refusal::Differs { object, name, argument, have, want } => {
                let (received, current) = difference(want.as_ref(), have.as_ref());
                Self::new(
                    PreconditionFailed,
                    format!(
                        "inequivalent arg '{argument}' for {} '{name}' in vhost '{host}': received {received} but current \
                         is {current}",
                        object.as_str()
                    ),
                )
            }
            Refusal::BadArgument { object, name, argument, problem } => {
                Self::new(PreconditionFailed, bad_argument(*object, name, argument, problem, host))
            }
            Refusal::BadProperty { queue, property } => {
                let property = if *property == "exclusive" { "exclusive-owner" } else { property };
                Self::new(
                    PreconditionFailed,
                    format!("invalid property '{property}' for queue '{queue}' in vhost '{host}'"),
                )
            }
            Refusal::InUse { object, name } => {
                Self::new(PreconditionFailed, format!("{} '{name}' in vhost '{host}' in use", object.as_str()))
            }
            Refusal::NotEmpty { queue } => {
                Self::new(PreconditionFailed, format!("queue '{queue}' in vhost '{host}' not empty"))
            }
            Refusal::UnknownDeliveryTag(tag) => Self::new(PreconditionFailed, format!("unknown delivery tag {tag}")),
            Refusal::Reserved { object, name } => {
                Self::new(AccessRefused, format!("{} name '{name}' contains reserved prefix 'amq.*'", object.as_str()))
            }
            Refusal::DefaultExchange => Self::new(AccessRefused, "operation not permitted on the default exchange"),
            Refusal::InternalExchange { name } => {
                Self::new(AccessRefused, format!("cannot publish to internal exchange '{name}' in vhost '{host}'"))
            }
            Refusal::ExclusiveUse { queue } => {
                Self::new(AccessRefused, format!("queue '{queue}' in vhost '{host}' in exclusive use"))
            }
            Refusal::TagTaken(tag) => Self::new(NotAllowed, format!("attempt to reuse consumer tag '{tag}'")),
            Refusal::NoRoom { .. } => Self::new(ResourceError, "no room for more messages"),
            Refusal::NoSession => Self::new(InternalError, ""),
        }
    }
}

impl From<Violation> for Exception {
    fn from(violation: Violation) -> Self {
        Self::new(violation.code(), violation.to_string())
    }
}

/// What was received and what there is, as RabbitMQ prints them: with their types only if one of them is missing.
fn difference(received: Option<&Field>, current: Option<&Field>) -> (String, String) {
    let both = received.is_some() && current.is_some();
    let print = |value: Option<&Field>| match value {
        None => "none".to_owned(),
        Some(value) if both => format!("'{}'", plain(value)),
        Some(value) => format!("the value '{}' of type '{}'", plain(value), value.type_name()),
    };
    (print(received), print(current))
}

/// A value without quotes.
fn plain(value: &Field) -> String {
    match value {
        Field::Void => "undefined".to_owned(),
        Field::Bool(value) => value.to_string(),
        Field::Text(bytes) | Field::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Field::F32(value) => value.to_string(),
        Field::F64(value) => value.to_string(),
        Field::Timestamp(value) => value.to_string(),
        other => other.as_integer().map_or_else(|| other.type_name().to_owned(), |value| value.to_string()),
    }
}

fn bad_argument(object: Object, name: &str, argument: &str, problem: &Problem, host: &str) -> String {
    let mut text = String::new();
    let problem = match problem {
        Problem::NotAnInteger(kind) => format!("\"expected integer, got {kind}\""),
        Problem::UnacceptableType(kind)
            if ["x-dead-letter-exchange", "x-dead-letter-routing-key", "alternate-exchange"].contains(&argument) =>
        {
            return format!(
                "invalid type '{kind}' for arg '{argument}' in {} '{name}' in vhost '{host}'",
                object.as_str()
            );
        }
        Problem::UnacceptableType(kind) => format!("{{unacceptable_type,{kind}}}"),
        Problem::Negative(value) => format!("{{value_negative,{value}}}"),
        Problem::Zero => "{value_zero,0}".to_owned(),
        Problem::TooLarge(value) if argument == "x-max-priority" => format!("{{max_value_exceeded,{value}}}"),
        Problem::TooLarge(value) => format!("{{value_too_large,{value}}}"),
        Problem::UnknownValue(_) if argument == "x-overflow" => "invalid_overflow".to_owned(),
        Problem::UnknownValue(_) if argument == "x-dead-letter-strategy" => "invalid_dlx_strategy".to_owned(),
        Problem::UnknownValue(_) if argument == "x-queue-leader-locator" => "invalid_queue_locator_arg".to_owned(),
        Problem::UnknownValue(value) if argument.starts_with("x-queue-") => {
            let what = argument.trim_start_matches("x-").replace('-', " ");
            format!("\"unsupported {what} '{}'\"", plain(value))
        }
        Problem::UnknownValue(value) => format!("\"unsupported value '{}'\"", plain(value)),
        Problem::KeyWithoutExchange => "routing_key_but_no_dlx_defined".to_owned(),
        Problem::NotForThisType(kind) => {
            return format!(
                "invalid arg '{argument}' for {} '{name}' in vhost '{host}' of queue type rabbit_{kind}_queue",
                object.as_str()
            );
        }
        Problem::UnsupportedQueueType(value) => format!("\"unsupported queue type '{}'\"", plain(value)),
        Problem::UnknownMatch(value) => return unknown_match(value),
    };
    // Writing to a string cannot fail.
    _ = write!(text, "invalid arg '{argument}' for {} '{name}' in vhost '{host}': {problem}", object.as_str());
    text
}

fn unknown_match(value: &Field) -> String {
    match value {
        Field::Text(_) => format!(
            "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
            plain(value)
        ),
        _ => format!("Invalid x-match field type {} (value {}); expected longstr", value.type_name(), plain(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_letters() {
        for before in ["", "a", "ab"] {
            let text = Exception::new(ReplyCode::NotFound, format!("{before}{}", "€".repeat(200))).reply_text();
            assert!(text.len() <= LONGEST && text.len() > LONGEST - 3 && text.ends_with("€..."), "{}", text.len());
        }
        let text = Exception::new(ReplyCode::NotFound, "x".repeat(LONGEST - "NOT_FOUND - ".len())).reply_text();
        assert!(text.len() == LONGEST && text.ends_with('x'), "{text}");
    }
}
