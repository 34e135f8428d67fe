//! The right to run steps: so many at once, in the order in which they are asked for.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

/// The slots of one worker. Cheap to clone.
#[derive(Clone)]
pub(super) struct Slots(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Whether one is free. Sent under the lock, so that the last word is the true one.
    free: watch::Sender<bool>,
}

struct State {
    free: usize,
    waiting: VecDeque<oneshot::Sender<Slot>>,
}

/// A slot, until it is dropped.
pub(super) struct Slot(Option<Slots>);

impl Slots {
    pub(super) fn new(number: usize) -> Self {
        let state = State { free: number, waiting: VecDeque::new() };
        Slots(Arc::new(Shared { state: Mutex::new(state), free: watch::Sender::new(number > 0) }))
    }

    /// A slot, if one is free.
    pub(super) fn try_take(&self) -> Option<Slot> {
        let mut state = self.0.state.lock();
        if state.free == 0 {
            return None;
        }
        state.free -= 1;
        self.0.free.send_replace(state.free > 0);
        Some(Slot(Some(self.clone())))
    }

    /// A slot, in turn.
    pub(super) async fn take(&self) -> Slot {
        loop {
            let receiver = {
                let mut state = self.0.state.lock();
                if state.free > 0 {
                    state.free -= 1;
                    self.0.free.send_replace(state.free > 0);
                    return Slot(Some(self.clone()));
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
        // The sender is there as long as this is.
        let _ = self.0.free.subscribe().wait_for(|is_free| *is_free == free).await;
    }

    fn give_back(self) {
        let mut state = self.0.state.lock();
        while let Some(next) = state.waiting.pop_front() {
            match next.send(Slot(Some(self.clone()))) {
                Ok(()) => return,
                // Guards: whoever gave up. Dropped, this slot would come back here, with the lock held.
                Err(mut slot) => drop(slot.0.take()),
            }
        }
        state.free += 1;
        self.0.free.send_replace(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.0.take() {
            slots.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

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
