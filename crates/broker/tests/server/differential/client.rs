//! A client of one broker that runs programs and notes what can be observed.

use super::allowed::{self, Verdict};
use super::program::{Action, Bind, Consume, Declare, How, Many, PLACES, Program, Publish, Step, table};
use super::wire::{Address, Incoming, Link, What};
use crate::raw::message_of;
use homing_broker::protocol::{
    Properties, Table,
    methods::{basic, channel, confirm, connection, exchange, queue, tx},
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel as pipe};
use std::time::{Duration, Instant};

/// What was observed in one step: of each source that is in order by itself, what came in its order. Between sources there is
/// no order that a broker promises: deliveries of two queues, or of two channels, come as they come.
pub type Events = BTreeMap<String, Vec<String>>;

/// What was observed in a step, and which message was settled.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub events: Events,
    pub picked: Option<Picked>,
    /// What may differ from here on, by the rows of [`allowed`].
    pub may_differ: BTreeSet<&'static str>,
    /// The longest time until now that passed without sleeping.
    pub awake: Duration,
}

/// A message that is out, as both brokers know it: delivery tags may differ where two queues deliver at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    queue: String,
    body: String,
    /// How many of that body are out of that queue before it.
    before: usize,
    /// All that is out on the channel up to the last one.
    everything: bool,
    many: Many,
}

#[derive(Debug, Default)]
struct Place {
    /// In the order of their delivery tags.
    out: Vec<Out>,
    /// Settled in a transaction that may be rolled back.
    in_transaction: Vec<Out>,
    is_transactional: bool,
    /// It has published what is not committed.
    has_published: bool,
    consumers: HashMap<String, (String, bool)>,
    last_declared: String,
    /// What a get that is under way asked for.
    getting: Option<(String, bool)>,
    /// How a consumer that is under way was asked for.
    starting: Option<(String, bool)>,
    confirms: Option<Confirms>,
    awaits_flow: bool,
    awaits_close: bool,
    awaits_answer: bool,
    last_tag: u64,
}

#[derive(Clone, Debug)]
struct Out {
    tag: u64,
    queue: String,
    body: String,
    /// Whose it is, `None` for one that was taken by a get.
    consumer: Option<String>,
}

#[derive(Debug, Default)]
struct Confirms {
    published: u64,
    open: BTreeSet<u64>,
}

/// The channels by which queues are looked into, beside those of the program.
const CONTROL: u16 = 20;

/// How many of them there are at most.
const CONTROLS: usize = 40;

/// All places.
const ALL: [usize; PLACES.len()] = [0, 1, 2];

/// How long an answer may take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a difference in counts is waited for until they are asked for again.
const BETWEEN_PROBES: Duration = Duration::from_millis(5);

/// A client with two connections to one broker.
#[derive(Debug)]
pub struct Client {
    address: Address,
    links: [Link; 2],
    incoming: Receiver<Incoming>,
    to: Sender<Incoming>,
    places: [Place; PLACES.len()],
    /// What sets the names of this run apart.
    prefix: String,
    /// The names that the broker made up, of queues and consumers.
    made_up: Vec<String>,
    quorum_queues: Vec<String>,
    seen: Events,
    may_differ: BTreeSet<&'static str>,
    /// A connection was lost in this step.
    lost: bool,
    control: HashMap<(usize, u16), String>,
    control_open: HashSet<(usize, u16)>,
    drained: HashMap<(usize, u16), Vec<String>>,
    is_draining: bool,
    /// What made no sense in itself.
    broken: Vec<String>,
    /// What is noted is to be compared with what RabbitMQ 4 shows.
    pub beside_four: bool,
}

impl Client {
    pub fn new(address: Address) -> Self {
        let (to, incoming) = pipe();
        let links = [0, 1].map(|link| Link::open(&address, link, 0, to.clone()));
        Self {
            address,
            links,
            incoming,
            to,
            places: Default::default(),
            prefix: String::new(),
            made_up: Vec::new(),
            quorum_queues: Vec::new(),
            seen: Events::new(),
            may_differ: BTreeSet::new(),
            lost: false,
            control: HashMap::new(),
            control_open: HashSet::new(),
            drained: HashMap::new(),
            is_draining: false,
            broken: Vec::new(),
            beside_four: false,
        }
    }

    /// Whether the broker is a RabbitMQ 4.
    pub fn is_four(&self) -> bool {
        self.links[0].version.starts_with("4.")
    }

    /// Runs a program. With a `model` each step waits until it was observed what the model has, or the patience is over. The first
    /// step that is not the same ends the run, and its number is returned.
    pub fn run(
        &mut self,
        program: &Program,
        prefix: &str,
        model: Option<&[Observed]>,
        patience: Duration,
    ) -> (Vec<Observed>, Option<(usize, Verdict)>) {
        prefix.clone_into(&mut self.prefix);
        self.made_up.clear();
        self.may_differ.clear();
        self.broken.clear();
        self.places = Default::default();
        for (link, channel) in PLACES {
            self.links[link].send(channel, channel::Open {});
        }
        self.barrier(&ALL);
        self.seen.clear();
        let steps = [&program.steps[..], &program.epilogue()].concat();
        // Each step there has to be over before the next.
        self.quorum_queues = program.queues.iter().filter(|queue| program.is_quorum(queue)).cloned().collect();
        let has_quorum = !self.quorum_queues.is_empty();
        let mut trace: Vec<Observed> = Vec::new();
        let mut different = None;
        let (mut awake_since, mut awake) = (Instant::now(), Duration::ZERO);
        for number in 0..=steps.len() {
            let expected = model.and_then(|model| model.get(number));
            awake = awake.max(awake_since.elapsed());
            let picked = match steps.get(number) {
                Some(step) => {
                    self.note_what_may_differ(program, step);
                    let picked = self.perform(step, expected.and_then(|expected| expected.picked.as_ref()));
                    self.barrier(&[step.place]);
                    // What it causes elsewhere is on its way then, as far as that is known.
                    if expected.is_none() {
                        self.barrier(&ALL);
                    }
                    let until = Instant::now() + patience;
                    let counts_come = steps.get(number + 1).is_some_and(|next| next.action.counts());
                    let probes = step.action == Action::Probe || self.lost || has_quorum || counts_come;
                    self.settle_down(program, probes, expected, until);
                    picked
                }
                None => {
                    let until = Instant::now() + patience;
                    self.probe_at_the_end(program, expected, "queue", until);
                    self.drain(program);
                    // What was taken out may have made room for what was over behind it, which died then.
                    self.probe_at_the_end(program, expected, "queue at last", until);
                    self.drain(program);
                    None
                }
            };
            self.lost = false;
            let mut events = std::mem::take(&mut self.seen);
            if !self.broken.is_empty() {
                events.insert("broken".to_owned(), std::mem::take(&mut self.broken));
            }
            let verdict = expected.map_or(Verdict::Same, |expected| {
                allowed::compare(
                    program,
                    steps.get(number),
                    self.beside_four,
                    &expected.may_differ,
                    &events,
                    &expected.events,
                )
            });
            let verdict = match (verdict, expected) {
                (Verdict::Different, Some(expected))
                    if program.has_short_times() && awake.max(expected.awake) > super::AWAKE =>
                {
                    Verdict::TooSlow
                }
                (verdict, _) => verdict,
            };
            if steps.get(number).is_some_and(|step| step.action == Action::Sleep) {
                awake_since = Instant::now();
            }
            trace.push(Observed { events, picked, may_differ: self.may_differ.clone(), awake });
            if verdict != Verdict::Same {
                different = Some((number, verdict));
                break;
            }
        }
        self.clean(program);
        (trace, different)
    }

    /// Waits until what is expected has come, or, where nothing is, what has to come.
    fn settle_down(&mut self, program: &Program, probes: bool, expected: Option<&Observed>, until: Instant) {
        let Some(expected) = expected else {
            self.wait("confirms", |client| {
                client
                    .places
                    .iter()
                    .all(|place| place.confirms.as_ref().is_none_or(|confirms| confirms.open.is_empty()))
            });
            if probes {
                self.probe(program);
            }
            return self.sort_confirms();
        };
        loop {
            if probes {
                self.probe(program);
            }
            self.sort_confirms();
            if self.seen == expected.events || Instant::now() >= until {
                return;
            }
            self.take_next(if probes { Instant::now() + BETWEEN_PROBES } else { until });
        }
    }

    /// Waits until the counts are what is expected.
    fn probe_at_the_end(&mut self, program: &Program, expected: Option<&Observed>, source: &str, until: Instant) {
        loop {
            self.probe_as(program, source);
            let is_so = |expected: &Observed| {
                let mut counts = self.seen.iter().filter(|(of, _)| of.starts_with(&format!("{source} %")));
                counts.all(|(source, counts)| expected.events.get(source) == Some(counts))
            };
            if expected.is_none_or(is_so) || Instant::now() >= until {
                return;
            }
            self.take_next(Instant::now() + BETWEEN_PROBES);
        }
    }

    /// Notes which rows of [`allowed`] this step brings into play.
    fn note_what_may_differ(&mut self, program: &Program, step: &Step) {
        let has_quorum = !self.quorum_queues.is_empty();
        if let Action::Publish(publish) = &step.action {
            let expires = publish.expiration.is_some() || program.has_argument("x-message-ttl");
            let rows = [
                (expires && program.has_argument("x-max-priority"), allowed::PRIORITY_EXPIRY),
                (expires && has_quorum, allowed::QUORUM_EXPIRY),
                (has_quorum && program.has_argument("x-max-length"), allowed::QUORUM_LENGTH),
                (has_quorum && program.has_argument("x-dead-letter"), allowed::QUORUM_ORDER),
            ];
            self.may_differ.extend(rows.into_iter().filter_map(|(may, row)| may.then_some(row)));
        }
        if self.places.iter().any(|place| place.has_published) && step.action.changes_routes() {
            self.may_differ.insert(allowed::ROUTED_AT_COMMIT);
        }
        // More than one consumer's messages of one queue come back at once.
        let is_mixed = |place: &Place| {
            let mut out = place.out.iter().chain(&place.in_transaction);
            out.any(|one| place.out.iter().any(|two| one.queue == two.queue && one.consumer != two.consumer))
        };
        if self.places.iter().any(is_mixed) {
            self.may_differ.insert(allowed::BACK_AT_ONCE);
        }
        let place = &self.places[step.place];
        match &step.action {
            Action::Qos { global: true, .. } if has_quorum => {
                self.may_differ.insert(allowed::QUORUM_QOS);
            }
            Action::Qos { count: 1.., global: true } => {
                if place.out.iter().any(|out| out.consumer.is_none()) {
                    self.may_differ.insert(allowed::GOT_COUNTS);
                }
                if !place.in_transaction.is_empty() {
                    self.may_differ.insert(allowed::SETTLED_COUNTS);
                }
            }
            Action::Settle { how: How::Nack { requeue: true } | How::Reject { requeue: true }, .. }
            | Action::Recover { .. }
            | Action::CloseChannel
            | Action::CloseConnection
            | Action::TxCommit
                if self.places.iter().any(|place| {
                    place.out.iter().chain(&place.in_transaction).any(|out| program.is_quorum(&out.queue))
                }) =>
            {
                self.may_differ.insert(allowed::QUORUM_ORDER);
            }
            _ => {}
        }
    }

    /// A name of the program as the broker has it.
    fn real(&self, name: &str) -> String {
        if let Some(number) = name.strip_prefix("%gen") {
            return number
                .parse()
                .ok()
                .and_then(|number: usize| self.made_up.get(number))
                .map_or_else(|| format!("{}gen{number}", self.prefix), Clone::clone);
        }
        name.replace('%', &self.prefix)
    }

    /// A text of the broker with the program's names.
    fn plain(&self, text: &str) -> String {
        let mut text = text.replace(&self.prefix, "%");
        for (number, name) in self.made_up.iter().enumerate() {
            text = text.replace(name, &format!("%gen{number}"));
        }
        text
    }

    /// A text of the broker as it is compared.
    fn shown(&self, text: &str) -> String {
        let text = self.plain(text);
        if self.beside_four { allowed::as_beside_four(text) } else { text }
    }

    fn note(&mut self, source: String, event: &str) {
        let event = self.shown(event);
        self.seen.entry(source).or_default().push(event);
    }

    fn send<'a>(&mut self, place: usize, method: impl Into<homing_broker::protocol::Method<'a>>) {
        let (link, channel) = PLACES[place];
        self.links[link].send(channel, method);
    }

    /// Sends what a step is.
    fn perform(&mut self, step: &Step, picked: Option<&Picked>) -> Option<Picked> {
        let at = step.place;
        match &step.action {
            Action::DeclareQueue(declare) => self.declare_queue(at, declare),
            Action::DeleteQueue { name, if_unused, if_empty } => {
                let queue = &self.real(name);
                self.send(at, queue::Delete { queue, if_unused: *if_unused, if_empty: *if_empty, no_wait: false });
            }
            Action::Purge { name } => {
                let queue = &self.real(name);
                self.send(at, queue::Purge { queue, no_wait: false });
            }
            Action::DeclareExchange(declare) => self.declare_exchange(at, declare),
            Action::DeleteExchange { name, if_unused } => {
                let exchange = &self.real(name);
                self.send(at, exchange::Delete { exchange, if_unused: *if_unused, no_wait: false });
            }
            Action::BindQueue(bind)
            | Action::UnbindQueue(bind)
            | Action::BindExchange(bind)
            | Action::UnbindExchange(bind) => {
                self.bind(at, &step.action, bind);
            }
            Action::Publish(publish) => self.publish(at, publish),
            Action::Get { queue, no_ack } => {
                let real = &self.real(queue);
                self.places[at].getting = Some((self.queue_name(at, queue), *no_ack));
                self.send(at, basic::Get { queue: real, no_ack: *no_ack });
            }
            Action::Consume(consume) => self.consume(at, consume),
            Action::Cancel { tag } => {
                let consumer_tag = &self.real(tag);
                self.send(at, basic::Cancel { consumer_tag, no_wait: false });
            }
            Action::Qos { count, global } => {
                self.send(at, basic::Qos { prefetch_size: 0, prefetch_count: *count, global: *global });
            }
            Action::Settle { pick, how, many } => return self.settle(at, *pick, *how, *many, picked),
            Action::SettleUnknown { how } => self.settle_tag(at, 77_777, *how, false),
            Action::Recover { requeue } => {
                if *requeue {
                    self.places[at].out.clear();
                }
                self.send(at, basic::Recover { requeue: *requeue });
            }
            Action::ConfirmSelect => {
                if !self.places[at].is_transactional {
                    self.places[at].confirms.get_or_insert_default();
                }
                self.send(at, confirm::Select { no_wait: false });
            }
            Action::TxSelect => {
                if self.places[at].confirms.is_none() {
                    self.places[at].is_transactional = true;
                }
                self.send(at, tx::Select {});
            }
            Action::TxCommit => {
                self.places[at].in_transaction.clear();
                self.places[at].has_published = false;
                self.send(at, tx::Commit {});
                // allowed::PIPELINED_COMMIT: RabbitMQ takes nothing else until it has answered.
                self.places[at].awaits_answer = true;
                self.wait("an answer to the commit", |client| !client.places[at].awaits_answer);
            }
            Action::TxRollback => {
                let place = &mut self.places[at];
                let back = std::mem::take(&mut place.in_transaction);
                place.has_published = false;
                place.out.extend(back);
                place.out.sort_by_key(|out| out.tag);
                self.send(at, tx::Rollback {});
            }
            Action::CloseChannel => {
                self.close_channel(at);
                self.send(at, channel::Open {});
            }
            Action::CloseConnection => {
                let (link, _) = PLACES[at];
                let close = connection::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 };
                self.links[link].send(0, close);
                self.wait("an end of the connection", |client| client.lost);
            }
            Action::Sleep => std::thread::sleep(super::NAP),
            Action::Probe => {}
        }
        None
    }

    /// The queue that a name stands for.
    fn queue_name(&self, at: usize, name: &str) -> String {
        if name.is_empty() { self.places[at].last_declared.clone() } else { name.to_owned() }
    }

    fn declare_queue(&mut self, at: usize, declare: &Declare) {
        let arguments = table(&declare.arguments, &|name| self.real(name));
        let queue = &self.real(&declare.name);
        self.places[at].last_declared.clone_from(&declare.name);
        let method = queue::Declare {
            queue,
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            no_wait: declare.no_wait,
            arguments: Table::unchecked(&arguments),
        };
        self.send(at, method);
    }

    fn declare_exchange(&mut self, at: usize, declare: &Declare) {
        let arguments = table(&declare.arguments, &|name| self.real(name));
        let exchange = &self.real(&declare.name);
        let method = exchange::Declare {
            exchange,
            kind: &declare.kind,
            passive: declare.passive,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            no_wait: declare.no_wait,
            arguments: Table::unchecked(&arguments),
        };
        self.send(at, method);
    }

    fn bind(&mut self, at: usize, action: &Action, bind: &Bind) {
        let bytes = table(&bind.arguments, &|name| self.real(name));
        let arguments = Table::unchecked(&bytes);
        let (source, destination, key) =
            (&*self.real(&bind.source), &*self.real(&bind.destination), &*self.real(&bind.key));
        let (queue, exchange, routing_key, no_wait) = (destination, source, key, false);
        match action {
            Action::BindQueue(_) => self.send(at, queue::Bind { queue, exchange, routing_key, no_wait, arguments }),
            Action::UnbindQueue(_) => self.send(at, queue::Unbind { queue, exchange, routing_key, arguments }),
            Action::BindExchange(_) => {
                self.send(at, exchange::Bind { destination, source, routing_key, no_wait, arguments });
            }
            _ => self.send(at, exchange::Unbind { destination, source, routing_key, no_wait, arguments }),
        }
    }

    fn publish(&mut self, at: usize, publish: &Publish) {
        let bytes = table(&publish.headers, &|name| self.real(name));
        let mut properties = Properties::default();
        properties.headers = (!publish.headers.is_empty()).then_some(Table::unchecked(&bytes));
        properties.delivery_mode = publish.delivery_mode;
        properties.priority = publish.priority;
        properties.expiration = publish.expiration.as_deref().map(str::as_bytes);
        properties.user_id = publish.user_id.as_deref().map(str::as_bytes);
        properties.message_id = publish.message_id.as_deref().map(str::as_bytes);
        let (exchange, key) = (self.real(&publish.exchange), self.real(&publish.key));
        let (link, channel) = PLACES[at];
        let frames = message_of(channel, &exchange, &key, publish.mandatory, properties, publish.body.as_bytes());
        self.places[at].has_published |= self.places[at].is_transactional;
        if let Some(confirms) = &mut self.places[at].confirms {
            confirms.published += 1;
            confirms.open.insert(confirms.published);
        }
        self.links[link].bytes(&frames);
    }

    fn consume(&mut self, at: usize, consume: &Consume) {
        let arguments = table(&consume.arguments, &|name| self.real(name));
        let (queue, consumer_tag) = (&*self.real(&consume.queue), &*self.real(&consume.tag));
        self.places[at].starting = Some((self.queue_name(at, &consume.queue), consume.no_ack));
        let method = basic::Consume {
            queue,
            consumer_tag,
            no_local: false,
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            no_wait: false,
            arguments: Table::unchecked(&arguments),
        };
        self.send(at, method);
    }

    fn settle(&mut self, at: usize, pick: usize, how: How, many: Many, picked: Option<&Picked>) -> Option<Picked> {
        let place = &mut self.places[at];
        let (index, picked) = match picked {
            Some(picked) => {
                let of_it = |out: &Out| out.queue == picked.queue && out.body == picked.body;
                let mut all = (0..place.out.len()).filter(|index| of_it(&place.out[*index]));
                let index = if picked.everything { place.out.len().checked_sub(1) } else { all.nth(picked.before) };
                let Some(index) = index else {
                    self.broken.push(format!("{picked:?} is not out"));
                    return None;
                };
                (index, picked.clone())
            }
            None if place.out.is_empty() => return None,
            None => {
                let mut index = pick % place.out.len();
                let mut everything = false;
                if many == Many::UpTo && place.out[..=index].iter().any(|out| out.queue != place.out[index].queue) {
                    index = place.out.len() - 1;
                    everything = true;
                }
                let Out { queue, body, .. } = place.out[index].clone();
                let before = place.out[..index].iter().filter(|out| out.queue == queue && out.body == body).count();
                (index, Picked { queue, body, before, everything, many })
            }
        };
        let tag = place.out[index].tag;
        let settled: Vec<_> = match picked.many {
            Many::One => vec![place.out.remove(index)],
            Many::UpTo => place.out.drain(..=index).collect(),
            Many::All => place.out.drain(..).collect(),
        };
        if place.is_transactional {
            place.in_transaction.extend(settled);
        }
        let tag = if picked.many == Many::All && !matches!(how, How::Reject { .. }) { 0 } else { tag };
        self.settle_tag(at, tag, how, picked.many != Many::One);
        Some(picked)
    }

    fn settle_tag(&mut self, at: usize, delivery_tag: u64, how: How, multiple: bool) {
        match how {
            How::Ack => self.send(at, basic::Ack { delivery_tag, multiple }),
            How::Nack { requeue } => self.send(at, basic::Nack { delivery_tag, multiple, requeue }),
            How::Reject { requeue } => self.send(at, basic::Reject { delivery_tag, requeue }),
        }
    }

    fn close_channel(&mut self, at: usize) {
        self.send(at, channel::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 });
        self.places[at] = Place { awaits_close: true, ..Place::default() };
        // RabbitMQ knows the channel until it has answered.
        self.wait("close-ok", |client| !client.places[at].awaits_close);
    }

    /// Waits until each of these channels has answered.
    fn barrier(&mut self, places: &[usize]) {
        for at in places.iter().copied() {
            self.places[at].awaits_flow = true;
            self.send(at, channel::Flow { active: true });
        }
        self.wait("flow-ok", |client| client.places.iter().all(|place| !place.awaits_flow));
    }

    fn wait(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < until, "{} waits for {what}: {:?}", self.address.socket, self.seen);
            self.take_next(until);
        }
    }

    /// One confirm may stand for many, and they may come in any order.
    fn sort_confirms(&mut self) {
        for (source, events) in &mut self.seen {
            if source.ends_with("confirms") {
                events.sort();
            }
        }
    }

    /// Takes the next thing that comes, if it comes in time.
    fn take_next(&mut self, until: Instant) {
        match self.incoming.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(incoming) => self.take(incoming),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => unreachable!("the client has a sender itself"),
        }
    }

    fn take(&mut self, Incoming { link, generation, channel, what }: Incoming) {
        if self.links[link].generation != generation {
            return;
        }
        match &what {
            What::ConnectionClosed(text) => {
                self.note(format!("connection {link}"), text);
                self.links[link].send(0, connection::CloseOk {});
                // RabbitMQ does not end the socket after each error.
                return self.reconnect(link);
            }
            // RabbitMQ leaves the end of the socket to the client here.
            What::Reply(text) if text.starts_with("ConnectionCloseOk") => return self.reconnect(link),
            What::End => return self.reconnect(link),
            _ => {}
        }
        match PLACES.iter().position(|place| *place == (link, channel)) {
            Some(at) => self.take_at(at, what),
            None => self.take_control(link, channel, what),
        }
    }

    /// The server has ended a connection.
    fn reconnect(&mut self, link: usize) {
        let generation = self.links[link].generation + 1;
        self.links[link] = Link::open(&self.address, link, generation, self.to.clone());
        self.control_open.retain(|(of, _)| *of != link);
        self.lost = true;
        // Who waits for an answer that was lost with it goes on, and asks again.
        for number in 0..CONTROLS {
            self.control.entry((link, control(number))).or_insert_with(|| "the connection was lost".to_owned());
        }
        for (at, (of, _)) in PLACES.iter().enumerate() {
            if *of == link {
                let awaits_flow = self.places[at].awaits_flow;
                self.places[at] = Place::default();
                self.reopen(at, awaits_flow);
            }
        }
    }

    fn reopen(&mut self, at: usize, awaits_flow: bool) {
        self.send(at, channel::Open {});
        if awaits_flow {
            self.places[at].awaits_flow = true;
            self.send(at, channel::Flow { active: true });
        }
    }

    fn take_at(&mut self, at: usize, what: What) {
        let source = |kind: &str| format!("channel {at}{kind}");
        match what {
            What::FlowOk => self.places[at].awaits_flow = false,
            What::ChannelOpenOk => {}
            What::ChannelCloseOk => self.places[at].awaits_close = false,
            What::Reply(text) => {
                self.places[at].awaits_answer = false;
                self.note(source(""), &text);
            }
            What::Declared { queue, messages, consumers } => {
                if queue.starts_with("amq.gen-") && !self.made_up.contains(&queue) {
                    self.places[at].last_declared = format!("%gen{}", self.made_up.len());
                    self.made_up.push(queue.clone());
                }
                let name = self.plain(&queue);
                let counts = self.counts(&name, messages, consumers);
                self.note(source(""), &format!("declared {name} {counts}"));
            }
            What::ConsumeOk { tag } => {
                if tag.starts_with("amq.ctag-") && !self.made_up.contains(&tag) {
                    self.made_up.push(tag.clone());
                }
                if let Some(starting) = self.places[at].starting.take() {
                    self.places[at].consumers.insert(tag.clone(), starting);
                }
                self.note(source(""), &format!("consumes as {tag}"));
            }
            What::Cancelled { tag } => {
                let tag = self.plain(&tag);
                self.note(source(&format!(" consumer {tag}")), "cancelled by the broker");
            }
            What::Delivered { consumer, tag, text, body } => {
                self.check_tag(at, tag);
                let known = self.places[at].consumers.get(&consumer).cloned();
                if let Some((queue, false)) = known {
                    self.places[at].out.push(Out { tag, queue, body, consumer: Some(consumer.clone()) });
                }
                let consumer = self.plain(&consumer);
                self.note(source(&format!(" consumer {consumer}")), &text);
            }
            What::Got { tag, text, body } => {
                self.check_tag(at, tag);
                if let Some((queue, false)) = self.places[at].getting.take() {
                    self.places[at].out.push(Out { tag, queue, body, consumer: None });
                }
                self.note(source(""), &text);
            }
            What::Returned { text } => self.note(source(" returns"), &text),
            What::Confirmed { tag, multiple, is_ack } => {
                let Some(confirms) = &mut self.places[at].confirms else {
                    self.broken.push(format!("a confirm of {tag} that nobody asked for"));
                    return;
                };
                let of: Vec<u64> =
                    confirms.open.iter().copied().filter(|open| *open == tag || multiple && *open < tag).collect();
                if of.is_empty() {
                    self.broken.push(format!("a second confirm of {tag}"));
                }
                for tag in of {
                    confirms.open.remove(&tag);
                    let event = format!("{} {tag}", if is_ack { "ack" } else { "nack" });
                    self.seen.entry(source(" confirms")).or_default().push(event);
                }
            }
            What::ChannelClosed(text) => {
                self.note(source(""), &text);
                self.send(at, channel::CloseOk {});
                let awaits_flow = self.places[at].awaits_flow;
                self.places[at] = Place::default();
                self.reopen(at, awaits_flow);
            }
            What::ConnectionClosed(_) | What::End => {}
        }
    }

    fn counts(&self, queue: &str, messages: u32, consumers: u32) -> String {
        // allowed::QUORUM_CONSUMERS
        if self.quorum_queues.iter().any(|quorum| quorum == queue) {
            return format!("messages={messages}");
        }
        format!("messages={messages} consumers={consumers}")
    }

    /// Delivery tags of a channel grow by one.
    fn check_tag(&mut self, at: usize, tag: u64) {
        let last = std::mem::replace(&mut self.places[at].last_tag, tag);
        if tag != last + 1 {
            self.broken.push(format!("delivery tag {tag} after {last}"));
        }
    }

    fn take_control(&mut self, link: usize, channel: u16, what: What) {
        let at = (link, channel);
        let answer = match what {
            What::Declared { queue, messages, consumers } => {
                let name = self.plain(&queue);
                self.counts(&name, messages, consumers)
            }
            What::ChannelClosed(text) => {
                self.links[link].send(channel, channel::CloseOk {});
                self.control_open.remove(&at);
                text
            }
            What::Got { text, .. } => {
                // How many are left was asked for before, and more may come while they are taken out.
                let text = self.shown(&text);
                let (before, rest) = text.split_once(" left=").unwrap_or((&text, ""));
                let text = format!("{before} {}", rest.split_once(' ').map_or("", |(_, rest)| rest));
                self.drained.entry(at).or_default().push(text);
                return;
            }
            What::FlowOk => "all".to_owned(),
            What::Reply(_) if self.is_draining => return,
            What::Reply(text) => text,
            _ => return,
        };
        let answer = self.plain(&answer);
        self.control.insert(at, answer);
    }

    /// Makes sure that a channel beside the program's is open.
    fn open_control(&mut self, link: usize, channel: u16) {
        if self.control_open.insert((link, channel)) {
            self.links[link].send(channel, channel::Open {});
        }
    }

    /// The queues that a program may have made, with those whose names the broker made up.
    fn queues(&self, program: &Program) -> Vec<String> {
        let queues = self.made_up.iter().enumerate().filter(|(_, name)| name.starts_with("amq.gen-"));
        program.queues.iter().cloned().chain(queues.map(|(number, _)| format!("%gen{number}"))).collect()
    }

    /// Asks for all queues on one connection; `which` are their numbers.
    fn ask(&mut self, link: usize, which: &[usize], ask: &mut dyn FnMut(&mut Self, usize, u16)) {
        for number in which {
            let channel = control(*number);
            self.control.remove(&(link, channel));
            self.open_control(link, channel);
            ask(self, *number, channel);
        }
        self.wait("the answers of the queues", |client| {
            which.iter().all(|number| client.control.contains_key(&(link, control(*number))))
        });
    }

    /// Asks for the counts of each queue.
    fn probe(&mut self, program: &Program) {
        self.probe_as(program, "queue");
    }

    fn probe_as(&mut self, program: &Program, source: &str) {
        let queues = self.queues(program);
        let mut left: Vec<usize> = (0..queues.len()).collect();
        for link in 0..2 {
            self.ask(link, &left, &mut |client, number, channel| {
                let queue = &client.real(&queues[number]);
                let declare = queue::Declare {
                    queue,
                    passive: true,
                    durable: false,
                    exclusive: false,
                    auto_delete: false,
                    no_wait: false,
                    arguments: Table::EMPTY,
                };
                client.links[link].send(channel, declare);
            });
            left.retain(|number| {
                let answer = &self.control[&(link, control(*number))];
                self.seen.insert(format!("{source} {}", queues[*number]), vec![answer.clone()]);
                answer.contains("RESOURCE_LOCKED")
            });
        }
    }

    /// Takes out what waits, in order.
    fn drain(&mut self, program: &Program) {
        let queues = self.queues(program);
        for link in 0..2 {
            let counts: HashMap<usize, usize> = (0..queues.len())
                .filter_map(|number| {
                    let answer = self.control.get(&(link, control(number)))?;
                    let count = answer.strip_prefix("messages=")?.split(' ').next()?.parse().ok()?;
                    (count > 0).then_some((number, count))
                })
                .collect();
            let mut which: Vec<_> = counts.keys().copied().collect();
            which.sort_unstable();
            for number in which {
                self.is_draining = true;
                self.ask(link, &[number], &mut |client, number, channel| {
                    let queue = &client.real(&queues[number]);
                    for _ in 0..=counts[&number] {
                        client.links[link].send(channel, basic::Get { queue, no_ack: true });
                    }
                    client.links[link].send(channel, channel::Flow { active: true });
                });
                self.is_draining = false;
                let drained = self.drained.remove(&(link, control(number))).unwrap_or_default();
                self.seen.entry(format!("in queue {}", queues[number])).or_default().extend(drained);
            }
        }
    }

    /// Deletes what the program may have left.
    fn clean(&mut self, program: &Program) {
        (0..PLACES.len()).for_each(|at| self.close_channel(at));
        let queues = self.queues(program);
        let mut left: Vec<usize> = (0..queues.len()).collect();
        for link in 0..2 {
            self.ask(link, &left, &mut |client, number, channel| {
                let queue = &client.real(&queues[number]);
                let delete = queue::Delete { queue, if_unused: false, if_empty: false, no_wait: false };
                client.links[link].send(channel, delete);
            });
            left.retain(|number| self.control[&(link, control(*number))].contains("RESOURCE_LOCKED"));
        }
        let exchanges = program.exchanges.clone();
        let all: Vec<usize> = (0..exchanges.len()).collect();
        self.ask(0, &all, &mut |client, number, channel| {
            let exchange = &client.real(&exchanges[number]);
            client.links[0].send(channel, exchange::Delete { exchange, if_unused: false, no_wait: false });
        });
    }
}

/// The channel on which a queue is looked into.
fn control(number: usize) -> u16 {
    CONTROL + u16::try_from(number).expect("a few queues")
}
