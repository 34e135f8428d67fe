//! Code of users that misbehaves: values and codecs that panic, wakers that panic, and whatever must not be dropped or called
//! on a thread of the library.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::Result;
use crate::codec::{Codec, Value, Yaml};
use crate::simulation::ledger::{Ledger, number_in};

/// Tasks whose number this divides cannot be read, where bad codecs are part of the plan.
pub(super) const POISON: i64 = 11;

/// Code of a user's that may be dropped only where a user's code may run.
pub(super) struct Owned(pub(super) Ledger, pub(super) &'static str);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.user_code(self.1);
    }
}

/// A value of a user's that panics when it is dropped.
pub(super) struct Bomb(pub(super) Ledger, pub(super) Option<i64>);

impl Drop for Bomb {
    fn drop(&mut self) {
        if let Some(task) = self.1 {
            self.0.task_ends(task, None);
        }
        // A panic within a panic would end the process of the test.
        if !std::thread::panicking() {
            panic!("simulated panic of a drop");
        }
    }
}

/// A codec that panics on some values, and that must not be called on the communicator thread.
pub(super) struct TestCodec {
    pub(super) yaml: Yaml,
    pub(super) owned: Owned,
    pub(super) bad: bool,
}

impl TestCodec {
    fn call(&self, text: &str) {
        self.owned.0.user_code("a codec was called");
        if self.bad && number_in(text, "task").is_some_and(|id| id % POISON == 0) {
            self.owned.0.task_may_fail(number_in(text, "task").unwrap_or(0));
            panic!("simulated panic of a decoder");
        }
        if self.bad && number_in(text, "cast").is_some_and(|id| id % POISON == 0) {
            panic!("simulated panic of a decoder");
        }
        if self.bad && number_in(text, "result").is_some_and(|id| id % POISON == 1) {
            panic!("simulated panic of an encoder");
        }
    }
}

impl Codec for TestCodec {
    fn name(&self) -> &'static str {
        "test"
    }

    fn encode(&self, value: &Value) -> Result<Vec<u8>> {
        let body = self.yaml.encode(value)?;
        let text = String::from_utf8_lossy(&body);
        if text.contains("result-") {
            self.call(&text);
        }
        Ok(body)
    }

    fn decode(&self, body: &[u8]) -> Result<Value> {
        self.call(&String::from_utf8_lossy(body));
        self.yaml.decode(body)
    }
}

/// A future whose waker panics when it is woken for the first time, after it has passed the wake on.
pub(super) struct BadWaker<F>(pub(super) Pin<Box<F>>, pub(super) bool);

struct PanicsOnce(Waker, AtomicBool);

impl Wake for PanicsOnce {
    fn wake(self: Arc<Self>) {
        self.0.wake_by_ref();
        // A panic within a panic would end the process of the test.
        if !self.1.swap(true, Ordering::Relaxed) && !std::thread::panicking() {
            panic!("simulated panic of a waker");
        }
    }
}

impl<F: Future> Future for BadWaker<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if !std::mem::replace(&mut self.1, true) {
            let waker = Waker::from(Arc::new(PanicsOnce(context.waker().clone(), AtomicBool::new(false))));
            return self.0.as_mut().poll(&mut Context::from_waker(&waker));
        }
        self.0.as_mut().poll(context)
    }
}
