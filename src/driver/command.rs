//! What handles and subscribers ask of the communicator thread: identifiers, bytes and completers. No user code.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

use super::port::{Charge, ExpireOnDrop, MailboxSender, Signal, WaiterId};
use super::tasks::{Claim, DeliveryTag, Handed, Settlement, SubscriberId};
use crate::broker::{Body, Properties, Routing};
use crate::error::{Error, ErrorKind, Result};
use crate::home::Completer;
use crate::wire::headers::{self, TraceHeaders};
use crate::wire::names::{Exchange, Identifier};
use crate::wire::unique::UniqueKey;

/// What serves a subscriber, by which its end is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServedBy {
    /// Nobody yet: whoever adds it has not learned that it stands.
    Nobody,
    /// A task at a home: if it is gone, the home has ended.
    Task,
    /// A stream, which its user drops.
    Stream,
}

/// The name of a task queue.
pub(crate) type QueueName = Arc<str>;

/// Which set-up or end of a consumer; the outcome of an older one is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u64);

impl Turn {
    /// The one after this, which it becomes.
    pub(super) fn next(&mut self) -> Turn {
        self.0 += 1;
        *self
    }
}

/// A reply as it came, to be read at the caller's home; or why there will be none.
pub(crate) type RawReply = Result<Body>;

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// This long, and this long again after each `pending`.
    After(Duration),
    /// For ever; reported every minute.
    Never,
}

impl Timeout {
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            Timeout::After(time) => Some(time),
            Timeout::Never => None,
        }
    }
}

/// Where the outcome of a request goes.
pub(crate) struct Expected {
    pub(crate) correlation: Uuid,
    pub(crate) reply: Completer<RawReply>,
    pub(crate) timeout: Timeout,
    /// When the first reply is due, where there is a timeout: what waiting for room took counts.
    pub(crate) due: Option<Instant>,
}

impl Expected {
    /// How long its sender waits for the broker to take it over, where it does. A task that is held back has more time for its
    /// reply, and not for this.
    pub(super) fn sender_until(&self, published: Option<&Published>) -> Option<Instant> {
        published?;
        let limit = self.timeout.limit().map(crate::time::from_now);
        limit.into_iter().chain(self.due).min()
    }
}

/// Completed when the broker has taken a message over.
pub(crate) type Published = Completer<Result<()>>;

/// What is asked of whom, as errors name it. Put into words only when one does.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Call(Identifier),
    Task(QueueName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Call(recipient) => write!(f, "the call to {:?}", recipient.as_str()),
            Subject::Task(queue) => write!(f, "the task on {queue:?}"),
        }
    }
}

pub(crate) enum Command {
    Call {
        recipient: Identifier,
        body: Body,
        expected: Expected,
        published: Option<Published>,
        repeat: Repeat,
        charge: Charge,
        extras: Extras,
    },
    Task {
        queue: QueueName,
        body: Body,
        reply: TaskReply,
        published: Option<Published>,
        charge: Charge,
        extras: Extras,
    },
    Broadcast {
        body: Body,
        routing: Routing,
        published: Published,
        until: Instant,
        charge: Charge,
        extras: Extras,
    },
    /// The caller saw `pending` and waits for the next reply.
    NextReply {
        correlation: Uuid,
        reply: Completer<RawReply>,
    },
    /// Nobody waits for this any more.
    Forget {
        correlation: Uuid,
        end: RequestEnd,
    },
    Subscribe {
        id: SubscriberId,
        subscription: Subscription,
        done: Completer<Result<()>>,
    },
    /// A user takes a subscriber out.
    Unsubscribe {
        name: SubscriberName,
        /// `None` where nobody waits any more.
        done: Option<Completer<Result<()>>>,
    },
    /// What served a subscriber is gone, or whoever added it gave up. Ignored when the subscriber was taken out before.
    SubscriberEnded {
        id: SubscriberId,
        served_by: ServedBy,
    },
    Pull {
        id: PullId,
        queue: QueueName,
        wait: PullWait,
        done: Completer<Result<Option<TaskDelivery>>>,
    },
    /// Whoever pulled has given up. Ignored when its task has been taken.
    CancelPull {
        id: PullId,
    },
    /// A call was taken by its subscriber.
    Ack {
        tag: DeliveryTag,
    },
    /// A broadcast has been handed to the inboxes, or could not be read.
    BroadcastDone {
        tag: DeliveryTag,
        outcome: BroadcastOutcome,
    },
    Reply {
        reply: OutgoingReply,
        /// Completed when it has come to its end: whoever answers with `pending` again and again waits for that.
        sent: Option<Completer<Result<()>>>,
    },
    /// A call has ended without a reply, since nobody asked for one.
    CallEnded {
        call: CallId,
    },
    Settle {
        task: super::tasks::HandId,
        settlement: Settlement<OutgoingReply>,
    },
    StartTimer {
        id: TimerId,
        at: Instant,
        expiry: Expiry,
    },
    CancelTimer {
        id: TimerId,
    },
    Close {
        how: Closing,
        done: Option<Completer<CloseReport>>,
    },
    /// A fault of ours, as a test puts it in.
    #[cfg(test)]
    Panic,
}

impl Command {
    /// The room that a message takes up. In place, for a command is large.
    pub(super) fn charge(&mut self, room: Charge) {
        if let Command::Call { charge, .. } | Command::Task { charge, .. } | Command::Broadcast { charge, .. } = self {
            *charge = room;
        }
    }

    /// What is known of the trace that a message is part of.
    pub(crate) fn trace(&mut self, trace: Option<Box<TraceHeaders>>) {
        if let (
            Some(trace),
            Command::Call { extras, .. } | Command::Task { extras, .. } | Command::Broadcast { extras, .. },
        ) = (trace, self)
        {
            extras.0.get_or_insert_default().trace = Some(trace);
        }
    }

    /// Ends whoever waits for this message, which is not sent.
    pub(super) fn refuse(self, error: &Error) {
        let (published, expected, what) = match self {
            Command::Call { recipient, published, expected, .. } => {
                (published, Some(expected), Subject::Call(recipient).to_string())
            }
            Command::Task { queue, published, reply, .. } => {
                let expected = match reply {
                    TaskReply::Expected(expected) => Some(expected),
                    TaskReply::NotWanted { .. } => None,
                };
                (published, expected, Subject::Task(queue).to_string())
            }
            Command::Broadcast { published, .. } => (Some(published), None, "a broadcast".to_owned()),
            _ => return,
        };
        let error = match error.kind() {
            ErrorKind::TimedOut => Error::new(ErrorKind::TimedOut, format!("{what}: {error}")),
            _ => error.clone(),
        };
        if let Some(published) = published {
            drop(published.complete(Err(error.clone())));
        }
        if let Some(expected) = expected {
            drop(expected.reply.complete(Err(error)));
        }
    }
}

/// What few messages have beside their body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras(pub(crate) Option<Box<Extra>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) trace: Option<Box<TraceHeaders>>,
    pub(crate) priority: Option<u8>,
    /// The delay queue that the message goes to first.
    pub(crate) first_to: Option<QueueName>,
    /// When it is due, in milliseconds since 1970, where it is sent with a time.
    pub(crate) due: Option<u64>,
    /// It is sent only if this key is free.
    pub(crate) unique: Option<UniqueKey>,
}

impl Extras {
    /// Writes them to the properties of the message. Returns the delay queue and the key.
    pub(super) fn write(self, properties: &mut Properties) -> (Option<QueueName>, Option<UniqueKey>) {
        let Some(extra) = self.0 else { return (None, None) };
        let Extra { trace, priority, first_to, due, unique } = *extra;
        if let Some(trace) = trace {
            trace.write(properties);
        }
        if let Some(due) = due {
            properties.set_number(headers::DUE, due);
        }
        properties.priority = priority.or(properties.priority);
        (first_to, unique)
    }
}

/// How a communicator is to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// What is in hand may take so long to end in order. The shortest of several counts.
    Drain(Duration),
    /// The last handle is gone. One that drains goes on.
    LastHandle,
}

/// Whether the sender of a task waits for its outcome.
pub(crate) enum TaskReply {
    Expected(Expected),
    /// The message is given up when the broker has not taken it over by then.
    NotWanted {
        until: Instant,
    },
}

/// A subscriber, and the way to its home.
pub(crate) enum Subscription {
    Rpc {
        identifier: Identifier,
        sink: mpsc::UnboundedSender<RpcDelivery>,
    },
    Tasks {
        queue: QueueName,
        prefetch: u16,
        identifier: Identifier,
        sink: mpsc::UnboundedSender<TaskDelivery>,
    },
    /// Its filter is with the codec thread.
    Broadcasts {
        identifier: Identifier,
        mailbox: MailboxSender,
    },
}

/// How a user names a subscriber.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SubscriberName {
    Rpc(Identifier),
    Tasks(QueueName, Identifier),
    Broadcasts(Identifier),
}

/// One request for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PullId(pub(crate) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullWait {
    /// One look into the queue.
    No,
    Until(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TimerId(pub(crate) u64);

/// What ends when a timer rings.
#[derive(Debug)]
pub(crate) enum Expiry {
    /// A wait for room.
    Permit(WaiterId),
    /// A wait for a place of a home. It ends as this is dropped.
    Place(ExpireOnDrop),
    /// The same without a deadline: it is reported, and goes on.
    LongPlace { what: String, since: Instant, place: ExpireOnDrop },
    /// A pause of somebody at a home, or the time that a handler has.
    Alarm(Completer<()>),
}

/// What became of a broadcast on the codec thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BroadcastOutcome {
    HandedOut,
    Unreadable,
}

/// Whether a call may be sent again when it is not known whether the first arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    Never,
    Allowed,
}

/// How a caller left its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// It has its answer.
    Answered,
    /// It went before that.
    GivenUp,
}

/// Whether more replies follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyStage {
    Pending,
    Last,
}

/// A call in the hands of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CallId(pub(crate) u64);

/// A reply on its way out.
#[derive(Clone, Debug)]
pub(crate) struct OutgoingReply {
    pub(crate) exchange: Exchange,
    pub(crate) reply_to: Arc<str>,
    pub(crate) correlation_id: Option<Arc<str>>,
    pub(crate) stage: ReplyStage,
    pub(crate) body: Body,
    /// Of a call: which.
    pub(crate) call: Option<CallId>,
}

/// A call as it came in.
#[derive(Clone, Debug)]
pub(crate) struct RpcDelivery {
    pub(crate) call: CallId,
    pub(crate) tag: DeliveryTag,
    pub(crate) body: Body,
    pub(crate) reply_to: Option<Arc<str>>,
    pub(crate) correlation_id: Option<Arc<str>>,
    pub(crate) trace: Option<Box<TraceHeaders>>,
    /// Taken before the handler begins.
    pub(crate) claim: Claim,
    pub(crate) caller_gone: Signal,
}

/// A task as it came in.
#[derive(Clone, Debug)]
pub(crate) struct TaskDelivery {
    pub(crate) handed: Handed,
    pub(crate) ownership_lost: Signal,
}

/// What the codec thread is given by the communicator thread.
#[derive(Debug)]
pub(crate) enum CodecWork {
    /// To be decoded and handed to those whose filters it passes.
    Broadcast { tag: DeliveryTag, body: Body, trace: Option<Box<TraceHeaders>> },
    /// A call that nobody serves is answered by an exception.
    Refuse(RpcDelivery),
    /// The communicator ends.
    End,
}

/// How a communicator ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CloseReport {
    /// How many callers were still waiting for a reply; each got `communicator closed`.
    pub requests_ended: usize,
    /// How many publishes the broker had not confirmed when the time was up.
    pub publishes_unconfirmed: usize,
    /// How many tasks went back to their queue unfinished.
    pub tasks_returned: usize,
    /// How many calls were in the hands of subscribers here; each caller got an exception.
    pub calls_refused: usize,
    /// What went wrong while closing, where something did.
    pub error: Option<Error>,
}
