//! `homing worker --workers N`, and `homing workers`, which controls it.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::{duration, workers};

/// Many workers instead of one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Many workers")]
pub(crate) struct Supervision {
    /// Keeps this many worker processes alive, each with the options given here. `homing workers` controls them.
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<NonZeroU16>,
    /// Runs in the background, with its log in a file beside the store, and returns when a worker is up.
    #[arg(long, requires = "workers")]
    pub detach: bool,
    /// The supervisor's name, which only one supervisor at a time can have [default: made from the store and the names on the broker]
    #[arg(long, value_name = "NAME", requires = "workers")]
    pub name: Option<String>,
    /// Given to a worker by its supervisor: the number of the worker.
    #[arg(long, hide = true, value_name = "NUMBER")]
    pub supervised: Option<u16>,
    /// Given to a supervisor in the background by whoever has started it.
    #[arg(long, hide = true)]
    pub detached: bool,
}

impl Supervision {
    /// Whether any is given.
    pub(super) fn any(&self) -> bool {
        self.workers.is_some() || self.detach || self.name.is_some() || self.supervised.is_some() || self.detached
    }
}

/// `homing workers`.
#[derive(Debug, Subcommand)]
pub(crate) enum Workers {
    /// Shows the workers: process, state, memory, processor time, age, and how the last process ended.
    ///
    /// Memory and processor time are a worker's own, without the programs that it runs.
    #[command(visible_alias = "stats")]
    Status {
        #[command(flatten)]
        options: WorkersOptions,
    },
    /// Adds workers, and returns when they are up.
    #[command(visible_alias = "incr")]
    Add {
        /// How many.
        #[arg(value_name = "N", default_value = "1", value_parser = workers, allow_negative_numbers = true)]
        count: NonZeroU16,
        #[command(flatten)]
        options: WorkersOptions,
    },
    /// Drains and ends workers: first those that are not running, then those with the highest numbers.
    #[command(visible_alias = "decr")]
    Remove {
        /// How many.
        #[arg(value_name = "N", default_value = "1", value_parser = workers, allow_negative_numbers = true)]
        count: NonZeroU16,
        #[command(flatten)]
        options: WorkersOptions,
    },
    /// Gives each worker a new process, one after the other: the next drains only when the previous one is up again.
    Restart {
        #[command(flatten)]
        options: WorkersOptions,
    },
    /// Drains all workers, and ends the supervisor.
    Stop {
        #[command(flatten)]
        options: WorkersOptions,
    },
}

impl Workers {
    /// What each of them takes.
    pub(crate) fn options(&self) -> &WorkersOptions {
        let (Workers::Status { options }
        | Workers::Add { options, .. }
        | Workers::Remove { options, .. }
        | Workers::Restart { options }
        | Workers::Stop { options }) = self;
        options
    }

    pub(super) fn options_mut(&mut self) -> &mut WorkersOptions {
        let (Workers::Status { options }
        | Workers::Add { options, .. }
        | Workers::Remove { options, .. }
        | Workers::Restart { options }
        | Workers::Stop { options }) = self;
        options
    }
}

/// Which supervisor, and how long.
#[derive(Debug, Args)]
pub(crate) struct WorkersOptions {
    /// The store that the workers were started with [env: HOMING_STORE] [default: ~/.local/share/homing/processes.db]
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
    /// The supervisor's name, if it was started with --name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The time limit of the whole command. When it ends, the supervisor goes on with what was begun [default: the workers' --drain, and
    /// 60s more]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}
