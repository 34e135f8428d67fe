//! Who runs a process: owners, and the leases that they have.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::super::Pid;
use super::{Checkpoint, Lease, Outcome};

/// A worker that holds leases. Each worker has one of its own, two workers in one operating system process included.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    worker: Uuid,
    host: String,
    /// Boot and pid namespace: where `os_pid` means something. Empty where the system does not tell.
    place: String,
    os_pid: u32,
    /// When the operating system process was started, in the system's own unit; 0 where that is not known.
    started: u64,
}

/// Whether the operating system process of an owner is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// It is.
    Alive,
    /// It has ended.
    Dead,
    /// It is on another host, or in another container, or this system does not tell.
    Unknown,
}

impl Owner {
    /// A new worker in this operating system process. Two calls make two owners.
    ///
    /// Made after a fork: a child has another process id.
    #[must_use]
    pub fn this_process() -> Self {
        let os_pid = std::process::id();
        let started = match os_process(os_pid) {
            Ok(Some(process)) => process.started,
            _ => 0,
        };
        let host = fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        let host = host.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
        Owner { worker: crate::ids::unique(), host, place: place().to_owned(), os_pid, started }
    }

    /// An owner as a store has kept it.
    #[must_use]
    pub fn from_parts(worker: Uuid, host: String, place: String, os_pid: u32, started: u64) -> Self {
        Owner { worker, host, place, os_pid, started }
    }

    /// The worker.
    #[must_use]
    pub fn worker(&self) -> Uuid {
        self.worker
    }

    /// The name of its host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The boot and the pid namespace in which [`os_pid`](Self::os_pid) means something, as an opaque text.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The operating system's process id.
    #[must_use]
    pub fn os_pid(&self) -> u32 {
        self.os_pid
    }

    /// When that process was started, in the system's own unit.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Whether its operating system process is there, as far as can be known from here.
    ///
    /// A process id that another process has by now is told apart by the start time.
    #[must_use]
    pub fn liveness(&self) -> Liveness {
        if self.place.is_empty() || self.started == 0 || self.place != place() {
            return Liveness::Unknown;
        }
        match os_process(self.os_pid) {
            Ok(Some(process)) if process.started == self.started && !process.is_over => Liveness::Alive,
            Ok(Some(_)) => Liveness::Dead,
            // Guards: a /proc that hides the processes of other users (hidepid) would have all of them dead.
            Ok(None) if fs::exists("/proc/1").unwrap_or(false) => Liveness::Dead,
            _ => Liveness::Unknown,
        }
    }
}

/// This boot and this pid namespace, or nothing where /proc does not tell. Both are the same for a process's whole life.
fn place() -> &'static str {
    static PLACE: OnceLock<String> = OnceLock::new();
    PLACE.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let namespace = fs::read_link("/proc/self/ns/pid");
        match (boot, namespace) {
            (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
            _ => String::new(),
        }
    })
}

/// A process of the operating system, as `/proc/PID/stat` has it (`proc_pid_stat(5)`).
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OsProcess {
    /// The number of its process group.
    pub group: i32,
    /// When it was started, in the system's own unit.
    pub started: u64,
    /// It has ended, and its parent has not taken note yet.
    pub is_over: bool,
}

/// What the system has of a process; `None` if there is none of this number.
///
/// # Errors
/// When the system does not tell.
#[doc(hidden)]
pub fn os_process(os_pid: u32) -> io::Result<Option<OsProcess>> {
    let text = match fs::read(format!("/proc/{os_pid}/stat")) {
        Ok(text) => text,
        // ESRCH: it ended between the opening and the reading.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => return Ok(None),
        Err(error) => return Err(error),
    };
    parse_stat(&text).map(Some).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The second field is the program's name in parentheses, which may contain spaces and parentheses.
fn parse_stat(text: &[u8]) -> Option<OsProcess> {
    let text = String::from_utf8_lossy(text);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    // Fields 3, 5, 20 and 22 of the page, counted from 1.
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let threads: u64 = fields.nth(14)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    // A process whose first thread has ended is a zombie too, and its other threads run on.
    Some(OsProcess { group, started, is_over: matches!(state, "Z" | "X") && threads <= 1 })
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} (process {} on {})", self.worker, self.os_pid, self.host)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({self})")
    }
}

/// The right to store transitions of one process. A later lease of the same process has a larger number, and ends this one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    pid: Pid,
    number: u64,
}

impl LeaseId {
    /// The lease of this process with this number.
    #[must_use]
    pub fn new(pid: impl Into<Pid>, number: u64) -> Self {
        LeaseId { pid: pid.into(), number }
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// What came of asking for the lease of a process.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and the large one is the usual one")]
pub enum Claim {
    /// The lease, and where the process goes on.
    Granted {
        /// The right to store its transitions.
        lease: LeaseId,
        /// The last checkpoint.
        checkpoint: Checkpoint,
        /// Who had the lease before and did not give it back: it ran out, or its owner is dead. What that owner had begun
        /// of the next step is lost.
        lost: Option<Owner>,
    },
    /// Somebody has it.
    Held {
        /// Who. It may be the owner who asked.
        by: Owner,
        /// When it ends if it is not renewed.
        until: SystemTime,
    },
    /// The process has ended.
    Ended(Outcome),
    /// There is no such process.
    Unknown,
}

/// What came of storing under a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Saved {
    /// It is stored.
    Stored,
    /// Nothing was stored: somebody else has the lease by now, or it was given back, or the process is gone.
    LeaseLost,
}

/// Leases that have run out while their owners are there, as far as this store has seen.
///
/// Guards: a clock that was set forward, and a store that could not be written for a while. All leases have run out at once,
/// and whoever asks first would take processes from workers that are well.
#[derive(Default)]
pub(super) struct Overdue(HashMap<Pid, Seen>);

struct Seen {
    number: u64,
    until: SystemTime,
    since: Instant,
}

/// How many are remembered before those are forgotten that nobody has asked for in a long time.
const MANY_OVERDUE: usize = 1024;

impl Overdue {
    /// Whether a lease that has run out can be granted to another: at once if its owner is not there. Else when its owner has
    /// not renewed it for half a lease's time after this was asked first, and renewals come more often than that.
    pub(super) fn can_go(&mut self, pid: &Pid, lease: &Lease, lease_time: Duration) -> bool {
        if lease.owner().liveness() != Liveness::Alive {
            self.0.remove(pid);
            return true;
        }
        if self.0.len() > MANY_OVERDUE {
            self.0.retain(|_, seen| seen.since.elapsed() < lease_time.saturating_mul(10));
        }
        let fresh = || Seen { number: lease.number(), until: lease.until(), since: Instant::now() };
        let seen = self.0.entry(pid.clone()).or_insert_with(fresh);
        if (seen.number, seen.until) != (lease.number(), lease.until()) {
            *seen = fresh();
        }
        let can_go = seen.since.elapsed() >= lease_time / 2;
        if can_go {
            self.0.remove(pid);
        }
        can_go
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_each_worker_in_it_is_another_owner() {
        let owner = Owner::this_process();
        assert_eq!(owner.liveness(), Liveness::Alive);
        assert_ne!(owner, Owner::this_process());
    }

    #[test]
    fn a_process_that_has_ended_is_dead_before_its_parent_takes_note() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let stat = os_process(child.id()).unwrap().expect("it runs");
        let this = Owner::this_process();
        let owner = Owner { os_pid: child.id(), started: stat.started, ..this };
        assert_eq!(owner.liveness(), Liveness::Alive);
        child.kill().unwrap();
        // It ends as a zombie, some time after the signal.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while owner.liveness() != Liveness::Dead {
            assert!(std::time::Instant::now() < deadline, "it was killed");
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(owner.liveness(), Liveness::Dead);
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_owner() {
        let this = Owner::this_process();
        assert_eq!(Owner { started: this.started + 1, ..this.clone() }.liveness(), Liveness::Dead);
        assert_eq!(Owner { place: "another boot".to_owned(), ..this.clone() }.liveness(), Liveness::Unknown);
        assert_eq!(Owner { started: 0, ..this }.liveness(), Liveness::Unknown, "what is not known is no proof");
    }

    #[test]
    fn a_lease_that_has_run_out_is_granted_when_its_owner_has_had_the_time_to_renew_it() {
        const TIME: Duration = Duration::from_millis(200);
        let (pid, this, then) = (Pid::from(1), Owner::this_process(), SystemTime::UNIX_EPOCH);
        let mut overdue = Overdue::default();
        let lease = |number, seconds| Lease::new(this.clone(), number, then + Duration::from_secs(seconds));
        assert!(!overdue.can_go(&pid, &lease(1, 1), TIME));
        std::thread::sleep(TIME);
        assert!(!overdue.can_go(&pid, &lease(1, 2), TIME), "it was renewed in between");
        std::thread::sleep(TIME);
        assert!(!overdue.can_go(&pid, &lease(2, 2), TIME), "it is another one");
        assert!(!overdue.can_go(&Pid::from(2), &lease(2, 2), TIME), "of another process");
        std::thread::sleep(TIME);
        assert!(overdue.can_go(&pid, &lease(2, 2), TIME));
        let elsewhere = Owner { place: "another boot".to_owned(), ..this.clone() };
        assert!(overdue.can_go(&pid, &Lease::new(elsewhere, 3, then), TIME), "nobody knows whether it is there");
    }

    #[test]
    fn the_name_of_a_program_confuses_nobody() {
        let line = b"7 (a) Z (b c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 5 0 4242 1 1";
        let stat = parse_stat(line).unwrap();
        assert!(stat.started == 4242 && !stat.is_over);
        let over = b"7 (x) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert!(parse_stat(over).unwrap().is_over);
        let first_thread_over = b"7 (x) Z 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 2 0 4242 1 1";
        assert!(!parse_stat(first_thread_over).unwrap().is_over);
        assert!(parse_stat(b"7 (x").is_none() && parse_stat(b"7 (x) S 1").is_none());
    }
}
