//! Arguments of Python's, read by their names: what is wrong with one says which it is and what was expected.

use homing::{ErrorKind, Identifier};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyUnicodeEncodeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

use crate::errors;
use crate::values;

/// `TypeError` for an argument of a wrong type.
pub(crate) fn wrong(name: &str, expected: &str, given: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("{name} must be {expected}, not {}", values::type_name(given)))
}

/// An error of an argument that cannot be sent, with its name.
pub(crate) fn named(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyTypeError>(py) {
        return error;
    }
    let named = errors::of_kind(py, ErrorKind::Encode, format!("{name}: {}", error.value(py)));
    named.set_cause(py, error.cause(py));
    named
}

/// `homing.InvalidArgument` for one of the right type.
fn unusable(py: Python<'_>, text: String) -> PyErr {
    errors::of_kind(py, ErrorKind::InvalidArgument, text)
}

/// One that may be `None`.
pub(crate) fn optional<'a, 'py, T>(
    name: &str,
    given: &'a Bound<'py, PyAny>,
    read: impl FnOnce(&str, &'a Bound<'py, PyAny>) -> PyResult<T>,
) -> PyResult<Option<T>> {
    if given.is_none() { Ok(None) } else { read(name, given).map(Some) }
}

/// A string. Of a kind of `str` it is what it consists of, not what it shows.
pub(crate) fn text<'a>(name: &str, given: &'a Bound<'_, PyAny>) -> PyResult<&'a str> {
    let text = given.cast::<PyString>().map_err(|_| wrong(name, "a str", given))?;
    characters(name, text)
}

fn characters<'a>(name: &str, text: &'a Bound<'_, PyString>) -> PyResult<&'a str> {
    let py = text.py();
    text.to_str().map_err(|error| {
        if !error.is_instance_of::<PyUnicodeEncodeError>(py) {
            return error;
        }
        let refused = unusable(py, format!("{name} has half a surrogate pair in it, which is no Unicode text"));
        refused.set_cause(py, Some(error));
        refused
    })
}

/// `True` or `False`.
pub(crate) fn flag(name: &str, given: &Bound<'_, PyAny>) -> PyResult<bool> {
    // That of numpy is one, too.
    given.extract().map_err(|_| wrong(name, "True or False", given))
}

/// A number of seconds.
pub(crate) fn seconds(name: &str, given: &Bound<'_, PyAny>) -> PyResult<f64> {
    number(name, "a number of seconds", given)
}

/// A number.
pub(crate) fn number(name: &str, expected: &str, given: &Bound<'_, PyAny>) -> PyResult<f64> {
    let py = given.py();
    given.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyTypeError>(py) {
            wrong(name, expected, given)
        } else if error.is_instance_of::<PyOverflowError>(py) {
            unusable(py, format!("{name} is too large for {expected}"))
        } else {
            error
        }
    })
}

/// An integer from `least` to `most`.
pub(crate) fn integer<T: TryFrom<u64>>(name: &str, given: &Bound<'_, PyAny>, least: u64, most: u64) -> PyResult<T> {
    let py = given.py();
    let out_of_range = || {
        let shown = given.str().map_or_else(|_| "another one".to_owned(), |text| text.to_string_lossy().into_owned());
        unusable(py, format!("{name} must be an int from {least} to {most}, not {shown}"))
    };
    let number: u64 = given.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyTypeError>(py) {
            wrong(name, &format!("an int from {least} to {most}"), given)
        } else if error.is_instance_of::<PyOverflowError>(py) {
            out_of_range()
        } else {
            error
        }
    })?;
    let fitting = if (least..=most).contains(&number) { T::try_from(number).ok() } else { None };
    fitting.ok_or_else(out_of_range)
}

/// The name of a subscriber: a string, or a number or a UUID, such as a process id.
pub(crate) fn identifier(name: &str, given: &Bound<'_, PyAny>) -> PyResult<Identifier> {
    let py = given.py();
    let made = |text: &str| {
        // The library's error tells what is wrong with it, not which of the arguments it is.
        Identifier::new(text).map_err(|error| unusable(py, format!("{name}: {error}")))
    };
    if let Ok(text) = given.cast::<PyString>() {
        return made(characters(name, text)?);
    }
    // By its digits, which the `str` of a kind of int need not show.
    let is_number = given.cast::<PyBool>().is_err() && given.hasattr(intern!(py, "__index__"))?;
    let text = if is_number {
        let number = py.import(intern!(py, "operator"))?.call_method1(intern!(py, "index"), (given,))?;
        let digits = py.get_type::<PyInt>().call_method1(intern!(py, "__repr__"), (number,));
        // Guards: Python's own limit of digits.
        digits.map_err(|_| unusable(py, format!("{name} has too many digits")))?
    } else if values::is_uuid(given) {
        given.str()?.into_any()
    } else {
        return Err(wrong(name, "a str, an int or a UUID", given));
    };
    made(text.cast::<PyString>().map_err(PyErr::from)?.to_str()?)
}
