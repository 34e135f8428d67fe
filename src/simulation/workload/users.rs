//! The users: actors that send, call, subscribe, take tasks and give up, in an order that the seed decides.

use std::cell::OnceCell;
use std::future::IntoFuture;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;

use super::workers::{answerer, is_marked, listener, worker};
use super::{CALL_TIMEOUT, KEYS, OPERATION_TIMEOUT, REGISTRATION, SLACK, TASK_TIMEOUT, World, key_text};
use crate::codec::Value;
use crate::simulation::executor::{choose, note, one_in, sleep_ms};
use crate::simulation::ledger::{Books, KEY_TIME, Subscription, number_in};
use crate::time::time_of_day;
use crate::{BroadcastFilter, Communicator, Error, ErrorKind, Identifier, Result, TaskSend};

/// The outcome of a request as a string, for the ledger.
pub(super) fn text(outcome: &Result<Value>) -> std::result::Result<Option<&str>, &Error> {
    outcome.as_ref().map(Value::as_str)
}

/// The subscribers of one kind.
type List = fn(&mut Books) -> &mut Vec<Subscription>;

/// A task to be sent: at once, or held back; with a key of its own, or not. With it, for how long it is held back.
fn task(world: &World, communicator: &Communicator, id: i64) -> (TaskSend, Duration) {
    let plan = world.plan;
    let mut send = communicator.task_send(format!("task-{id}-"));
    let mut held_back = Duration::ZERO;
    if plan.delays && one_in(2) {
        held_back = Duration::from_millis([40, 40, 1300, 6000, 31_000][choose(5) as usize]);
        send = if one_in(3) { send.at(time_of_day() + held_back) } else { send.delay(held_back) };
    }
    let key = (plan.keys && one_in(2)).then(|| choose(KEYS));
    if let Some(key) = key {
        send = send.unique(key_text(key), KEY_TIME);
    }
    note(|| format!("task {id} is held back for {held_back:?}, key {key:?}"));
    world.ledger.task_is_sent(id, held_back, key);
    (send, held_back)
}

/// One thing that a user does.
async fn act(world: &Rc<World>, n: usize) {
    let communicator = world.communicator(n);
    let (ledger, plan) = (&world.ledger, world.plan);
    let workers = world.workers(n);
    let simulation = &world.simulation;
    let here = simulation.home_of(workers);
    let name = |what: &str, id: i64| format!("c{n} {what} {id}");
    let incarnation = world.name(n);
    // Whether the subscriber's home or its communicator has ended meanwhile, and its subscriber with it.
    let stands = || simulation.home_of(workers).is_some() && world.name(n) == incarnation;
    let wrong = |what: &str, error: &Error| world.check_error(&communicator, &incarnation, what, error);
    let outcome_is = |what: &str, outcome: &Result<Value>| {
        if let Err(error) = outcome {
            wrong(what, error);
        }
    };
    let note_added = |list: List, subscriber: String, added: Option<Result<Identifier>>| match added {
        Some(Ok(_)) if stands() && !communicator.is_closed() => {
            list(&mut ledger.books()).push(Subscription { communicator: n, name: subscriber, home: workers });
        }
        Some(Err(error)) => wrong(&format!("c{n} adds {subscriber}"), &error),
        _ => {}
    };
    let take = |list: List| {
        let mut books = ledger.books();
        let subscriptions = list(&mut books);
        let at = subscriptions.iter().position(|subscription| subscription.communicator == n)?;
        Some(subscriptions.remove(at).name)
    };
    match choose(20) {
        1..=3 => {
            let id = ledger.number();
            note(|| name("sends task", id));
            let send = task(world, &communicator, id).0.no_reply().into_future();
            let sent = ledger.within(n, &name("sends task", id), TASK_TIMEOUT + SLACK, world.treated(send)).await;
            match sent {
                Some(Ok(())) => ledger.task_confirmed(id),
                Some(Err(error)) if error.kind() == ErrorKind::DuplicateTask => ledger.task_is_duplicate(id),
                Some(Err(error)) => wrong(&name("sends task", id), &error),
                None => {}
            }
        }
        4 | 5 => {
            let id = ledger.number();
            note(|| name("sends and awaits task", id));
            let (send, held_back) = task(world, &communicator, id);
            let send = send.timeout(TASK_TIMEOUT).send();
            let sent = ledger.within(n, &name("sends task", id), TASK_TIMEOUT + SLACK, world.treated(send)).await;
            match sent {
                Some(Ok(reply)) => {
                    ledger.task_confirmed(id);
                    // Each `pending` renews the deadline.
                    let limit = held_back + TASK_TIMEOUT * if plan.pendings { 3 } else { 1 } + SLACK;
                    let outcome = world.treated(reply.outcome());
                    if let Some(outcome) = ledger.within(n, &name("awaits task", id), limit, outcome).await {
                        ledger.task_outcome(id, text(&outcome));
                        outcome_is(&name("awaits task", id), &outcome);
                    }
                }
                Some(Err(error)) if error.kind() == ErrorKind::DuplicateTask => ledger.task_is_duplicate(id),
                Some(Err(error)) => wrong(&name("sends task", id), &error),
                None => {}
            }
        }
        6 | 7 => {
            let Some(home) = here else { return };
            let subscriber = format!("w{}", ledger.number());
            let Ok(identifier) = Identifier::new(&subscriber) else { return };
            note(|| format!("c{n} adds the task subscriber {subscriber}"));
            let bound = communicator.bound_to(&home);
            let add = bound.add_task_subscriber(worker(world, &subscriber).with_identifier(identifier));
            let added = ledger.within(n, &format!("c{n} adds {subscriber}"), REGISTRATION, world.treated(add)).await;
            note_added(|books| &mut books.task_subscribers, subscriber, added);
        }
        8 => {
            if let Some(subscriber) = take(|books| &mut books.task_subscribers)
                && let Ok(identifier) = Identifier::new(&subscriber)
            {
                note(|| format!("c{n} removes the task subscriber {subscriber}"));
                let remove = communicator.remove_task_subscriber(&identifier);
                drop(ledger.within(n, &format!("c{n} removes {subscriber}"), REGISTRATION, remove).await);
            }
        }
        9 | 10 => {
            let Ok(queue) = communicator.default_task_queue() else { return };
            let wait = Duration::from_millis(u64::from(choose(3000)));
            let limit = wait + 2 * OPERATION_TIMEOUT + SLACK;
            let next = world.treated(queue.next_task(wait));
            match ledger.within(n, &format!("c{n} takes a task"), limit, next).await {
                Some(Ok(task)) => {
                    let Some(id) = task.body().as_str().and_then(|body| number_in(body, "task")) else {
                        return ledger.fault(format!("wrong body: a task was taken as {:?}", task.body()));
                    };
                    let marked = is_marked(task.request());
                    note(|| format!("c{n} took task {id}{}", if marked { ", marked" } else { "" }));
                    sleep_ms(choose(100)).await;
                    if one_in(3) {
                        // It goes back.
                        return drop(task);
                    }
                    let start = ledger.task_begins(id, marked, &format!("pulls of c{n}"));
                    let result = format!("result-{id}-{start}");
                    ledger.task_ends(id, Some(&result));
                    let finished = catch_unwind(AssertUnwindSafe(|| task.finish(result)));
                    // The panic of a user's encoder may come out here, in the user's own code.
                    if finished.is_err() && !plan.bad_codecs {
                        ledger.fault("panic: finishing a task panicked".to_owned());
                    }
                }
                Some(Err(error)) => wrong(&format!("c{n} takes a task"), &error),
                None => {}
            }
        }
        11 => {
            let Some(home) = here else { return };
            let subscriber = format!("svc{n}");
            let Ok(identifier) = Identifier::new(&subscriber) else { return };
            note(|| format!("c{n} adds the RPC subscriber {subscriber}"));
            let bound = communicator.bound_to(&home);
            let add = bound.add_rpc_subscriber(identifier, answerer(world, &subscriber, &incarnation));
            let added = ledger.within(n, &format!("c{n} adds {subscriber}"), REGISTRATION, world.treated(add)).await;
            // Another user of this communicator may have it there already.
            let is_there = |error: &Error| error.kind() == ErrorKind::DuplicateSubscriberIdentifier;
            if !matches!(&added, Some(Err(error)) if is_there(error)) {
                note_added(|books| &mut books.rpc_subscribers, subscriber, added);
            }
        }
        12 => {
            if let Some(subscriber) = take(|books| &mut books.rpc_subscribers) {
                note(|| format!("c{n} removes the RPC subscriber {subscriber}"));
                let remove = communicator.remove_rpc_subscriber(subscriber.as_str());
                drop(ledger.within(n, &format!("c{n} removes {subscriber}"), REGISTRATION, remove).await);
            }
        }
        13..=15 => {
            let id = ledger.number();
            let to = format!("svc{}", choose(world.len() as u32));
            note(|| format!("c{n} calls {to} with {id}"));
            let call = communicator.rpc_send(to.as_str(), format!("call-{id}-")).timeout(CALL_TIMEOUT).into_future();
            let limit = CALL_TIMEOUT * if plan.pendings { 3 } else { 1 } + SLACK;
            let outcome = ledger.within(n, &format!("c{n} calls {to} with {id}"), limit, world.treated(call)).await;
            if let Some(outcome) = outcome {
                ledger.call_outcome(id, text(&outcome));
                outcome_is(&name("calls with", id), &outcome);
            }
        }
        16 => {
            let id = ledger.number();
            note(|| name("broadcasts", id));
            let subject = if id % 2 == 0 { "even.number" } else { "odd.number" };
            let send = communicator.broadcast_send(format!("cast-{id}-")).subject(subject).into_future();
            // As long as a call may take: nothing else is said.
            let limit = Duration::from_secs(90);
            if let Some(Err(error)) = ledger.within(n, &name("broadcasts", id), limit, world.treated(send)).await {
                wrong(&name("broadcasts", id), &error);
            }
        }
        17 => {
            let Some(home) = here else { return };
            let even = choose(2) == 1;
            let subscriber = format!("b{}{}", ledger.number(), if even { "even" } else { "" });
            let Ok(identifier) = Identifier::new(&subscriber) else { return };
            let filter = if even { even_subjects() } else { BroadcastFilter::new() };
            note(|| format!("c{n} adds the broadcast subscriber {subscriber}"));
            let bound = communicator.bound_to(&home);
            let add = bound.add_broadcast_subscriber(filter, listener(world, &subscriber).with_identifier(identifier));
            let added = ledger.within(n, &format!("c{n} adds {subscriber}"), REGISTRATION, world.treated(add)).await;
            note_added(|books| &mut books.broadcast_subscribers, subscriber, added);
        }
        18 => {
            if let Some(subscriber) = take(|books| &mut books.broadcast_subscribers)
                && let Ok(identifier) = Identifier::new(&subscriber)
            {
                let remove = communicator.remove_broadcast_subscriber(&identifier);
                drop(ledger.within(n, &format!("c{n} removes {subscriber}"), REGISTRATION, remove).await);
            }
        }
        19 => {
            // Many calls at once, which is what finds a limit.
            let calls = (0..4).map(|_| {
                let id = ledger.number();
                let to = format!("svc{}", choose(world.len() as u32));
                let call = communicator.rpc_send(to.as_str(), format!("call-{id}-")).timeout(CALL_TIMEOUT);
                let call = world.treated(call.into_future());
                async move {
                    if let Some(outcome) = call.await {
                        ledger.call_outcome(id, text(&outcome));
                        outcome_is(&name("calls with", id), &outcome);
                    }
                }
            });
            let limit = CALL_TIMEOUT * if plan.pendings { 3 } else { 1 } + SLACK;
            ledger.within(n, &format!("c{n} makes four calls"), limit, join_all(calls)).await;
        }
        _ => sleep_ms(choose(400)).await,
    }
}

/// Compiled once a thread, for a pattern takes as long as many steps of a simulation.
fn even_subjects() -> BroadcastFilter {
    thread_local! {
        static EVEN: OnceCell<BroadcastFilter> = const { OnceCell::new() };
    }
    let made = || BroadcastFilter::new().subject("even.*").unwrap_or_else(|error| panic!("{error}"));
    EVEN.with(|even| even.get_or_init(made).clone())
}

pub(super) async fn actor(world: Rc<World>, n: usize, length: u32) {
    for _ in 0..length {
        sleep_ms([0, 0, 5, 50, 500][choose(5) as usize]).await;
        if world.stopping.get() {
            return;
        }
        act(&world, n).await;
    }
}
