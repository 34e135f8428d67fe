//! A store in one SQLite file.

mod errors;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod work;
mod worker;

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::home::lock::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction};

use self::errors::{BusyLimit, Fault};
use self::rows::Columns;
use self::work::NewTexts;
use self::worker::{Channel, Mode, Place, Thread};
use super::super::Pid;
use super::lease::Overdue;
use super::text::{check_class, check_outcome, encode_inputs};
use super::{
    Checkpoint, Claim, Clock, LEASE_TIME, LeaseId, ListFilter, Listing, LogLine, LogPage, NewProcess, Owner, Persister,
    Record, Saved, Stored,
};
use crate::error::{Error, ErrorKind, Result};

/// Keeps processes in one SQLite file, which several workers on one machine may use at once. Its pids are integers.
///
/// What has been stored is there after a crash of the program, of the system and of the power: each transaction is on the
/// disk before anybody is answered. Many processes that save at once share one.
///
/// A file that is locked, or cannot be written for another reason, takes nobody's lease away: until it can be written again,
/// nobody can take one. What is to be stored meanwhile fails, and [workers](super::super::ProcessWorker) try it again. A file
/// that is removed or replaced while it is open is an error too, for what would be stored in it is for nobody.
///
/// The file is created with rights for its owner alone, for it has what processes are made with and what they put out.
/// Beside it SQLite keeps two more, with `-wal` and `-shm` at the end of their names; all three belong together. The file has
/// to be on a file system of this machine: workers on several machines cannot share one.
///
/// Clones share the connections, which are closed when the last of them is dropped: this waits for it, a moment as a rule and two
/// seconds at most. If no other program has the file open, the two beside it are gone then.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> homing::Result<()> {
/// use homing::process::store::{Claim, NewProcess, Owner, Persister, Saved, SqlitePersister};
///
/// # let directory = std::env::temp_dir().join(format!("homing-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory).unwrap();
/// let store = SqlitePersister::open(directory.join("processes.db")).await?;
/// let pid = store.create(NewProcess::new("relax", 5)).await?;
/// let claim = store.claim(pid, Owner::this_process()).await?;
/// let Claim::Granted { lease, checkpoint, .. } = claim else { panic!("held") };
/// assert_eq!(store.save(lease, checkpoint.with_step(1)).await?, Saved::Stored);
/// # drop(store); std::fs::remove_dir_all(directory).unwrap();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct SqlitePersister(Arc<Inner>);

struct Inner {
    path: PathBuf,
    // Dropped before the writer, whose thread ends after this one.
    reader: Thread,
    /// None for a store that is only read.
    writer: Option<Thread>,
    /// True when a part of the file was found to be damaged.
    is_damaged: Arc<AtomicBool>,
    lease_time: Duration,
    overdue: Arc<Mutex<Overdue>>,
    clock: Clock,
}

/// How a store is opened. Made by [`SqlitePersister::builder`].
#[derive(Clone)]
#[must_use = "opens nothing until `open` is awaited"]
pub struct SqliteBuilder {
    path: PathBuf,
    lease_time: Duration,
    busy: Duration,
    access: Access,
    clock: Clock,
    steps: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Create,
    Existing,
    ReadOnly,
}

impl SqliteBuilder {
    /// How long a lease is good unless it is renewed: at least 100 ms, at most 30 years. Default [`LEASE_TIME`]; the same for all
    /// workers on a file.
    pub fn lease_time(mut self, time: Duration) -> Self {
        self.lease_time = super::lease_time(time);
        self
    }

    /// How long is waited for another program that has locked the file; longer times than 24 days are 24 days. Default 10 seconds.
    pub fn busy_timeout(mut self, time: Duration) -> Self {
        // SQLite counts the milliseconds in 31 bits.
        self.busy = time.min(Duration::from_secs(24 * 24 * 60 * 60));
        self
    }

    /// Opens a file that is there, and creates none.
    pub fn existing(mut self) -> Self {
        self.access = Access::Existing;
        self
    }

    /// Opens a file that is there, for reading alone: what would write is refused.
    pub fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }

    #[cfg(test)]
    pub(super) fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store. An older version of it is brought to the newest.
    ///
    /// # Errors
    /// `NotFound` if there is no file and none may be created; `TimedOut` if another program has locked it; `Storage` if it is
    /// damaged, is no store, was written by a newer homing, or cannot be read or written.
    ///
    /// # Cancel safety
    /// Dropped, the store is closed again; a file that was made stays.
    pub async fn open(self) -> Result<SqlitePersister> {
        let is_damaged = Arc::<AtomicBool>::default();
        let place = Place { path: self.path.clone(), busy: BusyLimit(self.busy), is_damaged: Arc::clone(&is_damaged) };
        let writer = match self.access {
            Access::ReadOnly => None,
            access => {
                let steps = self.steps;
                let connect = move |place: &Place| connect_writer(place, access, steps);
                Some(worker::start(Mode::Write, place.clone(), None, connect).await?)
            }
        };
        let steps = self.steps;
        // The writer's connection is closed last: one that only reads cannot move the log into the file and remove it.
        let closes_last = writer.is_none();
        let connect = move |place: &Place| connect_reader(place, steps, closes_last);
        let last = writer.as_ref().map(|writer| writer.channel.clone());
        let reader = worker::start(Mode::Read, place, last, connect).await?;
        Ok(SqlitePersister(Arc::new(Inner {
            path: self.path,
            writer,
            reader,
            is_damaged,
            lease_time: self.lease_time,
            overdue: Arc::default(),
            clock: self.clock,
        })))
    }
}

impl fmt::Debug for SqliteBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBuilder").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Makes an empty file for its owner alone. SQLite gives the same rights to the files beside it.
fn make_file(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// That a file is there, or may be.
fn check_file(path: &Path, access: Access) -> Result<()> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{shown} is a directory; give a file in it for the store"),
        )),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && access == Access::Create => {
            make_file(path).map_err(|error| {
                let text = format!(
                    "the store {shown} cannot be created: {error}; is its directory there, and may this user write it?"
                );
                Error::with_source(ErrorKind::Storage, text, error)
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::NotFound,
            format!("there is no store {shown}; a worker creates one, or give another file"),
        )),
        Err(error) => {
            let text = format!("the store {shown} cannot be opened: {error}");
            Err(Error::with_source(ErrorKind::Storage, text, error))
        }
    }
}

/// A connection with what each of them needs.
fn connect(place: &Place, flags: OpenFlags) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(&place.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(place.busy.0)?;
    connection.set_prepared_statement_cache_capacity(64);
    // Names in the file's tables can call no function that this program has.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

fn connect_writer(place: &Place, access: Access, steps: &[&str]) -> Result<Connection, Fault> {
    check_file(&place.path, access)?;
    let mut connection = connect(place, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(errors::read_only(&place.path).into());
    }
    // A file that is refused is left as it is: closed, this connection moves nothing into it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    schema::inspect(&place.path, &connection, steps)?;
    use_wal(place, &connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // A log that has grown large once gives its room back.
    connection.pragma_update(None, "journal_size_limit", 64_i64 << 20)?;
    schema::migrate(&place.path, &mut connection, steps)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(connection)
}

/// Turns on write-ahead logging, with which readers and a writer do not wait for each other.
fn use_wal(place: &Place, connection: &Connection) -> Result<(), Fault> {
    let deadline = Instant::now() + place.busy.0;
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)) {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                let text = format!(
                    "the store {} cannot be used: its file system has no write-ahead log (SQLite's mode is {mode}); put it on a disk of this machine",
                    place.path.display()
                );
                return Err(Error::new(ErrorKind::Storage, text).into());
            }
            // Guards: another program that turns it on at the same time. SQLite does not wait for that by itself.
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connection that only reads. If it may be the last one to be closed, it is one that could write: SQLite leaves the files
/// beside the store behind otherwise. (Where this user may not write the file, SQLite opens it for reading.)
fn connect_reader(place: &Place, steps: &[&str], closes_last: bool) -> Result<Connection, Fault> {
    check_file(&place.path, Access::ReadOnly)?;
    let flags = if closes_last { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    let connection = connect(place, flags)?;
    connection.pragma_update(None, "query_only", true)?;
    // A file that is refused is left as it is.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    match schema::inspect(&place.path, &connection, steps)? {
        schema::Found::Store(version) if version == steps.len() => {
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
            Ok(connection)
        }
        found => {
            let shown = place.path.display();
            let text = match found {
                schema::Found::Nothing => {
                    format!("the store {shown} is empty; a worker that opens it makes its tables")
                }
                schema::Found::Store(version) => format!(
                    "the store {shown} has version {version}, which is older than what this homing reads, {}; a worker that opens it brings it up to date",
                    steps.len()
                ),
            };
            Err(Error::new(ErrorKind::Storage, text).into())
        }
    }
}

impl SqlitePersister {
    /// Opens the store in this file, and creates it if it is not there. The same as `SqlitePersister::builder(path).open()`.
    ///
    /// # Errors
    /// Those of [`SqliteBuilder::open`].
    ///
    /// # Cancel safety
    /// As [`SqliteBuilder::open`].
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::builder(path).open().await
    }

    /// Sets how the store in this file is opened.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteBuilder {
        SqliteBuilder {
            path: path.into(),
            lease_time: LEASE_TIME,
            busy: Duration::from_secs(10),
            access: Access::Create,
            clock: Clock::System,
            steps: schema::STEPS,
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    fn writer(&self) -> Result<&Channel> {
        self.0.writer.as_ref().map(|writer| &writer.channel).ok_or_else(|| {
            let text = format!("the store {} was opened for reading alone", self.0.path.display());
            Error::new(ErrorKind::InvalidState, text)
        })
    }
}

/// A lease on its way to whoever asked for it. If they have gone, it is given back.
struct Handed {
    claim: Option<Claim>,
    writer: Channel,
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(Claim::Granted { lease, .. }) = self.claim.take() {
            self.writer.add_chore(Arc::new(move |transaction| work::release(transaction, &lease)));
        }
    }
}

impl Persister for SqlitePersister {
    fn lease_time(&self) -> Duration {
        self.0.lease_time
    }

    fn create(&self, new: NewProcess) -> Stored<'_, Pid> {
        Box::pin(async move {
            check_class(&new.class)?;
            let checkpoint = Checkpoint::new(new.class.clone(), new.body.clone(), SystemTime::UNIX_EPOCH);
            let columns = Columns::of(&checkpoint)?;
            let (args, kwargs) = encode_inputs(&new.inputs)?;
            let mut texts = NewTexts { new, columns, args, kwargs };
            let clock = self.0.clock.clone();
            self.writer()?.call(move |transaction| work::create(transaction, &mut texts, clock.now())).await
        })
    }

    fn claim(&self, pid: Pid, owner: Owner) -> Stored<'_, Claim> {
        Box::pin(async move {
            let writer = self.writer()?;
            let (clock, time, back) = (self.0.clock.clone(), self.0.lease_time, writer.clone());
            let overdue = Arc::clone(&self.0.overdue);
            let mut handed = writer
                .call_and_hand_over(
                    move |transaction| work::claim(transaction, &pid, &owner, &overdue, clock.now(), time),
                    // Not before the commit.
                    // Guards: a claim that is done again, whose first answer would give the lease of the second back.
                    move |claim| Handed { claim: Some(claim), writer: back },
                )
                .await?;
            handed.claim.take().ok_or_else(|| Error::new(ErrorKind::Internal, "a claim has come to nothing"))
        })
    }

    fn save(&self, lease: LeaseId, checkpoint: Checkpoint) -> Stored<'_, Saved> {
        Box::pin(async move {
            check_outcome(&checkpoint)?;
            let columns = Columns::of(&checkpoint)?;
            self.writer()?.call(move |transaction| work::save(transaction, &lease, &columns)).await
        })
    }

    fn renew(&self, owner: Owner) -> Stored<'_, Vec<LeaseId>> {
        Box::pin(async move {
            let (clock, time, of) = (self.0.clock.clone(), self.0.lease_time, owner.clone());
            let renewed =
                self.writer()?.call(move |transaction| work::renew(transaction, &of, clock.now(), time)).await;
            match renewed {
                Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::Storage) => {
                    // As long as nobody can write, nobody takes a lease either: those stand that nobody has taken.
                    crate::log::debug!(%error, "leases cannot be renewed");
                    self.0.reader.channel.call(move |transaction| work::standing(transaction, &owner)).await
                }
                renewed => renewed,
            }
        })
    }

    /// Writes the row of the owner, in which a lease's time is. Where damage was found, it reads the whole file: what is stored
    /// in a damaged one may be lost.
    fn check(&self, owner: Owner) -> Stored<'_, ()> {
        Box::pin(async move {
            let (clock, time) = (self.0.clock.clone(), self.0.lease_time);
            let is_damaged = Arc::clone(&self.0.is_damaged);
            let check = move |transaction: &Transaction<'_>| {
                if is_damaged.load(Ordering::Relaxed) {
                    work::check_soundness(transaction)?;
                    is_damaged.store(false, Ordering::Relaxed);
                }
                work::check(transaction, &owner, clock.now(), time)
            };
            self.writer()?.call(check).await
        })
    }

    fn release(&self, lease: LeaseId) -> Stored<'_, ()> {
        Box::pin(async move { self.writer()?.call(move |transaction| Ok(work::release(transaction, &lease)?)).await })
    }

    fn record(&self, pid: Pid) -> Stored<'_, Option<Record>> {
        Box::pin(self.0.reader.channel.call(move |transaction| work::record(transaction, &pid)))
    }

    fn list(&self, filter: ListFilter) -> Stored<'_, Listing> {
        Box::pin(self.0.reader.channel.call(move |transaction| work::list(transaction, &filter)))
    }

    fn append_log(&self, lease: LeaseId, lines: Vec<LogLine>) -> Stored<'_, Saved> {
        Box::pin(
            async move { self.writer()?.call(move |transaction| work::append_log(transaction, &lease, &lines)).await },
        )
    }

    fn log(&self, pid: Pid, from: u64, limit: usize) -> Stored<'_, LogPage> {
        Box::pin(self.0.reader.channel.call(move |transaction| work::log(transaction, &pid, from, limit)))
    }

    fn delete(&self, pid: Pid) -> Stored<'_, bool> {
        Box::pin(async move {
            let clock = self.0.clock.clone();
            self.writer()?.call(move |transaction| work::delete(transaction, &pid, clock.now())).await
        })
    }
}

impl fmt::Debug for SqlitePersister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlitePersister").field("path", &self.0.path).finish_non_exhaustive()
    }
}
