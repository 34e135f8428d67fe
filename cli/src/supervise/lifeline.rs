//! The line between a process and whoever has started it: a pair of sockets, one end of which is the standard input of the
//! process. The process sends one line when it is up, or why it cannot be. When nothing can come from the other end any more, the process
//! is to end: it was asked to, or its starter has ended, by SIGKILL too.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::failure::Failure;
use crate::stop::Stop;

/// What a process sends when it is up.
const UP: &str = "up\n";

/// What stands before the reason why it cannot be.
const FAILED: &str = "failed ";

/// The longest reason that is passed on, in bytes.
const REASON: u64 = 8 << 10;

/// How long the other end may take to receive it.
const SENDING: Duration = Duration::from_secs(1);

/// The end of the starter. Dropping it notifies the process.
#[derive(Debug)]
pub(super) struct StarterEnd(BufReader<UnixStream>);

/// A line, and the standard input of the process that is to be at its other end.
pub(super) fn new() -> io::Result<(StarterEnd, Stdio)> {
    let (ours, theirs) = StdUnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((StarterEnd(BufReader::new(UnixStream::from_std(ours)?)), Stdio::from(OwnedFd::from(theirs))))
}

impl StarterEnd {
    /// Resolves when the process has reported that it is up: true, or that it will not any more.
    ///
    /// # Cancel safety
    /// A part of the line that has arrived is lost when this is dropped; it is short enough to arrive at once.
    pub(super) async fn is_up(&mut self) -> bool {
        let mut line = String::new();
        let mut limited = (&mut self.0).take(UP.len() as u64);
        limited.read_line(&mut line).await.is_ok() && line == UP
    }

    /// As [`is_up`](Self::is_up), with the reason of a process that has reported one.
    pub(super) async fn begun(&mut self) -> Begun {
        if self.is_up().await {
            return Begun::Up;
        }
        // The start of it was read as if it were the other line.
        let mut rest = Vec::new();
        let reason = match (&mut self.0).take(REASON).read_to_end(&mut rest).await {
            Ok(_) => String::from_utf8_lossy(&rest).strip_prefix(&FAILED[UP.len()..]).map(str::to_owned),
            Err(_) => None,
        };
        Begun::Failed(reason)
    }

    /// Asks the process to end.
    pub(super) async fn ask_to_end(&mut self) {
        // A process that has ended needs no asking.
        let _ = self.0.get_mut().shutdown().await;
    }
}

/// What a process has reported.
#[derive(Debug)]
pub(super) enum Begun {
    Up,
    /// It will not be up, and why, where it could tell.
    Failed(Option<String>),
}

/// Reports to the starter of this process, whose standard input is a line, why it ends. A starter that knows that it was up does not
/// read this.
///
/// Guards: a log that cannot be written, because the disk is full for example. The reason would be nowhere.
pub(crate) fn failed(reason: &str) {
    let Ok(line) = io::stdin().as_fd().try_clone_to_owned() else { return };
    // The socket takes it at once. A starter that has ended does not need it.
    let _ = StdUnixStream::from(line).write_all(format!("{FAILED}{reason}").as_bytes());
}

/// The end of the process.
#[derive(Debug)]
pub(crate) struct Lifeline {
    /// Taken as this is dropped.
    line: Option<tokio::net::unix::OwnedWriteHalf>,
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // It ends with the process: `failed` may follow.
        if let Some(line) = self.line.take() {
            line.forget();
        }
    }
}

impl Lifeline {
    /// The end that this process was started with. From now on the command is to end when its starter asks for it or has ended
    /// itself: `stop` resolves then.
    ///
    /// # Errors
    /// When it was not started with one.
    pub(crate) fn of_this_process(stop: Stop) -> Result<(Self, Stop), Failure> {
        let open = || {
            let line = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
            // It fails where standard input is no such socket.
            line.peer_addr()?;
            line.set_nonblocking(true)?;
            UnixStream::from_std(line)
        };
        let line = open().map_err(|error| {
            Failure::Usage(format!(
                "--supervised and --detached are for a supervisor to give, which is not here: {error}"
            ))
        })?;
        let (mut other, line) = line.into_split();
        let is_to_end = async move {
            let mut nothing = [0; 16];
            // It sends nothing. An error is an end, too.
            while other.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
        };
        Ok((Lifeline { line: Some(line) }, stop.or(is_to_end)))
    }

    /// Reports that this process is up.
    pub(crate) async fn up(&mut self) {
        if let Some(line) = &mut self.line {
            // A starter that has ended does not need it.
            let _ = tokio::time::timeout(SENDING, line.write_all(UP.as_bytes())).await;
        }
    }
}
