//! The process groups of running commands, so that the end of this process leaves none of them behind.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Groups that run. `None` once the process ends: nothing is started any more.
static RUNNING: Mutex<Option<BTreeMap<i32, String>>> = Mutex::new(Some(BTreeMap::new()));

/// One process group, named after its first process.
#[derive(Debug)]
pub(crate) struct Group(i32);

/// Starts a command in a process group of its own: what it starts is reached too, and Ctrl-C at the terminal comes through
/// us. `work` names what it does.
pub(crate) fn spawn(command: &mut Command, work: String) -> io::Result<(Child, Group)> {
    // Guards: a second signal while a command is being started. The lock is held until the group is known.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(running) = running.as_mut() else { return Err(io::Error::other("this process is ending")) };
    let child = command.process_group(0).kill_on_drop(true).spawn()?;
    let id =
        child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(|| io::Error::other("it has no process id"))?;
    running.insert(id, work);
    Ok((child, Group(id)))
}

impl Group {
    /// Sends all of its processes a signal. None of them may be left.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.0), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut() {
            running.remove(&self.0);
        }
    }
}

/// Waits for the end of a group's first process.
///
/// Guards: a second signal. It kills the groups, and this process is there for a moment more. What ends then has not come to an end of
/// its own: it has no outcome, which this never reports, so that its task goes back and another worker has its process.
///
/// # Cancel safety
/// The end is not lost when this is dropped.
pub(crate) async fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let status = child.wait().await;
    unless_this_process_ends(status).await
}

/// What has become of a group, unless every group is being killed.
pub(crate) async fn unless_this_process_ends<T>(outcome: T) -> T {
    if RUNNING.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
        return std::future::pending().await;
    }
    outcome
}

/// Kills every group that runs, and lets none be started any more; what they did.
pub(crate) fn kill_all() -> Vec<String> {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    for id in running.keys() {
        let _ = killpg(Pid::from_raw(*id), Signal::SIGKILL);
    }
    running.into_values().collect()
}
