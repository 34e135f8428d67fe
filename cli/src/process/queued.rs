//! A process that has not begun: its task waits in the queue, so nobody can be asked to kill it. It ends in the store, and the
//! worker that takes its task finds it ended.

use std::path::Path;
use std::time::{Duration, SystemTime};

use homing::Communicator;
use homing::process::store::{Claim, LogLine, LogSource, Outcome, Owner, Persister, Saved, SqlitePersister};
use homing::process::{Pid, ProcessController, ProcessState, StateChange};

use crate::presence::{self, Role, Stored};

/// How long a worker has to answer that it is there.
const ANSWERS: Duration = Duration::from_secs(2);

/// The store in this file, if the workers of the queue keep their processes in it.
///
/// Guards: a process of the same pid in a store that has nothing to do with the broker.
pub(crate) async fn store_of_workers(communicator: &Communicator, file: &Path) -> Option<SqlitePersister> {
    let queue = communicator.default_task_queue().ok()?.name().to_owned();
    let role = Role { kind: "process", name: queue, store: None };
    let stored = Stored::at(file);
    let worker = presence::first(communicator, &role, ANSWERS, |worker| stored.is_that_of(worker)).await.ok()??;
    if !stored.is_that_of(&worker) || presence::has_lost_its_store(&worker) {
        return None;
    }
    SqlitePersister::builder(file).existing().open().await.ok()
}

/// Kills a process in the store that has not begun and that nobody has. False where it is none.
///
/// # Errors
/// Of the store.
pub(crate) async fn kill(
    communicator: &Communicator,
    store: &SqlitePersister,
    pid: &Pid,
    message: Option<&str>,
) -> homing::Result<bool> {
    // Before it is claimed. Guards: a lease that is given back, of a process whose worker died in a step: nobody would know of that.
    let has_not_begun = store.record(pid.clone()).await?.is_some_and(|record| {
        record.checkpoint().state() == ProcessState::Created
            && record.lease().is_none_or(|lease| !lease.stands_at(SystemTime::now()))
    });
    if !has_not_begun {
        return Ok(false);
    }
    let Claim::Granted { lease, checkpoint, .. } = store.claim(pid.clone(), Owner::this_process()).await? else {
        return Ok(false);
    };
    if checkpoint.state() != ProcessState::Created {
        // It has begun in between, and its worker has died. The lease ends with this command, and counts as lost as that one does.
        return Ok(false);
    }
    let outcome = Outcome::Killed { message: message.map(str::to_owned) };
    let note = LogLine::new(LogSource::Process, "it was killed before it began", SystemTime::now());
    // Without the note it is killed all the same.
    if let Err(error) = store.append_log(lease.clone(), vec![note]).await {
        tracing::info!(%error, "the log of a process could not be written");
    }
    let saved = store.save(lease.clone(), checkpoint.with_outcome(outcome, SystemTime::now())).await;
    if !matches!(saved, Ok(Saved::Stored)) {
        // For the worker that takes its task.
        if let Err(error) = store.release(lease).await {
            tracing::info!(%error, "the lease of a process could not be given back; it runs out by itself");
        }
        return saved.map(|_| false);
    }
    let change = StateChange::new(pid, Some(ProcessState::Created), ProcessState::Killed);
    // Nobody has to receive it.
    if let Err(error) = ProcessController::new(communicator).announce(&change).await {
        tracing::info!(%error, "the end of a process was not broadcast");
    }
    Ok(true)
}
