//! Content headers: the size of a body and the properties of a message.

use super::{Table, Violation, read::Reader, write::Writer};

/// The class whose messages these are.
const BASIC: u16 = 60;

const CONTENT_TYPE: u16 = 1 << 15;
const CONTENT_ENCODING: u16 = 1 << 14;
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const PRIORITY: u16 = 1 << 11;
const CORRELATION_ID: u16 = 1 << 10;
const REPLY_TO: u16 = 1 << 9;
const EXPIRATION: u16 = 1 << 8;
const MESSAGE_ID: u16 = 1 << 7;
const TIMESTAMP: u16 = 1 << 6;
const TYPE: u16 = 1 << 5;
const USER_ID: u16 = 1 << 4;
const APP_ID: u16 = 1 << 3;
const CLUSTER_ID: u16 = 1 << 2;
/// Bit 0 announces more flags, which no class needs; bit 1 is a property that class basic does not have.
const UNKNOWN: u16 = 0b11;

/// A content header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContentHeader<'a> {
    /// How many bytes the body has.
    pub body_size: u64,
    /// What is known about the message.
    pub properties: Properties<'a>,
}

/// The properties of a message. Strings are any bytes, as RabbitMQ takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Properties<'a> {
    /// The type of the content.
    pub content_type: Option<&'a [u8]>,
    /// Its encoding.
    pub content_encoding: Option<&'a [u8]>,
    /// The header table.
    pub headers: Option<Table<'a>>,
    /// 2 is persistent.
    pub delivery_mode: Option<u8>,
    /// 0 to 9, or as far as a queue goes.
    pub priority: Option<u8>,
    /// Which request a reply is for.
    pub correlation_id: Option<&'a [u8]>,
    /// The queue for a reply.
    pub reply_to: Option<&'a [u8]>,
    /// Milliseconds as digits.
    pub expiration: Option<&'a [u8]>,
    /// The id that the application gave.
    pub message_id: Option<&'a [u8]>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The name of the kind of message.
    pub kind: Option<&'a [u8]>,
    /// Who published it; the server checks it.
    pub user_id: Option<&'a [u8]>,
    /// Which application published it.
    pub app_id: Option<&'a [u8]>,
    /// Deprecated, but passed on.
    pub cluster_id: Option<&'a [u8]>,
}

impl<'a> ContentHeader<'a> {
    /// Reads the payload of a content header frame, all of it.
    ///
    /// # Errors
    /// The class has no content, a property is cut or unknown, or the header table is malformed.
    pub fn read(payload: &'a [u8]) -> Result<Self, Violation> {
        let mut reader = Reader::new(payload);
        let (class, _weight, body_size, flags) = (reader.u16()?, reader.u16()?, reader.u64()?, reader.u16()?);
        if class != BASIC || flags & UNKNOWN != 0 {
            return Err(Violation::ContentHeader);
        }
        let properties = Properties::read(&mut reader, flags)?;
        if reader.is_empty() { Ok(Self { body_size, properties }) } else { Err(Violation::Excess) }
    }

    /// Appends the payload of a content header frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.bytes(&BASIC.to_be_bytes());
        writer.bytes(&[0; 2]);
        writer.bytes(&self.body_size.to_be_bytes());
        self.properties.write(&mut writer);
    }
}

impl<'a> Properties<'a> {
    fn read(reader: &mut Reader<'a>, flags: u16) -> Result<Self, Violation> {
        let mut properties = Self::default();
        if flags & CONTENT_TYPE != 0 {
            properties.content_type = Some(reader.short_bytes()?);
        }
        if flags & CONTENT_ENCODING != 0 {
            properties.content_encoding = Some(reader.short_bytes()?);
        }
        if flags & HEADERS != 0 {
            properties.headers = Some(Table::checked(reader.long_bytes()?)?);
        }
        if flags & DELIVERY_MODE != 0 {
            properties.delivery_mode = Some(reader.u8()?);
        }
        if flags & PRIORITY != 0 {
            properties.priority = Some(reader.u8()?);
        }
        if flags & CORRELATION_ID != 0 {
            properties.correlation_id = Some(reader.short_bytes()?);
        }
        if flags & REPLY_TO != 0 {
            properties.reply_to = Some(reader.short_bytes()?);
        }
        if flags & EXPIRATION != 0 {
            properties.expiration = Some(reader.short_bytes()?);
        }
        if flags & MESSAGE_ID != 0 {
            properties.message_id = Some(reader.short_bytes()?);
        }
        if flags & TIMESTAMP != 0 {
            properties.timestamp = Some(reader.u64()?);
        }
        if flags & TYPE != 0 {
            properties.kind = Some(reader.short_bytes()?);
        }
        if flags & USER_ID != 0 {
            properties.user_id = Some(reader.short_bytes()?);
        }
        if flags & APP_ID != 0 {
            properties.app_id = Some(reader.short_bytes()?);
        }
        if flags & CLUSTER_ID != 0 {
            properties.cluster_id = Some(reader.short_bytes()?);
        }
        Ok(properties)
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.flags().to_be_bytes());
        let short = |writer: &mut Writer<'_>, text: Option<&[u8]>| {
            if let Some(text) = text {
                writer.short_bytes(text);
            }
        };
        short(writer, self.content_type);
        short(writer, self.content_encoding);
        if let Some(headers) = self.headers {
            writer.long_bytes(headers.as_bytes());
        }
        if let Some(mode) = self.delivery_mode {
            writer.bytes(&[mode]);
        }
        if let Some(priority) = self.priority {
            writer.bytes(&[priority]);
        }
        short(writer, self.correlation_id);
        short(writer, self.reply_to);
        short(writer, self.expiration);
        short(writer, self.message_id);
        if let Some(timestamp) = self.timestamp {
            writer.bytes(&timestamp.to_be_bytes());
        }
        short(writer, self.kind);
        short(writer, self.user_id);
        short(writer, self.app_id);
        short(writer, self.cluster_id);
    }

    fn flags(&self) -> u16 {
        let flag = |present: bool, flag: u16| if present { flag } else { 0 };
        flag(self.content_type.is_some(), CONTENT_TYPE)
            | flag(self.content_encoding.is_some(), CONTENT_ENCODING)
            | flag(self.headers.is_some(), HEADERS)
            | flag(self.delivery_mode.is_some(), DELIVERY_MODE)
            | flag(self.priority.is_some(), PRIORITY)
            | flag(self.correlation_id.is_some(), CORRELATION_ID)
            | flag(self.reply_to.is_some(), REPLY_TO)
            | flag(self.expiration.is_some(), EXPIRATION)
            | flag(self.message_id.is_some(), MESSAGE_ID)
            | flag(self.timestamp.is_some(), TIMESTAMP)
            | flag(self.kind.is_some(), TYPE)
            | flag(self.user_id.is_some(), USER_ID)
            | flag(self.app_id.is_some(), APP_ID)
            | flag(self.cluster_id.is_some(), CLUSTER_ID)
    }

    /// Whether the message is to survive a restart, in a queue that does.
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode == Some(2)
    }
}
