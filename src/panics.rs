//! Panics of users' code, caught where they are called.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls user code. A panic of it is an error with its text.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(text)
}

/// Drops what is the user's. A panic in that is logged with what it was, and costs nothing else.
pub(crate) fn drop_guarded<T>(value: T, what: &str) {
    if let Err(panic) = caught(|| drop(value)) {
        crate::log::error!(panic, "{what} panicked as it was dropped");
    }
}

/// The text of a panic, which is dropped. One that panics as it is dropped is left alone.
pub(crate) fn text(panic: Box<dyn Any + Send>) -> String {
    let text = crate::home::panic_text(&*panic).to_owned();
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        // Guards: a payload whose payload panics too, and so on.
        std::mem::forget(again);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::panic_any(Bomb);
        }
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_a_panic_like_another() {
        let bomb = catch_unwind(|| std::panic::panic_any(Bomb)).unwrap_err();
        assert_eq!(text(bomb), "(a panic without a text)");
        assert_eq!(caught(|| -> u8 { panic!("oh") }), Err("oh".to_owned()));
        assert_eq!(caught(|| 1), Ok(1));
    }
}
