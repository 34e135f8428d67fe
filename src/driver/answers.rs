//! What was answered lately. An answer can be lost with the reply queue of its caller, and an acknowledgement with its
//! connection: then the answer is asked for again, or the broker hands out again what has been done.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::command::OutgoingReply;

/// How many are kept, and how many bytes of them; the oldest go first.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Answers {
    /// By correlation id.
    known: HashMap<Arc<str>, Known>,
    /// By age. An entry whose answer was replaced by a later one stays until it is the oldest.
    order: VecDeque<(u64, Arc<str>)>,
    last: u64,
    bytes: usize,
}

struct Known {
    age: u64,
    bytes: usize,
    reply: OutgoingReply,
}

impl Answers {
    /// Keeps the last answer to a request. One that was kept under the same id goes.
    pub(super) fn remember(&mut self, reply: &OutgoingReply) {
        let Some(correlation) = &reply.correlation_id else { return };
        let bytes = reply.body.size() + correlation.len() + reply.reply_to.len();
        if bytes > MOST_BYTES {
            return;
        }
        self.last += 1;
        let correlation = Arc::clone(correlation);
        let known = Known { age: self.last, bytes, reply: reply.clone() };
        if let Some(replaced) = self.known.insert(Arc::clone(&correlation), known) {
            self.bytes -= replaced.bytes;
        }
        self.order.push_back((self.last, correlation));
        self.bytes += bytes;
        while self.order.len() > MOST || self.bytes > MOST_BYTES {
            let Some((age, correlation)) = self.order.pop_front() else { return };
            if self.known.get(&correlation).is_some_and(|known| known.age == age)
                && let Some(oldest) = self.known.remove(&correlation)
            {
                self.bytes -= oldest.bytes;
            }
        }
    }

    /// The answer under this correlation id.
    pub(super) fn of(&self, correlation: &str) -> Option<&OutgoingReply> {
        self.known.get(correlation).map(|known| &known.reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Body;
    use crate::driver::command::ReplyStage;
    use crate::wire::names::Exchange;

    fn reply(correlation: &str, bytes: usize) -> OutgoingReply {
        OutgoingReply {
            exchange: Exchange::Message,
            reply_to: "q".into(),
            correlation_id: Some(correlation.into()),
            stage: ReplyStage::Last,
            body: Body::Encoded(vec![0; bytes].into()),
            call: None,
        }
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut answers = Answers::default();
        for n in 0..=MOST {
            answers.remember(&reply(&n.to_string(), 1));
        }
        assert!(answers.of("0").is_none());
        assert!(answers.of("1").is_some());
        assert!(answers.of(&MOST.to_string()).is_some());
    }

    #[test]
    fn bytes_are_counted_anew_under_a_known_id() {
        let mut answers = Answers::default();
        for _ in 0..10 {
            answers.remember(&reply("same", MOST_BYTES / 2));
        }
        assert_eq!(answers.known.len(), 1);
        answers.remember(&reply("other", MOST_BYTES / 4));
        assert!(answers.of("same").is_some() && answers.of("other").is_some());
        answers.remember(&reply("third", MOST_BYTES / 2));
        assert!(answers.of("same").is_none());
        assert!(answers.bytes <= MOST_BYTES);
    }

    #[test]
    fn what_is_larger_than_all_is_not_kept() {
        let mut answers = Answers::default();
        answers.remember(&reply("small", 1));
        answers.remember(&reply("large", MOST_BYTES + 1));
        assert!(answers.of("small").is_some() && answers.of("large").is_none());
    }
}
