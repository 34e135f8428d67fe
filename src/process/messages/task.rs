//! What a worker is sent: to create, launch and continue processes.

use super::super::Pid;
use crate::Value;
use crate::codec::Map;
use crate::error::{Error, ErrorKind, Result};

const TASK: &str = "task";
const ARGS: &str = "args";
const CLASS: &str = "process_class";
const PERSIST: &str = "persist";
const NOWAIT: &str = "nowait";
const INIT_ARGS: &str = "init_args";
const INIT_KWARGS: &str = "init_kwargs";
const PID: &str = "pid";
const TAG: &str = "tag";

const LAUNCH: &str = "launch";
const CREATE: &str = "create";
const CONTINUE: &str = "continue";

/// A class of processes, and what one is made with.
#[derive(Clone, Debug, PartialEq)]
struct Construction {
    class: String,
    args: Option<Vec<Value>>,
    kwargs: Option<Map>,
    persist: bool,
}

impl Construction {
    fn new(class: String) -> Self {
        Construction { class, args: None, kwargs: None, persist: false }
    }

    fn into_map(self) -> Map {
        let mut map = Map::new();
        map.insert(CLASS, self.class);
        map.insert(PERSIST, self.persist);
        map.insert(INIT_ARGS, self.args.map_or(Value::Null, Value::Tuple));
        map.insert(INIT_KWARGS, self.kwargs.map_or(Value::Null, Value::Map));
        map
    }

    fn read(args: &Map) -> Result<Self> {
        let Some(class) = args.get(CLASS).and_then(Value::as_str) else {
            return Err(bad("its process_class is no string"));
        };
        let init_args = match args.get(INIT_ARGS) {
            None | Some(Value::Null) => None,
            Some(items) => Some(items.as_slice().ok_or_else(|| bad("its init_args are no sequence"))?.to_vec()),
        };
        let kwargs = match args.get(INIT_KWARGS) {
            None | Some(Value::Null) => None,
            Some(Value::Map(pairs)) if pairs.keys().all(|key| key.as_str().is_some()) => Some(pairs.clone()),
            Some(_) => return Err(bad("its init_kwargs are no mapping with strings as keys")),
        };
        Ok(Construction { class: class.to_owned(), args: init_args, kwargs, persist: is_set(args, PERSIST) })
    }
}

/// Has a worker make a process and run it.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    what: Construction,
    nowait: bool,
}

/// Has a worker make a process and store it, without running it.
#[derive(Clone, Debug, PartialEq)]
pub struct Create {
    what: Construction,
}

/// Has a worker take a process from the store and run it on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Continue {
    pid: Pid,
    tag: Option<String>,
    nowait: bool,
}

macro_rules! construction {
    ($($name:ident)*) => {$(
        impl $name {
            /// Adds a positional argument of the constructor.
            #[must_use]
            pub fn arg(mut self, value: impl Into<Value>) -> Self {
                self.what.args.get_or_insert_default().push(value.into());
                self
            }

            /// Sets a keyword argument of the constructor: `inputs`, `pid`.
            #[must_use]
            pub fn kwarg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
                self.what.kwargs.get_or_insert_default().insert(name.into(), value.into());
                self
            }

            /// The name of the class, as the workers' loader knows it: `package.module:Class` in plumpy.
            #[must_use]
            pub fn class(&self) -> &str {
                &self.what.class
            }

            /// The positional arguments.
            #[must_use]
            pub fn args(&self) -> &[Value] {
                self.what.args.as_deref().unwrap_or_default()
            }

            /// The keyword arguments, if there are any.
            #[must_use]
            pub fn kwargs(&self) -> Option<&Map> {
                self.what.kwargs.as_ref()
            }

            /// Whether the process is stored before it runs.
            #[must_use]
            pub fn is_persistent(&self) -> bool {
                self.what.persist
            }
        }
    )*};
}

construction!(Launch Create);

impl Launch {
    /// Of this class, not stored, and with its outputs as the outcome.
    pub fn new(class: impl Into<String>) -> Self {
        Launch { what: Construction::new(class.into()), nowait: false }
    }

    /// Stores it before it runs. A worker without a store refuses the task.
    #[must_use]
    pub fn persistent(mut self) -> Self {
        self.what.persist = true;
        self
    }

    /// Does not wait for its end: the outcome is the pid, at once.
    #[must_use]
    pub fn nowait(mut self) -> Self {
        self.nowait = true;
        self
    }

    /// Whether the outcome is the pid.
    #[must_use]
    pub fn is_nowait(&self) -> bool {
        self.nowait
    }
}

impl Create {
    /// Of this class, stored.
    pub fn new(class: impl Into<String>) -> Self {
        Create { what: Construction { persist: true, ..Construction::new(class.into()) } }
    }

    /// Does not store it. The worker that makes it is then the only place where it is.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.what.persist = false;
        self
    }
}

impl Continue {
    /// From its newest checkpoint, and with its outputs as the outcome.
    pub fn new(pid: impl Into<Pid>) -> Self {
        Continue { pid: pid.into(), tag: None, nowait: false }
    }

    /// From the checkpoint of this tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// Does not wait for its end: the outcome is the pid, at once.
    #[must_use]
    pub fn nowait(mut self) -> Self {
        self.nowait = true;
        self
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// The checkpoint, where it is not the newest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Whether the outcome is the pid.
    #[must_use]
    pub fn is_nowait(&self) -> bool {
        self.nowait
    }
}

fn task(name: &str, args: Map) -> Value {
    let mut map = Map::new();
    map.insert(TASK, name);
    map.insert(ARGS, args);
    Value::Map(map)
}

impl From<Launch> for Value {
    fn from(launch: Launch) -> Self {
        let mut args = launch.what.into_map();
        args.insert(NOWAIT, launch.nowait);
        task(LAUNCH, args)
    }
}

impl From<Create> for Value {
    fn from(create: Create) -> Self {
        task(CREATE, create.what.into_map())
    }
}

impl From<Continue> for Value {
    fn from(message: Continue) -> Self {
        let mut args = Map::new();
        args.insert(PID, message.pid);
        args.insert(NOWAIT, message.nowait);
        args.insert(TAG, message.tag);
        task(CONTINUE, args)
    }
}

/// A task for a worker that runs processes.
///
/// ```
/// use homing::Value;
/// use homing::process::{Launch, ProcessTask};
///
/// let body = Value::from(Launch::new("jobs:Relax").kwarg("inputs", Value::from_iter([("a", 5)])));
/// let ProcessTask::Launch(launch) = ProcessTask::try_from(&body)? else { panic!("another task") };
/// assert_eq!(launch.class(), "jobs:Relax");
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProcessTask {
    /// Makes a process and runs it.
    Launch(Launch),
    /// Makes a process.
    Create(Create),
    /// Runs a process on.
    Continue(Continue),
}

impl From<ProcessTask> for Value {
    fn from(task: ProcessTask) -> Self {
        match task {
            ProcessTask::Launch(launch) => launch.into(),
            ProcessTask::Create(create) => create.into(),
            ProcessTask::Continue(message) => message.into(),
        }
    }
}

/// `Decode` for a task of another kind, which a worker rejects, and for one that lacks something.
impl TryFrom<&Value> for ProcessTask {
    type Error = Error;

    fn try_from(body: &Value) -> Result<Self> {
        let name = body.get(TASK).and_then(Value::as_str).ok_or_else(|| bad("it names no task"))?;
        let nothing = Map::new();
        let args = match body.get(ARGS) {
            None => &nothing,
            Some(Value::Map(args)) => args,
            Some(_) => return Err(bad("its args are no mapping")),
        };
        match name {
            LAUNCH => {
                let what = Construction::read(args)?;
                Ok(ProcessTask::Launch(Launch { what, nowait: is_set(args, NOWAIT) }))
            }
            CREATE => Ok(ProcessTask::Create(Create { what: Construction::read(args)? })),
            CONTINUE => {
                let pid = args.get(PID).ok_or_else(|| bad("it continues no process: there is no pid"))?.try_into()?;
                let tag = match args.get(TAG) {
                    None | Some(Value::Null) => None,
                    Some(Value::String(tag)) => Some(tag.clone()),
                    Some(_) => return Err(bad("its tag is no string")),
                };
                Ok(ProcessTask::Continue(Continue { pid, tag, nowait: is_set(args, NOWAIT) }))
            }
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(bad(&format!("the task {shown:?} is none of launch, create and continue")))
            }
        }
    }
}

fn is_set(args: &Map, name: &str) -> bool {
    args.get(name).is_some_and(Value::is_truthy)
}

fn bad(why: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the task for processes cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_read_as_it_is_written() {
        let launch = Launch::new("m:C").arg(1).arg("x").kwarg("pid", 4);
        for sent in [
            ProcessTask::Launch(Launch::new("m:C")),
            ProcessTask::Launch(launch.persistent().nowait()),
            ProcessTask::Create(Create::new("m:C").arg(Value::Null)),
            ProcessTask::Create(Create::new("m:C").transient()),
            ProcessTask::Continue(Continue::new(4)),
            ProcessTask::Continue(Continue::new(4).with_tag("t").nowait()),
        ] {
            assert_eq!(ProcessTask::try_from(&Value::from(sent.clone())).unwrap(), sent);
        }
    }

    #[test]
    fn a_task_that_lacks_something_names_it() {
        for (yaml, part) in [
            ("null", "names no task"),
            ("{task: dance}", "\"dance\""),
            ("{task: launch}", "process_class"),
            ("{task: launch, args: []}", "args"),
            ("{task: create, args: {process_class: x, init_args: 5}}", "init_args"),
            ("{task: create, args: {process_class: x, init_kwargs: {1: 2}}}", "init_kwargs"),
            ("{task: continue, args: {nowait: true}}", "pid"),
            ("{task: continue, args: {pid: [1]}}", "process id"),
            ("{task: continue, args: {pid: 1, tag: 2}}", "tag"),
        ] {
            let error = ProcessTask::try_from(&crate::codec::parse_text(yaml.as_bytes()).unwrap()).unwrap_err();
            assert!(error.kind() == ErrorKind::Decode && error.to_string().contains(part), "{yaml}: {error}");
        }
    }
}
