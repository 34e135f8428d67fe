//! Reads a segment from its own bytes: after a crash, or when its index file is damaged.

use std::io;
use std::path::{Path, PathBuf};

use super::batch::Change;
use super::damage::{Damage, Lost};
use super::format::{Bytes, PutMeta, RECORD_HEADER, RecordHeader, RecordKind, SEGMENT_START, forgotten_ranges};
use super::index_file::IndexEntries;
use super::segment::Extent;
use super::window::Window;

/// What a segment holds.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    pub(crate) entries: IndexEntries,
    /// Ranges of ids, in the order of the log.
    pub(crate) forgets: Vec<(u64, u32)>,
    /// In the order of the log.
    pub(crate) changes: Vec<Change>,
    /// Up to where the segment is valid.
    pub(crate) end: u64,
    pub(crate) damages: Vec<Damage>,
}

/// How much of a segment is known to have been synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synced {
    /// All of it, up to where the reader was told to read.
    All,
    /// All but perhaps the last batch: this is the newest segment of a log.
    PerhapsNotTheLast,
}

/// Reads all records of a segment whose header was read already.
pub(crate) fn scan(path: &Path, window: Window, seed: u32, synced: Synced) -> io::Result<Scanned> {
    let mut scan = Scan { path: path.into(), window, seed, synced, batch: Batch::default(), done: Scanned::default() };
    scan.run()?;
    scan.name_unknown();
    Ok(scan.done)
}

/// The records since the last Begin.
#[derive(Debug, Default)]
struct Batch {
    start: u64,
    /// Where it ends, if its Begin could be read.
    end: Option<u64>,
    is_damaged: bool,
    records: Vec<(u64, RecordHeader)>,
}

struct Scan {
    path: PathBuf,
    window: Window,
    seed: u32,
    synced: Synced,
    batch: Batch,
    done: Scanned,
}

impl Scan {
    fn run(&mut self) -> io::Result<()> {
        let mut at = SEGMENT_START;
        if self.window.end() < at {
            // Only the first of the header's two copies was written.
            self.done.end = self.window.end();
            return Ok(());
        }
        self.batch.start = at;
        while at < self.window.end() {
            if self.batch.end == Some(at) {
                // Something is behind it: it had been synced before that was written.
                self.close_batch(at, true)?;
            }
            match self.window.record(at, self.seed)? {
                Some(header) if at + header.record_length() > self.window.end() => break,
                Some(header) if header.kind == RecordKind::Begin => {
                    if at != self.batch.start {
                        self.close_batch(at, true)?;
                    }
                    at = self.begin_batch(at, header)?;
                }
                Some(header) => {
                    self.batch.records.push((at, header));
                    at += header.record_length();
                }
                None => match self.next_record(at)? {
                    Some(next) => {
                        self.batch.is_damaged = true;
                        self.damage(at, next - at, Lost::Unknown { after: None, before: None });
                        at = next;
                    }
                    None => break,
                },
            }
        }
        self.finish(at)
    }

    fn begin_batch(&mut self, at: u64, header: RecordHeader) -> io::Result<u64> {
        let meta_at = at + RECORD_HEADER as u64;
        let next = at + header.record_length();
        let following = match self.meta(at, &header)? {
            Some(meta) => Bytes(meta.get(8..).unwrap_or_default()).u64(),
            None => {
                self.batch.is_damaged = true;
                self.damage(meta_at, u64::from(header.meta_length), Lost::Nothing);
                None
            }
        };
        self.batch.end = following.and_then(|following| next.checked_add(following));
        Ok(next)
    }

    /// What is left at the end of the segment: `at` is behind the last record that could be read.
    fn finish(&mut self, at: u64) -> io::Result<()> {
        let end = self.window.end();
        let is_synced = self.synced == Synced::All;
        let is_short = self.batch.end.is_some_and(|batch_end| batch_end > end);
        if is_short && !is_synced {
            // The write of the batch was interrupted. All of it goes, so that it is there as a whole or not at all.
            let start = self.batch.start;
            self.batch.records.clear();
            self.done.end = start;
            // What was damaged in it is part of what is cut.
            self.done.damages.retain(|damage| damage.offset < start);
            self.damage(start, end - start, Lost::Unfinished { kept: None });
            return Ok(());
        }
        let in_batch = self.batch.end.is_some_and(|batch_end| batch_end > at);
        if at == end || in_batch || is_synced {
            if at < end {
                self.batch.is_damaged = true;
                self.damage(at, end - at, Lost::Unknown { after: None, before: None });
            }
            self.done.end = end;
            return self.close_batch(end, is_synced);
        }
        // Behind the last complete batch is something in which no record can be recognised. So that batch had been synced.
        let is_known = self.batch.end == Some(at) || self.batch.records.is_empty();
        self.close_batch(at, is_known)?;
        self.done.end = at;
        self.damage(at, end - at, Lost::Unfinished { kept: None });
        Ok(())
    }

    /// The next place that has a valid record header, within the batch or at its end.
    fn next_record(&mut self, at: u64) -> io::Result<Option<u64>> {
        let limit = self.batch.end.filter(|end| *end > at && *end < self.window.end());
        for candidate in at + 1..limit.unwrap_or(self.window.end()) {
            if self.window.record(candidate, self.seed)?.is_some() {
                return Ok(Some(candidate));
            }
        }
        Ok(limit)
    }

    /// Takes what is in the batch.
    fn close_batch(&mut self, next: u64, is_synced: bool) -> io::Result<()> {
        let batch = std::mem::replace(&mut self.batch, Batch { start: next, ..Batch::default() });
        let mut is_damaged = batch.is_damaged;
        if !is_synced {
            for (at, header) in &batch.records {
                let body_at = at + header.record_length() - u64::from(header.body_length);
                is_damaged |= self.meta(*at, header)?.is_none();
                is_damaged |= self.window.crc(body_at, u64::from(header.body_length))? != Some(header.body_crc);
            }
        }
        // Guards: loss of power while the last batch was being synced. Some of its sectors may be missing; if the copy that a
        // message moved to is among them, that the old copy was forgotten must not count.
        let counts = is_synced || !is_damaged;
        for (at, header) in batch.records {
            self.take(at, header, counts, is_synced)?;
        }
        Ok(())
    }

    fn take(&mut self, at: u64, header: RecordHeader, counts: bool, is_synced: bool) -> io::Result<()> {
        let body_at = at + header.record_length() - u64::from(header.body_length);
        let whole = header.record_length();
        match header.kind {
            RecordKind::Begin => {}
            RecordKind::Put => return self.take_put(at, header, is_synced),
            RecordKind::Forget => match self.window.get(at + RECORD_HEADER as u64, header.meta_length as usize)? {
                Some(meta) if crc32fast::hash(meta) == header.meta_crc && counts => {
                    self.done.forgets.extend(forgotten_ranges(meta));
                }
                _ => self.damage(at, whole, Lost::Forgets),
            },
            RecordKind::Define => {
                let key = self.meta(at, &header)?.map(<[u8]>::to_vec);
                let body = self.window.get(body_at, header.body_length as usize)?;
                let value = body.filter(|body| crc32fast::hash(body) == header.body_crc).map(<[u8]>::to_vec);
                match (key, value) {
                    (Some(key), Some(value)) => self.done.changes.push((key, Some(value))),
                    (key, _) => self.damage(at, whole, Lost::Definition { key }),
                }
            }
            RecordKind::Undefine => match self.meta(at, &header)?.map(<[u8]>::to_vec) {
                Some(key) if counts => self.done.changes.push((key, None)),
                _ => self.damage(at, whole, Lost::Undefine),
            },
        }
        Ok(())
    }

    fn take_put(&mut self, at: u64, header: RecordHeader, is_synced: bool) -> io::Result<()> {
        let body_at = at + header.record_length() - u64::from(header.body_length);
        // A body in what was synced is checked when it is read.
        let body_is_bad =
            !is_synced && self.window.crc(body_at, u64::from(header.body_length))? != Some(header.body_crc);
        let path = &self.path;
        let meta = self.window.get(at + RECORD_HEADER as u64, header.meta_length as usize)?;
        let put = meta.filter(|meta| crc32fast::hash(meta) == header.meta_crc).and_then(PutMeta::read);
        let damage = |lost| Damage { file: path.clone(), offset: at, bytes: header.record_length(), lost };
        let Some(put) = put else {
            self.done.damages.push(damage(Lost::Unknown { after: None, before: None }));
            return Ok(());
        };
        if body_is_bad {
            let copies = put.copies().map(|placement| placement.copy).collect();
            self.done.damages.push(damage(Lost::Message { copies }));
        } else {
            // A segment is shorter than 4 GiB.
            let extent = Extent { offset: at as u32, length: header.record_length() as u32 };
            self.done.entries.push(extent, header.slot, header.body_length, put.copies(), put.header);
        }
        Ok(())
    }

    fn meta(&mut self, at: u64, header: &RecordHeader) -> io::Result<Option<&[u8]>> {
        let meta = self.window.get(at + RECORD_HEADER as u64, header.meta_length as usize)?;
        Ok(meta.filter(|meta| crc32fast::hash(meta) == header.meta_crc))
    }

    fn damage(&mut self, offset: u64, bytes: u64, lost: Lost) {
        self.done.damages.push(Damage { file: self.path.clone(), offset, bytes, lost });
    }

    /// Records that could not be recognised are named by the ids before and behind them.
    fn name_unknown(&mut self) {
        if !self.done.damages.iter().any(|damage| matches!(damage.lost, Lost::Unknown { .. })) {
            return;
        }
        let mut bounds: Vec<(u64, u64, u64)> = Vec::new();
        for entry in self.done.entries.iter() {
            if let (Some(first), Some(last)) = (entry.copies().next(), entry.copies().last()) {
                bounds.push((u64::from(entry.extent.offset), first.copy, last.copy));
            }
        }
        for damage in &mut self.done.damages {
            if let Lost::Unknown { after, before } = &mut damage.lost {
                let next = bounds.partition_point(|(offset, ..)| *offset < damage.offset);
                *after = next.checked_sub(1).map(|at| bounds[at].2);
                *before = bounds.get(next).map(|(_, first, _)| *first);
            }
        }
    }
}
