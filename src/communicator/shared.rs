//! What all handles, subscribers and the communicator thread share: the way to the thread, and what never changes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc};

use super::command::{CloseReport, Command};
use super::events::Event;
use super::names::Names;
use crate::broker::Body;
use crate::codec::{Codec, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, End, Home};

/// Whether bodies leave this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// They are encoded.
    Encoded,
    /// Values are passed as they are; that they could be encoded is checked, so that nothing passes here and fails there.
    Passed,
}

pub(crate) struct Shared {
    /// Unbounded, since what goes in is bounded otherwise: new work holds a slot, everything else answers a delivery.
    pub commands: mpsc::UnboundedSender<Command>,
    slots: Arc<Semaphore>,
    pub codec: Arc<dyn Codec>,
    pub transfer: Transfer,
    pub names: Names,
    pub task_prefetch: u16,
    pub call_timeout: Duration,
    pub task_timeout: Duration,
    pub events: broadcast::Sender<Event>,
    pub counters: Counters,
    /// For errors: the URL without its password.
    pub broker: String,
    pub server_properties: OnceLock<Vec<(String, String)>>,
    /// Why the connection ended, when it was lost.
    pub lost: OnceLock<Error>,
    /// Set as the last act of the communicator thread.
    pub report: OnceLock<CloseReport>,
    pub threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Things that are dropped by rule rather than by error; see [`Communicator::counters`](super::Communicator::counters).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub late_replies: AtomicU64,
    pub replies_unroutable: AtomicU64,
    pub replies_not_wanted: AtomicU64,
    pub broadcasts_unreadable: AtomicU64,
    pub broadcasts_lagged: AtomicU64,
    pub tasks_quarantined: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    // Ordering: Relaxed, for a counter orders nothing.
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder, which has them by name")]
    pub(crate) fn new(
        commands: mpsc::UnboundedSender<Command>,
        slots: usize,
        codec: Arc<dyn Codec>,
        transfer: Transfer,
        names: Names,
        task_prefetch: u16,
        (call_timeout, task_timeout): (Duration, Duration),
        broker: String,
    ) -> Self {
        Shared {
            commands,
            slots: Arc::new(Semaphore::new(slots)),
            codec,
            transfer,
            names,
            task_prefetch,
            call_timeout,
            task_timeout,
            events: broadcast::channel(256).0,
            counters: Counters::default(),
            broker,
            server_properties: OnceLock::new(),
            lost: OnceLock::new(),
            report: OnceLock::new(),
            threads: Mutex::new(Vec::new()),
        }
    }

    /// A body as this broker takes it. Called by the sender, on its own thread.
    pub(crate) fn encode(&self, value: Value) -> Result<Body> {
        match self.transfer {
            Transfer::Encoded => Ok(Body::Encoded(self.codec.encode(&value)?.into())),
            Transfer::Passed => {
                self.codec.check(&value)?;
                Ok(Body::Value(Arc::new(value)))
            }
        }
    }

    /// Reads a body. Called on the home that the value is for.
    pub(crate) fn decode(&self, body: Body) -> Result<Value> {
        match body {
            Body::Encoded(bytes) => self.codec.decode(&bytes),
            Body::Value(value) => Ok(Arc::unwrap_or_clone(value)),
        }
    }

    /// Room for one more message under way. Waits while there is none.
    pub(crate) async fn slot(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.map_err(|_| self.gone())
    }

    /// From now on whoever wants to send something new hears that the communicator is closed.
    pub(crate) fn refuse_new_work(&self) {
        self.slots.close();
    }

    pub(crate) fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| self.gone())
    }

    /// Sends what answers something: where the communicator has ended there is nobody to tell.
    pub(crate) fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Why nothing can be asked of this communicator any more.
    pub(crate) fn gone(&self) -> Error {
        match self.lost.get() {
            Some(lost) => lost.clone(),
            None => Error::new(
                ErrorKind::CommunicatorClosed,
                format!("the communicator on {} is closed; connect a new one", self.broker),
            ),
        }
    }

    /// Asks the communicator thread something, and waits for the answer at home.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        what: &str,
        command: impl FnOnce(Completer<Result<T>>) -> Command,
    ) -> Result<T> {
        let (completer, future) = Home::current().future().await.map_err(|_| home_ended(what))?;
        self.send(command(completer))?;
        match future.await {
            Ok(answer) => answer,
            Err(end) => Err(self.ended(end, what)),
        }
    }

    /// The error of a future of ours that ended without a value.
    pub(crate) fn ended(&self, end: End, what: &str) -> Error {
        let kind = match end {
            // The thread holds every completer until it has used it or ends.
            End::Abandoned => return self.gone(),
            End::Cancelled => ErrorKind::Cancelled,
            End::TimedOut => ErrorKind::TimedOut,
            End::WrongHome => ErrorKind::WrongHome,
            End::TooDeep | End::WouldDeadlock => ErrorKind::WouldDeadlock,
            End::HomeEnded | End::Taken => ErrorKind::HomeEnded,
        };
        Error::with_source(kind, format!("{what}: {end}"), end)
    }
}

pub(crate) fn home_ended(what: &str) -> Error {
    Error::new(ErrorKind::HomeEnded, format!("{what}: the runtime or loop that asked for it is ending"))
}
