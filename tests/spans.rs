//! What an operator sees of a message: two spans, by OpenTelemetry's names, and a trace that goes through a call.

mod support;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use homing::{
    BroadcastFilter, BroadcastSubscriber, Communicator, CommunicatorBuilder, ErrorKind, Failure, HandlerError,
    HandlerResult, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, TestingMode, TraceContext, TraceHeaders,
};
use tracing::field::{Field, Visit};
use tracing::{Metadata, Span, span};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use support::{Broker, Suite, eventually};

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "the-body-of-a-message";

fn main() -> ExitCode {
    let layered = tracing_subscriber::registry().with(Recorded::global().clone());
    tracing::subscriber::set_global_default(layered).expect("the first");
    let mut suite = Suite::new();
    suite.both("a_call_has_a_span_at_each_end", |broker| run(a_call(broker.clone())));
    suite.both("a_task_has_a_span_at_each_end", |broker| run(a_task(broker.clone())));
    suite.both("a_broadcast_has_a_span_at_each_end", |broker| run(a_broadcast(broker.clone())));
    suite.both("a_failure_is_marked_and_named_at_both_ends", |broker| run(a_failure(broker.clone())));
    suite.both("a_handler_runs_in_its_span_on_every_home", |broker| run(inside(broker.clone())));
    suite.both("a_trace_goes_through_calls_tasks_and_broadcasts", |broker| run(a_trace(broker.clone())));
    suite.both("without_the_option_no_header_goes_along", |broker| run(no_trace(broker.clone())));
    suite.both("a_trace_context_that_panics_costs_no_message", |broker| run(panics(broker.clone())));
    suite.run()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(2 * LIMIT, test).await.expect("the test hangs") });
}

/// One span, as it was made and recorded.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
    thread: String,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

/// Every span of messages, of all tests.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<u64, Seen>>>);

impl Recorded {
    fn global() -> &'static Recorded {
        static GLOBAL: std::sync::OnceLock<Recorded> = std::sync::OnceLock::new();
        GLOBAL.get_or_init(Recorded::default)
    }

    /// Those of one exchange, which is a test's own, in the order in which they were made.
    fn of(exchange: &str) -> Vec<(u64, Seen)> {
        let seen = Self::global().0.lock().unwrap();
        let own = |seen: &Seen| seen.fields["messaging.destination.name"].starts_with(exchange);
        seen.iter().filter(|(_, seen)| own(seen)).map(|(id, seen)| (*id, seen.clone())).collect()
    }

    /// The two of the only message that was sent there: its sender's and its handler's. Waits until both are closed.
    async fn pair(exchange: &str) -> [(u64, Seen); 2] {
        let of = |name: &str| Self::of(exchange).into_iter().filter(|(_, seen)| seen.name == name).collect::<Vec<_>>();
        eventually(|| Self::of(exchange).iter().filter(|(_, seen)| seen.closed).count() >= 2).await;
        let (mut sent, mut processed) = (of("send"), of("process"));
        assert_eq!((sent.len(), processed.len()), (1, 1), "{:?}", Self::of(exchange));
        let all = Self::of(exchange);
        for (_, seen) in &all {
            assert!(!seen.thread.ends_with("-communicator"), "made on the communicator thread: {seen:?}");
            assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
        }
        [sent.remove(0), processed.remove(0)]
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorded {
    fn enabled(&self, metadata: &Metadata<'_>, _: LayerContext<'_, S>) -> bool {
        metadata.is_span() && (metadata.target() == "homing::messages" || metadata.target() == "test")
    }

    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: LayerContext<'_, S>) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let mut seen = Seen { name: attributes.metadata().name(), thread, ..Seen::default() };
        seen.fields.insert("messaging.destination.name", String::new());
        attributes.record(&mut seen);
        self.0.lock().unwrap().insert(id.into_u64(), seen);
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: LayerContext<'_, S>) {
        if let Some(seen) = self.0.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(seen);
        }
    }

    fn on_close(&self, id: span::Id, _: LayerContext<'_, S>) {
        let mut all = self.0.lock().unwrap();
        // The registry uses ids again.
        if let Some(mut seen) = all.remove(&id.into_u64()) {
            seen.closed = true;
            let closed = CLOSED.fetch_add(1, Ordering::SeqCst) + (1 << 63);
            all.insert(closed, seen);
        }
    }
}

static CLOSED: AtomicU64 = AtomicU64::new(0);

fn options(broker: &Broker) -> CommunicatorBuilder {
    Communicator::builder(broker.url())
        .prefix(broker.prefix())
        .testing(TestingMode::Yes)
        .call_timeout(LIMIT)
        .task_timeout(LIMIT)
}

async fn connect(broker: &Broker) -> Communicator {
    options(broker).connect().await.unwrap()
}

fn field<'a>(seen: &'a Seen, name: &str) -> &'a str {
    seen.fields.get(name).map_or("", String::as_str)
}

/// What both spans of a message have.
fn common(broker: &Broker, kind: &str, destination: &str, [sent, processed]: &[(u64, Seen); 2]) {
    let system = if broker.is_memory() { "memory" } else { "rabbitmq" };
    for (seen, name, otel) in [(&sent.1, "send", "producer"), (&processed.1, "process", "consumer")] {
        assert_eq!(field(seen, "otel.kind"), otel, "{seen:?}");
        assert_eq!(field(seen, "otel.name"), format!("{name} {destination}"), "{seen:?}");
        assert_eq!(field(seen, "messaging.system"), system, "{seen:?}");
        assert_eq!(field(seen, "messaging.operation.name"), name, "{seen:?}");
        assert_eq!(field(seen, "messaging.operation.type"), name, "{seen:?}");
        assert_eq!(field(seen, "messaging.destination.name"), destination, "{seen:?}");
        assert_eq!(field(seen, "homing.kind"), kind, "{seen:?}");
        assert!(broker.is_memory() || field(seen, "messaging.message.body.size").parse::<usize>().unwrap() > 0);
    }
}

async fn a_call(broker: Broker) {
    let communicator = connect(&broker).await;
    communicator.add_rpc_subscriber("echo", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    communicator.rpc_send("echo", SECRET).await.unwrap();
    let exchange = broker.message_exchange();
    let pair = Recorded::pair(&exchange).await;
    common(&broker, "call", &format!("{exchange}:[rpc].echo"), &pair);
    let [(_, sent), (_, processed)] = &pair;
    for seen in [sent, processed] {
        assert_eq!(field(seen, "homing.outcome"), "ok", "{seen:?}");
        assert_eq!((field(seen, "error.type"), field(seen, "otel.status_code")), ("", ""), "{seen:?}");
        assert_eq!(field(seen, "messaging.rabbitmq.destination.routing_key"), "[rpc].echo");
    }
    let conversation = field(sent, "messaging.message.conversation_id");
    assert!(conversation.len() == 36 && conversation == field(processed, "messaging.message.conversation_id"));
    assert_eq!(field(processed, "homing.subscriber"), "echo");
}

async fn a_task(broker: Broker) {
    let communicator = options(&broker).task_attempts(2.try_into().unwrap(), Duration::from_millis(10)).connect();
    let communicator = communicator.await.unwrap();
    let worker = TaskSubscriber::closure(|task: TaskRequest| match task.attempt() {
        homing::Attempt::Exactly(1) => Err(Failure::TryAgain("not yet".into())),
        _ => Ok("done"),
    });
    communicator.add_task_subscriber(worker).await.unwrap();
    communicator.task_send(SECRET).await.unwrap();
    let (exchange, queue) = (broker.task_exchange(), format!("{}.process.queue", broker.prefix()));
    eventually(|| Recorded::of(&exchange).iter().filter(|(_, seen)| seen.closed).count() == 3).await;
    let all = Recorded::of(&exchange);
    let of = |name: &str, attempt: &str| {
        let own = |(_, seen): &&(u64, Seen)| seen.name == name && field(seen, "homing.attempt") == attempt;
        all.iter().find(own).cloned().unwrap_or_else(|| panic!("{name} {attempt} in {all:?}"))
    };
    let (sent, first, second) = (of("send", ""), of("process", "1"), of("process", "2"));
    common(&broker, "task", &format!("{exchange}:{queue}"), &[sent.clone(), second.clone()]);
    assert_eq!(field(&first.1, "homing.outcome"), "try_again");
    assert_eq!(field(&second.1, "homing.outcome"), "ok");
    assert_eq!(field(&sent.1, "homing.outcome"), "ok");
    let id = field(&first.1, "messaging.message.id");
    assert!(!id.is_empty() && id == field(&second.1, "messaging.message.id"));
}

async fn a_broadcast(broker: Broker) {
    let communicator = connect(&broker).await;
    let listener = BroadcastSubscriber::closure(|_: homing::Broadcast| ());
    communicator.add_broadcast_subscriber(BroadcastFilter::new(), listener).await.unwrap();
    communicator.broadcast_send(SECRET).subject("news").await.unwrap();
    let exchange = broker.message_exchange();
    let pair = Recorded::pair(&exchange).await;
    common(&broker, "broadcast", &format!("{exchange}:[broadcast]"), &pair);
}

async fn a_failure(broker: Broker) {
    let communicator = connect(&broker).await;
    let fails = RpcSubscriber::closure(|_: RpcRequest| -> HandlerResult<i64> {
        Err(HandlerError::exception("no").with_type("Refused"))
    });
    communicator.add_rpc_subscriber("fails", fails).await.unwrap();
    let error = communicator.rpc_send("fails", SECRET).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RemoteException);
    let [(_, sent), (_, processed)] = Recorded::pair(&broker.message_exchange()).await;
    assert_eq!(field(&sent, "homing.outcome"), "remote_exception");
    assert_eq!(field(&processed, "homing.outcome"), "exception");
    for seen in [sent, processed] {
        assert_eq!((field(&seen, "error.type"), field(&seen, "otel.status_code")), ("Refused", "ERROR"), "{seen:?}");
    }
}

async fn inside(broker: Broker) {
    let communicator = connect(&broker).await;
    let name = || Span::current().metadata().map(|metadata| metadata.name().to_owned());
    let blocking = RpcSubscriber::blocking(move |_: RpcRequest| name());
    let future = RpcSubscriber::future(move |_: RpcRequest| async move {
        tokio::task::yield_now().await;
        name()
    });
    let later = RpcSubscriber::closure(move |_: RpcRequest| homing::Answer::later(async move { name() }));
    let event_loop = homing::home::EventLoop::start("spans").unwrap();
    let on_loop = RpcSubscriber::closure(move |_: RpcRequest| name());
    communicator.bound_to(&event_loop.handle().home()).add_rpc_subscriber("loop", on_loop).await.unwrap();
    for (identifier, subscriber) in [("blocking", blocking), ("future", future), ("later", later)] {
        communicator.add_rpc_subscriber(identifier, subscriber).await.unwrap();
    }
    for identifier in ["loop", "blocking", "future", "later"] {
        let seen = communicator.rpc_send(identifier, ()).await.unwrap();
        assert_eq!(seen.as_str(), Some("process"), "{identifier}");
    }
}

/// A tracing system of a few lines: what came in with each span, and one trace for all that goes out.
#[derive(Clone, Default)]
struct Traces {
    sends: Option<&'static str>,
    came: Arc<Mutex<HashMap<Option<span::Id>, String>>>,
}

impl TraceContext for Traces {
    fn inject(&self, span: &Span, headers: &mut TraceHeaders) {
        assert_eq!(span.metadata().map(Metadata::name), Some("send"));
        if let Some(parent) = self.sends {
            headers.set("Traceparent", parent);
            headers.set("tracestate", "x".repeat(8193));
            headers.set("not-a-trace", "does not go along");
        }
    }

    fn extract(&self, span: &Span, headers: &TraceHeaders) {
        assert_eq!(headers.names().collect::<Vec<_>>(), ["traceparent"]);
        let parent = headers.get("traceparent").unwrap_or_default().to_owned();
        self.came.lock().unwrap().insert(span.id(), parent);
    }
}

async fn a_trace(broker: Broker) {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let traces = Traces { sends: Some(PARENT), ..Traces::default() };
    let sender = options(&broker).trace_context(traces).connect().await.unwrap();
    let receiving = Traces::default();
    let receiver = options(&broker).trace_context(receiving.clone()).connect().await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let tell = move |what: &'static str| {
        let trace = receiving.came.lock().unwrap().get(&Span::current().id()).cloned();
        tell.send((what, trace)).ok();
    };
    let (call, task, broadcast) = (tell.clone(), tell.clone(), tell);
    receiver.add_rpc_subscriber("traced", RpcSubscriber::closure(move |_: RpcRequest| call("call"))).await.unwrap();
    receiver.add_task_subscriber(TaskSubscriber::closure(move |_: TaskRequest| task("task"))).await.unwrap();
    let listener = BroadcastSubscriber::closure(move |_: homing::Broadcast| broadcast("broadcast"));
    receiver.add_broadcast_subscriber(BroadcastFilter::new(), listener).await.unwrap();
    sender.rpc_send("traced", 1).await.unwrap();
    sender.task_send(1).await.unwrap();
    sender.task_send(1).delay(Duration::from_millis(50)).no_reply().await.unwrap();
    sender.broadcast_send(1).await.unwrap();
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(told.recv().await.unwrap());
    }
    all.sort_unstable();
    let parent = Some(PARENT.to_owned());
    assert_eq!(all, ["broadcast", "call", "task", "task"].map(|what| (what, parent.clone())));
}

async fn no_trace(broker: Broker) {
    let receiving = Traces::default();
    let sender = connect(&broker).await;
    let receiver = options(&broker).trace_context(receiving.clone()).connect().await.unwrap();
    receiver.add_rpc_subscriber("plain", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    sender.rpc_send("plain", 1).await.unwrap();
    assert!(receiving.came.lock().unwrap().is_empty());
}

async fn panics(broker: Broker) {
    struct Bad;
    impl TraceContext for Bad {
        fn inject(&self, _: &Span, headers: &mut TraceHeaders) {
            headers.set("traceparent", "begun");
            panic!("inject")
        }
        fn extract(&self, _: &Span, _: &TraceHeaders) {
            panic!("extract")
        }
    }
    let traces = Traces { sends: Some("x"), ..Traces::default() };
    let bad = options(&broker).trace_context(Bad).connect().await.unwrap();
    let good = options(&broker).trace_context(traces).connect().await.unwrap();
    bad.add_rpc_subscriber("bad", RpcSubscriber::closure(RpcRequest::into_body)).await.unwrap();
    assert_eq!(good.rpc_send("bad", 1).await.unwrap().as_i64(), Some(1));
    assert_eq!(bad.rpc_send("bad", 2).await.unwrap().as_i64(), Some(2));
}
