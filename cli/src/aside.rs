//! Standard error of a command that does work: its lines wait in a bounded queue for a thread that writes them.
//!
//! Whoever reads standard error may stand still: a terminal after Ctrl-S, a pager, a pipe that nobody reads. A write waits then,
//! and with it the work, its control and the connection's heartbeats. Here nothing waits but the thread that writes. Lines that
//! find the queue full are dropped, and their number is reported where they are missing, once something is written again.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How many bytes wait before lines are dropped. One write, however long, may go beyond it.
const MOST_WAITING: usize = 4 << 20;

/// What a write that waits needs besides its bytes.
const OF_EACH: usize = 64;

/// What waits to be written; a cheap clone.
#[derive(Clone)]
pub(crate) struct Aside(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The line that reports how many were dropped.
    reports: fn(u64) -> Vec<u8>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that were dropped behind the last that waits, and are not reported yet.
    dropped: u64,
    is_writing: bool,
}

impl State {
    fn push(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len() + OF_EACH;
        self.waiting.push_back(bytes);
    }

    fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.dropped == 0 && !self.is_writing
    }
}

impl Aside {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub(crate) fn start(write: impl Fn(&[u8]) + Send + 'static, reports: fn(u64) -> Vec<u8>) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), reports });
        let own = Arc::clone(&shared);
        std::thread::Builder::new().name("homing-errors".to_owned()).spawn(move || {
            loop {
                write(&own.next());
            }
        })?;
        Ok(Aside(shared))
    }

    /// Has this written: at once, later, or never, and without a wait.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if state.bytes >= MOST_WAITING {
            state.dropped += lines(bytes);
            return;
        }
        if state.dropped > 0 {
            let report = (self.0.reports)(std::mem::take(&mut state.dropped));
            state.push(report);
        }
        state.push(bytes.to_vec());
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, for this long at most.
    pub(crate) fn finish(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.0.lock();
        while !state.is_over() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written next; what was handed out before has been written.
    fn next(&self) -> Vec<u8> {
        let mut state = self.lock();
        state.is_writing = false;
        loop {
            let next = match state.waiting.pop_front() {
                Some(bytes) => {
                    state.bytes -= bytes.len() + OF_EACH;
                    Some(bytes)
                }
                // Guards: a number that nobody is told, where no further line comes.
                None if state.dropped > 0 => Some((self.reports)(std::mem::take(&mut state.dropped))),
                None => None,
            };
            if let Some(bytes) = next {
                state.is_writing = true;
                return bytes;
            }
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lines(bytes: &[u8]) -> u64 {
    let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(ends.max(1)).unwrap_or(u64::MAX)
}

/// Writes to standard error, and waits for as long as that takes; what cannot be written is lost. Without the lock of the
/// standard library, which others may need meanwhile.
pub(crate) fn write_waiting(mut bytes: &[u8]) {
    let errors = io::stderr();
    while !bytes.is_empty() {
        match nix::unistd::write(&errors, bytes) {
            Ok(0) => return,
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            // Somebody who has it as well wants no write to wait.
            Err(Errno::EAGAIN) => {
                let mut polled = [PollFd::new(errors.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut polled, PollTimeout::NONE);
            }
            // Nobody reads it any more, or the disk is full.
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn report(dropped: u64) -> Vec<u8> {
        format!("{dropped} dropped\n").into_bytes()
    }

    /// A writer that stands still until it may go on.
    fn held() -> (Aside, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let (go, may_go) = mpsc::channel::<()>();
        let (sender, written) = mpsc::channel();
        let write = move |bytes: &[u8]| {
            // Until the sender is gone.
            let _ = may_go.recv();
            let _ = sender.send(bytes.to_vec());
        };
        (Aside::start(write, report).unwrap(), go, written)
    }

    fn until_one_is_in_hand(aside: &Aside) {
        while !aside.0.lock().is_writing {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reader_that_stands_still_holds_nobody_up_and_every_line_is_written_or_counted() {
        let (aside, go, written) = held();
        let line = [b"x".repeat(999), b"\n".to_vec()].concat();
        let many = 3 * MOST_WAITING / line.len();
        aside.write(&line);
        until_one_is_in_hand(&aside);
        for _ in 1..many {
            aside.write(&line);
        }
        // It waits for no longer than it is asked to.
        aside.finish(Duration::from_millis(10));
        drop(go);
        aside.finish(Duration::from_secs(60));
        let all: Vec<Vec<u8>> = written.try_iter().collect();
        let whole = all.iter().filter(|bytes| **bytes == line).count();
        assert!(whole * line.len() <= MOST_WAITING + line.len(), "{whole} lines waited");
        let last = String::from_utf8_lossy(&all[all.len() - 1]).into_owned();
        assert_eq!(last, format!("{} dropped\n", many - whole), "told although no further line came");
        assert_eq!(all.len(), whole + 1);
    }

    #[test]
    fn the_number_stands_where_the_lines_are_missing() {
        let (aside, go, written) = held();
        let half = b"y".repeat(MOST_WAITING / 2);
        // One is in the hands of the thread, two fill the queue.
        aside.write(b"first\n");
        until_one_is_in_hand(&aside);
        for _ in 0..2 {
            aside.write(&half);
        }
        aside.write(b"lost\nlost\n");
        aside.write(b"lost without an end");
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        // The first half is in the hands of the thread, and there is room again.
        while aside.0.lock().bytes >= MOST_WAITING {
            std::thread::yield_now();
        }
        aside.write(b"last\n");
        drop(go);
        aside.finish(Duration::from_secs(60));
        let all: Vec<String> = written.try_iter().map(|bytes| String::from_utf8(bytes).unwrap()).collect();
        assert_eq!((all[0].as_str(), all.len()), ("first\n", 5));
        assert_eq!(all[3..], ["3 dropped\n", "last\n"]);
    }
}
