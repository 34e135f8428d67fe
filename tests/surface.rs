//! What a program can write: every kind of handler, body and outcome, and the futures of the library among others. What is
//! tested is, first of all, that it compiles.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use homing::{
    Answer, Body, Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ErrorKind, Failure, HandlerResult,
    RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Ask {
    a: i64,
    b: Option<i64>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sum {
    sum: i64,
}

type Boxed = Box<dyn Error + Send + Sync>;

async fn anyhow_handler(request: RpcRequest) -> anyhow::Result<Value> {
    use anyhow::Context;
    let path: String = request.decode()?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("the settings of {path}"))?;
    Ok(Value::from(text))
}

async fn boxed_handler(request: RpcRequest) -> Result<i64, Boxed> {
    let text: String = request.decode()?;
    let number = text.parse::<i64>()?;
    if number < 0 {
        return Err("negative".into());
    }
    Ok(number)
}

async fn io_handler(_: RpcRequest) -> std::io::Result<String> {
    Err(std::io::Error::other("the disk"))
}

async fn failure_handler(_: RpcRequest) -> Result<(), Failure> {
    Err(Failure::Cancelled)
}

async fn failure_in_anyhow(_: RpcRequest) -> anyhow::Result<()> {
    Err(Failure::Cancelled)?;
    Ok(())
}

async fn answer_handler(request: RpcRequest) -> HandlerResult {
    let text = String::from_utf8(vec![b'o', b'k'])?;
    request.body().as_str().ok_or("no string")?;
    Ok(Answer::Value(text.into()))
}

async fn serve() -> Communicator {
    let communicator = Communicator::connect("memory:").await.unwrap();
    let add = async |name: &str, subscriber| drop(communicator.add_rpc_subscriber(name, subscriber).await.unwrap());
    add("anyhow", RpcSubscriber::future(anyhow_handler)).await;
    add("boxed", RpcSubscriber::future(boxed_handler)).await;
    add("io", RpcSubscriber::future(io_handler)).await;
    add("failure", RpcSubscriber::future(failure_handler)).await;
    add("failure in anyhow", RpcSubscriber::future(failure_in_anyhow)).await;
    add("answer", RpcSubscriber::future(answer_handler)).await;
    add(
        "typed",
        RpcSubscriber::typed(|ask: Ask| async move { HandlerResult::Ok(Sum { sum: ask.a + ask.b.unwrap_or(0) }) }),
    )
    .await;
    add("typed anyhow", RpcSubscriber::typed(|n: u8| async move { anyhow::Ok(vec![n; 3]) })).await;
    add("u8", RpcSubscriber::closure(|_: RpcRequest| 7_u8)).await;
    add("f32", RpcSubscriber::closure(|_: RpcRequest| 0.5_f32)).await;
    add("u128", RpcSubscriber::closure(|_: RpcRequest| u128::MAX)).await;
    add("vec", RpcSubscriber::closure(|_: RpcRequest| vec!["a", "b"])).await;
    add("none", RpcSubscriber::closure(|_: RpcRequest| None::<i64>)).await;
    add("some", RpcSubscriber::future(async |_: RpcRequest| Ok::<_, Boxed>(Some(vec![1, 2])))).await;
    add("map", RpcSubscriber::closure(|_: RpcRequest| BTreeMap::from([("k", 1)]))).await;
    add("json", RpcSubscriber::closure(|_: RpcRequest| serde_json::json!({"k": [1, null]}))).await;
    add("echo", RpcSubscriber::closure(RpcRequest::into_body)).await;
    add("of", RpcSubscriber::closure(|_: RpcRequest| Answer::of(&Sum { sum: 3 }))).await;
    communicator
}

async fn failed(communicator: &Communicator, name: &str, body: impl Into<Body>) -> String {
    let error = communicator.rpc_send(name, body).timeout(LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException, "{name}: {error}");
    error.remote_text().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn any_error_of_a_handler_goes_to_the_caller_with_its_chain() {
    let communicator = serve().await;
    let text = failed(&communicator, "anyhow", "/does/not/exist").await;
    assert!(text.starts_with("the settings of /does/not/exist: ") && text.contains("os error 2"), "{text}");
    assert!(failed(&communicator, "boxed", "x").await.contains("invalid digit"));
    assert_eq!(failed(&communicator, "boxed", "-1").await, "negative");
    assert_eq!(failed(&communicator, "io", ()).await, "the disk");
    assert_eq!(failed(&communicator, "answer", 1).await, "no string");
    assert_eq!(communicator.rpc_send("answer", "x").await.unwrap().as_str(), Some("ok"));
    for name in ["failure", "failure in anyhow"] {
        assert_eq!(communicator.rpc_send(name, ()).await.unwrap_err().kind(), ErrorKind::Cancelled, "{name}");
    }
    let failure: &dyn Error = &Failure::Rejected("not mine".into());
    assert_eq!(failure.to_string(), "not mine");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn rust_values_are_answers_and_bodies() {
    let communicator = serve().await;
    let call = async |name: &str| communicator.rpc_send(name, ()).timeout(LIMIT).await.unwrap();
    assert_eq!(call("u8").await, Value::Int(7));
    assert_eq!(call("f32").await, Value::Float(0.5));
    assert_eq!(call("u128").await, Value::from(u128::MAX));
    assert_eq!(call("vec").await, Value::from(["a", "b"]));
    assert_eq!(call("none").await, Value::Null);
    assert_eq!(call("some").await, Value::from([1, 2]));
    assert_eq!(call("map").await, Value::from_iter([("k", 1)]));
    assert_eq!(call("json").await, Value::from(serde_json::json!({"k": [1, null]})));
    assert_eq!(call("of").await, Value::from_iter([("sum", 3)]));

    let echo = async |body: Body| communicator.rpc_send("echo", body).timeout(LIMIT).await.unwrap();
    assert_eq!(echo(7_u64.into()).await, Value::Int(7));
    assert_eq!(echo(vec![1, 2].into()).await, Value::from([1, 2]));
    assert_eq!(echo(Some("x").into()).await, Value::from("x"));
    assert_eq!(echo(None::<&str>.into()).await, Value::Null);
    assert_eq!(echo(vec![1_u8, 2].into()).await, Value::Bytes(vec![1, 2]));
    assert_eq!(echo(serde_json::json!([{}]).into()).await, Value::from(serde_json::json!([{}])));
    assert_eq!(echo(Body::of(&Sum { sum: 1 })).await, Value::from_iter([("sum", 1)]));
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn typed_calls_have_the_options_of_every_call() {
    let communicator = serve().await;
    let sum: Sum = communicator.call("typed", &Ask { a: 40, b: Some(2) }).timeout(LIMIT).await.unwrap();
    assert_eq!(sum, Sum { sum: 42 });
    let sum = communicator.call::<Sum>("typed", &Ask { a: 40, b: None }).no_timeout().idempotent().await.unwrap();
    assert_eq!(sum, Sum { sum: 40 });
    let three = communicator.rpc_send("typed anyhow", 5).returning::<[u8; 3]>().timeout(LIMIT).await.unwrap();
    assert_eq!(three, [5, 5, 5]);

    let error = communicator.call::<String>("typed", &Ask { a: 1, b: None }).await.unwrap_err();
    assert!(error.to_string().starts_with(r#"the call to "typed": the answer cannot be read: "#), "{error}");
    assert_eq!(error.kind(), ErrorKind::Decode);
    let text = failed(&communicator, "typed", "no mapping").await;
    assert!(text.starts_with("the body cannot be read"), "{text}");

    struct Fails;
    impl Serialize for Fails {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("on purpose"))
        }
    }
    let error = communicator.call::<Value>("typed", &Fails).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    let error = communicator.broadcast_send(Body::of(&Fails)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    let error = communicator.task_send(Body::of(&Fails)).no_reply().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encode);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_typed_task_whose_body_has_another_shape_goes_to_quarantine() {
    let communicator = Communicator::connect("memory:").await.unwrap();
    let work = TaskSubscriber::typed(|ask: Ask| async move { HandlerResult::Ok(ask.a * 2) });
    communicator.add_task_subscriber(work).await.unwrap();
    let twice =
        communicator.task_send(Body::of(&Ask { a: 4, b: None })).returning::<i64>().timeout(LIMIT).await.unwrap();
    assert_eq!(twice, 8);
    let error = communicator.task_send("no mapping").timeout(LIMIT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    assert_eq!(communicator.counts().tasks_quarantined, 1);
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_failure_means_the_same_to_a_task_however_it_is_wrapped() {
    let communicator = Communicator::connect("memory:").await.unwrap();
    let refuses = TaskSubscriber::future(async |_: TaskRequest| -> anyhow::Result<()> {
        Err(anyhow::Error::from(Failure::Rejected("not mine".into())).context("the first"))
    });
    communicator.add_task_subscriber(refuses).await.unwrap();
    let takes = TaskSubscriber::closure(|_: TaskRequest| "the second");
    communicator.add_task_subscriber(takes).await.unwrap();
    let outcome = communicator.task_send(1).timeout(LIMIT).await.unwrap();
    assert_eq!(outcome.as_str(), Some("the second"));
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn typed_broadcasts_arrive_as_the_type_that_was_sent() {
    let communicator = Communicator::connect("memory:").await.unwrap();
    let (sender, mut sums) = mpsc::unbounded_channel();
    let typed = BroadcastSubscriber::typed(move |sum: Sum| {
        let sender = sender.clone();
        async move { HandlerResult::Ok(sender.send(sum)?) }
    });
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), typed).await.unwrap();
    communicator.broadcast_send("no sum").await.unwrap();
    communicator.broadcast_send(Body::of(&Sum { sum: 5 })).subject("sums").await.unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, sums.recv()).await.unwrap(), Some(Sum { sum: 5 }));
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn a_broadcast_is_shown_by_its_parts() {
    let communicator = Communicator::connect("memory:").await.unwrap();
    let mut all = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();
    communicator.broadcast_send(1).subject("s").await.unwrap();
    let shown = format!("{:?}", all.next().await.unwrap().unwrap());
    assert!(shown.starts_with("Broadcast { body: Int(1), sender: Null, subject: "), "{shown}");
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn what_is_sent_is_a_future_like_any_other() {
    let communicator = serve().await;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let see = BroadcastSubscriber::closure(move |broadcast: Broadcast| sender.send(broadcast.body().clone()));
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), see).await.unwrap();
    let work = TaskSubscriber::closure(TaskRequest::into_body);
    communicator.add_task_subscriber(work).await.unwrap();

    let spawned = tokio::spawn(communicator.rpc_send("echo", 1));
    assert_eq!(spawned.await.unwrap().unwrap(), Value::Int(1));
    let spawned = tokio::spawn(communicator.call::<Sum>("typed", &Ask { a: 1, b: None }));
    assert_eq!(spawned.await.unwrap().unwrap().sum, 1);
    let spawned = tokio::spawn(communicator.task_send(2));
    assert_eq!(spawned.await.unwrap().unwrap(), Value::Int(2));
    tokio::spawn(communicator.task_send(3).no_reply()).await.unwrap().unwrap();
    tokio::spawn(communicator.broadcast_send(4)).await.unwrap().unwrap();
    assert_eq!(tokio::time::timeout(LIMIT, seen.recv()).await.unwrap(), Some(Value::Int(4)));

    let (one, two, reply) = tokio::join!(
        communicator.rpc_send("echo", 1),
        communicator.task_send(2),
        communicator.rpc_send("echo", 3).send(),
    );
    assert_eq!((one.unwrap(), two.unwrap()), (Value::Int(1), Value::Int(2)));
    assert_eq!(tokio::time::timeout(LIMIT, reply.unwrap()).await.unwrap().unwrap(), Value::Int(3));
    let joined = tokio::try_join!(communicator.rpc_send("echo", 1), communicator.broadcast_send(()));
    assert_eq!(joined.unwrap().0, Value::Int(1));
    tokio::select! {
        outcome = communicator.rpc_send("echo", 5) => assert_eq!(outcome.unwrap(), Value::Int(5)),
        () = tokio::time::sleep(LIMIT) => panic!("no answer"),
    }
    let timed = tokio::time::timeout(LIMIT, communicator.rpc_send("echo", 6)).await;
    assert_eq!(timed.unwrap().unwrap(), Value::Int(6));
    let all = futures_util::future::join_all((0..3).map(|n| communicator.rpc_send("echo", n))).await;
    assert!(all.into_iter().all(|outcome| outcome.is_ok()));
    communicator.close().await.unwrap();
}

#[tokio::test]
async fn what_was_polled_is_not_sent_in_another_way() {
    let communicator = Communicator::connect("memory:").await.unwrap();
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let waits = RpcSubscriber::future(move |_: RpcRequest| {
        counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        std::future::pending::<()>()
    });
    communicator.add_rpc_subscriber("waits", waits).await.unwrap();
    let mut call = communicator.rpc_send("waits", ());
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut call).await.is_err());
    let error = call.timeout(LIMIT).send().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState);
    let mut call = communicator.rpc_send("waits", ());
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut call).await.is_err());
    assert_eq!(call.returning::<i64>().await.unwrap_err().kind(), ErrorKind::InvalidState);
    assert_eq!(runs.load(std::sync::atomic::Ordering::SeqCst), 2);
    communicator.close().await.unwrap();
}

mod blocking {
    use std::num::NonZeroU16;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Instant;

    use homing::Identifier;
    use homing::blocking::Communicator;
    use homing::home::{EventLoop, Home};

    use super::*;

    fn thread_name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn a_subscriber_is_served_whatever_the_thread_does_that_added_it() {
        let server = Communicator::connect("memory:surface-background").unwrap();
        let adds = server.clone();
        // It ends.
        thread::spawn(move || {
            adds.add_rpc_subscriber("who", RpcSubscriber::closure(|_: RpcRequest| thread_name())).unwrap();
            adds.add_task_subscriber(TaskSubscriber::closure(|_: TaskRequest| thread_name())).unwrap();
        })
        .join()
        .unwrap();
        let (sender, receiver) = mpsc::channel();
        let see = BroadcastSubscriber::closure(move |_: Broadcast| sender.send(thread_name()));
        server.add_broadcast_subscriber(BroadcastFilter::new(), see).unwrap();
        // This thread turns no home while it waits for the other.
        thread::spawn(|| {
            let client = Communicator::connect("memory:surface-background").unwrap();
            let who = client.rpc_send("who", ()).timeout(LIMIT).wait().unwrap();
            assert_eq!(who.as_str(), Some("homing-subscribers"));
            let who = client.task_send(()).timeout(LIMIT).returning::<String>().wait().unwrap();
            assert_eq!(who, "homing-subscribers");
            client.broadcast_send(()).wait().unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(receiver.recv_timeout(LIMIT).unwrap(), "homing-subscribers");
        server.close().unwrap();
        let error = server.add_rpc_subscriber("late", RpcSubscriber::closure(|_: RpcRequest| ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CommunicatorClosed);
    }

    #[test]
    fn a_handler_on_the_background_home_may_wait_and_may_close() {
        let communicator = Communicator::connect("memory:").unwrap();
        let calls = communicator.clone();
        let outer = RpcSubscriber::blocking(move |_: RpcRequest| calls.rpc_send("inner", 1).timeout(LIMIT).wait());
        communicator.add_rpc_subscriber("outer", outer).unwrap();
        communicator.add_rpc_subscriber("inner", RpcSubscriber::closure(RpcRequest::into_body)).unwrap();
        assert_eq!(communicator.rpc_send("outer", ()).timeout(LIMIT).wait().unwrap(), Value::Int(1));

        let closes = communicator.clone();
        let (sender, receiver) = mpsc::channel();
        let end = RpcSubscriber::blocking(move |_: RpcRequest| sender.send(closes.close().is_ok()));
        communicator.add_rpc_subscriber("end", end).unwrap();
        communicator.rpc_send("end", ()).timeout(LIMIT).wait().unwrap_err();
        assert!(receiver.recv_timeout(LIMIT).unwrap());
        assert!(communicator.is_closed());
    }

    #[test]
    fn a_handler_that_blocks_does_not_hold_a_close() {
        let limit = Duration::from_millis(300);
        let communicator = Communicator::builder("memory:").close_timeout(limit).connect_blocking().unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let (sender, receiver) = mpsc::channel();
        let blocks = RpcSubscriber::blocking(move |_: RpcRequest| {
            sender.send(()).ok();
            wait.lock().unwrap().recv_timeout(LIMIT).ok();
        });
        communicator.add_rpc_subscriber("blocks", blocks).unwrap();
        let reply = communicator.rpc_send("blocks", ()).send_blocking().unwrap();
        receiver.recv_timeout(LIMIT).unwrap();
        let began = Instant::now();
        communicator.close().unwrap();
        assert!(began.elapsed() < LIMIT / 2, "{:?}", began.elapsed());
        assert!(reply.wait().is_err());
        go.send(()).ok();
    }

    #[test]
    fn a_thread_serves_until_a_signal_or_the_end() {
        let communicator = Communicator::connect("memory:").unwrap();
        let here = communicator.bound_to(&Home::current());
        here.add_rpc_subscriber("who", RpcSubscriber::closure(|_: RpcRequest| thread_name())).unwrap();
        let (stop, stopped) = Home::current().try_future::<u8>().unwrap();
        let calls = communicator.clone();
        let caller = thread::spawn(move || {
            let who = calls.rpc_send("who", ()).timeout(LIMIT).wait().unwrap();
            stop.complete(7).unwrap();
            who
        });
        assert_eq!(here.serve_until(stopped).unwrap(), Ok(7));
        assert_eq!(caller.join().unwrap().as_str(), thread::current().name());

        let closes = communicator.clone();
        let closer = thread::spawn(move || closes.close().unwrap());
        let error = here.serve_until(std::future::pending::<()>()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CommunicatorClosed);
        closer.join().unwrap();
    }

    #[test]
    fn a_home_is_chosen_in_the_same_way_by_every_handle() {
        let event_loop = EventLoop::start("bound").unwrap();
        let home = event_loop.handle().home();
        let communicator = Communicator::connect("memory:").unwrap();
        let who = || RpcSubscriber::closure(|_: RpcRequest| thread_name());
        let plain = communicator.bound_to(&home);
        plain.add_rpc_subscriber("blocking", who()).unwrap();
        plain.default_task_queue().unwrap().add_task_subscriber(TaskSubscriber::closure(|_| thread_name())).unwrap();
        let bound = communicator.to_async().bound_to(&home);
        homing::blocking::wait(bound.add_rpc_subscriber("async", who())).unwrap();
        for name in ["blocking", "async"] {
            let seen: String = communicator.call(name, &()).timeout(LIMIT).wait().unwrap();
            assert_eq!(seen, "bound", "{name}");
        }
        assert_eq!(communicator.task_send(()).timeout(LIMIT).wait().unwrap().as_str(), Some("bound"));
        communicator.close().unwrap();
        event_loop.stop();
    }

    #[test]
    fn identifiers_and_prefetch_are_the_subscribers() {
        let communicator = Communicator::connect("memory:").unwrap();
        let named =
            |name: &str| TaskSubscriber::closure(|_: TaskRequest| ()).with_identifier(Identifier::new(name).unwrap());
        let few = NonZeroU16::new(3).unwrap();
        assert_eq!(communicator.add_task_subscriber(named("one").with_prefetch(few)).unwrap().as_str(), "one");
        let error = communicator.add_task_subscriber(named("one").with_prefetch(few)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DuplicateSubscriberIdentifier);
        let error = communicator.add_task_subscriber(named("two")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        communicator.remove_task_subscriber(&Identifier::new("one").unwrap()).unwrap();
        communicator.add_task_subscriber(named("two")).unwrap();
        let see = || BroadcastSubscriber::closure(|_: Broadcast| ()).with_identifier(Identifier::new("b").unwrap());
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), see()).unwrap();
        let error = communicator.add_broadcast_subscriber(BroadcastFilter::new(), see()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DuplicateSubscriberIdentifier);
        communicator.close().unwrap();
    }

    /// Runs this on a thread of its own, and waits for it no longer than the limit.
    ///
    /// Guards: a wait that is broken and does not end. It would hold up the run instead of failing it.
    fn in_time(test: fn()) {
        let (ends, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("in-time".to_owned());
        let thread = thread.spawn(move || {
            test();
            drop(ends);
        });
        let thread = thread.unwrap();
        assert_ne!(ended.recv_timeout(LIMIT), Err::<(), _>(mpsc::RecvTimeoutError::Timeout), "it comes to no end");
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn a_wait_for_the_next_ends_by_its_limit_and_loses_nothing() {
        in_time(next_within_a_limit);
    }

    fn next_within_a_limit() {
        use homing::ConnectionEvent;
        use homing::process::{ProcessState, StateChange};

        let short = Duration::from_millis(20);
        let communicator = Communicator::connect("memory:").unwrap();
        let controller = homing::process::blocking::ProcessController::new(&communicator);
        let mut broadcasts = communicator.broadcasts(BroadcastFilter::new().subject("news").unwrap()).unwrap();
        let mut changes = controller.events([1]).unwrap();
        let queue = communicator.default_task_queue().unwrap();
        let (mut tasks, mut events) = (queue.tasks(), communicator.events());

        let began = Instant::now();
        for error in [
            broadcasts.next_blocking_timeout(short).map(drop).unwrap_err(),
            changes.next_blocking_timeout(short).map(drop).unwrap_err(),
            tasks.next_blocking_timeout(short).map(drop).unwrap_err(),
            events.next_blocking_timeout(short).map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
            assert!(error.to_string().contains("came within 20ms"), "{error}");
        }
        assert!(began.elapsed() >= 4 * short, "a limit is waited for: {:?}", began.elapsed());

        communicator.broadcast_send(1).subject("news").wait().unwrap();
        controller.announce(&StateChange::new(1, None, ProcessState::Created)).wait().unwrap();
        communicator.task_send(2).no_reply().wait().unwrap();
        assert_eq!(broadcasts.next_blocking_timeout(LIMIT).unwrap().unwrap().unwrap().body().as_i64(), Some(1));
        assert_eq!(changes.next_blocking_timeout(LIMIT).unwrap().unwrap().unwrap().to(), ProcessState::Created);
        let task = tasks.next_blocking_timeout(Duration::MAX).unwrap().unwrap();
        task.process(|task| assert_eq!(task.body().as_i64(), Some(2)));

        // The home of this thread goes on meanwhile.
        let here = communicator.bound_to(&Home::current());
        here.add_rpc_subscriber("who", RpcSubscriber::closure(|_: RpcRequest| thread_name())).unwrap();
        let calls = communicator.clone();
        let caller = thread::spawn(move || {
            let who = calls.rpc_send("who", ()).timeout(LIMIT).wait().unwrap();
            calls.broadcast_send(3).subject("news").wait().unwrap();
            who
        });
        assert_eq!(broadcasts.next_blocking_timeout(LIMIT).unwrap().unwrap().unwrap().body().as_i64(), Some(3));
        assert_eq!(caller.join().unwrap().as_str(), thread::current().name());

        communicator.close().unwrap();
        // What is there is had without a wait, and so is the end.
        assert!(matches!(events.next_blocking_timeout(Duration::ZERO).unwrap(), Some(ConnectionEvent::Closed)));
        assert!(events.next_blocking_timeout(Duration::ZERO).unwrap().is_none());
        assert!(broadcasts.next_blocking_timeout(Duration::ZERO).unwrap().is_none());
        assert!(changes.next_blocking_timeout(Duration::ZERO).unwrap().is_none());
        assert_eq!(tasks.next_blocking_timeout(LIMIT).unwrap_err().kind(), ErrorKind::CommunicatorClosed);
        assert!(tasks.next_blocking_timeout(Duration::ZERO).unwrap().is_none());
    }

    /// Serves in the destructor of a thread-local value.
    struct ServesAtTheEnd(Communicator, mpsc::Sender<Option<ErrorKind>>);

    impl Drop for ServesAtTheEnd {
        fn drop(&mut self) {
            let served = self.0.serve_until(std::future::pending::<()>());
            self.1.send(served.err().map(|error| error.kind())).unwrap();
        }
    }

    thread_local! {
        static SERVES: std::cell::RefCell<Option<ServesAtTheEnd>> = const { std::cell::RefCell::new(None) };
    }

    #[test]
    fn serving_ends_with_the_home() {
        in_time(|| {
            let communicator = Communicator::connect("memory:").unwrap();
            // While it serves, and before it does.
            for stops_before in [false, true] {
                let event_loop = EventLoop::start("serves").unwrap();
                let (served, end) = mpsc::channel();
                let (begins, begun) = mpsc::channel();
                let (serves, handle) = (communicator.clone(), event_loop.handle());
                let serve = move |_: &homing::home::LocalHome| {
                    if stops_before {
                        handle.stop();
                    }
                    let begin = async move {
                        let _ = begins.send(());
                        std::future::pending::<()>().await;
                    };
                    drop(served.send(serves.serve_until(begin)));
                };
                event_loop.run(serve).unwrap();
                if !stops_before {
                    begun.recv_timeout(LIMIT).unwrap();
                }
                event_loop.stop();
                assert_eq!(end.recv_timeout(LIMIT).unwrap().unwrap_err().kind(), ErrorKind::HomeEnded);
            }
            let (sender, end) = mpsc::channel();
            let serves = communicator.clone();
            thread::spawn(move || {
                // Registered before what a wait keeps for its thread, so that it is dropped after it.
                SERVES.with_borrow_mut(|serves| assert!(serves.is_none()));
                serves.task_send(()).no_reply().wait().unwrap();
                SERVES.set(Some(ServesAtTheEnd(serves, sender)));
            })
            .join()
            .unwrap();
            assert_eq!(end.recv_timeout(LIMIT).unwrap(), Some(ErrorKind::HomeEnded));
            communicator.close().unwrap();
        });
    }

    /// The names of the public methods of a type, as a file has them.
    fn methods(source: &str, of: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut within = false;
        for line in source.lines() {
            if line.starts_with("impl") {
                within = line.starts_with(&format!("impl {of} {{"));
            }
            let line = line.trim_start();
            let name = line.strip_prefix("pub async fn ").or_else(|| line.strip_prefix("pub fn "));
            if let (true, Some(name)) = (within, name) {
                names.push(name.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
        }
        names
    }

    #[test]
    fn the_blocking_form_has_all_that_the_async_one_has() {
        let here = include_str!("../src/client/blocking.rs");
        for (of, source) in [
            ("Communicator", include_str!("../src/client/communicator.rs")),
            ("TaskQueue", include_str!("../src/client/queue.rs")),
        ] {
            let (all, blocking) = (methods(source, of), methods(here, of));
            assert!(all.len() >= 5, "{all:?}");
            let missing: Vec<_> = all.iter().filter(|name| !blocking.contains(name)).collect();
            assert!(missing.is_empty(), "blocking::{of} has no {missing:?}");
        }
        let of_processes = include_str!("../src/process/blocking.rs");
        for (of, source) in [("Broadcasts", here), ("Tasks", here), ("Events", here), ("ProcessEvents", of_processes)] {
            assert_eq!(methods(source, of), ["next_blocking", "next_blocking_timeout"], "of {of}");
        }
    }
}

#[tokio::test]
async fn a_home_that_is_full_is_not_one_that_has_ended() {
    use homing::home::{EventLoop, Home};

    let communicator = serve().await;
    let home = Home::current();
    let event_loop = EventLoop::start("full").unwrap();
    let elsewhere = || event_loop.handle().home().try_future::<()>().unwrap().1;
    let (one, two) = (elsewhere(), elsewhere());
    home.set_capacity(0);
    assert_eq!(communicator.rpc_send("echo", 1).try_send().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(Answer::promise().unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(homing::futures::gather([one]).await, Err(homing::home::End::Full));
    assert_eq!(homing::futures::as_completed([two]).unwrap_err(), homing::home::ReserveError::Full);
    home.set_capacity(1000);
    let ended = event_loop.handle().home();
    event_loop.stop();
    let error =
        communicator.bound_to(&ended).add_rpc_subscriber("x", RpcSubscriber::closure(|_| ())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HomeEnded);
    communicator.close().await.unwrap();
}

mod streams {
    use futures_util::{Stream, StreamExt};
    use homing::{ConnectionEvent, Lagged};

    use super::*;

    async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
        tokio::time::timeout(LIMIT, StreamExt::next(stream)).await.expect("in time")
    }

    #[tokio::test]
    async fn broadcasts_are_a_stream_in_which_lag_is_an_item() {
        let communicator = Communicator::connect("memory:").await.unwrap();
        let mut some = communicator.broadcasts(BroadcastFilter::new().subject("wanted").unwrap()).await.unwrap();
        let mut late = communicator.broadcasts(BroadcastFilter::new()).await.unwrap();
        communicator.broadcast_send(0).subject("other").await.unwrap();
        communicator.broadcast_send(1).subject("wanted").await.unwrap();
        assert_eq!(next(&mut some).await.unwrap().unwrap().body(), &Value::Int(1));
        // A wait that is given up loses nothing.
        assert!(tokio::time::timeout(Duration::from_millis(50), some.next()).await.is_err());
        for n in 2..3002 {
            communicator.broadcast_send(n).subject("x").await.unwrap();
        }
        communicator.broadcast_send("last").subject("wanted").await.unwrap();
        assert_eq!(next(&mut some).await.unwrap().unwrap().body().as_str(), Some("last"));
        let Some(Err(Lagged { missed, .. })) = next(&mut late).await else { panic!("no lag was reported") };
        let mut seen = 0;
        while next(&mut late).await.unwrap().unwrap().body().as_str() != Some("last") {
            seen += 1;
        }
        assert_eq!(missed + seen + 1, 3003);
        assert_eq!(communicator.counts().broadcasts_lagged, missed);
        communicator.close().await.unwrap();
        assert!(next(&mut some).await.is_none());
    }

    #[tokio::test]
    async fn tasks_are_a_stream() {
        let communicator = Communicator::connect("memory:").await.unwrap();
        let queue = communicator.default_task_queue().unwrap();
        let mut tasks = queue.tasks();
        assert!(tokio::time::timeout(Duration::from_millis(50), tasks.next()).await.is_err());
        for n in 0..5 {
            queue.task_send(n).no_reply().await.unwrap();
        }
        for n in 0..5 {
            let task = next(&mut tasks).await.unwrap().unwrap();
            assert_eq!(task.body(), &Value::from(n));
            task.finish(());
        }
        communicator.close().await.unwrap();
        assert_eq!(next(&mut tasks).await.unwrap().unwrap_err().kind(), ErrorKind::CommunicatorClosed);
        assert!(next(&mut tasks).await.is_none());
    }

    #[tokio::test]
    async fn events_and_outcomes_are_streams() {
        let communicator = Communicator::connect("memory:").await.unwrap();
        let mut events = communicator.events();
        communicator.close().await.unwrap();
        assert!(matches!(next(&mut events).await, Some(ConnectionEvent::Closed)));
        assert!(next(&mut events).await.is_none());

        let (completer, future) = homing::home::Home::current().try_future().unwrap();
        let mut outcomes = homing::futures::as_completed([future]).unwrap();
        completer.complete(5).unwrap();
        assert_eq!(next(&mut outcomes).await, Some((0, Ok(5))));
        assert!(next(&mut outcomes).await.is_none());
    }
}
