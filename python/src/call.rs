//! One operation of a communicator, which has not begun: it is started on a loop, waited for on a thread, or handed to a thread
//! that serves.

use std::pin::Pin;

use futures_util::future::{AbortHandle, Abortable};
use homing::ErrorKind;
use homing::home::lock::Mutex;
use pyo3::intern;
use pyo3::prelude::*;

use crate::errors;
use crate::life::{AtTheEnd, Process, Waiter};
use crate::loops::{self, LoopHome, LoopId, Waiting};
use crate::place::Place;
use crate::settle::{self, Output};
use crate::threads::{self, Work};

/// What an operation is on this side.
pub(crate) type Op = Pin<Box<dyn Future<Output = homing::Result<Output>> + Send>>;

/// One operation. It does nothing until it is started or waited for, and only once.
#[pyclass(frozen)]
pub(crate) struct Call {
    op: Mutex<Option<Op>>,
    begun: Mutex<Option<(AbortHandle, LoopId)>>,
    at_the_end: AtTheEnd,
    process: Process,
}

impl Call {
    pub(crate) fn new(op: impl Future<Output = homing::Result<Output>> + Send + 'static) -> Self {
        Call {
            op: Mutex::new(Some(Box::pin(op))),
            begun: Mutex::default(),
            at_the_end: AtTheEnd::Refused,
            process: Process::current(),
        }
    }

    /// One that may be waited for while the interpreter ends, since it is part of that.
    pub(crate) fn closing(op: impl Future<Output = homing::Result<Output>> + Send + 'static) -> Self {
        Call { at_the_end: AtTheEnd::Allowed, ..Self::new(op) }
    }

    fn take(&self, py: Python<'_>) -> PyResult<Op> {
        self.process.check("this call").map_err(|error| errors::exception(py, &error))?;
        self.op.lock().take().ok_or_else(|| errors::of_kind(py, ErrorKind::InvalidState, "this call has begun before"))
    }
}

#[pymethods]
impl Call {
    /// Starts on the running loop and returns a future of that loop.
    fn start<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let _inside = Waiter::begin(py, AtTheEnd::Allowed)?;
        let home = LoopHome::running(py)?;
        let (_, event_loop) = loops::with_loop(py, home.id())
            .ok_or_else(|| errors::of_kind(py, ErrorKind::HomeEnded, "the event loop is being closed"))?;
        let future = event_loop.call_method0(intern!(py, "create_future"))?;
        let op = self.take(py)?;
        let (abort, registration) = AbortHandle::new_pair();
        *self.begun.lock() = Some((abort, home.id()));
        let ticket = home.hold(Waiting::Future(future.clone().unbind()));
        home.spawn(async move {
            if let Ok(outcome) = Abortable::new(op, registration).await {
                // Attached: the loop turns its home from a callback of its own.
                Python::attach(|py| {
                    if let Some(future) = ticket.object(py) {
                        settle::settle(py, future.bind(py), outcome);
                    }
                });
            }
        });
        Ok(future)
    }

    /// Gives it up: what it has asked for is free at once.
    fn abort(&self, py: Python<'_>) {
        let Some(_inside) = Waiter::enter(py) else { return };
        if self.process.is_inherited() {
            return;
        }
        if let Some((abort, id)) = self.begun.lock().take() {
            loops::covered(id, || abort.abort());
        }
    }

    /// Waits for it on the calling thread, with the interpreter released.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let inside = Waiter::begin(py, self.at_the_end)?;
        let op = self.take(py)?;
        settle::outcome(py, threads::wait(py, op, &inside)?)
    }

    /// Starts on a thread that serves, and completes a future of `concurrent.futures` there.
    fn submit(&self, py: Python<'_>, place: &Place, future: Py<PyAny>) -> PyResult<()> {
        let op = self.take(py)?;
        place.home().spawn_uncounted(async move {
            let outcome = op.await;
            threads::push(Work::Settle { future, outcome });
        });
        Ok(())
    }
}
