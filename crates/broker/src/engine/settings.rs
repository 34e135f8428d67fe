//! What a queue's arguments mean, and which cannot be. Facts of RabbitMQ 3.10: `rabbit_amqqueue`, `rabbit_classic_queue` and
//! `rabbit_quorum_queue`.

use std::sync::Arc;
use std::time::Duration;

use super::field::{Arguments, Field};
use super::refusal::{Object, Problem, Refusal};
use super::spec::{Access, AutoDelete, Durability, QueueSpec};

/// A queue's arguments, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) kind: QueueKind,
    /// How long a message may wait.
    pub(super) message_ttl: Option<Duration>,
    /// How long the queue lives without a consumer, a get or a declaration.
    pub(super) expires: Option<Duration>,
    /// How many messages may wait.
    pub(super) max_length: Option<usize>,
    /// How many bytes their bodies may have.
    pub(super) max_bytes: Option<usize>,
    pub(super) overflow: Overflow,
    pub(super) dead_letters: Option<DeadLetters>,
    /// How many levels of priority there are above 0.
    pub(super) priorities: Option<u8>,
    pub(super) activity: Activity,
    /// How often a message may come back before it is dead-lettered.
    pub(super) delivery_limit: Option<u32>,
}

/// RabbitMQ's types of queues. Here both are kept by one node; they differ in what they accept and count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum QueueKind {
    #[default]
    Classic,
    Quorum,
}

impl QueueKind {
    fn as_str(self) -> &'static str {
        match self {
            QueueKind::Classic => "classic",
            QueueKind::Quorum => "quorum",
        }
    }
}

/// What happens to a message that a full queue has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Overflow {
    /// It comes in, and the oldest goes.
    #[default]
    DropHead,
    /// It is refused.
    Reject,
    /// It is refused and dead-lettered.
    RejectAndBury,
}

/// How many of a queue's consumers are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    /// All.
    #[default]
    All,
    /// One, and the next when it ends.
    Single,
}

/// Where the messages go that die in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeadLetters {
    pub(super) exchange: Arc<str>,
    /// `None`: they keep their keys.
    pub(super) key: Option<Arc<str>>,
}

/// RabbitMQ has no longer times: ten years.
const LONGEST: i64 = 315_360_000_000;

/// The arguments that two declarations are compared by, in the order of a classic queue.
const COMPARED: [&str; 14] = [
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
];

/// The same in the order of a quorum queue.
const COMPARED_QUORUM: [&str; 15] = [
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-overflow",
    "x-single-active-consumer",
    "x-queue-type",
    "x-quorum-initial-group-size",
    "x-delivery-limit",
    "x-message-ttl",
    "x-queue-leader-locator",
];

const ONLY_CLASSIC: [&str; 4] = ["x-max-priority", "x-queue-mode", "x-queue-version", "x-queue-master-locator"];
const ONLY_QUORUM: [&str; 6] = [
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-queue-leader-locator",
    "x-quorum-initial-group-size",
];
const ONLY_STREAM: [&str; 3] = ["x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size"];

impl Settings {
    #[cfg(test)]
    pub(super) fn has_limit(&self) -> bool {
        self.max_length.is_some() || self.max_bytes.is_some()
    }

    pub(super) fn of(spec: &QueueSpec) -> Result<Self, Refusal> {
        let arguments = &spec.arguments;
        let refuse = |(argument, problem): (&str, Problem)| Refusal::BadArgument {
            object: Object::Queue,
            name: Arc::clone(&spec.name),
            argument: argument.into(),
            problem,
        };
        let kind = kind(arguments).map_err(refuse)?;
        let foreign: &[&str] = match kind {
            QueueKind::Classic => &ONLY_QUORUM,
            QueueKind::Quorum => &ONLY_CLASSIC,
        };
        let is_foreign = |name: &str| foreign.contains(&name) || ONLY_STREAM.contains(&name);
        // As in RabbitMQ, what queues of this type do not know is refused after the values of what they know, unread.
        let settings = match arguments.iter().find(|(name, _)| is_foreign(name)) {
            None => Settings::read(kind, arguments).map_err(refuse)?,
            Some((name, _)) => {
                let known = arguments.iter().filter(|(name, _)| !is_foreign(name));
                let known = known.map(|(name, field)| (Arc::clone(name), field.clone())).collect();
                Settings::read(kind, &known).map_err(refuse)?;
                return Err(refuse((name, Problem::NotForThisType(kind.as_str()))));
            }
        };
        if kind == QueueKind::Quorum {
            let property = match (spec.auto_delete, spec.access, spec.durability) {
                (AutoDelete::Yes, ..) => Some("auto-delete"),
                (_, Access::Exclusive, _) => Some("exclusive"),
                (.., Durability::Transient) => Some("non-durable"),
                _ => None,
            };
            if let Some(property) = property {
                return Err(Refusal::BadProperty { queue: Arc::clone(&spec.name), property });
            }
        }
        Ok(settings)
    }

    fn read(kind: QueueKind, arguments: &Arguments) -> Result<Self, (&'static str, Problem)> {
        let expires = time(arguments, "x-expires")?;
        if expires.is_some_and(|expires| expires.is_zero()) {
            return Err(("x-expires", Problem::Zero));
        }
        let message_ttl = time(arguments, "x-message-ttl")?;
        let exchange = text(arguments, "x-dead-letter-exchange")?;
        let key = text(arguments, "x-dead-letter-routing-key")?;
        if exchange.is_none() && key.is_some() {
            return Err(("x-dead-letter-routing-key", Problem::KeyWithoutExchange));
        }
        one_of(arguments, "x-dead-letter-strategy", &["at-most-once", "at-least-once"])?;
        let max_length = count(arguments, "x-max-length")?;
        let max_bytes = count(arguments, "x-max-length-bytes")?;
        for unused in ["x-max-in-memory-length", "x-max-in-memory-bytes"] {
            count(arguments, unused)?;
        }
        let priorities = match count(arguments, "x-max-priority")? {
            None => None,
            Some(most) => match u8::try_from(most) {
                Ok(most) => Some(most),
                Err(_) => {
                    return Err(("x-max-priority", Problem::TooLarge(i64::try_from(most).unwrap_or(i64::MAX))));
                }
            },
        };
        let overflow = one_of(arguments, "x-overflow", &["drop-head", "reject-publish", "reject-publish-dlx"])?;
        let overflow = match (overflow, kind) {
            (Some("reject-publish"), _) => Overflow::Reject,
            (Some("reject-publish-dlx"), QueueKind::Classic) => Overflow::RejectAndBury,
            // RabbitMQ warns and drops, where it is a quorum queue.
            _ => Overflow::DropHead,
        };
        one_of(arguments, "x-queue-mode", &["default", "lazy"])?;
        if let Some(version) = integer(arguments, "x-queue-version")?
            && !(1..=2).contains(&version)
        {
            return Err(("x-queue-version", Problem::UnknownValue(Field::I64(version))));
        }
        one_of(arguments, "x-queue-leader-locator", &["client-local", "random", "least-leaders"])?;
        let activity = match arguments.get("x-single-active-consumer") {
            None | Some(Field::Bool(false)) => Activity::All,
            Some(Field::Bool(true)) => Activity::Single,
            Some(field) => return Err(("x-single-active-consumer", Problem::UnacceptableType(field.type_name()))),
        };
        let delivery_limit = count(arguments, "x-delivery-limit")?;
        Ok(Settings {
            kind,
            message_ttl,
            expires,
            max_length,
            max_bytes,
            overflow,
            dead_letters: exchange.map(|exchange| DeadLetters { exchange, key }),
            priorities,
            activity,
            delivery_limit: delivery_limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        })
    }
}

/// The first of the arguments in which a declaration differs from what a queue of this kind has.
pub(super) fn first_difference(kind: QueueKind, one: &Arguments, two: &Arguments) -> Option<&'static str> {
    let compared: &[&'static str] = match kind {
        QueueKind::Classic => &COMPARED,
        QueueKind::Quorum => &COMPARED_QUORUM,
    };
    compared.iter().copied().find(|name| match (one.get(name), two.get(name)) {
        (None, None) => false,
        (Some(one), Some(two)) => !one.is_equivalent(two),
        // What has no type is classic.
        (None, Some(only)) | (Some(only), None) => *name != "x-queue-type" || only.as_text() != Some("classic"),
    })
}

fn kind(arguments: &Arguments) -> Result<QueueKind, (&'static str, Problem)> {
    const NAME: &str = "x-queue-type";
    let Some(field) = arguments.get(NAME) else { return Ok(QueueKind::Classic) };
    match field {
        Field::Text(kind) => match &kind[..] {
            b"classic" => Ok(QueueKind::Classic),
            b"quorum" => Ok(QueueKind::Quorum),
            _ => Err((NAME, Problem::UnsupportedQueueType(field.clone()))),
        },
        _ => Err((NAME, Problem::UnacceptableType(field.type_name()))),
    }
}

fn integer(arguments: &Arguments, name: &'static str) -> Result<Option<i64>, (&'static str, Problem)> {
    let Some(field) = arguments.get(name) else { return Ok(None) };
    match field.as_integer() {
        None => Err((name, Problem::NotAnInteger(field.type_name()))),
        Some(value) if value < 0 => Err((name, Problem::Negative(value))),
        Some(value) => Ok(Some(value)),
    }
}

fn count(arguments: &Arguments, name: &'static str) -> Result<Option<usize>, (&'static str, Problem)> {
    Ok(integer(arguments, name)?.map(|value| usize::try_from(value).unwrap_or(usize::MAX)))
}

fn time(arguments: &Arguments, name: &'static str) -> Result<Option<Duration>, (&'static str, Problem)> {
    match integer(arguments, name)? {
        Some(value) if value > LONGEST => Err((name, Problem::TooLarge(value))),
        value => Ok(value.map(|value| Duration::from_millis(value.unsigned_abs()))),
    }
}

fn text(arguments: &Arguments, name: &'static str) -> Result<Option<Arc<str>>, (&'static str, Problem)> {
    let Some(field) = arguments.get(name) else { return Ok(None) };
    match (field, field.as_text()) {
        (_, Some(text)) => Ok(Some(text.into())),
        (Field::Text(_), None) => Err((name, Problem::UnknownValue(field.clone()))),
        _ => Err((name, Problem::UnacceptableType(field.type_name()))),
    }
}

fn one_of<'a>(
    arguments: &'a Arguments,
    name: &'static str,
    known: &[&str],
) -> Result<Option<&'a str>, (&'static str, Problem)> {
    let Some(field) = arguments.get(name) else { return Ok(None) };
    match (field, field.as_text()) {
        (_, Some(text)) if known.contains(&text) => Ok(Some(text)),
        (Field::Text(_), _) => Err((name, Problem::UnknownValue(field.clone()))),
        _ => Err((name, Problem::UnacceptableType(field.type_name()))),
    }
}
