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
            None => {
                if entry.standing.len() >= MOST_COPIES {
                    entry.standing.remove(0);
                }
                entry.standing.push((marks, channel, 1));
            }
        }
    }

    /// A task has ended. These of its deliveries were lost before they could be acknowledged, and these copies were seen.
    pub(super) fn end(&mut self, identity: Identity, lost: Vec<(Marks, u32)>, seen: &BTreeSet<Marks>) {
        let entry = self.entry(identity);
        entry.ended = true;
        let room = MOST_COPIES.saturating_sub(entry.seen.len());
        entry.seen.extend(seen.iter().take(room).copied());
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
            if entry.owed.len() >= MOST_COPIES {
                // One more could not be kept. Without an explanation all of them are run.
                entry.lost.clear();
                entry.owed.clear();
            }
        }
    }

    /// A delivery goes back to its queue unfinished: it is to be run when it comes again, whatever was lost that looks like it.
    pub(super) fn give_back(&mut self, identity: Identity, marks: Marks) {
        if let Some(entry) = self.known.get_mut(&identity)
            && !entry.ended
            && entry.lost.iter().any(|(known, _)| *known == marks)
        {
            self.owe(identity, vec![(marks, 1)]);
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
        let is_explained =
            redelivered && take(&mut entry.lost, marks) || entry.ended && is_another_copy(&mut entry.seen, marks);
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
            Fault::MarksIgnored => {
                let entry = self.known.get_mut(&identity)?;
                let (any, _) = *entry.lost.first()?;
                (redelivered && take(&mut entry.lost, any)).then_some(Explained::MovedOn)
            }
            _ => self.explain(identity, marks, redelivered),
        }
    }

    /// Everything that counts, for the explorer.
    #[cfg(test)]
    pub(super) fn print(&self, mut put: impl FnMut(u64), channel: impl Fn(Channel) -> u64) {
        let marks =
            |marks: &Marks| u64::from(marks.resend) << 40 | u64::from(marks.lease) << 20 | u64::from(marks.attempt);
        for (identity, entry) in &self.known {
            put(identity.id as u64);
            put(identity.digest as u64);
            put(u64::from(entry.ended));
            let mut standing: Vec<_> = entry.standing.clone();
            standing.sort_unstable();
            for (of, by, times) in standing {
                put(marks(&of));
                put(channel(by));
                put(times.into());
            }
            for counts in [&entry.lost, &entry.owed] {
                put(u64::MAX);
                let mut counts = counts.clone();
                counts.sort_unstable();
                for (of, times) in counts {
                    put(marks(&of));
                    put(times.into());
                }
            }
            entry.seen.iter().for_each(|seen| put(marks(seen)));
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

/// Whether a delivery with these marks is another copy of a task whose copies so far carried those. True once for each.
pub(super) fn is_another_copy(seen: &mut BTreeSet<Marks>, marks: Marks) -> bool {
    // A copy that its sender sent again shows that there is one that it sent before.
    let is_announced =
        |seen: &Marks| seen.resend > marks.resend && (seen.lease, seen.attempt) == (marks.lease, marks.attempt);
    (marks.is_copy() || seen.iter().any(is_announced)) && seen.len() < MOST_COPIES && seen.insert(marks)
}

fn add(counts: &mut Vec<(Marks, u32)>, marks: Marks, times: u32) {
    match counts.iter().position(|(known, _)| *known == marks) {
        Some(at) => counts[at].1 = counts[at].1.saturating_add(times),
        None if counts.len() >= MOST_COPIES => {}
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tasks::Generation;

    const NONE: Marks = Marks { resend: 0, lease: 0, attempt: 0, copy: 0 };
    const AGAIN: Marks = Marks { resend: 1, ..NONE };

    fn identity(id: u128) -> Identity {
        Identity { id, digest: 1 }
    }

    fn channel(generation: u64) -> Channel {
        Channel { generation: Generation(generation), lane: 0, incarnation: 0 }
    }

    /// As a task that was done here.
    fn done(memory: &mut Acknowledged, id: u128, by: Channel) {
        memory.acknowledge(identity(id), NONE, by);
        memory.end(identity(id), Vec::new(), &BTreeSet::from([NONE]));
    }

    #[test]
    fn a_message_that_is_alike_is_run_while_the_acknowledgement_cannot_be_lost() {
        let mut memory = Acknowledged::default();
        done(&mut memory, 1, channel(1));
        assert_eq!(memory.explain(identity(1), NONE, true), None);
        memory.channels_gone(|gone| *gone == channel(2));
        assert_eq!(memory.explain(identity(1), NONE, true), None);
    }

    #[test]
    fn a_lost_acknowledgement_explains_one_redelivery_of_the_very_copy() {
        let mut memory = Acknowledged::default();
        done(&mut memory, 1, channel(1));
        memory.channels_gone(|gone| *gone == channel(1));
        assert_eq!(memory.explain(identity(2), NONE, true), None, "another message");
        assert_eq!(memory.explain(Identity { id: 1, digest: 2 }, NONE, true), None, "another body");
        assert_eq!(memory.explain(identity(1), NONE, false), None, "not redelivered");
        assert_eq!(memory.explain(identity(1), NONE, true), Some(Explained::Ended));
        assert_eq!(memory.explain(identity(1), NONE, true), None, "used up");
    }

    #[test]
    fn a_copy_of_an_ended_task_is_explained_once() {
        let mut memory = Acknowledged::default();
        done(&mut memory, 1, channel(1));
        assert_eq!(memory.explain(identity(1), AGAIN, false), Some(Explained::Ended));
        assert_eq!(memory.explain(identity(1), AGAIN, false), None);
    }

    #[test]
    fn what_was_lost_unfinished_is_run_before_anything_is_explained() {
        let mut memory = Acknowledged::default();
        done(&mut memory, 1, channel(1));
        memory.channels_gone(|_| true);
        memory.owe(identity(1), vec![(NONE, 1)]);
        assert_eq!(memory.explain(identity(1), NONE, true), None);
        assert_eq!(memory.explain(identity(1), NONE, true), Some(Explained::Ended));
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_are_forgotten_first() {
        let mut memory = Acknowledged::default();
        for id in 0..=MOST as u128 {
            done(&mut memory, id, channel(1));
            done(&mut memory, 0, channel(1));
        }
        assert_eq!((memory.known.len(), memory.order.len()), (MOST, MOST));
        memory.channels_gone(|_| true);
        assert_eq!(memory.explain(identity(0), NONE, true), Some(Explained::Ended), "it was refreshed");
        assert_eq!(memory.explain(identity(1), NONE, true), None);
        assert_eq!(memory.explain(identity(2), NONE, true), Some(Explained::Ended));
    }

    #[test]
    fn copies_of_one_message_cannot_fill_the_memory() {
        let mut memory = Acknowledged::default();
        for resend in 0..10_000 {
            let marks = Marks { resend, ..NONE };
            memory.acknowledge(identity(1), marks, channel(u64::from(resend)));
            memory.end(identity(1), vec![(marks, 1)], &BTreeSet::from([marks]));
            let _ = memory.explain(identity(1), marks, false);
        }
        let entry = &memory.known[&identity(1)];
        assert!(entry.standing.len() <= MOST_COPIES && entry.lost.len() <= MOST_COPIES, "{entry:?}");
        assert!(entry.seen.len() <= MOST_COPIES, "{entry:?}");
    }
}
