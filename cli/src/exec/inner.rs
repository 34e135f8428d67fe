//! Two small programs inside this one, which workers start: the gate and the reaper.
//!
//! The *gate* becomes the program of a job. It waits until its worker has written down which process it is, so that there is no
//! moment in which a program runs and nobody could find it again. If the worker dies before, there is no program.
//!
//! The *reaper* is one for each worker. It knows the process groups that run, and ends them when the worker has died, by SIGKILL
//! or otherwise: its standard input ends then. If both die at once, the next worker that has the job ends its group.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};

use super::programs::Started;

pub(crate) const GATE: &str = "__gate";
const REAPER: &str = "__reaper";

/// This program, though its file may have been replaced meanwhile.
pub(crate) fn own_program() -> PathBuf {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { own } else { std::env::current_exe().unwrap_or(own) }
}

/// Runs one of them, if the command line asks for it.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    arguments.next()?;
    let first = arguments.next()?;
    if first == GATE {
        return Some(gate(arguments));
    }
    (first == REAPER).then(reap)
}

/// Waits for a byte, and becomes the program.
fn gate(mut command: impl Iterator<Item = OsString>) -> ExitCode {
    let mut byte = [0];
    if !matches!(io::stdin().lock().read(&mut byte), Ok(1)) {
        return ExitCode::FAILURE;
    }
    let Some(program) = command.next() else { return ExitCode::FAILURE };
    let error = Command::new(&program).args(command).stdin(Stdio::null()).exec();
    // Nobody is left to report it to.
    let _ = writeln!(io::stderr(), "homing: {} cannot be run: {error}", program.display());
    // As shells do.
    ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
}

/// Reads which groups run, and ends them when nothing more comes.
fn reap() -> ExitCode {
    // It ends with its worker, and not before: a `killall` that has that drain is not meant for it.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    let _ = signals.thread_block();
    let mut running = BTreeMap::new();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match (line.split_at_checked(1), line.get(1..).and_then(Started::from_line)) {
            (Some(("+", _)), Some(started)) => drop(running.insert(started.pid(), started)),
            (Some(("-", _)), Some(started)) => drop(running.remove(&started.pid())),
            _ => {}
        }
    }
    for started in running.values() {
        let _ = started.kill();
    }
    ExitCode::SUCCESS
}

/// The reaper of this process.
static OWN: Mutex<Reaper> = Mutex::new(Reaper { input: None, running: BTreeMap::new() });

struct Reaper {
    input: Option<ChildStdin>,
    running: BTreeMap<i32, Started>,
}

impl Reaper {
    /// Has it know of a change, and starts it where there is none.
    fn notify(&mut self, sign: char, started: &Started) -> io::Result<()> {
        if let Some(input) = &mut self.input
            && writeln!(input, "{sign}{}", started.to_line()).is_ok()
        {
            return Ok(());
        }
        self.input = None;
        if self.running.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(own_program());
        command.arg(REAPER).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A Ctrl-C at the terminal is not meant for it.
        let mut child = command.process_group(0).spawn()?;
        let mut input = child.stdin.take().ok_or_else(|| io::Error::from(ErrorKind::BrokenPipe))?;
        for started in self.running.values() {
            writeln!(input, "+{}", started.to_line())?;
        }
        self.input = Some(input);
        // Whenever it ends, it is not left as a zombie.
        std::thread::Builder::new().name("homing-reaper".to_owned()).spawn(move || child.wait())?;
        Ok(())
    }
}

/// A group that ends with this process, until this is dropped.
#[derive(Debug)]
pub(crate) struct EndsWithUs(Started);

impl EndsWithUs {
    /// # Errors
    /// When the reaper cannot be started.
    pub(crate) fn new(started: &Started) -> io::Result<Self> {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        own.running.insert(started.pid(), started.clone());
        let guarded = EndsWithUs(started.clone());
        let notified = own.notify('+', started);
        drop(own);
        notified.map(|()| guarded)
    }
}

impl Drop for EndsWithUs {
    fn drop(&mut self) {
        let mut own = OWN.lock().unwrap_or_else(PoisonError::into_inner);
        own.running.remove(&self.0.pid());
        let _ = own.notify('-', &self.0);
    }
}
