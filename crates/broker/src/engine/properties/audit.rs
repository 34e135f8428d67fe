//! Walks through everything after each request, and through what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::super::consumer::ConsumerKey;
use super::super::message::Stored;
use super::super::settings::{Activity, Overflow};
use super::super::tests::world::Note;
use super::super::*;
use super::requests::{Done, GRAVE, Settled};

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    queue: QueueKey,
    number: i64,
    waits: bool,
    expires: Moment,
}

/// What waited in a queue, in order.
type Line = Vec<(i64, Option<Instant>)>;

#[derive(Default)]
pub(super) struct Audit {
    copies: BTreeMap<CopyId, Seen>,
    /// The last copy that was ever handed out of a queue.
    handed: BTreeMap<QueueKey, CopyId>,
    lines: BTreeMap<Arc<str>, Line>,
    /// The queues of all consumers that there ever were.
    consumers: BTreeMap<(SessionId, ChannelId, Arc<str>), Arc<str>>,
    /// The last number that each queue handed out for the first time.
    last: BTreeMap<Arc<str>, i64>,
    /// The exchanges that have had a binding and delete themselves.
    bound: BTreeSet<ExchangeKey>,
}

impl Audit {
    pub(super) fn consumes(&mut self, session: SessionId, channel: ChannelId, tag: &Arc<str>, queue: &Arc<str>) {
        self.consumers.insert((session, channel, Arc::clone(tag)), Arc::clone(queue));
    }

    /// The queue of a consumer that there is or was.
    pub(super) fn queue_of(&self, session: SessionId, channel: ChannelId, tag: &Arc<str>) -> Arc<str> {
        Arc::clone(&self.consumers[&(session, channel, Arc::clone(tag))])
    }

    /// A get brings what was first in its queue, but for what is over.
    pub(super) fn is_first(&self, queue: &str, number: Option<i64>, now: Instant) {
        let line = self.lines.get(queue).map(Vec::as_slice).unwrap_or_default();
        let first = line.iter().find(|(_, expires)| expires.is_none_or(|at| at > now)).map(|(number, _)| *number);
        assert_eq!(number, first, "the first of {queue}: {line:?}");
    }

    pub(super) fn nothing_is_out(&self) {
        assert!(self.copies.values().all(|seen| seen.waits));
    }

    pub(super) fn check(&mut self, engine: &Engine<Note>, now: Instant, is_publish: bool, done: &Done) {
        let copies = self.walk(engine);
        check_consumers(engine);
        check_exchanges(engine);
        self.check_unbound(engine);
        self.check_deliveries(engine, is_publish, done);
        self.account(engine, copies, engine.epoch.moment(now), done);
        let lines = engine.queues.iter().map(|(_, queue)| {
            let line = queue.waiting().into_iter();
            let line = line.map(|stored| (stored.message.number, engine.epoch.instant(stored.expires)));
            (Arc::clone(&queue.spec.name), line.collect())
        });
        self.lines = lines.collect();
    }

    fn walk(&mut self, engine: &Engine<Note>) -> BTreeMap<CopyId, Seen> {
        let mut copies = BTreeMap::new();
        let mut bytes = 0;
        let mut outs: BTreeMap<ConsumerKey, usize> = BTreeMap::new();
        let mut out_of: BTreeMap<QueueKey, (usize, usize)> = BTreeMap::new();
        let mut see = |queue: QueueKey, stored: &Stored<Note>, waits: bool| {
            let seen = Seen { queue, number: stored.message.number, waits, expires: stored.expires };
            assert!(copies.insert(stored.copy, seen).is_none(), "in one place: {:?}", stored.copy);
            assert!(stored.copy.0 < engine.next_copy);
        };
        for (_, channel) in engine.channels.iter() {
            let mut consumed = 0;
            for out in channel.out.values() {
                see(out.queue, &out.stored, false);
                if let Some(consumer) = out.consumer {
                    *outs.entry(consumer).or_default() += 1;
                    consumed += 1;
                }
                let weight = out.stored.message.weight();
                let (count, of) = out_of.entry(out.queue).or_default();
                (*count, *of) = (*count + 1, *of + weight);
                let handed = self.handed.entry(out.queue).or_insert(out.stored.copy);
                *handed = (*handed).max(out.stored.copy);
                bytes += weight;
            }
            assert_eq!(channel.consumed, consumed, "what came by consumers");
            assert_eq!(engine.sessions[&channel.session].is_paused, channel.is_paused);
        }
        for (key, queue) in engine.queues.iter() {
            let waiting = queue.waiting();
            let handed = self.handed.get(&key).copied();
            for stored in &waiting {
                see(key, stored, true);
                let was_out = handed.is_some_and(|handed| stored.copy <= handed);
                assert!(was_out || !stored.redelivered, "only what was out is marked");
                // With priorities, or limits, what comes later may have gone out before.
                if queue.settings.priorities.is_none() {
                    assert_eq!(stored.redelivered, was_out, "what was not out comes after all that was");
                }
                assert_eq!(stored.returns > 0, stored.redelivered);
            }
            let weight: usize = waiting.iter().map(|stored| stored.message.weight()).sum();
            let bodies: usize = waiting.iter().map(|stored| stored.message.body_len()).sum();
            assert_eq!((queue.len(), queue.waiting_bytes, queue.waiting_body_bytes), (waiting.len(), weight, bodies));
            assert_eq!((queue.out, queue.out_bytes), out_of.get(&key).copied().unwrap_or_default());
            bytes += weight;
            assert!(!queue.is_over_limit(), "the limit of {}", queue.spec.name);
            assert_eq!(engine.queue_names.get(&queue.spec.name), Some(&key));
            assert!(queue.wake.is_none_or(|at| engine.wakes.contains(&(at, key))));
            if let Some(deadline) = queue.deadline() {
                assert!(queue.wake.is_some_and(|at| at <= deadline), "nothing is overslept: {}", queue.spec.name);
            }
            let mut consumers = queue.consumers.iter();
            assert!(
                waiting.is_empty() || !consumers.any(|consumer| is_able(engine, consumer)),
                "no message waits in {} beside a consumer that takes it",
                queue.spec.name
            );
            assert!(queue.owner.is_none_or(|owner| engine.sessions[&owner].own.contains(&key)));
            assert!(queue.consumers.exclusive.is_none() || queue.consumers.len() == 1);
            assert!(!queue.deletes_itself());
        }
        assert_eq!(engine.bytes, bytes);
        assert_eq!(engine.queue_names.len(), engine.queues.iter().count());
        assert_eq!(engine.exchange_names.len(), engine.exchanges.iter().count());
        assert_eq!(engine.wakes.len(), engine.queues.iter().filter(|(_, queue)| queue.wake.is_some()).count());
        assert!(engine.dead.is_empty());
        for (key, consumer) in engine.consumers.iter() {
            let out = outs.remove(&key).unwrap_or_default();
            assert_eq!(consumer.out, out);
            let most = consumer.prefetch.filter(|most| *most > 0).map_or(usize::MAX, usize::from);
            assert!(out <= most, "the prefetch");
        }
        copies
    }

    /// An exchange that deletes itself has gone with its last binding.
    fn check_unbound(&mut self, engine: &Engine<Note>) {
        for (key, exchange) in engine.exchanges.iter().filter(|(_, known)| known.spec.auto_delete == AutoDelete::Yes) {
            if exchange.is_used() {
                self.bound.insert(key);
            }
            assert!(exchange.is_used() || !self.bound.contains(&key), "{} is not used any more", exchange.spec.name);
        }
    }

    fn check_deliveries(&mut self, engine: &Engine<Note>, is_publish: bool, done: &Done) {
        for delivery in &done.deliveries {
            let queue = &self.queue_of(delivery.session, delivery.channel, &delivery.tag);
            // What is published comes in order out of these, but for what died elsewhere before.
            let in_order = ["plain", "ttl", "single", "short", "narrow", "refusing"].contains(&&**queue);
            if !delivery.redelivered && in_order && !delivery.has_died {
                let last = self.last.entry(Arc::clone(queue)).or_default();
                assert!(delivery.number > *last, "in order: {delivery:?} after {last}");
                *last = delivery.number;
            }
            let key = engine.sessions.get(&delivery.session).and_then(|known| known.channels.get(&delivery.channel));
            let Some(channel) = key.and_then(|key| engine.channels.get(*key)) else { continue };
            if channel.is_paused {
                let session = &engine.sessions[&delivery.session];
                let most = session.allowance.expect("nothing goes to a session that takes nothing");
                // One message weighs at most 130.
                assert!((most..most + 130).contains(&session.handed), "{most}, {}", session.handed);
            }
            let Some(key) = channel.consumers.get(&delivery.tag).copied() else { continue };
            let consumer = engine.consumers.get(key).unwrap();
            if consumer.prefetch.is_some() {
                assert!(channel.prefetch == 0 || channel.consumed <= usize::from(channel.prefetch), "{delivery:?}");
            }
            let Some(queue) = engine.queues.get(consumer.queue).filter(|_| is_publish) else { continue };
            assert!(queue.consumers.serves(key), "only to the active one: {delivery:?}");
            let passed_over = queue.consumers.iter().filter(|other| is_able(engine, *other));
            let most = passed_over.filter_map(|other| engine.consumers.get(other)).map(|other| other.priority).max();
            assert!(most.is_none_or(|most| most <= consumer.priority), "the most urgent first: {delivery:?}");
        }
    }

    /// Every copy that came or went has a reason.
    fn account(&mut self, engine: &Engine<Note>, copies: BTreeMap<CopyId, Seen>, now: Moment, done: &Done) {
        let grave = engine.queue_names[GRAVE];
        let name = |key| engine.queues.get(key).map(|queue| Arc::clone(&queue.spec.name));
        let mut consumed = done.consumed.clone();
        let mut deaths = done.deaths.clone();
        let mut buried = Vec::new();
        for (copy, seen) in &copies {
            match self.copies.get(copy) {
                Some(before) => {
                    assert_eq!((before.number, before.expires, before.queue), (seen.number, seen.expires, seen.queue));
                }
                None => {
                    let died = done.deaths.iter().any(|(number, ..)| *number == seen.number);
                    assert!(
                        done.published == Some(seen.number) || died,
                        "a message came out of nowhere: {copy:?} {seen:?}"
                    );
                    if seen.queue == grave {
                        buried.push(seen.number);
                    }
                }
            }
        }
        let mut vanished: Vec<_> = self.copies.iter().filter(|(copy, _)| !copies.contains_key(copy)).collect();
        // Of two copies of one message in a queue that which was over is not the one that was consumed.
        vanished.sort_by_key(|(_, seen)| seen.expires <= now);
        for (copy, seen) in vanished {
            let Some(queue) = engine.queues.get(seen.queue) else { continue };
            let settled = done.settled.get(copy).copied();
            if settled == Some(Settled::Acknowledged) {
                continue;
            }
            let may_die = |reason| match reason {
                Reason::Expired => seen.expires <= now,
                Reason::Rejected => settled == Some(Settled::Discarded),
                Reason::MaxLength => queue.settings.overflow == Overflow::DropHead && queue.settings.has_limit(),
                Reason::DeliveryLimit => queue.settings.delivery_limit.is_some(),
            };
            let lettered = queue.settings.dead_letters.is_some();
            let death = take(&mut deaths, |(number, from, _)| *number == seen.number && *from == queue.spec.name);
            let was = |(number, from): &(i64, Arc<str>)| *number == seen.number && *from == queue.spec.name;
            match death {
                Some((_, _, reason)) => assert!(may_die(reason), "{copy:?} {seen:?} {reason:?}"),
                None if take(&mut consumed, was).is_some() => {}
                None if done.purged == Some(&*queue.spec.name) && seen.waits => {}
                None => {
                    assert!(!lettered, "a dead letter was lost: {copy:?} {seen:?} of {}", queue.spec.name);
                    let any = [Reason::Expired, Reason::Rejected, Reason::MaxLength, Reason::DeliveryLimit];
                    assert!(any.into_iter().any(may_die), "a message was lost: {copy:?} {seen:?}");
                }
            }
        }
        // What died and was not there before came in this step: it was published, or had died elsewhere.
        for (number, from, reason) in &deaths {
            let came =
                done.published == Some(*number) || done.deaths.iter().filter(|(died, ..)| died == number).count() > 1;
            let gone = name(grave).is_none() || !engine.queue_names.contains_key(from);
            assert!(came || gone, "died once too often: {number} in {from}, {reason:?}");
        }
        // What was consumed and was not there before came in this step.
        for (number, _) in consumed {
            let died = done.deaths.iter().any(|(died, ..)| *died == number);
            assert!(done.published == Some(number) || died, "consumed out of nowhere: {number}");
        }
        let to_grave = |from: &str| !matches!(from, "passing");
        let mut expected: Vec<_> =
            done.deaths.iter().filter(|(_, from, _)| to_grave(from)).map(|(number, ..)| *number).collect();
        expected.sort_unstable();
        buried.sort_unstable();
        if done.published.is_none_or(|published| !buried.contains(&published) || expected.contains(&published)) {
            assert_eq!(buried, expected, "what died went to the grave");
        }
        self.copies = copies;
    }
}

fn take<T>(all: &mut Vec<T>, is: impl Fn(&T) -> bool) -> Option<T> {
    let at = all.iter().position(is)?;
    Some(all.swap_remove(at))
}

/// Whether a consumer would get a message now.
fn is_able(engine: &Engine<Note>, key: ConsumerKey) -> bool {
    let consumer = engine.consumers.get(key).unwrap();
    let channel = engine.channels.get(consumer.channel).unwrap();
    let queue = engine.queues.get(consumer.queue).unwrap();
    consumer.takes_more() && channel.takes_more() && queue.consumers.serves(key)
}

fn check_consumers(engine: &Engine<Note>) {
    for (key, consumer) in engine.consumers.iter() {
        let channel = engine.channels.get(consumer.channel).unwrap();
        assert_eq!(channel.consumers[&consumer.tag], key);
        let queue = engine.queues.get(consumer.queue).unwrap();
        assert!(queue.consumers.iter().any(|known| known == key));
        // One that is able is in line, or its channel knows it.
        if is_able(engine, key) {
            assert!(consumer.is_in_line(), "{} is forgotten", consumer.tag);
        }
    }
    let known: usize = engine.channels.iter().map(|(_, channel)| channel.consumers.len()).sum();
    assert_eq!(known, engine.consumers.iter().count());
    let of_queues: usize = engine.queues.iter().map(|(_, queue)| queue.consumers.len()).sum();
    assert_eq!(of_queues, engine.consumers.iter().count());
    for (_, queue) in engine.queues.iter().filter(|(_, queue)| queue.settings.activity == Activity::Single) {
        let active = queue.consumers.iter().filter(|key| queue.consumers.serves(*key)).count();
        assert_eq!(active, usize::from(!queue.consumers.is_empty()), "one is active");
    }
    let channels: usize = engine.sessions.values().map(|session| session.channels.len()).sum();
    assert_eq!(channels, engine.channels.iter().count());
}

fn check_exchanges(engine: &Engine<Note>) {
    let mut known = 0;
    for (key, exchange) in engine.exchanges.iter() {
        assert_eq!(engine.exchange_names.get(&exchange.spec.name), Some(&key));
        for (target, by, _) in exchange.bindings() {
            let sources = match target {
                exchange::Target::Queue(key) => &engine.queues.get(key).unwrap().sources,
                exchange::Target::Exchange(key) => &engine.exchanges.get(key).unwrap().sources,
            };
            assert!(sources.contains(&(key, Arc::clone(by))), "both ends know a binding");
        }
        known += exchange.keys();
    }
    let of_queues: usize = engine.queues.iter().map(|(_, queue)| queue.sources.len()).sum();
    let of_exchanges: usize = engine.exchanges.iter().map(|(_, exchange)| exchange.sources.len()).sum();
    assert_eq!(of_queues + of_exchanges, known, "both ends know a binding");
}
