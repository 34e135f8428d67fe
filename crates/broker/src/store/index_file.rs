//! The index file of a complete segment: all that start-up has to know of its messages, without their bodies.

use super::Placement;
use super::format::{self, Bytes, COPY_BYTES};
use super::segment::Extent;

const MAGIC: [u8; 8] = *b"HOMINGix";
/// magic, version, records, segment number, salt, valid length of the segment, CRC of the records, CRC of this header.
const HEADER: usize = 8 + 4 + 4 + 8 + 8 + 8 + 4 + 4;

/// Entries of an index, in the order of their slots.
#[derive(Clone, Debug, Default)]
pub(crate) struct IndexEntries {
    bytes: Vec<u8>,
    records: u32,
}

/// One message of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexEntry<'a> {
    pub(crate) extent: Extent,
    /// The slot of the first copy.
    pub(crate) slot: u32,
    pub(crate) body_length: u32,
    copies: &'a [u8],
    pub(crate) header: &'a [u8],
}

impl<'a> IndexEntry<'a> {
    pub(crate) fn copies(&self) -> impl ExactSizeIterator<Item = Placement> + use<'a> {
        self.copies.chunks_exact(COPY_BYTES).map(|bytes| {
            let mut bytes = Bytes(bytes);
            // The chunks are as long as two integers.
            Placement { copy: bytes.u64().unwrap_or(0), queue: bytes.u64().unwrap_or(0) }
        })
    }

    fn read(bytes: &mut Bytes<'a>) -> Option<Self> {
        let extent = Extent { offset: bytes.u32()?, length: bytes.u32()? };
        let (slot, body_length) = (bytes.u32()?, bytes.u32()?);
        let (copies, header) = (bytes.u32()? as usize, bytes.u32()? as usize);
        let copies = bytes.take(copies.checked_mul(COPY_BYTES)?)?;
        Some(Self { extent, slot, body_length, copies, header: bytes.take(header)? })
    }
}

impl IndexEntries {
    pub(crate) fn push(
        &mut self,
        extent: Extent,
        slot: u32,
        body_length: u32,
        copies: impl ExactSizeIterator<Item = Placement>,
        header: &[u8],
    ) {
        for number in [extent.offset, extent.length, slot, body_length, length(copies.len()), length(header.len())] {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        for placement in copies {
            self.bytes.extend_from_slice(&placement.copy.to_le_bytes());
            self.bytes.extend_from_slice(&placement.queue.to_le_bytes());
        }
        self.bytes.extend_from_slice(header);
        self.records += 1;
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = IndexEntry<'_>> {
        let mut bytes = Bytes(&self.bytes);
        (0..self.records).map_while(move |_| IndexEntry::read(&mut bytes))
    }

    /// The header of an index file; the entries follow it.
    pub(crate) fn file_header(&self, number: u64, salt: u64, segment_length: u64) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER);
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&format::VERSION.to_le_bytes());
        file.extend_from_slice(&self.records.to_le_bytes());
        for value in [number, salt, segment_length] {
            file.extend_from_slice(&value.to_le_bytes());
        }
        file.extend_from_slice(&crc32fast::hash(&self.bytes).to_le_bytes());
        file.extend_from_slice(&crc32fast::hash(&file).to_le_bytes());
        file
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Entries of an index file, if it is intact and of this segment.
    pub(crate) fn from_file(mut file: Vec<u8>, number: u64, salt: u64, segment_length: u64) -> Option<Self> {
        let mut header = Bytes(file.get(..HEADER)?);
        let magic = header.take(8)? == MAGIC;
        let version = header.u32()? == format::VERSION;
        let records = header.u32()?;
        let segment = (header.u64()?, header.u64()?, header.u64()?) == (number, salt, segment_length);
        let crc = header.u32()?;
        let intact = header.u32()? == crc32fast::hash(&file[..HEADER - 4]) && crc == crc32fast::hash(&file[HEADER..]);
        if !(magic && version && segment && intact) {
            return None;
        }
        file.drain(..HEADER);
        let entries = Self { bytes: file, records };
        (entries.iter().count() == records as usize).then_some(entries)
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_file_with_any_damaged_byte_is_none() {
        let mut entries = IndexEntries::default();
        let copies = [Placement { copy: 1, queue: 7 }, Placement { copy: 2, queue: 8 }];
        entries.push(Extent { offset: 128, length: 50 }, 0, 9, copies.into_iter(), b"header");
        entries.push(Extent { offset: 178, length: 50 }, 2, 0, [Placement { copy: 3, queue: 7 }].into_iter(), b"");
        let mut file = entries.file_header(4, 5, 228);
        file.extend_from_slice(entries.bytes());
        let read = IndexEntries::from_file(file.clone(), 4, 5, 228).unwrap();
        let first = read.iter().next().unwrap();
        assert_eq!((first.copies().collect::<Vec<_>>(), first.header), (copies.to_vec(), &b"header"[..]));
        assert_eq!(read.iter().nth(1).unwrap().slot, 2);
        assert!(IndexEntries::from_file(file.clone(), 4, 6, 228).is_none());
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 1;
            assert!(IndexEntries::from_file(damaged, 4, 5, 228).is_none(), "byte {at}");
            assert!(IndexEntries::from_file(file[..at].to_vec(), 4, 5, 228).is_none(), "cut at {at}");
        }
    }
}
