//! What a user does to a virtual host without a connection: the same requests of the engine, with the same permissions and
//! refusals, in a session that ends with the request.

use crate::engine::{
    Acknowledge, Binding, ChannelId, DeleteExchange, DeleteQueue, Destination, Engine, ExchangeSpec, Field,
    Message as _, Nack, Object, Published, QueueSpec, Refusal, SessionId, Tags,
};
use crate::protocol::{ContentHeader, Properties, ReplyCode, Table};
use crate::server::{
    accounts::{Permit, Right, Topic},
    connection::check_user,
    content::{Content, Facts, Unfinished},
    exception::{Exception, Result},
    host::Host,
    shared::Shared,
    topics,
};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// Who acts, and where.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    pub(super) user: Arc<str>,
    pub(super) host: String,
}

/// A session for one request.
pub(super) struct Acting {
    user: Arc<str>,
    host: Rc<Host>,
    permit: Rc<Permit>,
    session: SessionId,
    now: Instant,
}

/// The only channel of such a session.
const CHANNEL: ChannelId = ChannelId(1);

/// A message that is to be published.
#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing {
    pub(super) exchange: String,
    pub(super) key: String,
    /// The payload of a content header, for a body of this length.
    pub(super) header: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// What becomes of messages that are only to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// They are acknowledged, and gone.
    Acknowledge,
    /// They go back to their places.
    Requeue,
    /// They go where refused messages go.
    Discard,
}

/// A message that was got.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub(super) exchange: String,
    pub(super) key: String,
    pub(super) is_redelivered: bool,
    /// How many wait behind it.
    pub(super) left: usize,
    pub(super) header: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Acting {
    /// Begins a session, does something in it, and ends it.
    ///
    /// # Errors
    /// No such virtual host (404), a user without permission for it (403), and what the work refuses.
    pub(super) fn run<T>(server: &Shared, actor: &Actor, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let name = &actor.host;
        let missing = || Exception::new(ReplyCode::NotFound, format!("vhost {name} not found"));
        let host = server.host(name).ok_or_else(missing)?;
        let refused = || {
            let text = format!("access to vhost '{name}' refused for user '{}'", actor.user);
            Exception::new(ReplyCode::AccessRefused, text)
        };
        let permit = server.accounts.permit(&actor.user, name).ok_or_else(refused)?;
        let now = Instant::now();
        let session = host.engine(|engine| engine.connect(now));
        let acting = Self { user: actor.user.clone(), host, permit, session, now };
        let done = acting.request(|engine| engine.open_channel(session, CHANNEL, now)).and_then(|()| work(&acting));
        acting.host.disconnect(session, now);
        acting.host.submit();
        done
    }

    fn request<T>(&self, request: impl FnOnce(&mut Engine<Content>) -> std::result::Result<T, Refusal>) -> Result<T> {
        self.host.request(request).map_err(|refusal| Exception::refused(&refusal, &self.host.name))
    }

    fn may(&self, right: Right, object: Object, name: &str) -> Result<()> {
        self.permit.check(right, object, name, &self.host.name)
    }

    pub(super) fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        self.may(Right::Configure, Object::Queue, &spec.name)?;
        if let Some(exchange) = spec.arguments.get("x-dead-letter-exchange").and_then(Field::as_text)
            && self.host.engine(|engine| engine.queue(&spec.name).is_none())
        {
            self.may(Right::Read, Object::Queue, &spec.name)?;
            self.may(Right::Write, Object::Exchange, exchange)?;
        }
        self.request(|engine| engine.declare_queue(self.session, spec, self.now)).map(drop)
    }

    pub(super) fn delete_queue(&self, name: &str, conditions: DeleteQueue) -> Result<()> {
        self.may(Right::Configure, Object::Queue, name)?;
        self.request(|engine| engine.check_queue(self.session, name, self.now))?;
        self.request(|engine| engine.delete_queue(self.session, name, conditions, self.now)).map(drop)
    }

    pub(super) fn purge_queue(&self, name: &str) -> Result<()> {
        self.may(Right::Read, Object::Queue, name)?;
        self.request(|engine| engine.purge_queue(self.session, name, self.now)).map(drop)
    }

    pub(super) fn declare_exchange(&self, spec: &ExchangeSpec) -> Result<()> {
        if spec.name.is_empty() {
            return Err(Exception::refused(&Refusal::DefaultExchange, &self.host.name));
        }
        self.may(Right::Configure, Object::Exchange, &spec.name)?;
        if let Some(alternate) = spec.arguments.get("alternate-exchange").and_then(Field::as_text)
            && self.host.engine(|engine| engine.exchange(&spec.name).is_none())
        {
            self.may(Right::Read, Object::Exchange, &spec.name)?;
            self.may(Right::Write, Object::Exchange, alternate)?;
        }
        self.request(|engine| engine.declare_exchange(self.session, spec, self.now))
    }

    pub(super) fn delete_exchange(&self, name: &str, condition: DeleteExchange) -> Result<()> {
        self.may(Right::Configure, Object::Exchange, name)?;
        self.request(|engine| engine.check_exchange(self.session, name, self.now))?;
        self.request(|engine| engine.delete_exchange(self.session, name, condition, self.now))
    }

    pub(super) fn bind(&self, binding: &Binding) -> Result<()> {
        self.may_bind(binding)?;
        self.request(|engine| engine.bind(self.session, binding, self.now))
    }

    pub(super) fn unbind(&self, binding: &Binding) -> Result<()> {
        self.may_bind(binding)?;
        self.request(|engine| engine.unbind(self.session, binding, self.now))
    }

    fn may_bind(&self, binding: &Binding) -> Result<()> {
        match &binding.destination {
            Destination::Queue(name) => self.may(Right::Write, Object::Queue, name)?,
            Destination::Exchange(name) => self.may(Right::Write, Object::Exchange, name)?,
        }
        self.may(Right::Read, Object::Exchange, &binding.source)?;
        topics::check(&self.permit, &self.host, Topic::Read, &binding.source, [&*binding.key])
    }

    /// Publishes. Whether a queue has taken it.
    pub(super) fn publish(&self, outgoing: Outgoing) -> Result<bool> {
        self.may(Right::Write, Object::Exchange, &outgoing.exchange)?;
        self.host.check_exchange(&outgoing.exchange)?;
        let header = ContentHeader::read(&outgoing.header)?;
        check_user(&header, &self.user, &self.permit)?;
        let facts = Facts::read(&header.properties)?;
        let mut unfinished = Unfinished::new(&outgoing.header, facts, outgoing.body.len() as u64);
        unfinished.push(&outgoing.body);
        let message = unfinished.finish(outgoing.exchange.into(), outgoing.key.into(), self.host.shelf());
        topics::check_message(&self.permit, &self.host, &message)?;
        let published = self.request(|engine| engine.publish(self.session, message, self.now))?;
        Ok(matches!(published, Published::Routed { .. }))
    }

    /// Takes messages out of a queue, copies them, and does with them what was asked for.
    pub(super) fn get(&self, queue: &str, count: usize, most: usize, afterwards: Afterwards) -> Result<Vec<Incoming>> {
        self.may(Right::Read, Object::Queue, queue)?;
        let mut messages = Vec::new();
        let mut bytes = 0;
        while messages.len() < count && bytes < most {
            let got = self.request(|engine| engine.get(self.session, CHANNEL, queue, Acknowledge::Manual, self.now))?;
            let Some(got) = got else { break };
            let message = &got.handed.message;
            bytes += message.body().len();
            messages.push(Incoming {
                exchange: message.exchange().to_owned(),
                key: message.routing_key().to_owned(),
                is_redelivered: got.handed.redelivered,
                left: got.left,
                header: message.header().to_vec(),
                body: message.body().to_vec(),
            });
        }
        if !messages.is_empty() {
            let all = Tags::UpTo(0);
            self.request(|engine| match afterwards {
                Afterwards::Acknowledge => engine.ack(self.session, CHANNEL, all, self.now),
                Afterwards::Requeue => engine.nack(self.session, CHANNEL, all, Nack::Requeue, self.now),
                Afterwards::Discard => engine.nack(self.session, CHANNEL, all, Nack::Discard, self.now),
            })?;
        }
        Ok(messages)
    }
}

/// The content header of a message with these properties.
pub(super) fn header(properties: Properties<'_>, headers: Option<&[u8]>, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let properties = Properties { headers: headers.map(Table::unchecked), ..properties };
    ContentHeader { body_size: body.len() as u64, properties }.write(&mut bytes);
    bytes
}
