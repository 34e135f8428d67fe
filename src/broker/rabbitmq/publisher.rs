//! The publishing side: a channel with confirms, and who gets which.
//!
//! lapin 4.12 may hand a returned message to the confirm of another publish, when several are under way. So returns are
//! told apart by their message id, and confirms are looked at in batches: lapin resolves what one acknowledgement covers
//! under one lock, and a verdict is given only after that lock was free and everything resolved by then has been seen.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, PublisherConfirm};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::errors;
use super::link::Link;
use crate::broker::{Body, Durability, Message, Routing};
use crate::error::{Error, ErrorKind, Result};

pub(super) struct Publisher {
    link: Rc<Link>,
    /// Opened again after the server has closed it (for a missing exchange, say).
    channel: Mutex<Option<Open>>,
    operation_timeout: Duration,
}

#[derive(Clone)]
struct Open {
    channel: Channel,
    confirms: mpsc::UnboundedSender<Pending>,
}

/// A publish that is on the wire.
struct Pending {
    message_id: String,
    confirm: PublisherConfirm,
    verdict: oneshot::Sender<Verdict>,
}

enum Verdict {
    Taken,
    Returned,
    Refused,
    Failed(lapin::Error),
}

impl Publisher {
    pub(super) async fn open(link: Rc<Link>, operation_timeout: Duration) -> Result<Self> {
        let publisher = Publisher { link, channel: Mutex::new(None), operation_timeout };
        publisher.channel().await?;
        Ok(publisher)
    }

    async fn channel(&self) -> Result<Open> {
        let mut slot = self.channel.lock().await;
        if let Some(open) = slot.as_ref().filter(|open| open.channel.status().connected()) {
            return Ok(open.clone());
        }
        let opening = async {
            let channel = self.link.channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        };
        let opened = tokio::time::timeout(self.operation_timeout, opening).await;
        let channel = opened
            .map_err(|_| {
                let text = format!("RabbitMQ opened no channel for publishing within {:?}", self.operation_timeout);
                Error::new(ErrorKind::TimedOut, text)
            })?
            .map_err(|error| errors::failed("opening a channel for publishing", &error))?;
        let (confirms, incoming) = mpsc::unbounded_channel();
        drop(tokio::task::spawn_local(collect(channel.clone(), incoming)));
        let open = Open { channel, confirms };
        *slot = Some(open.clone());
        Ok(open)
    }

    pub(super) async fn publish(self: Rc<Self>, message: Message) -> Result<()> {
        let what = format!("publishing to the exchange {:?}", &*message.exchange);
        let open = self.channel().await?;
        let Body::Encoded(payload) = &message.body else {
            return Err(Error::new(ErrorKind::InvalidState, "a body was not encoded for RabbitMQ"));
        };
        let message_id =
            message.properties.message_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
        let options =
            BasicPublishOptions { mandatory: message.routing == Routing::Mandatory, ..BasicPublishOptions::default() };
        let properties = properties(&message, &message_id);
        let exchange = (&*message.exchange).into();
        let key = message.routing_key.as_str().into();
        let confirm = open
            .channel
            .basic_publish(exchange, key, options, payload, properties)
            .await
            .map_err(|error| errors::failed(&what, &error))?;
        let (verdict, given) = oneshot::channel();
        // Where the collector has ended, so has its channel; the verdict below says so.
        let _ = open.confirms.send(Pending { message_id, confirm, verdict });
        match given.await {
            Ok(Verdict::Taken) => Ok(()),
            Ok(Verdict::Returned) => Err(Error::new(
                ErrorKind::Unroutable,
                format!(
                    "no queue is bound to the exchange {:?} for the routing key {:?}",
                    &*message.exchange, message.routing_key
                ),
            )),
            Ok(Verdict::Refused) => {
                Err(Error::new(ErrorKind::DeliveryFailed, format!("{what}: RabbitMQ could not take the message over")))
            }
            Ok(Verdict::Failed(error)) => Err(errors::failed(&what, &error)),
            Err(_) => Err(Error::new(
                ErrorKind::ConnectionLost,
                format!(
                    "{what}: the connection was lost before RabbitMQ had confirmed it; whether it arrived is not known"
                ),
            )),
        }
    }
}

/// Waits for the confirms of one channel and gives the verdicts.
async fn collect(channel: Channel, mut incoming: mpsc::UnboundedReceiver<Pending>) {
    let mut under_way = FuturesUnordered::new();
    let mut returned = HashSet::new();
    loop {
        let first = tokio::select! {
            biased;
            Some(first) = under_way.next() => first,
            pending = incoming.recv() => match pending {
                Some(Pending { message_id, confirm, verdict }) => {
                    under_way.push(async move { (message_id, confirm.await, verdict) });
                    continue;
                }
                None if under_way.is_empty() => return,
                None => match under_way.next().await {
                    Some(first) => first,
                    None => return,
                },
            },
        };
        // Guards: a return that lapin gave to another confirm of the same acknowledgement. This takes the lock that it
        // resolves them under, so that all of them are resolved, and then sees them all before any verdict.
        drop(channel.wait_for_confirms().now_or_never());
        let mut batch = vec![first];
        while let Some(Some(next)) = under_way.next().now_or_never() {
            batch.push(next);
        }
        let mut judged = Vec::with_capacity(batch.len());
        for (message_id, confirmed, verdict) in batch {
            let outcome = match confirmed {
                Ok(confirmation) => {
                    let refused = confirmation.is_nack();
                    if let Some(message) = confirmation.take_message()
                        && let Some(id) = message.delivery.properties.message_id()
                    {
                        returned.insert(id.to_string());
                    }
                    if refused { Verdict::Refused } else { Verdict::Taken }
                }
                Err(error) => Verdict::Failed(error),
            };
            judged.push((message_id, outcome, verdict));
        }
        for (message_id, outcome, verdict) in judged {
            let outcome = match outcome {
                Verdict::Taken if returned.remove(&message_id) => Verdict::Returned,
                outcome => outcome,
            };
            // Whoever published it may be gone.
            let _ = verdict.send(outcome);
        }
    }
}

/// kiwipy's: no content type, no timestamp, priority 0, headers always there.
fn properties(message: &Message, message_id: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, text) in &message.properties.headers {
        headers.insert(name.as_str().into(), AMQPValue::LongString(text.as_str().into()));
    }
    let delivery_mode = match message.durability {
        Durability::Durable => 2,
        Durability::Transient => 1,
    };
    let mut properties = BasicProperties::default()
        .with_headers(headers)
        .with_delivery_mode(delivery_mode)
        .with_priority(0)
        .with_message_id(message_id.into());
    if let Some(id) = &message.properties.correlation_id {
        properties = properties.with_correlation_id(id.as_str().into());
    }
    if let Some(queue) = &message.properties.reply_to {
        properties = properties.with_reply_to(queue.as_str().into());
    }
    properties
}
