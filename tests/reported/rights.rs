//! A user who may use exactly the names that kiwipy uses: homing works for such a user as kiwipy does, without its
//! extensions, and loses nothing where an extension would have been the place for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use homing::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, ConnectionEvent, ErrorKind, Failure, LongTasks, RpcRequest,
    RpcSubscriber, TaskRequest, TaskSubscriber, Value,
};
use serde_json::json;

use crate::support::suite::Need;
use crate::support::{Broker, Node, Peer, Suite, TestResult, Tls};
use crate::{LONG, options, pika, run, until};

pub(crate) fn add(suite: &mut Suite) {
    let needs = [Need::Node, Need::Python];
    suite.with("node::permissions_for_the_names_of_kiwipy_are_enough", &needs, few_names);
    suite.node("a_limit_of_channels_is_shared", few_channels);
}

/// A user with so few channels that subscribers have to share them, which no connection tells of; then with too few.
fn few_channels() -> TestResult {
    const SUBSCRIBERS: usize = 12;
    let node = Node::start(Tls::No)?;
    let admin = Broker::at(node.url());
    node.ctl(&["add_user", "few", "few"])?;
    node.ctl(&["set_permissions", "-p", "/", "few", ".*", ".*", ".*"])?;
    node.ctl(&["set_user_limits", "few", r#"{"max-channels": 8}"#])?;
    let few = node.url().replace("guest:guest@", "few:few@");
    run(async {
        let communicator = options(&few, &admin).operation_timeout(LONG).connect().await?;
        let mut events = communicator.events();
        for number in 0..SUBSCRIBERS {
            let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
            communicator.add_rpc_subscriber(format!("echo-{number}"), echo).await?;
        }
        for number in 0..SUBSCRIBERS {
            assert_eq!(communicator.rpc_send(format!("echo-{number}"), number).await?, Value::from(number));
        }
        // What there is by now, without waiting for more.
        let mut losses = 0;
        while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
            if let ConnectionEvent::Lost(error) = event {
                assert!(error.to_string().contains("max-channels"), "{error}");
                losses += 1;
            }
        }
        assert!((1..=4).contains(&losses), "{losses} losses until subscribers shared what there was");
        node.ctl(&["set_user_limits", "few", r#"{"max-channels": 1}"#])?;
        node.ctl(&["close_all_connections", "for a test"])?;
        let unsent = communicator.rpc_send("echo-0", 1).timeout(Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(unsent.kind(), ErrorKind::TimedOut, "{unsent}");
        node.ctl(&["clear_user_limits", "few", "max-channels"])?;
        assert_eq!(communicator.rpc_send("echo-0", 1).await?, Value::from(1));
        communicator.close().await?;
        Ok(())
    })
}

fn few_names() -> TestResult {
    let node = Node::start(Tls::No)?;
    let admin = Broker::at(node.url());
    let (messages, tasks, queue) = (admin.message_exchange(), admin.task_exchange(), admin.task_queue());
    let names = format!(
        "^({messages}|{tasks}|{queue}|({messages}|{tasks})-reply-[-0-9a-f]+|(rpc-|amq_)[-0-9a-f]+|broadcast-[0-9A-Za-z]+)$"
    );
    node.ctl(&["add_user", "few", "few"])?;
    node.ctl(&["set_permissions", "-p", "/", "few", &names, &names, &names])?;
    let few = node.url().replace("guest:guest@", "few:few@");
    check(&node, &admin, &few, "by name")?;
    run(no_leases(&admin, &few))?;
    // And by key, in both exchanges.
    let keys = format!("^(\\[rpc\\]\\..*|\\[broadcast\\]|{queue}|({messages}|{tasks})-reply-[-0-9a-f]+)$");
    for exchange in [&messages, &tasks] {
        node.ctl(&["set_topic_permissions", "-p", "/", "few", exchange, &keys, &keys])?;
    }
    check(&node, &admin, &few, "by name and key")
}

/// Tasks that cannot go on lease are done all the same, and a drain ends behind them.
async fn no_leases(admin: &Broker, few: &str) -> TestResult {
    let long = LongTasks::new().after(Duration::from_millis(100));
    let communicator = options(few, admin).unlimited_task_prefetch().long_tasks(long).connect().await?;
    let work = TaskSubscriber::future(async |task: TaskRequest| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        task.into_body()
    });
    communicator.add_task_subscriber(work).await?;
    let mut replies = Vec::new();
    for n in 0..100 {
        replies.push(communicator.task_send(n).send().await?);
    }
    for (n, reply) in (0..).zip(replies) {
        assert_eq!(reply.await?, Value::from(n));
    }
    let began = std::time::Instant::now();
    communicator.drain(LONG).await?;
    assert!(began.elapsed() < LONG / 2, "it waits for what is not there: {:?}", began.elapsed());
    Ok(())
}

fn check(node: &Node, admin: &Broker, few: &str, what: &str) -> TestResult {
    let arguments = json!({
        "url": few, "message_exchange": admin.message_exchange(), "task_exchange": admin.task_exchange(),
        "task_queue": admin.task_queue(), "testing_mode": true,
    });
    // kiwipy serves there.
    let kiwipy = Peer::start("kiwipy_peer.py");
    kiwipy.call("connect", arguments)?;
    kiwipy.call("add_rpc_subscriber", json!({"identifier": "kiwipy"}))?;
    kiwipy.call("add_broadcast_subscriber", json!({"identifier": "heard"}))?;
    let sender = pika(admin)?;
    run(async {
        let attempts = std::num::NonZeroU32::new(3).unwrap();
        let communicator = options(few, admin).task_attempts(attempts, Duration::from_millis(50)).connect().await?;
        let mut events = communicator.events();
        let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
        communicator.add_rpc_subscriber("homing", echo).await?;
        let heard = Arc::new(AtomicUsize::new(0));
        let counter = heard.clone();
        let hear = BroadcastSubscriber::closure(move |_: Broadcast| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await?;
        let (ran, tried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (runs, tries) = (ran.clone(), tried.clone());
        let work = TaskSubscriber::closure(move |task: TaskRequest| {
            runs.fetch_add(1, Ordering::SeqCst);
            if task.body().as_str() == Some("again") {
                tries.fetch_add(1, Ordering::SeqCst);
                return Err(Failure::TryAgain("not yet".into()));
            }
            Ok(task.into_body())
        });
        let worker = communicator.add_task_subscriber(work).await?;

        for _ in 0..3 {
            let answer = kiwipy.call("rpc_send", json!({"recipient": "homing", "body": "from kiwipy"}))?;
            assert_eq!(answer["value"], "from kiwipy", "{what}: {answer}");
            assert_eq!(communicator.rpc_send("kiwipy", 1).await?, Value::from(1), "{what}");
            assert_eq!(communicator.rpc_send("homing", 2).await?, Value::from(2), "{what}");
            assert_eq!(communicator.task_send(3).await?, Value::from(3), "{what}");
            let outcome = kiwipy.call("task_send", json!({"body": 4}))?;
            assert_eq!(outcome["value"], 4, "{what}: {outcome}");
            communicator.broadcast_send("to all").await?;
            kiwipy.call("broadcast_send", json!({"body": "from kiwipy"}))?;
        }
        until("broadcasts come", || heard.load(Ordering::SeqCst) == 6).await;
        assert_eq!(kiwipy.call("heard", json!({"log": "heard", "count": 6}))?.as_array().map(Vec::len), Some(6));
        // A caller that gives up has no way to tell so, and that is all.
        let gone = communicator.rpc_send("homing", 5).timeout(Duration::from_nanos(1)).await;
        assert!(gone.is_ok() || gone.is_err_and(|error| error.kind() == ErrorKind::TimedOut), "{what}");

        // What would go into quarantine, and what would be tried again as a copy, is not lost, and does not spin.
        let runs_before = ran.load(Ordering::SeqCst);
        sender.call("publish", json!({"exchange": "", "routing_key": admin.task_queue(), "body": "{no task}"}))?;
        sender.call("publish", json!({"exchange": "", "routing_key": admin.task_queue(), "body": "[again, true]"}))?;
        until("it is tried", || tried.load(Ordering::SeqCst) > 0).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(communicator.task_send(6).await?, Value::from(6), "{what}: others are done meanwhile");
        let runs = ran.load(Ordering::SeqCst) - runs_before;
        assert!(runs < 40, "{what}: {runs} runs in 3 s");
        communicator.default_task_queue()?.remove_task_subscriber(&worker).await?;
        communicator.close().await?;
        while let Some(event) = events.next().await {
            match event {
                ConnectionEvent::Closed => break,
                ConnectionEvent::Lost(_) | ConnectionEvent::Reconnecting { .. } => panic!("{what}: {event:?}"),
                _ => {}
            }
        }
        // Both are in the queue again.
        let end = std::time::Instant::now() + Duration::from_secs(10);
        let mut bodies = Vec::new();
        while bodies.len() < 2 {
            let message = sender.call("get", json!({"queue": admin.task_queue()}))?;
            match message.is_null() {
                true => tokio::time::sleep(Duration::from_millis(50)).await,
                false => bodies.push(message["body"].to_string()),
            }
            assert!(std::time::Instant::now() < end, "{what}: only {bodies:?} of {}", node.ctl(&["list_queues"])?);
        }
        Ok(())
    })
}
