//! What an operator sees of each message: a `tracing` span and, with the feature `metrics`, counters and times.
//!
//! All of it happens at homes: a span is made, entered and dropped, and a recorder is called, where a message is sent or
//! handled. The communicator thread carries what goes along with a message ([`TraceHeaders`]) and runs none of it. What it logs
//! of its own (a connection that is lost, for example) goes to the program's `tracing` subscriber on that thread; such lines are
//! few, and none is of a message.

mod guarded;
pub(crate) mod meter;
mod span;
mod trace;

pub(crate) use guarded::MessageSpan;
pub(crate) use span::{Handling, Incoming, Outgoing};
pub use trace::TraceContext;

use crate::error::ErrorKind;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Call,
    Task,
    Broadcast,
}

impl MessageKind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            MessageKind::Call => "call",
            MessageKind::Task => "task",
            MessageKind::Broadcast => "broadcast",
        }
    }
}

/// How a message has ended for its sender, by name.
pub(crate) fn outcome_name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::RemoteException => "remote_exception",
        ErrorKind::DeliveryFailed => "delivery_failed",
        ErrorKind::Unroutable => "unroutable",
        ErrorKind::TaskRejected => "task_rejected",
        ErrorKind::DuplicateTask => "duplicate_task",
        ErrorKind::QueueEmpty => "queue_empty",
        ErrorKind::DuplicateSubscriberIdentifier => "duplicate_subscriber_identifier",
        ErrorKind::CommunicatorClosed => "communicator_closed",
        ErrorKind::InvalidState => "invalid_state",
        ErrorKind::TimedOut => "timed_out",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Abandoned => "abandoned",
        ErrorKind::Connection => "connection",
        ErrorKind::ConnectionLost => "connection_lost",
        ErrorKind::AccessRefused => "access_refused",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::PreconditionFailed => "precondition_failed",
        ErrorKind::NotFound => "not_found",
        ErrorKind::ResourceLocked => "resource_locked",
        ErrorKind::Decode => "decode",
        ErrorKind::Encode => "encode",
        ErrorKind::InvalidArgument => "invalid_argument",
        ErrorKind::WrongHome => "wrong_home",
        ErrorKind::HomeEnded => "home_ended",
        ErrorKind::WouldDeadlock => "would_deadlock",
        ErrorKind::Full => "full",
        ErrorKind::Storage => "storage",
        ErrorKind::Internal => "internal",
    }
}
