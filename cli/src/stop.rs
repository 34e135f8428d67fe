//! Ctrl-C and SIGTERM, as something to wait for.
//!
//! Signals are received on a thread of their own: a command that is stuck writing into a full pipe is ended too.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::args::Format;
use crate::failure::{Failure, Interruption};
use crate::output::{self, without_controls};
use crate::{groups, report, warning};

/// How long a command has after the first signal, where it does not drain.
const MOMENT: Duration = Duration::from_secs(1);

/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What a signal does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Manner {
    /// The command ends within a moment.
    EndsAtOnce,
    /// The command finishes what it has in hand; a second signal ends it, and every process group that it has started.
    Drains,
    /// As `EndsAtOnce`, by SIGHUP too, and the terminal is as it was before: `restore` sees to that.
    Screen { restore: fn() },
}

/// Notifies many that the command is to end.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<Option<Interruption>>);

impl Stop {
    /// Receives signals from now on.
    pub(crate) fn on_signals(manner: Manner) -> Result<Self, Failure> {
        let (sender, receiver) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hang_up) = {
            let _inside = runtime.enter();
            // Others leave it as it is: whoever starts one by `nohup` wants it ignored.
            let hang_up = matches!(manner, Manner::Screen { .. }).then(|| signal(SignalKind::hangup())).transpose()?;
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, hang_up)
        };
        std::thread::Builder::new().name("homing-signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut next = async || {
                    tokio::select! {
                        _ = interrupt.recv() => Interruption::CtrlC,
                        _ = terminate.recv() => Interruption::Terminate,
                        () = received(&mut hang_up) => Interruption::HangUp,
                    }
                };
                let first = next().await;
                sender.send_replace(Some(first));
                let last = match manner {
                    Manner::Drains => next().await,
                    Manner::EndsAtOnce | Manner::Screen { .. } => {
                        tokio::time::timeout(MOMENT, next()).await.unwrap_or(first)
                    }
                };
                report_stopped(groups::kill_all());
                if let Manner::Screen { restore } = manner {
                    // What takes no output, such as a terminal after Ctrl-S, is not waited for.
                    within(LAST_WORDS, restore);
                }
                if !matches!(manner, Manner::Drains) {
                    let format = if output::errors_are_json() { Format::Json } else { Format::Text };
                    within(LAST_WORDS, move || report::print_last(&Failure::Interrupted(last, None), format));
                }
                output::finish_errors(LAST_WORDS);
                std::process::exit(last.exit_code().into());
            });
        })?;
        Ok(Stop(receiver))
    }

    /// The signal has come.
    #[cfg(test)]
    pub(crate) fn given(signal: Interruption) -> Self {
        Stop(watch::Sender::new(Some(signal)).subscribe())
    }

    /// The command is to end at a signal, or when `also` resolves, which then counts as SIGTERM.
    pub(crate) fn or(mut self, also: impl Future<Output = ()> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let signal = tokio::select! {
                signal = self.wait() => signal,
                () = also => Interruption::Terminate,
            };
            sender.send_replace(Some(signal));
        });
        Stop(receiver)
    }

    /// Resolves when the command is to end.
    pub(crate) async fn wait(&mut self) -> Interruption {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|signal| *signal) {
            Some(signal) => signal,
            // The sender lives as long as the process, or has sent something.
            None => std::future::pending().await,
        }
    }
}

/// Waits for a signal that may not be asked for.
async fn received(signal: &mut Option<Signal>) {
    let Some(signal) = signal else { return std::future::pending().await };
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// Does something on a thread of its own, and waits for it no longer than this.
fn within(time: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    let working = std::thread::Builder::new().name("homing-last-words".to_owned()).spawn(move || {
        work();
        let _ = done.send(());
    });
    if working.is_ok() {
        let _ = is_done.recv_timeout(time);
    }
}

/// Names what a second signal has stopped. Standard error may be stuck, and nothing waits for it then.
fn report_stopped(stopped: Vec<String>) {
    if stopped.is_empty() {
        return;
    }
    within(LAST_WORDS, move || {
        for work in stopped {
            let then = match work.split_once(' ') {
                Some(("task", _)) => "it goes back to its queue",
                Some(("worker", _)) => "its processes are left to others",
                Some(("password", _)) => "nothing was sent",
                _ => "its caller gets no answer",
            };
            warning!("stopped by a second signal: {}; {then}", without_controls(&work));
        }
    });
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
