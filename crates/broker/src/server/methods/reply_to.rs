//! Direct replies: a client consumes from `amq.rabbitmq.reply-to`, publishes with that as `reply_to`, and receivers get an
//! address in its place that leads to this client's channel and cannot be guessed.
//!
//! Behind each such consumer is a queue of its own that nobody else sees: so replies are routed, returned when nobody is
//! there, and held back from a client that does not read, as all other messages are.

use crate::engine::{Access, Acknowledge, AutoDelete, ConsumeSpec, Durability, Naming, QueueSpec};
use crate::protocol::{ContentHeader, Properties, methods::basic};
use crate::server::{
    call::Call,
    channel::{Channel, Replies},
    exception::{Exception, Result},
    names,
};
use std::sync::Arc;

/// What clients consume from and give as the address for replies.
pub(super) const PSEUDO_QUEUE: &str = "amq.rabbitmq.reply-to";

/// Whether the queue of this name is behind such a consumer.
pub(in crate::server) fn is_address(queue: &str) -> bool {
    queue.strip_prefix(PSEUDO_QUEUE).is_some_and(|rest| rest.starts_with('.'))
}

impl Call<'_> {
    pub(super) fn consume_replies(&mut self, consume: &basic::Consume<'_>, tag: &Arc<str>) -> Result<()> {
        if self.channel.replies.is_some() {
            return Err(Exception::precondition("reply consumer already set"));
        }
        if !consume.no_ack {
            return Err(Exception::precondition("reply consumer cannot acknowledge"));
        }
        let queue: Arc<str> = names::generate("amq.rabbitmq.reply-to.").into();
        let spec = QueueSpec {
            naming: Naming::Server,
            durability: Durability::Transient,
            // Whoever replies may ask whether the address is still there, so it is not exclusive.
            access: Access::Shared,
            auto_delete: AutoDelete::Yes,
            ..QueueSpec::new(&queue)
        };
        self.ask(|engine| engine.declare_queue(self.session, &spec, self.now))?;
        let consumer = ConsumeSpec {
            acknowledge: Acknowledge::None,
            access: Access::Exclusive,
            ..ConsumeSpec::new(&queue, self.id(), tag)
        };
        self.start_consumer(&consumer, consume.no_wait)?;
        self.channel.replies = Some(Replies { tag: tag.clone(), queue });
        Ok(())
    }
}

impl Channel {
    /// The content header with the real address for replies, if it asks for one.
    ///
    /// # Errors
    /// The channel has no consumer for replies: 406.
    pub(in crate::server) fn readdressed(&self, header: &ContentHeader<'_>) -> Result<Option<Vec<u8>>> {
        let bcc = header.properties.headers.and_then(|headers| headers.get("BCC")).is_some();
        let reply = header.properties.reply_to == Some(PSEUDO_QUEUE.as_bytes());
        if !reply && !bcc {
            return Ok(None);
        }
        let mut properties = header.properties;
        if reply {
            let none = || Exception::precondition("fast reply consumer does not exist");
            properties.reply_to = Some(self.replies.as_ref().ok_or_else(none)?.queue.as_bytes());
        }
        let headers = crate::server::content::without(properties.headers, &[b"BCC"]);
        if bcc {
            properties = Properties { headers: Some(crate::protocol::Table::unchecked(&headers)), ..properties };
        }
        let mut bytes = Vec::new();
        ContentHeader { body_size: header.body_size, properties }.write(&mut bytes);
        Ok(Some(bytes))
    }
}
