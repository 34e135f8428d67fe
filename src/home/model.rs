//! What the loom models need of this floor beyond its public side: a home that is a drain task, and a small inbox.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::drain::Drain;
use super::identity::Identity;
use super::inbox::{Bell, Inbox};
use super::{Completer, Full, HomeFuture, future};

/// The drain task of a runtime whose only thread is the calling one.
#[derive(Debug)]
pub struct TaskHome {
    inbox: Arc<Inbox>,
    drain: DrainTask,
}

struct DrainTask(Drain);

impl std::fmt::Debug for DrainTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DrainTask")
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inbox")
    }
}

impl TaskHome {
    /// A home on the calling thread, with so many places.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let inbox = Inbox::new(Identity::of_this_thread(), Bell::Task, capacity);
        TaskHome { drain: DrainTask(Drain::new(Arc::clone(&inbox))), inbox }
    }

    /// A completer and its future.
    ///
    /// # Errors
    /// [`Full`] when all places are taken.
    pub fn future<T: Send + 'static>(&self) -> Result<(Completer<T>, HomeFuture<T>), Full> {
        let place = self.inbox.try_reserve().ok_or(Full)?;
        Ok(future::pair(&self.inbox, place))
    }

    /// Polls the drain task once.
    pub fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.drain.0).poll(context)
    }
}
