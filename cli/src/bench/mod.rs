//! `homing bench`: how fast calls, tasks and broadcasts are over a user's own broker, and what limits them.
//!
//! The caller and the subscribers are two communicators of this process, with names of their own that go with them, so that
//! nothing of the user's is touched. What limits a piece of work is looked for where it can be seen from here: in the CPU time
//! of this program's threads, and in the network's round trip.

mod limit;
mod table;
mod work;

use std::time::Duration;

use homing::{RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, TestingMode};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Bench, Global};
use crate::connection::{builder, close};
use crate::failure::Failure;
use crate::stop::{Stop, or_interrupted};
use crate::{DEFAULT_BROKER, not_given};
use limit::Network;
use work::{Ends, WORKS};

/// How long one answer may take. A broker that is slower than that is not slow but stuck.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(options: Bench, global: &Global, stop: Stop) -> Result<(), Failure> {
    if global.names.any() {
        return Err(Failure::Usage(
            "bench uses names of its own, which go with it, and takes no --prefix, exchange or queue".to_owned(),
        ));
    }
    or_interrupted(stop, measure(options, global)).await
}

async fn measure(options: Bench, global: &Global) -> Result<(), Failure> {
    let name = format!("homing-bench-{:016x}", fastrand::u64(..));
    let given = global.broker.broker.as_deref().unwrap_or(DEFAULT_BROKER);
    // Two communicators that meet in this process need a name.
    let url = if given == "memory:" { format!("memory:{name}") } else { given.to_owned() };
    let connect = || {
        let mut builder = builder(global, &url).prefix(&name).testing(TestingMode::Yes);
        builder = builder.call_timeout(PATIENCE).task_timeout(PATIENCE);
        builder.reconnect(global.broker.reconnect.unwrap_or(homing::ReconnectPolicy::Never)).connect()
    };
    let (caller, server) = (connect().await?, connect().await?);
    not_given::note(&global.broker);
    server.add_rpc_subscriber("bench", RpcSubscriber::closure(RpcRequest::into_body)).await?;
    server.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await?;
    let network = Network::measure(&url).await;
    let ends = Ends { caller, name };

    let bar = ProgressBar::new(WORKS.len() as u64 * 100);
    let style = ProgressStyle::with_template("{wide_bar} {msg:<28} {percent:>3}%");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut rows = Vec::new();
    for (at, work) in WORKS.iter().enumerate() {
        bar.set_message(work.name());
        let progress = |part: f64| {
            // Of a hundred a work.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
            bar.set_position(at as u64 * 100 + (part.clamp(0.0, 1.0) * 100.0) as u64);
        };
        rows.push(work.measure(&ends, options.seconds, &network, progress).await?);
    }
    bar.finish_and_clear();
    table::print(&rows, global.output.format, &network)?;
    let (one, other) = (close(&ends.caller).await, close(&server).await);
    one.and(other)
}
