//! Marks that nobody else draws.

/// 128 random bits as text.
pub(crate) fn draw() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
