//! What a subscriber answers, and what a subscriber is: an async function, a closure, or a closure that may block.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::failure::{Failure, HandlerError, HandlerResult};
use super::{Broadcast, RpcRequest, TaskRequest};
use crate::codec::Value;
use crate::error::{Error, Result};
use crate::home::{Completer, End, Home, HomeFuture};
use crate::observe::MessageSpan;
use crate::panics;
use crate::wire::names::Identifier;

/// A subscriber's answer: a value, or a future that answers later. The caller is notified of the latter at once (`pending` on
/// the wire), and again as often as futures answer with futures.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Answer, HandlerResult, RpcRequest, RpcSubscriber};
/// # let communicator = homing::Communicator::connect("memory:").await?;
/// let later = RpcSubscriber::closure(|_: RpcRequest| {
///     let (promise, answer) = Answer::promise()?;
///     // From any thread; the caller receives `pending` until then.
///     std::thread::spawn(move || promise.answer("done"));
///     HandlerResult::Ok(answer)
/// });
/// communicator.add_rpc_subscriber("later", later).await?;
/// assert_eq!(communicator.rpc_send("later", ()).await?.as_str(), Some("done"));
/// # communicator.close().await.map(drop) }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The outcome.
    Value(Value),
    /// The outcome will come.
    Later(Later),
}

/// How a handler has ended, or the future that it answered with.
pub(crate) type Answered = std::result::Result<Answer, HandlerError>;

/// How a handler has ended, through all futures that it answered with.
pub(super) type Settled = std::result::Result<Value, HandlerError>;

impl Answer {
    /// A value of any type that serde can write.
    ///
    /// # Errors
    /// When the value cannot be written; the caller gets it as an exception.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> HandlerResult {
        Ok(Answer::Value(Value::from_serialize(value)?))
    }

    /// An answer that the [`Promise`] gives, from any thread. Its home is the subscriber's: made inside a handler, its
    /// outcome lands where the handler ran.
    ///
    /// ```
    /// use homing::{Answer, Failure};
    ///
    /// let (promise, answer) = Answer::promise()?;
    /// std::thread::spawn(move || promise.fail(Failure::Exception("from a foreign thread".into())));
    /// // In a handler: return Ok(answer).
    /// # drop(answer);
    /// # Ok::<(), homing::Error>(())
    /// ```
    ///
    /// # Errors
    /// `Full` when as many futures are open at this home as may be; `HomeEnded` when it has ended.
    pub fn promise() -> Result<(Promise, Answer)> {
        let made = Home::current().try_future::<Answered>();
        let (completer, future) = made.map_err(|error| Error::reserve("a promise", error))?;
        let later = Later::new(async move {
            match future.await {
                Ok(answered) => answered,
                Err(End::Cancelled) => Err(HandlerError::of_failure(Failure::Cancelled)),
                Err(end) => Err(HandlerError::exception(end.to_string())),
            }
        });
        Ok((Promise(completer), Answer::Later(later)))
    }

    /// The last concrete outcome: of the answer, or of the answer that its future brings, or of what that one brings.
    ///
    /// # Errors
    /// The failure of the first that fails; a panic is one.
    ///
    /// # Cancel safety
    /// Dropped, it drops the answer that it waits for.
    pub async fn outcome(self) -> std::result::Result<Value, Failure> {
        settled(std::future::ready(Ok(self)), NOBODY).await.map_err(Failure::from)
    }

    /// The answer of a future, which is awaited at the subscriber's home.
    pub fn later<R: IntoResponse + 'static>(future: impl Future<Output = R> + Send + 'static) -> Self {
        Answer::Later(Later::new(future.map(answered)))
    }
}

/// An answer to come.
pub struct Later(Pin<Box<dyn Future<Output = Answered> + Send>>);

impl Later {
    fn new(future: impl Future<Output = Answered> + Send + 'static) -> Self {
        Later(Box::pin(future))
    }

    /// Waits for it; a panic in it is a failure like another.
    pub(crate) async fn answered(self) -> Answered {
        outcome(self.0).await
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

/// Answers a request later, from any thread, once. If it is dropped, the answer is an exception.
///
/// A second answer does not compile, as here:
///
/// # Examples
///
/// ```compile_fail,E0382
/// # fn f() -> homing::Result<()> {
/// let (promise, _answer) = homing::Answer::promise()?;
/// promise.answer(1);
/// promise.fail(homing::Failure::Cancelled);
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "a promise that is dropped answers with an exception"]
pub struct Promise(Completer<Answered>);

impl Promise {
    /// Answers. If the subscriber's home has ended, nobody waits any more, and the answer is dropped.
    pub fn answer(self, answer: impl Into<Answer>) {
        drop(self.0.complete(Ok(answer.into())));
    }

    /// Fails.
    pub fn fail(self, error: impl Into<HandlerError>) {
        drop(self.0.complete(Err(error.into())));
    }

    /// Answers with what a call returns; its error or its panic fails the promise. The caller of this goes on either way.
    ///
    /// ```
    /// let (promise, answer) = homing::Answer::promise()?;
    /// std::thread::spawn(move || promise.capture(|| "x".parse::<i32>()));
    /// let outcome = homing::blocking::wait(async { Ok(answer.outcome().await) })?;
    /// assert!(matches!(outcome, Err(homing::Failure::Exception(text)) if text.contains("invalid digit")));
    /// # Ok::<(), homing::Error>(())
    /// ```
    pub fn capture<R: IntoResponse>(self, call: impl FnOnce() -> R) {
        drop(self.0.complete(caught(|| answered(call()))));
    }

    /// True when nobody waits for the answer any more: the handler was dropped, or its home has ended.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.0.is_unwanted()
    }

    /// Cancels: the same as failing with [`Failure::Cancelled`].
    pub fn cancel(self) {
        self.0.cancel();
    }
}

/// What a handler may return: an [`Answer`]; anything that converts to a [`Value`], such as nothing, a number, a string, a
/// `Vec`, an `Option` or a `serde_json::Value`; or a `Result` of these, with any error that converts to a [`HandlerError`].
///
/// Types of your own are answers by [`Answer::of`], or as the result of a typed handler
/// ([`RpcSubscriber::typed`](crate::RpcSubscriber::typed)).
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "the handler returns `{Self}`",
    note = "a handler returns an `Answer`, something that converts to a `Value` (nothing, a number, a string, a `Vec`, an \
            `Option`, a `serde_json::Value`), or a `Result` of these, with any error",
    note = "a type that implements `serde::Serialize` is returned as `Answer::of(&value)`, or by a handler for \
            `RpcSubscriber::typed` or `TaskSubscriber::typed`"
)]
pub trait IntoResponse {
    /// The answer or the failure.
    ///
    /// # Errors
    /// The failure.
    fn into_response(self) -> HandlerResult;
}

// The compiler names the trait, with its notes, and not what this stands on.
#[diagnostic::do_not_recommend]
impl<T: Into<Answer>, E: Into<HandlerError>> IntoResponse for std::result::Result<T, E> {
    fn into_response(self) -> HandlerResult {
        self.map(Into::into).map_err(Into::into)
    }
}

#[diagnostic::do_not_recommend]
impl<T: Into<Value>> IntoResponse for T {
    fn into_response(self) -> HandlerResult {
        Ok(Answer::Value(self.into()))
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> HandlerResult {
        Ok(self)
    }
}

impl<T: Into<Value>> From<T> for Answer {
    fn from(value: T) -> Self {
        Answer::Value(value.into())
    }
}

/// What completes when a reply has come to its end.
pub(super) type Sent = Option<Completer<Result<()>>>;

/// Nobody is notified that an answer is put off.
pub(super) const NOBODY: Option<fn(Sent)> = None;

/// Follows what a handler answers through all futures that it answers with. `put_off` sends a `pending` for each, where somebody
/// is to have one: the next goes out when the one before has, so that an answer which is put off again and again fills nothing.
pub(super) async fn settled(handled: impl Future<Output = Answered>, put_off: Option<impl Fn(Sent)>) -> Settled {
    let mut before: Option<HomeFuture<Result<()>>> = None;
    let mut answered = handled.await;
    loop {
        match answered? {
            Answer::Value(value) => return Ok(value),
            Answer::Later(later) => {
                if let Some(put_off) = &put_off {
                    if let Some(before) = before.take() {
                        // Whatever its end is, it is out of the way.
                        let _ = before.await;
                    }
                    let (completer, future) = Home::current().try_future().ok().unzip();
                    before = future;
                    put_off(completer);
                }
                answered = later.answered().await;
            }
        }
    }
}

/// How a handler has ended that returned this.
pub(crate) fn answered(returned: impl IntoResponse) -> Answered {
    returned.into_response()
}

/// A handler of messages of type `M`. It runs on the home that it is registered with, each message in a task of its own.
///
/// # Examples
///
/// ```
/// use homing::{HandlerResult, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber};
///
/// // An async function, a closure that returns soon, and one that may block.
/// async fn greet(request: RpcRequest) -> HandlerResult<String> {
///     Ok(format!("hello {}", request.decode::<String>()?))
/// }
/// let greet = RpcSubscriber::future(greet);
/// let count = RpcSubscriber::closure(|request: RpcRequest| request.body().as_str().map(str::len));
/// let read = TaskSubscriber::blocking(|task: TaskRequest| -> HandlerResult<String> {
///     Ok(std::fs::read_to_string(task.decode::<String>()?)?)
/// });
/// # drop((greet, count, read));
/// ```
pub struct Subscriber<M> {
    pub(super) handler: Handler<M>,
    pub(super) max_in_flight: usize,
    pub(super) identifier: Option<Identifier>,
    pub(super) prefetch: Option<NonZeroU16>,
    pub(super) time_limit: Option<Duration>,
}

macro_rules! time_limit {
    ($($message:ty),*) => {$(
        impl Subscriber<$message> {
            /// How long a handler may take for one message, with what it answers later. Then its future is dropped, and the sender
            /// gets an exception. Default: no limit.
            ///
            /// A closure cannot be stopped: where it blocks a thread it goes on, and what it returns is dropped. One that has not
            /// begun by then, for want of a thread, does not run. What it waits for by a future of its own ends with it.
            ///
            /// ```
            /// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
            /// use std::time::Duration;
            /// use homing::{Communicator, RpcRequest, RpcSubscriber};
            ///
            /// let communicator = Communicator::connect("memory:").await?;
            /// let stuck = RpcSubscriber::future(|_: RpcRequest| std::future::pending::<i64>());
            /// let limited = stuck.with_time_limit(Duration::from_millis(20));
            /// communicator.add_rpc_subscriber("stuck", limited).await?;
            /// let error = communicator.rpc_send("stuck", ()).await.unwrap_err();
            /// assert!(error.to_string().contains("longer than its time limit"));
            /// # communicator.close().await.map(drop) }
            /// ```
            #[must_use]
            pub fn with_time_limit(mut self, limit: Duration) -> Self {
                self.time_limit = Some(limit);
                self
            }
        }
    )*};
}

time_limit!(RpcRequest, TaskRequest);

/// How many calls of one subscriber run side by side, unless it allows another number.
const MAX_IN_FLIGHT: usize = 10_000;

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) enum Handler<M> {
    Future(Arc<dyn Fn(M) -> BoxFuture<Answered> + Send + Sync>),
    Call(Arc<dyn Fn(M) -> Answered + Send + Sync>),
    Blocking(Arc<dyn Fn(M) -> Answered + Send + Sync>),
}

impl<M> Clone for Handler<M> {
    fn clone(&self) -> Self {
        match self {
            Handler::Future(handler) => Handler::Future(Arc::clone(handler)),
            Handler::Call(handler) => Handler::Call(Arc::clone(handler)),
            Handler::Blocking(handler) => Handler::Blocking(Arc::clone(handler)),
        }
    }
}

impl<M: Send + 'static> Subscriber<M> {
    /// An async function.
    pub fn future<F, R>(handler: impl Fn(M) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = R> + Send + 'static,
        R: IntoResponse + 'static,
    {
        let handler = move |message| -> BoxFuture<Answered> {
            // The call itself may panic too, so it is made inside the future.
            Box::pin(handler(message).map(answered))
        };
        Self::new(Handler::Future(Arc::new(handler)))
    }

    /// A closure that returns soon. On a tokio runtime it runs on a worker, which it should not block; on a loop or a thread it runs
    /// in its turn.
    pub fn closure<R: IntoResponse>(handler: impl Fn(M) -> R + Send + Sync + 'static) -> Self {
        Self::new(Handler::Call(Arc::new(move |message| answered(handler(message)))))
    }

    /// A closure that may block, and may use the [blocking API](crate::blocking). On a tokio runtime it runs on a thread for blocking
    /// work; on a loop or a thread it runs in its turn, and while it waits the other work of the home goes on.
    pub fn blocking<R: IntoResponse>(handler: impl Fn(M) -> R + Send + Sync + 'static) -> Self {
        Self::new(Handler::Blocking(Arc::new(move |message| answered(handler(message)))))
    }

    fn new(handler: Handler<M>) -> Self {
        Subscriber { handler, max_in_flight: MAX_IN_FLIGHT, identifier: None, prefetch: None, time_limit: None }
    }
}

macro_rules! typed {
    ($($message:ty),*) => {$(
        impl Subscriber<$message> {
            /// An async function from a type that serde reads to a `Result` of one that serde writes.
            ///
            /// A body that does not have the type's shape is [`Failure::Unreadable`], and the function is not called. For
            /// what is known of the message beside its body, use [`future`](Self::future) and `decode`.
            ///
            /// ```
            /// use homing::HandlerResult;
            ///
            /// #[derive(serde::Deserialize)]
            /// struct Ask { a: f64, b: f64 }
            /// #[derive(serde::Serialize)]
            /// struct Sum { sum: f64 }
            ///
            /// async fn add(ask: Ask) -> HandlerResult<Sum> {
            ///     Ok(Sum { sum: ask.a + ask.b })
            /// }
            ///
            #[doc = concat!("let subscriber = homing::Subscriber::<homing::", stringify!($message), ">::typed(add);")]
            /// # drop(subscriber);
            /// ```
            pub fn typed<T, F, R, E>(handler: impl Fn(T) -> F + Send + Sync + 'static) -> Self
            where
                T: DeserializeOwned,
                F: Future<Output = std::result::Result<R, E>> + Send + 'static,
                R: Serialize,
                E: Into<HandlerError>,
            {
                Self::future(move |message: $message| {
                    let called = message.decode::<T>().map(&handler).map_err(|error| unreadable(&error));
                    async move {
                        let returned = called?.await.map_err(Into::into)?;
                        Answer::of(&returned)
                    }
                })
            }
        }
    )*};
}

typed!(RpcRequest, TaskRequest, Broadcast);

fn unreadable(error: &Error) -> Failure {
    Failure::Unreadable(format!("the body cannot be read: {error}"))
}

impl Subscriber<RpcRequest> {
    /// How many calls may run side by side; the others wait at the broker, up to a minute by kiwipy's settings. Default 10,000.
    #[must_use]
    pub fn with_max_in_flight(mut self, calls: std::num::NonZeroUsize) -> Self {
        self.max_in_flight = calls.get().min(tokio::sync::Semaphore::MAX_PERMITS);
        self
    }
}

impl Subscriber<TaskRequest> {
    /// Under this identifier; by default under one that nobody else has.
    #[must_use]
    pub fn with_identifier(mut self, identifier: Identifier) -> Self {
        self.identifier = Some(identifier);
        self
    }

    /// With another prefetch than the communicator's
    /// ([`task_prefetch`](crate::CommunicatorBuilder::task_prefetch)). All subscribers of one queue on one communicator share
    /// a consumer, so that one with another prefetch than those before it is refused.
    #[must_use]
    pub fn with_prefetch(mut self, tasks: NonZeroU16) -> Self {
        self.prefetch = Some(tasks);
        self
    }
}

impl Subscriber<Broadcast> {
    /// Under this identifier; by default under one that nobody else has.
    #[must_use]
    pub fn with_identifier(mut self, identifier: Identifier) -> Self {
        self.identifier = Some(identifier);
        self
    }
}

impl<M> fmt::Debug for Subscriber<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber").finish_non_exhaustive()
    }
}

impl<M: Send + 'static> Handler<M> {
    /// Runs it on this home, where the caller is. A panic is a failure like another.
    pub(crate) async fn run(self, home: &Home, message: M) -> Answered {
        match self {
            Handler::Future(handler) => {
                let handled = match catch_unwind(AssertUnwindSafe(|| handler(message))) {
                    Ok(handled) => outcome(handled).await,
                    Err(panic) => Err(panicked(panic)),
                };
                panics::drop_guarded(handler, HANDLER);
                handled
            }
            Handler::Call(handler) => caught(move || handler(message)),
            Handler::Blocking(handler) => {
                let (completer, future) = match home.try_future::<Answered>() {
                    Ok(pair) => pair,
                    Err(error) => return Err(HandlerError::exception(format!("the subscriber cannot run: {error}"))),
                };
                let span = MessageSpan::current();
                let called = home.spawn_blocking(move || {
                    // Guards: a handler that waited for a thread until its time was over, and whose sender has that outcome.
                    if completer.is_unwanted() {
                        return;
                    }
                    let _allowed = crate::home::allow();
                    let answered = span.in_scope(|| caught(move || handler(message)));
                    // At home, or on a thread of it, as all that is a program's own.
                    drop(span);
                    // Where the home has ended, its subscriber's requests are answered by their own drop.
                    drop(completer.complete(answered));
                });
                if let Err(reason) = called {
                    return Err(HandlerError::exception(format!("the subscriber cannot run: {reason}")));
                }
                future.await.unwrap_or_else(|end| Err(HandlerError::exception(end.to_string())))
            }
        }
    }
}

/// As the log names what may panic as it is dropped.
const HANDLER: &str = "a handler";

/// What a future of a program's own brings. A panic in it is a failure like another.
async fn outcome(mut future: BoxFuture<Answered>) -> Answered {
    let answered = AssertUnwindSafe(&mut future).catch_unwind().await;
    // Guards: a future that panics as it is dropped, and would take the outcome along that is there.
    panics::drop_guarded(future, HANDLER);
    answered.unwrap_or_else(|panic| Err(panicked(panic)))
}

pub(super) fn caught(call: impl FnOnce() -> Answered) -> Answered {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(panic)))
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> HandlerError {
    HandlerError::exception(format!("the subscriber panicked: {}", panics::text(panic)))
}
