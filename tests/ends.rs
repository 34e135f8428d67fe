//! Processes that end without closing: they end at once and in order, whatever they had under way, and the broker and their
//! callers are none the worse. Each runs as a child of this test, which is the same program.

mod support;

use std::future::IntoFuture;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use homing::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ErrorKind, HandlerResult, RpcRequest,
};
use homing::{RpcSubscriber, TaskRequest, TaskSubscriber, TestingMode, Value};

use support::{Broker, Suite};

/// In the child: how it is to end.
const HOW: &str = "HOMING_TEST_ENDS";

fn main() -> ExitCode {
    if let Ok(how) = std::env::var(HOW) {
        return child(&how);
    }
    let mut suite = Suite::new();
    for (how, code) in [("returns", 0), ("exits", 3), ("panics", 101), ("leaks", 0), ("ends-its-runtime-first", 0)] {
        suite.both(&format!("a_process_that_{how}_without_close_ends"), move |broker| ends(broker, how, code));
    }
    suite.run()
}

fn connect(url: &str, prefix: &str) -> impl Future<Output = homing::Result<Communicator>> {
    Communicator::builder(url).prefix(prefix).testing(TestingMode::Yes).call_timeout(Duration::from_secs(20)).connect()
}

fn ends(broker: &Broker, how: &'static str, code: i32) {
    let begun = Instant::now();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(HOW, how).env("CHILD_URL", broker.url()).env("CHILD_PREFIX", broker.prefix());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    let Ok(output) = told.recv_timeout(Duration::from_secs(30)) else {
        // It is our own child, and it hangs.
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        panic!("a process that {how} has not ended after {:?}", begun.elapsed());
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(code), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&stdout), "at work\n", "{stderr}");
    if broker.is_memory() {
        return;
    }
    // What it had is free again: its name, and the task that it had in hand.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let communicator = connect(broker.url(), broker.prefix()).await.unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match communicator.rpc_send("holds", 0).await {
                Err(error) if error.kind() == ErrorKind::Unroutable => break,
                other => assert!(Instant::now() < until, "{other:?}"),
            }
        }
        let queue = communicator.task_queue(format!("{}.kept", broker.prefix())).unwrap();
        let task = queue.next_task(Duration::from_secs(20)).await.unwrap();
        assert_eq!(task.body(), &Value::from("a task"));
        assert!(task.request().is_redelivered());
        task.finish(());
        communicator.close().await.unwrap();
    });
}

/// Has calls, a task and broadcasts under way, on both sides, and ends.
fn child(how: &str) -> ExitCode {
    let (url, prefix) = (std::env::var("CHILD_URL").unwrap(), std::env::var("CHILD_PREFIX").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let communicator = runtime.block_on(async {
        let communicator = connect(&url, &prefix).await.unwrap();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let holds = RpcSubscriber::closure(|_: RpcRequest| {
            let (promise, answer) = Answer::promise()?;
            std::mem::forget(promise);
            HandlerResult::Ok(answer)
        });
        communicator.add_rpc_subscriber("holds", holds).await.unwrap();
        let works = TaskSubscriber::future(move |_: TaskRequest| {
            tell.send(()).unwrap();
            std::future::pending::<Value>()
        });
        // Not one of the queues that go with their last consumer.
        let queue = communicator.task_queue(format!("{prefix}.kept")).unwrap();
        queue.add_task_subscriber(works).await.unwrap();
        queue.task_send("a task").no_reply().await.unwrap();
        told.recv().await.unwrap();
        let hear = BroadcastSubscriber::closure(|_: Broadcast| ());
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.unwrap();
        for _ in 0..20 {
            tokio::spawn(communicator.rpc_send("holds", 0).into_future());
        }
        let mut reply = communicator.rpc_send("holds", 0).send().await.unwrap();
        reply.stage().await.unwrap();
        communicator
    });
    println!("at work");
    match how {
        "exits" => std::process::exit(3),
        "panics" => panic!("on purpose"),
        "leaks" => std::mem::forget((communicator, runtime)),
        "ends-its-runtime-first" => {
            drop(runtime);
            drop(communicator);
        }
        _ => {}
    }
    ExitCode::SUCCESS
}
