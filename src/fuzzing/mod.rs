//! What the fuzz targets of `fuzz/` call: the readers of what comes from others, and what must hold of them. Not part of
//! the library's interface.
//!
//! Each function panics when something does not hold. Time and memory are watched by the fuzzer.

#[cfg(test)]
mod tests;

use crate::broker::url::{AmqpUrl, BrokerUrl, Transport};
use crate::codec::{Codec, Json, Limits, Value, Yaml};
use crate::error::ErrorKind;
use crate::wire::response::{Host, Response};
use crate::wire::task as wire_task;

/// Small, so that the fuzzer meets them.
const LIMITS: Limits = Limits { max_bytes: 1 << 16, max_depth: 24, max_nodes: 4000, max_aliases: 40 };

/// What is written may be longer than what was read, and no deeper and no more.
fn writer() -> Yaml {
    Yaml::with_limits(Limits { max_bytes: 64 << 20, ..LIMITS })
}

/// Any bytes are a value within the limits, or a decode error; what was read is written, and reads the same again, in every
/// form that homing writes.
pub fn yaml(data: &[u8]) {
    let Some(value) = decoded(&Yaml::with_limits(LIMITS), data) else { return };
    let (mut nodes, mut bytes) = (0, 0);
    assert!(height(&value, &mut nodes, &mut bytes) <= LIMITS.max_depth, "deeper than its limit: {value:?}");
    assert!(nodes <= LIMITS.max_nodes, "{nodes} values, over the limit");
    // An escape of two bytes may stand for a character of three.
    assert!(bytes <= LIMITS.max_bytes.max(data.len() * 3 / 2), "{bytes} bytes of text, over the limit");
    same_again(&writer(), &value);
    let pretty = value.to_yaml_text();
    let again = Yaml::default().decode(pretty.as_bytes());
    assert_eq!(again.as_ref().ok(), Some(&value), "as text for people: {pretty:?}: {again:?}");
    let json = value.to_json_text();
    let read = serde_json::from_str::<serde_json::Value>(&json).map(|json| Value::from_json(&json));
    assert!(matches!(&read, Ok(Ok(read)) if *read == value), "as JSON: {json}: {read:?}");
}

/// Any bytes are a reply or a decode error, and a reply that is written again is the same one.
pub fn reply(data: &[u8]) {
    for codec in codecs() {
        let Some(value) = decoded(&*codec, data) else { continue };
        let Ok(response) = Response::from_value(value) else { continue };
        let again = decoded(&*codec, &written(&*codec, &response.clone().into_value(Host::Unnamed)));
        let again = again.and_then(|value| Response::from_value(value).ok());
        let same = match (&response, &again) {
            (Response::Cancelled, Some(Response::Cancelled)) | (Response::Pending, Some(Response::Pending)) => true,
            (Response::Exception(text, _), Some(Response::Exception(again, _))) => text == again,
            (Response::Result(value), Some(Response::Result(again))) => value == again,
            _ => false,
        };
        assert!(same, "{response:?} came back as {again:?}");
    }
}

/// Any bytes are a task or a decode error, and a task that is written again is the same one.
pub fn task(data: &[u8]) {
    for codec in codecs() {
        let Some(value) = decoded(&*codec, data) else { continue };
        let Ok((body, no_reply)) = wire_task::decode(value) else { continue };
        let message = wire_task::encode(body.clone(), no_reply);
        let again = decoded(&*codec, &written(&*codec, &message)).and_then(|value| wire_task::decode(value).ok());
        assert_eq!(again, Some((body, no_reply)));
    }
}

/// Any text is a URL or an error that repeats no password; a URL that is written with escapes is the same one, and is shown
/// without its password.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match BrokerUrl::parse(text) {
        Ok(BrokerUrl::Amqp(url)) => {
            let again = BrokerUrl::parse(&spelled(&url));
            assert_eq!(again.ok(), Some(BrokerUrl::Amqp(url.clone())), "{}", spelled(&url));
            let other = AmqpUrl { password: "another".to_owned(), ..(*url).clone() };
            assert_eq!(format!("{url} {url:?}"), format!("{other} {other:?}"), "the password is shown");
        }
        Ok(BrokerUrl::Memory { .. } | BrokerUrl::Local(_)) => {}
        #[cfg(test)]
        Ok(BrokerUrl::Simulated { .. }) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidArgument),
    }
    if let Err(error) = BrokerUrl::parse(&format!("amqp://u:sEcret{text}@h/")) {
        assert!(!format!("{error} {error:?}").contains("sEcret"), "{error}");
    }
}

fn codecs() -> [Box<dyn Codec>; 2] {
    [Box::new(Yaml::default()), Box::new(Json::default())]
}

fn decoded(codec: &dyn Codec, data: &[u8]) -> Option<Value> {
    match codec.decode(data) {
        Ok(value) => Some(value),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
            None
        }
    }
}

fn written(codec: &dyn Codec, value: &Value) -> Vec<u8> {
    match codec.encode(value) {
        Ok(body) => body,
        Err(error) => panic!("{} has read what it does not write: {error}: {value:?}", codec.name()),
    }
}

fn same_again(codec: &dyn Codec, value: &Value) {
    let body = written(codec, value);
    let again = codec.decode(&body);
    let body = String::from_utf8_lossy(&body);
    assert_eq!(again.as_ref().ok(), Some(value), "written as {body:?} and read as {again:?}");
}

/// How many levels there are below a value; counts the values and the bytes of text.
fn height(value: &Value, nodes: &mut usize, bytes: &mut usize) -> usize {
    *nodes += 1;
    if let Value::String(text) | Value::Timestamp(text) = value {
        *bytes += text.len();
    }
    let mut below = |value: &Value| 1 + height(value, nodes, bytes);
    match value {
        Value::List(items) | Value::Tuple(items) => items.iter().map(below).max().unwrap_or(0),
        Value::Map(map) | Value::Set(map) => {
            map.iter().map(|(key, value)| below(key).max(below(value))).max().unwrap_or(0)
        }
        Value::Tagged(tagged) => below(&tagged.value),
        _ => 0,
    }
}

/// A URL with everything escaped that can be.
fn spelled(url: &AmqpUrl) -> String {
    let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let scheme = match url.transport {
        Transport::Plain => "amqp",
        Transport::Tls => "amqps",
    };
    let (user, password) = (escaped(&url.username), escaped(&url.password));
    let host =
        if url.host.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{}]", url.host) } else { escaped(&url.host) };
    let mut query = Vec::new();
    let mut put = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            query.push(format!("{name}={value}"));
        }
    };
    put("heartbeat", url.heartbeat.map(|time| time.as_secs().to_string()));
    put("timeout", url.connect_timeout.map(|time| format!("{}.{:09}", time.as_secs(), time.subsec_nanos())));
    put("channel_max", url.channel_max.map(|most| most.to_string()));
    put("frame_max", url.frame_max.map(|most| most.to_string()));
    put("cacertfile", url.ca_file.as_deref().map(escaped));
    put("certfile", url.cert_file.as_deref().map(escaped));
    put("keyfile", url.key_file.as_deref().map(escaped));
    put("server_name_indication", url.server_name.as_deref().map(escaped));
    format!("{scheme}://{user}:{password}@{host}:{}/{}?{}", url.port, escaped(&url.vhost), query.join("&"))
}
