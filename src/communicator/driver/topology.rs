//! Exchanges and queues, each declared at its first use on a connection and once, whoever asks for it and however many do
//! so at a time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::supervise::is_lost;
use super::{Consumer, Driver, SERVICE_LANE};
use crate::broker::{Acknowledge, Broker, ConsumeSpec};
use crate::communicator::command::ReplyExchange;
use crate::communicator::names::Testing;
use crate::error::{Error, ErrorKind, Result};

/// How often a binding is tried whose exchange goes in between.
const BIND_TRIES: usize = 3;

/// The pauses between the attempts to have the name of a reply queue back.
const FIRST_RECLAIM: Duration = Duration::from_millis(100);
const LONGEST_RECLAIM: Duration = Duration::from_secs(2);

impl<B: Broker> Driver<B> {
    pub(super) fn exchange_name(&self, exchange: ReplyExchange) -> &Arc<str> {
        match exchange {
            ReplyExchange::Message => &self.shared.names.message_exchange,
            ReplyExchange::Task => &self.shared.names.task_exchange,
        }
    }

    /// Declares an exchange, if that was not done before.
    pub(super) async fn exchange(&self, link: &Link<B>, exchange: ReplyExchange) -> Result<()> {
        let cell = match exchange {
            ReplyExchange::Message => &link.message_exchange,
            ReplyExchange::Task => &link.task_exchange,
        };
        match cell.get() {
            Some(()) => Ok(()),
            // Boxed, here and below: what is done once a connection would stand in the future of every message.
            None => Box::pin(cell.get_or_try_init(|| self.declare_exchange(link, exchange))).await.copied(),
        }
    }

    /// Declares an exchange whether or not that was done before: in testing mode it goes with the last queue that is bound
    /// to it, whosesoever that is.
    pub(super) async fn declare_exchange(&self, link: &Link<B>, exchange: ReplyExchange) -> Result<()> {
        link.broker.declare_exchange(&self.shared.names.exchange(self.exchange_name(exchange))).await
    }

    /// An exchange was not there when it should have been.
    pub(super) async fn exchange_vanished(&self, link: &Link<B>, exchange: ReplyExchange, error: &Error) -> Result<()> {
        match self.shared.names.testing {
            // It went with its last binding, so that nothing of ours was bound to it.
            Testing::Yes => self.declare_exchange(link, exchange).await,
            // Somebody deleted it, and all our bindings with it.
            Testing::No => {
                let text =
                    format!("an exchange was deleted under this communicator, and all that was bound to it: {error}");
                link.give_up(Error::with_source(ErrorKind::ConnectionLost, text, error.clone()));
                Err(Error::new(ErrorKind::ConnectionLost, "the exchange was deleted"))
            }
        }
    }

    /// Binds a queue to an exchange that was declared just before.
    ///
    /// Guards: somebody else's last queue that goes between the two, in testing mode, and takes the exchange with it.
    pub(super) async fn bind(
        &self,
        link: &Link<B>,
        queue: &str,
        exchange: ReplyExchange,
        routing_key: &str,
    ) -> Result<()> {
        let name = self.exchange_name(exchange);
        for _ in 0..BIND_TRIES {
            self.declare_exchange(link, exchange).await?;
            match link.broker.bind(queue, name, routing_key).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                bound => return bound,
            }
        }
        link.broker.bind(queue, name, routing_key).await
    }

    /// The queue that replies to requests through this exchange come to: another name on each connection, for a broker may
    /// hold the one before for a while.
    pub(super) async fn reply_queue(&self, link: &Link<B>, exchange: ReplyExchange) -> Result<Rc<str>> {
        let cell = match exchange {
            ReplyExchange::Message => &link.message_replies,
            ReplyExchange::Task => &link.task_replies,
        };
        let declare = || async {
            let name: Rc<str> = self.shared.names.reply_queue(self.exchange_name(exchange)).name.into();
            self.set_up_replies(link, exchange, &name).await.map(|()| name)
        };
        match cell.get() {
            Some(name) => Ok(Rc::clone(name)),
            None => Box::pin(cell.get_or_try_init(declare)).await.cloned(),
        }
    }

    async fn set_up_replies(&self, link: &Link<B>, exchange: ReplyExchange, queue: &str) -> Result<()> {
        let mut spec = self.shared.names.reply_queue(self.exchange_name(exchange));
        queue.clone_into(&mut spec.name);
        link.broker.declare_queue(&spec).await?;
        let set_up = async {
            self.bind(link, queue, exchange, queue).await?;
            link.consumers.borrow_mut().insert(queue.to_owned(), Consumer::Reply(exchange));
            let consume = ConsumeSpec {
                queue: queue.to_owned(),
                tag: queue.to_owned(),
                lane: SERVICE_LANE,
                acknowledge: Acknowledge::None,
            };
            link.broker.consume(&consume).await
        };
        let set_up = set_up.await;
        if set_up.is_err() {
            link.consumers.borrow_mut().remove(queue);
            // It would go by itself, too, when it is unused.
            let _ = link.broker.delete_queue(queue).await;
        }
        set_up
    }

    /// Gets the reply queues of requests under way back, each in the background.
    pub(super) fn reclaim_replies(self: &Rc<Self>, link: &Rc<Link<B>>) {
        for (exchange, queue) in self.requests.borrow().reply_queues() {
            let link = Rc::clone(link);
            self.spawn(move |driver| async move { driver.reclaim(&link, exchange, &queue).await });
        }
    }

    /// Sets a reply queue up under its old name, while some request is answered there. A broker that has not seen the end of
    /// the old connection holds the name: that is waited out.
    pub(super) async fn reclaim(&self, link: &Rc<Link<B>>, exchange: ReplyExchange, queue: &str) {
        let mut pause = FIRST_RECLAIM;
        let is_present =
            || [&link.message_replies, &link.task_replies].iter().any(|cell| cell.get().is_some_and(|n| **n == *queue));
        while self.is_now(link) && (is_present() || self.requests.borrow().are_answered_to(queue)) {
            match self.set_up_replies(link, exchange, queue).await {
                Ok(()) => {
                    tracing::debug!(queue, "the replies of requests under way come in again");
                    return self.ask_for_lost_answers(link, queue).await;
                }
                Err(error) if is_lost(&error) => return,
                Err(error) => tracing::info!(queue, %error, "a reply queue is not to be had yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_RECLAIM);
        }
    }

    /// A task queue and its binding. Sending declares it too, so that a task is never unroutable.
    pub(super) async fn task_queue(&self, link: &Link<B>, name: &Arc<str>) -> Result<()> {
        let declare = || async {
            link.broker.declare_queue(&self.shared.names.task_queue(name)).await?;
            self.bind(link, name, ReplyExchange::Task, name).await
        };
        let cell = link.declared(name);
        match cell.get() {
            Some(()) => Ok(()),
            None => Box::pin(cell.get_or_try_init(declare)).await.copied(),
        }
    }
}
