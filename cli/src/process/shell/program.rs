//! The program of a job in this worker's hands.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use homing::process::store::{LogLine, LogSource};
use homing::process::{Interruption, Pid, ProcessLog, Resumed, StepContext};
use homing::{Failure, HandlerError, HandlerResult};
use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::Instant;

use super::job::Job;
use super::lines::Lines;
use crate::exec::inner::{EndsWithUs, GATE, own_program};
use crate::exec::programs::{RUN, Started};
use crate::groups::{self, Group};

/// How much output waits to be stored. A program that writes faster waits.
const MOST_PENDING: usize = 256 << 10;

/// How long the rest of the output is waited for when the program has ended. A process that has left the group may keep its
/// pipes open.
const REST: Duration = Duration::from_secs(1);

/// How much is read at once.
const CHUNK: usize = 16 << 10;

/// A program that waits at its gate, or runs. Dropped, its whole group is killed.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    group: Group,
    gate: Option<ChildStdin>,
    started: Started,
    has_ended: bool,
    _ends_with_us: EndsWithUs,
}

impl Program {
    /// Starts it up to its gate.
    ///
    /// # Errors
    /// When no process can be started for it.
    pub(super) fn start(job: &Job, pid: &Pid, attempt: u32) -> io::Result<Self> {
        if let Some(cwd) = &job.cwd
            && !cwd.is_dir()
        {
            let text = format!("there is no directory {} on this worker's machine", cwd.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        let run = crate::mark::draw();
        let mut command = Command::new(own_program());
        command.arg(GATE).args(&job.command).envs(&job.env);
        command.env(RUN, &run).env("HOMING_PROCESS", pid.to_string()).env("HOMING_ATTEMPT", attempt.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(cwd) = &job.cwd {
            command.current_dir(cwd);
        }
        let (mut child, group) = groups::spawn(&mut command, format!("process {pid}"))?;
        let id = child.id().ok_or_else(|| io::Error::other("it has no process id"))?;
        let started = Started::now(id, run);
        let ends_with_us = EndsWithUs::new(&started)?;
        let gate = child.stdin.take();
        Ok(Program { child, group, gate, started, has_ended: false, _ends_with_us: ends_with_us })
    }

    pub(super) fn started(&self) -> &Started {
        &self.started
    }

    /// Opens the gate, and stays with the program until it has ended.
    ///
    /// # Errors
    /// When another worker has the process by now.
    pub(super) async fn run(mut self, grace: Duration, context: &mut StepContext) -> HandlerResult<ExitStatus> {
        if let Some(mut gate) = self.gate.take() {
            // One that has gone by now is waited for like any other.
            let _ = gate.write_all(b"\n").await;
        }
        let (out, err) = (self.child.stdout.take(), self.child.stderr.take());
        let mut out = Output::new(out, LogSource::Output);
        let mut err = Output::new(err, LogSource::Error);
        let mut storing = Storing::new(context.process_log());
        let mut is_paused = false;
        let mut ended = None;
        let mut kill_at: Option<Instant> = None;
        let mut rest_until: Option<Instant> = None;
        while ended.is_none() || (!out.is_at_end() || !err.is_at_end()) {
            let has_room = storing.begin();
            tokio::select! {
                wish = next_wish(context, is_paused), if ended.is_none() => match wish {
                    Wish::Pause => {
                        self.group.signal(Signal::SIGSTOP);
                        is_paused = true;
                    }
                    Wish::Play => {
                        self.group.signal(Signal::SIGCONT);
                        is_paused = false;
                    }
                    Wish::Kill => {
                        // A stopped process takes note of SIGTERM when it goes on.
                        self.group.signal(Signal::SIGTERM);
                        self.group.signal(Signal::SIGCONT);
                        is_paused = false;
                        kill_at.get_or_insert(Instant::now() + grace);
                    }
                },
                status = groups::wait(&mut self.child), if ended.is_none() => {
                    let status = status.map_err(|error| {
                        HandlerError::exception(format!("the program cannot be waited for: {error}"))
                    })?;
                    // What it has left in its group is part of the job.
                    self.group.signal(Signal::SIGKILL);
                    self.has_ended = true;
                    (kill_at, rest_until) = (None, Some(Instant::now() + REST));
                    ended = Some(status);
                }
                stored = storing.stored() => stored?,
                read = out.fill(), if has_room => out.take(read, &mut storing.pending),
                read = err.fill(), if has_room => err.take(read, &mut storing.pending),
                () = at(kill_at) => {
                    kill_at = None;
                    storing.note(format!("it did not end within {grace:?} after SIGTERM; SIGKILL is sent"));
                    self.group.signal(Signal::SIGKILL);
                }
                () = at(rest_until) => break,
            }
        }
        out.lines.finish(&mut storing.pending);
        err.lines.finish(&mut storing.pending);
        storing.finish().await?;
        ended.ok_or_else(|| HandlerError::exception("the end of the program was missed"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Guards: a group that has got the number of one that has ended.
        if !self.has_ended {
            self.group.signal(Signal::SIGKILL);
        }
    }
}

/// The exit status as shells count it.
pub(super) fn exit_status(status: ExitStatus) -> i64 {
    status.code().map_or_else(|| 128 + i64::from(status.signal().unwrap_or(0)), i64::from)
}

/// What is wanted of the program.
enum Wish {
    Pause,
    Play,
    Kill,
}

async fn next_wish(context: &mut StepContext, is_paused: bool) -> Wish {
    if is_paused {
        return if context.paused().await == Resumed::Play { Wish::Play } else { Wish::Kill };
    }
    match context.interruption().await {
        Interruption::Pause { .. } => Wish::Pause,
        _ => Wish::Kill,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// One of the program's outputs.
struct Output<R> {
    pipe: Option<R>,
    lines: Lines,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn new(pipe: Option<R>, source: LogSource) -> Self {
        Output { pipe, lines: Lines::new(source), chunk: vec![0; CHUNK] }
    }

    fn is_at_end(&self) -> bool {
        self.pipe.is_none()
    }

    /// Reads what there is: how much. Never resolves after the end.
    ///
    /// # Cancel safety
    /// Nothing is read when it is dropped.
    async fn fill(&mut self) -> usize {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        pipe.read(&mut self.chunk).await.unwrap_or(0)
    }

    /// Takes what was read; nothing is the end.
    fn take(&mut self, read: usize, pending: &mut Vec<LogLine>) {
        if read == 0 {
            self.pipe = None;
        }
        self.lines.take(&self.chunk[..read], pending);
    }
}

type Adding = std::pin::Pin<Box<dyn Future<Output = HandlerResult<()>> + Send>>;

/// Lines on their way into the store, so many at once as have come since the last time.
struct Storing {
    log: ProcessLog,
    pending: Vec<LogLine>,
    adding: Option<Adding>,
}

impl Storing {
    fn new(log: ProcessLog) -> Self {
        Storing { log, pending: Vec::new(), adding: None }
    }

    fn note(&mut self, text: String) {
        self.pending.push(LogLine::new(LogSource::Process, text, std::time::SystemTime::now()));
    }

    /// Begins to store what is there, unless it does already. Whether more can be taken.
    fn begin(&mut self) -> bool {
        if self.adding.is_none() && !self.pending.is_empty() {
            let (log, lines) = (self.log.clone(), std::mem::take(&mut self.pending));
            self.adding = Some(Box::pin(async move { log.add(lines).await }));
        }
        self.pending.iter().map(|line| line.text().len() + 64).sum::<usize>() < MOST_PENDING
    }

    /// Resolves when something has been stored.
    async fn stored(&mut self) -> HandlerResult<()> {
        let Some(adding) = &mut self.adding else { return std::future::pending().await };
        let added = adding.await;
        self.adding = None;
        match added {
            Err(error) if matches!(error.failure(), Failure::Cancelled) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "lines of a program's output cannot be stored, and are lost");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn finish(&mut self) -> HandlerResult<()> {
        loop {
            self.begin();
            if self.adding.is_none() {
                return Ok(());
            }
            self.stored().await?;
        }
    }
}
