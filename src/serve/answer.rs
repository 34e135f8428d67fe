//! What a subscriber answers, and what a subscriber is: an async function, a closure, or a closure that may block.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::Serialize;

use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Completer, End, Home};
use crate::panics;

/// A subscriber's answer: a value, or a future that answers later. The caller hears of the latter at once (`pending` on
/// the wire), and may go on to hear of it as often as futures answer with futures.
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The outcome.
    Value(Value),
    /// The outcome will come.
    Later(Later),
}

/// How a subscriber fails.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The caller gets this text as a remote exception.
    Exception(String),
    /// A task is not for this subscriber: the next one gets it, and after the last it goes back to the queue. A call ends
    /// with a remote exception.
    Rejected(String),
    /// Something that may pass was in the way (a database that was not there, say): a task is handed out again after a pause
    /// that grows, up to [`task_attempts`](crate::Builder::task_attempts) times, and then goes to the quarantine queue. A
    /// call ends with a remote exception.
    TryAgain(String),
    /// The work was cancelled. The caller of an RPC hears so; a task goes back to the queue after a pause.
    Cancelled,
}

/// What handlers return.
pub type Answered = std::result::Result<Answer, Failure>;

impl Answer {
    /// A value of any type that serde can write.
    ///
    /// # Errors
    /// As an exception, when the value cannot be written.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Answered {
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
    /// `Full` when as many futures are open at this home as may be.
    pub fn promise() -> Result<(Promise, Answer)> {
        let (completer, future) = Home::current()
            .try_future::<Answered>()
            .map_err(|full| Error::with_source(ErrorKind::Full, full.to_string(), full))?;
        let later = Later::new(async move {
            match future.await {
                Ok(answered) => answered,
                Err(End::Cancelled) => Err(Failure::Cancelled),
                Err(end) => Err(Failure::Exception(end.to_string())),
            }
        });
        Ok((Promise(completer), Answer::Later(later)))
    }

    /// The last concrete outcome: of the answer, or of the answer that its future brings, or of what that one brings.
    ///
    /// # Errors
    /// The failure of the first that fails; a panic is one.
    pub async fn unwrap(self) -> std::result::Result<Value, Failure> {
        let mut answer = self;
        loop {
            match answer {
                Answer::Value(value) => return Ok(value),
                Answer::Later(later) => answer = later.answered().await?,
            }
        }
    }

    /// The answer of a future, which is awaited at the subscriber's home.
    pub fn later<R: IntoAnswered + 'static>(future: impl Future<Output = R> + Send + 'static) -> Self {
        Answer::Later(Later::new(future.map(IntoAnswered::into_answered)))
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
        match AssertUnwindSafe(self.0).catch_unwind().await {
            Ok(answered) => answered,
            Err(panic) => Err(panicked(panic)),
        }
    }
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}

/// Answers a request later, from any thread, once. Dropped without it, the answer is an exception that says so.
///
/// That it answers once, the compiler sees to:
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
    /// Answers. Where the subscriber's home has ended nobody waits any more, and the answer is dropped.
    pub fn answer(self, answer: impl Into<Answer>) {
        drop(self.0.complete(Ok(answer.into())));
    }

    /// Fails.
    pub fn fail(self, failure: Failure) {
        drop(self.0.complete(Err(failure)));
    }

    /// Answers with what a call returns; its error or its panic fails the promise. The caller of this goes on either way.
    ///
    /// ```
    /// let (promise, answer) = homing::Answer::promise()?;
    /// std::thread::spawn(move || promise.capture(|| "x".parse::<i32>()));
    /// let outcome = homing::blocking::wait(async { Ok(answer.unwrap().await) })?;
    /// assert!(matches!(outcome, Err(homing::Failure::Exception(text)) if text.contains("invalid digit")));
    /// # Ok::<(), homing::Error>(())
    /// ```
    pub fn capture<R: IntoAnswered>(self, call: impl FnOnce() -> R) {
        drop(self.0.complete(caught(|| call().into_answered())));
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

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Exception(error.to_string())
    }
}

/// What a handler may return: an [`Answer`], a [`Value`], nothing, or a `Result` of what becomes an answer.
pub trait IntoAnswered {
    /// The answer or the failure.
    #[expect(clippy::missing_errors_doc, reason = "the error is the failure itself")]
    fn into_answered(self) -> Answered;
}

impl<T: Into<Answer>, E: Into<Failure>> IntoAnswered for std::result::Result<T, E> {
    fn into_answered(self) -> Answered {
        self.map(Into::into).map_err(Into::into)
    }
}

macro_rules! answers {
    ($($from:ty),*) => {$(
        impl From<$from> for Answer {
            fn from(value: $from) -> Self {
                Answer::Value(Value::from(value))
            }
        }

        impl IntoAnswered for $from {
            fn into_answered(self) -> Answered {
                Ok(self.into())
            }
        }
    )*};
}

answers!(Value, bool, i32, i64, f64, &str, String);

impl From<()> for Answer {
    fn from((): ()) -> Self {
        Answer::Value(Value::Null)
    }
}

impl IntoAnswered for () {
    fn into_answered(self) -> Answered {
        Ok(self.into())
    }
}

impl IntoAnswered for Answer {
    fn into_answered(self) -> Answered {
        Ok(self)
    }
}

/// What handles messages of type `M`. It runs on the home that it is registered with, each message in a task of its own.
pub struct Subscriber<M> {
    pub(crate) handler: Handler<M>,
    max_in_flight: usize,
}

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
        R: IntoAnswered + 'static,
    {
        let handler = move |message| -> BoxFuture<Answered> {
            // The call itself may panic too, so it is made inside the future.
            Box::pin(handler(message).map(IntoAnswered::into_answered))
        };
        Self::new(Handler::Future(Arc::new(handler)))
    }

    /// A closure that returns soon. On a tokio runtime it runs on a worker, on a loop or a thread in its turn; it should not
    /// block on the former.
    pub fn closure<R: IntoAnswered>(handler: impl Fn(M) -> R + Send + Sync + 'static) -> Self {
        Self::new(Handler::Call(Arc::new(move |message| handler(message).into_answered())))
    }

    /// A closure that may block, and may use the [blocking API](crate::blocking). On a tokio runtime it runs on one of the
    /// threads for that; on a loop or a thread it runs in its turn, and what it waits for goes on meanwhile.
    pub fn blocking<R: IntoAnswered>(handler: impl Fn(M) -> R + Send + Sync + 'static) -> Self {
        Self::new(Handler::Blocking(Arc::new(move |message| handler(message).into_answered())))
    }

    fn new(handler: Handler<M>) -> Self {
        Subscriber { handler, max_in_flight: MAX_IN_FLIGHT }
    }
}

impl Subscriber<super::RpcRequest> {
    /// How many calls may run side by side; the rest waits at the broker, up to a minute by kiwipy's settings. Default 10,000.
    #[must_use]
    pub fn with_max_in_flight(mut self, calls: std::num::NonZeroUsize) -> Self {
        self.max_in_flight = calls.get().min(tokio::sync::Semaphore::MAX_PERMITS);
        self
    }
}

impl<M> Subscriber<M> {
    pub(crate) fn max_in_flight(&self) -> usize {
        self.max_in_flight
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
                let handled = AssertUnwindSafe(async move { handler(message).await }).catch_unwind().await;
                handled.unwrap_or_else(|panic| Err(panicked(panic)))
            }
            Handler::Call(handler) => caught(move || handler(message)),
            Handler::Blocking(handler) => {
                let Ok((completer, future)) = home.try_future::<Answered>() else {
                    return Err(Failure::Exception("the subscriber's home has as much open as it may have".into()));
                };
                home.spawn_blocking(move || {
                    let _allowed = crate::home::allow();
                    let answered = caught(move || handler(message));
                    // Where the home has ended, its subscriber's requests are answered by their own drop.
                    drop(completer.complete(answered));
                });
                future.await.unwrap_or_else(|end| Err(Failure::Exception(end.to_string())))
            }
        }
    }
}

fn caught(call: impl FnOnce() -> Answered) -> Answered {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(panic)))
}

pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send>) -> Failure {
    Failure::Exception(format!("the subscriber panicked: {}", panics::text(panic)))
}
