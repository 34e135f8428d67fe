//! Bytes of a segment: the header of the file, and records. `docs/broker-store.md` describes them.

use super::Placement;

/// Version of the format of every file. A greater one is refused.
pub(crate) const VERSION: u32 = 1;

/// Length of the two copies of a segment's header.
pub(crate) const SEGMENT_START: u64 = 128;
const HEADER_COPY: usize = 64;
const SEGMENT_MAGIC: [u8; 8] = *b"HOMINGsg";

/// Length of a record's fixed header.
pub(crate) const RECORD_HEADER: usize = 28;
/// Bytes of one copy in the meta of a Put.
pub(crate) const COPY_BYTES: usize = 16;
/// Bytes of one range in the meta of a Forget.
pub(crate) const RANGE_BYTES: usize = 12;

/// Reads integers from the start of a slice; `None` when it is too short.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes that are preceded by their length.
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }
}

/// Which of the two kinds of segments a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SegmentKind {
    /// Written batch by batch.
    Log = 1,
    /// What lived in other segments, written once.
    Pack = 2,
}

impl SegmentKind {
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Log, Self::Pack].into_iter().find(|kind| *kind as u32 == number)
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Pack => "pack",
        }
    }

    pub(crate) fn file_name(self, number: u64) -> String {
        format!("{number:08}.{}", self.extension())
    }
}

/// What a segment's file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) kind: SegmentKind,
    pub(crate) number: u64,
    /// Random: makes the CRCs of this file's records differ from those of any other bytes that look like records.
    pub(crate) salt: u64,
    /// The log segment before this one, and up to where it is valid.
    pub(crate) before: Option<(u64, u64)>,
}

/// Why a header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_START as usize] {
        let (before, length) = self.before.unwrap_or((0, 0));
        let mut copy = Vec::with_capacity(HEADER_COPY);
        copy.extend_from_slice(&SEGMENT_MAGIC);
        copy.extend_from_slice(&VERSION.to_le_bytes());
        copy.extend_from_slice(&(self.kind as u32).to_le_bytes());
        for number in [self.number, self.salt, before, length] {
            copy.extend_from_slice(&number.to_le_bytes());
        }
        copy.resize(HEADER_COPY - 4, 0);
        copy.extend_from_slice(&crc32fast::hash(&copy).to_le_bytes());
        let mut both = [0; SEGMENT_START as usize];
        both[..HEADER_COPY].copy_from_slice(&copy);
        both[HEADER_COPY..].copy_from_slice(&copy);
        both
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let mut error = BadHeader::Damaged;
        for copy in bytes.chunks_exact(HEADER_COPY).take(2) {
            match Self::decode_copy(copy) {
                Ok(header) => return Ok(header),
                Err(BadHeader::Damaged) => {}
                Err(newer) => error = newer,
            }
        }
        Err(error)
    }

    fn decode_copy(copy: &[u8]) -> Result<Self, BadHeader> {
        let (content, crc) = copy.split_at(HEADER_COPY - 4);
        let mut bytes = Bytes(content);
        if bytes.take(8) != Some(&SEGMENT_MAGIC[..]) || crc32fast::hash(content).to_le_bytes() != crc {
            return Err(BadHeader::Damaged);
        }
        match bytes.u32() {
            Some(VERSION) => {}
            Some(version) if version > VERSION => return Err(BadHeader::Newer(version)),
            _ => return Err(BadHeader::Damaged),
        }
        let mut decode = || {
            let kind = SegmentKind::from_number(bytes.u32()?)?;
            let (number, salt) = (bytes.u64()?, bytes.u64()?);
            let before = Some((bytes.u64()?, bytes.u64()?)).filter(|(number, _)| *number != 0);
            Some(Self { kind, number, salt, before })
        };
        decode().ok_or(BadHeader::Damaged)
    }

    /// What the CRCs of this segment's record headers start from.
    pub(crate) fn seed(&self) -> u32 {
        seed(self.salt, self.number)
    }
}

/// What the CRCs of a segment's record headers start from.
pub(crate) fn seed(salt: u64, number: u64) -> u32 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&salt.to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    crc32fast::hash(&bytes)
}

/// A number that nobody can guess from outside. The standard library seeds its hashers from the system.
pub(crate) fn random_salt() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Begin = 1,
    Put = 2,
    Forget = 3,
    Define = 4,
    Undefine = 5,
}

impl RecordKind {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Begin, Self::Put, Self::Forget, Self::Define, Self::Undefine]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// The fixed header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    /// Of a Put: the number of its first copy in the segment.
    pub(crate) slot: u32,
    pub(crate) meta_length: u32,
    pub(crate) body_length: u32,
    pub(crate) meta_crc: u32,
    pub(crate) body_crc: u32,
}

impl RecordHeader {
    /// Length of the record, its header included.
    pub(crate) fn record_length(&self) -> u64 {
        RECORD_HEADER as u64 + u64::from(self.meta_length) + u64::from(self.body_length)
    }

    /// Writes the header for a record at `offset` of the segment with `seed`.
    pub(crate) fn write(&self, into: &mut [u8], seed: u32, offset: u64) {
        let into = &mut into[..RECORD_HEADER];
        into[..4].copy_from_slice(&[self.kind as u8, 0, 0, 0]);
        let numbers = [self.slot, self.meta_length, self.body_length, self.meta_crc, self.body_crc];
        for (place, number) in into[4..24].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = header_crc(seed, &into[..24], offset);
        into[24..].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header at `offset` of the segment with `seed`; `None` if there is none.
    pub(crate) fn read(bytes: &[u8], seed: u32, offset: u64) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEADER)?;
        // The cheap question first: the search for the next record asks at every byte.
        if bytes[1..4] != [0, 0, 0] {
            return None;
        }
        let kind = RecordKind::from_number(bytes[0])?;
        let (content, crc) = bytes.split_at(24);
        if header_crc(seed, content, offset).to_le_bytes() != crc {
            return None;
        }
        let mut numbers = Bytes(&content[4..]);
        Some(Self {
            kind,
            slot: numbers.u32()?,
            meta_length: numbers.u32()?,
            body_length: numbers.u32()?,
            meta_crc: numbers.u32()?,
            body_crc: numbers.u32()?,
        })
    }
}

fn header_crc(seed: u32, content: &[u8], offset: u64) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(content);
    crc.update(&offset.to_le_bytes());
    crc.finalize()
}

/// The meta of a Put.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PutMeta<'a> {
    copies: &'a [u8],
    pub(crate) header: &'a [u8],
}

impl<'a> PutMeta<'a> {
    /// Appends a meta that holds these copies and this header.
    pub(crate) fn write(into: &mut Vec<u8>, copies: impl ExactSizeIterator<Item = Placement>, header: &[u8]) {
        into.extend_from_slice(&u32::try_from(copies.len()).unwrap_or(u32::MAX).to_le_bytes());
        for placement in copies {
            into.extend_from_slice(&placement.copy.to_le_bytes());
            into.extend_from_slice(&placement.queue.to_le_bytes());
        }
        into.extend_from_slice(header);
    }

    pub(crate) fn read(meta: &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(meta);
        let count = bytes.u32()? as usize;
        let copies = bytes.take(count.checked_mul(COPY_BYTES)?)?;
        Some(Self { copies, header: bytes.0 })
    }

    pub(crate) fn copies(&self) -> impl ExactSizeIterator<Item = Placement> + use<'a> {
        self.copies.chunks_exact(COPY_BYTES).map(|bytes| {
            let mut bytes = Bytes(bytes);
            // The chunks are as long as two integers.
            Placement { copy: bytes.u64().unwrap_or(0), queue: bytes.u64().unwrap_or(0) }
        })
    }
}

/// The ranges in the meta of a Forget: first id and number of ids.
pub(crate) fn forgotten_ranges(meta: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    meta.chunks_exact(RANGE_BYTES).map(|bytes| {
        let mut bytes = Bytes(bytes);
        (bytes.u64().unwrap_or(0), bytes.u32().unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader =
        SegmentHeader { kind: SegmentKind::Log, number: 7, salt: 99, before: Some((6, 12_345)) };

    #[test]
    fn a_segment_header_survives_any_one_byte() {
        let bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x40;
            assert_eq!(SegmentHeader::decode(&damaged), Ok(HEADER), "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&bytes[..10]), Err(BadHeader::Damaged));
    }

    #[test]
    fn a_newer_version_is_recognised_and_a_damaged_version_is_not_taken_for_one() {
        let mut bytes = HEADER.encode();
        bytes[8] = 2;
        bytes[72] = 2;
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Damaged));
        for copy in bytes.chunks_exact_mut(64) {
            let crc = crc32fast::hash(&copy[..60]);
            copy[60..].copy_from_slice(&crc.to_le_bytes());
        }
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadHeader::Newer(2)));
    }

    #[test]
    fn a_record_header_is_valid_at_its_own_place_only() {
        let header = RecordHeader {
            kind: RecordKind::Put,
            slot: 3,
            meta_length: 40,
            body_length: 1000,
            meta_crc: 1,
            body_crc: 2,
        };
        let mut bytes = [0; RECORD_HEADER];
        header.write(&mut bytes, HEADER.seed(), 128);
        assert_eq!(RecordHeader::read(&bytes, HEADER.seed(), 128), Some(header));
        assert_eq!(RecordHeader::read(&bytes, HEADER.seed(), 129), None);
        assert_eq!(RecordHeader::read(&bytes, seed(98, 7), 128), None);
        assert_eq!(RecordHeader::read(&bytes, seed(99, 8), 128), None);
        for bit in 0..RECORD_HEADER * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::read(&damaged, HEADER.seed(), 128), None, "bit {bit}");
        }
    }

    #[test]
    fn a_count_that_the_meta_cannot_hold_is_refused() {
        let mut meta = Vec::new();
        PutMeta::write(&mut meta, [Placement { copy: 1, queue: 2 }].into_iter(), b"header");
        assert_eq!(PutMeta::read(&meta).unwrap().header, b"header");
        meta[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(PutMeta::read(&meta).is_none());
    }
}
