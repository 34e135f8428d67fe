//! Exchanges and queues, each declared at its first use and once, whoever asks for it and however many do so at a time.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Consumer, Driver, SERVICE_LANE};
use crate::broker::{Acknowledge, Broker, ConsumeSpec};
use crate::communicator::command::ReplyExchange;
use crate::error::{ErrorKind, Result};

/// How often a binding is tried whose exchange goes in between.
const BIND_TRIES: usize = 3;

#[derive(Default)]
pub(super) struct Topology {
    message_exchange: OnceCell<()>,
    task_exchange: OnceCell<()>,
    message_replies: OnceCell<String>,
    task_replies: OnceCell<String>,
}

impl<B: Broker> Driver<B> {
    pub(super) fn exchange_name(&self, exchange: ReplyExchange) -> &Arc<str> {
        match exchange {
            ReplyExchange::Message => &self.shared.names.message_exchange,
            ReplyExchange::Task => &self.shared.names.task_exchange,
        }
    }

    /// Declares an exchange, if that was not done before.
    pub(super) async fn exchange(&self, exchange: ReplyExchange) -> Result<()> {
        let cell = match exchange {
            ReplyExchange::Message => &self.topology.message_exchange,
            ReplyExchange::Task => &self.topology.task_exchange,
        };
        cell.get_or_try_init(|| self.declare_exchange(exchange)).await.copied()
    }

    /// Declares an exchange whether or not that was done before: in testing mode it goes with the last queue that is bound
    /// to it, whosesoever that is.
    pub(super) async fn declare_exchange(&self, exchange: ReplyExchange) -> Result<()> {
        self.broker.declare_exchange(&self.shared.names.exchange(self.exchange_name(exchange))).await
    }

    /// Binds a queue to an exchange that was declared just before.
    ///
    /// Guards: somebody else's last queue that goes between the two, in testing mode, and takes the exchange with it.
    pub(super) async fn bind(&self, queue: &str, exchange: ReplyExchange, routing_key: &str) -> Result<()> {
        let name = self.exchange_name(exchange);
        for _ in 0..BIND_TRIES {
            self.declare_exchange(exchange).await?;
            match self.broker.bind(queue, name, routing_key).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                bound => return bound,
            }
        }
        self.broker.bind(queue, name, routing_key).await
    }

    /// The queue that replies to requests through this exchange come to.
    pub(super) async fn reply_queue(&self, exchange: ReplyExchange) -> Result<&str> {
        let cell = match exchange {
            ReplyExchange::Message => &self.topology.message_replies,
            ReplyExchange::Task => &self.topology.task_replies,
        };
        let declare = || async {
            let spec = self.shared.names.reply_queue(self.exchange_name(exchange));
            self.broker.declare_queue(&spec).await?;
            match self.set_up_replies(exchange, &spec.name).await {
                Ok(()) => Ok(spec.name),
                Err(error) => {
                    self.consumers.borrow_mut().remove(&spec.name);
                    // It would go by itself, too, when it is unused.
                    let _ = self.broker.delete_queue(&spec.name).await;
                    Err(error)
                }
            }
        };
        cell.get_or_try_init(declare).await.map(String::as_str)
    }

    async fn set_up_replies(&self, exchange: ReplyExchange, queue: &str) -> Result<()> {
        self.bind(queue, exchange, queue).await?;
        self.consumers.borrow_mut().insert(queue.to_owned(), Consumer::Reply);
        let consume = ConsumeSpec {
            queue: queue.to_owned(),
            tag: queue.to_owned(),
            lane: SERVICE_LANE,
            acknowledge: Acknowledge::None,
        };
        self.broker.consume(&consume).await
    }

    /// A task queue and its binding. Sending declares it too, so that a task is never unroutable.
    pub(super) async fn task_queue(&self, name: &Arc<str>) -> Result<()> {
        let cell = Rc::clone(&self.tasks.borrow_mut().queue(name, &self.next_lane).declared);
        let declare = || async {
            self.broker.declare_queue(&self.shared.names.task_queue(name)).await?;
            self.bind(name, ReplyExchange::Task, name).await
        };
        cell.get_or_try_init(declare).await.copied()
    }
}
