//! Ctrl-C and SIGTERM, as something to wait for.
//!
//! Signals are received on a thread of their own: a command that is stuck writing into a full pipe is ended too.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exec::groups;
use crate::failure::Failure;
use crate::output::without_controls;
use crate::warning;

/// How long a command has after the first signal, where it does not drain.
const MOMENT: Duration = Duration::from_millis(500);

/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The command ends within a moment.
    EndsAtOnce,
    /// The command finishes what it has in hand; a second signal ends it, and every process group that it has started.
    Drains,
}

/// The signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    CtrlC,
    Terminate,
}

impl Interruption {
    /// The exit code, as shells count it: 128 and the number of the signal.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Interruption::CtrlC => 130,
            Interruption::Terminate => 143,
        }
    }
}

/// Notifies many that the command is to end.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Interruption>>);

impl Stop {
    /// Receives signals from now on.
    pub(crate) fn on_signals(manner: Manner) -> Result<Self, Failure> {
        let (sender, receiver) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        std::thread::Builder::new().name("homing-signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut next = async || {
                    tokio::select! {
                        _ = interrupt.recv() => Interruption::CtrlC,
                        _ = terminate.recv() => Interruption::Terminate,
                    }
                };
                let first = next().await;
                sender.send_replace(Some(first));
                let last = match manner {
                    Manner::Drains => next().await,
                    Manner::EndsAtOnce => tokio::time::timeout(MOMENT, next()).await.unwrap_or(first),
                };
                report(groups::kill_all());
                std::process::exit(last.exit_code().into());
            });
        })?;
        Ok(Stop(receiver))
    }

    /// Resolves when the command is to end.
    pub(crate) async fn wait(&mut self) -> Interruption {
        match self.0.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or(Interruption::Terminate),
            // The sender lives as long as the process.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Names what a second signal has stopped. Standard error may be stuck, and nothing waits for it then.
fn report(stopped: Vec<String>) {
    if stopped.is_empty() {
        return;
    }
    let (written, is_written) = std::sync::mpsc::channel();
    let writing = std::thread::Builder::new().name("homing-last-words".to_owned()).spawn(move || {
        for work in stopped {
            let then =
                if work.starts_with("task ") { "it goes back to its queue" } else { "its caller gets no answer" };
            warning!("stopped by a second signal: {}; {then}", without_controls(&work));
        }
        let _ = written.send(());
    });
    if writing.is_ok() {
        let _ = is_written.recv_timeout(LAST_WORDS);
    }
}

/// Does something unless a signal comes first.
pub(crate) async fn or_interrupted<T>(
    mut stop: Stop,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        signal = stop.wait() => Err(Failure::Interrupted(signal, None)),
    }
}
