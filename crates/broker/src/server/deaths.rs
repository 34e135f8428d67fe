//! The headers that a message carries after it was dead-lettered.

use crate::engine::{Death, Reason};
use crate::protocol::{Table, TableWriter, Value};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads `x-death`. Entries that somebody else wrote, and that are not whole, are passed over.
pub(super) fn read(headers: Table<'_>) -> Vec<Death> {
    let Some(deaths) = headers.get("x-death").and_then(|value| value.as_array()) else { return Vec::new() };
    deaths.iter().map_while(Result::ok).filter_map(|entry| entry.as_table()).filter_map(entry).collect()
}

fn entry(table: Table<'_>) -> Option<Death> {
    let text = |name| table.get(name).and_then(|value| value.as_str()).map(Arc::from);
    let keys = table.get("routing-keys").and_then(|value| value.as_array()).unwrap_or_default();
    Some(Death {
        queue: text("queue")?,
        reason: Reason::from_name(&text("reason")?)?,
        count: u64::try_from(table.get("count")?.as_i64()?).ok()?,
        exchange: text("exchange")?,
        keys: keys.iter().map_while(Result::ok).filter_map(|key| key.as_str().map(Arc::from)).collect(),
        at: match table.get("time") {
            Some(Value::Timestamp(at)) => Some(at),
            _ => None,
        },
        original_expiration: text("original-expiration"),
    })
}

/// Writes `x-death`. `expiration` is what the message had until now.
pub(super) fn write(headers: &mut TableWriter<'_>, deaths: &[Death], expiration: Option<&[u8]>) {
    headers.array(b"x-death", |list| {
        for death in deaths {
            list.table(|table| {
                table.field(b"count", &Value::I64(i64::try_from(death.count).unwrap_or(i64::MAX)));
                table.field(b"reason", &Value::String(death.reason.as_str().as_bytes()));
                table.field(b"queue", &Value::String(death.queue.as_bytes()));
                table.field(b"time", &Value::Timestamp(death.at.unwrap_or_else(seconds)));
                table.field(b"exchange", &Value::String(death.exchange.as_bytes()));
                table.array(b"routing-keys", |keys| {
                    death.keys.iter().for_each(|key| keys.value(&Value::String(key.as_bytes())));
                });
                // One that has just happened has no time yet: the expiration is still the message's.
                let original = match (&death.original_expiration, death.at) {
                    (Some(original), _) => Some(original.as_bytes()),
                    (None, None) => expiration,
                    (None, Some(_)) => None,
                };
                if let Some(original) = original {
                    table.field(b"original-expiration", &Value::String(original));
                }
            });
        }
    });
}

/// Writes where and why a message died first. The last one in the list is the oldest.
pub(super) fn write_first(headers: &mut TableWriter<'_>, deaths: &[Death]) {
    let Some(first) = deaths.last() else { return };
    headers.field(b"x-first-death-reason", &Value::String(first.reason.as_str().as_bytes()));
    headers.field(b"x-first-death-queue", &Value::String(first.queue.as_bytes()));
    headers.field(b"x-first-death-exchange", &Value::String(first.exchange.as_bytes()));
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
