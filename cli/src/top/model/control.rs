//! What keys do, and what becomes of it.

use std::time::Duration;

use homing::process::Pid;

use super::{Ask, Detail, Done, Key, MOST_ASKING, Mode, Model, Tone, clean, table};
use crate::process::typed;

/// How many actions are under way at once.
const MOST_DOING: usize = 100;

/// The longest filter.
const LONGEST_FILTER: usize = 100;

/// What a process is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) enum Action {
    Pause,
    Play,
    Kill,
    KillByForce,
}

impl Action {
    /// Before a pid.
    fn doing(self) -> &'static str {
        match self {
            Action::Pause => "pausing",
            Action::Play => "playing",
            Action::Kill => "killing",
            Action::KillByForce => "killing by force",
        }
    }

    /// After a pid.
    fn done(self) -> &'static str {
        match self {
            Action::Pause => "paused",
            Action::Play => "plays",
            Action::Kill | Action::KillByForce => "killed",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Play => "play",
            Action::Kill | Action::KillByForce => "kill",
        }
    }
}

/// Why a request has come to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::top) enum Trouble {
    /// Nobody has the process.
    Unreachable,
    /// How far it has come.
    TimedOut(String),
    Failed(String),
}

/// An action that is under way.
#[derive(Clone, Debug)]
pub(super) struct Doing {
    pub pid: Pid,
    action: Action,
}

/// A question whether to kill.
#[derive(Clone, Debug)]
pub(in crate::top) struct Confirm {
    pub pid: Pid,
    pub name: String,
}

impl Model {
    pub(super) fn key(&mut self, key: Key) -> Vec<Ask> {
        match key {
            Key::Control('c') => return vec![Ask::Quit],
            Key::Control('z') => return vec![Ask::Suspend],
            _ => {}
        }
        if let Some(confirm) = self.confirm.take() {
            return self.confirmed(confirm, &key);
        }
        match &mut self.mode {
            Mode::Filter { .. } => {
                self.type_filter(key);
                Vec::new()
            }
            Mode::Help => {
                self.mode = Mode::List;
                Vec::new()
            }
            Mode::List => self.command(&key),
        }
    }

    fn type_filter(&mut self, key: Key) {
        let room = LONGEST_FILTER.saturating_sub(self.filter.chars().count());
        match key {
            Key::Char(c) if !c.is_control() => self.filter.extend(Some(c).into_iter().take(room)),
            Key::Paste(text) => self.filter.extend(clean(&text).chars().take(room)),
            Key::Backspace => {
                self.filter.pop();
            }
            Key::Control('u') => self.filter.clear(),
            Key::Enter => {
                // Guards: a key that comes before the next frame, and is about a process that the filter does not let through.
                self.settle(self.height, self.now);
                self.mode = Mode::List;
            }
            Key::Escape => {
                if let Mode::Filter { before } = std::mem::replace(&mut self.mode, Mode::List) {
                    self.filter = before;
                }
            }
            Key::Up | Key::Down | Key::PageUp | Key::PageDown => self.go(&key),
            _ => {}
        }
    }

    fn command(&mut self, key: &Key) -> Vec<Ask> {
        match key {
            Key::Char('q') => return vec![Ask::Quit],
            Key::Char('?') => self.mode = Mode::Help,
            Key::Escape => {
                if self.detail.take().is_none() {
                    self.filter.clear();
                }
            }
            Key::Char('p') => return self.act_on_selected(Action::Pause),
            Key::Char('l' | ' ') => return self.act_on_selected(Action::Play),
            Key::Char('K') => match self.subject() {
                Some(pid) => {
                    let name = clean(&typed(&pid));
                    self.confirm = Some(Confirm { pid, name });
                }
                None => self.show(Tone::Warning, "there is no process to kill"),
            },
            Key::Char('/') if self.detail.is_none() => {
                self.mode = Mode::Filter { before: std::mem::take(&mut self.filter) };
            }
            Key::Enter if self.detail.is_none() => return self.look_into(),
            Key::Char('k') => self.go(&Key::Up),
            Key::Char('j') => self.go(&Key::Down),
            Key::Char('g') => self.go(&Key::Home),
            Key::Char('G') => self.go(&Key::End),
            _ => self.go(key),
        }
        Vec::new()
    }

    /// The process that keys are about.
    fn subject(&self) -> Option<Pid> {
        match &self.detail {
            Some(detail) => Some(detail.pid.clone()),
            None => self.selected.clone(),
        }
    }

    fn go(&mut self, key: &Key) {
        if let Some(detail) = &mut self.detail {
            detail.go(key, self.height);
            return;
        }
        let Some(last) = self.order.len().checked_sub(1) else { return };
        let at = self.selected.as_ref().and_then(|selected| self.order.iter().position(|pid| pid == selected));
        let at = at.unwrap_or(0);
        let to = match key {
            Key::Up => at.saturating_sub(1),
            Key::Down => at + 1,
            Key::PageUp => at.saturating_sub(self.height),
            Key::PageDown => at + self.height,
            Key::Home => 0,
            Key::End => last,
            _ => return,
        };
        self.selected = self.order.get(to.min(last)).cloned();
    }

    fn look_into(&mut self) -> Vec<Ask> {
        let Some(pid) = self.selected.clone() else { return Vec::new() };
        self.detail = Some(Detail::new(pid.clone(), self.store.is_some()));
        let mut asks = Vec::new();
        if let Some(detail) = &mut self.detail
            && detail.is_due(self.now)
        {
            asks.push(Ask::Detail(pid.clone()));
        }
        if self.asking < MOST_ASKING && self.table.begin_status(&pid, table::AT_ONCE, self.now) {
            self.asking += 1;
            asks.push(Ask::Status(pid));
        }
        asks
    }

    fn confirmed(&mut self, confirm: Confirm, key: &Key) -> Vec<Ask> {
        match key {
            Key::Char('y') => self.act(confirm.pid, Action::Kill),
            Key::Char('f') => self.act(confirm.pid, Action::KillByForce),
            _ => {
                self.show(Tone::Dim, &format!("{} is not killed", confirm.name));
                Vec::new()
            }
        }
    }

    fn act_on_selected(&mut self, action: Action) -> Vec<Ask> {
        match self.subject() {
            Some(pid) => self.act(pid, action),
            None => {
                self.show(Tone::Warning, &format!("there is no process to {}", action.verb()));
                Vec::new()
            }
        }
    }

    fn act(&mut self, pid: Pid, action: Action) -> Vec<Ask> {
        let name = clean(&typed(&pid));
        if self.doing.iter().any(|doing| doing.pid == pid && doing.action == action) {
            self.show(Tone::Dim, &format!("{} {name} already, no answer yet", action.doing()));
            return Vec::new();
        }
        if self.doing.len() >= MOST_DOING {
            self.show(Tone::Warning, &format!("{MOST_DOING} requests wait for answers; {name} gets none now"));
            return Vec::new();
        }
        self.show(Tone::Plain, &format!("{} {name} …", action.doing()));
        self.doing.push(Doing { pid: pid.clone(), action });
        vec![Ask::Act(pid, action)]
    }

    pub(super) fn received(&mut self, pid: &Pid, action: Action) {
        let name = clean(&typed(pid));
        let until = match action {
            Action::Pause => "it pauses when its step has ended",
            Action::Play => "it answers when it plays",
            Action::Kill => "it ends when its step has ended; K and f kills by force",
            Action::KillByForce => "it answers when it has ended",
        };
        self.show(Tone::Plain, &format!("{} {name}: received, {until}", action.doing()));
    }

    pub(super) fn acted(&mut self, pid: &Pid, action: Action, outcome: Result<Done, Trouble>) -> Vec<Ask> {
        self.doing.retain(|doing| !(doing.pid == *pid && doing.action == action));
        let name = clean(&typed(pid));
        let (tone, text) = match outcome {
            Ok(Done::Yes) => {
                self.table.acted(pid, action, self.now);
                (Tone::Good, format!("{name} {}", action.done()))
            }
            Ok(Done::Refused) => {
                let why = if action == Action::Pause { "it has ended, or is being killed" } else { "it has ended" };
                (Tone::Warning, format!("{name} refused to {}: {why}", action.verb()))
            }
            Err(Trouble::Unreachable) => {
                self.table.silent(pid, self.now);
                (Tone::Bad, format!("{name} is unreachable: no worker has it (not {})", action.done()))
            }
            Err(Trouble::TimedOut(how_far)) => (Tone::Bad, format!("{} {name} timed out: {how_far}", action.doing())),
            Err(Trouble::Failed(why)) => (Tone::Bad, format!("{} {name} failed: {why}", action.doing())),
        };
        self.show(tone, &text);
        self.note(tone, &text);
        // What it is now, where the store does not tell.
        if self.asking < MOST_ASKING && self.table.begin_status(pid, Duration::ZERO, self.now) {
            self.asking += 1;
            return vec![Ask::Status(pid.clone())];
        }
        Vec::new()
    }
}
