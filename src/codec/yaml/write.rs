//! Writes a body so that PyYAML's `FullLoader` reads the equal value.
//!
//! One line in flow style; strings always double-quoted, so that none can be taken for something else.

use std::fmt::Write;

use base64::Engine;

use crate::codec::value::{Value, fits_digits};

/// PyYAML finds the colon of a key within 1024 characters (`scanner.py`); a longer key is written with `?`.
const SIMPLE_KEY_MAX: usize = 1000;

/// Appends a value. The caller has checked that PyYAML can construct it.
pub(super) fn write(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        // Writing to a String cannot fail.
        Value::Int(int) => write!(out, "{int}").unwrap_or(()),
        Value::BigInt(int) if fits_digits(int) => write!(out, "{int}").unwrap_or(()),
        // Python reads no more decimal digits, and any number of hexadecimal ones.
        Value::BigInt(int) => write!(out, "{int:#x}").unwrap_or(()),
        Value::Float(float) => write_float(out, *float),
        Value::String(text) => write_string(out, text),
        Value::Bytes(bytes) => {
            out.push_str("!!binary \"");
            base64::engine::general_purpose::STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Value::Timestamp(text) => {
            out.push_str("!!timestamp ");
            write_string(out, text);
        }
        Value::List(items) => write_items(out, items),
        Value::Tuple(items) => {
            out.push_str("!!python/tuple ");
            write_items(out, items);
        }
        Value::Set(members) => {
            out.push_str("!!set ");
            write_pairs(out, members.keys().map(|member| (member, &Value::Null)));
        }
        Value::Map(map) => write_pairs(out, map.iter()),
        // For people only: a codec refuses it.
        Value::Opaque(object) => write_string(out, &format!("<{}>", object.type_name())),
        Value::Tagged(tagged) => {
            write_tag(out, &tagged.tag);
            out.push(' ');
            write(out, &tagged.value);
        }
    }
}

fn write_items(out: &mut String, items: &[Value]) {
    out.push('[');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        write(out, item);
    }
    out.push(']');
}

fn write_pairs<'a>(out: &mut String, pairs: impl Iterator<Item = (&'a Value, &'a Value)>) {
    out.push('{');
    for (n, (key, value)) in pairs.enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        let start = out.len();
        write(out, key);
        let simple = matches!(key, Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_));
        if !simple || out.len() - start > SIMPLE_KEY_MAX {
            out.insert_str(start, "? ");
            out.push(' ');
        }
        out.push_str(": ");
        write(out, value);
    }
    out.push('}');
}

/// A float needs a dot and, with an exponent, its sign: otherwise it is a string to PyYAML.
fn write_float(out: &mut String, float: f64) {
    if float.is_nan() {
        return out.push_str(".nan");
    }
    if float.is_infinite() {
        return out.push_str(if float > 0.0 { ".inf" } else { "-.inf" });
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => out.push_str(&text),
        Some((mantissa, exponent)) => {
            out.push_str(mantissa);
            if !mantissa.contains('.') {
                out.push_str(".0");
            }
            out.push('e');
            if !exponent.starts_with('-') {
                out.push('+');
            }
            out.push_str(exponent);
        }
    }
}

/// A string in double quotes, with escapes for what PyYAML's reader refuses or would fold.
fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, c) in text.char_indices() {
        if is_plain(c) {
            continue;
        }
        out.push_str(&text[plain_from..at]);
        plain_from = at + c.len_utf8();
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) <= 0xff => write!(out, "\\x{:02X}", u32::from(c)).unwrap_or(()),
            c if u32::from(c) <= 0xffff => write!(out, "\\u{:04X}", u32::from(c)).unwrap_or(()),
            c => write!(out, "\\U{:08X}", u32::from(c)).unwrap_or(()),
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

/// What stands for itself between double quotes.
fn is_plain(c: char) -> bool {
    match c {
        '"' | '\\' => false,
        ' '..='~' => true,
        // Line breaks of YAML 1.1, and the byte order mark.
        '\u{2028}' | '\u{2029}' | '\u{feff}' => false,
        '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => true,
        _ => false,
    }
}

/// A tag, with escapes for what would end it.
fn write_tag(out: &mut String, tag: &str) {
    if let Some(uri) = tag.strip_prefix("!<") {
        out.push_str("!<");
        write_uri(out, uri.strip_suffix('>').unwrap_or(uri), b"!,");
        return out.push('>');
    }
    let (handle, name) = match tag.strip_prefix("!!") {
        Some(name) => ("!!", name),
        None => ("!", tag.strip_prefix('!').unwrap_or(tag)),
    };
    out.push_str(handle);
    write_uri(out, name, b"");
}

fn write_uri(out: &mut String, text: &str, more: &[u8]) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-;/?:@&=+$_.~*'()".contains(&byte) || more.contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or(());
        }
    }
}
