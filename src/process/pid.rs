//! Who a process is.

use std::fmt;
use std::str::FromStr;

use num_traits::ToPrimitive;
use uuid::Uuid;

use crate::codec::{Tagged, parse_text};
use crate::error::{Error, ErrorKind, Result};
use crate::{Identifier, IntoIdentifier, Value};

/// The tag by which plumpy writes a UUID.
const UUID_TAG: &str = "!uuid";

/// The tag by which PyYAML writes one by itself.
const PYTHON_UUID_TAG: &str = "!!python/object:uuid.UUID";

/// The process id: an integer (`AiiDA`'s pk), a UUID (what plumpy draws), or a string.
///
/// Each can be the identifier of a subscriber, so that every pid can be called: [`Pid::new`] refuses the strings that cannot.
/// The number 4 and the string `"4"` are different pids, though calls to them go to the same subscriber, as in plumpy.
///
/// [`FromStr`] reads what a person types: digits are a number, a UUID is a UUID, and everything else is a string. A string
/// that looks like one of the others stands in double quotes: `"4"`.
///
/// ```
/// use homing::process::Pid;
///
/// assert_eq!("1234".parse::<Pid>()?, Pid::from(1234));
/// assert_eq!("\"1234\"".parse::<Pid>()?, Pid::new("1234")?);
/// assert_ne!(Pid::from(1234), Pid::new("1234")?);
/// # Ok::<(), homing::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pid(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Number(i64),
    Uuid(Uuid),
    Text(String),
}

impl Pid {
    /// A pid that is a string. Numbers and UUIDs convert by `From`.
    ///
    /// # Errors
    /// `InvalidArgument` for a string that is empty, or cannot be an [`Identifier`].
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        if text.is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a process id is empty; give a number, a UUID or a name",
            ));
        }
        Identifier::new(&text)?;
        Ok(Pid(Repr::Text(text)))
    }

    /// The number, if it is one.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Repr::Number(number) => Some(number),
            _ => None,
        }
    }
}

impl From<i64> for Pid {
    fn from(number: i64) -> Self {
        Pid(Repr::Number(number))
    }
}

impl From<i32> for Pid {
    fn from(number: i32) -> Self {
        Pid(Repr::Number(number.into()))
    }
}

impl From<u32> for Pid {
    fn from(number: u32) -> Self {
        Pid(Repr::Number(number.into()))
    }
}

impl From<Uuid> for Pid {
    fn from(uuid: Uuid) -> Self {
        Pid(Repr::Uuid(uuid))
    }
}

impl From<&Pid> for Pid {
    fn from(pid: &Pid) -> Self {
        pid.clone()
    }
}

impl FromStr for Pid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(quoted) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            return Pid::new(quoted);
        }
        let is_number = text.strip_prefix('-').unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
        match text.parse::<i64>() {
            // As Python's `str` writes it, and so as the subscriber is called: not `007`.
            Ok(number) if is_number && number.to_string() == text => return Ok(number.into()),
            _ => {}
        }
        match Uuid::try_parse(text) {
            Ok(uuid) if text.len() == uuid::fmt::Hyphenated::LENGTH => Ok(uuid.into()),
            _ => Pid::new(text),
        }
    }
}

/// As Python's `str(pid)`, which is the identifier of the process's subscriber.
impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Number(number) => write!(f, "{number}"),
            Repr::Uuid(uuid) => write!(f, "{}", uuid.hyphenated()),
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Text(text) => write!(f, "Pid({text:?})"),
            _ => write!(f, "Pid({self})"),
        }
    }
}

impl IntoIdentifier for &Pid {
    fn into_identifier(self) -> Result<Identifier> {
        Identifier::new(self.to_string())
    }
}

impl IntoIdentifier for Pid {
    fn into_identifier(self) -> Result<Identifier> {
        (&self).into_identifier()
    }
}

/// As plumpy writes it.
impl From<Pid> for Value {
    fn from(pid: Pid) -> Self {
        match pid.0 {
            Repr::Number(number) => Value::Int(number),
            Repr::Uuid(uuid) => Value::Tagged(Box::new(Tagged {
                tag: UUID_TAG.to_owned(),
                value: uuid.hyphenated().to_string().into(),
            })),
            Repr::Text(text) => Value::String(text),
        }
    }
}

impl From<&Pid> for Value {
    fn from(pid: &Pid) -> Self {
        pid.clone().into()
    }
}

/// Reads what plumpy, PyYAML and `AiiDA` write.
///
/// `Decode` for what is no pid.
impl TryFrom<&Value> for Pid {
    type Error = Error;

    fn try_from(value: &Value) -> Result<Self> {
        match value {
            Value::Int(number) => Ok(Pid(Repr::Number(*number))),
            // AiiDA's workers answer with YAML within YAML: "8\n...\n".
            Value::String(text) => match text.strip_suffix("\n...\n") {
                Some(document) => match &parse_text(document.as_bytes())? {
                    // Once, for what stands within might go on like this.
                    Value::String(text) => string(text),
                    inner => Pid::try_from(inner),
                },
                None => string(text),
            },
            Value::Tagged(tagged) => uuid(tagged).map(Pid::from).ok_or_else(|| no_pid(value)),
            _ => Err(no_pid(value)),
        }
    }
}

fn string(text: &str) -> Result<Pid> {
    Pid::new(text).map_err(|error| Error::with_source(ErrorKind::Decode, error.to_string(), error))
}

fn uuid(tagged: &Tagged) -> Option<Uuid> {
    match (tagged.tag.as_str(), &tagged.value) {
        (UUID_TAG, Value::String(text)) => Uuid::try_parse(text).ok(),
        (PYTHON_UUID_TAG, fields) => match fields.get("int")? {
            Value::Int(number) => u128::try_from(*number).ok().map(Uuid::from_u128),
            Value::BigInt(number) => number.to_u128().map(Uuid::from_u128),
            _ => None,
        },
        _ => None,
    }
}

/// The value is not repeated: it may be anything.
fn no_pid(value: &Value) -> Error {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::BigInt(_) => "an integer of more than 64 bits",
        Value::Float(_) => "a float",
        Value::Tagged(_) => "a value with a tag that stands for no UUID",
        _ => "a value of another kind",
    };
    Error::new(ErrorKind::Decode, format!("{kind} is no process id; one is an integer, a UUID or a string"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid_pid() -> Pid {
        Pid::from(Uuid::from_u128(0x3e3e_4e14_dff0_4235_aab6_ddbe_88f8_aa68))
    }

    #[test]
    fn what_a_person_types_is_the_pid_that_is_meant() {
        for (typed, pid) in [
            ("1234", Pid::from(1234)),
            ("-3", Pid::from(-3)),
            ("3e3e4e14-dff0-4235-aab6-ddbe88f8aa68", uuid_pid()),
            ("\"1234\"", Pid::new("1234").unwrap()),
            ("p-1", Pid::new("p-1").unwrap()),
            // Python would call these processes otherwise than their numbers.
            ("007", Pid::new("007").unwrap()),
            ("+7", Pid::new("+7").unwrap()),
            ("-0", Pid::new("-0").unwrap()),
            ("99999999999999999999", Pid::new("99999999999999999999").unwrap()),
            ("3e3e4e14dff04235aab6ddbe88f8aa68", Pid::new("3e3e4e14dff04235aab6ddbe88f8aa68").unwrap()),
        ] {
            assert_eq!(typed.parse::<Pid>().unwrap(), pid, "{typed}");
        }
        for wrong in ["", "\"\"", "*", "a.#", &"x".repeat(250), "a\nb"] {
            assert_eq!(wrong.parse::<Pid>().unwrap_err().kind(), ErrorKind::InvalidArgument, "{wrong:?}");
        }
    }

    #[test]
    fn every_pid_is_read_as_it_was_written() {
        for pid in [Pid::from(4), Pid::from(i64::MIN), uuid_pid(), Pid::new("4").unwrap(), Pid::new("p.1").unwrap()] {
            assert_eq!(Pid::try_from(&Value::from(&pid)).unwrap(), pid);
            assert_eq!((&pid).into_identifier().unwrap().as_str(), pid.to_string());
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        let python = parse_text(b"!!python/object:uuid.UUID\nint: 82735641825711890601618778139638934120\n").unwrap();
        assert_eq!(Pid::try_from(&python).unwrap().to_string(), "3e3e4e14-dff0-4235-aab6-ddbe88f8aa68");
        assert_eq!(Pid::try_from(&Value::from("8\n...\n")).unwrap(), Pid::from(8));
        let twice = Value::from("'8\n\n  ...\n\n  '\n...\n");
        assert!(!matches!(Pid::try_from(&twice), Ok(pid) if pid == Pid::from(8)), "one document within another only");
    }

    #[test]
    fn what_is_no_pid_is_refused_without_being_repeated() {
        for text in
            ["null", "true", "1.5", "[1]", "{sEcret: 1}", "''", "!other sEcret", "!uuid sEcret", "99999999999999999999"]
        {
            let error = Pid::try_from(&parse_text(text.as_bytes()).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode, "{text}");
            assert!(!error.to_string().contains("sEcret"), "{error}");
        }
    }
}
