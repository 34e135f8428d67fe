//! `homing broadcast`.

use std::num::NonZeroU64;
use std::time::Duration;

use clap::Subcommand;

use super::help;
use super::parse::{duration, whole};

#[derive(Debug, Subcommand)]
pub(crate) enum Broadcast {
    /// Sends a broadcast.
    #[command(after_help = help::BODIES)]
    Send {
        /// What to send: YAML or JSON text, or - for standard input; null if left out.
        #[arg(allow_negative_numbers = true)]
        body: Option<String>,
        /// The subject, by which subscribers filter.
        #[arg(long, value_name = "S")]
        subject: Option<String>,
        /// The sender, in YAML: 4 is a number, '"4"' a string.
        #[arg(long, value_name = "S", allow_negative_numbers = true)]
        sender: Option<String>,
        /// An identifier of your own, for logs.
        #[arg(long, value_name = "C")]
        correlation_id: Option<String>,
        /// The time limit of the whole command, including connecting and closing.
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Prints broadcasts as they arrive, each with its time, until Ctrl-C or SIGTERM.
    Watch {
        /// Only subjects that match this glob from start to end: * is any text, ? any character, [a-f] one of these:
        /// 'state_changed.*.finished'.
        #[arg(long, value_name = "GLOB")]
        subject: Option<String>,
        /// Only senders that match this glob; a number also matches the number.
        #[arg(long, value_name = "GLOB", allow_negative_numbers = true)]
        sender: Option<String>,
        /// Ends after this many broadcasts.
        #[arg(long, value_name = "N", value_parser = whole::<NonZeroU64>(1, u64::MAX))]
        count: Option<NonZeroU64>,
    },
}
