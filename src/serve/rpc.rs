//! The home side of an RPC subscriber: takes its calls, runs the handler, and answers, whatever happens.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};

use super::answer::{Answered, Sent, Subscriber, settled};
use super::context::Context;
use super::failure::{Failure, HandlerError};
use super::registration::Registration;
use super::time_limit::within;
use crate::broker::Body;
use crate::codec::{Codec, CodecPlace, Value, Yaml};
use crate::driver::command::{CallId, Command, OutgoingReply, ReplyStage, RpcDelivery, ServedBy, Subscription};
use crate::driver::port::{Listener, Signal, count};
use crate::error::Result;
use crate::home::Home;
use crate::observe::{Handling, Incoming, MessageKind};
use crate::wire::names::{Exchange, Identifier};
use crate::wire::response::{ErrorDetails, Host, RESULT, Response};

/// The type of the error that a caller gets whose call nobody answers any more.
const ENDED: &str = "SubscriberEnded";

/// A call, as its subscriber gets it.
///
/// # Examples
///
/// ```
/// use homing::{HandlerResult, RpcRequest, RpcSubscriber};
///
/// let sum = RpcSubscriber::future(|request: RpcRequest| async move {
///     let numbers: Vec<i64> = request.decode()?;
///     HandlerResult::Ok(numbers.iter().sum::<i64>())
/// });
/// # drop(sum);
/// ```
#[derive(Clone, Debug)]
pub struct RpcRequest {
    body: Value,
    correlation_id: Option<Arc<str>>,
    caller_gone: Signal,
}

/// A subscriber to calls.
///
/// A call that it has not answered when it ends gets an exception, of the type `SubscriberEnded` in its
/// [details](crate::ErrorDetails::type_name).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::{Communicator, HandlerResult, RpcRequest, RpcSubscriber};
/// let communicator = Communicator::connect("memory:").await?;
///
/// // By the request itself, or by types of your own.
/// let length = RpcSubscriber::closure(|request: RpcRequest| request.body().as_str().map(str::len));
/// communicator.add_rpc_subscriber("length", length).await?;
/// let add = RpcSubscriber::typed(|(a, b): (i64, i64)| async move { HandlerResult::Ok(a + b) });
/// communicator.add_rpc_subscriber("add", add).await?;
///
/// assert_eq!(communicator.rpc_send("length", "four").await?.as_i64(), Some(4));
/// let sum: i64 = communicator.call("add", &(20, 22)).await?;
/// assert_eq!(sum, 42);
/// # communicator.close().await.map(drop) }
/// ```
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

    /// The body as a type of your own.
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

    /// Watches whether the caller still waits, so that a handler can stop work that nobody needs. Callers of homing send a notice when
    /// they drop the call, run into its deadline or close; of any other caller it is known once a `pending` finds its reply
    /// queue gone.
    ///
    /// It may be called any number of times.
    ///
    /// # Errors
    /// None now; kept so that a limit can be reported.
    pub fn caller_gone(&self) -> Result<CallerGone> {
        Ok(CallerGone(self.caller_gone.listen()))
    }
}

/// Resolves at its home when nobody waits for the answer any more: the caller is gone, or has been answered, or the
/// communicator is closed. See [`RpcRequest::caller_gone`].
///
/// # Cancel safety
/// Nothing is lost when it is dropped; another one can be made.
#[derive(Debug)]
#[must_use = "a future that is not awaited does nothing; or ask `is_gone`"]
pub struct CallerGone(Listener);

impl CallerGone {
    /// True once the caller is known to be gone, for work that has no await in it.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.is_given()
    }
}

impl Future for CallerGone {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Adds a subscriber at a home.
///
/// # Errors
/// Why it cannot be added.
pub(crate) async fn add(
    context: &Context,
    home: &Home,
    identifier: Identifier,
    subscriber: RpcSubscriber,
) -> Result<()> {
    let (sink, calls) = mpsc::unbounded_channel();
    let mut inlet = Inlet {
        context: context.clone(),
        identifier: identifier.clone(),
        calls,
        registration: Registration::new(&context.port),
    };
    let what = format!("the RPC subscriber {:?}", identifier.as_str());
    inlet.registration.add(home, &what, Subscription::Rpc { identifier, sink }, ServedBy::Task).await?;
    home.spawn_uncounted(serve(home.clone(), subscriber, inlet));
    Ok(())
}

/// Where a subscriber's calls come in. Dropped, it answers those that nobody has begun, and takes the subscriber out.
struct Inlet {
    context: Context,
    identifier: Identifier,
    calls: mpsc::UnboundedReceiver<RpcDelivery>,
    registration: Registration,
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.calls.close();
        loop {
            match self.calls.try_recv() {
                Ok(delivery) => refuse(&self.context, &delivery),
                // Guards: a call that is being put in just now, by a driver that began before the close.
                Err(mpsc::error::TryRecvError::Empty) => std::thread::yield_now(),
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
    }
}

/// The task of one subscriber at its home. Each call has a task of its own, so that a handler that waits stops nobody; when
/// as many run as may, the broker keeps the rest.
async fn serve(home: Home, subscriber: RpcSubscriber, mut inlet: Inlet) {
    let context = inlet.context.clone();
    let running = Arc::new(Semaphore::new(subscriber.max_in_flight));
    let (handler, time_limit) = (subscriber.handler, subscriber.time_limit);
    loop {
        // Closed by nobody.
        let Ok(permit) = Arc::clone(&running).acquire_owned().await else { return };
        let Some(delivery) = inlet.calls.recv().await else { return };
        if !delivery.claim.take() {
            // Its channel was closed, and the broker hands it out again.
            continue;
        }
        // As kiwipy: acknowledged before the handler runs. Only now, at home, so that the prefetch limits what waits here.
        context.port.notify(Command::Ack { tag: delivery.tag });
        let caller = Caller::new(&context, &delivery);
        let (context, handler, identifier) = (context.clone(), handler.clone(), inlet.identifier.clone());
        let at = home.clone();
        // In a box: tokio moves a task several times before it runs.
        home.spawn_uncounted(Box::pin(async move {
            let mut handling = Handling::new(&context, &incoming(&context, &identifier, &delivery));
            let span = handling.span();
            let RpcDelivery { body, correlation_id, caller_gone, .. } = delivery;
            let handled = async {
                crate::log::debug!(%identifier, correlation_id = correlation_id.as_deref(), "handling a call");
                // In a box: it goes through several hands, and would stand in each of their futures.
                let handled = Box::pin(async {
                    match context.decode(body) {
                        Ok(body) => handler.run(&at, RpcRequest { body, correlation_id, caller_gone }).await,
                        Err(error) => Err(unreadable(format!("the call's body cannot be read: {error}"))),
                    }
                });
                caller.answer(&identifier, handled, time_limit, &mut handling).await;
            };
            span.around(handled).await;
            drop((handling, permit));
        }));
    }
}

fn incoming<'a>(context: &'a Context, identifier: &'a Identifier, delivery: &'a RpcDelivery) -> Incoming<'a> {
    Incoming {
        kind: MessageKind::Call,
        exchange: &context.port.names.message_exchange,
        key: identifier.routing_key_str(),
        identifier: Some(identifier.as_str()),
        message_id: None,
        conversation: delivery.correlation_id.as_deref(),
        bytes: delivery.body.encoded_size(),
        attempt: None,
        redelivered: false,
        trace: delivery.trace.as_deref(),
    }
}

fn unreadable(reason: String) -> HandlerError {
    HandlerError::of_failure(Failure::Unreadable(reason))
}

/// Answers a call that nobody serves.
pub(super) fn refuse(context: &Context, delivery: &RpcDelivery) {
    // Guards: a handler that begins with it just now, or has begun, which acknowledges it itself. A broker closes a channel for a
    // second acknowledgement.
    if delivery.claim.withdraw() {
        context.port.notify(Command::Ack { tag: delivery.tag });
    }
    drop(Caller::new(context, delivery));
}

/// Where the answer to one call goes. Dropped without an answer, it sends an exception to the caller, who would wait for
/// ever.
struct Caller {
    context: Context,
    call: CallId,
    reply_to: Option<Arc<str>>,
    correlation_id: Option<Arc<str>>,
    answered: bool,
}

impl Caller {
    fn new(context: &Context, delivery: &RpcDelivery) -> Self {
        if delivery.reply_to.is_none() {
            count(&context.port.counters.replies_not_wanted);
        }
        Caller {
            context: context.clone(),
            call: delivery.call,
            reply_to: delivery.reply_to.clone(),
            correlation_id: delivery.correlation_id.clone(),
            answered: false,
        }
    }

    /// Answers with what the handler does, and with what the futures bring that it answers with.
    async fn answer(
        mut self,
        identifier: &Identifier,
        handled: impl Future<Output = Answered>,
        time_limit: Option<Duration>,
        handling: &mut Handling,
    ) {
        let context = self.context.clone();
        let put_off = |sent: Sent| {
            self.send(Response::Pending, sent);
        };
        let outcome = within(&context, time_limit, settled(handled, Some(put_off))).await;
        handling.end(&outcome);
        let error = match outcome {
            Ok(value) => return self.finish(Response::Result(value)),
            Err(error) => error,
        };
        let is_warning = error.is_warning();
        let (failure, details) = error.into_parts();
        if failure == Failure::Cancelled {
            return self.finish(Response::Cancelled);
        }
        if is_warning {
            crate::log::warn!(%identifier, correlation_id = self.correlation_id.as_deref(), failure = failure.to_string(), "a call failed in its handler");
        }
        self.finish(Response::Exception(failure.to_string(), details));
    }

    fn finish(&mut self, response: Response) {
        if !self.send(response, None) {
            self.context.port.notify(Command::CallEnded { call: self.call });
        }
        // Guards: user code that panics as the answer is written. Until it is sent, this owes one.
        self.answered = true;
    }

    /// False where there is nothing to be sent.
    fn send(&self, response: Response, sent: Sent) -> bool {
        let (reply_to, correlation_id) = (self.reply_to.clone(), self.correlation_id.clone());
        let reply = outgoing(&self.context, Exchange::Message, reply_to, correlation_id, response);
        let Some(reply) = reply else { return false };
        let reply = OutgoingReply { call: Some(self.call), ..reply };
        self.context.port.notify(Command::Reply { reply, sent });
        true
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Guards: a drop on a thread where the codec may not be called.
        let written = self.context.written_refusal().zip(self.reply_to.clone());
        let Some((body, reply_to)) = written else { return self.finish(refused()) };
        self.answered = true;
        let reply = OutgoingReply {
            stage: ReplyStage::Last,
            exchange: Exchange::Message,
            reply_to,
            correlation_id: self.correlation_id.clone(),
            body,
            call: Some(self.call),
        };
        self.context.port.notify(Command::Reply { reply, sent: None });
    }
}

fn refused() -> Response {
    let text = "the subscriber ended before it had answered";
    let details =
        ErrorDetails { type_name: Some(ENDED.into()), message: text.into(), chain: Vec::new(), data: Value::Null };
    Response::Exception(text.into(), Some(Box::new(details)))
}

/// Writes the answer to a call that nobody serves any more, where the codec may not be called when that is found out. Called where the
/// communicator is made.
pub(crate) fn with_refusal(context: Context) -> Context {
    if context.codec_place != CodecPlace::HomesOnly {
        return context;
    }
    let response = refused().into_value(Host::Unnamed);
    let written = context.encode(response).or_else(|_| as_kiwipy(&refused().into_value(Host::Unnamed)));
    let refusal = written.inspect_err(|error| {
        crate::log::error!(%error, "the answer to a call that nobody serves could not be encoded at all");
    });
    context.with_refusal(refusal.ok())
}

fn as_kiwipy(response: &Value) -> Result<Body> {
    Yaml::default().encode(response).map(|bytes| Body::Encoded(bytes.into()))
}

/// A reply ready to be sent; `None` when nobody asked for one. A result that cannot be encoded becomes an exception, and an
/// exception that the codec cannot encode is written as kiwipy would.
pub(super) fn outgoing(
    context: &Context,
    exchange: Exchange,
    reply_to: Option<Arc<str>>,
    correlation_id: Option<Arc<str>>,
    response: Response,
) -> Option<OutgoingReply> {
    let Some(reply_to) = reply_to else {
        if let Response::Result(value) = response {
            value.dispose();
        }
        return None;
    };
    let stage = if matches!(response, Response::Pending) { ReplyStage::Pending } else { ReplyStage::Last };
    let host = match exchange {
        Exchange::Message => Host::Unnamed,
        Exchange::Task => Host::Named,
    };
    let exception = |text: String| Response::exception(text).into_value(host);
    // What an error brings along may be what cannot be encoded; its text always can.
    let plain = match &response {
        Response::Exception(text, Some(_)) => Some(text.clone()),
        _ => None,
    };
    let body = context.encode(response.into_value(host)).or_else(|error| {
        let error = error.within(RESULT);
        let text = plain.unwrap_or_else(|| format!("the subscriber's result cannot be encoded: {error}"));
        context.encode(exception(text.clone())).or_else(|_| as_kiwipy(&exception(text)))
    });
    match body {
        Ok(body) => Some(OutgoingReply { stage, exchange, reply_to, correlation_id, body, call: None }),
        Err(error) => {
            crate::log::error!(%error, "a reply could not be encoded at all");
            None
        }
    }
}
