//! Which home this is, and whether the code that asks is at home.

use super::sync::{self, ThreadId};

/// What makes a home this one and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A thread that turns its own inbox: a plain thread, our event loop, a foreign loop.
    Thread(ThreadId),
    /// A tokio runtime, whichever of its threads runs the task.
    #[cfg(not(homing_loom))]
    Runtime(tokio::runtime::Id),
    /// A home of a simulation.
    #[cfg(all(feature = "simulation", not(homing_loom)))]
    Simulated(u64),
    /// A modelled runtime, whichever of its threads runs the task.
    #[cfg(homing_loom)]
    Runtime(usize),
}

impl Identity {
    /// The thread that asks.
    pub(crate) fn of_this_thread() -> Self {
        Identity::Thread(sync::this_thread())
    }

    /// True when the caller is at this home: on its thread, or in the context of its runtime.
    pub(crate) fn is_here(self) -> bool {
        match self {
            Identity::Thread(thread) => thread == sync::this_thread(),
            #[cfg(not(homing_loom))]
            Identity::Runtime(id) => tokio::runtime::Handle::try_current().is_ok_and(|handle| handle.id() == id),
            #[cfg(all(feature = "simulation", not(homing_loom)))]
            Identity::Simulated(number) => super::simulated::is_here(number),
            #[cfg(homing_loom)]
            Identity::Runtime(id) => super::model::entered_runtime() == Some(id),
        }
    }
}
