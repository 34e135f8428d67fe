//! How deep a value is nested, and what is done with one that is too deep.
//!
//! Values are copied, compared, printed and dropped level by level on the stack. So nothing here accepts or makes one that is
//! deeper than [`MAX_DEPTH`], except what a program nests by hand; and what is refused for its depth is dropped without stack.

use super::value::{MAX_DEPTH, Value};

impl Value {
    pub(super) fn holds_values(&self) -> bool {
        matches!(self, Value::List(_) | Value::Tuple(_) | Value::Set(_) | Value::Map(_) | Value::Tagged(_))
    }

    /// True when something in it has more than [`MAX_DEPTH`] levels above it.
    pub(crate) fn is_too_deep(&self) -> bool {
        self.is_deeper_than(MAX_DEPTH)
    }

    fn is_deeper_than(&self, levels: usize) -> bool {
        // Most values hold none, and are not called for.
        let below = |value: &Value| levels == 0 || (value.holds_values() && value.is_deeper_than(levels - 1));
        match self {
            Value::List(items) | Value::Tuple(items) => items.iter().any(below),
            Value::Set(map) | Value::Map(map) => map.iter().any(|(key, value)| below(key) || below(value)),
            Value::Tagged(tagged) => below(&tagged.value),
            _ => false,
        }
    }

    /// True when there is an object of the program's own in it. For a value that is not too deep.
    pub(crate) fn has_opaque(&self) -> bool {
        match self {
            Value::Opaque(_) => true,
            Value::List(items) | Value::Tuple(items) => items.iter().any(Value::has_opaque),
            Value::Set(map) | Value::Map(map) => map.iter().any(|(key, value)| key.has_opaque() || value.has_opaque()),
            Value::Tagged(tagged) => tagged.value.has_opaque(),
            _ => false,
        }
    }

    /// Drops it, however deep it is.
    ///
    /// Guards: a stack that overflows, which ends the process.
    pub(crate) fn dispose(self) {
        let mut open = vec![self];
        while let Some(value) = open.pop() {
            match value {
                Value::List(items) | Value::Tuple(items) => open.extend(items.into_iter().filter(Value::holds_values)),
                Value::Set(map) | Value::Map(map) => {
                    let parts = map.into_iter().flat_map(|(key, value)| [key, value]);
                    open.extend(parts.filter(Value::holds_values));
                }
                Value::Tagged(tagged) => open.push(tagged.value),
                _ => {}
            }
        }
    }
}

/// True when a JSON value has more than this many levels.
pub(super) fn json_is_deeper_than(json: &serde_json::Value, levels: usize) -> bool {
    let below = |value: &serde_json::Value| levels == 0 || json_is_deeper_than(value, levels - 1);
    match json {
        serde_json::Value::Array(items) => items.iter().any(below),
        serde_json::Value::Object(map) => map.values().any(below),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Codec, Json, Limits, Map, Tagged, Yaml};
    use crate::error::ErrorKind;

    fn nested(levels: usize, around: impl Fn(Value) -> Value) -> Value {
        (0..levels).fold(Value::Null, |value, _| around(value))
    }

    fn ways() -> [fn(Value) -> Value; 6] {
        [
            |value| Value::List(vec![value]),
            |value| Value::Tuple(vec![1.into(), value]),
            |value| Value::Set([(value, Value::Null)].into_iter().collect::<Map>()),
            |value| Value::from_iter([("key", value)]),
            |value| Value::Map([(value, Value::Null)].into_iter().collect::<Map>()),
            |value| Value::Tagged(Box::new(Tagged { tag: "!x".into(), value })),
        ]
    }

    #[test]
    fn the_depth_is_counted_through_every_kind() {
        for around in ways() {
            assert!(!nested(MAX_DEPTH, around).is_too_deep());
            assert!(nested(MAX_DEPTH + 1, around).is_too_deep());
        }
    }

    #[test]
    fn who_writes_and_who_reads_have_one_limit() {
        let with_depth = |max_depth| Limits { max_depth, ..Limits::default() };
        let codecs = |max_depth| -> [Box<dyn Codec>; 2] {
            [Box::new(Yaml::with_limits(with_depth(max_depth))), Box::new(Json::with_limits(with_depth(max_depth)))]
        };
        let innermost = [Value::Null, Value::List(Vec::new()), Value::Map(Map::new()), Value::Tuple(Vec::new())];
        for (limited, free) in codecs(10).into_iter().zip(codecs(MAX_DEPTH)) {
            let (mut written, mut refused) = (0, 0);
            let ways = ways();
            for (around, inside) in ways.iter().flat_map(|around| innermost.iter().map(move |inside| (around, inside)))
            {
                for levels in 7..13 {
                    let value = (0..levels).fold(inside.clone(), |value, _| around(value));
                    // What the format has not.
                    let Ok(body) = free.encode(&value) else { continue };
                    let read = limited.decode(&body).map(drop).map_err(|error| error.kind());
                    assert_eq!(read, limited.encode(&value).map(drop).map_err(|_| ErrorKind::Decode), "{value}");
                    assert_eq!(read, limited.pass(value).map(drop).map_err(|_| ErrorKind::Decode));
                    match read {
                        Ok(()) => written += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
            assert!(written > 20 && refused > 20, "{}: {written} {refused}", limited.name());
            let error = limited.encode(&nested(11, ways[0])).unwrap_err();
            assert_eq!(error.to_string(), "the value is nested deeper than 10 (at /0/0/0/0/0/0/0/0/0/0)");
        }
    }

    #[test]
    fn a_value_that_is_passed_is_what_a_reader_would_get() {
        let tagged = |tag: &str, value: Value| Value::Tagged(Box::new(Tagged { tag: tag.into(), value }));
        let values = [
            tagged("!x", 1.into()),
            tagged("!x", Value::Null),
            tagged("!x", true.into()),
            tagged("!x", 1.5.into()),
            tagged("!x", f64::INFINITY.into()),
            tagged("!x", num_bigint::BigInt::from(10).pow(30).into()),
            tagged("!x", "1".into()),
            tagged("!x", [Value::from(1), tagged("!y", 2.into())].to_vec().into()),
            tagged("!<!x>", "1".into()),
            tagged("!<tag:yaml.org,2002:python/complex>", "1+2j".into()),
            tagged("!!python/name:a", "".into()),
            tagged("!!python/object:a.b", Value::from_iter([("key", tagged("!x", 1.into()))])),
            Value::Tuple(vec![
                Value::from_iter([("key", Value::Tuple(vec![1.into()]))]),
                Value::List(vec![2.5.into()]),
            ]),
            Value::from_iter([("key", tagged("!x", 1.into()))]),
            Value::Map([(tagged("!x", 1.into()), Value::Null)].into_iter().collect::<Map>()),
        ];
        for codec in [Box::new(Yaml::default()) as Box<dyn Codec>, Box::new(Json::default())] {
            let mut written = 0;
            for value in &values {
                let read = codec.encode(value).map(|body| codec.decode(&body).unwrap());
                written += usize::from(read.is_ok());
                let passed = codec.pass(value.clone());
                assert_eq!(
                    passed.map_err(|error| error.to_string()),
                    read.map_err(|error| error.to_string()),
                    "{value}"
                );
            }
            assert!(written > 0, "{}", codec.name());
        }
    }

    #[test]
    fn a_value_of_any_depth_is_dropped() {
        for around in [ways()[0], ways()[1], ways()[3], ways()[5]] {
            nested(100_000, around).dispose();
        }
    }

    #[test]
    fn what_is_too_deep_is_an_error_in_both_directions_of_serde() {
        let deep = nested(100_000, |value| Value::List(vec![value]));
        assert_eq!(Value::from_serialize(&deep).unwrap_err().kind(), ErrorKind::Encode);
        assert_eq!(deep.deserialize::<Value>().unwrap_err().kind(), ErrorKind::Decode);
        assert!(serde_json::to_string(&deep).is_err());
        deep.dispose();

        #[derive(serde::Serialize)]
        struct Chain(Vec<Chain>);
        let chain = (0..1000).fold(Chain(Vec::new()), |chain, _| Chain(vec![chain]));
        assert_eq!(Value::from_serialize(&chain).unwrap_err().kind(), ErrorKind::Encode);
        let chain = (0..MAX_DEPTH).fold(Chain(Vec::new()), |chain, _| Chain(vec![chain]));
        assert!(!Value::from_serialize(&chain).unwrap().is_too_deep());

        let json = (0..1000).fold(serde_json::Value::Null, |json, _| serde_json::Value::Array(vec![json]));
        assert_eq!(Value::from_json(&json).unwrap_err().kind(), ErrorKind::Decode);
    }

    #[test]
    fn what_is_accepted_goes_through_everything_on_a_thread_of_two_mebibytes() {
        let all = || {
            for around in ways() {
                let value = nested(MAX_DEPTH, around);
                assert_eq!(value.clone(), value);
                assert!(!format!("{value:?}{value}{}{}", value.to_yaml_text(), value.to_json_text()).is_empty());
                assert_eq!(Value::from_serialize(&value).unwrap(), value);
                assert_eq!(value.deserialize::<Value>().unwrap(), value);
                match Value::from_json(&value.to_json()) {
                    Ok(read) => assert_eq!(read, value),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Decode, "each level of JSON counts"),
                }
            }
        };
        std::thread::Builder::new().stack_size(2 << 20).spawn(all).unwrap().join().unwrap();
    }
}
