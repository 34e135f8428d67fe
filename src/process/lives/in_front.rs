//! A store in front of another one, which waits, fails or panics where a test wants it.

use super::*;
use crate::process::store::{
    Checkpoint, Claim, LeaseId, ListFilter, Listing, LogLine, LogPage, NewProcess, Owner, Saved, Stored,
};

/// Which of the two times of a call it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    Before,
    After,
}

/// What is done before and after a call of this name.
type Meddles = dyn Fn(&'static str, Time) -> Stored<'static, ()> + Send + Sync;

pub(super) struct InFront {
    store: MemoryPersister,
    meddles: Box<Meddles>,
}

impl InFront {
    pub(super) fn of(
        store: &MemoryPersister,
        meddles: impl Fn(&'static str, Time) -> Stored<'static, ()> + Send + Sync + 'static,
    ) -> Self {
        InFront { store: store.clone(), meddles: Box::new(meddles) }
    }

    fn call<'a, T: Send + 'a>(&'a self, name: &'static str, call: Stored<'a, T>) -> Stored<'a, T> {
        let before = (self.meddles)(name, Time::Before);
        Box::pin(async move {
            before.await?;
            let answered = call.await?;
            (self.meddles)(name, Time::After).await?;
            Ok(answered)
        })
    }
}

impl Persister for InFront {
    fn lease_time(&self) -> Duration {
        self.store.lease_time()
    }

    fn renew(&self, owner: Owner) -> Stored<'_, Vec<LeaseId>> {
        self.call("renew", self.store.renew(owner))
    }

    fn check(&self, owner: Owner) -> Stored<'_, ()> {
        self.call("check", self.store.check(owner))
    }

    fn create(&self, new: NewProcess) -> Stored<'_, Pid> {
        self.call("create", self.store.create(new))
    }

    fn claim(&self, pid: Pid, owner: Owner) -> Stored<'_, Claim> {
        self.call("claim", self.store.claim(pid, owner))
    }

    fn save(&self, lease: LeaseId, checkpoint: Checkpoint) -> Stored<'_, Saved> {
        self.call("save", self.store.save(lease, checkpoint))
    }

    fn release(&self, lease: LeaseId) -> Stored<'_, ()> {
        self.call("release", self.store.release(lease))
    }

    fn record(&self, pid: Pid) -> Stored<'_, Option<Record>> {
        self.call("record", self.store.record(pid))
    }

    fn list(&self, filter: ListFilter) -> Stored<'_, Listing> {
        self.call("list", self.store.list(filter))
    }

    fn append_log(&self, lease: LeaseId, lines: Vec<LogLine>) -> Stored<'_, Saved> {
        self.call("log", self.store.append_log(lease, lines))
    }

    fn log(&self, pid: Pid, from: u64, limit: usize) -> Stored<'_, LogPage> {
        self.call("read", self.store.log(pid, from, limit))
    }

    fn delete(&self, pid: Pid) -> Stored<'_, bool> {
        self.call("delete", self.store.delete(pid))
    }
}

/// Nothing is done.
pub(super) fn nothing() -> Stored<'static, ()> {
    Box::pin(std::future::ready(Ok(())))
}
