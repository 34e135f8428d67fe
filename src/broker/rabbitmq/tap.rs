//! Stands between the socket and lapin, and sees to it that lapin gets only what it can read.
//!
//! lapin keeps two things from its user that homing needs, and both stand plainly in the bytes: what the server says of
//! itself in `connection.start`, and *which* message a `basic.return` is about. (lapin hands a returned message to
//! whichever publish is confirmed next, which with pipelined publishes is often another's.) The tap sees a return before
//! lapin sees the acknowledgement that follows it on the wire, so when a publish is confirmed, its return, if there was
//! one, is already in [`Returns`]: exact, whatever lapin does with it.
//!
//! What it changes:
//! - the properties of a message that lapin cannot read, or that are larger than the frames agreed on, are taken out and stand
//!   in [`Diverted`] until the delivery asks for them; lapin gets a message without properties;
//! - strings of methods are made UTF-8, in place;
//! - a second `channel.close` of a channel is left out;
//! - the server's `connection.tune` is set to what was asked for, where lapin would take something else, and never lets a
//!   frame be larger than [`LARGEST_FRAME`], for lapin allocates 64 times that.
//!
//! It also recognises a peer that is not an AMQP server, which lapin would take for an incomplete frame.
//!
//! Frames are those of AMQP 0-9-1, section 4.2.3: type, channel, size, payload, end octet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::home::lock::Mutex;
use lapin::types::{AMQPValue, FieldTable, parsing};

use super::frames::{self, AROUND, END, HEADER, METHOD, PREFIX, Reader};
pub(crate) use crate::broker::url::{LARGEST_FRAME, SMALLEST_FRAME};
use crate::broker::{OddPart, Oddity, Properties};

const CONNECTION_START: (u16, u16) = (10, 10);
const CONNECTION_TUNE: (u16, u16) = (10, 30);
const CONNECTION_CLOSE: (u16, u16) = (10, 50);
const CONNECTION_CLOSE_OK: (u16, u16) = (10, 51);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const BASIC_RETURN: (u16, u16) = (60, 50);
const BASIC_DELIVER: (u16, u16) = (60, 60);
const BASIC_GET_OK: (u16, u16) = (60, 71);

/// What RabbitMQ proposes, and what is agreed on where nobody asks for something else.
pub(crate) const USUAL_FRAME: u32 = 131_072;

/// lapin agrees on no smaller frames than these, whatever the server allows, unless it was asked for smaller ones before.
const LAPINS_SMALLEST_FRAME: u32 = 8192;

/// No greeting and no other method comes near this; a length beyond it is not a frame but something else.
const LARGEST_METHOD: usize = 1 << 20;
/// The same for the properties of a message, which may be as large as the frames of its sender.
const LARGEST_HEADER: usize = 1 << 24;

/// The messages that came back, by their `message_id`, until the confirm of their publish takes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Returns(Arc<ReturnsInner>);

#[derive(Debug, Default)]
struct ReturnsInner {
    known: Mutex<HashMap<Arc<str>, Returned>>,
    /// How many are known, so that a message as they mostly are costs no lock.
    left: AtomicUsize,
    /// How many have ever come.
    count: AtomicUsize,
}

/// Why a message came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    pub code: u16,
    pub text: String,
}

impl Returns {
    /// Takes what is known of this message; `None` if it was routed.
    pub(crate) fn take(&self, message_id: &str) -> Option<Returned> {
        // Ordering: Acquire pairs with the Release below. The confirm itself came through lapin's locks, after the tap.
        if self.0.left.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut known = self.0.known.lock();
        let taken = known.remove(message_id);
        self.0.left.store(known.len(), Ordering::Release);
        taken
    }

    fn put(&self, message_id: Arc<str>, returned: Returned) {
        let mut known = self.0.known.lock();
        known.insert(message_id, returned);
        self.0.left.store(known.len(), Ordering::Release);
    }

    /// How many messages have ever come back, those without an id too. It is counted before lapin sees the confirm.
    pub(crate) fn count(&self) -> usize {
        // Ordering: Acquire pairs with the Release where one is counted; a confirm came through lapin's locks after that.
        self.0.count.load(Ordering::Acquire)
    }

    /// How many returns nobody has asked for.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.known.lock().len()
    }
}

/// The properties that were taken out of deliveries, by channel and delivery tag.
#[derive(Clone, Debug, Default)]
pub(crate) struct Diverted(Arc<DivertedInner>);

#[derive(Debug, Default)]
struct DivertedInner {
    /// So that a delivery as they mostly are costs no lock.
    count: AtomicUsize,
    properties: Mutex<HashMap<(u16, u64), Properties>>,
}

impl Diverted {
    /// Takes the properties of a delivery, if they were taken out of it.
    pub(crate) fn take(&self, channel: u16, delivery_tag: u64) -> Option<Properties> {
        // Ordering: Acquire pairs with the Release below. The delivery itself came through lapin's locks, after the tap.
        if self.0.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut properties = self.0.properties.lock();
        let taken = properties.remove(&(channel, delivery_tag));
        self.0.count.store(properties.len(), Ordering::Release);
        taken
    }

    fn put(&self, channel: u16, delivery_tag: u64, taken_out: Properties) {
        let mut properties = self.0.properties.lock();
        properties.insert((channel, delivery_tag), taken_out);
        self.0.count.store(properties.len(), Ordering::Release);
    }

    /// A channel begins anew, and with it its delivery tags.
    fn forget(&self, channel: u16) {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut properties = self.0.properties.lock();
        properties.retain(|(of, _), _| *of != channel);
        self.0.count.store(properties.len(), Ordering::Release);
    }
}

/// What is to be agreed on, where that is not left to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// In seconds; 0 for none.
    pub heartbeat: Option<u16>,
    /// At most this, of what the server allows.
    pub frame_max: Option<u32>,
}

impl Wishes {
    /// No larger frame is agreed on, whatever the server allows.
    pub(crate) fn largest_frame(self) -> u32 {
        self.frame_max.unwrap_or(USUAL_FRAME).min(LARGEST_FRAME)
    }
}

/// The first words of the server, and its last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting(Arc<Mutex<Hello>>);

#[derive(Clone, Debug, Default)]
struct Hello {
    properties: Option<FieldTable>,
    not_amqp: Option<Vec<u8>>,
    smaller_frames: Option<u32>,
    tuned: bool,
    farewell: Option<Farewell>,
}

/// The last word of a server.
///
/// lapin does not always pass it on to whoever closes the connection, for its thread may end before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// It agrees to the end: it has done everything that it was asked before.
    Agreed,
    /// It ends the connection itself, with this code and text.
    Ended(u16, String),
}

impl Greeting {
    /// `product`, `version`, `platform`, `cluster_name` and whatever else is text; nothing before the handshake.
    pub(crate) fn properties(&self) -> Vec<(String, String)> {
        let Some(table) = &self.0.lock().properties else { return Vec::new() };
        let text = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
            AMQPValue::ShortString(text) => Some(text.to_string()),
            _ => None,
        };
        table.inner().iter().filter_map(|(name, value)| Some((name.to_string(), text(value)?))).collect()
    }

    /// The first bytes of a peer that does not speak AMQP.
    pub(crate) fn not_amqp(&self) -> Option<Vec<u8>> {
        self.0.lock().not_amqp.clone()
    }

    /// The frame size of a server that allows smaller frames than lapin agrees on. The handshake has ended there; another one that
    /// asks for frames of this size succeeds.
    pub(crate) fn smaller_frames(&self) -> Option<u32> {
        self.0.lock().smaller_frames
    }

    /// How the server has ended the connection, once it has.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        self.0.lock().farewell.clone()
    }

    fn take_leave(&self, farewell: Farewell) {
        self.0.lock().farewell.get_or_insert(farewell);
    }

    /// How far the handshake came.
    pub(crate) fn stage(&self) -> HandshakeStage {
        let hello = self.0.lock();
        match (hello.tuned, &hello.properties) {
            (true, _) => HandshakeStage::Tuned,
            (false, Some(_)) => HandshakeStage::Greeted,
            (false, None) => HandshakeStage::Silent,
        }
    }
}

/// How far a handshake came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeStage {
    /// The server has sent nothing.
    Silent,
    /// It has greeted, and was sent the credentials.
    Greeted,
    /// It has taken the credentials, and was sent the limits and the virtual host.
    Tuned,
}

/// Why nothing more is read from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It does not speak AMQP; what it sent is in the [`Greeting`].
    NotAmqp,
    /// Its greeting cannot be read.
    Greeting,
    /// It announced a frame of this many bytes.
    Frame(usize),
    /// It allows frames of this many bytes only.
    FrameMax(u32),
    /// It allows smaller frames than lapin agrees on; how small they are is in the [`Greeting`].
    SmallerFrames,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NotAmqp => f.write_str("the peer does not speak AMQP"),
            Refused::Greeting => f.write_str("the greeting of the peer does not follow AMQP"),
            Refused::Frame(size) => write!(f, "the peer announced a frame of {size} bytes, which is refused"),
            Refused::FrameMax(most) => {
                write!(f, "the peer allows frames of {most} bytes only; AMQP asks for {SMALLEST_FRAME} at least")
            }
            Refused::SmallerFrames => {
                f.write_str("the peer allows smaller frames than this connection was prepared for")
            }
        }
    }
}

impl std::error::Error for Refused {}

/// The filter itself: bytes in, in pieces of any size; the same bytes out, or others in their place.
#[derive(Debug)]
pub(crate) struct Tap {
    greeting: Greeting,
    returns: Option<Returns>,
    diverted: Diverted,
    wishes: Wishes,
    /// The largest frame that lapin takes.
    frame_max: usize,
    stage: Stage,
    /// The beginning of a frame that is wanted whole.
    held: Vec<u8>,
    /// By channel, whose properties come next. Mostly there is one.
    content: BTreeMap<u16, Content>,
    /// The channels that the server has closed and not opened again.
    closed: BTreeSet<u16>,
}

#[derive(Debug)]
enum Stage {
    /// Nothing has come yet but what is held.
    Greeting,
    /// A frame begins.
    Frame,
    /// Within a frame that passes as it is.
    Passing { left: usize },
    /// Everything passes as it is.
    Open,
}

#[derive(Debug)]
enum Content {
    Delivery(u64),
    Return(Returned),
}

impl Tap {
    pub(crate) fn new(greeting: Greeting, diverted: Diverted, returns: Option<Returns>, wishes: Wishes) -> Self {
        Tap {
            greeting,
            returns,
            diverted,
            wishes,
            frame_max: SMALLEST_FRAME as usize,
            stage: Stage::Greeting,
            held: Vec::new(),
            content: BTreeMap::new(),
            closed: BTreeSet::new(),
        }
    }

    /// Reads the next bytes. The first of them, as many as is returned, are for lapin where they stand; what follows them for
    /// lapin is put to the end of `out`. The rest is held until it is complete.
    pub(crate) fn filter(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<usize, Refused> {
        let mut at = 0;
        // What is put out goes to `out` from the first byte on that does not stay where it is.
        let mut in_place = 0;
        while at < bytes.len() {
            match self.stage {
                Stage::Passing { left } => {
                    let passed = left.min(bytes.len() - at);
                    self.stage = if passed == left { Stage::Frame } else { Stage::Passing { left: left - passed } };
                    put(bytes, at, passed, &mut in_place, out);
                    at += passed;
                }
                Stage::Open => {
                    let passed = bytes.len() - at;
                    put(bytes, at, passed, &mut in_place, out);
                    at += passed;
                }
                Stage::Greeting => {
                    self.hold(bytes, &mut at, PREFIX);
                    // "AMQP", a zero and a version is how a server refuses ours; lapin reads that and reports it.
                    if self.held.starts_with(b"AMQP\0") {
                        self.stage = Stage::Open;
                        out.append(&mut self.held);
                    } else if self.held.starts_with(b"AMQP") && self.held.len() == PREFIX {
                        self.greeting.0.lock().not_amqp = Some([&self.held, &bytes[at..]].concat());
                        return Err(Refused::NotAmqp);
                    } else if self.held.starts_with(b"AMQP") {
                        // Another layer than AMQP itself, of which the version is still to come.
                    } else if !b"AMQP".starts_with(&self.held) && !self.may_be_greeting() {
                        self.greeting.0.lock().not_amqp = Some([&self.held, &bytes[at..]].concat());
                        return Err(Refused::NotAmqp);
                    } else if self.held.len() == PREFIX {
                        self.stage = Stage::Frame;
                    }
                }
                Stage::Frame => {
                    if self.held.is_empty()
                        && let Some(prefix) = bytes[at..].first_chunk::<PREFIX>()
                    {
                        let (kind, channel, size) = read_prefix(*prefix);
                        if kind != METHOD && kind != HEADER {
                            self.stage = Stage::Passing { left: size + AROUND };
                            continue;
                        }
                        check_size(kind, size)?;
                        // The frame is here as a whole, as it mostly is.
                        if let Some(frame) = bytes.get_mut(at..at + size + AROUND) {
                            match self.frame(kind, channel, frame)? {
                                None => put(bytes, at, size + AROUND, &mut in_place, out),
                                Some(instead) => out.extend(instead),
                            }
                            at += size + AROUND;
                            continue;
                        }
                    }
                    self.hold(bytes, &mut at, PREFIX);
                    let Some(prefix) = self.held.first_chunk::<PREFIX>() else { continue };
                    let (kind, channel, size) = read_prefix(*prefix);
                    if kind != METHOD && kind != HEADER {
                        self.stage = Stage::Passing { left: size + AROUND - PREFIX };
                        out.append(&mut self.held);
                        continue;
                    }
                    check_size(kind, size)?;
                    self.hold(bytes, &mut at, size + AROUND);
                    if self.held.len() == size + AROUND {
                        let mut frame = std::mem::take(&mut self.held);
                        let instead = self.frame(kind, channel, &mut frame)?;
                        out.extend(instead.unwrap_or(frame));
                    }
                }
            }
        }
        Ok(in_place)
    }

    /// Holds bytes back until there are so many.
    fn hold(&mut self, bytes: &[u8], at: &mut usize, until: usize) {
        let taken = until.saturating_sub(self.held.len()).min(bytes.len() - *at);
        self.held.extend_from_slice(&bytes[*at..*at + taken]);
        *at += taken;
    }

    /// Whether what has come so far can be the prefix of a method frame on channel 0.
    fn may_be_greeting(&self) -> bool {
        let size_is_sane = self.held.first_chunk().is_none_or(|prefix| read_prefix(*prefix).2 <= LARGEST_METHOD);
        self.held.iter().zip([METHOD, 0, 0]).all(|(got, expected)| *got == expected) && size_is_sane
    }

    /// A whole frame. It is changed in place, or another is given in its place. What does not end as a frame does is left to
    /// lapin, which closes the connection.
    fn frame(&mut self, kind: u8, channel: u16, frame: &mut [u8]) -> Result<Option<Vec<u8>>, Refused> {
        let Some((end, rest)) = frame.split_last_mut() else { return Ok(None) };
        let Some(payload) = rest.get_mut(PREFIX..).filter(|_| *end == END) else { return Ok(None) };
        if kind == METHOD {
            if self.is_closed_again(channel, payload) {
                return Ok(Some(Vec::new()));
            }
            self.method(channel, payload)?;
            return Ok(None);
        }
        Ok(self.header(channel, payload))
    }

    /// Guards: RabbitMQ, which closes a channel twice now and then when several deliveries by it are past their delivery timeout. Lapin,
    /// for which the channel is not there any more, gives up the connection, with every task that is in hand by it. The second
    /// is not to be answered, either: the server, for which it has ended by then, ends the connection at a second answer.
    fn is_closed_again(&mut self, channel: u16, payload: &[u8]) -> bool {
        match frames::method_of(payload) {
            Some(CHANNEL_CLOSE) => !self.closed.insert(channel),
            Some(CHANNEL_OPEN_OK) => {
                self.closed.remove(&channel);
                false
            }
            _ => false,
        }
    }

    fn method(&mut self, channel: u16, payload: &mut [u8]) -> Result<(), Refused> {
        let Some(method) = frames::method_of(payload) else { return Ok(()) };
        frames::mend_method(payload);
        let mut reader = Reader(&payload[4..]);
        match method {
            BASIC_DELIVER => {
                let tag = reader.short().and_then(|_| reader.u64());
                self.content.extend(tag.map(|tag| (channel, Content::Delivery(tag))));
            }
            BASIC_GET_OK => {
                self.content.extend(reader.u64().map(|tag| (channel, Content::Delivery(tag))));
            }
            BASIC_RETURN => {
                if let Some(returns) = &self.returns {
                    // Ordering: Release, for whoever counts them sees this one before its confirm.
                    returns.0.count.fetch_add(1, Ordering::Release);
                }
                let code = reader.u16().unwrap_or_default();
                let text = String::from_utf8_lossy(reader.short().unwrap_or_default()).into_owned();
                self.content.insert(channel, Content::Return(Returned { code, text }));
            }
            CHANNEL_OPEN_OK => self.diverted.forget(channel),
            CONNECTION_START => {
                // The two bytes between are the protocol's version.
                let table = payload.get(6..).unwrap_or_default();
                if !Reader(table).long().is_some_and(frames::is_plain_table) {
                    return Err(Refused::Greeting);
                }
                if let Ok((_, table)) = parsing::parse_field_table(table) {
                    self.greeting.0.lock().properties = Some(table);
                }
            }
            CONNECTION_TUNE => return self.tune(payload),
            CONNECTION_CLOSE => {
                let code = reader.u16().unwrap_or_default();
                let text = String::from_utf8_lossy(reader.short().unwrap_or_default()).into_owned();
                self.greeting.take_leave(Farewell::Ended(code, text));
            }
            CONNECTION_CLOSE_OK => self.greeting.take_leave(Farewell::Agreed),
            _ => {}
        }
        Ok(())
    }

    /// Sets what the server proposes to what is to be agreed on: lapin takes the smaller of two frame sizes and of two
    /// heartbeats, with 0 for "the other's".
    fn tune(&mut self, payload: &mut [u8]) -> Result<(), Refused> {
        // Class and method, channel_max; then these two.
        let Some([f0, f1, f2, f3, h0, h1]) = payload.get_mut(6..12) else { return Ok(()) };
        let proposed = u32::from_be_bytes([*f0, *f1, *f2, *f3]);
        if proposed != 0 && proposed < SMALLEST_FRAME {
            return Err(Refused::FrameMax(proposed));
        }
        let limit = self.wishes.largest_frame();
        let agreed = if proposed == 0 { limit } else { proposed.min(limit) };
        // Guards: a frame size above the server's, which lapin would agree on and the server refuses.
        if agreed < limit && agreed < LAPINS_SMALLEST_FRAME {
            self.greeting.0.lock().smaller_frames = Some(agreed);
            return Err(Refused::SmallerFrames);
        }
        [*f0, *f1, *f2, *f3] = agreed.to_be_bytes();
        if let Some(heartbeat) = self.wishes.heartbeat {
            [*h0, *h1] = heartbeat.to_be_bytes();
        }
        self.frame_max = agreed.max(SMALLEST_FRAME) as usize;
        self.greeting.0.lock().tuned = true;
        Ok(())
    }

    /// The properties of a message; `Some` is what lapin gets instead.
    fn header(&mut self, channel: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let content = self.content.remove(&channel);
        let too_large = payload.len() + AROUND > self.frame_max;
        let plain = frames::is_plain(payload) && !too_large;
        match content {
            Some(Content::Return(returned)) => {
                // Read whether or not lapin can.
                if let (Some(returns), Some(id)) = (&self.returns, frames::read_properties(payload).message_id) {
                    returns.put(id, returned);
                }
            }
            Some(Content::Delivery(tag)) if !plain => {
                let mut properties = frames::read_properties(payload);
                if too_large {
                    properties.rest_mut().oddities.push(Oddity {
                        part: OddPart::TooLarge,
                        reason: format!(
                            "its properties take {} bytes, and this connection sends {} at most",
                            payload.len(),
                            self.frame_max - AROUND
                        ),
                    });
                }
                self.diverted.put(channel, tag, properties);
            }
            _ => {}
        }
        // Class, weight and body size, and no flag.
        let size = payload.get(..12).filter(|_| !plain)?;
        let mut instead = vec![HEADER];
        instead.extend(channel.to_be_bytes());
        instead.extend(14_u32.to_be_bytes());
        instead.extend(size);
        instead.extend([0, 0, END]);
        Some(instead)
    }
}

/// Puts bytes out: where they stand, as long as everything before them stands.
fn put(bytes: &[u8], at: usize, count: usize, in_place: &mut usize, out: &mut Vec<u8>) {
    if *in_place == at && out.is_empty() {
        *in_place = at + count;
    } else {
        out.extend_from_slice(&bytes[at..at + count]);
    }
}

/// Type, channel, size.
fn read_prefix(prefix: [u8; PREFIX]) -> (u8, u16, usize) {
    let [kind, c0, c1, s0, s1, s2, s3] = prefix;
    (kind, u16::from_be_bytes([c0, c1]), u32::from_be_bytes([s0, s1, s2, s3]) as usize)
}

fn check_size(kind: u8, size: usize) -> Result<(), Refused> {
    let most = if kind == METHOD { LARGEST_METHOD } else { LARGEST_HEADER };
    if size > most { Err(Refused::Frame(size)) } else { Ok(()) }
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
        let start = [&[0, 10, 0, 10, 0, 9], &table[..], &[0, 0, 0, 0, 0, 0, 0, 0]].concat();
        let returned =
            [&[0, 60, 0, 50][..], &312u16.to_be_bytes(), &short("NO_ROUTE"), &short(""), &short("k")].concat();
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

    fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> Vec<u8> {
        let numbers = [&channel_max.to_be_bytes()[..], &frame_max.to_be_bytes(), &heartbeat.to_be_bytes()].concat();
        frame(1, 0, &[&[0, 10, 0, 30][..], &numbers].concat())
    }

    fn deliver(channel: u16, tag: u64, routing_key: &[u8]) -> Vec<u8> {
        let key = [&[u8::try_from(routing_key.len()).expect("short")], routing_key].concat();
        frame(1, channel, &[&[0, 60, 0, 60][..], &short("c"), &tag.to_be_bytes(), &[0], &short(""), &key].concat())
    }

    fn header(channel: u16, flags: u16, properties: &[u8]) -> Vec<u8> {
        let payload = [&[0, 60, 0, 0][..], &3u64.to_be_bytes(), &flags.to_be_bytes(), properties].concat();
        frame(2, channel, &payload)
    }

    fn new(returns: Option<Returns>, wishes: Wishes) -> (Tap, Greeting, Diverted) {
        let (greeting, diverted) = (Greeting::default(), Diverted::default());
        (Tap::new(greeting.clone(), diverted.clone(), returns, wishes), greeting, diverted)
    }

    /// What lapin gets, of bytes that come in pieces of this size.
    fn filtered(tap: &mut Tap, bytes: &[u8], piece: usize) -> Result<Vec<u8>, Refused> {
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            let (mut piece, mut out) = (piece.to_vec(), Vec::new());
            let in_place = tap.filter(&mut piece, &mut out)?;
            all.extend(&piece[..in_place]);
            all.extend(out);
        }
        Ok(all)
    }

    #[test]
    fn greeting_and_returns_are_read_whatever_the_pieces_and_pass_as_they_are() {
        let said = conversation();
        for piece in 1..200 {
            let returns = Returns::default();
            let (mut tap, greeting, _) = new(Some(returns.clone()), Wishes::default());
            assert_eq!(filtered(&mut tap, &said, piece).expect("this is AMQP"), said, "in pieces of {piece}");
            assert_eq!(greeting.properties(), [("product".to_owned(), "RabbitMQ".to_owned())], "in pieces of {piece}");
            assert_eq!(returns.len(), 1);
            assert_eq!(returns.take("id-1"), Some(Returned { code: 312, text: "NO_ROUTE".to_owned() }));
        }
    }

    #[test]
    fn the_last_word_of_the_server_is_known_whatever_the_pieces_and_only_the_first_one_counts() {
        let agrees = frame(1, 0, &[0, 10, 0, 51]);
        let ends =
            frame(1, 0, &[&[0, 10, 0, 50][..], &506u16.to_be_bytes(), &short("RESOURCE_ERROR"), &[0; 4]].concat());
        let ended = || Farewell::Ended(506, "RESOURCE_ERROR".to_owned());
        for piece in [1, 7, usize::MAX] {
            for (last, farewell) in [
                (vec![], None),
                (agrees.clone(), Some(Farewell::Agreed)),
                (ends.clone(), Some(ended())),
                ([ends.clone(), agrees.clone()].concat(), Some(ended())),
            ] {
                let (mut tap, greeting, _) = new(None, Wishes::default());
                let bytes = [conversation(), last].concat();
                assert_eq!(filtered(&mut tap, &bytes, piece).expect("AMQP"), bytes, "it passes as it is");
                assert_eq!(greeting.farewell(), farewell, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_second_close_of_a_channel_is_left_out_whatever_the_pieces() {
        let close = |channel| {
            frame(
                1,
                channel,
                &[&[0, 20, 0, 40][..], &406u16.to_be_bytes(), &short("PRECONDITION_FAILED"), &[0; 4]].concat(),
            )
        };
        let opened = |channel| frame(1, channel, &[0, 20, 0, 11, 0, 0, 0, 0]);
        let first = [conversation(), opened(1), opened(2), close(1)].concat();
        let between = deliver(2, 7, b"k");
        let then = [close(2), opened(1), close(1)].concat();
        let said = [&first[..], &close(1), &between, &close(1), &then, &close(1)].concat();
        for piece in [1, 7, 64, usize::MAX] {
            let (mut tap, ..) = new(None, Wishes::default());
            let expected = [&first[..], &between, &then].concat();
            assert_eq!(filtered(&mut tap, &said, piece).expect("AMQP"), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_peer_that_is_not_amqp_is_recognised_at_its_first_bytes() {
        for said in ["HTTP/1.1 400 Bad Request\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\u{15}\u{3}\u{3}\0\u{2}\u{2}P"] {
            let (mut tap, greeting, _) = new(None, Wishes::default());
            assert_eq!(filtered(&mut tap, said.as_bytes(), 100), Err(Refused::NotAmqp));
            assert_eq!(greeting.not_amqp(), Some(said.as_bytes().to_vec()));
        }
        // Another version of AMQP is lapin's to read.
        let (mut tap, ..) = new(None, Wishes::default());
        assert_eq!(filtered(&mut tap, b"AMQP\0\x01\0\0", 3), Ok(b"AMQP\0\x01\0\0".to_vec()));
        let (mut tap, greeting, _) = new(None, Wishes::default());
        assert_eq!(filtered(&mut tap, b"AMQP\x03\x01\0\0", 3), Err(Refused::NotAmqp), "the login of AMQP 1.0");
        assert!(greeting.not_amqp().is_some_and(|said| said.starts_with(b"AMQP\x03\x01")));
    }

    #[test]
    fn odd_properties_are_diverted_and_everything_around_them_passes_whatever_the_pieces() {
        const CORRELATION_ID: u16 = 1 << 10;
        let before =
            [conversation(), tune(7, 131_072, 60), deliver(3, 1, b"k"), header(3, CORRELATION_ID, b"\x02ok")].concat();
        let body = frame(3, 3, b"abc");
        let behind = [body.clone(), deliver(3, 3, b"k"), header(3, CORRELATION_ID, b"\x02ok"), body.clone()].concat();
        let odd = [deliver(3, 2, b"\xffk"), header(3, CORRELATION_ID, b"\x03\xff\xfe\x80")].concat();
        let said = [&before[..], &body, &odd, &behind].concat();
        let expected = [&before[..], &body, &deliver(3, 2, b"?k"), &header(3, 0, b""), &behind].concat();
        for piece in (1..300).chain([usize::MAX]) {
            let (mut tap, _, diverted) = new(None, Wishes::default());
            assert_eq!(filtered(&mut tap, &said, piece), Ok(expected.clone()), "in pieces of {piece}");
            assert!(diverted.take(3, 1).is_none() && diverted.take(2, 2).is_none());
            let properties = diverted.take(3, 2).expect("the properties");
            assert_eq!(properties.correlation_id, None);
            assert_eq!(properties.unanswerable().map(|oddity| oddity.part), Some(OddPart::CorrelationId));
            assert!(diverted.take(3, 2).is_none() && diverted.take(3, 3).is_none());
        }
    }

    #[test]
    fn properties_above_the_frame_size_are_diverted() {
        let table = [&b"\x05largeS"[..], &10_000u32.to_be_bytes(), &[b'x'; 10_000]].concat();
        let large = [&u32::try_from(table.len()).expect("small").to_be_bytes()[..], &table].concat();
        let said = [conversation(), tune(7, 131_072, 60), deliver(1, 9, b"k"), header(1, 1 << 13, &large)].concat();
        let (mut tap, _, diverted) = new(None, Wishes { frame_max: Some(4096), ..Wishes::default() });
        let got = filtered(&mut tap, &said, 1000).expect("AMQP");
        assert!(got.ends_with(&header(1, 0, b"")), "lapin gets none of it");
        let properties = diverted.take(1, 9).expect("the properties");
        assert_eq!(properties.text("large").map(str::len), Some(10_000));
        assert_eq!(properties.oddities()[0].part, OddPart::TooLarge);
        // With the usual frames there is nothing odd about it.
        let (mut tap, _, diverted) = new(None, Wishes::default());
        assert_eq!(filtered(&mut tap, &said, 1000), Ok(said));
        assert!(diverted.take(1, 9).is_none());
    }

    #[test]
    fn a_channel_that_is_opened_again_begins_without_old_properties() {
        let open_ok = frame(1, 1, &[0, 20, 0, 11, 0, 0, 0, 0]);
        let said = [conversation(), deliver(1, 1, b"k"), header(1, 1 << 7, b"\x01\xff"), open_ok].concat();
        let (mut tap, _, diverted) = new(None, Wishes::default());
        filtered(&mut tap, &said, 64).expect("AMQP");
        assert!(diverted.take(1, 1).is_none());
    }

    #[test]
    fn tune_says_what_is_wanted_and_never_an_absurd_size() {
        let heartbeat = |seconds| Wishes { heartbeat: Some(seconds), ..Wishes::default() };
        let frames = |most| Wishes { frame_max: Some(most), ..Wishes::default() };
        for (wishes, said, expected) in [
            (Wishes::default(), tune(2047, 131_072, 60), tune(2047, 131_072, 60)),
            (Wishes::default(), tune(0, 0, 0), tune(0, 131_072, 0)),
            (Wishes::default(), tune(0, u32::MAX, 60), tune(0, 131_072, 60)),
            (frames(4096), tune(2047, 131_072, 60), tune(2047, 4096, 60)),
            (frames(500_000), tune(2047, 131_072, 60), tune(2047, 131_072, 60)),
            (frames(500_000), tune(2047, 0, 60), tune(2047, 500_000, 60)),
            (frames(u32::MAX), tune(2047, 0, 60), tune(2047, LARGEST_FRAME, 60)),
            (heartbeat(0), tune(2047, 131_072, 60), tune(2047, 131_072, 0)),
            (heartbeat(600), tune(2047, 131_072, 60), tune(2047, 131_072, 600)),
        ] {
            let (mut tap, greeting, _) = new(None, wishes);
            let said = [conversation(), said].concat();
            let got = filtered(&mut tap, &said, 11).expect("AMQP");
            assert!(got.ends_with(&expected), "{wishes:?}");
            assert_eq!(greeting.stage(), HandshakeStage::Tuned);
        }
        let (mut tap, ..) = new(None, Wishes::default());
        let said = [conversation(), tune(2047, 4095, 60)].concat();
        assert_eq!(filtered(&mut tap, &said, 1000), Err(Refused::FrameMax(4095)));
    }

    #[test]
    fn a_server_with_smaller_frames_than_lapin_agrees_on_is_to_be_asked_for_those() {
        for (asked, allowed, expected) in [
            (None, 4096, Some(4096)),
            (None, 8191, Some(8191)),
            (None, 8192, None),
            (Some(6000), 4096, Some(4096)),
            (Some(6000), 6000, None),
            (Some(6000), 7000, None),
            (Some(4096), 4096, None),
        ] {
            let (mut tap, greeting, _) = new(None, Wishes { frame_max: asked, ..Wishes::default() });
            let said = [conversation(), tune(2047, allowed, 60)].concat();
            let refused = filtered(&mut tap, &said, 7).err();
            assert_eq!(refused, expected.map(|_| Refused::SmallerFrames), "{asked:?} of {allowed}");
            assert_eq!(greeting.smaller_frames(), expected, "{asked:?} of {allowed}");
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_held() {
        for kind in [1, 2] {
            let (mut tap, ..) = new(None, Wishes::default());
            let said = [&conversation()[..], &[kind, 0, 1, 0xff, 0xff, 0xff, 0xff, 1]].concat();
            assert_eq!(filtered(&mut tap, &said, 1000), Err(Refused::Frame(0xffff_ffff)));
        }
        let mut deep = b"V".to_vec();
        for _ in 0..1000 {
            deep = [&b"A"[..], &u32::try_from(deep.len()).expect("small").to_be_bytes(), &deep].concat();
        }
        let entry = [&short("x")[..], &deep].concat();
        let table = [&u32::try_from(entry.len()).expect("small").to_be_bytes()[..], &entry].concat();
        let start = frame(1, 0, &[&[0, 10, 0, 10, 0, 9][..], &table, &[0; 8]].concat());
        let (mut tap, ..) = new(None, Wishes::default());
        assert_eq!(filtered(&mut tap, &start, 1000), Err(Refused::Greeting));
    }

    /// Any bytes after a greeting: nothing panics, and what passes is no longer than what came.
    #[test]
    fn random_bytes_do_not_panic() {
        let mut seed = 11_u64;
        for round in 0..3000 {
            let (mut tap, ..) = new(Some(Returns::default()), Wishes::default());
            let mut said = conversation();
            for byte in said.iter_mut().skip(8) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if (seed >> 40).is_multiple_of(60) {
                    *byte = (seed >> 33) as u8;
                }
            }
            if let Ok(got) = filtered(&mut tap, &said, 1 + round % 70) {
                assert!(got.len() <= said.len());
            }
        }
    }
}
