//! A user's encoder and decoder, as a codec of the library's.
//!
//! They are given what kiwipy's are: the whole body, as Python has it. They run at the home of whoever sends or receives, a thread of
//! Python's; the library calls such a codec on no other.

use std::sync::{Arc, Weak};

use homing::codec::{Codec, CodecPlace, Limits};
use homing::{Error, ErrorKind, Value};
use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use crate::handler::Table;
use crate::values;

/// Callables that write and read bodies. A direction without one is the codec's that they are added to.
#[derive(Default)]
pub(crate) struct Coders {
    pub(crate) encoder: Option<Py<PyAny>>,
    pub(crate) decoder: Option<Py<PyAny>>,
}

impl Coders {
    pub(crate) fn is_empty(&self) -> bool {
        self.encoder.is_none() && self.decoder.is_none()
    }

    /// For the garbage collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.encoder)?;
        visit.call(&self.decoder)
    }
}

/// How objects become bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As values, which the library writes.
    Values,
    /// As they are, for an encoder of the user's.
    Objects,
}

impl Form {
    /// An object as a body, or as a part of one.
    ///
    /// # Errors
    /// `homing.EncodeError` for what is no value.
    pub(crate) fn body(self, object: &Bound<'_, PyAny>) -> PyResult<Value> {
        match self {
            Form::Values => values::to_value(object),
            Form::Objects => Ok(values::part(object)),
        }
    }
}

/// A codec with callables of a user's in its place.
pub(crate) struct PythonCodec<C> {
    /// The callables, which may refer to the communicator: its table alone holds them.
    table: Weak<Table>,
    codec: C,
}

impl<C> PythonCodec<C> {
    pub(crate) fn new(table: &Arc<Table>, codec: C) -> Self {
        PythonCodec { table: Arc::downgrade(table), codec }
    }

    fn callable(&self, py: Python<'_>, which: impl FnOnce(&Coders) -> &Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        let table = self.table.upgrade()?;
        let coders = table.coders.lock();
        which(&coders).as_ref().map(|callable| callable.clone_ref(py))
    }
}

/// Runs something on this thread, which is one of Python's.
fn attached<T>(kind: ErrorKind, what: &str, run: impl FnOnce(Python<'_>) -> PyResult<T>) -> homing::Result<T> {
    let failed = |error: PyErr| Error::with_source(kind, format!("{what} raised {error}"), error);
    match Python::try_attach(|py| run(py).map_err(failed)) {
        Some(done) => done,
        None => Err(Error::new(kind, format!("{what} cannot be called: the interpreter is ending"))),
    }
}

fn check_size(bytes: usize, kind: ErrorKind) -> homing::Result<()> {
    let limit = Limits::default().max_bytes;
    if bytes <= limit {
        return Ok(());
    }
    Err(Error::new(kind, format!("the body has {bytes} bytes, over the limit of {limit}")))
}

impl<C: Codec> Codec for PythonCodec<C> {
    fn name(&self) -> &'static str {
        "python"
    }

    fn place(&self) -> CodecPlace {
        CodecPlace::HomesOnly
    }

    fn encode(&self, value: &Value) -> homing::Result<Vec<u8>> {
        let encoded = attached(ErrorKind::Encode, "the encoder", |py| {
            let Some(encoder) = self.callable(py, |coders| &coders.encoder) else { return Ok(None) };
            let encoded = encoder.bind(py).call1((values::to_python(py, value)?,))?;
            if let Ok(bytes) = encoded.cast::<PyBytes>() {
                return Ok(Some(bytes.as_bytes().to_vec()));
            }
            if let Ok(bytes) = encoded.cast::<PyByteArray>() {
                return Ok(Some(bytes.to_vec()));
            }
            let returned = values::type_name(&encoded);
            Err(PyTypeError::new_err(format!("the encoder has to return bytes, and returned {returned}")))
        })?;
        match encoded {
            Some(body) => check_size(body.len(), ErrorKind::Encode).map(|()| body),
            None => self.codec.encode(value),
        }
    }

    fn decode(&self, body: &[u8]) -> homing::Result<Value> {
        check_size(body.len(), ErrorKind::Decode)?;
        let decoded = attached(ErrorKind::Decode, "the decoder", |py| {
            let Some(decoder) = self.callable(py, |coders| &coders.decoder) else { return Ok(None) };
            decoder.bind(py).call1((PyBytes::new(py, body),)).map(|object| Some(values::envelope(&object)))
        })?;
        match decoded {
            Some(value) => Ok(value),
            None => self.codec.decode(body),
        }
    }
}
