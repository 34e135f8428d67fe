//! What handles and subscribers of one communicator share: the way to its thread, and the codec. The codec is a user's: it
//! is called, and dropped, at homes and on the codec thread, never on the communicator thread. One that may be called at homes
//! only is not called on the codec thread either.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Body;
use crate::codec::{Codec, CodecPlace, TOO_DEEP, Value};
use crate::driver::port::{Port, Transfer};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::TraceContext;
use crate::panics::caught;

/// The defaults of a communicator, for messages and queues without settings of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) call_timeout: Duration,
    pub(crate) task_timeout: Duration,
    pub(crate) task_prefetch: u16,
}

/// Cheap to clone: each call has several.
#[derive(Clone)]
pub(crate) struct Context(Arc<Shared>);

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) port: Arc<Port>,
    pub(crate) defaults: Defaults,
    codec: Arc<dyn Codec>,
    pub(super) codec_place: CodecPlace,
    /// The answer to a call that nobody serves any more, for a codec that may not be called where that is found out.
    refusal: Option<Body>,
    /// How a trace goes along with messages; a user's, as the codec is.
    pub(crate) trace: Option<Arc<dyn TraceContext>>,
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Context {
    pub(crate) fn new(
        port: Arc<Port>,
        defaults: Defaults,
        codec: Arc<dyn Codec>,
        trace: Option<Arc<dyn TraceContext>>,
    ) -> Self {
        let codec_place = caught(|| codec.place()).unwrap_or_default();
        Context(Arc::new(Shared { port, defaults, codec, codec_place, refusal: None, trace }))
    }

    /// Keeps the answer to a call that nobody serves any more.
    pub(super) fn with_refusal(self, refusal: Option<Body>) -> Self {
        Context(Arc::new(Shared { refusal, ..Arc::unwrap_or_clone(self.0) }))
    }

    /// The answer to a call that nobody serves any more, if it was written when the communicator was made.
    pub(super) fn written_refusal(&self) -> Option<Body> {
        self.refusal.clone()
    }

    /// A body as this broker takes it. Called by the sender, on its own thread. A codec that panics is an error.
    pub(crate) fn encode(&self, value: Value) -> Result<Body> {
        let value = not_too_deep(value, ErrorKind::Encode, "the value cannot be written")?;
        // Guards: an object of a program's own that is dropped by a broker in this process, on the communicator thread.
        let is_passed = self.port.transfer == Transfer::Passed && self.codec_place == CodecPlace::Anywhere;
        if !is_passed || value.has_opaque() {
            return self.written(&value);
        }
        let passed = caught(|| self.codec.pass(value));
        let passed = passed.unwrap_or_else(|panic| Err(panicked(ErrorKind::Encode, &panic)))?;
        // What the codec returns is as much the program's own as what it is given.
        let passed = not_too_deep(passed, ErrorKind::Encode, "the value cannot be passed")?;
        if passed.has_opaque() { self.written(&passed) } else { Ok(Body::Value(Arc::new(passed))) }
    }

    fn written(&self, value: &Value) -> Result<Body> {
        let encoded = caught(|| self.codec.encode(value));
        Ok(Body::Encoded(encoded.unwrap_or_else(|panic| Err(panicked(ErrorKind::Encode, &panic)))?.into()))
    }

    /// Reads a body. Called on the home that the value is for. A codec that panics is an error.
    pub(crate) fn decode(&self, body: Body) -> Result<Value> {
        let bytes = match body {
            Body::Encoded(bytes) => bytes,
            Body::Value(value) => return Ok(Arc::unwrap_or_clone(value)),
        };
        let decoded = caught(|| self.codec.decode(&bytes));
        let decoded = decoded.unwrap_or_else(|panic| Err(panicked(ErrorKind::Decode, &panic)))?;
        not_too_deep(decoded, ErrorKind::Decode, "the body cannot be read")
    }
}

/// Guards: a codec that takes or reads any depth, and the stack of the thread that drops the value: here, and at the other end of
/// `memory:`.
fn not_too_deep(value: Value, kind: ErrorKind, what: &str) -> Result<Value> {
    if value.is_too_deep() {
        value.dispose();
        return Err(Error::new(kind, format!("{what}: {TOO_DEEP}")));
    }
    Ok(value)
}

fn panicked(kind: ErrorKind, panic: &str) -> Error {
    Error::new(kind, format!("the codec panicked: {panic}"))
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.port.broker)
    }
}
