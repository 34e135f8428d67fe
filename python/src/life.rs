//! The end of the interpreter, and interpreters within it.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use homing::home::fork::ForkUnderWay;
use homing::{Error, ErrorKind};
use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::errors;
use crate::loops;
use crate::still;

/// Set once the interpreter begins to end: from then on nothing is begun.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Set when those that are inside are waited for, the last thing before the interpreter ends: no other thread comes in.
static OVER: AtomicBool = AtomicBool::new(false);

/// How often threads are inside of our functions, where they may let the interpreter go.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

/// What is raised once it is over. Made before, since making it runs code of Python's.
static REFUSAL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

thread_local! {
    /// How often this thread is inside.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread ends the interpreter, which never ends this one.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

/// A thread that is inside of a function of ours which waits, or which calls code of Python's: there it lets the interpreter go, and
/// takes it again. The interpreter must not end meanwhile: it would end the thread in the middle of Rust's frames, and with it the
/// process. So this is held until nothing but the way back to Python is left, the making of the result included. Where that takes longer
/// than the interpreter waits, or Python runs where nobody holds this, the thread stands still ([`still`]).
pub(crate) struct Waiter(PhantomData<*const ()>);

impl Waiter {
    /// Comes in; `None` once it is too late for that. A thread that is inside may come in again on its way out.
    pub(crate) fn enter(_attached: Python<'_>) -> Option<Self> {
        still::arm();
        // Ordering: both are read and written by attached threads, so one after the other.
        // Guards: threads that call again whatever they are told. One of them would be inside whenever the end looks.
        if OVER.load(Ordering::SeqCst) && DEPTH.get() == 0 && !ENDS.get() {
            return None;
        }
        INSIDE.fetch_add(1, Ordering::SeqCst);
        DEPTH.set(DEPTH.get() + 1);
        Some(Waiter(PhantomData))
    }

    /// Comes in, to wait.
    ///
    /// # Errors
    /// `homing.CommunicatorClosed` when the interpreter is ending, unless this wait is part of that.
    pub(crate) fn begin(py: Python<'_>, at_the_end: AtTheEnd) -> PyResult<Self> {
        let waiter = Self::enter(py).ok_or_else(|| refusal(py))?;
        if at_the_end == AtTheEnd::Refused && ENDING.load(Ordering::SeqCst) {
            return Err(errors::of_kind(py, ErrorKind::CommunicatorClosed, IS_ENDING));
        }
        Ok(waiter)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// True once nobody comes in any more.
pub(crate) fn is_over() -> bool {
    OVER.load(Ordering::SeqCst)
}

/// Whether a wait may begin while the interpreter ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtTheEnd {
    Refused,
    Allowed,
}

const IS_ENDING: &str = "the interpreter is ending";

/// `homing.CommunicatorClosed`, by no code of Python's.
pub(crate) fn refusal(py: Python<'_>) -> PyErr {
    match REFUSAL.get(py) {
        Some(refusal) => {
            let refusal = PyErr::from_value(refusal.bind(py).clone());
            // Of whoever was refused before: it would grow with each.
            refusal.set_traceback(py, None);
            refusal
        }
        None => PyRuntimeError::new_err(IS_ENDING),
    }
}

/// From here on no wait begins but those that close.
#[pyfunction]
pub(crate) fn begin_end(py: Python<'_>) {
    REFUSAL.get_or_init(py, || errors::of_kind(py, ErrorKind::CommunicatorClosed, IS_ENDING).into_value(py).into_any());
    ENDING.store(true, Ordering::SeqCst);
}

/// The process that something belongs to. A child of a fork has a copy that nobody serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u32);

/// This process, since asking the system costs a call of it. Zero until it was first asked.
static CURRENT: AtomicU32 = AtomicU32::new(0);

impl Process {
    pub(crate) fn current() -> Self {
        match CURRENT.load(Ordering::Relaxed) {
            0 => Self::renew(),
            known => Process(known),
        }
    }

    fn renew() -> Self {
        let id = std::process::id();
        CURRENT.store(id, Ordering::Relaxed);
        Process(id)
    }

    /// True in a child of a fork.
    pub(crate) fn is_inherited(self) -> bool {
        self != Self::current()
    }

    /// That this is the process.
    ///
    /// # Errors
    /// `InvalidState` in a child of a fork.
    pub(crate) fn check(self, what: &str) -> homing::Result<()> {
        if !self.is_inherited() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidState,
            format!(
                "{what} belongs to process {}, from which this one was forked without its threads; connect a new communicator in \
                 this process",
                self.0
            ),
        ))
    }
}

/// Something of the library's that belongs to a process. A child of a fork can neither use it nor drop it: another thread of the parent
/// may have held a lock of it, which nobody opens there.
pub(crate) struct Owned<T> {
    value: Option<T>,
    process: Process,
}

impl<T> Owned<T> {
    pub(crate) fn new(value: T) -> Self {
        Owned { value: Some(value), process: Process::current() }
    }

    /// It, by its name for the error.
    ///
    /// # Errors
    /// `InvalidState` in a child of a fork.
    pub(crate) fn get(&self, what: &str) -> homing::Result<&T> {
        still::arm();
        self.process.check(what)?;
        self.value.as_ref().ok_or_else(|| Error::new(ErrorKind::InvalidState, format!("{what} is gone")))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if self.process.is_inherited() {
            mem::forget(self.value.take());
        }
    }
}

thread_local! {
    /// While this thread forks.
    static FORKS: RefCell<Option<ForkUnderWay>> = const { RefCell::new(None) };
}

/// Before a fork: no thread of ours is started until it is over.
#[pyfunction]
pub(crate) fn forks() {
    FORKS.with_borrow_mut(|forks| _ = forks.get_or_insert_with(ForkUnderWay::begin));
}

/// Behind a fork, in the parent.
#[pyfunction]
pub(crate) fn has_forked() {
    FORKS.take();
}

/// In a child of a fork: of the threads there is this one. What its loops wait for ends with an error.
#[pyfunction]
pub(crate) fn forked(py: Python<'_>) {
    FORKS.take();
    Process::renew();
    INSIDE.store(DEPTH.get(), Ordering::SeqCst);
    loops::forked(py);
}

/// Lets no other thread in any more, and waits until none is inside, for this many seconds at most. Returns how often threads still are.
#[pyfunction]
pub(crate) fn end_waiters(py: Python<'_>, seconds: f64) -> usize {
    let until = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    ENDS.set(true);
    OVER.store(true, Ordering::SeqCst);
    while INSIDE.load(Ordering::SeqCst) > DEPTH.get() && Instant::now() < until {
        py.detach(|| thread::sleep(Duration::from_millis(1)));
    }
    INSIDE.load(Ordering::SeqCst) - DEPTH.get()
}

/// One interpreter a process: homes, exceptions and caches are the process's.
#[expect(unsafe_code, reason = "there is no safe question for the interpreter that this is")]
pub(crate) fn refuse_subinterpreters(_attached: Python<'_>) -> PyResult<()> {
    // SAFETY: this thread is attached to an interpreter, which the argument shows; so there is a current one, whose number may
    // be asked for.
    let number = unsafe { pyo3::ffi::PyInterpreterState_GetID(pyo3::ffi::PyInterpreterState_Get()) };
    if number == 0 {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "homing cannot be imported in a sub-interpreter; import it in the main interpreter of the process",
    ))
}
