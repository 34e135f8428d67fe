//! A store as a server would have it, filled by the engine's effects alone: it holds the engine's durable part at any time, and an
//! engine that is restored from it is the old one without what was transient.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::super::tests::world::Note;
use super::super::*;

/// A message as it is kept.
#[derive(Clone, Debug, PartialEq)]
struct KeptMessage {
    queue: Arc<str>,
    expires: Option<Instant>,
    number: i64,
}

/// What is kept.
#[derive(Default)]
pub(super) struct Kept {
    exchanges: Vec<ExchangeSpec>,
    queues: Vec<QueueSpec>,
    bindings: Vec<Binding>,
    messages: BTreeMap<CopyId, KeptMessage>,
    /// Copies whose queue has gone and which are not forgotten yet.
    orphans: BTreeSet<CopyId>,
    notes: BTreeMap<CopyId, Note>,
}

impl Kept {
    pub(super) fn take(&mut self, effect: &Effect<Note>) {
        match effect {
            Effect::Store { copy, queue, expires, message } => {
                assert!(self.queues.iter().any(|spec| spec.name == *queue), "its queue is kept: {queue}");
                assert!(self.notes.keys().all(|known| known < copy), "numbers grow");
                let kept = KeptMessage { queue: Arc::clone(queue), expires: *expires, number: message.number };
                self.messages.insert(*copy, kept);
                self.notes.insert(*copy, message.clone());
            }
            Effect::Forget { copy } => {
                let was_kept = self.messages.remove(copy).is_some() || self.orphans.remove(copy);
                assert!(was_kept, "only what was stored is forgotten, and once: {copy:?}");
            }
            Effect::Defined(definition) => match definition {
                Definition::Exchange(spec) => add(&mut self.exchanges, spec),
                Definition::Queue(spec) => add(&mut self.queues, spec),
                Definition::Binding(binding) => add(&mut self.bindings, binding),
            },
            Effect::Undefined(definition) => match definition {
                Definition::Exchange(spec) => {
                    assert!(self.bindings.iter().all(|binding| binding.source != spec.name), "bindings go first");
                    remove(&mut self.exchanges, spec);
                }
                Definition::Queue(spec) => {
                    let to = Destination::Queue(Arc::clone(&spec.name));
                    assert!(self.bindings.iter().all(|binding| binding.destination != to), "bindings go first");
                    let (orphans, kept) = std::mem::take(&mut self.messages)
                        .into_iter()
                        .partition(|(_, message)| message.queue == spec.name);
                    self.messages = kept;
                    self.orphans.extend(BTreeMap::into_keys(orphans));
                    remove(&mut self.queues, spec);
                }
                Definition::Binding(binding) => remove(&mut self.bindings, binding),
            },
            Effect::Delivery { .. } | Effect::ConsumerCancelled { .. } => {}
        }
    }

    /// It holds the durable part of this engine.
    pub(super) fn is_like(&self, engine: &Engine<Note>) {
        self.is_like_since(engine, None);
    }

    /// The same; what was over before this time is over then.
    fn is_like_since(&self, engine: &Engine<Note>, since: Option<Instant>) {
        let mut messages = BTreeMap::new();
        let mut keep = |queue: QueueKey, stored: &message::Stored<Note>| {
            let Some(queue) = engine.queues.get(queue).filter(|_| stored.kept) else { return };
            let durable = stored.message.is_persistent() || queue.settings.kind == settings::QueueKind::Quorum;
            assert!(queue.is_kept() && durable);
            let kept = KeptMessage {
                queue: Arc::clone(&queue.spec.name),
                expires: engine.epoch.instant(stored.expires),
                number: stored.message.number,
            };
            assert!(messages.insert(stored.copy, kept).is_none());
        };
        for (key, queue) in engine.queues.iter() {
            for stored in queue.waiting() {
                let durable = stored.message.is_persistent() || queue.settings.kind == settings::QueueKind::Quorum;
                assert_eq!(stored.kept, durable && queue.is_kept());
                keep(key, stored);
            }
        }
        for (_, channel) in engine.channels.iter() {
            channel.out.values().for_each(|out| keep(out.queue, &out.stored));
        }
        let mut kept = self.messages.clone();
        for message in kept.values_mut() {
            message.expires = message.expires.map(|at| since.map_or(at, |since| at.max(since)));
        }
        assert_eq!(kept, messages, "what is kept is what is there");
        let durable =
            |exchange: &&ExchangeSpec| exchange.durability == Durability::Durable && !exchange.name.starts_with("amq.");
        same(&self.exchanges, &engine.exchanges().filter(durable).cloned().collect::<Vec<_>>());
        let kept =
            |queue: &QueueView<'_>| queue.spec.durability == Durability::Durable && queue.spec.access == Access::Shared;
        same(&self.queues, &engine.queues().filter(kept).map(|queue| queue.spec.clone()).collect::<Vec<_>>());
        let ends = |binding: &Binding| {
            let exchange = |name: &str| engine.exchange(name).unwrap().durability == Durability::Durable;
            exchange(&binding.source)
                && match &binding.destination {
                    Destination::Exchange(name) => exchange(name),
                    Destination::Queue(name) => self.queues.iter().any(|spec| spec.name == *name),
                }
        };
        same(&self.bindings, &engine.bindings().filter(ends).collect::<Vec<_>>());
    }

    /// An engine that is restored from it has the durable part of this one, each queue in its order.
    pub(super) fn is_restored(&self, engine: &Engine<Note>, now: Instant) {
        let mut restored = Engine::new(now);
        let exchanges = self.exchanges.iter().cloned().map(Definition::Exchange);
        let queues = self.queues.iter().cloned().map(Definition::Queue);
        let bindings = self.bindings.iter().cloned().map(Definition::Binding);
        for definition in exchanges.chain(queues).chain(bindings) {
            restored.restore(&definition).unwrap();
        }
        for (copy, KeptMessage { queue, expires, .. }) in &self.messages {
            restored.restore_message(*copy, queue, *expires, self.notes[copy].clone()).unwrap();
        }
        assert_eq!(restored.effects().count(), 0, "nothing is reported again");
        self.is_like_since(&restored, Some(now));
        for (_, queue) in restored.queues.iter() {
            let old = engine.queues.get(engine.queue_names[&queue.spec.name]).unwrap();
            assert_eq!(queue.spec, old.spec);
            let waits: Vec<_> = queue.waiting().iter().map(|stored| stored.copy).collect();
            let before: Vec<_> = old.waiting().iter().filter(|stored| stored.kept).map(|stored| stored.copy).collect();
            let common: Vec<_> = waits.iter().filter(|copy| before.contains(copy)).copied().collect();
            assert_eq!(common, before, "in the same order");
            assert!(queue.waiting().iter().all(|stored| stored.redelivered));
            let planned = queue.wake.is_some_and(|at| queue.deadline().is_some_and(|deadline| at <= deadline));
            assert!(planned || queue.deadline().is_none(), "nothing is overslept: {}", queue.spec.name);
        }
        if let Some(last) = self.notes.keys().next_back() {
            restored.number_copies_from(CopyId(last.0 + 1));
        }
        // It goes on: whatever is over goes.
        restored.advance(now);
        let session = restored.connect(now);
        for queue in &self.queues {
            restored.delete_queue(session, &queue.name, DeleteQueue::default(), now).unwrap();
        }
        restored.disconnect(session, now);
        assert_eq!(restored.bytes(), 0);
    }

    pub(super) fn is_empty(&self) {
        assert!(self.exchanges.is_empty() && self.queues.is_empty() && self.bindings.is_empty());
        assert!(self.messages.is_empty() && self.orphans.is_empty(), "{:?} {:?}", self.messages, self.orphans);
    }
}

fn add<T: Clone + PartialEq + std::fmt::Debug>(all: &mut Vec<T>, one: &T) {
    assert!(!all.contains(one), "defined once: {one:?}");
    all.push(one.clone());
}

fn remove<T: PartialEq + std::fmt::Debug>(all: &mut Vec<T>, one: &T) {
    let at = all.iter().position(|known| known == one);
    all.remove(at.unwrap_or_else(|| panic!("only what is defined goes: {one:?}")));
}

/// The same, in whatever order.
fn same<T: PartialEq + std::fmt::Debug>(one: &[T], two: &[T]) {
    assert_eq!(one.len(), two.len(), "{one:?} against {two:?}");
    assert!(two.iter().all(|each| one.contains(each)), "{one:?} against {two:?}");
}
