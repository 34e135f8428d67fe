//! Tasks in a worker's hands: the book that decides what becomes of each.

mod action;
pub(crate) mod book;
mod ended;
#[cfg(test)]
mod explore;
mod faults;
mod in_hand;
mod input;
mod message;
mod pauses;
mod timers;

pub(crate) use action::{Action, Destination, Handed};
pub(crate) use book::TaskBook;
pub(crate) use in_hand::Ownership;
pub(crate) use input::{Cause, Config, Delivery, Input, Known, LongTasks, Settlement};
pub(crate) use message::{Attempt, Channel, Claim, DeliveryTag, Generation, HandId, Identity, Kinds, LeaseId, Marks};
pub(crate) use message::{Message, SubscriberId, TaskId};
