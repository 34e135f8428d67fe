//! Long-running processes: how they are asked for their status, paused, played, killed, launched and watched, in plumpy's
//! format. AiiDA's processes are plumpy's.
//!
//! This floor stands on the public API of the [communicator](crate::Communicator) and on nothing below it. A process is a
//! subscriber to calls under its [pid](Pid); it broadcasts each [change of its state](StateChange); a worker takes tasks that
//! [launch](Launch) and [continue](Continue) processes.
//!
//! The side that controls:
//!
//! - [`ProcessController`] sends requests. Each is a future with its own deadline, and a [reply](ControlReply) that
//!   shows how far it has come.
//! - [`ProcessEvents`] are the changes of state as a stream.
//! - the messages, each a type that converts to a [`Value`](crate::Value) and back: [`ControlMessage`], [`ControlBroadcast`],
//!   [`ProcessTask`], [`Status`], [`StateChange`].
//! - [`blocking`] has the controller for programs without tokio.
//! - [`store`] keeps processes between their steps.
//!
//! The side that runs:
//!
//! - [`Process`] is what users write: a type that serde writes and reads, with steps. The value is the checkpoint.
//! - [`Registry`] has the classes by their names, a [`store`] the processes.
//! - [`ProcessWorker`] pulls tasks and runs steps, so many at once as it has slots; [`ProcessLauncher`] is the same without
//!   the pulling, for a subscriber of your own.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
//! use homing::process::store::MemoryPersister;
//! use homing::process::{Inputs, Next, Process, ProcessController, ProcessWorker, Registry, StepContext};
//! use homing::{Communicator, HandlerResult, Value};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Sum { left: Vec<i64>, sum: i64 }
//!
//! impl Process for Sum {
//!     fn new(inputs: Inputs) -> HandlerResult<Self> {
//!         let left = inputs.args().iter().filter_map(Value::as_i64).collect();
//!         Ok(Sum { left, sum: 0 })
//!     }
//!
//!     async fn step(&mut self, _: &mut StepContext) -> HandlerResult<Next> {
//!         let Some(number) = self.left.pop() else { return Ok(Next::finish(self.sum)) };
//!         self.sum += number;
//!         Ok(Next::Step)
//!     }
//! }
//!
//! let communicator = Communicator::connect("memory:").await?;
//! let registry = Registry::new().register::<Sum>("sum")?;
//! let worker = ProcessWorker::builder(&communicator, MemoryPersister::new(), registry).slots(4).start().await?;
//!
//! let outputs = ProcessController::new(&communicator).launch("sum").arg(1).arg(2).arg(3).await?;
//! assert_eq!(outputs.as_i64(), Some(6));
//! worker.drain(std::time::Duration::from_secs(5)).await;
//! # communicator.close().await.map(drop) }
//! ```
//!
//! # What holds for every process
//! - A change of state is in the store before anybody is notified of it. One that cannot be stored has not been made.
//! - A process runs in one place at most: in one worker, under a lease of the store. Whoever has lost the lease stores nothing.
//! - A step that began and whose end was not stored runs again, unless its class has it [marked as lost](AfterLoss). The
//!   children that it launched are not doubled.
//! - A process that waits or is paused needs no slot.
//! - A pause or a kill in a step is put off until the step has ended, or until the step [reports](StepContext::paused) that it
//!   stands still. [Kill by force](ControlSend::force) drops the step at its next await.
//!
//! # One request
//! 1. [`ProcessController::pause`] makes a [`ControlSend`], which holds the message and the communicator's call. Nothing is sent.
//! 2. Awaited, it sends `{intent: pause, message: …}` to the subscriber `str(pid)`.
//! 3. The process answers `pending` as often as it likes: once for the loop it runs on, once for a step that it has to end first.
//!    All of that is one stage, [`ControlStage::Received`].
//! 4. If there is no outcome after half a second, a status request follows, once. An idle process of plumpy 0.26 may keep an
//!    answer until something else wakes its event loop; this is what wakes it. What comes of it is ignored.
//! 5. The outcome is `true` or `false`, [`ControlOutcome`].
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
//! use homing::process::{ControlMessage, ControlOutcome, ProcessController};
//! use homing::{Communicator, HandlerResult, RpcRequest, RpcSubscriber};
//!
//! let communicator = Communicator::connect("memory:").await?;
//! // What a process does, in short.
//! let process = RpcSubscriber::closure(|request: RpcRequest| {
//!     HandlerResult::Ok(matches!(ControlMessage::try_from(request.body())?, ControlMessage::Pause(_)))
//! });
//! communicator.add_rpc_subscriber(1234, process).await?;
//!
//! let controller = ProcessController::new(&communicator);
//! let outcome = controller.pause(1234).message("the disk is full").await?;
//! assert_eq!(outcome, ControlOutcome::Done);
//! # communicator.close().await.map(drop) }
//! ```

mod availability;
pub mod blocking;
mod class;
mod controller;
mod events;
mod launcher;
#[cfg(test)]
mod lives;
mod machine;
mod messages;
mod next;
mod pid;
mod reply;
mod request;
mod run;
mod send;
mod slots;
mod state;
mod step;
pub mod store;
#[cfg(test)]
mod tests;
mod tools;
mod worker;

pub use class::{AfterLoss, Process, Registry};
pub use controller::ProcessController;
pub use events::ProcessEvents;
pub use launcher::{LauncherBuilder, ProcessLauncher};
pub use messages::{
    AskStatus, Continue, ControlBroadcast, ControlMessage, Create, Kill, Launch, Pause, Play, ProcessTask,
};
pub use next::{Finish, Next};
pub use pid::Pid;
pub use reply::{ControlReply, ControlStage};
pub use request::{ControlOutcome, ControlRequest, Execute, NoWait, ProcessCall};
pub use send::{ControlAllSend, ControlSend};
pub use state::{ProcessState, StateChange, Status};
pub use step::{Interruption, ProcessLog, Resumed, StepContext};
pub use store::{Inputs, Outcome, Wait};
pub use worker::{ProcessWorker, WorkerBuilder};
