//! `homing run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::parse::duration_or_zero;

/// `homing run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The program and its arguments.
    #[arg(required = true, last = true, value_name = "CMD")]
    pub command: Vec<String>,
    /// Prints its pid, and does not wait until it has ended.
    #[arg(short, long)]
    pub detach: bool,
    /// The directory that it runs in [default: the current directory]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Sets a variable of its environment, which is the worker's. May be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// What happens to it if its worker dies.
    #[arg(long, value_enum, default_value_t = OnLoss::RunAgain)]
    pub on_loss: OnLoss,
    /// How long it has to end after SIGTERM when it is killed, before SIGKILL.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_or_zero)]
    pub grace: Duration,
    /// The store of processes, which workers on this machine use too [env: HOMING_STORE] [default:
    /// ~/.local/share/homing/processes.db]
    #[arg(long, value_name = "FILE")]
    pub store: Option<PathBuf>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is not of the form NAME=VALUE".to_owned()),
    }
}

/// What becomes of a job whose worker died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnLoss {
    /// Another worker runs the program again, from its beginning.
    #[default]
    RunAgain,
    /// It ends in the state `excepted`.
    MarkLost,
}

impl OnLoss {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            OnLoss::RunAgain => "run-again",
            OnLoss::MarkLost => "mark-lost",
        }
    }
}
