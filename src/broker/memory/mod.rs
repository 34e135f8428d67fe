//! `memory:`, a broker inside this process: an [`Engine`](homing_broker::engine::Engine) with a lock, a clock and a timer, and the
//! events of its sessions. Semantics are the engine's, which are RabbitMQ's.
//!
//! `memory:` is private to its connect and ends with it. `memory:NAME` is the same broker for every communicator of the
//! process. It keeps its queues, and what is in them, when its last communicator has gone; without a queue and without a
//! communicator it is dropped, and its exchanges with it. So what a program leaves in a named broker is what it left in
//! queues that are neither exclusive nor expire: those stay until the process ends. (Queues that expire meanwhile are seen to
//! when the next communicator connects to any named broker.)
//!
//! It holds 1 GiB of messages at most: a task for which there is no room is refused with [`ErrorKind::Full`]. Calls and broadcasts
//! are refused at 2 GiB, so that tasks without a worker keep nobody from calling. Answers and copies of tasks in hand (leases,
//! retries, quarantine) are always taken: by them others leave.

mod content;
mod lanes;
#[cfg(test)]
mod lanes_tests;
mod node;
mod refusal;
mod specs;
#[cfg(test)]
mod tests;
mod timer;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use homing_broker::engine::SessionId;

use content::Content;
use node::Node;
use timer::Timer;

use super::url::BrokerUrl;
use super::{
    Broker, ConnectOptions, ConsumeSpec, Delivery, EventSender, ExchangeSpec, Lane, Message, Nack, PublishId,
    QueueSpec, Receipt,
};
use crate::error::{Error, ErrorKind, Result};

/// One connection to a broker inside this process.
pub(crate) struct Memory {
    node: Arc<Node>,
    session: SessionId,
    /// Ends with the connection.
    _timer: Timer,
}

impl Broker for Memory {
    async fn connect(url: &BrokerUrl, _options: &ConnectOptions, events: EventSender) -> Result<Self> {
        let (node, session) = match url {
            BrokerUrl::Memory { name: Some(name) } => Node::connect_to(name, events)?,
            BrokerUrl::Memory { name: None } => {
                let node = Node::new(None);
                let session = node.connect(events)?;
                (node, session)
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    "this URL is not one of a broker inside the process",
                ));
            }
        };
        let timer = Timer::start(&node, session);
        Ok(Memory { node, session, _timer: timer })
    }

    fn server_properties(&self) -> Vec<(String, String)> {
        let property = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        vec![property("product", "homing memory"), property("version", env!("CARGO_PKG_VERSION"))]
    }

    fn publish(&self, id: PublishId, message: Rc<Message>) -> Option<Result<()>> {
        if let Err(error) = check_message(&message) {
            return Some(Err(error));
        }
        let routing = message.routing;
        self.node.publish(self.session, id, Content::new(Rc::unwrap_or_clone(message)), routing)
    }

    fn properties_limit(&self) -> usize {
        // As RabbitMQ's frames have it, so that nothing passes here that fails there.
        131_072 - 8
    }

    async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        check("exchange name", &spec.name)?;
        self.node.ask(|lanes, now| lanes.declare_exchange(self.session, spec, now))
    }

    async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        if spec.name.is_empty() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a queue needs a name"));
        }
        check("queue name", &spec.name)?;
        self.node.ask(|lanes, now| lanes.declare_queue(self.session, spec, now))
    }

    async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        check("routing key", routing_key)?;
        self.node.ask(|lanes, now| lanes.bind(self.session, queue, exchange, routing_key, now))
    }

    async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        self.node.ask(|lanes, now| lanes.unbind(self.session, queue, exchange, routing_key, now))
    }

    async fn delete_queue(&self, queue: &str) -> Result<()> {
        self.node.ask(|lanes, now| lanes.delete_queue(self.session, queue, now))
    }

    async fn consume(&self, spec: &ConsumeSpec) -> Result<()> {
        check("consumer tag", &spec.tag)?;
        self.node.ask(|lanes, now| lanes.consume(self.session, spec, now))
    }

    async fn cancel(&self, consumer: &str) -> Result<()> {
        self.node.ask(|lanes, now| lanes.cancel(self.session, consumer, now))
    }

    async fn get(&self, queue: &str, lane: Lane) -> Result<Option<Delivery>> {
        self.node.ask(|lanes, now| lanes.get(self.session, queue, lane, now))
    }

    fn ack(&self, receipt: Receipt) {
        self.node.locked(|state, now| state.lanes.ack(self.session, receipt, now));
    }

    fn nack(&self, receipt: Receipt, then: Nack) {
        self.node.locked(|state, now| state.lanes.nack(self.session, receipt, then, now));
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

/// How many bytes AMQP's short strings hold. `memory:` refuses what RabbitMQ would refuse, so that nothing works here and
/// fails there.
const SHORT: usize = 255;

fn check(what: &str, text: &str) -> Result<()> {
    if text.len() <= SHORT {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("the {what} has {} bytes; AMQP allows {SHORT} (it begins {:?})", text.len(), start(text)),
    ))
}

fn start(text: &str) -> String {
    text.chars().take(40).collect()
}

fn check_message(message: &Message) -> Result<()> {
    check("exchange name", &message.exchange)?;
    check("routing key", &message.routing_key)?;
    let properties = &message.properties;
    for (what, text) in [
        ("message id", &properties.message_id),
        ("correlation id", &properties.correlation_id),
        ("reply-to", &properties.reply_to),
    ] {
        check(what, text.as_deref().unwrap_or_default())?;
    }
    Ok(())
}

/// Faults that a test can put into a named broker.
#[cfg(test)]
pub(crate) mod fault {
    use super::Node;

    /// Breaks every connection, as a broker that dies does.
    pub(crate) fn lose_connections(name: &str) {
        Node::named(name).lose_connections();
    }

    /// Lets nobody connect, as a broker that is being started does not.
    pub(crate) fn set_down(name: &str, down: bool) {
        Node::named(name).set_down(down);
    }

    /// Bounds what a broker holds that nobody has used yet.
    pub(crate) fn hold_at_most(name: &str, bytes: usize) {
        Node::named(name).hold_at_most(bytes);
    }

    /// Stops or starts to take messages, as a broker in alarm does.
    pub(crate) fn set_blocked(name: &str, reason: Option<&str>) {
        Node::named(name).set_blocked(reason);
    }

    /// Waits until a broker in alarm has this many messages that it does not take.
    pub(crate) async fn holds(name: &str, messages: usize) {
        let node = Node::named(name);
        while node.held() < messages {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}
