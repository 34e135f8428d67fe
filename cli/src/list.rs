//! `homing task list`: what waits in a task queue, while workers run.

use std::io::{IsTerminal, stderr, stdin};

use homing::Value;
use homing::codec::Map;
use homing::inspect::{self, PeekedTask};

use crate::args::{Format, Global, List};
use crate::connection::{options, waiting_for_broker};
use crate::doctor::Management;
use crate::failure::Failure;
use crate::in_hand::{self, Consumer, InHand};
use crate::output::{escaped, without_controls};
use crate::stop::{Stop, or_interrupted};
use crate::{not_given, note, output, values};

/// How much of a body is shown as text.
const SHOWN: usize = 200;

pub(crate) async fn run(command: List, global: &Global, stop: Stop) -> Result<(), Failure> {
    let options = options(global)?;
    let queue = match command.queue {
        Some(queue) => queue,
        None => inspect::target(&options)?.task_queue,
    };
    // Before anything is asked of a broker.
    let management = command.management.as_deref().map(Management::at).transpose()?;
    if command.peek {
        note!(
            "getting up to {} messages of {queue:?} and giving them back; the broker marks them as redelivered",
            command.limit
        );
    } else {
        let depth =
            or_interrupted(stop.clone(), waiting_for_broker(global, || inspect::depth(&options, &queue))).await?;
        let in_hand = match management {
            Some(management) => {
                let asked = in_hand::of_queue(&options, management, &queue);
                Some(or_interrupted(stop.clone(), asked).await?)
            }
            None => None,
        };
        count(&queue, depth, in_hand.as_ref(), global)?;
        if depth.ready == 0 && depth.consumers == 0 {
            not_given::note(&global.broker);
        }
        if depth.ready == 0 || !asks_for_more(global.output.format)? {
            return Ok(());
        }
    }
    let most = usize::from(command.limit.get());
    let peek = or_interrupted(stop, waiting_for_broker(global, || inspect::peek(&options, &queue, most))).await?;
    for (n, task) in peek.tasks.iter().enumerate() {
        match global.output.format {
            Format::Json => values::print(&object(task), Format::Json)?,
            Format::Text => values::print(&Value::from(text(n + 1, task)), Format::Text)?,
        }
    }
    if peek.tasks.is_empty() {
        note!("nothing waits in {queue:?}");
        not_given::note(&global.broker);
    } else if peek.too_many_bytes {
        note!("only {} messages are shown, since their bodies have 64 MiB", peek.tasks.len());
    }
    Ok(())
}

fn count(queue: &str, depth: inspect::Depth, in_hand: Option<&InHand>, global: &Global) -> Result<(), Failure> {
    let (ready, consumers) = (depth.ready, depth.consumers);
    let format = global.output.format;
    match format {
        Format::Json => {
            let mut map = Map::new();
            map.insert("queue", queue);
            map.insert("ready", i64::from(ready));
            map.insert("consumers", i64::from(consumers));
            if let Some(InHand { unacknowledged, workers }) = in_hand {
                map.insert("unacknowledged", *unacknowledged);
                let worker = |(consumer, held): &(Consumer, u64)| {
                    let mut map = consumer.to_map();
                    map.insert("unacknowledged", *held);
                    Value::Map(map)
                };
                map.insert("workers", workers.iter().map(worker).collect::<Vec<_>>());
            }
            values::print(&Value::Map(map), format)
        }
        Format::Text => {
            let held =
                in_hand.map_or(String::new(), |held| format!(", {} in the hands of workers", held.unacknowledged));
            let counted = if consumers == 1 { "consumer" } else { "consumers" };
            let mut text = format!("{queue}: {ready} waiting{held}, {consumers} {counted}");
            for (consumer, held) in in_hand.iter().flat_map(|in_hand| &in_hand.workers) {
                text.push_str(&format!("\n  {} at {}: {held}", consumer.user, consumer.peer));
            }
            values::print(&Value::from(text), format)?;
            if in_hand.is_some() {
                note!("the numbers of what workers have are the management API's, which are some seconds old");
                return Ok(());
            }
            let elsewhere = if not_given::is_local(&global.broker) { "" } else { "; --management URL does" };
            note!(
                "tasks that workers hold are not counted, since AMQP does not report them{elsewhere}. --peek shows the \
                 messages: it fetches them and gives them back, and the broker marks them as redelivered"
            );
            Ok(())
        }
    }
}

/// A person at a terminal is asked; a script uses --peek.
fn asks_for_more(format: Format) -> Result<bool, Failure> {
    if output::errors_are_json() || format == Format::Json || !stdin().is_terminal() || !stderr().is_terminal() {
        return Ok(false);
    }
    output::write_err(b"Show them, and have them marked as redelivered? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Everything, for programs.
fn object(task: &PeekedTask) -> Value {
    let optional = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
    let mut map = Map::new();
    map.insert("message_id", optional(&task.message_id));
    map.insert("correlation_id", optional(&task.correlation_id));
    map.insert("redelivered", task.redelivered);
    map.insert("age_seconds", task.age.map_or(Value::Null, |age| Value::from(age.as_secs())));
    map.insert("bytes", u64::try_from(task.bytes).unwrap_or(u64::MAX));
    let headers: Map = task.headers.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    map.insert("headers", Value::Map(headers));
    match &task.task {
        Ok((body, no_reply)) => {
            map.insert("no_reply", *no_reply);
            map.insert("body", body.clone());
        }
        Err(error) => {
            map.insert("error", error.to_string());
        }
    }
    Value::Map(map)
}

/// What a person wants to know first. What others have written is escaped: a terminal obeys control characters.
fn text(number: usize, task: &PeekedTask) -> String {
    let mut line = format!("{number}. {}", escaped(task.message_id.as_deref().unwrap_or("(no id)")));
    if task.redelivered {
        line.push_str(", redelivered");
    }
    if let Ok((_, true)) = task.task {
        line.push_str(", no reply");
    }
    if let Some(age) = task.age {
        line.push_str(&format!(", {} s old", age.as_secs()));
    }
    line.push_str(&format!(", {} bytes\n", task.bytes));
    for (name, text) in task.headers.iter().filter(|(name, _)| name.starts_with("homing-")) {
        line.push_str(&format!("   {}: {}\n", escaped(name), escaped(text)));
    }
    match &task.task {
        Ok((body, _)) => line.push_str(&format!("   {}\n", shortened(&body.to_json_text()))),
        Err(error) => line.push_str(&format!("   cannot be read as a task: {}\n", escaped(&error.to_string()))),
    }
    line
}

fn shortened(text: &str) -> String {
    // JSON escapes the control characters below a blank, and only those.
    let end = text.char_indices().nth(SHOWN).map(|(end, _)| end);
    let shown = without_controls(&text[..end.unwrap_or(text.len())]);
    if end.is_some() { format!("{shown}…") } else { shown }
}
