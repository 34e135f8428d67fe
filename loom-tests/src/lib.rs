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
//! What they cannot see: `std::sync::Arc` and tokio's semaphore are not loom's, so that no schedule is explored for the
//! sake of a reference count or of a place alone. That a sender keeps no reference to a cell is shown by the types: the
//! cell moves into the inbox. And loom has no timed waits, so a deadline is an envelope from a modelled timer's thread.
//!
//! `mutations` holds the patches that break the guarded lines one by one, and `mutations/run` shows that each is caught.

#[cfg(homing_loom)]
mod kit;
#[cfg(homing_loom)]
pub use kit::*;
