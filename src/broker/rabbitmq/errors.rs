//! lapin's errors, as errors of ours: what was tried, on what, why it failed and what to do.

use lapin::ErrorKind as Lapin;

use crate::broker::differs;
use crate::broker::url::AmqpUrl;
use crate::error::{Error, ErrorKind};

/// Codes of AMQP 0-9-1 (section 1.2) that mean something of their own.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// An operation that failed.
pub(super) fn failed(what: &str, error: &lapin::Error) -> Error {
    let kind = match error.kind() {
        Lapin::ProtocolError(told) => {
            let text = told.get_message().as_str();
            if told.get_id() == PRECONDITION_FAILED {
                return precondition(what, text);
            }
            let kind = match told.get_id() {
                ACCESS_REFUSED => ErrorKind::AccessRefused,
                NOT_FOUND => ErrorKind::NotFound,
                RESOURCE_LOCKED => ErrorKind::ResourceLocked,
                _ => ErrorKind::ConnectionLost,
            };
            return Error::new(kind, format!("{what}: RabbitMQ answered {} {text}", told.get_id()));
        }
        _ => ErrorKind::ConnectionLost,
    };
    Error::with_source(kind, format!("{what}: the connection to RabbitMQ failed: {error}"), error.clone())
}

/// The text is like `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value
/// '1' of type 'signedint' but current is the value '2' of type 'signedint'`, or without values and types for flags.
fn precondition(what: &str, text: &str) -> Error {
    let quoted = |after: &str| {
        let rest = text.split_once(after)?.1;
        let rest = rest.split_once('\'')?.1;
        Some(rest.split_once('\'')?.0)
    };
    let received =
        quoted("received ").map(str::to_owned).or_else(|| text.contains("received none").then(|| "none".to_owned()));
    let current = quoted("but current is ");
    let current = if text.contains("but current is none") { Some("none") } else { current };
    let received = if text.contains("received none") { Some("none".to_owned()) } else { received };
    match (quoted("inequivalent arg "), received, current) {
        (Some(argument), Some(want), Some(have)) => {
            let object = if text.contains(" for exchange ") { "exchange" } else { "queue" };
            let name = quoted(&format!(" for {object} ")).unwrap_or("?");
            differs(object, name, argument, have, &want)
        }
        _ => {
            Error::new(ErrorKind::PreconditionFailed, format!("{what}: RabbitMQ answered {PRECONDITION_FAILED} {text}"))
        }
    }
}

/// A handshake that failed after the TCP connection stood.
pub(super) fn handshake(url: &AmqpUrl, error: &lapin::Error) -> Error {
    let (host, port) = (&url.host, url.port);
    if let Lapin::ProtocolError(told) = error.kind() {
        let text = told.get_message().as_str();
        match told.get_id() {
            ACCESS_REFUSED if text.contains("vhost") => return no_vhost(url),
            ACCESS_REFUSED => {
                return Error::new(
                    ErrorKind::AccessRefused,
                    format!(
                        "RabbitMQ at {host}:{port} refused the user {:?}: the name or the password is wrong, or the user may \
                         not log in from here (`guest` may only from the same host)",
                        url.username
                    ),
                );
            }
            NOT_ALLOWED => return no_vhost(url),
            _ => {}
        }
        return Error::new(ErrorKind::Connection, format!("RabbitMQ at {host}:{port} ended the handshake: {text}"));
    }
    let hint = match error.kind() {
        Lapin::ParsingError(_) | Lapin::InvalidProtocolVersion(_) => "what listens there does not speak AMQP 0-9-1",
        _ => {
            "the connection ended in the middle of the AMQP handshake; does RabbitMQ listen there, and in TLS or plain?"
        }
    };
    Error::with_source(ErrorKind::Connection, format!("no AMQP connection to {host}:{port}: {hint}"), error.clone())
}

fn no_vhost(url: &AmqpUrl) -> Error {
    let (host, port, vhost, user) = (&url.host, url.port, &url.vhost, &url.username);
    Error::new(
        ErrorKind::AccessRefused,
        format!(
            "RabbitMQ at {host}:{port} has no virtual host {vhost:?}, or the user {user:?} has no right to it; on the broker: \
             rabbitmqctl add_vhost {vhost:?}; rabbitmqctl set_permissions -p {vhost:?} {user:?} '.*' '.*' '.*'"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value \
                    '1234000' of type 'signedint' but current is the value '604800000' of type 'signedint'";
        let shown = precondition("declaring", text).to_string();
        for part in ["x-message-ttl = 604800000", "x-message-ttl = 1234000", "queue \"q\""] {
            assert!(shown.contains(part), "{part} is not in: {shown}");
        }
        let text = "PRECONDITION_FAILED - inequivalent arg 'auto_delete' for exchange 'e' in vhost '/': received 'false' but \
                    current is 'true'";
        let shown = precondition("declaring", text).to_string();
        for part in ["auto_delete = true", "auto_delete = false", "exchange \"e\""] {
            assert!(shown.contains(part), "{part} is not in: {shown}");
        }
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current \
                    is the value '10000' of type 'signedint'";
        let shown = precondition("declaring", text).to_string();
        assert!(shown.contains("x-expires = 10000") && shown.contains("x-expires = none"), "{shown}");
    }

    #[test]
    fn an_unknown_text_is_passed_on() {
        let error = precondition("declaring", "PRECONDITION_FAILED - something else");
        assert!(error.to_string().contains("something else"));
    }
}
