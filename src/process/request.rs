//! What can be asked of a process or of a worker: by which way each request goes, and what its answer is.

use super::messages::{AskStatus, Continue, Create, Kill, Launch, Pause, Play};
use super::{Pid, Status};
use crate::Value;
use crate::error::{Error, ErrorKind, Result};

/// A request that [`ControlSend`](super::ControlSend) sends. It is implemented for those that there are, and for no others.
pub trait ControlRequest: sealed::Sealed + Send + Unpin + 'static {
    /// What comes of it.
    type Outcome: Send + 'static;

    /// What stands between "the request" and "process 4".
    #[doc(hidden)]
    const PURPOSE: &'static str;

    /// Whether another answer to a status request is an answer to this.
    #[doc(hidden)]
    const IS_STATUS: bool = false;

    #[doc(hidden)]
    fn way(self) -> Way;

    #[doc(hidden)]
    fn read(answer: Value) -> Result<Self::Outcome>;
}

/// A request to a process itself, by a call.
pub trait ProcessCall: ControlRequest {}

mod sealed {
    pub trait Sealed {}
}

/// By which way a request goes.
#[doc(hidden)]
#[derive(Debug)]
pub enum Way {
    /// A call to the process.
    Call(Value),
    /// A task for a worker.
    Task(Value),
    /// A task that makes a process, and one that continues it.
    Execute { create: Value, nowait: bool },
}

/// What a process answers to a request to pause, play or kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlOutcome {
    /// It is so now, by this request or before it.
    Done,
    /// It cannot be so any more: the process had ended otherwise.
    Refused,
}

impl ControlOutcome {
    /// True if it is so now.
    #[must_use]
    pub fn is_done(self) -> bool {
        self == ControlOutcome::Done
    }
}

/// Makes a process, stores it, and has it continued by any worker: two tasks, so that the process runs to its end even if its
/// worker or its caller dies.
#[derive(Clone, Debug, PartialEq)]
pub struct Execute(pub(super) Create);

impl Execute {
    pub(super) fn arg(self, value: impl Into<Value>) -> Self {
        Execute(self.0.arg(value))
    }

    pub(super) fn kwarg(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        Execute(self.0.kwarg(name, value))
    }
}

/// A request whose outcome is the pid as soon as the process is in a worker's hands.
#[derive(Clone, Debug, PartialEq)]
pub struct NoWait<Q>(pub(super) Q);

/// Python's `True` and `False`.
fn done(answer: &Value) -> Result<ControlOutcome> {
    match answer {
        Value::Bool(true) => Ok(ControlOutcome::Done),
        Value::Bool(false) => Ok(ControlOutcome::Refused),
        _ => Err(Error::new(ErrorKind::Decode, "the process answered neither true nor false")),
    }
}

/// What AiiDA's workers answer about a process that they do not have is `False`.
fn known(answer: Value) -> Result<Value> {
    match answer {
        Value::Bool(false) => {
            let text = "the worker answered false: it has no process of this id".to_owned();
            Err(Error::remote_exception("the request to continue a process", text, None::<()>))
        }
        answer => Ok(answer),
    }
}

macro_rules! requests {
    ($($request:ty, $purpose:literal, $outcome:ty, $way:expr, $read:expr $(, $status:literal)?;)*) => {$(
        impl sealed::Sealed for $request {}

        impl ControlRequest for $request {
            type Outcome = $outcome;

            const PURPOSE: &'static str = $purpose;
            $(const IS_STATUS: bool = $status;)?

            fn way(self) -> Way {
                $way(self)
            }

            fn read(answer: Value) -> Result<$outcome> {
                $read(answer)
            }
        }
    )*};
}

fn call(message: impl Into<Value>) -> Way {
    Way::Call(message.into())
}

fn task(message: impl Into<Value>) -> Way {
    Way::Task(message.into())
}

requests! {
    AskStatus, "for the status of", Status, call, Status::try_from, true;
    Pause, "to pause", ControlOutcome, call, |answer| done(&answer);
    Play, "to play", ControlOutcome, call, |answer| done(&answer);
    Kill, "to kill", ControlOutcome, call, |answer| done(&answer);
    Launch, "to launch", Value, task, Ok;
    NoWait<Launch>, "to launch", Pid, |request: Self| task(request.0.nowait()), |answer| Pid::try_from(&answer);
    Create, "to create", Pid, task, |answer| Pid::try_from(&answer);
    Continue, "to continue", Value, task, known;
    NoWait<Continue>, "to continue", Pid, |request: Self| task(request.0.nowait()),
        |answer| known(answer).and_then(|answer| Pid::try_from(&answer));
    Execute, "to execute", Value, |request: Self| Way::Execute { create: request.0.into(), nowait: false }, Ok;
    NoWait<Execute>, "to execute", Pid, |request: Self| Way::Execute { create: request.0.0.into(), nowait: true },
        |answer| Pid::try_from(&answer);
}

impl ProcessCall for AskStatus {}
impl ProcessCall for Pause {}
impl ProcessCall for Play {}
impl ProcessCall for Kill {}
