//! Writes what lives in some neighbouring segments into one pack, so that their space comes back.

use std::io;
use std::sync::Arc;

use super::Placement;
use super::bits::Bits;
use super::damage::{Damage, Lost};
use super::disk::DiskFile;
use super::error::{Error, Result};
use super::format::{PutMeta, RECORD_HEADER, RecordHeader, RecordKind, SegmentHeader, SegmentKind, random_salt};
use super::index_file::IndexEntries;
use super::reader::Shared;
use super::segment::{Extent, Segment, Table, index_name};
use super::upkeep::write_new;
use super::window::Window;

/// The pack is written in pieces of about this size.
const PIECE: usize = 1 << 20;

/// A segment as it was when the job was made.
struct Victim {
    number: u64,
    file_name: String,
    seed: u32,
    length: u64,
    table: Arc<Table>,
    live: Bits,
}

pub(crate) struct PackJob {
    shared: Arc<Shared>,
    /// Guards: no other process may open the store, and take what is written here for a leftover, before the job has ended.
    _lock: Arc<dyn Send + Sync>,
    pub(crate) number: u64,
    salt: u64,
    victims: Vec<Victim>,
}

impl std::fmt::Debug for PackJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackJob").field("number", &self.number).finish_non_exhaustive()
    }
}

/// A pack that was written, durably but for its name.
#[derive(Debug)]
pub(crate) struct Packed {
    table: Table,
    length: u64,
    pub(crate) damages: Vec<Damage>,
}

impl Packed {
    /// The pack as a segment; `is_live` is asked for each copy whether it was not forgotten meanwhile.
    pub(crate) fn segment(&mut self, job: &PackJob, is_live: impl Fn(u64) -> bool) -> Segment {
        let table = std::mem::take(&mut self.table);
        let mut live = Bits::all_set(table.len());
        for (slot, copy) in table.copies.iter().enumerate() {
            if !is_live(*copy) {
                live.clear(slot);
            }
        }
        Segment::new(job.number, SegmentKind::Pack, job.salt, self.length).with_table(table, live)
    }
}

impl PackJob {
    pub(crate) fn new(shared: &Arc<Shared>, lock: &Arc<dyn Send + Sync>, number: u64, segments: &[Segment]) -> Self {
        let victims = segments
            .iter()
            .map(|segment| Victim {
                number: segment.number,
                file_name: segment.file_name(),
                seed: segment.seed(),
                length: segment.length,
                table: Arc::clone(&segment.table),
                live: segment.live.clone(),
            })
            .collect();
        Self { shared: Arc::clone(shared), _lock: Arc::clone(lock), number, salt: random_salt(), victims }
    }

    pub(crate) fn victims(&self) -> Vec<u64> {
        self.victims.iter().map(|victim| victim.number).collect()
    }

    pub(crate) fn run(&self) -> Result<Packed> {
        let disk = &*self.shared.disk;
        let path = self.shared.directory.join(SegmentKind::Pack.file_name(self.number));
        let header = SegmentHeader { kind: SegmentKind::Pack, number: self.number, salt: self.salt, before: None };
        let error = |error| Error::io("write a pack", &path, error);
        let mut output = Output {
            file: disk.create(&path).map_err(error)?,
            seed: header.seed(),
            buffer: header.encode().to_vec(),
            written: 0,
            table: Table::default(),
            entries: IndexEntries::default(),
        };
        let mut damages = Vec::new();
        for victim in &self.victims {
            self.copy(victim, &mut output, &mut damages)?;
        }
        output.flush().and_then(|()| output.file.sync()).map_err(error)?;
        let index_path = self.shared.directory.join(index_name(self.number));
        let header = output.entries.file_header(self.number, self.salt, output.written);
        write_new(disk, &index_path, &[&header, output.entries.bytes()])
            .map_err(|error| Error::io("write the index of a pack", &index_path, error))?;
        Ok(Packed { table: output.table, length: output.written, damages })
    }

    fn copy(&self, victim: &Victim, output: &mut Output, damages: &mut Vec<Damage>) -> Result<()> {
        let path = self.shared.directory.join(&victim.file_name);
        let read = |error| Error::io("read a segment that is to be packed", &path, error);
        let mut window = Window::new(self.shared.disk.open(&path).map_err(read)?, victim.length);
        let table = &victim.table;
        let mut slot = 0;
        while slot < table.len() {
            let extent = table.extents[slot];
            let start = slot;
            while slot < table.len() && table.extents[slot].offset == extent.offset {
                slot += 1;
            }
            let lives: Vec<u64> =
                (start..slot).filter(|slot| victim.live.get(*slot)).map(|slot| table.copies[slot]).collect();
            if lives.is_empty() {
                continue;
            }
            let record = window.get(u64::from(extent.offset), extent.length as usize).map_err(read)?;
            let is_written = match record {
                Some(record) => output.push(record, victim.seed, u64::from(extent.offset), &lives),
                None => Ok(false),
            };
            if !is_written.map_err(|error| Error::io("write a pack", &path, error))? {
                damages.push(Damage {
                    file: path.clone(),
                    offset: u64::from(extent.offset),
                    bytes: u64::from(extent.length),
                    lost: Lost::Message { copies: lives },
                });
            }
        }
        Ok(())
    }
}

struct Output {
    file: Arc<dyn DiskFile>,
    seed: u32,
    buffer: Vec<u8>,
    /// Bytes of the file before those in the buffer.
    written: u64,
    table: Table,
    entries: IndexEntries,
}

impl Output {
    /// Copies a record with those of its copies that live. Returns false if it is so damaged that it cannot be copied; a
    /// damaged body is copied as it is, and found when it is read.
    fn push(&mut self, record: &[u8], seed: u32, offset: u64, lives: &[u64]) -> io::Result<bool> {
        let Some(header) = RecordHeader::read(record, seed, offset) else { return Ok(false) };
        let body_at = RECORD_HEADER + header.meta_length as usize;
        let Some((meta, body)) =
            record.get(RECORD_HEADER..).and_then(|rest| rest.split_at_checked(body_at - RECORD_HEADER))
        else {
            return Ok(false);
        };
        let Some(put) = PutMeta::read(meta).filter(|_| crc32fast::hash(meta) == header.meta_crc) else {
            return Ok(false);
        };
        let copies: Vec<Placement> =
            put.copies().filter(|placement| lives.binary_search(&placement.copy).is_ok()).collect();
        let start = self.buffer.len();
        let offset = self.written + start as u64;
        self.buffer.resize(start + RECORD_HEADER, 0);
        PutMeta::write(&mut self.buffer, copies.iter().copied(), put.header);
        let meta = &self.buffer[start + RECORD_HEADER..];
        let header = RecordHeader {
            kind: RecordKind::Put,
            slot: self.table.len() as u32,
            meta_length: meta.len() as u32,
            meta_crc: crc32fast::hash(meta),
            ..header
        };
        self.buffer.extend_from_slice(body);
        header.write(&mut self.buffer[start..], self.seed, offset);
        // A pack is not longer than a segment and one message.
        let extent = Extent { offset: offset as u32, length: header.record_length() as u32 };
        self.entries.push(extent, header.slot, header.body_length, copies.iter().copied(), put.header);
        for placement in copies {
            self.table.copies.push(placement.copy);
            self.table.extents.push(extent);
        }
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}
