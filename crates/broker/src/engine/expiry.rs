//! Time that passes: messages and queues that are over.

use std::time::Instant;

use super::Engine;
use super::message::{Message, Reason};
use super::queue::{Queue, QueueKey};

/// For how many effects memory is kept.
const EFFECTS: usize = 4096;

impl<M: Message> Engine<M> {
    /// Lets time pass: what is over goes. Every request does this first.
    pub fn advance(&mut self, now: Instant) {
        self.now = self.now.max(self.epoch.moment(now));
        // A request that forgets a million messages leaves much memory behind.
        if self.effects.is_empty() && self.effects.capacity() > EFFECTS {
            self.effects.shrink_to(EFFECTS);
        }
        self.bury();
        // A dead letter may be over as it arrives; what goes in circles ends in `bury`.
        while self.dead.is_empty() && self.wakes.first().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((_, key)) = self.wakes.pop_first() {
                self.wake(key);
            }
            self.bury();
        }
    }

    /// When [`advance`](Self::advance) is to be called at the latest, if no request comes before.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.dead.is_empty() {
            return self.epoch.instant(self.now);
        }
        self.wakes.first().and_then(|(at, _)| self.epoch.instant(*at))
    }

    /// Drops the messages at the head of a queue whose time is over.
    pub(super) fn drop_expired(&mut self, key: QueueKey) {
        while let Some(expired) = self.queues.get_mut(key).and_then(|queue| queue.pop_expired(self.now)) {
            self.dies_in(key, expired, Reason::Expired);
        }
    }

    /// Plans to see to a queue when something in it is over. A plan that is too early stays: it is made anew then, so that
    /// messages that come and go cost nothing here.
    pub(super) fn plan(&mut self, key: QueueKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        let Some(at) = queue.deadline() else { return };
        if queue.wake.is_none_or(|planned| at < planned) {
            if let Some(planned) = queue.wake.replace(at) {
                self.wakes.remove(&(planned, key));
            }
            self.wakes.insert((at, key));
        }
    }

    /// The time of a queue's plan has come.
    fn wake(&mut self, key: QueueKey) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.wake = None;
        self.drop_expired(key);
        if self.queues.get(key).is_some_and(|queue| Queue::is_over(queue, self.now)) {
            self.remove_queue(key);
        } else {
            self.plan(key);
        }
    }
}
