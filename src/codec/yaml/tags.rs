//! Which tags are carried with their values.
//!
//! An application's own tag (`!uuid`) means what its peers agree on, and is carried. The standard's tags
//! (`tag:yaml.org,2002:`, written `!!`) are PyYAML's: one that makes a value of a kind that is known here is read as that
//! value; one that names a Python object is carried if its shape is the one that PyYAML's loaders take; any other no loader
//! of PyYAML constructs, and it is refused on reading and on writing.

use super::resolve;
use crate::codec::value::Value;

pub(super) const STANDARD: &str = "tag:yaml.org,2002:";

/// A tag as it is written here, from the whole one. `!!x` and `!<x>` never mean anything else, whatever is in a URI.
pub(super) fn written(whole: &str) -> String {
    match whole.strip_prefix(STANDARD) {
        Some(name) if !name.is_empty() => format!("!!{name}"),
        None if whole.starts_with('!') && !whole.starts_with("!!") && !whole.starts_with("!<") => whole.to_owned(),
        _ => format!("!<{whole}>"),
    }
}

/// The whole tag, from the written one; `None` when it is not a tag.
fn whole(written: &str) -> Option<String> {
    if let Some(uri) = written.strip_prefix("!<") {
        return uri.strip_suffix('>').map(str::to_owned);
    }
    match written.strip_prefix("!!") {
        Some(name) => Some(format!("{STANDARD}{name}")),
        None => written.starts_with('!').then(|| written.to_owned()),
    }
}

/// True for a tag and a value under it that come back as they are when they have been written.
pub(super) fn is_read_as_written(tag: &str, value: &Value) -> bool {
    let is_kept = matches!(value, Value::String(_) | Value::List(_) | Value::Map(_));
    is_kept && whole(tag).is_some_and(|whole| written(&whole) == tag)
}

/// That a value is carried under a tag.
pub(super) fn check(tag: &str, value: &Value) -> Result<(), String> {
    if matches!(value, Value::Bytes(_) | Value::Timestamp(_) | Value::Tuple(_) | Value::Set(_) | Value::Tagged(_)) {
        return Err(format!(
            "a value has one tag: {tag} cannot stand on bytes, a date, a tuple, a set or another tag; put a list or a \
             mapping between"
        ));
    }
    let whole = whole(tag).filter(|whole| !matches!(whole.as_str(), "" | "!" | STANDARD));
    let Some(whole) = whole else {
        return Err(format!("{tag:?} is not a tag; one is written !name, !!name or !<uri>"));
    };
    let Some(name) = whole.strip_prefix(STANDARD) else { return Ok(()) };
    let needs = |right: bool, what: &str| {
        if right { Ok(()) } else { Err(format!("PyYAML takes !!{name} only with {what}")) }
    };
    match name {
        "python/complex" => needs(
            value.as_str().is_some_and(|text| resolve::complex(text).is_some()),
            "a complex number as a string, such as \"1+2j\"",
        ),
        "null" | "bool" | "int" | "float" | "binary" | "timestamp" | "omap" | "pairs" | "set" | "str" | "seq"
        | "map" | "python/none" | "python/bool" | "python/str" | "python/unicode" | "python/bytes" | "python/int"
        | "python/long" | "python/float" | "python/list" | "python/tuple" | "python/dict" => {
            Err(format!("!!{name} has a kind of value of its own; use that, without the tag"))
        }
        _ => {
            let (kind, object) = name.split_once(':').unwrap_or((name, ""));
            let right = match kind {
                "python/name" | "python/module" => value.as_str() == Some(""),
                "python/object" => matches!(value, Value::Map(_)),
                "python/object/apply" | "python/object/new" => matches!(value, Value::Map(_) | Value::List(_)),
                _ => return Err(format!("no loader of PyYAML constructs !!{name}")),
            };
            let what = match kind {
                "python/name" | "python/module" => "a name in the tag and the empty string",
                "python/object" => "a name in the tag and a mapping",
                _ => "a name in the tag and a list or a mapping",
            };
            needs(right && !object.is_empty(), what)
        }
    }
}
