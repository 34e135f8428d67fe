//! `homing events`: what happens to a connection, as a stream.

use homing::codec::Map;
use homing::{ConnectionEvent, Value};

use crate::args::{Format, Global};
use crate::connection::{begin_to_stay, close, options};
use crate::failure::Failure;
use crate::stop::Stop;
use crate::{not_given, note, out, output, values};

pub(crate) async fn run(count: Option<u64>, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let mut reader_gone = std::pin::pin!(output::reader_gone());
    let communicator = tokio::select! {
        connected = begin_to_stay(global, options(global)?, async |_| Ok(())) => connected?.0,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
        () = &mut reader_gone => return Ok(()),
    };
    let mut events = communicator.events();
    not_given::note(&global.broker);
    note!("printing what happens to the connection until Ctrl-C");
    print("connected", Map::new(), global.output.format)?;
    let mut left = count.map(|count| count - 1);
    let mut why = None;
    loop {
        if left == Some(0) {
            return close(&communicator).await;
        }
        tokio::select! {
            signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
            () = &mut reader_gone => return Err(Failure::ReaderGone),
            event = events.next() => {
                let Some(event) = event else { break };
                match &event {
                    ConnectionEvent::Lost(error) => why = Some(error.clone()),
                    ConnectionEvent::Restored { .. } => why = None,
                    _ => {}
                }
                let is_last = matches!(event, ConnectionEvent::Closed);
                let (name, details) = described(&event);
                print(name, details, global.output.format)?;
                if is_last {
                    break;
                }
            }
        }
        left = left.map(|left| left - 1);
    }
    why.map_or(Ok(()), |error| Err(error.into()))
}

fn print(name: &str, details: Map, format: Format) -> Result<(), Failure> {
    let mut map = Map::new();
    map.insert("time", output::now());
    map.insert("event", name);
    match format {
        Format::Json => {
            for (key, value) in details.iter() {
                map.insert(key.clone(), value.clone());
            }
            values::print(&Value::Map(map), format)
        }
        Format::Text => {
            let details =
                if details.is_empty() { String::new() } else { format!("  {}", Value::Map(details).to_json_text()) };
            out!("{}  {name}{details}", output::now())
        }
    }
}

/// The name of an event, and what it carries.
fn described(event: &ConnectionEvent) -> (&'static str, Map) {
    let mut map = Map::new();
    let name = match event {
        ConnectionEvent::Blocked { reason } => {
            map.insert("reason", reason.as_str());
            "blocked"
        }
        ConnectionEvent::Unblocked => "unblocked",
        ConnectionEvent::Lost(error) => {
            map.insert("error", error.to_string());
            "lost"
        }
        ConnectionEvent::Reconnecting { attempt, delay, error } => {
            map.insert("attempt", *attempt);
            map.insert("delay_seconds", delay.as_secs_f64());
            map.insert("error", error.to_string());
            "reconnecting"
        }
        ConnectionEvent::Restored { away } => {
            map.insert("away_seconds", away.as_secs_f64());
            "restored"
        }
        ConnectionEvent::SubscriptionFailed { name, error } => {
            map.insert("name", name.as_str());
            map.insert("error", error.to_string());
            "subscription_failed"
        }
        ConnectionEvent::ConsumerCancelled { name } => {
            map.insert("name", name.as_str());
            "consumer_cancelled"
        }
        ConnectionEvent::ChannelClosed { error, .. } => {
            map.insert("error", error.to_string());
            "channel_closed"
        }
        ConnectionEvent::Closed => "closed",
        other => {
            map.insert("text", format!("{other:?}"));
            "other"
        }
    };
    (name, map)
}
