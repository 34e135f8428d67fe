//! A request on its way from its first option to its reply.

use std::fmt;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Pid;
use super::messages::{AskStatus, Continue, ControlBroadcast, Create, Kill, Launch, Pause, Play};
use super::reply::{ControlReply, WakeUp, named};
use super::request::{ControlRequest, Execute, NoWait, ProcessCall, Way};
use crate::error::{Error, ErrorKind, Result};
use crate::sending::{Running, Sending};
use crate::{Communicator, RpcSend, TaskSend, TaskSendNoReply, Value};

/// How long an answer is waited for before a status request follows, to wake the process.
const WAKE_UP_AFTER: Duration = Duration::from_millis(500);

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// As long as the communicator waits.
    Default,
    After(Duration),
    Never,
}

impl Limit {
    fn of_call(self, call: RpcSend) -> RpcSend {
        match self {
            Limit::Default => call,
            Limit::After(time) => call.timeout(time),
            Limit::Never => call.no_timeout(),
        }
    }

    fn of_task(self, task: TaskSend) -> TaskSend {
        match self {
            Limit::Default => task,
            Limit::After(time) => task.timeout(time),
            Limit::Never => task.no_timeout(),
        }
    }
}

/// A request to a process or to a worker. Await it for its outcome, or [`send`](Self::send) it and take its reply
/// stage by stage.
///
/// It is a future. Its options count up to its first poll. As long as it was not polled it keeps its communicator open.
///
/// # Errors
/// Awaiting it fails with `Unroutable` when the process cannot be reached, or ends without an answer, and otherwise as awaiting an [`RpcSend`] or a
/// [`TaskSend`] does: `RemoteException` with the other end's text, `Cancelled`, `TimedOut`, `ConnectionLost`; with `Decode` for
/// an answer of the wrong shape. Each error names the process.
///
/// # Cancel safety
/// Dropped before it was polled, nothing is sent. Dropped later, the request may or may not have been sent, and what was sent
/// is carried out.
#[must_use = "nothing is sent until it is awaited"]
pub struct ControlSend<Q: ControlRequest> {
    sending: Sending<Parts<Q>, Q::Outcome>,
}

struct Parts<Q> {
    communicator: Communicator,
    /// The process, where there is one already.
    pid: Option<Pid>,
    request: Q,
    limit: Limit,
    wake_up_after: Option<Duration>,
}

impl<Q: ControlRequest> ControlSend<Q> {
    fn new(communicator: Communicator, pid: Option<Pid>, request: Q, wake_up_after: Option<Duration>) -> Self {
        let parts = Parts { communicator, pid, request, limit: Limit::Default, wake_up_after };
        ControlSend { sending: Sending::Built(parts) }
    }

    pub(super) fn task(communicator: Communicator, pid: Option<Pid>, request: Q) -> Self {
        Self::new(communicator, pid, request, None)
    }

    /// Sends it, and resolves when the broker has taken it over; a process that is to be executed is made then.
    ///
    /// # Errors
    /// As awaiting it; `InvalidState` when it has been polled.
    ///
    /// # Cancel safety
    /// Dropped, the request may or may not have been sent.
    pub async fn send(self) -> Result<ControlReply<Q::Outcome>> {
        self.sending.into_parts()?.send().await
    }

    /// Waits this long for the answer, and again after each stage of it. Default: the communicator's
    /// [`call_timeout`](crate::CommunicatorBuilder::call_timeout), 60 s, for a call to a process, and its
    /// [`task_timeout`](crate::CommunicatorBuilder::task_timeout), 7 days, for a task.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.sending.set(|parts| parts.limit = Limit::After(time));
        self
    }

    /// Waits for ever. The broker gives no sign when a process dies with the request in hand, so that the wait is reported in
    /// the log every minute.
    pub fn no_timeout(mut self) -> Self {
        self.sending.set(|parts| parts.limit = Limit::Never);
        self
    }

    /// The same with another request.
    fn map<R: ControlRequest>(self, request: impl FnOnce(Q) -> R) -> ControlSend<R> {
        let sending = self.sending.map(|Parts { communicator, pid, request: old, limit, wake_up_after }| Parts {
            communicator,
            pid,
            request: request(old),
            limit,
            wake_up_after,
        });
        ControlSend { sending }
    }
}

impl<Q: ProcessCall> ControlSend<Q> {
    pub(super) fn call(communicator: Communicator, pid: Pid, request: Q) -> Self {
        Self::new(communicator, Some(pid), request, Some(WAKE_UP_AFTER))
    }

    /// Sends a status request after this time without an outcome, once: it wakes an idle process of plumpy that keeps its
    /// answer. Default half a second.
    pub fn wake_up_after(mut self, time: Duration) -> Self {
        self.sending.set(|parts| parts.wake_up_after = Some(time));
        self
    }

    /// Sends no status request after it.
    pub fn no_wake_up(mut self) -> Self {
        self.sending.set(|parts| parts.wake_up_after = None);
        self
    }
}

impl ControlSend<Pause> {
    /// Why it is paused: the status of the process while it is.
    pub fn message(self, message: impl Into<String>) -> Self {
        self.map(|pause| pause.with_message(message))
    }
}

impl ControlSend<Kill> {
    /// Why it is killed.
    pub fn message(self, message: impl Into<String>) -> Self {
        self.map(|kill| kill.with_message(message))
    }

    /// Kills it at once, whatever its step does: for a process whose orderly kill does not come to an end.
    pub fn force(self) -> Self {
        self.map(Kill::forced)
    }
}

macro_rules! constructed {
    ($($request:ident)*) => {$(
        impl ControlSend<$request> {
            /// Adds a positional argument of the constructor.
            pub fn arg(self, value: impl Into<Value>) -> Self {
                self.map(|request| request.arg(value))
            }

            /// Sets a keyword argument of the constructor: `inputs`, `pid`.
            pub fn kwarg(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
                self.map(|request| request.kwarg(name, value))
            }
        }
    )*};
}

constructed!(Launch Create Execute);

impl ControlSend<Launch> {
    /// Stores the process before it runs. A worker without a store refuses the task.
    pub fn persistent(self) -> Self {
        self.map(Launch::persistent)
    }

    /// Does not wait for its end: the outcome is the pid. Arguments come before this.
    pub fn nowait(self) -> ControlSend<NoWait<Launch>> {
        self.map(NoWait)
    }

    /// Asks for no reply. How long the broker may take to take the task over is as for [`TaskSend::no_reply`].
    ///
    /// # Errors
    /// `InvalidState` when it has been polled.
    pub fn no_reply(self) -> Result<TaskSendNoReply> {
        self.without_reply()
    }
}

impl ControlSend<Continue> {
    /// From the checkpoint of this tag rather than the newest.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.map(|request| request.with_tag(tag))
    }

    /// Does not wait for its end: the outcome is the pid. A tag comes before this.
    pub fn nowait(self) -> ControlSend<NoWait<Continue>> {
        self.map(NoWait)
    }

    /// Asks for no reply. How long the broker may take to take the task over is as for [`TaskSend::no_reply`].
    ///
    /// # Errors
    /// `InvalidState` when it has been polled.
    pub fn no_reply(self) -> Result<TaskSendNoReply> {
        self.without_reply()
    }
}

impl ControlSend<Execute> {
    /// Does not wait for its end: the outcome is the pid. Arguments come before this.
    pub fn nowait(self) -> ControlSend<NoWait<Execute>> {
        self.map(NoWait)
    }
}

impl<Q: ControlRequest + Into<Value>> ControlSend<Q> {
    fn without_reply(self) -> Result<TaskSendNoReply> {
        let Parts { communicator, request, limit, .. } = self.sending.into_parts()?;
        Ok(limit.of_task(communicator.task_send(request.into())).no_reply())
    }
}

impl<Q: ControlRequest> Parts<Q> {
    async fn send(self) -> Result<ControlReply<Q::Outcome>> {
        let Parts { communicator, pid, request, limit, wake_up_after } = self;
        let about = about::<Q>(pid.as_ref());
        match request.way() {
            Way::Call(message) => {
                let pid = pid.ok_or_else(|| Error::new(ErrorKind::Internal, "a call to a process without a pid"))?;
                let ask = |message| limit.of_call(communicator.rpc_send(&pid, message).idempotent());
                let wake_up = match wake_up_after {
                    None => WakeUp::none(),
                    Some(time) => {
                        let status = ask(AskStatus.into());
                        WakeUp::after(Box::pin(communicator.sleep(time)), status, Q::IS_STATUS)
                    }
                };
                let reply = ask(message).send().await.map_err(|error| unreachable(&pid, &about, error))?;
                Ok(ControlReply::new(reply, Some(pid), about, wake_up, Q::read))
            }
            Way::Task(message) => {
                let reply = limit.of_task(communicator.task_send(message)).send().await;
                let reply = reply.map_err(|error| named(&about, error))?;
                Ok(ControlReply::new(reply, pid, about, WakeUp::none(), Q::read))
            }
            Way::Execute { create, nowait } => {
                let created = limit.of_task(communicator.task_send(create)).await;
                let pid = created.and_then(|answer| Pid::try_from(&answer)).map_err(|error| named(&about, error))?;
                // Nobody else knows of it.
                let about = format!("the request to run process {pid}, which was created for it");
                let message = Continue::new(&pid);
                let message = if nowait { message.nowait() } else { message };
                let task = limit.of_task(communicator.task_send(message));
                let reply = task.send().await.map_err(|error| named(&about, error))?;
                Ok(ControlReply::new(reply, Some(pid), about, WakeUp::none(), Q::read))
            }
        }
    }
}

/// What was asked of whom, for errors.
fn about<Q: ControlRequest>(pid: Option<&Pid>) -> String {
    match pid {
        Some(pid) => format!("the request {} process {pid}", Q::PURPOSE),
        None => format!("the request {} a process", Q::PURPOSE),
    }
}

/// Nobody is subscribed to calls to a process.
fn unreachable(pid: &Pid, about: &str, error: Error) -> Error {
    if error.kind() != ErrorKind::Unroutable {
        return named(about, error);
    }
    let text = format!(
        "process {pid} cannot be reached: it has ended, or no worker runs it now; see whether its worker runs, on this broker \
         and under the same prefix; a process that has not ended is run again by whichever worker gets a task that continues it"
    );
    Error::with_source(ErrorKind::Unroutable, text, error)
}

impl<Q: ControlRequest> Future for ControlSend<Q> {
    type Output = Result<Q::Outcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Q::Outcome>> {
        self.sending.poll(context, |parts| Box::pin(async move { parts.send().await?.outcome().await }))
    }
}

impl<Q: ControlRequest> fmt::Debug for ControlSend<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = self.sending.parts().and_then(|parts| parts.pid.as_ref());
        f.debug_struct("ControlSend").field("purpose", &Q::PURPOSE).field("pid", &pid).finish_non_exhaustive()
    }
}

/// A request to all processes, by a broadcast. Awaited, it resolves when the broker has taken it over; nobody answers.
///
/// # Errors
/// Awaiting it fails as a [`BroadcastSend`](crate::BroadcastSend) does.
///
/// # Cancel safety
/// Dropped before it was polled, nothing is sent. Dropped later, the broadcast may or may not have been sent.
#[must_use = "nothing is sent until it is awaited"]
pub struct ControlAllSend<Q> {
    sending: Sending<ToAll<Q>, ()>,
}

struct ToAll<Q> {
    communicator: Communicator,
    request: Q,
    limit: Option<Duration>,
}

impl<Q: Unpin> ControlAllSend<Q> {
    pub(super) fn new(communicator: Communicator, request: Q) -> Self {
        ControlAllSend { sending: Sending::Built(ToAll { communicator, request, limit: None }) }
    }

    /// Waits this long until the broker has taken it over. Default: the communicator's
    /// [`call_timeout`](crate::CommunicatorBuilder::call_timeout), 60 s, which is also the most.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.sending.set(|parts| parts.limit = Some(time));
        self
    }

    fn set(&mut self, option: impl FnOnce(Q) -> Q)
    where
        Q: Default,
    {
        self.sending.set(|parts| parts.request = option(std::mem::take(&mut parts.request)));
    }
}

impl ControlAllSend<Pause> {
    /// Why they are paused.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.set(|pause| pause.with_message(message));
        self
    }
}

impl ControlAllSend<Kill> {
    /// Why they are killed.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.set(|kill| kill.with_message(message));
        self
    }
}

impl From<Pause> for ControlBroadcast {
    fn from(pause: Pause) -> Self {
        ControlBroadcast::Pause(pause)
    }
}

impl From<Play> for ControlBroadcast {
    fn from(play: Play) -> Self {
        ControlBroadcast::Play(play)
    }
}

impl From<Kill> for ControlBroadcast {
    fn from(kill: Kill) -> Self {
        ControlBroadcast::Kill(kill)
    }
}

impl<Q: Into<ControlBroadcast> + Unpin> Future for ControlAllSend<Q> {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.sending
            .poll(context, |ToAll { communicator, request, limit }| to_all(&communicator, request.into(), limit))
    }
}

fn to_all(communicator: &Communicator, broadcast: ControlBroadcast, limit: Option<Duration>) -> Running<()> {
    let subject = broadcast.subject();
    let broadcast = communicator.broadcast_send(broadcast.into_body()).subject(subject);
    let Some(time) = limit else { return Box::pin(broadcast) };
    let out_of_time = communicator.sleep(time);
    Box::pin(async move {
        match select(broadcast, pin!(out_of_time)).await {
            Either::Left((sent, _)) => sent,
            Either::Right((Err(error), _)) => Err(error),
            Either::Right((Ok(()), _)) => Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "the broker has not taken over the request to {subject} all processes within {time:?}; it may still be \
                     sent"
                ),
            )),
        }
    })
}

impl<Q> fmt::Debug for ControlAllSend<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlAllSend").finish_non_exhaustive()
    }
}
