//! `homing process`.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use homing::process::{Pid, ProcessState};

use super::help;
use super::parse::{duration, name, pid, whole};

#[derive(Debug, Subcommand)]
pub(crate) enum Process {
    /// Asks processes for their status.
    #[command(after_help = help::PIDS)]
    Status {
        /// The processes.
        #[arg(value_name = "PID", required = true, value_parser = pid, allow_negative_numbers = true)]
        pids: Vec<Pid>,
        /// The time limit of the whole command, including connecting and closing [default: 60s for each answer, and again after
        /// each stage of it]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Pauses processes. One that is in a step pauses when the step has ended.
    #[command(after_help = help::PIDS)]
    Pause {
        #[command(flatten)]
        targets: Targets,
        /// Why: the status of the process shows it while it is paused.
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
    },
    /// Resumes paused processes.
    #[command(after_help = help::PIDS)]
    Play {
        #[command(flatten)]
        targets: Targets,
    },
    /// Kills processes. One that waits for a worker with a free slot, and has not begun, is killed in the store.
    #[command(after_help = help::PIDS)]
    Kill {
        #[command(flatten)]
        targets: Targets,
        /// Why: the status of the process shows it.
        #[arg(long, value_name = "TEXT")]
        message: Option<String>,
        /// Kills at once, whatever the process does: for a process that does not end when it is killed in order. (It cannot be
        /// combined with --all: processes ignore a forced kill that is broadcast.)
        #[arg(long, conflicts_with = "all")]
        force: bool,
        /// The workers' store, in which a process is killed that still waits for a worker [env: HOMING_STORE] [default:
        /// ~/.local/share/homing/processes.db]
        #[arg(long, value_name = "FILE", conflicts_with = "all")]
        store: Option<PathBuf>,
    },
    /// Prints changes of state as they happen, each with its time, until Ctrl-C or SIGTERM.
    ///
    /// Pausing and playing change no state, and are not broadcast.
    #[command(after_help = help::PIDS)]
    Watch {
        /// Only these processes [default: all]
        #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
        pids: Vec<Pid>,
        /// Ends after this many changes.
        #[arg(long, value_name = "N", value_parser = whole::<NonZeroU64>(1, u64::MAX))]
        count: Option<NonZeroU64>,
    },
    /// Has a worker create a process and run it, and prints its outputs.
    #[command(after_help = help::CONSTRUCTORS)]
    Launch {
        /// The class, as the workers' loader knows it: package.module:Class in plumpy.
        #[arg(value_parser = name)]
        class: String,
        /// Arguments of its constructor: NAME=VALUE is a keyword argument, everything else a positional one. Values are YAML
        /// or JSON.
        #[arg(allow_negative_numbers = true)]
        args: Vec<String>,
        /// Stores the process before it runs. A worker without a store refuses it.
        #[arg(long)]
        persist: bool,
        /// Prints its pid, and does not wait until it has ended.
        #[arg(long)]
        nowait: bool,
        /// The time limit of the whole command, including connecting and closing [default: 7 days for the outcome]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Has workers continue processes from their store, and prints their outputs.
    ///
    /// A plumpy process that is running already is then run twice: its workers do not know of each other.
    #[command(after_help = help::PIDS)]
    Continue {
        /// The processes.
        #[arg(value_name = "PID", required = true, value_parser = pid, allow_negative_numbers = true)]
        pids: Vec<Pid>,
        /// Does not wait until they have ended.
        #[arg(long)]
        nowait: bool,
        /// Continues from the checkpoint with this tag [default: the newest]
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
        /// The time limit of the whole command, including connecting and closing [default: 7 days for the outcome]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Lists the processes of the store, the newest first. Needs no broker.
    List {
        /// Only processes in this state: created, running, waiting, finished, excepted, killed, or `unfinished` for all that have
        /// not ended. May be given several times.
        #[arg(long, value_name = "STATE", value_parser = states)]
        state: Vec<States>,
        /// Only processes of this class.
        #[arg(long, value_name = "CLASS")]
        class: Option<String>,
        /// How many to list at most.
        #[arg(long, value_name = "N", default_value = "100", value_parser = whole::<NonZeroU64>(1, u64::MAX))]
        limit: NonZeroU64,
        #[command(flatten)]
        store: Store,
    },
    /// Shows everything that the store holds about a process, except its log.
    Show {
        /// The process.
        #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
        pid: Pid,
        #[command(flatten)]
        store: Store,
    },
    /// Prints the log of a process from the store: a program's standard output and standard error, and notes about it.
    ///
    /// What the program wrote to standard output goes to standard output, and everything else to standard error.
    Report(Report),
    /// Finds unfinished processes that no worker runs and no task would continue, and has workers continue them.
    ///
    /// Compares the unfinished processes of the store with the tasks that wait in the queue, twice, while workers run. Names lost
    /// processes, processes with several tasks, and tasks whose process has ended. A process that a living worker has is never
    /// touched. It reads the messages of the queue and gives them back; the broker marks them as redelivered.
    Repair {
        /// Names what it would do, and sends nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        store: Store,
    },
}

/// States to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum States {
    One(ProcessState),
    Unfinished,
}

fn states(text: &str) -> Result<States, String> {
    if text == "unfinished" {
        return Ok(States::Unfinished);
    }
    let all = ProcessState::ALL;
    all.into_iter().find(|state| state.as_str() == text).map(States::One).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|state| state.as_str()).collect();
        format!("there is no such state; there are {} and unfinished", names.join(", "))
    })
}

/// `homing process report`.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// The process.
    #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pid: Pid,
    /// Prints new lines as they come, until the process has ended.
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines.
    #[arg(long, value_name = "N", value_parser = whole::<NonZeroU64>(1, u64::MAX))]
    pub last: Option<NonZeroU64>,
    #[command(flatten)]
    pub store: Store,
}

/// The store that a command reads.
#[derive(Debug, Args)]
pub(crate) struct Store {
    /// The store of processes [env: HOMING_STORE] [default: ~/.local/share/homing/processes.db]
    #[arg(long = "store", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Which processes.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which processes").args(["pids", "all"]).required(true))]
pub(crate) struct Targets {
    /// The processes.
    #[arg(value_name = "PID", value_parser = pid, allow_negative_numbers = true)]
    pub pids: Vec<Pid>,
    /// All processes that run under these names on the broker. It is a broadcast, so there are no answers.
    #[arg(long)]
    pub all: bool,
    /// The time limit of the whole command, including connecting and closing [default: 60s for each answer, and again after each
    /// stage of it]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}
