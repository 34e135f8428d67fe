//! Every sequence of what can happen to three messages, to a stated depth: a call that may not be repeated, a task, a reply.
//! And of what can happen to a task that has a unique key, whose marker goes before it.
//!
//! Checked after each step and at the end: each sender is completed once, each charge is released once, nothing is published
//! without a connection and an open stream, a call that may have arrived is not sent again, and what is sent again says so.

use super::*;
use crate::broker::{Body, Durability, Origin, Properties, Routing};
use crate::driver::sequences;

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Up,
    Down,
    Opened(Fate),
    Published(Fate),
    /// The oldest but one.
    PublishedSecond(Fate),
    ExchangeBack,
    Forget,
    Tick,
    /// So much time passes that what is given up some time is.
    LongTick,
    /// A stream that nobody wants is not opened.
    NotOpened,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Yes,
    Lost,
    NotFound,
    Unroutable,
    Nack,
    /// A queue was full.
    Full,
    Refused,
}

impl Fate {
    fn outcome(self) -> Result<()> {
        let kind = match self {
            Fate::Yes => return Ok(()),
            Fate::Lost => ErrorKind::ConnectionLost,
            Fate::NotFound => ErrorKind::NotFound,
            Fate::Unroutable => ErrorKind::Unroutable,
            Fate::Nack => ErrorKind::DeliveryFailed,
            Fate::Full => {
                return Err(Error::with_detail(ErrorKind::DeliveryFailed, "on purpose", Detail::NotTaken));
            }
            Fate::Refused => ErrorKind::PreconditionFailed,
        };
        Err(Error::new(kind, "on purpose"))
    }
}

const CALL: Uuid = Uuid::from_u128(1);
const TASK: Uuid = Uuid::from_u128(2);
const KEY_TIME: Duration = Duration::from_secs(60);

/// Which messages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cast {
    /// A call, a task and a reply.
    OfEachKind,
    /// A task that has a key.
    Keyed,
    /// Two tasks for one queue.
    Two,
}

impl Cast {
    /// How many of them are completed, and give room back.
    fn ends(self) -> (usize, usize) {
        match self {
            // Nobody waits for the reply.
            Cast::OfEachKind => (2, 3),
            Cast::Keyed => (1, 1),
            Cast::Two => (2, 2),
        }
    }
}

/// The world around the outbox.
struct World {
    outbox: Outbox<u32>,
    now: Instant,
    connected: bool,
    /// Streams that were asked for.
    opening: Vec<(Stream, Wanted)>,
    /// Nobody wants the first of them.
    is_unwanted: bool,
    /// The task was given up.
    given_up: bool,
    /// How many messages there are in all.
    messages: usize,
    /// Those with the broker that it has read, since it has decided on a later one.
    read: BTreeSet<PublishId>,
    open: Vec<Stream>,
    /// With the broker.
    handed: Vec<(PublishId, u32)>,
    completed: Vec<u32>,
    failed: Vec<Uuid>,
    released: usize,
    /// It was with a broker that may have taken it.
    call_may_have_arrived: bool,
    task_may_have_arrived: bool,
    cast: Cast,
    /// The broker has confirmed the marker, or may have it.
    has_key: bool,
    marker_may_have_arrived: bool,
    marker_went: Instant,
    /// It was with a broker that did not say whether it has taken it.
    task_in_doubt: bool,
    freed: usize,
    exchange_gone: bool,
    /// A job has found the connection lost, which the broker reports next.
    lost: bool,
}

/// Which message this is, by its routing key.
fn message(number: u32) -> Message {
    Message {
        exchange: "e".into(),
        routing_key: number.to_string().into(),
        properties: Properties::default(),
        body: Body::Encoded(bytes::Bytes::new()),
        routing: Routing::Mandatory,
        durability: Durability::Transient,
        origin: Origin::Sent,
    }
}

/// The world of another cast.
struct With<const CAST: usize>(World);

type Keyed = With<0>;
type Two = With<1>;

impl<const CAST: usize> sequences::World for With<CAST> {
    type Move = Move;

    fn new(now: Instant) -> Self {
        With(World::made(now, [Cast::Keyed, Cast::Two][CAST]))
    }

    fn moves(&self) -> Vec<Move> {
        self.0.moves()
    }

    fn step(&mut self, next: Move) {
        self.0.step(next);
    }

    fn end(self) {
        self.0.end();
    }
}

impl sequences::World for World {
    type Move = Move;

    fn new(now: Instant) -> Self {
        World::made(now, Cast::OfEachKind)
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = vec![Move::Tick];
        moves.push(if self.connected { Move::Down } else { Move::Up });
        if !self.opening.is_empty() {
            moves.extend([Fate::Yes, Fate::Lost, Fate::Refused].map(Move::Opened));
        }
        if self.is_unwanted {
            moves.push(Move::NotOpened);
        }
        if !self.given_up {
            moves.push(Move::LongTick);
        }
        let fates = [Fate::Yes, Fate::Lost, Fate::NotFound, Fate::Unroutable, Fate::Nack];
        if !self.handed.is_empty() {
            moves.extend(fates.map(Move::Published));
            if self.cast == Cast::Keyed {
                moves.push(Move::Published(Fate::Full));
            }
        }
        if self.handed.len() > 1 {
            moves.extend([Fate::Yes, Fate::Unroutable].map(Move::PublishedSecond));
        }
        if self.exchange_gone {
            moves.push(Move::ExchangeBack);
        }
        if self.failed.is_empty() && self.cast == Cast::OfEachKind {
            moves.push(Move::Forget);
        }
        moves
    }

    fn step(&mut self, next: Move) {
        match next {
            Move::Up => {
                self.connected = true;
                self.outbox.up();
            }
            Move::Down => {
                self.connected = false;
                for (_, number) in std::mem::take(&mut self.handed) {
                    self.call_may_have_arrived |= number == 1;
                    self.task_may_have_arrived |= number == 2;
                    self.task_in_doubt |= number == 2;
                    self.marker_may_have_arrived |= number == 4;
                }
                self.opening.clear();
                self.open.clear();
                self.exchange_gone = false;
                self.lost = false;
                self.outbox.down();
            }
            Move::Opened(fate) => {
                let (stream, _) = self.opening.remove(0);
                self.lost |= fate == Fate::Lost;
                if fate == Fate::Yes {
                    self.open.push(stream.clone());
                }
                self.outbox.opened(&stream, fate.outcome().map(|()| Some("replies".into())), self.now);
            }
            Move::Published(fate) => self.published(0, fate),
            Move::PublishedSecond(fate) => self.published(1, fate),
            Move::ExchangeBack => {
                self.exchange_gone = false;
                self.outbox.exchange_is_back(Exchange::Message);
                self.outbox.exchange_is_back(Exchange::Task);
            }
            Move::Forget => self.outbox.forget_call(CALL, Error::new(ErrorKind::Cancelled, "given up")),
            Move::NotOpened => {
                let (stream, _) = self.opening.remove(0);
                self.outbox.not_opened(&stream);
            }
            Move::LongTick => {
                self.given_up = true;
                self.now = after(self.now, Duration::from_secs(2));
                self.outbox.tick(self.now, &Away::default());
            }
            Move::Tick => {
                self.now = after(self.now, Duration::from_millis(150));
                self.outbox.tick(self.now, &Away::default());
            }
        }
        self.settle();
    }

    /// Whatever has happened, a calm end brings every message to its end, and leaves nothing.
    fn end(mut self) {
        for _ in 0..40 {
            let next = if !self.connected {
                Move::Up
            } else if self.lost {
                Move::Down
            } else if self.exchange_gone {
                Move::ExchangeBack
            } else if !self.opening.is_empty() {
                Move::Opened(Fate::Yes)
            } else if !self.handed.is_empty() {
                Move::Published(Fate::Yes)
            } else {
                Move::Tick
            };
            self.step(next);
        }
        assert!(self.outbox.is_empty(), "something is left");
        assert_eq!((self.completed.len(), self.released), self.cast.ends(), "each ends once");
        assert!(self.freed <= 1, "freed twice");
        let Outbox { due, calls, aside, fixed, queues, .. } = &self.outbox;
        assert!(due.is_empty() && calls.is_empty() && *aside == 0);
        assert!(fixed.iter().chain(queues.values()).all(|state| state.waiting.is_empty() && state.messages == 0));
    }
}

impl World {
    fn made(now: Instant, cast: Cast) -> Self {
        let mut outbox = Outbox::new("test", Duration::from_millis(250));
        let until = Some(after(now, Duration::from_secs(1)));
        let (queue, stream): (QueueName, _) = ("q".into(), Stream::Tasks("q".into()));
        let (correlation, published) = (Some(TASK), Some(2));
        let plain = Kind::Task { correlation, published, key: None };
        match cast {
            Cast::Keyed => {
                let key = UniqueKey::new("key".into(), KEY_TIME, &queue).expect("a key");
                let marker_stream = Stream::Tasks(key.marker.clone());
                let marked = Marked { key, queue, stream, message: message(2), correlation, published, since: now };
                outbox.send(marker_stream, Kind::Marker(marked.into()), message(4), Charge::NOTHING, until);
            }
            Cast::OfEachKind => {
                let recipient = Identifier::new("x").expect("a name");
                let call = Kind::Call { correlation: CALL, recipient, repeat: Repeat::Never, published: Some(1) };
                outbox.send(Stream::Calls, call, message(1), Charge::NOTHING, None);
                outbox.send(stream, plain, message(2), Charge::NOTHING, until);
                let reply = Kind::Reply { stage: ReplyStage::Last, correlation: None, late: None, sent: None };
                outbox.send(Stream::Replies(Exchange::Message), reply, message(3), Charge::NOTHING, None);
            }
            Cast::Two => {
                outbox.send(stream.clone(), plain, message(2), Charge::NOTHING, until);
                let other = Kind::Task { correlation: None, published: Some(5), key: None };
                outbox.send(stream, other, message(5), Charge::NOTHING, None);
            }
        }
        let mut world = World {
            outbox,
            now,
            connected: false,
            opening: Vec::new(),
            is_unwanted: false,
            given_up: false,
            messages: cast.ends().1,
            read: BTreeSet::new(),
            open: Vec::new(),
            handed: Vec::new(),
            completed: Vec::new(),
            failed: Vec::new(),
            released: 0,
            call_may_have_arrived: false,
            task_may_have_arrived: false,
            cast,
            has_key: false,
            marker_may_have_arrived: false,
            marker_went: now,
            task_in_doubt: false,
            freed: 0,
            exchange_gone: false,
            lost: false,
        };
        world.settle();
        world
    }

    fn published(&mut self, at: usize, fate: Fate) {
        let (id, number) = self.handed.remove(at);
        if matches!(fate, Fate::Yes | Fate::Unroutable | Fate::Full) {
            self.read.extend(self.handed[..at].iter().map(|(id, _)| *id));
        }
        self.lost |= fate == Fate::Lost;
        if matches!(fate, Fate::Nack | Fate::Full) {
            self.task_may_have_arrived |= number == 2;
        }
        self.task_in_doubt |= number == 2 && fate == Fate::Nack;
        self.marker_may_have_arrived |= number == 4 && fate == Fate::Nack;
        self.has_key |= number == 4 && fate == Fate::Yes;
        self.outbox.published(id, fate.outcome(), Peers::Settled, self.now);
    }

    fn settle(&mut self) {
        for act in self.outbox.acts() {
            match act {
                Act::Publish { id, message, .. } => {
                    let number: u32 = message.routing_key.parse().expect("a number");
                    assert!(self.connected, "published without a connection");
                    let stream = &self.outbox.entries[&id].stream;
                    assert!(self.open.contains(stream), "published by a stream that is not open");
                    assert!(!(number == 1 && self.call_may_have_arrived), "a call was sent again");
                    assert!(!(number == 4 && self.marker_may_have_arrived), "a marker was sent again");
                    assert!(
                        !(self.cast == Cast::Keyed && number == 2) || self.has_key,
                        "a task was sent without its key"
                    );
                    assert!(!(number == 2 && self.completed.contains(&2)), "what was given up is sent");
                    let resent = headers::number(&message.properties, headers::RESEND) > 0;
                    if number == 2 {
                        assert_eq!(resent, self.task_may_have_arrived, "what may have arrived is marked");
                    }
                    if number == 4 {
                        self.marker_went = self.now;
                    }
                    self.read.remove(&id);
                    self.handed.push((id, number));
                }
                Act::Open(stream, wanted) => {
                    let twice = self.opening.iter().any(|(opening, _)| *opening == stream);
                    assert!(self.connected && !twice, "opened twice at once");
                    self.open.retain(|open| *open != stream);
                    self.opening.push((stream, wanted));
                }
                Act::Complete { published, .. } => {
                    assert!(!self.completed.contains(&published), "completed twice");
                    self.completed.push(published);
                }
                Act::Fail { correlation, .. } => {
                    assert!(!self.failed.contains(&correlation), "failed twice");
                    self.failed.push(correlation);
                }
                Act::Release(_) => self.released += 1,
                Act::FreeKey(TakenKey { until, .. }) => {
                    let over = after(self.marker_went, KEY_TIME);
                    assert_eq!(until, over, "its time begins as the broker gets the marker");
                    let handed = self.handed.iter().any(|(_, number)| *number == 2);
                    assert!(
                        self.has_key && !self.task_in_doubt && !handed,
                        "the key of a task that may have been sent"
                    );
                    self.freed += 1;
                }
                Act::ExchangeVanished { .. } => {
                    self.exchange_gone = true;
                }
                Act::QueueVanished(queue) => self.open.retain(|open| *open != Stream::Tasks(queue.clone())),
                _ => {}
            }
        }
        // Guards: room that is given back for what the connection still has. What was handed before one that was decided on is read.
        let unread = self.handed.iter().filter(|(id, _)| !self.read.contains(id)).count();
        assert!(self.released + unread <= self.messages, "room is given back too early");
        for (stream, wanted) in &mut self.opening {
            let wants = |entry: &Entry<u32>| entry.stream == *stream;
            let unwanted = !self.outbox.entries.values().any(wants);
            assert!(!unwanted || wanted.is_over_now() || fixed(stream).is_some(), "it is opened for nobody");
        }
        self.is_unwanted = self.opening.first_mut().is_some_and(|(_, wanted)| wanted.is_over_now());
    }
}

#[test]
fn every_short_sequence_ends_each_message_once() {
    let sequences = sequences::explore::<World>(6);
    assert!(sequences > 5_000, "{sequences}");
}

#[test]
fn every_short_sequence_ends_a_task_with_a_key_once() {
    let sequences = sequences::explore::<Keyed>(8);
    assert!(sequences > 5_000, "{sequences}");
}

#[test]
fn every_short_sequence_ends_each_of_two_tasks_for_a_queue_once() {
    let sequences = sequences::explore::<Two>(7);
    assert!(sequences > 5_000, "{sequences}");
}

#[test]
#[ignore = "full: takes minutes"]
fn every_longer_sequence_ends_each_of_two_tasks_for_a_queue_once_in_full() {
    sequences::explore::<Two>(9);
}

#[test]
#[ignore = "full: takes minutes"]
fn every_longer_sequence_ends_a_task_with_a_key_once_in_full() {
    sequences::explore::<Keyed>(10);
}

#[test]
#[ignore = "full: takes minutes"]
fn every_longer_sequence_ends_each_message_once_in_full() {
    sequences::explore::<World>(8);
}
