//! What survives a restart: definitions and messages, on a disk.
//!
//! An append-only log in segments, with checkpoints; `docs/broker-store.md` describes its files, its promises, and what
//! happens at each crash. It knows nothing of AMQP and of the engine: a definition is a key and a value, a message a header and a body,
//! with copies in one or more queues.
//!
//! [`Log`] is the store as one value, for one thread. [`Writer`] puts it on a thread of its own, which commits everything
//! that waits with one sync. [`Reader`] reads messages back from every thread.
//!
//! ```
//! use homing_broker::store::{Log, Options, Placement, RecoveredCopy, Restore};
//!
//! #[derive(Default)]
//! struct Found(Vec<u64>);
//! impl Restore for Found {
//!     fn definition(&mut self, _key: &[u8], _value: &[u8]) {}
//!     fn copy(&mut self, copy: RecoveredCopy<'_>) {
//!         self.0.push(copy.placement.copy);
//!     }
//! }
//!
//! # let directory = std::env::temp_dir().join(format!("homing-store-doc-{}", std::process::id()));
//! let (mut log, _) = Log::open(&directory, Options::default(), &mut Found::default())?;
//! let first = log.next_copy();
//! log.put(&[Placement { copy: first, queue: 7 }], b"header", b"body")?;
//! log.put(&[Placement { copy: first + 1, queue: 7 }], b"header", b"another")?;
//! log.commit()?;
//! log.forget(first)?;
//! log.commit()?;
//! log.close()?;
//!
//! let mut found = Found::default();
//! let (log, opened) = Log::open(&directory, Options::default(), &mut found)?;
//! assert_eq!(found.0, [first + 1]);
//! assert!(opened.damages.is_empty());
//! assert_eq!(&log.reader().read(first + 1)?.body[..], b"another");
//! # drop(log);
//! # std::fs::remove_dir_all(&directory).unwrap();
//! # Ok::<(), homing_broker::store::Error>(())
//! ```

mod batch;
mod bits;
mod catalog;
mod checkpoint;
mod damage;
mod definitions;
pub(crate) mod disk;
mod error;
mod format;
mod index_file;
mod lock;
mod log;
mod pack;
mod reader;
mod recovery;
mod scan;
mod segment;
mod twice;
mod upkeep;
mod window;
mod writer;

#[cfg(test)]
mod tests;

pub use damage::{Damage, Lost};
pub use error::{Error, ErrorKind, Result};
pub use log::{Log, Options, Sequence};
pub use reader::{Reader, StoredMessage};
pub(crate) use recovery::LOCK;
pub use recovery::{Opened, RecoveredCopy, Restore};
pub use upkeep::{FinishedJob, Job, Occasion};
pub use writer::{Event, Writer};

/// A copy of a message in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The id of the copy. Ids ascend in the order in which copies are put, and none is used twice.
    pub copy: u64,
    /// The queue, by whatever number the caller knows it.
    pub queue: u64,
}
