//! What a step has in hand: its context, and the link over which it and its process notify each other.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::home::lock::Mutex;
use tokio::sync::Notify;

use super::machine::Wish;
use super::store::{ChildKey, Inputs, LeaseId, LogLine, LogSource, NewProcess, Outcome, Saved};
use super::tools::Tools;
use super::{Continue, Pid, StateChange};
use crate::{Communicator, Failure, HandlerResult, Value};

/// How many characters of a line of status are kept.
const MOST_STATUS: usize = 2_000;

/// What somebody wants of a step that runs. See [`StepContext::interruption`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interruption {
    /// The process is to be paused. A step that can stand still does so and calls [`StepContext::paused`]; any other goes on,
    /// and the process is paused when it has ended.
    Pause {
        /// Why.
        message: Option<String>,
    },
    /// The process is to be killed. The step should end soon; what it returns does not count.
    Kill {
        /// Why.
        message: Option<String>,
    },
}

/// How a pause inside a step has ended. See [`StepContext::paused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resumed {
    /// The process was played: the step goes on.
    Play,
    /// The process is to be killed: the step should end soon.
    Kill,
}

/// Between a process and its step.
#[derive(Default)]
pub(super) struct Link {
    state: Mutex<LinkState>,
    /// Wakes the step.
    to_step: Notify,
}

struct LinkState {
    wish: Wish,
    /// Counts the wishes.
    number: u64,
    stand: Stand,
    status: Option<String>,
}

/// Whether the step stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Runs,
    /// It has reported that it does; the process has not taken note.
    Reported,
    Still,
}

impl Default for LinkState {
    fn default() -> Self {
        LinkState { wish: Wish::Nothing, number: 0, stand: Stand::Runs, status: None }
    }
}

/// What a step has reported.
pub(super) struct Reports {
    pub(super) status: Option<String>,
    pub(super) stands_still: bool,
}

impl Link {
    /// Notifies the step of what is wanted of it.
    pub(super) fn want(&self, wish: Wish) {
        let mut state = self.state.lock();
        // Guards: a report of a step that stands still for a pause that is no longer wanted. It counts no more.
        if !matches!(wish, Wish::Pause(_)) {
            state.stand = Stand::Runs;
        }
        state.wish = wish;
        state.number += 1;
        drop(state);
        self.to_step.notify_waiters();
    }

    /// Lets a step go on that stands still.
    pub(super) fn go_on(&self) {
        self.want(Wish::Nothing);
    }

    /// Takes what the step has reported since the last time.
    pub(super) fn take_reports(&self) -> Reports {
        let mut state = self.state.lock();
        let stands_still = state.stand == Stand::Reported;
        if stands_still {
            state.stand = Stand::Still;
        }
        Reports { status: state.status.take(), stands_still }
    }
}

/// The log of one process, as long as this worker has it. Made by [`StepContext::process_log`]. Cheap to clone.
#[derive(Clone)]
pub struct ProcessLog {
    tools: Arc<Tools>,
    lease: LeaseId,
}

impl ProcessLog {
    /// Adds lines, and waits until they are stored: as often as it takes.
    ///
    /// # Errors
    /// `Cancelled` when another worker has the process by now.
    ///
    /// # Cancel safety
    /// Dropped, the lines are stored or not, as a whole.
    pub async fn add(&self, lines: Vec<LogLine>) -> HandlerResult<()> {
        let (lease, what) = (&self.lease, "the log of a process cannot be stored");
        match self.tools.persistently(what, |store| store.append_log(lease.clone(), lines.clone())).await? {
            Saved::Stored => Ok(()),
            Saved::LeaseLost => Err(Failure::Cancelled.into()),
        }
    }
}

impl std::fmt::Debug for ProcessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessLog").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// What a step has in hand.
pub struct StepContext {
    pub(super) link: Arc<Link>,
    /// Wakes the process.
    pub(super) to_process: Arc<dyn Fn() + Send + Sync>,
    pub(super) tools: Arc<Tools>,
    pub(super) pid: Pid,
    pub(super) lease: LeaseId,
    pub(super) step: u64,
    pub(super) brought: Value,
    pub(super) children: u32,
    /// The number of the last wish that was taken note of.
    pub(super) seen: u64,
}

impl StepContext {
    /// The process.
    #[must_use]
    pub fn pid(&self) -> &Pid {
        &self.pid
    }

    /// The number of this step, from 0. A step that runs again has the same number.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What the wait before this step brought: the value that the process was resumed with. Null after any other.
    #[must_use]
    pub fn brought(&self) -> &Value {
        &self.brought
    }

    /// The communicator of the worker.
    #[must_use]
    pub fn communicator(&self) -> &Communicator {
        &self.tools.communicator
    }

    /// Makes a process of this class, and has any worker run it. This process goes on meanwhile; it waits for its children by
    /// [`Next::wait_for`](super::Next::wait_for).
    ///
    /// A step that runs again finds the children that it has launched before, as long as it launches them in the same order.
    ///
    /// # Errors
    /// What is wrong with the class or the inputs; that the task cannot be sent.
    ///
    /// # Cancel safety
    /// Dropped, the child may be there without a task that runs it. The next call in a step that runs again sends it.
    pub async fn launch_child(&mut self, class: &str, inputs: Inputs) -> HandlerResult<Pid> {
        let key = ChildKey::new(&self.pid, self.step, self.children);
        self.children += 1;
        let body = self.tools.registry.class(class)?.make(inputs.clone())?;
        let new = NewProcess::new(class, body).with_inputs(inputs).child_of(key);
        let pid = self.tools.persistently("a child cannot be stored", |store| store.create(new.clone())).await?;
        self.tools.announcer.announce(StateChange::new(&pid, None, super::ProcessState::Created));
        self.tools.queue.task_send(Value::from(Continue::new(&pid))).no_reply().await?;
        Ok(pid)
    }

    /// How a process has ended; `None` if it has not, or is not in the store.
    ///
    /// # Errors
    /// Why the store does not answer.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn outcome_of(&self, pid: &Pid) -> HandlerResult<Option<Outcome>> {
        let record = self.tools.persistently("a record cannot be read", |store| store.record(pid.clone())).await?;
        Ok(record.and_then(|record| record.outcome().cloned()))
    }

    /// Adds lines to the log of the process, and waits until they are stored.
    ///
    /// # Errors
    /// `Cancelled` when another worker has the process by now.
    ///
    /// # Cancel safety
    /// Dropped, the lines may be stored all the same.
    pub async fn log_lines(&self, lines: Vec<LogLine>) -> HandlerResult<()> {
        self.process_log().add(lines).await
    }

    /// The log of the process, for code that adds lines while the step does something else.
    #[must_use]
    pub fn process_log(&self) -> ProcessLog {
        ProcessLog { tools: Arc::clone(&self.tools), lease: self.lease.clone() }
    }

    /// Adds a line to the log of the process. See [`log_lines`](Self::log_lines).
    ///
    /// # Errors
    /// As `log_lines`.
    ///
    /// # Cancel safety
    /// As `log_lines`.
    pub async fn log(&self, text: impl Into<String>) -> HandlerResult<()> {
        self.log_lines(vec![LogLine::new(LogSource::Process, text, SystemTime::now())]).await
    }

    /// Sets the line that the store has about this process, for people. It is stored at once, in the background; of several
    /// that come quickly the last. At most 2,000 characters.
    pub fn set_status(&self, text: impl Into<String>) {
        let mut text = text.into();
        if let Some((at, _)) = text.char_indices().nth(MOST_STATUS) {
            text.truncate(at);
        }
        self.link.state.lock().status = Some(text);
        (self.to_process)();
    }

    /// Resolves when the process is to be paused or killed, once for each request. A step that never asks is left alone: it is
    /// paused or killed when it has ended.
    ///
    /// ```
    /// # use homing::process::{Inputs, Interruption, Next, Process, Resumed, StepContext};
    /// # use std::time::Duration;
    /// # #[derive(serde::Serialize, serde::Deserialize)] struct Long;
    /// # impl Process for Long {
    /// # fn new(_: Inputs) -> homing::HandlerResult<Self> { Ok(Long) }
    /// async fn step(&mut self, context: &mut StepContext) -> homing::HandlerResult<Next> {
    ///     loop {
    ///         let work = tokio::time::sleep(Duration::from_secs(1));
    ///         let interruption = tokio::select! {
    ///             () = work => return Ok(Next::finish(())),
    ///             interruption = context.interruption() => interruption,
    ///         };
    ///         match interruption {
    ///             // The work stands still. It is begun anew when the process is played.
    ///             Interruption::Pause { .. } if context.paused().await == Resumed::Play => {}
    ///             // What is returned does not count: the process is killed.
    ///             _ => return Ok(Next::Step),
    ///         }
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// No request is lost when it is dropped.
    pub async fn interruption(&mut self) -> Interruption {
        loop {
            let notified = self.link.to_step.notified();
            {
                let state = self.link.state.lock();
                if state.number != self.seen {
                    self.seen = state.number;
                    match &state.wish {
                        Wish::Pause(message) => return Interruption::Pause { message: message.clone() },
                        Wish::Kill(message) => return Interruption::Kill { message: message.clone() },
                        Wish::Nothing => {}
                    }
                }
            }
            notified.await;
        }
    }

    /// True while the process is to be paused, or to be killed: whichever it is, the step should come to its end soon.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.link.state.lock().wish != Wish::Nothing
    }

    /// True while the process is to be killed.
    #[must_use]
    pub fn is_killing(&self) -> bool {
        matches!(self.link.state.lock().wish, Wish::Kill(_))
    }

    /// Reports that this step stands still, after it was [interrupted](Self::interruption) for a pause: the process is paused
    /// now, and gives its slot to others. Resolves when it is played, or is to be killed; at once if it is not to be paused.
    ///
    /// # Cancel safety
    /// Dropped, the process stays paused while the step goes on. The next call waits on.
    pub async fn paused(&mut self) -> Resumed {
        let mut reported = false;
        loop {
            let notified = self.link.to_step.notified();
            {
                let mut state = self.link.state.lock();
                match (&state.wish, state.stand) {
                    (Wish::Kill(_), _) => {
                        self.seen = state.number;
                        return Resumed::Kill;
                    }
                    (Wish::Nothing, _) => return Resumed::Play,
                    (Wish::Pause(_), Stand::Runs) => {
                        state.stand = Stand::Reported;
                        reported = true;
                    }
                    (Wish::Pause(_), _) => {}
                }
            }
            if std::mem::take(&mut reported) {
                (self.to_process)();
            }
            notified.await;
        }
    }

    /// Resolves after this time, by the communicator's clock. Use [`Next::sleep`](super::Next::sleep) for more than a few
    /// seconds: a step that sleeps has a slot.
    ///
    /// # Errors
    /// When the communicator has closed.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn sleep(&self, time: Duration) -> HandlerResult<()> {
        Ok(self.tools.communicator.sleep(time).await?)
    }
}

impl std::fmt::Debug for StepContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepContext").field("pid", &self.pid).field("step", &self.step).finish_non_exhaustive()
    }
}
