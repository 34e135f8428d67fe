//! What homing adds to a message is measured: it is cut to what fits into a frame, and an attempt counts however it ends.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use homing::{ErrorKind, Failure, TaskRequest, TaskSubscriber, Value};
use serde_json::json;

use crate::support::{Broker, Suite, TestResult};
use crate::{close_undisturbed, options, pika, run, until};

pub(crate) fn add(suite: &mut Suite) {
    suite.kiwipy("what_homing_adds_is_cut_to_fit", added_text);
    suite.kiwipy("numbers_in_headers_are_not_trusted", numbers);
    suite.rabbitmq("a_task_that_is_let_go_of_does_not_spin", attempts);
}

const ATTEMPTS: NonZeroU32 = NonZeroU32::new(3).unwrap();

fn added_text(broker: &Broker) -> TestResult {
    let peer = pika(broker)?;
    let queue = broker.task_queue();
    let quarantine = format!("{queue}.quarantine");
    let reasons = ["x".repeat(200_000), "é".repeat(100_001), "\u{1f600}".repeat(40_000), "line\n".repeat(30_000)];
    for frame_max in ["", "?frame_max=4096"] {
        for (number, reason) in reasons.iter().enumerate() {
            let url = format!("{}{frame_max}", broker.url());
            run(async {
                let communicator =
                    options(&url, broker).task_attempts(ATTEMPTS, Duration::from_millis(10)).connect().await.unwrap();
                let events = communicator.events();
                let ran = Arc::new(AtomicUsize::new(0));
                let (counter, text) = (ran.clone(), reason.clone());
                let work = TaskSubscriber::closure(move |_: TaskRequest| {
                    counter.fetch_add(1, Ordering::SeqCst);
                    Err::<Value, _>(Failure::TryAgain(text.clone()))
                });
                communicator.add_task_subscriber(work).await.unwrap();
                let error = communicator.task_send(1).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::RemoteException, "{number}");
                // Beside headers that leave no room for anything.
                let bytes = if frame_max.is_empty() { 130_900 } else { 3_900 };
                let message = json!({
                    "exchange": broker.task_exchange(), "routing_key": queue, "body": "[2, true]",
                    "properties": {"headers": {"theirs": "h".repeat(bytes)}},
                });
                peer.call("publish", message).unwrap();
                until("both are in quarantine", || communicator.counts().tasks_quarantined == 2).await;
                assert_eq!(ran.load(Ordering::SeqCst), 6, "{number}: the attempts of both");
                close_undisturbed(communicator, events).await;
            });
            for _ in 0..2 {
                let message = peer.call("get", json!({"queue": quarantine}))?;
                let kept = message["properties"]["headers"]["homing-quarantine-reason"].as_str().unwrap_or_default();
                assert!(kept.len() > 40 && kept.len() < 131_000, "{number}: {} bytes", kept.len());
            }
            assert_eq!(peer.call("get", json!({"queue": quarantine}))?, json!(null));
        }
    }
    Ok(())
}

/// Numbers of homing's own headers, as no program of homing writes them.
fn numbers(broker: &Broker) -> TestResult {
    let peer = pika(broker)?;
    let values = [
        json!("4294967295"),
        json!("4294967294"),
        json!("18446744073709551615"),
        json!("18446744073709551616"),
        json!("-1"),
        json!(""),
        json!("1e9"),
        json!("x".repeat(100_000)),
        json!(-1),
        json!(i64::MAX),
        json!(null),
        json!([1, {"a": 1}]),
        json!({"$bytes": "/w=="}),
    ];
    run(async {
        let communicator =
            options(broker.url(), broker).task_attempts(ATTEMPTS, Duration::from_millis(1)).connect().await.unwrap();
        let events = communicator.events();
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = ran.clone();
        let work = TaskSubscriber::closure(move |_: TaskRequest| {
            counter.fetch_add(1, Ordering::SeqCst);
            Err::<Value, _>(Failure::TryAgain("not yet".into()))
        });
        communicator.add_task_subscriber(work).await.unwrap();
        let names =
            ["homing-attempt", "homing-resend", "homing-lease", "homing-copy", "homing-quarantine-queue", "x-death"];
        for name in names {
            for (number, value) in values.iter().enumerate() {
                let message = json!({
                    "exchange": broker.task_exchange(), "routing_key": broker.task_queue(),
                    "body": format!("[{name} {number}, true]"), "properties": {"headers": {name: value}},
                });
                peer.call("publish", message).unwrap();
            }
        }
        let sent = names.len() * values.len();
        until("all are in quarantine", || usize::try_from(communicator.counts().tasks_quarantined).unwrap() == sent)
            .await;
        let ran = ran.load(Ordering::SeqCst);
        assert!(ran >= sent && ran <= sent * 3, "{ran} runs of {sent} tasks");
        close_undisturbed(communicator, events).await;
    });
    Ok(())
}

/// An attempt counts however it ends, so that a worker that lets its tasks go does not spin.
fn attempts(broker: &Broker) {
    run(async {
        let communicator = options(broker.url(), broker).connect().await.unwrap();
        communicator.task_send(1).no_reply().await.unwrap();
        let queue = communicator.default_task_queue().unwrap();
        let begin = std::time::Instant::now();
        let mut times = 0;
        while begin.elapsed() < Duration::from_secs(3) {
            if let Ok(task) = queue.next_task(Duration::from_millis(200)).await {
                drop(task);
                times += 1;
            }
        }
        assert!((2..40).contains(&times), "a task that is let go of came {times} times in 3 s");
        communicator.close().await.unwrap();
    });
}
