//! `homing process`: controls long-running processes, plumpy's, AiiDA's and homing's.

mod control;
mod many;
mod task;
mod watch;

use crate::args::{Global, Process};
use crate::failure::Failure;
use crate::stop::Stop;

pub(crate) async fn run(command: Process, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Process::Status { .. } | Process::Pause { .. } | Process::Play { .. } | Process::Kill { .. } => {
            control::run(command, global, stop).await
        }
        Process::Watch { pids, count } => watch::run(pids, count.map(u64::from), global, stop).await,
        Process::Launch { .. } => task::launch(command, global, stop).await,
        Process::Continue { .. } => task::continue_all(command, global, stop).await,
    }
}
