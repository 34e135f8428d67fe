//! `homing worker --workers N --detach`: a supervisor in the background. Whoever starts it waits until a worker is up.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::process::Command;

use super::identity::{self, Identity};
use super::lifeline::{self, Begun};
use crate::args::{Format, Global, WorkerOptions};
use crate::exec::inner::own_program;
use crate::failure::Failure;
use crate::stop::Stop;
use crate::{connection, out, output, store};

/// How much of the log is shown if the supervisor fails.
const SHOWN: u64 = 4 << 10;

pub(super) async fn run(options: &WorkerOptions, global: &Global, stop: Stop) -> Result<(), Failure> {
    drop(connection::options(global)?);
    let path = store::path(options.store.as_deref())?;
    drop(store::open(&path).await?);
    let name = options.supervision.name.as_deref();
    let identity = Identity::new(&path, &global.names, name)?;
    // Before anything is started: a clear error here, and not in the log.
    drop(super::lock::Lock::take(&identity, || super::advice(&options.supervision, options.store.as_deref(), global))?);
    let log_path = identity.log_file();
    let pid = start(&log_path, "supervisor", stop).await?;
    match global.output.format {
        Format::Json => out!("{}", json!({"pid": pid, "log": log_path})),
        Format::Text => {
            let typed = |command| identity::typed(global, command, options.store.as_deref(), name);
            out!("supervisor {pid} runs in the background, its log is {}", log_path.display())?;
            out!("`{}` shows its workers, `{}` ends it", typed("workers status"), typed("workers stop"))
        }
    }
}

/// Runs this command once more, in the background, with `--detached` behind its arguments; returns its process id when it has
/// reported that it is up. `what` it is, for errors.
///
/// # Errors
/// The log cannot be written, or it has ended before: with the reason that it has given, and otherwise with the end of its log.
pub(crate) async fn start(log_path: &Path, what: &'static str, mut stop: Stop) -> Result<u32, Failure> {
    let log = open_log(log_path)
        .map_err(|error| Failure::Other(format!("the log {} cannot be written: {error}", log_path.display())))?;
    let begin = log.metadata()?.len();
    let (mut line, stdin) = lifeline::new()?;
    let mut arguments = std::env::args_os();
    let mut command = Command::new(own_program());
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).arg("--detached").stdin(stdin).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn()?;
    // This process holds the other end no longer.
    drop(command);
    let pid = child.id().unwrap_or_default();
    let begun = tokio::select! {
        begun = line.begun() => begun,
        signal = stop.wait() => {
            if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
            child.wait().await?;
            return Err(Failure::Interrupted(signal, Some("while it was started in the background; it has ended")));
        }
    };
    let Begun::Failed(reason) = begun else { return Ok(pid) };
    let status = child.wait().await?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
    let ended = match reason {
        // What the log has of it too, if it could be written.
        Some(reason) => format!("the {what} has ended: {reason}"),
        None => {
            output::write_err(end_of_log(log_path, begin).unwrap_or_default().as_bytes());
            format!("the {what} has ended ({status})")
        }
    };
    Err(Failure::Several(code, format!("{ended}; its log is {}", log_path.display())))
}

/// Becomes independent of the terminal that it was started at, whose end is no signal to it.
pub(crate) fn leave_session() {
    // It fails for a process that leads a group, which this one is not.
    let _ = nix::unistd::setsid();
}

/// Lines are added to what is there; a program that rotates it copies it and truncates it (`copytruncate`).
fn open_log(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// What was added to the log, or its end.
fn end_of_log(path: &Path, begin: u64) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(begin.max(length.saturating_sub(SHOWN)).min(length)))?;
    let mut text = Vec::new();
    file.take(SHOWN).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
