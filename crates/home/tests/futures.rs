//! The future helpers, on every mix of homes: what they call is called at the home that it belongs to.

#[path = "support/homes.rs"]
mod homes;
#[path = "../../../tests/support/watch.rs"]
mod watch;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use homing_home::futures::{CancellableAction, Captured, Nested, Ran, as_completed, capture, copy, flatten, gather};
use homing_home::{Completer, End, Home, HomeFuture, LocalHome, Outcome, thread_future};

use homes::{Kind, Place};
use watch::watched;

const LONG: Duration = Duration::from_secs(20);

/// One running home of each kind.
fn places() -> Vec<(Kind, Place)> {
    Kind::ALL.into_iter().map(|kind| (kind, Place::start(kind))).collect()
}

fn stop(places: Vec<(Kind, Place)>) {
    for (_, place) in places {
        place.stop();
    }
}

/// Runs something at a home and brings back what it returns.
fn at<T: Send + 'static>(home: &Home, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    home.spawn(async move { drop(tell.send(call())) }).unwrap();
    told.recv_timeout(LONG).expect("the home runs")
}

#[test]
fn a_done_callback_runs_at_the_home_of_its_future() {
    let _watched = watched();
    let places = places();
    for (kind, place) in &places {
        for (other, elsewhere) in &places {
            // Set before and after the outcome, from the home and from another one.
            for set_first in [true, false] {
                let (completer, future) = place.home().try_future::<u32>().unwrap();
                let (tell, told) = mpsc::channel();
                let home = place.home().clone();
                let set = move |future: HomeFuture<u32>| {
                    future.on_done(move |outcome| tell.send((outcome, home.is_here())).unwrap());
                };
                let complete = move |completer: Completer<u32>| completer.complete(7).unwrap();
                if set_first {
                    at(elsewhere.home(), move || set(future));
                    at(elsewhere.home(), move || complete(completer));
                } else {
                    at(elsewhere.home(), move || complete(completer));
                    at(place.home(), move || set(future));
                }
                let (outcome, at_home) = told.recv_timeout(LONG).unwrap_or_else(|_| panic!("{kind} {other}: no call"));
                assert_eq!((outcome, at_home), (Ok(7), true), "{kind}, completed on {other}");
            }
        }
    }
    stop(places);
}

#[test]
fn a_done_callback_that_panics_ends_itself_alone() {
    let _watched = watched();
    let places = places();
    for (kind, place) in &places {
        let (first, panics) = place.home().try_future::<()>().unwrap();
        let (second, goes_on) = place.home().try_future::<()>().unwrap();
        let (tell, told) = mpsc::channel();
        panics.on_done(|_| panic!("on purpose"));
        goes_on.on_done(move |outcome| tell.send(outcome).unwrap());
        first.complete(()).unwrap();
        second.complete(()).unwrap();
        assert_eq!(told.recv_timeout(LONG), Ok(Ok(())), "{kind}");
    }
    stop(places);
}

#[test]
fn a_done_callback_hears_of_the_end_of_its_home() {
    let _watched = watched();
    for kind in Kind::ALL {
        let place = Place::start(kind);
        let (completer, future) = place.home().try_future::<u32>().unwrap();
        let (tell, told) = mpsc::channel();
        let home = place.home().clone();
        at(place.home(), move || {
            future.on_done(move |outcome| {
                tell.send((outcome, home.is_here())).ok();
            });
        });
        place.stop();
        // The home's last act; what comes later is handed back.
        assert_eq!(told.recv_timeout(LONG), Ok((Err(End::HomeEnded), true)), "{kind}");
        assert_eq!(completer.complete(1).unwrap_err().0, 1, "{kind}");
    }
}

#[test]
fn an_outcome_is_carried_from_any_home_to_any_other() {
    let _watched = watched();
    let places = places();
    let ends: [Outcome<u32>; 4] = [Ok(1), Err(End::Cancelled), Err(End::Abandoned), Err(End::TimedOut)];
    for (kind, place) in &places {
        for (other, elsewhere) in &places {
            for end in ends {
                let (source, future) = place.home().try_future::<u32>().unwrap();
                let brought = future.bring_to(elsewhere.home()).unwrap();
                let (tell, told) = mpsc::channel();
                brought.on_done(move |outcome| tell.send(outcome).unwrap());
                source.finish(end).unwrap();
                assert_eq!(told.recv_timeout(LONG), Ok(end), "from {kind} to {other}");
            }
        }
    }
    // From a thread's own future, too, which cannot leave its thread.
    for (kind, place) in &places {
        let (source, future) = thread_future::<u32>().unwrap();
        let (target, carried) = place.home().try_future::<u32>().unwrap();
        let (tell, told) = mpsc::channel();
        carried.on_done(move |outcome| tell.send(outcome).unwrap());
        future.chain(target);
        source.complete(3).unwrap();
        while LocalHome::of_this_thread().turn(8) > 0 {}
        assert_eq!(told.recv_timeout(LONG), Ok(Ok(3)), "to {kind}");
    }
    stop(places);
}

#[test]
fn a_copy_leaves_the_original() {
    let _watched = watched();
    let (one, first) = thread_future::<String>().unwrap();
    let (two, second) = thread_future::<String>().unwrap();
    let outcome = Ok("both".to_owned());
    copy(&outcome, one);
    copy(&outcome, two);
    assert_eq!((first.wait(), second.wait(), outcome), (Ok("both".into()), Ok("both".into()), Ok("both".into())));
}

#[test]
fn gathering_brings_values_of_all_homes_in_order() {
    let _watched = watched();
    let places = places();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut completers, mut futures) = (Vec::new(), Vec::new());
        for n in 0..50_usize {
            let (completer, future) = places[n % places.len()].1.home().try_future::<usize>().unwrap();
            completers.push((completer, n));
            futures.push(future);
        }
        thread::spawn(move || {
            for (completer, n) in completers.into_iter().rev() {
                completer.complete(n).unwrap();
            }
        });
        let gathered = tokio::time::timeout(LONG, gather(futures)).await.expect("it ends");
        assert_eq!(gathered, Ok((0..50).collect()));

        // The first that ends without a value ends the whole, and the others are given up.
        let (never, first) = places[2].1.home().try_future::<usize>().unwrap();
        let (fails, second) = places[3].1.home().try_future::<usize>().unwrap();
        let third = Home::current().try_future::<usize>().unwrap();
        fails.cancel();
        let gathered = tokio::time::timeout(LONG, gather([first, second, third.1])).await.expect("it ends");
        assert_eq!(gathered, Err(End::Cancelled));
        assert!(third.0.is_unwanted());
        drop(never);
        assert_eq!(gather(Vec::<HomeFuture<()>>::new()).await, Ok(vec![]));
    });
    stop(places);
}

#[test]
fn outcomes_come_as_they_are_completed() {
    let _watched = watched();
    let places = places();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut completers, mut futures) = (Vec::new(), Vec::new());
        for (_, place) in &places {
            let (completer, future) = place.home().try_future::<usize>().unwrap();
            completers.push(completer);
            futures.push(future);
        }
        let mut done = as_completed(futures).unwrap();
        while let Some(completer) = completers.pop() {
            let n = completers.len();
            assert_eq!(done.len(), n + 1);
            completer.complete(n * 10).unwrap();
            let next = tokio::time::timeout(LONG, done.next()).await.expect("it comes");
            assert_eq!(next, Some((n, Ok(n * 10))));
        }
        assert_eq!(done.next().await, None);
        assert!(done.is_empty());
    });
    stop(places);
}

#[test]
fn nested_futures_end_with_the_last_concrete_outcome() {
    let _watched = watched();
    let places = places();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for end in [Ok(5_u32), Err(End::Cancelled), Err(End::Abandoned)] {
        // Ten thousand deep: no stack grows with it.
        let (mut completers, mut futures) = (Vec::new(), Vec::new());
        for n in 0..10_000 {
            let (completer, future) = places[n % places.len()].1.home().try_future::<Nested<u32>>().unwrap();
            completers.push(completer);
            futures.push(future);
        }
        let mut futures = futures.into_iter();
        let outcome = runtime.block_on(async {
            let unwrapped = flatten(futures.next().unwrap()).unwrap();
            thread::spawn(move || {
                let last = completers.pop().unwrap();
                for (completer, next) in completers.into_iter().zip(futures) {
                    completer.complete(Nested::Future(next)).unwrap();
                }
                drop(last.finish(end.map(Nested::Value)));
            });
            tokio::time::timeout(LONG, unwrapped).await.expect("it ends")
        });
        assert_eq!(outcome, end);
    }
    stop(places);
}

#[test]
fn an_action_runs_once_unless_it_was_cancelled_before() {
    let _watched = watched();
    let places = places();
    let runs = Arc::new(AtomicUsize::new(0));
    for (kind, place) in &places {
        let action = || {
            let runs = runs.clone();
            CancellableAction::new(place.home(), move |n: u32| {
                runs.fetch_add(1, Ordering::SeqCst);
                100_u32.checked_div(n).ok_or("nothing to divide by")
            })
            .unwrap()
        };
        let outcome = |future: HomeFuture<Result<u32, Captured>>| {
            let (tell, told) = mpsc::channel();
            future.on_done(move |outcome| tell.send(outcome).unwrap());
            told.recv_timeout(LONG).unwrap_or_else(|_| panic!("{kind}: no outcome"))
        };

        let (run, future) = action();
        assert_eq!(thread::spawn(move || run.run(4)).join().unwrap(), Ran::Yes);
        assert!(matches!(outcome(future), Ok(Ok(25))), "{kind}");

        let (fails, future) = action();
        assert_eq!(fails.run(0), Ran::Yes);
        assert_eq!(outcome(future).unwrap().unwrap_err().to_string(), "nothing to divide by", "{kind}");

        let before = runs.load(Ordering::SeqCst);
        let (unwanted, future) = action();
        at(place.home(), move || drop(future));
        assert!(unwanted.is_cancelled());
        assert_eq!(unwanted.run(1), Ran::Cancelled, "{kind}");
        let (cancelled, future) = action();
        cancelled.cancel();
        assert!(matches!(outcome(future), Err(End::Cancelled)), "{kind}");
        let (dropped, future) = action();
        drop(dropped);
        assert!(matches!(outcome(future), Err(End::Abandoned)), "{kind}");
        assert_eq!(runs.load(Ordering::SeqCst), before, "{kind}: what was cancelled does not run");
    }
    stop(places);
}

#[test]
fn errors_and_panics_are_captured_into_a_future() {
    let _watched = watched();
    let (one, value) = thread_future().unwrap();
    let (two, error) = thread_future().unwrap();
    let (three, panicked) = thread_future::<Result<(), Captured>>().unwrap();
    thread::spawn(move || {
        capture(one, || "7".parse::<u32>());
        capture(two, || "seven".parse::<u32>());
        capture(three, || -> Result<(), std::fmt::Error> { panic!("on {}", "purpose") });
    });
    assert_eq!(value.wait().unwrap().unwrap(), 7);
    assert!(
        matches!(error.wait().unwrap(), Err(Captured::Error(error)) if error.to_string().contains("invalid digit"))
    );
    assert!(matches!(panicked.wait().unwrap(), Err(Captured::Panic(text)) if text == "on purpose"));
}
