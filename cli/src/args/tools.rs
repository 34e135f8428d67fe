//! The commands that send nothing of the user's: doctor, bench, stress, context, worker, man.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::parse::{duration, duration_or_zero, whole};
use super::workers::Supervision;

/// `homing bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How long each of the six measurements lasts.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub seconds: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Also asks RabbitMQ's management API: https://USER:PASSWORD@HOST:15671 or http://USER:PASSWORD@HOST:15672; for a
    /// certificate authority of your own add ?cacertfile=FILE. It knows every argument, limits on deliveries, connections and
    /// channels, and alarms.
    #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true)]
    pub management: Option<String>,
    /// Lists queues and exchanges that are declared with arguments other than homing's, and that are empty and unused, so that they can
    /// be deleted and declared again. With --yes it deletes them.
    #[arg(long, requires = "management")]
    pub fix: bool,
    /// Deletes what --fix lists.
    #[arg(long, requires = "fix")]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stress {
    /// How long it runs.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub seconds: Duration,
    /// The seed of all decisions; a run prints its seed [default: random]
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0, u64::MAX))]
    pub seed: Option<u64>,
    /// Continues until this many events were checked, for at most ten times --seconds; fails if there were fewer.
    #[arg(long, value_name = "N", default_value = "1", value_parser = whole::<u64>(0, u64::MAX))]
    pub events: u64,
    /// How many homes of each kind there are.
    #[arg(long, value_name = "N", default_value = "3", value_parser = whole::<u16>(1, 64))]
    pub homes: u16,
    /// How many threads complete, cancel and drop futures.
    #[arg(long, value_name = "N", default_value = "8", value_parser = whole::<u16>(1, 256))]
    pub producers: u16,
    /// How long anything may go without progress before it counts as stuck.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub stuck_after: Duration,
    /// Adds a fault, which the run then has to find.
    #[arg(long, value_name = "FAULT", hide = true, value_enum)]
    pub seed_fault: Option<Fault>,
}

/// `homing context`.
#[derive(Debug, Subcommand)]
pub(crate) enum Context {
    /// Adds a context, or replaces one of the same name.
    Add {
        /// Its name.
        name: String,
        #[command(flatten)]
        options: ContextOptions,
    },
    /// Makes a context the default, for commands without --broker, --context and HOMING_BROKER.
    Use {
        /// Its name.
        name: String,
    },
    /// Lists the contexts. Passwords are not printed.
    List,
    /// Removes a context.
    Remove {
        /// Its name.
        name: String,
    },
}

/// What a context holds beside the broker and the names, which are given as everywhere.
#[derive(Debug, Args)]
pub(crate) struct ContextOptions {
    /// A file with the certificates (PEM) of the authority that signed the broker's certificate.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A file with the client's own certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// A file with the key of that certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// A file whose first line is the password. Each command reads it anew.
    #[arg(long, value_name = "FILE", conflicts_with = "password_command")]
    pub password_file: Option<PathBuf>,
    /// A shell command that prints the password (`pass show rabbitmq`). Each command runs it anew.
    #[arg(long, value_name = "CMD")]
    pub password_command: Option<String>,
}

/// `homing worker`.
#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(subcommand)]
    pub command: Option<WorkerCommand>,
    #[command(flatten)]
    pub options: WorkerOptions,
}

/// What a worker is started with.
#[derive(Debug, Args)]
pub(crate) struct WorkerOptions {
    /// How many processes run at the same time. One that waits or is paused does not count [default: 1]
    #[arg(long, value_name = "N", value_parser = whole::<NonZeroU16>(1, 65_535))]
    pub slots: Option<NonZeroU16>,
    /// The store of processes. Several workers on one machine may use the same one [env: HOMING_STORE] [default:
    /// ~/.local/share/homing/processes.db]
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// How long running processes may continue after the first signal, before they are stopped and go back [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration_or_zero)]
    pub drain: Option<Duration>,
    #[command(flatten)]
    pub supervision: Supervision,
}

impl WorkerOptions {
    /// Whether any is given.
    pub(crate) fn any(&self) -> bool {
        self.slots.is_some() || self.store.is_some() || self.drain.is_some() || self.supervision.any()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Asks homing's own workers and servers (`worker`, `task work`, `rpc serve`) to answer, and prints those that do. Others,
    /// such as AiiDA's daemons, do not answer.
    Ping {
        /// How long to wait for answers.
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
        wait: Duration,
    },
}

/// `homing man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Writes homing.1, homing-rpc-call.1 and so on into this directory.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// A fault that a run has to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// An outcome is written by a thread that is not its home.
    OffHomeWrite,
    /// A waiter is woken by a thread that is not its home.
    OffHomeWake,
    /// A call of a home is run by a thread that is not that home.
    OffHomeCallback,
    /// A value is dropped by the library on a thread that is not its home.
    OffHomeDrop,
    /// A completer is forgotten: its future never ends.
    Lost,
    /// An outcome is seen twice.
    Doubled,
    /// A value is dropped by its sender, who was not handed it back.
    Misplaced,
    /// One message fewer than was asked for may be under way, as if a permit were held by nobody.
    PermitHeld,
    /// A close takes longer than it may.
    LateClose,
    /// Threads race for a counter, for ThreadSanitizer to find. Needs a build for it.
    #[cfg(feature = "seeded-race")]
    Race,
}
