//! What of a communicator thread is seen from outside: the way for commands, what may be under way, how things stand, and
//! what it emits. Handles and subscribers hold it; it holds nothing of a user's.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::home::lock::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

pub use events::{ChannelCause, ConnectionEvent, ConnectionState, Events};
pub(crate) use homes::Serves;
pub(crate) use mailbox::{Limits as MailboxLimits, Mailbox, MailboxSender, MailboxStream, Received};
pub(crate) use permits::{Charge, WaiterId, WhenFull};
pub(crate) use signal::{Giver, Listener, Signal};

use self::events::Feed;
use self::permits::{Admission, Permits};
use super::command::{CloseReport, Command, Expiry, TimerId};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, End, Expirer, Home, HomeFuture, ReserveError};
use crate::threads::ThreadHandle;
use crate::wire::names::Names;

pub(crate) mod events;
mod homes;
mod mailbox;
mod permits;
mod signal;

/// How often a wait without a deadline is reported.
pub(crate) const REPORT_EVERY: Duration = Duration::from_secs(60);

/// Whether bodies leave this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// They are encoded.
    Encoded,
    /// Values are passed as they are; that they could be encoded is checked, so that nothing passes here and fails there.
    Passed,
}

/// A future at its home, and what completes it.
pub(crate) type Place<T> = (Completer<T>, HomeFuture<T>);

pub(crate) struct Port {
    /// Unbounded, since what goes in is bounded otherwise: new work holds a charge, everything else answers a delivery.
    commands: mpsc::UnboundedSender<Command>,
    permits: Permits<Command>,
    #[cfg(any(test, feature = "metrics"))]
    in_flight: InFlight,
    pub(crate) names: Names,
    pub(crate) transfer: Transfer,
    /// For errors: the URL without its password.
    pub(crate) broker: String,
    /// The process whose threads serve this. A fork has a copy of the port, and none of the threads.
    process: u32,
    pub(crate) counters: Counters,
    feed: Feed,
    /// Where something of this communicator runs, to be read off.
    homes: homes::Homes,
    status: Mutex<Status>,
    /// Why nothing can be asked of it any more, from the moment that it takes no new work.
    end: OnceLock<Error>,
    /// Set as the last act of the communicator thread.
    report: OnceLock<CloseReport>,
    threads: Mutex<Vec<ThreadHandle>>,
    /// Of timers, subscribers and pulls.
    last_id: AtomicU64,
    id: Uuid,
    /// What the communicator thread still holds, as of its last step; for tests.
    #[cfg(test)]
    pub(crate) left: Mutex<Vec<(&'static str, usize)>>,
    /// How long a close waits for a place at its home, at most.
    pub(crate) close_timeout: Duration,
    /// How long a question to the broker may take, and how long one to the communicator waits for a place at its home.
    pub(crate) operation_timeout: Duration,
}

struct Status {
    state: ConnectionState,
    server_properties: Vec<(String, String)>,
}

/// Things that are dropped by rule rather than by error; see [`CommunicatorCounts`](crate::CommunicatorCounts).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) late_replies: AtomicU64,
    pub(crate) replies_unroutable: AtomicU64,
    pub(crate) replies_not_wanted: AtomicU64,
    pub(crate) losses: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) broadcasts_unreadable: AtomicU64,
    pub(crate) broadcasts_lagged: AtomicU64,
    pub(crate) tasks_quarantined: AtomicU64,
    pub(crate) tasks_adopted: AtomicU64,
    pub(crate) tasks_answered_again: AtomicU64,
    pub(crate) answered_again: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    count_many(counter, 1);
}

pub(crate) fn count_many(counter: &AtomicU64, number: u64) {
    // Ordering: Relaxed, for a counter orders nothing.
    counter.fetch_add(number, Ordering::Relaxed);
}

/// How much may be on its way to the broker at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InFlight {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Port {
    pub(crate) fn new(
        commands: mpsc::UnboundedSender<Command>,
        names: Names,
        transfer: Transfer,
        broker: String,
        in_flight: InFlight,
        close_timeout: Duration,
        operation_timeout: Duration,
    ) -> Self {
        Port {
            commands,
            permits: Permits::new(in_flight.messages, in_flight.bytes),
            #[cfg(any(test, feature = "metrics"))]
            in_flight,
            homes: homes::Homes::default(),
            names,
            transfer,
            broker,
            process: std::process::id(),
            counters: Counters::default(),
            feed: Feed::default(),
            status: Mutex::new(Status { state: ConnectionState::Connecting, server_properties: Vec::new() }),
            end: OnceLock::new(),
            report: OnceLock::new(),
            threads: Mutex::new(Vec::new()),
            last_id: AtomicU64::new(0),
            id: crate::ids::unique(),
            #[cfg(test)]
            left: Mutex::default(),
            close_timeout,
            operation_timeout,
        }
    }

    /// Every wait begins with this.
    ///
    /// # Errors
    /// `InvalidState` in a fork.
    // Guards: a process that was forked from this one. No thread is there to do what it asks, nor to end its waits.
    pub(crate) fn check_process(&self) -> Result<()> {
        if self.process == std::process::id() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidState,
            format!(
                "the communicator on {} belongs to process {}, from which this one was forked without its threads; connect \
                 a new one in this process",
                self.broker, self.process
            ),
        ))
    }

    /// What nobody else has, for the names of queues.
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Something of this communicator runs at this home.
    pub(crate) fn runs_at(&self, home: &Home) -> Arc<Serves> {
        self.homes.add(home)
    }

    /// How full the homes are that this communicator runs something at.
    #[cfg(all(feature = "metrics", not(test)))]
    pub(crate) fn homes(&self) -> Vec<crate::home::Occupancy> {
        self.homes.occupancies()
    }

    /// Reports homes that stand. To be called every so often.
    #[cfg(not(test))]
    pub(crate) fn look_at_homes(&self) {
        self.homes.look();
    }

    /// The time that a handler has. It ends without its completer being used where the communicator does.
    pub(crate) fn handler_timer(&self, at: Instant, over: Completer<()>) -> Timer<'_> {
        self.timer(at, Expiry::Alarm(over))
    }

    /// A number that nothing else of this communicator has.
    pub(crate) fn next_id(&self) -> u64 {
        // Ordering: Relaxed, for numbers only have to differ.
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends a command to the communicator thread.
    ///
    /// # Errors
    /// When the communicator has ended.
    pub(crate) fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| self.gone())
    }

    /// Sends what answers something: where the communicator has ended nobody needs it.
    pub(crate) fn notify(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Asks the communicator thread something, and waits for the answer at home.
    ///
    /// # Errors
    /// The answer's; or why none can come.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        what: impl Display,
        limit: Option<Instant>,
        command: impl FnOnce(Completer<Result<T>>) -> Command,
    ) -> Result<T> {
        // A home that is full must not keep anybody waiting for ever.
        let limit = limit.unwrap_or_else(|| crate::time::from_now(self.operation_timeout));
        let (completer, future) = self.future(&what, Some(limit)).await?;
        self.send(command(completer))?;
        match future.await {
            Ok(answer) => answer,
            Err(end) => Err(self.ended(end, what)),
        }
    }

    /// A future of this home and its completer, if there is a place at once. Where there is none, [`future`](Self::future) and
    /// [`future_at`](Self::future_at) wait, or know why there will be none.
    pub(crate) fn place_now<T: Send + 'static>(&self, home: &Home) -> Option<Place<T>> {
        self.check_process().ok()?;
        home.try_future().ok()
    }

    /// A future of the current home and its completer. Waits for a place until the limit, where there is one; a wait without
    /// one is reported, and ends with the communicator.
    ///
    /// # Errors
    /// `TimedOut`, `HomeEnded`; `InvalidState` in a fork; why the communicator has ended.
    pub(crate) async fn future<T: Send + 'static>(
        &self,
        what: &impl Display,
        limit: Option<Instant>,
    ) -> Result<Place<T>> {
        self.check_process()?;
        let home = Home::current();
        if let Ok(pair) = home.try_future() {
            return Ok(pair);
        }
        let (reservation, expirer) = home.reserve();
        let place = ExpireOnDrop::new(expirer);
        // Guards: a wait for a place that a close does not end.
        let _timer = match limit {
            Some(at) => self.timer(at, Expiry::Place(place)),
            None => self.timer(
                crate::time::from_now(REPORT_EVERY),
                Expiry::LongPlace { what: what.to_string(), since: crate::time::now(), place },
            ),
        };
        reservation.await.map_err(|error| match error {
            ReserveError::TimedOut if self.has_ended() => self.gone(),
            ReserveError::TimedOut => Error::with_source(
                ErrorKind::TimedOut,
                format!("{what}: the calling home has as many futures open as it may have, and none ended in time"),
                error,
            ),
            ReserveError::WrongHome => Error::with_source(ErrorKind::WrongHome, format!("{what}: {error}"), error),
            _ => home_ended(what),
        })
    }

    /// The same for another home. A wait for a place is a task there, where reservations are served. Its time is kept at the
    /// current home.
    ///
    /// # Errors
    /// As [`future`](Self::future).
    pub(crate) async fn future_at<T: Send + 'static>(
        port: &Arc<Self>,
        home: &Home,
        what: &(impl Display + Clone + Send + Sync + 'static),
        limit: Option<Instant>,
    ) -> Result<Place<T>> {
        if Home::current().is_same(home) {
            return port.future(what, limit).await;
        }
        port.check_process()?;
        match home.try_future() {
            Ok(pair) => return Ok(pair),
            Err(ReserveError::Full) => {}
            Err(_) => return Err(home_ended(what)),
        }
        let (mut ask, asked) = oneshot::channel();
        let (there, wanted) = (Arc::clone(port), what.clone());
        home.spawn_uncounted(async move {
            // The caller reports a wait without a limit.
            let limit = limit.or_else(|| Some(crate::time::from_now(Duration::MAX)));
            let pair = tokio::select! {
                biased;
                pair = there.future(&wanted, limit) => pair,
                // Guards: a caller that is gone, whose wait would stand before others.
                () = ask.closed() => return,
            };
            // One that is gone by now drops it, which gives the place back.
            let _ = ask.send(pair);
        });
        tokio::select! {
            biased;
            pair = asked => pair.unwrap_or_else(|_| Err(home_ended(what))),
            // Guards: a home that is in a handler which blocks, and ends no wait.
            ended = port.over(what, limit) => Err(ended),
        }
    }

    /// Why a wait for a place at another home has ended without it: its time is over, or the communicator has ended. A wait
    /// without a limit is reported.
    async fn over(&self, what: &impl Display, limit: Option<Instant>) -> Error {
        let since = crate::time::now();
        loop {
            let at = limit.unwrap_or_else(|| crate::time::from_now(REPORT_EVERY));
            match self.pause_until(at).await {
                Err(error) => return error,
                Ok(()) if limit.is_some() => {
                    return Error::new(
                        ErrorKind::TimedOut,
                        format!(
                            "{what}: the home that its reply is to come to has as many futures open as it may have, and none \
                             ended in time"
                        ),
                    );
                }
                Ok(()) => {
                    let waited = crate::time::now().saturating_duration_since(since);
                    crate::log::warn!(%what, ?waited, "still waiting for a place at the home that the reply is to come to");
                }
            }
        }
    }

    /// Ends after this time, by the communicator's clock.
    ///
    /// # Errors
    /// `HomeEnded`; why the communicator has ended.
    pub(crate) async fn pause(&self, time: Duration) -> Result<()> {
        self.pause_until(crate::time::from_now(time)).await
    }

    async fn pause_until(&self, at: Instant) -> Result<()> {
        const WHAT: &str = "a pause";
        let (rings, rung) = match self.future(&WHAT, Some(at)).await {
            // A home that was full all the time has paused too.
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(()),
            place => place?,
        };
        let _timer = self.timer(at, Expiry::Alarm(rings));
        rung.await.map_err(|end| self.ended(end, WHAT))
    }

    /// Sends a message's command when there is room for it, and no earlier than those before it. A wait for room ends at the
    /// limit: then, and when the communicator ends, the command's completers are completed with the reason.
    ///
    /// # Errors
    /// `Full` where it is not to wait; why the communicator has ended.
    pub(crate) fn submit(
        &self,
        what: &impl Display,
        bytes: usize,
        mut command: Command,
        when_full: WhenFull,
        limit: Option<Instant>,
    ) -> Result<Option<Turn>> {
        if let Some(charge) = self.permits.admit_now(bytes) {
            command.charge(charge);
            return self.send(command).map(|()| None);
        }
        match self.permits.admit(bytes, command, when_full) {
            Admission::Taken(mut command, charge) => {
                command.charge(charge);
                self.send(command).map(|()| None)
            }
            Admission::Waits(waiter) => {
                let timer = TimerId(self.next_id());
                if let Some(at) = limit {
                    self.notify(Command::StartTimer { id: timer, at, expiry: Expiry::Permit(waiter) });
                }
                Ok(Some(Turn { waiter, timer }))
            }
            Admission::Full(_) => Err(Error::new(
                ErrorKind::Full,
                format!("{what}: the limit on messages or bytes in flight to {} is reached", self.broker),
            )),
            Admission::Closed(_) => Err(self.gone()),
        }
    }

    /// The sender of a message that waits for its turn is gone.
    pub(crate) fn leave(&self, turn: Turn) {
        self.notify(Command::CancelTimer { id: turn.timer });
        drop(self.permits.give_up(turn.waiter, |command, charge| self.send_admitted(command, charge)));
    }

    /// A message has waited for its turn as long as it may.
    pub(super) fn expire(&self, waiter: WaiterId) {
        let (expired, unsent) = self.permits.give_up(waiter, |command, charge| self.send_admitted(command, charge));
        drop(unsent);
        if let Some(command) = expired {
            command.refuse(&Error::new(
                ErrorKind::TimedOut,
                format!(
                    "it was not sent: the limit on messages or bytes in flight was reached, and no room came up in time; the \
                     broker at {} may be blocked, slow or away",
                    self.broker
                ),
            ));
        }
    }

    /// A message has come to its end: others may go.
    pub(super) fn release(&self, charge: Charge) {
        drop(self.permits.release(charge, |command, charge| self.send_admitted(command, charge)));
    }

    /// Sends a message whose turn has come, under the lock of the permits. It wakes the communicator thread, which is ours, and
    /// drops nothing: it returns what cannot be sent. Where the communicator has ended, what the command holds ends with it,
    /// without that lock.
    fn send_admitted(&self, mut command: Command, charge: Charge) -> Option<Command> {
        command.charge(charge);
        self.commands.send(command).err().map(|unsent| unsent.0)
    }

    /// A timer of the communicator thread, by whose clock every wait of a user ends: a home may have none. Dropping it takes
    /// it back.
    fn timer(&self, at: Instant, expiry: Expiry) -> Timer<'_> {
        let id = TimerId(self.next_id());
        // Where the communicator has ended the timer is dropped, which ends the wait.
        self.notify(Command::StartTimer { id, at, expiry });
        Timer { port: self, id }
    }

    /// From now on nothing new is taken, for this reason. The first reason stays.
    pub(crate) fn refuse_new_work(&self, why: Error) {
        let _ = self.end.set(why);
        let gone = self.gone();
        self.permits.close().into_iter().for_each(|command| command.refuse(&gone));
    }

    /// Why nothing can be asked of this communicator any more.
    pub(crate) fn gone(&self) -> Error {
        self.end.get().cloned().unwrap_or_else(|| self.closed())
    }

    /// The error after an orderly close.
    pub(crate) fn closed(&self) -> Error {
        Error::new(
            ErrorKind::CommunicatorClosed,
            format!("the communicator on {} is closed; connect a new one", self.broker),
        )
    }

    /// The error of a future of ours that ended without a value.
    pub(crate) fn ended(&self, end: End, what: impl Display) -> Error {
        let kind = match end {
            // The thread holds every completer until it has used it or ends.
            End::Abandoned => return self.gone(),
            End::Cancelled => ErrorKind::Cancelled,
            End::TimedOut => ErrorKind::TimedOut,
            End::WrongHome => ErrorKind::WrongHome,
            End::TooDeep | End::WouldDeadlock => ErrorKind::WouldDeadlock,
            _ => ErrorKind::HomeEnded,
        };
        Error::with_source(kind, format!("{what}: {end}"), end)
    }

    /// True when nothing can be asked of it any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some() || self.report.get().is_some()
    }

    /// How many messages hold room, and how many wait.
    #[cfg(any(test, feature = "metrics"))]
    pub(crate) fn held(&self) -> (u64, usize) {
        self.permits.held(self.in_flight.messages.max(1))
    }

    /// How much room is left, and how many wait for it.
    #[cfg(test)]
    pub(crate) fn room(&self) -> (u64, u64, usize) {
        self.permits.left()
    }

    pub(crate) fn report(&self) -> Option<&CloseReport> {
        self.report.get()
    }

    /// The last act of the communicator thread.
    pub(super) fn set_report(&self, report: CloseReport) {
        let _ = self.report.set(report);
    }

    pub(crate) fn state(&self) -> ConnectionState {
        self.status.lock().state
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        self.status.lock().state = state;
    }

    pub(crate) fn server_properties(&self) -> Vec<(String, String)> {
        self.status.lock().server_properties.clone()
    }

    pub(super) fn set_server_properties(&self, properties: Vec<(String, String)>) {
        self.status.lock().server_properties = properties;
    }

    /// Emits an event to all who have subscribed.
    pub(crate) fn emit(&self, event: &ConnectionEvent) {
        self.feed.emit(event);
    }

    /// The events from now on.
    pub(crate) fn events(&self) -> Events {
        self.feed.subscribe()
    }

    pub(super) fn close_feed(&self) {
        self.feed.close();
    }

    pub(crate) fn add_thread(&self, thread: ThreadHandle) {
        self.threads.lock().push(thread);
    }

    /// Joins the threads, which have nothing left to do but return; except where the caller is one of them.
    pub(crate) fn join(&self) {
        // Held meanwhile, so that whoever closes at the same time returns only when the threads have ended, too.
        let mut threads = self.threads.lock();
        for thread in threads.drain(..) {
            if !thread.is_current() && !thread.join() {
                crate::log::error!("a thread of the communicator panicked");
            }
        }
    }
}

/// Ends a wait for a place of a home when its timer rings, or goes.
pub(crate) struct ExpireOnDrop(Option<Expirer>);

impl ExpireOnDrop {
    pub(super) fn new(expirer: Expirer) -> Self {
        ExpireOnDrop(Some(expirer))
    }
}

impl Drop for ExpireOnDrop {
    fn drop(&mut self) {
        if let Some(expirer) = self.0.take() {
            expirer.expire();
        }
    }
}

impl std::fmt::Debug for ExpireOnDrop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExpireOnDrop").finish_non_exhaustive()
    }
}

/// The turn of a message that waits for room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    waiter: WaiterId,
    timer: TimerId,
}

/// Takes its timer back when dropped.
pub(crate) struct Timer<'a> {
    port: &'a Port,
    id: TimerId,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.port.notify(Command::CancelTimer { id: self.id });
    }
}

pub(crate) fn home_ended(what: impl Display) -> Error {
    Error::new(
        ErrorKind::HomeEnded,
        format!("{what}: the runtime, loop or thread that asked for it is ending; ask on one that goes on"),
    )
}

/// The end of a wait that may take so long; `None` for one without limit.
pub(crate) fn limit(time: Option<Duration>) -> Option<Instant> {
    time.map(crate::time::from_now)
}
