//! A system that gives no thread: a process of its own comes to its limit, does without where that can be, and goes on when there are
//! threads again.
#![cfg(target_os = "linux")]

mod support;

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use homing::{Communicator, ConnectionEvent, ConnectionState, RpcSubscriber};
#[cfg(feature = "local")]
use homing_broker::server::{Change, DiskStorage, Server};

use support::fake_broker::{FakeBroker, Mischief, Then, When};

/// Set for the process that comes to its limit: the URL of its broker, or what else it needs.
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

/// The system gives no thread any more.
async fn come_to_the_limit() {
    become_nobody();
    // Of tokio, which keeps those that have nothing to do for 10 seconds.
    support::eventually(|| threads_named("tokio-rt-worker") == 0).await;
    set_limit(Some(1));
    assert!(std::thread::Builder::new().spawn(|| {}).is_err(), "the system gives threads");
}

/// Runs a part of the test of this name in a process of its own, with what it needs. In that process it only does that.
fn apart(name: &str, needs: &str, part: impl AsyncFnOnce(String)) {
    if let Ok(needs) = std::env::var(URL) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(LIMIT, part(needs)).await.expect("in time");
        });
        return;
    }
    let own = std::env::current_exe().unwrap();
    let ended = Command::new(own).args(["--exact", name, "--nocapture"]).env(URL, needs).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{out}{err}");
}

/// No thread is left that could look a name up.
async fn lose_the_connection(url: &str) {
    let communicator = Communicator::connect(url).await.unwrap();
    let mut events = communicator.events();
    come_to_the_limit().await;

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
    let goes = Mischief { when: When::Publish, says: |_| Vec::new(), then: Then::Closes };
    let broker = FakeBroker::start(goes).unwrap();
    let url = broker.url().replace("127.0.0.1", "localhost");
    let is_apart = std::env::var_os(URL).is_some();
    apart(NAME, &url, async |url| lose_the_connection(&url).await);
    assert!(is_apart || broker.has_misbehaved());
}

#[test]
fn a_subscriber_that_needs_a_thread_is_not_called_and_its_caller_learns_why() {
    const NAME: &str = "a_subscriber_that_needs_a_thread_is_not_called_and_its_caller_learns_why";
    apart(NAME, "memory:", async |url| {
        let communicator = Communicator::connect(&url).await.unwrap();
        communicator.add_rpc_subscriber("x", RpcSubscriber::blocking(|_| "called")).await.unwrap();
        come_to_the_limit().await;
        let refused = communicator.rpc_send("x", ()).await.unwrap_err();
        assert!(refused.to_string().contains("the subscriber cannot run"), "{refused}");
        set_limit(None);
        assert_eq!(communicator.rpc_send("x", ()).await.unwrap().as_str(), Some("called"));
        communicator.close().await.unwrap();
    });
}

#[test]
fn a_close_does_not_wait_for_a_handler_where_no_thread_could_wait_for_it() {
    const NAME: &str = "a_close_does_not_wait_for_a_handler_where_no_thread_could_wait_for_it";
    apart(NAME, "memory:", async |url| {
        let returned = Arc::new(AtomicBool::new(false));
        let (has_returned, is_returned) = (Arc::clone(&returned), Arc::clone(&returned));
        let (enters, entered) = mpsc::channel();
        let (goes_on, goes) = mpsc::channel();
        // Not this thread, on which a runtime waits.
        let waits = std::thread::spawn(move || {
            let builder = Communicator::builder(&url).close_timeout(Duration::from_millis(10));
            let communicator = builder.connect_blocking().unwrap();
            let subscriber = RpcSubscriber::blocking(move |_| {
                enters.send(()).unwrap();
                std::thread::sleep(LIMIT / 2);
                has_returned.store(true, Ordering::Relaxed);
            });
            communicator.add_rpc_subscriber("stays", subscriber).unwrap();
            let calls = communicator.clone();
            std::thread::spawn(move || calls.rpc_send("stays", ()).wait());
            goes.recv().unwrap();
            communicator.close().unwrap();
            assert!(!is_returned.load(Ordering::Relaxed), "somebody waited for the handler");
        });
        entered.recv_timeout(LIMIT).unwrap();
        come_to_the_limit().await;
        goes_on.send(()).unwrap();
        support::eventually(|| waits.is_finished()).await;
        waits.join().unwrap();
    });
}

/// What writes to the disk has a thread for that elsewhere.
#[test]
#[cfg(feature = "local")]
fn a_broker_without_a_thread_changes_what_it_is_asked_to() {
    const NAME: &str = "a_broker_without_a_thread_changes_what_it_is_asked_to";
    apart(NAME, "", async |_| {
        become_nobody();
        let directory = std::env::temp_dir().join(format!("homing-no-threads-{}", std::process::id()));
        let server = Server::builder().storage(DiskStorage::new(&directory)).start().unwrap();
        let admin = server.admin();
        let user = |name: &str| Change::AddUser { name: name.to_owned(), password: None, tags: vec![] };
        admin.change(user("before")).await.unwrap();
        come_to_the_limit().await;
        admin.change(user("without")).await.unwrap();
        admin.change(Change::RemoveUser { name: "before".to_owned() }).await.unwrap();
        set_limit(None);
        admin.change(user("after")).await.unwrap();
        let users = admin.accounts().await.unwrap().users;
        let names: Vec<_> = users.iter().map(|user| &user.name[..]).collect();
        assert_eq!(names, ["after", "guest", "without"]);
        server.shutdown(LIMIT);
        std::fs::remove_dir_all(&directory).unwrap();
    });
}
