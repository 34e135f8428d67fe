//! Messages that come in.

use crate::engine::{Message, Object, Published};
use crate::protocol::{ReplyCode, methods::basic};
use crate::server::{
    accounts::Right,
    call::Call,
    channel::{Expected, Mode, Publish},
    confirms::Outcome,
    content::{Content, Unfinished},
    exception::{Exception, Result},
    topics,
};
use std::rc::Rc;
use std::sync::Arc;

impl Call<'_> {
    pub(in crate::server) fn begin_publish(&mut self, publish: &basic::Publish<'_>) -> Result<()> {
        if publish.immediate {
            return Err(Exception::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        self.may(Right::Write, Object::Exchange, publish.exchange)?;
        let exchange = self.channel.exchange(publish.exchange);
        let key = Arc::from(publish.routing_key);
        self.channel.expected = Expected::Header(Publish { exchange, key, is_mandatory: publish.mandatory });
        Ok(())
    }

    /// A message is complete.
    pub(in crate::server) fn publish(&mut self, publish: Publish, unfinished: Unfinished) -> Result<()> {
        let message = unfinished.finish(publish.exchange, publish.key, self.host.shelf());
        topics::check_message(self.permit, self.host, &message)?;
        if let Mode::Transaction(transaction) = &mut self.channel.mode {
            self.host.check_exchange(message.exchange())?;
            transaction.publish(message, publish.is_mandatory);
            return Ok(());
        }
        let routed = self.route(message)?;
        if let Mode::Confirm(confirms) = &self.channel.mode {
            match routed {
                Routed::Nowhere(message) if publish.is_mandatory => confirms.add_returned(|| self.give_back(&message)),
                Routed::Nowhere(_) => confirms.add(Outcome::Safe),
                Routed::To(outcome) => confirms.add(outcome),
            }
            if !self.confirming.last().is_some_and(|known| Rc::ptr_eq(known, confirms)) {
                self.confirming.push(confirms.clone());
            }
        } else if let Routed::Nowhere(message) = routed
            && publish.is_mandatory
        {
            self.give_back(&message);
        }
        Ok(())
    }

    /// Puts a message into its queues.
    pub(super) fn route(&self, message: Content) -> Result<Routed> {
        let published = self.request(|engine| engine.publish(self.session, message, self.now))?;
        Ok(match published {
            Published::Routed { stored: Some(_) } => Routed::To(self.host.when_safe()),
            Published::Routed { stored: None } => Routed::To(Outcome::Safe),
            Published::Rejected => Routed::To(Outcome::Refused),
            Published::Unroutable(message) => Routed::Nowhere(message),
        })
    }

    /// Returns a message that no queue took.
    pub(super) fn give_back(&self, message: &Content) {
        let code = ReplyCode::NoRoute;
        let returned = basic::Return {
            reply_code: code.number(),
            reply_text: code.name(),
            exchange: message.exchange(),
            routing_key: message.routing_key(),
        };
        self.peer.send_content(self.number, &returned, message.header(), message.body());
    }
}

/// Where a message went.
pub(super) enum Routed {
    /// To a queue, at least.
    To(Outcome),
    /// To none.
    Nowhere(Content),
}
