//! Answers by a shell command: the body in as JSON, the answer out as YAML.

use std::process::Stdio;
use std::time::Duration;

use homing::{Answer, Answered, Failure, Value};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::args::Handler;
use crate::stop::Stop;
use crate::values;

/// How long a command has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// What answers calls and tasks.
#[derive(Clone)]
pub(crate) struct Responder {
    kind: Kind,
    /// Held by every answer that is under way, so that the end can be waited for.
    _alive: mpsc::Sender<()>,
}

#[derive(Clone)]
enum Kind {
    Echo,
    Exec { command: String, stop: Stop },
}

/// Resolves when no answer of a responder is under way, and none can begin.
pub(crate) struct AllEnded(mpsc::Receiver<()>);

impl AllEnded {
    /// Waits for it, at most as long as a command has to end.
    pub(crate) async fn wait(mut self) {
        if tokio::time::timeout(3 * GRACE, self.0.recv()).await.is_err() {
            tracing::warn!("a command did not end and is left behind");
        }
    }
}

impl Responder {
    pub(crate) fn new(handler: Handler, stop: &Stop) -> (Self, AllEnded) {
        let (alive, ended) = mpsc::channel(1);
        let kind = match handler.exec {
            Some(command) => Kind::Exec { command, stop: stop.clone() },
            None => Kind::Echo,
        };
        (Responder { kind, _alive: alive }, AllEnded(ended))
    }

    /// `Cancelled` when the command was told to end in between: its process has ended by then.
    pub(crate) async fn answer(self, body: Value) -> Answered {
        match &self.kind {
            Kind::Echo => Ok(Answer::Value(body)),
            Kind::Exec { command, stop } => run(command, stop.clone(), &body).await,
        }
    }
}

async fn run(command: &str, mut stop: Stop, body: &Value) -> Answered {
    // A process group of its own: what the shell starts is reached too, and Ctrl-C at the terminal comes through us.
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Failure::Exception(format!("the shell cannot be started: {error}")))?;
    let mut input = body.to_json_text().into_bytes();
    input.push(b'\n');
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input is none the worse.
            let _ = stdin.write_all(&input).await;
        }
    };
    let talk = async {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let read_out = async {
            if let Some(mut stdout) = stdout {
                stdout.read_to_end(&mut out).await.map(|_| ())?;
            }
            Ok::<(), std::io::Error>(())
        };
        let read_err = async {
            if let Some(mut stderr) = stderr {
                stderr.read_to_end(&mut err).await.map(|_| ())?;
            }
            Ok::<(), std::io::Error>(())
        };
        let ((), first, second) = tokio::join!(feed, read_out, read_err);
        first.and(second)?;
        Ok::<_, std::io::Error>((out, err))
    };
    let mut talk = std::pin::pin!(talk);
    let talked = tokio::select! {
        talked = &mut talk => Some(talked?),
        () = stop.wait() => None,
    };
    let Some((out, err)) = talked else {
        // What it still says is read on: a command that writes into a closed pipe is killed by that.
        let read_on = async {
            let _ = talk.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = end(&mut child) => {}
            () = read_on => {}
        }
        return Err(Failure::Cancelled);
    };
    let status = tokio::select! {
        status = child.wait() => status?,
        () = stop.wait() => {
            end(&mut child).await;
            return Err(Failure::Cancelled);
        }
    };
    if !status.success() {
        let err = String::from_utf8_lossy(&err);
        let err = err.trim();
        return Err(Failure::Exception(if err.is_empty() {
            format!("the command ended with {status}")
        } else {
            err.to_owned()
        }));
    }
    match values::parse(&out, "the command's output") {
        Ok(value) => Ok(Answer::Value(value)),
        Err(error) => Err(Failure::Exception(error.to_string())),
    }
}

/// SIGTERM to the whole group, SIGKILL to what is left; returns when the child has ended.
async fn end(child: &mut Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    for (signal, grace) in [(Signal::SIGTERM, GRACE), (Signal::SIGKILL, GRACE)] {
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = killpg(group, signal);
        }
        if tokio::time::timeout(grace, child.wait()).await.is_ok() {
            break;
        }
    }
    if let Some(group) = group {
        // What the shell left behind.
        let _ = killpg(group, Signal::SIGKILL);
    }
}
