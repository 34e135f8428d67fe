//! Races for the last wake: several completers, homes that complete each other, waits within waits, and tasks that are
//! woken while they are polled. A lost wake is a deadlock, and loom reports it.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use homing_home::{Completer, LocalFuture};
use loom::thread;
use loom_tests::{Count, Dropped, Kind, Ledger, Local, Saw, Task, Token, complete, explore, explore_outcomes, saw};

/// One test for each kind of home.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod task {
            $(#[test] fn $name() { super::$name::<super::Task>(); })+
        }
        mod local {
            $(#[test] fn $name() { super::$name::<super::Local>(); })+
        }
    };
}

on_both!(
    two_completers_ring_one_home,
    two_homes_complete_each_other,
    a_completion_meets_the_end_of_a_long_turn,
    a_completer_asks_whether_it_is_wanted,
    the_first_of_two_ends_counts,
    a_value_posts_as_it_is_dropped,
    a_value_posts_as_its_home_ends,
);

/// Guards the ring of the first envelope in an empty inbox: the second completer finds it not empty and does not ring, so
/// the first one must.
fn two_completers_ring_one_home<K: Kind>() {
    explore(|| {
        let mut home = K::new(2);
        let ledger = Ledger::new(home.at());
        let (one, one_future) = home.future::<Token>().unwrap();
        let (other, other_future) = home.future::<Token>().unwrap();
        let tokens = [ledger.token(), ledger.token()];
        let [first, second] = tokens;
        let threads = [thread::spawn(move || complete(one, first)), thread::spawn(move || complete(other, second))];
        assert_eq!(saw(home.wait(one_future)), Saw::Value);
        assert_eq!(saw(home.wait(other_future)), Saw::Value);
        for thread in threads {
            assert!(!thread.join().unwrap(), "the home lives");
        }
        home.end();
        ledger.settle_at_home();
    });
}

/// Guards a home that posts to another one while that one posts to it: no lock is held over a post, and both are rung.
fn two_homes_complete_each_other<K: Kind>() {
    explore(|| {
        let mut here = K::new(3);
        let ledger = Ledger::new(here.at());
        let (introduce, introduced) = here.future::<(Completer<Token>, Ledger)>().unwrap();
        let (completer, future) = here.future::<Token>().unwrap();
        let token = ledger.token();
        let other = thread::spawn(move || {
            let mut there = K::new(1);
            let ledger = Ledger::new(there.at());
            let (back, future) = there.future::<Token>().unwrap();
            assert!(introduce.complete((back, ledger.clone())).is_ok());
            assert!(!complete(completer, token));
            assert_eq!(saw(there.wait(future)), Saw::Value);
            there.end();
            ledger.settle_at_home();
        });
        let (back, theirs) = here.wait(introduced).unwrap();
        assert!(!complete(back, theirs.token()));
        assert_eq!(saw(here.wait(future)), Saw::Value);
        other.join().unwrap();
        here.end();
        ledger.settle_at_home();
    });
}

/// Guards the end of a bounded turn (two envelopes long under loom): what is left in the tray rings for itself.
fn a_completion_meets_the_end_of_a_long_turn<K: Kind>() {
    explore(|| {
        let mut home = K::new(4);
        let ledger = Ledger::new(home.at());
        let mut completers = Vec::new();
        let mut futures = Vec::new();
        for _ in 0..4 {
            let (completer, future) = home.future::<Token>().unwrap();
            completers.push((completer, ledger.token()));
            futures.push(future);
        }
        let other = thread::spawn(move || {
            for (completer, token) in completers {
                assert!(!complete(completer, token));
            }
        });
        // The last one first: only its own landing may end the wait.
        for future in futures.into_iter().rev() {
            assert_eq!(saw(home.wait(future)), Saw::Value);
        }
        other.join().unwrap();
        home.end();
        ledger.settle_at_home();
    });
}

/// Guards the hint: a completer may be told that it is unwanted when its future is gone, and must be when it has seen that;
/// never while somebody waits.
fn a_completer_asks_whether_it_is_wanted<K: Kind>() {
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Answer {
        Wanted,
        Unwanted,
    }
    explore_outcomes(&[Answer::Wanted, Answer::Unwanted], || {
        let mut home = K::new(2);
        let (asks, given_up) = home.future::<Token>().unwrap();
        let (waited_for, future) = home.future::<()>().unwrap();
        let other = thread::spawn(move || {
            let unwanted = asks.is_unwanted();
            assert!(!waited_for.is_unwanted(), "the home waits for it");
            assert!(waited_for.complete(()).is_ok());
            (asks, unwanted)
        });
        drop(given_up);
        assert_eq!(home.wait(future), Ok(()));
        let (asks, unwanted) = other.join().unwrap();
        assert!(asks.is_unwanted(), "its future was dropped, and we have seen it");
        home.end();
        if unwanted { Answer::Unwanted } else { Answer::Wanted }
    });
}

/// Guards exactly one end: of a completion and a deadline that are handled in one turn the first counts, and the later one
/// neither replaces it nor wakes anybody.
fn the_first_of_two_ends_counts<K: Kind>() {
    explore(|| {
        let mut home = K::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, mut future) = home.future::<Token>().unwrap();
        let (deadline, token) = (K::deadline(&future), ledger.token());
        let first = Count::new();
        assert!(first.poll(&mut future).is_pending());
        let other = thread::spawn(move || {
            assert!(!complete(completer, token));
            deadline.fire();
        });
        home.block_on(first.until_woken());
        home.turn();
        assert_eq!(first.woken(), 1);
        assert_eq!(saw(home.wait(future)), Saw::Value);
        other.join().unwrap();
        home.turn();
        home.end();
        ledger.settle_at_home();
    });
}

/// Guards the drop of a late value being under no lock: this value is a completer of the same home, and posts.
fn a_value_posts_as_it_is_dropped<K: Kind>() {
    explore(|| {
        let mut home = K::new(2);
        let (completer, future) = home.future::<()>().unwrap();
        let (late, given_up) = home.future::<Completer<()>>().unwrap();
        let other = thread::spawn(move || assert!(late.complete(completer).is_ok()));
        drop(given_up);
        assert_eq!(saw(home.wait(future)), Saw::Abandoned);
        other.join().unwrap();
        home.end();
    });
}

/// Guards the same for what close drops: the value posts to the inbox that is being closed.
fn a_value_posts_as_its_home_ends<K: Kind>() {
    explore(|| {
        let mut home = K::new(2);
        let (completer, mut future) = home.future::<()>().unwrap();
        let (late, given_up) = home.future::<Completer<()>>().unwrap();
        let other = thread::spawn(move || drop(late.complete(completer)));
        drop(given_up);
        home.end();
        assert_eq!(Count::new().poll(&mut future).map(saw), Poll::Ready(Saw::HomeEnded));
        other.join().unwrap();
    });
}

/// Guards the same hint when the future has ended by its deadline: nobody waits any more.
#[test]
fn a_completer_is_unwanted_after_the_deadline() {
    fn model<K: Kind>() {
        let mut home = K::new(1);
        let (completer, future) = home.future::<Token>().unwrap();
        let deadline = K::deadline(&future);
        let timer = thread::spawn(move || deadline.fire());
        assert_eq!(saw(home.wait(future)), Saw::TimedOut);
        assert!(completer.is_unwanted());
        timer.join().unwrap();
        home.end();
    }
    explore(model::<Task>);
    explore(model::<Local>);
}

/// Something that another thread sets, and that wakes who polled it last: no future of a home, so its waker goes to the
/// task that polls it, from the thread that sets it.
#[derive(Clone, Default)]
struct Remote(Arc<loom::sync::Mutex<(bool, Option<Waker>)>>);

impl Remote {
    fn set(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Future for Remote {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Polls a remote, and when that is pending does something else before it says so, as a task does that polls several.
struct PollsThen<F: FnMut()>(Remote, F);

impl<F: FnMut() + Unpin> Future for PollsThen<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.0).poll(context);
        if polled.is_pending() {
            (self.1)();
        }
        polled
    }
}

/// Guards `woken` being cleared before the poll, not after it: a wake from another thread while the task is polled.
#[test]
fn a_local_task_is_woken_while_it_is_polled() {
    explore(|| {
        let mut local = Local::new(2);
        let home = local.home().clone();
        let remote = Remote::default();
        let (done, future) = home.future::<()>().unwrap();
        let polled = remote.clone();
        home.spawn(async move {
            // Takes the lock again, so that the other thread may come between.
            let again = polled.0.clone();
            PollsThen(polled, move || drop(again.lock())).await;
            assert!(done.complete(()).is_ok());
        })
        .unwrap();
        let other = thread::spawn(move || remote.set());
        assert_eq!(local.wait(future), Ok(()));
        other.join().unwrap();
        local.end();
    });
}

/// Guards the waiting frame in the same way: what it waits for is woken from another thread while it is polled, with no
/// envelope of its own.
#[test]
fn a_wait_is_woken_while_it_is_polled() {
    explore(|| {
        let mut local = Local::new(2);
        let remote = Remote::default();
        let polled = remote.clone();
        let other = thread::spawn(move || remote.set());
        let again = polled.0.clone();
        local.block_on(PollsThen(polled, move || drop(again.lock())));
        other.join().unwrap();
        local.end();
    });
}

/// Guards the last poll of a wait whose limit has passed: no envelope says that it has, so the wait must not sleep before it. What it
/// waited for is still there to be waited for.
#[test]
fn a_limit_has_passed_as_its_future_completes() {
    explore_outcomes(&[Saw::Value, Saw::GaveUp], || {
        let mut home = Local::new(1);
        let ledger = Ledger::new(home.at());
        let (completer, mut future) = home.future::<Token>().unwrap();
        let token = ledger.token();
        let other = thread::spawn(move || complete(completer, token));
        let limited = home.home().block_on_timeout(&mut future, Duration::ZERO).expect("not too deep");
        let seen = limited.map_or(Saw::GaveUp, saw);
        if seen == Saw::GaveUp {
            assert_eq!(saw(home.wait(future)), Saw::Value);
        }
        assert!(!other.join().unwrap());
        home.end();
        ledger.settle_at_home();
        seen
    });
}

/// Guards the wake of a task that waits within its own poll: its envelope is taken out by the inner frame, which cannot
/// poll it, so it is woken again when its poll is done.
#[test]
fn a_task_is_woken_while_it_waits_in_its_own_poll() {
    explore(|| {
        let mut local = Local::new(3);
        let home = local.home().clone();
        let remote = Remote::default();
        let (done, future) = home.future::<()>().unwrap();
        let (inner, inner_future) = home.future::<()>().unwrap();
        let polled = remote.clone();
        let inner_future = Rc::new(Cell::new(Some(inner_future)));
        home.spawn(async move {
            let wait = move || {
                if let Some(future) = inner_future.take() {
                    assert_eq!(future.wait(), Ok(()));
                }
            };
            PollsThen(polled, wait).await;
            assert!(done.complete(()).is_ok());
        })
        .unwrap();
        let other = thread::spawn(move || {
            remote.set();
            assert!(inner.complete(()).is_ok());
        });
        assert_eq!(local.wait(future), Ok(()));
        other.join().unwrap();
        local.end();
    });
}

/// Guards the flag of the outer frame: its nudge is taken out by the inner one, and it looks at its flag before it sleeps.
#[test]
fn completions_arrive_while_an_inner_wait_drains() {
    explore(|| {
        let mut local = Local::new(4);
        let home = local.home().clone();
        let ledger = Ledger::new(local.at());
        let (outer, outer_future) = home.future::<Token>().unwrap();
        let (inner, inner_future) = home.future::<Token>().unwrap();
        home.spawn(async move { assert_eq!(saw(LocalFuture::wait(inner_future)), Saw::Value) }).unwrap();
        let tokens = (ledger.token(), ledger.token());
        let one = thread::spawn(move || complete(outer, tokens.0));
        let other = thread::spawn(move || complete(inner, tokens.1));
        assert_eq!(saw(local.wait(outer_future)), Saw::Value);
        assert!(!one.join().unwrap());
        assert!(!other.join().unwrap());
        // The inner wait may not have begun by then.
        local.turn();
        local.end();
        ledger.settle_at_home();
    });
}

/// Guards the look at that flag before the sleep: the inner wait is in a timer's callback, so that the outer frame's turn
/// has handled nothing.
#[test]
fn completions_arrive_while_a_timer_waits() {
    explore(|| {
        let mut local = Local::new(3);
        let (outer, outer_future) = local.home().future::<()>().unwrap();
        let (inner, inner_future) = local.home().future::<()>().unwrap();
        local.home().after(std::time::Duration::ZERO, move || assert_eq!(inner_future.wait(), Ok(()))).unwrap();
        let other = thread::spawn(move || {
            assert!(outer.complete(()).is_ok());
            assert!(inner.complete(()).is_ok());
        });
        assert_eq!(local.wait(outer_future), Ok(()));
        other.join().unwrap();
        local.end();
    });
}

/// Guards a task's waker that outlives its home: the task is dropped by the home, once, and the wake finds nobody.
#[test]
fn a_wake_meets_the_end_of_a_local_home() {
    explore(|| {
        let mut local = Local::new(2);
        let ledger = Ledger::new(local.at());
        let remote = Remote::default();
        let (polled, token) = (remote.clone(), ledger.token());
        local
            .home()
            .spawn(async move {
                polled.await;
                drop(token);
            })
            .unwrap();
        let other = thread::spawn(move || remote.set());
        local.turn();
        local.end();
        assert_eq!(ledger.settle(), [Dropped::AtHome]);
        other.join().unwrap();
    });
}

/// Guards a task that panics while another thread wakes it: it is dropped, and the home goes on.
#[test]
fn a_task_panics_while_it_is_woken() {
    explore(|| {
        let mut local = Local::new(3);
        let ledger = Ledger::new(local.at());
        let remote = Remote::default();
        let (polled, token) = (remote.clone(), ledger.token());
        local
            .home()
            .spawn(async move {
                let _token = token;
                let again = polled.0.clone();
                let panics = move || {
                    drop(again.lock());
                    std::panic::panic_any(homing_home::model::OnPurpose);
                };
                PollsThen(polled, panics).await;
            })
            .unwrap();
        let (completer, future) = local.home().future::<()>().unwrap();
        let other = thread::spawn(move || {
            remote.set();
            assert!(completer.complete(()).is_ok());
        });
        assert_eq!(local.wait(future), Ok(()));
        other.join().unwrap();
        assert_eq!(ledger.settle(), [Dropped::AtHome]);
        local.end();
    });
}
