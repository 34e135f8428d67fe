//! Where processes are kept between steps, so that another worker can go on where one has ended.
//!
//! A [`Persister`] stores a [`Checkpoint`] of a process with each of its transitions, atomically, and decides who runs it:
//! a worker [claims](Persister::claim) a process and gets a lease, under which alone transitions are
//! [saved](Persister::save). A lease ends when it is given back, when its process ends, when its owner is known to be dead, or when it has
//! not been renewed for a while. The next lease has a larger number, and whoever comes with a smaller one stores nothing.
//!
//! Clocks of hosts that share a store should agree to within half of the time that a lease lasts. Where they do not, a
//! process may be run in two places; only one of them can store what comes of it.
//!
//! [`MemoryPersister`] is for tests and for processes that need not outlive their program; `SqlitePersister` (feature
//! `sqlite`) is one file that several workers on a machine use at once.

mod checkpoint;
#[cfg(test)]
mod conformance;
mod lease;
mod memory;
mod query;
#[cfg(feature = "sqlite")]
mod sqlite;
mod text;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use super::Pid;
use crate::error::Result;
use crate::time::FAR;

pub use checkpoint::{Checkpoint, ChildKey, Inputs, NewProcess, Outcome, PauseNote, Wait};
pub use lease::{Claim, LeaseId, Liveness, Owner, Saved};
#[doc(hidden)]
pub use lease::{OsProcess, os_process};
pub use memory::MemoryPersister;
pub use query::{Lease, ListFilter, Listing, LogLine, LogPage, LogSource, Record, Summary, Transition, Unreadable};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteBuilder, SqlitePersister};

/// How long a lease is good unless it is renewed, by default: 30 seconds. A third of it is a good time between two renewals.
pub const LEASE_TIME: Duration = Duration::from_secs(30);

/// The shortest lease. It is renewed after a third of its time.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// How many transitions of a process are kept.
const MOST_TRANSITIONS: u64 = 200;

/// How many lines of a process's log are kept, at most.
const MOST_LINES: u64 = 10_000;

/// How many bytes of a process's log are kept, at most.
const MOST_LOG_BYTES: u64 = 4 << 20;

/// What a store answers with: a future that can be sent between threads.
pub type Stored<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A store of processes.
///
/// # Errors
/// Of every call: `Storage` when the store cannot be read or written; `TimedOut` when it is locked for too long; `Decode` when
/// what is stored of this process is damaged or was written by a newer homing, in which case it stays where it is; `Encode`
/// for a value that is nested too deep, is too large, or has a part that no text stands for. What ends with `Encode` or
/// `InvalidArgument` can never be stored; everything else may be tried again.
///
/// # Cancel safety
/// Of every call: when the future is dropped, what it was to store is stored or not, as a whole. A lease that a dropped
/// [`claim`](Self::claim) was granted is given back.
pub trait Persister: Send + Sync + 'static {
    /// How long a lease is good unless it is renewed: at least 100 ms, at most 30 years. A worker takes another time for the nearest of
    /// these.
    fn lease_time(&self) -> Duration {
        LEASE_TIME
    }

    /// Stores a new process, in the state created. With a [`ChildKey`] or a task that a process has: nothing is stored, and the
    /// answer is the pid of that process.
    ///
    /// # Errors
    /// `InvalidArgument` if another process has the pid, or the class has no name.
    fn create(&self, new: NewProcess) -> Stored<'_, Pid>;

    /// Asks for the lease of a process and its last checkpoint.
    fn claim(&self, pid: Pid, owner: Owner) -> Stored<'_, Claim>;

    /// Stores a transition if the lease still stands. A checkpoint with an outcome ends the lease.
    ///
    /// The same checkpoint may be saved again: after an error that leaves open whether it was stored, that is how to find out.
    ///
    /// # Errors
    /// `InvalidArgument` for a checkpoint that has an outcome and a state that does not go with it.
    fn save(&self, lease: LeaseId, checkpoint: Checkpoint) -> Stored<'_, Saved>;

    /// Makes all leases of this owner good for another while, and answers which they are. One that is not among them is lost,
    /// unless it was granted while this call was under way.
    fn renew(&self, owner: Owner) -> Stored<'_, Vec<LeaseId>>;

    /// Whether processes can be stored now. Asked when another call has failed, and then again and again until it succeeds. It
    /// should write, for a store that can only be read is of no use to a worker, and may renew the leases of this owner.
    /// Default: renews them.
    fn check(&self, owner: Owner) -> Stored<'_, ()> {
        let renewed = self.renew(owner);
        Box::pin(async move { renewed.await.map(drop) })
    }

    /// Gives a lease back. One that no longer stands is given back already.
    fn release(&self, lease: LeaseId) -> Stored<'_, ()>;

    /// All that is stored of a process but its log; `None` if there is no such process.
    fn record(&self, pid: Pid) -> Stored<'_, Option<Record>>;

    /// The processes that a filter lets through.
    fn list(&self, filter: ListFilter) -> Stored<'_, Listing>;

    /// The processes that have not ended, with their leases.
    fn unfinished(&self) -> Stored<'_, Listing> {
        self.list(ListFilter::new().unfinished())
    }

    /// Adds lines to the log of a process, if no later lease was granted. The log keeps the last 10,000 lines, and no more than
    /// 4 MiB of text.
    fn append_log(&self, lease: LeaseId, lines: Vec<LogLine>) -> Stored<'_, Saved>;

    /// Lines of a process's log, from this number on, `limit` of them at most. Of a process that is not there: none.
    fn log(&self, pid: Pid, from: u64, limit: usize) -> Stored<'_, LogPage>;

    /// Removes a process with its transitions and its log. False if it is not there.
    ///
    /// # Errors
    /// `InvalidState` while somebody has its lease.
    fn delete(&self, pid: Pid) -> Stored<'_, bool>;
}

/// Where a store has the time from.
#[derive(Clone)]
enum Clock {
    System,
    /// The system's with so many milliseconds added.
    #[cfg(test)]
    Ahead(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    fn now(&self) -> SystemTime {
        match self {
            Clock::System => SystemTime::now(),
            #[cfg(test)]
            Clock::Ahead(time) => {
                SystemTime::now() + Duration::from_millis(time.load(std::sync::atomic::Ordering::Relaxed))
            }
        }
    }
}

/// The time after a while. Times of more than 30 years count as 30 years.
pub(super) fn later(now: SystemTime, time: Duration) -> SystemTime {
    now.checked_add(time.min(FAR)).unwrap_or(now)
}

/// A lease time that can be kept. One of zero would be renewed without a pause.
pub(super) fn lease_time(time: Duration) -> Duration {
    time.clamp(SHORTEST_LEASE, FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lease_times_of_every_length_can_be_kept() {
        let now = SystemTime::now();
        for time in [Duration::ZERO, Duration::from_nanos(1), LEASE_TIME, Duration::MAX] {
            let kept = MemoryPersister::new().with_lease_time(time).lease_time();
            assert_eq!(kept, lease_time(time), "a worker on it renews as the store has it");
            assert!(kept >= Duration::from_millis(100), "{kept:?} would be renewed without a pause");
            assert!(later(now, time) >= now + time.min(kept) && std::time::Instant::now().checked_add(kept).is_some());
        }
        let store = MemoryPersister::new().with_lease_time(Duration::MAX);
        let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
        assert!(matches!(store.claim(pid.clone(), Owner::this_process()).await.unwrap(), Claim::Granted { .. }));
        let Claim::Held { until, .. } = store.claim(pid, Owner::this_process()).await.unwrap() else {
            panic!("its lease stands");
        };
        assert!(until > now + LEASE_TIME, "and lasts");
    }
}
