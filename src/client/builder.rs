//! How a communicator is to be: kiwipy's options, with kiwipy's defaults and meanings where it has them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Communicator;
use crate::broker::ConnectOptions;
use crate::broker::url::BrokerUrl;
use crate::codec::{Codec, Yaml};
use crate::driver::port::InFlight;
use crate::driver::tasks::{Config, LongTasks as Leases};
use crate::driver::{Limits, ReconnectPolicy};
use crate::error::Result;
use crate::observe::TraceContext;
use crate::wire::names::{Names, TestingMode};

/// How many tasks a subscriber may have in hand unless told otherwise. kiwipy's default is no limit.
const DEFAULT_TASK_PREFETCH: u16 = 256;

/// How tasks that run for longer than a broker lets a delivery wait are kept safe; see [`CommunicatorBuilder::long_tasks`].
#[derive(Clone, Copy, Debug)]
pub struct LongTasks {
    pub(crate) after: Duration,
    pub(crate) lease: Duration,
}

impl Default for LongTasks {
    fn default() -> Self {
        LongTasks { after: Duration::from_secs(600), lease: Duration::from_secs(120) }
    }
}

impl LongTasks {
    /// After 10 minutes in hand, on leases of 2 minutes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a task is in hand before it goes on lease. It must be less than the broker's delivery timeout, of which the
    /// shortest default is 15 minutes. Default 10 minutes.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// How long a lease lasts that is not renewed: so long after its worker's death a task goes back to its queue. It is
    /// renewed each third of it. At least 3 s, at most 7 days. Default 2 minutes.
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time.clamp(Duration::from_secs(3), Duration::from_secs(7 * 24 * 60 * 60));
        self
    }
}

/// Options of a [`Communicator`], to be [connected](CommunicatorBuilder::connect).
#[derive(Clone)]
#[must_use = "a builder does nothing until it is connected"]
pub struct CommunicatorBuilder {
    pub(crate) url: String,
    pub(crate) names: Names,
    pub(crate) task_prefetch: u16,
    pub(crate) call_timeout: Duration,
    pub(crate) task_timeout: Duration,
    pub(crate) reconnect: ReconnectPolicy,
    pub(crate) limits: Limits,
    pub(crate) in_flight: InFlight,
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) trace_context: Option<Arc<dyn TraceContext>>,
    pub(crate) connect: ConnectOptions,
    pub(crate) thread_name: String,
}

impl CommunicatorBuilder {
    pub(crate) fn new(url: &str) -> Self {
        CommunicatorBuilder {
            url: url.to_owned(),
            names: Names::default(),
            task_prefetch: DEFAULT_TASK_PREFETCH,
            call_timeout: Duration::from_secs(60),
            task_timeout: Names::default().task_ttl,
            reconnect: ReconnectPolicy::ForEver,
            limits: Limits {
                reply_timeout: Duration::from_secs(10),
                tasks: Config { attempts: 5, retry_pause: Duration::from_secs(1), long_tasks: None },
                close_timeout: Duration::from_secs(10),
            },
            in_flight: InFlight { messages: 4096, bytes: 256 << 20 },
            codec: Arc::new(Yaml::default()),
            trace_context: None,
            connect: ConnectOptions {
                connect_timeout: Duration::from_secs(10),
                operation_timeout: Duration::from_secs(30),
                heartbeat: None,
                connection_name: format!("homing {}", std::process::id()),
            },
            thread_name: "homing".to_owned(),
        }
    }

    /// The exchange of calls and broadcasts. Default `kiwipy.messages`.
    pub fn message_exchange(mut self, name: impl AsRef<str>) -> Self {
        self.names.message_exchange = name.as_ref().into();
        self
    }

    /// The exchange of tasks. Default `kiwipy.tasks`.
    pub fn task_exchange(mut self, name: impl AsRef<str>) -> Self {
        self.names.task_exchange = name.as_ref().into();
        self
    }

    /// The default task queue. Default `kiwipy.tasks`.
    pub fn task_queue(mut self, name: impl AsRef<str>) -> Self {
        self.names.task_queue = name.as_ref().into();
        self
    }

    /// `AiiDA`'s names: the exchanges `<prefix>.messages` and `<prefix>.tasks`, the queue `<prefix>.process.queue`. An
    /// `AiiDA` profile's prefix is `aiida-<its uuid>`.
    pub fn prefix(self, prefix: impl AsRef<str>) -> Self {
        let prefix = prefix.as_ref();
        self.message_exchange(format!("{prefix}.messages"))
            .task_exchange(format!("{prefix}.tasks"))
            .task_queue(format!("{prefix}.process.queue"))
    }

    /// How many tasks of one queue may be in hand here at once, unless its subscriber has
    /// [a prefetch of its own](crate::TaskSubscriber::with_prefetch). Default 256; see also
    /// [`unlimited_task_prefetch`](Self::unlimited_task_prefetch).
    pub fn task_prefetch(mut self, count: std::num::NonZeroU16) -> Self {
        self.task_prefetch = count.get();
        self
    }

    /// As many tasks in hand as the queue has, which is kiwipy's default.
    pub fn unlimited_task_prefetch(mut self) -> Self {
        self.task_prefetch = 0;
        self
    }

    /// How long a call's queue and a reply's queue live without a user (`x-expires`). Default 60 s.
    pub fn queue_expires(mut self, time: Duration) -> Self {
        self.names.queue_expires = time;
        self
    }

    /// How long a call or a broadcast may wait in a queue (`x-message-ttl`). Default 66 s.
    pub fn message_ttl(mut self, time: Duration) -> Self {
        self.names.message_ttl = time;
        self
    }

    /// How long a task may wait in its queue (`x-message-ttl`). Default 7 days. RabbitMQ counts to 49.7 days; longer times of
    /// queues count as that.
    pub fn task_ttl(mut self, time: Duration) -> Self {
        self.names.task_ttl = time;
        self
    }

    /// Declares task queues with this many levels of priority above 0 (`x-max-priority`), so that
    /// [`TaskSend::priority`](crate::TaskSend::priority) counts; RabbitMQ advises up to 5. Default: none, as kiwipy.
    ///
    /// All who use a queue must declare it alike, and a queue that is there cannot be changed: kiwipy's programs, and those of
    /// homing without this option, are refused by a queue with priorities (`PreconditionFailed`). It is for queues of your own.
    pub fn task_priorities(mut self, levels: std::num::NonZeroU8) -> Self {
        self.names.task_priorities = Some(levels.get());
        self
    }

    /// The heartbeat to agree on with the broker, in whole seconds up to 65,535; zero turns heartbeats off. Default: what the
    /// URL says (`?heartbeat=600`), else what the broker says.
    pub fn heartbeat(mut self, time: Duration) -> Self {
        self.connect.heartbeat = Some(time);
        self
    }

    /// How long connecting may take. Default 10 s.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect.connect_timeout = time;
        self
    }

    /// How long the broker may take to answer one question (to declare a queue, say). Default 30 s.
    pub fn operation_timeout(mut self, time: Duration) -> Self {
        self.connect.operation_timeout = time;
        self
    }

    /// How long a call waits for its answer, and again after each `pending`, unless the call says otherwise. Default 60 s.
    pub fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// The same for the reply to a task. Default 7 days, as long as a task may wait in its queue.
    pub fn task_timeout(mut self, time: Duration) -> Self {
        self.task_timeout = time;
        self
    }

    /// What is to be done about a lost connection. Default [`ReconnectPolicy::ForEver`]. The first connection is another matter: it
    /// fails at once when it cannot be made.
    pub fn reconnect(mut self, policy: ReconnectPolicy) -> Self {
        self.reconnect = policy;
        self
    }

    /// How many messages may be on their way to the broker at once, and of how many bytes. Whoever sends more waits, as long
    /// as the message may take; `try_send` says so instead. Default 4096 messages and 256 MiB.
    pub fn under_way(mut self, messages: std::num::NonZeroUsize, bytes: std::num::NonZeroUsize) -> Self {
        self.in_flight = InFlight { messages: messages.get().min(1 << 20), bytes: bytes.get() };
        self
    }

    /// How long a subscriber's reply is tried whose caller is not to be found: it may be connecting again. Default 10 s.
    pub fn reply_patience(mut self, time: Duration) -> Self {
        self.limits.reply_timeout = time;
        self
    }

    /// How often a task is handed out whose handler [says to try again](crate::Failure::TryAgain), and the pause before the
    /// second attempt; it doubles up to a minute. Default 5 attempts and 1 s.
    pub fn task_attempts(mut self, attempts: std::num::NonZeroU32, first_pause: Duration) -> Self {
        (self.limits.tasks.attempts, self.limits.tasks.retry_pause) = (attempts.get(), first_pause);
        self
    }

    /// Lets tasks run for days. RabbitMQ 3.8.15 to 4.2 closes the channel of a delivery that is not acknowledged within its
    /// delivery timeout (`consumer_timeout`, 30 minutes by default), and hands the task out again while it still runs. With
    /// this, a task that is long in hand goes on *lease*: a copy of it lies in a durable queue `homing-lease-…`, from which the
    /// broker puts it back into the task queue unless its worker renews it in time; only then is the original acknowledged.
    ///
    /// Off by default, for a task on lease is not in its queue: a peer that counts or looks for it there does not find it. A
    /// copy that comes back says [`is_redelivered`](crate::TaskRequest::is_redelivered). Of no use, and without effect, on
    /// `memory:`.
    pub fn long_tasks(mut self, long_tasks: LongTasks) -> Self {
        self.limits.tasks.long_tasks = Some(Leases { after: long_tasks.after, lease: long_tasks.lease });
        self
    }

    /// How long closing may take. Default 10 s.
    pub fn close_timeout(mut self, time: Duration) -> Self {
        self.limits.close_timeout = time;
        self
    }

    /// What writes and reads bodies. Default [`Yaml`], kiwipy's own.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// Has each message carry the trace that it is part of, in the headers of W3C trace context. Default: none is written, and
    /// what comes in is not read. Peers that do not know the headers ignore them.
    pub fn trace_context(mut self, context: impl TraceContext) -> Self {
        self.trace_context = Some(Arc::new(context));
        self
    }

    /// kiwipy's testing mode: everything declared vanishes when unused.
    pub fn testing(mut self, testing: TestingMode) -> Self {
        self.names.testing = testing;
        self
    }

    /// How this connection is called in the broker's lists. Default `homing <process id>`.
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.connect.connection_name = name.into();
        self
    }

    /// How its threads are called: `<name>-communicator` and `<name>-codec`. Default `homing`.
    pub fn thread_name(mut self, name: impl Into<String>) -> Self {
        self.thread_name = name.into();
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL or a name that cannot be; `Connection` when nobody answers there as a broker;
    /// `AccessRefused` for the credentials or the virtual host.
    ///
    /// # Cancel safety
    /// Dropping it gives the attempt up; what has been opened is closed in the background.
    pub async fn connect(mut self) -> Result<Communicator> {
        self.names.check()?;
        let urls = BrokerUrl::parse_list(&self.url)?;
        if urls.iter().any(BrokerUrl::is_memory) {
            // Inside one process nothing has to be put on lease.
            self.limits.tasks.long_tasks = None;
        }
        Communicator::start(self, urls).await
    }
}

impl fmt::Debug for CommunicatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("CommunicatorBuilder").field("names", &self.names).finish_non_exhaustive()
    }
}
