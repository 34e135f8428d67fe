//! The store of processes: where its file is, and how it is opened.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use homing::ErrorKind;
use homing::process::store::SqlitePersister;

use crate::failure::Failure;
use crate::places;

/// Where the store is: as given, else by HOMING_STORE, else in the user's data directory.
///
/// # Errors
/// `Usage` when it is given as an empty name, or there is no home to look in.
pub(crate) fn path(given: Option<&Path>) -> Result<PathBuf, Failure> {
    match given {
        Some(path) if path.as_os_str().is_empty() => {
            return Err(Failure::Usage("--store is empty; give a file, or leave it out".to_owned()));
        }
        Some(path) => return Ok(path.to_owned()),
        None => {}
    }
    if let Some(path) = places::variable("HOMING_STORE") {
        return Ok(path);
    }
    places::own_file("XDG_DATA_HOME", ".local/share", "processes.db", "--store")
}

/// Opens the store, and makes it with its directory where it is not there.
pub(crate) async fn open(path: &Path) -> Result<SqlitePersister, Failure> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        // What processes are made with and put out is for their owner alone. A directory that is there is left as it is.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Failure::Other(format!("the directory {} of the store cannot be made: {error}", folder.display()))
        })?;
    }
    Ok(SqlitePersister::open(path).await?)
}

/// Opens the store of a supervised worker. Its supervisor has made it.
///
/// Guards: a worker that is started again while the file is moved away. In a new one it would not find the processes that the
/// tasks in the queue are about, and end those tasks.
pub(crate) async fn open_again(path: &Path) -> Result<SqlitePersister, Failure> {
    match SqlitePersister::builder(path).existing().open().await {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Failure::Other(format!(
            "the store {} was there when the supervisor was started, and is gone; put it back with its `-wal` and `-shm`, or stop \
             the supervisor and start it again for a new one",
            path.display()
        ))),
        opened => Ok(opened?),
    }
}

/// Opens a store that is there, to read it.
///
/// # Errors
/// `NotFound` when it is not there.
pub(crate) async fn open_to_read(path: &Path) -> homing::Result<SqlitePersister> {
    SqlitePersister::builder(path).read_only().open().await
}

/// What tells this file from every other, on this machine and while it runs: two names of one file have the same. `None`
/// where the system does not know.
pub(crate) fn mark(path: &Path) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let file = fs::metadata(path).ok()?;
    Some(format!("{} {} {}", boot.trim(), file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_is_made_with_its_directory_for_its_owner_alone() {
        let folder = std::env::temp_dir().join(format!("homing-store-{}-{}", std::process::id(), fastrand::u64(..)));
        let file = folder.join("a/b/processes.db");
        assert!(open_to_read(&file).await.is_err() && !folder.exists(), "reading makes nothing");
        drop(open(&file).await.unwrap());
        for made in [&folder, &folder.join("a/b"), &file] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o077, 0, "{}", made.display());
        }
        std::os::unix::fs::symlink(&file, folder.join("other")).unwrap();
        assert!(mark(&file).is_some() && mark(&file) == mark(&folder.join("other")));
        assert!(mark(&folder.join("none")).is_none());
        fs::remove_dir_all(folder).unwrap();
    }
}
