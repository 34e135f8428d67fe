//! Where events come from: the connection, broadcasts, the store and the queues, each in a task of its own. And who carries out
//! what the model asks for.
//!
//! All of them write into one channel of bounded length. One that finds it full waits: broadcasts that come faster than they are
//! taken in are then dropped by the communicator, which counts them.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use homing::inspect::{self, mend::Mender};
use homing::process::store::{ListFilter, LogSource, Persister, Record, SqlitePersister, Summary};
use homing::process::{
    ControlOutcome, ControlReply, ControlStage, Pid, ProcessController, ProcessEvents, ProcessState,
};
use homing::{Communicator, CommunicatorBuilder, ConnectionEvent, ErrorKind, Value};
use serde_json::Value as Json;
use tokio::sync::mpsc;

use super::model::{
    Action, Done, Event, Found, Link, LogEntry, MOST_QUEUES, Moment, Now, Page, Queue, Rates, Row, StatusAnswer,
    Trouble,
};
use crate::connection::{News, Watched};
use crate::doctor::{Answer, Management, in_background, segment};
use crate::failure::Failure;
use crate::note;
use crate::process::{holder, queued, record_facts};

/// How many events wait at most.
const WAITING: usize = 1024;

/// How long a status request may take.
const STATUS: Duration = Duration::from_secs(5);

/// How often the store is asked, and the broker. The management API measures every 5 s itself.
const STORE_EVERY: Duration = Duration::from_secs(1);
const DEPTH_EVERY: Duration = Duration::from_secs(2);
const MANAGEMENT_EVERY: Duration = Duration::from_secs(3);

/// After a failure it is waited for so long.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How many processes of each state that is not an end are listed, and how many that have ended.
const MOST_OF_A_STATE: usize = 500;
const MOST_ENDED: usize = 200;

/// How many lines of a log are shown.
const LAST_LINES: u64 = 50;

/// When things happen, since the view began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Clock(Instant::now())
    }

    pub(super) fn now(self) -> Now {
        Now { at: self.0.elapsed(), time: SystemTime::now() }
    }
}

/// The channel by which events come.
#[derive(Clone)]
pub(super) struct Feed {
    events: mpsc::Sender<Event>,
    clock: Clock,
}

impl Feed {
    pub(super) fn new(clock: Clock) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(WAITING);
        (Feed { events, clock }, receiver)
    }

    /// Hands an event over; false when nobody takes any more.
    async fn send(&self, event: Event) -> bool {
        self.events.send(event).await.is_ok()
    }
}

/// The changes of state.
pub(super) async fn changes(feed: Feed, mut changes: ProcessEvents) {
    while let Some(change) = changes.next().await {
        let event = match change {
            Ok(change) => Event::Change(change),
            Err(lagged) => Event::Lagged(lagged.missed),
        };
        if !feed.send(event).await {
            return;
        }
    }
}

/// What happens to the connection; resolves when it is lost for good.
pub(super) async fn connection(feed: Feed, mut watched: Watched) -> Failure {
    loop {
        let link = match watched.next().await {
            (_, News::Ended(failure)) => return failure,
            (Some(ConnectionEvent::Lost(error)), _) => Link::Lost(error.to_string()),
            (Some(ConnectionEvent::Reconnecting { attempt, .. }), _) => Link::Reconnecting { attempt },
            (Some(ConnectionEvent::Restored { away }), _) => Link::Restored { away },
            (Some(ConnectionEvent::Gap { away, .. }), _) => Link::Gap { away },
            (Some(ConnectionEvent::Blocked { reason }), _) => Link::Blocked(reason),
            (Some(ConnectionEvent::Unblocked), _) => Link::Unblocked,
            _ => continue,
        };
        feed.send(Event::Link(link)).await;
    }
}

/// Waits until it is time to ask again: not before so much time has passed, and not so often that asking is most of the work.
async fn pause(every: Duration, took: Duration) {
    tokio::time::sleep(every.max(took * 5)).await;
}

/// What the store has, again and again.
pub(super) async fn store(feed: Feed, store: SqlitePersister, pids: Vec<Pid>) {
    loop {
        let began = feed.clock.now().at;
        let event = match page(&store, &pids, began).await {
            Ok(page) => Event::Stored(page),
            Err(error) => Event::StoreFailed(error.to_string()),
        };
        if !feed.send(event).await {
            return;
        }
        pause(STORE_EVERY, feed.clock.now().at.saturating_sub(began)).await;
    }
}

async fn page(store: &SqlitePersister, pids: &[Pid], began: Duration) -> homing::Result<Page> {
    let mut page = Page { began, ..Page::default() };
    let now = SystemTime::now();
    if !pids.is_empty() {
        for pid in pids {
            match store.record(pid.clone()).await {
                Ok(record) => page.rows.extend(record.map(|record| row_of_record(&record, now))),
                Err(error) if error.kind() == ErrorKind::Decode => page.unreadable += 1,
                Err(error) => return Err(error),
            }
        }
        return Ok(page);
    }
    let ended = ProcessState::ALL.into_iter().filter(|state| state.is_terminal());
    let unfinished = ProcessState::ALL.into_iter().filter(|state| !state.is_terminal());
    let mut filters: Vec<(ListFilter, usize)> =
        unfinished.map(|state| (ListFilter::new().state(state), MOST_OF_A_STATE)).collect();
    filters.push((ended.fold(ListFilter::new(), ListFilter::state), MOST_ENDED));
    for (filter, most) in filters {
        let mut listing = store.list(filter.limit(most + 1)).await?;
        page.is_cut |= listing.processes.len() > most;
        page.unreadable += listing.unreadable.len();
        listing.processes.truncate(most);
        page.rows.extend(listing.processes.iter().map(|summary| row_of_summary(summary, now)));
    }
    Ok(page)
}

fn worker(lease: Option<&homing::process::store::Lease>, now: SystemTime) -> Option<String> {
    holder(lease, now).map(|lease| lease.owner().os_pid().to_string())
}

fn row_of_summary(summary: &Summary, now: SystemTime) -> Row {
    Row {
        pid: summary.pid().clone(),
        class: summary.class().to_owned(),
        state: summary.state(),
        pause: summary.pause().map(|pause| pause.message().map(str::to_owned)),
        status: summary.status_text().map(str::to_owned),
        created: summary.created(),
        changed: summary.changed(),
        exit_status: summary.exit_status(),
        worker: worker(summary.lease(), now),
    }
}

fn row_of_record(record: &Record, now: SystemTime) -> Row {
    let checkpoint = record.checkpoint();
    let exit_status = match record.outcome() {
        Some(homing::process::Outcome::Finished { exit_status, .. }) => Some(*exit_status),
        _ => None,
    };
    Row {
        pid: record.pid().clone(),
        class: checkpoint.class().to_owned(),
        state: checkpoint.state(),
        pause: checkpoint.pause().map(|pause| pause.message().map(str::to_owned)),
        status: checkpoint.status_text().map(str::to_owned),
        created: checkpoint.created(),
        changed: checkpoint.changed(),
        exit_status,
        worker: worker(record.lease(), now),
    }
}

/// The queues that are shown: the task queue, its quarantine queue and others.
pub(super) fn queue_names(options: &CommunicatorBuilder, others: Vec<String>) -> Result<Vec<String>, Failure> {
    let queues = inspect::declared(options)?.into_iter().filter(|declared| declared.kind == inspect::Kind::Queue);
    let mut names: Vec<String> = Vec::new();
    for name in queues.map(|queue| queue.name).chain(others) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    if names.len() > MOST_QUEUES {
        return Err(Failure::Usage(format!("{} queues are given, and {MOST_QUEUES} can be shown", names.len())));
    }
    Ok(names)
}

/// How long the queues are, again and again.
pub(super) async fn queues(
    feed: Feed,
    options: CommunicatorBuilder,
    names: Vec<String>,
    management: Option<Management>,
) -> Result<(), Failure> {
    match management {
        Some(management) => by_management(feed, &options, names, management).await,
        None => {
            by_declaring(feed, &options, names).await;
            Ok(())
        }
    }
}

/// All queues with the same trouble.
fn troubled(names: &[String], why: &str) -> Event {
    let queue = |name: &String| Queue { name: name.clone(), trouble: Some(why.to_owned()), ..Queue::default() };
    Event::Queues(names.iter().map(queue).collect())
}

/// By declaring them passively, over one connection that stays.
async fn by_declaring(feed: Feed, options: &CommunicatorBuilder, names: Vec<String>) {
    let mut connection: Option<Mender> = None;
    loop {
        let began = feed.clock.now().at;
        let connected = match connection.take() {
            Some(connected) => Ok(connected),
            None => Mender::connect(options).await,
        };
        let read = match connected {
            Ok(connected) => depths(&connected, &names).await.map(|queues| (connected, queues)),
            Err(error) => Err(error),
        };
        let has_failed = read.is_err();
        let event = match read {
            Ok((connected, queues)) => {
                connection = Some(connected);
                Event::Queues(queues)
            }
            Err(error) => troubled(&names, &error.to_string()),
        };
        if !feed.send(event).await {
            return;
        }
        if has_failed {
            tokio::time::sleep(AFTER_FAILURE).await;
        }
        pause(DEPTH_EVERY, feed.clock.now().at.saturating_sub(began)).await;
    }
}

async fn depths(connection: &Mender, names: &[String]) -> homing::Result<Vec<Queue>> {
    let mut queues = Vec::with_capacity(names.len());
    for name in names {
        let mut queue = Queue { name: name.clone(), ..Queue::default() };
        match connection.counts(name).await {
            Ok(depth) => {
                queue.ready = Some(depth.ready.into());
                queue.consumers = Some(depth.consumers.into());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => queue.is_missing = true,
            // It was not even asked for, and the others are as they are.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => queue.trouble = Some(error.to_string()),
            Err(error) => return Err(error),
        }
        queues.push(queue);
    }
    Ok(queues)
}

async fn by_management(
    feed: Feed,
    options: &CommunicatorBuilder,
    names: Vec<String>,
    management: Management,
) -> Result<(), Failure> {
    let vhost = segment(&inspect::target(options)?.virtual_host);
    loop {
        let began = feed.clock.now().at;
        let (asked, management, vhost) = (names.clone(), management.clone(), vhost.clone());
        let read = in_background(move || -> Result<Vec<Queue>, String> {
            asked.iter().map(|name| by_name(&management, &vhost, name)).collect()
        });
        let event = match read.await? {
            Ok(queues) => Event::Queues(queues),
            Err(why) => troubled(&names, &why),
        };
        if !feed.send(event).await {
            return Ok(());
        }
        pause(MANAGEMENT_EVERY, feed.clock.now().at.saturating_sub(began)).await;
    }
}

fn by_name(management: &Management, vhost: &str, name: &str) -> Result<Queue, String> {
    let Answer { status, body } = management.get(&format!("/api/queues/{vhost}/{}", segment(name)))?;
    match status {
        200 => Ok(read_queue(name, &body)),
        404 => Ok(Queue { name: name.to_owned(), is_missing: true, ..Queue::default() }),
        401 => {
            Err("the management API refuses this user: wrong name or password, or it lacks the tag `monitoring`"
                .to_owned())
        }
        status => Err(format!("the management API answers with status {status}")),
    }
}

/// A queue as the management API has it. Rates that it does not have yet are not there.
fn read_queue(name: &str, body: &Json) -> Queue {
    let rate = |what: &str| body["message_stats"][format!("{what}_details")]["rate"].as_f64();
    Queue {
        name: name.to_owned(),
        ready: body["messages_ready"].as_u64(),
        unacknowledged: body["messages_unacknowledged"].as_u64(),
        consumers: body["consumers"].as_u64(),
        rates: Rates {
            published: rate("publish"),
            delivered: rate("deliver_get"),
            acknowledged: rate("ack"),
            growth: body["messages_ready_details"]["rate"].as_f64(),
        },
        is_missing: false,
        trouble: None,
    }
}

/// Asks a process for its status.
pub(super) async fn status(feed: Feed, controller: ProcessController, pid: Pid) {
    let asked = feed.clock.now().at;
    let answer = controller.status(&pid).timeout(STATUS).await;
    let answer = answer.map_err(|error| trouble(&error)).map(|status| {
        let field = |(name, value): (&Value, &Value)| {
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_json_text(), str::to_owned);
            (text(name), text(value))
        };
        StatusAnswer {
            state: status.state(),
            is_paused: status.is_paused(),
            created: status.created(),
            description: status.description().to_owned(),
            fields: status.fields().iter().map(field).collect(),
        }
    });
    feed.send(Event::Status { pid, asked, answer }).await;
}

fn trouble(error: &homing::Error) -> Trouble {
    match error.kind() {
        ErrorKind::Unroutable => Trouble::Unreachable,
        ErrorKind::TimedOut => Trouble::TimedOut(error.to_string()),
        _ => Trouble::Failed(error.to_string()),
    }
}

/// Asks a process to do something. One that has not begun is killed in the store of the view.
pub(super) async fn act(
    feed: Feed,
    communicator: Communicator,
    store: Option<SqlitePersister>,
    pid: Pid,
    action: Action,
) {
    let controller = ProcessController::new(&communicator);
    let outcome = match action {
        Action::Pause => outcome(&feed, &pid, action, controller.pause(&pid).send()).await,
        Action::Play => outcome(&feed, &pid, action, controller.play(&pid).send()).await,
        Action::Kill => outcome(&feed, &pid, action, controller.kill(&pid).send()).await,
        Action::KillByForce => outcome(&feed, &pid, action, controller.kill(&pid).force().send()).await,
    };
    let outcome = match (outcome, action, store) {
        (Err(error), Action::Kill | Action::KillByForce, Some(store)) if error.kind() == ErrorKind::Unroutable => {
            match killed_in_queue(&communicator, &store, &pid).await {
                Ok(true) => Ok(Done::Yes),
                Ok(false) => Err(error),
                Err(error) => Err(error),
            }
        }
        (outcome, ..) => outcome.map(|outcome| if outcome.is_done() { Done::Yes } else { Done::Refused }),
    };
    feed.send(Event::Acted(pid, action, outcome.map_err(|error| trouble(&error)))).await;
}

/// Kills one that waits for a worker with a free slot. False where it is none.
async fn killed_in_queue(communicator: &Communicator, store: &SqlitePersister, pid: &Pid) -> homing::Result<bool> {
    match queued::store_of_workers(communicator, store.path()).await {
        Some(store) => queued::kill(communicator, &store, pid, None).await,
        None => Ok(false),
    }
}

async fn outcome(
    feed: &Feed,
    pid: &Pid,
    action: Action,
    sending: impl Future<Output = homing::Result<ControlReply<ControlOutcome>>>,
) -> homing::Result<ControlOutcome> {
    let mut reply = sending.await?;
    loop {
        match reply.stage().await? {
            ControlStage::Done(outcome) => return Ok(outcome),
            _ => feed.send(Event::Received(pid.clone(), action)).await,
        };
    }
}

/// What the store has of a process.
pub(super) async fn detail(feed: Feed, store: SqlitePersister, pid: Pid) {
    let found = match found(&store, &pid).await {
        Ok(found) => found,
        Err(error) => Found::Failed(error.to_string()),
    };
    feed.send(Event::Detail(pid, found)).await;
}

async fn found(store: &SqlitePersister, pid: &Pid) -> homing::Result<Found> {
    let Some(record) = store.record(pid.clone()).await? else { return Ok(Found::NotThere) };
    let known = ["process", "class", "state", "created"];
    let facts = record_facts(&record).into_iter().filter(|(name, _)| !known.contains(name));
    let moments = record.transitions().iter().map(|transition| Moment {
        time: transition.at,
        state: transition.state,
        is_paused: transition.is_paused,
        step: transition.step,
    });
    let first = record.log_lines().saturating_sub(LAST_LINES);
    let log = store.log(pid.clone(), first, usize::try_from(LAST_LINES).unwrap_or(usize::MAX)).await?;
    let log = log.lines.iter().map(|line| LogEntry {
        time: line.at(),
        is_error: line.source() == LogSource::Error,
        text: line.text().to_owned(),
    });
    Ok(Found::Stored {
        facts: facts.map(|(name, text)| (name.to_owned(), text)).collect(),
        moments: moments.collect(),
        log: log.collect(),
    })
}

/// The store that is shown. One that this command names has to be there; another may come later.
pub(super) async fn open_store(given: Option<&Path>, is_aiida: bool) -> Result<Option<SqlitePersister>, Failure> {
    if given.is_some() {
        return Ok(Some(crate::store::open_to_read(&crate::store::path(given)?).await?));
    }
    if is_aiida {
        // Its pids are AiiDA's, and those of a store are others.
        return Ok(None);
    }
    match crate::store::path(None) {
        Ok(path) if path.exists() => Ok(Some(crate::store::open_to_read(&path).await?)),
        Ok(path) => {
            if crate::places::variable("HOMING_STORE").is_some() {
                note!("there is no store {} yet; a worker makes it", path.display());
            }
            Ok(None)
        }
        // There is no home to look in.
        Err(_) => Ok(None),
    }
}
