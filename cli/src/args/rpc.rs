//! `homing rpc`.

use std::num::NonZeroU16;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::{duration, duration_or_zero, name, whole};
use super::{Handler, help};

#[derive(Debug, Subcommand)]
pub(crate) enum Rpc {
    /// Calls a subscriber and prints its answer.
    #[command(after_help = help::BODIES)]
    Call {
        /// The subscriber's identifier, such as a process id.
        #[arg(value_parser = name)]
        recipient: String,
        /// What to send: YAML or JSON text, or - for standard input; null if left out.
        #[arg(allow_negative_numbers = true)]
        body: Option<String>,
        /// The time limit of the whole command, including connecting and closing [default: 60s for the answer, and again each time
        /// the other end reports that its answer is pending]
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Shows who answers calls, where that can be known.
    ///
    /// Servers of homing answer when they are asked. Those of other programs are known to RabbitMQ's management API alone.
    List {
        /// How long to wait for answers.
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
        wait: Duration,
        /// Also asks RabbitMQ's management API, which knows every subscriber: https://USER:PASSWORD@HOST:15671
        #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true)]
        management: Option<String>,
    },
    /// Answers calls until Ctrl-C or SIGTERM.
    ///
    /// If two servers use one identifier, both run every call, and the caller gets the first answer. kiwipy's format works that
    /// way.
    #[command(after_help = help::EXEC_CALLS)]
    Serve(Serve),
}

/// `homing rpc serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The identifier to answer under.
    #[arg(value_parser = name)]
    pub identifier: String,
    #[command(flatten)]
    pub handler: Handler,
    /// How many calls run at the same time; others wait.
    #[arg(long, value_name = "N", default_value = "16", value_parser = whole::<NonZeroU16>(1, 65_535))]
    pub parallel: NonZeroU16,
    /// Refuses to start when another homing server uses the identifier already. (Without it there is a warning. Subscribers of
    /// other programs are found with --management only.)
    #[arg(long)]
    pub exclusive: bool,
    /// Also finds other subscribers by RabbitMQ's management API.
    #[arg(long, value_name = "URL", env = "HOMING_MANAGEMENT", hide_env_values = true)]
    pub management: Option<String>,
    /// Stops a command that runs for longer, with its whole process group. Its caller gets an exception.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// How long running calls may continue after the first signal, before their commands are stopped. A second signal stops them
    /// at once.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration_or_zero)]
    pub drain: Duration,
}
