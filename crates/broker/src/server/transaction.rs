//! What a channel does when it commits.

use super::content::Content;
use crate::engine::{Message, Nack, Tags};
use std::collections::BTreeSet;

/// The open transaction of a channel.
#[derive(Debug)]
pub(super) struct Transaction {
    publishes: Vec<(Content, bool)>,
    settled: Vec<Settled>,
    /// The deliveries in `settled`, for none can be settled twice.
    tags: BTreeSet<u64>,
    bytes: usize,
}

/// Deliveries that a client is done with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    pub(super) tags: Tags,
    /// `None` acknowledges.
    pub(super) nack: Option<Nack>,
}

impl Transaction {
    pub(super) fn new() -> Self {
        Self { publishes: Vec::new(), settled: Vec::new(), tags: BTreeSet::new(), bytes: 0 }
    }

    pub(super) fn publish(&mut self, message: Content, is_mandatory: bool) {
        self.bytes += message.weight();
        self.publishes.push((message, is_mandatory));
    }

    /// Keeps an acknowledgement of these deliveries, each of which is out.
    pub(super) fn settle(&mut self, settled: Settled, tags: impl IntoIterator<Item = u64>) {
        self.settled.push(settled);
        self.bytes += size_of::<Settled>();
        self.tags.extend(tags);
    }

    /// Whether this delivery is among those that are done with at the commit.
    pub(super) fn has_settled(&self, tag: u64) -> bool {
        self.tags.contains(&tag)
    }

    /// The deliveries that are done with at the commit.
    pub(super) fn tags(&self) -> &BTreeSet<u64> {
        &self.tags
    }

    /// What is to be done, in order. The next transaction is empty.
    pub(super) fn take(&mut self) -> (Vec<(Content, bool)>, Vec<Settled>) {
        self.tags.clear();
        self.bytes = 0;
        (std::mem::take(&mut self.publishes), std::mem::take(&mut self.settled))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
