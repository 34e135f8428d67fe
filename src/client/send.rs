//! What is sent, as one builds it: a call, a task, a broadcast. Nothing goes out until it is polled.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;

use super::body::Body;
use super::reply::Reply;
use crate::broker::Routing;
use crate::codec::Value;
use crate::driver::command::{
    Command, Expected, Extra, Extras, Published, QueueName, RawReply, Repeat, Subject, TaskReply, Timeout,
};
use crate::driver::port::{Charge, Place, Port, Turn, WhenFull, limit};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Home;
use crate::observe::{MessageKind, Outgoing};
use crate::sending::{Running, Sending};
use crate::serve::Context;
use crate::wire::broadcast::{self, Content};
use crate::wire::delay::Delay;
use crate::wire::names::{BROADCAST_TOPIC, Identifier};
use crate::wire::task::{self, NoReply, encode};
use crate::wire::unique::UniqueKey;

/// The outcome as the type that is wanted.
#[allow(clippy::manual_async_fn, reason = "the reply would stand twice in the future of an async function")]
fn typed<T: DeserializeOwned + 'static>(mut reply: Reply) -> impl Future<Output = Result<T>> + Send {
    async move {
        let mut value = Some(reply.last().await?);
        // A value is handed on as it is.
        let wanted: &mut dyn Any = &mut value;
        if let Some(value) = wanted.downcast_mut::<Option<T>>().and_then(Option::take) {
            return Ok(value);
        }
        value.unwrap_or(Value::Null).deserialize().map_err(|error: Error| {
            let text = format!("{}: the answer cannot be read: {error}", reply.what());
            Error::with_source(error.kind(), text, error)
        })
    }
}

/// A message that was not sent.
fn failed<T>(error: Error) -> Running<T> {
    Box::pin(async move { Err(error) })
}

/// How long is waited for room, and until when the first reply is due. The request's time runs since then. A task that is held
/// back has more time for its reply, and not to be taken over where its sender waits for that.
fn limits(
    timeout: Timeout,
    held_back: Duration,
    since: Instant,
    published: Option<&Published>,
) -> (Option<Instant>, Option<Instant>) {
    let after = |held_back| timeout.limit().map(|time| crate::time::after(since, time.saturating_add(held_back)));
    let due = after(held_back);
    (if published.is_some() { after(Duration::ZERO) } else { due }, due)
}

/// A request whose body is encoded: it goes out once there is a place for its reply.
struct Request<F> {
    context: Context,
    subject: Subject,
    bytes: usize,
    timeout: Timeout,
    /// How long a task is held back before its time to answer begins.
    held_back: Duration,
    command: F,
}

impl<F: FnOnce(Expected, Option<Published>) -> Command> Request<F> {
    /// If there is room for it just now.
    fn try_send(self) -> Result<Reply> {
        let due = limit(self.timeout.limit().map(|time| time.saturating_add(self.held_back)));
        let place = Home::current().try_future().map_err(|error| Error::reserve(&self.subject, error))?;
        self.submit(place, None, due, WhenFull::Refuse, None)
    }

    /// When there is room for it. The reply comes to this home.
    async fn send(self, home: &Home, published: Option<Published>, since: Instant) -> Result<Reply> {
        let (room_by, due) = limits(self.timeout, self.held_back, since, published.as_ref());
        let place = match self.context.port.place_now(home) {
            Some(place) => place,
            // In a box, as everything large that mostly is not needed.
            None => Box::pin(Port::future_at(&self.context.port, home, &self.subject, room_by)).await?,
        };
        self.submit(place, published, due, WhenFull::Wait, room_by)
    }

    /// Sends it when there is room for it, and waits for its outcome. To be called where the outcome is awaited, which is mostly
    /// without having to wait for room: then what is left to be done is small.
    fn outcome<T: DeserializeOwned + 'static>(self) -> Running<T>
    where
        F: Send + 'static,
    {
        let (home, since) = (Home::current(), crate::time::now());
        let Some(place) = self.context.port.place_now(&home) else {
            return Box::pin(async move { typed(self.send(&home, None, since).await?).await });
        };
        let (room_by, due) = limits(self.timeout, self.held_back, since, None);
        match self.submit(place, None, due, WhenFull::Wait, room_by) {
            Ok(reply) => Box::pin(typed(reply)),
            Err(error) => failed(error),
        }
    }

    fn submit(
        self,
        (reply, future): Place<RawReply>,
        published: Option<Published>,
        due: Option<Instant>,
        when_full: WhenFull,
        room_by: Option<Instant>,
    ) -> Result<Reply> {
        let Request { context, subject, bytes, timeout, command, .. } = self;
        let correlation = crate::ids::unique();
        let mut outgoing = subject.outgoing(&context, Some(correlation), bytes);
        let mut command = command(Expected { correlation, reply, timeout, due }, published);
        command.trace(outgoing.trace(&context));
        let submitted = context.port.submit(&subject, bytes, command, when_full, room_by);
        if submitted.is_err() {
            outgoing.end(&submitted);
        }
        Ok(Reply::new(context, correlation, submitted?, future, timeout, subject, outgoing))
    }
}

/// Sends a request, and waits until the broker has taken it over. The reply comes to this home.
async fn confirmed<F: FnOnce(Expected, Option<Published>) -> Command>(
    port: &Port,
    home: &Home,
    what: &'static str,
    timeout: Timeout,
    encoded: impl FnOnce() -> Result<Request<F>>,
) -> Result<Reply> {
    // Guards: a timeout that begins anew with the second place at a full home.
    let since = crate::time::now();
    let until = timeout.limit().map(|time| crate::time::after(since, time));
    let (published, taken_over) = port.future(&what, until).await?;
    let reply = encoded()?.send(home, Some(published), since).await?;
    taken_over.await.map_err(|end| port.ended(end, what))??;
    Ok(reply)
}

/// A call to be sent. Await it for its outcome, as a [`Value`] or as the type [`returning`](RpcSend::returning) names;
/// or [`send`](RpcSend::send) it and take its reply stage by stage.
///
/// It is a future: `tokio::spawn(communicator.rpc_send("name", 1))` runs it as a task. Its options count up to its first poll.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use std::time::Duration;
/// use homing::{ErrorKind, RpcRequest, RpcSubscriber};
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// let double = RpcSubscriber::closure(|request: RpcRequest| request.body().as_i64().map(|n| 2 * n));
/// communicator.add_rpc_subscriber("double", double).await?;
/// let doubled = communicator.rpc_send("double", 21).timeout(Duration::from_secs(5)).await?;
/// assert_eq!(doubled.as_i64(), Some(42));
/// let nobody = communicator.rpc_send("nobody", 21).await.unwrap_err();
/// assert_eq!(nobody.kind(), ErrorKind::Unroutable);
/// # communicator.close().await.map(drop) }
/// ```
///
/// # Cancel safety
/// Dropped before it was polled, nothing is sent. Dropped later, the call may or may not have been sent; its reply is dropped,
/// and a subscriber of homing is notified ([`caller_gone`](crate::RpcRequest::caller_gone)).
#[must_use = "nothing is sent until it is awaited"]
pub struct RpcSend<T = Value> {
    sending: Sending<Call, T>,
    returns: PhantomData<fn() -> T>,
}

struct Call {
    context: Context,
    recipient: Result<Identifier>,
    body: Body,
    timeout: Timeout,
    repeat: Repeat,
}

/// A task to be sent. Await it for its outcome, as a [`Value`] or as the type [`returning`](TaskSend::returning) names; or
/// [`send`](TaskSend::send) it and take its reply stage by stage.
///
/// It is a future. Its options count up to its first poll.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{TaskRequest, TaskSubscriber};
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// communicator.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await?;
/// // With its outcome, or without.
/// assert_eq!(communicator.task_send("work").await?.as_str(), Some("work"));
/// communicator.task_send("work").no_reply().await?;
/// # communicator.close().await.map(drop) }
/// ```
///
/// # Cancel safety
/// Dropped before it was polled, nothing is sent. Dropped later, the task may or may not have been sent; its reply is dropped.
#[must_use = "nothing is sent until it is awaited"]
pub struct TaskSend<T = Value> {
    sending: Sending<Task, T>,
    returns: PhantomData<fn() -> T>,
}

struct Task {
    context: Context,
    queue: QueueName,
    body: Body,
    /// As it was set.
    timeout: Option<Timeout>,
    delay: Option<Delay>,
    priority: Option<u8>,
    /// A key, and the time within which only one task may have it.
    unique: Option<(Arc<str>, Duration)>,
}

/// A task to be sent whose outcome nobody waits for. Awaited, it resolves when the broker has taken it over.
///
/// # Cancel safety
/// Dropped, the task may or may not have been sent.
#[must_use = "nothing is sent until it is awaited"]
pub struct TaskSendNoReply(Sending<Result<Task>, ()>);

/// A broadcast to be sent. Awaited, it resolves when the broker has taken it over.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// communicator.broadcast_send("finished").subject("job.finished").sender(4).await?;
/// # communicator.close().await.map(drop) }
/// ```
///
/// # Cancel safety
/// Dropped, the broadcast may or may not have been sent.
#[must_use = "nothing is sent until it is awaited"]
pub struct BroadcastSend(Sending<Broadcast, ()>);

struct Broadcast {
    context: Context,
    body: Body,
    sender: Value,
    subject: Value,
    correlation_id: Value,
    routing: Routing,
}

impl RpcSend {
    pub(super) fn new(context: Context, recipient: Result<Identifier>, body: Body) -> Self {
        let timeout = Timeout::After(context.defaults.call_timeout);
        let call = Call { context, recipient, body, timeout, repeat: Repeat::Never };
        RpcSend { sending: Sending::Built(call), returns: PhantomData }
    }
}

impl<T> RpcSend<T> {
    /// For errors.
    pub(super) fn what(&self) -> String {
        let recipient = self.sending.parts().and_then(|call| call.recipient.as_ref().ok());
        recipient.map_or_else(|| "a call".to_owned(), |recipient| Subject::Call(recipient.clone()).to_string())
    }

    /// The outcome as a type that serde can read, where it is awaited.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use std::time::Duration;
    /// # let communicator = homing::Communicator::connect("memory:").await?;
    /// # let add = homing::RpcSubscriber::typed(|(a, b): (i64, i64)| async move { homing::HandlerResult::Ok(a + b) });
    /// # communicator.add_rpc_subscriber("add", add).await?;
    /// let limit = Duration::from_secs(5);
    /// let sum = communicator.rpc_send("add", vec![20, 22]).timeout(limit).returning::<i64>().await?;
    /// assert_eq!(sum, 42);
    /// # communicator.close().await.map(drop) }
    /// ```
    pub fn returning<U>(self) -> RpcSend<U> {
        RpcSend { sending: self.sending.map(|parts| parts), returns: PhantomData }
    }

    /// Waits this long for the answer, and again after each `pending`. Default: the communicator's
    /// [`call_timeout`](super::CommunicatorBuilder::call_timeout), 60 s.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.sending.set(|call| call.timeout = Timeout::After(time));
        self
    }

    /// Waits without a limit. The broker does not report that a recipient has died with the request, so the log reports the wait
    /// every minute.
    pub fn no_timeout(mut self) -> Self {
        self.sending.set(|call| call.timeout = Timeout::Never);
        self
    }

    /// The call may run twice without harm, since it reads something or sets it to a value. When the connection is lost before the
    /// broker has confirmed it, it is sent again. Otherwise such a call ends with *connection lost, delivery unknown*.
    pub fn idempotent(mut self) -> Self {
        self.sending.set(|call| call.repeat = Repeat::Allowed);
        self
    }

    /// Sends the call if the in-flight limit allows it now. Whether it arrives is known by the reply.
    ///
    /// # Errors
    /// `Full` when the limit on messages or bytes in flight, or that on open futures of the current home, is reached;
    /// `InvalidArgument` for the recipient; `Encode`; `HomeEnded`; `CommunicatorClosed`; `InvalidState` when it has been polled.
    pub fn try_send(self) -> Result<Reply> {
        self.sending.into_parts()?.encoded()?.try_send()
    }

    /// Sends the call and resolves when the broker has taken it over. While there is no connection it waits for one, up to
    /// its timeout.
    ///
    /// # Errors
    /// `Unroutable` when there is no subscriber of that name; `Encode`; `TimedOut`; `ConnectionLost` when it is not known
    /// whether it arrived; `CommunicatorClosed`; `InvalidArgument` for the recipient; `InvalidState` when it has been polled.
    ///
    /// # Cancel safety
    /// Dropped, the call may or may not have been sent; its reply is dropped.
    pub async fn send(self) -> Result<Reply> {
        self.send_for(&Home::current()).await
    }

    /// Sends the call as [`send`](Self::send) does, for another home: the reply comes to that one, and is to be awaited there. So a
    /// thread may wait until the broker has the call, while the answer wakes another one.
    ///
    /// # Errors
    /// As [`send`](Self::send); `HomeEnded` when the other home has ended.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_for(self, home: &Home) -> Result<Reply> {
        let call = self.sending.into_parts()?;
        let port = Arc::clone(&call.context.port);
        confirmed(&port, home, "a call", call.timeout, || call.encoded()).await
    }
}

impl Call {
    fn encoded(self) -> Result<Request<impl FnOnce(Expected, Option<Published>) -> Command>> {
        let Call { context, recipient, body, timeout, repeat } = self;
        let recipient = recipient?;
        let subject = Subject::Call(recipient.clone());
        let body = context.encode(body.into_value()?)?;
        let bytes = body.size();
        let command = move |expected, published| Command::Call {
            recipient,
            body,
            expected,
            published,
            repeat,
            charge: Charge::NOTHING,
            extras: Extras::default(),
        };
        Ok(Request { context, subject, bytes, timeout, held_back: Duration::ZERO, command })
    }
}

impl<T: DeserializeOwned + 'static> Future for RpcSend<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<T>> {
        self.sending.poll(context, |call| match call.encoded() {
            Ok(request) => request.outcome(),
            Err(error) => failed(error),
        })
    }
}

impl TaskSend {
    pub(super) fn new(context: Context, queue: QueueName, body: Body) -> Self {
        let task = Task { context, queue, body, timeout: None, delay: None, priority: None, unique: None };
        TaskSend { sending: Sending::Built(task), returns: PhantomData }
    }
}

impl<T> TaskSend<T> {
    /// For errors.
    pub(super) fn what(&self) -> String {
        self.sending.parts().map_or_else(|| "a task".to_owned(), |task| Subject::Task(task.queue.clone()).to_string())
    }

    /// The outcome as a type that serde can read, where it is awaited.
    pub fn returning<U>(self) -> TaskSend<U> {
        TaskSend { sending: self.sending.map(|parts| parts), returns: PhantomData }
    }

    /// Waits this long for the outcome, and again after each `pending`. Default: the communicator's
    /// [`task_timeout`](super::CommunicatorBuilder::task_timeout), 7 days.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.sending.set(|task| task.timeout = Some(Timeout::After(time)));
        self
    }

    /// Waits without a limit; the log reports the wait every minute.
    pub fn no_timeout(mut self) -> Self {
        self.sending.set(|task| task.timeout = Some(Timeout::Never));
        self
    }

    /// Holds the task back for this long: only then does it come into its queue, whether or not there is a worker. The timeout of
    /// its reply begins only then, counted from the call: what comes late to the broker, since there is no connection, does not move it.
    ///
    /// Meanwhile it lies in a durable queue at the broker, `homing-delay-…`, which all tasks with the same delay and the same task
    /// queue share, and which is deleted when it is not used any more. It is not lost when its sender ends, or when the broker is
    /// stopped and started again, and RabbitMQ needs no plugin for it. At most 45 days. If the task queue is deleted before the time
    /// is over, the tasks that were held back for it are lost; so is one that comes due while an operator's policy has its queue
    /// refuse messages (`max-length` with `reject-publish`). An operator's policy with a shorter `message-ttl` shortens the delay, and
    /// one with a shorter `expires` loses what is held back, where it matches queues named `homing-…`.
    ///
    /// RabbitMQ does not confirm to itself what it moves when the time is over. If it is *killed*, or its machine loses power, it
    /// may lose tasks that were due and waited for a worker, and it may hand out a task that was done shortly before once more,
    /// without a mark. Tasks that are not held back have no such gap.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use std::time::Duration;
    /// use homing::{Communicator, TaskRequest, TaskSubscriber};
    ///
    /// let communicator = Communicator::connect("memory:").await?;
    /// communicator.add_task_subscriber(TaskSubscriber::closure(|task: TaskRequest| task.into_body())).await?;
    /// let begun = std::time::Instant::now();
    /// communicator.task_send("later").delay(Duration::from_millis(50)).await?;
    /// assert!(begun.elapsed() >= Duration::from_millis(50));
    /// # communicator.close().await.map(drop) }
    /// ```
    pub fn delay(mut self, time: Duration) -> Self {
        self.sending.set(|task| task.delay = Some(Delay::After(time)));
        self
    }

    /// Holds the task back until this time, by the clock of this machine; otherwise as [`delay`](Self::delay). A time that has
    /// passed is now. Tasks for the same time share a queue, `homing-until-…`.
    pub fn at(mut self, time: SystemTime) -> Self {
        self.sending.set(|task| task.delay = Some(Delay::At(time)));
        self
    }

    /// How urgent the task is, from 0, the default, up. It counts in a queue that has priorities, which is decided where the queue
    /// is declared first ([`task_priorities`](super::CommunicatorBuilder::task_priorities)); in another one it has no effect.
    /// While a task is held back it waits with all others.
    pub fn priority(mut self, priority: u8) -> Self {
        self.sending.set(|task| task.priority = Some(priority));
        self
    }

    /// Sends the task only if no other one with this key was sent to the same task queue within this time; otherwise the call ends
    /// with [`DuplicateTask`](crate::ErrorKind::DuplicateTask). Whoever sends counts, be it another program. The time begins when
    /// the key is taken, and a task that is [held back](Self::delay) has it from then on, too. At most 45 days.
    ///
    /// The broker keeps the key, in a small durable queue, `homing-unique-…`, which refuses a second message; all that is needed is
    /// what RabbitMQ comes with. The queue goes by itself a minute after the time. All senders of a key have to give the same
    /// time: those that give another one do not see each other.
    ///
    /// This is best effort, and not *exactly once*:
    ///
    /// - A sender that dies after it has taken the key and before it has sent the task keeps others from sending it until the time
    ///   is over. If it is not known whether the task has arrived, or whether the key is taken, the key stays, too; the error says so.
    ///   If it is certain that the broker has not taken the task over (its queue is full, for example), the key is free again, but for
    ///   one whose time is over within the [`operation_timeout`](super::CommunicatorBuilder::operation_timeout) anyway: that one stays.
    ///   For that the user has to have the right to read `homing-unique-…`.
    /// - A queue that refuses the key for another reason, such as an operator's policy of `max-length` 0, counts as one that has it.
    /// - Whoever deletes or purges the queue of a key frees it, and for the rest of its time more than one may have it.
    /// - The task may still wait or run when its time is over. Then the next one with its key is sent.
    /// - A task that comes again, since its worker died, is not affected.
    /// - Tasks of one sender are not sent in the order of their calls: one with a key waits for its key.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// use std::time::Duration;
    /// use homing::{Communicator, ErrorKind};
    ///
    /// let communicator = Communicator::connect("memory:").await?;
    /// let hour = Duration::from_secs(3600);
    /// communicator.task_send("report").unique("report of May", hour).no_reply().await?;
    /// let again = communicator.task_send("report").unique("report of May", hour).no_reply().await;
    /// match again {
    ///     Err(error) if error.kind() == ErrorKind::DuplicateTask => println!("it was sent before"),
    ///     other => panic!("{other:?}"),
    /// }
    /// communicator.task_send("report").unique("report of June", hour).no_reply().await?;
    /// # communicator.close().await.map(drop) }
    /// ```
    ///
    /// # Errors
    /// When it is sent: `DuplicateTask`; `InvalidArgument` for a time of 0 or of more than 45 days, and for a task queue with a name of
    /// more than about 190 bytes. One time limit holds for the key and the task together.
    ///
    /// # Cancel safety
    /// A call that is dropped after its first poll goes on: the task may or may not be sent. Its key is not left taken without it, unless
    /// the communicator closes or the program ends in between.
    pub fn unique(mut self, key: impl Into<String>, time: Duration) -> Self {
        let key: Arc<str> = key.into().into();
        self.sending.set(|task| task.unique = Some((key, time)));
        self
    }

    /// Asks for no reply. The broker may take as long to take the task over as [`timeout`](Self::timeout) says, or, where that was
    /// not set, as the communicator's [`call_timeout`](super::CommunicatorBuilder::call_timeout), 60 s;
    /// [`no_timeout`](Self::no_timeout) is for replies and changes nothing here.
    pub fn no_reply(self) -> TaskSendNoReply {
        TaskSendNoReply(Sending::Built(self.sending.into_parts()))
    }

    /// Sends the task if the in-flight limit leaves room for it now. Its fate is the reply's.
    ///
    /// # Errors
    /// `Full` when the limit on messages or bytes in flight, or that on open futures of the current home, is reached; `Encode`;
    /// `HomeEnded`; `CommunicatorClosed`; `InvalidState` when it has been polled.
    pub fn try_send(self) -> Result<Reply> {
        self.sending.into_parts()?.encoded()?.try_send()
    }

    /// Sends the task and resolves when the broker has taken it over: from then on it is in its queue.
    ///
    /// # Errors
    /// `TimedOut` when the broker has not taken it over within its timeout: it goes on without its sender, and may still be sent;
    /// `Encode`; `PreconditionFailed` when the queue exists with other arguments; `ConnectionLost`; `CommunicatorClosed`;
    /// `InvalidState` when it has been polled.
    ///
    /// # Cancel safety
    /// Dropped, the task may or may not have been sent; its reply is dropped.
    pub async fn send(self) -> Result<Reply> {
        self.send_for(&Home::current()).await
    }

    /// Sends the task as [`send`](Self::send) does, for another home: the reply comes to that one, and is to be awaited there.
    ///
    /// # Errors
    /// As [`send`](Self::send); `HomeEnded` when the other home has ended.
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_for(self, home: &Home) -> Result<Reply> {
        let task = self.sending.into_parts()?;
        let port = Arc::clone(&task.context.port);
        confirmed(&port, home, "a task", task.timeout(), || task.encoded()).await
    }
}

impl Task {
    fn encoded(self) -> Result<Request<impl FnOnce(Expected, Option<Published>) -> Command>> {
        let (extras, held_back) = self.extras()?;
        let timeout = self.timeout();
        let Task { context, queue, body, .. } = self;
        let subject = Subject::Task(queue.clone());
        let body = context.encode(encode(body.into_value()?, NoReply::No)).map_err(|error| error.within(task::BODY))?;
        let bytes = body.size();
        let command = move |expected, published| Command::Task {
            queue,
            body,
            reply: TaskReply::Expected(expected),
            published,
            charge: Charge::NOTHING,
            extras,
        };
        Ok(Request { context, subject, bytes, timeout, held_back, command })
    }

    /// How long its outcome is waited for.
    fn timeout(&self) -> Timeout {
        self.timeout.unwrap_or(Timeout::After(self.context.defaults.task_timeout))
    }

    /// What goes along with the message, and for how long it is held back.
    fn extras(&self) -> Result<(Extras, Duration)> {
        let first_to = match self.delay {
            Some(delay) => delay.first_to(&self.queue, crate::time::time_of_day())?,
            None => None,
        };
        let unique = match &self.unique {
            Some((key, time)) => Some(UniqueKey::new(Arc::clone(key), *time, &self.queue)?),
            None => None,
        };
        if first_to.is_none() && self.priority.is_none() && unique.is_none() {
            return Ok((Extras::default(), Duration::ZERO));
        }
        let held_back = first_to.as_ref().map_or(Duration::ZERO, |first| first.wait);
        let (first_to, due) = first_to.map_or((None, None), |first| (Some(first.queue), first.due));
        let extra = Extra { trace: None, priority: self.priority, first_to, due, unique };
        Ok((Extras(Some(Box::new(extra))), held_back))
    }

    async fn without_reply(self) -> Result<()> {
        let (extras, _) = self.extras()?;
        let Task { context, queue, body, timeout, .. } = self;
        let limit = timeout.and_then(Timeout::limit).unwrap_or(context.defaults.call_timeout);
        let until = crate::time::from_now(limit);
        let subject = Subject::Task(queue.clone());
        let body =
            context.encode(encode(body.into_value()?, NoReply::Yes)).map_err(|error| error.within(task::BODY))?;
        let bytes = body.size();
        let outgoing = subject.outgoing(&context, None, bytes);
        taken_over(&context, &subject, bytes, until, outgoing, |published| Command::Task {
            queue,
            body,
            reply: TaskReply::NotWanted { until },
            published: Some(published),
            charge: Charge::NOTHING,
            extras,
        })
        .await
    }
}

impl<T: DeserializeOwned + 'static> Future for TaskSend<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<T>> {
        self.sending.poll(context, |task| match task.encoded() {
            Ok(request) => request.outcome(),
            Err(error) => failed(error),
        })
    }
}

impl TaskSendNoReply {
    /// For errors.
    pub(super) fn what(&self) -> String {
        match self.0.parts() {
            Some(Ok(task)) => Subject::Task(task.queue.clone()).to_string(),
            _ => "a task".to_owned(),
        }
    }
}

impl Future for TaskSendNoReply {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        self.0.poll(context, |task| Box::pin(async move { task?.without_reply().await }))
    }
}

/// Sends a message whose outcome is that the broker has taken it over.
async fn taken_over(
    context: &Context,
    what: &(impl std::fmt::Display + Sync),
    bytes: usize,
    until: Instant,
    mut outgoing: Outgoing,
    command: impl FnOnce(Published) -> Command,
) -> Result<()> {
    let trace = outgoing.trace(context);
    let sending = async {
        let port = &context.port;
        let (published, outcome) = match port.place_now(&Home::current()) {
            Some(place) => place,
            None => Box::pin(port.future(what, Some(until))).await?,
        };
        let mut command = command(published);
        command.trace(trace);
        let turn = port.submit(what, bytes, command, WhenFull::Wait, Some(until))?;
        let _leave = turn.map(|turn| Leave(context, turn));
        outcome.await.map_err(|end| port.ended(end, what))?
    };
    let outcome = outgoing.span().around(sending).await;
    outgoing.end(&outcome);
    outcome
}

impl Subject {
    /// What an operator sees of it from here on.
    fn outgoing(&self, context: &Context, correlation: Option<Uuid>, bytes: usize) -> Outgoing {
        let names = &context.port.names;
        match self {
            Subject::Call(recipient) => {
                let (exchange, key) = (&names.message_exchange, recipient.routing_key());
                Outgoing::new(context, MessageKind::Call, exchange, &key, correlation, bytes)
            }
            Subject::Task(queue) => {
                Outgoing::new(context, MessageKind::Task, &names.task_exchange, queue, correlation, bytes)
            }
        }
    }
}

/// Takes a message that waits for its turn back when its sender goes.
struct Leave<'a>(&'a Context, Turn);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.port.leave(self.1);
    }
}

impl BroadcastSend {
    pub(super) fn new(context: Context, body: Body) -> Self {
        let (sender, subject, correlation_id) = (Value::Null, Value::Null, Value::Null);
        let routing = Routing::Optional;
        BroadcastSend(Sending::Built(Broadcast { context, body, sender, subject, correlation_id, routing }))
    }

    /// For errors.
    #[expect(clippy::unused_self, reason = "the others of its kind say what they are about")]
    pub(super) fn what(&self) -> String {
        "a broadcast".to_owned()
    }

    /// Who sends it: a process id of any type.
    pub fn sender(mut self, sender: impl Into<Value>) -> Self {
        self.0.set(|broadcast| broadcast.sender = sender.into());
        self
    }

    /// What it is about; subscribers filter by it.
    pub fn subject(mut self, subject: impl Into<Value>) -> Self {
        self.0.set(|broadcast| broadcast.subject = subject.into());
        self
    }

    /// An identifier of your own, for logs.
    pub fn correlation_id(mut self, correlation_id: impl Into<Value>) -> Self {
        self.0.set(|broadcast| broadcast.correlation_id = correlation_id.into());
        self
    }

    /// Fails with `Unroutable` if no communicator has a broadcast subscriber, whatever that one filters by. Without this, such a
    /// broadcast is dropped, and that is no error.
    ///
    /// A communicator whose connection was lost counts for as long as the broker keeps its queue.
    ///
    /// ```
    /// # use homing::{Communicator, ErrorKind};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
    /// let communicator = Communicator::connect("memory:").await?;
    /// let sent = communicator.broadcast_send("finished").subject("job.finished").mandatory().await;
    /// assert_eq!(sent.expect_err("nobody subscribes").kind(), ErrorKind::Unroutable);
    /// # communicator.close().await.map(drop) }
    /// ```
    pub fn mandatory(mut self) -> Self {
        self.0.set(|broadcast| broadcast.routing = Routing::Mandatory);
        self
    }
}

impl Broadcast {
    async fn send(self) -> Result<()> {
        let Broadcast { context, body, sender, subject, correlation_id, routing } = self;
        let content = Content { body: body.into_value()?, sender, subject, correlation_id };
        let body = context.encode(content.encode()).map_err(|error| error.within(broadcast::BODY))?;
        let until = crate::time::from_now(context.defaults.call_timeout);
        let bytes = body.size();
        let exchange = &context.port.names.message_exchange;
        let outgoing = Outgoing::new(&context, MessageKind::Broadcast, exchange, BROADCAST_TOPIC, None, bytes);
        let sent = taken_over(&context, &"a broadcast", bytes, until, outgoing, |published| Command::Broadcast {
            body,
            routing,
            published,
            until,
            charge: Charge::NOTHING,
            extras: Extras::default(),
        });
        sent.await.map_err(|error| match error.kind() {
            ErrorKind::Unroutable => {
                let text = format!("no communicator receives the broadcasts of {exchange:?}: this one was dropped");
                Error::with_source(ErrorKind::Unroutable, text, error)
            }
            _ => error,
        })
    }
}

impl Future for BroadcastSend {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Result<()>> {
        self.0.poll(context, |broadcast| Box::pin(broadcast.send()))
    }
}

macro_rules! debug {
    ($($name:ident $(<$t:ident>)?),*) => {$(
        /// Without the body.
        impl $(<$t>)? fmt::Debug for $name $(<$t>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("to", &self.what()).finish_non_exhaustive()
            }
        }
    )*};
}

debug!(RpcSend<T>, TaskSend<T>, TaskSendNoReply, BroadcastSend);
