//! What comes after a step, as the step returns it.

use std::time::{Duration, SystemTime};

use super::store::{Outcome, Wait, later};
use crate::Value;

/// What comes after a step.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Next {
    /// Another step, at once.
    Step,
    /// Another step, when this has come about. A process that waits needs no slot.
    Wait(Wait),
    /// Nothing: the process has finished.
    Finish(Finish),
}

impl Next {
    /// The process has finished, with these outputs.
    pub fn finish(outputs: impl Into<Value>) -> Self {
        Next::Finish(Finish::new(outputs))
    }

    /// Another step after this time.
    #[must_use]
    pub fn sleep(time: Duration) -> Self {
        Next::Wait(Wait::Until(later(SystemTime::now(), time)))
    }

    /// Another step when somebody resumes the process; the text is for people.
    pub fn wait_for_resume(why: impl Into<String>) -> Self {
        Next::Wait(Wait::ForResume(why.into()))
    }

    /// Another step when all of these processes have ended. Which outcome each has is asked for by
    /// [`StepContext::outcome_of`](super::StepContext::outcome_of).
    pub fn wait_for(children: impl IntoIterator<Item = super::Pid>) -> Self {
        Next::Wait(Wait::Children(children.into_iter().collect()))
    }
}

/// How a process finishes.
#[derive(Clone, Debug, PartialEq)]
pub struct Finish {
    exit_status: i64,
    outputs: Value,
}

impl Finish {
    /// With these outputs and the exit status 0.
    pub fn new(outputs: impl Into<Value>) -> Self {
        Finish { exit_status: 0, outputs: outputs.into() }
    }

    /// With another exit status: 0 is success.
    #[must_use]
    pub fn with_exit_status(mut self, status: i64) -> Self {
        self.exit_status = status;
        self
    }

    pub(super) fn into_outcome(self) -> Outcome {
        Outcome::Finished { exit_status: self.exit_status, outputs: self.outputs }
    }
}

impl From<Finish> for Next {
    fn from(finish: Finish) -> Self {
        Next::Finish(finish)
    }
}
