#[cfg(not(homing_shuttle))]
use std::collections::BTreeSet;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use engine::thread::{self, ThreadId};
use homing_home::model::{self, DrainTask, OnPurpose, RuntimeHome};
use homing_home::{Completer, Deadline, End, HomeFuture, LocalFuture, LocalHome, Outcome, ReserveError};
#[cfg(not(homing_shuttle))]
use loom as engine;
#[cfg(homing_shuttle)]
use shuttle as engine;

/// Runs a model on schedules drawn at random, and on as many of PCT with three changes of priority. The model returns how
/// many completions it sent.
///
/// The seed is `HOMING_SHUTTLE_SEED`, else drawn; `HOMING_SHUTTLE_TIMES` is how many times as many schedules are run.
///
/// # Panics
/// When the model fails.
#[cfg(homing_shuttle)]
pub fn explore_at_random(schedules: usize, body: impl Fn() -> usize + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    use std::hash::{BuildHasher, RandomState};

    fn given(name: &str) -> Option<u64> {
        std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    }

    quiet_on_purpose();
    let seed = given("HOMING_SHUTTLE_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let times = usize::try_from(given("HOMING_SHUTTLE_TIMES").unwrap_or(1)).unwrap();
    let schedules = schedules * times;
    println!("HOMING_SHUTTLE_SEED={seed}");
    let body = Arc::new(body);
    let sent = Arc::new(AtomicUsize::new(0));
    let run = |random: bool| {
        let mut config = shuttle::Config::new();
        config.stack_size = 1 << 18;
        // The seed is what brings a failure back; a schedule of this size is no use on a screen.
        config.failure_persistence = shuttle::FailurePersistence::None;
        config.max_steps = shuttle::MaxSteps::FailAfter(20_000_000);
        let (body, sent) = (Arc::clone(&body), Arc::clone(&sent));
        let model = move || {
            sent.fetch_add(body(), Ordering::Relaxed);
        };
        if random {
            shuttle::Runner::new(RandomScheduler::new_from_seed(seed, schedules), config).run(model)
        } else {
            shuttle::Runner::new(PctScheduler::new_from_seed(seed, 3, schedules), config).run(model)
        }
    };
    let (random, pct) = (run(true), run(false));
    println!("{random} random schedules, {pct} of PCT, {} sends", sent.load(Ordering::Relaxed));
    assert_eq!((random, pct), (schedules, schedules));
}

/// Explores a model, bounded at 2 preemptions unless `LOOM_MAX_PREEMPTIONS` says otherwise.
///
/// # Panics
/// When the model fails, or has a single schedule: then it looks for nothing.
#[cfg(not(homing_shuttle))]
pub fn explore(body: impl Fn() + Send + Sync + 'static) {
    quiet_on_purpose();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2);
    let iterations = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&iterations);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let iterations = iterations.load(Ordering::Relaxed);
    println!("{iterations} schedules");
    assert!(iterations > 1, "one schedule is no race");
}

/// The same for a model with several outcomes, of which each must be seen and no other.
///
/// # Panics
/// As [`explore`], and when an outcome is seen that may not be, or one that may be is not.
#[cfg(not(homing_shuttle))]
pub fn explore_outcomes<T>(may_be: &[T], body: impl Fn() -> T + Send + Sync + 'static)
where
    T: Ord + Copy + std::fmt::Debug + Send + Sync + 'static,
{
    let may_be: BTreeSet<T> = may_be.iter().copied().collect();
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let (noted, expected) = (Arc::clone(&seen), may_be.clone());
    explore(move || {
        let outcome = body();
        assert!(expected.contains(&outcome), "{outcome:?} may not be");
        noted.lock().unwrap().insert(outcome);
    });
    assert_eq!(*seen.lock().unwrap(), may_be, "outcomes that may be, and were never seen");
}

/// A panic on purpose is part of a model, and no news.
fn quiet_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !info.payload().is::<OnPurpose>() {
                usual(info);
            }
        }));
    });
}

/// Where a home is.
#[derive(Clone, Debug)]
pub enum At {
    /// On this thread.
    Thread(ThreadId),
    /// On the threads of this runtime.
    Runtime(RuntimeHome),
}

impl At {
    fn is_here(&self) -> bool {
        match self {
            At::Thread(thread) => *thread == thread::current().id(),
            At::Runtime(runtime) => runtime.is_here(),
        }
    }
}

/// Where a token was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// At its home.
    AtHome,
    /// By its sender, who had it back.
    BySender,
    /// Anywhere else.
    Away,
}

/// The values of one home: how many were made, and where each was dropped.
#[derive(Clone, Debug)]
pub struct Ledger {
    at: At,
    entries: Arc<Mutex<(usize, Vec<Dropped>)>>,
}

/// A value that notes its drop in a ledger.
#[derive(Debug)]
pub struct Token {
    ledger: Ledger,
    handed_back: bool,
}

impl Ledger {
    /// For the values of the home that is here.
    #[must_use]
    pub fn new(at: At) -> Self {
        Ledger { at, entries: Arc::default() }
    }

    /// One more value.
    ///
    /// # Panics
    /// Never: the lock is not poisoned.
    #[must_use]
    pub fn token(&self) -> Token {
        self.entries.lock().unwrap().0 += 1;
        Token { ledger: self.clone(), handed_back: false }
    }

    /// Where the values were dropped, each exactly once.
    ///
    /// # Panics
    /// When one was not dropped, or twice.
    #[must_use]
    pub fn settle(&self) -> Vec<Dropped> {
        let entries = self.entries.lock().unwrap();
        assert_eq!(entries.1.len(), entries.0, "values dropped, and values made");
        entries.1.clone()
    }

    /// The same where all must have been dropped at home.
    ///
    /// # Panics
    /// When one was not.
    pub fn settle_at_home(&self) {
        assert!(self.settle().iter().all(|dropped| *dropped == Dropped::AtHome), "a value was dropped off its home");
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let dropped = match (self.handed_back, self.ledger.at.is_here()) {
            (true, _) => Dropped::BySender,
            (false, true) => Dropped::AtHome,
            (false, false) => Dropped::Away,
        };
        self.ledger.entries.lock().unwrap().1.push(dropped);
    }
}

/// Completes; true when the value was handed back (and dropped by this sender).
pub fn complete(completer: Completer<Token>, token: Token) -> bool {
    match completer.complete(token) {
        Ok(()) => false,
        Err(mut back) => {
            back.0.handed_back = true;
            true
        }
    }
}

/// Panics while it holds the completer, and catches that.
///
/// # Panics
/// When the panic does not come.
pub fn panic_with(completer: Completer<Token>) {
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _held = completer;
        // Not through the panic hook, which shuttle has for failures.
        resume_unwind(Box::new(OnPurpose));
    }));
    assert!(panicked.unwrap_err().is::<OnPurpose>());
}

/// What a waiter saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Saw {
    /// The value.
    Value,
    /// The outcome of another future, which had no value.
    Failed,
    /// That its completer cancelled it.
    Cancelled,
    /// That its completer was dropped.
    Abandoned,
    /// Its deadline.
    TimedOut,
    /// That its home has ended.
    HomeEnded,
    /// Nothing: it had stopped waiting.
    GaveUp,
}

/// An outcome as the models compare it; its value is dropped here.
///
/// # Panics
/// When it is one that no model may see.
#[must_use]
pub fn saw<T>(outcome: Outcome<T>) -> Saw {
    match outcome {
        Ok(value) => {
            drop(value);
            Saw::Value
        }
        Err(End::WouldDeadlock) => Saw::Failed,
        Err(End::Cancelled) => Saw::Cancelled,
        Err(End::Abandoned) => Saw::Abandoned,
        Err(End::TimedOut) => Saw::TimedOut,
        Err(End::HomeEnded) => Saw::HomeEnded,
        Err(end) => panic!("an end that may not be: {end:?}"),
    }
}

/// A waker that counts, to tell which of several was woken.
#[derive(Debug, Default)]
pub struct Count(Mutex<(usize, Option<Waker>)>);

impl Count {
    /// A new one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How often it was woken.
    ///
    /// # Panics
    /// Never: the lock is not poisoned.
    #[must_use]
    pub fn woken(&self) -> usize {
        self.0.lock().unwrap().0
    }

    /// Polls something with this waker.
    pub fn poll<F: Future + Unpin>(self: &Arc<Self>, future: &mut F) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(self));
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    /// Resolves when it is woken.
    pub fn until_woken(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let count = Arc::clone(self);
        std::future::poll_fn(move |context| {
            let mut state = count.0.lock().unwrap();
            if state.0 > 0 {
                return Poll::Ready(());
            }
            state.1 = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 += 1;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a thread sleeps on that runs tasks: one bit for each that is to be polled.
#[derive(Debug, Default)]
pub struct Ready {
    bits: engine::sync::Mutex<usize>,
    changed: engine::sync::Condvar,
}

struct ReadyWaker(Arc<Ready>, usize);

impl Wake for ReadyWaker {
    fn wake(self: Arc<Self>) {
        self.0.set(self.1);
    }
}

/// A lock whose poison is no news: shuttle's threads are one of the system's, so that each of them sees the panic that
/// another one is in, and poisons.
pub fn lock<T>(mutex: &engine::sync::Mutex<T>) -> engine::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ready {
    /// With these bits set.
    #[must_use]
    pub fn new(bits: usize) -> Arc<Self> {
        Arc::new(Ready { bits: engine::sync::Mutex::new(bits), changed: engine::sync::Condvar::new() })
    }

    /// Sets a bit, from any thread.
    pub fn set(&self, bit: usize) {
        *lock(&self.bits) |= bit;
        self.changed.notify_one();
    }

    /// A waker that sets a bit.
    #[must_use]
    pub fn waker(self: &Arc<Self>, bit: usize) -> Waker {
        Waker::from(Arc::new(ReadyWaker(Arc::clone(self), bit)))
    }

    /// Takes the bits that are set, without waiting.
    #[must_use]
    pub fn take(&self) -> usize {
        std::mem::take(&mut *lock(&self.bits))
    }

    /// Sleeps until a bit is set, and takes all.
    #[must_use]
    pub fn wait(&self) -> usize {
        let mut bits = lock(&self.bits);
        while *bits == 0 {
            bits = self.changed.wait(bits).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut *bits)
    }
}

/// A kind of home, as the models use it.
pub trait Kind: 'static {
    /// Its futures.
    type Future<T: Send + 'static>: Future<Output = Outcome<T>> + Unpin + 'static;

    /// Makes the calling thread a home with so many places.
    fn new(capacity: usize) -> Self;
    /// Where it is.
    fn at(&self) -> At;
    /// A completer and its future.
    ///
    /// # Errors
    /// [`ReserveError`] when all places are taken.
    fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, Self::Future<T>), ReserveError>;
    /// The deadline of a future.
    fn deadline<T: Send + 'static>(future: &Self::Future<T>) -> Deadline;
    /// Waits while the home goes on.
    fn block_on<F: Future>(&mut self, future: F) -> F::Output;
    /// Waits for one of its futures.
    fn wait<T: Send + 'static>(&mut self, future: Self::Future<T>) -> Outcome<T>;
    /// Handles what it has been rung for.
    fn turn(&mut self);
    /// Ends the home. Nothing happens the second time.
    fn end(&mut self);
}

/// A runtime with one thread, the calling one: it polls the drain task, and one task beside it, when their wakers say so.
#[derive(Debug)]
pub struct Task {
    home: RuntimeHome,
    drain: Option<DrainTask>,
    ready: Arc<Ready>,
}

const DRAIN: usize = 1;
const TASK: usize = 2;
const STOP: usize = 4;

impl Task {
    /// The home as its other side sees it.
    #[must_use]
    pub fn home(&self) -> &RuntimeHome {
        &self.home
    }

    fn poll_drain(&mut self) {
        if let Some(drain) = &mut self.drain {
            let waker = self.ready.waker(DRAIN);
            assert!(drain.poll(&mut Context::from_waker(&waker)).is_pending(), "a drain task never resolves");
        }
    }
}

impl Kind for Task {
    type Future<T: Send + 'static> = HomeFuture<T>;

    fn new(capacity: usize) -> Self {
        let (home, drain) = model::runtime(capacity);
        home.enter();
        Task { home, drain: Some(drain), ready: Ready::new(DRAIN) }
    }

    fn at(&self) -> At {
        At::Runtime(self.home.clone())
    }

    fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), ReserveError> {
        self.home.future()
    }

    fn deadline<T: Send + 'static>(future: &HomeFuture<T>) -> Deadline {
        model::deadline(future).expect("it has not ended")
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        let waker = self.ready.waker(TASK);
        self.ready.set(TASK);
        loop {
            let bits = self.ready.wait();
            if bits & TASK != 0
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                // For the next one that waits.
                self.ready.set(bits & DRAIN);
                return output;
            }
            if bits & DRAIN != 0 {
                self.poll_drain();
            }
        }
    }

    fn wait<T: Send + 'static>(&mut self, future: HomeFuture<T>) -> Outcome<T> {
        self.block_on(future)
    }

    fn turn(&mut self) {
        while self.ready.take() & DRAIN != 0 {
            self.poll_drain();
        }
    }

    fn end(&mut self) {
        self.drain = None;
    }
}

/// A thread as a home, which sleeps on its condition variable.
#[derive(Debug)]
pub struct Local {
    home: LocalHome,
    ended: bool,
}

impl Local {
    /// The home itself.
    #[must_use]
    pub fn home(&self) -> &LocalHome {
        &self.home
    }
}

impl Kind for Local {
    type Future<T: Send + 'static> = LocalFuture<T>;

    fn new(capacity: usize) -> Self {
        Local { home: LocalHome::plain(capacity), ended: false }
    }

    fn at(&self) -> At {
        At::Thread(thread::current().id())
    }

    fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, LocalFuture<T>), ReserveError> {
        self.home.future()
    }

    fn deadline<T: Send + 'static>(future: &LocalFuture<T>) -> Deadline {
        future.deadline().expect("it has not ended")
    }

    fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        self.home.block_on(future).expect("not too deep")
    }

    fn wait<T: Send + 'static>(&mut self, future: LocalFuture<T>) -> Outcome<T> {
        future.wait()
    }

    fn turn(&mut self) {
        while self.home.turn(8) > 0 {}
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            model::end(&self.home);
        }
    }
}

/// The thread of a runtime that polls its drain task, while others of its threads poll the futures.
#[derive(Debug)]
pub struct DrainThread {
    ready: Arc<Ready>,
    thread: thread::JoinHandle<()>,
}

impl DrainThread {
    /// Starts it.
    #[must_use]
    pub fn start(home: &RuntimeHome, mut drain: DrainTask) -> Self {
        let ready = Ready::new(DRAIN);
        let (home, bits) = (home.clone(), Arc::clone(&ready));
        let thread = thread::spawn(move || {
            home.enter();
            let waker = bits.waker(DRAIN);
            loop {
                let set = bits.wait();
                if set & DRAIN != 0 {
                    assert!(drain.poll(&mut Context::from_waker(&waker)).is_pending());
                }
                if set & STOP != 0 {
                    return;
                }
            }
        });
        DrainThread { ready, thread }
    }

    /// Ends the runtime's home, and its thread.
    ///
    /// # Panics
    /// When the thread had panicked.
    pub fn stop(self) {
        self.ready.set(STOP);
        self.thread.join().unwrap();
    }
}

/// Polls a future on a thread that does not turn its home, when its waker says so.
pub fn block_on_elsewhere<F: Future>(future: F) -> F::Output {
    let ready = Ready::new(TASK);
    let waker = ready.waker(TASK);
    let mut future = pin!(future);
    loop {
        let _ = ready.wait();
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
    }
}
