//! A signal for work in hand: that something outside has changed, to be awaited at home or checked in between.
//!
//! The driver and the work share it. Whoever waits leaves a completer in it, and takes it out again when it stops waiting,
//! so that a handler may ask in a loop as often as it likes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;

use crate::home::{Completer, Home, HomeFuture, Reservation, ReserveError};

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

    /// A wait for it. It takes up nothing before it is polled.
    pub(crate) fn listen(&self) -> Listener {
        Listener { signal: self.clone(), state: Wait::Idle }
    }

    /// Leaves a completer in it. `None` when it was given, or has ended.
    fn register(&self, completer: Completer<()>) -> Option<u64> {
        let mut waiting = self.0.waiting.lock();
        waiting.last += 1;
        let number = waiting.last;
        // Guards: a signal that was given, or an end, before anybody waited.
        if waiting.ended {
            return None;
        }
        waiting.listeners.insert(number, completer);
        Some(number)
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

/// One wait for a signal, at the home where it is polled first.
pub(crate) struct Listener {
    signal: Signal,
    state: Wait,
}

enum Wait {
    Idle,
    /// For a place of the home.
    Reserving(Reservation<()>),
    Waiting {
        number: u64,
        future: HomeFuture<()>,
    },
    Over,
}

impl Listener {
    pub(crate) fn is_given(&self) -> bool {
        self.signal.is_given()
    }

    fn stop(&mut self) {
        if let Wait::Waiting { number, .. } = std::mem::replace(&mut self.state, Wait::Over) {
            // Its completer holds a place of the home.
            let completer = self.signal.0.waiting.lock().listeners.remove(&number);
            drop(completer);
        }
    }
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                Wait::Idle => this.state = Wait::Reserving(Home::current().reserve().0),
                Wait::Reserving(reservation) => {
                    let registered = match ready!(Pin::new(reservation).poll(context)) {
                        Ok((completer, future)) => this.signal.register(completer).map(|number| (number, future)),
                        // It was moved to another home while it waited for a place.
                        Err(ReserveError::WrongHome) => {
                            this.state = Wait::Idle;
                            continue;
                        }
                        // Its home is ending: nobody waits there any more.
                        Err(_) => None,
                    };
                    match registered {
                        Some((number, future)) => this.state = Wait::Waiting { number, future },
                        None => this.state = Wait::Over,
                    }
                }
                Wait::Waiting { future, .. } => {
                    // Whatever its end is, there is nothing to wait for any more.
                    let _ = ready!(Pin::new(future).poll(context));
                    this.stop();
                }
                Wait::Over => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("given", &self.is_given()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_signal_that_is_asked_for_in_a_loop_holds_nothing() {
        let signal = Signal::default();
        for _ in 0..1000 {
            let mut waits = signal.listen();
            assert!((&mut waits).now_or_never().is_none());
            assert_eq!(signal.listeners(), 1);
        }
        assert_eq!(signal.listeners(), 0);
        let mut waits = signal.listen();
        assert!((&mut waits).now_or_never().is_none());
        signal.give();
        waits.await;
        signal.listen().await;
        assert!(signal.is_given());
    }

    #[tokio::test]
    async fn the_end_of_the_work_ends_the_wait_and_gives_nothing() {
        let signal = Signal::default();
        let mut waits = signal.listen();
        assert!((&mut waits).now_or_never().is_none());
        signal.end();
        waits.await;
        signal.listen().await;
        assert!(!signal.is_given());
    }
}
