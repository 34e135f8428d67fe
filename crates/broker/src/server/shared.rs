//! What all connections of a server share. One thread has all of it.

use super::{
    accounts::{Live, Table},
    admin::{Status, VirtualHostStatus},
    handle::follow,
    host::Host,
    limits::Limits,
    peer::Peer,
    room::Room,
    signal::Signal,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) accounts: Live,
    hosts: RefCell<HashMap<String, Rc<Host>>>,
    /// Why the server cannot go on.
    failures: mpsc::Sender<String>,
    /// By the number of the connection.
    connections: RefCell<HashMap<u64, Rc<Peer>>>,
    next: Cell<u64>,
    /// How much memory messages may take.
    pub(super) room: Rc<Room>,
    /// Why publishers are stopped.
    alarms: RefCell<BTreeMap<Alarm, Rc<str>>>,
    /// A connection has ended.
    pub(super) ended: Signal,
    /// The server stops: nobody new is let in.
    pub(super) is_stopping: Cell<bool>,
}

/// What stops publishers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// The disk of a virtual host takes no more.
    Disk(Rc<str>),
    /// Messages take too much memory.
    Memory,
}

impl Shared {
    pub(super) fn new(limits: Limits, table: Table, failures: mpsc::Sender<String>) -> Self {
        Self {
            accounts: Live::new(table, limits.password_checks),
            room: Rc::new(Room::new(limits.memory)),
            limits,
            hosts: RefCell::default(),
            failures,
            connections: RefCell::default(),
            next: Cell::new(1),
            alarms: RefCell::default(),
            ended: Signal::default(),
            is_stopping: Cell::new(false),
        }
    }

    /// A virtual host.
    pub(super) fn host(&self, name: &str) -> Option<Rc<Host>> {
        self.hosts.borrow().get(name).cloned()
    }

    /// Clients can enter this virtual host from now on.
    pub(super) fn start_host(self: &Rc<Self>, host: Rc<Host>) {
        let timed = host.clone();
        let tasks = [
            spawn_local(async move { timed.keep_time().await }).abort_handle(),
            spawn_local(follow(host.clone(), self.clone())).abort_handle(),
        ];
        host.runs_in(tasks);
        self.hosts.borrow_mut().insert((*host.name).to_owned(), host);
    }

    /// Nobody can enter this virtual host any more. Those who are in it still are.
    pub(super) fn stop_host(&self, name: &str) -> Option<Rc<Host>> {
        let host = self.hosts.borrow_mut().remove(name)?;
        host.stop();
        self.set_alarm(&Alarm::Disk(host.name.clone()), None);
        Some(host)
    }

    /// The server stops, and why.
    pub(super) fn fail(&self, reason: String) {
        // The first reason is enough.
        _ = self.failures.try_send(reason);
    }

    /// All virtual hosts, from a server that has ended.
    pub(super) fn take_hosts(&self) -> Vec<Rc<Host>> {
        let mut hosts: Vec<_> = std::mem::take(&mut *self.hosts.borrow_mut()).into_values().collect();
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        hosts
    }

    pub(super) fn status(&self) -> Status {
        let mut virtual_hosts: Vec<_> = self
            .hosts
            .borrow()
            .values()
            .map(|host| {
                let (queues, messages) = host.contents();
                VirtualHostStatus { name: (*host.name).to_owned(), queues, messages }
            })
            .collect();
        virtual_hosts.sort_by(|one, other| one.name.cmp(&other.name));
        let blocked = self.alarm().map(|reason| (*reason).to_owned());
        Status { connections: self.connections(), blocked, virtual_hosts }
    }

    /// All virtual hosts, sorted by name.
    #[cfg(feature = "management")]
    pub(super) fn all_hosts(&self) -> Vec<Rc<Host>> {
        let mut hosts: Vec<_> = self.hosts.borrow().values().cloned().collect();
        hosts.sort_by(|one, other| one.name.cmp(&other.name));
        hosts
    }

    /// All clients.
    #[cfg(feature = "management")]
    pub(super) fn peers(&self) -> Vec<Rc<Peer>> {
        self.connections.borrow().values().cloned().collect()
    }

    /// Lets a client in, unless there are too many.
    pub(super) fn enter(&self, now: Instant) -> Option<Rc<Peer>> {
        let mut connections = self.connections.borrow_mut();
        if self.is_stopping.get() || connections.len() >= self.limits.connections {
            return None;
        }
        let id = self.next.replace(self.next.get() + 1);
        let peer = Rc::new(Peer::new(id, now));
        connections.insert(id, peer.clone());
        Some(peer)
    }

    /// The client has gone.
    pub(super) fn leave(&self, peer: &Peer) {
        self.connections.borrow_mut().remove(&peer.id);
        self.ended.set();
    }

    /// How many clients there are.
    pub(super) fn connections(&self) -> usize {
        self.connections.borrow().len()
    }

    /// Asks all connections to end.
    pub(super) fn end_all(&self, text: &str) {
        let text = Rc::from(text);
        self.connections.borrow().values().for_each(|peer| peer.order(&text));
    }

    /// Asks some connections to end.
    pub(super) fn end_some(&self, text: &str, is_meant: impl Fn(&Peer) -> bool) {
        let text = Rc::from(text);
        self.connections.borrow().values().filter(|peer| is_meant(peer)).for_each(|peer| peer.order(&text));
    }

    /// Whether there is such a connection.
    pub(super) fn has_some(&self, is_meant: impl Fn(&Peer) -> bool) -> bool {
        self.connections.borrow().values().any(|peer| is_meant(peer))
    }

    /// Why publishers are stopped, if they are.
    pub(super) fn alarm(&self) -> Option<Rc<str>> {
        self.alarms.borrow().first_key_value().map(|(_, reason)| reason.clone())
    }

    /// Whether publishers are stopped by this.
    #[cfg(feature = "management")]
    pub(super) fn has_alarm(&self, is_meant: impl Fn(&Alarm) -> bool) -> bool {
        self.alarms.borrow().keys().any(is_meant)
    }

    /// Stops publishers because of something, or lets them go on as far as that is concerned. Each connection finds out by itself.
    pub(super) fn set_alarm(&self, alarm: &Alarm, reason: Option<&str>) {
        let mut alarms = self.alarms.borrow_mut();
        match reason {
            Some(reason) => {
                tracing::warn!(reason, "publishers are stopped");
                alarms.insert(alarm.clone(), reason.into());
            }
            None => {
                if alarms.remove(alarm).is_some() && alarms.is_empty() {
                    tracing::info!("publishers go on");
                }
            }
        }
        drop(alarms);
        self.connections.borrow().values().for_each(|peer| peer.to_read.set());
    }
}
