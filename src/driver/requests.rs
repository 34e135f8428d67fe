//! The requests that wait for a reply: by correlation id, each with its deadline.
//!
//! A request stays here until its caller says to forget it, or its deadline passes; so that a reply which comes between a
//! `pending` and the caller's asking for the next one is kept for it.
//!
//! The table is a value: it has no clock and completes nobody. What is to be completed comes out of each call. `R` stands
//! for the way to the caller, so that the models can use a small one.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::command::{Subject, Timeout};
use super::deadlines::Deadlines;
use super::port::REPORT_EVERY;
use crate::broker::Body;
use crate::time::after;
use crate::wire::names::{Exchange, Identifier};

/// How many replies to one request are kept for a caller that has not asked for them. A peer that sends more is broken.
const KEPT_MOST: usize = 64;

/// And of how many bytes, the oldest and the newest of them apart: a `pending` has some tens.
const KEPT_BYTES: usize = 1 << 20;

/// Ids that are drawn at random need no mixing.
pub(super) type ById = BuildHasherDefault<DrawnAtRandom>;

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

    fn write_u64(&mut self, number: u64) {
        self.0 ^= number;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

pub(super) struct Requests<R> {
    waiting: HashMap<Uuid, Request<R>, ById>,
    /// The instant at which a request is checked. Exactly one entry a request, never later than it wants attention; where that
    /// has moved on, the entry follows when its time comes.
    deadlines: Deadlines<Uuid>,
}

struct Request<R> {
    /// Where its reply comes to, from when that is known.
    reply_to: Option<(Exchange, Arc<str>)>,
    subject: Subject,
    state: State<R>,
    timeout: Timeout,
    since: Instant,
    /// When it wants attention, and when it is checked next: the former may have moved on.
    attention: Instant,
    checked_at: Instant,
}

/// Who waits for whom.
enum State<R> {
    /// The caller waits for a reply.
    Waiting(R),
    /// The caller reads a reply. What came meanwhile is kept.
    Reading(VecDeque<Body>),
}

/// A request that has ended.
pub(super) struct Ended<R> {
    pub(super) correlation: Uuid,
    pub(super) subject: Subject,
    /// Whom to complete, if somebody waits just now.
    pub(super) reply: Option<R>,
    /// How many replies had come that were not read.
    pub(super) unread: usize,
}

impl<R> Ended<R> {
    /// Of a call, so that its recipient can be notified when its caller is gone.
    pub(super) fn recipient(&self) -> Option<&Identifier> {
        match &self.subject {
            Subject::Call(recipient) => Some(recipient),
            Subject::Task(_) => None,
        }
    }
}

/// What becomes of a reply.
pub(super) enum Arrived<R> {
    /// It completes this caller.
    For(R, Body),
    /// It is kept until the caller asks for it. Those that are pushed out are counted.
    Kept { pushed_out: usize },
    /// Nobody waits for it.
    NotWanted,
}

/// What becomes of a caller that asks for the next reply.
pub(super) enum Next<R> {
    /// It is completed at once.
    Kept(R, Body),
    Waits,
    /// Its request has ended.
    Ended(R),
}

/// A wait without a deadline that is to be reported.
pub(super) struct LongWait {
    pub(super) subject: Subject,
    pub(super) waited: Duration,
}

/// What is due.
pub(super) struct Due<R> {
    /// Their time has passed.
    pub(super) expired: Vec<(Ended<R>, Duration)>,
    pub(super) long_waits: Vec<LongWait>,
}

impl Timeout {
    fn attention(self, now: Instant) -> Instant {
        match self {
            Timeout::After(time) => after(now, time),
            Timeout::Never => after(now, REPORT_EVERY),
        }
    }
}

impl<R> Default for Requests<R> {
    fn default() -> Self {
        Requests { waiting: HashMap::default(), deadlines: Deadlines::default() }
    }
}

impl<R> Requests<R> {
    /// Adds a request whose first reply is due then.
    pub(super) fn add(
        &mut self,
        correlation: Uuid,
        subject: Subject,
        reply: R,
        timeout: Timeout,
        due: Option<Instant>,
        now: Instant,
    ) {
        let attention = due.unwrap_or_else(|| timeout.attention(now));
        self.deadlines.insert((attention, correlation));
        let request = Request {
            reply_to: None,
            subject,
            state: State::Waiting(reply),
            timeout,
            since: now,
            attention,
            checked_at: attention,
        };
        self.waiting.insert(correlation, request);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Its reply will come to this queue.
    pub(super) fn replies_to(&mut self, correlation: Uuid, exchange: Exchange, queue: &Arc<str>) {
        if let Some(request) = self.waiting.get_mut(&correlation) {
            request.reply_to = Some((exchange, Arc::clone(queue)));
        }
    }

    /// The queues that requests under way are answered to.
    pub(super) fn reply_queues(&self) -> BTreeSet<(Exchange, Arc<str>)> {
        self.waiting.values().filter_map(|request| request.reply_to.clone()).collect()
    }

    /// The requests that are answered to this queue, in the order of their ids.
    pub(super) fn answered_to(&self, queue: &str) -> Vec<Uuid> {
        let is_there = |request: &Request<R>| request.reply_to.as_ref().is_some_and(|(_, name)| &**name == queue);
        let mut ids: Vec<Uuid> =
            self.waiting.iter().filter(|(_, request)| is_there(request)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// A reply has come.
    pub(super) fn reply(&mut self, correlation: Uuid, body: Body, now: Instant) -> Arrived<R> {
        let Some(request) = self.waiting.get_mut(&correlation) else { return Arrived::NotWanted };
        // Each reply gives the next one the same time again.
        request.attention = request.timeout.attention(now);
        match &mut request.state {
            State::Waiting(_) => {
                let reading = State::Reading(VecDeque::new());
                match std::mem::replace(&mut request.state, reading) {
                    State::Waiting(reply) => Arrived::For(reply, body),
                    State::Reading(_) => Arrived::NotWanted,
                }
            }
            State::Reading(kept) => {
                // The outcome is the last of a good peer's replies and may be the first of a broken peer's: those in the
                // middle go.
                let before = kept.len();
                while kept.len() >= KEPT_MOST || kept.iter().skip(1).map(Body::size).sum::<usize>() > KEPT_BYTES {
                    kept.remove(kept.len() / 2);
                }
                let pushed_out = before - kept.len();
                kept.push_back(body);
                Arrived::Kept { pushed_out }
            }
        }
    }

    /// The caller saw `pending` and waits again.
    pub(super) fn next(&mut self, correlation: Uuid, reply: R) -> Next<R> {
        let Some(request) = self.waiting.get_mut(&correlation) else { return Next::Ended(reply) };
        if let State::Reading(kept) = &mut request.state
            && let Some(body) = kept.pop_front()
        {
            return Next::Kept(reply, body);
        }
        request.state = State::Waiting(reply);
        Next::Waits
    }

    /// Ends a request, if it has not ended.
    pub(super) fn end(&mut self, correlation: Uuid) -> Option<Ended<R>> {
        let request = self.waiting.remove(&correlation)?;
        self.deadlines.remove(&(request.checked_at, correlation));
        let (reply, unread) = match request.state {
            State::Waiting(reply) => (Some(reply), 0),
            State::Reading(kept) => (None, kept.len()),
        };
        Some(Ended { correlation, subject: request.subject, reply, unread })
    }

    /// Ends all of them, in the order of their deadlines.
    pub(super) fn end_all(&mut self) -> Vec<Ended<R>> {
        let all: Vec<Uuid> = self.deadlines.iter().map(|(_, correlation)| *correlation).collect();
        all.into_iter().filter_map(|correlation| self.end(correlation)).collect()
    }

    /// When the next one wants attention.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Ends those whose time has passed, and names those that wait without a deadline for another minute.
    pub(super) fn due(&mut self, now: Instant) -> Due<R> {
        let mut due = Due { expired: Vec::new(), long_waits: Vec::new() };
        while let Some((at, correlation)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            let Some(request) = self.waiting.get_mut(&correlation) else { continue };
            if request.attention <= now {
                match request.timeout {
                    Timeout::After(time) => {
                        due.expired.extend(self.end(correlation).map(|ended| (ended, time)));
                        continue;
                    }
                    Timeout::Never => {
                        let waited = now.saturating_duration_since(request.since);
                        due.long_waits.push(LongWait { subject: request.subject.clone(), waited });
                        request.attention = after(now, REPORT_EVERY);
                    }
                }
            }
            request.checked_at = request.attention;
            self.deadlines.insert((request.checked_at, correlation));
        }
        due
    }
}

#[cfg(test)]
mod explore;
