//! The log of a process, printed as it comes.

use std::io::{IsTerminal, stderr, stdout};
use std::time::Duration;

use homing::Value;
use homing::codec::Map;
use homing::process::Pid;
use homing::process::store::{LogLine, LogSource, Outcome, Persister, SqlitePersister};

use super::many::pid_as_json;
use super::stored::shown_time;
use crate::args::Format;
use crate::failure::Failure;
use crate::{note, output, values, warning};

/// How long is waited before the store is asked again: this, and then a little longer each time, up to the second.
const FIRST: Duration = Duration::from_millis(30);
const MOST: Duration = Duration::from_millis(300);

/// How many lines are read at once.
const PAGE: usize = 500;

/// Whose output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Of a program that whoever reads it has just started: what it puts out is this command's output.
    Own,
    /// Of a process that is looked into.
    Report,
}

/// How far a log is printed.
pub(crate) struct Follow {
    store: SqlitePersister,
    pid: Pid,
    format: Format,
    place: Place,
    next: u64,
    pause: Duration,
}

impl Follow {
    pub(crate) fn new(store: SqlitePersister, pid: Pid, format: Format, place: Place) -> Self {
        Follow { store, pid, format, place, next: 0, pause: FIRST }
    }

    /// Begins with this line.
    pub(crate) fn from(mut self, line: u64) -> Self {
        self.next = line;
        self
    }

    /// Waits a little, and prints what there is then. How the process has ended, if it has.
    ///
    /// # Cancel safety
    /// No line is lost, and none is printed twice.
    pub(crate) async fn next(&mut self) -> Result<Option<Outcome>, Failure> {
        tokio::time::sleep(self.pause).await;
        self.step().await
    }

    /// Prints what there is. How the process has ended, if it has.
    pub(crate) async fn step(&mut self) -> Result<Option<Outcome>, Failure> {
        // Before the log: what an ended process has logged is all that comes.
        let record = self.store.record(self.pid.clone()).await?;
        let record =
            record.ok_or_else(|| Failure::Other(format!("process {} is not in the store any more", self.pid)))?;
        let before = self.next;
        self.print().await?;
        self.pause = if self.next == before { (self.pause * 3 / 2).min(MOST) } else { FIRST };
        Ok(record.outcome().cloned())
    }

    async fn print(&mut self) -> Result<(), Failure> {
        loop {
            let page = self.store.log(self.pid.clone(), self.next, PAGE).await?;
            if page.dropped > 0 {
                warning!("{} lines are missing: the store keeps the last lines of a log", page.dropped);
            }
            for line in &page.lines {
                self.line(line)?;
            }
            self.next = page.next;
            if page.is_at_end || page.lines.is_empty() {
                return Ok(());
            }
        }
    }

    fn line(&self, line: &LogLine) -> Result<(), Failure> {
        if self.format == Format::Json {
            let mut map = Map::new();
            map.insert("pid", pid_as_json(&self.pid));
            map.insert("number", line.number());
            map.insert("time", shown_time(line.at()));
            map.insert("source", line.source().as_str());
            map.insert("text", line.text());
            return values::print(&Value::Map(map), Format::Json);
        }
        match line.source() {
            LogSource::Output => {
                output::write_out(format!("{}\n", for_reader(line.text(), stdout().is_terminal())).as_bytes())
            }
            LogSource::Error => {
                output::write_err(format!("{}\n", for_reader(line.text(), stderr().is_terminal())).as_bytes());
                Ok(())
            }
            _ => {
                let text = output::without_controls(line.text());
                match self.place {
                    Place::Own => note!("process {}: {text}", self.pid),
                    Place::Report => output::write_err(format!("[{}] {text}\n", shown_time(line.at())).as_bytes()),
                }
                Ok(())
            }
        }
    }
}

/// A terminal obeys control characters; a file or a pipe gets what the program wrote.
fn for_reader(text: &str, is_terminal: bool) -> String {
    if !is_terminal {
        return text.to_owned();
    }
    text.split('\t').map(output::without_controls).collect::<Vec<_>>().join("\t")
}
