//! Routing as the specification describes it: every binding is looked at.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::tests::world::Note;
use super::super::*;

/// The queues that a message goes to.
pub(super) fn reached(engine: &Engine<Note>, note: &Note) -> BTreeSet<Arc<str>> {
    let keys: Vec<&str> =
        std::iter::once(note.routing_key()).chain(note.cc().iter().chain(note.bcc()).map(|key| &**key)).collect();
    if note.exchange().is_empty() {
        let named = engine.queues().map(|queue| Arc::clone(&queue.spec.name));
        return named.filter(|name| keys.contains(&&**name)).collect();
    }
    let bindings: Vec<_> = engine.bindings().collect();
    let (mut queues, mut seen, mut work) = (BTreeSet::new(), BTreeSet::new(), vec![Arc::<str>::from(note.exchange())]);
    while let Some(name) = work.pop() {
        if !seen.insert(Arc::clone(&name)) {
            continue;
        }
        let Some(exchange) = engine.exchange(&name) else { continue };
        let taken =
            bindings.iter().filter(|binding| binding.source == name && takes(exchange.kind, binding, &keys, note));
        let mut any = false;
        for binding in taken {
            any = true;
            match &binding.destination {
                Destination::Queue(queue) => drop(queues.insert(Arc::clone(queue))),
                Destination::Exchange(next) => work.push(Arc::clone(next)),
            }
        }
        if !any && let Some(alternate) = exchange.arguments.get("alternate-exchange").and_then(Field::as_text) {
            work.push(alternate.into());
        }
    }
    queues
}

fn takes(kind: ExchangeKind, binding: &Binding, keys: &[&str], note: &Note) -> bool {
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Direct => keys.contains(&&*binding.key),
        ExchangeKind::Topic => keys.iter().any(|key| {
            let words = |text: &'_ str| -> Vec<String> {
                if text.is_empty() { Vec::new() } else { text.split('.').map(str::to_owned).collect() }
            };
            matches(&words(&binding.key), &words(key))
        }),
        ExchangeKind::Headers => {
            let mut conditions = binding.arguments.iter().filter(|(name, _)| !name.starts_with("x-"));
            let met = |(name, field): (&Arc<str>, &Field)| {
                note.headers.get(name).is_some_and(|known| known.is_equivalent(field))
            };
            match binding.arguments.get("x-match").and_then(Field::as_text) {
                Some("any") => conditions.any(met),
                _ => conditions.all(met),
            }
        }
    }
}

/// Whether the words of a key match those of a pattern.
fn matches(pattern: &[String], key: &[String]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((word, rest)), _) if word == "#" => {
            matches(rest, key) || key.split_first().is_some_and(|(_, key)| matches(pattern, key))
        }
        (Some((word, rest)), Some((first, others))) => (word == "*" || word == first) && matches(rest, others),
        _ => false,
    }
}
