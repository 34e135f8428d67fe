//! Homes of every kind as callers and as subscribers, and waits within each other.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use homing::blocking;
use homing::home::{EventLoop, ForeignLoop, Home, LocalHome};
use homing::{
    Answer, Broadcast, BroadcastFilter, BroadcastSubscriber, ErrorKind, HandlerResult, Identifier, RpcRequest,
};
use homing::{RpcSubscriber, TaskRequest, TaskSubscriber, Value};

use crate::support::homes::{Kind, Place};
use crate::support::{Broker, Suite};
use crate::{LONG, behaviours, connect};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        a_subscriber_runs_on_the_home_that_it_was_registered_with,
        an_outcome_lands_on_its_home_when_a_foreign_thread_completes_it,
        a_plain_thread_serves_while_it_waits,
        a_calls_b_which_calls_a_on_one_loop,
        a_calls_b_which_calls_a_across_homes,
        a_blocking_subscriber_may_wait_on_a_runtime,
        a_wait_on_a_current_thread_runtime_says_that_it_would_deadlock,
        a_blocking_subscriber_on_a_current_thread_runtime_may_wait,
        two_runtimes_use_one_communicator,
        an_async_subscriber_runs_on_a_loop,
        calls_within_calls_go_deep_on_homes_of_every_kind,
        calls_that_stand_too_deep_are_refused_with_a_reason,
        a_wait_that_only_an_outer_one_could_end_names_both,
        a_bound_communicator_adds_everything_on_its_home,
        a_broadcast_that_its_filter_drops_never_reaches_the_home,
        a_clock_of_the_home_that_is_paused_moves_no_deadline,
    );
}

fn name() -> String {
    thread::current().name().unwrap_or("?").to_owned()
}

async fn wait<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    wait_for(LONG, work).await
}

async fn wait_for<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(limit, tokio::task::spawn_blocking(work)).await.expect("it hangs").unwrap()
}

async fn a_subscriber_runs_on_the_home_that_it_was_registered_with(broker: Broker) {
    let communicator = connect(&broker).await;
    let event_loop = EventLoop::start("the-loop").unwrap();
    let home = event_loop.handle().home();
    for (n, subscriber) in [
        RpcSubscriber::closure(|_: RpcRequest| name()),
        RpcSubscriber::blocking(|_: RpcRequest| name()),
        RpcSubscriber::future(|_: RpcRequest| async { name() }),
    ]
    .into_iter()
    .enumerate()
    {
        let identifier = Identifier::new(format!("who{n}")).unwrap();
        communicator.bound_to(&home).add_rpc_subscriber(identifier.clone(), subscriber).await.unwrap();
        assert_eq!(communicator.rpc_send(&identifier, 0).await.unwrap(), Value::from("the-loop"));
    }
    event_loop.stop();
}

async fn an_outcome_lands_on_its_home_when_a_foreign_thread_completes_it(broker: Broker) {
    let communicator = connect(&broker).await;
    let event_loop = EventLoop::start("the-loop").unwrap();
    let (tell, told) = mpsc::channel();
    let subscriber = RpcSubscriber::closure(move |_: RpcRequest| {
        let (completer, future) = Home::current().try_future::<()>()?;
        thread::spawn(move || completer.complete(()));
        let tell = tell.clone();
        HandlerResult::Ok(Answer::later(async move {
            future.await?;
            tell.send(name()).ok();
            HandlerResult::<Value>::Err("failed from afar".into())
        }))
    });
    let identifier = Identifier::new("crash").unwrap();
    communicator.bound_to(&event_loop.handle().home()).add_rpc_subscriber(identifier, subscriber).await.unwrap();
    let error = communicator.rpc_send("crash", 0).await.unwrap_err();
    assert_eq!(error.remote_text(), Some("failed from afar"));
    assert_eq!(told.recv_timeout(LONG).unwrap(), "the-loop");
    event_loop.stop();
}

async fn a_plain_thread_serves_while_it_waits(broker: Broker) {
    let communicator = connect(&broker).await;
    let plain = blocking::Communicator::from(communicator.clone());
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let server = thread::Builder::new().name("plain".to_owned()).spawn(move || {
        let here = plain.bound_to(&Home::current());
        here.add_rpc_subscriber("plain", RpcSubscriber::closure(|_: RpcRequest| name())).unwrap();
        let (completer, stop) = homing::home::thread_future::<()>().unwrap();
        ready.send(completer).unwrap();
        here.serve_until(stop).unwrap().unwrap();
    });
    let stop = is_ready.await.unwrap();
    assert_eq!(communicator.rpc_send("plain", 0).await.unwrap(), Value::from("plain"));
    stop.complete(()).unwrap();
    wait(move || server.unwrap().join().unwrap()).await;
}

/// `NAME-a` calls `NAME-b`, which calls `NAME-c`, each waiting in its handler.
fn chain(communicator: &blocking::Communicator, homes: [&Home; 3]) {
    for (n, home) in homes.into_iter().enumerate() {
        let calls = communicator.clone();
        let link = RpcSubscriber::blocking(move |request: RpcRequest| {
            let so_far = request.body().as_i64().unwrap();
            if n == 2 {
                Ok(Value::from(so_far + 1))
            } else {
                calls.rpc_send(format!("link-{}", n + 1), so_far + 1).wait()
            }
        });
        communicator.bound_to(home).add_rpc_subscriber(format!("link-{n}"), link).unwrap();
    }
}

async fn a_calls_b_which_calls_a_on_one_loop(broker: Broker) {
    let communicator = blocking::Communicator::from(connect(&broker).await);
    let event_loop = EventLoop::start("one").unwrap();
    let sum = wait(move || {
        let home = event_loop.handle().home();
        chain(&communicator, [&home, &home, &home]);
        let sum = communicator.rpc_send("link-0", 0).wait();
        communicator.close().unwrap();
        event_loop.stop();
        sum
    });
    assert_eq!(sum.await.unwrap(), Value::from(3));
}

async fn a_calls_b_which_calls_a_across_homes(broker: Broker) {
    let communicator = blocking::Communicator::from(connect(&broker).await);
    let (one, two) = (EventLoop::start("one").unwrap(), EventLoop::start("two").unwrap());
    let runtime = Home::current();
    let sum = wait(move || {
        let (first, second) = (one.handle().home(), two.handle().home());
        chain(&communicator, [&first, &second, &first]);
        let mut sum = communicator.rpc_send("link-0", 0).wait().unwrap().as_i64().unwrap();
        for n in 0..3 {
            communicator.remove_rpc_subscriber(format!("link-{n}")).unwrap();
        }
        chain(&communicator, [&runtime, &first, &runtime]);
        sum += communicator.rpc_send("link-0", 0).wait().unwrap().as_i64().unwrap();
        communicator.close().unwrap();
        one.stop();
        two.stop();
        sum
    });
    assert_eq!(sum.await, 6);
}

async fn a_blocking_subscriber_may_wait_on_a_runtime(broker: Broker) {
    let communicator = connect(&broker).await;
    let plain = blocking::Communicator::from(communicator.clone());
    communicator.add_rpc_subscriber("inner", RpcSubscriber::closure(|_: RpcRequest| 5)).await.unwrap();
    let outer = RpcSubscriber::blocking(move |_: RpcRequest| plain.rpc_send("inner", 0).wait());
    communicator.add_rpc_subscriber("outer", outer).await.unwrap();
    assert_eq!(communicator.rpc_send("outer", 0).await.unwrap(), Value::from(5));
}

fn current_thread<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> impl Future<Output = T> {
    wait(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

async fn a_wait_on_a_current_thread_runtime_says_that_it_would_deadlock(broker: Broker) {
    let communicator = blocking::Communicator::from(connect(&broker).await);
    let error = current_thread(async move || {
        // In a task, and in the runtime's own block_on.
        let also = communicator.clone();
        let spawned = tokio::spawn(async move { also.rpc_send("x", 0).wait().unwrap_err().kind() });
        assert_eq!(spawned.await.unwrap(), ErrorKind::WouldDeadlock);
        communicator.rpc_send("x", 0).wait().unwrap_err()
    });
    let error = error.await;
    assert_eq!(error.kind(), ErrorKind::WouldDeadlock);
    assert!(error.to_string().contains("would deadlock"), "{error}");
}

async fn a_blocking_subscriber_on_a_current_thread_runtime_may_wait(broker: Broker) {
    let communicator = connect(&broker).await;
    let outcome = current_thread(async move || {
        let plain = blocking::Communicator::from(communicator.clone());
        communicator.add_rpc_subscriber("inner", RpcSubscriber::closure(|_: RpcRequest| 5)).await.unwrap();
        let outer = RpcSubscriber::blocking(move |_: RpcRequest| plain.rpc_send("inner", 0).wait());
        communicator.add_rpc_subscriber("outer", outer).await.unwrap();
        let outcome = communicator.rpc_send("outer", 0).await;
        communicator.close().await.unwrap();
        outcome
    });
    assert_eq!(outcome.await.unwrap(), Value::from(5));
}

async fn two_runtimes_use_one_communicator(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber("here", RpcSubscriber::closure(|_: RpcRequest| 1)).await.unwrap();
    let there = communicator.clone();
    let outcome = current_thread(async move || {
        let outcome = there.rpc_send("here", 0).await;
        // Gives its place back before the runtime ends.
        tokio::time::sleep(Duration::from_millis(1)).await;
        outcome
    });
    assert_eq!(outcome.await.unwrap(), Value::from(1));
    assert_eq!(communicator.rpc_send("here", 0).await.unwrap(), Value::from(1));
}

async fn an_async_subscriber_runs_on_a_loop(broker: Broker) {
    let communicator = connect(&broker).await;
    let event_loop = EventLoop::start("async-loop").unwrap();
    let inner = communicator.clone();
    communicator.add_rpc_subscriber("inner", RpcSubscriber::closure(|_: RpcRequest| 5)).await.unwrap();
    let outer = RpcSubscriber::future(move |_: RpcRequest| {
        let inner = inner.clone();
        async move {
            let before = name();
            let answer = inner.rpc_send("inner", 0).await?;
            assert!(LocalHome::of_this_thread().turn(0) == 0);
            Ok::<_, homing::Error>(Value::List(vec![before.into(), name().into(), answer]))
        }
    });
    let identifier = Identifier::new("outer").unwrap();
    communicator.bound_to(&event_loop.handle().home()).add_rpc_subscriber(identifier, outer).await.unwrap();
    let seen = communicator.rpc_send("outer", 0).await.unwrap();
    assert_eq!(seen, Value::List(vec!["async-loop".into(), "async-loop".into(), 5.into()]));
    communicator.close().await.unwrap();
    event_loop.stop();
}

/// `deep` answers n with the depth that n calls of itself within each other reach; each waits in its handler.
fn dig(communicator: &blocking::Communicator, home: &Home) {
    let calls = communicator.clone();
    let deep = RpcSubscriber::blocking(move |request: RpcRequest| match request.body().as_i64().unwrap() {
        0 => Ok(Value::from(0)),
        n => Ok(Value::from(calls.rpc_send("deep", n - 1).timeout(LONG * 2).wait()?.as_i64().unwrap_or(0) + 1))
            as homing::Result<Value>,
    });
    communicator.bound_to(home).add_rpc_subscriber("deep", deep).unwrap();
}

async fn calls_within_calls_go_deep_on_homes_of_every_kind(broker: Broker) {
    for kind in Kind::ALL {
        let communicator = blocking::Communicator::from(connect(&broker).await);
        // A loop of our own has stack for as many waits as may stand; a thread's own is smaller, and so is what a runtime
        // has of threads.
        let depth = if kind == Kind::EventLoop { 900 } else { 50 };
        let reached = wait(move || {
            let place = Place::start(kind);
            dig(&communicator, place.home());
            let reached = communicator.rpc_send("deep", depth).wait();
            communicator.close().unwrap();
            place.stop();
            reached
        });
        assert_eq!(reached.await.unwrap_or_else(|error| panic!("{kind}: {error}")), Value::from(depth), "{kind}");
    }
}

async fn calls_that_stand_too_deep_are_refused_with_a_reason(broker: Broker) {
    let communicator = blocking::Communicator::from(connect(&broker).await);
    // A thousand answers, each with the text of all below it: 30 MB, which a build without optimization reads slowly.
    let error = wait_for(LONG * 5 / 2, move || {
        let place = Place::start(Kind::EventLoop);
        dig(&communicator, place.home());
        let refused = communicator.rpc_send("deep", 1100).timeout(LONG * 2).wait().unwrap_err();
        // All of the waits have ended; the next call finds the loop as it was.
        assert_eq!(communicator.rpc_send("deep", 10).wait().unwrap(), Value::from(10));
        communicator.close().unwrap();
        place.stop();
        refused
    });
    let error = error.await;
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    assert!(error.to_string().contains("too many waits stand within each other"), "{error}");
}

async fn a_wait_that_only_an_outer_one_could_end_names_both(broker: Broker) {
    let communicator = blocking::Communicator::from(connect(&broker).await);
    let error = wait(move || {
        let (promises, promised) = mpsc::channel();
        let later = RpcSubscriber::closure(move |_: RpcRequest| {
            let (promise, answer) = Answer::promise()?;
            promises.send(promise).unwrap();
            HandlerResult::Ok(answer)
        });
        // The thread itself: the current home is the runtime, in whose context it is.
        let here = communicator.bound_to(&homing::home::LocalHome::of_this_thread().home());
        here.add_rpc_subscriber("inner", later).unwrap();
        let calls = communicator.clone();
        let outer = RpcSubscriber::blocking(move |_: RpcRequest| {
            calls.rpc_send("inner", 0).timeout(Duration::from_secs(2)).wait()
        });
        here.add_rpc_subscriber("outer", outer).unwrap();
        // Both run on this thread while it waits. What could keep the promise comes after the outer wait.
        let error = communicator.rpc_send("outer", 0).wait().unwrap_err();
        promised.recv().unwrap().answer(1);
        communicator.close().unwrap();
        error
    });
    let error = error.await.to_string();
    assert!(error.contains("the call to \"inner\" was not answered within 2s"), "{error}");
    assert!(error.contains("it stood within the wait for the call to \"outer\""), "{error}");
}

async fn a_bound_communicator_adds_everything_on_its_home(broker: Broker) {
    for kind in Kind::ALL {
        let communicator = connect(&broker).await;
        let place = Place::start(kind);
        let bound = communicator.bound_to(place.home());
        let (tell, told) = mpsc::channel();
        let note = |what: &'static str| {
            let (tell, home) = (tell.clone(), place.home().clone());
            move || tell.send((what, home.is_here())).unwrap()
        };
        let (call, task, broadcast) = (note("call"), note("task"), note("broadcast"));
        bound.add_rpc_subscriber("bound", RpcSubscriber::closure(move |_: RpcRequest| call())).await.unwrap();
        bound.add_task_subscriber(TaskSubscriber::closure(move |_: TaskRequest| task())).await.unwrap();
        let hear = BroadcastSubscriber::closure(move |_: Broadcast| broadcast());
        bound.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.unwrap();
        bound.rpc_send("bound", 0).await.unwrap();
        communicator.task_send(0).await.unwrap();
        communicator.broadcast_send(0).await.unwrap();
        let mut seen: Vec<_> = (0..3).map(|_| told.recv_timeout(LONG).unwrap()).collect();
        seen.sort_unstable();
        assert_eq!(seen, [("broadcast", true), ("call", true), ("task", true)], "{kind}");
        communicator.close().await.unwrap();
        wait(move || place.stop()).await;
    }
}

async fn a_broadcast_that_its_filter_drops_never_reaches_the_home(broker: Broker) {
    let communicator = connect(&broker).await;
    let plain = blocking::Communicator::from(communicator.clone());
    // A loop that nobody turns, and that counts how often it is rung.
    let (rings, rung) = mpsc::channel();
    let (heard, hears) = tokio::sync::oneshot::channel();
    let (done, is_done) = mpsc::channel::<()>();
    let on_loop = thread::spawn(move || {
        let home = ForeignLoop::sending(rings, ());
        let quiet = BroadcastSubscriber::closure(|_: Broadcast| ());
        let filter = BroadcastFilter::new().subject("wanted").unwrap();
        plain.bound_to(&home.home()).add_broadcast_subscriber(filter, quiet).unwrap();
        // Its task has started, and waits.
        while home.run_pending(8) > 0 {}
        heard.send(()).unwrap();
        is_done.recv().unwrap();
    });
    hears.await.unwrap();
    let before = rung.try_iter().count();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let all = BroadcastSubscriber::closure(move |broadcast: Broadcast| tell.send(broadcast).unwrap());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), all).await.unwrap();
    for n in 0..100 {
        communicator.broadcast_send(n).subject("unwanted").await.unwrap();
    }
    for _ in 0..100 {
        told.recv().await.unwrap();
    }
    assert_eq!(rung.try_iter().count(), 0, "rung {before} times before");
    communicator.broadcast_send(0).subject("wanted").await.unwrap();
    told.recv().await.unwrap();
    wait(move || rung.recv_timeout(LONG)).await.expect("one that passes does reach it");
    done.send(()).unwrap();
    wait(move || on_loop.join().unwrap()).await;
}

async fn a_clock_of_the_home_that_is_paused_moves_no_deadline(broker: Broker) {
    let communicator = connect(&broker).await;
    let never = RpcSubscriber::future(|_: RpcRequest| std::future::pending::<i64>());
    communicator.add_rpc_subscriber("never", never).await.unwrap();
    wait(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            // It stands, while time goes on.
            thread::sleep(Duration::from_millis(400));
            let begun = std::time::Instant::now();
            communicator.sleep(Duration::from_millis(200)).await.unwrap();
            assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
            // It is a day ahead.
            tokio::time::advance(Duration::from_secs(86_400)).await;
            let short = Duration::from_millis(20);
            communicator.sleep(short).await.unwrap();
            let error = communicator.rpc_send("never", 1).timeout(short).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let reply = communicator.rpc_send("never", 1).timeout(short).send().await;
            let error = match reply {
                Ok(reply) => reply.outcome().await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let empty = communicator.task_queue(broker.name("empty")).unwrap();
            assert_eq!(empty.next_task(short).await.map(drop).unwrap_err().kind(), ErrorKind::QueueEmpty);
            communicator.close().await.unwrap();
        });
    })
    .await;
}
