//! A message broker for one machine.
//!
//! Three floors that know nothing of each other, and the server that joins them:
//! - [`engine`]: exchanges, queues, consumers and acknowledgements as one value without I/O, clock or lock;
//! - [`protocol`]: AMQP 0-9-1 as bytes: frames, methods, tables, without I/O;
//! - [`store`]: what survives a restart, on a disk.
//!
//! The feature `store` brings the store, and `server` the server with it; without them the crate needs no runtime and no system.

pub mod engine;
pub mod protocol;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "store")]
pub mod store;
