//! The journal of a virtual host whose store is on a disk.

use super::definition;
use super::record::{Clock, Record};
use super::shelf::Shelf;
use crate::engine::{CopyId, Definition, Effect, Message};
use crate::server::content::Content;
use crate::server::journal::{Journal, Mark, Progress};
use crate::store::{Event, Placement, Sequence, Writer};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// With so many bytes handed over and not written, publishers are stopped; below half of it they go on.
const BACKLOG: usize = 128 << 20;

pub(super) struct DiskJournal {
    /// `None` once it is closed.
    writer: Option<Writer>,
    events: UnboundedReceiver<Event>,
    shelf: Rc<Shelf>,
    /// By what messages on the disk name their queue. No number is given twice while a message has it.
    numbers: HashMap<Arc<str>, u64>,
    next_number: u64,
    /// A message whose last copy may not have come yet: those of one publish follow each other.
    pending: Option<Pending>,
    /// How much was recorded.
    recorded: Mark,
    submitted: VecDeque<Submitted>,
    /// What was appended last, and is not submitted.
    appended: Option<Sequence>,
    /// The last copy that was appended.
    last_copy: CopyId,
    /// Why the store does not write, until it does again.
    stopped: Option<String>,
    is_behind: bool,
    /// What is to be reported before what the store reports next.
    reports: VecDeque<Progress>,
    waker: Option<Waker>,
}

/// When the store has come to this number, all up to the mark is safe, and so is every copy up to this one.
struct Submitted {
    sequence: Sequence,
    mark: Mark,
    copy: CopyId,
}

struct Pending {
    message: Content,
    expires: Option<Instant>,
    copies: Vec<Placement>,
}

impl DiskJournal {
    pub(super) fn new(
        writer: Writer,
        events: UnboundedReceiver<Event>,
        shelf: Rc<Shelf>,
        numbers: HashMap<Arc<str>, u64>,
        next_number: u64,
    ) -> Self {
        Self {
            writer: Some(writer),
            events,
            shelf,
            numbers,
            next_number,
            pending: None,
            recorded: Mark(0),
            submitted: VecDeque::new(),
            appended: None,
            last_copy: CopyId(0),
            stopped: None,
            is_behind: false,
            reports: VecDeque::new(),
            waker: None,
        }
    }

    /// Forgets what is on the disk and belongs to nothing.
    pub(super) fn forget(&mut self, copies: &[u64]) {
        if let Some(writer) = &mut self.writer {
            for copy in copies {
                writer.forget(*copy);
            }
            writer.flush();
        }
    }

    fn store(&mut self, copy: CopyId, queue: &Arc<str>, expires: Option<Instant>, message: Content) {
        let Some(number) = self.numbers.get(queue).copied() else {
            // Guards: a confirm that would never come. It cannot be, for a queue is defined before it has messages.
            return self.report(Progress::Failed(format!("the queue {queue} is not known to the store")));
        };
        let placement = Placement { copy: copy.0, queue: number };
        match &mut self.pending {
            Some(pending) if pending.message.is_same(&message) && pending.expires == expires => {
                pending.copies.push(placement);
            }
            _ => {
                self.put_pending();
                self.pending = Some(Pending { message, expires, copies: vec![placement] });
            }
        }
    }

    fn put_pending(&mut self) {
        let (Some(Pending { message, expires, copies }), Some(writer)) = (self.pending.take(), &mut self.writer) else {
            return;
        };
        let record = Record::new(message.exchange(), message.routing_key(), message.bcc(), message.header())
            .expiring(expires, &Clock::new(Instant::now()));
        self.appended = Some(writer.put(&copies, Bytes::from(record.write()), message.body_bytes()));
        if let Some(last) = copies.last() {
            self.last_copy = CopyId(last.copy);
        }
    }

    fn define(&mut self, definition: &Definition) {
        let mut number = 0;
        if let Definition::Queue(spec) = definition {
            number = match self.numbers.get(&spec.name) {
                Some(known) => *known,
                None => self.next_number,
            };
            self.next_number = self.next_number.max(number + 1);
            self.numbers.insert(Arc::clone(&spec.name), number);
        }
        let (key, value) = (definition::key(definition), definition::value(definition, number));
        if let Some(writer) = &mut self.writer {
            self.appended = Some(writer.define(key.into(), value.into()));
        }
    }

    fn undefine(&mut self, definition: &Definition) {
        if let Definition::Queue(spec) = definition {
            self.numbers.remove(&spec.name);
        }
        if let Some(writer) = &mut self.writer {
            self.appended = Some(writer.undefine(definition::key(definition).into()));
        }
    }

    fn report(&mut self, progress: Progress) {
        self.reports.push_back(progress);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn backlog(&self) -> usize {
        self.writer.as_ref().map_or(0, Writer::backlog)
    }

    /// What an event of the store means for the server.
    fn understand(&mut self, event: Event) {
        match event {
            Event::Durable(sequence) => {
                let safe = self.submitted.iter().take_while(|submitted| submitted.sequence <= sequence).count();
                let last = self.submitted.drain(..safe).next_back();
                if let Some(Submitted { mark, copy, .. }) = last {
                    self.shelf.is_durable(copy);
                    self.report(Progress::Durable(mark));
                }
                if self.is_behind && self.backlog() < BACKLOG / 2 {
                    self.is_behind = false;
                    if self.stopped.is_none() {
                        self.report(Progress::Unblocked);
                    }
                }
            }
            Event::Stopped(error) => {
                self.stopped = Some(error.to_string());
                self.report(Progress::Blocked(error.to_string()));
            }
            Event::Resumed => {
                self.stopped = None;
                if !self.is_behind {
                    self.report(Progress::Unblocked);
                }
            }
            Event::Damaged(damage) => tracing::error!(%damage, "the broker's store is damaged"),
            Event::UpkeepFailed(error) => {
                tracing::warn!(%error, "the broker's store could not be tidied; it is tried again");
            }
            Event::Refused(_, error) => self.report(Progress::Failed(error.to_string())),
        }
    }
}

impl Journal for DiskJournal {
    fn record(&mut self, effect: Effect<Content>) -> Mark {
        self.recorded.0 += 1;
        if let Effect::Store { copy, queue, expires, message } = effect {
            self.store(copy, &queue, expires, message);
            return self.recorded;
        }
        self.put_pending();
        match effect {
            Effect::Forget { copy } => {
                if let Some(writer) = &mut self.writer {
                    self.appended = Some(writer.forget(copy.0));
                }
            }
            Effect::Defined(definition) => self.define(&definition),
            Effect::Undefined(definition) => self.undefine(&definition),
            // Not for a store.
            _ => {}
        }
        self.recorded
    }

    fn submit(&mut self) {
        self.put_pending();
        if let Some(sequence) = self.appended.take() {
            self.submitted.push_back(Submitted { sequence, mark: self.recorded, copy: self.last_copy });
        }
        if let Some(writer) = &mut self.writer {
            writer.flush();
        }
        if !self.is_behind && self.backlog() > BACKLOG {
            self.is_behind = true;
            self.report(Progress::Blocked("the disk is slower than those who publish".to_owned()));
        }
    }

    fn failure(&self) -> Option<String> {
        self.stopped.clone()
    }

    fn discard(&mut self) {
        self.pending = None;
        self.appended = None;
        // Dropped without its close.
        self.writer = None;
    }

    fn close(&mut self) -> Result<(), String> {
        if self.writer.is_none() {
            return Ok(());
        }
        self.submit();
        let closed = self.writer.take().map(Writer::close);
        while let Ok(event) = self.events.try_recv() {
            self.understand(event);
        }
        match closed {
            Some(Err(error)) if !self.submitted.is_empty() => Err(error.to_string()),
            Some(Err(error)) => {
                tracing::error!(%error, "the broker's store was not closed in order; all of it is on the disk");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        loop {
            if let Some(report) = self.reports.pop_front() {
                return Poll::Ready(report);
            }
            match self.events.poll_recv(context) {
                Poll::Ready(Some(event)) => self.understand(event),
                Poll::Ready(None) => return Poll::Ready(Progress::Failed("the store's thread has ended".to_owned())),
                Poll::Pending => {
                    self.waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for DiskJournal {
    /// The last batch is written. Blocks until it is.
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "what was done last is not in the broker's store; what was confirmed is");
        }
    }
}
