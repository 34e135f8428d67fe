//! What a communicator says of its connection and its subscribers, as a stream.

use tokio::sync::broadcast;

use super::names::Identifier;
use crate::error::Error;

/// Something happened to the connection, or to a subscriber.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The broker reads no messages for now (RabbitMQ: a memory or disk alarm). Sending waits.
    Blocked {
        /// The broker's reason.
        reason: String,
    },
    /// The broker reads messages again.
    Unblocked,
    /// The connection is lost; the communicator closes, and every future of it ends with this error.
    Lost(Error),
    /// The broker ended a subscription of its own accord, because its queue was deleted for instance. Its subscribers hear
    /// nothing any more.
    ConsumerCancelled {
        /// Of the RPC subscriber, or the name of the task queue.
        name: String,
    },
    /// A subscriber was taken out, since its home has ended.
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
    /// A task could not be read; it is in the quarantine queue.
    Quarantined {
        /// The task queue that it came from.
        queue: String,
        /// Why.
        reason: String,
    },
    /// The communicator is closed. Nothing follows.
    Closed,
}

/// The events of one communicator from the moment it was asked for. Of a receiver that falls behind by more than 256 the
/// oldest are dropped.
#[derive(Debug)]
pub struct Events(pub(crate) broadcast::Receiver<Event>);

impl Events {
    /// The next event, or `None` when the communicator has closed.
    ///
    /// # Cancel safety
    /// No event is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
