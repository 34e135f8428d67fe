//! An exchange: its bindings, and which of them a message takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::field::Arguments;
use super::headers::{Headers, Rules};
use super::queue::QueueKey;
use super::spec::{ExchangeKind, ExchangeSpec};
use super::table::Key;
use super::topic::{Patterns, is_pattern};

pub(super) type ExchangeKey = Key<Exchange>;

/// Where a binding leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Target {
    Queue(QueueKey),
    Exchange(ExchangeKey),
}

/// An exchange and its bindings.
pub(super) struct Exchange {
    pub(super) spec: ExchangeSpec,
    /// Where messages go that take none of its bindings.
    pub(super) alternate: Option<Arc<str>>,
    /// What is bound to it, by which key and with which arguments. There may be many that differ in their arguments alone, so that
    /// those are found by their text.
    bindings: BTreeMap<(Target, Arc<str>, Box<str>), Arguments>,
    /// The exchanges that it is bound to itself, and by which keys.
    pub(super) sources: BTreeSet<(ExchangeKey, Arc<str>)>,
    routes: Routes,
}

enum Routes {
    Direct(Exact),
    /// With the number of bindings.
    Fanout(BTreeMap<Target, usize>),
    /// Most keys have no wildcard and are found by their text.
    Topic(Exact, Box<Patterns>),
    Headers(Box<Rules>),
}

/// Bindings without wildcards. Never walked through, so that the order of the map is not seen.
#[derive(Default)]
struct Exact(HashMap<Arc<str>, BTreeSet<Target>>);

impl Exact {
    fn bind(&mut self, key: &Arc<str>, target: Target) {
        self.0.entry(Arc::clone(key)).or_default().insert(target);
    }

    fn unbind(&mut self, key: &str, target: Target) {
        let Some(targets) = self.0.get_mut(key) else { return };
        targets.remove(&target);
        if targets.is_empty() {
            self.0.remove(key);
        }
    }

    fn route(&self, key: &str, targets: &mut Vec<Target>) {
        targets.extend(self.0.get(key).into_iter().flatten());
    }
}

impl Exchange {
    pub(super) fn new(spec: ExchangeSpec) -> Self {
        let routes = match spec.kind {
            ExchangeKind::Direct => Routes::Direct(Exact::default()),
            ExchangeKind::Fanout => Routes::Fanout(BTreeMap::new()),
            ExchangeKind::Topic => Routes::Topic(Exact::default(), Box::new(Patterns::new())),
            ExchangeKind::Headers => Routes::Headers(Box::default()),
        };
        let alternate = spec.arguments.get("alternate-exchange").and_then(|field| field.as_text()).map(Arc::from);
        Exchange { spec, alternate, bindings: BTreeMap::new(), sources: BTreeSet::new(), routes }
    }

    /// True when the binding is new: binding twice by one key and the same arguments is binding once.
    pub(super) fn bind(&mut self, key: &Arc<str>, target: Target, arguments: &Arguments) -> bool {
        let first = !self.has_binding(target, key);
        let at = (target, Arc::clone(key), arguments.written());
        if self.bindings.contains_key(&at) {
            return false;
        }
        self.bindings.insert(at, arguments.clone());
        match &mut self.routes {
            Routes::Headers(rules) => rules.bind(target, arguments),
            Routes::Fanout(targets) => *targets.entry(target).or_default() += 1,
            Routes::Topic(_, patterns) if first && is_pattern(key) => patterns.bind(key, target),
            Routes::Direct(exact) | Routes::Topic(exact, _) if first => exact.bind(key, target),
            Routes::Direct(_) | Routes::Topic(..) => {}
        }
        true
    }

    /// True when there was such a binding.
    pub(super) fn unbind(&mut self, key: &Arc<str>, target: Target, arguments: &Arguments) -> bool {
        if self.bindings.remove(&(target, Arc::clone(key), arguments.written())).is_none() {
            return false;
        }
        let last = !self.has_binding(target, key);
        match &mut self.routes {
            Routes::Headers(rules) => rules.unbind(target, arguments),
            Routes::Fanout(targets) => {
                if let Some(count) = targets.get_mut(&target) {
                    *count -= 1;
                    if *count == 0 {
                        targets.remove(&target);
                    }
                }
            }
            Routes::Topic(_, patterns) if last && is_pattern(key) => patterns.unbind(key, target),
            Routes::Direct(exact) | Routes::Topic(exact, _) if last => exact.unbind(key, target),
            Routes::Direct(_) | Routes::Topic(..) => {}
        }
        true
    }

    /// The arguments of all bindings of this target by this key.
    pub(super) fn arguments(&self, target: Target, key: &Arc<str>) -> impl Iterator<Item = &Arguments> {
        let from = (target, Arc::clone(key), Box::default());
        let all = self.bindings.range(from..).take_while(move |((to, by, _), _)| *to == target && by == key);
        all.map(|(_, arguments)| arguments)
    }

    /// Whether there is such a binding.
    pub(super) fn has(&self, key: &Arc<str>, target: Target, arguments: &Arguments) -> bool {
        self.bindings.contains_key(&(target, Arc::clone(key), arguments.written()))
    }

    /// Whether the target is bound by this key, whatever the arguments.
    pub(super) fn has_binding(&self, target: Target, key: &Arc<str>) -> bool {
        self.arguments(target, key).next().is_some()
    }

    pub(super) fn is_used(&self) -> bool {
        !self.bindings.is_empty()
    }

    /// How many targets and keys there are together.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.bindings.keys().map(|(target, key, _)| (target, key)).collect::<BTreeSet<_>>().len()
    }

    /// All bindings, in order.
    pub(super) fn bindings(&self) -> impl Iterator<Item = (Target, &Arc<str>, &Arguments)> {
        self.bindings.iter().map(|((target, key, _), arguments)| (*target, key, arguments))
    }

    /// Whether the headers of a message matter.
    pub(super) fn reads_headers(&self) -> bool {
        matches!(self.routes, Routes::Headers(_))
    }

    /// Adds where a message goes; one may be added more than once.
    pub(super) fn route<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k str>,
        headers: Option<&Headers>,
        targets: &mut Vec<Target>,
    ) {
        match &mut self.routes {
            Routes::Direct(exact) => keys.for_each(|key| exact.route(key, targets)),
            Routes::Fanout(all) => targets.extend(all.keys()),
            Routes::Topic(exact, patterns) => {
                for key in keys {
                    exact.route(key, targets);
                    patterns.route(key, targets);
                }
            }
            Routes::Headers(rules) => {
                if let Some(headers) = headers {
                    rules.route(headers, targets);
                }
            }
        }
    }
}
