//! One task in hand: its state, its deliveries and its leases.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::ended::count_one;
use super::message::{Attempt, DeliveryTag, Identity, Kinds, LeaseId, Marks, Message, SubscriberId};

/// Where a task stands. See the drawing in the module [`book`](super::book).
#[derive(Clone, Debug)]
pub(super) enum State<K: Kinds> {
    /// It was sent to a subscriber; the claim knows whether the subscriber has begun.
    Offered { to: SubscriberId, claim: K::Claim },
    /// Whoever pulled it has it.
    Held,
    /// Nobody works on it; the pause before it goes on its way is not over.
    Pausing { then: Wish<K::Answer> },
    /// Nobody works on it; it goes on its way as soon as it is known what became of the lease that is being made, or as soon
    /// as there is a connection.
    Waiting { then: Wish<K::Answer> },
    /// A copy is on its way into another queue, or into its own.
    Moving { then: Wish<K::Answer>, marks: Marks },
}

/// What is to become of a task on which nobody works any more.
#[derive(Clone, Debug)]
pub(super) enum Wish<A> {
    /// It goes back to its queue as it is.
    Back,
    /// It goes back as the next attempt.
    Retry { attempt: u32 },
    /// It goes to the quarantine queue.
    Quarantine { reason: String, answer: Option<A> },
}

/// How a delivery came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// By the queue's consumer, in whose prefetch it counts.
    Pushed,
    /// By a pull.
    Pulled,
}

/// The lease queues that hold, or may hold, a copy of a task.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    /// Certainly holds a copy, and its time is not over.
    pub standing: Option<LeaseId>,
    /// Whether they hold one is not known.
    pub doubtful: BTreeSet<LeaseId>,
    /// By our clock their time is over: the broker has put the copy back, or is about to. While the task is unfinished they
    /// must not be deleted, for the only copy may still be in there.
    pub lapsed: BTreeSet<LeaseId>,
    pub making: Option<Making>,
}

/// A lease that was asked for.
#[derive(Clone, Debug)]
pub(super) struct Making {
    pub lease: LeaseId,
    /// When it was asked for, which is before the broker begins to count.
    pub since: Instant,
    /// The deliveries that it will stand for.
    pub covers: BTreeSet<DeliveryTag>,
}

/// Whether a task belongs to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// A delivery or a lease stands for it.
    Ours,
    /// The broker has taken it back at least once, and may have handed it to somebody else.
    Lost,
    /// It is not in hand.
    Ended,
}

#[derive(Clone, Debug)]
pub(super) struct InHand<K: Kinds> {
    pub queue: K::Queue,
    pub message: K::Message,
    pub identity: Option<Identity>,
    pub state: State<K>,
    /// How often it was given to somebody.
    pub round: u32,
    /// The last subscriber that was asked.
    pub asked: Option<SubscriberId>,
    pub redelivered: bool,
    pub attempt: Attempt,
    /// The deliveries that stand for it: its own, and those of copies that came while it was in hand.
    pub tickets: BTreeMap<DeliveryTag, (Source, Marks)>,
    /// Deliveries that were lost and may come again.
    pub lost: Vec<(Marks, u32)>,
    /// The copies of it that have been here.
    pub seen: BTreeSet<Marks>,
    pub leases: Leases,
    /// The highest counts that any copy of it carries.
    pub marks: Marks,
    /// The marks of copies into its own queue of which it is not known whether they arrived.
    pub unsure: BTreeSet<Marks>,
    /// The marks of the copy in its latest lease. Those of earlier ones count lower.
    pub leased: Option<Marks>,
    /// How often it could not be moved.
    pub failures: u32,
    /// Whether it was reported that it was taken back.
    pub is_reported: bool,
    /// Whether it is counted as one of which the queue's consumer does not know.
    pub is_counted: bool,
}

impl<K: Kinds> InHand<K> {
    pub(super) fn new(queue: K::Queue, message: K::Message, redelivered: bool) -> Self {
        let marks = message.marks();
        let number = marks.attempt.max(1);
        // A copy from a lease was in somebody's hands, and so was one of a task of which nobody knew how often it was handed out.
        let redelivered = redelivered || marks.lease > 0;
        InHand {
            queue,
            identity: message.identity(),
            message,
            state: State::Held,
            round: 0,
            asked: None,
            redelivered,
            // A redelivery is no failed attempt: the broker marks a message that was only looked at, too.
            attempt: if redelivered { Attempt::AtLeast(number) } else { Attempt::Exactly(number) },
            tickets: BTreeMap::new(),
            lost: Vec::new(),
            seen: BTreeSet::from([marks]),
            leases: Leases::default(),
            marks,
            unsure: BTreeSet::new(),
            leased: None,
            failures: 0,
            is_reported: false,
            is_counted: false,
        }
    }

    /// A copy of it has come, or itself once more: the broker had it meanwhile, and may have handed it to somebody else.
    pub(super) fn may_have_run_elsewhere(&mut self) {
        self.redelivered = true;
        self.attempt = Attempt::AtLeast(self.attempt.number());
    }

    /// Its delivery that was copied last.
    pub(super) fn newest(&self) -> Option<(DeliveryTag, Marks)> {
        // The first of those that are equal.
        self.tickets.iter().rev().map(|(tag, (_, marks))| (*tag, *marks)).max_by_key(|(_, marks)| marks.order())
    }

    /// Whether the broker may have a delivery back instead of a new copy.
    ///
    /// Guards: another communicator that has given up this delivery for a copy of its own, and takes it for superfluous when
    /// it comes. The newest copy of all is superfluous to nobody, so none but a newer one may take its place.
    pub(super) fn can_go_back(&self) -> bool {
        self.newest().is_some_and(|(_, marks)| self.leased.is_none_or(|leased| marks.order() >= leased.order()))
    }

    /// Guards: two copies that nobody could tell apart.
    pub(super) fn make_marks_new(&mut self) {
        self.marks.copy = K::copy_number();
        // That many are taken, so that one of these is free.
        for _ in 0..=self.seen.len() + self.unsure.len() {
            let order = self.marks.order();
            if !self.seen.iter().chain(&self.unsure).chain(&self.leased).any(|known| known.order() == order) {
                return;
            }
            self.marks.resend = self.marks.resend.wrapping_add(1);
        }
    }

    /// Something at the broker stands for it that nobody else can be given.
    pub(super) fn is_ours(&self) -> bool {
        !self.tickets.is_empty() || self.leases.standing.is_some()
    }

    /// It is one of ours that its queue's consumer does not count.
    pub(super) fn takes_a_place(&self) -> bool {
        self.is_ours() && !self.tickets.values().any(|(source, _)| *source == Source::Pushed)
    }

    /// Takes out the deliveries that are gone. True if there were any.
    pub(super) fn lose(&mut self, is_gone: impl Fn(&DeliveryTag) -> bool) -> bool {
        let gone: Vec<DeliveryTag> = self.tickets.keys().filter(|tag| is_gone(tag)).copied().collect();
        for tag in &gone {
            if let Some((_, marks)) = self.tickets.remove(tag) {
                count_one(&mut self.lost, marks);
            }
        }
        !gone.is_empty()
    }
}
