//! A task that a home did not take.

use std::fmt;

use super::outcome::ReserveError;

/// Why a home did not take a task, and the task.
pub struct SpawnError<F> {
    error: ReserveError,
    task: F,
}

impl<F> SpawnError<F> {
    pub(crate) fn new(error: ReserveError, task: F) -> Self {
        SpawnError { error, task }
    }

    /// Why it was not taken.
    #[must_use]
    pub fn reason(&self) -> ReserveError {
        self.error
    }

    /// The task, which was not polled.
    #[must_use]
    pub fn into_task(self) -> F {
        self.task
    }
}

impl<F> fmt::Display for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the task was not taken: {}", self.error)
    }
}

impl<F> fmt::Debug for SpawnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpawnError").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<F> std::error::Error for SpawnError<F> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
