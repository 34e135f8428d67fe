//! The process of a worker: started, signalled and waited for by one task, and its log lines passed on.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use super::lifeline::{self, StarterEnd};
use super::log::Log;
use super::worker::{End, How, Incarnation, Number};
use crate::exec::inner::own_program;
use crate::groups::{self, Group};

/// Longer lines are cut into several.
const LONGEST_LINE: usize = 16 << 10;
/// How long the last lines of a process that has ended may take. Something that it has started may hold the pipe.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What a process reports.
#[derive(Debug)]
pub(super) enum News {
    Up,
    Ended(End),
}

/// What a process reports, and which it is.
pub(super) type Report = (Number, Incarnation, News);

/// A process that runs.
#[derive(Debug)]
pub(super) struct Child {
    pid: u32,
    asks: mpsc::UnboundedSender<Ask>,
}

/// What a process is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// To drain and end. It is no signal: one that comes from elsewhere as well (systemd sends it to all processes of a service)
    /// would count as the second, which stops everything at once.
    End,
    /// To end now (SIGKILL).
    Kill,
}

impl Child {
    /// Starts a worker: this program with the arguments that it has itself, as worker of this number.
    pub(super) fn start(
        number: Number,
        incarnation: Incarnation,
        arguments: &[OsString],
        log: &Log,
        reports: &mpsc::Sender<Report>,
    ) -> io::Result<Self> {
        let (lifeline, stdin) = lifeline::new()?;
        let mut command = Command::new(own_program());
        if let Some((name, arguments)) = arguments.split_first() {
            command.arg0(name).args(arguments);
        }
        command.arg(format!("--supervised={number}")).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped());
        // In a process group of its own: a Ctrl-C at the terminal is the supervisor's alone, or it would count twice.
        let (child, group) = groups::spawn(&mut command, format!("worker {number}"))?;
        let pid = child.id().ok_or_else(|| io::Error::other("it has no process id"))?;
        let (asks, asked) = mpsc::unbounded_channel();
        let (log, reports) = (log.clone(), reports.clone());
        let watched = Watched { child, group, lifeline, asked, number, incarnation, log, reports };
        tokio::spawn(async move {
            let reports = watched.reports.clone();
            let end = watched.end().await;
            let _ = reports.send((number, incarnation, News::Ended(end))).await;
        });
        Ok(Child { pid, asks })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks it for something, unless it has ended.
    pub(super) fn ask(&self, ask: Ask) {
        let _ = self.asks.send(ask);
    }
}

/// The process in the hands of its task.
struct Watched {
    child: tokio::process::Child,
    group: Group,
    lifeline: StarterEnd,
    asked: mpsc::UnboundedReceiver<Ask>,
    number: Number,
    incarnation: Incarnation,
    log: Log,
    reports: mpsc::Sender<Report>,
}

impl Watched {
    /// Waits for the end of the process, and reports when it is up.
    async fn end(mut self) -> End {
        let stderr = self.child.stderr.take();
        let (log, number) = (self.log, self.number);
        // A task of its own: a worker that writes much does not hold up the signals.
        let mut passing = tokio::spawn(async move {
            match stderr {
                Some(stderr) => pass_on(stderr, number, &log).await,
                None => None,
            }
        });
        let mut is_starting = true;
        let status = loop {
            // Guards: a signal to a process that got the number of one that has been waited for. Only this task does both.
            tokio::select! {
                biased;
                // A second signal has killed it, with this process about to end: that is no end of a worker, or the supervisor would say
                // that none is left and exit with 0 before the signal's own code.
                status = groups::wait(&mut self.child) => break status,
                Some(ask) = self.asked.recv() => match ask {
                    Ask::End => self.lifeline.ask_to_end().await,
                    Ask::Kill => self.group.signal(Signal::SIGKILL),
                },
                is_up = self.lifeline.is_up(), if is_starting => {
                    is_starting = false;
                    if is_up {
                        let _ = self.reports.send((number, self.incarnation, News::Up)).await;
                    }
                }
            }
        };
        drop(self.group);
        let last_line = match tokio::time::timeout(LAST_LINES, &mut passing).await {
            Ok(last_line) => last_line.ok().flatten(),
            Err(_) => {
                passing.abort();
                None
            }
        };
        let how = status.map_or_else(|error| How::NotStarted(error.to_string()), how);
        // What a process wrote last is why it ended only where it has ended itself with an error.
        let last_line = last_line.filter(|_| matches!(how, How::Code(code) if code != 0));
        End { how, last_line }
    }
}

fn how(status: ExitStatus) -> How {
    match (status.code(), status.signal()) {
        (Some(code), _) => How::Code(code),
        (None, Some(signal)) => How::Signal(signal),
        (None, None) => How::NotStarted(status.to_string()),
    }
}

/// Passes the lines of a worker on to the log; the last of them, as words.
async fn pass_on(stderr: impl AsyncRead + Unpin, number: Number, log: &Log) -> Option<String> {
    let mut reader = BufReader::new(stderr);
    let (mut line, mut last) = (Vec::new(), None);
    loop {
        // What cannot be read has ended.
        let read = reader.fill_buf().await.unwrap_or_default();
        let has_ended = read.is_empty();
        let end = read.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(read.len()).min(LONGEST_LINE - line.len());
        line.extend_from_slice(&read[..taken]);
        let is_whole = end == Some(taken);
        reader.consume(taken + usize::from(is_whole));
        if is_whole || line.len() >= LONGEST_LINE || (has_ended && !line.is_empty()) {
            let text = String::from_utf8_lossy(&line);
            log.worker_line(number, &text);
            last = Some(in_words(&text));
            line.clear();
        }
        if has_ended {
            return last;
        }
    }
}

/// What a line is about, without the frame of a log.
fn in_words(line: &str) -> String {
    let message = serde_json::from_str::<serde_json::Value>(line).ok();
    let message = message.as_ref().and_then(|object| object.get("message")?.as_str());
    let text = message.unwrap_or(line).trim();
    text.strip_prefix("homing: ").unwrap_or(text).chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::log::Manner;

    #[tokio::test]
    async fn lines_are_passed_on_whole_and_long_ones_are_cut() {
        let (sender, written) = std::sync::mpsc::channel();
        let log = Log::new(Manner { json: false, quiet: false }, move |line| {
            let _ = sender.send(String::from_utf8_lossy(line).into_owned());
        });
        let long = "y".repeat(LONGEST_LINE);
        let text = format!("homing: one\n\ntwo \u{fffd}\n{long}rest\nhoming: no end");
        // In pieces of every size.
        for size in [1, 7, 100_000] {
            let (mut ours, theirs) = tokio::io::duplex(size);
            let bytes = text.clone();
            tokio::spawn(async move {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut ours, bytes.as_bytes()).await;
            });
            let last = pass_on(theirs, Number(2), &log).await;
            assert_eq!(last.as_deref(), Some("no end"));
        }
        drop(log);
        let all: Vec<String> = written.iter().collect();
        let once =
            ["homing: one", "", "two \u{fffd}", &long, "rest", "homing: no end"].map(|line| format!("[2] {line}\n"));
        assert!(all.chunks(once.len()).count() == 3 && all.chunks(once.len()).all(|lines| lines == once));
        assert_eq!(in_words("{\"level\": \"ERROR\", \"message\": \"no\"}"), "no");
    }
}
