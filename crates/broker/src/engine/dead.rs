//! Dead letters: messages that leave their queue unread, and where they go.

use std::sync::Arc;

use super::effect::Effect;
use super::message::{Death, Message, Reason, Stored};
use super::queue::QueueKey;
use super::settings::DeadLetters;
use super::{CopyId, Engine};

/// How many dead letters one request sends on. A million may expire together; and full queues that send what is too much to each
/// other do so in as many ways as there are orders of them, all of which RabbitMQ goes, too.
const AT_ONCE: usize = 1000;

/// A message on its way from the queue that it died in.
pub(super) struct Dead<M> {
    from: Arc<str>,
    to: DeadLetters,
    reason: Reason,
    message: M,
    /// What is forgotten once its copies are stored.
    copy: Option<CopyId>,
}

impl<M: Message> Engine<M> {
    /// A message has left its queue unread: on to the dead-letter exchange, if there is one.
    pub(super) fn dies_in(&mut self, from: QueueKey, stored: Stored<M>, reason: Reason) {
        if self.queues.get(from).is_none() {
            self.forget(stored);
            return;
        }
        self.bytes -= stored.message.weight();
        self.dies(from, stored.message, stored.kept.then_some(stored.copy), reason);
    }

    /// The same for a message that is counted nowhere, since it has left the queue or was never in it.
    pub(super) fn dies(&mut self, from: QueueKey, message: M, copy: Option<CopyId>, reason: Reason) {
        let letters = self
            .queues
            .get(from)
            .and_then(|queue| Some((Arc::clone(&queue.spec.name), queue.settings.dead_letters.clone()?)));
        match letters {
            Some((from, to)) => {
                self.bytes += message.weight();
                self.dead.push_back(Dead { from, to, reason, message, copy });
            }
            None => {
                self.effects.extend(copy.map(|copy| Effect::Forget { copy }));
                self.release(message);
            }
        }
    }

    /// Sends dead letters on, so many at most; the others wait for the next request, which is due at once. One that no queue
    /// takes, or that goes in circles with no client between, is dropped.
    pub(super) fn bury(&mut self) {
        for _ in 0..AT_ONCE {
            let Some(Dead { from, to, reason, message, copy }) = self.dead.pop_front() else { return };
            self.bytes -= message.weight();
            let mut deaths = message.deaths();
            record(&mut deaths, from, reason, &message);
            let message = message.after_death(&to.exchange, to.key.as_ref(), &deaths);
            let mut queues = Vec::new();
            if to.exchange.is_empty() {
                self.route_by_name(&message, &mut queues);
            } else if let Some(exchange) = self.exchange_names.get(&to.exchange).copied() {
                self.route(exchange, &message, &mut queues);
            }
            for key in queues {
                let name = self.queues.get(key).map(|queue| &*queue.spec.name);
                if reason == Reason::Rejected || !name.is_some_and(|name| circles(&deaths, name)) {
                    self.take_in(key, message.clone());
                }
            }
            self.effects.extend(copy.map(|copy| Effect::Forget { copy }));
            self.release(message);
        }
    }
}

/// Adds a death to those before, the last one first. Of the same queue and reason only the count grows.
fn record<M: Message>(deaths: &mut Vec<Death>, queue: Arc<str>, reason: Reason, message: &M) {
    let known = deaths.iter().position(|death| death.queue == queue && death.reason == reason);
    let death = match known {
        Some(at) => {
            let mut death = deaths.remove(at);
            death.count += 1;
            death
        }
        None => Death {
            queue,
            reason,
            count: 1,
            exchange: message.exchange().into(),
            keys: std::iter::once(message.routing_key().into()).chain(message.cc().iter().cloned()).collect(),
            at: None,
            original_expiration: None,
        },
    };
    deaths.insert(0, death);
}

/// Whether this queue would get the message for a second time with no client between: RabbitMQ drops what goes in circles by
/// itself.
fn circles(deaths: &[Death], queue: &str) -> bool {
    match deaths.iter().position(|death| &*death.queue == queue) {
        Some(at) => deaths[..=at].iter().all(|death| death.reason != Reason::Rejected),
        None => false,
    }
}
