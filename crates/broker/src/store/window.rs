//! A file that is read from its start to its end, with places left out, in pieces of a bounded size.

use std::io;
use std::sync::Arc;

use super::disk::DiskFile;
use super::format::{RECORD_HEADER, RecordHeader};

const PIECE: usize = 256 << 10;

pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    /// What lies behind is not there, for this reader.
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>, end: u64) -> Self {
        Self { file, end, start: 0, bytes: Vec::new() }
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The bytes at `offset`, or `None` if the file does not have all of them.
    pub(crate) fn get(&mut self, offset: u64, length: usize) -> io::Result<Option<&[u8]>> {
        if offset.checked_add(length as u64).is_none_or(|end| end > self.end) {
            return Ok(None);
        }
        let is_here = offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !is_here {
            self.fill(offset, length.max(PIECE))?;
        }
        let at = (offset - self.start) as usize;
        Ok(self.bytes.get(at..at + length))
    }

    fn fill(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let length = length.min(usize::try_from(self.end - offset).unwrap_or(usize::MAX));
        if self.bytes.capacity() > 4 * PIECE && length <= PIECE {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.bytes.resize(length, 0);
        self.start = offset;
        let filled = self.file.read_up_to_at(&mut self.bytes, offset)?;
        self.bytes.truncate(filled);
        Ok(())
    }

    /// The record header at `offset`, if there is a valid one.
    pub(crate) fn record(&mut self, offset: u64, seed: u32) -> io::Result<Option<RecordHeader>> {
        Ok(self.get(offset, RECORD_HEADER)?.and_then(|bytes| RecordHeader::read(bytes, seed, offset)))
    }

    /// The CRC of a range of any length; `None` if the file does not have all of it.
    pub(crate) fn crc(&mut self, mut offset: u64, mut length: u64) -> io::Result<Option<u32>> {
        let mut crc = crc32fast::Hasher::new();
        while length > 0 {
            let piece = length.min(PIECE as u64);
            let Some(bytes) = self.get(offset, piece as usize)? else { return Ok(None) };
            crc.update(bytes);
            offset += piece;
            length -= piece;
        }
        Ok(Some(crc.finalize()))
    }
}
