//! Standard output and standard error of the command: nothing here panics, whatever they lead to.
//!
//! Standard output carries results, by [`print!`]-like [`out!`](crate::out). A reader that has gone ends the command quietly
//! ([`Failure::ReaderGone`]); any other fault, such as a full disk, is an error. Standard error carries notes to a person, by
//! [`note!`](crate::note); what cannot be written there is lost.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::SystemTime;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::args::{Colours, Format, Output};
use crate::failure::Failure;

/// How this run writes. Set once, before anything is written.
static MANNER: OnceLock<Manner> = OnceLock::new();

#[derive(Clone, Copy, Debug, Default)]
struct Manner {
    quiet: bool,
    json: bool,
    /// Notes, logs and errors are objects.
    json_errors: bool,
}

/// Whether every line of homing's own on standard error is one JSON object: where results are, or logs are asked to be.
pub(crate) fn json_errors(options: &Output) -> bool {
    options.format == Format::Json || options.log_format == Format::Json
}

/// The same of this run.
pub(crate) fn errors_are_json() -> bool {
    MANNER.get().is_some_and(|manner| manner.json_errors)
}

/// Sets how notes are written.
pub(crate) fn set_up(options: &Output) {
    let _ = MANNER.set(Manner {
        quiet: options.quiet,
        json: options.format == Format::Json,
        json_errors: json_errors(options),
    });
}

/// Whether standard error is coloured: on a terminal, unless NO_COLOR is set (<https://no-color.org>).
pub(crate) fn colours(when: Colours) -> bool {
    match when {
        Colours::Always => true,
        Colours::Never => false,
        Colours::Auto => {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            !refused && !dumb && io::stderr().is_terminal()
        }
    }
}

/// Writes to standard output, like `println!`, and fails where that panics.
#[macro_export]
macro_rules! out {
    ($($text:tt)*) => { $crate::output::write_line(format_args!($($text)*)) };
}

/// Writes to standard output what only a person reads: nothing with `--format json`.
#[macro_export]
macro_rules! show {
    ($($text:tt)*) => { $crate::output::write_shown(format_args!($($text)*)) };
}

/// Writes a line for a person to standard error, unless `--quiet` is given.
#[macro_export]
macro_rules! note {
    ($($text:tt)*) => { $crate::output::write_note($crate::output::Weight::Note, format_args!($($text)*)) };
}

/// Writes a warning for a person to standard error.
#[macro_export]
macro_rules! warning {
    ($($text:tt)*) => { $crate::output::write_note($crate::output::Weight::Warning, format_args!($($text)*)) };
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    Note,
    Warning,
}

/// See [`out!`](crate::out).
pub(crate) fn write_line(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    let mut text = line.to_string();
    text.push('\n');
    write_out(text.as_bytes())
}

/// See [`show!`](crate::show).
pub(crate) fn write_shown(line: fmt::Arguments<'_>) -> Result<(), Failure> {
    if MANNER.get().is_some_and(|manner| manner.json) { Ok(()) } else { write_line(line) }
}

/// Writes bytes to standard output, at once.
///
/// # Errors
/// [`Failure::ReaderGone`] when nobody reads; otherwise what the system reports.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| failed(&error))
}

/// What an error of writing to standard output means.
pub(crate) fn failed(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::ReaderGone;
    }
    Failure::Other(format!("standard output cannot be written: {error}"))
}

/// See [`note!`](crate::note).
pub(crate) fn write_note(weight: Weight, text: fmt::Arguments<'_>) {
    let manner = MANNER.get().copied().unwrap_or_default();
    if manner.quiet && weight == Weight::Note {
        return;
    }
    let line = if manner.json_errors {
        let level = if weight == Weight::Note { "INFO" } else { "WARN" };
        let message = text.to_string();
        serde_json::json!({"timestamp": now(), "level": level, "message": message}).to_string()
    } else if weight == Weight::Warning {
        format!("homing: warning: {text}")
    } else {
        format!("homing: {text}")
    };
    write_err(format!("{line}\n").as_bytes());
}

/// Writes bytes to standard error; what cannot be written there is lost.
pub(crate) fn write_err(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

/// What others have written, for a person: a terminal obeys control characters.
pub(crate) fn without_controls(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The time now, as RFC 3339 in UTC.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Waits until nobody reads standard output any more; for ever, where it is no pipe or terminal.
fn wait_until_reader_gone() {
    let stdout = io::stdout();
    loop {
        // No events are asked for: an error or a hang-up is reported all the same.
        let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => return,
            Err(nix::errno::Errno::EINTR) => {}
            // Whatever cannot be polled is found when it is written to.
            Err(_) => loop {
                std::thread::park();
            },
        }
    }
}

/// Resolves when nobody reads standard output any more, for a command whose results are all that it is for.
pub(crate) async fn reader_gone() {
    let (gone, receiver) = tokio::sync::oneshot::channel::<()>();
    let watching = std::thread::Builder::new().name("homing-reader".to_owned()).spawn(move || {
        wait_until_reader_gone();
        // Nobody waits for it any more when the command ends.
        let _ = gone.send(());
    });
    if watching.is_err() || receiver.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Ends the process when nobody reads standard output any more, for a command without a broker or anything else to lose.
pub(crate) fn end_with_reader() {
    // Without this thread the end comes with the next line that is written.
    let _ = std::thread::Builder::new().name("homing-reader".to_owned()).spawn(|| {
        wait_until_reader_gone();
        std::process::exit(0);
    });
}
