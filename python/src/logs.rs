//! What homing logs, as records of Python's `logging`, by the logger `homing`.
//!
//! Threads of homing's own log too, and must not attach. So a record is put into a queue, and the next thread of Python's that turns
//! a home hands it to `logging`; a loop is woken for that. The queue is bounded; what does not fit is counted and dropped.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use homing::home::ByProcess;
use homing::home::lock::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::loops::Bell;

/// How many records wait for Python.
const MOST: usize = 1024;

/// What waits to be handed over, of this process: those of a parent are the parent's to log.
#[derive(Default)]
struct Waiting {
    queue: Mutex<VecDeque<(Level, String)>>,
    lost: AtomicU64,
    /// Loops that can be woken to hand records over.
    bells: Mutex<Vec<Weak<Bell>>>,
}

static WAITING: ByProcess<Waiting> = ByProcess::new();

/// Whether anything waits, asked at every turn of a loop. In a child of a fork it may be set for nothing.
static ANY: AtomicBool = AtomicBool::new(false);

struct Records;

impl Subscriber for Records {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Warnings and errors: what a program should see unless it asks for less.
        metadata.is_event() && *metadata.level() <= Level::WARN && metadata.target().starts_with("homing")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let waiting = WAITING.here();
        let mut queue = waiting.queue.lock();
        let is_first = queue.is_empty();
        if queue.len() < MOST {
            queue.push_back((*event.metadata().level(), text.message + &text.fields));
        } else {
            waiting.lost.fetch_add(1, Ordering::Relaxed);
        }
        drop(queue);
        // Ordering: Release, after the record is there.
        // Guards: a child of a fork in which it was set, where nobody has been rung for it.
        if !ANY.swap(true, Ordering::Release) || is_first {
            // Guards: a loop that has ended, whose bell is still held by who might ring it. So all are rung.
            waiting.bells.lock().iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A message, and its fields behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = match field.name() {
            "message" => self.message.write_str(value),
            name => write!(self.fields, " {name}={value}"),
        };
    }
}

/// Has this loop woken for records, while it is there.
pub(crate) fn wake_by(bell: &Arc<Bell>) {
    let mut bells = WAITING.here().bells.lock();
    bells.retain(|bell| bell.strong_count() > 0);
    bells.push(Arc::downgrade(bell));
}

/// Begins to keep records. Another library of this process that took them first keeps them.
pub(crate) fn begin() {
    let _ = tracing::subscriber::set_global_default(Records);
}

static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Hands what has come to `logging`. Attached, and outside of any home's turn, since a handler is user code.
pub(crate) fn hand_over(py: Python<'_>) {
    // Ordering: Acquire pairs with the store above.
    if !ANY.swap(false, Ordering::Acquire) {
        return;
    }
    let waiting = WAITING.here();
    let records = std::mem::take(&mut *waiting.queue.lock());
    let lost = waiting.lost.swap(0, Ordering::Relaxed);
    let logged = LOGGER
        .get_or_try_init(py, || {
            PyResult::Ok(py.import("logging")?.call_method1(intern!(py, "getLogger"), ("homing",))?.unbind())
        })
        .and_then(|logger| {
            let logger = logger.bind(py);
            for (level, text) in records {
                let level = if level == Level::ERROR { 40 } else { 30 };
                // The text may have a percent sign in it.
                logger.call_method1(intern!(py, "log"), (level, "%s", text))?;
            }
            if lost > 0 {
                logger.call_method1(intern!(py, "log"), (30, "%s", format!("{lost} records were lost")))?;
            }
            Ok(())
        });
    if let Err(error) = logged {
        error.write_unraisable(py, None);
    }
}
