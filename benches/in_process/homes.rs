//! A completion from another thread, to each kind of home, beside the channels that a program would use instead.
//!
//! The way out is the same for all: a crossbeam channel to a thread that completes whatever comes.

use std::hint::black_box;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use homing::home::{Completer, EventLoop, Home, HomeFuture, LocalHome};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// What a batch has.
const BATCH: usize = 10_000;

/// What is to be completed.
enum Work {
    Ours(Completer<u64>),
    Oneshot(oneshot::Sender<u64>),
    Crossbeam(crossbeam_channel::Sender<u64>),
    Std(mpsc::Sender<u64>),
    /// Said when it is reached: what was sent before is completed.
    Done(crossbeam_channel::Sender<()>),
}

/// The thread that completes.
struct Elsewhere {
    work: Option<crossbeam_channel::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Elsewhere {
    fn start() -> Self {
        let (work, come) = crossbeam_channel::unbounded();
        let thread = std::thread::spawn(move || {
            for work in come {
                // Whoever waited may have gone.
                match work {
                    Work::Ours(completer) => drop(completer.complete(7)),
                    Work::Oneshot(sender) => drop(sender.send(7)),
                    Work::Crossbeam(sender) => drop(sender.send(7)),
                    Work::Std(sender) => drop(sender.send(7)),
                    Work::Done(sender) => drop(sender.send(())),
                }
            }
        });
        Elsewhere { work: Some(work), thread: Some(thread) }
    }

    fn work(&self) -> crossbeam_channel::Sender<Work> {
        self.work.clone().expect("it lives")
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.work.take();
        self.thread.take().map(JoinHandle::join).transpose().expect("no panic");
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

fn send(to: &crossbeam_channel::Sender<Work>, work: Work) {
    to.send(work).unwrap_or_else(|_| unreachable!("it lives"));
}

fn ours_here(home: &Home) -> (Completer<u64>, HomeFuture<u64>) {
    home.try_future().expect("room")
}

/// Runs a task on a loop of ours and waits for what it returns.
fn on_loop<F: Future<Output = Duration> + 'static>(
    event_loop: &EventLoop,
    task: impl FnOnce(LocalHome) -> F + Send + 'static,
) -> Duration {
    let (said, heard) = mpsc::channel();
    let run = move |home: &LocalHome| {
        let task = task(home.clone());
        home.spawn(async move { said.send(task.await).expect("heard") }).expect("room");
    };
    event_loop.run(run).expect("it runs");
    heard.recv().expect("it ends")
}

/// One completion under way at a time: what a wake-up costs.
pub fn one_at_a_time(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("completion, one at a time");
    let elsewhere = Elsewhere::start();
    let runtime = runtime();
    group.bench_function("to a tokio home", |bencher| {
        let out = elsewhere.work();
        bencher.to_async(&runtime).iter(|| {
            let (completer, future) = ours_here(&Home::current());
            send(&out, Work::Ours(completer));
            async { future.await.expect("completed") }
        });
    });
    group.bench_function("tokio's oneshot", |bencher| {
        let out = elsewhere.work();
        bencher.to_async(&runtime).iter(|| {
            let (sender, receiver) = oneshot::channel();
            send(&out, Work::Oneshot(sender));
            async { receiver.await.expect("completed") }
        });
    });
    let event_loop = EventLoop::start("bench").expect("a thread");
    group.bench_function("to an event loop", |bencher| {
        bencher.iter_custom(|times| {
            let out = elsewhere.work();
            on_loop(&event_loop, move |home| async move {
                let begun = Instant::now();
                for _ in 0..times {
                    let (completer, future) = home.future().expect("room");
                    send(&out, Work::Ours(completer));
                    black_box(future.await.expect("completed"));
                }
                begun.elapsed()
            })
        });
    });
    group.bench_function("to a thread", |bencher| {
        let out = elsewhere.work();
        bencher.iter(|| {
            let (completer, future) = homing::home::thread_future().expect("room");
            send(&out, Work::Ours(completer));
            future.wait().expect("completed")
        });
    });
    group.bench_function("crossbeam channel", |bencher| {
        let out = elsewhere.work();
        let (sender, receiver) = crossbeam_channel::unbounded();
        bencher.iter(|| {
            send(&out, Work::Crossbeam(sender.clone()));
            receiver.recv().expect("completed")
        });
    });
    group.bench_function("std channel", |bencher| {
        let out = elsewhere.work();
        let (sender, receiver) = mpsc::channel();
        bencher.iter(|| {
            send(&out, Work::Std(sender.clone()));
            receiver.recv().expect("completed")
        });
    });
    group.finish();
}

/// Ten thousand under way: what each costs, from its making to its taking.
pub fn batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("completion, 10,000 in flight");
    each_batch(&mut group, Measured::Whole);
    group.finish();
}

/// Ten thousand that have arrived before the home looks: what the home does for each.
pub fn drains(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("drain of 10,000");
    each_batch(&mut group, Measured::Drain);
    group.finish();
}

/// Which part of a batch is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Measured {
    Whole,
    /// From when everything has been completed.
    Drain,
}

impl Measured {
    /// The instant from which it counts.
    fn begin(self, begun: Instant, out: &crossbeam_channel::Sender<Work>) -> Instant {
        if self == Measured::Whole {
            return begun;
        }
        let (sender, done) = crossbeam_channel::bounded(1);
        send(out, Work::Done(sender));
        done.recv().expect("it lives");
        Instant::now()
    }
}

fn each_batch(group: &mut BenchmarkGroup<'_, WallTime>, measured: Measured) {
    group.throughput(Throughput::Elements(BATCH as u64)).sample_size(30);
    let elsewhere = Elsewhere::start();
    let runtime = runtime();
    group.bench_function("to a tokio home", |bencher| {
        let out = elsewhere.work();
        bencher.iter_custom(|times| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                let home = Home::current();
                for _ in 0..times {
                    let begun = Instant::now();
                    let mut futures = Vec::with_capacity(BATCH);
                    for _ in 0..BATCH {
                        let (completer, future) = ours_here(&home);
                        send(&out, Work::Ours(completer));
                        futures.push(future);
                    }
                    let begun = measured.begin(begun, &out);
                    for future in futures {
                        black_box(future.await.expect("completed"));
                    }
                    took += begun.elapsed();
                }
                took
            })
        });
    });
    group.bench_function("tokio's oneshot", |bencher| {
        let out = elsewhere.work();
        bencher.iter_custom(|times| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    let begun = Instant::now();
                    let mut futures = Vec::with_capacity(BATCH);
                    for _ in 0..BATCH {
                        let (sender, receiver) = oneshot::channel();
                        send(&out, Work::Oneshot(sender));
                        futures.push(receiver);
                    }
                    let begun = measured.begin(begun, &out);
                    for future in futures {
                        black_box(future.await.expect("completed"));
                    }
                    took += begun.elapsed();
                }
                took
            })
        });
    });
    let event_loop = EventLoop::start("bench").expect("a thread");
    group.bench_function("to an event loop", |bencher| {
        bencher.iter_custom(|times| {
            let out = elsewhere.work();
            on_loop(&event_loop, move |home| async move {
                let mut took = Duration::ZERO;
                for _ in 0..times {
                    let begun = Instant::now();
                    let mut futures = Vec::with_capacity(BATCH);
                    for _ in 0..BATCH {
                        let (completer, future) = home.future().expect("room");
                        send(&out, Work::Ours(completer));
                        futures.push(future);
                    }
                    let begun = measured.begin(begun, &out);
                    for future in futures {
                        black_box(future.await.expect("completed"));
                    }
                    took += begun.elapsed();
                }
                took
            })
        });
    });
    group.bench_function("to a thread", |bencher| {
        let out = elsewhere.work();
        bencher.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let begun = Instant::now();
                let mut futures = Vec::with_capacity(BATCH);
                for _ in 0..BATCH {
                    let (completer, future) = homing::home::thread_future().expect("room");
                    send(&out, Work::Ours(completer));
                    futures.push(future);
                }
                let begun = measured.begin(begun, &out);
                for future in futures {
                    black_box(future.wait().expect("completed"));
                }
                took += begun.elapsed();
            }
            took
        });
    });
    group.bench_function("crossbeam channel", |bencher| {
        let out = elsewhere.work();
        let (sender, receiver) = crossbeam_channel::unbounded();
        bencher.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let begun = Instant::now();
                for _ in 0..BATCH {
                    send(&out, Work::Crossbeam(sender.clone()));
                }
                let begun = measured.begin(begun, &out);
                for _ in 0..BATCH {
                    black_box(receiver.recv().expect("completed"));
                }
                took += begun.elapsed();
            }
            took
        });
    });
    group.bench_function("std channel", |bencher| {
        let out = elsewhere.work();
        let (sender, receiver) = mpsc::channel();
        bencher.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                let begun = Instant::now();
                for _ in 0..BATCH {
                    send(&out, Work::Std(sender.clone()));
                }
                let begun = measured.begin(begun, &out);
                for _ in 0..BATCH {
                    black_box(receiver.recv().expect("completed"));
                }
                took += begun.elapsed();
            }
            took
        });
    });
}
