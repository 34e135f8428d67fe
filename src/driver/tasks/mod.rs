//! Tasks in a worker's hands: the book that decides what becomes of each.

mod action;
pub(crate) mod book;
mod ended;
#[cfg(test)]
mod explore;
mod faults;
mod in_hand;
mod input;
mod live;
mod message;
mod pauses;
mod timers;

pub(crate) use action::{Action, Destination};
pub(crate) use book::TaskBook;
pub(crate) use in_hand::Ownership;
pub(crate) use input::{Cause, Config, Contents, Delivery, Input, Known, LongTasks, Settlement};
pub(crate) use live::{Claim, Live, TaskMessage, write_marks};
pub use message::Attempt;
pub(crate) use message::{
    Channel, ClosedChannels, DeliveryTag, Generation, HandId, LeaseId, Marks, SubscriberId, TaskId,
};

/// A task, for whoever is to work on it.
pub(crate) type Handed = action::Handed<Live>;
