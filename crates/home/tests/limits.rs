//! What a home refuses, what it lets wait, and how such a wait ends: by a permit, by a clock elsewhere, by the end of the home.

#[path = "support/homes.rs"]
mod homes;
#[path = "../../../tests/support/watch.rs"]
mod watch;

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::Duration;

use homing_home::{Completer, End, Home, HomeFuture, LocalHome, ReserveError};

use homes::{Kind, Place};
use watch::watched;

const LONG: Duration = Duration::from_secs(20);

const FEW: usize = 5;

/// All permits of a home that has few, which come back when this is dropped.
fn fill(home: &Home) -> Vec<(Completer<()>, HomeFuture<()>)> {
    home.set_capacity(FEW);
    let taken: Vec<_> = std::iter::from_fn(|| home.try_future::<()>().ok()).collect();
    // The place itself may have one open.
    assert!((FEW - 1..=FEW).contains(&taken.len()), "{}", taken.len());
    assert_eq!(home.try_future::<()>().err(), Some(ReserveError::Full));
    taken
}

/// Runs something at a home and brings back what it returns.
fn at<T: Send + 'static>(home: &Home, call: impl Future<Output = T> + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    home.spawn_uncounted(async move { drop(tell.send(call.await)) });
    told.recv_timeout(LONG).unwrap()
}

#[test]
fn full_and_ended_are_told_apart() {
    let _watched = watched();
    for kind in Kind::ALL {
        let place = Place::start(kind);
        let home = place.home().clone();
        let taken = fill(&home);
        let refused = home.spawn(async {}).unwrap_err();
        assert_eq!(refused.reason(), ReserveError::Full, "{kind}");
        // The task is the caller's again.
        assert!(pin!(refused.into_task()).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        drop(taken);
        place.stop();
        assert_eq!(home.try_future::<()>().err(), Some(ReserveError::Ended), "{kind}");
        assert_eq!(home.spawn(async {}).unwrap_err().reason(), ReserveError::Ended, "{kind}");
    }
}

#[test]
fn a_clock_elsewhere_ends_a_wait_for_a_permit() {
    let _watched = watched();
    for kind in Kind::ALL {
        let place = Place::start(kind);
        let home = place.home().clone();
        let taken = fill(&home);
        let waits = home.clone();
        let ended = at(&home, async move {
            let (reservation, expirer) = waits.reserve::<()>();
            let timer = thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                assert!(!expirer.is_unwanted());
                expirer.expire();
            });
            let ended = reservation.await.err();
            timer.join().unwrap();
            ended
        });
        assert_eq!(ended, Some(ReserveError::TimedOut), "{kind}");
        drop(taken);
        place.stop();
    }
}

#[test]
fn who_waits_for_a_permit_is_served_in_order_and_woken_at_home() {
    /// Notes on which thread it is woken.
    struct Noted(Mutex<Vec<ThreadId>>);
    impl Wake for Noted {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().push(thread::current().id());
        }
    }
    let _watched = watched();
    let home = LocalHome::of_this_thread();
    let mut taken = fill(&home.home());
    let noted = Arc::new(Noted(Mutex::default()));
    let waker = Waker::from(noted.clone());
    let mut context = Context::from_waker(&waker);
    let mut waits: Vec<_> = (0..3).map(|_| home.home().reserve::<()>().0).collect();
    assert!(waits.iter_mut().all(|wait| Pin::new(wait).poll(&mut context).is_pending()));
    // One permit is given back, as elsewhere as can be: by a completer whose future has gone.
    let (completer, future) = taken.pop().unwrap();
    drop(future);
    thread::spawn(move || drop(completer)).join().unwrap();
    assert!(noted.0.lock().unwrap().is_empty(), "nobody is woken by whoever gives it back");
    // The home has it back, and has not served anybody.
    assert_eq!(home.turn(1), 1);
    assert_eq!(home.home().try_future::<()>().err(), Some(ReserveError::Full), "others wait");
    while home.turn(8) > 0 {}
    assert_eq!(*noted.0.lock().unwrap(), [thread::current().id()]);
    assert!(Pin::new(&mut waits[1]).poll(&mut context).is_pending());
    let Poll::Ready(Ok(pair)) = Pin::new(&mut waits[0]).poll(&mut context) else { panic!("it is the first one's") };
    // The second gives up; the third is next.
    drop(waits.remove(1));
    drop(pair);
    while home.turn(8) > 0 {}
    assert!(matches!(Pin::new(&mut waits[1]).poll(&mut context), Poll::Ready(Ok(_))));
    drop(taken);
}

#[test]
fn a_reservation_that_is_dropped_leaves_nothing() {
    let _watched = watched();
    let home = LocalHome::of_this_thread();
    let taken = fill(&home.home());
    let kept: Vec<_> = (0..1000)
        .map(|_| {
            let (mut reservation, expirer) = home.home().reserve::<()>();
            assert!(Pin::new(&mut reservation).poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(reservation);
            expirer
        })
        .collect();
    assert!(kept.iter().all(homing_home::Expirer::is_unwanted));
    drop(taken);
    while home.turn(8) > 0 {}
    assert!(home.home().try_future::<()>().is_ok(), "nobody is in the queue");
    home.turn(8);
    for expirer in kept {
        expirer.expire();
    }
    assert_eq!(home.turn(8), 0, "nothing to be done");
}

#[test]
fn a_wait_for_a_permit_ends_with_its_home_and_not_elsewhere() {
    let _watched = watched();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let home = Home::of_runtime(runtime.handle());
    let taken = fill(&home);
    let (reservation, _expirer) = home.reserve::<()>();
    assert_eq!(LocalHome::of_this_thread().block_on(reservation).unwrap().err(), Some(ReserveError::WrongHome));
    // Waits on a thread that outlives the runtime.
    let handle = runtime.handle().clone();
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || {
        handle.block_on(async {
            let (mut reservation, _expirer) = Home::current().reserve::<()>();
            assert!(futures_util::poll!(&mut reservation).is_pending());
            tell.send(()).unwrap();
            reservation.await.err()
        })
    });
    told.recv().unwrap();
    runtime.shutdown_background();
    assert_eq!(waiter.join().unwrap(), Some(ReserveError::Ended));
    drop(taken);
}

#[test]
fn a_home_that_ends_tells_who_waits_though_nobody_completes() {
    let _watched = watched();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let handle = runtime.handle().clone();
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || {
        handle.block_on(async {
            let (completer, mut future) = Home::current().future::<()>().await.unwrap();
            assert!(futures_util::poll!(&mut future).is_pending());
            tell.send(completer).unwrap();
            future.await
        })
    });
    let held = told.recv().unwrap();
    runtime.shutdown_background();
    assert_eq!(waiter.join().unwrap(), Err(End::HomeEnded));
    drop(held);
}

#[test]
fn no_waker_is_run_by_a_sender_whose_home_has_ended() {
    /// Blocks whoever wakes it, once the home has ended; counts.
    struct Counts(AtomicUsize, ThreadId);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            assert_ne!(thread::current().id(), self.1, "run by the sender");
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let _watched = watched();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let counts = Arc::new(Counts(AtomicUsize::new(0), thread::current().id()));
    let waker = Waker::from(counts.clone());
    let (completer, mut future) = Home::of_runtime(runtime.handle()).try_future::<u32>().unwrap();
    runtime.block_on(async { assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending()) });
    drop(runtime);
    assert_eq!(completer.complete(1).unwrap_err().0, 1);
    assert_eq!(counts.0.load(Ordering::SeqCst), 1, "by the home, as it ended");
}

#[test]
fn more_permits_are_for_those_who_wait() {
    let _watched = watched();
    let place = Place::start(Kind::EventLoop);
    let home = place.home().clone();
    let taken = fill(&home);
    let waits = home.clone();
    let (tell, told) = mpsc::channel();
    home.spawn_uncounted(async move {
        let (reservation, _expirer) = waits.reserve::<()>();
        thread::spawn(move || waits.set_capacity(FEW + 1));
        tell.send(reservation.await.is_ok()).unwrap();
    });
    assert_eq!(told.recv_timeout(LONG), Ok(true));
    home.set_capacity(0);
    assert_eq!(home.try_future::<()>().err(), Some(ReserveError::Full));
    drop(taken);
    place.stop();
}
