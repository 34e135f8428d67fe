//! One connection: lapin's handle, the duplicate of its socket, and how both end.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use crate::log::{debug, error, warn};
use futures_util::{FutureExt, Stream};
use lapin::{Channel, Connection, Event};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

use super::tap::{Diverted, Farewell, Greeting};
use super::wire::Spare;
use crate::error::{Error, ErrorKind, Result};
use crate::panics::caught;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Declares, consumes and acknowledges.
    Consuming,
    /// Publishes and does nothing else, for a broker in alarm stops reading from publishers.
    Publishing,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Consuming => "consuming",
            Role::Publishing => "publishing",
        })
    }
}

pub(crate) struct Link {
    pub(crate) role: Role,
    connection: RefCell<Option<Rc<Connection>>>,
    /// Shutting this down ends the I/O thread, even while the broker blocks the connection and lapin writes nothing.
    spare: RefCell<Option<Spare>>,
    greeting: Greeting,
    /// Properties that lapin could not read.
    pub(crate) diverted: Diverted,
    thread_ended: watch::Receiver<()>,
    pub(crate) blocked: Cell<bool>,
    /// How many channels are being opened.
    opening: Rc<watch::Sender<usize>>,
    /// None is opened any more.
    is_closing: Cell<bool>,
}

impl Link {
    pub(crate) fn new(
        role: Role,
        connection: Connection,
        spare: Spare,
        greeting: Greeting,
        diverted: Diverted,
        thread_ended: watch::Receiver<()>,
    ) -> Self {
        let connection = RefCell::new(Some(Rc::new(connection)));
        let spare = RefCell::new(Some(spare));
        let (blocked, is_closing) = (Cell::new(false), Cell::new(false));
        let opening = Rc::new(watch::channel(0).0);
        Link { role, connection, spare, greeting, diverted, thread_ended, blocked, opening, is_closing }
    }

    /// The server's properties.
    pub(crate) fn server_properties(&self) -> Vec<(String, String)> {
        self.greeting.properties()
    }

    /// What the handshake agreed on: heartbeat and sizes.
    pub(crate) fn configuration(&self) -> Option<lapin::Configuration> {
        self.connection.borrow().as_ref().map(|connection| connection.configuration().clone())
    }

    /// The connection's events. To be taken once: a second listener would take events away from the first.
    pub(crate) fn events(&self) -> Option<Pin<Box<dyn Stream<Item = Event>>>> {
        let connection = self.connection.borrow();
        // Boxed, since lapin's signature would tie the stream to this borrow.
        Some(Box::pin(connection.as_ref()?.events_listener()))
    }

    /// How the server has ended the connection, once it has.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        self.greeting.farewell()
    }

    /// Whether lapin takes the connection to be usable.
    pub(crate) fn connected(&self) -> bool {
        self.connection.borrow().as_ref().is_some_and(|connection| connection.status().connected())
    }

    /// Opens a channel.
    pub(crate) async fn open_channel(&self) -> lapin::Result<Channel> {
        let connection = self.connection.borrow().clone();
        let Some(connection) = connection else {
            return Err(lapin::ErrorKind::InvalidConnectionState(lapin::ConnectionState::Closed).into());
        };
        // lapin remembers, for ever, which channel numbers the server closed with an error, and refuses them when their
        // turn comes again: the next number is then the right one.
        for _ in 0..connection.configuration().channel_max() {
            match self.open_one(&connection).await {
                Err(error) if error.is_amqp_soft_error() && self.connected() => {}
                attempt => return attempt,
            }
        }
        warn!(role = %self.role, "every channel number of this connection has been used up: cutting it");
        self.abort();
        Err(lapin::ErrorKind::ChannelsLimitReached.into())
    }

    async fn open_one(&self, connection: &Rc<Connection>) -> lapin::Result<Channel> {
        let closing = || lapin::ErrorKind::InvalidConnectionState(lapin::ConnectionState::Closing).into();
        if self.is_closing.get() {
            return Err(closing());
        }
        let (connection, opening) = (Rc::clone(connection), Rc::clone(&self.opening));
        let (answer, answered) = oneshot::channel();
        opening.send_modify(|count| *count += 1);
        // In a task of its own: the answer comes though whoever asked has given up.
        spawn_local(async move {
            let opened = AssertUnwindSafe(connection.create_channel()).catch_unwind().await;
            drop(connection);
            opening.send_modify(|count| *count -= 1);
            let _ = answer.send(opened);
        });
        match answered.await {
            Ok(Ok(opened)) => opened,
            // It is that of whoever asked.
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(closing()),
        }
    }

    /// Waits until every channel that was asked for is open, or refused.
    async fn opened(&self) {
        // The sender is ours, so there is no error.
        let _ = self.opening.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Resolves when the I/O thread has let go of everything, whatever the cause.
    pub(crate) async fn ended(&self) {
        thread_gone(self.thread_ended.clone()).await;
    }

    /// Cuts the connection at the socket; its I/O thread ends by itself.
    pub(crate) fn abort(&self) {
        if let Some(spare) = &*self.spare.borrow() {
            spare.cut();
        }
    }

    /// Closes in order, or cuts the connection when the deadline comes first; then the I/O thread is joined. Returns the server's last
    /// word, if there was one.
    ///
    /// # Errors
    /// The thread did not end in time.
    pub(crate) async fn close(&self, deadline: Instant) -> Result<Option<Farewell>> {
        self.is_closing.set(true);
        let connection = self.connection.borrow_mut().take();
        if let Some(connection) = &connection {
            if self.blocked.get() {
                // lapin would not even write the close.
                debug!(role = %self.role, "the broker blocks this connection: cutting it");
            } else if connection.status().connected() {
                // What lapin has in its queues goes out before the close does. A thread that is ending by itself answers
                // no close, and lapin's future would wait for ever.
                let closing = async {
                    // Guards: the answer to a channel.open that comes behind the close, at which lapin's thread ends with an error.
                    self.opened().await;
                    connection.close(200, "closed by the client".into()).await
                };
                let answered = async {
                    tokio::select! {
                        answer = closing => answer,
                        () = self.ended() => Ok(()),
                    }
                };
                match timeout_at(deadline, answered).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        debug!(role = %self.role, %error, "the connection ended while it was being closed");
                    }
                    Err(_) => {
                        warn!(role = %self.role, "the broker did not answer the close in time: cutting the connection");
                    }
                }
            }
        }
        // In the good case this only makes sure.
        let grace = deadline.max(Instant::now() + Duration::from_millis(50));
        if self.cut_unless_ended(connection.as_deref(), grace).await.is_err() {
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!("the I/O thread of the {} connection did not end in time", self.role),
            ));
        }
        self.spare.take();
        // An operation that nobody polls any more may hold the connection still; its thread has ended all the same.
        if let Some(connection) = connection.and_then(Rc::into_inner) {
            // Guards: a panic of the I/O thread, which lapin hands on to whoever joins it. It would take along whoever closes the
            // connection, and nobody would report its loss.
            match caught(|| connection.run()) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(role = %self.role, %error, "the I/O thread ended with an error"),
                Err(panic) => error!(role = %self.role, panic, "the I/O thread of a connection panicked"),
            }
        }
        Ok(self.greeting.farewell())
    }

    async fn cut_unless_ended(
        &self,
        connection: Option<&Connection>,
        deadline: Instant,
    ) -> Result<(), tokio::time::error::Elapsed> {
        let orderly = connection.is_some_and(|connection| connection.status().closed());
        if !orderly {
            self.abort();
        }
        if timeout_at(deadline, self.ended()).await.is_ok() {
            return Ok(());
        }
        self.abort();
        timeout(Duration::from_millis(200), self.ended()).await
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Waits until lapin's I/O thread has let go of everything.
pub(super) async fn thread_gone(mut ended: watch::Receiver<()>) {
    // Nothing is ever sent: the only change is that the sender goes.
    while ended.changed().await.is_ok() {}
}
