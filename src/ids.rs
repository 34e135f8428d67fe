//! Identifiers and random numbers: the one place where they are drawn, so that a simulation can decide them.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

/// A new random identifier.
pub(crate) fn unique() -> Uuid {
    #[cfg(test)]
    if let Some(bits) = source::next().zip(source::next()) {
        let bits = u128::from(bits.0) << 64 | u128::from(bits.1);
        return uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid();
    }
    drawn()
}

/// Drawn by a generator of this thread, or, where that has been dropped with the thread's values, from the system's keys.
///
/// Guards: a call in the destructor of a thread-local value, where a panic aborts the process.
fn drawn() -> Uuid {
    // Made after the generator, and so dropped before it: while it is there, the generator is.
    GENERATOR.try_with(|_| Uuid::new_v4()).unwrap_or_else(|_| {
        let key = || RandomState::new().hash_one(NUMBER.fetch_add(1, Ordering::Relaxed));
        uuid::Builder::from_random_bytes((u128::from(key()) << 64 | u128::from(key())).to_be_bytes()).into_uuid()
    })
}

/// Counts what is drawn without a generator.
static NUMBER: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static GENERATOR: Generator = {
        // Errors are those of a thread that had its generator dropped before it drew anything here.
        let _ = crate::panics::caught(Uuid::new_v4);
        Generator
    };
}

/// Goes with its thread.
struct Generator;

impl Drop for Generator {
    fn drop(&mut self) {}
}

/// As a message carries an identifier: with hyphens. Without the machinery of formatting, for every message has two.
pub(crate) fn text(id: Uuid) -> Arc<str> {
    Arc::from(&*id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
}

/// The same without hyphens.
pub(crate) fn digits(id: Uuid) -> Arc<str> {
    Arc::from(&*id.simple().encode_lower(&mut Uuid::encode_buffer()))
}

/// A random number from 0 up to, and not including, 1; for the jitter of pauses.
pub(crate) fn fraction() -> f64 {
    #[cfg(test)]
    if let Some(bits) = source::next() {
        return f64::from((bits >> 32) as u32) / (f64::from(u32::MAX) + 1.0);
    }
    // The bits that a version 4 UUID fixes are not among the first 32.
    let (high, _) = drawn().as_u64_pair();
    f64::from((high >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

/// The source of a simulation on this thread.
#[cfg(test)]
pub(crate) mod source {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Until it is called with `None`, this thread's identifiers and draws follow from `seed`.
    pub(crate) fn set(seed: Option<u64>) {
        STATE.set(seed);
    }

    /// The next 64 bits (SplitMix64).
    pub(super) fn next() -> Option<u64> {
        // A thread that ends has no source any more.
        let state = STATE.try_with(Cell::get).ok().flatten()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(Some(state));
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(bits ^ (bits >> 31))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destructor_of_a_thread_local_value_can_draw() {
        struct AtTheEnd(std::sync::mpsc::Sender<(Uuid, Uuid)>);
        impl Drop for AtTheEnd {
            fn drop(&mut self) {
                self.0.send((unique(), unique())).unwrap();
            }
        }
        thread_local! {
            static KEPT: std::cell::RefCell<Option<AtTheEnd>> = const { std::cell::RefCell::new(None) };
        }
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            KEPT.with_borrow_mut(|kept| assert!(kept.is_none()));
            unique();
            KEPT.set(Some(AtTheEnd(tell)));
        });
        thread.join().unwrap();
        let (one, other) = told.recv().unwrap();
        assert_ne!(one, other);
    }

    #[test]
    fn a_seeded_source_repeats_itself_and_an_unseeded_one_does_not() {
        let draw = || (unique(), unique(), fraction());
        source::set(Some(7));
        let first = draw();
        source::set(Some(7));
        let second = draw();
        source::set(None);
        assert_eq!(first, second);
        assert_ne!(first.0, first.1);
        assert_ne!(draw().0, draw().0);
        assert!((0.0..1.0).contains(&first.2) && (0.0..1.0).contains(&fraction()));
    }
}
