//! Waits in hard places: within a done-callback, on a loop that is stopped meanwhile, on a home that has ended, on a small stack,
//! in the destructor of a thread-local value, on the threads of `spawn_blocking`.

#[path = "../../../tests/support/watch.rs"]
mod watch;

use std::cell::RefCell;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use homing_home::{
    Completer, End, EventLoop, ForeignLoop, Home, LocalHome, MAX_WAITING_WORKERS, ReserveError, WaitRefused,
    thread_future,
};

use watch::watched;

const LONG: Duration = Duration::from_secs(30);

fn runtime(workers: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap()
}

/// Waits for a future of the runtime whose completion the drain task has to land, though it is that task which waits.
fn wait_within_a_callback(home: &Home, depth: usize, done: Completer<usize>) {
    let (completer, future) = home.try_future::<()>().unwrap();
    let home_again = home.clone();
    future.on_done(move |outcome| {
        outcome.unwrap();
        if depth == 0 {
            done.complete(0).unwrap();
            return;
        }
        let (inner_done, inner) = thread_future::<usize>().unwrap();
        wait_within_a_callback(&home_again, depth - 1, inner_done);
        done.complete(inner.wait_timeout(LONG).unwrap() + 1).unwrap();
    });
    thread::spawn(move || completer.complete(()).unwrap());
}

#[test]
fn a_callback_on_a_multi_thread_runtime_may_wait_for_its_own_home() {
    let _watched = watched();
    for workers in [1, 4] {
        let runtime = runtime(workers);
        let home = Home::of_runtime(runtime.handle());
        let (done, outcome) = thread_future::<usize>().unwrap();
        wait_within_a_callback(&home, 20, done);
        assert_eq!(outcome.wait_timeout(LONG), Ok(20), "{workers} workers");
        // It goes on after that, with one drain task as before.
        let ended = runtime.block_on(async {
            let (completer, future) = Home::current().future::<u32>().await.unwrap();
            thread::spawn(move || completer.complete(7));
            future.await
        });
        assert_eq!(ended, Ok(7));
        drop(runtime);
        assert!(home.has_ended());
    }
}

#[test]
fn a_stop_that_an_inner_wait_takes_ends_the_outer_ones() {
    let _watched = watched();
    let event_loop = EventLoop::start("stopped").unwrap();
    let handle = event_loop.handle();
    let (tell, told) = mpsc::channel();
    // Kept here: a completer that is dropped would wake the loop.
    let (keep, kept) = mpsc::channel();
    event_loop
        .run(move |home| {
            let (never, outer) = home.future::<()>().unwrap();
            keep.send(never).unwrap();
            // In a timer, whose turn has handled no envelope.
            let timer = home.clone();
            home.after(Duration::ZERO, move || {
                let (never, inner) = timer.future::<()>().unwrap();
                keep.send(never).unwrap();
                handle.stop();
                inner.wait().unwrap_err();
            })
            .unwrap();
            tell.send(outer.wait()).unwrap();
        })
        .unwrap();
    assert_eq!(told.recv_timeout(LONG), Ok(Err(End::HomeEnded)));
    event_loop.stop();
    drop(kept);
}

#[test]
fn a_wait_on_a_home_that_has_ended_is_refused() {
    let _watched = watched();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let home = ForeignLoop::new(|| ()).local().clone();
        assert_eq!(home.block_on(async { 7 }), Ok(7), "nothing to wait for");
        let refused = home.block_on(std::future::pending::<()>());
        // It ends within a wait, too.
        let foreign = ForeignLoop::new(|| ());
        let local = foreign.local().clone();
        local.spawn(async move { drop(foreign) }).unwrap();
        tell.send((refused, local.block_on(std::future::pending::<()>()))).unwrap();
    });
    let ended = Err(WaitRefused::HomeEnded);
    assert_eq!(told.recv_timeout(LONG), Ok((ended, ended)));
}

/// Waits within waits, as deep as they are let.
fn deeper(home: &LocalHome, depth: usize) -> usize {
    home.block_on(async { deeper(&LocalHome::of_this_thread(), depth + 1) }).unwrap_or(depth)
}

#[cfg(target_os = "linux")]
#[test]
fn a_small_stack_has_few_waits_and_no_abort() {
    let _watched = watched();
    for kib in [160, 256, 512, 1024] {
        let thread = thread::Builder::new().stack_size(kib << 10);
        let depth = thread.spawn(|| deeper(&LocalHome::of_this_thread(), 0)).unwrap().join().unwrap();
        assert!(depth >= 1, "{depth} waits on {kib} KiB");
    }
}

/// Uses everything that there is, in the destructor of a thread-local value.
struct Late(mpsc::Sender<Vec<String>>, RefCell<Option<EventLoop>>);

impl Drop for Late {
    fn drop(&mut self) {
        let mut seen = Vec::new();
        let home = LocalHome::of_this_thread();
        seen.push(format!("{:?}", home.block_on(async { 1 })));
        seen.push(match thread_future::<()>() {
            Ok((completer, future)) => {
                drop(completer);
                format!("{:?}", future.wait())
            }
            Err(error) => format!("{error:?}"),
        });
        seen.push(format!("{:?}", home.block_on(std::future::pending::<()>())));
        seen.push(format!("{:?}", Home::current().spawn(async {}).map_err(|refused| refused.reason())));
        seen.push(format!("{:?}", Home::current().try_future::<()>().err()));
        home.turn(8);
        drop(ForeignLoop::new(|| ()));
        drop(self.1.take());
        self.0.send(seen).unwrap();
    }
}

thread_local! {
    static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
}

#[test]
fn thread_local_destructors_may_use_homes() {
    let _watched = watched();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let event_loop = EventLoop::start("late").unwrap();
        // Made first, so that it is dropped last, when the home of the thread has gone.
        LATE.with(|late| *late.borrow_mut() = Some(Late(tell, RefCell::new(Some(event_loop)))));
        let (completer, future) = thread_future::<u32>().unwrap();
        completer.complete(1).unwrap();
        assert_eq!(future.wait(), Ok(1));
    })
    .join()
    .unwrap();
    let ended = format!("{:?}", ReserveError::Ended);
    let seen = told.recv_timeout(LONG).unwrap();
    assert_eq!(
        seen,
        [
            "Ok(1)".to_owned(),
            ended.clone(),
            "Err(HomeEnded)".to_owned(),
            format!("Err({ended})"),
            format!("Some({ended})")
        ]
    );
}

#[test]
fn a_panic_whose_payload_panics_when_it_is_dropped_ends_itself_alone() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }
    let _watched = watched();
    let event_loop = EventLoop::start("bombed").unwrap();
    event_loop.run(|_| std::panic::panic_any(Bomb)).unwrap();
    event_loop.handle().home().spawn(async { std::panic::panic_any(Bomb) }).unwrap();
    event_loop.run(|home| home.after(Duration::ZERO, || std::panic::panic_any(Bomb)).unwrap()).unwrap();
    let (completer, future) = event_loop.handle().home().try_future::<()>().unwrap();
    future.on_done(|_| std::panic::panic_any(Bomb));
    completer.complete(()).unwrap();
    let (captured, caught) = thread_future().unwrap();
    event_loop
        .run(move |_| {
            homing_home::futures::capture(captured, || -> Result<(), std::fmt::Error> { std::panic::panic_any(Bomb) });
        })
        .unwrap();
    assert!(matches!(caught.wait(), Ok(Err(homing_home::futures::Captured::Panic(_)))));
    event_loop.stop();
}

#[test]
fn blocking_threads_wait_as_many_as_there_are() {
    let _watched = watched();
    let runtime = runtime(2);
    let all = MAX_WAITING_WORKERS + 144;
    let (tell, told) = mpsc::channel();
    let waits: Vec<_> = (0..all)
        .map(|_| {
            let tell = tell.clone();
            runtime.spawn_blocking(move || {
                let (completer, future) = thread_future::<u32>().unwrap();
                tell.send(completer).unwrap();
                future.wait()
            })
        })
        .collect();
    // All of them wait at the same time.
    let completers: Vec<_> = (0..all).map(|_| told.recv_timeout(LONG).unwrap()).collect();
    for completer in completers {
        completer.complete(1).unwrap();
    }
    for wait in waits {
        assert_eq!(runtime.block_on(wait).unwrap(), Ok(1));
    }
}
