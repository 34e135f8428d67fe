//! RabbitMQ's management API, by HTTP or HTTPS: no redirects, no proxies, and never a credential in a text.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value as Json;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use url::Url;

use crate::failure::Failure;

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// No answer that is asked for here comes near this.
const LARGEST: u64 = 16 << 20;

#[derive(Clone)]
pub(crate) struct Management {
    agent: ureq::Agent,
    /// Without credentials, and without a slash at its end.
    base: String,
    authorization: String,
}

/// What the API answered.
pub(crate) struct Answer {
    pub status: u16,
    /// Null where it was no JSON.
    pub body: Json,
}

impl Management {
    /// Reads `https://USER:PASSWORD@HOST:PORT`, or `http://…`; the port is 15671 or 15672 unless given, the user guest. An authority
    /// of one's own is given by `?cacertfile=FILE`, beside those that the system trusts.
    pub(crate) fn at(url: &str) -> Result<Self, Failure> {
        // No part of it is repeated, for it may hold a password.
        let bad = |why: &str| {
            Failure::Usage(format!(
                "the management URL cannot be used: {why}; it looks like https://user:password@host:15671 or \
                 http://user:password@host:15672"
            ))
        };
        let secure = match url.split_once("://") {
            Some(("https", _)) => true,
            Some(("http", _)) => false,
            _ => return Err(bad("it begins neither with https:// nor with http://")),
        };
        // An unescaped `/` or `@` in the password ends here.
        let read = Url::parse(url)
            .map_err(|_| bad("its host or port is wrong; a `/` or `@` in a password is written %2F, %40"))?;
        let text = |part: &str, why: &str| unescape(part).ok_or_else(|| bad(why));
        let credentials = match (read.username(), read.password()) {
            ("", None) => b"guest:guest".to_vec(),
            (name, password) => {
                let name = text(name, "its user name has a wrong %")?;
                let password = text(password.unwrap_or(""), "its password has a wrong %")?;
                [name.as_slice(), b":", password.as_slice()].concat()
            }
        };
        let host = read.host_str().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host"))?;
        let port = read.port().unwrap_or_else(|| default_port(url, secure));
        let scheme = if secure { "https" } else { "http" };
        let base = format!("{scheme}://{host}:{port}{}", read.path().trim_end_matches('/'));
        let mut authorities = None;
        for (name, value) in read.query_pairs() {
            match &*name {
                "cacertfile" if secure => authorities = Some(certificates(&value)?),
                _ => return Err(bad("of what may stand behind a `?` it takes cacertfile, with https")),
            }
        }
        let mut config = ureq::Agent::config_builder()
            .timeout_global(Some(QUESTION))
            .http_status_as_error(false)
            // The credentials go to that host and to no other.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None);
        if secure {
            // What the broker's own connection trusts.
            let system = rustls_native_certs::load_native_certs().certs;
            let system = system.iter().map(|der| Certificate::from_der(der).to_owned());
            let trusted: Vec<_> = authorities.into_iter().flatten().chain(system).collect();
            config = config.tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&trusted)).build());
        }
        let authorization = format!("Basic {}", BASE64.encode(credentials));
        Ok(Management { agent: config.build().into(), base, authorization })
    }

    pub(crate) fn get(&self, path: &str) -> Result<Answer, String> {
        let asked = self.agent.get(format!("{}{path}", self.base)).header("Authorization", &self.authorization).call();
        self.read(asked)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer, String> {
        let asked =
            self.agent.delete(format!("{}{path}", self.base)).header("Authorization", &self.authorization).call();
        self.read(asked)
    }

    fn read(&self, asked: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
        let failed = |error: ureq::Error| format!("no answer from the management API at {}: {error}", self.base);
        let mut response = asked.map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec().map_err(failed)?;
        Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or(Json::Null) })
    }
}

/// The port of a URL that names none, or that which HTTP has by default, which `url` leaves out.
fn default_port(url: &str, secure: bool) -> u16 {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    match (secure, secure && authority.ends_with(":443"), !secure && authority.ends_with(":80")) {
        (_, true, _) => 443,
        (_, _, true) => 80,
        (true, ..) => 15671,
        (false, ..) => 15672,
    }
}

/// The certificates in a file.
fn certificates(file: &str) -> Result<Vec<Certificate<'static>>, Failure> {
    let bad = |why: String| Failure::Usage(format!("the file {file:?} of the management URL cannot be used: {why}"));
    let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| bad(error.to_string()))? {
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(certificates) }
}

/// A name as one segment of a path.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &after[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_management_url_is_read_and_its_credentials_are_kept_out_of_the_base() {
        for (url, base, credentials) in [
            ("http://u:p%40%2F@h:1/", "http://h:1", "u:p@/"),
            ("http://h", "http://h:15672", "guest:guest"),
            ("http://u@[::1]/rabbit/", "http://[::1]:15672/rabbit", "u:"),
            ("https://u:p@h", "https://h:15671", "u:p"),
            ("https://u:p@h:443/api/", "https://h:443/api", "u:p"),
            ("http://u:p%3A80@h:80", "http://h:80", "u:p:80"),
        ] {
            let Ok(management) = Management::at(url) else { panic!("{url} was refused") };
            assert_eq!(management.base, base);
            assert_eq!(management.authorization, format!("Basic {}", BASE64.encode(credentials)));
        }
    }

    #[test]
    fn a_wrong_management_url_is_refused_without_being_repeated() {
        for url in [
            "ftp://u:sEcret@h",
            "u:sEcret@h",
            "http://u:sEcret@h:port",
            "http://u:s/Ecret@h",
            "http://u:sEcret%@h",
            "https://u:sEcret@h?cacertfile=/no/such/file",
            "http://u:sEcret@h?cacertfile=x",
            "https://u:sEcret@h?x=sEcret",
        ] {
            let Err(failure) = Management::at(url) else { panic!("{url} was taken") };
            assert!(!failure.to_string().contains("Ecret"), "{failure}");
        }
    }

    #[test]
    fn names_are_escaped_to_one_segment() {
        assert_eq!(segment("/"), "%2F");
        assert_eq!(segment("a b/é?"), "a%20b%2F%C3%A9%3F");
    }
}
