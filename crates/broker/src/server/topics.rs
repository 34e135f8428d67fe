//! Permissions on topics: by which routing keys a user may publish to a topic exchange and bind to it.

use super::{
    accounts::{Permit, Topic},
    content::Content,
    exception::Result,
    host::Host,
};
use crate::engine::{ExchangeKind, Message};

/// # Errors
/// The exchange is a topic exchange, and the user may not use one of these keys of it. One that is not there is refused elsewhere.
#[inline]
pub(super) fn check<'k>(
    permit: &Permit,
    host: &Host,
    right: Topic,
    exchange: &str,
    keys: impl IntoIterator<Item = &'k str>,
) -> Result<()> {
    let is_topic =
        || host.engine(|engine| engine.exchange(exchange).is_some_and(|exchange| exchange.kind == ExchangeKind::Topic));
    if !permit.has_topics() || !is_topic() {
        return Ok(());
    }
    keys.into_iter().try_for_each(|key| permit.check_topic(right, exchange, key, &host.name))
}

/// # Errors
/// The user may not publish to the exchange by one of the message's keys. Those of `CC` and `BCC` count too: it goes by them as well.
#[inline]
pub(super) fn check_message(permit: &Permit, host: &Host, message: &Content) -> Result<()> {
    if !permit.has_topics() {
        return Ok(());
    }
    // An exchange that does not take it says so first, as in RabbitMQ.
    host.check_exchange(message.exchange())?;
    let further = message.cc().iter().chain(message.bcc()).map(|key| &**key);
    check(permit, host, Topic::Write, message.exchange(), std::iter::once(message.routing_key()).chain(further))
}
