//! Homes of every kind: a completion lands on its home, exactly once, whatever happens on the other side.

#[path = "../../../tests/support/watch.rs"]
mod watch;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use homing_home::{Completer, End, EventLoop, ForeignLoop, Home, LocalHome, WaitRefused, thread_future};
use homing_home::{MAX_DEPTH, MAX_STACK, MAX_WAITING_WORKERS};

use watch::watched;

/// Notes on which thread it is dropped.
struct Noted(Arc<Mutex<Vec<ThreadId>>>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.lock().unwrap().push(thread::current().id());
    }
}

fn noted() -> (Noted, Arc<Mutex<Vec<ThreadId>>>) {
    let drops = Arc::new(Mutex::new(Vec::new()));
    (Noted(drops.clone()), drops)
}

fn runtime(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

#[test]
fn a_thread_waits_for_a_completion_from_another_thread() {
    let _watched = watched();
    let (completer, future) = thread_future::<u32>().unwrap();
    let other = thread::spawn(move || completer.complete(7).unwrap());
    assert_eq!(future.wait(), Ok(7));
    other.join().unwrap();
}

/// Counts the polls of what it holds.
struct Counted<F>(std::pin::Pin<Box<F>>, Arc<AtomicUsize>);

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<F::Output> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.as_mut().poll(context)
    }
}

/// tokio's budget lets 128 waits through each time that it polls a task; were the places of a home under it, all others within
/// that task would be polled in vain, 390,000 times here.
#[test]
fn ten_thousand_futures_within_one_task_are_polled_a_few_times_each() {
    const MANY: usize = 10_000;
    let _watched = watched();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let ended = runtime.block_on(async {
        let under_way: futures_util::stream::FuturesUnordered<_> = (0..MANY)
            .map(|number| {
                let one = async move {
                    let (completer, future) = Home::current().future().await.unwrap();
                    completer.complete(number).unwrap();
                    future.await.unwrap()
                };
                Counted(Box::pin(one), Arc::clone(&polls))
            })
            .collect();
        futures_util::StreamExt::collect::<Vec<usize>>(under_way).await
    });
    assert_eq!(ended.len(), MANY);
    let polls = polls.load(Ordering::Relaxed);
    assert!((2 * MANY..=4 * MANY).contains(&polls), "{polls} polls for {MANY} futures");
}

#[test]
fn a_dropped_completer_ends_its_future_as_abandoned() {
    let _watched = watched();
    let (completer, future) = thread_future::<u32>().unwrap();
    thread::spawn(move || drop(completer));
    assert_eq!(future.wait(), Err(End::Abandoned));
}

#[test]
fn a_panic_that_holds_a_completer_ends_its_future_as_abandoned() {
    let _watched = watched();
    let (completer, future) = thread_future::<u32>().unwrap();
    let other = thread::spawn(move || {
        let _held = completer;
        panic!("on purpose");
    });
    assert_eq!(future.wait(), Err(End::Abandoned));
    assert!(other.join().is_err());
}

#[test]
fn a_wait_with_a_limit_ends_by_it_and_not_before() {
    let _watched = watched();
    let here = LocalHome::of_this_thread();
    let short = Duration::from_millis(20);
    let began = Instant::now();
    assert_eq!(here.block_on_timeout(std::future::pending::<()>(), short), Ok(None));
    assert!(began.elapsed() >= short);
    assert_eq!(here.block_on_timeout(async { 7 }, Duration::ZERO), Ok(Some(7)), "what is there needs no time");
    let (completer, future) = Home::current().try_future::<u32>().unwrap();
    let other = thread::spawn(move || completer.complete(1).unwrap());
    assert_eq!(here.block_on_timeout(future, Duration::MAX), Ok(Some(Ok(1))));
    other.join().unwrap();
    // An outer wait ends after the inner one, though its time was up before.
    let inner = async { LocalHome::of_this_thread().block_on_timeout(std::future::pending::<()>(), 2 * short) };
    let began = Instant::now();
    assert_eq!(here.block_on_timeout(inner, short), Ok(Some(Ok(None))));
    assert!(began.elapsed() >= 2 * short);
}

#[test]
fn a_deadline_ends_the_wait_and_what_comes_later_is_dropped_at_home() {
    let _watched = watched();
    let (value, drops) = noted();
    let (completer, future) = thread_future::<Noted>().unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let late = thread::spawn(move || {
        wait.recv().unwrap();
        completer.complete(value).unwrap();
    });
    assert_eq!(future.wait_timeout(Duration::from_millis(20)).err(), Some(End::TimedOut));
    go.send(()).unwrap();
    late.join().unwrap();
    assert!(drops.lock().unwrap().is_empty(), "it waits in the inbox");
    LocalHome::of_this_thread().turn(10);
    assert_eq!(*drops.lock().unwrap(), [thread::current().id()]);
}

#[test]
fn a_runtime_awaits_a_completion_from_a_thread() {
    let _watched = watched();
    for runtime in [runtime(2), tokio::runtime::Builder::new_current_thread().build().unwrap()] {
        let outcome = runtime.block_on(async {
            let (completer, future) = Home::current().future::<u32>().await.unwrap();
            thread::spawn(move || completer.complete(7).unwrap());
            future.await
        });
        assert_eq!(outcome, Ok(7));
    }
}

#[test]
fn a_future_polled_off_its_runtime_ends_as_wrong_home() {
    let _watched = watched();
    let runtime = runtime(1);
    let (completer, future) = runtime.block_on(async { Home::current().future::<u32>().await.unwrap() });
    let outcome = LocalHome::of_this_thread().block_on(future).unwrap();
    assert_eq!(outcome, Err(End::WrongHome));
    completer.complete(1).unwrap();
}

#[test]
#[expect(clippy::async_yields_async, reason = "the future is to leave its runtime")]
fn a_future_dropped_off_its_runtime_has_its_value_dropped_at_home() {
    let _watched = watched();
    let runtime = runtime(1);
    let (value, drops) = noted();
    let future = runtime.block_on(async {
        let (completer, future) = Home::current().future::<Noted>().await.unwrap();
        completer.complete(value).unwrap();
        future
    });
    drop(future);
    let until = Instant::now() + Duration::from_secs(10);
    while drops.lock().unwrap().is_empty() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    let drops = drops.lock().unwrap();
    assert_eq!(drops.len(), 1);
    assert_ne!(drops[0], thread::current().id(), "dropped by the runtime's worker");
}

#[test]
fn a_completion_for_a_home_that_has_ended_is_handed_back() {
    let _watched = watched();
    let runtime = runtime(1);
    let (completer, future) = runtime.block_on(async { Home::current().future::<String>().await.unwrap() });
    drop(runtime);
    let back = completer.complete("mine again".to_owned()).unwrap_err();
    assert_eq!(back.0, "mine again");
    assert_eq!(LocalHome::of_this_thread().block_on(future).unwrap(), Err(End::HomeEnded));
}

#[test]
fn a_wait_within_a_callback_goes_on_draining() {
    let _watched = watched();
    let event_loop = EventLoop::start("nested").unwrap();
    let (done, outcome) = thread_future::<u32>().unwrap();
    event_loop
        .run(move |home| {
            let (inner, inner_future) = home.future::<u32>().unwrap();
            // Handled by the very loop that waits in this callback.
            home.spawn(async move { inner.complete(5).unwrap() }).unwrap();
            done.complete(inner_future.wait().unwrap()).unwrap();
        })
        .unwrap();
    assert_eq!(outcome.wait_timeout(Duration::from_secs(10)), Ok(5));
}

/// Waits within callbacks within waits, as deep as they are let; how deep that was, and why no deeper.
fn deeper(home: &LocalHome, depth: usize) -> (usize, WaitRefused) {
    match home.block_on(async { deeper(&LocalHome::of_this_thread(), depth + 1) }) {
        Ok(reached) => reached,
        Err(refused) => (depth, refused),
    }
}

#[test]
fn waits_stand_a_thousand_deep_on_an_event_loop() {
    let _watched = watched();
    let event_loop = EventLoop::start("deep").unwrap();
    let (done, outcome) = thread_future().unwrap();
    event_loop.run(move |home| drop(done.complete(deeper(home, 0)))).unwrap();
    assert_eq!(outcome.wait_timeout(Duration::from_secs(30)), Ok((MAX_DEPTH, WaitRefused::TooDeep)));
}

#[test]
fn waits_on_a_thread_are_refused_before_its_stack_ends() {
    let _watched = watched();
    /// Takes a lot of stack within each wait.
    fn greedy(home: &LocalHome, depth: usize) -> (usize, WaitRefused) {
        let room = std::hint::black_box([0_u8; 64 << 10]);
        let reached = match home.block_on(async { greedy(&LocalHome::of_this_thread(), depth + 1) }) {
            Ok(reached) => reached,
            Err(refused) => (depth, refused),
        };
        std::hint::black_box(&room);
        reached
    }
    // The usual 2 MiB, of which MAX_STACK may lie between waits.
    let (depth, refused) = thread::spawn(|| greedy(&LocalHome::of_this_thread(), 0)).join().unwrap();
    assert_eq!(refused, WaitRefused::TooDeep);
    assert!((4..=MAX_STACK / (64 << 10) + 1).contains(&depth), "{depth} waits of 64 KiB each");
    // Every frame has gone: the next wait is the outermost again.
    let (completer, future) = thread_future::<u32>().unwrap();
    completer.complete(1).unwrap();
    assert_eq!(future.wait(), Ok(1));
}

#[test]
fn a_wait_on_a_thread_that_drives_a_current_thread_runtime_is_refused_at_once() {
    let _watched = watched();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (_completer, future) = thread_future::<u32>().unwrap();
        assert_eq!(future.wait(), Err(End::WouldDeadlock));
        let refused = LocalHome::of_this_thread().block_on(async {}).unwrap_err();
        assert!(refused.to_string().starts_with("waiting here would deadlock"), "{refused}");
    });
}

#[test]
fn a_worker_that_waits_gives_its_other_tasks_away() {
    let _watched = watched();
    // One worker, which waits for what another task of the same runtime completes.
    let runtime = runtime(1);
    let outcome = runtime.block_on(async {
        tokio::spawn(async {
            let (completer, future) = thread_future::<u32>().unwrap();
            tokio::spawn(async move { completer.complete(9) });
            future.wait()
        })
        .await
        .unwrap()
    });
    assert_eq!(outcome, Ok(9));
}

#[test]
fn workers_that_wait_are_limited_in_number() {
    let _watched = watched();
    let runtime = runtime(2);
    let go = Arc::new(Barrier::new(MAX_WAITING_WORKERS + 1));
    let waits: Vec<_> = (0..MAX_WAITING_WORKERS)
        .map(|_| {
            let go = go.clone();
            let (tell, told) = mpsc::channel::<Completer<u32>>();
            let task = runtime.spawn(async move {
                let (completer, future) = thread_future::<u32>().unwrap();
                tell.send(completer).unwrap();
                LocalHome::of_this_thread()
                    .spawn(async move { drop(tokio::task::spawn_blocking(move || go.wait())) })
                    .unwrap();
                future.wait()
            });
            (told.recv().unwrap(), task)
        })
        .collect();
    // All of them stand in their waits now.
    go.wait();
    let one_more = async {
        let (_completer, future) = thread_future::<u32>().unwrap();
        future.wait()
    };
    let refused = runtime.block_on(async { tokio::spawn(one_more).await.unwrap() });
    assert_eq!(refused, Err(End::WouldDeadlock));
    for (completer, task) in waits {
        completer.complete(1).unwrap();
        assert_eq!(runtime.block_on(task).unwrap(), Ok(1));
    }
}

#[test]
fn a_loop_that_is_stopped_ends_the_waits_that_stand_on_it() {
    let _watched = watched();
    let event_loop = EventLoop::start("stopped").unwrap();
    let (tell, told) = mpsc::channel();
    let (standing, stands) = mpsc::channel();
    event_loop
        .run(move |home| {
            let (_never, future) = home.future::<u32>().unwrap();
            let inner = tell.clone();
            home.spawn(async move {
                let (_never, future) = LocalHome::of_this_thread().future::<u32>().unwrap();
                standing.send(()).unwrap();
                inner.send(("inner", future.wait())).unwrap();
            })
            .unwrap();
            tell.send(("outer", future.wait())).unwrap();
        })
        .unwrap();
    stands.recv().unwrap();
    event_loop.stop();
    assert_eq!(told.try_recv(), Ok(("inner", Err(End::HomeEnded))));
    assert_eq!(told.try_recv(), Ok(("outer", Err(End::HomeEnded))));
}

#[test]
fn a_waiter_that_outlives_its_runtime_hears_that_its_home_has_ended() {
    let _watched = watched();
    let runtime = runtime(1);
    let handle = runtime.handle().clone();
    let (tell, told) = mpsc::channel();
    let waiter = thread::spawn(move || {
        handle.block_on(async {
            let (completer, mut future) = Home::current().future::<u32>().await.unwrap();
            assert!(futures_util::poll!(&mut future).is_pending());
            tell.send(completer).unwrap();
            future.await
        })
    });
    let completer = told.recv().unwrap();
    runtime.shutdown_background();
    let until = Instant::now() + Duration::from_secs(10);
    while !completer.is_unwanted() && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    completer.complete(1).unwrap_err();
    assert_eq!(waiter.join().unwrap(), Err(End::HomeEnded));
}

#[test]
fn tasks_and_timers_of_a_home_that_has_ended_are_dropped_at_once() {
    let _watched = watched();
    thread::spawn(|| {
        let (task, tasks) = noted();
        let (timer, timers) = noted();
        let home = {
            let foreign = ForeignLoop::new(|| ());
            foreign.local().clone()
        };
        home.spawn(async move { drop(task) }).unwrap_err();
        home.after(Duration::ZERO, move || drop(timer)).unwrap_err();
        assert_eq!(tasks.lock().unwrap().len(), 1);
        assert_eq!(timers.lock().unwrap().len(), 1);
    })
    .join()
    .unwrap();
}

#[test]
fn each_task_of_a_home_that_ends_is_dropped_though_others_panic() {
    let _watched = watched();
    struct Panics(Arc<AtomicUsize>);
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
            panic!("on purpose");
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let foreign = ForeignLoop::new(|| ());
    for _ in 0..3 {
        let held = Panics(drops.clone());
        foreign
            .local()
            .spawn(async move {
                let _held = held;
                std::future::pending::<()>().await;
            })
            .unwrap();
    }
    foreign.run_pending(10);
    drop(foreign);
    assert_eq!(drops.load(Ordering::SeqCst), 3);
}

#[test]
fn a_task_that_is_woken_while_an_inner_wait_drains_is_polled_again() {
    let _watched = watched();
    let event_loop = EventLoop::start("inner").unwrap();
    let (done, outcome) = thread_future::<u32>().unwrap();
    event_loop
        .run(move |home| {
            let (first, first_future) = home.future::<u32>().unwrap();
            let (second, second_future) = home.future::<u32>().unwrap();
            let inner = home.clone();
            home.spawn(async move {
                // Waits inside its own poll; its own wake for `second` arrives in the inner drain.
                let mut second_future = second_future;
                let polled = futures_util::poll!(&mut second_future);
                assert!(polled.is_pending());
                second.complete(2).unwrap();
                inner.spawn(async move { first.complete(1).unwrap() }).unwrap();
                let one = first_future.wait().unwrap();
                done.complete(one + second_future.await.unwrap()).unwrap();
            })
            .unwrap();
        })
        .unwrap();
    assert_eq!(outcome.wait_timeout(Duration::from_secs(10)), Ok(3));
}

#[test]
fn timers_fire_in_order_on_the_loop() {
    let _watched = watched();
    let event_loop = EventLoop::start("timers").unwrap();
    let (heard, hear) = mpsc::channel();
    event_loop
        .run(move |home| {
            for (delay, name) in [(30, "third"), (10, "first"), (20, "second")] {
                let heard = heard.clone();
                home.after(Duration::from_millis(delay), move || heard.send(name).unwrap()).unwrap();
            }
        })
        .unwrap();
    let order: Vec<_> = (0..3).map(|_| hear.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
    assert_eq!(order, ["first", "second", "third"]);
}

#[test]
fn every_one_of_many_completions_from_many_threads_lands_once() {
    let _watched = watched();
    const THREADS: usize = 4;
    const EACH: usize = 2_000;
    let runtime = runtime(2);
    let landed = Arc::new(AtomicUsize::new(0));
    runtime.block_on(async {
        let home = Home::current();
        let (send, receive) = crossbeam_channel::unbounded::<Completer<usize>>();
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let receive = receive.clone();
                thread::spawn(move || {
                    for (i, completer) in receive.into_iter().enumerate() {
                        match (i + n) % 3 {
                            0 => completer.complete(i).unwrap(),
                            1 => completer.cancel(),
                            _ => drop(completer),
                        }
                    }
                })
            })
            .collect();
        let mut waits = Vec::new();
        for _ in 0..THREADS * EACH {
            let (completer, future) = home.future::<usize>().await.unwrap();
            send.send(completer).unwrap();
            let landed = landed.clone();
            waits.push(tokio::spawn(async move {
                let _ = future.await;
                landed.fetch_add(1, Ordering::Relaxed);
            }));
        }
        drop(send);
        for wait in waits {
            wait.await.unwrap();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
    assert_eq!(landed.load(Ordering::Relaxed), THREADS * EACH);
}

#[test]
fn a_foreign_loop_is_rung_once_and_again_while_something_is_left() {
    let _watched = watched();
    let (ring, rung) = mpsc::channel();
    let home = ForeignLoop::new(move || ring.send(()).unwrap());
    let futures: Vec<_> = (0..10).map(|_| home.future::<u32>().unwrap()).collect();
    let (completers, futures): (Vec<_>, Vec<_>) = futures.into_iter().unzip();
    thread::spawn(move || {
        for (n, completer) in (0..).zip(completers) {
            completer.complete(n).unwrap();
        }
    })
    .join()
    .unwrap();
    assert_eq!(rung.try_iter().count(), 1, "once for all ten");
    let mut turns = 0;
    while home.run_pending(3) > 0 {
        turns += 1;
        assert_eq!(rung.try_iter().count(), usize::from(turns < 4), "again while something is left");
    }
    for (n, future) in (0..).zip(futures) {
        assert_eq!(future.wait(), Ok(n));
    }
}

#[test]
fn a_callback_of_a_foreign_loop_may_wait() {
    let _watched = watched();
    let home = ForeignLoop::new(|| {});
    let (outer, outer_future) = home.future::<u32>().unwrap();
    let (inner, inner_future) = home.future::<u32>().unwrap();
    let seen = std::rc::Rc::new(std::cell::Cell::new(0));
    let note = seen.clone();
    outer_future.on_done(move |outcome| note.set(outcome.unwrap() + inner_future.wait().unwrap()));
    outer.complete(1).unwrap();
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        inner.complete(2).unwrap();
    });
    let until = Instant::now() + Duration::from_secs(10);
    while seen.get() == 0 && Instant::now() < until {
        home.run_pending(16);
    }
    assert_eq!(seen.get(), 3);
    late.join().unwrap();
}
