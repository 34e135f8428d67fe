//! Tasks between kiwipy and homing, on one queue.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use homing::{Answer, ErrorKind, Failure, HandlerResult, ReplyStage, TaskRequest, TaskSubscriber, Value};
use serde_json::json;

use crate::support::{Broker, Peer, TestResult};
use crate::{LONG, Rust, Table, interop, is_exception, is_result, python};

pub(crate) fn add(table: &mut Table<'_>) {
    interop!(table:
        kiwipy_sends_tasks_to_homing,
        homing_sends_tasks_to_kiwipy,
        both_work_on_one_queue_and_each_task_runs_once,
        a_task_is_acknowledged_when_its_outcome_is_known,
        a_task_that_homing_rejects_goes_to_kiwipy,
        a_task_that_kiwipy_rejects_goes_to_homing,
        a_task_that_is_cancelled_goes_back,
        a_task_whose_future_is_cancelled_goes_back_after_pending,
        a_task_without_reply_is_answered_by_nobody,
        an_unreadable_task_goes_into_quarantine,
        the_first_exception_ends_a_task,
        tasks_are_taken_by_hand_on_both_sides,
        the_durable_queue_of_production_is_shared,
    );
}

fn echo() -> TaskSubscriber {
    TaskSubscriber::closure(TaskRequest::into_body)
}

fn kiwipy_sends_tasks_to_homing(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    rust.run(rust.communicator.add_task_subscriber(TaskSubscriber::closure(|task: TaskRequest| {
        match task.body().get("do").and_then(Value::as_str) {
            Some("fail") => Err(Failure::Exception("boom".into())),
            Some("later") => Ok(Answer::later(async { "done later" })),
            _ => Ok(Answer::Value(task.into_body())),
        }
    })))?;
    let body = json!({"task": "continue", "args": {"pid": 4, "nowait": false, "tag": null}});
    is_result(&peer.call("task_send", json!({"body": body}))?, &body)?;
    is_exception(&peer.call("task_send", json!({"body": {"do": "fail"}}))?, "RemoteException", "boom")?;
    let outcome = peer.call("task_send", json!({"body": {"do": "later"}}))?;
    is_result(&outcome, &json!("done later"))?;
    assert_eq!(outcome["stages"], 1);
    Ok(())
}

fn homing_sends_tasks_to_kiwipy(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    peer.call("add_task_subscriber", json!({"identifier": "w", "behaviour": "nested-future", "depth": 2}))?;
    let mut reply = rust.run(rust.communicator.task_send("work").send())?;
    for _ in 0..2 {
        assert_eq!(rust.run(reply.stage())?, ReplyStage::Pending);
    }
    assert_eq!(rust.run(reply.stage())?, ReplyStage::Done(Value::from("work")));
    peer.call("remove_task_subscriber", json!({"identifier": "w"}))?;
    peer.call("add_task_subscriber", json!({"behaviour": "raise", "text": "boom"}))?;
    assert_eq!(rust.run(rust.communicator.task_send(1)).unwrap_err().remote_text(), Some("boom"));
    Ok(())
}

fn both_work_on_one_queue_and_each_task_runs_once(broker: &Broker) -> TestResult {
    let rust = Rust::with(broker, |options| options.task_prefetch(NonZeroU16::MIN));
    let peer = Peer::kiwipy(broker, json!({"prefetch": 1}))?;
    let ran = Arc::new(Mutex::new(Vec::new()));
    let notes = ran.clone();
    let work = TaskSubscriber::future(move |task: TaskRequest| {
        let notes = notes.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            notes.lock().unwrap().push(task.body().as_i64().unwrap());
            task.into_body()
        }
    });
    rust.run(rust.communicator.add_task_subscriber(work))?;
    let worker = peer.call("add_task_subscriber", json!({"behaviour": "future", "delay": 0.005}))?;
    let sends = (0..60).map(|n| rust.communicator.task_send(n).into_future());
    for (n, outcome) in (0..).zip(rust.run(futures_util::future::join_all(sends))) {
        assert_eq!(outcome?, Value::from(n));
    }
    let there = peer.call("heard", json!({"log": worker}))?;
    let there: Vec<i64> = there.as_array().unwrap().iter().map(|entry| entry["body"].as_i64().unwrap()).collect();
    let here = ran.lock().unwrap().clone();
    assert!(!here.is_empty() && !there.is_empty(), "both had their share: {} and {}", here.len(), there.len());
    let mut all: Vec<i64> = here.into_iter().chain(there).collect();
    all.sort_unstable();
    assert_eq!(all, (0..60).collect::<Vec<_>>(), "each once");
    Ok(())
}

fn a_task_is_acknowledged_when_its_outcome_is_known(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let (promises, mut given) = tokio::sync::mpsc::unbounded_channel();
    let holds = TaskSubscriber::closure(move |_: TaskRequest| {
        let (promise, answer) = Answer::promise()?;
        promises.send(promise).ok();
        HandlerResult::Ok(answer)
    });
    rust.run(rust.communicator.add_task_subscriber(holds))?;
    let call = peer.call("task_send", json!({"body": 1, "wait": false}))?;
    let promise = rust.run(given.recv()).unwrap();
    // While it is open the task is not acknowledged: the end of its worker puts it back.
    rust.run(rust.communicator.close())?;
    drop(promise);
    let task = by_hand(&peer, &json!({"action": "result", "value": "by kiwipy"}))?;
    assert_eq!(task["body"], 1);
    is_result(&peer.call("outcome", json!({"call": call["call"]}))?, &json!("by kiwipy"))
}

fn a_task_that_homing_rejects_goes_to_kiwipy(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let rejects = TaskSubscriber::closure(move |_: TaskRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        Err::<Value, _>(Failure::Rejected("not here".into()))
    });
    rust.run(rust.communicator.add_task_subscriber(rejects))?;
    let call = peer.call("task_send", json!({"body": 1, "wait": false}))?;
    std::thread::sleep(Duration::from_millis(500));
    let spun = asked.load(Ordering::SeqCst);
    assert!((1..20).contains(&spun), "asked {spun} times in half a second: with pauses, not in a hot loop");
    peer.call("add_task_subscriber", json!({}))?;
    is_result(&peer.call("outcome", json!({"call": call["call"]}))?, &json!(1))
}

fn a_task_that_kiwipy_rejects_goes_to_homing(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    peer.call("add_task_subscriber", json!({"behaviour": "reject"}))?;
    let reply = rust.run(rust.communicator.task_send(1).send())?;
    rust.run(
        rust.communicator.add_task_subscriber(TaskSubscriber::closure(|task: TaskRequest| task.is_redelivered())),
    )?;
    // Redelivered, unless homing was the first to get it.
    assert!(matches!(rust.run(reply)?, Value::Bool(_)));
    Ok(())
}

fn a_task_that_is_cancelled_goes_back(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let cancels_once = TaskSubscriber::closure(move |_: TaskRequest| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Failure::Cancelled),
        _ => Ok(Value::from("the second time")),
    });
    rust.run(rust.communicator.add_task_subscriber(cancels_once))?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let later = TaskSubscriber::closure(move |_: TaskRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        1
    });
    rust.run(rust.communicator.add_task_subscriber(later))?;
    is_result(&peer.call("task_send", json!({"body": 1}))?, &json!("the second time"))?;
    assert_eq!((runs.load(Ordering::SeqCst), asked.load(Ordering::SeqCst)), (2, 0), "later subscribers are not called");
    Ok(())
}

fn a_task_whose_future_is_cancelled_goes_back_after_pending(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let cancels_once = TaskSubscriber::closure(move |_: TaskRequest| {
        if count.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(Answer::from("the second time"));
        }
        let (promise, answer) = Answer::promise()?;
        std::thread::spawn(move || promise.cancel());
        HandlerResult::Ok(answer)
    });
    rust.run(rust.communicator.add_task_subscriber(cancels_once))?;
    let outcome = peer.call("task_send", json!({"body": 1}))?;
    is_result(&outcome, &json!("the second time"))?;
    assert_eq!(outcome["stages"], 1);
    Ok(())
}

fn a_task_without_reply_is_answered_by_nobody(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let (tell, told) = std::sync::mpsc::channel();
    let work = TaskSubscriber::closure(move |task: TaskRequest| {
        tell.send(task.is_no_reply()).ok();
        Answer::later(async { 1 })
    });
    let worker = rust.run(rust.communicator.add_task_subscriber(work))?;
    let outcome = peer.call("task_send", json!({"body": 1, "no_reply": true}))?;
    assert_eq!(outcome["outcome"], "none");
    assert!(told.recv_timeout(LONG)?);
    rust.run(rust.communicator.remove_task_subscriber(&worker))?;
    let identifier = peer.call("add_task_subscriber", json!({}))?;
    rust.run(rust.communicator.task_send(2).no_reply())?;
    let heard = peer.call("heard", json!({"log": identifier, "count": 1}))?;
    assert_eq!(heard[0]["body"], 2);
    // A reply of either would come before that of a task sent after.
    assert_eq!(rust.run(rust.communicator.task_send(3))?, Value::from(3));
    assert_eq!(rust.communicator.counts().late_replies, 0);
    Ok(())
}

fn an_unreadable_task_goes_into_quarantine(broker: &Broker) -> TestResult {
    let rust = Rust::with(broker, |options| options.task_prefetch(NonZeroU16::MIN));
    let peer = python(broker)?;
    rust.run(rust.communicator.add_task_subscriber(echo()))?;
    peer.call("raw_connect", json!({"url": broker.url()}))?;
    for body in ["{unclosed", "just a text\n", "- 1\n- 2\n- 3\n"] {
        peer.call(
            "raw_publish",
            json!({"exchange": broker.task_exchange(), "routing_key": broker.task_queue(), "body": body,
                   "properties": {"message_id": "m-1", "headers": {}}}),
        )?;
    }
    rust.run(crate::support::eventually(|| rust.communicator.counts().tasks_quarantined == 3));
    let quarantine = format!("{}.quarantine", broker.task_queue());
    let message = peer.call("raw_get", json!({"queue": quarantine}))?;
    let reason = message["properties"]["headers"]["homing-quarantine-reason"].to_string();
    assert!(reason.contains("cannot be read"), "{message}");
    is_result(&peer.call("task_send", json!({"body": 1}))?, &json!(1))
}

fn the_first_exception_ends_a_task(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let fails = TaskSubscriber::closure(|_: TaskRequest| Err::<Value, _>(Failure::Exception("first".into())));
    let second = TaskSubscriber::closure(move |_: TaskRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        "second"
    });
    rust.run(rust.communicator.add_task_subscriber(fails))?;
    rust.run(rust.communicator.add_task_subscriber(second))?;
    is_exception(&peer.call("task_send", json!({"body": 1}))?, "RemoteException", "first")?;
    rust.run(rust.communicator.close())?;
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    Ok(())
}

/// kiwipy's `next_task`, which is one look: again until what was put back has arrived.
fn by_hand(peer: &Peer, how: &serde_json::Value) -> Result<serde_json::Value, crate::support::PeerError> {
    let until = std::time::Instant::now() + LONG;
    loop {
        match peer.call("next_task", how.clone()) {
            Err(error) if error.kind == "QueueEmpty" && std::time::Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            taken => return taken,
        }
    }
}

fn tasks_are_taken_by_hand_on_both_sides(broker: &Broker) -> TestResult {
    let (rust, peer) = (Rust::connect(broker), python(broker)?);
    let queue = rust.communicator.default_task_queue()?;
    let error = peer.call("next_task", json!({})).expect_err("empty");
    assert_eq!(error.kind, "QueueEmpty");
    assert_eq!(rust.run(queue.try_next()).unwrap_err().kind(), ErrorKind::QueueEmpty);
    // homing takes what kiwipy sends, and puts it back for kiwipy.
    let call = peer.call("task_send", json!({"body": {"n": 1}, "wait": false}))?;
    let task = rust.run(queue.next_task(LONG))?;
    assert_eq!(task.body().get("n"), Some(&Value::from(1)));
    task.requeue();
    let task = by_hand(&peer, &json!({"action": "leave"}))?;
    assert_eq!(task["body"], json!({"n": 1}));
    rust.run(queue.next_task(LONG))?.finish("by hand");
    is_result(&peer.call("outcome", json!({"call": call["call"]}))?, &json!("by hand"))?;
    // And the other way round.
    let reply = rust.run(rust.communicator.task_send(2).send())?;
    by_hand(&peer, &json!({"action": "result", "value": "by kiwipy"}))?;
    assert_eq!(rust.run(reply)?, Value::from("by kiwipy"));
    Ok(())
}

fn the_durable_queue_of_production_is_shared(broker: &Broker) -> TestResult {
    // Without testing mode: what each declares must be what the other expects.
    let rust = Rust::with(broker, |options| options.testing(homing::TestingMode::No));
    let peer = Peer::kiwipy(broker, json!({"testing_mode": false}))?;
    rust.run(rust.communicator.add_task_subscriber(echo()))?;
    is_result(&peer.call("task_send", json!({"body": 1}))?, &json!(1))?;
    let call = peer.call("rpc_send", json!({"recipient": "nobody", "body": 1}))?;
    is_exception(&call, "UnroutableError", "")?;
    peer.call("add_rpc_subscriber", json!({"identifier": "python"}))?;
    assert_eq!(rust.run(rust.communicator.rpc_send("python", 2))?, Value::from(2));
    rust.run(rust.communicator.close())?;
    peer.call("raw_connect", json!({"url": broker.url()}))?;
    peer.call("raw_delete", json!({"queue": broker.task_queue()}))?;
    for exchange in [broker.task_exchange(), broker.message_exchange()] {
        peer.call("raw_delete", json!({"exchange": exchange}))?;
    }
    Ok(())
}
