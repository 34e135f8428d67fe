//! A broker for clients of AMQP 0-9-1: the [engine](crate::engine) behind the [protocol](crate::protocol).
//!
//! One thread has all of it: every connection is two tasks, one that reads and one that writes, and the engine is called
//! between two awaits, so that nothing needs a lock. What a client sends is done at once; what comes of it is appended to
//! the output of whoever it is for and written when that client's turn comes, together with all else that waits for it.
//!
//! A publish is confirmed, a queue purged, and a channel or a connection closed in order, when everything that its connection did
//! before is on the disk; a transaction is committed when everything is that anybody did before in its virtual host. Where the disk takes nothing more, none of these is answered: after
//! two seconds the connection ends with 506 (`RESOURCE_ERROR`) and the reason. So nobody is told that an acknowledgement counts
//! which a restart would take back. Declarations and deletions are answered before.
//!
//! A client costs what [`Limits`] says, and nobody else waits for it: one that does not read is given nothing more, and
//! then not read from; one that sends nothing, or nothing that makes sense, is closed.
//!
//! # How the files stand on each other
//! `protocol` and `engine` are below. `connection`, `channel`, `call` and `methods` are the protocol's state without I/O;
//! `accounts` has users and permissions, and `admin` changes them; `host` joins connections to an engine, and `disk` the engine to the store; `read`, `write` and `listen` are the I/O; `handle` is the thread.

mod accounts;
mod admin;
mod arguments;
mod aside;
mod builder;
mod call;
mod channel;
mod confirms;
mod connection;
mod content;
mod deaths;
mod definitions;
mod disk;
mod exception;
mod handle;
mod handshake;
mod held;
mod host;
mod journal;
mod limits;
mod listen;
mod local;
#[cfg(feature = "management")]
mod management;
mod methods;
mod names;
mod numbers;
mod peer;
mod properties;
mod read;
mod room;
mod shared;
mod signal;
#[cfg(feature = "tls")]
mod tls;
mod topics;
mod transaction;
mod write;

pub use accounts::{
    AccountStore, Accounts, Change, ChangeError, Granted, GrantedTopics, PasswordError, PasswordHash, Permissions,
    TopicPermissions, User,
};
pub use admin::{Admin, Status, VirtualHostStatus};
pub use builder::{Opened, Removal, ServerBuilder, StartError, Storage};
pub use content::Content;
pub use definitions::{DefinedQueue, Definitions};
pub use disk::DiskStorage;
pub use handle::{Server, Stopped};
pub use journal::{Journal, Mark, Progress};
pub use limits::Limits;
pub use local::LocalBroker;
#[cfg(feature = "management")]
pub use management::Management;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsError, TlsFiles};
