//! Races of what stands around a home: the event loop with its stop, foreign loops, tasks that are sent to a home, done-callbacks
//! and chains, the registry of runtimes, and the drain task that is relieved while it waits.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;

use homing_home::futures::gather;
use homing_home::model::{self, DrainTask, Registry, RuntimeHome};
use homing_home::{Completer, Deadline, End, EventLoop, ForeignLoop, Home, LocalHome, Outcome, ReserveError};
use loom::thread;
use loom_tests::{
    At, DrainThread, Dropped, Kind, Ledger, Local, Ready, Saw, Task, Token, block_on_elsewhere, complete, explore,
    explore_outcomes, saw,
};

/// Guards a call against the stop of the loop from another thread: it runs on the loop, or is refused or dropped there, once; and
/// the loop's thread ends.
#[test]
fn a_call_meets_the_stop_of_its_loop() {
    explore_outcomes(&["ran", "dropped", "refused"], || {
        let event_loop = EventLoop::start("modelled").unwrap();
        let handle = event_loop.handle();
        let stopper = event_loop.handle();
        let stops = thread::spawn(move || stopper.stop());
        let ran = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&ran);
        let called = handle.run(move |_| {
            noted.fetch_add(1, Ordering::Relaxed);
        });
        stops.join().unwrap();
        event_loop.stop();
        assert_eq!(Arc::strong_count(&ran), 1, "nothing of the call is left");
        match (called, ran.load(Ordering::Relaxed)) {
            (Ok(()), 1) => "ran",
            (Ok(()), 0) => "dropped",
            (Err(ReserveError::Ended), 0) => "refused",
            other => panic!("{other:?}"),
        }
    });
}

/// Guards every sleep of a loop against its stop: that of the loop itself, and those of waits that stand on it, in a callback and
/// in a timer. All of them end, the innermost first.
#[test]
fn a_stop_meets_waits_within_waits() {
    explore(|| {
        let event_loop = EventLoop::start("modelled").unwrap();
        let seen: Arc<Mutex<Vec<&str>>> = Arc::default();
        let noted = Arc::clone(&seen);
        // A completer that is dropped would wake the loop.
        let kept: Arc<Mutex<Vec<Completer<()>>>> = Arc::default();
        let keeps = Arc::clone(&kept);
        event_loop
            .run(move |home| {
                let (outer, outer_future) = home.future::<()>().unwrap();
                keeps.lock().unwrap().push(outer);
                let (inner_noted, timer) = (Arc::clone(&noted), home.clone());
                home.after(std::time::Duration::ZERO, move || {
                    let (inner, inner_future) = timer.future::<()>().unwrap();
                    keeps.lock().unwrap().push(inner);
                    assert_eq!(inner_future.wait(), Err(End::HomeEnded));
                    inner_noted.lock().unwrap().push("inner");
                })
                .unwrap();
                assert_eq!(outer_future.wait(), Err(End::HomeEnded));
                noted.lock().unwrap().push("outer");
            })
            .unwrap();
        event_loop.stop();
        let seen = seen.lock().unwrap();
        assert!(["inner", "outer"].ends_with(&seen), "{seen:?}");
    });
}

/// Guards a task that is sent to a thread against the end of that home: it is run or dropped there, or handed back.
#[test]
fn a_task_meets_the_end_of_the_home_it_is_sent_to() {
    explore_outcomes(&[("ran", Dropped::AtHome), ("dropped", Dropped::AtHome), ("handed back", Dropped::Away)], || {
        let mut local = Local::new(2);
        let ledger = Ledger::new(local.at());
        let home = local.home().home();
        let token = ledger.token();
        let ran = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&ran);
        let sends = thread::spawn(move || {
            let task = async move {
                noted.fetch_add(1, Ordering::Relaxed);
                drop(token);
            };
            match home.spawn(task) {
                Ok(()) => false,
                Err(refused) => {
                    assert_eq!(refused.reason(), ReserveError::Ended);
                    drop(refused.into_task());
                    true
                }
            }
        });
        local.turn();
        local.end();
        let handed_back = sends.join().unwrap();
        let dropped = ledger.settle();
        assert_eq!(dropped.len(), 1);
        match (handed_back, ran.load(Ordering::Relaxed)) {
            (true, 0) => ("handed back", dropped[0]),
            (false, 0) => ("dropped", dropped[0]),
            (false, 1) => ("ran", dropped[0]),
            other => panic!("{other:?}"),
        }
    });
}

/// Guards a done-callback that is set on one thread of a runtime against the outcome that lands on another: it is called once.
#[test]
fn a_callback_is_set_as_the_outcome_lands() {
    explore(|| {
        let (runtime, drain) = model::runtime(1);
        runtime.enter();
        let ledger = Ledger::new(At::Runtime(runtime.clone()));
        let (completer, future) = runtime.future::<Token>().unwrap();
        let worker = DrainThread::start(&runtime, drain);
        let token = ledger.token();
        let completes = thread::spawn(move || complete(completer, token));
        let ready = Ready::new(0);
        let called = Arc::clone(&ready);
        future.on_done(move |outcome| {
            assert_eq!(saw(outcome), Saw::Value);
            called.set(1);
        });
        assert_eq!(ready.wait(), 1);
        assert!(!completes.join().unwrap());
        worker.stop();
        ledger.settle_at_home();
    });
}

/// Guards a done-callback that is set away from home, against the completion and the end of the home: it is called at home with the
/// outcome or the end, or dropped where the home had ended.
#[test]
fn a_callback_is_set_away_as_its_home_ends() {
    explore_outcomes(&[Some(Saw::Value), Some(Saw::HomeEnded), None], || {
        let mut home = Task::new(1);
        let runtime = home.home().clone();
        let ledger = Ledger::new(home.at());
        let (completer, future) = home.future::<Token>().unwrap();
        let token = ledger.token();
        let seen: Arc<Mutex<Option<Saw>>> = Arc::default();
        let noted = Arc::clone(&seen);
        let sets = thread::spawn(move || {
            future.on_done(move |outcome| {
                assert!(runtime.is_here());
                assert!(noted.lock().unwrap().replace(saw(outcome)).is_none(), "called twice");
            });
        });
        let completes = thread::spawn(move || complete(completer, token));
        home.turn();
        home.end();
        sets.join().unwrap();
        completes.join().unwrap();
        assert_eq!(ledger.settle().len(), 1);
        assert_eq!(Arc::strong_count(&seen), 1, "nothing of the callback is left");
        let seen = *seen.lock().unwrap();
        seen
    });
}

/// Guards a chain from a thread's home to a runtime's: the outcome arrives whichever home turns first; the end of the source ends
/// the target.
#[test]
fn a_chain_meets_the_end_of_its_source() {
    explore_outcomes(&[Saw::Value, Saw::HomeEnded], || {
        let mut target_home = Task::new(1);
        let (target, future) = target_home.future::<()>().unwrap();
        let source = thread::spawn(move || {
            let mut source_home = Local::new(1);
            let (completer, source) = source_home.home().home().try_future::<()>().unwrap();
            source.chain(target);
            let completes = thread::spawn(move || drop(completer.complete(())));
            source_home.turn();
            source_home.end();
            completes.join().unwrap();
        });
        let seen = saw(target_home.wait(future));
        source.join().unwrap();
        target_home.end();
        seen
    });
}

/// Guards several futures that are waited for as one: all values; or the first end without one, and what comes later is dropped at
/// home.
#[test]
fn two_are_gathered_as_they_end() {
    fn gathered(completes: bool) -> (Outcome<usize>, usize) {
        let mut local = Local::new(4);
        let ledger = Ledger::new(local.at());
        let home: Home = local.home().home();
        let (one, first) = home.try_future::<Token>().unwrap();
        let (two, second) = home.try_future::<Token>().unwrap();
        let (token, another) = (ledger.token(), ledger.token());
        let threads = [
            thread::spawn(move || complete(one, token)),
            thread::spawn(move || {
                if completes {
                    return complete(two, another);
                }
                drop((two, another));
                false
            }),
        ];
        let seen = local.block_on(gather([first, second])).map(|values| values.len());
        for thread in threads {
            assert!(!thread.join().unwrap());
        }
        local.turn();
        local.end();
        (seen, ledger.settle().len())
    }
    explore(|| assert_eq!(gathered(true), (Ok(2), 2)));
    explore(|| assert_eq!(gathered(false), (Err(End::Abandoned), 2)));
}

/// Guards the lock of the registry: two threads that ask for the home of one runtime get one, with one drain task.
#[test]
fn two_threads_ask_for_the_home_of_a_runtime() {
    explore(|| {
        let registry = Arc::new(Registry::default());
        let made: Arc<Mutex<Vec<DrainTask>>> = Arc::default();
        let ask = move |registry: &Registry, made: &Arc<Mutex<Vec<DrainTask>>>| {
            let made = Arc::clone(made);
            registry.home_of(7, move |drain| made.lock().unwrap().push(drain))
        };
        let other = thread::spawn({
            let (registry, made) = (Arc::clone(&registry), Arc::clone(&made));
            move || ask(&registry, &made)
        });
        let home = ask(&registry, &made);
        let others = other.join().unwrap();
        assert!(home == others, "one home");
        let drains = std::mem::take(&mut *made.lock().unwrap());
        assert_eq!(drains.len(), 1);
        assert_eq!(registry.known(), (1, 1));
        drop((drains, home, others));
        assert_eq!(registry.known(), (1, 0));
        // The next runtime clears away what has ended.
        let home = registry.home_of(8, |_| ());
        assert_eq!(registry.known(), (1, 1));
        drop(home);
    });
}

/// The thread that takes over what a drain task has.
struct Relief {
    ready: Arc<Ready>,
    next: Arc<Mutex<Option<DrainTask>>>,
}

impl Relief {
    fn of(capacity: usize) -> (Self, RuntimeHome, DrainTask) {
        let relief = Relief { ready: Ready::new(0), next: Arc::default() };
        let (ready, next) = (Arc::clone(&relief.ready), Arc::clone(&relief.next));
        let (runtime, drain) = model::runtime_with(capacity, move |drain| {
            *next.lock().unwrap() = Some(drain);
            ready.set(1);
        });
        runtime.enter();
        (relief, runtime, drain)
    }

    fn start(self, runtime: &RuntimeHome) -> thread::JoinHandle<DrainThread> {
        let runtime = runtime.clone();
        thread::spawn(move || {
            runtime.enter();
            assert_eq!(self.ready.wait(), 1);
            let drain = self.next.lock().unwrap().take().unwrap();
            DrainThread::start(&runtime, drain)
        })
    }
}

/// Polls a drain task, as its runtime does, until it has been relieved.
fn polled_to_its_end(mut drain: DrainTask) {
    let bell = Ready::new(1);
    let waker = bell.waker(1);
    while drain.poll(&mut Context::from_waker(&waker)).is_pending() {
        let _ = bell.wait();
    }
}

/// A callback waits for another future of its own home.
fn waits_for_another(before: fn()) {
    let (relief, runtime, drain) = Relief::of(2);
    let (one, first) = runtime.future::<()>().unwrap();
    let (two, second) = runtime.future::<()>().unwrap();
    first.on_done(move |outcome| {
        assert_eq!(outcome, Ok(()));
        before();
        assert_eq!(block_on_elsewhere(second), Ok(()));
    });
    let relief = relief.start(&runtime);
    let completes = thread::spawn(move || {
        assert!(one.complete(()).is_ok());
        assert!(two.complete(()).is_ok());
    });
    polled_to_its_end(drain);
    completes.join().unwrap();
    assert!(runtime.future::<()>().is_ok(), "the home lives on");
    relief.join().unwrap().stop();
    assert!(runtime.future::<()>().is_err());
}

/// Guards the way of a drain task's work to the one that takes over: a callback waits for another future of its own home, which
/// that one lands. What had been taken out goes on in order, and the first task ends.
#[test]
fn a_drain_task_that_waits_is_relieved() {
    explore(|| waits_for_another(model::relieve));
}

/// Guards the same where the wait is an executor's own, of which the home knows by the poll alone.
#[test]
fn a_drain_task_that_is_waited_in_by_others_is_relieved() {
    explore(|| waits_for_another(|| ()));
}

/// Guards the same for a wait for a permit, which comes back by way of the home.
#[test]
fn a_drain_task_that_waits_for_a_permit_is_relieved() {
    explore(|| {
        let (relief, runtime, drain) = Relief::of(2);
        let (one, first) = runtime.future::<()>().unwrap();
        let (two, second) = runtime.future::<()>().unwrap();
        drop(second);
        let home = runtime.clone();
        first.on_done(move |_| {
            let (reservation, expirer) = home.reserve::<()>();
            drop(expirer);
            assert!(block_on_elsewhere(reservation).is_ok());
        });
        let relief = relief.start(&runtime);
        let completes = thread::spawn(move || {
            assert!(one.complete(()).is_ok());
            drop(two);
        });
        polled_to_its_end(drain);
        completes.join().unwrap();
        assert!(runtime.future::<()>().is_ok(), "the home lives on");
        relief.join().unwrap().stop();
        assert!(runtime.future::<()>().is_err());
    });
}

/// Guards a foreign loop as a program has it, with what waits in a callback, against its own end.
#[test]
fn a_foreign_loop_ends_as_a_completion_comes() {
    explore_outcomes(&[Dropped::AtHome, Dropped::BySender], || {
        let rings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rings);
        let foreign = ForeignLoop::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let ledger = Ledger::new(At::Thread(thread::current().id()));
        let (completer, future): (Completer<Token>, _) = foreign.future().unwrap();
        future.on_done(|outcome| drop(outcome));
        let token = ledger.token();
        let completes = thread::spawn(move || complete(completer, token));
        foreign.run_pending(8);
        let local: LocalHome = foreign.local().clone();
        drop(foreign);
        let handed_back = completes.join().unwrap();
        assert!(local.future::<()>().is_err());
        let dropped = ledger.settle();
        assert_eq!(dropped.len(), 1);
        assert_eq!(handed_back, dropped[0] == Dropped::BySender);
        dropped[0]
    });
}

/// Guards the hook of a foreign loop, which is the program's own, against the end of that loop: it is dropped once, at home or by
/// the ring that is under way, though a completer keeps the inbox. It may come back to its inbox and ring it again.
#[test]
fn a_foreign_loop_ends_as_its_hook_is_called() {
    fn ended(waits: bool) -> Dropped {
        let ledger = Ledger::new(At::Thread(thread::current().id()));
        let within: Arc<Mutex<Option<Deadline>>> = Arc::default();
        let ready = Ready::new(0);
        let (held, taken, rung) = (ledger.token(), Arc::clone(&within), Arc::clone(&ready));
        let foreign = ForeignLoop::new(move || {
            let _held = &held;
            rung.set(1);
            let fires = taken.lock().unwrap().take();
            if let Some(deadline) = fires {
                deadline.fire();
            }
        });
        let (kept, times_out) = foreign.future::<()>().unwrap();
        *within.lock().unwrap() = times_out.deadline();
        let (completer, future) = foreign.future::<()>().unwrap();
        let rings = thread::spawn(move || drop(completer.complete(())));
        if waits {
            assert_eq!(ready.wait(), 1);
        }
        foreign.run_pending(8);
        drop((future, times_out, foreign));
        rings.join().unwrap();
        let dropped = ledger.settle();
        drop(kept);
        assert_eq!(dropped.len(), 1);
        dropped[0]
    }
    for waits in [true, false] {
        explore_outcomes(&[Dropped::AtHome, Dropped::Away], move || ended(waits));
    }
}
