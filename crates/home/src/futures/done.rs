//! Done-callbacks, and what follows from them: one future's outcome carried over to another, wherever that lives.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::super::envelope::Envelope;
use super::super::inbox::Inbox;
use super::super::panics::guarded;
use super::super::sync::Mutex;
use super::super::{Completer, Home, HomeFuture, LocalFuture, Outcome, ReserveError};

impl<T: Send + 'static> HomeFuture<T> {
    /// Calls something with the outcome, at the home of this future, when it has come; at once if it is there already and
    /// this is its home. A callback that panics ends itself alone.
    ///
    /// When the home ends first, it is called with [`End::HomeEnded`](super::super::End::HomeEnded), as one of the last things
    /// that this home does. Where that is not possible (the home had ended before, or ends outside of its runtime's context),
    /// nobody is left to call it, and it is dropped.
    ///
    /// On a multi-thread runtime a callback may wait, by the calls of homing that block or by
    /// `block_in_place(|| Handle::current().block_on(…))`: the home goes on meanwhile, in another task. A wait that no future of
    /// homing is part of is not known to the home, and holds it up: for what only another task can end, such as a channel's
    /// message, spawn a task. Each wait has a thread of the runtime, which has 512 of them unless its builder sets another number: more
    /// callbacks that wait by tokio's means at once stop the runtime. Homing's own waits are refused before that
    /// ([`MAX_WAITING_WORKERS`](super::super::MAX_WAITING_WORKERS)).
    pub fn on_done(self, call: impl FnOnce(Outcome<T>) + Send + 'static) {
        let Some(inbox) = self.inbox().cloned() else { return };
        let callback = Arc::new(Callback { inbox: inbox.clone(), rest: Mutex::new(Some((self, call))) });
        if inbox.identity().is_here() {
            callback.look();
        } else {
            // Guards: a callback that is set away from home. Its first look is at home, too. Where the home has ended, there
            // is nobody to call it.
            let _ = inbox.post(Envelope::Run(Box::new(move || callback.look())));
        }
    }

    /// Carries the outcome over to another future, by its completer.
    pub fn chain(self, target: Completer<T>) {
        // What comes back from a target whose home has ended is dropped at the source's home.
        self.on_done(|outcome| drop(target.finish(outcome)));
    }

    /// A future of another home that ends as this one does.
    ///
    /// # Errors
    /// [`ReserveError`] when that home has as many futures open as it may have, or has ended.
    pub fn bring_to(self, home: &Home) -> Result<HomeFuture<T>, ReserveError> {
        let (target, future) = home.try_future()?;
        self.chain(target);
        Ok(future)
    }
}

impl<T: Send + 'static> LocalFuture<T> {
    /// Carries the outcome over to another future, by its completer.
    pub fn chain(self, target: Completer<T>) {
        self.on_done(|outcome| drop(target.finish(outcome)));
    }

    /// A future of another home that ends as this one does.
    ///
    /// # Errors
    /// [`ReserveError`] when that home has as many futures open as it may have, or has ended.
    pub fn bring_to(self, home: &Home) -> Result<HomeFuture<T>, ReserveError> {
        let (target, future) = home.try_future()?;
        self.chain(target);
        Ok(future)
    }
}

/// Gives a copy of an outcome that is there to another future, by its completer.
pub fn copy<T: Clone + Send + 'static>(outcome: &Outcome<T>, target: Completer<T>) {
    // A target whose home has ended needs no copy.
    drop(target.finish(outcome.clone()));
}

/// A future with what is to be called; the waker of its own future. Since only a home wakes, it is called there.
struct Callback<T: Send + 'static, F> {
    inbox: Arc<Inbox>,
    /// `None` once called.
    rest: Mutex<Option<(HomeFuture<T>, F)>>,
}

impl<T: Send + 'static, F: FnOnce(Outcome<T>) + Send + 'static> Callback<T, F> {
    /// Looks whether the outcome has come. At home only.
    fn look(self: &Arc<Self>) {
        let mut rest = self.rest.lock();
        let Some((future, _)) = rest.as_mut() else { return };
        let waker = Waker::from(Arc::clone(self));
        // Guards: an outcome that lands, on another thread of the same runtime, during the first look. Its wake waits for
        // this lock and looks again.
        let Poll::Ready(outcome) = future.look(&mut Context::from_waker(&waker)) else { return };
        let Some((_, call)) = rest.take() else { return };
        drop(rest);
        self.inbox.call(|| call(outcome));
    }
}

impl<T: Send + 'static, F: FnOnce(Outcome<T>) + Send + 'static> Wake for Callback<T, F> {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.inbox.identity().is_here() {
            self.look();
        } else {
            // Woken by a sender whose completion the ended home did not take: nobody is left to call it.
            let rest = self.rest.lock().take();
            guarded(|| drop(rest));
        }
    }
}
