//! What a scalar stands for in YAML 1.1, as PyYAML 6's `FullLoader` has it (`resolver.py`, `constructor.py`).
//!
//! Traps: `1e5`, `1e+20` and `0o17` are strings, for a float needs a dot and its exponent a sign, and octals are written
//! `017`; `yes` and `off` are truth values; `1:30` is 90. Some scalars have the shape of a number or a date and are none
//! (`0b_`, `2024-02-30`): `FullLoader` fails on them, so they are errors here.

use num_bigint::BigInt;
use num_traits::{FromPrimitive, ToPrimitive};

use crate::codec::Value;
use crate::codec::value::MAX_DIGITS;

/// Why a scalar that has a kind's shape is none of that kind.
pub(super) type Resolved<T> = std::result::Result<T, &'static str>;

/// What a plain scalar without a tag stands for.
#[derive(Debug)]
pub(super) enum Plain {
    Value(Value),
    /// `<<`: as a key it merges the mapping under it.
    Merge,
    /// `=`: a string as a key, an error elsewhere.
    Equals,
}

pub(super) fn plain(text: &str) -> Resolved<Plain> {
    // As in PyYAML, the first character decides what comes into question.
    let value = match text.bytes().next() {
        None => Some(Value::Null),
        Some(b'~') if text == "~" => Some(Value::Null),
        Some(b'n' | b'N') if matches!(text, "null" | "Null" | "NULL") => Some(Value::Null),
        Some(b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O') => boolean(text).map(Value::Bool),
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => number(text)?,
        Some(b'<') if text == "<<" => return Ok(Plain::Merge),
        Some(b'=') if text == "=" => return Ok(Plain::Equals),
        _ => None,
    };
    Ok(Plain::Value(value.unwrap_or_else(|| Value::String(text.to_owned()))))
}

fn number(text: &str) -> Resolved<Option<Value>> {
    if let Some(int) = int(text)? {
        return Ok(Some(int));
    }
    if is_float(text) {
        return float(text).map(|float| Some(Value::Float(float)));
    }
    match Timestamp::split(text) {
        Some(time) if time.time.is_some() || text.len() == 10 => {
            time.check()?;
            Ok(Some(Value::Timestamp(text.to_owned())))
        }
        _ => Ok(None),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A truth value under its tag: in any case.
pub(super) fn tagged_boolean(text: &str) -> Option<bool> {
    boolean(&text.to_ascii_lowercase())
}

/// An integer as YAML 1.1 writes it; `None` for what has another shape.
pub(super) fn int(text: &str) -> Resolved<Option<Value>> {
    let (negative, digits) = signed(text);
    if let Some(small) = small(negative, digits) {
        return Ok(Some(Value::Int(small)));
    }
    let all = |digits: &str, radix: u32| {
        !digits.is_empty() && digits.bytes().all(|digit| digit == b'_' || char::from(digit).is_digit(radix))
    };
    let magnitude = if let Some(binary) = digits.strip_prefix("0b").filter(|digits| all(digits, 2)) {
        radix(binary, 2)?
    } else if let Some(hex) = digits.strip_prefix("0x").filter(|digits| all(digits, 16)) {
        radix(hex, 16)?
    } else if let Some(octal) = digits.strip_prefix('0') {
        if !octal.is_empty() && !all(octal, 8) {
            return Ok(None);
        }
        // The zero in front is a digit too: `0_` is zero.
        radix(digits, 8)?
    } else if !digits.starts_with(|c: char| ('1'..='9').contains(&c)) {
        return Ok(None);
    } else if all(digits, 10) {
        radix(digits, 10)?
    } else if let Some(magnitude) = sexagesimal(digits)? {
        magnitude
    } else {
        return Ok(None);
    };
    Ok(Some(Value::from(if negative { -magnitude } else { magnitude })))
}

/// The common case, without a detour.
fn small(negative: bool, digits: &str) -> Option<i64> {
    let decimal = digits.bytes().all(|digit| digit.is_ascii_digit()) && (!digits.starts_with('0') || digits == "0");
    if digits.is_empty() || digits.len() > 18 || !decimal {
        return None;
    }
    digits.parse::<i64>().ok().map(|value| if negative { -value } else { value })
}

fn signed(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// Digits of this radix and underscores. Reading many decimal digits takes time with their square, so Python refuses over
/// 4300 of them; to a power of two there is no limit, as in Python.
fn radix(digits: &str, radix: u32) -> Resolved<BigInt> {
    let digits: Vec<u8> = digits.bytes().filter(|digit| *digit != b'_').collect();
    if radix == 10 && digits.len() > MAX_DIGITS {
        return Err("an integer has over 4300 digits, which Python does not read");
    }
    BigInt::parse_bytes(&digits, radix).ok_or("an integer has no digits")
}

/// `1:30`: parts to the base 60, all but the first below it.
fn sexagesimal(digits: &str) -> Resolved<Option<BigInt>> {
    let mut parts = digits.split(':');
    let first = parts.next().unwrap_or("");
    let shaped = first.bytes().all(|digit| digit == b'_' || digit.is_ascii_digit());
    if !shaped || !parts.clone().all(|part| below_60(part).is_some()) {
        return Ok(None);
    }
    if digits.len() > MAX_DIGITS {
        return Err("an integer to the base 60 has over 4300 characters");
    }
    let mut value = radix(first, 10)?;
    for part in parts.filter_map(below_60) {
        value = value * 60 + part;
    }
    Ok(Some(value))
}

fn below_60(part: &str) -> Option<u8> {
    let digits = part.len() == 1 || (part.len() == 2 && part.as_bytes()[0] < b'6');
    if digits && part.bytes().all(|digit| digit.is_ascii_digit()) { part.parse().ok() } else { None }
}

/// True for what has the shape of a float without a tag.
fn is_float(text: &str) -> bool {
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (_, rest) = signed(text);
    if matches!(rest, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let Some((whole, fraction)) = rest.split_once('.') else { return false };
    let digits = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit() || digit == b'_');
    let starts_with_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    if let Some((first, parts)) = whole.split_once(':') {
        let parts = parts.split(':').all(|part| below_60(part).is_some());
        return starts_with_digit(first) && digits(first) && parts && digits(fraction);
    }
    let (fraction, exponent) = match fraction.find(['e', 'E']) {
        None => (fraction, None),
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
    };
    let whole_is_right = if whole.is_empty() {
        // `.5`, but not `+.5`.
        rest.len() == text.len() && starts_with_digit(fraction)
    } else {
        starts_with_digit(whole)
    };
    // An exponent must have its sign.
    let exponent_is_right = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['+', '-'])
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
    });
    whole_is_right && digits(whole) && digits(fraction) && exponent_is_right
}

/// A float under its tag, or what [`is_float`].
pub(super) fn float(text: &str) -> Resolved<f64> {
    const NONE: &str = "this is tagged as a float and is none";
    if !text.is_ascii() {
        return Err(NONE);
    }
    let text = text.replace('_', "").to_ascii_lowercase();
    let (negative, rest) = signed(&text);
    let value = match rest {
        ".inf" => f64::INFINITY,
        ".nan" => f64::NAN,
        _ if rest.contains(':') => sexagesimal_float(rest)?,
        _ => rest.parse().map_err(|_| NONE)?,
    };
    Ok(if negative { -value } else { value })
}

/// `1:30.5`, to the base 60, rounded where Python rounds.
fn sexagesimal_float(text: &str) -> Resolved<f64> {
    // 60 to the power of 174 is no float any more.
    const MOST: usize = 170;
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > MOST {
        return Err("a float to the base 60 has over 170 parts");
    }
    let (mut value, mut base) = (0.0, BigInt::from(1));
    for part in parts.iter().rev() {
        let part: f64 = part.parse().map_err(|_| "this is tagged as a float and is none")?;
        value += part * base.to_f64().unwrap_or(f64::INFINITY);
        base *= 60;
    }
    Ok(value)
}

/// A date, or a date and a time, in parts.
struct Timestamp<'a> {
    year: u32,
    month: u32,
    day: u32,
    time: Option<Time<'a>>,
}

struct Time<'a> {
    hour: u32,
    minute: u32,
    second: u32,
    fraction: &'a str,
    /// Minutes east of Greenwich; `None` for a local time.
    offset: Option<i64>,
}

impl<'a> Timestamp<'a> {
    /// By its shape only.
    fn split(text: &'a str) -> Option<Self> {
        let mut rest = text;
        let year = digits(&mut rest, 4, 4)?;
        let month = after(&mut rest, '-').and_then(|()| digits(&mut rest, 1, 2))?;
        let day = after(&mut rest, '-').and_then(|()| digits(&mut rest, 1, 2))?;
        if rest.is_empty() {
            return Some(Timestamp { year, month, day, time: None });
        }
        let blanks = rest.trim_start_matches([' ', '\t']);
        rest = if blanks.len() < rest.len() { blanks } else { rest.strip_prefix(['T', 't'])? };
        let hour = digits(&mut rest, 1, 2)?;
        let minute = after(&mut rest, ':').and_then(|()| digits(&mut rest, 2, 2))?;
        let second = after(&mut rest, ':').and_then(|()| digits(&mut rest, 2, 2))?;
        let mut fraction = "";
        if after(&mut rest, '.').is_some() {
            let end = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            (fraction, rest) = rest.split_at(end);
        }
        let mut offset = None;
        if !rest.is_empty() {
            rest = rest.trim_start_matches([' ', '\t']);
            if rest == "Z" {
                (offset, rest) = (Some(0), "");
            } else {
                let sign = if rest.starts_with('-') { -1 } else { 1 };
                rest = rest.strip_prefix(['+', '-'])?;
                let hours = digits(&mut rest, 1, 2)?;
                let minutes =
                    if rest.is_empty() { 0 } else { after(&mut rest, ':').and_then(|()| digits(&mut rest, 2, 2))? };
                offset = Some(sign * (i64::from(hours) * 60 + i64::from(minutes)));
            }
        }
        let time = Some(Time { hour, minute, second, fraction, offset });
        rest.is_empty().then_some(Timestamp { year, month, day, time })
    }

    /// What Python's `datetime` checks.
    fn check(&self) -> Resolved<()> {
        let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days = match self.month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => 0,
        };
        if self.year == 0 || !(1..=days).contains(&self.day) {
            return Err("this looks like a date, and the day does not exist");
        }
        let Some(time) = &self.time else { return Ok(()) };
        if time.hour > 23 || time.minute > 59 || time.second > 59 {
            return Err("this looks like a time, and the time does not exist");
        }
        if time.offset.is_some_and(|offset| offset.abs() >= 24 * 60) {
            return Err("this has the shape of a time, and its offset from UTC is a day or more");
        }
        Ok(())
    }

    /// A text that is the same for the times that are equal to Python.
    fn canonical(&self) -> String {
        // Days since the first of March of the year 0, by years that begin in March.
        let (year, month, day) = (i64::from(self.year), i64::from(self.month), i64::from(self.day));
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1;
        let Some(time) = &self.time else { return format!("date {days}") };
        let minutes = days * 24 * 60 + i64::from(time.hour * 60 + time.minute);
        let minutes = minutes - time.offset.unwrap_or(0);
        let micros = format!("{:0<6.6}", time.fraction);
        let kind = if time.offset.is_some() { "aware" } else { "naive" };
        format!("{kind} {minutes} {} {micros}", time.second)
    }
}

/// Takes a number of so many digits.
fn digits(rest: &mut &str, least: usize, most: usize) -> Option<u32> {
    let count = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if count < least {
        return None;
    }
    let (number, after) = rest.split_at(count);
    *rest = after;
    number.parse().ok()
}

/// Takes one character, if it is this one.
fn after(rest: &mut &str, c: char) -> Option<()> {
    *rest = rest.strip_prefix(c)?;
    Some(())
}

/// That PyYAML makes a date or a time of this.
pub(super) fn check_timestamp(text: &str) -> Resolved<()> {
    let time = Timestamp::split(text);
    time.ok_or("a date is written 2024-02-29, a time 2024-02-29T12:30:00.5+01:00").and_then(|time| time.check())
}

/// A complex number as Python's `complex()` reads it, without spaces and brackets: its real and its imaginary part.
pub(super) fn complex(text: &str) -> Option<(f64, f64)> {
    let float = |text: &str| text.parse::<f64>().ok();
    let Some(body) = text.strip_suffix(['j', 'J']) else { return float(text).map(|real| (real, 0.0)) };
    let bytes = body.as_bytes();
    let split =
        (1..bytes.len()).rev().find(|at| matches!(bytes[*at], b'+' | b'-') && !matches!(bytes[at - 1], b'e' | b'E'));
    let (real, imaginary) = body.split_at(split.unwrap_or(0));
    let imaginary = match imaginary {
        "" | "+" => 1.0,
        "-" => -1.0,
        text => float(text)?,
    };
    Some((if real.is_empty() { 0.0 } else { float(real)? }, imaginary))
}

/// The value by which Python compares a key, for those that are equal across kinds: `1`, `1.0` and `true` are one key.
/// `None` for what only equals itself.
pub(super) fn key_of(key: &Value) -> Option<Value> {
    match key {
        Value::Bool(value) => Some(Value::Int(i64::from(*value))),
        Value::Int(value) => Some(Value::Int(*value)),
        Value::BigInt(_) => Some(key.clone()),
        Value::Float(value) if value.is_finite() && value.fract() == 0.0 => BigInt::from_f64(*value).map(Value::from),
        Value::Float(value) => Some(Value::Float(*value)),
        Value::Timestamp(text) => Timestamp::split(text).map(|time| Value::Timestamp(time.canonical())),
        Value::Tuple(items) => {
            Some(Value::Tuple(items.iter().map(|item| key_of(item).unwrap_or_else(|| item.clone())).collect()))
        }
        Value::Tagged(tagged) if tagged.tag == "!!python/complex" => {
            let (real, imaginary) = complex(tagged.value.as_str()?)?;
            if imaginary == 0.0 {
                return key_of(&Value::Float(real));
            }
            let parts = Value::Tuple(vec![Value::Float(real), Value::Float(imaginary)]);
            Some(Value::Tagged(Box::new(crate::codec::Tagged { tag: tagged.tag.clone(), value: parts })))
        }
        _ => None,
    }
}

/// What Python cannot have as a key, if there is such a thing in it.
pub(super) fn unhashable(key: &Value) -> Option<&'static str> {
    match key {
        Value::List(_) => Some("list"),
        Value::Map(_) => Some("mapping"),
        Value::Set(_) => Some("set"),
        Value::Tuple(items) => items.iter().find_map(unhashable),
        // What a peer makes of a tag is not known here.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        match plain(text) {
            Ok(Plain::Value(value)) => value,
            other => panic!("{text} is {other:?}"),
        }
    }

    #[test]
    fn strings_that_a_yaml_1_2_reader_would_take_for_numbers_stay_strings() {
        for text in [
            "1e5",
            "1e-7",
            "1e-07",
            "1e+20",
            "0o17",
            "08",
            "0_8",
            "1.5e3",
            "+.5",
            "0x",
            "0b",
            "1:60",
            "1:",
            "_1",
            ".",
            "-",
            "+",
            "..",
            ".e+1",
            "2020-1-1",
            "y",
            "n",
            "nope",
            "truE",
            "-.nan",
            "1__e",
            "2020-01-01T",
            "2020-01-01 1:1:1",
            "<<<",
            "==",
            "0:30",
            "1:2:",
            "0xg",
            "0b2",
            "+",
            "-x",
            "2020-01-01 10:00:00 x",
            "2020-01-01 10:00:00+",
        ] {
            assert_eq!(value(text), Value::from(text), "{text}");
        }
    }

    #[test]
    fn numbers_as_pyyaml_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("+12", 12),
            ("1_000", 1000),
            ("017", 15),
            ("0x1F", 31),
            ("-0b101", -5),
            ("1:30", 90),
            ("-1:30:00", -5400),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("00", 0),
            ("0_", 0),
            ("1_:30", 90),
        ] {
            assert_eq!(value(text), Value::Int(expected), "{text}");
        }
        for (text, expected) in [
            ("1.0", 1.0),
            ("1.", 1.0),
            ("-1.5e+3", -1500.0),
            ("1.0e-07", 1e-7),
            (".5", 0.5),
            ("1_0.5_0", 10.5),
            ("1:30.5", 90.5),
            (".inf", f64::INFINITY),
            ("-.INF", f64::NEG_INFINITY),
            (".nan", f64::NAN),
        ] {
            assert_eq!(value(text), Value::Float(expected), "{text}");
        }
        assert_eq!(value("18446744073709551616").to_json_text(), r#"{"$int":"18446744073709551616"}"#);
    }

    #[test]
    fn dates_and_times_are_kept_as_they_are_written() {
        for text in [
            "2020-01-01",
            "2024-02-29",
            "2001-12-14t21:59:43.10-05:00",
            "2001-12-14 21:59:43.10 -5",
            "2001-1-1 1:22:33",
            "2001-12-15T02:59:43Z",
            "2001-12-15T02:59:43.",
        ] {
            assert_eq!(value(text), Value::Timestamp(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn shapes_that_pyyaml_fails_on_are_errors() {
        for text in [
            "2024-02-30",
            "2023-02-29",
            "0000-01-01",
            "2020-13-01",
            "2020-00-01",
            "2020-01-00",
            "2020-1-1 24:00:00",
            "2020-01-01 10:60:00",
            "2020-01-01 10:00:60",
            "2020-01-01 10:00:00+24:00",
            "2020-01-01 10:00:00 -99",
            "0b_",
            "-0x__",
        ] {
            assert!(plain(text).is_err(), "{text}");
        }
        assert!(plain(&"1".repeat(4300)).is_ok());
        assert!(plain(&"1".repeat(4301)).is_err());
        assert!(plain(&format!("1{}", ":30".repeat(5000))).is_err());
        assert!(plain(&format!("1{}.5", ":30".repeat(200))).is_err());
    }

    #[test]
    fn nothing_and_its_names_are_null() {
        for text in ["", "~", "null", "Null", "NULL"] {
            assert!(value(text).is_null(), "{text}");
        }
        assert_eq!(value("On"), Value::Bool(true));
        assert_eq!(value("NO"), Value::Bool(false));
    }

    #[test]
    fn complex_numbers_as_python_reads_them() {
        for (text, expected) in [
            ("1+2j", Some((1.0, 2.0))),
            ("-1e+5-2e-3J", Some((-1e5, -2e-3))),
            ("j", Some((0.0, 1.0))),
            ("-j", Some((0.0, -1.0))),
            ("1.5", Some((1.5, 0.0))),
            ("1-j", Some((1.0, -1.0))),
            ("", None),
            ("1+2", None),
            ("x", None),
            ("1+2jj", None),
        ] {
            assert_eq!(complex(text), expected, "{text}");
        }
    }

    #[test]
    fn keys_that_python_holds_for_one_are_one() {
        let time = |text: &str| key_of(&Value::Timestamp(text.to_owned()));
        assert_eq!(key_of(&Value::Bool(true)), key_of(&Value::Float(1.0)));
        assert_eq!(key_of(&Value::Float(-0.0)), key_of(&Value::Int(0)));
        assert_eq!(time("2001-12-14t21:59:43.10-05:00"), time("2001-12-15 2:59:43.1Z"));
        assert_ne!(time("2001-12-15 2:59:43.1"), time("2001-12-15 2:59:43.1Z"));
        assert_ne!(time("2000-02-29"), time("2000-03-01"));
        assert_ne!(key_of(&Value::Float(0.5)), key_of(&Value::Int(0)));
    }
}
