//! A message of the server: the content header as it came, the body, and what the engine asks about.

use super::{
    arguments, deaths,
    disk::{Shelf, StoredRecord},
    exception::{Exception, Result},
};
use crate::engine::{CopyId, Death, Field, Message};
use crate::protocol::{ContentHeader, Properties, Table, TableWriter, Value};
use bytes::Bytes;
use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The longest `expiration`, in milliseconds, as RabbitMQ has it: ten years.
const LONGEST_EXPIRATION: u64 = 315_360_000_000;

/// The most that is reserved for a body before any of it has come, in bytes.
const RESERVED: u64 = 64 << 10;

/// A message. Clones share it.
#[derive(Clone, Debug)]
pub struct Content(Place);

#[derive(Clone, Debug)]
enum Place {
    Here(Rc<Parts>),
    Away(Away),
}

/// All of a message.
#[derive(Debug)]
pub(super) struct Parts {
    exchange: Arc<str>,
    key: Arc<str>,
    facts: Facts,
    /// The payload of the content header frame, then the body.
    bytes: Bytes,
    header_len: usize,
    /// Where it is put away when it has to wait.
    shelf: Option<Rc<Shelf>>,
}

/// A message that waits in the store.
#[derive(Clone, Debug)]
struct Away {
    shelf: Rc<Shelf>,
    copy: CopyId,
    body_len: u32,
    priority: u8,
    /// Once it was wanted again.
    read: OnceCell<Read>,
}

/// A message that was read from the store.
#[derive(Clone, Debug)]
enum Read {
    Whole(Rc<Parts>),
    /// It cannot be read. An empty one stands for it.
    Lost(Rc<Parts>),
}

/// What is read out of a content header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    pub(super) is_persistent: bool,
    pub(super) priority: u8,
    pub(super) time_to_live: Option<Duration>,
    pub(super) cc: Box<[Arc<str>]>,
    pub(super) bcc: Box<[Arc<str>]>,
}

impl Facts {
    /// # Errors
    /// An expiration that is no number, or `CC` or `BCC` that are no lists: 406.
    pub(super) fn read(properties: &Properties<'_>) -> Result<Self> {
        let mut facts = Self {
            is_persistent: properties.is_persistent(),
            priority: properties.priority.unwrap_or(0),
            ..Self::default()
        };
        if let Some(expiration) = properties.expiration {
            facts.time_to_live = Some(Duration::from_millis(milliseconds(expiration)?));
        }
        if let Some(headers) = properties.headers {
            for (name, value) in headers.iter().map_while(Result::ok) {
                match name {
                    b"CC" => facts.cc = keys("CC", value)?,
                    b"BCC" => facts.bcc = keys("BCC", value)?,
                    _ => {}
                }
            }
        }
        Ok(facts)
    }
}

/// RabbitMQ reads a number at the start and complains about what follows it.
fn milliseconds(expiration: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(expiration);
    let wrong = |what: &str| Err(Exception::precondition(format!("invalid expiration '{text}': {what}")));
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(&text);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(text.len() - unsigned.len() + digits);
    if digits == 0 {
        return wrong("no_integer");
    }
    if !rest.is_empty() {
        return wrong(&format!("{{leftover_string,\"{rest}\"}}"));
    }
    let number = number.trim_start_matches('+');
    match number.parse::<u64>() {
        Ok(value) if value <= LONGEST_EXPIRATION => Ok(value),
        Err(_) if number.starts_with('-') => wrong(&format!("{{value_negative,{number}}}")),
        _ => wrong(&format!("{{value_too_large,{number}}}")),
    }
}

/// The strings in a list of routing keys; what else is in it is passed over.
fn keys(header: &str, value: Value<'_>) -> Result<Box<[Arc<str>]>> {
    let Some(list) = value.as_array() else {
        let kind = value.type_name();
        return Err(Exception::precondition(format!(
            "invalid message: {{unacceptable_type_in_header,\"{header}\",{kind}}}"
        )));
    };
    Ok(list.iter().map_while(Result::ok).filter_map(|value| value.as_str().map(Arc::from)).collect())
}

/// A message whose body has not come in full.
#[derive(Debug)]
pub(super) struct Unfinished {
    facts: Facts,
    bytes: Vec<u8>,
    header_len: usize,
    missing: u64,
}

impl Unfinished {
    /// `header` is the payload of a content header frame, and `facts` are what it holds.
    pub(super) fn new(header: &[u8], facts: Facts, body_size: u64) -> Self {
        // No more is reserved than a peer could make the server keep anyway.
        let reserved = usize::try_from(body_size.min(RESERVED)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(header.len() + reserved);
        bytes.extend_from_slice(header);
        Self { facts, bytes, header_len: header.len(), missing: body_size }
    }

    /// Whether the body is complete.
    pub(super) fn is_finished(&self) -> bool {
        self.missing == 0
    }

    /// How many bytes there are so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a piece of the body, if it is not more than was announced.
    pub(super) fn push(&mut self, piece: &[u8]) -> bool {
        let Some(missing) = self.missing.checked_sub(piece.len() as u64) else { return false };
        self.missing = missing;
        self.bytes.extend_from_slice(piece);
        true
    }

    pub(super) fn finish(self, exchange: Arc<str>, key: Arc<str>, shelf: Option<&Rc<Shelf>>) -> Content {
        let Self { facts, mut bytes, header_len, .. } = self;
        if bytes.capacity() - bytes.len() > bytes.len() / 4 {
            bytes.shrink_to_fit();
        }
        let parts = Parts { exchange, key, facts, bytes: bytes.into(), header_len, shelf: shelf.cloned() };
        Content(Place::Here(Rc::new(parts)))
    }
}

impl Parts {
    /// A message as it was stored. `None` where its header cannot be read.
    pub(super) fn stored(record: &StoredRecord<'_>, body: &[u8]) -> Option<Rc<Self>> {
        let read = ContentHeader::read(record.header).ok()?;
        let mut facts = Facts::read(&read.properties).ok()?;
        facts.bcc = record.bcc.iter().copied().map(Arc::from).collect();
        let bytes = [record.header, body].concat().into();
        let (exchange, key) = (record.exchange.into(), record.key.into());
        Some(Rc::new(Self { exchange, key, facts, bytes, header_len: record.header.len(), shelf: None }))
    }

    /// What takes the place of a message that cannot be read.
    fn nothing() -> Rc<Self> {
        let mut bytes = Vec::new();
        ContentHeader { body_size: 0, properties: Properties::default() }.write(&mut bytes);
        let header_len = bytes.len();
        let (exchange, key) = ("".into(), "".into());
        Rc::new(Self { exchange, key, facts: Facts::default(), bytes: bytes.into(), header_len, shelf: None })
    }
}

impl Away {
    fn read(&self) -> &Read {
        self.read.get_or_init(|| match self.shelf.get(self.copy) {
            Ok(parts) => Read::Whole(parts),
            Err(error) => {
                tracing::error!(
                    copy = self.copy.0,
                    error,
                    "a message is lost: it cannot be read from the broker's store"
                );
                Read::Lost(Parts::nothing())
            }
        })
    }
}

impl Content {
    /// A message that waits in the store under this copy. `None` where its header cannot be read.
    pub(super) fn away(shelf: Rc<Shelf>, copy: CopyId, record: &StoredRecord<'_>, body_len: u32) -> Option<Self> {
        let priority = ContentHeader::read(record.header).ok()?.properties.priority.unwrap_or(0);
        Some(Self(Place::Away(Away { shelf, copy, body_len, priority, read: OnceCell::new() })))
    }

    /// A message as it was kept elsewhere. `header` is the payload of its content header, and `bcc` are the keys of the header of
    /// that name, which is not in it any more. `None` where the header cannot be read.
    pub fn restore(exchange: &str, key: &str, header: &[u8], body: &[u8], bcc: &[Arc<str>]) -> Option<Self> {
        Parts::stored(&StoredRecord::new(exchange, key, bcc, header), body).map(|parts| Self(Place::Here(parts)))
    }

    fn parts(&self) -> &Rc<Parts> {
        match &self.0 {
            Place::Here(parts) => parts,
            Place::Away(away) => match away.read() {
                Read::Whole(parts) | Read::Lost(parts) => parts,
            },
        }
    }

    /// Whether all of it is here or can be read from the store. Blocks for as long as the disk takes.
    pub(super) fn is_readable(&self) -> bool {
        match &self.0 {
            Place::Here(_) => true,
            Place::Away(away) => matches!(away.read(), Read::Whole(_)),
        }
    }

    /// Whether the two are one message, and not only equal.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Place::Here(one), Place::Here(two)) => Rc::ptr_eq(one, two),
            _ => false,
        }
    }

    /// The payload of its content header.
    pub fn header(&self) -> &[u8] {
        let parts = self.parts();
        &parts.bytes[..parts.header_len]
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        let parts = self.parts();
        &parts.bytes[parts.header_len..]
    }

    /// Its body, shared.
    pub(super) fn body_bytes(&self) -> Bytes {
        let parts = self.parts();
        parts.bytes.slice(parts.header_len..)
    }

    fn properties(&self) -> Properties<'_> {
        ContentHeader::read(self.header()).map(|header| header.properties).unwrap_or_default()
    }

    /// Its content header with the count of a quorum queue.
    pub(super) fn header_with_delivery_count(&self, count: u32) -> Vec<u8> {
        let properties = self.properties();
        let mut table = without(properties.headers, &[b"x-delivery-count"]);
        TableWriter::new(&mut table).field(b"x-delivery-count", &Value::I64(count.into()));
        self.rewritten(Properties { headers: Some(Table::unchecked(&table)), ..properties })
    }

    fn rewritten(&self, properties: Properties<'_>) -> Vec<u8> {
        let mut header = Vec::with_capacity(self.header().len());
        ContentHeader { body_size: self.body().len() as u64, properties }.write(&mut header);
        header
    }
}

/// The fields of a table but those of these names, as bytes.
pub(super) fn without(table: Option<Table<'_>>, names: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = TableWriter::new(&mut bytes);
    for (name, value) in table.unwrap_or_default().iter().map_while(Result::ok) {
        if !names.contains(&name) {
            writer.field(name, &value);
        }
    }
    bytes
}

impl Message for Content {
    fn exchange(&self) -> &str {
        &self.parts().exchange
    }

    fn routing_key(&self) -> &str {
        &self.parts().key
    }

    fn cc(&self) -> &[Arc<str>] {
        &self.parts().facts.cc
    }

    fn bcc(&self) -> &[Arc<str>] {
        &self.parts().facts.bcc
    }

    fn priority(&self) -> u8 {
        match &self.0 {
            Place::Here(parts) => parts.facts.priority,
            Place::Away(away) => away.priority,
        }
    }

    fn time_to_live(&self) -> Option<Duration> {
        self.parts().facts.time_to_live
    }

    fn is_persistent(&self) -> bool {
        match &self.0 {
            Place::Here(parts) => parts.facts.is_persistent,
            Place::Away(_) => true,
        }
    }

    fn weight(&self) -> usize {
        match &self.0 {
            Place::Here(parts) => size_of::<Parts>() + parts.bytes.len() + parts.key.len(),
            Place::Away(_) => size_of::<Self>(),
        }
    }

    fn body_len(&self) -> usize {
        match &self.0 {
            Place::Here(parts) => parts.bytes.len() - parts.header_len,
            Place::Away(away) => away.body_len as usize,
        }
    }

    fn headers(&self, each: &mut dyn FnMut(&str, &Field)) {
        for (name, value) in self.properties().headers.unwrap_or_default().iter().map_while(Result::ok) {
            if let Ok(name) = std::str::from_utf8(name) {
                each(name, &arguments::field(value));
            }
        }
    }

    fn deaths(&self) -> Vec<Death> {
        deaths::read(self.properties().headers.unwrap_or_default())
    }

    fn after_death(self, exchange: &Arc<str>, key: Option<&Arc<str>>, deaths: &[Death]) -> Self {
        let properties = self.properties();
        let old = properties.headers.unwrap_or_default();
        let mut dropped: Vec<&[u8]> = vec![b"x-death"];
        if key.is_some() {
            dropped.extend([b"CC".as_slice(), b"BCC"]);
        }
        let mut table = without(Some(old), &dropped);
        let mut writer = TableWriter::new(&mut table);
        if old.get("x-first-death-reason").is_none() {
            deaths::write_first(&mut writer, deaths);
        }
        deaths::write(&mut writer, deaths, properties.expiration);
        let header =
            self.rewritten(Properties { headers: Some(Table::unchecked(&table)), expiration: None, ..properties });
        let parts = self.parts();
        let mut facts = Facts { time_to_live: None, ..parts.facts.clone() };
        if key.is_some() {
            (facts.cc, facts.bcc) = (Box::default(), Box::default());
        }
        let key = key.unwrap_or(&parts.key).clone();
        let bytes = [&header, self.body()].concat().into();
        let shelf = match &self.0 {
            Place::Here(parts) => parts.shelf.clone(),
            Place::Away(away) => Some(away.shelf.clone()),
        };
        let parts = Parts { exchange: exchange.clone(), key, facts, bytes, header_len: header.len(), shelf };
        Self(Place::Here(Rc::new(parts)))
    }

    fn put_away(&mut self, copy: CopyId, before: usize) {
        let Place::Here(parts) = &self.0 else { return };
        let body_len = parts.bytes.len() - parts.header_len;
        let (Some(shelf), Ok(length)) = (&parts.shelf, u32::try_from(body_len)) else { return };
        if Shelf::is_far(before, body_len) {
            shelf.put(copy, parts.clone());
            let (shelf, priority) = (shelf.clone(), parts.facts.priority);
            self.0 = Place::Away(Away { shelf, copy, body_len: length, priority, read: OnceCell::new() });
        }
    }
}
