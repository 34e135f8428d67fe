//! The pieces of work, each done for a time with so many under way.

use std::future::{Future, IntoFuture};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use homing::codec::Map;
use homing::{Communicator, Value};

use super::limit::{Cpu, Limit, Network};
use crate::failure::Failure;

/// How often the bar moves, and the clock is looked at for it.
const TICK: Duration = Duration::from_millis(100);

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Rpc { in_flight: usize },
    TaskPublish,
    TaskRoundTrip,
    Broadcast,
}

pub(super) const WORKS: [Work; 6] = [
    Work::Rpc { in_flight: 1 },
    Work::Rpc { in_flight: 100 },
    Work::Rpc { in_flight: 1000 },
    Work::TaskPublish,
    Work::TaskRoundTrip,
    Work::Broadcast,
];

/// What sends.
pub(super) struct Ends {
    pub(super) caller: Communicator,
    /// Of everything that is made, for the names of more.
    pub(super) name: String,
}

/// What came of a piece of work.
pub(super) struct Row {
    pub(super) work: &'static str,
    pub(super) rate: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    /// CPU time of this process for each, the subscriber's part too.
    pub(super) cpu: Duration,
    pub(super) limit: Limit,
}

impl Work {
    pub(super) fn name(self) -> &'static str {
        match self {
            Work::Rpc { in_flight: 1 } => "RPC, one at a time",
            Work::Rpc { in_flight: 100 } => "RPC, 100 in flight",
            Work::Rpc { .. } => "RPC, 1000 in flight",
            Work::TaskPublish => "task publish, confirmed",
            Work::TaskRoundTrip => "task, sent and answered",
            Work::Broadcast => "broadcast publish, confirmed",
        }
    }

    fn in_flight(self) -> usize {
        match self {
            Work::Rpc { in_flight } => in_flight,
            Work::TaskPublish | Work::TaskRoundTrip | Work::Broadcast => 256,
        }
    }

    /// How often something crosses the network, there and back, for one of these.
    fn round_trips(self) -> u32 {
        match self {
            // To the broker, from there to the subscriber, and its answer the same way back.
            Work::Rpc { .. } | Work::TaskRoundTrip => 2,
            Work::TaskPublish | Work::Broadcast => 1,
        }
    }

    pub(super) async fn measure(
        self,
        ends: &Ends,
        time: Duration,
        network: &Network,
        progress: impl Fn(f64),
    ) -> Result<Row, Failure> {
        let caller = &ends.caller;
        let meter = Meter { time, in_flight: self.in_flight(), progress };
        let cpu = Cpu::now();
        let begun = Instant::now();
        let times = match self {
            Work::Rpc { .. } => meter.run(|| caller.rpc_send("bench", body()).into_future()).await,
            Work::TaskPublish => {
                // To a queue that nobody works on; in testing mode it goes with the communicator.
                let queue = caller.task_queue(format!("{}.idle", ends.name))?;
                meter.run(|| queue.task_send(body()).no_reply().into_future()).await
            }
            Work::TaskRoundTrip => meter.run(|| caller.task_send(body()).into_future()).await,
            Work::Broadcast => meter.run(|| caller.broadcast_send(body()).into_future()).await,
        }?;
        let (took, used) = (begun.elapsed(), Cpu::now());
        let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
        let at = |quantile| Duration::from_micros(times.value_at_quantile(quantile));
        let p50 = at(0.5);
        // Where many are under way, waiting for each other takes most of their time.
        let alone = if self.in_flight() == 1 { Some((p50, self.round_trips())) } else { None };
        Ok(Row {
            work: self.name(),
            rate: f64::from(count) / took.as_secs_f64(),
            p50,
            p99: at(0.99),
            cpu: used.since(&cpu) / count,
            limit: Limit::find(used.busiest_since(&cpu, took), used.machine_since(&cpu, took), alone, network),
        })
    }
}

/// What AiiDA asks a process for its state with.
fn body() -> Value {
    let mut map = Map::new();
    map.insert("intent", "status");
    map.insert("message", Value::Null);
    Value::Map(map)
}

struct Meter<P> {
    time: Duration,
    in_flight: usize,
    progress: P,
}

impl<P: Fn(f64)> Meter<P> {
    /// Microseconds that each took.
    async fn run<T, F: Future<Output = homing::Result<T>>>(
        &self,
        one: impl Fn() -> F,
    ) -> Result<Histogram<u64>, Failure> {
        // From a microsecond to ten minutes, to three digits.
        let mut times = Histogram::new_with_bounds(1, 600_000_000, 3)
            .map_err(|error| Failure::Other(format!("no histogram: {error}")))?;
        let begun = Instant::now();
        let mut moved = begun;
        let timed = |one: F| async {
            let begun = Instant::now();
            one.await.map(|_| begun.elapsed())
        };
        let mut under_way = FuturesUnordered::new();
        for _ in 0..self.in_flight {
            under_way.push(timed(one()));
        }
        while let Some(took) = under_way.next().await {
            times.saturating_record(u64::try_from(took?.as_micros()).unwrap_or(u64::MAX).max(1));
            let now = Instant::now();
            if now < begun + self.time {
                under_way.push(timed(one()));
            }
            if now > moved + TICK {
                moved = now;
                (self.progress)((now - begun).as_secs_f64() / self.time.as_secs_f64());
            }
        }
        Ok(times)
    }
}
