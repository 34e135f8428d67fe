//! Python objects and values, without a text in between: each kind becomes what PyYAML would have made of it.

use std::fmt::Write;

use homing::codec::{Codec, Map, Opaque, Tagged, Yaml};
use homing::{ErrorKind, Value};
use num_bigint::BigInt;
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple, PyType,
};

use crate::arguments;
use crate::errors;

/// How deep objects may be nested: what a value may be, and so what a list that contains itself runs into.
const MAX_DEPTH: usize = 200;

/// What is known by its class alone, imported when it is first needed.
struct Classes {
    date: Py<PyType>,
    datetime: Py<PyType>,
    tagged: Py<PyType>,
    timestamp: Py<PyAny>,
}

static CLASSES: PyOnceLock<Classes> = PyOnceLock::new();

fn classes(py: Python<'_>) -> PyResult<&Classes> {
    CLASSES.get_or_try_init(py, || {
        let datetime = py.import("datetime")?;
        let values = py.import("homing._values")?;
        let class =
            |module: &Bound<'_, PyModule>, name| PyResult::Ok(module.getattr(name)?.cast_into::<PyType>()?.unbind());
        Ok(Classes {
            date: class(&datetime, "date")?,
            datetime: class(&datetime, "datetime")?,
            tagged: class(&values, "Tagged")?,
            timestamp: values.getattr("timestamp")?.unbind(),
        })
    })
}

/// Why an object is no value, and the way to it from the inside out.
struct Refusal {
    why: String,
    cause: Option<PyErr>,
    steps: Vec<String>,
}

impl Refusal {
    fn new(why: impl Into<String>) -> Box<Self> {
        Box::new(Refusal { why: why.into(), cause: None, steps: Vec::new() })
    }

    fn below(mut self: Box<Self>, step: impl FnOnce() -> String) -> Box<Self> {
        self.steps.push(step());
        self
    }

    fn into_exception(self, py: Python<'_>) -> PyErr {
        let mut text = self.why;
        for (n, step) in self.steps.iter().rev().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}/{step}", if n == 0 { " (at " } else { "" });
        }
        if !self.steps.is_empty() {
            text.push(')');
        }
        let error = errors::of_kind(py, ErrorKind::Encode, text);
        error.set_cause(py, self.cause);
        error
    }
}

impl From<PyErr> for Box<Refusal> {
    fn from(error: PyErr) -> Self {
        let mut refusal = Refusal::new(error.to_string());
        refusal.cause = Some(error);
        refusal
    }
}

/// An object as a value.
///
/// # Errors
/// `homing.EncodeError`, which names the object's type and its place.
pub(crate) fn to_value(object: &Bound<'_, PyAny>) -> PyResult<Value> {
    read(object, 0).map_err(|refusal| refusal.into_exception(object.py()))
}

fn read(object: &Bound<'_, PyAny>, depth: usize) -> Result<Value, Box<Refusal>> {
    if depth > MAX_DEPTH {
        let of = type_name(object);
        return Err(Refusal::new(format!(
            "an object of type {of} is nested deeper than {MAX_DEPTH}, or contains itself"
        )));
    }
    if object.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(text) = object.cast::<PyString>() {
        return string(text);
    }
    // Before int, which it is a kind of.
    if let Ok(flag) = object.cast::<PyBool>() {
        return Ok(Value::Bool(flag.is_true()));
    }
    if let Ok(number) = object.cast::<PyInt>() {
        return integer(number);
    }
    if let Ok(pairs) = object.cast::<PyDict>() {
        let mut map = Map::new();
        let count = pairs.len();
        let mut items = pairs.iter();
        for _ in 0..count {
            // Guards: the iterator's panic, where code of a user's that runs meanwhile, or another thread, changes the dict.
            let item = if pairs.len() == count { items.next() } else { None };
            let Some((key, value)) = item else { return Err(Refusal::new("a dict was changed while it was read")) };
            let step = || step(&key);
            let read_key = hashable(&key, depth + 1).map_err(|refusal| refusal.below(step))?;
            map.insert(read_key, read(&value, depth + 1).map_err(|refusal| refusal.below(step))?);
        }
        return Ok(Value::Map(map));
    }
    if let Ok(list) = object.cast::<PyList>() {
        return items(list.iter(), depth).map(Value::List);
    }
    if let Ok(tuple) = object.cast::<PyTuple>() {
        return items(tuple.iter(), depth).map(Value::Tuple);
    }
    if let Ok(number) = object.cast::<PyFloat>() {
        return Ok(Value::Float(number.value()));
    }
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(Value::Bytes(bytes.as_bytes().to_vec()));
    }
    if let Ok(bytes) = object.cast::<PyByteArray>() {
        return Ok(Value::Bytes(bytes.to_vec()));
    }
    if object.is_instance_of::<PySet>() || object.is_instance_of::<PyFrozenSet>() {
        return members(object, depth);
    }
    other(object, depth)
}

fn items<'py>(items: impl Iterator<Item = Bound<'py, PyAny>>, depth: usize) -> Result<Vec<Value>, Box<Refusal>> {
    items
        .enumerate()
        .map(|(index, item)| read(&item, depth + 1).map_err(|refusal| refusal.below(|| index.to_string())))
        .collect()
}

fn members(members: &Bound<'_, PyAny>, depth: usize) -> Result<Value, Box<Refusal>> {
    let mut set = Map::new();
    // The iterator of Python's own, which has an error for a set that is changed while it is read.
    for member in members.try_iter()? {
        let member = member?;
        let value = hashable(&member, depth + 1).map_err(|refusal| refusal.below(|| step(&member)))?;
        set.insert(value, Value::Null);
    }
    Ok(Value::Set(set))
}

/// A key, or a member of a set, as whoever reads it can have it again.
fn hashable(object: &Bound<'_, PyAny>, depth: usize) -> Result<Value, Box<Refusal>> {
    let value = read(object, depth)?;
    match unhashable(object, &value) {
        Some(of) => Err(Refusal::new(format!(
            "an object of type {of} cannot be sent as a key or as a member of a set: whoever reads it gets a set, a list or a \
             dict, which Python cannot hash; make a tuple of it"
        ))),
        None => Ok(value),
    }
}

/// The type of what becomes something that Python cannot hash.
fn unhashable(object: &Bound<'_, PyAny>, value: &Value) -> Option<String> {
    match value {
        Value::Set(_) | Value::List(_) | Value::Map(_) => Some(type_name(object)),
        Value::Tuple(values) => {
            let items = object.cast::<PyTuple>().ok()?;
            items.iter().zip(values).find_map(|(item, value)| unhashable(&item, value))
        }
        _ => None,
    }
}

fn string(text: &Bound<'_, PyString>) -> Result<Value, Box<Refusal>> {
    match text.to_str() {
        Ok(text) => Ok(Value::String(text.to_owned())),
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let of = type_name(text.as_any());
            let why = format!(
                "an object of type {of} with half a surrogate pair in it cannot be sent: it is no Unicode text"
            );
            let mut refusal = Refusal::new(why);
            refusal.cause = Some(error);
            Err(refusal)
        }
        Err(error) => Err(error.into()),
    }
}

fn integer(number: &Bound<'_, PyInt>) -> Result<Value, Box<Refusal>> {
    if let Ok(small) = number.extract::<i64>() {
        return Ok(Value::Int(small));
    }
    Ok(Value::from(signed(number)?))
}

fn signed(number: &Bound<'_, PyInt>) -> PyResult<BigInt> {
    let py = number.py();
    // By the class, since a kind of int may have methods of its own.
    let int = py.get_type::<PyInt>();
    let bits: usize = int.call_method1(intern!(py, "bit_length"), (number,))?.extract()?;
    let signed = PyDict::new(py);
    signed.set_item(intern!(py, "signed"), true)?;
    let bytes = int.call_method(intern!(py, "to_bytes"), (number, bits / 8 + 1, "little"), Some(&signed))?;
    let bytes = bytes.cast_into::<PyBytes>()?;
    Ok(BigInt::from_signed_bytes_le(bytes.as_bytes()))
}

/// How PyYAML writes a UUID, which is what plumpy draws for a process.
const UUID_TAG: &str = "!!python/object:uuid.UUID";
/// How PyYAML writes one where plumpy is loaded, which registers that.
const PLUMPY_UUID_TAG: &str = "!uuid";

/// By the name of its type, so that the module is not imported for it.
pub(crate) fn is_uuid(object: &Bound<'_, PyAny>) -> bool {
    object.get_type().fully_qualified_name().is_ok_and(|name| name == "uuid.UUID")
}

/// The UUID that a tag of PyYAML's stands for. Of a wrong shape is `None`.
fn uuid<'py>(py: Python<'py>, tagged: &Tagged) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let (PLUMPY_UUID_TAG, Some(text)) = (tagged.tag.as_str(), tagged.value.as_str()) {
        return match py.import("uuid")?.getattr(intern!(py, "UUID"))?.call1((text,)) {
            Ok(uuid) => Ok(Some(uuid)),
            Err(error) if error.is_instance_of::<PyValueError>(py) => Ok(None),
            Err(error) => Err(error),
        };
    }
    if tagged.tag != UUID_TAG {
        return Ok(None);
    }
    let number = match tagged.value.get("int") {
        Some(Value::Int(number)) => BigInt::from(*number),
        Some(Value::BigInt(number)) => number.clone(),
        _ => return Ok(None),
    };
    if number.sign() == num_bigint::Sign::Minus || number.bits() > 128 {
        return Ok(None);
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "int"), write_object(py, &Value::from(number))?)?;
    py.import("uuid")?.getattr(intern!(py, "UUID"))?.call((), Some(&options)).map(Some)
}

fn other(object: &Bound<'_, PyAny>, depth: usize) -> Result<Value, Box<Refusal>> {
    let py = object.py();
    let known = classes(py)?;
    // Before date, which it is a kind of.
    if object.is_instance(known.datetime.bind(py))? {
        let text = known.datetime.bind(py).call_method1(intern!(py, "isoformat"), (object, " "))?;
        let text: String = text.extract()?;
        // Behind the date, which has hyphens of its own.
        let offset = text.char_indices().skip("2024-02-29".len()).find(|(_, c)| matches!(c, '+' | '-'));
        let offset = offset.map_or("", |(at, _)| &text[at..]);
        if offset.len() > "+01:00".len() {
            return Err(Refusal::new(format!(
                "an object of type {} whose offset from UTC is {offset} cannot be sent: in YAML an offset has hours and minutes \
                 alone; send it in UTC, as by astimezone(datetime.timezone.utc)",
                type_name(object)
            )));
        }
        return Ok(Value::Timestamp(text));
    }
    if object.is_instance(known.date.bind(py))? {
        let text = known.date.bind(py).call_method1(intern!(py, "isoformat"), (object,))?;
        return Ok(Value::Timestamp(text.extract()?));
    }
    if is_uuid(object) {
        let number: BigInt = signed(&object.getattr(intern!(py, "int"))?.cast_into::<PyInt>().map_err(PyErr::from)?)?;
        let value = Value::from_iter([("int", Value::from(number))]);
        return Ok(Value::Tagged(Box::new(Tagged { tag: UUID_TAG.to_owned(), value })));
    }
    if object.is_instance(known.tagged.bind(py))? {
        let tag = object.getattr(intern!(py, "tag"))?;
        let tag = arguments::text("tag", &tag)?.to_owned();
        let value = read(&object.getattr(intern!(py, "value"))?, depth + 1)?;
        return Ok(Value::Tagged(Box::new(Tagged { tag, value })));
    }
    Err(Refusal::new(format!(
        "an object of type {} cannot be sent: make it of None, bool, int, float, str, bytes, date, datetime, UUID, list, \
         tuple, set and dict",
        type_name(object)
    )))
}

/// The type of an object, for errors.
pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().fully_qualified_name().map_or_else(|_| "unknown".to_owned(), |name| name.to_string())
}

/// A key on the way to what is refused, cut where it is long.
fn step(key: &Bound<'_, PyAny>) -> String {
    const LONGEST: usize = 60;
    if key.cast::<PyString>().is_err() && key.cast::<PyInt>().is_err() {
        return "(key)".to_owned();
    }
    let text = key.str().map_or_else(|_| "(key)".to_owned(), |text| text.to_string_lossy().into_owned());
    let text = match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    };
    text.replace('~', "~0").replace('/', "~1")
}

/// An object as it is, within a value. What a value is of exactly the same kind as is one: what the library reads itself.
pub(crate) fn part(object: &Bound<'_, PyAny>) -> Value {
    let plain = if object.is_none() {
        Some(Value::Null)
    } else if let Ok(text) = object.cast_exact::<PyString>() {
        text.to_str().ok().map(Value::from)
    } else if let Ok(flag) = object.cast_exact::<PyBool>() {
        Some(Value::Bool(flag.is_true()))
    } else if let Ok(number) = object.cast_exact::<PyInt>() {
        number.extract().ok().map(Value::Int)
    } else {
        None
    };
    plain.unwrap_or_else(|| Value::from(Opaque::new(object.clone().unbind())))
}

/// The key of a reply under which homing describes an error; a value in any case.
const DETAILS: &str = "homing-error";

/// What a decoder has returned: its outermost container as a value, which the library looks into, and what is in that as it
/// is.
pub(crate) fn envelope(object: &Bound<'_, PyAny>) -> Value {
    if let Ok(pairs) = object.cast_exact::<PyDict>() {
        let mut map = Map::new();
        for (key, value) in pairs.iter() {
            let key = part(&key);
            let details = if key.as_str() == Some(DETAILS) { to_value(&value).ok() } else { None };
            map.insert(key, details.unwrap_or_else(|| part(&value)));
        }
        return Value::Map(map);
    }
    if let Ok(items) = object.cast_exact::<PyTuple>() {
        return Value::Tuple(items.iter().map(|item| part(&item)).collect());
    }
    if let Ok(items) = object.cast_exact::<PyList>() {
        return Value::List(items.iter().map(|item| part(&item)).collect());
    }
    part(object)
}

/// A value as an object.
///
/// # Errors
/// `homing.DecodeError` for a set or a dict with a member that Python cannot hash, and for a time that does not exist.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    write_object(py, value).map_err(|error| {
        let text = format!("the body is no object of Python's: {error}");
        let decode = errors::of_kind(py, ErrorKind::Decode, text);
        decode.set_cause(py, Some(error));
        decode
    })
}

fn write_object<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(flag) => PyBool::new(py, *flag).to_owned().into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::BigInt(number) => {
            let signed = PyDict::new(py);
            signed.set_item(intern!(py, "signed"), true)?;
            let bytes = PyBytes::new(py, &number.to_signed_bytes_le());
            py.get_type::<PyInt>().call_method(intern!(py, "from_bytes"), (bytes, "little"), Some(&signed))?
        }
        Value::Float(number) => PyFloat::new(py, *number).into_any(),
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Bytes(bytes) => PyBytes::new(py, bytes).into_any(),
        Value::Timestamp(text) => classes(py)?.timestamp.bind(py).call1((text,))?,
        Value::List(items) => PyList::new(py, objects(py, items)?)?.into_any(),
        Value::Tuple(items) => PyTuple::new(py, objects(py, items)?)?.into_any(),
        Value::Set(members) => {
            let set = PySet::empty(py)?;
            for member in members.keys() {
                set.add(write_object(py, member)?)?;
            }
            set.into_any()
        }
        Value::Map(map) => {
            let dict = PyDict::new(py);
            for (key, value) in map.iter() {
                dict.set_item(write_object(py, key)?, write_object(py, value)?)?;
            }
            dict.into_any()
        }
        Value::Tagged(tagged) => {
            if let Some(uuid) = uuid(py, tagged)? {
                return Ok(uuid);
            }
            let value = write_object(py, &tagged.value)?;
            classes(py)?.tagged.bind(py).call1((&tagged.tag, value))?
        }
        Value::Opaque(object) => match object.downcast_ref::<Py<PyAny>>() {
            Some(object) => object.bind(py).clone(),
            None => return Err(PyTypeError::new_err("an object that is not Python's")),
        },
        _ => return Err(PyTypeError::new_err("a kind of value that this version of homing does not know")),
    })
}

fn objects<'py>(py: Python<'py>, items: &[Value]) -> PyResult<Vec<Bound<'py, PyAny>>> {
    items.iter().map(|item| write_object(py, item)).collect()
}

/// An object as the YAML text that a peer would get. For tests.
#[pyo3::pyfunction]
pub(crate) fn to_yaml<'py>(py: Python<'py>, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let text = Yaml::default().encode(&to_value(object)?).map_err(|error| errors::exception(py, &error))?;
    Ok(PyBytes::new(py, &text))
}

/// The object that a YAML text is. For tests.
#[pyo3::pyfunction]
pub(crate) fn from_yaml<'py>(py: Python<'py>, text: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let value = Yaml::default().decode(text).map_err(|error| errors::exception(py, &error))?;
    to_python(py, &value)
}
