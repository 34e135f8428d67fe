//! The command `homing`: call, serve, send, work and watch from a shell, and a demonstration that needs no broker.

mod aiida;
mod args;
mod aside;
mod batch;
mod bench;
mod broadcast;
mod broker;
mod call;
mod connection;
mod contexts;
mod demo;
mod doctor;
mod events;
mod exec;
mod failure;
mod glob;
mod groups;
mod in_hand;
mod list;
mod logs;
mod manual;
mod mark;
mod mend;
mod not_given;
mod output;
mod own_socket;
mod places;
mod presence;
mod process;
mod progress;
mod report;
mod run;
mod send;
mod servers;
mod settings;
mod stop;
mod store;
mod stress;
mod supervise;
mod top;
mod typo;
mod values;
mod worker;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::error::ErrorKind as ClapError;
use clap::{ColorChoice, FromArgMatches};

use args::{Broker, Cli, Command, Format, Global, Rpc, Task, Worker};
use failure::Failure;
use stop::{Manner, Stop};

/// The broker where none is given: homing's own on this machine, which needs nothing to be installed.
const DEFAULT_BROKER: &str = "local:";

/// How long the last lines on standard error may take.
const LAST_LINES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    if let Some(code) = exec::inner::run(std::env::args_os()) {
        return code;
    }
    let started = Instant::now();
    let cli = match parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    let errors = if output::json_errors(&cli.global.output) { Format::Json } else { Format::Text };
    output::set_up(&cli.global.output);
    // What these do on purpose is no warning there: stress by the thousand, demo once.
    let library = if matches!(cli.command, Command::Stress(_) | Command::Demo) { "error" } else { "warn" };
    logs::start(&cli.global.output, library);
    let code = match run(cli, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::print_last(&failure, errors);
            failure.exit_code()
        }
    };
    output::finish_errors(LAST_LINES);
    code
}

/// Reads the command line, with help and errors in the colours that it asks for.
fn parse() -> Result<Cli, clap::Error> {
    let colours = match given(std::env::args_os(), "--color").as_deref() {
        Some("always") => ColorChoice::Always,
        Some("never") => ColorChoice::Never,
        _ => ColorChoice::Auto,
    };
    let command = with_negative_numbers(without_empty_variables(args::command())).color(colours);
    let parsed = command.clone().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|error| typo::explained(error, &command, std::env::args_os().skip(1)))
}

/// `--timeout -1` is a wrong time, and no unknown option -1.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| match argument.get_long() {
            Some(_) if argument.get_action().takes_values() => argument.allow_negative_numbers(true),
            _ => argument,
        })
        .mut_subcommands(with_negative_numbers)
}

/// A variable of the environment that is empty counts as one that is not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|argument| match argument.get_env() {
            Some(name) if is_empty(name) => argument.env(None::<&'static str>),
            _ => argument,
        })
        .mut_subcommands(without_empty_variables)
}

/// What stands behind an option of a command line that is not parsed yet, or cannot be.
fn given(arguments: impl Iterator<Item = OsString>, option: &str) -> Option<String> {
    let mut arguments = arguments.take_while(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        let Some(argument) = argument.to_str() else { continue };
        if argument == option {
            return arguments.next()?.into_string().ok();
        }
        if let Some(value) = argument.strip_prefix(option).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value.to_owned());
        }
    }
    None
}

/// Help, the version, or wrong usage.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ClapError::DisplayHelp | ClapError::DisplayVersion | ClapError::DisplayHelpOnMissingArgumentOrSubcommand
    ) && !error.use_stderr()
    {
        let Err(failed) = error.print() else { return ExitCode::SUCCESS };
        let failure = output::failed(&failed);
        report::print(&failure, Format::Text);
        return failure.exit_code();
    }
    let json = |option| given(std::env::args_os(), option).as_deref() == Some("json");
    if json("--format") || json("--log-format") {
        let (message, hint) = in_words(error);
        report::print_object("usage", &message, Some(&hint));
    } else {
        // Nobody is left to report it to.
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// The whole of a usage error as one line, and its tip.
fn in_words(error: &clap::Error) -> (String, String) {
    let text = error.render().to_string();
    let mut parts = text.split("\n\n");
    let mut lines = parts.next().unwrap_or("").lines().map(str::trim);
    let first = lines.next().unwrap_or("").trim_start_matches("error: ");
    let rest: Vec<&str> = lines.collect();
    let message = match error.kind() {
        // What is printed there is the whole help.
        ClapError::DisplayHelpOnMissingArgumentOrSubcommand => "a subcommand is missing".to_owned(),
        _ if rest.is_empty() => first.to_owned(),
        _ => format!("{first} {}", rest.join(", ")),
    };
    let tips = parts.flat_map(str::lines).filter_map(|line| line.trim().strip_prefix("tip: "));
    let tip = tips.collect::<Vec<_>>().join("; ");
    (message, if tip.is_empty() { "see `homing --help`".to_owned() } else { tip })
}

fn run(cli: Cli, started: Instant) -> Result<(), Failure> {
    let Cli { global, mut command } = cli;
    match command {
        Command::Completions { shell } => return manual::completions(shell),
        Command::Man(options) => return manual::pages(options),
        Command::Context(command) => return contexts::run(command, &global),
        Command::Demo => {
            let stop = Stop::on_signals(Manner::EndsAtOnce)?;
            output::end_with_reader();
            let asked = settings::asked(&global.broker) == settings::Asked::Explicitly;
            return demo::run(&if asked { settings::resolve(&global, None, &stop)? } else { global });
        }
        Command::Stress(options) => {
            let _stop = Stop::on_signals(Manner::EndsAtOnce)?;
            output::end_with_reader();
            return stress::run(&options, &global);
        }
        _ => {}
    }
    aiida::check(&command, &global.broker)?;
    let works = matches!(
        command,
        Command::Rpc(Rpc::Serve(_))
            | Command::Task(Task::Work(_))
            | Command::Worker(Worker { command: None, .. })
            | Command::Broker(Broker::Run(_) | Broker::Start(_))
    );
    let manner = match &command {
        _ if works => Manner::Drains,
        // A person is asked first; what is under way is to be on one broker and not on two.
        Command::Run(_) | Command::Broker(Broker::Move(_)) => Manner::Drains,
        Command::Top(_) => Manner::Screen { restore: top::restore },
        _ => Manner::EndsAtOnce,
    };
    // Before anything is waited for: a context may have a password command.
    let stop = Stop::on_signals(manner)?;
    let names = global.names.clone();
    let mut global = match command {
        // They connect nowhere, and --config is another file there.
        Command::Broker(_) => global,
        _ => settings::resolve(&global, command.time_limit().map(|limit| started + *limit), &stop)?,
    };
    if let Some(limit) = command.time_limit() {
        progress::already_spent(limit, started.elapsed());
    }
    not_given::check(&command, &global.broker)?;
    if matches!(command, Command::Bench(_)) {
        // Its names are its own. Those of the surroundings are not meant for it.
        global.names = names;
    }
    if works {
        output::write_errors_aside()?;
    }
    // One thread for all of it, see `worker`. The measuring alone needs more.
    let runtime = if matches!(command, Command::Bench(_)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    };
    let needs_no_broker = command.needs_no_broker();
    let ended = runtime.block_on(dispatch(command, &global, stop));
    // A read of standard input cannot be ended, and must not hold the command up.
    runtime.shutdown_background();
    ended.map_err(|failure| if needs_no_broker { failure } else { not_given::explained(&global.broker, failure) })
}

async fn dispatch(command: Command, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Command::Rpc(Rpc::Call { recipient, body, timeout }) => call::run(recipient, body, timeout, global, stop).await,
        Command::Rpc(Rpc::List { wait, management }) => servers::run(wait, management.as_deref(), global, stop).await,
        Command::Rpc(Rpc::Serve(command)) => worker::serve::run(command, global, stop).await,
        Command::Task(Task::Send(command)) => send::run(command, global, stop).await,
        Command::Task(Task::Work(command)) => worker::tasks::run(command, global, stop).await,
        Command::Task(Task::List(command)) => list::run(command, global, stop).await,
        Command::Task(command) => mend::run(command, global, stop).await,
        Command::Broadcast(command) => broadcast::run(command, global, stop).await,
        Command::Process(command) => process::run(command, global, stop).await,
        Command::Worker(Worker { command: Some(_), options }) if options.any() => Err(Failure::Usage(
            "--slots, --store, --drain, --workers and the like are for a worker, and `ping` starts none; leave them out".to_owned(),
        )),
        Command::Worker(Worker { command: Some(command), .. }) => presence::run(command, global, stop).await,
        Command::Worker(Worker { command: None, options }) => supervise::run(options, global, stop).await,
        Command::Workers(command) => supervise::client::run(command, global, stop).await,
        Command::Run(command) => run::run(command, global, stop).await,
        Command::Top(command) => top::run(command, global, stop).await,
        Command::Events { count } => events::run(count.map(u64::from), global, stop).await,
        Command::Bench(command) => {
            output::end_with_reader();
            bench::run(command, global, stop).await
        }
        Command::Broker(command) => broker::run(command, global, stop).await,
        Command::Doctor(command) => doctor::run(command, global, stop).await,
        // These need no runtime, and have run.
        Command::Demo | Command::Stress(_) | Command::Context(_) | Command::Completions { .. } | Command::Man(_) => {
            Ok(())
        }
    }
}
