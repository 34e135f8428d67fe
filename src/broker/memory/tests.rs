//! What is around the engine: connections, time that passes by itself, named brokers that go, and faults. What a broker does
//! is tested at the engine, and by the conformance suite.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::lanes::MOST_BYTES;
use super::{Memory, Node, fault};
use crate::broker::samples::queue;
use crate::broker::url::BrokerUrl;
use crate::broker::{
    Access, Acknowledge, Body, Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, Durability, Kept, Lane,
    Message, Origin, Properties, PublishId, QueueSpec, Routing,
};
use crate::codec::Value;
use crate::error::{ErrorKind, Result};

const LANE: Lane = Lane(1);
const SECOND: Duration = Duration::from_secs(1);
/// How long a message or a queue lives where that is to be over soon.
const SOON: Duration = Duration::from_millis(60);

struct Client {
    broker: Memory,
    events: UnboundedReceiver<BrokerEvent>,
}

async fn try_connect(name: Option<&str>) -> Result<Client> {
    let (send, events) = unbounded_channel();
    let url = BrokerUrl::Memory { name: name.map(str::to_owned) };
    let options = ConnectOptions {
        connect_timeout: SECOND,
        operation_timeout: SECOND,
        heartbeat: None,
        connection_name: String::new(),
        kept: Kept::default(),
    };
    Ok(Client { broker: Memory::connect(&url, &options, send).await?, events })
}

async fn connect(name: &str) -> Client {
    try_connect(Some(name)).await.unwrap()
}

fn unique() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn lease(to: &str) -> QueueSpec {
    QueueSpec { message_ttl: Some(SOON), dead_letter_to: Some(to.to_owned()), ..queue("lease") }
}

fn message(queue: &str, body: i64) -> Message {
    Message {
        exchange: "".into(),
        routing_key: queue.into(),
        properties: Properties::default(),
        body: Body::Value(Arc::new(Value::from(body))),
        routing: Routing::Mandatory,
        durability: Durability::Durable,
        origin: Origin::Sent,
    }
}

fn number(delivery: &Delivery) -> i64 {
    match &delivery.body {
        Body::Value(value) => value.as_i64().unwrap(),
        Body::Encoded(_) => panic!("not encoded here"),
    }
}

impl Client {
    async fn declare(&self, spec: &QueueSpec) {
        self.broker.declare_queue(spec).await.unwrap();
    }

    async fn send(&self, queue: &str, body: i64) -> Result<()> {
        self.publish(queue, body).expect("an outcome at once")
    }

    fn publish(&self, queue: &str, body: i64) -> Option<Result<()>> {
        let id = PublishId(u64::try_from(body).expect("a number"));
        self.broker.publish(id, Rc::new(message(queue, body)))
    }

    /// The outcome of a publish that was held.
    fn outcome(&mut self, body: i64) -> Result<()> {
        match self.events.try_recv() {
            Ok(BrokerEvent::Published { id, outcome }) if Ok(id.0) == u64::try_from(body) => outcome,
            event => panic!("unexpected: {event:?}"),
        }
    }

    async fn consume(&self, queue: &str) {
        let acknowledge = Acknowledge::Manual { prefetch: 0 };
        let spec = ConsumeSpec { queue: queue.to_owned(), tag: "c".to_owned(), lane: LANE, acknowledge };
        self.broker.consume(&spec).await.unwrap();
    }

    /// The next delivery, with a bound against hanging.
    async fn delivery(&mut self) -> i64 {
        match tokio::time::timeout(60 * SECOND, self.events.recv()).await.expect("in time") {
            Some(BrokerEvent::Delivery { delivery, .. }) => number(&delivery),
            event => panic!("unexpected: {event:?}"),
        }
    }
}

#[tokio::test]
async fn a_message_expires_and_is_dead_lettered_though_nobody_asks() {
    let mut client = try_connect(None).await.unwrap();
    client.declare(&queue("work")).await;
    client.declare(&lease("work")).await;
    client.consume("work").await;
    // After the timer has gone to sleep with nothing to do.
    tokio::time::sleep(SOON).await;
    let begun = tokio::time::Instant::now();
    client.send("lease", 1).await.unwrap();
    assert_eq!(client.delivery().await, 1);
    let took = begun.elapsed();
    assert!((SOON..30 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test]
async fn the_timer_is_handed_on_when_the_session_that_has_it_goes() {
    let name = unique();
    let (first, mut second) = (connect(&name).await, connect(&name).await);
    second.declare(&queue("work")).await;
    second.declare(&lease("work")).await;
    second.consume("work").await;
    second.send("lease", 1).await.unwrap();
    tokio::time::sleep(SOON / 2).await;
    drop(first);
    assert_eq!(second.delivery().await, 1);
    second.send("lease", 2).await.unwrap();
    assert_eq!(second.delivery().await, 2);
}

#[test]
fn the_timer_is_handed_on_when_its_runtime_ends_before_its_session() {
    let name = unique();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (short, long) = (runtime(), runtime());
    let _first = short.block_on(connect(&name));
    long.block_on(async {
        let mut second = connect(&name).await;
        second.declare(&queue("work")).await;
        second.declare(&lease("work")).await;
        second.consume("work").await;
        short.shutdown_background();
        second.send("lease", 1).await.unwrap();
        assert_eq!(second.delivery().await, 1);
    });
}

#[tokio::test]
async fn a_private_broker_leaves_nothing() {
    let client = try_connect(None).await.unwrap();
    let node = Arc::downgrade(&client.broker.node);
    client.declare(&lease("none")).await;
    client.send("lease", 1).await.unwrap();
    tokio::task::yield_now().await;
    drop(client);
    assert!(node.upgrade().is_none(), "neither the timer nor anybody else keeps it");
    tokio::task::yield_now().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test]
async fn what_nobody_takes_is_bounded() {
    let mut client = connect(&unique()).await;
    client.declare(&queue("tasks")).await;
    client.declare(&QueueSpec { access: Access::Exclusive, ..queue("replies") }).await;
    // One memory for all of them, so that the test takes little.
    let large = bytes::Bytes::from(vec![0; 64 << 20]);
    let send = |client: &Client, queue: &str| {
        let large = Message { body: Body::Encoded(large.clone()), ..message(queue, 0) };
        client.broker.publish(PublishId(0), Rc::new(large)).expect("an outcome at once")
    };
    let taken = (0..100).take_while(|_| send(&client, "tasks").is_ok()).count();
    assert_eq!(taken, MOST_BYTES / (64 << 20) - 1, "all that fit, and each has properties beside its body");
    let refused = send(&client, "tasks").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    assert!(refused.to_string().contains("nobody has taken"), "{refused}");
    send(&client, "replies").unwrap();
    client.broker.delete_queue("replies").await.unwrap();
    let first = client.broker.get("tasks", LANE).await.unwrap().unwrap();
    send(&client, "tasks").expect_err("it is held until it is acknowledged");
    client.broker.ack(first.receipt);
    send(&client, "tasks").unwrap();
    client.broker.delete_queue("tasks").await.unwrap();
    assert!(client.events.try_recv().is_err(), "nothing was lost by a refusal");
}

#[tokio::test]
async fn a_named_broker_stays_for_its_queues_and_goes_without_them() {
    let (empty, full, expiring, down) = (unique(), unique(), unique(), unique());
    let client = connect(&empty).await;
    client.declare(&QueueSpec { access: Access::Exclusive, ..queue("own") }).await;
    let another = connect(&empty).await;
    drop(another);
    assert!(Node::is_kept(&empty), "somebody is there");
    drop(client);
    assert!(!Node::is_kept(&empty));

    let client = connect(&full).await;
    client.declare(&queue("q")).await;
    client.send("q", 1).await.unwrap();
    client.broker.close(SECOND).await.unwrap();
    drop(client);
    let client = connect(&full).await;
    assert_eq!(number(&client.broker.get("q", LANE).await.unwrap().unwrap()), 1);
    client.broker.delete_queue("q").await.unwrap();
    drop(client);
    assert!(!Node::is_kept(&full));

    let client = connect(&expiring).await;
    client.declare(&QueueSpec { expires: Some(SOON), ..queue("q") }).await;
    drop(client);
    assert!(Node::is_kept(&expiring));
    tokio::time::sleep(2 * SOON).await;
    drop(connect(&unique()).await);
    assert!(!Node::is_kept(&expiring), "it is seen to when somebody comes to any of them");

    fault::set_down(&down, true);
    drop(connect(&unique()).await);
    assert_eq!(try_connect(Some(&down)).await.err().unwrap().kind(), ErrorKind::Connection);
    fault::set_down(&down, false);
    drop(connect(&down).await);
    assert!(!Node::is_kept(&down));
}

#[tokio::test]
async fn a_blocked_broker_takes_messages_in_order_when_it_is_free_again() {
    let name = unique();
    let mut client = connect(&name).await;
    client.declare(&queue("q")).await;
    fault::set_blocked(&name, Some("memory"));
    assert!(matches!(client.events.try_recv(), Ok(BrokerEvent::Blocked { reason }) if reason == "memory"));
    assert!((0..5).all(|body| client.publish("q", body).is_none()));
    assert!(client.events.try_recv().is_err());
    fault::set_blocked(&name, None);
    assert!(matches!(client.events.try_recv(), Ok(BrokerEvent::Unblocked)));
    (0..5).for_each(|body| client.outcome(body).unwrap());
    for body in 0..5 {
        assert_eq!(number(&client.broker.get("q", LANE).await.unwrap().unwrap()), body);
    }
}

#[tokio::test]
async fn a_publish_that_is_held_ends_with_its_connection() {
    let name = unique();
    let (mut one, mut two) = (connect(&name).await, connect(&name).await);
    two.declare(&queue("q")).await;
    fault::set_blocked(&name, Some("disk"));
    assert!(one.publish("q", 1).is_none() && two.publish("q", 2).is_none());
    one.broker.close(SECOND).await.unwrap();
    assert_eq!(one.send("q", 3).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    fault::set_blocked(&name, None);
    assert!(matches!(two.events.try_recv(), Ok(BrokerEvent::Blocked { .. })));
    assert!(matches!(two.events.try_recv(), Ok(BrokerEvent::Unblocked)));
    two.outcome(2).unwrap();
    assert_eq!(number(&two.broker.get("q", LANE).await.unwrap().unwrap()), 2);
    assert!(two.broker.get("q", LANE).await.unwrap().is_none());
    assert!(matches!(one.events.try_recv(), Ok(BrokerEvent::Blocked { .. })));
    assert!(one.events.try_recv().is_err(), "nothing follows a close");
}

#[tokio::test]
async fn a_lost_connection_is_told_once_and_last() {
    let name = unique();
    let mut client = connect(&name).await;
    client.declare(&QueueSpec { access: Access::Exclusive, ..queue("own") }).await;
    client.consume("own").await;
    fault::lose_connections(&name);
    fault::lose_connections(&name);
    assert!(matches!(client.events.recv().await, Some(BrokerEvent::Lost { .. })));
    assert!(client.events.recv().await.is_none(), "its sender is gone too");
    assert_eq!(client.broker.get("own", LANE).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
}

/// Sessions on threads of their own, that come and go while others send.
#[test]
fn from_many_threads_everything_arrives_once() {
    const SENDERS: i64 = 3;
    const EACH: i64 = 500;
    let name = unique();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let keeper = runtime();
    let client = keeper.block_on(async {
        let client = connect(&name).await;
        client.declare(&queue("q")).await;
        client
    });
    let seen = parking_lot::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let name = &name;
            scope.spawn(move || {
                runtime().block_on(async {
                    let client = connect(name).await;
                    for body in 0..EACH {
                        client.send("q", sender * EACH + body).await.unwrap();
                    }
                });
            });
        }
        for _ in 0..2 {
            let (name, seen) = (&name, &seen);
            scope.spawn(move || {
                runtime().block_on(async {
                    while seen.lock().len() < usize::try_from(SENDERS * EACH).unwrap() {
                        let mut client = connect(name).await;
                        client.consume("q").await;
                        for _ in 0..20 {
                            let Ok(Some(event)) = tokio::time::timeout(SECOND / 100, client.events.recv()).await else {
                                break;
                            };
                            let BrokerEvent::Delivery { delivery, .. } = event else { panic!("{event:?}") };
                            client.broker.ack(delivery.receipt);
                            assert!(seen.lock().insert(number(&delivery)), "acknowledged twice");
                        }
                        // What was not acknowledged goes back.
                    }
                });
            });
        }
    });
    assert!(keeper.block_on(client.broker.get("q", LANE)).unwrap().is_none());
}
