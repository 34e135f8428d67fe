//! Takes the tasks that make and run processes, and knows what runs here.

mod host;
mod rpc;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::home::lock::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::availability::{Availability, Standing};
use super::class::{Class, Registry};
use super::run::{ABORT_TIME, Message, RunEnd, moved};
use super::slots::{Slot, Slots};
use super::store::{Inputs, LeaseId, NewProcess, Outcome, Owner, Persister};
use super::tools::{Announcer, ChangeListener, Ends, NotStored, Store, Tools};
use super::{Continue, ControlBroadcast, ControlMessage, Pid, ProcessState, ProcessTask, StateChange};
use crate::codec::Map;
use crate::error::{Error, ErrorKind, Result};
use crate::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, Failure, HandlerError, HandlerResult,
    Identifier, TaskQueue, TaskRequest, TaskSubscriber, Value,
};

/// How long the answer to a task without waiting is put off until the process can be called.
const REACHABLE_WITHIN: Duration = Duration::from_secs(2);

/// How long processes whose steps were aborted may take to leave: until a step has ended, and then until the store has their leases.
const LEAVE_TIME: Duration = ABORT_TIME.saturating_add(Duration::from_secs(5));

/// So many unknown classes are reported.
const MANY_UNKNOWN: usize = 100;

/// The subjects of requests to all processes.
const TO_ALL: &str = r"(pause|play|kill)$";

/// The subjects of changes into a terminal state.
const ENDS: &str = r"state_changed\.\w+\.(finished|excepted|killed)$";

/// Makes and runs processes as tasks ask for it: `create`, `launch` and `continue`, as plumpy's `ProcessLauncher` does.
///
/// Processes run on the home that the launcher is started on, under leases of its store; no process runs here twice. All of them
/// are stored, whatever a task wants. Cheap to clone. When the last clone is dropped, processes leave after the step that they
/// are in, and stay in the store.
///
/// [`ProcessWorker`](super::ProcessWorker) is a launcher that pulls its tasks. This one takes those that it is handed:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// # use homing::process::{Inputs, Next, Process, StepContext};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Relax;
/// # impl Process for Relax {
/// #     fn new(_: Inputs) -> homing::HandlerResult<Self> { Ok(Relax) }
/// #     async fn step(&mut self, _: &mut StepContext) -> homing::HandlerResult<Next> { Ok(Next::finish("relaxed")) }
/// # }
/// use homing::process::store::MemoryPersister;
/// use homing::process::{ProcessController, ProcessLauncher, Registry};
///
/// let communicator = homing::Communicator::connect("memory:").await?;
/// let registry = Registry::new().register::<Relax>("jobs:Relax")?;
/// let launcher = ProcessLauncher::builder(&communicator, MemoryPersister::new(), registry).start().await?;
/// communicator.add_task_subscriber(launcher.subscriber()).await?;
///
/// let outputs = ProcessController::new(&communicator).launch("jobs:Relax").await?;
/// assert_eq!(outputs.as_str(), Some("relaxed"));
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone)]
pub struct ProcessLauncher {
    pub(super) inner: Arc<Inner>,
    _alive: Arc<Alive>,
}

/// The options of a launcher. See [`ProcessLauncher::builder`].
#[must_use = "nothing runs until it is started"]
pub struct LauncherBuilder {
    pub(super) communicator: Communicator,
    store: Arc<dyn Persister>,
    registry: Registry,
    slots: usize,
    pub(super) queue: Option<TaskQueue>,
    listeners: Vec<ChangeListener>,
}

/// With the last of these, processes leave.
struct Alive(Arc<Inner>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.leave();
    }
}

pub(super) struct Inner {
    pub(super) tools: Arc<Tools>,
    table: Mutex<Table>,
    /// Classes that tasks have asked for, and that the registry does not have.
    unknown: Mutex<HashSet<String>>,
    /// Notified whenever a process has left the table.
    left: Notify,
    /// True once the background work is to stop.
    stops: watch::Sender<bool>,
    /// True once nothing here waits for the store any more.
    over: watch::Sender<bool>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Pid, Entry>,
    /// No process comes in any more.
    leaving: bool,
    /// Of the last entry.
    number: u64,
}

/// A process that runs here, or is about to.
struct Entry {
    number: u64,
    to_run: mpsc::UnboundedSender<Message>,
    end: watch::Receiver<Option<RunEnd>>,
    /// True once it can be called.
    reachable: watch::Receiver<bool>,
    /// What it runs under, and since when; `None` while it is waited for.
    lease: Option<(LeaseId, Instant)>,
}

/// A run, for whoever waits for its end.
pub(super) struct Running {
    end: watch::Receiver<Option<RunEnd>>,
    reachable: watch::Receiver<bool>,
}

/// What comes of a task that is not answered with a value.
pub(super) enum NotDone {
    /// It goes back to its queue: another worker is to do it.
    Back,
    /// The store of this worker does not have the process.
    NotHere,
    Failed(HandlerError),
}

/// What is known of the sender of a task.
#[derive(Debug, Default)]
pub(super) struct Sender {
    message_id: Option<String>,
    /// Nobody waits for an answer.
    is_gone: bool,
}

impl Sender {
    pub(super) fn of(request: &TaskRequest) -> Self {
        Sender { message_id: request.message_id().map(str::to_owned), is_gone: request.is_no_reply() }
    }

    /// What comes of a task for a process that the store of this worker does not have. A sender that waits gets the error at once,
    /// as from plumpy.
    ///
    /// Guards: a job that is lost because a worker of another store took its task. Where nobody would receive the error, the task
    /// goes back for other workers, and in the end to quarantine.
    fn not_here(&self, pid: &Pid) -> HandlerError {
        let text = format!("there is no process {pid} in the store of this worker");
        let error = if self.is_gone { Failure::TryAgain(text).into() } else { HandlerError::exception(text) };
        error.with_type("NotFound")
    }
}

impl From<HandlerError> for NotDone {
    fn from(error: HandlerError) -> Self {
        NotDone::Failed(error)
    }
}

impl From<crate::Error> for NotDone {
    fn from(error: crate::Error) -> Self {
        // The launcher is at its end, and the task is not.
        if error.is_connection() || error.kind() == ErrorKind::HomeEnded {
            NotDone::Back
        } else {
            NotDone::Failed(error.into())
        }
    }
}

impl From<NotStored> for NotDone {
    fn from(why: NotStored) -> Self {
        match why {
            NotStored::Unavailable => NotDone::Back,
            NotStored::Failed(error) => error.into(),
        }
    }
}

impl LauncherBuilder {
    /// How many steps may run at once. Default: as many as there are. A process that waits or is paused needs none.
    pub fn slots(mut self, slots: usize) -> Self {
        self.slots = slots.max(1);
        self
    }

    /// The queue that the tasks of children go to. Default: the communicator's.
    pub fn queue(mut self, queue: TaskQueue) -> Self {
        self.queue = Some(queue);
        self
    }

    /// Calls this for each change of state of a process here, when it is stored and before anybody else is notified. It should
    /// return soon. May be given several times.
    pub fn on_change(mut self, listener: impl Fn(&StateChange) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }

    /// Starts it, on the home of the communicator's handle or else the current one.
    ///
    /// # Errors
    /// `ConnectionLost`; `CommunicatorClosed`; `HomeEnded`.
    ///
    /// # Cancel safety
    /// Dropped, nothing is started.
    pub async fn start(self) -> Result<ProcessLauncher> {
        let home = self.communicator.home();
        let communicator = self.communicator.bound_to(&home);
        let queue = self.queue.map_or_else(|| communicator.default_task_queue(), Ok)?;
        let (announcer, announcing) = Announcer::new(communicator.clone());
        let tools = Tools {
            communicator: communicator.clone(),
            home: home.clone(),
            store: Store::new(self.store, communicator.clone()),
            availability: Availability::new(),
            registry: self.registry,
            queue,
            owner: Owner::this_process(),
            slots: Slots::new(self.slots),
            kept: Mutex::default(),
            ends: Ends::default(),
            announcer,
            listeners: self.listeners,
        };
        let inner = Arc::new(Inner {
            tools: Arc::new(tools),
            table: Mutex::default(),
            unknown: Mutex::default(),
            left: Notify::new(),
            stops: watch::Sender::new(false),
            over: watch::Sender::new(false),
        });
        let launcher = ProcessLauncher { inner: Arc::clone(&inner), _alive: Arc::new(Alive(Arc::clone(&inner))) };
        // Guards: a start that fails or is given up between the two. With the launcher, what has been subscribed goes.
        let to_all = inner.subscribe_to_all().await?;
        home.spawn_uncounted(Arc::clone(&inner).unsubscribe_at_the_end(to_all));
        let ends = inner.subscribe_to_ends().await?;
        home.spawn_uncounted(Arc::clone(&inner).unsubscribe_at_the_end(ends));
        home.spawn_uncounted(announcing);
        home.spawn_uncounted(Arc::clone(&inner).renew_leases());
        home.spawn_uncounted(watch_store(Checks(inner)));
        Ok(launcher)
    }
}

impl ProcessLauncher {
    /// One that runs the classes of a registry, and keeps their processes in a store.
    pub fn builder(communicator: &Communicator, store: impl Persister, registry: Registry) -> LauncherBuilder {
        LauncherBuilder {
            communicator: communicator.clone(),
            store: Arc::new(store),
            registry,
            slots: usize::MAX,
            queue: None,
            listeners: Vec::new(),
        }
    }

    /// A subscriber to tasks that hands them to this launcher. It takes as many as its prefetch allows, whether there are slots
    /// or not.
    #[must_use]
    pub fn subscriber(&self) -> TaskSubscriber {
        let launcher = self.clone();
        TaskSubscriber::future(move |request: TaskRequest| {
            let launcher = launcher.clone();
            async move {
                let task = read_task(request.body())?;
                let performed = launcher.inner.perform(task, Sender::of(&request), None);
                HandlerResult::Ok(later(performed))
            }
        })
    }

    /// Does what a task asks for, and returns what its sender is answered: the outputs, or the pid.
    ///
    /// # Errors
    /// What the sender is answered; `Cancelled` when the task is to go back, for another worker to do it: the store cannot be used,
    /// the launcher has left, or the home that it was started on has ended.
    ///
    /// # Cancel safety
    /// Dropped, a process that has been made or begun goes on.
    pub async fn handle(&self, task: ProcessTask) -> HandlerResult<Value> {
        answered(self.inner.perform(task, Sender::default(), None).await)
    }

    /// Resumes a process that waits for it ([`Next::wait_for_resume`](super::Next::wait_for_resume)) with a value. False if it
    /// does not wait.
    ///
    /// # Errors
    /// When the process does not run here.
    ///
    /// # Cancel safety
    /// Dropped, it is resumed all the same.
    pub async fn resume(&self, pid: &Pid, value: impl Into<Value>) -> HandlerResult<bool> {
        let (asker, answer) = oneshot::channel();
        let message = Message::Resume(value.into(), asker);
        // Sent, and dropped where it cannot be, without the lock.
        let to_run = self.inner.table.lock().entries.get(pid).map(|entry| entry.to_run.clone());
        if to_run.is_none_or(|to_run| to_run.send(message).is_err()) {
            return Err(moved(pid));
        }
        let answer = answer.await.map_err(|_| moved(pid))??;
        Ok(answer.as_bool() == Some(true))
    }

    /// The processes that run here, or wait here for another worker's lease to end.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        self.inner.table.lock().entries.keys().cloned().collect()
    }

    /// Why the store cannot be used, as long as it cannot. Meanwhile tasks go back to their queue, and processes that are here
    /// wait with what is to be stored; it is tried again with a pause that grows to 30 seconds.
    ///
    /// ```
    /// # fn show(launcher: &homing::process::ProcessLauncher) {
    /// if let Some(error) = launcher.store_failure() {
    ///     eprintln!("no process is taken: {error}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn store_failure(&self) -> Option<Error> {
        self.inner.tools.availability.failure()
    }

    /// The owner of its leases.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.inner.tools.owner
    }

    /// Takes no further process, and has those that are here leave when the step that they are in has ended. Resolves when all
    /// have left; after `limit`, or as soon as the communicator has closed, the steps that still run are aborted, and run again
    /// at another worker. What has not ended stays in the store, and its task goes back to the queue. Steps that do not end when
    /// they are aborted, and a store that does not answer, are left behind 15 seconds later.
    ///
    /// # Cancel safety
    /// Dropped, processes leave all the same; no step is aborted.
    pub async fn drain(&self, limit: Duration) {
        self.inner.drain(limit).await;
    }
}

impl fmt::Debug for ProcessLauncher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.inner.table.lock();
        f.debug_struct("ProcessLauncher").field("processes", &table.entries.len()).finish_non_exhaustive()
    }
}

/// A task's body; one of another kind is for another subscriber.
pub(super) fn read_task(body: &Value) -> HandlerResult<ProcessTask> {
    ProcessTask::try_from(body).map_err(|error| {
        let is_ours = matches!(body.get("task").and_then(Value::as_str), Some("launch" | "create" | "continue"));
        let text = error.to_string();
        if is_ours { HandlerError::exception(text) } else { Failure::Rejected(text).into() }
    })
}

fn answered(performed: std::result::Result<Value, NotDone>) -> HandlerResult<Value> {
    performed.map_err(|not_done| match not_done {
        // `perform` has made an error of the second.
        NotDone::Back | NotDone::NotHere => Failure::Cancelled.into(),
        NotDone::Failed(error) => error,
    })
}

/// The answer of a task. Its sender gets one `pending` first, no more and no less: so it knows that the task is in good hands,
/// and plumpy's coroutine controller is content with nothing else.
pub(super) fn later(performed: impl Future<Output = std::result::Result<Value, NotDone>> + Send + 'static) -> Answer {
    Answer::later(async move { answered(performed.await) })
}

impl Inner {
    /// Does what a task asks for. The slot is for the first step of a process that begins by it.
    pub(super) fn perform(
        self: &Arc<Self>,
        task: ProcessTask,
        sender: Sender,
        slot: Option<Slot>,
    ) -> impl Future<Output = std::result::Result<Value, NotDone>> + Send + use<> {
        let inner = Arc::clone(self);
        async move {
            // Before a class is made, whose constructor is the user's.
            inner.tools.until_usable().await?;
            let (pid, nowait) = match task {
                ProcessTask::Create(create) => {
                    let pid =
                        inner.create(create.class(), inputs(create.args(), create.kwargs()), sender.message_id).await?;
                    return Ok(pid.into());
                }
                ProcessTask::Launch(launch) => {
                    let inputs = inputs(launch.args(), launch.kwargs());
                    (inner.create(launch.class(), inputs, sender.message_id.clone()).await?, launch.is_nowait())
                }
                ProcessTask::Continue(request) => {
                    if let Some(tag) = request.tag() {
                        let shown: String = tag.chars().take(40).collect();
                        let text = format!("there is no checkpoint with the tag {shown:?}: the newest alone is kept");
                        return Err(HandlerError::exception(text).into());
                    }
                    // Guards: a task of its own for a process that is not here.
                    if request.is_nowait() && !inner.is_stored(request.pid()).await? {
                        return Err(sender.not_here(request.pid()).into());
                    }
                    (request.pid().clone(), request.is_nowait())
                }
            };
            let running = inner.begin(&pid, slot)?;
            let done = if nowait { inner.keep_going(&pid, running).await } else { inner.outcome(running).await };
            match done {
                Err(NotDone::NotHere) => Err(sender.not_here(&pid).into()),
                done => done,
            }
        }
    }

    async fn is_stored(&self, pid: &Pid) -> std::result::Result<bool, NotDone> {
        let what = "a process could not be looked up";
        Ok(self.tools.for_a_task(what, |store| store.record(pid.clone())).await?.is_some())
    }

    /// A class of the registry.
    ///
    /// # Errors
    /// `Rejected` for one that it does not have: the task is for another worker. The log has it once.
    fn class(&self, name: &str) -> HandlerResult<&Class> {
        self.tools.registry.class(name).map_err(|error| {
            let is_new = {
                let mut unknown = self.unknown.lock();
                unknown.len() < MANY_UNKNOWN && unknown.insert(name.to_owned())
            };
            if is_new {
                crate::log::warn!(
                    %error,
                    "a task goes back to its queue for a worker that knows its class, and waits there until one takes it"
                );
            }
            Failure::Rejected(error.to_string()).into()
        })
    }

    /// Makes and stores a process.
    async fn create(&self, class: &str, inputs: Inputs, task: Option<String>) -> std::result::Result<Pid, NotDone> {
        let tools = &self.tools;
        let known = self.class(class)?;
        let (inputs, pid) = take_pid(inputs)?;
        let body = known.make(inputs.clone())?;
        let mut new = NewProcess::new(class, body).with_inputs(inputs);
        if let Some(pid) = pid {
            new = new.with_pid(pid);
        }
        if let Some(task) = task {
            new = new.made_by_task(task);
        }
        let pid = tools.for_a_task("a process could not be stored", |store| store.create(new.clone())).await?;
        tools.announce(StateChange::new(&pid, None, ProcessState::Created));
        Ok(pid)
    }

    /// Answers with the pid as soon as the process is in good hands: a task of its own keeps it going if this worker dies.
    async fn keep_going(&self, pid: &Pid, mut running: Running) -> std::result::Result<Value, NotDone> {
        match &*running.end.borrow() {
            Some(RunEnd::Failed(error)) => return Err(error.clone().into()),
            Some(RunEnd::NotHere) => return Err(NotDone::NotHere),
            _ => {}
        }
        self.tools.queue.task_send(Value::from(Continue::new(pid))).no_reply().await?;
        let reachable = async {
            tokio::select! {
                _ = running.reachable.wait_for(|is_reachable| *is_reachable) => {}
                _ = running.end.wait_for(Option::is_some) => {}
            }
        };
        self.tools.notified_within(reachable, REACHABLE_WITHIN).await;
        match &*running.end.borrow() {
            Some(RunEnd::Failed(error)) => Err(error.clone().into()),
            Some(RunEnd::NotHere) => Err(NotDone::NotHere),
            _ => Ok(pid.into()),
        }
    }

    async fn outcome(&self, mut running: Running) -> std::result::Result<Value, NotDone> {
        let end = match running.end.wait_for(Option::is_some).await {
            Ok(end) => end.clone(),
            // Its home has ended.
            Err(_) => None,
        };
        match end {
            Some(RunEnd::Ended(Outcome::Finished { outputs, .. })) => Ok(outputs),
            Some(RunEnd::Ended(Outcome::Excepted { type_name, message, .. })) => {
                // It is an end like others, which its change of state has announced.
                Err(HandlerError::exception(message).with_type(type_name).without_warning().into())
            }
            // As plumpy's `KilledError` has it: the message alone.
            Some(RunEnd::Ended(Outcome::Killed { message })) => {
                let error = HandlerError::exception(message.unwrap_or_default()).with_type("KilledError");
                Err(error.without_warning().into())
            }
            Some(RunEnd::Failed(error)) => Err(error.into()),
            Some(RunEnd::NotHere) => Err(NotDone::NotHere),
            Some(RunEnd::Left) | None => Err(NotDone::Back),
        }
    }

    /// How many leases there are here.
    #[cfg(test)]
    pub(super) fn leases(&self) -> usize {
        self.table.lock().entries.values().filter(|entry| entry.lease.is_some()).count()
    }

    /// How many processes are here.
    pub(super) fn count(&self) -> usize {
        self.table.lock().entries.len()
    }

    /// Resolves when fewer than this many are here.
    pub(super) async fn until_fewer(&self, than: usize) {
        loop {
            let notified = self.left.notified();
            if self.count() < than {
                return;
            }
            notified.await;
        }
    }

    /// Has all processes leave, and takes no other.
    fn leave(&self) {
        self.table.lock().leaving = true;
        self.send_to_all(|| Message::Leave);
        if self.count() == 0 {
            self.stops.send_replace(true);
        }
    }

    /// Sends this to all that are here.
    ///
    /// Guards: the hook of a loop, which is the user's and rings as a message is sent. It may ask the launcher something.
    fn send_to_all(&self, message: impl Fn() -> Message) {
        let all: Vec<_> = self.table.lock().entries.values().map(|entry| entry.to_run.clone()).collect();
        for to_run in all {
            drop(to_run.send(message()));
        }
    }

    pub(super) async fn drain(&self, limit: Duration) {
        self.leave();
        // Guards: a communicator that has closed, by whose clock no limit ends. Its tasks are back in their queue.
        self.tools.notified_while_open(self.until_fewer(1), limit).await;
        self.send_to_all(|| Message::Gone);
        // Guards: a store that does not answer, for a claim or as a lease is given back.
        if !self.tools.within(LEAVE_TIME, self.until_fewer(1)).await {
            crate::log::warn!(
                processes = self.count(),
                "processes leave without an answer of their store; others have them when their leases have run out"
            );
            self.over.send_replace(true);
            self.until_fewer(1).await;
        }
        self.stops.send_replace(true);
    }

    /// What waits for the store, unless all is over before.
    async fn unless_over<T>(&self, waits: impl Future<Output = T>) -> Option<T> {
        let mut over = self.over.subscribe();
        tokio::select! {
            biased;
            done = waits => Some(done),
            _ = over.wait_for(|over| *over) => None,
        }
    }

    /// Requests to all processes come in once, for all that are here.
    async fn subscribe_to_all(self: &Arc<Self>) -> Result<Identifier> {
        let inner = Arc::downgrade(self);
        let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
            let (Some(inner), Some(request)) = (inner.upgrade(), ControlBroadcast::from_broadcast(&broadcast)) else {
                return;
            };
            let message = match request {
                ControlBroadcast::Pause(pause) => ControlMessage::Pause(pause),
                ControlBroadcast::Play(play) => ControlMessage::Play(play),
                // In order, whether it is forced or not: as plumpy's processes take it.
                ControlBroadcast::Kill(kill) => {
                    let gentle = super::Kill::new();
                    ControlMessage::Kill(match kill.message() {
                        Some(message) => gentle.with_message(message),
                        None => gentle,
                    })
                }
            };
            // One whose lease is asked for takes it when it has that. If it runs elsewhere, it gets the broadcast there.
            inner.send_to_all(|| Message::Control(message.clone(), None));
        });
        let filter = BroadcastFilter::new().subject_regex(TO_ALL)?;
        self.tools.communicator.add_broadcast_subscriber(filter, subscriber).await
    }

    /// Ends of processes elsewhere, for those that wait for them here.
    async fn subscribe_to_ends(self: &Arc<Self>) -> Result<Identifier> {
        let inner = Arc::downgrade(self);
        let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
            if let (Some(inner), Ok(pid)) = (inner.upgrade(), Pid::try_from(broadcast.sender())) {
                inner.tools.ends.notify(&pid);
            }
        });
        let filter = BroadcastFilter::new().subject_regex(ENDS)?;
        self.tools.communicator.add_broadcast_subscriber(filter, subscriber).await
    }

    async fn unsubscribe_at_the_end(self: Arc<Self>, subscriber: Identifier) {
        let _ = self.stops.subscribe().wait_for(|stops| *stops).await;
        if let Err(error) = self.tools.communicator.remove_broadcast_subscriber(&subscriber).await {
            crate::log::debug!(%error, "a subscriber of a launcher is gone already");
        }
    }

    /// Renews the leases of what runs here, and ends what has lost its own.
    async fn renew_leases(self: Arc<Self>) {
        let time = self.tools.store.lease_time();
        let mut good_until = Instant::now() + time;
        let mut stops = self.stops.subscribe();
        loop {
            let stopped = async { drop(stops.wait_for(|stops| *stops).await) };
            self.tools.notified_within(stopped, time / 3).await;
            if *self.stops.borrow() {
                return;
            }
            let begun = Instant::now();
            // A store that cannot be written may still tell which leases stand.
            if self.count() > 0 {
                self.tools.availability.have_it_checked();
            }
            // Guards: a store that does not answer while others claim what runs here.
            let left = if begun < good_until { good_until - begun } else { time / 3 };
            match self.tools.store.ask_within(left, |store| store.renew(self.tools.owner.clone())).await {
                Ok(standing) => {
                    good_until = begun + time;
                    self.end_all_but(&standing, begun);
                }
                Err(error) => {
                    if Instant::now() >= good_until {
                        // Guards: another worker that has claimed them by now, and that this one cannot know of.
                        self.end_all_but(&[], begun);
                    }
                    let mut is_known = false;
                    let doubted = async { is_known = self.tools.availability.doubt().await == Standing::Fails };
                    self.tools.within(time / 3, doubted).await;
                    if is_known {
                        crate::log::debug!(%error, "the leases of the processes here could not be renewed");
                    } else {
                        crate::log::warn!(%error, "the leases of the processes here could not be renewed");
                    }
                }
            }
        }
    }

    /// Ends the runs whose leases do not stand. Those are left alone that have had theirs since this time.
    fn end_all_but(&self, standing: &[LeaseId], begun: Instant) {
        let standing: HashSet<&LeaseId> = standing.iter().collect();
        let lost = |entry: &Entry| match &entry.lease {
            Some((lease, since)) => *since < begun && !standing.contains(lease) && entry.end.borrow().is_none(),
            None => false,
        };
        let all_lost: Vec<_> = {
            let table = self.table.lock();
            let lost = table.entries.iter().filter(|(_, entry)| lost(entry));
            lost.map(|(pid, entry)| (pid.clone(), entry.to_run.clone())).collect()
        };
        for (pid, to_run) in all_lost {
            crate::log::warn!(%pid, "the lease of a process is lost; its run ends here");
            drop(to_run.send(Message::Gone));
        }
    }
}

/// That the store is checked where it is in doubt. Dropped, it is not any more.
struct Checks(Arc<Inner>);

impl Drop for Checks {
    fn drop(&mut self) {
        self.0.tools.availability.end();
    }
}

async fn watch_store(checks: Checks) {
    let mut stops = checks.0.stops.subscribe();
    tokio::select! {
        () = checks.0.tools.watch_store() => {}
        _ = stops.wait_for(|stops| *stops) => {}
    }
}

fn inputs(args: &[Value], kwargs: Option<&Map>) -> Inputs {
    Inputs::from_parts(args.to_vec(), kwargs.cloned().unwrap_or_default())
}

/// The keyword argument `pid` is not the class's: it is the pid that the process is to have.
fn take_pid(inputs: Inputs) -> HandlerResult<(Inputs, Option<Pid>)> {
    let (args, mut kwargs) = inputs.into_parts();
    let pid = match kwargs.remove("pid") {
        None | Some(Value::Null) => None,
        Some(pid) => Some(Pid::try_from(&pid)?),
    };
    Ok((Inputs::from_parts(args, kwargs), pid))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::super::store::MemoryPersister;
    use super::*;

    /// What a process's home does when a message comes: for a loop it calls the hook, which is the user's.
    struct Looks {
        inner: Arc<Inner>,
        rung: AtomicU32,
        locked: AtomicU32,
    }

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            self.rung.fetch_add(1, Ordering::Relaxed);
            self.locked.fetch_add(self.inner.table.is_locked().into(), Ordering::Relaxed);
        }
    }

    /// Guards: a hook that asks the launcher something, and waits for a lock that its own thread has.
    #[tokio::test]
    async fn processes_are_notified_without_the_lock_of_the_table() {
        let communicator = Communicator::connect("memory:").await.expect("it connects");
        let builder = ProcessLauncher::builder(&communicator, MemoryPersister::new(), Registry::new());
        let launcher = builder.start().await.expect("it starts");
        let inner = Arc::clone(&launcher.inner);
        let pid = Pid::new("p").expect("a pid");
        let (to_run, mut inbox) = mpsc::unbounded_channel();
        let (_ends, end) = watch::channel(None);
        let (_reaches, reachable) = watch::channel(true);
        let lease = Some((LeaseId::new(pid.clone(), 1), Instant::now()));
        inner.table.lock().entries.insert(pid.clone(), Entry { number: 1, to_run, end, reachable, lease });
        let looks =
            Arc::new(Looks { inner: Arc::clone(&inner), rung: AtomicU32::default(), locked: AtomicU32::default() });
        let waker = Waker::from(Arc::clone(&looks));
        let mut awaits_next = || while inbox.poll_recv(&mut Context::from_waker(&waker)).is_ready() {};
        awaits_next();
        inner.end_all_but(&[], Instant::now() + Duration::from_secs(1));
        awaits_next();
        let mut resumes = Box::pin(launcher.resume(&pid, 1));
        assert!(futures_util::FutureExt::now_or_never(&mut resumes).is_none());
        awaits_next();
        inner.leave();
        assert_eq!((looks.rung.load(Ordering::Relaxed), looks.locked.load(Ordering::Relaxed)), (3, 0));
        drop(resumes);
        inner.table.lock().entries.clear();
        communicator.close().await.expect("it closes");
    }
}
