//! An exchange: which queues a routing key reaches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::queue::Queue;
use super::table::Key;
use super::topic::{Patterns, is_pattern};
use crate::broker::ExchangeSpec;

/// How an exchange compares a routing key with its bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExchangeKind {
    /// They are the same.
    Direct,
    /// The binding is a pattern.
    Topic,
}

impl ExchangeKind {
    /// Its name in AMQP.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Topic => "topic",
        }
    }
}

/// An exchange and its bindings.
pub(super) struct Exchange {
    pub(super) spec: ExchangeSpec,
    pub(super) kind: ExchangeKind,
    routes: Routes,
    bindings: usize,
}

enum Routes {
    Direct(Exact),
    /// Most keys have no wildcard and are found by their text.
    Topic(Exact, Box<Patterns>),
}

/// Bindings without wildcards. Never walked through, so that the order of the map is not seen.
#[derive(Default)]
struct Exact(HashMap<Arc<str>, BTreeSet<Key<Queue>>>);

impl Exact {
    fn bind(&mut self, key: &Arc<str>, queue: Key<Queue>) -> bool {
        self.0.entry(Arc::clone(key)).or_default().insert(queue)
    }

    fn unbind(&mut self, key: &str, queue: Key<Queue>) -> bool {
        let Some(queues) = self.0.get_mut(key) else { return false };
        let had = queues.remove(&queue);
        if queues.is_empty() {
            self.0.remove(key);
        }
        had
    }

    fn route(&self, key: &str, queues: &mut Vec<Key<Queue>>) {
        queues.extend(self.0.get(key).into_iter().flatten());
    }
}

impl Exchange {
    pub(super) fn new(spec: ExchangeSpec, kind: ExchangeKind) -> Self {
        let routes = match kind {
            ExchangeKind::Direct => Routes::Direct(Exact::default()),
            ExchangeKind::Topic => Routes::Topic(Exact::default(), Box::new(Patterns::new())),
        };
        Exchange { spec, kind, routes, bindings: 0 }
    }

    /// Binding twice by one key is binding once.
    pub(super) fn bind(&mut self, key: &Arc<str>, queue: Key<Queue>) {
        let is_new = match &mut self.routes {
            Routes::Topic(_, patterns) if is_pattern(key) => patterns.bind(key, queue),
            Routes::Direct(exact) | Routes::Topic(exact, _) => exact.bind(key, queue),
        };
        self.bindings += usize::from(is_new);
    }

    /// True when there was such a binding.
    pub(super) fn unbind(&mut self, key: &str, queue: Key<Queue>) -> bool {
        let had = match &mut self.routes {
            Routes::Topic(_, patterns) if is_pattern(key) => patterns.unbind(key, queue),
            Routes::Direct(exact) | Routes::Topic(exact, _) => exact.unbind(key, queue),
        };
        self.bindings -= usize::from(had);
        had
    }

    pub(super) fn has_bindings(&self) -> bool {
        self.bindings > 0
    }

    #[cfg(test)]
    pub(super) fn bindings(&self) -> usize {
        self.bindings
    }

    /// Adds the queues that a message of this key goes to, each once.
    pub(super) fn route(&mut self, key: &str, queues: &mut Vec<Key<Queue>>) {
        match &mut self.routes {
            Routes::Direct(exact) => exact.route(key, queues),
            Routes::Topic(exact, patterns) => {
                exact.route(key, queues);
                patterns.route(key, queues);
                if queues.len() > 1 {
                    queues.sort_unstable();
                    queues.dedup();
                }
            }
        }
    }
}
