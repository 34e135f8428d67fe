//! Log lines that cannot end the thread they are written on.
//!
//! A `tracing` subscriber is the program's own code, and the communicator thread and the codec thread run it with each line. One that
//! panics must harm nobody's calls: the line is lost, and the panic's own message has been printed by the panic hook.

/// Runs a macro of `tracing`.
pub(crate) fn guarded(write: impl FnOnce()) {
    let _ = crate::panics::caught(write);
}

macro_rules! error_line {
    ($($line:tt)*) => { $crate::log::guarded(|| ::tracing::error!($($line)*)) };
}
macro_rules! warn_line {
    ($($line:tt)*) => { $crate::log::guarded(|| ::tracing::warn!($($line)*)) };
}
macro_rules! info_line {
    ($($line:tt)*) => { $crate::log::guarded(|| ::tracing::info!($($line)*)) };
}
macro_rules! debug_line {
    ($($line:tt)*) => { $crate::log::guarded(|| ::tracing::debug!($($line)*)) };
}
macro_rules! trace_line {
    ($($line:tt)*) => { $crate::log::guarded(|| ::tracing::trace!($($line)*)) };
}

pub(crate) use {debug_line as debug, error_line as error, info_line as info, trace_line as trace, warn_line as warn};
