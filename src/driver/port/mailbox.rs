//! A mailbox: what the library's threads leave for one receiver at a home, up to a limit of items and one of bytes; then the
//! oldest go.
//!
//! The receiver waits on a future of its home, so that only its home runs its waker.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::home::lock::Mutex;

use super::ExpireOnDrop;
use crate::home::{Completer, End, Home, ReserveError};

/// The side that items are put into, and taken out of.
#[derive(Debug)]
pub(crate) struct Mailbox<T> {
    limits: Limits,
    state: Mutex<State<T>>,
}

/// What a mailbox holds at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) items: usize,
    /// The newest item is held however large it is.
    pub(crate) bytes: usize,
}

/// How many items have been dropped for one that was put in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) now: u64,
    /// Since the receiver last took one, these included.
    pub(crate) in_all: u64,
}

#[derive(Debug)]
struct State<T> {
    /// Each with its size.
    items: VecDeque<(T, usize)>,
    bytes: usize,
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
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let state = State { items: VecDeque::new(), bytes: 0, missed: 0, closed: false, waiter: None };
        Arc::new(Mailbox { limits, state: Mutex::new(state) })
    }

    /// Puts an item in, of this size. The oldest are dropped when there is no room for it. After the close nothing is taken.
    pub(crate) fn put(&self, item: T, size: usize) -> Dropped {
        let mut state = self.state.lock();
        if state.closed {
            return Dropped::default();
        }
        let mut oldest = Vec::new();
        while state.items.len() >= self.limits.items || size.saturating_add(state.bytes) > self.limits.bytes {
            let Some((item, size)) = state.items.pop_front() else { break };
            state.bytes -= size;
            oldest.push(item);
        }
        let now = oldest.len() as u64;
        state.missed += now;
        let dropped = Dropped { now, in_all: state.missed };
        state.items.push_back((item, size));
        state.bytes = state.bytes.saturating_add(size);
        let waiter = state.waiter.take();
        drop(state);
        // Neither under the lock: these may be a user's values, the other rings a home.
        drop(oldest);
        notify(waiter);
        dropped
    }

    /// Nothing more comes. What is there is still received.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiter = state.waiter.take();
        drop(state);
        notify(waiter);
    }

    /// The receiver has gone: nothing more is taken, and what is there is dropped here, whoever holds the mailbox besides.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let left = std::mem::take(&mut state.items);
        state.bytes = 0;
        let waiter = state.waiter.take();
        drop(state);
        // Neither under the lock, as in `put`.
        drop(left);
        notify(waiter);
    }

    /// The next item, if it is there; `Some(None)` at the end.
    fn poll(&self, waiter: &mut Option<Waiter>) -> Option<Option<Received<T>>> {
        let mut state = self.state.lock();
        if state.missed > 0 {
            return Some(Some(Received::Missed(std::mem::take(&mut state.missed))));
        }
        if let Some((item, size)) = state.items.pop_front() {
            state.bytes -= size;
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

    const TWO: Limits = Limits { items: 2, bytes: usize::MAX };

    #[tokio::test]
    async fn the_oldest_goes_and_is_counted() {
        let mailbox = Mailbox::new(TWO);
        let dropped: Vec<_> = (1..=5).map(|n| mailbox.put(n, 0)).map(|dropped| (dropped.now, dropped.in_all)).collect();
        assert_eq!(dropped, [(0, 0), (0, 0), (1, 1), (1, 2), (1, 3)]);
        assert_eq!(mailbox.receive().await, Some(Received::Missed(3)));
        assert_eq!(mailbox.receive().await, Some(Received::Item(4)));
        mailbox.close();
        mailbox.put(6, 0);
        assert_eq!(mailbox.receive().await, Some(Received::Item(5)));
        assert_eq!(mailbox.receive().await, None);
    }

    #[tokio::test]
    async fn large_items_are_fewer_and_the_newest_is_there_however_large_it_is() {
        let mailbox = Mailbox::new(Limits { items: 100, bytes: 10 });
        for n in 0..3 {
            assert_eq!(mailbox.put(n, 3), Dropped::default());
        }
        assert_eq!(mailbox.put(3, 4), Dropped { now: 1, in_all: 1 });
        assert_eq!(mailbox.put(4, 7), Dropped { now: 3, in_all: 4 }, "one that takes the room of several");
        assert_eq!(mailbox.receive().await, Some(Received::Missed(4)));
        assert_eq!(mailbox.receive().await, Some(Received::Item(4)));
        assert_eq!(mailbox.put(5, 10), Dropped::default(), "what was taken has no room any more");
        assert_eq!(mailbox.put(6, usize::MAX), Dropped { now: 1, in_all: 1 });
        assert_eq!(mailbox.put(7, 1), Dropped { now: 1, in_all: 2 });
        assert_eq!(mailbox.receive().await, Some(Received::Missed(2)));
        assert_eq!(mailbox.receive().await, Some(Received::Item(7)));
    }

    #[tokio::test]
    async fn a_receiver_that_waits_is_woken_and_one_that_gives_up_loses_nothing() {
        let mailbox = Mailbox::new(TWO);
        for n in 0..100 {
            let given_up = tokio::time::timeout(std::time::Duration::ZERO, mailbox.receive()).await;
            assert!(given_up.is_err());
            let waiting = tokio::spawn({
                let mailbox = Arc::clone(&mailbox);
                async move { mailbox.receive().await }
            });
            tokio::task::yield_now().await;
            mailbox.put(n, 0);
            assert_eq!(waiting.await.unwrap(), Some(Received::Item(n)));
        }
    }

    #[tokio::test]
    async fn the_close_ends_a_wait() {
        let mailbox = Mailbox::<()>::new(TWO);
        let waiting = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.receive().await }
        });
        tokio::task::yield_now().await;
        mailbox.close();
        assert_eq!(waiting.await.unwrap(), None);
    }
}
