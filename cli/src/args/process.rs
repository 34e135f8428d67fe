//! `homing process`.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::{Args, Subcommand};
use homing::process::Pid;

use super::help;
use super::parse::{duration, pid};

#[derive(Debug, Subcommand)]
pub(crate) enum Process {
    /// Asks processes for their status.
    #[command(after_help = help::PIDS)]
    Status {
        /// The processes.
        #[arg(value_name = "PID", required = true, value_parser = pid, allow_negative_numbers = true)]
        pids: Vec<Pid>,
        /// Bounds the whole command, connecting and closing included [default: 60s for each answer, and again after each
        /// stage of it]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Pauses processes. One that is in a step pauses when the step has ended.
    #[command(after_help = help::PIDS)]
    Pause {
        #[command(flatten)]
        targets: Targets,
        /// Why: the process shows it as long as it is paused.
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Lets paused processes go on.
    #[command(after_help = help::PIDS)]
    Play {
        #[command(flatten)]
        targets: Targets,
    },
    /// Kills processes.
    #[command(after_help = help::PIDS)]
    Kill {
        #[command(flatten)]
        targets: Targets,
        /// Why.
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
        /// Kills at once, whatever the process does: for one whose orderly kill does not come to an end. (There is no forced
        /// kill of all: processes ignore it in a broadcast.)
        #[arg(long, conflicts_with = "all")]
        force: bool,
    },
    /// Prints changes of state as they happen, until Ctrl-C or SIGTERM. Each has the time at which it came.
    ///
    /// Pausing and playing change no state, and are not broadcast.
    #[command(after_help = help::PIDS)]
    Watch {
        /// Only of these processes [default: of all]
        #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
        pids: Vec<Pid>,
        /// Ends after this many.
        #[arg(long, value_name = "N")]
        count: Option<NonZeroU64>,
    },
    /// Has a worker make a process and run it, and prints what it puts out.
    #[command(after_help = help::CONSTRUCTORS)]
    Launch {
        /// The class, as the workers' loader knows it: package.module:Class in plumpy.
        class: String,
        /// Arguments of its constructor: NAME=VALUE is a keyword argument, everything else a positional one. Values are YAML
        /// or JSON.
        #[arg(allow_negative_numbers = true)]
        args: Vec<String>,
        /// Stores the process before it runs. A worker without a store refuses it.
        #[arg(long)]
        persist: bool,
        /// Does not wait for its end, and prints its pid.
        #[arg(long)]
        nowait: bool,
        /// Bounds the whole command, connecting and closing included [default: 7 days for the outcome]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Has workers take processes from their store and run them on, and prints what they put out.
    ///
    /// A process that runs already is run twice: workers do not know of each other.
    #[command(after_help = help::PIDS)]
    Continue {
        /// The processes.
        #[arg(value_name = "PID", required = true, value_parser = pid, allow_negative_numbers = true)]
        pids: Vec<Pid>,
        /// Does not wait for their end.
        #[arg(long)]
        nowait: bool,
        /// From the checkpoint of this tag rather than the newest.
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
        /// Bounds the whole command, connecting and closing included [default: 7 days for the outcome]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
}

/// Which processes.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which processes").args(["pids", "all"]).required(true))]
pub(crate) struct Targets {
    /// The processes.
    #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pids: Vec<Pid>,
    /// All processes that run under these names on the broker, by a broadcast, which nobody answers.
    #[arg(long)]
    pub all: bool,
    /// Bounds the whole command, connecting and closing included [default: 60s for each answer, and again after each stage
    /// of it]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}
