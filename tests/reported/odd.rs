//! Messages that lapin cannot read: each costs itself at most, never the connection, and what stands behind it comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use homing::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, CommunicatorBuilder, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber, Value,
};
use serde_json::{Value as Json, json};

use crate::support::{Broker, Suite, TestResult};
use crate::{close_undisturbed, options, pika, run, until};

pub(crate) fn add(suite: &mut Suite) {
    suite.kiwipy("odd_properties_cost_no_connection", odd_properties);
    suite.kiwipy("headers_above_the_frame_size_cost_no_connection", large_headers);
}

/// How often each body came.
type Seen = Arc<Mutex<BTreeMap<String, usize>>>;

fn note(seen: &Seen, body: &Value) {
    *seen.lock().unwrap().entry(body.as_str().unwrap_or("?").to_owned()).or_default() += 1;
}

/// Subscribes to everything, has a peer send each of these messages to each kind of subscriber with a good one behind it,
/// and returns how often each arrived.
fn send_to_all(
    broker: &Broker,
    options: CommunicatorBuilder,
    odd: &[(String, Json)],
) -> Result<BTreeMap<String, usize>, libtest_mimic::Failed> {
    let peer = pika(broker)?;
    run(async {
        let communicator = options.connect().await.unwrap();
        let events = communicator.events();
        let seen = Seen::default();
        let (calls, tasks, broadcasts) = (seen.clone(), seen.clone(), seen.clone());
        let rpc = RpcSubscriber::closure(move |request: RpcRequest| note(&calls, request.body()));
        communicator.add_rpc_subscriber("odd", rpc).await.unwrap();
        let work = TaskSubscriber::closure(move |task: TaskRequest| note(&tasks, task.body()));
        communicator.add_task_subscriber(work).await.unwrap();
        let hear = BroadcastSubscriber::closure(move |broadcast: Broadcast| note(&broadcasts, broadcast.body()));
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.unwrap();
        for (name, properties) in odd {
            let mut request = properties.clone();
            let mut publish = |exchange: String, key: &str, body: String| {
                request["exchange"] = exchange.into();
                request["routing_key"] = key.into();
                request["body"] = body.into();
                peer.call("publish", request.clone()).map(drop)
            };
            publish(broker.message_exchange(), "[rpc].odd", format!("call {name}"))?;
            publish(broker.task_exchange(), &broker.task_queue(), format!("[task {name}, true]"))?;
            let broadcast = format!("{{body: broadcast {name}, sender: null, subject: null, correlation_id: null}}");
            publish(broker.message_exchange(), "[broadcast]", broadcast)?;
        }
        for (exchange, key, body) in [
            (broker.message_exchange(), "[rpc].odd".to_owned(), "last call"),
            (broker.task_exchange(), broker.task_queue(), "[last task, true]"),
            (
                broker.message_exchange(),
                "[broadcast]".to_owned(),
                "{body: last broadcast, sender: null, subject: null, correlation_id: null}",
            ),
        ] {
            peer.call("publish", json!({"exchange": exchange, "routing_key": key, "body": body}))?;
        }
        for last in ["last call", "last task", "last broadcast"] {
            until(last, || seen.lock().unwrap().contains_key(last)).await;
        }
        let expected = odd.len() * 3 + 3;
        until("all come or are in quarantine", || {
            let quarantined = usize::try_from(communicator.counts().tasks_quarantined).unwrap();
            seen.lock().unwrap().len() + quarantined == expected
        })
        .await;
        close_undisturbed(communicator, events).await;
        let seen = seen.lock().unwrap().clone();
        Ok(seen)
    })
}

fn odd_properties(broker: &Broker) -> TestResult {
    let raw = json!({"$raw": "//6A"});
    let mut odd: Vec<(String, Json)> = Vec::new();
    for name in
        ["correlation_id", "message_id", "reply_to", "type", "app_id", "content_type", "content_encoding", "cluster_id"]
    {
        odd.push((name.to_owned(), json!({"properties": {name: raw}})));
    }
    odd.push(("header".to_owned(), json!({"odd_headers": [[raw, 1]]})));
    odd.push((
        "inner header".to_owned(),
        json!({"properties": {"headers": {"x": [{"y": 1}]}}, "odd_headers": [[raw, [1]]]}),
    ));
    odd.push(("all".to_owned(), json!({"properties": {"message_id": raw, "type": raw}, "odd_headers": [[raw, raw]]})));
    // Cut in the middle of a character, as a program does that counts bytes.
    odd.push(("cut".to_owned(), json!({"properties": {"message_id": {"$raw": "w6nD"}}})));
    let seen = send_to_all(broker, options(broker.url(), broker), &odd)?;
    for (name, _) in &odd {
        // An outcome could not reach a sender whose mark on the task cannot be written.
        let is_quarantined = ["correlation_id", "reply_to"].contains(&name.as_str());
        assert_eq!(seen.contains_key(&format!("task {name}")), !is_quarantined, "{name}");
    }
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    let peer = pika(broker)?;
    for _ in 0..2 {
        let message = peer.call("get", json!({"queue": format!("{}.quarantine", broker.task_queue())}))?;
        let headers = &message["properties"]["headers"];
        let reason = headers["homing-quarantine-reason"].as_str().unwrap_or_default();
        assert!(reason.contains("not UTF-8"), "{message}");
        let kept = |name: &str| headers[name]["$bytes"] == "//6A";
        assert!(kept("homing-odd-correlation-id") || kept("homing-odd-reply-to"), "{message}");
    }
    Ok(())
}

fn large_headers(broker: &Broker) -> TestResult {
    let text = |bytes: usize| json!({"properties": {"headers": {"large": "x".repeat(bytes)}}});
    let many: serde_json::Map<String, Json> = (0..2000).map(|n| (format!("h{n}"), json!([n, {"n": n}]))).collect();
    let odd: Vec<(String, Json)> = vec![
        ("10 kB".to_owned(), text(10_000)),
        ("just fits".to_owned(), text(3_900)),
        ("just too large".to_owned(), text(4_080)),
        ("100 kB".to_owned(), text(100_000)),
        ("largest".to_owned(), text(130_900)),
        ("many".to_owned(), json!({"properties": {"headers": many}})),
        (
            "long id".to_owned(),
            json!({"properties": {"message_id": "m".repeat(255), "headers": {"x": "y".repeat(3_600)}}}),
        ),
    ];
    let small = options(&format!("{}?frame_max=4096", broker.url()), broker);
    let seen = send_to_all(broker, small, &odd)?;
    assert_eq!(seen.len(), odd.len() * 3 + 3, "{seen:?}");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    Ok(())
}
