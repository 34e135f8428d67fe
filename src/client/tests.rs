//! What only the inside can bring about: a connection that is lost, a broker that blocks.

use std::future::IntoFuture;
use std::num::{NonZeroU16, NonZeroU32};
use std::time::{Duration, Instant};

use super::Communicator;
use crate::broker::memory::fault;
use crate::codec::Value;
use crate::error::ErrorKind;
use crate::{
    Attempt, ConnectionEvent, ConnectionState, Events, Failure, LongTasks, ReconnectPolicy, RpcRequest, RpcSubscriber,
    TaskRequest, TaskSubscriber,
};

async fn on_a_broker_of_its_own() -> (String, Communicator) {
    let name = uuid::Uuid::new_v4().to_string();
    let communicator = Communicator::connect(&format!("memory:{name}")).await.unwrap();
    (name, communicator)
}

fn never() -> RpcSubscriber {
    RpcSubscriber::future(|_: RpcRequest| std::future::pending::<Value>())
}

#[tokio::test]
async fn without_another_one_a_lost_connection_ends_every_future_says_so_and_closes() {
    let name = uuid::Uuid::new_v4().to_string();
    let communicator =
        Communicator::builder(&format!("memory:{name}")).reconnect(ReconnectPolicy::Never).connect().await.unwrap();
    let mut events = communicator.events();
    communicator.add_rpc_subscriber("never", never()).await.unwrap();
    let mut replies = Vec::new();
    for _ in 0..100 {
        replies.push(communicator.rpc_send("never", 0).send().await.unwrap());
    }
    fault::lose_connections(&name);
    for reply in replies {
        assert_eq!(reply.await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    }
    assert!(
        matches!(events.next().await, Some(ConnectionEvent::Lost(error)) if error.kind() == ErrorKind::ConnectionLost)
    );
    assert!(matches!(events.next().await, Some(ConnectionEvent::Closed)));
    assert_eq!(communicator.rpc_send("never", 0).await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    let report = communicator.close().await.unwrap();
    assert_eq!(report.requests_ended, 100);
    assert_eq!(report.error.unwrap().kind(), ErrorKind::ConnectionLost);
}

#[tokio::test]
async fn a_blocked_broker_is_said_and_does_not_hold_a_close_up() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    let mut events = communicator.events();
    communicator.broadcast_send("through").await.unwrap();
    fault::set_blocked(&name, Some("memory"));
    assert!(matches!(events.next().await, Some(ConnectionEvent::Blocked { reason }) if reason == "memory"));
    let sending = tokio::spawn(std::future::IntoFuture::into_future(communicator.broadcast_send("stuck")));
    fault::holds(&name, 1).await;
    assert!(!sending.is_finished());
    let started = Instant::now();
    let report = communicator.close().await.unwrap();
    assert_eq!(report.publishes_unconfirmed, 1);
    assert!(started.elapsed() < Duration::from_secs(20), "bounded: {:?}", started.elapsed());
    assert!(sending.await.unwrap().is_err());
    fault::set_blocked(&name, None);
}

#[tokio::test]
async fn a_subscriber_whose_home_ends_before_it_was_ever_polled_answers_what_came_in() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    // Nobody drives it.
    let home = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let at = crate::home::Home::of_runtime(home.handle());
    communicator.bound_to(&at).add_rpc_subscriber("echo", never()).await.unwrap();
    let reply = communicator.rpc_send("echo", 0).timeout(Duration::from_secs(20)).send().await.unwrap();
    // It is in the subscriber's hands by now: what the broker took over later has come through before.
    communicator.broadcast_send("behind it").await.unwrap();
    home.shutdown_background();
    assert_eq!(reply.await.unwrap_err().kind(), ErrorKind::RemoteException);
}

/// As a broker that dies and is started again.
async fn lose_for(name: &str, time: Duration) {
    fault::set_down(name, true);
    fault::lose_connections(name);
    tokio::time::sleep(time).await;
    fault::set_down(name, false);
}

async fn restored(events: &mut Events) -> Duration {
    while let Some(event) = events.next().await {
        if let ConnectionEvent::Restored { away } = event {
            return away;
        }
    }
    panic!("it has closed");
}

#[tokio::test]
async fn after_a_loss_subscribers_are_there_again_and_calls_under_way_get_their_answers() {
    let name = uuid::Uuid::new_v4().to_string();
    let url = format!("memory:{name}");
    let server = Communicator::connect(&url).await.unwrap();
    let client = Communicator::connect(&url).await.unwrap();
    let (promises, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let later = RpcSubscriber::closure(move |_: RpcRequest| {
        let (promise, answer) = crate::Answer::promise()?;
        promises.send(promise).unwrap();
        crate::HandlerResult::Ok(answer)
    });
    server.add_rpc_subscriber("later", later).await.unwrap();
    let mut replies = Vec::new();
    for _ in 0..50 {
        replies.push(client.rpc_send("later", 0).send().await.unwrap());
    }
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(asked.recv().await.unwrap());
    }
    let (mut of_server, mut of_client) = (server.events(), client.events());
    lose_for(&name, Duration::from_millis(200)).await;
    // While the callers may still be away.
    held.into_iter().for_each(|promise| promise.answer("here"));
    assert!(restored(&mut of_server).await >= Duration::from_millis(200));
    restored(&mut of_client).await;
    for reply in replies {
        assert_eq!(reply.await.unwrap().as_str(), Some("here"));
    }
    let again = client.rpc_send("later", 0).send().await.unwrap();
    asked.recv().await.unwrap().answer("again");
    assert_eq!(again.await.unwrap().as_str(), Some("again"));
    assert_eq!(client.close().await.unwrap().requests_ended, 0);
    server.close().await.unwrap();
}

#[tokio::test]
async fn what_is_sent_while_there_is_no_connection_goes_out_when_there_is_one() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    communicator.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    let work = crate::TaskSubscriber::closure(crate::TaskRequest::into_body);
    communicator.add_task_subscriber(work).await.unwrap();
    fault::set_down(&name, true);
    fault::lose_connections(&name);
    let call = tokio::spawn(std::future::IntoFuture::into_future(communicator.rpc_send("echo", 1)));
    let task = tokio::spawn(std::future::IntoFuture::into_future(communicator.task_send(2)));
    let told = tokio::spawn(std::future::IntoFuture::into_future(communicator.broadcast_send("all")));
    let added = {
        let communicator = communicator.clone();
        tokio::spawn(async move { communicator.add_rpc_subscriber("late", never()).await })
    };
    let late = communicator.rpc_send("echo", 3).timeout(Duration::from_millis(50)).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished() && !task.is_finished() && !told.is_finished() && !added.is_finished());
    fault::set_down(&name, false);
    // Its subscriber may be set up after the call has gone out for the first time.
    assert_eq!(call.await.unwrap().unwrap().as_i64(), Some(1));
    assert_eq!(task.await.unwrap().unwrap().as_i64(), Some(2));
    told.await.unwrap().unwrap();
    added.await.unwrap().unwrap();
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_task_that_runs_when_the_connection_goes_is_told_adopted_and_run_once() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let go = std::sync::Arc::new(tokio::sync::Notify::new());
    let work = {
        let (runs, go) = (runs.clone(), go.clone());
        crate::TaskSubscriber::future(move |task: crate::TaskRequest| {
            let (runs, go, begun) = (runs.clone(), go.clone(), begun.clone());
            async move {
                runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let away = task.ownership_lost()?;
                begun.send(()).unwrap();
                away.await;
                go.notified().await;
                crate::HandlerResult::Ok("done")
            }
        })
    };
    let work: crate::TaskSubscriber = work;
    communicator.add_task_subscriber(work).await.unwrap();
    let reply = communicator.task_send(1).send().await.unwrap();
    has_begun.recv().await.unwrap();
    let mut events = communicator.events();
    lose_for(&name, Duration::from_millis(50)).await;
    let mut adopted = false;
    while let Some(event) = events.next().await {
        adopted |= matches!(event, ConnectionEvent::TaskAdopted { .. });
        if adopted {
            break;
        }
    }
    go.notify_one();
    assert_eq!(reply.await.unwrap().as_str(), Some("done"));
    assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(communicator.counts().tasks_adopted, 1);
    assert_eq!(communicator.close().await.unwrap().tasks_returned, 0);
}

#[tokio::test]
async fn a_task_that_ends_while_it_is_away_is_acknowledged_when_it_comes_again() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = runs.clone();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let work = crate::TaskSubscriber::future(move |task: crate::TaskRequest| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let begun = begun.clone();
        async move {
            let away = task.ownership_lost()?;
            begun.send(()).unwrap();
            away.await;
            crate::HandlerResult::Ok("done")
        }
    });
    communicator.add_task_subscriber(work).await.unwrap();
    let reply = communicator.task_send(1).send().await.unwrap();
    has_begun.recv().await.unwrap();
    let mut events = communicator.events();
    lose_for(&name, Duration::from_millis(100)).await;
    restored(&mut events).await;
    assert_eq!(reply.await.unwrap().as_str(), Some("done"));
    let answered_again = async {
        while communicator.counts().tasks_answered_again == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), answered_again).await.unwrap();
    assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 1);
    let queue = communicator.default_task_queue().unwrap();
    assert_eq!(queue.try_next().await.unwrap_err().kind(), ErrorKind::QueueEmpty);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_on_the_wire_is_not_sent_again_unless_it_may_be() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    communicator.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    // A blocked broker takes nothing over: what is sent is on the wire.
    communicator.rpc_send("echo", 0).await.unwrap();
    fault::set_blocked(&name, Some("memory"));
    let once = tokio::spawn(std::future::IntoFuture::into_future(communicator.rpc_send("echo", 1)));
    let again = tokio::spawn(std::future::IntoFuture::into_future(communicator.rpc_send("echo", 2).idempotent()));
    fault::holds(&name, 2).await;
    let mut events = communicator.events();
    fault::lose_connections(&name);
    let error = once.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    assert!(error.to_string().contains("delivery unknown"), "{error}");
    restored(&mut events).await;
    fault::set_blocked(&name, None);
    assert_eq!(again.await.unwrap().unwrap().as_i64(), Some(2));
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_close_while_there_is_no_connection_is_a_close() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    communicator.add_rpc_subscriber("never", never()).await.unwrap();
    let reply = communicator.rpc_send("never", 0).send().await.unwrap();
    fault::set_down(&name, true);
    fault::lose_connections(&name);
    let sending = tokio::spawn(std::future::IntoFuture::into_future(communicator.broadcast_send("stuck")));
    tokio::time::sleep(Duration::from_millis(30)).await;
    let started = Instant::now();
    let report = communicator.close().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(report.requests_ended, 1);
    assert_eq!(reply.await.unwrap_err().kind(), ErrorKind::CommunicatorClosed);
    assert_eq!(sending.await.unwrap().unwrap_err().kind(), ErrorKind::CommunicatorClosed);
    fault::set_down(&name, false);
}

#[tokio::test]
async fn a_limit_on_connecting_again_ends_it() {
    let name = uuid::Uuid::new_v4().to_string();
    let policy = ReconnectPolicy::For(Duration::from_millis(200));
    let communicator = Communicator::builder(&format!("memory:{name}")).reconnect(policy).connect().await.unwrap();
    let mut events = communicator.events();
    fault::set_down(&name, true);
    fault::lose_connections(&name);
    let mut attempts = 0;
    while let Some(event) = events.next().await {
        attempts += usize::from(matches!(event, ConnectionEvent::Reconnecting { .. }));
        if matches!(event, ConnectionEvent::Closed) {
            break;
        }
    }
    assert!(attempts > 1);
    assert_eq!(communicator.broadcast_send("x").await.unwrap_err().kind(), ErrorKind::ConnectionLost);
    fault::set_down(&name, false);
}

#[tokio::test]
async fn try_again_counts_its_attempts_and_ends_in_quarantine() {
    let name = uuid::Uuid::new_v4().to_string();
    let attempts = std::num::NonZeroU32::new(3).unwrap();
    let communicator = Communicator::builder(&format!("memory:{name}"))
        .task_attempts(attempts, Duration::from_millis(10))
        .connect()
        .await
        .unwrap();
    let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seeing = seen.clone();
    let work = crate::TaskSubscriber::closure(move |task: crate::TaskRequest| -> Result<(), crate::Failure> {
        seeing.lock().push((task.attempt(), task.message_id().map(str::to_owned)));
        Err(crate::Failure::TryAgain("no database".into()))
    });
    communicator.add_task_subscriber(work).await.unwrap();
    let error = communicator.task_send(1).timeout(Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    assert!(error.to_string().contains("no database"), "{error}");
    let seen = seen.lock().clone();
    let numbers: Vec<_> = seen.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(numbers, (1..=3).map(crate::Attempt::Exactly).collect::<Vec<_>>());
    assert!(seen.iter().all(|(_, id)| *id == seen[0].1), "the same id each time");
    assert_eq!(communicator.counts().tasks_quarantined, 1);
    communicator.close().await.unwrap();
}

/// A communicator that may have one message in flight, on a broker that takes none, so that it is in flight.
async fn without_room() -> (String, Communicator) {
    let name = uuid::Uuid::new_v4().to_string();
    let one = std::num::NonZeroUsize::new(1).unwrap();
    let communicator =
        Communicator::builder(&format!("memory:{name}")).max_in_flight(one, one).connect().await.unwrap();
    fault::set_blocked(&name, Some("memory"));
    (name, communicator)
}

#[tokio::test]
async fn sends_that_find_no_room_and_are_given_up_hold_nothing() {
    let (name, communicator) = without_room().await;
    let room = communicator.port().room();
    let first = tokio::spawn(std::future::IntoFuture::into_future(communicator.broadcast_send(0)));
    while communicator.port().room() == room {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Some run into their time, others are dropped, others wait on.
    let short = Duration::from_millis(20);
    let mut late = Vec::new();
    for n in 0..200 {
        late.push(tokio::spawn(std::future::IntoFuture::into_future(communicator.task_send(n).timeout(short))));
        let dropped = std::future::IntoFuture::into_future(communicator.task_send(n));
        assert!(tokio::time::timeout(Duration::from_millis(1), dropped).await.is_err());
    }
    for late in late {
        let error = late.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
    let waiting = communicator.task_send(1).no_reply();
    let waiting = tokio::spawn(std::future::IntoFuture::into_future(waiting));
    while communicator.port().room().2 == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fault::set_blocked(&name, None);
    first.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    let empty = async {
        while communicator.port().room() != room {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), empty).await.expect("all room is there again");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_close_ends_those_who_wait_for_room() {
    let (name, communicator) = without_room().await;
    let all: Vec<_> = (0..10)
        .map(|n| tokio::spawn(std::future::IntoFuture::into_future(communicator.task_send(n).no_timeout())))
        .collect();
    while communicator.port().room().2 < 9 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    communicator.close().await.unwrap();
    for one in all {
        assert_eq!(one.await.unwrap().unwrap_err().kind(), ErrorKind::CommunicatorClosed);
    }
    fault::set_blocked(&name, None);
}

#[tokio::test]
async fn the_longest_times_are_times_like_others() {
    let name = uuid::Uuid::new_v4().to_string();
    let communicator = Communicator::builder(&format!("memory:{name}"))
        .call_timeout(Duration::MAX)
        .task_timeout(Duration::MAX)
        .operation_timeout(Duration::MAX)
        .close_timeout(Duration::MAX)
        .reply_timeout(Duration::MAX)
        .task_attempts(std::num::NonZeroU32::MAX, Duration::MAX)
        .long_tasks(crate::LongTasks::new().after(Duration::MAX).lease(Duration::MAX))
        .connect()
        .await
        .unwrap();
    communicator.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    let call = communicator.rpc_send("echo", 1).timeout(Duration::MAX).await.unwrap();
    assert_eq!(call.as_i64(), Some(1));
    let queue = communicator.task_queue("q").unwrap();
    queue.task_send(2).no_reply().await.unwrap();
    queue.next_task(Duration::MAX).await.unwrap().finish(3);
    communicator.broadcast_send(4).await.unwrap();
    assert!(!communicator.is_closed());
    let closed = tokio::time::timeout(Duration::from_secs(20), communicator.drain(Duration::MAX));
    closed.await.expect("in time").unwrap();
}

#[tokio::test]
async fn no_more_calls_run_side_by_side_than_a_subscriber_allows() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let (_, communicator) = on_a_broker_of_its_own().await;
    let counts = RpcSubscriber::future(|call: RpcRequest| async move {
        MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        call.into_body()
    });
    let three = std::num::NonZeroUsize::new(3).unwrap();
    communicator.add_rpc_subscriber("counts", counts.with_max_in_flight(three)).await.unwrap();
    let calls = (0..100).map(|n| communicator.rpc_send("counts", n).into_future());
    for (n, answer) in (0_i64..).zip(futures_util::future::join_all(calls).await) {
        assert_eq!(answer.unwrap().as_i64(), Some(n), "those that waited are answered too");
    }
    assert_eq!(MOST.load(Ordering::SeqCst), 3);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_panic_of_the_communicator_thread_ends_every_future_and_leaves_a_report_a_state_and_events() {
    const LIMIT: Duration = Duration::from_secs(60);
    let (_, communicator) = on_a_broker_of_its_own().await;
    let mut events = communicator.events();
    communicator.add_rpc_subscriber("never", never()).await.unwrap();
    let queue = communicator.task_queue("q").unwrap();
    let waiting = communicator.rpc_send("never", 0).send().await.unwrap();
    let (pulling, sleeping) = (queue.next_task(Duration::MAX), communicator.sleep(Duration::MAX));
    let ended = async {
        let panics = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            communicator.port().notify(crate::driver::command::Command::Panic);
        };
        let (reply, task, sleep, ()) = tokio::join!(waiting, pulling, sleeping, panics);
        [reply.map(drop), task.map(drop), sleep].map(|outcome| outcome.unwrap_err().kind())
    };
    let ended = tokio::time::timeout(LIMIT, ended).await.expect("every future ends");
    assert_eq!(ended, [ErrorKind::Internal; 3]);
    let told = async { (events.next().await, events.next().await, events.next().await) };
    let told = tokio::time::timeout(LIMIT, told).await.expect("the events end");
    let (Some(ConnectionEvent::Lost(why)), Some(ConnectionEvent::Closed), None) = told else { panic!("{told:?}") };
    assert_eq!(why.kind(), ErrorKind::Internal);
    assert!(communicator.is_closed());
    assert_eq!(communicator.connection_state(), ConnectionState::Closed);
    assert_eq!(communicator.broadcast_send(0).await.unwrap_err().kind(), ErrorKind::Internal);
    let report = tokio::time::timeout(LIMIT, communicator.close()).await.expect("a close ends").unwrap();
    assert_eq!(report.error.expect("the report says why").kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn a_subscriber_that_is_given_up_while_it_is_added_is_not_there() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    for polls in 0..4 {
        let mut adding = Box::pin(communicator.add_rpc_subscriber("x", never()));
        for _ in 0..polls {
            let waker = std::task::Waker::noop();
            let _ = adding.as_mut().poll(&mut std::task::Context::from_waker(waker));
            tokio::task::yield_now().await;
        }
        drop(adding);
        let free = async {
            loop {
                match communicator.rpc_send("x", 0).timeout(Duration::from_millis(100)).await {
                    Err(error) if error.kind() == ErrorKind::Unroutable => return,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), free).await.expect("nobody answers there");
    }
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn draining_lets_what_runs_end_and_takes_nothing_new() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    let go = std::sync::Arc::new(tokio::sync::Notify::new());
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let waits = go.clone();
    let work = crate::TaskSubscriber::future(move |_: crate::TaskRequest| {
        let (waits, begun) = (waits.clone(), begun.clone());
        async move {
            begun.send(()).unwrap();
            waits.notified().await;
            "done"
        }
    });
    let one = std::num::NonZeroU16::new(1).unwrap();
    let queue = communicator.task_queue("q").unwrap();
    queue.add_task_subscriber(work.with_prefetch(one)).await.unwrap();
    let peer = Communicator::connect(&format!("memory:{name}")).await.unwrap();
    let to = peer.task_queue("q").unwrap();
    let first = to.task_send(1).send().await.unwrap();
    let second = to.task_send(2).send().await.unwrap();
    has_begun.recv().await.unwrap();
    let draining = tokio::spawn({
        let communicator = communicator.clone();
        async move { communicator.drain(Duration::from_secs(20)).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!draining.is_finished(), "a task runs");
    go.notify_one();
    assert_eq!(first.await.unwrap().as_str(), Some("done"));
    let report = draining.await.unwrap().unwrap();
    assert_eq!((report.tasks_returned, report.calls_refused), (0, 0));
    // The other one was not begun, and is still there.
    let task = to.next_task(Duration::from_secs(20)).await.unwrap();
    assert_eq!(task.body().as_i64(), Some(2));
    task.finish("elsewhere");
    assert_eq!(second.await.unwrap().as_str(), Some("elsewhere"));
    peer.close().await.unwrap();
}

#[tokio::test]
async fn a_close_while_it_drains_is_bounded_by_its_own_limit() {
    let name = uuid::Uuid::new_v4().to_string();
    let url = format!("memory:{name}");
    let communicator = Communicator::builder(&url).close_timeout(Duration::from_millis(200)).connect().await.unwrap();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let queue = communicator.task_queue("q").unwrap();
    let work = crate::TaskSubscriber::future(move |_: crate::TaskRequest| {
        begun.send(()).unwrap();
        std::future::pending::<Value>()
    });
    queue.add_task_subscriber(work).await.unwrap();
    let peer = Communicator::connect(&url).await.unwrap();
    let task = peer.task_queue("q").unwrap().task_send(1).send().await.unwrap();
    has_begun.recv().await.unwrap();
    let draining = tokio::spawn({
        let communicator = communicator.clone();
        async move { communicator.drain(Duration::from_secs(3600)).await }
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(!draining.is_finished(), "a task runs");
    let limit = Duration::from_secs(20);
    let report = tokio::time::timeout(limit, communicator.close()).await.expect("in time").unwrap();
    assert_eq!(report.tasks_returned, 1);
    tokio::time::timeout(limit, draining).await.expect("in time").unwrap().unwrap();
    // The task went back, and another one does it.
    let again = peer.task_queue("q").unwrap().next_task(limit).await.unwrap();
    again.finish("elsewhere");
    assert_eq!(task.await.unwrap().as_str(), Some("elsewhere"));
    peer.close().await.unwrap();
}

#[tokio::test]
async fn without_a_connection_a_queue_is_not_called_empty_and_no_look_into_it_waits_for_ever() {
    let (name, communicator) = on_a_broker_of_its_own().await;
    fault::set_down(&name, true);
    fault::lose_connections(&name);
    while communicator.connection_state() == ConnectionState::Connected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let queue = communicator.task_queue("tasks").unwrap();
    let error = queue.next_task(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(error.to_string().contains("there is no connection"), "{error}");
    drop(communicator);

    let patience = Duration::from_millis(100);
    let communicator = Communicator::builder(&format!("memory:{name}")).operation_timeout(patience);
    fault::set_down(&name, false);
    let communicator = communicator.connect().await.unwrap();
    let queue = communicator.task_queue("tasks").unwrap();
    assert_eq!(queue.try_next().await.unwrap_err().kind(), ErrorKind::QueueEmpty);
    fault::set_down(&name, true);
    fault::lose_connections(&name);
    while communicator.connection_state() == ConnectionState::Connected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let look = tokio::time::timeout(Duration::from_secs(20), queue.try_next()).await;
    let error = look.expect("it has a limit").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    fault::set_down(&name, false);
}

#[tokio::test]
async fn a_subscriber_of_a_home_that_has_ended_is_refused() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    let event_loop = crate::home::EventLoop::start("ends").unwrap();
    let home = event_loop.handle().home();
    event_loop.stop();
    let limit = Duration::from_secs(20);
    let added = tokio::time::timeout(limit, communicator.bound_to(&home).add_rpc_subscriber("x", never())).await;
    assert_eq!(added.expect("in time").unwrap_err().kind(), ErrorKind::HomeEnded);
    // Nothing of it is left: the identifier is free, and nobody answers there.
    assert_eq!(communicator.rpc_send("x", 0).await.unwrap_err().kind(), ErrorKind::Unroutable);
    communicator.add_rpc_subscriber("x", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    assert_eq!(communicator.rpc_send("x", 5).await.unwrap().as_i64(), Some(5));
    communicator.close().await.unwrap();
}

/// Guards: a pull that was given up as its communicator closes. The task that still came for it was put back and handed out
/// again, for ever: the close looked at nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_ends_though_a_task_comes_for_a_pull_that_was_given_up() {
    for round in 0..100_u32 {
        let name = format!("memory:given-up-{round}");
        let (communicator, sender) =
            (Communicator::connect(&name).await.unwrap(), Communicator::connect(&name).await.unwrap());
        let queue = communicator.task_queue("given-up").unwrap();
        // The pull waits, a task comes, and nobody wants it any more.
        let mut pull = Box::pin(queue.next_task(Duration::MAX));
        assert!(futures_util::future::poll_immediate(&mut pull).await.is_none());
        sender.task_queue("given-up").unwrap().task_send(round).no_reply().await.unwrap();
        drop(pull);
        let closed = tokio::time::timeout(Duration::from_secs(30), communicator.close()).await;
        closed.expect("it closes").unwrap();
        sender.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_broker_that_is_full_is_emptied_by_attempts_leases_and_quarantine() {
    const BODY: usize = 10_000;
    let name = uuid::Uuid::new_v4().to_string();
    fault::hold_at_most(&name, 10 * BODY);
    let communicator = Communicator::builder(&format!("memory:{name}"))
        .task_attempts(NonZeroU32::new(2).unwrap(), Duration::from_millis(1))
        .long_tasks(LongTasks::new().after(Duration::from_millis(50)))
        .connect()
        .await
        .unwrap();
    let queue = communicator.task_queue("work").unwrap();
    let body = |kind: &str| format!("{kind}{}", "x".repeat(BODY));
    let send = |kind: &str| queue.task_send(body(kind)).no_reply().into_future();
    // The first are enough to fill what a worker takes at once.
    for kind in ["again", "unreadable", "long", "again", "unreadable", "long", "again", "unreadable"] {
        send(kind).await.unwrap();
    }
    while let Ok(()) = send("again").await {}
    assert_eq!(send("again").await.unwrap_err().kind(), ErrorKind::Full);
    let (done, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let worker = TaskSubscriber::future(move |task: TaskRequest| {
        let done = done.clone();
        async move {
            let body = task.body().as_str().unwrap_or_default();
            match (task.attempt(), body.as_bytes().first()) {
                (_, Some(b'u')) => return Err(Failure::Unreadable("as it was sent".into())),
                (Attempt::Exactly(1), Some(b'a')) => return Err(Failure::TryAgain("later".into())),
                (_, Some(b'l')) => tokio::time::sleep(Duration::from_millis(300)).await,
                _ => {}
            }
            let _ = done.send(body.starts_with("again"));
            Ok(())
        }
    });
    queue.add_task_subscriber(worker.with_prefetch(NonZeroU16::new(8).unwrap())).await.unwrap();
    let (mut again, mut long) = (0, 0);
    // Four of the first attempts' copies are refused at once where they need room, and each of those waits for seconds.
    let until = Instant::now() + Duration::from_secs(60);
    while (again < 3 || long < 2 || communicator.counts().tasks_quarantined < 3) && Instant::now() < until {
        if let Ok(Some(was_again)) = tokio::time::timeout(Duration::from_millis(10), ended.recv()).await {
            if was_again { again += 1 } else { long += 1 }
        }
    }
    let counts = communicator.counts();
    assert_eq!((long, counts.tasks_quarantined), (2, 3));
    assert!(again >= 3, "{again}");
    let report = communicator.close().await.unwrap();
    assert_eq!(report.tasks_returned, 0);
}

#[tokio::test]
async fn a_reply_comes_to_the_home_that_its_request_was_sent_for() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
    communicator.add_rpc_subscriber("echo", echo).await.unwrap();
    let event_loop = crate::home::EventLoop::start("replies").unwrap();
    let home = event_loop.handle().home();
    // A home that is full has no place until something there ends, and the call waits for it.
    home.set_capacity(1);
    let taken = home.try_future::<()>().unwrap();
    let sending = communicator.rpc_send("echo", 1).send_for(&home);
    tokio::pin!(sending);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut sending).await.is_err());
    drop(taken);
    let reply = sending.await.unwrap();
    let (ended, outcome) = tokio::sync::oneshot::channel();
    home.spawn_uncounted(async move {
        let _ = ended.send(reply.await);
    });
    assert_eq!(outcome.await.unwrap().unwrap().as_i64(), Some(1));
    // Here it cannot be read.
    let elsewhere = communicator.rpc_send("echo", 2).send_for(&home).await.unwrap();
    assert_eq!(elsewhere.await.unwrap_err().kind(), ErrorKind::WrongHome);
    event_loop.stop();
    let refused = communicator.rpc_send("echo", 3).send_for(&home).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::HomeEnded);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_gives_a_full_home_up_stands_in_nobodys_way() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    let event_loop = crate::home::EventLoop::start("full").unwrap();
    let home = event_loop.handle().home();
    home.set_capacity(1);
    let taken = home.try_future::<()>().unwrap();
    let given_up = communicator.task_send("never sent").no_timeout().send_for(&home);
    assert!(tokio::time::timeout(Duration::from_millis(20), given_up).await.is_err());
    drop(taken);
    // The place is free for others: the one that gave up has not taken it for good.
    let deadline = Instant::now() + Duration::from_secs(60);
    while home.try_future::<()>().is_err() {
        assert!(Instant::now() < deadline, "the place is still taken");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let report = communicator.close().await.unwrap();
    assert_eq!(report.requests_ended, 0);
}

#[tokio::test]
async fn a_request_for_a_home_that_is_full_and_stuck_ends_in_time_and_with_its_communicator() {
    const LONG: Duration = Duration::from_secs(20);
    let (_, communicator) = on_a_broker_of_its_own().await;
    let event_loop = crate::home::EventLoop::start("stuck").unwrap();
    let home = event_loop.handle().home();
    home.set_capacity(1);
    let taken = home.try_future::<()>().unwrap();
    let (go_on, blocks) = std::sync::mpsc::channel::<()>();
    let (begins, begun) = tokio::sync::oneshot::channel();
    home.spawn_uncounted(async move {
        begins.send(()).unwrap();
        let _ = blocks.recv();
    });
    begun.await.unwrap();
    let in_time = communicator.rpc_send("nobody", 1).timeout(Duration::from_millis(20)).send_for(&home);
    let error = tokio::time::timeout(LONG, in_time).await.expect("it ends in time").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let without = communicator.task_send("never sent").no_timeout().send_for(&home);
    tokio::pin!(without);
    assert!(futures_util::poll!(&mut without).is_pending());
    communicator.close().await.unwrap();
    let error = tokio::time::timeout(LONG, without).await.expect("it ends with the communicator").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CommunicatorClosed, "{error}");
    drop((go_on, taken));
}

/// Guards: the time that a task is held back, in which its sender would wait for room.
#[tokio::test]
async fn a_sender_of_a_task_that_is_held_back_waits_for_room_no_longer_than_its_timeout() {
    const LONG: Duration = Duration::from_secs(20);
    let name = uuid::Uuid::new_v4().to_string();
    let few = std::num::NonZeroUsize::MIN;
    let communicator = Communicator::builder(&format!("memory:{name}"))
        .max_in_flight(few, std::num::NonZeroUsize::new(1 << 20).unwrap())
        .connect()
        .await
        .unwrap();
    let mut events = communicator.events();
    fault::set_blocked(&name, Some("memory"));
    while !matches!(events.next().await, Some(ConnectionEvent::Blocked { .. })) {}
    let first = communicator.task_send("takes the room").try_send().unwrap();
    let held_back = communicator.task_send("held back").delay(Duration::from_secs(3600));
    let sending = held_back.timeout(Duration::from_millis(20)).send();
    let error = tokio::time::timeout(LONG, sending).await.expect("it ends in time").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    drop(first);
    fault::set_blocked(&name, None);
    communicator.close().await.unwrap();
}

/// One that can write nothing any more from some time on.
struct WritesNothing(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl crate::codec::Codec for WritesNothing {
    fn name(&self) -> &'static str {
        "writes nothing"
    }

    fn encode(&self, value: &Value) -> crate::Result<Vec<u8>> {
        if self.0.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(crate::Error::new(ErrorKind::Encode, "it writes nothing"));
        }
        crate::codec::Yaml::default().encode(value)
    }

    fn decode(&self, body: &[u8]) -> crate::Result<Value> {
        crate::codec::Yaml::default().decode(body)
    }
}

/// Guards: a caller that waits until its time is over, and the sender of a task that waits for a week.
#[tokio::test]
async fn whoever_asks_is_answered_by_a_subscriber_whose_codec_can_write_nothing() {
    const LIMIT: Duration = Duration::from_secs(60);
    let url = format!("memory:{}", uuid::Uuid::new_v4());
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let server = Communicator::builder(&url).codec(WritesNothing(std::sync::Arc::clone(&broken)));
    let server = server.connect().await.unwrap();
    let client = Communicator::connect(&url).await.unwrap();
    let fails = |text: &str| crate::HandlerResult::<i64>::Err(text.parse::<i64>().unwrap_err().into());
    server.add_rpc_subscriber("fails", RpcSubscriber::closure(move |_: RpcRequest| fails("x"))).await.unwrap();
    server.add_rpc_subscriber("answers", RpcSubscriber::closure(|_: RpcRequest| 1)).await.unwrap();
    server.add_rpc_subscriber("never", never()).await.unwrap();
    server.add_task_subscriber(TaskSubscriber::closure(move |_: TaskRequest| fails("x"))).await.unwrap();
    let open = client.rpc_send("never", 0).timeout(LIMIT).send().await.unwrap();
    broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = client.rpc_send("fails", 0).timeout(LIMIT).await.unwrap_err();
    assert_eq!(error.remote_text(), Some("invalid digit found in string"));
    let error = client.task_send(0).timeout(LIMIT).await.unwrap_err();
    assert_eq!(error.remote_text(), Some("invalid digit found in string"));
    let error = client.rpc_send("answers", 0).timeout(LIMIT).await.unwrap_err();
    assert!(error.remote_text().is_some_and(|text| text.contains("it writes nothing")), "{error}");
    server.close().await.unwrap();
    assert_eq!(open.await.unwrap_err().kind(), ErrorKind::RemoteException);
}

/// Guards: a close that was refused its wait before it had asked for anything.
#[tokio::test]
async fn a_close_that_may_not_wait_closes_all_the_same() {
    for drains in [false, true] {
        let (_, communicator) = on_a_broker_of_its_own().await;
        let mut events = communicator.events();
        let blocking = crate::blocking::Communicator::from(communicator);
        let closed = if drains { blocking.drain(Duration::from_secs(1)) } else { blocking.close() };
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::WouldDeadlock);
        let closes = async { while events.next().await.is_some() {} };
        tokio::time::timeout(Duration::from_secs(60), closes).await.expect("it closes");
    }
}

/// Guards: 1024 bodies of 64 MiB each, which a subscriber would hold that does not keep up.
#[tokio::test]
async fn large_broadcasts_that_nobody_takes_are_fewer() {
    let (_, communicator) = on_a_broker_of_its_own().await;
    let mut slow = communicator.broadcasts(crate::BroadcastFilter::new()).await.unwrap();
    let mut last = communicator.broadcasts(crate::BroadcastFilter::new().subject("last").unwrap()).await.unwrap();
    const SENT: u64 = 20;
    for n in 0..SENT {
        let subject = if n + 1 == SENT { "last" } else { "large" };
        communicator.broadcast_send(Value::Bytes(vec![7; 8 << 20])).subject(subject).await.unwrap();
    }
    last.next().await.unwrap().unwrap();
    let lost = slow.next().await.unwrap().unwrap_err().missed;
    let mut taken = 0;
    while slow.next().await.unwrap().unwrap().subject() != Some("last") {
        taken += 1;
    }
    assert_eq!(lost + taken + 1, SENT);
    assert!((SENT - lost) << 23 <= 64 << 20, "{taken}");
    assert_eq!(communicator.counts().broadcasts_lagged, lost);
    communicator.close().await.unwrap();
}
