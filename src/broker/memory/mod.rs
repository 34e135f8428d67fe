//! `memory:`, a broker inside this process with a real broker's semantics: acknowledgements, requeue at disconnect,
//! prefetch, expiry, unroutable messages, exclusive and durable queues.
//!
//! `memory:` is private to its connect; `memory:NAME` is the same broker for every communicator of the process, and keeps
//! its durable queues until the process ends.

mod exchange;
mod node;
mod queue;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use node::{Node, SessionId, lost};

use super::url::BrokerUrl;
use super::{
    Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, EventSender, ExchangeSpec, Lane, Message, Nack,
    PublishId, QueueSpec, Receipt,
};
use crate::error::{Error, ErrorKind, Result};

/// One connection to a broker inside this process.
pub(crate) struct Memory {
    node: Arc<Node>,
    session: SessionId,
    events: EventSender,
}

impl Broker for Memory {
    async fn connect(url: &BrokerUrl, _options: &ConnectOptions, events: EventSender) -> Result<Self> {
        let node = match url {
            BrokerUrl::Memory { name: Some(name) } => Node::named(name),
            BrokerUrl::Memory { name: None } => Node::new(),
            BrokerUrl::Amqp(_) => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "this URL is not one of a broker inside the process",
                ));
            }
        };
        let session = node.connect(events.clone())?;
        Ok(Memory { node, session, events })
    }

    fn server_properties(&self) -> Vec<(String, String)> {
        let property = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        vec![property("product", "homing memory"), property("version", env!("CARGO_PKG_VERSION"))]
    }

    fn publish(&self, id: PublishId, message: Rc<Message>) -> Option<Result<()>> {
        let message = Rc::unwrap_or_clone(message);
        let (node, session) = (Arc::clone(&self.node), self.session);
        if !*node.blocked.borrow() {
            return Some(node.publish(session, message));
        }
        let Some(mut ended) = node.ended(session) else { return Some(Err(lost())) };
        let events = self.events.clone();
        tokio::spawn(async move {
            let mut blocked = node.blocked.subscribe();
            tokio::select! {
                biased;
                // The sender lives as long as the node, which is here.
                _ = blocked.wait_for(|blocked| !*blocked) => {
                    let outcome = node.publish(session, message);
                    let _ = events.send(BrokerEvent::Published { id, outcome });
                }
                _ = ended.changed() => {}
            }
        });
        None
    }

    fn properties_limit(&self) -> usize {
        // As RabbitMQ has it, so that nothing passes here that fails there.
        131_072 - 8
    }

    async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        self.node.declare_exchange(self.session, spec)
    }

    async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        self.node.declare_queue(self.session, spec)
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.node.bind(self.session, queue, exchange, routing_key)
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.node.unbind(self.session, queue, exchange, routing_key)
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.node.delete_queue(self.session, queue)
    }

    async fn consume(&self, spec: &ConsumeSpec) -> Result<()> {
        self.node.consume(self.session, spec)
    }

    async fn cancel(&self, consumer: &str) -> Result<()> {
        self.node.cancel(self.session, consumer);
        Ok(())
    }

    async fn get(&self, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        self.node.get(self.session, queue, lane)
    }

    fn ack(&self, receipt: Receipt) {
        self.node.ack(self.session, receipt);
    }

    fn nack(&self, receipt: Receipt, then: Nack) {
        self.node.nack(self.session, receipt, then);
    }

    async fn close(&self, _limit: Duration) -> Result<()> {
        self.node.disconnect(self.session);
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.node.disconnect(self.session);
    }
}

/// Faults that a test can put into a named broker.
#[cfg(test)]
pub(crate) mod fault {
    use super::Node;

    pub(crate) fn lose_connections(name: &str) {
        Node::named(name).lose_connections();
    }

    pub(crate) fn set_down(name: &str, down: bool) {
        Node::named(name).set_down(down);
    }

    pub(crate) fn set_blocked(name: &str, reason: Option<&str>) {
        Node::named(name).set_blocked(reason);
    }
}
