//! Answers that were lost on their way: the broker had confirmed them, and they went with the reply queue of a caller whose
//! connection was lost.
//!
//! A caller that is back asks for them: with a message to the key `[homing].answers`, which only communicators of homing bind
//! that have subscribers, with the header `homing-control: answer-again` and the correlation ids of what it still waits for.
//! Whoever has answered one of them lately sends that answer again. Where kiwipy answers nobody hears of it.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::bindings::CONTROL;
use super::link::Link;
use super::{Consumer, Driver, SERVICE_LANE};
use crate::broker::{Acknowledge, Body, Broker, ConsumeSpec, Delivery, Durability, Message, Properties, Routing};
use crate::communicator::command::ReplyExchange;
use crate::communicator::shared::count;
use crate::error::Result;

const KEY: &str = "[homing].answers";
const ANSWER_AGAIN: &str = "answer-again";

/// When a caller that is back asks: whoever answered may be back later than it is.
const ASKS: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(10)];

/// How many are asked for in one message.
const AT_ONCE: usize = 1000;

impl<B: Broker> Driver<B> {
    /// The queue that such a message comes to, once a connection.
    pub(super) async fn hear_of_lost_answers(&self, link: &Link<B>) -> Result<()> {
        let set_up = || async {
            let spec = self.shared.names.control_queue();
            link.broker.declare_queue(&spec).await?;
            let name: Rc<str> = spec.name.as_str().into();
            link.consumers.borrow_mut().insert(spec.name.clone(), Consumer::Control);
            let consume = ConsumeSpec {
                queue: spec.name.clone(),
                tag: spec.name.clone(),
                lane: SERVICE_LANE,
                acknowledge: Acknowledge::None,
            };
            link.broker.consume(&consume).await?;
            self.bind(link, &name, ReplyExchange::Message, KEY).await?;
            self.bind(link, &name, ReplyExchange::Message, &name).await?;
            Ok(name)
        };
        link.control.get_or_try_init(set_up).await.map(drop)
    }

    pub(super) fn on_control(self: &Rc<Self>, delivery: &Delivery) {
        let asks = delivery.properties.text(CONTROL) == Some(ANSWER_AGAIN);
        let (true, Body::Encoded(body)) = (asks, &delivery.body) else { return };
        let Ok(text) = std::str::from_utf8(body) else { return };
        for correlation in text.lines().take(AT_ONCE) {
            let answer = self.answers.borrow().of(correlation).flatten();
            if let Some(reply) = answer {
                count(&self.shared.counters.answered_again);
                tracing::debug!(correlation, "an answer that may have been lost is sent again");
                self.send_reply(reply);
            }
        }
    }

    /// Asks for the answers to requests whose reply queue was away.
    pub(super) async fn ask_for_lost_answers(&self, link: &Rc<Link<B>>, queue: &str) {
        for pause in ASKS {
            tokio::time::sleep(pause).await;
            let waiting = self.requests.borrow().answered_to(queue);
            if waiting.is_empty() || !self.is_now(link) {
                return;
            }
            for some in waiting.chunks(AT_ONCE) {
                let ids: Vec<String> = some.iter().map(ToString::to_string).collect();
                let message = Message {
                    exchange: self.shared.names.message_exchange.clone(),
                    routing_key: KEY.to_owned(),
                    properties: Properties::default().with_text(CONTROL, ANSWER_AGAIN),
                    body: Body::Encoded(Bytes::from(ids.join("\n"))),
                    routing: Routing::Optional,
                    durability: Durability::Transient,
                };
                if let Err(error) = link.publish_and_wait(message).await {
                    return tracing::debug!(%error, "lost answers could not be asked for");
                }
            }
        }
    }
}
