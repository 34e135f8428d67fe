//! One frame, as text or as an object.

use std::io::{IsTerminal, stdout};
use std::time::Duration;

use homing::Value;
use homing::codec::Map;
use homing::process::ProcessState;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::time::{Instant, timeout_at};

use super::model::{Connection, Event, MOST_PROCESSES, Model, Process, Queue, Reach};
use super::view::{self, Theme};
use super::{AT_ONCE, View, draw};
use crate::args::{Format, Global};
use crate::failure::Failure;
use crate::process::{pid_as_json, shown_time};
use crate::{output, values, warning};

/// How long answers are waited for.
const ANSWERS: Duration = Duration::from_secs(12);

/// How wide a frame is that goes to no terminal.
const WIDTH: u16 = 120;

impl View {
    pub(super) async fn once(mut self, wait: Duration, global: &Global) -> Result<(), Failure> {
        let begun = Instant::now();
        let collected = begun + wait;
        let mut is_last = false;
        let mut batch = Vec::with_capacity(AT_ONCE);
        loop {
            // Every process is in sight.
            self.model.settle(MOST_PROCESSES, self.clock.now());
            self.update(Event::Tick);
            let is_over = Instant::now() >= collected + ANSWERS;
            let is_complete =
                self.model.is_settled() && self.model.has_queues && (self.store.is_none() || self.model.has_store);
            if is_over || (Instant::now() >= collected && is_complete) {
                if is_last || is_over {
                    break;
                }
                // What came last may lead to one more question.
                is_last = true;
            } else {
                is_last = false;
            }
            let until = if Instant::now() < collected { collected } else { Instant::now() + Duration::from_millis(20) };
            tokio::select! {
                failure = &mut self.ended => return Err(failure.unwrap_or(Failure::Other("the connection was closed".to_owned()))),
                // What has not come by then comes in the next round.
                _ = timeout_at(until, self.events.recv_many(&mut batch, AT_ONCE)) => {}
            }
            for event in batch.drain(..) {
                self.update(event);
            }
        }
        if !self.model.is_settled() {
            warning!("some processes have not answered in time");
        }
        for queue in &self.model.queues {
            if let Some(trouble) = &queue.trouble {
                warning!("the queue {:?}: {trouble}", queue.name);
            }
        }
        if let Some(trouble) = &self.model.store_trouble {
            return Err(Failure::Other(trouble.clone()));
        }
        self.model.settle(MOST_PROCESSES, self.clock.now());
        match global.output.format {
            Format::Json => values::print(&Value::Map(object(&self.model)), Format::Json),
            Format::Text => output::write_out(self.frame().as_bytes()),
        }
    }

    /// The frame with all processes in it.
    fn frame(&mut self) -> String {
        let width =
            if stdout().is_terminal() { crossterm::terminal::size().map_or(WIDTH, |(width, _)| width) } else { WIDTH };
        frame(&mut self.model, width.max(20), self.clock.now())
    }
}

/// The model as text, of this width and as high as it takes.
pub(super) fn frame(model: &mut Model, width: u16, now: super::Now) -> String {
    let number = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    // Two lines above and below, a head for each part, and what the events take at most.
    let height = [4, number(model.queues.len()), 1, number(model.known().max(1)), 1, 10];
    let height = height.into_iter().fold(0, u16::saturating_add);
    let area = Rect { x: 0, y: 0, width, height };
    let mut buffer = Buffer::empty(area);
    draw(model, Theme::Plain, area, &mut buffer, now);
    let text = view::text(&buffer);
    // The keys are no use here.
    let lines: Vec<&str> = text.lines().collect();
    let mut out = String::new();
    for line in lines[..lines.len().saturating_sub(2)].iter().filter(|line| !line.is_empty()) {
        out.push_str(line);
        out.push('\n');
    }
    out
}

fn optional<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

fn process_object(process: &Process) -> Value {
    let mut map = Map::new();
    map.insert("pid", pid_as_json(&process.pid));
    map.insert("state", optional(process.state.map(ProcessState::as_str)));
    map.insert("paused", process.is_paused);
    map.insert("created", optional(process.created.map(shown_time)));
    map.insert("changed", optional(process.changed.map(shown_time)));
    map.insert("class", text(&process.class));
    map.insert("worker", text(&process.worker));
    map.insert("exit_status", optional(process.exit_status));
    map.insert("message", text(&process.message));
    map.insert("stored", process.is_stored);
    let reachable = match process.reach {
        Reach::Unknown => Value::Null,
        Reach::Answers => Value::from(true),
        Reach::Unreachable | Reach::Silent => Value::from(false),
    };
    map.insert("answers", reachable);
    Value::Map(map)
}

fn queue_object(queue: &Queue) -> Value {
    let mut map = Map::new();
    map.insert("name", queue.name.as_str());
    map.insert("exists", !queue.is_missing);
    map.insert("ready", optional(queue.ready));
    map.insert("unacknowledged", optional(queue.unacknowledged));
    map.insert("consumers", optional(queue.consumers));
    map.insert("published_per_second", optional(queue.rates.published));
    map.insert("delivered_per_second", optional(queue.rates.delivered));
    map.insert("acknowledged_per_second", optional(queue.rates.acknowledged));
    map.insert("growth_per_second", optional(queue.rates.growth));
    map.insert("error", optional(queue.trouble.as_deref()));
    Value::Map(map)
}

/// The model for programs.
pub(super) fn object(model: &Model) -> Map {
    let mut map = Map::new();
    map.insert("time", shown_time(model.now.time));
    map.insert("broker", model.broker.as_str());
    map.insert("prefix", optional(model.prefix.as_deref()));
    map.insert("connected", model.connection == Connection::Up);
    map.insert("store", optional(model.store.as_deref()));
    map.insert("processes", model.listed().map(process_object).collect::<Vec<_>>());
    map.insert("more", model.is_cut || model.left_out() > 0);
    map.insert("changes_missed", model.missed);
    map.insert("unreadable", u64::try_from(model.unreadable).unwrap_or(u64::MAX));
    map.insert("queues", model.queues.iter().map(queue_object).collect::<Vec<_>>());
    let event = |line: &super::model::Line| {
        let mut map = Map::new();
        map.insert("time", shown_time(line.time));
        map.insert("text", line.text.as_str());
        Value::Map(map)
    };
    map.insert("events", model.events.iter().map(event).collect::<Vec<_>>());
    map
}
