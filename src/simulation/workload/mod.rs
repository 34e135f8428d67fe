//! What is simulated: some communicators in processes of their own, users and workers that do everything the library
//! offers, and a world in which the seed lets things go wrong. Then it is calm, and everything has to be right.

mod adversity;
mod calm;
mod hostile;
mod users;
mod workers;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;

use self::adversity::adversity;
use self::calm::calm;
use self::hostile::{BadWaker, Owned, TestCodec};
use self::users::actor;
use super::broker::{Faults, server};
use super::executor::{Dropped, Group, Process, Simulation, WORLD, choose, note, one_in, sleep_ms};
use super::ledger::{Ledger, expected};
use crate::codec::Yaml;
use crate::{Communicator, ConnectionEvent, ConnectionState, Error, ErrorKind, LongTasks, ReconnectPolicy};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const TASK_TIMEOUT: Duration = Duration::from_secs(60);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);
/// What everything may take beyond its deadline.
const SLACK: Duration = Duration::from_secs(2);
/// Adding and removing a subscriber have no deadline but need a connection, which may be away for a while.
const REGISTRATION: Duration = Duration::from_secs(150);
const TASK_QUEUE: &str = "process.queue";
/// How many keys of tasks there are.
const KEYS: u32 = 2;

/// A key as users give it.
fn key_text(key: u32) -> String {
    format!("key {key}")
}

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
    /// Tasks are held back.
    delays: bool,
    /// Tasks have keys.
    keys: bool,
    tight: bool,
    small_homes: bool,
    loops: bool,
    gives_up: bool,
    faults: Faults,
    prefetch: u16,
    /// How many lanes a connection has for consumers.
    lanes_limit: u32,
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
            delays: some!(),
            keys: some!(),
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
            lanes_limit: if some!() { 1 + choose(4) } else { u32::MAX },
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
    /// The communicators that are being closed, by name.
    closing: RefCell<BTreeSet<String>>,
    /// The communicators whose handle was dropped, by name.
    let_go: RefCell<Vec<String>>,
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

    /// An error that a user got of this communicator, which was called so at that time.
    fn check_error(&self, communicator: &Communicator, name: &str, what: &str, error: &Error) {
        if let Err(kind) = expected(error) {
            self.ledger.fault(format!("wrong error: {what} ended with {kind:?}: {error}"));
        }
        let closes = communicator.is_closed() || self.closing.borrow().contains(name);
        if error.kind() == ErrorKind::CommunicatorClosed && !closes {
            self.ledger.fault(format!("wrong error: {what} ended as with a close, and nobody closes it: {error}"));
        }
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
            builder = builder.max_in_flight(NonZeroUsize::new(2)?, NonZeroUsize::new(2048)?);
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
                match &event {
                    ConnectionEvent::Lost(_) => {
                        ledger.books().away.insert(name.clone());
                    }
                    ConnectionEvent::Restored { .. } | ConnectionEvent::Closed => {
                        ledger.books().away.remove(&name);
                    }
                    _ => {}
                }
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
        self.check_ended_within(name, how, 2 * CLOSE_TIMEOUT + SLACK).await;
    }

    /// That communicators whose handle was dropped end. What a user has begun with one keeps it for as long as that may take.
    async fn check_those_let_go(&self) {
        for name in self.let_go.take() {
            self.check_ended_within(&name, "its handle was dropped", REGISTRATION + 3 * TASK_TIMEOUT + SLACK).await;
        }
    }

    async fn check_ended_within(&self, name: &str, how: &str, limit: Duration) {
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
        let name = self.name(n);
        self.closing.borrow_mut().insert(name.clone());
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
        closing: RefCell::default(),
        let_go: RefCell::default(),
    });
    let ledger = world.ledger.clone();
    let server = server();
    server.limit_lanes(plan.lanes_limit);
    for n in 0..world.len() {
        let users = world.new_home("users", n);
        let workers = world.new_home("workers", n);
        let Some((communicator, name)) = world.connect(n, users).await else {
            return vec!["setup: no connection".to_owned()];
        };
        world.programs.borrow_mut().push(Program { communicator, name, users, workers });
    }
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
    // What is asked from now on comes later than what the broker has failed before, which may be at this instant of virtual time.
    sleep_ms(1).await;
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
