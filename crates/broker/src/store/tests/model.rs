//! What a store must hold, kept beside it; and the comparison of both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::super::damage::{Damage, Lost};
use super::super::disk::Disk;
use super::super::{ErrorKind, Log, Options, Placement, RecoveredCopy, Restore, Result};
use super::simulated_disk::SimulatedDisk;

pub(crate) const SEGMENT: u64 = 4 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) queue: u64,
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// The id of the message's first copy.
    pub(crate) message: u64,
}

/// What is in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) copies: BTreeMap<u64, Stored>,
    pub(crate) definitions: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Put(Vec<Placement>, Vec<u8>, Vec<u8>),
    Forget(u64),
    Define(Vec<u8>, Vec<u8>),
    Undefine(Vec<u8>),
}

impl Content {
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Put(copies, header, body) => {
                let message = copies[0].copy;
                for placement in copies {
                    let (header, body) = (header.clone(), body.clone());
                    self.copies.insert(placement.copy, Stored { queue: placement.queue, header, body, message });
                }
            }
            Operation::Forget(copy) => drop(self.copies.remove(copy)),
            Operation::Define(key, value) => drop(self.definitions.insert(key.clone(), value.clone())),
            Operation::Undefine(key) => drop(self.definitions.remove(key)),
        }
    }

    pub(crate) fn after(&self, operations: &[Operation]) -> Self {
        let mut content = self.clone();
        operations.iter().for_each(|operation| content.apply(operation));
        content
    }
}

pub(crate) fn append(log: &mut Log, operation: &Operation) {
    match operation {
        Operation::Put(copies, header, body) => log.put(copies, header, body),
        Operation::Forget(copy) => log.forget(*copy),
        Operation::Define(key, value) => log.define(key, value),
        Operation::Undefine(key) => log.undefine(key),
    }
    .unwrap();
}

/// A random operation that makes sense on `content`.
pub(crate) fn random_operation(random: &mut fastrand::Rng, content: &Content, next_copy: u64) -> Operation {
    let key = |random: &mut fastrand::Rng| format!("key {}", random.u8(0..12)).into_bytes();
    match random.u8(0..20) {
        0 => Operation::Define(key(random), bytes(random, 40)),
        1 => Operation::Undefine(key(random)),
        2..=9 if !content.copies.is_empty() => {
            let at = match random.u8(0..3) {
                0 => random.usize(0..content.copies.len()),
                // As a queue is emptied.
                _ => random.usize(0..content.copies.len().min(3)),
            };
            Operation::Forget(*content.copies.keys().nth(at).unwrap())
        }
        _ => {
            let count = if random.u8(0..4) == 0 { random.u64(2..6) } else { 1 };
            let gap = if random.u8(0..10) == 0 { random.u64(1..100) } else { 0 };
            let copies =
                (0..count).map(|at| Placement { copy: next_copy + gap + at, queue: random.u64(0..5) }).collect();
            let longest = if random.u8(0..30) == 0 { 6000 } else { 400 };
            Operation::Put(copies, bytes(random, 60), bytes(random, longest))
        }
    }
}

fn bytes(random: &mut fastrand::Rng, longest: usize) -> Vec<u8> {
    let length = random.usize(0..=longest);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// Queue, header, length of the body, message.
type FoundCopy = (u64, Vec<u8>, u32, (u64, u32));

#[derive(Default)]
struct Found {
    copies: BTreeMap<u64, FoundCopy>,
    definitions: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Restore for Found {
    fn definition(&mut self, key: &[u8], value: &[u8]) {
        assert!(self.definitions.last_key_value().is_none_or(|(last, _)| last.as_slice() < key), "not in order");
        self.definitions.insert(key.into(), value.into());
    }

    fn copy(&mut self, copy: RecoveredCopy<'_>) {
        let id = copy.placement.copy;
        assert!(self.copies.last_key_value().is_none_or(|(last, _)| *last < id), "copy {id} is not in order, or twice");
        self.copies.insert(id, (copy.placement.queue, copy.header.into(), copy.body_length, copy.message));
    }
}

pub(crate) struct Opening {
    pub(crate) log: Log,
    pub(crate) content: Content,
    pub(crate) damages: Vec<Damage>,
    /// Copies that are there, but cannot be read.
    pub(crate) unreadable: BTreeSet<u64>,
}

/// Opens a store and reads all that it holds.
pub(crate) fn open(disk: &SimulatedDisk) -> Result<Opening> {
    open_with(disk, SEGMENT)
}

pub(crate) fn open_with(disk: &SimulatedDisk, segment_bytes: u64) -> Result<Opening> {
    let mut found = Found::default();
    let options = Options { segment_bytes };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (log, opened) = Log::open_on(&disk, Path::new("/store"), options, &mut found)?;
    assert_eq!(opened.copies, found.copies.len() as u64);
    assert_eq!(log.live_copies(), found.copies.len());
    let reader = log.reader();
    let mut content = Content { definitions: found.definitions, ..Content::default() };
    let mut unreadable = BTreeSet::new();
    let mut messages = BTreeMap::new();
    for (copy, (queue, header, body_length, message)) in found.copies {
        let message = *messages.entry(message).or_insert(copy);
        match reader.read(copy) {
            Ok(read) => {
                assert_eq!((&read.header[..], read.body.len()), (&header[..], body_length as usize), "copy {copy}");
                content.copies.insert(copy, Stored { queue, header, body: read.body.to_vec(), message });
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                assert!(error.to_string().contains(&format!("copy {copy}")), "{error}");
                unreadable.insert(copy);
            }
        }
    }
    Ok(Opening { log, content, damages: opened.damages, unreadable })
}

impl Content {
    /// Copies without the id of the message's first copy, which is not known when that one is forgotten.
    pub(crate) fn plain(&self) -> Self {
        let mut content = self.clone();
        content.copies.values_mut().for_each(|stored| stored.message = 0);
        content
    }
}

/// Whether a damage says that this copy is lost.
pub(crate) fn names(damage: &Damage, copy: u64) -> bool {
    match &damage.lost {
        Lost::Message { copies } => copies.contains(&copy),
        Lost::Unknown { after, before } => {
            after.is_none_or(|after| after < copy) && before.is_none_or(|before| copy < before)
        }
        _ => false,
    }
}
