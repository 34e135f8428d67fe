//! A communicator runtime: RPC, task queues and broadcasts between programs, over RabbitMQ or inside one process, in
//! kiwipy's wire format.

pub mod home;

#[cfg(not(homing_loom))]
mod broker;
#[cfg(not(homing_loom))]
pub mod codec;
#[cfg(not(homing_loom))]
mod communicator;
#[cfg(not(homing_loom))]
mod error;

#[cfg(not(homing_loom))]
pub use codec::Value;
#[cfg(not(homing_loom))]
pub use communicator::*;
#[cfg(not(homing_loom))]
pub use error::{Error, ErrorKind, Result};
