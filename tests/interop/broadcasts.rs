//! Broadcasts between kiwipy and homing.

use homing::{Broadcast, BroadcastFilter, BroadcastSubscriber, Failure, Value};
use serde_json::json;

use crate::support::{Broker, TestResult};
use crate::{LONG, Rust, Table, interop, python};

pub(crate) fn add(table: &mut Table<'_>) {
    interop!(table:
        kiwipy_hears_homing,
        homing_hears_kiwipy,
        an_unreadable_broadcast_is_dropped_and_others_are_heard,
        one_subscriber_that_fails_stops_nobody,
        a_broadcast_is_acknowledged_when_it_is_handed_over,
    );
}

type Heard = std::sync::mpsc::Receiver<Broadcast>;

fn hear(rust: &Rust, filter: BroadcastFilter) -> homing::Result<Heard> {
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let subscriber = BroadcastSubscriber::closure(move |broadcast: Broadcast| {
        tell.lock().unwrap().send(broadcast).ok();
    });
    rust.run(rust.communicator.add_broadcast_subscriber(filter, subscriber))?;
    Ok(told)
}

fn kiwipy_hears_homing(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let all = peer.call("add_broadcast_subscriber", json!({}))?;
    let some = peer.call("add_broadcast_subscriber", json!({"subject": "state_changed.*.finished", "sender": 4}))?;
    let send = |subject: &str, sender: i64| {
        let broadcast = rust.communicator.broadcast_send(Value::Tuple(vec![1.into(), "x".into()]));
        rust.run(broadcast.subject(subject).sender(sender).correlation_id("mark"))
    };
    send("state_changed.running.finished", 4)?;
    send("state_changed.running.finished", 5)?;
    send("kill", 4)?;
    let heard = peer.call("heard", json!({"log": all, "count": 3}))?;
    assert_eq!(heard[0]["body"], json!({"$tuple": [1, "x"]}));
    assert_eq!(heard[0]["subject"], "state_changed.running.finished");
    assert_eq!((&heard[0]["sender"], &heard[0]["correlation_id"]), (&json!(4), &json!("mark")));
    assert_eq!(peer.call("heard", json!({"log": some, "count": 1}))?.as_array().map(Vec::len), Some(1));
    Ok(())
}

fn homing_hears_kiwipy(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let all = hear(&rust, BroadcastFilter::new())?;
    let some = hear(&rust, BroadcastFilter::new().subject_regex("^(?!state_changed).*")?)?;
    let uuid = json!({"$uuid": "00000000-0000-0000-0000-000000000007"});
    peer.call(
        "broadcast_send",
        json!({"body": {"a": 1}, "sender": 4, "subject": "state_changed.a.b", "correlation_id": "c"}),
    )?;
    peer.call("broadcast_send", json!({"body": null, "subject": "kill"}))?;
    peer.call("broadcast_send", json!({"body": 1, "sender": uuid}))?;
    let first = all.recv_timeout(LONG)?;
    assert_eq!(first.body(), &Value::from_iter([("a", Value::from(1))]));
    assert_eq!((first.sender(), first.subject()), (&Value::from(4), Some("state_changed.a.b")));
    assert_eq!(first.correlation_id(), &Value::from("c"));
    let second = all.recv_timeout(LONG)?;
    assert_eq!((second.sender(), second.subject(), second.body()), (&Value::Null, Some("kill"), &Value::Null));
    assert!(matches!(all.recv_timeout(LONG)?.sender(), Value::Tagged(tagged) if tagged.tag.contains("uuid")));
    assert_eq!(some.recv_timeout(LONG)?.subject(), Some("kill"));
    Ok(())
}

fn an_unreadable_broadcast_is_dropped_and_others_are_heard(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let all = hear(&rust, BroadcastFilter::new())?;
    peer.call("raw_connect", json!({"url": broker.url()}))?;
    for body in ["{unclosed", "body: 1\nsender: null\nsubject: null\n", "- 1\n"] {
        peer.call(
            "raw_publish",
            json!({"exchange": broker.message_exchange(), "routing_key": "[broadcast]", "body": body}),
        )?;
    }
    peer.call("broadcast_send", json!({"body": "good"}))?;
    assert_eq!(all.recv_timeout(LONG)?.body(), &Value::from("good"));
    assert_eq!(rust.communicator.counts().broadcasts_unreadable, 3);
    Ok(())
}

fn one_subscriber_that_fails_stops_nobody(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let fails = BroadcastSubscriber::closure(|_: Broadcast| Err::<Value, _>(Failure::Exception("no".into())));
    rust.run(rust.communicator.add_broadcast_subscriber(BroadcastFilter::new(), fails))?;
    let all = hear(&rust, BroadcastFilter::new())?;
    peer.call("add_broadcast_subscriber", json!({"behaviour": "raise"}))?;
    let other = peer.call("add_broadcast_subscriber", json!({}))?;
    peer.call("broadcast_send", json!({"body": 1}))?;
    assert_eq!(all.recv_timeout(LONG)?.body(), &Value::from(1));
    assert_eq!(peer.call("heard", json!({"log": other, "count": 1}))?[0]["body"], 1);
    Ok(())
}

fn a_broadcast_is_acknowledged_when_it_is_handed_over(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    // A home that never ends its handler does not keep later broadcasts, however many, from another.
    let event_loop = homing::home::EventLoop::start("stuck")?;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let stuck = BroadcastSubscriber::closure(move |_: Broadcast| wait.lock().unwrap().recv().unwrap_or(()));
    let bound = rust.communicator.bound_to(&event_loop.handle().home());
    rust.run(bound.add_broadcast_subscriber(BroadcastFilter::new(), stuck))?;
    let all = hear(&rust, BroadcastFilter::new())?;
    for n in 0..50 {
        peer.call("broadcast_send", json!({"body": n}))?;
    }
    for n in 0..50 {
        assert_eq!(all.recv_timeout(LONG)?.body(), &Value::from(n));
    }
    drop(go);
    rust.run(rust.communicator.close())?;
    event_loop.stop();
    Ok(())
}
