//! What is wrong with bytes from a peer, as values.

use super::{MethodId, ReplyCode};
use std::fmt;

/// Bytes that AMQP 0-9-1 does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A frame of a kind that does not exist.
    FrameKind(u8),
    /// A frame whose payload is larger than was negotiated.
    FrameTooLarge {
        /// The size of the payload, in bytes.
        size: u32,
        /// What was negotiated for the payload, in bytes.
        limit: u32,
    },
    /// A frame does not end with the octet 206.
    FrameEnd(u8),
    /// A payload ends before what it should hold.
    Truncated,
    /// A payload goes on after what it should hold.
    Excess,
    /// A heartbeat with a payload or on a channel.
    Heartbeat,
    /// A string that must be UTF-8 is not.
    NotUtf8,
    /// A table with a value of an unknown type.
    ValueType(u8),
    /// A table with tables or arrays within each other deeper than is allowed.
    TooDeep,
    /// A content header of a class that has no content, or with property flags that no property has.
    ContentHeader,
    /// A method that does not exist.
    UnknownMethod(MethodId),
}

impl Violation {
    /// The code that the specification gives to this violation. All of them close the connection.
    pub fn code(self) -> ReplyCode {
        match self {
            Self::FrameKind(_)
            | Self::FrameTooLarge { .. }
            | Self::FrameEnd(_)
            | Self::Truncated
            | Self::Excess
            | Self::Heartbeat => ReplyCode::FrameError,
            Self::NotUtf8 | Self::ValueType(_) | Self::TooDeep | Self::ContentHeader => ReplyCode::SyntaxError,
            Self::UnknownMethod(_) => ReplyCode::NotImplemented,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FrameKind(kind) => write!(f, "unknown frame type {kind}"),
            Self::FrameTooLarge { size, limit } => {
                write!(f, "frame with a payload of {size} bytes, negotiated are at most {limit}")
            }
            Self::FrameEnd(octet) => write!(f, "invalid frame end marker {octet}"),
            Self::Truncated => f.write_str("the payload of a frame is too short"),
            Self::Excess => f.write_str("the payload of a frame is too long"),
            Self::Heartbeat => f.write_str("heartbeat with a payload or on a channel"),
            Self::NotUtf8 => f.write_str("a string is not valid UTF-8"),
            Self::ValueType(kind) => write!(f, "unknown field type {kind} in a table"),
            Self::TooDeep => f.write_str("a table is nested too deeply"),
            Self::ContentHeader => f.write_str("malformed content header"),
            Self::UnknownMethod(id) => write!(f, "unknown method {}, {}", id.class, id.method),
        }
    }
}

impl std::error::Error for Violation {}
