//! What `task work` and `rpc serve` share: a command or an echo does the work, each piece of work is one line of the log, and
//! the end waits for what runs.
//!
//! All of it runs on one thread. So a piece of work that counts as ended has been handed to the library with its outcome, and a
//! close that follows cannot overtake it.

mod outcome;
pub(crate) mod processes;
pub(crate) mod serve;
mod start;
pub(crate) mod tasks;

use std::time::Duration;

use homing::Value;
use tokio::sync::watch;

use crate::args::Handler;
use crate::exec::{self, Ended, Finished};
use crate::failure::Failure;
use crate::stop::Stop;
use crate::{note, warning};

/// How long commands have to end when they are stopped: SIGTERM, SIGKILL, and some more.
const STOPPING: Duration = Duration::from_secs(10);

/// What does the work, and how much of it is under way.
#[derive(Debug)]
pub(crate) struct Crew {
    command: Option<String>,
    limit: Option<Duration>,
    state: watch::Sender<State>,
}

/// How the work stands.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// No new work is begun.
    closed: bool,
    /// Running commands are stopped.
    halted: bool,
    /// The subscription has ended: the broker hands nothing out any more.
    pub unsubscribed: bool,
    /// Pieces of work that have come to their end, for good.
    pub done: u64,
    /// Pieces that are being worked on.
    pub working: u64,
    /// The same, and those whose outcome the library does not have yet.
    pub running: usize,
    /// Why the command cannot be run at all.
    pub not_runnable: Option<String>,
}

impl State {
    /// Whether nothing more is to be begun, for so many are done or being worked on.
    fn is_full(&self, most: Option<u64>) -> bool {
        most.is_some_and(|most| self.done + self.working >= most)
    }
}

/// One piece of work that runs. Dropped when its outcome is handed to the library.
pub(crate) struct Shift<'a> {
    crew: &'a Crew,
    works: bool,
}

/// Whether a piece of work comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is done, or failed for good.
    No,
    /// It is tried again, or goes back.
    InTheQueue,
}

impl Shift<'_> {
    /// The work has ended, and its outcome is to be handed over. Where it was one of the last that were asked for, this waits
    /// until the subscription has ended.
    ///
    /// Guards: one task more than was asked for, which the broker would hand out for this one's acknowledgement.
    pub(crate) async fn ends(&mut self, kept: Kept, most: Option<u64>) {
        self.works = false;
        self.crew.state.send_modify(|state| {
            state.working -= 1;
            state.done += u64::from(kept == Kept::No);
        });
        let mut state = self.crew.watch();
        let _ = state.wait_for(|state| state.unsubscribed || !state.is_full(most)).await;
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        self.crew.state.send_modify(|state| {
            state.running -= 1;
            state.working -= u64::from(self.works);
        });
    }
}

impl Crew {
    /// # Errors
    /// When the command is known not to be runnable.
    pub(crate) async fn new(handler: Handler, limit: Option<Duration>) -> Result<Self, Failure> {
        if let Some(command) = &handler.exec {
            exec::check(command).await?;
        }
        Ok(Crew { command: handler.exec, limit, state: watch::Sender::new(State::default()) })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Begins a piece of work, unless no new work is to be begun. After the last of `most` no more is.
    pub(crate) fn begin(&self, most: Option<u64>) -> Option<Shift<'_>> {
        let mut shift = None;
        self.state.send_if_modified(|state| {
            if state.closed || state.is_full(most) {
                return false;
            }
            state.working += 1;
            state.running += 1;
            shift = Some(Shift { crew: self, works: true });
            true
        });
        shift
    }

    /// Lets no new work begin.
    pub(crate) fn close(&self) {
        self.state.send_modify(|state| state.closed = true);
    }

    /// The broker hands nothing out any more.
    pub(crate) fn unsubscribed(&self) {
        self.state.send_modify(|state| state.unsubscribed = true);
    }

    /// Stops what runs.
    pub(crate) fn halt(&self) {
        self.state.send_modify(|state| (state.closed, state.halted) = (true, true));
    }

    /// Does the work.
    pub(crate) async fn work(&self, body: &Value, environment: &[(&'static str, String)]) -> Ended {
        let Some(command) = &self.command else {
            return Ended::Done(Finished { out: body.to_json_text().into_bytes(), err: Vec::new() });
        };
        let mut state = self.watch();
        let halted = async move {
            // The sender lives as long as the crew.
            let _ = state.wait_for(|state| state.halted).await;
        };
        let ended = exec::run(command, body, environment, self.limit, halted).await;
        if let Ended::NotRunnable(why) = &ended {
            self.state.send_modify(|state| {
                state.closed = true;
                state.not_runnable.get_or_insert_with(|| why.clone());
            });
        }
        ended
    }

    /// Whether the work is an echo, whose answer is the body itself.
    pub(crate) fn is_echo(&self) -> bool {
        self.command.is_none()
    }

    /// Waits until nothing runs, at most this long. False when something does.
    async fn idle(&self, time: Duration) -> bool {
        let mut state = self.watch();
        let idle = state.wait_for(|state| state.running == 0);
        matches!(tokio::time::timeout(time, idle).await, Ok(Ok(_)))
    }

    /// After a signal: what runs may go on for so long, and is stopped then.
    pub(crate) async fn drain(&self, time: Duration) {
        self.close();
        let running = self.state.borrow().running;
        if running > 0 && !time.is_zero() {
            let time = humantime::format_duration(time);
            note!("ending: what runs ({running}) may go on for {time}; a second signal stops them at once");
        }
        if !self.idle(time).await {
            self.stop().await;
        }
    }

    /// Stops what runs, and waits for its end.
    pub(crate) async fn stop(&self) {
        self.halt();
        if !self.idle(STOPPING).await {
            warning!("a command did not end and is left behind");
        }
    }

    /// Why the command cannot be run, as the end of this program.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        match &self.state.borrow().not_runnable {
            Some(why) => Err(Failure::Other(format!("the command of --exec cannot be run: {why}"))),
            None => Ok(()),
        }
    }
}

/// Why a worker ends.
pub(crate) enum End {
    /// A signal came.
    Signal,
    /// It has done what it was to do.
    Enough,
    /// Its command cannot be run.
    NotRunnable,
    /// Its connection is lost for good.
    Lost(Failure),
}

/// Resolves when there is enough, or the command cannot be run.
pub(crate) async fn enough(state: &mut watch::Receiver<State>, most: Option<u64>) -> End {
    let reached = |state: &State| most.is_some_and(|most| state.done >= most);
    match state.wait_for(|state| state.not_runnable.is_some() || reached(state)).await {
        Ok(state) if state.not_runnable.is_some() => End::NotRunnable,
        _ => End::Enough,
    }
}

/// Resolves at a signal.
pub(crate) async fn signalled(stop: &mut Stop) -> End {
    stop.wait().await;
    End::Signal
}
