//! The communicator: RPC, tasks and broadcasts in kiwipy's format over a broker.
//!
//! One call, from out to home:
//!
//! 1. [`Communicator::rpc_send`](handle) encodes the body on the caller's thread, makes a future at the caller's home and
//!    sends a [command] with the future's completer.
//! 2. The communicator thread ([driver]) gives the request a correlation id and a deadline and publishes it.
//! 3. The reply arrives there as bytes and goes home through the completer, unread.
//! 4. At home [`Reply`] reads it: a value, a failure, or `pending`, after which it asks for the next one.
//!
//! On the other side a delivery goes from the driver to the subscriber's task at its home ([rpc], [task],
//! [broadcast]), which runs the handler and sends its [answer] back as a command.
//!
//! The communicator thread holds identifiers, bytes and completers; it runs no user code.

mod answer;
pub mod blocking;
mod bound;
mod broadcast;
mod builder;
mod command;
mod driver;
mod events;
mod filter;
mod handle;
mod names;
mod queue;
mod reply;
mod response;
mod rpc;
mod send;
mod shared;
mod signal;
mod task;
#[cfg(test)]
mod tests;

#[cfg(feature = "rabbitmq")]
pub(crate) use names::check_task_queue;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use response::{Host, Response};
#[cfg(any(test, feature = "rabbitmq", feature = "fuzzing"))]
pub(crate) use task::parts as task_parts;

pub use answer::{Answer, Answered, Failure, IntoAnswered, Later, Promise, Subscriber};
pub use bound::BoundCommunicator;
pub use broadcast::{BROADCAST_BACKLOG, Broadcast, BroadcastSubscriber};
pub use builder::{Builder, DEFAULT_TASK_PREFETCH, LongTasks, Reconnect};
pub use command::CloseReport;
pub use events::{ChannelCause, ConnectionState, Event, Events};
pub use filter::BroadcastFilter;
pub use handle::{Communicator, Counts};
pub use names::{Identifier, IntoIdentifier, Testing};
pub use queue::TaskQueue;
pub use reply::{Reply, Stage};
pub use rpc::{CallerGone, RpcRequest, RpcSubscriber};
pub use send::{BroadcastSend, RpcSend, TaskSend, TaskSendNoReply};
pub use task::{Attempt, IncomingTask, OwnershipLost, TaskRequest, TaskSubscriber};
