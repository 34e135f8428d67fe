//! What limits a piece of work: this program, the network, or what is left, which is the broker.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A thread that is busy for this part of the time has none left to give.
const BUSY: f64 = 0.85;
/// Where this program takes this part of the machine's time, a broker beside it waits for what is left.
const MACHINE: f64 = 0.5;
/// The part of an answer's time from which the network is what it waits for.
const MOSTLY: f64 = 0.5;
/// How often a round trip is measured; the shortest counts.
const TRIES: usize = 5;
const TRY: Duration = Duration::from_secs(2);
/// How many clock ticks a second Linux counts CPU time of threads in.
const TICKS: f64 = 100.0;

/// What it waits for most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    /// A thread of this program was busy for this part of the time.
    Client(f64),
    /// This program took this part of the whole machine's time.
    Machine(f64),
    /// It made up this part of an answer's time.
    Network(f64),
    Broker,
}

impl Limit {
    /// `machine`: the part of its time that this program took. `alone`: the time of one of them, where one is under way at a
    /// time, and how many round trips it has.
    pub(super) fn find(busiest: Option<f64>, machine: f64, alone: Option<(Duration, u32)>, network: &Network) -> Self {
        if let Some(busy) = busiest.filter(|busy| *busy >= BUSY) {
            return Limit::Client(busy.min(1.0));
        }
        if machine >= MACHINE {
            return Limit::Machine(machine.min(1.0));
        }
        let Some(round_trip) = network.round_trip else {
            // Inside one process there is nothing else.
            return if network.is_here { Limit::Client(busiest.unwrap_or(1.0)) } else { Limit::Broker };
        };
        if let Some((took, round_trips)) = alone {
            let part = (round_trip * round_trips).as_secs_f64() / took.as_secs_f64().max(1e-6);
            if part >= MOSTLY {
                return Limit::Network(part.min(1.0));
            }
        }
        Limit::Broker
    }
}

/// The way to the broker.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// There and back; `None` where it could not be measured.
    pub(super) round_trip: Option<Duration>,
    /// There is none: the broker is inside this process.
    is_here: bool,
}

impl Network {
    /// By how long a TCP connection takes, which is one round trip and needs nothing of the broker.
    pub(super) async fn measure(url: &str) -> Self {
        let Some(address) = address(url) else {
            return Network { round_trip: None, is_here: url.starts_with("memory:") };
        };
        let mut shortest = None;
        for _ in 0..TRIES {
            let begun = Instant::now();
            if let Ok(Ok(_)) = timeout(TRY, TcpStream::connect(address.as_str())).await {
                let took = begun.elapsed();
                shortest = Some(shortest.map_or(took, |known: Duration| known.min(took)));
            }
        }
        Network { round_trip: shortest, is_here: false }
    }
}

/// Host and port of the first broker of a URL.
fn address(url: &str) -> Option<String> {
    let first = url.split(',').next()?.trim();
    let (scheme, rest) = first.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    let has_port =
        host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
            && !host.ends_with(']');
    let port = if scheme == "amqps" { 5671 } else { 5672 };
    Some(if has_port { host.to_owned() } else { format!("{host}:{port}") })
}

/// CPU time that was used by now.
pub(super) struct Cpu {
    process: Duration,
    /// By thread, in seconds.
    threads: HashMap<String, f64>,
}

impl Cpu {
    pub(super) fn now() -> Self {
        let process = getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
            let time = |value: nix::sys::time::TimeVal| {
                Duration::new(value.tv_sec().unsigned_abs(), 0) + Duration::from_micros(value.tv_usec().unsigned_abs())
            };
            time(usage.user_time()) + time(usage.system_time())
        });
        let mut threads = HashMap::new();
        // Where there is no such directory, nothing is known of single threads.
        for thread in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // After the name: the state, and as the 12th and 13th words user and system time.
            let words = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
            let ticks: f64 = words.filter_map(|word| word.parse::<f64>().ok()).sum();
            threads.insert(thread.file_name().to_string_lossy().into_owned(), ticks / TICKS);
        }
        Cpu { process, threads }
    }

    /// The part of the whole machine's time that this process took.
    pub(super) fn machine_since(&self, before: &Cpu, time: Duration) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
        self.since(before).as_secs_f64() / time.as_secs_f64() / cores
    }

    pub(super) fn since(&self, before: &Cpu) -> Duration {
        self.process.saturating_sub(before.process)
    }

    /// The part of the time for which the busiest thread was busy.
    pub(super) fn busiest_since(&self, before: &Cpu, time: Duration) -> Option<f64> {
        let used = self.threads.iter().map(|(id, used)| used - before.threads.get(id).copied().unwrap_or(0.0));
        used.max_by(f64::total_cmp).map(|used| used / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(micros: Option<u64>) -> Network {
        Network { round_trip: micros.map(Duration::from_micros), is_here: false }
    }

    #[test]
    fn the_address_is_found_in_every_kind_of_url() {
        let known = [
            ("amqp://guest:guest@127.0.0.1:5672/", "127.0.0.1:5672"),
            ("amqp://guest:gu%40est@host/vhost", "host:5672"),
            ("amqps://u:p@host?x=1", "host:5671"),
            ("amqp://[::1]:5673/", "[::1]:5673"),
            ("amqp://[::1]/", "[::1]:5672"),
            ("amqp://one:1,amqp://two:2", "one:1"),
            ("amqp://", "127.0.0.1:5672"),
        ];
        for (url, expected) in known {
            assert_eq!(address(url).as_deref(), Some(expected), "{url}");
        }
        assert_eq!(address("memory:x"), None);
    }

    #[test]
    fn what_limits_is_the_busy_thread_then_the_network_then_the_broker() {
        let one = Some((Duration::from_millis(1), 2));
        assert_eq!(Limit::find(Some(0.9), 0.6, one, &network(Some(400))), Limit::Client(0.9));
        assert_eq!(Limit::find(Some(0.2), 0.6, one, &network(Some(400))), Limit::Machine(0.6));
        assert_eq!(Limit::find(Some(0.2), 0.1, one, &network(Some(400))), Limit::Network(0.8));
        assert_eq!(Limit::find(Some(0.2), 0.1, one, &network(Some(100))), Limit::Broker);
        assert_eq!(Limit::find(Some(0.2), 0.1, None, &network(Some(400))), Limit::Broker);
        assert_eq!(Limit::find(None, 0.1, one, &network(None)), Limit::Broker);
        let here = Network { round_trip: None, is_here: true };
        assert_eq!(Limit::find(Some(0.4), 0.3, one, &here), Limit::Client(0.4));
    }

    #[test]
    fn a_busy_thread_is_seen() {
        let before = Cpu::now();
        let (begun, mut sum) = (Instant::now(), 0_u64);
        // Until it has had so much of a processor, however busy the machine is.
        while Cpu::now().since(&before) < Duration::from_millis(100) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", Cpu::now().since(&before));
            for _ in 0..1_000_000 {
                sum = std::hint::black_box(sum.wrapping_add(1));
            }
        }
        let after = Cpu::now();
        if cfg!(target_os = "linux") {
            assert!(after.busiest_since(&before, after.since(&before)).is_some_and(|part| part > 0.1));
        }
    }
}
