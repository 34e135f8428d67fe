//! kiwipy's format: the names of exchanges and queues, what a reply, a task and a broadcast look like, and the headers of
//! our own. Data, and functions on data.

pub(crate) mod broadcast;
pub(crate) mod delay;
pub(crate) mod headers;
pub(crate) mod names;
pub(crate) mod response;
pub(crate) mod task;
pub(crate) mod unique;
