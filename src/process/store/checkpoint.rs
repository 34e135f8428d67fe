//! What is stored of one process.

use std::time::SystemTime;

use super::super::{Pid, ProcessState};
use crate::Value;
use crate::codec::Map;

/// What a process is made with: the arguments of its class.
///
/// ```
/// use homing::process::store::Inputs;
///
/// let inputs = Inputs::new().arg(5).kwarg("name", "relax");
/// assert_eq!(inputs.args().len(), 1);
/// assert_eq!(inputs.get("name").and_then(|name| name.as_str()), Some("relax"));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    args: Vec<Value>,
    kwargs: Map,
}

impl Inputs {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What a launch task carries.
    #[must_use]
    pub fn from_parts(args: Vec<Value>, kwargs: Map) -> Self {
        Inputs { args, kwargs }
    }

    /// Adds a positional argument.
    #[must_use]
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Sets a keyword argument.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.into(), value.into());
        self
    }

    /// The positional arguments.
    #[must_use]
    pub fn args(&self) -> &[Value] {
        &self.args
    }

    /// The keyword arguments.
    #[must_use]
    pub fn kwargs(&self) -> &Map {
        &self.kwargs
    }

    /// The keyword argument of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.kwargs.get(name)
    }

    /// Both, by value.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Value>, Map) {
        (self.args, self.kwargs)
    }
}

/// Which launch of which step a child comes from. A step that runs again launches no child twice: the store knows each by this
/// key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildKey {
    parent: Pid,
    step: u64,
    index: u32,
}

impl ChildKey {
    /// The child that `parent` launches as number `index`, from 0, of those in its step number `step`.
    #[must_use]
    pub fn new(parent: impl Into<Pid>, step: u64, index: u32) -> Self {
        ChildKey { parent: parent.into(), step, index }
    }

    /// The process that launched it.
    #[must_use]
    pub fn parent(&self) -> &Pid {
        &self.parent
    }

    /// The step in which it did.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How many it had launched in that step before.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// A process that is to be stored for the first time.
#[derive(Clone, Debug, PartialEq)]
pub struct NewProcess {
    pub(in crate::process) class: String,
    pub(in crate::process) inputs: Inputs,
    pub(in crate::process) body: Value,
    pub(in crate::process) child: Option<ChildKey>,
    pub(in crate::process) task: Option<String>,
    pub(in crate::process) pid: Option<Pid>,
}

impl NewProcess {
    /// A process of this class, whose first checkpoint has this body.
    #[must_use]
    pub fn new(class: impl Into<String>, body: impl Into<Value>) -> Self {
        NewProcess {
            class: class.into(),
            inputs: Inputs::default(),
            body: body.into(),
            child: None,
            task: None,
            pid: None,
        }
    }

    /// What it was made with. Kept for [`Record::inputs`](super::Record::inputs).
    #[must_use]
    pub fn with_inputs(mut self, inputs: Inputs) -> Self {
        self.inputs = inputs;
        self
    }

    /// It is the child of another process. If there is a process with this key, it is not made again.
    #[must_use]
    pub fn child_of(mut self, key: ChildKey) -> Self {
        self.child = Some(key);
        self
    }

    /// A task with this message id has it made. If there is a process that this task has made, it is not made again: a broker
    /// may hand a task out twice.
    #[must_use]
    pub fn made_by_task(mut self, message_id: impl Into<String>) -> Self {
        self.task = Some(message_id.into());
        self
    }

    /// It has this pid. By default the store draws one.
    #[must_use]
    pub fn with_pid(mut self, pid: impl Into<Pid>) -> Self {
        self.pid = Some(pid.into());
        self
    }

    /// Its class.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.class
    }

    /// What it was made with.
    #[must_use]
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    /// The class's own data.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// Whose child it is.
    #[must_use]
    pub fn child(&self) -> Option<&ChildKey> {
        self.child.as_ref()
    }

    /// The message id of the task that has it made.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        self.task.as_deref()
    }

    /// The pid it is to have.
    #[must_use]
    pub fn pid(&self) -> Option<&Pid> {
        self.pid.as_ref()
    }
}

/// What a process waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// That somebody resumes it; the text is for people.
    ForResume(String),
    /// A time.
    Until(SystemTime),
    /// The ends of other processes, all of them.
    Children(Vec<Pid>),
}

/// That a process is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseNote {
    message: Option<String>,
    since: SystemTime,
    in_step: bool,
}

impl PauseNote {
    /// Paused at this time, for this reason if one was given.
    #[must_use]
    pub fn new(message: Option<String>, since: SystemTime) -> Self {
        PauseNote { message, since, in_step: false }
    }

    /// Within a step that had begun, and goes on when it is played.
    #[must_use]
    pub fn in_step(mut self) -> Self {
        self.in_step = true;
        self
    }

    /// Why, as whoever paused it wrote.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Whether it is paused within a step.
    #[must_use]
    pub fn is_in_step(&self) -> bool {
        self.in_step
    }
}

/// How a process has ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// By itself.
    Finished {
        /// 0 for a success.
        exit_status: i64,
        /// What it has produced.
        outputs: Value,
    },
    /// By an error or a panic.
    Excepted {
        /// The name of the error's type.
        type_name: String,
        /// The text of the error.
        message: String,
        /// The texts of what caused it, the nearest first.
        chain: Vec<String>,
    },
    /// It was killed.
    Killed {
        /// Why, as whoever killed it wrote.
        message: Option<String>,
    },
}

impl Outcome {
    /// The state that a process with this outcome is in.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        match self {
            Outcome::Finished { .. } => ProcessState::Finished,
            Outcome::Excepted { .. } => ProcessState::Excepted,
            Outcome::Killed { .. } => ProcessState::Killed,
        }
    }
}

/// The whole of what is stored of a process with each transition, and all that it needs to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub(in crate::process) class: String,
    pub(in crate::process) state: ProcessState,
    pub(in crate::process) step: u64,
    pub(in crate::process) pause: Option<PauseNote>,
    pub(in crate::process) body: Value,
    pub(in crate::process) wait: Option<Wait>,
    pub(in crate::process) brought: Value,
    pub(in crate::process) status_text: Option<String>,
    pub(in crate::process) created: SystemTime,
    pub(in crate::process) changed: SystemTime,
    pub(in crate::process) outcome: Option<Outcome>,
}

impl Checkpoint {
    /// Of a process of this class that was created at this time and has not begun.
    #[must_use]
    pub fn new(class: impl Into<String>, body: impl Into<Value>, created: SystemTime) -> Self {
        Checkpoint {
            class: class.into(),
            state: ProcessState::Created,
            step: 0,
            pause: None,
            body: body.into(),
            wait: None,
            brought: Value::Null,
            status_text: None,
            created,
            changed: created,
            outcome: None,
        }
    }

    /// In this state since this time. A terminal state is set by [`with_outcome`](Self::with_outcome).
    #[must_use]
    pub fn with_state(mut self, state: ProcessState, changed: SystemTime) -> Self {
        self.state = state;
        self.changed = changed;
        self
    }

    /// With the number of its step, from 0.
    #[must_use]
    pub fn with_step(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    /// Paused, or not.
    #[must_use]
    pub fn with_pause(mut self, pause: Option<PauseNote>) -> Self {
        self.pause = pause;
        self
    }

    /// With other data of the class.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Value>) -> Self {
        self.body = body.into();
        self
    }

    /// Waiting for this, or for nothing.
    #[must_use]
    pub fn with_wait(mut self, wait: Option<Wait>) -> Self {
        self.wait = wait;
        self
    }

    /// With what the last wait has brought. A step that runs again gets the same again.
    #[must_use]
    pub fn with_brought(mut self, value: impl Into<Value>) -> Self {
        self.brought = value.into();
        self
    }

    /// With a text of its own on how far it is.
    #[must_use]
    pub fn with_status_text(mut self, text: Option<String>) -> Self {
        self.status_text = text;
        self
    }

    /// Ended like this at this time. Sets the state.
    #[must_use]
    pub fn with_outcome(mut self, outcome: Outcome, changed: SystemTime) -> Self {
        self.state = outcome.state();
        self.changed = changed;
        self.outcome = Some(outcome);
        self
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

    /// The number of the step that runs, or runs next, from 0.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whether it is paused, and why.
    #[must_use]
    pub fn pause(&self) -> Option<&PauseNote> {
        self.pause.as_ref()
    }

    /// The class's own data.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// What it waits for.
    #[must_use]
    pub fn wait(&self) -> Option<&Wait> {
        self.wait.as_ref()
    }

    /// What the last wait has brought to the step that runs, or runs next; null if nothing.
    #[must_use]
    pub fn brought(&self) -> &Value {
        &self.brought
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

    /// When this checkpoint came to be.
    #[must_use]
    pub fn changed(&self) -> SystemTime {
        self.changed
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }
}
