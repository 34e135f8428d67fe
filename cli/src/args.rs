//! The command line, as clap reads it.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use homing::Reconnect;

/// RPC, task queues and broadcasts between programs, over RabbitMQ, in kiwipy's format.
///
/// Start with `homing demo`: it needs no broker. Bodies are YAML or JSON text, or `-` for standard input. Results go to
/// standard output, logs to standard error.
#[derive(Debug, Parser)]
#[command(name = "homing", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 usage, 3 unroutable (nobody listens there), 4 timed out, \
                          5 remote exception, 6 no connection.";

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The broker: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// with TLS. `demo` and `bench` take memory: too.
    #[arg(long, global = true, value_name = "URL", env = "HOMING_BROKER", hide_env_values = true)]
    pub broker: Option<String>,
    /// AiiDA's names: P.messages, P.tasks and P.process.queue, where P is `aiida-<profile uuid>`.
    #[arg(long, global = true, value_name = "P", conflicts_with_all = ["message_exchange", "task_exchange", "task_queue"])]
    pub prefix: Option<String>,
    /// The exchange of calls and broadcasts [default: kiwipy.messages]
    #[arg(long, global = true, value_name = "NAME")]
    pub message_exchange: Option<String>,
    /// The exchange of tasks [default: kiwipy.tasks]
    #[arg(long, global = true, value_name = "NAME")]
    pub task_exchange: Option<String>,
    /// The task queue [default: kiwipy.tasks]
    #[arg(long, global = true, value_name = "NAME")]
    pub task_queue: Option<String>,
    /// What to do about a connection that is lost: `never`, `for-ever`, or connect again for this many seconds. Commands that
    /// serve, work and watch connect again for ever unless told otherwise; the others never do.
    #[arg(long, global = true, value_name = "WHEN", value_parser = reconnect)]
    pub reconnect: Option<Reconnect>,
    /// How results are printed; json is one line each.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// Logs more: -v what happens to the connection, -vv every message's way. Or RUST_LOG.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

fn reconnect(text: &str) -> Result<Reconnect, String> {
    match text {
        "never" => Ok(Reconnect::Never),
        "for-ever" => Ok(Reconnect::ForEver),
        seconds => seconds
            .parse()
            .map(|seconds| Reconnect::For(Duration::from_secs(seconds)))
            .map_err(|_| "it is never, for-ever, or a number of seconds".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows what homing does, with no broker at all (or over one, with --broker).
    Demo,
    /// Puts homes of every kind under stress inside this process, and demands that every future ends exactly once and at home.
    ///
    /// Prints the seed, the counts, a rate, and how many events were looked at for being at home. Fails when anything is lost,
    /// doubled, misplaced or stuck.
    Stress(Stress),
    /// Calls a subscriber, or is one.
    #[command(subcommand)]
    Rpc(Rpc),
    /// Sends tasks, or works on them.
    #[command(subcommand)]
    Task(Task),
    /// Sends broadcasts, or hears them.
    #[command(subcommand)]
    Broadcast(Broadcast),
    /// Looks at a broker as an operator would, and says what is wrong and what to do. Creates and changes nothing.
    ///
    /// Exits with 0 when there is no problem, 1 when there is one, 6 when no connection can be made.
    Doctor(Doctor),
    /// Measures how fast calls, tasks and broadcasts are over a broker, and what limits them: this program, the network or the
    /// broker.
    ///
    /// Caller and subscribers are in this one process. It uses names of its own, which are gone ten seconds after it; a broker that
    /// others use is loaded meanwhile. `--broker memory:` measures without one.
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How long each of the six pieces of work is done.
    #[arg(long, value_name = "N", default_value = "2", value_parser = seconds)]
    pub seconds: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Also asks RabbitMQ's management API: http://USER:PASSWORD@HOST:15672 (no https: go through a tunnel). It knows every
    /// argument, limits on deliveries set by policy, and alarms.
    #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true)]
    pub management: Option<String>,
    /// Says which empty and unused queues and exchanges with other arguments it would delete, so that they can be declared
    /// anew; with --yes it does.
    #[arg(long, requires = "management")]
    pub fix: bool,
    /// Does what --fix says.
    #[arg(long, requires = "fix")]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stress {
    /// Runs this long.
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Decides what each worker does; a run prints the one that it drew [default: drawn]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Goes on until so many events were looked at for being at home, ten times the seconds at most; fails when it were fewer.
    #[arg(long, value_name = "N", default_value = "1")]
    pub events: u64,
    /// How many homes of each kind stand side by side.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub homes: u16,
    /// How many threads complete, cancel and drop.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub producers: u16,
    /// How long anything may stand still before it counts as stuck.
    #[arg(long, value_name = "S", default_value = "20", value_parser = seconds)]
    pub patience: Duration,
    /// Puts a fault in, which the run then has to find.
    #[arg(long, value_name = "FAULT", hide = true, value_enum)]
    pub seed_fault: Option<crate::stress::Fault>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rpc {
    /// Calls a subscriber and prints its answer.
    Call {
        /// Its identifier: a process id, say.
        recipient: String,
        /// What to send: YAML or JSON text, or - for standard input.
        #[arg(allow_hyphen_values = true)]
        body: String,
        /// Waits this many seconds for the answer, and again after each `pending` [default: 60]
        #[arg(long, value_name = "S", value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// Answers calls until Ctrl-C or SIGTERM.
    Serve {
        /// The identifier to answer under.
        identifier: String,
        #[command(flatten)]
        handler: Handler,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Sends a task, and prints its outcome when a worker has done it.
    Send {
        /// What to send: YAML or JSON text, or - for standard input.
        #[arg(allow_hyphen_values = true)]
        body: String,
        /// Waits for no outcome: done when the broker has the task.
        #[arg(long, conflicts_with = "timeout")]
        no_reply: bool,
        /// Waits this many seconds for the outcome, and again after each `pending` [default: 7 days]
        #[arg(long, value_name = "S", value_parser = seconds)]
        timeout: Option<Duration>,
    },
    /// Works on tasks until Ctrl-C or SIGTERM, which let the tasks in hand go back to the queue.
    Work {
        #[command(flatten)]
        handler: Handler,
        /// How many tasks run side by side.
        #[arg(long, value_name = "N", default_value = "1")]
        prefetch: std::num::NonZeroU16,
        /// Ends after this many tasks; no more are taken.
        #[arg(long, value_name = "N")]
        count: Option<std::num::NonZeroU64>,
    },
    /// Shows what waits in the task queue while workers run, and takes nothing away.
    List(List),
}

/// What waits in a task queue.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Another queue than the task queue; NAME.quarantine holds what could not be read.
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Shows the messages, not only their number. It gets them and gives them back at once, in their order: none is lost, but
    /// the broker marks them as redelivered, and workers do not get them meanwhile.
    #[arg(long)]
    pub peek: bool,
    /// How many messages at most, from the head of the queue.
    #[arg(long, value_name = "N", default_value = "20", requires = "peek")]
    pub limit: std::num::NonZeroU16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Broadcast {
    /// Sends a broadcast.
    Send {
        /// What to send: YAML or JSON text, or - for standard input.
        #[arg(allow_hyphen_values = true)]
        body: String,
        /// What it is about; hearers filter by it.
        #[arg(long, value_name = "S")]
        subject: Option<String>,
        /// Who sends it: YAML, so that 4 is a number and "4" a text.
        #[arg(long, value_name = "S")]
        sender: Option<String>,
        /// A mark of your own.
        #[arg(long, value_name = "C")]
        correlation_id: Option<String>,
    },
    /// Prints broadcasts as they come, until Ctrl-C or SIGTERM.
    Watch {
        /// Only subjects that this pattern matches from their start; * is any text: 'state_changed.*.finished'.
        #[arg(long, value_name = "GLOB")]
        subject: Option<String>,
        /// Only senders that this pattern matches; a number means the number.
        #[arg(long, value_name = "GLOB")]
        sender: Option<String>,
        /// Ends after this many.
        #[arg(long, value_name = "N")]
        count: Option<std::num::NonZeroU64>,
    },
}

/// What answers.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Handler {
    /// Answers with what was sent.
    #[arg(long)]
    pub echo: bool,
    /// Runs a shell command: the body is its standard input as JSON, its standard output, read as YAML, is the answer (empty
    /// is null); if it exits with other than 0 the answer is an exception with its standard error.
    #[arg(long, value_name = "CMD")]
    pub exec: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted, such as 2.5".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time <= Duration::from_secs(100 * 365 * 86_400) => Ok(time),
        _ => Err("a number of seconds over 0 is wanted, 100 years at most".to_owned()),
    }
}
