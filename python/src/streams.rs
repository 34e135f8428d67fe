//! Broadcasts and events one after the other.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};
use homing::{Broadcasts, ConnectionEvent, Events};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tokio::sync::{Mutex, watch};

use crate::call::Call;
use crate::errors;
use crate::life::Owned;
use crate::settle::Output;

/// Broadcasts as they come. Its subscription ends when it is closed, or goes.
#[pyclass(frozen)]
pub(crate) struct BroadcastStream(Owned<Arc<Shared>>);

struct Shared {
    broadcasts: Mutex<Option<Broadcasts>>,
    is_closed: watch::Sender<bool>,
}

impl BroadcastStream {
    pub(crate) fn new(broadcasts: Broadcasts) -> Self {
        let (is_closed, _) = watch::channel(false);
        BroadcastStream(Owned::new(Arc::new(Shared { broadcasts: Mutex::new(Some(broadcasts)), is_closed })))
    }
}

impl Shared {
    async fn next(&self) -> Output {
        let mut is_closed = self.is_closed.subscribe();
        let closed = pin!(async {
            // The sender is ours, so there is no error.
            let _ = is_closed.wait_for(|is_closed| *is_closed).await;
        });
        let next = pin!(async {
            match &mut *self.broadcasts.lock().await {
                Some(broadcasts) => broadcasts.next().await,
                None => None,
            }
        });
        match select(closed, next).await {
            Either::Left(_) => Output::Broadcast(None),
            Either::Right((next, _)) => Output::Broadcast(next),
        }
    }
}

#[pymethods]
impl BroadcastStream {
    /// The next broadcast. Nothing is lost when it is given up.
    fn next(&self, py: Python<'_>) -> PyResult<Call> {
        let shared = self.0.get("the stream of broadcasts").cloned().map_err(|error| errors::exception(py, &error))?;
        Ok(Call::new(async move { Ok(shared.next().await) }))
    }

    /// Ends the subscription. Whoever waits for the next broadcast, on any loop or thread, learns that there is none.
    fn close(&self) {
        let Ok(shared) = self.0.get("the stream of broadcasts") else { return };
        shared.is_closed.send_replace(true);
        // Where somebody waits just now, it goes with that wait.
        if let Ok(mut broadcasts) = shared.broadcasts.try_lock() {
            drop(broadcasts.take());
        }
    }
}

/// Events of a communicator as they come.
#[pyclass(frozen)]
pub(crate) struct EventStream(Owned<Arc<Mutex<Events>>>);

impl EventStream {
    pub(crate) fn new(events: Events) -> Self {
        EventStream(Owned::new(Arc::new(Mutex::new(events))))
    }
}

#[pymethods]
impl EventStream {
    /// The next event. Nothing is lost when it is given up.
    fn next(&self, py: Python<'_>) -> PyResult<Call> {
        let stream = self.0.get("the stream of events").cloned().map_err(|error| errors::exception(py, &error))?;
        Ok(Call::new(async move { Ok(Output::Event(stream.lock().await.next().await.map(Box::new))) }))
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
