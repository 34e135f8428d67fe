//! The dynamic value of a body.
