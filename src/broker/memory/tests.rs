//! The semantics that no peer can see from outside.
