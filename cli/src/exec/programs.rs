//! Programs of the operating system that outlive whoever started them, and how they are found again.

use std::fs;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use homing::process::store::Owner;
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

/// What `/proc/PID/stat` has (`proc_pid_stat(5)`).
struct Stat {
    group: i32,
    started: u64,
    is_over: bool,
}

fn stat(pid: &str) -> io::Result<Option<Stat>> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        // ESRCH: it ended between the opening and the reading.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&text);
    let parsed = || {
        // The second field is the program's name in parentheses, which may contain spaces and parentheses.
        let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
        // Fields 3, 5 and 22 of the page, counted from 1.
        let is_over = matches!(fields.next()?, "Z" | "X");
        let group = fields.nth(1)?.parse().ok()?;
        let started = fields.nth(16)?.parse().ok()?;
        Some(Stat { group, started, is_over })
    };
    parsed().map(Some).ok_or_else(|| io::Error::from(ErrorKind::InvalidData))
}

/// The processes of a group that have not ended.
fn members(group: i32) -> io::Result<Vec<String>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else { continue };
        if let Ok(Some(stat)) = stat(pid)
            && stat.group == group
            && !stat.is_over
        {
            members.push(pid.to_owned());
        }
    }
    Ok(members)
}

impl Started {
    /// A program that has been started just now, as the first of its group.
    pub(crate) fn now(pid: u32, run: String) -> Self {
        let at = stat(&pid.to_string()).ok().flatten().map_or(0, |stat| stat.started);
        let place = if at == 0 { String::new() } else { Owner::this_process().place().to_owned() };
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
        if self.pid <= 1 || self.at == 0 || self.place.is_empty() || self.place != Owner::this_process().place() {
            return Ok(false);
        }
        match stat(&self.pid.to_string())? {
            // The number is another process's by now. It is not given to one while there is a group of that number.
            Some(stat) if stat.started != self.at => Ok(false),
            Some(stat) if !stat.is_over => Ok(true),
            // Its first process has ended. What that has left behind is known by its environment.
            // Guards: a group that got the same number later.
            _ => {
                let mark = format!("{RUN}={}", self.run).into_bytes();
                let is_ours = |pid: &String| {
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
