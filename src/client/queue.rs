//! A task queue by name: to send to, to subscribe to, and to take from.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_core::Stream;

use super::body::Body;
use super::send::TaskSend;
use crate::driver::command::{Command, PullId, PullWait, QueueName, SubscriberName};
use crate::driver::port::Port;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::serve::{Context, IncomingTask, TaskSubscriber, add_task_subscriber, remove_subscriber};
use crate::wire::names::{Identifier, check_task_queue};

/// One task queue of a communicator. Cheap to clone.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use std::time::Duration;
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// let queue = communicator.task_queue("thumbnails")?;
/// queue.task_send("cat.png").no_reply().await?;
/// // Taken by hand; a subscriber gets its tasks by itself.
/// let task = queue.next_task(Duration::from_secs(5)).await?;
/// assert_eq!(task.body().as_str(), Some("cat.png"));
/// task.finish("done");
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Clone, Debug)]
pub struct TaskQueue {
    context: Context,
    /// Where its subscribers run; `None` is where they are added.
    home: Option<Home>,
    name: QueueName,
}

impl TaskQueue {
    pub(crate) fn new(context: Context, home: Option<Home>, name: QueueName) -> Result<Self> {
        check_task_queue(&name)?;
        Ok(TaskQueue { context, home, name })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A task for this queue.
    pub fn task_send(&self, task: impl Into<Body>) -> TaskSend {
        TaskSend::new(self.context.clone(), self.name.clone(), task.into())
    }

    /// This queue if it is bound to a home, or else bound to that which the caller has for it.
    pub(super) fn bound_or(&self, home: impl FnOnce() -> Result<Home>) -> Result<Self> {
        let home = self.home.clone().map_or_else(home, Ok)?;
        Ok(TaskQueue { context: self.context.clone(), home: Some(home), name: self.name.clone() })
    }

    /// Adds a subscriber. It runs on the home of the handle that this queue is from. Several subscribers of one queue are
    /// asked in the order in which they were added, until one does not reject.
    ///
    /// # Errors
    /// `PreconditionFailed` when the queue or its exchange exists with other arguments; `InvalidArgument` when a subscriber of
    /// this queue has another prefetch; `DuplicateSubscriberIdentifier` when its identifier is taken; `TimedOut` when the
    /// [broker is silent](crate::CommunicatorBuilder::operation_timeout) or away; `HomeEnded`; `ConnectionLost`;
    /// `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the subscriber is removed again.
    pub async fn add_task_subscriber(&self, subscriber: TaskSubscriber) -> Result<Identifier> {
        let home = self.home.clone().unwrap_or_else(Home::current);
        add_task_subscriber(&self.context, &home, self.name.clone(), subscriber).await
    }

    /// Removes a subscriber. Tasks that it works on go on to their end.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none of that name; `TimedOut` when it is removed here and the broker has not answered within
    /// the [time for operations](crate::CommunicatorBuilder::operation_timeout).
    ///
    /// # Cancel safety
    /// Dropped, the subscriber is removed all the same.
    pub async fn remove_task_subscriber(&self, identifier: &Identifier) -> Result<()> {
        let name = SubscriberName::Tasks(self.name.clone(), identifier.clone());
        remove_subscriber(&self.context.port, "removing a task subscriber", name).await
    }

    /// Takes a task, if there is one now.
    ///
    /// # Errors
    /// `QueueEmpty` when there is none; `TimedOut` when there is no connection to the broker, and none within the
    /// [time for operations](crate::CommunicatorBuilder::operation_timeout), or when the broker is silent for
    /// twice that time; `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped, a task that comes all the same goes back to the queue.
    pub async fn try_next(&self) -> Result<IncomingTask> {
        self.pull(PullWait::No).await?.ok_or_else(|| self.empty("it is empty"))
    }

    /// Takes a task, and waits up to this long for one.
    ///
    /// # Errors
    /// `QueueEmpty` when none came; `TimedOut` when the time has passed and there is no connection to the broker, so that nobody
    /// knows what is in the queue, or when the broker has not answered a request for it within the
    /// [time for operations](crate::CommunicatorBuilder::operation_timeout); `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped, a task that comes all the same goes back to the queue.
    pub async fn next_task(&self, timeout: Duration) -> Result<IncomingTask> {
        let until = crate::time::from_now(timeout);
        let pulled = self.pull(PullWait::Until(until)).await?;
        pulled.ok_or_else(|| self.empty(&format!("no task came within {timeout:?}")))
    }

    /// The tasks of this queue one after the other, as a stream: each is taken when the stream is polled for it.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// # let communicator = homing::Communicator::connect("memory:").await?;
    /// let queue = communicator.task_queue("squares")?;
    /// queue.task_send(7).no_reply().await?;
    /// let mut tasks = queue.tasks();
    /// if let Some(task) = tasks.next().await {
    ///     task?.process(|task| task.body().as_i64().map(|number| number * number));
    /// }
    /// # communicator.close().await.map(drop) }
    /// ```
    pub fn tasks(&self) -> Tasks {
        Tasks { queue: self.clone(), pull: None, ended: false }
    }

    /// Takes tasks until one can be read, or none is there.
    async fn pull(&self, wait: PullWait) -> Result<Option<IncomingTask>> {
        let port = &self.context.port;
        let limit = match wait {
            PullWait::No => None,
            PullWait::Until(until) => Some(until),
        };
        loop {
            let guard = PullGuard { port, id: PullId(port.next_id()) };
            let (id, queue) = (guard.id, self.name.clone());
            let pull = |done| Command::Pull { id, queue, wait, done };
            let Some(delivery) = port.ask("waiting for a task", limit, pull).await? else { return Ok(None) };
            if let Some(task) = IncomingTask::take(&self.context, &self.name, delivery) {
                return Ok(Some(task));
            }
        }
    }

    fn empty(&self, why: &str) -> Error {
        Error::new(ErrorKind::QueueEmpty, format!("no task from the queue {:?}: {why}", &*self.name))
    }
}

/// The tasks of a queue; a [`Stream`]. Made by [`TaskQueue::tasks`]. After an error it ends.
///
/// A task that comes after it was dropped goes back to the queue.
#[must_use = "no task is taken until it is polled"]
pub struct Tasks {
    queue: TaskQueue,
    pull: Option<Pulling>,
    ended: bool,
}

type Pulling = Pin<Box<dyn Future<Output = Result<IncomingTask>> + Send>>;

impl Tasks {
    /// The next task. Waits for one as long as it takes. `None` after an error.
    ///
    /// # Errors
    /// `ConnectionLost` and `CommunicatorClosed`, as [`TaskQueue::next_task`].
    ///
    /// # Cancel safety
    /// No task is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<IncomingTask>> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }
}

impl Stream for Tasks {
    type Item = Result<IncomingTask>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let this = &mut *self;
        let pull = this.pull.get_or_insert_with(|| {
            let queue = this.queue.clone();
            Box::pin(async move { queue.next_task(Duration::MAX).await })
        });
        let Poll::Ready(task) = pull.as_mut().poll(context) else { return Poll::Pending };
        this.pull = None;
        this.ended = task.is_err();
        Poll::Ready(Some(task))
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("queue", &self.queue.name).finish_non_exhaustive()
    }
}

/// Gives a pull up when its caller has gone. A task that was on its way goes back, unless it has been taken.
struct PullGuard<'a> {
    port: &'a Arc<Port>,
    id: PullId,
}

impl Drop for PullGuard<'_> {
    fn drop(&mut self) {
        self.port.notify(Command::CancelPull { id: self.id });
    }
}
