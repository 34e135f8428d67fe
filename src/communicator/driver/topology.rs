//! Exchanges and queues, each declared at its first use and once, whoever asks for it and however many do so at a time.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{Consumer, Driver, SERVICE_LANE};
use crate::broker::{Acknowledge, Broker, ConsumeSpec};
use crate::communicator::command::ReplyExchange;
use crate::error::Result;

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

    pub(super) async fn exchange(&self, exchange: ReplyExchange) -> Result<()> {
        let cell = match exchange {
            ReplyExchange::Message => &self.topology.message_exchange,
            ReplyExchange::Task => &self.topology.task_exchange,
        };
        let declare =
            || async { self.broker.declare_exchange(&self.shared.names.exchange(self.exchange_name(exchange))).await };
        cell.get_or_try_init(declare).await.copied()
    }

    /// The queue that replies to requests through this exchange come to.
    pub(super) async fn reply_queue(&self, exchange: ReplyExchange) -> Result<&str> {
        let cell = match exchange {
            ReplyExchange::Message => &self.topology.message_replies,
            ReplyExchange::Task => &self.topology.task_replies,
        };
        let declare = || async {
            self.exchange(exchange).await?;
            let name = self.exchange_name(exchange);
            let spec = self.shared.names.reply_queue(name);
            self.broker.declare_queue(&spec).await?;
            self.broker.bind(&spec.name, name, &spec.name).await?;
            self.consumers.borrow_mut().insert(spec.name.clone(), Consumer::Reply);
            let consume = ConsumeSpec {
                queue: spec.name.clone(),
                tag: spec.name.clone(),
                lane: SERVICE_LANE,
                acknowledge: Acknowledge::None,
            };
            self.broker.consume(&consume).await?;
            Ok(spec.name)
        };
        cell.get_or_try_init(declare).await.map(String::as_str)
    }

    /// A task queue and its binding. Sending declares it too, so that a task is never unroutable.
    pub(super) async fn task_queue(&self, name: &Arc<str>) -> Result<()> {
        let cell = Rc::clone(&self.tasks.borrow_mut().queue(name, &self.next_lane).declared);
        let declare = || async {
            self.exchange(ReplyExchange::Task).await?;
            self.broker.declare_queue(&self.shared.names.task_queue(name)).await?;
            self.broker.bind(name, &self.shared.names.task_exchange, name).await
        };
        cell.get_or_try_init(declare).await.copied()
    }
}
