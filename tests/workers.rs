//! Workers and callers that die or stand still with work under way: processes of their own, whose runs stand in a file that each line of is
//! synced to.

mod support;

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::future::IntoFuture;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use homing::{
    Communicator, CommunicatorBuilder, ErrorKind, HandlerResult, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber, TestingMode,
};

use support::{Broker, Suite};

/// In the child: the file of runs; or that it is no worker but a caller.
const LEDGER: &str = "HOMING_TEST_WORKER";
const CALLER: &str = "caller";
const TASKS: i64 = 40;
const PREFETCH: u16 = 20;
const HOLD: Duration = Duration::from_millis(1500);
const LONG: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Ok(ledger) = std::env::var(LEDGER) {
        return if ledger == CALLER { caller() } else { child(ledger.into()) };
    }
    let mut suite = Suite::new();
    suite.rabbitmq("the_tasks_of_a_worker_that_is_killed_are_run_by_another", killed);
    suite.rabbitmq("a_worker_that_stood_still_is_told_that_its_tasks_are_another_s", stopped);
    suite.rabbitmq("what_a_caller_that_is_killed_has_asked_for_is_done_once_and_hangs_nobody", caller_killed);
    suite.run()
}

fn options(url: &str, prefix: &str) -> CommunicatorBuilder {
    Communicator::builder(url)
        .prefix(prefix)
        .testing(TestingMode::Yes)
        .task_timeout(LONG)
        .heartbeat(Duration::from_secs(2))
}

fn child(ledger: PathBuf) -> ExitCode {
    let (url, prefix) = (std::env::var("CHILD_URL").unwrap(), std::env::var("CHILD_PREFIX").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let prefetch = PREFETCH.try_into().unwrap();
        let communicator = options(&url, &prefix).task_prefetch(prefetch).connect().await.unwrap();
        let ledger = Arc::new(ledger);
        let work = TaskSubscriber::future(move |task: TaskRequest| {
            let ledger = Arc::clone(&ledger);
            async move {
                let id = task.body().as_i64().unwrap_or(-1);
                let away = task.ownership_lost()?;
                write(&ledger, "begins", id, if task.is_redelivered() { "marked" } else { "plain" });
                let told = tokio::spawn({
                    let ledger = Arc::clone(&ledger);
                    async move {
                        let mut away = away;
                        (&mut away).await;
                        // It resolves at the task's end, too.
                        if away.is_lost() {
                            write(&ledger, "told", id, "-");
                        }
                    }
                });
                tokio::time::sleep(HOLD).await;
                write(&ledger, "ends", id, "-");
                drop(told);
                HandlerResult::Ok(id)
            }
        });
        communicator.add_task_subscriber(work).await.unwrap();
        println!("ready");
        // Until it is killed, or its parent has gone.
        let mut line = String::new();
        tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await.unwrap().unwrap();
        communicator.close().await.unwrap();
    });
    ExitCode::SUCCESS
}

/// Calls and sends tasks, and waits for what it will not live to hear.
fn caller() -> ExitCode {
    let (url, prefix) = (std::env::var("CHILD_URL").unwrap(), std::env::var("CHILD_PREFIX").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let communicator = options(&url, &prefix).connect().await.unwrap();
        let mut replies = Vec::new();
        for id in 0..TASKS / 2 {
            replies.push(communicator.rpc_send("hold", id).send().await.unwrap());
            replies.push(communicator.task_send(id).send().await.unwrap());
        }
        println!("ready");
        let mut line = String::new();
        tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut line)).await.unwrap().unwrap();
        drop(replies);
    });
    ExitCode::SUCCESS
}

fn write(ledger: &PathBuf, what: &str, id: i64, mark: &str) {
    let mut file = OpenOptions::new().append(true).open(ledger).unwrap();
    // One write: lines of several processes do not mix.
    file.write_all(format!("{what} {id} {mark} {}\n", std::process::id()).as_bytes()).unwrap();
    file.sync_data().unwrap();
}

/// A line of the file.
struct Line {
    what: String,
    id: i64,
    is_marked: bool,
    process: u32,
}

fn read(ledger: &PathBuf) -> Vec<Line> {
    let text = std::fs::read_to_string(ledger).unwrap();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, id, mark, process] = words[..] else { panic!("{line:?}") };
            Line {
                what: what.to_owned(),
                id: id.parse().unwrap(),
                is_marked: mark == "marked",
                process: process.parse().unwrap(),
            }
        })
        .collect()
}

struct Worker(Child);

impl Worker {
    fn start(broker: &Broker, ledger: impl AsRef<std::ffi::OsStr>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(LEDGER, ledger).env("CHILD_URL", broker.url()).env("CHILD_PREFIX", broker.prefix());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Worker(child)
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Both are given their share; then something is done to the first. Returns what stands in the file when every task is
/// answered, and which tasks the first had in hand.
fn through(broker: &Broker, fault: impl FnOnce(&Worker)) -> (Vec<Line>, HashSet<i64>, u32, Worker) {
    let ledger = std::env::temp_dir().join(support::unique("workers"));
    std::fs::File::create(&ledger).unwrap();
    let (first, second) = (Worker::start(broker, &ledger), Worker::start(broker, &ledger));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let in_hand = runtime.block_on(async {
        let sender = options(broker.url(), broker.prefix()).connect().await.unwrap();
        let mut replies = Vec::new();
        for id in 0..TASKS {
            replies.push((id, tokio::spawn(sender.task_send(id).into_future())));
        }
        eventually("every task is in hand", || {
            read(&ledger).iter().filter(|line| line.what == "begins").count() == usize::try_from(TASKS).unwrap()
        })
        .await;
        let in_hand: HashSet<i64> = read(&ledger)
            .iter()
            .filter(|line| line.what == "begins" && line.process == first.id())
            .map(|line| line.id)
            .collect();
        assert!(in_hand.len() >= 10, "the first has its share: {in_hand:?}");
        fault(&first);
        for (id, reply) in replies {
            let answer = reply.await.unwrap().unwrap();
            assert_eq!(answer.as_i64(), Some(id));
        }
        // None is left, and none comes again.
        let empty = sender.default_task_queue().unwrap().next_task(Duration::from_secs(1)).await;
        assert_eq!(empty.unwrap_err().kind(), ErrorKind::QueueEmpty);
        sender.close().await.unwrap();
        in_hand
    });
    let id = first.id();
    drop(second);
    let lines = read(&ledger);
    std::fs::remove_file(&ledger).unwrap();
    (lines, in_hand, id, first)
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < until, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every run after a task's first one says that it may have run before; returns how many there were.
fn again(lines: &[Line]) -> usize {
    let mut runs: HashMap<i64, usize> = HashMap::new();
    let mut again = 0;
    for line in lines.iter().filter(|line| line.what == "begins") {
        let run = runs.entry(line.id).or_insert(0);
        *run += 1;
        if *run > 1 {
            again += 1;
            assert!(line.is_marked, "task {} ran twice without a word", line.id);
        }
    }
    assert_eq!(runs.len(), usize::try_from(TASKS).unwrap(), "none is lost");
    again
}

fn killed(broker: &Broker) {
    let (lines, in_hand, first, _worker) = through(broker, |first| first.signal("KILL"));
    let ended: HashSet<i64> =
        lines.iter().filter(|line| line.what == "ends" && line.process == first).map(|line| line.id).collect();
    let unfinished: HashSet<i64> = in_hand.difference(&ended).copied().collect();
    assert!(unfinished.len() >= 5, "it was killed at work");
    assert!(again(&lines) >= unfinished.len());
    for id in unfinished {
        let by_other = |line: &&Line| line.what == "ends" && line.id == id && line.process != first;
        assert_eq!(lines.iter().filter(by_other).count(), 1, "task {id} was brought to its end once, by the other");
    }
}

fn caller_killed(broker: &Broker) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let patience = Duration::from_secs(1);
        let server = options(broker.url(), broker.prefix()).reply_timeout(patience).connect().await.unwrap();
        let runs = Arc::new(std::sync::Mutex::new((Vec::new(), Vec::new())));
        let (calls, tasks) = (Arc::clone(&runs), Arc::clone(&runs));
        let hold = RpcSubscriber::future(move |request: RpcRequest| {
            calls.lock().unwrap().0.push(request.body().as_i64().unwrap_or(-1));
            async { tokio::time::sleep(HOLD).await }
        });
        server.add_rpc_subscriber("hold", hold).await.unwrap();
        let work = TaskSubscriber::future(move |task: TaskRequest| {
            tasks.lock().unwrap().1.push(task.body().as_i64().unwrap_or(-1));
            async { tokio::time::sleep(HOLD).await }
        });
        server.add_task_subscriber(work).await.unwrap();
        let caller = Worker::start(broker, CALLER);
        let sent: Vec<i64> = (0..TASKS / 2).collect();
        let all = usize::try_from(TASKS).unwrap();
        eventually("everything is in hand", || {
            let runs = runs.lock().unwrap();
            runs.0.len() + runs.1.len() == all
        })
        .await;
        caller.signal("KILL");
        // Each answer finds nobody, is tried again for its time, and is counted.
        eventually("no answer is on its way any more", || server.counts().replies_unroutable == all as u64).await;
        let other = options(broker.url(), broker.prefix()).connect().await.unwrap();
        other.rpc_send("hold", -7).await.unwrap();
        other.task_send(-7).await.unwrap();
        let (mut calls, mut tasks) = runs.lock().unwrap().clone();
        calls.sort_unstable();
        tasks.sort_unstable();
        let expected: Vec<i64> = std::iter::once(-7).chain(sent).collect();
        assert_eq!((&calls, &tasks), (&expected, &expected), "each was run once");
        other.close().await.unwrap();
        assert_eq!(server.close().await.unwrap().requests_ended, 0);
    });
}

fn stopped(broker: &Broker) {
    let (lines, in_hand, first, worker) = through(broker, |first| {
        first.signal("STOP");
        // The broker waits for two heartbeats, and looks now and then.
        std::thread::sleep(Duration::from_secs(10));
        first.signal("CONT");
    });
    drop(worker);
    let told: HashSet<i64> =
        lines.iter().filter(|line| line.what == "told" && line.process == first).map(|line| line.id).collect();
    let run_again: HashSet<i64> =
        lines.iter().filter(|line| line.what == "begins" && line.is_marked).map(|line| line.id).collect();
    assert!(again(&lines) >= 5, "the other took its tasks over");
    let untold: Vec<&i64> = run_again.difference(&told).filter(|id| in_hand.contains(id)).collect();
    // One whose handler had ended before the loss was seen needs no telling.
    for id in untold {
        let ends = lines.iter().any(|line| line.what == "ends" && line.id == *id && line.process == first);
        assert!(ends, "the handler of task {id} was not told");
    }
}
