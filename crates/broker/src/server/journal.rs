//! The seam to what survives a restart.

use super::content::Content;
use crate::engine::Effect;
use std::task::{Context, Poll};

/// Keeps what has to survive a restart, for one virtual host.
///
/// All calls come from the server's thread and must not block it: a journal writes on a thread of its own.
pub trait Journal {
    /// Takes [`Store`](Effect::Store), [`Forget`](Effect::Forget), [`Defined`](Effect::Defined) and
    /// [`Undefined`](Effect::Undefined), in the order in which they happened. Others are not passed. Returns the mark that is
    /// [durable](Progress::Durable) once this is.
    fn record(&mut self, effect: Effect<Content>) -> Mark;

    /// What was recorded until now belongs together; writing it may begin.
    fn submit(&mut self);

    /// Why nothing can be written for now, where that is so. What was recorded is tried again.
    fn failure(&self) -> Option<String> {
        None
    }

    /// Nothing of it is needed any more, since its virtual host was removed. It ends without a last write, and does not block.
    fn discard(&mut self) {}

    /// Writes what is not written, and ends. Blocks until then, as the only one of these: the server has ended.
    ///
    /// # Errors
    /// Not all that was recorded is safe, and why.
    fn close(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// The next thing that has happened.
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Progress>;
}

/// How far a journal has come. Marks grow with what is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

/// What a journal reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// All up to this mark is safe.
    Durable(Mark),
    /// Nothing can be written for now, and why: the disk is full, for example. Publishers are stopped.
    Blocked(String),
    /// Writing goes on.
    Unblocked,
    /// Nothing will ever be written again, and why. The server stops: what it can no longer keep it must not accept.
    Failed(String),
}
