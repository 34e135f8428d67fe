//! Which queues a message goes to.

use std::collections::BTreeSet;

use super::Engine;
use super::exchange::{ExchangeKey, Target};
use super::headers::Headers;
use super::message::Message;
use super::queue::QueueKey;

/// Memory for one routing after the other.
#[derive(Default)]
pub(super) struct Scratch {
    targets: Vec<Target>,
    work: Vec<ExchangeKey>,
    seen: BTreeSet<ExchangeKey>,
    pub(super) queues: Vec<QueueKey>,
}

impl<M: Message> Engine<M> {
    /// The queues that a message goes to through the default exchange, each once.
    pub(super) fn route_by_name(&self, message: &M, queues: &mut Vec<QueueKey>) {
        if message.cc().is_empty() && message.bcc().is_empty() {
            queues.extend(self.queue_names.get(message.routing_key()));
        } else {
            queues.extend(keys(message).filter_map(|key| self.queue_names.get(key)));
            once_each(queues);
        }
    }

    /// The queues that a message goes to from an exchange on, each once, and in the order of their making.
    pub(super) fn route(&mut self, first: ExchangeKey, message: &M, queues: &mut Vec<QueueKey>) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let Scratch { targets, work, seen, .. } = &mut scratch;
        let mut headers = None;
        work.push(first);
        while let Some(at) = work.pop() {
            let Some(exchange) = self.exchanges.get_mut(at) else { continue };
            if exchange.reads_headers() && headers.is_none() {
                let mut all = Headers::default();
                message.headers(&mut |name, field| all.insert(name, field));
                headers = Some(all);
            }
            targets.clear();
            exchange.route(keys(message), headers.as_ref(), targets);
            if targets.is_empty() {
                // Of a message with nowhere to go, and of no other.
                let alternate = exchange.alternate.as_ref().and_then(|name| self.exchange_names.get(name));
                targets.extend(alternate.map(|key| Target::Exchange(*key)));
            }
            for target in targets.drain(..) {
                match target {
                    Target::Queue(queue) => queues.push(queue),
                    // Exchanges may be bound in a circle. Mostly there is one, and nothing to be remembered.
                    Target::Exchange(next) => {
                        if next != first && seen.insert(next) {
                            work.push(next);
                        }
                    }
                }
            }
        }
        seen.clear();
        once_each(queues);
        self.scratch = scratch;
    }
}

fn keys<M: Message>(message: &M) -> impl Iterator<Item = &str> {
    let copies = message.cc().iter().chain(message.bcc());
    std::iter::once(message.routing_key()).chain(copies.map(|key| &**key))
}

fn once_each(queues: &mut Vec<QueueKey>) {
    if queues.len() > 1 {
        queues.sort_unstable();
        queues.dedup();
    }
}
