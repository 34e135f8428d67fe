//! RabbitMQ, by lapin as a thin wire: its recovery stays off, its events and returns are taken with care (see
//! [publisher] and [link]).
//!
//! There are two connections, one that only publishes and one that consumes, declares and acknowledges: a broker in alarm
//! stops reading from a connection that publishes, and acknowledgements must not be stuck behind it. Losing either loses
//! both.

mod conduit;
mod errors;
mod lanes;
mod link;
mod publisher;
mod start;

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use tokio::sync::{Mutex, watch};

use super::url::{AmqpUrl, BrokerUrl};
use super::{
    Access, AutoDelete, Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, Durability, EventSender,
    ExchangeSpec, Lane, Message, Nack, QueueSpec, Receipt,
};
use crate::error::{Error, ErrorKind, Result};
use lanes::Lanes;
use link::Link;
use publisher::Publisher;

pub(crate) struct RabbitMq {
    publishing: Rc<Link>,
    consuming: Rc<Link>,
    publisher: Rc<Publisher>,
    lanes: Lanes,
    /// For declares and bindings. The server closes it when one is refused; then the next one opens another.
    topology: Mutex<Option<Channel>>,
    operation_timeout: Duration,
    closing: Rc<Cell<bool>>,
    /// Why the connections are lost, when they are: what waits for lapin then waits no longer.
    lost: watch::Receiver<Option<Error>>,
}

impl RabbitMq {
    async fn open(url: &AmqpUrl, options: &ConnectOptions, events: EventSender) -> Result<Self> {
        let consuming = Rc::new(Link::open(url, options, "consumes").await?);
        let publishing = match Link::open(url, options, "publishes").await {
            Ok(publishing) => Rc::new(publishing),
            Err(error) => {
                let _ = consuming.close(options.connect_timeout).await;
                return Err(error);
            }
        };
        let closing = Rc::new(Cell::new(false));
        let (tell_lost, lost) = watch::channel(None);
        let watcher = Watcher {
            events: events.clone(),
            links: [Rc::clone(&publishing), Rc::clone(&consuming)],
            closing: Rc::clone(&closing),
            lost: Rc::new(tell_lost),
        };
        watcher.clone().watch(&publishing, Role::Publishing);
        watcher.watch(&consuming, Role::Consuming);
        let publisher = match Publisher::open(Rc::clone(&publishing), options.operation_timeout).await {
            Ok(publisher) => Rc::new(publisher),
            Err(error) => {
                closing.set(true);
                let _ =
                    tokio::join!(publishing.close(options.connect_timeout), consuming.close(options.connect_timeout));
                return Err(error);
            }
        };
        let lanes = Lanes::new(Rc::clone(&consuming), events, Rc::clone(&closing));
        Ok(RabbitMq {
            publishing,
            consuming,
            publisher,
            lanes,
            topology: Mutex::default(),
            operation_timeout: options.operation_timeout,
            closing,
            lost,
        })
    }

    /// Asks the server something, within the limit and while the connection lasts.
    async fn ask<T>(&self, what: &str, question: impl Future<Output = lapin::Result<T>>) -> Result<T> {
        let asked = tokio::time::timeout(self.operation_timeout, question);
        match unless_lost(self.lost.clone(), asked).await? {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(errors::failed(what, &error)),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("{what}: RabbitMQ did not answer within {:?}", self.operation_timeout),
            )),
        }
    }

    /// The same on the channel for declares, one at a time.
    async fn on_topology<T, F: Future<Output = lapin::Result<T>>>(
        &self,
        what: &str,
        question: impl FnOnce(Channel) -> F,
    ) -> Result<T> {
        let mut slot = self.topology.lock().await;
        let channel = match slot.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => self.ask(what, self.consuming.channel()).await?,
        };
        let answer = self.ask(what, question(channel.clone())).await;
        *slot = Some(channel);
        answer
    }
}

/// Waits for something, unless the connections are lost first.
async fn unless_lost<T>(mut lost: watch::Receiver<Option<Error>>, work: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        error = async {
            match lost.wait_for(Option::is_some).await {
                Ok(error) => error.clone(),
                // The watchers have ended with the connections.
                Err(_) => None,
            }
        } => Err(error.unwrap_or_else(|| Error::new(ErrorKind::ConnectionLost, "the connection to RabbitMQ has ended"))),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Publishing,
    Consuming,
}

/// Watches the connections and says what happens to them.
#[derive(Clone)]
struct Watcher {
    events: EventSender,
    links: [Rc<Link>; 2],
    closing: Rc<Cell<bool>>,
    lost: Rc<watch::Sender<Option<Error>>>,
}

impl Watcher {
    fn watch(self, link: &Link, role: Role) {
        let Some(mut events) = link.events() else { return };
        drop(tokio::task::spawn_local(async move {
            while let Some(event) = events.next().await {
                match event {
                    lapin::Event::ConnectionBlocked(reason) if role == Role::Publishing => {
                        let _ = self.events.send(BrokerEvent::Blocked { reason });
                    }
                    lapin::Event::ConnectionUnblocked if role == Role::Publishing => {
                        let _ = self.events.send(BrokerEvent::Unblocked);
                    }
                    lapin::Event::Error(error) if !is_of_a_channel(&error) => {
                        self.say_lost(errors::failed("the connection to RabbitMQ", &error));
                        return;
                    }
                    _ => {}
                }
            }
            self.say_lost(Error::new(ErrorKind::ConnectionLost, "the connection to RabbitMQ has ended"));
        }));
    }

    /// Said once, whichever connection ends first; the other one is cut, so that nothing is half alive.
    fn say_lost(&self, error: Error) {
        if self.closing.get() || self.lost.borrow().is_some() {
            return;
        }
        let error = match error.kind() {
            ErrorKind::ConnectionLost => error,
            _ => Error::with_source(ErrorKind::ConnectionLost, error.to_string(), error),
        };
        self.lost.send_replace(Some(error.clone()));
        for link in &self.links {
            link.cut();
        }
        let _ = self.events.send(BrokerEvent::Lost { error });
    }
}

/// lapin says errors of channels among those of the connection.
fn is_of_a_channel(error: &lapin::Error) -> bool {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(told) => {
            matches!(told.kind(), lapin::protocol::AMQPErrorKind::Soft(_))
                && !told.get_message().as_str().starts_with("CONNECTION_FORCED")
        }
        lapin::ErrorKind::InvalidChannel(_) | lapin::ErrorKind::InvalidChannelState(..) => true,
        _ => false,
    }
}

impl Broker for RabbitMq {
    async fn connect(url: &BrokerUrl, options: &ConnectOptions, events: EventSender) -> Result<Self> {
        match url {
            BrokerUrl::Amqp(url) => Self::open(url, options, events).await,
            BrokerUrl::Memory { .. } => Err(Error::new(ErrorKind::InvalidArgument, "this URL is not one of RabbitMQ")),
        }
    }

    fn server_properties(&self) -> Vec<(String, String)> {
        self.consuming.told.lock().clone()
    }

    fn publish(&self, message: Message) -> impl Future<Output = Result<()>> + 'static {
        let publishing = Rc::clone(&self.publisher).publish(message);
        let lost = self.lost.clone();
        async move { unless_lost(lost, publishing).await? }
    }

    async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        let options = ExchangeDeclareOptions {
            durable: spec.durability == Durability::Durable,
            auto_delete: spec.auto_delete == AutoDelete::Yes,
            ..ExchangeDeclareOptions::default()
        };
        let name = (&*spec.name).into();
        self.on_topology(&format!("declaring the exchange {:?}", &*spec.name), |channel| async move {
            channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await
        })
        .await
    }

    async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        let options = QueueDeclareOptions {
            durable: spec.durability == Durability::Durable,
            exclusive: spec.access == Access::Exclusive,
            auto_delete: spec.auto_delete == AutoDelete::Yes,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        for (name, time) in [("x-message-ttl", spec.message_ttl), ("x-expires", spec.expires)] {
            if let Some(time) = time {
                arguments.insert(name.into(), milliseconds(time));
            }
        }
        let name = spec.name.as_str().into();
        self.on_topology(&format!("declaring the queue {:?}", spec.name), |channel| async move {
            channel.queue_declare(name, options, arguments).await.map(drop)
        })
        .await
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        let what = format!("binding the queue {queue:?} to the exchange {exchange:?}");
        let (queue, exchange, key) = (queue.into(), exchange.into(), routing_key.into());
        self.on_topology(&what, |channel| async move {
            channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        let what = format!("unbinding the queue {queue:?} from the exchange {exchange:?}");
        let (queue, exchange, key) = (queue.into(), exchange.into(), routing_key.into());
        self.on_topology(&what, |channel| async move {
            channel.queue_unbind(queue, exchange, key, FieldTable::default()).await
        })
        .await
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        let name = queue.into();
        let what = format!("deleting the queue {queue:?}");
        let deleted = self.on_topology(&what, |channel| async move {
            channel.queue_delete(name, QueueDeleteOptions::default()).await.map(drop)
        });
        match deleted.await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    async fn consume(&self, spec: &ConsumeSpec) -> Result<()> {
        self.ask(&format!("consuming from the queue {:?}", spec.queue), self.lanes.consume(spec)).await
    }

    async fn cancel(&self, consumer: &str) -> Result<()> {
        self.ask(&format!("ending the consumer {consumer:?}"), self.lanes.cancel(consumer)).await
    }

    async fn get(&self, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        self.ask(&format!("taking a message from the queue {queue:?}"), self.lanes.get(queue, lane)).await
    }

    fn ack(&self, receipt: Receipt) {
        self.lanes.ack(receipt);
    }

    fn nack(&self, receipt: Receipt, then: Nack) {
        self.lanes.nack(receipt, then);
    }

    async fn close(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        self.closing.set(true);
        if self.lost.borrow().is_none() {
            // Acknowledgements first; the consuming connection is not held up by an alarm.
            let _ = tokio::time::timeout(limit / 4, self.lanes.flush()).await;
        }
        let left = until.saturating_duration_since(Instant::now());
        let (publishing, consuming) = tokio::join!(self.publishing.close(left), self.consuming.close(left));
        publishing.and(consuming)
    }
}

/// As kiwipy sends them: RabbitMQ compares values and not widths.
fn milliseconds(time: Duration) -> AMQPValue {
    let millis = time.as_millis();
    match i32::try_from(millis) {
        Ok(millis) => AMQPValue::LongInt(millis),
        Err(_) => AMQPValue::LongLongInt(i64::try_from(millis).unwrap_or(i64::MAX)),
    }
}
