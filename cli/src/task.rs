//! `homing task send` and `homing task work`.

use std::sync::Arc;
use std::time::Duration;

use homing::{Communicator, ErrorKind, Event, Events, IncomingTask};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::args::{Global, Task};
use crate::exec::Responder;
use crate::failure::Failure;
use crate::stop::{Stop, or_interrupted};
use crate::{close, connect, connect_to_stay, values};

/// How long one wait for a task lasts before the next begins.
const WAIT: Duration = Duration::from_secs(3600);

pub(crate) async fn run(command: Task, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Task::Send { body, no_reply, timeout } => {
            let body = values::read_body(&body)?;
            let communicator = connect(global).await?;
            let mut task = communicator.task_send(body);
            if let Some(timeout) = timeout {
                task = task.timeout(timeout);
            }
            let outcome = or_interrupted(stop, async {
                if no_reply {
                    task.no_reply().await?;
                    return Ok(None);
                }
                Ok(Some(task.await?))
            })
            .await;
            let closed = close(&communicator).await;
            if let Some(outcome) = outcome? {
                values::print(&outcome, global.format)?;
            }
            closed
        }
        Task::Work { handler, prefetch, count } => {
            let communicator = connect_to_stay(global).await?;
            // Its tasks are waited for one by one.
            let (responder, _all_ended) = Responder::new(handler, &stop);
            let worked = work(&communicator, responder, prefetch.get(), count.map(u64::from), stop).await;
            let closed = close(&communicator).await;
            worked.and(closed)
        }
        Task::List(command) => crate::list::run(command, global, stop).await,
    }
}

/// Takes tasks one by one, so that never more are taken than are run, and runs so many side by side.
async fn work(
    communicator: &Communicator,
    responder: Responder,
    prefetch: u16,
    count: Option<u64>,
    mut stop: Stop,
) -> Result<(), Failure> {
    let queue = communicator.default_task_queue()?;
    let mut events = communicator.events();
    let places = Arc::new(Semaphore::new(prefetch.into()));
    let mut running = JoinSet::new();
    eprintln!("homing: working on tasks of {:?} until Ctrl-C", queue.name());
    let mut taken = 0;
    let ended = loop {
        if count.is_some_and(|count| taken >= count) {
            break Ok(());
        }
        let next = async {
            // Closed by nobody: a place is given back when its task has ended.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, queue.next_task(WAIT).await)
        };
        tokio::select! {
            () = stop.wait() => break Ok(()),
            failure = lost(&mut events) => break Err(failure),
            (place, next) = next => match next {
                Ok(task) => {
                    taken += 1;
                    let responder = responder.clone();
                    running.spawn(async move {
                        run_one(responder, task).await;
                        drop(place);
                    });
                }
                Err(error) if error.kind() == ErrorKind::QueueEmpty => {}
                Err(error) => break Err(error.into()),
            },
        }
        while running.try_join_next().is_some() {}
    };
    // At a signal the commands in hand have been told to end: their tasks go back when they have.
    while running.join_next().await.is_some() {}
    ended
}

async fn run_one(responder: Responder, task: IncomingTask) {
    let outcome = responder.answer(task.body().clone()).await;
    if matches!(outcome, Err(homing::Failure::Cancelled)) {
        task.requeue();
    } else {
        task.finish(outcome);
    }
}

/// Resolves when the connection is lost for good. Says on the way what becomes of it.
pub(crate) async fn lost(events: &mut Events) -> Failure {
    let mut why = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Lost(error) => why = Some(error),
            Event::Restored { away } => {
                eprintln!("homing: connected again after {:.1} s", away.as_secs_f64());
                why = None;
            }
            Event::Closed => break,
            _ => {}
        }
    }
    match why {
        Some(error) => error.into(),
        None => std::future::pending().await,
    }
}
