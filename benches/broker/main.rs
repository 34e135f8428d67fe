//! homing against a bare lapin program and kiwipy, the same work on one private broker: `cargo bench --bench broker`.
//!
//! The contenders run in turn, A B C A B C, in one run, for several rounds; medians and ratios are printed as a table, and
//! written as JSON to `target/bench-broker.json`. Each is a client and a server, two processes; what is measured is the
//! client. Bodies are JSON where a row does not say YAML. Queues and messages last as each contender has them by default: those of
//! tasks are durable. `--rounds N`, `--seconds S` (a piece of work), `--only CONTENDER`, `--work WORK` (each by a part of its name,
//! contenders by several with commas between), `--all`: also large bodies, 100,000 in flight, many subscribers, connecting and
//! closing. `--instructions` counts by callgrind what a message costs the client of homing and of bare lapin, instead of times.
//! `--brokers` has the bare lapin program alone, on RabbitMQ and on the broker of homing's own.

mod bare;
mod brokers;
#[path = "../node.rs"]
mod node;
mod ours;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use self::node::{Kind, Node};

/// In a child: which contender, `client` or `server`.
const ROLE: &str = "HOMING_BENCH_ROLE";
/// In a child: which work, by its name.
const WORK: &str = "BENCH_WORK";
/// In a child: how many messages instead of how many seconds.
const TIMES: &str = "BENCH_TIMES";

/// One contender's piece of work, measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) rate: f64,
    /// Milliseconds; where one is under way at a time.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// Microseconds of CPU of this process for each message.
    pub(crate) cpu: f64,
    /// How many there were.
    pub(crate) count: u32,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    RpcOne,
    Rpc100,
    Rpc1000,
    TaskPublish,
    TaskRoundTrip,
    Broadcast,
    // From here on with `--all` only.
    Rpc100k,
    /// A call and its answer, each with a body of so many bytes.
    Body(usize),
    /// Calls to one of a thousand subscribers after the other.
    Subscribers1000,
    /// Broadcasts until each of so many subscribers of one other communicator has heard them.
    FanOut(usize),
    /// From nothing to a first answer.
    FirstAnswer,
    /// What a close takes.
    Close,
}

const MAIN: [Work; 6] =
    [Work::RpcOne, Work::Rpc100, Work::Rpc1000, Work::TaskPublish, Work::TaskRoundTrip, Work::Broadcast];

const MORE: [Work; 10] = [
    Work::Rpc100k,
    Work::Body(1_000),
    Work::Body(100_000),
    Work::Body(10_000_000),
    Work::Subscribers1000,
    Work::FanOut(1),
    Work::FanOut(10),
    Work::FanOut(100),
    Work::FirstAnswer,
    Work::Close,
];

/// Which works there are to choose from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Main,
    All,
}

/// In a child: the works that it does.
pub(crate) fn works() -> impl Iterator<Item = Work> {
    let wanted = std::env::var(WORK).unwrap_or_default();
    MAIN.into_iter().chain(MORE).filter(move |work| work.name() == wanted)
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Work::RpcOne => "RPC, one at a time",
            Work::Rpc100 => "RPC, 100 in flight",
            Work::Rpc1000 => "RPC, 1000 in flight",
            Work::TaskPublish => "task publish, confirmed",
            Work::TaskRoundTrip => "task send + ack + reply",
            Work::Broadcast => "broadcast publish",
            Work::Rpc100k => "RPC, 100,000 in flight",
            Work::Body(1_000) => "RPC, body of 1 kB",
            Work::Body(100_000) => "RPC, body of 100 kB",
            Work::Body(_) => "RPC, body of 10 MB",
            Work::Subscribers1000 => "RPC to 1000 subscribers",
            Work::FanOut(1) => "broadcast heard by 1",
            Work::FanOut(10) => "broadcast heard by 10",
            Work::FanOut(_) => "broadcast heard by 100",
            Work::FirstAnswer => "connect and first answer",
            Work::Close => "close",
        }
    }

    /// Whether this contender does it.
    fn is_for(self, contender: &str) -> bool {
        match contender {
            "homing, blocking" => matches!(self, Work::RpcOne | Work::Rpc100),
            kiwipy if kiwipy.starts_with("kiwipy") => MAIN.contains(&self),
            // What would be nothing but RabbitMQ's own work there.
            bare if bare.starts_with("bare") => !matches!(self, Work::FanOut(_) | Work::Subscribers1000),
            _ => true,
        }
    }

    /// How many are under way at once.
    pub(crate) fn window(self) -> usize {
        match self {
            Work::RpcOne => 1,
            Work::Rpc100 => 100,
            Work::Rpc1000 | Work::Subscribers1000 => 1000,
            Work::Rpc100k => 100_000,
            Work::Body(1_000) => 100,
            Work::Body(100_000) => 16,
            Work::Body(_) | Work::FirstAnswer | Work::Close => 1,
            Work::FanOut(_) => 64,
            Work::TaskPublish | Work::TaskRoundTrip | Work::Broadcast => 256,
        }
    }

    /// What is to be reached: rate against bare lapin, and against kiwipy with YAML.
    fn goals(self) -> (f64, f64) {
        match self {
            Work::RpcOne => (0.9, 4.0),
            Work::Rpc100 | Work::Rpc1000 => (0.95, 8.0),
            _ => (0.95, 10.0),
        }
    }
}

/// Counts the messages of one piece of work, and how long each took where that says something.
pub(crate) struct Meter {
    begun: Instant,
    cpu: Duration,
    until: Instant,
    /// How many there are to be, where that is fixed.
    most: Option<u32>,
    times: Vec<Duration>,
    count: u32,
}

impl Meter {
    pub(crate) fn new(seconds: f64) -> Self {
        let begun = Instant::now();
        let until = begun + Duration::from_secs_f64(seconds);
        let most = std::env::var(TIMES).ok().and_then(|text| text.parse().ok());
        Meter { begun, cpu: node::cpu("self"), until, most, times: Vec::new(), count: 0 }
    }

    pub(crate) fn goes_on(&self) -> bool {
        match self.most {
            Some(most) => self.count < most,
            None => Instant::now() < self.until,
        }
    }

    pub(crate) fn done(&mut self, took: Duration) {
        self.times.push(took);
        self.count += 1;
    }

    pub(crate) fn end(mut self) -> Measured {
        let (took, used) = (self.begun.elapsed(), node::cpu("self") - self.cpu);
        self.times.sort();
        let at = |part: usize| {
            let at = (self.times.len() * part / 100).min(self.times.len().saturating_sub(1));
            self.times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let count = f64::from(self.count.max(1));
        Measured {
            rate: count / took.as_secs_f64(),
            p50: at(50),
            p99: at(99),
            cpu: used.as_secs_f64() * 1e6 / count,
            count: self.count,
        }
    }
}

/// What a client says of itself, in a line.
pub(crate) fn say(work: Work, measured: &Measured) {
    let Measured { rate, p50, p99, cpu, count } = measured;
    let peak = node::memory("self", "VmHWM");
    let said = json!({
        "work": work.name(), "rate": rate, "p50": p50, "p99": p99, "cpu": cpu, "peak": peak, "count": count,
    });
    println!("{said}");
}

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(ROLE) {
        return child(&role);
    }
    let arguments: Vec<String> = std::env::args().collect();
    // cargo test --benches only looks whether it runs.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let option =
        |name: &str| arguments.iter().position(|known| known == name).and_then(|at| arguments.get(at + 1)).cloned();
    let rounds: usize = option("--rounds").and_then(|text| text.parse().ok()).unwrap_or(3);
    let seconds = option("--seconds").unwrap_or_else(|| "2".to_owned());
    let only = option("--only").unwrap_or_default();
    let work = option("--work").unwrap_or_default();
    let extent = if arguments.iter().any(|argument| argument == "--all") { Extent::All } else { Extent::Main };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    if arguments.iter().any(|argument| argument == "--brokers") {
        brokers::compare(&root, rounds, &seconds, &work);
        return ExitCode::SUCCESS;
    }
    let node = Node::start(&root, Kind::RabbitMq);
    let python = root.join("tests/.venv/bin/python");
    let mut contenders =
        vec!["homing", "homing, blocking", "homing, YAML", "bare lapin, 16 under way", "bare lapin, 256", "bare lapin"];
    if python.exists() {
        contenders.extend(["kiwipy, YAML", "kiwipy, JSON"]);
    } else {
        println!("kiwipy is not there: tests/run installs it");
    }
    contenders.retain(|name| only.split(',').any(|part| name.contains(part)));
    let more = if extent == Extent::All { &MORE[..] } else { &[] };
    let chosen: Vec<Work> = MAIN.iter().chain(more).filter(|one| one.name().contains(&work)).copied().collect();
    if arguments.iter().any(|argument| argument == "--instructions") {
        chosen.into_iter().for_each(|work| instructions(&root, node.url(), work));
        return ExitCode::SUCCESS;
    }
    let mut all: BTreeMap<(String, String), Vec<Json>> = BTreeMap::new();
    for round in 0..rounds {
        for work in &chosen {
            eprintln!("round {} of {rounds}: {}", round + 1, work.name());
            // One right after the other, since the machine may be another one a minute later.
            for contender in contenders.iter().filter(|name| work.is_for(name)) {
                for line in run(&root, &python, node.url(), contender, &seconds, *work) {
                    all.entry((work.name().to_owned(), (*contender).to_owned())).or_default().push(line);
                }
            }
        }
    }
    drop(node);
    report(&root, &contenders, &all);
    ExitCode::SUCCESS
}

fn child(role: &str) -> ExitCode {
    homing::home::do_without_audit();
    let (contender, side) = role.rsplit_once('/').unwrap_or((role, "client"));
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (url, prefix) = (variable("BENCH_URL"), variable("BENCH_PREFIX"));
    let seconds: f64 = variable("BENCH_SECONDS").parse().unwrap_or(1.0);
    let is_server = side == "server";
    match contender {
        "bare lapin, 16 under way" => bare::run(&url, &prefix, seconds, is_server, bare::Variant::Window(16)),
        "bare lapin, 256" => bare::run(&url, &prefix, seconds, is_server, bare::Variant::Window(256)),
        "bare lapin" => bare::run(&url, &prefix, seconds, is_server, bare::Variant::Full),
        "homing, blocking" => ours::blocking(&url, &prefix, seconds, is_server),
        "homing, YAML" => ours::run(&url, &prefix, seconds, is_server, ours::Format::Yaml),
        _ => ours::run(&url, &prefix, seconds, is_server, ours::Format::Json),
    }
    ExitCode::SUCCESS
}

/// A child that ends when this is dropped: it waits for the end of its standard input.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One contender at one work: its two processes.
struct Pair<'a> {
    root: &'a Path,
    python: &'a Path,
    url: &'a str,
    contender: &'a str,
    work: Work,
    prefix: String,
}

impl<'a> Pair<'a> {
    fn new(root: &'a Path, python: &'a Path, url: &'a str, contender: &'a str, work: Work) -> Self {
        let prefix = format!("bench-{}", uuid::Uuid::new_v4().simple());
        Pair { root, python, url, contender, work, prefix }
    }

    /// Under this program, where one is given.
    fn command(&self, side: &str, under: &[&str]) -> Command {
        let program: Vec<String> = match self.contender.strip_prefix("kiwipy, ") {
            Some(format) => {
                let script = self.root.join("benches/broker/kiwipy_bench.py");
                [self.python.display(), script.display()]
                    .iter()
                    .map(ToString::to_string)
                    .chain([side.to_owned(), format.to_owned()])
                    .collect()
            }
            None => vec![std::env::current_exe().expect("this program").display().to_string()],
        };
        let mut words = under.iter().map(|word| (*word).to_owned()).chain(program);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).env(ROLE, format!("{}/{side}", self.contender));
        command.env("BENCH_URL", self.url).env("BENCH_PREFIX", &self.prefix).env(WORK, self.work.name());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn server(&self) -> Server {
        let mut server = Server(self.command("server", &[]).spawn().expect("a server"));
        let mut ready = String::new();
        let mut said = BufReader::new(server.0.stdout.take().expect("piped"));
        said.read_line(&mut ready).expect("a line");
        assert_eq!(ready.trim(), "ready", "the server of {}", self.contender);
        server
    }

    fn output(&self, mut client: Command) -> std::process::Output {
        let output = client.output().expect("a client");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the client of {}: {said}", self.contender);
        output
    }
}

fn run(root: &Path, python: &Path, url: &str, contender: &str, seconds: &str, work: Work) -> Vec<Json> {
    let pair = Pair::new(root, python, url, contender, work);
    let server = pair.server();
    let mut client = pair.command("client", &[]);
    client.env("BENCH_SECONDS", seconds);
    let output = pair.output(client);
    drop(server);
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// What a message costs the clients: the difference between few and many.
fn instructions(root: &Path, url: &str, work: Work) {
    const FEW: u64 = 1000;
    const MANY: u64 = 5000;
    let of = |contender: &str| {
        let pair = Pair::new(root, Path::new("python"), url, contender, work);
        let server = pair.server();
        let count = |times: u64| {
            let mut client =
                pair.command("client", &["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]);
            client.env(TIMES, times.to_string()).stderr(Stdio::piped());
            let report = String::from_utf8_lossy(&pair.output(client).stderr).into_owned();
            let counted = report.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse::<u64>().ok());
            counted.expect("callgrind counts")
        };
        let each = count(MANY).saturating_sub(count(FEW)) / (MANY - FEW);
        drop(server);
        each
    };
    let (ours, bare) = (of("homing"), of("bare lapin"));
    println!("{:<26} homing {ours:>7}   bare lapin {bare:>7}   {:.2}", work.name(), ours as f64 / bare as f64);
}

fn median(lines: &[Json], of: &str) -> f64 {
    node::median(lines.iter().filter_map(|line| line[of].as_f64()))
}

fn report(root: &Path, contenders: &[&str], all: &BTreeMap<(String, String), Vec<Json>>) {
    let get = |work: &str, contender: &str, of: &str| {
        all.get(&(work.to_owned(), contender.to_owned())).map_or(f64::NAN, |lines| median(lines, of))
    };
    let mut written = Vec::new();
    for work in MAIN.into_iter().chain(MORE).map(Work::name) {
        if contenders.iter().all(|contender| get(work, contender, "rate").is_nan()) {
            continue;
        }
        println!("\n{work}");
        println!(
            "  {:<26} {:>10} {:>9} {:>9} {:>12} {:>8}",
            "", "a second", "p50 ms", "p99 ms", "CPU us each", "peak MB"
        );
        for contender in contenders {
            let [rate, p50, p99, cpu, peak] = ["rate", "p50", "p99", "cpu", "peak"].map(|of| get(work, contender, of));
            if rate.is_nan() {
                continue;
            }
            println!("  {contender:<26} {rate:>10.0} {p50:>9.2} {p99:>9.2} {cpu:>12.1} {peak:>8.0}");
            written.push(json!({
                "work": work, "contender": contender, "rate": rate, "p50": p50, "p99": p99, "cpu": cpu, "peak": peak,
            }));
        }
    }
    println!("\nhoming as a ratio (the best bare lapin counts)");
    println!("  {:<26} {:>22} {:>22} {:>14}", "", "to bare lapin", "to kiwipy, YAML", "CPU to bare");
    for work in MAIN.into_iter().chain(MORE) {
        let lapin = ratio(all, work, "rate", "bare");
        let kiwipy = ratio(all, work, "rate", "kiwipy, YAML");
        // Of the variant that sends as many at a time as homing does.
        let cpu = get(work.name(), "homing", "cpu") / get(work.name(), "bare lapin", "cpu");
        if lapin.is_nan() && kiwipy.is_nan() {
            continue;
        }
        let (first, second) = work.goals();
        let verdict = |is: f64, goal: f64| match is {
            is if is.is_nan() => "-".to_owned(),
            is if MORE.contains(&work) => format!("{is:.2}"),
            is if is >= goal => format!("{is:.2} (>= {goal}: holds)"),
            is => format!("{is:.2} (>= {goal}: misses)"),
        };
        println!("  {:<26} {:>22} {:>22} {cpu:>14.2}", work.name(), verdict(lapin, first), verdict(kiwipy, second));
        written
            .push(json!({"work": work.name(), "to bare lapin": lapin, "to kiwipy": kiwipy, "cpu to bare lapin": cpu}));
    }
    let file = root.join("target/bench-broker.json");
    if let Err(error) = std::fs::write(&file, serde_json::to_string_pretty(&written).unwrap_or_default()) {
        eprintln!("{}: {error}", file.display());
    }
}

/// homing's to the best of these contenders: of each round, for what was measured within seconds of each other; and of those
/// the median.
fn ratio(all: &BTreeMap<(String, String), Vec<Json>>, work: Work, of: &str, others: &str) -> f64 {
    let lines =
        |contender: &str| all.get(&(work.name().to_owned(), contender.to_owned())).map_or(&[][..], Vec::as_slice);
    let best = |round: usize| {
        let others = all.iter().filter(|((done, name), _)| done == work.name() && name.starts_with(others));
        others.filter_map(|(_, lines)| lines.get(round)?[of].as_f64()).fold(f64::NAN, f64::max)
    };
    let rounds = lines("homing").iter().enumerate();
    let ratios = rounds.filter_map(|(round, line)| Some(line[of].as_f64()? / best(round)));
    node::median(ratios.filter(|ratio| !ratio.is_nan()))
}
