//! No thread is started, and none ends, while the process forks.
//!
//! Guards: what a child of a fork inherits of threads that are just being started or are at their end, in the systems beneath.
//! - glibc hands the memory of threads that have ended to new ones. One that is being given such memory has freed what the
//!   former one had in it, and not noted that yet. The child takes the memory of all threads for free, hands this out as it
//!   starts a thread, and frees the same once more: it ends by SIGABRT (seen with 2.36).
//! - The standard library takes a lock of the process as a thread begins and as it ends. The child inherits it locked, and none
//!   of its threads begins or ends.
//!
//! Each was seen once in some thousand forks beside a thread that connects in a loop. Whoever forks holds this meanwhile; threads of
//! others are theirs to hold back.

use std::cell::RefCell;
use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::lock::{Condvar, Mutex};

/// So long a fork waits for threads that are being started or are at their end, which takes them less than a millisecond.
// Guards: a child of a fork of which nobody has told us, with a thread of its parent's on the list that is not there.
const LIMIT: Duration = Duration::from_secs(1);

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// How many threads are being started or are at their end.
    under_way: usize,
    forks: bool,
}

static TURNS: Turns = Turns { state: Mutex::new(State { under_way: 0, forks: false }), changed: Condvar::new() };

/// A thread that is being started, or is at its end.
struct UnderWay;

impl UnderWay {
    /// Waits for a fork to be over.
    fn begin() -> Self {
        let until = Instant::now() + LIMIT;
        let mut state = TURNS.state.lock();
        while state.forks && Instant::now() < until {
            state = TURNS.changed.wait(state, Some(until));
        }
        state.under_way += 1;
        UnderWay
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = TURNS.state.lock();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        TURNS.changed.notify_all();
    }
}

thread_local! {
    /// Dropped with this thread's values, which is behind what the standard library does at its end.
    static ENDS: RefCell<Option<UnderWay>> = const { RefCell::new(None) };
}

/// Starts a thread, when no fork is under way.
///
/// # Errors
/// When the system gives none.
pub fn spawn<T: Send + 'static>(
    builder: Builder,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let begins = UnderWay::begin();
    builder.spawn(move || {
        drop(begins);
        // However it ends.
        let _ends = AtTheEnd;
        run()
    })
}

struct AtTheEnd;

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let ends = UnderWay::begin();
        let _ = ENDS.try_with(|place| place.replace(Some(ends)));
    }
}

/// While this is there, no thread of homing's is started or ends. It goes with the thread that forks, in the child too.
#[derive(Debug)]
pub struct ForkUnderWay(());

impl ForkUnderWay {
    /// Waits for threads that are just being started or are at their end.
    #[must_use]
    pub fn begin() -> Self {
        let until = Instant::now() + LIMIT;
        let mut state = TURNS.state.lock();
        // Guards: threads that are started one after the other, for which a fork would wait for ever.
        state.forks = true;
        while state.under_way > 0 && Instant::now() < until {
            state = TURNS.changed.wait(state, Some(until));
        }
        ForkUnderWay(())
    }
}

impl Drop for ForkUnderWay {
    fn drop(&mut self) {
        TURNS.state.lock().forks = false;
        TURNS.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread::Builder;

    use super::{ForkUnderWay, TURNS, spawn};

    /// One test, for there is one process.
    #[test]
    fn no_thread_is_started_and_none_ends_while_a_fork_is_under_way() {
        static OVER: AtomicBool = AtomicBool::new(false);
        let (go, goes) = mpsc::channel::<()>();
        let ends = spawn(Builder::new(), move || _ = goes.recv()).expect("a thread");
        let forks = ForkUnderWay::begin();
        assert_eq!(TURNS.state.lock().under_way, 0);
        drop(go);
        let asks = std::thread::spawn(|| spawn(Builder::new(), || OVER.load(Ordering::SeqCst)));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!ends.is_finished(), "it ended meanwhile");
        OVER.store(true, Ordering::SeqCst);
        drop(forks);
        ends.join().expect("it ends");
        let started = asks.join().expect("it asks").expect("a thread");
        assert!(started.join().expect("it runs"), "it ran while it was held back");
    }
}
