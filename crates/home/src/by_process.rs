//! State of a process: a child of a fork begins with its own, and never touches its parent's.
//!
//! A lock that another thread of the parent held at the fork stays locked in the child, where that thread is not. So what is locked
//! has to be another value in each process, and so does the way to it, which locks nothing.

use once_cell::race::OnceBox;

/// One value for each process, made when it is first asked for. For statics.
#[doc(hidden)]
#[derive(Debug)]
pub struct ByProcess<T>(OnceBox<Node<T>>);

#[derive(Debug)]
struct Node<T> {
    process: u32,
    value: T,
    /// That of a child of this process.
    next: ByProcess<T>,
}

impl<T> ByProcess<T> {
    /// Without a value yet.
    #[must_use]
    pub const fn new() -> Self {
        ByProcess(OnceBox::new())
    }
}

impl<T> Default for ByProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default> ByProcess<T> {
    /// The value of this process. Never waits for another thread.
    pub fn here(&self) -> &T {
        let process = std::process::id();
        let mut at = self;
        loop {
            let node = at.0.get_or_init(|| Box::new(Node { process, value: T::default(), next: Self::new() }));
            if node.process == process {
                return &node.value;
            }
            // One of a process that this one descends from.
            at = &node.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::ByProcess;

    #[test]
    fn threads_that_ask_at_once_get_the_same_value() {
        for _ in 0..100 {
            let (of_process, together) = (ByProcess::<AtomicUsize>::new(), Barrier::new(4));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        together.wait();
                        of_process.here().fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
            assert_eq!(of_process.here().load(Ordering::Relaxed), 4);
        }
    }
}
