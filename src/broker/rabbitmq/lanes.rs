//! The consuming side: channels with their consumers and acknowledgements.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicQosOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::link::Link;
use crate::broker::{
    Acknowledge, Body, BrokerEvent, ConsumeSpec, Delivery, EventSender, Lane, Nack, Properties, Receipt,
};

pub(super) struct Lanes {
    link: Rc<Link>,
    events: EventSender,
    /// Held while a lane is opened, so that two that need it open it once.
    open: Mutex<HashMap<Lane, Rc<OpenLane>>>,
    /// The same for those who cannot wait.
    settlements: RefCell<HashMap<Lane, (u32, mpsc::UnboundedSender<Settlement>)>>,
    openings: Cell<u32>,
    /// Set when the broker is being closed: ends of consumers are no news then.
    closing: Rc<Cell<bool>>,
}

struct OpenLane {
    channel: Channel,
    opening: u32,
    consumers: RefCell<HashSet<String>>,
    /// Its end is said once, however many consumers see it.
    said_closed: Cell<bool>,
    /// Held while a consumer starts: its prefetch is set on the channel just before.
    starting: Mutex<()>,
}

enum Settlement {
    Ack(u64),
    Nack(u64, Nack),
    /// Answers when everything before it is written.
    Flush(oneshot::Sender<()>),
}

impl Lanes {
    pub(super) fn new(link: Rc<Link>, events: EventSender, closing: Rc<Cell<bool>>) -> Self {
        Lanes { link, events, open: Mutex::default(), settlements: RefCell::default(), openings: Cell::new(0), closing }
    }

    async fn lane(&self, lane: Lane) -> lapin::Result<Rc<OpenLane>> {
        let mut open = self.open.lock().await;
        if let Some(known) = open.get(&lane).filter(|known| known.channel.status().connected()) {
            return Ok(Rc::clone(known));
        }
        let channel = self.link.channel().await?;
        let opening = self.openings.get() + 1;
        self.openings.set(opening);
        let (settle, settlements) = mpsc::unbounded_channel();
        drop(tokio::task::spawn_local(write(channel.clone(), settlements)));
        self.settlements.borrow_mut().insert(lane, (opening, settle));
        let opened = Rc::new(OpenLane {
            channel,
            opening,
            consumers: RefCell::default(),
            said_closed: Cell::new(false),
            starting: Mutex::default(),
        });
        open.insert(lane, Rc::clone(&opened));
        Ok(opened)
    }

    pub(super) async fn consume(&self, spec: &ConsumeSpec) -> lapin::Result<()> {
        let lane = self.lane(spec.lane).await?;
        let starting = lane.starting.lock().await;
        let mut options = BasicConsumeOptions::default();
        match spec.acknowledge {
            // Not global: it counts for the consumers that start after it.
            Acknowledge::Manual { prefetch } => lane.channel.basic_qos(prefetch, BasicQosOptions::default()).await?,
            Acknowledge::None => options.no_ack = true,
        }
        let (queue, tag) = (spec.queue.as_str().into(), spec.tag.as_str().into());
        let consumer = lane.channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
        drop(starting);
        lane.consumers.borrow_mut().insert(spec.tag.clone());
        let forward = Forward {
            lane: spec.lane,
            open: lane,
            tag: spec.tag.clone(),
            events: self.events.clone(),
            closing: Rc::clone(&self.closing),
        };
        drop(tokio::task::spawn_local(forward.run(consumer)));
        Ok(())
    }

    pub(super) async fn cancel(&self, tag: &str) -> lapin::Result<()> {
        let lanes: Vec<_> = self.open.lock().await.values().cloned().collect();
        for lane in lanes {
            // Taken out first: its end is then no news.
            if lane.consumers.borrow_mut().remove(tag) {
                lane.channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn get(&self, queue: &str, lane: Lane) -> lapin::Result<Option<Delivery>> {
        let open = self.lane(lane).await?;
        let message = open.channel.basic_get(queue.into(), BasicGetOptions::default()).await?;
        Ok(message.map(|message| delivery(lane, open.opening, message.delivery)))
    }

    pub(super) fn ack(&self, receipt: Receipt) {
        self.settle(receipt, Settlement::Ack(receipt.tag));
    }

    pub(super) fn nack(&self, receipt: Receipt, then: Nack) {
        self.settle(receipt, Settlement::Nack(receipt.tag, then));
    }

    fn settle(&self, receipt: Receipt, settlement: Settlement) {
        match self.settlements.borrow().get(&receipt.lane) {
            // Where its writer has ended, so has its channel.
            Some((opening, settle)) if *opening == receipt.opening => drop(settle.send(settlement)),
            _ => tracing::trace!(?receipt, "an acknowledgement for a channel that has ended since was dropped"),
        }
    }

    /// Resolves when every acknowledgement so far is written.
    pub(super) async fn flush(&self) {
        let writers: Vec<_> = self.settlements.borrow().values().map(|(_, settle)| settle.clone()).collect();
        for writer in writers {
            let (done, flushed) = oneshot::channel();
            if writer.send(Settlement::Flush(done)).is_ok() {
                // A writer that ends instead has nothing left to write.
                let _ = flushed.await;
            }
        }
    }
}

/// Writes the acknowledgements of one channel in their order, until the channel ends.
async fn write(channel: Channel, mut settlements: mpsc::UnboundedReceiver<Settlement>) {
    while let Some(settlement) = settlements.recv().await {
        let written = match settlement {
            Settlement::Ack(tag) => channel.basic_ack(tag, BasicAckOptions::default()).await,
            Settlement::Nack(tag, then) => {
                let requeue = then == Nack::Requeue;
                channel.basic_nack(tag, BasicNackOptions { requeue, ..BasicNackOptions::default() }).await
            }
            Settlement::Flush(done) => {
                let _ = done.send(());
                Ok(())
            }
        };
        if let Err(error) = written {
            // The broker has taken the messages back with the channel.
            tracing::debug!(%error, "an acknowledgement could not be written: its channel has ended");
            return;
        }
    }
}

/// Carries the deliveries of one consumer over, in order.
struct Forward {
    lane: Lane,
    open: Rc<OpenLane>,
    tag: String,
    events: EventSender,
    closing: Rc<Cell<bool>>,
}

impl Forward {
    async fn run(self, mut consumer: Consumer) {
        let error = loop {
            match consumer.next().await {
                Some(Ok(message)) => {
                    let delivery = delivery(self.lane, self.open.opening, message);
                    let event = BrokerEvent::Delivery { consumer: self.tag.clone(), delivery };
                    if self.events.send(event).is_err() {
                        return;
                    }
                }
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        let ours = self.open.consumers.borrow_mut().remove(&self.tag);
        if !ours || self.closing.get() {
            return;
        }
        let event = if self.open.channel.status().connected() && error.is_none() {
            BrokerEvent::ConsumerCancelled { consumer: self.tag }
        } else if self.open.said_closed.replace(true) {
            return;
        } else {
            let consumers = self.open.consumers.borrow_mut().drain().chain([self.tag]).collect();
            let what = "a channel of this communicator";
            let error = match error {
                Some(error) => super::errors::failed(what, &error),
                None => crate::Error::new(crate::ErrorKind::ConnectionLost, format!("{what} was closed by RabbitMQ")),
            };
            BrokerEvent::LaneClosed { lane: self.lane, consumers, error }
        };
        // Where nobody listens any more, nobody needs to know.
        let _ = self.events.send(event);
    }
}

fn delivery(lane: Lane, opening: u32, message: lapin::message::Delivery) -> Delivery {
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    let properties = &message.properties;
    let headers = properties.headers().iter().flat_map(|table| {
        table.inner().iter().filter_map(|(name, value)| match value {
            lapin::types::AMQPValue::LongString(text) => {
                Some((name.to_string(), String::from_utf8_lossy(text.as_bytes()).into_owned()))
            }
            _ => None,
        })
    });
    Delivery {
        receipt: Receipt { lane, opening, tag: message.delivery_tag },
        redelivered: message.redelivered,
        properties: Properties {
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            headers: headers.collect(),
        },
        body: Body::Encoded(message.data.into()),
    }
}
