//! How a trace goes along with a message: by headers, which the program's own tracing system writes and reads.

use tracing::Span;

use super::MessageSpan;
use crate::panics::caught;
use crate::wire::headers::TraceHeaders;

/// Carries a trace from a sender to a subscriber in the headers of [W3C trace context](https://www.w3.org/TR/trace-context/).
/// Set by [`CommunicatorBuilder::trace_context`](crate::CommunicatorBuilder::trace_context).
///
/// homing names no tracing system. An implementation for OpenTelemetry takes some lines; `examples/src/bin/tracing.rs` in the
/// repository has it. This one hands on what came in, under one name:
///
/// ```
/// use std::sync::Mutex;
/// use homing::{TraceContext, TraceHeaders};
///
/// /// One trace for the whole program.
/// struct OneTrace(Mutex<Option<String>>);
///
/// impl TraceContext for OneTrace {
///     fn inject(&self, _: &tracing::Span, headers: &mut TraceHeaders) {
///         if let Some(parent) = &*self.0.lock().unwrap() {
///             headers.set("traceparent", parent);
///         }
///     }
///
///     fn extract(&self, _: &tracing::Span, headers: &TraceHeaders) {
///         *self.0.lock().unwrap() = headers.get("traceparent").map(str::to_owned);
///     }
/// }
/// ```
///
/// Both are called at homes: where a message is sent, and where its handler is about to run. A panic in them is logged, and the
/// message goes without.
pub trait TraceContext: Send + Sync + 'static {
    /// Writes what is to go along with a message that this span sends. Where homing's own spans are filtered out, it is the span
    /// that the sender is in.
    fn inject(&self, span: &Span, headers: &mut TraceHeaders);

    /// Makes what came along with a message the parent of this span, in which its handler runs. The span is not entered yet.
    fn extract(&self, span: &Span, headers: &TraceHeaders);
}

/// What goes along with a message.
pub(super) fn inject(context: &dyn TraceContext, span: &MessageSpan) -> Option<Box<TraceHeaders>> {
    let mut headers = TraceHeaders::default();
    let around = if span.is_disabled() { MessageSpan::current() } else { span.clone() };
    if let Err(panic) = caught(|| context.inject(around.get(), &mut headers)) {
        crate::log::error!(panic, "the trace context panicked, and a message goes without");
        return None;
    }
    (!headers.is_empty()).then(|| Box::new(headers))
}

/// Hands on what came along.
pub(super) fn extract(context: &dyn TraceContext, span: &MessageSpan, headers: &TraceHeaders) {
    if let Err(panic) = caught(|| context.extract(span.get(), headers)) {
        crate::log::error!(panic, "the trace context panicked, and a handler runs without");
    }
}
