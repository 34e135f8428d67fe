//! What `homing.kiwipy` needs beside: a call that returns once the broker has it, and whose stages come to a loop, or to a thread
//! that serves.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use homing::home::lock::Mutex;
use homing::home::{Completer, Home, LocalHome};
use homing::{ErrorKind, Reply, ReplyStage};
use pyo3::intern;
use pyo3::prelude::*;

use crate::arguments::identifier;
use crate::call::{Call, Op};
use crate::communicator::Core;
use crate::errors;
use crate::life::{AtTheEnd, Waiter};
use crate::loops::{self, Ticket, Waiting};
use crate::options::Limit;
use crate::place::Place;
use crate::settle::{self, Output};
use crate::threads;

/// The callable of Python's that gets the stages of a reply.
enum Target {
    /// On a loop, which holds it.
    OfLoop(Ticket),
    OfThread(Py<PyAny>),
}

impl Target {
    /// At the home of this place.
    fn new(place: &Place, target: Py<PyAny>) -> Self {
        match place.loop_id().and_then(loops::by_id) {
            Some(home) => Target::OfLoop(home.hold(Waiting::Stages(target))),
            None => Target::OfThread(target),
        }
    }

    /// It, unless its loop is gone.
    fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match self {
            Target::OfLoop(ticket) => ticket.object(py).map(|target| target.into_bound(py)),
            Target::OfThread(target) => Some(target.bind(py).clone()),
        }
    }
}

/// A stage of a reply, for the callable that gets it.
pub(crate) struct Delivery {
    target: Arc<Target>,
    stage: homing::Result<ReplyStage>,
}

/// Hands an error over in the place of an outcome.
pub(crate) fn fail(py: Python<'_>, target: &Bound<'_, PyAny>, error: &homing::Error) {
    if let Err(error) = target.call1(("exception", errors::exception(py, error))) {
        error.write_unraisable(py, Some(target));
    }
}

impl Delivery {
    /// Calls `target(name, value)` with `pending`, `result` or `exception`.
    pub(crate) fn deliver(self, py: Python<'_>) {
        let Some(target) = self.target.object(py) else { return };
        let called = match self.stage {
            Ok(ReplyStage::Pending) => target.call1(("pending", py.None())),
            Ok(ReplyStage::Done(value)) => match settle::outcome(py, Ok(Output::Value(value))) {
                Ok(object) => target.call1(("result", object)),
                Err(error) => target.call1(("exception", error)),
            },
            Ok(_) => Ok(py.None().into_bound(py)),
            Err(error) => return fail(py, &target, &error),
        };
        if let Err(error) = called {
            error.write_unraisable(py, Some(&target));
        }
    }
}

/// Waited for, it returns when the broker has taken the request over, on whichever thread waits; the stages of its reply come to the
/// target, on the home of this place.
fn delivered(
    place: &Place,
    send: impl Future<Output = homing::Result<Reply>> + Send + 'static,
    target: Py<PyAny>,
) -> Call {
    let place = place.clone();
    let target = Arc::new(Target::new(&place, target));
    Call::new(async move {
        let mut reply = send.await?;
        let at = place.clone();
        place.home().spawn_uncounted(async move {
            loop {
                let stage = reply.stage().await;
                let is_last = !matches!(stage, Ok(ReplyStage::Pending));
                at.deliver(Delivery { target: Arc::clone(&target), stage });
                if is_last {
                    return;
                }
            }
        });
        Ok(Output::Nothing)
    })
}

/// A call without a deadline of its own.
#[pyfunction]
pub(crate) fn deliver_rpc(
    py: Python<'_>,
    core: &Core,
    place: &Place,
    recipient: &Bound<'_, PyAny>,
    body: &Bound<'_, PyAny>,
    target: Py<PyAny>,
) -> PyResult<Call> {
    let send = core.get(py)?.rpc_send(identifier("recipient_id", recipient)?, core.body(body)?).no_timeout();
    let home = place.home().clone();
    Ok(delivered(place, async move { send.send_for(&home).await }, target))
}

/// A task without a deadline of its own.
#[pyfunction]
pub(crate) fn deliver_task(
    py: Python<'_>,
    core: &Core,
    place: &Place,
    queue: Option<&str>,
    body: &Bound<'_, PyAny>,
    target: Py<PyAny>,
) -> PyResult<Call> {
    let send: homing::TaskSend = core.queue(py, queue)?.task_send(core.body(body)?);
    let home = place.home().clone();
    Ok(delivered(place, async move { send.no_timeout().send_for(&home).await }, target))
}

/// A done-callback that wakes who waits for the future.
#[pyclass(frozen)]
struct Done(Mutex<Option<Completer<()>>>);

#[pymethods]
impl Done {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        drop(self.0.lock().take());
    }
}

/// Waits on this thread for a future of `concurrent.futures`, so many seconds at most, while everything else of the thread's home
/// goes on.
#[pyfunction]
pub(crate) fn wait_future(py: Python<'_>, future: &Bound<'_, PyAny>, seconds: f64) -> PyResult<()> {
    let inside = Waiter::begin(py, AtTheEnd::Refused)?;
    let full = |error: homing::home::ReserveError| errors::of_kind(py, ErrorKind::Full, error.to_string());
    let limit = Limit::of(py, "timeout", Some(seconds))?;
    let home = Home::current();
    let (completer, done) = home.try_future::<()>().map_err(full)?;
    let (timer, is_time) = home.try_future::<()>().map_err(full)?;
    future.call_method1(intern!(py, "add_done_callback"), (Done(Mutex::new(Some(completer))),))?;
    let op: Op = Box::pin(async move {
        let time = match limit {
            Limit::After(time) => time,
            Limit::Default | Limit::Never => Duration::MAX,
        };
        // Dropped where there is no place for a timer, which ends the wait at once.
        let _ = LocalHome::of_this_thread().after(time, move || drop(timer));
        // Either of them.
        select(done, is_time).await;
        Ok(Output::Nothing)
    });
    threads::wait(py, op, &inside)?.map(drop).map_err(|error| errors::exception(py, &error))
}
