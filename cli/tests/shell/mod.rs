//! The command as a shell sees it: its output, its exit code, its signals.

#![allow(dead_code)] // each test target uses its own part of it

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No command takes longer.
pub const LONG: Duration = Duration::from_secs(60);

/// A directory of a test's own, which goes with it.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(crate::support::unique("d"));
        std::fs::create_dir_all(&path)?;
        Ok(Directory(path))
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The command, in clean surroundings.
pub fn homing(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_homing"));
    command.args(arguments).stdin(Stdio::null());
    for name in [
        "HOMING_BROKER",
        "HOMING_PREFIX",
        "HOMING_CONTEXT",
        "HOMING_MANAGEMENT",
        "HOMING_STORE",
        "RUST_LOG",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    // Not the contexts of whoever runs the tests, nor their processes.
    command.env("HOMING_CONFIG", "/nonexistent/homing.toml").env("XDG_DATA_HOME", "/proc/nonexistent");
    command
}

/// Gives a command the variables that another one has.
pub fn same_surroundings(of: &Command, to: &mut Command) {
    for (name, value) in of.get_envs() {
        match value {
            Some(value) => to.env(name, value),
            None => to.env_remove(name),
        };
    }
}

/// A command by a script of `sh`, in the surroundings of the command: `"$0" "$@"` is the command.
pub fn through_shell(command: &Command, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(command.get_program()).args(command.get_args());
    same_surroundings(command, &mut shell);
    shell
}

/// Runs it to its end.
pub fn ended(mut command: Command) -> std::io::Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait(child)
}

/// Waits for its end.
pub fn wait(child: Child) -> std::io::Result<Output> {
    let (tell, told) = std::sync::mpsc::channel();
    let id = child.id();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    told.recv_timeout(LONG).unwrap_or_else(|_| {
        signal(id, "KILL");
        Err(std::io::Error::other("the command hangs"))
    })
}

pub fn signal(id: u32, name: &str) {
    let _ = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Demands an exit code; what was printed.
#[track_caller]
pub fn exits(output: &Output, code: i32) -> (String, String) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "out: {out}\nerr: {err}");
    (out, err)
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    // A dead worker's lease alone lasts for half of the other limit, and many programs share the machine.
    let until = Instant::now() + 3 * LONG;
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A command that runs until it is told to end.
pub struct Running(pub Child, Option<BufReader<std::process::ChildStderr>>, String);

impl Running {
    /// Starts it and waits for the line that reports it is ready.
    pub fn start(mut command: Command) -> std::io::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut errors = child.stderr.take().map(BufReader::new);
        let mut all = String::new();
        if let Some(errors) = &mut errors {
            while !all.contains("until Ctrl-C") {
                if errors.read_line(&mut all)? == 0 {
                    return Err(std::io::Error::other(format!("it ended before it was ready: {all}")));
                }
            }
        }
        Ok(Running(child, errors, all))
    }

    /// What it wrote to standard error until it was ready.
    pub fn beginning(&self) -> &str {
        &self.2
    }

    /// Starts it, and throws away what it prints: for one that prints more than a pipe takes.
    pub fn unread(mut command: Command) -> std::io::Result<Self> {
        Ok(Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?, None, String::new()))
    }

    /// One that was started elsewhere.
    pub fn of(child: Child) -> Self {
        Running(child, None, String::new())
    }

    /// The next line of its standard error.
    pub fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if let Some(errors) = &mut self.1 {
            errors.read_line(&mut line)?;
        }
        Ok(line)
    }

    pub fn ends(&mut self) -> std::io::Result<Option<i32>> {
        let until = Instant::now() + LONG;
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status.code());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(std::io::Error::other("the command does not end"))
    }

    /// What is left of its standard error; to be called when it has ended.
    pub fn errors(&mut self) -> std::io::Result<String> {
        let mut rest = String::new();
        if let Some(errors) = &mut self.1 {
            errors.read_to_string(&mut rest)?;
        }
        Ok(rest)
    }

    pub fn stop(&mut self, by: &str) -> std::io::Result<(Option<i32>, String)> {
        signal(self.0.id(), by);
        let code = self.ends()?;
        let mut out = String::new();
        if let Some(stdout) = &mut self.0.stdout {
            stdout.read_to_string(&mut out)?;
        }
        Ok((code, out))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In order, so that what it has started ends too.
        signal(self.0.id(), "TERM");
        let _ = self.ends();
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
