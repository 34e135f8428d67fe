//! The sender's side of a request that was sent: from the broker's word through any number of `pending` to the outcome.

use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;

use super::Pid;
use crate::error::{Detail, Error, ErrorKind, Result};
use crate::{ErrorDetails, Reply, ReplyStage, RpcSend, Value};

/// How far a request has come that was [sent](super::ControlSend::send).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ControlStage<T> {
    /// The process, or the worker, has it in hand.
    Received,
    /// It is carried out. Nothing follows.
    Done(T),
}

/// The reply to a request that the broker has taken over.
///
/// Await it for the outcome, or take it [stage](Self::stage) by stage. Dropping it gives up the reply, not the request.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::process::{ControlOutcome, ControlStage, ProcessController};
/// use homing::{Answer, Communicator, RpcRequest, RpcSubscriber};
///
/// # let communicator = Communicator::connect("memory:").await?;
/// // It answers later, as a process does that is in the middle of a step.
/// let process = RpcSubscriber::closure(|_: RpcRequest| Answer::later(async { true }));
/// communicator.add_rpc_subscriber(7, process).await?;
///
/// let mut reply = ProcessController::new(&communicator).pause(7).send().await?;
/// println!("sent");
/// assert_eq!(reply.stage().await?, ControlStage::Received);
/// assert_eq!(reply.stage().await?, ControlStage::Done(ControlOutcome::Done));
/// # communicator.close().await.map(drop) }
/// ```
#[must_use = "dropping it gives up the reply"]
pub struct ControlReply<T> {
    reply: Reply,
    pid: Option<Pid>,
    /// What was asked of whom, for errors.
    about: String,
    wake_up: WakeUp,
    read: fn(Value) -> Result<T>,
    received: bool,
    finished: bool,
}

/// The status request that wakes a process.
///
/// plumpy 0.26 attaches a callback to an asyncio future from another thread than the loop's. When the future has ended by then,
/// the loop is not notified, and an idle process answers only when something else wakes its loop.
pub(super) enum WakeUp {
    /// It is sent when this pause has ended.
    Later { pause: Pin<Box<dyn Future<Output = Result<()>> + Send>>, status: RpcSend, is_answer: bool },
    /// It is under way.
    Sent { status: RpcSend, is_answer: bool },
    /// There is none, or none any more.
    Over,
}

impl WakeUp {
    pub(super) fn none() -> Self {
        WakeUp::Over
    }

    pub(super) fn after(
        pause: Pin<Box<dyn Future<Output = Result<()>> + Send>>,
        status: RpcSend,
        is_answer: bool,
    ) -> Self {
        WakeUp::Later { pause, status, is_answer }
    }

    /// Goes on with it; resolves only when it brings an answer to what was asked.
    ///
    /// # Cancel safety
    /// It goes on where it was.
    async fn answer(&mut self) -> Value {
        loop {
            match self {
                WakeUp::Later { pause, .. } => {
                    let paused = pause.await;
                    let WakeUp::Later { status, is_answer, .. } = std::mem::replace(self, WakeUp::Over) else {
                        continue;
                    };
                    // Where it cannot even be waited for, the request itself reports why.
                    if paused.is_ok() {
                        crate::log::debug!("no outcome yet; a status request follows, to wake the process");
                        *self = WakeUp::Sent { status, is_answer };
                    }
                }
                WakeUp::Sent { status, is_answer } => {
                    let (answered, is_answer) = (status.await, *is_answer);
                    *self = WakeUp::Over;
                    // That it fails is no error of the request: the process may have ended by it.
                    if let Ok(answer) = answered
                        && is_answer
                    {
                        return answer;
                    }
                }
                WakeUp::Over => std::future::pending().await,
            }
        }
    }
}

impl<T> ControlReply<T> {
    pub(super) fn new(
        reply: Reply,
        pid: Option<Pid>,
        about: String,
        wake_up: WakeUp,
        read: fn(Value) -> Result<T>,
    ) -> Self {
        ControlReply { reply, pid, about, wake_up, read, received: false, finished: false }
    }

    /// The process that it is about; `None` for one that is to be launched.
    #[must_use]
    pub fn pid(&self) -> Option<&Pid> {
        self.pid.as_ref()
    }

    /// The next stage. Not every request is [received](ControlStage::Received) before it is done.
    ///
    /// # Errors
    /// As awaiting the [request](super::ControlSend); `InvalidState` after the last stage.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn stage(&mut self) -> Result<ControlStage<T>> {
        if self.finished {
            return Err(Error::new(ErrorKind::InvalidState, format!("{}: its outcome was taken before", self.about)));
        }
        let ended = loop {
            let stage = tokio::select! {
                biased;
                stage = self.reply.stage() => stage,
                answer = self.wake_up.answer() => Ok(ReplyStage::Done(answer)),
            };
            match stage {
                Ok(ReplyStage::Done(answer)) => break (self.read)(answer),
                // However many levels of futures there are.
                Ok(ReplyStage::Pending) if self.received => {}
                Ok(ReplyStage::Pending) => {
                    self.received = true;
                    return Ok(ControlStage::Received);
                }
                Err(error) => break Err(error),
            }
        };
        self.finished = true;
        self.wake_up = WakeUp::Over;
        ended.map(ControlStage::Done).map_err(|error| self.explained(error))
    }

    /// The outcome, through all stages.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    ///
    /// # Cancel safety
    /// Dropped, it gives the request up. Use [`stage`](Self::stage) where the wait may be interrupted.
    pub async fn outcome(mut self) -> Result<T> {
        loop {
            if let ControlStage::Done(outcome) = self.stage().await? {
                return Ok(outcome);
            }
        }
    }

    fn explained(&self, error: Error) -> Error {
        if let (Some(pid), true) = (&self.pid, has_left(&error)) {
            let how_far = if self.received { "was received, and not answered" } else { "was sent, and not answered" };
            let text = format!(
                "process {pid} has ended meanwhile, or its worker does not run it any more: {} {how_far}; a process that has \
                 not ended is run again by whichever worker gets a task that continues it",
                self.about
            );
            return Error::with_source(ErrorKind::Unroutable, text, error);
        }
        if error.kind() != ErrorKind::TimedOut {
            return named(&self.about, error);
        }
        let how_far = if self.received { "was received, and not carried out" } else { "was sent, and not answered" };
        let text = format!("{} {how_far} in time ({error})", self.about);
        Error::with_source(ErrorKind::TimedOut, text, error)
    }
}

/// Whether whoever had the request in hand has gone, without having carried it out as far as is known: that of a process which
/// has ended or has been given up by its worker.
fn has_left(error: &Error) -> bool {
    error.kind() == ErrorKind::RemoteException
        && matches!(
            error.remote_details().and_then(ErrorDetails::type_name),
            // Of the subscriber, and of `moved`.
            Some("SubscriberEnded" | "ProcessMoved")
        )
}

/// The error with what was asked before it.
pub(super) fn named(about: &str, error: Error) -> Error {
    match error.remote_text() {
        // Python's exceptions may have no text: plumpy's about a process that was killed has none.
        Some("") => Error::with_detail(
            ErrorKind::RemoteException,
            format!("{about}: the other end failed and gave no reason, as it does where the process was killed"),
            Detail::Remote(String::new()),
        ),
        Some(text) => Error::remote_exception(about, text.to_owned(), error.remote_details().cloned()),
        None => Error::with_source(error.kind(), format!("{about}: {error}"), error),
    }
}

impl<T: Send + 'static> IntoFuture for ControlReply<T> {
    type Output = Result<T>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.outcome())
    }
}

impl<T> fmt::Debug for ControlReply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlReply").field("to", &self.about).finish_non_exhaustive()
    }
}
