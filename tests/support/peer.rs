//! A Python process as the other end: a script of `tests/peers/`, driven by one JSON object a line.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::suite::Broker;

/// How long a peer may take to answer a command, beyond the `timeout` that the command itself carries.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// How many lines of its standard error are kept.
const KEPT_LINES: usize = 60;

/// A running script. Commands may be under way side by side; it is killed when this is dropped.
pub struct Peer {
    script: String,
    child: Arc<Mutex<Child>>,
    stdin: Mutex<Option<ChildStdin>>,
    waiting: Arc<Mutex<HashMap<u64, Sender<Value>>>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    next: AtomicU64,
}

/// An answer that is still to come.
#[must_use]
pub struct Answer<'a> {
    peer: &'a Peer,
    command: String,
    answers: Receiver<Value>,
    deadline: Duration,
}

/// A command that the peer did not do: with the Python exception's type when there was one.
pub struct PeerError {
    /// Such as `DuplicateSubscriberIdentifier`; `hung` and `gone` when there was no answer.
    pub kind: String,
    /// The exception's text.
    pub text: String,
    command: String,
    stderr: String,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the peer's `{}`: {}: {}", self.command, self.kind, self.text)?;
        if !self.stderr.is_empty() {
            write!(f, "\n--- the peer's standard error ---\n{}", self.stderr)?;
        }
        Ok(())
    }
}

impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for PeerError {}

impl Peer {
    /// Starts a script of `tests/peers/`.
    ///
    /// # Panics
    /// When there is no Python with kiwipy, or the script cannot be started.
    pub fn start(script: &str) -> Peer {
        let python = super::python().expect("HOMING_TEST_PYTHON is not set: run tests/run");
        // The tests of the command share them.
        let folders =
            ["tests/peers", "../tests/peers"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
        let path = folders.iter().map(|folder| folder.join(script)).find(|path| path.exists()).expect("no such peer");
        let mut child = Command::new(&python)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {python} {}: {error}", path.display()));
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let errors = child.stderr.take().expect("standard error is a pipe");
        let waiting: Arc<Mutex<HashMap<u64, Sender<Value>>>> = Arc::default();
        let stderr: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let (asked, kept) = (Arc::clone(&waiting), Arc::clone(&stderr));
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let mut kept = locked(&kept);
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(line);
            }
        });
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(answer) = serde_json::from_str::<Value>(&line) else { continue };
                let sender = answer["id"].as_u64().and_then(|id| locked(&asked).remove(&id));
                if let Some(sender) = sender {
                    let _ = sender.send(answer);
                }
            }
            // It has ended: whoever still waits is told at once.
            locked(&asked).clear();
        });
        let child = Arc::new(Mutex::new(child));
        let hung = Arc::clone(&child);
        super::suite::when_hung(move || end(&hung));
        Peer { script: script.to_owned(), child, stdin: Mutex::new(stdin), waiting, stderr, next: AtomicU64::new(1) }
    }

    /// A kiwipy communicator on this trial's exchanges and queue, in kiwipy's testing mode unless the options say otherwise.
    pub fn kiwipy(broker: &Broker, options: Value) -> Result<Peer, PeerError> {
        let peer = Peer::start("kiwipy_peer.py");
        let mut arguments = json!({
            "url": broker.url(),
            "message_exchange": broker.message_exchange(),
            "task_exchange": broker.task_exchange(),
            "task_queue": broker.task_queue(),
            "testing_mode": true,
        });
        merge(&mut arguments, options);
        peer.call("connect", arguments)?;
        Ok(peer)
    }

    /// Sends a command and waits for its answer: 20 s, and what the command's own `timeout` adds.
    pub fn call(&self, command: &str, arguments: Value) -> Result<Value, PeerError> {
        self.begin(command, arguments).wait()
    }

    /// Sends a command; others may follow before its answer comes.
    pub fn begin(&self, command: &str, arguments: Value) -> Answer<'_> {
        let own = arguments["timeout"].as_f64().unwrap_or(10.0);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answers) = channel();
        locked(&self.waiting).insert(id, sender);
        let mut request = json!({"id": id, "do": command});
        merge(&mut request, arguments);
        let written = match locked(&self.stdin).as_mut() {
            Some(stdin) => writeln!(stdin, "{request}").and_then(|()| stdin.flush()).is_ok(),
            None => false,
        };
        if !written {
            locked(&self.waiting).remove(&id);
        }
        let deadline = ANSWER_DEADLINE + Duration::from_secs_f64(own.clamp(0.0, 3600.0));
        Answer { peer: self, command: command.to_owned(), answers, deadline }
    }

    /// Kills the process as a crash would.
    pub fn kill(&self) {
        end(&self.child);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        locked(&self.child).id()
    }

    /// The end of what it wrote to its standard error.
    pub fn stderr(&self) -> String {
        locked(&self.stderr).iter().fold(String::new(), |text, line| text + line + "\n")
    }

    fn error(&self, command: &str, kind: &str, text: &str) -> PeerError {
        PeerError { kind: kind.into(), text: text.into(), command: command.into(), stderr: self.stderr() }
    }
}

impl Answer<'_> {
    /// Waits for it.
    pub fn wait(self) -> Result<Value, PeerError> {
        let Answer { peer, command, answers, deadline } = self;
        match answers.recv_timeout(deadline) {
            Ok(mut answer) => match answer.get("error") {
                Some(error) => {
                    let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                    Err(peer.error(&command, &text("type"), &text("text")))
                }
                None => Ok(answer["ok"].take()),
            },
            Err(RecvTimeoutError::Timeout) => Err(peer.error(&command, "hung", &format!("no answer in {deadline:?}"))),
            Err(RecvTimeoutError::Disconnected) => {
                // Its last words may be on their way.
                std::thread::sleep(Duration::from_millis(200));
                Err(peer.error(&command, "gone", &format!("{} has ended", peer.script)))
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.stderr();
            if !text.is_empty() {
                eprintln!("--- standard error of {} ---\n{text}---", self.script);
            }
        }
        end(&self.child);
    }
}

fn end(child: &Mutex<Child>) {
    let mut child = locked(child);
    // Only while it has not been waited for: its number may be a stranger's afterwards.
    if !matches!(child.try_wait(), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend::<Map<String, Value>>(from);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
