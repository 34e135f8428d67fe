//! Connections that break, stall and block under work; the faults come from a proxy in front of the broker.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::online::{exclusive_queue, next};
use super::proxy::Proxy;
use super::*;
use crate::broker::samples::message;
use crate::broker::{Acknowledge, Broker, ConsumeSpec, Lane};
use crate::error::ErrorKind;

/// connection.blocked with the reason "low on memory", and connection.unblocked (AMQP 0-9-1 as RabbitMQ extends it).
const BLOCKED: &[u8] = b"\x01\0\0\0\0\0\x12\0\x0a\0\x3c\x0dlow on memory\xce";
const UNBLOCKED: &[u8] = b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\xce";

/// Reads events to the end and counts the losses.
async fn losses(events: &mut Events) -> usize {
    let mut lost = 0;
    let _ = tokio::time::timeout(Duration::from_millis(700), async {
        while let Some(event) = events.recv().await {
            assert_eq!(lost, 0, "an event after the last: {event:?}");
            if let BrokerEvent::Lost { error } = &event {
                assert_eq!(error.kind(), ErrorKind::ConnectionLost);
                lost += 1;
            }
        }
    })
    .await;
    lost
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_cut_ends_everything_under_way_and_is_said_once() {
    let Some(broker) = test_broker() else { return };
    on_communicator_thread(async {
        let (proxy, endpoint) = Proxy::before(&broker).await;
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "cut").await;
        broker
            .consume(&ConsumeSpec {
                queue: queue.clone(),
                tag: "c".to_owned(),
                lane: Lane(1),
                acknowledge: Acknowledge::None,
            })
            .await
            .expect("a consumer");
        proxy.stall();
        let publishes = join_all((0..200).map(|number| broker.publish(message("", &queue, &number.to_string()))));
        let under_way = async {
            let (publishes, declared, got) =
                tokio::join!(publishes, broker.bind(&queue, "amq.topic", "x"), broker.get(&queue, Lane(2)),);
            for result in publishes.into_iter().chain([declared, got.map(drop)]) {
                assert_eq!(result.expect_err("nothing was answered").kind(), ErrorKind::ConnectionLost);
            }
        };
        let cut = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.cut();
        };
        let started = Instant::now();
        tokio::join!(under_way, cut);
        assert!(started.elapsed() < options().operation_timeout, "took {:?}", started.elapsed());
        assert_eq!(losses(&mut events).await, 1);
        let late = broker.publish(message("", &queue, "late")).await;
        assert_eq!(late.expect_err("it is lost").kind(), ErrorKind::ConnectionLost);
        broker.close(Duration::from_secs(1)).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_stalled_connection_times_questions_out_and_still_closes_in_time() {
    let Some(broker) = test_broker() else { return };
    on_communicator_thread(async {
        let (proxy, endpoint) = Proxy::before(&broker).await;
        let patience = ConnectOptions { operation_timeout: Duration::from_secs(2), ..options() };
        let (broker, mut events) = connect(&endpoint, &patience).await.expect("a connection");
        let queue = exclusive_queue(&broker, "stall").await;
        proxy.stall();
        let error = broker.bind(&queue, "amq.topic", "x").await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains(&format!("could not bind the queue {queue:?}")), "{error}");
        let waiting = tokio::task::spawn_local(broker.publish(message("", &queue, "never confirmed")));
        tokio::task::yield_now().await;
        let started = Instant::now();
        broker.close(Duration::from_millis(500)).await.expect("an end");
        assert!(started.elapsed() < patience.operation_timeout, "took {:?}", started.elapsed());
        assert!(waiting.await.expect("no panic").is_err());
        assert_eq!(losses(&mut events).await, 0);
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn missed_heartbeats_are_a_loss() {
    let Some(broker) = test_broker() else { return };
    on_communicator_thread(async {
        let (proxy, endpoint) = Proxy::before(&broker).await;
        let pulse = ConnectOptions { heartbeat: Some(Duration::from_secs(1)), ..options() };
        let (broker, mut events) = connect(&endpoint, &pulse).await.expect("a connection");
        proxy.stall();
        let event = next(&mut events, Duration::from_secs(10)).await;
        let BrokerEvent::Lost { error } = event else { panic!("{event:?}") };
        assert!(error.to_string().contains("two heartbeats"), "{error}");
        broker.close(Duration::from_secs(1)).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn publishes_wait_while_the_broker_blocks_and_go_on_after() {
    let Some(broker) = test_broker() else { return };
    on_communicator_thread(async {
        let (proxy, endpoint) = Proxy::before(&broker).await;
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "blocked").await;
        proxy.inject(BLOCKED);
        let event = next(&mut events, Duration::from_secs(5)).await;
        assert!(matches!(&event, BrokerEvent::Blocked { reason } if reason == "low on memory"), "{event:?}");
        let mut waiting = tokio::task::spawn_local(broker.publish(message("", &queue, "patient")));
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "it must wait");
        // Questions go by the other connection.
        broker.bind(&queue, "amq.topic", "x").await.expect("a binding");
        proxy.inject(UNBLOCKED);
        let event = next(&mut events, Duration::from_secs(5)).await;
        assert!(matches!(event, BrokerEvent::Unblocked), "{event:?}");
        waiting.await.expect("no panic").expect("it went on");
        broker.close(Duration::from_secs(1)).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn a_blocked_broker_is_closed_in_time() {
    let Some(broker) = test_broker() else { return };
    on_communicator_thread(async {
        let (proxy, endpoint) = Proxy::before(&broker).await;
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "blocked").await;
        proxy.inject(BLOCKED);
        next(&mut events, Duration::from_secs(5)).await;
        let waiting = tokio::task::spawn_local(broker.publish(message("", &queue, "stuck")));
        tokio::task::yield_now().await;
        let started = Instant::now();
        broker.close(Duration::from_secs(30)).await.expect("an end");
        assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
        let error = waiting.await.expect("no panic").expect_err("it was never written");
        assert_eq!(error.kind(), ErrorKind::CommunicatorClosed);
        assert_eq!(losses(&mut events).await, 0);
    });
}
