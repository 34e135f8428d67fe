//! The book's types as the driver uses them.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use uuid::Uuid;

use super::message::{self, Identity, Kinds, Marks};
use crate::broker::{Body, Properties};
use crate::driver::command::{OutgoingReply, QueueName};
use crate::wire::headers;

/// The types of a running communicator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live;

impl Kinds for Live {
    type Queue = QueueName;
    type Message = TaskMessage;
    type Claim = Claim;
    type Answer = OutgoingReply;

    fn copy_number() -> u64 {
        let (one, other) = crate::ids::unique().as_u64_pair();
        one ^ other
    }
}

/// A task's message, as it came.
#[derive(Clone)]
pub(crate) struct TaskMessage(Arc<Content>);

struct Content {
    properties: Properties,
    body: Body,
    identity: Option<Identity>,
}

impl TaskMessage {
    pub(crate) fn new(properties: Properties, body: Body) -> Self {
        let identity = identity(&properties, &body);
        TaskMessage(Arc::new(Content { properties, body, identity }))
    }

    pub(crate) fn properties(&self) -> &Properties {
        &self.0.properties
    }

    pub(crate) fn body(&self) -> &Body {
        &self.0.body
    }
}

/// Never its body.
impl fmt::Debug for TaskMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskMessage").field("message_id", &self.0.properties.message_id).finish_non_exhaustive()
    }
}

/// kiwipy and homing name their messages by UUIDs. Any other id may repeat, and is not trusted.
fn identity(properties: &Properties, body: &Body) -> Option<Identity> {
    let id = Uuid::try_parse(properties.message_id.as_deref()?).ok()?;
    Some(Identity { id: id.as_u128(), digest: digest(properties.correlation_id.as_deref(), body) })
}

fn digest(correlation: Option<&str>, body: &Body) -> u128 {
    let half = |which: u8| {
        let mut hasher = DefaultHasher::new();
        which.hash(&mut hasher);
        correlation.hash(&mut hasher);
        match body {
            Body::Encoded(bytes) => bytes.hash(&mut hasher),
            // Inside one process a message that comes again is the same value.
            Body::Value(value) => Arc::as_ptr(value).addr().hash(&mut hasher),
        }
        hasher.finish()
    };
    (u128::from(half(0)) << 64) | u128::from(half(1))
}

impl message::Message for TaskMessage {
    fn identity(&self) -> Option<Identity> {
        self.0.identity
    }

    fn marks(&self) -> Marks {
        let number = |name| headers::number(&self.0.properties, name);
        Marks {
            resend: number(headers::RESEND),
            lease: number(headers::LEASE),
            attempt: number(headers::ATTEMPT),
            copy: self.0.properties.number(headers::COPY).unwrap_or(0),
        }
    }

    fn pause_key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        match &self.0.properties.message_id {
            Some(id) => id.hash(&mut hasher),
            None => digest(None, &self.0.body).hash(&mut hasher),
        }
        hasher.finish()
    }
}

/// Whether somebody has begun with what was handed to a home.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicU8>);

const FREE: u8 = 0;
const WITHDRAWN: u8 = 1;
const TAKEN: u8 = 2;

impl Claim {
    /// By the home, which begins with it. False when it was withdrawn.
    ///
    /// Guards: a task that lies at a busy home while its connection goes. The broker hands it out again, and it would run
    /// here too.
    pub(crate) fn take(&self) -> bool {
        // Ordering: Relaxed, for the two only compete for the one change.
        self.0.compare_exchange(FREE, TAKEN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// By the driver. False when it was begun.
    pub(crate) fn withdraw(&self) -> bool {
        self.0.compare_exchange(FREE, WITHDRAWN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(crate) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == TAKEN
    }
}

impl message::Claim for Claim {
    fn withdraw(&self) -> bool {
        Claim::withdraw(self)
    }
}

/// The headers of a copy.
pub(crate) fn write_marks(properties: &mut Properties, marks: Marks) {
    for (name, number) in [
        (headers::RESEND, marks.resend.into()),
        (headers::LEASE, marks.lease.into()),
        (headers::ATTEMPT, marks.attempt.into()),
        (headers::COPY, marks.copy),
    ] {
        if number > 0 {
            properties.set_number(name, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::message::Message as _;
    use super::*;

    fn message(id: &str, correlation: &str, body: &'static [u8]) -> TaskMessage {
        let properties = Properties {
            message_id: Some(id.into()),
            correlation_id: Some(correlation.into()),
            ..Properties::default()
        };
        TaskMessage::new(properties, Body::Encoded(bytes::Bytes::from_static(body)))
    }

    #[test]
    fn messages_of_one_id_that_differ_are_two() {
        let id = Uuid::from_u128(7).simple().to_string();
        let one = message(&id, "c", b"1");
        assert_eq!(one.identity(), message(&id, "c", b"1").identity());
        assert_ne!(one.identity(), message(&id, "c", b"2").identity());
        assert_ne!(one.identity(), message(&id, "d", b"1").identity());
        assert_eq!(message("job", "c", b"1").identity(), None, "an id that is no UUID may repeat");
    }

    #[test]
    fn a_claim_has_one_owner() {
        let claim = Claim::default();
        assert!(claim.take());
        assert!(!claim.take() && !claim.withdraw() && claim.is_taken());
        let claim = Claim::default();
        assert!(claim.withdraw());
        assert!(!claim.take() && !claim.is_taken());
    }

    #[test]
    fn marks_are_written_and_read() {
        let marks = Marks { resend: 1, lease: 0, attempt: 3, copy: u64::MAX };
        let mut properties = Properties::default();
        write_marks(&mut properties, marks);
        let read = TaskMessage::new(properties, Body::Encoded(bytes::Bytes::new())).marks();
        assert_eq!(read, marks);
    }
}
