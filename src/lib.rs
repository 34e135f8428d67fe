//! A communicator runtime: RPC, task queues and broadcasts between programs, over RabbitMQ or inside one process, in
//! kiwipy's wire format.
//!
//! homing logs by `tracing`, never a body or a credential. lapin, which carries the RabbitMQ connection, logs returned
//! messages with their bodies and, at `trace`, the login: set `lapin=off` in your filter.
//!
//! Start with [`Communicator`], or [`blocking::Communicator`] in a program without tokio. [`home`] says who owns a future
//! and why; [`codec`] what a body can hold.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
//! use homing::{Communicator, RpcRequest, RpcSubscriber};
//!
//! let communicator = Communicator::connect("memory:").await?;
//! let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
//! communicator.add_rpc_subscriber("echo", echo).await?;
//! assert_eq!(communicator.rpc_send("echo", "hello").await?.as_str(), Some("hello"));
//! # communicator.close().await.map(drop) }
//! ```

// The floors, each on those before it.
mod error;
mod ids;
mod panics;
mod threads;
mod time;

pub mod codec;

mod broker;
mod wire;

mod driver;

mod observe;

mod serve;

mod client;

pub mod process;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "rabbitmq")]
pub mod inspect;
#[cfg(test)]
mod simulation;

pub use client::blocking;
pub use client::{
    Body, BroadcastSend, Communicator, CommunicatorBuilder, CommunicatorCounts, LongTasks, Reply, ReplyStage, RpcSend,
    TaskQueue, TaskSend, TaskSendNoReply, Tasks,
};
pub use codec::Value;
pub use driver::{Attempt, ChannelCause, CloseReport, ConnectionEvent, ConnectionState, Events, ReconnectPolicy};
pub use error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use homing_home as home;
pub use homing_home::futures;
pub use observe::TraceContext;
pub use serve::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, Broadcasts, CallerGone, ErrorDetails, Failure,
    HandlerError, HandlerResult, IncomingTask, IntoResponse, Lagged, Later, OwnershipLost, Promise, RpcRequest,
    RpcSubscriber, Subscriber, TaskRequest, TaskSubscriber,
};
pub use wire::headers::TraceHeaders;
pub use wire::names::{Identifier, IntoIdentifier, TestingMode};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
