//! What there is on a server, copied on its thread for whoever reads it on another one. Copies are plain and made fast: clients
//! wait meanwhile. All lists are sorted, so that what asks twice can compare.

use crate::engine::{
    Access, Acknowledge, Arguments, Binding, ConsumerView, Counts, ExchangeSpec, QueueSpec, QueueView, SessionId,
};
use crate::server::{
    host::Host,
    methods::is_address,
    peer::{ClientFacts, Peer, Selected},
    shared::Shared,
};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

/// Which virtual hosts are looked at.
#[derive(Clone, Debug)]
pub(super) enum Hosts {
    All,
    One(String),
}

/// A queue.
#[derive(Clone, Debug)]
pub(super) struct QueueRow {
    pub(super) host: Arc<str>,
    pub(super) spec: QueueSpec,
    /// The connection that has it for itself.
    pub(super) owner: Option<Arc<str>>,
    pub(super) waiting: usize,
    pub(super) out: usize,
    pub(super) waiting_bytes: usize,
    pub(super) out_bytes: usize,
    pub(super) consumers: usize,
    pub(super) counts: Counts,
}

/// An exchange. The default one has an empty name.
#[derive(Clone, Debug)]
pub(super) struct ExchangeRow {
    pub(super) host: Arc<str>,
    pub(super) spec: ExchangeSpec,
}

/// A binding.
#[derive(Clone, Debug)]
pub(super) struct BindingRow {
    pub(super) host: Arc<str>,
    pub(super) binding: Binding,
}

/// A connection that has logged in.
#[derive(Clone, Debug)]
pub(super) struct ConnectionRow {
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) host: Arc<str>,
    pub(super) user: Arc<str>,
    pub(super) facts: Arc<ClientFacts>,
    pub(super) channels: usize,
    pub(super) frame_max: u32,
    /// Seconds; 0 for none.
    pub(super) heartbeat: u64,
    /// Bytes that the client has not read.
    pub(super) unsent: usize,
    pub(super) is_blocked: bool,
    /// By the channel.
    selected: BTreeMap<u16, Selected>,
}

/// A channel.
#[derive(Clone, Debug)]
pub(super) struct ChannelRow {
    pub(super) connection: Arc<ConnectionRow>,
    pub(super) number: u32,
    pub(super) out: usize,
    pub(super) consumers: usize,
    pub(super) consumer_prefetch: u16,
    pub(super) prefetch: u16,
}

impl ChannelRow {
    pub(super) fn selected(&self) -> Option<Selected> {
        self.connection.selected.get(&u16::try_from(self.number).ok()?).copied()
    }
}

impl ConnectionRow {
    /// What RabbitMQ calls a channel of it.
    pub(super) fn channel_name(&self, number: u32) -> String {
        format!("{} ({number})", self.name)
    }
}

/// A consumer.
#[derive(Clone, Debug)]
pub(super) struct ConsumerRow {
    pub(super) connection: Arc<ConnectionRow>,
    pub(super) channel: u32,
    pub(super) tag: Arc<str>,
    pub(super) queue: Arc<str>,
    pub(super) acknowledges: bool,
    pub(super) prefetch: u16,
    pub(super) is_exclusive: bool,
    pub(super) is_active: bool,
    pub(super) priority: i32,
    pub(super) out: usize,
}

/// The sums of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) connections: usize,
    pub(super) channels: usize,
    pub(super) consumers: usize,
    pub(super) queues: usize,
    pub(super) exchanges: usize,
    pub(super) waiting: usize,
    pub(super) out: usize,
    pub(super) counts: Counts,
    /// Why publishers are stopped, if they are.
    pub(super) alarm: Option<String>,
}

impl Hosts {
    fn of(&self, server: &Shared) -> Vec<Rc<Host>> {
        match self {
            Self::All => server.all_hosts(),
            Self::One(name) => server.host(name).into_iter().collect(),
        }
    }
}

fn name_of(host: &Host) -> Arc<str> {
    Arc::from(&*host.name)
}

/// The connections in some virtual hosts, by the number of each.
pub(super) fn connections(server: &Shared, hosts: &Hosts) -> Vec<Arc<ConnectionRow>> {
    let channels = channel_counts(server);
    let mut rows: Vec<_> = server
        .peers()
        .iter()
        .filter_map(|peer| row_of(server, peer, &channels))
        .filter(|row| match hosts {
            Hosts::All => true,
            Hosts::One(name) => *row.host == **name,
        })
        .collect();
    rows.sort_by_key(|row| row.id);
    rows
}

/// How many channels each session of each virtual host has.
fn channel_counts(server: &Shared) -> HashMap<(Arc<str>, SessionId), usize> {
    let mut counts = HashMap::new();
    for host in server.all_hosts() {
        let name = name_of(&host);
        host.engine(|engine| {
            for channel in engine.channels() {
                *counts.entry((name.clone(), channel.session)).or_insert(0) += 1;
            }
        });
    }
    counts
}

fn row_of(
    server: &Shared,
    peer: &Peer,
    channels: &HashMap<(Arc<str>, SessionId), usize>,
) -> Option<Arc<ConnectionRow>> {
    let (host, session) = peer.session()?;
    let host = name_of(&host);
    let facts = peer.facts();
    let channels = channels.get(&(host.clone(), session)).copied().unwrap_or(0);
    Some(Arc::new(ConnectionRow {
        id: peer.id,
        name: facts.name.clone(),
        host,
        user: Arc::from(&*peer.user()),
        facts,
        channels,
        frame_max: peer.frame_max.get(),
        heartbeat: peer.heartbeat.get().map_or(0, |heartbeat| heartbeat.as_secs()),
        unsent: peer.unsent(),
        is_blocked: server.alarm().is_some(),
        selected: peer.selected(),
    }))
}

/// The connections of one virtual host by their session there.
fn by_session(server: &Shared, host: &Rc<Host>) -> HashMap<SessionId, Arc<ConnectionRow>> {
    let channels = channel_counts(server);
    server
        .peers()
        .iter()
        .filter_map(|peer| {
            let (at, session) = peer.session()?;
            Rc::ptr_eq(&at, host).then_some(())?;
            Some((session, row_of(server, peer, &channels)?))
        })
        .collect()
}

/// The names of connections by their session in a virtual host.
fn owners(server: &Shared, host: &Rc<Host>) -> HashMap<SessionId, Arc<str>> {
    server
        .peers()
        .iter()
        .filter_map(|peer| peer.session().map(|(at, session)| (at, session, peer.facts().name.clone())))
        .filter(|(at, ..)| Rc::ptr_eq(at, host))
        .map(|(_, session, name)| (session, name))
        .collect()
}

fn queue_row(queue: &QueueView<'_>, host: &Arc<str>, owners: &HashMap<SessionId, Arc<str>>) -> QueueRow {
    QueueRow {
        host: host.clone(),
        spec: queue.spec.clone(),
        owner: queue.owner.and_then(|session| owners.get(&session).cloned()),
        waiting: queue.waiting,
        out: queue.out,
        waiting_bytes: queue.waiting_bytes,
        out_bytes: queue.out_bytes,
        consumers: queue.consumers,
        counts: queue.counts,
    }
}

/// One queue and its consumers. What it costs does not grow with the number of queues.
pub(super) fn queue(server: &Shared, host: &str, name: &str) -> Option<(QueueRow, Vec<ConsumerRow>)> {
    let host = server.host(host)?;
    let row = host.engine(|engine| {
        let queue = engine.queue(name).filter(|queue| !is_address(&queue.spec.name))?;
        let owners = if queue.owner.is_some() { owners(server, &host) } else { HashMap::new() };
        Some(queue_row(&queue, &name_of(&host), &owners))
    })?;
    let consumers = if row.consumers == 0 { Vec::new() } else { consumers_in(server, &host, |queue| queue == name) };
    Some((row, sorted(consumers)))
}

/// The queues of some virtual hosts, by name.
pub(super) fn queues(server: &Shared, hosts: &Hosts) -> Vec<QueueRow> {
    let mut rows = Vec::new();
    for host in hosts.of(server) {
        let (name, owners) = (name_of(&host), owners(server, &host));
        let first = rows.len();
        host.engine(|engine| {
            let shown = engine.queues().filter(|queue| !is_address(&queue.spec.name));
            rows.extend(shown.map(|queue| queue_row(&queue, &name, &owners)));
        });
        rows[first..].sort_by(|one, other| one.spec.name.cmp(&other.spec.name));
    }
    rows
}

/// The exchanges of some virtual hosts, by name, the default one first.
pub(super) fn exchanges(server: &Shared, hosts: &Hosts) -> Vec<ExchangeRow> {
    let mut rows = Vec::new();
    for host in hosts.of(server) {
        let name = name_of(&host);
        let first = rows.len();
        rows.push(ExchangeRow { host: name.clone(), spec: ExchangeSpec::new("", crate::engine::ExchangeKind::Direct) });
        host.engine(|engine| {
            rows.extend(engine.exchanges().map(|spec| ExchangeRow { host: name.clone(), spec: spec.clone() }));
        });
        rows[first..].sort_by(|one, other| one.spec.name.cmp(&other.spec.name));
    }
    rows
}

/// The bindings of some virtual hosts, those of the default exchange first, as RabbitMQ lists them.
pub(super) fn bindings(server: &Shared, hosts: &Hosts) -> Vec<BindingRow> {
    let mut rows = Vec::new();
    for host in hosts.of(server) {
        let name = name_of(&host);
        host.engine(|engine| {
            let shown = engine.queues().filter(|queue| !is_address(&queue.spec.name));
            let by_name = shown.map(|queue| Binding::to_queue("", &queue.spec.name, &queue.spec.name));
            let first = rows.len();
            rows.extend(by_name.map(|binding| BindingRow { host: name.clone(), binding }));
            rows.extend(engine.bindings().map(|binding| BindingRow { host: name.clone(), binding }));
            rows[first..].sort_by(|one: &BindingRow, other: &BindingRow| {
                let of = |row: &BindingRow| {
                    (row.binding.source.clone(), row.binding.destination.clone(), row.binding.key.clone())
                };
                of(one).cmp(&of(other))
            });
        });
    }
    rows
}

/// The channels in some virtual hosts.
pub(super) fn channels(server: &Shared, hosts: &Hosts) -> Vec<ChannelRow> {
    let mut rows = Vec::new();
    for host in hosts.of(server) {
        let connections = by_session(server, &host);
        host.engine(|engine| {
            rows.extend(engine.channels().filter_map(|channel| {
                Some(ChannelRow {
                    connection: connections.get(&channel.session)?.clone(),
                    number: channel.id.0,
                    out: channel.out,
                    consumers: channel.consumers,
                    consumer_prefetch: channel.consumer_prefetch,
                    prefetch: channel.prefetch,
                })
            }));
        });
    }
    rows.sort_by_key(|row| (row.connection.id, row.number));
    rows
}

/// The consumers in some virtual hosts.
pub(super) fn consumers(server: &Shared, hosts: &Hosts) -> Vec<ConsumerRow> {
    let all = hosts.of(server);
    sorted(all.iter().flat_map(|host| consumers_in(server, host, |queue| !is_address(queue))).collect())
}

/// The consumers of some queues of a virtual host.
fn consumers_in(server: &Shared, host: &Rc<Host>, is_meant: impl Fn(&str) -> bool) -> Vec<ConsumerRow> {
    let connections = by_session(server, host);
    host.engine(|engine| {
        let meant = engine.consumers().filter(|consumer| is_meant(consumer.queue));
        let row = |consumer: ConsumerView<'_>| {
            Some(ConsumerRow {
                connection: connections.get(&consumer.session)?.clone(),
                channel: consumer.channel.0,
                tag: consumer.tag.clone(),
                queue: consumer.queue.clone(),
                acknowledges: consumer.acknowledge == Acknowledge::Manual,
                prefetch: consumer.prefetch,
                is_exclusive: consumer.access == Access::Exclusive,
                is_active: consumer.is_active,
                priority: consumer.priority,
                out: consumer.out,
            })
        };
        meant.filter_map(row).collect()
    })
}

fn sorted(mut rows: Vec<ConsumerRow>) -> Vec<ConsumerRow> {
    rows.sort_by(|one, other| {
        (one.connection.id, one.channel, &one.tag).cmp(&(other.connection.id, other.channel, &other.tag))
    });
    rows
}

/// The sums of some virtual hosts.
pub(super) fn totals(server: &Shared, hosts: &Hosts) -> Totals {
    let mut totals = Totals { alarm: server.alarm().map(|reason| (*reason).to_owned()), ..Totals::default() };
    for host in hosts.of(server) {
        host.engine(|engine| {
            totals.connections += engine.sessions().count();
            totals.channels += engine.channels().count();
            totals.consumers += engine.consumers().filter(|consumer| !is_address(consumer.queue)).count();
            totals.exchanges += engine.exchanges().count() + 1;
            totals.counts += engine.counts();
            for queue in engine.queues().filter(|queue| !is_address(&queue.spec.name)) {
                totals.queues += 1;
                totals.waiting += queue.waiting;
                totals.out += queue.out;
            }
        });
    }
    totals
}

/// The argument that says what kind of queue it is.
pub(super) fn kind_of(arguments: &Arguments) -> &str {
    arguments.get("x-queue-type").and_then(crate::engine::Field::as_text).unwrap_or("classic")
}
