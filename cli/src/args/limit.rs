//! What some commands have in common: a time limit as a whole, and a management API.

use std::time::Duration;

use super::{Broadcast, Command, Process, Rpc, Task};

impl Command {
    /// The time limit of the whole command, where one was given. (Workers and servers have one for each piece of work.)
    pub(crate) fn time_limit(&mut self) -> Option<&mut Duration> {
        let limit = match self {
            Command::Rpc(Rpc::Call { timeout, .. }) | Command::Broadcast(Broadcast::Send { timeout, .. }) => timeout,
            Command::Task(Task::Send(send)) => &mut send.timeout,
            Command::Task(Task::Purge(mend) | Task::Requeue(mend) | Task::Move { mend, .. }) => &mut mend.timeout,
            Command::Process(
                Process::Status { timeout, .. } | Process::Launch { timeout, .. } | Process::Continue { timeout, .. },
            ) => timeout,
            Command::Process(
                Process::Pause { targets, .. } | Process::Play { targets } | Process::Kill { targets, .. },
            ) => &mut targets.timeout,
            Command::Workers(workers) => &mut workers.options_mut().timeout,
            _ => return None,
        };
        limit.as_mut()
    }

    /// Whether it works without the broker of `--broker`: on the store alone, or on a broker of homing's own in a directory.
    pub(crate) fn needs_no_broker(&self) -> bool {
        matches!(self, Command::Broker(_))
            || matches!(self, Command::Process(Process::List { .. } | Process::Show { .. } | Process::Report(_)))
    }

    /// The management API, where one was given.
    pub(crate) fn management(&self) -> Option<&str> {
        match self {
            Command::Rpc(Rpc::List { management, .. }) => management.as_deref(),
            Command::Rpc(Rpc::Serve(serve)) => serve.management.as_deref(),
            Command::Task(Task::List(list)) => list.management.as_deref(),
            Command::Top(top) => top.management.as_deref(),
            Command::Doctor(doctor) => doctor.management.as_deref(),
            _ => None,
        }
    }
}
