//! Identifiers and random numbers: the one place where they are drawn, so that a simulation can decide them.

use uuid::Uuid;

/// An identifier that nobody else has.
pub(crate) fn unique() -> Uuid {
    Uuid::new_v4()
}

/// A number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    let (high, _) = unique().as_u64_pair();
    f64::from((high >> 32) as u32) / f64::from(u32::MAX)
}
