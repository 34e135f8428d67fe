//! The connection's life: what is done when it is lost, and how the next one comes.
//!
//! ```text
//!   connecting ─▶ connected ◀─▶ blocked
//!        ▲            │            │
//!        └── backing off ◀── lost ◀┘        closed: from each of them
//! ```
//!
//! Whoever needs the broker takes the [link](Driver::link) and waits while there is none. What was under way on a lost link
//! fails with *connection lost*, and whoever asked for it decides whether it is done again on the next one.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::Driver;
use super::link::{Generation, Link};
use crate::broker::url::BrokerUrl;
use crate::broker::{Broker, BrokerEvent, ConnectOptions};
use crate::communicator::builder::Reconnect;
use crate::communicator::events::{ConnectionState, Event};
use crate::communicator::shared::Shared;
use crate::error::{Error, ErrorKind, Result};

/// The pause before the first attempt, and the longest one: it doubles from one to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a connection that was lost may take to let go of its threads.
const FAREWELL: Duration = Duration::from_secs(2);

/// The link there is, and the wait for the next one.
pub(super) struct Supply<B> {
    now: RefCell<Option<Rc<Link<B>>>>,
    /// Why there will be none any more.
    over: RefCell<Option<Error>>,
    changed: Notify,
    last: Cell<Generation>,
    lost_at: Cell<Option<Instant>>,
    /// Lost connections that have not let go of their threads.
    leaving: Cell<usize>,
    left: Notify,
}

impl<B> Supply<B> {
    pub(super) fn new() -> Self {
        Supply {
            now: RefCell::new(None),
            over: RefCell::new(None),
            changed: Notify::new(),
            last: Cell::new(Generation::default()),
            lost_at: Cell::new(None),
            leaving: Cell::new(0),
            left: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> Option<Rc<Link<B>>> {
        self.now.borrow().clone()
    }

    /// Ends every wait for a link.
    pub(super) fn end(&self, error: Error) {
        *self.over.borrow_mut() = Some(error);
        self.changed.notify_waiters();
    }
}

/// What the broker of one link says.
pub(super) type Said = mpsc::UnboundedReceiver<BrokerEvent>;

/// A connection that has been made, by no driver yet.
pub(super) struct Made<B> {
    broker: B,
    say: crate::broker::EventSender,
    pub(super) said: Said,
}

impl<B: Broker> Made<B> {
    /// For one that nobody needs.
    pub(super) async fn close(self, limit: Duration) {
        let _ = self.broker.close(limit).await;
    }
}

/// Tries each broker of the list once.
pub(super) async fn connect<B: Broker>(urls: &[BrokerUrl], options: &ConnectOptions) -> Result<Made<B>> {
    let mut errors = Vec::new();
    for url in urls {
        let (say, said) = mpsc::unbounded_channel();
        match B::connect(url, options, say.clone()).await {
            Ok(broker) => return Ok(Made { broker, say, said }),
            Err(error) => errors.push(error),
        }
    }
    // One that somebody has to see to is said rather than one that may pass.
    let at = errors.iter().position(|error| error.kind() == ErrorKind::AccessRefused).unwrap_or(0);
    if errors.len() < 2 {
        return Err(errors.pop().unwrap_or_else(|| Error::new(ErrorKind::InvalidArgument, "there is no broker's URL")));
    }
    let kind = errors.get(at).map_or(ErrorKind::Connection, Error::kind);
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Error::new(kind, format!("none of {} brokers could be connected to: {}", all.len(), all.join("; "))))
}

/// The attempts after a loss, one after the other; ends with a connection, or with the limit that the user set.
pub(super) async fn reconnect<B: Broker>(
    shared: Arc<Shared>,
    urls: Arc<[BrokerUrl]>,
    options: ConnectOptions,
    policy: Reconnect,
    lost: Error,
) -> Result<Made<B>> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut error = lost;
    for attempt in 1_u64.. {
        if let Reconnect::For(limit) = policy
            && began.elapsed() >= limit
        {
            return Err(Error::with_source(
                ErrorKind::ConnectionLost,
                format!("the connection is lost, and no other could be made within {limit:?}; at last: {error}"),
                error,
            ));
        }
        // Half of the pause is drawn, so that not all who lost the same broker come back at once.
        let delay = pause / 2 + (pause / 2).mul_f64(drawn());
        shared.state(ConnectionState::BackingOff);
        tracing::info!(attempt, ?delay, %error, "connecting again");
        let _ = shared.events.send(Event::Reconnecting { attempt, delay, error: error.clone() });
        tokio::time::sleep(delay).await;
        shared.state(ConnectionState::Connecting);
        match connect(&urls, &options).await {
            Ok(made) => return Ok(made),
            Err(refused) => error = refused,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(error)
}

/// Anything from 0 to 1.
fn drawn() -> f64 {
    let (high, _) = Uuid::new_v4().as_u64_pair();
    f64::from((high >> 32) as u32) / f64::from(u32::MAX)
}

/// True when the connection went, rather than what was asked was wrong.
pub(super) fn is_lost(error: &Error) -> bool {
    error.kind() == ErrorKind::ConnectionLost
}

impl<B: Broker> Driver<B> {
    /// A connection newer than this one: the present one, or the next.
    ///
    /// # Errors
    /// When there will be none.
    pub(super) async fn link_after(&self, generation: Generation) -> Result<Rc<Link<B>>> {
        loop {
            let mut changed = std::pin::pin!(self.supply.changed.notified());
            // Registered before the look, so that no change falls between the two.
            changed.as_mut().enable();
            if let Some(link) = self.supply.now()
                && link.generation > generation
            {
                return Ok(link);
            }
            if let Some(error) = self.supply.over.borrow().clone() {
                return Err(error);
            }
            changed.await;
        }
    }

    /// Does something that takes a connection, and again on the next one when it is lost in between.
    pub(super) async fn on_a_link<T>(&self, work: impl AsyncFn(&Rc<Link<B>>) -> Result<T>) -> Result<T> {
        let mut failed = Generation::default();
        loop {
            let link = self.link_after(failed).await?;
            match work(&link).await {
                Err(error) if is_lost(&error) => failed = link.generation,
                outcome => return outcome,
            }
        }
    }

    /// The same for what a user waits for, within the time for an operation.
    pub(super) async fn in_time<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.connect.operation_timeout;
        let mut work = std::pin::pin!(work);
        if let Ok(done) = tokio::time::timeout(limit, work.as_mut()).await {
            return done;
        }
        if self.supply.now().is_some() {
            // The broker's own operations have the same limit and a better error.
            return work.await;
        }
        Err(Error::new(
            ErrorKind::TimedOut,
            format!(
                "{what}: there is no connection to {} for {limit:?} now; it is tried again and again",
                self.shared.broker
            ),
        ))
    }

    /// From now on this is the connection.
    pub(super) fn up(self: &Rc<Self>, made: Made<B>) -> Said {
        let Made { broker, say, said } = made;
        let generation = self.supply.last.get().next();
        self.supply.last.set(generation);
        *self.shared.server_properties.lock() = broker.server_properties();
        let link = Link::new(generation, broker, say);
        *self.supply.now.borrow_mut() = Some(Rc::clone(&link));
        self.shared.state(ConnectionState::Connected);
        let watched = Rc::clone(&link);
        self.spawn(move |driver| async move { driver.watch_bindings(&watched).await });
        if let Some(lost_at) = self.supply.lost_at.take() {
            let away = lost_at.elapsed();
            self.spawn(move |driver| async move { driver.restore(&link, away).await });
        } else {
            tracing::info!(broker = self.shared.broker, "connected");
        }
        self.supply.changed.notify_waiters();
        said
    }

    /// The connection is gone. What was under way on it learns so by its own errors.
    pub(super) fn down(self: &Rc<Self>, error: &Error) {
        let Some(link) = self.supply.now.borrow_mut().take() else { return };
        tracing::warn!(%error, "the connection is lost");
        self.supply.lost_at.set(Some(Instant::now()));
        self.shared.state(ConnectionState::Lost);
        self.say(Event::Lost(error.clone()));
        link.consumers.borrow_mut().clear();
        link.publishes_lost(error);
        self.tasks_are_away(|ticket| ticket.generation == link.generation);
        self.supply.leaving.set(self.supply.leaving.get() + 1);
        self.spawn(move |driver| async move {
            // It is lost: what else it says is of no use.
            let _ = link.broker.close(FAREWELL).await;
            driver.supply.leaving.set(driver.supply.leaving.get() - 1);
            driver.supply.left.notify_waiters();
        });
    }

    /// Waits until lost connections have let go of their threads.
    pub(super) async fn farewell(&self, limit: Duration) {
        let gone = async {
            while self.supply.leaving.get() > 0 {
                self.supply.left.notified().await;
            }
        };
        if tokio::time::timeout(limit, gone).await.is_err() {
            tracing::warn!("a lost connection has not let go of its threads");
        }
    }

    /// Sets everything up again on a new connection: subscribers first, for others wait for them, and the reply queues of
    /// requests under way, whose old names a broker may hold for a while yet.
    async fn restore(self: &Rc<Self>, link: &Rc<Link<B>>, away: Duration) {
        self.reclaim_replies(link);
        let mut work: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + '_>>> = FuturesUnordered::new();
        let rpc: Vec<_> = self.rpc.borrow().keys().cloned().collect();
        for identifier in rpc {
            work.push(Box::pin(async move { self.keep_rpc(link, &identifier).await }));
        }
        work.push(Box::pin(async { self.keep_broadcasts(link).await }));
        let queues = self.tasks.borrow().subscribed();
        for queue in queues {
            work.push(Box::pin(async move { self.keep_tasks(link, &queue).await }));
        }
        while work.next().await.is_some() {}
        if self.is_now(link) {
            tracing::info!(broker = self.shared.broker, ?away, "connected again");
            self.say(Event::Restored { away });
            for identifier in self.broadcasts.borrow().identifiers() {
                self.say(Event::Gap { identifier, away });
            }
        }
    }

    pub(super) fn is_now(&self, link: &Rc<Link<B>>) -> bool {
        self.supply.now.borrow().as_ref().is_some_and(|now| Rc::ptr_eq(now, link))
    }

    /// Sets something up on this link, and again after a pause while that fails and the link stands.
    pub(super) async fn keep(&self, link: &Rc<Link<B>>, name: &str, set_up: impl AsyncFn() -> Result<()>) {
        let mut pause = FIRST_PAUSE;
        while self.is_now(link) {
            match set_up().await {
                Ok(()) => return,
                Err(error) if is_lost(&error) => return,
                Err(error) => {
                    tracing::warn!(name, %error, "a subscription could not be set up again");
                    self.say(Event::SubscriptionFailed { name: name.to_owned(), error });
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }
}
