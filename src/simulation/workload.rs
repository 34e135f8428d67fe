//! What is simulated: some communicators in processes of their own, users and workers that do everything the library
//! offers, and a world in which the seed lets things go wrong. Then it is calm, and everything has to be right.

use std::cell::{Cell, RefCell};
use std::future::{Future, IntoFuture};
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::{join_all, select};

use super::broker::{Faults, server};
use super::executor::{
    Dropped, Group, Process, Simulation, WORLD, choose, choose_for, note, one_in, one_in_for, sleep_ms,
};
use super::hooks;
use super::ledger::{Ledger, Subscription, expected, number_in};
use crate::codec::{Codec, Value, Yaml};
use crate::{
    Answer, Attempt, Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ConnectionEvent, ConnectionState,
    Error, ErrorKind, Failure, Identifier, LongTasks, ReconnectPolicy, Result, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const TASK_TIMEOUT: Duration = Duration::from_secs(60);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);
/// What everything may take beyond its deadline.
const SLACK: Duration = Duration::from_secs(2);
/// Adding and removing a subscriber have no deadline but need a connection, which may be away for a while.
const REGISTRATION: Duration = Duration::from_secs(150);
const TASK_QUEUE: &str = "process.queue";
/// Tasks whose number this divides cannot be read, where bad codecs are part of the plan.
const POISON: i64 = 11;

/// Which classes of adversity a seed has, and how the communicators are set up.
#[derive(Clone, Copy, Debug)]
struct Plan {
    communicators: usize,
    /// Futures are dropped, once in so many.
    drops: u32,
    losses: bool,
    home_deaths: bool,
    lanes: bool,
    consumers: bool,
    down: bool,
    blocked: bool,
    crashes: bool,
    stalls: bool,
    broker_stalls: bool,
    restarts: bool,
    deletions: bool,
    closes: bool,
    drains: bool,
    bad_drops: bool,
    bad_handlers: bool,
    bad_codecs: bool,
    bad_wakers: bool,
    pendings: bool,
    leases: bool,
    tight: bool,
    small_homes: bool,
    loops: bool,
    gives_up: bool,
    faults: Faults,
    prefetch: u16,
}

impl Plan {
    fn draw() -> Self {
        // Some seeds have half of the classes, some a few: what one class hides is found without it.
        let odds = [2, 2, 4, 8][choose(4) as usize];
        let has = |odds: u32| one_in(odds);
        macro_rules! some {
            () => {
                has(odds)
            };
        }
        Plan {
            communicators: 2 + choose(3) as usize,
            drops: if some!() { 3 } else { 0 },
            losses: some!(),
            home_deaths: some!(),
            lanes: some!(),
            consumers: some!(),
            down: some!(),
            blocked: some!(),
            crashes: some!(),
            stalls: some!(),
            broker_stalls: some!(),
            restarts: some!(),
            deletions: some!(),
            closes: some!(),
            drains: some!(),
            bad_drops: some!(),
            bad_handlers: some!(),
            bad_codecs: some!(),
            bad_wakers: some!(),
            pendings: some!(),
            leases: some!(),
            tight: some!(),
            small_homes: some!(),
            loops: some!(),
            gives_up: some!(),
            faults: Faults {
                latency: 2,
                slow: if some!() { 12 } else { 0 },
                fails: if some!() { 15 } else { 0 },
                half_done: if some!() { 15 } else { 0 },
                refused: if some!() { 20 } else { 0 },
                connects: if some!() { 3 } else { 0 },
            },
            prefetch: [2, 1, 3, 8][choose(4) as usize],
        }
    }
}

/// A communicator and the process that it is in.
struct Program {
    communicator: Communicator,
    /// How its threads and its connection are called.
    name: String,
    users: Group,
    workers: Group,
}

struct World {
    simulation: Rc<Simulation>,
    ledger: Ledger,
    plan: Plan,
    programs: RefCell<Vec<Program>>,
    incarnations: Cell<u32>,
    stopping: Cell<bool>,
}

/// Code of a user's that may be dropped only where a user's code may run.
struct Owned(Ledger, &'static str);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.user_code(self.1);
    }
}

/// A value of a user's that panics when it is dropped.
struct Bomb(Ledger, Option<i64>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if let Some(task) = self.1 {
            self.0.task_ends(task, None);
        }
        // A panic within a panic would end the process of the test.
        if !std::thread::panicking() {
            panic!("simulated panic of a drop");
        }
    }
}

/// A codec that panics on some values, and that must not be called on the communicator thread.
struct TestCodec {
    yaml: Yaml,
    owned: Owned,
    bad: bool,
}

impl TestCodec {
    fn call(&self, text: &str) {
        self.owned.0.user_code("a codec was called");
        if self.bad && number_in(text, "task").is_some_and(|id| id % POISON == 0) {
            self.owned.0.task_may_fail(number_in(text, "task").unwrap_or(0));
            panic!("simulated panic of a decoder");
        }
        if self.bad && number_in(text, "cast").is_some_and(|id| id % POISON == 0) {
            panic!("simulated panic of a decoder");
        }
        if self.bad && number_in(text, "result").is_some_and(|id| id % POISON == 1) {
            panic!("simulated panic of an encoder");
        }
    }
}

impl Codec for TestCodec {
    fn name(&self) -> &'static str {
        "test"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>> {
        let body = self.yaml.encode(value)?;
        let text = String::from_utf8_lossy(&body);
        if text.contains("result-") {
            self.call(&text);
        }
        Ok(body)
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        self.call(&String::from_utf8_lossy(body));
        self.yaml.decode(body)
    }
}

/// A future whose waker panics when it is woken for the first time, after it has passed the wake on.
struct BadWaker<F>(Pin<Box<F>>, bool);

struct PanicsOnce(Waker, AtomicBool);

impl Wake for PanicsOnce {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
        // A panic within a panic would end the process of the test.
        if !self.1.swap(true, Ordering::Relaxed) && !std::thread::panicking() {
            panic!("simulated panic of a waker");
        }
    }
}

impl<F: Future> Future for BadWaker<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !std::mem::replace(&mut self.1, true) {
            let waker = Waker::from(Arc::new(PanicsOnce(context.waker().clone(), AtomicBool::new(false))));
            return self.0.as_mut().poll(&mut Context::from_waker(&waker));
        }
        self.0.as_mut().poll(context)
    }
}

impl World {
    fn len(&self) -> usize {
        self.plan.communicators
    }

    fn communicator(&self, n: usize) -> Communicator {
        self.programs.borrow()[n].communicator.clone()
    }

    fn name(&self, n: usize) -> String {
        self.programs.borrow()[n].name.clone()
    }

    fn users(&self, n: usize) -> Group {
        self.programs.borrow()[n].users
    }

    fn workers(&self, n: usize) -> Group {
        self.programs.borrow()[n].workers
    }

    /// A future as the plan has users treat it: perhaps it is dropped, perhaps its waker is bad.
    fn treated<F: Future>(&self, future: F) -> Dropped<BadWaker<F>> {
        let good = !(self.plan.bad_wakers && one_in(6));
        Dropped::perhaps(BadWaker(Box::pin(future), good), self.plan.drops)
    }

    /// Runs something at a home; `None` when the home ends before it.
    fn at<T: 'static, W: Future<Output = T> + 'static>(
        &self,
        group: Group,
        name: &str,
        work: W,
    ) -> impl Future<Output = Option<T>> + use<T, W> {
        let (done, result) = tokio::sync::oneshot::channel();
        self.simulation.spawn_as(group, name, async move { drop(done.send(work.await)) });
        async move { result.await.ok() }
    }

    fn new_home(&self, what: &str, n: usize) -> Group {
        let (simulation, name) = (&self.simulation, format!("c{n} {what}"));
        if what == "workers" && self.plan.loops && choose(2) == 1 {
            simulation.new_loop(&name, Process(n as u32))
        } else {
            let small = self.plan.small_homes && choose(2) == 1;
            simulation.new_runtime(&name, Process(n as u32), if small { 6 } else { 500 })
        }
    }

    /// Connects the communicator of a process, from its users' home.
    async fn connect(&self, n: usize, users: Group) -> Option<(Communicator, String)> {
        let plan = self.plan;
        let incarnation = self.incarnations.get();
        self.incarnations.set(incarnation + 1);
        let name = format!("c{n}#{incarnation}");
        let mut builder = Communicator::builder("simulated:broker")
            .thread_name(name.clone())
            .connection_name(name.clone())
            .task_queue(TASK_QUEUE)
            .task_prefetch(NonZeroU16::new(plan.prefetch)?)
            .call_timeout(CALL_TIMEOUT)
            .task_timeout(TASK_TIMEOUT)
            .close_timeout(CLOSE_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .codec(TestCodec {
                yaml: Yaml::default(),
                owned: Owned(self.ledger.clone(), "a codec was dropped"),
                bad: plan.bad_codecs,
            })
            .task_attempts(NonZeroU32::new(3)?, Duration::from_millis(200));
        if plan.leases {
            builder =
                builder.long_tasks(LongTasks::new().after(Duration::from_millis(700)).lease(Duration::from_secs(3)));
        }
        if plan.tight {
            builder = builder.under_way(NonZeroUsize::new(2)?, NonZeroUsize::new(2048)?);
        }
        if plan.gives_up {
            builder = builder.reconnect(ReconnectPolicy::For(Duration::from_secs(5)));
        }
        let ledger = self.ledger.clone();
        let connecting = async move {
            for _ in 0..60 {
                let connecting = builder.clone().connect();
                let limit = Duration::from_secs(60);
                match ledger.within(n, &format!("c{n} connects"), limit, connecting).await {
                    Ok(communicator) => return Some(communicator),
                    Err(_) => sleep_ms(500).await,
                }
            }
            None
        };
        let communicator = self.at(users, &format!("{name} connects"), connecting).await??;
        self.watch(&name, users, &communicator);
        Some((communicator, name))
    }

    /// Follows the events of a communicator.
    fn watch(&self, name: &str, users: Group, communicator: &Communicator) {
        let mut events = communicator.events();
        let (ledger, name, plan) = (self.ledger.clone(), name.to_owned(), self.plan);
        let mut away = communicator.connection_state() != ConnectionState::Connected;
        self.simulation.spawn_as(users, &format!("{name} events"), async move {
            let (mut closed, mut gone) = (false, Vec::new());
            // Whether it has begun to connect again: what it gets may be lost before all is restored.
            let mut tries = false;
            loop {
                let next = BadWaker(Box::pin(events.next()), !(plan.bad_wakers && one_in(3))).await;
                let Some(event) = next else { break };
                note(|| format!("event of {name}: {event:?}"));
                let wrong = match &event {
                    _ if closed => Some("after Closed"),
                    ConnectionEvent::Lost(_) => {
                        let twice = std::mem::replace(&mut away, true) && !std::mem::replace(&mut tries, false);
                        twice.then_some("while it was lost already")
                    }
                    ConnectionEvent::Reconnecting { .. } => {
                        tries = true;
                        (!away).then_some("while it was not lost")
                    }
                    ConnectionEvent::Restored { .. } => {
                        (!std::mem::replace(&mut away, false)).then_some("while it was not lost")
                    }
                    ConnectionEvent::SubscriberGone { identifier } => {
                        // RPC subscribers come again under their name.
                        let twice = gone.contains(identifier) && !identifier.as_str().starts_with("svc");
                        gone.push(identifier.clone());
                        twice.then_some("for the second time")
                    }
                    ConnectionEvent::Closed => {
                        closed = true;
                        None
                    }
                    _ => None,
                };
                if let Some(wrong) = wrong {
                    let kind = format!("{event:?}");
                    let kind = kind.split([' ', '(', '{']).next().unwrap_or("").to_owned();
                    ledger.fault(format!("events: {name} has {kind} {wrong}"));
                }
            }
            if !closed {
                ledger.fault(format!("events: those of {name} ended without Closed"));
            }
        });
    }

    /// A communicator anew in its process, after the one before has ended.
    async fn renew(self: &Rc<Self>, n: usize) {
        let users = self.users(n);
        let Some((communicator, name)) = self.connect(n, users).await else { return };
        // Also what was added to the old one while the new one was being connected.
        self.ledger.communicator_ended(n);
        let old = {
            let program = &mut self.programs.borrow_mut()[n];
            program.name = name;
            std::mem::replace(&mut program.communicator, communicator)
        };
        drop(old);
    }

    /// That nothing of an ended communicator is left.
    async fn check_ended(&self, name: &str, how: &str) {
        // Threads have their last polls to make.
        let limit = 2 * CLOSE_TIMEOUT + SLACK;
        let began = tokio::time::Instant::now();
        let stalled = self.ledger.books().stalled;
        loop {
            let threads = self.simulation.threads_named(name);
            if threads.is_empty() {
                return;
            }
            if began.elapsed() > limit + (self.ledger.books().stalled - stalled) {
                return self.ledger.fault(format!("left: threads {threads:?} run on after {how}"));
            }
            sleep_ms(200).await;
        }
    }

    /// Closes the communicator of a program, within its time.
    async fn close(self: &Rc<Self>, n: usize, drain: Duration) {
        let (communicator, users) = (self.communicator(n), self.users(n));
        let name = self.programs.borrow()[n].name.clone();
        self.ledger.communicator_ended(n);
        let (ledger, what) = (self.ledger.clone(), format!("{name} closes"));
        note(|| what.clone());
        let closed = self
            .at(users, &what.clone(), async move {
                let closing = async {
                    if drain.is_zero() { communicator.close().await } else { communicator.drain(drain).await }
                };
                let closed = ledger.within(n, &what, drain + CLOSE_TIMEOUT + SLACK, closing).await;
                if let Err(error) = &closed
                    && let Err(kind) = expected(error)
                {
                    ledger.fault(format!("wrong error: {what}: {kind:?} {error}"));
                }
                if !communicator.is_closed() {
                    ledger.fault(format!("state: {what} has returned, and it is not closed"));
                }
                // Closed is closed, however often.
                let again = ledger.within(n, &format!("{what} again"), SLACK, communicator.close()).await;
                drop((closed, again));
            })
            .await;
        if closed.is_some() {
            self.check_ended(&name, "a close").await;
        }
    }
}

impl Simulation {
    /// The threads of a communicator that have not ended.
    fn threads_named(&self, communicator: &str) -> Vec<String> {
        let threads = (0..8).flat_map(|n| self.threads_of(Process(n)));
        threads.filter(|name| name.starts_with(&format!("{communicator}-"))).collect()
    }
}

fn worker(world: &World, name: &str) -> TaskSubscriber {
    let (ledger, plan) = (world.ledger.clone(), world.plan);
    let owned = Arc::new(Owned(ledger.clone(), "a subscriber was dropped"));
    let name: Arc<str> = name.into();
    TaskSubscriber::future(move |request: TaskRequest| {
        let (ledger, owned, name) = (ledger.clone(), Arc::clone(&owned), Arc::clone(&name));
        async move {
            ledger.user_code("a handler was run");
            let _owned = owned;
            let Some(id) = request.body().as_str().and_then(|body| number_in(body, "task")) else {
                ledger.fault(format!("wrong body: a task came as {:?}", request.body()));
                return Ok(Answer::from("?"));
            };
            let marked = request.is_redelivered() || request.is_resent() || request.attempt() != Attempt::Exactly(1);
            let start = ledger.task_begins(id, marked);
            note(|| format!("{name} begins task {id}{}", if marked { ", marked" } else { "" }));
            let whom = (id as u64) << 8 | u64::from(start);
            let _bomb = (plan.bad_drops && one_in_for(whom, 12)).then(|| {
                ledger.task_may_fail(id);
                Bomb(ledger.clone(), Some(id))
            });
            if plan.bad_handlers && one_in_for(whom, 40) {
                // Looked at in a loop: a watch that is dropped leaves nothing.
                for _ in 0..20 {
                    drop(request.ownership_lost());
                }
            }
            let lost = one_in_for(whom, 4).then(|| request.ownership_lost().ok()).flatten();
            let long = if plan.leases { 8000 } else { 300 };
            let work = sleep_ms([0, 1, 20, long / 4, long / 2, long][choose_for(whom, 6) as usize]);
            match lost {
                Some(lost) => drop(select(pin!(work), lost).await),
                None => work.await,
            }
            let outcome = if plan.bad_handlers || plan.leases { choose_for(whom, 12) } else { 0 };
            // Some are nobody's, until it is calm: they go round.
            let outcome = if plan.bad_handlers && id % 13 == 5 && choose_for(whom, 50) != 0 { 1 } else { outcome };
            let result = format!("result-{id}-{start}");
            note(|| format!("{name} ends task {id} with {outcome}"));
            match outcome {
                1 => {
                    ledger.task_refused(id, marked);
                    Err(Failure::Rejected("not mine".into()))
                }
                2 => Err(Failure::Cancelled),
                3 => {
                    ledger.task_may_fail(id);
                    Err(Failure::TryAgain("later".into()))
                }
                4 => {
                    ledger.task_ends(id, None);
                    panic!("simulated panic of a handler")
                }
                5 => {
                    ledger.task_ends(id, None);
                    Err(Failure::Exception("simulated".into()))
                }
                6 | 7 if plan.pendings => {
                    let wait = choose_for(whom, 100);
                    Ok(Answer::later(async move {
                        sleep_ms(wait).await;
                        ledger.task_ends(id, Some(&result));
                        result
                    }))
                }
                _ => {
                    ledger.task_ends(id, Some(&result));
                    Ok(Answer::from(result))
                }
            }
        }
    })
}

fn answerer(world: &World, name: &str) -> RpcSubscriber {
    let (ledger, plan) = (world.ledger.clone(), world.plan);
    let owned = Arc::new(Owned(ledger.clone(), "a subscriber was dropped"));
    let name: Arc<str> = name.into();
    RpcSubscriber::future(move |request: RpcRequest| {
        let (ledger, owned, name) = (ledger.clone(), Arc::clone(&owned), Arc::clone(&name));
        async move {
            ledger.user_code("a handler was run");
            let _owned = owned;
            let Some(id) = request.body().as_str().and_then(|body| number_in(body, "call")) else {
                ledger.fault(format!("wrong body: a call came as {:?}", request.body()));
                return Ok(Answer::from("?"));
            };
            ledger.call_begins(id);
            note(|| format!("{name} begins call {id}"));
            let whom = id as u64;
            let _bomb = (plan.bad_drops && one_in_for(whom, 12)).then(|| {
                ledger.call_may_fail(id);
                Bomb(ledger.clone(), None)
            });
            let gone = one_in_for(whom, 3).then(|| request.caller_gone().ok()).flatten();
            let work = sleep_ms(choose_for(whom, 60));
            match gone {
                Some(gone) => drop(select(pin!(work), gone).await),
                None => work.await,
            }
            note(|| format!("{name} answers call {id}"));
            let answer = format!("answer-{id}-");
            match if plan.bad_handlers { choose_for(whom, 10) } else { 0 } {
                1 => {
                    ledger.call_may_fail(id);
                    panic!("simulated panic of a handler")
                }
                2 => {
                    ledger.call_may_fail(id);
                    Err(Failure::Exception("simulated".into()))
                }
                3 if plan.pendings => Ok(Answer::later(async move {
                    sleep_ms(choose_for(whom, 100)).await;
                    answer
                })),
                _ => Ok(Answer::from(answer)),
            }
        }
    })
}

fn listener(world: &World, name: &str) -> BroadcastSubscriber {
    let ledger = world.ledger.clone();
    let owned = Arc::new(Owned(ledger.clone(), "a subscriber was dropped"));
    let name: Arc<str> = name.into();
    let plan = world.plan;
    BroadcastSubscriber::future(move |broadcast: Broadcast| {
        let (ledger, owned, name) = (ledger.clone(), Arc::clone(&owned), Arc::clone(&name));
        async move {
            ledger.user_code("a handler was run");
            let _owned = owned;
            match broadcast.body().as_str().and_then(|body| number_in(body, "cast")) {
                None => ledger.fault(format!("wrong body: a broadcast came as {:?}", broadcast.body())),
                Some(id) => {
                    if broadcast.subject() != Some(if id % 2 == 0 { "even.number" } else { "odd.number" }) {
                        ledger.fault(format!("wrong body: broadcast {id} has the subject {:?}", broadcast.subject()));
                    }
                    if name.ends_with("even") && id % 2 != 0 {
                        ledger.fault(format!("filter: broadcast {id} came to {name}"));
                    }
                    // What was handed out and whose acknowledgement went with its channel comes again.
                    // So does what its sender has sent again.
                    let faults = plan.faults;
                    let adverse =
                        plan.lanes || plan.consumers || plan.losses || plan.down || plan.restarts || plan.deletions;
                    let again = adverse || plan.broker_stalls || faults.fails + faults.half_done + faults.refused > 0;
                    ledger.broadcast_heard(&name, id, again);
                    if plan.bad_handlers && one_in_for(id as u64, 9) {
                        panic!("simulated panic of a handler");
                    }
                }
            }
        }
    })
}

/// The outcome of a request as a string, for the ledger.
fn text(outcome: &Result<Value>) -> std::result::Result<Option<&str>, &Error> {
    outcome.as_ref().map(Value::as_str)
}

/// One thing that a user does.
async fn act(world: &Rc<World>, n: usize) {
    let communicator = world.communicator(n);
    let (ledger, plan) = (&world.ledger, world.plan);
    let workers = world.workers(n);
    let simulation = &world.simulation;
    let here = simulation.home_of(workers);
    let name = |what: &str, id: i64| format!("c{n} {what} {id}");
    let incarnation = world.name(n);
    // Whether the subscriber's home or its communicator has ended meanwhile, and its subscriber with it.
    let stands = || simulation.home_of(workers).is_some() && world.name(n) == incarnation;
    let wrong = |what: &str, error: &Error| {
        if let Err(kind) = expected(error) {
            ledger.fault(format!("wrong error: {what} ended with {kind:?}: {error}"));
        }
    };
    match choose(20) {
        1..=3 => {
            let id = ledger.number();
            note(|| name("sends task", id));
            let send = communicator.task_send(format!("task-{id}-")).no_reply().into_future();
            let sent = ledger.within(n, &name("sends task", id), TASK_TIMEOUT + SLACK, world.treated(send)).await;
            match sent {
                Some(Ok(())) => ledger.task_confirmed(id),
                Some(Err(error)) => wrong(&name("sends task", id), &error),
                None => {}
            }
        }
        4 | 5 => {
            let id = ledger.number();
            note(|| name("sends and awaits task", id));
            let send = communicator.task_send(format!("task-{id}-")).timeout(TASK_TIMEOUT).send();
            let sent = ledger.within(n, &name("sends task", id), TASK_TIMEOUT + SLACK, world.treated(send)).await;
            match sent {
                Some(Ok(reply)) => {
                    ledger.task_confirmed(id);
                    // Each `pending` renews the deadline.
                    let limit = TASK_TIMEOUT * if plan.pendings { 3 } else { 1 } + SLACK;
                    let outcome = world.treated(reply.outcome());
                    if let Some(outcome) = ledger.within(n, &name("awaits task", id), limit, outcome).await {
                        ledger.task_outcome(id, text(&outcome));
                    }
                }
                Some(Err(error)) => wrong(&name("sends task", id), &error),
                None => {}
            }
        }
        6 | 7 => {
            let Some(home) = here else { return };
            let subscriber = format!("w{}", ledger.number());
            let Ok(identifier) = Identifier::new(&subscriber) else { return };
            note(|| format!("c{n} adds the task subscriber {subscriber}"));
            let bound = communicator.bound_to(&home);
            let add = bound.add_task_subscriber(worker(world, &subscriber).with_identifier(identifier));
            let added = ledger.within(n, &format!("c{n} adds {subscriber}"), REGISTRATION, world.treated(add)).await;
            match added {
                Some(Ok(_)) if stands() && !communicator.is_closed() => {
                    let subscription = Subscription { communicator: n, name: subscriber, home: workers };
                    ledger.books().task_subscribers.push(subscription);
                }
                Some(Err(error)) => wrong(&format!("c{n} adds {subscriber}"), &error),
                _ => {}
            }
        }
        8 => {
            let taken = {
                let mut books = ledger.books();
                let at = books.task_subscribers.iter().position(|subscription| subscription.communicator == n);
                at.map(|at| books.task_subscribers.remove(at))
            };
            if let Some(Subscription { name: subscriber, .. }) = taken
                && let Ok(identifier) = Identifier::new(&subscriber)
            {
                note(|| format!("c{n} removes the task subscriber {subscriber}"));
                let remove = communicator.remove_task_subscriber(&identifier);
                drop(ledger.within(n, &format!("c{n} removes {subscriber}"), REGISTRATION, remove).await);
            }
        }
        9 | 10 => {
            let Ok(queue) = communicator.default_task_queue() else { return };
            let wait = Duration::from_millis(u64::from(choose(3000)));
            let limit = wait + 2 * OPERATION_TIMEOUT + SLACK;
            let next = world.treated(queue.next_task(wait));
            match ledger.within(n, &format!("c{n} takes a task"), limit, next).await {
                Some(Ok(task)) => {
                    let Some(id) = task.body().as_str().and_then(|body| number_in(body, "task")) else {
                        return ledger.fault(format!("wrong body: a task was taken as {:?}", task.body()));
                    };
                    let request = task.request();
                    let marked =
                        request.is_redelivered() || request.is_resent() || request.attempt() != Attempt::Exactly(1);
                    note(|| format!("c{n} took task {id}{}", if marked { ", marked" } else { "" }));
                    sleep_ms(choose(100)).await;
                    if one_in(3) {
                        // It goes back.
                        return drop(task);
                    }
                    let start = ledger.task_begins(id, marked);
                    let result = format!("result-{id}-{start}");
                    ledger.task_ends(id, Some(&result));
                    let finished = catch_unwind(AssertUnwindSafe(|| task.finish(result)));
                    // The panic of a user's encoder may come out here, in the user's own code.
                    if finished.is_err() && !plan.bad_codecs {
                        ledger.fault("panic: finishing a task panicked".to_owned());
                    }
                }
                Some(Err(error)) => wrong(&format!("c{n} takes a task"), &error),
                None => {}
            }
        }
        11 => {
            let Some(home) = here else { return };
            let subscriber = format!("svc{n}");
            let Ok(identifier) = Identifier::new(&subscriber) else { return };
            note(|| format!("c{n} adds the RPC subscriber {subscriber}"));
            let bound = communicator.bound_to(&home);
            let add = bound.add_rpc_subscriber(identifier, answerer(world, &subscriber));
            let added = ledger.within(n, &format!("c{n} adds {subscriber}"), REGISTRATION, world.treated(add)).await;
            match added {
                Some(Ok(_)) if stands() && !communicator.is_closed() => {
                    let subscription = Subscription { communicator: n, name: subscriber, home: workers };
                    ledger.books().rpc_subscribers.push(subscription);
                }
                Some(Err(error)) if error.kind() != ErrorKind::DuplicateSubscriberIdentifier => {
                    wrong(&format!("c{n} adds {subscriber}"), &error);
                }
                _ => {}
            }
        }
        12 => {
            let taken = {
                let mut books = ledger.books();
                let at = books.rpc_subscribers.iter().position(|subscription| subscription.communicator == n);
                at.map(|at| books.rpc_subscribers.remove(at))
            };
            if let Some(Subscription { name: subscriber, .. }) = taken {
                note(|| format!("c{n} removes the RPC subscriber {subscriber}"));
                let remove = communicator.remove_rpc_subscriber(subscriber.as_str());
                drop(ledger.within(n, &format!("c{n} removes {subscriber}"), REGISTRATION, remove).await);
            }
        }
        13..=15 => {
            let id = ledger.number();
            let to = format!("svc{}", choose(world.len() as u32));
            note(|| format!("c{n} calls {to} with {id}"));
            let call = communicator.rpc_send(to.as_str(), format!("call-{id}-")).timeout(CALL_TIMEOUT).into_future();
            let limit = CALL_TIMEOUT * if plan.pendings { 3 } else { 1 } + SLACK;
            let outcome = ledger.within(n, &format!("c{n} calls {to} with {id}"), limit, world.treated(call)).await;
            if let Some(outcome) = outcome {
                ledger.call_outcome(id, text(&outcome));
            }
        }
        16 => {
            let id = ledger.number();
            note(|| name("broadcasts", id));
            let subject = if id % 2 == 0 { "even.number" } else { "odd.number" };
            let send = communicator.broadcast_send(format!("cast-{id}-")).subject(subject).into_future();
            // As long as a call may take: nothing else is said.
            let limit = Duration::from_secs(90);
            if let Some(Err(error)) = ledger.within(n, &name("broadcasts", id), limit, world.treated(send)).await {
                wrong(&name("broadcasts", id), &error);
            }
        }
        17 => {
            let Some(home) = here else { return };
            let even = choose(2) == 1;
            let subscriber = format!("b{}{}", ledger.number(), if even { "even" } else { "" });
            let Ok(identifier) = Identifier::new(&subscriber) else { return };
            let filter = BroadcastFilter::new();
            let Ok(filter) = (if even { filter.subject("even.*") } else { Ok(filter) }) else { return };
            note(|| format!("c{n} adds the broadcast subscriber {subscriber}"));
            let bound = communicator.bound_to(&home);
            let add = bound.add_broadcast_subscriber(filter, listener(world, &subscriber).with_identifier(identifier));
            let added = ledger.within(n, &format!("c{n} adds {subscriber}"), REGISTRATION, world.treated(add)).await;
            match added {
                Some(Ok(_)) if stands() && !communicator.is_closed() => {
                    let subscription = Subscription { communicator: n, name: subscriber, home: workers };
                    ledger.books().broadcast_subscribers.push(subscription);
                }
                Some(Err(error)) => wrong(&format!("c{n} adds {subscriber}"), &error),
                _ => {}
            }
        }
        18 => {
            let taken = {
                let mut books = ledger.books();
                let at = books.broadcast_subscribers.iter().position(|subscription| subscription.communicator == n);
                at.map(|at| books.broadcast_subscribers.remove(at))
            };
            if let Some(Subscription { name: subscriber, .. }) = taken
                && let Ok(identifier) = Identifier::new(&subscriber)
            {
                let remove = communicator.remove_broadcast_subscriber(&identifier);
                drop(ledger.within(n, &format!("c{n} removes {subscriber}"), REGISTRATION, remove).await);
            }
        }
        19 => {
            // Many calls at once, which is what finds a limit.
            let calls = (0..4).map(|_| {
                let id = ledger.number();
                let to = format!("svc{}", choose(world.len() as u32));
                let call = communicator.rpc_send(to.as_str(), format!("call-{id}-")).timeout(CALL_TIMEOUT);
                let call = world.treated(call.into_future());
                async move { call.await.map(|outcome| ledger.call_outcome(id, text(&outcome))) }
            });
            let limit = CALL_TIMEOUT * if plan.pendings { 3 } else { 1 } + SLACK;
            ledger.within(n, &format!("c{n} makes four calls"), limit, join_all(calls)).await;
        }
        _ => sleep_ms(choose(400)).await,
    }
}

async fn actor(world: Rc<World>, n: usize, length: u32) {
    for _ in 0..length {
        sleep_ms([0, 0, 5, 50, 500][choose(5) as usize]).await;
        if world.stopping.get() {
            return;
        }
        act(&world, n).await;
    }
}

/// What goes wrong around the communicators.
async fn adversity(world: Rc<World>) {
    let (server, plan, simulation, ledger) = (server(), world.plan, Rc::clone(&world.simulation), &world.ledger);
    for _ in 0..14 {
        sleep_ms(20 + choose(900)).await;
        if world.stopping.get() {
            return;
        }
        let n = choose(world.len() as u32) as usize;
        match choose(16) {
            1 if plan.losses => server.lose_one(),
            2 if plan.home_deaths => {
                let home = world.workers(n);
                note(|| format!("the workers' home of c{n} ends"));
                simulation.kill(home);
                ledger.home_ended(home);
                let fresh = world.new_home("workers", n);
                world.programs.borrow_mut()[n].workers = fresh;
            }
            3 if plan.lanes => server.close_some_lane(),
            4 if plan.consumers => server.cancel_some_consumer(),
            5 if plan.down => {
                server.set_down(true);
                server.lose_all();
                sleep_ms(choose(if plan.gives_up { 9000 } else { 1500 })).await;
                server.set_down(false);
            }
            6 if plan.blocked => {
                server.set_blocked(true);
                sleep_ms(choose(1500)).await;
                server.set_blocked(false);
            }
            7 if plan.crashes => {
                note(|| format!("the process of c{n} dies"));
                for group in simulation.groups_of(Process(n as u32)) {
                    simulation.kill(group);
                }
                ledger.process_died(n);
                let users = world.new_home("users", n);
                let workers = world.new_home("workers", n);
                {
                    let program = &mut world.programs.borrow_mut()[n];
                    program.users = users;
                    program.workers = workers;
                }
                world.renew(n).await;
                for again in 0..2 {
                    let name = format!("c{n} actor {again} reborn");
                    drop(world.at(users, &name, actor(Rc::clone(&world), n, 4)));
                }
            }
            8 if plan.stalls => {
                let groups = simulation.groups_of(Process(n as u32));
                if groups.is_empty() {
                    continue;
                }
                let group = groups[choose(groups.len() as u32) as usize];
                let ms = choose(4000);
                note(|| format!("{} stalls for {ms} ms", simulation.name(group)));
                ledger.stalls(Duration::from_millis(u64::from(ms)));
                simulation.stall(group);
                let resumed = Rc::clone(&simulation);
                simulation.spawn_as(WORLD, "resume", async move {
                    sleep_ms(ms).await;
                    resumed.resume(group);
                });
            }
            9 if plan.broker_stalls => {
                server.set_stalled(true);
                sleep_ms(choose(if one_in(4) { 9000 } else { 1500 })).await;
                server.set_stalled(false);
            }
            10 if plan.restarts => {
                server.set_down(true);
                server.restart();
                sleep_ms(choose(1000)).await;
                server.set_down(false);
            }
            11 if plan.deletions => {
                let any = one_in(4);
                let deleted = server.delete_some_queue(|queue| queue.exclusive || any);
                if deleted.is_some_and(|(name, _)| name.contains(TASK_QUEUE) || name.contains("lease")) {
                    ledger.excuse_open_tasks();
                }
            }
            12 if plan.closes => {
                let drain = if plan.drains { Duration::from_millis(u64::from(choose(4000))) } else { Duration::ZERO };
                world.close(n, drain).await;
                world.renew(n).await;
            }
            13 if plan.closes => {
                // The last handles go, sooner or later; nobody closes it.
                let name = world.programs.borrow()[n].name.clone();
                note(|| format!("the handle of {name} is dropped"));
                ledger.communicator_ended(n);
                world.renew(n).await;
            }
            _ => {}
        }
    }
}

/// The whole run; returns what was wrong.
pub(super) async fn scenario(simulation: Rc<Simulation>) -> Vec<String> {
    let plan = Plan::draw();
    note(|| format!("{plan:?}"));
    let world = Rc::new(World {
        simulation: Rc::clone(&simulation),
        ledger: Ledger::default(),
        plan,
        programs: RefCell::default(),
        incarnations: Cell::new(0),
        stopping: Cell::new(false),
    });
    let ledger = world.ledger.clone();
    for n in 0..world.len() {
        let users = world.new_home("users", n);
        let workers = world.new_home("workers", n);
        let Some((communicator, name)) = world.connect(n, users).await else {
            return vec!["setup: no connection".to_owned()];
        };
        world.programs.borrow_mut().push(Program { communicator, name, users, workers });
    }
    let server = server();
    server.set_faults(plan.faults);
    let actors: Vec<_> = (0..world.len())
        .flat_map(|n| [(n, 0), (n, 1)])
        .map(|(n, which)| world.at(world.users(n), &format!("c{n} actor {which}"), actor(Rc::clone(&world), n, 7)))
        .collect();
    let around = world.at(WORLD, "adversity", adversity(Rc::clone(&world)));
    let mut all = pin!(async {
        join_all(actors).await;
        around.await;
    });
    let ended = tokio::time::timeout(Duration::from_secs(60), all.as_mut()).await;
    simulation.calm();
    world.stopping.set(true);
    note(|| "calm from here on".to_owned());
    server.set_faults(Faults::default());
    server.set_down(false);
    server.set_blocked(false);
    server.set_stalled(false);
    if ended.is_err() && tokio::time::timeout(Duration::from_secs(250), all).await.is_err() {
        let hang = ledger.under_way();
        for what in hang {
            ledger.fault(format!("never ends: {what}"));
        }
        return ledger.faults();
    }
    calm(&world).await;
    ledger.faults()
}

/// Everything is done, and nothing is left.
async fn calm(world: &Rc<World>) {
    let (ledger, server) = (&world.ledger, server());
    // A thread that has panicked explains whatever follows.
    if world.simulation.has_panicked() {
        return;
    }
    // What has given up by its own rule is replaced.
    for n in 0..world.len() {
        if world.communicator(n).is_closed() {
            let name = world.programs.borrow()[n].name.clone();
            ledger.communicator_ended(n);
            world.check_ended(&name, "it gave up").await;
            world.renew(n).await;
        }
    }
    tasks_are_done(world).await;
    let late = || (0..world.len()).map(|n| world.communicator(n).counts().late_replies).sum::<u64>();
    let before = late();
    subscribers_are_served(world).await;
    subscribers_are_removed(world).await;
    nobody_else_answers(world).await;
    if late() > before {
        ledger.fault(format!("answered twice: {} replies for nobody in the calm", late() - before));
    }
    // Requests whose task an operator has deleted run into their deadlines.
    for _ in 0..40 {
        if ledger.under_way().is_empty() {
            break;
        }
        sleep_ms(5000).await;
    }
    for n in 0..world.len() {
        for (what, count) in hooks::leftovers(&world.communicator(n)) {
            if count > 0 {
                ledger.fault(format!("left: {what}, {count} at c{n}"));
            }
        }
    }
    // What a dead process leaves behind expires.
    if server.queues().iter().any(|queue| queue.name.contains("lease") && queue.ready == 0) {
        sleep_ms(310_000).await;
    }
    for queue in server.queues() {
        let own = queue.name.contains("rpc-") || queue.name.contains("lease");
        if own || queue.out > 0 || (!queue.exclusive && !queue.consumers.is_empty()) {
            ledger.fault(format!("left: {queue:?}"));
        }
    }
    let handles: Vec<Communicator> = (0..world.len()).map(|n| world.communicator(n)).collect();
    for n in 0..world.len() {
        world.close(n, Duration::ZERO).await;
    }
    sleep_ms(6000).await;
    for (n, communicator) in handles.iter().enumerate() {
        if communicator.connection_state() != ConnectionState::Closed {
            ledger.fault(format!("state: c{n} is closed and {:?}", communicator.connection_state()));
        }
        for (what, count) in hooks::leftovers(communicator) {
            if count > 0 {
                ledger.fault(format!("left: after the close {what}, {count} at c{n}"));
            }
        }
    }
    let threads: Vec<String> = (0..world.len()).flat_map(|n| world.simulation.threads_of(Process(n as u32))).collect();
    if !threads.is_empty() {
        ledger.fault(format!("left: after the close the threads {threads:?}"));
    }
    if server.sessions() > 0 {
        ledger.fault(format!("left: {} sessions", server.sessions()));
    }
    for queue in server.queues() {
        if queue.exclusive || queue.out > 0 || !queue.consumers.is_empty() {
            ledger.fault(format!("left: after the close {queue:?}"));
        }
    }
    homes_are_empty(world);
}

/// Every task that the broker has taken over is ended, or lies where somebody will look at it.
async fn tasks_are_done(world: &Rc<World>) {
    let ledger = &world.ledger;
    if ledger.books().task_subscribers.is_empty() {
        let communicator = world.communicator(0);
        let subscriber = worker(world, "the last one");
        let users = world.users(0);
        let add = async move {
            let add = communicator.add_task_subscriber(subscriber);
            tokio::time::timeout(REGISTRATION, add).await
        };
        match world.at(users, "adds the last subscriber", add).await {
            Some(Ok(Ok(identifier))) => {
                let subscription = Subscription { communicator: 0, name: identifier.as_str().to_owned(), home: users };
                ledger.books().task_subscribers.push(subscription);
            }
            other => ledger.fault(format!("registration: the last task subscriber could not be added: {other:?}")),
        }
    }
    let quarantined = || -> Vec<i64> {
        let bodies = server().bodies().into_iter().filter(|(queue, _)| queue.contains("quarantine"));
        bodies.filter_map(|(_, body)| number_in(&String::from_utf8_lossy(&body), "task")).collect()
    };
    let open = || -> Vec<i64> {
        let quarantined = quarantined();
        ledger.open_tasks().into_iter().filter(|id| !quarantined.contains(id)).collect()
    };
    for _ in 0..150 {
        if open().is_empty() {
            break;
        }
        sleep_ms(2000).await;
    }
    // What runs again, and outcomes on their way.
    sleep_ms(20_000).await;
    for id in open() {
        let bodies = server().bodies().into_iter();
        let at: Vec<String> = bodies
            .filter(|(_, body)| number_in(&String::from_utf8_lossy(body), "task") == Some(id))
            .map(|(queue, _)| queue)
            .collect();
        if at.is_empty() {
            ledger.fault(format!("lost: task {id} is in no queue and was not ended"));
        } else {
            ledger.fault(format!("not run: task {id} lies in {at:?}"));
        }
    }
}

/// A call to each subscriber is answered; a broadcast comes to each.
async fn subscribers_are_served(world: &Rc<World>) {
    let ledger = &world.ledger;
    let (rpc, broadcasts) = {
        let books = ledger.books();
        (books.rpc_subscribers.clone(), books.broadcast_subscribers.clone())
    };
    for Subscription { communicator: of, name, .. } in rpc {
        match call(world, (of + 1) % world.len(), &name).await {
            Some((id, outcome)) => match text(&outcome) {
                Err(error) if !ledger.call_failed(id) => {
                    ledger.fault(format!("not served: the RPC subscriber {name} does not answer: {error}"));
                }
                other => ledger.call_outcome(id, other),
            },
            None => ledger.fault("setup: a users' home ended in the calm".to_owned()),
        }
    }
    let mut id = ledger.number() * 2;
    while id % POISON == 0 {
        id = ledger.number() * 2;
    }
    let communicator = world.communicator(0);
    let send = async move {
        let send = communicator.broadcast_send(format!("cast-{id}-")).subject("even.number");
        tokio::time::timeout(Duration::from_secs(30), send.into_future()).await
    };
    match world.at(world.users(0), "sends the last broadcast", send).await {
        Some(Ok(Ok(()))) => {}
        other => ledger.fault(format!("not served: a broadcast in the calm: {other:?}")),
    }
    sleep_ms(2000).await;
    for Subscription { name, .. } in broadcasts {
        if !ledger.has_heard(&name, id) {
            ledger.fault(format!("not served: the broadcast subscriber {name} does not get broadcasts"));
        }
    }
}

async fn call(world: &Rc<World>, from: usize, to: &str) -> Option<(i64, Result<Value>)> {
    let id = world.ledger.number();
    let (communicator, to) = (world.communicator(from), to.to_owned());
    let call = async move {
        communicator.rpc_send(to.as_str(), format!("call-{id}-")).timeout(CALL_TIMEOUT).into_future().await
    };
    Some((id, world.at(world.users(from), "calls in the calm", call).await?))
}

async fn subscribers_are_removed(world: &Rc<World>) {
    let ledger = &world.ledger;
    let (tasks, rpc, broadcasts) = {
        let mut books = ledger.books();
        let books = &mut *books;
        (
            std::mem::take(&mut books.task_subscribers),
            std::mem::take(&mut books.rpc_subscribers),
            std::mem::take(&mut books.broadcast_subscribers),
        )
    };
    let all = tasks.into_iter().map(|s| (0, s)).chain(rpc.into_iter().map(|s| (1, s)));
    let all: Vec<_> = all.chain(broadcasts.into_iter().map(|s| (2, s))).collect();
    for (kind, Subscription { communicator: n, name, .. }) in all {
        let communicator = world.communicator(n);
        let Ok(identifier) = Identifier::new(&name) else { continue };
        let remove = async move {
            let remove = async {
                match kind {
                    0 => communicator.remove_task_subscriber(&identifier).await,
                    1 => communicator.remove_rpc_subscriber(&identifier).await,
                    _ => communicator.remove_broadcast_subscriber(&identifier).await,
                }
            };
            tokio::time::timeout(Duration::from_secs(30), remove).await
        };
        match world.at(world.users(n), "removes a subscriber in the calm", remove).await {
            Some(Ok(Ok(()))) => {}
            other => {
                let kind = ["task", "RPC", "broadcast"][kind];
                ledger.fault(format!("registration: the {kind} subscriber {name} could not be removed: {other:?}"));
            }
        }
    }
    // Tasks in hand and leases end.
    sleep_ms(if world.plan.leases { 40_000 } else { 15_000 }).await;
}

/// With every subscriber removed nobody answers calls, and a task lies in its queue until somebody takes it.
async fn nobody_else_answers(world: &Rc<World>) {
    let ledger = &world.ledger;
    for n in 0..world.len() {
        let name = format!("svc{n}");
        match call(world, 0, &name).await {
            Some((_, Err(error))) if error.kind() == ErrorKind::Unroutable => {}
            Some((_, outcome)) => {
                ledger.fault(format!(
                    "zombie: {name} has no subscriber, and a call to it ends as {}",
                    described(&outcome)
                ));
            }
            None => {}
        }
    }
    // Not a number that bad codecs cannot read.
    let mut id = ledger.number();
    while id % POISON < 2 {
        id = ledger.number();
    }
    let communicator = world.communicator(0);
    let send = async move {
        let sent = communicator.task_send(format!("task-{id}-")).no_reply().into_future();
        let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
        sleep_ms(3000).await;
        sent
    };
    match world.at(world.users(0), "sends the last task", send).await {
        Some(Ok(Ok(()))) => {}
        other => return ledger.fault(format!("not served: a task could not be sent in the calm: {other:?}")),
    }
    let (communicator, taker) = (world.communicator(1), ledger.clone());
    let take = async move {
        let queue = communicator.default_task_queue()?;
        loop {
            let task = queue.next_task(Duration::from_secs(10)).await?;
            let found = task.body().as_str().and_then(|body| number_in(body, "task"));
            let (attempt, redelivered) = (task.request().attempt(), task.request().is_redelivered());
            taker.task_ends(found.unwrap_or(0), Some("taken"));
            task.finish("taken");
            if found == Some(id) {
                return Ok::<_, Error>((attempt, redelivered));
            }
        }
    };
    match world.at(world.users(1), "takes the last task", take).await {
        Some(Ok((Attempt::Exactly(1), false))) => {}
        other => ledger.fault(format!("zombie: a task sent with no subscriber anywhere was taken as {other:?}")),
    }
    sleep_ms(5000).await;
}

fn described(outcome: &Result<Value>) -> String {
    match outcome {
        Ok(_) => "an answer".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Every home has all of its places again.
fn homes_are_empty(world: &World) {
    for n in 0..world.len() {
        for group in [world.users(n), world.workers(n)] {
            let Some(home) = world.simulation.home_of(group) else { continue };
            if world.plan.small_homes
                && let Some(capacity) = world.simulation.capacity_of(group)
            {
                let futures: Vec<_> = (0..capacity).map_while(|_| home.try_future::<()>().ok()).collect();
                if futures.len() < capacity {
                    let left = capacity - futures.len();
                    world.ledger.fault(format!("left: {left} places of a home of c{n}"));
                }
            }
        }
    }
}
