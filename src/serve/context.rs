//! What handles and subscribers of one communicator share: the way to its thread, and the codec. The codec is a user's: it
//! is called, and dropped, at homes and on the codec thread, never on the communicator thread.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::broker::Body;
use crate::codec::{Codec, TOO_DEEP, Value};
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

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) port: Arc<Port>,
    pub(crate) defaults: Defaults,
    codec: Arc<dyn Codec>,
    /// How a trace goes along with messages; a user's, as the codec is.
    pub(crate) trace: Option<Arc<dyn TraceContext>>,
}

impl Context {
    pub(crate) fn new(
        port: Arc<Port>,
        defaults: Defaults,
        codec: Arc<dyn Codec>,
        trace: Option<Arc<dyn TraceContext>>,
    ) -> Self {
        Context { port, defaults, codec, trace }
    }

    /// A body as this broker takes it. Called by the sender, on its own thread. A codec that panics is an error.
    pub(crate) fn encode(&self, value: Value) -> Result<Body> {
        // Guards: a codec that takes any depth, and the stack of the thread that drops the value: here, and at the other end of
        // `memory:`.
        if value.is_too_deep() {
            value.dispose();
            return Err(Error::new(ErrorKind::Encode, format!("the value cannot be written: {TOO_DEEP}")));
        }
        match self.port.transfer {
            Transfer::Encoded => {
                let encoded = caught(|| self.codec.encode(&value));
                Ok(Body::Encoded(encoded.unwrap_or_else(|panic| Err(panicked(ErrorKind::Encode, &panic)))?.into()))
            }
            Transfer::Passed => {
                let checked = caught(|| self.codec.check(&value));
                checked.unwrap_or_else(|panic| Err(panicked(ErrorKind::Encode, &panic)))?;
                Ok(Body::Value(Arc::new(value)))
            }
        }
    }

    /// Reads a body. Called on the home that the value is for. A codec that panics is an error.
    pub(crate) fn decode(&self, body: Body) -> Result<Value> {
        let bytes = match body {
            Body::Encoded(bytes) => bytes,
            Body::Value(value) => return Ok(Arc::unwrap_or_clone(value)),
        };
        let decoded =
            caught(|| self.codec.decode(&bytes)).unwrap_or_else(|panic| Err(panicked(ErrorKind::Decode, &panic)));
        match decoded {
            // Guards: a codec that reads any depth.
            Ok(value) if value.is_too_deep() => {
                value.dispose();
                Err(Error::new(ErrorKind::Decode, format!("the body cannot be read: {TOO_DEEP}")))
            }
            decoded => decoded,
        }
    }
}

fn panicked(kind: ErrorKind, panic: &str) -> Error {
    Error::new(kind, format!("the codec panicked: {panic}"))
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.port.broker)
    }
}
