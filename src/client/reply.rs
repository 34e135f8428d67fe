//! A caller's side of a request: from the reply as it came, through any number of `pending`, to the outcome.
//!
//! It lives at the caller's home, where replies are read. The communicator thread keeps the correlation id until told to
//! forget it, so that a reply behind a `pending` is never lost in between.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use uuid::Uuid;

use super::command::{Command, Left, RawReply, What};
use super::response::Response;
use super::shared::{Shared, home_ended};
use crate::codec::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::home::{Home, HomeFuture};

/// What one reply says.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Stage {
    /// The subscriber took the request and will answer later.
    Pending,
    /// The outcome. Nothing follows.
    Done(Value),
}

/// The answer to a request that the broker has taken over.
///
/// Await it for the outcome, or look at it [stage](Reply::stage) by stage. Dropping it gives the request up: its place and
/// its correlation id are free at once, and what still arrives is counted and dropped.
#[must_use = "dropping it gives the request up"]
pub struct Reply {
    shared: Arc<Shared>,
    correlation: Uuid,
    /// The reply that is waited for; `None` between two, and at the end.
    next: Option<HomeFuture<RawReply>>,
    /// What was asked of whom, for errors.
    what: What,
    finished: bool,
    /// That it has ended by what the other end said, which is not to be told that its caller is gone.
    left: Left,
}

impl Reply {
    pub(crate) fn new(shared: Arc<Shared>, correlation: Uuid, next: HomeFuture<RawReply>, what: What) -> Self {
        Reply { shared, correlation, next: Some(next), what, finished: false, left: Left::GivenUp }
    }

    /// For errors.
    pub(super) fn what(&self) -> String {
        self.what.to_string()
    }

    /// The next stage.
    ///
    /// # Errors
    /// `RemoteException` with the text of the other end; `Cancelled`; `Unroutable` when nobody listens there; `TimedOut`;
    /// `Decode` for a reply of the wrong shape; `ConnectionLost`; `CommunicatorClosed`; `InvalidState` after the last stage.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn stage(&mut self) -> Result<Stage> {
        if self.finished {
            return Err(Error::new(ErrorKind::InvalidState, format!("{}: its outcome was taken before", self.what)));
        }
        let outcome = self.read_one().await;
        if !matches!(outcome, Ok(Stage::Pending)) {
            self.finished = true;
        }
        outcome
    }

    async fn read_one(&mut self) -> Result<Stage> {
        if self.next.is_none() {
            let (reply, future) = Home::current().future().await.map_err(|_| home_ended(&self.what))?;
            self.shared.send(Command::NextReply { correlation: self.correlation, reply })?;
            self.next = Some(future);
        }
        let Some(future) = self.next.as_mut() else { return Ok(Stage::Pending) };
        let arrived = Pin::new(future).await;
        self.next = None;
        let body = arrived.map_err(|end| self.shared.ended(end, &self.what))??;
        let read = self.shared.decode(body).and_then(Response::from_value).map_err(|error| {
            Error::with_source(error.kind(), format!("{}: the reply cannot be read: {error}", self.what), error)
        })?;
        if !matches!(read, Response::Pending) {
            self.left = Left::Answered;
        }
        match read {
            Response::Result(value) => Ok(Stage::Done(value)),
            Response::Pending => Ok(Stage::Pending),
            Response::Cancelled => {
                Err(Error::new(ErrorKind::Cancelled, format!("{}: it was cancelled at the other end", self.what)))
            }
            Response::Exception(text) => Err(Error::remote_exception(&self.what.to_string(), text)),
        }
    }

    /// The outcome, through all stages.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    pub async fn outcome(mut self) -> Result<Value> {
        loop {
            if let Stage::Done(value) = self.stage().await? {
                return Ok(value);
            }
        }
    }
}

impl IntoFuture for Reply {
    type Output = Result<Value>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Value>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.outcome())
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Guards: the correlation id is given up whatever way the caller goes, and only then.
        self.shared.tell(Command::Forget { correlation: self.correlation, left: self.left });
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("correlation", &self.correlation).finish_non_exhaustive()
    }
}
