//! Random programs of AMQP operations, run by this broker and by a RabbitMQ: what a client can observe is the same.
//!
//! A program runs here first, where everything that an operation causes has come when the channels have answered once. RabbitMQ
//! does much later than it answers, so that there each step waits for what was observed here, and is different when that has not
//! come in time or something else has. A program that is different is run again, with more time: RabbitMQ itself is not always
//! the same, for its queues run beside each other. What is different each time is cut down to the operations that it takes.
//!
//! - `HOMING_TEST_AMQP`: the RabbitMQ; without it there is nothing to compare with.
//! - `HOMING_TEST_PROGRAMS`: how many programs, or their seeds: `FROM..TO`, or several with commas between, `17,23,23`.
//! - `HOMING_TEST_BROKER`: another broker in the place of this one.

mod allowed;
mod client;
mod generate;
mod program;
mod wire;

use allowed::Verdict;
use client::{Client, Events, Observed};
use program::Program;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use wire::Address;

/// How long a program sleeps to let short times to live pass.
pub const NAP: Duration = Duration::from_millis(2000);

/// How long a program with short times to live may take without sleeping, so that nothing is over before it sleeps.
pub const AWAKE: Duration = Duration::from_millis(1000);

/// How many programs run beside each other: they wait for the other broker most of the time.
const BESIDE: usize = 10;

/// A program that is not the same on both brokers.
struct Difference {
    seed: u64,
    program: Program,
    step: usize,
    here: Events,
    there: Events,
}

/// A pair of clients, one of each broker.
struct Pair {
    here: Client,
    there: Client,
}

/// Counts programs that were not compared: the machine was too slow for their times.
const TOO_SLOW: &str = "(not compared: too slow for its times to live)";

/// How often and with how much patience a program is tried before it counts as different.
const TRIES: [Duration; 4] =
    [Duration::from_millis(300), Duration::from_millis(1000), Duration::from_millis(2000), Duration::from_millis(3000)];

impl Pair {
    fn new(here: &Address, there: &Address) -> Self {
        let (mut here, mut there) = (Client::new(here.clone()), Client::new(there.clone()));
        here.beside_four = there.is_four();
        there.beside_four = there.is_four();
        Self { here, there }
    }

    /// A name that no other run has.
    fn prefix() -> String {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        format!("d{:x}-{:06x}.", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs a program on both, and again where it is different.
    fn compare(
        &mut self,
        seed: u64,
        program: &Program,
        tries: &[Duration],
    ) -> Result<Option<&'static str>, Box<Difference>> {
        let mut found = None;
        let mut was_slow = false;
        for patience in tries {
            let prefix = Self::prefix();
            let (model, _) = self.here.run(program, &prefix, None, *patience);
            let (there, different) = self.there.run(program, &prefix, Some(&model), *patience);
            let step = match different {
                None => return Ok(None),
                Some((_, Verdict::Allowed(row))) => return Ok(Some(row)),
                Some((_, Verdict::TooSlow)) => {
                    was_slow = true;
                    continue;
                }
                Some((step, _)) => step,
            };
            let events = |trace: &[Observed]| trace[step].events.clone();
            let (here, there) = (events(&model), events(&there));
            found = Some(Box::new(Difference { seed, program: program.clone(), step, here, there }));
        }
        if was_slow {
            return Ok(Some(TOO_SLOW));
        }
        found.map_or(Ok(None), Err)
    }

    /// Cuts a program down as far as it stays different.
    fn shrink(&mut self, mut found: Box<Difference>) -> Box<Difference> {
        let until = Instant::now() + Duration::from_secs(60);
        'smaller: while Instant::now() < until {
            for program in found.program.smaller() {
                if Instant::now() >= until {
                    break;
                }
                if let Err(smaller) = self.compare(found.seed, &program, &TRIES[1..3]) {
                    found = smaller;
                    continue 'smaller;
                }
            }
            break;
        }
        found
    }
}

impl Difference {
    fn print(&self) -> String {
        let steps = [&self.program.steps[..], &self.program.epilogue()].concat();
        let at = steps.get(self.step).map_or("the end".to_owned(), |step| format!("{}: {:?}", step.place, step.action));
        let mut text =
            format!("the program of seed {} differs\n{}at step {}, {at}\n", self.seed, self.program.print(), self.step);
        let sources: BTreeSet<_> = self.here.keys().chain(self.there.keys()).collect();
        for source in sources {
            let (here, there) = (self.here.get(source), self.there.get(source));
            if here != there {
                text += &format!("  {source}\n    here:  {here:?}\n    there: {there:?}\n");
            }
        }
        text
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
struct Report {
    compared: u64,
    different: u64,
    /// Programs that differ in what may, by the row of the table.
    allowed: BTreeMap<&'static str, u64>,
}

/// Compares programs, some of them at a time, until there are none left or the time is over. Those that differ are printed.
fn compare(here: &Address, there: &Address, seeds: &[u64], until: Option<Instant>, most: u64) -> Report {
    let next = AtomicUsize::new(0);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..BESIDE {
            scope.spawn(|| {
                let mut pair = Pair::new(here, there);
                loop {
                    let is_over = until.is_some_and(|until| Instant::now() >= until);
                    if is_over || report.lock().expect("whole").different >= most {
                        return;
                    }
                    let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)).copied() else { return };
                    let program = generate::program(seed);
                    match pair.compare(seed, &program, &TRIES) {
                        Ok(None) => {}
                        Ok(Some(row)) => *report.lock().expect("whole").allowed.entry(row).or_default() += 1,
                        Err(difference) => {
                            let text = pair.shrink(difference).print();
                            eprintln!("{text}");
                            report.lock().expect("whole").different += 1;
                        }
                    }
                    let mut report = report.lock().expect("whole");
                    report.compared += 1;
                    if report.compared.is_multiple_of(1000) {
                        eprintln!("{} programs, {} of them differ", report.compared, report.different);
                    }
                }
            });
        }
    });
    report.into_inner().expect("whole")
}

/// The address in an AMQP URL of this machine.
fn address(url: &str) -> Address {
    let rest = url.strip_prefix("amqp://").expect("an AMQP URL");
    let (login, host) = rest.split_once('@').unwrap_or(("guest:guest", rest));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let host = host.split('/').next().unwrap_or(host);
    let socket = std::net::ToSocketAddrs::to_socket_addrs(host).expect("a host and a port").next().expect("an address");
    Address { socket, user: user.to_owned(), password: password.to_owned() }
}

/// The seeds of the programs that are asked for.
fn seeds_of(programs: &str) -> Vec<u64> {
    let number = |text: &str| text.parse::<u64>().expect("a number of programs, or a seed");
    match programs.split_once("..") {
        Some((from, to)) => (number(from)..number(to)).collect(),
        None if programs.contains(',') => programs.split(',').map(number).collect(),
        None => (0..number(programs)).collect(),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[test]
fn programs_show_what_they_show_on_rabbitmq() {
    let Some(url) = variable("HOMING_TEST_AMQP") else {
        assert_ne!(variable("HOMING_TEST_REQUIRE").as_deref(), Some("1"), "HOMING_TEST_AMQP is not set");
        return;
    };
    let (seeds, until) = match variable("HOMING_TEST_PROGRAMS") {
        None => ((0..100).collect(), Some(Instant::now() + Duration::from_secs(12))),
        Some(programs) => (seeds_of(&programs), None),
    };
    let server = variable("HOMING_TEST_BROKER").is_none().then(crate::server);
    let here = match (&server, variable("HOMING_TEST_BROKER")) {
        (Some((_, address)), _) => Address { socket: *address, user: "guest".to_owned(), password: "guest".to_owned() },
        (None, other) => address(&other.unwrap_or_default()),
    };
    let start = Instant::now();
    let report = compare(&here, &address(&url), &seeds, until, 12);
    println!("in {} s: {report:?}", start.elapsed().as_secs());
    assert_eq!(report.different, 0, "programs differ: they are printed above");
    assert!(report.compared > 0, "nothing was compared");
}

#[test]
fn what_may_differ_is_a_row_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/broker.md");
    let text = std::fs::read_to_string(path).expect("the document");
    for row in allowed::ROWS.iter().chain(&allowed::FOUR_ROWS) {
        assert!(text.contains(&format!("\n| {row} | ")), "docs/broker.md has no row {row:?}");
    }
}
