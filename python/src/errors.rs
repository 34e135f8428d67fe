//! Errors of homing as exceptions of the package, which are made in Python (`homing/_errors.py`).

use homing::{Error, ErrorKind};
use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::life::{self, Waiter};
use crate::values;

static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The exception of this error, with its text. An exception of a user's encoder or decoder is its cause; one that ends a program
/// stays what it is.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let Some(_inside) = Waiter::enter(py) else { return life::refusal(py) };
    let cause = raised(error).map(|cause| cause.clone_ref(py));
    if let Some(exit) = &cause
        && !exit.is_instance_of::<PyException>(py)
    {
        return exit.clone_ref(py);
    }
    let made = make(py, error).unwrap_or_else(|failed| failed);
    if cause.is_some() {
        made.set_cause(py, cause);
    }
    made
}

/// The exception of Python's that caused it.
fn raised(error: &Error) -> Option<&PyErr> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(raised) = error.downcast_ref::<PyErr>() {
            return Some(raised);
        }
        source = error.source();
    }
    None
}

/// An exception of this kind.
pub(crate) fn of_kind(py: Python<'_>, kind: ErrorKind, text: impl Into<String>) -> PyErr {
    exception(py, &Error::new(kind, text))
}

fn make(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let make = MAKE.get_or_try_init(py, || {
        PyResult::Ok(py.import("homing._errors")?.getattr(intern!(py, "from_native"))?.unbind())
    })?;
    let kind = format!("{:?}", error.kind());
    let details = match error.remote_details() {
        Some(details) => Some((
            details.type_name().map(str::to_owned),
            details.chain().to_vec(),
            values::to_python(py, details.data())?.unbind(),
        )),
        None => None,
    };
    let made = make.bind(py).call1((kind, error.to_string(), error.remote_text(), details))?;
    Ok(PyErr::from_value(made))
}
