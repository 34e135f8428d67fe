//! Queues that are deleted under whoever looks into them, and under tasks that came from them.

use std::sync::Mutex;
use std::time::Duration;

use homing::{Attempt, ErrorKind, Failure, TaskRequest};
use serde_json::json;

use crate::support::{Broker, Suite, TestResult};
use crate::{LONG, options, pika, run};

pub(crate) fn add(suite: &mut Suite) {
    suite.kiwipy("a_deleted_queue_costs_no_task_in_hand", deleted);
}

/// Guards: a channel that the broker closes for a look into a queue that is gone, with a task that came by it and is in hand.
fn deleted(broker: &Broker) -> TestResult {
    let peer = pika(broker)?;
    run(async {
        let communicator = options(broker.url(), broker).connect().await.unwrap();
        let other = options(broker.url(), broker).connect().await.unwrap();
        let (work, gone) = (broker.name("work"), broker.name("gone"));
        let (queue, empty) = (communicator.task_queue(&*work).unwrap(), communicator.task_queue(&*gone).unwrap());
        queue.task_send("it").no_reply().await.unwrap();
        assert_eq!(empty.try_next().await.err().map(|error| error.kind()), Some(ErrorKind::QueueEmpty));

        let task = queue.try_next().await.unwrap();
        peer.call("delete", json!({"queue": gone}))?;
        for _ in 0..2 {
            assert_eq!(empty.try_next().await.err().map(|error| error.kind()), Some(ErrorKind::QueueEmpty));
        }
        let found = other.task_queue(&*work).unwrap().try_next().await;
        assert_eq!(found.err().map(|error| error.kind()), Some(ErrorKind::QueueEmpty), "it is in hand");

        // Its own queue goes, and it asks for another attempt.
        peer.call("delete", json!({"queue": work}))?;
        let attempt = Mutex::new(None);
        let seen = |task: &TaskRequest| *attempt.lock().unwrap() = Some(task.attempt());
        task.process(|task| {
            seen(task);
            Err::<(), _>(Failure::TryAgain("later".into()))
        });
        let again = tokio::time::timeout(LONG, queue.next_task(Duration::MAX)).await??;
        again.process(seen);
        assert_eq!(*attempt.lock().unwrap(), Some(Attempt::Exactly(2)));
        communicator.close().await.unwrap();
        other.close().await.unwrap();
        Ok(())
    })
}
