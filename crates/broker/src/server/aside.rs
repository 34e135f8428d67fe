//! Work that may take its time, beside the server's thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::spawn_blocking;

/// Does the work on another thread; on this one where the system gives none. `None` when it panicked.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    // Guards: tokio, which panics without a thread, and drops with the work whatever that has.
    let kept = Arc::new(Mutex::new(Some(work)));
    let take = |kept: &Mutex<Option<_>>| kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let theirs = Arc::clone(&kept);
    let started = catch_unwind(|| spawn_blocking(move || take(&theirs).map(|work| work())));
    match started {
        Ok(done) => done.await.ok().flatten(),
        Err(_) => {
            tracing::warn!("the system gives no thread; what would have been done on one keeps the server waiting");
            let work = take(&kept)?;
            catch_unwind(AssertUnwindSafe(work)).ok()
        }
    }
}
