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

pub mod home;

#[cfg(not(homing_loom))]
mod broker;
#[cfg(not(homing_loom))]
pub mod codec;
#[cfg(not(homing_loom))]
mod communicator;
#[cfg(not(homing_loom))]
#[expect(dead_code, unused_imports, reason = "the communicator does not stand on it yet")]
mod driver;
#[cfg(not(homing_loom))]
mod error;
#[cfg(all(any(test, feature = "fuzzing"), not(homing_loom)))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(all(feature = "rabbitmq", not(homing_loom)))]
pub mod inspect;

#[cfg(not(homing_loom))]
pub use codec::Value;
#[cfg(not(homing_loom))]
pub use communicator::*;
#[cfg(not(homing_loom))]
pub use error::{Error, ErrorKind, Result};
#[cfg(not(homing_loom))]
pub use home::futures;

#[cfg(all(doctest, not(homing_loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
