//! The connection's life: the one there is, what is done when it is lost, and how the next one comes.
//!
//! ```text
//!   connecting ─▶ connected ◀─▶ blocked
//!        ▲            │            │
//!        └── backing off ◀── lost ◀┘        closed: from each of them
//! ```

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::away::Away;
use super::connection::Connection;
use super::port::{ConnectionEvent, ConnectionState, Port};
use super::tasks::Generation;
use crate::broker::url::BrokerUrl;
use crate::broker::{Broker, BrokerEvent, ConnectOptions, EventSender};
use crate::error::{Error, ErrorKind, Result};

/// The pause before the first attempt, and the longest one: it doubles from one to the other.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause where connections are made and lost again at once.
const LONGEST_WHILE_UNSTABLE: Duration = Duration::from_secs(10);
/// How long a connection has to stand until the pauses begin anew.
const STABLE: Duration = Duration::from_secs(10);

/// How long a connection that was lost may take to let go of its threads.
const FAREWELL: Duration = Duration::from_secs(2);

/// What to do when the connection is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReconnectPolicy {
    /// It is made again, for as long as it takes, after pauses of 50 ms to 1 s (up to 10 s where connections are made and
    /// lost again at once).
    #[default]
    ForEver,
    /// The same for this long after each loss; then the communicator closes.
    For(Duration),
    /// The communicator closes, and every future of it ends with *connection lost*.
    Never,
}

/// What the broker of one connection emits.
pub(super) type BrokerEvents = mpsc::UnboundedReceiver<BrokerEvent>;

/// A connection that has been made, and that no driver has yet.
pub(super) struct Made<B> {
    broker: B,
    sender: EventSender,
    events: BrokerEvents,
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
        let (sender, events) = mpsc::unbounded_channel();
        match B::connect(url, options, sender.clone()).await {
            Ok(broker) => return Ok(Made { broker, sender, events }),
            Err(error) => errors.push(error),
        }
    }
    // One that somebody has to see to is reported rather than one that may pass.
    let at = errors.iter().position(|error| error.kind() == ErrorKind::AccessRefused).unwrap_or(0);
    if errors.len() < 2 {
        return Err(errors.pop().unwrap_or_else(|| Error::new(ErrorKind::InvalidArgument, "no broker's URL is given")));
    }
    let kind = errors.get(at).map_or(ErrorKind::Connection, Error::kind);
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    Err(Error::new(kind, format!("none of {} brokers could be connected to: {}", all.len(), all.join("; "))))
}

/// How long to wait before the next attempt. It remembers connections that did not stand.
#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    /// Connections in a row that were lost before they had stood for a while.
    unstable: u32,
}

impl Backoff {
    fn lost_after(&mut self, age: Duration) {
        self.unstable = if age < STABLE { self.unstable.saturating_add(1) } else { 0 };
    }

    /// The pause before this attempt after a loss, from 1 on.
    fn pause(self, attempt: u32) -> Duration {
        let doubled = |times: u32| FIRST_PAUSE.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        let since_loss = doubled(attempt.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
        // The first loss of a young connection is no reason to wait longer.
        let unstable = doubled(self.unstable.saturating_sub(1).min(16)).min(LONGEST_WHILE_UNSTABLE);
        since_loss.max(unstable)
    }
}

pub(super) struct Session<B> {
    port: Arc<Port>,
    urls: Arc<[BrokerUrl]>,
    options: ConnectOptions,
    policy: ReconnectPolicy,
    now: Option<Rc<Connection<B>>>,
    /// Of the connection, while there is one.
    events: Option<BrokerEvents>,
    /// The attempts to get one, while there is none. Dropped, they end.
    next: Option<LocalBoxFuture<'static, Result<Made<B>>>>,
    last: Generation,
    lost_at: Option<Instant>,
    /// Why there is no connection: its loss, or the last attempt since, which notes it here.
    away: Rc<RefCell<Away>>,
    backoff: Backoff,
}

/// What happens in a session.
pub(super) enum Happened<B> {
    Event(BrokerEvent),
    Made(Result<Made<B>>),
}

impl<B: Broker> Session<B> {
    pub(super) fn new(
        port: Arc<Port>,
        urls: Arc<[BrokerUrl]>,
        options: ConnectOptions,
        policy: ReconnectPolicy,
    ) -> Self {
        Session {
            port,
            urls,
            options,
            policy,
            now: None,
            events: None,
            next: None,
            last: Generation(0),
            lost_at: None,
            away: Rc::default(),
            backoff: Backoff::default(),
        }
    }

    /// Why there is no connection.
    pub(super) fn away(&self) -> Away {
        self.away.borrow().clone()
    }

    pub(super) fn now(&self) -> Option<&Rc<Connection<B>>> {
        self.now.as_ref()
    }

    /// The connection of this number, if it is the present one.
    pub(super) fn of(&self, generation: Generation) -> Option<&Rc<Connection<B>>> {
        self.now.as_ref().filter(|connection| connection.generation == generation)
    }

    /// The next event, or the next connection. Cancel safe.
    pub(super) fn poll(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Happened<B>> {
        if let Some(next) = &mut self.next {
            let made = std::task::ready!(next.poll_unpin(context));
            self.next = None;
            return std::task::Poll::Ready(Happened::Made(made));
        }
        let Some(events) = &mut self.events else { return std::task::Poll::Pending };
        match std::task::ready!(events.poll_recv(context)) {
            Some(event) => std::task::Poll::Ready(Happened::Event(event)),
            // Not before the connection has said that it is lost.
            None => std::task::Poll::Pending,
        }
    }

    /// An event that is there already.
    pub(super) fn event_now(&mut self) -> Option<BrokerEvent> {
        self.events.as_mut()?.try_recv().ok()
    }

    /// From now on this is the connection. Returns for how long there was none before.
    pub(super) fn up(&mut self, made: Made<B>) -> Option<Duration> {
        let Made { broker, sender, events } = made;
        self.last = Generation(self.last.0 + 1);
        self.port.set_server_properties(broker.server_properties());
        self.now = Some(Connection::new(self.last, broker, sender, Arc::clone(&self.port)));
        self.events = Some(events);
        self.port.set_state(ConnectionState::Connected);
        self.away.replace(Away::default());
        self.lost_at.take().map(|at| at.elapsed())
    }

    /// The connection is gone. Returns it, with what is left to be done for it: it lets go of its threads.
    pub(super) fn down(&mut self, error: &Error) -> Option<Rc<Connection<B>>> {
        let connection = self.now.take()?;
        connection.set_lost();
        self.events = None;
        self.lost_at = Some(Instant::now());
        self.away.replace(Away::because(error.clone()));
        self.backoff.lost_after(connection.age());
        crate::log::warn!(%error, "the connection is lost");
        self.port.set_state(ConnectionState::Lost);
        self.port.emit(&ConnectionEvent::Lost(error.clone()));
        Some(connection)
    }

    /// Begins to connect again, where the user wants that. False where not.
    pub(super) fn reconnect(&mut self, lost: Error) -> bool {
        if self.policy == ReconnectPolicy::Never {
            return false;
        }
        let attempts = reconnect(
            Arc::clone(&self.port),
            Arc::clone(&self.urls),
            self.options.clone(),
            self.policy,
            self.backoff,
            lost,
            Rc::clone(&self.away),
        );
        self.next = Some(attempts.boxed_local());
        true
    }

    /// No attempt any more.
    pub(super) fn stop_connecting(&mut self) {
        self.next = None;
    }
}

/// Lets a lost connection go.
pub(super) async fn farewell<B: Broker>(connection: Rc<Connection<B>>) {
    // It is lost: what else it says is of no use.
    let _ = connection.broker.close(FAREWELL).await;
}

/// The attempts after a loss, one after the other; ends with a connection, or with the limit that the user set.
async fn reconnect<B: Broker>(
    port: Arc<Port>,
    urls: Arc<[BrokerUrl]>,
    options: ConnectOptions,
    policy: ReconnectPolicy,
    backoff: Backoff,
    lost: Error,
    away: Rc<RefCell<Away>>,
) -> Result<Made<B>> {
    let began = Instant::now();
    let until = match policy {
        ReconnectPolicy::For(limit) => Some((limit, crate::time::after(began, limit))),
        ReconnectPolicy::ForEver | ReconnectPolicy::Never => None,
    };
    let mut error = lost;
    for attempt in 1_u32.. {
        let left = until.map(|(_, until)| until.saturating_duration_since(Instant::now()));
        if let Some((limit, _)) = until
            && left == Some(Duration::ZERO)
        {
            return Err(Error::with_source(
                ErrorKind::ConnectionLost,
                format!("the connection is lost, and no other could be made within {limit:?}; at last: {error}"),
                error,
            ));
        }
        // Half of the pause is drawn, so that not all who lost the same broker come back at once.
        let pause = backoff.pause(attempt);
        let drawn = pause / 2 + (pause / 2).mul_f64(crate::ids::fraction());
        // Guards: a pause as long as what is left of the limit, at whose end nothing would be tried any more.
        let delay = left.map_or(drawn, |left| drawn.min((left / 2).max(FIRST_PAUSE)));
        port.set_state(ConnectionState::BackingOff);
        // What repeats is for somebody to see to.
        let repeats = attempt.max(backoff.unstable);
        if repeats >= 4 && repeats.is_power_of_two() {
            crate::log::warn!(attempt, unstable = backoff.unstable, ?delay, %error, "there is still no stable connection");
        } else {
            crate::log::info!(attempt, ?delay, %error, "connecting again");
        }
        port.emit(&ConnectionEvent::Reconnecting { attempt: attempt.into(), delay, error: error.clone() });
        let try_again = async {
            tokio::time::sleep(delay).await;
            port.set_state(ConnectionState::Connecting);
            connect(&urls, &options).await
        };
        // Guards: a broker that accepts and stays silent. An attempt that began in time would go on for as long as connecting may
        // take, which may be for ever.
        let tried = match until {
            Some((_, until)) => tokio::time::timeout_at(until, try_again).await,
            None => Ok(try_again.await),
        };
        match tried {
            Ok(Ok(made)) => return Ok(made),
            Ok(Err(refused)) => {
                away.replace(Away::because(refused.clone()));
                error = refused;
            }
            Err(_) => {}
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_stand_are_remembered() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.pause(1), FIRST_PAUSE);
        assert_eq!(backoff.pause(100), LONGEST_PAUSE);
        let pauses: Vec<Duration> = (0..12)
            .map(|_| {
                backoff.lost_after(Duration::from_millis(1));
                backoff.pause(1)
            })
            .collect();
        assert_eq!(pauses[0], FIRST_PAUSE, "one loss is no pattern");
        assert!(pauses.is_sorted());
        assert_eq!(pauses[11], LONGEST_WHILE_UNSTABLE);
        backoff.lost_after(STABLE);
        assert_eq!(backoff.pause(1), FIRST_PAUSE);
    }
}
