//! One connection to the broker, with what was set up on it: all of that goes when it goes.
//!
//! Links are numbered. What came by one may be settled by that one only: an acknowledgement of an older generation would
//! name some other message on a newer channel.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, oneshot};

use super::Consumer;
use super::subscribe::QueueName;
use crate::broker::{Broker, BrokerEvent, EventSender, Message, Nack, PublishId, Receipt};
use crate::error::{Error, ErrorKind, Result};

/// The number of a connection, from 1 on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(u64);

/// How long after a loss a recipient that is not to be found may be connecting again, as we just have.
const SETTLING: Duration = Duration::from_secs(3);

impl Generation {
    const FIRST: Self = Generation(1);

    pub(super) fn next(self) -> Self {
        Generation(self.0 + 1)
    }
}

/// What a delivery is acknowledged by, on the connection that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ticket {
    pub generation: Generation,
    pub receipt: Receipt,
}

pub(super) struct Link<B> {
    pub generation: Generation,
    pub broker: B,
    since: Instant,
    /// Into the broker's own events.
    events: EventSender,
    pub consumers: RefCell<HashMap<String, Consumer>>,
    pub message_exchange: OnceCell<()>,
    pub task_exchange: OnceCell<()>,
    pub message_replies: OnceCell<Rc<str>>,
    pub task_replies: OnceCell<Rc<str>>,
    pub control: OnceCell<Rc<str>>,
    /// Those that were declared.
    pub task_queues: RefCell<HashMap<QueueName, Rc<OnceCell<()>>>>,
    /// Those who wait for the outcome of a publish.
    publishes: RefCell<HashMap<PublishId, oneshot::Sender<Result<()>>>>,
    next_publish: Cell<u64>,
}

impl<B: Broker> Link<B> {
    pub(super) fn new(generation: Generation, broker: B, events: EventSender) -> Rc<Self> {
        Rc::new(Link {
            generation,
            broker,
            since: Instant::now(),
            events,
            consumers: RefCell::default(),
            message_exchange: OnceCell::new(),
            task_exchange: OnceCell::new(),
            message_replies: OnceCell::new(),
            task_replies: OnceCell::new(),
            control: OnceCell::new(),
            task_queues: RefCell::default(),
            publishes: RefCell::default(),
            next_publish: Cell::new(0),
        })
    }

    /// True while others, who have lost the same broker, may not be back yet.
    pub(super) fn is_settling(&self) -> bool {
        self.generation > Generation::FIRST && self.since.elapsed() < SETTLING
    }

    pub(super) fn ticket(&self, receipt: Receipt) -> Ticket {
        Ticket { generation: self.generation, receipt }
    }

    pub(super) fn declared(&self, queue: &QueueName) -> Rc<OnceCell<()>> {
        Rc::clone(self.task_queues.borrow_mut().entry(queue.clone()).or_default())
    }

    /// Publishes, at the first poll, and waits for the outcome.
    pub(super) async fn publish_and_wait(&self, message: Message) -> Result<()> {
        let id = PublishId(self.next_publish.replace(self.next_publish.get() + 1));
        if let Some(outcome) = self.broker.publish(id, Rc::new(message)) {
            return outcome;
        }
        let (outcome, known) = oneshot::channel();
        self.publishes.borrow_mut().insert(id, outcome);
        let lost = || Error::new(ErrorKind::ConnectionLost, "the connection to the broker was lost");
        known.await.unwrap_or_else(|_| Err(lost()))
    }

    /// The outcome of a publish is known. Whoever waited for it may have been given up.
    pub(super) fn published(&self, id: PublishId, outcome: Result<()>) {
        let waiting = self.publishes.borrow_mut().remove(&id);
        if let Some(waiting) = waiting {
            let _ = waiting.send(outcome);
        }
    }

    /// The outcome of no publish is known any more.
    pub(super) fn publishes_lost(&self, error: &Error) {
        let waiting = self.publishes.take();
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// Ends a consumer, and waits until what came through it has found its way.
    ///
    /// Guards: a delivery that lies in the broker's events while its consumer is forgotten.
    pub(super) async fn end_consumer(&self, tag: &str) -> Result<()> {
        let cancelled = self.broker.cancel(tag).await;
        let (done, seen_to) = oneshot::channel();
        if self.events.send(BrokerEvent::SeenTo(done)).is_ok() {
            // Where nobody reads the events any more, nothing finds its way.
            let _ = seen_to.await;
        }
        self.consumers.borrow_mut().remove(tag);
        cancelled
    }

    /// A delivery that nobody is here for goes back.
    pub(super) fn give_back(&self, receipt: Receipt) {
        self.broker.nack(receipt, Nack::Requeue);
    }

    /// Gives the connection up as lost: something is gone that only a new beginning brings back.
    pub(super) fn give_up(&self, error: Error) {
        let _ = self.events.send(BrokerEvent::Lost { error });
    }
}
