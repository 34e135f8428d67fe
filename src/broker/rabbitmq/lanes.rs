//! Lanes: channels of the consuming connection, each with its consumers and its acknowledgements.
//!
//! A lane is opened at its first use, and again after the server closed it; each opening has a number, which every receipt
//! carries, for the server's delivery tags begin anew with every channel. Deliveries are forwarded by one task a consumer,
//! in the server's order. The end of a lane is reported when its last consumer has been read to the end, so that it never
//! overtakes a delivery.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::log::{debug, trace, warn};
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{oneshot, watch};

use super::errors;
use super::life::Life;
use super::link::Link;
use super::message::incoming;
use super::topology::{name, settle, short};
use super::turn::Turn;
use crate::broker::{Acknowledge, BrokerEvent, ConsumeSpec, Delivery, Lane, Nack, Receipt};
use crate::error::{Error, ErrorKind, Result};

pub(crate) struct Lanes {
    link: Rc<Link>,
    life: Rc<Life>,
    address: Rc<str>,
    limit: Duration,
    lanes: RefCell<BTreeMap<Lane, Rc<LaneState>>>,
    /// Where each consumer is. A tag is taken from the moment its consumer is asked for: the server answers a tag used
    /// twice by closing the whole connection.
    consumers: RefCell<HashMap<String, Lane>>,
    /// Forwarding tasks that have not ended.
    forwarding: watch::Sender<usize>,
    /// Whether anything was settled for good by this connection.
    has_settled: Cell<bool>,
}

struct LaneState {
    lane: Lane,
    /// One question at a time; acknowledgements pass by.
    turn: Turn<()>,
    open: RefCell<Option<Rc<Opening>>>,
    openings: Cell<u32>,
}

struct Opening {
    lane: Lane,
    number: u32,
    channel: Channel,
    consumers: RefCell<HashMap<String, Rc<Consuming>>>,
    /// Set when the channel has gone: why, and whose consumers went with it.
    closed: RefCell<Option<Error>>,
    lost: RefCell<Vec<String>>,
    announced: Cell<bool>,
}

struct Consuming {
    /// We ended it, so its end is no news.
    cancelled: Cell<bool>,
    /// Dropped when its stream has been read to the end.
    ended: watch::Receiver<()>,
}

impl Lanes {
    pub(crate) fn new(link: Rc<Link>, life: Rc<Life>, address: Rc<str>, limit: Duration) -> Self {
        Lanes {
            link,
            life,
            address,
            limit,
            lanes: RefCell::default(),
            consumers: RefCell::default(),
            forwarding: watch::channel(0).0,
            has_settled: Cell::new(false),
        }
    }

    /// Starts a consumer. A caller who gives up leaves none behind.
    pub(crate) async fn consume(self: &Rc<Self>, spec: ConsumeSpec) -> Result<()> {
        let (lanes, tag) = (Rc::clone(self), spec.tag.clone());
        let undo = async move |lanes: Rc<Self>, ()| {
            // Its end is all that is wanted; an error has ended it too.
            let _ = lanes.cancel(&tag).await;
        };
        self.to_the_end(async move { lanes.start(&spec).await }, undo).await
    }

    /// Takes one message. What a caller who gave up does not take goes back.
    pub(crate) async fn get(self: &Rc<Self>, queue: String, lane: Lane) -> Result<Option<Delivery>> {
        let lanes = Rc::clone(self);
        let undo = async |lanes: Rc<Self>, got: Option<Delivery>| {
            if let Some(got) = got {
                lanes.nack(got.receipt, Nack::Requeue);
            }
        };
        self.to_the_end(async move { lanes.take(&queue, lane).await }, undo).await
    }

    /// Lets a question run to its end even if its caller does not wait for it, and then undoes what it did: the server
    /// does not know that nobody listens any more.
    async fn to_the_end<T: 'static>(
        self: &Rc<Self>,
        question: impl Future<Output = Result<T>> + 'static,
        undo: impl AsyncFnOnce(Rc<Self>, T) + 'static,
    ) -> Result<T> {
        let lanes = Rc::clone(self);
        let (answer, answered) = oneshot::channel();
        self.life.spawn(async move {
            if let Err(Ok(unwanted)) = answer.send(question.await) {
                undo(lanes, unwanted).await;
            }
        });
        answered
            .await
            .unwrap_or_else(|_| Err(self.life.over_or(Error::new(ErrorKind::ConnectionLost, "the broker has ended"))))
    }

    async fn start(self: &Rc<Self>, spec: &ConsumeSpec) -> Result<()> {
        let (queue, tag) = (name("queue name", &spec.queue)?, name("consumer tag", &spec.tag)?);
        if self.consumers.borrow().contains_key(&spec.tag) {
            return Err(Error::new(
                ErrorKind::DuplicateSubscriberIdentifier,
                format!("a consumer {:?} exists on this connection already", spec.tag),
            ));
        }
        self.consumers.borrow_mut().insert(spec.tag.clone(), spec.lane);
        let mut reserved = Reserved { lanes: self, tag: &spec.tag, keep: false };
        debug!(queue = %spec.queue, consumer = %spec.tag, lane = spec.lane.0, "consume");
        let options = BasicConsumeOptions {
            no_ack: matches!(spec.acknowledge, Acknowledge::None),
            ..BasicConsumeOptions::default()
        };
        let what = format_args!("consume from the queue {:?}", spec.queue);
        let (opening, consumer) = self
            .ask(spec.lane, what, async |opening| {
                if let Acknowledge::Manual { prefetch } = spec.acknowledge {
                    // Not global: RabbitMQ gives this to each consumer that begins after it.
                    opening.channel.basic_qos(prefetch, BasicQosOptions { global: false }).await?;
                }
                let consumer = opening.channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
                Ok((Rc::clone(opening), consumer))
            })
            .await?;
        reserved.keep = true;
        let (running, ended) = watch::channel(());
        let consuming = Rc::new(Consuming { cancelled: Cell::new(false), ended });
        opening.consumers.borrow_mut().insert(spec.tag.clone(), Rc::clone(&consuming));
        self.forwarding.send_modify(|count| *count += 1);
        let this = Rc::clone(self);
        let tag = spec.tag.clone();
        self.life.spawn(async move {
            let outcome = this.forward(&opening, &tag, consumer).await;
            this.ended(&opening, &tag, &consuming, outcome.as_ref());
            this.forwarding.send_modify(|count| *count -= 1);
            drop(running);
        });
        Ok(())
    }

    /// Reads a consumer to its end; the error is the one that ended it, if there was one.
    async fn forward(&self, opening: &Opening, tag: &str, mut consumer: Consumer) -> Option<lapin::Error> {
        let known: Arc<str> = tag.into();
        while let Some(delivery) = consumer.next().await {
            let delivery = match delivery {
                Ok(delivery) => delivery,
                Err(error) => return Some(error),
            };
            let delivery = self.received(opening, delivery);
            trace!(consumer = %tag, delivery = delivery.receipt.tag, message_id = delivery.properties.message_id.as_deref(),
                redelivered = delivery.redelivered, "deliver");
            self.life.say(BrokerEvent::Delivery { consumer: Arc::clone(&known), delivery });
        }
        None
    }

    /// A consumer has been read to its end: finds out why, and reports it.
    fn ended(&self, opening: &Opening, tag: &str, consuming: &Consuming, error: Option<&lapin::Error>) {
        opening.consumers.borrow_mut().remove(tag);
        self.consumers.borrow_mut().remove(tag);
        let connection_gone = self.life.over().is_some() || !self.link.connected();
        if connection_gone && !error.is_some_and(errors::ends_a_channel) {
            return;
        }
        let lane_gone = error.is_some() || !opening.channel.status().connected();
        if !consuming.cancelled.get() {
            if lane_gone {
                opening.lost.borrow_mut().push(tag.to_owned());
            } else {
                debug!(consumer = %tag, "the server ended the consumer");
                self.life.say(BrokerEvent::ConsumerCancelled { consumer: tag.to_owned() });
            }
        }
        if lane_gone {
            self.lane_closed(opening, error);
        }
    }

    /// The server closed this opening of a lane. Reported once, when no delivery of it can follow any more.
    fn lane_closed(&self, opening: &Opening, error: Option<&lapin::Error>) {
        if opening.closed.borrow().is_none() {
            let what = format!("keep lane {} open", opening.lane.0);
            let error = match error {
                Some(error) => errors::operation(&what, error),
                None => Error::new(ErrorKind::InvalidState, format!("could not {what}: its channel was closed")),
            };
            *opening.closed.borrow_mut() = Some(error);
        }
        if let Some(state) = self.lanes.borrow().get(&opening.lane)
            && state.open.borrow().as_ref().is_some_and(|open| open.number == opening.number)
        {
            *state.open.borrow_mut() = None;
        }
        if opening.consumers.borrow().is_empty() && !opening.announced.replace(true) {
            let consumers = opening.lost.take();
            let error = opening.closed.borrow().clone();
            if let Some(error) = error {
                debug!(lane = opening.lane.0, %error, "the server closed a lane");
                let (lane, opening) = (opening.lane, opening.number);
                self.life.say(BrokerEvent::LaneClosed { lane, opening, consumers, error });
            }
        }
    }

    /// The server closed some channel: finds the lanes that have gone, also those without a consumer to report it.
    pub(crate) fn channel_closed(&self, error: &lapin::Error) {
        let gone: Vec<Rc<Opening>> = self
            .lanes
            .borrow()
            .values()
            .filter_map(|state| state.open.borrow().clone())
            .filter(|opening| !opening.channel.status().connected())
            .collect();
        for opening in gone {
            self.lane_closed(&opening, Some(error));
        }
    }

    fn received(&self, opening: &Opening, delivery: lapin::message::Delivery) -> Delivery {
        let receipt = Receipt { lane: opening.lane, opening: opening.number, tag: delivery.delivery_tag };
        // Guards: the properties of a delivery with the same number on a channel that has this channel's number by now.
        let live = opening.channel.status().connected();
        let diverted = live.then(|| self.link.diverted.take(opening.channel.id(), receipt.tag)).flatten();
        if let Some(properties) = &diverted {
            for oddity in properties.oddities() {
                warn!(
                    lane = opening.lane.0,
                    delivery = receipt.tag,
                    message_id = properties.message_id.as_deref(),
                    reason = oddity.reason,
                    "a message is odd"
                );
            }
        }
        incoming(delivery, receipt, diverted)
    }

    pub(crate) async fn cancel(&self, consumer: &str) -> Result<()> {
        let tag = short("consumer tag", consumer)?;
        let lane = self.consumers.borrow().get(consumer).copied();
        let state = lane.and_then(|lane| self.lanes.borrow().get(&lane).cloned());
        let opening = state.and_then(|state| state.open.borrow().clone());
        let consuming = opening.as_ref().and_then(|opening| opening.consumers.borrow().get(consumer).cloned());
        let (Some(lane), Some(consuming)) = (lane, consuming) else {
            // It has ended already, which is what was wanted.
            return self.life.check();
        };
        debug!(%consumer, lane = lane.0, "cancel");
        self.ask(lane, format_args!("end the consumer {consumer:?}"), async |opening| {
            consuming.cancelled.set(true);
            opening.channel.basic_cancel(tag, BasicCancelOptions::default()).await?;
            // What was on its way is forwarded first.
            let mut ended = consuming.ended.clone();
            while ended.changed().await.is_ok() {}
            Ok(())
        })
        .await
    }

    async fn take(&self, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        let queue_name = name("queue name", queue)?;
        self.ask(lane, format_args!("get from the queue {queue:?}"), async |opening| {
            let got = opening.channel.basic_get(queue_name, BasicGetOptions { no_ack: false }).await?;
            Ok(got.map(|got| self.received(opening, got.delivery)))
        })
        .await
    }

    pub(crate) fn ack(&self, receipt: Receipt) {
        self.has_settled.set(true);
        self.acknowledge(receipt, |channel| {
            channel.basic_ack(receipt.tag, BasicAckOptions { multiple: false }).now_or_never()
        });
    }

    pub(crate) fn nack(&self, receipt: Receipt, then: Nack) {
        let options = BasicNackOptions { multiple: false, requeue: then == Nack::Requeue };
        if !options.requeue {
            self.has_settled.set(true);
        }
        self.acknowledge(receipt, |channel| channel.basic_nack(receipt.tag, options).now_or_never());
    }

    /// lapin puts the frame into its queue at the first poll; what follows only reports when it was written.
    fn acknowledge(&self, receipt: Receipt, write: impl FnOnce(&Channel) -> Option<lapin::Result<()>>) {
        let state = self.lanes.borrow().get(&receipt.lane).cloned();
        let opening = state.and_then(|state| state.open.borrow().clone());
        match opening {
            Some(opening) if opening.number == receipt.opening => {
                if let Some(Err(error)) = write(&opening.channel) {
                    trace!(?receipt, %error, "acknowledgement dropped: the lane is closing");
                }
            }
            _ => trace!(?receipt, "acknowledgement dropped: the lane it came by has gone"),
        }
    }

    /// Whether anything was acknowledged or discarded by this connection, which does not have an answer of its own.
    pub(crate) fn has_settled(&self) -> bool {
        self.has_settled.get()
    }

    /// Ends a lane, which the broker answers behind everything that was acknowledged by it; what was not goes back. A broker of our own
    /// answers when that is on its disk.
    ///
    /// # Errors
    /// The lane has ended otherwise: what was acknowledged by it may come back.
    pub(crate) async fn end(&self, lane: Lane) -> Result<()> {
        const WHAT: &str = "acknowledge the messages";
        let state = self.lanes.borrow().get(&lane).cloned();
        let open = state.and_then(|state| state.open.borrow().clone());
        let closed = match open.filter(|opening| opening.channel.status().connected()) {
            None => false,
            Some(open) => {
                self.ask(lane, format_args!("{WHAT}"), async |opening| {
                    // Guards: the lane, which is opened again where it has been closed since.
                    let is_same = opening.number == open.number;
                    if is_same {
                        opening.channel.close(200, "all of it is acknowledged".into()).await?;
                    }
                    Ok(is_same)
                })
                .await?
            }
        };
        if closed {
            return Ok(());
        }
        self.life.check()?;
        Err(Error::new(ErrorKind::InvalidState, format!("could not {WHAT}: their channel has ended")))
    }

    /// Waits until every consumer has been read to its end.
    pub(crate) async fn drained(&self) {
        // The sender is ours, so there is no error.
        let _ = self.forwarding.subscribe().wait_for(|count| *count == 0).await;
    }

    async fn ask<T>(
        &self,
        lane: Lane,
        what: fmt::Arguments<'_>,
        question: impl AsyncFnOnce(&Rc<Opening>) -> lapin::Result<T>,
    ) -> Result<T> {
        self.life.check()?;
        let what = what.to_string();
        let state = Rc::clone(self.lanes.borrow_mut().entry(lane).or_insert_with(|| {
            Rc::new(LaneState { lane, turn: Turn::new(()), open: RefCell::new(None), openings: Cell::new(0) })
        }));
        let answer = async |_: &mut ()| {
            let opening = match self.opening(&state).await {
                Ok(opening) => opening,
                Err(error) => return Err(settle(&self.life, &what, &error).await),
            };
            match question(&opening).await {
                Ok(answer) => Ok(answer),
                Err(error) => {
                    if error.is_amqp_soft_error() {
                        self.lane_closed(&opening, Some(&error));
                    }
                    Err(settle(&self.life, &what, &error).await)
                }
            }
        };
        let not_answered = |_: &mut ()| {
            // Whether it was done is not known (a consumer may begin yet, with nobody to read it): the lane begins anew.
            let opening = state.open.borrow().clone();
            if let Some(opening) = opening {
                let closing = opening.channel.clone();
                // Written at the first poll.
                let _ = closing.close(200, "a question timed out".into()).now_or_never();
                self.lane_closed(&opening, None);
            }
        };
        let asked = async { Ok(state.turn.ask(self.limit, answer, not_answered).await) };
        let answer = self.life.until_end(pin!(asked)).await?;
        answer.unwrap_or_else(|| Err(errors::timed_out(&what, &self.address, self.limit)))
    }

    async fn opening(&self, state: &LaneState) -> lapin::Result<Rc<Opening>> {
        let open = state.open.borrow().clone();
        if let Some(opening) = open {
            if opening.channel.status().connected() {
                return Ok(opening);
            }
            self.lane_closed(&opening, None);
        }
        let channel = self.link.open_channel().await?;
        let number = state.openings.get() + 1;
        state.openings.set(number);
        debug!(lane = state.lane.0, opening = number, channel = channel.id(), "lane opened");
        let opening = Rc::new(Opening {
            lane: state.lane,
            number,
            channel,
            consumers: RefCell::default(),
            closed: RefCell::new(None),
            lost: RefCell::default(),
            announced: Cell::new(false),
        });
        *state.open.borrow_mut() = Some(Rc::clone(&opening));
        Ok(opening)
    }
}

/// Gives a tag back if its consumer did not come to be.
struct Reserved<'a> {
    lanes: &'a Lanes,
    tag: &'a str,
    keep: bool,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.lanes.consumers.borrow_mut().remove(self.tag);
        }
    }
}
