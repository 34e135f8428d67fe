//! The two spans of a message, by OpenTelemetry's names for messaging: `send` at its sender, from the send to the outcome, and
//! `process` around its handler, up to the outcome.

use tracing::field::Empty;

use super::{MessageKind, MessageSpan, meter, outcome_name, trace};
use crate::driver::port::Transfer;
use crate::error::Result;
use crate::serve::{Context, Failure, HandlerError};
use crate::wire::headers::TraceHeaders;
use crate::wire::response::ErrorDetails;

/// Under this target, at the level `DEBUG`.
const TARGET: &str = "homing::messages";

/// What stands in for the outcome where nobody waits for it any more.
const GIVEN_UP: &str = "given_up";

fn system(context: &Context) -> &'static str {
    match context.port.transfer {
        Transfer::Encoded => "rabbitmq",
        Transfer::Passed => "memory",
    }
}

/// A message that is open at one of its ends. Dropped, it is given up.
struct Open {
    span: MessageSpan,
    kind: MessageKind,
    begun: meter::Clock,
    /// What its end adds to the figures; none is left once it has ended.
    ended: Option<fn(MessageKind, &'static str, meter::Clock)>,
}

impl Open {
    fn new(span: MessageSpan, kind: MessageKind, ended: fn(MessageKind, &'static str, meter::Clock)) -> Self {
        Open { span, kind, begun: meter::Clock::now(), ended: Some(ended) }
    }

    /// Ends it with this outcome, unless it has ended. What is a failure besides is recorded by `failed`.
    fn end(&mut self, outcome: &'static str, failed: impl FnOnce(&MessageSpan)) {
        if let Some(ended) = self.ended.take() {
            self.span.record("homing.outcome", outcome);
            failed(&self.span);
            ended(self.kind, outcome, self.begun);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end(GIVEN_UP, |_| {});
    }
}

/// A type of the error's own says more than how it ended.
fn record_error(span: &MessageSpan, details: Option<&ErrorDetails>, outcome: &'static str) {
    span.record("error.type", details.and_then(ErrorDetails::type_name).unwrap_or(outcome));
}

fn record_fault(span: &MessageSpan) {
    span.record("otel.status_code", "ERROR");
}

/// A message from its send to its outcome, at its sender.
pub(crate) struct Outgoing(Open);

impl Outgoing {
    pub(crate) fn new(
        context: &Context,
        kind: MessageKind,
        exchange: &str,
        key: &str,
        conversation: Option<uuid::Uuid>,
        bytes: usize,
    ) -> Self {
        let span = MessageSpan::new(|| {
            tracing::debug_span!(
                target: TARGET,
                "send",
                otel.name = format_args!("send {exchange}:{key}"),
                otel.kind = "producer",
                otel.status_code = Empty,
                messaging.system = system(context),
                messaging.operation.name = "send",
                messaging.operation.r#type = "send",
                messaging.destination.name = format_args!("{exchange}:{key}"),
                messaging.rabbitmq.destination.routing_key = key,
                messaging.message.conversation_id = conversation.map(tracing::field::display),
                messaging.message.body.size = bytes,
                homing.kind = kind.as_str(),
                homing.outcome = Empty,
                error.r#type = Empty,
            )
        });
        meter::sent(kind);
        Outgoing(Open::new(span, kind, meter::send_ended))
    }

    pub(crate) fn span(&self) -> MessageSpan {
        self.0.span.clone()
    }

    /// What is to go along with it.
    pub(crate) fn trace(&self, context: &Context) -> Option<Box<TraceHeaders>> {
        context.trace.as_deref().and_then(|trace| trace::inject(trace, &self.0.span))
    }

    /// This is its outcome. The first one counts.
    pub(crate) fn end<T>(&mut self, outcome: &Result<T>) {
        match outcome {
            Ok(_) => self.0.end("ok", |_| {}),
            Err(error) => {
                let outcome = outcome_name(error.kind());
                self.0.end(outcome, |span| {
                    record_error(span, error.remote_details(), outcome);
                    record_fault(span);
                });
            }
        }
    }
}

/// A message as its subscriber gets it.
pub(crate) struct Incoming<'a> {
    pub(crate) kind: MessageKind,
    pub(crate) exchange: &'a str,
    pub(crate) key: &'a str,
    pub(crate) identifier: Option<&'a str>,
    pub(crate) message_id: Option<&'a str>,
    pub(crate) conversation: Option<&'a str>,
    /// On the wire.
    pub(crate) bytes: Option<usize>,
    pub(crate) attempt: Option<u32>,
    pub(crate) redelivered: bool,
    pub(crate) trace: Option<&'a TraceHeaders>,
}

/// A message in the hands of a handler, from when it is taken to its outcome.
pub(crate) struct Handling(Open);

impl Handling {
    pub(crate) fn new(context: &Context, message: &Incoming<'_>) -> Self {
        let Incoming { kind, exchange, key, .. } = *message;
        let span = MessageSpan::new(|| {
            tracing::debug_span!(
                target: TARGET,
                "process",
                otel.name = format_args!("process {exchange}:{key}"),
                otel.kind = "consumer",
                otel.status_code = Empty,
                messaging.system = system(context),
                messaging.operation.name = "process",
                messaging.operation.r#type = "process",
                messaging.destination.name = format_args!("{exchange}:{key}"),
                messaging.rabbitmq.destination.routing_key = key,
                messaging.message.id = message.message_id,
                messaging.message.conversation_id = message.conversation,
                messaging.message.body.size = message.bytes,
                homing.kind = kind.as_str(),
                homing.subscriber = message.identifier,
                homing.attempt = message.attempt,
                homing.redelivered = message.redelivered,
                homing.outcome = Empty,
                error.r#type = Empty,
            )
        });
        if let (Some(trace), Some(headers)) = (context.trace.as_deref(), message.trace) {
            trace::extract(trace, &span, headers);
        }
        meter::received(kind);
        Handling(Open::new(span, kind, meter::handled))
    }

    pub(crate) fn span(&self) -> MessageSpan {
        self.0.span.clone()
    }

    /// This is what its handler has answered. The first answer counts.
    pub(crate) fn end<T>(&mut self, answered: &std::result::Result<T, HandlerError>) {
        match answered {
            Ok(_) => self.0.end("ok", |_| {}),
            Err(error) => {
                let outcome = failure_name(error.failure());
                self.0.end(outcome, |span| {
                    record_error(span, error.details(), outcome);
                    if error.failure().is_fault() {
                        record_fault(span);
                    }
                });
            }
        }
    }
}

fn failure_name(failure: &Failure) -> &'static str {
    match failure {
        Failure::Exception(_) => "exception",
        Failure::Rejected(_) => "rejected",
        Failure::TryAgain(_) => "try_again",
        Failure::Unreadable(_) => "unreadable",
        Failure::Cancelled => "cancelled",
    }
}
