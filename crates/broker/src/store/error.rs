//! Errors of the store: what was tried, on which file, why it failed, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the store's operations return.
pub type Result<T> = std::result::Result<T, Error>;

/// The kind of an [`Error`], for a program to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused an operation.
    Io,
    /// The disk is full, or the user's quota is.
    NoRoom,
    /// The process has no rights to a file or directory.
    NoRights,
    /// Another process, or another store of this process, has the directory open.
    Locked,
    /// A newer version of the store's format wrote the directory.
    Newer,
    /// Bytes are not what was written.
    Damaged,
    /// A write or a sync failed earlier: the store accepts nothing until [`resume`](super::Log::resume) succeeds.
    Stopped,
    /// The caller's argument cannot be stored: too large, or a copy id that does not ascend.
    Invalid,
    /// There is no copy of this id.
    NotFound,
}

/// An error of the store. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    tried: String,
    path: PathBuf,
    cause: Option<io::Error>,
    cure: &'static str,
}

impl Error {
    /// The kind of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or directory that the error is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// What can be done about the error.
    #[must_use]
    pub fn cure(&self) -> &str {
        self.0.cure
    }

    pub(crate) fn new(kind: ErrorKind, tried: impl Into<String>, path: &Path, cure: &'static str) -> Self {
        Self(Arc::new(Inner { kind, tried: tried.into(), path: path.into(), cause: None, cure }))
    }

    /// `tried` completes the sentence "cannot …".
    pub(crate) fn io(tried: impl Into<String>, path: &Path, cause: io::Error) -> Self {
        let (kind, cure) = match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (ErrorKind::NoRoom, "make room on the disk; nothing that was confirmed is lost")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
                ErrorKind::NoRights,
                "give the broker's user rights to read and write there, or choose another directory",
            ),
            io::ErrorKind::NotADirectory | io::ErrorKind::NotFound => {
                (ErrorKind::Io, "check the path; nothing else may move or remove files of the store")
            }
            _ => {
                (ErrorKind::Io, "check the disk and the system's log; nothing that was confirmed is lost by this error")
            }
        };
        Self(Arc::new(Inner { kind, tried: tried.into(), path: path.into(), cause: Some(cause), cure }))
    }

    pub(crate) fn damaged(what: impl Into<String>, path: &Path) -> Self {
        Self::new(ErrorKind::Damaged, what, path, "check the disk; restore the file from a backup if there is one")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} ({})", self.0.tried, self.0.path.display())?;
        if let Some(cause) = &self.0.cause {
            write!(f, ": {cause}")?;
        }
        write!(f, "; {}", self.0.cure)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_attempt_file_cause_and_cure() {
        let error = Error::io("write the segment", Path::new("/data/00000001.log"), io::ErrorKind::StorageFull.into());
        assert_eq!(error.kind(), ErrorKind::NoRoom);
        let text = error.to_string();
        for part in ["cannot write the segment", "/data/00000001.log", "no storage space", "make room"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
