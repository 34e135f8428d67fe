//! A home as others see it: where to run something, and where to make a future.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::inbox::{Envelope, Inbox};
use super::{Completer, Full, HomeFuture, LocalHome, current, future, runtime};

/// A handle to a home of any kind; cheap to clone, good on any thread.
#[derive(Clone)]
pub struct Home {
    inbox: Arc<Inbox>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Runtime(Handle),
    Local,
}

impl Home {
    pub(crate) fn local(inbox: Arc<Inbox>) -> Self {
        Home { inbox, kind: Kind::Local }
    }

    /// A tokio runtime as a home.
    #[must_use]
    pub fn of_runtime(runtime: &Handle) -> Self {
        Home { inbox: runtime::inbox_of(runtime), kind: Kind::Runtime(runtime.clone()) }
    }

    /// The home that the calling code is at: the loop or thread home that this thread turns or waits on now; else the tokio
    /// runtime whose context it is in; else the home of the plain thread.
    #[must_use]
    pub fn current() -> Self {
        if let Some(home) = current::entered() {
            return Self::local(Arc::clone(home.inbox()));
        }
        match Handle::try_current() {
            Ok(runtime) => Self::of_runtime(&runtime),
            Err(_) => Self::local(Arc::clone(LocalHome::of_this_thread().inbox())),
        }
    }

    /// True when the calling code is at this home.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.inbox.identity().is_here()
    }

    #[cfg(any(test, feature = "audit"))]
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// True when this home is a tokio runtime.
    #[must_use]
    pub fn is_runtime(&self) -> bool {
        matches!(self.kind, Kind::Runtime(_))
    }

    /// True when this home has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.inbox.is_closed()
    }

    /// A future of this home and its completer. Waits while as many are open as may be.
    ///
    /// # Errors
    /// [`Full`] when the home has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), Full> {
        let place = self.inbox.reserve().await.ok_or(Full)?;
        Ok(future::pair(&self.inbox, place))
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// [`Full`] when as many futures are open here as may be, or the home has ended.
    pub fn try_future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), Full> {
        let place = self.inbox.try_reserve().ok_or(Full)?;
        Ok(future::pair(&self.inbox, place))
    }

    /// Runs a task on this home. On a home that has ended it is dropped at once.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.kind {
            Kind::Runtime(runtime) => drop(runtime.spawn(task)),
            Kind::Local => {
                // Guards: a thread that has two homes, its loop's and its own. Its own is the current one while the loop is
                // not turned, and the task is not for that.
                if self.is_here() {
                    let current = LocalHome::of_this_thread();
                    if Arc::ptr_eq(current.inbox(), &self.inbox) {
                        return current.spawn(task);
                    }
                }
                let run = Envelope::Run(Box::new(move || LocalHome::of_this_thread().spawn(task)));
                drop(self.inbox.post(run));
            }
        }
    }

    /// Runs a task uncounted.
    pub fn spawn_uncounted(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(task);
    }

    /// Calls something that may block: on a runtime, on one of its threads for that; elsewhere on the home's own thread,
    /// which is there to be blocked.
    pub fn spawn_blocking(&self, call: impl FnOnce() + Send + 'static) {
        match &self.kind {
            Kind::Runtime(runtime) => drop(runtime.spawn_blocking(call)),
            Kind::Local => self.spawn(async move { call() }),
        }
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("identity", &self.inbox.identity()).finish_non_exhaustive()
    }
}
