//! What is sent, as one builds it: a call, a task, a broadcast. Nothing goes out until it is awaited.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;

use super::reply::Reply;
use crate::codec::Value;
use crate::driver::command::{Command, Expected, Published, QueueName, RawReply, Repeat, Subject, TaskReply, Timeout};
use crate::driver::port::{Charge, Turn, WhenFull, limit};
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Home, HomeFuture};
use crate::serve::Context;
use crate::wire::broadcast::Content;
use crate::wire::names::Identifier;
use crate::wire::task::{NoReply, encode};

type Sending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A future for the reply to a request, and what the driver needs of it. From here on the request's time runs.
async fn expect(context: &Context, subject: &Subject, timeout: Timeout) -> Result<(Expected, HomeFuture<RawReply>)> {
    let due = limit(timeout.limit());
    let (reply, future) = context.port.future(subject, due).await?;
    Ok((Expected { correlation: crate::ids::unique(), reply, timeout, due }, future))
}

/// The same without waiting.
fn try_expect(subject: &Subject, timeout: Timeout) -> Result<(Expected, HomeFuture<RawReply>)> {
    let due = limit(timeout.limit());
    let (reply, future) = Home::current()
        .try_future()
        .map_err(|full| Error::with_source(ErrorKind::Full, format!("{subject}: {full}"), full))?;
    Ok((Expected { correlation: crate::ids::unique(), reply, timeout, due }, future))
}

/// A request whose body is encoded: it goes out once there is a place for its reply.
struct Request<F> {
    context: Context,
    subject: Subject,
    bytes: usize,
    timeout: Timeout,
    command: F,
}

impl<F: FnOnce(Expected, Option<Published>) -> Command> Request<F> {
    /// If there is room for it just now.
    fn try_send(self) -> Result<Reply> {
        let expected = try_expect(&self.subject, self.timeout)?;
        self.submit(expected, None, WhenFull::Refuse)
    }

    /// When there is room for it.
    async fn send(self, published: Option<Published>) -> Result<Reply> {
        let expected = expect(&self.context, &self.subject, self.timeout).await?;
        self.submit(expected, published, WhenFull::Wait)
    }

    fn submit(
        self,
        (expected, future): (Expected, HomeFuture<RawReply>),
        published: Option<Published>,
        when_full: WhenFull,
    ) -> Result<Reply> {
        let Request { context, subject, bytes, timeout, command } = self;
        let (correlation, due) = (expected.correlation, expected.due);
        let turn = context.port.submit(&subject, bytes, command(expected, published), when_full, due)?;
        Ok(Reply::new(context, correlation, turn, future, timeout, subject))
    }
}

/// A call to be sent. Await it for its outcome, or [`send`](RpcSend::send) it and look at the stages.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct RpcSend {
    pub(super) context: Context,
    pub(super) recipient: Result<Identifier>,
    pub(super) body: Value,
    pub(super) timeout: Timeout,
    pub(super) repeat: Repeat,
}

/// A task to be sent. Await it for its outcome, or [`send`](TaskSend::send) it and look at the stages.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct TaskSend {
    pub(super) context: Context,
    pub(super) queue: QueueName,
    pub(super) body: Value,
    pub(super) timeout: Timeout,
}

/// A task to be sent whose outcome nobody waits for. Awaited, it resolves when the broker has taken it over.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct TaskSendNoReply(TaskSend);

/// A broadcast to be sent. Awaited, it resolves when the broker has taken it over.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct BroadcastSend {
    pub(super) context: Context,
    pub(super) body: Value,
    pub(super) sender: Value,
    pub(super) subject: Value,
    pub(super) correlation_id: Value,
}

impl RpcSend {
    /// For errors.
    pub(super) fn what(&self) -> String {
        self.recipient
            .as_ref()
            .map_or_else(|_| "a call".to_owned(), |recipient| Subject::Call(recipient.clone()).to_string())
    }

    /// Waits this long for the answer, and again after each `pending`. Default: the communicator's
    /// [`call_timeout`](super::Builder::call_timeout), 60 s.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Timeout::After(time);
        self
    }

    /// Waits for ever. The broker gives no sign when a recipient dies with the request in hand, so that the wait is reported
    /// in the log every minute.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = Timeout::Never;
        self
    }

    /// The call may be done twice without harm (it only asks, or sets something to a value): when the connection is lost before
    /// the broker has confirmed it, it is sent again. Otherwise such a call ends with *connection lost, delivery unknown*.
    pub fn repeatable(mut self) -> Self {
        self.repeat = Repeat::Allowed;
        self
    }

    /// Sends the call, if there is room for it just now. Its fate is the reply's.
    ///
    /// # Errors
    /// `Full` when as many messages or bytes as may be are under way; `InvalidArgument` for the recipient; `Encode`;
    /// `CommunicatorClosed`.
    pub fn try_send(self) -> Result<Reply> {
        self.encoded()?.try_send()
    }

    /// Sends the call and resolves when the broker has taken it over. While there is no connection it waits for one, up to
    /// its timeout.
    ///
    /// # Errors
    /// `Unroutable` when nobody listens under that name; `Encode`; `TimedOut`; `ConnectionLost` when it is not known whether it
    /// arrived; `CommunicatorClosed`;
    /// `InvalidArgument` for the recipient.
    ///
    /// # Cancel safety
    /// Dropped, the call may or may not have been sent; its reply is dropped.
    pub async fn send(self) -> Result<Reply> {
        let port = self.context.port.clone();
        let (published, taken_over) = port.future(&"a call", limit(self.timeout.limit())).await?;
        let reply = self.encoded()?.send(Some(published)).await?;
        taken_over.await.map_err(|end| port.ended(end, "a call"))??;
        Ok(reply)
    }

    fn encoded(self) -> Result<Request<impl FnOnce(Expected, Option<Published>) -> Command>> {
        let RpcSend { context, recipient, body, timeout, repeat } = self;
        let recipient = recipient?;
        let subject = Subject::Call(recipient.clone());
        let body = context.encode(body)?;
        let bytes = body.size();
        let command = move |expected, published| Command::Call {
            recipient,
            body,
            expected,
            published,
            repeat,
            charge: Charge::NOTHING,
        };
        Ok(Request { context, subject, bytes, timeout, command })
    }
}

impl IntoFuture for RpcSend {
    type Output = Result<Value>;
    type IntoFuture = Sending<Value>;

    fn into_future(self) -> Sending<Value> {
        Box::pin(async move { self.encoded()?.send(None).await?.outcome().await })
    }
}

impl TaskSend {
    /// For errors.
    pub(super) fn what(&self) -> String {
        Subject::Task(self.queue.clone()).to_string()
    }

    /// Waits this long for the outcome, and again after each `pending`. Default: the communicator's
    /// [`task_timeout`](super::Builder::task_timeout), 7 days.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Timeout::After(time);
        self
    }

    /// Waits for ever; reported in the log every minute.
    pub fn no_timeout(mut self) -> Self {
        self.timeout = Timeout::Never;
        self
    }

    /// Asks for no reply.
    pub fn no_reply(self) -> TaskSendNoReply {
        TaskSendNoReply(self)
    }

    /// Sends the task, if there is room for it just now. Its fate is the reply's.
    ///
    /// # Errors
    /// `Full` when as many messages or bytes as may be are under way; `Encode`; `CommunicatorClosed`.
    pub fn try_send(self) -> Result<Reply> {
        self.encoded()?.try_send()
    }

    /// Sends the task and resolves when the broker has taken it over: from then on it is in its queue.
    ///
    /// # Errors
    /// `Encode`; `PreconditionFailed` when the queue exists with other arguments; `ConnectionLost`; `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped, the task may or may not have been sent; its reply is dropped.
    pub async fn send(self) -> Result<Reply> {
        let port = self.context.port.clone();
        let (published, taken_over) = port.future(&"a task", limit(self.timeout.limit())).await?;
        let reply = self.encoded()?.send(Some(published)).await?;
        taken_over.await.map_err(|end| port.ended(end, "a task"))??;
        Ok(reply)
    }

    fn encoded(self) -> Result<Request<impl FnOnce(Expected, Option<Published>) -> Command>> {
        let TaskSend { context, queue, body, timeout } = self;
        let subject = Subject::Task(queue.clone());
        let body = context.encode(encode(body, NoReply::No))?;
        let bytes = body.size();
        let command = move |expected, published| Command::Task {
            queue,
            body,
            reply: TaskReply::Expected(expected),
            published,
            charge: Charge::NOTHING,
        };
        Ok(Request { context, subject, bytes, timeout, command })
    }
}

impl IntoFuture for TaskSend {
    type Output = Result<Value>;
    type IntoFuture = Sending<Value>;

    fn into_future(self) -> Sending<Value> {
        Box::pin(async move { self.encoded()?.send(None).await?.outcome().await })
    }
}

impl TaskSendNoReply {
    /// For errors.
    pub(super) fn what(&self) -> String {
        self.0.what()
    }
}

impl IntoFuture for TaskSendNoReply {
    type Output = Result<()>;
    type IntoFuture = Sending<()>;

    fn into_future(self) -> Sending<()> {
        Box::pin(async move {
            let TaskSendNoReply(task) = self;
            let subject = Subject::Task(task.queue.clone());
            let context = task.context;
            let body = context.encode(encode(task.body, NoReply::Yes))?;
            let until = crate::time::from_now(context.defaults.call_timeout);
            let (bytes, queue) = (body.size(), task.queue);
            taken_over(&context, &subject, bytes, until, |published| Command::Task {
                queue,
                body,
                reply: TaskReply::NotWanted { until },
                published: Some(published),
                charge: Charge::NOTHING,
            })
            .await
        })
    }
}

/// Sends a message whose outcome is that the broker has taken it over.
async fn taken_over(
    context: &Context,
    what: &(impl std::fmt::Display + Sync),
    bytes: usize,
    until: Instant,
    command: impl FnOnce(Published) -> Command,
) -> Result<()> {
    let port = &context.port;
    let (published, outcome) = port.future(what, Some(until)).await?;
    let turn = port.submit(what, bytes, command(published), WhenFull::Wait, Some(until))?;
    let _leave = turn.map(|turn| Leave(context, turn));
    outcome.await.map_err(|end| port.ended(end, what))?
}

/// Takes a message that waits for its turn back when its sender goes.
struct Leave<'a>(&'a Context, Turn);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.port.leave(self.1);
    }
}

impl BroadcastSend {
    /// For errors.
    #[expect(clippy::unused_self, reason = "the others of its kind say what they are about")]
    pub(super) fn what(&self) -> String {
        "a broadcast".to_owned()
    }

    /// Who sends it: a process id of any type.
    pub fn sender(mut self, sender: impl Into<Value>) -> Self {
        self.sender = sender.into();
        self
    }

    /// What it is about; subscribers filter by it.
    pub fn subject(mut self, subject: impl Into<Value>) -> Self {
        self.subject = subject.into();
        self
    }

    /// A mark of one's own.
    pub fn correlation_id(mut self, correlation_id: impl Into<Value>) -> Self {
        self.correlation_id = correlation_id.into();
        self
    }
}

impl IntoFuture for BroadcastSend {
    type Output = Result<()>;
    type IntoFuture = Sending<()>;

    fn into_future(self) -> Sending<()> {
        Box::pin(async move {
            let context = self.context;
            let content = Content {
                body: self.body,
                sender: self.sender,
                subject: self.subject,
                correlation_id: self.correlation_id,
            };
            let body = context.encode(content.encode())?;
            let until = crate::time::from_now(context.defaults.call_timeout);
            let bytes = body.size();
            taken_over(&context, &"a broadcast", bytes, until, |published| Command::Broadcast {
                body,
                published,
                until,
                charge: Charge::NOTHING,
            })
            .await
        })
    }
}
