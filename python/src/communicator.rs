//! A communicator, as Python holds it: everything that can be asked of it, as calls that have not begun.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use homing::{ErrorKind, Identifier, TaskQueue, TaskSend};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::call::Call;
use crate::errors;
use crate::handler::{Handler, Table};
use crate::life::{AtTheEnd, Waiter};
use crate::options::{Filter, Limit, Options, time};
use crate::place::Place;
use crate::settle::Output;
use crate::streams::EventStream;

/// Connects.
#[pyfunction]
pub(crate) fn connect(py: Python<'_>, url: &str, mut options: Options) -> PyResult<Call> {
    let subscribers = Arc::new(Table::new(options.take_coders(py)?));
    let builder = options.builder(py, url, &subscribers)?;
    Ok(Call::new(async move {
        let communicator = builder.connect().await?;
        Ok(Output::Communicator(communicator, subscribers))
    }))
}

/// One communicator. When it goes, the communicator closes, and nobody waits for that.
#[pyclass(frozen, weakref)]
pub(crate) struct Core {
    communicator: homing::Communicator,
    subscribers: Arc<Table>,
}

impl Core {
    pub(crate) fn new(communicator: homing::Communicator, subscribers: Arc<Table>) -> Self {
        Core { communicator, subscribers }
    }

    /// An object as a body, or as a part of one.
    pub(crate) fn body(&self, object: &Bound<'_, PyAny>) -> PyResult<homing::Value> {
        let _inside = Waiter::begin(object.py(), AtTheEnd::Allowed)?;
        self.subscribers.form.body(object)
    }

    pub(crate) fn get(&self) -> homing::Communicator {
        self.communicator.clone()
    }

    pub(crate) fn queue(&self, py: Python<'_>, name: Option<&str>) -> PyResult<TaskQueue> {
        let communicator = self.get();
        let queue = match name {
            Some(name) => communicator.task_queue(name),
            None => communicator.default_task_queue(),
        };
        queue.map_err(|error| errors::exception(py, &error))
    }

    fn bound_queue(&self, py: Python<'_>, name: Option<&str>, place: &Place) -> PyResult<TaskQueue> {
        let communicator = self.get().bound_to(place.home());
        let queue = match name {
            Some(name) => communicator.task_queue(name),
            None => communicator.default_task_queue(),
        };
        queue.map_err(|error| errors::exception(py, &error))
    }
}

/// A name as it is written: a string, or anything else by `str`, such as a process id.
pub(crate) fn identifier(name: &Bound<'_, PyAny>) -> PyResult<Identifier> {
    let text = name.str()?;
    let text = text.to_str()?;
    Identifier::new(text).map_err(|error| errors::exception(name.py(), &error))
}

fn optional_identifier(py: Python<'_>, name: Option<&str>) -> PyResult<Option<Identifier>> {
    name.map(Identifier::new).transpose().map_err(|error| errors::exception(py, &error))
}

#[pymethods]
impl Core {
    /// A call: its outcome.
    fn rpc(
        &self,
        py: Python<'_>,
        recipient: &Bound<'_, PyAny>,
        body: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        idempotent: bool,
    ) -> PyResult<Call> {
        let send = self.get().rpc_send(identifier(recipient)?, self.body(body)?);
        let mut send = match Limit::of(py, "timeout", timeout)? {
            Limit::Default => send,
            Limit::After(time) => send.timeout(time),
            Limit::Never => send.no_timeout(),
        };
        if idempotent {
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
        no_reply: bool,
        timeout: Option<f64>,
        delay: Option<f64>,
        at: Option<f64>,
        priority: Option<u8>,
        unique: Option<&str>,
        unique_for: f64,
    ) -> PyResult<Call> {
        let send: TaskSend = self.queue(py, queue)?.task_send(self.body(body)?);
        let mut send = match Limit::of(py, "timeout", timeout)? {
            Limit::Default => send,
            Limit::After(time) => send.timeout(time),
            Limit::Never => send.no_timeout(),
        };
        if let Some(delay) = delay {
            send = send.delay(time(py, "delay", delay)?);
        }
        if let Some(at) = at {
            let at = SystemTime::UNIX_EPOCH.checked_add(time(py, "at", at)?);
            let at = at.ok_or_else(|| {
                errors::of_kind(py, ErrorKind::InvalidArgument, "at is a time that this machine does not know")
            })?;
            send = send.at(at);
        }
        if let Some(priority) = priority {
            send = send.priority(priority);
        }
        if let Some(key) = unique {
            send = send.unique(key, time(py, "unique_for", unique_for)?);
        }
        if no_reply {
            let send = send.no_reply();
            return Ok(Call::new(async move { send.await.map(|()| Output::Nothing) }));
        }
        Ok(Call::new(async move { send.await.map(Output::Value) }))
    }

    /// A broadcast: nothing, once the broker has it.
    fn broadcast(
        &self,
        body: &Bound<'_, PyAny>,
        sender: &Bound<'_, PyAny>,
        subject: &Bound<'_, PyAny>,
        correlation_id: &Bound<'_, PyAny>,
    ) -> PyResult<Call> {
        let mut send = self.get().broadcast_send(self.body(body)?);
        if !sender.is_none() {
            send = send.sender(self.body(sender)?);
        }
        if !subject.is_none() {
            send = send.subject(self.body(subject)?);
        }
        if !correlation_id.is_none() {
            send = send.correlation_id(self.body(correlation_id)?);
        }
        Ok(Call::new(async move { send.await.map(|()| Output::Nothing) }))
    }

    /// Adds a subscriber to calls: its identifier.
    fn add_rpc(
        &self,
        place: &Place,
        name: &Bound<'_, PyAny>,
        callable: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<Call> {
        let name = identifier(name)?;
        let subscriber = Handler::new(&self.subscribers, place, callable, context).rpc_subscriber();
        let communicator = self.get().bound_to(place.home());
        Ok(Call::new(async move {
            let added = communicator.add_rpc_subscriber(name, subscriber).await?;
            Ok(Output::Text(added.as_str().to_owned()))
        }))
    }

    /// Removes a subscriber to calls.
    fn remove_rpc(&self, name: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (communicator, name) = (self.get(), identifier(name)?);
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
        name: Option<&str>,
        prefetch: Option<u16>,
    ) -> PyResult<Call> {
        let name = optional_identifier(py, name)?;
        let queue = self.bound_queue(py, queue, place)?;
        let mut subscriber = Handler::new(&self.subscribers, place, callable, context).task_subscriber();
        if let Some(name) = name {
            subscriber = subscriber.with_identifier(name);
        }
        if let Some(prefetch) = prefetch {
            let prefetch = NonZeroU16::new(prefetch)
                .ok_or_else(|| errors::of_kind(py, ErrorKind::InvalidArgument, "a prefetch of 0 receives nothing"))?;
            subscriber = subscriber.with_prefetch(prefetch);
        }
        Ok(Call::new(async move {
            let added = queue.add_task_subscriber(subscriber).await?;
            Ok(Output::Text(added.as_str().to_owned()))
        }))
    }

    /// Removes a subscriber to a task queue.
    fn remove_task(&self, py: Python<'_>, queue: Option<&str>, name: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (queue, name) = (self.queue(py, queue)?, identifier(name)?);
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
        name: Option<&str>,
    ) -> PyResult<Call> {
        let name = optional_identifier(py, name)?;
        let mut subscriber = Handler::new(&self.subscribers, place, callable, context).broadcast_subscriber();
        if let Some(name) = name {
            subscriber = subscriber.with_identifier(name);
        }
        let communicator = self.get().bound_to(place.home());
        let filter = filter.get();
        Ok(Call::new(async move {
            let added = communicator.add_broadcast_subscriber(filter, subscriber).await?;
            Ok(Output::Text(added.as_str().to_owned()))
        }))
    }

    /// Removes a subscriber to broadcasts.
    fn remove_broadcast(&self, name: &Bound<'_, PyAny>) -> PyResult<Call> {
        let (communicator, name) = (self.get(), identifier(name)?);
        Ok(Call::new(async move { communicator.remove_broadcast_subscriber(&name).await.map(|()| Output::Nothing) }))
    }

    /// Subscribes to broadcasts: a stream of them.
    fn broadcasts(&self, filter: &Filter) -> Call {
        let (communicator, filter) = (self.get(), filter.get());
        Call::new(
            async move { communicator.broadcasts(filter).await.map(|stream| Output::Broadcasts(Box::new(stream))) },
        )
    }

    /// The events from now on.
    fn events(&self) -> EventStream {
        EventStream::new(self.get().events())
    }

    /// Takes a task out of a queue. Waits so many seconds for one; with None it does not wait.
    fn next_task(&self, py: Python<'_>, queue: Option<&str>, timeout: Option<f64>) -> PyResult<Call> {
        let queue = self.queue(py, queue)?;
        let limit = Limit::of(py, "timeout", timeout)?;
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
    fn close(&self, py: Python<'_>, drain: Option<f64>) -> PyResult<Call> {
        let communicator = self.get();
        let drain = drain.map(|seconds| time(py, "drain", seconds)).transpose()?;
        Ok(Call::closing(async move {
            let report = match drain {
                Some(limit) => communicator.drain(limit).await,
                None => communicator.close().await,
            };
            report.map(|report| Output::Report(Box::new(report)))
        }))
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.get().is_closed()
    }

    #[getter]
    fn state(&self) -> &'static str {
        use homing::ConnectionState;
        match self.get().connection_state() {
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
    fn server_properties(&self) -> std::collections::HashMap<String, String> {
        self.get().server_properties().into_iter().collect()
    }

    fn __repr__(&self) -> String {
        // The broker, without its password.
        format!("{:?}", self.communicator)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.subscribers.traverse(&visit)
    }

    fn __clear__(&self) {
        self.subscribers.clear();
    }
}
