//! How futures end, and why none could be made.

use std::fmt;

/// How a future ends without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// Its completer was dropped without being used, by a panic for instance.
    Abandoned,
    /// Its completer cancelled it.
    Cancelled,
    /// Its deadline passed.
    TimedOut,
    /// It was polled away from its home.
    WrongHome,
    /// Its home has ended.
    HomeEnded,
    /// Too many waits stood within each other on its home.
    TooDeep,
    /// Waiting there would block the only thread that could end the wait.
    WouldDeadlock,
    /// It ended before, and its outcome was taken then.
    Taken,
    /// A home has as many futures, calls and tasks open as it may have, and no place for this one.
    Full,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Abandoned => "the other end dropped its completer without using it",
            End::Cancelled => "the future was cancelled",
            End::TimedOut => "the deadline of the future passed",
            End::WrongHome => "the future was polled away from its home; await it in the runtime that made it",
            End::HomeEnded => "the home of the future has ended",
            End::TooDeep => "too many waits stand within each other on this home",
            End::WouldDeadlock => {
                "waiting here would deadlock: this thread drives a tokio runtime, of which nothing could go on; await it instead"
            }
            End::Taken => "the outcome of the future was taken before",
            End::Full => "the home has as many futures, calls and tasks open as it may have",
        })
    }
}

impl std::error::Error for End {}

/// What a future of this floor resolves to.
pub type Outcome<T> = Result<T, End>;

/// Why no future could be made, or no call or task taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReserveError {
    /// The home has as many futures, calls and tasks open as it may have, or others wait for a permit already.
    Full,
    /// The home has ended.
    Ended,
    /// The wait for a permit was [expired](super::Expirer::expire).
    TimedOut,
    /// The reservation was polled away from its home.
    WrongHome,
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReserveError::Full => "the home has as many futures, calls and tasks open as it may have",
            ReserveError::Ended => "the home has ended",
            ReserveError::TimedOut => {
                "the home had as many futures, calls and tasks open as it may have until the time was up"
            }
            ReserveError::WrongHome => "the reservation was polled away from its home; await it where it was made",
        })
    }
}

impl std::error::Error for ReserveError {}
