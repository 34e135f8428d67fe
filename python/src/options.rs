//! Options of a communicator, times, and filters, as they come from Python.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use homing::codec::{Json, Yaml};
use homing::{BroadcastFilter, CommunicatorBuilder, ErrorKind, ReconnectPolicy, TestingMode};
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::coders::{Coders, PythonCodec};
use crate::errors;
use crate::handler::Table;
use crate::values;

/// How long something may take.
#[derive(Clone, Copy)]
pub(crate) enum Limit {
    /// As the communicator has it.
    Default,
    After(Duration),
    Never,
}

impl Limit {
    /// From seconds: `None` is the default, infinity is no limit.
    ///
    /// # Errors
    /// `homing.InvalidArgument` for a time that is negative or no number.
    pub(crate) fn of(py: Python<'_>, name: &str, seconds: Option<f64>) -> PyResult<Self> {
        match seconds {
            None => Ok(Limit::Default),
            Some(seconds) if seconds == f64::INFINITY => Ok(Limit::Never),
            Some(seconds) => time(py, name, seconds).map(Limit::After),
        }
    }
}

/// A time in seconds.
///
/// # Errors
/// `homing.InvalidArgument` for one that is negative or no number.
pub(crate) fn time(py: Python<'_>, name: &str, seconds: f64) -> PyResult<Duration> {
    if seconds.is_sign_negative() && seconds != 0.0 || seconds.is_nan() {
        let text = format!("{name} is {seconds}; it is a number of seconds, zero or more");
        return Err(errors::of_kind(py, ErrorKind::InvalidArgument, text));
    }
    Ok(Duration::try_from_secs_f64(seconds.abs()).unwrap_or(Duration::MAX))
}

/// Every option of `homing.connect`; `None` is the default.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    prefix: Option<String>,
    message_exchange: Option<String>,
    task_exchange: Option<String>,
    task_queue: Option<String>,
    task_prefetch: Option<u16>,
    task_priorities: Option<u8>,
    call_timeout: Option<f64>,
    task_timeout: Option<f64>,
    connect_timeout: Option<f64>,
    operation_timeout: Option<f64>,
    close_timeout: Option<f64>,
    heartbeat: Option<f64>,
    queue_expires: Option<f64>,
    message_ttl: Option<f64>,
    task_ttl: Option<f64>,
    task_attempts: Option<(u32, f64)>,
    in_flight: Option<(usize, usize)>,
    connection_name: Option<String>,
    reconnect: bool,
    testing: bool,
    codec: Option<String>,
    encoder: Option<Py<PyAny>>,
    decoder: Option<Py<PyAny>>,
}

impl Options {
    /// The callables that write and read bodies, for the table of the communicator.
    ///
    /// # Errors
    /// `TypeError` for what cannot be called.
    pub(crate) fn take_coders(&mut self, py: Python<'_>) -> PyResult<Coders> {
        let coders = Coders { encoder: self.encoder.take(), decoder: self.decoder.take() };
        for (name, given) in [("encoder", &coders.encoder), ("decoder", &coders.decoder)] {
            if let Some(given) = given
                && !given.bind(py).is_callable()
            {
                let given = values::type_name(given.bind(py));
                return Err(PyTypeError::new_err(format!("{name} must be callable, not {given}")));
            }
        }
        Ok(coders)
    }

    /// A builder that has them all.
    ///
    /// # Errors
    /// `homing.InvalidArgument` for what is out of range.
    pub(crate) fn builder(self, py: Python<'_>, url: &str, table: &Arc<Table>) -> PyResult<CommunicatorBuilder> {
        let invalid = |text: &str| errors::of_kind(py, ErrorKind::InvalidArgument, text);
        let mut builder = homing::Communicator::builder(url);
        if let Some(prefix) = self.prefix {
            builder = builder.prefix(prefix);
        }
        if let Some(name) = self.message_exchange {
            builder = builder.message_exchange(name);
        }
        if let Some(name) = self.task_exchange {
            builder = builder.task_exchange(name);
        }
        if let Some(name) = self.task_queue {
            builder = builder.task_queue(name);
        }
        if let Some(count) = self.task_prefetch {
            builder = match NonZeroU16::new(count) {
                Some(count) => builder.task_prefetch(count),
                None => builder.unlimited_task_prefetch(),
            };
        }
        if let Some(levels) = self.task_priorities.and_then(NonZeroU8::new) {
            builder = builder.task_priorities(levels);
        }
        if let Some((attempts, pause)) = self.task_attempts {
            let attempts = NonZeroU32::new(attempts).ok_or_else(|| invalid("task_attempts has no attempt in it"))?;
            builder = builder.task_attempts(attempts, time(py, "task_attempts", pause)?);
        }
        if let Some((messages, bytes)) = self.in_flight {
            let limit = NonZeroUsize::new(messages).zip(NonZeroUsize::new(bytes));
            let (messages, bytes) = limit.ok_or_else(|| invalid("in_flight has a zero, with which nothing is sent"))?;
            builder = builder.max_in_flight(messages, bytes);
        }
        if let Some(name) = self.connection_name {
            builder = builder.connection_name(name);
        }
        type Set = fn(CommunicatorBuilder, Duration) -> CommunicatorBuilder;
        let times: [(&str, Option<f64>, Set); 9] = [
            ("call_timeout", self.call_timeout, CommunicatorBuilder::call_timeout),
            ("task_timeout", self.task_timeout, CommunicatorBuilder::task_timeout),
            ("connect_timeout", self.connect_timeout, CommunicatorBuilder::connect_timeout),
            ("operation_timeout", self.operation_timeout, CommunicatorBuilder::operation_timeout),
            ("close_timeout", self.close_timeout, CommunicatorBuilder::close_timeout),
            ("heartbeat", self.heartbeat, CommunicatorBuilder::heartbeat),
            ("queue_expires", self.queue_expires, CommunicatorBuilder::queue_expires),
            ("message_ttl", self.message_ttl, CommunicatorBuilder::message_ttl),
            ("task_ttl", self.task_ttl, CommunicatorBuilder::task_ttl),
        ];
        for (name, seconds, set) in times {
            if let Some(seconds) = seconds {
                builder = set(builder, time(py, name, seconds)?);
            }
        }
        if !self.reconnect {
            builder = builder.reconnect(ReconnectPolicy::Never);
        }
        if self.testing {
            builder = builder.testing(TestingMode::Yes);
        }
        let is_plain = table.coders.lock().is_empty();
        match self.codec.as_deref() {
            None | Some("yaml") if is_plain => Ok(builder.codec(Yaml::default())),
            None | Some("yaml") => Ok(builder.codec(PythonCodec::new(table, Yaml::default()))),
            Some("json") if is_plain => Ok(builder.codec(Json::default())),
            Some("json") => Ok(builder.codec(PythonCodec::new(table, Json::default()))),
            Some(other) => Err(invalid(&format!("the codec {other:?} is not known; there are \"yaml\" and \"json\""))),
        }
    }
}

/// Which broadcasts pass; see `homing.BroadcastFilter`.
#[pyclass(frozen)]
pub(crate) struct Filter(Mutex<BroadcastFilter>);

impl Filter {
    pub(crate) fn get(&self) -> BroadcastFilter {
        self.0.lock().clone()
    }

    fn with(
        &self,
        py: Python<'_>,
        add: impl FnOnce(BroadcastFilter) -> homing::Result<BroadcastFilter>,
    ) -> PyResult<()> {
        let mut filter = self.0.lock();
        *filter = add(filter.clone()).map_err(|error| errors::exception(py, &error))?;
        Ok(())
    }
}

#[pymethods]
impl Filter {
    #[new]
    fn new() -> Self {
        Filter(Mutex::default())
    }

    fn subject(&self, py: Python<'_>, pattern: &str) -> PyResult<()> {
        self.with(py, |filter| filter.subject(pattern))
    }

    fn subject_regex(&self, py: Python<'_>, expression: &str) -> PyResult<()> {
        self.with(py, |filter| filter.subject_regex(expression))
    }

    fn sender(&self, py: Python<'_>, pattern: &str) -> PyResult<()> {
        self.with(py, |filter| filter.sender(pattern))
    }

    fn sender_regex(&self, py: Python<'_>, expression: &str) -> PyResult<()> {
        self.with(py, |filter| filter.sender_regex(expression))
    }

    fn sender_is(&self, py: Python<'_>, sender: &Bound<'_, PyAny>) -> PyResult<()> {
        let sender = values::to_value(sender)?;
        self.with(py, |filter| Ok(filter.sender_is(sender)))
    }
}
