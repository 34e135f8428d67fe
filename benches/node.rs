//! Private brokers for benchmarks, and what one of them takes of the machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Which broker a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    RabbitMq,
    /// The broker of homing's own: the program of `HOMING_BROKER_PROGRAM`, or of the release build.
    Own,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::RabbitMq => "RabbitMQ",
            Kind::Own => "homing",
        }
    }
}

/// A private broker, which goes when this is dropped.
pub struct Node {
    script: PathBuf,
    place: PathBuf,
    program: PathBuf,
    url: String,
}

impl Node {
    /// One with nothing in it. `root` is the folder of the workspace.
    pub fn start(root: &Path, kind: Kind) -> Self {
        let script = match kind {
            Kind::RabbitMq => "rabbitmq-node",
            Kind::Own => "broker-node",
        };
        let place = std::env::temp_dir().join(format!("bench-{}-{}", std::process::id(), kind.name()));
        let mut node =
            Node { script: root.join("tests/tools").join(script), place, program: program(root), url: String::new() };
        node.command("start");
        node.url = node.command("url").trim().to_owned();
        node
    }

    /// Its AMQP URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The number of its process.
    pub fn pid(&self) -> String {
        let pid = std::fs::read_to_string(self.place.join("pid")).expect("a node that runs");
        pid.trim().to_owned()
    }

    /// User and system time that it has taken.
    pub fn cpu(&self) -> Duration {
        cpu(&self.pid())
    }

    fn command(&self, name: &str) -> String {
        let mut command = Command::new(&self.script);
        command.arg(name).arg(&self.place).env("HOMING_BROKER_PROGRAM", &self.program);
        let output = command.output().expect("the script for nodes");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("remove").arg(&self.place).output();
    }
}

/// The command whose broker is measured.
pub fn program(root: &Path) -> PathBuf {
    let given = std::env::var_os("HOMING_BROKER_PROGRAM").map(PathBuf::from);
    let program = given.unwrap_or_else(|| root.join("target/release/homing"));
    assert!(program.exists(), "{} is not there: cargo build --release -p homing-cli", program.display());
    program
}

/// User and system time that a process has taken.
pub fn cpu(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks: Vec<i64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The state, the first word, is no number: utime and stime are the 14th and 15th of all, at 100 a second.
    let of = |at: usize| ticks.get(at).copied().unwrap_or(0).unsigned_abs();
    Duration::from_millis(10 * (of(10) + of(11)))
}

/// The memory that a process has now, or (`VmHWM`) has had at most, in MB.
pub fn memory(pid: &str, which: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

/// The one in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
