//! The tests' own tools: they are to be believed before what they say about homing is.

mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use homing::Communicator;
use serde_json::json;

use support::node::Tls;
use support::suite::watched;
use support::{Broker, Node, Peer, Suite, TestResult, unique};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .plain("a_hang_is_a_failed_test_that_names_itself", hang)
        .plain("a_panic_is_a_failed_test_with_its_text", panic)
        .plain("names_are_unique", names)
        .both("brokers_are_the_trials_own", own_broker)
        .kiwipy("two_peers_call_each_other", calls)
        .kiwipy("an_exception_of_a_peer_is_told_by_its_type", exception)
        .kiwipy("a_killed_peer_ends_who_waits_for_it", killed)
        .kiwipy("a_hang_ends_the_peers_it_started", hung_peer)
        .node("a_node_keeps_persistent_messages_when_killed", node);
    suite.run()
}

fn hang() {
    let begin = Instant::now();
    let failed = watched("this_one", Duration::from_millis(200), || {
        std::thread::sleep(Duration::from_secs(60));
    });
    let text = failed.expect_err("it hung").message().unwrap_or_default().to_owned();
    assert_eq!(text, "hung: this_one had not ended after 200ms");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

fn panic() {
    let failed = watched("this_one", Duration::from_secs(5), || -> () { panic!("on {}", "purpose") });
    assert_eq!(failed.expect_err("it panicked").message(), Some("panicked: on purpose"));
}

fn names() {
    assert_ne!(unique("queue"), unique("queue"));
    assert_ne!(Broker::memory().prefix(), Broker::memory().prefix());
}

fn own_broker(broker: &Broker) {
    assert!(broker.task_queue().starts_with(broker.prefix()));
    assert_eq!(broker.is_memory(), !broker.url().starts_with("amqp"));
}

fn calls(broker: &Broker) -> TestResult {
    let server = Peer::kiwipy(broker, json!({}))?;
    let client = Peer::kiwipy(broker, json!({}))?;
    let identifier = server.call("add_rpc_subscriber", json!({"behaviour": "nested-future", "depth": 2}))?;
    let first = client.begin("rpc_send", json!({"recipient": identifier, "body": {"$tuple": [1, "ü"]}}));
    let second = client.begin("rpc_send", json!({"recipient": identifier, "body": null}));
    assert_eq!(second.wait()?, json!({"outcome": "result", "value": null, "stages": 2}));
    assert_eq!(first.wait()?, json!({"outcome": "result", "value": {"$tuple": [1, "ü"]}, "stages": 2}));
    let heard = server.call("heard", json!({"log": identifier, "count": 2}))?;
    assert_eq!(heard.as_array().map(Vec::len), Some(2));
    Ok(())
}

fn exception(broker: &Broker) -> TestResult {
    let peer = Peer::kiwipy(broker, json!({}))?;
    peer.call("add_rpc_subscriber", json!({"identifier": "once"}))?;
    let error = peer.call("add_rpc_subscriber", json!({"identifier": "once"})).expect_err("it is taken");
    assert_eq!(error.kind, "DuplicateSubscriberIdentifier");
    Ok(())
}

fn killed(broker: &Broker) -> TestResult {
    let peer = Peer::kiwipy(broker, json!({}))?;
    let answer = peer.begin("heard", json!({"log": "nothing", "count": 1, "timeout": 30}));
    peer.kill();
    assert_eq!(answer.wait().expect_err("it is dead").kind, "gone");
    assert_eq!(peer.call("ping", json!({})).expect_err("it is dead").kind, "gone");
    Ok(())
}

fn hung_peer(_: &Broker) {
    let begin = Instant::now();
    let (sender, started) = channel();
    let failed = watched("peer_and_hang", Duration::from_secs(1), move || {
        let peer = Peer::start("kiwipy_peer.py");
        sender.send(peer.pid()).expect("the test waits");
        // Answered only when the peer is killed, long before its time.
        let _ = peer.call("heard", json!({"log": "nothing", "count": 1, "timeout": 50}));
        std::thread::sleep(Duration::from_secs(50));
        drop(peer);
    });
    assert!(failed.is_err());
    let pid = started.recv().expect("it had started");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the peer outlived its trial");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

fn node() -> TestResult {
    let node = Node::start(Tls::No)?;
    let broker = &Broker::at(node.url());
    let before = Peer::kiwipy(broker, json!({"testing_mode": false}))?;
    before.call("task_send", json!({"body": "kept", "no_reply": true}))?;
    // kiwipy does not say when a task without reply is in its queue.
    let kept = format!("{}\t1", broker.task_queue());
    let until = Instant::now() + Duration::from_secs(20);
    while !node.ctl(&["list_queues", "name", "messages"])?.contains(&kept) {
        assert!(Instant::now() < until, "the task does not come to its queue");
        std::thread::sleep(Duration::from_millis(50));
    }
    // For a moment it lies there in memory alone. What is confirmed after it is on the disk, and it with that.
    let communicator = Communicator::builder(broker.url()).prefix(broker.prefix()).connect_blocking()?;
    communicator.task_queue(broker.task_queue())?.task_send("confirmed").no_reply().wait()?;
    communicator.close()?;
    node.kill()?;
    before.kill();
    node.restart()?;
    let after = Peer::kiwipy(broker, json!({"testing_mode": false}))?;
    // A node takes connections a moment before it has read all its queues back in.
    let until = Instant::now() + Duration::from_secs(20);
    let kept = loop {
        match after.call("next_task", json!({})) {
            Err(error) if error.kind == "QueueEmpty" && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            kept => break kept?,
        }
    };
    assert_eq!(kept["body"], "kept");
    assert!(node.ctl(&["list_queues", "name"])?.contains(&broker.task_queue()));
    Ok(())
}
