//! The subscribers: handlers that work for a while, fail, reject, panic, put their answer off, and watch for whom they work.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::select;

use super::World;
use super::hostile::{Bomb, Owned};
use crate::simulation::executor::{choose_for, note, one_in_for, sleep_ms};
use crate::simulation::ledger::number_in;
use crate::{
    Answer, Attempt, Broadcast, BroadcastSubscriber, Failure, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber,
};

/// Whether somebody may have run it before.
pub(super) fn is_marked(request: &TaskRequest) -> bool {
    request.is_redelivered() || request.is_resent() || request.attempt() != Attempt::Exactly(1)
}

pub(super) fn worker(world: &World, name: &str) -> TaskSubscriber {
    let (ledger, plan) = (world.ledger.clone(), world.plan);
    let owned = Arc::new(Owned(ledger.clone(), "a subscriber was dropped"));
    let name: Arc<str> = name.into();
    TaskSubscriber::future(move |request: TaskRequest| {
        let (ledger, owned, name) = (ledger.clone(), Arc::clone(&owned), Arc::clone(&name));
        async move {
            ledger.user_code("a handler was run");
            let _owned = owned;
            let Some(id) = request.body().as_str().and_then(|body| number_in(body, "task")) else {
                ledger.fault(format!("wrong body: a task came as {:?}", request.body()));
                return Ok(Answer::from("?"));
            };
            let marked = is_marked(&request);
            let start = ledger.task_begins(id, marked, &name);
            note(|| format!("{name} begins task {id}{}", if marked { ", marked" } else { "" }));
            let whom = (id as u64) << 8 | u64::from(start);
            let _bomb = (plan.bad_drops && one_in_for(whom, 12)).then(|| {
                ledger.task_may_fail(id);
                Bomb(ledger.clone(), Some(id))
            });
            if plan.bad_handlers && one_in_for(whom, 40) {
                // Looked at in a loop: a watch that is dropped leaves nothing.
                for _ in 0..20 {
                    drop(request.ownership_lost());
                }
            }
            let lost = one_in_for(whom, 4).then(|| request.ownership_lost().ok()).flatten();
            let long = if plan.leases { 8000 } else { 300 };
            let work = sleep_ms([0, 1, 20, long / 4, long / 2, long][choose_for(whom, 6) as usize]);
            match lost {
                Some(lost) => drop(select(pin!(work), lost).await),
                None => work.await,
            }
            let outcome = if plan.bad_handlers || plan.leases { choose_for(whom, 12) } else { 0 };
            // Some are nobody's, until it is calm: they go round.
            let outcome = if plan.bad_handlers && id % 13 == 5 && choose_for(whom, 50) != 0 { 1 } else { outcome };
            let result = format!("result-{id}-{start}");
            note(|| format!("{name} ends task {id} with {outcome}"));
            match outcome {
                1 => {
                    ledger.task_refused(id, marked);
                    Err(Failure::Rejected("not mine".into()))
                }
                2 => Err(Failure::Cancelled),
                3 => {
                    ledger.task_may_fail(id);
                    Err(Failure::TryAgain("later".into()))
                }
                4 => {
                    ledger.task_ends(id, None);
                    panic!("simulated panic of a handler")
                }
                5 => {
                    ledger.task_ends(id, None);
                    Err(Failure::Exception("simulated".into()))
                }
                6 | 7 if plan.pendings => {
                    let wait = choose_for(whom, 100);
                    Ok(Answer::later(async move {
                        sleep_ms(wait).await;
                        ledger.task_ends(id, Some(&result));
                        result
                    }))
                }
                _ => {
                    ledger.task_ends(id, Some(&result));
                    Ok(Answer::from(result))
                }
            }
        }
    })
}

pub(super) fn answerer(world: &World, name: &str, communicator: &str) -> RpcSubscriber {
    let (ledger, plan) = (world.ledger.clone(), world.plan);
    let owned = Arc::new(Owned(ledger.clone(), "a subscriber was dropped"));
    let (name, communicator): (Arc<str>, Arc<str>) = (name.into(), communicator.into());
    RpcSubscriber::future(move |request: RpcRequest| {
        let (ledger, owned, name) = (ledger.clone(), Arc::clone(&owned), Arc::clone(&name));
        let communicator = Arc::clone(&communicator);
        async move {
            ledger.user_code("a handler was run");
            let _owned = owned;
            let Some(id) = request.body().as_str().and_then(|body| number_in(body, "call")) else {
                ledger.fault(format!("wrong body: a call came as {:?}", request.body()));
                return Ok(Answer::from("?"));
            };
            ledger.call_begins(id, &communicator);
            note(|| format!("{name} begins call {id}"));
            let whom = id as u64;
            let _bomb = (plan.bad_drops && one_in_for(whom, 12)).then(|| {
                ledger.call_may_fail(id);
                Bomb(ledger.clone(), None)
            });
            let gone = one_in_for(whom, 3).then(|| request.caller_gone().ok()).flatten();
            let work = sleep_ms(choose_for(whom, 60));
            match gone {
                Some(gone) => drop(select(pin!(work), gone).await),
                None => work.await,
            }
            note(|| format!("{name} answers call {id}"));
            let answer = format!("answer-{id}-");
            match if plan.bad_handlers { choose_for(whom, 10) } else { 0 } {
                1 => {
                    ledger.call_may_fail(id);
                    panic!("simulated panic of a handler")
                }
                2 => {
                    ledger.call_may_fail(id);
                    Err(Failure::Exception("simulated".into()))
                }
                3 if plan.pendings => Ok(Answer::later(async move {
                    sleep_ms(choose_for(whom, 100)).await;
                    answer
                })),
                _ => Ok(Answer::from(answer)),
            }
        }
    })
}

pub(super) fn listener(world: &World, name: &str) -> BroadcastSubscriber {
    let ledger = world.ledger.clone();
    let owned = Arc::new(Owned(ledger.clone(), "a subscriber was dropped"));
    let name: Arc<str> = name.into();
    let plan = world.plan;
    BroadcastSubscriber::future(move |broadcast: Broadcast| {
        let (ledger, owned, name) = (ledger.clone(), Arc::clone(&owned), Arc::clone(&name));
        async move {
            ledger.user_code("a handler was run");
            let _owned = owned;
            match broadcast.body().as_str().and_then(|body| number_in(body, "cast")) {
                None => ledger.fault(format!("wrong body: a broadcast came as {:?}", broadcast.body())),
                Some(id) => {
                    if broadcast.subject() != Some(if id % 2 == 0 { "even.number" } else { "odd.number" }) {
                        ledger.fault(format!("wrong body: broadcast {id} has the subject {:?}", broadcast.subject()));
                    }
                    if name.ends_with("even") && id % 2 != 0 {
                        ledger.fault(format!("filter: broadcast {id} came to {name}"));
                    }
                    // What was handed out and whose acknowledgement went with its channel comes again.
                    // So does what its sender has sent again.
                    let faults = plan.faults;
                    let adverse =
                        plan.lanes || plan.consumers || plan.losses || plan.down || plan.restarts || plan.deletions;
                    let again = adverse || plan.broker_stalls || faults.fails + faults.half_done + faults.refused > 0;
                    ledger.broadcast_heard(&name, id, again);
                    if plan.bad_handlers && one_in_for(id as u64, 9) {
                        panic!("simulated panic of a handler");
                    }
                }
            }
        }
    })
}
