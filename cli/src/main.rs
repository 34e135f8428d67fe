//! The command `homing`: call, serve, send, work and watch from a shell, and a demonstration that needs no broker.

mod args;
mod bench;
mod broadcast;
mod demo;
mod doctor;
mod exec;
mod failure;
mod list;
mod rpc;
mod stop;
mod stress;
mod task;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use homing::{Builder, Communicator, Reconnect};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, Global};
use failure::Failure;
use stop::Stop;

/// RabbitMQ's own default.
const DEFAULT_BROKER: &str = "amqp://guest:guest@127.0.0.1:5672/";

fn main() -> ExitCode {
    let cli = parsed();
    // What stress does on purpose by the thousand is no warning there.
    let quiet = if matches!(cli.command, Command::Stress(_)) { "homing=error" } else { "homing=warn" };
    log_to_stderr(cli.global.verbose, quiet);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("homing: {failure}");
            failure.exit_code()
        }
    }
}

/// The command line. A variable of the environment that is empty counts as one that is not set.
fn parsed() -> Cli {
    let is_empty = |name: &str| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let mut command = Cli::command();
    if is_empty("HOMING_BROKER") {
        command = command.mut_arg("broker", |argument| argument.env(None::<&'static str>));
    }
    if is_empty("HOMING_MANAGEMENT") {
        command = command.mut_subcommand("doctor", |doctor| {
            doctor.mut_arg("management", |argument| argument.env(None::<&'static str>))
        });
    }
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn log_to_stderr(verbose: u8, quiet: &str) {
    let level = match verbose {
        0 => quiet,
        1 => "homing=info",
        _ => "homing=debug",
    };
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // Whatever RUST_LOG says: lapin logs messages with their bodies, and at `trace` the frame with the password.
    for silent in ["lapin=off", "amq_protocol=off"] {
        if let Ok(directive) = silent.parse() {
            filter = filter.add_directive(directive);
        }
    }
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    if matches!(command, Command::Demo) {
        return demo::run(&global);
    }
    if let Command::Stress(command) = &command {
        return stress::run(command, &global);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        let stop = Stop::on_signals()?;
        match command {
            Command::Demo | Command::Stress(_) => Ok(()),
            Command::Rpc(command) => rpc::run(command, &global, stop).await,
            Command::Task(command) => task::run(command, &global, stop).await,
            Command::Broadcast(command) => broadcast::run(command, &global, stop).await,
            Command::Bench(command) => bench::run(command, &global, stop).await,
            Command::Doctor(command) => doctor::run(command, &global, stop).await,
        }
    });
    // A read of standard input cannot be ended, and must not hold the command up.
    runtime.shutdown_background();
    ended
}

/// A communicator with the options of the command line.
pub(crate) fn builder(global: &Global, url: &str) -> Builder {
    let mut builder = Communicator::builder(url);
    if let Some(prefix) = &global.prefix {
        builder = builder.prefix(prefix);
    }
    if let Some(name) = &global.message_exchange {
        builder = builder.message_exchange(name);
    }
    if let Some(name) = &global.task_exchange {
        builder = builder.task_exchange(name);
    }
    if let Some(name) = &global.task_queue {
        builder = builder.task_queue(name);
    }
    builder
}

/// The options for a broker that other programs can reach.
pub(crate) fn options(global: &Global) -> Result<Builder, Failure> {
    let url = global.broker.as_deref().unwrap_or(DEFAULT_BROKER);
    if url.starts_with("memory:") {
        return Err(Failure::Usage(
            "memory: is a broker inside one process, and this command would be alone with it; only `homing demo` takes it. \
             Give the URL of a RabbitMQ by --broker or HOMING_BROKER"
                .to_owned(),
        ));
    }
    Ok(builder(global, url))
}

/// Connects to a broker that other programs can reach, for one thing to be done: whoever asked for it can ask again.
pub(crate) async fn connect(global: &Global) -> Result<Communicator, Failure> {
    Ok(options(global)?.reconnect(global.reconnect.unwrap_or(Reconnect::Never)).connect().await?)
}

/// The same for a command that stays, and connects again when the connection is lost.
pub(crate) async fn connect_to_stay(global: &Global) -> Result<Communicator, Failure> {
    Ok(options(global)?.reconnect(global.reconnect.unwrap_or_default()).connect().await?)
}

/// Closes in order, and says so when something was left undone.
pub(crate) async fn close(communicator: &Communicator) -> Result<(), Failure> {
    let report = communicator.close().await?;
    match report.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
