//! What can be stored, and the texts that stand for it.

use super::super::Pid;
use super::{Checkpoint, Inputs, Owner};
use crate::Value;
use crate::error::{Error, ErrorKind, Result};

/// A text may be as long as a message's body.
const LONGEST: usize = 64 << 20;

/// From this length on a text may have more values than are read.
const MANY: usize = 4 << 20;

/// The text that stands for a value: its JSON form.
///
/// # Errors
/// `Encode` for a value that would not be read back.
pub(super) fn encode(what: &str, value: &Value) -> Result<String> {
    if value.is_too_deep() {
        return Err(refused(what, "it is nested deeper than 200 levels"));
    }
    let text = value.to_json_text();
    if text.len() > LONGEST {
        return Err(refused(what, &format!("its text has {} bytes, over the limit of {LONGEST}", text.len())));
    }
    // Only these kinds have contents that are not read back: a date that does not exist, a tag that is none.
    if (text.len() > MANY || text.contains("\"$tag\"") || text.contains("\"$timestamp\""))
        && let Err(error) = Value::from_json_text(&text)
    {
        return Err(refused(what, &error.to_string()));
    }
    Ok(text)
}

fn refused(what: &str, why: &str) -> Error {
    Error::new(ErrorKind::Encode, format!("{what} cannot be stored: {why}"))
}

/// The texts that stand for the positional and the keyword arguments.
pub(super) fn encode_inputs(inputs: &Inputs) -> Result<(String, String)> {
    let args = encode("what a process is made with", &Value::List(inputs.args().to_vec()))?;
    let kwargs = encode("what a process is made with", &Value::Map(inputs.kwargs().clone()))?;
    Ok((args, kwargs))
}

/// That a class has a name.
pub(super) fn check_class(class: &str) -> Result<()> {
    if class.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "a process has no class: its name is empty"));
    }
    Ok(())
}

/// That the parts of a checkpoint go with each other.
pub(super) fn check_outcome(checkpoint: &Checkpoint) -> Result<()> {
    let state = checkpoint.state;
    let is_right = match &checkpoint.outcome {
        Some(outcome) => outcome.state() == state,
        None => !state.is_terminal(),
    };
    if is_right {
        return Ok(());
    }
    let outcome = checkpoint.outcome.as_ref().map_or("no outcome", |outcome| outcome.state().as_str());
    let text = format!("a checkpoint in the state {state} has another outcome: {outcome}");
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

/// That the pid a new process is to have is another's.
pub(super) fn taken(pid: &Pid) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("there is a process {pid} already; leave its pid to the store"))
}

/// That a process is not removed.
pub(super) fn leased(pid: &Pid, owner: &Owner) -> Error {
    let text = format!("the process {pid} is not removed, for {owner} runs it; kill it first, or stop the worker");
    Error::new(ErrorKind::InvalidState, text)
}
