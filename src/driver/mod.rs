//! The communicator thread: it alone owns the broker connection.
//!
//! One value, the [`Driver`], has one entrance: what comes next (a command, an event of the broker, the outcome of a job, a
//! point in time) is handled to its end before the following one. Its parts own their state and decide as values, without
//! a clock or a connection; what they want to be done comes out as *acts*, which the driver carries out:
//!
//! ```text
//!   commands ──▶ ┌─────────────────────────────────────────────────────────────┐
//!   events   ──▶ │ Driver   session        the connection, and the next one    │ ──▶ broker
//!   jobs     ──▶ │          subscriptions  what is consumed                    │ ──▶ jobs
//!   time     ──▶ │          outbox         what goes out, in order             │ ──▶ homes, by completers
//!                │          requests       who waits for a reply               │ ──▶ codec thread
//!                │          tasks          what becomes of tasks in hand       │
//!                └─────────────────────────────────────────────────────────────┘
//! ```
//!
//! What takes several questions to the broker is a job (see [`connection`]): a future that holds plain data and changes no
//! state here. It runs no user code: it sees identifiers, bytes and completers.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use self::answers::Answers;
use self::callers::Callers;
use self::command::{Command, PullId, QueueName, RawReply, TaskDelivery, Turn};
use self::connection::{Connection, NotSetUp};
use self::jobs::Jobs;
use self::outbox::{CopyId, Outbox, Stream};
use self::port::{Giver, Port};
use self::requests::Requests;
use self::session::{Happened, Made, Session};
use self::subscriptions::{Key, Subscriptions};
use self::tasks::{
    Action, Claim, Config, Contents, DeliveryTag, Generation, HandId, Known, LeaseId, Live, TaskBook, TaskId,
};
use self::timers::Timers;
use crate::broker::{Broker, BrokerEvent, Delivery, Message, QueueSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Completer;
use crate::wire::names::Exchange;

mod answers;
mod away;
mod callers;
mod close;
pub(crate) mod command;
mod connection;
mod deadlines;
mod events;
mod gate;
mod jobs;
mod lanes;
#[cfg(test)]
mod leftovers;
mod once;
mod outbox;
mod perform;
pub(crate) mod port;
mod requests;
#[cfg(test)]
mod sequences;
mod session;
mod start;
mod subscriptions;
pub(crate) mod tasks;
mod timers;

pub use command::CloseReport;
pub use port::{ChannelCause, ConnectionEvent, ConnectionState, Events};
pub use session::ReconnectPolicy;
pub(crate) use start::{CodecLoop, Plan, close, start};
pub use tasks::Attempt;

/// How many things are handled before others are polled for again.
const AT_ONCE: usize = 64;

/// How often a communicator writes to itself, to see that its bindings stand.
const PROBE_EVERY: Duration = Duration::from_secs(5);

/// When a caller that is back asks for answers that it may have lost: whoever answered may be back later than it is. The pauses
/// add up to more than the longest one between two attempts to connect and the time that these take by default.
const ASKS: [Duration; 7] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(20),
    Duration::from_secs(60),
    Duration::from_secs(180),
];

/// The way to whoever waits for something to be done.
type Done = Completer<Result<()>>;

/// The outcome of a job.
enum JobDone {
    /// A stream was not opened, since nobody waits for it any more.
    NotWanted {
        stream: Stream,
        generation: Generation,
    },
    SetUp {
        key: Key,
        turn: Turn,
        outcome: Result<(), NotSetUp>,
    },
    Ended {
        key: Key,
        turn: Turn,
    },
    Got {
        key: Key,
        turn: Turn,
        generation: Generation,
        outcome: Result<Option<Delivery>>,
    },
    /// What a stream needs is declared.
    Declared {
        stream: Stream,
        generation: Generation,
        outcome: Result<()>,
    },
    ExchangeBack {
        exchange: Exchange,
        generation: Generation,
        outcome: Result<()>,
    },
    /// The queue for a copy of a task is declared.
    CopyReady {
        copy: CopyId,
        message: Box<Message>,
        outcome: Result<()>,
    },
    LeaseDeleted {
        lease: LeaseId,
        outcome: Result<Option<u32>>,
    },
    /// The key of a task that was not sent is free, or could not be freed.
    KeyFreed,
    /// Before a close: nobody calls the subscribers here any more.
    Unbound,
    /// A lost connection has let go of its threads.
    LetGo,
}

/// What a copy of a task is for.
enum CopyOf {
    Moved(TaskId),
    Lease(LeaseId),
}

/// The queue that a copy goes to.
enum CopyTo {
    /// One that is declared for this.
    Own(QueueSpec),
    /// The one of this stream.
    Shared(Stream),
}

/// What happens next.
enum Next<B> {
    Command(Option<Command>),
    Session(Happened<B>),
    Job(JobDone),
    Time,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No new work comes in; what is in hand ends.
    Draining,
    /// Nothing new is taken.
    Closing,
}

/// How tasks and replies are tried, and how long closing may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a reply is tried whose caller's queue is not there.
    pub(crate) reply_timeout: Duration,
    pub(crate) tasks: Config,
    pub(crate) close_timeout: Duration,
}

struct Driver<B: Broker> {
    port: Arc<Port>,
    limits: Limits,
    commands: mpsc::UnboundedReceiver<Command>,
    session: Session<B>,
    subscriptions: Subscriptions<Done>,
    outbox: Outbox<Done>,
    requests: Requests<Completer<RawReply>>,
    answers: Answers,
    callers: Callers,
    /// The routing key of every broadcast.
    broadcast_key: Arc<str>,
    last_call: u64,
    tasks: TaskBook<Live>,
    /// What the book wants to be done.
    actions: Vec<Action<Live>>,
    lists: perform::Lists,
    /// Of tasks in hand: that they are not this worker's own any more.
    ownership_lost: BTreeMap<TaskId, Giver>,
    copies: BTreeMap<CopyId, CopyOf>,
    last_copy: u64,
    /// Whoever waits for a task.
    pulls: BTreeMap<PullId, Completer<Result<Option<TaskDelivery>>>>,
    /// Tasks on their way to whoever pulled them.
    unclaimed: BTreeMap<PullId, (HandId, Claim)>,
    /// Of tasks that were pulled, until the consumer that they came by has ended.
    pulled: BTreeMap<DeliveryTag, PullId>,
    /// Acknowledgements that wait until this consumer has ended.
    held_acks: BTreeMap<Key, Vec<DeliveryTag>>,
    timers: Timers,
    /// When lost answers are asked for: of the requests that are answered to this queue.
    asks: BTreeMap<(Instant, Arc<str>), usize>,
    next_probe: Option<Instant>,
    jobs: Jobs<JobDone>,
    /// How many keys are being freed.
    freeing: usize,
    /// It was said that leases cannot be made, and none was since.
    leases_fail: bool,
    codec: CodecLoop,
    /// For how long there was no connection, until everything is set up again.
    away: Option<Duration>,
    phase: Phase,
    /// When what is in hand has had its time.
    drain_until: Option<Instant>,
    unbinding: bool,
    /// How many lost connections have not let go of their threads.
    letting_go: usize,
    closers: Vec<Completer<CloseReport>>,
    alarm: Alarm,
    /// Which source is polled first, in turn.
    first: usize,
}

impl<B: Broker> Driver<B> {
    /// Runs until it is to end, and says how.
    async fn run(&mut self) -> End {
        loop {
            let next = self.next(None).await;
            if let Some(end) = self.handle(next) {
                return end;
            }
        }
    }

    /// Waits for what happens next, or until then.
    async fn next(&mut self, until: Option<Instant>) -> Next<B> {
        let deadline = [self.next_deadline(), until].into_iter().flatten().min();
        self.alarm.set(deadline);
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Every source in turn, beginning with another one each time, so that none waits for ever behind a busy one.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next<B>> {
        const SOURCES: usize = 4;
        self.first = (self.first + 1) % SOURCES;
        for source in 0..SOURCES {
            let polled = match (self.first + source) % SOURCES {
                0 => self.session.poll(context).map(Next::Session),
                1 => self.commands.poll_recv(context).map(Next::Command),
                2 => self.jobs.poll_done(context).map(Next::Job),
                _ => self.alarm.poll(context).map(|()| Next::Time),
            };
            if polled.is_ready() {
                return polled;
            }
        }
        Poll::Pending
    }

    fn next_deadline(&self) -> Option<Instant> {
        [
            self.requests.next_deadline(),
            self.outbox.next_deadline(),
            self.subscriptions.next_deadline(),
            self.tasks.next_deadline(),
            self.timers.next_deadline(),
            self.asks.first_key_value().map(|((at, _), _)| *at),
            self.next_probe,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Handles this, and what is there behind it.
    fn handle(&mut self, next: Next<B>) -> Option<End> {
        let end = match next {
            Next::Command(command) => self.on_commands(command),
            Next::Session(Happened::Event(event)) => self.on_events(event),
            Next::Session(Happened::Made(made)) => self.on_made(made),
            Next::Job(done) => {
                self.on_job(done);
                None
            }
            Next::Time => {
                self.on_time();
                None
            }
        };
        self.perform();
        #[cfg(test)]
        self.note_leftovers();
        end
    }

    fn on_commands(&mut self, first: Option<Command>) -> Option<End> {
        let Some(first) = first else { return Some(End::Closed { drain: Duration::ZERO }) };
        let mut next = Some(first);
        for _ in 0..AT_ONCE {
            let Some(command) = next else { break };
            if let Some(end) = self.on_command(command) {
                return Some(end);
            }
            self.perform();
            next = self.commands.try_recv().ok();
        }
        // One that was taken and not handled would be lost.
        next.and_then(|command| self.on_command(command))
    }

    fn on_events(&mut self, first: BrokerEvent) -> Option<End> {
        let mut next = Some(first);
        for _ in 0..AT_ONCE {
            let event = next?;
            if let Some(end) = self.on_event(event) {
                return Some(end);
            }
            self.perform();
            next = self.session.event_now();
        }
        next.and_then(|event| self.on_event(event))
    }

    fn on_made(&mut self, made: Result<Made<B>>) -> Option<End> {
        match made {
            Ok(made) => {
                self.up(made);
                None
            }
            Err(error) => Some(End::Lost(error)),
        }
    }

    /// From now on this is the connection: everything is set up on it.
    fn up(&mut self, made: Made<B>) {
        let now = Instant::now();
        self.away = self.session.up(made);
        let Some(connection) = self.session.now() else { return };
        let (generation, lanes) = (connection.generation, connection.broker.lanes_limit());
        if self.away.is_none() {
            crate::log::info!(broker = self.port.broker, "connected");
        }
        self.next_probe = Some(crate::time::after(now, PROBE_EVERY));
        self.subscriptions.limit_lanes(lanes);
        self.subscriptions.up(now);
        // Their old names a broker may hold for a while yet.
        let queues = self.requests.reply_queues();
        self.subscriptions.replies_needed(queues, now);
        self.outbox.up();
        self.step_tasks(tasks::Input::Connected(generation));
    }

    /// The connection is gone. What was under way on it is decided upon here; what runs on it learns so by its own errors.
    fn down(&mut self, error: &Error) {
        let now = Instant::now();
        let Some(connection) = self.session.down(error) else { return };
        port::count(&self.port.counters.losses);
        let generation = connection.generation;
        self.next_probe = None;
        self.pulled.clear();
        self.held_acks.clear();
        self.asks.clear();
        self.outbox.down();
        self.subscriptions.down(error, now);
        self.callers.channel_gone(|channel| channel.generation == generation);
        self.step_tasks(tasks::Input::ConnectionLost);
        self.letting_go += 1;
        self.jobs.push(async move {
            session::farewell(connection).await;
            JobDone::LetGo
        });
        self.perform();
    }

    fn on_lost(&mut self, error: Error) -> Option<End> {
        self.down(&error);
        if self.phase == Phase::Closing {
            return None;
        }
        if self.session.reconnect(error.clone()) { None } else { Some(End::Lost(error)) }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        let away = self.session.away();
        let due = self.requests.due(now);
        for wait in due.long_waits {
            crate::log::warn!(what = %wait.subject, waited = ?wait.waited, "still waiting for an answer");
        }
        for (ended, time) in due.expired {
            let why = match self.session.now() {
                Some(_) => {
                    "; the other end may be busy, blocked or gone (or the broker is, which an event reports)".to_owned()
                }
                None => format!("; there is no connection to the broker now{away}"),
            };
            let text = format!("{} was not answered within {time:?}{why}", ended.subject);
            let error = Error::new(ErrorKind::TimedOut, text);
            self.end_request(ended, &error);
        }
        self.outbox.tick(now, &away);
        if let Some(connection) = self.session.now() {
            self.subscriptions.note_answers(connection.answers());
        }
        self.subscriptions.tick(now, &away);
        self.step_tasks(tasks::Input::Tick);
        while let Some((id, expiry)) = self.timers.pop(now) {
            match expiry {
                command::Expiry::Permit(waiter) => self.port.expire(waiter),
                command::Expiry::Place(place) => drop(place),
                // Whoever waited for it may be gone.
                command::Expiry::Alarm(alarm) => drop(alarm.complete(())),
                command::Expiry::LongPlace { what, since, place } => {
                    let waited = now.saturating_duration_since(since);
                    crate::log::warn!(what, ?waited, "still waiting for a place at its home, which is full");
                    let again = command::Expiry::LongPlace { what, since, place };
                    self.timers.start(id, crate::time::after(now, port::REPORT_EVERY), again);
                }
            }
        }
        if self.next_probe.is_some_and(|at| at <= now) {
            self.next_probe = Some(crate::time::after(now, PROBE_EVERY));
            self.probe();
        }
        while let Some(entry) = self.asks.first_entry()
            && entry.key().0 <= now
        {
            let ((_, queue), step) = entry.remove_entry();
            self.ask_for_lost_answers(&queue, step, now);
        }
    }

    fn on_job(&mut self, done: JobDone) {
        let now = Instant::now();
        match done {
            JobDone::SetUp { key, turn, outcome } => self.subscriptions.set_up(&key, turn, outcome, now),
            JobDone::Ended { key, turn } => self.subscriptions.ended(&key, turn, now),
            JobDone::Got { key, turn, generation, outcome } => self.on_got(&key, turn, generation, outcome),
            JobDone::Declared { stream, generation, outcome } => {
                if self.session.of(generation).is_none() {
                    return;
                }
                match (outcome, &stream) {
                    (Ok(()), Stream::Tasks(queue)) if self.port.names.marker_queue(queue).is_none() => {
                        self.subscriptions.replies_for(Exchange::Task, stream, now);
                    }
                    (outcome, _) => self.outbox.opened(&stream, outcome.map(|()| None), now),
                }
            }
            JobDone::NotWanted { stream, generation } => {
                if self.session.of(generation).is_some() {
                    self.outbox.not_opened(&stream);
                }
            }
            JobDone::ExchangeBack { exchange, generation, outcome } => {
                // Guards: messages that wait for ever for an exchange that could not be declared. They find it missing again, and
                // come to their end.
                let is_lost = outcome.is_err_and(|error| error.kind() == ErrorKind::ConnectionLost);
                if self.session.of(generation).is_some() && !is_lost {
                    self.outbox.exchange_is_back(exchange);
                }
            }
            JobDone::CopyReady { copy, message, outcome } => match outcome {
                Ok(()) => {
                    self.leases_fail = false;
                    self.send_copy(copy, *message);
                }
                Err(error) => {
                    // Once, until it is well again: it is tried for each task, and again and again.
                    if !std::mem::replace(&mut self.leases_fail, true) && !connection::is_lost(&error) {
                        crate::log::warn!(
                            %error,
                            "tasks cannot go on lease: those that run for longer than the broker waits for a delivery are taken back"
                        );
                    }
                    self.copied(copy, Known::No);
                }
            },
            JobDone::LeaseDeleted { lease, outcome } => {
                let (known, contents) = match outcome {
                    Ok(Some(0)) => (Known::Yes, Contents::Nothing),
                    Ok(Some(_)) => (Known::Yes, Contents::Copy),
                    Ok(None) => (Known::Yes, Contents::NotKnown),
                    Err(error) if connection::is_lost(&error) => (Known::Unknown, Contents::NotKnown),
                    // It could not be declared, either, and asking again is in vain.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => (Known::Yes, Contents::NotKnown),
                    Err(_) => (Known::No, Contents::NotKnown),
                };
                self.step_tasks(tasks::Input::LeaseDeleted { lease, known, contents });
            }
            JobDone::KeyFreed => self.freeing -= 1,
            JobDone::Unbound => self.unbinding = false,
            JobDone::LetGo => self.letting_go -= 1,
        }
    }

    /// Takes an input into the task book. What it wants to be done is done by [`perform`](Self::perform).
    fn step_tasks(&mut self, input: tasks::Input<Live>) {
        self.tasks.step(Instant::now(), input, &mut self.actions);
    }

    /// The present connection, for a job.
    fn connection(&self) -> Option<Rc<Connection<B>>> {
        self.session.now().cloned()
    }

    fn emit(&self, event: &ConnectionEvent) {
        self.port.emit(event);
    }
}

/// Why the main loop ended.
enum End {
    Closed { drain: Duration },
    Lost(Error),
}

/// A timer that is set anew only when it has to ring earlier than it would: deadlines mostly go away unrung.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    wanted: bool,
}

impl Alarm {
    fn set(&mut self, at: Option<Instant>) {
        self.wanted = at.is_some();
        let Some(at) = at else { return };
        match &mut self.sleep {
            Some(sleep) if sleep.deadline() <= at => {}
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(tokio::time::sleep_until(at))),
        }
    }

    /// It may ring too early: whoever is woken checks the clock.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) if self.wanted => {
                ready!(sleep.as_mut().poll(context));
                self.sleep = None;
                Poll::Ready(())
            }
            _ => Poll::Pending,
        }
    }
}

impl<B: Broker> Driver<B> {
    /// The name of a lease's queue: the book gives numbers, which are this communicator's own.
    fn lease_queue(&self, lease: LeaseId) -> String {
        format!("homing-lease-{}-{}", self.port.id().simple(), lease.0)
    }
}
