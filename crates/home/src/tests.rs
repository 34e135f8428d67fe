//! What this floor says, counts, keeps and forgets, where no caller of it could tell the difference by an outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tracing::field::{Field, Visit};

use super::*;
use crate::futures::{CancellableAction, Captured, Ran, as_completed};

#[path = "../../../tests/support/watch.rs"]
mod watch;

use watch::watched;

const LONG: Duration = Duration::from_secs(20);

fn one_worker() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Notes that it was dropped.
struct Dropped(mpsc::Sender<()>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.send(()).ok();
    }
}

/// How long this thread has been on a processor.
#[cfg(target_os = "linux")]
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    // Behind the name, which may hold anything, user and system time are the twelfth and the thirteenth field.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // In hundredths of a second, on every Linux.
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[test]
fn what_went_wrong_is_said() {
    let _watched = watched();
    assert_eq!(ReserveError::Full.to_string(), "the home has as many futures, calls and tasks open as it may have");
    let ends = [
        (End::Abandoned, "dropped its completer"),
        (End::Cancelled, "cancelled"),
        (End::TimedOut, "deadline"),
        (End::WrongHome, "away from its home"),
        (End::HomeEnded, "has ended"),
        (End::TooDeep, "within each other"),
        (End::WouldDeadlock, "would deadlock"),
        (End::Taken, "taken before"),
    ];
    for (end, part) in ends {
        assert!(end.to_string().contains(part), "{end}");
    }
    let refusals = [
        (WaitRefused::TooDeep, "within each other", End::TooDeep),
        (WaitRefused::WouldDeadlock, "current-thread tokio runtime", End::WouldDeadlock),
        (WaitRefused::TooManyWorkers, "256 workers", End::WouldDeadlock),
        (WaitRefused::Stopped, "stopped", End::HomeEnded),
    ];
    for (refused, part, end) in refusals {
        assert!(refused.to_string().contains(part), "{refused}");
        assert_eq!(End::from(refused), end);
    }
    assert!(HandedBack(()).to_string().contains("handed back"));
    let panicked = Captured::Panic("by chance".to_owned());
    assert_eq!(panicked.to_string(), "it panicked: by chance");
    assert!(std::error::Error::source(&panicked).is_none());
    // The error's own words are Captured's; what is below them is its source.
    let below = std::io::Error::other(End::Cancelled);
    let error = Captured::Error(Box::new(Above(below)));
    assert_eq!(error.to_string(), "above");
    assert!(std::error::Error::source(&error).is_some_and(|source| source.to_string().contains("cancelled")));
}

#[derive(Debug)]
struct Above(std::io::Error);

impl std::fmt::Display for Above {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("above")
    }
}

impl std::error::Error for Above {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn what_stands_in_a_log_names_itself() {
    let _watched = watched();
    let event_loop = EventLoop::start("shown").unwrap();
    let foreign = ForeignLoop::new(|| ());
    let (completer, future) = Home::current().try_future::<u32>().unwrap();
    let (_other, local) = thread_future::<u32>().unwrap();
    let deadline = future.deadline().unwrap();
    let action = CancellableAction::new(&Home::current(), |(): ()| Ok::<_, End>(())).unwrap().0;
    let shown = [
        (format!("{:?}", HandedBack(1)), "HandedBack"),
        (format!("{completer:?}"), "Completer"),
        (format!("{future:?}"), "HomeFuture"),
        (format!("{local:?}"), "LocalFuture"),
        (format!("{deadline:?}"), "Deadline"),
        (format!("{:?}", event_loop.handle()), "EventLoopHandle"),
        (format!("{foreign:?}"), "ForeignLoop"),
        (format!("{:?}", foreign.local()), "LocalHome { identity: Thread"),
        (format!("{:?}", Home::current()), "Home { identity: Thread"),
        (format!("{action:?}"), "CancellableAction"),
        (format!("{:?}", as_completed([future]).unwrap()), "AsCompleted { left: 1 }"),
    ];
    for (shown, name) in shown {
        assert!(shown.starts_with(name), "{shown}");
    }
}

/// Counts the warnings and errors, with their panics' texts.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        use std::fmt::Write;
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = format!("{} ", event.metadata().level());
        event.record(&mut Text(&mut text));
        self.0.lock().unwrap().push(text);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

impl Log {
    fn of(call: impl FnOnce()) -> Vec<String> {
        let log = Log::default();
        tracing::subscriber::with_default(log.clone(), call);
        log.0.lock().unwrap().clone()
    }
}

/// Panics with each line, and counts them.
struct PanickingLog(Arc<AtomicUsize>);

impl tracing::Subscriber for PanickingLog {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("the log panics");
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_log_that_panics_costs_an_event_loop_nothing() {
    let _watched = watched();
    let lines = Arc::new(AtomicUsize::new(0));
    let event_loop = EventLoop::start("logged").unwrap();
    let log = PanickingLog(Arc::clone(&lines));
    // For as long as the thread is there.
    event_loop.run(|_| std::mem::forget(tracing::subscriber::set_default(log))).unwrap();
    event_loop.run(|_| panic!("on purpose")).unwrap();
    event_loop.handle().home().spawn(async { panic!("on purpose") }).unwrap();
    event_loop.run(|home| home.after(Duration::ZERO, || panic!("on purpose")).unwrap()).unwrap();
    let (completer, future) = event_loop.handle().home().try_future::<()>().unwrap();
    future.on_done(|_| panic!("on purpose"));
    completer.complete(()).unwrap();
    let until = Instant::now() + LONG;
    while lines.load(Ordering::SeqCst) < 4 {
        assert!(Instant::now() < until, "{} lines were written", lines.load(Ordering::SeqCst));
        thread::sleep(Duration::from_millis(1));
    }
    let (says, said) = mpsc::channel();
    event_loop.run(move |_| says.send(1).unwrap()).unwrap();
    assert_eq!(said.recv_timeout(LONG), Ok(1), "it goes on");
    event_loop.stop();
}

#[test]
fn a_log_that_panics_costs_whoever_completes_or_polls_nothing() {
    let _watched = watched();
    let lines = Arc::new(AtomicUsize::new(0));
    tracing::subscriber::with_default(PanickingLog(Arc::clone(&lines)), || {
        let home = ForeignLoop::new(|| thread::sleep(Duration::from_millis(50)));
        let (completer, _future) = home.future::<u32>().unwrap();
        completer.complete(1).unwrap();
        // The line, and the line that says that it panicked.
        assert_eq!(lines.swap(0, Ordering::SeqCst), 2, "the hook took long");
        let home = LocalHome::of_this_thread();
        let (completer, future) = home.future::<u32>().unwrap();
        let mut future = std::pin::pin!(future);
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(lines.swap(0, Ordering::SeqCst), 2, "nothing turns the home");
        completer.complete(1).unwrap();
        assert_eq!(home.block_on(future).unwrap(), Ok(1));
    });
}

/// A thread that has panicked, which nothing but a fault of this crate could make of a loop's.
#[test]
fn a_log_that_panics_costs_whoever_stops_an_event_loop_nothing() {
    let _watched = watched();
    let lines = Arc::new(AtomicUsize::new(0));
    let event_loop = EventLoop::of_a_thread_that_panics();
    tracing::subscriber::with_default(PanickingLog(Arc::clone(&lines)), || event_loop.stop());
    assert_eq!(lines.load(Ordering::SeqCst), 2, "the line, and the line that says that it panicked");
}

#[test]
fn a_hook_that_takes_long_is_reported() {
    let _watched = watched();
    for (takes, reports) in [(Duration::ZERO, 0), (Duration::from_millis(50), 1)] {
        let said = Log::of(|| {
            let home = ForeignLoop::new(move || thread::sleep(takes));
            let (completer, _future) = home.future::<u32>().unwrap();
            completer.complete(1).unwrap();
        });
        assert_eq!(said.len(), reports, "{takes:?}: {said:?}");
        assert!(said.iter().all(|said| said.starts_with("WARN") && said.contains("wake hook")), "{said:?}");
    }
}

#[test]
fn a_future_that_nothing_ends_is_reported_once() {
    let _watched = watched();
    let said = Log::of(|| {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            let home = LocalHome::of_this_thread();
            let (completer, future) = home.future::<u32>().unwrap();
            let mut future = std::pin::pin!(future);
            assert!(future.as_mut().poll(&mut context).is_pending());
            completer.complete(1).unwrap();
            assert_eq!(home.block_on(future).unwrap(), Ok(1));
        }
    });
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("WARN") && said[0].contains("blocking::wait"), "{said:?}");
    let said = Log::of(|| {
        // A foreign loop turns when it is rung.
        let home = ForeignLoop::new(|| ());
        let (_completer, future) = home.future::<u32>().unwrap();
        let mut future = std::pin::pin!(future);
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    });
    assert!(said.is_empty(), "{said:?}");
}

#[test]
fn the_text_of_a_panic_is_reported() {
    let _watched = watched();
    let said = Log::of(|| {
        let home = ForeignLoop::new(|| ());
        home.local().spawn(async { panic!("as it {}", "says") }).unwrap();
        home.local().spawn(async { std::panic::panic_any(7) }).unwrap();
        home.run_pending(8);
        home.local().after(Duration::ZERO, || panic!("in a timer")).unwrap();
        home.run_pending(8);
    });
    let parts = ["as it says", "(a panic without a text)", "in a timer"];
    assert_eq!(said.len(), parts.len(), "{said:?}");
    for (said, part) in said.iter().zip(parts) {
        assert!(said.starts_with("ERROR") && said.contains(part), "{said}");
    }
}

#[test]
fn a_thread_is_at_a_home_only_while_it_turns_it() {
    let _watched = watched();
    let own = LocalHome::of_this_thread();
    let foreign = ForeignLoop::new(|| ());
    let (tell, told) = mpsc::channel();
    foreign.local().spawn(async move { tell.send(LocalHome::of_this_thread().inbox().clone()).unwrap() }).unwrap();
    foreign.run_pending(8);
    assert!(Arc::ptr_eq(&told.recv().unwrap(), foreign.local().inbox()), "in its task");
    assert!(Arc::ptr_eq(LocalHome::of_this_thread().inbox(), own.inbox()), "behind its turn");
    own.block_on(async {}).unwrap();
    assert!(current::entered().is_none(), "behind a wait");
    // In a runtime the runtime is the home again.
    let runtime = one_worker();
    let at_runtime = runtime.block_on(async {
        tokio::spawn(async {
            LocalHome::of_this_thread().block_on(async {}).unwrap();
            Home::current().is_runtime()
        })
        .await
        .unwrap()
    });
    assert!(at_runtime);
}

#[test]
fn a_hook_is_dropped_by_the_loop_that_ends() {
    let (tell, dropped) = mpsc::channel();
    let held = Dropped(tell);
    let foreign = ForeignLoop::new(move || {
        let _held = &held;
    });
    let (completer, future) = foreign.future::<u32>().unwrap();
    drop((foreign, future));
    assert_eq!(dropped.try_recv(), Ok(()));
    // It is not rung any more.
    assert!(completer.complete(1).is_err());
    // One that panics as it is dropped ends itself alone.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a bomb goes off");
        }
    }
    let held = Bomb;
    drop(ForeignLoop::new(move || {
        let _held = &held;
    }));
}

#[test]
fn a_home_knows_what_it_is() {
    let _watched = watched();
    let (runtime, other) = (current_thread(), current_thread());
    let home = Home::of_runtime(runtime.handle());
    assert!(home.is_runtime());
    assert!(!Home::current().is_runtime() && Home::current().is_here());
    assert!(!home.is_here());
    runtime.block_on(async { assert!(home.is_here() && Home::current().is_runtime()) });
    other.block_on(async { assert!(!home.is_here()) });
    let (_completer, future) = home.try_future::<u32>().unwrap();
    assert!(!future.is_here());
    runtime.block_on(async { assert!(future.is_here()) });
    assert!(!home.has_ended());
    drop(runtime);
    assert!(home.has_ended());
}

#[test]
fn a_runtime_has_one_home_whoever_asks_and_whatever_others_come_and_go() {
    let _watched = watched();
    let runtime = current_thread();
    let home = Home::of_runtime(runtime.handle());
    for _ in 0..100 {
        let other = current_thread();
        let others = Home::of_runtime(other.handle());
        assert!(!Arc::ptr_eq(others.inbox(), home.inbox()));
        // From a thread that knows of neither.
        let handle = runtime.handle().clone();
        let again = thread::spawn(move || Home::of_runtime(&handle)).join().unwrap();
        assert!(Arc::ptr_eq(again.inbox(), home.inbox()));
        assert!(Arc::ptr_eq(Home::of_runtime(other.handle()).inbox(), others.inbox()));
    }
    // Those that have ended are forgotten. Other tests have some, too.
    let (known, living) = runtime::known();
    assert!(known < 50 || living * 2 > known, "{known} runtimes are known, {living} live");
}

#[test]
fn a_thread_home_ends_with_its_thread_though_its_task_holds_it() {
    let _watched = watched();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let home = LocalHome::of_this_thread();
        let (held, dropped) = (home.clone(), Dropped(tell));
        home.spawn(async move {
            let _both = (held, dropped);
            std::future::pending::<()>().await;
        })
        .unwrap();
        home.turn(8);
    })
    .join()
    .unwrap();
    told.recv_timeout(LONG).expect("the task was dropped");
}

#[test]
fn a_home_ends_with_its_last_handle() {
    let _watched = watched();
    let (tell, told) = mpsc::channel();
    let home = LocalHome::plain(2);
    let (completer, future) = home.future::<Dropped>().unwrap();
    drop(future);
    assert!(completer.complete(Dropped(tell)).is_ok());
    assert!(told.try_recv().is_err(), "it waits in the inbox");
    drop(home);
    told.try_recv().expect("the home has dropped it");
}

#[test]
fn an_event_loop_ends_when_it_is_dropped() {
    let _watched = watched();
    let event_loop = EventLoop::start("dropped").unwrap();
    let home = event_loop.handle().home();
    let (tell, told) = mpsc::channel();
    event_loop
        .run(move |_| {
            thread::sleep(Duration::from_millis(50));
            tell.send(()).unwrap();
        })
        .unwrap();
    drop(event_loop);
    told.try_recv().expect("the drop waits for the loop");
    assert!(home.has_ended());
    assert_eq!(home.try_future::<()>().err(), Some(ReserveError::Ended));
}

#[test]
fn an_event_loop_that_is_dropped_on_itself_ends() {
    let _watched = watched();
    let event_loop = EventLoop::start("itself").unwrap();
    let handle = event_loop.handle();
    let (hand, handed) = mpsc::channel::<EventLoop>();
    let (tell, told) = mpsc::channel();
    handle
        .run(move |home| {
            home.spawn({
                let dropped = Dropped(tell);
                async move {
                    let _dropped = dropped;
                    std::future::pending::<()>().await;
                }
            })
            .unwrap();
            drop(handed.recv().unwrap());
        })
        .unwrap();
    hand.send(event_loop).unwrap();
    told.recv_timeout(LONG).expect("the loop has ended");
}

#[test]
fn an_event_loop_goes_on_past_the_limit_of_a_turn() {
    let _watched = watched();
    const CALLS: usize = 1000;
    let event_loop = EventLoop::start("many").unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    event_loop.run(move |_| wait.recv().unwrap()).unwrap();
    for n in 0..CALLS {
        let tell = tell.clone();
        event_loop.run(move |_| tell.send(n).unwrap()).unwrap();
    }
    // All of them are there when the loop turns next, and nobody rings again.
    go.send(()).unwrap();
    for n in 0..CALLS {
        assert_eq!(told.recv_timeout(LONG), Ok(n));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_home_that_has_nothing_to_do_sleeps() {
    let _watched = watched();
    const NAP: Duration = Duration::from_millis(600);
    const AWAKE: Duration = Duration::from_millis(200);

    // A loop, idle and in a wait.
    let event_loop = EventLoop::start("idle").unwrap();
    let busy_there = || {
        let (tell, told) = mpsc::channel();
        event_loop.run(move |_| tell.send(busy()).unwrap()).unwrap();
        told.recv_timeout(LONG).unwrap()
    };
    for waits in [false, true] {
        let before = busy_there();
        if waits {
            event_loop
                .run(|home| {
                    let (_never, future) = home.future::<()>().unwrap();
                    assert_eq!(future.wait_timeout(NAP), Err(End::TimedOut));
                })
                .unwrap();
        } else {
            thread::sleep(NAP);
        }
        let took = busy_there() - before;
        assert!(took < AWAKE, "waits {waits}: busy for {took:?} of {NAP:?}");
    }

    // A plain thread, with and without a deadline.
    let before = busy();
    let begun = Instant::now();
    let (never, future) = thread_future::<()>().unwrap();
    assert_eq!(future.wait_timeout(NAP), Err(End::TimedOut));
    assert!(begun.elapsed() >= NAP);
    drop(never);
    let (completer, future) = thread_future::<u32>().unwrap();
    let other = thread::spawn(move || {
        thread::sleep(NAP);
        completer.complete(1).unwrap();
    });
    assert_eq!(future.wait(), Ok(1));
    other.join().unwrap();
    let took = busy() - before;
    assert!(took < AWAKE, "busy for {took:?}");
}

#[test]
fn a_timer_fires_when_it_is_due_and_not_before() {
    let _watched = watched();
    let home = ForeignLoop::new(|| ());
    assert_eq!(home.next_timer(), None);
    let fired = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let begun = Instant::now();
    for (name, delay) in [("never", Duration::MAX), ("later", Duration::from_millis(120)), ("soon", Duration::ZERO)] {
        let fired = fired.clone();
        home.local().after(delay, move || fired.borrow_mut().push(name)).unwrap();
    }
    assert!(home.next_timer().unwrap() <= Instant::now());
    home.run_pending(0);
    assert_eq!(*fired.borrow(), ["soon"]);
    let due = home.next_timer().unwrap();
    assert!(due >= begun + Duration::from_millis(120));
    while Instant::now() < due {
        home.run_pending(8);
        assert!(fired.borrow().len() == 1 || Instant::now() >= due, "it fired before it was due");
    }
    home.run_pending(8);
    assert_eq!(*fired.borrow(), ["soon", "later"]);
    // A wait sleeps until the next timer is due, and no longer.
    let (completer, future) = home.future::<u32>().unwrap();
    home.local().after(Duration::from_millis(30), move || completer.complete(3).unwrap()).unwrap();
    assert_eq!(future.wait(), Ok(3));
    assert!(home.next_timer().unwrap() > Instant::now() + LONG);
}

#[test]
fn a_timer_that_sets_itself_again_leaves_the_turn() {
    fn again(home: &LocalHome, fired: Arc<AtomicUsize>) {
        let next = home.clone();
        home.after(Duration::ZERO, move || {
            fired.fetch_add(1, Ordering::SeqCst);
            again(&next, fired);
        })
        .unwrap();
    }
    let _watched = watched();
    let home = ForeignLoop::new(|| ());
    let fired = Arc::new(AtomicUsize::new(0));
    again(home.local(), fired.clone());
    for turn in 1..=3 {
        home.run_pending(0);
        // On a clock that stands still for a while, it is due again within the same turn.
        assert!(fired.load(Ordering::SeqCst) >= turn);
    }
}

#[test]
fn a_task_that_ends_its_home_is_dropped_there_though_its_drop_panics() {
    struct Panics(mpsc::Sender<()>);
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
            panic!("on purpose");
        }
    }
    let _watched = watched();
    let foreign = ForeignLoop::new(|| ());
    let home = foreign.local().clone();
    let (tell, told) = mpsc::channel();
    home.spawn(async move {
        let _held = Panics(tell);
        drop(foreign);
        std::future::pending::<()>().await;
    })
    .unwrap();
    assert_eq!(home.turn(8), 1);
    assert_eq!(told.try_iter().count(), 1);
}

#[test]
fn a_home_that_ends_wakes_who_waits_and_later_senders_wake_nobody() {
    #[derive(Default)]
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let _watched = watched();
    let runtime = current_thread();
    let woken = Arc::new(Woken::default());
    let (completer, mut future) = Home::of_runtime(runtime.handle()).try_future::<u32>().unwrap();
    runtime.block_on(async {
        let waker = Waker::from(woken.clone());
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
    });
    assert_eq!(Arc::strong_count(&woken), 2, "kept for the landing");
    drop(runtime);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "by the home");
    drop(future);
    assert_eq!(Arc::strong_count(&woken), 1);
    assert_eq!(completer.complete(1).unwrap_err().0, 1);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "by nobody else");
}

#[test]
fn what_is_not_cancelled_or_empty_says_so() {
    let _watched = watched();
    let home = LocalHome::of_this_thread();
    let (action, future) = CancellableAction::new(&Home::current(), |n: u32| Ok::<_, End>(n + 1)).unwrap();
    assert!(!action.is_cancelled());
    let mut done = as_completed([future]).unwrap();
    assert!(!done.is_empty());
    assert_eq!(action.run(1), Ran::Yes);
    let outcome = home.block_on(done.next()).unwrap();
    assert!(matches!(outcome, Some((0, Ok(Ok(2))))));
    assert!(done.is_empty());
}

#[test]
fn a_wait_may_be_as_long_as_a_duration() {
    let _watched = watched();
    let (completer, future) = thread_future::<u32>().unwrap();
    let other = thread::spawn(move || completer.complete(1).unwrap());
    assert_eq!(future.wait_timeout(Duration::MAX), Ok(1));
    other.join().unwrap();
    let (completer, future) = thread_future::<u32>().unwrap();
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        completer.complete(2).unwrap();
    });
    assert_eq!(future.wait_timeout(LONG), Ok(2), "not timed out before");
}

#[test]
fn a_bounded_turn_handles_as_much_as_it_may() {
    let _watched = watched();
    let rings = Arc::new(AtomicUsize::new(0));
    let counted = rings.clone();
    let home = ForeignLoop::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let pairs: Vec<_> = (0..5).map(|_| home.future::<()>().unwrap()).collect();
    let mut futures = Vec::new();
    for (completer, future) in pairs {
        completer.complete(()).unwrap();
        futures.push(future);
    }
    let mut heard = Vec::new();
    for limit in [0, 1, 2, 2, 2] {
        heard.push((home.run_pending(limit), rings.swap(0, Ordering::SeqCst)));
    }
    // The first ring is that of the first completion.
    assert_eq!(heard, [(0, 2), (1, 1), (2, 1), (2, 0), (0, 0)]);
}

#[test]
fn what_is_called_to_block_may_wait_on_its_thread_and_what_comes_after_it_may_not() {
    let _watched = watched();
    // One thread for blocking, so that the second call is on that of the first.
    let runtime = Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
    let home = Home::of_runtime(runtime.handle());
    let waits = || {
        let (completer, future) = thread_future::<u32>().unwrap();
        thread::spawn(move || completer.complete(1).unwrap());
        future.wait()
    };
    for allowed in [true, false] {
        let (tell, told) = mpsc::channel();
        home.spawn_blocking(move || {
            let _allowed = allowed.then(allow);
            // Within each other, too.
            drop(allowed.then(allow));
            tell.send(waits()).unwrap();
        })
        .unwrap();
        let expected = if allowed { Ok(1) } else { Err(End::WouldDeadlock) };
        assert_eq!(told.recv_timeout(LONG), Ok(expected));
    }
    // At a home that is a thread, it is called on that thread.
    let event_loop = EventLoop::start("blocks").unwrap();
    let (tell, told) = mpsc::channel();
    event_loop
        .handle()
        .home()
        .spawn_blocking(move || tell.send(thread::current().name().map(str::to_owned)).unwrap())
        .unwrap();
    assert_eq!(told.recv_timeout(LONG).unwrap().as_deref(), Some("blocks"));
}

#[test]
fn a_panic_in_a_wait_on_a_worker_goes_on() {
    let _watched = watched();
    let runtime = one_worker();
    let joined = runtime.block_on(async {
        tokio::spawn(async {
            let panics = async { panic!("on purpose") };
            LocalHome::of_this_thread().block_on(panics)
        })
        .await
    });
    assert!(joined.unwrap_err().is_panic());
    // It is no worker that waits any more.
    assert_eq!(wait::waiting(runtime.handle()), 0);
}

#[test]
fn a_wait_in_a_local_set_is_refused() {
    let _watched = watched();
    let runtime = one_worker();
    let refused = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(async {
            let (_never, future) = thread_future::<()>().unwrap();
            future.wait()
        })
        .await
        .unwrap()
    });
    assert_eq!(refused, Err(End::WouldDeadlock));
}

#[test]
fn a_worker_that_waits_is_counted_once_and_until_its_wait_ends() {
    let _watched = watched();
    let runtime = one_worker();
    let handle = runtime.handle().clone();
    let counts = runtime.block_on(async move {
        tokio::spawn(async move {
            let home = LocalHome::of_this_thread();
            let count = || wait::waiting(&handle);
            let mut counts = vec![count()];
            home.block_on(async {
                counts.push(count());
                home.block_on(async { counts.push(count()) }).unwrap();
                counts.push(count());
                // Another worker, beside this one.
                let other = handle.clone();
                let beside = handle.spawn(async move {
                    let within = LocalHome::of_this_thread().block_on(async { wait::waiting(&other) }).unwrap();
                    (within, wait::waiting(&other))
                });
                let (within, behind) = beside.await.unwrap();
                counts.extend([within, behind]);
            })
            .unwrap();
            counts.push(count());
            counts
        })
        .await
        .unwrap()
    });
    assert_eq!(counts, [0, 1, 1, 1, 2, 1, 0]);
    // A thread that is in the runtime's context and none of its workers is not counted.
    let _entered = runtime.enter();
    let count = LocalHome::of_this_thread().block_on(async { wait::waiting(runtime.handle()) });
    assert_eq!(count, Ok(0));
}

/// The home goes on beside a wait of tokio's, of which its first poll tells: for a future of that home.
#[test]
fn a_callback_waits_for_a_future_by_tokios_own_means() {
    let _watched = watched();
    let runtime = one_worker();
    let (said, heard) = mpsc::channel();
    let handle = runtime.handle().clone();
    let (one, two) = runtime.block_on(async {
        let (one, first) = Home::current().try_future::<()>().unwrap();
        let (two, second) = Home::current().try_future::<u32>().unwrap();
        first.on_done(move |_| said.send(tokio::task::block_in_place(|| handle.block_on(second))).unwrap());
        (one, two)
    });
    one.complete(()).unwrap();
    two.complete(2).unwrap();
    assert_eq!(heard.recv_timeout(LONG), Ok(Ok(2)));
}

/// The same for a permit of that home.
#[test]
fn a_callback_waits_for_a_permit_by_tokios_own_means() {
    let _watched = watched();
    let runtime = one_worker();
    let (said, heard) = mpsc::channel();
    let handle = runtime.handle().clone();
    let (one, two) = runtime.block_on(async {
        let home = Home::current();
        home.set_capacity(2);
        let (one, first) = home.try_future::<()>().unwrap();
        let (two, second) = home.try_future::<()>().unwrap();
        drop(second);
        first.on_done(move |_| {
            let made = tokio::task::block_in_place(|| handle.block_on(home.future::<()>()));
            said.send(made.map(drop)).unwrap();
        });
        (one, two)
    });
    one.complete(()).unwrap();
    drop(two);
    assert_eq!(heard.recv_timeout(LONG), Ok(Ok(())));
}

/// One poll within a callback is no wait yet, and moves the home's work to another task all the same: in its order, and once.
#[test]
fn a_callback_that_looks_at_another_future_leaves_the_order() {
    let _watched = watched();
    for runtime in [one_worker(), current_thread()] {
        let order = Arc::new(Mutex::new(Vec::new()));
        runtime.block_on(async {
            let home = Home::current();
            let (end, ended) = home.try_future::<()>().unwrap();
            let mut end = Some(end);
            let mut completers = Vec::new();
            for number in 0..100 {
                let (completer, future) = home.try_future::<usize>().unwrap();
                completers.push(completer);
                let looked_at = if number % 9 == 0 { home.try_future::<()>().ok() } else { None };
                let (order, end) = (Arc::clone(&order), if number == 99 { end.take() } else { None });
                future.on_done(move |outcome| {
                    if let Some((_completer, mut future)) = looked_at {
                        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
                    }
                    order.lock().unwrap().push(outcome.unwrap());
                    if let Some(end) = end {
                        end.complete(()).unwrap();
                    }
                });
            }
            thread::spawn(move || {
                for (number, completer) in completers.into_iter().enumerate() {
                    completer.complete(number).unwrap();
                }
            });
            ended.await.unwrap();
        });
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn a_panic_in_a_task_of_one_home_is_not_that_of_another() {
    let _watched = watched();
    let outer = ForeignLoop::new(|| ());
    let reached = catch_unwind(AssertUnwindSafe(|| {
        outer.local().spawn(async { panic!("on purpose") }).unwrap();
        outer.run_pending(8)
    }));
    assert_eq!(reached.ok(), Some(1));
}

#[test]
fn a_stop_that_is_asked_for_again_and_again_is_one_envelope() {
    let _watched = watched();
    let home = LocalHome::plain(1);
    for _ in 0..1000 {
        home.inbox().stop();
    }
    assert_eq!(home.turn(1000), 1);
    assert_eq!(home.block_on(std::future::pending::<()>()), Err(WaitRefused::Stopped));
}

#[test]
fn a_home_tells_how_much_is_open_and_waits_there() {
    let home = Home::current();
    home.set_capacity(8);
    let before = home.occupancy();
    assert_eq!((before.open, before.capacity, before.queued), (0, 8, 0));
    let (completer, future) = thread_future::<u32>().unwrap();
    assert_eq!(home.occupancy().open, 1);
    std::thread::spawn(move || completer.complete(7).unwrap()).join().unwrap();
    assert_eq!(home.occupancy().queued, 1, "it has arrived, and nobody has looked");
    assert_eq!(future.wait(), Ok(7));
    let after = home.occupancy();
    assert_eq!((after.open, after.queued), (0, 0));
    assert!(home.is_same(&Home::current()) && !home.is_same(&EventLoop::start("other").unwrap().handle().home()));
}
