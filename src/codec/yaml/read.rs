//! Reads a body: the events of granit-parser into a [`Value`], under limits.
//!
//! Nothing here recurses, and nothing is constructed from a tag: known tags say which kind of value it is, unknown ones are
//! carried. What an alias stands for is charged again each time, so that a small body cannot become a large value, and its
//! depth counts where the alias stands, so that aliases cannot make a value that overflows a stack.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine;
use granit_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::resolve::{self, Plain};
use crate::codec::Limits;
use crate::codec::value::{Map, Tagged, Value};
use crate::error::{Error, ErrorKind, Result};

const STANDARD: &str = "tag:yaml.org,2002:";

pub(super) fn read(text: &str, limits: &Limits) -> Result<Value> {
    let options = granit_parser::options! {
        flow_nesting_limit: limits.max_depth,
        block_nesting_limit: limits.max_depth,
        emit_comments: false,
        block_scalar_eof_without_line_feed: true,
    };
    let mut reader = Reader {
        limits,
        size: Size::default(),
        kept: Size::default(),
        aliases: 0,
        open: Vec::new(),
        anchors: HashMap::new(),
        document: None,
        documents: 0,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => reader.event(event, span.start)?,
            // Its own text may repeat what stands there.
            Err(error) => return Err(at(*error.marker(), "it is not YAML from here on, or is nested too deep")),
        }
    }
    // An empty body is null, as it is to PyYAML.
    Ok(reader.document.unwrap_or(Value::Null))
}

struct Reader<'a> {
    limits: &'a Limits,
    /// What there is so far, that of aliases counted each time.
    size: Size,
    /// What is kept for aliases: a copy of each anchor's value, and anchors may stand within each other.
    kept: Size,
    aliases: usize,
    open: Vec<Open>,
    /// By id; `None` until it is complete.
    anchors: HashMap<usize, Option<Anchored>>,
    document: Option<Value>,
    documents: usize,
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
struct Anchored {
    value: Value,
    size: Size,
    height: usize,
}

/// A collection that is being read.
struct Open {
    tag: Option<String>,
    anchor: usize,
    /// What there was when it began.
    since: Size,
    /// How many levels there are below it so far.
    height: usize,
    start: Marker,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>),
    Mapping { pairs: Vec<(Key, Value)>, key: Option<Key> },
}

enum Key {
    Value(Value),
    Merge,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, start: Marker) -> Result<()> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(at(start, "a second document begins; a body is one document"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let since = self.size;
                self.count(start, Size { nodes: 1, bytes: text.len() })?;
                let key = self.scalar(text, style, tag.as_deref(), start)?;
                // What is under a tag is a level and a value of its own.
                let height = usize::from(matches!(key, Key::Value(Value::Tagged(_))));
                self.count(start, Size { nodes: height, bytes: 0 })?;
                if anchor != 0 {
                    let merge = Value::from("<<");
                    let value = match &key {
                        Key::Value(value) => value,
                        Key::Merge => &merge,
                    };
                    self.keep(anchor, value, self.size.since(since), height, start)?;
                }
                self.put(key, height, start)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(anchor, tag.as_deref(), Content::Sequence(Vec::new()), start)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.open(anchor, tag.as_deref(), Content::Mapping { pairs: Vec::new(), key: None }, start)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => {
                self.aliases += 1;
                if self.aliases > self.limits.max_aliases {
                    return Err(at(start, &format!("there are more than {} aliases", self.limits.max_aliases)));
                }
                let Some(Some(Anchored { size, height, .. })) = self.anchors.get(&anchor) else {
                    return Err(at(start, "an alias stands inside what it stands for"));
                };
                let (size, height) = (*size, *height);
                // All before the value is copied.
                self.count(start, size)?;
                self.fits(start, height)?;
                check_copies(self.size, self.limits, start)?;
                if let Some(Some(Anchored { value, .. })) = self.anchors.get(&anchor) {
                    let value = value.clone();
                    self.put(Key::Value(value), height, start)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Keeps a copy for aliases to come.
    fn keep(&mut self, anchor: usize, value: &Value, size: Size, height: usize, start: Marker) -> Result<()> {
        self.kept.add(size);
        check_copies(self.kept, self.limits, start)?;
        self.anchors.insert(anchor, Some(Anchored { value: value.clone(), size, height }));
        Ok(())
    }

    fn count(&mut self, start: Marker, more: Size) -> Result<()> {
        self.size.add(more);
        if self.size.nodes > self.limits.max_nodes {
            return Err(at(
                start,
                &format!("it has more than {} values, what aliases stand for included", self.limits.max_nodes),
            ));
        }
        Ok(())
    }

    /// That something so high may stand here.
    fn fits(&self, start: Marker, height: usize) -> Result<()> {
        if self.open.len() + height > self.limits.max_depth {
            return Err(at(start, &format!("it is nested deeper than {}", self.limits.max_depth)));
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, tag: Option<&Tag>, content: Content, start: Marker) -> Result<()> {
        self.fits(start, 1)?;
        let since = self.size;
        self.count(start, Size { nodes: 1, bytes: 0 })?;
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
        self.open.push(Open { tag: tag.map(tag_text), anchor, since, height: 0, start, content });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::Sequence(items) => sequence(open.tag, items, open.start)?,
            Content::Mapping { pairs, .. } => mapping(open.tag, pairs, open.start)?,
        };
        let tagged = usize::from(matches!(value, Value::Tagged(_)));
        self.count(open.start, Size { nodes: tagged, bytes: 0 })?;
        let height = open.height + tagged;
        self.fits(open.start, height)?;
        if open.anchor != 0 {
            self.keep(open.anchor, &value, self.size.since(open.since), height, open.start)?;
        }
        self.put(Key::Value(value), height, open.start)
    }

    /// Puts a complete value to where it belongs; it has so many levels below it.
    fn put(&mut self, value: Key, height: usize, start: Marker) -> Result<()> {
        self.fits(start, height)?;
        if let Some(open) = self.open.last_mut() {
            open.height = open.height.max(height + 1);
        }
        let plain = |value| match value {
            Key::Value(value) => value,
            // Elsewhere than as a key it is a text.
            Key::Merge => Value::from("<<"),
        };
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.document = Some(plain(value)),
            Some(Content::Sequence(items)) => items.push(plain(value)),
            Some(Content::Mapping { pairs, key }) => match key.take() {
                Some(key) => pairs.push((key, plain(value))),
                None => {
                    if let Key::Value(value) = &value {
                        check_hashable(value, start)?;
                    }
                    *key = Some(value);
                }
            },
        }
        Ok(())
    }

    fn scalar(&self, text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, start: Marker) -> Result<Key> {
        let Some(tag) = tag.map(tag_text) else {
            return Ok(match style {
                ScalarStyle::Plain => match resolve::plain(&text) {
                    Plain::Value(value) => Key::Value(value),
                    Plain::Merge => Key::Merge,
                },
                _ => Key::Value(Value::String(text.into_owned())),
            });
        };
        let bad = |what: &str| at(start, &format!("this is tagged as {what} and is none"));
        let value = match tag.as_str() {
            "!" | "!!str" | "!!python/str" | "!!python/unicode" | "!!value" => Value::String(text.into_owned()),
            "!!null" | "!!python/none" => Value::Null,
            "!!bool" | "!!python/bool" => Value::Bool(resolve::boolean(&text).ok_or_else(|| bad("a truth value"))?),
            "!!int" | "!!python/int" | "!!python/long" => resolve::int(&text).ok_or_else(|| bad("an integer"))?,
            "!!float" | "!!python/float" => match (resolve::float(&text), resolve::int(&text)) {
                (Some(float), _) => Value::Float(float),
                (None, Some(int)) => Value::Float(int.as_f64().ok_or_else(|| bad("a float"))?),
                (None, None) => Value::Float(text.parse().map_err(|_| bad("a float"))?),
            },
            "!!binary" | "!!python/bytes" => {
                let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
                let bytes = base64::engine::general_purpose::STANDARD.decode(digits);
                Value::Bytes(bytes.map_err(|_| bad("bytes in base64"))?)
            }
            "!!timestamp" if resolve::is_timestamp(&text) => Value::Timestamp(text.into_owned()),
            "!!timestamp" => return Err(bad("a date or a time")),
            "!!seq" | "!!python/list" | "!!python/tuple" if text.is_empty() => sequence(Some(tag), Vec::new(), start)?,
            "!!map" | "!!python/dict" | "!!set" if text.is_empty() => mapping(Some(tag), Vec::new(), start)?,
            _ => {
                let value = match style {
                    ScalarStyle::Plain if tag.starts_with("!!python/") => match resolve::plain(&text) {
                        // A date has a tag of its own when it is written, and there is one tag a value.
                        Plain::Value(Value::Timestamp(_)) | Plain::Merge => Value::String(text.into_owned()),
                        Plain::Value(value) => value,
                    },
                    _ => Value::String(text.into_owned()),
                };
                Value::Tagged(Box::new(Tagged { tag, value }))
            }
        };
        Ok(Key::Value(value))
    }
}

/// That copies do not take more than a body could hold without them.
fn check_copies(size: Size, limits: &Limits, start: Marker) -> Result<()> {
    if size.nodes > limits.max_nodes || size.bytes > limits.max_bytes {
        let (nodes, bytes) = (limits.max_nodes, limits.max_bytes);
        let text = format!("its anchors and aliases stand for more than {nodes} values or {bytes} bytes of text");
        return Err(at(start, &text));
    }
    Ok(())
}

fn sequence(tag: Option<String>, items: Vec<Value>, start: Marker) -> Result<Value> {
    let Some(tag) = tag else { return Ok(Value::List(items)) };
    match tag.as_str() {
        "!" | "!!seq" | "!!python/list" => Ok(Value::List(items)),
        "!!python/tuple" => Ok(Value::Tuple(items)),
        // Lists of pairs in PyYAML, too.
        "!!omap" | "!!pairs" => items
            .into_iter()
            .map(|item| match item {
                Value::Map(map) if map.len() == 1 => {
                    Ok(Value::Tuple(map.into_iter().flat_map(|(key, value)| [key, value]).collect()))
                }
                _ => Err(at(start, "this is tagged as a list of pairs and is none")),
            })
            .collect::<Result<_>>()
            .map(Value::List),
        _ => Ok(Value::Tagged(Box::new(Tagged { tag, value: Value::List(items) }))),
    }
}

fn mapping(tag: Option<String>, pairs: Vec<(Key, Value)>, start: Marker) -> Result<Value> {
    let map = flatten(pairs, start)?;
    let Some(tag) = tag else { return Ok(Value::Map(map)) };
    match tag.as_str() {
        "!" | "!!map" | "!!python/dict" => Ok(Value::Map(map)),
        "!!set" => Ok(Value::Set(map.into_iter().map(|(member, _)| (member, Value::Null)).collect())),
        _ => Ok(Value::Tagged(Box::new(Tagged { tag, value: Value::Map(map) }))),
    }
}

/// A mapping of these pairs: of one key the last value counts, as in Python, and what is merged gives way to the mapping's
/// own pairs.
fn flatten(pairs: Vec<(Key, Value)>, start: Marker) -> Result<Map> {
    let (mut map, mut own) = (Map::new(), Vec::with_capacity(pairs.len()));
    for (key, value) in pairs {
        match (key, value) {
            (Key::Value(key), value) => own.push((key, value)),
            (Key::Merge, Value::Map(merged)) => merge(&mut map, merged),
            // Of several the first ones count.
            (Key::Merge, Value::List(several)) => {
                for merged in several.into_iter().rev() {
                    let Value::Map(merged) = merged else {
                        return Err(at(start, "what is merged by `<<` must be mappings"));
                    };
                    merge(&mut map, merged);
                }
            }
            (Key::Merge, _) => return Err(at(start, "what is merged by `<<` must be a mapping or a list of them")),
        }
    }
    for (key, value) in own {
        map.insert(key, value);
    }
    Ok(map)
}

fn merge(map: &mut Map, merged: Map) {
    for (key, value) in merged {
        map.insert(key, value);
    }
}

/// Lists, mappings and sets are no keys in Python. Depth is limited by the reader's own.
fn check_hashable(key: &Value, start: Marker) -> Result<()> {
    match key {
        Value::List(_) | Value::Map(_) | Value::Set(_) => {
            Err(at(start, "a list, mapping or set stands as a key, which Python cannot have"))
        }
        Value::Tuple(items) => items.iter().try_for_each(|item| check_hashable(item, start)),
        Value::Tagged(tagged) => check_hashable(&tagged.value, start),
        _ => Ok(()),
    }
}

/// A tag as one writes it, with its escapes read. `!!x` and `!<x>` are never anything else, whatever is in a URI.
fn tag_text(tag: &Tag) -> String {
    let whole = format!("{}{}", tag.handle(), tag.suffix());
    match whole.strip_prefix(STANDARD) {
        Some(name) if !name.is_empty() => format!("!!{name}"),
        None if whole.starts_with('!') && !whole.starts_with("!!") && !whole.starts_with("!<") => whole,
        _ => format!("!<{whole}>"),
    }
}

fn at(place: Marker, why: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("YAML, line {} column {}: {why}", place.line(), place.col() + 1))
}
