//! Locks whose whole state lies in themselves.
//!
//! Guards: a child of a fork. Locks that keep who waits in a table of the process (parking_lot) have pointers in it to the memory of
//! the threads that wait. A child inherits the table without the threads, and its own threads are given their memory: two that wait
//! there then are in each other's list, and the child hangs or ends by a signal, although it touches nothing of its parent's. A
//! lock of the standard library is a number that the kernel knows (a futex), or lies in the lock.
//!
//! A panic under a lock leaves it usable, as each place that locks expects.

#[cfg(not(feature = "instrumented-locks"))]
mod standard {
    use std::sync::{MutexGuard, PoisonError, TryLockError};
    use std::time::Instant;

    /// A lock that a panic does not poison.
    #[derive(Debug, Default)]
    pub struct Mutex<T: ?Sized>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub const fn new(value: T) -> Self {
            Mutex(std::sync::Mutex::new(value))
        }
    }

    impl<T: ?Sized> Mutex<T> {
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// `None` while anybody has it, this thread too.
        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(guard)) => Some(guard.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }

        /// Whether anybody has it now, for tests.
        pub fn is_locked(&self) -> bool {
            self.try_lock().is_none()
        }

        pub fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// A condition variable for such a lock.
    #[derive(Debug, Default)]
    pub struct Condvar(std::sync::Condvar);

    impl Condvar {
        pub const fn new() -> Self {
            Condvar(std::sync::Condvar::new())
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        /// Waits for a notification, or until the deadline where there is one. It may end without either.
        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>, until: Option<Instant>) -> MutexGuard<'a, T> {
            match until {
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    self.0.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.0.wait(guard).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// The same on parking_lot, which is compiled with the program: the standard library comes compiled, and ThreadSanitizer does not
/// see what its locks order.
#[cfg(feature = "instrumented-locks")]
mod instrumented {
    pub use parking_lot::Mutex;
    use parking_lot::MutexGuard;
    use std::time::Instant;

    #[derive(Debug, Default)]
    pub struct Condvar(parking_lot::Condvar);

    impl Condvar {
        pub const fn new() -> Self {
            Condvar(parking_lot::Condvar::new())
        }

        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        pub fn wait<'a, T>(&self, mut guard: MutexGuard<'a, T>, until: Option<Instant>) -> MutexGuard<'a, T> {
            match until {
                Some(deadline) => drop(self.0.wait_until(&mut guard, deadline)),
                None => self.0.wait(&mut guard),
            }
            guard
        }
    }
}

#[cfg(feature = "instrumented-locks")]
pub use self::instrumented::{Condvar, Mutex};
#[cfg(not(feature = "instrumented-locks"))]
pub use self::standard::{Condvar, Mutex};
#[cfg(feature = "instrumented-locks")]
pub use parking_lot::MutexGuard;
#[cfg(not(feature = "instrumented-locks"))]
pub use std::sync::MutexGuard;

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::Mutex;

    #[test]
    fn a_panic_under_it_leaves_it_usable() {
        let mut lock = Mutex::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = lock.lock();
            panic!("under the lock");
        }));
        assert!(panicked.is_err());
        assert!(!lock.is_locked());
        *lock.lock() += 1;
        *lock.try_lock().expect("nobody has it") += 1;
        *lock.get_mut() += 1;
        assert_eq!(*lock.lock(), 4);
    }
}
