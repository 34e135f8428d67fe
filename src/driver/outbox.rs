//! What goes out: calls, tasks, broadcasts, replies, copies of tasks. Its order, and what is sent again.
//!
//! Every message belongs to a *stream*, which is a destination whose messages go out in the order in which they were asked
//! for. A stream is opened on each connection (its exchange and queues are declared) before its first message goes; until
//! then messages wait. This is the only place where order is decided: the broker takes messages in the order in which it
//! is given them.
//!
//! ```text
//!            ┌────────── lost, refused, exchange or queue gone ─────────┐
//!            ▼                                                          │
//!   send ─▶ waiting ──stream is open──▶ handed to the broker ──confirmed, given up──▶ finished
//!            ▲                               │
//!            └────────── pausing ◀───────────┘
//! ```
//!
//! What is with the broker when the connection is lost may have arrived or not. A task, a broadcast and a reply are sent
//! again under the same message id, with a header that marks it; a call is not, unless its caller allowed it.
//!
//! A message whose time is over while it is with the broker ends for its sender, and keeps its room until the broker has decided on
//! it or on a later one.
//!
//! The outbox is a value: it has no clock, no connection and completes nobody. What is to be done comes out as [`Act`]s.
//! `P` stands for the way to a sender, so that the models can use a small one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::away::Away;
use super::command::{QueueName, Repeat, ReplyStage, Turn};
use super::deadlines::Deadlines;
use super::port::Charge;
use super::requests::ById;
use super::tasks::Known;
use crate::broker::{Message, PublishId};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::time::after;
use crate::wire::headers;
use crate::wire::names::{Exchange, Identifier};
use crate::wire::unique::UniqueKey;

/// How often a message that the broker refused, or whose exchange or queue was gone, is sent again.
const TRIES: u32 = 3;
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The pauses between the attempts to reach a caller that may be connecting again.
const FIRST_REPLY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_REPLY_PAUSE: Duration = Duration::from_secs(1);

/// How many idle task queues keep their stream.
const IDLE_STREAMS_MOST: usize = 1024;

/// A destination whose messages keep their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stream {
    Calls,
    Broadcasts,
    Replies(Exchange),
    Tasks(QueueName),
    /// Copies of tasks, which go to their queue by its name, and whose answers go to whoever sent the task.
    Copies(QueueName),
    /// Copies of tasks of this queue that are given up.
    Quarantine(QueueName),
    /// Messages that need nothing but a connection and no order among them.
    Direct,
}

/// What a message is, and whom its end concerns.
pub(super) enum Kind<P> {
    Call {
        correlation: Uuid,
        recipient: Identifier,
        repeat: Repeat,
        published: Option<P>,
    },
    Task {
        correlation: Option<Uuid>,
        published: Option<P>,
        /// The key that it was sent under, as long as it is certain that the broker does not have the task.
        key: Option<TakenKey>,
    },
    /// Of a task with a unique key: the task goes when the broker has this.
    Marker(Box<Marked<P>>),
    Broadcast {
        published: P,
    },
    Reply {
        stage: ReplyStage,
        correlation: Option<Arc<str>>,
        /// From when on it could not be sent, or its caller was not found: until when it is tried, and the next pause.
        late: Option<Late>,
        /// Whoever waits until it has come to its end.
        sent: Option<P>,
    },
    /// Worth nothing on a later connection, and nobody waits for it.
    Notice,
    /// From the communicator to itself: one that comes back shows that what was bound in this turn is gone.
    Probe(Turn),
    /// A copy of a task.
    Copy(CopyId),
    /// Its sender has been told that the broker did not take it over in time. It keeps its room as long as the connection may still
    /// have it: until the broker has decided on it or on a later one, which it reads after it. It is not sent again.
    // Guards: what a silent connection holds, which would be without bounds if those who are told so gave their room back.
    GivenUp,
}

/// A task that goes when its marker has been confirmed.
pub(super) struct Marked<P> {
    pub(super) key: UniqueKey,
    /// The task queue, as errors name it.
    pub(super) queue: QueueName,
    /// Where the task goes.
    pub(super) stream: Stream,
    pub(super) message: Message,
    pub(super) correlation: Option<Uuid>,
    pub(super) published: Option<P>,
    /// The broker has the marker no sooner than this.
    pub(super) since: Instant,
}

/// A key that this communicator has.
pub(super) struct TakenKey {
    /// The queue of its marker, and the marker's message id.
    pub(super) marker: QueueName,
    pub(super) id: Option<Arc<str>>,
    /// Until then nobody else has it. Later others may.
    pub(super) until: Instant,
}

impl TakenKey {
    /// Whether nobody else can have it when the broker reads a question of now, which is answered within this limit.
    // Guards: the key of somebody who takes it when its time is over.
    pub(super) fn can_be_freed(&self, now: Instant, limit: Duration) -> bool {
        after(now, limit) < self.until
    }
}

/// Names a copy until it is known whether the broker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CopyId(pub(super) u64);

/// A reply whose caller was not found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    until: Instant,
    pause: Duration,
}

/// What is to be done, in this order.
pub(super) enum Act<P> {
    /// Give it to the broker. Where it is a request, its reply comes to this queue.
    Publish {
        id: PublishId,
        message: Rc<Message>,
        replies: Option<(Uuid, Exchange, Arc<str>)>,
    },
    /// Declare what the stream needs, and answer by [`Outbox::opened`]; or, where nobody wants it any more before that was begun, by
    /// [`Outbox::not_opened`].
    Open(Stream, Wanted),
    Complete {
        published: P,
        outcome: Result<()>,
    },
    /// The request of this id cannot be answered.
    Fail {
        correlation: Uuid,
        error: Error,
    },
    Release(Charge),
    ExchangeVanished {
        exchange: Exchange,
        error: Error,
    },
    QueueVanished(QueueName),
    /// The task of this key was not sent.
    FreeKey(TakenKey),
    /// The queue that a `pending` went to is not there: its caller is gone.
    CallerGone(Arc<str>),
    /// A reply was given up, since its caller was not to be found.
    ReplyUndeliverable,
    Copied {
        copy: CopyId,
        known: Known,
    },
    /// What was bound in this turn is bound no more.
    BindingGone {
        bound: Turn,
        error: Error,
    },
}

/// Whether anybody still waits for a stream to be opened.
pub(super) struct Wanted(oneshot::Receiver<()>);

impl Wanted {
    /// Resolves when nobody does.
    pub(super) async fn until_over(self) {
        // Nothing is sent: it is dropped.
        let _ = self.0.await;
    }

    #[cfg(test)]
    fn is_over_now(&mut self) -> bool {
        self.0.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }
}

struct Entry<P> {
    stream: Stream,
    kind: Kind<P>,
    message: Rc<Message>,
    charge: Charge,
    state: State,
    tries: u32,
    /// When it is given up.
    until: Option<Instant>,
    /// How long its sender waits for the broker to take it over. It goes on without its sender.
    sender_until: Option<Instant>,
    /// Which one it was of those that were handed to the broker.
    place: u64,
    /// It has been with a broker that may have taken it: what comes of it later is marked.
    may_have_arrived: bool,
    /// A try of it ended without a word of the broker.
    is_doubtful: bool,
    /// Closing does not wait for it.
    aside: Aside,
}

impl<P> Entry<P> {
    /// It is not certain any more that the broker does not have the task: its key stays.
    fn keep_key(&mut self) {
        if let Kind::Task { key, .. } = &mut self.kind {
            *key = None;
        }
    }

    /// Whoever waits for the broker to take it over.
    fn take_sender(&mut self) -> Option<P> {
        match &mut self.kind {
            Kind::Call { published, .. } | Kind::Task { published, .. } => published.take(),
            Kind::Marker(marked) => marked.published.take(),
            _ => None,
        }
    }

    fn is_last_reply(&self) -> bool {
        matches!(self.kind, Kind::Reply { stage: ReplyStage::Last, .. })
    }

    /// It goes to the broker; where it is a request, its reply comes to this queue.
    fn hand_over(&mut self, id: PublishId, place: &mut u64, reply_to: Option<&Arc<str>>) -> Act<P> {
        *place += 1;
        self.place = *place;
        if self.may_have_arrived || reply_to.is_some() {
            let properties = &mut Rc::make_mut(&mut self.message).properties;
            if self.may_have_arrived {
                let times = headers::number(properties, headers::RESEND);
                properties.set_number(headers::RESEND, u64::from(times.saturating_add(1)));
            }
            if let Some(reply_to) = reply_to {
                properties.reply_to = Some(Arc::clone(reply_to));
            }
        }
        self.state = State::Handed;
        let request = match &self.kind {
            Kind::Call { correlation, .. } => Some((*correlation, Exchange::Message)),
            Kind::Task { correlation: Some(correlation), .. } => Some((*correlation, Exchange::Task)),
            _ => None,
        };
        let replies = request.zip(reply_to).map(|((id, exchange), queue)| (id, exchange, Arc::clone(queue)));
        Act::Publish { id, message: Rc::clone(&self.message), replies }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aside {
    No,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Handed,
    Pausing(Instant),
}

#[derive(Default)]
struct StreamState {
    open: Open,
    /// By age.
    waiting: BTreeSet<PublishId>,
    /// Messages of it that have not ended.
    messages: usize,
    /// Dropped when nobody wants it any more that is being opened.
    wanted: Option<oneshot::Sender<()>>,
}

impl StreamState {
    /// Something that it needs is gone.
    // Guards: a stream that is opened twice at once, for each of many messages that come back.
    fn no_longer_stands(&mut self, open: Open) {
        match &mut self.open {
            // Guards: a queue that is deleted behind its declaration, on which the next message is not to rely.
            Open::Opening { since, .. } => *since = Since::MayBeGone,
            before => *before = open,
        }
    }

    /// The queue that replies come to.
    fn reply_to(&self) -> Option<Arc<str>> {
        match &self.open {
            Open::Yes(reply_to) => reply_to.clone(),
            _ => None,
        }
    }
}

/// A stream on the present connection.
#[derive(Default, PartialEq, Eq)]
enum Open {
    #[default]
    No,
    /// It was asked for, when this was the last message.
    Opening { last: PublishId, since: Since },
    /// Its exchange is gone, and is being declared again.
    Vanished,
    /// With the queue that replies come to, where there are some.
    Yes(Option<Arc<str>>),
}

/// What has become of what a stream needs, since it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Nothing,
    /// Some of it may be gone: later messages have it declared again.
    MayBeGone,
}

pub(super) struct Outbox<P> {
    last: u64,
    entries: HashMap<PublishId, Entry<P>, ById>,
    fixed: [StreamState; FIXED],
    /// Those to a task queue.
    queues: BTreeMap<Stream, StreamState>,
    /// When pauses and messages end.
    due: Deadlines<PublishId>,
    /// Calls that wait or pause, so that one whose caller goes need not go out.
    calls: HashMap<Uuid, PublishId, ById>,
    /// How many entries nobody waits for.
    aside: usize,
    /// How many messages were handed to the broker.
    handed: u64,
    /// Those that were given up while they were with the broker, by their place.
    given_up: BTreeMap<u64, PublishId>,
    connected: bool,
    /// How long a reply is tried whose caller is not found.
    reply_timeout: Duration,
    broker: Arc<str>,
    out: Vec<Act<P>>,
}

const FIXED: usize = 5;

fn fixed(stream: &Stream) -> Option<usize> {
    match stream {
        Stream::Calls => Some(0),
        Stream::Broadcasts => Some(1),
        Stream::Replies(Exchange::Message) => Some(2),
        Stream::Replies(Exchange::Task) => Some(3),
        Stream::Direct => Some(4),
        Stream::Tasks(_) | Stream::Copies(_) | Stream::Quarantine(_) => None,
    }
}

/// The exchange that a stream's messages go through.
fn exchange_of(stream: &Stream) -> Exchange {
    match stream {
        Stream::Tasks(_) | Stream::Copies(_) | Stream::Quarantine(_) => Exchange::Task,
        Stream::Replies(exchange) => *exchange,
        Stream::Calls | Stream::Broadcasts | Stream::Direct => Exchange::Message,
    }
}

/// What the connection is like that an outcome came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peers {
    /// Those who have lost the same broker may not be back yet.
    Settling,
    Settled,
}

impl<P> Outbox<P> {
    pub(super) fn new(broker: &str, reply_timeout: Duration) -> Self {
        Outbox {
            last: 0,
            entries: HashMap::default(),
            fixed: Default::default(),
            queues: BTreeMap::new(),
            due: Deadlines::default(),
            calls: HashMap::default(),
            aside: 0,
            handed: 0,
            given_up: BTreeMap::new(),
            connected: false,
            reply_timeout,
            broker: broker.into(),
            out: Vec::new(),
        }
    }

    /// Whether something is to be done since the last call of [`swap_acts`](Self::swap_acts).
    pub(super) fn has_acts(&self) -> bool {
        !self.out.is_empty()
    }

    /// Puts what is to be done since the last call, in order, in the place of this list, which is empty.
    pub(super) fn swap_acts(&mut self, acts: &mut Vec<Act<P>>) {
        std::mem::swap(&mut self.out, acts);
    }

    #[cfg(test)]
    pub(super) fn acts(&mut self) -> Vec<Act<P>> {
        std::mem::take(&mut self.out)
    }

    /// How many messages have not come to their end, but for those that nobody waits for.
    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.aside
    }

    /// Whether there is a probe that the broker has not decided on.
    pub(super) fn is_probing(&self) -> bool {
        self.aside > 0 && self.entries.values().any(|entry| matches!(entry.kind, Kind::Probe(_)))
    }

    /// Whether there is an answer whose caller was not found so far.
    pub(super) fn seeks_callers(&self) -> bool {
        self.aside > 0
            && self.entries.values().any(|entry| entry.aside == Aside::Yes && matches!(entry.kind, Kind::Reply { .. }))
    }

    /// The same without notices, which are nobody's message.
    pub(super) fn unconfirmed(&self) -> usize {
        let counts = |entry: &&Entry<P>| entry.aside == Aside::No && !matches!(entry.kind, Kind::Notice);
        self.entries.values().filter(counts).count()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn stream(&mut self, stream: &Stream) -> &mut StreamState {
        match fixed(stream) {
            None => self.queues.entry(stream.clone()).or_default(),
            Some(at) => &mut self.fixed[at],
        }
    }

    /// Takes a message over. It is given up at `until`, where that is set.
    pub(super) fn send(
        &mut self,
        stream: Stream,
        kind: Kind<P>,
        message: Message,
        charge: Charge,
        until: Option<Instant>,
    ) {
        self.send_request(stream, kind, message, charge, until, None);
    }

    /// The same for a request whose sender waits no longer than until `sender_until` for the broker to take it over.
    pub(super) fn send_request(
        &mut self,
        stream: Stream,
        kind: Kind<P>,
        message: Message,
        charge: Charge,
        until: Option<Instant>,
        sender_until: Option<Instant>,
    ) {
        self.last += 1;
        let id = PublishId(self.last);
        for at in [until, sender_until].into_iter().flatten() {
            self.due.insert((at, id));
        }
        let aside = if matches!(kind, Kind::Probe(_)) { Aside::Yes } else { Aside::No };
        self.aside += usize::from(aside == Aside::Yes);
        let connected = self.connected;
        let state = self.stream(&stream);
        state.messages += 1;
        // Mostly nothing is before it, and it goes at once.
        let goes = connected && state.waiting.is_empty() && matches!(state.open, Open::Yes(_));
        let reply_to = if goes { state.reply_to() } else { None };
        let to = (!goes).then(|| stream.clone());
        if !goes {
            state.waiting.insert(id);
            if let Kind::Call { correlation, .. } = &kind {
                self.calls.insert(*correlation, id);
            }
        }
        let mut entry = Entry {
            stream,
            kind,
            message: Rc::new(message),
            charge,
            state: State::Waiting,
            tries: 0,
            until,
            sender_until,
            place: 0,
            may_have_arrived: false,
            is_doubtful: false,
            aside,
        };
        if goes {
            self.out.push(entry.hand_over(id, &mut self.handed, reply_to.as_ref()));
        }
        self.entries.insert(id, entry);
        if let Some(to) = to {
            self.pump(&to);
        }
    }

    fn set_aside(&mut self, id: PublishId, aside: Aside) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match (std::mem::replace(&mut entry.aside, aside), aside) {
            (Aside::No, Aside::Yes) => self.aside += 1,
            (Aside::Yes, Aside::No) => self.aside -= 1,
            _ => {}
        }
    }

    /// Hands over what waits in an open stream; has another one opened.
    fn pump(&mut self, stream: &Stream) {
        if !self.connected {
            return;
        }
        let last = PublishId(self.last);
        let state = self.stream(stream);
        if state.waiting.is_empty() {
            return;
        }
        match &state.open {
            Open::Opening { .. } | Open::Vanished => {}
            Open::No if *stream == Stream::Direct => {
                state.open = Open::Yes(None);
                self.hand_over(stream, None, last);
            }
            Open::No => {
                state.open = Open::Opening { last, since: Since::Nothing };
                let (wanted, until) = oneshot::channel();
                state.wanted = Some(wanted);
                self.out.push(Act::Open(stream.clone(), Wanted(until)));
            }
            Open::Yes(reply_to) => {
                let reply_to = reply_to.clone();
                self.hand_over(stream, reply_to.as_ref(), last);
            }
        }
    }

    /// Hands over what waits, up to this message.
    fn hand_over(&mut self, stream: &Stream, reply_to: Option<&Arc<str>>, up_to: PublishId) {
        loop {
            let waiting = &mut self.stream(stream).waiting;
            let Some(id) = waiting.first().copied().filter(|id| *id <= up_to) else { return };
            waiting.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if let Kind::Call { correlation, .. } = &entry.kind {
                self.calls.remove(correlation);
            }
            self.out.push(entry.hand_over(id, &mut self.handed, reply_to));
        }
    }

    /// A stream that was asked for is open, or cannot be opened.
    pub(super) fn opened(&mut self, stream: &Stream, outcome: Result<Option<Arc<str>>>, now: Instant) {
        let state = self.stream(stream);
        state.wanted = None;
        match outcome {
            Ok(reply_to) => {
                let before = std::mem::replace(&mut state.open, Open::Yes(reply_to.clone()));
                self.markers_go(stream, now);
                if let Open::Opening { last, since: Since::MayBeGone } = before {
                    self.hand_over(stream, reply_to.as_ref(), last);
                    self.stream(stream).open = Open::No;
                }
                self.pump(stream);
            }
            Err(error) => {
                let opened_for = match std::mem::take(&mut state.open) {
                    Open::Opening { last, .. } => last,
                    _ => PublishId(u64::MAX),
                };
                if error.kind() == ErrorKind::ConnectionLost {
                    // The next connection opens it.
                    return self.forget_unwanted(stream);
                }
                let failed: Vec<PublishId> = state.waiting.range(..=opened_for).copied().collect();
                for id in failed {
                    // Guards: an answer whose request is done and acknowledged, and which nobody could ask for again.
                    if self.entries.get(&id).is_some_and(Entry::is_last_reply) {
                        self.stream(stream).waiting.remove(&id);
                        self.later(id, error.clone(), now);
                    } else {
                        self.finish(id, Err(error.clone()));
                    }
                }
                // Guards: a message that came at the end of an attempt that was begun long before: it gets one of its own.
                self.pump(stream);
            }
        }
        self.forget_unwanted(stream);
    }

    /// A stream was not opened, since nobody wanted it.
    pub(super) fn not_opened(&mut self, stream: &Stream) {
        let state = self.stream(stream);
        // Guards: an attempt of later, for those who have come since.
        if state.wanted.is_none() && matches!(state.open, Open::Opening { .. }) {
            state.open = Open::No;
            self.pump(stream);
        }
        self.forget_unwanted(stream);
    }

    /// Of one whose messages were given up while it was being opened nothing is kept.
    fn forget_unwanted(&mut self, stream: &Stream) {
        if self.queues.get(stream).is_some_and(|state| state.messages == 0) {
            self.queues.remove(stream);
        }
    }

    /// Where these are markers, the broker may have them from now on.
    fn markers_go(&mut self, stream: &Stream, now: Instant) {
        let waiting = self.queues.get(stream).into_iter().flat_map(|state| &state.waiting);
        for id in waiting {
            match self.entries.get_mut(id) {
                Some(Entry { kind: Kind::Marker(marked), .. }) => marked.since = now,
                // The stream of a marker has nothing else.
                _ => return,
            }
        }
    }

    /// Something that the stream needs is gone: it is opened again before its next message.
    pub(super) fn close_stream(&mut self, stream: &Stream) {
        self.stream(stream).no_longer_stands(Open::No);
        self.pump(stream);
    }

    /// The same for a task queue, if anything was sent to it.
    pub(super) fn close_stream_of(&mut self, queue: &QueueName) {
        for stream in [Stream::Tasks(queue.clone()), Stream::Copies(queue.clone())] {
            if self.queues.contains_key(&stream) {
                self.close_stream(&stream);
            }
        }
    }

    /// There is a connection.
    pub(super) fn up(&mut self) {
        self.connected = true;
        let fixed =
            [Stream::Calls, Stream::Broadcasts, Stream::Replies(Exchange::Message), Stream::Replies(Exchange::Task)];
        let queues: Vec<Stream> = self.queues.keys().cloned().collect();
        for stream in fixed.into_iter().chain(queues).chain([Stream::Direct]) {
            self.pump(&stream);
        }
    }

    /// There is no connection any more.
    pub(super) fn down(&mut self) {
        self.connected = false;
        for state in self.fixed.iter_mut().chain(self.queues.values_mut()) {
            state.open = Open::No;
            state.wanted = None;
        }
        self.queues.retain(|_, state| state.messages > 0);
        let mut ids: Vec<PublishId> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let handed = entry.state == State::Handed;
            match (&entry.kind, handed) {
                (Kind::Copy(_), true) => self.finish(id, Err(unknown("a copy of a task"))),
                (Kind::Copy(_) | Kind::Notice | Kind::Probe(_) | Kind::GivenUp, _) => self.finish(id, Err(not_sent())),
                // Guards: a marker that is refused because of itself.
                (Kind::Call { repeat: Repeat::Never, .. } | Kind::Marker(_), true) => {
                    self.finish(id, Err(lost_under_way()));
                }
                (_, true) => {
                    (entry.may_have_arrived, entry.is_doubtful) = (true, true);
                    entry.keep_key();
                    self.wait_again(id);
                }
                (_, false) => {}
            }
        }
    }

    /// Back into its stream, in its old place.
    fn wait_again(&mut self, id: PublishId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.state = State::Waiting;
        let stream = entry.stream.clone();
        if let Kind::Call { correlation, .. } = &entry.kind {
            self.calls.insert(*correlation, id);
        }
        self.stream(&stream).waiting.insert(id);
    }

    fn pause(&mut self, id: PublishId, until: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.state = State::Pausing(until);
        if let Kind::Call { correlation, .. } = &entry.kind {
            self.calls.insert(*correlation, id);
        }
        self.due.insert((until, id));
    }

    /// The broker has decided on a message.
    pub(super) fn published(&mut self, id: PublishId, outcome: Result<()>, peers: Peers, now: Instant) {
        // Mostly nothing was given up.
        if !self.given_up.is_empty() && is_read(&outcome) {
            self.let_go_before(id);
        }
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.state == State::Handed) else { return };
        if matches!(entry.kind, Kind::GivenUp) {
            return self.finish(id, outcome);
        }
        let Err(error) = outcome else {
            return match entry.kind {
                Kind::Marker(_) => self.key_taken(id),
                _ => self.finish(id, Ok(())),
            };
        };
        if error.kind() == ErrorKind::DeliveryFailed && *error.detail() != Detail::NotTaken {
            entry.keep_key();
        }
        let stream = entry.stream.clone();
        let again = entry.tries < TRIES;
        match error.kind() {
            // It was not sent: the connection went before.
            ErrorKind::ConnectionLost => match entry.kind {
                Kind::Copy(_) | Kind::Notice | Kind::Probe(_) => self.finish(id, Err(not_sent())),
                _ => {
                    self.stream(&stream).no_longer_stands(Open::No);
                    self.wait_again(id);
                }
            },
            ErrorKind::NotFound if matches!(entry.kind, Kind::Probe(_)) => self.finish(id, Err(error)),
            // It was not taken: there was nothing to take it.
            ErrorKind::NotFound if again && stream != Stream::Direct => {
                entry.tries += 1;
                let exchange = exchange_of(&stream);
                let state = self.stream(&stream);
                // Guards: an exchange that is declared for each of many messages that come back.
                let is_seen_to = matches!(state.open, Open::Vanished | Open::Opening { .. });
                state.no_longer_stands(Open::Vanished);
                self.wait_again(id);
                if !is_seen_to {
                    self.out.push(Act::ExchangeVanished { exchange, error });
                }
            }
            ErrorKind::Unroutable => self.unroutable(id, error, peers, now),
            // A nack, or the end of the channel: it may have arrived.
            ErrorKind::DeliveryFailed => match entry.kind {
                Kind::Copy(_)
                | Kind::Notice
                | Kind::Probe(_)
                | Kind::Marker(_)
                | Kind::Call { repeat: Repeat::Never, .. } => self.finish(id, Err(error)),
                _ if again => {
                    entry.tries += 1;
                    entry.may_have_arrived = true;
                    entry.is_doubtful |= *error.detail() != Detail::NotTaken;
                    self.pause(id, after(now, REFUSED_PAUSE));
                }
                _ => self.finish(id, Err(error)),
            },
            _ => self.finish(id, Err(error)),
        }
    }

    /// The broker has read this message: what was given up and handed over before it is with the connection no more.
    // Guards: one queue whose messages are not confirmed, and which would have all room of a connection that works.
    fn let_go_before(&mut self, id: PublishId) {
        let Some(entry) = self.entries.get(&id).filter(|entry| entry.state == State::Handed) else { return };
        let read = self.given_up.range(..entry.place).map(|(_, id)| *id).collect::<Vec<_>>();
        read.into_iter().for_each(|id| self.finish(id, Ok(())));
    }

    /// It reached nobody.
    fn unroutable(&mut self, id: PublishId, error: Error, peers: Peers, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let queue = match &entry.stream {
            Stream::Tasks(queue) | Stream::Copies(queue) | Stream::Quarantine(queue) if entry.tries < TRIES => {
                Some(queue.clone())
            }
            _ => None,
        };
        match (&mut entry.kind, queue) {
            // Its recipient may be connecting again. The deadline of its request ends this.
            (Kind::Call { .. }, _) if peers == Peers::Settling => self.pause(id, after(now, REFUSED_PAUSE)),
            (Kind::Task { .. } | Kind::Marker(_) | Kind::Copy(_), Some(queue)) => {
                entry.tries += 1;
                let stream = entry.stream.clone();
                self.wait_again(id);
                if !matches!(stream, Stream::Quarantine(_)) {
                    self.out.push(Act::QueueVanished(queue));
                }
                self.close_stream(&stream);
            }
            // Its caller may be connecting again. Closing does not wait for that, and draining not for long.
            (Kind::Reply { stage: ReplyStage::Last, .. }, _) => {
                if self.later(id, error, now) {
                    self.set_aside(id, Aside::Yes);
                }
            }
            _ => self.finish(id, Err(error)),
        }
    }

    /// The last reply to a request is tried again later, as long as its time is not up. True if it is.
    fn later(&mut self, id: PublishId, error: Error, now: Instant) -> bool {
        let reply_timeout = self.reply_timeout;
        let Some(Entry { kind: Kind::Reply { late, .. }, .. }) = self.entries.get_mut(&id) else { return false };
        let (until, pause) = match *late {
            None => (after(now, reply_timeout), FIRST_REPLY_PAUSE),
            Some(Late { until, pause }) => (until, (pause * 2).min(LONGEST_REPLY_PAUSE)),
        };
        *late = Some(Late { until, pause });
        let next = after(now, pause);
        let goes_on = next <= until;
        if goes_on {
            self.pause(id, next);
        } else {
            self.finish(id, Err(error));
        }
        goes_on
    }

    /// The exchange that was gone stands again: those that wait for it may go.
    pub(super) fn exchange_is_back(&mut self, exchange: Exchange) {
        let fixed = [Stream::Calls, Stream::Broadcasts, Stream::Replies(exchange)];
        let queues: Vec<Stream> = self.queues.keys().cloned().collect();
        for stream in fixed.into_iter().chain(queues).filter(|stream| exchange_of(stream) == exchange) {
            self.close_stream(&stream);
        }
    }

    /// The call has ended with this error: if it has not gone out, it does not.
    pub(super) fn forget_call(&mut self, correlation: Uuid, error: Error) {
        if let Some(id) = self.calls.get(&correlation).copied() {
            self.finish(id, Err(error));
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant, away: &Away) {
        while let Some((at, id)) = self.due.first().copied() {
            if at > now {
                return;
            }
            self.due.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            // Guards: a sender that waits for ever, since what it sent is wanted without it.
            if entry.sender_until.take_if(|until| *until <= now).is_some()
                && let Some(published) = entry.take_sender()
            {
                let text = format!(
                    "{}: the broker at {} has not taken it over in time; whether it will is not known",
                    describe(entry),
                    self.broker
                );
                self.out.push(Act::Complete { published, outcome: Err(Error::new(ErrorKind::TimedOut, text)) });
            }
            if entry.until.is_some_and(|until| until <= now) {
                if entry.state == State::Handed {
                    entry.keep_key();
                }
                let text = if entry.may_have_arrived || entry.state == State::Handed {
                    format!(
                        "{}: the broker at {} did not take it over in time; whether it will is not known",
                        describe(entry),
                        self.broker
                    )
                } else if self.connected {
                    format!(
                        "{}: it was not sent, since what it needs at {} was not ready in time",
                        describe(entry),
                        self.broker
                    )
                } else {
                    format!(
                        "{}: it was not sent, since no connection to {} was ready in time{away}",
                        describe(entry),
                        self.broker
                    )
                };
                self.give_up(id, Error::new(ErrorKind::TimedOut, text));
            } else if entry.state == State::Pausing(at) {
                let stream = entry.stream.clone();
                self.wait_again(id);
                self.pump(&stream);
            }
        }
    }

    /// Gives up everything that has not come to its end, before the connection is closed.
    pub(super) fn give_up_all(&mut self, error: &Error) {
        let mut ids: Vec<PublishId> = self.entries.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            // Guards: the key of a task that the broker may have, or get.
            if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.state == State::Handed) {
                entry.keep_key();
            }
            self.finish(id, Err(error.clone()));
        }
    }

    /// The broker has a marker: now its task goes.
    fn key_taken(&mut self, id: PublishId) {
        let Some(Entry { kind: Kind::Marker(marked), message: marker, charge, until, sender_until, .. }) =
            self.take_out(id)
        else {
            return;
        };
        let marker_id = marker.properties.message_id.clone();
        let Marked { key, stream, message, correlation, published, since, .. } = *marked;
        if let (Stream::Tasks(queue), true) = (&stream, message.exchange.is_empty()) {
            // Guards: a delay queue that expires with what lies in it. Only a declaration counts as its use.
            self.close_stream_of(queue);
        }
        // Guards: the key of somebody who takes it when its time is over. That begins as the broker gets the marker, and not as its
        // confirmation is read here.
        let key = Some(TakenKey { marker: key.marker, id: marker_id, until: after(since, key.time) });
        self.send_request(stream, Kind::Task { correlation, published, key }, message, charge, until, sender_until);
    }

    fn take_out(&mut self, id: PublishId) -> Option<Entry<P>> {
        let entry = self.entries.remove(&id)?;
        self.aside -= usize::from(entry.aside == Aside::Yes);
        if matches!(entry.kind, Kind::GivenUp) {
            self.given_up.remove(&entry.place);
        }
        for at in [entry.until, entry.sender_until].into_iter().flatten() {
            self.due.remove(&(at, id));
        }
        if let State::Pausing(until) = entry.state {
            self.due.remove(&(until, id));
        }
        self.leave_stream(&entry, id);
        Some(entry)
    }

    /// Its time is over.
    fn give_up(&mut self, id: PublishId, error: Error) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.state == State::Handed) else {
            return self.finish(id, Err(error));
        };
        for at in [entry.until.take(), entry.sender_until.take()].into_iter().flatten() {
            self.due.remove(&(at, id));
        }
        let (kind, message) = (std::mem::replace(&mut entry.kind, Kind::GivenUp), Rc::clone(&entry.message));
        self.given_up.insert(entry.place, id);
        self.set_aside(id, Aside::Yes);
        self.end(kind, State::Handed, &message, Err(error));
    }

    fn finish(&mut self, id: PublishId, outcome: Result<()>) {
        let Some(entry) = self.take_out(id) else { return };
        self.out.push(Act::Release(entry.charge));
        if let Kind::Call { correlation, .. } = &entry.kind
            && self.calls.get(correlation) == Some(&id)
        {
            self.calls.remove(correlation);
        }
        let outcome = if entry.is_doubtful { outcome.map_err(sent_before) } else { outcome };
        self.end(entry.kind, entry.state, &entry.message, outcome);
    }

    /// What a message has come to, for whom it concerns.
    fn end(&mut self, kind: Kind<P>, state: State, message: &Message, outcome: Result<()>) {
        match kind {
            Kind::Call { correlation, recipient, published, .. } => {
                let outcome = outcome.map_err(|error| call_failed(&message.exchange, &recipient, error));
                self.requested(Some(correlation), published, outcome);
            }
            Kind::Task { correlation, published, key } => {
                if let (Err(_), Some(key)) = (&outcome, key) {
                    self.out.push(Act::FreeKey(key));
                }
                self.requested(correlation, published, outcome);
            }
            Kind::Marker(marked) => {
                let Marked { key, queue, correlation, published, .. } = *marked;
                let outcome = outcome.map_err(|error| match error.kind() {
                    ErrorKind::DeliveryFailed if *error.detail() == Detail::NotTaken => key.is_taken(&queue),
                    ErrorKind::DeliveryFailed
                    | ErrorKind::ConnectionLost
                    | ErrorKind::TimedOut
                    | ErrorKind::CommunicatorClosed
                        if state == State::Handed =>
                    {
                        key.may_be_taken(&queue, error)
                    }
                    _ => error,
                });
                self.requested(correlation, published, outcome);
            }
            Kind::Broadcast { published } => self.out.push(Act::Complete { published, outcome }),
            Kind::Reply { stage, correlation, late, sent } => {
                if let Some(published) = sent {
                    self.out.push(Act::Complete { published, outcome: outcome.clone() });
                }
                self.replied(stage, correlation, late, outcome);
            }
            Kind::Notice => {
                if let Err(error) = outcome {
                    crate::log::debug!(%error, "a notice to a peer could not be sent");
                }
            }
            Kind::Probe(bound) => {
                if let Err(error) = outcome
                    && matches!(error.kind(), ErrorKind::Unroutable | ErrorKind::NotFound)
                {
                    self.out.push(Act::BindingGone { bound, error });
                }
            }
            Kind::Copy(copy) => {
                let known = match outcome {
                    Ok(()) => Known::Yes,
                    Err(error) if error.kind() == ErrorKind::DeliveryFailed => Known::Unknown,
                    Err(error) => {
                        crate::log::debug!(%error, "a copy of a task could not be sent");
                        Known::No
                    }
                };
                self.out.push(Act::Copied { copy, known });
            }
            Kind::GivenUp => {}
        }
    }

    fn leave_stream(&mut self, entry: &Entry<P>, id: PublishId) {
        let state = self.stream(&entry.stream);
        if entry.state == State::Waiting {
            state.waiting.remove(&id);
        }
        state.messages -= 1;
        if state.messages > 0 {
            return;
        }
        state.wanted = None;
        // Guards: a stream that is opened twice at once. One that is being opened goes when it is known what has come of that.
        let is_opening = matches!(state.open, Open::Opening { .. });
        if !is_opening
            && (matches!(entry.kind, Kind::Marker(_) | Kind::GivenUp) || self.queues.len() > IDLE_STREAMS_MOST)
        {
            // Declared again with its next message.
            self.queues.remove(&entry.stream);
        }
    }

    fn requested(&mut self, correlation: Option<Uuid>, published: Option<P>, outcome: Result<()>) {
        if let (Some(correlation), Err(error)) = (correlation, &outcome) {
            self.out.push(Act::Fail { correlation, error: error.clone() });
        }
        if let Some(published) = published {
            self.out.push(Act::Complete { published, outcome });
        }
    }

    fn replied(&mut self, stage: ReplyStage, correlation: Option<Arc<str>>, late: Option<Late>, outcome: Result<()>) {
        match outcome {
            Ok(()) => {}
            // Its caller may have timed out long ago. The search for it ends with the communicator, which is no fault.
            Err(error) if late.is_some() && error.kind() == ErrorKind::CommunicatorClosed => {
                self.out.push(Act::ReplyUndeliverable);
                crate::log::info!("a reply was dropped at the end: its caller had not been found");
            }
            Err(error) if error.kind() == ErrorKind::Unroutable => {
                self.out.push(Act::ReplyUndeliverable);
                if let (ReplyStage::Pending, Some(correlation)) = (stage, correlation) {
                    self.out.push(Act::CallerGone(correlation));
                } else {
                    crate::log::info!("a reply was dropped: its caller is gone");
                }
            }
            Err(error) => crate::log::warn!(%error, "a reply could not be sent"),
        }
    }
}

/// Whether this shows that the broker has read the message, and with it what was handed over before.
fn is_read(outcome: &Result<()>) -> bool {
    outcome.as_ref().err().is_none_or(|error| match error.kind() {
        ErrorKind::Unroutable => true,
        ErrorKind::DeliveryFailed => *error.detail() == Detail::NotTaken,
        _ => false,
    })
}

/// For errors.
fn describe<P>(entry: &Entry<P>) -> String {
    match (&entry.kind, &entry.stream) {
        (Kind::Call { recipient, .. }, _) => format!("the call to {:?}", recipient.as_str()),
        (Kind::Marker(marked), _) => format!("the key of a task for the queue {:?}", marked.queue),
        (_, Stream::Tasks(queue)) => format!("a task for the queue {queue:?}"),
        (Kind::Broadcast { .. }, _) => "a broadcast".to_owned(),
        (Kind::Reply { .. }, _) => "a reply".to_owned(),
        _ => "a message".to_owned(),
    }
}

fn not_sent() -> Error {
    Error::new(ErrorKind::ConnectionLost, "it was not sent: the connection was lost before")
}

fn lost_under_way() -> Error {
    Error::new(ErrorKind::ConnectionLost, "the message was with the broker when the connection was lost")
}

fn unknown(what: &str) -> Error {
    Error::new(ErrorKind::DeliveryFailed, format!("{what}; whether it arrived is not known"))
}

/// Guards: a sender that takes the failure of a later try for the end of its message, and sends that anew.
fn sent_before(error: Error) -> Error {
    match error.kind() {
        // They say so, but for what the broker has certainly not taken this time.
        ErrorKind::DeliveryFailed | ErrorKind::TimedOut if *error.detail() != Detail::NotTaken => error,
        kind => {
            let text = format!(
                "it was with the broker when an earlier connection was lost, and whether it arrived is not known: {error}"
            );
            Error::with_source(kind, text, error)
        }
    }
}

fn call_failed(exchange: &str, recipient: &Identifier, error: Error) -> Error {
    let recipient = recipient.as_str();
    match error.kind() {
        ErrorKind::Unroutable => Error::with_source(
            ErrorKind::Unroutable,
            format!(
                "nobody listens for calls to {recipient:?} on the exchange {exchange:?}; check the name, the prefix and \
                 whether its program runs"
            ),
            error,
        ),
        ErrorKind::ConnectionLost => Error::with_source(
            ErrorKind::ConnectionLost,
            format!(
                "the call to {recipient:?}: connection lost, delivery unknown ({error}); it may have been done, so it is not \
                 sent again unless it is marked `idempotent`"
            ),
            error,
        ),
        _ => error,
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;
