//! `homing rpc call`.

use std::time::{Duration, Instant};

use homing::{Communicator, Value};

use crate::args::Global;
use crate::connection::{close, connect, while_sending};
use crate::failure::Failure;
use crate::progress::{Progress, Stage, bounded};
use crate::stop::Stop;
use crate::{values, warning};

/// How long a connection may take to close after the work is done.
const CLOSING: Duration = Duration::from_secs(5);

pub(crate) async fn run(
    recipient: String,
    body: Option<String>,
    timeout: Option<Duration>,
    global: &Global,
    stop: Stop,
) -> Result<(), Failure> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let progress = Progress::default();
    let work = async {
        let body = values::read_body(body.as_deref()).await?;
        progress.at(Stage::Connecting);
        let communicator = connect(global).await?;
        progress.at(Stage::Sending);
        let mut call = communicator.rpc_send(recipient, body);
        if let Some(timeout) = timeout {
            call = call.timeout(timeout);
        }
        let reply = while_sending(&communicator, call.send()).await?;
        progress.at(Stage::Sent);
        Ok((communicator, reply.await?))
    };
    let (communicator, answer): (Communicator, Value) = bounded(timeout, stop.clone(), &progress, work).await?;
    values::print(&answer, global.output.format)?;
    finish(&communicator, deadline, stop).await;
    Ok(())
}

/// Closes the connection of a command whose work is done: what goes wrong now is no failure of the work.
pub(crate) async fn finish(communicator: &Communicator, deadline: Option<Instant>, mut stop: Stop) {
    let limit = deadline.map_or(CLOSING, |deadline| deadline.saturating_duration_since(Instant::now()).min(CLOSING));
    tokio::select! {
        closed = tokio::time::timeout(limit, close(communicator)) => match closed {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => warning!("done, but the connection did not close in order: {failure}"),
            Err(_) => warning!("done, but the connection did not close in time"),
        },
        _ = stop.wait() => {}
    }
}
