//! What became of tasks that ended here lately: an acknowledgement can be lost with its connection, and then the broker
//! hands the task out again. It is acknowledged and answered from here, and not run twice.

use std::collections::{HashMap, VecDeque};

use crate::broker::Body;
use crate::communicator::command::OutgoingReply;

/// How many are kept, and how many bytes of replies; the oldest go first.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Outcomes {
    /// By message id: where the sender wanted one, the reply.
    known: HashMap<String, Option<OutgoingReply>>,
    order: VecDeque<(String, usize)>,
    bytes: usize,
}

impl Outcomes {
    pub(super) fn remember(&mut self, id: String, reply: Option<OutgoingReply>) {
        let bytes = match reply.as_ref().map(|reply| &reply.body) {
            Some(Body::Encoded(bytes)) => bytes.len(),
            // Its size is not known without encoding it; inside one process nothing is lost.
            Some(Body::Value(_)) | None => 0,
        };
        if self.known.insert(id.clone(), reply).is_none() {
            self.order.push_back((id, bytes));
            self.bytes += bytes;
        }
        while self.order.len() > MOST || self.bytes > MOST_BYTES {
            let Some((oldest, bytes)) = self.order.pop_front() else { return };
            self.known.remove(&oldest);
            self.bytes -= bytes;
        }
    }

    /// What became of it, if it ended here.
    pub(super) fn of(&self, id: &str) -> Option<Option<OutgoingReply>> {
        self.known.get(id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{MOST, Outcomes};

    #[test]
    fn the_oldest_are_forgotten() {
        let mut outcomes = Outcomes::default();
        for n in 0..=MOST {
            outcomes.remember(n.to_string(), None);
        }
        assert!(outcomes.of("0").is_none());
        assert!(outcomes.of("1").is_some());
        assert!(outcomes.of(&MOST.to_string()).is_some());
    }
}
