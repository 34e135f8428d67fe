//! What homing's own broker takes beside RabbitMQ, with raw frames: no client library is the limit.
//!
//! `cargo build --release -p homing-cli`, then `cargo bench -p homing-broker --features server --bench pump [-- PART]...`. Both
//! brokers run as nodes of their own, in turns; ratios of one run are what counts. The parts:
//!
//! - `rates`: messages of 400 bytes from one publisher through the broker to one consumer, as they are, and persistent, confirmed and
//!   acknowledged;
//! - `memory`: idle, and with 1000 connections and a consumer each (homing without what a node is given for tests: no users beside
//!   `guest`, no management);
//! - `start`: from the start of the process to the first message that is confirmed, with nothing and with a million messages of 1 kB
//!   on the disk (homing alone);
//! - `growth`: how the broker's CPU grows with what it has, as an exponent of the whole (homing alone).

#[path = "../../../benches/node.rs"]
mod node;
#[path = "../tests/server/raw.rs"]
#[allow(dead_code)]
mod raw;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use homing_broker::protocol::{Frame, FrameReader, Method, Properties, Table, methods};
use node::{Kind, Node, median};
use raw::{FRAME_MAX, Got, Raw, consume, declare, message_of};

const BODY: usize = 400;
const TIME: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
/// How many messages are published in one write.
const BATCH: u64 = 100;
/// How many persistent messages may be without a confirm.
const UNCONFIRMED: u64 = 20_000;

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    // cargo test --benches only looks whether it runs.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace");
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if is_wanted("rates") || is_wanted("memory") {
        let nodes = [Kind::RabbitMq, Kind::Own].map(|kind| Node::start(&root, kind));
        // First: what a broker has had at most stays with it.
        if is_wanted("memory") {
            memory(Kind::RabbitMq, &nodes[0].pid(), address(&nodes[0]));
            let directory = Directory::new("memory");
            let broker = Started::on(&node::program(&root), &directory.0);
            memory(Kind::Own, &broker.pid(), broker.address);
        }
        if is_wanted("rates") {
            rates(&nodes);
        }
    }
    if is_wanted("start") {
        start(&root);
    }
    if is_wanted("growth") {
        growth(&root);
    }
}

fn address(node: &Node) -> SocketAddr {
    let place = node.url().rsplit('@').next().unwrap_or_default();
    place.trim_end_matches('/').parse().expect("an address")
}

// --- Rates.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    /// Persistent, confirmed and acknowledged.
    Safe,
}

fn rates(nodes: &[Node; 2]) {
    for (mode, name, goal) in
        [(Mode::Plain, "as they are", 10.0), (Mode::Safe, "persistent, confirmed, acknowledged", 20.0)]
    {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            rounds.push([&nodes[0], &nodes[1]].map(|node| {
                let before = node.cpu();
                let (count, took) = pump(address(node), mode);
                let cpu = (node.cpu() - before).as_secs_f64() * 1e6 / count;
                (count / took.as_secs_f64(), cpu)
            }));
        }
        println!("messages of {BODY} bytes, {name}");
        for (at, kind) in [Kind::RabbitMq, Kind::Own].map(Kind::name).iter().enumerate() {
            let rate = median(rounds.iter().map(|round| round[at].0));
            let cpu = median(rounds.iter().map(|round| round[at].1));
            println!("  {kind:<10} {rate:>10.0} a second, {cpu:.2} us of its CPU each");
        }
        let faster = median(rounds.iter().map(|[there, here]| here.0 / there.0));
        let cheaper = median(rounds.iter().map(|[there, here]| there.1 / here.1));
        println!("  {faster:.1} times the rate (goal {goal}), 1/{cheaper:.1} of the CPU");
    }
}

/// Publishes for a while as fast as the broker takes it, until all has arrived; how many, and in what time.
fn pump(address: SocketAddr, mode: Mode) -> (f64, Duration) {
    let mut consumer = Raw::channel(address);
    let queue = methods::queue::Declare { durable: mode == Mode::Safe, ..declare("pump") };
    consumer.send(1, queue);
    consumer.expect("QueueDeclareOk");
    consumer.send(1, methods::basic::Consume { no_ack: mode == Mode::Plain, ..consume("pump") });
    consumer.expect("BasicConsumeOk");
    let mut publisher = Raw::channel(address);
    let properties = if mode == Mode::Safe { persistent() } else { Properties::default() };
    let confirms = (mode == Mode::Safe).then(|| Confirms::of(&mut publisher));
    let batch = message_of(1, "", "pump", false, properties, &[b'x'; BODY]).repeat(BATCH as usize);
    let start = Instant::now();
    let publishing = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while start.elapsed() < TIME {
            if let Some(confirms) = &confirms {
                confirms.wait(sent.saturating_sub(UNCONFIRMED));
            }
            publisher.stream.write_all(&batch).expect("the broker reads");
            sent += BATCH;
        }
        if let Some(confirms) = &confirms {
            confirms.wait(sent);
        }
        (sent, publisher)
    });
    let mut received = Received { consumer, mode, count: 0, acknowledged: 0, buffer: vec![0; 1 << 20], filled: 0 };
    let mut publishing = Some(publishing);
    let mut sent = None;
    let mut open = None;
    while sent != Some(received.count) {
        if publishing.as_ref().is_some_and(std::thread::JoinHandle::is_finished)
            && let Some(Ok((count, publisher))) = publishing.take().map(std::thread::JoinHandle::join)
        {
            (sent, open) = (Some(count), Some(publisher));
            continue;
        }
        // All may be here before the publisher has heard of it.
        if sent.is_none() && received.waits_in_vain() {
            continue;
        }
        received.read();
    }
    let count = received.count as f64;
    received.end();
    let took = start.elapsed();
    drop(open);
    (count, took)
}

/// What the consumer has.
struct Received {
    consumer: Raw,
    mode: Mode,
    count: u64,
    acknowledged: u64,
    buffer: Vec<u8>,
    filled: usize,
}

impl Received {
    /// Nothing came for a moment.
    fn waits_in_vain(&mut self) -> bool {
        self.consumer.is_silent(Duration::from_millis(5))
    }

    fn read(&mut self) {
        let read = self.consumer.stream.read(&mut self.buffer[self.filled..]).expect("more comes");
        assert_ne!(read, 0, "the broker closed the connection");
        self.filled += read;
        let reader = FrameReader::new(FRAME_MAX);
        let mut at = 0;
        while let Some((frame, taken)) = reader.read(&self.buffer[at..self.filled]).expect("frames") {
            self.count += u64::from(matches!(frame, Frame::Body { .. }));
            at += taken;
        }
        self.buffer.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.mode == Mode::Safe && self.count > self.acknowledged {
            self.consumer.send(1, methods::basic::Ack { delivery_tag: self.count, multiple: true });
            self.acknowledged = self.count;
        }
    }

    /// The queue goes, which is answered behind the acknowledgements.
    fn end(mut self) {
        let delete = methods::queue::Delete { queue: "pump", if_unused: false, if_empty: false, no_wait: false };
        self.consumer.send(1, delete);
        self.consumer.expect("QueueDeleteOk");
    }
}

fn persistent() -> Properties<'static> {
    let mut properties = Properties::default();
    properties.delivery_mode = Some(2);
    properties
}

/// How many messages of a publisher are confirmed. Its connection ends with this.
struct Confirms {
    count: Arc<AtomicU64>,
    stream: TcpStream,
}

impl Confirms {
    /// Has them confirmed from now on, and reads what the broker sends.
    fn of(publisher: &mut Raw) -> Self {
        publisher.send(1, methods::confirm::Select { no_wait: false });
        publisher.expect("ConfirmSelectOk");
        let handle = || publisher.stream.try_clone().expect("a handle");
        let confirms = Confirms { count: Arc::default(), stream: handle() };
        let (mut stream, count) = (handle(), Arc::clone(&confirms.count));
        std::thread::spawn(move || hear_confirms(&mut stream, &count));
        confirms
    }

    /// Waits until so many are.
    fn wait(&self, count: u64) {
        while self.count.load(Ordering::Relaxed) < count {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

impl Drop for Confirms {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn hear_confirms(stream: &mut impl Read, confirmed: &AtomicU64) {
    let reader = FrameReader::new(FRAME_MAX);
    let (mut buffer, mut filled) = (vec![0; 1 << 16], 0);
    // One that is confirmed alone may be ahead of others; what counts is how many are.
    let (mut all_up_to, mut alone) = (0, std::collections::BTreeSet::new());
    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]) {
        filled += read;
        let mut at = 0;
        while let Some((frame, taken)) = reader.read(&buffer[at..filled]).expect("frames") {
            if let Frame::Method { payload, .. } = frame
                && let Ok(Method::BasicAck(ack)) = Method::read(payload)
            {
                if ack.multiple {
                    all_up_to = all_up_to.max(ack.delivery_tag);
                    alone = alone.split_off(&(all_up_to + 1));
                } else {
                    alone.insert(ack.delivery_tag);
                }
                while alone.remove(&(all_up_to + 1)) {
                    all_up_to += 1;
                }
            }
            at += taken;
        }
        confirmed.store(all_up_to + alone.len() as u64, Ordering::Relaxed);
        buffer.copy_within(at..filled, 0);
        filled -= at;
    }
}

// --- Memory.

fn memory(kind: Kind, pid: &str, address: SocketAddr) {
    const CLIENTS: usize = 1000;
    let now = || node::memory(pid, "VmRSS");
    let idle = now();
    let clients: Vec<Raw> = (0..CLIENTS)
        .map(|at| {
            let mut client = Raw::channel(address);
            let queue = format!("memory-{at}");
            client.send(1, methods::queue::Declare { exclusive: true, ..declare(&queue) });
            client.expect("QueueDeclareOk");
            client.send(1, consume(&queue));
            client.expect("BasicConsumeOk");
            client
        })
        .collect();
    println!("memory of {}: idle {idle:.1} MB, with {CLIENTS} connections and consumers {:.1} MB", kind.name(), now());
    drop(clients);
}

// --- Start.

/// A broker on a directory, which is killed when this is dropped.
struct Started {
    child: Child,
    address: SocketAddr,
}

impl Started {
    fn on(program: &Path, data: &Path) -> Self {
        let mut child = Command::new(program)
            .args(["broker", "run", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the command starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on ").expect("an address").parse().expect("an address");
        Started { child, address }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory that goes with this.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("pump-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory");
        Directory(place)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Publishes persistent messages of so many bytes until all are confirmed, some under way at a time.
fn fill(client: &mut Raw, queue: &str, count: u64, body: usize) {
    // What is under way is in memory too, and is not what a long queue costs.
    const UNDER_WAY: u64 = 2000;
    let confirms = Confirms::of(client);
    let message = message_of(1, "", queue, false, persistent(), &vec![b'x'; body]);
    for sent in 0..count {
        confirms.wait(sent.saturating_sub(UNDER_WAY));
        client.stream.write_all(&message).expect("the broker reads");
    }
    confirms.wait(count);
}

/// One persistent message, confirmed.
fn first_message(address: SocketAddr) {
    let mut client = Raw::channel(address);
    client.send(1, methods::queue::Declare { durable: true, ..declare("first") });
    client.expect("QueueDeclareOk");
    fill(&mut client, "first", 1, 1);
}

fn start(root: &Path) {
    const MANY: u64 = 1_000_000;
    let program = node::program(root);
    let time = |directory: &Directory| {
        let begun = Instant::now();
        let broker = Started::on(&program, &directory.0);
        first_message(broker.address);
        let took = begun.elapsed().as_secs_f64() * 1e3;
        (took, node::memory(&broker.pid(), "VmRSS"))
    };
    let empty = median((0..5).map(|round| time(&Directory::new(&format!("empty-{round}"))).0));
    println!("start to first confirmed message, empty: {empty:.1} ms (goal 20)");
    let directory = Directory::new("million");
    {
        let broker = Started::on(&program, &directory.0);
        let mut client = Raw::channel(broker.address);
        client.send(1, methods::queue::Declare { durable: true, ..declare("many") });
        client.expect("QueueDeclareOk");
        fill(&mut client, "many", MANY, 1000);
        println!(
            "a million messages of 1 kB: {:.0} MB of memory while it has them (goal 100)",
            node::memory(&broker.pid(), "VmRSS")
        );
        // Killed: there is no time to put things in order.
    }
    let rounds: Vec<(f64, f64)> = (0..3).map(|_| time(&directory)).collect();
    let (took, memory) = (median(rounds.iter().map(|round| round.0)), median(rounds.iter().map(|round| round.1)));
    println!("the same behind a kill, with them: {took:.0} ms (goal 300), {memory:.0} MB");
}

// --- Growth.

fn growth(root: &Path) {
    let program = node::program(root);
    let exponent = |name: &str, sizes: &[u64], work: fn(&mut Raw, u64)| {
        let mut points = Vec::new();
        for &size in sizes {
            let costs = (0..ROUNDS).map(|round| {
                let directory = Directory::new(&format!("growth-{size}-{round}"));
                let broker = Started::on(&program, &directory.0);
                let mut client = Raw::channel(broker.address);
                let before = of_threads(&broker.pid());
                work(&mut client, size);
                of_threads(&broker.pid()) - before
            });
            points.push((size as f64, median(costs)));
        }
        let each: Vec<String> =
            points.iter().map(|(size, cost)| format!("{size:.0}: {:.2} us", cost * 1e6 / size)).collect();
        println!(
            "CPU for each of {name}: {}; exponent of the whole {:.2} (goal 1.05)",
            each.join(", "),
            slope(&points)
        );
    };
    exponent("the messages of a queue, filled and emptied", &[1_000, 10_000, 100_000, 1_000_000], fill_and_empty);
    exponent("queues, declared and each sent a message", &[100, 1_000, 10_000], many_queues);
    exponent("bindings, bound and each used once", &[100, 1_000, 10_000, 100_000], many_bindings);
}

/// Seconds that the threads of a process have run, to the nanosecond.
fn of_threads(pid: &str) -> f64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let of = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    threads.filter_map(of).sum::<f64>() / 1e9
}

/// That of the line through the logarithms.
fn slope(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = logs.len() as f64;
    let (x, y) = logs.iter().fold((0.0, 0.0), |(x, y), log| (x + log.0 / count, y + log.1 / count));
    let (above, below) = logs
        .iter()
        .fold((0.0, 0.0), |(above, below), log| (above + (log.0 - x) * (log.1 - y), below + (log.0 - x).powi(2)));
    above / below
}

/// Sends what has no answer, then waits until it is all done.
fn then_done(client: &mut Raw) {
    client.send(1, methods::basic::Qos { prefetch_size: 0, prefetch_count: 0, global: false });
    loop {
        match client.next() {
            Got::Method(_, text) if text.starts_with("BasicQosOk") => return,
            Got::End => panic!("the broker closed the connection"),
            _ => {}
        }
    }
}

fn fill_and_empty(client: &mut Raw, count: u64) {
    client.send(1, declare("long"));
    client.expect("QueueDeclareOk");
    let message = message_of(1, "", "long", false, Properties::default(), b"0123456789");
    let batch = message.repeat(BATCH as usize);
    for _ in 0..count / BATCH {
        client.bytes(&batch);
    }
    then_done(client);
    client.send(1, consume("long"));
    client.expect("BasicConsumeOk");
    let mut received = 0;
    while received < count {
        received += u64::from(matches!(client.next(), Got::Body(..)));
    }
}

fn many_queues(client: &mut Raw, count: u64) {
    for at in 0..count {
        client.send(1, methods::queue::Declare { no_wait: true, ..declare(&format!("q{at}")) });
    }
    for at in 0..count {
        client.publish(1, "", &format!("q{at}"), false, Properties::default(), b"x");
    }
    then_done(client);
}

fn many_bindings(client: &mut Raw, count: u64) {
    client.send(1, declare("bound"));
    client.expect("QueueDeclareOk");
    for at in 0..count {
        let bind = methods::queue::Bind {
            queue: "bound",
            exchange: "amq.direct",
            routing_key: &format!("key-{at}"),
            no_wait: true,
            arguments: Table::EMPTY,
        };
        client.send(1, bind);
    }
    for at in 0..count {
        client.publish(1, "amq.direct", &format!("key-{at}"), false, Properties::default(), b"x");
    }
    then_done(client);
}
