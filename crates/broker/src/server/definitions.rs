//! What is declared in a virtual host, for whoever declares the same elsewhere.

use super::{host::Host, methods::is_address};
use crate::engine::{Access, Binding, Destination, ExchangeSpec, QueueSpec};
use std::collections::HashSet;
use std::sync::Arc;

/// Exchanges, queues and bindings of a virtual host, with how much is in the queues. All lists are sorted by name.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Definitions {
    /// The exchanges that were declared: not those that every virtual host has.
    pub exchanges: Vec<ExchangeSpec>,
    /// The queues, exclusive ones and those that the server named included.
    pub queues: Vec<DefinedQueue>,
    /// The bindings that were made, those of exclusive queues left out.
    pub bindings: Vec<Binding>,
}

/// A queue, and how much is in it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DefinedQueue {
    /// As it was declared.
    pub spec: QueueSpec,
    /// Messages that wait.
    pub waiting: usize,
    /// Messages that are out and not acknowledged.
    pub out: usize,
    /// About how many bytes those that wait take.
    pub bytes: usize,
    /// Its consumers.
    pub consumers: usize,
}

/// Names that the server gives: an exchange that has one is there anyway.
const RESERVED: &str = "amq.";

impl Definitions {
    /// Copied while clients of the server wait.
    pub(super) fn read(host: &Host) -> Self {
        host.engine(|engine| {
            let shown = engine.queues().filter(|queue| !is_address(&queue.spec.name));
            let mut queues: Vec<_> = shown
                .map(|queue| DefinedQueue {
                    spec: queue.spec.clone(),
                    waiting: queue.waiting,
                    out: queue.out,
                    bytes: queue.waiting_bytes,
                    consumers: queue.consumers,
                })
                .collect();
            let own = engine.exchanges().filter(|spec| !spec.name.is_empty() && !spec.name.starts_with(RESERVED));
            let mut exchanges: Vec<_> = own.cloned().collect();
            let shared = |queue: &&DefinedQueue| queue.spec.access == Access::Shared;
            let names: HashSet<Arc<str>> = queues.iter().filter(shared).map(|queue| queue.spec.name.clone()).collect();
            let stays = |binding: &Binding| match &binding.destination {
                Destination::Queue(name) => names.contains(name),
                Destination::Exchange(_) => true,
            };
            let mut bindings: Vec<_> = engine.bindings().filter(stays).collect();
            queues.sort_by(|one, other| one.spec.name.cmp(&other.spec.name));
            exchanges.sort_by(|one, other| one.name.cmp(&other.name));
            bindings.sort_by(|one, other| {
                (&one.source, &one.destination, &one.key).cmp(&(&other.source, &other.destination, &other.key))
            });
            Self { exchanges, queues, bindings }
        })
    }
}
