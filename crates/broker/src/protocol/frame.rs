//! Frames: finding them in a growing buffer, and appending them to one.

use super::{MethodId, Violation, methods::Encode, write::Writer};

/// What a client sends first: AMQP 0-9-1.
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// The smallest frame limit that may be negotiated, in bytes.
pub const MINIMUM_FRAME_SIZE: u32 = 4096;

/// What a frame has besides its payload: type, channel and size before, the end octet after it.
pub const FRAME_OVERHEAD: u32 = 8;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
const PREFIX: usize = 7;

/// One frame, borrowed from the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A method, to be read with [`Method::read`](super::Method::read).
    Method {
        /// The channel; 0 is the connection itself.
        channel: u16,
        /// Class, method and arguments.
        payload: &'a [u8],
    },
    /// A content header, to be read with [`ContentHeader::read`](super::ContentHeader::read).
    Header {
        /// The channel.
        channel: u16,
        /// Class, weight, body size, flags and properties.
        payload: &'a [u8],
    },
    /// A piece of a body.
    Body {
        /// The channel.
        channel: u16,
        /// The piece.
        payload: &'a [u8],
    },
    /// A sign of life.
    Heartbeat,
}

/// Finds frames at the start of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct FrameReader {
    /// The largest payload that is accepted.
    limit: u32,
}

impl FrameReader {
    /// Accepts frames of at most `frame_max` bytes, with all that belongs to them.
    pub fn new(frame_max: u32) -> Self {
        Self { limit: frame_max.saturating_sub(FRAME_OVERHEAD) }
    }

    /// The first frame of `input` and how many bytes it takes, or `None` if the input does not hold all of it yet.
    ///
    /// # Errors
    /// What is wrong is found as early as it can be: a frame that is too large as soon as its size is there.
    #[inline]
    pub fn read<'a>(&self, input: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, Violation> {
        let Some((&[kind, c0, c1, s0, s1, s2, s3], rest)) = input.split_first_chunk::<PREFIX>() else {
            // A wrong first octet is answered at once: no more might follow it.
            return match input.first() {
                Some(&kind) if !is_kind(kind) => Err(Violation::FrameKind(kind)),
                _ => Ok(None),
            };
        };
        let (channel, size) = (u16::from_be_bytes([c0, c1]), u32::from_be_bytes([s0, s1, s2, s3]));
        if !is_kind(kind) {
            return Err(Violation::FrameKind(kind));
        }
        if size > self.limit {
            return Err(Violation::FrameTooLarge { size, limit: self.limit });
        }
        let length = size as usize;
        let (Some(payload), Some(&end)) = (rest.get(..length), rest.get(length)) else { return Ok(None) };
        if end != FRAME_END {
            return Err(Violation::FrameEnd(end));
        }
        let frame = match kind {
            METHOD => Frame::Method { channel, payload },
            HEADER => Frame::Header { channel, payload },
            BODY => Frame::Body { channel, payload },
            _ if channel == 0 && size == 0 => Frame::Heartbeat,
            _ => return Err(Violation::Heartbeat),
        };
        Ok(Some((frame, PREFIX + length + 1)))
    }

    /// How many bytes the frame that begins `input` takes in all, if its size is known yet and accepted.
    pub fn size(&self, input: &[u8]) -> Option<usize> {
        let (&[_, _, _, s0, s1, s2, s3], _) = input.split_first_chunk::<PREFIX>()?;
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        (size <= self.limit).then_some(PREFIX + size as usize + 1)
    }
}

fn is_kind(kind: u8) -> bool {
    matches!(kind, METHOD | HEADER | BODY | HEARTBEAT)
}

/// Appends a method frame.
#[inline]
pub fn write_method<M: Encode>(out: &mut Vec<u8>, channel: u16, method: &M) {
    let MethodId { class, method: id } = M::ID;
    let start = out.len();
    let [c0, c1] = channel.to_be_bytes();
    let ([k0, k1], [m0, m1]) = (class.to_be_bytes(), id.to_be_bytes());
    out.extend_from_slice(&[METHOD, c0, c1, 0, 0, 0, 0, k0, k1, m0, m1]);
    method.encode(&mut Writer::new(out));
    // Methods that the server writes hold short strings and tables of its own: they are far below 4 GiB.
    let size = u32::try_from(out.len() - start - PREFIX).unwrap_or(u32::MAX);
    out[start + 3..start + PREFIX].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a content header frame and the body in as many frames as `frame_max` asks for (none for an empty body).
///
/// A content header above `frame_max` is sent as it is, as RabbitMQ does: the specification has no way to split it.
#[inline]
pub fn write_content(out: &mut Vec<u8>, channel: u16, header: &[u8], body: &[u8], frame_max: u32) {
    write_frame(out, HEADER, channel, header);
    let piece = frame_max.max(MINIMUM_FRAME_SIZE) - FRAME_OVERHEAD;
    for piece in body.chunks(piece as usize) {
        write_frame(out, BODY, channel, piece);
    }
}

/// Appends a heartbeat.
pub fn write_heartbeat(out: &mut Vec<u8>) {
    write_frame(out, HEARTBEAT, 0, &[]);
}

#[inline]
fn write_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    let [c0, c1] = channel.to_be_bytes();
    let [s0, s1, s2, s3] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.reserve(payload.len() + FRAME_OVERHEAD as usize);
    out.extend_from_slice(&[kind, c0, c1, s0, s1, s2, s3]);
    out.extend_from_slice(payload);
    out.push(FRAME_END);
}
