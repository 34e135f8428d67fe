//! A `tracing` subscriber that panics with every line and every span of homing's own: nobody's calls notice it. And one that panics
//! with one of lapin's lines, after which there is another connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use homing::{BroadcastFilter, Communicator, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber};
use tracing::{Metadata, span};

const LIMIT: Duration = Duration::from_secs(20);

static LINES: AtomicUsize = AtomicUsize::new(0);

/// What of a span it panics at; with all that follow, where it is the first.
static AT: AtomicUsize = AtomicUsize::new(NOTHING);
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// Which of lapin's next lines it panics at, 0 for none; and how often it did on the communicator thread.
static LAPINS: AtomicUsize = AtomicUsize::new(0);
static WITHIN: AtomicUsize = AtomicUsize::new(0);

const NOTHING: usize = 0;
const MADE: usize = 1;
const RECORDED: usize = 2;
const ENTERED: usize = 3;
const LEFT: usize = 4;
const COPIED: usize = 5;
const DROPPED: usize = 6;
const EVERYTHING: usize = 7;

struct Panics;

fn panic_at(what: usize) {
    let at = AT.load(Ordering::Relaxed);
    if at == what || at == EVERYTHING {
        PANICS.fetch_add(1, Ordering::Relaxed);
        panic!("the subscriber of this test panics with a span");
    }
}

impl tracing::Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        ["homing", "lapin"].iter().any(|target| metadata.target().starts_with(target))
    }
    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        if attributes.metadata().target().starts_with("homing") {
            panic_at(MADE);
        }
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {
        panic_at(RECORDED);
    }
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        if event.metadata().target().starts_with("lapin") {
            let next = LAPINS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| next.checked_sub(1));
            if next == Ok(1) {
                let within = std::thread::current().name().is_some_and(|name| name.ends_with("-communicator"));
                WITHIN.fetch_add(within.into(), Ordering::Relaxed);
                panic!("the subscriber of this test panics with a line of lapin's");
            }
            return;
        }
        LINES.fetch_add(1, Ordering::Relaxed);
        panic!("the subscriber of this test panics with each line");
    }
    fn enter(&self, _: &span::Id) {
        panic_at(ENTERED);
    }
    fn exit(&self, _: &span::Id) {
        panic_at(LEFT);
    }
    fn clone_span(&self, id: &span::Id) -> span::Id {
        panic_at(COPIED);
        id.clone()
    }
    fn try_close(&self, _: span::Id) -> bool {
        panic_at(DROPPED);
        false
    }
}

#[tokio::test]
async fn a_subscriber_that_panics_costs_its_lines_and_spans_and_nothing_else() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let ours = panic.payload().downcast_ref::<&str>().is_some_and(|text| text.contains("of this test"));
        if !ours {
            hook(panic);
        }
    }));
    tracing::subscriber::set_global_default(Panics).unwrap();

    let mut brokers = vec!["memory:".to_owned()];
    brokers.extend(std::env::var("HOMING_TEST_AMQP"));
    for broker in brokers {
        let name = format!("panicking-log-{}", std::process::id());
        let communicator = Communicator::builder(&broker).prefix(&name).connect().await.unwrap();
        let add_one = |number: Option<i64>| number.map(|number| number + 1);
        let server = RpcSubscriber::closure(move |request: RpcRequest| add_one(request.body().as_i64()));
        communicator.add_rpc_subscriber("adder", server).await.unwrap();
        let worker = TaskSubscriber::closure(move |task: TaskRequest| add_one(task.body().as_i64()));
        communicator.add_task_subscriber(worker).await.unwrap();
        let mut broadcasts = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();

        let queue = communicator.task_queue("by-hand").unwrap();
        for at in NOTHING..=EVERYTHING {
            AT.store(at, Ordering::Relaxed);
            let before = PANICS.load(Ordering::Relaxed);
            let answer = communicator.rpc_send("adder", 1).timeout(LIMIT).await.unwrap();
            assert_eq!(answer.as_i64(), Some(2), "{broker} {at}");
            let answer = communicator.task_send(2).timeout(LIMIT).await.unwrap();
            assert_eq!(answer.as_i64(), Some(3), "{broker} {at}");
            communicator.broadcast_send("hello").await.unwrap();
            let heard = tokio::time::timeout(LIMIT, broadcasts.next()).await.unwrap().unwrap().unwrap();
            assert_eq!(heard.body().as_str(), Some("hello"), "{broker} {at}");
            let sent = queue.task_send(4).timeout(LIMIT).send().await.unwrap();
            queue.next_task(LIMIT).await.unwrap().process(move |task| add_one(task.body().as_i64()));
            assert_eq!(sent.await.unwrap().as_i64(), Some(5), "{broker} {at}");
            let given_up = communicator.rpc_send("adder", 1).send().await.unwrap();
            drop(given_up);
            AT.store(NOTHING, Ordering::Relaxed);
            assert!(at == NOTHING || PANICS.load(Ordering::Relaxed) > before, "the test tries nothing at {at}");
        }

        let report = tokio::time::timeout(LIMIT, communicator.close()).await.unwrap().unwrap();
        assert!(report.error.is_none(), "{broker}: {report:?}");
    }
    assert_ne!(LINES.load(Ordering::Relaxed), 0, "no line was written: the test tries nothing");

    let Ok(broker) = std::env::var("HOMING_TEST_AMQP") else { return };
    let name = format!("panicking-lapin-{}", std::process::id());
    let communicator = Communicator::builder(&broker).prefix(&name).connect().await.unwrap();
    let server = RpcSubscriber::closure(move |request: RpcRequest| request.body().as_i64().map(|number| number + 1));
    communicator.add_rpc_subscriber("adder", server).await.unwrap();
    let worker = TaskSubscriber::closure(move |task: TaskRequest| task.body().as_i64().map(|number| number + 1));
    communicator.add_task_subscriber(worker).await.unwrap();
    for line in [1, 2, 3, 5, 8] {
        LAPINS.store(line, Ordering::Relaxed);
        let answer = communicator.task_send(2).timeout(LIMIT).await.unwrap();
        assert_eq!(answer.as_i64(), Some(3), "{line}");
        let answer = communicator.rpc_send("adder", 1).idempotent().timeout(LIMIT).await.unwrap();
        assert_eq!(answer.as_i64(), Some(2), "{line}");
    }
    LAPINS.store(0, Ordering::Relaxed);
    assert_ne!(
        WITHIN.load(Ordering::Relaxed),
        0,
        "no line was written on the communicator thread: the test tries nothing"
    );
    tokio::time::timeout(LIMIT, communicator.close()).await.unwrap().unwrap();
}
