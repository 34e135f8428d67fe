//! A broker's URL, read as aio-pika reads it, since that is what kiwipy's users write.
//!
//! `amqp://user:password@host:port/vhost?heartbeat=600`; user, password and virtual host percent-escaped. Without a slash
//! after the host, or with nothing behind it, the virtual host is `/`, as in aio-pika (the AMQP URI specification would
//! read the latter as an empty name). No error about a URL repeats it: it may hold a password.

use std::fmt;
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
    /// A file of certificates in PEM that sign the server's.
    pub ca_file: Option<String>,
    /// A file of the client's own certificate in PEM, and of its key.
    pub cert_file: Option<String>,
    pub key_file: Option<String>,
    /// The name that the server's certificate has to have, where it is not the host.
    pub server_name: Option<String>,
}

const EXAMPLE: &str = "a broker's URL looks like amqp://user:password@host:5672/vhost, or memory:";

impl BrokerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// `InvalidArgument` that says which part is wrong, and repeats none that could hold a secret.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(name) = text.strip_prefix("memory:") {
            if name.contains('/') {
                return Err(bad("after memory: comes a plain name, without slashes"));
            }
            return Ok(BrokerUrl::Memory { name: (!name.is_empty()).then(|| name.to_owned()) });
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(bad("it has no scheme such as amqp:// before the host"));
        };
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "amqp" => Transport::Plain,
            "amqps" => Transport::Tls,
            _ => return Err(bad("its scheme is none of amqp, amqps and memory")),
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
                ["amqp://", "amqps://", "memory:"].iter().any(|scheme| lower[at + 1..].trim_start().starts_with(scheme))
            });
            let (url, more) = end.map_or((rest, None), |at| (&rest[..at], Some(&rest[at + 1..])));
            urls.push(Self::parse(url.trim())?);
            match more {
                Some(more) => rest = more,
                None => break,
            }
        }
        if urls.iter().any(BrokerUrl::is_memory) && urls.len() > 1 {
            return Err(bad("a broker inside this process stands in no list"));
        }
        Ok(urls)
    }

    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, BrokerUrl::Memory { .. })
    }
}

impl AmqpUrl {
    fn parse(transport: Transport, rest: &str) -> Result<Self> {
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let (username, password) = match user {
            None => ("guest".to_owned(), "guest".to_owned()),
            Some(user) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                (unescape(name, "user name")?, unescape(password, "password")?)
            }
        };
        let (host, port) = host_and_port(address)?;
        let default_port = match transport {
            Transport::Plain => 5672,
            Transport::Tls => 5671,
        };
        // `//` is how some write the virtual host `/`.
        let vhost = match path {
            "" | "/" => "/".to_owned(),
            path => unescape(path, "virtual host")?,
        };
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
            ca_file: None,
            cert_file: None,
            key_file: None,
            server_name: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            url.set(&unescape(name, "name of a parameter")?, &unescape(value, "value of a parameter")?)?;
        }
        Ok(url)
    }

    /// The parameters of RabbitMQ's URI query specification and those of aio-pika.
    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let number = |most: u64| match value.parse::<u64>() {
            Ok(number) if number <= most => Ok(number),
            _ => Err(bad(&format!("its parameter {name} is no number from 0 to {most}"))),
        };
        match name {
            "heartbeat" => self.heartbeat = Some(Duration::from_secs(number(u16::MAX.into())?)),
            "connection_timeout" => self.connect_timeout = Some(Duration::from_millis(number(86_400_000)?)),
            // aio-pika's, in seconds.
            "timeout" => match value.parse::<f64>().ok().and_then(|time| Duration::try_from_secs_f64(time).ok()) {
                Some(time) => self.connect_timeout = Some(time),
                None => return Err(bad("its parameter timeout is no number of seconds")),
            },
            "channel_max" => self.channel_max = u16::try_from(number(u16::MAX.into())?).ok(),
            "frame_max" => self.frame_max = u32::try_from(number(u32::MAX.into())?).ok(),
            "cacertfile" | "cafile" => self.ca_file = Some(value.to_owned()),
            "certfile" => self.cert_file = Some(value.to_owned()),
            "keyfile" => self.key_file = Some(value.to_owned()),
            "server_name_indication" => self.server_name = Some(value.to_owned()),
            "verify" if value == "verify_peer" => {}
            "verify" | "no_verify_ssl" => {
                return Err(bad(
                    "it asks not to verify the server's certificate, which this program always does; give its CA by \
                     cacertfile=FILE",
                ));
            }
            // Of aio-pika's reconnecting, and of other mechanisms: nothing to do here, and no reason to fail.
            "name" | "reconnect_interval" | "fail_fast" | "auth_mechanism" | "auth" | "product" | "capath"
            | "cadata" => {
                tracing::warn!(parameter = name, "this parameter of the broker's URL is not used");
            }
            _ => {
                return Err(bad(
                    "it has a parameter that is not known; known are heartbeat, connection_timeout, timeout, channel_max, \
                     frame_max, cacertfile, certfile, keyfile, server_name_indication and verify",
                ));
            }
        }
        Ok(())
    }
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err(bad("its IPv6 address lacks the closing bracket"));
        };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad("what stands in brackets is no IPv6 address"));
        }
        match rest {
            "" => (host, None),
            rest => match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(bad("after the IPv6 address comes something that is no port")),
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
                    "its port is no number from 1 to 65535; a `:`, `/` or `@` in a password is written %3A, %2F, %40",
                ));
            }
        },
    };
    let host = unescape(host, "host")?;
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad("its host has a blank in it"));
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
                "its {what} has a % that is not followed by two hex digits; a % itself is written %25"
            )));
        };
        bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad(&format!("its {what} is not UTF-8 when its escapes are read")))
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("the broker's URL cannot be used: {why}. {EXAMPLE}"))
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerUrl::Memory { name } => write!(f, "memory:{}", name.as_deref().unwrap_or("")),
            BrokerUrl::Amqp(url) => url.fmt(f),
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
            BrokerUrl::Memory { .. } => panic!("{text} is no memory broker"),
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
        ] {
            let error = BrokerUrl::parse(text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(!format!("{error} {error:?}").contains("Ecret"), "{error}");
        }
    }

    #[test]
    fn memory_brokers_have_a_name_or_none() {
        assert_eq!(BrokerUrl::parse("memory:").unwrap(), BrokerUrl::Memory { name: None });
        assert_eq!(BrokerUrl::parse("memory:x").unwrap(), BrokerUrl::Memory { name: Some("x".into()) });
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
