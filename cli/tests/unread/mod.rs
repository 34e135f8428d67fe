//! Commands that do work while nobody reads their standard error.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::*;

/// A pipe into which nothing more can be written until somebody reads.
fn full_pipe() -> Result<(PipeReader, PipeWriter), Box<dyn std::error::Error>> {
    let (reader, mut writer) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    for size in [4096, 1] {
        loop {
            match writer.write(&vec![b'\n'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    // Whoever gets it waits as always.
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

/// A command whose standard error nobody reads, and what it has written there.
struct Unread {
    command: Running,
    errors: PipeReader,
}

impl Unread {
    fn start(mut command: Command) -> Result<Self, Box<dyn std::error::Error>> {
        let (errors, writer) = full_pipe()?;
        let child = command.stdout(Stdio::null()).stderr(writer).spawn()?;
        Ok(Unread { command: Running::of(child), errors })
    }

    /// Reads until this is there: all that was read.
    fn reads(&mut self, until: &str) -> std::io::Result<String> {
        let (mut all, mut bytes) = (String::new(), vec![0; 1 << 16]);
        while !all.contains(until) {
            let read = self.errors.read(&mut bytes)?;
            assert!(read > 0, "it ended without {until:?}: {}", all.trim());
            all.push_str(&text(&bytes[..read]));
        }
        Ok(all)
    }
}

/// Each of them waited for its first line before, and did nothing.
pub(super) fn works(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let runs = |arguments: &[&str]| {
        eventually(&format!("{arguments:?} does not go"), || {
            place.ended(arguments).is_ok_and(|output| output.status.success())
        });
    };
    let mut worker = Unread::start(place.command(&["-v", "worker"]))?;
    runs(&["run", "--", "true"]);
    assert_eq!(exits(&place.ended(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])?, 3).0, "out\n");
    // The end waits for nobody either.
    assert_eq!(worker.command.stop("TERM")?.0, Some(0));

    let mut supervisor = place.command(&["worker", "--workers", "2"]);
    supervisor.env("XDG_RUNTIME_DIR", &place.folder);
    let mut supervisor = Unread::start(supervisor)?;
    runs(&["run", "--", "true"]);
    assert_eq!(supervisor.command.stop("TERM")?.0, Some(0));

    let mut server = Unread::start(place.command(&["rpc", "serve", "unread", "--exec", "echo loud >&2; cat"]))?;
    runs(&["rpc", "call", "unread", "7"]);
    assert_eq!(server.command.stop("TERM")?.0, Some(0));

    let mut tasks = Unread::start(place.command(&["task", "work", "--exec", "echo loud >&2; cat"]))?;
    runs(&["task", "send", "7"]);
    let all = tasks.reads("outcome=\"done\"")?;
    assert!(all.contains("until Ctrl-C") && all.contains("loud") && !all.contains("dropped"), "{}", all.trim());
    assert_eq!(tasks.command.stop("TERM")?.0, Some(0));
    Ok(())
}

pub(super) fn dropped(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let loud = "yes 0123456789abcdef | head -c 60000 >&2; echo x >> done";
    let mut tasks = Unread::start(place.command(&["task", "work", "--prefetch", "4", "--exec", loud]))?;
    let mut send = place.command(&["task", "send", "--no-reply", "--lines"]);
    let mut send = send.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    send.stdin.take().ok_or("a pipe")?.write_all("1\n".repeat(100).as_bytes())?;
    exits(&shell::wait(send)?, 0);
    eventually("not all of the tasks are done", || place.lines("done") == 100);
    let all = tasks.reads("standard error was not read")?;
    assert!(all.len() < 5 << 20, "{} bytes waited", all.len());
    let line = all.lines().find(|line| line.contains("dropped")).ok_or("a line about it")?;
    let number = line.split_whitespace().find_map(|word| word.parse::<u64>().ok()).ok_or("a number")?;
    assert!(number > 1000, "{line}");
    // From now on it is read.
    exits(&place.ended(&["task", "send", "7"])?, 0);
    tasks.reads("outcome=\"done\"")?;
    assert_eq!(tasks.command.stop("TERM")?.0, Some(0));
    Ok(())
}

/// Nobody can read it any more: nothing is waited for, and nothing is counted.
pub(super) fn gone(broker: &Broker) -> TestResult {
    let place = Place::new(broker)?;
    let mut worker = Unread::start(place.command(&["worker"]))?;
    let (other, _) = std::io::pipe()?;
    drop(std::mem::replace(&mut worker.errors, other));
    eventually("it runs nothing", || place.ended(&["run", "--", "true"]).is_ok_and(|output| output.status.success()));
    assert_eq!(worker.command.stop("TERM")?.0, Some(0));
    Ok(())
}
