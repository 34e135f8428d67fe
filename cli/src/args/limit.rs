//! Which commands have a time limit as a whole.

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
            _ => return None,
        };
        limit.as_mut()
    }
}
