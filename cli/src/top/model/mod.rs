//! What `homing top` shows, as a value: events in, requests out. It knows no terminal, no broker and no clock.
//!
//! All of it is bounded: [`MOST_PROCESSES`], [`MOST_EVENTS`], and the lengths of all texts. What comes from others is cleaned of
//! control characters here, on its way in.

mod control;
mod detail;
mod table;

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use homing::process::{Pid, ProcessState, StateChange};

pub(super) use control::{Action, Trouble};
pub(super) use detail::{Detail, Found, LogEntry, Moment};
pub(super) use table::{Process, Reach, Row};

use crate::output::shortened;
use crate::process::typed;
use control::{Confirm, Doing};
use table::Table;

/// Of how many processes something is kept.
pub(super) const MOST_PROCESSES: usize = 2000;

/// How many events are kept.
pub(super) const MOST_EVENTS: usize = 500;

/// How many queues are shown.
pub(super) const MOST_QUEUES: usize = 16;

/// How many characters of a text are kept.
const LONGEST_TEXT: usize = 300;

/// How many requests for a status are under way at once.
const MOST_ASKING: usize = 16;

/// The outcome of a key is shown for so long.
const SHOWN_FOR: Duration = Duration::from_secs(15);

/// When something comes: since the view began, and by the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub at: Duration,
    pub time: SystemTime,
}

/// A key that was pressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Backspace,
    /// Ctrl and this letter.
    Control(char),
    /// Text that was pasted: never commands.
    Paste(String),
}

/// What has happened to the connection.
#[derive(Clone, Debug)]
pub(super) enum Link {
    Lost(String),
    Reconnecting { attempt: u64 },
    Restored { away: Duration },
    Gap { away: Duration },
    Blocked(String),
    Unblocked,
}

/// What the store has.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    /// When it was asked.
    pub began: Duration,
    pub rows: Vec<Row>,
    /// There are more than these.
    pub is_cut: bool,
    /// How many cannot be read.
    pub unreadable: usize,
}

/// A queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Queue {
    pub name: String,
    pub ready: Option<u64>,
    pub unacknowledged: Option<u64>,
    pub consumers: Option<u64>,
    pub rates: Rates,
    /// There is none of this name.
    pub is_missing: bool,
    /// Why it is not known.
    pub trouble: Option<String>,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub published: Option<f64>,
    pub delivered: Option<f64>,
    pub acknowledged: Option<f64>,
    /// How fast the queue grows; below zero it shrinks.
    pub growth: Option<f64>,
}

/// What comes in.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Key(Key),
    Tick,
    Change(StateChange),
    /// So many changes were lost, for they came too fast.
    Lagged(u64),
    Link(Link),
    Stored(Page),
    StoreFailed(String),
    Queues(Vec<Queue>),
    Status {
        pid: Pid,
        asked: Duration,
        answer: Result<StatusAnswer, Trouble>,
    },
    Received(Pid, Action),
    /// What has become of an action: whether it is so now.
    Acted(Pid, Action, Result<Done, Trouble>),
    Detail(Pid, Found),
    /// What would have been written to standard error.
    Log(String),
}

/// How a process has answered an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Yes,
    /// It has ended.
    Refused,
}

/// The answer to a status request.
#[derive(Clone, Debug)]
pub(super) struct StatusAnswer {
    pub state: ProcessState,
    pub is_paused: bool,
    pub created: Option<SystemTime>,
    pub description: String,
    /// All of it, for a person.
    pub fields: Vec<(String, String)>,
}

/// What the model wants done. Each is answered by an event, but for the last two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Status(Pid),
    Act(Pid, Action),
    Detail(Pid),
    Suspend,
    Quit,
}

/// How much something matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Dim,
    Good,
    Warning,
    Bad,
}

/// A line of the events.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub time: SystemTime,
    pub tone: Tone,
    pub text: String,
}

/// The connection to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Up,
    Blocked(String),
    Lost { since: Duration, why: String, attempt: u64 },
}

/// What keys do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    List,
    /// A filter is typed; this was the one before.
    Filter {
        before: String,
    },
    Help,
}

/// What is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub broker: String,
    /// The prefix of the names on the broker.
    pub prefix: Option<String>,
    pub store: Option<String>,
    pub connection: Connection,
    pub now: Now,
    pub queues: Vec<Queue>,
    /// When they came.
    queues_at: Option<Duration>,
    pub events: VecDeque<Line>,
    pub missed: u64,
    pub unreadable: usize,
    pub is_cut: bool,
    pub store_trouble: Option<String>,
    pub filter: String,
    pub mode: Mode,
    pub confirm: Option<Confirm>,
    pub detail: Option<Detail>,
    pub outcome: Option<(Duration, Tone, String)>,
    table: Table,
    doing: Vec<Doing>,
    asking: usize,
    /// Whether the store has answered, and the queues.
    pub has_store: bool,
    pub has_queues: bool,
    /// The processes in their order, from the last time that a frame was made.
    order: Vec<Pid>,
    selected: Option<Pid>,
    /// The first row that is shown, and how many are.
    offset: usize,
    height: usize,
}

/// The one form in which texts of others are kept.
pub(super) fn clean(text: &str) -> String {
    shortened(text, LONGEST_TEXT)
}

impl Model {
    /// A view of these processes, or of all if there are none.
    pub(super) fn new(broker: &str, store: Option<&str>, pids: &[Pid], now: Now) -> Self {
        Model {
            broker: clean(broker),
            prefix: None,
            store: store.map(clean),
            connection: Connection::Up,
            now,
            queues: Vec::new(),
            queues_at: None,
            events: VecDeque::new(),
            missed: 0,
            unreadable: 0,
            is_cut: false,
            store_trouble: None,
            filter: String::new(),
            mode: Mode::List,
            confirm: None,
            detail: None,
            outcome: None,
            table: Table::of(pids, now),
            doing: Vec::new(),
            asking: 0,
            has_store: false,
            has_queues: false,
            order: Vec::new(),
            selected: None,
            offset: 0,
            height: 1,
        }
    }

    /// Takes in what has happened, and returns what is to be done about it.
    pub(super) fn update(&mut self, event: Event, now: Now) -> Vec<Ask> {
        self.now = now;
        match event {
            Event::Key(key) => return self.key(key),
            Event::Tick => return self.tick(),
            Event::Change(change) => self.change(&change),
            Event::Lagged(missed) => {
                self.missed = self.missed.saturating_add(missed);
                self.table.doubt();
                self.note(Tone::Warning, &format!("{missed} changes are missing: they came too fast"));
            }
            Event::Link(link) => self.link(link),
            Event::Stored(page) => {
                let failed_before = self.store_trouble.take().is_some();
                self.has_store = true;
                self.is_cut = page.is_cut;
                self.unreadable = page.unreadable;
                let kept = self.kept();
                self.table.merge(page, &kept, now);
                if failed_before {
                    self.note(Tone::Good, "the store can be read again");
                }
            }
            Event::StoreFailed(why) => {
                self.has_store = true;
                let why = clean(&why);
                // Each reason once: it is asked for again and again.
                if self.store_trouble.as_ref() != Some(&why) {
                    self.note(Tone::Bad, &format!("the store: {why}"));
                }
                self.store_trouble = Some(why);
            }
            Event::Queues(queues) => self.measure(queues),
            Event::Status { pid, asked, answer } => self.status(&pid, asked, answer),
            Event::Received(pid, action) => self.received(&pid, action),
            Event::Acted(pid, action, outcome) => return self.acted(&pid, action, outcome),
            Event::Detail(pid, found) => self.found(&pid, found),
            Event::Log(text) => self.note(Tone::Warning, &text),
        }
        Vec::new()
    }

    /// Adds a line to the events.
    fn note(&mut self, tone: Tone, text: &str) {
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Line { time: self.now.time, tone, text: clean(text) });
    }

    /// Shows what a key has done.
    fn show(&mut self, tone: Tone, text: &str) {
        self.outcome = Some((self.now.at, tone, clean(text)));
    }

    fn change(&mut self, change: &StateChange) {
        if !self.table.is_wanted(change.pid()) {
            return;
        }
        let name = clean(&typed(change.pid()));
        let from = change.from().map_or(String::new(), |from| format!("{from} -> "));
        let tone = match change.to() {
            ProcessState::Excepted | ProcessState::Killed => Tone::Bad,
            ProcessState::Finished => Tone::Good,
            _ => Tone::Plain,
        };
        self.note(tone, &format!("{name}  {from}{}", change.to()));
        let kept = self.kept();
        self.table.change(change, &kept, self.now);
    }

    /// The processes that stay whatever comes: those that the user looks at or waits for.
    fn kept(&self) -> Vec<Pid> {
        let looked_at = self.detail.as_ref().map(|detail| detail.pid.clone());
        let asked = self.confirm.as_ref().map(|confirm| confirm.pid.clone());
        let doing = self.doing.iter().map(|doing| doing.pid.clone());
        self.selected.iter().cloned().chain(looked_at).chain(asked).chain(doing).collect()
    }

    fn link(&mut self, link: Link) {
        match link {
            Link::Lost(why) => {
                let why = clean(&why);
                self.note(Tone::Bad, &format!("connection lost: {why}"));
                self.connection = Connection::Lost { since: self.now.at, why, attempt: 0 };
            }
            Link::Reconnecting { attempt } => match &mut self.connection {
                Connection::Lost { attempt: last, .. } => *last = attempt,
                other => {
                    *other = Connection::Lost { since: self.now.at, why: String::new(), attempt };
                }
            },
            Link::Restored { away } => {
                self.connection = Connection::Up;
                self.table.doubt();
                self.note(Tone::Good, &format!("connected again after {:.1} s", away.as_secs_f64()));
            }
            Link::Gap { away } => {
                self.table.doubt();
                let text = format!("changes of {:.1} s are missing, for there was no connection", away.as_secs_f64());
                self.note(Tone::Warning, &text);
            }
            Link::Blocked(reason) => {
                let reason = clean(&reason);
                self.note(Tone::Bad, &format!("the broker takes no messages: {reason}"));
                self.connection = Connection::Blocked(reason);
            }
            Link::Unblocked => {
                self.note(Tone::Good, "the broker takes messages again");
                self.connection = Connection::Up;
            }
        }
    }

    fn measure(&mut self, mut queues: Vec<Queue>) {
        queues.truncate(MOST_QUEUES);
        let seconds = self.queues_at.map(|at| self.now.at.saturating_sub(at).as_secs_f64()).filter(|time| *time > 0.1);
        for queue in &mut queues {
            queue.name = clean(&queue.name);
            queue.trouble = queue.trouble.as_deref().map(clean);
            let before = self.queues.iter().find(|before| before.name == queue.name).and_then(|before| before.ready);
            if let (Some(seconds), Some(before), Some(ready), None) = (seconds, before, queue.ready, queue.rates.growth)
            {
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                let change = ready as f64 - before as f64;
                queue.rates.growth = Some(change / seconds);
            }
        }
        self.queues = queues;
        self.queues_at = Some(self.now.at);
        self.has_queues = true;
    }

    fn status(&mut self, pid: &Pid, asked: Duration, answer: Result<StatusAnswer, Trouble>) {
        self.asking = self.asking.saturating_sub(1);
        if let (Some(detail), Ok(answer)) = (&mut self.detail, &answer)
            && detail.pid == *pid
        {
            detail.answered(answer, self.now);
        } else if let (Some(detail), Err(trouble)) = (&mut self.detail, &answer)
            && detail.pid == *pid
        {
            detail.not_answered(trouble);
        }
        self.table.status(pid, asked, answer, self.now);
    }

    fn found(&mut self, pid: &Pid, found: Found) {
        if let Some(detail) = &mut self.detail
            && detail.pid == *pid
        {
            detail.found(found);
        }
    }

    /// What is asked for every second.
    fn tick(&mut self) -> Vec<Ask> {
        if self.outcome.as_ref().is_some_and(|(at, ..)| self.now.at.saturating_sub(*at) > SHOWN_FOR) {
            self.outcome = None;
        }
        let mut asks = Vec::new();
        // Who has no connection gets no answer.
        let is_connected = !matches!(self.connection, Connection::Lost { .. });
        if let Some(detail) = &mut self.detail {
            if detail.is_due(self.now) {
                asks.push(Ask::Detail(detail.pid.clone()));
            }
            let pid = detail.pid.clone();
            if is_connected && self.asking < MOST_ASKING && self.table.begin_status(&pid, table::LOOKED_AT, self.now) {
                self.asking += 1;
                asks.push(Ask::Status(pid));
            }
        }
        if is_connected {
            let visible = self.order.iter().skip(self.offset).take(self.height);
            for pid in visible {
                if self.asking >= MOST_ASKING {
                    break;
                }
                if self.table.begin_status(pid, table::IN_THE_LIST, self.now) {
                    self.asking += 1;
                    asks.push(Ask::Status(pid.clone()));
                }
            }
        }
        asks
    }

    /// Puts the processes in order for a list of this height, and keeps the selected one in it.
    pub(super) fn settle(&mut self, height: usize, now: Now) {
        self.now = now;
        self.height = height.max(1);
        // Guards: a key that reaches another process than the one that was under the cursor, for that had changed its state and
        // the filter let it through no more. It stays where it is until the user selects another.
        let selected = self.selected.as_ref().filter(|_| !matches!(self.mode, Mode::Filter { .. }));
        self.order = self.table.order(&self.filter, selected);
        let at = self.selected.as_ref().and_then(|selected| self.order.iter().position(|pid| pid == selected));
        let at = at.unwrap_or_else(|| {
            self.selected = self.order.first().cloned();
            0
        });
        let last = self.order.len().saturating_sub(self.height);
        self.offset = self.offset.min(last).clamp((at + 1).saturating_sub(self.height), at);
    }

    /// The rows of the list, each with whether it is selected.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&Process, bool)> {
        let visible = self.order.iter().skip(self.offset).take(self.height);
        let is_selected = |pid: &Pid| self.selected.as_ref() == Some(pid);
        visible.filter_map(move |pid| Some((self.table.get(pid)?, is_selected(pid))))
    }

    pub(super) fn process(&self, pid: &Pid) -> Option<&Process> {
        self.table.get(pid)
    }

    /// All processes that are known, in their order as the filter lets them through.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Process> {
        self.order.iter().filter_map(|pid| self.table.get(pid))
    }

    /// How many are known.
    pub(super) fn known(&self) -> usize {
        self.table.len()
    }

    /// How many pass the filter.
    pub(super) fn shown(&self) -> usize {
        self.order.len()
    }

    /// How many were left out for others.
    pub(super) fn left_out(&self) -> u64 {
        self.table.left_out
    }

    /// How many there are of a state, and how many of these are paused.
    pub(super) fn count(&self, state: ProcessState) -> (usize, usize) {
        self.table.count(state)
    }

    /// How many actions are under way.
    pub(super) fn under_way(&self) -> usize {
        self.doing.len()
    }

    /// Whether no answer is waited for.
    pub(super) fn is_settled(&self) -> bool {
        self.asking == 0
    }
}
