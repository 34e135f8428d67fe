//! A request that is a future by itself, so that it can be spawned, joined and selected like any other: its options until it
//! is polled, and then the work.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{Error, ErrorKind, Result};

pub(crate) type Running<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A message on its way from the first option to its end.
pub(crate) enum Sending<P, T> {
    /// What it is to be. Nothing has been sent.
    Built(P),
    /// It has been polled. `None` once it has ended, or was given away, or where a panic came between the two.
    Running(Option<Running<T>>),
}

impl<P, T> Sending<P, T> {
    /// Sets an option. One that has been polled keeps those that it had.
    pub(crate) fn set(&mut self, option: impl FnOnce(&mut P)) {
        if let Sending::Built(parts) = self {
            option(parts);
        }
    }

    pub(crate) fn parts(&self) -> Option<&P> {
        match self {
            Sending::Built(parts) => Some(parts),
            _ => None,
        }
    }

    /// The parts, to send them in another way than by polling.
    ///
    /// # Errors
    /// `InvalidState` when it has been polled.
    pub(crate) fn into_parts(self) -> Result<P> {
        match self {
            Sending::Built(parts) => Ok(parts),
            _ => Err(polled_before()),
        }
    }

    /// The same with other parts and another outcome. One that has been polled stays without.
    pub(crate) fn map<Q, U>(self, change: impl FnOnce(P) -> Q) -> Sending<Q, U> {
        self.into_parts().map_or(Sending::Running(None), |parts| Sending::Built(change(parts)))
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>, start: impl FnOnce(P) -> Running<T>) -> Poll<Result<T>> {
        let running = match self {
            // Alone: the parts, which may stand in its place, are large.
            Sending::Running(running) => running.take(),
            Sending::Built(_) => std::mem::replace(self, Sending::Running(None)).into_parts().ok().map(start),
        };
        let Some(mut running) = running else { return Poll::Ready(Err(polled_before())) };
        let polled = running.as_mut().poll(context);
        if polled.is_pending() {
            *self = Sending::Running(Some(running));
        }
        polled
    }
}

fn polled_before() -> Error {
    Error::new(ErrorKind::InvalidState, "it has been polled, and cannot be sent a second time or in another way")
}
