//! Programs of the operating system that outlive whoever started them, and how they are found again.

use std::fs;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use homing::process::store::{Owner, os_process};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The variable by which the processes of one start are known.
pub(crate) const RUN: &str = "HOMING_RUN";

/// How long the end of a group is waited for after SIGKILL. One that is stuck in the kernel takes longer.
const ENDING: Duration = Duration::from_secs(10);

/// A process group that was started, as somebody who has not started it knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Boot and pid namespace; empty where the system does not tell.
    place: String,
    /// The first process, whose group has the same number.
    pid: i32,
    /// When it was started, in the system's own unit.
    at: u64,
    /// What [`RUN`] is in the environment of all of them.
    run: String,
}

/// Boot and pid namespace, in which process ids mean something.
fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| Owner::this_process().place().to_owned())
}

/// The processes of a group that have not ended.
fn members(group: i32) -> io::Result<Vec<u32>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(Some(process)) = os_process(pid)
            && process.group == group
            && !process.is_over
        {
            members.push(pid);
        }
    }
    Ok(members)
}

impl Started {
    /// A program that has been started just now, as the first of its group.
    pub(crate) fn now(pid: u32, run: String) -> Self {
        let at = os_process(pid).ok().flatten().map_or(0, |process| process.started);
        let place = if at == 0 { String::new() } else { place().to_owned() };
        Started { place, pid: i32::try_from(pid).unwrap_or(0), at, run }
    }

    /// The number of the group.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// A line that [`from_line`](Self::from_line) reads.
    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub(super) fn from_line(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// Whether something of the group runs here.
    fn runs(&self) -> io::Result<bool> {
        let Some(pid) = u32::try_from(self.pid).ok().filter(|pid| *pid > 1) else { return Ok(false) };
        if self.at == 0 || self.place.is_empty() || self.place != place() {
            return Ok(false);
        }
        match os_process(pid)? {
            // The number is another process's by now. It is not given to one while there is a group of that number.
            Some(process) if process.started != self.at => Ok(false),
            Some(process) if !process.is_over => Ok(true),
            // Its first process has ended. What that has left behind is known by its environment.
            // Guards: a group that got the same number later.
            _ => {
                let mark = format!("{RUN}={}", self.run).into_bytes();
                let is_ours = |pid: &u32| {
                    fs::read(format!("/proc/{pid}/environ"))
                        .is_ok_and(|text| text.split(|byte| *byte == 0).any(|variable| variable == mark))
                };
                Ok(members(self.pid)?.iter().any(is_ours))
            }
        }
    }

    /// Sends SIGKILL to what runs of it. True if there was something.
    pub(super) fn kill(&self) -> io::Result<bool> {
        if !self.runs()? {
            return Ok(false);
        }
        match killpg(Pid::from_raw(self.pid), Signal::SIGKILL) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends what runs of it, and returns when nothing does. True if there was something.
    ///
    /// # Errors
    /// When something of it still runs.
    pub(crate) async fn end(&self) -> io::Result<bool> {
        let until = Instant::now() + ENDING;
        let mut found = false;
        while self.kill()? {
            found = true;
            if Instant::now() > until {
                return Err(io::Error::other("it does not end, though it was killed"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use super::*;

    fn start(script: &str, run: &str) -> (Child, Started) {
        let child = Command::new("sh").args(["-c", script]).env(RUN, run).process_group(0).spawn().unwrap();
        let started = Started::now(child.id(), run.to_owned());
        (child, started)
    }

    #[tokio::test]
    async fn a_group_is_found_and_ended_by_whoever_has_its_mark() {
        let (mut child, started) = start("sleep 300 & sleep 300", "a-1");
        let read = Started::from_line(&started.to_line()).unwrap();
        assert_eq!(read, started);
        assert!(read.end().await.unwrap(), "it ran");
        assert!(!child.wait().unwrap().success());
        assert!(members(started.pid).unwrap().is_empty());
        assert!(!read.end().await.unwrap(), "nothing is left");
    }

    #[tokio::test]
    async fn what_a_program_left_in_its_group_is_found_without_it() {
        let (mut child, started) = start("sleep 300 & exit 0", "a-2");
        child.wait().unwrap();
        let other = Started { run: "another".to_owned(), ..started.clone() };
        assert!(!other.end().await.unwrap(), "it is a group that got the number later");
        assert_eq!(members(started.pid).unwrap().len(), 1);
        assert!(started.end().await.unwrap());
        assert!(members(started.pid).unwrap().is_empty());
    }

    #[tokio::test]
    async fn another_process_of_the_number_is_left_alone() {
        let (mut child, started) = start("sleep 300", "a-3");
        for other in [
            Started { at: started.at + 1, ..started.clone() },
            Started { place: "another boot".to_owned(), ..started.clone() },
            Started { pid: 1, ..started.clone() },
            Started { pid: 0, ..started.clone() },
            Started { pid: -1, ..started.clone() },
        ] {
            assert!(!other.end().await.unwrap(), "{other:?}");
        }
        assert!(child.try_wait().unwrap().is_none());
        assert!(started.end().await.unwrap());
        child.wait().unwrap();
    }
}
