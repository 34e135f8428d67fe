//! The lock by which there is one supervisor of a kind, and the record in it by which others find it.
//!
//! The lock is the kernel's (`flock`): it goes when its process goes, however that ends, and cannot be left behind. What is
//! written in the file is a record: the process, by its number and its start time, and where its socket is. A record that was left
//! behind is known by that: its process is gone, or another one has the number by now.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use homing::process::store::{Owner, os_process};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use serde::{Deserialize, Serialize};

use super::identity::Identity;
use crate::failure::Failure;

/// The longest record.
const LONGEST: u64 = 16 << 10;

/// How long a record may take to be written by whoever has just got the lock.
const WRITING: Duration = Duration::from_secs(1);

/// What a supervisor has written about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub pid: u32,
    /// When the process was started, in the system's own unit.
    pub started: u64,
    /// Boot and pid namespace, in which the number means something.
    pub place: String,
    /// When, for a person.
    pub since: String,
    pub socket: PathBuf,
    /// The file of its log, if it has one.
    pub log: Option<PathBuf>,
}

impl Record {
    /// Of this process.
    pub(super) fn own(socket: PathBuf, log: Option<PathBuf>) -> Self {
        let pid = std::process::id();
        Record {
            pid,
            started: os_process(pid).ok().flatten().map_or(0, |process| process.started),
            place: Owner::this_process().place().to_owned(),
            since: crate::output::now(),
            socket,
            log,
        }
    }

    /// Whether its process lives. A process of its number that was started at another time is another one.
    pub(super) fn lives(&self) -> bool {
        self.place == Owner::this_process().place()
            && matches!(os_process(self.pid), Ok(Some(process)) if process.started == self.started && !process.is_over)
    }
}

/// The lock, until this is dropped or the process ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: Flock<File>,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// When another supervisor has it, or its file cannot be used.
    pub(super) fn take(identity: &Identity, advice: impl FnOnce() -> String) -> Result<Self, Failure> {
        let path = identity.lock_file();
        let unusable =
            |error: io::Error| Failure::Other(format!("the lock {} cannot be used: {error}", path.display()));
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlag::O_NOFOLLOW.bits())
                .open(&path)
                .map_err(unusable)?;
            let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(is_taken(&path, advice())),
                Err((_, Errno::EINTR)) => continue,
                Err((_, error)) => return Err(unusable(error.into())),
            };
            // Guards: a file that was deleted between the opening and the lock. Whoever opens the path then gets another one.
            let own = file.metadata().map_err(unusable)?;
            if fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())) {
                file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(unusable)?;
                return Ok(Lock { file, path });
            }
        }
    }

    /// Writes where this supervisor is.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&mut self, record: &Record) -> Result<(), Failure> {
        let path = &self.path;
        let mut text = serde_json::to_string(record).map_err(|error| Failure::Other(error.to_string()))?;
        text.push('\n');
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())
        };
        write().map_err(|error| Failure::Other(format!("the lock {} cannot be written: {error}", path.display())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file stays. Guards: one that is deleted while somebody else opens it, who would then have a lock that nobody sees.
        let _ = self.file.set_len(0);
    }
}

/// Reads a record; `None` where there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Record>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    // A line without an end is being written.
    Ok(text.strip_suffix('\n').and_then(|line| serde_json::from_str(line).ok()))
}

/// Another supervisor has the lock.
fn is_taken(path: &Path, advice: String) -> Failure {
    let until = Instant::now() + WRITING;
    let record = loop {
        match read(path) {
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            record => break record.ok().flatten(),
        }
    };
    let who = record.map_or_else(
        || format!("it has the lock {}", path.display()),
        |record| format!("process {} since {}", record.pid, record.since),
    );
    Failure::Advised(
        Box::new(Failure::Other(format!("a supervisor of workers runs already for this store and these names: {who}"))),
        advice,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Names;

    fn identity() -> (PathBuf, Identity) {
        let folder = std::env::temp_dir().join(format!("homing-lock-{}", crate::mark::draw()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("p.db"), "").unwrap();
        let identity = Identity::new(&folder.join("p.db"), &Names::default(), None).unwrap();
        (folder, identity)
    }

    #[test]
    fn a_lock_is_one_and_ends_with_its_holder() {
        let (folder, identity) = identity();
        let mut lock = Lock::take(&identity, String::new).unwrap();
        let record = Record::own("/run/x.sock".into(), None);
        lock.write(&record).unwrap();
        let path = identity.lock_file();
        assert_eq!(read(&path).unwrap(), Some(record.clone()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let refused = Lock::take(&identity, String::new).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", record.pid)), "{refused}");
        // A longer record, and a shorter one after it.
        lock.write(&Record { since: "x".repeat(500), ..record.clone() }).unwrap();
        lock.write(&record).unwrap();
        assert_eq!(read(&path).unwrap(), Some(record));
        drop(lock);
        assert_eq!(read(&path).unwrap(), None);
        Lock::take(&identity, String::new).unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn of_many_at_once_one_gets_the_lock() {
        let (folder, identity) = identity();
        // Those who do not get it wait for the record of the one who does, which there is not.
        for _ in 0..5 {
            let barrier = std::sync::Barrier::new(8);
            let locks: Vec<_> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8)
                    .map(|_| {
                        scope.spawn(|| {
                            barrier.wait();
                            let path = identity.lock_file();
                            let file = OpenOptions::new()
                                .read(true)
                                .write(true)
                                .create(true)
                                .truncate(false)
                                .open(path)
                                .unwrap();
                            drop(file);
                            Lock::take(&identity, String::new).ok()
                        })
                    })
                    .collect();
                all.into_iter().filter_map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(locks.len(), 1);
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_record_of_a_process_that_is_gone_or_another_one_is_known() {
        let own = Record::own("/run/x.sock".into(), None);
        assert!(own.lives());
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        let dead = Record { pid: gone.id(), started: own.started, ..own.clone() };
        gone.wait().unwrap();
        for other in [
            dead,
            Record { started: own.started + 1, ..own.clone() },
            Record { place: "another boot".to_owned(), ..own.clone() },
        ] {
            assert!(!other.lives(), "{other:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        let (folder, identity) = identity();
        let path = identity.lock_file();
        assert_eq!(read(&path).unwrap(), None);
        for text in ["", "\n", "{}\n", "12345\n", "{\"pid\": 1", "\u{0}\u{0}\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap(), None, "{text:?}");
        }
        // What was there before is no obstacle, but what is no file is.
        drop(Lock::take(&identity, String::new).unwrap());
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(folder.join("elsewhere"), &path).unwrap();
        assert!(Lock::take(&identity, String::new).is_err() && !folder.join("elsewhere").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
