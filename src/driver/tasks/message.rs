//! What the book knows of a message, and the names that it gives to things. The book is generic over the message, so that
//! its explorer can use small ones.

use std::collections::BTreeMap;
use std::fmt::Debug;

/// The types that a driver brings along.
pub(crate) trait Kinds: Clone + Debug {
    /// The name of a task queue.
    type Queue: Clone + Ord + Debug;
    /// A task's message. Cheap to clone.
    type Message: Message;
    /// Decides between the home that begins with a task and the book that withdraws it.
    type Claim: Claim;
    /// The outcome for a task's sender. The book only hands it on.
    type Answer: Clone + Debug;

    /// A number that no other copy has, whoever made it; 0 where there is one book alone.
    fn copy_number() -> u64;
}

/// What the book needs to know of a message.
pub(crate) trait Message: Clone + Debug {
    /// By what a message that comes again is known. `None` if its id cannot be trusted to be unique (it is absent, or no
    /// UUID), or if its body cannot be compared: such a message is always run.
    fn identity(&self) -> Option<Identity>;

    /// The marks that its headers carry.
    fn marks(&self) -> Marks;

    /// Under what its pauses are counted: a digest of its id, or of its body if it has none. Two messages that share one
    /// share their pauses, which is harmless.
    fn pause_key(&self) -> u64;
}

/// Two messages of one identity may be copies of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity {
    /// The message id, which is a UUID.
    pub id: u128,
    /// A digest of the correlation id and of the body.
    pub digest: u128,
}

/// The headers by which copies of one message differ. Every copy that the book asks for has other marks than the copies
/// before it, so that identity and marks together name one message at the broker. 0 stands for an absent header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Marks {
    /// `homing-resend`: how often it was sent again because it was not known whether the copy before had arrived.
    pub resend: u32,
    /// `homing-lease`: how often it has been copied on behalf of a lease.
    pub lease: u32,
    /// `homing-attempt`: which attempt this is, from 2 on.
    pub attempt: u32,
    /// `homing-copy`: a number drawn for each copy.
    ///
    /// Guards: copies by several communicators, or by one for several deliveries. They count from what they know, and so two
    /// of them may count alike.
    pub copy: u64,
}

impl Marks {
    /// A copy comes after those that it was made from.
    pub(super) fn order(self) -> (u32, u32, u32) {
        (self.lease, self.attempt, self.resend)
    }

    /// Whether it is marked as a copy.
    pub(crate) fn is_copy(self) -> bool {
        self != Marks::default()
    }
}

/// Decides who has a task that was offered: whichever of the two asks first.
pub(crate) trait Claim: Clone + Debug + Default {
    /// Takes the offer back. False if the home has begun with the task.
    fn withdraw(&self) -> bool;
}

/// How often a task has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attempt {
    /// This is the attempt of this number, from 1 on, of this message. One that its sender has sent again may have been run as the message
    /// before it, too ([`TaskRequest::is_resent`](crate::TaskRequest::is_resent)).
    Exactly(u32),
    /// It is at least the attempt of this number: the broker has handed it out before, and reports neither how often nor whether it
    /// was run (a look at the queue marks a message so, too). Only attempts that have failed count against the limit.
    AtLeast(u32),
}

impl Attempt {
    pub(crate) fn number(self) -> u32 {
        match self {
            Attempt::Exactly(number) | Attempt::AtLeast(number) => number,
        }
    }
}

/// A task in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskId(pub u64);

/// One time that a task was given to somebody. A settlement names it, so that a guard from which the task was withdrawn
/// settles nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HandId {
    /// The task.
    pub task: TaskId,
    /// Counts the times, from 1 on.
    pub round: u32,
}

/// A subscriber to a task queue. Subscribers of one queue are asked in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriberId(pub u64);

/// A lease. The driver names its queue after it, so that it needs no table of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LeaseId(pub u64);

/// The number of a connection, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Generation(pub u64);

/// One incarnation of one lane on one connection: what was delivered through it is gone when it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Channel {
    /// The connection.
    pub generation: Generation,
    /// The lane on it.
    pub lane: u32,
    /// How often the lane had been opened before.
    pub incarnation: u32,
}

/// The channels whose end was reported. A delivery that comes by one of them is void: the broker has it back.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClosedChannels(BTreeMap<u32, Channel>);

impl ClosedChannels {
    /// This one is closed, and those that its lane had before.
    pub(crate) fn close(&mut self, channel: Channel) {
        let latest = self.0.entry(channel.lane).or_insert(channel);
        *latest = (*latest).max(channel);
    }

    pub(crate) fn contains(&self, channel: Channel) -> bool {
        self.0
            .get(&channel.lane)
            .is_some_and(|latest| latest.generation == channel.generation && channel.incarnation <= latest.incarnation)
    }

    /// There is another connection.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn latest(&self) -> impl Iterator<Item = Channel> + '_ {
        self.0.values().copied()
    }
}

/// By what a delivery is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeliveryTag {
    /// Where it came through, and may be acknowledged.
    pub channel: Channel,
    /// The broker's number.
    pub number: u64,
}
