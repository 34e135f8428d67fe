//! The one error of the library: what was tried, on what, why it failed and what to do, with a [kind](ErrorKind) to ask for.
//!
//! It is opaque on purpose: programs match on [`Error::kind`], people read the text, and neither breaks when a cause is
//! added. No credential and no message body ever enters an error.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::home::ReserveError;
use crate::panics::drop_guarded;

/// `Result` with homing's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which of the known things went wrong. kiwipy's exceptions keep their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The subscriber at the other end answered with an exception (kiwipy's `RemoteException`).
    RemoteException,
    /// The broker did not accept a message (kiwipy's `DeliveryFailed`).
    DeliveryFailed,
    /// No queue is bound for the recipient (kiwipy's `UnroutableError`).
    Unroutable,
    /// Every subscriber refused the task (kiwipy's `TaskRejected`).
    TaskRejected,
    /// There was no task to take (kiwipy's `QueueEmpty`).
    QueueEmpty,
    /// The identifier is taken on this communicator (kiwipy's `DuplicateSubscriberIdentifier`).
    DuplicateSubscriberIdentifier,
    /// The communicator is closed (kiwipy's `CommunicatorClosed`).
    CommunicatorClosed,
    /// The object is not in a state to do this, such as a task that was settled before (kiwipy's `InvalidStateError`).
    InvalidState,
    /// The deadline passed (kiwipy's `TimeoutError`).
    TimedOut,
    /// The work was cancelled, here or at the other end.
    Cancelled,
    /// The other side dropped its completer without using it.
    Abandoned,
    /// No connection could be made.
    Connection,
    /// The connection was lost while this was under way.
    ConnectionLost,
    /// The broker refused the credentials or the virtual host.
    AccessRefused,
    /// The broker let the user in and refused what it asked for: a permission on an exchange or a queue is missing.
    PermissionDenied,
    /// An exchange or a queue exists with other arguments than ours.
    PreconditionFailed,
    /// An exchange or a queue does not exist.
    NotFound,
    /// A queue is in use by another connection that has it for itself alone.
    ResourceLocked,
    /// What came in could not be decoded, or has the wrong shape.
    Decode,
    /// A value cannot be written in this format.
    Encode,
    /// An argument cannot be used: an identifier, a URL, an option.
    InvalidArgument,
    /// A future was polled, or a call made, off its home.
    WrongHome,
    /// The home of a future has ended.
    HomeEnded,
    /// Waiting here would block the only thread that could end the wait.
    WouldDeadlock,
    /// A limit on what may be in flight, or on what may be open at a home, is reached.
    Full,
    /// A store cannot be read or written: its disk is full, its file is damaged, or no permission is given. It is a store of
    /// processes, or that of a broker of homing's own.
    Storage,
    /// A fault of homing itself.
    Internal,
    /// A task with this [unique key](crate::TaskSend::unique) was sent within its time, so this one was not.
    DuplicateTask,
}

/// An error of homing. Cheap to clone: one lost connection ends many futures.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::ErrorKind;
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// match communicator.rpc_send("greeter", "Ada").await {
///     Ok(greeting) => println!("{greeting}"),
///     Err(error) => match error.kind() {
///         ErrorKind::Unroutable => println!("nobody greets"),
///         ErrorKind::RemoteException => println!("the greeter failed: {:?}", error.remote_text()),
///         _ => return Err(error),
///     },
/// }
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    detail: Detail,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// What a floor above knows of it, by its type.
    attached: Option<Box<dyn Any + Send + Sync>>,
}

/// Guards: whoever drops an error with a source of the program's own, whose drop panics.
impl Drop for Inner {
    fn drop(&mut self) {
        drop_guarded(self.source.take(), "the source of an error");
    }
}

/// What an error is about, for the parts of homing that have to know more than its kind. Nobody reads it out of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "what only a real broker refuses"))]
pub(crate) enum Detail {
    /// Nothing beside the kind.
    None,
    /// The text of the other end's failure.
    Remote(String),
    /// What exists differs from what was declared.
    Differs(Box<Difference>),
    /// The user may not do this.
    Permission(Box<Permission>),
    /// The user may not enter the virtual host, or there is none.
    VirtualHost,
    /// A limit of the broker is reached.
    Limit(Limit),
    /// The broker closed the channel, since a delivery was not acknowledged in time.
    DeliveryTimeout,
    /// A queue did not take the message: it is full. It is certain that the message is not there.
    NotTaken,
    /// A part of a value cannot be written: why, and the steps to it from the outside in.
    Part(Box<Part>),
    /// The properties of a message take more bytes than a frame has.
    TooLarge { bytes: usize, most: usize },
}

/// What exists, and what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// As the broker calls it, kind and name.
    pub object: String,
    pub argument: String,
    pub have: String,
    pub want: String,
}

/// Which part of a value cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub why: String,
    /// Steps of a JSON pointer (RFC 6901), from the outside in.
    pub steps: Vec<String>,
}

/// A permission that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    /// `configure`, `write` or `read`, where that is known.
    pub right: Option<&'static str>,
    /// `exchange`, `queue` or `topic`.
    pub object: String,
    pub name: String,
}

/// A limit of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "what only a real broker refuses"))]
pub(crate) enum Limit {
    /// Of a user, a virtual host or the node.
    Connections,
    /// Of a connection.
    Channels,
}

impl Error {
    /// An error of this kind, with this message. The message names what was tried, on what, why it failed and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::with_detail(kind, message, Detail::None)
    }

    /// The text of the other end's failure, and what was asked of it; with what else came of it, if anything did.
    pub(crate) fn remote_exception<T: Any + Send + Sync>(what: &str, text: String, attached: Option<T>) -> Self {
        let message = format!("{what}: the other end failed: {text}");
        let attached = attached.map(|attached| Box::new(attached) as Box<dyn Any + Send + Sync>);
        let detail = Detail::Remote(text);
        Error(Arc::new(Inner { kind: ErrorKind::RemoteException, message, detail, source: None, attached }))
    }

    /// What is attached, if it has this type.
    pub(crate) fn attached<T: Any>(&self) -> Option<&T> {
        self.0.attached.as_deref()?.downcast_ref()
    }

    /// An error with details for the other parts of homing.
    pub(crate) fn with_detail(kind: ErrorKind, message: impl Into<String>, detail: Detail) -> Self {
        Error(Arc::new(Inner { kind, message: message.into(), detail, source: None, attached: None }))
    }

    /// A part of a value cannot be written. The message names its place as a JSON pointer.
    pub(crate) fn unwritable(part: Part) -> Self {
        let mut message = part.why.clone();
        for (n, step) in part.steps.iter().enumerate() {
            message.push_str(if n == 0 { " (at /" } else { "/" });
            message.push_str(step);
        }
        if !part.steps.is_empty() {
            message.push(')');
        }
        Self::with_detail(ErrorKind::Encode, message, Detail::Part(Box::new(part)))
    }

    /// The same with places that begin at the user's body, which the value that was written has under this step.
    pub(crate) fn within(self, body: &str) -> Self {
        match self.detail() {
            Detail::Part(part) if part.steps.first().is_some_and(|step| step == body) => {
                Self::unwritable(Part { why: part.why.clone(), steps: part.steps[1..].to_vec() })
            }
            _ => self,
        }
    }

    pub(crate) fn detail(&self) -> &Detail {
        &self.0.detail
    }

    /// The same with the error that caused it, for [`std::error::Error::source`]. The message should read well without
    /// it: the source is not repeated in `Display`.
    pub fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let (message, source) = (message.into(), Some(source.into()));
        Error(Arc::new(Inner { kind, message, detail: Detail::None, source, attached: None }))
    }

    /// Why a home had no place for something: it is full, or it has ended.
    pub(crate) fn reserve(what: impl fmt::Display, error: ReserveError) -> Self {
        let kind = match error {
            ReserveError::Ended => ErrorKind::HomeEnded,
            ReserveError::TimedOut => ErrorKind::TimedOut,
            ReserveError::WrongHome => ErrorKind::WrongHome,
            _ => ErrorKind::Full,
        };
        Self::with_source(kind, format!("{what}: {error}"), error)
    }

    /// What went wrong, to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The text of a remote exception, as the other end sent it.
    #[must_use]
    pub fn remote_text(&self) -> Option<&str> {
        match &self.0.detail {
            Detail::Remote(text) => Some(text),
            _ => None,
        }
    }

    /// True for an error of the connection as a whole rather than of what was asked: there is none, it went in between, or the
    /// communicator is closed. [`Communicator::connection_state`](crate::Communicator::connection_state) is its state now.
    #[must_use]
    pub fn is_connection(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Connection
                | ErrorKind::ConnectionLost
                | ErrorKind::AccessRefused
                | ErrorKind::CommunicatorClosed
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            debug.field("source", source);
        }
        debug.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_that_is_full_is_not_one_that_has_ended() {
        let kind = |error| Error::reserve("a call", error).kind();
        assert_eq!(kind(ReserveError::Full), ErrorKind::Full);
        assert_eq!(kind(ReserveError::Ended), ErrorKind::HomeEnded);
        assert_eq!(kind(ReserveError::TimedOut), ErrorKind::TimedOut);
        assert_eq!(kind(ReserveError::WrongHome), ErrorKind::WrongHome);
        let error = Error::reserve("a call", ReserveError::Ended);
        assert_eq!(error.to_string(), "a call: the home has ended");
    }
}
