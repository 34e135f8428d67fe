//! Messages that go out.

use super::{queue::count, reply_to};
use crate::engine::{Access, Acknowledge, ConsumeSpec, Message, Object, Prefetch, Problem, Refusal};
use crate::protocol::{ReplyCode, Table, methods::basic};
use crate::server::{
    accounts::Right,
    call::Call,
    exception::{Exception, Result},
    names,
};
use std::sync::Arc;

impl Call<'_> {
    pub(in crate::server) fn consume(&mut self, consume: &basic::Consume<'_>) -> Result<()> {
        let tag: Arc<str> = match consume.consumer_tag {
            "" => names::generate("amq.ctag-").into(),
            tag => tag.into(),
        };
        if consume.queue == reply_to::PSEUDO_QUEUE {
            return self.consume_replies(consume, &tag);
        }
        let queue = self.queue(consume.queue)?;
        self.may(Right::Read, Object::Queue, &queue)?;
        let spec = ConsumeSpec {
            tag,
            channel: self.id(),
            acknowledge: acknowledge(consume.no_ack),
            access: if consume.exclusive { Access::Exclusive } else { Access::Shared },
            priority: self.priority(&queue, consume.arguments)?,
            prefetch: None,
            queue,
        };
        self.start_consumer(&spec, consume.no_wait)
    }

    /// Starts a consumer. The client knows of it before its first delivery.
    pub(super) fn start_consumer(&self, spec: &ConsumeSpec, no_wait: bool) -> Result<()> {
        let started = self.ask(|engine| engine.consume(self.session, spec, self.now));
        if started.is_ok() {
            self.answer_unless(no_wait, &basic::ConsumeOk { consumer_tag: &spec.tag });
        }
        self.host.settle();
        started
    }

    fn priority(&self, queue: &Arc<str>, table: Table<'_>) -> Result<i32> {
        const ARGUMENT: &str = "x-priority";
        let Some(value) = table.get(ARGUMENT) else { return Ok(0) };
        match value.as_i64() {
            // What is beyond the range is as good as its end.
            Some(priority) => Ok(priority.clamp(i32::MIN.into(), i32::MAX.into()) as i32),
            None => {
                let refusal = Refusal::BadArgument {
                    object: Object::Queue,
                    name: queue.clone(),
                    argument: ARGUMENT.into(),
                    problem: Problem::NotAnInteger(value.type_name()),
                };
                Err(Exception::refused(&refusal, &self.host.name))
            }
        }
    }

    pub(in crate::server) fn cancel(&mut self, cancel: &basic::Cancel<'_>) -> Result<()> {
        self.request(|engine| engine.cancel(self.session, self.id(), cancel.consumer_tag, self.now))?;
        if self.channel.replies.as_ref().is_some_and(|replies| *replies.tag == *cancel.consumer_tag) {
            self.channel.replies = None;
        }
        self.answer_unless(cancel.no_wait, &basic::CancelOk { consumer_tag: cancel.consumer_tag });
        Ok(())
    }

    pub(in crate::server) fn get(&mut self, get: &basic::Get<'_>) -> Result<()> {
        let queue = self.queue(get.queue)?;
        self.may(Right::Read, Object::Queue, &queue)?;
        let acknowledge = acknowledge(get.no_ack);
        let got = self.request(|engine| engine.get(self.session, self.id(), &queue, acknowledge, self.now))?;
        let Some(got) = got else {
            self.answer(&basic::GetEmpty {});
            return Ok(());
        };
        let answer = basic::GetOk {
            delivery_tag: got.handed.tag,
            redelivered: got.handed.redelivered,
            exchange: got.handed.message.exchange(),
            routing_key: got.handed.message.routing_key(),
            message_count: count(got.left),
        };
        self.peer.send_handed(self.number, &answer, &got.handed.message, got.handed.returns);
        Ok(())
    }

    pub(in crate::server) fn qos(&mut self, qos: &basic::Qos) -> Result<()> {
        if qos.prefetch_size != 0 {
            let text = format!("prefetch_size!=0 ({})", qos.prefetch_size);
            return Err(Exception::new(ReplyCode::NotImplemented, text));
        }
        let count = qos.prefetch_count;
        let prefetch = if qos.global { Prefetch::Channel(count) } else { Prefetch::EachConsumer(count) };
        let set = self.ask(|engine| engine.qos(self.session, self.id(), prefetch, self.now));
        if set.is_ok() {
            self.answer(&basic::QosOk {});
        }
        self.host.settle();
        set
    }
}

fn acknowledge(no_ack: bool) -> Acknowledge {
    if no_ack { Acknowledge::None } else { Acknowledge::Manual }
}
