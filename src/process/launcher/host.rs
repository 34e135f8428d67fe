//! One process from its claim to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::super::class::{AfterLoss, failed};
use super::super::run::{Message, Run, RunEnd, Start};
use super::super::slots::Slot;
use super::super::store::{Checkpoint, Claim, LeaseId, Outcome, Owner};
use super::super::tools::NotStored;
use super::super::{Pid, ProcessState};
use super::{Entry, Inner, NotDone, Running, rpc};
use crate::HandlerError;

/// How long is waited before the store is asked again for a process that another worker has: this, and then twice as long each
/// time.
const ASK_FIRST: Duration = Duration::from_secs(1);
const ASK_MOST: Duration = Duration::from_secs(30);

type Inbox = mpsc::UnboundedReceiver<Message>;

/// Takes a process out of the table, whatever comes.
struct InTable {
    inner: Arc<Inner>,
    pid: Pid,
    number: u64,
}

impl Drop for InTable {
    fn drop(&mut self) {
        let mut table = self.inner.table.lock();
        if table.entries.get(&self.pid).is_some_and(|entry| entry.number == self.number) {
            table.entries.remove(&self.pid);
        }
        let is_over = table.leaving && table.entries.is_empty();
        drop(table);
        self.inner.left.notify_waiters();
        if is_over {
            self.inner.stops.send_replace(true);
        }
    }
}

/// A claimed process.
struct Claimed {
    lease: LeaseId,
    checkpoint: Checkpoint,
    lost: Option<Owner>,
}

impl Inner {
    /// Runs a process here, unless it does already: then this is the same run.
    ///
    /// # Errors
    /// When no process comes in any more.
    pub(super) fn begin(self: &Arc<Self>, pid: &Pid, slot: Option<Slot>) -> Result<Running, NotDone> {
        let mut table = self.table.lock();
        // Guards: one pid that runs here twice.
        if let Some(entry) = table.entries.get(pid) {
            return Ok(Running { end: entry.end.clone(), reachable: entry.reachable.clone() });
        }
        if table.leaving {
            return Err(NotDone::Back);
        }
        table.number += 1;
        let number = table.number;
        let (to_run, inbox) = mpsc::unbounded_channel();
        let (ends, end) = watch::channel(None);
        let (reaches, reachable) = watch::channel(false);
        let running = Running { end: end.clone(), reachable: reachable.clone() };
        table.entries.insert(pid.clone(), Entry { number, to_run: to_run.clone(), end, reachable, lease: None });
        drop(table);
        let in_table = InTable { inner: Arc::clone(self), pid: pid.clone(), number };
        self.tools.home.spawn_uncounted(host(in_table, to_run, inbox, ends, reaches, slot));
        Ok(running)
    }

    fn note_lease(&self, pid: &Pid, lease: Option<(LeaseId, Instant)>) {
        if let Some(entry) = self.table.lock().entries.get_mut(pid) {
            entry.lease = lease;
        }
    }
}

async fn host(
    in_table: InTable,
    to_run: mpsc::UnboundedSender<Message>,
    mut inbox: Inbox,
    ends: watch::Sender<Option<RunEnd>>,
    reaches: watch::Sender<bool>,
    mut slot: Option<Slot>,
) {
    let (inner, pid) = (&in_table.inner, &in_table.pid);
    let came_with_slot = slot.is_some();
    let claimed = match inner.unless_over(claim(inner, pid, &mut inbox, &mut slot)).await {
        Some(Ok(claimed)) => claimed,
        Some(Err(end)) => return drop(ends.send_replace(Some(end))),
        None => return drop(ends.send_replace(Some(RunEnd::Left))),
    };
    let (instance, fails) = match prepare(inner, &claimed) {
        Ok(prepared) => prepared,
        Err(error) => {
            inner.unless_over(inner.tools.give_back(claimed.lease)).await;
            return drop(ends.send_replace(Some(RunEnd::Failed(error))));
        }
    };
    if came_with_slot && slot.is_none() && fails.is_none() && is_to_run(&claimed.checkpoint) {
        slot = inner.tools.slots.try_take();
        if slot.is_none() {
            // Guards: a process that stands here until a slot is free, while another worker has one.
            inner.unless_over(inner.tools.give_back(claimed.lease)).await;
            return drop(ends.send_replace(Some(RunEnd::Left)));
        }
    }
    let after_loss = inner.tools.registry.class(claimed.checkpoint.class()).map(|class| class.after_loss);
    let (at_end, ended) = oneshot::channel();
    let (removes, removed) = oneshot::channel();
    let communicator = inner.tools.communicator.clone();
    let reach = rpc::keep_reachable(communicator, pid.clone(), to_run.clone(), reaches, ended, removes);
    inner.tools.home.spawn_uncounted(reach);
    let start = Start {
        pid: pid.clone(),
        lease: claimed.lease,
        checkpoint: claimed.checkpoint,
        instance,
        slot,
        inbox,
        to_self: to_run,
    };
    let mut run = Run::new(Arc::clone(&inner.tools), start);
    let end = run.run(fails).await;
    if matches!(end, RunEnd::Left) {
        // What must not be done twice keeps its lease where it was aborted, so that whoever claims it next knows.
        if run.was_in_step() && after_loss.is_ok_and(|rule| rule == AfterLoss::MarkLost) {
            run.keep_lease();
        } else {
            inner.unless_over(run.release()).await;
        }
    }
    // Whoever renews leases is to leave this one alone.
    inner.note_lease(pid, None);
    ends.send_replace(Some(end));
    drop(at_end);
    run.linger(removed).await;
}

/// Asks for the lease until it is granted, or the process has ended.
async fn claim(inner: &Arc<Inner>, pid: &Pid, inbox: &mut Inbox, slot: &mut Option<Slot>) -> Result<Claimed, RunEnd> {
    let tools = &inner.tools;
    let watch = tools.ends.watch(pid);
    let mut pause = ASK_FIRST;
    loop {
        let notified = watch.notified();
        let what = "a process could not be claimed";
        let claim = tools.for_a_task(what, |store| store.claim(pid.clone(), tools.owner.clone()));
        let since = Instant::now();
        let by = match claim.await {
            Ok(Claim::Granted { lease, checkpoint, lost, .. }) => {
                inner.note_lease(pid, Some((lease.clone(), since)));
                return Ok(Claimed { lease, checkpoint, lost });
            }
            Ok(Claim::Ended(outcome)) => return Err(RunEnd::Ended(outcome)),
            Ok(Claim::Held { by, .. }) if by.worker() == tools.owner.worker() && take_back(inner, pid).await => {
                continue;
            }
            Ok(Claim::Held { by, .. }) => by,
            Ok(_) => return Err(RunEnd::NotHere),
            Err(NotStored::Unavailable) => return Err(RunEnd::Left),
            Err(NotStored::Failed(error)) if error.is_connection() => return Err(RunEnd::Left),
            Err(NotStored::Failed(error)) => return Err(RunEnd::Failed(error.into())),
        };
        crate::log::debug!(%pid, %by, ?pause, "another worker has a process; it is waited for");
        // It runs elsewhere, and needs no slot here.
        *slot = None;
        let waited = async {
            tokio::select! {
                () = tools.notified_within(notified, pause) => false,
                message = leave(inbox) => message,
            }
        };
        if waited.await {
            return Err(RunEnd::Left);
        }
        pause = (pause * 2).min(ASK_MOST);
    }
}

/// Gives a lease of this worker's back that no run has here. True if there was one.
///
/// Guards: a claim that was granted, and whose answer was lost on its way. Its lease would be renewed for ever, and nobody
/// would run the process.
async fn take_back(inner: &Inner, pid: &Pid) -> bool {
    let tools = &inner.tools;
    let Ok(leases) = tools.store.ask(|store| store.renew(tools.owner.clone())).await else { return false };
    let Some(lease) = leases.into_iter().find(|lease| lease.pid() == pid) else { return false };
    if tools.kept.lock().contains(&lease) {
        return false;
    }
    crate::log::warn!(%pid, "this worker has the lease of a process that it does not run; it is taken anew");
    tools.store.ask(|store| store.release(lease)).await.is_ok()
}

/// True when the process is not to be waited for any more. Requests are for whoever runs it.
async fn leave(inbox: &mut Inbox) -> bool {
    loop {
        match inbox.recv().await {
            Some(Message::Leave | Message::Gone) | None => return true,
            Some(_) => {}
        }
    }
}

/// Whether its next step is due.
fn is_to_run(checkpoint: &Checkpoint) -> bool {
    checkpoint.pause().is_none() && matches!(checkpoint.state(), ProcessState::Created | ProcessState::Running)
}

type Prepared = (Box<dyn super::super::class::Instance>, Option<Outcome>);

/// Reads a checkpoint, and decides what becomes of a process whose worker was lost.
fn prepare(inner: &Inner, claimed: &Claimed) -> Result<Prepared, HandlerError> {
    let checkpoint = &claimed.checkpoint;
    let class = inner.class(checkpoint.class())?;
    let instance = class.load(checkpoint.class(), checkpoint.body())?;
    let is_begun = match checkpoint.pause() {
        // Its step stood still, and is gone.
        Some(pause) => pause.is_in_step(),
        None => checkpoint.state() == ProcessState::Running && claimed.lost.is_some(),
    };
    let fails = (is_begun && class.after_loss == AfterLoss::MarkLost).then(|| {
        let step = checkpoint.step();
        let by = claimed.lost.as_ref().map_or_else(|| "its worker".to_owned(), ToString::to_string);
        failed("Lost", format!("{by} ended in the middle of step {step}, and the class does not run a step twice"))
    });
    Ok((instance, fails))
}
