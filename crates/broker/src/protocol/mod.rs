//! AMQP 0-9-1 as bytes: what is read from a client and written to it, without I/O.
//!
//! Reading borrows from the input: no function here allocates by a number that the peer chose, and none panics on any
//! input. Every violation is a [`Violation`], which knows the code that the specification gives it. Content headers and
//! field tables stay as the bytes that came, so that their types reach the consumer exactly as the publisher sent them;
//! only what is needed is read out of them.
//!
//! What the floor does not know: channels, their state, and what a method means.

pub mod code;
pub mod content;
pub mod frame;
pub mod methods;
pub(crate) mod read;
pub mod table;
mod violation;
pub(crate) mod write;

#[cfg(test)]
mod tests;

pub use code::ReplyCode;
pub use content::{ContentHeader, Properties};
pub use frame::{Frame, FrameReader, PROTOCOL_HEADER};
pub use methods::{Method, MethodId};
pub use table::{Table, TableWriter, Value};
pub use violation::Violation;
