//! How much has gone through, for those who watch it.

use std::ops::AddAssign;

/// What has happened to a queue, or to all queues that there have been, since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages that came in. One that went to two queues counts twice.
    pub published: u64,
    /// Messages that were handed to consumers or got, each time that they were.
    pub delivered: u64,
    /// Of those, how many had been out before.
    pub redelivered: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
}

impl Counts {
    pub(super) fn deliver(&mut self, redelivered: bool) {
        self.delivered += 1;
        self.redelivered += u64::from(redelivered);
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.acknowledged += other.acknowledged;
    }
}
