//! Processes that live: on `memory:`, with a store in memory, launched, controlled, lost and gone on with.

mod children;
mod control;
mod fragile;
mod in_front;
mod loss;
mod store_away;
mod whole;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::home::lock::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::store::{MemoryPersister, Persister, Record};
use super::*;
use crate::{Communicator, ErrorKind, HandlerError, HandlerResult, Value};

/// A bound against hanging.
const LONG: Duration = Duration::from_secs(30);

/// What the test and the steps of its processes share, by the name that its processes are launched with: processes are made
/// by a name alone.
#[derive(Default)]
struct Stage {
    /// How often each kind of step began, and came to its end.
    begun: AtomicU32,
    ended: AtomicU32,
    /// Those that run now, and the most at once.
    running: AtomicU32,
    most: AtomicU32,
    /// What steps wait for.
    gate: AtomicBool,
    opened: Notify,
    notes: Mutex<Vec<String>>,
}

static STAGES: Mutex<Option<HashMap<String, Arc<Stage>>>> = Mutex::new(None);

impl Stage {
    /// The stage of this name, made at its first use.
    fn of(name: &str) -> Arc<Stage> {
        Arc::clone(STAGES.lock().get_or_insert_default().entry(name.to_owned()).or_default())
    }

    fn open(&self) {
        self.gate.store(true, Ordering::SeqCst);
        self.opened.notify_waiters();
    }

    async fn opened(&self) {
        loop {
            let opened = self.opened.notified();
            if self.gate.load(Ordering::SeqCst) {
                return;
            }
            opened.await;
        }
    }

    fn note(&self, note: impl Into<String>) {
        self.notes.lock().push(note.into());
    }

    fn notes(&self) -> Vec<String> {
        self.notes.lock().clone()
    }

    fn begun(&self) -> u32 {
        self.begun.load(Ordering::SeqCst)
    }

    fn ended(&self) -> u32 {
        self.ended.load(Ordering::SeqCst)
    }
}

/// Counts a step while it runs.
struct InStep(Arc<Stage>);

impl InStep {
    fn begin(stage: &Arc<Stage>) -> Self {
        stage.begun.fetch_add(1, Ordering::SeqCst);
        let now = stage.running.fetch_add(1, Ordering::SeqCst) + 1;
        stage.most.fetch_max(now, Ordering::SeqCst);
        InStep(Arc::clone(stage))
    }
}

impl Drop for InStep {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// A process that does as its script has it: one word a step.
#[derive(Serialize, Deserialize)]
struct Script {
    stage: String,
    words: Vec<String>,
    done: usize,
    children: Vec<String>,
}

impl Process for Script {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let stage = text(inputs.args().first()).ok_or("the stage is missing")?;
        let words = text(inputs.args().get(1)).ok_or("the script is missing")?;
        if words == "panic" {
            panic!("it does not like its inputs");
        }
        Ok(Script {
            stage,
            words: words.split_whitespace().map(str::to_owned).collect(),
            done: 0,
            children: Vec::new(),
        })
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        let stage = Stage::of(&self.stage);
        let _in_step = InStep::begin(&stage);
        let word = self.words.get(self.done).cloned().unwrap_or_default();
        self.done += 1;
        stage.note(format!("{}:{word}", context.step()));
        match word.as_str() {
            "step" => Ok(Next::Step),
            "slow" => {
                context.sleep(Duration::from_millis(20)).await?;
                Ok(Next::Step)
            }
            // Knows of no interruption.
            "gate" => {
                stage.opened().await;
                Ok(Next::Step)
            }
            "forever" => std::future::pending().await,
            "block" => {
                while !stage.gate.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(Next::Step)
            }
            // Stands still when it is to, and ends when it is to.
            "polite" => loop {
                let interruption = tokio::select! {
                    () = stage.opened() => return Ok(Next::Step),
                    interruption = context.interruption() => interruption,
                };
                match interruption {
                    Interruption::Pause { message } => {
                        stage.note(format!("stands still: {}", message.unwrap_or_default()));
                        let resumed = context.paused().await;
                        stage.note(format!("{resumed:?}"));
                        if resumed == Resumed::Kill {
                            return Ok(Next::finish("cleaned up"));
                        }
                    }
                    Interruption::Kill { message } => {
                        stage.note(format!("to be killed: {}", message.unwrap_or_default()));
                        return Ok(Next::finish("cleaned up"));
                    }
                }
            },
            "sleep" => Ok(Next::sleep(Duration::from_millis(20))),
            "wait" => Ok(Next::wait_for_resume("the test")),
            "brought" => Ok(Next::finish(context.brought().clone())),
            "status" => {
                context.set_status("half way");
                context.log("a line").await?;
                stage.opened().await;
                Ok(Next::Step)
            }
            "fail" => Err(HandlerError::exception("boom: ü").with_type("Boom")),
            "panic" => panic!("out of the blue"),
            "child" => {
                let inputs = Inputs::new().arg(format!("{}-child", self.stage)).arg(self.words[self.done].as_str());
                self.done += 1;
                let child = context.launch_child("script", inputs).await?;
                self.children.push(child.to_string());
                Ok(Next::Step)
            }
            "children" => {
                let children: Result<Vec<Pid>, _> = self.children.iter().map(|child| child.parse()).collect();
                Ok(Next::wait_for(children?))
            }
            "outcomes" => {
                let mut outcomes = Vec::new();
                for child in &self.children {
                    let outcome = context.outcome_of(&child.parse()?).await?;
                    outcomes.push(outcome.map_or_else(|| "none".to_owned(), |outcome| outcome.state().to_string()));
                }
                Ok(Next::finish(outcomes.join(" ")))
            }
            _ => Ok(Finish::new(self.done as i64).with_exit_status(3).into()),
        }
    }

    fn describe(&self) -> String {
        if self.words.iter().any(|word| word == "described") {
            format!("script at {}", self.done)
        } else {
            String::new()
        }
    }
}

/// The same, for what must not be done twice.
#[derive(Serialize, Deserialize)]
struct Once(Script);

impl Process for Once {
    fn new(inputs: Inputs) -> HandlerResult<Self> {
        Ok(Once(Script::new(inputs)?))
    }

    async fn step(&mut self, context: &mut StepContext) -> HandlerResult<Next> {
        Process::step(&mut self.0, context).await
    }

    fn after_loss() -> AfterLoss {
        AfterLoss::MarkLost
    }
}

fn registry() -> Registry {
    let registry = Registry::new().register::<Script>("script").unwrap().register::<Once>("once").unwrap();
    fragile::register(registry.register::<children::Brood>("brood").unwrap())
}

/// A worker with its communicator, and what controls it.
struct Home {
    communicator: Communicator,
    controller: ProcessController,
    store: MemoryPersister,
    worker: Option<ProcessWorker>,
    changes: Arc<Mutex<Vec<String>>>,
}

impl Home {
    async fn start(slots: usize) -> Self {
        Self::on("memory:", slots, MemoryPersister::new()).await
    }

    async fn start_with(store: &MemoryPersister) -> Self {
        Self::on("memory:", 1, store.clone()).await
    }

    async fn on(url: &str, slots: usize, store: MemoryPersister) -> Self {
        Self::with(url, slots, store.clone(), store).await
    }

    /// With a store of the worker's that is in front of this one.
    async fn with(url: &str, slots: usize, store: MemoryPersister, in_front: impl Persister) -> Self {
        let connecting = Communicator::builder(url).call_timeout(LONG).task_timeout(LONG);
        let communicator = connecting.connect().await.unwrap();
        let changes: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&changes);
        let worker = ProcessWorker::builder(&communicator, in_front, registry())
            .slots(slots)
            .on_change(move |change| {
                let subject = change.subject();
                kept.lock().push(subject.trim_start_matches("state_changed.").to_owned());
            })
            .start()
            .await
            .unwrap();
        let controller = ProcessController::new(&communicator);
        Home { communicator, controller, store, worker: Some(worker), changes }
    }

    /// Launches a script on a stage of this name.
    async fn launch(&self, stage: &str, script: &str) -> Pid {
        self.controller.launch("script").arg(stage).arg(script).nowait().await.unwrap()
    }

    /// Runs a script to its end.
    async fn run(&self, stage: &str, script: &str) -> crate::Result<Value> {
        self.controller.launch("script").arg(stage).arg(script).await
    }

    async fn record(&self, pid: &Pid) -> Record {
        self.store.record(pid.clone()).await.unwrap().expect("it is in the store")
    }

    /// Waits until the store has this of a process: its state, and `paused` if it is.
    async fn becomes(&self, pid: &Pid, wanted: &str) -> Record {
        let until = Instant::now() + LONG;
        loop {
            let record = self.record(pid).await;
            let checkpoint = record.checkpoint();
            let paused = if checkpoint.pause().is_some() { " paused" } else { "" };
            let is = format!("{}{paused}", checkpoint.state());
            if is == wanted {
                return record;
            }
            assert!(Instant::now() < until, "it is {is}, and not {wanted}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn close(mut self) {
        if let Some(worker) = self.worker.take() {
            tokio::time::timeout(LONG, worker.drain(Duration::ZERO)).await.expect("it drains");
        }
        self.communicator.close().await.unwrap();
    }
}

/// Waits until something is so.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
