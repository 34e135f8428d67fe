//! What a broker has to do, as checks of the trait [`Broker`] by its behaviour. One set for each broker there is: a broker that
//! passes can stand in for another. [`Ground`] is what a new one has to bring.
//!
//! `memory:` always; RabbitMQ where its URL is in `HOMING_TEST_AMQP`.

use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::samples::{message, text};
use super::url::BrokerUrl;
use super::{
    Access, Acknowledge, AutoDelete, Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, Durability,
    ExchangeSpec, Kept, Lane, Message, Nack, Properties, PublishId, QueueSpec, Receipt, Routing,
};
use crate::error::{ErrorKind, Result};

/// One broker, to which several connections are made.
pub(crate) trait Ground {
    type Broker: Broker;

    /// A connection.
    fn connect(&self) -> impl Future<Output = Client<Self::Broker>>;
}

/// A connection and what it has been sent.
pub(crate) struct Client<B> {
    broker: B,
    events: UnboundedReceiver<BrokerEvent>,
    /// What came while an outcome was waited for.
    kept: VecDeque<BrokerEvent>,
    published: u64,
}

impl<B> Client<B> {
    async fn next_event(&mut self) -> Option<BrokerEvent> {
        match self.kept.pop_front() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }
}

/// A broker that a URL leads to.
pub(crate) struct At<B> {
    url: BrokerUrl,
    kind: std::marker::PhantomData<B>,
}

impl<B> At<B> {
    fn new(url: &str) -> Self {
        At { url: BrokerUrl::parse(url).expect("a URL"), kind: std::marker::PhantomData }
    }
}

impl<B: Broker> Ground for At<B> {
    type Broker = B;

    async fn connect(&self) -> Client<B> {
        let options = ConnectOptions {
            connect_timeout: LONG,
            operation_timeout: LONG,
            heartbeat: None,
            connection_name: "homing conformance".to_owned(),
            kept: Kept::default(),
        };
        let (send, events) = unbounded_channel();
        Client {
            broker: B::connect(&self.url, &options, send).await.expect("a connection"),
            events,
            kept: VecDeque::new(),
            published: 0,
        }
    }
}

/// A bound against hanging.
const LONG: Duration = Duration::from_secs(10);
/// Nothing has come when this has passed.
const QUIET: Duration = Duration::from_millis(100);
const LANE: Lane = Lane(1);

fn unique(name: &str) -> String {
    format!("homing-conformance.{name}.{}", uuid::Uuid::new_v4().simple())
}

/// Shared, and gone soon when a check fails.
fn queue(name: &str) -> QueueSpec {
    QueueSpec {
        name: unique(name),
        durability: Durability::Transient,
        access: Access::Shared,
        auto_delete: AutoDelete::No,
        message_ttl: None,
        expires: Some(Duration::from_secs(60)),
        dead_letter_to: None,
        priorities: None,
        max_length: None,
    }
}

fn exchange(name: &str) -> ExchangeSpec {
    ExchangeSpec { name: unique(name).as_str().into(), durability: Durability::Transient, auto_delete: AutoDelete::Yes }
}

impl<B: Broker> Client<B> {
    async fn declare(&self, spec: QueueSpec) -> String {
        self.broker.declare_queue(&spec).await.expect("a queue");
        spec.name
    }

    async fn publish(&mut self, message: Message) -> Result<()> {
        self.published += 1;
        let id = PublishId(self.published);
        if let Some(outcome) = self.broker.publish(id, Rc::new(message)) {
            return outcome;
        }
        loop {
            let event = tokio::time::timeout(LONG, self.events.recv()).await.expect("an outcome in time");
            match event.expect("an outcome") {
                BrokerEvent::Published { id: of, outcome } if of == id => return outcome,
                event => self.kept.push_back(event),
            }
        }
    }

    /// The bodies 1 to `count`, to a queue.
    async fn fill(&mut self, queue: &str, count: usize) {
        for body in 1..=count {
            self.publish(message("", queue, &body.to_string())).await.expect("routed");
        }
    }

    async fn consume(&self, queue: &str, tag: &str, lane: Lane, prefetch: u16) -> Result<()> {
        let acknowledge = Acknowledge::Manual { prefetch };
        let spec = ConsumeSpec { queue: queue.to_owned(), tag: tag.to_owned(), lane, acknowledge };
        self.broker.consume(&spec).await
    }

    async fn get(&self, queue: &str) -> Option<Delivery> {
        self.broker.get(queue, LANE).await.expect("an answer")
    }

    async fn event(&mut self) -> BrokerEvent {
        tokio::time::timeout(LONG, self.next_event()).await.expect("an event in time").expect("an event")
    }

    async fn delivery(&mut self) -> Delivery {
        self.delivery_to().await.1
    }

    async fn delivery_to(&mut self) -> (String, Delivery) {
        match self.event().await {
            BrokerEvent::Delivery { consumer, delivery } => (consumer.to_string(), delivery),
            event => panic!("unexpected: {event:?}"),
        }
    }

    /// The next deliveries: body, and whether it is marked as redelivered.
    async fn next(&mut self, count: usize) -> Vec<(String, bool)> {
        let mut got = Vec::new();
        for _ in 0..count {
            let delivery = self.delivery().await;
            got.push((text(&delivery), delivery.redelivered));
        }
        got
    }

    async fn quiet(&mut self) {
        if let Ok(event) = tokio::time::timeout(QUIET, self.next_event()).await {
            panic!("unexpected: {event:?}");
        }
    }

    /// Waits until a queue is not there any more.
    async fn is_gone(&mut self, queue: &str) {
        let begun = std::time::Instant::now();
        while self.publish(message("", queue, "?")).await.is_ok() {
            assert!(begun.elapsed() < LONG, "the queue is still there");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        self.broker.close(LONG).await.expect("an end");
    }
}

fn marked(bodies: &[&str], redelivered: bool) -> Vec<(String, bool)> {
    bodies.iter().map(|body| ((*body).to_owned(), redelivered)).collect()
}

async fn each_publish_has_its_own_outcome(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("outcomes")).await;
    let nowhere = unique("nowhere");
    client.publish(message("", &name, "routed")).await.expect("routed");
    client
        .publish(Message { routing: Routing::Optional, ..message("", &nowhere, "") })
        .await
        .expect("dropped in silence");
    let returned = client.publish(message("", &nowhere, "")).await.expect_err("no queue takes it");
    assert_eq!(returned.kind(), ErrorKind::Unroutable);
    let missing = client.publish(message(&unique("exchange"), "k", "")).await.expect_err("there is no such exchange");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    client.publish(message("", &name, "after")).await.expect("a failed publish costs no other");
    assert_eq!(text(&client.get(&name).await.expect("a message")), "routed");
    assert_eq!(text(&client.get(&name).await.expect("a message")), "after");
    assert!(client.get(&name).await.is_none());
    client.end().await;
}

async fn properties_arrive_as_they_were_sent(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("properties")).await;
    let properties = Properties {
        message_id: Some("m".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("r".into()),
        ..Properties::default()
    }
    .with_text("homing-x", "y");
    client.publish(Message { properties: properties.clone(), ..message("", &name, "") }).await.expect("routed");
    let got = client.get(&name).await.expect("a message");
    assert_eq!((got.properties, got.redelivered), (properties, false));
    client.end().await;
}

async fn a_topic_exchange_routes_each_message_once_to_a_queue(ground: impl Ground) {
    let mut client = ground.connect().await;
    let spec = exchange("topic");
    let to = |key: &str| message(&spec.name, key, key);
    client.broker.declare_exchange(&spec).await.expect("an exchange");
    client.broker.declare_exchange(&spec).await.expect("the same again");
    let (all, some) = (client.declare(queue("all")).await, client.declare(queue("some")).await);
    for key in ["#", "a.b", "a.*"] {
        client.broker.bind(&all, &spec.name, key).await.expect("a binding");
    }
    client.broker.bind(&some, &spec.name, "a.#.z").await.expect("a binding");
    for key in ["a.b", "a.z", "a.b.c.z", "b"] {
        client.publish(to(key)).await.expect("routed");
    }
    for key in ["a.b", "a.z", "a.b.c.z", "b"] {
        assert_eq!(text(&client.get(&all).await.expect("a message")), key);
    }
    for key in ["a.z", "a.b.c.z"] {
        assert_eq!(text(&client.get(&some).await.expect("a message")), key);
    }
    assert!(client.get(&all).await.is_none() && client.get(&some).await.is_none());
    for key in ["#", "a.b", "a.*", "never"] {
        client.broker.unbind(&all, &spec.name, key).await.expect("no binding");
    }
    let unbound = client.publish(to("a.b")).await.expect_err("nothing is bound for it");
    assert_eq!(unbound.kind(), ErrorKind::Unroutable);
    client.broker.delete_queue(&some).await.expect("deleted");
    let gone = client.publish(to("a.z")).await.expect_err("the exchange went with its last binding");
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    client.end().await;
}

async fn what_comes_back_comes_at_its_place_and_marked(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("order")).await;
    client.fill(&name, 4).await;
    let mut taken = Vec::new();
    for _ in 0..3 {
        taken.push(client.get(&name).await.expect("a message").receipt);
    }
    for at in [1, 0, 2] {
        client.broker.nack(taken[at], Nack::Requeue);
    }
    client.consume(&name, "c", LANE, 0).await.expect("a consumer");
    assert_eq!(client.next(4).await, [marked(&["1", "2", "3"], true), marked(&["4"], false)].concat());
    client.end().await;
}

async fn a_prefetch_is_each_consumers_own(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("prefetch")).await;
    client.fill(&name, 6).await;
    client.consume(&name, "a", LANE, 2).await.expect("a consumer");
    let (first, second) = (client.delivery().await, client.delivery().await);
    assert_eq!((text(&first), text(&second)), ("1".to_owned(), "2".to_owned()));
    client.quiet().await;
    client.consume(&name, "b", LANE, 1).await.expect("another one on the same lane");
    let (tag, third) = client.delivery_to().await;
    assert_eq!((tag.as_str(), text(&third)), ("b", "3".to_owned()));
    client.quiet().await;
    client.broker.ack(third.receipt);
    let (tag, fourth) = client.delivery_to().await;
    assert_eq!((tag.as_str(), text(&fourth)), ("b", "4".to_owned()));
    client.broker.nack(first.receipt, Nack::Requeue);
    assert_eq!(client.next(1).await, marked(&["1"], true));
    client.broker.nack(second.receipt, Nack::Discard);
    assert_eq!(client.next(1).await, marked(&["5"], false));
    client.quiet().await;
    client.end().await;
}

async fn consumers_take_turns(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("turns")).await;
    client.consume(&name, "a", Lane(1), 0).await.expect("a consumer");
    client.consume(&name, "b", Lane(2), 0).await.expect("a consumer");
    client.fill(&name, 6).await;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..6 {
        *counts.entry(client.delivery_to().await.0).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [3, 3]);
    client.end().await;
}

async fn without_acknowledgements_nothing_comes_back(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("forgotten")).await;
    let spec = ConsumeSpec { queue: name.clone(), tag: "c".to_owned(), lane: LANE, acknowledge: Acknowledge::None };
    client.broker.consume(&spec).await.expect("a consumer");
    client.fill(&name, 3).await;
    assert_eq!(client.next(3).await, marked(&["1", "2", "3"], false));
    client.end().await;
    let client = ground.connect().await;
    assert!(client.get(&name).await.is_none());
    client.end().await;
}

async fn a_cancelled_consumer_has_had_its_last_delivery_and_keeps_what_it_has(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("cancel")).await;
    client.fill(&name, 50).await;
    client.consume(&name, "c", LANE, 0).await.expect("a consumer");
    client.broker.cancel("c").await.expect("cancelled");
    client.broker.cancel("c").await.expect("twice is no error");
    let mut under_way = Vec::new();
    while let Ok(event) = client.events.try_recv() {
        let BrokerEvent::Delivery { delivery, .. } = event else { panic!("unexpected: {event:?}") };
        under_way.push(delivery);
    }
    client.quiet().await;
    // Not given back by the cancel itself.
    let next = client.get(&name).await;
    assert_eq!(next.as_ref().map(text), (under_way.len() < 50).then(|| (under_way.len() + 1).to_string()));
    for delivery in under_way.into_iter().chain(next) {
        client.broker.nack(delivery.receipt, Nack::Requeue);
    }
    client.consume(&name, "c", LANE, 0).await.expect("the tag is free again");
    let all: Vec<_> = client.next(50).await.into_iter().map(|(body, _)| body).collect();
    assert_eq!(all, (1..=50).map(|body| body.to_string()).collect::<Vec<_>>());
    client.end().await;
}

async fn a_tag_is_one_consumer_of_a_connection(ground: impl Ground) {
    let (one, two) = (ground.connect().await, ground.connect().await);
    let name = one.declare(queue("tag")).await;
    one.consume(&name, "c", LANE, 1).await.expect("a consumer");
    let error = one.consume(&name, "c", Lane(2), 1).await.expect_err("the tag is taken");
    assert_eq!(error.kind(), ErrorKind::DuplicateSubscriberIdentifier);
    two.consume(&name, "c", LANE, 1).await.expect("a tag of another connection");
    one.end().await;
    two.end().await;
}

async fn an_unknown_delivery_tag_closes_its_lane_which_opens_anew(ground: impl Ground) {
    let mut client = ground.connect().await;
    let (name, bystander) = (client.declare(queue("lane")).await, client.declare(queue("bystander")).await);
    client.fill(&name, 1).await;
    for (tag, queue, lane) in [("a", &name, 1), ("b", &bystander, 1), ("other", &bystander, 2)] {
        client.consume(queue, tag, Lane(lane), 10).await.expect("a consumer");
    }
    let got = client.delivery().await;
    client.broker.ack(Receipt { tag: 99, ..got.receipt });
    let BrokerEvent::LaneClosed { lane, opening, mut consumers, error } = client.event().await else {
        panic!("no end")
    };
    consumers.sort();
    assert_eq!((lane, opening, consumers), (LANE, got.receipt.opening, vec!["a".to_owned(), "b".to_owned()]));
    assert!(error.to_string().contains("unknown delivery tag 99"), "{error}");
    client.fill(&bystander, 1).await;
    assert_eq!(client.delivery_to().await.0, "other");
    client.consume(&name, "a", LANE, 10).await.expect("the lane opens anew");
    let again = client.delivery().await;
    assert!(again.redelivered && again.receipt.opening > got.receipt.opening);
    // A receipt from before must not settle what has the same tag now.
    assert_eq!(got.receipt.tag, again.receipt.tag);
    client.broker.ack(got.receipt);
    client.broker.nack(again.receipt, Nack::Requeue);
    assert_eq!(client.next(1).await, marked(&["1"], true));
    client.quiet().await;
    client.end().await;
}

async fn a_second_acknowledgement_closes_the_lane(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("twice")).await;
    client.fill(&name, 2).await;
    let (first, second) = (client.get(&name).await.expect("a message"), client.get(&name).await.expect("a message"));
    client.broker.ack(first.receipt);
    client.broker.ack(first.receipt);
    let event = client.event().await;
    assert!(matches!(event, BrokerEvent::LaneClosed { lane: LANE, .. }), "{event:?}");
    // What the lane had in hand is back; to acknowledge it now means nothing.
    client.broker.ack(second.receipt);
    let again = client.get(&name).await.expect("a message");
    assert_eq!((text(&again), again.redelivered), ("2".to_owned(), true));
    client.quiet().await;
    client.end().await;
}

async fn a_missing_queue_is_named_and_closes_the_lane_that_asked(ground: impl Ground) {
    let mut client = ground.connect().await;
    let none = unique("none");
    let error = client.consume(&none, "c", LANE, 1).await.expect_err("there is no such queue");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&none), "{error}");
    let event = client.event().await;
    assert!(
        matches!(&event, BrokerEvent::LaneClosed { lane: LANE, consumers, .. } if consumers.is_empty()),
        "{event:?}"
    );
    let error = client.broker.get(&none, Lane(2)).await.expect_err("there is no such queue");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let event = client.event().await;
    assert!(matches!(&event, BrokerEvent::LaneClosed { lane: Lane(2), .. }), "{event:?}");
    let error = client.broker.bind(&none, "amq.topic", "k").await.expect_err("there is no such queue");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let name = client.declare(queue("there")).await;
    let error = client.broker.bind(&name, &unique("none"), "k").await.expect_err("there is no such exchange");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    client.broker.delete_queue(&none).await.expect("to delete what is not there is no error");
    client.quiet().await;
    client.end().await;
}

async fn an_exclusive_queue_is_its_connections_alone_and_goes_with_it(ground: impl Ground) {
    let (one, mut two) = (ground.connect().await, ground.connect().await);
    let spec = QueueSpec { access: Access::Exclusive, expires: None, ..queue("own") };
    let name = one.declare(spec.clone()).await;
    let locked =
        |result: Result<()>| assert_eq!(result.expect_err("it is another's").kind(), ErrorKind::ResourceLocked);
    locked(two.broker.declare_queue(&spec).await);
    locked(two.consume(&name, "c", LANE, 1).await);
    locked(two.broker.get(&name, Lane(2)).await.map(drop));
    locked(two.broker.bind(&name, "amq.topic", "k").await);
    locked(two.broker.delete_queue(&name).await);
    two.publish(message("", &name, "x")).await.expect("anybody may send to it");
    one.end().await;
    two.is_gone(&name).await;
    two.end().await;
}

async fn messages_expire_and_later_ones_stay(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(QueueSpec { message_ttl: Some(Duration::from_millis(300)), ..queue("ttl") }).await;
    client.fill(&name, 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.publish(message("", &name, "fresh")).await.expect("routed");
    assert_eq!(text(&client.get(&name).await.expect("a message")), "fresh");
    client.end().await;
}

async fn an_unused_queue_expires_and_one_with_a_consumer_does_not(ground: impl Ground) {
    let mut client = ground.connect().await;
    let spec = |name: &str| QueueSpec { expires: Some(Duration::from_millis(200)), ..queue(name) };
    let (unused, used) = (spec("unused"), spec("used"));
    client.declare(used.clone()).await;
    client.consume(&used.name, "c", LANE, 0).await.expect("a consumer");
    client.declare(unused.clone()).await;
    client.is_gone(&unused.name).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.publish(message("", &used.name, "x")).await.expect("it is in use");
    client.broker.cancel("c").await.expect("cancelled");
    client.is_gone(&used.name).await;
    client.end().await;
}

async fn what_expires_or_is_refused_goes_to_the_dead_letter_queue(ground: impl Ground) {
    let mut client = ground.connect().await;
    let work = client.declare(queue("work")).await;
    let ttl = Some(Duration::from_millis(200));
    let lease =
        client.declare(QueueSpec { message_ttl: ttl, dead_letter_to: Some(work.clone()), ..queue("lease") }).await;
    let plain = client.declare(QueueSpec { dead_letter_to: Some(work.clone()), ..queue("refused") }).await;
    client.consume(&work, "c", Lane(2), 0).await.expect("a consumer");
    client.publish(message("", &lease, "over")).await.expect("routed");
    // Nobody asks anything meanwhile.
    let over = client.delivery().await;
    assert_eq!((text(&over), over.redelivered), ("over".to_owned(), false));
    let header = |delivery: &Delivery, name: &str| delivery.properties.text(name).map(str::to_owned);
    assert_eq!(header(&over, "x-first-death-queue"), Some(lease.clone()));
    assert_eq!(header(&over, "x-first-death-reason").as_deref(), Some("expired"));
    client.publish(message("", &plain, "refused")).await.expect("routed");
    let got = client.get(&plain).await.expect("a message");
    client.broker.nack(got.receipt, Nack::Discard);
    let refused = client.delivery().await;
    assert_eq!(text(&refused), "refused");
    assert_eq!(header(&refused, "x-first-death-reason").as_deref(), Some("rejected"));
    client.end().await;
}

async fn declarations_that_differ_say_what_differs(ground: impl Ground) {
    let client = ground.connect().await;
    let spec = QueueSpec { message_ttl: Some(Duration::from_secs(66)), ..queue("differs") };
    client.declare(spec.clone()).await;
    client.declare(spec.clone()).await;
    for (argument, other) in [
        ("x-message-ttl", QueueSpec { message_ttl: Some(Duration::from_secs(1)), ..spec.clone() }),
        ("x-expires", QueueSpec { expires: Some(Duration::from_secs(61)), ..spec.clone() }),
        ("durable", QueueSpec { durability: Durability::Durable, ..spec.clone() }),
        ("auto_delete", QueueSpec { auto_delete: AutoDelete::Yes, ..spec.clone() }),
        ("x-dead-letter", QueueSpec { dead_letter_to: Some("other".to_owned()), ..spec.clone() }),
    ] {
        let error = client.broker.declare_queue(&other).await.expect_err("it differs");
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed, "{argument}: {error}");
        assert!(error.to_string().contains(argument), "{argument}: {error}");
    }
    let exclusive = QueueSpec { access: Access::Exclusive, ..spec.clone() };
    let error = client.broker.declare_queue(&exclusive).await.expect_err("it is shared");
    assert_eq!(error.kind(), ErrorKind::ResourceLocked);
    let known = exchange("differs");
    client.broker.declare_exchange(&known).await.expect("an exchange");
    let other = ExchangeSpec { durability: Durability::Durable, ..known.clone() };
    let error = client.broker.declare_exchange(&other).await.expect_err("it differs");
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    assert!(error.to_string().contains("durable"), "{error}");
    // A binding comes and goes, and the exchange with it.
    client.broker.bind(&spec.name, &known.name, "k").await.expect("a binding");
    client.broker.delete_queue(&spec.name).await.expect("deleted");
    client.end().await;
}

async fn arguments_that_cannot_be_are_refused_and_cost_nothing_else(ground: impl Ground) {
    let mut client = ground.connect().await;
    let long = "x".repeat(256);
    let kind = |result: Result<()>| result.expect_err("it cannot be").kind();
    let named = |name: &str| QueueSpec { name: name.to_owned(), ..queue("") };
    assert_eq!(kind(client.broker.declare_queue(&named("")).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(client.broker.declare_queue(&named(&long)).await), ErrorKind::InvalidArgument);
    // Refused here, or by the broker.
    let reserved = kind(client.broker.declare_queue(&named("amq.mine")).await);
    assert!(matches!(reserved, ErrorKind::InvalidArgument | ErrorKind::AccessRefused), "{reserved:?}");
    assert_eq!(kind(client.publish(message("", &long, "")).await), ErrorKind::InvalidArgument);
    let now = QueueSpec { expires: Some(Duration::ZERO), ..queue("now") };
    assert_eq!(kind(client.broker.declare_queue(&now).await), ErrorKind::PreconditionFailed);
    client.declare(queue("after")).await;
    client.quiet().await;
    client.end().await;
}

async fn a_deleted_queue_is_news_to_its_consumers(ground: impl Ground) {
    let (mut one, mut two) = (ground.connect().await, ground.connect().await);
    let name = one.declare(queue("deleted")).await;
    one.consume(&name, "c", LANE, 10).await.expect("a consumer");
    one.fill(&name, 1).await;
    let got = one.delivery().await;
    two.broker.delete_queue(&name).await.expect("deleted");
    let event = one.event().await;
    assert!(matches!(&event, BrokerEvent::ConsumerCancelled { consumer } if consumer == "c"), "{event:?}");
    one.broker.ack(got.receipt);
    one.quiet().await;
    two.is_gone(&name).await;
    one.end().await;
    two.end().await;
}

async fn a_queue_that_deletes_itself_goes_with_its_last_consumer(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(QueueSpec { auto_delete: AutoDelete::Yes, ..queue("auto") }).await;
    client.consume(&name, "a", LANE, 0).await.expect("a consumer");
    client.consume(&name, "b", LANE, 0).await.expect("a consumer");
    client.broker.cancel("a").await.expect("cancelled");
    client.publish(message("", &name, "x")).await.expect("it has a consumer yet");
    client.broker.cancel("b").await.expect("cancelled");
    client.is_gone(&name).await;
    client.end().await;
}

async fn a_close_gives_back_what_was_not_acknowledged(ground: impl Ground) {
    let mut client = ground.connect().await;
    let name = client.declare(queue("close")).await;
    client.fill(&name, 5).await;
    client.consume(&name, "c", LANE, 3).await.expect("a consumer");
    let first = client.delivery().await;
    let held = [client.delivery().await, client.delivery().await];
    client.broker.ack(first.receipt);
    client.broker.close(LONG).await.expect("an end");
    client.broker.close(LONG).await.expect("a second close is no error");
    assert!(client.broker.get(&name, LANE).await.is_err());
    assert!(client.publish(message("", &name, "late")).await.is_err());
    client.broker.ack(held[0].receipt);
    let mut again = ground.connect().await;
    again.consume(&name, "c", LANE, 0).await.expect("a consumer");
    let got = again.next(4).await;
    assert_eq!(got[..2], marked(&["2", "3"], true));
    assert_eq!(got.iter().map(|(body, _)| body.as_str()).collect::<Vec<_>>(), ["2", "3", "4", "5"]);
    again.broker.delete_queue(&name).await.expect("deleted");
    again.end().await;
}

/// Runs a check as the communicator thread would, with a bound against hanging.
fn run(check: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    let bounded = async { tokio::time::timeout(6 * LONG, check).await };
    local.block_on(&runtime, bounded).expect("the check hangs");
}

/// Each check once for each broker.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test]
            fn $name() {
                let url = format!("memory:{}", uuid::Uuid::new_v4());
                super::run(super::$name(super::At::<crate::broker::memory::Memory>::new(&url)));
            })*
        }

        #[cfg(feature = "rabbitmq")]
        mod rabbitmq {
            $(#[test]
            #[ignore = "needs RabbitMQ: run tests/run"]
            fn $name() {
                let Ok(url) = std::env::var("HOMING_TEST_AMQP") else {
                    let required = std::env::var("HOMING_TEST_REQUIRE").is_ok_and(|required| required == "1");
                    assert!(!required, "needs RabbitMQ: HOMING_TEST_AMQP is not set");
                    println!("needs RabbitMQ: set HOMING_TEST_AMQP or run tests/run");
                    return;
                };
                super::run(super::$name(super::At::<crate::broker::rabbitmq::RabbitMq>::new(&url)));
            })*
        }
    };
}

checks! {
    each_publish_has_its_own_outcome,
    properties_arrive_as_they_were_sent,
    a_topic_exchange_routes_each_message_once_to_a_queue,
    what_comes_back_comes_at_its_place_and_marked,
    a_prefetch_is_each_consumers_own,
    consumers_take_turns,
    without_acknowledgements_nothing_comes_back,
    a_cancelled_consumer_has_had_its_last_delivery_and_keeps_what_it_has,
    a_tag_is_one_consumer_of_a_connection,
    an_unknown_delivery_tag_closes_its_lane_which_opens_anew,
    a_second_acknowledgement_closes_the_lane,
    a_missing_queue_is_named_and_closes_the_lane_that_asked,
    an_exclusive_queue_is_its_connections_alone_and_goes_with_it,
    messages_expire_and_later_ones_stay,
    an_unused_queue_expires_and_one_with_a_consumer_does_not,
    what_expires_or_is_refused_goes_to_the_dead_letter_queue,
    declarations_that_differ_say_what_differs,
    arguments_that_cannot_be_are_refused_and_cost_nothing_else,
    a_deleted_queue_is_news_to_its_consumers,
    a_queue_that_deletes_itself_goes_with_its_last_consumer,
    a_close_gives_back_what_was_not_acknowledged,
}
