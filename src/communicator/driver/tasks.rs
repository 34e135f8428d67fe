//! Task queues: who gets a task, and what becomes of it.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OnceCell, mpsc, oneshot};
use uuid::Uuid;

use super::subscribe::{QueueName, duplicate, next_lane, unknown};
use super::{Consumer, Driver};
use crate::broker::{Acknowledge, Body, Broker, ConsumeSpec, Delivery, Lane, Nack, Properties, Receipt};
use crate::communicator::command::{Requeue, Settlement, TaskDelivery};
use crate::communicator::events::Event;
use crate::communicator::names::Identifier;
use crate::communicator::shared::{Shared, count};
use crate::communicator::task::Hold;
use crate::error::Result;

/// The pause before a task that was tried goes back: this long at first, twice as long each time it comes again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// For how many tasks it is remembered how often they came.
const PAUSES_REMEMBERED: usize = 10_000;

#[derive(Default)]
pub(super) struct Tasks {
    queues: HashMap<QueueName, Queue>,
    in_hand: HashMap<Receipt, InHand>,
    /// How often a task went back after it was tried, by message id. Forgotten all at once when there are too many: the
    /// pause is against spinning, not a promise.
    tried: HashMap<String, u32>,
}

pub(super) struct Queue {
    pub(super) declared: Rc<OnceCell<()>>,
    /// Whose turn it is to send a task to it.
    pub(super) turn: Rc<tokio::sync::Mutex<()>>,
    lane: Lane,
    pull_lane: Lane,
    subscribers: Vec<(Identifier, mpsc::UnboundedSender<TaskDelivery>)>,
    /// Held while the consumer is started or ended.
    consumer: Rc<tokio::sync::Mutex<Option<String>>>,
}

/// A task that somebody here works on.
struct InHand {
    queue: QueueName,
    redelivered: bool,
    properties: Properties,
    body: Body,
    /// The subscribers that are still to be asked, in order.
    left: std::vec::IntoIter<mpsc::UnboundedSender<TaskDelivery>>,
}

impl InHand {
    fn new(queue: &QueueName, delivery: Delivery, left: Vec<mpsc::UnboundedSender<TaskDelivery>>) -> Self {
        InHand {
            queue: queue.clone(),
            redelivered: delivery.redelivered,
            properties: delivery.properties,
            body: delivery.body,
            left: left.into_iter(),
        }
    }

    /// For whoever is to work on it.
    fn delivery(&self, shared: &Arc<Shared>, receipt: Receipt) -> TaskDelivery {
        let hold = Hold {
            shared: Arc::clone(shared),
            queue: self.queue.clone(),
            receipt,
            redelivered: self.redelivered,
            message_id: self.properties.message_id.clone(),
            reply_to: self.properties.reply_to.clone(),
            correlation_id: self.properties.correlation_id.clone(),
            settled: false,
        };
        TaskDelivery { hold, body: self.body.clone() }
    }
}

impl Tasks {
    pub(super) fn queue(&mut self, name: &QueueName, lanes: &Cell<u32>) -> &mut Queue {
        self.queues.entry(name.clone()).or_insert_with(|| Queue {
            declared: Rc::default(),
            turn: Rc::default(),
            lane: next_lane(lanes),
            pull_lane: next_lane(lanes),
            subscribers: Vec::new(),
            consumer: Rc::default(),
        })
    }

    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    pub(super) fn closed(&self) -> Vec<(QueueName, Identifier)> {
        let queues = self.queues.iter();
        queues
            .flat_map(|(name, queue)| queue.subscribers.iter().map(move |subscriber| (name, subscriber)))
            .filter(|(_, (_, sink))| sink.is_closed())
            .map(|(name, (identifier, _))| (name.clone(), identifier.clone()))
            .collect()
    }

    pub(super) fn forget_subscribers(&mut self, queue: &str) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.subscribers.clear();
            queue.declared = Rc::default();
            queue.consumer = Rc::default();
        }
    }

    fn pause(&mut self, message_id: Option<&String>) -> Duration {
        let Some(id) = message_id else { return FIRST_PAUSE };
        if self.tried.len() >= PAUSES_REMEMBERED {
            self.tried.clear();
        }
        let tried = self.tried.entry(id.clone()).or_insert(0);
        let pause = FIRST_PAUSE.saturating_mul(1_u32.checked_shl(*tried).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        *tried = (*tried + 1).min(16);
        pause
    }
}

impl<B: Broker> Driver<B> {
    pub(super) async fn add_task(
        &self,
        queue: QueueName,
        prefetch: u16,
        identifier: Identifier,
        sink: mpsc::UnboundedSender<TaskDelivery>,
    ) -> Result<()> {
        self.task_queue(&queue).await?;
        let (lane, consumer) = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.queue(&queue, &self.next_lane);
            if entry.subscribers.iter().any(|(known, _)| *known == identifier) {
                return Err(duplicate("a task subscriber", &identifier));
            }
            entry.subscribers.push((identifier.clone(), sink));
            (entry.lane, Rc::clone(&entry.consumer))
        };
        let mut consumer = consumer.lock().await;
        if consumer.is_some() {
            return Ok(());
        }
        let tag = Uuid::new_v4().to_string();
        self.consumers.borrow_mut().insert(tag.clone(), Consumer::Task(queue.clone()));
        let consume = ConsumeSpec {
            queue: queue.to_string(),
            tag: tag.clone(),
            lane,
            acknowledge: Acknowledge::Manual { prefetch },
        };
        if let Err(error) = self.broker.consume(&consume).await {
            self.consumers.borrow_mut().remove(&tag);
            if let Some(queue) = self.tasks.borrow_mut().queues.get_mut(&queue) {
                queue.subscribers.retain(|(known, _)| *known != identifier);
            }
            return Err(error);
        }
        *consumer = Some(tag);
        Ok(())
    }

    /// With the last subscriber goes the consumer. Tasks in hand stay there until they are settled.
    pub(super) async fn remove_task(&self, queue: &QueueName, identifier: &Identifier) -> Result<()> {
        let consumer = {
            let mut tasks = self.tasks.borrow_mut();
            let entry = tasks.queue(queue, &self.next_lane);
            let before = entry.subscribers.len();
            entry.subscribers.retain(|(known, _)| known != identifier);
            if entry.subscribers.len() == before {
                return Err(unknown("task subscriber", identifier));
            }
            Rc::clone(&entry.consumer)
        };
        let mut consumer = consumer.lock().await;
        let empty = self.tasks.borrow().queues.get(queue).is_none_or(|queue| queue.subscribers.is_empty());
        if let Some(tag) = consumer.take_if(|_| empty) {
            // What is delivered before the end of the consumer finds no subscriber and goes back.
            self.end_consumer(&tag).await?;
        }
        Ok(())
    }

    pub(super) fn deliver_task(self: &Rc<Self>, queue: &QueueName, delivery: Delivery) {
        let subscribers: Vec<_> = match self.tasks.borrow().queues.get(queue) {
            Some(queue) => queue.subscribers.iter().map(|(_, sink)| sink.clone()).collect(),
            None => Vec::new(),
        };
        if subscribers.is_empty() {
            return self.give_back(&delivery);
        }
        let receipt = delivery.receipt;
        let in_hand = InHand::new(queue, delivery, subscribers);
        self.tasks.borrow_mut().in_hand.insert(receipt, in_hand);
        self.offer(receipt);
    }

    /// Gives a task to the next subscriber that is still there; after the last it goes back, with a pause.
    fn offer(self: &Rc<Self>, receipt: Receipt) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(in_hand) = tasks.in_hand.get_mut(&receipt) else { return };
        while let Some(sink) = in_hand.left.next() {
            let offered = in_hand.delivery(&self.shared, receipt);
            match sink.send(offered) {
                Ok(()) => return,
                // Its home has ended; the next one may still be there.
                Err(refused) => refused.0.hold.release(),
            }
        }
        drop(tasks);
        self.requeue(receipt, Requeue::AfterPause);
    }

    pub(super) fn settle(self: &Rc<Self>, queue: QueueName, receipt: Receipt, settlement: Settlement) {
        match settlement {
            Settlement::Done { reply } => {
                // As kiwipy: acknowledged, then answered.
                if let Some(id) = self.take_in_hand(receipt).and_then(|in_hand| in_hand.properties.message_id) {
                    self.tasks.borrow_mut().tried.remove(&id);
                }
                self.broker.ack(receipt);
                if let Some(reply) = reply {
                    self.send_reply(reply);
                }
            }
            Settlement::Rejected => self.offer(receipt),
            Settlement::Requeue(how) => self.requeue(receipt, how),
            Settlement::Quarantine { reason, reply } => self.quarantine(queue, receipt, reason, reply),
        }
    }

    fn take_in_hand(&self, receipt: Receipt) -> Option<InHand> {
        self.tasks.borrow_mut().in_hand.remove(&receipt)
    }

    fn requeue(self: &Rc<Self>, receipt: Receipt, how: Requeue) {
        let in_hand = self.take_in_hand(receipt);
        match how {
            Requeue::AtOnce => self.broker.nack(receipt, Nack::Requeue),
            Requeue::AfterPause => {
                let message_id = in_hand.and_then(|in_hand| in_hand.properties.message_id);
                let pause = self.tasks.borrow_mut().pause(message_id.as_ref());
                self.spawn(move |driver| async move {
                    tokio::time::sleep(pause).await;
                    driver.broker.nack(receipt, Nack::Requeue);
                });
            }
        }
    }

    fn quarantine(
        self: &Rc<Self>,
        queue: QueueName,
        receipt: Receipt,
        reason: String,
        reply: Option<crate::communicator::command::OutgoingReply>,
    ) {
        let Some(in_hand) = self.take_in_hand(receipt) else { return };
        self.spawn(move |driver| async move {
            let body = in_hand.body;
            match driver.publish_quarantined(&queue, &reason, &in_hand.properties, body).await {
                Ok(()) => {
                    driver.broker.ack(receipt);
                    count(&driver.shared.counters.tasks_quarantined);
                    tracing::warn!(queue = %queue, reason, "a task that cannot be read was put into quarantine");
                    driver.say(Event::Quarantined { queue: queue.to_string(), reason });
                    if let Some(reply) = reply {
                        driver.send_reply(reply);
                    }
                }
                Err(error) => {
                    tracing::error!(queue = %queue, %error, "a task that cannot be read could not be put into quarantine");
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    driver.broker.nack(receipt, Nack::Requeue);
                }
            }
        });
    }

    /// Takes one task out, if there is one.
    pub(super) async fn take_task(&self, queue: &QueueName) -> Result<Option<TaskDelivery>> {
        self.task_queue(queue).await?;
        let lane = self.tasks.borrow_mut().queue(queue, &self.next_lane).pull_lane;
        let taken = self.broker.get(queue, lane).await?;
        Ok(taken.map(|delivery| self.hold(queue, delivery)))
    }

    /// Waits for a task: a consumer for one message, so that it comes at once and nobody polls.
    pub(super) async fn await_task(&self, queue: &QueueName, patience: Duration) -> Result<Option<TaskDelivery>> {
        self.task_queue(queue).await?;
        let lane = self.tasks.borrow_mut().queue(queue, &self.next_lane).pull_lane;
        let tag = Uuid::new_v4().to_string();
        let (waiting, came) = oneshot::channel();
        self.consumers.borrow_mut().insert(tag.clone(), Consumer::Pull(waiting));
        let consume = ConsumeSpec {
            queue: queue.to_string(),
            tag: tag.clone(),
            lane,
            acknowledge: Acknowledge::Manual { prefetch: 1 },
        };
        let started = self.broker.consume(&consume).await;
        if let Err(error) = started {
            self.consumers.borrow_mut().remove(&tag);
            return Err(error);
        }
        let mut came = came;
        let delivery = tokio::time::timeout(patience, &mut came).await.ok().and_then(Result::ok);
        self.end_consumer(&tag).await?;
        // Guards: a task that came while the consumer was being cancelled. It is taken, not lost.
        let delivery = delivery.or_else(|| came.try_recv().ok());
        Ok(delivery.map(|delivery| self.hold(queue, delivery)))
    }

    fn hold(&self, queue: &QueueName, delivery: Delivery) -> TaskDelivery {
        let receipt = delivery.receipt;
        let in_hand = InHand::new(queue, delivery, Vec::new());
        let held = in_hand.delivery(&self.shared, receipt);
        self.tasks.borrow_mut().in_hand.insert(receipt, in_hand);
        held
    }
}
