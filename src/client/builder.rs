//! The options of a communicator: kiwipy's, with kiwipy's defaults and meanings, and more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Communicator;
use crate::broker::url::{BrokerUrl, LONGEST_CONNECTION_NAME};
use crate::broker::{ConnectOptions, Kept};
use crate::codec::{Codec, Yaml};
use crate::driver::port::InFlight;
use crate::driver::tasks::{Config, LongTasks as Leases};
use crate::driver::{Limits, ReconnectPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::TraceContext;
use crate::wire::names::{Names, TestingMode};

/// The default prefetch of a task queue. kiwipy's default is no limit.
const DEFAULT_TASK_PREFETCH: u16 = 256;

/// Settings for tasks that run for longer than the broker's delivery timeout; see [`CommunicatorBuilder::long_tasks`].
///
/// # Examples
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use std::time::Duration;
/// use homing::{Communicator, LongTasks};
///
/// let long = LongTasks::new().after(Duration::from_secs(300)).lease(Duration::from_secs(60));
/// let communicator = Communicator::builder("amqp://127.0.0.1").long_tasks(long).connect().await?;
/// # communicator.close().await.map(drop) }
/// ```
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
    /// A task goes on lease after 10 minutes; a lease lasts 2 minutes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a task runs before it goes on lease. It must be less than the broker's delivery timeout, whose shortest default is
    /// 15 minutes. Default 10 minutes.
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// How long a lease lasts unless it is renewed: a task goes back to its queue this long after its worker has died. It is
    /// renewed after a third of the time. At least 3 s, at most 7 days. Default 2 minutes.
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time.clamp(Duration::from_secs(3), Duration::from_secs(7 * 24 * 60 * 60));
        self
    }
}

/// The options of a [`Communicator`]; [`connect`](CommunicatorBuilder::connect) makes it.
///
/// # The URL
///
/// `amqp://user:password@host:5672/vhost?name=value&name=value`, or `amqps://…` for TLS (port 5671). What is left out is
/// `guest:guest`, `localhost`, the usual port and the virtual host `/`. A `:`, `/`, `@`, `?`, `#` or `%` in a name or a password is
/// written as `%3A`, `%2F`, `%40`, `%3F`, `%23` or `%25`. The parameters are those of RabbitMQ's URI query specification and of
/// aio-pika. One that is not known, or cannot be obeyed, is an error (`InvalidArgument`).
///
/// | parameter | meaning |
/// |---|---|
/// | `heartbeat` | seconds, up to 65,535; 0 turns heartbeats off. Default: what the broker proposes |
/// | `connection_timeout`, `timeout` | how long connecting may take, in milliseconds and in seconds; up to a day, and 0 is no limit. Default 10 s |
/// | `channel_max` | the most channels, from 8 to 65,535. Default, and 0: what the broker proposes |
/// | `frame_max` | the largest frame in bytes, from 4096 to 1,048,576. Default, and 0: what the broker proposes, up to 131,072 |
/// | `name` | the name of the connection in the broker's lists, up to 1000 bytes |
/// | `cacertfile`, `cafile` | with `amqps`: a file (PEM) with the authority that signed the broker's certificate, beside those that the system trusts |
/// | `certfile`, `keyfile` | with `amqps`: files (PEM) with the client's own certificate and its key |
/// | `server_name_indication` | with `amqps`: the name that the broker's certificate must have, if it is not the host's |
/// | `verify=verify_peer` | with `amqps`: the broker's certificate is verified, which is always done |
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use std::num::NonZeroU16;
/// use std::time::Duration;
/// use homing::Communicator;
///
/// let builder = Communicator::builder("memory:")
///     .prefix("billing")
///     .call_timeout(Duration::from_secs(20))
///     .task_prefetch(NonZeroU16::new(4).expect("not zero"));
/// let communicator = builder.connect().await?;
/// # communicator.close().await.map(drop) }
/// ```
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
    overrides: Overrides,
}

/// Which parameters of the URL do not count, since the program has set them.
#[derive(Clone, Copy, Default)]
struct Overrides {
    connect_timeout: bool,
    connection_name: bool,
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
                kept: Kept::default(),
            },
            thread_name: "homing".to_owned(),
            overrides: Overrides::default(),
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

    /// How many tasks of one queue this communicator may hold at once, unless its subscriber has
    /// [a prefetch of its own](crate::TaskSubscriber::with_prefetch). Default 256; see also
    /// [`unlimited_task_prefetch`](Self::unlimited_task_prefetch).
    pub fn task_prefetch(mut self, count: std::num::NonZeroU16) -> Self {
        self.task_prefetch = count.get();
        self
    }

    /// No limit: all tasks of the queue are delivered at once. This is kiwipy's default.
    pub fn unlimited_task_prefetch(mut self) -> Self {
        self.task_prefetch = 0;
        self
    }

    /// How long the queues of calls and replies live without a consumer (`x-expires`). Default 60 s. Less than a second counts as one:
    /// a queue has to live until it has its consumer.
    pub fn queue_expires(mut self, time: Duration) -> Self {
        self.names.queue_expires = time.max(Duration::from_secs(1));
        self
    }

    /// How long a call or a broadcast may wait in a queue (`x-message-ttl`). Default 66 s.
    pub fn message_ttl(mut self, time: Duration) -> Self {
        self.names.message_ttl = time;
        self
    }

    /// How long a task may wait in its queue (`x-message-ttl`). Default 7 days. RabbitMQ's limit is 49.7 days; longer times are cut to that.
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

    /// The heartbeat to agree on with the broker, in whole seconds up to 65,535; zero turns heartbeats off. Default: the URL's (`?heartbeat=600`), else the broker's.
    pub fn heartbeat(mut self, time: Duration) -> Self {
        self.connect.heartbeat = Some(time);
        self
    }

    /// How long connecting may take. Default: the URL's (`?connection_timeout=10000` in milliseconds, `?timeout=10` in
    /// seconds), else 10 s. Of several brokers in one URL each is tried for that long, one after the other.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.overrides.connect_timeout = true;
        self.connect.connect_timeout = time;
        self
    }

    /// How long the broker may take to answer one request, such as the declaration of a queue. Default 30 s.
    ///
    /// What takes several requests, or waits behind others, goes on for as long as the broker answers. If it is connected and silent, so
    /// that it answers nothing of the kind, adding a subscriber and [`try_next`](crate::TaskQueue::try_next) end with `TimedOut` within
    /// twice this time from the call, or from the last answer if that came later, however many wait side by side. (At a home that is
    /// full a place is waited for before that, for no longer than this time.) A removal ends within this time, and a send within its
    /// own timeout.
    pub fn operation_timeout(mut self, time: Duration) -> Self {
        self.connect.operation_timeout = time;
        self
    }

    /// How long a call waits for its answer, and again after each `pending`, unless the call has a timeout of its own. Default 60 s.
    pub fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// How long the sender of a task waits for its outcome, and again after each `pending`, unless the task has a timeout of its own.
    /// Default 7 days, as long as a task may wait in its queue.
    pub fn task_timeout(mut self, time: Duration) -> Self {
        self.task_timeout = time;
        self
    }

    /// What to do when the connection is lost. Default [`ReconnectPolicy::ForEver`]. It does not apply to the first connection:
    /// [`connect`](Self::connect) fails at once when that cannot be made.
    pub fn reconnect(mut self, policy: ReconnectPolicy) -> Self {
        self.reconnect = policy;
        self
    }

    /// The in-flight limit: how many messages, and of how many bytes, may wait for the broker's confirmation at once. At the limit,
    /// a send waits, up to the message's timeout, and [`try_send`](crate::RpcSend::try_send) fails with `Full`. Default 4096
    /// messages and 256 MiB.
    ///
    /// A task or broadcast that is given up at its timeout counts until the broker has decided on it, or on a later message: the
    /// connection may still have it.
    pub fn max_in_flight(mut self, messages: std::num::NonZeroUsize, bytes: std::num::NonZeroUsize) -> Self {
        self.in_flight = InFlight { messages: messages.get().min(1 << 20), bytes: bytes.get() };
        self
    }

    /// For how long a reply is sent again while the queue of its caller does not exist: the caller may be connecting again. Default
    /// 10 s.
    pub fn reply_timeout(mut self, time: Duration) -> Self {
        self.limits.reply_timeout = time;
        self
    }

    /// How many attempts a task has whose handler returns [`Failure::TryAgain`](crate::Failure::TryAgain), and the pause before the
    /// second one. The pause doubles, up to a minute. Default 5 attempts and 1 s.
    pub fn task_attempts(mut self, attempts: std::num::NonZeroU32, first_pause: Duration) -> Self {
        (self.limits.tasks.attempts, self.limits.tasks.retry_pause) = (attempts.get(), first_pause);
        self
    }

    /// Lets tasks run for days. RabbitMQ 3.8.15 to 4.2 closes the channel of a delivery that is not acknowledged within its
    /// delivery timeout (`consumer_timeout`, 30 minutes by default), and hands the task out again while it still runs. With this
    /// option, a task that runs for long goes on *lease*: a copy of it is put into a durable queue `homing-lease-…`, and then
    /// the original is acknowledged. Unless the worker renews the lease in time, the broker puts the copy back into the task
    /// queue. It does so without confirming it to itself: a RabbitMQ that is killed in that moment may lose the copy.
    ///
    /// Off by default, since a task on lease is not in its queue, where other programs may count it. A copy that comes back is
    /// [`is_redelivered`](crate::TaskRequest::is_redelivered). Without effect on `memory:`.
    pub fn long_tasks(mut self, long_tasks: LongTasks) -> Self {
        self.limits.tasks.long_tasks = Some(Leases { after: long_tasks.after, lease: long_tasks.lease });
        self
    }

    /// How long [`close`](Communicator::close) may take. Default 10 s.
    pub fn close_timeout(mut self, time: Duration) -> Self {
        self.limits.close_timeout = time;
        self
    }

    /// The codec of bodies. Default [`Yaml`], as in kiwipy.
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

    /// The name of this connection in the broker's lists, of at most 1000 bytes. Default: the URL's (`?name=…`), else
    /// `homing <process id>`.
    pub fn connection_name(mut self, name: impl Into<String>) -> Self {
        self.overrides.connection_name = true;
        self.connect.connection_name = name.into();
        self
    }

    /// The name of its threads: `<name>-communicator` and `<name>-codec`. Default `homing`.
    pub fn thread_name(mut self, name: impl Into<String>) -> Self {
        self.thread_name = name.into();
        self
    }

    /// Where to connect to. What the program has set counts before the URL.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL that cannot be used.
    pub(crate) fn urls(&self) -> Result<Vec<BrokerUrl>> {
        let mut urls = BrokerUrl::parse_list(&self.url)?;
        for url in &mut urls {
            if let BrokerUrl::Amqp(url) = url {
                url.connect_timeout.take_if(|_| self.overrides.connect_timeout);
                url.connection_name.take_if(|_| self.overrides.connection_name);
            }
        }
        Ok(urls)
    }

    /// Connects.
    ///
    /// # Errors
    /// `InvalidArgument` for a URL or a name that cannot be used; `Connection` when no broker answers there; `AccessRefused` when it
    /// refuses the credentials or the virtual host.
    ///
    /// # Cancel safety
    /// Dropped, it gives the attempt up; what has been opened is closed in the background.
    pub async fn connect(mut self) -> Result<Communicator> {
        self.names.check()?;
        let name_length = self.connect.connection_name.len();
        if name_length > LONGEST_CONNECTION_NAME {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the connection's name has {name_length} bytes; {LONGEST_CONNECTION_NAME} are allowed"),
            ));
        }
        let urls = self.urls()?;
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
