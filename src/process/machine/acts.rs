//! What goes into the machine of a process, and what comes out.

use std::time::SystemTime;

use super::super::next::Next;
use super::super::store::{Checkpoint, Outcome, PauseNote, Wait};
use super::super::{ControlMessage, ProcessState};
use crate::Value;

/// A request that is to be answered once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RequestId(pub(crate) u64);

/// What is stored of a process beside its class and the class's own data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) state: ProcessState,
    /// The number of the step that runs or is to run; in [`ProcessState::Waiting`] that of the step before the wait.
    pub(crate) step: u64,
    pub(crate) paused: Option<PauseNote>,
    pub(crate) wait: Option<Wait>,
    /// What the wait before this step brought.
    pub(crate) brought: Value,
    /// What the process reported of itself last.
    pub(crate) status: Option<String>,
    pub(crate) outcome: Option<Outcome>,
}

impl Snapshot {
    /// A process as it is stored.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Self {
        Snapshot {
            state: checkpoint.state(),
            step: checkpoint.step(),
            paused: checkpoint.pause().cloned(),
            wait: checkpoint.wait().cloned(),
            brought: checkpoint.brought().clone(),
            status: checkpoint.status_text().map(str::to_owned),
            outcome: checkpoint.outcome().cloned(),
        }
    }

    /// The checkpoint that has this, of a process whose checkpoint was this.
    pub(crate) fn into_checkpoint(self, before: &Checkpoint, body: Value, now: SystemTime) -> Checkpoint {
        let checkpoint = Checkpoint::new(before.class(), body, before.created())
            .with_state(self.state, now)
            .with_step(self.step)
            .with_pause(self.paused)
            .with_wait(self.wait)
            .with_brought(self.brought)
            .with_status_text(self.status);
        match self.outcome {
            Some(outcome) => checkpoint.with_outcome(outcome, now),
            None => checkpoint,
        }
    }

    /// A process that has just been made.
    #[cfg(test)]
    pub(crate) fn created() -> Self {
        Snapshot {
            state: ProcessState::Created,
            step: 0,
            paused: None,
            wait: None,
            brought: Value::Null,
            status: None,
            outcome: None,
        }
    }

    /// The same process at its end.
    pub(crate) fn ended(&self, outcome: Outcome) -> Self {
        Snapshot {
            state: outcome.state(),
            step: self.step,
            paused: None,
            wait: None,
            brought: Value::Null,
            status: self.status.clone(),
            outcome: Some(outcome),
        }
    }
}

/// What the machine is notified of.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// The process is at its home: it may begin, or go on from where it was.
    Begin,
    /// The slot that was wanted is here.
    SlotGiven,
    /// The step has ended, with its last line of status if it set one.
    StepEnded { end: StepEnd, status: Option<String> },
    /// The step stands still, for a pause was wanted of it.
    StepHeld,
    /// What the process waited for is there.
    WaitEnded(Value),
    /// Somebody resumes a process that waits for that.
    Resume(RequestId, Value),
    /// The step that runs reports of itself.
    StatusText(String),
    /// The change is stored.
    Saved,
    /// The change is not stored, and was not made.
    NotSaved(NotSaved),
    /// A request.
    Control(RequestId, ControlMessage),
    /// The home ends: no further step begins here.
    Leave,
    /// The process is not this home's any more: its lease is lost, or the home has no time left.
    Gone,
    /// The process ends like this before it begins here.
    Fail(Outcome),
}

/// How a step has ended.
#[derive(Clone, Debug)]
pub(crate) enum StepEnd {
    Next(Next),
    /// An error, or a panic.
    Failed(Outcome),
}

/// Why a change is not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotSaved {
    /// Another worker has the process.
    LeaseLost,
    /// It never can be.
    Unstorable(String),
}

/// The class's own data that belong to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// As they were stored last.
    Kept,
    /// As the step has left them that has just ended.
    OfStep,
}

/// What is wanted of the step that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    #[default]
    Nothing,
    Pause(Option<String>),
    Kill(Option<String>),
}

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A slot, when there is one.
    WantSlot,
    /// The slot is given back, or not wanted any more.
    FreeSlot,
    /// Runs a step.
    RunStep { step: u64, brought: Value },
    /// Drops the step that runs.
    AbortStep,
    /// Notifies the step that runs of what is wanted of it.
    Want(Wish),
    /// Lets a step go on that stands still.
    GoOn,
    /// Watches what the process waits for.
    StartWait(Wait),
    /// Stops watching.
    StopWait,
    /// Stores this, and reports whether it is stored.
    Save(Box<Snapshot>, Body),
    /// Broadcasts a change that is stored.
    Announce { from: ProcessState, to: ProcessState },
    /// Answers a request.
    Answer(RequestId, ControlAnswer),
    /// The process has ended like this. Nothing follows.
    End(Box<Outcome>),
    /// The process is not this home's any more, and has not ended. Nothing follows.
    Left,
}

/// What a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlAnswer {
    /// It is so.
    Done,
    /// It cannot be so any more.
    Refused,
    /// Another request took its place.
    Cancelled,
    /// Another worker has the process, or will have it.
    Moved,
    Status {
        state: ProcessState,
        paused: bool,
    },
}
