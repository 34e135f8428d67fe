//! What was appended and is not committed yet: records in one buffer, ready to be written at any place of any segment.

use super::Placement;
use super::format::{PutMeta, RANGE_BYTES, RECORD_HEADER, RecordHeader, RecordKind};
use super::segment::Extent;

/// A definition that was set, or removed.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Length of the record that begins a batch.
const BEGIN: usize = RECORD_HEADER + 16;
/// Ranges in one Forget: one damaged record must not lose more than these.
const RANGES_PER_RECORD: usize = 1024;
/// A buffer larger than this is not kept for the next batch.
const KEPT_BUFFER: usize = 8 << 20;

#[derive(Debug)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where in `bytes` each record starts, and its header, which is written when the place is known.
    records: Vec<(usize, RecordHeader)>,
    forgets: Vec<u64>,
    changes: Vec<Change>,
    /// The forgets are in `bytes`.
    complete: bool,
}

/// A message of a batch that was written.
#[derive(Debug)]
pub(crate) struct WrittenPut<'a> {
    pub(crate) extent: Extent,
    pub(crate) slot: u32,
    pub(crate) body_length: u32,
    pub(crate) meta: PutMeta<'a>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; BEGIN], records: Vec::new(), forgets: Vec::new(), changes: Vec::new(), complete: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.forgets.is_empty()
    }

    /// Bytes that will be written, about.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len() + self.forgets.len() * RANGE_BYTES
    }

    /// Bytes that were written.
    pub(crate) fn written_length(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn put(&mut self, copies: &[Placement], header: &[u8], body: &[u8]) {
        self.record(RecordKind::Put, |meta| PutMeta::write(meta, copies.iter().copied(), header), body);
    }

    pub(crate) fn forget(&mut self, copy: u64) {
        self.forgets.push(copy);
    }

    pub(crate) fn define(&mut self, key: &[u8], value: &[u8]) {
        self.record(RecordKind::Define, |meta| meta.extend_from_slice(key), value);
        self.changes.push((key.into(), Some(value.into())));
    }

    pub(crate) fn undefine(&mut self, key: &[u8]) {
        self.record(RecordKind::Undefine, |meta| meta.extend_from_slice(key), &[]);
        self.changes.push((key.into(), None));
    }

    fn record(&mut self, kind: RecordKind, write_meta: impl FnOnce(&mut Vec<u8>), body: &[u8]) {
        let start = self.bytes.len();
        self.bytes.resize(start + RECORD_HEADER, 0);
        write_meta(&mut self.bytes);
        let meta = &self.bytes[start + RECORD_HEADER..];
        let header = RecordHeader {
            kind,
            slot: 0,
            // `Log` refuses what is too large for these.
            meta_length: meta.len() as u32,
            body_length: body.len() as u32,
            meta_crc: crc32fast::hash(meta),
            body_crc: crc32fast::hash(body),
        };
        self.bytes.extend_from_slice(body);
        self.records.push((start, header));
    }

    /// The bytes as they have to be written at `offset` of the segment with `seed`. May be asked for again, for another place.
    pub(crate) fn bytes_for(&mut self, seed: u32, offset: u64, first_slot: u32, number: u64) -> &[u8] {
        if !self.complete {
            self.complete = true;
            self.write_forgets();
        }
        let following = (self.bytes.len() - BEGIN) as u64;
        self.bytes[RECORD_HEADER..RECORD_HEADER + 8].copy_from_slice(&number.to_le_bytes());
        self.bytes[RECORD_HEADER + 8..BEGIN].copy_from_slice(&following.to_le_bytes());
        let begin = RecordHeader {
            kind: RecordKind::Begin,
            slot: 0,
            meta_length: 16,
            body_length: 0,
            meta_crc: crc32fast::hash(&self.bytes[RECORD_HEADER..BEGIN]),
            body_crc: 0,
        };
        begin.write(&mut self.bytes, seed, offset);
        let mut slot = first_slot;
        for (start, header) in &mut self.records {
            if header.kind == RecordKind::Put {
                header.slot = slot;
                let count = &self.bytes[*start + RECORD_HEADER..];
                slot += u32::from_le_bytes([count[0], count[1], count[2], count[3]]);
            }
            header.write(&mut self.bytes[*start..], seed, offset + *start as u64);
        }
        &self.bytes
    }

    fn write_forgets(&mut self) {
        let mut forgets = std::mem::take(&mut self.forgets);
        forgets.sort_unstable();
        let mut ranges: Vec<(u64, u32)> = Vec::new();
        for copy in &forgets {
            match ranges.last_mut() {
                Some((first, count)) if *first + u64::from(*count) == *copy => *count += 1,
                // The same copy twice.
                Some((first, count)) if *copy < *first + u64::from(*count) => {}
                _ => ranges.push((*copy, 1)),
            }
        }
        for ranges in ranges.chunks(RANGES_PER_RECORD) {
            let write = |meta: &mut Vec<u8>| {
                for (first, count) in ranges {
                    meta.extend_from_slice(&first.to_le_bytes());
                    meta.extend_from_slice(&count.to_le_bytes());
                }
            };
            self.record(RecordKind::Forget, write, &[]);
        }
        self.forgets = forgets;
    }

    /// The messages, after the batch was written at `offset`.
    pub(crate) fn puts(&self, offset: u64) -> impl Iterator<Item = WrittenPut<'_>> {
        self.records.iter().filter(|(_, header)| header.kind == RecordKind::Put).filter_map(move |(start, header)| {
            let meta = &self.bytes[start + RECORD_HEADER..][..header.meta_length as usize];
            Some(WrittenPut {
                // A segment is shorter than 4 GiB, and so is a record.
                extent: Extent { offset: (offset + *start as u64) as u32, length: header.record_length() as u32 },
                slot: header.slot,
                body_length: header.body_length,
                meta: PutMeta::read(meta)?,
            })
        })
    }

    pub(crate) fn forgets(&self) -> &[u64] {
        &self.forgets
    }

    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Makes the batch empty, after it was committed.
    pub(crate) fn clear(&mut self) {
        if self.bytes.capacity() > KEPT_BUFFER {
            *self = Self::new();
            return;
        }
        self.bytes.clear();
        self.bytes.resize(BEGIN, 0);
        self.records.clear();
        self.forgets.clear();
        self.changes.clear();
        self.complete = false;
    }
}
