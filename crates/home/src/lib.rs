//! Homes: who owns a future, and how its completion gets there.
//!
//! A future has exactly one home, fixed when it is made: a tokio runtime, an [event loop](EventLoop) of our own, a
//! [foreign loop](ForeignLoop), or a [thread](LocalHome). Away from the home there is only its [`Completer`], which can do nothing but put an envelope into
//! the home's inbox. The home takes it out, writes the outcome, wakes the waiter; values that nobody takes are dropped
//! there too. So code that completes a future on the wrong thread does not compile.
//!
//! One completion: [`Completer::complete`] puts the outcome into the parcel of the cell and posts the cell to the
//! inbox; the inbox rings; the home ([`LocalHome::turn`], or the drain task of a runtime) takes the
//! envelope out and lands it.
//!
//! It knows no broker, codec or tokio reactor. Its locks and flags come through `sync`, so that loom runs the code that ships
//! (`loom-tests`). What is open on a home is bounded ([`Home::set_capacity`]); who waits for a permit is served in order, and
//! somebody else's clock can end that wait ([`Home::reserve`]).
//!
//! # Panics of user code
//! A callback, a task, a waker, the drop of a value: each that panics is logged and ends itself alone. In a program that is built
//! with `panic = "abort"` there is nothing to catch, and each of these panics ends the process, as any other does. There, too, a wait
//! on a `LocalSet` within `block_on` of a multi-thread runtime ends the process, since tokio refuses it by a panic; elsewhere it
//! is [`WaitRefused::WouldDeadlock`].
//!
//! # How the files stand on each other
//! `lock`, `outcome` and `panics` know nothing, and `fork` and `sync` stand on `lock`; `permits`, `envelope`, `inbox`, `cell`, `completer`, `future`, `reserve`, `drain`,
//! `wait` and `local` stand on those before them; `runtime`, `handle`, `event_loop`, `foreign` and `futures` make homes of
//! them. Two circles stay: `local` enters itself as the current home, which `current` then finds; and the modelled build has
//! `identity` and `panics` ask `model`, which makes the homes.

mod audit;
mod by_process;
mod cell;
mod completer;
mod current;
mod drain;
mod envelope;
mod event_loop;
mod foreign;
#[doc(hidden)]
pub mod fork;
mod future;
pub mod futures;
mod identity;
mod inbox;
mod local;
mod local_future;
#[doc(hidden)]
pub mod lock;
mod outcome;
mod panics;
mod permits;
mod reserve;
mod runtime;
#[cfg(all(feature = "simulation", not(homing_loom)))]
#[doc(hidden)]
pub mod simulated;
mod spawn;
mod stack;
mod sync;
mod wait;

mod handle;
#[cfg(homing_loom)]
pub mod model;
#[cfg(test)]
#[cfg(not(homing_loom))]
mod tests;

pub use audit::Audit;
#[cfg(all(feature = "audit", not(homing_loom)))]
pub use audit::audit;
#[cfg(all(feature = "audit", not(homing_loom)))]
#[doc(hidden)]
pub use audit::{OffHome, do_without_audit, seed_off_home};
#[doc(hidden)]
pub use by_process::ByProcess;
pub use completer::{Completer, HandedBack};
pub use current::thread_future;
pub use event_loop::{EventLoop, EventLoopHandle};
pub use foreign::ForeignLoop;
pub use future::{Deadline, HomeFuture};
pub use handle::{Home, Occupancy};
// What may change is not part of the interface; the tests need it.
#[doc(hidden)]
pub use inbox::DEFAULT_CAPACITY;
pub use local::LocalHome;
pub use local_future::LocalFuture;
pub use outcome::{End, Outcome, ReserveError};
pub use reserve::{Expirer, Reservation};
pub use spawn::SpawnError;
pub use wait::WaitRefused;
#[doc(hidden)]
pub use wait::{EVENT_LOOP_STACK, MAX_DEPTH, MAX_STACK, MAX_WAITING_WORKERS};

#[doc(hidden)]
pub use panics::{bury, caught, panic_text};
#[cfg(not(homing_loom))]
#[doc(hidden)]
pub use wait::{Allowed, allow};
