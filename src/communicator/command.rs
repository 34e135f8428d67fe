//! What handles, subscribers and homes ask of the communicator thread. Identifiers, bytes and completers only: no user code.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::broadcast::BroadcastSink;
use super::driver::Ticket;
use super::names::Identifier;
use super::shared::Slot;
use super::signal::Watch;
use super::task::Hold;
use crate::broker::Body;
use crate::error::{Error, Result};
use crate::home::Completer;

/// A reply as it came, to be read at the caller's home; or why there will be none.
pub(crate) type RawReply = Result<Body>;

/// How long to wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// This long, and this long again after each `pending`.
    For(Duration),
    /// For ever; reported every minute.
    ForEver,
}

/// Where the outcome of a request goes.
pub(crate) struct Expected {
    pub correlation: Uuid,
    pub reply: Completer<RawReply>,
    pub patience: Patience,
}

/// Told when the broker has taken a message over.
pub(crate) type Published = Completer<Result<()>>;

/// What is asked of whom, as errors say it. Put into words only when one does.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Call(Identifier),
    Task(Arc<str>),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Call(recipient) => write!(f, "the call to {:?}", recipient.as_str()),
            What::Task(queue) => write!(f, "the task on {queue:?}"),
        }
    }
}

pub(crate) enum Command {
    Rpc {
        recipient: Identifier,
        body: Body,
        expected: Expected,
        published: Option<Published>,
        repeat: Repeat,
        slot: Slot,
    },
    Task {
        queue: Arc<str>,
        body: Body,
        /// `None` for a task without reply.
        expected: Option<Expected>,
        published: Option<Published>,
        slot: Slot,
    },
    Broadcast {
        body: Body,
        published: Published,
        slot: Slot,
    },
    /// The caller saw `pending` and waits for the next reply.
    NextReply {
        correlation: Uuid,
        reply: Completer<RawReply>,
    },
    /// Nobody waits for this any more.
    Forget {
        correlation: Uuid,
        left: Left,
    },
    /// A subscriber wants to know when the caller of what it has in hand is gone.
    WatchCaller {
        correlation: String,
        watch: Watch,
    },
    AddRpc {
        identifier: Identifier,
        sink: mpsc::UnboundedSender<RpcDelivery>,
        done: Completer<Result<()>>,
    },
    RemoveRpc {
        identifier: Identifier,
        done: Completer<Result<()>>,
    },
    AddTask {
        queue: Arc<str>,
        prefetch: u16,
        identifier: Identifier,
        sink: mpsc::UnboundedSender<TaskDelivery>,
        done: Completer<Result<()>>,
    },
    RemoveTask {
        queue: Arc<str>,
        identifier: Identifier,
        done: Completer<Result<()>>,
    },
    AddBroadcast {
        identifier: Identifier,
        sink: BroadcastSink,
        done: Completer<Result<()>>,
    },
    RemoveBroadcast {
        identifier: Identifier,
        done: Completer<Result<()>>,
    },
    /// The home of some subscriber has ended: its end of the way is closed, which is how it is found.
    Sweep,
    /// Takes one task, if there is one.
    TakeTask {
        queue: Arc<str>,
        done: Completer<Result<Option<TaskDelivery>>>,
    },
    /// Waits for a task.
    AwaitTask {
        queue: Arc<str>,
        patience: Duration,
        done: Completer<Result<Option<TaskDelivery>>>,
    },
    Ack {
        ticket: Ticket,
    },
    /// A broadcast that cannot be read.
    Discard {
        ticket: Ticket,
    },
    Reply(OutgoingReply),
    Settle {
        task: TaskId,
        settlement: Settlement,
    },
    /// A handler wants to know when its task is no longer its own.
    WatchTask {
        task: TaskId,
        watch: Watch,
    },
    /// Some home waits for a time, and may have no timers.
    Alarm {
        after: Duration,
        done: Completer<()>,
    },
    Close {
        done: Option<Completer<CloseReport>>,
    },
}

/// Whether a call may be sent again when it is not known whether the first arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    Never,
    Allowed,
}

/// A task in hand, whatever delivery stands for it at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaskId(pub u64);

/// A header of a copy of ours.
pub(crate) type TaskMark = (&'static str, String);

/// How a caller left its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
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

/// A reply on its way out.
#[derive(Clone)]
pub(crate) struct OutgoingReply {
    pub exchange: ReplyExchange,
    pub reply_to: String,
    pub correlation_id: Option<String>,
    pub stage: ReplyStage,
    pub body: Body,
}

/// Replies to calls and to tasks go through different exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReplyExchange {
    Message,
    Task,
}

/// What is to become of a task in hand.
pub(crate) enum Settlement {
    /// Acknowledged; then the reply goes out, where one is wanted.
    Done { reply: Option<OutgoingReply> },
    /// This subscriber does not want it: the next one gets it, or after the last it goes back.
    Rejected,
    /// It goes back.
    Requeue(Requeue),
    /// Something that may pass was in the way: after a pause it is handed out again, a limited number of times. The reply is
    /// for the last.
    TryAgain { reason: String, reply: Option<OutgoingReply> },
    /// It cannot be read: it goes to the quarantine queue with this reason.
    Quarantine { reason: String, reply: Option<OutgoingReply> },
}

/// How a task goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Requeue {
    /// Unprocessed: at once.
    AtOnce,
    /// It was tried: after a pause that grows with each time.
    AfterPause,
}

/// A call as it came in.
pub(crate) struct RpcDelivery {
    pub ticket: Ticket,
    pub body: Body,
    pub reply_to: Option<String>,
    pub correlation_id: Option<String>,
}

/// A task as it came in. Dropped, it goes back to its queue.
pub(crate) struct TaskDelivery {
    pub hold: Hold,
    pub body: Body,
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
    /// What went wrong while closing, where something did.
    pub error: Option<Error>,
}
