//! Closing: from anywhere, any number of times, bounded; nobody is left waiting.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

use homing::{Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, ConnectionEvent, Error, ErrorKind, Failure};
use homing::{RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value};

use crate::support::homes::{Kind, Place};
use crate::support::{Broker, Suite};
use crate::{LONG, behaviours, connect, options};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        closing_ends_every_caller_that_still_waits,
        closing_twice_gives_the_same_report,
        closing_from_two_threads_at_once_ends_both,
        closing_from_a_subscriber_ends,
        closing_from_a_callback_and_from_a_drop_ends,
        closing_waits_for_what_was_sent_before,
        a_close_while_a_subscriber_is_added_is_in_order,
        after_closing_everything_is_refused,
        dropping_the_last_handle_closes,
        dropping_a_handle_among_others_does_not,
        closing_leaves_no_thread_behind,
        a_connect_that_is_given_up_leaves_nothing,
        events_end_with_closed,
        a_subscriber_whose_runtime_ends_is_taken_out,
        a_stream_that_is_dropped_is_no_lost_subscriber,
        a_task_whose_runtime_ends_goes_back,
    );
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

fn never() -> RpcSubscriber {
    RpcSubscriber::future(|_: RpcRequest| std::future::pending::<Value>())
}

async fn closing_ends_every_caller_that_still_waits(broker: Broker) {
    let (server, client) = (connect(&broker).await, connect(&broker).await);
    server.add_rpc_subscriber("never", never()).await.unwrap();
    let mut replies = Vec::new();
    for _ in 0..50 {
        replies.push(client.rpc_send("never", 0).send().await.unwrap());
    }
    let started = Instant::now();
    let report = client.close().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(report.requests_ended, 50);
    assert!(report.error.is_none(), "{report:?}");
    for reply in replies {
        assert_eq!(kind(reply.await), ErrorKind::CommunicatorClosed);
    }
}

async fn closing_twice_gives_the_same_report(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber("never", never()).await.unwrap();
    let _reply = communicator.rpc_send("never", 0).send().await.unwrap();
    assert_eq!(communicator.close().await.unwrap().requests_ended, 1);
    assert_eq!(communicator.close().await.unwrap().requests_ended, 1);
    assert!(communicator.is_closed());
}

async fn closing_from_two_threads_at_once_ends_both(broker: Broker) {
    for _ in 0..5 {
        let communicator = connect(&broker).await;
        let barrier = Arc::new(std::sync::Barrier::new(4));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (communicator, barrier) =
                    (homing::blocking::Communicator::from(communicator.clone()), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    communicator.close().unwrap()
                })
            })
            .collect();
        for thread in threads {
            tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap();
        }
        assert!(communicator.is_closed());
    }
}

async fn closing_from_a_subscriber_ends(broker: Broker) {
    let (server, client) = (connect(&broker).await, connect(&broker).await);
    let closes = server.clone();
    let subscriber = RpcSubscriber::future(move |_: RpcRequest| {
        let closes = closes.clone();
        async move { Answer::from(i64::try_from(closes.close().await.unwrap().requests_ended).unwrap()) }
    });
    server.add_rpc_subscriber("close", subscriber).await.unwrap();
    // The answer may or may not get out; the caller is never left hanging.
    let outcome = client.rpc_send("close", 0).timeout(Duration::from_secs(2)).await;
    assert!(matches!(
        outcome.map_err(|error| error.kind()),
        Ok(_) | Err(ErrorKind::TimedOut | ErrorKind::RemoteException)
    ));
    // Its caller may hear that there will be no answer before the close has come to its end.
    crate::support::eventually(|| server.is_closed()).await;
    let other = connect(&broker).await;
    let blocking = homing::blocking::Communicator::from(other.clone());
    other
        .add_rpc_subscriber(
            "blocking",
            RpcSubscriber::blocking(move |_: RpcRequest| blocking.close().map(|_| Value::Null)),
        )
        .await
        .unwrap();
    let _ = client.rpc_send("blocking", 0).timeout(Duration::from_secs(2)).await;
    crate::support::eventually(|| other.is_closed()).await;
}

async fn closing_from_a_callback_and_from_a_drop_ends(broker: Broker) {
    /// Closes as it is dropped.
    struct Closes(homing::blocking::Communicator);
    impl Drop for Closes {
        fn drop(&mut self) {
            self.0.close().expect("closing from a drop");
        }
    }
    for kind in [Kind::MultiThread, Kind::EventLoop, Kind::ForeignLoop, Kind::Thread] {
        // In a done-callback; in the drop of a value that nobody takes, which its home drops; in a broadcast subscriber.
        let place = Place::start(kind);
        let (first, second, third) = (connect(&broker).await, connect(&broker).await, connect(&broker).await);
        let (completer, future) = place.home().try_future::<()>().unwrap();
        let closes = homing::blocking::Communicator::from(first.clone());
        future.on_done(move |_| drop(closes.close().expect("closing from a callback")));
        completer.complete(()).unwrap();

        let (completer, future) = place.home().try_future::<Closes>().unwrap();
        drop(future);
        drop(completer.complete(Closes(second.clone().into())));

        let closes = homing::blocking::Communicator::from(third.clone());
        let hear = BroadcastSubscriber::closure(move |_: Broadcast| drop(closes.close()));
        third.bound_to(place.home()).add_broadcast_subscriber(BroadcastFilter::new(), hear).await.unwrap();
        third.broadcast_send(0).await.ok();
        let closed = || [&first, &second, &third].iter().all(|communicator| communicator.is_closed());
        crate::support::eventually(closed).await;
        tokio::task::spawn_blocking(move || place.stop()).await.unwrap();
    }
}

async fn closing_waits_for_what_was_sent_before(broker: Broker) {
    let (sender, other) = (connect(&broker).await, connect(&broker).await);
    let queue = sender.default_task_queue().unwrap();
    queue.task_send("first").no_reply().await.unwrap();
    let sends: Vec<_> = (0..200).map(|n| tokio::spawn(queue.task_send(n).no_reply().into_future())).collect();
    tokio::task::yield_now().await;
    sender.close().await.unwrap();
    let mut sent = 1;
    for send in sends {
        match send.await.unwrap() {
            Ok(()) => sent += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::CommunicatorClosed, "{error}"),
        }
    }
    let queue = other.default_task_queue().unwrap();
    let mut found = 0;
    while let Ok(task) = queue.try_next().await {
        task.finish(());
        found += 1;
    }
    assert!(found >= sent, "{sent} were taken over and {found} are there");
}

/// What was acknowledged counts, though a channel is being opened at that moment.
async fn a_close_while_a_subscriber_is_added_is_in_order(broker: Broker) {
    for round in 0..40 {
        let communicator = connect(&broker).await;
        let work = TaskSubscriber::closure(TaskRequest::into_body);
        communicator.add_task_subscriber(work).await.unwrap();
        communicator.task_send(round).await.unwrap();
        let other = communicator.clone();
        let adding = tokio::spawn(async move {
            let hears = BroadcastSubscriber::closure(|_: Broadcast| ());
            other.add_broadcast_subscriber(BroadcastFilter::new(), hears).await.map(drop)
        });
        // At another moment of it each time.
        tokio::time::sleep(Duration::from_micros(500) * round).await;
        let report = communicator.close().await.unwrap();
        assert!(report.error.is_none(), "round {round}: {report:?}");
        let _ = adding.await.unwrap();
    }
}

async fn after_closing_everything_is_refused(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.close().await.unwrap();
    let closed = ErrorKind::CommunicatorClosed;
    assert_eq!(kind(communicator.rpc_send("x", 0).await), closed);
    assert_eq!(kind(communicator.task_send(0).await), closed);
    assert_eq!(kind(communicator.task_send(0).no_reply().await), closed);
    assert_eq!(kind(communicator.broadcast_send(0).await), closed);
    assert_eq!(kind(communicator.add_rpc_subscriber("x", never()).await), closed);
    assert_eq!(kind(communicator.default_task_queue().unwrap().try_next().await), closed);
}

async fn dropping_the_last_handle_closes(broker: Broker) {
    let (server, client) = (connect(&broker).await, connect(&broker).await);
    server.add_rpc_subscriber("gone", never()).await.unwrap();
    drop(server);
    let until = Instant::now() + LONG;
    while kind(client.rpc_send("gone", 0).timeout(Duration::from_millis(100)).await) != ErrorKind::Unroutable {
        assert!(Instant::now() < until, "the subscriber of a dropped communicator is still there");
    }
}

async fn dropping_a_handle_among_others_does_not(broker: Broker) {
    let communicator = connect(&broker).await;
    let answer = RpcSubscriber::closure(|_: RpcRequest| 1);
    communicator.add_rpc_subscriber("here", answer).await.unwrap();
    drop(communicator.clone());
    assert_eq!(communicator.rpc_send("here", 0).await.unwrap(), Value::from(1));
}

/// The threads of this process whose names begin so. Linux cuts names at 15 bytes.
#[cfg(target_os = "linux")]
fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter(|task| {
            let path = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(path).is_ok_and(|comm| comm.starts_with(name))
        })
        .count()
}

async fn closing_leaves_no_thread_behind(broker: Broker) {
    // Other tests run in this process too, so the name is one of its own.
    let name = format!("q{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    let communicator = options(&broker).thread_name(&name).connect().await.unwrap();
    communicator.add_rpc_subscriber("x", never()).await.unwrap();
    assert!(threads_named(&name) >= 1, "the communicator's threads have their name");
    communicator.close().await.unwrap();
    assert_eq!(threads_named(&name), 0);
}

async fn a_connect_that_is_given_up_leaves_nothing(broker: Broker) {
    let name = format!("g{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    for _ in 0..10 {
        let mut connecting = Box::pin(options(&broker).thread_name(&name).connect());
        // Begun, and dropped before it has ended.
        let _ = futures_util::poll!(&mut connecting);
        drop(connecting);
    }
    crate::support::eventually(|| threads_named(&name) == 0).await;
}

async fn events_end_with_closed(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut events = communicator.events();
    communicator.close().await.unwrap();
    assert!(matches!(events.next().await, Some(ConnectionEvent::Closed)));
    drop(communicator);
    assert!(events.next().await.is_none());
}

async fn a_subscriber_whose_runtime_ends_is_taken_out(broker: Broker) {
    let (server, client) = (connect(&broker).await, connect(&broker).await);
    let mut events = server.events();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let adding = {
        let server = server.clone();
        runtime.spawn(async move { server.add_rpc_subscriber("orphan", never()).await.unwrap() })
    };
    adding.await.unwrap();
    let reply = client.rpc_send("orphan", 0).send().await.unwrap();
    // The call is in its handler when the runtime ends.
    tokio::time::sleep(Duration::from_millis(100)).await;
    runtime.shutdown_background();
    assert_eq!(kind(reply.await), ErrorKind::RemoteException);
    let Some(ConnectionEvent::SubscriberGone { identifier }) = events.next().await else { panic!("no event") };
    assert_eq!(identifier.as_str(), "orphan");
    let until = Instant::now() + LONG;
    while kind(client.rpc_send("orphan", 0).timeout(Duration::from_secs(1)).await) != ErrorKind::Unroutable {
        assert!(Instant::now() < until, "the orphan is still bound");
    }
}

async fn a_stream_that_is_dropped_is_no_lost_subscriber(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut events = communicator.events();
    let mut broadcasts = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();
    communicator.broadcast_send(1).await.unwrap();
    broadcasts.next().await.unwrap().unwrap();
    drop(broadcasts);
    communicator.close().await.unwrap();
    drop(communicator);
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        told.push(event);
    }
    assert!(matches!(told[..], [ConnectionEvent::Closed]), "{told:?}");
}

async fn a_task_whose_runtime_ends_goes_back(broker: Broker) {
    let (worker, sender) = (connect(&broker).await, connect(&broker).await);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let adding = {
        let worker = worker.clone();
        let subscriber = homing::TaskSubscriber::future(move |_: homing::TaskRequest| {
            tell.send(()).ok();
            std::future::pending::<Result<Value, Failure>>()
        });
        runtime.spawn(async move { worker.add_task_subscriber(subscriber).await.unwrap() })
    };
    adding.await.unwrap();
    let reply = sender.task_send(0).send().await.unwrap();
    told.recv().await.unwrap();
    runtime.shutdown_background();
    let task = sender.default_task_queue().unwrap().next_task(LONG).await.unwrap();
    assert!(task.request().is_redelivered());
    task.finish("by another");
    assert_eq!(reply.await.unwrap(), Value::from("by another"));
}
