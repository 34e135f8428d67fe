//! What a real broker does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::*;
use crate::broker::samples::{message, text};
use crate::broker::{
    Access, Acknowledge, AutoDelete, Broker, ConsumeSpec, Delivery, Durability, ExchangeSpec, Lane, Message, Nack,
    Properties, QueueSpec,
};
use crate::error::ErrorKind;

fn queue_spec(name: String) -> QueueSpec {
    QueueSpec {
        name,
        durability: Durability::Transient,
        access: Access::Exclusive,
        auto_delete: AutoDelete::No,
        message_ttl: None,
        expires: None,
        dead_letter_to: None,
        priorities: None,
        max_length: None,
    }
}

pub(super) async fn exclusive_queue(broker: &RabbitMq, name: &str) -> String {
    let spec = queue_spec(unique(name));
    broker.declare_queue(&spec).await.expect("a queue");
    spec.name
}

fn consume(queue: &str, tag: &str, lane: u32, prefetch: u16) -> ConsumeSpec {
    ConsumeSpec {
        queue: queue.to_owned(),
        tag: tag.to_owned(),
        lane: Lane(lane),
        acknowledge: Acknowledge::Manual { prefetch },
    }
}

pub(super) async fn next(events: &mut Events, limit: Duration) -> BrokerEvent {
    tokio::time::timeout(limit, events.recv()).await.expect("an event in time").expect("an event")
}

async fn delivery(events: &mut Events) -> Delivery {
    match next(events, Duration::from_secs(5)).await {
        BrokerEvent::Delivery { delivery, .. } => delivery,
        other => panic!("{other:?}"),
    }
}

async fn nothing(events: &mut Events, limit: Duration) {
    if let Ok(event) = tokio::time::timeout(limit, events.recv()).await {
        panic!("{event:?}");
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn the_server_says_what_it_is_and_close_leaves_nothing() {
    in_own_process("online::the_server_says_what_it_is_and_close_leaves_nothing", || {
        let Some(endpoint) = test_broker() else { return };
        on_communicator_thread(async {
            let before = threads_and_descriptors();
            for _ in 0..5 {
                let (broker, _events) = connected(&endpoint).await;
                let properties = broker.server_properties();
                let of = |name: &str| properties.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
                assert_eq!(of("product"), Some("RabbitMQ"), "{properties:?}");
                assert!(of("version").is_some_and(|version| version.contains('.')));
                broker.close(SECOND).await.expect("an end");
                broker.close(SECOND).await.expect("a second close is no error");
                assert_eq!(threads_and_descriptors(), before, "threads are joined by the close itself");
            }
        });
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn wrong_credentials_and_virtual_hosts_are_named_without_the_password() {
    let Some(good) = test_broker() else { return };
    on_communicator_thread(async {
        let wrong = Endpoint { password: "s3cret".to_owned(), ..good.clone() };
        let Err(error) = connect(&wrong, &options()).await else { panic!("let in") };
        assert_eq!(error.kind(), ErrorKind::AccessRefused);
        assert!(error.to_string().contains("refused user \"guest\""), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
        let wrong = Endpoint { vhost: "no such".to_owned(), ..good };
        let Err(error) = connect(&wrong, &options()).await else { panic!("let in") };
        assert_eq!(error.kind(), ErrorKind::AccessRefused);
        assert!(error.to_string().contains("no virtual host \"no such\""), "{error}");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn pipelined_publishes_keep_their_order_and_each_learns_its_own_fate() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "order").await;
        let nowhere = unique("nowhere");
        broker
            .consume(&ConsumeSpec { acknowledge: Acknowledge::None, ..consume(&queue, "c", 1, 0) })
            .await
            .expect("a consumer");
        // Every third is unroutable, and some are large enough to be cut into frames.
        let routed = |number: usize| !number.is_multiple_of(3);
        let started = Instant::now();
        let fates = join_all((0..3000).map(|number| {
            let key = if routed(number) { &queue } else { &nowhere };
            let body = if number % 500 == 1 { format!("{number} {}", "x".repeat(300_000)) } else { number.to_string() };
            broker.publish(message("", key, &body))
        }))
        .await;
        println!("3000 publishes in {:?}", started.elapsed());
        for (number, fate) in fates.into_iter().enumerate() {
            match fate {
                Ok(()) => assert!(routed(number), "{number} was not routed"),
                Err(error) => {
                    assert!(!routed(number), "{number} was routed: {error}");
                    assert_eq!(error.kind(), ErrorKind::Unroutable);
                    assert!(
                        error.to_string().starts_with(&format!("no queue takes messages for {nowhere:?}")),
                        "{error}"
                    );
                }
            }
        }
        for number in (0..3000).filter(|number| routed(*number)) {
            let got = text(&delivery(&mut events).await);
            assert_eq!(got.split(' ').next(), Some(number.to_string().as_str()));
        }
        assert_eq!(broker.shared.publisher.unanswered(), 0);
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn properties_arrive_as_they_were_sent() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, _events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "properties").await;
        let properties = Properties {
            message_id: Some("m".into()),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            ..Properties::default()
        }
        .with_text("homing-x", "y");
        let sent = Message { properties: properties.clone(), ..message("", &queue, "") };
        broker.publish(sent).await.expect("a confirm");
        let got = broker.get(&queue, Lane(1)).await.expect("an answer").expect("a message");
        assert_eq!(got.properties, properties);
        assert!(!got.redelivered);
        assert_eq!(text(&got), "");
        assert!(broker.get(&queue, Lane(1)).await.expect("an answer").is_none());
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_missing_exchange_fails_its_publishes_and_the_next_goes_out() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "missing").await;
        let missing = unique("missing-exchange");
        for _ in 0..10 {
            let (wrong, right) = tokio::join!(
                broker.publish(message(&missing, "k", "lost")),
                broker.publish(message("", &queue, "bystander")),
            );
            assert_eq!(wrong.expect_err("there is no such exchange").kind(), ErrorKind::NotFound);
            if let Err(error) = right {
                assert_eq!(error.kind(), ErrorKind::DeliveryFailed, "{error}");
            }
            broker.publish(message("", &queue, "after")).await.expect("a new channel");
        }
        assert!(events.try_recv().is_err(), "no event");
        // Many at once: whatever becomes of the connection, every publish learns its fate.
        let flood = join_all((0..1000).map(|_| broker.publish(message(&missing, "k", "lost")))).await;
        let mut kinds = std::collections::BTreeMap::<String, usize>::new();
        for fate in flood {
            let kind = fate.expect_err("there is no such exchange").kind();
            *kinds.entry(format!("{kind:?}")).or_default() += 1;
        }
        println!("1000 publishes to a missing exchange: {kinds:?}, then {:?}", events.try_recv());
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn speed_of_pipelined_publishes_in_full() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "speed").await;
        for window in [1, 16, 256, 4096] {
            let started = Instant::now();
            let mut under_way = FuturesUnordered::new();
            let total = if window == 1 { 2000 } else { 20_000 };
            for _ in 0..total {
                under_way.push(broker.publish(message("", &queue, "0123456789")));
                if under_way.len() == window {
                    under_way.next().await.expect("one").expect("a confirm");
                }
            }
            while let Some(result) = under_way.next().await {
                result.expect("a confirm");
            }
            println!("window {window}: {:.1} us a message", started.elapsed().as_secs_f64() * 1e6 / f64::from(total));
        }
        let started = Instant::now();
        for _ in 0..200 {
            broker.bind(&queue, "amq.topic", "k").await.expect("a binding");
        }
        println!("bind, one by one: {:.1} us", started.elapsed().as_secs_f64() * 1e6 / 200.0);
        let started = Instant::now();
        for _ in 0..20 {
            connected(&endpoint).await.0.close(SECOND).await.expect("an end");
        }
        println!("connect and close: {:.1} ms", started.elapsed().as_secs_f64() * 1e3 / 20.0);
        let started = Instant::now();
        broker.consume(&consume(&queue, "c", 1, 500)).await.expect("a consumer");
        for _ in 0..62_000 {
            let got = delivery(&mut events).await;
            broker.ack(got.receipt);
        }
        println!("consume and acknowledge: {:.1} us a message", started.elapsed().as_secs_f64() * 1e6 / 62e3);
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn publishes_given_up_are_still_written_and_leave_nothing() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, _events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "given-up").await;
        for number in 0..50 {
            let key = if number % 2 == 0 { queue.clone() } else { unique("nowhere") };
            // Polled once: written; then dropped.
            assert!(broker.publish(message("", &key, "x")).now_or_never().is_none(), "no answer at the first poll");
        }
        broker.publish(message("", &queue, "last")).await.expect("a confirm");
        let mut arrived = 0;
        while broker.get(&queue, Lane(1)).await.expect("an answer").is_some() {
            arrived += 1;
        }
        assert_eq!(arrived, 26);
        assert_eq!(broker.shared.publisher.unanswered(), 0);
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn channel_numbers_that_the_server_closed_are_passed_over() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        // lapin refuses such a number for ever, and with few numbers their turn comes again soon.
        let few = Endpoint { channel_max: Some(7), ..endpoint };
        let (broker, mut events) = connected(&few).await;
        let queue = exclusive_queue(&broker, "numbers").await;
        let refused = async || broker.bind(&unique("none"), "amq.topic", "k").await.expect_err("no queue").kind();
        for number in 1..7 {
            assert_eq!(refused().await, ErrorKind::NotFound, "channel {number}");
        }
        // The seventh number lives, and six are dead: the first free one is found by passing over them.
        broker.bind(&queue, "amq.topic", "k").await.expect("a binding");
        nothing(&mut events, Duration::from_millis(50)).await;
        // When none is left, the connection is of no use any more, and that is said.
        assert_eq!(refused().await, ErrorKind::NotFound);
        refused().await;
        let event = next(&mut events, SECOND * 3).await;
        assert!(matches!(event, BrokerEvent::Lost { .. }), "{event:?}");
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn differing_declarations_say_what_differs_and_cost_nothing_else() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, _events) = connected(&endpoint).await;
        let spec = QueueSpec { message_ttl: Some(Duration::from_millis(66_000)), ..queue_spec(unique("differs")) };
        broker.declare_queue(&spec).await.expect("a queue");
        broker.declare_queue(&spec).await.expect("the same again");
        let other = QueueSpec { message_ttl: Some(Duration::from_secs(1)), ..spec.clone() };
        let error = broker.declare_queue(&other).await.expect_err("it differs");
        assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
        let said = error.to_string();
        assert!(said.contains("x-message-ttl: the server has 66000, this program asks for 1000"), "{said}");
        let week = QueueSpec { message_ttl: Some(Duration::from_secs(604_800)), ..queue_spec(unique("week")) };
        broker.declare_queue(&week).await.expect("a week in milliseconds");

        let exchange = ExchangeSpec {
            name: Arc::from(unique("exchange")),
            durability: Durability::Transient,
            auto_delete: AutoDelete::Yes,
        };
        broker.declare_exchange(&exchange).await.expect("an exchange");
        let durable = ExchangeSpec { durability: Durability::Durable, ..exchange.clone() };
        let error = broker.declare_exchange(&durable).await.expect_err("it differs");
        assert!(error.to_string().contains("with another durable: the server has false"), "{error}");
        broker.bind(&spec.name, &exchange.name, "a.b").await.expect("a binding");
        broker.publish(message(&exchange.name, "a.b", "x")).await.expect("routed");
        broker.unbind(&spec.name, &exchange.name, "a.b").await.expect("no binding");
        let error = broker.bind(&unique("none"), "amq.topic", "k").await.expect_err("no queue");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        broker.delete_queue(&unique("none")).await.expect("nothing to delete is no error");

        let (second, _events) = connected(&endpoint).await;
        let error = second.declare_queue(&spec).await.expect_err("it is exclusive");
        assert_eq!(error.kind(), ErrorKind::ResourceLocked);
        second.close(SECOND).await.expect("an end");
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn prefetch_counts_for_each_consumer_and_acknowledgements_make_room() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "prefetch").await;
        let filled = (0..5).map(|number| broker.publish(message("", &queue, &number.to_string())));
        join_all(filled).await.into_iter().collect::<Result<()>>().expect("confirms");
        broker.consume(&consume(&queue, "c", 1, 2)).await.expect("a consumer");
        let error = broker.consume(&consume(&queue, "c", 2, 2)).await.expect_err("the tag is taken");
        assert_eq!(error.kind(), ErrorKind::DuplicateSubscriberIdentifier);
        let first = delivery(&mut events).await;
        let second = delivery(&mut events).await;
        assert_eq!((text(&first), text(&second)), ("0".to_owned(), "1".to_owned()));
        nothing(&mut events, Duration::from_millis(150)).await;
        broker.nack(first.receipt, Nack::Requeue);
        let again = delivery(&mut events).await;
        assert_eq!((text(&again), again.redelivered), ("0".to_owned(), true));
        broker.ack(again.receipt);
        assert_eq!(text(&delivery(&mut events).await), "2");
        broker.nack(second.receipt, Nack::Discard);
        assert_eq!(text(&delivery(&mut events).await), "3");
        broker.cancel("c").await.expect("an end of the consumer");
        broker.cancel("c").await.expect("ending it twice is no error");
        nothing(&mut events, Duration::from_millis(100)).await;
        broker.consume(&consume(&queue, "c", 1, 2)).await.expect("the tag is free again");
        assert_eq!(text(&delivery(&mut events).await), "4");
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_closed_lane_is_said_once_and_opens_anew() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "lane").await;
        let bystander = exclusive_queue(&broker, "bystander").await;
        broker.publish(message("", &queue, "x")).await.expect("a confirm");
        for (tag, queue, lane) in [("a", &queue, 1), ("b", &bystander, 1), ("other", &bystander, 2)] {
            broker.consume(&consume(queue, tag, lane, 10)).await.expect("a consumer");
        }
        let got = delivery(&mut events).await;
        broker.ack(crate::broker::Receipt { tag: 99, ..got.receipt });
        match next(&mut events, SECOND).await {
            BrokerEvent::LaneClosed { lane, mut consumers, error, .. } => {
                consumers.sort();
                assert_eq!((lane, consumers), (Lane(1), vec!["a".to_owned(), "b".to_owned()]));
                assert!(error.to_string().contains("unknown delivery tag 99"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        broker.consume(&consume(&queue, "a", 1, 10)).await.expect("the lane opens anew");
        let again = delivery(&mut events).await;
        assert!(again.redelivered && again.receipt.opening > got.receipt.opening);
        // The old receipt has the same tag as the new one and must not settle it.
        assert_eq!(got.receipt.tag, again.receipt.tag);
        broker.ack(got.receipt);
        broker.nack(again.receipt, Nack::Requeue);
        assert_eq!(text(&delivery(&mut events).await), "x");
        // A lane without a consumer is told of too.
        assert!(broker.get(&bystander, Lane(3)).await.expect("an answer").is_none());
        broker.ack(crate::broker::Receipt { lane: Lane(3), opening: 1, tag: 7 });
        match next(&mut events, SECOND).await {
            BrokerEvent::LaneClosed { lane, consumers, .. } => assert_eq!((lane, consumers), (Lane(3), vec![])),
            other => panic!("{other:?}"),
        }
        nothing(&mut events, Duration::from_millis(100)).await;
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn questions_given_up_leave_no_consumer_and_no_message_behind() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "given-up").await;
        broker.publish(message("", &queue, "x")).await.expect("a confirm");
        assert!(broker.get(&queue, Lane(1)).now_or_never().is_none(), "no answer at the first poll");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let got = broker.get(&queue, Lane(1)).await.expect("an answer").expect("the message is back");
        assert!(got.redelivered);
        assert!(broker.consume(&consume(&queue, "c", 1, 1)).now_or_never().is_none(), "no answer at the first poll");
        tokio::time::sleep(Duration::from_millis(100)).await;
        broker.consume(&consume(&queue, "c", 1, 1)).await.expect("the tag is free");
        broker.nack(got.receipt, Nack::Requeue);
        assert_eq!(text(&delivery(&mut events).await), "x");
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_consumer_that_the_server_ends_is_said_and_a_missing_queue_is_named() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "deleted").await;
        broker.consume(&consume(&queue, "c", 1, 10)).await.expect("a consumer");
        broker.delete_queue(&queue).await.expect("a deletion");
        match next(&mut events, SECOND).await {
            BrokerEvent::ConsumerCancelled { consumer } => assert_eq!(consumer, "c"),
            other => panic!("{other:?}"),
        }
        let error = broker.consume(&consume(&queue, "c", 2, 10)).await.expect_err("no queue");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&format!("could not consume from the queue {queue:?}")), "{error}");
        let event = next(&mut events, SECOND).await;
        assert!(
            matches!(&event, BrokerEvent::LaneClosed { lane: Lane(2), consumers, .. } if consumers.is_empty()),
            "{event:?}"
        );
        nothing(&mut events, Duration::from_millis(100)).await;
        broker.close(SECOND).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn close_writes_what_was_begun_and_what_is_unacknowledged_goes_back() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let spec =
            QueueSpec { access: Access::Shared, expires: Some(Duration::from_secs(30)), ..queue_spec(unique("close")) };
        broker.declare_queue(&spec).await.expect("a queue");
        broker.consume(&consume(&spec.name, "c", 1, 100)).await.expect("a consumer");
        let begun: Vec<_> = (0..400)
            .map(|number| tokio::task::spawn_local(broker.publish(message("", &spec.name, &number.to_string()))))
            .collect();
        for _ in 0..100 {
            let got = delivery(&mut events).await;
            if text(&got).parse::<u32>().expect("a number") < 60 {
                broker.ack(got.receipt);
            }
        }
        broker.close(Duration::from_secs(5)).await.expect("an end");
        for begun in begun {
            // Written, though perhaps not confirmed any more.
            let _ = begun.await.expect("no panic");
        }
        let (broker, _events) = connected(&endpoint).await;
        let mut left = 0;
        while let Some(got) = broker.get(&spec.name, Lane(1)).await.expect("an answer") {
            assert_eq!(text(&got), (left + 60).to_string());
            left += 1;
        }
        assert_eq!(left, 340, "60 of 400 were acknowledged");
        broker.delete_queue(&spec.name).await.expect("a deletion");
        broker.close(SECOND).await.expect("an end");
    });
}
