//! The two spans of a message, by OpenTelemetry's names for messaging: `send` at its sender, from the send to the outcome, and
//! `process` around its handler, up to the outcome.

use tracing::Span;
use tracing::field::Empty;

use super::{MessageKind, meter, outcome_name, trace};
use crate::driver::port::Transfer;
use crate::error::{Error, Result};
use crate::serve::{Answered, Context, Failure, HandlerError};
use crate::wire::headers::TraceHeaders;

/// Under this target, at the level `DEBUG`.
const TARGET: &str = "homing::messages";

/// What stands in for the outcome where nobody waits for it any more.
const GIVEN_UP: &str = "given_up";

pub(super) fn is_of_use(span: &Span) -> bool {
    !span.is_disabled()
}

fn system(context: &Context) -> &'static str {
    match context.port.transfer {
        Transfer::Encoded => "rabbitmq",
        Transfer::Passed => "memory",
    }
}

/// A message from its send to its outcome, at its sender.
pub(crate) struct Outgoing {
    span: Span,
    kind: MessageKind,
    begun: meter::Clock,
    ended: bool,
}

impl Outgoing {
    pub(crate) fn new(
        context: &Context,
        kind: MessageKind,
        exchange: &str,
        key: &str,
        conversation: Option<uuid::Uuid>,
        bytes: usize,
    ) -> Self {
        let span = tracing::debug_span!(
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
        );
        meter::sent(kind);
        Outgoing { span, kind, begun: meter::Clock::now(), ended: false }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// What is to go along with it.
    pub(crate) fn trace(&self, context: &Context) -> Option<Box<TraceHeaders>> {
        context.trace.as_deref().and_then(|trace| trace::inject(trace, &self.span))
    }

    /// This is its outcome. The first one counts.
    pub(crate) fn end<T>(&mut self, outcome: &Result<T>) {
        match outcome {
            Ok(_) => self.record("ok", None),
            Err(error) => self.record(outcome_name(error.kind()), Some(error)),
        }
    }

    fn record(&mut self, outcome: &'static str, error: Option<&Error>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.span.record("homing.outcome", outcome);
        if let Some(error) = error {
            // A type of the other end's own says more.
            let known = error.remote_details().and_then(|details| details.type_name());
            self.span.record("error.type", known.unwrap_or(outcome));
            self.span.record("otel.status_code", "ERROR");
        }
        meter::send_ended(self.kind, outcome, self.begun);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.record(GIVEN_UP, None);
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
pub(crate) struct Handling {
    span: Span,
    kind: MessageKind,
    begun: meter::Clock,
    ended: bool,
}

impl Handling {
    pub(crate) fn new(context: &Context, message: &Incoming<'_>) -> Self {
        let Incoming { kind, exchange, key, .. } = *message;
        let span = tracing::debug_span!(
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
        );
        if let (Some(trace), Some(headers)) = (context.trace.as_deref(), message.trace) {
            trace::extract(trace, &span, headers);
        }
        meter::received(kind);
        Handling { span, kind, begun: meter::Clock::now(), ended: false }
    }

    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// This is what its handler has answered. The first answer counts.
    pub(crate) fn end(&mut self, answered: &Answered) {
        match answered {
            Ok(_) => self.record("ok", None),
            Err(error) => self.record(failure_name(error.failure()), Some(error)),
        }
    }

    fn record(&mut self, outcome: &'static str, error: Option<&HandlerError>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.span.record("homing.outcome", outcome);
        if let Some(error) = error {
            let known = error.details().and_then(|details| details.type_name());
            self.span.record("error.type", known.unwrap_or(outcome));
            if error.failure().is_fault() {
                self.span.record("otel.status_code", "ERROR");
            }
        }
        meter::handled(self.kind, outcome, self.begun);
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.record(GIVEN_UP, None);
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
