//! Calls: values, failures, answers that come later, and who hears what.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use homing::{
    Answer, Error, ErrorKind, Failure, HandlerResult, Identifier, Promise, ReplyStage, RpcRequest, RpcSubscriber, Value,
};
use serde::{Deserialize, Serialize};

use crate::support::{Broker, Suite};
use crate::{behaviours, connect, options};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        a_call_is_answered_with_what_the_subscriber_returns,
        a_call_carries_types_of_ones_own,
        a_recipient_may_be_an_integer,
        a_subscriber_may_be_made_a_name,
        a_failure_reaches_the_caller_with_its_text,
        an_empty_exception_stays_an_empty_text,
        a_panic_is_an_exception_and_the_subscriber_lives_on,
        an_answer_may_come_later_and_the_caller_sees_the_stages,
        a_promise_that_a_foreign_thread_fails_reaches_the_caller,
        a_promise_that_is_cancelled_ends_the_call_as_cancelled,
        a_promise_that_is_dropped_ends_the_call,
        a_call_to_nobody_is_unroutable,
        a_removed_subscriber_is_unroutable_again,
        the_same_name_twice_is_refused_and_the_first_goes_on,
        a_name_is_free_again_after_its_removal,
        two_communicators_may_share_a_name_and_the_first_answer_wins,
        a_call_ends_at_its_deadline_and_the_late_reply_is_counted,
        pending_renews_the_deadline,
        a_dropped_reply_gives_the_call_up,
        a_subscriber_sees_that_its_caller_is_gone,
        a_caller_that_waits_is_not_gone,
        handlers_of_one_subscriber_run_side_by_side,
        a_thousand_calls_in_flight_are_all_answered,
        values_of_every_kind_survive_the_way,
    );
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

fn echo() -> RpcSubscriber {
    RpcSubscriber::future(|request: RpcRequest| async move { request.into_body() })
}

async fn a_call_is_answered_with_what_the_subscriber_returns(broker: Broker) {
    let server = connect(&broker).await;
    let client = connect(&broker).await;
    server.add_rpc_subscriber("echo", echo()).await.unwrap();
    let sent = Value::from("é 1e5 😀");
    assert_eq!(client.rpc_send("echo", sent.clone()).await.unwrap(), sent);
    assert_eq!(server.rpc_send("echo", sent.clone()).await.unwrap(), sent, "to itself, too");
}

async fn a_call_carries_types_of_ones_own(broker: Broker) {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Job {
        name: String,
        sizes: Vec<u32>,
        note: Option<String>,
    }
    let communicator = connect(&broker).await;
    let grow = RpcSubscriber::closure(|request: RpcRequest| {
        let mut job: Job = request.decode()?;
        job.sizes.push(3);
        Answer::of(&job)
    });
    communicator.add_rpc_subscriber("grow", grow).await.unwrap();
    let job = Job { name: "a".into(), sizes: vec![1, 2], note: None };
    let grown: Job = communicator.call("grow", &job).await.unwrap();
    assert_eq!(grown, Job { name: "a".into(), sizes: vec![1, 2, 3], note: None });
    let wrong = communicator.call::<u32>("grow", &job).await;
    assert_eq!(kind(wrong), ErrorKind::Decode);
}

async fn a_recipient_may_be_an_integer(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber(4711, echo()).await.unwrap();
    assert_eq!(communicator.rpc_send("4711", 1).await.unwrap(), Value::from(1));
}

async fn a_subscriber_may_be_made_a_name(broker: Broker) {
    let communicator = connect(&broker).await;
    let made = communicator.add_rpc_subscriber(Identifier::unique(), echo()).await.unwrap();
    assert_eq!(communicator.rpc_send(&made, 1).await.unwrap(), Value::from(1));
}

async fn a_failure_reaches_the_caller_with_its_text(broker: Broker) {
    let communicator = connect(&broker).await;
    let fail = RpcSubscriber::closure(|_: RpcRequest| Err::<Value, _>(Failure::Exception("boom: äöü".into())));
    communicator.add_rpc_subscriber("fail", fail).await.unwrap();
    let error = communicator.rpc_send("fail", Value::Null).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    assert_eq!(error.remote_text(), Some("boom: äöü"));
    assert!(error.to_string().contains("fail"), "says whom it asked: {error}");
}

async fn an_empty_exception_stays_an_empty_text(broker: Broker) {
    let communicator = connect(&broker).await;
    let fail = RpcSubscriber::closure(|_: RpcRequest| Err::<Value, _>(Failure::Exception(String::new())));
    communicator.add_rpc_subscriber("fail", fail).await.unwrap();
    let error = communicator.rpc_send("fail", Value::Null).await.unwrap_err();
    assert_eq!(error.remote_text(), Some(""));
}

async fn a_panic_is_an_exception_and_the_subscriber_lives_on(broker: Broker) {
    let communicator = connect(&broker).await;
    let panicking = |request: RpcRequest| {
        assert!(request.body().is_null(), "refuses to go on");
        1
    };
    communicator.add_rpc_subscriber("closure", RpcSubscriber::closure(panicking)).await.unwrap();
    communicator.add_rpc_subscriber("blocking", RpcSubscriber::blocking(panicking)).await.unwrap();
    let future = RpcSubscriber::future(move |request| async move { panicking(request) });
    communicator.add_rpc_subscriber("future", future).await.unwrap();
    for name in ["closure", "blocking", "future"] {
        let error = communicator.rpc_send(name, 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteException);
        assert!(error.remote_text().unwrap().contains("refuses to go on"), "{error}");
        assert_eq!(communicator.rpc_send(name, Value::Null).await.unwrap(), Value::from(1));
    }
}

async fn an_answer_may_come_later_and_the_caller_sees_the_stages(broker: Broker) {
    let communicator = connect(&broker).await;
    let nested = RpcSubscriber::closure(|_: RpcRequest| {
        Answer::later(async { Answer::later(async { Answer::later(async { "at last" }) }) })
    });
    communicator.add_rpc_subscriber("nested", nested).await.unwrap();
    assert_eq!(communicator.rpc_send("nested", 0).await.unwrap(), Value::from("at last"));

    let mut reply = communicator.rpc_send("nested", 0).send().await.unwrap();
    for _ in 0..3 {
        assert_eq!(reply.stage().await.unwrap(), ReplyStage::Pending);
    }
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Done(Value::from("at last")));
    assert_eq!(kind(reply.stage().await), ErrorKind::InvalidState);
}

/// A subscriber whose promises go to a foreign thread.
fn promised(with: impl Fn(Promise) + Send + Sync + Clone + 'static) -> RpcSubscriber {
    RpcSubscriber::closure(move |_: RpcRequest| {
        let (promise, answer) = Answer::promise()?;
        let with = with.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            with(promise);
        });
        HandlerResult::Ok(answer)
    })
}

async fn a_promise_that_a_foreign_thread_fails_reaches_the_caller(broker: Broker) {
    let communicator = connect(&broker).await;
    let fails = promised(|promise| promise.fail(Failure::Exception("from afar".into())));
    communicator.add_rpc_subscriber("fails", fails).await.unwrap();
    communicator.add_rpc_subscriber("answers", promised(|promise| promise.answer(5))).await.unwrap();
    let error = communicator.rpc_send("fails", 0).await.unwrap_err();
    assert_eq!(error.remote_text(), Some("from afar"));
    assert_eq!(communicator.rpc_send("answers", 0).await.unwrap(), Value::from(5));
}

async fn a_promise_that_is_cancelled_ends_the_call_as_cancelled(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber("cancels", promised(Promise::cancel)).await.unwrap();
    assert_eq!(kind(communicator.rpc_send("cancels", 0).await), ErrorKind::Cancelled);
}

async fn a_promise_that_is_dropped_ends_the_call(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber("drops", promised(drop)).await.unwrap();
    communicator
        .add_rpc_subscriber("panics", promised(|_held| panic!("on purpose, with a promise in hand")))
        .await
        .unwrap();
    for name in ["drops", "panics"] {
        assert_eq!(kind(communicator.rpc_send(name, 0).await), ErrorKind::RemoteException);
    }
}

async fn a_call_to_nobody_is_unroutable(broker: Broker) {
    let communicator = connect(&broker).await;
    let error = communicator.rpc_send("nobody", 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unroutable);
    assert!(error.to_string().contains("nobody"), "{error}");
    assert_eq!(kind(communicator.rpc_send("nobody", 0).send().await), ErrorKind::Unroutable);
    // Mixed with ones that arrive, each gets its own outcome.
    communicator.add_rpc_subscriber("somebody", echo()).await.unwrap();
    let calls = (0..200).map(|n| {
        let call = communicator.rpc_send(if n % 2 == 0 { "somebody" } else { "nobody" }, n);
        async move { (n, call.await) }
    });
    for (n, outcome) in futures_util::future::join_all(calls).await {
        match n % 2 {
            0 => assert_eq!(outcome.unwrap(), Value::from(n)),
            _ => assert_eq!(kind(outcome), ErrorKind::Unroutable),
        }
    }
}

async fn a_removed_subscriber_is_unroutable_again(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber("here", echo()).await.unwrap();
    assert!(communicator.rpc_send("here", 0).await.is_ok());
    communicator.remove_rpc_subscriber("here").await.unwrap();
    assert_eq!(kind(communicator.rpc_send("here", 0).await), ErrorKind::Unroutable);
    assert_eq!(kind(communicator.remove_rpc_subscriber("here").await), ErrorKind::InvalidArgument);
}

async fn the_same_name_twice_is_refused_and_the_first_goes_on(broker: Broker) {
    let communicator = connect(&broker).await;
    let (first, second) =
        tokio::join!(communicator.add_rpc_subscriber("one", echo()), communicator.add_rpc_subscriber("one", echo()));
    assert_eq!(u8::from(first.is_ok()) + u8::from(second.is_ok()), 1, "at once: one of two");
    assert_eq!(kind(communicator.add_rpc_subscriber("one", echo()).await), ErrorKind::DuplicateSubscriberIdentifier);
    assert_eq!(communicator.rpc_send("one", 7).await.unwrap(), Value::from(7));
}

async fn a_name_is_free_again_after_its_removal(broker: Broker) {
    let communicator = connect(&broker).await;
    for n in 0..5 {
        let answer = RpcSubscriber::closure(move |_: RpcRequest| n);
        communicator.add_rpc_subscriber("again", answer).await.unwrap();
        assert_eq!(communicator.rpc_send("again", 0).await.unwrap(), Value::from(n));
        communicator.remove_rpc_subscriber("again").await.unwrap();
    }
}

async fn two_communicators_may_share_a_name_and_the_first_answer_wins(broker: Broker) {
    let (one, two, client) = (connect(&broker).await, connect(&broker).await, connect(&broker).await);
    let seen = Arc::new(AtomicUsize::new(0));
    for server in [&one, &two] {
        let seen = seen.clone();
        let both = RpcSubscriber::closure(move |_: RpcRequest| {
            seen.fetch_add(1, Ordering::SeqCst);
            "answer"
        });
        server.add_rpc_subscriber("both", both).await.unwrap();
    }
    assert_eq!(client.rpc_send("both", 0).await.unwrap(), Value::from("answer"));
    crate::support::eventually(|| seen.load(Ordering::SeqCst) == 2 && client.counts().late_replies == 1).await;
}

async fn a_call_ends_at_its_deadline_and_the_late_reply_is_counted(broker: Broker) {
    let communicator = connect(&broker).await;
    let slow = RpcSubscriber::future(|_: RpcRequest| async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        "late"
    });
    communicator.add_rpc_subscriber("slow", slow).await.unwrap();
    let error = communicator.rpc_send("slow", 0).timeout(Duration::from_millis(1500)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("slow") && error.to_string().contains("1.5s"), "{error}");
    crate::support::eventually(|| communicator.counts().late_replies == 1).await;
}

async fn pending_renews_the_deadline(broker: Broker) {
    let communicator = connect(&broker).await;
    let slow = RpcSubscriber::future(|_: RpcRequest| async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Answer::later(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            "in time"
        })
    });
    communicator.add_rpc_subscriber("slow", slow).await.unwrap();
    let outcome = communicator.rpc_send("slow", 0).timeout(Duration::from_millis(3500)).await;
    assert_eq!(outcome.unwrap(), Value::from("in time"));
}

async fn a_dropped_reply_gives_the_call_up(broker: Broker) {
    let communicator = connect(&broker).await;
    let (promises, mut given) = tokio::sync::mpsc::unbounded_channel();
    let waits = RpcSubscriber::closure(move |_: RpcRequest| {
        let (promise, answer) = Answer::promise()?;
        promises.send(promise).ok();
        HandlerResult::Ok(answer)
    });
    communicator.add_rpc_subscriber("waits", waits).await.unwrap();
    let mut reply = communicator.rpc_send("waits", 0).send().await.unwrap();
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Pending);
    drop(reply);
    given.recv().await.unwrap().answer(1);
    crate::support::eventually(|| communicator.counts().late_replies == 1).await;
}

/// How a caller goes.
#[derive(Clone, Copy, Debug)]
enum Goes {
    Drops,
    RunsIntoItsDeadline,
    Closes,
}

async fn a_subscriber_sees_that_its_caller_is_gone(broker: Broker) {
    let server = connect(&broker).await;
    // Asked before the caller goes and asked after, polled and awaited.
    for (goes, asks_first) in
        [Goes::Drops, Goes::RunsIntoItsDeadline, Goes::Closes].map(|goes| [(goes, true), (goes, false)]).concat()
    {
        let client = connect(&broker).await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let (go, gone) = tokio::sync::watch::channel(false);
        let works = RpcSubscriber::future(move |request: RpcRequest| {
            let (tell, mut gone) = (tell.clone(), gone.clone());
            async move {
                let first = asks_first.then(|| request.caller_gone().unwrap());
                if let Some(caller) = &first {
                    assert!(!caller.is_gone());
                }
                tell.send("at work").unwrap();
                gone.wait_for(|gone| *gone).await.unwrap();
                let mut caller = first.map_or_else(|| request.caller_gone(), Ok).unwrap();
                (&mut caller).await;
                assert!(caller.is_gone());
                tell.send("stopped").unwrap();
                Value::Null
            }
        });
        let name = format!("works-{goes:?}-{asks_first}");
        server.add_rpc_subscriber(&name, works).await.unwrap();
        let time = if matches!(goes, Goes::RunsIntoItsDeadline) { Duration::from_secs(3) } else { crate::LONG };
        let reply = client.rpc_send(&name, 0).timeout(time).send().await.unwrap();
        assert_eq!(told.recv().await, Some("at work"));
        match goes {
            Goes::Drops => drop(reply),
            Goes::RunsIntoItsDeadline => assert_eq!(kind(reply.await), ErrorKind::TimedOut),
            Goes::Closes => assert_eq!(client.close().await.unwrap().requests_ended, 1),
        }
        go.send(true).unwrap();
        let stopped = tokio::time::timeout(crate::LONG, told.recv()).await;
        assert_eq!(stopped.unwrap_or_else(|_| panic!("{goes:?}: not told")), Some("stopped"));
        server.remove_rpc_subscriber(&name).await.unwrap();
    }
}

async fn a_caller_that_waits_is_not_gone(broker: Broker) {
    let communicator = connect(&broker).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let (go, may_go) = tokio::sync::watch::channel(false);
    let works = RpcSubscriber::future(move |request: RpcRequest| {
        let (tell, mut may_go) = (tell.clone(), may_go.clone());
        async move {
            let caller = request.caller_gone().unwrap();
            tell.send(caller).unwrap();
            may_go.wait_for(|go| *go).await.unwrap();
            7
        }
    });
    communicator.add_rpc_subscriber("works", works).await.unwrap();
    let reply = communicator.rpc_send("works", 0).send().await.unwrap();
    let mut caller = told.recv().await.unwrap();
    // Somebody else's call goes meanwhile.
    drop(communicator.rpc_send("works", 0).send().await.unwrap());
    told.recv().await.unwrap().await;
    assert!(futures_util::poll!(&mut caller).is_pending());
    assert!(!caller.is_gone());
    go.send(true).unwrap();
    assert_eq!(reply.await.unwrap(), Value::from(7));
    // It was answered: nobody waits, and nobody went.
    tokio::time::timeout(crate::LONG, &mut caller).await.expect("the watch ends with the call");
    assert!(!caller.is_gone());
}

async fn handlers_of_one_subscriber_run_side_by_side(broker: Broker) {
    let communicator = connect(&broker).await;
    let barrier = Arc::new(tokio::sync::Barrier::new(8));
    let meet = RpcSubscriber::future(move |_: RpcRequest| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
            "met"
        }
    });
    communicator.add_rpc_subscriber("meet", meet).await.unwrap();
    let calls = (0..8).map(|_| communicator.rpc_send("meet", 0).into_future());
    for outcome in futures_util::future::join_all(calls).await {
        assert_eq!(outcome.unwrap(), Value::from("met"));
    }
}

async fn a_thousand_calls_in_flight_are_all_answered(broker: Broker) {
    let (server, client) = (connect(&broker).await, connect(&broker).await);
    server.add_rpc_subscriber("echo", echo()).await.unwrap();
    let calls = (0..1000).map(|n| client.rpc_send("echo", n).into_future());
    for (n, outcome) in (0..).zip(futures_util::future::join_all(calls).await) {
        assert_eq!(outcome.unwrap(), Value::from(n));
    }
    assert_eq!(client.counts().late_replies, 0);
}

async fn values_of_every_kind_survive_the_way(broker: Broker) {
    let communicator = options(&broker).connect().await.unwrap();
    communicator.add_rpc_subscriber("echo", echo()).await.unwrap();
    let json = serde_json::json!({
        "tuple": {"$tuple": [1, "1e5", null]},
        "bytes": {"$bytes": "AP8="},
        "big": {"$int": "123456789012345678901234567890"},
        "tag": {"$tag": "!aiida_node", "value": "a-uuid"},
        "floats": [1e20, -0.5, {"$float": "inf"}],
        "keys": {"$map": [[1, "one"], [null, "none"]]},
        "texts": ["yes", "0o17", "1e-7", "", " ", "~", "2020-01-01", "a\nb", "\u{1F600}"],
    });
    let value = Value::from_json(&json).unwrap();
    assert_eq!(communicator.rpc_send("echo", value.clone()).await.unwrap(), value);
}
