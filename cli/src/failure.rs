//! How the command ends: its exit codes, and what it prints when it fails.

use std::fmt;
use std::process::ExitCode;

use homing::{Error, ErrorKind};

/// Why the command fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An argument cannot be used.
    Usage(String),
    /// The library said so.
    Homing(Error),
    /// Something else, said here.
    Other(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Usage(_) => 2,
            Failure::Other(_) => 1,
            Failure::Homing(error) => match error.kind() {
                ErrorKind::InvalidArgument => 2,
                ErrorKind::Unroutable => 3,
                ErrorKind::TimedOut => 4,
                ErrorKind::RemoteException => 5,
                ErrorKind::Connection | ErrorKind::ConnectionLost | ErrorKind::AccessRefused => 6,
                _ => 1,
            },
        })
    }
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
            Failure::Usage(text) | Failure::Other(text) => f.write_str(text),
            Failure::Homing(error) => error.fmt(f),
        }
    }
}
