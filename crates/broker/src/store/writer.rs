//! A store on a thread of its own, which commits with one sync whatever waits; and a second thread for upkeep.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Placement;
use super::damage::Damage;
use super::error::{Error, Result};
use super::log::{Log, Sequence};
use super::reader::Reader;
use super::upkeep::{FinishedJob, Job, Occasion};

/// A batch is committed when it is this large, even if more waits.
const BATCH: usize = 4 << 20;
/// When nothing was appended for this long, the store does what is worth doing then.
const IDLE: Duration = Duration::from_secs(1);
/// After an error of the disk, the next attempt is made this long after.
const RETRY: Duration = Duration::from_secs(1);

/// What a [`Writer`] reports.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Everything up to this number is durable.
    Durable(Sequence),
    /// The disk failed. Nothing more becomes durable until [`Event::Resumed`]; what is appended meanwhile waits in memory.
    Stopped(Error),
    /// Writing works again.
    Resumed,
    /// Something is damaged; what that loses is named in it.
    Damaged(Damage),
    /// A checkpoint could not be written, or space not be given back. It is tried again; messages are not affected.
    UpkeepFailed(Error),
    /// What was appended under this number is not valid, and was left out.
    Refused(Sequence, Error),
}

#[derive(Debug)]
enum Operation {
    Put(Copies, Bytes, Bytes),
    Forget(u64),
    Define(Bytes, Bytes),
    Undefine(Bytes),
}

/// Most messages have one copy.
#[derive(Debug)]
enum Copies {
    One(Placement),
    Many(Box<[Placement]>),
}

impl Operation {
    fn weight(&self) -> usize {
        let bytes = match self {
            Self::Put(_, header, body) => header.len() + body.len(),
            Self::Forget(_) => 0,
            Self::Define(key, value) => key.len() + value.len(),
            Self::Undefine(key) => key.len(),
        };
        bytes + size_of::<Self>()
    }
}

#[derive(Debug)]
enum Message {
    Operations(Vec<Operation>),
    JobDone(Box<FinishedJob>),
    /// A job has panicked. There is no upkeep any more until the next start, and nothing else is wrong.
    JobLost,
    Close,
    /// The handle was dropped.
    Abandon,
}

/// A handle to a [`Log`] that runs on a thread of its own.
///
/// What is appended is handed over by [`flush`](Self::flush), and committed as soon as the thread has time: all that waits then
/// goes with one sync. [`Event::Durable`] reports how far that is.
///
/// Dropping a writer without [`close`](Self::close) ends it without a last commit.
#[derive(Debug)]
pub struct Writer {
    sender: Sender<Message>,
    unsent: Vec<Operation>,
    appended: u64,
    backlog: Arc<AtomicUsize>,
    reader: Reader,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Writer {
    /// Starts the threads. `notify` is called on the writing thread: it should hand the event on and return at once.
    ///
    /// # Errors
    /// What the operating system reports when it cannot start a thread.
    pub fn start(log: Log, notify: impl FnMut(Event) + Send + 'static) -> io::Result<Self> {
        let (sender, receiver) = channel();
        let (job_sender, jobs) = channel::<Job>();
        let done = sender.clone();
        let backlog = Arc::new(AtomicUsize::new(0));
        let reader = log.reader();
        Builder::new().name("store-upkeep".into()).spawn(move || {
            for job in jobs {
                let finished = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.run()));
                // Guards: a job that panics, which `close` would wait for.
                let message = finished.map_or(Message::JobLost, |job| Message::JobDone(Box::new(job)));
                if done.send(message).is_err() {
                    return;
                }
            }
        })?;
        let thread = Thread {
            log,
            receiver,
            jobs: job_sender,
            waiting: VecDeque::new(),
            taken: 0,
            backlog: Arc::clone(&backlog),
            notify,
            job_is_running: false,
            next_upkeep: Instant::now(),
            is_closing: false,
            is_abandoned: false,
            is_settled: false,
            unfinished: 0,
            next_attempt: Instant::now(),
        };
        let thread = Builder::new().name("store".into()).spawn(move || thread.run())?;
        Ok(Self { sender, unsent: Vec::new(), appended: 0, backlog, reader, thread: Some(thread) })
    }

    /// Appends a message, as [`Log::put`].
    pub fn put(&mut self, copies: &[Placement], header: Bytes, body: Bytes) -> Sequence {
        let copies = match copies {
            [one] => Copies::One(*one),
            many => Copies::Many(many.into()),
        };
        self.append(Operation::Put(copies, header, body))
    }

    /// Appends that a copy is not needed any more, as [`Log::forget`].
    pub fn forget(&mut self, copy: u64) -> Sequence {
        self.append(Operation::Forget(copy))
    }

    /// Appends a definition, as [`Log::define`].
    pub fn define(&mut self, key: Bytes, value: Bytes) -> Sequence {
        self.append(Operation::Define(key, value))
    }

    /// Appends that a definition is removed, as [`Log::undefine`].
    pub fn undefine(&mut self, key: Bytes) -> Sequence {
        self.append(Operation::Undefine(key))
    }

    fn append(&mut self, operation: Operation) -> Sequence {
        self.unsent.push(operation);
        self.appended += 1;
        Sequence(self.appended)
    }

    /// Hands over what was appended. Everything between two calls is one atomic whole on the disk.
    pub fn flush(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        let operations = std::mem::take(&mut self.unsent);
        let weight = operations.iter().map(Operation::weight).sum();
        // Ordering: a figure, that nothing depends on.
        self.backlog.fetch_add(weight, Ordering::Relaxed);
        // The thread is gone only after a panic in `notify`; then nothing becomes durable, and nothing is confirmed.
        let _ = self.sender.send(Message::Operations(operations));
    }

    /// Bytes that were handed over and are not durable yet, about. A caller that accepts messages faster than the disk takes them
    /// bounds its memory by this.
    #[must_use]
    pub fn backlog(&self) -> usize {
        // Ordering: a figure, that nothing depends on.
        self.backlog.load(Ordering::Relaxed)
    }

    /// A handle that reads messages from every thread, after they are durable.
    #[must_use]
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Commits everything, writes a checkpoint, and ends the threads. Blocks until then.
    ///
    /// # Errors
    /// As [`Log::close`]; then some of what was appended may not be durable, as the events have shown.
    pub fn close(mut self) -> Result<()> {
        self.flush();
        let _ = self.sender.send(Message::Close);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After `close` nobody is there to receive it.
        let _ = self.sender.send(Message::Abandon);
    }
}

struct Thread<N> {
    log: Log,
    receiver: Receiver<Message>,
    jobs: Sender<Job>,
    /// Handed over, and not in the log's batch: what belongs together is appended together.
    waiting: VecDeque<Vec<Operation>>,
    /// The number of the last operation that the log was given.
    taken: u64,
    backlog: Arc<AtomicUsize>,
    notify: N,
    job_is_running: bool,
    next_upkeep: Instant,
    is_closing: bool,
    is_abandoned: bool,
    /// Nothing is left to be done until something comes.
    is_settled: bool,
    /// Weight of the batch that could not be committed.
    unfinished: usize,
    next_attempt: Instant,
}

impl<N: FnMut(Event)> Thread<N> {
    fn run(mut self) -> Result<()> {
        loop {
            let is_idle = !self.receive();
            if self.is_abandoned {
                return Ok(());
            }
            if self.log.stopped().is_some() {
                self.resume();
                if self.is_closing && self.log.stopped().is_some() {
                    return self.log.close();
                }
                continue;
            }
            let is_ended = self.is_closing && self.waiting.is_empty();
            let weight = self.fill();
            self.commit(weight);
            // Guards: a disk that is full of what was forgotten. Room is made above before the last batch is given up.
            if is_ended && self.log.stopped().is_none() {
                break;
            }
            self.upkeep(if is_idle { Occasion::Idle } else { Occasion::Busy });
            self.is_settled = is_idle && !self.job_is_running && Instant::now() >= self.next_upkeep;
        }
        while self.job_is_running {
            match self.receiver.recv() {
                Ok(message) => self.take(message),
                Err(_) => break,
            }
        }
        self.log.close()
    }

    /// Takes what was handed over; waits for something if there is nothing. Returns false if nothing came for some time.
    fn receive(&mut self) -> bool {
        let is_stopped = self.log.stopped().is_some();
        if (is_stopped || self.waiting.is_empty()) && !self.is_closing {
            let wait = match (is_stopped, self.is_settled) {
                (true, _) => self.next_attempt.saturating_duration_since(Instant::now()),
                (false, false) => IDLE,
                // An idle store does not wake up.
                (false, true) => Duration::MAX,
            };
            match self.receiver.recv_timeout(wait) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => self.is_abandoned = true,
            }
        }
        while let Ok(message) = self.receiver.try_recv() {
            self.take(message);
        }
        true
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Operations(operations) => self.waiting.push_back(operations),
            Message::JobLost => self.job_is_running = false,
            Message::Close => self.is_closing = true,
            Message::Abandon => self.is_abandoned = true,
            Message::JobDone(job) => {
                self.job_is_running = false;
                match self.log.finish_job(*job) {
                    Ok(damages) => damages.into_iter().for_each(|damage| (self.notify)(Event::Damaged(damage))),
                    Err(error) => {
                        self.next_upkeep = Instant::now() + RETRY;
                        (self.notify)(Event::UpkeepFailed(error));
                    }
                }
            }
        }
    }

    /// Moves what waits into the log's batch; returns its weight.
    fn fill(&mut self) -> usize {
        let mut weight = 0;
        while self.log.pending_bytes() < BATCH {
            let Some(operations) = self.waiting.pop_front() else { break };
            for operation in operations {
                weight += operation.weight();
                self.taken += 1;
                if let Err(error) = self.append(&operation) {
                    (self.notify)(Event::Refused(Sequence(self.taken), error));
                }
            }
        }
        weight
    }

    fn append(&mut self, operation: &Operation) -> Result<Sequence> {
        match operation {
            Operation::Put(Copies::One(copy), header, body) => self.log.put(std::slice::from_ref(copy), header, body),
            Operation::Put(Copies::Many(copies), header, body) => self.log.put(copies, header, body),
            Operation::Forget(copy) => self.log.forget(*copy),
            Operation::Define(key, value) => self.log.define(key, value),
            Operation::Undefine(key) => self.log.undefine(key),
        }
    }

    fn commit(&mut self, weight: usize) {
        let has_something = weight > 0;
        match self.log.commit() {
            Ok(_) if has_something => self.durable(weight),
            Ok(_) => {}
            Err(error) => {
                self.unfinished = weight;
                self.next_attempt = Instant::now() + RETRY;
                (self.notify)(Event::Stopped(error));
            }
        }
    }

    fn durable(&mut self, weight: usize) {
        // Ordering: a figure, that nothing depends on.
        self.backlog.fetch_sub(weight, Ordering::Relaxed);
        (self.notify)(Event::Durable(Sequence(self.taken)));
    }

    fn resume(&mut self) {
        if Instant::now() < self.next_attempt && !self.is_closing {
            return;
        }
        self.next_attempt = Instant::now() + RETRY;
        if self.log.resume().is_ok() {
            let weight = std::mem::take(&mut self.unfinished);
            (self.notify)(Event::Resumed);
            self.durable(weight);
        }
    }

    fn upkeep(&mut self, occasion: Occasion) {
        if self.job_is_running || Instant::now() < self.next_upkeep {
            return;
        }
        if let Some(job) = self.log.next_job(occasion) {
            self.job_is_running = self.jobs.send(job).is_ok();
        }
    }
}
