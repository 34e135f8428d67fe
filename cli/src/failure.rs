//! How the command ends: why it fails, and its exit codes.

use std::fmt;
use std::process::ExitCode;

use homing::{Error, ErrorKind};

/// The signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    CtrlC,
    Terminate,
    /// The terminal is gone.
    HangUp,
}

impl Interruption {
    /// The exit code, as shells count it: 128 and the number of the signal.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Interruption::CtrlC => 130,
            Interruption::Terminate => 143,
            Interruption::HangUp => 129,
        }
    }
}

/// Why the command fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument cannot be used.
    Usage(String),
    /// The library reported it.
    Homing(Error),
    /// The command's own time limit has passed.
    TimedOut(String),
    /// A signal came; how far the command had come, where that is known.
    Interrupted(Interruption, Option<&'static str>),
    /// Nobody reads standard output any more: nothing is left to do, and nothing to report.
    ReaderGone,
    /// Of several things some failed; with the exit code of the worst.
    Several(u8, String),
    /// Nobody is there to do it.
    Nobody(String),
    /// A program has ended with this exit code, which is all that there is to report.
    Job(u8),
    /// A failure, and what to try about it: printed behind it.
    Advised(Box<Failure>, String),
    /// What `homing doctor` found: it is no advice to run it.
    Checked(Error),
    /// Something else.
    Other(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// The exit code as a number.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::ReaderGone => 0,
            Failure::Several(code, _) | Failure::Job(code) => *code,
            Failure::Nobody(_) => 3,
            Failure::Usage(_) => 2,
            Failure::TimedOut(_) => 4,
            Failure::Interrupted(signal, _) => signal.exit_code(),
            Failure::Other(_) => 1,
            Failure::Advised(failure, _) => failure.code(),
            Failure::Homing(error) | Failure::Checked(error) => match error.kind() {
                ErrorKind::InvalidArgument => 2,
                ErrorKind::Unroutable => 3,
                ErrorKind::TimedOut => 4,
                ErrorKind::RemoteException => 5,
                ErrorKind::Connection | ErrorKind::ConnectionLost => 6,
                ErrorKind::AccessRefused | ErrorKind::PermissionDenied => 7,
                ErrorKind::DuplicateTask => 8,
                _ => 1,
            },
        }
    }

    /// A word for programs.
    pub(crate) fn kind(&self) -> String {
        match self {
            Failure::ReaderGone => "reader_gone".to_owned(),
            Failure::Usage(_) => "usage".to_owned(),
            Failure::TimedOut(_) => "timed_out".to_owned(),
            Failure::Interrupted(..) => "interrupted".to_owned(),
            Failure::Nobody(_) => "nobody".to_owned(),
            Failure::Other(_) | Failure::Job(_) => "failed".to_owned(),
            Failure::Several(code, _) => kind_of(*code).to_owned(),
            Failure::Advised(failure, _) => failure.kind(),
            Failure::Homing(error) | Failure::Checked(error) => snake_case(&format!("{:?}", error.kind())),
        }
    }

    /// What to do about it: what was added, behind what is known from the kind alone.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Failure::Advised(failure, advice) => Some(match failure.hint() {
                Some(hint) => format!("{hint}; {advice}"),
                None => advice.clone(),
            }),
            failure => failure.hint_by_kind().map(str::to_owned),
        }
    }

    fn hint_by_kind(&self) -> Option<&'static str> {
        match self {
            Failure::Usage(_) => Some("see `homing --help`"),
            Failure::TimedOut(_) => Some("give more time by --timeout"),
            Failure::Homing(error) => match error.kind() {
                ErrorKind::InvalidArgument => Some("see `homing --help`"),
                ErrorKind::Unroutable => {
                    Some("start a subscriber under this identifier, or check --prefix and --message-exchange")
                }
                ErrorKind::TimedOut => Some("give more time by --timeout, or check whether the other end is alive"),
                ErrorKind::Connection
                | ErrorKind::AccessRefused
                | ErrorKind::PermissionDenied
                | ErrorKind::PreconditionFailed => Some("`homing doctor` checks the broker and reports what to do"),
                ErrorKind::ConnectionLost => Some("--reconnect keeps trying"),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The word for an exit code, where several errors have led to it.
fn kind_of(code: u8) -> &'static str {
    match code {
        2 => "usage",
        3 => "unroutable",
        4 => "timed_out",
        5 => "remote_exception",
        6 => "connection",
        7 => "access_refused",
        8 => "duplicate_task",
        130 | 143 => "interrupted",
        _ => "failed",
    }
}

fn snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Homing(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Other(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(text)
            | Failure::Other(text)
            | Failure::TimedOut(text)
            | Failure::Nobody(text)
            | Failure::Several(_, text) => f.write_str(text),
            Failure::Job(code) => write!(f, "the program ended with exit code {code}"),
            Failure::Advised(failure, _) => failure.fmt(f),
            Failure::Homing(error) | Failure::Checked(error) => error.fmt(f),
            Failure::Interrupted(_, Some(stage)) => write!(f, "interrupted {stage}"),
            Failure::Interrupted(_, None) => f.write_str("interrupted"),
            Failure::ReaderGone => f.write_str("standard output is closed"),
        }
    }
}
