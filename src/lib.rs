//! A communicator runtime: RPC, task queues and broadcasts between programs, over RabbitMQ or inside one process.

#![allow(dead_code)] // while the floors are being laid

pub mod codec;
mod broker;
mod error;

pub use codec::Value;
pub use error::{Error, ErrorKind, Result};
