//! The books that are kept outside of the communicator: what was sent, what was run, what was answered. What contradicts
//! them is a fault.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::broker::server;
use super::executor::{Group, current, note};
use crate::error::{Error, ErrorKind};

/// Who rejects a task pauses longer each time, so that none is begun so often.
const STARTS: u32 = 150;
/// One subscriber begins no task so often within a second: pauses of 20, 40, 80 ms and so on lie between, except where the
/// task comes again by itself, after a loss.
const STARTS_A_SECOND: usize = 10;

/// For how long a task's key is its own.
pub(super) const KEY_TIME: Duration = Duration::from_secs(12);

/// What is known of a task.
#[derive(Default)]
pub(super) struct TaskEntry {
    /// Its sender has been told that the broker has it.
    pub(super) confirmed: bool,
    /// Its end has been decided by a handler.
    pub(super) ended: bool,
    /// How often it was begun.
    pub(super) starts: u32,
    /// How often it was begun with no sign that it may have run before.
    unmarked: u32,
    /// When each subscriber began it lately.
    lately: BTreeMap<String, VecDeque<Instant>>,
    /// What its handlers have returned.
    results: BTreeSet<String>,
    /// Some handler has failed it, or nobody could read it.
    pub(super) may_fail: bool,
    /// Before this it is not run.
    due: Option<Instant>,
    /// Its sender has been told that it was not sent, since another one had its key.
    was_refused: bool,
}

/// A task that was sent under a key.
struct Keyed {
    task: i64,
    key: u32,
    /// When its sending began, and when its sender was told that the broker has it: in between it took its key.
    from: Instant,
    to: Option<Instant>,
}

/// What is known of a call.
#[derive(Default)]
struct CallEntry {
    /// By communicator: one that is on its way out may serve a name beside the next one of its program, and the broker gives a
    /// call to both.
    runs: BTreeMap<String, u32>,
    may_fail: bool,
}

/// A subscriber that stands: whose, under which name, at which home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) communicator: usize,
    pub(super) name: String,
    pub(super) home: Group,
}

/// Something that was begun and has to end.
struct UnderWay {
    what: String,
    communicator: usize,
}

#[derive(Default)]
pub(super) struct Books {
    last_number: i64,
    /// Tasks up to this number may be lost, since an operator has deleted their queue.
    excused: i64,
    pub(super) tasks: BTreeMap<i64, TaskEntry>,
    /// Those that may have taken their key.
    keyed: Vec<Keyed>,
    /// The keys whose queues an operator has deleted, and when.
    deleted_keys: Vec<(u32, Instant)>,
    calls: BTreeMap<i64, CallEntry>,
    /// Subscriber and broadcast, and how often.
    broadcasts: BTreeMap<(String, i64), u32>,
    pub(super) task_subscribers: Vec<Subscription>,
    pub(super) rpc_subscribers: Vec<Subscription>,
    pub(super) broadcast_subscribers: Vec<Subscription>,
    under_way: BTreeMap<u64, UnderWay>,
    last_under_way: u64,
    /// The communicators that have lost their connection and have not emitted that everything is set up again, by name.
    pub(super) away: BTreeSet<String>,
    faults: BTreeSet<String>,
    /// For how long homes and threads have been stalled by the simulation, all in all.
    pub(super) stalled: Duration,
    /// Until when the present ones are.
    stalled_until: Vec<Instant>,
}

/// The books, shared by everybody in the simulation.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Books>>);

impl Ledger {
    pub(super) fn books(&self) -> parking_lot::MutexGuard<'_, Books> {
        self.0.lock()
    }

    /// Something that must not be. The text begins with its kind, a colon after it.
    pub(super) fn fault(&self, text: String) {
        note(|| format!("FAULT {text}"));
        self.books().faults.insert(text);
    }

    pub(super) fn faults(&self) -> Vec<String> {
        self.books().faults.iter().cloned().collect()
    }

    pub(super) fn number(&self) -> i64 {
        let mut books = self.books();
        books.last_number += 1;
        books.last_number
    }

    /// Somebody is stalled from now on for so long.
    pub(super) fn stalls(&self, time: Duration) {
        let now = Instant::now();
        let mut books = self.books();
        books.stalled += time;
        books.stalled_until.retain(|until| *until > now);
        books.stalled_until.push(now + time);
    }

    /// Runs something that has to end within a limit, beside the time for which the simulation stalls somebody.
    pub(super) async fn within<T>(
        &self,
        communicator: usize,
        what: &str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> T {
        let began = Instant::now();
        let (number, stalled) = {
            let mut books = self.books();
            books.last_under_way += 1;
            let number = books.last_under_way;
            books.under_way.insert(number, UnderWay { what: what.to_owned(), communicator });
            // What still lasts holds this up as well.
            let lasts: Duration = books.stalled_until.iter().map(|until| until.saturating_duration_since(began)).sum();
            (number, books.stalled.saturating_sub(lasts))
        };
        let done = work.await;
        let mut books = self.books();
        books.under_way.remove(&number);
        let took = began.elapsed();
        let stalled = books.stalled - stalled;
        drop(books);
        if took > limit + stalled {
            self.fault(format!("late: {what} may take {limit:?} and took {took:?}"));
        }
        done
    }

    /// What has not ended.
    pub(super) fn under_way(&self) -> Vec<String> {
        self.books().under_way.values().map(|entry| entry.what.clone()).collect()
    }

    /// A task is about to be sent: held back for so long, under this key.
    pub(super) fn task_is_sent(&self, id: i64, delay: Duration, key: Option<u32>) {
        let now = Instant::now();
        let mut books = self.books();
        books.tasks.entry(id).or_default().due = Some(now + delay);
        if let Some(key) = key {
            books.keyed.push(Keyed { task: id, key, from: now, to: None });
        }
    }

    pub(super) fn task_confirmed(&self, id: i64) {
        let mut books = self.books();
        books.tasks.entry(id).or_default().confirmed = true;
        let excused = if server().freed_late() { i64::MAX } else { books.excused };
        let Some(at) = books.keyed.iter().position(|keyed| keyed.task == id) else { return };
        books.keyed[at].to = Some(Instant::now());
        let it = &books.keyed[at];
        // Within these two spans of time both took the key.
        let farthest = |other: &Keyed| Some((it.to? - other.from).max(other.to? - it.from));
        // Whoever had the key when its queue was deleted may still look for its marker, to free it: while it holds the one of the next
        // sender, the key seems free to a third.
        let is_deleted = |other: &Keyed| {
            let (to, from) = (other.to.max(it.to), other.from.max(it.from));
            books.deleted_keys.iter().any(|(key, at)| *key == it.key && to >= Some(*at) && from <= *at + KEY_TIME)
        };
        let both = books.keyed.iter().find(|other| {
            let same = other.key == it.key && other.task != id && other.task.min(id) > excused;
            same && farthest(other).is_some_and(|apart| apart < KEY_TIME) && !is_deleted(other)
        });
        let fault = both.map(|other| format!("sent twice: tasks {id} and {} had one key at once", other.task));
        drop(books);
        if let Some(fault) = fault {
            self.fault(fault);
        }
    }

    /// The sender of a task is told that another one has its key.
    pub(super) fn task_is_duplicate(&self, id: i64) {
        let mut books = self.books();
        let entry = books.tasks.entry(id).or_default();
        entry.was_refused = true;
        let has_run = entry.starts > 0;
        let Some(at) = books.keyed.iter().position(|keyed| keyed.task == id) else { return };
        let Keyed { key, from, .. } = books.keyed.remove(at);
        let may_have_it = |other: &Keyed| other.key == key && other.to.is_none_or(|to| to + KEY_TIME >= from);
        let alone = !books.keyed.iter().any(may_have_it);
        drop(books);
        if alone {
            self.fault(format!("wrong error: task {id} was refused as a duplicate, and no other one had its key"));
        }
        if has_run {
            self.fault(format!("wrong error: task {id} was refused as a duplicate, and was run"));
        }
    }

    /// A subscriber begins a task; returns which time this is.
    pub(super) fn task_begins(&self, id: i64, marked: bool, whose: &str) -> u32 {
        let mut books = self.books();
        let entry = books.tasks.entry(id).or_default();
        entry.starts += 1;
        entry.unmarked += u32::from(!marked);
        let (starts, twice) = (entry.starts, !marked && entry.unmarked > 1);
        let (now, mut hot) = (Instant::now(), false);
        let early = entry.due.map(|due| due.saturating_duration_since(now)).unwrap_or_default();
        let was_refused = entry.was_refused;
        // Most are begun once or twice.
        if starts > 2 {
            let lately = entry.lately.entry(whose.to_owned()).or_default();
            lately.push_back(now);
            lately.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
            hot = lately.len() > STARTS_A_SECOND;
        }
        drop(books);
        if !early.is_zero() {
            self.fault(format!("early: task {id} was begun {early:?} before its time"));
        }
        if was_refused {
            self.fault(format!("wrong error: task {id} is run, and its sender was told that it was not sent"));
        }
        if hot {
            self.fault(format!("hot: task {id} was begun over {STARTS_A_SECOND} times within a second by {whose}"));
        }
        if starts == STARTS {
            self.fault(format!("hot: task {id} was begun {STARTS} times"));
        }
        if twice {
            self.fault(format!("run twice: task {id} was run again with no sign of it"));
        }
        starts
    }

    /// A handler has refused a task, which then counts as not run.
    pub(super) fn task_refused(&self, id: i64, marked: bool) {
        let mut books = self.books();
        let entry = books.tasks.entry(id).or_default();
        entry.unmarked -= u32::from(!marked && entry.unmarked > 0);
        entry.may_fail = true;
    }

    pub(super) fn task_may_fail(&self, id: i64) {
        self.books().tasks.entry(id).or_default().may_fail = true;
    }

    /// A handler has decided a task's end.
    pub(super) fn task_ends(&self, id: i64, result: Option<&str>) {
        let mut books = self.books();
        let entry = books.tasks.entry(id).or_default();
        entry.ended = true;
        match result {
            Some(result) => drop(entry.results.insert(result.to_owned())),
            None => entry.may_fail = true,
        }
    }

    /// The sender of a task has its outcome.
    pub(super) fn task_outcome(&self, id: i64, outcome: Result<Option<&str>, &Error>) {
        let books = self.books();
        let entry = books.tasks.get(&id);
        let fault = match outcome {
            Ok(Some(result)) if entry.is_some_and(|entry| entry.results.contains(result)) => None,
            Ok(result) => Some(format!("wrong outcome: task {id} has {result:?}")),
            Err(error) if error.kind() == ErrorKind::RemoteException || error.kind() == ErrorKind::TaskRejected => {
                (id > books.excused && !entry.is_some_and(|entry| entry.may_fail))
                    .then(|| format!("wrong outcome: task {id} did not fail, and its outcome is {error}"))
            }
            Err(_) => None,
        };
        drop(books);
        if let Some(fault) = fault {
            self.fault(fault);
        }
    }

    /// A handler begins a call.
    pub(super) fn call_begins(&self, id: i64, communicator: &str) {
        let runs = {
            let mut books = self.books();
            let runs = books.calls.entry(id).or_default().runs.entry(communicator.to_owned()).or_default();
            *runs += 1;
            *runs
        };
        if runs > 1 {
            self.fault(format!("run twice: call {id} was run {runs} times"));
        }
    }

    pub(super) fn call_may_fail(&self, id: i64) {
        self.books().calls.entry(id).or_default().may_fail = true;
    }

    /// Whether its handler has failed it.
    pub(super) fn call_failed(&self, id: i64) -> bool {
        self.books().calls.get(&id).is_some_and(|entry| entry.may_fail)
    }

    pub(super) fn call_outcome(&self, id: i64, outcome: Result<Option<&str>, &Error>) {
        let fault = match outcome {
            Ok(Some(answer)) if answer == format!("answer-{id}-") => self
                .books()
                .calls
                .get(&id)
                .is_none_or(|entry| entry.runs.is_empty())
                .then(|| format!("wrong outcome: call {id} was answered and never run")),
            Ok(answer) => Some(format!("wrong outcome: call {id} was answered with {answer:?}")),
            Err(error) => {
                expected(error).err().map(|kind| format!("wrong error: call {id} ended with {kind:?}: {error}"))
            }
        };
        if let Some(fault) = fault {
            self.fault(fault);
        }
    }

    pub(super) fn broadcast_heard(&self, subscriber: &str, id: i64, may_come_again: bool) {
        let count = {
            let mut books = self.books();
            let count = books.broadcasts.entry((subscriber.to_owned(), id)).or_default();
            *count += 1;
            *count
        };
        if count > 1 && !may_come_again {
            self.fault(format!("run twice: broadcast {id} came {count} times to {subscriber}"));
        }
    }

    pub(super) fn has_heard(&self, subscriber: &str, id: i64) -> bool {
        self.books().broadcasts.contains_key(&(subscriber.to_owned(), id))
    }

    /// A home has ended, and its subscribers with it.
    pub(super) fn home_ended(&self, home: Group) {
        let mut books = self.books();
        books.task_subscribers.retain(|subscription| subscription.home != home);
        books.rpc_subscribers.retain(|subscription| subscription.home != home);
        books.broadcast_subscribers.retain(|subscription| subscription.home != home);
    }

    /// A communicator has ended, and its subscribers with it.
    pub(super) fn communicator_ended(&self, communicator: usize) {
        let mut books = self.books();
        books.task_subscribers.retain(|subscription| subscription.communicator != communicator);
        books.rpc_subscribers.retain(|subscription| subscription.communicator != communicator);
        books.broadcast_subscribers.retain(|subscription| subscription.communicator != communicator);
    }

    /// A process has died, and with it whatever was under way there.
    pub(super) fn process_died(&self, communicator: usize) {
        self.communicator_ended(communicator);
        self.books().under_way.retain(|_, entry| entry.communicator != communicator);
    }

    /// The tasks that the broker has taken over and nobody has ended.
    pub(super) fn open_tasks(&self) -> Vec<i64> {
        let books = self.books();
        let open = books.tasks.iter().filter(|(id, entry)| entry.confirmed && !entry.ended && **id > books.excused);
        open.map(|(id, _)| *id).collect()
    }

    /// An operator has deleted a task queue: what was sent by then may be lost.
    pub(super) fn excuse_open_tasks(&self) {
        let mut books = self.books();
        books.excused = books.last_number;
    }

    /// An operator has deleted the queue of a key.
    pub(super) fn key_is_deleted(&self, key: u32) {
        self.books().deleted_keys.push((key, Instant::now()));
    }

    /// User code runs: never on the communicator thread.
    pub(super) fn user_code(&self, what: &str) {
        let Some(simulation) = current() else { return };
        let here = simulation.here_name();
        if here.contains("communicator") {
            self.fault(format!("user code: {what} on {here}"));
        }
    }
}

/// Errors that adversity alone explains.
///
/// # Errors
/// The kind of any other.
pub(super) fn expected(error: &Error) -> Result<(), ErrorKind> {
    match error.kind() {
        ErrorKind::RemoteException
        | ErrorKind::DeliveryFailed
        | ErrorKind::Unroutable
        | ErrorKind::TaskRejected
        | ErrorKind::QueueEmpty
        | ErrorKind::CommunicatorClosed
        | ErrorKind::TimedOut
        | ErrorKind::Cancelled
        | ErrorKind::Connection
        | ErrorKind::ConnectionLost
        | ErrorKind::NotFound
        | ErrorKind::Decode
        | ErrorKind::HomeEnded
        | ErrorKind::Full => Ok(()),
        kind => Err(kind),
    }
}

/// The number in a body of ours, such as `task-17-`.
pub(super) fn number_in(text: &str, what: &str) -> Option<i64> {
    let (_, rest) = text.split_once(what)?;
    let rest = rest.strip_prefix('-')?;
    rest.split('-').next()?.parse().ok()
}
