//! `homing task`.

use std::num::{NonZeroU16, NonZeroU64};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use homing::TaskSend;

use super::parse::{delay, duration, duration_or_zero, key_time, name, point_in_time, whole};
use super::{Handler, help};

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Sends a task, and prints its outcome when a worker has done it.
    #[command(after_help = help::BODIES)]
    Send(Send),
    /// Works on tasks until Ctrl-C or SIGTERM.
    ///
    /// Writes one line for each task to standard error. At the first signal it starts no new task, and running tasks may end
    /// within --drain; then they are stopped and go back to the queue. A second signal stops them at once. If the worker itself is
    /// killed (kill -9), its tasks go back at once, and their commands run on: nobody is left to stop them.
    #[command(after_help = help::EXEC_TASKS)]
    Work(Work),
    /// Shows the tasks that wait in the queue, without taking them; workers may run meanwhile.
    List(List),
    /// Deletes tasks. Their senders get no answer and time out.
    Purge(Mend),
    /// Moves tasks to another queue, with all their properties and headers.
    ///
    /// Each task is sent to its new queue, confirmed there by the broker, and then taken out of the old one. None is lost, whatever
    /// happens; but a move that is killed (kill -9, a power cut, a lost connection) may leave the task that it was moving in both
    /// queues, under one message id. Run the command again to continue.
    Move {
        #[command(flatten)]
        mend: Mend,
        /// The queue to move them to; it must exist.
        #[arg(long, value_name = "NAME", value_parser = name)]
        to: String,
    },
    /// Puts tasks of the quarantine queue back into their queue, so that workers try them again.
    ///
    /// As with `task move`, none is lost; a command that is killed may leave the task that it was moving in both queues.
    #[command(mut_arg("queue", |queue| {
        queue.help("The quarantine queue to take them from [default: that of the task queue, NAME.quarantine]")
    }))]
    Requeue(Mend),
}

/// `homing task send`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("many tasks").args(["lines", "count"]))]
pub(crate) struct Send {
    /// What to send: YAML or JSON text, or - for standard input; null if left out.
    #[arg(allow_negative_numbers = true, conflicts_with = "lines")]
    pub body: Option<String>,
    /// Does not wait for the outcome; ends when the broker has the task.
    #[arg(long)]
    pub no_reply: bool,
    /// The time limit of the whole command, including connecting and closing [default: 7 days for the outcome, and again each time the
    /// worker reports that its answer is pending]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Holds the task back for this long. The broker keeps it: with --no-reply nobody has to wait.
    #[arg(long, value_name = "TIME", value_parser = delay, help_heading = "Later", conflicts_with = "at")]
    pub delay: Option<Duration>,
    /// Holds the task back until this time, in UTC: 2030-01-31T12:00:00Z, or without the Z.
    #[arg(long, value_name = "WHEN", value_parser = point_in_time, help_heading = "Later")]
    pub at: Option<SystemTime>,
    /// Sends the task only if none with this key was sent to the queue within --unique-for, by any program. Otherwise the command ends with
    /// exit code 8. This is best effort: a sender that dies at the wrong moment leaves the key in use without a task.
    #[arg(long, value_name = "KEY", help_heading = "Once", conflicts_with = "many tasks")]
    pub unique: Option<String>,
    /// For how long the key is in use, from the moment when the task is sent. All senders of a key have to give the same time.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = key_time, help_heading = "Once", requires = "unique")]
    pub unique_for: Duration,
    /// Sends one task for each line of standard input that is not empty, many at once. Outcomes are printed in the order of the
    /// lines.
    #[arg(long, help_heading = "Many tasks")]
    pub lines: bool,
    /// Sends the task this many times.
    #[arg(long, value_name = "N", help_heading = "Many tasks", conflicts_with = "lines", value_parser = whole::<NonZeroU64>(1, u64::MAX))]
    pub count: Option<NonZeroU64>,
    /// How many tasks wait for their outcome at once.
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        help_heading = "Many tasks",
        requires = "many tasks",
        value_parser = whole::<NonZeroU16>(1, 65_535)
    )]
    pub in_flight: NonZeroU16,
    /// Prints outcomes as they come, not in the order in which the tasks were sent.
    #[arg(long, help_heading = "Many tasks", conflicts_with = "no_reply", requires = "many tasks")]
    pub as_they_come: bool,
}

impl Send {
    /// The task, held back as it is asked for, and with its key.
    pub(crate) fn with_options(&self, task: TaskSend) -> TaskSend {
        let task = match (self.delay, self.at) {
            (Some(delay), _) => task.delay(delay),
            (None, Some(at)) => task.at(at),
            (None, None) => task,
        };
        match &self.unique {
            Some(key) => task.unique(key, self.unique_for),
            None => task,
        }
    }
}

/// `homing task work`.
#[derive(Debug, Args)]
pub(crate) struct Work {
    #[command(flatten)]
    pub handler: Handler,
    /// How many tasks run at the same time.
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole::<NonZeroU16>(1, 65_535))]
    pub prefetch: NonZeroU16,
    /// Ends after this many tasks, and starts no more.
    #[arg(long, value_name = "N", value_parser = whole::<NonZeroU64>(1, u64::MAX))]
    pub count: Option<NonZeroU64>,
    /// How often a failed command is tried again, after pauses of 1 s, 2 s, 4 s and so on.
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Failures", value_parser = whole::<u32>(0, 999))]
    pub retries: u32,
    /// What happens to a task whose last attempt has failed.
    #[arg(long, value_enum, default_value_t = OnFailure::Quarantine, help_heading = "Failures")]
    pub on_failure: OnFailure,
    /// Stops a command that runs for longer, with its whole process group. The attempt has failed then.
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Failures")]
    pub timeout: Option<Duration>,
    /// How long running tasks may continue after the first signal, before they are stopped and go back.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration_or_zero)]
    pub drain: Duration,
    /// For tasks that run for longer than the broker's delivery timeout (30 minutes by default): a long task is kept in a queue of
    /// its own, as a lease that the worker renews.
    #[arg(long)]
    pub long_tasks: bool,
}

/// What happens to a task that has failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFailure {
    /// Its sender gets the exception; the task is gone.
    Reply,
    /// It goes to the quarantine queue, NAME.quarantine, and its sender gets the exception.
    Quarantine,
    /// It goes back to its queue after a growing pause, for this worker or another. Each worker counts its attempts
    /// (HOMING_ATTEMPT) on its own.
    Requeue,
}

/// What waits in a task queue.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The queue, if it is not the task queue. NAME.quarantine has the tasks that could not be read or whose last attempt has failed.
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub queue: Option<String>,
    /// Also asks RabbitMQ's management API how many tasks workers hold, and which workers: https://USER:PASSWORD@HOST:15671
    #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true)]
    pub management: Option<String>,
    /// Shows the messages, not only their number. It fetches them and gives them back at once, in their order. None is lost, but
    /// the broker marks them as redelivered, and workers do not get them meanwhile.
    #[arg(long)]
    pub peek: bool,
    /// How many messages to show at most, from the head of the queue.
    #[arg(long, value_name = "N", default_value = "20", requires = "peek", value_parser = whole::<NonZeroU16>(1, 65_535))]
    pub limit: NonZeroU16,
}

/// Which tasks are mended.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which tasks").args(["id", "reason", "all"]).multiple(true).required(true))]
pub(crate) struct Mend {
    /// The queue to take them from [default: the task queue]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub queue: Option<String>,
    /// Only the task of this message id. May be given several times. An id without a task is an error (exit code 1), when
    /// the others have been dealt with.
    #[arg(long, value_name = "ID", help_heading = "Which tasks")]
    pub id: Vec<String>,
    /// Only tasks whose reason for being in quarantine matches this glob.
    #[arg(long, value_name = "GLOB", help_heading = "Which tasks")]
    pub reason: Option<String>,
    /// All tasks. Without it, --id or --reason is required.
    #[arg(long, help_heading = "Which tasks", conflicts_with_all = ["id", "reason"])]
    pub all: bool,
    /// Shows what would be done, and does nothing. (The broker marks what was shown as redelivered.)
    #[arg(long)]
    pub dry_run: bool,
    /// The time limit of the whole command, including connecting. What is done by then stays done.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}
