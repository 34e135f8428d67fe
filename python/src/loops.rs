//! An asyncio loop as a home.
//!
//! The home is a [`ForeignLoop`] whose bell is a file descriptor that the loop watches: whatever completes something here
//! writes to it, once for all that has come since, and the loop turns the home from a callback of its own. So a completion is
//! made on the loop, by the loop, and whoever sends it needs no lock of the interpreter.
//!
//! A home stays on its thread, so the homes of a thread's loops are kept in a table of the thread. Its id alone travels.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use homing::home::lock::Mutex;
use homing::home::{ForeignLoop, Home};
use pyo3::exceptions::{PyNotImplementedError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyWeakrefReference};

use crate::errors;
use crate::handler::{Following, Invocation, Runner};
use crate::kiwi;
use crate::life::{Process, Waiter};
use crate::logs;
use crate::place::Place;
use crate::settle;

/// Which loop, for as long as the process runs. None is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoopId(u64);

/// How many envelopes are handled before the loop's other callbacks get their turn.
const TURN: usize = 64;

/// How many turns in a row. What is left then rings again.
const TURNS: usize = 16;

/// How often, in seconds, a loop looks at futures that somebody may have ended on a wrong thread; see [`LoopHome::follow`].
const LOOK: f64 = 0.1;

thread_local! {
    /// The homes of the loops that have run on this thread.
    static HOMES: RefCell<Vec<Rc<LoopHome>>> = const { RefCell::new(Vec::new()) };
    /// The home that is being turned on this thread. What it rings for itself is handled before the turn ends.
    static TURNED: Cell<LoopId> = const { Cell::new(LoopId(0)) };
    /// The process that this one was forked from by this thread, if loops had run on it.
    static LEFT: Cell<Option<Process>> = const { Cell::new(None) };
}

/// One loop, on its thread.
pub(crate) struct LoopHome {
    id: LoopId,
    process: Process,
    foreign: ForeignLoop,
    home: Home,
    /// Weak, so that a loop that nobody closes can go.
    event_loop: Py<PyWeakrefReference>,
    address: usize,
    bell: Arc<Bell>,
    held: Weak<Held>,
    looking: Cell<bool>,
}

/// What refers to a loop and is completed at its home. The loop holds it, by its reader, where Python's garbage collector sees it: a home
/// that held it would keep a loop that nobody closes.
#[derive(Default)]
struct Held {
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// Futures that subscribers have answered with.
    following: Mutex<Vec<Py<Following>>>,
}

/// Who waits for an outcome on a loop.
pub(crate) enum Waiting {
    /// A future of the loop.
    Future(Py<PyAny>),
    /// A callable that gets the stages of a reply.
    Stages(Py<PyAny>),
}

impl Waiting {
    fn object(&self) -> &Py<PyAny> {
        match self {
            Waiting::Future(object) | Waiting::Stages(object) => object,
        }
    }

    /// The operation cannot end any more.
    fn fail(self, py: Python<'_>, error: homing::Error) {
        match self {
            Waiting::Future(future) => settle::settle(py, future.bind(py), Err(error)),
            Waiting::Stages(target) => kiwi::fail(py, target.bind(py), &error),
        }
    }
}

impl Held {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Locked where one is taken out just now. What is not visited is kept.
        let (Some(waiting), Some(following)) = (self.waiting.try_lock(), self.following.try_lock()) else {
            return Ok(());
        };
        waiting.values().try_for_each(|waiting| visit.call(waiting.object()))?;
        following.iter().try_for_each(|following| visit.call(following))
    }

    fn clear(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let following = std::mem::take(&mut *self.following.lock());
        // Not under the locks: a drop is user code.
        drop((waiting, following));
    }
}

/// One who waits, as the loop holds it.
pub(crate) struct Ticket {
    held: Weak<Held>,
    key: u64,
}

impl Ticket {
    /// Whoever waits, unless the loop is gone.
    pub(crate) fn object(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let held = self.held.upgrade()?;
        let waiting = held.waiting.lock();
        waiting.get(&self.key).map(|waiting| waiting.object().clone_ref(py))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waiting = self.held.upgrade().and_then(|held| held.waiting.lock().remove(&self.key));
        // Not under the lock: a drop is user code.
        drop(waiting);
    }
}

/// What wakes a loop: an eventfd, or a pipe where there is none.
pub(crate) struct Bell {
    ear: OwnedFd,
    mouth: Option<OwnedFd>,
    rings: AtomicU64,
}

impl Bell {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};

        let ear = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Bell { ear, mouth: None, rings: AtomicU64::new(0) })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn new() -> std::io::Result<Self> {
        let (ear, mouth) = rustix::pipe::pipe()?;
        for end in [&ear, &mouth] {
            rustix::io::ioctl_fionbio(end, true)?;
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok(Bell { ear, mouth: Some(mouth), rings: AtomicU64::new(0) })
    }

    /// In a child of a fork, where nobody else has it: another one by the same number.
    ///
    /// Guards: the epoll that a loop of the child has in common with the parent's. A child that closes its loop would take the bell out of
    /// it, for both (uvloop does that); what is not the one that is watched cannot be taken out.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[expect(unsafe_code, reason = "a descriptor is exchanged while others refer to it by its number")]
    fn leave_to_parent(&self) {
        use std::mem::ManuallyDrop;
        use std::os::fd::FromRawFd;

        let Ok(fresh) = Self::new() else { return };
        // SAFETY: it is open, since the caller's bell has it, and is not closed here: nothing drops this second owner.
        let mut ear = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(self.ear.as_raw_fd()) });
        let _ = rustix::io::dup3(&fresh.ear, &mut ear, rustix::io::DupFlags::CLOEXEC);
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn leave_to_parent(&self) {}

    pub(crate) fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        // A full one wakes as well.
        let _ = rustix::io::write(self.mouth.as_ref().unwrap_or(&self.ear), &1_u64.to_ne_bytes());
    }

    fn clear(&self) {
        let mut read = [0; 64];
        let _ = rustix::io::read(&self.ear, &mut read[..]);
    }
}

static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The loop that runs on this thread.
///
/// # Errors
/// `RuntimeError` when none does.
fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let running = RUNNING_LOOP.get_or_try_init(py, || {
        PyResult::Ok(py.import("asyncio")?.getattr(intern!(py, "_get_running_loop"))?.unbind())
    })?;
    let event_loop = running.bind(py).call0()?;
    if event_loop.is_none() {
        if let Some(process) = LEFT.get() {
            process.check("the event loop").map_err(|error| errors::exception(py, &error))?;
        }
        return Err(PyRuntimeError::new_err(
            "there is no running event loop here; await this in a coroutine, or use homing.blocking",
        ));
    }
    Ok(event_loop)
}

pub(crate) fn by_id(id: LoopId) -> Option<Rc<LoopHome>> {
    HOMES.try_with(|homes| homes.borrow().iter().find(|home| home.id == id).cloned()).ok().flatten()
}

impl LoopHome {
    /// The home of the loop that runs here, made when it is first asked for.
    ///
    /// # Errors
    /// `RuntimeError` when none runs; `NotImplementedError` for one that cannot watch a file descriptor.
    pub(crate) fn running(py: Python<'_>) -> PyResult<Rc<Self>> {
        let event_loop = running_loop(py)?;
        let address = event_loop.as_ptr() as usize;
        let known = HOMES.with_borrow(|homes| homes.iter().find(|home| home.address == address).cloned());
        match known {
            // Guards: a loop at the address of one that is gone.
            Some(home) if home.event_loop(py).is_some_and(|known| known.is(&event_loop)) => Ok(home),
            _ => Self::open(py, &event_loop),
        }
    }

    fn open(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<Rc<Self>> {
        // Loops that went without being closed, and those that were closed on another thread.
        let is_gone = |home: &LoopHome| match home.event_loop(py) {
            Some(event_loop) => event_loop
                .call_method0(intern!(py, "is_closed"))
                .is_ok_and(|closed| closed.is_truthy().unwrap_or(false)),
            None => true,
        };
        let homes = HOMES.with_borrow(Vec::clone);
        for gone in homes.iter().filter(|home| is_gone(home)) {
            drop(take(gone.id));
        }
        drop(homes);

        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = LoopId(NEXT.fetch_add(1, Ordering::Relaxed));
        let bell = Arc::new(Bell::new()?);
        let held = Arc::<Held>::default();
        let weakly_held = Arc::downgrade(&held);
        let process = Process::current();
        let drain = Bound::new(py, Drain { id, bell: Arc::clone(&bell), held, process })?;
        event_loop.call_method1(intern!(py, "add_reader"), (bell.ear.as_raw_fd(), drain)).map_err(|error| {
            if error.is_instance_of::<PyNotImplementedError>(py) {
                PyNotImplementedError::new_err("homing needs a loop that can watch a file descriptor (add_reader)")
            } else {
                error
            }
        })?;
        let weak = PyWeakrefReference::new(event_loop)?;
        // The home has to end before the loop has closed. A loop that takes no attributes ends it when it goes.
        let before = Closer::before(event_loop);
        let closer = Bound::new(py, Closer { id, before: Mutex::new(before) })?;
        // A method, which holds the loop: a loop that is collected closes itself, when nothing finds it by a weak reference any more.
        let method = py.import(intern!(py, "types"))?.getattr(intern!(py, "MethodType"))?;
        let _ = event_loop.setattr(intern!(py, "close"), method.call1((closer, event_loop))?);

        let rung = Arc::clone(&bell);
        let foreign = ForeignLoop::new(move || {
            // On a thread that ends nothing is turned.
            if TURNED.try_with(|turned| turned.get() != id).unwrap_or(true) {
                rung.ring();
            }
        });
        let home = Rc::new(LoopHome {
            id,
            process,
            home: foreign.home(),
            foreign,
            event_loop: weak.unbind(),
            address: event_loop.as_ptr() as usize,
            bell,
            held: weakly_held,
            looking: Cell::new(false),
        });
        logs::wake_by(&home.bell);
        HOMES.with_borrow_mut(|homes| homes.push(Rc::clone(&home)));
        Ok(home)
    }

    /// The loop, while there is one.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        use pyo3::types::PyWeakrefMethods;
        self.event_loop.bind(py).upgrade()
    }

    pub(crate) fn id(&self) -> LoopId {
        self.id
    }

    pub(crate) fn place(&self) -> Place {
        Place::of_loop(self.home.clone(), self.id)
    }

    /// Runs a task here, up to its first wait at once, so that what it sends goes out in the order of these calls.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.covered(|| self.home.spawn_uncounted(task));
    }

    /// Has the loop hold who waits for an outcome here.
    pub(crate) fn hold(&self, waiting: Waiting) -> Ticket {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(held) = self.held.upgrade() {
            held.waiting.lock().insert(key, waiting);
        }
        Ticket { held: self.held.clone(), key }
    }

    /// Runs something that may ring for this home, and turns the home after it.
    fn covered<T>(&self, run: impl FnOnce() -> T) -> T {
        let turned = Turned::begin(self.id);
        let result = run();
        for turn in 1..=TURNS {
            if self.foreign.run_pending(TURN) == 0 {
                break;
            }
            if turn == TURNS {
                // Guards: what is left, whose own ring was not needed.
                self.bell.ring();
            }
        }
        drop(turned);
        result
    }

    /// Looks at a future now and then, for as long as it is open.
    ///
    /// A future of asyncio must be ended on its loop. Somebody who ends it on another thread all the same (kiwipy's users did, and
    /// it crashed) leaves a loop that was not woken; in asyncio's debug mode the callbacks are lost for ever. The outcome is
    /// there, though, and is found by looking.
    pub(crate) fn follow(&self, py: Python<'_>, following: Py<Following>) -> PyResult<()> {
        let Some(held) = self.held.upgrade() else { return Ok(()) };
        held.following.lock().push(following);
        self.look_again(py)
    }

    fn look_again(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(event_loop) = self.event_loop(py)
            && !self.looking.replace(true)
        {
            event_loop.call_method1(intern!(py, "call_later"), (LOOK, Bound::new(py, Look(self.id))?))?;
        }
        Ok(())
    }

    fn look(&self, py: Python<'_>) -> PyResult<()> {
        self.looking.set(false);
        let Some(held) = self.held.upgrade() else { return Ok(()) };
        let followed = std::mem::take(&mut *held.following.lock());
        let mut kept = Vec::new();
        for following in followed {
            if Following::is_open(&following, py)? {
                kept.push(following);
            }
        }
        let any = !kept.is_empty();
        held.following.lock().append(&mut kept);
        if any { self.look_again(py) } else { Ok(()) }
    }
}

/// While it lives, what this thread rings for this home is not rung.
struct Turned(LoopId);

impl Turned {
    fn begin(id: LoopId) -> Self {
        Turned(TURNED.replace(id))
    }
}

impl Drop for Turned {
    fn drop(&mut self) {
        TURNED.set(self.0);
    }
}

/// Runs something that may complete futures of this loop, and turns the loop's home at once where this is its thread.
pub(crate) fn covered<T>(id: LoopId, run: impl FnOnce() -> T) -> T {
    match by_id(id) {
        Some(home) => home.covered(run),
        None => run(),
    }
}

/// Has a subscriber called by its loop. On a loop that is gone nothing is called, and the sender learns that.
pub(crate) fn invoke(py: Python<'_>, id: LoopId, invocation: Invocation) {
    let Some(home) = by_id(id) else { return };
    let Some(event_loop) = home.event_loop(py) else { return };
    let context = invocation.context(py);
    let scheduled = Bound::new(py, Runner::new(invocation)).and_then(|runner| {
        let options = PyDict::new(py);
        if let Some(context) = context {
            // A copy for each, since a context cannot be entered twice.
            options.set_item(intern!(py, "context"), context.bind(py).call_method0(intern!(py, "copy"))?)?;
        }
        event_loop.call_method(intern!(py, "call_soon"), (runner,), Some(&options))
    });
    if let Err(error) = scheduled {
        // The runner is gone, and with it the completer: the sender gets an exception.
        error.write_unraisable(py, Some(&event_loop));
    }
}

/// The home of a loop and the loop itself.
pub(crate) fn with_loop(py: Python<'_>, id: LoopId) -> Option<(Rc<LoopHome>, Bound<'_, PyAny>)> {
    let home = by_id(id)?;
    let event_loop = home.event_loop(py)?;
    Some((home, event_loop))
}

/// What a loop calls when its bell has rung. As long as the loop watches the bell, it has this.
#[pyclass(frozen)]
struct Drain {
    id: LoopId,
    bell: Arc<Bell>,
    held: Arc<Held>,
    process: Process,
}

#[pymethods]
impl Drain {
    fn __call__(&self, py: Python<'_>) {
        // Guards: a child of a fork, whose loop watches the bell of its parent: that one's ring is not for it.
        if self.process.is_inherited() {
            return;
        }
        self.bell.clear();
        let Some(_inside) = Waiter::enter(py) else { return };
        // A loop that runs on another thread now has another home there.
        covered(self.id, || ());
        logs::hand_over(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.held.traverse(&visit)
    }

    fn __clear__(&self) {
        self.held.clear();
    }
}

/// What a loop calls to look at the futures that its subscribers have answered with.
#[pyclass(frozen)]
struct Look(LoopId);

#[pymethods]
impl Look {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let Some(_inside) = Waiter::enter(py) else { return Ok(()) };
        match by_id(self.0) {
            Some(home) => home.look(py),
            None => Ok(()),
        }
    }
}

/// The loop's `close`, which ends its home first.
#[pyclass(frozen)]
struct Closer {
    id: LoopId,
    /// What stood in its place: somebody else's.
    before: Mutex<Option<Py<PyAny>>>,
}

impl Closer {
    /// What stands in its place, unless that is another one: of a home of this loop on another thread.
    fn before(event_loop: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
        let py = event_loop.py();
        let own = event_loop.getattr(intern!(py, "__dict__")).ok()?;
        let found = own.get_item(intern!(py, "close")).ok()?;
        match found.getattr(intern!(py, "__func__")).ok().as_ref().map(|function| function.cast::<Closer>()) {
            Some(Ok(other)) => other.get().before.lock().as_ref().map(|before| before.clone_ref(py)),
            _ => Some(found.unbind()),
        }
    }
}

#[pymethods]
impl Closer {
    fn __call__(&self, py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
        // The process ends before it matters.
        let Some(_inside) = Waiter::enter(py) else { return Ok(()) };
        // One that runs refuses to close, and goes on. In a child of a fork there is no such home, and the bell stays its parent's.
        if !event_loop.call_method0(intern!(py, "is_running"))?.is_truthy()?
            && let Some(home) = take(self.id)
        {
            let held = home.held.upgrade();
            event_loop.call_method1(intern!(py, "remove_reader"), (home.bell.ear.as_raw_fd(),))?;
            drop(home);
            if let Some(held) = held {
                let following = std::mem::take(&mut *held.following.lock());
                // Guards: futures that never end, which refer to them and to which they refer.
                following.iter().for_each(|following| following.get().leave());
                held.clear();
            }
        }
        let before = self.before.lock().as_ref().map(|before| before.clone_ref(py));
        match &before {
            Some(before) => before.bind(py).call0()?,
            None => event_loop.get_type().getattr(intern!(py, "close"))?.call1((event_loop,))?,
        };
        // It is the loop's own again, and no longer holds the loop. One that refuses to close has refused by now.
        let _ = match before {
            Some(before) => event_loop.setattr(intern!(py, "close"), before),
            None => event_loop.delattr(intern!(py, "close")),
        };
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self.before.try_lock() {
            Some(before) => visit.call(&*before),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        let before = self.before.lock().take();
        drop(before);
    }
}

/// In a child of a fork, on the only thread that there is: what waits on its loops cannot end, and what these were to their parent
/// nobody touches.
pub(crate) fn forked(py: Python<'_>) {
    for home in HOMES.take() {
        LEFT.set(Some(home.process));
        home.bell.leave_to_parent();
        let waiting = home.held.upgrade().map(|held| std::mem::take(&mut *held.waiting.lock())).unwrap_or_default();
        for waiting in waiting.into_values() {
            if let Err(error) = home.process.check("what is awaited here") {
                waiting.fail(py, error);
            }
        }
        // Guards: locks that another thread of the parent held.
        std::mem::forget(home);
    }
}

fn take(id: LoopId) -> Option<Rc<LoopHome>> {
    HOMES.with_borrow_mut(|homes| {
        let at = homes.iter().position(|home| home.id == id)?;
        Some(homes.swap_remove(at))
    })
}

/// The home of the loop that runs here.
#[pyfunction]
pub(crate) fn here(py: Python<'_>) -> PyResult<Place> {
    Ok(LoopHome::running(py)?.place())
}

/// How often the loop that runs here has been woken. For tests.
#[pyfunction]
pub(crate) fn wakes(py: Python<'_>) -> PyResult<u64> {
    Ok(LoopHome::running(py)?.bell.rings.load(Ordering::Relaxed))
}
