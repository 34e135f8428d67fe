//! What a handler's fault leaves in the log: one warning, with identifiers and without a body.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use homing::home::EventLoop;
use homing::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, Failure, HandlerError, HandlerResult,
    RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value,
};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, span};

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "the-body-of-a-message";

/// The lines of level WARN and above.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Log {
    /// The one line that came since the last look.
    async fn one(&self) -> String {
        let until = std::time::Instant::now() + LIMIT;
        while self.0.lock().unwrap().is_empty() {
            assert!(std::time::Instant::now() < until, "nothing was logged");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let lines = std::mem::take(&mut *self.0.lock().unwrap());
        assert_eq!(lines.len(), 1, "{lines:?}");
        let line = lines.concat();
        assert!(line.starts_with("WARN"), "{line}");
        assert!(!line.contains(SECRET), "{line}");
        line
    }
}

async fn failing_calls(log: &Log, communicator: &Communicator) {
    let unreadable = RpcSubscriber::typed(|n: i64| async move { HandlerResult::Ok(n) });
    let later = RpcSubscriber::closure(|_: RpcRequest| Answer::later(async { Err::<Value, _>("in the end") }));
    for (name, subscriber, part) in [
        ("fails", RpcSubscriber::closure(|_: RpcRequest| Err::<Value, _>("on\npurpose")), r"on\npurpose"),
        ("panics", RpcSubscriber::closure(|_: RpcRequest| -> Value { panic!("at the disco") }), "at the disco"),
        ("blocks", RpcSubscriber::blocking(|_: RpcRequest| -> Value { panic!("in a thread") }), "in a thread"),
        ("later", later, "in the end"),
        ("unreadable", unreadable, "a string, expected i64"),
    ] {
        communicator.add_rpc_subscriber(name, subscriber).await.unwrap();
        communicator.rpc_send(name, SECRET).timeout(LIMIT).await.unwrap_err();
        let line = log.one().await;
        assert!(line.contains(part) && line.contains(&format!("identifier={name}")), "{line}");
        assert!(line.contains("correlation_id=\"") && !line.contains("Some("), "{line}");
        assert!(!line.contains('\n'), "a line is a line: {line}");
    }
    let ordinary =
        RpcSubscriber::closure(|_: RpcRequest| Err::<Value, _>(HandlerError::exception("as usual").without_warning()));
    communicator.add_rpc_subscriber("ordinary", ordinary).await.unwrap();
    communicator.rpc_send("ordinary", SECRET).timeout(LIMIT).await.unwrap_err();
    let cancels = RpcSubscriber::closure(|_: RpcRequest| Err::<Value, _>(Failure::Cancelled));
    communicator.add_rpc_subscriber("cancels", cancels).await.unwrap();
    communicator.rpc_send("cancels", SECRET).timeout(LIMIT).await.unwrap_err();
}

async fn failing_tasks(log: &Log, communicator: &Communicator) {
    let queue = communicator.task_queue("failing").unwrap();
    let name = homing::Identifier::new("worker").unwrap();
    let work = TaskSubscriber::closure(|task: TaskRequest| match task.attempt() {
        _ if task.body().is_null() => Err::<Value, _>(Failure::Unreadable("not this one".into())),
        _ => panic!("at work"),
    });
    queue.add_task_subscriber(work.with_identifier(name.clone())).await.unwrap();
    queue.task_send(SECRET).timeout(LIMIT).await.unwrap_err();
    let line = log.one().await;
    assert!(line.contains("at work") && line.contains("identifier=\"worker\""), "{line}");
    assert!(line.contains("message_id=\"") && line.contains("attempt=1") && !line.contains("Some("), "{line}");
    queue.task_send(()).timeout(LIMIT).await.unwrap_err();
    let line = log.one().await;
    assert!(line.contains("quarantine") && line.contains("not this one"), "{line}");
    queue.remove_task_subscriber(&name).await.unwrap();
    queue.task_send(SECRET).no_reply().await.unwrap();
    queue.next_task(LIMIT).await.unwrap().process(|_| Err::<Value, _>("by hand"));
    assert!(log.one().await.contains("by hand"));
}

async fn failing_broadcasts(log: &Log, communicator: &Communicator) {
    let fails = BroadcastSubscriber::closure(|_: Broadcast| Err::<Value, _>("of no use"))
        .with_identifier(homing::Identifier::new("listener").unwrap());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), fails).await.unwrap();
    communicator.broadcast_send(SECRET).correlation_id("mark").await.unwrap();
    let line = log.one().await;
    assert!(line.contains("of no use") && line.contains("identifier=listener") && line.contains("mark"), "{line}");
}

async fn a_home_that_ends(log: &Log, communicator: &Communicator) {
    let event_loop = EventLoop::start("ends").unwrap();
    let bound = communicator.bound_to(&event_loop.handle().home());
    bound.add_rpc_subscriber("left", RpcSubscriber::closure(|_: RpcRequest| ())).await.unwrap();
    event_loop.stop();
    let line = log.one().await;
    assert!(line.contains("identifier=left") && line.contains("home has ended"), "{line}");
}

/// One test, for the log is the process's.
#[test]
fn each_fault_of_a_handler_is_one_warning_with_identifiers() {
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let communicator = Communicator::connect("memory:").await.unwrap();
        failing_calls(&log, &communicator).await;
        failing_tasks(&log, &communicator).await;
        failing_broadcasts(&log, &communicator).await;
        a_home_that_ends(&log, &communicator).await;
        communicator.close().await.unwrap();
    });
    assert!(log.0.lock().unwrap().is_empty());
}
