//! `homing process`: controls long-running processes, plumpy's, AiiDA's and homing's.

mod control;
pub(crate) mod follow;
mod many;
pub(crate) mod queued;
mod repair;
pub(crate) mod shell;
mod stored;
mod task;
mod watch;

use crate::args::{Global, Process};
use crate::failure::Failure;
use crate::stop::{Stop, or_interrupted};

pub(crate) use many::{pid_as_json, typed};
pub(crate) use stored::{holder, in_words, record_facts, shown_time};

pub(crate) async fn run(command: Process, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Process::Status { .. } | Process::Pause { .. } | Process::Play { .. } | Process::Kill { .. } => {
            control::run(command, global, stop).await
        }
        Process::Watch { pids, count } => watch::run(pids, count.map(u64::from), global, stop).await,
        Process::Launch { .. } => task::launch(command, global, stop).await,
        Process::Continue { .. } => task::continue_all(command, global, stop).await,
        Process::List { .. } => or_interrupted(stop, stored::list(command, global)).await,
        Process::Show { pid, store } => or_interrupted(stop, stored::show(&pid, store.file.as_deref(), global)).await,
        Process::Report(report) => stored::report(report, global, stop).await,
        Process::Repair { dry_run, store } => repair::run(dry_run, store.file.as_deref(), global, stop).await,
    }
}
