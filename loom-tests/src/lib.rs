//! What the loom models of homing's floor `home` share. The models are in `tests`, each named after the race that it looks
//! for; they run the code that ships, through its facade `home::sync`. Without `--cfg homing_loom` all of it is empty.
//!
//! Run them with `RUSTFLAGS="--cfg homing_loom" CARGO_TARGET_DIR=target/loom cargo test -p loom-tests --release`. They
//! explore every schedule with at most 2 preemptions; `LOOM_MAX_PREEMPTIONS=3` goes deeper.
//!
//! What makes a model fail:
//! - a **lost wake**: a home sleeps and nobody will ring it. loom reports a deadlock;
//! - an **event off home**: `home::audit` asserts, under loom, that every write, wake and drop is at home;
//! - a value that is not dropped **exactly once**, or away from home: every value is a `Token` of a `Ledger`;
//! - an **outcome that may not be**, or one that may be and is never seen: the model does not look where it says it does.
//!
//! What stays outside, and why:
//! - **Reference counts**: `std::sync::Arc` and `Weak` are not loom's, so that no schedule is explored for their sake. That a
//!   sender keeps no reference to a cell is shown by the types: the cell moves into the inbox.
//! - **Timed sleeps**: neither engine has them. A deadline is an envelope from a modelled timer's thread.
//! - **tokio**: its scheduler is not loom's. A modelled runtime is a drain task and the threads that poll it; `Home::current`,
//!   `Home::spawn` onto a runtime, `block_in_place` and the count of workers that wait are tested on the real one
//!   (`crates/home/tests`), as is the start of a drain task. The registry is the shipped one with another way to start a task.
//! - **The home of a plain thread** that is found in thread-local storage: the models make theirs.
//! - **`as_completed`**, which is futures-util's `FuturesUnordered` over the same futures as `gather`.
//! - **The stack's bounds**, which concern one thread.
//!
//! `mutations` holds the patches that break the guarded lines one by one, and `mutations/run` shows that each is caught.

#[cfg(homing_loom)]
mod kit;
#[cfg(homing_loom)]
pub use kit::*;
