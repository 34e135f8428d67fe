//! A mailbox: what the library's threads leave for one receiver at a home, up to a limit; then the oldest goes.
//!
//! The receiver waits on a future of its home, so that only its home runs its waker.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use super::ExpireOnDrop;
use crate::home::{Completer, End, Home, ReserveError};

/// The side that items are put into, and taken out of.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    capacity: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    /// How many were dropped since the last that was received.
    missed: u64,
    closed: bool,
    waiter: Option<Waiter>,
}

/// How a receiver that waits is woken at its home.
#[derive(Debug)]
enum Waiter {
    Rings(Completer<()>),
    /// Its home is full: it waits for a place, which ends as this is dropped.
    Full(#[expect(dead_code, reason = "its drop is what it is for")] ExpireOnDrop),
}

/// What a receiver finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received<T> {
    Item(T),
    /// So many were dropped, since the receiver did not keep up.
    Missed(u64),
}

impl<T> Mailbox<T> {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let state = State { items: VecDeque::new(), missed: 0, closed: false, waiter: None };
        Arc::new(Mailbox { capacity, state: Mutex::new(state) })
    }

    /// Puts an item in. The oldest is dropped when the mailbox is full. After the close nothing is taken. Returns how many were
    /// dropped since the receiver last took one, if this dropped one; else 0.
    pub(crate) fn put(&self, item: T) -> u64 {
        let mut state = self.state.lock();
        if state.closed {
            return 0;
        }
        let (oldest, missed) = if state.items.len() == self.capacity {
            state.missed += 1;
            (state.items.pop_front(), state.missed)
        } else {
            (None, 0)
        };
        state.items.push_back(item);
        let waiter = state.waiter.take();
        drop(state);
        // Neither under the lock: one may be a user's value, the other rings a home.
        drop(oldest);
        notify(waiter);
        missed
    }

    /// Nothing more comes. What is there is still received.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiter = state.waiter.take();
        drop(state);
        notify(waiter);
    }

    /// The next item, if it is there; `Some(None)` at the end.
    fn poll(&self, waiter: &mut Option<Waiter>) -> Option<Option<Received<T>>> {
        let mut state = self.state.lock();
        if state.missed > 0 {
            return Some(Some(Received::Missed(std::mem::take(&mut state.missed))));
        }
        if let Some(item) = state.items.pop_front() {
            return Some(Some(Received::Item(item)));
        }
        if state.closed {
            return Some(None);
        }
        if waiter.is_some() {
            // Guards: an item that comes between the check and the wait. Both are under this lock.
            std::mem::swap(&mut state.waiter, waiter);
        }
        None
    }

    /// Waits for the next item; `None` when the mailbox is closed and empty, or its home has ended. For one receiver.
    ///
    /// # Cancel safety
    /// No item is lost when it is dropped.
    pub(crate) async fn receive(&self) -> Option<Received<T>> {
        loop {
            if let Some(received) = self.poll(&mut None) {
                return received;
            }
            let home = Home::current();
            let (completer, rings) = match home.try_future() {
                Ok(pair) => pair,
                // The home is full. What comes meanwhile ends the wait for a place.
                Err(ReserveError::Full) => {
                    let (reservation, expirer) = home.reserve();
                    let mut waiter = Some(Waiter::Full(ExpireOnDrop::new(expirer)));
                    if let Some(received) = self.poll(&mut waiter) {
                        return received;
                    }
                    drop(waiter);
                    match reservation.await {
                        Ok(pair) => pair,
                        Err(ReserveError::TimedOut | ReserveError::WrongHome) => continue,
                        Err(_) => return None,
                    }
                }
                Err(_) => return None,
            };
            let mut waiter = Some(Waiter::Rings(completer));
            if let Some(received) = self.poll(&mut waiter) {
                return received;
            }
            drop(waiter);
            match rings.await {
                // Polled at another home than before: it waits there.
                Ok(()) | Err(End::WrongHome) => {}
                Err(_) => return None,
            }
        }
    }
}

type Receiving<T> = Pin<Box<dyn Future<Output = Option<Received<T>>> + Send>>;

/// The receiving side of a mailbox as a stream.
pub(crate) struct MailboxStream<T> {
    mailbox: Arc<Mailbox<T>>,
    /// The wait for the next item, while there is one.
    waits: Option<Receiving<T>>,
}

impl<T: Send + 'static> MailboxStream<T> {
    pub(crate) fn new(mailbox: Arc<Mailbox<T>>) -> Self {
        MailboxStream { mailbox, waits: None }
    }

    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Received<T>>> {
        let waits = match &mut self.waits {
            Some(waits) => waits,
            None => {
                // What is there needs no wait.
                if let Some(received) = self.mailbox.poll(&mut None) {
                    return Poll::Ready(received);
                }
                let mailbox = Arc::clone(&self.mailbox);
                self.waits.insert(Box::pin(async move { mailbox.receive().await }))
            }
        };
        let polled = waits.as_mut().poll(context);
        if polled.is_ready() {
            self.waits = None;
        }
        polled
    }
}

impl<T> fmt::Debug for MailboxStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailboxStream").finish_non_exhaustive()
    }
}

/// The sending side of a mailbox, whatever is in it. Dropped, it closes the mailbox.
pub(crate) struct MailboxSender(Arc<dyn Close>);

trait Close: Send + Sync {
    fn close(&self);
}

impl<T: Send> Close for Mailbox<T> {
    fn close(&self) {
        Mailbox::close(self);
    }
}

impl MailboxSender {
    pub(crate) fn new<T: Send + 'static>(mailbox: &Arc<Mailbox<T>>) -> Self {
        MailboxSender(Arc::clone(mailbox) as Arc<dyn Close>)
    }
}

impl Drop for MailboxSender {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn notify(waiter: Option<Waiter>) {
    match waiter {
        // A home that has ended does not wait any more.
        Some(Waiter::Rings(completer)) => drop(completer.complete(())),
        waiter => drop(waiter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_and_is_counted() {
        let mailbox = Mailbox::new(2);
        assert_eq!((1..=5).map(|n| mailbox.put(n)).collect::<Vec<_>>(), [0, 0, 1, 2, 3]);
        assert_eq!(mailbox.receive().await, Some(Received::Missed(3)));
        assert_eq!(mailbox.receive().await, Some(Received::Item(4)));
        mailbox.close();
        mailbox.put(6);
        assert_eq!(mailbox.receive().await, Some(Received::Item(5)));
        assert_eq!(mailbox.receive().await, None);
    }

    #[tokio::test]
    async fn a_receiver_that_waits_is_woken_and_one_that_gives_up_loses_nothing() {
        let mailbox = Mailbox::new(2);
        for n in 0..100 {
            let given_up = tokio::time::timeout(std::time::Duration::ZERO, mailbox.receive()).await;
            assert!(given_up.is_err());
            let waiting = tokio::spawn({
                let mailbox = Arc::clone(&mailbox);
                async move { mailbox.receive().await }
            });
            tokio::task::yield_now().await;
            mailbox.put(n);
            assert_eq!(waiting.await.unwrap(), Some(Received::Item(n)));
        }
    }

    #[tokio::test]
    async fn the_close_ends_a_wait() {
        let mailbox = Mailbox::<()>::new(2);
        let waiting = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.receive().await }
        });
        tokio::task::yield_now().await;
        mailbox.close();
        assert_eq!(waiting.await.unwrap(), None);
    }
}
