//! Errors and panics caught into a future.

use std::fmt;

use super::super::Completer;
use super::super::panics;

/// How a captured call failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Captured {
    /// It returned this error.
    Error(Box<dyn std::error::Error + Send + Sync>),
    /// It panicked with this text.
    Panic(String),
}

impl fmt::Display for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Captured::Error(error) => write!(f, "{error}"),
            Captured::Panic(text) => write!(f, "it panicked: {text}"),
        }
    }
}

impl std::error::Error for Captured {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Captured::Error(error) => error.source(),
            Captured::Panic(_) => None,
        }
    }
}

/// Calls something and ends a future with its value, its error or its panic. The caller goes on either way.
///
/// ```
/// use homing_home::futures::{Captured, capture};
///
/// let (completer, future) = homing_home::thread_future()?;
/// std::thread::spawn(move || capture(completer, || "x".parse::<i32>()));
/// assert!(matches!(future.wait()?, Err(Captured::Error(error)) if error.to_string().contains("invalid digit")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// None here: an error of `call` goes to the future.
pub fn capture<T, E>(target: Completer<Result<T, Captured>>, call: impl FnOnce() -> Result<T, E>)
where
    T: Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // A target whose home has ended wants nothing.
    drop(target.complete(caught(call)));
}

pub(super) fn caught<T, E>(call: impl FnOnce() -> Result<T, E>) -> Result<T, Captured>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match panics::caught(call) {
        Ok(returned) => returned.map_err(|error| Captured::Error(error.into())),
        Err(text) => Err(Captured::Panic(text)),
    }
}
