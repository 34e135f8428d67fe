//! The communicator thread: what it decides, in parts that own their state.

pub(crate) mod tasks;
