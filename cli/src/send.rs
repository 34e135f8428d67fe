//! `homing task send`: one task, or many.

use std::time::{Duration, Instant};

use homing::{Communicator, ErrorKind, Value, inspect};

use crate::args::{Global, Send};
use crate::call::finish;
use crate::connection::{connect, options, while_sending};
use crate::failure::Failure;
use crate::progress::{Progress, Stage, bounded};
use crate::stop::Stop;
use crate::{batch, not_given, note, values};

/// How long the check of the queue may take, which runs beside connecting.
const LOOK: Duration = Duration::from_secs(3);

pub(crate) async fn run(command: Send, global: &Global, stop: Stop) -> Result<(), Failure> {
    if command.lines || command.count.is_some() {
        return batch::run(command, global, stop).await;
    }
    let Send { no_reply, timeout, .. } = command;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let progress = Progress::default();
    let work = async {
        let body = values::read_body(command.body.as_deref()).await?;
        progress.at(Stage::Connecting);
        let communicator = connect_and_look(global).await?;
        progress.at(Stage::Sending);
        let mut task = command.with_options(communicator.task_send(body));
        if let Some(timeout) = timeout {
            task = task.timeout(timeout);
        }
        if no_reply {
            while_sending(&communicator, task.no_reply()).await?;
            return Ok((communicator, None));
        }
        let reply = while_sending(&communicator, task.send()).await?;
        progress.at(Stage::Sent);
        Ok((communicator, Some(reply.await?)))
    };
    let (communicator, outcome): (Communicator, Option<Value>) =
        bounded(timeout, stop.clone(), &progress, work).await?;
    if let Some(outcome) = outcome {
        values::print(&outcome, global.output.format)?;
    }
    finish(&communicator, deadline, stop).await;
    Ok(())
}

/// Connects; and reports where the task queue is not there yet, or nobody works on it.
pub(crate) async fn connect_and_look(global: &Global) -> Result<Communicator, Failure> {
    if global.output.quiet {
        return connect(global).await;
    }
    let options = options(global)?;
    let queue = inspect::target(&options)?.task_queue;
    let look = tokio::time::timeout(LOOK, inspect::depth(&options, &queue));
    let (communicator, looked) = tokio::join!(connect(global), look);
    let communicator = communicator?;
    match looked {
        Ok(Ok(depth)) if depth.consumers == 0 => {
            let behind = match depth.ready {
                0 => String::new(),
                1 => ", behind another one".to_owned(),
                others => format!(", behind {others} others"),
            };
            note!(
                "no worker takes tasks from the queue {queue:?} now (none is connected, or all are busy): a task waits there \
                 until one does{behind}"
            );
            not_given::note(&global.broker);
        }
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            note!(
                "the queue {queue:?} does not exist yet, so no worker is connected to it; it is created (is the prefix right?)"
            );
            not_given::note(&global.broker);
        }
        // The send itself will report what is wrong.
        Ok(_) | Err(_) => {}
    }
    Ok(communicator)
}
