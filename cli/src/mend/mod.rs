//! `homing task purge`, `move` and `requeue`: tasks out of a queue, one by one.
//!
//! A task that is moved is first in its new queue, confirmed by the broker, and only then acknowledged in the old one. So
//! whoever is killed in between leaves at most one task in both, under the same message id, and none in neither; starting
//! again goes on. What is not wanted stays: it is given back in its order when the walk is over.

mod wire;

use homing::codec::Map;
use homing::{ErrorKind, Value, inspect};

use crate::args::{Format, Global, Mend, Task};
use crate::connection::options;
use crate::failure::Failure;
use crate::glob::Glob;
use crate::{DEFAULT_BROKER, note, out, values};
use wire::{Got, Wire};

/// Why a task is in quarantine, and where it came from: homing's own headers.
const REASON: &str = "homing-quarantine-reason";
const ORIGIN: &str = "homing-quarantine-queue";
/// Headers that count what has happened to a task. It starts anew.
const FORGOTTEN: [&str; 3] = [REASON, ORIGIN, "homing-attempt"];

/// What becomes of a task.
enum Deed {
    Purge,
    /// With all that it carries.
    Move(String),
    /// Back to where it came from, or here where that is not known.
    Requeue(String),
}

pub(crate) async fn run(command: Task, global: &Global) -> Result<(), Failure> {
    let own = inspect::target(&options(global)?)?.task_queue;
    let (mend, deed) = match command {
        Task::Purge(mend) => (mend, Deed::Purge),
        Task::Move { mend, to } => (mend, Deed::Move(to)),
        Task::Requeue(mend) => (mend, Deed::Requeue(own.clone())),
        Task::Send(_) | Task::Work(_) | Task::List(_) => return Ok(()),
    };
    let from = mend.queue.clone().unwrap_or_else(|| match deed {
        Deed::Requeue(_) => format!("{own}.quarantine"),
        _ => own,
    });
    if matches!(&deed, Deed::Move(to) if *to == from) {
        return Err(Failure::Usage(format!("the tasks of {from:?} are there already; give another queue by --to")));
    }
    let is_quarantine = mend.queue.is_none() && matches!(deed, Deed::Requeue(_));
    let url = global.broker.broker.as_deref().unwrap_or(DEFAULT_BROKER);
    let wire = Wire::connect(url).await?;
    let walked = walk(&wire, &from, &mend, &deed, global.output.format).await;
    let closed = wire.close().await;
    let (done, seen) = match walked {
        // The first task that cannot be read makes it.
        Err(Failure::Homing(error)) if error.kind() == ErrorKind::NotFound && is_quarantine => {
            note!("nothing is in quarantine: there is no queue {from:?}");
            return closed;
        }
        walked => walked?,
    };
    let done_to_them = match (&deed, mend.dry_run) {
        (_, true) => "would be mended",
        (Deed::Purge, false) => "purged",
        (Deed::Move(_), false) => "moved",
        (Deed::Requeue(_), false) => "requeued",
    };
    note!("{done} of {seen} tasks of {from:?} {done_to_them}");
    closed
}

/// How many were dealt with, of how many.
async fn walk(wire: &Wire, from: &str, mend: &Mend, deed: &Deed, format: Format) -> Result<(u64, u64), Failure> {
    let reason = mend.reason.as_deref().map(Glob::new);
    // Those that are there now. What is put back by others meanwhile is not walked again.
    let there = wire.depth(from).await?;
    let (mut done, mut seen) = (0, 0);
    while seen < u64::from(there)
        && let Some(got) = wire.get(from).await?
    {
        seen += 1;
        let by_id = mend.id.is_empty() || got.message_id().is_some_and(|id| mend.id.iter().any(|own| own == id));
        let by_reason = reason.as_ref().is_none_or(|glob| got.header(REASON).is_some_and(|text| glob.matches(&text)));
        if !by_id || !by_reason {
            continue;
        }
        let to = match deed {
            Deed::Purge => None,
            Deed::Move(to) => Some(to.clone()),
            Deed::Requeue(own) => Some(got.header(ORIGIN).unwrap_or_else(|| own.clone())),
        };
        if !mend.dry_run {
            match (&to, deed) {
                (None, _) => {}
                (Some(to), Deed::Requeue(_)) => wire.copy(&got, to, &FORGOTTEN).await?,
                (Some(to), _) => wire.copy(&got, to, &[]).await?,
            }
            wire.acknowledge(&got).await?;
        }
        done += 1;
        print(&got, to.as_deref(), format)?;
    }
    Ok((done, seen))
}

fn print(got: &Got, to: Option<&str>, format: Format) -> Result<(), Failure> {
    let id = got.message_id();
    let reason = got.header(REASON);
    match format {
        Format::Json => {
            let optional = |text: Option<&str>| text.map_or(Value::Null, Value::from);
            let mut map = Map::new();
            map.insert("message_id", optional(id));
            map.insert("to", optional(to));
            map.insert("reason", optional(reason.as_deref()));
            values::print(&Value::Map(map), format)
        }
        Format::Text => {
            // What others have written is escaped: a terminal obeys control characters.
            let id = id.unwrap_or("(no id)").escape_debug();
            let to = to.map_or(String::new(), |to| format!(" -> {}", to.escape_debug()));
            let reason = reason.map_or(String::new(), |reason| format!("  ({})", reason.escape_debug()));
            out!("{id}{to}{reason}")
        }
    }
}
