//! What a plain scalar is in YAML 1.1, as PyYAML 6's `FullLoader` has it (`resolver.py`, `constructor.py`).
//!
//! The traps: `1e5`, `1e+20` and `0o17` are texts, for a float needs a dot and an exponent a sign, and octals are written
//! `017`; `yes` and `off` are truth values; `1:30` is 90.

use num_bigint::BigInt;

use crate::codec::Value;

/// What a plain scalar without a tag stands for.
pub(super) enum Plain {
    Value(Value),
    /// `<<`: as a key it merges what is under it.
    Merge,
}

pub(super) fn plain(text: &str) -> Plain {
    // As in PyYAML, the first character says what may come into question.
    let value = match text.bytes().next() {
        None => Some(Value::Null),
        Some(b'~') if text == "~" => Some(Value::Null),
        Some(b'n' | b'N') if matches!(text, "null" | "Null" | "NULL") => Some(Value::Null),
        Some(b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O') => boolean(text).map(Value::Bool),
        Some(b'0'..=b'9' | b'+' | b'-' | b'.') => number(text),
        Some(b'<') if text == "<<" => return Plain::Merge,
        _ => None,
    };
    Plain::Value(value.unwrap_or_else(|| Value::String(text.to_owned())))
}

fn number(text: &str) -> Option<Value> {
    if let Some(int) = int(text) {
        return Some(int);
    }
    if let Some(float) = float(text) {
        return Some(Value::Float(float));
    }
    is_timestamp(text).then(|| Value::Timestamp(text.to_owned()))
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// An integer as YAML 1.1 writes it.
pub(super) fn int(text: &str) -> Option<Value> {
    let (negative, digits) = signed(text);
    let magnitude = if let Some(binary) = digits.strip_prefix("0b") {
        radix(binary, 2)?
    } else if let Some(hex) = digits.strip_prefix("0x") {
        radix(hex, 16)?
    } else if digits == "0" {
        BigInt::ZERO
    } else if let Some(octal) = digits.strip_prefix('0') {
        // `0_` is an octal without digits, which is zero.
        if octal.bytes().all(|digit| digit == b'_') { BigInt::ZERO } else { radix(octal, 8)? }
    } else if !digits.starts_with(|c: char| ('1'..='9').contains(&c)) {
        return None;
    } else if digits.contains(':') {
        sexagesimal(digits)?
    } else {
        if let Some(small) = small(negative, digits) {
            return Some(Value::Int(small));
        }
        radix(digits, 10)?
    };
    Some(Value::from(if negative { -magnitude } else { magnitude }))
}

/// The common case, without a detour.
fn small(negative: bool, digits: &str) -> Option<i64> {
    if digits.len() > 18 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
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

/// Digits of this radix and underscores, with one digit at least. Of an integer with more digits than anybody writes,
/// reading takes time with their square: Python refuses over 4300 digits too.
fn radix(digits: &str, radix: u32) -> Option<BigInt> {
    const MOST: usize = 4300;
    if digits.len() > MOST || !digits.chars().all(|c| c == '_' || c.is_digit(radix)) {
        return None;
    }
    let digits: Vec<u8> = digits.bytes().filter(|digit| *digit != b'_').collect();
    let value = BigInt::parse_bytes(&digits, radix)?;
    // It will be written with decimal digits, of which there must not be more either: 2^14284 has 4300.
    (radix == 10 || value.bits() <= 14_284).then_some(value)
}

/// `1:30`: parts to the base 60, all but the first below it.
fn sexagesimal(digits: &str) -> Option<BigInt> {
    if digits.len() > 64 {
        return None;
    }
    let mut parts = digits.split(':');
    let mut value = radix(parts.next()?, 10)?;
    for part in parts {
        value = value * 60 + below_60(part)?;
    }
    Some(value)
}

fn below_60(part: &str) -> Option<u8> {
    let digits = part.len() == 1 || (part.len() == 2 && part.as_bytes()[0] < b'6');
    if digits && part.bytes().all(|digit| digit.is_ascii_digit()) { part.parse().ok() } else { None }
}

/// A float as YAML 1.1 writes it.
pub(super) fn float(text: &str) -> Option<f64> {
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(f64::NAN);
    }
    let (negative, rest) = signed(text);
    let sign = if negative { -1.0 } else { 1.0 };
    if matches!(rest, ".inf" | ".Inf" | ".INF") {
        return Some(sign * f64::INFINITY);
    }
    let (whole, fraction) = rest.split_once('.')?;
    if whole.contains(':') {
        return sexagesimal_float(whole, fraction).map(|value| sign * value);
    }
    let digits_of = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit() || digit == b'_');
    // An exponent must have its sign.
    let (fraction, exponent) = match fraction.find(['e', 'E']) {
        None => (fraction, None),
        Some(at) => (&fraction[..at], Some(&fraction[at + 1..])),
    };
    let whole_is_right = if whole.is_empty() {
        // `.5`, but not `+.5`.
        rest.len() == text.len() && fraction.starts_with(|c: char| c.is_ascii_digit())
    } else {
        whole.starts_with(|c: char| c.is_ascii_digit())
    };
    let exponent_is_right = exponent.is_none_or(|exponent| {
        exponent
            .strip_prefix(['+', '-'])
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
    });
    if !whole_is_right || !digits_of(whole) || !digits_of(fraction) || !exponent_is_right {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// `1:30.5`, to the base 60.
fn sexagesimal_float(whole: &str, fraction: &str) -> Option<f64> {
    let mut parts = whole.split(':');
    let first = parts.next()?;
    let digits_of = |text: &str| text.bytes().all(|digit| digit.is_ascii_digit() || digit == b'_');
    if whole.len() > 64 || !first.starts_with(|c: char| c.is_ascii_digit()) || !digits_of(first) || !digits_of(fraction)
    {
        return None;
    }
    let mut value: f64 = first.replace('_', "").parse().ok()?;
    for part in parts {
        value = value * 60.0 + f64::from(below_60(part)?);
    }
    let fraction: f64 = format!("0.{}", fraction.replace('_', "")).parse().ok()?;
    Some(value + fraction)
}

/// `2020-01-01`, or with a time behind it.
pub(super) fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    let digits = |at: &mut usize, least: usize, most: usize| {
        let count = bytes[*at..].iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        *at += count;
        count >= least
    };
    let one_of = |at: &mut usize, wanted: &[u8]| {
        let found = bytes.get(*at).is_some_and(|byte| wanted.contains(byte));
        *at += usize::from(found);
        found
    };
    if !(digits(&mut at, 4, 4)
        && one_of(&mut at, b"-")
        && digits(&mut at, 1, 2)
        && one_of(&mut at, b"-")
        && digits(&mut at, 1, 2))
    {
        return false;
    }
    if at == bytes.len() {
        // A date alone has two digits for month and day.
        return at == 10;
    }
    if !one_of(&mut at, b"Tt") {
        let blanks = at;
        while one_of(&mut at, b" \t") {}
        if at == blanks {
            return false;
        }
    }
    if !(digits(&mut at, 1, 2)
        && one_of(&mut at, b":")
        && digits(&mut at, 2, 2)
        && one_of(&mut at, b":")
        && digits(&mut at, 2, 2))
    {
        return false;
    }
    if one_of(&mut at, b".") {
        digits(&mut at, 0, usize::MAX);
    }
    if at == bytes.len() {
        return true;
    }
    while one_of(&mut at, b" \t") {}
    if one_of(&mut at, b"Z") {
        return at == bytes.len();
    }
    if !(one_of(&mut at, b"+-") && digits(&mut at, 1, 2)) {
        return false;
    }
    at == bytes.len() || (one_of(&mut at, b":") && digits(&mut at, 2, 2) && at == bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        match plain(text) {
            Plain::Value(value) => value,
            Plain::Merge => panic!("{text} is a merge"),
        }
    }

    #[test]
    fn texts_that_a_yaml_1_2_reader_would_take_for_numbers_stay_texts() {
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
            "=",
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
            "2001-12-14t21:59:43.10-05:00",
            "2001-12-14 21:59:43.10 -5",
            "2001-1-1 1:22:33",
            "2001-12-15T02:59:43Z",
        ] {
            assert_eq!(value(text), Value::Timestamp(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn nothing_and_its_names_are_null() {
        for text in ["", "~", "null", "Null", "NULL"] {
            assert!(value(text).is_null(), "{text}");
        }
        assert_eq!(value("On"), Value::Bool(true));
        assert_eq!(value("NO"), Value::Bool(false));
    }
}
