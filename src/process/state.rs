//! The state of a process, how it changes, and what a process answers when it is asked.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::Pid;
use crate::codec::Map;
use crate::error::{Error, ErrorKind, Result};
use crate::{Broadcast, Value};

/// Before the states of a change, in the subject of its broadcast.
const CHANGED: &str = "state_changed";

/// What stands for no state.
const NO_STATE: &str = "None";

/// The state of a process: plumpy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ProcessState {
    /// It is there, and has not begun.
    Created,
    /// One of its steps runs.
    Running,
    /// It waits for something.
    Waiting,
    /// It has ended by itself.
    Finished,
    /// It has ended by an exception.
    Excepted,
    /// It was killed.
    Killed,
}

impl ProcessState {
    /// All of them.
    pub const ALL: [ProcessState; 6] = [
        ProcessState::Created,
        ProcessState::Running,
        ProcessState::Waiting,
        ProcessState::Finished,
        ProcessState::Excepted,
        ProcessState::Killed,
    ];

    /// Its name in subjects: `created`, `running` and so on.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ProcessState::Created => "created",
            ProcessState::Running => "running",
            ProcessState::Waiting => "waiting",
            ProcessState::Finished => "finished",
            ProcessState::Excepted => "excepted",
            ProcessState::Killed => "killed",
        }
    }

    /// True for the states that none follows: finished, excepted and killed.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, ProcessState::Finished | ProcessState::Excepted | ProcessState::Killed)
    }
}

impl fmt::Display for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Reads the name (`waiting`), and what a status has (`ProcessState.WAITING`).
impl FromStr for ProcessState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = text.strip_prefix("ProcessState.").unwrap_or(text);
        Self::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            Error::new(
                ErrorKind::Decode,
                format!("{shown:?} is no state of a process; there are created, running, waiting, finished, excepted and killed"),
            )
        })
    }
}

/// That a process has come from one state into another: the broadcast `state_changed.<from>.<to>` of its pid.
///
/// Pausing and playing change no state, and are not broadcast.
///
/// ```
/// use homing::process::{Pid, ProcessState, StateChange};
///
/// let change = StateChange::new(4, Some(ProcessState::Running), ProcessState::Finished);
/// assert_eq!(change.subject(), "state_changed.running.finished");
/// assert_eq!(change.pid(), &Pid::from(4));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateChange {
    pid: Pid,
    from: Option<ProcessState>,
    to: ProcessState,
}

impl StateChange {
    /// The change of this process. The first has no state that it comes from.
    pub fn new(pid: impl Into<Pid>, from: Option<ProcessState>, to: ProcessState) -> Self {
        StateChange { pid: pid.into(), from, to }
    }

    /// Whose state has changed.
    #[must_use]
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// The state before; `None` for a process that has just been made.
    #[must_use]
    pub fn from(&self) -> Option<ProcessState> {
        self.from
    }

    /// The state now.
    #[must_use]
    pub fn to(&self) -> ProcessState {
        self.to
    }

    /// The subject of its broadcast. The sender is the pid, the body null.
    #[must_use]
    pub fn subject(&self) -> String {
        let from = self.from.map_or(NO_STATE, ProcessState::as_str);
        format!("{CHANGED}.{from}.{}", self.to)
    }

    /// Reads a broadcast; `None` for one that is about something else.
    ///
    /// # Errors
    /// `Decode` for a change of state whose states or whose sender cannot be read.
    pub fn from_broadcast(broadcast: &Broadcast) -> Result<Option<Self>> {
        match broadcast.subject() {
            Some(subject) => Self::read(subject, broadcast.sender()),
            None => Ok(None),
        }
    }

    pub(super) fn read(subject: &str, sender: &Value) -> Result<Option<Self>> {
        let mut words = subject.split('.');
        if words.next() != Some(CHANGED) {
            return Ok(None);
        }
        let (Some(from), Some(to), None) = (words.next(), words.next(), words.next()) else {
            let shown: String = subject.chars().take(80).collect();
            let text = format!("the subject {shown:?} does not have two states, as in {CHANGED}.running.finished");
            return Err(Error::new(ErrorKind::Decode, text));
        };
        let from = if from == NO_STATE { None } else { Some(from.parse()?) };
        Ok(Some(StateChange { pid: sender.try_into()?, from, to: to.parse()? }))
    }
}

/// What a process answers when it is asked for its status.
///
/// A process may report more than is known here; [`fields`](Self::fields) has all of it.
///
/// ```
/// use homing::Value;
/// use homing::process::{ProcessState, Status};
///
/// let status = Status::try_from(Value::from_iter([
///     ("state", Value::from("ProcessState.WAITING")),
///     ("paused", Value::from(true)),
/// ]))?;
/// assert_eq!(status.state(), ProcessState::Waiting);
/// assert!(status.is_paused());
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    state: ProcessState,
    fields: Map,
}

impl Status {
    /// Its state.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.state
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.fields.get("paused").is_some_and(Value::is_truthy)
    }

    /// When it was made, if it reports that.
    #[must_use]
    pub fn created(&self) -> Option<SystemTime> {
        let seconds = self.fields.get("ctime")?.as_f64()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    }

    /// Its own description: `str(process)` in plumpy. Empty if it reports none.
    #[must_use]
    pub fn description(&self) -> &str {
        self.fields.get("process_string").and_then(Value::as_str).unwrap_or_default()
    }

    /// The answer as it came.
    #[must_use]
    pub fn fields(&self) -> &Map {
        &self.fields
    }
}

/// `Decode` for an answer that has no `state`, or one that is none.
impl TryFrom<Value> for Status {
    type Error = Error;

    fn try_from(value: Value) -> Result<Self> {
        let Value::Map(fields) = value else {
            return Err(Error::new(ErrorKind::Decode, "a status is a mapping, and this answer is none"));
        };
        let state = fields.get("state").and_then(Value::as_str);
        let state =
            state.ok_or_else(|| Error::new(ErrorKind::Decode, "a status has a state, and this answer has none"))?;
        Ok(Status { state: state.parse()?, fields })
    }
}

impl From<Status> for Value {
    fn from(status: Status) -> Self {
        Value::Map(status.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_in_both_forms() {
        for state in ProcessState::ALL {
            assert_eq!(state.as_str().parse::<ProcessState>().unwrap(), state);
            let enumerated = format!("ProcessState.{}", state.as_str().to_uppercase());
            assert_eq!(enumerated.parse::<ProcessState>().unwrap(), state);
        }
        for wrong in ["", "None", "stopped", "ProcessState."] {
            assert_eq!(wrong.parse::<ProcessState>().unwrap_err().kind(), ErrorKind::Decode, "{wrong}");
        }
    }

    #[test]
    fn a_subject_is_read_as_it_is_written() {
        let all = ProcessState::ALL.into_iter().map(Some).chain([None]);
        for (from, to) in all.flat_map(|from| ProcessState::ALL.map(|to| (from, to))) {
            let change = StateChange::new(4, from, to);
            assert_eq!(StateChange::read(&change.subject(), &Value::from(4)).unwrap(), Some(change));
        }
    }

    #[test]
    fn what_is_no_change_is_none_and_what_is_a_broken_one_an_error() {
        for other in ["", "kill", "state_changedx.running.killed", "other.running.killed"] {
            assert_eq!(StateChange::read(other, &Value::from(4)).unwrap(), None, "{other}");
        }
        for broken in ["state_changed", "state_changed.running", "state_changed.running.gone", "state_changed.a.b.c"] {
            assert_eq!(StateChange::read(broken, &Value::from(4)).unwrap_err().kind(), ErrorKind::Decode, "{broken}");
        }
        assert!(StateChange::read("state_changed.None.created", &Value::Null).is_err(), "nobody's state");
    }

    #[test]
    fn a_status_keeps_what_is_not_known_and_survives_odd_times() {
        for (ctime, known) in [
            (Value::from(1.5), true),
            (Value::from(-1.0), false),
            (Value::from(f64::NAN), false),
            (Value::from(1e300), false),
            (Value::Null, false),
        ] {
            let fields = [("state", Value::from("ProcessState.KILLED")), ("ctime", ctime), ("queue", Value::from(3))];
            let status = Status::try_from(Value::from_iter(fields)).unwrap();
            assert_eq!(status.created().is_some(), known);
            assert_eq!((status.is_paused(), status.description()), (false, ""));
            assert_eq!(status.fields().get("queue"), Some(&Value::from(3)));
        }
        for wrong in [Value::Null, Value::from_iter([("paused", true)]), Value::from_iter([("state", "dancing")])] {
            assert_eq!(Status::try_from(wrong).unwrap_err().kind(), ErrorKind::Decode);
        }
    }
}
