//! The properties of a message: all that AMQP 0-9-1 knows (section 1.8 of its reference), headers of every type included, so
//! that a message which is moved from one queue to another loses nothing.
//!
//! kiwipy sets three of them and no header, and that is the common case: what else there can be stands in one box.

use std::fmt::Write as _;
use std::sync::Arc;

/// The headers of our own begin so.
const OURS: &str = "homing-";

/// The properties of a message. What every message has is shared by those who keep it: a copy costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Properties {
    /// Unique to the message. Also routes a returned message to its publish (a pipelined lapin confirm may carry another's).
    pub message_id: Option<Arc<str>>,
    pub correlation_id: Option<Arc<str>>,
    pub reply_to: Option<Arc<str>>,
    /// kiwipy sends 0.
    pub priority: Option<u8>,
    pub rest: Option<Box<Rest>>,
}

/// What few messages have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rest {
    /// In the order in which they came.
    pub headers: Vec<(String, HeaderValue)>,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// AMQP's `type`.
    pub kind: Option<String>,
    pub app_id: Option<String>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// Milliseconds, as digits.
    pub expiration: Option<String>,
    /// The broker refuses a message whose user id is not the name of its sender.
    pub user_id: Option<String>,
    pub cluster_id: Option<String>,
    /// What could not be read as AMQP means it. Not a property: it is not sent.
    pub oddities: Vec<Oddity>,
}

/// Something about a message that is not as it should be, so that it was taken out and kept in a header of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Oddity {
    pub part: OddPart,
    /// For people; reads after "the message is odd:".
    pub reason: String,
}

/// Which part of a message is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OddPart {
    MessageId,
    CorrelationId,
    ReplyTo,
    ContentType,
    ContentEncoding,
    Type,
    AppId,
    UserId,
    ClusterId,
    Expiration,
    /// Some header, by its name or its depth.
    Header,
    /// The properties as a whole; nothing is known of them.
    Unreadable,
    /// They are larger than what this connection may send, so that the message cannot be moved as it is.
    TooLarge,
}

impl OddPart {
    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            OddPart::MessageId => "message id",
            OddPart::CorrelationId => "correlation id",
            OddPart::ReplyTo => "reply-to",
            OddPart::ContentType => "content type",
            OddPart::ContentEncoding => "content encoding",
            OddPart::Type => "type",
            OddPart::AppId => "app id",
            OddPart::UserId => "user id",
            OddPart::ClusterId => "cluster id",
            OddPart::Expiration => "expiration",
            OddPart::Header => "headers",
            OddPart::Unreadable => "properties",
            OddPart::TooLarge => "size",
        }
    }
}

/// The value of a header, in each type that RabbitMQ carries.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum HeaderValue {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    /// RabbitMQ reads AMQP's unsigned 64 bits as signed ones.
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal {
        scale: u8,
        value: u32,
    },
    /// A long string that is UTF-8.
    Text(String),
    /// A long string that is not.
    Bytes(Vec<u8>),
    /// RabbitMQ's own type for bytes.
    ByteArray(Vec<u8>),
    Timestamp(u64),
    Array(Vec<HeaderValue>),
    Table(Vec<(String, HeaderValue)>),
    Void,
}

impl Default for Properties {
    /// What kiwipy sends where it sets nothing.
    fn default() -> Self {
        Properties { message_id: None, correlation_id: None, reply_to: None, priority: Some(0), rest: None }
    }
}

impl Properties {
    /// What few messages have, if this one has it.
    pub(crate) fn rest(&self) -> Option<&Rest> {
        self.rest.as_deref()
    }

    /// The same to write to.
    pub(crate) fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// What could not be read as AMQP means it; mostly nothing.
    pub(crate) fn oddities(&self) -> &[Oddity] {
        self.rest.as_ref().map_or(&[], |rest| &rest.oddities)
    }

    #[cfg_attr(not(test), allow(dead_code, reason = "for whoever has to answer"))]
    /// Why an answer to this message cannot reach its sender, although it may have asked for one.
    pub(crate) fn unanswerable(&self) -> Option<&Oddity> {
        let asks =
            |oddity: &&Oddity| matches!(oddity.part, OddPart::CorrelationId | OddPart::ReplyTo | OddPart::Unreadable);
        self.oddities().iter().find(asks)
    }

    /// Every header.
    pub(crate) fn headers(&self) -> &[(String, HeaderValue)] {
        self.rest.as_ref().map_or(&[], |rest| &rest.headers)
    }

    /// The header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&HeaderValue> {
        self.headers().iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// A header that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.header(name) {
            Some(HeaderValue::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A header that is a whole number, or a string of digits (as homing writes them).
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        match self.header(name)? {
            HeaderValue::Text(digits) => digits.parse().ok(),
            HeaderValue::U8(number) => Some((*number).into()),
            HeaderValue::U16(number) => Some((*number).into()),
            HeaderValue::U32(number) => Some((*number).into()),
            HeaderValue::I8(number) => u64::try_from(*number).ok(),
            HeaderValue::I16(number) => u64::try_from(*number).ok(),
            HeaderValue::I32(number) => u64::try_from(*number).ok(),
            HeaderValue::I64(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Sets a header in place of one that has this name.
    pub(crate) fn set(&mut self, name: &str, value: HeaderValue) {
        let headers = &mut self.rest_mut().headers;
        match headers.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => headers.push((name.to_owned(), value)),
        }
    }

    /// The same with a string.
    pub(crate) fn set_text(&mut self, name: &str, text: impl Into<String>) {
        self.set(name, HeaderValue::Text(text.into()));
    }

    /// The same for properties that are being made.
    pub(crate) fn with_text(mut self, name: &str, text: impl Into<String>) -> Self {
        self.set_text(name, text);
        self
    }

    /// The same with a number, as digits.
    pub(crate) fn set_number(&mut self, name: &str, number: u64) {
        self.set_text(name, number.to_string());
    }

    /// Takes a header away.
    pub(crate) fn remove(&mut self, name: &str) -> Option<HeaderValue> {
        let headers = &mut self.rest.as_mut()?.headers;
        let at = headers.iter().position(|(known, _)| known == name)?;
        Some(headers.remove(at).1)
    }

    /// The properties of a copy that goes into another queue.
    ///
    /// Everything is kept but what would have an effect of its own, as the broker's dead-lettering does it. That stands in a
    /// header of ours from then on:
    /// - `expiration`: the copy would vanish from where it is put to be kept (`homing-original-expiration`);
    /// - `user_id`: the broker refuses a message whose user id is not the name of its sender (`homing-original-user-id`);
    /// - the headers `CC` and `BCC`: the broker would route the copy to each key in them too (`homing-original-CC`).
    pub(crate) fn moved(mut self) -> Self {
        let Some(rest) = self.rest.as_mut() else { return self };
        let (expiration, user_id) = (rest.expiration.take(), rest.user_id.take());
        for (name, value) in [("expiration", expiration), ("user-id", user_id)] {
            if let Some(value) = value {
                self.set_text(&format!("{OURS}original-{name}"), value);
            }
        }
        for name in ["CC", "BCC"] {
            if let Some(value) = self.remove(name) {
                self.set(&format!("{OURS}original-{name}"), value);
            }
        }
        self
    }
}

/// What every content header has: class, weight, body size, flags, delivery mode and the length of the header table.
const FIXED: usize = 2 + 2 + 8 + 2 + 1 + 4;

/// What a message id takes that is made where there is none.
const MADE_ID: usize = 32;

/// A text or bytes shorter than this is not worth cutting.
const WORTH_CUTTING: usize = 64;

/// Names what [`Properties::fit`] has cut.
const CUT: &str = "homing-cut-headers";

impl Properties {
    /// How many bytes the properties take on the wire, as the payload of a content header.
    pub(crate) fn wire_size(&self) -> usize {
        let short = |text: Option<&str>| text.map_or(0, |text| 1 + text.len());
        let own = 1 + self.message_id.as_ref().map_or(MADE_ID, |id| id.len());
        let size = FIXED
            + own
            + short(self.correlation_id.as_deref())
            + short(self.reply_to.as_deref())
            + usize::from(self.priority.is_some());
        let Some(rest) = self.rest() else { return size };
        size + table_size(&rest.headers)
            + [&rest.content_type, &rest.content_encoding, &rest.kind, &rest.app_id]
                .map(|text| short(text.as_deref()))
                .iter()
                .sum::<usize>()
            + [&rest.expiration, &rest.user_id, &rest.cluster_id]
                .map(|text| short(text.as_deref()))
                .iter()
                .sum::<usize>()
            + rest.timestamp.map_or(0, |_| 8)
    }

    /// Cuts headers until the properties take no more bytes than this: first the texts that homing has added (why an attempt
    /// failed, why a task is in quarantine), then the largest of the others, whose names stand in `homing-cut-headers` from
    /// then on. False when even that does not do.
    pub(crate) fn fit(&mut self, most: usize) -> bool {
        loop {
            let size = self.wire_size();
            if size <= most {
                return true;
            }
            if !self.cut_one(size - most) {
                return false;
            }
        }
    }

    /// Makes one header shorter, by this much if it can; false when there is none to cut.
    fn cut_one(&mut self, over: usize) -> bool {
        let headers = self.headers();
        let ours = |(_, (name, value)): &(usize, &(String, HeaderValue))| {
            name.starts_with(OURS) && matches!(value, HeaderValue::Text(text) if text.len() > WORTH_CUTTING)
        };
        let largest = headers.iter().enumerate().filter(ours).max_by_key(|(_, (_, value))| value.wire_size());
        if let Some((at, _)) = largest {
            if let Some((_, HeaderValue::Text(text))) = self.rest_mut().headers.get_mut(at) {
                cut(text, over);
            }
            return true;
        }
        let foreign = |(_, (name, _)): &(usize, &(String, HeaderValue))| !name.starts_with(OURS);
        let largest = headers.iter().enumerate().filter(foreign).max_by_key(|(_, (_, value))| value.wire_size());
        let Some((at, _)) = largest else { return false };
        let (name, mut value) = self.rest_mut().headers.remove(at);
        let mut named = self.text(CUT).map_or(String::new(), |before| format!("{before} "));
        if named.len() < 4 * WORTH_CUTTING {
            named.push_str(&name);
            self.set_text(CUT, named);
        }
        // What remains of a text is worth more than nothing; of a table or a number it is not.
        if let HeaderValue::Text(text) = &mut value
            && text.len() > over + 2 * WORTH_CUTTING
        {
            cut(text, over + WORTH_CUTTING);
            // Under a name of ours, so that it is not taken for the whole.
            self.set(&format!("{OURS}cut-{}", &name[..floor(&name, 200)]), value);
        }
        true
    }
}

/// Shortens a text by this many bytes, though not to nothing.
fn cut(text: &mut String, by: usize) {
    const MARK: &str = "…";
    let length = text.len().saturating_sub(by + MARK.len()).max(WORTH_CUTTING - MARK.len());
    text.truncate(floor(text, length));
    text.push_str(MARK);
}

/// The end of the last character before this byte.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn table_size(table: &[(String, HeaderValue)]) -> usize {
    table.iter().map(|(name, value)| 1 + name.len() + value.wire_size()).sum()
}

impl HeaderValue {
    /// How many bytes it takes on the wire, its type included.
    pub(crate) fn wire_size(&self) -> usize {
        1 + match self {
            HeaderValue::Void => 0,
            HeaderValue::Bool(_) | HeaderValue::I8(_) | HeaderValue::U8(_) => 1,
            HeaderValue::I16(_) | HeaderValue::U16(_) => 2,
            HeaderValue::I32(_) | HeaderValue::U32(_) | HeaderValue::F32(_) => 4,
            HeaderValue::Decimal { .. } => 5,
            HeaderValue::I64(_) | HeaderValue::F64(_) | HeaderValue::Timestamp(_) => 8,
            HeaderValue::Text(text) => 4 + text.len(),
            HeaderValue::Bytes(bytes) | HeaderValue::ByteArray(bytes) => 4 + bytes.len(),
            HeaderValue::Array(values) => 4 + values.iter().map(HeaderValue::wire_size).sum::<usize>(),
            HeaderValue::Table(table) => 4 + table_size(table),
        }
    }

    /// For people: strings as they are, bytes escaped, tables and arrays in brackets.
    pub(crate) fn shown(&self) -> String {
        let mut shown = String::new();
        self.show(&mut shown);
        shown
    }

    fn show(&self, out: &mut String) {
        // Writing to a string does not fail.
        let _ = match self {
            HeaderValue::Bool(value) => write!(out, "{value}"),
            HeaderValue::I8(value) => write!(out, "{value}"),
            HeaderValue::U8(value) => write!(out, "{value}"),
            HeaderValue::I16(value) => write!(out, "{value}"),
            HeaderValue::U16(value) => write!(out, "{value}"),
            HeaderValue::I32(value) => write!(out, "{value}"),
            HeaderValue::U32(value) => write!(out, "{value}"),
            HeaderValue::I64(value) => write!(out, "{value}"),
            HeaderValue::Timestamp(value) => write!(out, "{value}"),
            HeaderValue::F32(value) => write!(out, "{value}"),
            HeaderValue::F64(value) => write!(out, "{value}"),
            HeaderValue::Decimal { scale, value } => write!(out, "{value}e-{scale}"),
            HeaderValue::Text(text) => write!(out, "{text}"),
            HeaderValue::Bytes(bytes) | HeaderValue::ByteArray(bytes) => write!(out, "{}", bytes.escape_ascii()),
            HeaderValue::Void => write!(out, "null"),
            HeaderValue::Array(values) => {
                out.push('[');
                for (at, value) in values.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    value.show(out);
                }
                out.push(']');
                Ok(())
            }
            HeaderValue::Table(entries) => {
                out.push('{');
                for (at, (name, value)) in entries.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { ", " });
                    out.push_str(name);
                    out.push_str(": ");
                    value.show(out);
                }
                out.push('}');
                Ok(())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_headers_needs_no_box() {
        assert!(Properties::default().rest().is_none());
        assert!(Properties::default().moved().rest().is_none());
        assert!(std::mem::size_of::<Properties>() <= 88, "{}", std::mem::size_of::<Properties>());
    }

    #[test]
    fn a_header_is_set_once_and_read_by_its_type() {
        let mut properties = Properties::default();
        properties.set_number("homing-attempt", 2);
        properties.set_number("homing-attempt", 3);
        properties.set("n", HeaderValue::I64(-1));
        properties.set("m", HeaderValue::U16(7));
        assert_eq!(properties.headers().len(), 3);
        assert_eq!(properties.text("homing-attempt"), Some("3"));
        assert_eq!(properties.number("homing-attempt"), Some(3));
        assert_eq!((properties.number("n"), properties.number("m"), properties.text("m")), (None, Some(7), None));
        assert_eq!(properties.remove("n"), Some(HeaderValue::I64(-1)));
        assert_eq!(properties.remove("n"), None);
    }

    #[test]
    fn what_homing_adds_is_cut_first_and_then_the_largest_of_the_others() {
        let mut properties = Properties::default().with_text("theirs", "t".repeat(1000));
        let before = properties.wire_size();
        properties.set_text("homing-quarantine-reason", "ä".repeat(100_000));
        assert!(properties.fit(before + 500));
        let reason = properties.text("homing-quarantine-reason").expect("the reason");
        assert!(reason.ends_with('…') && reason.len() > 400, "{}", reason.len());
        assert_eq!(properties.text("theirs").map(str::len), Some(1000), "the sender's own is whole");
        assert!(properties.fit(600));
        assert_eq!((properties.header("theirs"), properties.text("homing-cut-headers")), (None, Some("theirs")));
        assert!(properties.text("homing-cut-theirs").is_some_and(|text| text.ends_with('…')));
        assert!(properties.wire_size() <= 600);
        // A table is left out as a whole, and what cannot be made to fit is reported.
        let mut properties = Properties::default();
        properties.set("table", HeaderValue::Array(vec![HeaderValue::I64(1); 1000]));
        assert!(properties.fit(500) && properties.header("table").is_none());
        assert!(!properties.fit(10));
        let mut fits = Properties::default().with_text("x", "y");
        let same = fits.clone();
        assert!(fits.fit(fits.wire_size()));
        assert_eq!(fits, same);
    }

    #[test]
    fn a_moved_message_keeps_everything_and_nothing_that_acts() {
        let mut properties = Properties { priority: Some(7), ..Properties::default() };
        properties.set("CC", HeaderValue::Array(vec![HeaderValue::Text("elsewhere".into())]));
        properties.set("x", HeaderValue::F64(0.5));
        *properties.rest_mut() = Rest {
            kind: Some("task".into()),
            expiration: Some("5000".into()),
            user_id: Some("guest".into()),
            timestamp: Some(12),
            ..properties.rest_mut().clone()
        };
        let moved = properties.moved();
        let rest = moved.rest().expect("the rest");
        assert_eq!((moved.priority, rest.kind.as_deref(), rest.timestamp), (Some(7), Some("task"), Some(12)));
        assert_eq!((&rest.expiration, &rest.user_id, moved.header("CC")), (&None, &None, None));
        assert_eq!(moved.text("homing-original-expiration"), Some("5000"));
        assert_eq!(moved.text("homing-original-user-id"), Some("guest"));
        assert_eq!(moved.header("homing-original-CC").map(HeaderValue::shown).as_deref(), Some("[elsewhere]"));
        assert_eq!(moved.header("x"), Some(&HeaderValue::F64(0.5)));
        assert_eq!(moved.clone().moved(), moved, "moving it again changes nothing");
    }
}
