//! Broadcast filters, as kiwipy's `BroadcastFilter` reads them.
//!
//! A text is a pattern: `.` stands for itself, `*` for any run of characters but a newline, and every other character of
//! regular expressions keeps its meaning. It is matched from the start and need not reach the end: `state_changed` passes
//! `state_changed.a.b`.

use fancy_regex::{Regex, RegexBuilder};

use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};

/// How far a pattern may backtrack before it counts as not matching. Patterns are the subscriber's, subjects are not.
const BACKTRACK_LIMIT: usize = 100_000;

/// Which broadcasts a subscriber receives: those that pass its filters on the subject and on the sender.
///
/// With several filters on one field, one of them has to pass. A field without filters passes, and so does a message without the
/// field.
///
/// # Examples
///
/// ```
/// use homing::BroadcastFilter;
///
/// let filter = BroadcastFilter::new().subject("state_changed.*.finished")?.sender_is(4);
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct BroadcastFilter {
    subjects: Vec<Check>,
    senders: Vec<Check>,
}

#[derive(Clone, Debug)]
enum Check {
    Pattern(Regex),
    Equal(Value),
}

impl BroadcastFilter {
    /// One that lets everything pass.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets subjects of this pattern pass.
    ///
    /// # Errors
    /// `InvalidArgument` for a string that is not a regular expression.
    pub fn subject(mut self, pattern: &str) -> Result<Self> {
        self.subjects.push(kiwipy_pattern(pattern)?);
        Ok(self)
    }

    /// Lets senders of this pattern pass. A sender that is not a string does not match.
    ///
    /// # Errors
    /// `InvalidArgument` for a string that is not a regular expression.
    pub fn sender(mut self, pattern: &str) -> Result<Self> {
        self.senders.push(kiwipy_pattern(pattern)?);
        Ok(self)
    }

    /// Lets subjects pass that this regular expression matches from their start, as a compiled expression does in kiwipy.
    ///
    /// # Errors
    /// `InvalidArgument` for a string that is not a regular expression.
    pub fn subject_regex(mut self, expression: &str) -> Result<Self> {
        self.subjects.push(regex(expression, expression)?);
        Ok(self)
    }

    /// The same for senders.
    ///
    /// # Errors
    /// `InvalidArgument` for a string that is not a regular expression.
    pub fn sender_regex(mut self, expression: &str) -> Result<Self> {
        self.senders.push(regex(expression, expression)?);
        Ok(self)
    }

    /// Lets this one sender pass, such as a process id.
    #[must_use]
    pub fn sender_is(mut self, sender: impl Into<Value>) -> Self {
        self.senders.push(Check::Equal(sender.into()));
        self
    }

    pub(crate) fn passes(&self, subject: &Value, sender: &Value) -> bool {
        passes(&self.subjects, subject) && passes(&self.senders, sender)
    }
}

fn passes(checks: &[Check], value: &Value) -> bool {
    if checks.is_empty() || value.is_null() {
        return true;
    }
    checks.iter().any(|check| match check {
        Check::Equal(wanted) => wanted == value,
        Check::Pattern(pattern) => value.as_str().is_some_and(|text| match pattern.is_match(text) {
            Ok(matched) => matched,
            Err(error) => {
                crate::log::warn!(%error, "a broadcast filter gave up on a value; it counts as not matching");
                false
            }
        }),
    })
}

fn kiwipy_pattern(pattern: &str) -> Result<Check> {
    regex(pattern, &pattern.replace('.', "[.]").replace('*', ".*"))
}

fn regex(shown: &str, expression: &str) -> Result<Check> {
    // Python's `match`: anchored at the start of the text. The group keeps an alternation together.
    let anchored = format!(r"\A(?:{expression})");
    let built = RegexBuilder::new(&anchored).backtrack_limit(BACKTRACK_LIMIT).build();
    built.map(Check::Pattern).map_err(|error| {
        Error::with_source(
            ErrorKind::InvalidArgument,
            format!("the broadcast filter {shown:?} is not a regular expression: {error}"),
            error,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(pattern: &str, subject: &str) -> bool {
        BroadcastFilter::new().subject(pattern).unwrap().passes(&Value::from(subject), &Value::Null)
    }

    #[test]
    fn a_pattern_matches_from_the_start_and_need_not_reach_the_end() {
        assert!(subject("state_changed", "state_changed.a.b"));
        assert!(!subject("changed", "state_changed.a.b"));
    }

    #[test]
    fn a_dot_is_a_dot_and_a_star_stops_at_a_newline() {
        assert!(!subject("a.b", "axb"));
        assert!(subject("a.*.c", "a.b.c"));
        assert!(!subject("a*c", "a\nc"));
    }

    #[test]
    fn other_characters_keep_their_meaning() {
        assert!(subject("a|b.c", "b.c"));
        assert!(subject("a|b.c", "a!"));
        assert!(!subject("a|b.c", "bxc"));
    }

    #[test]
    fn a_look_ahead_keeps_state_changes_out() {
        // plumpy's processes subscribe with this expression, compiled.
        let filter = BroadcastFilter::new().subject_regex(r"^(?!state_changed).*").unwrap();
        assert!(filter.passes(&Value::from("kill"), &Value::Null));
        assert!(!filter.passes(&Value::from("state_changed.a.b"), &Value::Null));
    }

    #[test]
    fn a_message_without_the_field_passes() {
        let filter = BroadcastFilter::new().subject("x").unwrap().sender_is(4);
        assert!(filter.passes(&Value::Null, &Value::Null));
        assert!(filter.passes(&Value::from("x"), &Value::from(4)));
        assert!(!filter.passes(&Value::from("x"), &Value::from(5)));
        assert!(!filter.passes(&Value::from("y"), &Value::from(4)));
    }

    #[test]
    fn a_pattern_that_backtracks_without_end_gives_up() {
        let filter = BroadcastFilter::new().subject_regex(r"(a*)*(?=b)b\1c").unwrap();
        let started = std::time::Instant::now();
        assert!(!filter.passes(&Value::from("a".repeat(2000)), &Value::Null));
        assert!(started.elapsed() < std::time::Duration::from_secs(30));
    }

    #[test]
    fn a_text_that_is_no_expression_is_refused() {
        let error = BroadcastFilter::new().subject("(").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
