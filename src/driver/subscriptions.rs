//! Who is subscribed to what, and the consumers that this takes at the broker.
//!
//! Everything that is consumed is a *service*: the calls to one name, a task queue, the broadcasts, the replies to our own
//! requests, the messages among communicators of homing, a single task that somebody waits for. For each service this book
//! keeps what is wanted and what stands, and one rule brings the second to the first:
//!
//! ```text
//!   absent ──wanted──▶ starting ──done──▶ stands ──not wanted, other places──▶ ending ─▶ absent
//!      ▲  ▲               │failed            │cancelled by the broker, its channel closed
//!      │  └── pausing ◀───┴──────────────────┘
//!      └── the connection is lost: from each of them
//! ```
//!
//! So a step that fails leaves no half state: the rule is applied again. A set-up and an end are jobs; their outcomes name
//! the turn that they belong to, and those of an older turn are ignored.
//!
//! A subscriber is registered when its command is taken, and leaves when its guard is dropped or when it is taken out:
//! whichever comes first.
//!
//! The book is a value: no clock, no connection. `D` stands for the way to whoever waits.

mod due;
#[cfg(test)]
mod explore;
mod plans;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::away::Away;
use super::command::{
    PullId, PullWait, QueueName, RpcDelivery, ServedBy, SubscriberName, Subscription, TaskDelivery, Turn,
};
use super::connection::{Answers, ConsumerPlan, EndPlan, NotSetUp, OwnQueue, is_lost};
use super::connection::{Asked, KEYS_LANE, SERVICE_LANE, Sureness};
use super::gate;
use super::lanes::{Lanes, Use};
use super::outbox::Stream;
use super::port::ConnectionEvent;
use super::tasks::{Channel, SubscriberId};
use crate::broker::Lane;
use crate::error::{Detail, Error, ErrorKind, Limit, Result};
use crate::time::after;
use crate::wire::names::{Exchange, Identifier, Names};
use due::Due;
pub(super) use plans::Route;
use plans::{key_of, name_of, own_tag, route_of};
use wanted::{Adding, Pull, Replies, Wanted};

/// The pauses after a set-up that failed, or a consumer that did not stand.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a consumer has to stand until the pauses begin anew.
const STABLE: Duration = Duration::from_secs(5);
/// The pause before an extension that was refused is tried again.
const EXTENSION_PAUSE: Duration = Duration::from_secs(60);

/// Of how many pulls a consumer is being set up or ended at once. Others wait for their turn, and cost the broker nothing if
/// they are given up before.
const PULLS_MOVING_MOST: usize = 64;

/// What is consumed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// First, so that a new connection sets up first what others wait for.
    Replies(Arc<str>),
    Rpc(Identifier),
    Broadcasts,
    Tasks(QueueName),
    Pull(PullId),
    /// Requests of callers of homing that have lost answers.
    Control,
}

/// A user who takes a subscriber out, and waits until its consumer is gone.
struct Leaving<D> {
    done: D,
    until: Instant,
}

/// What is to be done.
pub(super) enum Act<D> {
    /// Set a consumer up, and answer by [`Subscriptions::set_up`].
    SetUp {
        key: Key,
        turn: Turn,
        plan: ConsumerPlan,
    },
    /// End a consumer, and answer by [`Subscriptions::ended`].
    End {
        key: Key,
        turn: Turn,
        plan: EndPlan,
    },
    /// Take one message out of a queue, and answer by [`Subscriptions::got`].
    Get {
        key: Key,
        turn: Turn,
        queue: QueueName,
        lane: Lane,
        sureness: Sureness,
    },
    Complete {
        done: D,
        outcome: Result<()>,
    },
    /// Nothing came for this pull.
    Pulled {
        pull: PullId,
        outcome: Result<()>,
    },
    /// The stream has the queue that its replies come to, or has none.
    StreamReady {
        stream: Stream,
        outcome: Result<Option<Arc<str>>>,
    },
    /// A reply queue of an older connection is there again.
    Reclaimed(Arc<str>),
    /// The task queue may be gone.
    ForgetQueue(QueueName),
    Subscribed {
        queue: QueueName,
        subscriber: SubscriberId,
    },
    Unsubscribed {
        queue: QueueName,
        subscriber: SubscriberId,
    },
    Emit(ConnectionEvent),
    /// Every service that is wanted stands on this connection.
    Restored,
}

/// A queue of our own, bound under its name in this turn.
pub(super) struct Probed {
    pub(super) exchange: Exchange,
    pub(super) queue: Arc<str>,
    pub(super) turn: Turn,
}

struct Service<D> {
    wanted: Wanted<D>,
    actual: Actual,
    turn: Turn,
    /// How often it was set up.
    starts: u32,
    lane: Option<Lane>,
    /// Its own queue on this connection, which keeps its name, and what is in it, while it is set up again. There is none at
    /// the broker where this is `None`.
    queue: Option<String>,
    pause: Duration,
    /// Completed when it is gone.
    leaving: Vec<Leaving<D>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Actual {
    Absent,
    Pausing(Instant),
    Starting {
        tag: String,
        places: u16,
        broken: bool,
    },
    Stands {
        tag: String,
        places: u16,
        since: Instant,
    },
    /// The queue goes with the consumer, or stays for the next one.
    Ending {
        tag: String,
        queue: AtEnd,
    },
}

/// What becomes of a service's own queue when its consumer is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtEnd {
    Goes,
    Stays,
}

impl<D> Service<D> {
    fn stands(&self) -> bool {
        matches!(self.actual, Actual::Stands { .. })
    }
}

pub(super) struct Subscriptions<D> {
    names: Names,
    services: BTreeMap<Key, Service<D>>,
    by_tag: BTreeMap<String, Route>,
    by_id: BTreeMap<SubscriberId, SubscriberName>,
    by_name: BTreeMap<SubscriberName, SubscriberId>,
    lanes: Lanes,
    /// Pulls whose consumer is being set up or ended.
    pulls_moving: BTreeSet<PullId>,
    /// Pulls that wait for one of those to be done.
    pulls_in_line: BTreeSet<PullId>,
    /// No two services share a turn, nor do two of one name.
    ///
    /// Guards: the outcome of a set-up of a service that is gone, taken for that of its successor.
    last_turn: Turn,
    due: Due,
    /// How many services stand that bring the control queue along.
    working: usize,
    /// Something was answered here, which its caller may ask for again if it loses its connection.
    answered: bool,
    /// What does not stand yet on a new connection.
    restoring: Option<BTreeSet<Key>>,
    connected: bool,
    /// No new work comes in any more.
    draining: bool,
    /// Since when the extension that finds lost answers was refused, it was reported.
    control_refused: bool,
    operation_timeout: Duration,
    /// When the broker has last answered.
    answers: Answers,
    out: Vec<Act<D>>,
}

/// Whether there is a control queue where this stands: somebody works here and can be asked for answers. The queue is also what
/// a probe reaches.
///
/// Guards: somebody who only receives broadcasts, for whom nothing shows that the exchange was deleted and made again by others,
/// without this binding.
fn brings_control(key: &Key) -> bool {
    matches!(key, Key::Rpc(_) | Key::Tasks(_) | Key::Broadcasts)
}

impl<D> Subscriptions<D> {
    pub(super) fn new(names: Names, operation_timeout: Duration) -> Self {
        Subscriptions {
            names,
            services: BTreeMap::new(),
            by_tag: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_name: BTreeMap::new(),
            lanes: Lanes::default(),
            pulls_moving: BTreeSet::new(),
            pulls_in_line: BTreeSet::new(),
            last_turn: Turn::default(),
            due: Due::default(),
            working: 0,
            answered: false,
            restoring: None,
            connected: false,
            draining: false,
            control_refused: false,
            operation_timeout,
            answers: Answers::default(),
            out: Vec::new(),
        }
    }

    /// Whether something is to be done since the last call of [`swap_acts`](Self::swap_acts).
    pub(super) fn has_acts(&self) -> bool {
        !self.out.is_empty()
    }

    /// Puts what is to be done since the last call, in order, in the place of this list, which is empty.
    pub(super) fn swap_acts(&mut self, acts: &mut Vec<Act<D>>) {
        std::mem::swap(&mut self.out, acts);
    }

    #[cfg(test)]
    pub(super) fn acts(&mut self) -> Vec<Act<D>> {
        std::mem::take(&mut self.out)
    }

    /// Where the deliveries of this consumer go.
    pub(super) fn route(&self, tag: &str) -> Option<&Route> {
        self.by_tag.get(tag)
    }

    /// The way to the subscriber of this name.
    pub(super) fn rpc_sink(&self, identifier: &Identifier) -> Option<&mpsc::UnboundedSender<RpcDelivery>> {
        self.services.get(&Key::Rpc(identifier.clone()))?.wanted.rpc_sink()
    }

    /// The way to a task subscriber.
    pub(super) fn task_sink(&self, id: SubscriberId) -> Option<&mpsc::UnboundedSender<TaskDelivery>> {
        self.services.get(&self.by_id.get(&id)?.key())?.wanted.task_sink(id)
    }

    /// The queue that a pull waits for.
    pub(super) fn pulled_from(&self, pull: PullId) -> Option<QueueName> {
        match &self.services.get(&Key::Pull(pull))?.wanted {
            Wanted::Pull(pull) if pull.wanted => Some(pull.queue.clone()),
            _ => None,
        }
    }

    /// Names that are called here, and their queues on this connection.
    pub(super) fn bound_calls(&self) -> Vec<(Identifier, String)> {
        let bound = |(key, service): (&Key, &Service<D>)| match (key, &service.queue) {
            (Key::Rpc(identifier), Some(queue)) => Some((identifier.clone(), queue.clone())),
            _ => None,
        };
        self.services.iter().filter_map(bound).collect()
    }

    pub(super) fn broadcast_subscribers(&self) -> Vec<Identifier> {
        match self.services.get(&Key::Broadcasts).map(|service| &service.wanted) {
            Some(Wanted::Broadcasts(members)) => members.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// The queues of our own that others write to by a binding which a probe can look for.
    pub(super) fn probed(&self) -> Vec<Probed> {
        let replies = self.replies().filter(|(_, service, replies)| replies.current && service.stands());
        let replies = replies.map(|(name, service, replies)| Probed {
            exchange: replies.exchange,
            queue: Arc::clone(name),
            turn: service.turn,
        });
        let control = self.services.get(&Key::Control).filter(|service| service.stands());
        let control = control.and_then(|service| {
            let queue = service.queue.as_deref()?.into();
            Some(Probed { exchange: Exchange::Message, queue, turn: service.turn })
        });
        replies.chain(control).collect()
    }

    /// True when what was bound in this turn ought to be bound still.
    pub(super) fn stands_since(&self, turn: Turn) -> bool {
        self.services.values().any(|service| service.turn == turn && service.stands())
    }

    /// The reply queues come first among the services.
    fn replies(&self) -> impl Iterator<Item = (&Arc<str>, &Service<D>, &Replies)> {
        self.services.iter().map_while(|(key, service)| match (key, &service.wanted) {
            (Key::Replies(name), Wanted::Replies(replies)) => Some((name, service, replies)),
            _ => None,
        })
    }

    /// Changes what stands, and counts it.
    fn set(&mut self, key: &Key, actual: Actual) {
        let Some(service) = self.services.get_mut(key) else { return };
        let counts = brings_control(key);
        let stood = matches!(service.actual, Actual::Stands { .. });
        let stands = matches!(actual, Actual::Stands { .. });
        if counts && stands && !stood {
            self.working += 1;
        }
        if counts && stood && !stands {
            self.working -= 1;
        }
        if let Actual::Pausing(until) = actual {
            self.due.by(key, until);
        }
        service.actual = actual;
    }

    fn service(&mut self, key: &Key, make: impl FnOnce() -> Wanted<D>) -> &mut Service<D> {
        self.services.entry(key.clone()).or_insert_with(|| Service {
            wanted: make(),
            actual: Actual::Absent,
            turn: Turn::default(),
            starts: 0,
            lane: None,
            queue: None,
            pause: FIRST_PAUSE,
            leaving: Vec::new(),
        })
    }

    /// Adds a subscriber. `done` is completed when it stands, or cannot.
    pub(super) fn subscribe(&mut self, id: SubscriberId, subscription: Subscription, done: D, now: Instant) {
        let (until, after_turn) = (after(now, self.operation_timeout), self.last_turn);
        let name = subscription.name();
        let key = name.key();
        let joined = self.service(&key, || Wanted::nobody(&subscription)).wanted.join(id, subscription);
        if joined.is_err() {
            return self.out.push(Act::Complete { done, outcome: joined });
        }
        if let Key::Tasks(queue) = &key {
            self.out.push(Act::Subscribed { queue: queue.clone(), subscriber: id });
        }
        let identifier = name.identifier().clone();
        self.by_name.insert(name.clone(), id);
        self.by_id.insert(id, name);
        let Some(service) = self.services.get_mut(&key) else { return };
        if matches!(service.actual, Actual::Stands { .. }) {
            // It joins a service that stands.
            self.out.push(Act::Complete { done, outcome: Ok(()) });
        } else {
            service.wanted.await_standing(&identifier, Adding { done, until, after_turn });
            self.due.by(&key, until);
        }
        self.try_now(&key);
        self.reconcile(&key, now);
        self.reconcile_control(now);
    }

    fn answer(&mut self, waiting: impl IntoIterator<Item = D>, outcome: &Result<()>) {
        self.out.extend(waiting.into_iter().map(|done| Act::Complete { done, outcome: outcome.clone() }));
    }

    /// Ends the pause before the next attempt: somebody waits for it now.
    fn try_now(&mut self, key: &Key) {
        if let Some(service) = self.services.get_mut(key)
            && matches!(service.actual, Actual::Pausing(_))
        {
            service.actual = Actual::Absent;
        }
    }

    /// A user takes a subscriber out. `done`, where the user waits, is completed when its consumer is gone, if it was the last.
    pub(super) fn unsubscribe(&mut self, name: &SubscriberName, done: Option<D>, now: Instant) {
        let Some(id) = self.by_name.get(name).copied() else {
            return self.answer(done, &Err(unknown(name.kind(), name.identifier())));
        };
        let Some(key) = self.take_out(id, &Err(gone_while_added())) else { return self.answer(done, &Ok(())) };
        match (self.services.get_mut(&key), done) {
            (Some(service), Some(done)) => {
                // Guards: a broker that is silent.
                let until = after(now, self.operation_timeout);
                service.leaving.push(Leaving { done, until });
                self.due.by(&key, until);
            }
            (_, done) => self.answer(done, &Ok(())),
        }
        self.reconcile(&key, now);
        self.reconcile_control(now);
    }

    /// What served this subscriber is gone.
    pub(super) fn subscriber_ended(&mut self, id: SubscriberId, served_by: ServedBy, now: Instant) {
        let Some(name) = self.by_id.get(&id).cloned() else { return };
        let identifier = name.identifier().clone();
        let stood = !self.services.get_mut(&name.key()).is_some_and(|service| service.wanted.is_adding(&identifier));
        let Some(key) = self.take_out(id, &Err(gone_while_added())) else { return };
        match served_by {
            // Guards: one that is given up between the answer that it stands and its caller's look at that. Its home goes on.
            ServedBy::Nobody => crate::log::debug!(%identifier, "a subscriber was given up before anything served it"),
            _ if !stood => crate::log::debug!(%identifier, "a subscriber was given up before it stood"),
            ServedBy::Stream => crate::log::debug!(%identifier, "a stream of broadcasts was dropped"),
            ServedBy::Task => {
                crate::log::warn!(%identifier, "a subscriber was taken out, since its home has ended");
                self.out.push(Act::Emit(ConnectionEvent::SubscriberGone { identifier }));
            }
        }
        self.reconcile(&key, now);
        self.reconcile_control(now);
    }

    /// Takes a subscriber out of its service. Whoever still adds it gets this outcome.
    fn take_out(&mut self, id: SubscriberId, outcome: &Result<()>) -> Option<Key> {
        let name = self.by_id.remove(&id)?;
        self.by_name.remove(&name);
        let key = name.key();
        let adding = self.services.get_mut(&key)?.wanted.leave(&name, id);
        if let SubscriberName::Tasks(queue, _) = name {
            self.out.push(Act::Unsubscribed { queue, subscriber: id });
        }
        self.answer(adding.into_iter().map(|adding| adding.done), outcome);
        Some(key)
    }

    /// A stream needs a queue for its replies.
    pub(super) fn replies_for(&mut self, exchange: Exchange, stream: Stream, now: Instant) {
        let current = self
            .replies()
            .find(|(_, _, replies)| replies.current && replies.exchange == exchange)
            .map(|(name, ..)| Arc::clone(name));
        // Another name on each connection, for a broker may hold the one before for a while.
        let name = current.unwrap_or_else(|| self.names.new_reply_queue(exchange).into());
        let key = Key::Replies(Arc::clone(&name));
        let empty = || Wanted::Replies(Replies { exchange, current: true, needed: false, streams: Vec::new() });
        let service = self.service(&key, empty);
        if matches!(service.actual, Actual::Stands { .. }) {
            return self.out.push(Act::StreamReady { stream, outcome: Ok(Some(name)) });
        }
        if let Wanted::Replies(replies) = &mut service.wanted {
            replies.streams.push(stream);
        }
        self.try_now(&key);
        self.reconcile(&key, now);
    }

    /// Requests under way are answered to these queues; no others of older connections are needed any more.
    pub(super) fn replies_needed(&mut self, queues: impl IntoIterator<Item = (Exchange, Arc<str>)>, now: Instant) {
        let known: Vec<Key> = self.replies().map(|(name, ..)| Key::Replies(Arc::clone(name))).collect();
        for key in &known {
            if let Some(Service { wanted: Wanted::Replies(replies), .. }) = self.services.get_mut(key) {
                replies.needed = false;
            }
        }
        for (exchange, name) in queues {
            let empty = || Wanted::Replies(Replies { exchange, current: false, needed: false, streams: Vec::new() });
            if let Wanted::Replies(replies) = &mut self.service(&Key::Replies(name), empty).wanted {
                replies.needed = true;
            }
        }
        let all: Vec<Key> = self.replies().map(|(name, ..)| Key::Replies(Arc::clone(name))).collect();
        all.iter().for_each(|key| self.reconcile(key, now));
    }

    /// Somebody waits for a task.
    pub(super) fn pull(&mut self, id: PullId, queue: QueueName, wait: PullWait, now: Instant) {
        let key = Key::Pull(id);
        let until = match wait {
            PullWait::Until(until) => until,
            // Guards: a look into a queue that never ends, while the connection is away.
            PullWait::No => after(now, self.operation_timeout),
        };
        self.due.by(&key, until);
        self.service(&key, || Wanted::Pull(Pull { queue, wait, until, wanted: true }));
        self.reconcile(&key, now);
    }

    /// The pull has its task, or is given up. True if it was still waiting.
    pub(super) fn end_pull(&mut self, id: PullId, now: Instant) -> bool {
        let key = Key::Pull(id);
        let Some(Service { wanted: Wanted::Pull(pull), .. }) = self.services.get_mut(&key) else { return false };
        let was_wanted = std::mem::replace(&mut pull.wanted, false);
        self.reconcile(&key, now);
        was_wanted
    }

    /// What came for the pull was not for it: it goes on.
    pub(super) fn pull_again(&mut self, id: PullId, now: Instant) {
        let key = Key::Pull(id);
        self.end(&key);
        self.reconcile(&key, now);
    }

    /// How many tasks of a queue are in hand of which its consumer does not know. True when the consumer is ended for that,
    /// to begin again with other places.
    pub(super) fn fit(&mut self, queue: &QueueName, taken: usize, now: Instant) -> bool {
        let key = Key::Tasks(queue.clone());
        let Some(Service { wanted: Wanted::Tasks(tasks), .. }) = self.services.get_mut(&key) else { return false };
        tasks.taken = taken;
        self.reconcile(&key, now);
        self.is_ending(&key)
    }

    /// True while a consumer that is to end may still be handed something.
    pub(super) fn is_ending(&self, key: &Key) -> bool {
        self.services.get(key).is_some_and(|service| match service.actual {
            Actual::Ending { .. } => true,
            // A task may come before the answer that the consumer stands.
            Actual::Starting { .. } => !self.is_wanted(service),
            _ => false,
        })
    }

    /// No new work: what comes in from others ends.
    pub(super) fn drain(&mut self, now: Instant) {
        self.draining = true;
        self.reconcile_all(now);
    }

    /// True when nothing comes in any more.
    pub(super) fn is_drained(&self) -> bool {
        self.draining
            && self.services.iter().all(|(key, service)| {
                matches!(key, Key::Replies(_) | Key::Control) || matches!(service.actual, Actual::Absent)
            })
    }

    /// A task has come by this channel.
    pub(super) fn task_came(&mut self, channel: Channel) {
        self.lanes.task_came(channel);
    }

    /// A task that came by this channel is acknowledged, or goes back.
    pub(super) fn task_settled(&mut self, channel: Channel) {
        self.lanes.task_settled(channel);
    }

    /// The tasks that came by this channel are the broker's again.
    pub(super) fn tasks_gone(&mut self, channel: Channel) {
        self.lanes.closed(channel);
    }

    /// The lane by which keys are freed: one of its own.
    // Guards: a connection that is closed for each key, where its user has just as many channels as are in use.
    pub(super) fn lane_for_keys(&self) -> Lane {
        if self.lanes.are_refused() { SERVICE_LANE } else { KEYS_LANE }
    }

    /// How leases are asked for.
    // Guards: a connection that is closed for the channel that this takes, where its user has just as many as are in use.
    pub(super) fn leases_are_asked(&self) -> Asked {
        if self.lanes.are_refused() { Asked::InTurn } else { Asked::Beside }
    }

    /// The next connection has so many lanes for consumers. To be said before it is [`up`](Self::up).
    pub(super) fn limit_lanes(&mut self, most: u32) {
        self.lanes.begin_anew(most);
    }

    /// There is a connection.
    pub(super) fn up(&mut self, now: Instant) {
        self.connected = true;
        let awaited = |key: &Key| matches!(key, Key::Rpc(_) | Key::Tasks(_) | Key::Broadcasts);
        let wanted = self.services.iter().filter(|(key, service)| awaited(key) && self.is_wanted(service));
        self.restoring = Some(wanted.map(|(key, _)| key.clone()).collect());
        self.reconcile_all(now);
        self.check_restored();
    }

    fn check_restored(&mut self) {
        if self.restoring.as_ref().is_some_and(BTreeSet::is_empty) {
            self.restoring = None;
            self.out.push(Act::Restored);
        }
    }

    fn restored(&mut self, key: &Key) {
        if let Some(restoring) = &mut self.restoring
            && restoring.remove(key)
        {
            self.check_restored();
        }
    }

    /// There is no connection any more, and nothing on it.
    pub(super) fn down(&mut self, error: &Error, now: Instant) {
        self.connected = false;
        if error.detail() == &Detail::Limit(Limit::Channels) {
            self.lanes.refused();
        }
        self.restoring = None;
        self.by_tag.clear();
        self.lanes.begin_anew(u32::MAX);
        self.pulls_moving.clear();
        self.pulls_in_line.clear();
        self.working = 0;
        for service in self.services.values_mut() {
            service.actual = Actual::Absent;
            service.turn = self.last_turn.next();
            service.lane = None;
            service.queue = None;
            service.pause = FIRST_PAUSE;
            if let Wanted::Replies(replies) = &mut service.wanted {
                replies.current = false;
                // The outbox asks again on the next connection.
                replies.streams.clear();
            }
        }
        self.reconcile_all(now);
    }

    /// A set-up has ended.
    pub(super) fn set_up(&mut self, key: &Key, turn: Turn, outcome: Result<(), NotSetUp>, now: Instant) {
        let Some(service) = self.services.get_mut(key).filter(|service| service.turn == turn) else { return };
        let Actual::Starting { tag, places, broken } = service.actual.clone() else { return };
        match outcome {
            Ok(()) if !broken => {
                self.set(key, Actual::Stands { tag, places, since: now });
                self.stands(key);
            }
            // Guards: the report of the end of an older consumer, which had the same tag. This one may stand, and would be in the
            // way of the next.
            Ok(()) => {
                let turn = self.last_turn.next();
                service.turn = turn;
                let plan = plans::end_of_consumer(tag.clone());
                self.set(key, Actual::Ending { tag, queue: AtEnd::Stays });
                self.out.push(Act::End { key: key.clone(), turn, plan });
            }
            Err(NotSetUp { error, queue }) => {
                if queue == OwnQueue::Missing {
                    service.queue = None;
                }
                self.by_tag.remove(&tag);
                self.failed(key, &error, now);
            }
        }
        self.reconcile(key, now);
    }

    fn stands(&mut self, key: &Key) {
        let Some(service) = self.services.get_mut(key) else { return };
        let added = service.wanted.take_adding();
        let mut acts = Vec::new();
        if let (Wanted::Replies(replies), Key::Replies(name)) = (&mut service.wanted, key) {
            for stream in replies.streams.drain(..) {
                acts.push(Act::StreamReady { stream, outcome: Ok(Some(Arc::clone(name))) });
            }
            // Replies may have gone with the consumer before this one.
            if replies.needed || service.starts > 1 {
                acts.push(Act::Reclaimed(Arc::clone(name)));
            }
        }
        self.out.extend(acts);
        self.answer(added, &Ok(()));
        self.restored(key);
    }

    /// A set-up has failed. Those for whom it was begun get the error; those who were there before are tried again, and so
    /// are those who came while it was under way.
    fn failed(&mut self, key: &Key, error: &Error, now: Instant) {
        self.pause(key, now);
        if is_lost(error) {
            // The next connection sets it up.
            return;
        }
        let Some(service) = self.services.get_mut(key) else { return };
        match &mut service.wanted {
            Wanted::Replies(replies) => {
                let streams = std::mem::take(&mut replies.streams);
                crate::log::info!(?key, %error, "a reply queue could not be set up");
                self.out
                    .extend(streams.into_iter().map(|stream| Act::StreamReady { stream, outcome: Err(error.clone()) }));
            }
            // That there was no answer in time passes.
            Wanted::Control if error.kind() == ErrorKind::TimedOut => {}
            Wanted::Control => {
                self.set(key, Actual::Pausing(after(now, EXTENSION_PAUSE)));
                if !std::mem::replace(&mut self.control_refused, true) {
                    crate::log::info!(
                        %error,
                        "the queue for requests of lost answers is refused, and not used: callers of homing whose connection \
                         is lost may miss an answer"
                    );
                }
            }
            Wanted::Pull(_) => {
                if let Key::Pull(pull) = key {
                    let pull = *pull;
                    self.out.push(Act::Pulled { pull, outcome: Err(error.clone()) });
                    self.end_pull(pull, now);
                }
            }
            Wanted::Rpc(_) | Wanted::Broadcasts(_) | Wanted::Tasks(_) => {
                let turn = service.turn;
                // Guards: one that is added at the end of a set-up that was begun long before, and had no part in what went
                // wrong.
                for id in service.wanted.adding_before(turn) {
                    self.take_out(id, &Err(error.clone()));
                }
                if self.services.get(key).is_some_and(|service| !service.wanted.adding().is_empty()) {
                    self.try_now(key);
                }
                let stays = self.services.get(key).is_some_and(|service| self.is_wanted(service));
                if stays {
                    let name = name_of(key);
                    crate::log::warn!(name, %error, "a subscription could not be set up again");
                    self.out.push(Act::Emit(ConnectionEvent::SubscriptionFailed { name, error: error.clone() }));
                }
            }
        }
    }

    /// Waits before the next attempt, longer each time.
    fn pause(&mut self, key: &Key, now: Instant) {
        let Some(service) = self.services.get_mut(key) else { return };
        let until = after(now, service.pause);
        service.pause = (service.pause * 2).min(LONGEST_PAUSE);
        self.set(key, Actual::Pausing(until));
    }

    /// An end has come to its end: the consumer is gone.
    pub(super) fn ended(&mut self, key: &Key, turn: Turn, now: Instant) {
        let Some(service) = self.services.get_mut(key).filter(|service| service.turn == turn) else { return };
        if let Actual::Ending { tag, queue } = &service.actual {
            self.by_tag.remove(tag);
            if *queue == AtEnd::Stays {
                self.pause(key, now);
            } else {
                service.actual = Actual::Absent;
                service.queue = None;
            }
            self.reconcile(key, now);
        }
    }

    /// One look into a queue has ended. True when its delivery, if it brought one, is wanted.
    pub(super) fn got(&mut self, key: &Key, turn: Turn, outcome: &Result<()>, now: Instant) -> bool {
        let Some(service) = self.services.get_mut(key).filter(|service| service.turn == turn) else { return false };
        service.actual = Actual::Absent;
        if let Err(error) = outcome {
            self.failed(key, error, now);
            self.reconcile(key, now);
            return false;
        }
        // Whoever has the delivery says what becomes of the pull.
        let wanted = matches!(&self.services[key].wanted, Wanted::Pull(pull) if pull.wanted);
        if !wanted {
            // Guards: one that was given up while the look was under way. Nobody else asks for it any more.
            self.reconcile(key, now);
        }
        wanted
    }

    /// The broker ended a consumer of its own accord: its queue was deleted, as a rule. It is set up again.
    pub(super) fn cancelled(&mut self, tag: &str, now: Instant) {
        let Some(key) = self.consumer_gone(tag, now) else { return };
        if !matches!(key, Key::Pull(_)) {
            let name = name_of(&key);
            crate::log::warn!(name, "the broker ended a subscription; was its queue deleted?");
            self.out.push(Act::Emit(ConnectionEvent::ConsumerCancelled { name }));
        }
        if let Key::Tasks(queue) = &key {
            self.out.push(Act::ForgetQueue(queue.clone()));
        }
        self.reconcile(&key, now);
    }

    /// The broker closed the channel of these consumers. Returns the task queue among them, if there is one.
    pub(super) fn channel_closed(&mut self, tags: &[String], now: Instant) -> Option<QueueName> {
        let mut queue = None;
        for tag in tags {
            let Some(key) = self.consumer_gone(tag, now) else { continue };
            if let Key::Tasks(name) = &key {
                queue = Some(name.clone());
            }
            self.reconcile(&key, now);
        }
        queue
    }

    /// Guards: a consumer of another incarnation than the one that is gone. It has another tag, or it stands on a channel
    /// whose end is reported with its tag.
    fn consumer_gone(&mut self, tag: &str, now: Instant) -> Option<Key> {
        let key = key_of(self.by_tag.get(tag)?, tag);
        let service = self.services.get_mut(&key)?;
        match &mut service.actual {
            Actual::Stands { tag: standing, since, .. } if standing == tag => {
                let stood = now.saturating_duration_since(*since);
                self.by_tag.remove(tag);
                if stood >= STABLE {
                    service.pause = FIRST_PAUSE;
                }
                self.pause(&key, now);
            }
            Actual::Starting { tag: starting, broken, .. } if starting == tag => *broken = true,
            _ => {}
        }
        Some(key)
    }

    /// When this wants to be asked again.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.next()
    }

    /// When the broker has last answered, as far as this connection knows.
    pub(super) fn note_answers(&mut self, answers: Answers) {
        self.answers = self.answers.later(answers);
    }

    /// Until when this is waited for that could do without a connection until `until`, where the broker has answered last then.
    ///
    /// Guards: those who wait behind others at a broker that is connected and silent. Each of those before them asks, and has the
    /// whole time of its question. Guards as well: those who wait behind others at a broker that is slow, and whose turn comes.
    fn patience(&self, until: Instant, answered: Option<Instant>) -> Instant {
        let own = after(until, self.operation_timeout);
        answered.map_or(own, |answered| own.max(after(answered, gate::patience(self.operation_timeout))))
    }

    fn silent(&self, not_done: &str) -> Error {
        let time = gate::patience(self.operation_timeout);
        let text = format!(
            "{not_done}: the broker is connected, and has answered nothing of what this waits for, for {time:?}. It may be \
             overloaded, or wait for something itself"
        );
        Error::new(ErrorKind::TimedOut, text)
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant, away: &Away) {
        while let Some(key) = self.due.pop(now) {
            self.expire(&key, now, away);
            if let Some(service) = self.services.get_mut(&key)
                && matches!(service.actual, Actual::Pausing(until) if until <= now)
            {
                service.actual = Actual::Absent;
            }
            self.reconcile(&key, now);
            self.note_deadline(&key, now);
        }
    }

    /// Keeps the time at which a service wants attention next, and no earlier one.
    fn note_deadline(&mut self, key: &Key, now: Instant) {
        let at = self.services.get(key).and_then(|service| self.deadline(service, now));
        self.due.set(key, at);
    }

    /// When a service wants attention next. What was due by now has been done.
    fn deadline(&self, service: &Service<D>, now: Instant) -> Option<Instant> {
        let pause = match service.actual {
            Actual::Pausing(until) => Some(until),
            _ => None,
        };
        let leaving = service.leaving.iter().map(|leaving| leaving.until);
        let late = |until: Instant, answered| if until > now { until } else { self.patience(until, answered) };
        let pulled = match &service.wanted {
            Wanted::Pull(pull) if pull.wanted => Some(late(pull.until, self.answers.any)),
            _ => None,
        };
        let added = service.wanted.added_until().map(|until| late(until, self.answers.set_up));
        pause.into_iter().chain(leaving).chain(pulled).chain(added).min()
    }

    fn expire(&mut self, key: &Key, now: Instant, away: &Away) {
        let Some(service) = self.services.get(key) else { return };
        if let (Wanted::Pull(Pull { queue, wait, until, wanted: true }), Key::Pull(pull)) = (&service.wanted, key) {
            let not_taken = || format!("no task was taken from the queue {queue:?}");
            let outcome = match wait {
                _ if *until > now => return,
                _ if !self.connected => Err(no_connection(&not_taken(), away)),
                PullWait::Until(_) => Ok(()),
                // What was asked has a shorter limit and a better error. The connection may still go.
                PullWait::No => match self.patience(*until, self.answers.any) {
                    patience if patience > now => return,
                    _ => Err(self.silent(&not_taken())),
                },
            };
            let pull = *pull;
            self.out.push(Act::Pulled { pull, outcome });
            self.end_pull(pull, now);
            return;
        }
        let Some(service) = self.services.get_mut(key) else { return };
        let late_to_leave: Vec<D> =
            service.leaving.extract_if(.., |leaving| leaving.until <= now).map(|leaving| leaving.done).collect();
        let late = service.wanted.late(now);
        if !late_to_leave.is_empty() {
            let text = format!(
                "the subscription {:?} is removed here, and the broker has not answered in time: what it still delivers goes back",
                name_of(key)
            );
            self.answer(late_to_leave, &Err(Error::new(ErrorKind::TimedOut, text)));
        }
        for (id, until) in late {
            let patience = self.patience(until, self.answers.set_up);
            let not_set_up = || format!("the subscription {:?} was not set up", name_of(key));
            let error = match self.connected {
                // What was asked has a shorter limit and a better error. The connection may still go.
                true if patience > now => continue,
                true => self.silent(&not_set_up()),
                false => no_connection(&not_set_up(), away),
            };
            self.take_out(id, &Err(error));
        }
    }

    fn is_wanted(&self, service: &Service<D>) -> bool {
        match &service.wanted {
            Wanted::Replies(replies) => replies.current || replies.needed,
            Wanted::Rpc(occupant) => occupant.is_some() && !self.draining,
            Wanted::Broadcasts(members) => !members.is_empty() && !self.draining,
            Wanted::Tasks(tasks) => !service.wanted.is_empty() && tasks.places().is_some() && !self.draining,
            Wanted::Pull(pull) => pull.wanted && !self.draining,
            Wanted::Control => self.wants_control(),
        }
    }

    // Guards: the answer of somebody who takes tasks by hand, or whose subscriber has been removed since. It is asked for as any
    // other, and is here.
    fn wants_control(&self) -> bool {
        !self.draining && (self.working > 0 || self.answered)
    }

    /// Something was answered here.
    pub(super) fn answered(&mut self, now: impl FnOnce() -> Instant) {
        if !std::mem::replace(&mut self.answered, true) {
            self.reconcile_control(now());
        }
    }

    fn reconcile_control(&mut self, now: Instant) {
        if self.wants_control() {
            self.service(&Key::Control, || Wanted::Control);
        }
        self.reconcile(&Key::Control, now);
    }

    fn reconcile_all(&mut self, now: Instant) {
        let keys: Vec<Key> = self.services.keys().cloned().collect();
        keys.iter().for_each(|key| self.reconcile(key, now));
        self.reconcile_control(now);
    }

    /// The one rule: brings what stands to what is wanted.
    fn reconcile(&mut self, key: &Key, now: Instant) {
        self.admit_where_no_place_is_left(key);
        let Some(service) = self.services.get(key) else { return };
        let wanted = self.is_wanted(service);
        match (&service.actual, wanted) {
            // What a failed set-up has left.
            (Actual::Absent | Actual::Pausing(_), false) if self.connected && service.queue.is_some() => self.end(key),
            (Actual::Absent | Actual::Pausing(_), false) => self.gone(key),
            (Actual::Absent, true) if self.connected => self.start(key),
            (Actual::Stands { places, .. }, _) => {
                let fits = match &service.wanted {
                    Wanted::Tasks(tasks) => tasks.places() == Some(*places),
                    _ => true,
                };
                if !wanted || !fits {
                    self.end(key);
                }
            }
            _ => {}
        }
        let leaving = match self.services.get_mut(key) {
            // Others stay: nothing has to be waited for.
            Some(service) if wanted => std::mem::take(&mut service.leaving),
            _ => Vec::new(),
        };
        self.answer(leaving.into_iter().map(|leaving| leaving.done), &Ok(()));
        if brings_control(key) && self.wants_control() != self.services.contains_key(&Key::Control) {
            self.reconcile_control(now);
        }
        if let Key::Pull(pull) = key {
            self.note_pull(*pull, now);
        }
    }

    /// False for a pull that has to wait until others are done: it is in line.
    ///
    /// Guards: a program that pulls and gives up faster than the broker sets up and ends consumers. They would pile up, and what
    /// comes for those that are to end would be kept from everybody.
    fn has_its_turn(&mut self, key: &Key) -> bool {
        let Key::Pull(pull) = key else { return true };
        let goes = self.pulls_moving.len() < PULLS_MOVING_MOST;
        if !goes {
            self.pulls_in_line.insert(*pull);
        }
        goes
    }

    /// Keeps the books of pulls; the next in line goes where there is room.
    fn note_pull(&mut self, pull: PullId, now: Instant) {
        let service = self.services.get(&Key::Pull(pull));
        match service.map(|service| &service.actual) {
            Some(Actual::Starting { .. } | Actual::Ending { .. }) => {
                self.pulls_moving.insert(pull);
            }
            actual => {
                if actual.is_none() {
                    self.pulls_in_line.remove(&pull);
                }
                self.pulls_moving.remove(&pull);
            }
        }
        while self.pulls_moving.len() < PULLS_MOVING_MOST
            && let Some(next) = self.pulls_in_line.pop_first()
        {
            self.reconcile(&Key::Pull(next), now);
        }
    }

    /// A subscriber of a task queue whose places are all taken stands without a consumer: there is none until a place is free.
    ///
    /// Guards: a task that is offered to it meanwhile, and takes the last place. It is begun only when whoever adds the
    /// subscriber is told that it stands.
    fn admit_where_no_place_is_left(&mut self, key: &Key) {
        let Some(service) = self.services.get_mut(key) else { return };
        if self.draining || !matches!(&service.wanted, Wanted::Tasks(tasks) if tasks.places().is_none()) {
            return;
        }
        let added = service.wanted.take_adding();
        self.answer(added, &Ok(()));
    }

    /// Nothing of it stands, and nothing is wanted.
    fn gone(&mut self, key: &Key) {
        let Some(service) = self.services.get_mut(key) else { return };
        let leaving = std::mem::take(&mut service.leaving);
        // Nobody is added any more while it drains. Those who were there end with the communicator.
        let adding = if self.draining { service.wanted.adding() } else { Vec::new() };
        if let (Wanted::Pull(pull), Key::Pull(id)) = (&mut service.wanted, key)
            && std::mem::replace(&mut pull.wanted, false)
        {
            self.out.push(Act::Pulled { pull: *id, outcome: Err(draining()) });
        }
        for id in adding {
            // Guards: one that never stood, and whose end would then be reported as that of a home.
            self.take_out(id, &Err(draining()));
        }
        if self.services.get(key).is_some_and(|service| service.wanted.is_empty())
            && let Some(service) = self.services.remove(key)
        {
            self.due.clear(key);
            service.lane.into_iter().for_each(|lane| self.lanes.give_back(lane));
        }
        self.answer(leaving.into_iter().map(|leaving| leaving.done), &Ok(()));
        self.restored(key);
    }

    fn start(&mut self, key: &Key) {
        if !self.has_its_turn(key) {
            return;
        }
        let Some(service) = self.services.get_mut(key) else { return };
        let what_for = if matches!(key, Key::Pull(_)) { Use::Pull } else { Use::Consumer };
        let lane = match key {
            Key::Replies(_) | Key::Control => SERVICE_LANE,
            _ => *service.lane.get_or_insert_with(|| self.lanes.take(what_for)),
        };
        let sureness = self.lanes.sureness(lane);
        let turn = self.last_turn.next();
        service.turn = turn;
        service.starts = service.starts.saturating_add(1);
        if let Wanted::Pull(Pull { queue, wait: PullWait::No, .. }) = &service.wanted {
            service.actual = Actual::Starting { tag: String::new(), places: 1, broken: false };
            let queue = queue.clone();
            return self.out.push(Act::Get { key: key.clone(), turn, queue, lane, sureness });
        }
        let own = plans::own_queue(key, &self.names, service.queue.take());
        service.queue = own.as_ref().map(|spec| spec.name.clone());
        let Some((plan, places)) = plans::consumer(key, &service.wanted, own, lane, sureness) else { return };
        let tag = plan.consume.tag.clone();
        service.actual = Actual::Starting { tag: tag.clone(), places, broken: false };
        // Before the first question to the broker: deliveries may come before its answer.
        self.by_tag.insert(tag, route_of(key));
        self.out.push(Act::SetUp { key: key.clone(), turn, plan });
    }

    fn end(&mut self, key: &Key) {
        let Some(service) = self.services.get_mut(key) else { return };
        let tag = match (&service.actual, &service.queue) {
            (Actual::Stands { tag, .. }, _) => tag.clone(),
            (Actual::Absent | Actual::Pausing(_), Some(queue)) => {
                let tag = own_tag(key, queue);
                // What lies in the queue is still to find its way.
                self.by_tag.insert(tag.clone(), route_of(key));
                tag
            }
            _ => return,
        };
        let turn = self.last_turn.next();
        service.turn = turn;
        let plan = plans::end(key, &service.wanted, tag, service.queue.clone());
        self.set(key, Actual::Ending { tag: plan.tag.clone(), queue: AtEnd::Goes });
        self.out.push(Act::End { key: key.clone(), turn, plan });
    }

    /// How much is there beside the queues for replies and, once something was answered, for questions about answers, which stay
    /// as long as the connection; for tests.
    #[cfg(test)]
    pub(super) fn leftovers(&self) -> usize {
        let stays = |route: &Route| match route {
            Route::Replies => true,
            Route::Control => self.answered,
            _ => false,
        };
        let services = self.services.keys().filter(|key| !stays(&plans::route_of(key))).count();
        let tags = self.by_tag.values().filter(|route| !stays(route)).count();
        let pulls = self.pulls_moving.len() + self.pulls_in_line.len();
        // Once for a service that is there, whose time goes with it, and that may try again.
        let due =
            self.due.keys().filter(|key| !stays(&plans::route_of(key)) || !self.services.contains_key(key)).count();
        services + tags + self.by_id.len() + self.by_name.len() + self.lanes.in_use() + pulls + due
    }
}

fn unknown(what: &str, identifier: &Identifier) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("there is no {what} named {:?}", identifier.as_str()))
}

fn gone_while_added() -> Error {
    Error::new(ErrorKind::Cancelled, "the subscriber was taken out while it was being added")
}

/// What was not done, since the time for it passed without a connection.
fn no_connection(not_done: &str, away: &Away) -> Error {
    Error::new(
        ErrorKind::TimedOut,
        format!("{not_done} in time, for there is no connection to the broker{away}; homing goes on trying to connect"),
    )
}

fn draining() -> Error {
    Error::new(ErrorKind::CommunicatorClosed, "the communicator is closing and takes no new work")
}
