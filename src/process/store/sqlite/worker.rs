//! The threads of a store: one that writes, and one that reads. Each has a connection of its own, and does what comes over its
//! channel.
//!
//! The writer takes all that waits into one transaction, so that many processes that save at once share one wait for the
//! disk. If that transaction fails, each piece of work is done again in one of its own, so that one that cannot be stored
//! harms no other.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as blocking;
use std::thread;
use std::time::Duration;

use crate::home::lock::Mutex;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::errors::{self, BusyLimit, Fault, explain_fault};
use crate::error::{Error, ErrorKind, Result};

/// How many pieces of work wait for a thread, at most. Whoever comes then waits.
const QUEUE: usize = 1024;

/// How many pieces of work are done in one transaction, at most.
const GROUP: usize = 1024;

/// How long a connection has to be closed, until nobody waits for that any more.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Both threads decode values, which may be nested 200 deep.
const STACK: usize = 8 << 20;

/// A piece of work on a connection. Done again when the transaction that it was done in has failed.
pub(super) trait Job: Send {
    /// True if nobody waits for it any more, so that it need not be done.
    fn is_cancelled(&self) -> bool;

    /// Does it. What it refuses it refuses before it writes anything.
    fn run(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()>;

    /// Answers whoever waits, after the transaction has been committed.
    fn done(self: Box<Self>);

    /// Answers whoever waits that it was not done.
    fn failed(self: Box<Self>, error: Error);
}

/// A piece of work whose answer goes to a future.
struct Call<T, A, F, H> {
    work: F,
    /// What it came to, when it was last done.
    result: Option<Result<T>>,
    /// Makes the answer, once it is certain.
    hand_over: H,
    reply: oneshot::Sender<Result<A>>,
}

impl<T, A, F, H> Job for Call<T, A, F, H>
where
    T: Send,
    A: Send,
    F: FnMut(&Transaction<'_>) -> Result<T, Fault> + Send,
    H: FnOnce(T) -> A + Send,
{
    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }

    fn run(&mut self, transaction: &Transaction<'_>) -> rusqlite::Result<()> {
        self.result = Some(match (self.work)(transaction) {
            Ok(value) => Ok(value),
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Sqlite(error)) => return Err(error),
        });
        Ok(())
    }

    fn done(self: Box<Self>) {
        if let Some(result) = self.result {
            // A receiver that is gone drops the answer, which gives back what it holds.
            let _ = self.reply.send(result.map(self.hand_over));
        }
    }

    fn failed(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
    }
}

/// Something to be done in between, for which nobody waits.
pub(super) type Chore = Arc<dyn Fn(&Transaction<'_>) -> rusqlite::Result<()> + Send + Sync>;

enum Message {
    Job(Box<dyn Job>),
    /// There is a chore.
    Wake,
}

/// What is to be done in between, and has to be done.
type Chores = Arc<Mutex<Vec<Chore>>>;

/// The way to a thread. The thread ends when all of them are gone.
#[derive(Clone)]
pub(super) struct Channel {
    sender: mpsc::Sender<Message>,
    chores: Chores,
}

impl Channel {
    /// Has work done, and waits for what comes of it.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnMut(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        self.call_and_hand_over(work, |value| value).await
    }

    /// The same with an answer that is made of it after the transaction has been committed.
    pub(super) async fn call_and_hand_over<T: Send + 'static, A: Send + 'static>(
        &self,
        work: impl FnMut(&Transaction<'_>) -> Result<T, Fault> + Send + 'static,
        hand_over: impl FnOnce(T) -> A + Send + 'static,
    ) -> Result<A> {
        let (reply, answer) = oneshot::channel();
        let job = Message::Job(Box::new(Call { work, result: None, hand_over, reply }));
        self.sender.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Has something done in between. Never waits, and is never refused.
    pub(super) fn add_chore(&self, chore: Chore) {
        self.chores.lock().push(chore);
        // A channel that is full has messages, after which the thread comes to its chores.
        let _ = self.sender.try_send(Message::Wake);
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Internal, "the thread of the store has ended; open the store again")
}

/// What a thread does with its work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Write,
}

/// Where the connection leads to.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) busy: BusyLimit,
    /// True when a part of the file was found to be damaged, until the whole of it is known to be sound.
    pub(super) is_damaged: Arc<AtomicBool>,
}

impl Place {
    pub(super) fn explain(&self, fault: Fault) -> Error {
        if let Fault::Sqlite(error) = &fault
            && error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
        {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        explain_fault(&self.path, self.busy, fault)
    }
}

/// A thread. Dropped, it waits until the connection is closed, if this is the last channel to it.
pub(super) struct Thread {
    // Dropped first, so that the thread ends.
    pub(super) channel: Channel,
    _closed: Closed,
}

/// Waits, when it is dropped, until a thread has closed its connection.
///
/// Guards: a program that ends as soon as it has dropped its store, with a log beside the file that nobody moves into it.
struct Closed(Mutex<blocking::Receiver<Infallible>>);

impl Drop for Closed {
    fn drop(&mut self) {
        // Its sender is gone with the connection; nothing is ever sent.
        let _ = self.0.get_mut().recv_timeout(CLOSE_TIME);
    }
}

/// Starts a thread that makes a connection and then does what comes. Waits until the connection is made. The thread `last`
/// ends after it.
///
/// # Errors
/// Those of making the connection; `Internal` if there is no thread.
pub(super) async fn start(
    mode: Mode,
    place: Place,
    last: Option<Channel>,
    connect: impl FnOnce(&Place) -> Result<Connection, Fault> + Send + 'static,
) -> Result<Thread> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (closes, closed) = blocking::channel::<Infallible>();
    let (reply, answer) = oneshot::channel();
    let chores = Chores::default();
    let kept = Arc::clone(&chores);
    let name = if mode == Mode::Write { "homing store writer" } else { "homing store reader" };
    let run = move || {
        match connect(&place) {
            Ok(connection) => {
                // Before anybody knows that it is open, and may move it. One that reads beside a writer goes on with what there is.
                let file = if mode == Mode::Write || last.is_none() { file_at(&place.path) } else { None };
                let _ = reply.send(Ok(()));
                Worker { mode, place, file, connection, chores: kept, _last: last }.run(receiver);
            }
            Err(fault) => {
                let _ = reply.send(Err(place.explain(fault)));
            }
        }
        drop(closes);
    };
    let thread = crate::home::fork::spawn(thread::Builder::new().name(name.to_owned()).stack_size(STACK), run);
    thread.map_err(|error| {
        Error::with_source(ErrorKind::Internal, "the store cannot be opened: the system gives no thread", error)
    })?;
    answer.await.map_err(|_| ended())??;
    Ok(Thread { channel: Channel { sender, chores }, _closed: Closed(Mutex::new(closed)) })
}

/// Which file there is, as long as the system runs. `None` where there is none, or the system does not tell.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}

struct Worker {
    mode: Mode,
    place: Place,
    /// The file that was opened, where it matters whether it is still there.
    file: Option<(u64, u64)>,
    connection: Connection,
    chores: Chores,
    /// Of a thread that ends after this one has closed its connection.
    _last: Option<Channel>,
}

impl Worker {
    fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        let mut messages = Vec::new();
        while receiver.blocking_recv_many(&mut messages, GROUP) > 0 {
            self.do_chores();
            let jobs = messages.drain(..).filter_map(|message| match message {
                Message::Job(job) if !job.is_cancelled() => Some(job),
                _ => None,
            });
            let jobs: Vec<_> = jobs.collect();
            // Guards: what is stored in a file that nobody can find any more.
            if self.file.is_some() && file_at(&self.place.path) != self.file {
                let error = errors::is_gone(&self.place.path);
                jobs.into_iter().for_each(|job| job.failed(error.clone()));
                continue;
            }
            match self.mode {
                Mode::Write => self.do_together(jobs),
                Mode::Read => self.do_each(jobs),
            }
        }
        self.do_chores();
    }

    /// Those that fail stay for the next time.
    fn do_chores(&mut self) {
        let chores = std::mem::take(&mut *self.chores.lock());
        if chores.is_empty() {
            return;
        }
        let done = self.begin().and_then(|transaction| {
            chores.iter().try_for_each(|chore| chore(&transaction))?;
            transaction.commit()
        });
        if let Err(error) = done {
            crate::log::debug!(%error, "a lease that nobody waits for could not be given back yet");
            self.chores.lock().extend(chores);
        }
    }

    fn begin(&mut self) -> rusqlite::Result<Transaction<'_>> {
        self.connection.transaction_with_behavior(match self.mode {
            Mode::Write => TransactionBehavior::Immediate,
            Mode::Read => TransactionBehavior::Deferred,
        })
    }

    fn do_together(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        if jobs.len() > 1 {
            let place = self.place.clone();
            let done = match self.begin() {
                Ok(transaction) => {
                    let run = jobs.iter_mut().try_for_each(|job| job.run(&transaction));
                    run.and_then(|()| transaction.commit())
                }
                // No transaction: not for each of them either.
                Err(error) => {
                    let error = place.explain(Fault::Sqlite(error));
                    return jobs.into_iter().for_each(|job| job.failed(error.clone()));
                }
            };
            match done {
                Ok(()) => return jobs.into_iter().for_each(Job::done),
                Err(error) => {
                    crate::log::debug!(%error, jobs = jobs.len(), "a transaction has failed; one for each follows");
                }
            }
        }
        self.do_each(jobs);
    }

    fn do_each(&mut self, jobs: Vec<Box<dyn Job>>) {
        let mut jobs = jobs.into_iter();
        while let Some(job) = jobs.next() {
            if let Err(error) = self.do_alone(job) {
                // Guards: a file that is locked, for which each of them would wait as long as this one has.
                return jobs.for_each(|job| job.failed(error.clone()));
            }
        }
    }

    /// Does a piece of work in a transaction of its own, and answers for it.
    ///
    /// # Errors
    /// When there is no transaction, for which there would be none for the next piece of work either.
    fn do_alone(&mut self, mut job: Box<dyn Job>) -> Result<()> {
        let place = self.place.clone();
        match self.begin() {
            Ok(transaction) => match job.run(&transaction).and_then(|()| transaction.commit()) {
                Ok(()) => job.done(),
                Err(error) => job.failed(place.explain(Fault::Sqlite(error))),
            },
            Err(error) => {
                let error = place.explain(Fault::Sqlite(error));
                job.failed(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }
}
