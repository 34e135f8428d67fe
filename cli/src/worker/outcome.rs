//! How a piece of work ended, as a line of the log.

use std::time::Instant;

use crate::exec::{Ended, Finished};
use crate::logs::WORK;
use crate::output;

/// What the line is about.
#[derive(Debug)]
pub(super) struct Subject {
    /// `task` or `call`.
    pub kind: &'static str,
    /// The message id of a task, the correlation id of a call.
    pub id: String,
    /// The queue or the identifier.
    pub at: String,
    pub attempt: u32,
    pub redelivered: bool,
    pub begun: Instant,
}

/// What becomes of it, in words.
pub(super) type Outcome = &'static str;

impl Subject {
    /// Writes the line; and what a command that did its work has written to its standard error.
    pub(super) fn log(&self, ended: &Ended, outcome: Outcome) {
        let Subject { kind, id, at, attempt, redelivered, begun } = self;
        let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match ended {
            Ended::Done(Finished { err, .. }) => {
                output::write_err(err);
                tracing::info!(target: WORK, id, queue = at, attempt, redelivered, took_ms, outcome, "{kind}");
            }
            Ended::Stopped => {
                tracing::warn!(target: WORK, id, queue = at, attempt, redelivered, took_ms, outcome, "{kind}");
            }
            Ended::Failed(error) | Ended::TryAgain(error) | Ended::NotRunnable(error) => {
                tracing::warn!(target: WORK, id, queue = at, attempt, redelivered, took_ms, outcome, error, "{kind}");
            }
        }
    }
}
