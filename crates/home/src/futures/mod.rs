//! What one does with futures beside awaiting them: done-callbacks, chains, copies, nested futures, gathering, actions that
//! can be cancelled before they run, errors and panics caught into a future. The words are kiwipy's and plumpy's; each works
//! on any mix of homes, and what it calls, wakes or drops is called, woken or dropped at the home that it belongs to.
//!
//! | kiwipy, plumpy | here |
//! |---|---|
//! | `future.add_done_callback(f)` | [`HomeFuture::on_done`](super::HomeFuture::on_done), [`LocalFuture::on_done`](super::LocalFuture::on_done) |
//! | `chain(source, target)` | [`HomeFuture::chain`](super::HomeFuture::chain), [`LocalFuture::chain`](super::LocalFuture::chain) |
//! | `copy_future(source, target)` | [`copy`] |
//! | `unwrap_kiwi_future(future)` | [`flatten`], and `homing::Answer::outcome` for answers |
//! | `gather(*futures)` | [`gather`] |
//! | `as_completed(futures)` | [`as_completed`] |
//! | `CancellableAction(f)` | [`CancellableAction`] |
//! | `capture_exceptions(future)` | [`capture`], and `homing::Promise::capture` for answers |
//! | `LoopCommunicator` | `homing::Communicator::bound_to` |

mod action;
mod capture;
mod done;
mod gather;
mod nested;

pub use action::{CancellableAction, Ran};
pub use capture::{Captured, capture};
pub use done::copy;
pub use gather::{AsCompleted, as_completed, gather};
pub use nested::{Nested, flatten};
