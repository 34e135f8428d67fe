//! homing as a contender.

use std::future::{Future, IntoFuture};
use std::io::Read;
use std::time::Instant;

use futures_util::stream::{FuturesUnordered, StreamExt};
use homing::codec::Json;
use homing::{
    BroadcastFilter, BroadcastSubscriber, Communicator, CommunicatorBuilder, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber, Value,
};

use crate::{Meter, Work, say};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

fn options(url: &str, prefix: &str, format: Format) -> CommunicatorBuilder {
    let builder = Communicator::builder(url).prefix(prefix);
    if format == Format::Json { builder.codec(Json::default()) } else { builder }
}

fn body() -> Value {
    let mut map = homing::codec::Map::new();
    map.insert("intent", "status");
    map.insert("message", Value::Null);
    Value::Map(map)
}

pub(crate) fn run(url: &str, prefix: &str, seconds: f64, is_server: bool, format: Format) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let communicator = options(url, prefix, format).connect().await.expect("a broker");
        if is_server {
            serve(&communicator).await;
            tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.ok();
        } else {
            for work in crate::works() {
                let connect = || options(url, prefix, format).connect();
                let measured = client(&communicator, connect, work, seconds).await;
                say(work, &measured);
            }
        }
        communicator.close().await.expect("a close");
    });
}

async fn serve(communicator: &Communicator) {
    communicator
        .add_rpc_subscriber("bench", RpcSubscriber::closure(RpcRequest::into_body))
        .await
        .expect("a subscriber");
    communicator.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await.expect("a subscriber");
    if crate::works().any(|work| work == Work::Subscribers1000) {
        for number in 0..1000 {
            let echo = RpcSubscriber::closure(RpcRequest::into_body);
            communicator.add_rpc_subscriber(format!("bench-{number}"), echo).await.expect("a subscriber");
        }
    }
    println!("ready");
}

async fn client<C: Future<Output = homing::Result<Communicator>>>(
    communicator: &Communicator,
    connect: impl Fn() -> C,
    work: Work,
    seconds: f64,
) -> crate::Measured {
    let window = work.window();
    match work {
        Work::RpcOne | Work::Rpc100 | Work::Rpc1000 | Work::Rpc100k => {
            many(window, seconds, || {
                let call = communicator.rpc_send("bench", body());
                async { drop(call.await.expect("an answer")) }
            })
            .await
        }
        Work::Body(size) => {
            let text = "x".repeat(size);
            many(window, seconds, || {
                let call = communicator.rpc_send("bench", text.as_str());
                async { drop(call.await.expect("an answer")) }
            })
            .await
        }
        Work::Subscribers1000 => {
            let next = std::cell::Cell::new(0);
            many(window, seconds, || {
                next.set((next.get() + 1) % 1000);
                let call = communicator.rpc_send(format!("bench-{}", next.get()), body());
                async { drop(call.await.expect("an answer")) }
            })
            .await
        }
        Work::FanOut(subscribers) => {
            fan_out(communicator, connect().await.expect("a broker"), subscribers, seconds).await
        }
        Work::FirstAnswer | Work::Close => {
            let mut meter = Meter::new(seconds);
            while meter.goes_on() {
                let begun = Instant::now();
                let new = connect().await.expect("a broker");
                new.rpc_send("bench", body()).await.expect("an answer");
                let answered = Instant::now();
                new.close().await.expect("a close");
                meter.done(if work == Work::Close { answered.elapsed() } else { answered - begun });
            }
            meter.end()
        }
        Work::TaskPublish => {
            // To a queue that nobody works on: what is measured is the publish.
            let queue = communicator.task_queue(format!("idle-{}", uuid::Uuid::new_v4())).expect("a queue");
            many(window, seconds, || {
                let task = queue.task_send(body()).no_reply();
                async { task.await.expect("confirmed") }
            })
            .await
        }
        Work::TaskRoundTrip => {
            many(window, seconds, || {
                let task = communicator.task_send(body());
                async { drop(task.await.expect("an answer")) }
            })
            .await
        }
        Work::Broadcast => {
            many(window, seconds, || {
                let broadcast = communicator.broadcast_send(body()).into_future();
                async { broadcast.await.expect("confirmed") }
            })
            .await
        }
    }
}

/// Sends broadcasts in lots, each until every subscriber has heard all of it.
async fn fan_out(
    communicator: &Communicator,
    hearing: Communicator,
    subscribers: usize,
    seconds: f64,
) -> crate::Measured {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..subscribers {
        let tell = tell.clone();
        let hear = BroadcastSubscriber::closure(move |_| tell.send(()).expect("it lives"));
        hearing.add_broadcast_subscriber(BroadcastFilter::new(), hear).await.expect("a subscriber");
    }
    let lot = Work::FanOut(subscribers).window();
    let mut meter = Meter::new(seconds);
    while meter.goes_on() {
        let begun = Instant::now();
        let sent: FuturesUnordered<_> = (0..lot).map(|_| communicator.broadcast_send(body()).into_future()).collect();
        sent.for_each(|sent| async { sent.expect("confirmed") }).await;
        for _ in 0..lot * subscribers {
            told.recv().await.expect("it lives");
        }
        for _ in 0..lot {
            meter.done(begun.elapsed());
        }
    }
    let measured = meter.end();
    hearing.close().await.expect("a close");
    measured
}

/// Keeps so many under way.
async fn many<F: Future<Output = ()>>(window: usize, seconds: f64, one: impl Fn() -> F) -> crate::Measured {
    let mut meter = Meter::new(seconds);
    let mut under_way = FuturesUnordered::new();
    let timed = |one: F| async {
        let begun = Instant::now();
        one.await;
        begun.elapsed()
    };
    for _ in 0..window {
        under_way.push(timed(one()));
    }
    while let Some(took) = under_way.next().await {
        meter.done(took);
        if meter.goes_on() {
            under_way.push(timed(one()));
        }
    }
    meter.end()
}

pub(crate) fn blocking(url: &str, prefix: &str, seconds: f64, is_server: bool) {
    if is_server {
        return run(url, prefix, seconds, true, Format::Json);
    }
    let communicator = options(url, prefix, Format::Json).connect_blocking().expect("a broker");
    for work in crate::works().filter(|work| matches!(work, Work::RpcOne | Work::Rpc100)) {
        // As many threads as wait, 64 of them at most.
        let threads = work.window().min(64);
        let meter = std::sync::Mutex::new(Meter::new(seconds));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while meter.lock().expect("no panic").goes_on() {
                        let begun = Instant::now();
                        communicator.rpc_send("bench", body()).wait().expect("an answer");
                        meter.lock().expect("no panic").done(begun.elapsed());
                    }
                });
            }
        });
        say(work, &meter.into_inner().expect("no panic").end());
    }
    communicator.close().expect("a close");
}
