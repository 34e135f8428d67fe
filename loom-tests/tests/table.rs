//! The table: what the home does with a future, against what another thread does with its completer meanwhile, for a
//! runtime of one thread ([`Task`]) and for a thread ([`Local`]).
//!
//! A cell of the table names the outcomes that the home's side may see. Each of them must be seen in some schedule, and no
//! other; every value is dropped exactly once, at home, unless its sender had it back. The column of a cell is what the
//! other thread does, its row what the home does; `task::waits::completes` is the test of the first one.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use homing_home::End;
use loom::thread::{self, JoinHandle};
use loom_tests::{Count, Dropped, Kind, Ledger, Local, Saw, Task, Token, complete, explore_outcomes, panic_with, saw};

macro_rules! table {
    ($($row:ident => $($completes:ident)|+, $($fails:ident)|+, $($cancels:ident)|+, $($drops_it:ident)|+, $($panics:ident)|+;)+) => {
        table! { @home task Task $($row => $($completes)|+, $($fails)|+, $($cancels)|+, $($drops_it)|+, $($panics)|+;)+ }
        table! { @home local Local $($row => $($completes)|+, $($fails)|+, $($cancels)|+, $($drops_it)|+, $($panics)|+;)+ }
    };
    (@home $home:ident $kind:ident
     $($row:ident => $($completes:ident)|+, $($fails:ident)|+, $($cancels:ident)|+, $($drops_it:ident)|+, $($panics:ident)|+;)+) => {
        mod $home {
            use super::*;
            $(mod $row {
                use super::*;

                #[test]
                fn completes() {
                    cell::<$kind>(Off::Completes, super::super::$row, &[$(Saw::$completes),+]);
                }

                #[test]
                fn fails() {
                    cell::<$kind>(Off::Fails, super::super::$row, &[$(Saw::$fails),+]);
                }

                #[test]
                fn cancels() {
                    cell::<$kind>(Off::Cancels, super::super::$row, &[$(Saw::$cancels),+]);
                }

                #[test]
                fn drops_it() {
                    cell::<$kind>(Off::DropsIt, super::super::$row, &[$(Saw::$drops_it),+]);
                }

                #[test]
                fn panics() {
                    cell::<$kind>(Off::Panics, super::super::$row, &[$(Saw::$panics),+]);
                }
            })+
        }
    };
}

table! {
    // the home \ the other thread  completes           fails                cancels                drops it               panics with it
    waits                        => Value,              Failed,              Cancelled,             Abandoned,             Abandoned;
    polls_then_waits             => Value,              Failed,              Cancelled,             Abandoned,             Abandoned;
    repolls_with_another_waker   => Value,              Failed,              Cancelled,             Abandoned,             Abandoned;
    polls_then_drops             => GaveUp,             GaveUp,              GaveUp,                GaveUp,                GaveUp;
    drops_before_any_poll        => GaveUp,             GaveUp,              GaveUp,                GaveUp,                GaveUp;
    waits_with_a_deadline        => Value | TimedOut,   Failed | TimedOut,   Cancelled | TimedOut,  Abandoned | TimedOut,  Abandoned | TimedOut;
    gives_its_wait_up            => Value | GaveUp,     Failed | GaveUp,     Cancelled | GaveUp,    Abandoned | GaveUp,    Abandoned | GaveUp;
    ends_while_it_holds_it       => Value | HomeEnded,  Failed | HomeEnded,  Cancelled | HomeEnded, Abandoned | HomeEnded, Abandoned | HomeEnded;
    ends_while_it_waits          => Value | HomeEnded,  Failed | HomeEnded,  Cancelled | HomeEnded, Abandoned | HomeEnded, Abandoned | HomeEnded;
    ends_after_it_dropped_it     => GaveUp,             GaveUp,              GaveUp,                GaveUp,                GaveUp;
    waits_with_the_inbox_full    => Value,              Failed,              Cancelled,             Abandoned,             Abandoned;
    drops_it_with_the_inbox_full => GaveUp,             GaveUp,              GaveUp,                GaveUp,                GaveUp;
}

/// What the other thread does.
#[derive(Clone, Copy)]
enum Off {
    Completes,
    /// Passes on how another future ended, which was without a value.
    Fails,
    Cancels,
    DropsIt,
    Panics,
}

/// One cell: a home with two places, one future on it, and its completer on another thread.
struct Race<K: Kind> {
    home: K,
    other: Option<JoinHandle<()>>,
    ended: bool,
}

impl<K: Kind> Race<K> {
    fn join(&mut self) {
        if let Some(other) = self.other.take() {
            other.join().unwrap();
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.home.end();
    }
}

fn cell<K: Kind>(off: Off, row: fn(&mut Race<K>, K::Future<Token>) -> Saw, may_see: &[Saw]) {
    explore_outcomes(may_see, move || {
        let home = K::new(2);
        let ledger = Ledger::new(home.at());
        let (completer, future) = home.future::<Token>().unwrap();
        let handed_back = Arc::new(AtomicBool::new(false));
        let (back, values) = (Arc::clone(&handed_back), ledger.clone());
        let other = thread::spawn(move || match off {
            Off::Completes => back.store(complete(completer, values.token()), Ordering::Relaxed),
            // Where the home has ended, it has no use for it.
            Off::Fails => drop(completer.finish(Err(End::WouldDeadlock))),
            Off::Cancels => completer.cancel(),
            Off::DropsIt => drop(completer),
            Off::Panics => panic_with(completer),
        });
        let mut race = Race { home, other: Some(other), ended: false };
        let seen = row(&mut race, future);
        race.join();
        // An ended home does not turn: what is still in its inbox would be there for ever.
        if !race.ended {
            race.home.turn();
        }
        race.home.end();
        match ledger.settle()[..] {
            [] => assert!(!matches!(off, Off::Completes)),
            [Dropped::AtHome] => assert!(!handed_back.load(Ordering::Relaxed)),
            // A completion never fails for another reason than the end of the home.
            [Dropped::BySender] => assert!(race.ended),
            ref other => panic!("dropped {other:?}"),
        }
        seen
    });
}

/// Guards the last wake: a home that looks at its inbox and then sleeps, against a post and its ring; and the wake of the
/// waiter by the landing.
fn waits<K: Kind>(race: &mut Race<K>, future: K::Future<Token>) -> Saw {
    saw(race.home.wait(future))
}

/// Guards the waker of the last poll, when the home turned between the polls.
fn polls_then_waits<K: Kind>(race: &mut Race<K>, mut future: K::Future<Token>) -> Saw {
    let first = Count::new();
    assert!(first.poll(&mut future).is_pending(), "nothing lands but when the home turns");
    race.home.turn();
    let landed = first.woken();
    let outcome = race.home.wait(future);
    assert_eq!(first.woken(), landed, "a waker was woken that a later poll had replaced");
    saw(outcome)
}

/// Guards the replacing of the waker: the last one is woken, once, and no other.
fn repolls_with_another_waker<K: Kind>(race: &mut Race<K>, mut future: K::Future<Token>) -> Saw {
    let (first, second) = (Count::new(), Count::new());
    assert!(first.poll(&mut future).is_pending());
    assert!(second.poll(&mut future).is_pending());
    race.home.block_on(second.until_woken());
    assert_eq!((first.woken(), second.woken()), (0, 1));
    match first.poll(&mut future) {
        Poll::Ready(outcome) => saw(outcome),
        Poll::Pending => panic!("woken for nothing"),
    }
}

/// Guards the waker of a future that is gone, and the drop of what arrives late.
fn polls_then_drops<K: Kind>(race: &mut Race<K>, mut future: K::Future<Token>) -> Saw {
    let first = Count::new();
    assert!(first.poll(&mut future).is_pending());
    drop(future);
    race.home.turn();
    assert_eq!(first.woken(), 0, "nobody waits any more");
    Saw::GaveUp
}

/// The same for a future that was never polled.
fn drops_before_any_poll<K: Kind>(race: &mut Race<K>, future: K::Future<Token>) -> Saw {
    drop(future);
    race.home.turn();
    Saw::GaveUp
}

/// Guards exactly one end: the deadline comes as an envelope from a timer's thread, and the later of the two is dropped at
/// home. A completer learns that it is too late.
fn waits_with_a_deadline<K: Kind>(race: &mut Race<K>, future: K::Future<Token>) -> Saw {
    let deadline = K::deadline(&future);
    let timer = thread::spawn(move || deadline.fire());
    let seen = saw(race.home.wait(future));
    timer.join().unwrap();
    seen
}

/// Guards a wait that is cancelled by dropping its future, when something else has come first.
fn gives_its_wait_up<K: Kind>(race: &mut Race<K>, mut future: K::Future<Token>) -> Saw {
    let (give_up, mut given_up) = race.home.future::<()>().unwrap();
    let other = thread::spawn(move || give_up.complete(()).unwrap());
    let first =
        race.home.block_on(std::future::poll_fn(|context| match std::pin::Pin::new(&mut future).poll(context) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => std::pin::Pin::new(&mut given_up).poll(context).map(|_| None),
        }));
    drop(future);
    other.join().unwrap();
    first.map_or(Saw::GaveUp, saw)
}

/// Guards a completion against the end of its home: it has landed, or is dropped by the home, or is handed back; and the
/// future that nobody can end any more ends itself.
fn ends_while_it_holds_it<K: Kind>(race: &mut Race<K>, mut future: K::Future<Token>) -> Saw {
    let first = Count::new();
    assert!(first.poll(&mut future).is_pending());
    race.home.turn();
    race.end();
    match first.poll(&mut future) {
        Poll::Ready(outcome) => saw(outcome),
        Poll::Pending => panic!("it would wait for ever"),
    }
}

/// Guards a waiter that outlives its home: it is woken, once, by the landing, by the end of the home or by the sender whose
/// completion came too late.
fn ends_while_it_waits<K: Kind>(race: &mut Race<K>, mut future: K::Future<Token>) -> Saw {
    let first = Count::new();
    assert!(first.poll(&mut future).is_pending());
    race.home.turn();
    race.end();
    race.join();
    assert_eq!(first.woken(), 1);
    match first.poll(&mut future) {
        Poll::Ready(outcome) => saw(outcome),
        Poll::Pending => panic!("woken for nothing"),
    }
}

/// The same when the future is gone by then: the home drops what was posted, close hands back what comes later.
fn ends_after_it_dropped_it<K: Kind>(race: &mut Race<K>, future: K::Future<Token>) -> Saw {
    drop(future);
    race.end();
    Saw::GaveUp
}

/// Guards the reservation: a completion finds its place whatever else is open, and the place is free when the outcome has
/// been taken.
fn waits_with_the_inbox_full<K: Kind>(race: &mut Race<K>, future: K::Future<Token>) -> Saw {
    let _open = race.home.future::<()>().unwrap();
    assert!(is_full(&race.home));
    let seen = saw(race.home.wait(future));
    assert!(!is_full(&race.home), "its envelope was handled");
    seen
}

/// Guards the place of a future that was dropped: it is free when its envelope has been handled, and not before.
fn drops_it_with_the_inbox_full<K: Kind>(race: &mut Race<K>, future: K::Future<Token>) -> Saw {
    let _open = race.home.future::<()>().unwrap();
    drop(future);
    assert!(is_full(&race.home), "its envelope is still to come or to be handled");
    race.home.turn();
    race.join();
    race.home.turn();
    assert!(!is_full(&race.home), "its envelope was handled");
    Saw::GaveUp
}

fn is_full<K: Kind>(home: &K) -> bool {
    home.future::<()>().is_err()
}
