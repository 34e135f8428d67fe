//! What all workers of a run share: the books, the homes that stand, the producers, and the fault that was asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::{Condvar, Mutex};

use super::ledger::{HomeRecord, Ledger};
use super::producer::Job;
use crate::args::Fault;

pub(crate) struct World {
    pub seed: u64,
    /// How long anything may stand still before it counts as stuck.
    pub patience: Duration,
    pub ledger: Arc<Ledger>,
    pub jobs: Jobs,
    /// The homes that stand now, each at its worker's number.
    standing: Mutex<Vec<Option<Arc<HomeRecord>>>>,
    stopping: AtomicBool,
    fault: Mutex<Option<Fault>>,
}

impl World {
    pub(crate) fn new(seed: u64, patience: Duration, homes: usize, fault: Option<Fault>) -> Arc<Self> {
        Arc::new(World {
            seed,
            patience,
            ledger: Arc::default(),
            jobs: Jobs::default(),
            standing: Mutex::new(vec![None; homes]),
            stopping: AtomicBool::new(false),
            fault: Mutex::new(fault),
        })
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// True once, where this fault was asked for and can be done.
    pub(crate) fn is_due(&self, fault: Fault, possible: impl FnOnce() -> bool) -> bool {
        let mut due = self.fault.lock();
        let now = *due == Some(fault) && possible();
        if now {
            *due = None;
        }
        now
    }

    pub(crate) fn put_up(&self, number: usize, record: &Arc<HomeRecord>) {
        self.standing.lock()[number] = Some(Arc::clone(record));
    }

    pub(crate) fn take_down(&self, number: usize) {
        let old = self.standing.lock()[number].take();
        drop(old);
    }

    /// One of the homes that stand, where one was drawn that does.
    pub(crate) fn any_home(&self, rng: &mut Rng) -> Option<Arc<HomeRecord>> {
        let standing = self.standing.lock();
        standing.get(rng.usize(0..standing.len().max(1))).cloned().flatten()
    }
}

/// What is to be done by producers.
#[derive(Default)]
pub(crate) struct Jobs {
    queue: Mutex<(VecDeque<Job>, bool)>,
    filled: Condvar,
    pub done: AtomicU64,
}

impl Jobs {
    pub(crate) fn put(&self, job: Job) {
        self.queue.lock().0.push_back(job);
        self.filled.notify_one();
    }

    /// The next one; `None` when there will be no more.
    pub(crate) fn next(&self) -> Option<Job> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.0.pop_front() {
                return Some(job);
            }
            if queue.1 {
                return None;
            }
            self.filled.wait(&mut queue);
        }
    }

    pub(crate) fn close(&self) {
        self.queue.lock().1 = true;
        self.filled.notify_all();
    }
}
