//! Races of waits for a permit: with permits that are given back, with the clock that gives the wait up, with whoever gives it up
//! itself, and with the end of the home. The home alone serves them and wakes them.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use homing_home::{ReserveError, model};
use loom::thread;
use loom_tests::{At, Ledger};
use loom_tests::{
    Count, DrainThread, Kind, Local, Task, Token, block_on_elsewhere, complete, explore, explore_outcomes,
};

/// What a wait for a permit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    Granted,
    TimedOut,
    Ended,
}

fn came<T>(made: Result<T, ReserveError>) -> Came {
    match made {
        Ok(_) => Came::Granted,
        Err(ReserveError::TimedOut) => Came::TimedOut,
        Err(ReserveError::Ended) => Came::Ended,
        Err(error) => panic!("{error}"),
    }
}

/// Guards the call of the home by whoever gives a permit back: the one who waits gets it.
#[test]
fn a_permit_comes_back() {
    explore(|| {
        let mut home = Task::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, future) = home.future::<Token>().unwrap();
        let (reservation, expirer) = home.home().reserve::<()>();
        drop(expirer);
        drop(future);
        let token = ledger.token();
        let other = thread::spawn(move || complete(completer, token));
        assert_eq!(came(home.block_on(reservation)), Came::Granted);
        assert!(!other.join().unwrap());
        home.turn();
        assert!(home.future::<()>().is_ok(), "all permits are back");
        home.end();
        ledger.settle_at_home();
    });
}

/// Guards the wait against both of its ends: exactly one of them, and no permit is lost.
#[test]
fn a_permit_comes_back_as_the_time_is_up() {
    explore_outcomes(&[Came::Granted, Came::TimedOut], || {
        let mut home = Task::new(1);
        let (completer, future) = home.future::<()>().unwrap();
        let (reservation, expirer) = home.home().reserve::<()>();
        drop(future);
        let completes = thread::spawn(move || drop(completer));
        let timer = thread::spawn(move || expirer.expire());
        let seen = came(home.block_on(reservation));
        completes.join().unwrap();
        timer.join().unwrap();
        home.turn();
        assert!(home.future::<()>().is_ok(), "all permits are back");
        home.end();
        seen
    });
}

/// Guards the note of a clock where nothing else ends the wait; on a thread as on a runtime.
#[test]
fn the_time_is_up() {
    explore(|| {
        let mut home = Local::new(1);
        let (completer, future) = home.future::<()>().unwrap();
        let (reservation, expirer) = model::reserve::<()>(home.home());
        let timer = thread::spawn(move || {
            assert!(!expirer.is_unwanted());
            expirer.expire();
        });
        assert_eq!(came(home.block_on(reservation)), Came::TimedOut);
        timer.join().unwrap();
        drop((completer, future));
        home.turn();
        assert!(home.future::<()>().is_ok());
        home.end();
    });
}

/// Guards first come, first served: the second does not overtake, whatever the permits do meanwhile.
#[test]
fn two_wait_for_permits_that_come_back() {
    explore(|| {
        let mut home = Task::new(1);
        let (completer, future) = home.future::<()>().unwrap();
        drop(future);
        let runtime = home.home().clone();
        let (mut first, _) = runtime.reserve::<()>();
        let (mut second, _) = runtime.reserve::<()>();
        let counts = [Count::new(), Count::new()];
        assert!(counts[0].poll(&mut first).is_pending());
        assert!(counts[1].poll(&mut second).is_pending());
        let other = thread::spawn(move || drop(completer));
        home.block_on(counts[0].until_woken());
        assert_eq!(counts[1].woken(), 0);
        let std::task::Poll::Ready(Ok(pair)) = counts[0].poll(&mut first) else { panic!("it was woken for a permit") };
        assert!(counts[1].poll(&mut second).is_pending());
        drop(pair);
        home.block_on(counts[1].until_woken());
        assert!(matches!(counts[1].poll(&mut second), std::task::Poll::Ready(Ok(_))));
        other.join().unwrap();
        home.turn();
        assert!(home.future::<()>().is_ok(), "all permits are back");
        home.end();
    });
}

/// Guards the one who waits against one who comes later, on another thread than the drain task: a permit that is free is not
/// granted to the later one, although the home has not handed it over yet.
#[test]
fn a_later_comer_meets_a_permit_that_comes_back() {
    explore(|| {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let (completer, future) = runtime.future::<()>().unwrap();
        drop(future);
        let (reservation, _) = runtime.reserve::<()>();
        let worker = DrainThread::start(&runtime, drain);
        // Its permit comes back when the drain task has handled this, and is granted by the next envelope.
        drop(completer);
        assert!(matches!(runtime.future::<()>(), Err(ReserveError::Full)), "nobody overtakes");
        assert_eq!(came(block_on_elsewhere(reservation)), Came::Granted);
        worker.stop();
    });
}

/// Guards the end of a bounded round of grants (two waits long under loom): the waits that are left have the home called again.
#[test]
fn the_capacity_grows_while_three_wait() {
    explore(|| {
        let mut home = Local::new(0);
        let handle = home.home().home();
        let waits = [(); 3].map(|()| model::reserve::<()>(home.home()).0);
        let grows = thread::spawn(move || handle.set_capacity(3));
        for wait in waits {
            assert_eq!(came(home.block_on(wait)), Came::Granted);
        }
        grows.join().unwrap();
        home.end();
    });
}

/// Guards a reservation that is dropped away from home against the permit that comes: the next one gets it, and the waker of the
/// first one is dropped at home.
#[test]
fn a_wait_is_given_up_elsewhere_as_its_permit_comes() {
    explore(|| {
        let mut home = Task::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, future) = home.future::<()>().unwrap();
        drop(future);
        let (mut first, _) = home.home().reserve::<()>();
        let (second, _) = home.home().reserve::<()>();
        let noted = Noted::waker(ledger.token());
        assert!(std::pin::Pin::new(&mut first).poll(&mut std::task::Context::from_waker(&noted)).is_pending());
        drop(noted);
        let completes = thread::spawn(move || drop(completer));
        let gives_up = thread::spawn(move || drop(first));
        assert_eq!(came(home.block_on(second)), Came::Granted);
        completes.join().unwrap();
        gives_up.join().unwrap();
        home.turn();
        assert!(home.future::<()>().is_ok(), "all permits are back");
        home.end();
        ledger.settle_at_home();
    });
}

/// A waker that notes where it is dropped.
struct Noted(#[expect(dead_code, reason = "it is there to be dropped")] Token);

impl Noted {
    fn waker(token: Token) -> std::task::Waker {
        std::task::Waker::from(std::sync::Arc::new(Noted(token)))
    }
}

impl std::task::Wake for Noted {
    fn wake(self: std::sync::Arc<Self>) {}
}

/// Guards the wait against the end of the home, while a clock runs too: it ends.
#[test]
fn the_home_ends_as_the_time_is_up() {
    explore_outcomes(&[Came::TimedOut, Came::Ended], || {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let (completer, future) = runtime.future::<()>().unwrap();
        let (reservation, expirer) = runtime.reserve::<()>();
        let worker = DrainThread::start(&runtime, drain);
        let timer = thread::spawn(move || expirer.expire());
        let ends = thread::spawn(move || worker.stop());
        let seen = came(block_on_elsewhere(reservation));
        timer.join().unwrap();
        ends.join().unwrap();
        drop((completer, future));
        assert!(runtime.future::<()>().is_err(), "an ended home has no permits");
        seen
    });
}

/// Guards the one lock under which a poll looks at its wait and leaves its waker, against the drain task on another thread.
#[test]
fn a_poll_meets_the_grant() {
    explore(|| {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(At::Runtime(runtime.clone()));
        let (completer, future) = runtime.future::<Token>().unwrap();
        drop(future);
        let (reservation, _) = runtime.reserve::<()>();
        let worker = DrainThread::start(&runtime, drain);
        assert!(!complete(completer, ledger.token()));
        assert_eq!(came(block_on_elsewhere(reservation)), Came::Granted);
        worker.stop();
        ledger.settle_at_home();
    });
}
