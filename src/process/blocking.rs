//! The same for plain threads and loops: `wait` where the others await. See [`homing::blocking`](crate::blocking).
//!
//! ```
//! use homing::blocking::Communicator;
//! use homing::process::ControlOutcome;
//! use homing::process::blocking::ProcessController;
//! use homing::{RpcRequest, RpcSubscriber};
//!
//! let communicator = Communicator::connect("memory:")?;
//! communicator.add_rpc_subscriber(1234, RpcSubscriber::closure(|_: RpcRequest| true))?;
//!
//! let controller = ProcessController::new(&communicator);
//! assert_eq!(controller.play(1234).wait()?, ControlOutcome::Done);
//! communicator.close()?;
//! # Ok::<(), homing::Error>(())
//! ```

use std::time::Duration;

use super::events::ProcessEvents;
use super::messages::{AskStatus, Continue, ControlBroadcast, Create, Kill, Launch, Pause, Play};
use super::reply::{ControlReply, ControlStage};
use super::request::{ControlRequest, Execute};
use super::send::{ControlAllSend, ControlSend};
use super::{Pid, StateChange};
use crate::Lagged;
use crate::blocking::{Communicator, next_within, wait};
use crate::error::Result;

/// Controls processes from a program without tokio. Its requests are those of the
/// [async controller](super::ProcessController); [`wait`](ControlSend::wait) for their outcome.
#[derive(Clone, Debug)]
pub struct ProcessController(super::ProcessController);

impl ProcessController {
    /// One that sends by this communicator, and keeps it open.
    #[must_use]
    pub fn new(communicator: &Communicator) -> Self {
        ProcessController(super::ProcessController::new(&communicator.to_async()))
    }

    /// The async controller of the same communicator.
    #[must_use]
    pub fn to_async(&self) -> super::ProcessController {
        self.0.clone()
    }

    /// Asks a process for its status.
    pub fn status(&self, pid: impl Into<Pid>) -> ControlSend<AskStatus> {
        self.0.status(pid)
    }

    /// Pauses a process.
    pub fn pause(&self, pid: impl Into<Pid>) -> ControlSend<Pause> {
        self.0.pause(pid)
    }

    /// Lets a paused process go on.
    pub fn play(&self, pid: impl Into<Pid>) -> ControlSend<Play> {
        self.0.play(pid)
    }

    /// Kills a process.
    pub fn kill(&self, pid: impl Into<Pid>) -> ControlSend<Kill> {
        self.0.kill(pid)
    }

    /// Pauses all processes. Nobody answers.
    pub fn pause_all(&self) -> ControlAllSend<Pause> {
        self.0.pause_all()
    }

    /// Lets all processes go on. Nobody answers.
    pub fn play_all(&self) -> ControlAllSend<Play> {
        self.0.play_all()
    }

    /// Kills all processes. Nobody answers.
    pub fn kill_all(&self) -> ControlAllSend<Kill> {
        self.0.kill_all()
    }

    /// Has a worker make a process and run it.
    pub fn launch(&self, class: impl Into<String>) -> ControlSend<Launch> {
        self.0.launch(class)
    }

    /// Has a worker make a process and store it.
    pub fn create(&self, class: impl Into<String>) -> ControlSend<Create> {
        self.0.create(class)
    }

    /// Has a worker run a process on.
    pub fn continue_process(&self, pid: impl Into<Pid>) -> ControlSend<Continue> {
        self.0.continue_process(pid)
    }

    /// Creates a process, and continues it.
    pub fn execute(&self, class: impl Into<String>) -> ControlSend<Execute> {
        self.0.execute(class)
    }

    /// The changes of state of these processes, or of all; [`next_blocking`](ProcessEvents::next_blocking) waits for the next,
    /// [`next_blocking_timeout`](ProcessEvents::next_blocking_timeout) no longer than a limit.
    ///
    /// # Errors
    /// As the [async call](super::ProcessController::events); `WouldDeadlock` where a wait cannot be.
    pub fn events<P: Into<Pid>>(&self, pids: impl IntoIterator<Item = P>) -> Result<ProcessEvents> {
        wait(self.0.events(pids))
    }

    /// Broadcasts a change of state, as a process does.
    pub fn announce(&self, change: &StateChange) -> crate::BroadcastSend {
        self.0.announce(change)
    }
}

impl<Q: ControlRequest> ControlSend<Q> {
    /// Sends it and waits for its outcome, while the calling thread's home goes on.
    ///
    /// # Errors
    /// As awaiting it; `WouldDeadlock` where a wait cannot be.
    pub fn wait(self) -> Result<Q::Outcome> {
        wait(self)
    }

    /// Sends it and waits until the broker has taken it over.
    ///
    /// # Errors
    /// As [`send`](ControlSend::send); `WouldDeadlock` where a wait cannot be.
    pub fn send_blocking(self) -> Result<ControlReply<Q::Outcome>> {
        wait(self.send())
    }
}

impl<Q: Into<ControlBroadcast> + Unpin> ControlAllSend<Q> {
    /// Sends it and waits until the broker has taken it over.
    ///
    /// # Errors
    /// As awaiting it; `WouldDeadlock` where a wait cannot be.
    pub fn wait(self) -> Result<()> {
        wait(self)
    }
}

impl<T: Send + 'static> ControlReply<T> {
    /// Waits for the next stage.
    ///
    /// # Errors
    /// As [`stage`](ControlReply::stage); `WouldDeadlock` where a wait cannot be.
    pub fn stage_blocking(&mut self) -> Result<ControlStage<T>> {
        wait(self.stage())
    }

    /// Waits for the outcome.
    ///
    /// # Errors
    /// As [`stage`](ControlReply::stage); `WouldDeadlock` where a wait cannot be.
    pub fn wait(self) -> Result<T> {
        wait(self)
    }
}

impl ProcessEvents {
    /// Waits for the next change; `None` when the communicator has closed.
    ///
    /// # Errors
    /// `WouldDeadlock` where a wait cannot be.
    pub fn next_blocking(&mut self) -> Result<Option<std::result::Result<StateChange, Lagged>>> {
        wait(async { Ok(self.next().await) })
    }

    /// The same for at most this long; with [`Duration::ZERO`] it takes what is there.
    ///
    /// # Errors
    /// `TimedOut` when none came; `WouldDeadlock` where a wait cannot be.
    ///
    /// # Cancel safety
    /// No change is lost when the time is up.
    pub fn next_blocking_timeout(
        &mut self,
        limit: Duration,
    ) -> Result<Option<std::result::Result<StateChange, Lagged>>> {
        next_within("change of state", limit, async { Ok(self.next().await) })
    }
}
