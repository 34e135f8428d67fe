//! Tasks got, copied and acknowledged one by one, as they are: the part behind `homing task purge`, `move` and `requeue`.
//!
//! A [`TaskQueue`](crate::TaskQueue) decodes tasks and answers their senders, which is not wanted there. This stands on the
//! broker as every communicator does: the same URLs, time limits and errors. Not public, for it may change.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Depth, FAREWELL, brokers, connect, on_thread};
use crate::CommunicatorBuilder;
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::{Broker, BrokerEvent, Delivery, Durability, Lane, Message, Origin, PublishId, Routing};
use crate::error::{Error, ErrorKind, Result};
use crate::wire::headers;
use crate::wire::names::check_queue;

/// How long the broker may take to confirm a copy.
const CONFIRM: Duration = Duration::from_secs(10);

/// What is got and acknowledged goes through one channel.
const LANE: Lane = Lane(0);

type Job = Box<dyn for<'a> FnOnce(&'a mut Hand) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

/// A connection by which tasks are moved.
#[derive(Debug)]
pub struct Mender {
    jobs: mpsc::UnboundedSender<Job>,
    ended: oneshot::Receiver<Result<()>>,
}

/// A message that was got, and is not acknowledged yet.
#[derive(Clone, Debug)]
pub struct Got(Arc<Delivery>);

impl Got {
    /// The message's own id.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.0.properties.message_id.as_deref()
    }

    /// A header that is a string.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.properties.text(name)
    }
}

/// What the thread of the connection has.
struct Hand {
    broker: RabbitMq,
    events: mpsc::UnboundedReceiver<BrokerEvent>,
    /// How many copies were made.
    copies: u64,
    /// Why the broker takes no copies now.
    blocked: Option<String>,
    /// Whether anything was acknowledged.
    has_acknowledged: bool,
}

impl Mender {
    /// Connects to the first of the brokers that answers.
    ///
    /// # Errors
    /// As [`CommunicatorBuilder::connect`].
    ///
    /// # Cancel safety
    /// Dropped, the attempt is given up; what has been opened is closed in the background.
    pub async fn connect(options: &CommunicatorBuilder) -> Result<Self> {
        let brokers = brokers(options)?;
        let options = options.connect.clone();
        let (jobs, mut todo) = mpsc::unbounded_channel::<Job>();
        let (report, connected) = oneshot::channel();
        let ended = on_thread(async move || {
            let (sender, events) = mpsc::unbounded_channel();
            let broker = match connect(&brokers, &options, sender).await {
                Ok(broker) => broker,
                Err(error) => {
                    let _ = report.send(Err(error));
                    return Ok(());
                }
            };
            let mut hand = Hand { broker, events, copies: 0, blocked: None, has_acknowledged: false };
            if report.send(Ok(())).is_ok() {
                while let Some(job) = todo.recv().await {
                    job(&mut hand).await;
                }
            }
            let acknowledged = hand.acknowledged().await;
            acknowledged.and(hand.broker.close(FAREWELL).await)
        })?;
        connected.await.unwrap_or_else(|_| Err(abandoned()))?;
        Ok(Mender { jobs, ended })
    }

    /// How many messages wait in a queue.
    ///
    /// # Errors
    /// `NotFound` when there is no such queue.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn depth(&self, queue: &str) -> Result<u32> {
        Ok(self.counts(queue).await?.ready)
    }

    /// How many messages wait in a queue, and who takes them.
    ///
    /// # Errors
    /// `NotFound` when there is no such queue.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn counts(&self, queue: &str) -> Result<Depth> {
        check_queue(queue)?;
        let queue = queue.to_owned();
        self.ask(async move |hand| {
            let depth = hand.broker.depth(&queue).await?;
            Ok(Depth { ready: depth.ready, consumers: depth.consumers })
        })
        .await
    }

    /// Gets the next message of a queue, if there is one.
    ///
    /// # Errors
    /// Of the broker.
    ///
    /// # Cancel safety
    /// Dropped, a message that was got all the same goes back when this is closed.
    pub async fn get(&self, queue: &str) -> Result<Option<Got>> {
        let queue = queue.to_owned();
        self.ask(async move |hand| Ok(hand.broker.get(&queue, LANE).await?.map(|got| Got(Arc::new(got))))).await
    }

    /// Puts a copy into a queue, without some of its headers; returns when the broker has it.
    ///
    /// What would make the broker refuse the copy or route it elsewhere, a foreign user id and `CC`, is kept in headers of
    /// homing's. One that the broker has delivered before says so by a header, as a copy from a lease does.
    ///
    /// # Errors
    /// `NotFound` when there is no such queue; `TimedOut` when the broker does not confirm it, for it may block publishers.
    ///
    /// # Cancel safety
    /// Dropped, the copy may be made all the same.
    pub async fn copy(&self, got: &Got, to: &str, without: &[&str]) -> Result<()> {
        check_queue(to)?;
        let (got, to) = (got.clone(), to.to_owned());
        let without: Vec<String> = without.iter().map(|name| (*name).to_owned()).collect();
        self.ask(async move |hand| hand.copy(&got.0, &to, &without).await).await
    }

    /// Acknowledges a message: it is gone from its queue.
    ///
    /// # Errors
    /// When the broker has taken the message back meanwhile.
    ///
    /// # Cancel safety
    /// Dropped, it is acknowledged all the same.
    pub async fn acknowledge(&self, got: Got) -> Result<()> {
        self.ask(async move |hand| hand.acknowledge(&got.0)).await
    }

    /// Returns when all that was acknowledged counts. Of a broker of homing's own, also when nothing comes back that others have
    /// acknowledged: a queue that is empty stays so.
    ///
    /// # Errors
    /// As [`close`](Self::close).
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn settled(&self) -> Result<()> {
        self.ask(async move |hand| {
            hand.acknowledged().await?;
            hand.broker.until_kept().await
        })
        .await
    }

    /// Closes in order. Everything that was got and not acknowledged goes back, in its order.
    ///
    /// # Errors
    /// When the broker does not answer for all that was acknowledged, which may come back then: `Storage` where it is a broker of
    /// homing's own, and its disk takes nothing. When the connection could not be closed in order.
    ///
    /// # Cancel safety
    /// Dropped, it is closed all the same.
    pub async fn close(self) -> Result<()> {
        let Mender { jobs, ended } = self;
        drop(jobs);
        ended.await.unwrap_or_else(|_| Err(abandoned()))
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl AsyncFnOnce(&mut Hand) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |hand| {
            Box::pin(async move {
                // Whoever asked may have gone.
                let _ = answer.send(question(hand).await);
            })
        });
        let _ = self.jobs.send(job);
        answered.await.unwrap_or_else(|_| Err(abandoned()))
    }
}

fn abandoned() -> Error {
    Error::new(ErrorKind::Abandoned, "the thread that asked the broker ended without an answer")
}

impl Hand {
    async fn copy(&mut self, got: &Delivery, to: &str, without: &[String]) -> Result<()> {
        let mut properties = got.properties.clone();
        let expiration = properties.rest.as_mut().and_then(|rest| rest.expiration.take());
        let mut properties = properties.moved();
        if let Some(expiration) = expiration {
            properties.rest_mut().expiration = Some(expiration);
        }
        for name in without {
            properties.remove(name);
        }
        // Guards: a task that whoever had it may have run. The broker says so of the message that it delivers, and of no copy.
        if got.redelivered {
            let times = headers::number(&properties, headers::LEASE).saturating_add(1);
            properties.set_number(headers::LEASE, times.into());
        }
        self.copies += 1;
        let id = PublishId(self.copies);
        // The default exchange routes by the queue's name.
        let message = Message {
            exchange: "".into(),
            routing_key: to.into(),
            properties,
            body: got.body.clone(),
            routing: Routing::Mandatory,
            durability: Durability::Durable,
            origin: Origin::Handling,
        };
        let outcome = match self.broker.publish(id, Rc::new(message)) {
            Some(outcome) => outcome,
            None => match timeout(CONFIRM, self.published(id)).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(self.not_confirmed(to)),
            },
        };
        outcome.map_err(|error| match error.kind() {
            ErrorKind::Unroutable => {
                Error::new(ErrorKind::NotFound, format!("there is no queue {to:?}; the task stays where it was"))
            }
            _ => error,
        })
    }

    async fn published(&mut self, wanted: PublishId) -> Result<()> {
        loop {
            match self.events.recv().await {
                Some(BrokerEvent::Published { id, outcome }) if id == wanted => return outcome,
                Some(event) => self.note(event)?,
                None => std::future::pending().await,
            }
        }
    }

    fn note(&mut self, event: BrokerEvent) -> Result<()> {
        match event {
            BrokerEvent::Lost { error } | BrokerEvent::LaneClosed { error, .. } => return Err(error),
            BrokerEvent::Blocked { reason } => self.blocked = Some(reason),
            BrokerEvent::Unblocked => self.blocked = None,
            _ => {}
        }
        Ok(())
    }

    fn not_confirmed(&self, to: &str) -> Error {
        let why = match &self.blocked {
            Some(reason) => format!("the broker blocks publishers ({reason}): it is short of memory or disk"),
            None => "whether the broker has the copy is not known".to_owned(),
        };
        let text = format!("a copy into the queue {to:?} was not confirmed within {CONFIRM:?}; {why}");
        Error::new(ErrorKind::TimedOut, format!("{text}. The task stays where it was, and its copy may still arrive"))
    }

    fn acknowledge(&mut self, got: &Delivery) -> Result<()> {
        self.note_all()?;
        self.has_acknowledged = true;
        self.broker.ack(got.receipt);
        Ok(())
    }

    /// Asks the broker whether everything that was acknowledged counts: an acknowledgement has no answer of its own.
    async fn acknowledged(&mut self) -> Result<()> {
        if !self.has_acknowledged {
            return Ok(());
        }
        self.note_all()?;
        self.broker.end_lane(LANE).await?;
        self.has_acknowledged = false;
        Ok(())
    }

    /// Guards: an acknowledgement on a channel that the server has closed since, which would go nowhere in silence.
    fn note_all(&mut self) -> Result<()> {
        while let Ok(event) = self.events.try_recv() {
            self.note(event)?;
        }
        Ok(())
    }
}
