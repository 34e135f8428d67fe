//! The dynamic value of a body.

/// A value as PyYAML has them.
#[derive(Clone, Debug)]
pub enum Value {
    /// None.
    Null,
}
