//! Broadcasts and events one after the other.

use std::sync::Arc;

use homing::{Broadcasts, ConnectionEvent, Events};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::Mutex;

use crate::call::Call;
use crate::life::Process;
use crate::settle::Output;

/// Broadcasts as they come. Its subscription ends when it goes.
#[pyclass(frozen)]
pub(crate) struct BroadcastStream(Arc<Mutex<Broadcasts>>, Process);

impl BroadcastStream {
    pub(crate) fn new(broadcasts: Broadcasts) -> Self {
        BroadcastStream(Arc::new(Mutex::new(broadcasts)), Process::current())
    }
}

#[pymethods]
impl BroadcastStream {
    /// The next broadcast. Nothing is lost when it is given up.
    fn next(&self) -> Call {
        let (stream, process) = (Arc::clone(&self.0), self.1);
        Call::new(async move {
            process.check("the stream of broadcasts")?;
            Ok(Output::Broadcast(stream.lock().await.next().await))
        })
    }
}

/// Events of a communicator as they come.
#[pyclass(frozen)]
pub(crate) struct EventStream(Arc<Mutex<Events>>, Process);

impl EventStream {
    pub(crate) fn new(events: Events) -> Self {
        EventStream(Arc::new(Mutex::new(events)), Process::current())
    }
}

#[pymethods]
impl EventStream {
    /// The next event. Nothing is lost when it is given up.
    fn next(&self) -> Call {
        let (stream, process) = (Arc::clone(&self.0), self.1);
        Call::new(async move {
            process.check("the stream of events")?;
            Ok(Output::Event(stream.lock().await.next().await.map(Box::new)))
        })
    }
}

/// An event as `homing.Event`: its name in lower case with underscores, and its fields.
pub(crate) fn event_object<'py>(py: Python<'py>, event: &ConnectionEvent) -> PyResult<Bound<'py, PyAny>> {
    let fields = PyDict::new(py);
    let name = match event {
        ConnectionEvent::Blocked { reason } => {
            fields.set_item("reason", reason)?;
            "blocked"
        }
        ConnectionEvent::Unblocked => "unblocked",
        ConnectionEvent::Lost(error) => {
            fields.set_item("error", error.to_string())?;
            "lost"
        }
        ConnectionEvent::Reconnecting { attempt, delay, error } => {
            fields.set_item("attempt", attempt)?;
            fields.set_item("delay", delay.as_secs_f64())?;
            fields.set_item("error", error.to_string())?;
            "reconnecting"
        }
        ConnectionEvent::Restored { away } => {
            fields.set_item("away", away.as_secs_f64())?;
            "restored"
        }
        ConnectionEvent::Gap { identifier, away } => {
            fields.set_item("identifier", identifier.as_str())?;
            fields.set_item("away", away.as_secs_f64())?;
            "gap"
        }
        ConnectionEvent::SubscriptionFailed { name, error } => {
            fields.set_item("name", name)?;
            fields.set_item("error", error.to_string())?;
            "subscription_failed"
        }
        ConnectionEvent::ConsumerCancelled { name } => {
            fields.set_item("name", name)?;
            "consumer_cancelled"
        }
        ConnectionEvent::ChannelClosed { queue, error, .. } => {
            fields.set_item("queue", queue)?;
            fields.set_item("error", error.to_string())?;
            "channel_closed"
        }
        ConnectionEvent::OwnershipLost { queue, message_id } => {
            fields.set_item("queue", queue)?;
            fields.set_item("message_id", message_id)?;
            "ownership_lost"
        }
        ConnectionEvent::TaskAdopted { queue, message_id } => {
            fields.set_item("queue", queue)?;
            fields.set_item("message_id", message_id)?;
            "task_adopted"
        }
        ConnectionEvent::SubscriberGone { identifier } => {
            fields.set_item("identifier", identifier.as_str())?;
            "subscriber_gone"
        }
        ConnectionEvent::Lagged { identifier, missed } => {
            fields.set_item("identifier", identifier.as_str())?;
            fields.set_item("missed", missed)?;
            "lagged"
        }
        ConnectionEvent::Quarantined { queue, reason } => {
            fields.set_item("queue", queue)?;
            fields.set_item("reason", reason)?;
            "quarantined"
        }
        ConnectionEvent::Missed { missed } => {
            fields.set_item("missed", missed)?;
            "missed"
        }
        ConnectionEvent::Closed => "closed",
        _ => "other",
    };
    py.import("homing._values")?.getattr(intern!(py, "Event"))?.call1((name, fields))
}
