//! An engine as it was before a restart: built from what its effects reported, without reporting it again.

use std::sync::Arc;
use std::time::Instant;

use super::effect::Definition;
use super::exchange::Target;
use super::message::{Message, Stored};
use super::refusal::{Object, Refusal};
use super::settings::Settings;
use super::spec::Destination;
use super::time::Moment;
use super::topology::check_alternate;
use super::{CopyId, Engine, Result};

impl<M: Message> Engine<M> {
    /// Restores an exchange, a queue or a binding. Exchanges and queues come before the bindings that join them. What is there
    /// already is kept.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for a binding that joins nothing, [`Refusal::BadArgument`] and [`Refusal::BadProperty`] for what cannot
    /// be declared.
    pub fn restore(&mut self, definition: &Definition) -> Result<()> {
        match definition {
            Definition::Exchange(spec) => {
                check_alternate(spec)?;
                if !self.exchange_names.contains_key(&spec.name) {
                    self.add_exchange(spec.clone());
                }
            }
            Definition::Queue(spec) => {
                let settings = Settings::of(spec)?;
                if !self.queue_names.contains_key(&spec.name) {
                    self.add_queue(spec, settings, None);
                }
            }
            Definition::Binding(binding) => {
                let missing = |object, name: &Arc<str>| Refusal::NotFound { object, name: Arc::clone(name) };
                let exchange = |name: &Arc<str>| {
                    self.exchange_names.get(name).copied().ok_or_else(|| missing(Object::Exchange, name))
                };
                let source = exchange(&binding.source)?;
                let target = match &binding.destination {
                    Destination::Exchange(name) => Target::Exchange(exchange(name)?),
                    Destination::Queue(name) => {
                        let key = self.queue_names.get(name).copied();
                        Target::Queue(key.ok_or_else(|| missing(Object::Queue, name))?)
                    }
                };
                self.add_binding(source, target, binding);
            }
        }
        Ok(())
    }

    /// Restores a message that was stored and not forgotten, after its queue. Those of one queue come in the order of their
    /// numbers. Each is marked as redelivered, for nobody knows whether it was out. A queue's limits act on what comes later.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] where the queue is missing.
    pub fn restore_message(&mut self, copy: CopyId, queue: &str, expires: Option<Instant>, message: M) -> Result<()> {
        let key = self.queue_names.get(queue).copied();
        let found = key.and_then(|key| Some((key, self.queues.get_mut(key)?)));
        let (key, queue) = found.ok_or_else(|| Refusal::NotFound { object: Object::Queue, name: queue.into() })?;
        let expires = expires.map_or(Moment::NEVER, |at| self.epoch.moment(at));
        self.next_copy = self.next_copy.max(copy.0 + 1);
        self.bytes += message.weight();
        queue.push(Stored { copy, expires, returns: 0, redelivered: true, kept: true, message });
        self.plan(key);
        Ok(())
    }

    /// Numbers messages from here on: after a restart, above all numbers that were ever given.
    pub fn number_copies_from(&mut self, first: CopyId) {
        self.next_copy = self.next_copy.max(first.0);
    }
}
