//! Publishing: one channel in confirm mode on the connection that does nothing else.
//!
//! A message is given to lapin as soon as it is published, and one task for the connection waits for all confirms. While the
//! channel is being opened again messages wait in their order. Nothing that was taken over is dropped: lapin would keep the
//! confirm of an abandoned publish for ever.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use crate::log::{debug, trace};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Confirmation, PublisherConfirm};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::errors;
use super::frames::AROUND;
use super::life::Life;
use super::link::Link;
use super::message::Outgoing;
use super::tap::{Returns, SMALLEST_FRAME};
use super::topology::settle;
use crate::broker::{BrokerEvent, Message, PublishId, Routing};
use crate::error::{Detail, Error, ErrorKind, Result};

pub(crate) struct Publisher {
    link: Rc<Link>,
    life: Rc<Life>,
    address: Rc<str>,
    limit: Duration,
    returns: Returns,
    channel: RefCell<Option<Rc<Channel>>>,
    /// What came while the channel was not open.
    waiting: RefCell<VecDeque<(PublishId, Rc<Message>)>>,
    under_way: RefCell<FuturesUnordered<Publish>>,
    /// Of the task that waits for the confirms.
    task: RefCell<Waker>,
    socket: Rc<Unwritten>,
    idle: Rc<Idle>,
    properties_limit: Cell<usize>,
}

/// How many writers that have nothing to do are kept.
const IDLE_MOST: usize = 64;

#[derive(Default)]
struct Idle(RefCell<Vec<Writer>>);

/// What gives one message after the other to lapin. lapin's future of a publish is large: it stands in the same memory each time.
struct Writer {
    /// Never ends.
    work: Pin<Box<dyn Future<Output = ()>>>,
    desk: Rc<Desk>,
}

#[derive(Default)]
struct Desk {
    next: Cell<Option<Job>>,
    written: Cell<Option<Result<PublisherConfirm, Failed>>>,
}

struct Job {
    channel: Rc<Channel>,
    message: Rc<Message>,
    message_id: Option<Arc<str>>,
    properties_limit: usize,
}

/// Why a publish ended without a confirm.
enum Failed {
    /// It cannot be sent at all.
    Refused(Error),
    Lapin(lapin::Error),
}

impl Writer {
    fn new() -> Self {
        let desk = Rc::<Desk>::default();
        let at = Rc::clone(&desk);
        let work = Box::pin(async move {
            loop {
                let job = poll_fn(|_| at.next.take().map_or(Poll::Pending, Poll::Ready)).await;
                at.written.set(Some(job.write().await));
            }
        });
        Writer { work, desk }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<PublisherConfirm, Failed>> {
        // When it has written it waits for the next message, which nobody but its owner gives it.
        let _ = self.work.as_mut().poll(context);
        self.desk.written.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Job {
    async fn write(self) -> Result<PublisherConfirm, Failed> {
        let outgoing = Outgoing::new(&self.message, self.message_id.as_ref(), self.properties_limit);
        let Outgoing { exchange, routing_key, options, properties, body } = outgoing.map_err(Failed::Refused)?;
        self.channel.basic_publish(exchange, routing_key, options, &body, properties).await.map_err(Failed::Lapin)
    }
}

impl Idle {
    fn writer(&self) -> Writer {
        self.0.borrow_mut().pop().unwrap_or_else(Writer::new)
    }

    fn give_back(&self, writer: Writer) {
        let mut idle = self.0.borrow_mut();
        if idle.len() < IDLE_MOST {
            idle.push(writer);
        }
    }
}

/// A publish that lapin has.
struct Publish {
    /// Taken at the end.
    of: Option<(PublishId, Rc<Message>)>,
    /// Where the message has no id of its own.
    message_id: Option<Arc<str>>,
    step: Step,
    socket: Rc<Unwritten>,
    idle: Rc<Idle>,
    begun: bool,
}

enum Step {
    Write { writer: Writer, _unwritten: OnItsWay },
    Confirm(PublisherConfirm),
    Over,
}

impl Future for Publish {
    type Output = Confirmed;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Confirmed> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.begun, true) {
            this.socket.begun.set(this.socket.begun.get() + 1);
        }
        let outcome = loop {
            match &mut this.step {
                // lapin puts the frames into its queue at the first poll.
                Step::Write { writer, .. } => {
                    let written = ready!(writer.poll(context));
                    if let Step::Write { writer, .. } = std::mem::replace(&mut this.step, Step::Over) {
                        this.idle.give_back(writer);
                    }
                    match written {
                        Ok(confirm) => this.step = Step::Confirm(confirm),
                        Err(failed) => break Err(failed),
                    }
                }
                Step::Confirm(confirm) => break ready!(Pin::new(confirm).poll(context)).map_err(Failed::Lapin),
                Step::Over => return Poll::Pending,
            }
        };
        match this.of.take() {
            Some((id, message)) => Poll::Ready(Confirmed { id, message, message_id: this.message_id.take(), outcome }),
            None => Poll::Pending,
        }
    }
}

/// A publish at its end.
struct Confirmed {
    id: PublishId,
    message: Rc<Message>,
    /// Where the message has no id of its own.
    message_id: Option<Arc<str>>,
    outcome: Result<Confirmation, Failed>,
}

type Opened = Result<Rc<Channel>>;

/// How many messages lapin has and the socket has not.
#[derive(Default)]
struct Unwritten {
    count: Cell<usize>,
    /// How many were ever given to lapin.
    begun: Cell<u64>,
    fewer: Notify,
}

impl Publisher {
    pub(crate) fn new(link: Rc<Link>, life: Rc<Life>, address: Rc<str>, limit: Duration, returns: Returns) -> Self {
        Publisher {
            link,
            life,
            address,
            limit,
            returns,
            channel: RefCell::new(None),
            waiting: RefCell::default(),
            under_way: RefCell::default(),
            task: RefCell::new(Waker::noop().clone()),
            socket: Rc::default(),
            idle: Rc::default(),
            properties_limit: Cell::new(SMALLEST_FRAME as usize - AROUND),
        }
    }

    /// Opens the channel ahead of the first publish.
    pub(crate) async fn open(&self) -> Result<()> {
        let channel = self.life.until_end(pin!(self.opened())).await?;
        *self.channel.borrow_mut() = Some(channel);
        let frame_max = self.link.configuration().map_or(SMALLEST_FRAME, |agreed| agreed.frame_max());
        self.properties_limit.set(frame_max as usize - AROUND);
        Ok(())
    }

    pub(crate) fn publish(&self, id: PublishId, message: Rc<Message>) -> Option<Result<()>> {
        if let Err(over) = self.life.check() {
            return Some(Err(over));
        }
        let open = self.open_channel().filter(|_| self.waiting.borrow().is_empty());
        let Some(channel) = open else {
            self.waiting.borrow_mut().push_back((id, message));
            self.task.borrow().wake_by_ref();
            return None;
        };
        self.begin(channel, id, message);
        None
    }

    /// What a frame of this connection has room for.
    pub(crate) fn properties_limit(&self) -> usize {
        self.properties_limit.get()
    }

    fn open_channel(&self) -> Option<Rc<Channel>> {
        self.channel.borrow().as_ref().filter(|channel| channel.status().connected()).cloned()
    }

    /// Gives a message to lapin, behind those before it.
    fn begin(&self, channel: Rc<Channel>, id: PublishId, message: Rc<Message>) {
        let message_id = message.properties.message_id.is_none().then(|| crate::ids::digits(uuid::Uuid::new_v4()));
        trace!(
            message_id = message_id.as_deref().or(message.properties.message_id.as_deref()),
            exchange = &*message.exchange,
            routing_key = &*message.routing_key,
            bytes = message.body.size(),
            "publish"
        );
        let writer = self.idle.writer();
        writer.desk.next.set(Some(Job {
            channel,
            message: Rc::clone(&message),
            message_id: message_id.clone(),
            properties_limit: self.properties_limit(),
        }));
        let all_begun = self.socket.begun.get() + 1;
        self.under_way.borrow().push(Publish {
            of: Some((id, message)),
            message_id,
            step: Step::Write { writer, _unwritten: self.socket.one_more() },
            socket: Rc::clone(&self.socket),
            idle: Rc::clone(&self.idle),
            begun: false,
        });
        // The waker is the task's, so that it is woken for what is polled here.
        let waker = self.task.borrow().clone();
        while self.socket.begun.get() < all_begun {
            // Others may come first, and may have ended.
            let polled = self.under_way.borrow_mut().poll_next_unpin(&mut Context::from_waker(&waker));
            if let Poll::Ready(Some(confirmed)) = polled {
                self.ended(confirmed);
            }
        }
    }

    /// Waits for confirms, and opens the channel anew where it has gone; until the connection ends.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut opening: Option<Pin<Box<dyn Future<Output = Opened>>>> = None;
        let work = poll_fn(|context| {
            if !self.task.borrow().will_wake(context.waker()) {
                *self.task.borrow_mut() = context.waker().clone();
            }
            loop {
                // In a statement of its own, for the borrow.
                let polled = self.under_way.borrow_mut().poll_next_unpin(context);
                if let Poll::Ready(Some(confirmed)) = polled {
                    self.ended(confirmed);
                    continue;
                }
                if self.waiting.borrow().is_empty() {
                    return Poll::<Result<()>>::Pending;
                }
                if let Some(channel) = self.open_channel() {
                    self.begin_waiting(&channel);
                    continue;
                }
                let this = Rc::clone(&self);
                let opened = opening.get_or_insert_with(|| Box::pin(async move { this.opened().await }));
                match opened.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(channel)) => *self.channel.borrow_mut() = Some(channel),
                    Poll::Ready(Err(error)) => self.give_up(&error),
                }
                opening = None;
            }
        });
        // The end of the connection is no error of this task's.
        let _ = self.life.until_end(pin!(work)).await;
    }

    fn begin_waiting(&self, channel: &Rc<Channel>) {
        loop {
            // Guards: a publish that comes while these are begun and must not overtake them: it finds them waiting until the
            // last is under way. (Nothing here runs anybody else's code, so that none can.)
            let next = self.waiting.borrow_mut().pop_front();
            let Some((id, message)) = next else { return };
            self.begin(Rc::clone(channel), id, message);
        }
    }

    /// Ends what was not given to lapin.
    pub(crate) fn give_up(&self, error: &Error) {
        let waiting = self.waiting.take();
        for (id, _) in waiting {
            self.life.say(BrokerEvent::Published { id, outcome: Err(error.clone()) });
        }
        self.socket.fewer.notify_waiters();
    }

    fn ended(&self, confirmed: Confirmed) {
        let Confirmed { id, message, message_id, outcome } = confirmed;
        // Only a mandatory message comes back.
        let returned = match (message.routing, message_id.as_ref().or(message.properties.message_id.as_ref())) {
            (Routing::Mandatory, Some(message_id)) => self.returns.take(message_id),
            _ => None,
        };
        let (exchange, routing_key) = (&*message.exchange, &*message.routing_key);
        let outcome = match (outcome, returned) {
            (Ok(Confirmation::Ack(_)), None) => Ok(()),
            (Ok(_), Some(returned)) => Err(Error::new(
                ErrorKind::Unroutable,
                format!(
                    "no queue takes messages for {routing_key:?} on the exchange {exchange:?}: the recipient does not exist \
                     or has gone ({})",
                    returned.text
                ),
            )),
            (Ok(Confirmation::Nack(_)), None) => Err(Error::with_detail(
                ErrorKind::DeliveryFailed,
                format!("the broker refused the message for {routing_key:?} on the exchange {exchange:?} (a nack)"),
                Detail::NotTaken,
            )),
            (Ok(_), None) => Err(Error::new(ErrorKind::DeliveryFailed, "the channel does not confirm")),
            (Err(Failed::Refused(error)), _) => Err(error),
            (Err(Failed::Lapin(error)), _) => match self.failed(&message, &error) {
                Some(error) => Err(error),
                None => return,
            },
        };
        self.life.say(BrokerEvent::Published { id, outcome });
    }

    /// How many messages of this connection have come back, whoever sent them.
    pub(crate) fn returned(&self) -> usize {
        self.returns.count()
    }

    /// How many returns no publish has taken.
    #[cfg(test)]
    pub(crate) fn unanswered(&self) -> usize {
        self.returns.len()
    }

    /// The channel ended under a publish. `None` when the connection did, which is reported once for all.
    fn failed(&self, message: &Message, error: &lapin::Error) -> Option<Error> {
        if !errors::ends_a_channel(error) {
            debug!(%error, "a publish ended with its connection");
            return None;
        }
        let (exchange, routing_key) = (&*message.exchange, &*message.routing_key);
        let what = format!("publish to {routing_key:?} on the exchange {exchange:?}");
        let said = errors::server_said(error);
        if let Some((403, text)) = said
            && let Some(refused) = errors::publish_refused(&what, exchange, text)
        {
            return Some(refused);
        }
        Some(match said {
            Some((404, text)) if text.contains(&format!("'{exchange}'")) => {
                Error::new(ErrorKind::NotFound, format!("could not {what}: the exchange does not exist ({text})"))
            }
            Some((_, text)) => Error::new(
                ErrorKind::DeliveryFailed,
                format!(
                    "could not {what}: the server closed the publishing channel ({text}); whether the message was taken is not known"
                ),
            ),
            None => Error::with_source(
                ErrorKind::DeliveryFailed,
                format!("could not {what}: the publishing channel was being closed"),
                error.clone(),
            ),
        })
    }

    async fn opened(&self) -> Opened {
        const WHAT: &str = "open the publishing channel";
        debug!("opening the publishing channel");
        let open = async {
            let channel = self.link.open_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let mut open = pin!(open);
        let opened = loop {
            match tokio::time::timeout(self.limit, open.as_mut()).await {
                Ok(opened) => break opened,
                // Nothing is written meanwhile; publishes wait for the broker to unblock, and this with them.
                Err(_) if self.link.blocked.get() => {}
                Err(_) => return Err(errors::timed_out(WHAT, &self.address, self.limit)),
            }
        };
        match opened {
            Ok(channel) => Ok(Rc::new(channel)),
            Err(error) => Err(settle(&self.life, WHAT, &error).await),
        }
    }

    /// Waits until the socket has every message, but not for a broker that blocks us. (lapin lets a close overtake the
    /// messages in its queue.)
    pub(crate) async fn flush(&self, deadline: Instant) {
        loop {
            let mut fewer = pin!(self.socket.fewer.notified());
            fewer.as_mut().enable();
            let all_written = self.socket.count.get() == 0 && self.waiting.borrow().is_empty();
            if all_written || self.link.blocked.get() || !self.link.connected() {
                return;
            }
            // Looked at again now and then, for a block may begin.
            let again = deadline.min(Instant::now() + Duration::from_millis(50));
            if timeout_at(again, fewer).await.is_err() && Instant::now() >= deadline {
                return;
            }
        }
    }
}

impl Unwritten {
    fn one_more(self: &Rc<Self>) -> OnItsWay {
        self.count.set(self.count.get() + 1);
        OnItsWay(Rc::clone(self))
    }
}

/// A message that is not on the socket yet, counted whatever becomes of its future.
struct OnItsWay(Rc<Unwritten>);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.fewer.notify_waiters();
        }
    }
}
