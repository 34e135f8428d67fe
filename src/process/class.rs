//! What users write: processes as types, and the registry of their classes.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::next::Next;
use super::step::StepContext;
use super::store::{Inputs, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::panics::caught;
use crate::{HandlerError, HandlerResult, Value};

/// A process: a value that goes from step to step, and is stored between them.
///
/// The value is the checkpoint. After each step it is written by serde into the store; a worker that goes on with it, here or
/// elsewhere, reads it back. What must not be lost is a field, and what is done in a step is done again if its worker dies
/// before the step has ended.
///
/// A step runs in a task of its own on the worker's runtime. One that panics or fails ends its own process, as
/// [`ProcessState::Excepted`](super::ProcessState::Excepted), and nothing else. One that blocks its thread keeps that thread.
///
/// ```
/// use homing::process::{Inputs, Next, Process, StepContext, Wait};
/// use homing::HandlerResult;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Countdown {
///     left: u64,
/// }
///
/// impl Process for Countdown {
///     fn new(inputs: Inputs) -> HandlerResult<Self> {
///         let left = inputs.get("from").and_then(|from| from.as_i64()).ok_or("`from` is missing")?;
///         Ok(Countdown { left: left.try_into()? })
///     }
///
///     async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
///         if self.left == 0 {
///             return Ok(Next::finish("lift-off"));
///         }
///         context.set_status(format!("{} left", self.left));
///         self.left -= 1;
///         Ok(Next::sleep(std::time::Duration::from_secs(1)))
///     }
/// }
/// ```
pub trait Process: Serialize + DeserializeOwned + Send + 'static {
    /// Makes one, from what it was launched with. A store has it before its first step.
    ///
    /// # Errors
    /// What is wrong with the inputs. Whoever launches it gets the error, and there is no process.
    fn new(inputs: Inputs) -> HandlerResult<Self>;

    /// Runs one step, and returns what comes next.
    ///
    /// # Errors
    /// The process ends as excepted, with this error.
    ///
    /// # Cancel safety
    /// It is dropped at an await when the process is killed by force, or its lease is lost. Then nothing of this step is
    /// stored.
    fn step(&mut self, context: &mut StepContext) -> impl Future<Output = HandlerResult<Next>> + Send;

    /// What a status reports as its description. By default, empty, it is the name of the class with the state.
    fn describe(&self) -> String {
        String::new()
    }

    /// What becomes of a process whose worker died in the middle of a step.
    fn after_loss() -> AfterLoss {
        AfterLoss::RunAgain
    }
}

/// What becomes of a process whose worker died in the middle of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AfterLoss {
    /// The step runs again.
    #[default]
    RunAgain,
    /// The process ends as excepted: for what must not be done twice. A step that was about to begin counts as begun.
    MarkLost,
}

/// The outcome of a process whose code failed like this.
pub(super) fn excepted(error: &HandlerError) -> Outcome {
    match error.details() {
        Some(details) => Outcome::Excepted {
            type_name: details.type_name().unwrap_or("Exception").to_owned(),
            message: details.message().to_owned(),
            chain: details.chain().to_vec(),
        },
        None => failed("Exception", error.to_string()),
    }
}

/// The outcome of a process that ended by something of this name.
pub(super) fn failed(type_name: &str, message: impl Into<String>) -> Outcome {
    Outcome::Excepted { type_name: type_name.to_owned(), message: message.into(), chain: Vec::new() }
}

pub(super) type StepFuture<'a> = Pin<Box<dyn Future<Output = HandlerResult<Next>> + Send + 'a>>;

/// A process of any class.
pub(super) trait Instance: Send {
    fn step<'a>(&'a mut self, context: &'a mut StepContext) -> StepFuture<'a>;
    fn body(&self) -> Result<Value>;
    fn describe(&self) -> String;
}

impl<P: Process> Instance for P {
    fn step<'a>(&'a mut self, context: &'a mut StepContext) -> StepFuture<'a> {
        Box::pin(Process::step(self, context))
    }

    fn body(&self) -> Result<Value> {
        Value::from_serialize(self)
    }

    fn describe(&self) -> String {
        Process::describe(self)
    }
}

/// One class: how its processes are made and read.
#[derive(Clone)]
pub(super) struct Class {
    make: fn(Inputs) -> HandlerResult<Box<dyn Instance>>,
    load: fn(&Value) -> Result<Box<dyn Instance>>,
    pub(super) after_loss: AfterLoss,
}

impl Class {
    fn of<P: Process>() -> Self {
        Class {
            make: |inputs| Ok(Box::new(P::new(inputs)?)),
            load: |body| Ok(Box::new(body.deserialize::<P>()?)),
            after_loss: P::after_loss(),
        }
    }

    /// The first checkpoint of a process that is made with this.
    ///
    /// # Errors
    /// As the class has it; a panic is an error.
    pub(super) fn make(&self, inputs: Inputs) -> HandlerResult<Value> {
        let made = caught(|| {
            let instance = (self.make)(inputs)?;
            HandlerResult::Ok(instance.body()?)
        });
        made.unwrap_or_else(|panic| {
            Err(HandlerError::exception(format!("the class panicked: {panic}")).with_type("Panic"))
        })
    }

    /// The process of a checkpoint.
    ///
    /// # Errors
    /// `Decode` when its data are not this class's.
    pub(super) fn load(&self, name: &str, body: &Value) -> Result<Box<dyn Instance>> {
        let loaded = caught(|| (self.load)(body));
        let why = match loaded {
            Ok(Ok(instance)) => return Ok(instance),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("it panicked: {panic}"),
        };
        Err(Error::new(ErrorKind::Decode, format!("the class {name:?} cannot read the checkpoint: {why}")))
    }
}

/// The classes that a worker knows, each by its name. Cheap to clone.
///
/// ```
/// # use homing::process::{Inputs, Next, Process, Registry, StepContext};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Relax;
/// # impl Process for Relax {
/// #     fn new(_: Inputs) -> homing::HandlerResult<Self> { Ok(Relax) }
/// #     async fn step(&mut self, _: &mut StepContext) -> homing::HandlerResult<Next> { Ok(Next::finish(())) }
/// # }
/// let registry = Registry::new().register::<Relax>("jobs:Relax")?;
/// assert!(registry.contains("jobs:Relax"));
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    classes: Arc<HashMap<String, Class>>,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a class under the name by which tasks and checkpoints have it.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is empty or taken.
    pub fn register<P: Process>(mut self, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() || self.contains(&name) {
            let why = if name.is_empty() { "its name is empty" } else { "a class of this name is registered" };
            return Err(Error::new(ErrorKind::InvalidArgument, format!("the class {name:?} cannot be added: {why}")));
        }
        Arc::make_mut(&mut self.classes).insert(name, Class::of::<P>());
        Ok(self)
    }

    /// Whether there is a class of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.classes.contains_key(name)
    }

    /// The names, in order.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.classes.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The class of this name.
    ///
    /// # Errors
    /// `NotFound`, with the names that there are.
    pub(super) fn class(&self, name: &str) -> Result<&Class> {
        self.classes.get(name).ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            let known = self.names().join(", ");
            let known = if known.is_empty() { "it knows none".to_owned() } else { format!("it knows {known}") };
            Error::new(ErrorKind::NotFound, format!("this worker does not know the class {shown:?}; {known}"))
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.names()).finish()
    }
}
