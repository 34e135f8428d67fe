//! What a completion allocates: its cell, when it is made, and nothing after that, whatever kind of home it goes to.

use std::sync::mpsc;

use homing::home::{Completer, EventLoop, Home, LocalHome};

#[global_allocator]
static COUNTED: dhat::Alloc = dhat::Alloc;

/// How many are under way at a time.
const BATCH: usize = 500;
/// Batches until everything that grows has grown.
const WARM: usize = 20;
const MEASURED: usize = 20;

/// Blocks that were allocated: by making the futures, and from then until all were taken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Blocks {
    making: u64,
    completing: u64,
}

fn blocks() -> u64 {
    dhat::HeapStats::get().total_blocks
}

/// The thread that completes: through a channel with room for all, which allocates nothing either.
fn elsewhere() -> (crossbeam_channel::Sender<Completer<u64>>, std::thread::JoinHandle<()>) {
    let (send, come) = crossbeam_channel::bounded::<Completer<u64>>(BATCH);
    let thread = std::thread::spawn(move || {
        for completer in come {
            completer.complete(7).expect("the home lives");
        }
    });
    (send, thread)
}

fn with_elsewhere(run: impl FnOnce(&crossbeam_channel::Sender<Completer<u64>>) -> Blocks) -> Blocks {
    let (send, thread) = elsewhere();
    let counted = run(&send);
    drop(send);
    thread.join().expect("no panic");
    counted
}

/// As many batches as are wanted, each by this; the first are not counted.
macro_rules! batches {
    ($make:expr, $send:expr, $take:expr) => {{
        let mut counted = Blocks::default();
        let mut completers = Vec::with_capacity(BATCH);
        let mut futures = Vec::with_capacity(BATCH);
        for batch in 0..WARM + MEASURED {
            let begun = blocks();
            for _ in 0..BATCH {
                let (completer, future) = $make;
                completers.push(completer);
                futures.push(future);
            }
            let made = blocks();
            for completer in completers.drain(..) {
                $send.send(completer).expect("it lives");
            }
            for future in futures.drain(..) {
                assert_eq!($take(future), 7);
            }
            let taken = blocks();
            if batch >= WARM {
                counted.making += made - begun;
                counted.completing += taken - made;
            }
        }
        counted
    }};
}

fn on_a_runtime() -> Blocks {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    with_elsewhere(|send| {
        let home = Home::of_runtime(runtime.handle());
        runtime.block_on(async {
            // As the macro does it, but for the await.
            let mut counted = Blocks::default();
            let mut completers = Vec::with_capacity(BATCH);
            let mut futures = Vec::with_capacity(BATCH);
            for batch in 0..WARM + MEASURED {
                let begun = blocks();
                for _ in 0..BATCH {
                    let (completer, future) = home.try_future::<u64>().expect("room");
                    completers.push(completer);
                    futures.push(future);
                }
                let made = blocks();
                completers.drain(..).for_each(|completer| send.send(completer).expect("it lives"));
                for future in futures.drain(..) {
                    assert_eq!(future.await, Ok(7));
                }
                let taken = blocks();
                if batch >= WARM {
                    counted.making += made - begun;
                    counted.completing += taken - made;
                }
            }
            counted
        })
    })
}

fn on_a_thread() -> Blocks {
    with_elsewhere(|send| {
        batches!(homing::home::thread_future::<u64>().expect("room"), send, |future: homing::home::LocalFuture<u64>| {
            future.wait().expect("completed")
        })
    })
}

fn on_an_event_loop() -> Blocks {
    let event_loop = EventLoop::start("counted").expect("a thread");
    let counted = with_elsewhere(|send| {
        let (said, heard) = mpsc::channel();
        let send = send.clone();
        let run = move |home: &LocalHome| {
            let here = home.clone();
            said.send(batches!(here.future::<u64>().expect("room"), send, |future: homing::home::LocalFuture<u64>| {
                future.wait().expect("completed")
            }))
            .expect("heard");
        };
        event_loop.run(run).expect("it runs");
        heard.recv().expect("it ends")
    });
    event_loop.stop();
    counted
}

/// One test, for what is counted is the whole process.
#[test]
fn a_completion_allocates_its_cell_and_nothing_more() {
    let _counting = dhat::Profiler::builder().testing().build();
    let cells = (MEASURED * BATCH) as u64;
    // A wait of a plain thread or of a loop has a waker of its own.
    for (home, counted, waker) in
        [("tokio", on_a_runtime(), 0), ("thread", on_a_thread(), 1), ("event loop", on_an_event_loop(), 1)]
    {
        println!("{home}: {counted:?} for {cells}");
        assert_eq!(counted.making, cells, "{home}: one cell each");
        let waits = counted.completing;
        // A queue may still grow now and then.
        assert!(waits <= waker * cells + cells / 100, "{home}: {waits} blocks for {cells} completions");
    }
}
