//! Each example does what its first lines promise, over a broker inside its own process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A program that does not outlive its test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(path: &str) -> Self {
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).env("PORT", "0");
        Program(command.spawn().expect("it starts"))
    }

    /// Waits until it has ended by itself.
    fn ended(mut self, what: &str) {
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.0.try_wait().expect("its status") {
                assert!(status.success(), "{what}: {status}");
                return;
            }
            assert!(Instant::now() < until, "{what} does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What a program prints that ends by itself.
fn printed(path: &str) -> String {
    let mut program = Program::start(path);
    let mut out = program.0.stdout.take().expect("its output");
    // Read beside, so that one that hangs is a failed test.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).map(|_| text)
    });
    program.ended(path);
    reading.join().expect("no panic").expect("text")
}

#[test]
fn worker() {
    let out = printed(env!("CARGO_BIN_EXE_worker"));
    for line in [
        "ordinary: 64px-slow-disk.png, attempt 2",
        "urgent: 64px-urgent.png, attempt 1",
        "later: 64px-later.png, attempt 1",
        "broken: it is no picture (BadPicture)",
        "endless: the handler took longer than its time limit of 500ms (homing::TimeLimit)",
        "drained: 0 tasks went back",
    ] {
        assert!(out.lines().any(|printed| printed == line), "{line:?} is not in {out}");
    }
}

#[test]
fn plain_threads() {
    let out = printed(env!("CARGO_BIN_EXE_plain_threads"));
    for part in ["quadruple: 4", "quadruple: 16", "on this thread: true", "closed"] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
}

#[test]
fn gui_loop() {
    let out = printed(env!("CARGO_BIN_EXE_gui_loop"));
    for part in ["on the screen: 10", "at last: 30"] {
        assert!(out.contains(part), "{part:?} is not in {out}");
    }
}

#[test]
fn tracing() {
    let out = printed(env!("CARGO_BIN_EXE_tracing"));
    assert!(out.contains("answer: "), "{out}");
    // The caller's, two of the call, two of the task that it led to, and one within its handler.
    let traces: Vec<&str> = out
        .lines()
        .filter_map(|line| line.trim().strip_prefix("TraceId"))
        .map(|id| id.trim_matches([' ', ':']))
        .collect();
    assert_eq!(traces.len(), 6, "{out}");
    assert!(traces.iter().all(|trace| *trace == traces[0] && trace.len() == 32), "one trace: {traces:?}");
    for name in
        ["shopping", "packing", "send kiwipy.messages:[rpc].homing-examples.order", "process kiwipy.tasks:kiwipy.tasks"]
    {
        assert!(out.contains(name), "{name:?} is not in {out}");
    }
}

#[test]
fn axum_service() {
    let mut program = Program::start(env!("CARGO_BIN_EXE_axum_service"));
    let mut out = BufReader::new(program.0.stdout.take().expect("its output"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on http://").expect("its address").to_owned();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).expect("a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let answer = get("/square/12");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("144"), "{answer}");
    let answer = get("/square/twelve");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let answer = get("/visits");
    assert!(answer.ends_with('1'), "{answer}");
    // Ctrl-C.
    let pid = program.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    program.ended("axum_service");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert!(rest.contains("closed: 0 calls refused, 0 callers left waiting"), "{rest}");
}
