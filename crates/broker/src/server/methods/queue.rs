//! Queues and what binds them to exchanges.

use super::{RESERVED, reply_to, without_line_ends};
use crate::engine::{
    Access, AutoDelete, Binding, Declared, DeleteQueue, Destination, Durability, Field, Naming, Object, QueueSpec,
};
use crate::protocol::{Table, methods::queue};
use crate::server::{
    accounts::{Right, Topic},
    arguments::arguments,
    call::Call,
    exception::Result,
    names, topics,
};
use std::sync::Arc;

impl Call<'_> {
    pub(in crate::server) fn declare_queue(&mut self, declare: &queue::Declare<'_>) -> Result<()> {
        let given = without_line_ends(declare.queue);
        let (name, declared) = if given == reply_to::PSEUDO_QUEUE {
            (Arc::from(given), Declared { messages: 0, consumers: 1 })
        } else if declare.passive {
            let declared = self.request(|engine| engine.check_queue(self.session, &given, self.now))?;
            (Arc::from(given), declared)
        } else {
            let (name, naming) = match &*given {
                "" => (names::generate("amq.gen-"), Naming::Server),
                _ => (given, Naming::Client),
            };
            let spec = QueueSpec {
                name: name.into(),
                naming,
                durability: if declare.durable { Durability::Durable } else { Durability::Transient },
                access: if declare.exclusive { Access::Exclusive } else { Access::Shared },
                auto_delete: if declare.auto_delete { AutoDelete::Yes } else { AutoDelete::No },
                arguments: arguments(declare.arguments),
            };
            self.may_declare_queue(&spec)?;
            let declared = self.request(|engine| engine.declare_queue(self.session, &spec, self.now))?;
            (spec.name, declared)
        };
        let answer = queue::DeclareOk {
            queue: &name,
            message_count: count(declared.messages),
            consumer_count: count(declared.consumers),
        };
        self.answer_unless(declare.no_wait, &answer);
        self.channel.last_queue = Some(name);
        Ok(())
    }

    /// A new queue whose messages go on somewhere else gives them there, as who reads them does.
    fn may_declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        let is_new = || self.host.engine(|engine| engine.queue(&spec.name).is_none());
        if spec.naming == Naming::Client && spec.name.starts_with(RESERVED) && is_new() {
            // Refused to everybody, and in other words.
            return Ok(());
        }
        self.may(Right::Configure, Object::Queue, &spec.name)?;
        if let Some(exchange) = spec.arguments.get("x-dead-letter-exchange").and_then(Field::as_text)
            && is_new()
        {
            self.may(Right::Read, Object::Queue, &spec.name)?;
            self.may(Right::Write, Object::Exchange, exchange)?;
        }
        Ok(())
    }

    pub(in crate::server) fn bind_queue(&mut self, bind: &queue::Bind<'_>) -> Result<()> {
        let binding = self.queue_binding(bind.exchange, bind.queue, bind.routing_key, bind.arguments)?;
        self.request(|engine| engine.bind(self.session, &binding, self.now))?;
        self.answer_unless(bind.no_wait, &queue::BindOk {});
        Ok(())
    }

    pub(in crate::server) fn unbind_queue(&mut self, unbind: &queue::Unbind<'_>) -> Result<()> {
        let binding = self.queue_binding(unbind.exchange, unbind.queue, unbind.routing_key, unbind.arguments)?;
        self.request(|engine| engine.unbind(self.session, &binding, self.now))?;
        self.answer(&queue::UnbindOk {});
        Ok(())
    }

    fn queue_binding(&self, exchange: &str, queue: &str, key: &str, table: Table<'_>) -> Result<Binding> {
        let name = self.queue(queue)?;
        self.may(Right::Write, Object::Queue, &name)?;
        // What is done to the default exchange is refused to everybody, and in other words.
        if !exchange.is_empty() {
            self.may(Right::Read, Object::Exchange, exchange)?;
        }
        // The specification: without either name, the queue that was declared last is bound under its own name.
        let key = if queue.is_empty() && key.is_empty() { name.clone() } else { key.into() };
        topics::check(self.permit, self.host, Topic::Read, exchange, [&*key])?;
        Ok(Binding { source: exchange.into(), destination: Destination::Queue(name), key, arguments: arguments(table) })
    }

    pub(in crate::server) fn purge_queue(&mut self, purge: &queue::Purge<'_>) -> Result<()> {
        let name = self.queue(purge.queue)?;
        self.may(Right::Read, Object::Queue, &name)?;
        let purged = self.request(|engine| engine.purge_queue(self.session, &name, self.now))?;
        self.answer_when_safe(purge.no_wait, &queue::PurgeOk { message_count: count(purged) });
        Ok(())
    }

    pub(in crate::server) fn delete_queue(&mut self, delete: &queue::Delete<'_>) -> Result<()> {
        let name = self.queue(delete.queue)?;
        self.may(Right::Configure, Object::Queue, &name)?;
        let conditions = DeleteQueue { if_unused: delete.if_unused, if_empty: delete.if_empty };
        // The answer comes before the notice to consumers on the same connection, as RabbitMQ has it.
        let deleted = self.ask(|engine| engine.delete_queue(self.session, &name, conditions, self.now));
        if let Ok(deleted) = deleted {
            self.answer_unless(delete.no_wait, &queue::DeleteOk { message_count: count(deleted) });
        }
        self.host.settle();
        deleted.map(|_| ())
    }
}

/// Counts have 32 bits in the protocol.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
