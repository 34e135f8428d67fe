//! The handle that controls processes.

use super::events::ProcessEvents;
use super::messages::{AskStatus, Continue, Create, Kill, Launch, Pause, Play};
use super::request::Execute;
use super::send::{ControlAllSend, ControlSend};
use super::{Pid, StateChange};
use crate::Communicator;
use crate::error::Result;

/// Controls processes that run in workers elsewhere, homing's and plumpy's alike. Cheap to clone.
///
/// Each method makes a request, a future that sends nothing before it is polled. For programs without tokio there is
/// [`blocking::ProcessController`](super::blocking::ProcessController).
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use std::time::Duration;
/// use homing::Communicator;
/// use homing::process::ProcessController;
///
/// let broker = Communicator::builder("amqp://127.0.0.1").prefix("aiida-0f4…").connect().await?;
/// let controller = ProcessController::new(&broker);
/// let status = controller.status(1234).timeout(Duration::from_secs(5)).await?;
/// if !status.state().is_terminal() {
///     controller.kill(1234).message("not needed any more").await?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ProcessController {
    communicator: Communicator,
}

impl ProcessController {
    /// One that sends by this communicator, and keeps it open.
    #[must_use]
    pub fn new(communicator: &Communicator) -> Self {
        ProcessController { communicator: communicator.clone() }
    }

    fn call<Q: super::ProcessCall>(&self, pid: impl Into<Pid>, request: Q) -> ControlSend<Q> {
        ControlSend::call(self.communicator.clone(), pid.into(), request)
    }

    /// Asks a process for its status.
    pub fn status(&self, pid: impl Into<Pid>) -> ControlSend<AskStatus> {
        self.call(pid, AskStatus)
    }

    /// Pauses a process. One that is in the middle of a step answers when the step has ended.
    pub fn pause(&self, pid: impl Into<Pid>) -> ControlSend<Pause> {
        self.call(pid, Pause::new())
    }

    /// Lets a paused process go on.
    pub fn play(&self, pid: impl Into<Pid>) -> ControlSend<Play> {
        self.call(pid, Play)
    }

    /// Kills a process: in order, unless it is [forced](ControlSend::force).
    pub fn kill(&self, pid: impl Into<Pid>) -> ControlSend<Kill> {
        self.call(pid, Kill::new())
    }

    /// Pauses all processes that subscribe to this communicator's broadcasts. Nobody answers.
    pub fn pause_all(&self) -> ControlAllSend<Pause> {
        ControlAllSend::new(self.communicator.clone(), Pause::new())
    }

    /// Lets all processes go on. Nobody answers.
    pub fn play_all(&self) -> ControlAllSend<Play> {
        ControlAllSend::new(self.communicator.clone(), Play)
    }

    /// Kills all processes, in order: plumpy's processes know no forced kill of all. Nobody answers.
    pub fn kill_all(&self) -> ControlAllSend<Kill> {
        ControlAllSend::new(self.communicator.clone(), Kill::new())
    }

    /// Has a worker make a process of this class and run it. The outcome is what it puts out;
    /// [`nowait`](ControlSend::nowait) makes it the pid.
    pub fn launch(&self, class: impl Into<String>) -> ControlSend<Launch> {
        ControlSend::task(self.communicator.clone(), None, Launch::new(class))
    }

    /// Has a worker make a process of this class and store it. The outcome is its pid, for
    /// [`continue_process`](Self::continue_process).
    pub fn create(&self, class: impl Into<String>) -> ControlSend<Create> {
        ControlSend::task(self.communicator.clone(), None, Create::new(class))
    }

    /// Has a worker take a process from the store and run it on. The outcome is what it puts out;
    /// [`nowait`](ControlSend::nowait) makes it the pid.
    pub fn continue_process(&self, pid: impl Into<Pid>) -> ControlSend<Continue> {
        let pid = pid.into();
        ControlSend::task(self.communicator.clone(), Some(pid.clone()), Continue::new(pid))
    }

    /// [Creates](Self::create) a process, and [continues](Self::continue_process) it: it then runs to its end even if
    /// its worker or its caller dies, for its task stays in the queue.
    pub fn execute(&self, class: impl Into<String>) -> ControlSend<Execute> {
        ControlSend::task(self.communicator.clone(), None, Execute(Create::new(class)))
    }

    /// The changes of state of these processes, from now on, as a stream of the current home; of all processes if there are
    /// none among `pids`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use homing::Communicator;
    /// use homing::process::{ProcessController, ProcessState, StateChange};
    ///
    /// let communicator = Communicator::connect("memory:").await?;
    /// let controller = ProcessController::new(&communicator);
    /// let mut changes = controller.events([4]).await?;
    /// for pid in [3, 4] {
    ///     controller.announce(&StateChange::new(pid, Some(ProcessState::Running), ProcessState::Finished)).await?;
    /// }
    /// if let Some(Ok(change)) = changes.next().await {
    ///     assert_eq!((change.pid(), change.to()), (&4.into(), ProcessState::Finished));
    /// }
    /// # communicator.close().await.map(drop) }
    /// ```
    ///
    /// # Errors
    /// `ConnectionLost`; `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the subscription is taken out again.
    pub async fn events<P: Into<Pid>>(&self, pids: impl IntoIterator<Item = P>) -> Result<ProcessEvents> {
        let pids = pids.into_iter().map(Into::into).collect();
        ProcessEvents::subscribe(&self.communicator, pids).await
    }

    /// Broadcasts a change of state, as a process does.
    pub fn announce(&self, change: &StateChange) -> crate::BroadcastSend {
        self.communicator.broadcast_send(()).sender(change.pid()).subject(change.subject())
    }
}
