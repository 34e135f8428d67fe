//! A random program: what is asked, and what may have come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::tests::world::{Note, Parts, lettered, millis, queue, take_deaths};
use super::super::*;
use super::audit::Audit;
use super::random::Random;
use super::routes;
use super::store::Kept;

/// What a step may have done to messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) published: Option<i64>,
    pub(super) settled: BTreeMap<CopyId, Settled>,
    /// Handed to somebody who does not acknowledge: number and queue.
    pub(super) consumed: Vec<(i64, Arc<str>)>,
    pub(super) purged: Option<&'static str>,
    /// Deliveries to consumers, in order.
    pub(super) deliveries: Vec<Delivery>,
    /// The dead letters that were written: number, queue, why.
    pub(super) deaths: Vec<(i64, Arc<str>, Reason)>,
}

#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) session: SessionId,
    pub(super) channel: ChannelId,
    pub(super) tag: Arc<str>,
    pub(super) number: i64,
    pub(super) redelivered: bool,
    /// It died elsewhere before.
    pub(super) has_died: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Acknowledged,
    Requeued,
    Discarded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Send,
    Publish,
    Get,
    Settle,
    Recover,
    Qos,
    Consume,
    Cancel,
    Declare,
    Delete,
    Purge,
    Exchange,
    DeleteExchange,
    Bind,
    Unbind,
    Pause,
    Channel,
    Time,
    Session,
    Restart,
}

const KINDS: [(Kind, usize); 20] = [
    (Kind::Send, 44),
    (Kind::Publish, 30),
    (Kind::Get, 9),
    (Kind::Settle, 40),
    (Kind::Recover, 2),
    (Kind::Qos, 4),
    (Kind::Consume, 18),
    (Kind::Cancel, 5),
    (Kind::Declare, 9),
    (Kind::Delete, 2),
    (Kind::Purge, 1),
    (Kind::Exchange, 4),
    (Kind::DeleteExchange, 1),
    (Kind::Bind, 9),
    (Kind::Unbind, 3),
    (Kind::Pause, 3),
    (Kind::Channel, 3),
    (Kind::Time, 8),
    (Kind::Session, 3),
    (Kind::Restart, 3),
];

const QUEUES: [&str; 14] = [
    "plain", "ttl", "lease", "own", "auto", "idle", "short", "narrow", "refusing", "burying", "urgent", "single",
    "quorum", "passing",
];
/// Where the dead go; it has no consumers and no limits.
pub(super) const GRAVE: &str = "grave";
const KEYS: [&str; 6] = ["a", "a.b", "a.b.c", "b", "b.c", ""];
const PATTERNS: [&str; 7] = ["a", "a.b", "a.*", "a.#", "#", "*.b", "#.c"];
const EXCHANGES: [(&str, ExchangeKind); 5] = [
    ("topic", ExchangeKind::Topic),
    ("direct", ExchangeKind::Direct),
    ("fanout", ExchangeKind::Fanout),
    ("headers", ExchangeKind::Headers),
    ("inner", ExchangeKind::Fanout),
];

/// The queue of this name, the same each time.
fn spec(name: &str) -> QueueSpec {
    let plain = queue(name);
    let seconds = |seconds| millis(Duration::from_secs(seconds));
    let with = |mut spec: QueueSpec, argument, field| {
        spec.arguments.insert(argument, field);
        spec
    };
    match name {
        "ttl" => with(plain, "x-message-ttl", seconds(5)),
        "lease" => lettered(with(plain, "x-message-ttl", seconds(3)), GRAVE),
        "own" => lettered(QueueSpec { access: Access::Exclusive, ..plain }, GRAVE),
        "auto" => with(QueueSpec { auto_delete: AutoDelete::Yes, ..plain }, "x-message-ttl", Field::I32(0)),
        "idle" => with(QueueSpec { durability: Durability::Transient, ..plain }, "x-expires", seconds(4)),
        "short" => lettered(with(plain, "x-max-length", Field::I32(3)), GRAVE),
        "narrow" => with(plain, "x-max-length-bytes", Field::I32(60)),
        "refusing" => with(with(plain, "x-max-length", Field::I32(2)), "x-overflow", Field::text("reject-publish")),
        "burying" => {
            let spec = with(plain, "x-overflow", Field::text("reject-publish-dlx"));
            lettered(with(spec, "x-max-length", Field::I32(2)), GRAVE)
        }
        "urgent" => with(plain, "x-max-priority", Field::U8(3)),
        "single" => with(plain, "x-single-active-consumer", Field::Bool(true)),
        "quorum" => {
            let spec = with(plain, "x-queue-type", Field::text("quorum"));
            lettered(with(spec, "x-delivery-limit", Field::I32(2)), GRAVE)
        }
        // Its dead letters go through an exchange that may be missing, keep their keys, and may come back.
        "passing" => with(with(plain, "x-dead-letter-exchange", Field::text("fanout")), "x-message-ttl", seconds(2)),
        _ => plain,
    }
}

fn exchange(name: &str, kind: ExchangeKind) -> ExchangeSpec {
    let mut spec = ExchangeSpec::new(name, kind);
    match name {
        "topic" => spec.auto_delete = AutoDelete::Yes,
        "direct" => spec.arguments.insert("alternate-exchange", Field::text("inner")),
        "fanout" => spec.durability = Durability::Transient,
        "inner" => spec.publishers = Publishers::Exchanges,
        _ => {}
    }
    spec
}

pub(super) struct Run {
    random: Random,
    pub(super) engine: Engine<Note>,
    pub(super) now: Instant,
    pub(super) sessions: Vec<SessionId>,
    receipts: Vec<(SessionId, ChannelId, u64)>,
    next_number: i64,
    next_tag: u64,
    /// How often a channel was opened.
    openings: BTreeMap<(SessionId, ChannelId), u64>,
    given: BTreeSet<(SessionId, ChannelId, u64, u64)>,
    audit: Audit,
    kept: Kept,
    pub(super) log: String,
    shown: usize,
}

impl Run {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        take_deaths();
        let mut run = Run {
            random: Random(seed),
            engine: Engine::new(now),
            now,
            sessions: Vec::new(),
            receipts: Vec::new(),
            next_number: 0,
            next_tag: 0,
            openings: BTreeMap::new(),
            given: BTreeSet::new(),
            audit: Audit::default(),
            kept: Kept::default(),
            log: String::new(),
            shown: 0,
        };
        run.connect();
        let session = run.sessions[0];
        for name in QUEUES.iter().chain([&GRAVE]) {
            run.engine.declare_queue(session, &spec(name), now).unwrap();
        }
        for (name, kind) in EXCHANGES {
            run.engine.declare_exchange(session, &exchange(name, kind), now).unwrap();
        }
        run
    }

    fn connect(&mut self) {
        let session = self.engine.connect(self.now);
        self.sessions.push(session);
        for channel in [1, 2] {
            self.open(session, ChannelId(channel));
        }
    }

    fn open(&mut self, session: SessionId, channel: ChannelId) {
        self.engine.open_channel(session, channel, self.now).unwrap();
        *self.openings.entry((session, channel)).or_default() += 1;
    }

    fn note(&mut self, exchange: &str, key: &str) -> Note {
        self.next_number += 1;
        let random = &mut self.random;
        let copies = |random: &mut Random| -> Vec<Arc<str>> {
            if random.chance(8) { vec![random.pick(&QUEUES).into(), random.pick(&KEYS).into()] } else { Vec::new() }
        };
        let mut headers = Arguments::new();
        if random.chance(50) {
            headers.insert("colour", Field::text(random.pick(&["red", "blue"])));
        }
        if random.chance(50) {
            headers.insert("size", Field::I32(random.below(3) as i32));
        }
        Note::of(Parts {
            exchange: exchange.to_owned(),
            key: key.to_owned(),
            number: self.next_number,
            priority: random.below(6) as u8,
            ttl: random.chance(15).then(|| Duration::from_millis(random.next() % 6000)),
            is_transient: random.chance(25),
            makes_room: false,
            size: random.below(30),
            cc: copies(random),
            bcc: copies(random),
            headers,
            deaths: Vec::new(),
        })
    }

    fn binding(&mut self) -> Binding {
        let random = &mut self.random;
        let (source, kind) = random.pick(&EXCHANGES);
        let destination = if random.chance(25) {
            Destination::Exchange(random.pick(&EXCHANGES).0.into())
        } else {
            Destination::Queue(random.pick(&QUEUES).into())
        };
        let mut arguments = Arguments::new();
        if kind == ExchangeKind::Headers || random.chance(10) {
            arguments.insert("x-match", Field::text(random.pick(&["all", "any", "all", "some"])));
            if random.chance(70) {
                arguments.insert("colour", Field::text(random.pick(&["red", "green"])));
            }
            if random.chance(50) {
                arguments.insert("size", Field::I64(random.below(3) as i64));
            }
        }
        Binding { source: source.into(), destination, key: random.pick(&PATTERNS).into(), arguments }
    }

    pub(super) fn step(&mut self) {
        let mut done = Done::default();
        let session = self.random.pick(&self.sessions);
        let name = self.random.pick(&QUEUES);
        let channel = ChannelId(1 + self.random.below(2) as u32);
        let kind = self.random.weighed(&KINDS);
        let result = self.ask(kind, session, name, channel, &mut done);
        writeln!(self.log, "{kind:?} {session:?} {name} {channel:?}: {result}").unwrap();
        self.check(kind == Kind::Send || kind == Kind::Publish, done);
    }

    fn ask(
        &mut self,
        kind: Kind,
        session: SessionId,
        name: &'static str,
        channel: ChannelId,
        done: &mut Done,
    ) -> String {
        let now = self.now;
        match kind {
            Kind::Send | Kind::Publish => {
                let note = if kind == Kind::Send {
                    self.note("", name)
                } else {
                    let (exchange, _) = self.random.pick(&EXCHANGES);
                    let key = self.random.pick(&KEYS);
                    self.note(exchange, key)
                };
                done.published = Some(note.number);
                self.is_routed(&note);
                let number = note.number;
                let published = self.engine.publish(session, note, now);
                format!(
                    "{number} {}",
                    match published {
                        Ok(Published::Routed { stored }) => format!("routed {stored:?}"),
                        Ok(Published::Unroutable(_)) => "unroutable".to_owned(),
                        Ok(Published::Rejected) => "rejected".to_owned(),
                        Err(refusal) => format!("{refusal:?}"),
                    }
                )
            }
            Kind::Get => {
                // What is over since now goes before, so that the audit sees what is first.
                self.engine.advance(now);
                self.check(false, Done::default());
                let from = if self.random.chance(30) { GRAVE } else { name };
                let acknowledge = self.random.pick(&[Acknowledge::Manual, Acknowledge::Manual, Acknowledge::None]);
                let got = self.engine.get(session, channel, from, acknowledge, now);
                if let Ok(got) = &got {
                    self.audit.is_first(from, got.as_ref().map(|got| got.handed.message.number), now);
                }
                if let Ok(Some(got)) = &got {
                    let tag = got.handed.tag;
                    match acknowledge {
                        Acknowledge::Manual => self.receipts.push((session, channel, tag)),
                        Acknowledge::None => done.consumed.push((got.handed.message.number, from.into())),
                    }
                    self.given(session, channel, tag);
                }
                let shown = |got: Got<Note>| (got.handed.message.number, got.handed.redelivered, got.left);
                format!("{acknowledge:?} {:?}", got.map(|got| got.map(shown)))
            }
            Kind::Settle => {
                if self.receipts.is_empty() {
                    return String::new();
                }
                let at = self.random.below(self.receipts.len());
                // One that stays is settled twice, which is refused.
                let (session, channel, tag) =
                    if self.random.chance(97) { self.receipts.swap_remove(at) } else { self.receipts[at] };
                let tags = match self.random.below(10) {
                    0 => Tags::UpTo(0),
                    1 | 2 => Tags::UpTo(tag),
                    _ => Tags::One(tag),
                };
                let how = [Settled::Acknowledged, Settled::Acknowledged, Settled::Requeued, Settled::Discarded];
                let how = self.random.pick(&how);
                let known = self.out_under(session, channel, tags);
                let result = match how {
                    Settled::Acknowledged => self.engine.ack(session, channel, tags, now),
                    Settled::Requeued => self.engine.nack(session, channel, tags, Nack::Requeue, now),
                    Settled::Discarded => self.engine.nack(session, channel, tags, Nack::Discard, now),
                };
                assert_eq!(result.is_ok(), known.is_some(), "{how:?} {tags:?}: {result:?}");
                done.settled = known.into_iter().flatten().map(|copy| (copy, how)).collect();
                format!("{session:?} {channel:?} {how:?} {tags:?} {result:?}")
            }
            Kind::Recover => {
                let known = self.out_under(session, channel, Tags::UpTo(0));
                done.settled = known.into_iter().flatten().map(|copy| (copy, Settled::Requeued)).collect();
                format!("{:?}", self.engine.recover(session, channel, now))
            }
            Kind::Qos => {
                let most = self.random.below(4) as u16;
                let prefetch =
                    if self.random.chance(60) { Prefetch::Channel(most) } else { Prefetch::EachConsumer(most) };
                format!("{prefetch:?} {:?}", self.engine.qos(session, channel, prefetch, now))
            }
            Kind::Consume => {
                self.next_tag += 1;
                let tag = format!("c{}", if self.random.chance(95) { self.next_tag } else { 1 });
                let to = if self.random.chance(5) { "none" } else { name };
                let mut spec = ConsumeSpec::new(to, channel, &tag);
                match self.random.below(5) {
                    0 => spec.acknowledge = Acknowledge::None,
                    1 => {}
                    prefetch => spec.prefetch = Some(prefetch as u16 - 2),
                }
                spec.priority = self.random.pick(&[0, 0, 0, 5, -5]);
                if self.random.chance(5) {
                    spec.access = Access::Exclusive;
                }
                let result = self.engine.consume(session, &spec, now);
                if result.is_ok() {
                    self.audit.consumes(session, channel, &spec.tag, &spec.queue);
                }
                format!("{tag} {:?} {} {result:?}", spec.prefetch, spec.priority)
            }
            Kind::Cancel => {
                let known: Vec<_> = self
                    .engine
                    .consumers()
                    .map(|known| (known.session, known.channel, Arc::clone(known.tag)))
                    .collect();
                let (session, channel, tag) =
                    if known.is_empty() { (session, channel, "none".into()) } else { self.random.pick(&known) };
                format!("{tag} {:?}", self.engine.cancel(session, channel, &tag, now))
            }
            Kind::Declare => format!("{:?}", self.engine.declare_queue(session, &spec(name), now)),
            Kind::Delete => {
                let conditions = DeleteQueue { if_unused: self.random.chance(30), if_empty: self.random.chance(30) };
                format!("{conditions:?} {:?}", self.engine.delete_queue(session, name, conditions, now))
            }
            Kind::Purge => {
                let purged = self.engine.purge_queue(session, name, now);
                done.purged = purged.is_ok().then_some(name);
                format!("{purged:?}")
            }
            Kind::Exchange => {
                let (name, kind) = self.random.pick(&EXCHANGES);
                format!("{name} {:?}", self.engine.declare_exchange(session, &exchange(name, kind), now))
            }
            Kind::DeleteExchange => {
                let (name, _) = self.random.pick(&EXCHANGES);
                let condition = self.random.pick(&[DeleteExchange::Always, DeleteExchange::IfUnused]);
                format!("{name} {condition:?} {:?}", self.engine.delete_exchange(session, name, condition, now))
            }
            Kind::Bind => {
                let all: Vec<_> = self.engine.bindings().collect();
                // One that is there may be made again.
                let again = !all.is_empty() && self.random.chance(20);
                let binding = if again { self.random.pick(&all) } else { self.binding() };
                format!("{binding:?} {:?}", self.engine.bind(session, &binding, now))
            }
            Kind::Unbind => {
                let all: Vec<_> = self.engine.bindings().collect();
                let binding = if all.is_empty() { self.binding() } else { self.random.pick(&all) };
                format!("{binding:?} {:?}", self.engine.unbind(session, &binding, now))
            }
            Kind::Pause => {
                let paused = self.random.chance(30);
                if paused {
                    self.engine.pause(session, now);
                } else {
                    self.engine.resume(session, now);
                }
                if self.random.chance(30) {
                    self.engine.deliver_at_most(session, 300);
                }
                format!("paused {paused}")
            }
            Kind::Channel => {
                self.engine.close_channel(session, channel, now);
                self.receipts.retain(|(known, on, _)| (*known, *on) != (session, channel));
                self.open(session, channel);
                String::new()
            }
            Kind::Time => {
                self.now += Duration::from_millis(self.random.next() % 2500);
                self.engine.advance(self.now);
                assert!(self.engine.next_deadline().is_none_or(|at| at > self.now), "nothing is left to be done");
                String::new()
            }
            Kind::Session if self.sessions.len() < 2 || self.random.chance(50) => {
                self.connect();
                String::new()
            }
            Kind::Session => {
                let at = self.random.below(self.sessions.len());
                let gone = self.sessions.swap_remove(at);
                self.engine.disconnect(gone, now);
                self.receipts.retain(|(session, ..)| *session != gone);
                format!("{gone:?}")
            }
            Kind::Restart => {
                self.kept.is_restored(&self.engine, now);
                // Not those of the other engine.
                take_deaths();
                String::new()
            }
        }
    }

    /// The queues that are found are those that a look at each binding finds.
    fn is_routed(&mut self, note: &Note) {
        // What is over goes first.
        self.engine.advance(self.now);
        let mut queues = Vec::new();
        if self.engine.find_queues(note, &mut queues).is_err() {
            return;
        }
        let found: Vec<_> = queues.iter().map(|key| &self.engine.queues.get(*key).unwrap().spec.name).collect();
        let expected = routes::reached(&self.engine, note);
        assert_eq!(found.len(), expected.len(), "{found:?} {expected:?} {note:?}");
        assert!(found.iter().all(|name| expected.contains(*name)), "{found:?} {expected:?} {note:?}");
    }

    fn given(&mut self, session: SessionId, channel: ChannelId, tag: u64) {
        let opening = self.openings[&(session, channel)];
        let unique = self.given.insert((session, channel, opening, tag));
        assert!(unique, "a delivery tag is given once: {session:?} {channel:?} {tag}");
    }

    /// What is out under these tags; `None` where the first of them is unknown.
    fn out_under(&self, session: SessionId, channel: ChannelId, tags: Tags) -> Option<Vec<CopyId>> {
        let key = self.engine.sessions.get(&session)?.channels.get(&channel)?;
        let out = &self.engine.channels.get(*key)?.out;
        match tags {
            Tags::One(tag) => Some(vec![out.get(&tag)?.stored.copy]),
            Tags::UpTo(0) => Some(out.values().map(|out| out.stored.copy).collect()),
            Tags::UpTo(tag) => {
                out.get(&tag)?;
                Some(out.range(..=tag).map(|(_, out)| out.stored.copy).collect())
            }
        }
    }

    fn check(&mut self, is_publish: bool, mut done: Done) {
        let effects: Vec<_> = self.engine.effects().collect();
        for effect in effects {
            self.kept.take(&effect);
            match effect {
                Effect::Delivery { session, channel, consumer, handed } => {
                    let Handed { tag, redelivered, message, .. } = handed;
                    writeln!(
                        self.log,
                        "  to {session:?} {channel:?} {consumer} {tag} {redelivered} {}",
                        message.number
                    )
                    .unwrap();
                    assert!(self.sessions.contains(&session), "to a session that is there");
                    self.given(session, channel, tag);
                    if self.out_under(session, channel, Tags::One(tag)).is_some() {
                        self.receipts.push((session, channel, tag));
                    } else {
                        done.consumed.push((message.number, self.audit.queue_of(session, channel, &consumer)));
                    }
                    let (number, has_died) = (message.number, !message.deaths.is_empty());
                    done.deliveries.push(Delivery { session, channel, tag: consumer, number, redelivered, has_died });
                }
                Effect::Store { copy, queue, message, .. } => {
                    writeln!(self.log, "  store {copy:?} {queue} {}", message.number).unwrap();
                }
                effect => writeln!(self.log, "  {effect:?}").unwrap(),
            }
        }
        done.deaths = take_deaths();
        if std::env::var_os("HOMING_TEST_LOG").is_some() {
            eprint!("{}", &self.log[self.shown..]);
            self.shown = self.log.len();
        }
        self.kept.is_like(&self.engine);
        self.audit.check(&self.engine, self.now, is_publish, &done);
    }

    /// What every client has goes back, and everything is found again but for what is over.
    pub(super) fn finish(&mut self) {
        while let Some(session) = self.sessions.pop() {
            self.engine.disconnect(session, self.now);
            self.check(false, Done::default());
        }
        self.audit.nothing_is_out();
        self.kept.is_restored(&self.engine, self.now);
        let session = self.engine.connect(self.now);
        for name in QUEUES.iter().chain([&GRAVE]) {
            self.engine.delete_queue(session, name, DeleteQueue::default(), self.now).unwrap();
        }
        for (name, _) in EXCHANGES {
            self.engine.delete_exchange(session, name, DeleteExchange::Always, self.now).unwrap();
        }
        self.engine.disconnect(session, self.now);
        assert!(self.engine.is_spent());
        assert_eq!((self.engine.bytes(), self.engine.next_deadline()), (0, None));
        assert!(self.engine.wakes.is_empty() && self.engine.consumers.is_empty() && self.engine.channels.is_empty());
        assert_eq!(self.engine.bindings().count(), 0);
        assert_eq!(self.engine.exchanges().count(), STANDARD.len());
        let effects: Vec<_> = self.engine.effects().collect();
        effects.iter().for_each(|effect| self.kept.take(effect));
        self.kept.is_empty();
    }
}
