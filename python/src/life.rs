//! The end of the interpreter, and interpreters within it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use homing::ErrorKind;
use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

use crate::errors;

/// Set once the interpreter begins to end: from then on nothing is begun.
static ENDING: AtomicBool = AtomicBool::new(false);

/// How many threads stand in a wait of ours, detached from the interpreter.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// A thread that stands in a wait. The interpreter must not end under it: attaching again would end the thread in the middle
/// of Rust's frames, which aborts the process.
pub(crate) struct Waiter(());

impl Waiter {
    /// Begins to wait.
    ///
    /// # Errors
    /// `homing.CommunicatorClosed` when the interpreter is ending, unless this wait is part of that.
    pub(crate) fn begin(py: Python<'_>, at_the_end: AtTheEnd) -> PyResult<Self> {
        // Ordering: SeqCst on both, so that either this thread is counted before the end looks, or it sees the end.
        WAITING.fetch_add(1, Ordering::SeqCst);
        let waiter = Waiter(());
        if at_the_end == AtTheEnd::Refused && ENDING.load(Ordering::SeqCst) {
            return Err(errors::of_kind(py, ErrorKind::CommunicatorClosed, "the interpreter is ending"));
        }
        Ok(waiter)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a wait may begin while the interpreter ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtTheEnd {
    Refused,
    Allowed,
}

/// From here on no wait begins but those that close.
#[pyfunction]
pub(crate) fn begin_end() {
    ENDING.store(true, Ordering::SeqCst);
}

/// Waits until no thread stands in a wait, for this many seconds at most. Returns how many still do.
#[pyfunction]
pub(crate) fn end_waiters(py: Python<'_>, seconds: f64) -> usize {
    let until = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    py.detach(|| {
        while WAITING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    WAITING.load(Ordering::SeqCst)
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
