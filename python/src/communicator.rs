//! A communicator, as Python holds it: everything that can be asked of it, as calls that have not begun.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use homing::{ErrorKind, TaskQueue, TaskSend};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arguments::{self, identifier};
use crate::call::Call;
use crate::errors;
use crate::handler::{Handler, Table};
use crate::life::{AtTheEnd, Owned, Waiter};
use crate::options::{Filter, Limit, Options, time};
use crate::place::Place;
use crate::settle::Output;
use crate::still;
use crate::streams::EventStream;

/// Connects.
#[pyfunction]
pub(crate) fn connect(py: Python<'_>, url: &Bound<'_, PyAny>, options: &Bound<'_, PyDict>) -> PyResult<Call> {
    still::arm();
    let url = arguments::text("url", url)?;
    let options = Options(options);
    let subscribers = Arc::new(Table::new(options.coders()?));
    let builder = options.builder(py, url, &subscribers)?;
    Ok(Call::new(async move {
        let communicator = builder.connect().await?;
        Ok(Output::Communicator(communicator, subscribers))
    }))
}

/// One communicator. When it goes, the communicator closes, and nobody waits for that.
#[pyclass(frozen, weakref)]
pub(crate) struct Core {
    communicator: Owned<homing::Communicator>,
    subscribers: Arc<Table>,
}

impl Core {
    pub(crate) fn new(communicator: homing::Communicator, subscribers: Arc<Table>) -> Self {
        Core { communicator: Owned::new(communicator), subscribers }
    }

    /// An object as a body, or as a part of one.
    pub(crate) fn body(&self, object: &Bound<'_, PyAny>) -> PyResult<homing::Value> {
        let _inside = Waiter::begin(object.py(), AtTheEnd::Allowed)?;
        self.subscribers.form.body(object)
    }

    /// What goes along with a body, of which an error names the argument that it is.
    fn part(&self, name: &str, object: &Bound<'_, PyAny>) -> PyResult<homing::Value> {
        self.body(object).map_err(|error| arguments::named(object.py(), name, error))
    }

    /// The communicator.
    ///
    /// # Errors
    /// `homing.InvalidStateError` in a child of a fork.
    pub(crate) fn get(&self, py: Python<'_>) -> PyResult<homing::Communicator> {
        let communicator = self.communicator.get("the communicator");
        communicator.cloned().map_err(|error| errors::exception(py, &error))
    }

    pub(crate) fn queue(&self, py: Python<'_>, name: Option<&str>) -> PyResult<TaskQueue> {
        let communicator = self.get(py)?;
        let queue = match name {
            Some(name) => communicator.task_queue(name),
            None => communicator.default_task_queue(),
        };
        queue.map_err(|error| errors::exception(py, &error))
    }

    fn bound_queue(&self, py: Python<'_>, name: Option<&str>, place: &Place) -> PyResult<TaskQueue> {
        let communicator = self.get(py)?.bound_to(place.home());
        let queue = match name {
            Some(name) => communicator.task_queue(name),
            None => communicator.default_task_queue(),
        };
        queue.map_err(|error| errors::exception(py, &error))
    }
}

fn limit(name: &str, seconds: &Bound<'_, PyAny>) -> PyResult<Limit> {
    Limit::of(seconds.py(), name, arguments::optional(name, seconds, arguments::seconds)?)
}

fn duration(name: &str, seconds: &Bound<'_, PyAny>) -> PyResult<Duration> {
    time(seconds.py(), name, arguments::seconds(name, seconds)?)
}

#[pymethods]
impl Core {
    /// A call: its outcome.
    fn rpc(
        &self,
        py: Python<'_>,
        recipient: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        idempotent: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let send = self.get(py)?.rpc_send(identifier("recipient", recipient)?, self.body(body)?);
        let mut send = match limit("timeout", timeout)? {
            Limit::Default => send,
            Limit::After(time) => send.timeout(time),
            Limit::Never => send.no_timeout(),
        };
        if arguments::flag("idempotent", idempotent)? {
            send = send.idempotent();
        }
        Ok(Call::new(async move { send.await.map(Output::Value) }))
    }

    /// A task: its outcome, or nothing when it is in its queue.
    #[expect(clippy::too_many_arguments, reason = "they are those of the Python function")]
    fn task(
        &self,
        py: Python<'_>,
        queue: Option<&str>,
        body: &Bound<'_, PyAny>,
        no_reply: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        delay: &Bound<'_, PyAny>,
        at: Option<f64>,
        priority: &Bound<'_, PyAny>,
        unique: &Bound<'_, PyAny>,
        unique_for: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let send: TaskSend = self.queue(py, queue)?.task_send(self.body(body)?);
        let mut send = match limit("timeout", timeout)? {
            Limit::Default => send,
            Limit::After(time) => send.timeout(time),
            Limit::Never => send.no_timeout(),
        };
        if let Some(delay) = arguments::optional("delay", delay, duration)? {
            send = send.delay(delay);
        }
        if let Some(at) = at {
            let at = SystemTime::UNIX_EPOCH.checked_add(time(py, "at", at)?);
            let at = at.ok_or_else(|| {
                errors::of_kind(py, ErrorKind::InvalidArgument, "at is a time that this machine does not know")
            })?;
            send = send.at(at);
        }
        let priority = arguments::optional("priority", priority, |name, given| {
            arguments::integer(name, given, 0, u8::MAX.into())
        })?;
        if let Some(priority) = priority {
            send = send.priority(priority);
        }
        let unique_for = duration("unique_for", unique_for)?;
        if let Some(key) = arguments::optional("unique", unique, arguments::text)? {
            send = send.unique(key, unique_for);
        }
        if arguments::flag("no_reply", no_reply)? {
            let send = send.no_reply();
            return Ok(Call::new(async move { send.await.map(|()| Output::Nothing) }));
        }
        Ok(Call::new(async move { send.await.map(Output::Value) }))
    }

    /// A broadcast: nothing, once the broker has it.
    fn broadcast(
        &self,
        py: Python<'_>,
        body: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        subject: &Bound<'_, PyAny>,
        correlation_id: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let mut send = self.get(py)?.broadcast_send(self.body(body)?);
        if !sender.is_none() {
            send = send.sender(self.part("sender", sender)?);
        }
        if !subject.is_none() {
            send = send.subject(self.part("subject", subject)?);
        }
        if !correlation_id.is_none() {
            send = send.correlation_id(self.part("correlation_id", correlation_id)?);
        }
        Ok(Call::new(async move { send.await.map(|()| Output::Nothing) }))
    }

    /// Adds a subscriber to calls: its identifier.
    fn add_rpc(
        &self,
        py: Python<'_>,
        place: &Place,
        name: &Bound<'_, PyAny>,
        callable: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<Call> {
        let communicator = self.get(py)?.bound_to(place.home());
        let name = identifier("identifier", name)?;
        let subscriber = Handler::new(&self.subscribers, place, callable, context).rpc_subscriber();
        Ok(Call::new(async move {
            let added = communicator.add_rpc_subscriber(name, subscriber).await?;
            Ok(Output::Text(added.as_str().to_owned()))
        }))
    }

    /// Removes a subscriber to calls.
    fn remove_rpc(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (communicator, name) = (self.get(py)?, identifier("identifier", name)?);
        Ok(Call::new(async move { communicator.remove_rpc_subscriber(name).await.map(|()| Output::Nothing) }))
    }

    /// Adds a subscriber to a task queue: its identifier.
    #[expect(clippy::too_many_arguments, reason = "they are those of the Python function")]
    fn add_task(
        &self,
        py: Python<'_>,
        place: &Place,
        queue: Option<&str>,
        callable: Py<PyAny>,
        context: Option<Py<PyAny>>,
        name: &Bound<'_, PyAny>,
        prefetch: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let queue = self.bound_queue(py, queue, place)?;
        let name = arguments::optional("identifier", name, identifier)?;
        let prefetch = arguments::optional("prefetch", prefetch, |name, given| {
            // Guards: one of 0, which receives nothing.
            arguments::integer(name, given, 1, u16::MAX.into())
        })?;
        let mut subscriber = Handler::new(&self.subscribers, place, callable, context).task_subscriber();
        if let Some(name) = name {
            subscriber = subscriber.with_identifier(name);
        }
        if let Some(prefetch) = prefetch.and_then(NonZeroU16::new) {
            subscriber = subscriber.with_prefetch(prefetch);
        }
        Ok(Call::new(async move {
            let added = queue.add_task_subscriber(subscriber).await?;
            Ok(Output::Text(added.as_str().to_owned()))
        }))
    }

    /// Removes a subscriber to a task queue.
    fn remove_task(&self, py: Python<'_>, queue: Option<&str>, name: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (queue, name) = (self.queue(py, queue)?, identifier("identifier", name)?);
        Ok(Call::new(async move { queue.remove_task_subscriber(&name).await.map(|()| Output::Nothing) }))
    }

    /// Adds a subscriber to broadcasts: its identifier.
    fn add_broadcast(
        &self,
        py: Python<'_>,
        place: &Place,
        filter: &Filter,
        callable: Py<PyAny>,
        context: Option<Py<PyAny>>,
        name: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let communicator = self.get(py)?.bound_to(place.home());
        let name = arguments::optional("identifier", name, identifier)?;
        let mut subscriber = Handler::new(&self.subscribers, place, callable, context).broadcast_subscriber();
        if let Some(name) = name {
            subscriber = subscriber.with_identifier(name);
        }
        let filter = filter.get();
        Ok(Call::new(async move {
            let added = communicator.add_broadcast_subscriber(filter, subscriber).await?;
            Ok(Output::Text(added.as_str().to_owned()))
        }))
    }

    /// Removes a subscriber to broadcasts.
    fn remove_broadcast(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (communicator, name) = (self.get(py)?, identifier("identifier", name)?);
        Ok(Call::new(async move { communicator.remove_broadcast_subscriber(&name).await.map(|()| Output::Nothing) }))
    }

    /// Subscribes to broadcasts: a stream of them.
    fn broadcasts(&self, py: Python<'_>, filter: &Filter) -> PyResult<Call> {
        let (communicator, filter) = (self.get(py)?, filter.get());
        Ok(Call::new(async move {
            communicator.broadcasts(filter).await.map(|stream| Output::Broadcasts(Box::new(stream)))
        }))
    }

    /// The events from now on.
    fn events(&self, py: Python<'_>) -> PyResult<EventStream> {
        Ok(EventStream::new(self.get(py)?.events()))
    }

    /// Takes a task out of a queue. Waits so many seconds for one; with None it does not wait.
    fn next_task(&self, py: Python<'_>, queue: Option<&str>, timeout: &Bound<'_, PyAny>) -> PyResult<Call> {
        let queue = self.queue(py, queue)?;
        let limit = limit("timeout", timeout)?;
        let form = self.subscribers.form;
        Ok(Call::new(async move {
            let task = match limit {
                Limit::Default => queue.try_next().await,
                Limit::After(time) => queue.next_task(time).await,
                Limit::Never => queue.next_task(Duration::MAX).await,
            };
            task.map(|task| Output::Task(Box::new(task), form))
        }))
    }

    /// Closes: a report. Work under way may end within so many seconds.
    fn close(&self, py: Python<'_>, drain: &Bound<'_, PyAny>) -> PyResult<Call> {
        let communicator = self.get(py)?;
        let drain = arguments::optional("drain", drain, duration)?;
        Ok(Call::closing(async move {
            let report = match drain {
                Some(limit) => communicator.drain(limit).await,
                None => communicator.close().await,
            };
            report.map(|report| Output::Report(Box::new(report)))
        }))
    }

    /// Closes as the interpreter ends, without a report.
    fn close_at_exit(&self, py: Python<'_>) -> PyResult<Call> {
        let communicator = self.get(py)?;
        // Guards: the class of the report, a dataclass. Importing it runs text as code, by which the interpreter forgets that a
        // Ctrl-C ends it, and leaves with 1 instead of by the signal.
        Ok(Call::closing(async move { communicator.close().await.map(|_| Output::Nothing) }))
    }

    /// That something can be done with it here: an error in a child of a fork.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        self.communicator.get("the communicator").map(drop).map_err(|error| errors::exception(py, &error))
    }

    /// True in a child of a fork, in which nothing can be done with it.
    #[getter]
    fn is_inherited(&self) -> bool {
        self.communicator.get("").is_err()
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.communicator.get("").map_or(true, homing::Communicator::is_closed)
    }

    #[getter]
    fn state(&self) -> &'static str {
        use homing::ConnectionState;
        let Ok(communicator) = self.communicator.get("") else { return "closed" };
        match communicator.connection_state() {
            ConnectionState::Connecting => "connecting",
            ConnectionState::Connected => "connected",
            ConnectionState::Blocked => "blocked",
            ConnectionState::Lost => "lost",
            ConnectionState::BackingOff => "backing_off",
            ConnectionState::Closed => "closed",
            _ => "unknown",
        }
    }

    #[getter]
    fn server_properties(&self, py: Python<'_>) -> PyResult<std::collections::HashMap<String, String>> {
        Ok(self.get(py)?.server_properties().into_iter().collect())
    }

    fn __repr__(&self) -> String {
        // The broker, without its password.
        self.communicator.get("").map_or_else(|_| "Communicator".to_owned(), |communicator| format!("{communicator:?}"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.subscribers.traverse(&visit)
    }

    fn __clear__(&self) {
        self.subscribers.clear();
    }
}
