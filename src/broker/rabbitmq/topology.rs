//! Exchanges, queues and bindings, on a channel of their own: the server answers a refused declaration by closing the
//! channel, which must cost no consumer anything.
//!
//! One question at a time, so that a refusal is never taken for another's. After a refusal the next question opens a new
//! channel.

use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::log::debug;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use super::errors;
use super::life::Life;
use super::link::Link;
use super::turn::Turn;
use crate::broker::{Access, AutoDelete, Durability, ExchangeSpec, QueueSpec, queue_milliseconds};
use crate::error::{Error, ErrorKind, Result};

pub(crate) struct Topology {
    link: Rc<Link>,
    life: Rc<Life>,
    address: Rc<str>,
    limit: Duration,
    channel: Turn<Option<Channel>>,
}

impl Topology {
    pub(crate) fn new(link: Rc<Link>, life: Rc<Life>, address: Rc<str>, limit: Duration) -> Self {
        Topology { link, life, address, limit, channel: Turn::new(None) }
    }

    pub(crate) async fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        let name = new_name("exchange name", &spec.name)?;
        let options = ExchangeDeclareOptions {
            durable: spec.durability == Durability::Durable,
            auto_delete: spec.auto_delete == AutoDelete::Yes,
            ..ExchangeDeclareOptions::default()
        };
        self.ask(format_args!("declare the exchange {:?}", spec.name), async |channel| {
            channel.exchange_declare(name, ExchangeKind::Topic, options, FieldTable::default()).await
        })
        .await
    }

    pub(crate) async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        let (name, options, arguments) = queue_declaration(spec)?;
        self.ask(format_args!("declare the queue {:?}", spec.name), async |channel| {
            channel.queue_declare(name, options, arguments).await.map(drop)
        })
        .await
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        let (q, e, k) =
            (name("queue name", queue)?, name("exchange name", exchange)?, short("routing key", routing_key)?);
        let what = format_args!("bind the queue {queue:?} to the exchange {exchange:?} by {routing_key:?}");
        self.ask(what, async |channel| {
            channel.queue_bind(q, e, k, QueueBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    pub(crate) async fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> Result<()> {
        let (q, e, k) =
            (name("queue name", queue)?, name("exchange name", exchange)?, short("routing key", routing_key)?);
        let what = format_args!("unbind the queue {queue:?} from the exchange {exchange:?} by {routing_key:?}");
        self.ask(what, async |channel| channel.queue_unbind(q, e, k, FieldTable::default()).await).await
    }

    pub(crate) async fn delete_queue(&self, queue: &str) -> Result<()> {
        let name = name("queue name", queue)?;
        let deleted = self
            .ask(format_args!("delete the queue {queue:?}"), async |channel| {
                channel.queue_delete(name, QueueDeleteOptions::default()).await.map(drop)
            })
            .await;
        match deleted {
            // RabbitMQ does not mind; the specification would.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Commits an empty transaction, which a broker of our own answers when everything that was done before in this virtual host, by
    /// whomever, is on its disk. To others this means nothing.
    pub(crate) async fn until_kept(&self) -> Result<()> {
        self.ask(format_args!("have it on the disk"), async |channel| {
            channel.tx_select().await?;
            channel.tx_commit().await
        })
        .await
    }

    async fn ask(
        &self,
        what: fmt::Arguments<'_>,
        question: impl AsyncFnOnce(&Channel) -> lapin::Result<()>,
    ) -> Result<()> {
        self.life.check()?;
        let what = what.to_string();
        debug!(%what, "topology");
        let answer = async |place: &mut Option<Channel>| {
            if !place.as_ref().is_some_and(|channel| channel.status().connected()) {
                *place = None;
            }
            let answer = async {
                let channel = match &mut *place {
                    Some(channel) => channel,
                    vacant => vacant.insert(self.link.open_channel().await?),
                };
                question(channel).await
            };
            match answer.await {
                Ok(()) => Ok(()),
                Err(error) => {
                    *place = None;
                    Err(settle(&self.life, &what, &error).await)
                }
            }
        };
        // What this question still holds up must not hold up the next.
        let not_answered = |place: &mut Option<Channel>| *place = None;
        let asked = async { Ok(self.channel.ask(self.limit, answer, not_answered).await) };
        let answer = self.life.until_end(pin!(asked)).await?;
        answer.unwrap_or_else(|| Err(errors::timed_out(&what, &self.address, self.limit)))
    }
}

/// What is said of a queue when it is declared.
pub(crate) fn queue_declaration(spec: &QueueSpec) -> Result<(ShortString, QueueDeclareOptions, FieldTable)> {
    let name = new_name("queue name", &spec.name)?;
    let options = QueueDeclareOptions {
        durable: spec.durability == Durability::Durable,
        exclusive: spec.access == Access::Exclusive,
        auto_delete: spec.auto_delete == AutoDelete::Yes,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    for (argument, wish) in [("x-message-ttl", spec.message_ttl), ("x-expires", spec.expires)] {
        if let Some(wish) = wish {
            arguments.insert(argument.into(), milliseconds(wish));
        }
    }
    if let Some(priorities) = spec.priorities {
        arguments.insert("x-max-priority".into(), AMQPValue::LongInt(priorities.into()));
    }
    if let Some(most) = spec.max_length {
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(most.into()));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        // Guards: a virtual host whose queues are quorum queues unless they say otherwise. Those take a few more.
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    }
    if let Some(queue) = &spec.dead_letter_to {
        arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
        arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(queue.as_str().into()));
    }
    Ok((name, options, arguments))
}

/// How long the end of a connection may take to be reported after its channels have shown it.
const REPORTED: Duration = Duration::from_millis(500);

/// An operation's error: the connection's, where that is what ended.
pub(crate) async fn settle(life: &Life, what: &str, error: &lapin::Error) -> Error {
    let own = errors::operation(what, error);
    if !errors::ends_a_channel(error) {
        return life.over_or(own);
    }
    if errors::finds_no_channel(error) {
        // Guards: a connection that is being lost. lapin ends its channels before it reports that, and whoever asked would take
        // the loss for a fault of the question.
        let waited = pin!(async {
            tokio::time::sleep(REPORTED).await;
            Ok(())
        });
        if let Err(lost) = life.until_end(waited).await {
            return lost;
        }
    }
    own
}

/// The name of something that is there. The empty one means to a server whatever was named last, or that it is to choose.
pub(crate) fn name(what: &str, text: &str) -> Result<ShortString> {
    if text.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the {what} is empty; AMQP gives that a meaning of its own, which homing never wants"),
        ));
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the {what} {text:?} has the control character {control:?} in it"),
        ));
    }
    short(what, text)
}

/// The name of something that is to be made.
fn new_name(what: &str, text: &str) -> Result<ShortString> {
    if text.starts_with("amq.") {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("the {what} {text:?} begins with `amq.`, which AMQP keeps for the server's own"),
        ));
    }
    name(what, text)
}

/// How many bytes AMQP's short strings hold.
const SHORT: usize = 255;

/// A short string.
pub(crate) fn short(what: &str, text: impl Into<String>) -> Result<ShortString> {
    let text = text.into();
    if text.len() <= SHORT {
        return Ok(ShortString::from(text));
    }
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!(
            "the {what} has {} bytes; AMQP allows {SHORT} (it begins {:?})",
            text.len(),
            text.chars().take(40).collect::<String>()
        ),
    ))
}

/// As kiwipy sends it: a signed 32-bit integer where it fits, else 64 bits. RabbitMQ compares values, not widths.
fn milliseconds(wish: Duration) -> AMQPValue {
    let wish = queue_milliseconds(wish);
    i32::try_from(wish).map_or_else(|_| AMQPValue::LongLongInt(wish.into()), AMQPValue::LongInt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_queues_saturate_at_what_rabbitmq_takes() {
        assert_eq!(milliseconds(Duration::from_secs(66)), AMQPValue::LongInt(66_000));
        for longest in [Duration::from_millis(u32::MAX.into()), Duration::from_secs(u64::MAX), Duration::MAX] {
            assert_eq!(milliseconds(longest), AMQPValue::LongLongInt(u32::MAX.into()), "{longest:?}");
        }
    }

    #[test]
    fn names_with_a_meaning_of_their_own_are_refused_before_anything_is_sent() {
        let long = "x".repeat(256);
        for text in ["", "a\0", "a\nb", "\u{7f}", "\u{85}", long.as_str()] {
            let error = name("consumer tag", text).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.to_string().contains("consumer tag"), "{error}");
        }
        assert!(new_name("queue name", "amq.gen-x").is_err(), "the server's own");
        assert!(name("exchange name", "amq.topic").is_ok(), "it is there");
        for text in ["a b", "a.b.c", " ", "ünï", "#", "*", "amq", "x".repeat(255).as_str()] {
            assert!(new_name("queue name", text).is_ok(), "{text}");
        }
    }
}
