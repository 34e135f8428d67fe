//! How far a command that sends has come, so that its end by a time limit or a signal can report whether the message was
//! sent.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use homing::ErrorKind;

use crate::failure::Failure;
use crate::stop::Stop;

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Reading,
    Connecting,
    Sending,
    Sent,
}

/// Shared between the work and the code that ends it.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<AtomicU8>);

impl Default for Progress {
    fn default() -> Self {
        Progress(Arc::new(AtomicU8::new(Stage::Reading as u8)))
    }
}

impl Progress {
    pub(crate) fn at(&self, stage: Stage) {
        // Ordering: Relaxed, for the stage orders nothing.
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    /// Whether the broker has the message.
    pub(crate) fn is_sent(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Stage::Sent as u8
    }

    /// With how far it has come, where the error alone leaves that open.
    fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Homing(error) if error.kind() == ErrorKind::ConnectionLost => {
                let advice = format!("it was lost {}", self.in_words());
                Failure::Advised(Box::new(Failure::Homing(error)), advice)
            }
            failure => failure,
        }
    }

    /// Reads after "it timed out".
    pub(crate) fn in_words(&self) -> &'static str {
        const STAGES: [&str; 4] = [
            "while reading the body; nothing was sent",
            "while connecting; nothing was sent",
            "while sending; the broker has not confirmed the message, so it is not known whether it was sent",
            "while waiting for the answer; the message was sent, and may still be worked on",
        ];
        STAGES[usize::from(self.0.load(Ordering::Relaxed)).min(STAGES.len() - 1)]
    }
}

/// How much of the time limit was used before the command itself began: by a password command.
static SPENT: OnceLock<Duration> = OnceLock::new();

/// Takes the time that has passed out of a limit. What little it always takes to start is not counted.
pub(crate) fn already_spent(limit: &mut Duration, spent: Duration) {
    const STARTING: Duration = Duration::from_millis(100);
    if spent > STARTING {
        *limit = limit.saturating_sub(spent).max(Duration::from_millis(1));
        let _ = SPENT.set(spent);
    }
}

/// That the time is over, by the limit that was asked for.
pub(crate) fn timed_out(limit: Duration) -> String {
    let whole = limit + SPENT.get().copied().unwrap_or_default();
    // Rounded, for what was spent is no round number.
    let whole = Duration::from_millis(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
    format!("timed out after {}", humantime::format_duration(whole))
}

/// Does the whole work of a command, within its time, unless a signal comes first.
///
/// # Errors
/// Of the work; [`Failure::TimedOut`] and [`Failure::Interrupted`], which report how far it has come.
pub(crate) async fn bounded<T>(
    limit: Option<Duration>,
    mut stop: Stop,
    progress: &Progress,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let out_of_time = async {
        match limit {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => done.map_err(|failure| progress.explained(failure)),
        signal = stop.wait() => Err(Failure::Interrupted(signal, Some(progress.in_words()))),
        limit = out_of_time => Err(Failure::TimedOut(format!("{} {}", timed_out(limit), progress.in_words()))),
    }
}
