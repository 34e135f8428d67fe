//! Callers that are gone: the word of it to whoever has their call in hand, and what is done with such a word.
//!
//! A call that is given up before its answer leaves a subscriber at work for nobody. So its communicator sends a message
//! after it, to a key that only homing's subscribers bind: `[gone].NAME` with the call's correlation id and the header
//! `homing-control: caller-gone`. Where kiwipy listens the broker drops it, as nobody has bound that key.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use uuid::Uuid;

use super::bindings::CONTROL;
use super::{Driver, Ticket};
use crate::broker::{Body, Broker, Durability, Message, Properties, Routing};
use crate::communicator::command::RpcDelivery;
use crate::communicator::names::Identifier;
use crate::communicator::signal::Watch;

const CALLER_GONE: &str = "caller-gone";

/// How many of the callers that went last are kept in mind for a subscriber that asks later.
const REMEMBERED: usize = 1024;

#[derive(Default)]
pub(super) struct Callers {
    watched: HashMap<String, Vec<Watch>>,
    gone: VecDeque<String>,
    /// Calls that subscribers here have and have not answered, by where the answer goes.
    in_hand: HashMap<(String, String), Ticket>,
}

impl Callers {
    pub(super) fn watch(&mut self, correlation: String, watch: Watch) {
        // Guards: a word that came before anybody watched.
        if self.gone.contains(&correlation) {
            watch.tell();
        } else {
            self.watched.entry(correlation).or_default().push(watch);
        }
    }

    pub(super) fn gone(&mut self, correlation: String) {
        self.watched.remove(&correlation).into_iter().flatten().for_each(Watch::tell);
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back(correlation);
    }

    pub(super) fn takes(&mut self, call: &RpcDelivery) {
        if let (Some(reply_to), Some(correlation)) = (&call.reply_to, &call.correlation_id) {
            self.in_hand.insert((reply_to.clone(), correlation.clone()), call.ticket);
        }
    }

    pub(super) fn answered(&mut self, reply_to: &str, correlation: &str) {
        self.watched.remove(correlation);
        self.in_hand.remove(&(reply_to.to_owned(), correlation.to_owned()));
    }

    /// To be refused, when nobody here can answer any more.
    pub(super) fn in_hand(&self) -> impl Iterator<Item = RpcDelivery> {
        self.in_hand.iter().map(|((reply_to, correlation), ticket)| RpcDelivery {
            ticket: *ticket,
            body: Body::Encoded(Bytes::new()),
            reply_to: Some(reply_to.clone()),
            correlation_id: Some(correlation.clone()),
        })
    }
}

/// True for the word that a caller is gone.
pub(super) fn is_caller_gone(properties: &Properties) -> bool {
    properties.text(CONTROL) == Some(CALLER_GONE)
}

impl<B: Broker> Driver<B> {
    /// Sends the word after a call that was given up.
    pub(super) fn say_caller_gone(self: &Rc<Self>, recipient: &Identifier, correlation: Uuid) {
        let Some(routing_key) = recipient.gone_key() else { return };
        let Some(link) = self.supply.now() else { return };
        let message = Message {
            exchange: self.shared.names.message_exchange.clone(),
            routing_key,
            properties: Properties { correlation_id: Some(correlation.to_string()), ..Properties::default() }
                .with_text(CONTROL, CALLER_GONE),
            body: Body::Encoded(Bytes::new()),
            routing: Routing::Optional,
            durability: Durability::Transient,
        };
        self.spawn_publish((), move |driver| async move {
            // In turn, so that it does not overtake its call.
            if let Err(error) = driver.publish_after_calls(&link, message).await {
                tracing::debug!(%error, "a recipient could not be told that its caller is gone");
            }
        });
    }
}
