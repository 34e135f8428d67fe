//! What a store answers about its processes.

use std::time::SystemTime;

use super::super::{Pid, ProcessState};
use super::{Checkpoint, ChildKey, Inputs, Liveness, Outcome, Owner, PauseNote};
use crate::error::Error;

/// Which processes are listed: all that meet each condition. The newest come first.
///
/// ```
/// use homing::process::ProcessState;
/// use homing::process::store::ListFilter;
///
/// let filter = ListFilter::new().state(ProcessState::Running).state(ProcessState::Waiting).class("shell").limit(20);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListFilter {
    pub(super) states: Vec<ProcessState>,
    pub(super) class: Option<String>,
    pub(super) created_since: Option<SystemTime>,
    pub(super) changed_since: Option<SystemTime>,
    pub(super) limit: Option<usize>,
}

impl ListFilter {
    /// All processes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Those in this state, or in another that is given like this.
    #[must_use]
    pub fn state(mut self, state: ProcessState) -> Self {
        self.states.push(state);
        self
    }

    /// Those that have not ended.
    #[must_use]
    pub fn unfinished(self) -> Self {
        self.state(ProcessState::Created).state(ProcessState::Running).state(ProcessState::Waiting)
    }

    /// Those of this class.
    #[must_use]
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = Some(class.into());
        self
    }

    /// Those created at this time or later.
    #[must_use]
    pub fn created_since(mut self, time: SystemTime) -> Self {
        self.created_since = Some(time);
        self
    }

    /// Those whose last checkpoint is of this time or later.
    #[must_use]
    pub fn changed_since(mut self, time: SystemTime) -> Self {
        self.changed_since = Some(time);
        self
    }

    /// The newest of them only. Default: all.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// What a list has: processes, and those that cannot be read.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Listing {
    /// The newest first.
    pub processes: Vec<Summary>,
    /// What is damaged, or was written by a newer homing. It stays where it is.
    pub unreadable: Vec<Unreadable>,
}

/// A process that the store has and cannot read.
#[derive(Debug)]
#[non_exhaustive]
pub struct Unreadable {
    /// Its pid, if that much can be read.
    pub pid: Option<Pid>,
    /// What is wrong with it.
    pub error: Error,
}

/// One process in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    pub(super) pid: Pid,
    pub(super) class: String,
    pub(super) state: ProcessState,
    pub(super) step: u64,
    pub(super) pause: Option<PauseNote>,
    pub(super) status_text: Option<String>,
    pub(super) created: SystemTime,
    pub(super) changed: SystemTime,
    pub(super) exit_status: Option<i64>,
    pub(super) task: Option<String>,
    pub(super) lease: Option<Lease>,
}

impl Summary {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// The name of its class.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.state
    }

    /// The number of its step, from 0.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether it is paused, and why.
    #[must_use]
    pub fn pause(&self) -> Option<&PauseNote> {
        self.pause.as_ref()
    }

    /// Its own text on how far it is.
    #[must_use]
    pub fn status_text(&self) -> Option<&str> {
        self.status_text.as_deref()
    }

    /// When it was created.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// When its last checkpoint came to be.
    #[must_use]
    pub fn changed(&self) -> SystemTime {
        self.changed
    }

    /// Its exit status, if it has finished.
    #[must_use]
    pub fn exit_status(&self) -> Option<i64> {
        self.exit_status
    }

    /// The message id of the task that launched it, unless it was made otherwise.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// Who has its lease. [`Lease::stands_at`] tells whether it is still good.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

/// A lease that somebody was granted and has not given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    owner: Owner,
    number: u64,
    until: SystemTime,
}

impl Lease {
    /// The lease of this owner, with this number, until this time.
    #[must_use]
    pub fn new(owner: Owner, number: u64, until: SystemTime) -> Self {
        Lease { owner, number, until }
    }

    /// Who has it.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it ends unless its owner renews it.
    #[must_use]
    pub fn until(&self) -> SystemTime {
        self.until
    }

    /// Whether it keeps others from the process at this time: it has not run out, and its owner is not known to be dead.
    #[must_use]
    pub fn stands_at(&self, now: SystemTime) -> bool {
        self.until > now && self.owner.liveness() != Liveness::Dead
    }
}

/// All that a store has of one process but its log.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub(super) pid: Pid,
    pub(super) checkpoint: Checkpoint,
    pub(super) inputs: Inputs,
    pub(super) child: Option<ChildKey>,
    pub(super) lease: Option<Lease>,
    pub(super) transitions: Vec<Transition>,
    pub(super) transitions_dropped: u64,
    pub(super) log_lines: u64,
}

impl Record {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// Its last checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.checkpoint.outcome()
    }

    /// What it was made with.
    #[must_use]
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// Whose child it is.
    #[must_use]
    pub fn child(&self) -> Option<&ChildKey> {
        self.child.as_ref()
    }

    /// Who has its lease. [`Lease::stands_at`] tells whether it is still good.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Its transitions, the oldest first: changes of state, steps, pauses. Of more than 200 the oldest are dropped, but for the
    /// first.
    #[must_use]
    pub fn transitions(&self) -> &[Transition] {
        &self.transitions
    }

    /// How many transitions were dropped.
    #[must_use]
    pub fn transitions_dropped(&self) -> u64 {
        self.transitions_dropped
    }

    /// How many lines of log it has had, dropped ones included.
    #[must_use]
    pub fn log_lines(&self) -> u64 {
        self.log_lines
    }
}

/// A transition that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Transition {
    /// The state after it.
    pub state: ProcessState,
    /// The step after it.
    pub step: u64,
    /// Whether it was paused then.
    pub is_paused: bool,
    /// When it was.
    pub at: SystemTime,
}

impl Transition {
    /// The one that a checkpoint comes from.
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        Transition {
            state: checkpoint.state,
            step: checkpoint.step,
            is_paused: checkpoint.pause.is_some(),
            at: checkpoint.changed,
        }
    }

    /// True for a checkpoint that comes from no transition, such as one with another status text.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.state, self.step, self.is_paused) == (other.state, other.step, other.is_paused)
    }
}

/// Where a line of a log comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogSource {
    /// The process's class.
    Process,
    /// What a program wrote to its standard output.
    Output,
    /// What a program wrote to its standard error.
    Error,
}

impl LogSource {
    /// All of them.
    pub const ALL: [LogSource; 3] = [LogSource::Process, LogSource::Output, LogSource::Error];

    /// `process`, `output` or `error`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogSource::Process => "process",
            LogSource::Output => "output",
            LogSource::Error => "error",
        }
    }
}

/// A line of a process's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub(super) number: u64,
    pub(super) at: SystemTime,
    pub(super) source: LogSource,
    pub(super) text: String,
}

/// The longest line in bytes. What is longer is cut.
const LONGEST_LINE: usize = 64 << 10;

impl LogLine {
    /// A line of this time. One of more than 64 KiB is cut, with a note of how much is missing.
    #[must_use]
    pub fn new(source: LogSource, text: impl Into<String>, at: SystemTime) -> Self {
        let mut text = text.into();
        if text.len() > LONGEST_LINE {
            let end = (0..=LONGEST_LINE).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            let missing = text.len() - end;
            text.truncate(end);
            text += &format!(" [{missing} more bytes]");
        }
        LogLine { number: 0, at, source, text }
    }

    /// Its number in the log, from 0, which the store gives. Numbers of dropped lines are not given again.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was written.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        self.at
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> LogSource {
        self.source
    }

    /// The line, without its end.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// A part of a process's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogPage {
    /// The lines, the oldest first.
    pub lines: Vec<LogLine>,
    /// The number to ask from next: after the last line of this page. Whoever follows a log asks from here again and again.
    pub next: u64,
    /// How many lines that were asked for were dropped before, for the log is bounded.
    pub dropped: u64,
    /// True if the log has no more lines for now.
    pub is_at_end: bool,
}
