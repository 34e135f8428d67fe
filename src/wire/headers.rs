//! The headers of our own. Peers that do not know them ignore them.

use crate::broker::Properties;

/// Counts how often a message was sent again, since it was not known whether the one before had arrived.
pub(crate) const RESEND: &str = "homing-resend";
/// Counts how often a task has been copied on behalf of a lease. That worker may have run it.
pub(crate) const LEASE: &str = "homing-lease";
/// Which attempt a copy of a task is, from 2 on.
pub(crate) const ATTEMPT: &str = "homing-attempt";
/// A number that tells a copy of a task from all others.
pub(crate) const COPY: &str = "homing-copy";
/// Why a task is in quarantine, and the queue that it came from.
pub(crate) const QUARANTINE_REASON: &str = "homing-quarantine-reason";
pub(crate) const QUARANTINE_QUEUE: &str = "homing-quarantine-queue";
/// When a task is due that was sent with a time, in milliseconds since 1970.
pub(crate) const DUE: &str = "homing-due";
/// What a message between communicators of homing is for.
const CONTROL: &str = "homing-control";

/// A message between communicators of homing. None of them goes to a key that kiwipy binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// From a communicator to itself, to see that its bindings stand.
    Probe,
    /// The caller of a call has gone.
    CallerGone,
    /// The caller of some calls has lost the queue that their answers went to.
    AnswerAgain,
}

impl Control {
    fn as_str(self) -> &'static str {
        match self {
            Control::Probe => "probe",
            Control::CallerGone => "caller-gone",
            Control::AnswerAgain => "answer-again",
        }
    }

    /// Properties that carry it.
    pub(crate) fn properties(self) -> Properties {
        Properties::default().with_text(CONTROL, self.as_str())
    }

    /// True for a message that is this.
    pub(crate) fn is(self, properties: &Properties) -> bool {
        properties.text(CONTROL) == Some(self.as_str())
    }
}

/// The headers of W3C trace context and baggage. No others go along.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// How long a value may be. The specifications ask for 512 bytes of `tracestate` and 8192 of `baggage`.
const TRACE_MOST: usize = 8192;

/// What goes along with a message of the trace that it is part of: the headers `traceparent`, `tracestate` and `baggage`.
///
/// See [`TraceContext`](crate::TraceContext).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceHeaders([Option<String>; TRACE.len()]);

impl TraceHeaders {
    /// The value of a header, whatever the case of its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(place(name)?)?.as_deref()
    }

    /// Sets a header. Other names than those three, and values over 8192 bytes, do not go along.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        if let Some(place) = place(name).and_then(|place| self.0.get_mut(place))
            && value.len() <= TRACE_MOST
        {
            *place = Some(value);
        }
    }

    /// The names of those that are set.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        TRACE.iter().zip(&self.0).filter(|(_, value)| value.is_some()).map(|(name, _)| *name)
    }

    /// True when none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// What came with a message.
    pub(crate) fn of(properties: &Properties) -> Option<Box<Self>> {
        // Most messages have no header at all.
        if properties.headers().is_empty() {
            return None;
        }
        let mut headers = TraceHeaders::default();
        for name in TRACE {
            if let Some(text) = properties.text(name) {
                headers.set(name, text);
            }
        }
        (!headers.is_empty()).then(|| Box::new(headers))
    }

    pub(crate) fn write(self, properties: &mut Properties) {
        for (name, value) in TRACE.iter().zip(self.0) {
            if let Some(value) = value {
                properties.set_text(name, value);
            }
        }
    }
}

fn place(name: &str) -> Option<usize> {
    TRACE.iter().position(|known| known.eq_ignore_ascii_case(name))
}

/// The number in a header; 0 where there is none.
pub(crate) fn number(properties: &Properties, name: &str) -> u32 {
    properties.number(name).map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX))
}
