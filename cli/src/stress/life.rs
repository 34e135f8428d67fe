//! What goes on at a home while it stands: it makes futures, has others complete them, and waits for them in every way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use fastrand::Rng;
use homing::home::{End, LocalHome, Outcome};

use super::decision::{Deed, Delay, FutureKind, Route};
use super::ledger::{Entry, HomeRecord, Token, Watch};
use super::producer::{Job, Work};
use super::world::World;

/// How deep blocking waits of this program may stand within each other.
const DEEPEST: usize = 8;

/// What is drawn for a home when it is put up.
pub(crate) struct Plan {
    pub rng: Rng,
    /// How many futures it makes.
    steps: u64,
    /// How many may be open at once.
    window: usize,
    /// Whether it waits for what is open before it ends.
    pub drains: bool,
}

impl Plan {
    pub(crate) fn draw(mut rng: Rng) -> Self {
        let steps = rng.u64(20..4000);
        let window = rng.usize(4..128);
        let drains = rng.u8(0..100) < 60;
        Plan { rng, steps, window, drains }
    }
}

/// The life of a home that is a thread.
pub(crate) async fn on_a_thread(home: LocalHome, world: Arc<World>, record: Arc<HomeRecord>, plan: Plan) {
    live(&world, &record, plan, |rng| step_on_a_thread(&home, &world, &record, rng)).await;
}

/// The life of a home that is a tokio runtime.
pub(crate) async fn on_a_runtime(world: Arc<World>, record: Arc<HomeRecord>, plan: Plan) {
    live(&world, &record, plan, |rng| step_on_a_runtime(&world, &record, rng)).await;
}

async fn live(world: &World, record: &HomeRecord, mut plan: Plan, mut step: impl FnMut(&mut Rng)) {
    let mut drains = plan.drains;
    for _ in 0..plan.steps {
        if world.is_stopping() {
            drains = true;
            break;
        }
        record.steps.fetch_add(1, Ordering::Relaxed);
        if record.open() >= plan.window {
            record.until_open_below(plan.window / 2 + 1).await;
        }
        step(&mut plan.rng);
        if plan.rng.u8(0..8) == 0 {
            yield_now().await;
        }
    }
    if drains {
        record.until_open_below(1).await;
    }
}

fn step_on_a_thread(home: &LocalHome, world: &Arc<World>, record: &Arc<HomeRecord>, rng: &mut Rng) {
    let kind = FutureKind::draw_on_a_thread(rng);
    let (deed, route, delay) = (Deed::draw(rng), Route::draw(rng), Delay::draw(rng));
    let time = Duration::from_micros(rng.u64(0..2000));
    let entry = Entry::new(&world.ledger, record, kind, deed, route);
    let watch = entry.watch();
    if matches!(kind, FutureKind::PolledAway | FutureKind::DroppedAway) {
        let Some(Ok((completer, future))) = record.home().map(homing::home::Home::try_future) else {
            return watch.wrong("its home made no future");
        };
        Work { completer, entry, deed, delay }.send(route, world, rng);
        return world.jobs.put(match kind {
            FutureKind::PolledAway => Job::PollAway(future, watch),
            _ => Job::DropAway(future, watch),
        });
    }
    let Ok((completer, future)) = home.future() else { return watch.wrong("its home made no future") };
    Work { completer, entry, deed, delay }.send(route, world, rng);
    let may_wait = record.depth.load(Ordering::SeqCst) < DEEPEST;
    match kind {
        FutureKind::Repolled => drop(home.spawn(repolled(future, watch))),
        FutureKind::PolledBehindItsEnd => drop(home.spawn(polled_behind_its_end(future, watch))),
        FutureKind::Callback => future.on_done(move |outcome| watch.saw(outcome)),
        FutureKind::Waited if may_wait => {
            let _waits = record.waits(kind);
            watch.saw(future.wait());
        }
        FutureKind::WaitedInCallback => drop(home.spawn(async move {
            if watch.home().depth.load(Ordering::SeqCst) < DEEPEST {
                let _waits = watch.home().waits(kind);
                watch.saw(future.wait());
            } else {
                watch.saw(future.await);
            }
        })),
        FutureKind::WaitedForATime if may_wait => {
            let _waits = record.waits(kind);
            watch.saw(future.wait_timeout(time));
        }
        FutureKind::DeadlineFromAway => {
            if let Some(deadline) = future.deadline() {
                world.jobs.put(Job::Fire(deadline, delay));
            }
            drop(home.spawn(awaited(future, watch)));
        }
        FutureKind::DroppedAtOnce => {
            watch.gives_up();
            drop(future);
        }
        FutureKind::PolledAndDropped => polled_and_dropped(future, &watch),
        _ => drop(home.spawn(awaited(future, watch))),
    }
}

fn step_on_a_runtime(world: &Arc<World>, record: &Arc<HomeRecord>, rng: &mut Rng) {
    let kind = FutureKind::draw_on_a_runtime(rng);
    let (deed, route, delay) = (Deed::draw(rng), Route::draw(rng), Delay::draw(rng));
    let time = Duration::from_micros(rng.u64(0..2000));
    let entry = Entry::new(&world.ledger, record, kind, deed, route);
    let watch = entry.watch();
    let Some(Ok((completer, future))) = record.home().map(homing::home::Home::try_future) else {
        return watch.wrong("its home made no future");
    };
    Work { completer, entry, deed, delay }.send(route, world, rng);
    match kind {
        FutureKind::Repolled => drop(tokio::spawn(repolled(future, watch))),
        FutureKind::PolledBehindItsEnd => drop(tokio::spawn(polled_behind_its_end(future, watch))),
        FutureKind::AwaitedForATime => drop(tokio::spawn(async move {
            match tokio::time::timeout(time, future).await {
                Ok(outcome) => watch.saw(outcome),
                Err(_) => watch.gives_up(),
            }
        })),
        FutureKind::DroppedAtOnce => {
            watch.gives_up();
            drop(future);
        }
        FutureKind::PolledAndDropped => polled_and_dropped(future, &watch),
        FutureKind::PolledAway => world.jobs.put(Job::PollAway(future, watch)),
        FutureKind::DroppedAway => world.jobs.put(Job::DropAway(future, watch)),
        _ => drop(tokio::spawn(awaited(future, watch))),
    }
}

async fn awaited(future: impl Future<Output = Outcome<Token>>, watch: Watch) {
    watch.saw(future.await);
}

/// A waker of nobody's, which counts.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn repolled(mut future: impl Future<Output = Outcome<Token>> + Unpin, watch: Watch) {
    let counted = Arc::new(Counted::default());
    let first = Pin::new(&mut future).poll(&mut Context::from_waker(&Waker::from(Arc::clone(&counted))));
    if let Poll::Ready(outcome) = first {
        return watch.saw(outcome);
    }
    yield_now().await;
    watch.saw(future.await);
    if counted.0.load(Ordering::Relaxed) > 1 {
        watch.wrong("its first waker was woken twice");
    }
}

async fn polled_behind_its_end(mut future: impl Future<Output = Outcome<Token>> + Unpin, watch: Watch) {
    let outcome = (&mut future).await;
    // An outcome that is there once more would be a doubled one.
    match (&mut future).await {
        Err(End::Taken) => {}
        again => watch.saw(again),
    }
    watch.saw(outcome);
}

fn polled_and_dropped(mut future: impl Future<Output = Outcome<Token>> + Unpin, watch: &Watch) {
    match Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => watch.saw(outcome),
        Poll::Pending => watch.gives_up(),
    }
}

/// Lets the others of this home have their turn.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
