//! A caller's side of a request: from the reply as it came, through any number of `pending`, to the outcome.
//!
//! It lives at the caller's home, where replies are read. The communicator thread keeps the correlation id until it is asked to
//! forget it, so that a reply behind a `pending` is never lost in between.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;

use tokio::time::Instant;
use uuid::Uuid;

use crate::codec::Value;
use crate::driver::command::{Command, RawReply, RequestEnd, Subject, Timeout};
use crate::driver::port::{Turn, limit};
use crate::error::{Error, ErrorKind, Result};
use crate::home::HomeFuture;
use crate::observe::Outgoing;
use crate::serve::Context;
use crate::wire::response::Response;

/// A stage of an answer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ReplyStage {
    /// The subscriber has the request and will answer later.
    Pending,
    /// The outcome. Nothing follows.
    Done(Value),
}

/// The answer to a request that the broker has taken over.
///
/// Await it for the outcome, or take it [stage](Reply::stage) by stage. Dropping it gives the request up: its place and
/// its correlation id are free at once, and what still arrives is counted and dropped.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Answer, Communicator, ReplyStage, RpcRequest, RpcSubscriber};
///
/// let communicator = Communicator::connect("memory:").await?;
/// let slow = RpcSubscriber::closure(|_: RpcRequest| Answer::later(async { 42 }));
/// communicator.add_rpc_subscriber("slow", slow).await?;
/// let mut reply = communicator.rpc_send("slow", ()).send().await?;
/// assert_eq!(reply.stage().await?, ReplyStage::Pending);
/// assert_eq!(reply.outcome().await?.as_i64(), Some(42));
/// # communicator.close().await.map(drop) }
/// ```
///
/// # Cancel safety
/// An await on it that is dropped gives the request up, for it takes the reply by value. [`stage`](Reply::stage) does not:
/// its await may be dropped and made again.
#[must_use = "dropping it gives the request up"]
pub struct Reply {
    context: Context,
    correlation: Uuid,
    /// Where it had to wait for room.
    turn: Option<Turn>,
    /// The reply that is waited for; `None` between two, and at the end.
    next: Option<HomeFuture<RawReply>>,
    timeout: Timeout,
    /// Until when there has to be a place for the reply after a `pending`, however often its wait is begun anew.
    place_by: Option<Instant>,
    /// What was asked of whom, for errors.
    subject: Subject,
    finished: bool,
    outgoing: Outgoing,
    /// Whether its recipient is to be notified that its caller is gone.
    end: RequestEnd,
}

impl Reply {
    pub(crate) fn new(
        context: Context,
        correlation: Uuid,
        turn: Option<Turn>,
        next: HomeFuture<RawReply>,
        timeout: Timeout,
        subject: Subject,
        outgoing: Outgoing,
    ) -> Self {
        Reply {
            context,
            correlation,
            turn,
            next: Some(next),
            timeout,
            place_by: None,
            subject,
            finished: false,
            outgoing,
            end: RequestEnd::GivenUp,
        }
    }

    /// For errors.
    pub(super) fn what(&self) -> String {
        self.subject.to_string()
    }

    /// The next stage.
    ///
    /// # Errors
    /// `RemoteException` with the text of the other end; `Cancelled`; `Unroutable` when nobody listens there; `TimedOut`;
    /// `Decode` for a reply of the wrong shape; `ConnectionLost`; `CommunicatorClosed`; `InvalidState` after the last stage.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn stage(&mut self) -> Result<ReplyStage> {
        if self.finished {
            return Err(Error::new(ErrorKind::InvalidState, format!("{}: its outcome was taken before", self.subject)));
        }
        let span = self.outgoing.span();
        let outcome = span.around(self.read_one()).await;
        if !matches!(outcome, Ok(ReplyStage::Pending)) {
            self.finished = true;
            self.outgoing.end(&outcome);
        }
        outcome
    }

    async fn read_one(&mut self) -> Result<ReplyStage> {
        if self.next.is_none() {
            // Guards: a home that stays full. What the driver ends is known only to who has a place.
            let (reply, future) = Box::pin(self.context.port.future(&self.subject, self.place_by)).await?;
            self.context.port.send(Command::NextReply { correlation: self.correlation, reply })?;
            self.next = Some(future);
        }
        let Some(future) = self.next.as_mut() else { return Ok(ReplyStage::Pending) };
        let arrived = Pin::new(future).await;
        self.next = None;
        let body = arrived.map_err(|end| self.context.port.ended(end, &self.subject))??;
        let read = self.context.decode(body).and_then(Response::from_value).map_err(|error| {
            Error::with_source(error.kind(), format!("{}: the reply cannot be read: {error}", self.subject), error)
        })?;
        if matches!(read, Response::Pending) {
            self.place_by = limit(self.timeout.limit());
        } else {
            self.end = RequestEnd::Answered;
        }
        match read {
            Response::Result(value) => Ok(ReplyStage::Done(value)),
            Response::Pending => Ok(ReplyStage::Pending),
            Response::Cancelled => {
                Err(Error::new(ErrorKind::Cancelled, format!("{} was cancelled at the other end", self.subject)))
            }
            Response::Exception(text, details) => {
                Err(Error::remote_exception(&self.subject.to_string(), text, details.map(|details| *details)))
            }
        }
    }

    /// The outcome, through all stages.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    ///
    /// # Cancel safety
    /// Dropped, it gives the request up. Use [`stage`](Self::stage) where the wait may be interrupted.
    pub async fn outcome(mut self) -> Result<Value> {
        self.last().await
    }

    /// The same, by reference.
    pub(super) async fn last(&mut self) -> Result<Value> {
        loop {
            if let ReplyStage::Done(value) = self.stage().await? {
                return Ok(value);
            }
        }
    }
}

impl IntoFuture for Reply {
    type Output = Result<Value>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move { self.last().await })
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(turn) = self.turn {
            self.context.port.leave(turn);
        }
        // Guards: the correlation id is given up whatever way the caller goes, and only then.
        self.context.port.notify(Command::Forget { correlation: self.correlation, end: self.end });
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("correlation", &self.correlation).finish_non_exhaustive()
    }
}
