//! `homing worker`: runs processes, those of the class `shell`.

use std::time::Duration;

use homing::process::{ProcessState, ProcessWorker, Registry, StateChange};
use homing::{Communicator, LongTasks};
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::start::Start;
use crate::args::{Global, WorkerOptions};
use crate::connection::{News, Watched, begin_to_stay, close, options};
use crate::failure::Failure;
use crate::logs::WORK;
use crate::presence::{self, Role, Stored};
use crate::process::shell::{self, Shell};
use crate::stop::Stop;
use crate::supervise::lifeline::Lifeline;
use crate::{not_given, note, store};

/// How long running processes may continue after the first signal, unless another time is given.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

pub(crate) async fn run(command: WorkerOptions, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let mut supervisor = None;
    if command.supervision.supervised.is_some() {
        let (lifeline, or_it_ends) = Lifeline::of_this_process(stop)?;
        (supervisor, stop) = (Some(lifeline), or_it_ends);
    }
    report_large_files()?;
    let path = store::path(command.store.as_deref())?;
    let slots = command.slots.map_or(1, |slots| usize::from(slots.get()));
    let drain = command.drain.unwrap_or(DRAIN);
    // A job may run for days, and its task is not acknowledged before.
    let options = options(global)?.long_tasks(LongTasks::new());
    let opening =
        async { if supervisor.is_some() { store::open_again(&path).await } else { store::open(&path).await } };
    let store = tokio::select! {
        opened = opening => opened?,
        signal = stop.wait() => return Err(Failure::Interrupted(signal, None)),
    };
    let start = Start::new();
    let begin = async |communicator: &Communicator| {
        let watched = Watched::new(communicator);
        let registry = Registry::new().register::<Shell>(shell::CLASS)?;
        let builder = ProcessWorker::builder(communicator, store.clone(), registry);
        let _now = start.subscribing();
        let worker = builder.slots(slots).on_change(log).start().await?;
        let name = communicator.default_task_queue()?.name().to_owned();
        let role =
            Role { kind: "process", name: name.clone(), store: Some(Stored::at(&path).used_by(worker.launcher())) };
        presence::announce(communicator, role).await;
        Ok((watched, worker, name))
    };
    let starting = begin_to_stay(global, options, begin);
    let (communicator, (mut watched, worker, name)) = start.unless_signalled(&mut stop, starting).await?;
    // Its supervisor has reported it for all.
    if supervisor.is_none() {
        not_given::note(&global.broker);
    }
    note!("running processes of {name:?} from {} until Ctrl-C, {slots} at a time", path.display());
    if let Some(supervisor) = &mut supervisor {
        supervisor.up().await;
    }
    let lost = loop {
        tokio::select! {
            _ = stop.wait() => break None,
            (_, news) = watched.next() => if let News::Ended(failure) = news {
                break Some(failure);
            },
        }
    };
    if let Some(failure) = lost {
        worker.drain(Duration::ZERO).await;
        return Err(failure);
    }
    let here = worker.pids().len();
    if here > 0 && !drain.is_zero() {
        let time = humantime::format_duration(drain);
        note!("ending: the processes here ({here}) may go on for {time}; a second signal stops them at once");
    }
    worker.drain(drain).await;
    close(&communicator).await
}

/// From now on a write beyond the limit for files (`ulimit -f`) is an error of the store, which is tried again, and does not end
/// this process with its jobs. The programs that it starts have the signal as it was.
fn report_large_files() -> Result<(), Failure> {
    // Its handler stays. One that was ignored would be ignored by the programs too.
    drop(signal(SignalKind::from_raw(Signal::SIGXFSZ as i32))?);
    Ok(())
}

/// One line for each change of state.
fn log(change: &StateChange) {
    // From one step to the next is no change.
    if change.from() == Some(change.to()) {
        return;
    }
    let (pid, to) = (change.pid().to_string(), change.to().as_str());
    let from = change.from().map_or("", ProcessState::as_str);
    if change.to() == ProcessState::Excepted {
        tracing::warn!(target: WORK, pid, from, to, "process");
    } else {
        tracing::info!(target: WORK, pid, from, to, "process");
    }
}
