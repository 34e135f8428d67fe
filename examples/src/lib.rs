//! What the programs share: where their broker is.

/// The broker that the first argument names; without one, a broker inside the process.
#[must_use]
pub fn broker() -> String {
    std::env::args().nth(1).unwrap_or_else(|| "memory:".to_owned())
}
