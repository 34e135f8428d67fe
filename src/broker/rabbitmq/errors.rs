//! What lapin and the server say, as errors that name what was tried, why it failed and what to do.

use std::io;
use std::time::Duration;

use super::endpoint::{Endpoint, Transport};
use crate::error::{Error, ErrorKind};

// Reply codes of AMQP 0-9-1, section 1.2 of its reference.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// The name could not be looked up.
pub(crate) fn name_lookup(host: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Connection, format!("the host name {host} could not be looked up: {error}; check the URL"))
}

/// TCP failed.
pub(crate) fn tcp(address: &str, error: &io::Error) -> Error {
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens at {address}: is RabbitMQ running there? (the connection was refused)")
        }
        io::ErrorKind::TimedOut => {
            format!("{address} did not answer: is the host up, and does a firewall let the port through?")
        }
        _ => format!("no TCP connection to {address} could be made: {error}"),
    };
    Error::new(ErrorKind::Connection, text)
}

/// TLS failed.
#[cfg(feature = "tls")]
pub(crate) fn tls(endpoint: &Endpoint, error: &io::Error) -> Error {
    Error::new(
        ErrorKind::Connection,
        format!(
            "the TLS handshake with {} failed: {error}; check that the port speaks TLS (5671 by habit), that the \
             certificate is for this host name and that its authority is trusted",
            endpoint.address()
        ),
    )
}

/// The time for connecting was over.
pub(crate) fn connect_timed_out(endpoint: &Endpoint, limit: Duration, stage: &str) -> Error {
    Error::new(ErrorKind::Connection, format!("{} {stage} within {limit:?}", endpoint.address()))
}

/// Something else than AMQP answered.
pub(crate) fn not_amqp(endpoint: &Endpoint, said: &[u8]) -> Error {
    let address = endpoint.address();
    let text = match said {
        // A TLS alert or handshake record.
        [0x15 | 0x16, 3, ..] => format!("{address} speaks TLS: use an amqps:// URL, or the port for plain AMQP"),
        _ => {
            let line = said.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
            let line = &line[..line.len().min(40)];
            format!(
                "{address} does not speak AMQP: it answered \"{}\"; is this RabbitMQ's AMQP port (5672 by habit)?",
                line.escape_ascii()
            )
        }
    };
    Error::new(ErrorKind::Connection, text)
}

/// The AMQP handshake ended in an error.
pub(crate) fn handshake(endpoint: &Endpoint, error: &lapin::Error, said: Option<&[u8]>) -> Error {
    if let Some(said) = said {
        return not_amqp(endpoint, said);
    }
    let address = endpoint.address();
    let Endpoint { username, vhost, .. } = endpoint;
    match server_said(error) {
        Some((ACCESS_REFUSED, text)) => Error::new(
            ErrorKind::AccessRefused,
            format!(
                "{address} refused user {username:?}: wrong name or password, or the user may not log in from here \
                 (RabbitMQ lets `guest` in from localhost only); the server said: {text}"
            ),
        ),
        Some((NOT_ALLOWED, text)) if text.contains("not found") => Error::new(
            ErrorKind::AccessRefused,
            format!(
                "{address} has no virtual host {vhost:?}; check the path of the URL (none at all means \"/\"), or add it: \
                 rabbitmqctl add_vhost {vhost} && rabbitmqctl set_permissions -p {vhost} {username} '.*' '.*' '.*'"
            ),
        ),
        Some((NOT_ALLOWED, text)) => Error::new(
            ErrorKind::AccessRefused,
            format!(
                "{address} does not let user {username:?} into the virtual host {vhost:?} ({text}); allow it: \
                 rabbitmqctl set_permissions -p {vhost} {username} '.*' '.*' '.*'"
            ),
        ),
        Some((_, text)) => Error::new(ErrorKind::Connection, format!("{address} refused the connection: {text}")),
        None => match error.kind() {
            lapin::ErrorKind::InvalidProtocolVersion(version) => Error::new(
                ErrorKind::Connection,
                format!("{address} speaks AMQP {version} only, homing speaks AMQP 0-9-1"),
            ),
            lapin::ErrorKind::IOError(cause) if closed_in_handshake(cause) => Error::new(
                ErrorKind::Connection,
                format!(
                    "{address} closed the connection during the AMQP handshake{}",
                    match endpoint.transport {
                        Transport::Plain => ": is it an AMQP port, and does it perhaps expect TLS (amqps)?",
                        Transport::Tls => ": is it an AMQP port?",
                    }
                ),
            ),
            _ => Error::with_source(
                ErrorKind::Connection,
                format!("the AMQP handshake with {address} failed: {error}"),
                error.clone(),
            ),
        },
    }
}

fn closed_in_handshake(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// The connection went while it was in use.
pub(crate) fn lost(address: &str, error: Option<&lapin::Error>) -> Error {
    let why = match error {
        None => "it was closed".to_owned(),
        Some(error) => match (server_said(error), error.kind()) {
            (Some((_, text)), _) => format!("the server closed it: {text}"),
            (None, lapin::ErrorKind::MissingHeartbeatError) => {
                "nothing came from the server for two heartbeats".to_owned()
            }
            (None, lapin::ErrorKind::IOError(cause)) if closed_in_handshake(cause) => {
                "the other end closed it without a word (a restart, a kill, or the network)".to_owned()
            }
            (None, lapin::ErrorKind::IOError(cause)) => cause.to_string(),
            (None, _) => error.to_string(),
        },
    };
    Error::new(ErrorKind::ConnectionLost, format!("the connection to RabbitMQ at {address} was lost: {why}"))
}

/// Whether lapin's error ends a channel only, and not the connection.
pub(crate) fn ends_a_channel(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error()
        || matches!(
            error.kind(),
            lapin::ErrorKind::InvalidChannelState(..)
                | lapin::ErrorKind::InvalidChannel(_)
                | lapin::ErrorKind::ChannelsLimitReached
        )
}

/// An operation failed; `what` reads after "could not", as in `declare the queue "q"`.
pub(crate) fn operation(what: &str, error: &lapin::Error) -> Error {
    if matches!(error.kind(), lapin::ErrorKind::ChannelsLimitReached) {
        return Error::new(
            ErrorKind::Full,
            format!("could not {what}: every channel that the server allows on this connection is in use"),
        );
    }
    let Some((code, text)) = server_said(error) else {
        let kind = if ends_a_channel(error) { ErrorKind::InvalidState } else { ErrorKind::ConnectionLost };
        return Error::with_source(kind, format!("could not {what}: {error}"), error.clone());
    };
    let (kind, text) = match code {
        NOT_FOUND => (ErrorKind::NotFound, format!("could not {what}: {text}")),
        ACCESS_REFUSED => (ErrorKind::AccessRefused, format!("could not {what}: {text}")),
        RESOURCE_LOCKED => (
            ErrorKind::ResourceLocked,
            format!(
                "could not {what}: another connection has the queue for itself alone, and keeps it until it closes ({text})"
            ),
        ),
        PRECONDITION_FAILED => (ErrorKind::PreconditionFailed, precondition(what, text)),
        _ if error.is_amqp_hard_error() => {
            (ErrorKind::ConnectionLost, format!("could not {what}: the server closed the connection: {text}"))
        }
        _ => (ErrorKind::InvalidState, format!("could not {what}: {text}")),
    };
    Error::new(kind, text)
}

/// The time for an operation was over.
pub(crate) fn timed_out(what: &str, address: &str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "could not {what}: RabbitMQ at {address} did not answer within {limit:?}; whether it was done is not known"
        ),
    )
}

/// The code and the text with which the server closed a channel or the connection.
pub(crate) fn server_said(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(said) => Some((said.get_id(), said.get_message().as_str())),
        _ => None,
    }
}

fn precondition(what: &str, text: &str) -> String {
    match Inequivalent::read(text) {
        Some(Inequivalent { argument, object, wanted, current }) => format!(
            "could not {what}: {object} exists with another {argument}: the server has {current}, this program asks for \
             {wanted}. Use the same settings as whoever declared it, or another name, or delete it on the server first"
        ),
        None => format!("could not {what}: {text}"),
    }
}

/// What differs, read back from the text of [`precondition`]: the argument, what the server has, what this program wants.
pub(crate) fn difference(error: &Error) -> Option<(String, String, String)> {
    let text = error.to_string();
    let (_, rest) = text.split_once(" exists with another ")?;
    let (argument, rest) = rest.split_once(": the server has ")?;
    let (current, rest) = rest.split_once(", this program asks for ")?;
    let (wanted, _) = rest.split_once(". Use the same settings")?;
    Some((argument.to_owned(), current.to_owned(), wanted.to_owned()))
}

/// RabbitMQ's "inequivalent arg", taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Inequivalent<'a> {
    argument: &'a str,
    object: &'a str,
    wanted: &'a str,
    current: &'a str,
}

impl<'a> Inequivalent<'a> {
    /// As in `PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current is
    /// the value '60000' of type 'signedint'`.
    fn read(text: &'a str) -> Option<Self> {
        let (_, rest) = text.split_once("inequivalent arg '")?;
        let (argument, rest) = rest.split_once("' for ")?;
        let (object, rest) = rest.split_once(": received ")?;
        let (wanted, current) = rest.split_once(" but current is ")?;
        Some(Inequivalent { argument, object, wanted: value(wanted), current: value(current) })
    }
}

/// `the value '1' of type 'long'` and `'1'` are both 1; anything else stays as it is.
fn value(text: &str) -> &str {
    let bare = text.strip_prefix("the value ").unwrap_or(text);
    bare.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map_or(bare, |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inequivalent_arguments_are_taken_apart() {
        for (text, argument, object, wanted, current) in [
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q: a' in vhost '/': received '1' but \
                 current is '2'",
                "x-message-ttl",
                "queue 'q: a' in vhost '/'",
                "1",
                "2",
            ),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost 'v': received none but current \
                 is the value '60000' of type 'signedint'",
                "x-expires",
                "queue 'q' in vhost 'v'",
                "none",
                "60000",
            ),
        ] {
            assert_eq!(Inequivalent::read(text), Some(Inequivalent { argument, object, wanted, current }));
        }
        assert_eq!(Inequivalent::read("PRECONDITION_FAILED - unknown delivery tag 5"), None);
    }

    #[test]
    fn what_differs_can_be_read_back_from_the_error() {
        let said = "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current \
                    is the value '60000' of type 'signedint'";
        let error = Error::new(ErrorKind::PreconditionFailed, precondition("declare the queue \"q\"", said));
        assert_eq!(difference(&error), Some(("x-expires".to_owned(), "60000".to_owned(), "none".to_owned())));
    }
}
