//! What subscribers get, and a task that was taken from its queue.

use homing::home::lock::Mutex;
use homing::{Attempt, ErrorKind, Failure, HandlerError};
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::arguments;
use crate::coders::Form;
use crate::errors;
use crate::life::Owned;
use crate::values;

/// Why something can neither be pickled nor copied.
fn bound_to_its_connection(class: &str) -> PyErr {
    PyTypeError::new_err(format!("cannot pickle or copy a homing.{class}: it belongs to a connection of this process"))
}

/// A call, as its subscriber gets it.
#[pyclass(frozen, module = "homing")]
pub(crate) struct RpcRequest {
    /// What the caller sent.
    #[pyo3(get)]
    body: Py<PyAny>,
    request: homing::RpcRequest,
}

impl RpcRequest {
    pub(crate) fn new(py: Python<'_>, request: homing::RpcRequest) -> PyResult<Self> {
        Ok(RpcRequest { body: values::to_python(py, request.body())?.unbind(), request })
    }
}

#[pymethods]
impl RpcRequest {
    fn __reduce__(&self) -> PyResult<()> {
        Err(bound_to_its_connection("RpcRequest"))
    }

    /// The caller's mark on the call, for logs.
    #[getter]
    fn correlation_id(&self) -> Option<&str> {
        self.request.correlation_id()
    }

    /// True once it is known that nobody waits for the answer any more.
    #[getter]
    fn is_caller_gone(&self) -> bool {
        self.request.caller_gone().is_ok_and(|gone| gone.is_gone())
    }

    fn __repr__(&self) -> String {
        format!("<homing.RpcRequest correlation_id={:?}>", self.request.correlation_id().unwrap_or_default())
    }
}

/// A task, as its subscriber gets it.
#[pyclass(frozen, module = "homing")]
pub(crate) struct TaskRequest {
    /// What the sender sent.
    #[pyo3(get)]
    body: Py<PyAny>,
    request: homing::TaskRequest,
}

impl TaskRequest {
    pub(crate) fn new(py: Python<'_>, request: homing::TaskRequest) -> PyResult<Self> {
        Ok(TaskRequest { body: values::to_python(py, request.body())?.unbind(), request })
    }
}

#[pymethods]
impl TaskRequest {
    fn __reduce__(&self) -> PyResult<()> {
        Err(bound_to_its_connection("TaskRequest"))
    }

    /// True when the sender wants no reply.
    #[getter]
    fn no_reply(&self) -> bool {
        self.request.is_no_reply()
    }

    /// True when the broker has delivered this task before; that worker may have run it.
    #[getter]
    fn is_redelivered(&self) -> bool {
        self.request.is_redelivered()
    }

    /// Which attempt this is at least, from 1 on. Counted are those that `homing.TryAgain` asked for.
    #[getter]
    fn attempt(&self) -> u32 {
        match self.request.attempt() {
            Attempt::Exactly(number) | Attempt::AtLeast(number) => number,
        }
    }

    /// True once the task is known to be no longer this worker's own: it may run elsewhere now.
    #[getter]
    fn is_ownership_lost(&self) -> bool {
        self.request.ownership_lost().is_ok_and(|lost| lost.is_lost())
    }

    /// The message's own id: the same when the task comes again.
    #[getter]
    fn message_id(&self) -> Option<&str> {
        self.request.message_id()
    }

    /// The sender's mark on the task, for logs.
    #[getter]
    fn correlation_id(&self) -> Option<&str> {
        self.request.correlation_id()
    }

    fn __repr__(&self) -> String {
        format!("<homing.TaskRequest message_id={:?}>", self.request.message_id().unwrap_or_default())
    }
}

/// A broadcast, as its subscribers get it.
#[pyclass(frozen, module = "homing")]
pub(crate) struct Broadcast {
    /// What was sent.
    #[pyo3(get)]
    body: Py<PyAny>,
    /// Who sent it: a process id of any type, or None.
    #[pyo3(get)]
    sender: Py<PyAny>,
    /// The subject, or None.
    #[pyo3(get)]
    subject: Py<PyAny>,
    /// The sender's mark, or None.
    #[pyo3(get)]
    correlation_id: Py<PyAny>,
    shown: String,
}

impl Broadcast {
    pub(crate) fn new(py: Python<'_>, broadcast: &homing::Broadcast) -> PyResult<Self> {
        Ok(Broadcast {
            body: values::to_python(py, broadcast.body())?.unbind(),
            sender: values::to_python(py, broadcast.sender())?.unbind(),
            subject: values::to_python(py, broadcast.subject_value())?.unbind(),
            correlation_id: values::to_python(py, broadcast.correlation_id())?.unbind(),
            shown: broadcast.subject().unwrap_or_default().to_owned(),
        })
    }
}

/// A broadcast that was pickled, or copied.
#[pyfunction]
pub(crate) fn restored_broadcast(
    body: Py<PyAny>,
    sender: Py<PyAny>,
    subject: &Bound<'_, PyAny>,
    correlation_id: Py<PyAny>,
) -> Broadcast {
    let shown = subject.cast::<PyString>().map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
    Broadcast { body, sender, subject: subject.clone().unbind(), correlation_id, shown }
}

#[pymethods]
impl Broadcast {
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let restored = py.import("homing._native")?.getattr(intern!(py, "restored_broadcast"))?;
        let parts = PyTuple::new(py, [&self.body, &self.sender, &self.subject, &self.correlation_id])?;
        Ok((restored, parts))
    }

    fn __repr__(&self) -> String {
        format!("<homing.Broadcast subject={:?}>", self.shown)
    }
}

/// A task that was taken from its queue. It goes back unless it is finished or fails.
///
/// As a context manager it fails with the exception that leaves the block.
#[pyclass(frozen, module = "homing")]
pub(crate) struct IncomingTask {
    /// What the sender sent.
    #[pyo3(get)]
    body: Py<PyAny>,
    /// True when the sender wants no reply.
    #[pyo3(get)]
    no_reply: bool,
    message_id: Option<String>,
    form: Form,
    task: Owned<Mutex<Option<homing::IncomingTask>>>,
}

impl IncomingTask {
    pub(crate) fn new(py: Python<'_>, task: homing::IncomingTask, form: Form) -> PyResult<Self> {
        // One that Python cannot hold is dropped here, and goes back.
        let body = values::to_python(py, task.body())?.unbind();
        let request = task.request();
        let (no_reply, message_id) = (request.is_no_reply(), request.message_id().map(str::to_owned));
        Ok(IncomingTask { body, no_reply, message_id, form, task: Owned::new(Mutex::new(Some(task))) })
    }

    fn take(&self, py: Python<'_>) -> PyResult<homing::IncomingTask> {
        // The task is its parent's, and stays so.
        let task = self.task.get("the task").map_err(|error| errors::exception(py, &error))?;
        let taken = task.lock().take();
        taken.ok_or_else(|| errors::of_kind(py, ErrorKind::InvalidState, "the task was settled before"))
    }
}

#[pymethods]
impl IncomingTask {
    fn __reduce__(&self) -> PyResult<()> {
        Err(bound_to_its_connection("IncomingTask"))
    }

    /// Ends the task: it is acknowledged, and the result goes to its sender.
    #[pyo3(signature = (result=None))]
    fn finish(&self, py: Python<'_>, result: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let value = result.map_or(Ok(homing::Value::Null), |result| self.form.body(result))?;
        self.take(py)?.finish(value);
        Ok(())
    }

    /// Ends the task: it is acknowledged, and its sender gets a `homing.RemoteException` with this text. A string or an
    /// exception.
    fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut text = error.str()?.to_string_lossy().into_owned();
        if error.is_instance_of::<PyBaseException>() {
            if text.is_empty() {
                text = error.get_type().name()?.to_string_lossy().into_owned();
            }
        } else if !error.is_instance_of::<PyString>() {
            return Err(arguments::wrong("error", "a str or an exception", error));
        }
        let failure: HandlerError = Failure::Exception(text).into();
        self.take(py)?.finish(Err::<homing::Answer, _>(failure));
        Ok(())
    }

    /// Puts the task back into its queue.
    fn requeue(&self, py: Python<'_>) -> PyResult<()> {
        self.take(py)?.requeue();
        Ok(())
    }

    /// The message's own id: the same when the task comes again.
    #[getter]
    fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (_type, error, _traceback))]
    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        // Guards: a block that a child of a fork leaves, whose task is its parent's.
        let is_settled = self.task.get("the task").map_or(true, |task| task.lock().is_none());
        match (is_settled, error.is_none()) {
            (true, _) => Ok(()),
            (false, true) => self.requeue(py),
            (false, false) => self.fail(py, error),
        }
    }

    fn __repr__(&self) -> String {
        format!("<homing.IncomingTask message_id={:?}>", self.message_id.as_deref().unwrap_or_default())
    }
}
