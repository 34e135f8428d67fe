//! A trace that goes through calls, for OpenTelemetry: what a caller does, its call, the handler of it in another program, and the
//! task that the handler sends are spans of one trace.
//!
//! ```sh
//! cargo run -p homing-examples --bin tracing
//! ```
//!
//! The spans are printed. For a collector, put the exporter of the crate `opentelemetry-otlp` in the place of that of
//! `opentelemetry-stdout`.

use homing::{Communicator, RpcRequest, RpcSubscriber, TaskRequest, TaskSubscriber, TraceContext, TraceHeaders};
use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// homing's messages carry OpenTelemetry's context: all that it takes.
struct OpenTelemetry;

impl TraceContext for OpenTelemetry {
    fn inject(&self, span: &Span, headers: &mut TraceHeaders) {
        struct Into<'a>(&'a mut TraceHeaders);
        impl Injector for Into<'_> {
            fn set(&mut self, key: &str, value: String) {
                self.0.set(key, value);
            }
        }
        global::get_text_map_propagator(|propagator| propagator.inject_context(&span.context(), &mut Into(headers)));
    }

    fn extract(&self, span: &Span, headers: &TraceHeaders) {
        struct From<'a>(&'a TraceHeaders);
        impl Extractor for From<'_> {
            fn get(&self, key: &str) -> Option<&str> {
                self.0.get(key)
            }
            fn keys(&self) -> Vec<&str> {
                self.0.names().collect()
            }
        }
        let parent = global::get_text_map_propagator(|propagator| propagator.extract(&From(headers)));
        if let Err(error) = span.set_parent(parent) {
            tracing::debug!(%error, "a span has no parent");
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider =
        SdkTracerProvider::builder().with_simple_exporter(opentelemetry_stdout::SpanExporter::default()).build();
    tracing_subscriber::registry()
        // homing's spans of messages are at DEBUG. lapin logs bodies and, at TRACE, the login.
        .with(tracing_subscriber::EnvFilter::new("info,homing::messages=debug,lapin=off"))
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("homing-examples")))
        .init();

    // Two programs, on one broker.
    let broker = match homing_examples::broker().as_str() {
        "memory:" => "memory:tracing".to_owned(),
        broker => broker.to_owned(),
    };
    let server = Communicator::builder(&broker).trace_context(OpenTelemetry).connect().await?;
    let client = Communicator::builder(&broker).trace_context(OpenTelemetry).connect().await?;

    let tasks = server.clone();
    let order = RpcSubscriber::future(move |request: RpcRequest| {
        let tasks = tasks.clone();
        // What the handler sends is part of the trace by itself.
        async move { tasks.task_send(request.into_body()).await }
    });
    server.add_rpc_subscriber("homing-examples.order", order).await?;
    let packs = TaskSubscriber::closure(|task: TaskRequest| {
        tracing::info_span!("packing").in_scope(|| format!("packed {}", task.body()))
    });
    server.add_task_subscriber(packs).await?;

    let shopping = async { client.rpc_send("homing-examples.order", "a book").await };
    let answer = shopping.instrument(tracing::info_span!("shopping")).await?;
    println!("answer: {answer}");

    client.close().await?;
    server.drain(std::time::Duration::from_secs(5)).await?;
    provider.shutdown()?;
    Ok(())
}
