//! Races on the threads of one runtime (one of them polls the drain task, another one the future), and of a runtime's
//! future that has left it.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use homing_home::{End, model};
use loom::thread;
use loom_tests::{
    Count, DrainThread, Dropped, Kind, Ledger, Saw, Task, Token, block_on_elsewhere, complete, explore,
    explore_outcomes, saw,
};

/// Guards the one lock under which a poll looks for the outcome and leaves its waker, against the landing on another thread.
#[test]
fn a_poll_meets_the_landing() {
    explore(|| {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(loom_tests::At::Runtime(runtime.clone()));
        let (completer, future) = runtime.future::<Token>().unwrap();
        let worker = DrainThread::start(&runtime, drain);
        let token = ledger.token();
        assert!(!complete(completer, token));
        assert_eq!(saw(block_on_elsewhere(future)), Saw::Value);
        worker.stop();
        ledger.settle_at_home();
    });
}

/// Guards the last waker: whichever was the last to be polled with when the outcome landed is woken, once, and no other.
#[test]
fn a_poll_with_another_waker_meets_the_landing() {
    explore_outcomes(&["the first", "the second", "none"], || {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(loom_tests::At::Runtime(runtime.clone()));
        let (completer, mut future) = runtime.future::<Token>().unwrap();
        let worker = DrainThread::start(&runtime, drain);
        assert!(!complete(completer, ledger.token()));
        let (first, second) = (Count::new(), Count::new());
        let woken = if first.poll(&mut future).is_ready() {
            assert_eq!(first.woken(), 0);
            "none"
        } else if second.poll(&mut future).is_ready() {
            // The landing wakes after it has let the lock go.
            block_on_elsewhere(first.until_woken());
            assert_eq!((first.woken(), second.woken()), (1, 0));
            "the first"
        } else {
            block_on_elsewhere(second.until_woken());
            assert_eq!((first.woken(), second.woken()), (0, 1));
            assert!(second.poll(&mut future).is_ready());
            "the second"
        };
        worker.stop();
        ledger.settle_at_home();
        woken
    });
}

/// Guards a drop at home against the landing on another thread: the value is dropped by one of them.
#[test]
fn a_drop_meets_the_landing() {
    explore(|| {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(loom_tests::At::Runtime(runtime.clone()));
        let (completer, mut future) = runtime.future::<Token>().unwrap();
        let worker = DrainThread::start(&runtime, drain);
        assert!(!complete(completer, ledger.token()));
        let first = Count::new();
        let ready = first.poll(&mut future).is_ready();
        drop(future);
        worker.stop();
        assert!(first.woken() <= 1);
        assert!(!ready || first.woken() == 0);
        ledger.settle_at_home();
    });
}

/// Guards exactly one end while the future is polled on another thread than the drain.
#[test]
fn a_deadline_and_a_completion_meet_a_poll() {
    explore_outcomes(&[Saw::Value, Saw::TimedOut], || {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(loom_tests::At::Runtime(runtime.clone()));
        let (completer, future) = runtime.future::<Token>().unwrap();
        let deadline = model::deadline(&future).unwrap();
        let token = ledger.token();
        let timer = thread::spawn(move || deadline.fire());
        let worker = DrainThread::start(&runtime, drain);
        assert!(!complete(completer, token));
        let seen = saw(block_on_elsewhere(future));
        timer.join().unwrap();
        worker.stop();
        ledger.settle_at_home();
        seen
    });
}

/// Guards the end of a runtime on one of its threads against a poll on another: the future ends, or nobody will wake it
/// but the runtime's own end drops its task. A value is dropped once.
#[test]
fn a_poll_meets_the_end_of_its_runtime() {
    explore_outcomes(&["value", "ended", "pending"], || {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(loom_tests::At::Runtime(runtime.clone()));
        let (completer, mut future) = runtime.future::<Token>().unwrap();
        let worker = DrainThread::start(&runtime, drain);
        let back = thread::spawn({
            let token = ledger.token();
            move || complete(completer, token)
        });
        let count = Count::new();
        let end = thread::spawn(move || worker.stop());
        let seen = match count.poll(&mut future) {
            std::task::Poll::Ready(Ok(token)) => {
                drop(token);
                "value"
            }
            std::task::Poll::Ready(Err(end)) => {
                assert_eq!(end, End::HomeEnded);
                "ended"
            }
            std::task::Poll::Pending => "pending",
        };
        end.join().unwrap();
        let handed_back = back.join().unwrap();
        // A task that is polled once more, as under `block_on`, does not wait for ever.
        if seen == "pending" {
            assert!(count.poll(&mut future).is_ready());
        }
        drop(future);
        let dropped = if handed_back { Dropped::BySender } else { Dropped::AtHome };
        assert_eq!(ledger.settle(), [dropped]);
        seen
    });
}

/// Guards the way back of a future that is dropped off its home, against its completion: whichever comes first, the home
/// drops the value.
#[test]
fn a_drop_away_from_home_meets_the_completion() {
    explore(|| {
        let mut home = Task::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, mut future) = home.future::<Token>().unwrap();
        let first = Count::new();
        assert!(first.poll(&mut future).is_pending());
        let token = ledger.token();
        let drops = thread::spawn(move || drop(future));
        let completes = thread::spawn(move || complete(completer, token));
        home.turn();
        drops.join().unwrap();
        assert!(!completes.join().unwrap(), "the home lives");
        home.turn();
        ledger.settle_at_home();
        home.end();
    });
}

/// The same while the home ends: the value is dropped once, by the home while it lives, then by whoever has it.
#[test]
fn a_future_dropped_away_meets_its_completion_and_the_end() {
    explore_outcomes(&[Dropped::AtHome, Dropped::BySender, Dropped::Away], || {
        let mut home = Task::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, future) = home.future::<Token>().unwrap();
        let token = ledger.token();
        let drops = thread::spawn(move || drop(future));
        let completes = thread::spawn(move || complete(completer, token));
        home.turn();
        home.end();
        drops.join().unwrap();
        let handed_back = completes.join().unwrap();
        let dropped = ledger.settle();
        assert_eq!(dropped.len(), 1);
        assert_eq!(handed_back, dropped[0] == Dropped::BySender);
        dropped[0]
    });
}

/// Guards a poll off home: it ends there, and the home drops the value.
#[test]
fn a_poll_away_from_home_meets_the_completion() {
    explore(|| {
        let mut home = Task::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, mut future) = home.future::<Token>().unwrap();
        let token = ledger.token();
        let polls = thread::spawn(move || match Count::new().poll(&mut future) {
            std::task::Poll::Ready(Err(end)) => assert_eq!(end, End::WrongHome),
            other => panic!("polled away from home: {other:?}"),
        });
        let completes = thread::spawn(move || complete(completer, token));
        home.turn();
        polls.join().unwrap();
        assert!(!completes.join().unwrap(), "the home lives");
        home.turn();
        ledger.settle_at_home();
        home.end();
    });
}
