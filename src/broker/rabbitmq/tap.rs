//! Reads along with the bytes that come from the server, and changes none of them.
//!
//! lapin keeps two things from its user that homing needs, and both stand plainly in the bytes: what the server says of
//! itself in `connection.start`, and *which* message a `basic.return` is about. (lapin hands a returned message to
//! whichever publish is confirmed next, which with pipelined publishes is often another's.) The tap sees a return before
//! lapin sees the acknowledgement that follows it on the wire, so when a publish is confirmed, its return, if there was
//! one, is already in [`Returns`]: exact, whatever lapin does with it.
//!
//! It also says when the peer is no AMQP server at all, which lapin would take for a frame that is still to be completed.
//!
//! Frames are those of AMQP 0-9-1, section 4.2.3: type, channel, size, payload, end octet.

use std::collections::HashMap;
use std::sync::Arc;

use lapin::protocol::basic;
use lapin::types::{AMQPValue, FieldTable, parsing};
use parking_lot::Mutex;

const FRAME_METHOD: u8 = 1;
const FRAME_HEADER: u8 = 2;
/// Type, channel, size.
const FRAME_PREFIX: usize = 7;
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];
const BASIC_RETURN: [u8; 4] = [0, 60, 0, 50];
/// No greeting comes near this; a length beyond it is not a frame but something else.
const LARGEST_GREETING: usize = 1 << 20;

/// The messages that came back, by their `message_id`, until the confirm of their publish takes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Returns(Arc<Mutex<HashMap<String, Returned>>>);

/// Why a message came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    pub code: u16,
    pub text: String,
}

impl Returns {
    /// Takes what is known of this message; `None` if it was routed.
    pub(crate) fn take(&self, message_id: &str) -> Option<Returned> {
        self.0.lock().remove(message_id)
    }

    /// How many returns nobody has asked for.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// What the server said first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting(Arc<Mutex<Option<Hello>>>);

#[derive(Clone, Debug)]
enum Hello {
    Properties(FieldTable),
    NotAmqp(Vec<u8>),
}

impl Greeting {
    /// `product`, `version`, `platform`, `cluster_name` and whatever else is text; nothing before the handshake.
    pub(crate) fn properties(&self) -> Vec<(String, String)> {
        let Some(Hello::Properties(table)) = &*self.0.lock() else { return Vec::new() };
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        };
        table.inner().iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect()
    }

    /// The first bytes of a peer that does not speak AMQP.
    pub(crate) fn not_amqp(&self) -> Option<Vec<u8>> {
        match &*self.0.lock() {
            Some(Hello::NotAmqp(bytes)) => Some(bytes.clone()),
            _ => None,
        }
    }
}

/// The peer does not speak AMQP; what it said is in the [`Greeting`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAmqp;

/// The reader itself: bytes in, in pieces of any size.
#[derive(Debug)]
pub(crate) struct Tap {
    greeting: Greeting,
    returns: Option<Returns>,
    stage: Stage,
    /// The piece of a frame that is being collected.
    held: Vec<u8>,
    /// A return whose content header has not come yet, with its channel.
    returning: Option<(u16, Returned)>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing has come yet but what is in `held`.
    Greeting,
    /// Collecting the seven bytes before a payload.
    Prefix,
    /// Collecting a payload that is of interest, or may be.
    Payload { kind: u8, channel: u16, size: usize },
    /// Passing over what is of no interest.
    Skip { left: usize },
    /// Nothing further is of interest.
    Done,
}

impl Tap {
    /// Listens for the greeting, and then, if `returns` are wanted, for those.
    pub(crate) fn new(greeting: Greeting, returns: Option<Returns>) -> Self {
        Tap { greeting, returns, stage: Stage::Greeting, held: Vec::new(), returning: None }
    }

    /// Reads the next bytes.
    pub(crate) fn see(&mut self, mut bytes: &[u8]) -> Result<(), NotAmqp> {
        while !bytes.is_empty() {
            match self.stage {
                Stage::Done => return Ok(()),
                Stage::Skip { left } => {
                    let skipped = left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.stage = if skipped == left { Stage::Prefix } else { Stage::Skip { left: left - skipped } };
                }
                Stage::Greeting => {
                    self.collect(&mut bytes, FRAME_PREFIX);
                    // "AMQP" and a version is how a server refuses ours; lapin reads that and says so.
                    if self.held.starts_with(b"AMQP") {
                        self.stage = Stage::Done;
                    } else if !b"AMQP".starts_with(&self.held) && !self.may_be_greeting() {
                        self.stage = Stage::Done;
                        self.held.extend_from_slice(&bytes[..bytes.len().min(64)]);
                        *self.greeting.0.lock() = Some(Hello::NotAmqp(std::mem::take(&mut self.held)));
                        return Err(NotAmqp);
                    } else if self.held.len() == FRAME_PREFIX {
                        self.open_frame();
                    }
                }
                Stage::Prefix => {
                    self.collect(&mut bytes, FRAME_PREFIX);
                    if self.held.len() == FRAME_PREFIX {
                        self.open_frame();
                    }
                }
                Stage::Payload { kind, channel, size } => {
                    // A method is known by its first four bytes; the rest is collected only if it is one of ours.
                    let decided = self.held.len() >= 4 || kind == FRAME_HEADER;
                    let until = if decided { size } else { size.min(4) };
                    self.collect(&mut bytes, until);
                    if self.held.len() < until {
                        continue;
                    }
                    let wanted = kind == FRAME_HEADER
                        || self.held.starts_with(&CONNECTION_START)
                        || self.held.starts_with(&BASIC_RETURN);
                    if self.held.len() == size || !wanted {
                        let left = size - self.held.len() + 1; // and the end octet
                        self.stage = Stage::Skip { left };
                        if wanted {
                            self.frame(kind, channel);
                        }
                        self.held.clear();
                    }
                }
            }
        }
        Ok(())
    }

    fn collect(&mut self, bytes: &mut &[u8], until: usize) {
        let taken = until.saturating_sub(self.held.len()).min(bytes.len());
        self.held.extend_from_slice(&bytes[..taken]);
        *bytes = &bytes[taken..];
    }

    /// Whether what has come so far can be the prefix of a method frame on channel 0.
    fn may_be_greeting(&self) -> bool {
        let size_is_sane = self.held.len() < FRAME_PREFIX || be32(&self.held[3..7]) <= LARGEST_GREETING;
        self.held.iter().zip([FRAME_METHOD, 0, 0]).all(|(got, expected)| *got == expected) && size_is_sane
    }

    fn open_frame(&mut self) {
        let kind = self.held[0];
        let channel = u16::from_be_bytes([self.held[1], self.held[2]]);
        let size = be32(&self.held[3..7]);
        self.held.clear();
        let awaited_header = kind == FRAME_HEADER && self.returning.as_ref().is_some_and(|(on, _)| *on == channel);
        self.stage = if (kind == FRAME_METHOD && size >= 4) || (awaited_header && size > 0) {
            Stage::Payload { kind, channel, size }
        } else {
            Stage::Skip { left: size + 1 }
        };
    }

    /// A whole payload of interest is in `held`. What cannot be read is left to lapin, which closes the connection.
    fn frame(&mut self, kind: u8, channel: u16) {
        let payload = self.held.as_slice();
        if kind == FRAME_HEADER {
            let Some((_, returned)) = self.returning.take() else { return };
            // Class, weight and body size come first.
            let Some(properties) = payload.get(12..) else { return };
            let Ok((_, properties)) = basic::parse_properties(properties) else { return };
            if let (Some(returns), Some(id)) = (&self.returns, properties.message_id()) {
                returns.0.lock().insert(id.to_string(), returned);
            }
        } else if payload.starts_with(&CONNECTION_START) {
            // The two bytes between are the protocol's version.
            if let Some(Ok((_, table))) = payload.get(6..).map(parsing::parse_field_table) {
                *self.greeting.0.lock() = Some(Hello::Properties(table));
            }
            if self.returns.is_none() {
                self.stage = Stage::Done;
            }
        } else if self.returns.is_some() {
            let code = payload.get(4..6).map_or(0, |code| u16::from_be_bytes([code[0], code[1]]));
            let text = payload.get(6..).map(parsing::parse_short_string);
            let text = text.and_then(Result::ok).map_or_else(String::new, |(_, text)| text.to_string());
            self.returning = Some((channel, Returned { code, text }));
        }
    }
}

fn be32(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(channel.to_be_bytes());
        bytes.extend(u32::try_from(payload.len()).expect("a small frame").to_be_bytes());
        bytes.extend(payload);
        bytes.push(0xCE);
        bytes
    }

    fn short(text: &str) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(text.len()).expect("a short text")];
        bytes.extend(text.as_bytes());
        bytes
    }

    fn conversation() -> Vec<u8> {
        let entry = [short("product"), vec![b'S', 0, 0, 0, 8], b"RabbitMQ".to_vec()].concat();
        let table = [u32::try_from(entry.len()).expect("small").to_be_bytes().to_vec(), entry].concat();
        let start = [&CONNECTION_START[..], &[0, 9], &table, &[0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let returned = [&BASIC_RETURN[..], &312u16.to_be_bytes(), &short("NO_ROUTE"), &short(""), &short("k")].concat();
        // The flags of delivery_mode and message_id.
        let flags = (1u16 << 12 | 1 << 7).to_be_bytes();
        let header = [&[0, 60, 0, 0][..], &3u64.to_be_bytes(), &flags, &[1], &short("id-1")].concat();
        let ack = [&[0, 60, 0, 80][..], &1u64.to_be_bytes(), &[0]].concat();
        [
            frame(1, 0, &start),
            frame(8, 0, &[]),
            frame(1, 1, &returned),
            frame(2, 1, &header),
            frame(3, 1, b"abc"),
            frame(1, 1, &ack),
        ]
        .concat()
    }

    #[test]
    fn greeting_and_returns_are_read_whatever_the_pieces() {
        for piece in 1..200 {
            let (greeting, returns) = (Greeting::default(), Returns::default());
            let mut tap = Tap::new(greeting.clone(), Some(returns.clone()));
            for bytes in conversation().chunks(piece) {
                tap.see(bytes).expect("this is AMQP");
            }
            assert_eq!(greeting.properties(), [("product".to_owned(), "RabbitMQ".to_owned())], "in pieces of {piece}");
            assert_eq!(returns.len(), 1);
            assert_eq!(returns.take("id-1"), Some(Returned { code: 312, text: "NO_ROUTE".to_owned() }));
        }
    }

    #[test]
    fn a_peer_that_is_not_amqp_is_recognised_at_its_first_bytes() {
        for said in ["HTTP/1.1 400 Bad Request\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\u{15}\u{3}\u{3}\0\u{2}\u{2}P"] {
            let greeting = Greeting::default();
            assert_eq!(Tap::new(greeting.clone(), None).see(said.as_bytes()), Err(NotAmqp));
            assert_eq!(greeting.not_amqp(), Some(said.as_bytes().to_vec()));
        }
        // Another version of AMQP is lapin's to read.
        assert_eq!(Tap::new(Greeting::default(), None).see(b"AMQP\0\x01\0\0"), Ok(()));
    }
}
