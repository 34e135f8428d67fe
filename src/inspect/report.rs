//! What an inspection found.

use std::fmt;

use crate::codec::{Map, Value};

/// What a finding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know; nothing is wrong.
    Note,
    /// Wrong, or could not be checked.
    Problem,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Problem => "problem",
        })
    }
}

/// One line of a [`Report`]. No credential and no body is ever in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    check: String,
    verdict: Verdict,
    text: String,
    advice: Option<String>,
    facts: Map,
}

impl Finding {
    /// A check and its result.
    pub fn new(check: impl Into<String>, verdict: Verdict, text: impl Into<String>) -> Self {
        Finding { check: check.into(), verdict, text: text.into(), advice: None, facts: Map::new() }
    }

    /// With what to do about it.
    #[must_use]
    pub fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// With a fact for programs.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name, value);
        self
    }

    /// What was checked: `tcp`, or `queue kiwipy.tasks`.
    #[must_use]
    pub fn check(&self) -> &str {
        &self.check
    }

    /// What it means.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What was found.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What to do about it.
    #[must_use]
    pub fn what_to_do(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    /// The same for programs: `address`, `ready`, `argument` and the like.
    #[must_use]
    pub fn facts(&self) -> &Map {
        &self.facts
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("check", self.check.as_str());
        map.insert("verdict", self.verdict.to_string());
        map.insert("text", self.text.as_str());
        map.insert("advice", self.advice.as_deref().map_or(Value::Null, Value::from));
        map.insert("facts", Value::Map(self.facts.clone()));
        Value::Map(map)
    }
}

/// The findings, in the order of the checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    findings: Vec<Finding>,
    pub(super) connected: bool,
    /// The broker was reached, and does not let this user in.
    pub(super) refused: bool,
    /// It is a local broker, and nobody hosts it now.
    pub(super) idle: bool,
}

impl Report {
    /// The findings.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Adds a finding.
    pub fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether a connection was made; without one, most was not checked.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether no connection was made because the broker refused access: by its credentials, or to the virtual host.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// Whether no connection was made because this is a local broker that no process hosts at the moment: nothing is wrong, and
    /// the next program that connects hosts it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// How many findings have this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// The report as a value: `connected`, `problems` (how many) and `findings`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("connected", self.connected);
        map.insert("problems", i64::try_from(self.count(Verdict::Problem)).unwrap_or(i64::MAX));
        map.insert("findings", self.findings.iter().map(Finding::to_value).collect::<Vec<_>>());
        Value::Map(map)
    }
}
