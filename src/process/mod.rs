//! Long-running processes: how they are asked for their status, paused, played, killed, launched and watched, in plumpy's
//! format. AiiDA's processes are plumpy's.
//!
//! This floor stands on the public API of the [communicator](crate::Communicator) and on nothing below it. A process is a
//! subscriber to calls under its [pid](Pid); it broadcasts each [change of its state](StateChange); a worker takes tasks that
//! [launch](Launch) and [continue](Continue) processes. This is the side that controls:
//!
//! - [`ProcessController`] sends requests. Each is a future with its own deadline, and a [reply](ControlReply) that
//!   shows how far it has come.
//! - [`ProcessEvents`] are the changes of state as a stream.
//! - the messages, each a type that converts to a [`Value`](crate::Value) and back: [`ControlMessage`], [`ControlBroadcast`],
//!   [`ProcessTask`], [`Status`], [`StateChange`].
//! - [`blocking`] has the controller for programs without tokio.
//! - [`store`] keeps processes between their steps.
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

pub mod blocking;
mod class;
mod controller;
mod events;
mod launcher;
mod machine;
mod messages;
mod pid;
mod reply;
mod request;
mod run;
mod send;
mod slots;
mod state;
mod step;
pub mod store;
mod tools;
mod worker;
#[cfg(test)]
mod tests;

pub use class::{AfterLoss, Finish, Next, Process, Registry};
pub use controller::ProcessController;
pub use events::ProcessEvents;
pub use launcher::{LauncherBuilder, ProcessLauncher};
pub use messages::{
    AskStatus, Continue, ControlBroadcast, ControlMessage, Create, Kill, Launch, Pause, Play, ProcessTask,
};
pub use pid::Pid;
pub use reply::{ControlReply, ControlStage};
pub use request::{ControlOutcome, ControlRequest, Execute, NoWait, ProcessCall};
pub use send::{ControlAllSend, ControlSend};
pub use state::{ProcessState, StateChange, Status};
pub use step::{Interruption, ProcessLog, Resumed, StepContext};
pub use store::{Inputs, Outcome, Wait};
pub use worker::{ProcessWorker, WorkerBuilder};
