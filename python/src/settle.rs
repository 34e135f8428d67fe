//! What an operation brings, and how a future of Python's gets it.

use std::sync::Arc;

use homing::{Broadcasts, CloseReport, ConnectionEvent, IncomingTask, Lagged, Value};
use pyo3::exceptions::PyStopAsyncIteration;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::coders::Form;
use crate::communicator::Core;
use crate::errors;
use crate::handler::Table;
use crate::messages;
use crate::streams::BroadcastStream;
use crate::values;

/// What an operation brings.
pub(crate) enum Output {
    Nothing,
    Value(Value),
    Text(String),
    Report(Box<CloseReport>),
    Communicator(homing::Communicator, Arc<Table>),
    Task(Box<IncomingTask>, Form),
    Broadcasts(Box<Broadcasts>),
    Broadcast(Option<Result<homing::Broadcast, Lagged>>),
    Event(Option<Box<ConnectionEvent>>),
}

impl Output {
    /// As an object. Attached, on the home that the operation was for.
    pub(crate) fn into_object(self, py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
        Ok(match self {
            Output::Nothing => py.None().into_bound(py),
            Output::Value(value) => values::to_python(py, &value)?,
            Output::Text(text) => text.into_pyobject(py)?.into_any(),
            Output::Report(report) => report_object(py, &report)?,
            Output::Communicator(communicator, subscribers) => {
                Bound::new(py, Core::new(communicator, subscribers))?.into_any()
            }
            Output::Task(task, form) => Bound::new(py, messages::IncomingTask::new(py, *task, form)?)?.into_any(),
            Output::Broadcasts(broadcasts) => Bound::new(py, BroadcastStream::new(*broadcasts))?.into_any(),
            Output::Broadcast(Some(Ok(broadcast))) => {
                Bound::new(py, messages::Broadcast::new(py, &broadcast)?)?.into_any()
            }
            Output::Broadcast(Some(Err(lagged))) => {
                py.import("homing._errors")?.getattr(intern!(py, "Lagged"))?.call1((lagged.missed,))?
            }
            Output::Event(Some(event)) => crate::streams::event_object(py, &event)?,
            Output::Broadcast(None) | Output::Event(None) => {
                return Err(PyStopAsyncIteration::new_err("the communicator has closed"));
            }
        })
    }
}

fn report_object<'py>(py: Python<'py>, report: &CloseReport) -> PyResult<Bound<'py, PyAny>> {
    let fields = PyDict::new(py);
    fields.set_item("requests_ended", report.requests_ended)?;
    fields.set_item("publishes_unconfirmed", report.publishes_unconfirmed)?;
    fields.set_item("tasks_returned", report.tasks_returned)?;
    fields.set_item("calls_refused", report.calls_refused)?;
    fields.set_item("error", report.error.as_ref().map(ToString::to_string))?;
    py.import("homing._values")?.getattr(intern!(py, "CloseReport"))?.call((), Some(&fields))
}

/// The outcome of an operation, as Python has it.
pub(crate) fn outcome(py: Python<'_>, outcome: homing::Result<Output>) -> PyResult<Bound<'_, PyAny>> {
    outcome.map_err(|error| errors::exception(py, &error))?.into_object(py)
}

/// Completes a future. One that has ended, by its owner's cancel for instance, stays as it is.
pub(crate) fn settle(py: Python<'_>, future: &Bound<'_, PyAny>, result: homing::Result<Output>) {
    let settled = future.call_method0(intern!(py, "done")).and_then(|done| {
        if done.is_truthy()? {
            return Ok(());
        }
        match outcome(py, result) {
            Ok(object) => future.call_method1(intern!(py, "set_result"), (object,)),
            Err(error) => future.call_method1(intern!(py, "set_exception"), (error,)),
        }?;
        Ok(())
    });
    if let Err(error) = settled {
        // Guards: a future of `concurrent.futures` that its owner cancels just now.
        let has_ended = future.call_method0(intern!(py, "done")).and_then(|done| done.is_truthy());
        if !has_ended.unwrap_or(false) {
            error.write_unraisable(py, Some(future));
        }
    }
}
