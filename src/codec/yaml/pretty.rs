//! YAML for people: block style, and strings plain where nobody could take them for something else.

use super::resolve::{self, Plain};
use super::write::write;
use crate::codec::value::Value;

/// Deeper values are written in flow style.
const DEEPEST: usize = 32;

/// PyYAML reads a key of 1024 characters without a `?`; a byte may take four of them as an escape.
const LONGEST_KEY: usize = 200;

/// A value as block YAML, ending with a line break.
pub(in crate::codec) fn pretty(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0, Place::Line);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// What stands before a value on its line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but its indentation.
    Line,
    /// A key and its colon.
    Key,
    /// The dash of a list.
    Dash,
}

fn block(out: &mut String, value: &Value, depth: usize, place: Place) {
    match value {
        Value::Map(map) if !map.is_empty() && depth < DEEPEST && map.keys().all(is_simple_key) => {
            for (n, (key, value)) in map.iter().enumerate() {
                if !(n == 0 && place == Place::Dash) {
                    new_line(out, depth);
                }
                scalar(out, key);
                out.push(':');
                block(out, value, depth + 1, Place::Key);
            }
        }
        Value::List(items) if !items.is_empty() && depth < DEEPEST => {
            for (n, item) in items.iter().enumerate() {
                if !(n == 0 && place == Place::Dash) {
                    new_line(out, depth);
                }
                out.push_str("- ");
                block(out, item, depth + 1, Place::Dash);
            }
        }
        value => {
            if place == Place::Key {
                out.push(' ');
            }
            scalar(out, value);
        }
    }
}

fn is_simple_key(key: &Value) -> bool {
    key.as_str().is_some_and(|text| text.len() <= LONGEST_KEY)
}

fn new_line(out: &mut String, depth: usize) {
    if !out.is_empty() {
        out.push('\n');
    }
    for _ in 0..depth {
        out.push_str("  ");
    }
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) if is_safe(text) => out.push_str(text),
        value => write(out, value),
    }
}

/// True for a string that reads as itself where it stands plain.
fn is_safe(text: &str) -> bool {
    let reads_as_itself = matches!(resolve::plain(text), Ok(Plain::Value(Value::String(_))));
    let letters = text.chars().all(|c| c.is_alphanumeric() || " _-./".contains(c));
    reads_as_itself && letters && text.starts_with(char::is_alphabetic) && !text.ends_with(' ')
}
