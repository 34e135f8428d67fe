//! A signal for work in hand: that something outside has changed, to be awaited at home or checked in between.
//!
//! The driver and the work share it. Whoever waits leaves a completer in it, and takes it out again when it stops waiting,
//! so that a handler may ask in a loop as often as it likes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, Home, HomeFuture};

/// Both ends of a signal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    given: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Nobody will give it any more.
    ended: bool,
    last: u64,
    listeners: BTreeMap<u64, Completer<()>>,
}

impl Signal {
    /// Gives it: every wait ends, and so does every later one.
    fn give(&self) {
        // Ordering: Relaxed, for it is a hint; the completion orders what follows it.
        self.0.given.store(true, Ordering::Relaxed);
        self.end();
    }

    /// The work has ended: every wait ends, and so does every later one.
    fn end(&self) {
        let listeners = {
            let mut waiting = self.0.waiting.lock();
            waiting.ended = true;
            std::mem::take(&mut waiting.listeners)
        };
        for listener in listeners.into_values() {
            // A home that has ended does not ask any more.
            drop(listener.complete(()));
        }
    }

    pub(crate) fn is_given(&self) -> bool {
        // Ordering: Relaxed, for it is a hint and orders nothing.
        self.0.given.load(Ordering::Relaxed)
    }

    /// Waits for it at the current home.
    ///
    /// # Errors
    /// `Full` when the home has as many futures open as it may have; `HomeEnded`.
    pub(crate) fn listen(&self) -> Result<Listener> {
        let (completer, future) =
            Home::current().try_future().map_err(|full| Error::with_source(ErrorKind::Full, full.to_string(), full))?;
        let mut waiting = self.0.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        // Guards: a signal that was given, or an end, before anybody waited.
        if waiting.ended {
            drop(waiting);
            drop(completer.complete(()));
        } else {
            waiting.listeners.insert(number, completer);
        }
        Ok(Listener { signal: self.clone(), number, future })
    }

    /// How many wait for it.
    #[cfg(test)]
    pub(crate) fn listeners(&self) -> usize {
        self.0.waiting.lock().listeners.len()
    }
}

/// The driver's end of a signal. Dropped, it ends the signal: nobody will give it any more.
#[derive(Debug, Default)]
pub(crate) struct Giver(Signal);

impl Giver {
    /// The other end.
    pub(crate) fn signal(&self) -> Signal {
        self.0.clone()
    }

    pub(crate) fn give(&self) {
        self.0.give();
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One wait for a signal, at its home.
#[derive(Debug)]
pub(crate) struct Listener {
    signal: Signal,
    number: u64,
    future: HomeFuture<()>,
}

impl Listener {
    pub(crate) fn is_given(&self) -> bool {
        self.signal.is_given()
    }
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Whatever its end is, there is nothing to wait for any more.
        Pin::new(&mut self.future).poll(context).map(drop)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Its completer holds a place of the home.
        let completer = self.signal.0.waiting.lock().listeners.remove(&self.number);
        drop(completer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_that_is_asked_for_in_a_loop_holds_nothing() {
        let signal = Signal::default();
        for _ in 0..1000 {
            drop(signal.listen().unwrap());
        }
        assert_eq!(signal.listeners(), 0);
        let waits = signal.listen().unwrap();
        signal.give();
        waits.await;
        signal.listen().unwrap().await;
        assert!(signal.is_given());
    }

    #[tokio::test]
    async fn the_end_of_the_work_ends_the_wait_and_gives_nothing() {
        let signal = Signal::default();
        let waits = signal.listen().unwrap();
        signal.end();
        waits.await;
        signal.listen().unwrap().await;
        assert!(!signal.is_given());
    }
}
