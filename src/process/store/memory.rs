//! A store that lives as long as its program.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::home::lock::Mutex;
use uuid::Uuid;

use super::super::Pid;
use super::lease::Overdue;
use super::text::{check_class, check_outcome, encode, encode_inputs, leased, taken};
use super::{
    Checkpoint, ChildKey, Claim, Clock, Inputs, LEASE_TIME, Lease, LeaseId, ListFilter, Listing, LogLine, LogPage,
    MOST_LINES, MOST_LOG_BYTES, MOST_TRANSITIONS, NewProcess, Outcome, Owner, Persister, Record, Saved, Stored,
    Summary, Transition, later,
};
use crate::error::Result;

/// Keeps processes in memory. Clones share what they keep. Its pids are UUIDs.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::process::store::{Claim, MemoryPersister, NewProcess, Owner, Persister};
///
/// let store = MemoryPersister::new();
/// let pid = store.create(NewProcess::new("relax", 5)).await?;
/// let Claim::Granted { checkpoint, .. } = store.claim(pid, Owner::this_process()).await? else { panic!("held") };
/// assert_eq!(checkpoint.class(), "relax");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemoryPersister {
    inner: Arc<Mutex<Inner>>,
    lease_time: Duration,
    clock: Clock,
}

#[derive(Default)]
struct Inner {
    /// By the order in which they came.
    processes: BTreeMap<u64, Entry>,
    orders: HashMap<Pid, u64>,
    children: HashMap<ChildKey, Pid>,
    tasks: HashMap<String, Pid>,
    owners: HashMap<Uuid, Holder>,
    overdue: Overdue,
    created: u64,
}

/// An owner with leases.
struct Holder {
    owner: Owner,
    until: SystemTime,
    /// By the orders of their processes.
    leases: BTreeSet<u64>,
}

struct Entry {
    pid: Pid,
    checkpoint: Checkpoint,
    inputs: Inputs,
    child: Option<ChildKey>,
    task: Option<String>,
    lease_number: u64,
    lease_owner: Option<Uuid>,
    transitions: VecDeque<Transition>,
    transitions_dropped: u64,
    log: VecDeque<LogLine>,
    log_next: u64,
    log_bytes: u64,
}

impl Default for MemoryPersister {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryPersister {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        MemoryPersister { inner: Arc::default(), lease_time: LEASE_TIME, clock: Clock::System }
    }

    /// With leases that last this long: at least 100 ms, at most 30 years. Default [`LEASE_TIME`].
    #[must_use]
    pub fn with_lease_time(mut self, time: Duration) -> Self {
        self.lease_time = super::lease_time(time);
        self
    }

    #[cfg(test)]
    pub(super) fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What is done when the future is polled: one that is dropped before does nothing.
    fn answer<'a, T>(&'a self, work: impl FnOnce(&mut Inner, SystemTime) -> Result<T> + Send + 'a) -> Stored<'a, T> {
        Box::pin(async move { work(&mut self.inner.lock(), self.clock.now()) })
    }
}

impl Inner {
    /// The process of a lease that no other has followed, and its place.
    fn leased(&mut self, lease: &LeaseId) -> Option<(u64, &mut Entry)> {
        let order = *self.orders.get(lease.pid())?;
        let entry = self.processes.get_mut(&order).filter(|entry| entry.lease_number == lease.number())?;
        Some((order, entry))
    }

    fn create(&mut self, new: NewProcess, now: SystemTime) -> Result<Pid> {
        check_class(&new.class)?;
        encode("the body of a checkpoint", &new.body)?;
        encode_inputs(&new.inputs)?;
        let by_key = new.child.as_ref().and_then(|key| self.children.get(key));
        let by_task = || new.task.as_ref().and_then(|task| self.tasks.get(task));
        if let Some(pid) = by_key.or_else(by_task) {
            return Ok(pid.clone());
        }
        let pid = new.pid.unwrap_or_else(|| Pid::from(crate::ids::unique()));
        if self.orders.contains_key(&pid) {
            return Err(taken(&pid));
        }
        let checkpoint = Checkpoint::new(new.class, new.body, now);
        if let Some(key) = &new.child {
            self.children.insert(key.clone(), pid.clone());
        }
        if let Some(task) = &new.task {
            self.tasks.insert(task.clone(), pid.clone());
        }
        self.created += 1;
        self.orders.insert(pid.clone(), self.created);
        let entry = Entry {
            pid: pid.clone(),
            transitions: VecDeque::from([Transition::of(&checkpoint)]),
            checkpoint,
            inputs: new.inputs,
            child: new.child,
            task: new.task,
            lease_number: 0,
            lease_owner: None,
            transitions_dropped: 0,
            log: VecDeque::new(),
            log_next: 0,
            log_bytes: 0,
        };
        self.processes.insert(self.created, entry);
        Ok(pid)
    }

    fn lease(&self, entry: &Entry) -> Option<Lease> {
        let holder = self.owners.get(&entry.lease_owner?)?;
        Some(Lease::new(holder.owner.clone(), entry.lease_number, holder.until))
    }

    fn claim(&mut self, pid: &Pid, owner: Owner, now: SystemTime, time: Duration) -> Claim {
        let found = self.orders.get(pid).and_then(|order| Some((*order, self.processes.get(order)?)));
        let Some((order, entry)) = found else { return Claim::Unknown };
        if let Some(outcome) = &entry.checkpoint.outcome {
            return Claim::Ended(outcome.clone());
        }
        let lease = self.lease(entry);
        if let Some(lease) = &lease
            && lease.stands_at(now)
        {
            return Claim::Held { by: lease.owner().clone(), until: lease.until() };
        }
        if let Some(lease) = &lease
            && !self.overdue.can_go(pid, lease, time)
        {
            return Claim::Held { by: lease.owner().clone(), until: later(now, time / 2) };
        }
        let lost = lease.map(|lease| lease.owner().clone());
        self.end_lease(order);
        let worker = owner.worker();
        let until = later(now, time);
        let holder = self.owners.entry(worker).or_insert(Holder { owner, until, leases: BTreeSet::new() });
        holder.until = until;
        holder.leases.insert(order);
        let Some(entry) = self.processes.get_mut(&order) else { return Claim::Unknown };
        entry.lease_number += 1;
        entry.lease_owner = Some(worker);
        Claim::Granted { lease: LeaseId::new(pid, entry.lease_number), checkpoint: entry.checkpoint.clone(), lost }
    }

    fn renew(&mut self, owner: &Owner, until: SystemTime) -> Vec<LeaseId> {
        let Some(holder) = self.owners.get_mut(&owner.worker()) else { return Vec::new() };
        holder.until = until;
        let entries = holder.leases.iter().filter_map(|order| self.processes.get(order));
        entries.map(|entry| LeaseId::new(&entry.pid, entry.lease_number)).collect()
    }

    fn release(&mut self, lease: &LeaseId) {
        let Some(&order) = self.orders.get(lease.pid()) else { return };
        if self.processes.get(&order).is_some_and(|entry| entry.lease_number == lease.number()) {
            self.end_lease(order);
        }
    }

    /// Takes the lease of a process from its owner. An owner without leases is forgotten.
    fn end_lease(&mut self, order: u64) {
        let Some(worker) = self.processes.get_mut(&order).and_then(|entry| entry.lease_owner.take()) else { return };
        if let Some(holder) = self.owners.get_mut(&worker) {
            holder.leases.remove(&order);
            if holder.leases.is_empty() {
                self.owners.remove(&worker);
            }
        }
    }

    fn save(&mut self, lease: &LeaseId, checkpoint: Checkpoint) -> Result<Saved> {
        check_outcome(&checkpoint)?;
        encode("the body of a checkpoint", &checkpoint.body)?;
        encode("what a wait has brought", &checkpoint.brought)?;
        if let Some(Outcome::Finished { outputs, .. }) = &checkpoint.outcome {
            encode("the outputs of a process", outputs)?;
        }
        let Some((order, entry)) = self.leased(lease) else { return Ok(Saved::LeaseLost) };
        if entry.lease_owner.is_none() {
            // The lease has ended with the process, by this very checkpoint.
            let is_stored = checkpoint.outcome.is_some() && entry.checkpoint == checkpoint;
            return Ok(if is_stored { Saved::Stored } else { Saved::LeaseLost });
        }
        let transition = Transition::of(&checkpoint);
        if entry.transitions.back().is_none_or(|last| !last.is_same(&transition)) {
            entry.transitions.push_back(transition);
            if entry.transitions.len() as u64 > MOST_TRANSITIONS {
                // The first one stays: it has the time of the creation.
                entry.transitions.remove(1);
                entry.transitions_dropped += 1;
            }
        }
        let has_ended = checkpoint.outcome.is_some();
        entry.checkpoint = checkpoint;
        if has_ended {
            self.end_lease(order);
        }
        Ok(Saved::Stored)
    }

    fn append_log(&mut self, lease: &LeaseId, lines: Vec<LogLine>) -> Saved {
        let Some((_, entry)) = self.leased(lease) else { return Saved::LeaseLost };
        for mut line in lines {
            line.number = entry.log_next;
            entry.log_next += 1;
            entry.log_bytes += line.text.len() as u64;
            entry.log.push_back(line);
            while entry.log.len() as u64 > MOST_LINES || entry.log_bytes > MOST_LOG_BYTES {
                let Some(oldest) = entry.log.pop_front() else { break };
                entry.log_bytes -= oldest.text.len() as u64;
            }
        }
        Saved::Stored
    }

    fn log(&self, pid: &Pid, from: u64, limit: usize) -> LogPage {
        let entry = self.orders.get(pid).and_then(|order| self.processes.get(order));
        let Some(entry) = entry else { return LogPage { next: from, is_at_end: true, ..LogPage::default() } };
        let first = entry.log_next - entry.log.len() as u64;
        let start = from.max(first).min(entry.log_next);
        let skipped = usize::try_from(start - first).unwrap_or(usize::MAX);
        let lines: Vec<_> = entry.log.iter().skip(skipped).take(limit).cloned().collect();
        let next = start + lines.len() as u64;
        LogPage { lines, next, dropped: first.saturating_sub(from), is_at_end: next == entry.log_next }
    }

    fn record(&self, pid: &Pid) -> Option<Record> {
        let entry = self.processes.get(self.orders.get(pid)?)?;
        Some(Record {
            pid: entry.pid.clone(),
            checkpoint: entry.checkpoint.clone(),
            inputs: entry.inputs.clone(),
            child: entry.child.clone(),
            lease: self.lease(entry),
            transitions: entry.transitions.iter().copied().collect(),
            transitions_dropped: entry.transitions_dropped,
            log_lines: entry.log_next,
        })
    }

    fn summary(&self, entry: &Entry) -> Summary {
        let checkpoint = &entry.checkpoint;
        let exit_status = match checkpoint.outcome {
            Some(Outcome::Finished { exit_status, .. }) => Some(exit_status),
            _ => None,
        };
        Summary {
            pid: entry.pid.clone(),
            class: checkpoint.class.clone(),
            state: checkpoint.state,
            step: checkpoint.step,
            pause: checkpoint.pause.clone(),
            status_text: checkpoint.status_text.clone(),
            created: checkpoint.created,
            changed: checkpoint.changed,
            exit_status,
            task: entry.task.clone(),
            lease: self.lease(entry),
        }
    }

    fn list(&self, filter: &ListFilter) -> Listing {
        let is_wanted = |checkpoint: &Checkpoint| {
            (filter.states.is_empty() || filter.states.contains(&checkpoint.state))
                && filter.class.as_ref().is_none_or(|class| *class == checkpoint.class)
                && filter.created_since.is_none_or(|time| checkpoint.created >= time)
                && filter.changed_since.is_none_or(|time| checkpoint.changed >= time)
        };
        let wanted = self.processes.values().rev().filter(|entry| is_wanted(&entry.checkpoint));
        let processes = wanted.take(filter.limit.unwrap_or(usize::MAX)).map(|entry| self.summary(entry)).collect();
        Listing { processes, unreadable: Vec::new() }
    }

    fn delete(&mut self, pid: &Pid, now: SystemTime) -> Result<bool> {
        let Some(&order) = self.orders.get(pid) else { return Ok(false) };
        if let Some(lease) = self.processes.get(&order).and_then(|entry| self.lease(entry))
            && lease.stands_at(now)
        {
            return Err(leased(pid, lease.owner()));
        }
        self.end_lease(order);
        self.orders.remove(pid);
        let Some(entry) = self.processes.remove(&order) else { return Ok(false) };
        if let Some(key) = entry.child {
            self.children.remove(&key);
        }
        if let Some(task) = entry.task {
            self.tasks.remove(&task);
        }
        Ok(true)
    }
}

impl Persister for MemoryPersister {
    fn lease_time(&self) -> Duration {
        self.lease_time
    }

    fn create(&self, new: NewProcess) -> Stored<'_, Pid> {
        self.answer(move |inner, now| inner.create(new, now))
    }

    fn claim(&self, pid: Pid, owner: Owner) -> Stored<'_, Claim> {
        let time = self.lease_time;
        self.answer(move |inner, now| Ok(inner.claim(&pid, owner, now, time)))
    }

    fn save(&self, lease: LeaseId, checkpoint: Checkpoint) -> Stored<'_, Saved> {
        self.answer(move |inner, _| inner.save(&lease, checkpoint))
    }

    fn renew(&self, owner: Owner) -> Stored<'_, Vec<LeaseId>> {
        let time = self.lease_time;
        self.answer(move |inner, now| Ok(inner.renew(&owner, later(now, time))))
    }

    fn release(&self, lease: LeaseId) -> Stored<'_, ()> {
        self.answer(move |inner, _| {
            inner.release(&lease);
            Ok(())
        })
    }

    fn record(&self, pid: Pid) -> Stored<'_, Option<Record>> {
        self.answer(move |inner, _| Ok(inner.record(&pid)))
    }

    fn list(&self, filter: ListFilter) -> Stored<'_, Listing> {
        self.answer(move |inner, _| Ok(inner.list(&filter)))
    }

    fn append_log(&self, lease: LeaseId, lines: Vec<LogLine>) -> Stored<'_, Saved> {
        self.answer(move |inner, _| Ok(inner.append_log(&lease, lines)))
    }

    fn log(&self, pid: Pid, from: u64, limit: usize) -> Stored<'_, LogPage> {
        self.answer(move |inner, _| Ok(inner.log(&pid, from, limit)))
    }

    fn delete(&self, pid: Pid) -> Stored<'_, bool> {
        self.answer(move |inner, now| inner.delete(&pid, now))
    }
}

impl fmt::Debug for MemoryPersister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processes = self.inner.lock().processes.len();
        f.debug_struct("MemoryPersister").field("processes", &processes).finish_non_exhaustive()
    }
}
