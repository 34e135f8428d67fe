//! The home side of an RPC subscriber: takes its calls, runs the handler, and answers, whatever happens.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::answer::{Answer, Answered, Failure, Handler, Subscriber};
use super::command::{Command, OutgoingReply, ReplyExchange, ReplyStage, RpcDelivery};
use super::names::Identifier;
use super::response::{Host, Response};
use super::send::SharedRef;
use super::shared::{Shared, count};
use super::signal::{Signal, signal};
use crate::codec::Value;
use crate::error::Result;
use crate::home::Home;

/// A call, as its subscriber gets it.
#[derive(Clone, Debug)]
pub struct RpcRequest {
    body: Value,
    correlation_id: Option<String>,
    shared: SharedRef,
}

/// A subscriber to calls.
pub type RpcSubscriber = Subscriber<RpcRequest>;

impl RpcRequest {
    /// What the caller sent.
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

    /// The caller's mark on the call, for logs.
    #[must_use]
    pub fn correlation_id(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// Watches whether the caller still waits, so that long work for nobody can be left. Callers of homing say so when they
    /// drop the call, run into its deadline or close; of any other caller it is known once a `pending` finds its reply queue
    /// gone.
    ///
    /// # Errors
    /// `Full` when the current home has as many futures open as it may have.
    pub fn caller_gone(&self) -> Result<CallerGone> {
        let (watch, signal) = signal()?;
        match &self.correlation_id {
            Some(correlation) => {
                self.shared.0.tell(Command::WatchCaller { correlation: correlation.clone(), watch });
            }
            // It cannot be answered, so that nobody waits.
            None => watch.tell(),
        }
        Ok(CallerGone(signal))
    }
}

/// Resolves at its home when nobody waits for the answer any more: the caller is gone, or has been answered, or the
/// communicator is closed. See [`RpcRequest::caller_gone`].
#[derive(Debug)]
#[must_use = "a future that is not awaited says nothing; or ask `is_gone`"]
pub struct CallerGone(Signal);

impl CallerGone {
    /// True once the caller is known to be gone, for work that has no await in it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.is_given()
    }
}

impl Future for CallerGone {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// The task of one subscriber at its home. Each call has a task of its own, so that a handler that waits stops nobody.
pub(crate) async fn serve(home: Home, handler: Handler<RpcRequest>, mut inlet: Inlet) {
    let shared = Arc::clone(&inlet.shared);
    while let Some(delivery) = inlet.calls.recv().await {
        // As kiwipy: acknowledged before the handler runs. Only now, at home, so that the prefetch limits what waits here.
        shared.tell(Command::Ack { ticket: delivery.ticket });
        let caller = Caller::new(&shared, &delivery);
        let (shared, handler, identifier) = (Arc::clone(&shared), handler.clone(), inlet.identifier.clone());
        let at = home.clone();
        home.spawn_uncounted(async move {
            tracing::debug!(%identifier, correlation_id = ?delivery.correlation_id, "handling a call");
            let correlation_id = delivery.correlation_id;
            let answered = match shared.decode(delivery.body) {
                Ok(body) => {
                    let shared = SharedRef(Arc::clone(&shared));
                    handler.run(&at, RpcRequest { body, correlation_id, shared }).await
                }
                Err(error) => Err(Failure::Exception(format!("the call's body cannot be read: {error}"))),
            };
            caller.answer(answered).await;
        });
    }
}

/// Where a subscriber's calls come in. When its home ends, it unsubscribes and answers what is left.
///
/// Made before the subscriber is added: a home that ends before it has polled [`serve`] for the first time answers too.
pub(crate) struct Inlet {
    pub shared: Arc<Shared>,
    pub identifier: Identifier,
    pub calls: mpsc::UnboundedReceiver<RpcDelivery>,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.calls.close();
        // No news to a driver that took this subscriber out itself.
        self.shared.tell(Command::Sweep);
        loop {
            match self.calls.try_recv() {
                Ok(delivery) => refuse(&self.shared, &delivery),
                // Guards: a call that is being put in just now, by a driver that began before the close.
                Err(mpsc::error::TryRecvError::Empty) => std::thread::yield_now(),
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
    }
}

/// Answers a call whose subscriber's home has ended.
pub(crate) fn refuse(shared: &Arc<Shared>, delivery: &RpcDelivery) {
    shared.tell(Command::Ack { ticket: delivery.ticket });
    drop(Caller::new(shared, delivery));
}

/// Where the answer to one call goes. Dropped without an answer, it says so to the caller, who would wait for ever.
struct Caller {
    shared: Arc<Shared>,
    reply_to: Option<String>,
    correlation_id: Option<String>,
    answered: bool,
}

impl Caller {
    fn new(shared: &Arc<Shared>, delivery: &RpcDelivery) -> Self {
        if delivery.reply_to.is_none() {
            count(&shared.counters.replies_not_wanted);
        }
        Caller {
            shared: Arc::clone(shared),
            reply_to: delivery.reply_to.clone(),
            correlation_id: delivery.correlation_id.clone(),
            answered: false,
        }
    }

    async fn answer(mut self, mut answered: Answered) {
        loop {
            answered = match answered {
                Ok(Answer::Value(value)) => return self.finish(Response::Result(value)),
                Ok(Answer::Later(later)) => {
                    self.send(Response::Pending);
                    later.answered().await
                }
                Err(Failure::Exception(text) | Failure::Rejected(text) | Failure::TryAgain(text)) => {
                    return self.finish(Response::Exception(text));
                }
                Err(Failure::Cancelled) => return self.finish(Response::Cancelled),
            }
        }
    }

    fn finish(&mut self, response: Response) {
        self.answered = true;
        self.send(response);
    }

    fn send(&self, response: Response) {
        if let Some(reply) = outgoing(
            &self.shared,
            ReplyExchange::Message,
            self.reply_to.as_deref(),
            self.correlation_id.as_deref(),
            response,
        ) {
            self.shared.tell(Command::Reply(reply));
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if !self.answered {
            self.send(Response::Exception("the subscriber ended before it had answered".to_owned()));
        }
    }
}

/// A reply ready to be sent; `None` when nobody asked for one. A result that cannot be written becomes an exception.
pub(crate) fn outgoing(
    shared: &Shared,
    exchange: ReplyExchange,
    reply_to: Option<&str>,
    correlation_id: Option<&str>,
    response: Response,
) -> Option<OutgoingReply> {
    let reply_to = reply_to?;
    let stage = if matches!(response, Response::Pending) { ReplyStage::Pending } else { ReplyStage::Last };
    let host = match exchange {
        ReplyExchange::Message => Host::Unnamed,
        ReplyExchange::Task => Host::Named,
    };
    let body = shared.encode(response.into_value(host)).or_else(|error| {
        let text = format!("the subscriber's result cannot be written: {error}");
        shared.encode(Response::Exception(text).into_value(host))
    });
    match body {
        Ok(body) => Some(OutgoingReply {
            stage,
            exchange,
            reply_to: reply_to.to_owned(),
            correlation_id: correlation_id.map(str::to_owned),
            body,
        }),
        Err(error) => {
            tracing::error!(%error, "a reply could not be written at all");
            None
        }
    }
}
