//! The executor of a simulation. It runs inside of one `block_on` of a current-thread tokio runtime with paused time: tokio
//! gives the timers, this decides which task is polled next.
//!
//! A *group* of tasks is a thread or a home: it can be killed at one stroke, or stalled. Groups belong to a *process*. What
//! the order of wakes was never counts, only the set of tasks that are ready.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::choices::{Choices, Key, Keys, hash, mix};
use crate::home::{ForeignLoop, simulated};

thread_local! {
    static CURRENT: RefCell<Option<Rc<Simulation>>> = const { RefCell::new(None) };
}

/// A group of tasks, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group(u64);

/// The broker and whoever watches.
pub(super) const WORLD: Group = Group(0);

/// A program of the simulation, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process(pub(super) u32);

struct GroupState {
    name: Rc<str>,
    /// What its choices are keyed by: the same in every run, whatever was made before it.
    stream: u64,
    process: Process,
    kind: Kind,
    /// Those that have not ended, in the order in which they were made.
    tasks: Vec<usize>,
    killed: bool,
    panicked: bool,
    /// Not polled while it is set.
    stalled: bool,
    /// Ready while it was stalled.
    parked: Vec<usize>,
}

#[derive(Clone)]
enum Kind {
    Thread,
    /// With its capacity.
    Runtime(usize),
    Loop(Rc<ForeignLoop>),
}

struct Task {
    /// `None` while it is polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    group: Group,
    stream: u64,
    waker: Arc<TaskWaker>,
    /// The thread's own future: the group ends with it.
    is_main: bool,
}

#[derive(Default)]
struct Ready {
    woken: Mutex<Vec<usize>>,
    executor: Mutex<Option<Waker>>,
}

struct TaskWaker {
    task: usize,
    woken: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Ordering: Relaxed, for a simulation is one thread.
        if !self.woken.swap(true, Ordering::Relaxed) {
            self.ready.woken.lock().push(self.task);
            let executor = self.ready.executor.lock().take();
            if let Some(executor) = executor {
                executor.wake();
            }
        }
    }
}

/// How much may be polled.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// In one run.
    pub(super) steps: u64,
    /// In one second of virtual time.
    pub(super) steps_a_second: u64,
}

/// What the scheduler does at a choice.
const PRIORITIES: u32 = 16;
/// From this priority on a task waits for another round.
const DEFERRED: u32 = 13;

pub(crate) struct Simulation {
    choices: RefCell<Choices>,
    calm: Cell<bool>,
    trace: Cell<u64>,
    steps: Cell<u64>,
    /// The second that steps are counted in, and how many it has had.
    second: Cell<(u64, u64)>,
    bounds: Bounds,
    /// Why the run was ended early.
    stopped: RefCell<Option<String>>,
    log: Option<RefCell<Vec<String>>>,
    /// By number; `None` for one that has ended.
    tasks: RefCell<Vec<Option<Task>>>,
    /// By number.
    groups: RefCell<Vec<GroupState>>,
    names: RefCell<BTreeMap<String, u32>>,
    ready: Arc<Ready>,
    /// The tasks of this round, the next one last.
    round: RefCell<Vec<usize>>,
    panics: RefCell<Vec<String>>,
    here: Cell<Group>,
    stream: Cell<u64>,
    started: Cell<Option<tokio::time::Instant>>,
}

/// The simulation that the calling code runs in.
pub(crate) fn current() -> Option<Rc<Simulation>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

fn simulation() -> Rc<Simulation> {
    current().unwrap_or_else(|| panic!("only in a simulation"))
}

/// Anything below `n`; 0 is the harmless one.
#[track_caller]
pub(super) fn choose(n: u32) -> u32 {
    let simulation = simulation();
    let stream = simulation.stream.get();
    simulation.choose_at(n, Location::caller(), stream)
}

/// The same where the choice is for something with a number of its own, whoever asks.
#[track_caller]
pub(super) fn choose_for(whom: u64, n: u32) -> u32 {
    simulation().choose_at(n, Location::caller(), mix(whom))
}

/// True once in so many times; never for 0.
#[track_caller]
pub(super) fn one_in(n: u32) -> bool {
    let simulation = simulation();
    let stream = simulation.stream.get();
    // Not `n < 2`: once in one time is always, except when it is calm.
    n > 0 && simulation.choose_at(n.max(2), Location::caller(), stream) >= n.max(2) - 1
}

/// The same for something with a number of its own.
#[track_caller]
pub(super) fn one_in_for(whom: u64, n: u32) -> bool {
    n > 0 && simulation().choose_at(n.max(2), Location::caller(), mix(whom)) >= n.max(2) - 1
}

/// Into the log, where one is kept.
pub(super) fn note(text: impl FnOnce() -> String) {
    let Some(simulation) = current() else { return };
    let Some(log) = &simulation.log else { return };
    let here = simulation.name_of(simulation.here.get());
    let line = format!("{:>9.3} {here:<22} {}", simulation.now().as_secs_f64(), text());
    log.borrow_mut().push(line);
}

/// A name for the log.
pub(super) fn named(name: impl FnOnce() -> String) -> String {
    if current().is_some_and(|simulation| simulation.log.is_some()) { name() } else { String::new() }
}

pub(super) async fn sleep_ms(ms: u32) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(u64::from(ms))).await;
    }
}

impl Group {
    pub(crate) fn is_over(self) -> bool {
        current().is_none_or(|simulation| simulation.live_in(self) == 0)
    }

    pub(crate) fn is_here(self) -> bool {
        current().is_some_and(|simulation| simulation.here.get() == self)
    }

    pub(crate) fn has_panicked(self) -> bool {
        current().is_some_and(|simulation| simulation.with(self, |group| group.panicked) == Some(true))
    }
}

impl Simulation {
    fn choose_at(&self, n: u32, at: &Location<'_>, who: u64) -> u32 {
        if self.calm.get() {
            return 0;
        }
        let chosen = self.choices.borrow_mut().choose(n, at, who);
        self.add_to_trace(chosen.into());
        chosen
    }

    fn add_to_trace(&self, what: u64) {
        self.trace.set(mix(self.trace.get() ^ what));
    }

    /// True when a thread of the library has panicked.
    pub(super) fn has_panicked(&self) -> bool {
        !self.panics.borrow().is_empty()
    }

    /// From here on all choices are harmless.
    pub(super) fn calm(&self) {
        self.calm.set(true);
        for group in self.groups_where(|state| state.stalled) {
            self.resume(group);
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.get().map(|started| started.elapsed()).unwrap_or_default()
    }

    pub(super) fn name(&self, group: Group) -> Rc<str> {
        self.name_of(group)
    }

    /// How many futures a home like a runtime may have open.
    pub(super) fn capacity_of(&self, group: Group) -> Option<usize> {
        self.with(group, |state| match state.kind {
            Kind::Runtime(capacity) => Some(capacity),
            Kind::Thread | Kind::Loop(_) => None,
        })?
    }

    pub(super) fn here_name(&self) -> Rc<str> {
        self.name_of(self.here.get())
    }

    fn name_of(&self, group: Group) -> Rc<str> {
        self.with(group, |state| Rc::clone(&state.name)).unwrap_or_else(|| "?".into())
    }

    /// Looks at a group, or changes it.
    fn with<T>(&self, group: Group, look: impl FnOnce(&mut GroupState) -> T) -> Option<T> {
        self.groups.borrow_mut().get_mut(group.0 as usize).map(look)
    }

    fn groups_where(&self, which: impl Fn(&GroupState) -> bool) -> Vec<Group> {
        (0..).zip(&*self.groups.borrow()).filter(|(_, state)| which(state)).map(|(number, _)| Group(number)).collect()
    }

    fn new_group(&self, name: &str, process: Process, kind: Kind) -> Group {
        let mut groups = self.groups.borrow_mut();
        let group = Group(groups.len() as u64);
        let mut names = self.names.borrow_mut();
        let count = names.entry(name.to_owned()).or_insert(0);
        let name: Rc<str> = if *count == 0 { name.into() } else { format!("{name}.{count}").into() };
        *count += 1;
        let state = GroupState {
            stream: hash(&name),
            name,
            process,
            kind,
            tasks: Vec::new(),
            killed: false,
            panicked: false,
            stalled: false,
            parked: Vec::new(),
        };
        groups.push(state);
        group
    }

    /// A home like a tokio runtime.
    pub(super) fn new_runtime(&self, name: &str, process: Process, capacity: usize) -> Group {
        let group = self.new_group(name, process, Kind::Runtime(capacity));
        simulated::start(group.0, capacity);
        group
    }

    /// A home like the loop of somebody else.
    pub(super) fn new_loop(&self, name: &str, process: Process) -> Group {
        let group = self.new_group(name, process, Kind::Thread);
        let bell = Arc::new(Bell::default());
        let rung = Arc::clone(&bell);
        let home = Rc::new(ForeignLoop::new(move || rung.ring()));
        let turned = Rc::downgrade(&home);
        self.with(group, |state| state.kind = Kind::Loop(home));
        self.spawn_in(group, async move {
            loop {
                Rung(&bell).await;
                let Some(home) = turned.upgrade() else { return };
                home.run_pending(3);
            }
        });
        group
    }

    /// The home of a group that is one.
    pub(super) fn home_of(&self, group: Group) -> Option<crate::home::Home> {
        let kind = self.with(group, |state| (!state.killed).then(|| state.kind.clone()))??;
        match kind {
            Kind::Thread => None,
            Kind::Loop(home) => Some(home.home()),
            Kind::Runtime(_) => {
                let before = simulated::enter(Some(group.0));
                let home = crate::home::Home::current();
                simulated::enter(before);
                Some(home)
            }
        }
    }

    /// A thread of the process whose code is running.
    pub(crate) fn start_thread<F: Future<Output = ()> + 'static>(
        &self,
        name: &str,
        make: impl FnOnce() -> F + 'static,
    ) -> Group {
        let process = self.with(self.here.get(), |state| state.process).unwrap_or(Process(u32::MAX));
        let group = self.new_group(name, process, Kind::Thread);
        let stream = self.stream_of(group);
        self.spawn_task(group, stream, true, Box::pin(async move { make().await }));
        group
    }

    /// Runs a task in a group.
    pub(super) fn spawn_in(&self, group: Group, task: impl Future<Output = ()> + 'static) {
        let stream = self.stream_of(group);
        self.spawn_task(group, stream, false, Box::pin(task));
    }

    /// The same with a stream of choices of its own.
    pub(super) fn spawn_as(&self, group: Group, name: &str, task: impl Future<Output = ()> + 'static) {
        self.spawn_task(group, hash(name), false, Box::pin(task));
    }

    fn stream_of(&self, group: Group) -> u64 {
        self.with(group, |state| state.stream).unwrap_or(0)
    }

    fn spawn_task(&self, group: Group, stream: u64, is_main: bool, future: Pin<Box<dyn Future<Output = ()>>>) {
        let task = self.tasks.borrow().len();
        let takes = |state: &mut GroupState| {
            if !state.killed {
                state.tasks.push(task);
            }
            !state.killed
        };
        if self.with(group, takes) != Some(true) {
            self.within(group, stream, || drop(future));
            return;
        }
        let waker = Arc::new(TaskWaker { task, woken: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        let state = Task { future: Some(future), group, stream, waker: Arc::clone(&waker), is_main };
        self.tasks.borrow_mut().push(Some(state));
        waker.wake();
    }

    pub(super) fn live_in(&self, group: Group) -> usize {
        self.with(group, |state| state.tasks.len()).unwrap_or(0)
    }

    /// The groups of a process that have tasks.
    pub(super) fn groups_of(&self, process: Process) -> Vec<Group> {
        self.groups_where(|state| state.process == process && !state.killed && !state.tasks.is_empty())
    }

    /// The threads that were started in a process and have not ended, by name.
    pub(super) fn threads_of(&self, process: Process) -> Vec<String> {
        let groups = self.groups.borrow();
        let threads = groups.iter().filter(|state| state.process == process && matches!(state.kind, Kind::Thread));
        threads.filter(|state| !state.tasks.is_empty()).map(|state| state.name.to_string()).collect()
    }

    /// The end of a thread or of a home: its tasks are dropped in some order, and nothing else happens in between.
    pub(super) fn kill(&self, group: Group) {
        let stream = self.stream_of(group);
        self.with(group, |state| state.killed = true);
        loop {
            let left = self.live_in(group);
            if left == 0 {
                break;
            }
            let at = self.choose_at(left as u32, Location::caller(), stream) as usize;
            let Some(task) = self.with(group, |state| state.tasks[at]) else { return };
            self.end_task(task, group, stream);
        }
        let Some(kind) = self.with(group, |state| std::mem::replace(&mut state.kind, Kind::Thread)) else { return };
        self.within(group, stream, || {
            if let Kind::Runtime(_) = kind {
                simulated::forget(group.0);
            }
            drop(kind);
        });
    }

    /// Not polled until it is resumed: a home that blocks, a thread that the system stopped.
    pub(super) fn stall(&self, group: Group) {
        self.with(group, |state| state.stalled = true);
    }

    pub(super) fn resume(&self, group: Group) {
        let resumed = |state: &mut GroupState| {
            state.stalled = false;
            std::mem::take(&mut state.parked)
        };
        let Some(parked) = self.with(group, resumed) else { return };
        self.ready.woken.lock().extend(parked);
        let executor = self.ready.executor.lock().take();
        if let Some(executor) = executor {
            executor.wake();
        }
    }

    fn end_task(&self, task: usize, group: Group, stream: u64) {
        let ended = self.tasks.borrow_mut().get_mut(task).and_then(Option::take);
        if ended.is_some() {
            self.with(group, |state| state.tasks.binary_search(&task).map(|at| state.tasks.remove(at)));
        }
        self.within(group, stream, || drop(ended));
    }

    /// Runs something as code of a group.
    fn within<T>(&self, group: Group, stream: u64, run: impl FnOnce() -> T) -> Option<T> {
        let kind = self.with(group, |state| state.kind.clone());
        let before = (self.here.replace(group), self.stream.replace(stream), simulated::enter(Some(group.0)));
        let entered = match &kind {
            Some(Kind::Loop(home)) => Some(simulated::enter_local(home.local())),
            _ => None,
        };
        let done = catch_unwind(AssertUnwindSafe(run));
        drop(entered);
        drop(kind);
        self.here.set(before.0);
        self.stream.set(before.1);
        simulated::enter(before.2);
        match done {
            Ok(done) => Some(done),
            Err(panic) => {
                self.panicked(group, &*panic);
                None
            }
        }
    }

    fn panicked(&self, group: Group, panic: &(dyn Any + Send)) {
        let text = format!("{} panicked: {}", self.name_of(group), crate::home::panic_text(panic));
        note(|| text.clone());
        let is_thread = |state: &mut GroupState| {
            state.panicked = true;
            matches!(state.kind, Kind::Thread)
        };
        // What panics at a home is the user's own; a thread of the library never does.
        if self.with(group, is_thread) == Some(true) && group != WORLD {
            self.panics.borrow_mut().push(text);
        }
    }

    /// Puts the next round together; false when no task is ready.
    fn next_round(&self) -> bool {
        let mut woken = std::mem::take(&mut *self.ready.woken.lock());
        if woken.is_empty() {
            return false;
        }
        // The order of the wakes does not count: tokio draws some of it.
        woken.sort_unstable();
        let tasks = self.tasks.borrow();
        let mut groups = self.groups.borrow_mut();
        let mut round: Vec<(u32, usize)> = Vec::with_capacity(woken.len());
        let mut deferred = Vec::new();
        let alone = woken.len() == 1;
        for task in woken {
            let Some(state) = tasks.get(task).and_then(Option::as_ref) else { continue };
            if let Some(group) = groups.get_mut(state.group.0 as usize)
                && group.stalled
            {
                group.parked.push(task);
                continue;
            }
            let priority = if alone { 0 } else { self.choose_at(PRIORITIES, Location::caller(), state.stream) };
            if priority >= DEFERRED {
                deferred.push(task);
            } else {
                round.push((priority, task));
            }
        }
        if round.is_empty() {
            round.extend(deferred.drain(..).map(|task| (0, task)));
        }
        self.ready.woken.lock().extend(deferred);
        // The harmless order is that of the tasks' making; the next one stands last.
        round.sort_unstable_by(|one, other| other.cmp(one));
        self.round.borrow_mut().extend(round.into_iter().map(|(_, task)| task));
        true
    }

    /// Polls one task; false when none is ready.
    fn step(&self) -> bool {
        let Some(task) = ({
            let next = self.round.borrow_mut().pop();
            match next {
                None if self.next_round() => return true,
                next => next,
            }
        }) else {
            return false;
        };
        let (mut future, group, stream, waker, is_main) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(state) = tasks.get_mut(task).and_then(Option::as_mut) else { return true };
            let parked = |group: &mut GroupState| {
                if group.stalled {
                    group.parked.push(task);
                }
                group.stalled
            };
            if self.with(state.group, parked) == Some(true) {
                return true;
            }
            state.waker.woken.store(false, Ordering::Relaxed);
            let Some(future) = state.future.take() else { return true };
            (future, state.group, state.stream, Arc::clone(&state.waker), state.is_main)
        };
        let now = self.now();
        self.count_step(group, now);
        // What two runs of a seed have in common: who was polled when, and the choices.
        self.add_to_trace(task as u64 ^ now.as_nanos() as u64);
        let waker = Waker::from(waker);
        let over = self.within(group, stream, || {
            // tokio's budget is one for all tasks here, and would make them wait for each other.
            let mut future = tokio::task::unconstrained(future.as_mut());
            Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_ready()
        });
        if over == Some(false) {
            let mut tasks = self.tasks.borrow_mut();
            if let Some(state) = tasks.get_mut(task).and_then(Option::as_mut) {
                state.future = Some(future);
                return true;
            }
        }
        // Over, or killed while it was polled.
        self.within(group, stream, || drop(future));
        self.end_task(task, group, stream);
        if is_main {
            self.kill(group);
        }
        true
    }

    fn count_step(&self, group: Group, now: Duration) {
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        let now = now.as_secs();
        let (second, count) = self.second.get();
        let count = if second == now { count + 1 } else { 1 };
        self.second.set((now, count));
        if count > self.bounds.steps_a_second {
            self.stop(format!("hot loop: over {} polls in one second, at last in {}", count - 1, self.name_of(group)));
        } else if steps > self.bounds.steps {
            self.stop(format!("over {} polls: it does not end", steps - 1));
        }
    }

    fn stop(&self, why: String) {
        let mut stopped = self.stopped.borrow_mut();
        if stopped.is_none() {
            *stopped = Some(why);
        }
    }
}

/// What wakes the task of a foreign loop.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Bell {
    fn ring(&self) {
        self.rung.store(true, Ordering::Relaxed);
        let waker = self.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Rung<'a>(&'a Bell);

impl Future for Rung<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.rung.swap(false, Ordering::Relaxed) {
            return Poll::Ready(());
        }
        *self.0.waker.lock() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// What a run has come to.
pub(super) struct Run<T> {
    /// `None` when it was stopped.
    pub(super) output: Option<T>,
    pub(super) stopped: Option<String>,
    pub(super) trace: u64,
    pub(super) steps: u64,
    pub(super) time: Duration,
    pub(super) choices: Vec<Key>,
    pub(super) log: Vec<String>,
    pub(super) panics: Vec<String>,
}

/// Whether a run keeps a readable trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    Kept,
    None,
}

/// Clears what this thread has for a simulation, also when a panic ends it.
struct Cleared;

impl Drop for Cleared {
    fn drop(&mut self) {
        simulated::set_spawn(None);
        crate::ids::source::set(None);
        let simulation = CURRENT.take();
        drop(simulation);
    }
}

/// Panics of simulated code are part of the game and not for the eye.
fn quiet_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let (before, loud) = (std::panic::take_hook(), std::env::var_os("HOMING_SIM_PANICS").is_some());
        std::panic::set_hook(Box::new(move |panic| {
            if loud || current().is_none() {
                before(panic);
            }
        }));
    });
}

/// Runs a simulation to the end of its main task.
pub(super) fn run<T: 'static, F: Future<Output = T> + 'static>(
    seed: u64,
    kept: Option<Keys>,
    log: Log,
    bounds: Bounds,
    main: impl FnOnce(Rc<Simulation>) -> F,
) -> Run<T> {
    quiet_panics();
    let simulation = Rc::new(Simulation {
        choices: RefCell::new(Choices::new(seed, kept)),
        calm: Cell::new(false),
        trace: Cell::new(0),
        steps: Cell::new(0),
        second: Cell::new((0, 0)),
        bounds,
        stopped: RefCell::new(None),
        log: (log == Log::Kept).then(RefCell::default),
        tasks: RefCell::default(),
        groups: RefCell::default(),
        names: RefCell::default(),
        ready: Arc::default(),
        round: RefCell::default(),
        panics: RefCell::default(),
        here: Cell::new(WORLD),
        stream: Cell::new(0),
        started: Cell::new(None),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no tokio runtime: {error}"));
    CURRENT.set(Some(Rc::clone(&simulation)));
    let cleared = Cleared;
    crate::ids::source::set(Some(seed));
    simulated::set_spawn(Some(|number, task| {
        if let Some(simulation) = current() {
            let group = Group(number);
            let stream = simulation.stream_of(group);
            simulation.spawn_task(group, stream, false, task);
        }
    }));
    let output: Rc<RefCell<Option<T>>> = Rc::default();
    let (all, out) = (&simulation, Rc::clone(&output));
    let time = runtime.block_on(async {
        all.started.set(Some(tokio::time::Instant::now()));
        let world = all.new_group("world", Process(u32::MAX), Kind::Thread);
        assert_eq!(world, WORLD);
        let main = main(Rc::clone(all));
        all.spawn_in(WORLD, async move {
            let done = main.await;
            *out.borrow_mut() = Some(done);
        });
        std::future::poll_fn(|context| {
            loop {
                if output.borrow().is_some() || all.stopped.borrow().is_some() {
                    return Poll::Ready(());
                }
                // Guards: a wake between the last look and the return.
                let waker = all.ready.executor.lock().replace(context.waker().clone());
                drop(waker);
                if !all.step() {
                    return Poll::Pending;
                }
            }
        })
        .await;
        let time = all.now();
        all.calm.set(true);
        for group in all.groups_where(|_| true).into_iter().rev() {
            all.kill(group);
        }
        super::broker::forget();
        time
    });
    drop(runtime);
    let output = output.borrow_mut().take();
    let run = Run {
        output,
        stopped: simulation.stopped.take(),
        trace: simulation.trace.get() ^ simulation.steps.get(),
        steps: simulation.steps.get(),
        time,
        choices: simulation.choices.borrow().made().to_vec(),
        log: simulation.log.as_ref().map(RefCell::take).unwrap_or_default(),
        panics: simulation.panics.take(),
    };
    drop(cleared);
    run
}

/// A future that is dropped after some polls, or not.
pub(super) struct Dropped<F> {
    future: Option<Pin<Box<F>>>,
    polls_left: Option<u32>,
}

impl<F: Future> Dropped<F> {
    /// Once in `odds` times it is dropped after its first poll or a later one.
    #[track_caller]
    pub(super) fn perhaps(future: F, odds: u32) -> Self {
        let polls_left = one_in(odds).then(|| [1, 1, 2, 2, 3, 4, 6, 9][choose(8) as usize]);
        Dropped { future: Some(Box::pin(future)), polls_left }
    }
}

impl<F: Future> Future for Dropped<F> {
    /// `None` when it was dropped.
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.future else { return Poll::Ready(None) };
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            self.future = None;
            return Poll::Ready(Some(output));
        }
        if let Some(left) = &mut self.polls_left {
            *left -= 1;
            if *left == 0 {
                self.future = None;
                return Poll::Ready(None);
            }
        }
        Poll::Pending
    }
}
