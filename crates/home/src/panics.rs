//! User code that panics, and what becomes of its panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs user code so that its panic ends it alone, and not the home.
pub(crate) fn guarded(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        report(panic, "user code panicked on its home");
    }
}

/// Logs a panic that was caught, and drops it.
pub(crate) fn report(panic: Box<dyn Any + Send>, what: &str) {
    #[cfg(homing_loom)]
    let panic = super::model::on_purpose(panic);
    // Guards: a log that panics, or that uses thread-local state of a thread that ends.
    let logged = catch_unwind(AssertUnwindSafe(|| tracing::error!(panic = panic_text(&*panic), "{what}")));
    bury(panic);
    if let Err(another) = logged {
        bury(another);
    }
}

/// Drops what a panic carried. It is user code, too.
#[doc(hidden)]
pub fn bury(panic: Box<dyn Any + Send>) {
    // Guards: a payload that panics when it is dropped. What that panic carries is not dropped at all, for it might do the same.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
}

/// Runs user code and catches its panic as a string.
///
/// # Errors
/// The text of the panic.
#[doc(hidden)]
pub fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic_text(&*panic).to_owned();
        bury(panic);
        text
    })
}

/// The text of a panic, where it has one. For libraries that catch the panics of their users.
#[doc(hidden)]
#[must_use]
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "(a panic without a text)"
    }
}
