//! Races on a foreign loop: its hook is called once when the inbox turns non-empty, and never under a lock.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use homing_home::model::{self, OnPurpose};
use homing_home::{Completer, Deadline, LocalHome};
use loom::thread;
use loom_tests::{At, Count, Ledger, Ready, Token, complete, explore};

const RUNG: usize = 1;

/// A foreign loop that sleeps until its hook has been called, and how often it was.
fn foreign_loop(capacity: usize) -> (LocalHome, Arc<Ready>, Arc<AtomicUsize>) {
    let (ready, rings) = (Ready::new(0), Arc::new(AtomicUsize::new(0)));
    let (rung, counted) = (Arc::clone(&ready), Arc::clone(&rings));
    let hook = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        rung.set(RUNG);
    };
    (model::foreign_loop(hook, capacity), ready, rings)
}

fn here() -> Ledger {
    Ledger::new(At::Thread(thread::current().id()))
}

/// Guards the ring: one for an inbox that turns non-empty, whoever comes first, and none for what comes on top.
#[test]
fn two_completions_ring_an_idle_loop_once() {
    explore(|| {
        let (home, _ready, rings) = foreign_loop(2);
        let ledger = here();
        let (one, one_future) = home.future::<Token>().unwrap();
        let (other, other_future) = home.future::<Token>().unwrap();
        let (first, second) = (ledger.token(), ledger.token());
        let threads = [thread::spawn(move || complete(one, first)), thread::spawn(move || complete(other, second))];
        for thread in threads {
            assert!(!thread.join().unwrap());
        }
        assert_eq!(rings.load(Ordering::Relaxed), 1);
        assert_eq!(home.turn(8), 2);
        drop((one_future, other_future));
        model::end(&home);
        ledger.settle_at_home();
    });
}

/// Guards the last ring: a loop that turns when it was rung, and sleeps otherwise, sees every completion; and is never rung
/// more often than there are completions.
#[test]
fn completions_ring_a_loop_that_turns() {
    explore(|| {
        let (home, ready, rings) = foreign_loop(2);
        let ledger = here();
        let (one, mut one_future) = home.future::<Token>().unwrap();
        let (other, mut other_future) = home.future::<Token>().unwrap();
        let (first, second) = (ledger.token(), ledger.token());
        let threads = [thread::spawn(move || complete(one, first)), thread::spawn(move || complete(other, second))];
        let counts = [Count::new(), Count::new()];
        assert!(counts[0].poll(&mut one_future).is_pending());
        assert!(counts[1].poll(&mut other_future).is_pending());
        while counts.iter().any(|count| count.woken() == 0) {
            assert_eq!(ready.wait(), RUNG);
            while home.turn(8) > 0 {}
        }
        for thread in threads {
            assert!(!thread.join().unwrap());
        }
        assert!((1..=2).contains(&rings.load(Ordering::Relaxed)));
        drop((one_future, other_future));
        model::end(&home);
        ledger.settle_at_home();
    });
}

/// Guards the second ring: a bounded turn that leaves something in the tray rings once more.
#[test]
fn completions_ring_a_loop_whose_turn_is_bounded() {
    explore(|| {
        let (home, ready, _rings) = foreign_loop(3);
        let ledger = here();
        let mut completers = Vec::new();
        let mut waits = Vec::new();
        for _ in 0..3 {
            let (completer, mut future) = home.future::<Token>().unwrap();
            completers.push((completer, ledger.token()));
            let count = Count::new();
            assert!(count.poll(&mut future).is_pending());
            waits.push((count, future));
        }
        let other = thread::spawn(move || {
            for (completer, token) in completers {
                assert!(!complete(completer, token));
            }
        });
        while waits.iter().any(|(count, _)| count.woken() == 0) {
            assert_eq!(ready.wait(), RUNG);
            model::turn_and_ring_again(&home, 1);
        }
        other.join().unwrap();
        drop(waits);
        model::end(&home);
        ledger.settle_at_home();
    });
}

/// Guards the ring being after the lock: a hook that comes back to the inbox that it is called for, to ask and to post.
#[test]
fn a_hook_comes_back_to_its_inbox() {
    /// What the hook uses, once.
    #[derive(Default)]
    struct Within {
        asks: Option<Completer<()>>,
        fires: Option<Deadline>,
    }
    explore(|| {
        let within: Arc<Mutex<Within>> = Arc::default();
        let ready = Ready::new(0);
        let (taken, rung) = (Arc::clone(&within), Arc::clone(&ready));
        let hook = move || {
            let Within { asks, fires } = std::mem::take(&mut *taken.lock().unwrap());
            if let Some(asks) = &asks {
                assert!(!asks.is_unwanted());
            }
            if let Some(deadline) = fires {
                deadline.fire();
            }
            drop(asks);
            rung.set(RUNG);
        };
        let home = model::foreign_loop(hook, 3);
        let ledger = here();
        let (asks, asked) = home.future::<()>().unwrap();
        let (timed, times_out) = home.future::<()>().unwrap();
        let fires = times_out.deadline();
        *within.lock().unwrap() = Within { asks: Some(asks), fires };
        let (completer, mut future) = home.future::<Token>().unwrap();
        let count = Count::new();
        assert!(count.poll(&mut future).is_pending());
        let token = ledger.token();
        let other = thread::spawn(move || complete(completer, token));
        while count.woken() == 0 {
            let _ = ready.wait();
            while home.turn(8) > 0 {}
        }
        assert!(!other.join().unwrap());
        drop((timed, times_out, asked, future));
        model::end(&home);
        ledger.settle_at_home();
    });
}

/// Guards whoever completes against a hook that panics: the completion is in the inbox, and the panic is the hook's own,
/// even when the completer is dropped by another panic.
#[test]
fn a_hook_panics() {
    explore(|| {
        let home = model::foreign_loop(|| std::panic::panic_any(OnPurpose), 2);
        let ledger = here();
        let (one, mut one_future) = home.future::<Token>().unwrap();
        let (other, mut other_future) = home.future::<Token>().unwrap();
        let token = ledger.token();
        let threads = [
            thread::spawn(move || assert!(!complete(one, token))),
            thread::spawn(move || loom_tests::panic_with(other)),
        ];
        home.turn(8);
        for thread in threads {
            thread.join().unwrap();
        }
        home.turn(8);
        let count = Count::new();
        assert!(count.poll(&mut one_future).is_ready());
        assert!(count.poll(&mut other_future).is_ready());
        model::end(&home);
        ledger.settle_at_home();
    });
}
