//! The end: it is calm, and everything has to be right. What is not done is done, what stands is used and removed, and nothing
//! is left.

use std::future::IntoFuture;
use std::rc::Rc;
use std::time::Duration;

use super::hostile::POISON;
use super::users::text;
use super::workers::worker;
use super::{CALL_TIMEOUT, REGISTRATION, World};
use crate::codec::Value;
use crate::simulation::broker::server;
use crate::simulation::executor::{Process, sleep_ms};
use crate::simulation::hooks;
use crate::simulation::ledger::{Subscription, number_in};
use crate::simulation::store::QueueState;
use crate::{Attempt, Communicator, ConnectionState, Error, ErrorKind, Identifier, Result};

/// Everything is done, and nothing is left.
pub(super) async fn calm(world: &Rc<World>) {
    let (ledger, server) = (&world.ledger, server());
    // A thread that has panicked explains whatever follows.
    if world.simulation.has_panicked() {
        return;
    }
    // What has given up by its own rule is replaced. That may be decided only now.
    for n in 0..world.len() {
        for _ in 0..60 {
            let communicator = world.communicator(n);
            if communicator.is_closed() || communicator.connection_state() == ConnectionState::Connected {
                break;
            }
            sleep_ms(100).await;
        }
        if world.communicator(n).is_closed() {
            let name = world.programs.borrow()[n].name.clone();
            ledger.communicator_ended(n);
            world.check_ended(&name, "it gave up").await;
            world.renew(n).await;
        }
    }
    tasks_are_done(world).await;
    let late = || (0..world.len()).map(|n| world.communicator(n).counts().late_replies).sum::<u64>();
    let before = late();
    subscribers_are_served(world).await;
    for queue in server.queues().iter().filter(|queue| queue.name.starts_with("broadcast-") && queue.out > 0) {
        ledger.fault(format!("not acknowledged: broadcasts that were handed out: {queue:?}"));
    }
    for what in server.settled_wrongly() {
        ledger.fault(format!("settled wrongly: a delivery that was not out: [{what}]"));
    }
    subscribers_are_removed(world).await;
    world.check_those_let_go().await;
    nobody_else_answers(world).await;
    if late() > before {
        ledger.fault(format!("answered twice: {} replies for nobody in the calm", late() - before));
    }
    // Requests whose task an operator has deleted run into their deadlines.
    for _ in 0..40 {
        if ledger.under_way().is_empty() {
            break;
        }
        sleep_ms(5000).await;
    }
    // A task that is given up while it is away is awaited for a minute, though somebody else has it. What else is left is not
    // waited for: a timer goes by itself.
    for _ in 0..13 {
        let is_in_hand = |(what, count): (&str, usize)| what == "tasks in hand" && count > 0;
        let has_some = |n| hooks::leftovers(&world.communicator(n)).into_iter().any(is_in_hand);
        if !(0..world.len()).any(has_some) {
            break;
        }
        sleep_ms(5000).await;
    }
    for n in 0..world.len() {
        if ledger.books().away.contains(&world.name(n)) {
            ledger.fault(format!("events: c{n} is connected, and its last loss was not followed by Restored"));
        }
        for (what, count) in hooks::leftovers(&world.communicator(n)) {
            if count > 0 {
                ledger.fault(format!("left: {what}, {count} at c{n}"));
            }
        }
    }
    // What a dead process leaves behind expires.
    if server.queues().iter().any(|queue| queue.name.contains("lease") && queue.ready == 0) {
        sleep_ms(310_000).await;
    }
    for queue in server.queues() {
        // Replies come in for as long as there is a connection, and questions about answers where something was answered.
        let stays = queue.name.contains("reply") || queue.name.contains("control");
        let own = (queue.exclusive && !stays) || queue.name.contains("lease");
        if own || queue.out > 0 || (!queue.exclusive && !queue.consumers.is_empty()) {
            ledger.fault(format!("left: {queue:?}"));
        }
    }
    let handles: Vec<Communicator> = (0..world.len()).map(|n| world.communicator(n)).collect();
    for n in 0..world.len() {
        world.close(n, Duration::ZERO).await;
    }
    sleep_ms(6000).await;
    for (n, communicator) in handles.iter().enumerate() {
        if communicator.connection_state() != ConnectionState::Closed {
            ledger.fault(format!("state: c{n} is closed and {:?}", communicator.connection_state()));
        }
        for (what, count) in hooks::leftovers(communicator) {
            if count > 0 {
                ledger.fault(format!("left: after the close {what}, {count} at c{n}"));
            }
        }
    }
    let threads: Vec<String> = (0..world.len()).flat_map(|n| world.simulation.threads_of(Process(n as u32))).collect();
    if !threads.is_empty() {
        ledger.fault(format!("left: after the close the threads {threads:?}"));
    }
    if server.sessions() > 0 {
        ledger.fault(format!("left: {} sessions", server.sessions()));
    }
    for queue in server.queues() {
        if queue.exclusive || queue.out > 0 || !queue.consumers.is_empty() {
            ledger.fault(format!("left: after the close {queue:?}"));
        }
    }
    // What tasks with a delay or a key need goes by itself.
    let goes = |queue: &QueueState| is_for_delays(queue) || queue.name.starts_with("homing-unique");
    if server.queues().iter().any(goes) {
        sleep_ms(620_000).await;
    }
    for queue in server.queues().iter().filter(|queue| goes(queue)) {
        ledger.fault(format!("left: {queue:?}"));
    }
    homes_are_empty(world);
}

fn is_for_delays(queue: &QueueState) -> bool {
    queue.name.starts_with("homing-delay") || queue.name.starts_with("homing-until")
}

/// Every task that the broker has taken over is ended, or lies where somebody will look at it.
async fn tasks_are_done(world: &Rc<World>) {
    let ledger = &world.ledger;
    // What users did before may still fill their home, until its time is up: that ends an add in time, which is right.
    for attempt in 1.. {
        if !ledger.books().task_subscribers.is_empty() {
            break;
        }
        let communicator = world.communicator(0);
        let subscriber = worker(world, "the last one");
        let users = world.users(0);
        let add = async move {
            let add = communicator.add_task_subscriber(subscriber);
            tokio::time::timeout(REGISTRATION, add).await
        };
        match world.at(users, "adds the last subscriber", add).await {
            Some(Ok(Ok(identifier))) => {
                let subscription = Subscription { communicator: 0, name: identifier.as_str().to_owned(), home: users };
                ledger.books().task_subscribers.push(subscription);
            }
            Some(Ok(Err(error))) if attempt < 5 && error.to_string().contains("as many futures open") => {
                sleep_ms(5000).await;
            }
            other => {
                ledger.fault(format!("registration: the last task subscriber could not be added: {other:?}"));
                break;
            }
        }
    }
    let quarantined = || -> Vec<i64> {
        let bodies = server().bodies().into_iter().filter(|(queue, _)| queue.contains("quarantine"));
        bodies.filter_map(|(_, body)| number_in(&String::from_utf8_lossy(&body), "task")).collect()
    };
    let open = || -> Vec<i64> {
        let quarantined = quarantined();
        ledger.open_tasks().into_iter().filter(|id| !quarantined.contains(id)).collect()
    };
    let held_back = || server().queues().iter().any(|queue| is_for_delays(queue) && queue.ready > 0);
    // What was being sent as it became calm is held back from then on only.
    for _ in 0..3 {
        for _ in 0..150 {
            if open().is_empty() && !held_back() {
                break;
            }
            sleep_ms(2000).await;
        }
        // What runs again, and outcomes on their way.
        sleep_ms(20_000).await;
        if !held_back() {
            break;
        }
    }
    for id in open() {
        let bodies = server().bodies().into_iter();
        let at: Vec<String> = bodies
            .filter(|(_, body)| number_in(&String::from_utf8_lossy(body), "task") == Some(id))
            .map(|(queue, _)| queue)
            .collect();
        if at.is_empty() {
            ledger.fault(format!("lost: task {id} is in no queue and was not ended"));
        } else {
            ledger.fault(format!("not run: task {id} lies in {at:?}"));
        }
    }
}

/// A call to each subscriber is answered; a broadcast comes to each.
async fn subscribers_are_served(world: &Rc<World>) {
    let ledger = &world.ledger;
    let (rpc, broadcasts) = {
        let books = ledger.books();
        (books.rpc_subscribers.clone(), books.broadcast_subscribers.clone())
    };
    for Subscription { communicator: of, name, .. } in rpc {
        match call(world, (of + 1) % world.len(), &name).await {
            Some((id, outcome)) => match text(&outcome) {
                Err(error) if !ledger.call_failed(id) => {
                    ledger.fault(format!("not served: the RPC subscriber {name} does not answer: {error}"));
                }
                other => ledger.call_outcome(id, other),
            },
            None => ledger.fault("setup: a users' home ended in the calm".to_owned()),
        }
    }
    let mut id = ledger.number() * 2;
    while id % POISON == 0 {
        id = ledger.number() * 2;
    }
    let communicator = world.communicator(0);
    let send = async move {
        let send = communicator.broadcast_send(format!("cast-{id}-")).subject("even.number");
        tokio::time::timeout(Duration::from_secs(30), send.into_future()).await
    };
    match world.at(world.users(0), "sends the last broadcast", send).await {
        Some(Ok(Ok(()))) => {}
        other => ledger.fault(format!("not served: a broadcast in the calm: {other:?}")),
    }
    sleep_ms(2000).await;
    for Subscription { name, .. } in broadcasts {
        if !ledger.has_heard(&name, id) {
            ledger.fault(format!("not served: the broadcast subscriber {name} does not get broadcasts"));
        }
    }
}

async fn call(world: &Rc<World>, from: usize, to: &str) -> Option<(i64, Result<Value>)> {
    let id = world.ledger.number();
    let (communicator, to) = (world.communicator(from), to.to_owned());
    let call = async move {
        communicator.rpc_send(to.as_str(), format!("call-{id}-")).timeout(CALL_TIMEOUT).into_future().await
    };
    Some((id, world.at(world.users(from), "calls in the calm", call).await?))
}

async fn subscribers_are_removed(world: &Rc<World>) {
    let ledger = &world.ledger;
    let (tasks, rpc, broadcasts) = {
        let mut books = ledger.books();
        let books = &mut *books;
        (
            std::mem::take(&mut books.task_subscribers),
            std::mem::take(&mut books.rpc_subscribers),
            std::mem::take(&mut books.broadcast_subscribers),
        )
    };
    let all = tasks.into_iter().map(|s| (0, s)).chain(rpc.into_iter().map(|s| (1, s)));
    let all: Vec<_> = all.chain(broadcasts.into_iter().map(|s| (2, s))).collect();
    for (kind, Subscription { communicator: n, name, .. }) in all {
        let communicator = world.communicator(n);
        let Ok(identifier) = Identifier::new(&name) else { continue };
        let remove = async move {
            let remove = async {
                match kind {
                    0 => communicator.remove_task_subscriber(&identifier).await,
                    1 => communicator.remove_rpc_subscriber(&identifier).await,
                    _ => communicator.remove_broadcast_subscriber(&identifier).await,
                }
            };
            tokio::time::timeout(Duration::from_secs(30), remove).await
        };
        match world.at(world.users(n), "removes a subscriber in the calm", remove).await {
            Some(Ok(Ok(()))) => {}
            other => {
                let kind = ["task", "RPC", "broadcast"][kind];
                ledger.fault(format!("registration: the {kind} subscriber {name} could not be removed: {other:?}"));
            }
        }
    }
    // Tasks in hand and leases end.
    sleep_ms(if world.plan.leases { 40_000 } else { 15_000 }).await;
}

/// With every subscriber removed nobody answers calls, and a task lies in its queue until somebody takes it.
async fn nobody_else_answers(world: &Rc<World>) {
    let ledger = &world.ledger;
    for n in 0..world.len() {
        let name = format!("svc{n}");
        match call(world, 0, &name).await {
            Some((_, Err(error))) if error.kind() == ErrorKind::Unroutable => {}
            Some((_, outcome)) => {
                ledger.fault(format!(
                    "zombie: {name} has no subscriber, and a call to it ends as {}",
                    described(&outcome)
                ));
            }
            None => {}
        }
    }
    // Not a number that bad codecs cannot read.
    let mut id = ledger.number();
    while id % POISON < 2 {
        id = ledger.number();
    }
    let communicator = world.communicator(0);
    let send = async move {
        let sent = communicator.task_send(format!("task-{id}-")).no_reply().into_future();
        let sent = tokio::time::timeout(Duration::from_secs(30), sent).await;
        sleep_ms(3000).await;
        sent
    };
    match world.at(world.users(0), "sends the last task", send).await {
        Some(Ok(Ok(()))) => {}
        other => return ledger.fault(format!("not served: a task could not be sent in the calm: {other:?}")),
    }
    let (communicator, taker) = (world.communicator(1), ledger.clone());
    let take = async move {
        let queue = communicator.default_task_queue()?;
        loop {
            let task = queue.next_task(Duration::from_secs(10)).await?;
            let found = task.body().as_str().and_then(|body| number_in(body, "task"));
            let (attempt, redelivered) = (task.request().attempt(), task.request().is_redelivered());
            taker.task_ends(found.unwrap_or(0), Some("taken"));
            task.finish("taken");
            if found == Some(id) {
                return Ok::<_, Error>((attempt, redelivered));
            }
        }
    };
    match world.at(world.users(1), "takes the last task", take).await {
        Some(Ok((Attempt::Exactly(1), false))) => {}
        other => ledger.fault(format!("zombie: a task sent with no subscriber anywhere was taken as {other:?}")),
    }
    sleep_ms(5000).await;
}

fn described(outcome: &Result<Value>) -> String {
    match outcome {
        Ok(_) => "an answer".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

/// Every home has all of its places again.
fn homes_are_empty(world: &World) {
    for n in 0..world.len() {
        for group in [world.users(n), world.workers(n)] {
            let Some(home) = world.simulation.home_of(group) else { continue };
            if world.plan.small_homes
                && let Some(capacity) = world.simulation.capacity_of(group)
            {
                let futures: Vec<_> = (0..capacity).map_while(|_| home.try_future::<()>().ok()).collect();
                if futures.len() < capacity {
                    let left = capacity - futures.len();
                    world.ledger.fault(format!("left: {left} places of a home of c{n}"));
                }
            }
        }
    }
}
