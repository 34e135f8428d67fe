//! A signal for work in hand: that something outside has changed, to be awaited at home or looked at in between.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, Home, HomeFuture};

/// The driver's end.
pub(crate) struct Watch {
    given: Arc<AtomicBool>,
    /// Dropped when the work has ended: then nobody needs it any more.
    told: Completer<()>,
}

impl Watch {
    pub(crate) fn tell(self) {
        // Ordering: Relaxed, for it is a hint; the completion orders what follows it.
        self.given.store(true, Ordering::Relaxed);
        // A home that has ended does not ask any more.
        drop(self.told.complete(()));
    }
}

/// The end at home.
#[derive(Debug)]
pub(crate) struct Signal {
    given: Arc<AtomicBool>,
    future: HomeFuture<()>,
}

/// Both ends, at the current home.
pub(crate) fn signal() -> Result<(Watch, Signal)> {
    let (told, future) =
        Home::current().try_future().map_err(|full| Error::with_source(ErrorKind::Full, full.to_string(), full))?;
    let given = Arc::new(AtomicBool::new(false));
    Ok((Watch { given: Arc::clone(&given), told }, Signal { given, future }))
}

impl Signal {
    pub(crate) fn is_given(&self) -> bool {
        // Ordering: Relaxed, for it is a hint and orders nothing.
        self.given.load(Ordering::Relaxed)
    }
}

impl Future for Signal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Whatever its end is, there is nothing to wait for any more.
        Pin::new(&mut self.future).poll(context).map(drop)
    }
}
