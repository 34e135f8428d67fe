//! The engine with what it leaves to others: a lock, a clock, and where the events of each session go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant as StdInstant;

use crate::home::lock::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use homing_broker::engine::{Published, Refusal, SessionId};

use super::content::Content;
use super::lanes::{self, Lanes};
use super::refusal;
#[cfg(test)]
use crate::broker::BrokerEvent;
use crate::broker::{EventSender, PublishId, Routing};
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::home::ByProcess;

/// The named brokers of this process, but for those that are spent. Locked before the state of any.
static NAMED: ByProcess<Mutex<BTreeMap<String, Arc<Node>>>> = ByProcess::new();

pub(super) struct Node {
    name: Option<String>,
    /// The process that it serves. A child of a fork has a copy, whose lock may stay locked for ever.
    process: u32,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) lanes: Lanes,
    links: BTreeMap<SessionId, Link>,
    /// Why no messages are taken just now.
    blocked: Option<String>,
    /// The messages that wait until they are, in order.
    held: VecDeque<Held>,
    /// Nobody can connect.
    down: bool,
    /// A test has bounded it.
    #[cfg(test)]
    bounded: bool,
    /// When the timer that is on duty will ring.
    armed: Option<Instant>,
}

/// How a session is reached.
struct Link {
    events: EventSender,
    /// Wakes its timer; `None` once that has ended.
    timer: Option<Arc<Notify>>,
}

#[cfg_attr(not(test), expect(dead_code, reason = "only tests block a broker in the process"))]
struct Held {
    session: SessionId,
    content: Content,
    routing: Routing,
    id: PublishId,
}

impl Node {
    pub(super) fn new(name: Option<&str>) -> Arc<Self> {
        let state = State {
            lanes: Lanes::new(Instant::now().into_std()),
            links: BTreeMap::new(),
            blocked: None,
            held: VecDeque::new(),
            down: false,
            #[cfg(test)]
            bounded: false,
            armed: None,
        };
        Arc::new(Node { name: name.map(str::to_owned), process: std::process::id(), state: Mutex::new(state) })
    }

    /// The broker of this name, for tests that put faults into it.
    #[cfg(test)]
    pub(super) fn named(name: &str) -> Arc<Self> {
        NAMED.here().lock().entry(name.to_owned()).or_insert_with(|| Node::new(Some(name))).clone()
    }

    #[cfg(test)]
    pub(super) fn is_kept(name: &str) -> bool {
        NAMED.here().lock().contains_key(name)
    }

    /// Connects to the broker of this name, which is made if it is not there.
    pub(super) fn connect_to(name: &str, events: EventSender) -> Result<(Arc<Self>, SessionId)> {
        // Guards: one that is found must not be forgotten as spent before it is connected to, or there would be two of a name.
        let mut named = NAMED.here().lock();
        named.retain(|known, node| known == name || !node.is_spent());
        let node = named.entry(name.to_owned()).or_insert_with(|| Node::new(Some(name)));
        let session = node.connect(events)?;
        Ok((Arc::clone(node), session))
    }

    /// True in a child of a fork, which drops what it has of it and nothing more.
    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    /// True where nobody would miss it.
    fn is_spent(&self) -> bool {
        self.locked(|state, now| {
            if !state.links.is_empty() || state.down || state.blocked.is_some() {
                return false;
            }
            // Guards: another test that connects before the one that has bounded it does. It would get one without a bound.
            #[cfg(test)]
            if state.bounded {
                return false;
            }
            // Nobody sees to what is over where nobody is connected.
            state.lanes.advance(now);
            state.lanes.is_spent()
        })
    }

    /// Asks the engine something that a session may be refused.
    pub(super) fn ask<T>(&self, question: impl FnOnce(&mut Lanes, StdInstant) -> Result<T, Refusal>) -> Result<T> {
        self.locked(|state, now| question(&mut state.lanes, now)).map_err(refusal::into_error)
    }

    /// Does something under the lock and sends what comes of it. What the engine lets go of is dropped after the lock: a
    /// message may be large.
    pub(super) fn locked<T>(&self, work: impl FnOnce(&mut State, StdInstant) -> T) -> T {
        let mut state = self.state.lock();
        // Under the lock, so that time does not go backwards.
        let now = Instant::now().into_std();
        let done = work(&mut state, now);
        state.send();
        state.ring();
        let released = state.lanes.released();
        // Mostly there is one, which is moved without memory of its own.
        let one = released.pop();
        let others = if released.is_empty() { Vec::new() } else { std::mem::take(released) };
        drop(state);
        drop((one, others));
        done
    }

    pub(super) fn connect(&self, events: EventSender) -> Result<SessionId> {
        self.locked(|state, now| {
            if state.down {
                return Err(Error::new(ErrorKind::Connection, "no broker answers at memory: just now"));
            }
            let session = state.lanes.connect(now);
            state.links.insert(session, Link { events, timer: None });
            Ok(session)
        })
    }

    /// The end of a connection, in order or not.
    pub(super) fn disconnect(&self, session: SessionId) {
        if self.is_inherited() {
            return;
        }
        let spent = self.locked(|state, now| state.disconnect(session, now) && state.lanes.is_spent());
        if let Some(name) = self.name.as_ref().filter(|_| spent) {
            let mut named = NAMED.here().lock();
            // Guards: somebody may have connected since, or it may have been forgotten and made anew.
            if named.get(name).is_some_and(|known| std::ptr::eq(&raw const **known, self) && known.is_spent()) {
                named.remove(name);
            }
        }
    }

    /// The outcome, if the broker takes messages now. Otherwise it comes as an event, unless the session ends first.
    pub(super) fn publish(
        &self,
        session: SessionId,
        id: PublishId,
        content: Content,
        routing: Routing,
    ) -> Option<Result<()>> {
        self.locked(|state, now| {
            if state.blocked.is_none() {
                return Some(publish(&mut state.lanes, session, content, routing, now));
            }
            if !state.links.contains_key(&session) {
                return Some(Err(lost()));
            }
            state.held.push_back(Held { session, content, routing, id });
            None
        })
    }

    /// A session's timer has begun.
    pub(super) fn add_timer(&self, session: SessionId, timer: &Arc<Notify>) {
        self.locked(|state, _| {
            if let Some(link) = state.links.get_mut(&session) {
                link.timer = Some(Arc::clone(timer));
            }
        });
    }

    /// A session's timer has ended, perhaps with its runtime, before the session.
    pub(super) fn timer_gone(&self, session: SessionId) {
        if self.is_inherited() {
            return;
        }
        self.locked(|state, _| {
            if let Some(link) = state.links.get_mut(&session) {
                link.timer = None;
            }
            // Another one takes over.
            state.armed = None;
        });
    }

    /// A session's timer asks when it is to ring next, after what is over has gone. `None` for all but the one on duty.
    pub(super) fn next_ring(&self, session: SessionId) -> Option<Instant> {
        self.locked(|state, now| {
            if state.on_duty().is_none_or(|(on_duty, _)| on_duty != session) {
                return None;
            }
            state.lanes.advance(now);
            state.armed = state.lanes.next_deadline().map(Instant::from_std);
            state.armed
        })
    }

    #[cfg(test)]
    pub(super) fn hold_at_most(&self, bytes: usize) {
        self.locked(|state, now| {
            state.lanes = Lanes::holding_at_most(bytes, now);
            state.bounded = true;
        });
    }

    #[cfg(test)]
    pub(super) fn set_down(&self, down: bool) {
        self.locked(|state, _| state.down = down);
    }

    #[cfg(test)]
    pub(super) fn lose_connections(&self) {
        self.locked(|state, now| {
            for session in state.lanes.sessions() {
                if let Some(link) = state.links.get(&session) {
                    let _ = link.events.send(BrokerEvent::Lost { error: lost() });
                }
                state.disconnect(session, now);
            }
        });
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.locked(|state, _| state.held.len())
    }

    #[cfg(test)]
    pub(super) fn set_blocked(&self, reason: Option<&str>) {
        self.locked(|state, now| {
            state.blocked = reason.map(str::to_owned);
            for link in state.links.values() {
                let event = match reason {
                    Some(reason) => BrokerEvent::Blocked { reason: reason.to_owned() },
                    None => BrokerEvent::Unblocked,
                };
                let _ = link.events.send(event);
            }
            if reason.is_none() {
                for Held { session, content, routing, id } in std::mem::take(&mut state.held) {
                    let outcome = publish(&mut state.lanes, session, content, routing, now);
                    if let Some(link) = state.links.get(&session) {
                        let _ = link.events.send(BrokerEvent::Published { id, outcome });
                    }
                }
            }
        });
    }
}

impl State {
    /// True when the session was there.
    fn disconnect(&mut self, session: SessionId, now: StdInstant) -> bool {
        // First, so that it gets no event of its own end.
        let was_there = self.links.remove(&session).is_some();
        self.lanes.disconnect(session, now);
        self.held.retain(|held| held.session != session);
        // Its timer may have been the one on duty.
        self.armed = None;
        was_there
    }

    /// Sends what the engine wants sent. Sending never waits and runs nothing but a waker, so it may be done under the lock,
    /// which keeps the order.
    fn send(&mut self) {
        for (session, event) in self.lanes.events() {
            if let Some(link) = self.links.get(&session) {
                // A session that is being dropped does not receive any more.
                let _ = link.events.send(event);
            }
        }
    }

    /// The session whose timer sees to the deadlines: the oldest.
    fn on_duty(&self) -> Option<(SessionId, &Arc<Notify>)> {
        self.links.iter().find_map(|(session, link)| Some((*session, link.timer.as_ref()?)))
    }

    /// Wakes the timer where it would ring too late.
    fn ring(&mut self) {
        let Some(next) = self.lanes.next_deadline().map(Instant::from_std) else { return };
        if self.armed.is_none_or(|armed| next < armed)
            && let Some((_, timer)) = self.on_duty()
        {
            timer.notify_one();
            self.armed = Some(next);
        }
    }
}

fn publish(lanes: &mut Lanes, session: SessionId, content: Content, routing: Routing, now: StdInstant) -> Result<()> {
    match lanes.publish(session, content, now).map_err(refusal::into_error)? {
        Published::Unroutable(content) if routing == Routing::Mandatory => {
            let (exchange, key) = lanes::address(&content);
            Err(Error::new(
                ErrorKind::Unroutable,
                format!("no queue is bound to the exchange {exchange:?} for the routing key {key:?}"),
            ))
        }
        Published::Rejected => {
            Err(Error::with_detail(ErrorKind::DeliveryFailed, "a full queue refused the message", Detail::NotTaken))
        }
        Published::Routed { .. } | Published::Unroutable(_) => Ok(()),
    }
}

pub(super) fn lost() -> Error {
    refusal::into_error(Refusal::NoSession)
}
