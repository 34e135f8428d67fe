//! The inputs of the book.

use std::time::Duration;

use super::message::{Channel, DeliveryTag, Generation, HandId, Kinds, LeaseId, SubscriberId, TaskId};

/// How tasks are tried and kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    /// How often a task is handed out that is to be tried again. At least 1.
    pub attempts: u32,
    /// The pause before the second attempt. It doubles, up to a minute.
    pub retry_pause: Duration,
    /// Whether tasks go on lease. `None` where messages cannot be copied (inside one process).
    pub long_tasks: Option<LongTasks>,
}

/// When a task goes on lease, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LongTasks {
    /// How long a task is in hand before it goes on lease.
    pub after: Duration,
    /// How long a lease lasts that is not renewed.
    pub lease: Duration,
}

/// Something has happened.
#[derive(Clone, Debug)]
pub(crate) enum Input<K: Kinds> {
    /// A subscriber is to be offered the tasks of this queue.
    Subscribed { queue: K::Queue, subscriber: SubscriberId },
    /// It is not any more: it was removed, or its home has ended. Tasks that it has begun stay with it.
    Unsubscribed { queue: K::Queue, subscriber: SubscriberId },
    /// A delivery by the queue's consumer.
    Delivered(Delivery<K>),
    /// A delivery that was asked for by `next_task`. The book answers by [`Action::Hand`](super::Action::Hand), or not at all
    /// if it is a copy of a task that runs here or has ended here.
    Pulled(Delivery<K>),
    /// Whoever was given a task is done with it. Ignored if it was withdrawn meanwhile.
    Settled { hand: HandId, settlement: Settlement<K::Answer> },
    /// The answer to [`Action::Move`](super::Action::Move). Exactly one comes for each.
    Moved { task: TaskId, known: Known },
    /// The answer to [`Action::MakeLease`](super::Action::MakeLease). Exactly one comes for each.
    LeaseMade { lease: LeaseId, known: Known },
    /// The answer to [`Action::DeleteLease`](super::Action::DeleteLease). Exactly one comes for each.
    LeaseDeleted { lease: LeaseId, known: Known, contents: Contents },
    /// The broker has closed a channel and has taken back what it had handed out by it.
    ChannelClosed(Channel),
    /// There is no connection any more. Answers to what was asked by it may still come.
    ConnectionLost,
    /// There is a connection, of this number.
    Connected(Generation),
    /// No new work: what is in hand is finished. Irrevocable.
    Drain,
    /// The communicator closes. Tasks on lease go back at once; the rest goes back with the connection. Irrevocable.
    Close,
    /// [`next_deadline`](super::TaskBook::next_deadline) has come.
    Tick,
}

/// A delivery.
#[derive(Clone, Debug)]
pub(crate) struct Delivery<K: Kinds> {
    pub queue: K::Queue,
    pub tag: DeliveryTag,
    pub message: K::Message,
    /// The broker has delivered it before.
    pub redelivered: bool,
}

/// What is to become of a task.
#[derive(Clone, Debug)]
pub(crate) enum Settlement<A> {
    /// It is acknowledged; then the answer goes out, if one is wanted.
    Done { answer: Option<A> },
    /// This subscriber does not want it: the next one gets it; after the last it goes back after a pause.
    Rejected,
    /// It goes back after a pause that grows with each time.
    Requeue,
    /// Something that may pass was in the way: another attempt after a pause, a limited number of times. The answer is for
    /// the last one.
    TryAgain { reason: String, answer: Option<A> },
    /// It can never be run: it goes to the quarantine queue with this reason; then the answer goes out.
    Quarantine { reason: String, answer: Option<A> },
    /// Nothing settled it: its guard was dropped.
    Dropped(Cause),
}

/// Why a guard was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cause {
    /// The handler panicked: an attempt has failed.
    HandlerPanicked,
    /// The home has ended or was not there any more.
    HomeEnded,
    /// The user let a pulled task go.
    LetGo,
}

/// Whether something that was asked of the broker was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Known {
    /// It was done.
    Yes,
    /// It was not done.
    No,
    /// It cannot be known: the connection or the channel was lost before the answer.
    Unknown,
}

/// What a lease queue held when it was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Contents {
    /// The copy of its task.
    Copy,
    /// Nothing: the copy has gone where it goes when the lease is over, or was never there.
    Nothing,
    NotKnown,
}
