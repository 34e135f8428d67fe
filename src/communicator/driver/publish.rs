//! What goes out: calls, tasks, broadcasts, replies. Each publish is a task of its own, so that many are under way.
//!
//! Messages to one destination go out in the order in which they were asked for, although some of them have to wait for
//! their queues or for a connection first: each takes its turn on a fair lock and gives it up once it is on the wire.
//!
//! What is on the wire when the connection is lost may have arrived or not. A task, a broadcast and a reply are sent again
//! under the same message id, with a header that says so; a call is not, unless its caller said that it may be.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::Driver;
use super::link::{Generation, Link};
use super::subscribe::QueueName;
use super::supervise::is_lost;
use crate::broker::{Body, Broker, Durability, Message, Properties, Routing};
use crate::communicator::command::{
    Expected, OutgoingReply, Published, Repeat, ReplyExchange, ReplyStage, TaskMark, What,
};
use crate::communicator::names::{BROADCAST_TOPIC, Identifier};
use crate::communicator::shared::{Slot, count};
use crate::error::{Error, ErrorKind, Result};

/// Says of a message that it was sent before, how often, and that the first may have arrived.
pub(super) const RESEND: &str = "homing-resend";

/// How often a message that the broker refused, or whose exchange was gone, is sent again.
const TRIES: u32 = 3;
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The pauses between the attempts to reach a caller that may be connecting again.
const FIRST_REPLY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_REPLY_PAUSE: Duration = Duration::from_secs(1);

/// Whose turn it is to go out. Task queues have theirs with them.
#[derive(Default)]
pub(super) struct Turns {
    calls: Rc<Mutex<()>>,
    broadcasts: Rc<Mutex<()>>,
    replies: Rc<Mutex<()>>,
}

/// Whose turn it is, by which connection, and where the reply comes to.
type Ready<'a, B> = (MutexGuard<'a, ()>, Rc<Link<B>>, Rc<str>);

/// A message on its way, over as many connections as it takes.
struct Sending {
    message: Message,
    exchange: ReplyExchange,
    /// Of a task: the queue that is declared anew where it was deleted under us.
    queue: Option<QueueName>,
    /// That it has been on the wire.
    written: Cell<bool>,
}

impl Sending {
    fn new(message: Message, exchange: ReplyExchange) -> Self {
        Sending { message, exchange, queue: None, written: Cell::new(false) }
    }

    /// As it goes out this time: one that was on the wire before says so.
    fn next(&mut self) -> Message {
        if self.written.get() {
            mark(&mut self.message.properties, RESEND, |times| times + 1);
        }
        self.message.clone()
    }
}

/// Counts in a header.
pub(super) fn mark(properties: &mut Properties, name: &str, next: impl FnOnce(u32) -> u32) {
    let now = header(properties, name).unwrap_or(0);
    properties.set_number(name, next(now).into());
}

/// The number in a header.
pub(super) fn header(properties: &Properties, name: &str) -> Option<u32> {
    properties.number(name).and_then(|number| number.try_into().ok())
}

impl<B: Broker> Driver<B> {
    pub(super) fn send_call(
        self: &Rc<Self>,
        recipient: Identifier,
        body: Body,
        expected: Expected,
        published: Option<Published>,
        repeat: Repeat,
        slot: Slot,
    ) {
        let correlation = expected.correlation;
        self.requests.borrow_mut().add(What::Call(recipient.clone()), expected);
        self.spawn_publish(slot, move |driver| async move {
            let outcome = driver.publish_call(&recipient, body, correlation, repeat).await;
            driver.published(Some(correlation), published, outcome);
        });
    }

    async fn publish_call(&self, recipient: &Identifier, body: Body, correlation: Uuid, repeat: Repeat) -> Result<()> {
        let message = Message {
            exchange: self.shared.names.message_exchange.clone(),
            routing_key: recipient.routing_key(),
            properties: request_properties(Some(correlation), None),
            body,
            routing: Routing::Mandatory,
            durability: Durability::Transient,
        };
        let mut sending = Sending::new(message, ReplyExchange::Message);
        let mut failed = Generation::default();
        let mut tries = 0;
        loop {
            let (turn, link, replies) = match self.ready_at_once(failed) {
                Some(ready) => ready,
                None => {
                    let prepared = Box::pin(async {
                        let turn = self.turns.calls.lock().await;
                        let (link, replies) = self.ready_for_replies(failed, ReplyExchange::Message).await?;
                        Ok((turn, link, replies))
                    });
                    // A caller that goes while there is no connection takes its call with it.
                    let Some(prepared) = self.while_wanted(correlation, prepared).await else {
                        return Err(given_up(recipient));
                    };
                    prepared?
                }
            };
            if !self.requests.borrow_mut().replies_to(correlation, ReplyExchange::Message, &replies) {
                return Err(given_up(recipient));
            }
            let mut message = sending.next();
            message.properties.reply_to = Some(replies.to_string());
            let publish = pin!(link.publish_and_wait(message));
            let error = match in_turn(turn, publish, &sending.written).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = match error.kind() {
                ErrorKind::ConnectionLost => !sending.written.get() || repeat == Repeat::Allowed,
                // It was not taken: there was nothing to take it.
                ErrorKind::NotFound => {
                    sending.written.set(false);
                    tries += 1;
                    if Box::pin(self.exchange_vanished(&link, ReplyExchange::Message, &error)).await.is_err() {
                        failed = link.generation;
                    }
                    tries < TRIES
                }
                // It reached nobody. Its recipient may be connecting again.
                ErrorKind::Unroutable if link.is_settling() => {
                    sending.written.set(false);
                    self.while_wanted(correlation, Box::pin(tokio::time::sleep(REFUSED_PAUSE))).await.is_some()
                }
                _ => false,
            };
            if !again {
                return Err(call_failed(&self.shared.names.message_exchange, recipient, error));
            }
            if is_lost(&error) {
                failed = link.generation;
            }
        }
    }

    /// A connection with its reply queue, if nothing has to be waited for and no call is before this one.
    fn ready_at_once(&self, failed: Generation) -> Option<Ready<'_, B>> {
        let turn = self.turns.calls.try_lock().ok()?;
        let link = self.supply.now().filter(|link| link.generation > failed)?;
        let replies = link.message_replies.get().cloned()?;
        Some((turn, link, replies))
    }

    /// Waits for the work, unless the request ends first, in whatever way.
    async fn while_wanted<T>(&self, correlation: Uuid, work: impl Future<Output = T> + Unpin) -> Option<T> {
        // Bound first: the requests are not to be borrowed while this waits.
        let unwanted = self.requests.borrow_mut().unwanted(correlation);
        match select(unwanted?, work).await {
            Either::Left(_) => None,
            Either::Right((done, _)) => Some(done),
        }
    }

    /// A connection with its reply queue.
    async fn ready_for_replies(
        &self,
        mut failed: Generation,
        exchange: ReplyExchange,
    ) -> Result<(Rc<Link<B>>, Rc<str>)> {
        loop {
            let link = self.link_after(failed).await?;
            match self.reply_queue(&link, exchange).await {
                Ok(replies) => return Ok((link, replies)),
                Err(error) if is_lost(&error) => failed = link.generation,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn send_task(
        self: &Rc<Self>,
        queue: Arc<str>,
        body: Body,
        expected: Option<Expected>,
        published: Option<Published>,
        slot: Slot,
    ) {
        let correlation = expected.as_ref().map(|expected| expected.correlation);
        // A task is wanted even when its sender has gone: others may have gone on because of it.
        if let Some(expected) = expected {
            self.requests.borrow_mut().add(What::Task(queue.clone()), expected);
        }
        self.spawn_publish(slot, move |driver| async move {
            let until = correlation.is_none().then(|| Instant::now() + driver.shared.call_timeout);
            let outcome = driver.publish_task(&queue, body, correlation, until).await;
            driver.published(correlation, published, outcome);
        });
    }

    async fn publish_task(
        &self,
        queue: &Arc<str>,
        body: Body,
        correlation: Option<Uuid>,
        until: Option<Instant>,
    ) -> Result<()> {
        let turn = self.tasks.borrow_mut().queue(queue, &self.next_lane).turn.clone();
        let message = Message {
            exchange: self.shared.names.task_exchange.clone(),
            routing_key: queue.to_string(),
            // kiwipy names a reply queue and a correlation id even where no reply is wanted.
            properties: request_properties(Some(correlation.unwrap_or_else(Uuid::new_v4)), None),
            body,
            routing: Routing::Mandatory,
            durability: Durability::Durable,
        };
        let sending = Sending { queue: Some(queue.clone()), ..Sending::new(message, ReplyExchange::Task) };
        let prepare = async |link: &Rc<Link<B>>, message: &mut Message| {
            self.task_queue(link, queue).await?;
            let replies = self.reply_queue(link, ReplyExchange::Task).await?;
            if let Some(correlation) = correlation {
                self.requests.borrow_mut().replies_to(correlation, ReplyExchange::Task, &replies);
            }
            message.properties.reply_to = Some(replies.to_string());
            Ok(())
        };
        self.send_until(format_args!("a task for the queue {queue:?}"), until, &turn, sending, prepare).await
    }

    pub(super) fn send_broadcast(self: &Rc<Self>, body: Body, published: Published, slot: Slot) {
        self.spawn_publish(slot, move |driver| async move {
            let message = Message {
                exchange: driver.shared.names.message_exchange.clone(),
                routing_key: BROADCAST_TOPIC.to_owned(),
                properties: request_properties(None, None),
                body,
                routing: Routing::Optional,
                durability: Durability::Transient,
            };
            let sending = Sending::new(message, ReplyExchange::Message);
            let until = Some(Instant::now() + driver.shared.call_timeout);
            let prepare =
                async |link: &Rc<Link<B>>, _: &mut Message| driver.exchange(link, ReplyExchange::Message).await;
            let turn = Rc::clone(&driver.turns.broadcasts);
            let outcome = driver.send_until(format_args!("a broadcast"), until, &turn, sending, prepare).await;
            driver.published(None, Some(published), outcome);
        });
    }

    /// A message that must not overtake the calls before it, and that is worth nothing on a later connection.
    pub(super) async fn publish_after_calls(&self, link: &Rc<Link<B>>, message: Message) -> Result<()> {
        let turn = self.turns.calls.lock().await;
        in_turn(turn, pin!(link.publish_and_wait(message)), &Cell::new(false)).await
    }

    /// Sends for good, within a time where there is one.
    async fn send_until(
        &self,
        what: fmt::Arguments<'_>,
        until: Option<Instant>,
        turn: &Mutex<()>,
        mut sending: Sending,
        prepare: impl AsyncFn(&Rc<Link<B>>, &mut Message) -> Result<()>,
    ) -> Result<()> {
        let Some(until) = until else { return self.send_for_good(turn, &mut sending, prepare).await };
        let limit = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(limit, self.send_for_good(turn, &mut sending, prepare)).await {
            Ok(sent) => sent,
            Err(_) if sending.written.get() => Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "{what}: the broker at {} did not take it over within {limit:?}; whether it will is not known",
                    self.shared.broker
                ),
            )),
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("{what}: it was not sent, for there was no connection to {} for {limit:?}", self.shared.broker),
            )),
        }
    }

    /// Sends, and again on the next connection when this one is lost before the broker has taken the message over.
    async fn send_for_good(
        &self,
        turn: &Mutex<()>,
        sending: &mut Sending,
        prepare: impl AsyncFn(&Rc<Link<B>>, &mut Message) -> Result<()>,
    ) -> Result<()> {
        let mut failed = Generation::default();
        let mut tries = 0;
        loop {
            let turn = turn.lock().await;
            let link = self.link_after(failed).await?;
            let mut message = sending.next();
            let sent = match prepare(&link, &mut message).await {
                Ok(()) => in_turn(turn, pin!(link.publish_and_wait(message)), &sending.written).await,
                Err(error) => Err(error),
            };
            let Err(error) = sent else { return Ok(()) };
            match error.kind() {
                ErrorKind::ConnectionLost => failed = link.generation,
                ErrorKind::NotFound if tries < TRIES => {
                    tries += 1;
                    sending.written.set(false);
                    if Box::pin(self.exchange_vanished(&link, sending.exchange, &error)).await.is_err() {
                        failed = link.generation;
                    }
                }
                ErrorKind::Unroutable if tries < TRIES => match &sending.queue {
                    Some(queue) => {
                        tries += 1;
                        sending.written.set(false);
                        link.task_queues.borrow_mut().remove(queue);
                    }
                    None => return Err(error),
                },
                // A nack, or the end of the channel: it may have arrived.
                ErrorKind::DeliveryFailed if tries < TRIES => {
                    tries += 1;
                    Box::pin(tokio::time::sleep(REFUSED_PAUSE)).await;
                }
                _ => return Err(error),
            }
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

    /// Replies go out in the order in which they come, `pending` before the outcome.
    pub(super) fn send_reply(self: &Rc<Self>, reply: OutgoingReply) {
        if let (ReplyStage::Last, ReplyExchange::Message, Some(correlation)) =
            (reply.stage, reply.exchange, &reply.correlation_id)
        {
            self.callers.borrow_mut().answered(&reply.reply_to, correlation);
        }
        if let (ReplyStage::Last, Some(correlation)) = (reply.stage, &reply.correlation_id) {
            self.answers.borrow_mut().remember(correlation.clone(), Some(reply.clone()));
        }
        self.spawn_publish((), move |driver| async move { driver.publish_reply(reply).await });
    }

    async fn publish_reply(self: &Rc<Self>, reply: OutgoingReply) {
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
        match self.deliver_reply(message.clone(), exchange).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Unroutable => match stage {
                ReplyStage::Pending => {
                    count(&self.shared.counters.replies_unroutable);
                    if let Some(correlation) = caller {
                        self.callers.borrow_mut().gone(correlation);
                    }
                }
                // Its caller may be connecting again. Closing does not wait for that.
                ReplyStage::Last => {
                    self.spawn(move |driver| async move { driver.deliver_late(message, exchange).await });
                }
            },
            Err(error) => tracing::warn!(%error, "a reply could not be sent"),
        }
    }

    async fn deliver_reply(&self, message: Message, exchange: ReplyExchange) -> Result<()> {
        // A broker that was started again has no exchange before somebody declares it.
        let prepare = async |link: &Rc<Link<B>>, _: &mut Message| self.exchange(link, exchange).await;
        self.send_for_good(&self.turns.replies, &mut Sending::new(message, exchange), prepare).await
    }

    /// Tries to reach a caller whose reply queue was not there, for a stated time.
    async fn deliver_late(&self, message: Message, exchange: ReplyExchange) {
        let until = Instant::now() + self.limits.reply_patience;
        let mut pause = FIRST_REPLY_PAUSE;
        while Instant::now() + pause <= until {
            tokio::time::sleep(pause).await;
            match self.deliver_reply(message.clone(), exchange).await {
                Err(error) if error.kind() == ErrorKind::Unroutable => {}
                Ok(()) => return tracing::debug!("a reply has reached its caller, which had connected again"),
                Err(error) => return tracing::warn!(%error, "a reply could not be sent"),
            }
            pause = (pause * 2).min(LONGEST_REPLY_PAUSE);
        }
        count(&self.shared.counters.replies_unroutable);
        tracing::info!("a reply was dropped: its caller is gone");
    }

    /// Puts a task on this connection into a queue by the queue's name: into quarantine, back to where it came from, or on
    /// lease. Confirmed when this returns, so that the original may be acknowledged.
    pub(super) async fn publish_to_queue(
        &self,
        link: &Link<B>,
        queue: String,
        original: &Properties,
        marks: &[TaskMark],
        body: Body,
    ) -> Result<()> {
        let mut properties = original.clone().moved();
        properties.message_id.get_or_insert_with(message_id);
        for (name, value) in marks {
            properties.set_text(name, value.as_str());
        }
        // What does not fit all the same is refused by the broker with a reason.
        let _ = properties.fit(link.broker.properties_limit());
        let message = Message {
            // The default exchange routes by the queue's name.
            exchange: "".into(),
            routing_key: queue,
            properties,
            body,
            routing: Routing::Mandatory,
            durability: Durability::Durable,
        };
        link.publish_and_wait(message).await
    }
}

/// Puts a message on the wire, then lets the next one go, then waits for the broker to take it over. (Pinned by the caller:
/// an argument that is a future would stand twice in this one.)
async fn in_turn(
    turn: MutexGuard<'_, ()>,
    mut publish: Pin<&mut impl Future<Output = Result<()>>>,
    written: &Cell<bool>,
) -> Result<()> {
    // The first poll is what puts it on the wire.
    let first = poll_fn(|context| Poll::Ready(publish.as_mut().poll(context))).await;
    drop(turn);
    match first {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => {
            written.set(true);
            publish.await
        }
    }
}

fn given_up(recipient: &Identifier) -> Error {
    Error::new(ErrorKind::Cancelled, format!("the call to {:?} was given up before it was sent", recipient.as_str()))
}

fn call_failed(exchange: &str, recipient: &Identifier, error: Error) -> Error {
    let recipient = recipient.as_str();
    match error.kind() {
        ErrorKind::Unroutable => Error::with_source(
            ErrorKind::Unroutable,
            format!(
                "nobody listens for calls to {recipient:?} on the exchange {exchange:?}; check the name, the prefix and \
                 whether its program runs"
            ),
            error,
        ),
        ErrorKind::ConnectionLost => Error::with_source(
            ErrorKind::ConnectionLost,
            format!(
                "the call to {recipient:?}: connection lost, delivery unknown ({error}); it may have been done, so it is not \
                 sent again unless it is marked `repeatable`"
            ),
            error,
        ),
        _ => error,
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
        ..Properties::default()
    }
}
