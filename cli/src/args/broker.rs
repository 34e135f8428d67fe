//! `homing broker`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::parse::{address, duration, name, size};

/// Where a broker listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    pub address: SocketAddr,
    pub security: Security,
}

/// What clients of an address speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    Plain,
    Tls,
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.security {
            Security::Plain => write!(f, "{}", self.address),
            Security::Tls => write!(f, "amqps://{}", self.address),
        }
    }
}

/// An address to listen on, as it is typed.
pub(crate) fn listen(text: &str) -> Result<Listen, String> {
    let (security, address) = match text.split_once("://") {
        None => (Security::Plain, text),
        Some(("amqp", address)) => (Security::Plain, address),
        Some(("amqps", address)) => (Security::Tls, address),
        Some((scheme, _)) => return Err(format!("{scheme}:// is neither amqp:// nor amqps://")),
    };
    Ok(Listen { address: super::parse::address(address.trim_end_matches('/'))?, security })
}

/// `homing broker`.
#[derive(Debug, Subcommand)]
pub(crate) enum Broker {
    /// Runs a broker for every client of AMQP 0-9-1 on this machine, until Ctrl-C or SIGTERM.
    ///
    /// Durable queues, exchanges and bindings survive a restart, and so do persistent messages in them: a message is on the disk before
    /// it is confirmed. Clients log in as `guest` with the password `guest`, or as a user that `homing broker user add` has added. It
    /// listens on loopback addresses; only an amqps:// address may be one that other machines reach.
    Run(BrokerRun),
    /// Starts a broker as `broker run` does, but in the background, and returns when clients can connect.
    ///
    /// It keeps running when the terminal is closed. `homing broker stop` ends it, and `homing broker status` shows it.
    Start(BrokerStart),
    /// Prints a unit file for systemd (on a Mac a property list for launchd) that keeps a broker with these options running.
    Unit(BrokerUnit),
    /// Shows the running broker: where it listens, who is connected, what is in its queues.
    ///
    /// Exits with 3 if none is running.
    Status(Data),
    /// Stops the running broker in order, and returns when it has ended.
    Stop(BrokerStop),
    /// Moves what is declared on a broker of homing's own, and all its messages, to a RabbitMQ.
    ///
    /// Exchanges, queues with their arguments, and bindings are declared there as they are here. What exists there already must be
    /// declared in the same way; this is checked before anything is changed. Then each message is sent with all its properties and
    /// headers, confirmed there, and only then acknowledged here, so that none is lost, and each queue keeps its order. If the move
    /// is killed, at most 500 messages that were in flight may be on both brokers; run the command again to continue. Exclusive
    /// queues, queues that the server named, users and permissions are not moved. Stop publishers and consumers first.
    Move(BrokerMove),
    /// Adds, removes and lists users.
    ///
    /// `user`, `vhost` and `permission` work on a running broker, and on the directory of one that is stopped.
    #[command(subcommand)]
    User(User),
    /// Adds, removes and lists virtual hosts.
    #[command(subcommand)]
    Vhost(Vhost),
    /// Sets and shows who may do what.
    #[command(subcommand)]
    Permission(Permission),
}

/// `homing broker start`.
#[derive(Debug, Args)]
pub(crate) struct BrokerStart {
    #[command(flatten)]
    pub run: BrokerRun,
    /// Where its log goes [default: broker.log in the broker's directory]
    #[arg(long, value_name = "FILE", conflicts_with = "memory")]
    pub log: Option<PathBuf>,
    /// Is the process in the background itself.
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// `homing broker unit`.
#[derive(Debug, Args)]
pub(crate) struct BrokerUnit {
    #[command(flatten)]
    pub run: BrokerRun,
    /// Prints a unit of systemd [default: except on a Mac]
    #[arg(long, conflicts_with = "launchd")]
    pub systemd: bool,
    /// Prints a property list of launchd [default: on a Mac]
    #[arg(long)]
    pub launchd: bool,
}

/// Which broker.
#[derive(Debug, Args)]
pub(crate) struct Data {
    /// The directory of the broker, as for `homing broker run` [env: HOMING_BROKER_DATA] [default: ~/.local/share/homing/broker]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// `homing broker stop`.
#[derive(Debug, Args)]
pub(crate) struct BrokerStop {
    /// How long to wait until it has ended.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub data: Data,
}

/// `homing broker move`.
#[derive(Debug, Args)]
pub(crate) struct BrokerMove {
    /// Where to: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// with TLS.
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// The URL of the broker that is running on the directory, with a user who may read all queues; or local:, local:NAME or
    /// local:/a/directory, which no program may use meanwhile [default: the broker's first address without TLS, as guest]
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// The virtual host that is moved [default: /]
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub vhost: Option<String>,
    /// Lists what would be moved, and changes nothing.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub data: Data,
}

/// Where a new password is from: standard input, or whoever types it there.
#[derive(Debug, Args)]
pub(crate) struct NewPassword {
    /// Reads the password from the first line of this file instead of standard input.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// No password: nobody can log in as this user.
    #[arg(long, conflicts_with = "password_file")]
    pub no_password: bool,
}

/// `homing broker user`.
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Adds a user, who may do nothing until `homing broker permission set`.
    ///
    /// The password is read from standard input; a terminal does not show it. It is stored as a hash (Argon2id).
    Add {
        /// The name.
        #[arg(value_parser = name)]
        name: String,
        /// A tag. May be given several times. A user with the tag `impersonator` may publish with another user's `user_id`.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        #[command(flatten)]
        password: NewPassword,
        #[command(flatten)]
        data: Data,
    },
    /// Removes a user with its permissions, and ends its connections.
    Remove {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Replaces a user's password. Connections that are open stay.
    Password {
        /// The name.
        name: String,
        #[command(flatten)]
        password: NewPassword,
        #[command(flatten)]
        data: Data,
    },
    /// Replaces a user's tags.
    Tags {
        /// The name.
        name: String,
        /// The tags. Without any, all tags are removed.
        #[arg(value_name = "TAG")]
        tags: Vec<String>,
        #[command(flatten)]
        data: Data,
    },
    /// Lists the users.
    List {
        #[command(flatten)]
        data: Data,
    },
}

/// `homing broker vhost`.
#[derive(Debug, Subcommand)]
pub(crate) enum Vhost {
    /// Adds a virtual host, which nobody may enter until `homing broker permission set`.
    Add {
        /// The name.
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Removes a virtual host with everything in it, its messages too, and ends the connections to it.
    Remove {
        /// The name.
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Lists the virtual hosts.
    List {
        #[command(flatten)]
        data: Data,
    },
}

/// `homing broker permission`.
#[derive(Debug, Subcommand)]
pub(crate) enum Permission {
    /// Sets what a user may do in a virtual host, on connections that are open too.
    ///
    /// Takes three regular expressions, which are matched against the names of exchanges and queues. A match anywhere in a name counts;
    /// an empty expression matches nothing. The default exchange is called `amq.default`. '.*' allows everything.
    Set {
        /// The user.
        user: String,
        /// The exchanges and queues that the user may declare and delete.
        configure: String,
        /// The exchanges that the user may publish to, and the queues that the user may bind.
        write: String,
        /// The queues that the user may consume from, and the exchanges that the user may bind queues to.
        read: String,
        /// The virtual host.
        #[arg(long, value_name = "NAME", default_value = "/")]
        vhost: String,
        #[command(flatten)]
        data: Data,
    },
    /// Removes a user's permissions in a virtual host.
    Clear {
        /// The user.
        user: String,
        /// The virtual host.
        #[arg(long, value_name = "NAME", default_value = "/")]
        vhost: String,
        #[command(flatten)]
        data: Data,
    },
    /// Lists all permissions.
    List {
        #[command(flatten)]
        data: Data,
    },
    /// Sets which routing keys a user may use with a topic exchange, on connections that are open too.
    ///
    /// Takes two regular expressions, which are matched against routing keys. A match anywhere in a key counts; an empty expression
    /// matches the empty key. `{username}` and `{vhost}` stand for those names. Until something is set, every key may be used.
    SetTopic {
        /// The user.
        user: String,
        /// The topic exchange, which need not be there yet.
        exchange: String,
        /// The routing keys to publish with, including those in the headers CC and BCC.
        write: String,
        /// The routing keys to bind with.
        read: String,
        /// The virtual host.
        #[arg(long, value_name = "NAME", default_value = "/")]
        vhost: String,
        #[command(flatten)]
        data: Data,
    },
    /// Lets a user use every routing key of a virtual host again, or of one of its exchanges.
    ClearTopic {
        /// The user.
        user: String,
        /// The exchange [default: all of them]
        exchange: Option<String>,
        /// The virtual host.
        #[arg(long, value_name = "NAME", default_value = "/")]
        vhost: String,
        #[command(flatten)]
        data: Data,
    },
    /// Lists the users whose routing keys are restricted.
    ListTopic {
        #[command(flatten)]
        data: Data,
    },
}

/// `homing broker run`. What is not given is in the file, or has its default: `broker::config`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BrokerRun {
    /// A TOML file with these options: `tls_cert` for --tls-cert; a list for an option that may be given several times; relative paths
    /// begin at the file's directory. Options on the command line take precedence.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The IP address and port to listen on. May be given several times. Port 0 means any free port. amqps://ADDRESS is for clients that
    /// use TLS, on other machines too; without TLS it has to be a loopback address. [default: 127.0.0.1:5672]
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    pub listen: Vec<Listen>,
    /// The server's certificate for amqps://, followed by its intermediate certificates, in PEM. If the broker has no terminal, SIGHUP
    /// makes it read the files again.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM and without a password.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Over amqps://, accepts only clients whose certificate was signed by one of these authorities (PEM).
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Listens on this Unix socket too, which only its owner can open.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Serves RabbitMQ's management API and metrics for Prometheus on this IP address and port (RabbitMQ uses port 15672). May be
    /// given several times. There is no TLS: only loopback addresses are accepted.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub http: Vec<SocketAddr>,
    /// The directory in which everything durable is stored. One broker at a time uses it [env: HOMING_BROKER_DATA] [default:
    /// ~/.local/share/homing/broker]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Keeps everything in memory: it is gone when the broker ends.
    #[arg(long, conflicts_with = "data")]
    pub memory: bool,
    /// Blocks publishers when messages take more memory than this, until a tenth of it is free: a number of bytes, or 512MiB or 2GiB.
    /// Consumers go on. Messages whose bodies were moved to the disk do not count. [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory_limit: Option<usize>,
    /// How long clients have to close their connections when the broker stops. [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub drain: Option<Duration>,
}
