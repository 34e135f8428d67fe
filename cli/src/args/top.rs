//! `homing top`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use homing::process::Pid;

use super::parse::{duration_or_zero, name, pid};

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Only these processes. They are asked for their status at once, and so are shown even if nothing changes [default: all]
    #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pids: Vec<Pid>,
    /// Prints one frame and ends: text, or an object with --format json. Needs no terminal.
    #[arg(long)]
    pub once: bool,
    /// How long changes of state are collected before the frame is printed [default: 0]
    #[arg(long, value_name = "TIME", value_parser = duration_or_zero, requires = "once")]
    pub wait: Option<Duration>,
    /// The store of processes [env: HOMING_STORE] [default: ~/.local/share/homing/processes.db, if it is there. With --aiida and
    /// --profile there is none unless this option names it]
    #[arg(long, value_name = "FILE", help_heading = "What is shown")]
    pub store: Option<PathBuf>,
    /// Reads no store: shows only what processes broadcast and answer.
    #[arg(long, conflicts_with = "store", help_heading = "What is shown")]
    pub no_store: bool,
    /// Another queue to show, beside the task queue and its quarantine queue. May be given several times.
    #[arg(long, value_name = "NAME", value_parser = name, help_heading = "What is shown")]
    pub queue: Vec<String>,
    /// Also asks RabbitMQ's management API, which knows the rates of queues, and how many messages are not acknowledged:
    /// https://USER:PASSWORD@HOST:15671
    #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true, help_heading = "What is shown")]
    pub management: Option<String>,
    /// Adds a fault, after which the terminal has to be as it was.
    #[arg(long, value_name = "FAULT", hide = true, value_enum)]
    pub seed_fault: Option<TopFault>,
}

/// A fault on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopFault {
    /// A panic when `!` is pressed.
    Panic,
    /// The same in another thread.
    PanicElsewhere,
    /// `!` stops everything for a minute, as a terminal does that takes no output.
    Stuck,
}
