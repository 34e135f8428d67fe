//! Subscribers: their queues and consumers, and the way from a delivery to their homes.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::sync::{Mutex, broadcast, mpsc};

use super::callers::is_caller_gone;
use super::link::{Generation, Link};
use super::supervise::is_lost;
use super::{Consumer, Driver, SERVICE_LANE};
use crate::broker::{Acknowledge, Broker, ConsumeSpec, Delivery, Lane};
use crate::communicator::broadcast::{Broadcast, BroadcastSink, CodecWork};
use crate::communicator::command::{ReplyExchange, RpcDelivery};
use crate::communicator::events::{ChannelCause, Event};
use crate::communicator::names::{BROADCAST_TOPIC, Identifier};
use crate::error::{Error, ErrorKind, Result};

/// How many calls wait at one subscriber's home before the broker keeps the rest. kiwipy sets no limit.
const RPC_PREFETCH: u16 = 1000;
/// The same for broadcasts on their way through the codec thread.
const BROADCAST_PREFETCH: u16 = 1000;

/// Where something is set up: its queue or its consumer, and on which connection. Held while that changes.
type Place = Rc<Mutex<Option<(Generation, String)>>>;

/// An RPC subscriber.
pub(super) struct Rpc {
    place: Place,
    sink: mpsc::UnboundedSender<RpcDelivery>,
    standing: Standing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Stays,
    /// It is being taken down: what still comes in is refused.
    Leaves,
}

impl Rpc {
    /// Its home has ended, and nobody has taken it out.
    fn is_forsaken(&self) -> bool {
        self.sink.is_closed() && self.standing == Standing::Stays
    }
}

/// All broadcast subscribers of this communicator.
#[derive(Default)]
pub(super) struct Broadcasts {
    /// The codec thread has the filters; this is to see whose home has ended.
    subscribers: HashMap<Identifier, broadcast::Sender<Broadcast>>,
    place: Place,
}

impl Broadcasts {
    pub(super) fn identifiers(&self) -> Vec<Identifier> {
        self.subscribers.keys().cloned().collect()
    }
}

impl<B: Broker> Driver<B> {
    pub(super) async fn add_rpc(
        self: &Rc<Self>,
        identifier: Identifier,
        sink: mpsc::UnboundedSender<RpcDelivery>,
    ) -> Result<()> {
        loop {
            let known = self
                .rpc
                .borrow()
                .get(&identifier)
                .map(|rpc| (Rc::clone(&rpc.place), rpc.standing == Standing::Leaves, rpc.sink.is_closed()));
            match known {
                None => break,
                // The lock is free when it has left.
                Some((place, true, _)) => drop(place.lock().await),
                Some((_, false, true)) => drop(self.remove_rpc(&identifier).await),
                Some((_, false, false)) => return Err(duplicate("an RPC subscriber", &identifier)),
            }
        }
        // Guards: two that add the same name at once. The entry stands before the first question to the broker.
        let entry = Rpc { place: Place::default(), sink, standing: Standing::Stays };
        self.rpc.borrow_mut().insert(identifier.clone(), entry);
        let what = format!("the RPC subscriber {:?}", identifier.as_str());
        let added = self.in_time(&what, self.on_a_link(async |link| self.ensure_rpc(link, &identifier).await)).await;
        if added.is_err() {
            // Where the connection went in between, the broker has taken down what stood.
            let _ = self.remove_rpc(&identifier).await;
        }
        added
    }

    /// Sets a subscriber up on this connection, if that was not done before.
    async fn ensure_rpc(&self, link: &Rc<Link<B>>, identifier: &Identifier) -> Result<()> {
        let Some(place) = self.rpc.borrow().get(identifier).map(|rpc| Rc::clone(&rpc.place)) else { return Ok(()) };
        let mut place = place.lock().await;
        let leaves = self.rpc.borrow().get(identifier).is_none_or(|rpc| rpc.standing == Standing::Leaves);
        if !leaves && place.as_ref().is_none_or(|(generation, _)| *generation != link.generation) {
            *place = None;
            *place = Some((link.generation, self.set_up_rpc(link, identifier).await?));
        }
        Ok(())
    }

    pub(super) async fn keep_rpc(&self, link: &Rc<Link<B>>, identifier: &Identifier) {
        self.keep(link, identifier.as_str(), async || self.ensure_rpc(link, identifier).await).await;
    }

    /// As kiwipy: declared, consumed under the identifier's name, then bound. Where that fails, no orphan stays. The queue's
    /// name is another one each time; what callers see is the binding.
    async fn set_up_rpc(&self, link: &Link<B>, identifier: &Identifier) -> Result<String> {
        self.hear_of_lost_answers(link).await?;
        let spec = self.shared.names.rpc_queue();
        link.broker.declare_queue(&spec).await?;
        link.consumers.borrow_mut().insert(identifier.as_str().to_owned(), Consumer::Rpc(identifier.clone()));
        let consume = ConsumeSpec {
            queue: spec.name.clone(),
            tag: identifier.as_str().to_owned(),
            lane: SERVICE_LANE,
            acknowledge: Acknowledge::Manual { prefetch: RPC_PREFETCH },
        };
        let bound = async {
            link.broker.consume(&consume).await?;
            self.bind(link, &spec.name, ReplyExchange::Message, &identifier.routing_key()).await?;
            match identifier.gone_key() {
                Some(key) => link.broker.bind(&spec.name, &self.shared.names.message_exchange, &key).await,
                None => Ok(()),
            }
        };
        if let Err(error) = bound.await {
            link.consumers.borrow_mut().remove(identifier.as_str());
            if let Err(also) = link.broker.delete_queue(&spec.name).await {
                tracing::debug!(%identifier, error = %also, "the queue of a failed subscription could not be deleted");
            }
            return Err(error);
        }
        Ok(spec.name)
    }

    pub(super) async fn remove_rpc(&self, identifier: &Identifier) -> Result<()> {
        // Guards: two removals at once. Whoever lets it leave takes the queue down.
        let place = match self.rpc.borrow_mut().get_mut(identifier) {
            Some(rpc) if rpc.standing == Standing::Stays => {
                rpc.standing = Standing::Leaves;
                Rc::clone(&rpc.place)
            }
            _ => return Err(unknown("RPC subscriber", identifier)),
        };
        let mut place = place.lock().await;
        let taken_down = match (place.take(), self.supply.now()) {
            (Some((generation, queue)), Some(link)) if link.generation == generation => {
                self.take_down_rpc(&link, identifier, &queue).await
            }
            // Its queue went with its connection.
            _ => Ok(()),
        };
        self.rpc.borrow_mut().remove(identifier);
        match taken_down {
            Err(error) if is_lost(&error) => Ok(()),
            taken_down => taken_down,
        }
    }

    /// Unbound first, so that no call comes into a queue that nobody reads any more. What is there by then finds no
    /// subscriber and is answered so: what was delivered, and then what still lies in the queue.
    async fn take_down_rpc(&self, link: &Rc<Link<B>>, identifier: &Identifier, queue: &str) -> Result<()> {
        let unbound = self.unbind_rpc(link, identifier, queue).await;
        let ended = link.end_consumer(identifier.as_str()).await;
        let emptied = self.refuse_all(link, identifier, queue).await;
        let deleted = link.broker.delete_queue(queue).await;
        unbound.and(ended).and(emptied).and(deleted)
    }

    async fn unbind_rpc(&self, link: &Link<B>, identifier: &Identifier, queue: &str) -> Result<()> {
        link.broker.unbind(queue, &self.shared.names.message_exchange, &identifier.routing_key()).await
    }

    async fn refuse_all(&self, link: &Rc<Link<B>>, identifier: &Identifier, queue: &str) -> Result<()> {
        while let Some(delivery) = link.broker.get(queue, SERVICE_LANE).await? {
            self.deliver_rpc(link, identifier, delivery);
        }
        Ok(())
    }

    /// Before a close: nobody calls these subscribers any more.
    pub(super) async fn unbind_calls(&self, link: &Rc<Link<B>>) {
        let bound: Vec<_> = {
            let subscribers = self.rpc.borrow();
            let queue = |rpc: &Rpc| rpc.place.try_lock().ok().and_then(|place| place.clone());
            subscribers.iter().filter_map(|(name, rpc)| Some((name.clone(), queue(rpc)?.1))).collect()
        };
        let unbind = |(identifier, queue): (Identifier, String)| async move {
            if let Err(error) = self.unbind_rpc(link, &identifier, &queue).await {
                tracing::debug!(%identifier, %error, "a subscriber could not be unbound");
            }
        };
        futures_util::stream::iter(bound).for_each_concurrent(64, unbind).await;
    }

    pub(super) fn deliver_rpc(&self, link: &Link<B>, identifier: &Identifier, delivery: Delivery) {
        if is_caller_gone(&delivery.properties) {
            link.broker.ack(delivery.receipt);
            if let Some(correlation) = delivery.properties.correlation_id {
                self.callers.borrow_mut().gone(correlation);
            }
            return;
        }
        let call = RpcDelivery {
            ticket: link.ticket(delivery.receipt),
            body: delivery.body,
            reply_to: delivery.properties.reply_to,
            correlation_id: delivery.properties.correlation_id,
        };
        self.callers.borrow_mut().takes(&call);
        let undelivered = match self.rpc.borrow().get(identifier) {
            Some(rpc) if rpc.standing == Standing::Stays => rpc.sink.send(call).err().map(|error| error.0),
            _ => Some(call),
        };
        if let Some(call) = undelivered {
            // Its home has ended. Nothing of it is touched or dropped on this thread.
            let _ = self.codec.send(CodecWork::Refuse(call));
        }
    }

    pub(super) async fn add_broadcast(&self, identifier: Identifier, sink: BroadcastSink) -> Result<()> {
        {
            let mut broadcasts = self.broadcasts.borrow_mut();
            let known = broadcasts.subscribers.get(&identifier);
            if known.is_some_and(|mailbox| mailbox.receiver_count() > 0) {
                return Err(duplicate("a broadcast subscriber", &identifier));
            }
            if known.is_some() {
                let _ = self.codec.send(CodecWork::Remove { identifier: identifier.clone() });
            }
            broadcasts.subscribers.insert(identifier.clone(), sink.mailbox.clone());
        }
        // Before the queue is there, so that its first message is heard.
        let _ = self.codec.send(CodecWork::Add { identifier: identifier.clone(), sink });
        let set_up = self.on_a_link(async |link| self.ensure_broadcasts(link).await);
        let added = self.in_time("a broadcast subscriber", set_up).await;
        if added.is_err() {
            self.broadcasts.borrow_mut().subscribers.remove(&identifier);
            let _ = self.codec.send(CodecWork::Remove { identifier });
        }
        added
    }

    /// Sets the queue of all broadcast subscribers up on this connection, if there are any and that was not done before.
    async fn ensure_broadcasts(&self, link: &Rc<Link<B>>) -> Result<()> {
        let place = Rc::clone(&self.broadcasts.borrow().place);
        let mut place = place.lock().await;
        let nobody = self.broadcasts.borrow().subscribers.is_empty();
        if !nobody && place.as_ref().is_none_or(|(generation, _)| *generation != link.generation) {
            *place = None;
            *place = Some((link.generation, self.set_up_broadcasts(link).await?));
        }
        Ok(())
    }

    pub(super) async fn keep_broadcasts(&self, link: &Rc<Link<B>>) {
        self.keep(link, "broadcasts", async || self.ensure_broadcasts(link).await).await;
    }

    async fn set_up_broadcasts(&self, link: &Link<B>) -> Result<String> {
        let spec = self.shared.names.broadcast_queue();
        link.broker.declare_queue(&spec).await?;
        link.consumers.borrow_mut().insert(spec.name.clone(), Consumer::Broadcast);
        let consume = ConsumeSpec {
            queue: spec.name.clone(),
            tag: spec.name.clone(),
            lane: SERVICE_LANE,
            acknowledge: Acknowledge::Manual { prefetch: BROADCAST_PREFETCH },
        };
        let set_up = async {
            link.broker.consume(&consume).await?;
            self.bind(link, &spec.name, ReplyExchange::Message, BROADCAST_TOPIC).await
        };
        if let Err(error) = set_up.await {
            link.consumers.borrow_mut().remove(&spec.name);
            let _ = link.broker.delete_queue(&spec.name).await;
            return Err(error);
        }
        Ok(spec.name)
    }

    /// With the last subscriber goes the queue, so that a later one hears nothing old (a stale `kill`, say).
    pub(super) async fn remove_broadcast(&self, identifier: &Identifier) -> Result<()> {
        let place = {
            let mut broadcasts = self.broadcasts.borrow_mut();
            if broadcasts.subscribers.remove(identifier).is_none() {
                return Err(unknown("broadcast subscriber", identifier));
            }
            Rc::clone(&broadcasts.place)
        };
        let _ = self.codec.send(CodecWork::Remove { identifier: identifier.clone() });
        let mut place = place.lock().await;
        if !self.broadcasts.borrow().subscribers.is_empty() {
            return Ok(());
        }
        match (place.take(), self.supply.now()) {
            (Some((generation, queue)), Some(link)) if link.generation == generation => {
                link.end_consumer(&queue).await?;
                link.broker.delete_queue(&queue).await
            }
            _ => Ok(()),
        }
    }

    pub(super) fn deliver_broadcast(&self, link: &Link<B>, delivery: Delivery) {
        let _ = self.codec.send(CodecWork::Broadcast { ticket: link.ticket(delivery.receipt), body: delivery.body });
    }

    /// Takes out every subscriber whose home has ended.
    pub(super) fn sweep(self: &Rc<Self>) {
        let gone: Vec<Identifier> =
            self.rpc.borrow().iter().filter(|(_, rpc)| rpc.is_forsaken()).map(|(id, _)| id.clone()).collect();
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

    /// The server ended a consumer of its own accord: its queue was deleted, as a rule. It is set up again.
    pub(super) fn consumer_cancelled(self: &Rc<Self>, link: &Rc<Link<B>>, tag: &str) {
        let Some(consumer) = link.consumers.borrow_mut().remove(tag) else { return };
        let name = match &consumer {
            Consumer::Reply(_) => "replies".to_owned(),
            Consumer::Rpc(identifier) => identifier.as_str().to_owned(),
            Consumer::Broadcast => "broadcasts".to_owned(),
            Consumer::Control => "control".to_owned(),
            Consumer::Task(queue) => queue.to_string(),
            // Whoever waits hears that there is no task.
            Consumer::Pull(_) => return,
        };
        tracing::warn!(name, "the broker ended a subscription; was its queue deleted?");
        self.say(Event::ConsumerCancelled { name });
        self.set_up_again(link, tag.to_owned(), consumer);
    }

    /// The server closed a channel: what it had handed out by it is back in the queues.
    pub(super) fn lane_closed(
        self: &Rc<Self>,
        link: &Rc<Link<B>>,
        (lane, opening): (Lane, u32),
        consumers: Vec<String>,
        error: Error,
    ) {
        let gone: Vec<(String, Consumer)> = {
            let mut known = link.consumers.borrow_mut();
            consumers.into_iter().filter_map(|tag| known.remove_entry(&tag)).collect()
        };
        let queue = gone.iter().find_map(|(_, consumer)| match consumer {
            Consumer::Task(queue) => Some(queue.to_string()),
            _ => None,
        });
        tracing::warn!(?lane, ?queue, %error, "the broker closed a channel");
        let cause = ChannelCause::of(&error);
        self.say(Event::ChannelClosed { queue, cause, error });
        self.tasks_are_away(|ticket| {
            let receipt = ticket.receipt;
            ticket.generation == link.generation && receipt.lane == lane && receipt.opening == opening
        });
        for (tag, consumer) in gone {
            self.set_up_again(link, tag, consumer);
        }
    }

    fn set_up_again(self: &Rc<Self>, link: &Rc<Link<B>>, tag: String, consumer: Consumer) {
        let link = Rc::clone(link);
        match consumer {
            Consumer::Reply(exchange) => {
                self.spawn(move |driver| async move { driver.reclaim(&link, exchange, &tag).await });
            }
            Consumer::Rpc(identifier) => self.spawn(move |driver| async move {
                let place = driver.rpc.borrow().get(&identifier).map(|rpc| Rc::clone(&rpc.place));
                let Some(place) = place else { return };
                // A queue that is still there, without its consumer, would keep calls for nobody.
                let old = place.lock().await.take();
                if let Some((_, queue)) = old {
                    let _ = link.broker.delete_queue(&queue).await;
                }
                driver.keep_rpc(&link, &identifier).await;
            }),
            Consumer::Broadcast => self.spawn(move |driver| async move {
                let place = Rc::clone(&driver.broadcasts.borrow().place);
                let old = place.lock().await.take();
                if let Some((_, queue)) = old {
                    let _ = link.broker.delete_queue(&queue).await;
                }
                driver.keep_broadcasts(&link).await;
            }),
            Consumer::Task(queue) => self.spawn(move |driver| async move {
                driver.consumer_gone(&link, &queue).await;
                driver.keep_tasks(&link, &queue).await;
            }),
            Consumer::Control | Consumer::Pull(_) => {}
        }
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
