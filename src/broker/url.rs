//! A broker's URL, read as aio-pika reads it, since that is what kiwipy's users write.
//!
//! `amqp://user:password@host:port/vhost?heartbeat=600`; user, password and virtual host percent-escaped. Without a slash
//! after the host, or with nothing behind it, the virtual host is `/`, as in aio-pika (the AMQP URI specification would
//! read the latter as an empty name). No error about a URL repeats it: it may hold a password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// Where a broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BrokerUrl {
    /// Inside this process; without a name it is the connection's own.
    Memory {
        name: Option<String>,
    },
    Amqp(Box<AmqpUrl>),
    /// A broker of our own on this machine, inside one of the processes that use it.
    Local(LocalPlace),
    /// The broker of the simulation that the calling code runs in.
    #[cfg(test)]
    Simulated {
        name: String,
    },
}

/// Which of the brokers of our own on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LocalPlace {
    /// In the user's directory of data, under this name.
    Named(String),
    /// In this directory.
    At(PathBuf),
}

/// The name of a local broker that has none.
const LOCAL_DEFAULT: &str = "default";

impl LocalPlace {
    fn parse(text: &str) -> Result<Self> {
        if text.starts_with('/') {
            return Ok(LocalPlace::At(PathBuf::from(text)));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.starts_with('.') || !text.chars().all(plain) || text.len() > 64 {
            return Err(bad(
                "what follows local: is neither a name (letters, digits, `-`, `_` and `.`, up to 64) nor a directory that \
                 begins with a slash",
            ));
        }
        Ok(LocalPlace::Named(if text.is_empty() { LOCAL_DEFAULT.to_owned() } else { text.to_owned() }))
    }
}

/// Whether the connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

/// A RabbitMQ, and who we are there.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AmqpUrl {
    pub transport: Transport,
    pub host: String,
    pub port: u16,
    pub username: String,
    pub password: String,
    pub vhost: String,
    pub heartbeat: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub channel_max: Option<u16>,
    pub frame_max: Option<u32>,
    /// Shown in the server's list of connections.
    pub connection_name: Option<String>,
    /// A file of certificates in PEM that sign the server's.
    pub ca_file: Option<String>,
    /// A file of the client's own certificate in PEM, and of its key.
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    /// The name that the server's certificate has to have, where it is not the host.
    pub server_name: Option<String>,
}

/// The longest time that a connection may take, where there is a limit.
const A_DAY: Duration = Duration::from_secs(86_400);

/// With fewer channels a communicator could not do all of its kinds of work.
const FEWEST_CHANNELS: u64 = 8;

/// The least that AMQP allows.
pub(crate) const SMALLEST_FRAME: u32 = 4096;

/// No larger frames are agreed on: lapin allocates 64 times this.
pub(crate) const LARGEST_FRAME: u32 = 1 << 20;

/// A short string of AMQP, which the name of a virtual host is.
const LONGEST_VHOST: usize = 255;

/// What a connection is called goes into the one frame of the login, of which RabbitMQ reads 4096 bytes.
pub(crate) const LONGEST_CONNECTION_NAME: usize = 1000;

const EXAMPLE: &str = "a broker's URL looks like amqp://user:password@host:5672/vhost, local: or memory:";

impl BrokerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// `InvalidArgument`, which names the part that is wrong and repeats none that could hold a secret.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("memory:") {
            if name.contains('/') {
                return Err(bad("the name after memory: must not contain a slash"));
            }
            return Ok(BrokerUrl::Memory { name: (!name.is_empty()).then(|| name.to_owned()) });
        }
        if let Some(place) = text.strip_prefix("local:") {
            return LocalPlace::parse(place).map(BrokerUrl::Local);
        }
        #[cfg(test)]
        if let Some(name) = text.strip_prefix("simulated:") {
            return Ok(BrokerUrl::Simulated { name: name.to_owned() });
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad("it has no scheme such as amqp:// before the host"));
        };
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => Transport::Plain,
            "amqps" => Transport::Tls,
            _ => return Err(bad("its scheme is not amqp, amqps, local or memory")),
        };
        AmqpUrl::parse(transport, rest).map(|url| BrokerUrl::Amqp(Box::new(url)))
    }

    /// Reads several, with commas between them, which are all of one kind. A comma is the beginning of another URL only where
    /// a scheme follows, for a password may have one.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_list(text: &str) -> Result<Vec<Self>> {
        let mut urls = Vec::new();
        let mut rest = text;
        loop {
            let lower = rest.to_ascii_lowercase();
            let end = lower.match_indices(',').map(|(at, _)| at).find(|at| {
                ["amqp://", "amqps://", "local:", "memory:"]
                    .iter()
                    .any(|scheme| lower[at + 1..].trim_start().starts_with(scheme))
            });
            let (url, more) = end.map_or((rest, None), |at| (&rest[..at], Some(&rest[at + 1..])));
            urls.push(Self::parse(url.trim())?);
            match more {
                Some(more) => rest = more,
                None => break,
            }
        }
        let alone = |url: &Self| matches!(url, BrokerUrl::Memory { .. } | BrokerUrl::Local(_));
        if urls.iter().any(alone) && urls.len() > 1 {
            return Err(bad("memory: and local: cannot be one of several brokers"));
        }
        Ok(urls)
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, BrokerUrl::Memory { .. })
    }
}

impl AmqpUrl {
    fn parse(transport: Transport, rest: &str) -> Result<Self> {
        // Guards: a password with this sign, of which only the beginning would be read, as a host and a port.
        if rest.contains('#') {
            return Err(bad("it has a `#`, which means nothing there; in a name or a password it is written %23"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (username, password) = match user {
            None => ("guest".to_owned(), "guest".to_owned()),
            Some(user) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (unescape(name, "its user name")?, unescape(password, "its password")?)
            }
        };
        if user.is_none() && path.contains('@') {
            return Err(bad(
                "it has a `/` before the `@`: in a password it is written %2F, and an `@` in a virtual host %40",
            ));
        }
        let (host, port) = host_and_port(address)?;
        let default_port = match transport {
            Transport::Plain => 5672,
            Transport::Tls => 5671,
        };
        // `//` is how some write the virtual host `/`.
        let vhost = match path {
            "" | "/" => "/".to_owned(),
            path => unescape(path, "its virtual host")?,
        };
        if vhost.len() > LONGEST_VHOST {
            return Err(bad(&format!("its virtual host has {} bytes; AMQP allows {LONGEST_VHOST}", vhost.len())));
        }
        if username.contains('\0') || password.contains('\0') {
            return Err(bad("its user name or password has a zero byte (%00), which ends a name at the login"));
        }
        let mut url = AmqpUrl {
            transport,
            host,
            port: port.unwrap_or(default_port),
            username,
            password,
            vhost,
            heartbeat: None,
            connect_timeout: None,
            channel_max: None,
            frame_max: None,
            connection_name: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
        };
        let mut set = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = unescape(name, "the name of a parameter")?;
            url.set(&name, &unescape(value, "the value of a parameter")?)?;
            if set.contains(&name) {
                return Err(bad(&format!("it has its parameter {name} twice")));
            }
            set.push(name);
        }
        Ok(url)
    }

    /// The parameters of RabbitMQ's URI query specification and those of aio-pika.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let number = |most: u64| match value.parse::<u64>() {
            Ok(number) if number <= most => Ok(number),
            _ => Err(bad(&format!("its parameter {name} is not a number from 0 to {most}"))),
        };
        // Zero is how one leaves it to the server.
        let limit = |least: u64, most: u64, why: &str| match value.parse::<u64>() {
            Ok(0) => Ok(None),
            Ok(number) if number >= least && number <= most => Ok(Some(number)),
            _ => Err(bad(&format!(
                "its parameter {name} is not from {least} to {most}, nor 0 for what the server has: {why}"
            ))),
        };
        let is_about_tls = [
            "cacertfile",
            "cafile",
            "capath",
            "cadata",
            "certfile",
            "keyfile",
            "server_name_indication",
            "verify",
            "no_verify_ssl",
        ]
        .contains(&name);
        if is_about_tls && self.transport == Transport::Plain {
            return Err(bad(&format!("its parameter {name} is about TLS, for which the scheme is amqps://")));
        }
        match name {
            // 0 is none.
            "heartbeat" => self.heartbeat = Some(Duration::from_secs(number(u16::MAX.into())?)),
            "connection_timeout" => {
                self.connect_timeout = Some(no_limit_if_zero(Duration::from_millis(number(86_400_000)?)));
            }
            // aio-pika's, in seconds.
            "timeout" => match value.parse::<f64>().ok().and_then(|time| Duration::try_from_secs_f64(time).ok()) {
                Some(time) if time <= A_DAY => self.connect_timeout = Some(no_limit_if_zero(time)),
                _ => return Err(bad("its parameter timeout is not a number of seconds from 0 to 86400")),
            },
            "channel_max" => {
                let why = "a communicator needs a channel for each of its kinds of work";
                self.channel_max =
                    limit(FEWEST_CHANNELS, u16::MAX.into(), why)?.and_then(|most| u16::try_from(most).ok());
            }
            "frame_max" => {
                let why = "AMQP asks for the former, and memory is allocated by it";
                let most = limit(SMALLEST_FRAME.into(), LARGEST_FRAME.into(), why)?;
                self.frame_max = most.and_then(|most| u32::try_from(most).ok());
            }
            "name" if value.len() > LONGEST_CONNECTION_NAME => {
                return Err(bad(&format!(
                    "its parameter name has {} bytes; {LONGEST_CONNECTION_NAME} are allowed",
                    value.len()
                )));
            }
            "name" => self.connection_name = Some(value.to_owned()),
            "cacertfile" | "cafile" => self.ca_file = Some(value.to_owned()),
            "certfile" => self.cert_file = Some(value.to_owned()),
            "keyfile" => self.key_file = Some(value.to_owned()),
            // RabbitMQ's word for sending no name.
            "server_name_indication" if ["", "disable"].contains(&value) => {
                return Err(bad(
                    "its parameter server_name_indication has no name; one is always sent, the host's where the parameter is left out",
                ));
            }
            "server_name_indication" => self.server_name = Some(value.to_owned()),
            "verify" if value == "verify_peer" => {}
            "verify" if value != "verify_none" => {
                return Err(bad("its parameter verify is neither verify_peer nor verify_none"));
            }
            "no_verify_ssl" if ["0", "false"].contains(&value) => {}
            "verify" | "no_verify_ssl" => {
                return Err(bad(
                    "it asks not to verify the server's certificate, which this program always does; give its CA by \
                     cacertfile=FILE",
                ));
            }
            "auth_mechanism" | "auth" if value.eq_ignore_ascii_case("plain") => {}
            "auth_mechanism" | "auth" => {
                return Err(bad(
                    "it asks for another way to log in than by name and password (PLAIN), which is the only one here",
                ));
            }
            "reconnect_interval" | "fail_fast" => {
                return Err(bad(&format!(
                    "its parameter {name} is one of aio-pika's reconnecting; use CommunicatorBuilder::reconnect instead"
                )));
            }
            "capath" | "cadata" => {
                return Err(bad(&format!(
                    "its parameter {name} cannot be obeyed; give the certificates in one file by cacertfile=FILE"
                )));
            }
            _ => {
                return Err(bad(
                    "it has a parameter that is not known; known are heartbeat, connection_timeout, timeout, channel_max, \
                     frame_max, name, cacertfile, certfile, keyfile, server_name_indication and verify",
                ));
            }
        }
        Ok(())
    }
}

/// aio-pika, and RabbitMQ's URI query specification, mean no limit by 0.
fn no_limit_if_zero(time: Duration) -> Duration {
    if time.is_zero() { Duration::MAX } else { time }
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(bad("its IPv6 address lacks the closing bracket"));
        };
        // A zone may follow, as in fe80::1%25eth0 (RFC 6874).
        let (digits, zone) = host.split_once("%25").unwrap_or((host, "zone"));
        if digits.parse::<std::net::Ipv6Addr>().is_err() || zone.is_empty() {
            return Err(bad("the text in brackets is not an IPv6 address"));
        }
        match rest {
            "" => (host, None),
            rest => match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(bad("what follows the IPv6 address is not a port")),
            },
        }
    } else {
        address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port)))
    };
    let port = match port {
        None | Some("") => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            _ => {
                return Err(bad(
                    "its port is not a number from 1 to 65535; a `:`, `/`, `@` or `?` in a password is written %3A, %2F, %40, %3F",
                ));
            }
        },
    };
    let host = unescape(host, "its host")?;
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad("its host contains white space or a control character"));
    }
    Ok((if host.is_empty() { "localhost".to_owned() } else { host }, port))
}

/// Percent-escapes, as text.
fn unescape(text: &str, what: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(bad(&format!(
                "{what} has a % that is not followed by two hex digits; a % itself is written %25"
            )));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad(&format!("{what} is not UTF-8 when its escapes are read")))
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("the broker's URL cannot be used: {why}; {EXAMPLE}"))
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerUrl::Memory { name } => write!(f, "memory:{}", name.as_deref().unwrap_or("")),
            BrokerUrl::Amqp(url) => url.fmt(f),
            BrokerUrl::Local(LocalPlace::Named(name)) if name == LOCAL_DEFAULT => f.write_str("local:"),
            BrokerUrl::Local(LocalPlace::Named(name)) => write!(f, "local:{name}"),
            BrokerUrl::Local(LocalPlace::At(path)) => write!(f, "local:{}", path.display()),
            #[cfg(test)]
            BrokerUrl::Simulated { name } => write!(f, "simulated:{name}"),
        }
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.transport {
            Transport::Plain => "amqp",
            Transport::Tls => "amqps",
        };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        let (user, host, port) = (&self.username, &self.host, self.port);
        let vhost = if self.vhost == "/" { "" } else { &self.vhost };
        write!(f, "{scheme}://{user}:***@{open}{host}{close}:{port}/{vhost}")
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amqp(text: &str) -> AmqpUrl {
        match BrokerUrl::parse(text).unwrap() {
            BrokerUrl::Amqp(url) => *url,
            other => panic!("{text} is read as {other}"),
        }
    }

    #[test]
    fn a_url_without_a_slash_means_the_virtual_host_slash() {
        let url = amqp("amqp://guest:guest@127.0.0.1:5672?heartbeat=600");
        assert_eq!((url.vhost.as_str(), url.port, url.heartbeat), ("/", 5672, Some(Duration::from_secs(600))));
        for text in ["amqp://h", "amqp://h/", "amqp://h//", "amqp://h/%2F", "amqp://h/%2f"] {
            assert_eq!(amqp(text).vhost, "/", "{text}");
        }
        assert_eq!(amqp("amqp://h/a%2fb%20c").vhost, "a/b c");
    }

    #[test]
    fn credentials_are_unescaped_and_never_shown() {
        let url = amqp("amqp://us%40er:p%3A%2F%25ss@h/v");
        assert_eq!((url.username.as_str(), url.password.as_str()), ("us@er", "p:/%ss"));
        let shown = format!("{url} {url:?} {:?}", BrokerUrl::Amqp(Box::new(url.clone())));
        assert!(!shown.contains("%ss") && shown.contains("***"), "{shown}");
    }

    #[test]
    fn defaults_are_rabbitmqs() {
        let url = amqp("amqp://");
        assert_eq!((url.host.as_str(), url.port, url.username.as_str()), ("localhost", 5672, "guest"));
        assert_eq!(amqp("amqps://h").port, 5671);
        assert_eq!(amqp("AMQP://[::1]:7/").host, "::1");
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong_and_not_its_password() {
        for text in [
            "",
            "localhost",
            "http://u:sEcret@h",
            "amqp://u:sEcret@h:port",
            "amqp://u:sEcret@h:0",
            "amqp://u:sEcret@h:70000",
            "amqp://u:sEcret%@h",
            "amqp://u:sEcret@[::1",
            "amqp://u:sEcret@[zz]",
            "amqp://u:sEcret@h?what=1",
            "amqp://u:sEcret@h?heartbeat=x",
            "amqp://u:s/Ecret@h",
            "amqp://u:sEcret@h h",
            "amqps://u:sEcret@h?verify=verify_none",
            "amqp://u:sEcret@h/%ff",
            "memory://sEcret",
            "amqp://u:sEcret@h?frame_max=4095",
            "amqp://u:sEcret@h?frame_max=1048577",
            "amqp://u:sEcret@h?frame_max=99999999999999999999",
            "amqp://u:sEcret@h?channel_max=1",
            "amqp://u:sEcret@h?channel_max=7",
            "amqp://u:sEcret@h?channel_max=65536",
            "amqp://u:sEcret@h?heartbeat=65536",
            "amqp://u:sEcret@h?heartbeat=-1",
            "amqp://u:sEcret@h?connection_timeout=86400001",
            "amqp://u:sEcret@h?timeout=1e300",
            "amqp://u:sEcret@h?timeout=nan",
            "amqp://u:sEcret@h?reconnect_interval=5",
            "amqp://u:sEcret@h?auth_mechanism=external",
            "amqps://u:sEcret@h?cadata=x",
            "amqp://u:sEcret@[::1%25]",
            "amqp://u:sEcret@[%25lo]",
            "amqp://u%00x:sEcret@h",
            "amqp://u:sEcret%00@h",
            "amqp://u:7#sEcret@h",
            "amqp://u:7/sEcret@h",
            "amqp://u:7?sEcret@h",
            "amqp://h?heartbeat=5#sEcret",
            "amqp://u:sEcret@h?heartbeat=5&heartbeat=5",
            "amqp://u:sEcret@h?cacertfile=x",
            "amqp://u:sEcret@h?certfile=x",
            "amqp://u:sEcret@h?keyfile=x",
            "amqp://u:sEcret@h?server_name_indication=x",
            "amqp://u:sEcret@h?verify=verify_peer",
            "amqp://u:sEcret@h?no_verify_ssl=1",
            "amqps://u:sEcret@h?verify=",
            "amqps://u:sEcret@h?no_verify_ssl=1",
            "amqps://u:sEcret@h?server_name_indication=disable",
            "amqps://u:sEcret@h?server_name_indication=",
            &format!("amqp://u:sEcret@h/{}", "v".repeat(256)),
            &format!("amqp://u:sEcret@h/{}", "%C3%A9".repeat(128)),
            &format!("amqp://u:sEcret@h?name={}", "n".repeat(1001)),
        ] {
            let error = BrokerUrl::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(!format!("{error} {error:?}").contains("Ecret"), "{error}");
        }
    }

    #[test]
    fn the_error_of_a_url_names_its_cause() {
        for (text, cause) in [
            ("amqp://h?frame_max=x", "from 4096 to 1048576"),
            ("amqp://h?channel_max=", "from 8 to 65535"),
            ("amqp://u:7#x@h", "%23"),
            ("amqp://u:7/x@h", "%2F"),
            ("amqp://h?name=%ff", "the value of a parameter is not UTF-8"),
            ("amqp://h?heartbeat=1&heartbeat=2", "heartbeat twice"),
            ("amqp://h?cacertfile=x", "amqps://"),
            ("amqps://h?verify=peer", "neither verify_peer nor verify_none"),
            ("amqps://h?verify=verify_none", "not to verify"),
            ("amqps://h?server_name_indication=disable", "has no name"),
        ] {
            let error = BrokerUrl::parse(text).expect_err(text).to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
        let url = amqp("amqps://h?no_verify_ssl=0&verify=verify_peer&server_name_indication=other");
        assert_eq!(url.server_name.as_deref(), Some("other"));
    }

    #[test]
    fn parameters_at_their_bounds_are_taken_as_they_stand() {
        let url = amqp("amqp://h?frame_max=4096&channel_max=8&heartbeat=0&name=my%20worker&auth=PLAIN");
        assert_eq!((url.frame_max, url.channel_max, url.heartbeat), (Some(4096), Some(8), Some(Duration::ZERO)));
        assert_eq!(url.connection_name.as_deref(), Some("my worker"));
        let url = amqp("amqp://h?frame_max=1048576&channel_max=65535&heartbeat=65535");
        assert_eq!((url.frame_max, url.channel_max), (Some(1 << 20), Some(65_535)));
        assert_eq!(url.heartbeat, Some(Duration::from_secs(65_535)));
        let url = amqp("amqp://h?frame_max=0&channel_max=0");
        assert_eq!((url.frame_max, url.channel_max), (None, None), "what the server has");
        for text in ["amqp://h?connection_timeout=0", "amqp://h?timeout=0", "amqp://h?timeout=0.0"] {
            assert_eq!(amqp(text).connect_timeout, Some(Duration::MAX), "{text}: no limit");
        }
        assert_eq!(amqp("amqp://h?timeout=2.5").connect_timeout, Some(Duration::from_millis(2500)));
    }

    #[test]
    fn an_address_may_have_a_zone() {
        let url = amqp("amqp://[fe80::1%25eth0]:7/");
        assert_eq!((url.host.as_str(), url.port), ("fe80::1%eth0", 7));
        assert_eq!(amqp("amqp://[::1%25lo]").host, "::1%lo");
    }

    #[test]
    fn memory_brokers_have_a_name_or_none() {
        assert_eq!(BrokerUrl::parse("memory:").unwrap(), BrokerUrl::Memory { name: None });
        assert_eq!(BrokerUrl::parse("memory:x").unwrap(), BrokerUrl::Memory { name: Some("x".into()) });
    }

    #[test]
    fn local_brokers_have_a_name_or_a_directory() {
        let named = |name: &str| Ok(BrokerUrl::Local(LocalPlace::Named(name.to_owned())));
        assert_eq!(BrokerUrl::parse("local:").map_err(|_| ()), named("default"));
        assert_eq!(BrokerUrl::parse("local:my-jobs.2").map_err(|_| ()), named("my-jobs.2"));
        assert_eq!(BrokerUrl::parse("local:/a/b c").unwrap(), BrokerUrl::Local(LocalPlace::At("/a/b c".into())));
        for text in ["local:", "local:x", "local:/a/b"] {
            assert_eq!(BrokerUrl::parse(text).unwrap().to_string(), text);
        }
        for text in
            ["local:a/b", "local:../x", "local:.x", "local:a b", "local:é", &format!("local:{}", "n".repeat(65))]
        {
            assert_eq!(BrokerUrl::parse(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text}");
        }
        assert!(BrokerUrl::parse_list("local:,amqp://h").is_err());
    }

    #[test]
    fn no_text_makes_it_panic() {
        let pieces =
            ["amqp", "://", ":", "@", "/", "?", "%", "%2", "%2F", "[", "]", "é", "h", "&", "=", "#", "7", "heartbeat"];
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let mut text = if seed.is_multiple_of(2) { "amqp://".to_owned() } else { String::new() };
            for _ in 0..seed % 9 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[usize::try_from(seed >> 33).unwrap() % pieces.len()]);
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let _ = BrokerUrl::parse(&text);
        }
    }
}
