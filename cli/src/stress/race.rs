//! A data race on purpose, for ThreadSanitizer to find: compiled in with the feature `seeded-race` only, and only where
//! `--seed-fault race` asks for it. Without the feature there is nothing here.

#[cfg(feature = "seeded-race")]
mod seeded {
    use std::cell::UnsafeCell;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A counter that nothing guards.
    struct Unguarded(UnsafeCell<u64>);

    // SAFETY: there is none. Threads that share it race, which is what it is for; the value is a number that nobody reads
    // for anything else.
    #[expect(unsafe_code, reason = "a race for ThreadSanitizer to find cannot be written without")]
    unsafe impl Sync for Unguarded {}

    static COUNTER: Unguarded = Unguarded(UnsafeCell::new(0));
    static ASKED_FOR: AtomicBool = AtomicBool::new(false);

    pub(crate) fn ask_for() {
        ASKED_FOR.store(true, Ordering::Relaxed);
    }

    /// Called by producers as they complete and by homes as they see outcomes.
    pub(crate) fn touch() {
        if ASKED_FOR.load(Ordering::Relaxed) {
            // SAFETY: there is none, see above. The pointer is to a static and aligned; the race is the purpose.
            #[expect(unsafe_code, reason = "a race for ThreadSanitizer to find cannot be written without")]
            unsafe {
                *COUNTER.0.get() += 1;
            }
        }
    }
}

#[cfg(feature = "seeded-race")]
pub(crate) use seeded::{ask_for, touch};

#[cfg(not(feature = "seeded-race"))]
#[inline(always)]
pub(crate) fn touch() {}
