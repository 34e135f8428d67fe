//! Publishing: one channel in confirm mode on the connection that does nothing else.
//!
//! A publish is written when its future is first polled. Dropped after that, it goes on as a task of its own, so that a caller
//! who gives up loses nothing: the message is on its way, and lapin keeps the confirms of abandoned publishes for ever otherwise.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Confirmation};
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::task::{spawn_local, unconstrained};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, trace};

use super::errors;
use super::life::Life;
use super::link::Link;
use super::message::Outgoing;
use super::tap::Returns;
use super::topology::settle;
use crate::broker::Message;
use crate::error::{Error, ErrorKind, Result};

pub(crate) struct Publisher {
    link: Rc<Link>,
    life: Rc<Life>,
    address: Rc<str>,
    limit: Duration,
    returns: Returns,
    /// Taken in turn: whoever polls first, writes first, also while the channel is being opened again.
    channel: Mutex<Option<Rc<Channel>>>,
    /// How many messages lapin has and the socket has not.
    unwritten: Cell<usize>,
    written: Notify,
}

/// The channel, and what keeps others from writing before us.
type Turn<'a> = (MutexGuard<'a, Option<Rc<Channel>>>, Rc<Channel>);

impl Publisher {
    pub(crate) fn new(link: Rc<Link>, life: Rc<Life>, address: Rc<str>, limit: Duration, returns: Returns) -> Self {
        Publisher {
            link,
            life,
            address,
            limit,
            returns,
            channel: Mutex::new(None),
            unwritten: Cell::new(0),
            written: Notify::new(),
        }
    }

    /// Opens the channel ahead of the first publish.
    pub(crate) async fn open(&self) -> Result<()> {
        let mut place = self.channel.lock().await;
        self.life.until_end(pin!(self.opened(&mut place))).await.map(drop)
    }

    pub(crate) fn publish(self: &Rc<Self>, message: Message) -> impl Future<Output = Result<()>> + 'static {
        let this = Rc::clone(self);
        let outgoing = Outgoing::new(message);
        async move {
            let outgoing = outgoing?;
            this.life.check()?;
            let (place, channel) = match this.at_once() {
                Some(ready) => ready,
                // Boxed: thousands of these futures may stand side by side, and few come this way.
                None => Box::pin(this.in_turn()).await?,
            };
            trace!(message_id = %outgoing.message_id, exchange = %outgoing.exchange, routing_key = %outgoing.routing_key,
                bytes = outgoing.body.len(), "publish");
            let work = Rc::clone(&this);
            let mut delivery =
                UnderWay(Some(Box::pin(
                    async move { work.life.until_end(pin!(work.deliver(&channel, &outgoing))).await },
                )));
            // lapin puts the frames into its queue at the first poll (and only there may the next publish follow).
            let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut delivery).poll(cx))).await;
            drop(place);
            match first {
                Poll::Ready(result) => result,
                Poll::Pending => delivery.await,
            }
        }
    }

    /// The channel, if it is open and nobody is before us.
    fn at_once(&self) -> Option<Turn<'_>> {
        let place = self.channel.try_lock().ok()?;
        let channel = place.as_ref().filter(|channel| channel.status().connected()).cloned()?;
        Some((place, channel))
    }

    /// The channel, when it is our turn, opened where it is not.
    async fn in_turn(&self) -> Result<Turn<'_>> {
        // Unconstrained: tokio's budget would make a free lock wait now and then, and the order would be lost.
        let mut place = unconstrained(self.channel.lock()).await;
        let channel = match &*place {
            Some(channel) if channel.status().connected() => Rc::clone(channel),
            _ => self.life.until_end(pin!(self.opened(&mut place))).await?,
        };
        Ok((place, channel))
    }

    async fn deliver(&self, channel: &Channel, message: &Outgoing) -> Result<()> {
        let Outgoing { exchange, routing_key, message_id, .. } = message;
        let unwritten = Unwritten::new(self);
        let confirm = channel
            .basic_publish(
                exchange.clone(),
                routing_key.clone(),
                message.options,
                &message.body,
                message.properties.clone(),
            )
            .await;
        drop(unwritten);
        let confirmation = match confirm {
            Ok(confirm) => confirm.await,
            Err(error) => Err(error),
        };
        let returned = self.returns.take(message_id);
        let (exchange, routing_key) = (exchange.as_str(), routing_key.as_str());
        match (confirmation, returned) {
            (Ok(Confirmation::Ack(_)), None) => Ok(()),
            (Ok(_), Some(returned)) => Err(Error::new(
                ErrorKind::Unroutable,
                format!(
                    "no queue takes messages for {routing_key:?} on the exchange {exchange:?}: the recipient does not exist \
                     or has gone ({})",
                    returned.text
                ),
            )),
            (Ok(Confirmation::Nack(_)), None) => Err(Error::new(
                ErrorKind::DeliveryFailed,
                format!("the broker refused the message for {routing_key:?} on the exchange {exchange:?} (a nack)"),
            )),
            (Ok(_), None) => Err(Error::new(ErrorKind::DeliveryFailed, "the channel does not confirm")),
            (Err(error), _) => Err(self.failed(message, &error)),
        }
    }

    /// How many returns no publish has taken.
    #[cfg(test)]
    pub(crate) fn unanswered(&self) -> usize {
        self.returns.len()
    }

    /// The channel or the connection ended under a publish.
    fn failed(&self, message: &Outgoing, error: &lapin::Error) -> Error {
        let (exchange, routing_key) = (message.exchange.as_str(), message.routing_key.as_str());
        let what = format!("publish to {routing_key:?} on the exchange {exchange:?}");
        if !errors::ends_a_channel(error) {
            return settle(&self.life, &what, error);
        }
        match errors::server_said(error) {
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
        }
    }

    async fn opened(&self, place: &mut Option<Rc<Channel>>) -> Result<Rc<Channel>> {
        const WHAT: &str = "open the publishing channel";
        *place = None;
        debug!("opening the publishing channel");
        let open = async {
            let channel = self.link.open_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let mut open = std::pin::pin!(open);
        let opened = loop {
            match tokio::time::timeout(self.limit, open.as_mut()).await {
                Ok(opened) => break opened,
                // Nothing is written meanwhile; publishes wait for the broker to unblock, and this with them.
                Err(_) if self.link.blocked.get() => {}
                Err(_) => return Err(errors::timed_out(WHAT, &self.address, self.limit)),
            }
        };
        let channel = Rc::new(opened.map_err(|error| settle(&self.life, WHAT, &error))?);
        *place = Some(Rc::clone(&channel));
        Ok(channel)
    }

    /// Waits until the socket has every message, but not for a broker that blocks us. (lapin lets a close overtake the
    /// messages in its queue.)
    pub(crate) async fn flush(&self, deadline: Instant) {
        loop {
            let mut written = std::pin::pin!(self.written.notified());
            written.as_mut().enable();
            if self.unwritten.get() == 0 || self.link.blocked.get() || !self.link.connected() {
                return;
            }
            // Looked at again now and then, for a block may begin.
            let again = deadline.min(Instant::now() + Duration::from_millis(50));
            if timeout_at(again, written).await.is_err() && Instant::now() >= deadline {
                return;
            }
        }
    }
}

/// A publish that lapin has. It is brought to its end whatever becomes of whoever waits for it.
struct UnderWay(Option<Pin<Box<dyn Future<Output = Result<()>>>>>);

impl Future for UnderWay {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let polled = match &mut self.0 {
            Some(delivery) => delivery.as_mut().poll(cx),
            None => Poll::Ready(Err(Error::new(ErrorKind::InvalidState, "the publish has ended before"))),
        };
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Guards: a caller that gives up with the confirm still to come, which nobody would take. At the end of the
        // communicator thread this is dropped with everything else.
        if let Some(delivery) = self.0.take() {
            spawn_local(delivery);
        }
    }
}

/// Counts a message that is not on the socket yet, whatever becomes of its future.
struct Unwritten<'a>(&'a Publisher);

impl<'a> Unwritten<'a> {
    fn new(publisher: &'a Publisher) -> Self {
        publisher.unwritten.set(publisher.unwritten.get() + 1);
        Unwritten(publisher)
    }
}

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.0.unwritten.set(self.0.unwritten.get() - 1);
        self.0.written.notify_waiters();
    }
}
