//! Futures of a home that is one thread, and waiting for them.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::completer::Completer;
use super::future::{Deadline, HomeFuture, pair};
use super::local::LocalHome;
use super::outcome::{Outcome, ReserveError};

/// A future of a home that is one thread: it cannot leave that thread, so that waiting for it elsewhere does not compile.
///
/// ```compile_fail,E0277
/// let (completer, future) = homing_home::thread_future::<u32>()?;
/// std::thread::spawn(move || future.wait());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Nor does waiting twice:
///
/// ```compile_fail,E0382
/// let (completer, future) = homing_home::thread_future::<u32>()?;
/// future.wait().ok();
/// future.wait().ok();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Cancel safety
/// As of a [`HomeFuture`]: dropping it gives it up.
#[must_use = "a future that is dropped gives its outcome up"]
pub struct LocalFuture<T: Send + 'static> {
    future: HomeFuture<T>,
    home: LocalHome,
    /// Bound to its thread, whatever the fields may become.
    _not_send: PhantomData<*const ()>,
}

impl<T: Send + 'static> Future for LocalFuture<T> {
    type Output = Outcome<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome<T>> {
        Pin::new(&mut self.future).poll(context)
    }
}

impl<T: Send + 'static> fmt::Debug for LocalFuture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFuture").finish_non_exhaustive()
    }
}

impl LocalHome {
    /// A completer and its future, which lives here.
    ///
    /// # Errors
    /// [`ReserveError`] when as many futures are open as this home may have, or it has ended.
    pub fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, LocalFuture<T>), ReserveError> {
        let (completer, future) = pair(self.inbox().try_reserve()?);
        Ok((completer, LocalFuture { future, home: self.clone(), _not_send: PhantomData }))
    }
}

impl<T: Send + 'static> LocalFuture<T> {
    /// Waits, while everything else of this home goes on.
    ///
    /// # Errors
    /// The [`End`](super::End) of a future that ended without a value; [`End::TooDeep`](super::End::TooDeep) and
    /// [`End::WouldDeadlock`](super::End::WouldDeadlock) at once where a wait cannot be.
    pub fn wait(self) -> Outcome<T> {
        let home = self.home.clone();
        home.block_on(self.future).unwrap_or_else(|refused| Err(refused.into()))
    }

    /// The same for at most this long.
    ///
    /// # Errors
    /// [`End::TimedOut`](super::End::TimedOut) when the time is up; what arrives later is dropped here.
    pub fn wait_timeout(self, limit: Duration) -> Outcome<T> {
        let home = self.home.clone();
        // A time that no instant has never passes.
        let deadline = Instant::now().checked_add(limit).zip(self.future.deadline());
        home.block_on_until(self.future, deadline).unwrap_or_else(|refused| Err(refused.into()))
    }

    /// Calls something with the outcome, here, when it has come.
    pub fn on_done(self, call: impl FnOnce(Outcome<T>) + 'static) {
        let home = self.home.clone();
        // Not counted: the future is.
        home.start(async move { call(self.future.await) }, None);
    }

    /// What ends this future as timed out, for a timer of your own.
    #[doc(hidden)]
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.future.deadline()
    }
}
