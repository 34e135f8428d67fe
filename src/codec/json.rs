//! JSON, for peers that were given a JSON codec, and for people.
//!
//! The reader is our own so that an integer keeps all its digits and a mapping its order, whatever features of `serde_json`
//! a program has turned on.

use std::borrow::Cow;
use std::fmt::Write;

use num_bigint::BigInt;

use super::value::{MAX_DEPTH, MAX_DIGITS, fits_digits};
use super::{Codec, Limits, Map, Value, check_size, check_value, utf8};
use crate::error::{Error, ErrorKind, Result};

/// Plain JSON, as Python's `json` module writes and reads it, without NaN and infinities, which JSON does not have.
///
/// Integers of any size keep all their digits, up to the 4300 that Python reads; mappings keep their order. Tuples are written
/// as lists. Other values that JSON cannot represent (bytes, sets, tags, non-string keys) are an `Encode` error: a peer would
/// not understand a form of ours. A lone surrogate, an escape `"\ud800"` without its other half, is a `Decode` error.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::Communicator;
/// use homing::codec::Json;
///
/// // Both ends of a call need the same codec.
/// let communicator = Communicator::builder("memory:").codec(Json::default()).connect().await?;
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Json {
    limits: Limits,
}

impl Json {
    /// A codec with these limits. The depth is 200 at most.
    #[must_use]
    pub fn with_limits(mut limits: Limits) -> Self {
        limits.max_depth = limits.max_depth.min(MAX_DEPTH);
        Json { limits }
    }
}

impl Codec for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>> {
        self.check(value)?;
        let mut body = String::with_capacity(128);
        write(&mut body, value);
        check_size(body.len(), &self.limits, ErrorKind::Encode)?;
        Ok(body.into_bytes())
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        check_size(body.len(), &self.limits, ErrorKind::Decode)?;
        read(utf8(body)?, &self.limits).map_err(Fault::into_error)
    }

    fn check(&self, value: &Value) -> Result<()> {
        check_value(value, &self.limits, &mut representable)
    }

    /// JSON has no tuples: a reader gets lists.
    fn pass(&self, value: Value) -> Result<Value> {
        let mut has_tuple = false;
        check_value(&value, &self.limits, &mut |part| {
            has_tuple |= matches!(part, Value::Tuple(_));
            representable(part)
        })?;
        Ok(if has_tuple { without_tuples(value) } else { value })
    }
}

/// A value that JSON can represent, with lists for its tuples.
fn without_tuples(value: Value) -> Value {
    match value {
        Value::List(items) | Value::Tuple(items) => Value::List(items.into_iter().map(without_tuples).collect()),
        Value::Map(map) => Value::Map(map.into_iter().map(|(key, value)| (key, without_tuples(value))).collect()),
        other => other,
    }
}

/// That JSON can represent a value, apart from what is inside it.
fn representable(value: &Value) -> Result<(), String> {
    let what = match value {
        Value::Float(value) if !value.is_finite() => "NaN or infinity",
        Value::BigInt(value) if !fits_digits(value) => "integer of over 4300 digits that Python would read",
        Value::Map(map) if map.keys().any(|key| key.as_str().is_none()) => "non-string keys",
        Value::Bytes(_) => "bytes",
        Value::Timestamp(_) => "dates and times",
        Value::Set(_) => "sets",
        Value::Tagged(_) => "tags",
        _ => return Ok(()),
    };
    Err(format!("JSON has no {what}; use the YAML codec, or another value"))
}

/// Appends a value of JSON's kinds; what is of another kind becomes null.
pub(super) fn write(out: &mut String, value: &Value) {
    // Writing to a String cannot fail.
    match value {
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => write!(out, "{value}").unwrap_or(()),
        Value::BigInt(value) => write!(out, "{value}").unwrap_or(()),
        Value::Float(value) => write!(out, "{value:?}").unwrap_or(()),
        Value::String(text) => write_string(out, text),
        Value::List(items) | Value::Tuple(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (n, (key, value)) in map.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write(out, key);
                out.push(':');
                write(out, value);
            }
            out.push('}');
        }
        _ => out.push_str("null"),
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0C => out.push_str("\\f"),
            // Writing to a String cannot fail.
            byte => write!(out, "\\u{byte:04x}").unwrap_or(()),
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

/// A number as JSON writes it, whole: an integer with all its digits, or a float. `None` when it is none or too large.
pub(super) fn number(text: &str) -> Option<Value> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok().filter(|float: &f64| float.is_finite()).map(Value::Float);
    }
    if digits.len() <= 18 {
        return text.parse().ok().map(Value::Int);
    }
    if digits.len() > MAX_DIGITS {
        return None;
    }
    text.parse::<BigInt>().ok().map(Value::from)
}

/// What is wrong with a text, and where.
pub(super) struct Fault {
    line: usize,
    column: usize,
    why: &'static str,
    /// True when the whole text is JSON by its syntax, and something in it cannot be represented.
    pub(super) is_json: bool,
}

impl Fault {
    pub(super) fn into_error(self) -> Error {
        let Fault { line, column, why, .. } = self;
        Error::new(ErrorKind::Decode, format!("JSON, line {line} column {column}: {why}"))
    }
}

/// Reads a text that is JSON as a whole. Of a key that comes twice the last value counts, as in Python.
pub(super) fn read(text: &str, limits: &Limits) -> std::result::Result<Value, Fault> {
    let (depth_left, nodes_left) = (limits.max_depth, limits.max_nodes);
    let mut reader = Reader { text, bytes: text.as_bytes(), at: 0, depth_left, nodes_left, later: None };
    let value = reader.document();
    let (at, why, is_json) = match (value, reader.later) {
        (Ok(value), None) => return Ok(value),
        (Ok(_), Some((at, why))) => (at, why, true),
        (Err(why), _) => (reader.at, why, false),
    };
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before[before.rfind('\n').map_or(0, |newline| newline + 1)..].chars().count() + 1;
    Err(Fault { line, column, why, is_json })
}

const NO_JSON: &str = "it is not JSON from here on";

type Part<T> = std::result::Result<T, &'static str>;

struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth_left: usize,
    nodes_left: usize,
    /// The first thing that is JSON and cannot be represented. Noted, so that the rest is read on.
    later: Option<(usize, &'static str)>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Part<Value> {
        let value = self.value()?;
        self.skip_spaces();
        if self.at < self.bytes.len() { Err(NO_JSON) } else { Ok(value) }
    }

    fn skip_spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte after spaces, which stays.
    fn peek(&mut self) -> Part<u8> {
        self.skip_spaces();
        self.bytes.get(self.at).copied().ok_or("it ends in the middle of a value")
    }

    fn expect(&mut self, byte: u8) -> Part<()> {
        if self.peek()? != byte {
            return Err(NO_JSON);
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self) -> Part<Value> {
        let first = self.peek()?;
        self.nodes_left = self.nodes_left.checked_sub(1).ok_or("it has more values than the limit")?;
        match first {
            b'n' => self.word("null", Value::Null),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'"' => Ok(Value::String(self.string()?.into_owned())),
            b'-' | b'0'..=b'9' => self.number(),
            b'[' | b'{' => {
                self.depth_left = self.depth_left.checked_sub(1).ok_or("it is nested deeper than the limit")?;
                self.at += 1;
                let value = if first == b'[' { self.list()? } else { self.map()? };
                self.depth_left += 1;
                Ok(value)
            }
            _ => Err(NO_JSON),
        }
    }

    fn word(&mut self, word: &str, value: Value) -> Part<Value> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(NO_JSON);
        }
        self.at += word.len();
        Ok(value)
    }

    /// After an item: true when there is one more, false at the end.
    fn more(&mut self, end: u8) -> Part<bool> {
        let next = self.peek()?;
        if next != b',' && next != end {
            return Err(NO_JSON);
        }
        self.at += 1;
        Ok(next == b',')
    }

    fn list(&mut self) -> Part<Value> {
        let mut items = Vec::new();
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value()?);
            if !self.more(b']')? {
                return Ok(Value::List(items));
            }
        }
    }

    fn map(&mut self) -> Part<Value> {
        let mut map = Map::new();
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(Value::Map(map));
        }
        loop {
            if self.peek()? != b'"' {
                return Err(NO_JSON);
            }
            self.nodes_left = self.nodes_left.checked_sub(1).ok_or("it has more values than the limit")?;
            let key = self.string()?.into_owned();
            self.expect(b':')?;
            let value = self.value()?;
            map.insert(key, value);
            if !self.more(b'}')? {
                return Ok(Value::Map(map));
            }
        }
    }

    fn number(&mut self) -> Part<Value> {
        let start = self.at;
        let digits = |reader: &mut Self| {
            let count = reader.bytes[reader.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            reader.at += count;
            if count == 0 { Err(NO_JSON) } else { Ok(()) }
        };
        let next_is =
            |reader: &Self, wanted: &[u8]| reader.bytes.get(reader.at).is_some_and(|byte| wanted.contains(byte));
        self.at += usize::from(next_is(self, b"-"));
        if next_is(self, b"0") {
            self.at += 1;
        } else {
            digits(self)?;
        }
        if next_is(self, b".") {
            self.at += 1;
            digits(self)?;
        }
        if next_is(self, b"eE") {
            self.at += 1;
            self.at += usize::from(next_is(self, b"+-"));
            digits(self)?;
        }
        let value = number(&self.text[start..self.at]);
        Ok(value.unwrap_or_else(|| {
            self.note(start, "a number has over 4300 digits, or is too large for a float");
            Value::Null
        }))
    }

    fn note(&mut self, at: usize, why: &'static str) {
        self.later.get_or_insert((at, why));
    }

    fn string(&mut self) -> Part<Cow<'a, str>> {
        self.at += 1;
        let mut text = Cow::Borrowed("");
        loop {
            let start = self.at;
            while self.bytes.get(self.at).is_some_and(|byte| *byte >= b' ' && *byte != b'"' && *byte != b'\\') {
                self.at += 1;
            }
            let piece = &self.text[start..self.at];
            if text.is_empty() {
                text = Cow::Borrowed(piece);
            } else {
                text.to_mut().push_str(piece);
            }
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    let character = self.escape()?;
                    text.to_mut().push(character);
                }
                Some(_) => return Err("a control character must be written as an escape"),
                None => return Err("a string does not end"),
            }
        }
    }

    fn escape(&mut self) -> Part<char> {
        let start = self.at;
        self.at += 2;
        Ok(match self.bytes.get(start + 1) {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                let first = self.hexadecimal()?;
                let mut code = first;
                if (0xD800..0xDC00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let second = self.hexadecimal()?;
                    if (0xDC00..0xE000).contains(&second) {
                        code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                    }
                }
                char::from_u32(code).unwrap_or_else(|| {
                    self.note(start, "an escape is a lone surrogate, which a string cannot hold here");
                    char::REPLACEMENT_CHARACTER
                })
            }
            _ => {
                self.at = start;
                return Err("this escape does not exist");
            }
        })
    }

    fn hexadecimal(&mut self) -> Part<u32> {
        let digits = self.bytes.get(self.at..self.at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        code.ok_or("an escape has too few hexadecimal digits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_read_back_in_its_order() {
        let text = r#"{"z":[1,-2,18446744073709551615,1.5,true,null,"\u00e9\n"],"a":{"deep":[[]]},"z2":-0.0}"#;
        let value = Json::default().decode(text.as_bytes()).unwrap();
        let written = Json::default().encode(&value).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), text.replace("\\u00e9", "é"));
        let twice = Json::default().decode(br#"{"a":1,"b":2,"a":3}"#).unwrap();
        assert_eq!(twice, Value::from_iter([("a", Value::from(3)), ("b", Value::from(2))]));
    }

    #[test]
    fn integers_keep_all_their_digits() {
        for text in ["0", "-1", "9223372036854775807", "-9223372036854775809", "123456789012345678901234567890"] {
            let value = Json::default().decode(text.as_bytes()).unwrap();
            assert!(matches!(value, Value::Int(_) | Value::BigInt(_)), "{value:?}");
            assert_eq!(Json::default().encode(&value).unwrap(), text.as_bytes());
        }
        assert_eq!(Json::default().decode(b"-0").unwrap(), Value::Int(0));
        assert_eq!(Json::default().decode(b"1e22").unwrap(), Value::Float(1e22));
        assert!(Json::default().decode("9".repeat(4300).as_bytes()).is_ok());
        for text in ["9".repeat(4301), "1e400".to_owned(), format!("[{}]", "9".repeat(5000))] {
            let error = Json::default().decode(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("4300 digits"), "{error}");
        }
    }

    #[test]
    fn every_string_is_read_back() {
        let all: String = (0..0x500).filter_map(char::from_u32).chain("\u{2028}\u{feff}\u{10ffff}".chars()).collect();
        let value = Value::from(all);
        let written = Json::default().encode(&value).unwrap();
        assert_eq!(Json::default().decode(&written).unwrap(), value);
        assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), value.as_str().unwrap());
        assert_eq!(Json::default().decode(br#""\ud83d\ude00\/\b\f""#).unwrap(), Value::from("😀/\u{8}\u{c}"));
        for lone in [r#""\ud83d""#, r#""\ude00""#, r#""\ud83d\u0041""#, r#"["x\udead"]"#] {
            let error = Json::default().decode(lone.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("lone surrogate"), "{error}");
        }
    }

    #[test]
    fn values_that_json_cannot_represent_are_refused_wherever_they_stand() {
        let bad = [
            Value::Float(f64::NAN),
            Value::Bytes(vec![1]),
            Value::Timestamp("2020-01-01".into()),
            Value::from_iter([(Value::from(1), Value::from(2))]),
            Value::from(BigInt::from(10).pow(4300)),
        ];
        for bad in bad {
            for value in [bad.clone(), Value::List(vec![bad.clone()]), Value::from_iter([("key", bad.clone())])] {
                let error = Json::default().encode(&value).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Encode);
                assert!(error.to_string().contains("JSON has no"), "{error}");
                assert_eq!(error.to_string().contains("(at /key)"), value.get("key").is_some(), "{error}");
                assert_eq!(Json::default().check(&value).unwrap_err().to_string(), error.to_string());
            }
        }
    }

    #[test]
    fn what_is_not_json_is_an_error_with_its_place() {
        for text in [
            "",
            "{",
            "[1,",
            "{\"a\" 1}",
            "nul",
            "[1] 2",
            "\u{feff}1",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "[1,]",
            "{,}",
            "{\"a\":1,}",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "\"a\tb\"",
            "NaN",
            "'a'",
            "{1:2}",
            &"[".repeat(200),
            "\"\\",
            "[1}",
            "\"\\u123é\"",
            "/**/1",
        ] {
            let error = Json::default().decode(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{text}");
            assert!(error.to_string().contains("line 1 column"), "{error}");
        }
        let few = Json::with_limits(Limits { max_nodes: 3, ..Limits::default() });
        assert!(few.decode(b"[1,2]").is_ok());
        assert!(few.decode(b"[1,2,3]").is_err());
    }
}
