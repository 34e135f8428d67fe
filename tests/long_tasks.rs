//! Tasks that run for longer than a broker lets a delivery wait: on lease, they run once, are answered, and go to another
//! worker when theirs is gone.

mod support;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use homing::{
    ChannelCause, Communicator, CommunicatorBuilder, ConnectionEvent, ErrorKind, Failure, HandlerResult, LongTasks,
    TaskRequest, TaskSubscriber, TestingMode,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use support::proxy::Proxy;
use support::suite::Need;
use support::{Broker, Node, Suite, Tls};

const LEASE: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.rabbitmq("a_task_on_lease_runs_once_and_is_answered", |broker| on_a_runtime(on_lease(broker.clone())));
    suite.rabbitmq("a_task_on_lease_keeps_its_place", |broker| on_a_runtime(keeps_its_place(broker.clone())));
    suite.rabbitmq("a_lease_outlives_a_lost_connection", |broker| on_a_runtime(outlives(broker.clone())));
    suite.rabbitmq("a_task_whose_worker_is_gone_goes_to_another", |broker| on_a_runtime(another(broker.clone())));
    suite.rabbitmq("a_close_gives_a_task_on_lease_back_at_once", |broker| on_a_runtime(given_back(broker.clone())));
    suite.rabbitmq("the_leases_of_many_tasks_do_not_wait_for_each_other", |broker| on_a_runtime(many(broker.clone())));
    suite.rabbitmq("a_failure_on_lease_ends_it_too", |broker| on_a_runtime(tried_again(broker.clone())));
    suite.deadline(Duration::from_secs(400));
    suite.node("a_task_that_is_held_back_outlives_its_sender_and_the_broker", || {
        let node = Node::start(Tls::No).unwrap();
        on_a_runtime(held_back(&node));
    });
    suite.deadline(Duration::from_secs(600));
    suite.with("full: on a node with a delivery timeout of a minute", &[Need::Node, Need::Full], || {
        let node = Node::start(Tls::No).unwrap();
        // As in rabbitmq.conf; channels read it when they are opened.
        node.ctl(&["eval", "application:set_env(rabbit, consumer_timeout, 60000)."]).unwrap();
        on_a_runtime(async {
            tokio::join!(four_minutes(Broker::at(node.url())), beyond_the_timeout(Broker::at(node.url())));
        });
    });
    suite.run()
}

/// With leases, the broker's timeout is not met.
async fn four_minutes(broker: Broker) {
    let long = LongTasks::new().after(Duration::from_secs(20)).lease(Duration::from_secs(30));
    let communicator = Communicator::builder(broker.url())
        .prefix(broker.prefix())
        .task_timeout(Duration::from_secs(500))
        .long_tasks(long)
        .connect()
        .await
        .unwrap();
    let mut events = communicator.events();
    let (work, mut begun, ended) = worker(Duration::from_secs(240));
    communicator.add_task_subscriber(work).await.unwrap();
    assert_eq!(communicator.task_send(7).await.unwrap().as_i64(), Some(7));
    assert!(!begun.recv().await.unwrap());
    assert!(begun.try_recv().is_err(), "it ran once");
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    communicator.close().await.unwrap();
    // No channel was closed, and no ownership was lost.
    let event = events.next().await;
    assert!(matches!(event, Some(ConnectionEvent::Closed)), "{event:?}");
}

/// Without them, the end of the channel is named and survived: the task that runs keeps its redelivery.
async fn beyond_the_timeout(broker: Broker) {
    let communicator = Communicator::builder(broker.url())
        .prefix(broker.prefix())
        .task_timeout(Duration::from_secs(500))
        .connect()
        .await
        .unwrap();
    let mut events = communicator.events();
    let (work, mut begun, ended) = worker(Duration::from_secs(200));
    communicator.add_task_subscriber(work).await.unwrap();
    assert_eq!(communicator.task_send(7).await.unwrap().as_i64(), Some(7));
    assert!(!begun.recv().await.unwrap());
    assert!(begun.try_recv().is_err(), "it ran once");
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    let counts = communicator.counts();
    assert!(counts.tasks_adopted > 0, "{counts:?}");
    communicator.close().await.unwrap();
    let mut is_named = false;
    while let Some(event) = events.next().await {
        if let ConnectionEvent::ChannelClosed { queue, cause, .. } = &event {
            assert!(queue.is_some(), "{event:?}");
            is_named |= *cause == ChannelCause::DeliveryTimeout;
        }
        if matches!(event, ConnectionEvent::Closed) {
            break;
        }
    }
    assert!(is_named, "an event names the delivery timeout");
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn options(url: &str, broker: &Broker) -> CommunicatorBuilder {
    Communicator::builder(url)
        .prefix(broker.prefix())
        .testing(TestingMode::Yes)
        .task_timeout(Duration::from_secs(50))
        .long_tasks(LongTasks::new().after(Duration::from_millis(500)).lease(LEASE))
}

/// A worker that says when it has begun, with whether its task may have run before, and ends after this long.
fn worker(time: Duration) -> (TaskSubscriber, UnboundedReceiver<bool>, Arc<AtomicUsize>) {
    let (begun, has_begun): (UnboundedSender<bool>, _) = unbounded_channel();
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ended);
    let work = TaskSubscriber::future(move |task: TaskRequest| {
        begun.send(task.is_redelivered()).ok();
        let counter = Arc::clone(&counter);
        async move {
            tokio::time::sleep(time).await;
            counter.fetch_add(1, Ordering::SeqCst);
            task.into_body()
        }
    });
    (work, has_begun, ended)
}

/// The queues that are leases, of whomever.
async fn is_empty(communicator: &Communicator) -> bool {
    matches!(
        communicator.default_task_queue().unwrap().try_next().await.map_err(|error| error.kind()),
        Err(ErrorKind::QueueEmpty)
    )
}

async fn on_lease(broker: Broker) {
    let communicator = options(broker.url(), &broker).connect().await.unwrap();
    let (work, mut begun, ended) = worker(LEASE * 2);
    communicator.add_task_subscriber(work).await.unwrap();
    let answer = communicator.task_send(7).await.unwrap();
    assert_eq!(answer.as_i64(), Some(7));
    assert!(!begun.recv().await.unwrap());
    // Were anything of it left on lease, it would come back now.
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert!(begun.try_recv().is_err(), "it ran once");
    assert!(is_empty(&communicator).await);
    communicator.close().await.unwrap();
}

async fn keeps_its_place(broker: Broker) {
    let one = std::num::NonZeroU16::new(1).unwrap();
    let communicator = options(broker.url(), &broker).task_prefetch(one).connect().await.unwrap();
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
    let work = TaskSubscriber::future(move |task: TaskRequest| {
        let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(1500)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            task.into_body()
        }
    });
    communicator.add_task_subscriber(work).await.unwrap();
    let mut replies = Vec::new();
    for n in 0..4 {
        replies.push(communicator.task_send(n).send().await.unwrap());
    }
    for reply in replies {
        reply.await.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "one at a time, on lease or not");
    communicator.close().await.unwrap();
}

async fn outlives(broker: Broker) {
    let proxy = Proxy::before(broker.url()).unwrap();
    let communicator = options(&proxy.url(broker.url()), &broker).connect().await.unwrap();
    let (work, mut begun, ended) = worker(LEASE * 2);
    communicator.add_task_subscriber(work).await.unwrap();
    let reply = communicator.task_send(7).send().await.unwrap();
    begun.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.cut();
    assert_eq!(reply.await.unwrap().as_i64(), Some(7));
    tokio::time::sleep(LEASE + Duration::from_secs(2)).await;
    assert_eq!(ended.load(Ordering::SeqCst), 1);
    assert!(begun.try_recv().is_err(), "it ran once");
    communicator.close().await.unwrap();
}

async fn another(broker: Broker) {
    let proxy = Proxy::before(broker.url()).unwrap();
    let first = options(&proxy.url(broker.url()), &broker).heartbeat(Duration::from_secs(1)).connect().await.unwrap();
    let (begun, mut has_begun) = unbounded_channel();
    let (lost, mut was_lost) = unbounded_channel();
    let work = TaskSubscriber::future(move |task: TaskRequest| {
        begun.send(()).ok();
        let lost = lost.clone();
        async move {
            task.ownership_lost()?.await;
            lost.send(()).ok();
            std::future::pending::<()>().await;
            HandlerResult::Ok(())
        }
    });
    first.add_task_subscriber(work).await.unwrap();
    let sender = options(broker.url(), &broker).connect().await.unwrap();
    let reply = sender.task_send(7).send().await.unwrap();
    has_begun.recv().await.unwrap();
    // On lease, and renewed once at least.
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.refuse();
    proxy.cut();
    let gone = Instant::now();
    let (work, mut begun, _) = worker(Duration::from_millis(100));
    let second = options(broker.url(), &broker).connect().await.unwrap();
    second.add_task_subscriber(work).await.unwrap();
    assert!(begun.recv().await.unwrap(), "it says that it may have run before");
    assert!(gone.elapsed() < LEASE + Duration::from_secs(10), "{:?}", gone.elapsed());
    assert_eq!(reply.await.unwrap().as_i64(), Some(7));
    was_lost.recv().await.unwrap();
    for communicator in [first, second, sender] {
        communicator.close().await.unwrap();
    }
}

async fn given_back(broker: Broker) {
    let first = options(broker.url(), &broker).connect().await.unwrap();
    let (work, mut begun, _) = worker(Duration::from_secs(3600));
    first.add_task_subscriber(work).await.unwrap();
    let sender = options(broker.url(), &broker).connect().await.unwrap();
    let reply = sender.task_send(7).send().await.unwrap();
    begun.recv().await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(first.close().await.unwrap().tasks_returned, 1);
    let task = sender.default_task_queue().unwrap().next_task(Duration::from_millis(500)).await.unwrap();
    assert!(task.request().is_redelivered());
    task.finish("done");
    assert_eq!(reply.await.unwrap().as_str(), Some("done"));
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert!(is_empty(&sender).await, "the lease was ended, too");
    sender.close().await.unwrap();
}

/// Guards: leases that are over while they wait behind the questions for all others, each of which takes a round trip: another
/// worker would run their tasks, too.
async fn many(broker: Broker) {
    const TASKS: i64 = 100;
    const TIME: Duration = Duration::from_secs(9);
    let proxy = Proxy::before(broker.url()).unwrap();
    let long = LongTasks::new().after(Duration::from_millis(500)).lease(TIME);
    let first = options(&proxy.url(broker.url()), &broker).unlimited_task_prefetch().long_tasks(long);
    let first = first.connect().await.unwrap();
    let mut events = first.events();
    proxy.delay(Duration::from_millis(50));
    let (work, mut begun, _) = worker(TIME + Duration::from_secs(4));
    first.add_task_subscriber(work).await.unwrap();
    let second = options(broker.url(), &broker).connect().await.unwrap();
    let mut replies = Vec::new();
    for n in 0..TASKS {
        replies.push(second.task_send(n).send().await.unwrap());
    }
    for _ in 0..TASKS {
        assert!(!begun.recv().await.unwrap());
    }
    let (work, mut taken_over, _) = worker(Duration::ZERO);
    second.add_task_subscriber(work).await.unwrap();
    for (n, reply) in (0..).zip(replies) {
        assert_eq!(reply.await.unwrap().as_i64(), Some(n));
    }
    proxy.pass();
    first.close().await.unwrap();
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::OwnershipLost { .. } => panic!("a lease was over"),
            ConnectionEvent::Closed => break,
            _ => {}
        }
    }
    tokio::time::sleep(TIME).await;
    assert!(taken_over.try_recv().is_err(), "each ran once");
    assert!(proxy.done() > 0);
    second.close().await.unwrap();
}

async fn tried_again(broker: Broker) {
    let attempts = std::num::NonZeroU32::new(2).unwrap();
    let communicator =
        options(broker.url(), &broker).task_attempts(attempts, Duration::from_millis(50)).connect().await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let work = TaskSubscriber::future(move |_: TaskRequest| {
        let run = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            if run == 0 { Err(Failure::TryAgain("not yet".into())) } else { Ok("done") }
        }
    });
    communicator.add_task_subscriber(work).await.unwrap();
    assert_eq!(communicator.task_send(7).await.unwrap().as_str(), Some("done"));
    tokio::time::sleep(LEASE + Duration::from_secs(1)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert!(is_empty(&communicator).await);
    communicator.close().await.unwrap();
}

/// A durable queue holds it, and nobody else: its sender is gone, and the broker is started again on its data.
async fn held_back(node: &Node) {
    let broker = Broker::at(node.url());
    let options = || Communicator::builder(broker.url()).prefix(broker.prefix()).task_timeout(Duration::from_secs(60));
    let sender = options().connect().await.unwrap();
    let begun = std::time::SystemTime::now();
    let wait = Duration::from_secs(8);
    sender.task_send("after").delay(wait).no_reply().await.unwrap();
    sender.task_send("at").at(begun + wait).no_reply().await.unwrap();
    sender.close().await.unwrap();
    node.kill().unwrap();
    node.restart().unwrap();
    let worker = options().connect().await.unwrap();
    let (tell, mut told) = unbounded_channel();
    let work = TaskSubscriber::closure(move |task: TaskRequest| {
        tell.send((task.into_body(), begun.elapsed().unwrap())).ok();
    });
    worker.add_task_subscriber(work).await.unwrap();
    let mut came = Vec::new();
    for _ in 0..2 {
        let (body, after) = told.recv().await.unwrap();
        came.push(body.as_str().unwrap().to_owned());
        // One whose time counts in its queue may begin anew where the broker was away; none comes too early.
        assert!(after + Duration::from_millis(2) >= wait, "{body:?} came after {after:?}");
    }
    came.sort_unstable();
    assert_eq!(came, ["after", "at"]);
    worker.close().await.unwrap();
}
