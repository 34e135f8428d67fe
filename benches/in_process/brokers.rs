//! Calls, tasks and broadcasts over `memory:`: values passed as they are.

use std::future::{Future, IntoFuture};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use futures_util::stream::{FuturesUnordered, StreamExt};
use homing::{
    BroadcastFilter, BroadcastSubscriber, Communicator, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber,
};

const WINDOW: usize = 1000;

/// So many in all, so many of them under way at a time.
async fn many<F: Future>(times: u64, window: usize, one: impl Fn() -> F) -> Duration {
    let begun = Instant::now();
    let mut under_way = FuturesUnordered::new();
    for sent in 0..times {
        if sent >= window as u64 {
            under_way.next().await;
        }
        under_way.push(one());
    }
    while under_way.next().await.is_some() {}
    begun.elapsed()
}

pub fn memory(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let communicator = runtime.block_on(async {
        let communicator = Communicator::connect("memory:").await.expect("a broker");
        communicator.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.expect("added");
        communicator.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await.expect("added");
        let hear = BroadcastSubscriber::closure(|_| ());
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.expect("added");
        communicator
    });
    let mut group = criterion.benchmark_group("memory:");
    group.throughput(Throughput::Elements(1)).sample_size(30);
    for window in [1, WINDOW] {
        let in_flight = |what: &str| format!("{what}, {window} in flight");
        group.bench_function(in_flight("RPC"), |bencher| {
            bencher.iter_custom(|times| {
                let call = || async { communicator.rpc_send("echo", 1).await.expect("an answer") };
                runtime.block_on(many(times, window, call))
            });
        });
        group.bench_function(in_flight("task"), |bencher| {
            bencher.iter_custom(|times| {
                let task = || async { communicator.task_send(1).await.expect("an answer") };
                runtime.block_on(many(times, window, task))
            });
        });
        group.bench_function(in_flight("broadcast"), |bencher| {
            bencher.iter_custom(|times| {
                let broadcast = || async { communicator.broadcast_send(1).into_future().await.expect("sent") };
                runtime.block_on(many(times, window, broadcast))
            });
        });
    }
    group.finish();
    runtime.block_on(communicator.close()).expect("closed");
}
