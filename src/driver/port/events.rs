//! The events of a communicator: what happens to its connection and its subscribers, as a stream.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::home::lock::Mutex;
use futures_core::Stream;

use super::{Mailbox, MailboxLimits, MailboxStream, Received};
use crate::error::{Detail, Error};
use crate::wire::names::Identifier;

/// Something happened to the connection, or to a subscriber.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ConnectionEvent {
    /// The broker accepts no messages for now (RabbitMQ: a memory or disk alarm). Sends wait.
    Blocked {
        /// The broker's reason.
        reason: String,
    },
    /// The broker accepts messages again.
    Unblocked,
    /// The connection is lost, and why. Whether it is made again depends on
    /// [`CommunicatorBuilder::reconnect`](crate::CommunicatorBuilder::reconnect); with
    /// [`ReconnectPolicy::Never`](crate::ReconnectPolicy::Never) the communicator closes.
    Lost(Error),
    /// Another attempt to connect will be made.
    Reconnecting {
        /// From 1 on.
        attempt: u64,
        /// The pause before it.
        delay: Duration,
        /// Why there is no connection: the loss, or why the attempt before failed.
        error: Error,
    },
    /// There is a connection again, and every subscriber has its queue.
    Restored {
        /// For how long there was none.
        away: Duration,
    },
    /// A broadcast subscriber may have missed what was sent while there was no connection: the broker keeps nothing for it.
    Gap {
        /// Under which it was added.
        identifier: Identifier,
        /// For how long.
        away: Duration,
    },
    /// A subscription could not be set up again; it is tried until it can.
    SubscriptionFailed {
        /// Of the RPC subscriber, the name of the task queue, or `broadcasts`.
        name: String,
        /// Why.
        error: Error,
    },
    /// The broker ended a subscription of its own accord, because its queue was deleted for instance. It is set up again.
    ConsumerCancelled {
        /// Of the RPC subscriber, the name of the task queue, `broadcasts`, or `replies`.
        name: String,
    },
    /// The broker closed a channel: the messages that it had delivered are back in their queues. It is opened again.
    ChannelClosed {
        /// The task queue that it was for, if it was for one.
        queue: Option<String>,
        /// What for, where that is known.
        cause: ChannelCause,
        /// The broker's text.
        error: Error,
    },
    /// A task that runs here was taken back by the broker, which may hand it to another worker; see
    /// [`TaskRequest::ownership_lost`](crate::TaskRequest::ownership_lost).
    OwnershipLost {
        /// The task queue that it came from.
        queue: String,
        /// Of the task.
        message_id: Option<String>,
    },
    /// A task that runs here was delivered here again: the handler that runs keeps it.
    TaskAdopted {
        /// The task queue that it came from.
        queue: String,
        /// Of the task.
        message_id: String,
    },
    /// A subscriber was removed, since its home has ended.
    SubscriberGone {
        /// Under which it was added.
        identifier: Identifier,
    },
    /// A subscriber's home did not keep up: it lost the oldest of its broadcasts.
    Lagged {
        /// Under which it was added.
        identifier: Identifier,
        /// How many it lost.
        missed: u64,
    },
    /// A task is in the quarantine queue: it could not be read, or its last attempt has failed.
    Quarantined {
        /// The task queue that it came from.
        queue: String,
        /// Why.
        reason: String,
    },
    /// This receiver of events did not keep up: it lost the oldest.
    Missed {
        /// How many it lost.
        missed: u64,
    },
    /// The communicator is closed. Nothing follows.
    Closed,
}

/// What a broker closes a channel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelCause {
    /// A task was unacknowledged for longer than the broker's delivery timeout (`consumer_timeout`, 30 minutes unless it was set).
    DeliveryTimeout,
    /// Something else.
    Other,
}

impl ChannelCause {
    pub(crate) fn of(error: &Error) -> Self {
        match error.detail() {
            Detail::DeliveryTimeout => ChannelCause::DeliveryTimeout,
            _ => ChannelCause::Other,
        }
    }
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// An attempt is under way.
    Connecting,
    /// There is one.
    Connected,
    /// There is one, and the broker accepts no messages from it.
    Blocked,
    /// It has just been lost.
    Lost,
    /// The pause before the next attempt.
    BackingOff,
    /// The communicator is closed.
    Closed,
}

/// How many events wait for a receiver before the oldest is dropped. They are small.
const BACKLOG: MailboxLimits = MailboxLimits { items: 256, bytes: usize::MAX };

/// The events of one communicator from the moment it was asked for; a [`Stream`]. A receiver that falls far behind loses the
/// oldest, and gets [`ConnectionEvent::Missed`] in their place.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Communicator, ConnectionEvent};
///
/// let communicator = Communicator::connect("memory:").await?;
/// let mut events = communicator.events();
/// communicator.close().await?;
/// assert!(matches!(events.next().await, Some(ConnectionEvent::Closed)));
/// assert!(events.next().await.is_none());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Events(MailboxStream<ConnectionEvent>);

impl Events {
    /// The next event, or `None` when the communicator has closed, or the home that waits has ended.
    ///
    /// # Cancel safety
    /// No event is lost when it is dropped.
    pub async fn next(&mut self) -> Option<ConnectionEvent> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Events {
    type Item = ConnectionEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ConnectionEvent>> {
        self.0.poll_next(context).map(|received| {
            received.map(|received| match received {
                Received::Item(event) => event,
                Received::Missed(missed) => ConnectionEvent::Missed { missed },
            })
        })
    }
}

/// Those who receive events.
#[derive(Default)]
pub(super) struct Feed(Mutex<Receivers>);

#[derive(Default)]
struct Receivers {
    closed: bool,
    mailboxes: Vec<Weak<Mailbox<ConnectionEvent>>>,
}

impl Feed {
    pub(super) fn subscribe(&self) -> Events {
        let mailbox = Mailbox::new(BACKLOG);
        let mut receivers = self.0.lock();
        // Guards: a subscription after the end, which nothing would end.
        if receivers.closed {
            mailbox.close();
        } else {
            receivers.mailboxes.retain(|mailbox| mailbox.strong_count() > 0);
            receivers.mailboxes.push(Arc::downgrade(&mailbox));
        }
        Events(MailboxStream::new(mailbox))
    }

    pub(super) fn emit(&self, event: &ConnectionEvent) {
        let mailboxes: Vec<_> = self.0.lock().mailboxes.iter().filter_map(Weak::upgrade).collect();
        for mailbox in &mailboxes {
            mailbox.put(event.clone(), 0);
        }
    }

    /// Nothing follows.
    pub(super) fn close(&self) {
        let mailboxes = {
            let mut receivers = self.0.lock();
            receivers.closed = true;
            std::mem::take(&mut receivers.mailboxes)
        };
        mailboxes.iter().filter_map(Weak::upgrade).for_each(|mailbox| mailbox.close());
    }
}
