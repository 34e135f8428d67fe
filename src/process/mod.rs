//! Long-running processes: how they are asked for their status, paused, played, killed, launched and watched, in plumpy's
//! format. AiiDA's processes are plumpy's.
//!
//! This floor stands on the public API of the [communicator](crate::Communicator) and on nothing below it. A process is a
//! subscriber to calls under its [pid](Pid); it broadcasts each [change of its state](StateChange); a worker takes tasks that
//! [launch](Launch) and [continue](Continue) processes. This is the side that controls.
//!
//! The messages are types that convert to a [`Value`](crate::Value) and back: [`ControlMessage`], [`ControlBroadcast`],
//! [`ProcessTask`], [`Status`], [`StateChange`].

mod messages;
mod pid;
mod state;

pub use messages::{
    AskStatus, Continue, ControlBroadcast, ControlMessage, Create, Kill, Launch, Pause, Play, ProcessTask,
};
pub use pid::Pid;
pub use state::{ProcessState, StateChange, Status};
