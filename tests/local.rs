//! `local:`: a broker in one of the processes that use it, without anything installed.
#![cfg(all(unix, feature = "local"))]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use homing::{Communicator, ErrorKind, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// By this a copy of this program is another user of the local broker in the directory that it names.
const OTHER: &str = "HOMING_TEST_LOCAL_DIRECTORY";

/// By this it loses its connection where nothing comes for two seconds.
const PULSE: &str = "HOMING_TEST_LOCAL_PULSE";

/// By this it forks a program that has all its files, and does nothing.
const FORKS: &str = "HOMING_TEST_LOCAL_FORKS";

/// A directory of a test's own, with a short name. It goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("hl-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Directory(path)
    }

    fn url(&self) -> String {
        format!("local:{}", self.0.display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE * 3, test).await.expect("in time") })
}

fn doubling() -> RpcSubscriber {
    RpcSubscriber::closure(|call: RpcRequest| call.body().as_i64().map(|number| number * 2))
}

#[test]
fn several_in_one_process_share_it_and_it_keeps_what_nobody_has_taken() {
    let directory = Directory::new("one");
    run(async {
        let first = Communicator::connect(&directory.url()).await.unwrap();
        let second = Communicator::connect(&directory.url()).await.unwrap();
        first.add_rpc_subscriber("double", doubling()).await.unwrap();
        assert_eq!(second.rpc_send("double", 21).timeout(PATIENCE).await.unwrap(), Value::Int(42));
        second.task_send("kept").no_reply().await.unwrap();
        // The one that hosts it goes first: the other's broker stays, for it is in this process.
        first.close().await.unwrap();
        second.task_send("kept too").no_reply().await.unwrap();
        second.close().await.unwrap();
        assert!(!directory.0.join("socket").exists(), "nobody hosts it any more");

        let third = Communicator::connect(&directory.url()).await.unwrap();
        let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let worker = TaskSubscriber::closure(move |task: TaskRequest| sender.send(task.body().to_string()).is_ok());
        third.add_task_subscriber(worker).await.unwrap();
        let mut tasks = Vec::new();
        while tasks.len() < 2 {
            tasks.push(timeout(PATIENCE, taken.recv()).await.expect("in time").expect("a task"));
        }
        third.drain(PATIENCE).await.unwrap();
        tasks.extend(std::iter::from_fn(|| taken.try_recv().ok()));
        // They run side by side.
        tasks.sort_unstable();
        assert_eq!(tasks, ["\"kept too\"", "\"kept\""], "each once");
    });
}

/// Another process that uses the local broker, and the number of the program that it has forked.
struct Other(Child, Option<libc::pid_t>);

impl Other {
    fn start(directory: &Path) -> Self {
        Self::run(Command::new(std::env::current_exe().expect("this program")).env(OTHER, directory))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command
            .args(["--exact", "another_process", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines().map_while(Result::ok);
        let serving = lines.find_map(|line| line.strip_prefix("serving").map(str::to_owned)).expect("it serves");
        Other(child, serving.trim().parse().ok())
    }

    #[allow(unsafe_code, reason = "the standard library sends no other signal than SIGKILL")]
    fn signal(&self, signal: i32) {
        // SAFETY: the number is that of our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(self.0.id().try_into().expect("a number"), signal) }, 0);
    }

    fn kill(&mut self) {
        self.0.kill().expect("it is there");
        self.0.wait().expect("it has ended");
    }
}

impl Drop for Other {
    #[allow(unsafe_code, reason = "the standard library ends no process but a child")]
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        if let Some(forked) = self.1 {
            // SAFETY: the number is that of a program that waits for nothing but this, and for longer than a test takes.
            unsafe { libc::kill(forked, libc::SIGKILL) };
        }
    }
}

/// Not a test: another process, where a test has started this program for it. It ends with its input.
#[test]
fn another_process() {
    let Some(directory) = std::env::var_os(OTHER) else { return };
    run(async {
        let url = format!("local:{}", Path::new(&directory).display());
        let mut options = Communicator::builder(&url).connect_timeout(PATIENCE);
        if std::env::var_os(PULSE).is_some() {
            options = options.heartbeat(Duration::from_secs(1));
        }
        let communicator = options.connect().await.unwrap();
        communicator.add_rpc_subscriber("double", doubling()).await.unwrap();
        let forked = std::env::var_os(FORKS).map(|_| fork_an_idle_one());
        println!("\nserving {}", forked.map_or_else(String::new, |number| number.to_string()));
        let input = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        input.await.unwrap().unwrap();
        communicator.close().await.unwrap();
    });
    // Nobody reads what the harness would print of it.
    std::process::exit(0);
}

#[allow(unsafe_code, reason = "there is no fork without it")]
fn fork_an_idle_one() -> libc::pid_t {
    // SAFETY: the child calls what a child of a program with threads may call, and never returns. It ends by its alarm.
    unsafe {
        let number = libc::fork();
        if number == 0 {
            // Not the outputs, for whose end somebody waits.
            for standard in 0..3 {
                libc::close(standard);
            }
            // For one that nobody ends.
            libc::alarm(250);
            loop {
                libc::pause();
            }
        }
        number
    }
}

#[test]
fn when_its_host_is_killed_another_takes_over_and_no_task_is_lost() {
    let directory = Directory::new("kill");
    let mut host = Other::start(&directory.0);
    run(async {
        let mine = Communicator::connect(&directory.url()).await.unwrap();
        let other = Communicator::connect(&directory.url()).await.unwrap();
        assert_eq!(mine.rpc_send("double", 4).timeout(PATIENCE).await.unwrap(), Value::Int(8), "between processes");
        // Nobody works on these yet.
        for number in 0..20 {
            mine.task_send(number).no_reply().await.unwrap();
        }
        host.kill();
        // Sent while nobody hosts it, or as soon as somebody does.
        for number in 20..25 {
            mine.task_send(number).no_reply().await.unwrap();
        }
        let done = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&done);
        let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let worker = TaskSubscriber::closure(move |task: TaskRequest| {
            counted.fetch_add(1, Ordering::Relaxed);
            sender.send(task.body().as_i64().unwrap_or(-1)).is_ok()
        });
        other.add_task_subscriber(worker).await.unwrap();
        let mut numbers = Vec::new();
        while numbers.len() < 25 {
            numbers.push(timeout(PATIENCE, taken.recv()).await.expect("in time").expect("a task"));
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..25).collect::<Vec<_>>());
        assert_eq!(done.load(Ordering::Relaxed), 25, "each once");
        other.drain(PATIENCE).await.unwrap();
        mine.close().await.unwrap();
    });
    assert!(!directory.0.join("socket").exists(), "its last host has taken it away");
}

#[test]
fn a_host_that_ends_in_order_hands_over_and_no_call_or_task_is_lost_or_done_twice() {
    const TASKS: i64 = 40;
    const CALLS: i64 = 20;
    let directory = Directory::new("order");
    let mut host = Other::start(&directory.0);
    run(async {
        let mine = Communicator::connect(&directory.url()).await.unwrap();
        let other = Communicator::connect(&directory.url()).await.unwrap();
        let mut events = mine.events();
        assert_eq!(mine.rpc_send("double", 4).timeout(PATIENCE).await.unwrap(), Value::Int(8), "between processes");
        // What is begun before the end is answered behind it.
        let (open, gate) = tokio::sync::watch::channel(false);
        let until_open = move || {
            let mut gate = gate.clone();
            async move { gate.wait_for(|open| *open).await.is_ok() }
        };
        let begun = Arc::new(AtomicU32::new(0));
        let (counted, waits) = (Arc::clone(&begun), until_open.clone());
        let slow = RpcSubscriber::future(move |call: RpcRequest| {
            counted.fetch_add(1, Ordering::Relaxed);
            let open = waits();
            async move {
                open.await;
                call.body().as_i64().map(|number| number + 1)
            }
        });
        other.add_rpc_subscriber("slow", slow).await.unwrap();
        let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let worker = TaskSubscriber::future(move |task: TaskRequest| {
            sender.send(task.body().as_i64().unwrap_or(-1)).expect("the test runs");
            until_open()
        });
        other.add_task_subscriber(worker.with_prefetch(10.try_into().expect("some"))).await.unwrap();
        for number in 0..TASKS / 2 {
            mine.task_send(number).no_reply().await.unwrap();
        }
        let calls: Vec<_> = (0..CALLS)
            .map(|number| {
                let mine = mine.clone();
                tokio::spawn(async move { mine.rpc_send("slow", number).timeout(PATIENCE).await })
            })
            .collect();
        while begun.load(Ordering::Relaxed) < CALLS as u32 {
            tokio::task::yield_now().await;
        }
        // It closes its communicator when its input ends. Publishing goes on meanwhile.
        drop(host.0.stdin.take());
        for number in TASKS / 2..TASKS {
            mine.task_send(number).no_reply().await.unwrap();
        }
        let status = tokio::task::spawn_blocking(move || host.0.wait().expect("it is our child")).await.unwrap();
        assert!(status.success(), "the host ends in order: {status}");
        // Why the connection went, and that there is another host.
        let lost = loop {
            let event = timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
            if let homing::ConnectionEvent::Lost(error) = event {
                break error.to_string();
            }
        };
        assert!(lost.contains("CONNECTION_FORCED"), "its clients are told: {lost}");
        open.send(true).expect("somebody waits");
        for (number, call) in (0..CALLS).zip(calls) {
            assert_eq!(call.await.unwrap().unwrap(), Value::Int(number + 1));
        }
        let mut numbers = Vec::new();
        while numbers.len() < TASKS as usize {
            numbers.push(timeout(PATIENCE, taken.recv()).await.expect("in time").expect("a task"));
        }
        other.drain(PATIENCE).await.unwrap();
        numbers.extend(std::iter::from_fn(|| taken.try_recv().ok()));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..TASKS).collect::<Vec<_>>(), "each once");
        mine.close().await.unwrap();
    });
    assert!(!directory.0.join("socket").exists(), "its last host has taken it away");
}

/// Calls until somebody answers: everybody has to come together first.
async fn doubles(communicator: &Communicator) {
    let answered = async {
        while communicator.rpc_send("double", 4).timeout(Duration::from_secs(2)).await.ok() != Some(Value::Int(8)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, answered).await.expect("they never meet");
}

#[test]
fn a_host_that_is_killed_with_a_forked_program_alive_is_followed_by_another() {
    let directory = Directory::new("orphan");
    let command = &mut Command::new(std::env::current_exe().expect("this program"));
    let mut host = Other::run(command.env(OTHER, &directory.0).env(FORKS, "1"));
    host.kill();
    run(async {
        let mine = Communicator::builder(&directory.url()).connect_timeout(PATIENCE).connect().await.unwrap();
        let also = Communicator::connect(&directory.url()).await.unwrap();
        mine.add_rpc_subscriber("double", doubling()).await.unwrap();
        doubles(&also).await;
        also.close().await.unwrap();
        mine.close().await.unwrap();
    });
}

#[test]
fn a_host_that_loses_its_own_connection_goes_on_hosting() {
    let directory = Directory::new("pulse");
    let command = &mut Command::new(std::env::current_exe().expect("this program"));
    let host = Other::run(command.env(OTHER, &directory.0).env(PULSE, "1"));
    run(async {
        // Without heartbeats, it is lost only if the broker ends it.
        let mine = Communicator::builder(&directory.url()).heartbeat(Duration::ZERO).connect().await.unwrap();
        let mut events = mine.events();
        doubles(&mine).await;
        host.signal(libc::SIGSTOP);
        tokio::time::sleep(Duration::from_secs(4)).await;
        host.signal(libc::SIGCONT);
        tokio::time::sleep(Duration::from_secs(1)).await;
        doubles(&mine).await;
        mine.close().await.unwrap();
        while let Some(event) = events.next().await {
            assert!(!matches!(event, homing::ConnectionEvent::Lost(_)), "the broker has ended: {event:?}");
        }
    });
}

#[test]
fn whoever_comes_after_the_directory_was_removed_meets_those_who_were_there() {
    let removals = [
        ("gone", (|directory| std::fs::remove_dir_all(directory).unwrap()) as fn(&Path)),
        ("closed", |directory| std::fs::remove_file(directory.join("socket")).unwrap()),
    ];
    for (name, remove) in removals {
        let directory = Directory::new(name);
        let _host = Other::start(&directory.0);
        run(async {
            let before = Communicator::connect(&directory.url()).await.unwrap();
            doubles(&before).await;
            remove(&directory.0);
            let late = Communicator::builder(&directory.url()).connect_timeout(PATIENCE).connect().await.unwrap();
            doubles(&late).await;
            doubles(&before).await;
            // In the order in which nobody has to be the next host.
            before.close().await.unwrap();
            late.close().await.unwrap();
        });
    }
}

#[test]
fn a_broker_that_takes_its_time_is_waited_for() {
    let directory = Directory::new("busy");
    std::fs::create_dir(&directory.0).unwrap();
    let socket = directory.0.join("socket");
    let busy = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listen_for_one(&busy);
    // They wait to be let in, and the system lets no more wait.
    let waiting: Vec<_> = (0..8).map_while(|_| connect_now(&socket)).collect();
    assert!(waiting.len() < 8, "the system lets everybody wait");
    run(async {
        let connecting = Communicator::builder(&directory.url()).connect_timeout(PATIENCE).connect();
        let (connected, ()) = tokio::join!(connecting, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            std::fs::remove_file(&socket).unwrap();
            drop((busy, waiting));
        });
        connected.expect("it was busy for a moment only").close().await.unwrap();
    });
}

#[allow(unsafe_code, reason = "the standard library does not let one choose how many may wait")]
fn listen_for_one(listener: &std::os::unix::net::UnixListener) {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is the listener's, which is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
}

/// Connects if that is possible at once.
fn connect_now(socket: &Path) -> Option<tokio::net::UnixStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(tokio::net::UnixStream::connect(socket)).ok()
}

#[test]
fn two_that_come_at_once_agree_on_one_host() {
    let directory = Directory::new("race");
    run(async {
        let url = directory.url();
        let all = (0..8).map(|_| Communicator::connect(&url));
        let all: Vec<_> = futures_util::future::join_all(all).await.into_iter().map(Result::unwrap).collect();
        all[7].add_rpc_subscriber("double", doubling()).await.unwrap();
        for one in &all {
            assert_eq!(one.rpc_send("double", 1).timeout(PATIENCE).await.unwrap(), Value::Int(2));
        }
        for one in all {
            one.close().await.unwrap();
        }
    });
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    run(async {
        let long = format!("local:/tmp/{}", "d".repeat(100));
        let error = Communicator::connect(&long).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("shorter directory"), "{error}");
        for length in 90..=110 {
            let base = std::env::temp_dir().join(format!("hl-{}-", std::process::id()));
            let rest = length - base.as_os_str().len() - "/socket".len();
            let directory = Directory(base.join("d".repeat(rest - 1)));
            let parent = Directory(base);
            // Where it is too long, that is what is wrong.
            if let Err(error) = Communicator::connect(&directory.url()).await.map(drop) {
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{length}: {error}");
                assert!(length > 90, "{error}");
            }
            drop((directory, parent));
        }
        let directory = Directory::new("file");
        std::fs::write(&directory.0, "not a directory").unwrap();
        let error = Communicator::connect(&directory.url()).await.unwrap_err();
        assert!(error.to_string().contains(&*directory.0.to_string_lossy()), "{error}");
        std::fs::remove_file(&directory.0).unwrap();
    });
}
