//! A broker that one of its users runs for all of them, in a directory of this machine.

use super::{
    admin::Admin,
    builder::StartError,
    disk::DiskStorage,
    handle::{Server, Stopped},
};
use crate::store::disk::{Disk, RealDisk};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const LOCK: &str = "host.lock";
const SOCKET: &str = "socket";
const DATA: &str = "data";

/// How often the host makes sure that its files are in their places.
const EVERY: Duration = Duration::from_secs(1);

/// How long clients have to agree to the end of a host that is dropped, or that has lost its directory.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a host stops by itself.
const GONE: &str =
    "the local broker stops: its directory, or a file of it, was removed or replaced while it was in use";

/// A broker in this process, for everybody on this machine who may use its directory.
///
/// The directory has the broker's socket, its store, and a lock that the system releases with the process that has it: it
/// cannot be left behind.
///
/// ```
/// use homing_broker::server::LocalBroker;
///
/// # let directory = std::env::temp_dir().join(format!("homing-local-doc-{}", std::process::id()));
/// let broker = LocalBroker::host(&directory)?.expect("nobody has it");
/// assert!(LocalBroker::host(&directory)?.is_none(), "it is hosted already");
/// // Clients connect to LocalBroker::socket(&directory).
/// broker.shutdown(std::time::Duration::from_secs(1));
/// # std::fs::remove_dir_all(&directory).unwrap();
/// # Ok::<(), homing_broker::server::StartError>(())
/// ```
pub struct LocalBroker {
    running: Arc<Mutex<Option<Running>>>,
    /// Dropped, it ends the watch.
    stop: mpsc::Sender<()>,
    watch: Option<JoinHandle<()>>,
}

struct Running {
    server: Server,
    /// Released after the server has ended: fields are dropped in this order.
    _lock: Arc<dyn Send + Sync>,
}

impl fmt::Debug for LocalBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBroker").field("has_stopped", &self.has_stopped()).finish_non_exhaustive()
    }
}

impl LocalBroker {
    /// The socket of the broker in a directory, whether it is hosted now or not.
    pub fn socket(directory: &Path) -> PathBuf {
        directory.join(SOCKET)
    }

    /// Hosts the broker of a directory, which is created, for its owner only, where it is missing. `None` where another process,
    /// or another part of this one, hosts it already. Blocks while the store is read.
    ///
    /// It stops by itself if its directory, or its socket there, is removed or replaced: those who come later would find
    /// another broker, and those who are here would never meet them.
    ///
    /// # Errors
    /// The directory cannot be used, or the broker not be started.
    pub fn host(directory: &Path) -> Result<Option<Self>, StartError> {
        let failed = |what: &str| {
            let what = format!("{what} ({})", directory.display());
            |error| StartError::new(what, error)
        };
        RealDisk.create_directory(directory).map_err(failed("the directory of the local broker cannot be made"))?;
        let lock_file = directory.join(LOCK);
        // Guards: two processes that find nobody there at once. Only one of them may touch the socket and the store.
        let lock = match RealDisk.lock(&lock_file) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // Guards: a directory that is removed between the two.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => return Ok(None),
            Err(error) => return Err(failed("the local broker cannot be locked")(error)),
        };
        let socket = Self::socket(directory);
        remove_socket(&socket).map_err(failed("an old socket of the local broker cannot be removed"))?;
        let server = Server::builder().listen_unix(&socket).storage(DiskStorage::new(directory.join(DATA))).start()?;
        let files = [lock_file, socket].map(|path| Identity::of(&path).map(|identity| (path, identity)));
        let Ok(files) = files.into_iter().collect::<io::Result<Vec<_>>>() else {
            // They were removed just now.
            server.shutdown(FAREWELL);
            return Ok(None);
        };
        let running = Arc::new(Mutex::new(Some(Running { server, _lock: lock })));
        let (stop, stopped) = mpsc::channel();
        let watched = Arc::clone(&running);
        let watch = std::thread::Builder::new()
            .name("homing-watch".to_owned())
            .spawn(move || watch(&files, &watched, &stopped))
            .map_err(failed("there is no thread for the watch of the local broker"))?;
        Ok(Some(Self { running, stop, watch: Some(watch) }))
    }

    /// Whether it has stopped by itself. Another process may host it when this value is gone.
    pub fn has_stopped(&self) -> bool {
        lock(&self.running).as_ref().is_none_or(|running| running.server.has_stopped())
    }

    /// Asks it for what an operator may ask; `None` where it has stopped by itself.
    pub fn admin(&self) -> Option<Admin> {
        lock(&self.running).as_ref().map(|running| running.server.admin())
    }

    /// Stops, as [`Server::shutdown`]; then another process may host it.
    pub fn shutdown(mut self, within: Duration) -> Stopped {
        self.stop(within)
    }

    fn stop(&mut self, within: Duration) -> Stopped {
        let running = lock(&self.running).take();
        let stopped = match running {
            Some(Running { server, _lock }) => server.shutdown(within),
            None => Stopped { abandoned: 0, failure: Some(GONE.to_owned()) },
        };
        _ = self.stop.send(());
        if let Some(watch) = self.watch.take() {
            _ = watch.join();
        }
        stopped
    }
}

impl Drop for LocalBroker {
    fn drop(&mut self) {
        if self.watch.is_some() {
            self.stop(FAREWELL);
        }
    }
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Whether the file is certainly not there any more. A file system that has an error may have it still.
    fn is_gone(self, path: &Path) -> bool {
        match Self::of(path) {
            Ok(now) => now != self,
            Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }
}

/// Removes the socket that a killed host has left. For the holder of the lock, who knows that nobody serves it.
///
/// Guards: a program that the killed host had forked. It has the socket still, takes whoever connects, and never answers.
fn remove_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        // Another file is not ours to remove; listening will name it.
        _ => Ok(()),
    }
}

/// Stops the broker when its files are not in their places any more.
fn watch(files: &[(PathBuf, Identity)], running: &Mutex<Option<Running>>, stopped: &mpsc::Receiver<()>) {
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
        let Some((path, _)) = files.iter().find(|(path, identity)| identity.is_gone(path)) else { continue };
        // Taken before it is stopped, so that nobody waits for this.
        let taken = lock(running).take();
        if let Some(Running { server, _lock }) = taken {
            tracing::error!(path = %path.display(), "{GONE}");
            server.shutdown(FAREWELL);
        }
        return;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it has is whole whoever panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
