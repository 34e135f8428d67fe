//! RabbitMQ's management API, by plain HTTP: no redirects, no proxies, and never a credential in a text.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value as Json;

use crate::failure::Failure;

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// No answer that is asked for here comes near this.
const LARGEST: u64 = 16 << 20;

#[derive(Clone)]
pub(super) struct Management {
    agent: ureq::Agent,
    /// Without credentials, and without a slash at its end.
    base: String,
    authorization: String,
}

/// What the API answered.
pub(super) struct Answer {
    pub status: u16,
    /// Null where it was no JSON.
    pub body: Json,
}

impl Management {
    /// Reads `http://USER:PASSWORD@HOST:PORT`; the port is 15672 unless given, the user guest.
    pub(super) fn at(url: &str) -> Result<Self, Failure> {
        let bad = |why: &str| {
            Failure::Usage(format!(
                "the management URL cannot be used: {why}; it looks like http://user:password@host:15672"
            ))
        };
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => {
                return Err(bad(
                    "https is not spoken here; go through a tunnel (ssh -L), or ask on the broker's machine",
                ));
            }
            _ => return Err(bad("it does not begin with http://")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, address) = authority.rsplit_once('@').unwrap_or(("guest:guest", authority));
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let name = unescape(name).ok_or_else(|| bad("its user name has a wrong %"))?;
        let password = unescape(password).ok_or_else(|| bad("its password has a wrong %"))?;
        let port = address.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map(|(_, port)| port);
        if address.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_err()) {
            // An unescaped `/` or `@` in the password ends here.
            return Err(bad("its host or port is wrong; a `/` or `@` in a password is written %2F, %40"));
        }
        let address = if port.is_some() { address.to_owned() } else { format!("{address}:15672") };
        let path = path.trim_end_matches('/');
        let base = if path.is_empty() { format!("http://{address}") } else { format!("http://{address}/{path}") };
        let credentials = [name.as_slice(), b":", password.as_slice()].concat();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(QUESTION))
            .http_status_as_error(false)
            // The credentials go to that host and to no other.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .build();
        let authorization = format!("Basic {}", BASE64.encode(credentials));
        Ok(Management { agent: config.into(), base, authorization })
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, String> {
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

/// A name as one segment of a path.
pub(super) fn segment(name: &str) -> String {
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

pub(crate) fn unescape(text: &str) -> Option<Vec<u8>> {
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
        ] {
            let Ok(management) = Management::at(url) else { panic!("{url} was refused") };
            assert_eq!(management.base, base);
            assert_eq!(management.authorization, format!("Basic {}", BASE64.encode(credentials)));
        }
    }

    #[test]
    fn a_wrong_management_url_is_refused_without_being_repeated() {
        for url in
            ["https://u:sEcret@h", "u:sEcret@h", "http://u:sEcret@h:port", "http://u:s/Ecret@h", "http://u:sEcret%@h"]
        {
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
