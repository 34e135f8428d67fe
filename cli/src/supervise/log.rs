//! The one log of a supervisor and its workers, on standard error: which never holds up the workers or the control of them, see
//! [`aside`](crate::aside).

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::worker::Number;
use crate::output;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Info,
    Warn,
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    pub json: bool,
    pub quiet: bool,
}

type Write = dyn Fn(&[u8]) + Send + Sync;

/// Where lines go; a cheap clone.
#[derive(Clone)]
pub(super) struct Log {
    write: Arc<Write>,
    manner: Manner,
}

impl Log {
    pub(super) fn new(manner: Manner, write: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Log { write: Arc::new(write), manner }
    }

    /// A line of a worker, as it is, with the worker's number.
    pub(super) fn worker_line(&self, worker: Number, line: &str) {
        (self.write)(of_worker(self.manner, worker, line).as_bytes());
    }

    /// A line of the supervisor's own.
    pub(super) fn own_line(&self, level: Level, message: &str, fields: &[(&str, Value)]) {
        if self.manner.quiet && level == Level::Info {
            return;
        }
        (self.write)(own(self.manner, level, message, fields.iter()).as_bytes());
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("manner", &self.manner).finish_non_exhaustive()
    }
}

fn of_worker(manner: Manner, worker: Number, line: &str) -> String {
    if !manner.json {
        return format!("[{worker}] {line}\n");
    }
    let is_object = line.starts_with('{') && serde_json::from_str::<Map<String, Value>>(line).is_ok();
    if is_object {
        // The rest is left as it was written.
        let rest = line[1..].trim_start();
        let comma = if rest == "}" { "" } else { "," };
        return format!("{{\"worker\":{worker}{comma}{rest}\n");
    }
    let object = serde_json::json!({
        "worker": worker.0, "timestamp": output::now(), "level": "INFO", "message": line
    });
    format!("{object}\n")
}

fn own<'a>(manner: Manner, level: Level, message: &str, fields: impl Iterator<Item = &'a (&'a str, Value)>) -> String {
    let level = if level == Level::Info { "INFO" } else { "WARN" };
    if manner.json {
        let mut object = Map::new();
        object.insert("timestamp".to_owned(), output::now().into());
        object.insert("level".to_owned(), level.into());
        object.insert("message".to_owned(), message.into());
        for (name, value) in fields {
            object.insert((*name).to_owned(), value.clone());
        }
        return format!("{}\n", Value::Object(object));
    }
    let mut line = format!("{} {level:>5} {}", output::now(), output::without_controls(message));
    for (name, value) in fields {
        line.push_str(&format!(" {name}={value}"));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_worker_has_its_number_and_is_otherwise_as_it_was() {
        let json = Manner { json: true, quiet: false };
        let text = Manner { json: false, quiet: false };
        assert_eq!(of_worker(text, Number(3), "homing: {x}"), "[3] homing: {x}\n");
        assert_eq!(of_worker(json, Number(3), r#"{"z":1.50,"a":"b"}"#), "{\"worker\":3,\"z\":1.50,\"a\":\"b\"}\n");
        assert_eq!(of_worker(json, Number(3), "{}"), "{\"worker\":3}\n");
        for odd in ["thread panicked", "{not json", "[1]", ""] {
            let line: Value = serde_json::from_str(&of_worker(json, Number(3), odd)).unwrap();
            assert_eq!((&line["worker"], &line["message"]), (&3.into(), &odd.into()));
        }
    }
}
