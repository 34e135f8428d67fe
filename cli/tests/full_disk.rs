//! A broker of homing's own whose disk takes nothing: nobody is told that something counts which the next start takes back.
//!
//! The disk is full by a limit on the size of the broker's files, which the system reports as an error where the signal for it is
//! ignored. It needs no rights, and is lifted and set while the broker runs.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use shell::{Directory, LONG, ended, exits, homing, text, through_shell};
use support::{Suite, TestResult};

type Failed = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(120));
    suite
        .plain("a_purge_that_the_host_cannot_write_fails_and_the_tasks_are_there", purge_in_the_host)
        .plain("a_purge_at_another_process_fails_too_and_counts_when_there_is_room", purge_elsewhere)
        .plain("a_move_between_queues_without_room_moves_nothing", move_without_room)
        .plain("a_broker_is_moved_only_as_far_as_its_disk_follows", broker_move)
        .plain("a_worker_whose_acknowledgements_cannot_be_written_fails", worker)
        .plain("a_broker_that_cannot_write_what_was_done_last_ends_with_an_error", stopped)
        .plain("who_stops_a_broker_learns_that_its_last_write_failed", stopped_by_the_command)
        .plain("a_broker_in_the_background_that_cannot_start_gives_the_reason", background)
        .plain("a_task_for_a_broker_without_room_is_reported_and_sent_when_there_is_some", waits);
    suite.run()
}

impl Directory {
    /// The local broker in it.
    fn url(&self) -> String {
        format!("local:{}", self.path("l"))
    }

    /// Sends so many tasks to a queue.
    fn send(&self, queue: &str, tasks: u32) -> TestResult {
        let count = tasks.to_string();
        let sent = homing(&[
            "--broker",
            &self.url(),
            "--task-queue",
            queue,
            "task",
            "send",
            "x",
            "--count",
            &count,
            "--no-reply",
        ]);
        exits(&ended(sent)?, 0);
        Ok(())
    }

    /// How many tasks wait in a queue.
    #[track_caller]
    fn waiting(&self, queue: &str) -> usize {
        let list = homing(&["--broker", &self.url(), "--format", "json", "task", "list", "--queue", queue, "--peek"]);
        let (out, _) = exits(&ended(list).expect("listed"), 0);
        out.lines().count()
    }
}

/// The command, of which no file may have more than so many bytes.
fn limited(arguments: &[&str], limit: &str) -> Command {
    let command = homing(arguments);
    let mut shell = through_shell(&command, &format!("trap '' XFSZ; exec prlimit --fsize={limit}: \"$0\" \"$@\""));
    shell.stdin(Stdio::null());
    shell
}

/// A process of the command that stays.
struct Running(Child);

impl Running {
    /// Returns when it has written this to standard output or standard error, with the line.
    fn start(mut command: Command, until: &str) -> Result<(Self, String), Failed> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (lines, found) = std::sync::mpsc::channel();
        let out: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().ok_or("output")?), Box::new(child.stderr.take().ok_or("errors")?)];
        for out in out {
            let lines = lines.clone();
            // Read to the end: it is not to wait for this test.
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    let _ = lines.send(line);
                }
            });
        }
        let running = Running(child);
        loop {
            let line = found.recv_timeout(LONG)?;
            if line.contains(until) {
                return Ok((running, line));
            }
        }
    }

    /// Whether its disk takes anything.
    fn disk(&self, limit: &str) -> TestResult {
        let pid = self.0.id().to_string();
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status()?;
        assert!(set.success(), "the limit is set");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server in the host's place, which does nothing but host.
fn host(directory: &Directory) -> Result<Running, Failed> {
    let serve = limited(&["--broker", &directory.url(), "rpc", "serve", "host", "--exec", "cat"], "unlimited");
    Ok(Running::start(serve, "answering calls")?.0)
}

/// What is written where the disk takes nothing.
const REASON: &str = "File too large";

fn purge_in_the_host() -> TestResult {
    let directory = Directory::new()?;
    directory.send("q", 3)?;
    let purge = ["--broker", &directory.url(), "task", "purge", "--queue", "q", "--all"];
    let (_, err) = exits(&ended(limited(&purge, "0"))?, 1);
    assert!(err.contains(REASON) && err.contains("may come back"), "{err}");
    assert_eq!(directory.waiting("q"), 3);
    exits(&ended(homing(&purge))?, 0);
    assert_eq!(directory.waiting("q"), 0);
    Ok(())
}

fn purge_elsewhere() -> TestResult {
    let directory = Directory::new()?;
    directory.send("q", 3)?;
    let host = host(&directory)?;
    host.disk("0")?;
    let purge = ["--broker", &directory.url(), "task", "purge", "--queue", "q", "--all"];
    let (_, err) = exits(&ended(homing(&purge))?, 1);
    assert!(err.contains(REASON) && err.contains("may come back"), "{err}");
    // Nothing is left in the queue, and whoever finds that is not told that it counts.
    let (_, err) = exits(&ended(homing(&purge))?, 1);
    assert!(err.contains("0 of 0 tasks") && err.contains(REASON), "{err}");
    // The host is killed: the tasks come back, as it was told.
    drop(host);
    assert_eq!(directory.waiting("q"), 3);
    let host = self::host(&directory)?;
    host.disk("0")?;
    exits(&ended(homing(&purge))?, 1);
    // With room again it counts, also what nobody was told about.
    host.disk("unlimited")?;
    exits(&ended(homing(&purge))?, 0);
    drop(host);
    assert_eq!(directory.waiting("q"), 0);
    Ok(())
}

fn move_without_room() -> TestResult {
    let directory = Directory::new()?;
    directory.send("q", 2)?;
    directory.send("to", 1)?;
    let host = host(&directory)?;
    host.disk("0")?;
    // The copy is not confirmed: nothing is moved, and nothing was acknowledged.
    let to = ["--broker", &directory.url(), "task", "move", "--queue", "q", "--to", "to", "--all", "--timeout", "3s"];
    let output = ended(homing(&to))?;
    assert!(!output.status.success(), "{}", text(&output.stderr));
    drop(host);
    assert_eq!(directory.waiting("q"), 2);
    Ok(())
}

fn broker_move() -> TestResult {
    let directory = Directory::new()?;
    directory.send("q", 3)?;
    let (_target, line) =
        Running::start(homing(&["broker", "run", "--memory", "--listen", "127.0.0.1:0"]), "listening on")?;
    let target = format!("amqp://guest:guest@{}/", line.trim().trim_start_matches("listening on "));
    let moving = ["broker", "move", "--from", &directory.url(), "--to", &target];
    let output = ended(limited(&moving, "0"))?;
    let err = text(&output.stderr);
    assert!(output.status.code() == Some(1) && err.contains(REASON), "{err}");
    // They are on both, as is said of a move that ends in between.
    assert_eq!(directory.waiting("q"), 3);
    Ok(())
}

fn worker() -> TestResult {
    let directory = Directory::new()?;
    directory.send("q", 1)?;
    let work = ["--broker", &directory.url(), "--task-queue", "q", "task", "work", "--exec", "cat", "--count", "1"];
    let (_, err) = exits(&ended(limited(&work, "0"))?, 1);
    assert!(err.contains(REASON) && err.contains("may come back"), "{err}");
    assert_eq!(directory.waiting("q"), 1);
    exits(&ended(homing(&work))?, 0);
    assert_eq!(directory.waiting("q"), 0);
    Ok(())
}

/// A broker on a directory, and its URL.
fn broker(directory: &Directory) -> Result<(Running, String), Failed> {
    let run = ["broker", "run", "--listen", "127.0.0.1:0", "--data", &directory.path("data")];
    let (broker, line) = Running::start(limited(&run, "unlimited"), "listening on")?;
    Ok((broker, format!("amqp://guest:guest@{}/", line.trim().trim_start_matches("listening on "))))
}

/// A broker whose disk does not take what was done on it last.
fn broker_that_cannot_write(directory: &Directory) -> Result<Running, libtest_mimic::Failed> {
    let (broker, url) = broker(directory)?;
    let on = |arguments: &[&str]| ended(homing(&[&["--broker", &url], arguments].concat()));
    exits(&on(&["task", "send", "1", "--no-reply"])?, 0);
    broker.disk("0")?;
    let (_, err) = exits(&on(&["task", "purge", "--all"])?, 1);
    assert!(err.contains(REASON), "{err}");
    Ok(broker)
}

fn stopped() -> TestResult {
    let directory = Directory::new()?;
    let mut broker = broker_that_cannot_write(&directory)?;
    shell::signal(broker.0.id(), "TERM");
    assert_eq!(broker.0.wait()?.code(), Some(1));
    Ok(())
}

fn stopped_by_the_command() -> TestResult {
    let directory = Directory::new()?;
    let mut broker = broker_that_cannot_write(&directory)?;
    let stop = || ended(homing(&["broker", "stop", "--data", &directory.path("data")]));
    let (_, err) = exits(&stop()?, 1);
    assert!(err.contains("the broker stopped") && err.contains(REASON), "{err}");
    assert_eq!(broker.0.wait()?.code(), Some(1));
    exits(&stop()?, 3);
    Ok(())
}

fn background() -> TestResult {
    let directory = Directory::new()?;
    let start = ["broker", "start", "--listen", "127.0.0.1:0", "--data", &directory.path("data")];
    let (_, err) = exits(&ended(limited(&start, "0"))?, 1);
    assert!(err.contains(REASON) && err.contains("broker.log"), "{err}");
    Ok(())
}

fn waits() -> TestResult {
    let directory = Directory::new()?;
    let (broker, url) = broker(&directory)?;
    let on = |arguments: &[&str]| homing(&[&["--broker", &url], arguments].concat());
    exits(&ended(on(&["task", "send", "1", "--no-reply"]))?, 0);
    broker.disk("0")?;
    let (_, err) = exits(&ended(on(&["task", "send", "2", "--no-reply", "--timeout", "3s"]))?, 4);
    assert!(err.contains(REASON) && err.contains("--timeout limits the time, and Ctrl-C ends it"), "{err}");
    let (mut waiting, line) = Running::start(on(&["task", "send", "3", "--no-reply"]), "waits until the broker takes")?;
    assert!(line.contains("Ctrl-C"), "{line}");
    broker.disk("unlimited")?;
    let until = Instant::now() + LONG;
    while waiting.0.try_wait()?.is_none() {
        assert!(Instant::now() < until, "it goes on when there is room");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(waiting.0.wait()?.success());
    Ok(())
}
