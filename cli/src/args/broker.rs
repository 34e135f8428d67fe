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
    /// listens on this machine alone; an amqps:// address may be one that other machines reach.
    Run(BrokerRun),
    /// Starts a broker as `broker run` does, but in the background, and returns when clients can connect.
    ///
    /// It keeps running when the terminal is closed. `homing broker stop` ends it, and `homing broker status` shows it.
    Start(BrokerStart),
    /// Prints the file by which systemd (or launchd, on a Mac) keeps a broker with these options running.
    Unit(BrokerUnit),
    /// Shows the broker that runs: where it listens, who is connected, what is in its queues.
    ///
    /// Exits with 3 when none runs.
    Status(Data),
    /// Ends the broker that runs, in order, and returns when it has ended.
    Stop(BrokerStop),
    /// Moves what is declared on a broker of homing's own, and all its messages, to a RabbitMQ.
    ///
    /// Exchanges, queues with their arguments, and bindings are declared there as they are here; what is there already has to be the
    /// same, which is checked before anything is changed. Then each message is sent with all its properties and headers, confirmed
    /// there, and only then acknowledged here, so that none is lost, and each queue keeps its order. A move that is killed may leave
    /// the messages that were under way, 500 at most, on both; starting it again goes on. Exclusive queues and those that the server
    /// named stay, and so do users and permissions. Stop those who publish and consume first.
    Move(BrokerMove),
    /// Adds, removes and lists users.
    ///
    /// `user`, `vhost` and `permission` work on a broker that runs, and on the directory of one that does not.
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
    /// The URL of the broker that runs on the directory, with a user who may read all queues; or local:, local:NAME or
    /// local:/a/directory, which no program may use meanwhile [default: its first address without TLS, as guest]
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
    /// Reads the password from the first line of this file, and not from standard input.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// No password: nobody can log in as this user.
    #[arg(long, conflicts_with = "password_file")]
    pub no_password: bool,
}

/// `homing broker user`.
#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Adds a user, who may do nothing before `homing broker permission set`.
    ///
    /// The password is read from standard input, from a terminal without being shown. It is kept hashed (Argon2id).
    Add {
        /// The name.
        #[arg(value_parser = name)]
        name: String,
        /// A tag. May be given several times. A user with `impersonator` may publish in the names of others.
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
        /// The tags; none takes all of them away.
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
    /// Adds a virtual host, which nobody may enter before `homing broker permission set`.
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
    /// Three regular expressions, which are matched against the names of exchanges and queues: a match anywhere in a name counts, and an
    /// empty one matches nothing. The default exchange is `amq.default`. '.*' allows everything.
    Set {
        /// The user.
        user: String,
        /// What may be declared and deleted.
        configure: String,
        /// What may be published to and bound.
        write: String,
        /// What may be consumed from and bound to.
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
    /// Lists who may do what.
    List {
        #[command(flatten)]
        data: Data,
    },
    /// Sets by which routing keys a user may publish to a topic exchange and bind to it, on connections that are open too.
    ///
    /// Two regular expressions, which are matched against routing keys: a match anywhere in a key counts, and an empty one matches the
    /// empty key. `{username}` and `{vhost}` stand for those names. Where nothing is set, every key may be used.
    SetTopic {
        /// The user.
        user: String,
        /// The topic exchange, which need not be there yet.
        exchange: String,
        /// Keys by which may be published, those of the headers CC and BCC too.
        write: String,
        /// Keys by which may be bound.
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
    /// Lists whose routing keys are restricted.
    ListTopic {
        #[command(flatten)]
        data: Data,
    },
}

/// `homing broker run`. What is not given is in the file, or has its default: `broker::config`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BrokerRun {
    /// A TOML file with these options: `tls_cert` for --tls-cert, lists for what may be given more than once, paths from where the file
    /// is. What the command line gives counts before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The IP address and port to listen on. May be given several times. Port 0 is a free one. amqps://ADDRESS is for clients that
    /// begin with TLS, on other machines too; without TLS it has to be an address of this machine. [default: 127.0.0.1:5672]
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    pub listen: Vec<Listen>,
    /// The certificate of amqps://, and behind it those that vouch for it, in PEM. SIGHUP reads the files again where the broker has no
    /// terminal.
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM and without a password.
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Lets in by amqps:// only clients with a certificate that one of these authorities vouches for, in PEM.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Listens on this Unix socket too, which only its owner can open.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Serves RabbitMQ's management API and metrics for Prometheus on this IP address and port; 127.0.0.1:15672 is RabbitMQ's. May be
    /// given several times. There is no TLS: only loopback addresses are accepted.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub http: Vec<SocketAddr>,
    /// The directory of what is durable. One broker at a time uses it [env: HOMING_BROKER_DATA] [default:
    /// ~/.local/share/homing/broker]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Keeps everything in memory: it is gone when the broker ends.
    #[arg(long, conflicts_with = "data")]
    pub memory: bool,
    /// Stops publishers while messages take more memory than this, until a tenth of it is free: a number of bytes, or 512MiB or 2GiB.
    /// Acknowledgements go on, and what is put away on the disk does not count. [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory_limit: Option<usize>,
    /// How long clients have to close their connections when it stops. [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub drain: Option<Duration>,
}
