//! A list of trials for a test target with `harness = false`: one behaviour, told once, runs against each broker, and a
//! trial that hangs is a failed test with a name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use super::{TRIAL_DEADLINE, broker_url, python, required};

/// How a trial ends. Any error that can be printed fails it with `?`; so does a panic.
pub type TestResult = Result<(), Failed>;

/// What a trial's function may return: nothing, or a [`TestResult`].
pub trait Outcome {
    fn into_result(self) -> TestResult;
}

impl Outcome for () {
    fn into_result(self) -> TestResult {
        Ok(())
    }
}

impl Outcome for TestResult {
    fn into_result(self) -> TestResult {
        self
    }
}

/// The broker of one trial, and the names that are the trial's own on it.
#[derive(Clone, Debug)]
pub struct Broker {
    url: String,
    prefix: String,
}

impl Broker {
    /// An in-process broker that no other trial has.
    pub fn memory() -> Self {
        let prefix = format!("t{}", uuid::Uuid::new_v4().simple());
        Broker { url: format!("memory:{prefix}"), prefix }
    }

    /// The RabbitMQ node that all trials share.
    pub fn rabbitmq() -> Option<Self> {
        broker_url().map(Broker::at)
    }

    /// A node of the trial's own.
    pub fn at(url: impl Into<String>) -> Self {
        Broker { url: url.into(), prefix: format!("t{}", uuid::Uuid::new_v4().simple()) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn is_memory(&self) -> bool {
        self.url.starts_with("memory:")
    }

    /// Unique to the trial; exchanges and queues are named after it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A name on this broker that only this trial uses.
    pub fn name(&self, what: &str) -> String {
        format!("{}.{what}", self.prefix)
    }

    /// The exchange for RPC and broadcasts.
    pub fn message_exchange(&self) -> String {
        self.name("messages")
    }

    /// The exchange for tasks.
    pub fn task_exchange(&self) -> String {
        self.name("tasks")
    }

    /// The default task queue.
    pub fn task_queue(&self) -> String {
        self.name("queue")
    }
}

/// What a trial cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    RabbitMq,
    Python,
    /// The script that starts nodes.
    Node,
    /// An interpreter that has AiiDA.
    Aiida,
    /// Time: only `tests/run --full` runs it.
    Full,
}

impl Need {
    fn missing(self) -> Option<&'static str> {
        match self {
            Need::RabbitMq if broker_url().is_none() => Some("needs RabbitMQ: run tests/run"),
            Need::Python if python().is_none() => Some("needs kiwipy: run tests/run"),
            Need::Node if super::node::script().is_none() => Some("needs a RabbitMQ node of its own: run tests/run"),
            // It takes minutes to install.
            Need::Aiida if super::aiida().is_none() && !super::full() => {
                Some("full: needs AiiDA: tests/tools/install-aiida")
            }
            Need::Aiida if super::aiida().is_none() => Some("needs AiiDA: run tests/run --full"),
            Need::Full if !super::full() => Some("full: runs with tests/run --full"),
            _ => None,
        }
    }
}

/// The trials of one test target.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
    deadline: Option<Duration>,
    one_at_a_time: bool,
}

impl Suite {
    pub fn new() -> Self {
        Suite::default()
    }

    /// Another deadline than [`TRIAL_DEADLINE`] for the trials that follow.
    pub fn deadline(&mut self, deadline: Duration) -> &mut Self {
        self.deadline = Some(deadline);
        self
    }

    /// A trial that needs nothing.
    pub fn plain<R: Outcome>(&mut self, name: &str, test: impl FnOnce() -> R + Send + 'static) -> &mut Self {
        self.with(name, &[], test)
    }

    /// The same behaviour against the broker in the process and against RabbitMQ: `memory::name` and `rabbitmq::name`.
    pub fn both<T, R>(&mut self, name: &str, test: T) -> &mut Self
    where
        T: Fn(&Broker) -> R + Send + Sync + 'static,
        R: Outcome,
    {
        let test = Arc::new(test);
        let other = Arc::clone(&test);
        self.memory(name, move |broker| test(broker)).rabbitmq(name, move |broker| other(broker))
    }

    /// `memory::name`.
    pub fn memory<R: Outcome>(&mut self, name: &str, test: impl FnOnce(&Broker) -> R + Send + 'static) -> &mut Self {
        self.with(&format!("memory::{name}"), &[], || test(&Broker::memory()))
    }

    /// `rabbitmq::name`, on the shared node.
    pub fn rabbitmq<R: Outcome>(&mut self, name: &str, test: impl FnOnce(&Broker) -> R + Send + 'static) -> &mut Self {
        self.with(&format!("rabbitmq::{name}"), &[Need::RabbitMq], || {
            test(&Broker::rabbitmq().ok_or("HOMING_TEST_AMQP is not set")?).into_result()
        })
    }

    /// `kiwipy::name`, on the shared node, for tests that start a Python [`Peer`](super::Peer).
    pub fn kiwipy<R: Outcome>(&mut self, name: &str, test: impl FnOnce(&Broker) -> R + Send + 'static) -> &mut Self {
        self.with(&format!("kiwipy::{name}"), &[Need::RabbitMq, Need::Python], || {
            test(&Broker::rabbitmq().ok_or("HOMING_TEST_AMQP is not set")?).into_result()
        })
    }

    /// `node::name`, for tests that start a [`Node`](super::Node) to break it.
    pub fn node<R: Outcome>(&mut self, name: &str, test: impl FnOnce() -> R + Send + 'static) -> &mut Self {
        self.with(&format!("node::{name}"), &[Need::Node], test)
    }

    /// A trial with these needs.
    pub fn with<R: Outcome>(
        &mut self,
        name: &str,
        needs: &[Need],
        test: impl FnOnce() -> R + Send + 'static,
    ) -> &mut Self {
        let (label, deadline) = (name.to_owned(), self.deadline.unwrap_or(TRIAL_DEADLINE));
        let needs = needs.to_vec();
        self.trials.push(Trial::ignorable_test(name, move || {
            if let Some(reason) = needs.iter().find_map(|need| need.missing()) {
                if required() && !reason.starts_with("full:") {
                    return Err(reason.into());
                }
                return Ok(Completion::ignored_with(reason));
            }
            watched(&label, deadline, test).map(|()| Completion::Completed)
        }));
        self
    }

    /// For trials that would disturb each other.
    pub fn one_at_a_time(mut self) -> Self {
        self.one_at_a_time = true;
        self
    }

    /// Runs what the command line asks for.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        if self.one_at_a_time {
            arguments.test_threads = Some(1);
        }
        let listing = arguments.list;
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        if conclusion.num_ignored > 0 && !listing {
            eprintln!("{} tests did not run; tests/run --full runs them all", conclusion.num_ignored);
        }
        conclusion.exit_code()
    }
}

thread_local! {
    /// The trial that this thread works for.
    static TRIAL: RefCell<Option<String>> = const { RefCell::new(None) };
}

type Killer = Box<dyn FnMut() + Send>;

/// How to end what a trial has started outside this process, should it hang.
static STARTED: Mutex<Option<HashMap<String, Vec<Killer>>>> = Mutex::new(None);

/// Notes how to end something outside this process if the trial of this thread hangs.
pub(super) fn when_hung(killer: impl FnMut() + Send + 'static) {
    if let Some(trial) = TRIAL.with_borrow(Clone::clone) {
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        started.get_or_insert_default().entry(trial).or_default().push(Box::new(killer));
    }
}

fn forget_started(trial: &str) -> Vec<Killer> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    started.as_mut().and_then(|all| all.remove(trial)).unwrap_or_default()
}

/// Runs a test on a thread of its own and gives up on it after the deadline. A hung thread cannot be ended; it is left
/// behind until the process ends, the processes that it started are not.
pub fn watched<R: Outcome>(name: &str, deadline: Duration, test: impl FnOnce() -> R + Send + 'static) -> TestResult {
    let (done, outcome) = channel();
    let trial = name.to_owned();
    let thread = std::thread::Builder::new().name(trial.clone()).spawn(move || {
        TRIAL.set(Some(trial));
        let result = catch_unwind(AssertUnwindSafe(|| test().into_result())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("with something that is no text")).into())
        });
        let _ = done.send(result);
    })?;
    let result = match outcome.recv_timeout(deadline) {
        Ok(result) => {
            let _ = thread.join();
            result
        }
        Err(RecvTimeoutError::Timeout) => Err(format!("hung: {name} had not ended after {deadline:?}").into()),
        Err(RecvTimeoutError::Disconnected) => Err(format!("{name} ended without a result").into()),
    };
    let hung = result.as_ref().is_err_and(|failed| failed.message().is_some_and(|text| text.starts_with("hung:")));
    for mut killer in forget_started(name) {
        if hung {
            killer();
        }
    }
    result
}
