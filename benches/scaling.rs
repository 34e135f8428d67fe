//! What a call costs when there is more to do: over `memory:`, from a thousand calls to a million, and to one of up to a
//! thousand subscribers. `cargo bench --bench scaling -- [--calls N] [--subscribers N]`.
//!
//! The exponent is the slope through the logarithms: 1 where the time grows as the work does, 0 where it does not grow.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use homing::{BroadcastFilter, BroadcastSubscriber, Communicator, RpcRequest, RpcSubscriber};

/// Calls under way at a time.
const WINDOW: usize = 1000;
/// Of which the median counts.
const ROUNDS: usize = 5;
/// Calls of each measurement to one of many subscribers.
const SOME: usize = 20_000;

fn main() -> ExitCode {
    homing::home::do_without_audit();
    let arguments: Vec<String> = std::env::args().collect();
    // cargo test --benches only looks whether it runs.
    if arguments.iter().any(|argument| argument == "--test") {
        return ExitCode::SUCCESS;
    }
    let most = |name: &str, default: usize| {
        let given = arguments.iter().position(|known| known == name).and_then(|at| arguments.get(at + 1));
        given.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (calls, subscribers) = (most("--calls", 1_000_000), most("--subscribers", 1000));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let by_calls = steps(1000, calls);
        println!("calls, {WINDOW} under way, the median of {ROUNDS}");
        let mut points = Vec::new();
        let communicator = with_subscribers(1).await;
        for count in by_calls {
            // The long ones are their own average.
            let rounds = if count > 100_000 { 1 } else { ROUNDS };
            points.push(line(count, median(rounds, async || call(&communicator, count, 1).await).await, count));
        }
        communicator.close().await.expect("closed");
        println!("  exponent {:.3} (goal: 1.05 at most)", exponent(&points));

        println!("{SOME} calls, to one of so many subscribers in turn");
        let mut points = Vec::new();
        for count in steps(1, subscribers) {
            let communicator = with_subscribers(count).await;
            let took = median(ROUNDS, async || call(&communicator, SOME, count).await).await;
            points.push(line(count, took, SOME));
            communicator.close().await.expect("closed");
        }
        println!("  exponent of a call {:.3} (goal: 0.05 at most)", exponent(&points));

        println!("{SOME} broadcasts, to so many subscribers that all filter them out");
        let mut points = Vec::new();
        for count in steps(1, subscribers.min(100)) {
            let communicator = Communicator::connect("memory:").await.expect("a broker");
            for _ in 0..count {
                let filter = BroadcastFilter::new().subject("another.*").expect("a filter");
                communicator
                    .add_broadcast_subscriber(filter, BroadcastSubscriber::closure(|_| ()))
                    .await
                    .expect("a subscriber");
            }
            let took = median(ROUNDS, async || broadcast(&communicator).await).await;
            points.push(line(count, took, SOME));
            communicator.close().await.expect("closed");
        }
        if let (Some(first), Some(last)) = (points.first(), points.last()) {
            println!("  {} subscribers to one: {:.2} (goal for 100: 2 at most)", last.0, last.1 / first.1);
        }
    });
    ExitCode::SUCCESS
}

/// 1, 10, 100… of the first, up to the last.
fn steps(first: usize, last: usize) -> Vec<usize> {
    std::iter::successors(Some(first), |step| Some(step * 10)).take_while(|step| *step <= last).collect()
}

async fn with_subscribers(count: usize) -> Communicator {
    let communicator = Communicator::connect("memory:").await.expect("a broker");
    for number in 0..count {
        let echo = RpcSubscriber::closure(RpcRequest::into_body);
        communicator.add_rpc_subscriber(format!("echo-{number}"), echo).await.expect("added");
    }
    communicator
}

async fn call(communicator: &Communicator, times: usize, subscribers: usize) {
    let mut under_way = FuturesUnordered::new();
    for sent in 0..times {
        if sent >= WINDOW {
            under_way.next().await;
        }
        let to = format!("echo-{}", sent % subscribers);
        under_way.push(async { communicator.rpc_send(to, 1).await.expect("an answer") });
    }
    while under_way.next().await.is_some() {}
}

async fn broadcast(communicator: &Communicator) {
    let mut under_way = FuturesUnordered::new();
    for sent in 0..SOME {
        if sent >= WINDOW {
            under_way.next().await;
        }
        let sending = communicator.broadcast_send(1).subject("state_changed.running.finished").sender(4);
        under_way.push(async { sending.await.expect("sent") });
    }
    while under_way.next().await.is_some() {}
}

async fn median(rounds: usize, run: impl AsyncFn()) -> Duration {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        run().await;
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// Prints a measurement; for the exponent, it and the time of all of it in seconds.
fn line(size: usize, took: Duration, times: usize) -> (f64, f64) {
    let seconds = took.as_secs_f64();
    println!("  {size:>9} {:>9.1} ms {:>7.2} us each", seconds * 1e3, seconds * 1e6 / times as f64);
    (size as f64, seconds)
}

/// The slope of the least squares through the logarithms.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(size, time)| (size.ln(), time.ln())).collect();
    let count = logs.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let slope: f64 = logs.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    slope / logs.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}
