//! What all handles, subscribers and the communicator thread share: the way to the thread, and what never changes.

use std::fmt::Display;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::{Either, select};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, broadcast, mpsc};
use tokio::task::unconstrained;

use super::builder::Limits;
use super::command::{CloseReport, Command, Patience};
use super::events::{ConnectionState, Event};
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
    /// Of [`SLOT_BYTES`] each.
    room: Arc<Semaphore>,
    room_size: u32,
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
    pub server_properties: Mutex<Vec<(String, String)>>,
    pub state: Mutex<ConnectionState>,
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
    pub tasks_adopted: AtomicU64,
    pub tasks_answered_again: AtomicU64,
    pub answered_again: AtomicU64,
}

/// The unit in which bytes under way are counted.
const SLOT_BYTES: usize = 1024;

/// The place of one message on its way, and room for its bytes.
pub(crate) struct Slot {
    _place: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

pub(crate) fn count(counter: &AtomicU64) {
    // Ordering: Relaxed, for a counter orders nothing.
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, by the builder, which has them by name")]
    pub(crate) fn new(
        commands: mpsc::UnboundedSender<Command>,
        limits: Limits,
        codec: Arc<dyn Codec>,
        transfer: Transfer,
        names: Names,
        task_prefetch: u16,
        (call_timeout, task_timeout): (Duration, Duration),
        broker: String,
    ) -> Self {
        Shared {
            commands,
            slots: Arc::new(Semaphore::new(limits.publishes)),
            room: Arc::new(Semaphore::new(limits.room() as usize)),
            room_size: limits.room(),
            codec,
            transfer,
            names,
            task_prefetch,
            call_timeout,
            task_timeout,
            events: broadcast::channel(256).0,
            counters: Counters::default(),
            broker,
            server_properties: Mutex::default(),
            state: Mutex::new(ConnectionState::Connecting),
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

    pub(crate) fn state(&self, state: ConnectionState) {
        *self.state.lock() = state;
    }

    /// Room for one more message under way. Waits for it as long as the message may take.
    pub(crate) async fn slot(&self, what: impl Display, body: &Body, patience: Patience) -> Result<Slot> {
        match self.try_slot(&what, body) {
            Err(error) if error.kind() == ErrorKind::Full => {}
            taken => return taken,
        }
        let units = self.units(body);
        let free = async {
            // Outside of tokio's budget, as the places of a home are, for the same reason.
            let place = unconstrained(Arc::clone(&self.slots).acquire_owned()).await;
            let room = unconstrained(Arc::clone(&self.room).acquire_many_owned(units)).await;
            match (place, room) {
                (Ok(place), Ok(room)) => Ok(Slot { _place: place, _room: room }),
                _ => Err(self.gone()),
            }
        };
        let Patience::For(limit) = patience else { return free.await };
        // By the communicator's clock, since a home may have no timers.
        let (done, late) = Home::current().future().await.map_err(|_| home_ended(&what))?;
        self.send(Command::Alarm { after: limit, done })?;
        match select(pin!(free), late).await {
            Either::Left((slot, _)) => slot,
            Either::Right((Ok(()), _)) => Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "{what}: it was not sent, for as many messages or bytes as may be were under way for {limit:?}; the broker \
                     at {} may be blocked, slow or away",
                    self.broker
                ),
            )),
            Either::Right((Err(end), _)) => Err(self.ended(end, what)),
        }
    }

    /// The same without waiting.
    pub(crate) fn try_slot(&self, what: impl Display, body: &Body) -> Result<Slot> {
        let full = |error| match error {
            TryAcquireError::Closed => self.gone(),
            TryAcquireError::NoPermits => Error::new(
                ErrorKind::Full,
                format!("{what}: as many messages or bytes as may be are on their way to {}", self.broker),
            ),
        };
        let place = Arc::clone(&self.slots).try_acquire_owned().map_err(full)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(self.units(body)).map_err(full)?;
        Ok(Slot { _place: place, _room: room })
    }

    /// A body that is larger than all the room takes all of it.
    fn units(&self, body: &Body) -> u32 {
        let bytes = match body {
            Body::Encoded(bytes) => bytes.len(),
            Body::Value(_) => 0,
        };
        u32::try_from(bytes.div_ceil(SLOT_BYTES)).unwrap_or(u32::MAX).min(self.room_size)
    }

    /// From now on whoever wants to send something new hears that the communicator is closed.
    pub(crate) fn refuse_new_work(&self) {
        self.slots.close();
        self.room.close();
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
        what: impl Display,
        command: impl FnOnce(Completer<Result<T>>) -> Command,
    ) -> Result<T> {
        let (completer, future) = Home::current().future().await.map_err(|_| home_ended(&what))?;
        self.send(command(completer))?;
        match future.await {
            Ok(answer) => answer,
            Err(end) => Err(self.ended(end, what)),
        }
    }

    /// The error of a future of ours that ended without a value.
    pub(crate) fn ended(&self, end: End, what: impl Display) -> Error {
        let kind = match end {
            // The thread holds every completer until it has used it or ends.
            End::Abandoned => return self.gone(),
            End::Cancelled => ErrorKind::Cancelled,
            End::TimedOut => ErrorKind::TimedOut,
            End::WrongHome => ErrorKind::WrongHome,
            End::TooDeep | End::WouldDeadlock => ErrorKind::WouldDeadlock,
            _ => ErrorKind::HomeEnded,
        };
        Error::with_source(kind, format!("{what}: {end}"), end)
    }
}

pub(crate) fn home_ended(what: impl Display) -> Error {
    Error::new(ErrorKind::HomeEnded, format!("{what}: the runtime or loop that asked for it is ending"))
}
