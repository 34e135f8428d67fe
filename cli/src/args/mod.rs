//! The command line, as clap reads it.

mod broadcast;
mod broker;
mod help;
mod limit;
pub(crate) mod parse;
mod process;
mod rpc;
mod run;
mod task;
mod tools;
mod top;
mod workers;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use homing::ReconnectPolicy;

pub(crate) use broadcast::Broadcast;
pub(crate) use broker::{
    Broker, BrokerMove, BrokerRun, BrokerStart, BrokerStop, BrokerUnit, Data, Listen, NewPassword, Permission,
    Security, User, Vhost, listen,
};
pub(crate) use parse::MOST_WORKERS;
pub(crate) use process::{Process, Report, States, Targets};
pub(crate) use rpc::{Rpc, Serve};
pub(crate) use run::{OnLoss, Run};
pub(crate) use task::{List, Mend, OnFailure, Send, Task, Work};
pub(crate) use tools::{
    Bench, Context, ContextOptions, Doctor, Fault, Man, Stress, Worker, WorkerCommand, WorkerOptions,
};
pub(crate) use top::{Top, TopFault};
pub(crate) use workers::{Supervision, Workers, WorkersOptions};

use parse::{reconnect, whole};

/// RPC, task queues and broadcasts between programs, over RabbitMQ or a broker of homing's own, in kiwipy's format.
///
/// Start with `homing demo`. Without --broker, the programs of this user on this machine reach each other, and nothing has to be
/// installed; `--broker amqp://localhost` is a RabbitMQ on this machine. Bodies are YAML or JSON text, or `-` for standard input. Results go to
/// standard output, logs to standard error.
#[derive(Debug, Parser)]
#[command(name = "homing", version, max_term_width = 100, after_help = help::EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The command line with all of its help.
pub(crate) fn command() -> clap::Command {
    help::with_times(Cli::command())
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    #[command(flatten)]
    pub broker: BrokerOptions,
    #[command(flatten)]
    pub names: Names,
    #[command(flatten)]
    pub output: Output,
}

/// Where the broker is.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Broker")]
pub(crate) struct BrokerOptions {
    /// The broker: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// with TLS; local:, local:NAME or local:/a/directory for one that
    /// the programs of this user on this machine host themselves. `demo` and `bench` take memory: too [env: HOMING_BROKER]
    /// [default: local:]
    #[arg(long, global = true, value_name = "URL")]
    pub broker: Option<String>,
    /// The broker and the names of this context; see `homing context` [env: HOMING_CONTEXT]
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "broker")]
    pub context: Option<String>,
    /// The broker and the names of this profile of AiiDA, from AiiDA's configuration (AIIDA_PATH, else ~/.aiida)
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        conflicts_with_all = ["broker", "context", "prefix", "message_exchange", "task_exchange", "task_queue"]
    )]
    pub profile: Option<String>,
    /// The broker and the names of AiiDA's default profile
    #[arg(
        long,
        global = true,
        conflicts_with_all = ["profile", "broker", "context", "prefix", "message_exchange", "task_exchange", "task_queue"]
    )]
    pub aiida: bool,
    /// The file of contexts [env: HOMING_CONFIG] [default: ~/.config/homing/config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do when the connection is lost: `never`, `for-ever`, or for how long to reconnect (30 is seconds; 5m). If the option is given,
    /// the command also waits for a broker that is not there yet. By default, commands that serve, work and watch reconnect for
    /// ever; the others do not.
    #[arg(long, global = true, value_name = "WHEN", value_parser = reconnect)]
    pub reconnect: Option<ReconnectPolicy>,
    /// `--broker` as it was typed, where it was: `broker` is filled in from elsewhere.
    #[arg(skip)]
    pub typed: Option<String>,
}

/// What is declared on the broker.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Names on the broker")]
pub(crate) struct Names {
    /// The names P.messages, P.tasks and P.process.queue for the three below. AiiDA's P is `aiida-<profile uuid>` [env:
    /// HOMING_PREFIX]
    #[arg(long, global = true, value_name = "P", conflicts_with_all = ["message_exchange", "task_exchange", "task_queue"])]
    pub prefix: Option<String>,
    /// The exchange of calls and broadcasts [default: kiwipy.messages]
    #[arg(long, global = true, value_name = "NAME")]
    pub message_exchange: Option<String>,
    /// The exchange of tasks [default: kiwipy.tasks]
    #[arg(long, global = true, value_name = "NAME")]
    pub task_exchange: Option<String>,
    /// The task queue [default: kiwipy.tasks]
    #[arg(long, global = true, value_name = "NAME")]
    pub task_queue: Option<String>,
    /// Of a profile that is for tests: what it declares vanishes when it is not used.
    #[arg(skip)]
    pub testing: bool,
}

impl Names {
    /// Whether any is given.
    pub(crate) fn any(&self) -> bool {
        [&self.prefix, &self.message_exchange, &self.task_exchange, &self.task_queue].iter().any(|name| name.is_some())
    }
}

/// How results and logs are written.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// How results are printed; json is one line each. Errors, notes and logs on standard error are then one JSON object a line, too;
    /// what a command of --exec writes there is passed on as it is.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// How logs, notes and errors are written to standard error.
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub log_format: Format,
    /// Colours on standard error; auto means on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_enum, default_value_t = Colours::Auto, value_name = "WHEN")]
    pub color: Colours,
    /// Writes nothing but warnings and errors to standard error.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Logs more: -v the state of the connection, -vv every message. RUST_LOG has more control.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colours {
    #[default]
    Auto,
    Always,
    Never,
}

/// How something is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows what homing does, without a broker (or over one, with --broker).
    Demo,
    /// Runs homes of every kind under stress in this process, and checks that every future ends exactly once and at its home.
    ///
    /// Prints the seed, the counts, a rate, and how many events were checked. Fails when anything is lost, doubled, misplaced or
    /// stuck. Needs no broker, and ignores HOMING_BROKER.
    Stress(Stress),
    /// Calls a subscriber, or answers calls.
    #[command(subcommand)]
    Rpc(Rpc),
    /// Sends tasks, works on them, inspects and repairs their queues.
    #[command(subcommand)]
    Task(Task),
    /// Sends broadcasts, or prints those that arrive.
    #[command(subcommand)]
    Broadcast(Broadcast),
    /// Controls long-running processes: plumpy's, AiiDA's and homing's.
    #[command(subcommand)]
    Process(Process),
    /// Shows processes, queues and events in the terminal as they change, with keys to pause, play and kill.
    ///
    /// Processes are known from their broadcasts, from their answers and, for homing's own, from the store; queues are known from the
    /// broker. Pausing and playing are not broadcast: when others do it, it is shown after some seconds.
    #[command(after_help = help::TOP)]
    Top(Top),
    /// Runs processes of the class `shell`, which are programs of any kind, until Ctrl-C or SIGTERM.
    ///
    /// Writes one line for each change of state to standard error. At the first signal it takes no more, and running processes
    /// may end within --drain; then they are stopped, and another worker runs them. A second signal stops them at once.
    ///
    /// With --workers it is a supervisor that keeps worker processes alive: one that dies is started again, at once the first time
    /// and then after growing pauses. If the supervisor itself dies, its workers drain and end.
    Worker(Worker),
    /// Shows and controls the workers that `homing worker --workers N` keeps alive.
    ///
    /// `homing worker --workers 2 --detach` starts them, in the background. If they were started with --store, --name or names on
    /// the broker, give the same options here.
    #[command(subcommand)]
    Workers(Workers),
    /// Has a worker run a program as a process, shows its output as it comes, and ends with its exit code.
    ///
    /// The process is stored before it runs. If this command ends, the process goes on; if its worker dies, another one takes it
    /// over. `homing process pause`, `play` and `kill` control it.
    #[command(after_help = help::RUN)]
    Run(Run),
    /// Prints what happens to a connection (lost, restored, blocked), until Ctrl-C or SIGTERM.
    Events {
        /// Ends after this many events.
        #[arg(long, value_name = "N", value_parser = whole::<std::num::NonZeroU64>(1, u64::MAX))]
        count: Option<std::num::NonZeroU64>,
    },
    /// Runs and manages a broker of homing's own, an AMQP server.
    #[command(subcommand)]
    Broker(Broker),
    /// Checks the broker, and reports what is wrong and what to do. Creates and changes nothing.
    ///
    /// Exits with 0 when there is no problem, 1 when there is one, 6 when no connection can be made, 7 when access is refused.
    Doctor(Doctor),
    /// Measures the speed of calls, tasks and broadcasts over a broker, and what limits it: this program, the network or the broker.
    ///
    /// Callers and subscribers run in this one process, over queues of its own, which expire ten seconds after it ends. It puts the
    /// broker under load. `--broker memory:` measures without a broker.
    Bench(Bench),
    /// Keeps brokers and their settings in a file, under names.
    ///
    /// A context holds what --broker, --prefix and the other names on the broker are set to when it is added: homing context add
    /// jobs --broker amqp://localhost --prefix jobs
    #[command(subcommand)]
    Context(Context),
    /// Prints the completions for a shell.
    ///
    /// For bash: homing completions bash > ~/.local/share/bash-completion/completions/homing
    ///
    /// For zsh: homing completions zsh > ~/.zfunc/_homing, where ~/.zfunc is a directory of $fpath.
    ///
    /// For fish: homing completions fish > ~/.config/fish/completions/homing.fish
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Prints the manual page, or writes the pages of all commands into a directory.
    Man(Man),
}

/// What answers.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Handler {
    /// Answers with what was sent.
    #[arg(long)]
    pub echo: bool,
    /// Runs a shell command: it reads the body as JSON from standard input, and its standard output, read as YAML, is the answer
    /// (empty is null). If it exits with another code than 0, the answer is an exception with its standard error.
    #[arg(long, value_name = "CMD")]
    pub exec: Option<String>,
}
