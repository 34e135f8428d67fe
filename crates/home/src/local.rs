//! A home that is one thread: it takes its envelopes out, runs its tasks, and waits.
//!
//! Waiting inside a task goes on doing all of it (a task that is being polled is not polled again, everything else is), so
//! that a wait within a callback within a wait does not deadlock. Plain threads, our event loop and foreign loops are this
//! home with different bells.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::audit::{self, Event};
use super::envelope::Envelope;
use super::future::Deadline;
use super::identity::Identity;
use super::inbox::{Bell, Inbox, Permit};
use super::outcome::ReserveError;
use super::panics::{guarded, report};
use super::spawn::SpawnError;
use super::stack;
use super::sync::{AtomicBool, Ordering};
use super::wait::{MAX_DEPTH, MAX_STACK, WaitRefused, admitted};

/// How many envelopes are handled before a waiting frame looks at what it waits for again.
const TURN: usize = if cfg!(homing_loom) { 2 } else { 64 };

/// Thirty years: what a timer is set to whose own time no instant can hold.
const FAR_OFF: Duration = Duration::from_secs(946_080_000);

/// One thread as a home. A handle to it; it stays on its thread.
#[derive(Clone)]
pub struct LocalHome(Rc<Local>);

struct Local {
    inbox: Arc<Inbox>,
    /// What was taken out and is still to be handled; shared by all frames that wait, so that an inner one goes on.
    tray: RefCell<VecDeque<Envelope>>,
    tasks: RefCell<HashMap<usize, Task>>,
    next_task: StdCell<usize>,
    timers: RefCell<Timers>,
    depth: StdCell<usize>,
    /// Where the stack stood at the outermost wait.
    stack_base: StdCell<usize>,
    stack_limit: StdCell<usize>,
    /// Set when the loop that this home is was asked to end.
    stopped: StdCell<bool>,
    ended: StdCell<bool>,
}

/// What is to be called when. Timers of one instant fire in the order in which they were set.
type Timers = BTreeMap<Instant, VecDeque<(Permit, Box<dyn FnOnce()>)>>;

impl Drop for Local {
    fn drop(&mut self) {
        // Guards: a home whose last handle goes without an end. Its envelopes hold the inbox and the inbox holds them.
        self.end();
    }
}

struct Task {
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Arc<TaskWaker>,
    /// `None` for a task of the library's own, which is bounded by what it answers.
    _permit: Option<Permit>,
}

struct TaskWaker {
    inbox: Arc<Inbox>,
    /// Of the task; `None` for a waiting frame.
    task: Option<usize>,
    /// Set while a wake is on its way, so that one task has one envelope at most.
    woken: AtomicBool,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Ordering: AcqRel pairs with the swap in the home, so that what was done before the wake is seen by the poll.
        if !self.woken.swap(true, Ordering::AcqRel) {
            let envelope = match self.task {
                Some(task) => Envelope::Wake(task),
                None => Envelope::Nudge,
            };
            // A home that has ended polls nothing any more.
            let _ = self.inbox.post(envelope);
        }
    }
}

impl LocalHome {
    /// Makes the calling thread a home with its own bell.
    pub(crate) fn new(bell: Bell, capacity: usize) -> Self {
        LocalHome(Rc::new(Local {
            inbox: Inbox::new(Identity::of_this_thread(), bell, capacity),
            tray: RefCell::default(),
            tasks: RefCell::default(),
            next_task: StdCell::new(0),
            timers: RefCell::default(),
            depth: StdCell::new(0),
            stack_base: StdCell::new(0),
            stack_limit: StdCell::new(MAX_STACK),
            stopped: StdCell::new(false),
            ended: StdCell::new(false),
        }))
    }

    /// Makes the calling thread a home of the plain kind, whatever it may be already. For models; programs use
    /// [`LocalHome::of_this_thread`](Self::of_this_thread).
    #[doc(hidden)]
    #[must_use]
    pub fn plain(capacity: usize) -> Self {
        Self::new(Bell::Condvar(super::sync::Condvar::default()), capacity)
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.0.inbox
    }

    /// For a thread that has more stack than others.
    pub(crate) fn set_stack_limit(&self, bytes: usize) {
        self.0.stack_limit.set(bytes);
    }

    /// When the next timer is due, where there is one.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.0.timers.borrow().first_key_value().map(|(at, _)| *at)
    }

    /// A home that has ended. For a thread that is too far in its end to have one.
    pub(crate) fn ended() -> Self {
        let home = Self::plain(0);
        home.end();
        home
    }

    /// Runs a task here, beside the others. It is polled whenever this home turns or waits. A task that panics is dropped
    /// here, and the panic is logged. The task counts as open until it has ended.
    ///
    /// # Errors
    /// The task, with [`ReserveError::Full`] when this home has as much open as it may have, or [`ReserveError::Ended`].
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, task: F) -> Result<(), SpawnError<F>> {
        match self.0.inbox.try_reserve() {
            Ok(permit) => {
                self.start(task, Some(permit));
                Ok(())
            }
            Err(error) => Err(SpawnError::new(error, task)),
        }
    }

    /// Runs a task here; on a home that has ended it is dropped at once.
    pub(crate) fn start(&self, future: impl Future<Output = ()> + 'static, permit: Option<Permit>) {
        if self.0.ended.get() {
            return guarded(|| drop((future, permit)));
        }
        let id = self.0.next_task.get();
        self.0.next_task.set(id + 1);
        let waker = Arc::new(TaskWaker { inbox: self.inbox().clone(), task: Some(id), woken: AtomicBool::new(false) });
        self.0
            .tasks
            .borrow_mut()
            .insert(id, Task { future: Some(Box::pin(future)), waker: waker.clone(), _permit: permit });
        waker.wake();
    }

    /// Calls something here after a time, on this thread, when the home turns or waits. It counts as open until then.
    ///
    /// # Errors
    /// [`ReserveError`] when this home has as much open as it may have, or has ended. What was to be called is dropped.
    pub fn after(&self, delay: Duration, call: impl FnOnce() + 'static) -> Result<(), ReserveError> {
        let permit = self.0.inbox.try_reserve()?;
        // A time that no instant can hold does not come.
        let now = Instant::now();
        let at = now.checked_add(delay).or_else(|| now.checked_add(FAR_OFF)).unwrap_or(now);
        self.0.timers.borrow_mut().entry(at).or_default().push_back((permit, Box::new(call)));
        Ok(())
    }

    /// Handles at most `limit` envelopes and whatever timers are due; returns how many envelopes it was. Never waits.
    pub fn turn(&self, limit: usize) -> usize {
        let _entered = super::current::enter(self);
        self.fire_timers();
        let mut handled = 0;
        while handled < limit {
            let Some(envelope) = self.take_one() else { break };
            self.handle(envelope);
            handled += 1;
        }
        handled
    }

    /// True when something is there to be handled.
    pub(crate) fn has_left(&self) -> bool {
        // Guards: an envelope that came into an empty inbox while the tray held others. Its ring may have been the one that
        // brought us here, and nobody rings for it again.
        !self.0.tray.borrow().is_empty() || !self.0.inbox.is_empty()
    }

    fn take_one(&self) -> Option<Envelope> {
        let mut tray = self.0.tray.borrow_mut();
        if tray.is_empty() {
            self.0.inbox.take_all(&mut tray);
        }
        tray.pop_front()
    }

    fn handle(&self, envelope: Envelope) {
        match envelope {
            Envelope::Completion(cell) => guarded(move || cell.land()),
            Envelope::Deadline(cell) => guarded(move || cell.expire()),
            Envelope::Returned(cell) => guarded(move || cell.discard()),
            Envelope::Wake(task) => self.poll_task(task),
            Envelope::Nudge => {}
            Envelope::Run(call) => self.0.inbox.call(call),
            Envelope::Permits => self.0.inbox.settle_permits(),
            Envelope::Stop => self.0.stopped.set(true),
        }
    }

    fn poll_task(&self, id: usize) {
        let (mut future, waker) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { return };
            // Being polled by an outer frame, which looks at `woken` again when it is done.
            let Some(future) = task.future.take() else { return };
            (future, Arc::clone(&task.waker))
        };
        // Guards: a wake while the task is polled. It is cleared before the poll, so that a wake from here on posts again.
        waker.woken.swap(false, Ordering::AcqRel);
        let std_waker = Waker::from(Arc::clone(&waker));
        audit::event(self.0.inbox.identity(), Event::Callback);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&std_waker))));
        match polled {
            Ok(Poll::Pending) => {
                if let Some(task) = self.0.tasks.borrow_mut().get_mut(&id) {
                    task.future = Some(future);
                } else {
                    // Guards: an end of the home within the poll. It has dropped all tasks but this one.
                    return guarded(|| drop(future));
                }
                // Guards: its wake was taken out by an inner frame while it was away; that one could not poll it.
                if waker.woken.swap(false, Ordering::AcqRel) {
                    waker.wake_by_ref();
                }
            }
            Ok(Poll::Ready(())) => {
                let task = self.0.tasks.borrow_mut().remove(&id);
                guarded(|| drop((task, future)));
            }
            Err(panic) => {
                report(panic, "a task of this home panicked and was dropped");
                let task = self.0.tasks.borrow_mut().remove(&id);
                guarded(|| drop((task, future)));
            }
        }
    }

    fn fire_timers(&self) {
        // Guards: a timer that sets itself again for at once. What is set from here on is due in the next turn.
        let now = Instant::now();
        loop {
            let due = match self.0.timers.borrow_mut().first_entry() {
                Some(mut first) if *first.key() <= now => {
                    let call = first.get_mut().pop_front();
                    if first.get().is_empty() {
                        first.remove();
                    }
                    call
                }
                _ => return,
            };
            if let Some((permit, call)) = due {
                self.0.inbox.call(call);
                drop(permit);
            }
        }
    }

    /// Sleeps until something arrives, a timer is due, or this instant.
    fn sleep(&self, until: Option<Instant>) {
        let until = match (until, self.next_timer()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.0.inbox.sleep(until);
    }

    /// Why no wait and no loop goes on here, where that is so.
    fn over(&self) -> Option<WaitRefused> {
        if self.0.ended.get() {
            Some(WaitRefused::HomeEnded)
        } else if self.0.stopped.get() {
            Some(WaitRefused::Stopped)
        } else {
            None
        }
    }

    /// Waits for a future while everything else of this home goes on.
    ///
    /// # Errors
    /// At once where a wait cannot be; and when the loop is stopped meanwhile, or the home has ended.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, WaitRefused> {
        admitted(|| self.wait_here(future, None::<(Instant, fn())>))
    }

    /// The same for at most this long: `None` when the time is up, and the future is dropped then. An inner wait that goes on past
    /// it holds it up, since frames end last in, first out.
    ///
    /// # Errors
    /// As [`block_on`](Self::block_on).
    pub fn block_on_timeout<F: Future>(&self, future: F, limit: Duration) -> Result<Option<F::Output>, WaitRefused> {
        let is_over = StdCell::new(false);
        // A time that no instant has never passes.
        let deadline = Instant::now().checked_add(limit).map(|at| (at, || is_over.set(true)));
        let mut future = pin!(future);
        let limited = poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if is_over.get() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        admitted(|| self.wait_here(limited, deadline))
    }

    /// The same; at the instant the deadline is fired, which is to end the future. An inner wait that goes on past it holds
    /// it up, since frames end last in, first out.
    pub(crate) fn block_on_until<F: Future>(
        &self,
        future: F,
        deadline: Option<(Instant, Deadline)>,
    ) -> Result<F::Output, WaitRefused> {
        let deadline = deadline.map(|(at, deadline)| (at, move || deadline.fire()));
        admitted(|| self.wait_here(future, deadline))
    }

    /// Waits; at the instant something is called, and then the future is polled once more.
    fn wait_here<F: Future>(
        &self,
        future: F,
        mut deadline: Option<(Instant, impl FnOnce())>,
    ) -> Result<F::Output, WaitRefused> {
        let _frame = self.go_deeper()?;
        let _entered = super::current::enter(self);

        let waker = Arc::new(TaskWaker { inbox: self.inbox().clone(), task: None, woken: AtomicBool::new(true) });
        let std_waker = Waker::from(Arc::clone(&waker));
        let mut context = Context::from_waker(&std_waker);
        let mut future = pin!(future);
        loop {
            // Guards: a wake whose nudge an inner frame took out. The flag stays, and is looked at before every sleep.
            if waker.woken.swap(false, Ordering::AcqRel)
                && let Poll::Ready(output) = future.as_mut().poll(&mut context)
            {
                return Ok(output);
            }
            if let Some((_, passes)) = deadline.take_if(|(at, _)| *at <= Instant::now()) {
                passes();
                waker.woken.store(true, Ordering::Release);
            }
            if let Some(refused) = self.over() {
                return Err(refused);
            }
            // Guards: what a timer has done, which counts as no envelope: a wait within it may have taken the stop of the loop,
            // the wake of this frame, or the end of the home.
            if self.turn(TURN) == 0 && !waker.woken.load(Ordering::Acquire) && self.over().is_none() {
                self.sleep(deadline.as_ref().map(|(at, _)| *at));
            }
        }
    }

    /// One more wait within the others.
    fn go_deeper(&self) -> Result<Frame<'_>, WaitRefused> {
        let depth = self.0.depth.get();
        let here = stack::position();
        if depth == 0 {
            self.0.stack_base.set(here);
        } else if depth >= MAX_DEPTH || !stack::has_room(self.0.stack_base.get(), here, self.0.stack_limit.get()) {
            return Err(WaitRefused::TooDeep);
        }
        self.0.depth.set(depth + 1);
        Ok(Frame(&self.0.depth, depth))
    }

    /// Turns until the loop is [stopped](Inbox::stop).
    pub(crate) fn run(&self) {
        let _entered = super::current::enter(self);
        while self.over().is_none() {
            if self.turn(TURN) == 0 && self.over().is_none() {
                self.sleep(None);
            }
        }
    }

    /// Ends this home, on its thread: what is posted from here on is handed back, what it holds is dropped.
    pub(crate) fn end(&self) {
        self.0.end();
    }
}

impl Local {
    fn end(&self) {
        self.ended.set(true);
        self.inbox.close();
        // Each taken out first: a drop may come back to this home. Each dropped by itself: one that panics ends itself alone.
        for (_, task) in std::mem::take(&mut *self.tasks.borrow_mut()) {
            guarded(|| drop(task));
        }
        for call in std::mem::take(&mut *self.timers.borrow_mut()).into_values().flatten() {
            guarded(|| drop(call));
        }
        for envelope in std::mem::take(&mut *self.tray.borrow_mut()) {
            envelope.end();
        }
    }
}

impl fmt::Debug for LocalHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHome").field("identity", &self.0.inbox.identity()).finish_non_exhaustive()
    }
}

/// Puts the depth back when a waiting frame ends, by a panic too.
struct Frame<'a>(&'a StdCell<usize>, usize);

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}
