//! The simulated broker: the [store](super::store) behind a network on which everything takes time and may go wrong. Every
//! operation has a fate that the seed decides: it is done; it fails; it is done and the answer says that it failed; its
//! connection is lost before or after it is done.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::choices::hash;
use super::executor::{WORLD, choose, choose_for, current, named, note, one_in_for, sleep_ms};
use super::store::{QueueState, SessionId, Store};
use crate::broker::url::BrokerUrl;
use crate::broker::{
    Body, Broker, BrokerEvent, ConnectOptions, ConsumeSpec, Delivery, EventSender, ExchangeSpec, Lane, Message, Nack,
    PublishId, QueueSpec, Receipt,
};
use crate::error::{Error, ErrorKind, Result};

thread_local! {
    static SERVER: RefCell<Option<Rc<Server>>> = const { RefCell::new(None) };
}

/// What may go wrong with an operation: once in so many times, 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A step takes some milliseconds.
    pub(super) latency: u32,
    /// A step takes up to two seconds.
    pub(super) slow: u32,
    /// A question fails and nothing is done.
    pub(super) fails: u32,
    /// It is done, and the answer is lost.
    pub(super) half_done: u32,
    /// A publish is refused.
    pub(super) refused: u32,
    /// A connection is not made.
    pub(super) connects: u32,
}

/// The broker of a simulation.
pub(super) struct Server {
    store: RefCell<Store>,
    links: RefCell<Vec<Weak<Link>>>,
    faults: Cell<Faults>,
    lanes: Cell<u32>,
    timer: Notify,
    down: Cell<bool>,
    blocked: Cell<bool>,
    stalled: Cell<bool>,
    /// No longer blocked or stalled.
    goes_on: Notify,
    /// A key was looked at, to be freed, later than whoever asked for it could expect.
    freed_late: Cell<bool>,
}

/// The broker of this simulation; made when it is first asked for.
pub(super) fn server() -> Rc<Server> {
    SERVER.with_borrow_mut(|server| Rc::clone(server.get_or_insert_with(Server::start)))
}

/// At the end of a simulation.
pub(super) fn forget() {
    let server = SERVER.take();
    drop(server);
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "simulated: the connection is lost")
}

fn spawn(name: &str, task: impl Future<Output = ()> + 'static) {
    if let Some(simulation) = current() {
        simulation.spawn_as(WORLD, name, task);
    }
}

async fn latency(whom: u64) {
    let faults = server().faults.get();
    let ms = if one_in_for(whom, faults.slow) {
        50 + choose_for(whom, 2000)
    } else if one_in_for(whom, faults.latency) {
        1 + choose_for(whom, 8)
    } else {
        0
    };
    sleep_ms(ms).await;
}

impl Server {
    fn start() -> Rc<Self> {
        let server = Rc::new(Server {
            store: RefCell::default(),
            links: RefCell::default(),
            faults: Cell::default(),
            lanes: Cell::new(u32::MAX),
            timer: Notify::new(),
            down: Cell::new(false),
            blocked: Cell::new(false),
            stalled: Cell::new(false),
            goes_on: Notify::new(),
            freed_late: Cell::new(false),
        });
        let timed = Rc::downgrade(&server);
        spawn("broker timer", async move {
            while let Some(server) = timed.upgrade() {
                let next = server.store.borrow().next_expiry();
                match next {
                    Some(at) => drop(tokio::time::timeout_at(at, server.timer.notified()).await),
                    None => server.timer.notified().await,
                }
                server.change(super::store::Store::expire);
            }
        });
        server
    }

    /// Changes the store, and sends what that has left for the sessions.
    fn change<T>(&self, change: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let before = self.store.borrow().next_expiry();
        let changed = change(&mut self.store.borrow_mut(), Instant::now());
        let left = self.store.borrow_mut().take_events();
        if !left.is_empty() {
            let links = self.live_links();
            for (session, events) in left {
                let Some(link) = links.iter().find(|link| link.session == session) else { continue };
                events.into_iter().for_each(|event| link.down.push(Down::Event(event)));
            }
        }
        if self.store.borrow().next_expiry() != before {
            self.timer.notify_one();
        }
        changed
    }

    fn live_links(&self) -> Vec<Rc<Link>> {
        let mut links = self.links.borrow_mut();
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).filter(|link| !link.lost.get()).collect()
    }

    fn some_link(&self) -> Option<Rc<Link>> {
        let links = self.live_links();
        (!links.is_empty()).then(|| Rc::clone(&links[choose(links.len() as u32) as usize]))
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.faults.set(faults);
    }

    /// How many lanes a connection has from here on for consumers.
    pub(super) fn limit_lanes(&self, most: u32) {
        self.lanes.set(most);
    }

    /// Some connection is lost; either side may notice first.
    pub(super) fn lose_one(&self) {
        if let Some(link) = self.some_link() {
            link.lose();
        }
    }

    pub(super) fn lose_all(&self) {
        for link in self.live_links() {
            link.lose();
        }
    }

    /// The server closes some channel.
    pub(super) fn close_some_lane(&self) {
        let Some(link) = self.some_link() else { return };
        let lanes: Vec<Lane> = link.channels.borrow().keys().filter_map(|channel| channel.lane()).collect();
        if lanes.is_empty() {
            return;
        }
        let lane = lanes[choose(lanes.len() as u32) as usize];
        note(|| format!("the server closes {lane:?} of {}", link.name));
        let why = Error::new(ErrorKind::InvalidState, "simulated: the server closed the channel");
        self.change(|store, now| store.close_lane(link.session, lane, why, now));
    }

    /// The server ends some consumer of its own accord.
    pub(super) fn cancel_some_consumer(&self) {
        let consumers = self.store.borrow().consumers();
        if consumers.is_empty() {
            return;
        }
        let (session, tag) = &consumers[choose(consumers.len() as u32) as usize];
        note(|| format!("the server ends the consumer {tag} of session {session}"));
        self.change(|store, now| store.cancel_consumer(*session, tag, now));
    }

    /// An operator deletes some queue; returns its name and the bodies that went with it.
    pub(super) fn delete_some_queue(&self, which: impl Fn(&QueueState) -> bool) -> Option<(String, Vec<Body>)> {
        let queues: Vec<QueueState> = self.queues().into_iter().filter(which).collect();
        if queues.is_empty() {
            return None;
        }
        let name = queues[choose(queues.len() as u32) as usize].name.clone();
        let bodies = self.change(|store, _| store.remove_queue(&name));
        note(|| format!("an operator deletes the queue {name} with {} messages", bodies.len()));
        Some((name, bodies))
    }

    /// Nobody can connect while it is down.
    pub(super) fn set_down(&self, down: bool) {
        note(|| format!("the broker is {}", if down { "down" } else { "up" }));
        self.down.set(down);
    }

    /// Starts anew: what is not durable is gone.
    pub(super) fn restart(&self) {
        note(|| "the broker restarts".to_owned());
        for link in self.live_links() {
            link.publishes_gone.set(true);
            link.gone.set(true);
            link.notice_loss();
        }
        self.change(Store::restart);
    }

    /// Takes no messages for now, as a broker in alarm does.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if self.blocked.replace(blocked) == blocked {
            return;
        }
        note(|| format!("the broker is {}", if blocked { "blocked" } else { "no longer blocked" }));
        for link in self.live_links() {
            link.down.push(Down::Event(if blocked {
                BrokerEvent::Blocked { reason: "simulated alarm".to_owned() }
            } else {
                BrokerEvent::Unblocked
            }));
        }
        self.goes_on.notify_waiters();
    }

    /// Does nothing for now, as a process that was stopped.
    pub(super) fn set_stalled(&self, stalled: bool) {
        if self.stalled.replace(stalled) != stalled {
            note(|| format!("the broker {}", if stalled { "stalls" } else { "goes on" }));
            self.goes_on.notify_waiters();
        }
    }

    async fn until(&self, ready: impl Fn(&Self) -> bool) {
        loop {
            let mut goes_on = std::pin::pin!(self.goes_on.notified());
            goes_on.as_mut().enable();
            if ready(self) {
                return;
            }
            goes_on.await;
        }
    }

    pub(super) fn queues(&self) -> Vec<QueueState> {
        self.store.borrow().queues()
    }

    pub(super) fn sessions(&self) -> usize {
        self.store.borrow().sessions()
    }

    /// Whether a key may have seemed free that somebody had: its marker was looked at after the limit of the question.
    pub(super) fn freed_late(&self) -> bool {
        self.freed_late.get()
    }

    /// Deliveries that were settled and were not out.
    pub(super) fn settled_wrongly(&self) -> Vec<String> {
        self.store.borrow().settled_wrongly.clone()
    }

    /// Queue and body of every message, whether it waits or is out.
    pub(super) fn bodies(&self) -> Vec<(String, Vec<u8>)> {
        let store = self.store.borrow();
        let bodies = store.bodies().into_iter();
        let encoded = bodies.filter_map(|(queue, body)| encoded(body).map(|bytes| (queue.to_owned(), bytes.to_vec())));
        encoded.collect()
    }
}

/// The channel for questions about this queue, one after the other.
fn beside(queue: &str) -> ChannelId {
    ChannelId::Beside((hash(queue) % 8) as u8)
}

/// The bytes of a body.
pub(super) fn encoded(body: &Body) -> Option<&[u8]> {
    match body {
        Body::Encoded(bytes) => Some(bytes),
        Body::Value(_) => None,
    }
}

/// One of a connection's channels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum ChannelId {
    Topology,
    /// As many as there are questions at once, in good measure.
    Beside(u8),
    Publish,
    Lane(Lane),
}

impl ChannelId {
    fn lane(self) -> Option<Lane> {
        match self {
            ChannelId::Lane(lane) => Some(lane),
            ChannelId::Topology | ChannelId::Beside(_) | ChannelId::Publish => None,
        }
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Done,
    Fails,
    HalfDone,
    Refused,
}

/// What a request does at the broker.
type Work = Box<dyn FnOnce(&Rc<Link>, Fate)>;

/// Something that the client has written.
struct Up {
    /// For its fate.
    what: &'static str,
    may_fail: bool,
    work: Work,
}

/// Something that the server has written.
enum Down {
    Event(BrokerEvent),
    Answer(Box<dyn FnOnce()>),
}

#[derive(Default)]
struct Channel {
    up: RefCell<VecDeque<Up>>,
    more: Notify,
}

#[derive(Default)]
struct ToClient {
    queue: RefCell<VecDeque<Down>>,
    more: Notify,
}

impl ToClient {
    fn push(&self, down: Down) {
        self.queue.borrow_mut().push_back(down);
        self.more.notify_one();
    }
}

struct Link {
    server: Weak<Server>,
    session: SessionId,
    name: Rc<str>,
    channels: RefCell<BTreeMap<ChannelId, Rc<Channel>>>,
    down: Rc<ToClient>,
    /// As the client sees it.
    lost: Cell<bool>,
    /// No `watch`, whose waiters are woken in an order that tokio draws.
    lost_now: Notify,
    /// As the server sees it; what publishes are read from goes apart from the rest.
    gone: Cell<bool>,
    publishes_gone: Cell<bool>,
    operation_timeout: Duration,
    events: EventSender,
}

impl Link {
    fn set_lost(&self) {
        self.lost.set(true);
        self.lost_now.notify_waiters();
    }

    async fn until_lost(&self) {
        let mut lost = std::pin::pin!(self.lost_now.notified());
        lost.as_mut().enable();
        if !self.lost.get() {
            lost.await;
        }
    }

    /// The connection breaks. Which side notices first is drawn.
    fn lose(self: &Rc<Self>) {
        note(|| format!("{} breaks", self.name));
        let (client, server) = match choose_for(hash(&self.name), 6) {
            0 | 1 => (0, 0),
            2 => (0, 50),
            3 => (0, 300),
            // By heartbeats: the server has given the tasks to others while this client still runs them.
            4 => (100, 0),
            _ => (3000, 0),
        };
        self.server_notices(server);
        let link = Rc::clone(self);
        spawn(&format!("{} client notices", self.name), async move {
            sleep_ms(client).await;
            link.notice_loss();
        });
    }

    fn notice_loss(&self) {
        if !self.lost.get() {
            note(|| format!("{} is seen to be lost", self.name));
            self.set_lost();
            let _ = self.events.send(BrokerEvent::Lost { error: lost() });
        }
    }

    /// What was written before may still be done.
    fn server_notices(self: &Rc<Self>, after_ms: u32) {
        let link = Rc::clone(self);
        spawn(&format!("{} server notices", self.name), async move {
            sleep_ms(after_ms).await;
            link.publishes_gone.set(choose(2) == 0);
            link.gone.set(true);
            if let Some(server) = link.server.upgrade() {
                server.change(|store, now| store.disconnect(link.session, now));
            }
        });
    }

    fn channel(self: &Rc<Self>, id: ChannelId) -> Rc<Channel> {
        let known = self.channels.borrow().get(&id).map(Rc::clone);
        known.unwrap_or_else(|| {
            let channel = Rc::new(Channel::default());
            self.channels.borrow_mut().insert(id, Rc::clone(&channel));
            let (link, served) = (Rc::downgrade(self), Rc::clone(&channel));
            let name = format!("{} {id:?}", self.name);
            spawn(&name.clone(), async move { serve_channel(link, id, served, hash(&name)).await });
            channel
        })
    }

    fn write(
        self: &Rc<Self>,
        channel: ChannelId,
        what: &'static str,
        may_fail: bool,
        work: impl FnOnce(&Rc<Self>, Fate) + 'static,
    ) {
        if !self.lost.get() {
            let channel = self.channel(channel);
            channel.up.borrow_mut().push_back(Up { what, may_fail, work: Box::new(work) });
            channel.more.notify_one();
        }
    }

    /// Writes a question at the first poll. It is done whether or not anybody waits for the answer.
    async fn ask<T: 'static>(
        self: Rc<Self>,
        channel: ChannelId,
        what: &'static str,
        name: String,
        work: impl FnOnce(&mut Store, SessionId, Instant) -> Result<T> + 'static,
    ) -> Result<T> {
        if self.lost.get() {
            return Err(lost());
        }
        let (answer, answered) = oneshot::channel();
        let asked = name.clone();
        self.write(channel, what, true, move |link, fate| {
            let outcome = link.carry_out(what, &asked, fate, work);
            if let (Some(lane), Err(error)) = (channel.lane(), &outcome)
                && !matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionLost)
            {
                // As with RabbitMQ: what is refused costs the channel, and those who share it.
                link.close_lane(lane, error.clone());
            }
            link.down.push(Down::Answer(Box::new(move || drop(answer.send(outcome)))));
        });
        let answered = tokio::time::timeout(self.operation_timeout, answered);
        tokio::select! {
            biased;
            () = self.until_lost() => Err(lost()),
            answered = answered => match answered {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(lost()),
                Err(_) => {
                    note(|| format!("{} {what} {name}: no answer in time", self.name));
                    self.begin_anew(channel);
                    Err(Error::new(ErrorKind::TimedOut, format!("simulated: {what} had no answer in time")))
                }
            },
        }
    }

    fn carry_out<T>(
        &self,
        what: &'static str,
        name: &str,
        fate: Fate,
        work: impl FnOnce(&mut Store, SessionId, Instant) -> Result<T>,
    ) -> Result<T> {
        let no_answer = || Error::new(ErrorKind::TimedOut, format!("simulated: {what} had no answer"));
        let Some(server) = self.server.upgrade() else { return Err(lost()) };
        let work = |store: &mut Store, now| work(store, self.session, now);
        let outcome = match fate {
            Fate::Done => server.change(work),
            Fate::Fails => Err(no_answer()),
            Fate::HalfDone => server.change(work).and_then(|_| Err(no_answer())),
            Fate::Refused => Err(Error::new(ErrorKind::DeliveryFailed, "simulated: the broker refused the message")),
        };
        note(|| {
            let outcome = outcome.as_ref().map_or_else(|error| format!("{:?}", error.kind()), |_| "ok".to_owned());
            format!("{} {what} {name}: {fate:?}, {outcome}", self.name)
        });
        outcome
    }

    /// As with RabbitMQ: a lane whose question had no answer is closed and opened again.
    fn begin_anew(self: &Rc<Self>, channel: ChannelId) {
        if let ChannelId::Lane(lane) = channel {
            self.write(channel, "close", false, move |link, _| {
                let why = Error::new(ErrorKind::TimedOut, "simulated: a question on the channel had no answer");
                link.close_lane(lane, why);
            });
        }
    }

    fn close_lane(&self, lane: Lane, why: Error) {
        if let Some(server) = self.server.upgrade() {
            server.change(|store, now| store.close_lane(self.session, lane, why, now));
        }
    }
}

/// The server's side of a channel: one thing after the other.
async fn serve_channel(link: Weak<Link>, id: ChannelId, channel: Rc<Channel>, whom: u64) {
    loop {
        let next = channel.up.borrow_mut().pop_front();
        let Some(up) = next else {
            if link.strong_count() == 0 {
                return;
            }
            channel.more.notified().await;
            continue;
        };
        latency(whom).await;
        let Some(server) = link.upgrade().and_then(|link| link.server.upgrade()) else { return };
        server.until(|server| !(server.stalled.get() || (id == ChannelId::Publish && server.blocked.get()))).await;
        let Some(link) = link.upgrade() else { return };
        if link.gone.get() && (id != ChannelId::Publish || link.publishes_gone.get()) {
            return;
        }
        let faults = server.faults.get();
        let whom = whom ^ hash(up.what);
        let fate = if !up.may_fail {
            Fate::Done
        } else if one_in_for(whom, faults.fails) {
            Fate::Fails
        } else if one_in_for(whom, faults.half_done) {
            Fate::HalfDone
        } else if id == ChannelId::Publish && one_in_for(whom, faults.refused) {
            Fate::Refused
        } else {
            Fate::Done
        };
        (up.work)(&link, fate);
        if matches!(fate, Fate::Fails | Fate::HalfDone)
            && let Some(lane) = id.lane()
        {
            let why = Error::new(ErrorKind::TimedOut, "simulated: a question on the channel had no answer");
            link.close_lane(lane, why);
        }
    }
}

/// The way to the client, in order.
async fn serve_client(link: Weak<Link>, to_client: Rc<ToClient>, whom: u64) {
    loop {
        let next = to_client.queue.borrow_mut().pop_front();
        let Some(down) = next else {
            if link.strong_count() == 0 {
                return;
            }
            to_client.more.notified().await;
            continue;
        };
        latency(whom).await;
        server().until(|server| !server.stalled.get()).await;
        let Some(link) = link.upgrade() else { return };
        if link.lost.get() {
            return;
        }
        match down {
            Down::Answer(answer) => answer(),
            Down::Event(event) => {
                if let BrokerEvent::Delivery { consumer, delivery } = &event {
                    note(|| {
                        let (id, tag) =
                            (delivery.properties.message_id.as_deref().unwrap_or("-"), delivery.receipt.tag);
                        let again = if delivery.redelivered { " again" } else { "" };
                        format!("{} delivers {id} to {consumer}, tag {tag}{again}", link.name)
                    });
                }
                let _ = link.events.send(event);
            }
        }
    }
}

/// A connection to the broker of the simulation.
pub(crate) struct Simulated {
    link: Rc<Link>,
    closed: Cell<bool>,
}

impl Simulated {
    fn declare_by(&self, channel: ChannelId, spec: &QueueSpec) -> impl Future<Output = Result<()>> + use<> {
        let (link, spec) = (Rc::clone(&self.link), spec.clone());
        link.ask(channel, "declare queue", spec.name.clone(), move |store, session, now| {
            store.declare_queue(session, &spec, now)
        })
    }

    /// How many messages went with it.
    fn delete_by(&self, channel: ChannelId, queue: &str) -> impl Future<Output = Result<u32>> + use<> {
        let (link, queue) = (Rc::clone(&self.link), queue.to_owned());
        link.ask(channel, "delete queue", queue.clone(), move |store, session, _| store.delete_queue(session, &queue))
    }
}

impl Broker for Simulated {
    async fn connect(url: &BrokerUrl, options: &ConnectOptions, events: EventSender) -> Result<Self> {
        if !matches!(url, BrokerUrl::Simulated { .. }) {
            return Err(Error::new(ErrorKind::InvalidArgument, "simulated: this URL is not one of a simulation"));
        }
        let server = server();
        // Guards: a story that is another one each time it is told. A communicator without a name has that of the process.
        let connection = options.connection_name.replace(&std::process::id().to_string(), "process");
        let whom = hash(&connection);
        let refused = || Error::new(ErrorKind::Connection, "simulated: nothing listens");
        let reached = async {
            latency(whom).await;
            server.until(|server| !server.stalled.get()).await;
            if server.down.get() || one_in_for(whom, server.faults.get().connects) {
                note(|| format!("{connection} cannot connect"));
                return Err(refused());
            }
            Ok(server.change(|store, _| store.connect()))
        };
        let reached = tokio::time::timeout(options.connect_timeout, reached).await;
        let session = reached.unwrap_or_else(|_| Err(refused()))?;
        let name = format!("{connection} session {session}");
        let link = Rc::new(Link {
            server: Rc::downgrade(&server),
            session,
            name: name.as_str().into(),
            channels: RefCell::default(),
            down: Rc::default(),
            lost: Cell::new(false),
            lost_now: Notify::new(),
            gone: Cell::new(false),
            publishes_gone: Cell::new(false),
            operation_timeout: options.operation_timeout,
            events,
        });
        note(|| format!("{name} is connected"));
        server.links.borrow_mut().push(Rc::downgrade(&link));
        if server.blocked.get() {
            link.down.push(Down::Event(BrokerEvent::Blocked { reason: "simulated alarm".to_owned() }));
        }
        let down = format!("{connection} down");
        spawn(&down, serve_client(Rc::downgrade(&link), Rc::clone(&link.down), hash(&down)));
        Ok(Simulated { link, closed: Cell::new(false) })
    }

    fn server_properties(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn publish(&self, id: PublishId, message: Rc<Message>) -> Option<Result<()>> {
        if self.link.lost.get() || self.closed.get() {
            return Some(Err(lost()));
        }
        let message_id = message.properties.message_id.as_deref().unwrap_or("-");
        let headers = message.properties.headers();
        let name = named(|| format!("{}/{} {message_id} {headers:?}", message.exchange, message.routing_key));
        self.link.write(ChannelId::Publish, "publish", true, move |link, fate| {
            let outcome = link.carry_out("publish", &name, fate, |store, session, now| {
                // Its session may be gone where the server still reads what was written to it.
                if store.is_connected(session) {
                    store.publish(session, &message, now)
                } else {
                    store.publish_late(&message, now)
                }
            });
            // A publish has no limit of time: what is not known is a channel that has died.
            let outcome = outcome.map_err(|error| match error.kind() {
                ErrorKind::TimedOut => Error::new(ErrorKind::DeliveryFailed, "simulated: the publishing channel died"),
                _ => error,
            });
            link.down.push(Down::Event(BrokerEvent::Published { id, outcome }));
        });
        None
    }

    fn properties_limit(&self) -> usize {
        100_000
    }

    fn lanes_limit(&self) -> u32 {
        self.link.server.upgrade().map_or(u32::MAX, |server| server.lanes.get())
    }

    fn declare_exchange(&self, spec: &ExchangeSpec) -> impl Future<Output = Result<()>> {
        let (link, spec) = (Rc::clone(&self.link), spec.clone());
        link.ask(ChannelId::Topology, "declare exchange", spec.name.to_string(), move |store, session, _| {
            store.declare_exchange(session, &spec)
        })
    }

    fn declare_queue(&self, spec: &QueueSpec) -> impl Future<Output = Result<()>> {
        self.declare_by(ChannelId::Topology, spec)
    }

    fn declare_queue_beside(&self, spec: &QueueSpec) -> impl Future<Output = Result<()>> {
        self.declare_by(beside(&spec.name), spec)
    }

    fn delete_queue_beside(&self, queue: &str) -> impl Future<Output = Result<Option<u32>>> {
        let deleted = self.delete_by(beside(queue), queue);
        async { deleted.await.map(Some) }
    }

    fn bind(&self, queue: &str, exchange: &str, routing_key: &str) -> impl Future<Output = Result<()>> {
        let (queue, exchange, key) = (queue.to_owned(), exchange.to_owned(), routing_key.to_owned());
        let link = Rc::clone(&self.link);
        link.ask(ChannelId::Topology, "bind", named(|| format!("{queue} to {key}")), move |store, session, _| {
            store.bind(session, &queue, &exchange, &key)
        })
    }

    fn unbind(&self, queue: &str, exchange: &str, routing_key: &str) -> impl Future<Output = Result<()>> {
        let (queue, exchange, key) = (queue.to_owned(), exchange.to_owned(), routing_key.to_owned());
        let link = Rc::clone(&self.link);
        link.ask(ChannelId::Topology, "unbind", named(|| format!("{queue} from {key}")), move |store, session, _| {
            store.unbind(session, &queue, &exchange, &key)
        })
    }

    fn delete_queue(&self, queue: &str) -> impl Future<Output = Result<()>> {
        let deleted = self.delete_by(ChannelId::Topology, queue);
        async { deleted.await.map(drop) }
    }

    fn consume(&self, spec: &ConsumeSpec) -> impl Future<Output = Result<()>> {
        let (link, spec) = (Rc::clone(&self.link), spec.clone());
        let name = named(|| format!("{} as {} {:?}", spec.queue, spec.tag, spec.acknowledge));
        link.ask(ChannelId::Lane(spec.lane), "consume", name, move |store, session, now| {
            store.consume(session, &spec, now)
        })
    }

    async fn cancel(&self, consumer: &str) -> Result<()> {
        let (link, tag) = (Rc::clone(&self.link), consumer.to_owned());
        let lane = link.server.upgrade().and_then(|server| server.store.borrow().lane_of(link.session, &tag));
        let Some(lane) = lane else { return if link.lost.get() { Err(lost()) } else { Ok(()) } };
        link.ask(ChannelId::Lane(lane), "cancel", tag.clone(), move |store, session, now| {
            store.cancel(session, &tag, now)
        })
        .await
    }

    fn get(&self, queue: &str, lane: Lane) -> impl Future<Output = Result<Option<Delivery>>> {
        let (link, queue, asked) = (Rc::clone(&self.link), queue.to_owned(), Instant::now());
        let limit = link.operation_timeout;
        link.ask(ChannelId::Lane(lane), "get", queue.clone(), move |store, session, now| {
            if queue.starts_with("homing-unique") && now - asked > limit {
                server().freed_late.set(true);
            }
            store.get(session, &queue, lane, now)
        })
    }

    fn ack(&self, receipt: Receipt) {
        self.link.write(ChannelId::Lane(receipt.lane), "ack", false, move |link, _| {
            note(|| format!("{} ack {}", link.name, receipt.tag));
            if let Some(server) = link.server.upgrade() {
                server.change(|store, now| store.ack(link.session, receipt, now));
            }
        });
    }

    fn nack(&self, receipt: Receipt, then: Nack) {
        self.link.write(ChannelId::Lane(receipt.lane), "nack", false, move |link, _| {
            note(|| format!("{} nack {} {then:?}", link.name, receipt.tag));
            if let Some(server) = link.server.upgrade() {
                server.change(|store, now| store.nack(link.session, receipt, then, now));
            }
        });
    }

    async fn close(&self, limit: Duration) -> Result<()> {
        self.closed.set(true);
        if self.link.lost.get() {
            return Ok(());
        }
        let channels: Vec<ChannelId> = self.link.channels.borrow().keys().copied().collect();
        let flushed = async {
            for channel in channels {
                let (done, flushed) = oneshot::channel::<()>();
                self.link.write(channel, "flush", false, move |_, _| drop(done));
                let _ = flushed.await;
            }
        };
        let flushed = tokio::time::timeout(limit, flushed).await.is_ok();
        note(|| format!("{} is closed{}", self.link.name, if flushed { "" } else { " with something unwritten" }));
        self.link.set_lost();
        self.link.server_notices(0);
        Ok(())
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        // Also one that is dropped in the middle of its close.
        if !self.link.lost.get() && current().is_some() {
            note(|| format!("{} is dropped", self.link.name));
            self.link.set_lost();
            self.link.server_notices([0, 0, 5, 300][choose_for(hash(&self.link.name), 4) as usize]);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The tasks of its channels end.
        for channel in self.channels.borrow().values() {
            channel.more.notify_one();
        }
        self.down.more.notify_one();
    }
}
