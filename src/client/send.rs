//! What is sent, as one builds it: a call, a task, a broadcast. Nothing goes out until it is awaited.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::broadcast::Broadcast;
use super::command::{Command, Expected, Patience, RawReply, Repeat, What};
use super::names::Identifier;
use super::reply::Reply;
use super::shared::{Shared, home_ended};
use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Home, HomeFuture};

type Sending<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A future for the reply to a request, and what the driver needs of it.
async fn expect(what: &What, patience: Patience) -> Result<(Expected, HomeFuture<RawReply>)> {
    let (reply, future) = Home::current().future().await.map_err(|_| home_ended(what))?;
    Ok((Expected { correlation: Uuid::new_v4(), reply, patience }, future))
}

fn try_expect(what: &What, patience: Patience) -> Result<(Expected, HomeFuture<RawReply>)> {
    let (reply, future) = Home::current()
        .try_future()
        .map_err(|full| Error::with_source(ErrorKind::Full, format!("{what}: {full}"), full))?;
    Ok((Expected { correlation: Uuid::new_v4(), reply, patience }, future))
}

/// A call to be sent. Await it for its outcome, or [`send`](RpcSend::send) it and look at the stages.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct RpcSend {
    pub(super) shared: SharedRef,
    pub(super) recipient: Result<Identifier>,
    pub(super) body: Value,
    pub(super) patience: Patience,
    pub(super) repeat: Repeat,
}

/// A task to be sent. Await it for its outcome, or [`send`](TaskSend::send) it and look at the stages.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct TaskSend {
    pub(super) shared: SharedRef,
    pub(super) queue: Arc<str>,
    pub(super) body: Value,
    pub(super) patience: Patience,
}

/// A task to be sent whose outcome nobody waits for. Awaited, it resolves when the broker has taken it over.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct TaskSendNoReply(TaskSend);

/// A broadcast to be sent. Awaited, it resolves when the broker has taken it over.
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct BroadcastSend {
    pub(super) shared: SharedRef,
    pub(super) body: Value,
    pub(super) sender: Value,
    pub(super) subject: Value,
    pub(super) correlation_id: Value,
}

/// The shared state, silent in `Debug`.
#[derive(Clone)]
pub(crate) struct SharedRef(pub Arc<Shared>);

impl std::fmt::Debug for SharedRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.broker)
    }
}

impl RpcSend {
    /// For errors.
    pub(super) fn what(&self) -> String {
        self.recipient
            .as_ref()
            .map_or_else(|_| "a call".to_owned(), |recipient| What::Call(recipient.clone()).to_string())
    }

    /// Waits this long for the answer, and again after each `pending`. Default: the communicator's
    /// [`call_timeout`](super::Builder::call_timeout), 60 s.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.patience = Patience::For(time);
        self
    }

    /// Waits for ever. The broker gives no sign when a recipient dies with the request in hand, so that the wait is reported
    /// in the log every minute.
    pub fn no_timeout(mut self) -> Self {
        self.patience = Patience::ForEver;
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
        let shared = self.shared.0;
        let recipient = self.recipient?;
        let what = What::Call(recipient.clone());
        let body = shared.encode(self.body)?;
        let slot = shared.try_slot(&what, &body)?;
        let (expected, future) = try_expect(&what, self.patience)?;
        let correlation = expected.correlation;
        shared.send(Command::Rpc { recipient, body, expected, published: None, repeat: self.repeat, slot })?;
        Ok(Reply::new(shared, correlation, future, what))
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
        let shared = self.shared.0.clone();
        let (published, taken_over) = Home::current().future().await.map_err(|_| home_ended("a call"))?;
        let reply = self.dispatch(Some(published)).await?;
        taken_over.await.map_err(|end| shared.ended(end, "a call"))??;
        Ok(reply)
    }

    async fn dispatch(self, published: Option<super::command::Published>) -> Result<Reply> {
        let shared = self.shared.0;
        let recipient = self.recipient?;
        let what = What::Call(recipient.clone());
        let body = shared.encode(self.body)?;
        let slot = shared.slot(&what, &body, self.patience).await?;
        let (expected, future) = expect(&what, self.patience).await?;
        let correlation = expected.correlation;
        shared.send(Command::Rpc { recipient, body, expected, published, repeat: self.repeat, slot })?;
        Ok(Reply::new(shared, correlation, future, what))
    }
}

impl IntoFuture for RpcSend {
    type Output = Result<Value>;
    type IntoFuture = Sending<Value>;

    fn into_future(self) -> Sending<Value> {
        Box::pin(async move { self.dispatch(None).await?.outcome().await })
    }
}

impl TaskSend {
    /// For errors.
    pub(super) fn what(&self) -> String {
        What::Task(Arc::clone(&self.queue)).to_string()
    }

    /// Waits this long for the outcome, and again after each `pending`. Default: the communicator's
    /// [`task_timeout`](super::Builder::task_timeout), 7 days.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.patience = Patience::For(time);
        self
    }

    /// Waits for ever; reported in the log every minute.
    pub fn no_timeout(mut self) -> Self {
        self.patience = Patience::ForEver;
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
        let what = What::Task(Arc::clone(&self.queue));
        let shared = self.shared.0;
        let body = shared.encode(task_body(self.body, false))?;
        let slot = shared.try_slot(&what, &body)?;
        let (expected, future) = try_expect(&what, self.patience)?;
        let correlation = expected.correlation;
        shared.send(Command::Task { queue: self.queue, body, expected: Some(expected), published: None, slot })?;
        Ok(Reply::new(shared, correlation, future, what))
    }

    /// Sends the task and resolves when the broker has taken it over: from then on it is in its queue.
    ///
    /// # Errors
    /// `Encode`; `PreconditionFailed` when the queue exists with other arguments; `ConnectionLost`; `CommunicatorClosed`.
    ///
    /// # Cancel safety
    /// Dropped, the task may or may not have been sent; its reply is dropped.
    pub async fn send(self) -> Result<Reply> {
        let shared = self.shared.0.clone();
        let (published, taken_over) = Home::current().future().await.map_err(|_| home_ended("a task"))?;
        let reply = self.dispatch(Some(published)).await?;
        taken_over.await.map_err(|end| shared.ended(end, "a task"))??;
        Ok(reply)
    }

    async fn dispatch(self, published: Option<super::command::Published>) -> Result<Reply> {
        let what = What::Task(Arc::clone(&self.queue));
        let shared = self.shared.0;
        let body = shared.encode(task_body(self.body, false))?;
        let slot = shared.slot(&what, &body, self.patience).await?;
        let (expected, future) = expect(&what, self.patience).await?;
        let correlation = expected.correlation;
        shared.send(Command::Task { queue: self.queue, body, expected: Some(expected), published, slot })?;
        Ok(Reply::new(shared, correlation, future, what))
    }
}

impl IntoFuture for TaskSend {
    type Output = Result<Value>;
    type IntoFuture = Sending<Value>;

    fn into_future(self) -> Sending<Value> {
        Box::pin(async move { self.dispatch(None).await?.outcome().await })
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
            let shared = task.shared.0;
            let body = shared.encode(task_body(task.body, true))?;
            let slot = shared.slot("a task", &body, Patience::For(shared.call_timeout)).await?;
            shared
                .ask("a task", |done| Command::Task {
                    queue: task.queue,
                    body,
                    expected: None,
                    published: Some(done),
                    slot,
                })
                .await
        })
    }
}

/// kiwipy's `(task, no_reply)`.
fn task_body(body: Value, no_reply: bool) -> Value {
    Value::Tuple(vec![body, Value::Bool(no_reply)])
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
            let shared = self.shared.0;
            let value = Broadcast::into_value(self.body, self.sender, self.subject, self.correlation_id);
            let body = shared.encode(value)?;
            let slot = shared.slot("a broadcast", &body, Patience::For(shared.call_timeout)).await?;
            shared.ask("a broadcast", |published| Command::Broadcast { body, published, slot }).await
        })
    }
}
