//! What was acknowledged here lately. An acknowledgement can be lost with its channel; the broker then delivers the message
//! again, and it must be acknowledged again and not run.
//!
//! A message that comes again is acknowledged only if that is *explained*: either a delivery of exactly this copy was
//! acknowledged through a channel that is gone since, or the task has ended here and this is a copy of it that was not seen
//! before. Each explanation serves once. So a peer whose messages are all alike loses none of them: those that are not
//! explained are run.

use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
use super::faults::Fault;
use super::message::{Channel, Identity, Marks};

/// How many messages are remembered; the oldest go first.
const MOST: usize = 10_000;
/// How many copies of one message are remembered. One more is run again, which is the safe side.
const MOST_COPIES: usize = 32;

#[derive(Clone, Debug, Default)]
pub(super) struct Acknowledged {
    known: BTreeMap<Identity, Entry>,
    /// By age.
    order: BTreeMap<u64, Identity>,
    last: u64,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    age: u64,
    /// The task has ended here: any copy of it is one too many.
    ended: bool,
    /// Acknowledgements through channels that still stand.
    standing: Vec<(Marks, Channel, u32)>,
    /// Acknowledgements that may have been lost, and deliveries of an ended task that were lost before they were
    /// acknowledged.
    lost: Vec<(Marks, u32)>,
    /// Deliveries that were lost unfinished, which are to be run when they come again.
    owed: Vec<(Marks, u32)>,
    /// Copies that have been here.
    seen: BTreeSet<Marks>,
}

/// Why a message is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Explained {
    /// The task has ended here.
    Ended,
    /// It went on as another copy: the task was moved, or is on lease.
    MovedOn,
}

impl Acknowledged {
    /// A delivery is acknowledged.
    pub(super) fn acknowledge(&mut self, identity: Identity, marks: Marks, channel: Channel) {
        let entry = self.entry(identity);
        match entry.standing.iter_mut().find(|(known, by, _)| *known == marks && *by == channel) {
            Some((_, _, times)) => *times = times.saturating_add(1),
            None => entry.standing.push((marks, channel, 1)),
        }
    }

    /// A task has ended. These of its deliveries were lost before they could be acknowledged, and these copies were seen.
    pub(super) fn end(&mut self, identity: Identity, lost: Vec<(Marks, u32)>, seen: &BTreeSet<Marks>) {
        let entry = self.entry(identity);
        entry.ended = true;
        entry.seen.extend(seen.iter().take(MOST_COPIES).copied());
        lost.into_iter().for_each(|(marks, times)| add(&mut entry.lost, marks, times));
    }

    /// A task goes on as another copy. These of its deliveries are not needed any more when they come again.
    pub(super) fn replace(&mut self, identity: Identity, lost: Vec<(Marks, u32)>) {
        if !lost.is_empty() {
            let entry = self.entry(identity);
            lost.into_iter().for_each(|(marks, times)| add(&mut entry.lost, marks, times));
        }
    }

    /// These deliveries were lost unfinished. They are not to be taken for others that look like them.
    pub(super) fn owe(&mut self, identity: Identity, lost: Vec<(Marks, u32)>) {
        if let Some(entry) = self.known.get_mut(&identity) {
            lost.into_iter().for_each(|(marks, times)| add(&mut entry.owed, marks, times));
        }
    }

    /// What was acknowledged through this channel may come again.
    pub(super) fn channels_gone(&mut self, is_gone: impl Fn(&Channel) -> bool) {
        for entry in self.known.values_mut() {
            for (marks, _, times) in entry.standing.extract_if(.., |(_, channel, _)| is_gone(channel)) {
                add(&mut entry.lost, marks, times);
            }
        }
    }

    /// Whether a delivery need not be run, and why. The explanation is used up.
    pub(super) fn explain(&mut self, identity: Identity, marks: Marks, redelivered: bool) -> Option<Explained> {
        let entry = self.known.get_mut(&identity)?;
        if redelivered && take(&mut entry.owed, marks) {
            return None;
        }
        let is_explained = redelivered && take(&mut entry.lost, marks)
            || entry.ended && marks.is_copy() && entry.seen.len() < MOST_COPIES && entry.seen.insert(marks);
        match is_explained {
            true if entry.ended => Some(Explained::Ended),
            true => Some(Explained::MovedOn),
            false => None,
        }
    }

    /// The same with a fault, for the explorer.
    #[cfg(test)]
    pub(super) fn explain_faulty(
        &mut self,
        fault: Fault,
        identity: Identity,
        marks: Marks,
        redelivered: bool,
    ) -> Option<Explained> {
        match fault {
            Fault::IdAlone => {
                let is_known = self.known.iter().any(|(known, entry)| known.id == identity.id && entry.ended);
                is_known.then_some(Explained::Ended)
            }
            Fault::NoReasonNeeded => self.known.get(&identity).filter(|entry| entry.ended).map(|_| Explained::Ended),
            Fault::ExplanationNotUsedUp => self.clone().explain(identity, marks, redelivered),
            Fault::MarksIgnored => {
                let entry = self.known.get_mut(&identity)?;
                let (any, _) = *entry.lost.first()?;
                (redelivered && take(&mut entry.lost, any)).then_some(Explained::MovedOn)
            }
            _ => self.explain(identity, marks, redelivered),
        }
    }

    fn entry(&mut self, identity: Identity) -> &mut Entry {
        self.last += 1;
        let age = self.last;
        if let Some(known) = self.known.get(&identity) {
            self.order.remove(&known.age);
        }
        self.order.insert(age, identity);
        if self.order.len() > MOST
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.known.remove(&oldest);
        }
        let entry = self.known.entry(identity).or_default();
        entry.age = age;
        entry
    }
}

fn add(counts: &mut Vec<(Marks, u32)>, marks: Marks, times: u32) {
    match counts.iter_mut().find(|(known, _)| *known == marks) {
        Some((_, count)) => *count = count.saturating_add(times),
        None => counts.push((marks, times)),
    }
}

pub(super) fn count_one(counts: &mut Vec<(Marks, u32)>, marks: Marks) {
    add(counts, marks, 1);
}

/// Takes one, if there is one.
pub(super) fn take(counts: &mut Vec<(Marks, u32)>, marks: Marks) -> bool {
    let Some(at) = counts.iter().position(|(known, _)| *known == marks) else { return false };
    counts[at].1 -= 1;
    if counts[at].1 == 0 {
        counts.swap_remove(at);
    }
    true
}
