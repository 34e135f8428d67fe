//! What all processes of one launcher share.

use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::home::lock::Mutex;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{Notify, mpsc};

use super::availability::{Availability, Standing};
use super::class::Registry;
use super::slots::Slots;
use super::store::{LEASE_TIME, LeaseId, Owner, Persister, Stored};
use super::{Pid, StateChange};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::panics::{self, caught};
use crate::{Communicator, TaskQueue};

/// How long is waited before a store is asked again that did not answer: this, and then twice as long each time, up to
/// [`RETRY_MOST`].
const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(super) const RETRY_MOST: Duration = Duration::from_secs(10);

/// How long a check of the store may take. One that takes longer has failed.
const CHECK_WITHIN: Duration = Duration::from_secs(30);

/// How often a call of the store's is reported that is not answered.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// How often the store is asked whether a process has ended, beside the broadcasts that notify of it: this, and then twice as
/// long each time.
const LOOK_FIRST: Duration = Duration::from_secs(5);
pub(super) const LOOK_MOST: Duration = Duration::from_secs(60);

pub(super) type ChangeListener = Arc<dyn Fn(&StateChange) + Send + Sync>;

pub(super) struct Tools {
    pub(super) communicator: Communicator,
    /// Where everything runs.
    pub(super) home: Home,
    pub(super) store: Store,
    /// Whether that can be used.
    pub(super) availability: Availability,
    pub(super) registry: Registry,
    /// Where the tasks of children go.
    pub(super) queue: TaskQueue,
    pub(super) owner: Owner,
    pub(super) slots: Slots,
    /// Leases that are kept though their processes have left: steps of them are still here.
    pub(super) kept: Mutex<HashSet<LeaseId>>,
    pub(super) ends: Ends,
    pub(super) announcer: Announcer,
    pub(super) listeners: Vec<ChangeListener>,
}

/// A store of users' code. A panic of it is a failure of that call, and a call that is not answered is reported.
pub(super) struct Store {
    persister: Arc<dyn Persister>,
    /// For its clock.
    communicator: Communicator,
}

impl Store {
    pub(super) fn new(persister: Arc<dyn Persister>, communicator: Communicator) -> Self {
        Store { persister, communicator }
    }

    pub(super) async fn ask<T: Send>(
        &self,
        call: impl for<'a> FnOnce(&'a dyn Persister) -> Stored<'a, T>,
    ) -> Result<T> {
        let failed = |panic: String| Error::new(ErrorKind::Internal, format!("the store panicked: {panic}"));
        let answer = caught(|| call(&*self.persister)).map_err(failed)?;
        let mut answered = std::pin::pin!(AssertUnwindSafe(answer).catch_unwind());
        let begun = Instant::now();
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut answered => break answer,
                slept = self.communicator.sleep(REPORT_EVERY) => match slept {
                    Ok(()) => crate::log::warn!(waited = ?begun.elapsed(), "a store has not answered; it is still waited for"),
                    // Without a clock.
                    Err(_) => break answered.await,
                }
            }
        };
        answer.unwrap_or_else(|panic| Err(failed(panics::text(panic))))
    }

    /// The same for as long as this at most.
    ///
    /// # Errors
    /// `TimedOut` when it has not answered by then, and `CommunicatorClosed` when there is no clock: it may be done all the same.
    pub(super) async fn ask_within<T: Send>(
        &self,
        limit: Duration,
        call: impl for<'a> FnOnce(&'a dyn Persister) -> Stored<'a, T>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            answer = self.ask(call) => answer,
            slept = self.communicator.sleep(limit) => {
                slept?;
                Err(Error::new(ErrorKind::TimedOut, format!("the store has not answered within {limit:?}")))
            }
        }
    }

    pub(super) fn lease_time(&self) -> Duration {
        super::store::lease_time(caught(|| self.persister.lease_time()).unwrap_or(LEASE_TIME))
    }
}

impl From<Error> for NotStored {
    fn from(error: Error) -> Self {
        NotStored::Failed(error)
    }
}

/// Whether asking again may help.
pub(super) fn is_temporary(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::Encode | ErrorKind::Decode | ErrorKind::InvalidArgument | ErrorKind::InvalidState
    )
}

/// Why the store has not done what a task asks for.
pub(super) enum NotStored {
    /// It cannot be used at present, and nothing was done.
    Unavailable,
    /// No second attempt would change this.
    Failed(Error),
}

impl Tools {
    /// Asks the store until it answers, for a process that is here. While the store cannot be used, it is waited for.
    ///
    /// # Errors
    /// What no second attempt would change; `CommunicatorClosed` when there is no time any more.
    pub(super) async fn persistently<T: Send>(
        &self,
        what: &str,
        call: impl for<'a> Fn(&'a dyn Persister) -> Stored<'a, T> + Send + Sync,
    ) -> Result<T> {
        let mut pause = RETRY_FIRST;
        loop {
            let error = match self.store.ask(&call).await {
                Err(error) if is_temporary(&error) => error,
                answered => return answered,
            };
            if self.while_open(self.availability.doubt()).await? == Standing::Fails {
                self.while_open(self.availability.until_works()).await?;
                pause = RETRY_FIRST;
            } else {
                self.pause(what, &error, &mut pause).await?;
            }
        }
    }

    /// The same for a task, whose process nobody has yet: it is to go back while the store cannot be used.
    ///
    /// # Errors
    /// As [`persistently`](Self::persistently), and `Unavailable`.
    pub(super) async fn for_a_task<T: Send>(
        &self,
        what: &str,
        call: impl for<'a> Fn(&'a dyn Persister) -> Stored<'a, T> + Send + Sync,
    ) -> std::result::Result<T, NotStored> {
        let mut pause = RETRY_FIRST;
        loop {
            self.until_usable().await?;
            let error = match self.store.ask(&call).await {
                Err(error) if is_temporary(&error) => error,
                answered => return answered.map_err(NotStored::Failed),
            };
            if self.while_open(self.availability.doubt()).await? != Standing::Fails {
                self.pause(what, &error, &mut pause).await?;
            }
        }
    }

    /// Resolves when the store can be used, as far as is known.
    ///
    /// # Errors
    /// `Unavailable` when it cannot, after it has been checked once more: a failure that passes quickly sends no task back, and
    /// tasks that a broker hands out again at once come no faster than the store is checked. `Unavailable` too when the launcher
    /// has left or its home has ended.
    pub(super) async fn until_usable(&self) -> std::result::Result<(), NotStored> {
        if self.availability.has_ended() {
            return Err(NotStored::Unavailable);
        }
        match self.while_open(self.availability.checked_once_more()).await? {
            Standing::Fails => Err(NotStored::Unavailable),
            Standing::Works | Standing::Doubted => Ok(()),
        }
    }

    /// The store works, and has failed at this.
    async fn pause(&self, what: &str, error: &Error, pause: &mut Duration) -> Result<()> {
        crate::log::warn!(%error, ?pause, "{what}; it is tried again");
        self.communicator.sleep(*pause).await?;
        *pause = (*pause * 2).min(RETRY_MOST);
        Ok(())
    }

    /// Waits for what a check of the store brings, as long as there are checks and the communicator is open.
    // Guards: a task that was handed to a launcher from another home than its own. That home ends, and with it the checks.
    async fn while_open<T>(&self, waited: impl Future<Output = T>) -> Result<T> {
        let (mut waited, mut ended) = (std::pin::pin!(waited), std::pin::pin!(self.availability.until_ended()));
        loop {
            tokio::select! {
                biased;
                done = &mut waited => return Ok(done),
                () = &mut ended => {
                    let text = "the launcher has left, or its home has ended; it asks its store no more";
                    return Err(Error::new(ErrorKind::HomeEnded, text));
                }
                slept = self.communicator.sleep(LOOK_MOST) => slept?,
            }
        }
    }

    /// Checks the store whenever it is in doubt, until the communicator is closed.
    pub(super) async fn watch_store(&self) {
        // Guards: a store that does not answer. Who asks whether it fails would wait for ever.
        let check = || self.store.ask_within(CHECK_WITHIN, |store| store.check(self.owner.clone()));
        self.availability.watch(check, |pause| self.communicator.sleep(pause)).await;
    }

    /// Gives a lease back, so that another worker can go on at once.
    pub(super) async fn give_back(&self, lease: LeaseId) {
        let pid = lease.pid().clone();
        if let Err(error) = self.store.ask(|store| store.release(lease)).await {
            crate::log::warn!(%error, %pid, "the lease of a process could not be given back; it runs out by itself");
        }
    }

    /// Notifies of a change that is stored: everybody by a broadcast, and the listeners here.
    pub(super) fn announce(&self, change: StateChange) {
        for listener in &self.listeners {
            if let Err(panic) = caught(|| listener(&change)) {
                crate::log::error!(pid = %change.pid(), %panic, "a listener for changes of state panicked");
            }
        }
        if change.to().is_terminal() {
            self.ends.notify(change.pid());
        }
        self.announcer.announce(change);
    }

    /// Resolves when all of these processes have ended.
    pub(super) async fn all_ended(self: Arc<Self>, pids: Vec<Pid>) {
        for pid in &pids {
            self.ended(pid).await;
        }
    }

    async fn ended(&self, pid: &Pid) {
        let watch = self.ends.watch(pid);
        let mut pause = LOOK_FIRST;
        loop {
            // Before the store is asked, so that no end comes between the two.
            let notified = watch.notified();
            match self.store.ask(|store| store.record(pid.clone())).await {
                Ok(Some(record)) if record.outcome().is_none() => {}
                Ok(Some(_)) => return,
                Ok(None) => {
                    crate::log::warn!(%pid, "a process is waited for that is not in the store; it counts as ended");
                    return;
                }
                // A record that cannot be read is one that may be repaired.
                Err(error) => crate::log::warn!(%error, %pid, "the store does not know whether a process has ended"),
            }
            self.notified_within(notified, pause).await;
            pause = (pause * 2).min(LOOK_MOST);
        }
    }

    /// Whether this is done within the limit. After the communicator has closed, a thread keeps the time.
    pub(super) async fn within(&self, limit: Duration, done: impl Future<Output = ()>) -> bool {
        let mut done = std::pin::pin!(done);
        tokio::select! {
            biased;
            () = &mut done => return true,
            slept = self.communicator.sleep(limit) => if slept.is_ok() { return false },
        }
        let (keeps, kept) = tokio::sync::oneshot::channel::<()>();
        // The thread ends with this wait, if that is earlier.
        let (_waits, ends) = std::sync::mpsc::channel::<()>();
        let clock = crate::home::fork::spawn(std::thread::Builder::new().name("homing-leave".to_owned()), move || {
            let _ = ends.recv_timeout(limit);
            drop(keeps);
        });
        if clock.is_err() {
            return false;
        }
        tokio::select! {
            biased;
            () = done => true,
            _ = kept => false,
        }
    }

    /// Waits for a notice, and no longer than this. Without a clock, after the communicator has closed, until the notice.
    pub(super) async fn notified_within(&self, notified: impl Future<Output = ()>, limit: Duration) {
        let notified = std::pin::pin!(notified);
        let sleep = std::pin::pin!(self.communicator.sleep(limit));
        if let Either::Right((Err(_), notified)) = select(notified, sleep).await {
            notified.await;
        }
    }

    /// The same where nothing is to be waited for without a clock.
    pub(super) async fn notified_while_open(&self, notified: impl Future<Output = ()>, limit: Duration) {
        let notified = std::pin::pin!(notified);
        let sleep = std::pin::pin!(self.communicator.sleep(limit));
        select(notified, sleep).await;
    }
}

/// Who waits for the ends of processes.
#[derive(Default)]
pub(super) struct Ends(Arc<Mutex<HashMap<Pid, Watched>>>);

/// A process whose end is waited for.
#[derive(Default)]
struct Watched {
    watches: usize,
    notify: Arc<Notify>,
}

pub(super) struct EndWatch {
    all: Arc<Mutex<HashMap<Pid, Watched>>>,
    pid: Pid,
    notify: Arc<Notify>,
}

impl Ends {
    /// Notifies who waits for the end of this process.
    pub(super) fn notify(&self, pid: &Pid) {
        let notify = self.0.lock().get(pid).map(|watched| Arc::clone(&watched.notify));
        // Not under the lock: a foreign loop's hook may come back.
        if let Some(notify) = notify {
            notify.notify_waiters();
        }
    }

    pub(super) fn watch(&self, pid: &Pid) -> EndWatch {
        let mut all = self.0.lock();
        let watched = all.entry(pid.clone()).or_default();
        watched.watches += 1;
        EndWatch { all: Arc::clone(&self.0), pid: pid.clone(), notify: Arc::clone(&watched.notify) }
    }
}

impl EndWatch {
    pub(super) fn notified(&self) -> impl Future<Output = ()> + '_ {
        self.notify.notified()
    }
}

impl Drop for EndWatch {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // Guards: two that go at once. They are counted under this lock, so that the last one takes the entry with it.
        if let Some(watched) = all.get_mut(&self.pid) {
            watched.watches -= 1;
            if watched.watches == 0 {
                all.remove(&self.pid);
            }
        }
    }
}

/// How many broadcasts of changes wait to be sent. While there is no connection, more are dropped: nobody would receive them.
const MOST_WAITING: usize = 10_000;

/// How many broadcasts may be on their way at once.
const MOST_UNDER_WAY: usize = 200;

/// Broadcasts changes of state, in their order, without anybody having to wait for that.
#[derive(Clone)]
pub(super) struct Announcer(mpsc::Sender<StateChange>);

impl Announcer {
    /// And what sends them, to be run at a home.
    pub(super) fn new(communicator: Communicator) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, changes) = mpsc::channel(MOST_WAITING);
        (Announcer(sender), send_all(communicator, changes))
    }

    pub(super) fn announce(&self, change: StateChange) {
        if let Err(mpsc::error::TrySendError::Full(change)) = self.0.try_send(change) {
            crate::log::warn!(pid = %change.pid(), "a change of state is not broadcast, for too many wait to be sent");
        }
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

async fn send_all(communicator: Communicator, mut changes: mpsc::Receiver<StateChange>) {
    let mut under_way: FuturesUnordered<Sending> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(sent) = under_way.next() => if let Err(error) = sent {
                crate::log::debug!(%error, "a change of state was not broadcast");
            },
            change = changes.recv(), if under_way.len() < MOST_UNDER_WAY => {
                let Some(change) = change else { break };
                let send = communicator.broadcast_send(()).sender(change.pid()).subject(change.subject());
                let mut send: Sending = Box::pin(send);
                // The first poll puts it into the communicator's line, in its turn.
                let polled = poll_fn(|context| Poll::Ready(send.as_mut().poll(context))).await;
                if polled.is_pending() {
                    under_way.push(send);
                }
            }
        }
    }
    while under_way.next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_notified_without_the_lock() {
        let ends = Arc::new(Ends::default());
        let pid = Pid::from(1);
        let watch = ends.watch(&pid);
        let mut notified = Box::pin(watch.notified());
        // A waker that comes back, as the hook of a foreign loop may.
        let (back, of) = (Arc::clone(&ends), pid.clone());
        let waker = crate::process::slots::waker_that(move || drop(back.watch(&of)));
        assert!(notified.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        ends.notify(&pid);
        notified.await;
        drop(watch);
        assert!(ends.0.lock().is_empty());
    }

    #[tokio::test]
    async fn an_end_is_notified_for_as_long_as_somebody_watches() {
        let ends = Ends::default();
        let pid = Pid::from(1);
        let watches = [ends.watch(&pid), ends.watch(&pid), ends.watch(&Pid::from(2))];
        let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
        let [first, second, other] = watches;
        let (mut notified, mut not_ended) = (Box::pin(second.notified()), Box::pin(other.notified()));
        assert!(notified.as_mut().poll(&mut waker).is_pending());
        assert!(not_ended.as_mut().poll(&mut waker).is_pending());
        // Guards: one that goes and takes the entry of those who stay.
        drop(first);
        ends.notify(&pid);
        assert!(notified.as_mut().poll(&mut waker).is_ready());
        assert!(not_ended.as_mut().poll(&mut waker).is_pending());
        drop(notified);
        drop(second);
        drop(not_ended);
        assert_eq!(ends.0.lock().len(), 1);
        drop(other);
        assert!(ends.0.lock().is_empty());
    }
}
