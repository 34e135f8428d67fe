//! A test that hangs says which it is, and fails.

use std::io::Write;
use std::panic::Location;
use std::sync::mpsc;
use std::time::Duration;

/// How long a test may take until it counts as hung, unless `HOMING_WATCH_SECONDS` says otherwise.
const LIMIT: u64 = 120;

/// While it lives, the test that made it is watched.
#[must_use = "a test is watched while this lives"]
pub struct Watched {
    /// Dropped with the test, which is how the watcher hears of its end.
    _end: mpsc::Sender<()>,
}

/// Watches the calling test: when it has not ended in time, its name is said and the process aborted, since a thread that
/// hangs cannot be ended.
#[track_caller]
pub fn watched() -> Watched {
    let place = Location::caller();
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let limit = std::env::var("HOMING_WATCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(LIMIT);
    let (end, ended) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        if ended.recv_timeout(Duration::from_secs(limit)) == Err(mpsc::RecvTimeoutError::Timeout) {
            // Not by `eprintln`, which the test harness catches and would take along.
            let _ = writeln!(std::io::stderr(), "\ntest {name} hangs: at {place}, not done after {limit} s");
            std::process::abort();
        }
    });
    Watched { _end: end }
}
