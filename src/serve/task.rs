//! The home side of tasks: subscribers that get them pushed, and a task that was taken from its queue.
//!
//! A task in hand is settled exactly once, by its outcome, or goes back to its queue when its holder drops it.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::answer::{Answer, Answered, Handler, IntoResponse, Sent, Settled, Subscriber, answered, caught, settled};
use super::context::Context;
use super::failure::{Failure, HandlerError, HandlerResult};
use super::registration::Registration;
use super::rpc::outgoing;
use super::time_limit::within;
use crate::codec::Value;
pub use crate::driver::Attempt;
use crate::driver::command::{Command, OutgoingReply, QueueName, ServedBy, Subscription, TaskDelivery};
use crate::driver::port::{Listener, Signal, count};
use crate::driver::tasks::{Cause, HandId, Settlement, TaskMessage};
use crate::error::Result;
use crate::home::Home;
use crate::observe::{Handling, Incoming, MessageKind};
use crate::wire::headers::{self, TraceHeaders};
use crate::wire::names::{Exchange, Identifier};
use crate::wire::response::Response;
use crate::wire::task::{NoReply, decode};

/// A task, as its subscriber receives it.
///
/// # Examples
///
/// ```
/// use homing::{TaskRequest, TaskSubscriber};
///
/// let work = TaskSubscriber::future(|task: TaskRequest| async move {
///     if task.is_redelivered() || task.is_resent() {
///         // It may have run before: a handler that must not do its work twice looks first.
///     }
///     task.body().as_i64()
/// });
/// # drop(work);
/// ```
#[derive(Clone, Debug)]
pub struct TaskRequest {
    body: Value,
    no_reply: NoReply,
    redelivered: bool,
    resent: bool,
    attempt: Attempt,
    message_id: Option<Arc<str>>,
    correlation_id: Option<Arc<str>>,
    ownership_lost: Signal,
}

/// A subscriber to tasks. Tasks are acknowledged when their outcome is known; what an error means for a task is a
/// [`Failure`](crate::Failure).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use std::num::NonZeroU16;
/// use homing::{Communicator, Failure, TaskRequest, TaskSubscriber};
/// let communicator = Communicator::connect("memory:").await?;
///
/// // Two tasks of the queue at once.
/// let work = TaskSubscriber::future(|task: TaskRequest| async move {
///     task.body().as_i64().map(|n| n * n).ok_or(Failure::Unreadable("not a number".into()))
/// });
/// let work = work.with_prefetch(NonZeroU16::new(2).expect("not zero"));
/// communicator.add_task_subscriber(work).await?;
///
/// assert_eq!(communicator.task_send(7).await?.as_i64(), Some(49));
/// # communicator.close().await.map(drop) }
/// ```
pub type TaskSubscriber = Subscriber<TaskRequest>;

impl TaskRequest {
    /// What the sender sent.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.body
    }

    /// The same, to keep.
    #[must_use]
    pub fn into_body(self) -> Value {
        self.body
    }

    /// The body as a type of your own.
    ///
    /// # Errors
    /// `Decode` when it has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.body.deserialize()
    }

    /// True when the sender wants no reply.
    #[must_use]
    pub fn is_no_reply(&self) -> bool {
        self.no_reply == NoReply::Yes
    }

    /// True when the broker has delivered this task before, or the one that this is a copy of (from a lease, moved by `homing task
    /// move`, or for another attempt of a task that was itself redelivered); that worker may have run it.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// True when its sender has sent it more than once, since it could not know whether the first had arrived; another worker may
    /// have run the first.
    #[must_use]
    pub fn is_resent(&self) -> bool {
        self.resent
    }

    /// Which attempt this is. Counted are those that [`Failure::TryAgain`](super::Failure::TryAgain) asked for.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Watches whether the task is still this handler's own. When the connection is lost, the broker takes the task back and may
    /// deliver it to another worker while this handler still runs: a handler that must not run beside another one should stop
    /// then. If the broker delivers the task to this communicator again, the handler that runs keeps it, and its outcome counts.
    /// The same where a lease of a [long task](crate::LongTasks) was over before a newer one stood, or before its queue could be
    /// deleted; also where somebody else has deleted that queue, for which it looks the same.
    ///
    /// It may be called any number of times.
    ///
    /// # Errors
    /// None now; kept so that a limit can be reported.
    pub fn ownership_lost(&self) -> Result<OwnershipLost> {
        Ok(OwnershipLost(self.ownership_lost.listen()))
    }

    /// The message's own id: the same when the task comes again.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    /// The sender's mark on the task, for logs.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }
}

/// Resolves at its home when a task is no longer its handler's own; or has ended, or the communicator has. See
/// [`TaskRequest::ownership_lost`].
///
/// # Cancel safety
/// Nothing is lost when it is dropped; another one can be made.
#[derive(Debug)]
#[must_use = "a future that is not awaited does nothing; or ask `is_lost`"]
pub struct OwnershipLost(Listener);

impl OwnershipLost {
    /// True once the task is known to be away, for work that has no await in it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_given()
    }
}

impl Future for OwnershipLost {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Adds a subscriber at a home.
///
/// # Errors
/// Why it cannot be added.
pub(crate) async fn add(
    context: &Context,
    home: &Home,
    queue: QueueName,
    subscriber: TaskSubscriber,
) -> Result<Identifier> {
    let prefetch = subscriber.prefetch.map_or(context.defaults.task_prefetch, NonZeroU16::get);
    let identifier = subscriber.identifier.unwrap_or_else(Identifier::unique);
    let (sink, tasks) = mpsc::unbounded_channel();
    let mut inlet = Inlet {
        context: context.clone(),
        queue: queue.clone(),
        identifier: identifier.clone(),
        tasks,
        registration: Registration::new(&context.port),
    };
    let what = format!("a subscriber to the task queue {queue:?}");
    let subscription = Subscription::Tasks { queue, prefetch, identifier: identifier.clone(), sink };
    inlet.registration.add(home, &what, subscription, ServedBy::Task).await?;
    home.spawn_uncounted(serve(home.clone(), subscriber.handler, subscriber.time_limit, inlet));
    Ok(identifier)
}

/// Where a subscriber's tasks come in. Dropped, it takes the subscriber out; tasks that nobody has begun go back by that.
struct Inlet {
    context: Context,
    queue: QueueName,
    identifier: Identifier,
    tasks: mpsc::UnboundedReceiver<TaskDelivery>,
    registration: Registration,
}

/// The task of one subscriber at its home. Each task of the queue has a task of its own here, up to the prefetch.
async fn serve(home: Home, handler: Handler<TaskRequest>, time_limit: Option<Duration>, mut inlet: Inlet) {
    while let Some(delivery) = inlet.tasks.recv().await {
        let (context, handler, identifier) = (inlet.context.clone(), handler.clone(), inlet.identifier.clone());
        let queue = inlet.queue.clone();
        let at = home.clone();
        home.spawn_uncounted(async move {
            let taken = TaskGuard::take(&context, &queue, delivery, Some(identifier.clone()), Cause::HomeEnded);
            let Some(guard) = taken else { return };
            let span = guard.handling.span();
            let handled = async {
                let message_id = &guard.message.properties().message_id;
                crate::log::debug!(%identifier, message_id = message_id.as_deref(), redelivered = guard.redelivered, "handling a task");
                if let Some((guard, request)) = guard.read() {
                    // In a box: it goes through several hands, and would stand in each of their futures.
                    guard.answer(Box::pin(handler.run(&at, request)), time_limit).await;
                }
            };
            span.around(handled).await;
        });
    }
}

/// One task in hand, until it is settled. Dropped before that, by a home that ends for instance, the task goes back.
struct TaskGuard {
    context: Context,
    /// Of the subscriber that has it; `None` for a task that was pulled.
    identifier: Option<Identifier>,
    hand: HandId,
    message: TaskMessage,
    redelivered: bool,
    attempt: Attempt,
    no_reply: NoReply,
    ownership_lost: Signal,
    settled: bool,
    handling: Handling,
    /// What a drop means, where nothing panics.
    dropped: Cause,
}

impl TaskGuard {
    /// Begins with a task. `None` where it was withdrawn.
    fn take(
        context: &Context,
        queue: &QueueName,
        delivery: TaskDelivery,
        identifier: Option<Identifier>,
        dropped: Cause,
    ) -> Option<Self> {
        let TaskDelivery { handed, ownership_lost } = delivery;
        if !handed.claim.take() {
            return None;
        }
        let properties = handed.message.properties();
        let trace = TraceHeaders::of(properties);
        let handling = Handling::new(
            context,
            &Incoming {
                kind: MessageKind::Task,
                exchange: &context.port.names.task_exchange,
                key: queue,
                identifier: identifier.as_ref().map(Identifier::as_str),
                message_id: properties.message_id.as_deref(),
                conversation: properties.correlation_id.as_deref(),
                bytes: handed.message.body().encoded_size(),
                attempt: Some(handed.attempt.number()),
                redelivered: handed.redelivered,
                trace: trace.as_deref(),
            },
        );
        Some(TaskGuard {
            context: context.clone(),
            identifier,
            hand: handed.hand,
            message: handed.message,
            redelivered: handed.redelivered,
            attempt: handed.attempt,
            no_reply: NoReply::No,
            ownership_lost,
            settled: false,
            handling,
            dropped,
        })
    }

    /// Reads a task's body: `(task, no_reply)`, any sequence of two. One that cannot be read is settled here: it goes to the
    /// quarantine queue, and its sender gets an exception.
    fn read(mut self) -> Option<(Self, TaskRequest)> {
        let properties = self.message.properties();
        if let Some(oddity) = properties.unanswerable() {
            let reason = format!("its outcome could not reach its sender: {}", oddity.reason);
            self.settle(Settlement::Quarantine { reason, answer: None });
            return None;
        }
        match self.context.decode(self.message.body().clone()).and_then(decode) {
            Ok((body, no_reply)) => {
                if no_reply == NoReply::No && properties.reply_to.is_none() {
                    count(&self.context.port.counters.replies_not_wanted);
                }
                let request = TaskRequest {
                    body,
                    no_reply,
                    redelivered: self.redelivered,
                    resent: headers::number(properties, headers::RESEND) > 0,
                    attempt: self.attempt,
                    message_id: properties.message_id.clone(),
                    correlation_id: properties.correlation_id.clone(),
                    ownership_lost: self.ownership_lost.clone(),
                };
                self.no_reply = no_reply;
                Some((self, request))
            }
            Err(error) => {
                let reason = format!("the task's body cannot be read: {error}");
                let answer = self.reply(Response::exception(reason.clone()));
                let failed: Settled = Err(HandlerError::of_failure(Failure::Unreadable(reason.clone())));
                self.handling.end(&failed);
                self.settle(Settlement::Quarantine { reason, answer });
                None
            }
        }
    }

    /// Settles the task by what the handler answers, and by what the futures bring that it answers with.
    async fn answer(mut self, handled: impl Future<Output = Answered>, time_limit: Option<Duration>) {
        let put_off = |sent: Sent| {
            if let Some(reply) = self.reply(Response::Pending) {
                self.context.port.notify(Command::Reply { reply, sent });
            }
        };
        let outcome = within(&self.context, time_limit, settled(handled, Some(put_off))).await;
        self.end(outcome);
    }

    /// Settles the task by an outcome that is there.
    fn end(&mut self, settled: Settled) {
        self.handling.end(&settled);
        let is_warning = settled.as_ref().err().is_some_and(HandlerError::is_warning);
        let (settled, details) = match settled.map_err(HandlerError::into_parts) {
            Ok(value) => (Ok(value), None),
            Err((failure, details)) => (Err(failure), details),
        };
        // What cannot be read is reported as it goes into quarantine.
        if let Err(failure) = &settled
            && is_warning
            && !matches!(failure, Failure::Unreadable(_))
        {
            let (identifier, attempt) = (self.identifier.as_ref().map(Identifier::as_str), self.attempt);
            let message_id = &self.message.properties().message_id;
            crate::log::warn!(
                identifier,
                message_id = message_id.as_deref(),
                attempt = attempt.number(),
                failure = failure.to_string(),
                "a task failed in its handler"
            );
        }
        let response = match settled {
            Ok(value) => Response::Result(value),
            Err(Failure::Exception(text)) => Response::Exception(text, details),
            Err(Failure::Rejected(_)) => return self.settle(Settlement::Rejected),
            Err(Failure::Unreadable(reason)) => {
                let answer = self.reply(Response::Exception(reason.clone(), details));
                return self.settle(Settlement::Quarantine { reason, answer });
            }
            Err(Failure::TryAgain(reason)) => {
                let text = format!("it was given up; its last attempt failed: {reason}");
                let answer = self.reply(Response::Exception(text, details));
                return self.settle(Settlement::TryAgain { reason, answer });
            }
            // kiwipy nacks at once and spins; the pause is ours.
            Err(Failure::Cancelled) => return self.settle(Settlement::Requeue),
        };
        let answer = self.reply(response);
        self.settle(Settlement::Done { answer });
    }

    fn reply(&self, response: Response) -> Option<OutgoingReply> {
        let properties = self.message.properties();
        // kiwipy's senders name a queue all the same where they want no reply.
        let reply_to = properties.reply_to.clone().filter(|_| self.no_reply == NoReply::No);
        outgoing(&self.context, Exchange::Task, reply_to, properties.correlation_id.clone(), response)
    }

    fn settle(&mut self, settlement: Settlement<OutgoingReply>) {
        if !std::mem::replace(&mut self.settled, true) {
            self.context.port.notify(Command::Settle { task: self.hand, settlement });
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let cause = if std::thread::panicking() { Cause::HandlerPanicked } else { self.dropped };
        self.settle(Settlement::Dropped(cause));
    }
}

/// A task that was taken from its queue, to be processed or to go back.
///
/// Dropped without an outcome, it goes back to its queue.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// let queue = communicator.task_queue("thumbnails")?;
/// queue.task_send(7).no_reply().await?;
/// queue.try_next().await?.process(|task| task.body().as_i64().map(|n| n * n));
/// # communicator.close().await.map(drop) }
/// ```
#[must_use = "a task that is dropped goes back to its queue"]
pub struct IncomingTask {
    guard: TaskGuard,
    request: TaskRequest,
}

impl IncomingTask {
    /// Begins with a task that was pulled; `None` when it went to the quarantine queue instead, or was withdrawn.
    pub(crate) fn take(context: &Context, queue: &QueueName, delivery: TaskDelivery) -> Option<Self> {
        let guard = TaskGuard::take(context, queue, delivery, None, Cause::LetGo)?;
        guard.read().map(|(guard, request)| IncomingTask { guard, request })
    }

    /// What was sent.
    #[must_use]
    pub fn request(&self) -> &TaskRequest {
        &self.request
    }

    /// The task's body.
    #[must_use]
    pub fn body(&self) -> &Value {
        &self.request.body
    }

    /// Ends the task with an outcome: it is acknowledged, then the outcome goes to its sender. With [`Answer::Later`] the
    /// sender gets `pending` at once, and the rest happens in a task of the current home. A task that is rejected or
    /// cancelled goes back after a pause.
    pub fn finish(self, outcome: impl IntoResponse) {
        let IncomingTask { mut guard, .. } = self;
        let outcome = answered(outcome);
        match outcome {
            Ok(Answer::Later(_)) => {
                let span = guard.handling.span();
                Home::current().spawn_uncounted(span.around(guard.answer(std::future::ready(outcome), None)));
            }
            Ok(Answer::Value(value)) => guard.end(Ok(value)),
            Err(error) => guard.end(Err(error)),
        }
    }

    /// Runs the task here and ends it with the outcome; a panic is an exception to its sender. A value or an error goes to
    /// the sender; nothing is handed to the caller.
    pub fn process<R: IntoResponse>(self, handler: impl FnOnce(&TaskRequest) -> R) {
        let request = self.request.clone();
        let span = self.guard.handling.span();
        match span.in_scope(|| caught(|| answered(handler(&request)))) {
            Ok(answer) => self.finish(answer),
            Err(error) => self.finish(HandlerResult::<Answer>::Err(error)),
        }
    }

    /// Puts the task back into its queue: at once the first time, after a pause that grows when it comes again. The same as
    /// dropping it, by name.
    pub fn requeue(self) {
        drop(self);
    }
}

impl fmt::Debug for IncomingTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingTask").field("message_id", &self.request.message_id).finish_non_exhaustive()
    }
}
