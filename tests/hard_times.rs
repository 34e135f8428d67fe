//! A close while the network is in trouble, and bodies that are large or too large.

mod support;

use std::future::IntoFuture;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use homing::codec::Json;
use homing::{
    BroadcastFilter, Communicator, CommunicatorBuilder, ErrorKind, RpcRequest, RpcSubscriber, TaskRequest,
    TaskSubscriber, TestingMode, Value,
};

use support::proxy::Proxy;
use support::{Broker, Suite};

/// How long what moves many bytes may take.
const PATIENCE: Duration = Duration::from_secs(150);

fn main() -> ExitCode {
    let mut suite = Suite::new();
    // Seconds, unless the machine has other things to do.
    suite.deadline(PATIENCE * 2);
    for (name, trouble) in TROUBLES {
        suite.rabbitmq(&format!("a_close_while_{name}_ends_in_time"), move |broker| {
            on_a_runtime(close_in(broker.clone(), *trouble));
        });
    }
    for (name, who) in ANSWERERS {
        suite.rabbitmq(&format!("a_lost_answer_of_{name}_is_given_again"), move |broker| {
            on_a_runtime(lost_answer(broker.clone(), *who, Duration::ZERO));
        });
    }
    suite.rabbitmq("a_lost_answer_is_given_again_by_a_worker_that_is_back_later_than_its_caller", |broker| {
        on_a_runtime(lost_answer(broker.clone(), Answerer::TakesByHand, Duration::from_secs(16)));
    });
    suite.rabbitmq("a_listener_notices_that_the_exchange_was_deleted_and_made_again_by_others", |broker| {
        on_a_runtime(deaf(broker.clone()));
    });
    suite.rabbitmq("a_body_of_64_mib_arrives", |broker| on_a_runtime(large(broker.clone())));
    suite.rabbitmq("a_body_over_the_broker_s_limit_is_its_sender_s_error", |broker| {
        on_a_runtime(too_large(broker.clone()));
    });
    suite.rabbitmq("a_sender_waits_for_room_and_try_send_does_not", |broker| on_a_runtime(no_room(broker.clone())));
    suite.rabbitmq("a_list_of_brokers_is_tried_in_turn", |broker| on_a_runtime(listed(broker.clone())));
    suite.run()
}

fn on_a_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test);
}

fn options(url: &str, broker: &Broker) -> CommunicatorBuilder {
    Communicator::builder(url)
        .prefix(broker.prefix())
        .testing(TestingMode::Yes)
        .call_timeout(Duration::from_secs(40))
        .task_timeout(Duration::from_secs(40))
        .connect_timeout(Duration::from_secs(2))
        .close_timeout(Duration::from_secs(4))
}

type Trouble = fn(&Proxy);

const TROUBLES: &[(&str, Trouble)] = &[
    ("every_connection_is_cut", Proxy::cut),
    ("nothing_goes_through", Proxy::stall),
    ("one_half_is_closed", Proxy::half_close),
    ("bytes_are_changed", |proxy| proxy.corrupt(4)),
    ("the_broker_is_away", |proxy| {
        proxy.refuse();
        proxy.cut();
    }),
    ("a_handshake_stalls", |proxy| {
        proxy.cut();
        proxy.stall();
    }),
];

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}

async fn close_in(broker: Broker, trouble: Trouble) {
    let proxy = Proxy::before(broker.url()).unwrap();
    let url = proxy.url(broker.url());
    let thread_name = format!("h{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
    let heartbeat = Duration::from_secs(2);
    let server = options(&url, &broker).thread_name(&thread_name).heartbeat(heartbeat).connect().await.unwrap();
    let client = options(&url, &broker).thread_name(&thread_name).heartbeat(heartbeat).connect().await.unwrap();
    let (begun, mut has_begun) = tokio::sync::mpsc::unbounded_channel();
    let also = begun.clone();
    let call = RpcSubscriber::future(move |_: RpcRequest| {
        begun.send(()).ok();
        std::future::pending::<Value>()
    });
    server.add_rpc_subscriber("never", call).await.unwrap();
    let task = TaskSubscriber::future(move |_: TaskRequest| {
        also.send(()).ok();
        std::future::pending::<Value>()
    });
    server.add_task_subscriber(task).await.unwrap();
    let mut outcomes = Vec::new();
    for n in 0..10 {
        outcomes.push(tokio::spawn(client.rpc_send("never", n).into_future()));
        outcomes.push(tokio::spawn(client.task_send(n).into_future()));
    }
    for _ in 0..20 {
        has_begun.recv().await.unwrap();
    }
    trouble(&proxy);
    for n in 0..10 {
        outcomes.push(tokio::spawn(client.rpc_send("never", n).into_future()));
        outcomes.push(tokio::spawn(client.broadcast_send(n).into_future().map_value()));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    let (one, other) = tokio::join!(client.close(), server.close());
    assert!(started.elapsed() < Duration::from_secs(12), "closing took {:?}", started.elapsed());
    one.unwrap();
    other.unwrap();
    for outcome in outcomes {
        let ended = tokio::time::timeout(Duration::from_secs(60), outcome).await.expect("a future that does not end");
        if let Err(error) = ended.unwrap() {
            let may_be = [ErrorKind::CommunicatorClosed, ErrorKind::ConnectionLost, ErrorKind::RemoteException];
            assert!(may_be.contains(&error.kind()), "{error:?}");
        }
    }
    // What lapin had for a connection that was cut may take a moment more.
    support::eventually(|| threads_named(&thread_name) == 0).await;
}

/// A broadcast as the others are.
trait MapValue {
    fn map_value(self) -> impl Future<Output = homing::Result<Value>> + Send + 'static;
}

impl<F: Future<Output = homing::Result<()>> + Send + 'static> MapValue for F {
    async fn map_value(self) -> homing::Result<Value> {
        self.await.map(|()| Value::Null)
    }
}

/// Who answers. None of them has a subscriber by then.
#[derive(Clone, Copy)]
enum Answerer {
    TakesByHand,
    TaskSubscriber,
    RpcSubscriber,
}

const ANSWERERS: &[(&str, Answerer)] = &[
    ("somebody_who_takes_tasks_by_hand", Answerer::TakesByHand),
    ("a_task_subscriber_that_was_removed", Answerer::TaskSubscriber),
    ("a_subscriber_of_calls_that_was_removed", Answerer::RpcSubscriber),
];

/// An answer comes to a caller's queue, and the queue goes with the caller's connection before the caller has read it. Whoever
/// has answered is away for a time, too.
async fn lost_answer(broker: Broker, who: Answerer, away: Duration) {
    let (proxy, workers) = (Proxy::before(broker.url()).unwrap(), Proxy::before(broker.url()).unwrap());
    let options = |url: &str| {
        let patience = Duration::from_secs(90);
        options(url, &broker).call_timeout(patience).task_timeout(patience)
    };
    let worker = options(&workers.url(broker.url())).connect().await.unwrap();
    let caller = options(&proxy.url(broker.url())).connect().await.unwrap();
    let (promises, mut promised) = tokio::sync::mpsc::unbounded_channel();
    let later = move || {
        let (promise, answer) = homing::Answer::promise()?;
        promises.send(promise).ok();
        homing::HandlerResult::Ok(answer)
    };
    let queue = worker.default_task_queue().unwrap();
    let (reply, promise) = match who {
        Answerer::TakesByHand => {
            let reply = caller.task_send(1).send().await.unwrap();
            queue.next_task(Duration::from_secs(20)).await.unwrap().finish(later());
            (reply, promised.recv().await.unwrap())
        }
        Answerer::TaskSubscriber => {
            let subscriber = TaskSubscriber::closure(move |_: TaskRequest| later());
            let identifier = worker.add_task_subscriber(subscriber).await.unwrap();
            let reply = caller.task_send(1).send().await.unwrap();
            let promise = promised.recv().await.unwrap();
            worker.remove_task_subscriber(&identifier).await.unwrap();
            (reply, promise)
        }
        Answerer::RpcSubscriber => {
            let subscriber = RpcSubscriber::closure(move |_: RpcRequest| later());
            worker.add_rpc_subscriber("later", subscriber).await.unwrap();
            let reply = caller.rpc_send("later", 1).send().await.unwrap();
            let promise = promised.recv().await.unwrap();
            worker.remove_rpc_subscriber("later").await.unwrap();
            (reply, promise)
        }
    };
    proxy.stall();
    promise.answer("done");
    // It goes out before this one, and is the broker's when this one is.
    worker.broadcast_send("behind it").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    if !away.is_zero() {
        workers.refuse();
        workers.cut();
    }
    proxy.cut();
    proxy.pass();
    tokio::time::sleep(away).await;
    workers.pass();
    let outcome = tokio::time::timeout(Duration::from_secs(60), reply.into_future()).await;
    assert_eq!(outcome.expect("nobody answers again").unwrap().as_str(), Some("done"));
    assert!(worker.counts().answered_again >= 1, "the answer was not lost: {:?}", worker.counts());
    caller.close().await.unwrap();
    worker.close().await.unwrap();
}

/// Somebody who only receives broadcasts sends nothing that could come back.
async fn deaf(broker: Broker) {
    let options = || options(broker.url(), &broker).testing(TestingMode::No);
    let (listener, other) = (options().connect().await.unwrap(), options().connect().await.unwrap());
    let mut heard = listener.broadcasts(BroadcastFilter::new()).await.unwrap();
    other.broadcast_send("before").await.unwrap();
    assert_eq!(heard.next().await.unwrap().unwrap().body().as_str(), Some("before"));
    let operator = format!("{}/%2f", broker.url().trim_end_matches('/'));
    let operator = lapin::Connection::connect(&operator, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = operator.create_channel().await.unwrap();
    let delete = || channel.exchange_delete(format!("{}.messages", broker.prefix()).into(), Default::default());
    delete().await.unwrap();
    let again = async {
        loop {
            other.broadcast_send("after").await.unwrap();
            let wait = tokio::time::timeout(Duration::from_millis(200), heard.next()).await;
            if let Ok(Some(Ok(broadcast))) = wait {
                return broadcast;
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(60), again).await.expect("it never receives another one");
    assert_eq!(again.body().as_str(), Some("after"));
    listener.close().await.unwrap();
    other.close().await.unwrap();
    delete().await.unwrap();
}

async fn large(broker: Broker) {
    let patient = |url: &str| options(url, &broker).call_timeout(PATIENCE).task_timeout(PATIENCE);
    let json = |url: &str| patient(url).codec(Json::default());
    let server = json(broker.url()).connect().await.unwrap();
    let client = json(broker.url()).connect().await.unwrap();
    let length =
        RpcSubscriber::closure(|request: RpcRequest| i64::try_from(request.body().as_str().unwrap().len()).unwrap());
    server.add_rpc_subscriber("length", length).await.unwrap();
    server.add_task_subscriber(TaskSubscriber::closure(TaskRequest::into_body)).await.unwrap();
    // Beside it the format needs a few bytes within the limit of 64 MiB.
    let size = (64 << 20) - 1024;
    let body = "x".repeat(size);
    assert_eq!(client.rpc_send("length", body.as_str()).await.unwrap().as_i64(), i64::try_from(size).ok());
    assert_eq!(client.task_send(body.as_str()).await.unwrap().as_str().map(str::len), Some(size));
    client.close().await.unwrap();
    server.close().await.unwrap();
}

async fn too_large(broker: Broker) {
    // RabbitMQ's default limit is 128 MiB (512 MiB before 3.8): what is over it closes the channel that it came by.
    let mut limits = homing::codec::Limits::default();
    limits.max_bytes = 1 << 30;
    let options = options(broker.url(), &broker).call_timeout(PATIENCE);
    let client = options.codec(Json::with_limits(limits)).connect().await.unwrap();
    client.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    let error = client.rpc_send("echo", "x".repeat(130 << 20)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::DeliveryFailed | ErrorKind::ConnectionLost), "{error:?}");
    assert_eq!(client.rpc_send("echo", 1).await.unwrap().as_i64(), Some(1), "others go on");
    client.close().await.unwrap();
}

async fn no_room(broker: Broker) {
    let proxy = Proxy::before(broker.url()).unwrap();
    let one = std::num::NonZeroUsize::new(1).unwrap();
    let room = std::num::NonZeroUsize::new(1 << 20).unwrap();
    let client = options(&proxy.url(broker.url()), &broker).max_in_flight(one, room).connect().await.unwrap();
    client.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    client.rpc_send("echo", 0).await.unwrap();
    proxy.stall();
    let first = client.rpc_send("echo", 1).try_send().unwrap();
    let error = client.rpc_send("echo", 2).try_send().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(client.task_send(2).try_send().unwrap_err().kind(), ErrorKind::Full);
    let error = client.rpc_send("echo", 3).timeout(Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("was not sent"), "{error}");
    let blocking = homing::blocking::Communicator::from(client.clone());
    let waited = tokio::task::spawn_blocking(move || {
        blocking.rpc_send("echo", 4).timeout(Duration::from_millis(100)).wait().map_err(|error| error.kind())
    });
    assert_eq!(waited.await.unwrap(), Err(ErrorKind::TimedOut));
    let waiting = tokio::spawn(client.rpc_send("echo", 5).into_future());
    proxy.pass();
    assert_eq!(first.await.unwrap().as_i64(), Some(1));
    assert_eq!(waiting.await.unwrap().unwrap().as_i64(), Some(5));
    client.close().await.unwrap();
}

async fn listed(broker: Broker) {
    let (one, other) = (Proxy::before(broker.url()).unwrap(), Proxy::before(broker.url()).unwrap());
    one.refuse();
    let urls = format!("{}, {}", one.url(broker.url()), other.url(broker.url()));
    let client = options(&urls, &broker).connect().await.unwrap();
    client.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    assert_eq!(client.rpc_send("echo", 1).await.unwrap().as_i64(), Some(1));
    assert!(other.connections() > 0 && one.done() > 0);
    let mut events = client.events();
    one.pass();
    other.refuse();
    other.cut();
    while !matches!(events.next().await.unwrap(), homing::ConnectionEvent::Restored { .. }) {}
    assert_eq!(client.rpc_send("echo", 2).await.unwrap().as_i64(), Some(2));
    assert!(one.connections() > 0);
    client.close().await.unwrap();
}
