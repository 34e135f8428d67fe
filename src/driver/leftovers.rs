//! What a communicator still holds, for tests: at rest, with no subscriber and nothing under way, every count is 0.

use super::Driver;
use super::port::Port;
use crate::broker::Broker;

impl<B: Broker> Driver<B> {
    /// What is held now, by name.
    fn leftovers(&self) -> [(&'static str, usize); 14] {
        [
            ("services", self.subscriptions.leftovers()),
            ("acknowledgements held back", self.held_acks.values().map(Vec::len).sum()),
            ("messages", self.outbox.in_flight()),
            ("requests", self.requests.len()),
            ("calls in hand", self.callers.len()),
            ("tasks in hand", self.tasks.in_hand()),
            ("parts of the task book", usize::from(!self.tasks.is_empty())),
            ("timers", self.timers.len()),
            ("pulls", self.pulls.len()),
            ("unclaimed tasks", self.unclaimed.values().filter(|(_, claim)| !claim.is_taken()).count()),
            ("copies", self.copies.len()),
            ("signals of lost ownership", self.ownership_lost.len()),
            ("jobs", self.jobs.len()),
            ("waits for a close", self.closers.len()),
        ]
    }

    pub(super) fn note_leftovers(&self) {
        let mut left = self.port.left.lock();
        left.clear();
        left.extend(self.leftovers());
    }
}

impl Port {
    /// What is held by this communicator, by name.
    pub(crate) fn leftovers(&self) -> Vec<(&'static str, usize)> {
        let (permits, waits) = self.held();
        let mut left = self.left.lock().clone();
        left.extend([("permits", permits as usize), ("waits for a permit", waits)]);
        left
    }
}
