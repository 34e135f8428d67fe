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

/// The number in a header; 0 where there is none.
pub(crate) fn number(properties: &Properties, name: &str) -> u32 {
    properties.number(name).map_or(0, |number| u32::try_from(number).unwrap_or(u32::MAX))
}
