//! The task book: what becomes of every task in a worker's hands. A value: an input and the time go in, actions come out. It
//! has no clock, no lock and no I/O, so that its explorer can walk through everything that can happen.
//!
//! # A task's states
//! ```text
//!                 Delivered                                     Pulled
//!                     |                                           |
//!                     v          Rejected, next subscriber        v
//!              +-------------+ ------------------+         +-------------+
//!              |   Offered   | <-----------------+         |    Held     |
//!              +-------------+                             +-------------+
//!                |         |                                 |         |
//!                | Done    | Rejected by the last, Requeue,  |         | Done
//!                |         | TryAgain, Quarantine, Dropped   |         |
//!                |         +---------------+-----------------+         |
//!                |                         v                           |
//!                |                  +-------------+   Moved: No, Unknown
//!                |                  |   Pausing   | <-------------+    |
//!                |                  +-------------+               |    |
//!                |                         | the pause is over    |    |
//!                |                         v                      |    |
//!                |                  +-------------+               |    |
//!                |                  |   Waiting   |               |    |
//!                |                  +-------------+               |    |
//!                |      a delivery goes |  |  | a copy is needed   |    |
//!                |      back, or it is  |  |  |    +-------------+ |    |
//!                |      away            |  |  +--> |   Moving    |-+    |
//!                |                      |  |       +-------------+      |
//!                v                      v  v              | Moved: Yes  v
//!              +----------------------------------------------------------+
//!              |                          Ended                           |
//!              +----------------------------------------------------------+
//! ```
//! - *Offered*: it was sent to a subscriber, whose home takes the claim before it begins.
//! - *Held*: somebody pulled it and works on it.
//! - *Pausing*: nobody works on it; a timer brings it on its way.
//! - *Waiting*: nobody works on it; it cannot go before the lease that is being made is known, or before there is a
//!   connection. Mostly this state is passed at once.
//! - *Moving*: a copy is being published; the answer decides.
//! - *Ended*: it is not in hand. Its leases may outlive it as *orphans* until they are deleted.
//!
//! Beside its state a task has *tickets* (deliveries that stand for it), *lost* deliveries (which may come again) and *leases*.
//! It is *ours* while a ticket or a standing lease is there, and *away* otherwise: the broker has it, and may hand it to
//! somebody else. A task that is away and on which nobody works ends: the broker hands it out again of itself. One that
//! nobody has begun ends as soon as it is away, for its claim can be withdrawn.
//!
//! # What comes again
//! Each copy of a message has marks of its own, so that identity and marks name one message at the broker. A delivery *joins* a
//! task that runs here if exactly that copy of it was lost, or if it is marked as a copy and was not here before, or if the one
//! that runs is marked as the sender's second try of this one. It is
//! acknowledged without being run if [`Acknowledged`] explains it. In every other case it is a task of its own: a peer whose
//! messages are all alike loses none. (What no worker can tell apart: of two messages alike in id, correlation id, body and
//! marks, one of which was acknowledged here through a connection that is lost since, and one of which comes from
//! another worker that died, or was on its way here when the connection was lost.)
//!
//! # Inputs and actions
//! They are described at [`Input`] and [`Action`]. Each `Move`, `MakeLease` and `DeleteLease` is answered exactly once, at any
//! later time, also after its connection was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::action::{Action, Destination, Handed};
use super::ended::{Acknowledged, Explained, is_another_copy, take};
use super::faults::Fault;
use super::in_hand::{InHand, Making, Ownership, Source, State, Wish};
use super::input::{Cause, Config, Contents, Delivery, Input, Known, LongTasks, Settlement};
use super::message::{
    Attempt, Channel, Claim, ClosedChannels, DeliveryTag, Generation, HandId, Identity, Kinds, LeaseId, Marks, Message,
    SubscriberId, TaskId,
};
use super::pauses::{self, Pauses};
use super::timers::{Due, Timers, after};

/// The longest pause before another attempt.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// So long it is awaited, while there is a connection, that a task comes back which is to go into quarantine, and is away.
const RETURN: Duration = Duration::from_secs(60);
/// So often a task is tried to be moved before it goes back to its queue instead.
const MOVES: u32 = 3;
/// So often a lease queue is tried to be deleted before it is left to its expiry.
const DELETES: u32 = 8;
/// The pause after the first failure to delete a lease queue. It doubles.
const DELETE_PAUSE: Duration = Duration::from_millis(500);

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct TaskBook<K: Kinds> {
    pub(super) config: Config,
    pub(super) mode: Mode,
    pub(super) connection: Option<Generation>,
    /// Of this connection.
    pub(super) closed: ClosedChannels,
    pub(super) queues: BTreeMap<K::Queue, Queue>,
    pub(super) in_hand: BTreeMap<TaskId, InHand<K>>,
    pub(super) by_identity: BTreeMap<Identity, BTreeSet<TaskId>>,
    /// For which tasks leases are being made. The task may have ended meanwhile.
    pub(super) making: BTreeMap<LeaseId, TaskId>,
    /// Lease queues that stand for no task and are to be deleted.
    pub(super) orphans: BTreeMap<LeaseId, Orphan>,
    pub(super) acknowledged: Acknowledged,
    pub(super) pauses: Pauses,
    pub(super) timers: Timers,
    /// Queues whose number of places has changed in this step.
    unfitted: BTreeSet<K::Queue>,
    last_task: u64,
    last_lease: u64,
    #[cfg(test)]
    pub(super) fault: Option<Fault>,
}

/// Whether there is still work to be taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Mode {
    Open,
    Draining,
    Closing,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    pub subscribers: BTreeSet<SubscriberId>,
    /// How many tasks of it are in hand.
    pub tasks: usize,
    /// Of those, how many its consumer does not count.
    pub taken: usize,
    /// What its subscribers' consumer was last told of that, if anything.
    pub announced: Option<usize>,
}

/// A lease queue on the way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Orphan {
    /// Its delete was asked for and is not answered.
    pub is_asked: bool,
    /// How often that failed.
    pub failures: u32,
    /// The task for which it held a copy until another lease stood for that.
    pub stood_for: Option<TaskId>,
    /// A delete of it failed, or had no answer: it may have been done all the same.
    pub is_doubtful: bool,
    /// By our clock its time is over.
    pub is_over: bool,
}

/// How a task leaves the hand unfinished, and what that means for its deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Another copy of it is certainly at the broker: this one's deliveries and leases are not needed.
    Replaced,
    /// One delivery of it has gone back.
    Returned,
    /// The broker has it.
    Away,
}

impl<K: Kinds> TaskBook<K> {
    pub(crate) fn new(config: Config) -> Self {
        TaskBook {
            config,
            mode: Mode::Open,
            connection: None,
            closed: ClosedChannels::default(),
            queues: BTreeMap::new(),
            in_hand: BTreeMap::new(),
            by_identity: BTreeMap::new(),
            making: BTreeMap::new(),
            orphans: BTreeMap::new(),
            acknowledged: Acknowledged::default(),
            pauses: Pauses::default(),
            timers: Timers::default(),
            unfitted: BTreeSet::new(),
            last_task: 0,
            last_lease: 0,
            #[cfg(test)]
            fault: None,
        }
    }

    /// Takes an input in; what is to be done is added to the actions, in order.
    pub(crate) fn step(&mut self, now: Instant, input: Input<K>, out: &mut Vec<Action<K>>) {
        match input {
            Input::Subscribed { queue, subscriber } => self.subscribed(queue, subscriber),
            Input::Unsubscribed { queue, subscriber } => self.unsubscribed(now, &queue, subscriber, out),
            Input::Delivered(delivery) => self.delivered(now, Source::Pushed, delivery, out),
            Input::Pulled(delivery) => self.delivered(now, Source::Pulled, delivery, out),
            Input::Settled { hand, settlement } => self.settled(now, hand, settlement, out),
            Input::Moved { task, known } => self.moved(now, task, known, out),
            Input::LeaseMade { lease, known } => self.lease_made(now, lease, known, out),
            Input::LeaseDeleted { lease, known, contents } => self.lease_deleted(now, lease, known, contents, out),
            Input::ChannelClosed(channel) => self.channel_closed(channel, out),
            Input::ConnectionLost => self.connection_lost(out),
            Input::Connected(generation) => self.connected(now, generation, out),
            Input::Drain => self.drain(now, out),
            Input::Close => self.close(now, out),
            Input::Tick => {
                while let Some(due) = self.timers.pop(now) {
                    self.due(now, due, out);
                }
            }
        }
        self.fit_all(out);
    }

    /// When [`Input::Tick`] is next wanted.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// How many of a queue's tasks are in hand without its consumer's knowledge: on lease, or pulled. Its prefetch is to be
    /// smaller by that.
    #[cfg(test)]
    pub(crate) fn places_taken(&self, queue: &K::Queue) -> usize {
        self.queues.get(queue).map_or(0, |queue| queue.taken)
    }

    /// Whether a task belongs to this worker: for watches that come late.
    pub(crate) fn ownership(&self, task: TaskId) -> Ownership {
        match self.in_hand.get(&task) {
            None => Ownership::Ended,
            Some(known) if known.is_reported => Ownership::Lost,
            Some(_) => Ownership::Ours,
        }
    }

    /// Whether the task for which this lease is being made still needs it.
    pub(crate) fn awaits(&self, lease: LeaseId) -> bool {
        let task = self.making.get(&lease).and_then(|task| self.in_hand.get(task));
        task.and_then(|task| task.leases.making.as_ref()).is_some_and(|making| making.lease == lease)
    }

    /// How many tasks are in hand.
    pub(crate) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// Whether no answer is outstanding: what was asked of the broker is done.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_moving = |known: &InHand<K>| matches!(known.state, State::Moving { .. });
        self.making.is_empty() && self.orphans.is_empty() && !self.in_hand.values().any(is_moving)
    }

    /// Whether nothing is kept of any task. (Of what was acknowledged, a bounded memory stays.)
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.in_hand.is_empty()
            && self.by_identity.is_empty()
            && self.making.is_empty()
            && self.orphans.is_empty()
            && self.timers.is_empty()
            && self.queues.values().all(|queue| queue.tasks == 0 && queue.taken == 0 && !queue.subscribers.is_empty())
    }

    #[cfg(test)]
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "as in the tests, where a fault can be put in")]
    const fn has(&self, _: Fault) -> bool {
        false
    }

    // Subscribers.

    fn subscribed(&mut self, queue: K::Queue, subscriber: SubscriberId) {
        let entry = self.queues.entry(queue.clone()).or_default();
        if entry.subscribers.is_empty() {
            // Guards: a consumer that begins anew, or that remembers how many places were taken when it last had a
            // subscriber: with one place, it would wait for ever for the end of a task that has ended.
            entry.announced = None;
            self.unfitted.insert(queue);
        }
        entry.subscribers.insert(subscriber);
    }

    fn unsubscribed(&mut self, now: Instant, queue: &K::Queue, subscriber: SubscriberId, out: &mut Vec<Action<K>>) {
        let Some(entry) = self.queues.get_mut(queue) else { return };
        entry.subscribers.remove(&subscriber);
        self.shrink(queue);
        if self.has(Fault::OfferNotMovedOn) {
            return;
        }
        let is_its = |known: &InHand<K>| match &known.state {
            State::Offered { to, .. } => *to == subscriber && known.queue == *queue,
            _ => false,
        };
        for task in self.those(is_its) {
            if self.withdraw(task) {
                self.offer_on(now, task, out);
            }
        }
    }

    /// Drops what is kept of a queue once there is nothing.
    fn shrink(&mut self, queue: &K::Queue) {
        let is_unused = |queue: &Queue| queue.subscribers.is_empty() && queue.tasks == 0;
        if self.queues.get(queue).is_some_and(is_unused) && !self.has(Fault::QueueKept) {
            self.queues.remove(queue);
        }
    }

    // Deliveries.

    fn delivered(&mut self, now: Instant, source: Source, delivery: Delivery<K>, out: &mut Vec<Action<K>>) {
        let Delivery { queue, tag, message, redelivered } = delivery;
        // Guards: a delivery that was on its way while its channel closed. The broker has it back, and nothing must stand on
        // it. In a close the connection's end takes it back.
        if !self.is_open(tag.channel) || self.mode == Mode::Closing {
            return;
        }
        let marks = message.marks();
        if let Some(identity) = message.identity()
            && !self.proves_a_move(identity, marks, out)
        {
            if let Some(task) = self.joined_by(identity, marks, redelivered) {
                return self.join(now, task, tag, source, marks, out);
            }
            if let Some(why) = self.explained(identity, marks, redelivered) {
                self.acknowledge(Some(identity), marks, tag, out);
                if why == Explained::Ended {
                    out.push(Action::AnswerAgain { message });
                }
                return;
            }
        }
        self.last_task += 1;
        let task = TaskId(self.last_task);
        let mut known = InHand::new(queue.clone(), message, redelivered);
        known.tickets.insert(tag, (source, marks));
        if let Some(identity) = known.identity {
            self.by_identity.entry(identity).or_default().insert(task);
        }
        self.in_hand.insert(task, known);
        self.queues.entry(queue).or_default().tasks += 1;
        self.recount(task);
        self.start_lease_timer(now, task);
        match (source, self.mode) {
            (Source::Pulled, Mode::Open) => self.hand_out(task, out),
            (Source::Pushed, Mode::Open) => self.offer_first(now, task, out),
            _ => self.back_once_at_once(now, task, out),
        }
    }

    fn is_open(&self, channel: Channel) -> bool {
        self.connection == Some(channel.generation)
            && (self.has(Fault::DeadChannelTrusted) || !self.closed.contains(channel))
    }

    /// Whether this delivery is a copy that a task in hand was to become. It shows that the copy has arrived, whatever the
    /// answer was or will be: the task in hand is done with, and the copy is a task of its own.
    fn proves_a_move(&mut self, identity: Identity, marks: Marks, out: &mut Vec<Action<K>>) -> bool {
        let moved_to = |known: &InHand<K>| match &known.state {
            State::Moving { marks: on_the_way, .. } => *on_the_way == marks || known.unsure.contains(&marks),
            State::Pausing { .. } | State::Waiting { .. } => known.unsure.contains(&marks),
            State::Offered { .. } | State::Held => false,
        };
        let tasks = self.by_identity.get(&identity).into_iter().flatten();
        let moved = tasks.copied().find(|task| self.in_hand.get(task).is_some_and(moved_to));
        if let Some(task) = moved {
            self.leave(task, Leave::Replaced, out);
        }
        moved.is_some()
    }

    /// The task in hand that this delivery is another delivery of, if there is one.
    fn joined_by(&mut self, identity: Identity, marks: Marks, redelivered: bool) -> Option<TaskId> {
        let tasks = match self.has(Fault::IdAlone) {
            true => self.by_identity.iter().find(|(known, _)| known.id == identity.id)?.1.clone(),
            false => self.by_identity.get(&identity)?.clone(),
        };
        let any_reason = self.has(Fault::NoReasonNeeded) || self.has(Fault::IdAlone);
        // One whose copy is on its way is done with.
        let mut staying = tasks
            .iter()
            .copied()
            .filter(|task| self.in_hand.get(task).is_some_and(|known| !matches!(known.state, State::Moving { .. })));
        if any_reason {
            return staying.next();
        }
        let staying: Vec<TaskId> = staying.collect();
        // Guards: a delivery that a task on its way out has lost, and that would be owed once more when that has left.
        for task in tasks.iter().filter(|task| !staying.contains(task)) {
            if let Some(known) = self.in_hand.get_mut(task)
                && redelivered
                && take(&mut known.lost, marks)
            {
                return None;
            }
        }
        for task in &staying {
            if let Some(known) = self.in_hand.get_mut(task)
                && redelivered
                && take(&mut known.lost, marks)
            {
                return Some(*task);
            }
        }
        staying.into_iter().find(|task| {
            let known = self.in_hand.get_mut(task);
            known.is_some_and(|known| is_another_copy(&mut known.seen, marks))
        })
    }

    fn explained(&mut self, identity: Identity, marks: Marks, redelivered: bool) -> Option<Explained> {
        #[cfg(test)]
        if let Some(fault) = self.fault {
            return self.acknowledged.explain_faulty(fault, identity, marks, redelivered);
        }
        self.acknowledged.explain(identity, marks, redelivered)
    }

    fn join(
        &mut self,
        now: Instant,
        task: TaskId,
        tag: DeliveryTag,
        source: Source,
        marks: Marks,
        out: &mut Vec<Action<K>>,
    ) {
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        let was_away = !known.is_ours();
        known.tickets.insert(tag, (source, marks));
        known.marks = Marks {
            resend: known.marks.resend.max(marks.resend),
            lease: known.marks.lease.max(marks.lease),
            attempt: known.marks.attempt.max(marks.attempt),
            // Each copy gets one of its own.
            copy: known.marks.copy,
        };
        known.may_have_run_elsewhere();
        out.push(Action::Adopted { task, queue: known.queue.clone(), message: known.message.clone() });
        self.recount(task);
        self.start_lease_timer(now, task);
        if was_away {
            self.is_back(task, out);
        }
        self.go(task, out);
    }

    /// A task that was away is ours again: if that was awaited, it goes into quarantine.
    fn is_back(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        if let Some(known) = self.in_hand.get(&task)
            && matches!(known.state, State::Pausing { then: Wish::Quarantine { .. } })
        {
            self.timers.clear(Due::Pause(task));
            self.pause_over(task, out);
        }
    }

    // Who gets a task.

    /// A task that has just come.
    fn offer_first(&mut self, now: Instant, task: TaskId, out: &mut Vec<Action<K>>) {
        if !self.offer(task, out) {
            if self.has(Fault::NobodyRequeuesAtOnce) {
                return self.pause(now, task, Wish::Back, Duration::ZERO, out);
            }
            self.back_once_at_once(now, task, out);
        }
    }

    /// A task that somebody did not want, or did not begin: the next subscriber gets it; after the last it goes back.
    fn offer_on(&mut self, now: Instant, task: TaskId, out: &mut Vec<Action<K>>) {
        if !self.give_way(task, out) && !self.offer(task, out) {
            self.back(now, task, out);
        }
    }

    /// Offers it to the next subscriber. False if there is none, or if it is not to be offered any more.
    fn offer(&mut self, task: TaskId, out: &mut Vec<Action<K>>) -> bool {
        let away_too = self.has(Fault::AwayOffered);
        let Some(known) = self.in_hand.get_mut(&task) else { return false };
        // Guards: a task that is away, which somebody else may have by now.
        if self.mode != Mode::Open || !(known.is_ours() || away_too) {
            return false;
        }
        let Some(queue) = self.queues.get(&known.queue) else { return false };
        let Some(to) = queue.subscribers.iter().find(|subscriber| known.asked < Some(**subscriber)).copied() else {
            return false;
        };
        let claim = K::Claim::default();
        known.asked = Some(to);
        known.state = State::Offered { to, claim: claim.clone() };
        known.round = known.round.saturating_add(1);
        let task = handed(task, known, claim);
        out.push(Action::Offer { to, task });
        true
    }

    fn hand_out(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        known.state = State::Held;
        known.round = known.round.saturating_add(1);
        out.push(Action::Hand(handed(task, known, K::Claim::default())));
    }

    /// Takes an offer back. False if the task was begun, or is not offered.
    fn withdraw(&self, task: TaskId) -> bool {
        match self.in_hand.get(&task).map(|known| &known.state) {
            Some(State::Offered { claim, .. }) => claim.withdraw(),
            _ => false,
        }
    }

    // How tasks end.

    fn settled(&mut self, now: Instant, hand: HandId, settlement: Settlement<K::Answer>, out: &mut Vec<Action<K>>) {
        let task = hand.task;
        let Some(known) = self.in_hand.get(&task) else { return };
        let is_pulled = match known.state {
            State::Offered { .. } => false,
            State::Held => true,
            _ if self.has(Fault::StaleSettlementCounts) => false,
            _ => return,
        };
        // Guards: a guard that is dropped after its task was withdrawn and given to somebody else.
        if known.round != hand.round && !self.has(Fault::StaleSettlementCounts) {
            return;
        }
        match settlement {
            Settlement::Done { answer } => self.done(task, answer, out),
            // Nobody else is asked about a task that was pulled.
            Settlement::Rejected if is_pulled => self.back_once_at_once(now, task, out),
            Settlement::Rejected => self.offer_on(now, task, out),
            Settlement::Requeue => self.back(now, task, out),
            Settlement::TryAgain { reason, answer } => self.try_again(now, task, &reason, answer, out),
            Settlement::Quarantine { reason, answer } => {
                self.pause(now, task, Wish::Quarantine { reason, answer }, Duration::ZERO, out);
            }
            Settlement::Dropped(cause) => self.dropped(now, task, cause, out),
        }
    }

    /// As kiwipy: acknowledged, then answered. A task that is away is acknowledged when it comes again.
    fn done(&mut self, task: TaskId, answer: Option<K::Answer>, out: &mut Vec<Action<K>>) {
        let Some(known) = self.take(task) else { return };
        self.pauses.forget(known.message.pause_key());
        for (tag, (_, marks)) in &known.tickets {
            self.acknowledge(known.identity, *marks, *tag, out);
        }
        if let Some(identity) = known.identity
            && !self.has(Fault::EndedForgotten)
        {
            self.acknowledged.end(identity, known.lost.clone(), &known.seen);
        }
        out.extend(answer.map(Action::Answer));
        self.end_leases(&known, out);
        out.push(Action::Released { task });
    }

    /// A guard was dropped without a settlement. None of these ways brings the task back without a pause twice.
    fn dropped(&mut self, now: Instant, task: TaskId, cause: Cause, out: &mut Vec<Action<K>>) {
        let what = match cause {
            Cause::HandlerPanicked => "the handler panicked",
            Cause::HomeEnded if self.withdraw(task) => return self.offer_on(now, task, out),
            Cause::HomeEnded => return self.back(now, task, out),
            Cause::LetGo if self.has(Fault::LetGoAlwaysAtOnce) => {
                return self.pause(now, task, Wish::Back, Duration::ZERO, out);
            }
            Cause::LetGo => return self.back_once_at_once(now, task, out),
        };
        if self.has(Fault::PanicRequeuesAtOnce) {
            return self.pause(now, task, Wish::Back, Duration::ZERO, out);
        }
        self.try_again(now, task, what, None, out);
    }

    fn try_again(
        &mut self,
        now: Instant,
        task: TaskId,
        reason: &str,
        answer: Option<K::Answer>,
        out: &mut Vec<Action<K>>,
    ) {
        let Some(known) = self.in_hand.get(&task) else { return };
        let attempt = known.attempt.number();
        if attempt >= self.config.attempts {
            let times = if attempt == 1 { "attempt" } else { "attempts" };
            let reason = format!("given up after {attempt} {times}: {reason}");
            return self.pause(now, task, Wish::Quarantine { reason, answer }, Duration::ZERO, out);
        }
        let times = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = self.config.retry_pause.saturating_mul(times).min(LONGEST_RETRY);
        self.pause(now, task, Wish::Retry { attempt: attempt.saturating_add(1) }, pause, out);
    }

    /// It goes back after a pause that grows.
    fn back(&mut self, now: Instant, task: TaskId, out: &mut Vec<Action<K>>) {
        let Some(known) = self.in_hand.get(&task) else { return };
        let pause = self.pauses.next(known.message.pause_key());
        self.pause(now, task, Wish::Back, pause, out);
    }

    /// The same, but without a pause the first time.
    fn back_once_at_once(&mut self, now: Instant, task: TaskId, out: &mut Vec<Action<K>>) {
        let Some(known) = self.in_hand.get(&task) else { return };
        let pause = self.pauses.next_after_first(known.message.pause_key());
        self.pause(now, task, Wish::Back, pause, out);
    }

    fn pause(&mut self, now: Instant, task: TaskId, then: Wish<K::Answer>, pause: Duration, out: &mut Vec<Action<K>>) {
        let pause = if self.is_to_be_awaited(task, &then) { RETURN } else { pause };
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        // In a close there is no time for pauses; nothing comes again, either.
        if pause.is_zero() || self.mode == Mode::Closing {
            known.state = State::Waiting { then };
            self.timers.clear(Due::Pause(task));
            self.go(task, out);
        } else {
            known.state = State::Pausing { then };
            self.timers.set(Due::Pause(task), after(now, pause));
        }
    }

    /// Whether it is kept until its delivery comes again, by which it goes into quarantine.
    ///
    /// Guards: a task that is given up, and that would be run once more when it comes again. Its copy may be in quarantine by then.
    fn is_to_be_awaited(&self, task: TaskId, then: &Wish<K::Answer>) -> bool {
        let is_away = self.in_hand.get(&task).is_some_and(|known| !known.is_ours() && known.identity.is_some());
        matches!(then, Wish::Quarantine { .. }) && is_away && self.mode == Mode::Open
    }

    fn is_awaited(&self, task: TaskId) -> bool {
        match self.in_hand.get(&task).map(|known| &known.state) {
            Some(State::Pausing { then }) => self.is_to_be_awaited(task, then),
            _ => false,
        }
    }

    fn pause_over(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        if let State::Pausing { then } = &known.state {
            known.state = State::Waiting { then: then.clone() };
            self.go(task, out);
        }
    }

    /// A task that waits goes on its way, if it can.
    fn go(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        let does_not_wait = self.has(Fault::LeaseTakenOut);
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        let State::Waiting { then } = &known.state else { return };
        // Guards: an original that goes while it is not known whether its copy stands.
        if known.leases.making.is_some() && !does_not_wait {
            return;
        }
        if !known.is_ours() {
            return self.leave(task, Leave::Away, out);
        }
        if matches!(then, Wish::Back) && known.can_go_back() {
            return self.leave(task, Leave::Returned, out);
        }
        if self.connection.is_none() {
            return;
        }
        let then = then.clone();
        match then {
            Wish::Back => known.marks.lease = known.marks.lease.saturating_add(1),
            Wish::Retry { attempt } => {
                known.marks.attempt = known.marks.attempt.max(attempt);
                // Guards: a copy that says which attempt it is exactly, where nobody knows how many there were before.
                if matches!(known.attempt, Attempt::AtLeast(_)) {
                    known.marks.lease = known.marks.lease.saturating_add(1);
                }
            }
            Wish::Quarantine { .. } => {}
        }
        known.make_marks_new();
        let to = match &then {
            Wish::Back | Wish::Retry { .. } => Destination::Queue,
            Wish::Quarantine { reason, .. } => Destination::Quarantine { reason: reason.clone() },
        };
        let (queue, message, marks) = (known.queue.clone(), known.message.clone(), known.marks);
        known.state = State::Moving { then, marks };
        out.push(Action::Move { task, queue, to, message, marks });
    }

    fn moved(&mut self, now: Instant, task: TaskId, known: Known, out: &mut Vec<Action<K>>) {
        let trusts = self.has(Fault::DoubtfulMoveTrusted);
        let Some(moving) = self.in_hand.get_mut(&task) else { return };
        let State::Moving { then, marks } = &moving.state else { return };
        let (then, marks) = (then.clone(), *marks);
        if known == Known::Yes || trusts && known == Known::Unknown {
            let (queue, message) = (moving.queue.clone(), moving.message.clone());
            if matches!(then, Wish::Quarantine { .. }) {
                self.pauses.forget(message.pause_key());
            }
            self.leave_before(task, Leave::Replaced, out, |out| {
                if let Wish::Quarantine { reason, answer } = then {
                    out.push(Action::Quarantined { queue, reason, message });
                    out.extend(answer.map(Action::Answer));
                }
            });
            return;
        }
        if known == Known::Unknown {
            // It may have arrived: the next copy gets other marks.
            moving.unsure.insert(marks);
        }
        moving.failures = moving.failures.saturating_add(1);
        let (failures, is_ours, has_tickets) = (moving.failures, moving.is_ours(), !moving.tickets.is_empty());
        let to = match &then {
            Wish::Quarantine { reason, .. } => Destination::Quarantine { reason: reason.clone() },
            Wish::Back | Wish::Retry { .. } => Destination::Queue,
        };
        out.push(Action::MoveFailed { queue: moving.queue.clone(), to });
        if self.has(Fault::FailedMoveForgotten) {
            let _ = self.take(task);
            return;
        }
        let is_awaited = self.is_to_be_awaited(task, &then);
        if !is_ours && !is_awaited || self.mode == Mode::Closing {
            let how = if has_tickets { Leave::Returned } else { Leave::Away };
            return self.leave(task, how, out);
        }
        if failures >= MOVES && has_tickets {
            return self.pause(now, task, Wish::Back, pauses::LONGEST, out);
        }
        let key = self.in_hand.get(&task).map_or(0, |known| known.message.pause_key());
        let pause = self.pauses.next(key);
        self.pause(now, task, then, pause, out);
    }

    fn leave(&mut self, task: TaskId, how: Leave, out: &mut Vec<Action<K>>) {
        self.leave_before(task, how, out, |_| ());
    }

    /// The task leaves the hand unfinished. What is to be done besides comes after the acknowledgements.
    fn leave_before(
        &mut self,
        task: TaskId,
        how: Leave,
        out: &mut Vec<Action<K>>,
        besides: impl FnOnce(&mut Vec<Action<K>>),
    ) {
        let Some(mut known) = self.take(task) else { return };
        let newest = known.newest();
        let mut tickets = std::mem::take(&mut known.tickets);
        if how == Leave::Returned
            && let Some((tag, marks)) = newest
        {
            tickets.remove(&tag);
            // Guards: an older copy with these marks, whose acknowledgement may have been lost. It would explain this one away.
            if let Some(identity) = known.identity {
                self.acknowledged.give_back(identity, marks);
            }
            // The broker needs no more than one of them back.
            out.push(Action::Requeue(tag));
        }
        for (tag, (_, marks)) in tickets {
            self.acknowledge(known.identity, marks, tag, out);
        }
        if let Some(identity) = known.identity {
            let lost = std::mem::take(&mut known.lost);
            match how {
                Leave::Replaced => self.acknowledged.replace(identity, lost),
                Leave::Returned | Leave::Away => self.acknowledged.owe(identity, lost),
            }
        }
        besides(out);
        if how == Leave::Away && !self.has(Fault::LapsedLeaseDeleted) {
            // Guards: the only copy, which may still lie in a lease queue whose time is over by our clock.
            known.leases.lapsed.clear();
            known.leases.standing = None;
        }
        self.end_leases(&known, out);
        out.push(Action::Released { task });
    }

    /// Takes a task out of every table.
    fn take(&mut self, task: TaskId) -> Option<InHand<K>> {
        let known = self.in_hand.remove(&task)?;
        if let Some(identity) = known.identity
            && let Some(tasks) = self.by_identity.get_mut(&identity)
        {
            tasks.remove(&task);
            if tasks.is_empty() {
                self.by_identity.remove(&identity);
            }
        }
        [Due::Pause(task), Due::Lease(task), Due::LeaseOver(task)].into_iter().for_each(|due| self.timers.clear(due));
        if let Some(queue) = self.queues.get_mut(&known.queue) {
            queue.tasks -= 1;
            if known.is_counted {
                queue.taken -= 1;
                self.unfitted.insert(known.queue.clone());
            }
        }
        self.shrink(&known.queue);
        Some(known)
    }

    fn acknowledge(&mut self, identity: Option<Identity>, marks: Marks, tag: DeliveryTag, out: &mut Vec<Action<K>>) {
        if let Some(identity) = identity {
            self.acknowledged.acknowledge(identity, marks, tag.channel);
        }
        out.push(Action::Ack(tag));
    }

    // Connections.

    fn channel_closed(&mut self, channel: Channel, out: &mut Vec<Action<K>>) {
        if self.connection != Some(channel.generation) {
            return;
        }
        self.closed.close(channel);
        self.gone(|gone| gone.lane == channel.lane && gone.incarnation <= channel.incarnation, out);
    }

    fn connection_lost(&mut self, out: &mut Vec<Action<K>>) {
        self.connection = None;
        self.closed.clear();
        if self.mode == Mode::Closing {
            return self.let_all_go(out);
        }
        self.gone(|_| true, out);
    }

    /// These channels are gone, and what was delivered through them.
    fn gone(&mut self, is_gone: impl Fn(&Channel) -> bool, out: &mut Vec<Action<K>>) {
        self.acknowledged.channels_gone(&is_gone);
        if self.has(Fault::OldGenerationKept) {
            return;
        }
        let mut hit = Vec::new();
        for (task, known) in &mut self.in_hand {
            if known.lose(|tag| is_gone(&tag.channel)) {
                hit.push(*task);
            }
        }
        for task in hit {
            self.recount(task);
            self.check_ownership(task, out);
        }
    }

    /// A task has lost a delivery or a lease. If that was the last, it is away.
    fn check_ownership(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        let Some(known) = self.in_hand.get(&task) else { return };
        if known.is_ours() {
            if matches!(known.state, State::Offered { .. } | State::Held) {
                self.take_over(task, out);
            }
            return;
        }
        match &known.state {
            // Guards: a task that lies at a busy home while the broker hands it to somebody else.
            State::Offered { claim, .. } if !self.has(Fault::NotWithdrawn) && claim.withdraw() => {
                self.leave(task, Leave::Away, out);
            }
            State::Offered { .. } | State::Held => {
                if !self.take_over(task, out) {
                    self.report_loss(task, out);
                }
            }
            State::Waiting { .. } => self.go(task, out),
            // It may join again before its pause is over or its copy has arrived.
            State::Pausing { .. } | State::Moving { .. } => {}
        }
    }

    /// A task that runs here takes over the delivery of one that nobody has begun, if that is what it lost.
    ///
    /// Guards: a delivery through one channel that comes before the notice that another channel, from which the broker took it
    /// back, is closed.
    fn take_over(&mut self, task: TaskId, out: &mut Vec<Action<K>>) -> bool {
        let Some(known) = self.in_hand.get(&task) else { return false };
        let Some(identity) = known.identity else { return false };
        let others = self.by_identity.get(&identity).into_iter().flatten().copied();
        let found = others.filter(|other| *other != task).find(|other| {
            self.in_hand.get(other).is_some_and(|other| brings_back(known, other)) && self.withdraw(*other)
        });
        found.is_some_and(|other| self.hand_over(other, task, out))
    }

    /// A task on which nobody works any more goes to one that runs here and is away, if that has lost this delivery.
    ///
    /// Guards: the same, where both were begun before the notice came, and the second is not wanted where it was.
    fn give_way(&mut self, task: TaskId, out: &mut Vec<Action<K>>) -> bool {
        let Some(known) = self.in_hand.get(&task) else { return false };
        let Some(identity) = known.identity else { return false };
        let others = self.by_identity.get(&identity).into_iter().flatten().copied();
        let found = others.filter(|other| *other != task).find(|other| {
            self.in_hand.get(other).is_some_and(|other| {
                let runs = matches!(other.state, State::Offered { .. } | State::Held);
                runs && !other.is_ours() && brings_back(other, known)
            })
        });
        found.is_some_and(|other| self.hand_over(task, other, out))
    }

    /// The deliveries of one task become those of another, which goes on.
    fn hand_over(&mut self, from: TaskId, to: TaskId, out: &mut Vec<Action<K>>) -> bool {
        let Some(mut given) = self.take(from) else { return false };
        let Some(known) = self.in_hand.get_mut(&to) else { return false };
        for (_, marks) in given.tickets.values() {
            take(&mut known.lost, *marks);
        }
        known.tickets.append(&mut given.tickets);
        known.may_have_run_elsewhere();
        let (queue, message) = (known.queue.clone(), known.message.clone());
        self.end_leases(&given, out);
        out.extend([Action::Adopted { task: to, queue, message }, Action::Released { task: from }]);
        self.recount(to);
        true
    }

    fn report_loss(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        if let Some(known) = self.in_hand.get_mut(&task)
            && !std::mem::replace(&mut known.is_reported, true)
        {
            let (queue, message) = (known.queue.clone(), known.message.clone());
            out.push(Action::OwnershipLost { task, queue, message });
        }
    }

    fn connected(&mut self, now: Instant, generation: Generation, out: &mut Vec<Action<K>>) {
        if self.connection.is_some() {
            // The driver reports a loss first. Nothing of the old connection stands all the same.
            self.connection_lost(out);
        }
        self.connection = Some(generation);
        self.closed.clear();
        for task in self.those(|known| matches!(known.state, State::Waiting { .. })) {
            self.go(task, out);
        }
        for task in self.those(|known| matches!(known.state, State::Pausing { .. })) {
            if self.is_awaited(task) {
                self.timers.set(Due::Pause(task), after(now, RETURN));
            }
        }
        let orphans: Vec<LeaseId> = self.orphans.keys().copied().collect();
        orphans.into_iter().for_each(|lease| self.delete(lease, out));
    }

    // Ends.

    fn drain(&mut self, now: Instant, out: &mut Vec<Action<K>>) {
        if self.mode == Mode::Open {
            self.mode = Mode::Draining;
            self.return_unbegun(now, out);
            // What is away comes again to somebody else.
            for task in self.those(|known| matches!(known.state, State::Pausing { .. }) && !known.is_ours()) {
                self.timers.clear(Due::Pause(task));
                self.pause_over(task, out);
            }
        }
    }

    /// What nobody has begun goes back.
    fn return_unbegun(&mut self, now: Instant, out: &mut Vec<Action<K>>) {
        for task in self.those(|known| matches!(known.state, State::Offered { .. })) {
            if self.withdraw(task) {
                self.back_once_at_once(now, task, out);
            }
        }
    }

    fn close(&mut self, now: Instant, out: &mut Vec<Action<K>>) {
        self.mode = Mode::Closing;
        if self.connection.is_none() {
            return self.let_all_go(out);
        }
        self.return_unbegun(now, out);
        for task in self.those(|known| matches!(known.state, State::Pausing { .. })) {
            self.timers.clear(Due::Pause(task));
            self.pause_over(task, out);
        }
        if self.has(Fault::CloseKeepsLeases) {
            return;
        }
        // What stands at the broker by a delivery goes back with the connection. A lease would keep its task for its whole time.
        let is_leased = |known: &InHand<K>| {
            known.leases.standing.is_some() && matches!(known.state, State::Offered { .. } | State::Held)
        };
        for task in self.those(is_leased) {
            self.pause(now, task, Wish::Back, Duration::ZERO, out);
        }
    }

    /// The connection has ended in a close: everything is back at the broker.
    fn let_all_go(&mut self, out: &mut Vec<Action<K>>) {
        let tasks: Vec<TaskId> = self.in_hand.keys().copied().collect();
        for task in tasks {
            let _ = self.take(task);
            out.push(Action::Released { task });
        }
        self.making.clear();
        self.orphans.clear();
        self.timers.clear_all();
    }

    // Leases.

    fn long_tasks(&self) -> Option<LongTasks> {
        self.config.long_tasks.filter(|_| self.mode != Mode::Closing)
    }

    fn start_lease_timer(&mut self, now: Instant, task: TaskId) {
        if let Some(long) = self.long_tasks()
            && !self.timers.is_set(Due::Lease(task))
        {
            self.timers.set(Due::Lease(task), after(now, long.after));
        }
    }

    /// A task has been in hand for long, or a third of its lease's time is over.
    fn lease_due(&mut self, now: Instant, task: TaskId, out: &mut Vec<Action<K>>) {
        let Some(long) = self.long_tasks() else { return };
        let (acks_early, takes_out) = (self.has(Fault::AckBeforeLease), self.has(Fault::LeaseTakenOut));
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        // One that is away has nothing that a lease could stand for. When it joins again, the timer starts again.
        if !known.is_ours() || known.leases.making.is_some() {
            return;
        }
        let is_going = matches!(known.state, State::Waiting { .. } | State::Moving { .. });
        if is_going || self.connection.is_none() {
            return self.timers.set(Due::Lease(task), after(now, again(long)));
        }
        self.last_lease += 1;
        let lease = LeaseId(self.last_lease);
        known.marks.lease = known.marks.lease.saturating_add(1);
        known.make_marks_new();
        known.leased = Some(known.marks);
        known.leases.making =
            Some(Making { lease, since: now, covers: known.tickets.keys().copied().collect::<BTreeSet<_>>() });
        if takes_out {
            known.leases.lapsed.extend(known.leases.standing.take());
        }
        let (queue, message, marks) = (known.queue.clone(), known.message.clone(), known.marks);
        self.making.insert(lease, task);
        out.push(Action::MakeLease { lease, queue, message, marks, lasts: long.lease });
        if acks_early {
            let tickets = std::mem::take(&mut known.tickets);
            out.extend(tickets.into_keys().map(Action::Ack));
        }
    }

    fn lease_made(&mut self, now: Instant, lease: LeaseId, known: Known, out: &mut Vec<Action<K>>) {
        let Some(task) = self.making.remove(&lease) else { return };
        let known = match known {
            Known::Unknown if self.has(Fault::DoubtfulLeaseTrusted) => Known::Yes,
            known => known,
        };
        let (late_is_kept, forgets) = (self.has(Fault::LateLeaseKept), self.has(Fault::DoubtfulLeaseForgotten));
        let is_closing = self.mode == Mode::Closing;
        let making = match self.in_hand.get_mut(&task) {
            Some(leased) => leased.leases.making.take(),
            None => None,
        };
        let (Some(leased), Some(making)) = (self.in_hand.get_mut(&task), making) else {
            // Its task has ended meanwhile. The queue may be there whatever the answer is.
            if !late_is_kept {
                self.orphan(lease, out);
            }
            return;
        };
        match known {
            Known::Yes => {
                let covered: Vec<DeliveryTag> =
                    making.covers.into_iter().filter(|tag| leased.tickets.contains_key(tag)).collect();
                let replaces = leased.leases.standing.is_some() || !leased.leases.lapsed.is_empty();
                // Guards: a lease for deliveries that are gone meanwhile, which the broker has back. In a close the
                // deliveries are the better way back.
                if !replaces && (covered.is_empty() || is_closing) {
                    self.orphan(lease, out);
                } else {
                    let was_away = !leased.is_ours();
                    let old = leased.leases.standing.replace(lease);
                    let over = self.timers.of(Due::LeaseOver(task));
                    let doubtful = std::mem::take(&mut leased.leases.doubtful);
                    let lapsed = std::mem::take(&mut leased.leases.lapsed);
                    let identity = leased.identity;
                    let acks: Vec<(DeliveryTag, Marks)> = covered
                        .into_iter()
                        .filter_map(|tag| leased.tickets.remove(&tag).map(|(_, marks)| (tag, marks)))
                        .collect();
                    self.recount(task);
                    // Guards: a place that is filled with another task although this one still runs. The consumer is fitted
                    // before the broker may fill it.
                    self.fit_all(out);
                    for (tag, marks) in acks {
                        self.acknowledge(identity, marks, tag, out);
                    }
                    if let Some(old) = old {
                        over.into_iter().for_each(|over| self.timers.set(Due::FormerOver(old), over));
                        self.orphan_of(Some(task), old, out);
                    }
                    for lease in doubtful.into_iter().chain(lapsed) {
                        self.orphan(lease, out);
                    }
                    if let Some(long) = self.config.long_tasks {
                        self.timers.set(Due::LeaseOver(task), after(making.since, long.lease));
                        self.timers.set(Due::Lease(task), after(now, long.lease / 3));
                    }
                    // Guards: a lease that stands later than the task's last one was over. The task would wait for its delivery.
                    if was_away {
                        self.is_back(task, out);
                    }
                }
            }
            // What was declared may be there.
            Known::No => self.orphan(lease, out),
            Known::Unknown if forgets => {}
            Known::Unknown => {
                leased.leases.doubtful.insert(lease);
            }
        }
        if let Some(long) = self.long_tasks()
            && !self.timers.is_set(Due::Lease(task))
        {
            self.timers.set(Due::Lease(task), after(now, again(long)));
        }
        if is_closing
            && let Some(leased) = self.in_hand.get(&task)
            && leased.leases.standing.is_some()
            && matches!(leased.state, State::Offered { .. } | State::Held)
        {
            return self.pause(now, task, Wish::Back, Duration::ZERO, out);
        }
        self.go(task, out);
    }

    /// By our clock the broker puts the task back just now.
    fn lease_over(&mut self, task: TaskId, out: &mut Vec<Action<K>>) {
        if self.has(Fault::LapseNotSeen) {
            return;
        }
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        let Some(lease) = known.leases.standing.take() else { return };
        known.leases.lapsed.insert(lease);
        self.recount(task);
        self.check_ownership(task, out);
    }

    /// Nothing of the task is needed any more.
    fn end_leases(&mut self, known: &InHand<K>, out: &mut Vec<Action<K>>) {
        let leases = &known.leases;
        for lease in leases.standing.iter().chain(&leases.doubtful).chain(&leases.lapsed) {
            self.orphan(*lease, out);
        }
        // What is being made is deleted when it is answered.
    }

    /// A lease queue is to be deleted, at once or as soon as there is a connection.
    fn orphan(&mut self, lease: LeaseId, out: &mut Vec<Action<K>>) {
        self.orphan_of(None, lease, out);
    }

    fn orphan_of(&mut self, stood_for: Option<TaskId>, lease: LeaseId, out: &mut Vec<Action<K>>) {
        self.orphans
            .insert(lease, Orphan { is_asked: false, failures: 0, stood_for, is_doubtful: false, is_over: false });
        self.delete(lease, out);
    }

    fn delete(&mut self, lease: LeaseId, out: &mut Vec<Action<K>>) {
        if self.connection.is_some()
            && let Some(orphan) = self.orphans.get_mut(&lease)
            && !std::mem::replace(&mut orphan.is_asked, true)
        {
            self.timers.clear(Due::Delete(lease));
            out.push(Action::DeleteLease { lease });
        }
    }

    fn lease_deleted(
        &mut self,
        now: Instant,
        lease: LeaseId,
        known: Known,
        contents: Contents,
        out: &mut Vec<Action<K>>,
    ) {
        let Some(orphan) = self.orphans.get_mut(&lease) else { return };
        orphan.is_asked = false;
        if known == Known::No {
            orphan.failures = orphan.failures.saturating_add(1);
        }
        let failures = orphan.failures;
        // Guards: a lease that was over before it could be deleted, although another one stood in time. Somebody else may have the
        // copy that was in it, and run it. Guards as well: an empty queue that an earlier delete has taken away with its copy.
        let has_come_out = contents == Contents::Nothing && (orphan.is_over || !orphan.is_doubtful);
        let loss = orphan.stood_for.filter(|_| known == Known::Yes && has_come_out);
        orphan.is_doubtful = true;
        if let Some(task) = loss {
            self.report_loss(task, out);
        }
        if known == Known::Yes || self.has(Fault::FailedDeleteForgotten) {
            self.forget_orphan(lease);
        } else if failures >= DELETES || self.mode == Mode::Closing {
            self.forget_orphan(lease);
            out.push(Action::LeaseLeft { lease });
        } else {
            let pause = DELETE_PAUSE.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
            self.timers.set(Due::Delete(lease), after(now, pause));
        }
    }

    fn forget_orphan(&mut self, lease: LeaseId) {
        self.orphans.remove(&lease);
        self.timers.clear(Due::FormerOver(lease));
    }

    // Time.

    /// For the explorer, in which any deadline may come at any time.
    #[cfg(test)]
    pub(super) fn fire(&mut self, now: Instant, due: Due, out: &mut Vec<Action<K>>) {
        self.timers.clear(due);
        self.due(now, due, out);
        self.fit_all(out);
    }

    fn due(&mut self, now: Instant, due: Due, out: &mut Vec<Action<K>>) {
        match due {
            // It cannot come while there is no connection.
            Due::Pause(task) if self.connection.is_none() && self.is_awaited(task) => {
                self.timers.set(Due::Pause(task), after(now, RETURN));
            }
            Due::Pause(task) => self.pause_over(task, out),
            Due::Lease(task) => self.lease_due(now, task, out),
            Due::LeaseOver(task) => self.lease_over(task, out),
            Due::Delete(lease) => self.delete(lease, out),
            Due::FormerOver(lease) => {
                if let Some(orphan) = self.orphans.get_mut(&lease) {
                    orphan.is_over = true;
                }
            }
        }
    }

    // Places.

    /// To be called after every change to what stands for a task.
    fn recount(&mut self, task: TaskId) {
        let Some(known) = self.in_hand.get_mut(&task) else { return };
        let counts = known.takes_a_place();
        if counts != known.is_counted
            && let Some(queue) = self.queues.get_mut(&known.queue)
        {
            known.is_counted = counts;
            self.unfitted.insert(known.queue.clone());
            queue.taken = if counts { queue.taken + 1 } else { queue.taken - 1 };
        }
    }

    /// Announces what has changed.
    fn fit_all(&mut self, out: &mut Vec<Action<K>>) {
        if self.has(Fault::NeverFitted) {
            return;
        }
        for name in std::mem::take(&mut self.unfitted) {
            if let Some(queue) = self.queues.get_mut(&name)
                && !queue.subscribers.is_empty()
                && queue.announced != Some(queue.taken)
            {
                queue.announced = Some(queue.taken);
                out.push(Action::Fit { queue: name, taken: queue.taken });
            }
        }
    }

    fn those(&self, are_meant: impl Fn(&InHand<K>) -> bool) -> Vec<TaskId> {
        self.in_hand.iter().filter(|(_, known)| are_meant(known)).map(|(task, _)| *task).collect()
    }
}

/// Whether the second task stands on nothing but deliveries that the first one has lost.
fn brings_back<K: Kinds>(known: &InHand<K>, other: &InHand<K>) -> bool {
    let came_again = |marks: &Marks| known.lost.iter().any(|(lost, _)| lost == marks);
    other.is_ours()
        && other.leases.standing.is_none()
        && other.redelivered
        && other.lost.is_empty()
        && other.tickets.values().all(|(_, marks)| came_again(marks))
}

/// The pause before a lease is tried again that could not be made.
fn again(long: LongTasks) -> Duration {
    Duration::from_secs(1).min(long.lease / 6)
}

fn handed<K: Kinds>(task: TaskId, known: &InHand<K>, claim: K::Claim) -> Handed<K> {
    Handed {
        hand: HandId { task, round: known.round },
        claim,
        message: known.message.clone(),
        redelivered: known.redelivered,
        attempt: known.attempt,
    }
}
