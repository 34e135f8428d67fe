//! Tasks: each is done once, by somebody, or goes back.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use homing::home::Home;
use homing::{
    Answer, Communicator, Error, ErrorKind, Failure, ReplyStage, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber, Value,
};

use crate::support::{Broker, Suite, eventually};
use crate::{LONG, behaviours, connect, options};

pub fn add(suite: &mut Suite) {
    behaviours!(suite:
        a_task_waits_for_a_worker_and_its_outcome_comes_back,
        a_task_without_reply_is_done_all_the_same,
        a_failed_task_is_acknowledged_and_its_sender_hears_so,
        a_task_may_be_answered_later,
        a_worker_that_rejects_leaves_the_task_to_the_next,
        an_exception_ends_a_task_and_later_workers_are_not_asked,
        a_task_that_all_reject_goes_to_another_communicator,
        a_task_that_is_cancelled_goes_back_and_comes_again,
        two_communicators_share_a_queue_and_each_task_runs_once,
        no_more_tasks_are_out_than_the_prefetch,
        tasks_in_hand_go_back_when_their_worker_closes,
        a_worker_that_is_removed_gets_no_more_tasks,
        named_queues_are_apart,
        a_task_can_be_taken_and_finished,
        a_task_that_was_taken_goes_back_when_it_is_let_go,
        the_next_task_is_waited_for,
        an_empty_queue_says_so,
        a_queue_can_be_gone_through,
        the_order_of_tasks_is_kept,
        a_taken_task_can_be_answered_later,
        a_task_that_is_held_back_comes_at_its_time_and_not_before,
        a_task_that_is_held_back_needs_no_sender,
        a_task_whose_time_has_passed_comes_at_once,
        a_delay_that_no_queue_can_keep_is_refused,
        urgent_tasks_come_first_where_the_queue_has_priorities,
        in_a_queue_without_priorities_none_has_an_effect,
        a_queue_with_priorities_is_not_taken_for_one_without,
        a_task_that_takes_too_long_ends_with_an_exception,
        a_handler_that_panics_as_it_is_dropped_at_its_time_limit_has_had_its_time,
        a_closure_that_gets_no_thread_within_its_time_limit_does_not_run,
        of_many_senders_of_one_key_one_sends_its_task,
        keys_of_different_queues_are_apart,
        a_key_is_free_again_after_its_time,
        a_key_is_free_again_where_its_task_could_not_be_sent,
        a_key_that_is_freed_has_one_taker,
        a_task_with_a_key_has_its_outcome_its_delay_and_its_priority,
        a_call_with_a_key_that_is_dropped_leaves_no_key_without_its_task,
        a_key_that_no_queue_can_keep_is_refused,
    );
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, Error>) -> ErrorKind {
    outcome.expect_err("an error").kind()
}

fn echo() -> TaskSubscriber {
    TaskSubscriber::future(|task: TaskRequest| async move { task.into_body() })
}

async fn a_task_waits_for_a_worker_and_its_outcome_comes_back(broker: Broker) {
    let (sender, worker) = (connect(&broker).await, connect(&broker).await);
    let reply = sender.task_send("work").send().await.unwrap();
    worker.add_task_subscriber(echo()).await.unwrap();
    assert_eq!(reply.await.unwrap(), Value::from("work"));
}

async fn a_task_without_reply_is_done_all_the_same(broker: Broker) {
    let communicator = connect(&broker).await;
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let worker = TaskSubscriber::closure(move |task: TaskRequest| {
        tell.send((task.is_no_reply(), task.into_body())).ok();
        "not sent to anybody"
    });
    communicator.add_task_subscriber(worker).await.unwrap();
    communicator.task_send("quiet").no_reply().await.unwrap();
    assert_eq!(told.recv().await.unwrap(), (true, Value::from("quiet")));
    // A reply would come before that of the second task.
    assert_eq!(communicator.task_send(1).await.unwrap(), Value::from("not sent to anybody"));
    assert_eq!(communicator.counts().late_replies, 0);
}

async fn a_failed_task_is_acknowledged_and_its_sender_hears_so(broker: Broker) {
    let communicator = connect(&broker).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let fails = TaskSubscriber::closure(move |_: TaskRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        Err::<Value, _>(Failure::Exception("boom".into()))
    });
    communicator.add_task_subscriber(fails).await.unwrap();
    let error = communicator.task_send(0).await.unwrap_err();
    assert_eq!((error.kind(), error.remote_text()), (ErrorKind::RemoteException, Some("boom")));
    communicator.close().await.unwrap();
    let other = connect(&broker).await;
    assert_eq!(kind(other.default_task_queue().unwrap().try_next().await), ErrorKind::QueueEmpty);
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

async fn a_task_may_be_answered_later(broker: Broker) {
    let communicator = connect(&broker).await;
    let later = TaskSubscriber::closure(|_: TaskRequest| Answer::later(async { Answer::later(async { "done" }) }));
    communicator.add_task_subscriber(later).await.unwrap();
    let mut reply = communicator.task_send(0).send().await.unwrap();
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Pending);
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Pending);
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Done(Value::from("done")));
}

async fn a_worker_that_rejects_leaves_the_task_to_the_next(broker: Broker) {
    let communicator = connect(&broker).await;
    let rejects = TaskSubscriber::closure(|_: TaskRequest| Err::<Value, _>(Failure::Rejected("not mine".into())));
    communicator.add_task_subscriber(rejects).await.unwrap();
    communicator.add_task_subscriber(echo()).await.unwrap();
    assert_eq!(communicator.task_send(3).await.unwrap(), Value::from(3));
}

async fn an_exception_ends_a_task_and_later_workers_are_not_asked(broker: Broker) {
    let communicator = connect(&broker).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let fails = TaskSubscriber::closure(|_: TaskRequest| Err::<Value, _>(Failure::Exception("first".into())));
    let count = asked.clone();
    let second = TaskSubscriber::closure(move |_: TaskRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        "second"
    });
    communicator.add_task_subscriber(fails).await.unwrap();
    communicator.add_task_subscriber(second).await.unwrap();
    assert_eq!(communicator.task_send(0).await.unwrap_err().remote_text(), Some("first"));
    communicator.close().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

async fn a_task_that_all_reject_goes_to_another_communicator(broker: Broker) {
    let (one, two) = (connect(&broker).await, connect(&broker).await);
    let asked = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let asked = asked.clone();
        let rejects = TaskSubscriber::closure(move |_: TaskRequest| {
            asked.fetch_add(1, Ordering::SeqCst);
            Err::<Value, _>(Failure::Rejected("not here".into()))
        });
        one.add_task_subscriber(rejects).await.unwrap();
    }
    let reply = one.task_send(0).send().await.unwrap();
    eventually(|| asked.load(Ordering::SeqCst) >= 4).await;
    let taker = TaskSubscriber::closure(|task: TaskRequest| task.is_redelivered());
    two.add_task_subscriber(taker).await.unwrap();
    assert_eq!(reply.await.unwrap(), Value::from(true), "and it is marked as redelivered");
}

async fn a_task_that_is_cancelled_goes_back_and_comes_again(broker: Broker) {
    let communicator = connect(&broker).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let worker = TaskSubscriber::closure(move |_: TaskRequest| match count.fetch_add(1, Ordering::SeqCst) {
        0..3 => Err(Failure::Cancelled),
        _ => Ok(Value::from("done")),
    });
    communicator.add_task_subscriber(worker).await.unwrap();
    let started = Instant::now();
    assert_eq!(communicator.task_send(0).await.unwrap(), Value::from("done"));
    assert_eq!(runs.load(Ordering::SeqCst), 4);
    assert!(started.elapsed() >= Duration::from_millis(20 + 40 + 80), "with growing pauses");
}

async fn two_communicators_share_a_queue_and_each_task_runs_once(broker: Broker) {
    const TASKS: i64 = 300;
    let sender = connect(&broker).await;
    let ran = Arc::new(Mutex::new(Vec::new()));
    let mut workers = Vec::new();
    for name in ["one", "two"] {
        let worker = options(&broker).task_prefetch(NonZeroU16::new(5).unwrap()).connect().await.unwrap();
        let ran = ran.clone();
        let work = TaskSubscriber::future(move |task: TaskRequest| {
            let ran = ran.clone();
            async move {
                tokio::task::yield_now().await;
                ran.lock().unwrap().push((name, task.body().as_i64().unwrap()));
                task.into_body()
            }
        });
        worker.add_task_subscriber(work).await.unwrap();
        workers.push(worker);
    }
    let tasks = (0..TASKS).map(|n| sender.task_send(n).into_future());
    for (n, outcome) in (0..).zip(futures_util::future::join_all(tasks).await) {
        assert_eq!(outcome.unwrap(), Value::from(n));
    }
    let ran = ran.lock().unwrap();
    let distinct: BTreeSet<i64> = ran.iter().map(|(_, n)| *n).collect();
    assert_eq!((ran.len(), distinct.len()), (300, 300), "each once");
    for name in ["one", "two"] {
        assert!(ran.iter().any(|(worker, _)| *worker == name), "{name} had its share");
    }
}

async fn no_more_tasks_are_out_than_the_prefetch(broker: Broker) {
    let worker = options(&broker).task_prefetch(NonZeroU16::new(3).unwrap()).connect().await.unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak) = (now.clone(), most.clone());
    let work = TaskSubscriber::future(move |task: TaskRequest| {
        let (running, peak) = (running.clone(), peak.clone());
        async move {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            task.into_body()
        }
    });
    worker.add_task_subscriber(work).await.unwrap();
    let tasks = (0..30).map(|n| worker.task_send(n).into_future());
    for outcome in futures_util::future::join_all(tasks).await {
        outcome.unwrap();
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

async fn tasks_in_hand_go_back_when_their_worker_closes(broker: Broker) {
    let (sender, worker, heir) = (connect(&broker).await, connect(&broker).await, connect(&broker).await);
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let never = TaskSubscriber::future(move |_: TaskRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<Value>()
    });
    worker.add_task_subscriber(never).await.unwrap();
    let mut replies = Vec::new();
    for n in 0..10 {
        replies.push(sender.task_send(n).send().await.unwrap());
    }
    eventually(|| started.load(Ordering::SeqCst) == 10).await;
    let report = worker.close().await.unwrap();
    assert_eq!(report.tasks_returned, 10);
    let work = TaskSubscriber::closure(|task: TaskRequest| task.is_redelivered());
    heir.add_task_subscriber(work).await.unwrap();
    for reply in replies {
        assert_eq!(reply.await.unwrap(), Value::from(true));
    }
}

async fn a_worker_that_is_removed_gets_no_more_tasks(broker: Broker) {
    let communicator = connect(&broker).await;
    let worker = communicator.add_task_subscriber(echo()).await.unwrap();
    communicator.task_send(1).await.unwrap();
    communicator.remove_task_subscriber(&worker).await.unwrap();
    assert_eq!(kind(communicator.remove_task_subscriber(&worker).await), ErrorKind::InvalidArgument);
    let reply = communicator.task_send(2).send().await.unwrap();
    let task = communicator.default_task_queue().unwrap().next_task(LONG).await.unwrap();
    assert_eq!(task.body(), &Value::from(2));
    task.finish("taken");
    assert_eq!(reply.await.unwrap(), Value::from("taken"));
}

async fn named_queues_are_apart(broker: Broker) {
    let communicator = connect(&broker).await;
    let red = communicator.task_queue(format!("{}.red", broker.prefix())).unwrap();
    let blue = communicator.task_queue(format!("{}.blue", broker.prefix())).unwrap();
    red.add_task_subscriber(TaskSubscriber::closure(|_: TaskRequest| "red")).await.unwrap();
    blue.add_task_subscriber(TaskSubscriber::closure(|_: TaskRequest| "blue")).await.unwrap();
    assert_eq!(red.task_send(0).await.unwrap(), Value::from("red"));
    assert_eq!(blue.task_send(0).await.unwrap(), Value::from("blue"));
}

async fn a_task_can_be_taken_and_finished(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    let (first, second, third) = (
        queue.task_send(1).send().await.unwrap(),
        queue.task_send(2).send().await.unwrap(),
        queue.task_send(3).send().await.unwrap(),
    );
    queue.try_next().await.unwrap().process(|task| Value::from(task.body().as_i64().unwrap() * 10));
    queue.try_next().await.unwrap().process(|_| Err::<Value, _>(Failure::Exception("no".into())));
    queue.try_next().await.unwrap().process(|_| -> Value { panic!("while processing") });
    assert_eq!(first.await.unwrap(), Value::from(10));
    assert_eq!(second.await.unwrap_err().remote_text(), Some("no"));
    assert!(third.await.unwrap_err().remote_text().unwrap().contains("while processing"));
    assert_eq!(kind(queue.try_next().await), ErrorKind::QueueEmpty);
}

async fn a_task_that_was_taken_goes_back_when_it_is_let_go(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    queue.task_send(1).no_reply().await.unwrap();
    let task = queue.try_next().await.unwrap();
    assert!(!task.request().is_redelivered());
    drop(task);
    let task = queue.next_task(LONG).await.unwrap();
    assert!(task.request().is_redelivered());
    task.requeue();
    queue.next_task(LONG).await.unwrap().finish(());
    assert_eq!(kind(queue.try_next().await), ErrorKind::QueueEmpty);
}

async fn the_next_task_is_waited_for(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.next_task(LONG).await.unwrap().finish("came") }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(queue.task_send(1).await.unwrap(), Value::from("came"));
    waiting.await.unwrap();
}

async fn an_empty_queue_says_so(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    assert_eq!(kind(queue.try_next().await), ErrorKind::QueueEmpty);
    let started = Instant::now();
    assert_eq!(kind(queue.next_task(Duration::from_millis(100)).await), ErrorKind::QueueEmpty);
    assert!(started.elapsed() >= Duration::from_millis(100));
}

async fn a_queue_can_be_gone_through(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    for n in 0..5 {
        queue.task_send(n).no_reply().await.unwrap();
    }
    let seen = tokio::task::spawn_blocking({
        let queue = homing::blocking::Communicator::from(communicator.clone()).default_task_queue().unwrap();
        move || {
            let mut seen = Vec::new();
            for task in queue.iter() {
                let task = task.unwrap();
                seen.push(task.body().as_i64().unwrap());
                task.finish(());
            }
            seen
        }
    });
    assert_eq!(seen.await.unwrap(), [0, 1, 2, 3, 4]);
}

async fn the_order_of_tasks_is_kept(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    // The first ones wait for their queues to be declared, and must not be overtaken by later ones. Without a budget, since
    // tokio would make some of these sends yield before they have asked.
    let mut sends = Vec::new();
    for n in 0..100 {
        let mut send = Box::pin(tokio::task::unconstrained(queue.task_send(n).no_reply().into_future()));
        assert!(futures_util::poll!(&mut send).is_pending());
        sends.push(send);
    }
    for sent in futures_util::future::join_all(sends).await {
        sent.unwrap();
    }
    for n in 0..100 {
        let task = queue.try_next().await.unwrap();
        assert_eq!(task.body(), &Value::from(n));
        task.finish(());
    }
}

async fn a_taken_task_can_be_answered_later(broker: Broker) {
    let communicator = connect(&broker).await;
    let queue = communicator.default_task_queue().unwrap();
    let mut reply = queue.task_send(1).send().await.unwrap();
    let (promise, answer) = Answer::promise().unwrap();
    queue.next_task(LONG).await.unwrap().finish(answer);
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Pending);
    std::thread::spawn(move || promise.answer("later"));
    assert_eq!(reply.stage().await.unwrap(), ReplyStage::Done(Value::from("later")));
}

/// The bodies of tasks in the order in which a worker gets them, and when.
async fn recorded(communicator: &homing::Communicator) -> tokio::sync::mpsc::UnboundedReceiver<(Value, Instant)> {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let worker = TaskSubscriber::closure(move |task: TaskRequest| {
        tell.send((task.into_body(), Instant::now())).ok();
    });
    let one = NonZeroU16::new(1).unwrap();
    communicator.add_task_subscriber(worker.with_prefetch(one)).await.unwrap();
    told
}

async fn a_task_that_is_held_back_comes_at_its_time_and_not_before(broker: Broker) {
    const WAIT: Duration = Duration::from_millis(700);
    let communicator = connect(&broker).await;
    let mut told = recorded(&communicator).await;
    let begun = Instant::now();
    let after = communicator.task_send("after").delay(WAIT).send().await.unwrap();
    let at = communicator.task_send("at").at(SystemTime::now() + 2 * WAIT).send().await.unwrap();
    // It shares the queue of the first, which has to last for this one too.
    tokio::time::sleep(WAIT / 2).await;
    let second = communicator.task_send("second").delay(WAIT).send().await.unwrap();
    communicator.task_send("now").await.unwrap();
    for (body, earliest) in [("now", Duration::ZERO), ("after", WAIT), ("second", WAIT + WAIT / 2), ("at", 2 * WAIT)] {
        let (came, when) = told.recv().await.unwrap();
        assert_eq!(came, Value::from(body));
        // A broker counts in milliseconds.
        let waited = when - begun + Duration::from_millis(2);
        assert!(waited >= earliest, "{body} came after {waited:?}");
    }
    for reply in [after, at, second] {
        reply.await.unwrap();
    }
}

async fn a_task_that_is_held_back_needs_no_sender(broker: Broker) {
    const WAIT: Duration = Duration::from_millis(400);
    let (sender, worker) = (connect(&broker).await, connect(&broker).await);
    let (begun, until) = (Instant::now(), SystemTime::now() + WAIT);
    sender.task_send("late").delay(WAIT).no_reply().await.unwrap();
    sender.task_send("late").at(until).no_reply().await.unwrap();
    sender.close().await.unwrap();
    let mut told = recorded(&worker).await;
    for _ in 0..2 {
        let (body, when) = told.recv().await.unwrap();
        assert_eq!(body, Value::from("late"));
        // A broker counts in milliseconds.
        assert!(when - begun + Duration::from_millis(2) >= WAIT, "it came after {:?}", when - begun);
    }
}

async fn a_task_whose_time_has_passed_comes_at_once(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_task_subscriber(echo()).await.unwrap();
    let past = SystemTime::now() - Duration::from_secs(5);
    assert_eq!(communicator.task_send(1).at(past).await.unwrap(), Value::from(1));
    assert_eq!(communicator.task_send(2).delay(Duration::ZERO).await.unwrap(), Value::from(2));
}

async fn a_delay_that_no_queue_can_keep_is_refused(broker: Broker) {
    let communicator = connect(&broker).await;
    assert_eq!(kind(communicator.task_send(1).delay(Duration::MAX).await), ErrorKind::InvalidArgument);
    let far = SystemTime::now() + Duration::from_secs(46 * 24 * 60 * 60);
    assert_eq!(kind(communicator.task_send(1).at(far).no_reply().await), ErrorKind::InvalidArgument);
    assert!(
        matches!(communicator.task_send(1).delay(Duration::MAX).try_send(), Err(error) if error.kind() == ErrorKind::InvalidArgument)
    );
}

async fn urgent_tasks_come_first_where_the_queue_has_priorities(broker: Broker) {
    let communicator = options(&broker).task_priorities(3.try_into().unwrap()).connect().await.unwrap();
    for (body, priority) in [("a", 0), ("b", 3), ("c", 1), ("d", 3), ("e", 200)] {
        communicator.task_send(body).priority(priority).no_reply().await.unwrap();
    }
    let mut told = recorded(&communicator).await;
    let mut order = String::new();
    for _ in 0..5 {
        order.push_str(told.recv().await.unwrap().0.as_str().unwrap());
    }
    // What is more urgent than the queue knows is as urgent as it knows.
    assert_eq!(order, "bdeca");
}

async fn in_a_queue_without_priorities_none_has_an_effect(broker: Broker) {
    let communicator = connect(&broker).await;
    for (body, priority) in [("a", 0), ("b", 9), ("c", 1)] {
        communicator.task_send(body).priority(priority).no_reply().await.unwrap();
    }
    let mut told = recorded(&communicator).await;
    for body in ["a", "b", "c"] {
        assert_eq!(told.recv().await.unwrap().0, Value::from(body));
    }
}

async fn a_queue_with_priorities_is_not_taken_for_one_without(broker: Broker) {
    let with = options(&broker).task_priorities(3.try_into().unwrap()).connect().await.unwrap();
    let without = connect(&broker).await;
    with.task_send(1).no_reply().await.unwrap();
    let error = without.task_send(2).no_reply().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PreconditionFailed);
    assert!(error.to_string().contains("x-max-priority"), "{error}");
}

async fn a_task_that_takes_too_long_ends_with_an_exception(broker: Broker) {
    /// Notes that a future was dropped.
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let communicator = connect(&broker).await;
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = dropped.clone();
    let worker = TaskSubscriber::future(move |task: TaskRequest| {
        let noted = Dropped(count.clone());
        async move {
            if task.body().as_str() == Some("slow") {
                std::future::pending::<()>().await;
            }
            drop(noted);
            Answer::later(async move {
                if task.body().as_str() == Some("slow later") {
                    std::future::pending::<()>().await;
                }
                "in time"
            })
        }
    });
    communicator.add_task_subscriber(worker.with_time_limit(Duration::from_millis(1500))).await.unwrap();
    assert_eq!(communicator.task_send("quick").await.unwrap(), Value::from("in time"));
    for slow in ["slow", "slow later"] {
        let error = communicator.task_send(slow).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RemoteException);
        assert_eq!(error.remote_details().and_then(|details| details.type_name()), Some("homing::TimeLimit"));
    }
    assert_eq!(dropped.load(Ordering::SeqCst), 3, "nothing runs on");
    // It was acknowledged, and does not come again.
    assert_eq!(communicator.task_send("quick").await.unwrap(), Value::from("in time"));
}

pub async fn a_handler_that_panics_as_it_is_dropped_at_its_time_limit_has_had_its_time(broker: Broker) {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("as it is dropped");
        }
    }
    let communicator = connect(&broker).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = runs.clone();
    let stuck = move || {
        count.fetch_add(1, Ordering::SeqCst);
        async {
            let _panics = Panics;
            std::future::pending::<()>().await;
        }
    };
    let (task, call) = (stuck.clone(), stuck);
    let limit = Duration::from_millis(100);
    communicator
        .add_task_subscriber(TaskSubscriber::future(move |_: TaskRequest| task()).with_time_limit(limit))
        .await
        .unwrap();
    let stuck = RpcSubscriber::future(move |_: RpcRequest| call()).with_time_limit(limit);
    communicator.add_rpc_subscriber("stuck", stuck).await.unwrap();
    for outcome in [communicator.task_send(1).await, communicator.rpc_send("stuck", 1).await] {
        let error = outcome.unwrap_err();
        assert_eq!(
            error.remote_details().and_then(|details| details.type_name()),
            Some("homing::TimeLimit"),
            "{error}"
        );
    }
    assert_eq!(runs.load(Ordering::SeqCst), 2, "nothing runs again");
}

pub async fn a_closure_that_gets_no_thread_within_its_time_limit_does_not_run(broker: Broker) {
    let communicator = connect(&broker).await;
    let pool = tokio::runtime::Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).build().unwrap();
    let (ran, runs) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let blocking = TaskSubscriber::blocking(move |task: TaskRequest| {
        ran.send(task.body().as_i64()).unwrap();
        released.lock().unwrap().recv().ok();
    });
    let bound = communicator.bound_to(&Home::of_runtime(pool.handle()));
    bound.add_task_subscriber(blocking.with_time_limit(Duration::from_millis(200))).await.unwrap();
    for task in [1, 2] {
        let error = communicator.task_send(task).await.unwrap_err();
        assert_eq!(
            error.remote_details().and_then(|details| details.type_name()),
            Some("homing::TimeLimit"),
            "{error}"
        );
    }
    // The thread is free, and takes what waits for it, in order.
    drop(release);
    let (behind, is_behind) = tokio::sync::oneshot::channel();
    pool.spawn_blocking(move || behind.send(()).ok());
    is_behind.await.unwrap();
    assert_eq!(runs.try_iter().collect::<Vec<_>>(), [Some(1)], "the outcome of the second was known before it began");
    pool.shutdown_background();
}

const HOUR: Duration = Duration::from_secs(3600);

/// How many tasks wait in the default queue, which it empties.
async fn waiting(communicator: &homing::Communicator) -> usize {
    let queue = communicator.default_task_queue().unwrap();
    let mut tasks = 0;
    loop {
        match queue.try_next().await {
            Ok(task) => {
                task.finish(());
                tasks += 1;
            }
            Err(error) if error.kind() == ErrorKind::QueueEmpty => return tasks,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn of_many_senders_of_one_key_one_sends_its_task(broker: Broker) {
    let mut senders = Vec::new();
    for _ in 0..5 {
        senders.push(connect(&broker).await);
    }
    let start = Arc::new(tokio::sync::Barrier::new(50));
    let mut calls = Vec::new();
    for number in 0..50 {
        let (sender, start) = (senders[number % 5].clone(), start.clone());
        calls.push(tokio::spawn(async move {
            start.wait().await;
            let task = sender.task_send(number as u64).unique("the key", HOUR);
            if number % 2 == 0 { task.no_reply().await } else { task.send().await.map(drop) }
        }));
    }
    let (mut sent, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(()) => sent += 1,
            Err(error) if error.kind() == ErrorKind::DuplicateTask => {
                assert!(error.to_string().contains("the key"), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((sent, refused), (1, 49));
    assert_eq!(waiting(&senders[0]).await, 1);
    // It is done, and its key is still taken; another one is not.
    let again = senders[1].task_send(1).unique("the key", HOUR);
    assert_eq!(kind(again.await), ErrorKind::DuplicateTask);
    senders[1].task_send(1).unique("another key", HOUR).no_reply().await.unwrap();
    assert_eq!(waiting(&senders[0]).await, 1);
}

async fn keys_of_different_queues_are_apart(broker: Broker) {
    let communicator = connect(&broker).await;
    let other = communicator.task_queue(broker.name("other")).unwrap();
    communicator.task_send(1).unique("k", HOUR).no_reply().await.unwrap();
    other.task_send(1).unique("k", HOUR).no_reply().await.unwrap();
    assert_eq!(kind(other.task_send(1).unique("k", HOUR).no_reply().await), ErrorKind::DuplicateTask);
    assert_eq!(kind(communicator.task_send(1).unique("k", HOUR).no_reply().await), ErrorKind::DuplicateTask);
}

async fn a_key_is_free_again_after_its_time(broker: Broker) {
    let communicator = connect(&broker).await;
    let time = Duration::from_millis(1500);
    communicator.task_send(1).unique("k", time).no_reply().await.unwrap();
    let mut refused = 0;
    let until = Instant::now() + LONG;
    loop {
        match communicator.task_send(2).unique("k", time).no_reply().await {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::DuplicateTask => refused += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(Instant::now() < until, "the key is not free again after {refused} attempts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(waiting(&communicator).await, 2);
}

async fn a_key_is_free_again_where_its_task_could_not_be_sent(broker: Broker) {
    // The queue is one with priorities, which a communicator that declares it without does not get at.
    let with = options(&broker).task_priorities(3.try_into().unwrap()).connect().await.unwrap();
    let without = connect(&broker).await;
    with.task_send(0).no_reply().await.unwrap();
    assert_eq!(kind(without.task_send(1).unique("k", HOUR).no_reply().await), ErrorKind::PreconditionFailed);
    assert_eq!(kind(without.task_send(1).unique("l", HOUR).await), ErrorKind::PreconditionFailed);
    for key in ["k", "l"] {
        let until = Instant::now() + LONG;
        while let Err(error) = with.task_send(2).unique(key, HOUR).no_reply().await {
            assert_eq!(error.kind(), ErrorKind::DuplicateTask);
            assert!(Instant::now() < until, "the key {key} is not free again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(kind(with.task_send(2).unique(key, HOUR).no_reply().await), ErrorKind::DuplicateTask);
    }
    assert_eq!(waiting(&with).await, 3);
}

/// Guards: a queue of keys that is deleted while markers are on their way to it. RabbitMQ confirms those, too.
async fn a_key_that_is_freed_has_one_taker(broker: Broker) {
    let with_priorities = || options(&broker).task_priorities(3.try_into().unwrap()).connect();
    let without = connect(&broker).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(with_priorities().await.unwrap());
    }
    others[0].task_send(0).no_reply().await.unwrap();
    let mut freed = 0;
    for number in 0..12 {
        let key = format!("k{number}");
        let (takers, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let refused = without.task_send(1).unique(&key, HOUR).no_reply();
        let send = |other: &Communicator| {
            let (other, key, takers, over) = (other.clone(), key.clone(), takers.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    match other.task_send(2).delay(HOUR).unique(&key, HOUR).no_reply().await {
                        Ok(()) => drop(takers.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::DuplicateTask, "{error}"),
                    }
                }
            })
        };
        let refused = tokio::spawn(async move { kind(refused.await) });
        let sending: Vec<_> = others.iter().chain(&others).map(send).collect();
        freed += usize::from(refused.await.unwrap() == ErrorKind::PreconditionFailed);
        let until = Instant::now() + LONG;
        while takers.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < until, "the key {key} is not free again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Others that have it as well.
        tokio::time::sleep(Duration::from_millis(100)).await;
        over.store(true, Ordering::Relaxed);
        for sending in sending {
            sending.await.unwrap();
        }
        assert_eq!(takers.load(Ordering::Relaxed), 1, "{key}");
    }
    assert!(freed > 0, "no key was freed: the test tries nothing");
}

async fn a_task_with_a_key_has_its_outcome_its_delay_and_its_priority(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_task_subscriber(echo()).await.unwrap();
    for key in ["a", "b"] {
        let task = communicator.task_send(key).priority(2).delay(Duration::from_millis(30)).unique(key, HOUR);
        assert_eq!(task.await.unwrap(), Value::from(key));
        // One that is held back has its key from the beginning.
        let again = communicator.task_send(key).delay(HOUR).unique(key, HOUR);
        assert_eq!(kind(again.await), ErrorKind::DuplicateTask);
    }
    let reply = communicator.task_send("c").unique("c", HOUR).try_send().unwrap();
    assert_eq!(reply.await.unwrap(), Value::from("c"));
    let reply = communicator.task_send("c").unique("c", HOUR).try_send().unwrap();
    assert_eq!(kind(reply.await), ErrorKind::DuplicateTask);
}

async fn a_call_with_a_key_that_is_dropped_leaves_no_key_without_its_task(broker: Broker) {
    let communicator = connect(&broker).await;
    let mut tasks = 0;
    for number in 0..20 {
        let key = format!("k{number}");
        {
            let task = std::pin::pin!(communicator.task_send(number).unique(&key, HOUR).no_reply());
            let polls = async {
                tokio::select! {
                    biased;
                    _ = task => {}
                    () = async { for _ in 0..number { tokio::task::yield_now().await } } => {}
                }
            };
            polls.await;
        }
        // Whoever comes next is refused only where the first task is sent.
        match communicator.task_send(number).unique(&key, HOUR).no_reply().await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::DuplicateTask),
        }
        tasks += 1;
    }
    let mut came = 0;
    let until = Instant::now() + LONG;
    while came < tasks {
        assert!(Instant::now() < until, "{came} of {tasks} tasks came");
        came += waiting(&communicator).await;
    }
    assert_eq!((came, waiting(&communicator).await), (tasks, 0));
}

async fn a_key_that_no_queue_can_keep_is_refused(broker: Broker) {
    let communicator = connect(&broker).await;
    for time in [Duration::ZERO, 46 * 24 * HOUR, Duration::MAX] {
        assert_eq!(kind(communicator.task_send(1).unique("k", time).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(communicator.task_send(1).unique("k", time).no_reply().await), ErrorKind::InvalidArgument);
    }
    // Any key will do, and any time that there is.
    for key in ["", "a b/c?\n\u{1F600}", &"k".repeat(10_000)] {
        for time in [Duration::from_nanos(1), 45 * 24 * HOUR] {
            communicator.task_send(1).unique(key, time).no_reply().await.unwrap();
        }
        assert_eq!(
            kind(communicator.task_send(1).unique(key, 45 * 24 * HOUR).no_reply().await),
            ErrorKind::DuplicateTask
        );
    }
}
