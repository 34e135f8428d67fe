//! `homing task work`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use homing::{
    Answer, Attempt, ChannelCause, Communicator, ConnectionEvent, Failure as Refusal, HandlerError, Identifier,
    LongTasks, TaskQueue, TaskRequest, TaskSubscriber,
};

use super::outcome::{Outcome, Subject};
use super::start::Start;
use super::{Crew, End, Kept, enough, signalled};
use crate::args::{Global, OnFailure, Work};
use crate::connection::{News, Watched, begin_to_stay, close, may_come, options};
use crate::exec::Ended;
use crate::failure::Failure;
use crate::presence::{self, Role};
use crate::stop::Stop;
use crate::{not_given, note, values, warning};

/// The pause before a second attempt; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long the broker may take to end a subscription.
const UNSUBSCRIBING: Duration = Duration::from_secs(5);
/// How long tasks are waited for that the broker took back when they were done. A broker that starts again may take a minute.
const COMING_BACK: Duration = Duration::from_secs(120);
/// How long tasks may take on their way to quarantine.
const QUARANTINING: Duration = Duration::from_secs(5);
/// How many ids are remembered of each kind.
const REMEMBERED: usize = 10_000;

pub(crate) async fn run(command: Work, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let crew = Arc::new(Crew::new(command.handler, command.timeout).await?);
    let attempts = NonZeroU32::MIN.saturating_add(command.retries);
    let mut options = options(global)?.task_attempts(attempts, FIRST_PAUSE);
    if command.long_tasks {
        options = options.long_tasks(LongTasks::new());
    }
    let most = command.count.map(u64::from);
    let start = Start::new();
    let begin = async |communicator: &Communicator| {
        let worker = Arc::new(Worker {
            crew: Arc::clone(&crew),
            most,
            retries: command.retries,
            on_failure: command.on_failure,
            queue: communicator.default_task_queue()?,
            prefetch: command.prefetch,
            memory: Mutex::default(),
        });
        let role = Role { kind: "task", name: worker.queue.name().to_owned(), store: None };
        presence::announce(communicator, role).await;
        let watched = Watched::new(communicator);
        let subscriber = {
            let worker = Arc::clone(&worker);
            TaskSubscriber::future(move |task| Arc::clone(&worker).handle(task)).with_prefetch(command.prefetch)
        };
        let _now = start.subscribing();
        let identifier = worker.queue.add_task_subscriber(subscriber).await?;
        Ok((worker, watched, identifier))
    };
    let starting = begin_to_stay(global, options, begin);
    let (communicator, (worker, mut watched, identifier)) = match start.unless_signalled(&mut stop, starting).await {
        Ok(started) => started,
        Err(failure) => {
            crew.stop().await;
            return Err(failure);
        }
    };
    not_given::note(&global.broker);
    note!("working on tasks of {:?} until Ctrl-C", worker.queue.name());
    let mut state = worker.crew.watch();
    let end = loop {
        tokio::select! {
            end = signalled(&mut stop) => break end,
            end = enough(&mut state, most) => break end,
            (event, news) = watched.next() => {
                if let News::Ended(failure) = news {
                    break End::Lost(failure);
                }
                worker.note_event(event, command.long_tasks);
            }
        }
    };
    let ended = worker.end(end, &identifier, &communicator, watched, stop, command.drain).await;
    if ended.is_ok() {
        worker.until_quarantined(&communicator).await;
    }
    let closed = close(&communicator).await;
    ended.and(worker.crew.verdict()).and(closed)
}

struct Worker {
    crew: Arc<Crew>,
    most: Option<u64>,
    retries: u32,
    on_failure: OnFailure,
    queue: TaskQueue,
    prefetch: std::num::NonZeroU16,
    memory: Mutex<Memory>,
}

/// What is remembered of tasks, by message id.
#[derive(Default)]
struct Memory {
    /// How often a task was tried here. The broker does not count what goes back to it.
    tries: HashMap<String, u32>,
    /// The last that ended here.
    ended: VecDeque<String>,
    /// Those that the broker took back while they ran.
    away: HashSet<String>,
    /// How many are on their way to quarantine, or there.
    quarantined: u64,
}

impl Memory {
    /// The number of this attempt: what the library knows, or what was counted here.
    fn attempt(&mut self, task: &TaskRequest) -> u32 {
        let (Attempt::Exactly(known) | Attempt::AtLeast(known)) = task.attempt();
        let Some(id) = task.message_id() else { return known };
        if self.tries.len() >= REMEMBERED {
            self.tries.clear();
        }
        let tries = self.tries.entry(id.to_owned()).or_default();
        *tries = known.max(*tries + 1);
        *tries
    }

    fn ends(&mut self, task: &TaskRequest) {
        let Some(id) = task.message_id() else { return };
        self.tries.remove(id);
        if self.ended.len() >= REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(id.to_owned());
    }

    /// How many tasks ended here that the broker had taken back, and hands out again.
    fn owed(&self) -> u64 {
        self.ended.iter().filter(|id| self.away.contains(*id)).count() as u64
    }
}

/// What becomes of a task.
struct Settled {
    ended: Ended,
    outcome: Outcome,
    kept: Kept,
    answered: Result<Answer, Refusal>,
}

impl Worker {
    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn handle(self: Arc<Self>, task: TaskRequest) -> Result<Answer, HandlerError> {
        let Some(mut shift) = self.crew.begin(self.most) else { return Err(Refusal::Cancelled.into()) };
        let attempt = self.memory().attempt(&task);
        let subject = Subject {
            kind: "task",
            id: task.message_id().unwrap_or("").to_owned(),
            at: self.queue.name().to_owned(),
            attempt,
            redelivered: task.is_redelivered(),
            begun: Instant::now(),
        };
        let ended = self.crew.work(task.body(), &environment(&task, self.queue.name(), attempt)).await;
        let Settled { ended, outcome, kept, answered } = self.settle(ended, &task);
        subject.log(&ended, outcome);
        if self.on_failure == OnFailure::Quarantine && kept == Kept::No && answered.is_err() {
            self.memory().quarantined += 1;
        }
        shift.ends(kept, self.most).await;
        // What goes back has not ended: its next attempt here has the next number.
        let goes_back = matches!(answered, Err(Refusal::Cancelled));
        if kept == Kept::No && !goes_back {
            self.memory().ends(&task);
        }
        drop(shift);
        // It has its line.
        answered.map_err(|refusal| HandlerError::from(refusal).without_warning())
    }

    /// What becomes of a task whose command has ended.
    fn settle(&self, ended: Ended, task: &TaskRequest) -> Settled {
        let (Attempt::Exactly(attempt) | Attempt::AtLeast(attempt)) = task.attempt();
        let left = attempt <= self.retries;
        let ended = match ended {
            Ended::Done(finished) => {
                let value = if self.crew.is_echo() {
                    Ok(task.body().clone())
                } else {
                    values::parse(&finished.out, "the command's output")
                };
                match value {
                    Ok(value) => {
                        let answered = Ok(Answer::Value(value));
                        return Settled { ended: Ended::Done(finished), outcome: "done", kept: Kept::No, answered };
                    }
                    Err(failure) => Ended::Failed(failure.to_string()),
                }
            }
            ended => ended,
        };
        let (outcome, kept, refusal) = match &ended {
            Ended::Failed(text) | Ended::TryAgain(text) if left => {
                ("failed, to be tried again", Kept::InTheQueue, Refusal::TryAgain(text.clone()))
            }
            Ended::TryAgain(_) => ("not now, back in the queue", Kept::InTheQueue, Refusal::Cancelled),
            Ended::Failed(text) => match self.on_failure {
                OnFailure::Reply => {
                    ("failed, its sender gets the exception", Kept::No, Refusal::Exception(text.clone()))
                }
                // The library's own limit is the same number.
                OnFailure::Quarantine => ("failed, to quarantine", Kept::No, Refusal::TryAgain(text.clone())),
                OnFailure::Requeue => ("failed, back in the queue", Kept::No, Refusal::Cancelled),
            },
            Ended::Stopped => ("stopped, back in the queue", Kept::InTheQueue, Refusal::Cancelled),
            Ended::NotRunnable(_) | Ended::Done(_) => {
                ("the command cannot be run, back in the queue", Kept::InTheQueue, Refusal::Cancelled)
            }
        };
        Settled { ended, outcome, kept, answered: Err(refusal) }
    }

    /// What an event means to a worker.
    fn note_event(&self, event: Option<ConnectionEvent>, long_tasks: bool) {
        match event {
            Some(ConnectionEvent::ChannelClosed {
                queue: Some(queue), cause: ChannelCause::DeliveryTimeout, ..
            }) => {
                let advice = if long_tasks {
                    "--long-tasks puts a task on lease after 10 minutes, and the broker's timeout is shorter"
                } else {
                    "start the worker with --long-tasks, which puts a task that runs for long on lease"
                };
                warning!(
                    "tasks of {queue:?} ran for longer than the broker's delivery timeout; it took them back and may hand \
                     them to others while they run: {advice}"
                );
            }
            Some(ConnectionEvent::OwnershipLost { message_id: Some(id), .. }) => {
                self.memory().away.insert(id);
            }
            Some(ConnectionEvent::TaskAdopted { message_id, .. }) => {
                self.memory().away.remove(&message_id);
            }
            _ => {}
        }
    }

    /// Ends the subscription, then what runs.
    async fn end(
        &self,
        end: End,
        identifier: &Identifier,
        communicator: &Communicator,
        mut watched: Watched,
        mut stop: Stop,
        drain: Duration,
    ) -> Result<(), Failure> {
        if let End::Lost(failure) = end {
            self.crew.unsubscribed();
            self.crew.stop().await;
            return Err(failure);
        }
        if !matches!(end, End::Enough) {
            self.crew.close();
        }
        // Without a connection there is no subscription to end, and none is made again by a close.
        let unsubscribing = self.queue.remove_task_subscriber(identifier);
        match tokio::time::timeout(UNSUBSCRIBING, unsubscribing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the subscription could not be ended in order"),
            Err(_) => tracing::info!("the subscription could not be ended in time"),
        }
        self.crew.unsubscribed();
        if !matches!(end, End::Enough) {
            self.crew.drain(drain).await;
            return Ok(());
        }
        let mut state = self.crew.watch();
        loop {
            tokio::select! {
                _ = state.wait_for(|state| state.running == 0) => break,
                _ = stop.wait() => {
                    self.crew.drain(drain).await;
                    return Ok(());
                }
                (event, news) = watched.next() => match news {
                    News::None => self.note_event(event, true),
                    News::Ended(failure) => {
                        self.crew.stop().await;
                        return Err(failure);
                    }
                },
            }
        }
        tokio::select! {
            settled = self.settle_what_comes_back(communicator, &mut watched) => settled,
            _ = stop.wait() => Ok(()),
        }
    }

    /// Guards: a close that overtakes a task on its way to quarantine, which then goes back and is tried once more.
    async fn until_quarantined(&self, communicator: &Communicator) {
        let until = Instant::now() + QUARANTINING;
        while communicator.counts().tasks_quarantined < self.memory().quarantined && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Tasks that were done while the broker had taken them back come again: they are acknowledged, not run again by others.
    async fn settle_what_comes_back(&self, communicator: &Communicator, watched: &mut Watched) -> Result<(), Failure> {
        let owed = self.memory().owed();
        let settled = |communicator: &Communicator| communicator.counts().tasks_answered_again >= owed;
        if settled(communicator) {
            return Ok(());
        }
        note!("waiting for {owed} tasks that are done and that the broker had taken back, to acknowledge them");
        let comes_back = async {
            let others = || {
                TaskSubscriber::closure(|_: TaskRequest| Err::<Answer, _>(Refusal::Cancelled))
                    .with_prefetch(self.prefetch)
            };
            let identifier = loop {
                match self.queue.add_task_subscriber(others()).await {
                    // A broker that starts again may take longer than one request.
                    Err(error) if may_come(&error) => {
                        tracing::info!(%error, "the broker is not there yet");
                        tokio::time::sleep(FIRST_PAUSE).await;
                    }
                    added => break added?,
                }
            };
            while !settled(communicator) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if let Err(error) = self.queue.remove_task_subscriber(&identifier).await {
                tracing::info!(%error, "the subscription could not be ended in order");
            }
            Ok::<_, Failure>(())
        };
        tokio::select! {
            done = tokio::time::timeout(COMING_BACK, comes_back) => match done {
                Ok(done) => done,
                Err(_) => {
                    warning!("not all of them came back; another worker may run them again");
                    Ok(())
                }
            },
            failure = watched.lost() => Err(failure),
        }
    }
}

/// What the command may want to know.
fn environment(task: &TaskRequest, queue: &str, attempt: u32) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("HOMING_KIND", "task".to_owned()),
        ("HOMING_QUEUE", queue.to_owned()),
        ("HOMING_ATTEMPT", attempt.to_string()),
        ("HOMING_REDELIVERED", task.is_redelivered().to_string()),
        ("HOMING_NO_REPLY", task.is_no_reply().to_string()),
    ];
    if let Some(id) = task.message_id() {
        environment.push(("HOMING_MESSAGE_ID", id.to_owned()));
    }
    if let Some(id) = task.correlation_id() {
        environment.push(("HOMING_CORRELATION_ID", id.to_owned()));
    }
    environment
}
