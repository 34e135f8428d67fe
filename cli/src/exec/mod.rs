//! A shell command that does the work: the body in as JSON, the answer out as YAML, and how it ended.

mod capture;
pub(crate) mod inner;
pub(crate) mod programs;

use std::os::unix::fs::PermissionsExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use homing::Value;
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::failure::Failure;
use crate::groups::{self, Group};
use capture::{Beyond, Capture};

/// How long a command has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);
/// The longest answer.
const LONGEST_OUTPUT: usize = 64 << 20;
/// How much of its standard error is kept, from the end.
const LONGEST_ERRORS: usize = 64 << 10;

/// EX_TEMPFAIL of sysexits.h: the work cannot be done now.
const TRY_AGAIN: i32 = 75;
/// What a shell answers for a command that is not runnable, and for one that it does not find.
const NOT_RUNNABLE: [i32; 2] = [126, 127];

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It did its work.
    Done(Finished),
    /// It failed.
    Failed(String),
    /// It asks for another attempt.
    TryAgain(String),
    /// It cannot be run at all.
    NotRunnable(String),
    /// It was stopped, since this program ends.
    Stopped,
}

/// What a command that did its work printed.
#[derive(Debug)]
pub(crate) struct Finished {
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

/// Fails when the shell would not find the command. What has more than plain words in it is left to the shell.
pub(crate) async fn check(command: &str) -> Result<(), Failure> {
    let word = command.split_whitespace().next().unwrap_or("");
    if word.is_empty() {
        return Err(Failure::Usage("--exec is empty; give it a shell command".to_owned()));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !word.chars().all(is_plain) {
        return Ok(());
    }
    let why = if word.contains('/') {
        match std::fs::metadata(word) {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(()),
            Ok(_) => "is not executable",
            Err(_) => "is not found",
        }
    } else {
        let found = Command::new("/bin/sh")
            .args(["-c", "command -v -- \"$1\"", "sh", word])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await?;
        if found.success() {
            return Ok(());
        }
        "is not found"
    };
    Err(Failure::Other(format!("the command of --exec cannot be run: {word:?} {why}; no task or call was taken")))
}

/// Runs a shell command until it ends, its time is over, or it is to stop.
pub(crate) async fn run(
    command: &str,
    body: &Value,
    environment: &[(&'static str, String)],
    limit: Option<Duration>,
    stop: impl Future<Output = ()>,
) -> Ended {
    match Running::start(command, environment) {
        Ok(running) => running.finish(body, limit, stop).await,
        Err(error) => {
            let error = groups::unless_this_process_ends(error).await;
            Ended::NotRunnable(format!("the shell cannot be started: {error}"))
        }
    }
}

struct Running {
    child: Child,
    group: Group,
    out: Capture,
    err: Capture,
}

impl Running {
    fn start(command: &str, environment: &[(&'static str, String)]) -> std::io::Result<Self> {
        let (out, stdout) = Capture::new(LONGEST_OUTPUT, Beyond::Fails)?;
        let (err, stderr) = Capture::new(LONGEST_ERRORS, Beyond::KeepsTheEnd)?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]).stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
        // Guards: a message whose id has a zero byte, which AMQP carries and an environment cannot. No program can be started
        // with such a variable, so that one message would end every worker that gets it.
        shell.envs(environment.iter().filter(|(_, value)| !value.contains('\0')).map(|(name, value)| (*name, value)));
        let of = |wanted: &str| environment.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
        let id = of("HOMING_MESSAGE_ID").or_else(|| of("HOMING_CORRELATION_ID")).unwrap_or("without an id");
        let work = format!("{} {id}", of("HOMING_KIND").unwrap_or("task"));
        let (child, group) = groups::spawn(&mut shell, work)?;
        Ok(Running { child, group, out, err })
    }

    async fn finish(mut self, body: &Value, limit: Option<Duration>, stop: impl Future<Output = ()>) -> Ended {
        let mut input = body.to_json_text().into_bytes();
        input.push(b'\n');
        let stdin = self.child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input is none the worse.
                let _ = stdin.write_all(&input).await;
            }
        };
        let out_of_time = async {
            match limit {
                Some(limit) => {
                    tokio::time::sleep(limit).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        let exchange = async {
            // Its end is that of its own process, not that of its pipes.
            let fed = async {
                feed.await;
                Ok(())
            };
            // Guards: a command that prints too much, and waits for ever to print the rest. The first fault ends it.
            match tokio::try_join!(fed, self.out.fill(), self.err.fill()) {
                Ok(_) => std::future::pending().await,
                Err(error) => error,
            }
        };
        let stopped = tokio::select! {
            status = groups::wait(&mut self.child) => return match status {
                Ok(status) => self.ended(status),
                Err(error) => Ended::Failed(format!("the command cannot be waited for: {error}")),
            },
            error = exchange => Some(error.to_string()),
            limit = out_of_time => {
                Some(format!("the command was stopped after {}", humantime::format_duration(limit)))
            }
            () = stop => None,
        };
        self.end().await;
        match stopped {
            None => Ended::Stopped,
            Some(why) => {
                let err = self.err.rest().unwrap_or_default();
                let err = String::from_utf8_lossy(&err);
                let err = err.trim();
                Ended::Failed(if err.is_empty() { why } else { format!("{why}: {err}") })
            }
        }
    }

    fn ended(self, status: ExitStatus) -> Ended {
        let (out, err) = match (self.out.rest(), self.err.rest()) {
            (Ok(out), Ok(err)) => (out, err),
            (Err(error), _) | (_, Err(error)) => return Ended::Failed(error.to_string()),
        };
        if status.success() {
            return Ended::Done(Finished { out, err });
        }
        let text = String::from_utf8_lossy(&err);
        let text = match text.trim() {
            "" => format!("the command ended with {status}"),
            text => text.to_owned(),
        };
        match status.code() {
            Some(TRY_AGAIN) => Ended::TryAgain(text),
            Some(code) if NOT_RUNNABLE.contains(&code) => Ended::NotRunnable(text),
            _ => Ended::Failed(text),
        }
    }

    /// SIGTERM to the whole group, SIGKILL to what is left; returns when the command has ended.
    async fn end(&mut self) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            self.group.signal(signal);
            // What it still prints is read: a command that writes into a full pipe does not end.
            let read = async {
                let _ = tokio::join!(self.out.fill(), self.err.fill());
                std::future::pending::<()>().await;
            };
            let waited = async {
                tokio::select! {
                    _ = self.child.wait() => {}
                    () = read => {}
                }
            };
            if tokio::time::timeout(GRACE, waited).await.is_ok() {
                break;
            }
        }
        // What the shell left behind.
        self.group.signal(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a command that may not take long.
    async fn ended(command: &str) -> Ended {
        ended_with(command, &[]).await
    }

    async fn ended_with(command: &str, environment: &[(&'static str, String)]) -> Ended {
        let running = run(command, &Value::Null, environment, None, std::future::pending());
        tokio::time::timeout(Duration::from_secs(60), running).await.unwrap_or_else(|_| panic!("{command} hangs"))
    }

    #[tokio::test]
    async fn a_variable_that_an_environment_cannot_hold_is_left_out() {
        let environment = [
            ("HOMING_MESSAGE_ID", "a\0b".to_owned()),
            ("HOMING_CORRELATION_ID", "\0".to_owned()),
            ("HOMING_QUEUE", "tasks\n= é".to_owned()),
        ];
        let command = "printf %s \"${HOMING_MESSAGE_ID-none} ${HOMING_CORRELATION_ID-none} $HOMING_QUEUE\"";
        let Ended::Done(done) = ended_with(command, &environment).await else { panic!("it has not run") };
        assert_eq!(String::from_utf8_lossy(&done.out), "none none tasks\n= é");
    }

    #[tokio::test]
    async fn a_command_that_prints_more_than_the_limit_fails_and_ends() {
        for command in [
            "head -c 70000000 /dev/zero",
            // It goes on with what nobody reads any more.
            "trap '' TERM PIPE; exec cat /dev/zero",
            "(exec sleep 100) & exec cat /dev/zero",
        ] {
            let Ended::Failed(why) = ended(command).await else { panic!("{command} has not failed") };
            assert!(why.contains("more than 64 MiB"), "{command}: {why}");
        }
    }
}
