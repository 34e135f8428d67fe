//! What goes out: calls, tasks, broadcasts, replies. Each publish is a task of its own, so that many are under way.
//!
//! Messages to one destination go out in the order in which they were asked for, although some of them have to wait for
//! their queues first: each takes its turn on a fair lock and gives it up once it is on the wire.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit};
use uuid::Uuid;

use super::Driver;
use crate::broker::{Body, Broker, Durability, Message, Properties, Routing};
use crate::communicator::command::{Expected, OutgoingReply, Published, ReplyExchange, ReplyStage};
use crate::communicator::names::{BROADCAST_TOPIC, Identifier};
use crate::communicator::shared::count;
use crate::error::{Error, ErrorKind, Result};

/// Whose turn it is to go out. Task queues have theirs with them.
#[derive(Default)]
pub(super) struct Turns {
    calls: Mutex<()>,
    broadcasts: Mutex<()>,
}

impl<B: Broker> Driver<B> {
    pub(super) fn send_call(
        self: &Rc<Self>,
        recipient: Identifier,
        body: Body,
        expected: Expected,
        published: Option<Published>,
        slot: OwnedSemaphorePermit,
    ) {
        let correlation = expected.correlation;
        let what = format!("the call to {:?}", recipient.as_str());
        self.requests.borrow_mut().add(what, Some(recipient.clone()), expected);
        self.spawn_publish(slot, move |driver| async move {
            let outcome = driver.publish_call(&recipient, body, correlation).await;
            driver.published(Some(correlation), published, outcome);
        });
    }

    async fn publish_call(&self, recipient: &Identifier, body: Body, correlation: Uuid) -> Result<()> {
        let turn = self.turns.calls.lock().await;
        let reply_to = self.reply_queue(ReplyExchange::Message).await?.to_owned();
        let message = Message {
            exchange: self.shared.names.message_exchange.clone(),
            routing_key: recipient.routing_key(),
            properties: request_properties(Some(correlation), Some(reply_to)),
            body,
            routing: Routing::Mandatory,
            durability: Durability::Transient,
        };
        self.publish_in_turn(turn, message).await.map_err(|error| match error.kind() {
            ErrorKind::Unroutable => Error::with_source(
                ErrorKind::Unroutable,
                format!(
                    "nobody listens for calls to {:?} on the exchange {:?}; check the name, the prefix and whether its \
                     program runs",
                    recipient.as_str(),
                    &*self.shared.names.message_exchange
                ),
                error,
            ),
            _ => error,
        })
    }

    pub(super) fn send_task(
        self: &Rc<Self>,
        queue: Arc<str>,
        body: Body,
        expected: Option<Expected>,
        published: Option<Published>,
        slot: OwnedSemaphorePermit,
    ) {
        let correlation = expected.as_ref().map(|expected| expected.correlation);
        if let Some(expected) = expected {
            self.requests.borrow_mut().add(format!("the task on {queue:?}"), None, expected);
        }
        self.spawn_publish(slot, move |driver| async move {
            let outcome = driver.publish_task(&queue, body, correlation).await;
            driver.published(correlation, published, outcome);
        });
    }

    async fn publish_task(&self, queue: &Arc<str>, body: Body, correlation: Option<Uuid>) -> Result<()> {
        let turn = self.tasks.borrow_mut().queue(queue, &self.next_lane).turn.clone();
        let turn = turn.lock().await;
        self.task_queue(queue).await?;
        // kiwipy names a reply queue and a correlation id even where no reply is wanted.
        let reply_to = self.reply_queue(ReplyExchange::Task).await?.to_owned();
        let message = Message {
            exchange: self.shared.names.task_exchange.clone(),
            routing_key: queue.to_string(),
            properties: request_properties(Some(correlation.unwrap_or_else(Uuid::new_v4)), Some(reply_to)),
            body,
            routing: Routing::Mandatory,
            durability: Durability::Durable,
        };
        self.publish_in_turn(turn, message).await
    }

    pub(super) fn send_broadcast(self: &Rc<Self>, body: Body, published: Published, slot: OwnedSemaphorePermit) {
        self.spawn_publish(slot, move |driver| async move {
            let again = body.clone();
            let outcome = driver.publish_broadcast(body).await;
            let outcome = match outcome {
                // In testing mode the exchange goes with the last queue that is bound to it.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    match driver.declare_exchange(ReplyExchange::Message).await {
                        Ok(()) => driver.publish_broadcast(again).await,
                        Err(error) => Err(error),
                    }
                }
                outcome => outcome,
            };
            driver.published(None, Some(published), outcome);
        });
    }

    async fn publish_broadcast(&self, body: Body) -> Result<()> {
        let turn = self.turns.broadcasts.lock().await;
        self.exchange(ReplyExchange::Message).await?;
        let message = Message {
            exchange: self.shared.names.message_exchange.clone(),
            routing_key: BROADCAST_TOPIC.to_owned(),
            properties: request_properties(None, None),
            body,
            routing: Routing::Optional,
            durability: Durability::Transient,
        };
        self.publish_in_turn(turn, message).await
    }

    /// A message that must not overtake the calls before it.
    pub(super) async fn publish_after_calls(&self, message: Message) -> Result<()> {
        let turn = self.turns.calls.lock().await;
        self.publish_in_turn(turn, message).await
    }

    /// Puts a message on the wire, then lets the next one go, then waits for the broker to take it over.
    async fn publish_in_turn(&self, turn: MutexGuard<'_, ()>, message: Message) -> Result<()> {
        let mut publish = pin!(self.broker.publish(message));
        // The first poll is what puts it on the wire.
        let first = poll_fn(|context| Poll::Ready(publish.as_mut().poll(context))).await;
        drop(turn);
        match first {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => publish.await,
        }
    }

    /// Tells who asked for it how a publish ended.
    fn published(&self, correlation: Option<Uuid>, published: Option<Published>, outcome: Result<()>) {
        if let (Some(correlation), Err(error)) = (correlation, &outcome) {
            self.requests.borrow_mut().fail(correlation, error.clone());
        }
        if let Some(published) = published {
            // A caller whose home has ended does not ask any more.
            drop(published.complete(outcome));
        }
    }

    pub(super) fn send_reply(self: &Rc<Self>, reply: OutgoingReply) {
        if let (ReplyStage::Last, Some(correlation)) = (reply.stage, &reply.correlation_id) {
            self.callers.borrow_mut().answered(correlation);
        }
        self.spawn_publish((), move |driver| async move { driver.publish_reply(reply).await });
    }

    /// Replies are published in the order in which they come, `pending` before the outcome: a task is polled first in the
    /// order of spawning, and the first poll is the order on the wire.
    async fn publish_reply(&self, reply: OutgoingReply) {
        let OutgoingReply { exchange, reply_to, correlation_id, stage, body } = reply;
        let caller = correlation_id.clone();
        let message = Message {
            exchange: self.exchange_name(exchange).clone(),
            routing_key: reply_to,
            properties: Properties { correlation_id, ..request_properties(None, None) },
            body,
            routing: Routing::Mandatory,
            durability: Durability::Transient,
        };
        if let Err(error) = self.broker.publish(message).await {
            if error.kind() == ErrorKind::Unroutable {
                count(&self.shared.counters.replies_unroutable);
                tracing::info!("a reply was dropped: its caller is gone");
                if let (ReplyStage::Pending, Some(correlation)) = (stage, caller) {
                    self.callers.borrow_mut().gone(correlation);
                }
            } else {
                tracing::warn!(%error, "a reply could not be sent");
            }
        }
    }

    /// Publishes a task that cannot be read to the quarantine queue, with the reason.
    pub(super) async fn publish_quarantined(
        &self,
        queue: &Arc<str>,
        reason: &str,
        original: &Properties,
        body: Body,
    ) -> Result<()> {
        let spec = self.shared.names.quarantine_queue(queue);
        self.broker.declare_queue(&spec).await?;
        let mut properties = original.clone();
        properties.message_id.get_or_insert_with(message_id);
        properties.headers.push(("homing-quarantine-reason".to_owned(), reason.to_owned()));
        properties.headers.push(("homing-quarantine-queue".to_owned(), queue.to_string()));
        let message = Message {
            // The default exchange routes by the queue's name.
            exchange: "".into(),
            routing_key: spec.name,
            properties,
            body,
            routing: Routing::Mandatory,
            durability: Durability::Durable,
        };
        self.broker.publish(message).await
    }
}

/// As kiwipy sends them: a random message id, as hex digits.
fn message_id() -> String {
    Uuid::new_v4().simple().to_string()
}

fn request_properties(correlation: Option<Uuid>, reply_to: Option<String>) -> Properties {
    Properties {
        message_id: Some(message_id()),
        correlation_id: correlation.map(|id| id.to_string()),
        reply_to,
        headers: Vec::new(),
    }
}
