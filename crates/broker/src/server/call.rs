//! One method on one channel: where it is handled and what it needs for that.

use super::{
    accounts::{Permit, Right},
    channel::Channel,
    confirms::Confirms,
    content::Content,
    exception::{Exception, Result},
    host::Host,
    peer::Peer,
};
use crate::engine::{ChannelId, Engine, Object, Refusal, SessionId};
use crate::protocol::{
    Method, ReplyCode, frame,
    methods::{Encode, access, channel},
};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// A method on a channel. The methods of each class are in a file of [`methods`](super::methods).
pub(super) struct Call<'c> {
    pub(super) peer: &'c Rc<Peer>,
    pub(super) host: &'c Host,
    /// What the user may do in the virtual host.
    pub(super) permit: &'c Permit,
    pub(super) session: SessionId,
    /// Channels of this connection with something to confirm.
    pub(super) confirming: &'c mut Vec<Rc<Confirms>>,
    pub(super) number: u16,
    pub(super) channel: &'c mut Channel,
    pub(super) now: Instant,
    /// The answer, as frames, where it waits for the disk.
    pub(super) held: Option<Vec<u8>>,
}

impl Call<'_> {
    /// What the engine knows the channel by.
    pub(super) fn id(&self) -> ChannelId {
        ChannelId(self.number.into())
    }

    /// Answers with a method.
    pub(super) fn answer<M: Encode>(&self, method: &M) {
        self.peer.send(self.number, method);
    }

    /// Answers, unless the client wants no answer.
    pub(super) fn answer_unless<M: Encode>(&self, no_wait: bool, method: &M) {
        if !no_wait {
            self.answer(method);
        }
    }

    /// Answers, unless the client wants no answer, when what was done is on the disk. It is the method's last answer.
    pub(super) fn answer_when_safe<M: Encode>(&mut self, no_wait: bool, method: &M) {
        if !no_wait {
            let mut frames = Vec::new();
            frame::write_method(&mut frames, self.number, method);
            self.held = Some(frames);
        }
    }

    /// Makes a request of the engine, without what comes of it: for answers that come before deliveries.
    pub(super) fn ask<T>(
        &self,
        request: impl FnOnce(&mut Engine<Content>) -> std::result::Result<T, Refusal>,
    ) -> Result<T> {
        self.host.engine(request).map_err(|refusal| Exception::refused(&refusal, &self.host.name))
    }

    /// Makes a request of the engine and sends what comes of it.
    pub(super) fn request<T>(
        &self,
        request: impl FnOnce(&mut Engine<Content>) -> std::result::Result<T, Refusal>,
    ) -> Result<T> {
        let answer = self.ask(request);
        self.host.settle();
        answer
    }

    /// # Errors
    /// The user may not do this to a queue or an exchange of this name.
    #[inline]
    pub(super) fn may(&self, right: Right, object: Object, name: &str) -> Result<()> {
        self.permit.check(right, object, name, &self.host.name)
    }

    /// The queue that a name stands for: an empty one is the queue that was declared last.
    pub(super) fn queue(&self, name: &str) -> Result<Arc<str>> {
        if !name.is_empty() {
            return Ok(Arc::from(name));
        }
        let none = || Exception::new(ReplyCode::NotFound, "no previously declared queue");
        self.channel.last_queue.clone().ok_or_else(none)
    }

    pub(super) fn method(&mut self, method: &Method<'_>) -> Result<()> {
        match method {
            Method::BasicPublish(method) => self.begin_publish(method),
            Method::BasicAck(method) => self.ack(method),
            Method::BasicNack(method) => self.nack(method),
            Method::BasicReject(method) => self.reject(method),
            Method::BasicGet(method) => self.get(method),
            Method::BasicConsume(method) => self.consume(method),
            Method::BasicCancel(method) => self.cancel(method),
            Method::BasicQos(method) => self.qos(method),
            Method::BasicRecover(method) => self.recover(method),
            Method::BasicRecoverAsync(method) => self.recover_async(method),
            Method::QueueDeclare(method) => self.declare_queue(method),
            Method::QueueBind(method) => self.bind_queue(method),
            Method::QueueUnbind(method) => self.unbind_queue(method),
            Method::QueuePurge(method) => self.purge_queue(method),
            Method::QueueDelete(method) => self.delete_queue(method),
            Method::ExchangeDeclare(method) => self.declare_exchange(method),
            Method::ExchangeDelete(method) => self.delete_exchange(method),
            Method::ExchangeBind(method) => self.bind_exchange(method),
            Method::ExchangeUnbind(method) => self.unbind_exchange(method),
            Method::ConfirmSelect(method) => self.select_confirms(method),
            Method::TxSelect(_) => self.select_transaction(),
            Method::TxCommit(_) => self.commit(),
            Method::TxRollback(_) => self.roll_back(),
            Method::ChannelFlow(channel::Flow { active: true }) => {
                self.answer(&channel::FlowOk { active: true });
                Ok(())
            }
            Method::ChannelFlow(channel::Flow { active: false }) => {
                Err(Exception::new(ReplyCode::NotImplemented, "active=false"))
            }
            Method::AccessRequest(_) => {
                self.answer(&access::RequestOk { ticket: 1 });
                Ok(())
            }
            _ => Err(Exception::new(ReplyCode::CommandInvalid, "unimplemented method")),
        }
    }
}
