//! Single stories in virtual time, where a test on the clock of the machine would have to hope.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::broker::{Faults, server};
use super::executor::{self, Group, Log, Process, Simulation, sleep_ms};
use crate::home::Home;
use crate::{
    Attempt, Broadcast, BroadcastFilter, BroadcastSubscriber, CloseReport, Communicator, ErrorKind, Failure, Result,
    RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, TestingMode, Value,
};

/// Runs a story under some orders of its events, and looks at how each ends.
// Guards: a check that fails within a story. It would end the story's task, and not the test.
fn in_some_orders<T: 'static, F: Future<Output = T> + 'static>(
    story: impl Fn(Rc<Simulation>) -> F + Copy + 'static,
    check: impl Fn(T),
) {
    for seed in 0..20 {
        let run = executor::run(seed, None, Log::None, super::BOUNDS, story);
        assert!(run.panics.is_empty(), "seed {seed}: {:#?}", run.panics);
        assert_eq!(run.stopped, None, "seed {seed}");
        check(run.output.unwrap_or_else(|| panic!("seed {seed} came to no end")));
    }
}

/// Runs this at a home.
async fn at<T: 'static>(simulation: &Simulation, home: Group, work: impl Future<Output = T> + 'static) -> T {
    let (done, result) = oneshot::channel();
    simulation.spawn_in(home, async move { drop(done.send(work.await)) });
    result.await.expect("its home goes on")
}

async fn connected(simulation: &Simulation, home: Group) -> Communicator {
    let builder = Communicator::builder("simulated:broker").task_queue("tasks").task_timeout(Duration::from_secs(300));
    at(simulation, home, builder.connect()).await.expect("a connection")
}

/// What a program does that is alone with its broker. It closes behind that, when the broker is well again.
async fn alone<T: 'static, F: Future<Output = T> + 'static>(
    simulation: &Simulation,
    program: impl FnOnce(Communicator) -> F,
) -> T {
    let home = simulation.new_runtime("home", Process(0), 500);
    let communicator = connected(simulation, home).await;
    let done = at(simulation, home, program(communicator.clone())).await;
    server().set_faults(Faults::default());
    at(simulation, home, async move { communicator.close().await }).await.expect("it closes");
    done
}

/// How a worker drained, and what its caller got.
struct Drained {
    answer: Result<Value>,
    /// If it had ended in time.
    report: Option<Result<CloseReport>>,
    replies_unroutable: u64,
}

/// A caller and a worker, each in a process of its own. The task runs when the broker is started again without what is not
/// durable; the worker is back at once, its handler ends and it drains. The caller is back after this time, or when the worker
/// has gone.
async fn drain_after_a_restart(simulation: Rc<Simulation>, back_after: Option<u32>) -> Drained {
    let (callers, workers) =
        (simulation.new_runtime("callers", Process(0), 500), simulation.new_runtime("workers", Process(1), 500));
    let (caller, worker) = (connected(&simulation, callers).await, connected(&simulation, workers).await);
    let (begun, mut has_begun) = mpsc::unbounded_channel();
    let work = TaskSubscriber::future(move |_: TaskRequest| {
        let _ = begun.send(());
        async {
            sleep_ms(1000).await;
            "done"
        }
    });
    let adding = worker.clone();
    at(&simulation, workers, async move { adding.add_task_subscriber(work).await }).await.expect("a subscriber");
    let (answered, answer) = oneshot::channel();
    let sending = caller.clone();
    simulation.spawn_in(callers, async move { drop(answered.send(sending.task_send("work").await)) });
    has_begun.recv().await.expect("the task runs");
    sleep_ms(100).await;
    // The thread of the caller is stopped, so that it does not notice.
    let thread = simulation.groups_of(Process(0)).into_iter().filter(|group| *group != callers);
    let thread: Vec<Group> = thread.collect();
    thread.iter().for_each(|group| simulation.stall(*group));
    server().restart();
    sleep_ms(1300).await;
    let drained = Rc::new(Cell::new(None));
    let (draining, report) = (worker.clone(), Rc::clone(&drained));
    simulation.spawn_in(workers, async move { report.set(Some(draining.drain(Duration::from_secs(3600)).await)) });
    if let Some(ms) = back_after {
        sleep_ms(ms).await;
        thread.iter().for_each(|group| simulation.resume(*group));
    }
    sleep_ms(4000).await;
    let report = drained.take();
    thread.iter().for_each(|group| simulation.resume(*group));
    let answer = answer.await.expect("the caller's future ends");
    Drained { answer, report, replies_unroutable: worker.counts().replies_unroutable }
}

#[test]
fn draining_waits_for_callers_that_are_back_a_little_later() {
    in_some_orders(
        |simulation| drain_after_a_restart(simulation, Some(100)),
        |drained| {
            let report = drained.report.expect("it has ended").expect("a report");
            assert_eq!(drained.answer.expect("an answer").as_str(), Some("done"));
            assert_eq!((report.tasks_returned, drained.replies_unroutable), (0, 0));
        },
    );
}

#[test]
fn draining_does_not_wait_for_callers_that_do_not_come_back_and_counts_their_answers() {
    in_some_orders(
        |simulation| drain_after_a_restart(simulation, None),
        |drained| {
            let report = drained.report.expect("it has ended, long before its limit").expect("a report");
            assert_eq!(drained.answer.expect_err("nobody is there to answer").kind(), ErrorKind::TimedOut);
            assert_eq!((report.tasks_returned, drained.replies_unroutable), (0, 1));
        },
    );
}

/// How long something took that had ten seconds, and how it ended.
type Timed = (Duration, Option<ErrorKind>);

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Timed {
    let begun = Instant::now();
    let outcome = work.await;
    (begun.elapsed(), outcome.err().map(|error| error.kind()))
}

/// What sends wait for that get no word from the broker: it is away, or it took the message and says nothing. Then it is back,
/// and a worker counts the tasks.
async fn sends_without_a_word(simulation: Rc<Simulation>, is_away: bool) -> (Vec<Timed>, Vec<Value>) {
    const LIMIT: Duration = Duration::from_secs(10);
    let (callers, workers) =
        (simulation.new_runtime("callers", Process(0), 500), simulation.new_runtime("workers", Process(1), 500));
    let (caller, worker) = (connected(&simulation, callers).await, connected(&simulation, workers).await);
    let serve = worker.clone();
    let nothing = RpcSubscriber::closure(|_: RpcRequest| ());
    at(&simulation, workers, async move { serve.add_rpc_subscriber("nothing", nothing).await }).await.expect("a name");
    // The ways to the broker are known, so that what is sent next is with it at once.
    let first = caller.clone();
    at(&simulation, callers, async move { first.rpc_send("nothing", ()).await }).await.expect("an answer");
    let first = caller.clone();
    at(&simulation, callers, async move { first.task_send("first").no_reply().await }).await.expect("it is there");
    if is_away {
        server().set_down(true);
        server().lose_all();
    } else {
        server().set_stalled(true);
    }
    let sends = caller.clone();
    let ended = at(&simulation, callers, async move {
        let hour = Duration::from_secs(3600);
        let task = timed(sends.task_send("plain").timeout(LIMIT).send());
        let delayed = timed(sends.task_send("held back").delay(Duration::from_secs(1)).timeout(LIMIT).send());
        let unique = timed(sends.task_send("unique").unique("key", hour).timeout(LIMIT).send());
        let call = timed(sends.rpc_send("nothing", ()).timeout(LIMIT).send());
        let silent = timed(sends.task_send("silent").timeout(LIMIT).no_reply().into_future());
        let (task, delayed, unique, call, silent) = futures_util::join!(task, delayed, unique, call, silent);
        vec![task, delayed, unique, call, silent]
    })
    .await;
    server().set_down(false);
    server().set_stalled(false);
    let (done, mut came) = mpsc::unbounded_channel();
    let work = TaskSubscriber::closure(move |task: TaskRequest| drop(done.send(task.into_body())));
    let serve = worker.clone();
    at(&simulation, workers, async move { serve.add_task_subscriber(work).await }).await.expect("a subscriber");
    sleep_ms(60_000).await;
    let mut tasks = Vec::new();
    while let Ok(task) = came.try_recv() {
        tasks.push(task);
    }
    (ended, tasks)
}

/// Guards: a send that waits for ever, since the task is wanted without its sender.
#[test]
fn a_sender_hears_in_time_that_the_broker_has_not_taken_its_task_over() {
    use ErrorKind::{ConnectionLost, TimedOut, Unroutable};
    for is_away in [true, false] {
        in_some_orders(
            move |simulation| sends_without_a_word(simulation, is_away),
            |(ended, tasks)| {
                for (took, error) in &ended {
                    assert!(*took <= Duration::from_secs(11), "{ended:?}");
                    // Where the loss is noticed late, what was with the broker had been confirmed, or its end is another.
                    let expected = [None, Some(TimedOut), Some(ConnectionLost), Some(Unroutable)];
                    assert!(expected.contains(error), "{ended:?}");
                }
                for (task, (_, error)) in ["plain", "held back", "unique"].iter().zip(&ended) {
                    // A key that may have been taken is not taken again, and its task not sent.
                    let goes_on = *error != Some(ConnectionLost);
                    let came = tasks.iter().any(|came| came.as_str() == Some(task));
                    assert!(came || !goes_on, "{task:?} is lost: {ended:?} {tasks:?}");
                }
            },
        );
    }
}

/// Guards: a timeout that begins anew with each place at a full home.
#[test]
fn waiting_for_two_places_at_a_full_home_takes_one_timeout() {
    in_some_orders(
        |simulation| async move {
            let home = simulation.new_runtime("callers", Process(0), 500);
            let caller = connected(&simulation, home).await;
            let sending = async move {
                let here = Home::current();
                here.set_capacity(1);
                let (completer, place) = here.try_future::<()>().expect("the only place");
                let sending = timed(caller.rpc_send("nobody", ()).timeout(Duration::from_secs(10)).send());
                let freed = async {
                    sleep_ms(9000).await;
                    drop((completer, place));
                };
                futures_util::join!(sending, freed).0
            };
            at(&simulation, home, sending).await
        },
        |(took, error)| {
            assert_eq!(error, Some(ErrorKind::TimedOut));
            assert!(took <= Duration::from_secs(11), "{took:?}");
        },
    );
}

/// Guards: a time limit that needs a place at a full home. The task was tried again without being run, until it was in quarantine.
#[test]
fn a_handler_with_a_time_limit_runs_at_a_full_home() {
    for is_slow in [false, true] {
        in_some_orders(
            move |simulation| async move {
                let callers = simulation.new_runtime("callers", Process(0), 500);
                let workers = simulation.new_runtime("workers", Process(1), 500);
                let (caller, worker) = (connected(&simulation, callers).await, connected(&simulation, workers).await);
                let work = TaskSubscriber::future(move |_: TaskRequest| async move {
                    sleep_ms(if is_slow { 60_000 } else { 100 }).await;
                    "done"
                });
                let adding = worker.clone();
                let held = at(&simulation, workers, async move {
                    adding
                        .add_task_subscriber(work.with_time_limit(Duration::from_secs(5)))
                        .await
                        .expect("a subscriber");
                    let here = Home::current();
                    here.set_capacity(1);
                    here.try_future::<()>().expect("the only place")
                })
                .await;
                let sending = caller.clone();
                let begun = Instant::now();
                let answer = at(&simulation, callers, async move { sending.task_send("work").await }).await;
                let took = begun.elapsed();
                // Both are the home's, and are dropped there.
                at(&simulation, workers, async move { drop(held) }).await;
                (answer, took, worker.counts().tasks_quarantined)
            },
            move |(answer, took, quarantined)| {
                assert_eq!(quarantined, 0);
                if is_slow {
                    let error = answer.expect_err("it was over its time");
                    assert!(error.remote_text().is_some_and(|text| text.contains("time limit")), "{error}");
                    assert!(took < Duration::from_secs(7), "{took:?}");
                } else {
                    assert_eq!(answer.expect("an answer").as_str(), Some("done"));
                }
            },
        );
    }
}

/// Three subscribers are taken out while the broker is silent; then it is back, and one is added again under its name and called.
/// How the removals ended, the queues that have a consumer in the end, and the answer.
async fn removals_without_a_word(simulation: Rc<Simulation>) -> (Vec<Timed>, Vec<String>, Result<Value>) {
    let limit = Duration::from_secs(10);
    let home = simulation.new_runtime("home", Process(0), 500);
    let builder = Communicator::builder("simulated:broker").task_queue("tasks").operation_timeout(limit);
    let communicator = at(&simulation, home, builder.connect()).await.expect("a connection");
    let nothing = || RpcSubscriber::closure(|_: RpcRequest| ());
    let user = communicator.clone();
    let (heard, work) = at(&simulation, home, async move {
        user.add_rpc_subscriber("nothing", nothing()).await.expect("a name");
        let heard = BroadcastSubscriber::closure(|_: Broadcast| ());
        let work = TaskSubscriber::closure(|_: TaskRequest| ());
        let heard = user.add_broadcast_subscriber(BroadcastFilter::new(), heard).await.expect("a subscriber");
        (heard, user.add_task_subscriber(work).await.expect("a subscriber"))
    })
    .await;
    server().set_stalled(true);
    let user = communicator.clone();
    let ended = at(&simulation, home, async move {
        let rpc = timed(user.remove_rpc_subscriber("nothing"));
        let broadcasts = timed(user.remove_broadcast_subscriber(&heard));
        let tasks = timed(user.remove_task_subscriber(&work));
        let (rpc, broadcasts, tasks) = futures_util::join!(rpc, broadcasts, tasks);
        vec![rpc, broadcasts, tasks]
    })
    .await;
    server().set_stalled(false);
    let user = communicator.clone();
    let answer = at(&simulation, home, async move {
        user.add_rpc_subscriber("nothing", nothing()).await?;
        user.rpc_send("nothing", ()).await
    })
    .await;
    sleep_ms(60_000).await;
    // What is left serves the name that was added again.
    let queues = server().queues();
    let left = queues.iter().filter(|queue| !queue.consumers.is_empty()).map(|queue| queue.name.clone()).collect();
    at(&simulation, home, async move { communicator.close().await }).await.expect("it closes");
    (ended, left, answer)
}

/// Guards: a removal that waits until the connection is found to be lost, which may be never.
#[test]
fn a_subscriber_is_taken_out_in_time_where_the_broker_is_silent() {
    in_some_orders(removals_without_a_word, |(ended, left, answer)| {
        for (took, error) in &ended {
            assert!(*took <= Duration::from_secs(11), "{ended:?}");
            assert!([Some(ErrorKind::TimedOut), None].contains(error), "{ended:?}");
        }
        assert!(ended.iter().any(|(_, error)| error.is_some()), "the broker had not answered: {ended:?}");
        answer.expect("the name serves again");
        assert!(!left.iter().any(|queue| queue == "tasks"), "{left:?}");
    });
}

/// Guards: a handler that goes on for nobody, since its watch waits for a place of its full home.
#[test]
fn a_handler_at_a_full_home_sees_that_its_caller_is_gone() {
    in_some_orders(
        |simulation| async move {
            let callers = simulation.new_runtime("callers", Process(0), 500);
            let workers = simulation.new_runtime("workers", Process(1), 500);
            let (caller, worker) = (connected(&simulation, callers).await, connected(&simulation, workers).await);
            let (sees, mut has_seen) = mpsc::unbounded_channel();
            let watches = RpcSubscriber::future(move |request: RpcRequest| {
                let sees = sees.clone();
                async move {
                    let here = Home::current();
                    here.set_capacity(here.occupancy().open);
                    request.caller_gone().expect("a watch").await;
                    here.set_capacity(500);
                    let _ = sees.send(());
                }
            });
            let adding = worker.clone();
            at(&simulation, workers, async move { adding.add_rpc_subscriber("watches", watches).await })
                .await
                .expect("a name");
            let calling = caller.clone();
            let reply = at(&simulation, callers, async move { calling.rpc_send("watches", ()).send().await })
                .await
                .expect("a reply to come");
            sleep_ms(1000).await;
            at(&simulation, callers, async move { drop(reply) }).await;
            sleep_ms(1000).await;
            let seen = has_seen.try_recv();
            drop((caller, worker));
            seen
        },
        |seen| seen.expect("it has seen that nobody waits"),
    );
}

/// A subscriber is taken out at a home that is full, and the removal is given up or out of time. Whether anybody answers then, and
/// how the removal ended that had its time.
async fn removal_at_a_full_home(
    simulation: Rc<Simulation>,
    is_given_up: bool,
) -> (Option<ErrorKind>, Option<ErrorKind>) {
    let (full, callers) =
        (simulation.new_runtime("full", Process(0), 500), simulation.new_runtime("callers", Process(1), 500));
    let (serving, caller) = (connected(&simulation, full).await, connected(&simulation, callers).await);
    let nothing = RpcSubscriber::closure(|_: RpcRequest| ());
    let user = serving.clone();
    at(&simulation, callers, async move { user.add_rpc_subscriber("nothing", nothing).await }).await.expect("a name");
    // The last handle would close the communicator, and nobody answered either.
    let user = serving.clone();
    let removed = at(&simulation, full, async move {
        Home::current().set_capacity(1);
        let _taken = Home::current().try_future::<()>().expect("the only place");
        let removing = user.remove_rpc_subscriber("nothing");
        if is_given_up {
            return tokio::time::timeout(Duration::from_millis(500), removing).await.ok().and_then(Result::err);
        }
        removing.await.err()
    })
    .await;
    sleep_ms(60_000).await;
    let answer = at(&simulation, callers, async move { caller.rpc_send("nothing", ()).await }).await;
    drop(serving);
    (removed.map(|error| error.kind()), answer.err().map(|error| error.kind()))
}

/// Many look for tasks and add subscribers side by side, for whom one question to the broker may take this long: looks into one
/// queue and into others, subscribers of as many queues, and the sends that need the same. How each has ended.
async fn many_side_by_side(
    simulation: Rc<Simulation>,
    limit: Duration,
    many: usize,
    broker: fn(),
) -> (Vec<Timed>, Vec<Timed>, Vec<Timed>) {
    let home = simulation.new_runtime("home", Process(0), 5000);
    let builder = Communicator::builder("simulated:broker").task_queue("tasks").operation_timeout(limit);
    let communicator = at(&simulation, home, builder.connect()).await.expect("a connection");
    let user = communicator.clone();
    let ended = at(&simulation, home, async move {
        let known = user.task_queue("known").expect("a name");
        assert_eq!(known.try_next().await.err().map(|error| error.kind()), Some(ErrorKind::QueueEmpty));
        let queue = |kind: &str, number: usize| user.task_queue(format!("{kind}-{number}")).expect("a name");
        broker();
        let looks = (0..many).map(|number| {
            let queue = match number % 3 {
                0 => known.clone(),
                1 => queue("unknown", 0),
                _ => queue("looks", number),
            };
            timed(async move { queue.try_next().await })
        });
        let adds = (0..many).map(|number| {
            let queue = queue("adds", number);
            let work = TaskSubscriber::closure(|_: TaskRequest| ());
            timed(async move { queue.add_task_subscriber(work).await })
        });
        let sends = (0..many).map(|number| {
            let queue = queue("sends", number);
            timed(async move { queue.task_send(()).timeout(Duration::from_secs(3600)).no_reply().await })
        });
        let (looks, adds, sends) = (join_all(looks), join_all(adds), join_all(sends));
        futures_util::join!(looks, adds, sends)
    })
    .await;
    server().set_stalled(false);
    server().set_faults(Faults::default());
    at(&simulation, home, async move { communicator.close().await }).await.expect("it closes");
    ended
}

/// Guards: waits in line for a broker that is silent, each for as long as all before it.
#[test]
fn looks_and_subscriptions_that_wait_for_a_silent_broker_all_end_within_twice_the_time_of_one_question() {
    const LIMIT: Duration = Duration::from_secs(2);
    in_some_orders(
        |simulation| many_side_by_side(simulation, LIMIT, 300, || server().set_stalled(true)),
        |(looks, adds, sends)| {
            // A send has a timeout of its own.
            let ends = [("looks", looks, LIMIT * 2), ("adds", adds, LIMIT * 2), ("sends", sends, LIMIT * 3)];
            for (what, ends, most) in ends {
                for (took, error) in ends {
                    assert_eq!(error, Some(ErrorKind::TimedOut), "{what}");
                    assert!(took <= most + Duration::from_millis(100), "{what}: {took:?}");
                }
            }
        },
    );
}

/// Guards: a wait that is given up because others are before it, though the broker answers them.
#[test]
fn looks_and_subscriptions_that_wait_for_a_slow_broker_all_have_their_turn() {
    const LIMIT: Duration = Duration::from_secs(80);
    in_some_orders(
        |simulation| {
            let slow = || server().set_faults(Faults { slow: 1, ..Faults::default() });
            many_side_by_side(simulation, LIMIT, 100, slow)
        },
        |(looks, adds, sends)| {
            let late = adds.iter().filter(|(took, _)| *took > LIMIT * 2).count();
            assert!(late > 20, "the broker is slow enough that they wait for long: {late}");
            assert!(looks.iter().all(|(_, error)| *error == Some(ErrorKind::QueueEmpty)), "{looks:?}");
            assert!(adds.iter().chain(&sends).all(|(_, error)| error.is_none()), "{adds:?} {sends:?}");
        },
    );
}

/// What each of many tasks has of its own, for which something is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Key,
    /// All are held back for the same time.
    KeyOfTheHeldBack,
    KeyAndTime,
    /// All are held back.
    TaskQueue,
}

/// Many tasks at a broker that takes a second for each question, then one that has nothing of its own: when each is sent.
async fn many_tasks(simulation: Rc<Simulation>, own: Own) -> (Vec<Timed>, Timed) {
    const MANY: u64 = 160;
    const HOUR: Duration = Duration::from_secs(3600);
    let home = simulation.new_runtime("home", Process(0), 5000);
    // The simulated broker counts the time of a question from when it is asked, and others are before it.
    let builder = Communicator::builder("simulated:broker").operation_timeout(Duration::from_secs(120));
    let communicator = at(&simulation, home, builder.connect()).await.expect("a connection");
    let user = communicator.clone();
    let ended = at(&simulation, home, async move {
        server().set_faults(Faults { slow: 1, ..Faults::default() });
        let send = |queue: &str| user.task_queue(queue).expect("a name").task_send(()).timeout(HOUR);
        let many = (0..MANY).map(|number| {
            let key = |task: crate::TaskSend| task.unique(number.to_string(), HOUR * 2);
            let task = match own {
                Own::Key => key(send("work")),
                Own::KeyOfTheHeldBack => key(send("work")).delay(HOUR * 2),
                Own::KeyAndTime => key(send("work")).delay(HOUR * 2 + Duration::from_secs(number)),
                Own::TaskQueue => send(&format!("work-{number}")).delay(HOUR * 2),
            };
            timed(task.no_reply().into_future())
        });
        let many: Vec<_> = many.collect();
        futures_util::join!(join_all(many), timed(send("work").no_reply().into_future()))
    })
    .await;
    server().set_faults(Faults::default());
    at(&simulation, home, async move { communicator.close().await }).await.expect("it closes");
    ended
}

/// Guards: tasks each of which has its first question answered before any has its second one.
#[test]
fn the_first_of_many_tasks_are_sent_long_before_the_last_has_what_it_needs() {
    for own in [Own::Key, Own::KeyOfTheHeldBack, Own::KeyAndTime, Own::TaskQueue] {
        in_some_orders(
            move |simulation| many_tasks(simulation, own),
            |(many, plain)| {
                assert!(many.iter().chain([&plain]).all(|(_, error)| error.is_none()), "{own:?}: {many:?}");
                let mut took: Vec<Duration> = many.iter().map(|(took, _)| *took).collect();
                took.sort_unstable();
                let last = took[took.len() - 1];
                assert!(took[0] < last / 4, "{own:?}: {took:?}");
                assert!(took[took.len() / 2] < last * 3 / 4, "{own:?}: half of them: {took:?}");
                // Keys stand in no line but that of keys.
                let is_before = own == Own::TaskQueue || plain.0 < last / 4;
                assert!(is_before, "{own:?}: the other one after {:?}: {took:?}", plain.0);
            },
        );
    }
}

/// Whether a task arrives that is held back, and sent when its task queue was deleted while that was being declared for another one.
async fn behind_a_deleted_queue(simulation: Rc<Simulation>, same_time: bool, after_ms: u32) -> Result<Value> {
    alone(&simulation, async move |user| {
        server().set_faults(Faults { slow: 1, ..Faults::default() });
        let queue = user.task_queue("work").expect("a name");
        let send =
            |text, time| queue.task_send(text).delay(time).timeout(Duration::from_secs(300)).no_reply().into_future();
        let (time, other) = (Duration::from_secs(60), Duration::from_secs(if same_time { 60 } else { 61 }));
        let deleted = async {
            sleep_ms(after_ms).await;
            server().delete_some_queue(|queue| queue.name.ends_with("work") && !queue.name.contains("delay"));
            send("second", other).await
        };
        let (_, sent) = futures_util::join!(send("first", time), deleted);
        sent?;
        server().set_faults(Faults::default());
        // Whoever looks for a task declares the queue, too.
        sleep_ms(70_000).await;
        loop {
            let task = queue.try_next().await?;
            let body = task.body().clone();
            task.process(|_| ());
            if body.as_str() == Some("second") {
                return Ok(body);
            }
        }
    })
    .await
}

/// Guards: a task that is confirmed, and lost when its time comes.
#[test]
fn a_task_that_is_held_back_relies_on_no_declaration_of_before() {
    for same_time in [true, false] {
        for after_ms in (0..12_000).step_by(600) {
            in_some_orders(
                move |simulation| behind_a_deleted_queue(simulation, same_time, after_ms),
                |arrived| assert!(arrived.is_ok(), "same time: {same_time}, deleted after {after_ms} ms: {arrived:?}"),
            );
        }
    }
}

/// How a first task to a queue ends that an operator deletes as soon as it stands, so many times.
async fn beside_deletions(simulation: Rc<Simulation>, many: usize) -> Result<()> {
    alone(&simulation, async move |user| {
        server().set_faults(Faults { slow: 1, ..Faults::default() });
        let queue = user.task_queue("work").expect("a name");
        let send = queue.task_send("it").timeout(Duration::from_secs(300)).no_reply().into_future();
        let deletes = async {
            let mut deleted = 0;
            while deleted < many {
                sleep_ms(1).await;
                deleted += usize::from(server().delete_some_queue(|queue| queue.name.ends_with("work")).is_some());
            }
        };
        futures_util::join!(send, deletes).0
    })
    .await
}

/// Guards: a queue that is deleted after its declaration and before its binding, whose senders would be told that it is missing.
#[test]
fn a_task_is_sent_though_its_queue_is_deleted_before_it_is_bound() {
    for many in 0..4 {
        in_some_orders(
            move |simulation| beside_deletions(simulation, many),
            move |sent| assert!(sent.is_ok(), "deleted {many} times: {sent:?}"),
        );
    }
}

/// What looks for a task find after its queue was deleted, again and again, and whether it stands then.
async fn looks_after_deletions(simulation: Rc<Simulation>) -> Vec<(Option<ErrorKind>, bool)> {
    alone(&simulation, async move |user| {
        let queue = user.task_queue("work").expect("a name");
        let mut found = Vec::new();
        for _ in 0..3 {
            let looked = queue.try_next().await.err().map(|error| error.kind());
            let stands = server().delete_some_queue(|queue| queue.name.ends_with("work")).is_some();
            found.push((looked, stands));
        }
        found
    })
    .await
}

/// Guards: a queue that counts as declared for ever.
#[test]
fn a_look_for_a_task_declares_a_queue_that_was_deleted() {
    in_some_orders(looks_after_deletions, |found| assert_eq!(found, [(Some(ErrorKind::QueueEmpty), true); 3]));
}

/// Which attempt it is when a task comes again that was taken, and asked for another one when its queue was deleted.
async fn again_after_a_deletion(simulation: Rc<Simulation>) -> Result<Attempt> {
    alone(&simulation, async move |user| {
        let queue = user.task_queue("work").expect("a name");
        queue.task_send("it").no_reply().await?;
        let task = queue.try_next().await?;
        server().delete_some_queue(|queue| queue.name.ends_with("work")).expect("it stands");
        task.process(|_| Err::<(), _>(Failure::TryAgain("later".into())));
        sleep_ms(60_000).await;
        let task = queue.try_next().await?;
        let attempt = Cell::new(None);
        task.process(|task| attempt.set(Some(task.attempt())));
        Ok(attempt.get().expect("it is run"))
    })
    .await
}

/// Guards: a task that asks for another attempt, and has nowhere to go.
#[test]
fn a_task_that_asks_for_another_attempt_has_its_queue_declared_again() {
    in_some_orders(again_after_a_deletion, |attempt| {
        assert!(matches!(attempt, Ok(Attempt::Exactly(2))), "{attempt:?}");
    });
}

/// What another program finds in the queue of a task that is in hand, when its program has looked into a queue that was deleted.
async fn in_hand_beside_a_deleted_queue(simulation: Rc<Simulation>) -> (Option<ErrorKind>, Option<ErrorKind>) {
    with_so_many_lanes(simulation, u32::MAX).await
}

/// The same where all that are to be had are taken.
async fn in_hand_by_the_only_lane(simulation: Rc<Simulation>) -> (Option<ErrorKind>, Option<ErrorKind>) {
    with_so_many_lanes(simulation, 1).await
}

async fn with_so_many_lanes(simulation: Rc<Simulation>, lanes: u32) -> (Option<ErrorKind>, Option<ErrorKind>) {
    server().limit_lanes(lanes);
    let (home, others) =
        (simulation.new_runtime("home", Process(0), 500), simulation.new_runtime("others", Process(1), 500));
    let (communicator, other) = (connected(&simulation, home).await, connected(&simulation, others).await);
    let user = communicator.clone();
    let (looked, task) = at(&simulation, home, async move {
        let (work, gone) = (user.task_queue("work").expect("a name"), user.task_queue("gone").expect("a name"));
        work.task_send("it").no_reply().await.expect("it is sent");
        assert!(gone.try_next().await.is_err(), "nothing is there");
        let task = work.try_next().await.expect("a task");
        server().delete_some_queue(|queue| queue.name.ends_with("gone"));
        (gone.try_next().await.err(), task)
    })
    .await;
    let looking = other.clone();
    let found = at(&simulation, others, async move {
        looking.task_queue("work").expect("a name").try_next().await.map(|task| task.process(|_| ())).err()
    })
    .await;
    at(&simulation, home, async move { task.process(|_| ()) }).await;
    at(&simulation, home, async move { communicator.close().await }).await.expect("it closes");
    at(&simulation, others, async move { other.close().await }).await.expect("it closes");
    (looked.map(|error| error.kind()), found.map(|error| error.kind()))
}

/// Guards: a task that goes back while it runs, since the channel that it came by was closed for another question.
#[test]
fn a_task_in_hand_does_not_go_back_for_a_look_into_another_queue() {
    let none = (Some(ErrorKind::QueueEmpty), Some(ErrorKind::QueueEmpty));
    in_some_orders(in_hand_beside_a_deleted_queue, |found| assert_eq!(found, none));
    in_some_orders(in_hand_by_the_only_lane, |found| assert_eq!(found, none));
}

/// Whether a task is there after a close that had asked for another attempt when its queue was deleted.
async fn again_after_a_deletion_and_a_close(simulation: Rc<Simulation>) -> Option<ErrorKind> {
    let home = simulation.new_runtime("home", Process(0), 500);
    let communicator = connected(&simulation, home).await;
    at(&simulation, home, async move {
        let queue = communicator.task_queue("work").expect("a name");
        queue.task_send("it").no_reply().await.expect("it is sent");
        let task = queue.try_next().await.expect("a task");
        server().delete_some_queue(|queue| queue.name.ends_with("work"));
        task.process(|_| Err::<(), _>(Failure::TryAgain("later".into())));
        communicator.close().await.expect("it closes");
    })
    .await;
    let later = connected(&simulation, home).await;
    let looking = later.clone();
    let found = at(&simulation, home, async move {
        looking.task_queue("work").expect("a name").try_next().await.map(|task| task.process(|_| ())).err()
    })
    .await;
    at(&simulation, home, async move { later.close().await }).await.expect("it closes");
    found.map(|error| error.kind())
}

/// Guards: a close that hands a task back to a queue which is gone.
#[test]
fn a_task_that_asks_for_another_attempt_is_there_after_a_close() {
    in_some_orders(again_after_a_deletion_and_a_close, |found| assert_eq!(found, None));
}

/// How long many looks take at once: into a queue that stands, and into one that was deleted.
async fn looks_at_once(simulation: Rc<Simulation>) -> (Duration, Duration) {
    let home = simulation.new_runtime("home", Process(0), 5000);
    let builder = Communicator::builder("simulated:broker").operation_timeout(Duration::from_secs(3600));
    let communicator = at(&simulation, home, builder.connect()).await.expect("a connection");
    let user = communicator.clone();
    let took = at(&simulation, home, async move {
        let queue = user.task_queue("work").expect("a name");
        let looks = async || {
            let begun = Instant::now();
            let found = join_all((0..64).map(|_| queue.try_next())).await;
            let empty = |error: Option<crate::Error>| error.is_some_and(|error| error.kind() == ErrorKind::QueueEmpty);
            assert!(found.into_iter().all(|found| empty(found.err())));
            begun.elapsed()
        };
        looks().await;
        server().set_faults(Faults { slow: 1, ..Faults::default() });
        let stands = looks().await;
        server().delete_some_queue(|queue| queue.name.ends_with("work"));
        (stands, looks().await)
    })
    .await;
    server().set_faults(Faults::default());
    at(&simulation, home, async move { communicator.close().await }).await.expect("it closes");
    took
}

/// Guards: each of many who find a queue missing, who has it declared anew.
#[test]
fn a_deleted_queue_is_declared_once_for_all_that_look_into_it() {
    let (stood, deleted) = (Cell::new(Duration::ZERO), Cell::new(Duration::ZERO));
    in_some_orders(looks_at_once, |(stands, gone)| {
        stood.set(stood.get() + stands);
        deleted.set(deleted.get() + gone);
    });
    // All together, since each may be slow.
    assert!(deleted.get() < stood.get() * 3, "{stood:?}, {deleted:?}");
}

/// When the first answer of a program comes that sends tasks to many new queues, and when the last of them is sent.
async fn answer_beside_new_queues(simulation: Rc<Simulation>) -> (Timed, Duration) {
    const HOUR: Duration = Duration::from_secs(3600);
    let (callers, workers) =
        (simulation.new_runtime("callers", Process(0), 500), simulation.new_runtime("workers", Process(1), 500));
    let connect =
        |name| Communicator::builder("simulated:broker").connection_name(name).operation_timeout(HOUR).connect();
    let caller = at(&simulation, callers, connect("caller")).await.expect("a connection");
    let worker = at(&simulation, workers, connect("worker")).await.expect("a connection");
    let serve = worker.clone();
    let answers = RpcSubscriber::closure(|_: RpcRequest| ());
    at(&simulation, workers, async move { serve.add_rpc_subscriber("it", answers).await }).await.expect("a name");
    let calling = caller.clone();
    let call = |name| {
        let call = calling.rpc_send(name, ()).timeout(HOUR);
        at(&simulation, callers, timed(call.into_future()))
    };
    assert_eq!(call("nobody").await.1, Some(ErrorKind::Unroutable), "its replies have a queue");
    server().set_faults(Faults { slow: 1, ..Faults::default() });
    let sending = worker.clone();
    let sends = at(&simulation, workers, async move {
        let send = |number: u32| {
            let queue = sending.task_queue(format!("work-{number}")).expect("a name");
            queue.task_send(()).timeout(HOUR).no_reply().into_future()
        };
        let (last, sent) =
            timed(join_all((0..32).map(send)).map(|sent| sent.into_iter().collect::<Result<Vec<_>>>())).await;
        assert_eq!(sent, None);
        last
    });
    let ended = futures_util::join!(call("it"), sends);
    server().set_faults(Faults::default());
    at(&simulation, workers, async move { worker.close().await }).await.expect("it closes");
    at(&simulation, callers, async move { caller.close().await }).await.expect("it closes");
    ended
}

/// Guards: the first answer of a worker, which waits until all is declared that it sends to.
#[test]
fn a_first_answer_does_not_wait_for_what_is_declared_for_other_messages() {
    let (calls, sends) = (Cell::new(Duration::ZERO), Cell::new(Duration::ZERO));
    in_some_orders(answer_beside_new_queues, |(call, last)| {
        assert_eq!(call.1, None);
        calls.set(calls.get() + call.0);
        sends.set(sends.get() + last);
    });
    // All together, since each may be slow.
    assert!(calls.get() < sends.get() / 15, "{calls:?}, {sends:?}");
}

/// What becomes of broadcasts in testing mode, where the exchange goes with its last listener: one that is sent while the broker
/// answers no question, and one of later.
async fn broadcasts_without_an_exchange(simulation: Rc<Simulation>) -> (Timed, Timed) {
    let (senders, listeners) =
        (simulation.new_runtime("senders", Process(0), 500), simulation.new_runtime("listeners", Process(1), 500));
    let connect = || {
        let builder = Communicator::builder("simulated:broker").testing(TestingMode::Yes);
        builder.operation_timeout(Duration::from_secs(2)).connect()
    };
    let sender = at(&simulation, senders, connect()).await.expect("a connection");
    let listener = at(&simulation, listeners, connect()).await.expect("a connection");
    let listening = listener.clone();
    let ended = at(&simulation, listeners, async move {
        let nothing = BroadcastSubscriber::closure(|_: Broadcast| ());
        listening.add_broadcast_subscriber(BroadcastFilter::new(), nothing).await
    });
    ended.await.expect("a subscriber");
    let sending = sender.clone();
    let sent = at(&simulation, senders, async move {
        let send = || {
            let sent = tokio::time::timeout(Duration::from_secs(60), sending.broadcast_send(1).into_future());
            timed(sent.map(|sent| sent.unwrap_or_else(|_| Ok(()))))
        };
        assert!(sending.broadcast_send(0).await.is_ok(), "somebody listens");
        listener.close().await.expect("it closes");
        server().set_faults(Faults { fails: 1, ..Faults::default() });
        let first = send().await;
        server().set_faults(Faults::default());
        (first, send().await)
    })
    .await;
    at(&simulation, senders, async move { sender.close().await }).await.expect("it closes");
    sent
}

/// Guards: messages that wait for an exchange which was gone, and could not be declared.
#[test]
fn broadcasts_go_on_after_an_exchange_that_could_not_be_declared() {
    in_some_orders(broadcasts_without_an_exchange, |(first, later)| {
        assert!(first.0 < Duration::from_secs(60), "it ends: {first:?}");
        assert!(later.0 < Duration::from_secs(60) && later.1.is_none(), "{later:?}");
    });
}

/// Guards: a subscriber that serves on, though it was taken out.
#[test]
fn a_removal_that_finds_no_place_at_its_home_removes_all_the_same() {
    for (is_given_up, ends) in [(true, None), (false, Some(ErrorKind::TimedOut))] {
        in_some_orders(
            move |simulation| removal_at_a_full_home(simulation, is_given_up),
            |(removed, answer)| assert_eq!((removed, answer), (ends, Some(ErrorKind::Unroutable))),
        );
    }
}
