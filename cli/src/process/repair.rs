//! `homing process repair`: processes of the store against the tasks on the broker.
//!
//! AMQP does not tell which tasks are in the hands of workers. What it cannot tell, the store does: a worker that runs a process
//! has its lease. A process is lost if nobody has its lease and no task waits for it, and both are so at two looks with a pause
//! between them, with nothing stored meanwhile: so one that a worker has just taken, and not claimed yet, is none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use homing::codec::Map;
use homing::process::store::{Lease, Liveness, Persister, SqlitePersister, Summary, Unreadable};
use homing::process::{Pid, ProcessController, ProcessTask};
use homing::{CommunicatorBuilder, Error, ErrorKind, Value, inspect};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::many::{pid_as_json, typed};
use super::stored;
use crate::args::{Format, Global};
use crate::connection::{close, connect, options};
use crate::failure::Failure;
use crate::output::without_controls;
use crate::stop::{Stop, or_interrupted};
use crate::{note, out, values, warning};

/// How long is waited between the two looks.
const BETWEEN: Duration = Duration::from_secs(2);

/// How many tasks are looked at.
const MOST_TASKS: usize = 50_000;

/// What is wrong with a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Lost,
    /// Its worker is there and does not renew its lease.
    Stalled,
    Doubled,
    Finished,
    Unknown,
}

/// What one look has found.
struct Look {
    /// The unfinished processes, in both lists: before and after the tasks were looked at.
    processes: Vec<Summary>,
    tasks: HashMap<Pid, u64>,
    unreadable: Vec<Unreadable>,
    /// Whether all waiting tasks were seen.
    is_whole: bool,
}

pub(super) async fn run(dry_run: bool, file: Option<&Path>, global: &Global, stop: Stop) -> Result<(), Failure> {
    let store = stored::open(file).await?;
    let options = options(global)?;
    let queue = inspect::target(&options)?.task_queue;
    or_interrupted(stop, async {
        let _alone = if dry_run { None } else { alone(store.path()).await? };
        let mut look = look(&store, &options, &queue).await?;
        let suspects: HashMap<Pid, SystemTime> = look.lost().map(|lost| (lost.pid().clone(), lost.changed())).collect();
        if !suspects.is_empty() {
            tokio::time::sleep(BETWEEN).await;
            look = self::look(&store, &options, &queue).await?;
        }
        let lost: Vec<Summary> =
            look.lost().filter(|lost| suspects.get(lost.pid()) == Some(&lost.changed())).cloned().collect();
        let damaged = report(&store, &look, &lost, dry_run, global, &queue).await?;
        let unreadable = look.unreadable.iter().map(|one| (one.pid.as_ref(), &one.error));
        stored::unreadable(unreadable.chain(damaged.iter().map(|(pid, error)| (Some(pid), error))))
    })
    .await
}

/// Waits until no other repair of the store is under way. Of two at once both would find the same processes lost, and send each
/// of them. What is locked is the store's directory: the file itself is SQLite's. `None` where the file system has no such locks.
async fn alone(store: &Path) -> Result<Option<Flock<File>>, Failure> {
    let folder = store.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut folder = File::open(folder)?;
    let mut is_noted = false;
    loop {
        folder = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err((folder, Errno::EWOULDBLOCK)) => folder,
            Err((folder, Errno::EINTR)) => folder,
            Err((_, error)) => {
                tracing::info!(%error, "whether another repair is under way cannot be known");
                return Ok(None);
            }
        };
        if !std::mem::replace(&mut is_noted, true) {
            note!("another repair of this store is under way; this one begins when it has ended");
        }
        tokio::time::sleep(BETWEEN / 20).await;
    }
}

async fn look(store: &SqlitePersister, options: &CommunicatorBuilder, queue: &str) -> Result<Look, Failure> {
    let before = store.unfinished().await?;
    let before: HashMap<Pid, (SystemTime, bool)> = before
        .processes
        .into_iter()
        .map(|process| (process.pid().clone(), (process.changed(), is_held(process.lease()))))
        .collect();
    let (peeked, is_whole) = match inspect::peek(options, queue, MOST_TASKS).await {
        Ok(peek) => {
            let is_whole = peek.tasks.len() < MOST_TASKS && !peek.too_many_bytes;
            (peek.tasks, is_whole)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (Vec::new(), true),
        Err(error) => return Err(error.into()),
    };
    let mut tasks = HashMap::new();
    let mut launches = HashSet::new();
    for task in peeked {
        let Ok((body, _)) = &task.task else { continue };
        match ProcessTask::try_from(body) {
            Ok(ProcessTask::Continue(task)) => *tasks.entry(task.pid().clone()).or_default() += 1,
            Ok(ProcessTask::Launch(_)) => launches.extend(task.message_id),
            _ => {}
        }
    }
    let after = store.unfinished().await?;
    // Guards: a process that its worker has launched, and whose task is back in the queue since that worker died: whoever takes the
    // task finds the process by it.
    for process in &after.processes {
        if process.task().is_some_and(|task| launches.contains(task)) {
            *tasks.entry(process.pid().clone()).or_default() += 1;
        }
    }
    // Guards: a task that was taken between the list and the look at the queue.
    let is_same = |process: &Summary| before.get(process.pid()) == Some(&(process.changed(), is_held(process.lease())));
    let processes = after.processes.into_iter().filter(is_same).collect();
    Ok(Look { processes, tasks, unreadable: after.unreadable, is_whole })
}

/// Whether somebody has it: a lease that stands, or a worker that is there and does not renew it.
fn is_held(lease: Option<&Lease>) -> bool {
    lease.is_some_and(|lease| lease.stands_at(SystemTime::now()) || lease.owner().liveness() == Liveness::Alive)
}

impl Look {
    fn lost(&self) -> impl Iterator<Item = &Summary> {
        self.processes.iter().filter(|process| !is_held(process.lease()) && !self.tasks.contains_key(process.pid()))
    }
}

/// Names what was found, and sends again what is lost. Those that turn out to be damaged.
async fn report(
    store: &SqlitePersister,
    look: &Look,
    lost: &[Summary],
    dry_run: bool,
    global: &Global,
    queue: &str,
) -> Result<Vec<(Pid, Error)>, Failure> {
    let now = SystemTime::now();
    let mut findings: BTreeMap<String, (Pid, Finding, String)> = BTreeMap::new();
    let mut add = |pid: &Pid, finding, text: String| drop(findings.insert(typed(pid), (pid.clone(), finding, text)));
    let held = look.processes.iter().filter(|process| is_held(process.lease())).count();
    for process in look.processes.iter().filter(|process| is_held(process.lease())) {
        if let Some(lease) = process.lease().filter(|lease| !lease.stands_at(now)) {
            let text = format!("{} is there, and has not renewed its lease; it is left alone", lease.owner());
            add(process.pid(), Finding::Stalled, text);
        }
    }
    for (pid, tasks) in &look.tasks {
        match look.processes.iter().find(|process| process.pid() == pid) {
            Some(process) if is_held(process.lease()) => {
                let text = format!("a worker has it, and {tasks} more wait in the queue; they end with it");
                add(pid, Finding::Doubled, text);
            }
            Some(_) if *tasks > 1 => {
                add(
                    pid,
                    Finding::Doubled,
                    format!("{tasks} tasks wait for it; one runs it, and the others end with it"),
                );
            }
            Some(_) => {}
            // It has changed meanwhile, or is not unfinished.
            None => match store.record(pid.clone()).await {
                Ok(Some(record)) if record.outcome().is_some() => {
                    add(pid, Finding::Finished, format!("it has ended, and {tasks} tasks wait; a worker answers them"));
                }
                Ok(None) => add(pid, Finding::Unknown, format!("{tasks} tasks wait, and the store does not have it")),
                // One that cannot be read is named as such.
                Ok(Some(_)) | Err(_) => {}
            },
        }
    }
    let mut damaged = Vec::new();
    for process in lost {
        // Guards: one that is damaged in what a list does not read. No worker can continue it, and the others are to be sent.
        match store.record(process.pid().clone()).await {
            Err(error) if error.kind() == ErrorKind::Decode => {
                damaged.push((process.pid().clone(), error));
                continue;
            }
            read => drop(read?),
        }
        let text = format!("{}, nobody has its lease, and no task waits for it", process.state());
        add(process.pid(), Finding::Lost, text);
    }
    let sends = !dry_run && !lost.is_empty() && look.is_whole;
    let communicator = if sends { Some(connect(global).await?) } else { None };
    let mut sent = 0;
    // Guards: `repair | head -1`. What cannot be printed is sent again all the same.
    let mut printed = Ok(());
    for (pid, finding, text) in findings.values() {
        let mut done = "";
        if let (Finding::Lost, Some(communicator)) = (finding, &communicator) {
            match still_lost(store, pid).await {
                Ok(true) => {
                    ProcessController::new(communicator).continue_process(pid).no_reply()?.await?;
                    (sent, done) = (sent + 1, "sent again");
                }
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::Decode => {
                    damaged.push((pid.clone(), error));
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if printed.is_ok() {
            printed = print(pid, *finding, text, done, global.output.format);
        }
    }
    if !look.is_whole && !lost.is_empty() {
        warning!(
            "the queue {queue:?} has more tasks than can be looked at: nothing is sent, for one of them may be theirs"
        );
    }
    note!(
        "{} unfinished processes: {held} are in the hands of workers, {} lost, of which {sent} are sent again",
        look.processes.len(),
        lost.len()
    );
    if let Some(communicator) = communicator {
        close(&communicator).await?;
    }
    printed.map(|()| damaged)
}

/// Guards: a worker that has taken it since the last look.
async fn still_lost(store: &SqlitePersister, pid: &Pid) -> homing::Result<bool> {
    let record = store.record(pid.clone()).await?;
    Ok(record.is_some_and(|record| record.outcome().is_none() && !is_held(record.lease())))
}

fn print(pid: &Pid, finding: Finding, text: &str, done: &str, format: Format) -> Result<(), Failure> {
    let word = match finding {
        Finding::Lost => "lost",
        Finding::Stalled => "stalled",
        Finding::Doubled => "doubled",
        Finding::Finished => "finished",
        Finding::Unknown => "unknown",
    };
    match format {
        Format::Json => {
            let mut map = Map::new();
            map.insert("pid", pid_as_json(pid));
            map.insert("finding", word);
            map.insert("text", text);
            map.insert("sent_again", !done.is_empty());
            values::print(&Value::Map(map), format)
        }
        Format::Text => {
            let done = if done.is_empty() { String::new() } else { format!("; {done}") };
            out!("{}  {word}: {}{done}", without_controls(&typed(pid)), without_controls(text))
        }
    }
}
