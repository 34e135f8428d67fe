//! What the book wants to be done.

use std::time::Duration;

use super::message::{Attempt, DeliveryTag, HandId, Kinds, LeaseId, Marks, SubscriberId, TaskId};

/// To be done, in the order in which the actions come out.
#[derive(Clone, Debug)]
pub(crate) enum Action<K: Kinds> {
    /// Send this task to a subscriber. If the way there is closed, answer by
    /// [`Settlement::Dropped`](super::Settlement::Dropped) with [`Cause::HomeEnded`](super::Cause::HomeEnded).
    Offer { to: SubscriberId, task: Handed<K> },
    /// Give this task to whoever pulled it.
    Hand(Handed<K>),
    /// Acknowledge a delivery.
    Ack(DeliveryTag),
    /// Refuse a delivery, so that it goes back to its place in the queue.
    Requeue(DeliveryTag),
    /// Send the outcome to the task's sender.
    Answer(K::Answer),
    /// A task that had ended here came again and was acknowledged: send its answer again, if it is still known.
    AnswerAgain { message: K::Message },
    /// Declare a lease queue that lasts this long, and publish a copy with these marks to it, confirmed. Answer by
    /// [`Input::LeaseMade`](super::Input::LeaseMade): `No` only if the message was certainly not published.
    MakeLease { lease: LeaseId, queue: K::Queue, message: K::Message, marks: Marks, lasts: Duration },
    /// Delete a lease queue; that it is not there is a success. Answer by [`Input::LeaseDeleted`](super::Input::LeaseDeleted).
    DeleteLease { lease: LeaseId },
    /// Publish a copy with these marks, confirmed. Answer by [`Input::Moved`](super::Input::Moved): `No` only if the message
    /// was certainly not published.
    Move { task: TaskId, queue: K::Queue, to: Destination, message: K::Message, marks: Marks },
    /// The broker has taken back a task that runs here, and may hand it to somebody else: report it, and notify the task's
    /// watches. At most once for each task.
    OwnershipLost { task: TaskId, queue: K::Queue, message: K::Message },
    /// A copy of a task that runs here came, and is not run: report it.
    Adopted { task: TaskId, queue: K::Queue, message: K::Message },
    /// A task is in quarantine: report it.
    Quarantined { queue: K::Queue, reason: String, message: K::Message },
    /// A task could not be copied to another queue: log it. The book tries again.
    MoveFailed { queue: K::Queue, to: Destination },
    /// A lease queue could not be deleted and is left to its expiry: log it.
    LeaseLeft { lease: LeaseId },
    /// The number of the queue's tasks of which its consumer does not know has changed to this: fit its prefetch.
    Fit { queue: K::Queue, taken: usize },
    /// The task is not in hand any more: notify what watches are left, and free what is kept of it.
    Released { task: TaskId },
}

/// A task, for whoever is to work on it.
#[derive(Clone, Debug)]
pub(crate) struct Handed<K: Kinds> {
    /// To be named in the settlement.
    pub hand: HandId,
    /// For a subscriber: to be taken before it begins. A pulled task is begun by whoever pulled it.
    pub claim: K::Claim,
    pub message: K::Message,
    /// It may have been run before.
    pub redelivered: bool,
    pub attempt: Attempt,
}

/// Where a copy goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Destination {
    /// Into the task's own queue.
    Queue,
    /// Into the queue's quarantine, which is declared first.
    Quarantine { reason: String },
}
