//! A system that gives no thread: a process of its own comes to its limit while it has lost its connection, and goes on when there
//! are threads again.
#![cfg(target_os = "linux")]

mod support;

use std::process::Command;
use std::time::Duration;

use homing::{Communicator, ConnectionEvent, ConnectionState};

use support::fake_broker::{FakeBroker, Mischief, Then, When};

/// Set for the process that comes to its limit: the URL of its broker.
const URL: &str = "HOMING_TEST_NO_THREADS";
const LIMIT: Duration = Duration::from_secs(60);

/// How many threads and processes this user may have.
#[allow(unsafe_code, reason = "the limit is the system's")]
fn set_limit(limit: Option<libc::rlim_t>) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: it writes to `limits`, which outlives the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limits) }, 0);
    limits.rlim_cur = limit.unwrap_or(limits.rlim_max);
    // SAFETY: it reads from `limits`, which outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limits) }, 0);
}

/// The limit does not hold for root. 65534 is nobody's number.
#[allow(unsafe_code, reason = "the user is the system's")]
fn become_nobody() {
    // SAFETY: neither touches memory of ours.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setuid(65534), 0);
        }
    }
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

/// What the process of its own does. No thread is left that could look a name up.
async fn come_to_the_limit(url: &str) {
    let communicator = Communicator::connect(url).await.unwrap();
    let mut events = communicator.events();
    become_nobody();
    // Of tokio, which keeps those that have nothing to do for 10 seconds.
    support::eventually(|| threads_named("tokio-rt-worker") == 0).await;
    set_limit(Some(1));
    assert!(std::thread::Builder::new().spawn(|| {}).is_err(), "the system gives threads");

    // The broker goes instead of confirming it.
    let sending = tokio::spawn(communicator.broadcast_send("lost"));
    loop {
        match events.next().await {
            // One attempt has failed.
            Some(ConnectionEvent::Reconnecting { attempt, error, .. }) if attempt > 1 => {
                assert!(error.to_string().contains("gave no thread"), "{error}");
                break;
            }
            Some(ConnectionEvent::Closed) | None => panic!("the communicator has ended"),
            Some(_) => {}
        }
    }
    assert!(!communicator.is_closed());
    set_limit(None);
    support::eventually(|| communicator.connection_state() == ConnectionState::Connected).await;
    sending.await.unwrap().unwrap();
    communicator.close().await.unwrap();
}

#[test]
fn a_connection_that_is_lost_while_there_is_no_thread_comes_back_when_there_are() {
    const NAME: &str = "a_connection_that_is_lost_while_there_is_no_thread_comes_back_when_there_are";
    if let Ok(url) = std::env::var(URL) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(async {
            tokio::time::timeout(LIMIT, come_to_the_limit(&url)).await.expect("in time");
        });
    }
    let goes = Mischief { when: When::Publish, says: |_| Vec::new(), then: Then::Closes };
    let broker = FakeBroker::start(goes).unwrap();
    let url = broker.url().replace("127.0.0.1", "localhost");
    let own = std::env::current_exe().unwrap();
    let ended = Command::new(own).args(["--exact", NAME, "--nocapture"]).env(URL, url).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{out}{err}");
    assert!(broker.has_misbehaved());
}
