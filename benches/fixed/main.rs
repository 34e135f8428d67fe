//! Pieces of work of a fixed size, for `tests/tools/instructions`: how many instructions each takes says what a change costs on
//! any machine, whatever else it does.
//!
//! `cargo bench --bench fixed -- WORK TIMES` does one of them so many times. What is counted is the difference between two
//! runs, so that what a run has to set up does not count.

use std::future::{Future, IntoFuture};
use std::hint::black_box;
use std::process::ExitCode;

use futures_util::stream::{FuturesUnordered, StreamExt};
use homing::codec::{Codec, Json, Map, Yaml};
use homing::home::Home;
use homing::{
    BroadcastFilter, BroadcastSubscriber, Communicator, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, Value,
};

/// A name, and what does it so many times.
type Work = (&'static str, fn(u32));

const WORKS: [Work; 6] = [
    ("completion", completions),
    ("memory-rpc", |times| memory(times, Kind::Rpc)),
    ("memory-task", |times| memory(times, Kind::Task)),
    ("memory-broadcast", |times| memory(times, Kind::Broadcast)),
    ("json", |times| codec(times, &Json::default())),
    ("yaml", |times| codec(times, &Yaml::default())),
];

fn main() -> ExitCode {
    homing::home::do_without_audit();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match arguments.as_slice() {
        [work, times] => {
            let (Some((_, work)), Ok(times)) = (WORKS.iter().find(|(name, _)| name == work), times.parse()) else {
                eprintln!("fixed: there is no such work, or no such number");
                return ExitCode::from(2);
            };
            work(times);
        }
        _ => WORKS.iter().for_each(|(name, _)| println!("{name}")),
    }
    ExitCode::SUCCESS
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// To a tokio home, a hundred under way.
fn completions(times: u32) {
    let (work, come) = crossbeam_channel::unbounded::<homing::home::Completer<u32>>();
    let elsewhere = std::thread::spawn(move || come.into_iter().for_each(|completer| drop(completer.complete(7))));
    runtime().block_on(async {
        let home = Home::current();
        for _ in 0..times / 100 {
            let mut futures = Vec::with_capacity(100);
            for _ in 0..100 {
                let (completer, future) = home.try_future().expect("room");
                work.send(completer).expect("it lives");
                futures.push(future);
            }
            for future in futures {
                black_box(future.await.expect("completed"));
            }
        }
    });
    drop(work);
    elsewhere.join().expect("no panic");
}

#[derive(Clone, Copy)]
enum Kind {
    Rpc,
    Task,
    Broadcast,
}

async fn many<F: Future>(times: u32, one: impl Fn() -> F) {
    let mut under_way = FuturesUnordered::new();
    for sent in 0..times {
        if sent >= 100 {
            under_way.next().await;
        }
        under_way.push(one());
    }
    while under_way.next().await.is_some() {}
}

/// A hundred under way, of which each is answered.
fn memory(times: u32, kind: Kind) {
    runtime().block_on(async {
        let communicator = Communicator::connect("memory:").await.expect("a broker");
        communicator.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.expect("added");
        communicator.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await.expect("added");
        let hear = BroadcastSubscriber::closure(|_| ());
        communicator.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.expect("added");
        match kind {
            Kind::Rpc => many(times, || async { communicator.rpc_send("echo", 1).await.expect("an answer") }).await,
            Kind::Task => many(times, || async { communicator.task_send(1).await.expect("an answer") }).await,
            Kind::Broadcast => many(times, || communicator.broadcast_send(1).into_future()).await,
        }
        communicator.close().await.expect("closed");
    });
}

/// A body as AiiDA sends them, written and read.
fn codec(times: u32, codec: &dyn Codec) {
    let mut body = Map::new();
    body.insert("intent", "status");
    body.insert("message", Value::Null);
    let body = Value::Map(body);
    for _ in 0..times {
        let bytes = codec.encode(black_box(&body)).expect("encoded");
        black_box(codec.decode(black_box(&bytes)).expect("decoded"));
    }
}
