//! The errors of lapin and the server, in a form that names what was tried, why it failed and what to do.
//!
//! The server's texts are read here and nowhere else; code that needs more than the kind of an error asks its
//! [`Detail`].

use std::io;
use std::time::Duration;

use super::endpoint::{Endpoint, Transport};
use super::tap::{Farewell, Greeting, HandshakeStage};
use crate::error::{Detail, Difference, Error, ErrorKind, Limit, Permission};

// Reply codes of AMQP 0-9-1, section 1.2 of its reference.
const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const RESOURCE_ERROR: u16 = 506;
const NOT_ALLOWED: u16 = 530;

/// The name could not be looked up.
pub(crate) fn name_lookup(host: &str, error: &io::Error) -> Error {
    Error::new(ErrorKind::Connection, format!("the host name {host} could not be looked up: {error}; check the URL"))
}

/// TCP failed.
pub(crate) fn tcp(address: &str, error: &io::Error) -> Error {
    let text = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens at {address}: is a broker running there? (the connection was refused)")
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
        // The header of a layer of AMQP 1.0: 3 is its login, 2 is TLS.
        [b'A', b'M', b'Q', b'P', layer, 1, ..] if *layer != 0 => {
            format!("{address} speaks AMQP 1.0 only, homing speaks AMQP 0-9-1")
        }
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
pub(crate) fn handshake(endpoint: &Endpoint, error: &lapin::Error, greeting: &Greeting) -> Error {
    if let Some(said) = greeting.not_amqp() {
        return not_amqp(endpoint, &said);
    }
    let address = endpoint.address();
    match server_said(error) {
        Some((ACCESS_REFUSED, text)) => wrong_credentials(endpoint, &format!("the server's text: {text}")),
        Some((NOT_ALLOWED, text)) => not_allowed(endpoint, text),
        Some((_, text)) => Error::new(ErrorKind::Connection, format!("{address} refused the connection: {text}")),
        None => match error.kind() {
            lapin::ErrorKind::InvalidProtocolVersion(version) => Error::new(
                ErrorKind::Connection,
                format!("{address} speaks AMQP {version} only, homing speaks AMQP 0-9-1"),
            ),
            lapin::ErrorKind::IOError(cause) if closed_in_handshake(cause) => {
                closed_without_a_word(endpoint, greeting.stage())
            }
            lapin::ErrorKind::IOError(cause) if cause.kind() == io::ErrorKind::InvalidData => {
                Error::new(ErrorKind::Connection, format!("the AMQP handshake with {address} was ended here: {cause}"))
            }
            _ => Error::with_source(
                ErrorKind::Connection,
                format!("the AMQP handshake with {address} failed: {error}"),
                error.clone(),
            ),
        },
    }
}

/// How many bytes the name and the password may have together that every RabbitMQ reads. Before 4.1 it reads 4096 bytes of the
/// frame that they are in.
const LOGIN_READ: usize = 2_500;

fn wrong_credentials(endpoint: &Endpoint, why: &str) -> Error {
    let length = endpoint.username.len() + endpoint.password.len();
    if length > LOGIN_READ {
        let text = format!(
            "{} refused a user name and password of {length} bytes together, which may be more than it reads: RabbitMQ takes a \
             login of 4096 bytes, and of 8192 from 4.1 on; {why}",
            endpoint.address()
        );
        return Error::new(ErrorKind::AccessRefused, text);
    }
    Error::new(
        ErrorKind::AccessRefused,
        format!(
            "{} refused user {:?}: wrong name or password, or the user may not log in from here (RabbitMQ lets `guest` in from \
             localhost only); {why}",
            endpoint.address(),
            endpoint.username
        ),
    )
}

/// NOT_ALLOWED means one of four things, which differ only in the text.
fn not_allowed(endpoint: &Endpoint, text: &str) -> Error {
    let address = endpoint.address();
    let Endpoint { username, vhost, .. } = endpoint;
    let (user, host) = (quoted(username), quoted(vhost));
    if text.contains("limit") && text.contains("connection") {
        return Error::with_detail(
            ErrorKind::Connection,
            format!(
                "{address} takes no more connections: {text}. homing needs two for each communicator (one publishes, one \
                 consumes): raise the limit, or close other connections (rabbitmqctl list_connections; rabbitmqctl \
                 set_user_limits {user} and set_vhost_limits -p {host} set max-connections)"
            ),
            Detail::Limit(Limit::Connections),
        );
    }
    let text = if text.contains("is down") {
        format!("the virtual host {vhost:?} of {address} is down ({text}): rabbitmqctl restart_vhost -p {host}")
    } else if text.contains("not found") {
        format!(
            "{address} has no virtual host {vhost:?}; check the path of the URL (none at all means \"/\"), or add it: \
             rabbitmqctl add_vhost {host} && rabbitmqctl set_permissions -p {host} {user} '.*' '.*' '.*' (a broker of homing's own: \
             homing broker vhost add {host} && homing broker permission set {user} '.*' '.*' '.*' --vhost {host})"
        )
    } else {
        format!(
            "{address} does not let user {username:?} into the virtual host {vhost:?} ({text}); allow it: \
             rabbitmqctl set_permissions -p {host} {user} '.*' '.*' '.*' (a broker of homing's own: homing broker permission set \
             {user} '.*' '.*' '.*' --vhost {host})"
        )
    };
    Error::with_detail(ErrorKind::AccessRefused, text, Detail::VirtualHost)
}

/// Why a server closes without a reason depends on how far the handshake came.
fn closed_without_a_word(endpoint: &Endpoint, stage: HandshakeStage) -> Error {
    let address = endpoint.address();
    match stage {
        HandshakeStage::Greeted => wrong_credentials(endpoint, "the server closed the connection without a reason"),
        HandshakeStage::Tuned => {
            let asked = |name: &str, value: Option<u64>| value.map(|value| format!("{name}={value}"));
            let settings: Vec<String> = [
                asked("frame_max", endpoint.frame_max.map(u64::from)),
                asked("channel_max", endpoint.channel_max.map(u64::from)),
                asked("heartbeat", endpoint.heartbeat.map(|heartbeat| heartbeat.as_secs())),
            ]
            .into_iter()
            .flatten()
            .collect();
            let settings = if settings.is_empty() {
                "a limit of the server may be reached".to_owned()
            } else {
                format!("it may not accept {} of the URL, or a limit of its own is reached", settings.join(" and "))
            };
            Error::new(
                ErrorKind::Connection,
                format!(
                    "{address} accepted the credentials and then closed the connection: {settings}; its log has the reason"
                ),
            )
        }
        HandshakeStage::Silent => Error::new(
            ErrorKind::Connection,
            format!(
                "{address} closed the connection during the AMQP handshake{}",
                match endpoint.transport {
                    Transport::Plain => ": is it an AMQP port, and does it perhaps expect TLS (amqps)?",
                    Transport::Tls => ": is it an AMQP port?",
                }
            ),
        ),
    }
}

/// A name as one word of a POSIX shell's command.
pub(crate) fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    // A name in front of which a dash stands would be an option.
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) {
        name.to_owned()
    } else if name.chars().any(char::is_control) {
        // What bash and zsh read, since a terminal would act on the characters themselves.
        let escaped = name.chars().map(|c| match c {
            '\\' | '\'' => format!("\\{c}"),
            c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        });
        format!("$'{}'", escaped.collect::<String>())
    } else {
        format!("'{}'", name.replace('\'', "'\\''"))
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
///
/// Only what the server said last is put into its mouth: lapin gives up a connection itself, too, at a frame that it does not expect.
pub(crate) fn lost(address: &str, error: Option<&lapin::Error>, farewell: Option<&Farewell>) -> Error {
    if let Some((NOT_ALLOWED, text)) = error.and_then(server_said)
        && text.contains("number of channels")
    {
        return Error::with_detail(
            ErrorKind::ConnectionLost,
            format!(
                "the broker at {address} closed the connection for one channel too many: {text}. Homing opens a channel for each \
                 subscriber, up to 256, and for each task that was pulled, and from now on has them share; it needs about four for \
                 a communicator: raise the limit (rabbitmqctl set_user_limits sets max-channels), or close other connections of \
                 this user"
            ),
            Detail::Limit(Limit::Channels),
        );
    }
    let why = match error {
        None => "it was closed".to_owned(),
        Some(error) => match (server_said(error), error.kind()) {
            (Some((_, text)), _) if matches!(farewell, Some(Farewell::Ended(..))) => {
                format!("the server closed it: {text}")
            }
            (Some((_, text)), _) => format!("what the server sent does not follow AMQP, and it was given up: {text}"),
            (None, lapin::ErrorKind::MissingHeartbeatError) => {
                "nothing came from the server for two heartbeats".to_owned()
            }
            (None, lapin::ErrorKind::IOError(cause)) if closed_in_handshake(cause) => {
                "the other end closed it without a reason (a restart, a kill, or the network)".to_owned()
            }
            (None, lapin::ErrorKind::IOError(cause)) => cause.to_string(),
            (None, _) => error.to_string(),
        },
    };
    Error::new(ErrorKind::ConnectionLost, format!("the connection to the broker at {address} was lost: {why}"))
}

/// The consuming connection did not end in order, so that nobody knows whether what was acknowledged last counts.
pub(crate) fn not_settled(address: &str, farewell: Option<&Farewell>) -> Error {
    let (kind, why) = match farewell {
        Some(Farewell::Ended(code, text)) if is_about_disk(*code, text) => (ErrorKind::Storage, text.as_str()),
        Some(Farewell::Ended(_, text)) => (ErrorKind::ConnectionLost, text.as_str()),
        _ => (ErrorKind::ConnectionLost, "it was lost before the broker had answered its end"),
    };
    let text = format!(
        "what was acknowledged last may come back: the connection to the broker at {address} was not closed in order"
    );
    Error::new(kind, format!("{text}: {why}"))
}

/// Whether a broker of homing's own cannot write something. The words are its.
fn is_about_disk(code: u16, text: &str) -> bool {
    code == RESOURCE_ERROR && text.contains("is not on the disk")
}

/// Whether lapin's error ends a channel only, and not the connection.
pub(crate) fn ends_a_channel(error: &lapin::Error) -> bool {
    error.is_amqp_soft_error()
        || finds_no_channel(error)
        || matches!(error.kind(), lapin::ErrorKind::ChannelsLimitReached)
}

/// Whether nothing was sent, since the channel is not there (any more).
pub(crate) fn finds_no_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::InvalidChannelState(..) | lapin::ErrorKind::InvalidChannel(_))
}

/// An operation failed; `what` reads after "could not", as in `declare the queue "q"`.
pub(crate) fn operation(what: &str, error: &lapin::Error) -> Error {
    if matches!(error.kind(), lapin::ErrorKind::ChannelsLimitReached) {
        return Error::with_detail(
            ErrorKind::Full,
            format!(
                "could not {what}: every channel that the server allows on this connection is in use; homing needs three at least \
                 (`channel_max` of the server's settings, or of the URL)"
            ),
            Detail::Limit(Limit::Channels),
        );
    }
    let Some((code, text)) = server_said(error) else {
        let kind = if ends_a_channel(error) { ErrorKind::InvalidState } else { ErrorKind::ConnectionLost };
        return Error::with_source(kind, format!("could not {what}: {error}"), error.clone());
    };
    match code {
        NOT_FOUND => Error::new(ErrorKind::NotFound, format!("could not {what}: {text}")),
        ACCESS_REFUSED => refused(what, text),
        RESOURCE_LOCKED => Error::new(
            ErrorKind::ResourceLocked,
            format!(
                "could not {what}: another connection has the queue for itself alone, and keeps it until it closes ({text})"
            ),
        ),
        PRECONDITION_FAILED => precondition(what, text),
        _ if is_about_disk(code, text) => Error::new(ErrorKind::Storage, format!("could not {what}: {text}")),
        _ if error.is_amqp_hard_error() => {
            Error::new(ErrorKind::ConnectionLost, format!("could not {what}: the server closed the connection: {text}"))
        }
        _ => Error::new(ErrorKind::InvalidState, format!("could not {what}: {text}")),
    }
}

/// The server refused a permission, or a name that is its own (`amq.`).
fn refused(what: &str, text: &str) -> Error {
    let Some(permission) = permission(what, text) else {
        return Error::new(ErrorKind::PermissionDenied, format!("could not {what}: {text}"));
    };
    let Permission { right, object, name } = &permission;
    let right = right.map_or(String::new(), |right| format!("{right} "));
    let message = format!(
        "could not {what}: the user lacks the {right}permission for the {object} {name:?} ({text}); an administrator gives it \
         by rabbitmqctl {}",
        if object == "topic" {
            "set_topic_permissions"
        } else {
            "set_permissions (a broker of homing's own: homing broker permission set)"
        }
    );
    Error::with_detail(ErrorKind::PermissionDenied, message, Detail::Permission(Box::new(permission)))
}

/// As in `ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'`; newer ones have the right before `access`.
fn permission(what: &str, text: &str) -> Option<Permission> {
    let (before, rest) = text.split_once("access to ")?;
    let (object, rest) = rest.split_once(" '")?;
    // A name may have quotes in it, so that one alone is not its end.
    let end = if object == "topic" { "' in exchange '" } else { "' in vhost '" };
    let (name, _) = rest.split_once(end)?;
    let said = ["configure", "write", "read"].into_iter().find(|right| before.contains(right));
    // A queue whose messages are to go on to an exchange takes reading it and writing there.
    let goes_on = what.starts_with("declare the queue") && object == "exchange";
    let said = said.or(goes_on.then_some("write"));
    let right = said.or(match (what.split(' ').next()?, object) {
        ("declare" | "delete", _) => Some("configure"),
        ("bind" | "unbind", "queue") | ("publish", _) => Some("write"),
        ("bind" | "unbind", _) | ("consume" | "get", _) => Some("read"),
        _ => None,
    });
    Some(Permission { right, object: object.to_owned(), name: name.to_owned() })
}

/// Whether the server closed the publishing channel for what this exchange refuses its user.
pub(crate) fn publish_refused(what: &str, exchange: &str, text: &str) -> Option<Error> {
    let error = refused(what, text);
    match error.detail() {
        Detail::Permission(permission) if permission.object == "topic" || permission.name == exchange => Some(error),
        _ => None,
    }
}

/// The time for an operation was over.
pub(crate) fn timed_out(what: &str, address: &str, limit: Duration) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!(
            "could not {what}: the broker at {address} did not answer within {limit:?}; whether it was done is not known"
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

fn precondition(what: &str, text: &str) -> Error {
    let kind = ErrorKind::PreconditionFailed;
    // As RabbitMQ words it from 3.8.15 on.
    if text.contains("delivery acknowledgement on channel") {
        return Error::with_detail(kind, format!("could not {what}: {text}"), Detail::DeliveryTimeout);
    }
    let Some(Inequivalent { argument, object, wanted, current }) = Inequivalent::read(text) else {
        return Error::new(kind, format!("could not {what}: {text}"));
    };
    let message = format!(
        "could not {what}: {object} exists with another {argument}: the server has {current}, this program asks for {wanted}. \
         Use the same settings as whoever declared it, or another name, or delete it on the server first"
    );
    let difference = Difference {
        object: object.to_owned(),
        argument: argument.to_owned(),
        have: current.to_owned(),
        want: wanted.to_owned(),
    };
    Error::with_detail(kind, message, Detail::Differs(Box::new(difference)))
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
    fn what_differs_stands_in_the_detail() {
        let said = "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'q' in vhost '/': received none but current \
                    is the value '60000' of type 'signedint'";
        let error = precondition("declare the queue \"q\"", said);
        let Detail::Differs(difference) = error.detail() else { panic!("{error:?}") };
        let Difference { argument, have, want, .. } = &**difference;
        assert_eq!((argument.as_str(), have.as_str(), want.as_str()), ("x-expires", "60000", "none"));
        let said =
            "PRECONDITION_FAILED - delivery acknowledgement on channel 2 timed out. Timeout value used: 1800000 ms";
        assert_eq!(precondition("keep lane 1 open", said).detail(), &Detail::DeliveryTimeout);
    }

    #[test]
    fn a_refused_permission_names_the_right_and_the_object() {
        for (what, text, right, object, name) in [
            (
                "declare the queue \"q\"",
                "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'",
                Some("configure"),
                "queue",
                "q",
            ),
            (
                "bind the queue \"q\" to the exchange \"e\" by \"k\"",
                "ACCESS_REFUSED - access to exchange 'e's' in vhost '/' refused for user 'u'",
                Some("read"),
                "exchange",
                "e's",
            ),
            (
                "declare the queue \"homing-delay-1000-q\"",
                "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'u'",
                Some("write"),
                "exchange",
                "amq.default",
            ),
            (
                "publish to \"k\" on the exchange \"e\"",
                "ACCESS_REFUSED - write access to topic 'k' in exchange 'e' in vhost '/' refused for user 'u'",
                Some("write"),
                "topic",
                "k",
            ),
        ] {
            let error = refused(what, text);
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(!error.is_connection());
            let (object, name) = (object.to_owned(), name.to_owned());
            assert_eq!(error.detail(), &Detail::Permission(Box::new(Permission { right, object, name })), "{text}");
        }
        // A reserved name is no matter of permissions.
        let reserved = "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'";
        assert_eq!(refused("declare the queue \"amq.x\"", reserved).detail(), &Detail::None);
    }

    fn at_home() -> Endpoint {
        let url =
            crate::broker::url::BrokerUrl::parse("amqp://it's%20me:s3cret@h/a%20b?frame_max=5000").expect("a URL");
        Endpoint::from_url(&url).expect("an endpoint")
    }

    #[test]
    fn not_allowed_is_explained_by_what_the_server_says() {
        for (text, kind, detail, part) in [
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u': connection limit (1) is reached",
                ErrorKind::Connection,
                Detail::Limit(Limit::Connections),
                "homing needs two",
            ),
            (
                "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is reached",
                ErrorKind::Connection,
                Detail::Limit(Limit::Connections),
                "homing needs two",
            ),
            ("NOT_ALLOWED - vhost a b not found", ErrorKind::AccessRefused, Detail::VirtualHost, "add_vhost 'a b'"),
            (
                "NOT_ALLOWED - vhost a b not found",
                ErrorKind::AccessRefused,
                Detail::VirtualHost,
                "homing broker vhost add 'a b'",
            ),
            (
                "NOT_ALLOWED - access to vhost 'a b' refused for user 'it's me'",
                ErrorKind::AccessRefused,
                Detail::VirtualHost,
                "-p 'a b' 'it'\\''s me' '.*'",
            ),
            (
                "NOT_ALLOWED - access to vhost 'a b' refused for user 'it's me'",
                ErrorKind::AccessRefused,
                Detail::VirtualHost,
                "homing broker permission set 'it'\\''s me' '.*' '.*' '.*' --vhost 'a b'",
            ),
            (
                "NOT_ALLOWED - access to vhost 'a b' refused for user 'u': vhost 'a b' is down",
                ErrorKind::AccessRefused,
                Detail::VirtualHost,
                "restart_vhost -p 'a b'",
            ),
        ] {
            let error = not_allowed(&at_home(), text);
            assert_eq!((error.kind(), error.detail()), (kind, &detail), "{error}");
            assert!(error.to_string().contains(part) && !error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn a_close_without_a_word_is_explained_by_how_far_the_handshake_came() {
        let said = |stage| closed_without_a_word(&at_home(), stage);
        assert_eq!(said(HandshakeStage::Greeted).kind(), ErrorKind::AccessRefused);
        assert!(said(HandshakeStage::Tuned).to_string().contains("may not accept frame_max=5000 of the URL"));
        assert!(said(HandshakeStage::Silent).to_string().contains("expect TLS"));
    }

    #[test]
    fn names_are_one_word_to_a_shell() {
        for (name, word) in [
            ("guest", "guest"),
            ("/", "/"),
            ("", "''"),
            ("a b", "'a b'"),
            ("-p", "'-p'"),
            ("$(x)", "'$(x)'"),
            ("it's", "'it'\\''s'"),
            ("a\nb\u{1b}'\\\u{85}é", "$'a\\x0ab\\x1b\\'\\\\\\u0085é'"),
        ] {
            assert_eq!(quoted(name), word);
        }
    }
}
