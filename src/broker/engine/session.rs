//! A session: one client, its lanes, and what it has in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::message::Stored;
use super::queue::{Consumer, Queue};
use super::table::Key;
use crate::broker::{Lane, Receipt};

#[derive(Default)]
pub(super) struct Session {
    pub(super) lanes: BTreeMap<Lane, LaneState>,
    /// By tag.
    pub(super) consumers: BTreeMap<Arc<str>, Key<Consumer>>,
    /// The queues that are its alone.
    pub(super) own: BTreeSet<Key<Queue>>,
}

/// A lane and what goes through it. Stays when the lane is closed, so that it opens under a new number.
#[derive(Default)]
pub(super) struct LaneState {
    pub(super) open: bool,
    /// Counts from one.
    pub(super) opening: u32,
    last_tag: u64,
    /// By delivery tag.
    pub(super) out: BTreeMap<u64, Out>,
    pub(super) consumers: BTreeSet<Key<Consumer>>,
}

/// A message that a client has in hand.
pub(super) struct Out {
    pub(super) queue: Key<Queue>,
    /// `None` for one that was taken by a get.
    pub(super) consumer: Option<Key<Consumer>>,
    pub(super) message: Stored,
}

impl Session {
    /// A lane, opened if it is not.
    pub(super) fn lane(&mut self, lane: Lane) -> &mut LaneState {
        let state = self.lanes.entry(lane).or_default();
        if !state.open {
            state.open = true;
            state.opening += 1;
            state.last_tag = 0;
        }
        state
    }
}

impl LaneState {
    /// The delivery tag of the next message: unique on the lane as long as it is open.
    pub(super) fn receipt(&mut self, lane: Lane) -> Receipt {
        self.last_tag += 1;
        Receipt { lane, opening: self.opening, tag: self.last_tag }
    }
}
