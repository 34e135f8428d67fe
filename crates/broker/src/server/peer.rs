//! What is to be sent to one client. Everything that sends to it appends here; one task writes it to the socket.

use super::{content::Content, host::Host, journal::Mark, limits::Limits, signal::Signal};
use crate::engine::{Arguments, Handed, Message, SessionId};
use crate::protocol::{
    frame,
    methods::{Encode, basic},
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// What a client is, for those who watch it. Each change makes another one.
#[derive(Clone, Debug)]
pub(super) struct ClientFacts {
    /// `CLIENT -> SERVER` as RabbitMQ names connections; one by a Unix socket has its number in the client's place.
    pub(super) name: Arc<str>,
    /// The addresses of both ends; none by a Unix socket.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    #[cfg_attr(not(feature = "management"), allow(dead_code, reason = "the management API shows it"))]
    pub(super) since: SystemTime,
    /// What it tells about itself.
    pub(super) properties: Arguments,
    pub(super) mechanism: &'static str,
    pub(super) channel_max: u16,
    /// The version of TLS, as rustls names it, if there is TLS.
    #[cfg_attr(
        not(all(feature = "management", feature = "tls")),
        allow(dead_code, reason = "the management API shows it")
    )]
    pub(super) tls: Option<&'static str>,
}

/// What a channel of a client has selected, for those who watch it: how it publishes and acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    /// Its publishes are confirmed.
    Confirms,
    /// What it does waits for a commit.
    Transactions,
}

/// The sending side of a connection, shared by all that sends to it.
pub(super) struct Peer {
    /// Names the connection in logs.
    pub(super) id: u64,
    /// What waits to be written.
    out: RefCell<Vec<u8>>,
    /// How many bytes the writer has taken and not written.
    writing: Cell<usize>,
    /// When the client last read something, as far as the socket lets one know.
    progress: Cell<Instant>,
    /// Wakes the task that writes.
    pub(super) to_write: Signal,
    /// Wakes the task that reads: an order, room, or the end.
    pub(super) to_read: Signal,
    pub(super) frame_max: Cell<u32>,
    /// Half of what was negotiated is the longest silence towards the client.
    pub(super) heartbeat: Cell<Option<Duration>>,
    /// Whether the client wants to know that a consumer of it has ended.
    pub(super) knows_cancel: Cell<bool>,
    /// Nothing more is written: the socket failed, or the connection has ended.
    is_gone: Cell<bool>,
    /// What waits is written, and then the socket is closed.
    is_finished: Cell<bool>,
    /// The mark of the last message that was settled by being sent to it.
    pub(super) settled: Cell<Mark>,
    /// Its session, while it has one.
    session: RefCell<Option<(Rc<Host>, SessionId)>>,
    /// Whether nothing is read from the client until it has read.
    pub(super) is_held: Cell<bool>,
    /// Who has logged in; empty before.
    user: RefCell<Rc<str>>,
    facts: RefCell<Arc<ClientFacts>>,
    /// The channels that have selected something.
    selected: RefCell<BTreeMap<u16, Selected>>,
    /// Asks the connection to end, with this text.
    order: RefCell<Option<Rc<str>>>,
}

impl Peer {
    pub(super) fn new(id: u64, now: Instant) -> Self {
        Self {
            id,
            out: RefCell::default(),
            writing: Cell::new(0),
            progress: Cell::new(now),
            to_write: Signal::default(),
            to_read: Signal::default(),
            frame_max: Cell::new(frame::MINIMUM_FRAME_SIZE),
            heartbeat: Cell::new(None),
            knows_cancel: Cell::new(false),
            is_gone: Cell::new(false),
            is_finished: Cell::new(false),
            settled: Cell::default(),
            session: RefCell::default(),
            is_held: Cell::new(false),
            user: RefCell::new(Rc::from("")),
            facts: RefCell::new(Arc::new(ClientFacts {
                name: format!("unix:{id} -> unix").into(),
                ends: None,
                since: SystemTime::now(),
                properties: Arguments::new(),
                mechanism: "",
                channel_max: 0,
                tls: None,
            })),
            selected: RefCell::default(),
            order: RefCell::default(),
        }
    }

    /// Appends what `write` writes.
    #[inline]
    pub(super) fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_gone.get() && !self.is_finished.get() {
            write(&mut self.out.borrow_mut());
            self.to_write.set();
        }
    }

    /// Sends a method.
    #[inline]
    pub(super) fn send<M: Encode>(&self, channel: u16, method: &M) {
        self.append(|out| frame::write_method(out, channel, method));
    }

    /// Sends a method and the content that follows it.
    #[inline]
    pub(super) fn send_content<M: Encode>(&self, channel: u16, method: &M, header: &[u8], body: &[u8]) {
        self.append(|out| {
            frame::write_method(out, channel, method);
            frame::write_content(out, channel, header, body, self.frame_max.get());
        });
    }

    /// Sends a method with a message that was handed out, and with how often that was so before if `count` is given.
    pub(super) fn send_handed<M: Encode>(&self, channel: u16, method: &M, message: &Content, count: Option<u32>) {
        match count {
            Some(count) => {
                self.send_content(channel, method, &message.header_with_delivery_count(count), message.body());
            }
            None => self.send_content(channel, method, message.header(), message.body()),
        }
    }

    /// Sends a message to a consumer.
    #[inline]
    pub(super) fn deliver(&self, channel: u16, consumer: &str, handed: &Handed<Content>) {
        let method = basic::Deliver {
            consumer_tag: consumer,
            delivery_tag: handed.tag,
            redelivered: handed.redelivered,
            exchange: handed.message.exchange(),
            routing_key: handed.message.routing_key(),
        };
        // RabbitMQ's consumers see the count from the second delivery on, and its gets always.
        self.send_handed(channel, &method, &handed.message, handed.returns.filter(|count| *count > 0));
    }

    /// How many bytes the client has not read, as far as the socket lets one know.
    pub(super) fn unsent(&self) -> usize {
        self.out.borrow().len() + self.writing.get()
    }

    /// Whether so much is unsent that nothing more is read from the client.
    pub(super) fn is_full(&self, limits: &Limits) -> bool {
        self.unsent() >= limits.unsent_at_most
    }

    /// When a client that is not read from has taken too long.
    pub(super) fn stalls_at(&self, limits: &Limits) -> Instant {
        self.progress.get() + limits.stall
    }

    /// Takes what waits, for the writer, and gives an empty buffer for it.
    pub(super) fn take(&self, buffer: &mut Vec<u8>) {
        debug_assert!(buffer.is_empty(), "what was taken has been written");
        std::mem::swap(&mut *self.out.borrow_mut(), buffer);
        self.writing.set(buffer.len());
    }

    /// The client has a session.
    pub(super) fn enter(&self, host: Rc<Host>, session: SessionId) {
        self.session.replace(Some((host, session)));
    }

    /// It has none any more.
    pub(super) fn leave(&self) {
        self.session.take();
    }

    /// All that was taken is written: there is room for more.
    pub(super) fn drained(&self, now: Instant) {
        let session = self.session.borrow().clone();
        if let Some((host, session)) = session {
            host.resume(session, now);
        }
        if self.is_held.replace(false) {
            self.to_read.set();
        }
    }

    /// So much of what was taken is not written yet.
    pub(super) fn wrote(&self, left: usize, now: Instant) {
        self.writing.set(left);
        self.progress.set(now);
    }

    /// Writes what waits and closes the socket.
    pub(super) fn finish(&self) {
        self.is_finished.set(true);
        self.to_write.set();
        self.to_read.set();
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished.get()
    }

    /// The socket has failed: what waits is dropped, and the reader ends.
    pub(super) fn fail(&self) {
        self.is_gone.set(true);
        self.out.take();
        self.writing.set(0);
        self.to_write.set();
        self.to_read.set();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.get()
    }

    /// Somebody has logged in.
    pub(super) fn set_user(&self, name: &Rc<str>) {
        self.user.replace(name.clone());
    }

    /// Who has logged in; empty before.
    pub(super) fn user(&self) -> Rc<str> {
        self.user.borrow().clone()
    }

    /// What the client is.
    #[cfg(feature = "management")]
    pub(super) fn facts(&self) -> Arc<ClientFacts> {
        self.facts.borrow().clone()
    }

    /// More is known about the client.
    pub(super) fn note(&self, change: impl FnOnce(&mut ClientFacts)) {
        change(Arc::make_mut(&mut self.facts.borrow_mut()));
    }

    /// A channel has selected something.
    pub(super) fn select(&self, channel: u16, selected: Selected) {
        self.selected.borrow_mut().insert(channel, selected);
    }

    /// A channel has ended.
    pub(super) fn unselect(&self, channel: u16) {
        self.selected.borrow_mut().remove(&channel);
    }

    /// What its channels have selected.
    #[cfg(feature = "management")]
    pub(super) fn selected(&self) -> BTreeMap<u16, Selected> {
        self.selected.borrow().clone()
    }

    /// The client's session, and where it is.
    #[cfg(feature = "management")]
    pub(super) fn session(&self) -> Option<(Rc<Host>, SessionId)> {
        self.session.borrow().clone()
    }

    /// Whether the client is in this virtual host.
    pub(super) fn is_in(&self, host: &Rc<Host>) -> bool {
        self.session.borrow().as_ref().is_some_and(|(known, _)| Rc::ptr_eq(known, host))
    }

    /// Asks the connection to end as an operator would.
    pub(super) fn order(&self, text: &Rc<str>) {
        self.order.replace(Some(text.clone()));
        self.to_read.set();
    }

    pub(super) fn take_order(&self) -> Option<Rc<str>> {
        self.order.take()
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.id).field("unsent", &self.unsent()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_reads_however_slowly_does_not_stall() {
        let (start, limits) = (Instant::now(), Limits::default());
        let peer = Peer::new(1, start);
        peer.append(|out| out.resize(1000, 0));
        let mut taken = Vec::new();
        peer.take(&mut taken);
        // It reads something in the last moment, again and again.
        let mut now = start;
        for left in (0..1000).rev().step_by(100) {
            now = peer.stalls_at(&limits);
            peer.wrote(left, now);
            assert_eq!(peer.unsent(), left);
        }
        assert_eq!(now, start + 10 * limits.stall);
        assert_eq!(peer.stalls_at(&limits), now + limits.stall);
    }
}
