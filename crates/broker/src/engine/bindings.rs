//! Bindings: what joins exchanges to queues and to each other. Both ends of a binding know it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::effect::{Definition, Effect};
use super::exchange::{ExchangeKey, Target};
use super::field::Arguments;
use super::headers;
use super::message::Message;
use super::queue::Queue;
use super::refusal::{Object, Refusal};
use super::spec::{Binding, Destination, Durability, ExchangeKind};
use super::{Engine, Result, SessionId};

impl<M: Message> Engine<M> {
    /// Binds a queue or an exchange to an exchange. To do so twice is to do it once.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Locked`], [`Refusal::DefaultExchange`], [`Refusal::BadArgument`].
    pub fn bind(&mut self, session: SessionId, binding: &Binding, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        let (source, target) = self.ends_of(binding)?;
        let is_headers = self.exchanges.get(source).is_some_and(|exchange| exchange.spec.kind == ExchangeKind::Headers);
        if is_headers {
            headers::check(&binding.arguments).map_err(|problem| Refusal::BadArgument {
                object: Object::Exchange,
                name: Arc::clone(&binding.source),
                argument: "x-match".into(),
                problem,
            })?;
        }
        self.check_access(session, binding)?;
        if self.add_binding(source, target, binding) && self.is_kept_binding(source, target) {
            self.effects.push(Effect::Defined(Definition::Binding(binding.clone())));
        }
        Ok(())
    }

    /// Takes a binding away. What is not bound, or is not there, is unbound already.
    ///
    /// # Errors
    /// [`Refusal::Locked`], [`Refusal::DefaultExchange`].
    pub fn unbind(&mut self, session: SessionId, binding: &Binding, now: Instant) -> Result<()> {
        self.begin(session, now)?;
        let (source, target) = match self.ends_of(binding) {
            Err(Refusal::NotFound { .. }) => return Ok(()),
            other => other?,
        };
        if !self.exchanges.get(source).is_some_and(|known| known.has(&binding.key, target, &binding.arguments)) {
            return Ok(());
        }
        self.check_access(session, binding)?;
        self.remove_binding(source, target, binding);
        self.delete_unbound(source);
        Ok(())
    }

    /// Whether this session may use the queue that a binding leads to.
    fn check_access(&self, session: SessionId, binding: &Binding) -> Result<()> {
        match &binding.destination {
            Destination::Queue(name) => self.queue_of(session, name).map(drop),
            Destination::Exchange(_) => Ok(()),
        }
    }

    fn ends_of(&self, binding: &Binding) -> Result<(ExchangeKey, Target)> {
        if binding.source.is_empty() {
            return Err(Refusal::DefaultExchange);
        }
        let source = self.exchange_of(&binding.source);
        let target = match &binding.destination {
            Destination::Exchange(name) if name.is_empty() => return Err(Refusal::DefaultExchange),
            Destination::Exchange(name) => self.exchange_of(name).map(Target::Exchange),
            Destination::Queue(name) => match self.queue_names.get(name) {
                Some(key) => Ok(Target::Queue(*key)),
                None => Err(Refusal::NotFound { object: Object::Queue, name: Arc::clone(name) }),
            },
        };
        Ok((source?, target?))
    }

    /// True when it is new.
    pub(super) fn add_binding(&mut self, source: ExchangeKey, target: Target, binding: &Binding) -> bool {
        let Some(exchange) = self.exchanges.get_mut(source) else { return false };
        if !exchange.bind(&binding.key, target, &binding.arguments) {
            return false;
        }
        if let Some(sources) = self.sources_of(target) {
            sources.insert((source, Arc::clone(&binding.key)));
        }
        true
    }

    fn sources_of(&mut self, target: Target) -> Option<&mut BTreeSet<(ExchangeKey, Arc<str>)>> {
        match target {
            Target::Queue(key) => self.queues.get_mut(key).map(|queue| &mut queue.sources),
            Target::Exchange(key) => self.exchanges.get_mut(key).map(|exchange| &mut exchange.sources),
        }
    }

    pub(super) fn remove_binding(&mut self, source: ExchangeKey, target: Target, binding: &Binding) {
        let is_kept = self.is_kept_binding(source, target);
        let Some(exchange) = self.exchanges.get_mut(source) else { return };
        if !exchange.unbind(&binding.key, target, &binding.arguments) {
            return;
        }
        if !exchange.has_binding(target, &binding.key)
            && let Some(sources) = self.sources_of(target)
        {
            sources.remove(&(source, Arc::clone(&binding.key)));
        }
        if is_kept {
            self.effects.push(Effect::Undefined(Definition::Binding(binding.clone())));
        }
    }

    /// Whether a binding survives a restart: if both of its ends do.
    fn is_kept_binding(&self, source: ExchangeKey, target: Target) -> bool {
        let exchange =
            |key| self.exchanges.get(key).is_some_and(|exchange| exchange.spec.durability == Durability::Durable);
        exchange(source)
            && match target {
                Target::Queue(key) => self.queues.get(key).is_some_and(Queue::is_kept),
                Target::Exchange(key) => exchange(key),
            }
    }

    /// A binding as it was made.
    pub(super) fn binding_of(
        &self,
        source: ExchangeKey,
        target: Target,
        key: &Arc<str>,
        arguments: &Arguments,
    ) -> Option<Binding> {
        let destination = match target {
            Target::Queue(key) => Destination::Queue(Arc::clone(&self.queues.get(key)?.spec.name)),
            Target::Exchange(key) => Destination::Exchange(Arc::clone(&self.exchanges.get(key)?.spec.name)),
        };
        let source = Arc::clone(&self.exchanges.get(source)?.spec.name);
        Some(Binding { source, destination, key: Arc::clone(key), arguments: arguments.clone() })
    }

    /// Takes away all bindings that lead to a target, which is still there.
    pub(super) fn remove_sources(&mut self, target: Target) {
        let sources = self.sources_of(target).map(std::mem::take).unwrap_or_default();
        for (source, key) in &sources {
            let all = self.exchanges.get(*source).into_iter().flat_map(|exchange| exchange.arguments(target, key));
            let bindings: Vec<_> =
                all.filter_map(|arguments| self.binding_of(*source, target, key, arguments)).collect();
            for binding in bindings {
                self.remove_binding(*source, target, &binding);
            }
        }
        for (source, _) in sources {
            self.delete_unbound(source);
        }
    }
}
