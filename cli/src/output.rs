//! Standard output and standard error of the command: nothing here panics, whatever they lead to.
//!
//! Standard output carries results, by [`print!`]-like [`out!`](crate::out). A reader that has gone ends the command quietly
//! ([`Failure::ReaderGone`]); any other fault, such as a full disk, is an error. Standard error carries notes to a person, by
//! [`note!`](crate::note); what cannot be written there is lost. A command that does work never waits for it, see [`aside`].

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::args::{Colours, Format, Output};
use crate::aside::{self, Aside};
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
    colours_on(&io::stderr(), when)
}

/// Whether what is written there is coloured.
pub(crate) fn colours_on(stream: &impl IsTerminal, when: Colours) -> bool {
    match when {
        Colours::Always => true,
        Colours::Never => false,
        Colours::Auto => {
            let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
            !refused && !dumb && stream.is_terminal()
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
    // It may repeat what others have written.
    let text = lines_without_controls(&text.to_string());
    let manner = MANNER.get().copied().unwrap_or_default();
    if manner.quiet && weight == Weight::Note {
        return;
    }
    let line = if manner.json_errors {
        let level = if weight == Weight::Note { "INFO" } else { "WARN" };
        serde_json::json!({"timestamp": now(), "level": level, "message": text}).to_string()
    } else if weight == Weight::Warning {
        format!("homing: warning: {text}")
    } else {
        format!("homing: {text}")
    };
    write_err(format!("{line}\n").as_bytes());
}

/// A word of a command line that is advised, as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !word.is_empty() && !word.starts_with('-') && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Writes bytes to standard error; what cannot be written there is lost. While a [screen](hold_errors) is shown, it gets them.
pub(crate) fn write_err(bytes: &[u8]) {
    if let Some(held) = &mut *held() {
        for line in String::from_utf8_lossy(bytes).lines() {
            if held.len() == MOST_HELD {
                held.pop_front();
            }
            held.push_back(shortened(&without_colours(line), LONGEST_HELD));
        }
        return;
    }
    match ASIDE.get() {
        Some(aside) => aside.write(bytes),
        None => {
            let _ = io::stderr().lock().write_all(bytes);
        }
    }
}

/// Where a command that does work writes its errors.
static ASIDE: OnceLock<Aside> = OnceLock::new();

/// From now on nothing waits for standard error to be read, see [`aside`].
pub(crate) fn write_errors_aside() -> io::Result<()> {
    let aside = Aside::start(aside::write_waiting, not_written)?;
    let _ = ASIDE.set(aside);
    // What the standard library's hook writes, it writes itself.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace = match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("{backtrace}\n"),
            _ => String::new(),
        };
        let thread = thread.name().unwrap_or("without a name");
        write_err(format!("homing: the thread {thread} {panic}\n{backtrace}").as_bytes());
    }));
    Ok(())
}

/// The line about lines that were dropped.
fn not_written(lines: u64) -> Vec<u8> {
    let text = format!("{lines} lines were dropped here, since standard error was not read");
    let line = if errors_are_json() {
        serde_json::json!({"timestamp": now(), "level": "WARN", "message": text, "lines_dropped": lines}).to_string()
    } else {
        format!("homing: warning: {text}")
    };
    format!("{line}\n").into_bytes()
}

/// Waits until everything is written to standard error, for this long at most.
pub(crate) fn finish_errors(limit: Duration) {
    if let Some(aside) = ASIDE.get() {
        aside.finish(limit);
    }
}

/// The lines of standard error that wait for whoever shows a screen.
static HELD: Mutex<Option<VecDeque<String>>> = Mutex::new(None);

/// How many lines wait at most. The oldest are dropped.
const MOST_HELD: usize = 100;

/// How long one of them is at most.
const LONGEST_HELD: usize = 1000;

fn held() -> MutexGuard<'static, Option<VecDeque<String>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line of the log without its colours: `ESC [ … m`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\u{1b}') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let length = colour_at(rest).unwrap_or_else(|| {
            plain.push('\u{1b}');
            1
        });
        rest = &rest[length..];
    }
    plain + rest
}

/// From now on what would be written to standard error waits to be [taken](held_errors), if it would be written to the terminal
/// that shows a screen.
pub(crate) fn hold_errors() {
    if io::stderr().is_terminal() {
        held().get_or_insert_default();
    }
}

/// What has been held since the last time.
pub(crate) fn held_errors() -> Vec<String> {
    held().as_mut().map(|held| held.drain(..).collect()).unwrap_or_default()
}

/// Writes what waits, and everything from now on.
pub(crate) fn release_errors() {
    let waiting = held().take();
    for line in waiting.into_iter().flatten() {
        write_err(format!("{line}\n").as_bytes());
    }
}

/// Standard error for logs, see [`write_err`].
pub(crate) struct Errors {
    /// Whether lines have colours of ours.
    pub coloured: bool,
}

impl Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let colour = if self.coloured { Colour::Kept } else { Colour::Replaced };
        write_err(log_line(&String::from_utf8_lossy(bytes), colour).as_bytes());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes rows, the first of which are the heads, in columns as wide as their widest cell.
pub(crate) fn table<const N: usize>(rows: Vec<[String; N]>) -> Result<(), Failure> {
    let rows: Vec<_> = rows.into_iter().map(|row| row.map(|cell| without_controls(&cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out!("{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// What others have written, for a person: a terminal obeys control characters, and shows what stands between marks of direction
/// in another order.
pub(crate) fn without_controls(text: &str) -> String {
    text.chars().map(|c| if is_control(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// The same, with each of these characters as Rust writes it: `\n`, `\u{1b}`.
pub(crate) fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        if is_control(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
        escaped
    })
}

fn is_control(c: char) -> bool {
    let changes_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || changes_direction || matches!(c, '\u{2028}' | '\u{2029}')
}

/// The same of several lines, which stay lines.
pub(crate) fn lines_without_controls(text: &str) -> String {
    steering_nothing(text, Colour::Replaced)
}

/// A whole line of the log. Its colours are ours; everything else that steers a terminal is from others, and so is the end of a line
/// within it.
fn log_line(line: &str, colour: Colour) -> String {
    let line = line.strip_suffix('\n').unwrap_or(line);
    steering_nothing(line, colour).replace('\n', "\\n") + "\n"
}

/// What is done about `ESC [ … m`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Colour {
    Kept,
    Replaced,
}

fn steering_nothing(text: &str, colour: Colour) -> String {
    let is_bad = |c: char| is_control(c) && c != '\n' && c != '\t';
    if !text.contains(is_bad) {
        return text.to_owned();
    }
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_bad) {
        clean.push_str(&rest[..at]);
        rest = &rest[at..];
        match colour_at(rest).filter(|_| colour == Colour::Kept) {
            Some(length) => {
                clean.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            None => {
                clean.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[rest.chars().next().map_or(0, char::len_utf8)..];
            }
        }
    }
    clean + rest
}

/// How long the `ESC [ … m` is with which a text begins, if it does.
fn colour_at(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[length..].starts_with('m').then_some(length + 3)
}

/// The same as one line of so many characters at most.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    let mut characters = text.trim().chars();
    let kept: String =
        characters.by_ref().take(most).map(|c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { c }).collect();
    let kept = without_controls(&kept);
    if characters.next().is_some() { kept + "…" } else { kept }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_cannot_steer_a_terminal() {
        let hostile = "a\u{1b}[2Jb\u{9b}1mc\u{7}\u{202e}d\u{2028}e\u{7f}";
        assert_eq!(without_controls(hostile), "a\u{fffd}[2Jb\u{fffd}1mc\u{fffd}\u{fffd}d\u{fffd}e\u{fffd}");
        assert_eq!(without_controls("äöü 日本 👩‍🔬"), "äöü 日本 👩‍🔬");
        assert_eq!(shortened(" a\nb\tc ", 10), "a b c");
        assert_eq!(shortened("äöüß", 3), "äöü…");
        assert_eq!(lines_without_controls("a\n\tb\u{1b}[1mc\u{9b}d\r"), "a\n\tb\u{fffd}[1mc\u{fffd}d\u{fffd}");
        assert_eq!(escaped("it's \"ä\"\n\u{1b}[1m\u{202e}"), "it's \"ä\"\\n\\u{1b}[1m\\u{202e}");
        assert_eq!(log_line("a\nb\u{1b}[31mc\n", Colour::Replaced), "a\\nb\u{fffd}[31mc\n");
        assert_eq!(log_line("\u{1b}[2ma\u{1b}[0m", Colour::Kept), "\u{1b}[2ma\u{1b}[0m\n");
        let log = "\u{1b}[2m12:00\u{1b}[0m \u{1b}]0;x\u{7}\u{1b}[2J\u{1b}[1;33m\u{1b}[";
        let clean = "\u{1b}[2m12:00\u{1b}[0m \u{fffd}]0;x\u{fffd}\u{fffd}[2J\u{1b}[1;33m\u{fffd}[";
        assert_eq!(steering_nothing(log, Colour::Kept), clean);
        assert_eq!(without_colours(log), "12:00 \u{1b}]0;x\u{7}\u{1b}[2J\u{1b}[");
        assert_eq!(without_colours("\u{1b}[2m12:00\u{1b}[0m \u{1b}[1;33mWARN\u{1b}[0m x"), "12:00 WARN x");
    }
}
