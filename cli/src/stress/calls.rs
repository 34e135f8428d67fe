//! The communicator's part: callers and subscribers on the homes of the run, over a broker in this process, calls that are
//! given up, and communicators that close while calls are under way.

use std::future::IntoFuture;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use fastrand::Rng;
use homing::blocking::Communicator;
use homing::{Answer, ErrorKind, Failure, HandlerResult, RpcRequest, RpcSend, RpcSubscriber, Value};

use super::decision::{Deed, Delay, FutureKind, Route, generator};
use super::ledger::{Entry, HomeRecord, Seen, Watch};
use super::producer::{Job, OnPurpose};
use super::watchdog::Pulse;
use super::world::World;
use crate::args::Fault;

/// How many calls of one worker are under way at once.
const WINDOW: usize = 64;
/// How many messages a caller may have under way whose permits are not counted.
const MANY: usize = 4096;
/// So often in a row all permits have to be free.
const ROUNDS: u32 = 5;
/// How long a permit may take to come back after its call has ended: the broker's confirmation is on its way.
const SETTLES: Duration = Duration::from_secs(2);
/// Between two looks at what is free.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(500);
/// A call that its subscriber may have died with is told so by its own timeout only.
const SHORT: Duration = Duration::from_millis(300);

/// Who closes, and how, while calls are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// Nobody: all calls end before.
    Nobody,
    /// The callers' side.
    Callers,
    /// The callers' side, by two threads at once.
    CallersTwice,
    /// The callers' side, by a task on some home.
    CallersFromAHome,
    /// The subscribers' side.
    Subscribers,
}

/// One pair of communicators, as its calls see it.
struct Pair {
    world: Arc<World>,
    callers: Communicator,
    subscribers: Vec<Option<Arc<HomeRecord>>>,
    callers_close: AtomicBool,
    subscribers_close: AtomicBool,
    open: AtomicUsize,
    /// How long a call waits that says nothing else.
    patience: Duration,
}

/// One call: how it is made, and what its subscriber does.
#[derive(Clone, Copy)]
struct Plan {
    kind: FutureKind,
    deed: Deed,
    /// The subscriber; behind the last for nobody.
    to: usize,
    time: Duration,
    number: i64,
}

/// Has pairs of communicators call each other, one pair after the other, until the run stops.
pub(crate) fn call(world: &Arc<World>, pulse: &Pulse, number: usize) {
    let mut generation = 0;
    while !world.is_stopping() {
        let rng = generator(world.seed, "calls", ((number as u64) << 32) | generation);
        if let Err(error) = one_pair(world, pulse, number, generation, rng) {
            world.ledger.is_wrong(|| format!("wrong: {} could not go on: {error}", pulse.name));
            break;
        }
        world.ledger.communicators.fetch_add(2, Ordering::Relaxed);
        generation += 1;
    }
    pulse.is_at("done", None);
}

fn one_pair(world: &Arc<World>, pulse: &Pulse, number: usize, generation: u64, mut rng: Rng) -> homing::Result<()> {
    let closing = match rng.u8(0..10) {
        0..3 => Closing::Nobody,
        3..6 => Closing::Callers,
        6 => Closing::CallersTwice,
        7 => Closing::CallersFromAHome,
        _ => Closing::Subscribers,
    };
    let calls = rng.u32(20..600);
    let count = rng.usize(1..6);
    let url = format!("memory:stress-{number}-{generation}");
    let patience = if closing == Closing::Subscribers { SHORT } else { world.patience };
    pulse.is_at("connecting", None);
    let permits = if rng.bool() { rng.usize(2..4) } else { MANY };
    let held = usize::from(world.is_due(Fault::PermitHeld, || closing == Closing::Nobody && permits < MANY));
    let connect = || {
        homing::Communicator::builder(&url)
            .max_in_flight(NonZeroUsize::new(permits - held).unwrap_or(NonZeroUsize::MIN), NonZeroUsize::MAX)
            .call_timeout(patience)
            .close_timeout(world.patience / 2)
            .connect_blocking()
    };
    let (serving, callers) = (connect()?, connect()?);
    pulse.is_at("subscribing", None);
    let mut subscribers = Vec::new();
    for n in 0..count {
        let record = world.any_home(&mut rng);
        let added = record.as_ref().and_then(|record| {
            let subscriber = subscriber(world, record, rng.u64(..));
            serving.bound_to(record.home()?).add_rpc_subscriber(format!("s{n}"), subscriber).ok()
        });
        // A home that ends meanwhile has no subscriber.
        subscribers.push(added.and(record));
    }
    let pair = Arc::new(Pair {
        world: Arc::clone(world),
        callers,
        subscribers,
        callers_close: AtomicBool::new(false),
        subscribers_close: AtomicBool::new(false),
        open: AtomicUsize::new(0),
        patience,
    });
    pulse.is_at("calling", None);
    for number in 0..calls {
        while pair.open.load(Ordering::SeqCst) >= WINDOW {
            std::thread::sleep(Duration::from_micros(200));
        }
        let plan = Plan {
            kind: match FutureKind::draw_call(&mut rng) {
                // A permit may be given to a call that waits in an outer frame, which cannot take it before the inner ones end.
                FutureKind::CallWaited if permits < MANY => FutureKind::Call,
                kind => kind,
            },
            deed: Deed::draw(&mut rng),
            to: if rng.u8(0..100) < 4 { usize::MAX } else { rng.usize(0..count) },
            time: Duration::from_micros(rng.u64(1..20_000)),
            number: i64::from(number),
        };
        if let Some(record) = world.any_home(&mut rng) {
            place(&pair, &record, plan);
        }
        pulse.beat();
    }
    pulse.is_at("closing while calls are under way", None);
    close(&pair, &serving, closing, &mut rng)?;
    pulse.is_at("waiting for calls to end", None);
    let mut open = pair.open.load(Ordering::SeqCst);
    while open > 0 {
        std::thread::sleep(Duration::from_micros(500));
        let now = pair.open.load(Ordering::SeqCst);
        if now != open {
            pulse.beat();
        }
        open = now;
    }
    if closing == Closing::Nobody {
        pulse.is_at("counting what is left", None);
        if permits < MANY {
            count_permits(world, &pair, permits);
        }
        ask_for_the_dead(world, &pair, pulse);
    }
    pulse.is_at("closing", None);
    bounded(world, || pair.callers.close())?;
    bounded(world, || serving.close())
}

/// When no call is under way, every permit is free: so many calls can be sent at once. They go to nobody.
///
/// A confirmation may come between two of them, and hide a permit that is held; so it is tried several times, with few permits.
fn count_permits(world: &World, pair: &Pair, permits: usize) {
    let until = Instant::now() + SETTLES;
    let mut rounds = 0;
    let mut held = 0;
    let mut pause = SHORTEST;
    while rounds < ROUNDS {
        let sent: Vec<_> = (0..permits).map(|_| pair.callers.rpc_send("nobody", Value::Null).try_send()).collect();
        held = sent.iter().filter(|sent| matches!(sent, Err(error) if error.kind() == ErrorKind::Full)).count();
        rounds = if held == 0 { rounds + 1 } else { 0 };
        if held > 0 && Instant::now() > until {
            break;
        }
        // What was sent for this comes back too, on a busy machine after a while.
        drop(sent);
        pause = if held == 0 { SHORTEST } else { (pause * 2).min(LONGEST) };
        std::thread::sleep(pause);
    }
    world.ledger.permits_probed.fetch_add(permits as u64, Ordering::Relaxed);
    world.ledger.permits_held.fetch_add(held as u64, Ordering::Relaxed);
}

/// A subscriber whose home has ended is unsubscribed: a call to it is unroutable, or answered with an exception while that
/// goes on, and does not run into its time limit.
fn ask_for_the_dead(world: &World, pair: &Pair, pulse: &Pulse) {
    for (n, record) in pair.subscribers.iter().enumerate() {
        if !record.as_ref().is_some_and(|record| record.has_ended()) {
            continue;
        }
        world.ledger.subscribers_asked.fetch_add(1, Ordering::Relaxed);
        let outcome = pair.callers.rpc_send(format!("s{n}"), Value::from(0)).timeout(world.patience / 4).wait();
        if matches!(outcome, Err(error) if error.kind() == ErrorKind::TimedOut) {
            world.ledger.unserved.fetch_add(1, Ordering::Relaxed);
            world.ledger.is_wrong(|| format!("wrong: the subscriber s{n} has no server, and its calls time out"));
        }
        pulse.beat();
    }
}

/// Makes a call at a home.
fn place(pair: &Arc<Pair>, record: &Arc<HomeRecord>, plan: Plan) {
    let Some(home) = record.home() else { return };
    let kind = match plan.kind {
        // A runtime awaits.
        FutureKind::CallWaited if !record.kind.may_wait() => FutureKind::Call,
        kind => kind,
    };
    let plan = Plan { kind, ..plan };
    let entry = Entry::new(&pair.world.ledger, record, kind, plan.deed, Route::Producer);
    let open = Open::new(pair);
    let (pair, watch) = (Arc::clone(pair), entry.watch());
    drop(home.spawn(async move {
        let _open = open;
        one_call(&pair, &watch, plan).await;
    }));
}

async fn one_call(pair: &Pair, watch: &Watch, plan: Plan) {
    let send = pair.callers.rpc_send(format!("s{}", plan.to), body(plan));
    // Only that says something of a value: a runtime with many threads polls to its end what it polls while it is ended.
    let ended = watch.home().has_ended();
    match plan.kind {
        FutureKind::CallForATime => pair.saw(watch, plan, ended, &send.timeout(plan.time).await),
        FutureKind::CallWaited if watch.home().depth.load(Ordering::SeqCst) < 4 => {
            let outcome = {
                let _waits = watch.home().waits(plan.kind);
                send.wait()
            };
            pair.saw(watch, plan, ended, &outcome);
        }
        FutureKind::CallGivenUp => give_up(watch, plan, send).await,
        _ => pair.saw(watch, plan, ended, &send.await),
    }
}

/// Before it is sent, while it is sent, or when it is sent.
async fn give_up(watch: &Watch, plan: Plan, send: RpcSend) {
    match plan.number % 3 {
        0 => drop(send),
        1 => {
            let mut sending = pin!(send.into_future());
            // What is there at once is given up too.
            drop(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())));
        }
        _ => drop(send.send().await),
    }
    watch.gives_up();
}

impl Pair {
    /// Notes the outcome of a call, and checks that it may be.
    fn saw(&self, watch: &Watch, plan: Plan, home_had_ended: bool, outcome: &homing::Result<Value>) {
        let subscriber = self.subscribers.get(plan.to).and_then(Option::as_ref);
        let nobody = subscriber.is_none_or(|record| record.is_ending());
        let (seen, may_be) = match outcome {
            Ok(value) => (Seen::Value, plan.deed.brings_a_value() && !home_had_ended && value == &body(plan)),
            Err(error) => match error.kind() {
                ErrorKind::RemoteException => {
                    (Seen::Exception, matches!(plan.deed, Deed::Drop | Deed::Panic) || nobody || self.serving_closes())
                }
                ErrorKind::Cancelled => (Seen::Cancelled, plan.deed == Deed::Cancel),
                ErrorKind::Unroutable => (Seen::Unroutable, nobody || self.serving_closes()),
                ErrorKind::TimedOut => {
                    (Seen::TimedOut, plan.kind == FutureKind::CallForATime || self.patience == SHORT)
                }
                ErrorKind::CommunicatorClosed => (Seen::Closed, self.callers_close.load(Ordering::SeqCst)),
                ErrorKind::HomeEnded => (Seen::HomeEnded, watch.home().is_ending()),
                _ => (Seen::Exception, false),
            },
        };
        watch.note(seen);
        if !may_be {
            watch.wrong(&format!("a call to s{} ended as {outcome:?}", plan.to));
        }
    }

    fn serving_closes(&self) -> bool {
        self.subscribers_close.load(Ordering::SeqCst)
    }
}

/// Says what the subscriber is to do, and which call it is.
fn body(plan: Plan) -> Value {
    let deed = match plan.deed {
        Deed::Complete => 0,
        Deed::CompleteIfWanted => 1,
        Deed::Cancel => 2,
        Deed::Drop => 3,
        Deed::Panic => 4,
    };
    Value::from(plan.number * 8 + deed)
}

/// Does what the call says: at once, or by a promise in the hands of a producer.
fn subscriber(world: &Arc<World>, record: &Arc<HomeRecord>, seed: u64) -> RpcSubscriber {
    let (world, record) = (Arc::clone(world), Arc::clone(record));
    RpcSubscriber::closure(move |request: RpcRequest| -> HandlerResult {
        if !record.is_here() {
            world.ledger.is_wrong(|| format!("wrong: a subscriber of {} was called off it", record.name()));
        }
        let number = request.body().as_i64().unwrap_or(0);
        let mut rng = generator(seed, "subscriber", number.unsigned_abs());
        if rng.u8(0..100) < 30 {
            return match number % 8 {
                0 | 1 => Ok(Answer::Value(request.into_body())),
                2 => Err(Failure::Cancelled.into()),
                3 => Err("on purpose".into()),
                _ => resume_unwind(Box::new(OnPurpose)),
            };
        }
        let (promise, answer) = Answer::promise()?;
        let body = request.into_body();
        let call = Box::new(move || match number % 8 {
            0 | 1 => promise.answer(Answer::Value(body)),
            2 => promise.cancel(),
            _ => drop(promise),
        });
        world.jobs.put(Job::Run(call, Delay::draw(&mut rng)));
        Ok(answer)
    })
}

fn close(pair: &Arc<Pair>, serving: &Communicator, closing: Closing, rng: &mut Rng) -> homing::Result<()> {
    let world = &pair.world;
    match closing {
        Closing::Nobody => Ok(()),
        Closing::Callers => {
            pair.callers_close.store(true, Ordering::SeqCst);
            bounded(world, || pair.callers.close())
        }
        Closing::CallersTwice => {
            pair.callers_close.store(true, Ordering::SeqCst);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| bounded(world, || pair.callers.close()));
                let one = bounded(world, || pair.callers.close());
                one.and(other.join().unwrap_or(Ok(())))
            })
        }
        Closing::CallersFromAHome => {
            pair.callers_close.store(true, Ordering::SeqCst);
            if let Some(record) = world.any_home(rng)
                && let Some(home) = record.home()
            {
                let communicator = pair.callers.to_async();
                // Its home may end before it has; then it closes all the same.
                drop(home.spawn(async move { drop(communicator.close().await) }));
            }
            Ok(())
        }
        Closing::Subscribers => {
            pair.subscribers_close.store(true, Ordering::SeqCst);
            bounded(world, || serving.close())
        }
    }
}

/// A close that takes longer than its limit is wrong; one that never ends is found by the watchdog.
fn bounded(world: &World, close: impl Fn() -> homing::Result<homing::CloseReport>) -> homing::Result<()> {
    let begun = Instant::now();
    let report = close()?;
    if world.is_due(Fault::LateClose, || true) {
        std::thread::sleep(world.patience - world.patience / 5);
    }
    world.ledger.closes.fetch_add(1, Ordering::Relaxed);
    // Its limit is half of the patience.
    if begun.elapsed() > world.patience * 3 / 4 {
        world.ledger.late_closes.fetch_add(1, Ordering::Relaxed);
        world.ledger.is_wrong(|| format!("wrong: a close took {:.1} s", begun.elapsed().as_secs_f64()));
    }
    report.error.map_or(Ok(()), Err)
}

/// Counts a call while it is under way.
struct Open(Arc<Pair>);

impl Open {
    fn new(pair: &Arc<Pair>) -> Self {
        pair.open.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(pair))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
