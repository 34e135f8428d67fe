//! Homes of every kind as callers and as subscribers, and waits within each other.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use homing::blocking;
use homing::home::{EventLoop, Home, LocalHome};
use homing::{Answer, ErrorKind, Failure, Identifier, RpcRequest, RpcSubscriber, Value};

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
    );
}

fn name() -> String {
    thread::current().name().unwrap_or("?").to_owned()
}

async fn wait<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(LONG, tokio::task::spawn_blocking(work)).await.expect("it hangs").unwrap()
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
        communicator.add_rpc_subscriber_on(&home, identifier.clone(), subscriber).await.unwrap();
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
        Ok::<_, Failure>(Answer::later(async move {
            future.await?;
            tell.send(name()).ok();
            Err::<Value, _>(Failure::Exception("failed from afar".into()))
        }))
    });
    let identifier = Identifier::new("crash").unwrap();
    communicator.add_rpc_subscriber_on(&event_loop.handle().home(), identifier, subscriber).await.unwrap();
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
        plain.add_rpc_subscriber("plain", RpcSubscriber::closure(|_: RpcRequest| name())).unwrap();
        let (completer, stop) = homing::home::thread_future::<()>().unwrap();
        ready.send(completer).unwrap();
        stop.wait().unwrap();
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
        communicator.add_rpc_subscriber_on(home, format!("link-{n}"), link).unwrap();
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
    communicator.add_rpc_subscriber_on(&event_loop.handle().home(), identifier, outer).await.unwrap();
    let seen = communicator.rpc_send("outer", 0).await.unwrap();
    assert_eq!(seen, Value::List(vec!["async-loop".into(), "async-loop".into(), 5.into()]));
    communicator.close().await.unwrap();
    event_loop.stop();
}
