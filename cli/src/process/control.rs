//! `homing process status`, `pause`, `play` and `kill`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use homing::process::store::{Persister, Record, SqlitePersister};
use homing::process::{Pid, ProcessController, Status};
use homing::{Communicator, Value};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::in_words;
use super::many::{self, Counts, Shared, line, object, outcome, typed};
use super::queued;
use crate::args::{Format, Global, Process, Targets};
use crate::connection::connect;
use crate::failure::Failure;
use crate::progress::{Progress, Stage, bounded};
use crate::stop::Stop;
use crate::{note, out, store};

/// How long the store has to answer, of which no more than a hint is wanted.
const STORE_ANSWERS: Duration = Duration::from_secs(2);

/// What is asked of them.
enum Request {
    Status,
    Pause(Option<String>),
    Play,
    Kill { message: Option<String>, force: bool },
}

impl Request {
    /// What stands between "the request" and "process 4".
    fn purpose(&self) -> &'static str {
        match self {
            Request::Status => "for the status of",
            Request::Pause(_) => "to pause",
            Request::Play => "to play",
            Request::Kill { .. } => "to kill",
        }
    }

    /// What a process is when it is done.
    fn result(&self) -> &'static str {
        match self {
            Request::Status => "",
            Request::Pause(_) => "paused",
            Request::Play => "playing",
            Request::Kill { .. } => "killed",
        }
    }
}

/// What a process answers.
enum Answer {
    Status(Status),
    Done,
}

pub(super) async fn run(command: Process, global: &Global, stop: Stop) -> Result<(), Failure> {
    let mut file = None;
    let (request, targets) = match command {
        Process::Status { pids, timeout } => (Request::Status, Targets { pids, all: false, timeout }),
        Process::Pause { targets, message } => (Request::Pause(message), targets),
        Process::Play { targets } => (Request::Play, targets),
        Process::Kill { targets, message, force, store } => {
            file = store;
            (Request::Kill { message, force }, targets)
        }
        // They are asked for elsewhere.
        _ => return Ok(()),
    };
    let Targets { pids, all, timeout } = targets;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let progress = Progress::default();
    progress.at(Stage::Connecting);
    let communicator: Communicator = bounded(timeout, stop.clone(), &progress, async { connect(global).await }).await?;
    let controller = ProcessController::new(&communicator);
    let format = global.output.format;
    let asked = if all {
        progress.at(Stage::Sending);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let sending = async { to_all(&controller, &request).await };
        bounded(left.map(at_least_something), stop.clone(), &progress, sending)
            .await
            .and_then(|()| print_all(&request, format))
    } else {
        let counts = Counts::default();
        let advice = match request {
            // Whoever wants a process killed does not want it run.
            Request::Kill { .. } => many::let_them_rest(global),
            _ => many::run_them(global, &pids),
        };
        let shared = Shared { purpose: request.purpose(), format, deadline, counts: &counts, advice: Some(advice) };
        let width = pids.iter().map(|pid| typed(pid).chars().count()).max().unwrap_or(0);
        let stored = OfStore::new(global, file.as_deref())?;
        let (by, to, what, stored, over) = (&shared, &controller, &request, &stored, &communicator);
        let ask = move |pid: Pid| async move {
            match one(by, to, what, pid.clone()).await {
                Err(failure) if failure.code() == 3 => stored.instead(over, &pid, what, by.deadline, failure).await,
                answer => answer,
            }
        };
        many::all(&shared, pids, stop.clone(), ask, |pid, answer| print(&request, pid, answer, format, width)).await
    };
    if let (Request::Kill { force: false, .. }, Err(failure)) = (&request, &asked)
        && failure.code() == 4
    {
        note!("--force kills a process at once whose kill does not come to an end");
    }
    many::finish(&communicator, &asked, deadline, stop).await;
    asked
}

/// What this user's store knows of processes that cannot be reached.
struct OfStore {
    /// Its file; `None` where the processes are in no store of ours.
    file: Option<PathBuf>,
    /// Opened when it is needed; where it cannot be, nothing is known.
    to_read: OnceCell<Option<SqlitePersister>>,
    /// The same to write, if the workers have it too.
    to_write: OnceCell<Option<SqlitePersister>>,
}

impl OfStore {
    fn new(global: &Global, file: Option<&Path>) -> Result<Self, Failure> {
        let options = &global.broker;
        // AiiDA's processes are in no store of ours.
        let is_ours = !options.aiida && options.profile.is_none();
        let file = match file {
            Some(file) => Some(store::path(Some(file))?),
            None => store::path(None).ok(),
        };
        Ok(OfStore { file: file.filter(|_| is_ours), to_read: OnceCell::new(), to_write: OnceCell::new() })
    }

    /// What comes of a request to a process that cannot be reached: the failure, with how the process has ended, where the store
    /// has that. One that has not begun is killed in the store.
    async fn instead(
        &self,
        communicator: &Communicator,
        pid: &Pid,
        request: &Request,
        deadline: Option<Instant>,
        failure: Failure,
    ) -> Result<Answer, Failure> {
        let Some((file, record)) = self.record(pid).await else { return Err(failure) };
        let Some(outcome) = record.outcome() else {
            let Request::Kill { message, .. } = request else { return Err(failure) };
            let killed = self.is_killed(communicator, pid, message.as_deref());
            let is_killed = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, killed).await.unwrap_or(Ok(false)),
                None => killed.await,
            };
            return if is_killed? { Ok(Answer::Done) } else { Err(failure) };
        };
        let file = file.display();
        // Another worker's store may have another process of this pid.
        let advice = format!("in the store {file} process {pid} {}; it is not run again", in_words(outcome));
        Err(Failure::Advised(Box::new(failure), advice))
    }

    async fn is_killed(&self, communicator: &Communicator, pid: &Pid, message: Option<&str>) -> Result<bool, Failure> {
        let Some(file) = &self.file else { return Ok(false) };
        let open = || queued::store_of_workers(communicator, file);
        let Some(store) = self.to_write.get_or_init(open).await else { return Ok(false) };
        Ok(queued::kill(communicator, store, pid, message).await?)
    }

    async fn record(&self, pid: &Pid) -> Option<(&Path, Record)> {
        let file = self.file.as_deref()?;
        let open = async || store::open_to_read(file).await.ok();
        let records = self.to_read.get_or_init(open).await.as_ref()?;
        let record = tokio::time::timeout(STORE_ANSWERS, records.record(pid.clone())).await.ok()?.ok()??;
        Some((file, record))
    }
}

/// A time that has passed is one that passes at once.
fn at_least_something(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

async fn one(
    shared: &Shared<'_>,
    controller: &ProcessController,
    request: &Request,
    pid: Pid,
) -> Result<Answer, Failure> {
    let done = match request {
        Request::Status => {
            return outcome(shared, Some(&pid), controller.status(&pid).send()).await.map(Answer::Status);
        }
        Request::Pause(message) => {
            let mut pause = controller.pause(&pid);
            if let Some(message) = message {
                pause = pause.message(message);
            }
            outcome(shared, Some(&pid), pause.send()).await?
        }
        Request::Play => outcome(shared, Some(&pid), controller.play(&pid).send()).await?,
        Request::Kill { message, force } => {
            let mut kill = controller.kill(&pid);
            if let Some(message) = message {
                kill = kill.message(message);
            }
            if *force {
                kill = kill.force();
            }
            outcome(shared, Some(&pid), kill.send()).await?
        }
    };
    if done.is_done() {
        return Ok(Answer::Done);
    }
    let why = if matches!(request, Request::Pause(_)) { "it has ended, or is being killed" } else { "it has ended" };
    Err(Failure::Other(format!("process {pid} refused to be {}: {why}", request.result())))
}

async fn to_all(controller: &ProcessController, request: &Request) -> Result<(), Failure> {
    match request {
        Request::Pause(message) => {
            let mut pause = controller.pause_all();
            if let Some(message) = message {
                pause = pause.message(message);
            }
            pause.await?;
        }
        Request::Play => controller.play_all().await?,
        Request::Kill { message, .. } => {
            let mut kill = controller.kill_all();
            if let Some(message) = message {
                kill = kill.message(message);
            }
            kill.await?;
        }
        Request::Status => {}
    }
    Ok(())
}

fn print_all(request: &Request, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => out!("{}", serde_json::json!({"all": true, "asked_to_be": request.result()})),
        Format::Text => {
            out!("a request {} was sent to all processes", request.purpose())?;
            note!(
                "a broadcast is not answered: `process status PID` or `process watch`, with the same options, shows what becomes of it"
            );
            Ok(())
        }
    }
}

fn print(request: &Request, pid: &Pid, answer: Answer, format: Format, width: usize) -> Result<(), Failure> {
    match (answer, format) {
        (Answer::Done, Format::Text) => line(pid, &[request.result()]),
        (Answer::Done, Format::Json) => object(pid, [("outcome", Value::from(request.result()))]),
        (Answer::Status(status), Format::Text) => {
            let paused = if status.is_paused() { "paused" } else { "      " };
            let created = created(&status).map(|created| format!("created {created}")).unwrap_or_default();
            let padding = " ".repeat(width.saturating_sub(typed(pid).chars().count()));
            let state = format!("{padding}{:<8}", status.state());
            line(pid, &[&state, paused, &created, status.description()])
        }
        (Answer::Status(status), Format::Json) => object(
            pid,
            [
                ("state", Value::from(status.state().as_str())),
                ("paused", Value::from(status.is_paused())),
                ("created", Value::from(created(&status))),
                ("description", Value::from(status.description())),
                ("status", Value::from(status.clone())),
            ],
        ),
    }
}

fn created(status: &Status) -> Option<String> {
    let created = status.created()?;
    // What a process reports may lie beyond what can be written as a date.
    let latest = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    (created <= latest).then(|| humantime::format_rfc3339_millis(created).to_string())
}
