//! The requests that wait for a reply: by correlation id, each with its deadline.
//!
//! A request stays here until its caller says to forget it, or its deadline passes; so that a reply which comes between a
//! `pending` and the caller's asking for the next one is kept for it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::broker::Body;
use crate::communicator::command::{Expected, Patience, RawReply};
use crate::error::{Error, ErrorKind};
use crate::home::Completer;

/// How many replies to one request are kept for a caller that has not asked for them. A peer that sends more is broken.
const KEPT_MAX: usize = 64;

/// How often a wait without a deadline is reported.
const REPORT_EVERY: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Requests {
    waiting: HashMap<Uuid, Request>,
    /// The instant at which a request wants attention. Exactly one entry a request.
    deadlines: BTreeSet<(Instant, Uuid)>,
}

struct Request {
    /// What was asked of whom, for errors.
    what: String,
    /// `None` while the caller looks at a reply.
    reply: Option<Completer<RawReply>>,
    kept: VecDeque<Body>,
    patience: Patience,
    since: Instant,
    attention: Instant,
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
    pub(super) fn add(&mut self, what: String, expected: Expected) {
        let now = Instant::now();
        let attention = expected.patience.attention(now);
        self.deadlines.insert((attention, expected.correlation));
        let request = Request {
            what,
            reply: Some(expected.reply),
            kept: VecDeque::new(),
            patience: expected.patience,
            since: now,
            attention,
        };
        self.waiting.insert(expected.correlation, request);
    }

    /// A reply has come. False when nobody waits for it.
    pub(super) fn reply(&mut self, correlation: Uuid, body: Body) -> bool {
        let Some(request) = self.waiting.get_mut(&correlation) else { return false };
        // Each reply gives the next one the same time again.
        self.deadlines.remove(&(request.attention, correlation));
        request.attention = request.patience.attention(Instant::now());
        self.deadlines.insert((request.attention, correlation));
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
            None => Err(Error::new(
                ErrorKind::TimedOut,
                "the answer after `pending` was asked for too late: its time had passed",
            )),
        };
        drop(reply.complete(answer));
    }

    /// Ends a request with an error, if it still waits.
    pub(super) fn fail(&mut self, correlation: Uuid, error: Error) {
        if let Some(reply) = self.forget(correlation).and_then(|request| request.reply) {
            drop(reply.complete(Err(error)));
        }
    }

    /// Ends all of them. Returns how many there were.
    pub(super) fn fail_all(&mut self, error: &Error) -> usize {
        self.deadlines.clear();
        let requests = std::mem::take(&mut self.waiting);
        let count = requests.len();
        for request in requests.into_values() {
            if let Some(reply) = request.reply {
                drop(reply.complete(Err(error.clone())));
            }
        }
        count
    }

    /// The caller has what it wants, or is gone. Returns how many replies were kept that nobody wants any more.
    pub(super) fn done(&mut self, correlation: Uuid) -> usize {
        self.forget(correlation).map_or(0, |request| request.kept.len())
    }

    fn forget(&mut self, correlation: Uuid) -> Option<Request> {
        let request = self.waiting.remove(&correlation)?;
        self.deadlines.remove(&(request.attention, correlation));
        Some(request)
    }

    /// When the next one wants attention.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends those whose time has passed, and reports those that wait without a deadline.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((at, correlation)) = self.deadlines.first().copied() {
            if at > now {
                return;
            }
            let Some(request) = self.waiting.get_mut(&correlation) else {
                self.deadlines.pop_first();
                continue;
            };
            match request.patience {
                Patience::For(time) => {
                    let error = Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "{} was not answered within {time:?}; the other end may be busy, blocked or gone (or the broker \
                             takes no messages for now, which an event says)",
                            request.what
                        ),
                    );
                    self.fail(correlation, error);
                }
                Patience::ForEver => {
                    tracing::warn!(what = request.what, waited = ?(now - request.since), "still waiting for an answer");
                    self.deadlines.pop_first();
                    request.attention = now + REPORT_EVERY;
                    self.deadlines.insert((request.attention, correlation));
                }
            }
        }
    }
}
