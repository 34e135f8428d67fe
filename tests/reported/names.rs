//! Names that mean something of their own to a broker, in each place where a user gives one: they are refused before
//! anything is sent, or they are names like others. Either takes no time and costs nothing else.

use std::time::Duration;

use homing::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, ErrorKind, Identifier, RpcRequest, RpcSubscriber,
    TaskRequest, TaskSubscriber, Value,
};

use crate::support::{Broker, Suite};
use crate::{close_undisturbed, options, run};

pub(crate) fn add(suite: &mut Suite) {
    suite.both("names_of_every_kind_are_used_or_refused", |broker| run(names(broker)));
}

/// Each name, what it is, and whether an identifier, a queue and an exchange can be called so. (A queue and an exchange need
/// room for `.quarantine` and `-reply-<uuid>`.)
fn cases() -> Vec<(String, [bool; 3])> {
    let mut cases: Vec<(String, [bool; 3])> = Vec::new();
    for (name, may_be) in [
        ("", [true, false, false]),
        (" ", [true, true, true]),
        ("a b", [true, true, true]),
        (".", [true, true, true]),
        ("..", [true, true, true]),
        (".a.", [true, true, true]),
        ("a.b.c", [true, true, true]),
        ("*", [false, false, true]),
        ("#", [false, false, true]),
        ("a.*.b", [false, false, true]),
        ("**", [true, true, true]),
        ("amq.gen-mine", [true, false, false]),
        ("amq.mine", [true, false, false]),
        ("amq.", [true, false, false]),
        ("amq", [true, true, true]),
        ("AMQ.mine", [true, true, true]),
        ("a\0b", [false, false, false]),
        ("a\nb", [false, false, false]),
        ("\t", [false, false, false]),
        ("\u{7f}", [false, false, false]),
        ("\u{85}", [false, false, false]),
        ("é😀", [true, true, true]),
        ("a/b?c=d&e%2F", [true, true, true]),
        ("'\"`$(x)\\", [true, true, true]),
        ("[rpc].x", [true, true, true]),
        ("[broadcast]", [true, true, true]),
        ("-1", [true, true, true]),
    ] {
        cases.push((name.to_owned(), may_be));
    }
    for (length, may_be) in [
        (212, [true, true, true]),
        (213, [true, true, false]),
        (244, [true, true, false]),
        (245, [true, false, false]),
        (249, [true, false, false]),
        (250, [false, false, false]),
        (70_000, [false, false, false]),
    ] {
        cases.push(("x".repeat(length), may_be));
    }
    cases
}

async fn in_time<T>(what: &str, work: impl IntoFuture<Output = homing::Result<T>>) -> homing::Result<T> {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, work.into_future()).await.unwrap_or_else(|_| panic!("{what} takes more than {limit:?}"))
}

fn is<T>(what: &str, may_be: bool, result: &homing::Result<T>) {
    match result {
        Ok(_) => assert!(may_be, "{what} is taken"),
        Err(error) => {
            assert!(!may_be, "{what}: {error}");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
            assert!(error.to_string().len() < 1_000, "{what}: {error}");
        }
    }
}

async fn names(broker: &Broker) {
    let communicator = options(broker.url(), broker).connect().await.unwrap();
    let events = communicator.events();
    for (name, [identifier, queue, _]) in cases() {
        let shown: String = name.chars().take(20).collect();
        let what = |place: &str| format!("{place} {shown:?} of {} bytes", name.len());

        // Who answers a call.
        let echo = RpcSubscriber::closure(|request: RpcRequest| request.into_body());
        let added = in_time(&what("the subscriber"), communicator.add_rpc_subscriber(&*name, echo)).await;
        is(&what("the subscriber"), identifier, &added);
        let answer = in_time(&what("a call to"), communicator.rpc_send(&*name, "x")).await;
        is(&what("a call to"), identifier, &answer);
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer == Value::from("x")), "{}", what("the answer of"));
        if let Ok(added) = added {
            in_time(&what("the removal of"), communicator.remove_rpc_subscriber(&added)).await.unwrap();
        }

        // A subscriber to tasks and one to broadcasts, of that identifier.
        let own = communicator.task_queue(broker.name("named")).unwrap();
        let made = Identifier::new(&name);
        is(&what("the identifier"), identifier, &made);
        if let Ok(made) = made {
            let work = TaskSubscriber::closure(|task: TaskRequest| task.into_body()).with_identifier(made.clone());
            let added = in_time(&what("the worker"), own.add_task_subscriber(work)).await.unwrap();
            assert_eq!(in_time(&what("a task for"), own.task_send(1)).await.unwrap(), Value::from(1));
            in_time(&what("the worker's end"), own.remove_task_subscriber(&added)).await.unwrap();
            let hear = BroadcastSubscriber::closure(|_: Broadcast| ()).with_identifier(made);
            let added = communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear);
            let added = in_time(&what("the listener"), added).await.unwrap();
            in_time(&what("the listener's end"), communicator.remove_broadcast_subscriber(&added)).await.unwrap();
        }

        // A queue.
        let named = match communicator.task_queue(&name) {
            Ok(named) => in_time(&what("a task to the queue"), named.task_send(1).no_reply()).await.map(|()| named),
            Err(error) => Err(error),
        };
        is(&what("the queue"), queue, &named);
        if let Ok(named) = named {
            let task = in_time(&what("a task from the queue"), named.next_task(Duration::from_secs(5))).await.unwrap();
            task.process(|_| ());
        }

        // A thread's name is for people.
        drop(homing::home::EventLoop::start(&*name).unwrap());

        // A subject is a part of the body, and so any string.
        let sent = in_time(&what("the subject"), communicator.broadcast_send(1).subject(&*name).sender(&*name)).await;
        is(&what("the subject"), true, &sent);
    }
    // None of it cost a channel or the connection.
    let works = RpcSubscriber::closure(|_: RpcRequest| 1);
    communicator.add_rpc_subscriber("works", works).await.unwrap();
    assert_eq!(communicator.rpc_send("works", 0).await.unwrap(), Value::from(1));
    close_undisturbed(communicator, events).await;

    for (name, [_, queue, exchange]) in cases() {
        let shown: String = name.chars().take(20).collect();
        let what = |place: &str| format!("{place} {shown:?} of {} bytes", name.len());
        let used = async |communicator: homing::Result<Communicator>| {
            let communicator = communicator?;
            let sent = match communicator.broadcast_send(1).await {
                Ok(()) => communicator.task_send(1).no_reply().await,
                failed => failed,
            };
            if sent.is_ok() {
                // Taken out again, for queues of these names are shared by all tests.
                let task = communicator.default_task_queue()?.next_task(Duration::from_secs(5)).await?;
                task.process(|_| ());
            }
            in_time("the close", communicator.close()).await?;
            sent
        };
        let task_queue = options(broker.url(), broker).task_queue(&name).connect().await;
        is(&what("the default queue"), queue, &in_time(&what("the default queue"), used(task_queue)).await);
        let messages = options(broker.url(), broker).message_exchange(&name).connect().await;
        is(&what("the exchange"), exchange, &in_time(&what("the exchange"), used(messages)).await);
        let tasks = options(broker.url(), broker).task_exchange(&name).connect().await;
        is(&what("the exchange of tasks"), exchange, &in_time(&what("the exchange of tasks"), used(tasks)).await);
        // What a connection and its threads are called is for people: any string.
        let named = options(broker.url(), broker).connection_name(&name).connect().await;
        is(&what("the connection"), name.len() <= 1000, &in_time(&what("the connection"), used(named)).await);
        let named = options(broker.url(), broker).thread_name(&name).connect().await;
        is(&what("the thread"), true, &in_time(&what("the thread"), used(named)).await);
    }
}
