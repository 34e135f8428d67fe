//! Subscribers: their queues and consumers, and the way from a delivery to their homes.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Mutex, broadcast, mpsc};

use super::callers::is_caller_gone;
use super::{Consumer, Driver, SERVICE_LANE};
use crate::broker::{Acknowledge, Broker, ConsumeSpec, Delivery, Lane, Nack};
use crate::communicator::broadcast::{Broadcast, BroadcastSink, CodecWork};
use crate::communicator::command::{ReplyExchange, RpcDelivery};
use crate::communicator::events::Event;
use crate::communicator::names::{BROADCAST_TOPIC, Identifier};
use crate::error::{Error, ErrorKind, Result};

/// How many calls wait at one subscriber's home before the broker keeps the rest. kiwipy sets no limit.
const RPC_PREFETCH: u16 = 1000;
/// The same for broadcasts on their way through the codec thread.
const BROADCAST_PREFETCH: u16 = 1000;

/// An RPC subscriber.
pub(super) struct Rpc {
    /// `None` while it is being set up.
    queue: Option<String>,
    sink: mpsc::UnboundedSender<RpcDelivery>,
}

/// All broadcast subscribers of this communicator.
#[derive(Default)]
pub(super) struct Broadcasts {
    /// The codec thread has the filters; this is to see whose home has ended.
    subscribers: HashMap<Identifier, broadcast::Sender<Broadcast>>,
    /// Held while the queue is set up or taken down, since both take several questions to the broker.
    queue: Rc<Mutex<Option<String>>>,
}

impl<B: Broker> Driver<B> {
    pub(super) async fn add_rpc(&self, identifier: Identifier, sink: mpsc::UnboundedSender<RpcDelivery>) -> Result<()> {
        if self.rpc.borrow().contains_key(&identifier) {
            return Err(duplicate("an RPC subscriber", &identifier));
        }
        // Guards: two that add the same name at once. The entry stands before the first question to the broker.
        self.rpc.borrow_mut().insert(identifier.clone(), Rpc { queue: None, sink });
        let set_up = self.set_up_rpc(&identifier).await;
        match &set_up {
            Ok(queue) => {
                if let Some(rpc) = self.rpc.borrow_mut().get_mut(&identifier) {
                    rpc.queue = Some(queue.clone());
                }
            }
            Err(_) => {
                self.rpc.borrow_mut().remove(&identifier);
                self.consumers.borrow_mut().remove(identifier.as_str());
            }
        }
        set_up.map(|_| ())
    }

    /// As kiwipy: declared, consumed under the identifier's name, then bound. Where that fails, no orphan stays.
    async fn set_up_rpc(&self, identifier: &Identifier) -> Result<String> {
        let spec = self.shared.names.rpc_queue();
        self.broker.declare_queue(&spec).await?;
        self.consumers.borrow_mut().insert(identifier.as_str().to_owned(), Consumer::Rpc(identifier.clone()));
        let consume = ConsumeSpec {
            queue: spec.name.clone(),
            tag: identifier.as_str().to_owned(),
            lane: SERVICE_LANE,
            acknowledge: Acknowledge::Manual { prefetch: RPC_PREFETCH },
        };
        let bound = async {
            self.broker.consume(&consume).await?;
            self.bind(&spec.name, ReplyExchange::Message, &identifier.routing_key()).await?;
            match identifier.gone_key() {
                Some(key) => self.broker.bind(&spec.name, &self.shared.names.message_exchange, &key).await,
                None => Ok(()),
            }
        };
        if let Err(error) = bound.await {
            if let Err(also) = self.broker.delete_queue(&spec.name).await {
                tracing::warn!(%identifier, error = %also, "the queue of a failed subscription could not be deleted");
            }
            return Err(error);
        }
        Ok(spec.name)
    }

    pub(super) async fn remove_rpc(&self, identifier: &Identifier) -> Result<()> {
        // Guards: two removals at once. Whoever takes the entry out takes the queue down.
        let Some(rpc) = self.rpc.borrow_mut().remove(identifier) else {
            return Err(unknown("RPC subscriber", identifier));
        };
        // Unbound first, so that no call comes into a queue that nobody reads any more. What is there by then finds no
        // subscriber and is answered so: what was delivered, and then what still lies in the queue.
        let Some(queue) = rpc.queue else { return Ok(()) };
        let unbound = self.broker.unbind(&queue, &self.shared.names.message_exchange, &identifier.routing_key()).await;
        let ended = self.end_consumer(identifier.as_str()).await;
        let emptied = self.refuse_all(identifier, &queue).await;
        let deleted = self.broker.delete_queue(&queue).await;
        unbound.and(ended).and(emptied).and(deleted)
    }

    async fn refuse_all(&self, identifier: &Identifier, queue: &str) -> Result<()> {
        while let Some(delivery) = self.broker.get(queue, SERVICE_LANE).await? {
            self.deliver_rpc(identifier, delivery);
        }
        Ok(())
    }

    pub(super) fn deliver_rpc(&self, identifier: &Identifier, delivery: Delivery) {
        if is_caller_gone(&delivery.properties) {
            self.broker.ack(delivery.receipt);
            if let Some(correlation) = delivery.properties.correlation_id {
                self.callers.borrow_mut().gone(correlation);
            }
            return;
        }
        let call = RpcDelivery {
            receipt: delivery.receipt,
            body: delivery.body,
            reply_to: delivery.properties.reply_to,
            correlation_id: delivery.properties.correlation_id,
        };
        let undelivered = match self.rpc.borrow().get(identifier) {
            Some(rpc) => rpc.sink.send(call).err().map(|error| error.0),
            None => Some(call),
        };
        if let Some(call) = undelivered {
            // Its home has ended. Nothing of it is touched or dropped on this thread.
            let _ = self.codec.send(CodecWork::Refuse(call));
        }
    }

    pub(super) async fn add_broadcast(&self, identifier: Identifier, sink: BroadcastSink) -> Result<()> {
        let queue = {
            let mut broadcasts = self.broadcasts.borrow_mut();
            if broadcasts.subscribers.contains_key(&identifier) {
                return Err(duplicate("a broadcast subscriber", &identifier));
            }
            broadcasts.subscribers.insert(identifier.clone(), sink.mailbox.clone());
            Rc::clone(&broadcasts.queue)
        };
        // Before the queue is there, so that its first message is heard.
        let _ = self.codec.send(CodecWork::Add { identifier: identifier.clone(), sink });
        let mut queue = queue.lock().await;
        if queue.is_some() {
            return Ok(());
        }
        match self.set_up_broadcasts().await {
            Ok(name) => {
                *queue = Some(name);
                Ok(())
            }
            Err(error) => {
                self.broadcasts.borrow_mut().subscribers.remove(&identifier);
                let _ = self.codec.send(CodecWork::Remove { identifier });
                Err(error)
            }
        }
    }

    async fn set_up_broadcasts(&self) -> Result<String> {
        let spec = self.shared.names.broadcast_queue();
        self.broker.declare_queue(&spec).await?;
        self.consumers.borrow_mut().insert(spec.name.clone(), Consumer::Broadcast);
        let consume = ConsumeSpec {
            queue: spec.name.clone(),
            tag: spec.name.clone(),
            lane: SERVICE_LANE,
            acknowledge: Acknowledge::Manual { prefetch: BROADCAST_PREFETCH },
        };
        self.broker.consume(&consume).await?;
        self.bind(&spec.name, ReplyExchange::Message, BROADCAST_TOPIC).await?;
        Ok(spec.name)
    }

    /// With the last subscriber goes the queue, so that a later one hears nothing old (a stale `kill`, say).
    pub(super) async fn remove_broadcast(&self, identifier: &Identifier) -> Result<()> {
        let queue = {
            let mut broadcasts = self.broadcasts.borrow_mut();
            if broadcasts.subscribers.remove(identifier).is_none() {
                return Err(unknown("broadcast subscriber", identifier));
            }
            Rc::clone(&broadcasts.queue)
        };
        let _ = self.codec.send(CodecWork::Remove { identifier: identifier.clone() });
        let mut queue = queue.lock().await;
        if !self.broadcasts.borrow().subscribers.is_empty() {
            return Ok(());
        }
        let Some(name) = queue.take() else { return Ok(()) };
        self.end_consumer(&name).await?;
        self.broker.delete_queue(&name).await
    }

    pub(super) fn deliver_broadcast(&self, delivery: Delivery) {
        let _ = self.codec.send(CodecWork::Broadcast { receipt: delivery.receipt, body: delivery.body });
    }

    /// Takes out every subscriber whose home has ended.
    pub(super) fn sweep(self: &Rc<Self>) {
        let gone: Vec<Identifier> =
            self.rpc.borrow().iter().filter(|(_, rpc)| rpc.sink.is_closed()).map(|(id, _)| id.clone()).collect();
        for identifier in gone {
            self.say_gone(&identifier);
            self.spawn(move |driver| async move { logged(driver.remove_rpc(&identifier).await) });
        }
        let gone: Vec<Identifier> = self
            .broadcasts
            .borrow()
            .subscribers
            .iter()
            .filter(|(_, mailbox)| mailbox.receiver_count() == 0)
            .map(|(id, _)| id.clone())
            .collect();
        for identifier in gone {
            self.say_gone(&identifier);
            self.spawn(move |driver| async move { logged(driver.remove_broadcast(&identifier).await) });
        }
        let gone = self.tasks.borrow().closed();
        for (queue, identifier) in gone {
            self.say_gone(&identifier);
            self.spawn(move |driver| async move { logged(driver.remove_task(&queue, &identifier).await) });
        }
    }

    fn say_gone(&self, identifier: &Identifier) {
        tracing::warn!(%identifier, "a subscriber was taken out, since its home has ended");
        self.say(Event::SubscriberGone { identifier: identifier.clone() });
    }

    /// The server ended a consumer of its own accord.
    pub(super) fn consumer_cancelled(&self, tag: &str) -> Option<Error> {
        let consumer = self.consumers.borrow_mut().remove(tag)?;
        let name = match consumer {
            Consumer::Reply => {
                return Some(Error::new(
                    ErrorKind::ConnectionLost,
                    "the broker deleted this communicator's reply queue: no caller could get an answer any more",
                ));
            }
            Consumer::Rpc(identifier) => {
                self.rpc.borrow_mut().remove(&identifier);
                identifier.as_str().to_owned()
            }
            Consumer::Broadcast => {
                return Some(Error::new(
                    ErrorKind::ConnectionLost,
                    "the broker deleted this communicator's broadcast queue: no broadcast could be heard any more",
                ));
            }
            Consumer::Task(queue) => {
                self.tasks.borrow_mut().forget_subscribers(&queue);
                queue.to_string()
            }
            Consumer::Pull(waiting) => {
                drop(waiting);
                return None;
            }
        };
        tracing::warn!(name, "the broker ended a subscription; was its queue deleted?");
        self.say(Event::ConsumerCancelled { name });
        None
    }

    /// A delivery that nobody is here for any more goes back.
    pub(super) fn give_back(&self, delivery: &Delivery) {
        self.broker.nack(delivery.receipt, Nack::Requeue);
    }
}

pub(super) fn next_lane(next: &Cell<u32>) -> Lane {
    let lane = Lane(next.get());
    next.set(lane.0 + 1);
    lane
}

pub(super) fn duplicate(what: &str, identifier: &Identifier) -> Error {
    Error::new(
        ErrorKind::DuplicateSubscriberIdentifier,
        format!("{what} of the name {:?} is there already on this communicator; remove it first", identifier.as_str()),
    )
}

pub(super) fn unknown(what: &str, identifier: &Identifier) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("there is no {what} of the name {:?}", identifier.as_str()))
}

fn logged(outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "a subscriber whose home has ended could not be taken out cleanly");
    }
}

pub(super) type QueueName = Arc<str>;
