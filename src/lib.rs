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

mod broker;
pub mod codec;
mod communicator;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "rabbitmq")]
pub mod inspect;

pub use codec::Value;
pub use communicator::*;
pub use error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use homing_home as home;
pub use homing_home::futures;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
