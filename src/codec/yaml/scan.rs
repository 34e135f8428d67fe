//! Tokens of YAML 1.1, cut where PyYAML's scanner cuts them.
//!
//! A YAML 1.2 scanner reads other texts than PyYAML does: there `*id001:` is one alias, a tab may separate tokens, a simple
//! key of a flow mapping may span lines. This one follows PyYAML 6 (`scanner.py`), so that a body means here what it means
//! to kiwipy. It never looks further ahead than PyYAML: at most one simple key, which is one line and 1024 characters.

use std::borrow::Cow;
use std::collections::VecDeque;

/// A simple key ends on its line and after this many characters.
const SIMPLE_KEY_MAX: usize = 1024;

/// Where a token starts: line and column, counted from 0, the column in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What is wrong with a text, and where. The reason never repeats the text.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) mark: Mark,
    pub(super) why: Cow<'static, str>,
}

impl Fault {
    pub(super) fn new(mark: Mark, why: impl Into<Cow<'static, str>>) -> Self {
        Fault { mark, why: why.into() }
    }
}

pub(super) type Scanned<T> = std::result::Result<T, Fault>;

#[derive(Debug)]
pub(super) struct Token<'a> {
    pub(super) mark: Mark,
    pub(super) kind: Kind<'a>,
}

#[derive(Debug)]
pub(super) enum Kind<'a> {
    StreamEnd,
    Directive(Directive<'a>),
    DocumentStart,
    DocumentEnd,
    BlockSequenceStart,
    BlockMappingStart,
    BlockEnd,
    FlowSequenceStart,
    FlowMappingStart,
    FlowSequenceEnd,
    FlowMappingEnd,
    BlockEntry,
    FlowEntry,
    Key,
    Value,
    Alias(&'a str),
    Anchor(&'a str),
    Tag { handle: Option<&'a str>, suffix: Cow<'a, str> },
    Scalar { text: Cow<'a, str>, plain: bool },
}

#[derive(Debug)]
pub(super) enum Directive<'a> {
    /// `%YAML`: whether the major version is 1.
    Version { supported: bool },
    /// `%TAG`
    Tag { handle: &'a str, prefix: Cow<'a, str> },
    /// Any other one, which is ignored.
    Other,
}

/// A token that becomes a key if a `:` follows on its line.
struct SimpleKey {
    flow_level: usize,
    token: usize,
    /// In block context, at the indentation of the mapping: nothing but a key may stand here.
    required: bool,
    index: usize,
    mark: Mark,
}

pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    /// In bytes.
    at: usize,
    /// In characters, of the whole text.
    index: usize,
    line: usize,
    column: usize,
    /// How deep collections may be open.
    max_depth: usize,
    flow_level: usize,
    /// The column of the innermost block collection; `None` outside of all.
    indent: Option<usize>,
    indents: Vec<Option<usize>>,
    tokens: VecDeque<Token<'a>>,
    /// How many tokens were handed out.
    taken: usize,
    allow_simple_key: bool,
    /// Innermost last. At most one for each flow level, and so the oldest first.
    simple_keys: Vec<SimpleKey>,
    done: bool,
}

/// How many bytes the line break at this place has; 0 if there is none.
fn break_len(bytes: &[u8]) -> usize {
    match bytes {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        [0xC2, 0x85, ..] => 2,
        [0xE2, 0x80, 0xA8 | 0xA9, ..] => 3,
        _ => 0,
    }
}

/// True for the end of the text and a line break.
fn ends_line(bytes: &[u8]) -> bool {
    bytes.is_empty() || break_len(bytes) > 0
}

/// True for the end of the text, a line break and a space.
fn is_space_or_end(bytes: &[u8]) -> bool {
    matches!(bytes.first(), None | Some(b' ')) || break_len(bytes) > 0
}

/// The same, or a tab.
fn is_blank_or_end(bytes: &[u8]) -> bool {
    is_space_or_end(bytes) || bytes[0] == b'\t'
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, max_depth: usize) -> Self {
        Scanner {
            text,
            bytes: text.as_bytes(),
            at: 0,
            index: 0,
            line: 0,
            column: 0,
            max_depth,
            flow_level: 0,
            indent: None,
            indents: Vec::new(),
            tokens: VecDeque::new(),
            taken: 0,
            allow_simple_key: true,
            simple_keys: Vec::new(),
            done: false,
        }
    }

    /// The next token, which stays. After the end of the stream it is that end again.
    pub(super) fn peek(&mut self) -> Scanned<&Token<'a>> {
        while self.needs_more()? {
            self.fetch()?;
        }
        let mark = self.mark();
        if self.tokens.is_empty() {
            self.tokens.push_back(Token { mark, kind: Kind::StreamEnd });
        }
        Ok(&self.tokens[0])
    }

    /// The next token, taken out.
    pub(super) fn next(&mut self) -> Scanned<Token<'a>> {
        self.peek()?;
        self.taken += 1;
        let mark = self.mark();
        Ok(self.tokens.pop_front().unwrap_or(Token { mark, kind: Kind::StreamEnd }))
    }

    fn mark(&self) -> Mark {
        Mark { line: self.line, column: self.column }
    }

    fn fault<T>(&self, why: &'static str) -> Scanned<T> {
        Err(Fault::new(self.mark(), why))
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Moves on by so many bytes, in which there is no line break.
    fn forward(&mut self, bytes: usize) {
        let passed = &self.bytes[self.at..self.at + bytes];
        self.at += bytes;
        if passed.is_ascii() {
            self.index += bytes;
            self.column += bytes;
            return;
        }
        let characters = passed.iter().filter(|byte| **byte & 0xC0 != 0x80).count();
        self.index += characters;
        // A byte order mark takes no column.
        self.column += characters - passed.windows(3).filter(|bytes| *bytes == [0xEF, 0xBB, 0xBF]).count();
    }

    /// Reads a line break, if there is one: what it stands for in a scalar.
    fn line_break(&mut self) -> Option<&'static str> {
        let (len, means) = match self.rest() {
            [b'\r', b'\n', ..] => (2, "\n"),
            [b'\r' | b'\n', ..] => (1, "\n"),
            [0xC2, 0x85, ..] => (2, "\n"),
            [0xE2, 0x80, 0xA8, ..] => (3, "\u{2028}"),
            [0xE2, 0x80, 0xA9, ..] => (3, "\u{2029}"),
            _ => return None,
        };
        self.index += if self.rest().starts_with(b"\r\n") { 2 } else { 1 };
        self.at += len;
        self.line += 1;
        self.column = 0;
        Some(means)
    }

    fn skip(&mut self, what: &[u8]) {
        let count = self.rest().iter().take_while(|byte| what.contains(byte)).count();
        self.forward(count);
    }

    fn skip_to_line_end(&mut self) {
        let mut end = self.at;
        while !ends_line(&self.bytes[end..]) {
            end += 1;
        }
        self.forward(end - self.at);
    }

    /// `---` or `...` at the beginning of a line, and nothing right behind it.
    fn is_document_marker(&self, marker: &[u8]) -> bool {
        self.column == 0 && self.rest().starts_with(marker) && is_blank_or_end(&self.rest()[3..])
    }

    fn any_document_marker(&self) -> bool {
        self.is_document_marker(b"---") || self.is_document_marker(b"...")
    }

    fn needs_more(&mut self) -> Scanned<bool> {
        if self.done {
            return Ok(false);
        }
        if self.tokens.is_empty() {
            return Ok(true);
        }
        // The next token may turn out to be a key.
        self.drop_stale_keys()?;
        Ok(self.simple_keys.first().is_some_and(|key| key.token == self.taken))
    }

    fn drop_stale_keys(&mut self) -> Scanned<()> {
        // The oldest come first, so those that are too old are at the front.
        let stale = self
            .simple_keys
            .iter()
            .take_while(|key| key.mark.line != self.line || self.index - key.index > SIMPLE_KEY_MAX)
            .count();
        if stale == 0 {
            return Ok(());
        }
        for key in self.simple_keys.drain(..stale) {
            if key.required {
                return Err(Fault::new(key.mark, "a key needs a `:` on its line, within 1024 characters"));
            }
        }
        Ok(())
    }

    fn save_simple_key(&mut self) -> Scanned<()> {
        if !self.allow_simple_key {
            return Ok(());
        }
        self.remove_simple_key()?;
        self.simple_keys.push(SimpleKey {
            flow_level: self.flow_level,
            token: self.taken + self.tokens.len(),
            required: self.flow_level == 0 && self.indent == Some(self.column),
            index: self.index,
            mark: self.mark(),
        });
        Ok(())
    }

    fn take_simple_key(&mut self) -> Option<SimpleKey> {
        self.simple_keys.pop_if(|key| key.flow_level == self.flow_level)
    }

    fn remove_simple_key(&mut self) -> Scanned<()> {
        match self.take_simple_key() {
            Some(key) if key.required => Err(Fault::new(key.mark, "a key needs a `:` on its line")),
            _ => Ok(()),
        }
    }

    fn push(&mut self, kind: Kind<'a>) {
        self.tokens.push_back(Token { mark: self.mark(), kind });
    }

    fn push_and_skip(&mut self, kind: Kind<'a>, bytes: usize) {
        self.push(kind);
        self.forward(bytes);
    }

    /// Ends the block collections that stand further right.
    fn unwind(&mut self, column: Option<usize>) {
        if self.flow_level > 0 {
            return;
        }
        while self.indent > column {
            self.push(Kind::BlockEnd);
            self.indent = self.indents.pop().flatten();
        }
    }

    /// Begins a block collection, if this is further right than the one that is open.
    fn add_indent(&mut self, column: usize) -> Scanned<bool> {
        if self.indent >= Some(column) {
            return Ok(false);
        }
        if self.indents.len() >= self.max_depth {
            return Err(Fault::new(self.mark(), format!("it is nested deeper than {}", self.max_depth)));
        }
        self.indents.push(self.indent);
        self.indent = Some(column);
        Ok(true)
    }

    /// Reads on to the next token and adds it, with what it ends and begins.
    fn fetch(&mut self) -> Scanned<()> {
        self.skip_to_token();
        self.drop_stale_keys()?;
        self.unwind(Some(self.column));
        let Some(first) = self.byte() else {
            self.unwind(None);
            self.remove_simple_key()?;
            self.allow_simple_key = false;
            self.simple_keys.clear();
            self.push(Kind::StreamEnd);
            self.done = true;
            return Ok(());
        };
        let blank_follows = is_blank_or_end(&self.bytes[self.at + 1..]);
        let in_flow = self.flow_level > 0;
        match first {
            b'%' if self.column == 0 => {
                self.before_document_level()?;
                let directive = self.directive()?;
                self.tokens.push_back(directive);
                Ok(())
            }
            b'-' if self.is_document_marker(b"---") => self.document_marker(Kind::DocumentStart),
            b'.' if self.is_document_marker(b"...") => self.document_marker(Kind::DocumentEnd),
            b'[' => self.flow_start(Kind::FlowSequenceStart),
            b'{' => self.flow_start(Kind::FlowMappingStart),
            b']' => self.flow_end(Kind::FlowSequenceEnd),
            b'}' => self.flow_end(Kind::FlowMappingEnd),
            b',' => {
                self.allow_simple_key = true;
                self.remove_simple_key()?;
                self.push_and_skip(Kind::FlowEntry, 1);
                Ok(())
            }
            b'-' if blank_follows => self.block_entry(),
            b'?' if in_flow || blank_follows => self.key(),
            b':' if in_flow || blank_follows => self.value(),
            b'*' => self.anchor(Kind::Alias),
            b'&' => self.anchor(Kind::Anchor),
            b'!' => self.tag(),
            b'|' if !in_flow => self.block_scalar(false),
            b'>' if !in_flow => self.block_scalar(true),
            b'\'' => self.quoted(false),
            b'"' => self.quoted(true),
            b'-' => self.plain(),
            b'?' | b':' if !in_flow => self.plain(),
            b'\t' => self.fault("a tab cannot separate tokens"),
            b'?' | b':' | b'#' | b'|' | b'>' | b'%' | b'@' | b'`' => {
                self.fault("a value cannot start with this character; put it into quotes")
            }
            _ => self.plain(),
        }
    }

    fn skip_to_token(&mut self) {
        if self.at == 0 && self.rest().starts_with("\u{feff}".as_bytes()) {
            self.forward(3);
        }
        loop {
            self.skip(b" ");
            if self.byte() == Some(b'#') {
                self.skip_to_line_end();
            }
            if self.line_break().is_none() {
                return;
            }
            if self.flow_level == 0 {
                self.allow_simple_key = true;
            }
        }
    }

    fn before_document_level(&mut self) -> Scanned<()> {
        self.unwind(None);
        self.remove_simple_key()?;
        self.allow_simple_key = false;
        Ok(())
    }

    fn document_marker(&mut self, kind: Kind<'a>) -> Scanned<()> {
        self.before_document_level()?;
        self.push_and_skip(kind, 3);
        Ok(())
    }

    fn flow_start(&mut self, kind: Kind<'a>) -> Scanned<()> {
        self.save_simple_key()?;
        if self.flow_level >= self.max_depth {
            return Err(Fault::new(self.mark(), format!("it is nested deeper than {}", self.max_depth)));
        }
        self.flow_level += 1;
        self.allow_simple_key = true;
        self.push_and_skip(kind, 1);
        Ok(())
    }

    fn flow_end(&mut self, kind: Kind<'a>) -> Scanned<()> {
        self.remove_simple_key()?;
        if self.flow_level == 0 {
            return self.fault("a bracket closes that was not opened");
        }
        self.flow_level -= 1;
        self.allow_simple_key = false;
        self.push_and_skip(kind, 1);
        Ok(())
    }

    fn block_entry(&mut self) -> Scanned<()> {
        if self.flow_level == 0 {
            if !self.allow_simple_key {
                return self.fault("an item of a list cannot begin here");
            }
            if self.add_indent(self.column)? {
                self.push(Kind::BlockSequenceStart);
            }
        }
        self.allow_simple_key = true;
        self.remove_simple_key()?;
        self.push_and_skip(Kind::BlockEntry, 1);
        Ok(())
    }

    fn key(&mut self) -> Scanned<()> {
        if self.flow_level == 0 {
            if !self.allow_simple_key {
                return self.fault("a key cannot begin here");
            }
            if self.add_indent(self.column)? {
                self.push(Kind::BlockMappingStart);
            }
        }
        self.allow_simple_key = self.flow_level == 0;
        self.remove_simple_key()?;
        self.push_and_skip(Kind::Key, 1);
        Ok(())
    }

    fn value(&mut self) -> Scanned<()> {
        if let Some(key) = self.take_simple_key() {
            // What was read as a token is a key after all.
            let place = key.token - self.taken;
            self.tokens.insert(place, Token { mark: key.mark, kind: Kind::Key });
            if self.flow_level == 0 && self.add_indent(key.mark.column)? {
                self.tokens.insert(place, Token { mark: key.mark, kind: Kind::BlockMappingStart });
            }
            self.allow_simple_key = false;
        } else {
            if self.flow_level == 0 {
                if !self.allow_simple_key {
                    return self.fault("a value after `:` cannot stand here");
                }
                if self.add_indent(self.column)? {
                    self.push(Kind::BlockMappingStart);
                }
            }
            self.allow_simple_key = self.flow_level == 0;
            self.remove_simple_key()?;
        }
        self.push_and_skip(Kind::Value, 1);
        Ok(())
    }

    fn anchor(&mut self, kind: fn(&'a str) -> Kind<'a>) -> Scanned<()> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let mark = self.mark();
        self.forward(1);
        let name = self.name();
        let followed_well = self.byte().is_none_or(|byte| b" \t?:,]}%@`".contains(&byte)) || ends_line(self.rest());
        if name.is_empty() || !followed_well {
            return self.fault("the name of an anchor or alias has ASCII letters, digits, `-` and `_` only");
        }
        self.tokens.push_back(Token { mark, kind: kind(name) });
        Ok(())
    }

    /// Letters, digits, `-` and `_`, possibly none.
    fn name(&mut self) -> &'a str {
        let start = self.at;
        let count = self.rest().iter().take_while(|byte| is_name(**byte)).count();
        self.forward(count);
        &self.text[start..self.at]
    }

    fn tag(&mut self) -> Scanned<()> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let mark = self.mark();
        let (handle, suffix);
        if self.rest().starts_with(b"!<") {
            self.forward(2);
            (handle, suffix) = (None, self.uri()?);
            if self.byte() != Some(b'>') {
                return self.fault("a tag that begins with `!<` ends with `>`");
            }
            self.forward(1);
        } else if is_blank_or_end(&self.rest()[1..]) {
            self.forward(1);
            (handle, suffix) = (None, Cow::Borrowed("!"));
        } else {
            // A second `!` before the next space makes a handle of what is between.
            let mut end = self.at + 1;
            while !is_space_or_end(&self.bytes[end..]) && self.bytes[end] != b'!' {
                end += 1;
            }
            if self.bytes.get(end) == Some(&b'!') {
                handle = Some(self.tag_handle()?);
            } else {
                handle = Some("!");
                self.forward(1);
            }
            suffix = self.uri()?;
        }
        if !is_space_or_end(self.rest()) {
            return self.fault("a tag ends with a space, and has no other characters than a URI has");
        }
        self.tokens.push_back(Token { mark, kind: Kind::Tag { handle, suffix } });
        Ok(())
    }

    fn tag_handle(&mut self) -> Scanned<&'a str> {
        let start = self.at;
        if self.byte() != Some(b'!') {
            return self.fault("the handle of a tag begins with `!`");
        }
        self.forward(1);
        if self.byte() != Some(b' ') {
            self.name();
            if self.byte() != Some(b'!') {
                return self.fault("the handle of a tag is letters and digits between two `!`");
            }
            self.forward(1);
        }
        Ok(&self.text[start..self.at])
    }

    fn uri(&mut self) -> Scanned<Cow<'a, str>> {
        let mut uri = Cow::Borrowed("");
        loop {
            let start = self.at;
            let count = self
                .rest()
                .iter()
                .take_while(|byte| byte.is_ascii_alphanumeric() || b"-;/?:@&=+$,_.!~*'()[]".contains(byte))
                .count();
            self.forward(count);
            append(&mut uri, &self.text[start..self.at]);
            if self.byte() != Some(b'%') {
                break;
            }
            let mut bytes = Vec::new();
            let mark = self.mark();
            while self.byte() == Some(b'%') {
                let digits = self.rest().get(1..3).and_then(|digits| std::str::from_utf8(digits).ok());
                let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
                    return self.fault("`%` in a tag is followed by two hexadecimal digits");
                };
                bytes.push(byte);
                self.forward(3);
            }
            let decoded = std::str::from_utf8(&bytes);
            append_copy(&mut uri, decoded.map_err(|_| Fault::new(mark, "the escapes of a tag are not UTF-8"))?);
        }
        if uri.is_empty() { self.fault("a tag has no name") } else { Ok(uri) }
    }

    fn directive(&mut self) -> Scanned<Token<'a>> {
        let mark = self.mark();
        self.forward(1);
        let name = self.name();
        if name.is_empty() || !is_space_or_end(self.rest()) {
            return self.fault("the name of a directive has letters and digits only");
        }
        let directive = match name {
            "YAML" => {
                self.skip(b" ");
                let major = self.digits()?;
                if self.byte() != Some(b'.') {
                    return self.fault("a version of YAML is two numbers with a dot");
                }
                self.forward(1);
                self.digits()?;
                if !is_space_or_end(self.rest()) {
                    return self.fault("a version of YAML is two numbers with a dot");
                }
                Directive::Version { supported: major.trim_start_matches('0') == "1" }
            }
            "TAG" => {
                self.skip(b" ");
                let handle = self.tag_handle()?;
                if self.byte() != Some(b' ') {
                    return self.fault("a %TAG directive is a handle, a space and a prefix");
                }
                self.skip(b" ");
                let prefix = self.uri()?;
                if !is_space_or_end(self.rest()) {
                    return self.fault("a %TAG directive is a handle, a space and a prefix");
                }
                Directive::Tag { handle, prefix }
            }
            _ => {
                self.skip_to_line_end();
                Directive::Other
            }
        };
        self.end_of_header("nothing but a comment follows a directive on its line")?;
        Ok(Token { mark, kind: Kind::Directive(directive) })
    }

    fn digits(&mut self) -> Scanned<&'a str> {
        let start = self.at;
        let count = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.forward(count);
        if count == 0 {
            self.fault("a version of YAML is two numbers with a dot")
        } else {
            Ok(&self.text[start..self.at])
        }
    }

    /// Spaces, perhaps a comment, and the end of the line.
    fn end_of_header(&mut self, why: &'static str) -> Scanned<()> {
        self.skip(b" ");
        if self.byte() == Some(b'#') {
            self.skip_to_line_end();
        }
        if !ends_line(self.rest()) {
            return self.fault(why);
        }
        self.line_break();
        Ok(())
    }

    fn block_scalar(&mut self, folded: bool) -> Scanned<()> {
        self.allow_simple_key = true;
        self.remove_simple_key()?;
        let mark = self.mark();
        self.forward(1);
        let (keep_last, increment) = self.block_scalar_header()?;
        self.end_of_header("nothing but a comment follows `|` or `>` on its line")?;

        let least = self.indent.map_or(1, |indent| indent + 1);
        let mut text = String::new();
        let mut breaks = String::new();
        let indent = match increment {
            Some(increment) => {
                let indent = least + increment - 1;
                self.block_scalar_breaks(indent, &mut breaks);
                indent
            }
            None => least.max(self.block_scalar_indentation(&mut breaks)),
        };
        let mut last_break = "";
        while self.column == indent && !self.rest().is_empty() {
            text.push_str(&breaks);
            breaks.clear();
            let starts_with_text = !matches!(self.byte(), Some(b' ' | b'\t'));
            let start = self.at;
            self.skip_to_line_end();
            text.push_str(&self.text[start..self.at]);
            last_break = self.line_break().unwrap_or("");
            self.block_scalar_breaks(indent, &mut breaks);
            if self.column != indent || self.rest().is_empty() {
                break;
            }
            if folded && last_break == "\n" && starts_with_text && !matches!(self.byte(), Some(b' ' | b'\t')) {
                if breaks.is_empty() {
                    text.push(' ');
                }
            } else {
                text.push_str(last_break);
            }
        }
        if keep_last != Some(false) {
            text.push_str(last_break);
        }
        if keep_last == Some(true) {
            text.push_str(&breaks);
        }
        self.tokens.push_back(Token { mark, kind: Kind::Scalar { text: text.into(), plain: false } });
        Ok(())
    }

    /// `+` or `-` and a digit, in any order.
    fn block_scalar_header(&mut self) -> Scanned<(Option<bool>, Option<usize>)> {
        let (mut keep_last, mut increment) = (None, None);
        loop {
            match self.byte() {
                Some(sign @ (b'+' | b'-')) if keep_last.is_none() => keep_last = Some(sign == b'+'),
                Some(b'0') if increment.is_none() => return self.fault("the indentation of a block scalar is 1 to 9"),
                Some(digit @ b'1'..=b'9') if increment.is_none() => increment = Some(usize::from(digit - b'0')),
                _ => break,
            }
            self.forward(1);
        }
        if !is_space_or_end(self.rest()) {
            return self.fault("after `|` or `>` there may be `+` or `-` and one digit");
        }
        Ok((keep_last, increment))
    }

    fn block_scalar_indentation(&mut self, breaks: &mut String) -> usize {
        let mut most = 0;
        loop {
            if self.byte() == Some(b' ') {
                self.skip(b" ");
                most = most.max(self.column);
            } else if let Some(line_break) = self.line_break() {
                breaks.push_str(line_break);
            } else {
                return most;
            }
        }
    }

    fn block_scalar_breaks(&mut self, indent: usize, breaks: &mut String) {
        loop {
            while self.column < indent && self.byte() == Some(b' ') {
                self.forward(1);
            }
            match self.line_break() {
                Some(line_break) => breaks.push_str(line_break),
                None => return,
            }
        }
    }

    fn quoted(&mut self, double: bool) -> Scanned<()> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let mark = self.mark();
        let quote = if double { b'"' } else { b'\'' };
        self.forward(1);
        let mut text = Cow::Borrowed("");
        loop {
            self.quoted_letters(double, &mut text)?;
            if self.byte() == Some(quote) {
                break;
            }
            self.quoted_spaces(mark, &mut text)?;
        }
        self.forward(1);
        self.tokens.push_back(Token { mark, kind: Kind::Scalar { text, plain: false } });
        Ok(())
    }

    fn quoted_letters(&mut self, double: bool, text: &mut Cow<'a, str>) -> Scanned<()> {
        loop {
            let mut end = self.at;
            while let Some(byte) = self.bytes.get(end) {
                let stop = match byte {
                    b'\'' | b'"' | b'\\' | b' ' | b'\t' | b'\r' | b'\n' => true,
                    0xC2 | 0xE2 => break_len(&self.bytes[end..]) > 0,
                    _ => false,
                };
                if stop {
                    break;
                }
                end += 1;
            }
            append(text, &self.text[self.at..end]);
            self.forward(end - self.at);
            match self.byte() {
                Some(b'\'') if !double && self.rest().starts_with(b"''") => {
                    append(text, "'");
                    self.forward(2);
                }
                Some(b'\'') if double => {
                    append(text, "'");
                    self.forward(1);
                }
                Some(other @ (b'"' | b'\\')) if !double => {
                    append(text, if other == b'"' { "\"" } else { "\\" });
                    self.forward(1);
                }
                Some(b'\\') => self.escape(text)?,
                _ => return Ok(()),
            }
        }
    }

    fn escape(&mut self, text: &mut Cow<'a, str>) -> Scanned<()> {
        self.forward(1);
        let digits = match self.byte() {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            Some(other) => {
                let means = match other {
                    b'0' => "\0",
                    b'a' => "\x07",
                    b'b' => "\x08",
                    b't' | b'\t' => "\t",
                    b'n' => "\n",
                    b'v' => "\x0B",
                    b'f' => "\x0C",
                    b'r' => "\r",
                    b'e' => "\x1B",
                    b' ' => " ",
                    b'"' => "\"",
                    b'\\' => "\\",
                    b'/' => "/",
                    b'N' => "\u{85}",
                    b'_' => "\u{A0}",
                    b'L' => "\u{2028}",
                    b'P' => "\u{2029}",
                    _ if self.line_break().is_some() => return self.quoted_breaks(&mut String::new(), text),
                    _ => return self.fault("this escape does not exist"),
                };
                append(text, means);
                self.forward(1);
                return Ok(());
            }
            None => return self.fault("a quoted string does not end"),
        };
        let mark = self.mark();
        self.forward(1);
        let first = self.hexadecimal(digits)?;
        let code = match first {
            // Two escapes for the halves of one character, as JSON has them.
            0xD800..=0xDBFF if self.rest().starts_with(b"\\u") => {
                self.forward(2);
                match self.hexadecimal(4)? {
                    second @ 0xDC00..=0xDFFF => 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00),
                    _ => first,
                }
            }
            code => code,
        };
        let character = char::from_u32(code).ok_or_else(|| {
            let why = match code {
                0xD800..=0xDFFF => "an escape is a lone surrogate, which a string cannot hold here",
                _ => "an escape is not a character of Unicode",
            };
            Fault::new(mark, why)
        })?;
        append_copy(text, character.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn hexadecimal(&mut self, count: usize) -> Scanned<u32> {
        let digits = self.rest().get(..count).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let Some(code) = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return self.fault("an escape has too few hexadecimal digits");
        };
        self.forward(count);
        Ok(code)
    }

    fn quoted_spaces(&mut self, start: Mark, text: &mut Cow<'a, str>) -> Scanned<()> {
        let from = self.at;
        self.skip(b" \t");
        if self.rest().is_empty() {
            return Err(Fault::new(start, "a quoted string does not end"));
        }
        let spaces = &self.text[from..self.at];
        let Some(line_break) = self.line_break() else {
            append(text, spaces);
            return Ok(());
        };
        let mut breaks = String::new();
        let mut nothing = Cow::Borrowed("");
        self.quoted_breaks(&mut breaks, &mut nothing)?;
        if line_break != "\n" {
            append(text, line_break);
        } else if breaks.is_empty() {
            append(text, " ");
        }
        append_copy(text, &breaks);
        Ok(())
    }

    /// Empty lines within quotes, into `breaks` and `text`.
    fn quoted_breaks(&mut self, breaks: &mut String, text: &mut Cow<'a, str>) -> Scanned<()> {
        loop {
            if self.any_document_marker() {
                return self.fault("a document ends within a quoted string");
            }
            self.skip(b" \t");
            match self.line_break() {
                Some(line_break) => breaks.push_str(line_break),
                None => break,
            }
        }
        append_copy(text, breaks);
        Ok(())
    }

    fn plain(&mut self) -> Scanned<()> {
        self.save_simple_key()?;
        self.allow_simple_key = false;
        let mark = self.mark();
        let indent = self.indent.map_or(0, |indent| indent + 1);
        let mut text = Cow::Borrowed("");
        let mut spaces = Cow::Borrowed("");
        while self.byte() != Some(b'#') {
            let end = self.plain_end();
            if end == self.at {
                break;
            }
            self.allow_simple_key = false;
            append_copy(&mut text, &spaces);
            append(&mut text, &self.text[self.at..end]);
            self.forward(end - self.at);
            spaces = match self.plain_spaces() {
                Some(spaces) => spaces,
                None => break,
            };
            if spaces.is_empty() || (self.flow_level == 0 && self.column < indent) {
                break;
            }
        }
        self.tokens.push_back(Token { mark, kind: Kind::Scalar { text, plain: true } });
        Ok(())
    }

    /// The end of the part of a plain scalar that has no spaces in it.
    fn plain_end(&self) -> usize {
        let in_flow = self.flow_level > 0;
        let mut end = self.at;
        while let Some(byte) = self.bytes.get(end) {
            let stop = match byte {
                b' ' | b'\t' | b'\r' | b'\n' => true,
                0xC2 | 0xE2 => break_len(&self.bytes[end..]) > 0,
                b':' => {
                    let after = &self.bytes[end + 1..];
                    is_blank_or_end(after) || (in_flow && b",[]{}".contains(&after[0]))
                }
                b',' | b'?' | b'[' | b']' | b'{' | b'}' => in_flow,
                _ => false,
            };
            if stop {
                break;
            }
            end += 1;
        }
        end
    }

    /// What is between two parts of a plain scalar: nothing when it ends here, `None` at a document marker.
    fn plain_spaces(&mut self) -> Option<Cow<'a, str>> {
        let start = self.at;
        self.skip(b" ");
        let spaces = &self.text[start..self.at];
        let Some(line_break) = self.line_break() else { return Some(Cow::Borrowed(spaces)) };
        self.allow_simple_key = true;
        if self.any_document_marker() {
            return None;
        }
        let mut breaks = String::new();
        loop {
            if self.byte() == Some(b' ') {
                self.skip(b" ");
            } else if let Some(line_break) = self.line_break() {
                breaks.push_str(line_break);
                if self.any_document_marker() {
                    return None;
                }
            } else {
                break;
            }
        }
        if line_break != "\n" {
            breaks.insert_str(0, line_break);
        } else if breaks.is_empty() {
            return Some(Cow::Borrowed(" "));
        }
        Some(Cow::Owned(breaks))
    }
}

/// Adds to a text, which stays borrowed as long as it is one piece.
fn append<'a>(text: &mut Cow<'a, str>, more: &'a str) {
    if text.is_empty() {
        *text = Cow::Borrowed(more);
    } else if !more.is_empty() {
        text.to_mut().push_str(more);
    }
}

/// Adds what is not a piece of the input.
fn append_copy(text: &mut Cow<'_, str>, more: &str) {
    if !more.is_empty() {
        text.to_mut().push_str(more);
    }
}
