//! Where something runs: an asyncio loop or a thread of Python's, as a home.

use homing::home::Home;
use pyo3::prelude::*;

use crate::handler::Invocation;
use crate::kiwi::Delivery;
use crate::life::Process;
use crate::loops::{self, LoopId};
use crate::threads::{self, Work};

/// A loop or a thread of Python's as a home. A handle, good on any thread.
#[pyclass(frozen, from_py_object)]
#[derive(Clone)]
pub(crate) struct Place {
    home: Home,
    kind: Kind,
    process: Process,
}

#[derive(Clone, Copy)]
enum Kind {
    Loop(LoopId),
    Thread,
}

impl Place {
    pub(crate) fn of_loop(home: Home, id: LoopId) -> Self {
        Place { home, kind: Kind::Loop(id), process: Process::current() }
    }

    pub(crate) fn of_thread(home: Home) -> Self {
        Place { home, kind: Kind::Thread, process: Process::current() }
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The loop that this is, if it is one.
    pub(crate) fn loop_id(&self) -> Option<LoopId> {
        match self.kind {
            Kind::Loop(id) => Some(id),
            Kind::Thread => None,
        }
    }

    /// True in a child of a fork, in which it is not served.
    pub(crate) fn is_inherited(&self) -> bool {
        self.process.is_inherited()
    }

    /// Has a subscriber called here, soon and from outside of the home's turn. Called on the home's own thread.
    pub(crate) fn invoke(&self, invocation: Invocation) {
        match self.kind {
            // Attached: a loop turns its home from a callback of the loop.
            Kind::Loop(id) => Python::attach(|py| loops::invoke(py, id, invocation)),
            Kind::Thread => threads::push(Work::Invoke(Box::new(invocation))),
        }
    }

    /// Hands a stage of a reply over. Called on the home's own thread. On a loop it is a future of the loop that gets it, which runs
    /// no code of a user's yet.
    pub(crate) fn deliver(&self, delivery: Delivery) {
        match self.kind {
            // Attached: a loop turns its home from a callback of the loop.
            Kind::Loop(_) => Python::attach(|py| delivery.deliver(py)),
            Kind::Thread => threads::push(Work::Deliver(Box::new(delivery))),
        }
    }

    /// Runs something that may complete futures of this home, and turns the home at once where this is its thread.
    pub(crate) fn covered<T>(&self, run: impl FnOnce() -> T) -> T {
        match self.kind {
            Kind::Loop(id) => loops::covered(id, run),
            Kind::Thread => run(),
        }
    }
}

#[pymethods]
impl Place {
    fn __repr__(&self) -> &'static str {
        match self.kind {
            Kind::Loop(_) => "<homing home of an asyncio loop>",
            Kind::Thread => "<homing home of a thread>",
        }
    }
}
