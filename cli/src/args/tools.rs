//! The commands that send nothing of the user's: doctor, bench, stress, context, worker, man.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::{duration, duration_or_zero};

/// `homing bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// How long each of the six measurements lasts.
    #[arg(long, value_name = "N", default_value = "2", value_parser = duration)]
    pub seconds: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Also asks RabbitMQ's management API: https://USER:PASSWORD@HOST:15671 or http://USER:PASSWORD@HOST:15672; an authority of
    /// your own by ?cacertfile=FILE. It knows every argument, limits on deliveries, connections and channels, and alarms.
    #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true)]
    pub management: Option<String>,
    /// Lists the empty and unused queues and exchanges that have other arguments and that it would delete, so that they can be
    /// declared again. With --yes it deletes them.
    #[arg(long, requires = "management")]
    pub fix: bool,
    /// Deletes what --fix lists.
    #[arg(long, requires = "fix")]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Stress {
    /// How long it runs.
    #[arg(long, value_name = "S", default_value = "10", value_parser = duration)]
    pub seconds: Duration,
    /// The seed of all decisions; a run prints its seed [default: random]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Continues until this many events were checked, for at most ten times the seconds; fails if there were fewer.
    #[arg(long, value_name = "N", default_value = "1")]
    pub events: u64,
    /// How many homes of each kind there are.
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub homes: u16,
    /// How many threads complete, cancel and drop.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub producers: u16,
    /// How long anything may make no progress before it counts as stuck.
    #[arg(long, value_name = "S", default_value = "20", value_parser = duration)]
    pub patience: Duration,
    /// Adds a fault, which the run then has to find.
    #[arg(long, value_name = "FAULT", hide = true, value_enum)]
    pub seed_fault: Option<crate::stress::Fault>,
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
    /// A file of certificates (PEM) that sign the broker's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A file with the client's own certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// A file with its key (PEM).
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// A file whose first line is the password. It is read each time.
    #[arg(long, value_name = "FILE", conflicts_with = "password_command")]
    pub password_file: Option<PathBuf>,
    /// A shell command that prints the password (`pass show rabbitmq`). It is run each time.
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
    #[arg(long, value_name = "N")]
    pub slots: Option<NonZeroU16>,
    /// The store of processes. Several workers of one machine use the same [env: HOMING_STORE] [default:
    /// ~/.local/share/homing/processes.db]
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// How long running processes may continue after the first signal, before they are stopped and go back [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration_or_zero)]
    pub drain: Option<Duration>,
}

impl WorkerOptions {
    /// Whether any is given.
    pub(crate) fn any(&self) -> bool {
        self.slots.is_some() || self.store.is_some() || self.drain.is_some()
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
    /// Writes homing.1, homing-rpc-call.1 and so on into this folder.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}
