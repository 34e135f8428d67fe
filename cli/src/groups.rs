//! The process groups of running commands, so that the end of this process leaves none of them behind.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Groups that run, and what they do. `None` once the process ends: nothing is started any more.
static RUNNING: Mutex<Option<BTreeMap<i32, (Place, String)>>> = Mutex::new(Some(BTreeMap::new()));

/// How long it takes at most that a process which has ended is seen to.
const LOOK: Duration = Duration::from_millis(5);

/// The variable by which those are known that a command in our own group has started: the number of this process.
const MARK: &str = "HOMING_STARTED_BY";

/// In which process group a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In one of its own.
    OwnGroup,
    /// In that of this process, so that it may use the terminal. What it has started is found by descent and by a mark in the
    /// environment then, where the system shows them (Linux does).
    OurGroup,
}

/// A command and what it has started, named after its first process.
#[derive(Debug)]
pub(crate) struct Group(i32, Place);

/// Starts a command in a process group of its own: what it starts is reached too, and Ctrl-C at the terminal comes through
/// us. `work` names what it does.
pub(crate) fn spawn(command: &mut Command, work: String) -> io::Result<(Child, Group)> {
    spawn_in(Place::OwnGroup, command, work)
}

/// The same in this process group.
pub(crate) fn spawn_in(place: Place, command: &mut Command, work: String) -> io::Result<(Child, Group)> {
    // Guards: a second signal while a command is being started. The lock is held until the group is known.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(running) = running.as_mut() else { return Err(io::Error::other("this process is ending")) };
    match place {
        Place::OwnGroup => command.process_group(0),
        Place::OurGroup => command.env(MARK, std::process::id().to_string()),
    };
    let child = command.kill_on_drop(true).spawn()?;
    let id =
        child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(|| io::Error::other("it has no process id"))?;
    running.insert(id, (place, work));
    Ok((child, Group(id, place)))
}

impl Group {
    /// Sends all of its processes a signal. None of them may be left.
    pub(crate) fn signal(&self, signal: Signal) {
        Reached::of(self.0, self.1).signal(signal);
    }

    /// Ends all of its processes: SIGTERM, and SIGKILL to what is left after this time.
    pub(crate) async fn end(&self, child: &mut Child, grace: Duration) {
        // Guards: what a process leaves behind that ends at once. Its descent is lost then.
        let reached = Reached::of(self.0, self.1);
        reached.signal(Signal::SIGTERM);
        let gone = async {
            // Until it is waited for, a process that has ended is there.
            let _ = child.wait().await;
            while reached.is_there() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(grace, gone).await;
        reached.signal(Signal::SIGKILL);
        let _ = child.wait().await;
    }
}

/// Processes that a signal reaches together.
enum Reached {
    Group(Pid),
    Each(BTreeSet<i32>),
}

impl Reached {
    fn of(first: i32, place: Place) -> Self {
        match place {
            Place::OwnGroup => Reached::Group(Pid::from_raw(first)),
            Place::OurGroup => Reached::Each(stopped_descent(first)),
        }
    }

    fn signal(&self, signal: Signal) {
        match self {
            Reached::Group(group) => drop(killpg(*group, signal)),
            Reached::Each(processes) => {
                for signal in [signal, Signal::SIGCONT] {
                    for process in processes {
                        let _ = kill(Pid::from_raw(*process), signal);
                    }
                }
            }
        }
    }

    fn is_there(&self) -> bool {
        match self {
            Reached::Group(group) => killpg(*group, None).is_ok(),
            Reached::Each(processes) => processes.iter().any(|process| kill(Pid::from_raw(*process), None).is_ok()),
        }
    }
}

/// A process and all that it has started, stopped.
///
/// Guards: one that starts another while it is looked for; and Ctrl-C at a terminal, which may have ended the first of them before.
/// Those that it has left behind, and that ignore Ctrl-C, descend from it no more.
fn stopped_descent(first: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    let mut found = vec![first];
    while !found.is_empty() {
        for process in &found {
            let _ = kill(Pid::from_raw(*process), Signal::SIGSTOP);
        }
        all.extend(found);
        let is_new =
            |(process, parent): &(i32, i32)| !all.contains(process) && (all.contains(parent) || is_marked(*process));
        found = parents().filter(is_new).map(|(process, _)| process).collect();
    }
    all
}

/// Whether it has our mark in its environment, which is readable for this user's processes only.
fn is_marked(process: i32) -> bool {
    let mark = format!("{MARK}={}", std::process::id()).into_bytes();
    let environment = fs::read(format!("/proc/{process}/environ"));
    environment.is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| *variable == *mark))
}

/// Each process of this machine with the one that started it (`proc_pid_stat(5)`); none where the system does not show them so.
fn parents() -> impl Iterator<Item = (i32, i32)> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name in brackets may have brackets and spaces in it.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((process, parent))
    })
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
    for (id, (place, _)) in &running {
        Reached::of(*id, *place).signal(Signal::SIGKILL);
    }
    running.into_values().map(|(_, work)| work).collect()
}
