//! Random requests against simple invariants, after each of them. A failing seed is printed; `HOMING_TEST_SEED` runs it alone.

use std::fmt::Write as _;
use std::time::Duration;

use super::tests::{content, number};
use super::*;
use crate::broker::samples::queue;

const SEEDS: u64 = 50;
const STEPS: usize = 250;

/// Numbers that depend on the seed alone (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Names a copy of a message for as long as it is in one queue, or out of it.
type Copy = (Key<Queue>, u64);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    number: i64,
    waits: bool,
    expires: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Acknowledged,
    Requeued,
    Discarded,
}

/// What a step may have done to a message.
#[derive(Clone, Debug, Default)]
struct Done {
    published: Option<i64>,
    settled: Option<(Copy, Settled)>,
    /// Delivered to a consumer that does not acknowledge.
    consumed: Vec<i64>,
}

struct Run {
    random: Random,
    engine: Engine,
    now: Instant,
    sessions: Vec<SessionId>,
    receipts: Vec<(SessionId, Receipt)>,
    next_number: i64,
    next_tag: u64,
    copies: BTreeMap<Copy, Seen>,
    /// The last place that was ever handed out of a queue.
    handed: BTreeMap<Key<Queue>, u64>,
    delivered: BTreeSet<(SessionId, Lane, u32, u64)>,
    /// How many left a queue that sends its dead letters to the grave.
    deaths: u64,
    log: String,
}

const QUEUES: [&str; 6] = ["plain", "ttl", "lease", "own", "auto", "idle"];
const GRAVE: &str = "grave";
const KEYS: [&str; 6] = ["a", "a.b", "a.b.c", "b", "b.c", ""];
const PATTERNS: [&str; 7] = ["a", "a.b", "a.*", "a.#", "#", "*.b", "#.c"];

fn spec(name: &str) -> QueueSpec {
    let plain = queue(name);
    match name {
        "ttl" => QueueSpec { message_ttl: Some(Duration::from_secs(5)), ..plain },
        "lease" => {
            QueueSpec { message_ttl: Some(Duration::from_secs(3)), dead_letter_to: Some(GRAVE.to_owned()), ..plain }
        }
        "own" => QueueSpec { access: Access::Exclusive, dead_letter_to: Some(GRAVE.to_owned()), ..plain },
        "auto" => QueueSpec { auto_delete: AutoDelete::Yes, message_ttl: Some(Duration::ZERO), ..plain },
        "idle" => QueueSpec { expires: Some(Duration::from_secs(4)), ..plain },
        _ => plain,
    }
}

impl Run {
    fn new(seed: u64, now: Instant) -> Self {
        let mut engine = Engine::new(now);
        let session = engine.connect(now);
        engine.declare_queue(session, &spec(GRAVE), now).unwrap();
        Run {
            random: Random(seed),
            engine,
            now,
            sessions: vec![session],
            receipts: Vec::new(),
            next_number: 0,
            next_tag: 0,
            copies: BTreeMap::new(),
            handed: BTreeMap::new(),
            delivered: BTreeSet::new(),
            deaths: 0,
            log: String::new(),
        }
    }

    fn step(&mut self) {
        let mut done = Done::default();
        let session = self.random.pick(&self.sessions);
        let name = self.random.pick(&QUEUES);
        let lane = Lane(self.random.below(2) as u32);
        let now = self.now;
        let kinds =
            ["send", "publish", "get", "settle", "consume", "cancel", "declare", "bind", "delete", "time", "who"];
        let weights = [18, 10, 8, 28, 10, 5, 6, 5, 2, 6, 2];
        let mut at = self.random.below(weights.iter().sum());
        let kind =
            kinds.iter().zip(weights).find(|(_, weight)| at.checked_sub(*weight).map(|left| at = left).is_none());
        let kind = *kind.unwrap().0;
        let result = match kind {
            "send" | "publish" => {
                self.next_number += 1;
                done.published = Some(self.next_number);
                let (exchange, key) = if kind == "send" { ("", name) } else { ("e", self.random.pick(&KEYS)) };
                let published = self.engine.publish(session, content(exchange, key, self.next_number), now);
                format!("{:?}", published.map(|published| matches!(published, Published::Routed)))
            }
            "get" => {
                let from = if self.random.chance(30) { GRAVE } else { name };
                let got = self.engine.get(session, from, lane, now);
                if let Ok(Some(got)) = &got {
                    self.received(session, got.receipt);
                }
                format!("{:?}", got.map(|got| got.map(|got| (number(&got.content), got.redelivered))))
            }
            "settle" if self.receipts.is_empty() => String::new(),
            "settle" => {
                let at = self.random.below(self.receipts.len());
                // One that stays is settled twice, which closes its lane.
                let (session, receipt) =
                    if self.random.chance(97) { self.receipts.swap_remove(at) } else { self.receipts[at] };
                let how = [Settled::Acknowledged, Settled::Acknowledged, Settled::Requeued, Settled::Discarded];
                let how = self.random.pick(&how);
                done.settled = self.out_under(session, receipt).map(|copy| (copy, how));
                match how {
                    Settled::Acknowledged => self.engine.ack(session, receipt, now),
                    Settled::Requeued => self.engine.nack(session, receipt, Nack::Requeue, now),
                    Settled::Discarded => self.engine.nack(session, receipt, Nack::Discard, now),
                }
                format!("{how:?} {receipt:?}")
            }
            "consume" => {
                self.next_tag += 1;
                let tag = format!("c{}", if self.random.chance(95) { self.next_tag } else { 1 });
                let acknowledge = match self.random.below(5) {
                    0 => Acknowledge::None,
                    prefetch => Acknowledge::Manual { prefetch: prefetch as u16 - 1 },
                };
                let to = if self.random.chance(10) { "none" } else { name };
                let spec = ConsumeSpec { queue: to.to_owned(), tag, lane, acknowledge };
                format!("{:?}", self.engine.consume(session, &spec, now))
            }
            "cancel" => {
                let tags: Vec<_> = self.engine.consumers.iter().map(|(_, known)| Arc::clone(&known.tag)).collect();
                let tag = if tags.is_empty() { "none".into() } else { self.random.pick(&tags) };
                format!("{:?}", self.engine.cancel(session, &tag, now))
            }
            "declare" => format!("{:?}", self.engine.declare_queue(session, &spec(name), now)),
            "bind" => {
                let auto_delete = AutoDelete::Yes;
                let exchange = ExchangeSpec { name: "e".into(), durability: Durability::Transient, auto_delete };
                self.engine.declare_exchange(session, &exchange, ExchangeKind::Topic, now).unwrap();
                let key = self.random.pick(&PATTERNS);
                if self.random.chance(70) {
                    format!("{:?}", self.engine.bind(session, name, "e", key, now))
                } else {
                    format!("{:?}", self.engine.unbind(session, name, "e", key, now))
                }
            }
            "delete" => format!("{:?}", self.engine.delete_queue(session, name, now)),
            "time" => {
                self.now += Duration::from_millis(self.random.next() % 2500);
                self.engine.advance(self.now);
                assert!(self.engine.next_deadline().is_none_or(|at| at > self.now), "nothing is left to be done");
                String::new()
            }
            _ if self.sessions.len() < 2 || self.random.chance(50) => {
                self.sessions.push(self.engine.connect(now));
                String::new()
            }
            _ => {
                let at = self.random.below(self.sessions.len());
                let gone = self.sessions.swap_remove(at);
                self.engine.disconnect(gone, now);
                format!("{gone:?}")
            }
        };
        writeln!(self.log, "{kind} {session:?} {name} {lane:?}: {result}").unwrap();
        self.take_effects(&mut done);
        self.audit(&done);
    }

    fn received(&mut self, session: SessionId, receipt: Receipt) {
        let unique = self.delivered.insert((session, receipt.lane, receipt.opening, receipt.tag));
        assert!(unique, "a delivery tag is given once: {session:?} {receipt:?}");
        self.receipts.push((session, receipt));
    }

    fn out_under(&self, session: SessionId, receipt: Receipt) -> Option<Copy> {
        let lane = self.engine.sessions.get(&session)?.lanes.get(&receipt.lane)?;
        let out = lane.out.get(&receipt.tag).filter(|_| lane.open && lane.opening == receipt.opening)?;
        Some((out.queue, out.message.place))
    }

    fn take_effects(&mut self, done: &mut Done) {
        for effect in self.engine.effects().collect::<Vec<_>>() {
            match effect {
                Effect::Delivery { session, consumer, message } => {
                    let Handed { receipt, redelivered, content } = message;
                    writeln!(self.log, "  to {session:?} {consumer} {receipt:?} {redelivered} {}", number(&content))
                        .unwrap();
                    assert!(self.sessions.contains(&session), "to a session that is there");
                    if self.out_under(session, receipt).is_some() || self.is_acknowledged(session, &consumer) {
                        self.received(session, receipt);
                    } else {
                        done.consumed.push(number(&content));
                    }
                }
                effect => writeln!(self.log, "  {effect:?}").unwrap(),
            }
        }
    }

    fn is_acknowledged(&self, session: SessionId, tag: &str) -> bool {
        let key = self.engine.sessions.get(&session).and_then(|session| session.consumers.get(tag));
        key.and_then(|key| self.engine.consumers.get(*key)).is_some_and(|consumer| consumer.prefetch.is_some())
    }

    /// Walks through everything.
    fn audit(&mut self, done: &Done) {
        let engine = &self.engine;
        let mut copies = BTreeMap::new();
        let mut bytes = 0;
        let mut outs: BTreeMap<Key<Consumer>, usize> = BTreeMap::new();
        let mut out_bytes: BTreeMap<Key<Queue>, usize> = BTreeMap::new();
        for session in engine.sessions.values() {
            for lane in session.lanes.values() {
                assert!(lane.open || (lane.out.is_empty() && lane.consumers.is_empty()), "a closed lane has nothing");
                for out in lane.out.values() {
                    let Stored { place, expires, content, .. } = &out.message;
                    let seen = Seen { number: number(content), waits: false, expires: *expires };
                    assert!(copies.insert((out.queue, *place), seen).is_none(), "in one place");
                    *out.consumer.map_or(&mut 0, |key| outs.entry(key).or_default()) += 1;
                    *out_bytes.entry(out.queue).or_default() += content.weight();
                    let handed = self.handed.entry(out.queue).or_insert(*place);
                    *handed = (*handed).max(*place);
                    bytes += content.weight();
                }
            }
        }
        for (key, queue) in engine.queues.iter() {
            let waiting = queue.waiting();
            let handed = self.handed.get(&key).copied();
            for message in &waiting {
                let seen = Seen { number: number(&message.content), waits: true, expires: message.expires };
                assert!(copies.insert((key, message.place), seen).is_none(), "in one place");
                let was_out = handed.is_some_and(|handed| message.place <= handed);
                assert_eq!(
                    message.redelivered, was_out,
                    "what was not out comes after all that was, and only that is marked"
                );
            }
            let waiting_bytes: usize = waiting.iter().map(|message| message.content.weight()).sum();
            assert_eq!(queue.waiting_bytes, waiting_bytes);
            assert_eq!(queue.out_bytes, out_bytes.get(&key).copied().unwrap_or_default());
            bytes += waiting_bytes;
            assert_eq!(engine.queue_names.get(&queue.name), Some(&key));
            assert!(queue.wake.is_none_or(|at| engine.wakes.contains(&(at, key))));
            if let Some(deadline) = queue.deadline() {
                assert!(queue.wake.is_some_and(|at| at <= deadline), "nothing is overslept");
            }
            let able = queue.consumers.iter().any(|key| engine.consumers.get(*key).unwrap().takes_more());
            assert!(waiting.is_empty() || !able, "no message waits beside a consumer that takes it");
            assert!(queue.owner.is_none_or(|owner| engine.sessions[&owner].own.contains(&key)));
        }
        assert_eq!(engine.bytes, bytes);
        assert_eq!(engine.queue_names.len(), engine.queues.iter().count());
        assert_eq!(engine.exchange_names.len(), engine.exchanges.iter().count());
        assert_eq!(engine.wakes.len(), engine.queues.iter().filter(|(_, queue)| queue.wake.is_some()).count());
        for (key, consumer) in engine.consumers.iter() {
            let out = outs.remove(&key).unwrap_or_default();
            assert_eq!(consumer.out, out);
            let most = consumer.prefetch.filter(|most| *most > 0).map_or(usize::MAX, usize::from);
            assert!(out <= most, "the prefetch");
            let session = &engine.sessions[&consumer.session];
            assert_eq!(session.consumers[&consumer.tag], key);
            assert!(session.lanes[&consumer.lane].consumers.contains(&key));
            assert!(engine.queues.get(consumer.queue).unwrap().consumers.contains(&key));
        }
        let known: usize = engine.sessions.values().map(|session| session.consumers.len()).sum();
        assert_eq!(known, engine.consumers.iter().count());
        for (key, exchange) in engine.exchanges.iter() {
            let bound = engine.queues.iter().flat_map(|(_, queue)| &queue.bindings).filter(|(to, _)| *to == key);
            assert_eq!(exchange.bindings(), bound.count());
        }
        self.account(copies, done);
    }

    /// Every copy that came or went has a reason.
    fn account(&mut self, copies: BTreeMap<Copy, Seen>, done: &Done) {
        let grave = self.engine.queue_names[GRAVE];
        let mut consumed = done.consumed.clone();
        let mut consume = |number: i64| {
            let at = consumed.iter().position(|known| *known == number);
            at.map(|at| consumed.swap_remove(at)).is_some()
        };
        for (copy, seen) in &copies {
            match self.copies.get(copy) {
                Some(before) => assert_eq!((before.number, before.expires), (seen.number, seen.expires)),
                None => assert!(
                    done.published == Some(seen.number) || copy.0 == grave,
                    "a message came out of nowhere: {copy:?} {seen:?}"
                ),
            }
        }
        for (copy, seen) in self.copies.iter().filter(|(copy, _)| !copies.contains_key(copy)) {
            let queue = self.engine.queues.get(copy.0);
            let settled = done.settled.filter(|(settled, _)| settled == copy).map(|(_, how)| how);
            let expired = seen.expires.is_some_and(|at| at <= self.now);
            let dies = match settled {
                Some(Settled::Acknowledged) => false,
                Some(Settled::Discarded) => true,
                Some(Settled::Requeued) | None => expired,
            };
            let dead_letters = queue.is_some_and(|queue| queue.dead_letter_to.is_some());
            self.deaths += u64::from(dies && dead_letters);
            let why = dies || settled == Some(Settled::Acknowledged) || queue.is_none() || consume(seen.number);
            assert!(why, "a message was lost: {copy:?} {seen:?}");
        }
        for number in consumed {
            assert_eq!(Some(number), done.published, "consumed as it came");
        }
        let arrivals = self.engine.queues.get(grave).unwrap().arrivals();
        assert_eq!(arrivals, self.deaths, "what died went to the grave");
        self.copies = copies;
    }

    /// What every client has goes back, and everything is found again but for what is over.
    fn finish(&mut self) {
        while let Some(session) = self.sessions.pop() {
            self.engine.disconnect(session, self.now);
            let mut done = Done::default();
            self.take_effects(&mut done);
            self.audit(&done);
        }
        assert!(self.copies.values().all(|seen| seen.waits));
        let session = self.engine.connect(self.now);
        for name in QUEUES.iter().chain([&GRAVE]) {
            self.engine.delete_queue(session, name, self.now).unwrap();
        }
        self.engine.disconnect(session, self.now);
        assert!(self.engine.is_spent());
        assert_eq!((self.engine.bytes(), self.engine.next_deadline()), (0, None));
        assert!(self.engine.wakes.is_empty() && self.engine.consumers.is_empty());
    }
}

/// Prints the seed when a step fails.
struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {0}: HOMING_TEST_SEED={0} runs it alone", self.0);
        }
    }
}

fn run(seed: u64, begun: Instant) -> String {
    let _shown = Shown(seed);
    let mut run = Run::new(seed, begun);
    for _ in 0..STEPS {
        run.step();
    }
    run.finish();
    run.log
}

#[test]
fn whatever_is_asked_no_message_is_lost_or_doubled_and_the_same_requests_have_the_same_effects() {
    let one = std::env::var("HOMING_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let begun = Instant::now();
    let mut longest = 0;
    for seed in seeds {
        let log = run(seed, begun);
        assert_eq!(log, run(seed, begun), "seed {seed} runs otherwise the second time");
        longest = longest.max(log.matches("\n  to ").count());
    }
    assert!(one.is_some() || longest > STEPS / 10, "the runs do something: {longest} deliveries at most");
}
