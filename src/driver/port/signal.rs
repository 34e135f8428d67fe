//! A signal for work in hand: that something outside has changed, to be awaited at home or checked in between.
//!
//! The driver and the work share it. Whoever waits leaves in it what ends the wait, and takes it out again when it stops
//! waiting, so that a handler may ask in a loop as often as it likes.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use crate::home::lock::Mutex;

use super::ExpireOnDrop;
use crate::home::{Completer, End, Home, HomeFuture, Reservation, ReserveError};

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
    listeners: BTreeMap<u64, Waiter>,
}

/// What ends a wait.
#[derive(Debug)]
enum Waiter {
    Rings(Completer<()>),
    /// Its home is full: it waits for a place, which ends as this is dropped.
    Full(#[expect(dead_code, reason = "its drop is what it is for")] ExpireOnDrop),
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
            match listener {
                // A home that has ended does not ask any more.
                Waiter::Rings(completer) => drop(completer.complete(())),
                full @ Waiter::Full(_) => drop(full),
            }
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

    /// Leaves in it what ends a wait. `None` when it was given, or has ended.
    fn register(&self, waiter: Waiter) -> Option<u64> {
        let mut waiting = self.0.waiting.lock();
        // Guards: a signal that was given, or an end, before anybody waited.
        if waiting.ended {
            // Not under the lock: it rings a home.
            drop(waiting);
            drop(waiter);
            return None;
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.listeners.insert(number, waiter);
        Some(number)
    }

    /// Takes it out again.
    fn unregister(&self, number: u64) {
        let waiter = self.0.waiting.lock().listeners.remove(&number);
        // Not under the lock: it holds a place of the home, or waits for one.
        drop(waiter);
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
    /// For a place of the home, which is full.
    Reserving {
        number: u64,
        reservation: Reservation<()>,
    },
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

    /// It waits at its home, or there is nothing to wait for any more.
    fn wait(&mut self, (completer, future): (Completer<()>, HomeFuture<()>)) {
        self.state = match self.signal.register(Waiter::Rings(completer)) {
            Some(number) => Wait::Waiting { number, future },
            None => Wait::Over,
        };
    }

    /// A home that is full keeps nobody waiting who has nothing to wait for any more.
    fn wait_for_a_place(&mut self, home: &Home) {
        let (reservation, expirer) = home.reserve();
        self.state = match self.signal.register(Waiter::Full(ExpireOnDrop::new(expirer))) {
            Some(number) => Wait::Reserving { number, reservation },
            None => Wait::Over,
        };
    }

    fn stop(&mut self) {
        let number = match std::mem::replace(&mut self.state, Wait::Over) {
            Wait::Waiting { number, .. } | Wait::Reserving { number, .. } => number,
            Wait::Idle | Wait::Over => return,
        };
        self.signal.unregister(number);
    }
}

impl Future for Listener {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                Wait::Idle => {
                    let home = Home::current();
                    match home.try_future() {
                        Ok(pair) => this.wait(pair),
                        Err(ReserveError::Full) => this.wait_for_a_place(&home),
                        // Its home is ending: nobody waits there any more.
                        Err(_) => this.state = Wait::Over,
                    }
                }
                Wait::Reserving { reservation, .. } => {
                    let place = ready!(Pin::new(reservation).poll(context));
                    this.stop();
                    match place {
                        Ok(pair) => this.wait(pair),
                        // It was moved to another home while it waited for a place.
                        Err(ReserveError::WrongHome) => this.state = Wait::Idle,
                        // There is nothing to wait for any more, or its home is ending.
                        Err(_) => {}
                    }
                }
                Wait::Waiting { future, .. } => {
                    let end = ready!(Pin::new(future).poll(context));
                    this.stop();
                    // Guards: a wait that is moved to another home, and would end as if the signal were given. It waits there.
                    if let Err(End::WrongHome) = end {
                        this.state = Wait::Idle;
                    }
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

    /// Ends at once where nothing goes on any more, for the clock of these tests stands still.
    async fn soon<T>(waited: impl Future<Output = T>) -> T {
        tokio::time::timeout(std::time::Duration::from_secs(60), waited).await.expect("the wait ends")
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_home_keeps_no_wait_for_a_signal_that_has_come() {
        let home = Home::current();
        home.set_capacity(1);
        let place = home.try_future::<()>().expect("the only place");
        for ends in [Signal::give, Signal::end] {
            let signal = Signal::default();
            let (mut one, mut other) = (signal.listen(), signal.listen());
            assert!((&mut one).now_or_never().is_none());
            assert!((&mut other).now_or_never().is_none());
            assert_eq!(signal.listeners(), 2);
            drop(other);
            assert_eq!(signal.listeners(), 1);
            ends(&signal);
            soon(one).await;
            soon(signal.listen()).await;
        }
        let signal = Signal::default();
        let mut waits = signal.listen();
        assert!((&mut waits).now_or_never().is_none());
        drop(place);
        // Its turn at the place that is free now.
        while home.occupancy().open == 0 {
            assert!((&mut waits).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(signal.listeners(), 1);
        signal.give();
        soon(waits).await;
        assert_eq!(home.occupancy().open, 0, "nothing is held");
    }

    #[test]
    fn a_wait_that_is_moved_to_another_home_goes_on_there() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let (one, other) = (runtime(), runtime());
        let signal = Signal::default();
        let mut waits = signal.listen();
        one.block_on(async { assert!((&mut waits).now_or_never().is_none()) });
        other.block_on(async {
            assert!((&mut waits).now_or_never().is_none(), "the signal was not given");
            signal.give();
            waits.await;
        });
    }
}
