//! A message that is moved (into quarantine, to be tried again, on lease) keeps every property and every type of header.

use std::time::Duration;

use homing::{Failure, LongTasks, TaskRequest, TaskSubscriber, Value};
use serde_json::{Value as Json, json};

use crate::support::{Broker, Node, Peer, Suite, TestResult, Tls};
use crate::{LONG, options, pika, run, until};

pub(crate) fn add(suite: &mut Suite) {
    suite.kiwipy("a_moved_message_keeps_all_its_parts", moved);
    suite.with(
        "node::a_message_on_lease_keeps_all_its_parts",
        &[crate::support::suite::Need::Node, crate::support::suite::Need::Python],
        on_lease,
    );
}

/// Everything that pika can say of a message, apart from its user id.
fn properties() -> Json {
    json!({
        "content_type": "application/x-yaml", "content_encoding": "gzip", "priority": 7, "correlation_id": "mark",
        "message_id": "0b6bd3fc-98f9-4ecb-a3ac-ba8b3f9a7b9c", "type": "job", "app_id": "sender", "timestamp": 1_700_000_000,
        "cluster_id": "theirs", "delivery_mode": 2,
        "headers": {
            "text": "é", "empty": "", "yes": true, "no": false, "nothing": null, "small": -5, "large": 2_147_483_647_000_i64,
            "bytes": {"$bytes": "AP+A"}, "decimal": {"$decimal": "1.5"}, "time": {"$epoch": 1_700_000_000},
            "list": [1, "two", [3, {"four": null}]], "table": {"a": {"b": {"c": [true]}}}, "long": "x".repeat(5_000),
        },
    })
}

/// That a message has all of these properties still; headers of homing may be beside them.
fn has_kept(message: &Json, sent: &Json) -> TestResult {
    let kept = &message["properties"];
    for (name, value) in sent.as_object().ok_or("no properties")? {
        if name == "headers" {
            for (name, value) in value.as_object().ok_or("no headers")? {
                assert_eq!(&kept["headers"][name], value, "the header {name} of {message}");
            }
        } else {
            assert_eq!(&kept[name], value, "{name} of {message}");
        }
    }
    let headers = kept["headers"].as_object().ok_or("no headers")?;
    for name in headers.keys() {
        assert!(name.starts_with("homing-") || !sent["headers"][name].is_null() || name == "nothing", "{name} is new");
    }
    Ok(())
}

fn publish(peer: &Peer, broker: &Broker, body: &Json, sent: &Json) -> TestResult {
    let (exchange, key) = (broker.task_exchange(), broker.task_queue());
    peer.call("publish", json!({"exchange": exchange, "routing_key": key, "body": body, "properties": sent}))?;
    Ok(())
}

fn moved(broker: &Broker) -> TestResult {
    let peer = pika(broker)?;
    let queue = broker.task_queue();
    let sent = properties();
    run(async {
        // Into quarantine, since its body is no task; and with a time of its own, which would take it out of there.
        let communicator = options(broker.url(), broker).connect().await.unwrap();
        let work = TaskSubscriber::closure(|task: TaskRequest| task.into_body());
        communicator.add_task_subscriber(work).await.unwrap();
        let mut expires = sent.clone();
        expires["expiration"] = "60000".into();
        let body = json!({"$bytes": "AP/+"});
        publish(&peer, broker, &body, &expires)?;
        until("it is in quarantine", || communicator.counts().tasks_quarantined == 1).await;
        communicator.close().await.unwrap();
        let message = peer.call("get", json!({"queue": format!("{queue}.quarantine")}))?;
        has_kept(&message, &sent)?;
        assert_eq!(message["body"], body);
        assert_eq!(message["properties"]["headers"]["homing-original-expiration"], "60000", "{message}");
        assert!(message["properties"]["expiration"].is_null(), "{message}");

        // To be tried again: the copy lies in the queue when its worker has gone.
        let one = std::num::NonZeroU32::new(100).unwrap();
        let communicator =
            options(broker.url(), broker).task_attempts(one, Duration::from_millis(1)).connect().await.unwrap();
        let (tried, mut tries) = tokio::sync::mpsc::unbounded_channel();
        let work = TaskSubscriber::closure(move |_: TaskRequest| {
            tried.send(()).ok();
            Err::<Value, _>(Failure::TryAgain("not yet".into()))
        });
        communicator.add_task_subscriber(work).await.unwrap();
        publish(&peer, broker, &json!("[1, true]"), &sent)?;
        for _ in 0..3 {
            tokio::time::timeout(LONG, tries.recv()).await.expect("it is tried");
        }
        communicator.close().await.unwrap();
        let message = peer.call("get", json!({"queue": queue}))?;
        has_kept(&message, &sent)?;
        assert!(message["properties"]["headers"]["homing-attempt"].is_string(), "{message}");
        Ok(())
    })
}

fn on_lease() -> TestResult {
    let node = Node::start(Tls::No)?;
    let broker = Broker::at(node.url());
    let peer = pika(&broker)?;
    let sent = properties();
    run(async {
        let long = LongTasks::new().after(Duration::from_millis(100)).lease(Duration::from_secs(60));
        let communicator = options(broker.url(), &broker).long_tasks(long).connect().await.unwrap();
        let work = TaskSubscriber::future(|task: TaskRequest| async move {
            std::future::pending::<()>().await;
            task.into_body()
        });
        communicator.add_task_subscriber(work).await.unwrap();
        publish(&peer, &broker, &json!("[1, true]"), &sent)?;
        let end = std::time::Instant::now() + LONG;
        let lease = loop {
            let queues = node.ctl(&["-q", "list_queues", "name", "messages_ready", "--no-table-headers"])?;
            let lease = queues
                .lines()
                .find_map(|line| line.strip_suffix("\t1").filter(|name| name.starts_with("homing-lease-")));
            if let Some(lease) = lease {
                break lease.to_owned();
            }
            assert!(std::time::Instant::now() < end, "no lease: {queues}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let message = peer.call("get", json!({"queue": lease}))?;
        has_kept(&message, &sent)?;
        communicator.close().await.unwrap();
        Ok(())
    })
}
