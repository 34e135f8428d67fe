//! What was found to be damaged, and what that loses.

use std::fmt;
use std::path::PathBuf;

/// A damaged place of a file. The store goes on without what it lost.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// Where in the file the damage begins.
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: u64,
    /// What is lost.
    pub lost: Lost,
}

/// What a [`Damage`] loses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// A message, with its copies of these ids.
    Message {
        /// Ids of the copies.
        copies: Vec<u64>,
    },
    /// One or more records that cannot be recognised. A message among them has ids between these two.
    Unknown {
        /// The last id before the damaged place.
        after: Option<u64>,
        /// The first id behind it.
        before: Option<u64>,
    },
    /// That some copies were forgotten: they may be there again.
    Forgets,
    /// That a definition was removed or, if it is in the last batch, set: it may be there again.
    Undefine,
    /// A definition was set, and its new value is lost.
    Definition {
        /// Its key, if that could be read.
        key: Option<Vec<u8>>,
    },
    /// A batch that was being written when the power was lost, or a broker was killed: it was not confirmed. The bytes
    /// were cut.
    Unfinished {
        /// Where they are kept.
        kept: Option<PathBuf>,
    },
    /// Nothing: the file was made again from others.
    Nothing,
    /// A whole segment.
    Segment {
        /// How many live copies it had, if that is known.
        copies: Option<u64>,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} bytes at {} ", self.file.display(), self.bytes, self.offset)?;
        match &self.lost {
            Lost::Message { copies } => write!(f, "are damaged: the message with the copies {copies:?} is lost"),
            Lost::Unknown { after, before } => {
                f.write_str("are damaged: what was there is lost")?;
                match (after, before) {
                    (Some(after), Some(before)) => {
                        write!(f, " (a message with copies between {after} and {before}, or less)")
                    }
                    (Some(after), None) => write!(f, " (a message with copies after {after}, or less)"),
                    (None, Some(before)) => write!(f, " (a message with copies before {before}, or less)"),
                    (None, None) => Ok(()),
                }
            }
            Lost::Forgets => f.write_str("are damaged: acknowledged messages may be delivered again"),
            Lost::Undefine => f.write_str("are damaged: a removed definition may be there again"),
            Lost::Definition { key: Some(key) } => {
                write!(f, "are damaged: the new value of the definition {:?} is lost", String::from_utf8_lossy(key))
            }
            Lost::Definition { key: None } => f.write_str("are damaged: the new value of a definition is lost"),
            Lost::Unfinished { kept } => {
                f.write_str("were not written completely and never confirmed: they were cut")?;
                kept.as_ref().map_or(Ok(()), |kept| write!(f, ", and are kept in {}", kept.display()))
            }
            Lost::Nothing => f.write_str("are damaged: nothing is lost, it was read from other files"),
            Lost::Segment { copies: Some(copies) } => write!(f, "are missing: {copies} copies of messages are lost"),
            Lost::Segment { copies: None } => f.write_str("are missing: all that was written there is lost"),
        }
    }
}
