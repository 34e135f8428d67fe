//! The native half of the Python package `homing`, as `homing._native`.
//!
//! What a user sees is Python (`python/homing`); here is what needs Rust: an operation that is awaited on an asyncio loop or
//! waited for on a thread ([`call`]), loops and threads as homes ([`loops`], [`threads`]), subscribers ([`handler`]), and values
//! ([`values`]).
//!
//! One rule stands above all: no thread of homing's own attaches to the interpreter. A completion travels to its home as an
//! envelope; only the home's own thread, which is one of Python's, touches a Python object. docs/python-binding.md has the
//! whole design.

mod arguments;
mod call;
mod coders;
mod communicator;
mod errors;
mod handler;
mod kiwi;
mod life;
mod logs;
mod loops;
mod messages;
mod options;
mod place;
mod settle;
mod still;
mod streams;
mod threads;
mod values;

/// The module `homing._native`. A free-threaded interpreter turns its lock on for it: nobody has tested it without.
#[pyo3::pymodule(name = "_native", gil_used = true)]
mod native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::call::Call;
    #[pymodule_export]
    use crate::communicator::{Core, connect};
    #[pymodule_export]
    use crate::kiwi::{deliver_rpc, deliver_task, wait_future};
    #[pymodule_export]
    use crate::life::{begin_end, end_waiters, forked, forks, has_forked};
    #[pymodule_export]
    use crate::loops::{here, wakes};
    #[pymodule_export]
    use crate::messages::{Broadcast, IncomingTask, RpcRequest, TaskRequest, restored_broadcast};
    #[pymodule_export]
    use crate::options::Filter;
    #[pymodule_export]
    use crate::place::Place;
    #[pymodule_export]
    use crate::streams::{BroadcastStream, EventStream};
    #[pymodule_export]
    use crate::threads::Server;
    #[pymodule_export]
    use crate::values::{from_yaml, to_yaml};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::life::refuse_subinterpreters(module.py())?;
        crate::logs::begin();
        Ok(())
    }
}
