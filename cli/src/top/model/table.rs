//! The processes: what the store, broadcasts and answers tell of each, brought together in bounded memory.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime};

use homing::process::{Pid, ProcessState, StateChange};

use super::control::Action;
use super::{MOST_PROCESSES, Now, Page, StatusAnswer, Trouble, clean};
use crate::process::typed;

/// How old an answer may be before a process in the list is asked again, and one that is looked into.
pub(super) const IN_THE_LIST: Duration = Duration::from_secs(10);
pub(super) const LOOKED_AT: Duration = Duration::from_secs(5);
/// It is asked whatever it has answered before.
pub(super) const AT_ONCE: Duration = Duration::ZERO;

/// One that cannot be reached is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(60);

/// How many states of a process are remembered.
const MOST_STATES: usize = 20;

/// How many are dropped at once when there are too many, so that a flood of new ones does not sort them each time.
const DROPPED_AT_ONCE: usize = MOST_PROCESSES / 10;

/// What the store has of a process.
#[derive(Clone, Debug)]
pub(in crate::top) struct Row {
    pub pid: Pid,
    pub class: String,
    pub state: ProcessState,
    /// Whether it is paused, and why.
    pub pause: Option<Option<String>>,
    pub status: Option<String>,
    pub created: SystemTime,
    pub changed: SystemTime,
    pub exit_status: Option<i64>,
    pub worker: Option<String>,
}

/// Whether a process answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) enum Reach {
    /// It was not asked.
    Unknown,
    Answers,
    Unreachable,
    /// It has not answered in time, or not in order.
    Silent,
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub(in crate::top) struct Process {
    pub pid: Pid,
    pub name: String,
    pub class: String,
    pub state: Option<ProcessState>,
    pub is_paused: bool,
    pub message: String,
    pub created: Option<SystemTime>,
    /// Since when it is in its state.
    pub changed: Option<SystemTime>,
    pub worker: String,
    pub exit_status: Option<i64>,
    pub is_stored: bool,
    pub reach: Reach,
    /// The states that it was in while this view ran.
    pub history: VecDeque<(SystemTime, ProcessState)>,
    first_seen: SystemTime,
    /// When something came that is newer than what the store had before.
    heard: Duration,
    /// When the state changed last, by a broadcast.
    changed_at: Option<Duration>,
    is_asking: bool,
    asked: Option<Duration>,
}

impl Process {
    fn new(pid: Pid, now: Now) -> Self {
        Process {
            name: clean(&typed(&pid)),
            pid,
            class: String::new(),
            state: None,
            is_paused: false,
            message: String::new(),
            created: None,
            changed: None,
            worker: String::new(),
            exit_status: None,
            is_stored: false,
            reach: Reach::Unknown,
            history: VecDeque::new(),
            first_seen: now.time,
            heard: now.at,
            changed_at: None,
            is_asking: false,
            asked: None,
        }
    }

    pub(in crate::top) fn has_ended(&self) -> bool {
        self.state.is_some_and(ProcessState::is_terminal)
    }

    /// Its state as it is shown.
    pub(in crate::top) fn state_text(&self) -> &'static str {
        match (self.state, self.is_paused) {
            (Some(state), false) => state.as_str(),
            (Some(ProcessState::Created), true) => "created, paused",
            (Some(ProcessState::Running), true) => "running, paused",
            (Some(_), true) => "waiting, paused",
            (None, _) if self.reach == Reach::Unreachable => "unreachable",
            (None, _) => "?",
        }
    }

    /// The last that it has told.
    pub(in crate::top) fn last_message(&self) -> String {
        let exit = match (self.state, self.exit_status) {
            (Some(ProcessState::Finished), Some(status)) => format!("exit status {status}"),
            _ => String::new(),
        };
        let silent = match self.reach {
            Reach::Unreachable if !self.has_ended() && self.state.is_some() => "unreachable: no worker has it",
            Reach::Silent if !self.has_ended() => "does not answer",
            _ => "",
        };
        let parts = [silent, &exit, &self.message];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }

    fn enter(&mut self, state: ProcessState, time: SystemTime) {
        let was_known = self.state == Some(state) && state.is_terminal();
        self.state = Some(state);
        self.changed = Some(time);
        if state.is_terminal() {
            self.is_paused = false;
            self.worker.clear();
        }
        // A process that has been killed by a key broadcasts it, too.
        if was_known {
            return;
        }
        if self.history.len() == MOST_STATES {
            self.history.pop_front();
        }
        self.history.push_back((time, state));
    }

    fn matches(&self, words: &[String]) -> bool {
        if words.is_empty() {
            return true;
        }
        let message = self.last_message();
        let texts = [&self.name, &self.class, self.state_text(), &self.worker, &message].map(str::to_lowercase);
        words.iter().all(|word| texts.iter().any(|text| text.contains(word)))
    }

    fn since(&self) -> SystemTime {
        self.created.unwrap_or(self.first_seen)
    }
}

/// The processes by their pids.
#[derive(Debug)]
pub(super) struct Table {
    all: HashMap<Pid, Process>,
    /// Only these, if there are any.
    wanted: HashSet<Pid>,
    /// How many were dropped for others.
    pub left_out: u64,
}

impl Table {
    pub(super) fn of(pids: &[Pid], now: Now) -> Self {
        let all = pids.iter().take(MOST_PROCESSES).map(|pid| (pid.clone(), Process::new(pid.clone(), now))).collect();
        Table { all, wanted: pids.iter().cloned().collect(), left_out: 0 }
    }

    pub(super) fn is_wanted(&self, pid: &Pid) -> bool {
        self.wanted.is_empty() || self.wanted.contains(pid)
    }

    pub(super) fn get(&self, pid: &Pid) -> Option<&Process> {
        self.all.get(pid)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn count(&self, state: ProcessState) -> (usize, usize) {
        let of_state = self.all.values().filter(|process| process.state == Some(state));
        of_state.fold((0, 0), |(all, paused), process| (all + 1, paused + usize::from(process.is_paused)))
    }

    /// The process of this pid, which is made if it is not there. Too many make room: those that have ended go first, then those
    /// of which nothing was heard for the longest time.
    fn entry(&mut self, pid: &Pid, kept: &[Pid], now: Now) -> &mut Process {
        if self.all.len() >= MOST_PROCESSES && !self.all.contains_key(pid) {
            self.make_room(kept);
        }
        self.all.entry(pid.clone()).or_insert_with(|| Process::new(pid.clone(), now))
    }

    fn make_room(&mut self, kept: &[Pid]) {
        let mut all: Vec<(bool, Duration, Pid)> =
            self.all.values().map(|p| (!p.has_ended(), p.heard, p.pid.clone())).collect();
        all.sort_unstable();
        let dropped = all.into_iter().map(|(.., pid)| pid).filter(|pid| !kept.contains(pid)).take(DROPPED_AT_ONCE);
        for pid in dropped {
            self.all.remove(&pid);
            self.left_out += 1;
        }
    }

    pub(super) fn change(&mut self, change: &StateChange, kept: &[Pid], now: Now) {
        let process = self.entry(change.pid(), kept, now);
        process.heard = now.at;
        process.changed_at = Some(now.at);
        if change.from().is_none() {
            // A new one, which has the pid of one that was there before, if there was one.
            let history = std::mem::take(&mut process.history);
            *process = Process { history, changed_at: Some(now.at), ..Process::new(change.pid().clone(), now) };
            process.created = Some(now.time);
        }
        process.reach = Reach::Unknown;
        // What it has told before may have to do with the state before.
        if process.state != Some(change.to()) && !process.is_stored {
            process.message.clear();
        }
        if change.to() == ProcessState::Running {
            // A paused process makes no steps.
            process.is_paused = false;
        }
        process.enter(change.to(), now.time);
    }

    /// What the store has. A process that was heard of after the store was asked is newer than that.
    pub(super) fn merge(&mut self, page: Page, kept: &[Pid], now: Now) {
        let began = page.began;
        let mut there = HashSet::with_capacity(page.rows.len());
        for row in page.rows.into_iter().filter(|row| self.is_wanted(&row.pid)).collect::<Vec<_>>() {
            there.insert(row.pid.clone());
            let is_new = !self.all.contains_key(&row.pid);
            let process = self.entry(&row.pid, kept, now);
            let is_older = process.state.is_some() && process.heard >= began && !is_new;
            process.is_stored = true;
            process.class = clean(&row.class);
            process.created = Some(row.created);
            if is_older {
                continue;
            }
            if process.state != Some(row.state) {
                process.enter(row.state, row.changed);
                process.heard = now.at;
            }
            process.changed = Some(row.changed);
            process.is_paused = row.pause.is_some() && !row.state.is_terminal();
            process.message = clean(row.pause.flatten().or(row.status).as_deref().unwrap_or_default());
            process.exit_status = row.exit_status;
            process.worker = row.worker.as_deref().map(clean).unwrap_or_default();
        }
        // What has not ended and is not there any more: it has ended, or so many others came that it is not listed.
        let is_gone = |process: &Process| {
            process.is_stored && !process.has_ended() && process.heard < began && !there.contains(&process.pid)
        };
        let wanted = &self.wanted;
        self.all.retain(|pid, process| !is_gone(process) || kept.contains(pid) || wanted.contains(pid));
    }

    pub(super) fn status(&mut self, pid: &Pid, asked: Duration, answer: Result<StatusAnswer, Trouble>, now: Now) {
        // One that was dropped meanwhile does not come again by this.
        let Some(process) = self.all.get_mut(pid) else { return };
        process.is_asking = false;
        let answer = match answer {
            Ok(answer) => answer,
            Err(trouble) => {
                let reach = if trouble == Trouble::Unreachable { Reach::Unreachable } else { Reach::Silent };
                process.reach = reach;
                return;
            }
        };
        process.reach = Reach::Answers;
        process.created = process.created.or(answer.created);
        // Guards: an answer that was under way while the state changed.
        if process.changed_at.is_some_and(|changed| changed >= asked) {
            return;
        }
        if process.state != Some(answer.state) {
            let first = process.state.is_none();
            process.enter(answer.state, now.time);
            if first {
                // Since when is not known.
                process.changed = None;
            }
        }
        process.heard = now.at;
        process.is_paused = answer.is_paused && !answer.state.is_terminal();
        if !process.is_stored {
            process.message = clean(&answer.description);
        }
    }

    /// What an action has made of it.
    pub(super) fn acted(&mut self, pid: &Pid, action: Action, now: Now) {
        let Some(process) = self.all.get_mut(pid) else { return };
        process.heard = now.at;
        process.reach = Reach::Answers;
        match action {
            Action::Pause => process.is_paused = !process.has_ended(),
            Action::Play => process.is_paused = false,
            Action::Kill | Action::KillByForce if !process.has_ended() => {
                process.changed_at = Some(now.at);
                process.enter(ProcessState::Killed, now.time);
            }
            Action::Kill | Action::KillByForce => {}
        }
    }

    /// Nobody has it.
    pub(super) fn silent(&mut self, pid: &Pid, now: Now) {
        if let Some(process) = self.all.get_mut(pid) {
            process.reach = Reach::Unreachable;
            process.asked = Some(now.at);
        }
    }

    /// Changes are missing: whoever has answered has to be asked again.
    pub(super) fn doubt(&mut self) {
        for process in self.all.values_mut() {
            process.asked = None;
        }
    }

    /// Whether a process is to be asked for its status now, for its last answer is older than this. Then it is.
    pub(super) fn begin_status(&mut self, pid: &Pid, age: Duration, now: Now) -> bool {
        let Some(process) = self.all.get_mut(pid) else { return false };
        // The store knows it all, but what somebody wants to see who looks into one.
        let needs_none = age == IN_THE_LIST && process.is_stored;
        let age = if process.reach == Reach::Unreachable && age != AT_ONCE { LEFT_ALONE } else { age };
        let is_due = process.asked.is_none_or(|asked| now.at.saturating_sub(asked) >= age);
        if process.has_ended() || process.is_asking || needs_none || !is_due {
            return false;
        }
        process.is_asking = true;
        process.asked = Some(now.at);
        true
    }

    /// Those that have all words of the filter in them, and this one: what has not ended first, and then the newest.
    pub(super) fn order(&self, filter: &str, selected: Option<&Pid>) -> Vec<Pid> {
        let words: Vec<String> = filter.split_whitespace().map(str::to_lowercase).collect();
        let passes = |process: &&Process| process.matches(&words) || selected == Some(&process.pid);
        let mut shown: Vec<&Process> = self.all.values().filter(passes).collect();
        shown.sort_unstable_by(|left, right| {
            let ended = |process: &Process| if process.has_ended() { process.changed } else { None };
            let key = |process: &Process| (process.has_ended(), Reverse(ended(process)), Reverse(process.since()));
            key(left).cmp(&key(right)).then_with(|| right.pid.cmp(&left.pid))
        });
        shown.into_iter().map(|process| process.pid.clone()).collect()
    }
}
