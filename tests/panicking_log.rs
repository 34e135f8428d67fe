//! A `tracing` subscriber that panics with every line of homing's own: nobody's calls notice it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use homing::{BroadcastFilter, Communicator, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber};
use tracing::{Metadata, span};

const LIMIT: Duration = Duration::from_secs(20);

static LINES: AtomicUsize = AtomicUsize::new(0);

struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("homing")
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        LINES.fetch_add(1, Ordering::Relaxed);
        panic!("the subscriber of this test panics with each line");
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn a_subscriber_that_panics_costs_its_lines_and_nothing_else() {
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

        let answer = communicator.rpc_send("adder", 1).timeout(LIMIT).await.unwrap();
        assert_eq!(answer.as_i64(), Some(2), "{broker}");
        let answer = communicator.task_send(2).timeout(LIMIT).await.unwrap();
        assert_eq!(answer.as_i64(), Some(3), "{broker}");
        communicator.broadcast_send("hello").await.unwrap();
        let heard = tokio::time::timeout(LIMIT, broadcasts.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(heard.body().as_str(), Some("hello"), "{broker}");

        let report = tokio::time::timeout(LIMIT, communicator.close()).await.unwrap().unwrap();
        assert!(report.error.is_none(), "{broker}: {report:?}");
    }
    assert_ne!(LINES.load(Ordering::Relaxed), 0, "no line was written: the test tries nothing");
}
