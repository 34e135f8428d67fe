//! Every sequence of what can happen to a subscriber of calls and one of tasks, to a stated depth, against a broker that keeps
//! a book of its own.
//!
//! At the end, when everything that was asked has been answered: what is wanted has exactly one consumer at the broker, nothing
//! else has one, no tag is known that has none, and each who waited was completed once.

use super::*;
use crate::driver::connection::PlannedQueue;
use crate::driver::sequences;
use crate::driver::tasks::SubscriberId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Add(Who),
    /// By its user.
    Remove(Who),
    /// Its guard was dropped.
    Ends(Who),
    Up,
    Down,
    /// The oldest job ends so.
    Job(Fate),
    /// The oldest job of a lost connection ends so.
    Late(Fate),
    /// The broker ends the oldest consumer.
    Cancel,
    /// The broker closes a channel.
    Close,
    Fit(usize),
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Caller,
    Worker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Refused,
    /// The queue stands at the broker, the consumer does not.
    HalfDone,
    Lost,
}

enum Job {
    SetUp { key: Key, turn: Turn, tag: String, queue: Option<String> },
    End { key: Key, turn: Turn, tag: String, queue: Option<String> },
}

struct World {
    book: Subscriptions<u32>,
    now: Instant,
    connected: bool,
    /// Consumers at the broker, by tag.
    broker: BTreeMap<String, Key>,
    /// Queues of services there.
    queues: BTreeSet<String>,
    jobs: Vec<Job>,
    /// Those of a connection that is lost, whose outcomes are not known here yet.
    late: Vec<Job>,
    /// The registrations that stand, from outside.
    caller: Option<SubscriberId>,
    worker: Option<SubscriberId>,
    ids: u64,
    waiting: BTreeMap<u32, &'static str>,
    last_done: u32,
}

impl sequences::World for World {
    type Move = Move;

    fn new(now: Instant) -> Self {
        World {
            book: Subscriptions::new(Names::default(), Duration::from_secs(1)),
            now,
            connected: false,
            broker: BTreeMap::new(),
            queues: BTreeSet::new(),
            jobs: Vec::new(),
            late: Vec::new(),
            caller: None,
            worker: None,
            ids: 0,
            waiting: BTreeMap::new(),
            last_done: 0,
        }
    }

    fn moves(&self) -> Vec<Move> {
        let mut moves = vec![if self.connected { Move::Down } else { Move::Up }, Move::Tick];
        for (who, id) in [(Who::Caller, self.caller), (Who::Worker, self.worker)] {
            if id.is_some() {
                moves.extend([Move::Remove(who), Move::Ends(who)]);
            } else {
                moves.push(Move::Add(who));
            }
        }
        if !self.jobs.is_empty() {
            moves.extend([Fate::Done, Fate::Refused, Fate::HalfDone, Fate::Lost].map(Move::Job));
        }
        if !self.late.is_empty() {
            moves.extend([Fate::Done, Fate::Lost].map(Move::Late));
        }
        if !self.broker.is_empty() {
            moves.extend([Move::Cancel, Move::Close]);
        }
        if self.worker.is_some() {
            moves.extend([Move::Fit(1), Move::Fit(0)]);
        }
        moves
    }

    fn step(&mut self, next: Move) {
        match next {
            Move::Add(who) => {
                self.ids += 1;
                let id = SubscriberId(self.ids);
                let identifier = Identifier::new("x").expect("a name");
                let subscription = match who {
                    Who::Caller => Subscription::Rpc { identifier, sink: mpsc::unbounded_channel().0 },
                    Who::Worker => Subscription::Tasks {
                        queue: "q".into(),
                        prefetch: 2,
                        identifier,
                        sink: mpsc::unbounded_channel().0,
                    },
                };
                *self.id(who) = Some(id);
                let done = self.done("add");
                self.book.subscribe(id, subscription, done, self.now);
            }
            Move::Remove(who) => {
                *self.id(who) = None;
                let done = self.done("remove");
                self.book.unsubscribe(&Self::name(who), Some(done), self.now);
            }
            Move::Ends(who) => {
                if let Some(id) = self.id(who).take() {
                    self.book.subscriber_ended(id, ServedBy::Task, self.now);
                }
            }
            Move::Up => {
                self.connected = true;
                self.book.up(self.now);
            }
            Move::Down => {
                self.connected = false;
                self.broker.clear();
                self.queues.clear();
                self.late.append(&mut self.jobs);
                self.book.down(&lost(), self.now);
            }
            Move::Job(fate) => self.job(fate),
            Move::Late(fate) => self.late(fate),
            Move::Cancel => {
                if let Some((tag, _)) = self.broker.pop_first() {
                    self.book.cancelled(&tag, self.now);
                }
            }
            Move::Close => {
                if let Some((tag, _)) = self.broker.pop_last() {
                    self.book.channel_closed(&[tag], self.now);
                }
            }
            Move::Fit(taken) => {
                self.book.fit(&"q".into(), taken, self.now);
            }
            Move::Tick => {
                self.now = after(self.now, Duration::from_secs(6));
                self.book.tick(self.now, &Away::default());
            }
        }
        self.settle();
    }

    fn end(mut self) {
        for _ in 0..30 {
            let next = if !self.connected {
                Move::Up
            } else if !self.jobs.is_empty() {
                Move::Job(Fate::Done)
            } else {
                Move::Tick
            };
            self.step(next);
        }
        let mut wanted: Vec<Key> = Vec::new();
        if self.caller.is_some() {
            wanted.push(Key::Rpc(Identifier::new("x").expect("a name")));
        }
        if self.worker.is_some() {
            wanted.push(Key::Tasks("q".into()));
        }
        if !wanted.is_empty() {
            wanted.push(Key::Control);
        }
        let mut stands: Vec<Key> = self.broker.values().cloned().collect();
        stands.sort();
        wanted.sort();
        assert_eq!(stands, wanted, "what stands is what is wanted");
        let own = wanted.iter().filter(|key| !matches!(key, Key::Tasks(_))).count();
        assert_eq!(self.queues.len(), own, "the queues are those of what is wanted");
        assert!(
            self.book.by_tag.keys().all(|tag| self.broker.contains_key(tag)),
            "a tag is known that has no consumer"
        );
        assert_eq!(self.book.by_tag.len(), self.broker.len());
        assert!(self.waiting.is_empty(), "somebody still waits: {:?}", self.waiting);
        assert_eq!(self.book.services.len(), wanted.len(), "a service is left");
        assert_eq!(self.book.by_id.len(), self.book.by_name.len());
    }
}

impl World {
    fn done(&mut self, what: &'static str) -> u32 {
        self.last_done += 1;
        self.waiting.insert(self.last_done, what);
        self.last_done
    }

    fn id(&mut self, who: Who) -> &mut Option<SubscriberId> {
        match who {
            Who::Caller => &mut self.caller,
            Who::Worker => &mut self.worker,
        }
    }

    fn name(who: Who) -> SubscriberName {
        let identifier = Identifier::new("x").expect("a name");
        match who {
            Who::Caller => SubscriberName::Rpc(identifier),
            Who::Worker => SubscriberName::Tasks("q".into(), identifier),
        }
    }

    fn job(&mut self, fate: Fate) {
        match self.jobs.remove(0) {
            Job::SetUp { key, turn, tag, queue } => {
                let failed = |kind, queue| Err(NotSetUp { error: Error::new(kind, "on purpose"), queue });
                let outcome = match fate {
                    Fate::Done => {
                        self.queues.extend(queue);
                        self.broker.insert(tag, key.clone());
                        Ok(())
                    }
                    Fate::Refused => {
                        let stands = queue.is_some_and(|queue| self.queues.contains(&queue));
                        let queue = if stands { OwnQueue::MayStand } else { OwnQueue::Missing };
                        failed(ErrorKind::PreconditionFailed, queue)
                    }
                    Fate::HalfDone => {
                        self.queues.extend(queue);
                        failed(ErrorKind::TimedOut, OwnQueue::MayStand)
                    }
                    Fate::Lost => failed(ErrorKind::ConnectionLost, OwnQueue::MayStand),
                };
                self.book.set_up(&key, turn, outcome, self.now);
            }
            Job::End { key, turn, tag, queue } => {
                self.broker.remove(&tag);
                if let Some(queue) = queue {
                    self.queues.remove(&queue);
                }
                self.book.ended(&key, turn, self.now);
            }
        }
    }

    /// The outcome of a job comes after the end of its connection, with which all went that it had done.
    fn late(&mut self, fate: Fate) {
        match self.late.remove(0) {
            Job::SetUp { key, turn, .. } => {
                let not_set_up = || NotSetUp { error: lost(), queue: OwnQueue::Missing };
                let outcome = if fate == Fate::Done { Ok(()) } else { Err(not_set_up()) };
                self.book.set_up(&key, turn, outcome, self.now);
            }
            Job::End { key, turn, .. } => self.book.ended(&key, turn, self.now),
        }
    }

    fn settle(&mut self) {
        for act in self.book.acts() {
            match act {
                Act::SetUp { key, turn, plan } => {
                    assert!(self.connected, "set up without a connection");
                    assert!(!self.broker.values().any(|known| *known == key), "{key:?} has a consumer already");
                    let queue = match plan.queue {
                        PlannedQueue::Own(spec) => Some(spec.name),
                        PlannedQueue::Tasks(..) => None,
                    };
                    self.jobs.push(Job::SetUp { key, turn, tag: plan.consume.tag, queue });
                }
                Act::End { key, turn, plan } => {
                    self.jobs.push(Job::End { key, turn, tag: plan.tag, queue: plan.own_queue });
                }
                Act::Complete { done, outcome } => {
                    let what = self.waiting.remove(&done).expect("completed once");
                    // One that could not be added is not there.
                    if what == "add" && outcome.is_err() {
                        self.forget_what_is_not_there();
                    }
                }
                _ => {}
            }
        }
        self.check_deadlines();
    }

    /// Every service is asked again in time, and none that is gone.
    fn check_deadlines(&self) {
        for (key, service) in &self.book.services {
            let known = self.book.due.time_of(key);
            if let Some(at) = self.book.deadline(service, self.now) {
                assert!(known.is_some_and(|known| known <= at), "{key:?} is asked at {known:?}, and not by {at:?}");
            }
        }
        assert!(self.book.due.keys().all(|key| self.book.services.contains_key(key)), "the time of a service stays");
    }

    fn forget_what_is_not_there(&mut self) {
        for who in [Who::Caller, Who::Worker] {
            if let Some(id) = *self.id(who)
                && !self.book.by_id.contains_key(&id)
            {
                *self.id(who) = None;
            }
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "on purpose")
}

#[test]
fn what_stands_comes_to_what_is_wanted_after_every_short_sequence() {
    let sequences = sequences::explore::<World>(5);
    assert!(sequences > 5_000, "{sequences}");
}

/// Plays these moves, in this order, to a calm end.
fn play(moves: &[Move]) {
    let mut world = <World as sequences::World>::new(Instant::now());
    moves.iter().for_each(|next| sequences::World::step(&mut world, *next));
    sequences::World::end(world);
}

#[test]
fn an_outcome_of_a_lost_connection_is_not_taken_for_that_of_a_successor() {
    for fate in [Fate::Done, Fate::Lost] {
        let begun = [Move::Add(Who::Caller), Move::Up, Move::Ends(Who::Caller), Move::Down];
        let again = [Move::Add(Who::Caller), Move::Up, Move::Late(fate)];
        for then in [Fate::Done, Fate::HalfDone] {
            play(&[&begun[..], &again[..], &[Move::Job(then)]].concat());
        }
    }
}

/// A subscriber that comes while a set-up is under way, and shares it, gets an attempt of its own.
#[test]
fn a_set_up_that_was_begun_before_it_came_fails_no_subscriber() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let now = Instant::now();
    book.up(now);
    let add = |book: &mut Subscriptions<u32>, n: u32| {
        let identifier = Identifier::new(n.to_string()).expect("a name");
        let sink = mpsc::unbounded_channel().0;
        let subscription = Subscription::Tasks { queue: "q".into(), prefetch: 2, identifier, sink };
        book.subscribe(SubscriberId(n.into()), subscription, n, now);
    };
    let started = |acts: Vec<Act<u32>>| {
        acts.into_iter().find_map(|act| match act {
            Act::SetUp { key: key @ Key::Tasks(_), turn, .. } => Some((key, turn)),
            _ => None,
        })
    };
    let completed = |acts: &[Act<u32>]| -> Vec<(u32, Option<ErrorKind>)> {
        let done = |act: &Act<u32>| match act {
            Act::Complete { done, outcome } => Some((*done, outcome.as_ref().err().map(Error::kind))),
            _ => None,
        };
        acts.iter().filter_map(done).collect()
    };
    add(&mut book, 1);
    let (key, first) = started(book.acts()).expect("a set-up");
    add(&mut book, 2);
    assert!(started(book.acts()).is_none(), "it shares the set-up that is under way");
    let failed = |kind| Err(NotSetUp { error: Error::new(kind, "on purpose"), queue: OwnQueue::Missing });
    book.set_up(&key, first, failed(ErrorKind::TimedOut), now);
    let acts = book.acts();
    assert_eq!(completed(&acts), [(1, Some(ErrorKind::TimedOut))]);
    let (_, second) = started(acts).expect("another attempt, at once");
    // This one was made for it.
    book.set_up(&key, second, failed(ErrorKind::AccessRefused), now);
    assert_eq!(completed(&book.acts()), [(2, Some(ErrorKind::AccessRefused))]);
    assert_eq!(book.leftovers(), 0);
}

/// Does what the book wants, round by round, until it wants nothing. Returns how many set-ups and ends it wanted at most at once.
fn settle_all(book: &mut Subscriptions<u32>, now: Instant) -> usize {
    let mut most = 0;
    loop {
        let acts = book.acts();
        let jobs: Vec<_> = acts.into_iter().filter(|act| matches!(act, Act::SetUp { .. } | Act::End { .. })).collect();
        if jobs.is_empty() {
            return most;
        }
        most = most.max(jobs.len());
        for job in jobs {
            match job {
                Act::SetUp { key, turn, .. } => book.set_up(&key, turn, Ok(()), now),
                Act::End { key, turn, .. } => book.ended(&key, turn, now),
                _ => {}
            }
        }
    }
}

/// Guards: a program that looks for a task again and again and gives up at once, faster than the broker can answer.
#[test]
fn pulls_that_are_given_up_do_not_pile_up_at_the_broker() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let now = Instant::now();
    let wait = PullWait::Until(now + Duration::from_secs(3600));
    book.up(now);
    let stays = |pull: u64| pull.is_multiple_of(10);
    for pull in 0..2000 {
        book.pull(PullId(pull), "q".into(), wait, now);
        if !stays(pull) {
            book.end_pull(PullId(pull), now);
        }
    }
    let most = settle_all(&mut book, now);
    assert!(most <= PULLS_MOVING_MOST, "{most} at once");
    let stand = book.services.values().filter(|service| service.stands()).count();
    assert_eq!((stand, book.services.len()), (200, 200), "whoever waits has a consumer, and nobody else");
    book.down(&lost(), now);
    book.up(now);
    let most = settle_all(&mut book, now);
    assert!(most <= PULLS_MOVING_MOST, "{most} at once");
    assert_eq!(book.services.values().filter(|service| service.stands()).count(), 200);
    for pull in (0..2000).filter(|pull| stays(*pull)) {
        book.end_pull(PullId(pull), now);
    }
    settle_all(&mut book, now);
    assert_eq!(book.leftovers(), 0);
}

/// Guards: memory that grows with each pull. Most wait for as long as there is, and end when a task comes.
#[test]
fn whoever_is_gone_leaves_no_deadline() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let now = Instant::now();
    let never = PullWait::Until(after(now, Duration::MAX));
    for wait in [never, PullWait::No] {
        for pull in 0..10 {
            book.pull(PullId(pull), "q".into(), wait, now);
            book.end_pull(PullId(pull), now);
        }
        assert_eq!(book.next_deadline(), None, "there was no connection");
    }
    book.up(now);
    for pull in 0..10 {
        book.pull(PullId(pull), "q".into(), never, now);
        settle_all(&mut book, now);
        book.end_pull(PullId(pull), now);
        settle_all(&mut book, now);
        assert_eq!(book.next_deadline(), None, "its consumer stood");
    }
    for (n, name) in (1..).zip(["a", "b", "a", "b"]) {
        let identifier = Identifier::new(name).expect("a name");
        let name = SubscriberName::Rpc(identifier.clone());
        let sink = mpsc::unbounded_channel().0;
        book.subscribe(SubscriberId(n), Subscription::Rpc { identifier, sink }, 1, now);
        settle_all(&mut book, now);
        book.unsubscribe(&name, Some(2), now);
        settle_all(&mut book, now);
        assert_eq!(book.next_deadline(), None);
    }
    assert_eq!(book.leftovers(), 0);
}

/// Guards: somebody who is forgotten because the service is asked for somebody else first.
#[test]
fn each_of_those_who_wait_for_one_service_is_answered_in_time() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let start = Instant::now();
    for n in 0..3_u32 {
        let at = start + Duration::from_millis(n.into());
        let identifier = Identifier::new(n.to_string()).expect("a name");
        let sink = mpsc::unbounded_channel().0;
        let subscription = Subscription::Tasks { queue: "q".into(), prefetch: 2, identifier, sink };
        book.subscribe(SubscriberId(n.into()), subscription, n, at);
    }
    for n in 0..3_u32 {
        let at = start + Duration::from_secs(1) + Duration::from_millis(n.into());
        assert_eq!(book.next_deadline(), Some(at));
        book.tick(at, &Away::default());
        let answered = book.acts().into_iter().filter_map(|act| match act {
            Act::Complete { done, outcome } => Some((done, outcome.map_err(|error| error.kind()))),
            _ => None,
        });
        assert_eq!(answered.collect::<Vec<_>>(), [(n, Err(ErrorKind::TimedOut))]);
    }
    assert_eq!((book.next_deadline(), book.leftovers()), (None, 0));
}

/// Guards: a service, its lane and its turn that stay when whoever looked for a task has gone.
#[test]
fn a_look_that_is_given_up_while_it_is_under_way_leaves_nothing() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let now = Instant::now();
    book.up(now);
    book.pull(PullId(1), "q".into(), PullWait::No, now);
    let looks = book.acts().into_iter().filter_map(|act| match act {
        Act::Get { key, turn, .. } => Some((key, turn)),
        _ => None,
    });
    let looks: Vec<_> = looks.collect();
    assert_eq!(looks.len(), 1);
    book.end_pull(PullId(1), now);
    for (key, turn) in looks {
        assert!(!book.got(&key, turn, &Ok(()), now), "what it brings is not wanted");
    }
    assert_eq!(book.leftovers(), 0);
}

/// Guards: an answer that is asked for again when nobody subscribes here any more, or nobody ever did.
#[test]
fn whoever_has_answered_can_be_asked_for_it_again() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let now = Instant::now();
    book.up(now);
    assert_eq!(settle_all(&mut book, now), 0);
    for _ in 0..2 {
        book.answered(|| now);
        settle_all(&mut book, now);
        assert_eq!(book.probed().len(), 1, "the control queue");
    }
    book.down(&lost(), now);
    book.answered(|| now);
    assert_eq!(settle_all(&mut book, now), 0);
    book.up(now);
    settle_all(&mut book, now);
    assert_eq!(book.probed().len(), 1, "it stands on each connection");
    book.drain(now);
    settle_all(&mut book, now);
    assert_eq!((book.probed().len(), book.leftovers()), (0, 0));
}

/// Guards: a probe of a queue that was deleted on purpose while it was on its way, which would cost the connection.
#[test]
fn what_was_bound_in_a_turn_stands_until_its_end_begins() {
    let mut book: Subscriptions<u32> = Subscriptions::new(Names::default(), Duration::from_secs(1));
    let now = Instant::now();
    book.up(now);
    book.replies_for(Exchange::Message, Stream::Calls, now);
    settle_all(&mut book, now);
    let sink = mpsc::unbounded_channel().0;
    let identifier = Identifier::new("x").expect("a name");
    book.subscribe(SubscriberId(1), Subscription::Rpc { identifier, sink }, 1, now);
    settle_all(&mut book, now);
    let turns: Vec<Turn> = book.probed().iter().map(|probed| probed.turn).collect();
    assert_eq!(turns.len(), 2, "the replies and the control queue");
    assert!(turns.iter().all(|turn| book.stands_since(*turn)));
    book.subscriber_ended(SubscriberId(1), ServedBy::Task, now);
    assert_eq!(turns.iter().filter(|turn| book.stands_since(**turn)).count(), 1, "the control queue is being deleted");
    book.down(&lost(), now);
    book.up(now);
    assert!(!turns.iter().any(|turn| book.stands_since(*turn)));
}

#[test]
#[ignore = "full: takes minutes"]
fn what_stands_comes_to_what_is_wanted_after_every_longer_sequence_in_full() {
    sequences::explore::<World>(7);
}
