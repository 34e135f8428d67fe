//! Exchanges and queues: declaring and deleting.

use std::sync::Arc;
use std::time::Instant;

use super::effect::{Definition, Effect};
use super::exchange::{Exchange, ExchangeKey, Target};
use super::field::Field;
use super::message::Message;
use super::queue::{Queue, QueueKey};
use super::refusal::{Object, Problem, Refusal};
use super::settings::{Settings, first_difference};
use super::spec::{
    Access, AutoDelete, Declared, DeleteExchange, DeleteQueue, Durability, ExchangeSpec, Naming, Publishers, QueueSpec,
};
use super::{Engine, Result, SessionId};

const ALTERNATE: &str = "alternate-exchange";

impl<M: Message> Engine<M> {
    /// Declares an exchange. One that exists has to be the same.
    ///
    /// # Errors
    /// [`Refusal::Differs`], [`Refusal::Reserved`], [`Refusal::DefaultExchange`], [`Refusal::BadArgument`].
    pub fn declare_exchange(&mut self, session: SessionId, spec: &ExchangeSpec, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        if spec.name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let Some(known) = self.exchange_names.get(&spec.name).and_then(|key| self.exchanges.get(*key)) else {
            if is_reserved(&spec.name) {
                return Err(Refusal::Reserved { object: Object::Exchange, name: Arc::clone(&spec.name) });
            }
            check_alternate(spec)?;
            self.add_exchange(spec.clone());
            if spec.durability == Durability::Durable {
                self.effects.push(Effect::Defined(Definition::Exchange(spec.clone())));
            }
            return Ok(());
        };
        let known = &known.spec;
        compare_properties(
            Object::Exchange,
            &spec.name,
            [
                ("type", Field::text(known.kind.as_str()), Field::text(spec.kind.as_str())),
                ("durable", durable(known.durability), durable(spec.durability)),
                ("auto_delete", auto_delete(known.auto_delete), auto_delete(spec.auto_delete)),
                ("internal", internal(known.publishers), internal(spec.publishers)),
            ],
        )?;
        let (have, want) = (known.arguments.get(ALTERNATE), spec.arguments.get(ALTERNATE));
        let same = match (have, want) {
            (Some(have), Some(want)) => have.is_equivalent(want),
            (have, want) => have == want,
        };
        if same { Ok(()) } else { Err(differs(Object::Exchange, &spec.name, ALTERNATE, have, want)) }
    }

    /// Whether there is such an exchange: a passive declaration.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn check_exchange(&mut self, session: SessionId, name: &str, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        self.exchange_of(name).map(drop)
    }

    /// Deletes an exchange and its bindings. One that is not there is deleted already.
    ///
    /// # Errors
    /// [`Refusal::InUse`], [`Refusal::Reserved`], [`Refusal::DefaultExchange`].
    pub fn delete_exchange(
        &mut self,
        session: SessionId,
        name: &str,
        condition: DeleteExchange,
        now: Instant,
    ) -> Result<()> {
        self.begin(session, now)?;
        if name.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        if is_reserved(name) {
            return Err(Refusal::Reserved { object: Object::Exchange, name: name.into() });
        }
        let Ok(key) = self.exchange_of(name) else { return Ok(()) };
        let used = self.exchanges.get(key).is_some_and(Exchange::is_used);
        if condition == DeleteExchange::IfUnused && used {
            return Err(Refusal::InUse { object: Object::Exchange, name: name.into() });
        }
        self.remove_exchange(key);
        Ok(())
    }

    /// Declares a queue. One that exists has to be the same; to declare it is to use it.
    ///
    /// # Errors
    /// [`Refusal::Differs`], [`Refusal::Locked`], [`Refusal::Reserved`], [`Refusal::BadArgument`], [`Refusal::BadProperty`].
    pub fn declare_queue(&mut self, session: SessionId, spec: &QueueSpec, now: Instant) -> Result<Declared> {
        self.begin(session, now)?;
        let Some(key) = self.queue_names.get(&spec.name).copied() else {
            self.new_queue(session, spec)?;
            return Ok(Declared { messages: 0, consumers: 0 });
        };
        self.queue_of(session, &spec.name)?;
        if let Some((known, kind)) = self.queues.get(key).map(|queue| (&queue.spec, queue.settings.kind)) {
            if known.access != spec.access {
                return Err(Refusal::Locked { queue: Arc::clone(&spec.name) });
            }
            let durability = if known.access == Access::Exclusive { known.durability } else { spec.durability };
            compare_properties(
                Object::Queue,
                &spec.name,
                [
                    // An exclusive queue goes with its connection, however durable it was asked for.
                    ("durable", durable(known.durability), durable(durability)),
                    ("auto_delete", auto_delete(known.auto_delete), auto_delete(spec.auto_delete)),
                ],
            )?;
            if let Some(name) = first_difference(kind, &known.arguments, &spec.arguments) {
                let (have, want) = (known.arguments.get(name), spec.arguments.get(name));
                return Err(differs(Object::Queue, &spec.name, name, have, want));
            }
        }
        Ok(self.use_queue(key))
    }

    /// What there is in a queue: a passive declaration. To ask is to use it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Locked`].
    pub fn check_queue(&mut self, session: SessionId, name: &str, now: Instant) -> Result<Declared> {
        self.begin(session, now)?;
        let key = self.queue_of(session, name)?;
        Ok(self.use_queue(key))
    }

    fn use_queue(&mut self, key: QueueKey) -> Declared {
        let Some(queue) = self.queues.get_mut(key) else { return Declared { messages: 0, consumers: 0 } };
        queue.last_used = self.now;
        Declared { messages: queue.len(), consumers: queue.consumers.len() }
    }

    fn new_queue(&mut self, session: SessionId, spec: &QueueSpec) -> Result<()> {
        if spec.naming == Naming::Client && is_reserved(&spec.name) {
            return Err(Refusal::Reserved { object: Object::Queue, name: Arc::clone(&spec.name) });
        }
        let settings = Settings::of(spec)?;
        let owner = (spec.access == Access::Exclusive).then_some(session);
        let key = self.add_queue(spec, settings, owner);
        if let Some(session) = owner.and_then(|owner| self.sessions.get_mut(&owner)) {
            session.own.insert(key);
        }
        if self.queues.get(key).is_some_and(Queue::is_kept) {
            self.effects.push(Effect::Defined(Definition::Queue(spec.clone())));
        }
        Ok(())
    }

    pub(super) fn add_queue(&mut self, spec: &QueueSpec, settings: Settings, owner: Option<SessionId>) -> QueueKey {
        let key = self.queues.insert(Queue::new(spec.clone(), settings, owner, self.now));
        self.queue_names.insert(Arc::clone(&spec.name), key);
        self.plan(key);
        key
    }

    pub(super) fn add_exchange(&mut self, spec: ExchangeSpec) {
        let name = Arc::clone(&spec.name);
        let key = self.exchanges.insert(Exchange::new(spec));
        self.exchange_names.insert(name, key);
    }

    /// Deletes a queue and returns how many messages waited in it. One that is not there is deleted already.
    ///
    /// # Errors
    /// [`Refusal::InUse`], [`Refusal::NotEmpty`], [`Refusal::Locked`].
    pub fn delete_queue(
        &mut self,
        session: SessionId,
        name: &str,
        conditions: DeleteQueue,
        now: Instant,
    ) -> Result<usize> {
        self.begin(session, now)?;
        let key = match self.queue_of(session, name) {
            Err(Refusal::NotFound { .. }) => return Ok(0),
            other => other?,
        };
        let Some(queue) = self.queues.get(key) else { return Ok(0) };
        if conditions.if_empty && queue.has_messages() {
            return Err(Refusal::NotEmpty { queue: name.into() });
        }
        if conditions.if_unused && !queue.consumers.is_empty() {
            return Err(Refusal::InUse { object: Object::Queue, name: name.into() });
        }
        let messages = queue.len();
        self.remove_queue(key);
        Ok(messages)
    }

    /// Drops what waits in a queue, and returns how many messages that were. What is out stays out.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Locked`].
    pub fn purge_queue(&mut self, session: SessionId, name: &str, now: Instant) -> Result<usize> {
        self.begin(session, now)?;
        let key = self.queue_of(session, name)?;
        let mut purged = 0;
        while let Some(stored) = self.queues.get_mut(key).and_then(Queue::pop) {
            self.forget(stored);
            purged += 1;
        }
        Ok(purged)
    }

    pub(super) fn exchange_of(&self, name: &str) -> Result<ExchangeKey> {
        let known = self.exchange_names.get(name).copied();
        known.ok_or_else(|| Refusal::NotFound { object: Object::Exchange, name: name.into() })
    }

    /// An exchange that deletes itself goes with its last binding.
    pub(super) fn delete_unbound(&mut self, key: ExchangeKey) {
        let goes = |exchange: &Exchange| exchange.spec.auto_delete == AutoDelete::Yes && !exchange.is_used();
        if self.exchanges.get(key).is_some_and(goes) {
            self.remove_exchange(key);
        }
    }

    fn remove_exchange(&mut self, key: ExchangeKey) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        // Guards: exchanges that are bound in a circle and delete themselves must not come back here for this one.
        self.exchange_names.remove(&exchange.spec.name);
        let bindings: Vec<_> = exchange
            .bindings()
            .filter_map(|(target, by, arguments)| Some((target, self.binding_of(key, target, by, arguments)?)))
            .collect();
        for (target, binding) in bindings {
            self.remove_binding(key, target, &binding);
        }
        self.remove_sources(Target::Exchange(key));
        if let Some(gone) = self.exchanges.remove(key)
            && gone.spec.durability == Durability::Durable
        {
            self.effects.push(Effect::Undefined(Definition::Exchange(gone.spec)));
        }
    }

    /// A queue goes, whatever is in it.
    pub(super) fn remove_queue(&mut self, key: QueueKey) {
        let Some(queue) = self.queues.get(key) else { return };
        let name = Arc::clone(&queue.spec.name);
        self.queue_names.remove(&name);
        self.remove_sources(Target::Queue(key));
        let Some(mut queue) = self.queues.remove(key) else { return };
        self.past += queue.counts;
        if let Some(at) = queue.wake {
            self.wakes.remove(&(at, key));
        }
        for consumer in queue.consumers.iter() {
            let Some(consumer) = self.consumers.remove(consumer) else { continue };
            let Some(channel) = self.channels.get_mut(consumer.channel) else { continue };
            channel.consumers.remove(&consumer.tag);
            if let Some(at) = consumer.held_up {
                channel.forget_held_up(at);
            }
            let (session, channel) = (channel.session, channel.id);
            self.effects.push(Effect::ConsumerCancelled { session, channel, consumer: consumer.tag });
        }
        if let Some(session) = queue.owner.and_then(|owner| self.sessions.get_mut(&owner)) {
            session.own.remove(&key);
        }
        if queue.is_kept() {
            self.effects.push(Effect::Undefined(Definition::Queue(queue.spec.clone())));
        }
        while let Some(stored) = queue.pop() {
            self.forget(stored);
        }
    }
}

fn is_reserved(name: &str) -> bool {
    name.starts_with("amq.")
}

pub(super) fn check_alternate(spec: &ExchangeSpec) -> Result<()> {
    match spec.arguments.get(ALTERNATE) {
        Some(field) if field.as_text().is_none() => Err(Refusal::BadArgument {
            object: Object::Exchange,
            name: Arc::clone(&spec.name),
            argument: ALTERNATE.into(),
            problem: Problem::UnacceptableType(field.type_name()),
        }),
        _ => Ok(()),
    }
}

fn durable(durability: Durability) -> Field {
    Field::Bool(durability == Durability::Durable)
}

fn auto_delete(auto_delete: AutoDelete) -> Field {
    Field::Bool(auto_delete == AutoDelete::Yes)
}

fn internal(publishers: Publishers) -> Field {
    Field::Bool(publishers == Publishers::Exchanges)
}

fn differs(object: Object, name: &Arc<str>, argument: &str, have: Option<&Field>, want: Option<&Field>) -> Refusal {
    let (have, want) = (have.cloned(), want.cloned());
    Refusal::Differs { object, name: Arc::clone(name), argument: argument.into(), have, want }
}

fn compare_properties<const N: usize>(
    object: Object,
    name: &Arc<str>,
    pairs: [(&'static str, Field, Field); N],
) -> Result<()> {
    match pairs.into_iter().find(|(_, have, want)| have != want) {
        Some((property, have, want)) => Err(differs(object, name, property, Some(&have), Some(&want))),
        None => Ok(()),
    }
}
