//! `homing task purge`, `move` and `requeue`: tasks out of a queue, one by one.
//!
//! A task that is moved is first in its new queue, confirmed by the broker, and only then acknowledged in the old one. So
//! whoever is killed in between leaves at most one task in both, under the same message id, and none in neither; starting
//! again goes on. What is not wanted stays: it is given back in its order when the walk is over.
//!
//! Each task is printed before anything is done to it, so that none is gone that was not listed; and however the command ends,
//! it reports how far it has come.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use homing::codec::Map;
use homing::inspect::mend::{Got, Mender};
use homing::{CommunicatorBuilder, ErrorKind, ReconnectPolicy, Value, inspect};

use crate::args::{Format, Global, Mend, Task};
use crate::connection::{may_come, options, waiting_for_broker};
use crate::failure::Failure;
use crate::glob::Glob;
use crate::output::{escaped, quoted};
use crate::progress::timed_out;
use crate::stop::Stop;
use crate::{not_given, note, out, settings, values, warning};

/// After a signal, how long the task in hand may take to be in one queue and not in two. Shorter than the time after which the
/// process ends.
const LAST_TASK: Duration = Duration::from_millis(200);

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

impl Deed {
    /// What was, or would be, done to the tasks.
    fn done(&self) -> &'static str {
        match self {
            Deed::Purge => "purged",
            Deed::Move(_) => "moved",
            Deed::Requeue(_) => "requeued",
        }
    }
}

pub(crate) async fn run(command: Task, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let options = options(global)?;
    let own = inspect::target(&options)?.task_queue;
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
    let walk = Walk {
        reason: mend.reason.as_deref().map(Glob::new),
        from,
        mend,
        deed,
        format: global.output.format,
        done: Cell::new(0),
        seen: Cell::new(None),
        found: RefCell::default(),
        reader: Cell::new(Reader::Reads),
        ends: Cell::new(false),
        is_doubtful: Cell::new(false),
    };
    let limit = walk.mend.timeout;
    let out_of_time = async {
        match limit {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                Failure::TimedOut(timed_out(limit))
            }
            None => std::future::pending().await,
        }
    };
    let told_to_end = async {
        tokio::select! {
            signal = stop.wait() => Failure::Interrupted(signal, None),
            failure = out_of_time => failure,
        }
    };
    let mut working = std::pin::pin!(walk.to_the_end(global, &options));
    let ended = tokio::select! {
        ended = &mut working => ended,
        failure = told_to_end => {
            walk.ends.set(true);
            // An error of the last task is the lesser news.
            let _ = tokio::time::timeout(LAST_TASK, working).await;
            Err(failure)
        }
    };
    walk.report(ended.is_err());
    let ended = ended.and_then(|()| walk.all_found(global));
    if ended.is_ok() && walk.seen.get().is_none_or(|seen| seen == 0) {
        not_given::note(&global.broker);
    }
    ended
}

/// Whether somebody reads standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Reads,
    Gone,
}

/// One way through a queue.
struct Walk {
    from: String,
    reason: Option<Glob>,
    mend: Mend,
    deed: Deed,
    format: Format,
    done: Cell<u64>,
    /// `None` until the queue was found.
    seen: Cell<Option<u64>>,
    /// Those of the ids that were asked for.
    found: RefCell<BTreeSet<String>>,
    reader: Cell<Reader>,
    /// No more tasks are begun.
    ends: Cell<bool>,
    /// All was done, and the broker does not answer for it.
    is_doubtful: Cell<bool>,
}

impl Walk {
    fn report(&self, failed: bool) {
        let Some(seen) = self.seen.get() else { return };
        let would = if self.mend.dry_run { "would be " } else { "" };
        let tasks = if seen == 1 { "task" } else { "tasks" };
        let tally = format!("{} of {seen} {tasks} of {:?} {would}{}", self.done.get(), self.from, self.deed.done());
        if failed && self.is_doubtful.get() {
            warning!("{tally}, but the broker has not answered that this counts: they may come back");
        } else if failed {
            warning!("not all of it was done: {tally}; starting again goes on");
        } else {
            note!("{tally}");
        }
    }

    /// Of the ids that were asked for, each has led to a task.
    ///
    /// # Errors
    /// `NotFound`, with those that have not.
    fn all_found(&self, global: &Global) -> Result<(), Failure> {
        let found = self.found.borrow();
        let mut missing: Vec<&str> =
            self.mend.id.iter().map(String::as_str).filter(|id| !found.contains(*id)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let ids = missing.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ");
        let reason = self.mend.reason.as_ref().map_or_else(String::new, |glob| format!(" with a reason like {glob:?}"));
        let text = match missing.len() {
            1 => format!("there is no task {ids}{reason} in the queue {:?}", self.from),
            _ => format!("there are no tasks{reason} in the queue {:?} with these ids: {ids}", self.from),
        };
        let homing = settings::with_broker(global);
        let advice = format!(
            "`{homing} task list --queue {} --peek` shows those that wait; one that a worker has in hand is not seen",
            quoted(&self.from)
        );
        Err(Failure::Advised(Box::new(homing::Error::new(ErrorKind::NotFound, text).into()), advice))
    }

    /// Connects and walks; with `--reconnect`, again when the connection is lost.
    async fn to_the_end(&self, global: &Global, options: &CommunicatorBuilder) -> Result<(), Failure> {
        let again = !matches!(global.broker.reconnect, None | Some(ReconnectPolicy::Never));
        loop {
            let mender = waiting_for_broker(global, || Mender::connect(options)).await?;
            let walked = self.once(&mender).await;
            // Whatever was acknowledged goes out first, and is answered for.
            let settled = if walked.is_ok() && !self.mend.dry_run { mender.settled().await } else { Ok(()) };
            let closed = settled.and(mender.close().await);
            self.is_doubtful.set(walked.is_ok() && closed.is_err());
            match walked {
                // A dry run that starts again would show tasks twice.
                Err(Failure::Homing(error)) if again && !self.mend.dry_run && may_come(&error) && !self.ends.get() => {
                    note!("starting again: {error}");
                }
                walked => return walked.and(closed.map_err(Failure::from)),
            }
        }
    }

    async fn once(&self, mender: &Mender) -> Result<(), Failure> {
        // Those that are there now. What is put back by others meanwhile is not walked again.
        let there = match mender.depth(&self.from).await {
            // The first task that cannot be read makes it.
            Err(error) if error.kind() == ErrorKind::NotFound && self.is_quarantine() => {
                note!("nothing is in quarantine: there is no queue {:?}", self.from);
                return Ok(());
            }
            there => u64::from(there?),
        };
        if let Deed::Move(to) = &self.deed {
            mender.depth(to).await?;
        }
        let before = self.done.get();
        let mut seen = 0;
        self.seen.set(Some(before));
        while seen < there
            && !self.ends.get()
            && let Some(got) = mender.get(&self.from).await?
        {
            seen += 1;
            self.seen.set(Some(before + seen));
            if self.concerns(&got) {
                self.deal_with(mender, got).await?;
            }
        }
        Ok(())
    }

    fn is_quarantine(&self) -> bool {
        self.mend.queue.is_none() && matches!(self.deed, Deed::Requeue(_))
    }

    fn concerns(&self, got: &Got) -> bool {
        let ids = &self.mend.id;
        let by_id = ids.is_empty() || got.message_id().is_some_and(|id| ids.iter().any(|own| own == id));
        let by_reason =
            self.reason.as_ref().is_none_or(|glob| got.header(REASON).is_some_and(|text| glob.matches(text)));
        by_id && by_reason
    }

    async fn deal_with(&self, mender: &Mender, got: Got) -> Result<(), Failure> {
        let to = match &self.deed {
            Deed::Purge => None,
            Deed::Move(to) => Some(to.as_str()),
            Deed::Requeue(own) => Some(got.header(ORIGIN).unwrap_or(own)),
        };
        // Guards: `move | head -1`, which stops in the middle. Without a reader the rest is done all the same; a disk that is
        // full ends it, before the task is touched that cannot be listed.
        if self.reader.get() == Reader::Reads {
            match print(&got, to, self.format) {
                Err(Failure::ReaderGone) => self.reader.set(Reader::Gone),
                printed => printed?,
            }
        }
        let asked_for = got.message_id().filter(|_| !self.mend.id.is_empty()).map(str::to_owned);
        if !self.mend.dry_run {
            if let Some(to) = to {
                let forgotten: &[&str] = if matches!(self.deed, Deed::Requeue(_)) { &FORGOTTEN } else { &[] };
                mender.copy(&got, to, forgotten).await?;
            }
            mender.acknowledge(got).await?;
        }
        self.done.set(self.done.get() + 1);
        self.found.borrow_mut().extend(asked_for);
        Ok(())
    }
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
            map.insert("reason", optional(reason));
            values::print(&Value::Map(map), format)
        }
        Format::Text => {
            // What others have written is escaped: a terminal obeys control characters.
            let id = escaped(id.unwrap_or("(no id)"));
            let to = to.map_or(String::new(), |to| format!(" -> {}", escaped(to)));
            let reason = reason.map_or(String::new(), |reason| format!("  ({})", escaped(reason)));
            out!("{id}{to}{reason}")
        }
    }
}
