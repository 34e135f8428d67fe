//! The world around the book: a broker, the network, handlers and an adversary. It enumerates everything that can happen next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::tiny::{CLAIMS, Claimed, Claims, Note, Tiny, Token};
use crate::driver::tasks::book::Mode;
use crate::driver::tasks::faults::Fault;
use crate::driver::tasks::in_hand::State;
use crate::driver::tasks::timers::Due;
use crate::driver::tasks::{
    Action, Cause, Channel, Config, Contents, Delivery, DeliveryTag, Destination, Generation, HandId, Input, Known,
    LeaseId, LongTasks, Marks, Settlement, SubscriberId, TaskBook, TaskId,
};

pub(super) const QUEUE: u8 = 0;
const PUSH_LANE: u32 = 0;
const PULL_LANE: u32 = 1;

/// A copy of a message at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Copied {
    pub at: Place,
    pub note: Note,
    pub redelivered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Queue,
    /// Delivered and not acknowledged.
    Out(DeliveryTag),
    Lease(LeaseId),
    Quarantine,
}

/// A delivery on its way to the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Coming {
    pub tag: DeliveryTag,
    pub note: Note,
    pub redelivered: bool,
}

/// What was asked of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Ack(DeliveryTag),
    Requeue(DeliveryTag),
    MakeLease(LeaseId, Note),
    DeleteLease(LeaseId),
    /// True for the quarantine.
    Move(TaskId, Note, bool),
}

impl Ask {
    fn channel(self) -> Option<Channel> {
        match self {
            Ask::Ack(tag) | Ask::Requeue(tag) => Some(tag.channel),
            _ => None,
        }
    }
}

/// Somebody who was given a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hand {
    /// `None` for a pulled task, which is begun.
    pub claim: Option<Token>,
    pub note: Note,
    /// It was given as one that may have been run before.
    pub is_marked: bool,
}

/// How often each adversity may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub losses: u8,
    pub lanes: u8,
    pub fails: u8,
    pub leases: u8,
    pub expiries: u8,
    pub tries: u8,
    pub panics: u8,
    pub backs: u8,
    pub rejects: u8,
    pub quarantines: u8,
    pub homes: u8,
    pub leaves: u8,
    pub pulls: u8,
    pub resends: u8,
    pub thefts: u8,
    pub drains: u8,
    pub closes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Rejected,
    Requeue,
    TryAgain,
    Quarantine,
    Panicked,
    HomeEnded,
    LetGo,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    /// The broker delivers a copy to the consumer.
    Deliver(usize),
    /// Somebody pulls a copy.
    Pull(usize),
    /// A delivery reaches the book.
    Arrive(usize),
    /// A home takes the claim.
    Begin(HandId),
    /// Whoever has the task is done with it.
    End(HandId, End),
    /// Something is due.
    Due(Due),
    /// The broker does what was asked.
    Do(usize),
    /// It refuses.
    Refuse(usize),
    /// It does not, and the answer is lost.
    FailUnknown(usize),
    /// It does, and the answer is lost.
    DoUnknown(usize),
    /// The answer reaches the book.
    Answer(usize),
    /// The connection is lost. Of what was asked, this much is still done, bit by bit; the answers to what was done may
    /// still come, or are lost too.
    Lose {
        done: u8,
        answers: bool,
    },
    Connect,
    /// The broker closes a lane.
    CloseLane(u32),
    /// The book is notified.
    LaneClosed,
    /// The time of a lease is over at the broker.
    Expire(LeaseId),
    Subscribe,
    Unsubscribe(SubscriberId),
    /// The sender sends it again.
    Resend(u8),
    /// Another worker takes a copy, and finishes it.
    Steal(usize),
    Drain,
    Close,
    /// The connection ends after a close.
    Finish,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub book: TaskBook<Tiny>,
    pub now: Instant,
    /// Sorted, as are the others: the order among equals does not count.
    pub copies: Vec<Copied>,
    /// In the order of their channels.
    pub coming: Vec<Coming>,
    pub asked: Vec<Ask>,
    pub done: Vec<(Ask, Known)>,
    pub hands: BTreeMap<HandId, Hand>,
    pub claims: Claims,
    pub subscribers: BTreeSet<SubscriberId>,
    pub most_subscribers: usize,
    pub last_subscriber: u64,
    pub is_up: bool,
    pub generation: u64,
    pub incarnations: [u32; 2],
    /// A channel that is closed, of which the book was not notified.
    pub unheard: Option<Channel>,
    pub last_tag: u64,
    pub prefetch: usize,
    pub budget: Budget,
    /// The messages that were sent.
    pub sent: Vec<Note>,
    /// How often each was finished, here or elsewhere.
    pub finished: Vec<u8>,
    /// Copies of each that ended here.
    pub finished_here: Vec<BTreeSet<Marks>>,
    /// How often each was begun without a mark that it may have been run.
    pub unmarked: Vec<u8>,
    /// How often each went back without a pause.
    pub at_once: Vec<u8>,
    pub reported: BTreeSet<TaskId>,
    /// Leases whose time was over by the book's clock.
    pub lapsed: BTreeSet<LeaseId>,
    /// Leases that were deleted when nothing was in them any more, before the book knows.
    pub emptied: BTreeSet<LeaseId>,
    /// The places that the consumer was fitted to leave out.
    pub fitted: usize,
    /// Something failed on the way to the broker, or took too long.
    pub has_failed: bool,
    pub was_sent_again: bool,
    /// A delivery came again before the notice that the channel of its first delivery is closed. Until then it cannot be distinguished from
    /// another message.
    pub has_overtaken: bool,
    pub is_over: bool,
    pub wrong: Option<&'static str>,
}

/// What is explored.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub notes: Vec<Note>,
    pub subscribers: usize,
    pub budget: Budget,
    pub fault: Option<Fault>,
}

impl World {
    pub(super) fn new(scene: &Scene, now: Instant) -> Self {
        let config = Config {
            attempts: 2,
            retry_pause: Duration::from_secs(1),
            long_tasks: Some(LongTasks { after: Duration::from_secs(10), lease: Duration::from_secs(3) }),
        };
        let mut book = TaskBook::new(config);
        book.fault = scene.fault;
        let place = |note: &Note| Copied { at: Place::Queue, note: *note, redelivered: false };
        let messages = scene.notes.len();
        let mut world = World {
            book,
            now,
            copies: scene.notes.iter().map(place).collect(),
            coming: Vec::new(),
            asked: Vec::new(),
            done: Vec::new(),
            hands: BTreeMap::new(),
            claims: Claims::default(),
            subscribers: BTreeSet::new(),
            most_subscribers: scene.subscribers,
            last_subscriber: 0,
            is_up: true,
            generation: 1,
            incarnations: [0, 0],
            unheard: None,
            last_tag: 0,
            prefetch: 2,
            budget: scene.budget,
            sent: scene.notes.clone(),
            finished: vec![0; messages],
            finished_here: vec![BTreeSet::new(); messages],
            unmarked: vec![0; messages],
            at_once: vec![0; messages],
            reported: BTreeSet::new(),
            lapsed: BTreeSet::new(),
            emptied: BTreeSet::new(),
            fitted: 0,
            has_failed: false,
            was_sent_again: false,
            has_overtaken: false,
            is_over: false,
            wrong: None,
        };
        world.step(Input::Connected(Generation(1)));
        for _ in 0..scene.subscribers {
            world.make(Move::Subscribe);
        }
        world.copies.sort_unstable();
        world
    }

    fn mode(&self) -> Mode {
        self.book.mode
    }

    fn channel(&self, lane: u32) -> Channel {
        Channel { generation: Generation(self.generation), lane, incarnation: self.incarnations[lane as usize] }
    }

    /// Everything that can happen next.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        if self.is_over {
            return moves;
        }
        let budget = &self.budget;
        let is_open = self.mode() == Mode::Open;
        if self.is_up {
            self.broker_moves(&mut moves, is_open);
        } else if self.mode() != Mode::Closing {
            moves.push(Move::Connect);
        }
        for (at, coming) in self.coming.iter().enumerate() {
            // One lane delivers in order.
            if !self.coming[..at].iter().any(|earlier| earlier.tag.channel == coming.tag.channel) {
                moves.push(Move::Arrive(at));
            }
        }
        for at in 0..self.done.len() {
            moves.push(Move::Answer(at));
        }
        for (id, hand) in &self.hands {
            self.hand_moves(*id, hand, &mut moves);
        }
        for due in self.book.timers.all() {
            match due {
                Due::Lease(task) => {
                    let known = self.book.in_hand.get(&task);
                    let is_made =
                        known.is_some_and(|known| known.is_ours() && known.leases.making.is_none()) && self.is_up;
                    if budget.leases > 0 && is_made {
                        moves.push(Move::Due(due));
                    }
                }
                Due::LeaseOver(task) => {
                    let lease = self.book.in_hand.get(&task).and_then(|known| known.leases.standing);
                    let has_expired =
                        lease.is_some_and(|lease| !self.copies.iter().any(|copy| copy.at == Place::Lease(lease)));
                    if budget.expiries > 0 || has_expired {
                        moves.push(Move::Due(due));
                    }
                }
                Due::Pause(_) | Due::Delete(_) | Due::FormerOver(_) => moves.push(Move::Due(due)),
            }
        }
        for copy in &self.copies {
            if let Place::Lease(lease) = copy.at
                && (budget.expiries > 0 || !self.is_kept(lease))
            {
                moves.push(Move::Expire(lease));
            }
        }
        if is_open {
            if self.subscribers.len() < self.most_subscribers {
                moves.push(Move::Subscribe);
            }
            if budget.leaves > 0 {
                moves.extend(self.subscribers.iter().map(|subscriber| Move::Unsubscribe(*subscriber)));
            }
            if budget.drains > 0 {
                moves.push(Move::Drain);
            }
        }
        if self.mode() != Mode::Closing && budget.closes > 0 {
            moves.push(Move::Close);
        }
        if self.mode() == Mode::Closing && (self.book.is_quiet() && self.done.is_empty() || !self.is_up) {
            moves.push(Move::Finish);
        }
        moves
    }

    fn broker_moves(&self, moves: &mut Vec<Move>, is_open: bool) {
        let budget = &self.budget;
        let out = self.copies.iter().filter(|copy| matches!(copy.at, Place::Out(tag) if tag.channel.lane == PUSH_LANE));
        let has_room = out.count() < self.prefetch && self.unheard.is_none_or(|channel| channel.lane != PUSH_LANE);
        for (at, copy) in self.copies.iter().enumerate() {
            if copy.at != Place::Queue || at > 0 && self.copies[at - 1] == *copy {
                continue;
            }
            if is_open && has_room {
                moves.push(Move::Deliver(at));
            }
            if is_open && budget.pulls > 0 && self.unheard.is_none_or(|channel| channel.lane != PULL_LANE) {
                moves.push(Move::Pull(at));
            }
            if budget.thefts > 0 {
                moves.push(Move::Steal(at));
            }
        }
        for (at, ask) in self.asked.iter().enumerate() {
            moves.push(Move::Do(at));
            if budget.fails > 0 && ask.channel().is_none() {
                moves.extend([Move::Refuse(at), Move::FailUnknown(at), Move::DoUnknown(at)]);
            }
        }
        if budget.losses > 0 {
            for done in 0..1_u8 << self.asked.len().min(3) {
                moves.push(Move::Lose { done, answers: false });
                let is_answered = |ask: &Ask| ask.channel().is_none();
                if self.asked.iter().any(is_answered) || !self.done.is_empty() {
                    moves.push(Move::Lose { done, answers: true });
                }
            }
        }
        if budget.lanes > 0 && self.unheard.is_none() {
            moves.push(Move::CloseLane(PUSH_LANE));
            if self.copies.iter().any(|copy| matches!(copy.at, Place::Out(tag) if tag.channel.lane == PULL_LANE)) {
                moves.push(Move::CloseLane(PULL_LANE));
            }
        }
        if self.unheard.is_some() {
            moves.push(Move::LaneClosed);
        }
        if budget.resends > 0 {
            moves.extend(self.sent.iter().map(|note| Move::Resend(note.number)));
        }
    }

    fn hand_moves(&self, id: HandId, hand: &Hand, moves: &mut Vec<Move>) {
        let budget = &self.budget;
        let mut end = |has: u8, end: End| {
            if has > 0 {
                moves.push(Move::End(id, end));
            }
        };
        match hand.claim.and_then(|claim| self.claims.states.get(&claim.0)) {
            Some(Claimed::Free | Claimed::Withdrawn) => {
                end(budget.homes, End::HomeEnded);
                moves.push(Move::Begin(id));
            }
            Some(Claimed::Begun) | None => {
                end(1, End::Done);
                end(budget.rejects, End::Rejected);
                end(budget.backs, End::Requeue);
                end(budget.tries, End::TryAgain);
                end(budget.panics, End::Panicked);
                end(budget.quarantines, End::Quarantine);
                end(budget.homes, End::HomeEnded);
                if hand.claim.is_none() {
                    end(budget.backs, End::LetGo);
                }
            }
        }
    }

    /// Whether the book still counts on this lease, or will delete it.
    fn is_kept(&self, lease: LeaseId) -> bool {
        self.mode() == Mode::Closing
            || self.book.making.contains_key(&lease)
            || self.book.orphans.contains_key(&lease)
            || self.book.in_hand.values().any(|known| {
                known.leases.standing == Some(lease)
                    || known.leases.doubtful.contains(&lease)
                    || known.leases.making.as_ref().is_some_and(|making| making.lease == lease)
            })
    }

    pub(super) fn make(&mut self, step: Move) {
        match step {
            Move::Deliver(at) => self.deliver(at, PUSH_LANE),
            Move::Pull(at) => {
                self.budget.pulls -= 1;
                self.deliver(at, PULL_LANE);
            }
            Move::Arrive(at) => {
                let Coming { tag, note, redelivered } = self.coming.remove(at);
                self.has_overtaken |= self.unheard.is_some_and(|closed| closed != tag.channel);
                let delivery = Delivery { queue: QUEUE, tag, message: note, redelivered };
                self.step(match tag.channel.lane {
                    PUSH_LANE => Input::Delivered(delivery),
                    _ => Input::Pulled(delivery),
                });
            }
            Move::Begin(id) => self.begin(id),
            Move::End(id, end) => self.end(id, end),
            Move::Due(due) => {
                match due {
                    Due::Lease(_) => self.budget.leases -= 1,
                    Due::LeaseOver(task) => {
                        self.lapsed.extend(self.book.in_hand.get(&task).and_then(|known| known.leases.standing));
                        self.budget.expiries = self.budget.expiries.saturating_sub(1);
                        self.has_failed = true;
                    }
                    Due::Pause(_) | Due::Delete(_) | Due::FormerOver(_) => {}
                }
                self.act(|book, now, out| book.fire(now, due, out), !matches!(due, Due::Pause(_)));
            }
            Move::Do(at) => {
                let ask = self.asked.remove(at);
                self.perform(ask);
                if ask.channel().is_none() {
                    self.done.push((ask, Known::Yes));
                }
            }
            Move::Refuse(at) => self.fail(at, Known::No),
            Move::FailUnknown(at) => self.fail(at, Known::Unknown),
            Move::DoUnknown(at) => {
                self.perform(self.asked[at]);
                self.fail(at, Known::Unknown);
            }
            Move::Answer(at) => {
                let (ask, known) = self.done.remove(at);
                let input = match ask {
                    Ask::MakeLease(lease, _) => Input::LeaseMade { lease, known },
                    Ask::DeleteLease(lease) => {
                        let contents = if self.emptied.remove(&lease) { Contents::Nothing } else { Contents::NotKnown };
                        Input::LeaseDeleted { lease, known, contents }
                    }
                    Ask::Move(task, _, _) => Input::Moved { task, known },
                    Ask::Ack(_) | Ask::Requeue(_) => return,
                };
                self.step(input);
            }
            Move::Lose { done, answers } => {
                self.budget.losses -= 1;
                self.lose(done, answers);
            }
            Move::Connect => {
                self.is_up = true;
                self.generation += 1;
                self.incarnations = [0, 0];
                self.step(Input::Connected(Generation(self.generation)));
            }
            Move::CloseLane(lane) => {
                self.budget.lanes -= 1;
                let channel = self.channel(lane);
                self.put_back(|tag| tag.channel == channel);
                self.incarnations[lane as usize] += 1;
                self.unheard = Some(channel);
            }
            Move::LaneClosed => {
                if let Some(channel) = self.unheard.take() {
                    self.step(Input::ChannelClosed(channel));
                }
            }
            Move::Expire(lease) => {
                if self.is_kept(lease) {
                    self.budget.expiries -= 1;
                }
                for copy in &mut self.copies {
                    if copy.at == Place::Lease(lease) {
                        copy.at = Place::Queue;
                    }
                }
            }
            Move::Subscribe => {
                self.last_subscriber += 1;
                let subscriber = SubscriberId(self.last_subscriber);
                if self.subscribers.is_empty() {
                    // What the consumer's side knew is of no use: it may have begun anew, or remember an earlier time.
                    self.fitted = usize::MAX;
                }
                self.subscribers.insert(subscriber);
                self.step(Input::Subscribed { queue: QUEUE, subscriber });
            }
            Move::Unsubscribe(subscriber) => {
                self.budget.leaves -= 1;
                self.subscribers.remove(&subscriber);
                self.step(Input::Unsubscribed { queue: QUEUE, subscriber });
            }
            Move::Resend(number) => {
                self.budget.resends -= 1;
                self.was_sent_again = true;
                let mut note = self.sent[usize::from(number)];
                note.marks.resend += 1;
                self.copies.push(Copied { at: Place::Queue, note, redelivered: false });
            }
            Move::Steal(at) => {
                self.budget.thefts -= 1;
                let copy = self.copies.remove(at);
                self.finished[usize::from(copy.note.number)] += 1;
            }
            Move::Drain => {
                self.budget.drains -= 1;
                self.step(Input::Drain);
            }
            Move::Close => {
                self.budget.closes -= 1;
                self.step(Input::Close);
            }
            Move::Finish => self.finish(),
        }
        self.copies.sort_unstable();
        self.asked.sort_unstable();
        self.done.sort_unstable();
        if !matches!(step, Move::Subscribe) || self.last_subscriber > self.most_subscribers as u64 {
            self.check();
        }
    }

    fn deliver(&mut self, at: usize, lane: u32) {
        self.last_tag += 1;
        let tag = DeliveryTag { channel: self.channel(lane), number: self.last_tag };
        let copy = &mut self.copies[at];
        copy.at = Place::Out(tag);
        self.coming.push(Coming { tag, note: copy.note, redelivered: copy.redelivered });
        copy.redelivered = true;
    }

    fn begin(&mut self, id: HandId) {
        let Some(hand) = self.hands.get(&id).copied() else { return };
        let Some(state) = hand.claim.and_then(|claim| self.claims.states.get_mut(&claim.0)) else { return };
        if *state == Claimed::Withdrawn {
            self.hands.remove(&id);
            return;
        }
        *state = Claimed::Begun;
        self.check_begun(id, hand);
    }

    fn check_begun(&mut self, id: HandId, hand: Hand) {
        let known = self.book.in_hand.get(&id.task);
        if known.is_none_or(|known| !known.is_ours() || known.round != id.round) {
            self.wrong = Some("a task is begun that is not ours");
        }
        let number = usize::from(hand.note.number);
        if !hand.is_marked {
            self.unmarked[number] += 1;
            if self.unmarked[number] > 1 {
                self.wrong = Some("a task is run twice unmarked");
            }
        }
        if self.is_unique(hand.note) {
            // A task that its sender sent twice may be run by the first copy although the second has been here, which was
            // marked. The book cannot tell the first from a message of a peer whose ids repeat.
            let is_marked = hand.is_marked || self.was_sent_again;
            let ended = &self.finished_here[number];
            if !self.has_overtaken && (ended.contains(&hand.note.marks) || !ended.is_empty() && !is_marked) {
                self.wrong = Some("a task is run after it ended here");
            }
            let runs = self.hands.iter().filter(|(other, one)| {
                **other != id
                    && one.note.number == hand.note.number
                    && (one.note.marks == hand.note.marks || !is_marked)
                    && self.has_begun(one)
                    && self.is_current(**other)
            });
            // Before the book is notified that a channel is closed it cannot know that a delivery is void.
            if runs.count() > 0 && self.unheard.is_none() {
                self.wrong = Some("a task runs twice at once here");
            }
        }
    }

    fn has_begun(&self, hand: &Hand) -> bool {
        hand.claim.is_none_or(|claim| self.claims.states.get(&claim.0) == Some(&Claimed::Begun))
    }

    /// Whether a settlement by this hand counts.
    fn is_current(&self, id: HandId) -> bool {
        self.book
            .in_hand
            .get(&id.task)
            .is_some_and(|known| known.round == id.round && matches!(known.state, State::Offered { .. } | State::Held))
    }

    /// Nobody else has sent a message like it, and its id can be trusted.
    fn is_unique(&self, note: Note) -> bool {
        note.id.is_some()
            && self.sent.iter().filter(|sent| sent.id == note.id && sent.content == note.content).count() == 1
    }

    fn end(&mut self, id: HandId, end: End) {
        let Some(hand) = self.hands.remove(&id) else { return };
        let budget = &mut self.budget;
        let number = usize::from(hand.note.number);
        let settlement = match end {
            End::Done => Settlement::Done { answer: Some(hand.note.number) },
            End::Rejected => {
                budget.rejects -= 1;
                Settlement::Rejected
            }
            End::Requeue => {
                budget.backs -= 1;
                Settlement::Requeue
            }
            End::TryAgain => {
                budget.tries -= 1;
                Settlement::TryAgain { reason: String::new(), answer: None }
            }
            End::Panicked => {
                budget.panics -= 1;
                Settlement::Dropped(Cause::HandlerPanicked)
            }
            End::Quarantine => {
                budget.quarantines -= 1;
                Settlement::Quarantine { reason: String::new(), answer: None }
            }
            End::HomeEnded => {
                budget.homes -= 1;
                Settlement::Dropped(Cause::HomeEnded)
            }
            End::LetGo => {
                budget.backs -= 1;
                Settlement::Dropped(Cause::LetGo)
            }
        };
        if end == End::Done && self.is_current(id) {
            self.finished[number] += 1;
            self.finished_here[number].insert(hand.note.marks);
        }
        // It was not run.
        if end == End::Rejected && !hand.is_marked {
            self.unmarked[number] -= 1;
        }
        self.step(Input::Settled { hand: id, settlement });
    }

    fn fail(&mut self, at: usize, known: Known) {
        self.budget.fails -= 1;
        self.has_failed = true;
        let ask = self.asked.remove(at);
        self.done.push((ask, known));
    }

    fn lose(&mut self, done: u8, answers: bool) {
        self.has_failed = true;
        let asked = std::mem::take(&mut self.asked);
        if !answers {
            self.done.iter_mut().for_each(|(_, known)| *known = Known::Unknown);
        }
        for (at, ask) in asked.into_iter().enumerate() {
            let is_done = at < 3 && done & (1 << at) != 0;
            if is_done {
                self.perform(ask);
            }
            if ask.channel().is_none() {
                self.done.push((ask, if is_done && answers { Known::Yes } else { Known::Unknown }));
            }
        }
        self.put_back(|_| true);
        self.coming.clear();
        self.unheard = None;
        self.is_up = false;
        self.step(Input::ConnectionLost);
    }

    fn finish(&mut self) {
        self.is_over = true;
        if self.is_up {
            // What was asked goes out before the connection ends.
            for ask in std::mem::take(&mut self.asked) {
                self.perform(ask);
            }
            self.put_back(|_| true);
            self.coming.clear();
            self.step(Input::ConnectionLost);
        }
        let is_leased = |copy: &Copied| matches!(copy.at, Place::Lease(_));
        if !self.has_failed && self.copies.iter().any(is_leased) {
            self.wrong = Some("a close leaves a lease behind");
        }
        if !self.book.in_hand.is_empty() || !self.book.timers.is_empty() {
            self.wrong = Some("something is left in the book after its end");
        }
    }

    fn put_back(&mut self, is_gone: impl Fn(&DeliveryTag) -> bool) {
        for copy in &mut self.copies {
            if matches!(&copy.at, Place::Out(tag) if is_gone(tag)) {
                copy.at = Place::Queue;
            }
        }
    }

    /// At the broker.
    fn perform(&mut self, ask: Ask) {
        match ask {
            Ask::Ack(tag) | Ask::Requeue(tag) => {
                let Some(at) = self.copies.iter().position(|copy| copy.at == Place::Out(tag)) else {
                    // RabbitMQ closes a channel for that.
                    if self.channel(tag.channel.lane) == tag.channel {
                        self.wrong = Some("a delivery is settled twice");
                    }
                    return;
                };
                match ask {
                    Ask::Ack(_) => drop(self.copies.remove(at)),
                    _ => self.copies[at].at = Place::Queue,
                }
            }
            Ask::MakeLease(lease, note) => {
                self.copies.push(Copied { at: Place::Lease(lease), note, redelivered: false });
            }
            Ask::DeleteLease(lease) => {
                let before = self.copies.len();
                self.copies.retain(|copy| copy.at != Place::Lease(lease));
                if self.copies.len() == before {
                    self.emptied.insert(lease);
                }
            }
            Ask::Move(_, note, to_quarantine) => {
                let at = if to_quarantine { Place::Quarantine } else { Place::Queue };
                self.copies.push(Copied { at, note, redelivered: false });
            }
        }
    }

    fn step(&mut self, input: Input<Tiny>) {
        // A task that is settled or delivered is not paused for before the next step.
        let is_prompt = matches!(input, Input::Settled { .. } | Input::Delivered(_) | Input::Pulled(_));
        self.act(|book, now, out| book.step(now, input, out), is_prompt);
    }

    fn act(&mut self, act: impl FnOnce(&mut TaskBook<Tiny>, Instant, &mut Vec<Action<Tiny>>), is_prompt: bool) {
        let mut out = Vec::new();
        CLAIMS.set(std::mem::take(&mut self.claims));
        act(&mut self.book, self.now, &mut out);
        self.claims = CLAIMS.take();
        let fits = out.iter().position(|action| matches!(action, Action::Fit { .. }));
        let makes_lease_acks = out.iter().position(|action| matches!(action, Action::Ack(_)));
        let is_released = out.iter().any(|action| matches!(action, Action::Released { .. }));
        if let (Some(fit), Some(ack)) = (fits, makes_lease_acks)
            && ack < fit
            && !is_released
        {
            self.wrong = Some("a place is given free before the consumer is fitted");
        }
        for action in out {
            self.take_action(action, is_prompt);
        }
    }

    fn take_action(&mut self, action: Action<Tiny>, is_prompt: bool) {
        match action {
            Action::Offer { task, .. } => {
                let is_marked = task.redelivered || task.message.marks.is_copy();
                let hand = Hand { claim: Some(task.claim), note: task.message, is_marked };
                self.hands.insert(task.hand, hand);
            }
            Action::Hand(task) => {
                self.claims.states.remove(&task.claim.0);
                let is_marked = task.redelivered || task.message.marks.is_copy();
                let hand = Hand { claim: None, note: task.message, is_marked };
                self.hands.insert(task.hand, hand);
                self.check_begun(task.hand, hand);
            }
            Action::Ack(tag) => self.settle(Ask::Ack(tag)),
            Action::Requeue(tag) => {
                if is_prompt
                    && self.mode() != Mode::Closing
                    && let Some(copy) = self.copies.iter().find(|copy| copy.at == Place::Out(tag))
                {
                    let at_once = &mut self.at_once[usize::from(copy.note.number)];
                    *at_once += 1;
                    if *at_once > 1 {
                        self.wrong = Some("a task goes back without a pause, again and again");
                    }
                }
                self.settle(Ask::Requeue(tag));
            }
            Action::MakeLease { lease, message, marks, .. } => {
                self.ask(Ask::MakeLease(lease, Note { marks, ..message }));
            }
            Action::DeleteLease { lease } => self.ask(Ask::DeleteLease(lease)),
            Action::Move { task, to, message, marks, .. } => {
                let to_quarantine = matches!(to, Destination::Quarantine { .. });
                self.ask(Ask::Move(task, Note { marks, ..message }, to_quarantine));
            }
            Action::OwnershipLost { task, .. } => {
                if !self.reported.insert(task) {
                    self.wrong = Some("the loss of a task is reported twice");
                }
            }
            Action::Released { task } => {
                self.reported.remove(&task);
                if self.book.in_hand.contains_key(&task) {
                    self.wrong = Some("a task is released that is in hand");
                }
            }
            Action::Fit { taken, .. } => self.fitted = taken,
            Action::Answer(_)
            | Action::AnswerAgain { .. }
            | Action::Adopted { .. }
            | Action::Quarantined { .. }
            | Action::MoveFailed { .. }
            | Action::LeaseLeft { .. } => {}
        }
    }

    fn settle(&mut self, ask: Ask) {
        let Some(channel) = ask.channel() else { return };
        if self.book.connection != Some(channel.generation) {
            self.wrong = Some("a delivery of another connection is settled");
        }
        self.ask(ask);
    }

    fn ask(&mut self, ask: Ask) {
        if self.is_up {
            self.asked.push(ask);
        } else {
            self.wrong = Some("something is asked of the broker without a connection");
        }
    }

    /// Holds in every state.
    fn check(&mut self) {
        if self.wrong.is_none() {
            self.wrong = self.find_wrong();
        }
    }

    fn find_wrong(&self) -> Option<&'static str> {
        for note in &self.sent {
            let is_alike = |other: &Note| other.id == note.id && other.content == note.content;
            // Messages that nobody can tell apart are counted together.
            let is_counted =
                |other: &Note| if note.id.is_some() { is_alike(other) } else { other.number == note.number };
            let sent = self.sent.iter().filter(|other| is_counted(other)).count();
            let finished: usize = self
                .sent
                .iter()
                .filter(|other| is_counted(other))
                .map(|other| usize::from(self.finished[usize::from(other.number)]))
                .sum();
            let left = self.copies.iter().filter(|copy| is_counted(&copy.note)).count();
            if left + finished < sent {
                return Some("a task is lost");
            }
            if left > 12 {
                return Some("there are copies without end");
            }
        }
        if self.is_over {
            return None;
        }
        self.in_hand_wrong().or_else(|| self.tables_wrong()).or_else(|| {
            let is_adversity = |step: &Move| self.is_adversity(step);
            (self.moves().iter().all(is_adversity) && !self.is_good()).then_some("at rest with something left")
        })
    }

    /// In hand if and only if somebody has it, or something brings it on its way.
    fn in_hand_wrong(&self) -> Option<&'static str> {
        for (task, known) in &self.book.in_hand {
            let id = HandId { task: *task, round: known.round };
            let hand = self.hands.get(&id);
            let is_begun = match &known.state {
                State::Offered { claim, .. } => {
                    let state = self.claims.states.get(&claim.0);
                    if hand.is_none() || state == Some(&Claimed::Withdrawn) {
                        return Some("a task is offered and nobody has it");
                    }
                    state == Some(&Claimed::Begun)
                }
                State::Held if hand.is_none() => return Some("a task is held and nobody has it"),
                State::Held => true,
                State::Pausing { .. } if !self.book.timers.is_set(Due::Pause(*task)) => {
                    return Some("a task pauses for ever");
                }
                State::Waiting { .. } if known.leases.making.is_none() && self.book.connection.is_some() => {
                    return Some("a task waits for nothing");
                }
                State::Moving { .. } if !self.is_pending(|ask| matches!(ask, Ask::Move(of, _, _) if of == task)) => {
                    return Some("a task moves and nobody moves it");
                }
                State::Pausing { .. } | State::Waiting { .. } | State::Moving { .. } => false,
            };
            if known.leases.standing.is_some_and(|lease| self.lapsed.contains(&lease)) {
                return Some("a lease whose time is over is taken for ownership");
            }
            if let State::Offered { to, .. } = &known.state
                && !is_begun
                && !self.subscribers.contains(to)
            {
                return Some("a subscriber that has left keeps its offer");
            }
            if is_begun && !known.is_ours() && !self.reported.contains(task) {
                return Some("the loss of a task is not reported");
            }
            if known.leases.making.as_ref().is_some_and(|making| self.book.making.get(&making.lease) != Some(task)) {
                return Some("a lease is made of which nobody knows");
            }
            if known.tickets.keys().any(|tag| self.book.connection != Some(tag.channel.generation)) {
                return Some("a task stands on a delivery of another connection");
            }
        }
        for (id, hand) in &self.hands {
            let is_withdrawn =
                hand.claim.is_some_and(|claim| self.claims.states.get(&claim.0) == Some(&Claimed::Withdrawn));
            if !is_withdrawn && !self.is_current(*id) && self.mode() != Mode::Closing {
                return Some("somebody has a task that is not in hand");
            }
        }
        None
    }

    fn tables_wrong(&self) -> Option<&'static str> {
        for lease in self.book.making.keys() {
            if !self.is_pending(|ask| matches!(ask, Ask::MakeLease(of, _) if of == lease)) {
                return Some("a lease is waited for that nobody makes");
            }
        }
        for (lease, orphan) in &self.book.orphans {
            let is_asked = self.is_pending(|ask| matches!(ask, Ask::DeleteLease(of) if of == lease));
            if is_asked != orphan.is_asked {
                return Some("a lease is deleted twice or by nobody");
            }
            if !is_asked && self.book.connection.is_some() && !self.book.timers.is_set(Due::Delete(*lease)) {
                return Some("a lease stays for ever");
            }
        }
        let is_left = |copy: &Copied| match copy.at {
            Place::Lease(lease) => !self.is_kept(lease) && !self.lapsed.contains(&lease),
            _ => false,
        };
        if self.copies.iter().any(is_left) {
            return Some("a lease is left behind");
        }
        let taken = self.book.in_hand.values().filter(|known| known.takes_a_place()).count();
        if self.book.places_taken(&QUEUE) != taken {
            return Some("places are miscounted");
        }
        if !self.subscribers.is_empty() && self.fitted != taken {
            return Some("the consumer is not fitted");
        }
        if self.subscribers.is_empty() && self.book.in_hand.is_empty() && !self.book.queues.is_empty() {
            return Some("the state of a queue stays");
        }
        None
    }

    fn is_pending(&self, is_meant: impl Fn(&Ask) -> bool) -> bool {
        self.asked.iter().chain(self.done.iter().map(|(ask, _)| ask)).any(is_meant)
    }

    fn is_adversity(&self, step: &Move) -> bool {
        match step {
            Move::Lose { .. }
            | Move::CloseLane(_)
            | Move::Unsubscribe(_)
            | Move::Resend(_)
            | Move::Steal(_)
            | Move::Drain
            | Move::Close
            | Move::Pull(_) => true,
            Move::Expire(lease) => self.is_kept(*lease),
            _ => false,
        }
    }

    /// Everything is done and nothing is left.
    pub(super) fn is_good(&self) -> bool {
        if self.is_over {
            return true;
        }
        let are_done = self.copies.iter().all(|copy| copy.at == Place::Quarantine)
            || self.mode() == Mode::Draining
                && self.copies.iter().all(|copy| matches!(copy.at, Place::Quarantine | Place::Queue));
        self.mode() != Mode::Closing
            && are_done
            && self.asked.is_empty()
            && self.done.is_empty()
            && self.coming.is_empty()
            && self.hands.is_empty()
            && self.book.is_empty()
    }
}
