//! Events of YAML 1.1, from the tokens of [`scan`](super::scan), by PyYAML's grammar (`parser.py`).
//!
//! The parser is a machine with a stack of states, so a deep body takes memory and no stack.

use std::borrow::Cow;

use super::scan::{Directive, Fault, Kind, Mark, Scanned, Scanner};

const STANDARD: &str = "tag:yaml.org,2002:";

/// A part of the one document that a body is.
#[derive(Debug)]
pub(super) enum Event<'a> {
    Alias(&'a str),
    Scalar {
        properties: Properties<'a>,
        text: Cow<'a, str>,
        plain: bool,
    },
    SequenceStart(Properties<'a>),
    SequenceEnd,
    MappingStart(Properties<'a>),
    MappingEnd,
    /// The document has ended, and nothing follows it.
    End,
}

/// What may stand before a value.
#[derive(Debug, Default)]
pub(super) struct Properties<'a> {
    pub(super) anchor: Option<&'a str>,
    /// The whole tag, its handle replaced by what it stands for: `tag:yaml.org,2002:int`, `!uuid`.
    pub(super) tag: Option<Cow<'a, str>>,
}

/// What comes next.
#[derive(Clone, Copy)]
enum State {
    DocumentStart,
    DocumentContent,
    DocumentEnd,
    BlockNode,
    SequenceEntry,
    IndentlessEntry,
    MappingKey,
    MappingValue,
    FlowSequenceEntry { first: bool },
    PairKey,
    PairValue,
    PairEnd,
    FlowMappingKey { first: bool },
    FlowMappingValue,
    FlowMappingEmptyValue,
    End,
}

/// Where a node stands, which decides what it may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Block,
    /// In block context, where a list need not be indented.
    BlockOrIndentless,
    Flow,
}

pub(super) struct Parser<'a> {
    scanner: Scanner<'a>,
    state: State,
    states: Vec<State>,
    /// Handles of tags, and what they stand for.
    handles: Vec<(&'a str, Cow<'a, str>)>,
    /// Where the last event starts.
    mark: Mark,
}

/// True when the next token is one of these kinds.
macro_rules! next_is {
    ($parser:expr, $($kind:pat_param)|+) => {
        matches!($parser.scanner.peek()?.kind, $($kind)|+)
    };
}

impl<'a> Parser<'a> {
    pub(super) fn new(text: &'a str, max_depth: usize) -> Self {
        Parser {
            scanner: Scanner::new(text, max_depth),
            state: State::DocumentStart,
            states: Vec::new(),
            handles: Vec::new(),
            mark: Mark::default(),
        }
    }

    /// The next event and where it starts; [`Event::End`] at the end and ever after.
    pub(super) fn next(&mut self) -> Scanned<(Event<'a>, Mark)> {
        loop {
            self.mark = self.scanner.peek()?.mark;
            if let Some(event) = self.step()? {
                return Ok((event, self.mark));
            }
        }
    }

    fn step(&mut self) -> Scanned<Option<Event<'a>>> {
        match self.state {
            State::DocumentStart => self.document_start().map(|()| None),
            State::DocumentContent => {
                self.pop();
                if next_is!(self, Kind::Directive(_) | Kind::DocumentStart | Kind::DocumentEnd | Kind::StreamEnd) {
                    return Ok(Some(empty()));
                }
                self.node(Place::Block).map(Some)
            }
            State::BlockNode => {
                self.pop();
                self.node(Place::Block).map(Some)
            }
            State::DocumentEnd => {
                while next_is!(self, Kind::DocumentEnd) {
                    self.scanner.next()?;
                }
                if !next_is!(self, Kind::StreamEnd) {
                    return self.fault("something follows after the end of the document; a body is one document");
                }
                self.state = State::End;
                Ok(None)
            }
            State::End => Ok(Some(Event::End)),
            State::SequenceEntry => self.sequence_entry().map(Some),
            State::IndentlessEntry => self.indentless_entry().map(Some),
            State::MappingKey => self.mapping_key().map(Some),
            State::MappingValue => self.mapping_value().map(Some),
            State::FlowSequenceEntry { first } => self.flow_sequence_entry(first).map(Some),
            State::PairKey => self.pair_key().map(Some),
            State::PairValue => self.pair_value().map(Some),
            State::PairEnd => {
                self.state = State::FlowSequenceEntry { first: false };
                Ok(Some(Event::MappingEnd))
            }
            State::FlowMappingKey { first } => self.flow_mapping_key(first).map(Some),
            State::FlowMappingValue => self.flow_mapping_value().map(Some),
            State::FlowMappingEmptyValue => {
                self.state = State::FlowMappingKey { first: false };
                Ok(Some(empty()))
            }
        }
    }

    fn fault<T>(&mut self, why: &'static str) -> Scanned<T> {
        Err(Fault::new(self.scanner.peek()?.mark, why))
    }

    /// Goes on with what waits for the end of the node that comes now.
    fn pop(&mut self) {
        self.state = self.states.pop().unwrap_or(State::End);
    }

    fn document_start(&mut self) -> Scanned<()> {
        self.states.push(State::DocumentEnd);
        if next_is!(self, Kind::StreamEnd) {
            // An empty body has no document at all.
            self.state = State::End;
            return Ok(());
        }
        if !next_is!(self, Kind::Directive(_) | Kind::DocumentStart) {
            self.state = State::BlockNode;
            return Ok(());
        }
        let mut has_version = false;
        while next_is!(self, Kind::Directive(_)) {
            let token = self.scanner.next()?;
            match token.kind {
                Kind::Directive(Directive::Version { supported }) => {
                    if has_version || !supported {
                        let why = if has_version { "there are two versions of YAML" } else { "this is not YAML 1" };
                        return Err(Fault::new(token.mark, why));
                    }
                    has_version = true;
                }
                Kind::Directive(Directive::Tag { handle, prefix }) => {
                    if self.handles.iter().any(|(known, _)| *known == handle) {
                        return Err(Fault::new(token.mark, "there are two %TAG directives for one handle"));
                    }
                    self.handles.push((handle, prefix));
                }
                _ => {}
            }
        }
        if !next_is!(self, Kind::DocumentStart) {
            return self.fault("`---` must follow the directives");
        }
        self.scanner.next()?;
        self.state = State::DocumentContent;
        Ok(())
    }

    /// A node with its properties. Its own state, if it is a collection, takes the place of the current one.
    fn node(&mut self, place: Place) -> Scanned<Event<'a>> {
        self.mark = self.scanner.peek()?.mark;
        if next_is!(self, Kind::Alias(_)) {
            let Kind::Alias(name) = self.scanner.next()?.kind else { return self.fault("an alias is expected") };
            return Ok(Event::Alias(name));
        }
        let properties = self.properties()?;
        if place == Place::BlockOrIndentless && next_is!(self, Kind::BlockEntry) {
            self.enter(State::IndentlessEntry);
            return Ok(Event::SequenceStart(properties));
        }
        let in_block = place != Place::Flow;
        match self.scanner.peek()?.kind {
            Kind::Scalar { .. } => {
                let Kind::Scalar { text, plain } = self.scanner.next()?.kind else {
                    return self.fault("a scalar is expected");
                };
                Ok(Event::Scalar { properties, text, plain })
            }
            Kind::FlowSequenceStart => {
                self.scanner.next()?;
                self.enter(State::FlowSequenceEntry { first: true });
                Ok(Event::SequenceStart(properties))
            }
            Kind::FlowMappingStart => {
                self.scanner.next()?;
                self.enter(State::FlowMappingKey { first: true });
                Ok(Event::MappingStart(properties))
            }
            Kind::BlockSequenceStart if in_block => {
                self.scanner.next()?;
                self.enter(State::SequenceEntry);
                Ok(Event::SequenceStart(properties))
            }
            Kind::BlockMappingStart if in_block => {
                self.scanner.next()?;
                self.enter(State::MappingKey);
                Ok(Event::MappingStart(properties))
            }
            _ if properties.anchor.is_some() || properties.tag.is_some() => {
                Ok(Event::Scalar { properties, text: Cow::Borrowed(""), plain: true })
            }
            _ => self.fault("a value is expected"),
        }
    }

    /// A tag and an anchor, in any order.
    fn properties(&mut self) -> Scanned<Properties<'a>> {
        let mut properties = Properties::default();
        loop {
            match &self.scanner.peek()?.kind {
                Kind::Anchor(name) if properties.anchor.is_none() => {
                    properties.anchor = Some(name);
                    self.scanner.next()?;
                }
                Kind::Tag { .. } if properties.tag.is_none() => {
                    let token = self.scanner.next()?;
                    if let Kind::Tag { handle, suffix } = token.kind {
                        properties.tag = Some(self.whole_tag(handle, suffix, token.mark)?);
                    }
                }
                _ => return Ok(properties),
            }
        }
    }

    fn whole_tag(&self, handle: Option<&str>, suffix: Cow<'a, str>, mark: Mark) -> Scanned<Cow<'a, str>> {
        let Some(handle) = handle else { return Ok(suffix) };
        let prefix = match self.handles.iter().find(|(known, _)| *known == handle) {
            Some((_, prefix)) => prefix,
            None => match handle {
                "!" => "!",
                "!!" => STANDARD,
                _ => return Err(Fault::new(mark, "the handle of this tag is not declared by %TAG")),
            },
        };
        Ok(Cow::Owned(format!("{prefix}{suffix}")))
    }

    /// Goes into a collection; when it ends, what is current now goes on.
    fn enter(&mut self, state: State) {
        self.states.push(self.state);
        self.state = state;
    }

    fn leave(&mut self, event: Event<'a>) -> Scanned<Event<'a>> {
        self.scanner.next()?;
        self.pop();
        Ok(event)
    }

    /// A node, or nothing where one may be missing; then `after`.
    fn node_or_empty(&mut self, missing: bool, place: Place, after: State) -> Scanned<Event<'a>> {
        self.state = after;
        if missing { Ok(empty()) } else { self.node(place) }
    }

    fn sequence_entry(&mut self) -> Scanned<Event<'a>> {
        if next_is!(self, Kind::BlockEntry) {
            self.scanner.next()?;
            let missing = next_is!(self, Kind::BlockEntry | Kind::BlockEnd);
            return self.node_or_empty(missing, Place::Block, State::SequenceEntry);
        }
        if !next_is!(self, Kind::BlockEnd) {
            return self.fault("this is neither an item of the list nor its end");
        }
        self.leave(Event::SequenceEnd)
    }

    fn indentless_entry(&mut self) -> Scanned<Event<'a>> {
        if next_is!(self, Kind::BlockEntry) {
            self.scanner.next()?;
            let missing = next_is!(self, Kind::BlockEntry | Kind::Key | Kind::Value | Kind::BlockEnd);
            return self.node_or_empty(missing, Place::Block, State::IndentlessEntry);
        }
        self.pop();
        Ok(Event::SequenceEnd)
    }

    fn mapping_key(&mut self) -> Scanned<Event<'a>> {
        if next_is!(self, Kind::Key) {
            self.scanner.next()?;
            let missing = next_is!(self, Kind::Key | Kind::Value | Kind::BlockEnd);
            return self.node_or_empty(missing, Place::BlockOrIndentless, State::MappingValue);
        }
        if !next_is!(self, Kind::BlockEnd) {
            return self.fault("this is neither a key of the mapping nor its end");
        }
        self.leave(Event::MappingEnd)
    }

    fn mapping_value(&mut self) -> Scanned<Event<'a>> {
        let mut missing = true;
        if next_is!(self, Kind::Value) {
            self.scanner.next()?;
            missing = next_is!(self, Kind::Key | Kind::Value | Kind::BlockEnd);
        }
        self.node_or_empty(missing, Place::BlockOrIndentless, State::MappingKey)
    }

    fn flow_sequence_entry(&mut self, first: bool) -> Scanned<Event<'a>> {
        if !next_is!(self, Kind::FlowSequenceEnd) {
            if !first {
                if !next_is!(self, Kind::FlowEntry) {
                    return self.fault("`,` or `]` is expected");
                }
                self.scanner.next()?;
            }
            if next_is!(self, Kind::Key) {
                // `[key: value]` is a list of a mapping.
                self.mark = self.scanner.next()?.mark;
                self.state = State::PairKey;
                return Ok(Event::MappingStart(Properties::default()));
            }
            if !next_is!(self, Kind::FlowSequenceEnd) {
                self.state = State::FlowSequenceEntry { first: false };
                return self.node(Place::Flow);
            }
        }
        self.leave(Event::SequenceEnd)
    }

    fn pair_key(&mut self) -> Scanned<Event<'a>> {
        let missing = next_is!(self, Kind::Value | Kind::FlowEntry | Kind::FlowSequenceEnd);
        self.node_or_empty(missing, Place::Flow, State::PairValue)
    }

    fn pair_value(&mut self) -> Scanned<Event<'a>> {
        let mut missing = true;
        if next_is!(self, Kind::Value) {
            self.scanner.next()?;
            missing = next_is!(self, Kind::FlowEntry | Kind::FlowSequenceEnd);
        }
        self.node_or_empty(missing, Place::Flow, State::PairEnd)
    }

    fn flow_mapping_key(&mut self, first: bool) -> Scanned<Event<'a>> {
        if !next_is!(self, Kind::FlowMappingEnd) {
            if !first {
                if !next_is!(self, Kind::FlowEntry) {
                    return self.fault("`,` or `}` is expected");
                }
                self.scanner.next()?;
            }
            if next_is!(self, Kind::Key) {
                self.scanner.next()?;
                let missing = next_is!(self, Kind::Value | Kind::FlowEntry | Kind::FlowMappingEnd);
                return self.node_or_empty(missing, Place::Flow, State::FlowMappingValue);
            }
            if !next_is!(self, Kind::FlowMappingEnd) {
                self.state = State::FlowMappingEmptyValue;
                return self.node(Place::Flow);
            }
        }
        self.leave(Event::MappingEnd)
    }

    fn flow_mapping_value(&mut self) -> Scanned<Event<'a>> {
        let mut missing = true;
        if next_is!(self, Kind::Value) {
            self.scanner.next()?;
            missing = next_is!(self, Kind::FlowEntry | Kind::FlowMappingEnd);
        }
        self.node_or_empty(missing, Place::Flow, State::FlowMappingKey { first: false })
    }
}

/// A value that is not there, which is null.
fn empty<'a>() -> Event<'a> {
    Event::Scalar { properties: Properties::default(), text: Cow::Borrowed(""), plain: true }
}
