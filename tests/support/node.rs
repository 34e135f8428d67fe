//! A RabbitMQ node of a test's own, for what would disturb the others: crashes, alarms, closed connections.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use libtest_mimic::Failed;

/// The script that starts and ends nodes: a file, or that of RabbitMQ in a directory.
pub fn script() -> Option<PathBuf> {
    let path = PathBuf::from(super::variable("HOMING_TEST_NODE")?);
    Some(if path.is_dir() { path.join("rabbitmq-node") } else { path })
}

/// A node that ends, with all its data, when this is dropped.
pub struct Node {
    script: PathBuf,
    directory: PathBuf,
    url: String,
}

/// Whether a node listens for TLS too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    Yes,
    /// And demands a certificate of its clients.
    Mutual,
    No,
}

impl Node {
    /// Starts a node: 5 to 8 s.
    pub fn start(tls: Tls) -> Result<Node, Failed> {
        let script = script().ok_or("HOMING_TEST_NODE is not set: run tests/run")?;
        let directory = std::env::temp_dir().join(super::unique("node"));
        let mut node = Node { script, directory, url: String::new() };
        let (program, place) = (node.script.clone(), node.directory.clone());
        super::suite::when_hung(move || {
            let _ = run(&program, "remove", &place, [""; 0]);
        });
        let option: &[&str] = match tls {
            Tls::Yes => &["--tls"],
            Tls::Mutual => &["--mutual-tls"],
            Tls::No => &[],
        };
        node.command("start", option)?;
        node.url = node.command("url", &[])?.trim().to_owned();
        Ok(node)
    }

    /// Its AMQP URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A line `NAME=value` of its description, such as `NODE_TLS_URL` or `NODE_TLS_CA`.
    pub fn described(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.directory.join("env")).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    }

    /// Kills it (SIGKILL); [`restart`](Node::restart) starts it on what it had written.
    pub fn kill(&self) -> Result<(), Failed> {
        self.command("kill", &[]).map(drop)
    }

    /// Ends it in order; its data stay.
    pub fn stop(&self) -> Result<(), Failed> {
        self.command("stop", &[]).map(drop)
    }

    /// Starts it again on the same data and ports.
    pub fn restart(&self) -> Result<(), Failed> {
        self.command("restart", &[]).map(drop)
    }

    /// Sends its process a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.directory.join("pid")).expect("a node that runs has a pid");
        let status = Command::new("kill").args([&format!("-{name}"), pid.trim()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} {pid}");
    }

    /// `rabbitmqctl` on it; what it wrote to its standard output.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, Failed> {
        self.command("ctl", arguments)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Result<String, Failed> {
        let output = run(&self.script, name, &self.directory, arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} {name} {arguments:?}: {}\n{said}", self.script.display(), output.status).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(failed) = self.command("remove", &[]) {
            eprintln!("{}", failed.message().unwrap_or("a node was not removed"));
        }
    }
}

fn run(
    script: &Path,
    name: &str,
    directory: &Path,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> std::io::Result<Output> {
    Command::new(script).arg(name).arg(directory).args(arguments).stdin(Stdio::null()).output()
}
