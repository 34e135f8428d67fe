//! `homing run`: a program as a process, with its output and its exit code.

use std::cell::Cell;
use std::io::{IsTerminal, stderr, stdin};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, Instant};

use homing::process::store::{Inputs, NewProcess, Outcome, Persister, SqlitePersister};
use homing::process::{ControlReply, Pid, Process, ProcessController, ProcessState, StateChange};
use homing::{Communicator, ErrorKind, Value, inspect};

use crate::args::{Global, Run};
use crate::connection::{begin_to_stay, options};
use crate::failure::Failure;
use crate::failure::Interruption;
use crate::output::quoted;
use crate::presence::{self, Role, Stored};
use crate::process::follow::{Follow, Place};
use crate::process::shell::job::{Job, LAUNCHED_AS};
use crate::process::shell::{self, Shell};
use crate::stop::Stop;
use crate::{call, note, out, output, process, settings, store, warning};

/// How long a worker has to answer that it is there.
const ANSWERS: Duration = Duration::from_secs(2);

/// After this time a note reports that it has not begun.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long is waited before it is asked whether a worker can do what is waited for: this, and then twice as long each time.
const LOOKS_FIRST: Duration = Duration::from_secs(3);
const LOOKS_MOST: Duration = Duration::from_secs(60);

/// How long a process may take until it can be called.
const REACHABLE: Duration = Duration::from_secs(10);

/// How long a process that is being made may take to be made, and its task to be sent, after a signal. A second one ends that.
const SENDING: Duration = Duration::from_secs(10);

/// How long the end of the command may take once it is decided.
const CLOSING: Duration = Duration::from_secs(3);

pub(crate) async fn run(command: Run, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let path = store::path(command.store.as_deref())?;
    let inputs = inputs(&command)?;
    let waits = if command.detach { Waits::No } else { Waits::Yes };
    let stopping = stop.clone();
    let is_made = Cell::new(false);
    let launching = async {
        // Launching is not begun again by itself: nobody knows whether the first has arrived.
        let (communicator, ()) = begin_to_stay(global, options(global)?, async |_| Ok(())).await?;
        let launched = launch(&communicator, global, &path, inputs, waits, &is_made).await;
        if launched.is_err() {
            call::finish(&communicator, Some(Instant::now() + CLOSING), stopping).await;
        }
        Ok::<_, Failure>((communicator, launched?))
    };
    let mut launching = pin!(launching);
    let launched = tokio::select! {
        launched = &mut launching => launched?,
        signal = stop.wait() => {
            // Guards: a process that is made and whose task is not sent. A repair would run it some day, for nobody.
            let rest = async { if is_made.get() { Some(launching.await) } else { None } };
            match tokio::time::timeout(SENDING, rest).await {
                Ok(Some(launched)) => launched?,
                not_sent => {
                    let stage = if not_sent.is_ok() {
                        "while it was launched; `homing process list` shows whether it was"
                    } else {
                        "while its task was sent; `homing process list` shows it, and `homing process repair` whether it was sent"
                    };
                    return Err(Failure::Interrupted(signal, Some(stage)));
                }
            }
        }
    };
    let (communicator, launched): (Communicator, Launched) = launched;
    if command.detach {
        let shown = process::pid_as_json(&launched.pid);
        let printed = match global.output.format {
            crate::args::Format::Json => crate::values::print(&shown, global.output.format),
            crate::args::Format::Text => out!("{}", launched.pid),
        };
        if printed.is_err() {
            note!("process {} was launched", launched.pid);
        }
        call::finish(&communicator, Some(Instant::now() + CLOSING), stop).await;
        return printed;
    }
    note!("process {}", launched.pid);
    let (pid, store) = (launched.pid.clone(), launched.store.as_ref().map(|(store, _)| store.clone()));
    let ended = tokio::select! {
        ended = until_ended(&communicator, launched, global) => ended,
        signal = stop.wait() => {
            let goes_on = || goes_on(&pid, global, command.store.as_deref());
            interrupted(&communicator, store.as_ref(), &pid, signal, stop.clone(), goes_on).await
        }
    };
    if matches!(ended, Err(Failure::ReaderGone)) {
        goes_on(&pid, global, command.store.as_deref());
    }
    call::finish(&communicator, Some(Instant::now() + CLOSING), stop).await;
    ended
}

fn inputs(command: &Run) -> Result<Inputs, Failure> {
    let cwd = match &command.cwd {
        Some(cwd) => std::path::absolute(cwd)?,
        None => std::env::current_dir()
            .map_err(|error| Failure::Usage(format!("this directory is gone ({error}); give one by --cwd")))?,
    };
    if cwd.to_str().is_none() {
        return Err(Failure::Usage(format!("the directory {} is no UTF-8; give another by --cwd", cwd.display())));
    }
    let job = Job {
        command: command.command.clone(),
        cwd: Some(cwd),
        env: command.env.iter().cloned().collect(),
        on_loss: command.on_loss,
        grace: command.grace.as_secs_f64(),
    };
    let mark = crate::mark::draw();
    let inputs = job.to_inputs().kwarg(LAUNCHED_AS, mark);
    // What is wrong with it is found here, and not by a worker.
    Job::read(&inputs).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(inputs)
}

/// A process that was launched.
struct Launched {
    pid: Pid,
    /// Those who may run it.
    role: Role,
    /// The store that it is in, if that can be read here.
    store: Option<(SqlitePersister, Stored)>,
    /// Its outcome, from whoever runs it; unless nobody waits for it.
    outcome: Option<ControlReply<Value>>,
}

/// Whether somebody waits for the outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Yes,
    No,
}

/// Makes the process, and has a worker run it.
async fn launch(
    communicator: &Communicator,
    global: &Global,
    path: &Path,
    inputs: Inputs,
    waits: Waits,
    is_made: &Cell<bool>,
) -> Result<Launched, Failure> {
    let queue = communicator.default_task_queue()?.name().to_owned();
    let role = Role { kind: "process", name: queue.clone(), store: None };
    let can_store = |worker: &Value| !presence::has_lost_its_store(worker);
    let Some(worker) = presence::first(communicator, &role, ANSWERS, can_store).await? else {
        return Err(nobody(global, &queue, path).await);
    };
    if presence::has_lost_its_store(&worker) {
        return Err(Failure::Nobody(format!("{}; nothing was launched", store_lost(&worker))));
    }
    if let Some(failure) = presence::store_failure(&worker) {
        note!("a worker takes no process at present, and takes it when it can: {failure}");
    }
    let controller = ProcessController::new(communicator);
    if !Stored::at(path).is_that_of(&worker) {
        warning!(
            "the workers of {queue:?} keep another store than {}: the output of the process is not shown here",
            path.display()
        );
        let mut launch = controller.launch(shell::CLASS).persistent();
        for (name, value) in inputs.kwargs().iter() {
            launch = launch.kwarg(name.as_str().unwrap_or_default(), value.clone());
        }
        is_made.set(true);
        let launching = async { Ok::<_, Failure>(launch.nowait().await?) };
        let pid = while_workers_can(communicator, &role, "launched", launching).await?;
        let outcome = match waits {
            Waits::Yes => Some(controller.continue_process(&pid).no_timeout().send().await?),
            // It runs already.
            Waits::No => None,
        };
        return Ok(Launched { pid, role, store: None, outcome });
    }
    is_made.set(true);
    let store = store::open(path).await?;
    let stored = Stored::at(path);
    if !stored.is_that_of(&worker) {
        let path = path.display();
        return Err(Failure::Other(format!("the store {path} was replaced just now; nothing was launched; try again")));
    }
    let body = Shell::new(inputs.clone()).map_err(|error| Failure::Usage(error.to_string()))?;
    let new = NewProcess::new(shell::CLASS, Value::from_serialize(&body)?).with_inputs(inputs);
    let pid = store.create(new).await?;
    let sent = async {
        // Nobody has to receive it.
        if let Err(error) = controller.announce(&StateChange::new(&pid, None, ProcessState::Created)).await {
            tracing::info!(%error, "the creation of a process was not broadcast");
        }
        let request = controller.continue_process(&pid);
        match waits {
            Waits::Yes => request.no_timeout().send().await.map(Some),
            Waits::No => request.no_reply()?.await.map(|()| None),
        }
    };
    match sent.await {
        Ok(outcome) => Ok(Launched { pid, role, store: Some((store, stored)), outcome }),
        Err(error) => {
            note!(
                "process {pid} is in the store; `{} process continue {} --nowait` has a worker run it",
                settings::with_broker(global),
                quoted(&process::typed(&pid))
            );
            Err(error.into())
        }
    }
}

/// Waits for something that workers with a store of their own do, as long as one of those that answer can store anything.
///
/// Guards: a wait without an end for workers whose store is gone: they try it again until somebody puts it back.
async fn while_workers_can<T>(
    communicator: &Communicator,
    role: &Role,
    what: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = std::pin::pin!(work);
    let mut pause = LOOKS_FIRST;
    let mut is_told = false;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(pause) => {}
        }
        let can_store = |worker: &Value| !presence::has_lost_its_store(worker);
        let worker = tokio::select! {
            biased;
            done = &mut work => return done,
            worker = presence::first(communicator, role, ANSWERS, can_store) => worker?,
        };
        match worker {
            Some(worker) if !can_store(&worker) => {
                return Err(Failure::Nobody(format!("{}: the process cannot be {what}", store_lost(&worker))));
            }
            None if !is_told => {
                is_told = true;
                note!("no worker of the queue {:?} answers; the process is {what} when one is there again", role.name);
            }
            _ => {}
        }
        pause = (pause * 2).min(LOOKS_MOST);
    }
}

/// That a worker cannot store anything any more.
fn store_lost(worker: &Value) -> String {
    let number = worker.get("process_id").and_then(Value::as_i64).unwrap_or_default();
    format!(
        "the worker (operating-system process {number}) has lost its store, which was removed, moved or replaced while it was \
         open; put it back with its `-wal` and `-shm`, or start the worker again"
    )
}

/// No worker has answered.
async fn nobody(global: &Global, queue: &str, path: &Path) -> Failure {
    let consumers = match options(global) {
        Ok(options) => inspect::depth(&options, queue).await.map_or(0, |depth| depth.consumers),
        Err(_) => 0,
    };
    let who = match consumers {
        0 => "no worker takes tasks from it".to_owned(),
        others => format!("{others} consumers take tasks from it, and none answers as a `homing worker` does"),
    };
    let path = quoted(&path.display().to_string());
    let what = format!("start one: `{} worker --store {path}`", settings::with_broker(global));
    Failure::Nobody(format!("nobody runs processes of the queue {queue:?}: {who}; nothing was launched; {what}"))
}

/// Shows the output until the process has ended.
async fn until_ended(communicator: &Communicator, launched: Launched, global: &Global) -> Result<(), Failure> {
    let Launched { pid, role, store, outcome } = launched;
    let Some(outcome) = outcome else { return Ok(()) };
    let Some((store, stored)) = store else {
        let ending = async { Ok::<_, Failure>(outcome.await?) };
        let outputs = while_workers_can(communicator, &role, "ended", ending).await?;
        return status(outputs.get("exit_status").and_then(Value::as_i64).unwrap_or(0));
    };
    let mut follow = Follow::new(store.clone(), pid.clone(), global.output.format, Place::Own);
    let mut outcome = std::pin::pin!(outcome.outcome());
    let mut answered = false;
    let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
    let mut is_patient = true;
    loop {
        let has_ended = tokio::select! {
            answer = &mut outcome, if !answered => {
                answered = true;
                if let Err(error) = &answer
                    && error.kind() == ErrorKind::RemoteException
                    && store.record(pid.clone()).await?.is_some_and(|record| record.outcome().is_none())
                {
                    // Whoever had the task cannot run it.
                    return Err(error.clone().into());
                }
                follow.step().await?
            }
            has_ended = follow.next() => has_ended?,
            () = &mut patience, if is_patient => {
                is_patient = false;
                let record = store.record(pid.clone()).await?;
                if record.is_some_and(|record| record.checkpoint().state() == ProcessState::Created) {
                    note!("process {pid} waits for a worker with a free slot");
                }
                None
            }
        };
        // Guards: a wait for an end that nobody can store, or that is stored where nobody looks.
        if has_ended.is_none() && stored.is_lost() {
            return Err(Failure::Other(format!(
                "the store {} was removed, moved or replaced while process {pid} was waited for: how it ends cannot be seen, \
                 and its worker cannot store it; put the store back with its `-wal` and `-shm`, or start the workers again",
                store.path().display()
            )));
        }
        if let Some(outcome) = has_ended {
            return match outcome {
                Outcome::Finished { exit_status, .. } => status(exit_status),
                outcome => {
                    warning!("process {pid} {}", process::in_words(&outcome));
                    Err(Failure::Job(if matches!(outcome, Outcome::Killed { .. }) { 143 } else { 1 }))
                }
            };
        }
    }
}

/// The exit status of the program as this command's own.
fn status(status: i64) -> Result<(), Failure> {
    match u8::try_from(status) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Failure::Job(status)),
        Err(_) => Err(Failure::Job(1)),
    }
}

/// How the process is reached from now on.
fn goes_on(pid: &Pid, global: &Global, store: Option<&Path>) {
    let word = quoted(&process::typed(pid));
    let store = store.map_or_else(String::new, |store| format!(" --store {}", quoted(&store.display().to_string())));
    let homing = settings::with_broker(global);
    note!(
        "process {pid} goes on: `homing process report {word} --follow{store}` shows its output, `{homing} process kill {word}` ends it"
    );
}

/// Kills a process that may have begun this moment, and cannot be called yet, or that has not begun at all. True if it was killed;
/// false if it had ended.
async fn kill(communicator: &Communicator, store: Option<&SqlitePersister>, pid: &Pid) -> Result<bool, Failure> {
    const WHY: &str = "Ctrl-C in `homing run`";
    let until = Instant::now() + REACHABLE;
    loop {
        match ProcessController::new(communicator).kill(pid).message(WHY).await {
            Err(error) if error.kind() == ErrorKind::Unroutable => {
                // Guards: a person who waits for the answer of a process that nobody has: it has ended, or waits for a slot.
                if outcome(store, pid).await.is_some() {
                    return Ok(false);
                }
                if let Some(store) = store
                    && process::queued::kill(communicator, store, pid, Some(WHY)).await?
                {
                    return Ok(true);
                }
                if Instant::now() >= until {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            killed => return Ok(killed?.is_done()),
        }
    }
}

/// How a process has ended, if that can be seen.
async fn outcome(store: Option<&SqlitePersister>, pid: &Pid) -> Option<Outcome> {
    store?.record(pid.clone()).await.ok()??.outcome().cloned()
}

/// A signal has come: a person is asked what becomes of the process.
async fn interrupted(
    communicator: &Communicator,
    store: Option<&SqlitePersister>,
    pid: &Pid,
    signal: Interruption,
    stop: Stop,
    goes_on: impl FnOnce(),
) -> Result<(), Failure> {
    let ask = signal == Interruption::CtrlC && stdin().is_terminal() && stderr().is_terminal();
    if ask {
        output::write_err(format!("\nKill process {pid}? Otherwise it goes on. [y/N] ").as_bytes());
        // A read of standard input cannot be ended, and must not hold the command up: a second signal ends it.
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            stdin().read_line(&mut answer).map(|_| answer)
        });
        if let Ok(Ok(answer)) = answer.await
            && matches!(answer.trim(), "y" | "Y" | "yes")
            && kill(communicator, store, pid).await?
        {
            note!("process {pid} was killed");
            return Err(Failure::Job(signal.exit_code()));
        }
    }
    drop(stop);
    // It may have ended while the question stood there.
    match outcome(store, pid).await {
        Some(outcome) => note!("process {pid} {}", process::in_words(&outcome)),
        None => goes_on(),
    }
    Err(Failure::Job(signal.exit_code()))
}
