//! Options of a communicator, times, and filters, as they come from Python.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use homing::codec::{Json, Yaml};
use homing::home::lock::Mutex;
use homing::{BroadcastFilter, CommunicatorBuilder, ErrorKind, ReconnectPolicy, TestingMode};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::arguments;
use crate::coders::{Coders, PythonCodec};
use crate::errors;
use crate::handler::Table;
use crate::still;
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

/// Every option of `homing.connect`, by its name; `None` is the default.
pub(crate) struct Options<'a, 'py>(pub(crate) &'a Bound<'py, PyDict>);

impl<'py> Options<'_, 'py> {
    /// An option, if it was given.
    fn read<T>(&self, name: &str, read: impl FnOnce(&str, &Bound<'py, PyAny>) -> PyResult<T>) -> PyResult<Option<T>> {
        match self.0.get_item(name)? {
            Some(given) => arguments::optional(name, &given, read),
            None => Ok(None),
        }
    }

    /// The callables that write and read bodies, for the table of the communicator.
    ///
    /// # Errors
    /// `TypeError` for what cannot be called.
    pub(crate) fn coders(&self) -> PyResult<Coders> {
        let callable = |name: &str, given: &Bound<'_, PyAny>| {
            if given.is_callable() {
                Ok(given.clone().unbind())
            } else {
                Err(arguments::wrong(name, "callable", given))
            }
        };
        Ok(Coders { encoder: self.read("encoder", callable)?, decoder: self.read("decoder", callable)? })
    }

    /// A builder that has them all.
    ///
    /// # Errors
    /// `TypeError` for what is of a wrong type, `homing.InvalidArgument` for what is out of range.
    pub(crate) fn builder(&self, py: Python<'_>, url: &str, table: &Arc<Table>) -> PyResult<CommunicatorBuilder> {
        let text = |name: &str, given: &Bound<'_, PyAny>| arguments::text(name, given).map(str::to_owned);
        let mut builder = homing::Communicator::builder(url);
        type SetText = fn(CommunicatorBuilder, String) -> CommunicatorBuilder;
        let texts: [(&str, SetText); 5] = [
            ("prefix", CommunicatorBuilder::prefix),
            ("message_exchange", CommunicatorBuilder::message_exchange),
            ("task_exchange", CommunicatorBuilder::task_exchange),
            ("task_queue", CommunicatorBuilder::task_queue),
            ("connection_name", CommunicatorBuilder::connection_name),
        ];
        for (name, set) in texts {
            if let Some(given) = self.read(name, text)? {
                builder = set(builder, given);
            }
        }
        let prefetch = self.read("task_prefetch", |name, given| arguments::integer(name, given, 0, u16::MAX.into()))?;
        if let Some(count) = prefetch {
            builder = match NonZeroU16::new(count) {
                Some(count) => builder.task_prefetch(count),
                None => builder.unlimited_task_prefetch(),
            };
        }
        let levels = self.read("task_priorities", |name, given| arguments::integer(name, given, 0, u8::MAX.into()))?;
        if let Some(levels) = levels.and_then(NonZeroU8::new) {
            builder = builder.task_priorities(levels);
        }
        let attempts = self.read("task_attempts", |name, given| {
            let (attempts, pause) = pair(name, "a tuple of an int and a number of seconds", given)?;
            let attempts = arguments::integer(&item(name, 0), &attempts, 1, u32::MAX.into())?;
            let name = item(name, 1);
            Ok((attempts, time(py, &name, arguments::seconds(&name, &pause)?)?))
        })?;
        if let Some((attempts, pause)) = attempts
            && let Some(attempts) = NonZeroU32::new(attempts)
        {
            builder = builder.task_attempts(attempts, pause);
        }
        let in_flight = self.read("in_flight", |name, given| {
            let (messages, bytes) = pair(name, "a tuple of two ints", given)?;
            // Guards: a zero, with which nothing is sent.
            let count = |n, given| arguments::integer::<usize>(&item(name, n), given, 1, usize::MAX as u64);
            Ok((count(0, &messages)?, count(1, &bytes)?))
        })?;
        if let Some((messages, bytes)) = in_flight
            && let Some((messages, bytes)) = NonZeroUsize::new(messages).zip(NonZeroUsize::new(bytes))
        {
            builder = builder.max_in_flight(messages, bytes);
        }
        type SetTime = fn(CommunicatorBuilder, Duration) -> CommunicatorBuilder;
        let times: [(&str, SetTime); 9] = [
            ("call_timeout", CommunicatorBuilder::call_timeout),
            ("task_timeout", CommunicatorBuilder::task_timeout),
            ("connect_timeout", CommunicatorBuilder::connect_timeout),
            ("operation_timeout", CommunicatorBuilder::operation_timeout),
            ("close_timeout", CommunicatorBuilder::close_timeout),
            ("heartbeat", CommunicatorBuilder::heartbeat),
            ("queue_expires", CommunicatorBuilder::queue_expires),
            ("message_ttl", CommunicatorBuilder::message_ttl),
            ("task_ttl", CommunicatorBuilder::task_ttl),
        ];
        for (name, set) in times {
            if let Some(seconds) = self.read(name, arguments::seconds)? {
                builder = set(builder, time(py, name, seconds)?);
            }
        }
        if self.read("reconnect", arguments::flag)? == Some(false) {
            builder = builder.reconnect(ReconnectPolicy::Never);
        }
        if self.read("testing", arguments::flag)? == Some(true) {
            builder = builder.testing(TestingMode::Yes);
        }
        let is_plain = table.coders.lock().is_empty();
        match self.read("codec", text)?.as_deref() {
            None | Some("yaml") if is_plain => Ok(builder.codec(Yaml::default())),
            None | Some("yaml") => Ok(builder.codec(PythonCodec::new(table, Yaml::default()))),
            Some("json") if is_plain => Ok(builder.codec(Json::default())),
            Some("json") => Ok(builder.codec(PythonCodec::new(table, Json::default()))),
            Some(other) => {
                let text = format!("the codec {other:?} is not known; there are \"yaml\" and \"json\"");
                Err(errors::of_kind(py, ErrorKind::InvalidArgument, text))
            }
        }
    }
}

/// An item of an option, as an error calls it.
fn item(name: &str, index: usize) -> String {
    format!("{name}[{index}]")
}

/// The two items of a tuple, or of a list.
fn pair<'py>(
    name: &str,
    expected: &str,
    given: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let items: Vec<Bound<'py, PyAny>> = match (given.cast::<PyTuple>(), given.cast::<PyList>()) {
        (Ok(tuple), _) => tuple.iter().collect(),
        (_, Ok(list)) => list.iter().collect(),
        _ => return Err(arguments::wrong(name, expected, given)),
    };
    let count = items.len();
    <[_; 2]>::try_from(items).map(|[first, second]| (first, second)).map_err(|_| {
        errors::of_kind(
            given.py(),
            ErrorKind::InvalidArgument,
            format!("{name} must be {expected}, and has {count} items"),
        )
    })
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
        still::arm();
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
        let sender = values::to_value(sender).map_err(|error| arguments::named(py, "sender", error))?;
        self.with(py, |filter| Ok(filter.sender_is(sender)))
    }
}
