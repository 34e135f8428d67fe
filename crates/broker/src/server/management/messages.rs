//! Messages as JSON: those that are published by a request, and those that are got.

use super::answer::{Refused, Result};
use super::json::{field, read_arguments};
use super::operate::{Incoming, Outgoing, header};
use crate::protocol::{ContentHeader, Properties, TableWriter};
use crate::server::arguments;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value as Json, json};

/// Properties that are text, by their names here.
type Texts<'p> = [(&'static str, Option<&'p [u8]>); 10];

fn texts<'p>(properties: &Properties<'p>) -> Texts<'p> {
    [
        ("content_type", properties.content_type),
        ("content_encoding", properties.content_encoding),
        ("correlation_id", properties.correlation_id),
        ("reply_to", properties.reply_to),
        ("expiration", properties.expiration),
        ("message_id", properties.message_id),
        ("type", properties.kind),
        ("user_id", properties.user_id),
        ("app_id", properties.app_id),
        ("cluster_id", properties.cluster_id),
    ]
}

/// Reads what `…/publish` is asked to publish.
pub(super) fn outgoing(exchange: &str, body: &Json) -> Result<Outgoing> {
    let text = |name: &str| match &body[name] {
        Json::String(text) => Ok(text.as_str()),
        _ => Err(Refused::bad(format!("{name} has to be a string"))),
    };
    let (key, payload) = (text("routing_key")?, text("payload")?);
    let payload = match text("payload_encoding")? {
        "string" => payload.as_bytes().to_vec(),
        "base64" => BASE64_STANDARD.decode(payload).map_err(|_| Refused::bad("payload is no base64"))?,
        _ => return Err(Refused::bad("payload_encoding has to be string or base64")),
    };
    if key.len() > 255 {
        return Err(Refused::bad("routing_key has more than 255 bytes"));
    }
    let nothing = Map::new();
    let given = match &body["properties"] {
        Json::Object(given) => given,
        Json::Null => &nothing,
        Json::Array(list) if list.is_empty() => &nothing,
        _ => return Err(Refused::bad("properties have to be an object")),
    };
    let header = written(given, &payload)?;
    Ok(Outgoing { exchange: exchange.to_owned(), key: key.to_owned(), header, body: payload })
}

fn written(given: &Map<String, Json>, payload: &[u8]) -> Result<Vec<u8>> {
    let mut properties = Properties::default();
    let mut table = None;
    for (name, value) in given {
        let wrong = || Refused::bad(format!("the property {name} is of a wrong type, too long or too large"));
        let short = || value.as_str().filter(|text| text.len() <= 255).map(str::as_bytes).ok_or_else(wrong);
        let octet = || value.as_u64().and_then(|number| u8::try_from(number).ok()).ok_or_else(wrong);
        match name.as_str() {
            "content_type" => properties.content_type = Some(short()?),
            "content_encoding" => properties.content_encoding = Some(short()?),
            "correlation_id" => properties.correlation_id = Some(short()?),
            "reply_to" => properties.reply_to = Some(short()?),
            "expiration" => properties.expiration = Some(short()?),
            "message_id" => properties.message_id = Some(short()?),
            "type" => properties.kind = Some(short()?),
            "user_id" => properties.user_id = Some(short()?),
            "app_id" => properties.app_id = Some(short()?),
            "cluster_id" => properties.cluster_id = Some(short()?),
            "delivery_mode" => properties.delivery_mode = Some(octet()?),
            "priority" => properties.priority = Some(octet()?),
            "timestamp" => properties.timestamp = Some(value.as_u64().ok_or_else(wrong)?),
            "headers" => {
                let fields = read_arguments(Some(value)).map_err(Refused::bad)?;
                if let Some(long) = fields.iter().map(|(name, _)| name).find(|name| name.len() > 255) {
                    return Err(Refused::bad(format!("the name of a header is too long: {long}")));
                }
                let mut bytes = Vec::new();
                arguments::write(&mut TableWriter::new(&mut bytes), &fields);
                table = Some(bytes);
            }
            _ => return Err(Refused::bad(format!("there is no property {name}"))),
        }
    }
    Ok(header(properties, table.as_deref(), payload))
}

/// A message that was got. Without `truncate` all of its body is shown.
pub(super) fn incoming(message: &Incoming, is_base64: bool, truncate: Option<usize>) -> Json {
    let shown = &message.body[..truncate.map_or(message.body.len(), |most| most.min(message.body.len()))];
    let (payload, encoding) = match std::str::from_utf8(shown) {
        Ok(text) if !is_base64 => (text.to_owned(), "string"),
        _ => (BASE64_STANDARD.encode(shown), "base64"),
    };
    json!({
        "payload_bytes": message.body.len(),
        "redelivered": message.is_redelivered,
        "exchange": message.exchange,
        "routing_key": message.key,
        "message_count": message.left,
        "properties": properties(&message.header),
        "payload": payload,
        "payload_encoding": encoding,
    })
}

fn properties(header: &[u8]) -> Json {
    let Ok(ContentHeader { properties, .. }) = ContentHeader::read(header) else { return json!({}) };
    let mut map = Map::new();
    for (name, value) in texts(&properties) {
        if let Some(value) = value {
            map.insert(name.to_owned(), Json::from(String::from_utf8_lossy(value)));
        }
    }
    for (name, value) in [("delivery_mode", properties.delivery_mode), ("priority", properties.priority)] {
        if let Some(value) = value {
            map.insert(name.to_owned(), Json::from(value));
        }
    }
    if let Some(timestamp) = properties.timestamp {
        map.insert("timestamp".to_owned(), Json::from(timestamp));
    }
    if let Some(headers) = properties.headers {
        let headers = arguments::arguments(headers);
        map.insert(
            "headers".to_owned(),
            headers.iter().map(|(name, value)| (name.to_string(), field(value))).collect(),
        );
    }
    Json::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_come_back_as_they_were_given() {
        let given = json!({
            "content_type": "a/b", "delivery_mode": 2, "priority": 7, "timestamp": 5, "correlation_id": "c", "type": "t",
            "headers": { "n": 1, "t": "x", "l": [true, null], "d": { "e": 0.5 } },
        });
        let body = json!({
            "properties": given, "routing_key": "k", "payload": "aGk=", "payload_encoding": "base64",
        });
        let outgoing = outgoing("e", &body).expect("well-formed");
        assert_eq!((outgoing.key.as_str(), outgoing.body.as_slice()), ("k", b"hi".as_slice()));
        assert_eq!(properties(&outgoing.header), given);
    }

    #[test]
    fn what_is_wrong_with_a_message_is_named() {
        let good = json!({ "properties": {}, "routing_key": "k", "payload": "", "payload_encoding": "string" });
        for (name, value, word) in [
            ("routing_key", json!(1), "routing_key"),
            ("routing_key", json!("k".repeat(256)), "255"),
            ("payload", json!(null), "payload"),
            ("payload_encoding", json!("utf"), "payload_encoding"),
            ("properties", json!({ "nonesuch": 1 }), "nonesuch"),
            ("properties", json!({ "priority": 256 }), "priority"),
            ("properties", json!({ "headers": 1 }), "object"),
            ("properties", json!("x"), "object"),
        ] {
            let mut wrong = good.clone();
            wrong[name] = value;
            let refused = format!("{:?}", outgoing("e", &wrong).expect_err(name));
            assert!(refused.contains(word), "{name}: {refused}");
        }
    }
}
