//! A task queue by name: to send to, to subscribe to, and to take from.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::command::{Command, Patience};
use super::names::{Identifier, check_task_queue};
use super::send::{SharedRef, TaskSend};
use super::task::{self, IncomingTask, TaskSubscriber};
use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;

/// One task queue of a communicator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TaskQueue {
    shared: SharedRef,
    name: Arc<str>,
    prefetch: u16,
}

impl TaskQueue {
    pub(crate) fn new(shared: SharedRef, name: Arc<str>) -> Result<Self> {
        check_task_queue(&name)?;
        let prefetch = shared.0.task_prefetch;
        Ok(TaskQueue { shared, name, prefetch })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// With another prefetch than the communicator's. It counts from the first subscriber of a queue on.
    #[must_use]
    pub fn prefetch(mut self, count: NonZeroU16) -> Self {
        self.prefetch = count.get();
        self
    }

    /// A task for this queue.
    pub fn task_send(&self, task: impl Into<Value>) -> TaskSend {
        let patience = Patience::For(self.shared.0.task_timeout);
        TaskSend { shared: self.shared.clone(), queue: self.name.clone(), body: task.into(), patience }
    }

    /// Adds a subscriber, which runs on the current home. Several subscribers of one queue are asked in the order in which
    /// they were added, until one does not reject.
    ///
    /// # Errors
    /// `PreconditionFailed` when the queue or its exchange exists with other arguments; `ConnectionLost`;
    /// `CommunicatorClosed`.
    pub async fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        self.add_task_subscriber_on(&Home::current(), Identifier::unique(), subscriber).await
    }

    /// The same on another home and under a name of one's own.
    ///
    /// # Errors
    /// `DuplicateSubscriberIdentifier` too.
    pub async fn add_task_subscriber_on(
        &self,
        home: &Home,
        identifier: Identifier,
        subscriber: TaskSubscriber,
    ) -> Result<Identifier> {
        let shared = &self.shared.0;
        let (sink, tasks) = mpsc::unbounded_channel();
        let (queue, prefetch) = (self.name.clone(), self.prefetch);
        let name = identifier.clone();
        shared
            .ask("a task subscriber", |done| Command::AddTask { queue, prefetch, identifier: name, sink, done })
            .await?;
        home.spawn_uncounted(task::serve(shared.clone(), home.clone(), identifier.clone(), subscriber.handler, tasks));
        Ok(identifier)
    }

    /// Takes a subscriber out. Tasks that it has in hand go on to their end.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none of that name.
    pub async fn remove_task_subscriber(&self, identifier: &Identifier) -> Result<()> {
        let (queue, identifier) = (self.name.clone(), identifier.clone());
        let remove = |done| Command::RemoveTask { queue, identifier, done };
        self.shared.0.ask("removing a task subscriber", remove).await
    }

    /// Takes a task out, if there is one: one look at the queue.
    ///
    /// # Errors
    /// `QueueEmpty` when there is none.
    pub async fn try_next(&self) -> Result<IncomingTask> {
        loop {
            let queue = self.name.clone();
            let taken = self.shared.0.ask("taking a task", |done| Command::TakeTask { queue, done }).await?;
            let Some(delivery) = taken else { return Err(self.empty("it is empty")) };
            if let Some(task) = IncomingTask::read(delivery) {
                return Ok(task);
            }
        }
    }

    /// Takes a task out, and waits this long for one to come.
    ///
    /// # Errors
    /// `QueueEmpty` when none came.
    ///
    /// # Cancel safety
    /// Dropped, a task that comes all the same goes back to the queue.
    pub async fn next_task(&self, timeout: Duration) -> Result<IncomingTask> {
        loop {
            let queue = self.name.clone();
            let await_task = |done| Command::AwaitTask { queue, patience: timeout, done };
            let taken = self.shared.0.ask("waiting for a task", await_task).await?;
            let Some(delivery) = taken else { return Err(self.empty(&format!("no task came within {timeout:?}"))) };
            if let Some(task) = IncomingTask::read(delivery) {
                return Ok(task);
            }
        }
    }

    fn empty(&self, why: &str) -> Error {
        Error::new(ErrorKind::QueueEmpty, format!("no task from the queue {:?}: {why}", &*self.name))
    }
}
