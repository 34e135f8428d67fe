//! The messages that control processes, as plumpy 0.26 writes and reads them (`process_comms.py`).
//!
//! Types and conversions only: nothing here sends anything.

mod control;
#[cfg(test)]
mod golden;
mod task;

pub use control::{AskStatus, ControlBroadcast, ControlMessage, Kill, Pause, Play};
pub use task::{Continue, Create, Launch, ProcessTask};
