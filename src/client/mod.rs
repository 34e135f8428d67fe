//! What programs hold: the handle, its options, and what they send by it.
//!
//! One call, from out to home:
//!
//! 1. [`Communicator::rpc_send`] encodes the body on the caller's thread, makes a future at the caller's home and sends a
//!    [command](crate::driver::command) with the future's completer.
//! 2. The [communicator thread](crate::driver) registers the request under its correlation id with its deadline, and hands the
//!    message to the broker when its turn comes.
//! 3. The reply arrives there as bytes and goes home through the completer, unread.
//! 4. At home [`Reply`] reads it: a value, a failure, or `pending`, after which it asks for the next one.

pub mod blocking;
mod body;
mod builder;
mod communicator;
mod queue;
mod reply;
mod send;
#[cfg(test)]
mod tests;

pub use body::Body;
pub use builder::{CommunicatorBuilder, LongTasks};
pub use communicator::{Communicator, CommunicatorCounts};
pub use queue::{TaskQueue, Tasks};
pub use reply::{Reply, ReplyStage};
pub use send::{BroadcastSend, RpcSend, TaskSend, TaskSendNoReply};
