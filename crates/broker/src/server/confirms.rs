//! The confirms of one channel: which publishes are safe, and which of them the client knows about.

use super::{journal::Mark, peer::Peer};
use crate::protocol::methods::basic;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Confirms are sent in the order of the publishes, as few as possible: one for all that became safe together.
#[derive(Debug)]
pub(super) struct Confirms {
    channel: u16,
    peer: Rc<Peer>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last publish.
    last: u64,
    /// Up to here all are confirmed or will be with the next [`flush`](Confirms::flush).
    ready: u64,
    /// Up to here the client knows.
    sent: u64,
    /// What is not ready, in order.
    waiting: VecDeque<Waiting>,
    /// The channel is closed: nothing more is sent.
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    answer: Answer,
    outcome: Outcome,
}

/// What the client gets.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// The confirm of this publish.
    Confirm(u64),
    /// Nothing: this publish was confirmed before its turn.
    Confirmed(u64),
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is where it should be.
    Safe,
    /// It is when the journal has come to this mark.
    When(Mark),
    /// A queue refused it.
    Refused,
}

impl Confirms {
    pub(super) fn new(channel: u16, peer: Rc<Peer>) -> Self {
        Self { channel, peer, state: RefCell::default() }
    }

    /// Counts a publish. The client knows of it after the next [`flush`](Self::flush) that finds it safe.
    pub(super) fn add(&self, outcome: Outcome) {
        let mut state = self.state.borrow_mut();
        state.last += 1;
        let tag = state.last;
        if outcome == Outcome::Safe && state.waiting.is_empty() {
            state.ready = tag;
        } else {
            state.waiting.push_back(Waiting { answer: Answer::Confirm(tag), outcome });
        }
    }

    /// Counts a publish that `give_back` returns to the client. Its confirm follows at once, also where others before it wait
    /// for the disk, and no other comes in between: some clients take the next confirm after a return for that of what was
    /// returned.
    pub(super) fn add_returned(&self, give_back: impl FnOnce()) {
        let mut state = self.state.borrow_mut();
        state.last += 1;
        let tag = state.last;
        self.acknowledge(&mut state);
        give_back();
        self.peer.send(self.channel, &basic::Ack { delivery_tag: tag, multiple: false });
        if state.waiting.is_empty() {
            (state.ready, state.sent) = (tag, tag);
        } else {
            state.waiting.push_back(Waiting { answer: Answer::Confirmed(tag), outcome: Outcome::Safe });
        }
    }

    /// Whether something waits for the disk.
    pub(super) fn is_waiting(&self) -> bool {
        let state = self.state.borrow();
        !state.is_closed && !state.waiting.is_empty()
    }

    /// The channel is closed.
    pub(super) fn close(&self) {
        self.state.borrow_mut().is_closed = true;
    }

    /// Sends what can be confirmed, when all up to `durable` is on the disk.
    pub(super) fn flush(&self, durable: Mark) {
        let mut state = self.state.borrow_mut();
        if state.is_closed {
            return;
        }
        while let Some(&Waiting { answer, outcome }) = state.waiting.front() {
            match (answer, outcome) {
                (_, Outcome::When(mark)) if mark > durable => break,
                (Answer::Confirm(tag), Outcome::Safe | Outcome::When(_)) => state.ready = tag,
                (Answer::Confirmed(tag), _) => {
                    // One for several must not end with one that the client does not wait for any more.
                    self.acknowledge(&mut state);
                    (state.ready, state.sent) = (tag, tag);
                }
                (Answer::Confirm(tag), Outcome::Refused) => {
                    self.acknowledge(&mut state);
                    // `requeue` means nothing here; RabbitMQ sends it so.
                    let nack = basic::Nack { delivery_tag: tag, multiple: false, requeue: true };
                    self.peer.send(self.channel, &nack);
                    (state.ready, state.sent) = (tag, tag);
                }
            }
            state.waiting.pop_front();
        }
        self.acknowledge(&mut state);
    }

    fn acknowledge(&self, state: &mut State) {
        if state.ready > state.sent {
            let multiple = state.ready - state.sent > 1;
            self.peer.send(self.channel, &basic::Ack { delivery_tag: state.ready, multiple });
            state.sent = state.ready;
        }
    }
}
