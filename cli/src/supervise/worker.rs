//! One worker as its supervisor keeps it: a value that decides. Events and the time go in, actions come out; no process, clock
//! or file is touched here.
//!
//! What holds at any time:
//! - at most one operating-system process of a worker lives;
//! - only the process that lives is asked to end, or killed;
//! - a process that was asked to end is killed after a bounded time;
//! - a worker that keeps dying is started again after pauses that grow up to [`LONGEST_PAUSE`];
//! - a worker that was removed is never started again.

use std::fmt;
use std::time::Duration;

/// The time since the supervisor was started.
pub(super) type Moment = Duration;

/// The pause before the second start in a row; it doubles from there.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two starts.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A worker that has been up for so long has recovered from its earlier deaths.
pub(super) const STABLE: Duration = Duration::from_secs(30);

/// Which worker it is, counted from 1. The lowest free number is given to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Number(pub u16);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of its processes it is, counted from 1. What an earlier one still reports is not taken for the present one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Incarnation(pub u64);

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    Code(i32),
    Signal(i32),
    /// The system could not start it, or lost track of it.
    NotStarted(String),
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub how: How,
    /// The last line that it wrote to standard error.
    pub last_line: Option<String>,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::Code(code) => write!(f, "exit code {code}"),
            How::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "ended by {name}"),
                Err(_) => write!(f, "ended by signal {signal}"),
            },
            How::NotStarted(why) => write!(f, "cannot be started: {why}"),
        }
    }
}

/// How a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its process was started, and has not reported that it takes work.
    Starting,
    /// Its process takes work.
    Running,
    /// Its process was asked to end.
    Stopping {
        next: Next,
        /// When it is killed; `None` once it was.
        kill_at: Option<Moment>,
    },
    /// It has no process, and gets one at this time.
    BackingOff { until: Moment },
    /// It has no process and gets none.
    Removed,
}

/// What follows when a process that was asked to end has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Start,
    Nothing,
}

impl State {
    /// The word for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping { .. } => "stopping",
            State::BackingOff { .. } => "backing off",
            State::Removed => "removed",
        }
    }
}

/// What happens to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A process takes work.
    Up(Incarnation),
    /// A process has ended, or could not be started.
    Ended(Incarnation, End),
    /// Nothing but time has passed.
    TimePassed,
    /// It is to get a new process.
    Restart,
    /// It is to end, and not to start again.
    Remove,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A process is to be started, as this incarnation.
    Start(Incarnation),
    /// This process is to be asked to end.
    Terminate(Incarnation),
    /// This process is to be killed (SIGKILL).
    Kill(Incarnation),
}

#[derive(Debug)]
pub(super) struct Worker {
    state: State,
    incarnation: Incarnation,
    /// When its present process was started.
    started: Moment,
    /// When its state began.
    since: Moment,
    /// Deaths from which it has not recovered.
    deaths: u32,
    last_end: Option<End>,
    /// How long a process may take to end.
    grace: Duration,
}

impl Worker {
    /// A new worker, and the start of its first process.
    pub(super) fn new(grace: Duration, now: Moment) -> (Self, Action) {
        let incarnation = Incarnation(1);
        let worker =
            Worker { state: State::Starting, incarnation, started: now, since: now, deaths: 0, last_end: None, grace };
        (worker, Action::Start(incarnation))
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// The process that lives, or is being started.
    pub(super) fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub(super) fn has_process(&self) -> bool {
        matches!(self.state, State::Starting | State::Running | State::Stopping { .. })
    }

    /// When its process was started; `None` if it has none.
    pub(super) fn started(&self) -> Option<Moment> {
        self.has_process().then_some(self.started)
    }

    /// How many times it was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.incarnation.0 - 1
    }

    /// Deaths in a row, without having been up for [`STABLE`] in between.
    pub(super) fn deaths(&self) -> u32 {
        self.deaths
    }

    pub(super) fn last_end(&self) -> Option<&End> {
        self.last_end.as_ref()
    }

    /// When the passing of time changes something.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self.state {
            State::Stopping { kill_at, .. } => kill_at,
            State::BackingOff { until } => Some(until),
            State::Starting | State::Running | State::Removed => None,
        }
    }

    /// What an event leads to.
    pub(super) fn handle(&mut self, event: Event, now: Moment) -> Option<Action> {
        match (self.state, event) {
            (State::Starting, Event::Up(of)) if of == self.incarnation => {
                self.enter(State::Running, now);
                None
            }
            (State::Starting | State::Running, Event::Ended(of, end)) if of == self.incarnation => {
                let was_up = self.state == State::Running;
                if was_up && now.saturating_sub(self.since) >= STABLE {
                    self.deaths = 0;
                }
                self.deaths = self.deaths.saturating_add(1);
                self.last_end = Some(end);
                let pause = pause(self.deaths, was_up);
                if pause.is_zero() {
                    return Some(self.start(now));
                }
                self.enter(State::BackingOff { until: now + pause }, now);
                None
            }
            (State::Stopping { next, .. }, Event::Ended(of, end)) if of == self.incarnation => {
                self.last_end = Some(end);
                match next {
                    Next::Start => Some(self.start(now)),
                    Next::Nothing => {
                        self.enter(State::Removed, now);
                        None
                    }
                }
            }
            (State::Starting | State::Running, Event::Restart) => Some(self.stop(Next::Start, now)),
            (State::Starting | State::Running, Event::Remove) => Some(self.stop(Next::Nothing, now)),
            (State::Stopping { kill_at, .. }, Event::Remove) => {
                self.state = State::Stopping { next: Next::Nothing, kill_at };
                None
            }
            (State::Stopping { next, kill_at: Some(at) }, Event::TimePassed) if at <= now => {
                self.state = State::Stopping { next, kill_at: None };
                Some(Action::Kill(self.incarnation))
            }
            (State::BackingOff { until }, Event::TimePassed) if until <= now => Some(self.start(now)),
            (State::BackingOff { .. }, Event::Restart) => Some(self.start(now)),
            (State::BackingOff { .. }, Event::Remove) => {
                self.enter(State::Removed, now);
                None
            }
            // An earlier process; what is under way or over already.
            (_, Event::Up(_) | Event::Ended(..) | Event::TimePassed | Event::Restart | Event::Remove) => None,
        }
    }

    fn enter(&mut self, state: State, now: Moment) {
        (self.state, self.since) = (state, now);
    }

    fn start(&mut self, now: Moment) -> Action {
        self.incarnation.0 += 1;
        self.started = now;
        self.enter(State::Starting, now);
        Action::Start(self.incarnation)
    }

    fn stop(&mut self, next: Next, now: Moment) -> Action {
        self.enter(State::Stopping { next, kill_at: Some(now + self.grace) }, now);
        Action::Terminate(self.incarnation)
    }
}

/// How long a worker stays without a process after so many deaths in a row. One that was up is started again at once the first
/// time; one that never came up would most likely fail the same way.
fn pause(deaths: u32, was_up: bool) -> Duration {
    if was_up && deaths <= 1 {
        return Duration::ZERO;
    }
    let doublings = if was_up { deaths - 2 } else { deaths.saturating_sub(1) };
    2_u32.checked_pow(doublings).map_or(LONGEST_PAUSE, |factor| FIRST_PAUSE.saturating_mul(factor)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(20);

    fn died() -> End {
        End { how: How::Signal(9), last_line: None }
    }

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    /// A worker in the state of this name, and the number of its incarnation.
    fn worker(state: &str) -> Worker {
        let (mut worker, _) = Worker::new(GRACE, at(0));
        let events = match state {
            "starting" => vec![],
            "running" => vec![Event::Up(Incarnation(1))],
            "stopping to start" => vec![Event::Up(Incarnation(1)), Event::Restart],
            "stopping to end" => vec![Event::Up(Incarnation(1)), Event::Remove],
            "backing off" => vec![Event::Ended(Incarnation(1), died())],
            "removed" => vec![Event::Remove, Event::Ended(Incarnation(1), died())],
            _ => panic!("{state}"),
        };
        for event in events {
            worker.handle(event, at(0));
        }
        worker
    }

    fn name(worker: &Worker) -> &'static str {
        match worker.state() {
            State::Stopping { next: Next::Start, .. } => "stopping to start",
            State::Stopping { next: Next::Nothing, .. } => "stopping to end",
            state => state.name(),
        }
    }

    /// Every event in every state: what the worker is then, and what is to be done. Times: 0 before every deadline, 20 after.
    #[test]
    fn the_table_of_states_and_events() {
        const START: Option<Action> = Some(Action::Start(Incarnation(2)));
        const TERMINATE: Option<Action> = Some(Action::Terminate(Incarnation(1)));
        const KILL: Option<Action> = Some(Action::Kill(Incarnation(1)));
        #[rustfmt::skip]
        let table = [
            // state, event, when, next state, action
            ("starting",          "up",      0,  "running",           None),
            ("starting",          "ended",   0,  "backing off",       None),
            ("starting",          "time",    20, "starting",          None),
            ("starting",          "restart", 0,  "stopping to start", TERMINATE),
            ("starting",          "remove",  0,  "stopping to end",   TERMINATE),
            ("running",           "up",      0,  "running",           None),
            ("running",           "ended",   0,  "starting",          START),
            ("running",           "time",    20, "running",           None),
            ("running",           "restart", 0,  "stopping to start", TERMINATE),
            ("running",           "remove",  0,  "stopping to end",   TERMINATE),
            ("stopping to start", "up",      0,  "stopping to start", None),
            ("stopping to start", "ended",   0,  "starting",          START),
            ("stopping to start", "time",    0,  "stopping to start", None),
            ("stopping to start", "time",    20, "stopping to start", KILL),
            ("stopping to start", "restart", 0,  "stopping to start", None),
            ("stopping to start", "remove",  0,  "stopping to end",   None),
            ("stopping to end",   "up",      0,  "stopping to end",   None),
            ("stopping to end",   "ended",   0,  "removed",           None),
            ("stopping to end",   "time",    0,  "stopping to end",   None),
            ("stopping to end",   "time",    20, "stopping to end",   KILL),
            ("stopping to end",   "restart", 0,  "stopping to end",   None),
            ("stopping to end",   "remove",  0,  "stopping to end",   None),
            ("backing off",       "up",      0,  "backing off",       None),
            ("backing off",       "ended",   0,  "backing off",       None),
            ("backing off",       "time",    0,  "backing off",       None),
            ("backing off",       "time",    20, "starting",          START),
            ("backing off",       "restart", 0,  "starting",          START),
            ("backing off",       "remove",  0,  "removed",           None),
            ("removed",           "up",      0,  "removed",           None),
            ("removed",           "ended",   0,  "removed",           None),
            ("removed",           "time",    20, "removed",           None),
            ("removed",           "restart", 0,  "removed",           None),
            ("removed",           "remove",  0,  "removed",           None),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for (state, event, when, next, action) in table {
            seen.insert((state, event));
            let mut one = worker(state);
            assert_eq!(name(&one), state);
            let happens = match event {
                "up" => Event::Up(Incarnation(1)),
                "ended" => Event::Ended(Incarnation(1), died()),
                "time" => Event::TimePassed,
                "restart" => Event::Restart,
                _ => Event::Remove,
            };
            let done = one.handle(happens, at(when));
            assert_eq!((name(&one), done), (next, action), "{state}, {event} at {when}");
        }
        assert_eq!(seen.len(), 6 * 5, "every event in every state");
    }

    #[test]
    fn what_an_earlier_process_reports_changes_nothing() {
        let mut one = worker("running");
        assert_eq!(one.handle(Event::Ended(Incarnation(1), died()), at(1)), Some(Action::Start(Incarnation(2))));
        for late in [Event::Up(Incarnation(1)), Event::Ended(Incarnation(1), died())] {
            assert_eq!(one.handle(late.clone(), at(2)), None);
            assert_eq!(one.state(), State::Starting, "{late:?}");
        }
        one.handle(Event::Remove, at(3));
        one.handle(Event::Ended(Incarnation(1), died()), at(3));
        assert!(one.has_process(), "the second lives");
    }

    /// The pauses between the ends and the next starts of a worker that lives so long each time.
    fn pauses(lives: Duration, comes_up: bool) -> Vec<u64> {
        let (mut worker, _) = Worker::new(GRACE, at(0));
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let incarnation = worker.incarnation();
            if comes_up {
                worker.handle(Event::Up(incarnation), now);
            }
            now += lives;
            let done = worker.handle(Event::Ended(incarnation, died()), now);
            let pause = match worker.deadline() {
                Some(until) => until - now,
                None => {
                    assert!(matches!(done, Some(Action::Start(_))));
                    Duration::ZERO
                }
            };
            pauses.push(pause.as_secs());
            now += pause;
            worker.handle(Event::TimePassed, now);
            assert_eq!(worker.state(), State::Starting);
        }
        pauses
    }

    #[test]
    fn the_first_death_costs_nothing_and_later_ones_grow_up_to_a_bound() {
        assert_eq!(pauses(at(1), true), [0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(pauses(at(1), false), [1, 2, 4, 8, 16, 30, 30, 30, 30], "it never came up");
        assert_eq!(pauses(STABLE, true), [0; 9], "it had recovered each time");
        assert_eq!(pause(u32::MAX, true), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, false), LONGEST_PAUSE);
    }

    #[test]
    fn a_process_that_does_not_end_is_killed_once_after_its_grace() {
        let mut one = worker("stopping to start");
        // That it is to be removed now does not give it more time.
        assert_eq!(one.handle(Event::Remove, at(15)), None);
        assert_eq!(one.deadline(), Some(GRACE));
        assert_eq!(one.handle(Event::TimePassed, GRACE), Some(Action::Kill(Incarnation(1))));
        assert_eq!((one.handle(Event::TimePassed, GRACE * 2), one.deadline()), (None, None));
        assert_eq!(one.handle(Event::Ended(Incarnation(1), died()), GRACE * 2), None);
        assert_eq!(one.state(), State::Removed);
    }

    /// A world in which actions become processes, and anything may happen.
    #[test]
    fn random_runs_keep_one_process_and_come_to_an_end() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut worker, first) = Worker::new(GRACE, at(0));
            let mut now = at(0);
            // The process that lives, and whether it was signalled.
            let mut alive: Option<(Incarnation, bool)> = None;
            let mut highest = 0;
            let mut obey = |action: Option<Action>, alive: &mut Option<(Incarnation, bool)>| match action {
                Some(Action::Start(incarnation)) => {
                    assert!(alive.is_none(), "seed {seed}: two processes of one worker");
                    assert_eq!(incarnation.0, highest + 1, "seed {seed}");
                    highest += 1;
                    *alive = Some((incarnation, false));
                }
                Some(Action::Terminate(of) | Action::Kill(of)) => {
                    let (incarnation, signalled) = alive.as_mut().unwrap_or_else(|| panic!("seed {seed}: nobody"));
                    assert_eq!(of, *incarnation, "seed {seed}");
                    *signalled = true;
                }
                None => {}
            };
            obey(Some(first), &mut alive);
            for _ in 0..200 {
                now += Duration::from_millis(random.u64(0..40_000));
                let stale = Incarnation(random.u64(0..=worker.incarnation().0));
                let event = match random.u8(0..12) {
                    0..=2 => Event::TimePassed,
                    3..=4 => alive.map_or(Event::TimePassed, |(of, _)| Event::Up(of)),
                    5..=6 => match alive.take() {
                        Some((of, _)) => Event::Ended(of, died()),
                        None => Event::TimePassed,
                    },
                    7 if alive.is_none_or(|(of, _)| of != stale) => Event::Ended(stale, died()),
                    8 if alive.is_none_or(|(of, _)| of != stale) => Event::Up(stale),
                    9..=10 => Event::Restart,
                    11 if random.u8(0..8) == 0 => Event::Remove,
                    _ => Event::TimePassed,
                };
                let was_removed = worker.state() == State::Removed;
                let timed = event == Event::TimePassed;
                let action = worker.handle(event, now);
                obey(action, &mut alive);
                assert!(!was_removed || (action.is_none() && worker.state() == State::Removed), "seed {seed}");
                assert_eq!(worker.has_process(), alive.is_some(), "seed {seed}: {:?}", worker.state());
                if let State::Stopping { kill_at, .. } = worker.state() {
                    assert!(alive.is_some_and(|(_, signalled)| signalled), "seed {seed}: nobody has asked it to end");
                    assert!(kill_at.is_none_or(|at| at <= now + GRACE), "seed {seed}");
                }
                if let Some(deadline) = worker.deadline() {
                    assert!(!timed || deadline > now, "seed {seed}: it stands still at its deadline");
                    assert!(deadline <= now + GRACE.max(LONGEST_PAUSE), "seed {seed}");
                }
            }
            // Whatever has happened: it can be removed, in bounded time.
            obey(worker.handle(Event::Remove, now), &mut alive);
            if alive.is_some() {
                obey(worker.handle(Event::TimePassed, now + GRACE), &mut alive);
                assert!(alive.is_some_and(|(_, signalled)| signalled), "seed {seed}");
                let (of, _) = alive.take().unwrap();
                obey(worker.handle(Event::Ended(of, died()), now + GRACE), &mut alive);
            }
            assert_eq!((worker.state(), alive), (State::Removed, None), "seed {seed}");
        }
    }
}
