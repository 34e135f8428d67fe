//! One virtual host: its engine, who is connected to it, and where its effects go.

use super::{
    builder::Opened,
    confirms::{Confirms, Outcome},
    content::Content,
    disk::Shelf,
    exception::{Exception, Result},
    journal::{Journal, Mark, Progress},
    numbers::NumberMap,
    peer::Peer,
    room::Room,
    signal::Signal,
};
use crate::engine::{ChannelId, Effect, Engine, Object, Publishers, Refusal, SessionId, Tags};
use crate::protocol::methods::basic;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{sleep_until, timeout};

/// How long a disk that has failed, because it is full for example, has to take more before those who wait for it get an error. The
/// store tries again once a second.
const DISK_RECOVERS: Duration = Duration::from_secs(2);

/// A virtual host.
pub(super) struct Host {
    pub(super) name: Rc<str>,
    /// Never borrowed over an await.
    state: RefCell<State>,
    journal: Option<RefCell<Box<dyn Journal>>>,
    /// Where messages that wait are put away.
    shelf: Option<Rc<Shelf>>,
    /// The mark of the last that was recorded.
    recorded: Cell<Mark>,
    /// Nothing of it is kept any more, and nothing of it comes back.
    is_removed: Cell<bool>,
    /// All up to this mark is on the disk.
    durable: Cell<Mark>,
    /// Channels with publishes that wait for the disk.
    waiting: RefCell<Vec<Rc<Confirms>>>,
    /// More is on the disk than before.
    came_further: Notify,
    /// When the engine is called next, if nothing happens before.
    deadline: Cell<Option<Instant>>,
    /// The deadline has come nearer.
    to_wait: Signal,
    /// Where its messages are counted, and with how many bytes.
    room: Rc<Room>,
    held: Cell<usize>,
    /// What runs for it.
    tasks: RefCell<Vec<AbortHandle>>,
}

struct State {
    engine: Engine<Content>,
    peers: NumberMap<SessionId, Rc<Peer>>,
    /// Messages that were handed out and cannot be read from the disk.
    unreadable: Vec<(SessionId, ChannelId, u64)>,
}

impl Host {
    /// One that is in memory only.
    pub(super) fn new(name: &str, engine: Engine<Content>, room: Rc<Room>) -> Self {
        Self {
            name: name.into(),
            state: RefCell::new(State { engine, peers: NumberMap::default(), unreadable: Vec::new() }),
            journal: None,
            shelf: None,
            recorded: Cell::default(),
            is_removed: Cell::default(),
            durable: Cell::default(),
            waiting: RefCell::default(),
            came_further: Notify::new(),
            deadline: Cell::new(None),
            to_wait: Signal::default(),
            room,
            held: Cell::default(),
            tasks: RefCell::default(),
        }
    }

    /// One that survives a restart.
    pub(super) fn kept(name: &str, opened: Opened, room: Rc<Room>) -> Self {
        let Opened { engine, journal, shelf } = opened;
        let mut host = Self::new(name, engine, room);
        (host.journal, host.shelf) = (Some(RefCell::new(journal)), shelf);
        host
    }

    /// Where messages that wait are put away.
    pub(super) fn shelf(&self) -> Option<&Rc<Shelf>> {
        self.shelf.as_ref()
    }

    /// These tasks run for it until it is stopped.
    pub(super) fn runs_in(&self, tasks: impl IntoIterator<Item = AbortHandle>) {
        self.tasks.borrow_mut().extend(tasks);
    }

    /// Time does not pass for it any more, and nobody learns how far its journal has come.
    pub(super) fn stop(&self) {
        // Guards: an answer that waits for its disk, which nobody reports about from now on.
        self.is_removed.set(true);
        self.came_further.notify_waiters();
        self.tasks.borrow_mut().drain(..).for_each(|task| task.abort());
    }

    /// It was removed: nothing of it is kept.
    pub(super) fn discard(&self) {
        if let Some(journal) = &self.journal {
            journal.borrow_mut().discard();
        }
    }

    /// How many queues it has, and how many messages.
    pub(super) fn contents(&self) -> (usize, usize) {
        self.engine(|engine| {
            engine.queues().fold((0, 0), |(queues, messages), queue| (queues + 1, messages + queue.waiting + queue.out))
        })
    }

    /// A client has come. It is handed `unsent` bytes of messages before it has to read.
    pub(super) fn connect(&self, peer: &Rc<Peer>, unsent: usize, now: Instant) -> SessionId {
        let mut state = self.state.borrow_mut();
        let session = state.engine.connect(now);
        state.engine.deliver_at_most(session, unsent);
        state.peers.insert(session, peer.clone());
        session
    }

    /// A client has gone.
    pub(super) fn disconnect(&self, session: SessionId, now: Instant) {
        self.state.borrow_mut().peers.remove(&session);
        self.request(|engine| engine.disconnect(session, now));
    }

    /// Makes a request of the engine, without what comes of it: [`settle`](Self::settle) is to follow.
    #[inline]
    pub(super) fn engine<T>(&self, request: impl FnOnce(&mut Engine<Content>) -> T) -> T {
        request(&mut self.state.borrow_mut().engine)
    }

    /// Makes a request of the engine and sends what comes of it.
    pub(super) fn request<T>(&self, request: impl FnOnce(&mut Engine<Content>) -> T) -> T {
        let answer = self.engine(request);
        self.settle();
        answer
    }

    /// Whether clients can publish to an exchange of this name.
    pub(super) fn check_exchange(&self, name: &str) -> Result<()> {
        if name.is_empty() {
            return Ok(());
        }
        self.engine(|engine| match engine.exchange(name) {
            None => Err(Exception::not_found(Object::Exchange, name, &self.name)),
            Some(exchange) if exchange.publishers == Publishers::Exchanges => {
                Err(Exception::refused(&Refusal::InternalExchange { name: exchange.name.clone() }, &self.name))
            }
            Some(_) => Ok(()),
        })
    }

    /// Sends what came of the requests before: deliveries to their clients, changes to the journal.
    #[inline]
    pub(super) fn settle(&self) {
        let mut state = self.state.borrow_mut();
        while self.settle_effects(&mut state) {}
    }

    /// True where that has led to more effects.
    #[inline]
    fn settle_effects(&self, state: &mut State) -> bool {
        let State { engine, peers, unreadable } = state;
        // Who was handed what the effect before was about.
        let mut receiver: Option<Rc<Peer>> = None;
        for effect in engine.effects() {
            let received = receiver.take();
            match effect {
                Effect::Delivery { session, channel, handed, .. } if !handed.message.is_readable() => {
                    unreadable.push((session, channel, handed.tag));
                }
                Effect::Delivery { session, channel, consumer, handed } => {
                    if let Some(peer) = peers.get(&session) {
                        peer.deliver(number(channel.0), &consumer, &handed);
                        receiver = Some(peer.clone());
                    }
                }
                Effect::ConsumerCancelled { session, channel, consumer } => {
                    if let Some(peer) = peers.get(&session).filter(|peer| peer.knows_cancel.get()) {
                        peer.send(number(channel.0), &basic::Cancel { consumer_tag: &consumer, no_wait: true });
                    }
                }
                kept => {
                    if let Some(journal) = &self.journal {
                        let is_forgotten = matches!(kept, Effect::Forget { .. });
                        let mark = journal.borrow_mut().record(kept);
                        self.recorded.set(mark);
                        // Guards: a message that nobody acknowledges, since it counts as settled when it is sent. It is forgotten right
                        // behind its delivery, whoever's request that came of.
                        if let Some(peer) = received.filter(|_| is_forgotten) {
                            peer.settled.set(mark);
                        }
                    }
                }
            }
        }
        let is_over = unreadable.is_empty();
        for (session, channel, tag) in unreadable.drain(..) {
            // What is lost must not come back for ever. Where nothing is acknowledged, nothing is out.
            _ = engine.ack(session, channel, Tags::One(tag), Instant::now());
        }
        !is_over
    }

    /// The client has read enough: its consumers are served again.
    pub(super) fn resume(&self, session: SessionId, now: Instant) {
        self.request(|engine| engine.resume(session, now));
        self.submit();
    }

    /// A batch of requests is over: what is to be kept is written, what is held is counted, and the timer is set.
    pub(super) fn submit(&self) {
        if let Some(journal) = &self.journal {
            journal.borrow_mut().submit();
        }
        let (next, holds) = self.engine(|engine| (engine.next_deadline(), engine.bytes()));
        self.room.count(self.held.replace(holds), holds);
        if next != self.deadline.get() {
            let nearer = match (next, self.deadline.get()) {
                (Some(next), Some(known)) => next < known,
                (Some(_), None) => true,
                (None, _) => false,
            };
            self.deadline.set(next);
            if nearer {
                self.to_wait.set();
            }
        }
    }

    /// When all that was done until now is safe.
    pub(super) fn when_safe(&self) -> Outcome {
        if self.journal.is_some() { Outcome::When(self.recorded.get()) } else { Outcome::Safe }
    }

    /// Sends the confirms that can be sent, and remembers those that wait for the disk.
    pub(super) fn confirm(&self, confirms: &Rc<Confirms>) {
        confirms.flush(self.durable.get());
        if confirms.is_waiting() {
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|known| Rc::ptr_eq(known, confirms)) {
                waiting.push(confirms.clone());
            }
        }
    }

    /// All up to this mark is on the disk.
    pub(super) fn is_durable(&self, mark: Mark) {
        self.durable.set(mark);
        self.waiting.borrow_mut().retain(|confirms| {
            confirms.flush(mark);
            confirms.is_waiting()
        });
        self.came_further.notify_waiters();
    }

    /// The mark of the last that was recorded.
    #[inline]
    pub(super) fn recorded(&self) -> Mark {
        self.recorded.get()
    }

    /// Whether all up to this mark is safe. Nothing that was settled in a virtual host which was removed comes back.
    pub(super) fn is_safe(&self, mark: Mark) -> bool {
        self.journal.is_none() || self.is_removed.get() || mark <= self.durable.get()
    }

    /// Waits until all up to this mark is safe. What was recorded has to be [submitted](Self::submit) before.
    ///
    /// # Errors
    /// Why nothing can be written, where that does not change within [`DISK_RECOVERS`]. A disk that is slow is waited for.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn until_safe(&self, mark: Mark) -> std::result::Result<(), String> {
        let safe = async {
            loop {
                let mut further = pin!(self.came_further.notified());
                // Registered before the check, so that nothing falls between the two.
                further.as_mut().enable();
                if self.is_safe(mark) {
                    return;
                }
                further.await;
            }
        };
        let mut safe = pin!(safe);
        while timeout(DISK_RECOVERS, &mut safe).await.is_err() {
            if let Some(reason) = self.journal.as_ref().and_then(|journal| journal.borrow().failure()) {
                return Err(reason);
            }
        }
        Ok(())
    }

    /// Writes what is not written, where the server has ended. Blocks until then.
    ///
    /// # Errors
    /// Not all that clients did is safe, and why.
    pub(super) fn close(&self) -> std::result::Result<(), String> {
        self.journal.as_ref().map_or(Ok(()), |journal| journal.borrow_mut().close())
    }

    /// The next thing that happens to the journal. Never comes without one.
    pub(super) async fn progress(&self) -> Progress {
        match &self.journal {
            Some(journal) => poll_fn(|context| journal.borrow_mut().poll_progress(context)).await,
            None => std::future::pending().await,
        }
    }

    /// Lets the engine know of time that passes. Runs as long as the server.
    pub(super) async fn keep_time(&self) {
        /// A deadline that is never set.
        const NEVER: Duration = Duration::from_secs(1 << 30);
        loop {
            let until = self.deadline.get().unwrap_or_else(|| Instant::now() + NEVER);
            tokio::select! {
                biased;
                () = self.to_wait.wait() => {}
                () = sleep_until(until.into()) => {
                    let now = Instant::now();
                    self.deadline.set(None);
                    self.request(|engine| engine.advance(now));
                    self.submit();
                }
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.room.count(self.held.get(), 0);
    }
}

/// Channels of the protocol have 16 bits, and the server opens no others.
fn number(channel: u32) -> u16 {
    u16::try_from(channel).unwrap_or(0)
}
