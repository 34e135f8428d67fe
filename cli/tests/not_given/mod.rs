//! No broker is given: the local one is used, and whoever expects another one learns of it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::shell::{Running, ended, exits, homing};
use super::support::{TestResult, unique};

/// A user's directory of data, which no other test has. Its name is short, for a socket is in it.
struct User(PathBuf);

impl User {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(&unique("")[..12]);
        std::fs::create_dir(&path)?;
        Ok(User(path))
    }

    /// The command of this user, who has given no broker.
    fn homing(&self, arguments: &[&str]) -> Command {
        let mut command = homing(arguments);
        command.env("XDG_DATA_HOME", &self.0).env("HOMING_CONFIG", self.0.join("config.toml"));
        command
    }

    fn run(&self, arguments: &[&str], code: i32) -> std::io::Result<(String, String)> {
        Ok(exits(&ended(self.homing(arguments))?, code))
    }

    /// Where the local broker is.
    fn directory(&self) -> PathBuf {
        self.0.join("homing").join("local").join("default")
    }

    /// Nobody hosts it any more. (A host that fails ends at once, and its socket stays as a name.)
    #[track_caller]
    fn is_left_alone(&self) {
        let reached = UnixStream::connect(self.directory().join("socket"));
        assert!(reached.is_err(), "somebody hosts the broker of a test that has ended");
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What names the default, and the three ways to another broker.
const PARTS: [&str; 4] = ["local:", "--broker amqp://localhost", "HOMING_BROKER", "homing context"];

#[track_caller]
fn names_all(what: &str, text: &str) {
    for part in PARTS {
        assert!(text.contains(part), "{what}: {part} is not in: {text}");
    }
    assert_eq!(text.matches("no broker was given").count(), 1, "{what}: once: {text}");
}

pub fn two_shells() -> TestResult {
    let user = User::new()?;
    let mut server = Running::start(user.homing(&["rpc", "serve", "greeter", "--exec", "cat"]))?;
    names_all("rpc serve", server.beginning());
    let (out, err) = user.run(&["rpc", "call", "greeter", "hi"], 0)?;
    assert_eq!((out.as_str(), err.as_str()), ("hi\n", ""), "what was asked for is there");
    // A task that nobody takes yet is kept, and somebody who comes later has it.
    let (_, err) = user.run(&["task", "send", "kept", "--no-reply"], 0)?;
    names_all("task send", &err);
    assert_eq!(server.stop("TERM")?.0, Some(0));
    user.is_left_alone();
    let mut worker = Running::start(user.homing(&["task", "work", "--echo", "--count", "1"]))?;
    assert_eq!(worker.ends()?, Some(0));
    user.is_left_alone();
    Ok(())
}

pub fn not_there() -> TestResult {
    let user = User::new()?;
    for (arguments, code) in [
        (&["rpc", "call", "nobody", "1"][..], 3),
        (&["process", "status", "1234"], 3),
        (&["run", "--", "true"], 3),
        (&["task", "list"], 1),
        (&["task", "purge", "--all"], 1),
        (&["task", "requeue", "--all"], 0),
        (&["task", "send", "1", "--timeout", "2s"], 4),
        // Its queue is there now, and nobody is.
        (&["task", "send", "1", "--timeout", "2s"], 4),
        (&["broadcast", "send", "1", "--subject", "s"], 0),
        (&["rpc", "list"], 0),
        (&["worker", "ping", "--wait", "0.2"], 0),
        (&["process", "kill", "1", "2"], 3),
    ] {
        let (_, err) = user.run(arguments, code)?;
        names_all(&format!("{arguments:?}"), &err);
    }
    // For programs: in the hint, behind what is known about every broker.
    let (_, err) = user.run(&["--format", "json", "rpc", "call", "nobody", "1"], 3)?;
    let error: serde_json::Value = serde_json::from_str(err.trim())?;
    let hint = error["hint"].as_str().ok_or("no hint")?;
    names_all("JSON", hint);
    assert!(hint.starts_with("start a subscriber"), "{hint}");
    // What has nothing to do with it.
    for (arguments, code) in [
        (&["rpc", "call", "x", "{"][..], 2),
        (&["broker", "status"], 3),
        (&["broker", "stop"], 3),
        (&["process", "list"], 1),
        (&["process", "show", "77"], 1),
    ] {
        let (_, err) = user.run(arguments, code)?;
        assert!(!err.contains("no broker was given"), "{arguments:?}: {err}");
    }
    let (_, err) = user.run(&["--quiet", "task", "send", "1", "--no-reply"], 0)?;
    assert_eq!(err, "");
    user.is_left_alone();
    Ok(())
}

pub fn given() -> TestResult {
    let user = User::new()?;
    let called = ["rpc", "call", "nobody", "1"];
    let by_context = |name: &'static str| [&["--context", name], &called[..]].concat();
    user.run(&["context", "add", "here", "--broker", "local:"], 0)?;
    let own = format!("local:{}", user.directory().display());
    user.run(&["context", "add", "there", "--broker", &own], 0)?;
    let mut by_variable = user.homing(&called);
    by_variable.env("HOMING_BROKER", "local:");
    for command in [
        user.homing(&[&["--broker", "local:"], &called[..]].concat()),
        by_variable,
        user.homing(&by_context("here")),
        user.homing(&by_context("there")),
    ] {
        let (_, err) = exits(&ended(command)?, 3);
        assert!(err.contains("nobody listens") && !err.contains("no broker was given"), "{err}");
    }
    let (out, _) = user.run(&["context", "list"], 0)?;
    assert!(out.contains("here  local:\n") && out.contains(&own), "{out}");
    // One in use is given, too.
    user.run(&["context", "use", "here"], 0)?;
    let (_, err) = user.run(&called, 3)?;
    assert!(!err.contains("no broker was given"), "{err}");
    // A context that was written by hand and names no broker is where it was before: at RabbitMQ's own address.
    std::fs::write(user.0.join("config.toml"), "[contexts.bare]\nprefix = \"p\"\n")?;
    let (out, _) = user.run(&["context", "list"], 0)?;
    assert!(out.contains("amqp://guest:***@127.0.0.1:5672/"), "{out}");
    for (options, part) in [
        (&["--broker", "local:a/b"][..], "local:"),
        (&["--broker", "local:", "--password-file", "f"], "neither a password nor TLS"),
        (&["--broker", "local:", "--password-command", "c"], "neither a password nor TLS"),
        (&["--broker", "local:", "--ca-file", "f"], "neither a password nor TLS"),
        (&["--broker", "amqp://h", "--ca-file", "f"], "is not TLS"),
        (&["--broker", "memory:"], "local:"),
    ] {
        let (_, err) = user.run(&[&["context", "add", "x"], options].concat(), 2)?;
        assert!(err.contains(part), "{options:?}: {err}");
    }
    user.is_left_alone();
    Ok(())
}

/// What it prints in JSON: the findings by their check.
fn findings(user: &User) -> Result<Vec<serde_json::Value>, Box<dyn std::error::Error + Send + Sync>> {
    let (out, _) = user.run(&["--format", "json", "doctor"], 0)?;
    let report: serde_json::Value = serde_json::from_str(&out)?;
    Ok(report["findings"].as_array().cloned().unwrap_or_default())
}

fn finding<'a>(findings: &'a [serde_json::Value], check: &str) -> &'a serde_json::Value {
    findings.iter().find(|finding| finding["check"] == check).unwrap_or(&serde_json::Value::Null)
}

pub fn doctor() -> TestResult {
    let user = User::new()?;
    let empty = |directory: &Path| std::fs::read_dir(directory).map(|mut entries| entries.next().is_none());
    let found = findings(&user)?;
    assert_eq!(finding(&found, "local broker")["facts"]["hosted"], false, "{found:?}");
    let broker = finding(&found, "broker");
    let text = broker["text"].as_str().ok_or("no text")?;
    names_all("doctor", text);
    assert!(text.contains("erver of AMQP listens at 127.0.0.1:5672"), "whether it does or not: {text}");
    assert!(empty(&user.0)?, "it creates nothing");

    let server = Running::start(user.homing(&["rpc", "serve", "x", "--echo"]))?;
    let found = findings(&user)?;
    let local = finding(&found, "local broker");
    assert_eq!(local["facts"]["process"], server.0.id(), "{local}");
    assert_eq!(local["facts"]["directory"].as_str().map(Path::new), Some(&*user.directory()));
    for check in ["round trip", "exchange kiwipy.messages", "publishing"] {
        assert_eq!(finding(&found, check)["verdict"], "ok", "{check}: {found:?}");
    }
    let (out, _) = user.run(&["doctor", "--broker", "local:"], 0)?;
    assert!(out.contains("hosts it") && !out.contains("no broker was given"), "{out}");
    drop(server);

    // Something else has its place.
    std::fs::remove_dir_all(user.0.join("homing"))?;
    std::fs::create_dir_all(user.0.join("homing").join("local"))?;
    std::fs::write(user.directory(), "no directory")?;
    let (out, _) = user.run(&["doctor"], 6)?;
    assert!(out.contains("problem") && out.contains("cannot be reached"), "{out}");
    Ok(())
}

pub fn management() -> TestResult {
    let user = User::new()?;
    let commands =
        [&["task", "list"][..], &["rpc", "list"], &["rpc", "serve", "x", "--echo"], &["doctor"], &["top", "--once"]];
    for command in commands {
        let given = [command, &["--management", "http://127.0.0.1:1"]].concat();
        let (_, err) = user.run(&given, 2)?;
        assert!(err.contains("no broker was given") && err.contains("--broker amqp://localhost"), "{command:?}: {err}");
        let (_, err) = user.run(&[&given[..], &["--broker", "local:"]].concat(), 2)?;
        assert!(err.contains("the broker is local:"), "{command:?}: {err}");
    }
    assert!(!user.0.join("homing").exists(), "nothing was begun");
    Ok(())
}
