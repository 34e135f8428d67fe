//! A span whose subscriber may panic: that costs the span, and no message.
//!
//! A `tracing` subscriber is the program's own code. It is called where a span is made, recorded to, entered, left, copied and
//! dropped, and some of that happens in drops, where a panic would end the process.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use tracing::span::Entered;
use tracing::{Span, Value};

use crate::panics::caught;

pub(crate) struct MessageSpan(Span);

impl MessageSpan {
    /// One that is made by this; none where that panics.
    pub(super) fn new(make: impl FnOnce() -> Span) -> Self {
        MessageSpan(caught(make).unwrap_or_else(|_| Span::none()))
    }

    /// That which the caller is in.
    pub(crate) fn current() -> Self {
        Self::new(Span::current)
    }

    pub(super) fn is_disabled(&self) -> bool {
        self.0.is_disabled()
    }

    pub(super) fn get(&self) -> &Span {
        &self.0
    }

    pub(super) fn record(&self, field: &'static str, value: impl Value) {
        if !self.is_disabled() {
            let _ = caught(|| {
                self.0.record(field, value);
            });
        }
    }

    fn enter(&self) -> Within<'_> {
        Within(if self.is_disabled() { None } else { caught(|| self.0.enter()).ok() })
    }

    /// Calls this within the span.
    pub(crate) fn in_scope<T>(&self, call: impl FnOnce() -> T) -> T {
        let _within = self.enter();
        call()
    }

    /// Polls a future within the span, and drops it there.
    pub(crate) fn around<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        if self.is_disabled() {
            return Either::Left(future);
        }
        Either::Right(Around { span: self, future: Some(Box::pin(future)) })
    }
}

impl Clone for MessageSpan {
    fn clone(&self) -> Self {
        if self.is_disabled() { MessageSpan(Span::none()) } else { Self::new(|| self.0.clone()) }
    }
}

impl Drop for MessageSpan {
    fn drop(&mut self) {
        let span = std::mem::replace(&mut self.0, Span::none());
        if !span.is_disabled() {
            let _ = caught(|| drop(span));
        }
    }
}

/// Dropped, it leaves the span.
struct Within<'a>(Option<Entered<'a>>);

impl Drop for Within<'_> {
    fn drop(&mut self) {
        if let Some(entered) = self.0.take() {
            let _ = caught(|| drop(entered));
        }
    }
}

struct Around<F> {
    span: MessageSpan,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Around<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _within = this.span.enter();
        match &mut this.future {
            Some(future) => future.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

impl<F> Drop for Around<F> {
    fn drop(&mut self) {
        let _within = self.span.enter();
        drop(self.future.take());
    }
}
