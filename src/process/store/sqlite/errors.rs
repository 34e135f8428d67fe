//! What SQLite fails with, for people.

use std::path::Path;
use std::time::Duration;

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// Why a piece of work was not done.
#[derive(Debug)]
pub(super) enum Fault {
    /// For a reason of its own. Nothing was written for it, and others are not touched.
    Refused(Error),
    /// SQLite failed. The transaction is of no use any more.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sqlite(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Refused(error)
    }
}

/// How long a statement waits for another program.
#[derive(Clone, Copy, Debug)]
pub(super) struct BusyLimit(pub(super) Duration);

const READ_ONLY: &str = "it cannot be written: the file, its directory or the file system is read-only for this user";

/// That a file that is to be written may only be read. SQLite opens it all the same.
pub(super) fn read_only(path: &Path) -> Error {
    Error::new(ErrorKind::Storage, format!("the store {} cannot be used: {READ_ONLY}", path.display()))
}

/// That the file which was opened is not at its place any more.
pub(super) fn is_gone(path: &Path) -> Error {
    let text = format!(
        "the store {} was removed, moved or replaced while it was open; put it back with its `-wal` and `-shm`, or start again what uses it",
        path.display()
    );
    Error::new(ErrorKind::Storage, text)
}

/// What a failure of SQLite means for the store in this file.
pub(super) fn explain(path: &Path, busy: BusyLimit, error: rusqlite::Error) -> Error {
    let path = path.display();
    let (kind, why) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (
            ErrorKind::TimedOut,
            format!("another program has locked it for more than {:?}; end that program, or try again", busy.0),
        ),
        Some(ErrorCode::DiskFull) => (
            ErrorKind::Storage,
            "there is no more room on its disk; what was stored before is kept; make room and try again".to_owned(),
        ),
        Some(ErrorCode::ReadOnly) => (ErrorKind::Storage, READ_ONLY.to_owned()),
        Some(ErrorCode::NotADatabase) => {
            (ErrorKind::Storage, "it is no SQLite database; give another file, which may be a new one".to_owned())
        }
        Some(ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Storage,
            "the file is damaged; copy it, then try `sqlite3 FILE .recover` on the copy".to_owned(),
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => (
            ErrorKind::Storage,
            "it cannot be opened; is its directory there, and may this user read and write both?".to_owned(),
        ),
        Some(ErrorCode::SystemIoFailure) => (
            ErrorKind::Storage,
            format!(
                "the system failed to read or write it ({error}); look at its disk, and at the limit for files (`ulimit -f`)"
            ),
        ),
        Some(_) => (ErrorKind::Storage, error.to_string()),
        None => (ErrorKind::Internal, error.to_string()),
    };
    Error::with_source(kind, format!("the store {path} cannot be used: {why}"), error)
}

/// The same for what was refused.
pub(super) fn explain_fault(path: &Path, busy: BusyLimit, fault: Fault) -> Error {
    match fault {
        Fault::Refused(error) => error,
        Fault::Sqlite(error) => explain(path, busy, error),
    }
}
