#![doc = include_str!("guide.md")]

// The floors, each on those before it.
mod error;
mod ids;
mod panics;
mod sending;
mod threads;
mod time;

pub mod codec;

mod broker;
mod wire;

mod driver;

mod log;
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

#[cfg(doctest)]
#[doc = include_str!("../docs/processes.md")]
struct Processes;
