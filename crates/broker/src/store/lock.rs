//! The lock of a directory that one process at a time may use.
//!
//! The system releases it with the process that has it, also when that is killed, so it cannot be left behind; with one
//! exception: programs that the process had forked have it too, and go on having it. So the file names its holder, and a lock
//! whose holder is gone is taken over, by a new file in its place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Locks a file, which is created where it is missing. `WouldBlock` if another process, or another part of this one, has it.
pub(crate) fn lock(path: &Path) -> io::Result<Lock> {
    let _guard = Guard::take(path)?;
    let file = open(path)?;
    let file = match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            name_holder(&file);
            file
        }
        Err(rustix::io::Errno::WOULDBLOCK) if _guard.0.is_some() && holder_is_gone(&file) => take_over(path)?,
        Err(error) => return Err(error.into()),
    };
    // Guards: a file that was taken out of its place between opening and locking.
    let (now, own) = (path.symlink_metadata()?, file.metadata()?);
    if (now.dev(), now.ino()) != (own.dev(), own.ino()) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Ok(Lock { _file: file })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Puts a new file, which is locked, in the place of one whose lock nobody can release.
fn take_over(path: &Path) -> io::Result<File> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = open(&new)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    name_holder(&file);
    std::fs::rename(&new, path)?;
    tracing::warn!(path = %path.display(), "the lock of a process that is gone was taken over: programs that it had started by fork have it still");
    Ok(file)
}

/// Held while a lock is looked at and taken: one process at a time.
///
/// Guards: a lock that is taken and does not name its holder yet, or that two take over at once.
struct Guard(Option<File>);

impl Guard {
    fn take(path: &Path) -> io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = File::open(directory)?;
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(Some(directory))),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(io::ErrorKind::WouldBlock.into()),
            // A file system that locks no directories: nothing is taken over there.
            Err(_) => Ok(Self(None)),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            // Not only closed: a program that was forked just now has it too.
            _ = flock(directory, FlockOperation::Unlock);
        }
    }
}

/// Writes who has the lock: the number of the process for people, and what tells it from others that had this number.
fn name_holder(file: &File) {
    let process = std::process::id();
    let identity = identity(process).unwrap_or_default();
    // The lock itself does not depend on it, and a disk may be full.
    _ = file.set_len(0).and_then(|()| file.write_all_at(format!("{process}\n{identity}\n").as_bytes(), 0));
}

/// Whether the process that the file names has certainly ended. What is not known counts as there.
fn holder_is_gone(file: &File) -> bool {
    let mut text = [0; 256];
    let Ok(length) = file.read_at(&mut text, 0) else { return false };
    let text = String::from_utf8_lossy(&text[..length]);
    let mut lines = text.lines();
    let (Some(process), Some(named)) = (lines.next().and_then(|line| line.parse().ok()), lines.next()) else {
        return false;
    };
    // Guards: a process of another machine, or of a container, whose numbers mean others here.
    let (Some(here), Some((system, _))) = (identity(std::process::id()), named.rsplit_once(' ')) else { return false };
    if here.rsplit_once(' ').map(|(system, _)| system) != Some(system) {
        return false;
    }
    identity(process).as_deref() != Some(named)
}

/// Which process this is among all that ever had its number: this boot of the system, the namespace of numbers, and the time of
/// its start. `None` where it has ended, and on systems without /proc.
fn identity(process: u32) -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program stands in brackets, and may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie has ended, though nobody has asked for its exit code.
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    let start = fields.nth(18)?;
    Some(format!("{} {} {start}", boot.trim(), namespace.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("homing-lock-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn would_block(path: &Path) -> bool {
        lock(path).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[test]
    fn a_lock_is_one_and_names_its_holder() {
        let directory = Directory::new("one");
        let path = directory.0.join("lock");
        let first = lock(&path).unwrap();
        assert!(would_block(&path));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().next(), Some(std::process::id().to_string().as_str()));
        drop(first);
        drop(lock(&path).unwrap());
    }

    #[test]
    fn a_lock_that_others_hold_for_a_process_that_is_gone_is_taken_over() {
        let directory = Directory::new("gone");
        let path = directory.0.join("lock");
        let Some(own) = identity(std::process::id()) else { return };
        let system = own.rsplit_once(' ').unwrap().0;
        // As a program that was forked has it: the lock is held, and its holder has ended.
        let held = lock(&path).unwrap();
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        for unknown in ["", "1\n", "4194305\n", &format!("4194305\nanother-boot {own}\n"), "x\ny\n"] {
            write(unknown);
            assert!(would_block(&path), "{unknown:?}: nothing is known of its holder");
        }
        write(&format!("{}\n{own}\n", std::process::id()));
        assert!(would_block(&path), "its holder lives");
        write(&format!("{}\n{system} 1\n", std::process::id()));
        let first = lock(&path).expect("its holder's number is another's now");
        assert!(would_block(&path), "it has a holder again");
        drop(held);
        assert!(would_block(&path), "the old file has nothing to do with it any more");
        drop(first);
        write(&format!("4194305\n{system} 1\n"));
        drop(lock(&path).unwrap());
    }
}
