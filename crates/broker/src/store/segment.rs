//! The table of one segment: where its copies are, and which of them live.

use std::collections::HashMap;
use std::sync::Arc;

use super::bits::Bits;
use super::format::{self, SegmentKind};

/// Where a record is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Copies of a segment in the order of their slots, which is the order of their ids. 16 bytes a copy.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) copies: Vec<u64>,
    pub(crate) extents: Vec<Extent>,
}

impl Table {
    pub(crate) fn with_capacity(copies: usize) -> Self {
        Self { copies: Vec::with_capacity(copies), extents: Vec::with_capacity(copies) }
    }

    pub(crate) fn push(&mut self, extent: Extent, copies: impl Iterator<Item = u64>) {
        for copy in copies {
            self.copies.push(copy);
            self.extents.push(extent);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.copies.len()
    }

    /// The slot of a copy.
    pub(crate) fn slot(&self, copy: u64) -> Option<usize> {
        let first = *self.copies.first()?;
        // Most segments have every id from their first to their last.
        let guess = usize::try_from(copy.checked_sub(first)?).unwrap_or(usize::MAX);
        if self.copies.get(guess) == Some(&copy) {
            return Some(guess);
        }
        self.copies.binary_search(&copy).ok()
    }
}

/// A segment as the store knows it while it runs.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) kind: SegmentKind,
    pub(crate) salt: u64,
    /// Up to where the file is valid.
    pub(crate) length: u64,
    /// Shared with the job that packs the segment. Nothing is added once the segment is complete.
    pub(crate) table: Arc<Table>,
    pub(crate) live: Bits,
    pub(crate) live_copies: usize,
    /// Bytes of the records that have a live copy.
    pub(crate) live_bytes: u64,
    /// A damaged record is left out of the table, so that a slot here is not the number that its record has.
    pub(crate) has_gaps: bool,
    /// Live copies of the records that have had more than one, by offset.
    shared: HashMap<u32, u32>,
}

impl Segment {
    pub(crate) fn new(number: u64, kind: SegmentKind, salt: u64, length: u64) -> Self {
        Self {
            number,
            kind,
            salt,
            length,
            table: Arc::default(),
            live: Bits::default(),
            live_copies: 0,
            live_bytes: 0,
            has_gaps: false,
            shared: HashMap::new(),
        }
    }

    /// From a complete table, with what lives of it.
    pub(crate) fn with_table(mut self, table: Table, live: Bits) -> Self {
        debug_assert_eq!(table.len(), live.len());
        let mut slot = 0;
        while slot < table.len() {
            let offset = table.extents[slot].offset;
            let mut end = slot;
            let mut live_here = 0;
            while end < table.len() && table.extents[end].offset == offset {
                live_here += u32::from(live.get(end));
                end += 1;
            }
            self.live_copies += live_here as usize;
            if live_here > 0 {
                self.live_bytes += u64::from(table.extents[slot].length);
            }
            if end - slot > 1 && live_here > 0 {
                self.shared.insert(offset, live_here);
            }
            slot = end;
        }
        self.table = Arc::new(table);
        self.live = live;
        self
    }

    pub(crate) fn seed(&self) -> u32 {
        format::seed(self.salt, self.number)
    }

    pub(crate) fn first_copy(&self) -> Option<u64> {
        self.table.copies.first().copied()
    }

    /// Adds a message with copies of these ids.
    ///
    /// The table must not be shared yet.
    pub(crate) fn push(&mut self, extent: Extent, copies: impl ExactSizeIterator<Item = u64>) {
        let count = copies.len();
        if count == 0 {
            return;
        }
        if let Some(table) = Arc::get_mut(&mut self.table) {
            table.push(extent, copies);
            (0..count).for_each(|_| self.live.push_set());
            self.live_copies += count;
            self.live_bytes += u64::from(extent.length);
            if count > 1 {
                self.shared.insert(extent.offset, u32::try_from(count).unwrap_or(u32::MAX));
            }
        } else {
            debug_assert!(false, "a complete segment was added to");
        }
    }

    /// Gives back what the tables have too much of, when nothing will be added any more.
    pub(crate) fn shrink(&mut self) {
        if let Some(table) = Arc::get_mut(&mut self.table) {
            table.copies.shrink_to_fit();
            table.extents.shrink_to_fit();
        }
    }

    /// The place of a live copy.
    pub(crate) fn locate(&self, copy: u64) -> Option<Extent> {
        let slot = self.table.slot(copy)?;
        self.live.get(slot).then(|| self.table.extents[slot])
    }

    /// Forgets a copy; returns the bytes that nothing needs any more, or `None` if there is no such live copy.
    pub(crate) fn forget(&mut self, copy: u64) -> Option<u64> {
        let slot = self.table.slot(copy)?;
        if !self.live.clear(slot) {
            return None;
        }
        self.live_copies -= 1;
        let extent = self.table.extents[slot];
        if let Some(left) = self.shared.get_mut(&extent.offset) {
            *left -= 1;
            if *left > 0 {
                return Some(0);
            }
            self.shared.remove(&extent.offset);
        }
        self.live_bytes -= u64::from(extent.length);
        Some(u64::from(extent.length))
    }

    /// Whether less than half of the file is needed.
    pub(crate) fn is_mostly_dead(&self) -> bool {
        self.live_bytes.saturating_mul(2) < self.length
    }

    pub(crate) fn file_name(&self) -> String {
        self.kind.file_name(self.number)
    }

    pub(crate) fn index_name(&self) -> String {
        index_name(self.number)
    }
}

pub(crate) fn index_name(number: u64) -> String {
    format!("{number:08}.index")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment() -> Segment {
        let mut segment = Segment::new(1, SegmentKind::Log, 5, 128);
        segment.push(Extent { offset: 128, length: 10 }, [4].into_iter());
        segment.push(Extent { offset: 138, length: 20 }, [5, 9, 10].into_iter());
        segment.push(Extent { offset: 158, length: 30 }, [20].into_iter());
        segment
    }

    #[test]
    fn bytes_of_a_shared_record_are_dead_with_its_last_copy() {
        let mut segment = segment();
        assert_eq!((segment.live_copies, segment.live_bytes), (5, 60));
        assert_eq!(segment.forget(9), Some(0));
        assert_eq!(segment.forget(9), None);
        assert_eq!(segment.forget(5), Some(0));
        assert_eq!(segment.locate(9), None);
        assert_eq!(segment.locate(10), Some(Extent { offset: 138, length: 20 }));
        assert_eq!(segment.forget(10), Some(20));
        assert_eq!(segment.forget(11), None);
        assert_eq!((segment.live_copies, segment.live_bytes), (2, 40));
    }

    #[test]
    fn a_restored_table_counts_as_the_one_that_was_built() {
        let mut built = segment();
        built.forget(5);
        built.forget(20);
        let table = Table { copies: built.table.copies.clone(), extents: built.table.extents.clone() };
        let mut restored = Segment::new(1, SegmentKind::Log, 5, 128).with_table(table, built.live.clone());
        assert_eq!((restored.live_copies, restored.live_bytes), (built.live_copies, built.live_bytes));
        assert_eq!(restored.forget(9), Some(0));
        assert_eq!(restored.forget(10), Some(20));
    }
}
