//! One process that is looked into.

use std::time::{Duration, SystemTime};

use homing::process::{Pid, ProcessState};

use super::{Key, Now, StatusAnswer, Trouble, clean};

/// How long before the store is asked again.
const EVERY: Duration = Duration::from_secs(1);

/// How many fields and lines are kept.
const MOST_LINES: usize = 200;

/// A transition of a process.
#[derive(Clone, Debug)]
pub(in crate::top) struct Moment {
    pub time: SystemTime,
    pub state: ProcessState,
    pub is_paused: bool,
    pub step: u64,
}

/// A line of a process's log.
#[derive(Clone, Debug)]
pub(in crate::top) struct LogEntry {
    pub time: SystemTime,
    pub is_error: bool,
    pub text: String,
}

/// What the store has of it.
#[derive(Clone, Debug)]
pub(in crate::top) enum Found {
    Stored { facts: Vec<(String, String)>, moments: Vec<Moment>, log: Vec<LogEntry> },
    NotThere,
    Failed(String),
}

/// What a process has answered, and when; or why it has not.
pub(in crate::top) type Answered = Result<(SystemTime, Vec<(String, String)>), String>;

/// What is known of the process beside its row.
#[derive(Clone, Debug)]
pub(in crate::top) struct Detail {
    pub pid: Pid,
    pub stored: Option<Found>,
    pub answer: Option<Answered>,
    /// The first line that is shown.
    pub scroll: usize,
    /// The last line is shown, whatever comes.
    is_at_end: bool,
    has_store: bool,
    is_asking: bool,
    asked: Option<Duration>,
}

fn clean_pairs(pairs: &mut Vec<(String, String)>) {
    pairs.truncate(MOST_LINES);
    for (name, text) in pairs {
        *name = clean(name);
        *text = clean(text);
    }
}

impl Detail {
    pub(super) fn new(pid: Pid, has_store: bool) -> Self {
        Detail {
            pid,
            stored: None,
            answer: None,
            scroll: 0,
            is_at_end: false,
            has_store,
            is_asking: false,
            asked: None,
        }
    }

    /// Whether the store is to be asked now; then it is.
    pub(super) fn is_due(&mut self, now: Now) -> bool {
        let is_due = self.asked.is_none_or(|asked| now.at.saturating_sub(asked) >= EVERY);
        if !self.has_store || self.is_asking || !is_due {
            return false;
        }
        self.is_asking = true;
        self.asked = Some(now.at);
        true
    }

    pub(super) fn found(&mut self, mut found: Found) {
        self.is_asking = false;
        match &mut found {
            Found::Stored { facts, moments, log } => {
                clean_pairs(facts);
                moments.drain(..moments.len().saturating_sub(MOST_LINES));
                log.drain(..log.len().saturating_sub(MOST_LINES));
                for line in log {
                    line.text = clean(&line.text);
                }
            }
            Found::Failed(why) => *why = clean(why),
            Found::NotThere => {}
        }
        self.stored = Some(found);
    }

    pub(super) fn answered(&mut self, answer: &StatusAnswer, now: Now) {
        let mut fields = answer.fields.clone();
        clean_pairs(&mut fields);
        self.answer = Some(Ok((now.time, fields)));
    }

    pub(super) fn not_answered(&mut self, trouble: &Trouble) {
        let why = match trouble {
            Trouble::Unreachable => "unreachable: no worker has it",
            Trouble::TimedOut(_) => "no answer in time",
            Trouble::Failed(why) => why,
        };
        self.answer = Some(Err(clean(why)));
    }

    pub(super) fn go(&mut self, key: &Key, page: usize) {
        let (scroll, is_at_end) = match key {
            Key::Up => (self.scroll.saturating_sub(1), false),
            Key::Down => (self.scroll + 1, self.is_at_end),
            Key::PageUp => (self.scroll.saturating_sub(page), false),
            Key::PageDown => (self.scroll + page, self.is_at_end),
            Key::Home => (0, false),
            Key::End => (self.scroll, true),
            _ => return,
        };
        (self.scroll, self.is_at_end) = (scroll, is_at_end);
    }

    /// Keeps the scrolling within this many lines.
    pub(in crate::top) fn within(&mut self, lines: usize) {
        self.scroll = if self.is_at_end { lines } else { self.scroll.min(lines) };
    }
}
