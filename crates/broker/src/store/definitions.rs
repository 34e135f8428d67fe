//! Definitions on the disk: a sorted snapshot, and what changed since.
//!
//! The values of the snapshot are not kept in memory. A new snapshot is made when the changes outgrow the old one, so
//! that a change costs the same however many definitions there are.

use std::collections::BTreeMap;

use super::batch::Change;
use super::format::{BadHeader, Bytes};
use super::twice;

const MAGIC: [u8; 8] = *b"HOMINGdf";
/// Changes that are always kept in the checkpoint.
const FEW: u64 = 64 << 10;
/// More changes than these are never kept there: every checkpoint copies them, while commits wait.
const MANY: u64 = 1 << 20;

pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The bookkeeping of definitions while the store runs.
#[derive(Debug, Default)]
pub(crate) struct Definitions {
    /// Number of the snapshot's file.
    pub(crate) snapshot: Option<u64>,
    pub(crate) snapshot_bytes: u64,
    /// Since the snapshot.
    pub(crate) changes: Changes,
    /// What goes into a snapshot that is being made.
    settling: Option<Changes>,
}

impl Definitions {
    pub(crate) fn new(snapshot: Option<u64>, snapshot_bytes: u64, changes: Changes) -> Self {
        Self { snapshot, snapshot_bytes, changes, settling: None }
    }

    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        self.changes.extend(changes);
    }

    pub(crate) fn wants_snapshot(&self) -> bool {
        let bytes: usize = self.changes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        bytes as u64 > self.snapshot_bytes.clamp(FEW, MANY)
    }

    /// Takes the changes into a new snapshot. One of the next two is called when its fate is known.
    pub(crate) fn settle(&mut self) -> Changes {
        let settling = std::mem::take(&mut self.changes);
        self.settling = Some(settling.clone());
        settling
    }

    pub(crate) fn settled(&mut self, snapshot: u64, bytes: u64) {
        self.settling = None;
        self.snapshot = Some(snapshot);
        self.snapshot_bytes = bytes;
    }

    pub(crate) fn unsettle(&mut self) {
        if let Some(older) = self.settling.take() {
            let newer = std::mem::replace(&mut self.changes, older);
            self.changes.extend(newer);
        }
    }
}

pub(crate) fn snapshot_name(number: u64) -> String {
    format!("{number:08}.definitions")
}

/// The file of a snapshot that consists of `old`, a snapshot's file, and `changes`.
pub(crate) fn merged_file(old: &[u8], changes: &Changes) -> Result<Vec<u8>, BadHeader> {
    let mut payload = Vec::new();
    merge(old, changes, |key, value| write_entry(&mut payload, key, value))?;
    Ok(twice::encode(MAGIC, &payload))
}

/// Calls `found` with each definition of `old`, a snapshot's file (or empty, if there is none yet), and `changes`,
/// sorted by key.
pub(crate) fn merge(old: &[u8], changes: &Changes, mut found: impl FnMut(&[u8], &[u8])) -> Result<(), BadHeader> {
    let mut old = Bytes(if old.is_empty() { old } else { twice::decode(MAGIC, old)? });
    let mut changes = changes.iter().peekable();
    while let (Some(key), Some(value)) = (old.counted(), old.counted()) {
        while let Some((changed, new)) = changes.next_if(|(changed, _)| changed.as_slice() < key) {
            if let Some(new) = new {
                found(changed, new);
            }
        }
        match changes.next_if(|(changed, _)| changed.as_slice() == key) {
            Some((_, Some(new))) => found(key, new),
            Some((_, None)) => {}
            None => found(key, value),
        }
    }
    for (key, new) in changes {
        if let Some(new) = new {
            found(key, new);
        }
    }
    Ok(())
}

fn write_entry(into: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        into.extend_from_slice(&(part.len() as u32).to_le_bytes());
        into.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> Change {
        (key.into(), value.map(Into::into))
    }

    fn list(old: &[u8], changes: &Changes) -> Vec<String> {
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.into()).unwrap();
        merge(old, changes, |key, value| all.push(format!("{}={}", text(key), text(value)))).unwrap();
        all
    }

    #[test]
    fn a_snapshot_and_changes_merge_sorted_and_the_change_wins() {
        let first =
            Changes::from([change("b", Some("1")), change("d", Some("2")), change("f", Some("3")), change("g", None)]);
        let file = merged_file(&[], &first).unwrap();
        assert_eq!(list(&file, &Changes::new()), ["b=1", "d=2", "f=3"]);
        let second =
            Changes::from([change("a", Some("0")), change("d", None), change("f", Some("4")), change("z", Some("5"))]);
        assert_eq!(list(&file, &second), ["a=0", "b=1", "f=4", "z=5"]);
    }

    #[test]
    fn changes_that_come_while_a_snapshot_fails_are_newer_than_it() {
        let mut definitions = Definitions::default();
        definitions.apply(vec![change("a", Some("1")), change("b", Some("1"))]);
        assert_eq!(definitions.settle().len(), 2);
        definitions.apply(vec![change("a", None)]);
        definitions.unsettle();
        assert_eq!(list(&[], &definitions.changes), ["b=1"]);
    }
}
