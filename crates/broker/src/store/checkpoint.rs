//! The checkpoint: which files count, what is live in them, and where the log has to be read from.

use super::batch::Change;
use super::bits::Bits;
use super::format::{BadHeader, Bytes, SegmentKind};
use super::twice;

const MAGIC: [u8; 8] = *b"HOMINGcp";

pub(crate) const FILE_NAME: &str = "checkpoint";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The first log segment that is to be replayed.
    pub(crate) replay_from: u64,
    /// No file has had this number or a greater one.
    pub(crate) next_number: u64,
    /// No durable copy has had this id or a greater one.
    pub(crate) next_copy: u64,
    /// Number of the snapshot of definitions.
    pub(crate) snapshot: Option<u64>,
    /// Changes of definitions since the snapshot.
    pub(crate) changes: Vec<Change>,
    /// In the order of their copies' ids, which do not overlap.
    pub(crate) segments: Vec<SegmentEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) number: u64,
    pub(crate) kind: SegmentKind,
    pub(crate) salt: u64,
    pub(crate) length: u64,
    pub(crate) live: Bits,
}

impl Checkpoint {
    /// The bytes of the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        for number in [self.replay_from, self.next_number, self.next_copy, self.snapshot.unwrap_or(0)] {
            payload.extend_from_slice(&number.to_le_bytes());
        }
        payload.extend_from_slice(&(self.changes.len() as u64).to_le_bytes());
        for (key, value) in &self.changes {
            payload.extend_from_slice(&u32::from(value.is_some()).to_le_bytes());
            for part in [key, value.as_ref().unwrap_or(&Vec::new())] {
                payload.extend_from_slice(&(part.len() as u32).to_le_bytes());
                payload.extend_from_slice(part);
            }
        }
        payload.extend_from_slice(&(self.segments.len() as u64).to_le_bytes());
        for segment in &self.segments {
            payload.extend_from_slice(&(segment.kind as u32).to_le_bytes());
            for number in [segment.number, segment.salt, segment.length, segment.live.len() as u64] {
                payload.extend_from_slice(&number.to_le_bytes());
            }
            for word in segment.live.words() {
                payload.extend_from_slice(&word.to_le_bytes());
            }
        }
        twice::encode(MAGIC, &payload)
    }

    pub(crate) fn decode(file: &[u8]) -> Result<Self, BadHeader> {
        Self::decode_payload(twice::decode(MAGIC, file)?).ok_or(BadHeader::Damaged)
    }

    fn decode_payload(payload: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(payload);
        let mut checkpoint = Self {
            replay_from: bytes.u64()?,
            next_number: bytes.u64()?,
            next_copy: bytes.u64()?,
            snapshot: Some(bytes.u64()?).filter(|number| *number != 0),
            ..Self::default()
        };
        for _ in 0..bytes.u64()? {
            let is_set = bytes.u32()? == 1;
            let (key, value) = (bytes.counted()?, bytes.counted()?);
            checkpoint.changes.push((key.into(), is_set.then(|| value.into())));
        }
        for _ in 0..bytes.u64()? {
            let kind = SegmentKind::from_number(bytes.u32()?)?;
            let (number, salt, length, copies) = (bytes.u64()?, bytes.u64()?, bytes.u64()?, bytes.u64()?);
            let copies = usize::try_from(copies).ok()?;
            let words = bytes.take(copies.div_ceil(64).checked_mul(8)?)?;
            let words = words.chunks_exact(8).map(|word| Bytes(word).u64().unwrap_or(0)).collect();
            let live = Bits::from_words(words, copies)?;
            checkpoint.segments.push(SegmentEntry { number, kind, salt, length, live });
        }
        bytes.0.is_empty().then_some(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        let mut live = Bits::all_set(130);
        live.clear(129);
        let checkpoint = Checkpoint {
            replay_from: 9,
            next_number: 10,
            next_copy: 1 << 40,
            snapshot: Some(4),
            changes: vec![(b"key".to_vec(), Some(b"value".to_vec())), (b"gone".to_vec(), None)],
            segments: vec![SegmentEntry { number: 3, kind: SegmentKind::Pack, salt: 77, length: 1000, live }],
        };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
        assert_eq!(Checkpoint::decode(&Checkpoint::default().encode()), Ok(Checkpoint::default()));
        assert_eq!(Checkpoint::decode(b"what"), Err(BadHeader::Damaged));
    }
}
