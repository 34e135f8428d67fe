//! Bindings that vanish: a queue whose exchange was deleted hears nothing any more, and no broker says so. So a
//! communicator writes to itself now and then, by each way that others write to it; what comes back as unroutable shows
//! that a binding is gone, and everything is set up anew.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::Driver;
use super::link::Link;
use crate::broker::{Body, Broker, Durability, Message, Properties, Routing};
use crate::communicator::command::ReplyExchange;
use crate::error::{Error, ErrorKind};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);

pub(super) const CONTROL: &str = "homing-control";
const PROBE: &str = "probe";

/// True for what a communicator writes to itself.
pub(super) fn is_probe(properties: &Properties) -> bool {
    properties.text(CONTROL) == Some(PROBE)
}

impl<B: Broker> Driver<B> {
    pub(super) async fn watch_bindings(&self, link: &Rc<Link<B>>) {
        loop {
            tokio::time::sleep(EVERY).await;
            let ways = [
                (ReplyExchange::Message, link.control.get()),
                (ReplyExchange::Message, link.message_replies.get()),
                (ReplyExchange::Task, link.task_replies.get()),
            ];
            for (exchange, queue) in ways {
                let Some(queue) = queue else { continue };
                if !self.is_now(link) {
                    return;
                }
                let message = Message {
                    exchange: self.exchange_name(exchange).clone(),
                    routing_key: queue.to_string(),
                    properties: Properties::default().with_text(CONTROL, PROBE),
                    body: Body::Encoded(Bytes::new()),
                    routing: Routing::Mandatory,
                    durability: Durability::Transient,
                };
                match link.publish_and_wait(message).await {
                    Err(error) if matches!(error.kind(), ErrorKind::Unroutable | ErrorKind::NotFound) => {
                        let text = format!("the exchange of this communicator's bindings was deleted: {error}");
                        return link.give_up(Error::with_source(ErrorKind::ConnectionLost, text, error));
                    }
                    _ => {}
                }
            }
        }
    }
}
