//! `local:`: where the broker of our own on this machine is, and hosting it where nobody does.
//!
//! Whoever connects tries the socket first. Where nobody listens, it takes the lock of the directory and hosts the broker itself,
//! on a thread of its own, for all others too. When a host ends, everybody else has lost a connection, and the first to connect
//! again is the next host; the store has kept what it had confirmed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::home::lock::Mutex;
use homing_broker::server::{LocalBroker, StartError};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::endpoint::Endpoint;
use crate::broker::Kept;
use crate::broker::url::LocalPlace;
use crate::error::{Error, ErrorKind, Result};
use crate::home::ByProcess;

/// The brokers of this process, by their directory.
static HOSTED: ByProcess<Mutex<BTreeMap<PathBuf, Entry>>> = ByProcess::new();

/// How long to wait for one who is about to host, before looking again: it doubles from one to the other.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// How long the clients of a host that ends have to agree.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long a broker is kept that came up after whoever wanted it had given up: for the next attempt, which would have to read
/// the store from its beginning. More than the longest pause between two attempts.
const KEPT: Duration = Duration::from_secs(15);

/// The longest name of a socket on every system that we know: 103 bytes, of which the temporary name that it first has takes a
/// dot and the process's number.
const LONGEST_NAME: usize = 103 - ".4194304".len();

/// A broker of this process.
struct Entry {
    /// `None` while it starts. One that nobody holds any more is about to end.
    hosted: Option<Weak<Hosted>>,
    /// The number of the one that is hosted.
    number: u64,
}

/// How many this process has begun to host.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// A broker that this process hosts, for as long as a communicator of it holds this.
#[derive(Debug)]
pub(super) struct Hosted {
    directory: PathBuf,
    /// No other one of this process has it.
    number: u64,
    /// The process that hosts it. A child of a fork has a copy without its threads.
    process: u32,
    broker: Mutex<Option<LocalBroker>>,
}

impl Hosted {
    /// True where it has stopped by itself. Then another process may host it, or this one again.
    fn has_stopped(&self) -> bool {
        let mut broker = self.broker.lock();
        broker.take_if(|broker| broker.has_stopped());
        broker.is_none()
    }

    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }

    fn end(&mut self) -> Result<()> {
        let Some(broker) = self.broker.get_mut().take() else { return Ok(()) };
        if self.is_inherited() {
            // Guards: its locks, and the join of its threads, for which the child would wait without end.
            std::mem::forget(broker);
            return Ok(());
        }
        let stopped = broker.shutdown(FAREWELL);
        crate::log::debug!(?stopped, "the local broker ends here");
        stopped.failure.map_or(Ok(()), |failure| {
            let text = format!("the local broker in {} has ended: {failure}", self.directory.display());
            Err(Error::new(ErrorKind::Storage, text))
        })
    }
}

/// Lets go of the broker; the last communicator of this process that does so ends it.
///
/// # Errors
/// `Storage` where what clients did last is not on the disk.
pub(super) fn release(kept: &Kept) -> Result<()> {
    let hosted = kept.take().and_then(|kept| kept.downcast::<Arc<Hosted>>().ok());
    match hosted.and_then(|hosted| Arc::into_inner(*hosted)) {
        Some(mut hosted) => hosted.end(),
        None => Ok(()),
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            // Whoever let go of it last has no report. The broker itself has logged it as an error.
            crate::log::debug!(%error, "the local broker did not end in order");
        }
        // Guards: an entry of the next one, where this had stopped by itself.
        let mut all = HOSTED.here().lock();
        if all.get(&self.directory).is_some_and(|entry| entry.number == self.number) {
            all.remove(&self.directory);
        }
    }
}

/// What this process has to do with a directory.
enum Here {
    /// It hosts the broker.
    Hosts(Arc<Hosted>),
    /// It has just begun to, or is about to end.
    NotNow,
    No,
}

fn here(directory: &Path) -> Here {
    let mut all = HOSTED.here().lock();
    let Some(entry) = all.get(directory) else { return Here::No };
    match entry.hosted.as_ref().map(Weak::upgrade) {
        None | Some(None) => Here::NotNow,
        Some(Some(hosted)) if hosted.has_stopped() => {
            all.remove(directory);
            // Guards: the last one of it, which takes this lock as it is dropped.
            drop(all);
            Here::No
        }
        Some(Some(hosted)) => Here::Hosts(hosted),
    }
}

/// Finds the broker, or hosts it.
pub(super) async fn find(place: &LocalPlace, deadline: Instant) -> Result<(Endpoint, Option<Arc<Hosted>>)> {
    let directory = directory(place)?;
    let socket = LocalBroker::socket(&directory);
    let length = socket.as_os_str().len();
    if length > LONGEST_NAME {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!(
                "the socket {} of the local broker has a name of {length} bytes, and {LONGEST_NAME} are possible on every \
                 system; give a shorter directory, as in local:/tmp/mine",
                socket.display()
            ),
        ));
    }
    let mut pause = LOOK_AGAIN;
    loop {
        // Before the socket is tried: a communicator in the host's own process keeps it alive.
        match here(&directory) {
            Here::Hosts(hosted) => return Ok((Endpoint::at_socket(socket), Some(hosted))),
            // Guards: one that ends just now. Its socket may still let us in, to be cut off at once.
            Here::NotNow => {}
            Here::No => match UnixStream::connect(&socket).await {
                Ok(stream) if !is_left_behind(&stream) => return Ok((Endpoint::at_socket(socket), None)),
                // More wait there than the system lets wait.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if !is_free(&error) => return Err(unreachable(&socket, error)),
                Ok(_) | Err(_) => {
                    if let Some(hosted) = host(&directory, deadline).await? {
                        return Ok((Endpoint::at_socket(socket), Some(hosted)));
                    }
                }
            },
        }
        if Instant::now() >= deadline {
            let text = match here(&directory) {
                Here::NotNow => format!("the store of the local broker in {} is still being read", directory.display()),
                _ => format!(
                    "a process has the local broker in {} and does not answer; its number is in {}",
                    directory.display(),
                    directory.join("host.lock").display()
                ),
            };
            return Err(Error::new(ErrorKind::Connection, text));
        }
        tokio::time::sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What a host that does not answer is called in an error.
pub(super) async fn silent_host(place: &LocalPlace) -> Option<String> {
    let stream = UnixStream::connect(LocalBroker::socket(&directory(place).ok()?)).await.ok()?;
    let process = stream.peer_cred().ok()?.pid()?;
    Some(format!("process {process} hosts the local broker, and may be stopped"))
}

/// Whether the process that listened there is gone.
///
/// Guards: a program that the host had forked before it was killed. It has the host's socket, and accepts nobody.
fn is_left_behind(stream: &UnixStream) -> bool {
    let process = stream.peer_cred().ok().and_then(|host| host.pid());
    // Of another pid namespace the system has no number; without /proc nothing is known.
    process.is_some_and(|process| {
        process > 0 && Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{process}")).exists()
    })
}

/// Where a local broker is, for one who looks at it and neither hosts nor waits.
#[derive(Debug)]
pub(crate) struct Seen {
    pub directory: PathBuf,
    /// The socket of its host and the number of the host's process, where the system tells it; `None` where nobody hosts it.
    pub host: Option<(Endpoint, Option<u32>)>,
}

/// Looks whether a process hosts the broker now. Nothing is created.
///
/// # Errors
/// `InvalidArgument` where there is no place for it; `Connection` when its socket is there and lets nobody in.
pub(crate) async fn look(place: &LocalPlace) -> Result<Seen> {
    let directory = directory(place)?;
    let socket = LocalBroker::socket(&directory);
    let host = match UnixStream::connect(&socket).await {
        Ok(stream) => {
            let process = stream.peer_cred().ok().and_then(|host| u32::try_from(host.pid()?).ok());
            Some((Endpoint::at_socket(socket), process))
        }
        Err(error) if is_free(&error) => None,
        Err(error) => return Err(unreachable(&socket, error)),
    };
    Ok(Seen { directory, host })
}

fn unreachable(socket: &Path, error: io::Error) -> Error {
    let text = format!("the local broker at {} cannot be reached: {error}", socket.display());
    Error::with_source(ErrorKind::Connection, text, error)
}

/// Whether nobody listens there.
fn is_free(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Hosts the broker, if nobody else does. The store is read on another thread, for that may take a while.
async fn host(directory: &Path, deadline: Instant) -> Result<Option<Arc<Hosted>>> {
    let number = {
        let mut all = HOSTED.here().lock();
        // Guards: two of this process that come at once. The second would find the socket of the first before it is known
        // that the host is here, and would not keep it alive.
        if all.contains_key(directory) {
            return Ok(None);
        }
        // Ordering: Relaxed, for a number that is another one each time orders nothing.
        let number = BEGUN.fetch_add(1, Ordering::Relaxed);
        all.insert(directory.to_owned(), Entry { hosted: None, number });
        number
    };
    let (ready, is_ready) = oneshot::channel();
    let to_host = directory.to_owned();
    let thread = crate::home::fork::spawn(std::thread::Builder::new().name("homing-host".to_owned()), move || {
        start(&to_host, number, ready);
    });
    if let Err(error) = thread {
        HOSTED.here().lock().remove(directory);
        let text = format!("the system gave no thread to host the local broker: {error}");
        return Err(Error::with_source(ErrorKind::Connection, text, error));
    }
    match tokio::time::timeout_at(deadline, is_ready).await {
        Ok(Ok(started)) => started.map_err(|error| {
            let text = format!("the local broker cannot be hosted: {error}");
            Error::with_source(ErrorKind::Connection, text, error)
        }),
        Ok(Err(_)) => Err(Error::new(ErrorKind::Connection, "hosting the local broker failed: its thread panicked")),
        Err(_) => Ok(None),
    }
}

/// Starts the broker, on a thread of its own.
fn start(directory: &Path, number: u64, ready: oneshot::Sender<Result<Option<Arc<Hosted>>, StartError>>) {
    /// Whatever happens, nobody waits for a broker that does not come.
    struct Starting<'a>(&'a Path);
    impl Drop for Starting<'_> {
        fn drop(&mut self) {
            let mut all = HOSTED.here().lock();
            if all.get(self.0).is_some_and(|entry| entry.hosted.is_none()) {
                all.remove(self.0);
            }
        }
    }
    let starting = Starting(directory);
    let started = match LocalBroker::host(directory) {
        Ok(Some(broker)) => {
            crate::log::info!(directory = %directory.display(), "this process hosts the local broker");
            let process = std::process::id();
            let broker = Mutex::new(Some(broker));
            let hosted = Arc::new(Hosted { directory: directory.to_owned(), number, process, broker });
            let entry = Entry { hosted: Some(Arc::downgrade(&hosted)), number };
            HOSTED.here().lock().insert(directory.to_owned(), entry);
            Ok(Some(hosted))
        }
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    drop(starting);
    if let Err(Ok(Some(hosted))) = ready.send(started) {
        std::thread::sleep(KEPT);
        drop(hosted);
    }
}

/// Where a local broker has its files.
pub(crate) fn directory(place: &LocalPlace) -> Result<PathBuf> {
    let name = match place {
        LocalPlace::At(path) => return Ok(path.clone()),
        LocalPlace::Named(name) => name,
    };
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| Some(std::env::home_dir().filter(|home| home.is_absolute())?.join(".local/share")));
    let data = data.ok_or_else(|| {
        let text = "neither HOME nor XDG_DATA_HOME is set, so that there is no place for the local broker; give one, as in \
                    local:/tmp/mine";
        Error::new(ErrorKind::InvalidArgument, text)
    })?;
    Ok(data.join("homing").join("local").join(name))
}
