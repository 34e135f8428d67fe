//! The semantics of a real broker, one by one.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Memory, Node};
use crate::broker::url::BrokerUrl;
use crate::broker::{
    Access, Acknowledge, AutoDelete, Body, Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, Durability,
    ExchangeSpec, Lane, Message, Nack, Properties, PublishId, QueueSpec, Routing,
};
use crate::codec::Value;
use crate::error::{ErrorKind, Result};

const LANE: Lane = Lane(1);

struct Client {
    broker: Memory,
    events: UnboundedReceiver<BrokerEvent>,
}

async fn connect(name: &str) -> Client {
    let (say, events) = unbounded_channel();
    let url = BrokerUrl::Memory { name: Some(name.to_owned()) };
    let options = ConnectOptions {
        connect_timeout: Duration::from_secs(1),
        operation_timeout: Duration::from_secs(1),
        heartbeat: None,
        connection_name: String::new(),
    };
    Client { broker: Memory::connect(&url, &options, say).await.unwrap(), events }
}

fn unique() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn queue(name: &str) -> QueueSpec {
    QueueSpec {
        name: name.to_owned(),
        durability: Durability::Durable,
        access: Access::Shared,
        auto_delete: AutoDelete::No,
        message_ttl: None,
        expires: None,
        dead_letter_to: None,
    }
}

fn message(queue: &str, body: i64) -> Message {
    Message {
        exchange: "".into(),
        routing_key: queue.to_owned(),
        properties: Properties::default(),
        body: Body::Value(Arc::new(Value::from(body))),
        routing: Routing::Mandatory,
        durability: Durability::Durable,
    }
}

fn consume(queue: &str, tag: &str, prefetch: u16) -> ConsumeSpec {
    ConsumeSpec {
        queue: queue.to_owned(),
        tag: tag.to_owned(),
        lane: LANE,
        acknowledge: Acknowledge::Manual { prefetch },
    }
}

fn number(delivery: &Delivery) -> i64 {
    match &delivery.body {
        Body::Value(value) => value.as_i64().unwrap(),
        Body::Encoded(_) => panic!("not encoded here"),
    }
}

impl Client {
    fn publish(&self, message: Message) -> Result<()> {
        self.broker.publish(PublishId(0), Rc::new(message)).expect("an outcome at once")
    }

    /// What has been delivered so far. Nothing is on its way: delivering is a part of publishing here.
    fn delivered(&mut self) -> Vec<(String, Delivery)> {
        let mut delivered = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            match event {
                BrokerEvent::Delivery { consumer, delivery } => delivered.push((consumer, delivery)),
                event => panic!("unexpected: {event:?}"),
            }
        }
        delivered
    }

    fn numbers(&mut self) -> Vec<i64> {
        self.delivered().iter().map(|(_, delivery)| number(delivery)).collect()
    }
}

#[tokio::test]
async fn what_a_connection_has_in_hand_goes_back_in_order_when_it_ends() {
    let name = unique();
    let (mut one, mut two) = (connect(&name).await, connect(&name).await);
    one.broker.declare_queue(&queue("q")).await.unwrap();
    one.broker.consume(&consume("q", "c", 2)).await.unwrap();
    for n in 1..=3 {
        two.publish(message("q", n)).unwrap();
    }
    let first = one.delivered();
    assert_eq!(first.len(), 2, "the prefetch");
    one.broker.ack(first[1].1.receipt);
    drop(one);
    two.broker.consume(&consume("q", "c", 0)).await.unwrap();
    let again = two.delivered();
    let seen: Vec<_> = again.iter().map(|(_, delivery)| (number(delivery), delivery.redelivered)).collect();
    assert_eq!(seen, [(1, true), (3, true)]);
}

#[tokio::test]
async fn a_requeued_message_comes_first_and_is_marked() {
    let client = connect(&unique()).await;
    client.broker.declare_queue(&queue("q")).await.unwrap();
    for n in 1..=2 {
        client.publish(message("q", n)).unwrap();
    }
    let first = client.broker.get("q", LANE).await.unwrap().unwrap();
    client.broker.nack(first.receipt, Nack::Requeue);
    // A second time it is ignored.
    client.broker.nack(first.receipt, Nack::Requeue);
    let again = client.broker.get("q", LANE).await.unwrap().unwrap();
    assert_eq!((number(&again), again.redelivered), (1, true));
    client.broker.nack(again.receipt, Nack::Discard);
    assert_eq!(number(&client.broker.get("q", LANE).await.unwrap().unwrap()), 2);
    assert!(client.broker.get("q", LANE).await.unwrap().is_none());
}

#[tokio::test]
async fn consumers_take_turns() {
    let mut client = connect(&unique()).await;
    client.broker.declare_queue(&queue("q")).await.unwrap();
    client.broker.consume(&consume("q", "a", 0)).await.unwrap();
    client.broker.consume(&consume("q", "b", 1)).await.unwrap();
    for n in 0..4 {
        client.publish(message("q", n)).unwrap();
    }
    let tags: Vec<_> = client.delivered().into_iter().map(|(tag, _)| tag).collect();
    assert_eq!(tags, ["a", "b", "a", "a"], "b has its one");
}

#[tokio::test]
async fn messages_expire() {
    let client = connect(&unique()).await;
    let spec = QueueSpec { message_ttl: Some(Duration::from_millis(20)), ..queue("q") };
    client.broker.declare_queue(&spec).await.unwrap();
    client.publish(message("q", 1)).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    client.publish(message("q", 2)).unwrap();
    assert_eq!(number(&client.broker.get("q", LANE).await.unwrap().unwrap()), 2);
}

#[tokio::test]
async fn an_unused_queue_expires_and_a_used_one_does_not() {
    let client = connect(&unique()).await;
    for name in ["used", "unused"] {
        let spec = QueueSpec { expires: Some(Duration::from_millis(20)), ..queue(name) };
        client.broker.declare_queue(&spec).await.unwrap();
    }
    client.broker.consume(&consume("used", "c", 0)).await.unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert!(client.publish(message("used", 1)).is_ok());
    assert_eq!(client.publish(message("unused", 1)).unwrap_err().kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn an_exclusive_queue_is_its_connections_alone_and_goes_with_it() {
    let name = unique();
    let (one, two) = (connect(&name).await, connect(&name).await);
    let spec = QueueSpec { access: Access::Exclusive, ..queue("q") };
    one.broker.declare_queue(&spec).await.unwrap();
    let refused = two.broker.consume(&consume("q", "c", 0)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResourceLocked);
    assert!(two.publish(message("q", 1)).is_ok(), "anybody may send to it");
    drop(one);
    assert_eq!(two.publish(message("q", 1)).unwrap_err().kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn an_exchange_routes_each_message_once_to_a_queue_and_goes_with_its_last_binding() {
    let mut client = connect(&unique()).await;
    let exchange = ExchangeSpec { name: "e".into(), durability: Durability::Transient, auto_delete: AutoDelete::Yes };
    client.broker.declare_exchange(&exchange).await.unwrap();
    client.broker.declare_queue(&queue("q")).await.unwrap();
    client.broker.consume(&consume("q", "c", 0)).await.unwrap();
    for key in ["a.b", "a.*", "#"] {
        client.broker.bind("q", "e", key).await.unwrap();
    }
    let to = |key: &str| Message { exchange: "e".into(), routing_key: key.to_owned(), ..message("", 7) };
    client.publish(to("a.b")).unwrap();
    assert_eq!(client.numbers(), [7]);
    for key in ["a.b", "a.*", "#"] {
        client.broker.unbind("q", "e", key).await.unwrap();
    }
    assert_eq!(client.publish(to("a.b")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_deleted_queue_is_news_to_its_consumers() {
    let name = unique();
    let (mut one, two) = (connect(&name).await, connect(&name).await);
    one.broker.declare_queue(&queue("q")).await.unwrap();
    one.broker.consume(&consume("q", "c", 0)).await.unwrap();
    two.broker.delete_queue("q").await.unwrap();
    assert!(matches!(one.events.try_recv(), Ok(BrokerEvent::ConsumerCancelled { consumer }) if consumer == "c"));
    two.broker.delete_queue("q").await.unwrap();
}

#[tokio::test]
async fn a_queue_with_an_auto_delete_goes_with_its_last_consumer() {
    let client = connect(&unique()).await;
    let spec = QueueSpec { auto_delete: AutoDelete::Yes, ..queue("q") };
    client.broker.declare_queue(&spec).await.unwrap();
    client.broker.consume(&consume("q", "c", 0)).await.unwrap();
    client.broker.cancel("c").await.unwrap();
    assert_eq!(client.publish(message("q", 1)).unwrap_err().kind(), ErrorKind::Unroutable);
}

#[tokio::test]
async fn a_blocked_broker_takes_messages_when_it_is_free_again() {
    let name = unique();
    let mut client = connect(&name).await;
    client.broker.declare_queue(&queue("q")).await.unwrap();
    let node = Node::named(&name);
    node.set_blocked(Some("memory"));
    assert!(matches!(client.events.try_recv(), Ok(BrokerEvent::Blocked { reason }) if reason == "memory"));
    assert!(client.broker.publish(PublishId(7), Rc::new(message("q", 1))).is_none());
    tokio::task::yield_now().await;
    assert!(client.events.try_recv().is_err());
    node.set_blocked(None);
    assert!(matches!(client.events.recv().await, Some(BrokerEvent::Unblocked)));
    let published = client.events.recv().await;
    assert!(matches!(published, Some(BrokerEvent::Published { id: PublishId(7), outcome: Ok(()) })), "{published:?}");
}
