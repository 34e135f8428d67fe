//! The right to run steps: so many at once, in the order in which they are asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::home::lock::Mutex;
use tokio::sync::{Notify, oneshot};

/// The slots of one worker. Cheap to clone.
#[derive(Clone)]
pub(super) struct Slots(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified when one is free, and when none is any more, each without the lock: whom that wakes may come back.
    changed: Notify,
}

struct State {
    free: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// A slot that is not free any more.
#[derive(Clone, Copy)]
enum Taken {
    Last,
    OneOfMany,
}

/// A slot, until it is dropped.
pub(super) struct Slot(Option<Slots>);

impl Slots {
    pub(super) fn new(number: usize) -> Self {
        let state = State { free: number, waiting: VecDeque::new() };
        Slots(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// A slot, if one is free.
    pub(super) fn try_take(&self) -> Option<Slot> {
        let taken = self.0.state.lock().take()?;
        Some(self.taken(taken))
    }

    /// A slot, in turn.
    pub(super) async fn take(&self) -> Slot {
        loop {
            let receiver = {
                let mut state = self.0.state.lock();
                if let Some(taken) = state.take() {
                    drop(state);
                    return self.taken(taken);
                }
                let (sender, receiver) = oneshot::channel();
                // Those that gave up are taken out now and then, and not each time.
                if state.waiting.len() == state.waiting.capacity() {
                    state.waiting.retain(|sender| !sender.is_closed());
                }
                state.waiting.push_back(sender);
                receiver
            };
            if let Ok(slot) = receiver.await {
                return slot;
            }
        }
    }

    /// Resolves when a slot is free.
    pub(super) async fn until_free(&self) {
        self.until(true).await;
    }

    /// Resolves when none is free.
    pub(super) async fn until_busy(&self) {
        self.until(false).await;
    }

    async fn until(&self, free: bool) {
        loop {
            // Guards: a change between the look and the wait. From here on it is notified of.
            let changed = self.0.changed.notified();
            if (self.0.state.lock().free > 0) == free {
                return;
            }
            changed.await;
        }
    }

    fn taken(&self, taken: Taken) -> Slot {
        if let Taken::Last = taken {
            self.0.changed.notify_waiters();
        }
        Slot(Some(self.clone()))
    }

    fn give_back(self) {
        loop {
            let next = {
                let mut state = self.0.state.lock();
                // Guards: one who begins to wait. It is under this lock, so either it is found here or it finds the slot free.
                let Some(next) = state.waiting.pop_front() else {
                    state.free += 1;
                    break;
                };
                next
            };
            match next.send(Slot(Some(self.clone()))) {
                Ok(()) => return,
                // Guards: whoever gave up. Dropped, this slot would come back here, deeper each time.
                Err(mut slot) => drop(slot.0.take()),
            }
        }
        self.0.changed.notify_waiters();
    }
}

impl State {
    fn take(&mut self) -> Option<Taken> {
        self.free = self.free.checked_sub(1)?;
        Some(if self.free == 0 { Taken::Last } else { Taken::OneOfMany })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.give_back();
        }
    }
}

/// A waker that calls something.
#[cfg(test)]
pub(super) fn waker_that(call: impl Fn() + Send + Sync + 'static) -> std::task::Waker {
    struct Calls<F>(F);

    impl<F: Fn() + Send + Sync + 'static> std::task::Wake for Calls<F> {
        fn wake(self: Arc<Self>) {
            (self.0)();
        }
    }

    std::task::Waker::from(Arc::new(Calls(call)))
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use super::*;

    #[test]
    fn whom_a_slot_wakes_may_come_back() {
        let slots = Slots::new(1);
        let taken = slots.try_take().unwrap();
        let counted = Arc::new(AtomicUsize::new(0));
        let (back, count) = (slots.clone(), Arc::clone(&counted));
        // As the hook of a foreign loop may.
        let waker = waker_that(move || {
            drop(back.try_take());
            count.fetch_add(1, Ordering::SeqCst);
        });
        let mut context = Context::from_waker(&waker);
        let mut waits = Box::pin(slots.take());
        let mut free = Box::pin(slots.until_free());
        assert!(waits.as_mut().poll(&mut context).is_pending() && free.as_mut().poll(&mut context).is_pending());
        drop(taken);
        assert!(waits.as_mut().poll(&mut context).is_ready(), "the slot, which is dropped again");
        assert!(free.as_mut().poll(&mut context).is_ready());
        let mut busy = Box::pin(slots.until_busy());
        assert!(busy.as_mut().poll(&mut context).is_pending());
        let _taken = slots.try_take();
        assert!(busy.as_mut().poll(&mut context).is_ready());
        assert!(counted.load(Ordering::SeqCst) >= 3);
    }

    #[tokio::test]
    async fn slots_are_given_in_turn_and_those_that_gave_up_are_passed_over() {
        let slots = Slots::new(1);
        let first = slots.take().await;
        assert!(slots.try_take().is_none());
        let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(slots.take())).collect();
        for one in &mut waiting {
            assert!(futures_util::future::poll_immediate(one.as_mut()).await.is_none());
        }
        drop(waiting.remove(0));
        drop(first);
        // The second of them, not one of the others.
        let second = futures_util::future::poll_immediate(waiting[0].as_mut()).await.expect("it is its turn");
        assert!(futures_util::future::poll_immediate(waiting[1].as_mut()).await.is_none());
        // One that has its slot and never looked.
        drop(second);
        drop(waiting);
        assert!(slots.try_take().is_some());
        slots.until_free().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_slot_is_lost_and_none_is_given_twice() {
        let (slots, taken) = (Slots::new(3), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                let (slots, taken) = (slots.clone(), Arc::clone(&taken));
                tokio::spawn(async move {
                    for round in 0..500 {
                        let limit = std::time::Duration::from_micros((number * 7 + round) % 40);
                        if let Ok(_slot) = tokio::time::timeout(limit, slots.take()).await {
                            assert!(taken.fetch_add(1, Ordering::SeqCst) < 3);
                            tokio::task::yield_now().await;
                            taken.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let all: Vec<_> = (0..3).map(|_| slots.try_take().expect("it is free")).collect();
        slots.until_busy().await;
        assert!(slots.try_take().is_none());
        drop(all);
        slots.until_free().await;
    }
}
