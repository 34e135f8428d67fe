//! `homing task send --lines` and `--count`: many tasks, many of them under way at once.

use std::io::{self, BufRead};
use std::sync::{Arc, OnceLock};

use futures_util::stream::{self, Stream, StreamExt};
use homing::{Communicator, Value};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::sync::mpsc;

use crate::args::{Format, Global, Send};
use crate::call::finish;
use crate::connection::while_sending;
use crate::failure::Failure;
use crate::progress::timed_out;
use crate::send::connect_and_look;
use crate::stop::Stop;
use crate::{note, out, values, warning};

/// One task: its number, from 1 on, and its body.
type Numbered = (u64, Result<Value, Failure>);

/// Why the lines end before their end.
type Unread = Arc<OnceLock<String>>;

/// How one ended: the outcome, where one was asked for.
type Ended = (u64, Result<Option<Value>, Failure>);

pub(crate) async fn run(command: Send, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let deadline = command.timeout.map(|timeout| std::time::Instant::now() + timeout);
    let at_most = usize::from(command.in_flight.get());
    let mut tally = Tally { word: if command.no_reply { "sent" } else { "done" }, ..Tally::default() };
    let bar = progress_bar(&command, global);
    let unread = Unread::default();
    let work = async {
        let bodies: std::pin::Pin<Box<dyn Stream<Item = Numbered>>> = match command.count {
            Some(count) => {
                let body = values::read_body(command.body.as_deref()).await?;
                Box::pin(stream::iter((1..=count.get()).map(move |number| (number, Ok(body.clone())))))
            }
            None => Box::pin(lines(Arc::clone(&unread))),
        };
        // Nothing is connected, and no queue called new, for lines of which none is a task.
        let mut bodies = bodies;
        let first = loop {
            match bodies.next().await {
                Some((number, Err(failure))) => {
                    let ended = stream::iter([(number, Err(failure))]);
                    collect(ended, global.output.format, &bar, &mut tally).await?;
                }
                Some(first) => break first,
                None => return Ok(None),
            }
        };
        let communicator = connect_and_look(global).await?;
        let sending = stream::iter([first]).chain(bodies).map(|(number, body)| {
            let task = one(&communicator, body, &command);
            async move { (number, task.await) }
        });
        let format = global.output.format;
        if command.as_they_come {
            let all = collect(sending.buffer_unordered(at_most), format, &bar, &mut tally);
            while_sending(&communicator, all).await?;
        } else {
            while_sending(&communicator, collect(sending.buffered(at_most), format, &bar, &mut tally)).await?;
        }
        Ok(Some(communicator))
    };
    let out_of_time = async {
        match command.timeout {
            Some(limit) => {
                tokio::time::sleep(limit).await;
                limit
            }
            None => std::future::pending().await,
        }
    };
    let ended: Result<Option<Communicator>, Failure> = tokio::select! {
        done = work => done,
        signal = stop.wait() => Err(Failure::Interrupted(signal, None)),
        limit = out_of_time => {
            Err(Failure::TimedOut(timed_out(limit)))
        }
    };
    bar.finish_and_clear();
    match ended {
        Ok(communicator) => {
            if let Some(communicator) = communicator {
                finish(&communicator, deadline, stop).await;
            }
            note!("{tally}");
            if let Some(why) = unread.get() {
                return Err(Failure::Other(format!("standard input cannot be read: {why}")));
            }
            match tally.failed {
                0 => Ok(()),
                failed => Err(Failure::Other(format!("{failed} of {} failed", tasks(tally.done + failed)))),
            }
        }
        Err(failure) => {
            if !matches!(failure, Failure::ReaderGone) {
                warning!("not all of it was done; {tally}; others may have been sent");
            }
            Err(failure)
        }
    }
}

async fn one(
    communicator: &Communicator,
    body: Result<Value, Failure>,
    command: &Send,
) -> Result<Option<Value>, Failure> {
    let mut task = command.with_options(communicator.task_send(body?));
    if let Some(timeout) = command.timeout {
        task = task.timeout(timeout);
    }
    if command.no_reply {
        task.no_reply().await?;
        return Ok(None);
    }
    Ok(Some(task.await?))
}

/// The lines of standard input, as they come. Empty ones are left out. They end where it cannot be read, and `unread` has why.
fn lines(unread: Unread) -> impl Stream<Item = Numbered> {
    let (sender, receiver) = mpsc::channel(64);
    // A read of standard input cannot be ended, and must not hold the command up.
    std::thread::spawn(move || {
        for (number, line) in (1..).zip(io::stdin().lock().split(b'\n')) {
            let body = match line {
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) => values::parse(&line, &format!("line {number}")),
                // Guards: a directory, whose every read fails: there is no end of it.
                Err(error) => {
                    let _ = unread.set(error.to_string());
                    break;
                }
            };
            if sender.blocking_send((number, body)).is_err() {
                break;
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|line| (line, receiver)) })
}

async fn collect(
    ended: impl Stream<Item = Ended>,
    format: Format,
    bar: &ProgressBar,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut ended = std::pin::pin!(ended);
    while let Some((number, outcome)) = ended.next().await {
        bar.inc(1);
        tally.count(&outcome);
        bar.suspend(|| print(number, outcome, format))?;
    }
    Ok(())
}

fn print(number: u64, outcome: Result<Option<Value>, Failure>, format: Format) -> Result<(), Failure> {
    match (outcome, format) {
        (Ok(None), Format::Text) => Ok(()),
        (Ok(None), Format::Json) => out!("{}", json!({"number": number})),
        (Ok(Some(value)), Format::Json) => {
            out!("{}", json!({"number": number, "outcome": value.to_json()}))
        }
        // One line each, whatever it is.
        (Ok(Some(value)), Format::Text) => out!("{}", value.to_json_text()),
        (Err(failure), Format::Json) => {
            out!("{}", json!({"number": number, "error": {"kind": failure.kind(), "message": failure.to_string()}}))
        }
        (Err(failure), Format::Text) => {
            warning!("task {number}: {failure}");
            Ok(())
        }
    }
}

fn progress_bar(command: &Send, global: &Global) -> ProgressBar {
    if global.output.quiet {
        return ProgressBar::hidden();
    }
    let (bar, template) = match command.count {
        Some(count) => (ProgressBar::new(count.get()), "{wide_bar} {pos}/{len} tasks, {per_sec}, {eta}"),
        None => (ProgressBar::no_length(), "{spinner} {pos} tasks, {per_sec}"),
    };
    let style = ProgressStyle::with_template(template);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn tasks(number: u64) -> String {
    format!("{number} {}", if number == 1 { "task" } else { "tasks" })
}

/// How many ended how.
#[derive(Debug, Default)]
struct Tally {
    /// What a task is that has ended well.
    word: &'static str,
    done: u64,
    failed: u64,
}

impl Tally {
    fn count(&mut self, outcome: &Result<Option<Value>, Failure>) {
        if outcome.is_ok() {
            self.done += 1;
        } else {
            self.failed += 1;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}, {} failed", tasks(self.done), self.word, self.failed)
    }
}
