//! The semantics of a broker, one by one. Time is an argument: nothing here waits.

mod arguments;
mod basics;
mod consumers;
mod cost;
mod dead_letters;
mod exchanges;
mod flow;
mod limits;
mod restart;
mod settling;
pub(super) mod world;
