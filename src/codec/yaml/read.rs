//! Reads a body: the events of [`parse`](super::parse) into a [`Value`], under limits.
//!
//! Nothing here recurses, and nothing is constructed from a tag: known tags decide the kind of a value, unknown ones are
//! carried. What an alias stands for is charged again each time, so that a small body cannot become a large value, and its
//! depth counts where the alias stands, so that aliases cannot make a value that overflows a stack.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::parse::{Event, Parser, Properties};
use super::resolve::{self, Plain};
use super::scan::{Fault, Mark};
use super::tags;
use crate::codec::value::{Map, Tagged, Value};
use crate::codec::{Limits, check_size};
use crate::error::{Error, ErrorKind, Result};

/// As Python: bits that are left over at the end do not matter.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

pub(super) fn read(body: &[u8], limits: &Limits) -> Result<Value> {
    check_size(body.len(), limits, ErrorKind::Decode)?;
    let text = decode(body)?;
    check_printable(&text)?;
    let mut parser = Parser::new(&text, limits.max_depth);
    let mut reader = Reader {
        limits,
        size: Size::default(),
        kept: Size::default(),
        aliases: 0,
        open: Vec::new(),
        text: &text,
        aliased: None,
        anchors: HashMap::new(),
        document: None,
    };
    loop {
        let (event, mark) = parser.next().map_err(|fault| at(fault.mark, &fault.why))?;
        if matches!(event, Event::End) {
            break;
        }
        reader.event(event, mark).map_err(|fault| at(fault.mark, &fault.why))?;
    }
    // An empty body is null, as it is to PyYAML.
    Ok(reader.document.unwrap_or(Value::Null))
}

/// A body as text: UTF-16 behind its byte order mark, otherwise UTF-8.
pub(in crate::codec) fn decode(body: &[u8]) -> Result<Cow<'_, str>> {
    let unit: fn([u8; 2]) -> u16 = match body {
        [0xFF, 0xFE, ..] => u16::from_le_bytes,
        [0xFE, 0xFF, ..] => u16::from_be_bytes,
        _ => return crate::codec::utf8(body).map(Cow::Borrowed),
    };
    let (units, rest) = body.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(Error::new(ErrorKind::Decode, "the body is UTF-16 and has an odd number of bytes"));
    }
    let text = char::decode_utf16(units.iter().map(|bytes| unit(*bytes))).collect::<std::result::Result<String, _>>();
    let text = text.map_err(|_| {
        let why = "the body is UTF-16 with a lone surrogate in it, which is not a character";
        Error::new(ErrorKind::Decode, why)
    });
    text.map(Cow::Owned)
}

/// That there are no control characters, which PyYAML's reader refuses wherever they stand.
fn check_printable(text: &str) -> Result<()> {
    let bytes = text.as_bytes();
    let bad = |at: usize| match bytes[at] {
        b'\t' | b'\n' | b'\r' => false,
        0..=0x1F | 0x7F => true,
        0xC2 => bytes[at + 1] < 0xA0 && bytes[at + 1] != 0x85,
        0xEF => bytes[at + 1] == 0xBF && bytes[at + 2] >= 0xBE,
        _ => false,
    };
    let Some(found) = (0..bytes.len()).find(|at| bad(*at)) else { return Ok(()) };
    let before = &text[..found];
    let line = before.matches('\n').count();
    let column = before[before.rfind('\n').map_or(0, |newline| newline + 1)..].chars().count();
    Err(at(Mark { line, column }, "a control character must be written as an escape between double quotes"))
}

struct Reader<'a> {
    limits: &'a Limits,
    /// What there is so far, that of aliases counted each time.
    size: Size,
    /// What is kept for aliases: a copy of each anchor's value, and anchors may stand within each other.
    kept: Size,
    aliases: usize,
    open: Vec<Open<'a>>,
    text: &'a str,
    /// Every name behind a `*`: an anchor that no alias refers to is not kept. Made for the first anchor.
    aliased: Option<HashSet<&'a str>>,
    anchors: HashMap<&'a str, Anchor>,
    document: Option<Value>,
}

/// How many values, and how many bytes of text in them.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

impl Size {
    fn add(&mut self, more: Size) {
        self.nodes = self.nodes.saturating_add(more.nodes);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }

    fn since(self, earlier: Size) -> Size {
        Size { nodes: self.nodes - earlier.nodes, bytes: self.bytes - earlier.bytes }
    }
}

/// What an alias stands for.
enum Anchor {
    /// Its collection has not ended.
    Open,
    /// `<<` or `=`, or what no alias refers to.
    Nothing,
    Kept {
        value: Value,
        size: Size,
        height: usize,
    },
}

/// A collection that is being read.
struct Open<'a> {
    /// By its name in `anchors`.
    anchor: Option<&'a str>,
    tag: Option<String>,
    /// What there was when it began.
    since: Size,
    /// How many levels there are below it so far.
    height: usize,
    start: Mark,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>),
    /// Of `!!omap` and `!!pairs`, which PyYAML reads as a list of tuples.
    Pairs(Vec<Value>),
    Mapping {
        pairs: Vec<(Key, Value)>,
        key: Option<Key>,
        /// An item of `!!omap` or `!!pairs`: one pair, its key of any kind.
        is_pair: bool,
    },
}

/// A value, or what is one only in its place.
enum Key {
    Value(Value),
    Merge,
    Equals,
    /// An item of a list of pairs.
    Pair(Value, Value),
}

type Done<T = ()> = std::result::Result<T, Fault>;

impl<'a> Reader<'a> {
    fn event(&mut self, event: Event<'a>, start: Mark) -> Done {
        match event {
            Event::Scalar { properties, text, plain } => self.scalar_event(&properties, text, plain, start),
            Event::SequenceStart(properties) => {
                let name = properties.tag.as_deref().and_then(|tag| tag.strip_prefix(tags::STANDARD));
                let content = match name {
                    Some("omap" | "pairs") => Content::Pairs(Vec::new()),
                    _ => Content::Sequence(Vec::new()),
                };
                self.open(&properties, content, start)
            }
            Event::MappingStart(properties) => {
                let in_pairs = self.open.last().is_some_and(|parent| matches!(parent.content, Content::Pairs(_)));
                // An alias may stand for the mapping elsewhere, where it is not a pair.
                let is_pair = in_pairs && properties.anchor.is_none();
                self.open(&properties, Content::Mapping { pairs: Vec::new(), key: None, is_pair }, start)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(name) => self.alias(name, start),
            Event::End => Ok(()),
        }
    }

    fn scalar_event(&mut self, properties: &Properties<'a>, text: Cow<'a, str>, plain: bool, start: Mark) -> Done {
        let since = self.size;
        self.count(start, Size { nodes: 1, bytes: text.len() })?;
        let key = scalar(text, plain, properties.tag.as_deref(), start)?;
        // What is under a tag is a level and a value of its own.
        let height = usize::from(matches!(key, Key::Value(Value::Tagged(_))));
        self.count(start, Size { nodes: height, bytes: 0 })?;
        if let Some(name) = properties.anchor {
            self.declare(name, start)?;
            match &key {
                Key::Value(value) => self.keep(name, value, self.size.since(since), height, start)?,
                _ => drop(self.anchors.insert(name, Anchor::Nothing)),
            }
        }
        self.put(key, height, start)
    }

    fn alias(&mut self, name: &str, start: Mark) -> Done {
        self.aliases += 1;
        if self.aliases > self.limits.max_aliases {
            return Err(Fault::new(start, format!("there are more than {} aliases", self.limits.max_aliases)));
        }
        let (size, height) = match self.anchors.get(name) {
            Some(Anchor::Kept { size, height, .. }) => (*size, *height),
            Some(Anchor::Open) => {
                return Err(Fault::new(start, "an alias stands inside its own anchor; a value cannot contain itself"));
            }
            Some(Anchor::Nothing) => return Err(Fault::new(start, "an alias stands for `<<` or `=`")),
            None => return Err(Fault::new(start, "an alias has no anchor before it")),
        };
        // All before the value is copied.
        self.count(start, size)?;
        self.fits(start, height)?;
        check_copies(self.size, self.limits, start)?;
        let Some(Anchor::Kept { value, .. }) = self.anchors.get(name) else { return Ok(()) };
        let value = value.clone();
        self.put(Key::Value(value), height, start)
    }

    fn declare(&mut self, name: &'a str, start: Mark) -> Done {
        match self.anchors.insert(name, Anchor::Open) {
            None => Ok(()),
            Some(_) => Err(Fault::new(start, "there are two anchors of one name")),
        }
    }

    /// Keeps a copy for aliases to come.
    fn keep(&mut self, name: &'a str, value: &Value, size: Size, height: usize, start: Mark) -> Done {
        let text = self.text;
        let aliased = self.aliased.get_or_insert_with(|| {
            let names = text.split('*').skip(1);
            names
                .map(|rest| {
                    let letters = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte));
                    &rest[..letters.count()]
                })
                .collect()
        });
        if !aliased.contains(name) {
            self.anchors.insert(name, Anchor::Nothing);
            return Ok(());
        }
        self.kept.add(size);
        check_copies(self.kept, self.limits, start)?;
        self.anchors.insert(name, Anchor::Kept { value: value.clone(), size, height });
        Ok(())
    }

    fn count(&mut self, start: Mark, more: Size) -> Done {
        self.size.add(more);
        if self.size.nodes > self.limits.max_nodes {
            let most = self.limits.max_nodes;
            return Err(Fault::new(start, format!("it has more than {most} values, what aliases stand for included")));
        }
        Ok(())
    }

    /// That something so high may stand here.
    fn fits(&self, start: Mark, height: usize) -> Done {
        if self.open.len() + height > self.limits.max_depth {
            return Err(Fault::new(start, format!("it is nested deeper than {}", self.limits.max_depth)));
        }
        Ok(())
    }

    fn open(&mut self, properties: &Properties<'a>, content: Content, start: Mark) -> Done {
        self.fits(start, 1)?;
        let since = self.size;
        self.count(start, Size { nodes: 1, bytes: 0 })?;
        if let Some(name) = properties.anchor {
            self.declare(name, start)?;
        }
        let tag = properties.tag.as_deref().map(tags::written);
        self.open.push(Open { anchor: properties.anchor, tag, since, height: 0, start, content });
        Ok(())
    }

    fn close(&mut self) -> Done {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(items) => sequence(open.tag, items, open.start)?,
            Content::Pairs(items) => Value::List(items),
            Content::Mapping { pairs, is_pair: true, .. } => {
                return self.put(pair(pairs, open.start)?, open.height, open.start);
            }
            Content::Mapping { pairs, .. } => mapping(open.tag, pairs, open.start)?,
        };
        let tagged = usize::from(matches!(value, Value::Tagged(_)));
        self.count(open.start, Size { nodes: tagged, bytes: 0 })?;
        let height = open.height + tagged;
        self.fits(open.start, height)?;
        if let Some(name) = open.anchor {
            self.keep(name, &value, self.size.since(open.since), height, open.start)?;
        }
        self.put(Key::Value(value), height, open.start)
    }

    /// Puts a complete value to where it belongs; it has so many levels below it.
    fn put(&mut self, value: Key, height: usize, start: Mark) -> Done {
        self.fits(start, height)?;
        if let Some(open) = self.open.last_mut() {
            open.height = open.height.max(height + 1);
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.document = Some(no_key(value, start)?),
            Some(Content::Sequence(items)) => items.push(no_key(value, start)?),
            Some(Content::Pairs(items)) => items.push(match value {
                Key::Pair(key, value) => Value::Tuple(vec![key, value]),
                Key::Value(Value::Map(map)) if map.len() == 1 => {
                    Value::Tuple(map.into_iter().flat_map(|(key, value)| [key, value]).collect())
                }
                _ => return Err(Fault::new(start, "an item of a list of pairs is not a mapping of one key")),
            }),
            Some(Content::Mapping { pairs, key, is_pair }) => match key.take() {
                Some(key) => pairs.push((key, no_key(value, start)?)),
                None => {
                    if let (Key::Value(value), false) = (&value, *is_pair)
                        && let Some(kind) = resolve::unhashable(value)
                    {
                        let why = format!("a {kind} is used as a key, which Python does not allow");
                        return Err(Fault::new(start, why));
                    }
                    *key = Some(value);
                }
            },
        }
        Ok(())
    }
}

/// What stands elsewhere than as a key of a mapping.
fn no_key(value: Key, start: Mark) -> Done<Value> {
    match value {
        Key::Value(value) => Ok(value),
        Key::Merge => Err(Fault::new(start, "a plain `<<` is not a value; put it into quotes")),
        Key::Equals => Err(Fault::new(start, "a plain `=` is not a value; put it into quotes")),
        Key::Pair(..) => Err(Fault::new(start, "a pair stands outside of a list of pairs")),
    }
}

fn scalar(text: Cow<'_, str>, plain: bool, tag: Option<&str>, start: Mark) -> Done<Key> {
    let fault = |why: &'static str| Fault::new(start, why);
    // The tag `!` asks for what a plain scalar would be, whatever the quotes.
    if (plain && tag.is_none()) || tag == Some("!") {
        return Ok(match resolve::plain(&text).map_err(fault)? {
            Plain::Value(value) => Key::Value(value),
            Plain::Merge => Key::Merge,
            Plain::Equals => Key::Equals,
        });
    }
    let Some(tag) = tag else { return Ok(Key::Value(Value::String(text.into_owned()))) };
    let value = match tag.strip_prefix(tags::STANDARD).unwrap_or("") {
        "str" | "python/str" | "python/unicode" => Value::String(text.into_owned()),
        "null" | "python/none" => Value::Null,
        "bool" | "python/bool" => {
            let value = resolve::tagged_boolean(&text);
            Value::Bool(value.ok_or_else(|| fault("this is tagged as a truth value and is none"))?)
        }
        "int" | "python/int" | "python/long" => {
            let value = resolve::int(&text).map_err(fault)?;
            value.ok_or_else(|| fault("this is tagged as an integer and is none"))?
        }
        "float" | "python/float" => Value::Float(resolve::float(&text).map_err(fault)?),
        "binary" | "python/bytes" => {
            let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            Value::Bytes(BASE64.decode(digits).map_err(|_| fault("this is tagged as bytes and is not base64"))?)
        }
        "timestamp" => {
            resolve::check_timestamp(&text).map_err(fault)?;
            Value::Timestamp(text.into_owned())
        }
        "seq" | "python/list" | "python/tuple" | "omap" | "pairs" => {
            return Err(fault("this is tagged as a list and is none"));
        }
        "map" | "python/dict" | "set" => return Err(fault("this is tagged as a mapping and is none")),
        _ => tagged(tags::written(tag), Value::String(text.into_owned()), start)?,
    };
    Ok(Key::Value(value))
}

fn tagged(tag: String, value: Value, start: Mark) -> Done<Value> {
    // The reason names the tag, which is a part of the body.
    tags::check(&tag, &value).map_err(|_| Fault::new(start, "no loader of PyYAML constructs what has this tag"))?;
    Ok(Value::Tagged(Box::new(Tagged { tag, value })))
}

/// That copies do not take more than a body could hold without them.
fn check_copies(size: Size, limits: &Limits, start: Mark) -> Done {
    if size.nodes > limits.max_nodes || size.bytes > limits.max_bytes {
        let (nodes, bytes) = (limits.max_nodes, limits.max_bytes);
        let why = format!("its anchors and aliases stand for more than {nodes} values or {bytes} bytes of text");
        return Err(Fault::new(start, why));
    }
    Ok(())
}

fn sequence(tag: Option<String>, items: Vec<Value>, start: Mark) -> Done<Value> {
    let Some(tag) = tag else { return Ok(Value::List(items)) };
    match tag.as_str() {
        "!" | "!!seq" | "!!python/list" => Ok(Value::List(items)),
        "!!python/tuple" => Ok(Value::Tuple(items)),
        _ => tagged(tag, Value::List(items), start),
    }
}

fn pair(mut pairs: Vec<(Key, Value)>, start: Mark) -> Done<Key> {
    match (pairs.pop(), pairs.is_empty()) {
        (Some((key, value)), true) => Ok(Key::Pair(no_key(key, start)?, value)),
        _ => Err(Fault::new(start, "an item of a list of pairs has one key")),
    }
}

fn mapping(tag: Option<String>, pairs: Vec<(Key, Value)>, start: Mark) -> Done<Value> {
    let map = flatten(pairs, start)?;
    let Some(tag) = tag else { return Ok(Value::Map(map)) };
    match tag.as_str() {
        "!" | "!!map" | "!!python/dict" => Ok(Value::Map(map)),
        "!!set" => Ok(Value::Set(map.into_iter().map(|(member, _)| (member, Value::Null)).collect())),
        _ => tagged(tag, Value::Map(map), start),
    }
}

/// A mapping with Python's keys: `1`, `1.0` and `true` are one, which stays as it came first.
#[derive(Default)]
struct Pairs {
    map: Map,
    /// The keys that are equal to some of another kind, by what Python compares.
    known: HashMap<Value, Value>,
}

impl Pairs {
    fn insert(&mut self, key: Value, value: Value) {
        let key = match resolve::key_of(&key) {
            Some(canonical) => self.known.entry(canonical).or_insert(key).clone(),
            None => key,
        };
        self.map.insert(key, value);
    }

    fn merge(&mut self, merged: Value, start: Mark) -> Done {
        let map = match merged {
            Value::Map(map) => map,
            Value::Tagged(tagged) if matches!(tagged.value, Value::Map(_)) => match tagged.value {
                Value::Map(map) => map,
                _ => Map::new(),
            },
            _ => return Err(Fault::new(start, "`<<` merges a mapping, or a list of them")),
        };
        for (key, value) in map {
            self.insert(key, value);
        }
        Ok(())
    }
}

/// A mapping of these pairs: of one key the last value counts, as in Python, and what is merged gives way to the mapping's
/// own pairs.
fn flatten(pairs: Vec<(Key, Value)>, start: Mark) -> Done<Map> {
    let (mut map, mut own) = (Pairs::default(), Vec::with_capacity(pairs.len()));
    for (key, value) in pairs {
        match (key, value) {
            (Key::Value(key), value) => own.push((key, value)),
            (Key::Pair(..), _) => return Err(Fault::new(start, "a pair stands as a key")),
            (Key::Equals, value) => own.push((Value::from("="), value)),
            // Of several the first ones count.
            (Key::Merge, Value::List(several) | Value::Tuple(several)) => {
                several.into_iter().rev().try_for_each(|merged| map.merge(merged, start))?;
            }
            (Key::Merge, merged) => map.merge(merged, start)?,
        }
    }
    for (key, value) in own {
        map.insert(key, value);
    }
    Ok(map.map)
}

fn at(mark: Mark, why: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("YAML, line {} column {}: {why}", mark.line + 1, mark.column + 1))
}
