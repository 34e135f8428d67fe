//! The requests that wait for a reply: by correlation id, each with its deadline.
//!
//! A request stays here until its caller says to forget it, or its deadline passes; so that a reply which comes between a
//! `pending` and the caller's asking for the next one is kept for it.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::broker::Body;
use crate::communicator::command::{Expected, Patience, RawReply, ReplyExchange, What};
use crate::communicator::names::Identifier;
use crate::error::{Error, ErrorKind};
use crate::home::Completer;

/// How many replies to one request are kept for a caller that has not asked for them. A peer that sends more is broken.
const KEPT_MAX: usize = 64;

/// How often a wait without a deadline is reported.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Ids that are drawn at random here need no mixing.
type ById = BuildHasherDefault<DrawnAtRandom>;

#[derive(Default)]
pub(super) struct DrawnAtRandom(u64);

impl Hasher for DrawnAtRandom {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut eight = [0; 8];
            eight[..part.len()].copy_from_slice(part);
            self.0 ^= u64::from_le_bytes(eight);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
pub(super) struct Requests {
    waiting: HashMap<Uuid, Request, ById>,
    /// The instant at which a request is looked at. Exactly one entry a request, never later than it wants attention; where that
    /// has moved on, the entry follows when its time comes.
    deadlines: BTreeSet<(Instant, Uuid)>,
    /// Why all of them ended, for a caller that asks for its next answer only then.
    all_ended: Option<Error>,
}

struct Request {
    /// Where its reply comes to, from when that is known.
    reply_to: Option<(ReplyExchange, Rc<str>)>,
    /// Dropped with it, which whoever waits to publish it sees.
    wanted: Vec<oneshot::Sender<Never>>,
    what: What,
    /// `None` while the caller looks at a reply.
    reply: Option<Completer<RawReply>>,
    kept: VecDeque<Body>,
    patience: Patience,
    since: Instant,
    /// When it wants attention, and when it is looked at next: the former may have moved on.
    attention: Instant,
    looked_at: Instant,
}

/// Never sent.
pub(super) enum Never {}

/// Ends when a request does, in whatever way.
pub(super) type Unwanted = oneshot::Receiver<Never>;

/// A request that nobody waits for any more.
pub(super) struct Done {
    /// How many replies had come that were not read.
    pub unread: usize,
    pub recipient: Option<Identifier>,
}

impl What {
    /// Of a call, so that it can be told when its caller is gone.
    fn recipient(self) -> Option<Identifier> {
        match self {
            What::Call(recipient) => Some(recipient),
            What::Task(_) => None,
        }
    }
}

impl Patience {
    fn attention(self, now: Instant) -> Instant {
        now + match self {
            Patience::For(time) => time,
            Patience::ForEver => REPORT_EVERY,
        }
    }
}

impl Requests {
    pub(super) fn add(&mut self, what: What, expected: Expected) {
        let now = Instant::now();
        let attention = expected.patience.attention(now);
        self.deadlines.insert((attention, expected.correlation));
        let request = Request {
            reply_to: None,
            wanted: Vec::new(),
            what,
            reply: Some(expected.reply),
            kept: VecDeque::new(),
            patience: expected.patience,
            since: now,
            attention,
            looked_at: attention,
        };
        self.waiting.insert(expected.correlation, request);
    }

    /// Ends when the request does; `None` when it has ended.
    pub(super) fn unwanted(&mut self, correlation: Uuid) -> Option<Unwanted> {
        let request = self.waiting.get_mut(&correlation)?;
        let (wanted, unwanted) = oneshot::channel();
        request.wanted.retain(|wanted| !wanted.is_closed());
        request.wanted.push(wanted);
        Some(unwanted)
    }

    /// Its reply will come to this queue. False when it has ended.
    pub(super) fn replies_to(&mut self, correlation: Uuid, exchange: ReplyExchange, queue: &Rc<str>) -> bool {
        let request = self.waiting.get_mut(&correlation);
        request.map(|request| request.reply_to = Some((exchange, Rc::clone(queue)))).is_some()
    }

    /// The queues that requests under way are answered to.
    pub(super) fn reply_queues(&self) -> HashSet<(ReplyExchange, Rc<str>)> {
        self.waiting.values().filter_map(|request| request.reply_to.clone()).collect()
    }

    /// The requests that are answered to this queue.
    pub(super) fn answered_to(&self, queue: &str) -> Vec<Uuid> {
        let is_there = |request: &Request| request.reply_to.as_ref().is_some_and(|(_, name)| &**name == queue);
        self.waiting.iter().filter(|(_, request)| is_there(request)).map(|(id, _)| *id).collect()
    }

    /// True while some request is answered to this queue.
    pub(super) fn are_answered_to(&self, queue: &str) -> bool {
        self.waiting.values().any(|request| request.reply_to.as_ref().is_some_and(|(_, name)| &**name == queue))
    }

    /// A reply has come. False when nobody waits for it.
    pub(super) fn reply(&mut self, correlation: Uuid, body: Body) -> bool {
        let Some(request) = self.waiting.get_mut(&correlation) else { return false };
        // Each reply gives the next one the same time again.
        request.attention = request.patience.attention(Instant::now());
        match request.reply.take() {
            Some(reply) => {
                // A home that has ended hands the bytes back, and they are dropped here.
                drop(reply.complete(Ok(body)));
                true
            }
            None if request.kept.len() < KEPT_MAX => {
                request.kept.push_back(body);
                true
            }
            None => false,
        }
    }

    /// The caller saw `pending` and waits again.
    pub(super) fn next(&mut self, correlation: Uuid, reply: Completer<RawReply>) {
        let answer = match self.waiting.get_mut(&correlation) {
            Some(request) => match request.kept.pop_front() {
                Some(body) => Ok(body),
                None => {
                    request.reply = Some(reply);
                    return;
                }
            },
            None => Err(self.all_ended.clone().unwrap_or_else(|| {
                Error::new(
                    ErrorKind::TimedOut,
                    "the answer after `pending` was asked for too late: its time had passed",
                )
            })),
        };
        drop(reply.complete(answer));
    }

    /// Ends a request with an error, if it still waits.
    pub(super) fn fail(&mut self, correlation: Uuid, error: Error) {
        if let Some(reply) = self.forget(correlation).and_then(|request| request.reply) {
            drop(reply.complete(Err(error)));
        }
    }

    /// Ends all of them. Returns how many there were, and the calls among them.
    pub(super) fn fail_all(&mut self, error: &Error) -> (usize, Vec<(Identifier, Uuid)>) {
        self.deadlines.clear();
        self.all_ended = Some(error.clone());
        let requests = std::mem::take(&mut self.waiting);
        let count = requests.len();
        let mut calls = Vec::new();
        for (correlation, request) in requests {
            if let Some(reply) = request.reply {
                drop(reply.complete(Err(error.clone())));
            }
            if let What::Call(recipient) = request.what {
                calls.push((recipient, correlation));
            }
        }
        (count, calls)
    }

    /// The caller has what it wants, or is gone. `None` when the request had ended before.
    pub(super) fn done(&mut self, correlation: Uuid) -> Option<Done> {
        self.forget(correlation).map(|request| Done { unread: request.kept.len(), recipient: request.what.recipient() })
    }

    fn forget(&mut self, correlation: Uuid) -> Option<Request> {
        let request = self.waiting.remove(&correlation)?;
        self.deadlines.remove(&(request.looked_at, correlation));
        Some(request)
    }

    /// When the next one wants attention.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends those whose time has passed, and reports those that wait without a deadline. Returns the calls among the former.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Identifier, Uuid)> {
        let mut given_up = Vec::new();
        while let Some((at, correlation)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            let Some(request) = self.waiting.get_mut(&correlation) else {
                self.deadlines.pop_first();
                continue;
            };
            if request.attention > now {
                self.deadlines.pop_first();
                request.looked_at = request.attention;
                self.deadlines.insert((request.looked_at, correlation));
                continue;
            }
            match request.patience {
                Patience::For(time) => {
                    let error = Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "{} was not answered within {time:?}; the other end may be busy, blocked or gone (or the broker \
                             is, which an event says)",
                            request.what
                        ),
                    );
                    given_up.extend(request.what.clone().recipient().map(|recipient| (recipient, correlation)));
                    self.fail(correlation, error);
                }
                Patience::ForEver => {
                    tracing::warn!(what = %request.what, waited = ?(now - request.since), "still waiting for an answer");
                    self.deadlines.pop_first();
                    request.attention = now + REPORT_EVERY;
                    request.looked_at = request.attention;
                    self.deadlines.insert((request.looked_at, correlation));
                }
            }
        }
        given_up
    }
}
