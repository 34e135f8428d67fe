//! Whether the connection lives, and its events for the communicator: one state that every operation checks, so that none
//! waits for a connection that has gone.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use tokio::sync::Notify;
use tokio::task::spawn_local;

use crate::broker::{BrokerEvent, EventSender};
use crate::error::{Error, ErrorKind, Result};
use crate::panics;

pub(crate) struct Life {
    events: EventSender,
    /// Why nothing works any more: the connection was lost, or closed by us.
    over: RefCell<Option<Error>>,
    /// No event is sent any more.
    silent: Cell<bool>,
    ended: Notify,
    /// What panicked in lapin on this thread, after which its connections are not used any more.
    broken: RefCell<Option<Error>>,
    breaks: Notify,
}

impl Life {
    pub(crate) fn new(events: EventSender) -> Self {
        Life {
            events,
            over: RefCell::new(None),
            silent: Cell::new(false),
            ended: Notify::new(),
            broken: RefCell::new(None),
            breaks: Notify::new(),
        }
    }

    /// Calls lapin. A panic in it, which a subscriber of `tracing` may have caused, is the end of the connection and no more.
    pub(crate) fn guard<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        panics::caught(call).map_err(|panic| drop(self.broke(&panic))).ok()
    }

    /// The same for what takes time.
    pub(crate) async fn guarded<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|panic| Err(self.broke(&panics::text(panic))))
    }

    /// The same in a task of its own.
    pub(crate) fn spawn(self: &Rc<Self>, work: impl Future<Output = ()> + 'static) {
        let life = Rc::clone(self);
        spawn_local(async move {
            let work = async {
                work.await;
                Ok(())
            };
            // Whoever listens for the end learns of it.
            let _ = life.guarded(work).await;
        });
    }

    fn broke(&self, panic: &str) -> Error {
        let error = panicked(panic);
        if self.broken.borrow().is_none() {
            *self.broken.borrow_mut() = Some(error.clone());
        }
        self.breaks.notify_waiters();
        error
    }

    /// The error of a panic, if there was one.
    pub(crate) fn broken(&self) -> Option<Error> {
        self.broken.borrow().clone()
    }

    /// Resolves when something has panicked.
    pub(crate) async fn until_broken(&self) {
        let mut breaks = pin!(self.breaks.notified());
        // Registered before the look, so that no panic falls between the two.
        breaks.as_mut().enable();
        if self.broken.borrow().is_none() {
            breaks.await;
        }
    }

    /// Sends an event, unless the last one has been sent.
    pub(crate) fn say(&self, event: BrokerEvent) {
        if !self.silent.get() {
            // A receiver that has gone is a communicator that does not care any more.
            let _ = self.events.send(event);
        }
    }

    /// Ends every operation with this error; false if it was over before.
    pub(crate) fn end(&self, error: Error) -> bool {
        if self.over.borrow().is_some() {
            return false;
        }
        *self.over.borrow_mut() = Some(error);
        self.ended.notify_waiters();
        true
    }

    /// Sends this as the last event.
    pub(crate) fn last_word(&self, event: BrokerEvent) {
        self.say(event);
        self.silent.set(true);
    }

    /// No event from here on.
    pub(crate) fn fall_silent(&self) {
        self.silent.set(true);
    }

    /// The error that ended it.
    pub(crate) fn over(&self) -> Option<Error> {
        self.over.borrow().clone()
    }

    /// That error, as an error.
    pub(crate) fn check(&self) -> Result<()> {
        self.over().map_or(Ok(()), Err)
    }

    /// The error that ended it, or this where it has not ended (a connection's error may be seen by an operation first).
    pub(crate) fn over_or(&self, error: Error) -> Error {
        self.over().unwrap_or(error)
    }

    /// Waits for the future, but not beyond the end. Nothing is begun after the end; what comes to its result together
    /// with the end keeps it. (Pinned by the caller: an argument that is a future would stand twice in this one.)
    pub(crate) async fn until_end<T>(&self, work: Pin<&mut impl Future<Output = Result<T>>>) -> Result<T> {
        let mut ended = pin!(self.ended.notified());
        // Registered before the check, so that no end falls between the two.
        ended.as_mut().enable();
        if self.over.borrow().is_some() {
            self.check()?;
        }
        match select(work, ended).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                Err(self.over_or(Error::new(ErrorKind::ConnectionLost, "the connection to the broker was lost")))
            }
        }
    }
}

/// The error of a panic in lapin.
pub(crate) fn panicked(panic: &str) -> Error {
    Error::new(
        ErrorKind::ConnectionLost,
        format!(
            "the connection to the broker is given up, since lapin panicked, or a subscriber of `tracing` at one of its lines: {panic}"
        ),
    )
}
