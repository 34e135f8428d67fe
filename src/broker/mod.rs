//! What a broker must do, as a trait; the communicator stands on it and knows no other broker.
//!
//! The words are AMQP's: exchanges of type topic, queues, bindings, consumers, acknowledgements. A broker is owned by the
//! communicator thread alone and is driven on that thread's current-thread tokio runtime. What arrives (deliveries,
//! the end of a consumer, the end of the connection) comes through the [`EventSender`] given to `connect`, in the order in
//! which the broker said it.
//!
//! Not here: what kiwipy puts into queues and bodies (that is the communicator's), and reconnecting (a broker that loses
//! its connection reports it once, and has ended then).

#![cfg_attr(not(feature = "rabbitmq"), allow(dead_code, reason = "what only a real broker says or reads"))]

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::home::lock::Mutex;
use bytes::Bytes;

use crate::codec::Value;
use crate::error::{Detail, Difference, Error, ErrorKind, Result};

#[cfg(test)]
mod conformance;
pub(crate) mod memory;
mod properties;
#[cfg(feature = "rabbitmq")]
pub(crate) mod rabbitmq;
#[cfg(test)]
pub(crate) mod samples;
pub(crate) mod url;

pub(crate) use properties::Properties;
#[cfg(feature = "rabbitmq")]
pub(crate) use properties::{HeaderValue, OddPart, Oddity, Rest};

/// A body on its way. `memory:` passes values as they are; a real broker takes bytes only, so the sender encodes first.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Encoded(Bytes),
    Value(Arc<Value>),
}

impl Body {
    /// How many bytes it takes up, approximately where it is a value.
    pub(crate) fn size(&self) -> usize {
        match self {
            Body::Encoded(bytes) => bytes.len(),
            Body::Value(value) => value.weight(),
        }
    }

    /// How many bytes it has on the wire; `None` for one that stays in this process.
    pub(crate) fn encoded_size(&self) -> Option<usize> {
        match self {
            Body::Encoded(bytes) => Some(bytes.len()),
            Body::Value(_) => None,
        }
    }
}

/// A message to be published.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub exchange: Arc<str>,
    pub routing_key: Arc<str>,
    pub properties: Properties,
    pub body: Body,
    pub routing: Routing,
    pub durability: Durability,
    pub origin: Origin,
}

/// Why a message is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The program sends it: a broker that is full may refuse it.
    Sent,
    /// The communicator handles others by it: an answer, a copy of a task in hand, a notice. Those go when this one stands, so
    /// that a full broker which refused it would stay full.
    Handling,
}

/// What happens to a message that no queue takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// It comes back, and the publish ends as [`ErrorKind::Unroutable`](crate::ErrorKind::Unroutable).
    Mandatory,
    /// It is dropped in silence.
    Optional,
}

/// Whether messages, queues or exchanges survive the broker's restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    Durable,
    Transient,
}

/// A topic exchange as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExchangeSpec {
    pub name: Arc<str>,
    pub durability: Durability,
    pub auto_delete: AutoDelete,
}

/// Whether an object goes when its last user has gone (for a queue: its last consumer; for an exchange: its last binding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoDelete {
    Yes,
    No,
}

/// Who may use a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Only the connection that declared it; it goes with that connection.
    Exclusive,
    Shared,
}

/// A queue as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueSpec {
    pub name: String,
    pub durability: Durability,
    pub access: Access,
    pub auto_delete: AutoDelete,
    /// `x-message-ttl`: how long a message may wait.
    pub message_ttl: Option<Duration>,
    /// `x-expires`: how long the queue lives without a consumer or a get.
    pub expires: Option<Duration>,
    /// `x-dead-letter-routing-key`: the queue that a message goes to (by the default exchange) when its time here is over.
    pub dead_letter_to: Option<String>,
    /// `x-max-priority`: how many levels of priority its messages have above 0.
    pub priorities: Option<u8>,
    /// `x-max-length`, with `x-overflow` = `reject-publish`: how many messages it takes before it refuses more.
    pub max_length: Option<u32>,
}

/// A time of a queue, as a broker takes it. RabbitMQ counts to 2^32 - 1 milliseconds (49.7 days) and refuses more.
#[cfg(feature = "rabbitmq")]
pub(crate) fn queue_milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Which of the broker's channels work goes through: each has its own acknowledgements, and dies alone when the server
/// closes it. Lane numbers are the communicator's to choose; a lane is opened at its first use, and again at its next
/// use after the server closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane(pub u32);

/// A subscription to a queue.
#[derive(Clone, Debug)]
pub(crate) struct ConsumeSpec {
    pub queue: String,
    /// Also the name under which its deliveries come. Unique on the connection.
    pub tag: String,
    pub lane: Lane,
    pub acknowledge: Acknowledge,
}

/// Whether deliveries of a consumer are to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    /// By [`Broker::ack`] or [`Broker::nack`]; at most this many are out at once, 0 for no limit.
    Manual { prefetch: u16 },
    /// The broker forgets a message when it has sent it.
    None,
}

/// Names the delivery that is acknowledged. Of use only with the broker (and the opening of the lane) that gave it: an
/// acknowledgement for a lane that has died since goes nowhere, for the broker has taken the message back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Receipt {
    pub lane: Lane,
    /// Which opening of the lane this is.
    pub opening: u32,
    /// The broker's delivery tag.
    pub tag: u64,
}

/// A message that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub receipt: Receipt,
    pub redelivered: bool,
    pub properties: Properties,
    pub body: Body,
}

/// Names a publish until its outcome is known. The number is the caller's to choose, unique on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PublishId(pub u64);

/// What a message that is not acknowledged becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nack {
    /// It goes back to its place in the queue and will be marked as redelivered.
    Requeue,
    /// It is dropped, or goes to the queue's dead-letter queue if there is one (none of kiwipy's queues has one).
    Discard,
}

/// What a broker sends without being asked.
#[derive(Debug)]
pub(crate) enum BrokerEvent {
    /// The outcome of a publish that [`Broker::publish`] left open; once for each.
    Published { id: PublishId, outcome: Result<()> },
    /// A message for the consumer of this tag.
    Delivery { consumer: Arc<str>, delivery: Delivery },
    /// The server ended this consumer (its queue was deleted, for example). Not sent for [`Broker::cancel`].
    ConsumerCancelled { consumer: String },
    /// The server closed this lane; its consumers are gone and what they had unacknowledged is back in the queues.
    LaneClosed { lane: Lane, opening: u32, consumers: Vec<String>, error: Error },
    /// The broker reads no publishes until [`BrokerEvent::Unblocked`]; the text is its reason.
    Blocked { reason: String },
    /// Publishing goes on.
    Unblocked,
    /// Never emitted by a broker: the communicator puts it in, and is notified when all events before it have been handled.
    Barrier(tokio::sync::oneshot::Sender<()>),
    /// The connection is gone, and this broker with it; sent once, as the last event. Never sent after [`Broker::close`].
    Lost { error: Error },
}

/// Where a broker sends its events. Unbounded, since what can arrive is bounded by prefetch and by the requests under way.
pub(crate) type EventSender = tokio::sync::mpsc::UnboundedSender<BrokerEvent>;

/// How a connection is to be made, beside its URL.
#[derive(Clone, Debug)]
pub(crate) struct ConnectOptions {
    /// For each step that can stall: name look-up, TCP, TLS and handshake together have this long.
    pub connect_timeout: Duration,
    /// For every question to the server (declare, bind, consume…).
    pub operation_timeout: Duration,
    /// The heartbeat to ask for; with `None` the URL's or the server's counts.
    pub heartbeat: Option<Duration>,
    /// Shown in the server's list of connections.
    pub connection_name: String,
    /// What outlives a connection.
    pub kept: Kept,
}

/// What a broker keeps for all connections of one communicator, until that ends. Clones keep the same.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Option<KeptValue>>>);

type KeptValue = Box<dyn std::any::Any + Send>;

impl Kept {
    /// What was kept, which is not any more.
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code, reason = "there is nothing to keep"))]
    pub(crate) fn take(&self) -> Option<KeptValue> {
        self.0.lock().take()
    }

    /// Keeps this in place of what was kept.
    #[cfg_attr(not(all(unix, feature = "local")), allow(dead_code, reason = "there is nothing to keep"))]
    pub(crate) fn replace(&self, value: Option<KeptValue>) {
        // Dropped without the lock: it may take its time.
        let replaced = std::mem::replace(&mut *self.0.lock(), value);
        drop(replaced);
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

/// The broker as the communicator thread sees it. Methods take `&self`; they are called on the communicator thread only,
/// and their futures are polled there, side by side.
pub(crate) trait Broker: Sized + 'static {
    /// Connects within `options.connect_timeout` (made of finite steps; nothing stays behind after a timeout).
    fn connect(
        url: &url::BrokerUrl,
        options: &ConnectOptions,
        events: EventSender,
    ) -> impl Future<Output = Result<Self>>;

    /// The server's properties: product, version and so on.
    fn server_properties(&self) -> Vec<(String, String)>;

    /// Takes a message over. Messages go out in the order of the calls; many may be under way.
    ///
    /// The outcome is the broker's: `Ok` when it has taken the message over (its confirm). `Some` is an outcome that is known
    /// at once. `None` means that it comes later, exactly once, as [`BrokerEvent::Published`] under this id; unless
    /// [`BrokerEvent::Lost`] comes first or the broker is closed, after which whether the message arrived is not known.
    ///
    /// # Errors
    /// In the outcome: `Unroutable` for a mandatory message that no queue took; `DeliveryFailed` when the broker refused it
    /// (nack, or the publishing channel was closed); `NotFound` where the exchange is missing; `InvalidArgument` and `Encode`
    /// for what cannot be sent at all; `PermissionDenied` where the user may not write to the exchange; `ConnectionLost` and `CommunicatorClosed` for a message that was **not sent**, since the
    /// connection was lost or closed before.
    fn publish(&self, id: PublishId, message: Rc<Message>) -> Option<Result<()>>;

    /// How many bytes the properties of a message may take, by [`Properties::wire_size`]. One that has more is refused with
    /// `Encode`, and what homing adds to a message has to fit.
    fn properties_limit(&self) -> usize;

    /// How many lanes consumers may have beside lane 0.
    fn lanes_limit(&self) -> u32 {
        u32::MAX
    }

    /// Declares a topic exchange. `PreconditionFailed` names the property that differs.
    fn declare_exchange(&self, spec: &ExchangeSpec) -> impl Future<Output = Result<()>>;

    /// Declares a queue. `PreconditionFailed` names the argument that differs, the server's value and ours.
    fn declare_queue(&self, spec: &QueueSpec) -> impl Future<Output = Result<()>>;

    /// Binds a queue to an exchange.
    fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> impl Future<Output = Result<()>>;

    /// Takes a binding away.
    fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> impl Future<Output = Result<()>>;

    /// Deletes a queue, whatever it holds. A queue that is not there is no error.
    fn delete_queue(&self, queue: &str) -> impl Future<Output = Result<()>>;

    /// Declares a queue of which nobody else knows. Many of these are asked at once, and none waits for another's answer; where one is
    /// refused or has no answer, those beside it may fail, too.
    fn declare_queue_beside(&self, spec: &QueueSpec) -> impl Future<Output = Result<()>> {
        self.declare_queue(spec)
    }

    /// Deletes such a queue; how many messages went with it, where that is known. One that is not there is no error, and had none.
    fn delete_queue_beside(&self, queue: &str) -> impl Future<Output = Result<Option<u32>>> {
        async { self.delete_queue(queue).await.map(|()| None) }
    }

    /// Starts a consumer. The prefetch is per consumer.
    fn consume(&self, spec: &ConsumeSpec) -> impl Future<Output = Result<()>>;

    /// Ends a consumer; resolves when its last delivery has been sent as an event. What it has unacknowledged stays so until it is
    /// settled.
    fn cancel(&self, consumer: &str) -> impl Future<Output = Result<()>>;

    /// Takes one message, if there is one, to be acknowledged on this lane.
    fn get(&self, queue: &str, lane: Lane) -> impl Future<Output = Result<Option<Delivery>>>;

    /// Acknowledges. Never waits; an answer does not come. Order against publishes is not promised.
    fn ack(&self, receipt: Receipt);

    /// Refuses. Never waits.
    fn nack(&self, receipt: Receipt, then: Nack);

    /// Ends in order and within `limit`: what was written before goes out first, including acknowledgements; everything
    /// unacknowledged goes back to its queue; then every thread and descriptor of the connection is gone.
    ///
    /// # Errors
    /// The connection did not end in order, so that what was acknowledged last may come back (`Storage` where the broker's disk takes
    /// nothing); or a part of it is still there.
    fn close(&self, limit: Duration) -> impl Future<Output = Result<()>>;
}

/// An object that exists with another argument than ours: which one, what is there, what we wanted, what to do.
pub(crate) fn differs(what: &str, name: &str, argument: &str, have: &str, want: &str) -> Error {
    Error::with_detail(
        ErrorKind::PreconditionFailed,
        format!(
            "the {what} {name:?} exists already with {argument} = {have}, and this communicator declares it with {argument} = \
             {want}. What exists cannot be changed: use the options of whoever declared it, or another name, or delete it on \
             the broker when it is not in use"
        ),
        Detail::Differs(Box::new(Difference {
            object: format!("{what} {name:?}"),
            argument: argument.to_owned(),
            have: have.to_owned(),
            want: want.to_owned(),
        })),
    )
}
