//! One process at its home: carries out what its [machine](super::machine) decides.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable};
use tokio::sync::{mpsc, oneshot};

use super::class::{Instance, excepted, failed};
use super::machine::{Act, Body, ControlAnswer, Input, Machine, NotSaved, RequestId, Snapshot, StepEnd};
use super::slots::Slot;
use super::step::{Link, StepContext};
use super::store::{Checkpoint, LeaseId, Outcome, Saved, Wait};
use super::tools::Tools;
use super::{ControlMessage, Pid, ProcessState, StateChange};
use crate::codec::Map;
use crate::panics;
use crate::{Failure, HandlerError, HandlerResult, Value};

/// What a process is notified of from outside.
pub(super) enum Message {
    /// A request, and who asks; nobody for a broadcast.
    Control(ControlMessage, Option<Asker>),
    /// Somebody resumes it.
    Resume(Value, Asker),
    /// Its step has reported something over their link.
    StepReports,
    /// Its step has ended.
    StepEnded(StepDone),
    /// No further step is to begin here.
    Leave,
    /// Nothing more is to be done here.
    Gone,
}

/// Who waits for an answer.
pub(super) type Asker = oneshot::Sender<HandlerResult<Value>>;

/// How the run of a process has ended.
#[derive(Clone, Debug)]
pub(super) enum RunEnd {
    /// The process has ended.
    Ended(Outcome),
    /// It has not, and is not run here any more.
    Left,
    /// The store of this worker does not have it.
    NotHere,
    /// It cannot be run here.
    Failed(HandlerError),
}

/// A step that has come to its end by itself.
pub(super) struct StepDone {
    end: StepEnd,
    /// What the step has left, unless it failed.
    left: Option<(Box<dyn Instance>, Value, String)>,
}

type Waiting<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// One process that this worker has the lease of.
pub(super) struct Run {
    tools: Arc<Tools>,
    pid: Pid,
    lease: LeaseId,
    machine: Machine,
    /// As it is in the store.
    checkpoint: Checkpoint,
    instance: Option<Box<dyn Instance>>,
    description: String,
    /// What the step that has just ended left, until it is stored.
    stepped: Option<Value>,
    inbox: mpsc::UnboundedReceiver<Message>,
    to_self: mpsc::UnboundedSender<Message>,
    step: Option<StepInHand>,
    /// A slot that came along with the task, for the first step.
    spare: Option<Slot>,
    slot: Option<Slot>,
    wants_slot: Waiting<Slot>,
    waits: Waiting<()>,
    saves: Option<Save>,
    requests: HashMap<RequestId, Asker>,
    next_request: u64,
    end: Option<RunEnd>,
}

struct StepInHand {
    link: Arc<Link>,
    abort: AbortHandle,
    /// Resolves when the step's future is gone.
    gone: oneshot::Receiver<()>,
}

/// A checkpoint on its way into the store.
struct Save {
    checkpoint: Checkpoint,
    stored: Pin<Box<dyn Future<Output = Result<(), NotSaved>> + Send>>,
}

/// What a run begins with.
pub(super) struct Start {
    pub(super) pid: Pid,
    pub(super) lease: LeaseId,
    pub(super) checkpoint: Checkpoint,
    pub(super) instance: Box<dyn Instance>,
    pub(super) slot: Option<Slot>,
    pub(super) inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) to_self: mpsc::UnboundedSender<Message>,
}

/// How long the end of a step is waited for that was aborted, before its lease is given back.
pub(super) const ABORT_TIME: std::time::Duration = std::time::Duration::from_secs(10);

impl Run {
    pub(super) fn new(tools: Arc<Tools>, start: Start) -> Self {
        let description = panics::caught(|| start.instance.describe()).unwrap_or_default();
        Run {
            tools,
            pid: start.pid,
            lease: start.lease,
            machine: Machine::new(Snapshot::of(&start.checkpoint)),
            checkpoint: start.checkpoint,
            instance: Some(start.instance),
            description,
            stepped: None,
            inbox: start.inbox,
            to_self: start.to_self,
            step: None,
            spare: start.slot,
            slot: None,
            wants_slot: None,
            waits: None,
            saves: None,
            requests: HashMap::new(),
            next_request: 0,
            end: None,
        }
    }

    /// Runs it until it has ended, or is not this home's any more. Then [`linger`](Self::linger).
    pub(super) async fn run(&mut self, fails: Option<Outcome>) -> RunEnd {
        if let Some(outcome) = fails {
            self.handle(Input::Fail(outcome));
        }
        // What was asked for before it began comes before its first step.
        while let Ok(message) = self.inbox.try_recv() {
            self.event(Event::Message(message));
        }
        self.handle(Input::Begin);
        // A process that waits, or is paused, has no use for it.
        self.spare = None;
        loop {
            if let Some(end) = self.end.take() {
                return end;
            }
            let event = poll_fn(|context| self.poll_event(context)).await;
            self.event(event);
        }
    }

    /// Answers requests that come after its end, until nobody can send one.
    pub(super) async fn linger(&mut self, removed: oneshot::Receiver<()>) {
        let mut removed = std::pin::pin!(removed.fuse());
        loop {
            tokio::select! {
                biased;
                Some(message) = self.inbox.recv() => self.event(Event::Message(message)),
                _ = &mut removed => return,
            }
        }
    }

    /// Gives the lease back, so that another worker can go on at once. Not while a step of it is still there that was aborted:
    /// then it is given back when that has ended.
    pub(super) async fn release(&mut self) {
        if let Some(step) = self.step.take() {
            let mut gone = step.gone;
            let limit = std::pin::pin!(self.tools.communicator.sleep(ABORT_TIME));
            if let futures_util::future::Either::Right(_) = futures_util::future::select(&mut gone, limit).await {
                crate::log::warn!(pid = %self.pid, "a step that was aborted has not ended; the lease of its process is kept until then");
                self.keep_lease();
                let (tools, lease) = (Arc::clone(&self.tools), self.lease.clone());
                self.tools.home.spawn_uncounted(async move {
                    // It is dropped with the step.
                    let _ = gone.await;
                    tools.give_back(lease.clone()).await;
                    tools.kept.lock().remove(&lease);
                });
                return;
            }
        }
        self.tools.give_back(self.lease.clone()).await;
    }

    /// Nobody is to take the lease for one that was forgotten.
    pub(super) fn keep_lease(&self) {
        self.tools.kept.lock().insert(self.lease.clone());
    }

    /// Whether a step had begun that was aborted.
    pub(super) fn was_in_step(&self) -> bool {
        self.step.is_some()
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(save) = &mut self.saves
            && let Poll::Ready(stored) = save.stored.as_mut().poll(context)
        {
            return Poll::Ready(Event::Stored(stored));
        }
        if let Some(wants) = &mut self.wants_slot
            && let Poll::Ready(slot) = wants.as_mut().poll(context)
        {
            return Poll::Ready(Event::Slot(slot));
        }
        if let Some(waits) = &mut self.waits
            && let Poll::Ready(()) = waits.as_mut().poll(context)
        {
            return Poll::Ready(Event::WaitEnded);
        }
        match self.inbox.poll_recv(context) {
            Poll::Ready(Some(message)) => Poll::Ready(Event::Message(message)),
            // The run has a sender itself.
            _ => Poll::Pending,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Stored(stored) => self.stored(stored),
            Event::Slot(slot) => {
                self.wants_slot = None;
                self.slot = Some(slot);
                self.handle(Input::SlotGiven);
            }
            Event::WaitEnded => {
                self.waits = None;
                self.handle(Input::WaitEnded(Value::Null));
            }
            Event::Message(Message::Control(message, asker)) => {
                let id = self.request(asker);
                self.handle(Input::Control(id, message));
            }
            Event::Message(Message::Resume(value, asker)) => {
                let id = self.request(Some(asker));
                self.handle(Input::Resume(id, value));
            }
            Event::Message(Message::StepReports) => self.step_reports(),
            Event::Message(Message::StepEnded(done)) => self.step_ended(done),
            Event::Message(Message::Leave) => self.handle(Input::Leave),
            Event::Message(Message::Gone) => self.handle(Input::Gone),
        }
    }

    fn request(&mut self, asker: Option<Asker>) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        if let Some(asker) = asker {
            self.requests.insert(id, asker);
        }
        id
    }

    fn handle(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            for act in self.machine.handle(input, SystemTime::now()) {
                self.carry_out(act);
            }
            // The slot that came along is here already.
            if self.wants_slot.is_some()
                && let Some(slot) = self.spare.take()
            {
                self.wants_slot = None;
                self.slot = Some(slot);
                next = Some(Input::SlotGiven);
            }
        }
    }

    fn carry_out(&mut self, act: Act) {
        match act {
            Act::WantSlot => {
                let slots = self.tools.slots.clone();
                self.wants_slot = Some(Box::pin(async move { slots.take().await }));
            }
            Act::FreeSlot => (self.slot, self.wants_slot) = (None, None),
            Act::RunStep { step, brought } => self.run_step(step, brought),
            Act::AbortStep => {
                if let Some(step) = &self.step {
                    step.abort.abort();
                }
            }
            Act::Want(wish) => {
                if let Some(step) = &self.step {
                    step.link.want(wish);
                }
            }
            Act::GoOn => {
                if let Some(step) = &self.step {
                    step.link.go_on();
                }
            }
            Act::StartWait(wait) => self.waits = Some(self.wait(wait)),
            Act::StopWait => self.waits = None,
            Act::Save(next, body) => self.save(*next, body),
            Act::Announce { from, to } => self.tools.announce(StateChange::new(&self.pid, Some(from), to)),
            Act::Answer(id, answer) => self.answer(id, answer),
            Act::End(outcome) => self.end = Some(RunEnd::Ended(*outcome)),
            Act::Left => {
                self.saves = None;
                self.end = Some(RunEnd::Left);
            }
        }
    }

    // The store.

    fn save(&mut self, next: Snapshot, body: Body) {
        let body = match (body, &self.stepped) {
            (Body::OfStep, Some(body)) => body.clone(),
            _ => self.checkpoint.body().clone(),
        };
        let checkpoint = next.into_checkpoint(&self.checkpoint, body, SystemTime::now());
        let (tools, lease, stored) = (Arc::clone(&self.tools), self.lease.clone(), checkpoint.clone());
        let stored = Box::pin(async move {
            let what = "the checkpoint of a process could not be stored";
            match tools.persistently(what, |store| store.save(lease.clone(), stored.clone())).await {
                Ok(Saved::Stored) => Ok(()),
                Ok(Saved::LeaseLost) => Err(NotSaved::LeaseLost),
                // There is no time to try it again.
                Err(error) if error.is_connection() => Err(NotSaved::LeaseLost),
                Err(error) => Err(NotSaved::Unstorable(error.to_string())),
            }
        });
        self.saves = Some(Save { checkpoint, stored });
    }

    fn stored(&mut self, stored: Result<(), NotSaved>) {
        let Some(save) = self.saves.take() else { return };
        match stored {
            Ok(()) => {
                self.checkpoint = save.checkpoint;
                self.handle(Input::Saved);
            }
            Err(why) => {
                if why == NotSaved::LeaseLost {
                    crate::log::warn!(pid = %self.pid, "the lease of a process is lost; its run ends here");
                }
                self.handle(Input::NotSaved(why));
            }
        }
    }

    // Steps.

    fn run_step(&mut self, step: u64, brought: Value) {
        let Some(mut instance) = self.instance.take() else { return };
        let link = Arc::new(Link::default());
        let to_process = {
            let to_self = self.to_self.clone();
            Arc::new(move || drop(to_self.send(Message::StepReports)))
        };
        let mut context = StepContext {
            link: Arc::clone(&link),
            to_process,
            tools: Arc::clone(&self.tools),
            pid: self.pid.clone(),
            lease: self.lease.clone(),
            step,
            brought,
            children: 0,
            seen: 0,
        };
        let run = async move {
            let stepped = AssertUnwindSafe(async { instance.step(&mut context).await }).catch_unwind().await;
            match stepped {
                Ok(Ok(next)) => match panics::caught(|| instance.body().map(|body| (body, instance.describe()))) {
                    Ok(Ok((body, description))) => {
                        StepDone { end: StepEnd::Next(next), left: Some((instance, body, description)) }
                    }
                    Ok(Err(error)) => StepDone::failed(instance, failed("CheckpointError", error.to_string())),
                    Err(panic) => StepDone::failed(instance, failed("Panic", panic)),
                },
                Ok(Err(error)) => StepDone::failed(instance, excepted(&error)),
                Err(panic) => StepDone::failed(instance, failed("Panic", panics::text(panic))),
            }
        };
        let (abort, registration) = AbortHandle::new_pair();
        let (goes, gone) = oneshot::channel();
        let to_self = self.to_self.clone();
        // In a task of its own: one that blocks its thread does not keep its process from answering.
        self.tools.home.spawn_uncounted(async move {
            let _goes: oneshot::Sender<()> = goes;
            if let Ok(done) = Abortable::new(run, registration).await {
                drop(to_self.send(Message::StepEnded(done)));
            }
        });
        self.step = Some(StepInHand { link, abort, gone });
    }

    fn step_reports(&mut self) {
        let Some(step) = &self.step else { return };
        let reports = step.link.take_reports();
        if let Some(text) = reports.status {
            self.handle(Input::StatusText(text));
        }
        if reports.stands_still {
            self.handle(Input::StepHeld);
        }
    }

    fn step_ended(&mut self, done: StepDone) {
        let Some(step) = self.step.take() else { return };
        let status = step.link.take_reports().status;
        if let Some((instance, body, description)) = done.left {
            self.instance = Some(instance);
            self.stepped = Some(body);
            self.description = description;
        }
        self.handle(Input::StepEnded { end: done.end, status });
    }

    fn wait(&self, wait: Wait) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let tools = Arc::clone(&self.tools);
        match wait {
            Wait::Until(time) => Box::pin(async move {
                // In pieces, for the clock may be set meanwhile.
                while let Ok(left) = time.duration_since(SystemTime::now())
                    && !left.is_zero()
                {
                    tools.notified_within(std::future::pending(), left.min(super::tools::LOOK_MOST)).await;
                }
            }),
            Wait::Children(pids) => Box::pin(tools.all_ended(pids)),
            Wait::ForResume(_) => Box::pin(std::future::pending()),
        }
    }

    // Answers.

    fn answer(&mut self, id: RequestId, answer: ControlAnswer) {
        let Some(asker) = self.requests.remove(&id) else { return };
        let answer = match answer {
            ControlAnswer::Done => Ok(true.into()),
            ControlAnswer::Refused => Ok(false.into()),
            ControlAnswer::Cancelled => Err(Failure::Cancelled.into()),
            ControlAnswer::Moved => Err(moved(&self.pid)),
            ControlAnswer::Status { state, paused } => Ok(self.status(state, paused)),
        };
        drop(asker.send(answer));
    }

    /// As plumpy writes it.
    fn status(&self, state: ProcessState, paused: bool) -> Value {
        let state = format!("ProcessState.{}", state.as_str().to_uppercase());
        let description = match &self.description {
            description if description.is_empty() => format!("<{}> ({state})", self.checkpoint.class()),
            description => description.clone(),
        };
        let created = self.checkpoint.created().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut fields = Map::new();
        fields.insert("ctime", created.as_secs_f64());
        fields.insert("paused", paused);
        fields.insert("process_string", description);
        fields.insert("state", state);
        Value::Map(fields)
    }
}

/// The answer of a process that is not run here any more.
pub(super) fn moved(pid: &Pid) -> HandlerError {
    let text = format!("process {pid} is not run by this worker any more; ask again when another worker has it");
    HandlerError::exception(text).with_type("ProcessMoved")
}

enum Event {
    Stored(Result<(), NotSaved>),
    Slot(Slot),
    WaitEnded,
    Message(Message),
}

impl StepDone {
    fn failed(instance: Box<dyn Instance>, outcome: Outcome) -> Self {
        // What a failed step has left may panic as it goes.
        if let Err(panic) = panics::caught(|| drop(instance)) {
            crate::log::warn!(%panic, "a process panicked as it was dropped");
        }
        StepDone { end: StepEnd::Failed(outcome), left: None }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Guards: a home that ends. A step that is still there would go on without its process.
        if let Some(step) = &self.step {
            step.abort.abort();
        }
    }
}
