//! The home side of tasks: subscribers that get them pushed, and a task that was taken from its queue.
//!
//! A task in hand is settled exactly once, by its outcome, or goes back to its queue when whoever holds it lets it go.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::answer::{Answer, Answered, Failure, Handler, Subscriber};
use super::command::{Command, ReplyExchange, Requeue, Settlement, TaskDelivery, TaskId};
use super::names::Identifier;
use super::response::Response;
use super::rpc::outgoing;
use super::send::SharedRef;
use super::shared::{Shared, count};
use super::signal::{Signal, signal};
use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;

/// A task, as its subscriber gets it.
#[derive(Clone, Debug)]
pub struct TaskRequest {
    body: Value,
    no_reply: bool,
    redelivered: bool,
    resent: bool,
    attempt: Attempt,
    message_id: Option<String>,
    correlation_id: Option<String>,
    task: TaskId,
    shared: SharedRef,
}

/// How often a task has been handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// This is the attempt of this number, from 1 on.
    Exactly(u32),
    /// It is at least the attempt of this number: the broker says that it has handed it out before, and does not count.
    AtLeast(u32),
}

/// A subscriber to tasks.
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

    /// The body as a type of one's own.
    ///
    /// # Errors
    /// `Decode` when it has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.body.deserialize()
    }

    /// True when the sender wants no reply.
    #[must_use]
    pub fn is_no_reply(&self) -> bool {
        self.no_reply
    }

    /// True when the broker has handed this task out before; whoever had it may have run it.
    #[must_use]
    pub fn is_redelivered(&self) -> bool {
        self.redelivered
    }

    /// True when its sender has sent it more than once, for it could not know whether the first had arrived; whoever had that
    /// may have run it.
    #[must_use]
    pub fn is_resent(&self) -> bool {
        self.resent
    }

    /// Which attempt this is. Counted are those that [`Failure::TryAgain`](super::Failure::TryAgain) asked for.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Watches whether the task is still this handler's own. When the connection is lost the broker takes the task back and
    /// may hand it to another worker, while this one still runs: a handler that must not run beside another should stop then.
    /// Where the broker hands it out to this communicator again, the running handler keeps it, and its outcome counts.
    ///
    /// # Errors
    /// `Full` when the current home has as many futures open as it may have.
    pub fn ownership_lost(&self) -> Result<OwnershipLost> {
        let (watch, signal) = signal()?;
        self.shared.0.tell(Command::WatchTask { task: self.task, watch });
        Ok(OwnershipLost(signal))
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
#[derive(Debug)]
#[must_use = "a future that is not awaited says nothing; or ask `is_lost`"]
pub struct OwnershipLost(Signal);

impl OwnershipLost {
    /// True once the task is known to be away, for work that has no await in it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.is_given()
    }
}

impl Future for OwnershipLost {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Whether somebody has begun with a task that was handed to a home.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicU8>);

const WITHDRAWN: u8 = 1;
const TAKEN: u8 = 2;

impl Claim {
    /// By the home, which begins with it. False when it was withdrawn.
    ///
    /// Guards: a task that lies at a busy home while its connection goes. The broker hands it out again, and it would run
    /// here too.
    pub(crate) fn take(&self) -> bool {
        // Ordering: Relaxed, for the two only compete for the one change.
        self.0.compare_exchange(0, TAKEN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// By the driver. False when it was begun.
    pub(crate) fn withdraw(&self) -> bool {
        self.0.compare_exchange(0, WITHDRAWN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The task of one subscriber at its home. Each task of the queue has a task of its own here, up to the prefetch.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    home: Home,
    identifier: Identifier,
    handler: Handler<TaskRequest>,
    tasks: mpsc::UnboundedReceiver<TaskDelivery>,
) {
    let mut inlet = Inlet { shared: Arc::clone(&shared), identifier, tasks };
    while let Some(delivery) = inlet.tasks.recv().await {
        let TaskDelivery { hold, body } = delivery;
        let (handler, identifier, at) = (handler.clone(), inlet.identifier.clone(), home.clone());
        home.spawn_uncounted(async move {
            if !hold.claim.take() {
                return hold.release();
            }
            tracing::debug!(%identifier, message_id = ?hold.message_id, redelivered = hold.redelivered, "handling a task");
            if let Some((hold, request)) = read(hold, body) {
                let answered = handler.run(&at, request).await;
                hold.answer(answered).await;
            }
        });
    }
}

/// Where a subscriber's tasks come in. When its home ends, it unsubscribes, and what is left goes back.
struct Inlet {
    shared: Arc<Shared>,
    identifier: Identifier,
    tasks: mpsc::UnboundedReceiver<TaskDelivery>,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.tasks.close();
        // No news to a driver that took this subscriber out itself.
        self.shared.tell(Command::Sweep);
        // What is left goes back as it is dropped.
    }
}

/// One task in hand, until it is settled. Dropped before that, by a home that ends for instance, the task goes back.
pub(crate) struct Hold {
    pub shared: Arc<Shared>,
    pub task: TaskId,
    pub claim: Claim,
    pub redelivered: bool,
    pub resent: bool,
    pub attempt: Attempt,
    pub message_id: Option<String>,
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
    pub settled: bool,
}

impl Hold {
    /// For the driver, which could not hand the task to anybody and looks after it itself.
    pub(crate) fn release(mut self) {
        self.settled = true;
    }

    async fn answer(mut self, mut answered: Answered) {
        loop {
            let response = match answered {
                Ok(Answer::Later(later)) => {
                    if let Some(reply) = self.reply(Response::Pending) {
                        self.shared.tell(Command::Reply(reply));
                    }
                    answered = later.answered().await;
                    continue;
                }
                Ok(Answer::Value(value)) => Response::Result(value),
                Err(Failure::Exception(text)) => Response::Exception(text),
                Err(Failure::Rejected(_)) => return self.settle(Settlement::Rejected),
                Err(Failure::TryAgain(reason)) => return self.try_again(reason),
                // kiwipy nacks at once and spins; the pause is ours.
                Err(Failure::Cancelled) => return self.settle(Settlement::Requeue(Requeue::AfterPause)),
            };
            let reply = self.reply(response);
            return self.settle(Settlement::Done { reply });
        }
    }

    fn reply(&self, response: Response) -> Option<super::command::OutgoingReply> {
        let (reply_to, correlation_id) = (self.reply_to.as_deref(), self.correlation_id.as_deref());
        outgoing(&self.shared, ReplyExchange::Task, reply_to, correlation_id, response)
    }

    fn settle(&mut self, settlement: Settlement) {
        if !std::mem::replace(&mut self.settled, true) {
            self.shared.tell(Command::Settle { task: self.task, settlement });
        }
    }

    fn try_again(mut self, reason: String) {
        let reply = self.reply(Response::Exception(format!("it was tried as often as may be; at last: {reason}")));
        self.settle(Settlement::TryAgain { reason, reply });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.settle(Settlement::Requeue(Requeue::AtOnce));
    }
}

/// Reads a task's body: `(task, no_reply)`, any sequence of two. One that cannot be read is settled here: it goes to the
/// quarantine queue, and whoever sent it hears so.
fn read(mut hold: Hold, body: crate::broker::Body) -> Option<(Hold, TaskRequest)> {
    match hold.shared.decode(body).and_then(parts) {
        Ok((body, no_reply)) => {
            if no_reply {
                // kiwipy's senders put the queue there all the same.
                hold.reply_to = None;
            } else if hold.reply_to.is_none() {
                count(&hold.shared.counters.replies_not_wanted);
            }
            let request = TaskRequest {
                body,
                no_reply,
                redelivered: hold.redelivered,
                resent: hold.resent,
                attempt: hold.attempt,
                message_id: hold.message_id.clone(),
                correlation_id: hold.correlation_id.clone(),
                task: hold.task,
                shared: SharedRef(Arc::clone(&hold.shared)),
            };
            Some((hold, request))
        }
        Err(error) => {
            let reason = format!("the task's body cannot be read: {error}");
            let reply = hold.reply(Response::Exception(reason.clone()));
            hold.settle(Settlement::Quarantine { reason, reply });
            None
        }
    }
}

/// What a task's message holds: the task, and whether its sender wants no reply.
pub(crate) fn parts(value: Value) -> Result<(Value, bool)> {
    let items = match value {
        Value::Tuple(items) | Value::List(items) => items,
        _ => Vec::new(),
    };
    match <[Value; 2]>::try_from(items) {
        Ok([body, no_reply]) => Ok((body, no_reply.is_truthy())),
        Err(_) => Err(Error::new(
            ErrorKind::Decode,
            "a task's body must be a sequence of two, the task and whether no reply is wanted",
        )),
    }
}

/// A task that was taken from its queue, to be processed or to go back.
///
/// Dropped without an outcome, it goes back to its queue.
#[must_use = "a task that is dropped goes back to its queue"]
pub struct IncomingTask {
    hold: Hold,
    request: TaskRequest,
}

impl IncomingTask {
    /// Reads a task that was delivered; `None` when it went to the quarantine queue instead.
    pub(crate) fn read(delivery: TaskDelivery) -> Option<Self> {
        let TaskDelivery { hold, body } = delivery;
        read(hold, body).map(|(hold, request)| IncomingTask { hold, request })
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
    /// sender hears `pending` at once, and the rest happens in a task of the current home. A task that is rejected or
    /// cancelled goes back.
    pub fn finish(self, outcome: impl super::answer::IntoAnswered) {
        let IncomingTask { mut hold, .. } = self;
        let outcome = outcome.into_answered();
        match outcome {
            // Nobody else looks at a task that was taken, so that a rejection is a return.
            Err(Failure::Rejected(_)) => hold.settle(Settlement::Requeue(Requeue::AtOnce)),
            Ok(Answer::Later(_)) => Home::current().spawn_uncounted(hold.answer(outcome)),
            Ok(Answer::Value(value)) => {
                let reply = hold.reply(Response::Result(value));
                hold.settle(Settlement::Done { reply });
            }
            Err(Failure::Exception(text)) => {
                let reply = hold.reply(Response::Exception(text));
                hold.settle(Settlement::Done { reply });
            }
            Err(Failure::Cancelled) => hold.settle(Settlement::Requeue(Requeue::AfterPause)),
            Err(Failure::TryAgain(reason)) => hold.try_again(reason),
        }
    }

    /// Runs the task here and ends it with the outcome; a panic is an exception to its sender. A value or an error goes to
    /// the sender; nothing is handed to the caller.
    pub fn process<R: super::answer::IntoAnswered>(self, handler: impl FnOnce(&TaskRequest) -> R) {
        let request = self.request.clone();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(&request).into_answered()))
            .unwrap_or_else(|panic| Err(super::answer::panicked(&*panic)));
        self.finish(outcome);
    }

    /// Puts the task back into its queue. The same as dropping it, said aloud.
    pub fn requeue(self) {
        drop(self);
    }
}

impl fmt::Debug for IncomingTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingTask").field("message_id", &self.hold.message_id).finish_non_exhaustive()
    }
}
