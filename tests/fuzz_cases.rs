//! What fuzzing and thought have found in the readers, as bodies that a peer could send. (The inputs that a fuzzer names are in
//! `tests/fuzz-cases`, and are tried by the library's own tests.)

use homing::codec::{Codec, Limits, Tagged, Yaml};
use homing::{ErrorKind, Value};

#[test]
fn aliases_do_not_nest_deeper_than_the_limit() {
    // Each alias stands at the bottom of another hundred lists. Over the whole chain the value is 25,000 deep, which
    // overflows a stack when it is walked or dropped, with far fewer values and aliases than are allowed.
    let (open, close) = ("[".repeat(95), "]".repeat(95));
    let mut body = format!("- &a0 {open}x{close}\n");
    for n in 1..270 {
        body.push_str(&format!("- &a{n} {open}*a{}{close}\n", n - 1));
    }
    let error = Yaml::default().decode(body.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("nested deeper than 100"), "{error}");
}

#[test]
fn copies_for_aliases_are_bounded_too() {
    let yaml = Yaml::with_limits(Limits { max_bytes: 100_000, max_nodes: 10_000, ..Limits::default() });
    let long = "x".repeat(50_000);
    let anchors: String = (0..90).map(|n| format!("&a{n} [")).collect();
    for (body, what) in [
        // A long text, many times over: few values, and without a limit 5 MB here and 600 GB from a body of 64 MiB.
        (format!("[&a \"{long}\"{}]", ", *a".repeat(100)), "a long text"),
        // Each anchor keeps a copy of all that is within it, also for an alias that never comes.
        (format!("{anchors}{}{}", "x, ".repeat(1000), "]".repeat(90)), "anchors around many values"),
        (format!("{anchors}\"{long}\"{}", "]".repeat(90)), "anchors around a long text"),
    ] {
        let error = yaml.decode(body.as_bytes()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Decode, "{what}");
        assert!(error.to_string().contains("anchors and aliases"), "{what}: {error}");
    }
    let value = yaml.decode(format!("[&a \"{}\", *a]", "x".repeat(40_000)).as_bytes());
    assert!(value.is_ok_and(|value| value.as_slice().is_some_and(|items| items.len() == 2)));
}

#[test]
fn an_integer_that_could_not_be_written_is_a_text() {
    let yaml = Yaml::default();
    for (digits, is_text) in [("f".repeat(3571), false), ("f".repeat(3572), true), ("f".repeat(4300), true)] {
        let body = format!("0x{digits}");
        let value = yaml.decode(body.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(value.as_str().is_some(), is_text, "{} digits", digits.len());
        let written = yaml.encode(&value).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(yaml.decode(&written).ok(), Some(value));
    }
}

#[test]
fn what_is_read_at_a_limit_can_be_written() {
    let yaml = Yaml::with_limits(Limits { max_depth: 6, max_nodes: 12, ..Limits::default() });
    for body in [
        "[[[[[[x]]]]]]",
        "[[[!a [x]]]]",
        "[[[!a [!b x]]]]",
        "[[[[[!a x]]]]]",
        "- &a [[[x]]]\n- [[*a]]\n",
        "[!a x, !b x, !c x, !d x, !e x]",
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]",
        "!!set {a, b, c, d, e}",
    ] {
        let value = yaml.decode(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        let written = yaml.encode(&value).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert_eq!(yaml.decode(&written).ok(), Some(value), "{body}");
    }
    for body in [
        "[[[[[[[x]]]]]]]",
        "[[[!a [!b [x]]]]]",
        "[[[[[[!a x]]]]]]",
        "- &a [[[x]]]\n- [[[*a]]]\n",
        "[!a x, !b x, !c x, !d x, !e x, !f x]",
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]",
    ] {
        assert_eq!(yaml.decode(body.as_bytes()).map_err(|error| error.kind()), Err(ErrorKind::Decode), "{body}");
    }
}

#[test]
fn a_value_that_yaml_has_no_second_tag_for_is_refused() {
    let yaml = Yaml::default();
    let tagged = |value: Value| Value::Tagged(Box::new(Tagged { tag: "!a".to_owned(), value }));
    for value in [Value::Bytes(vec![1]), Value::Tuple(Vec::new()), tagged(Value::from("x"))] {
        let error = yaml.encode(&Value::List(vec![tagged(value.clone())])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Encode, "{value}");
        assert!(error.to_string().contains("one tag"), "{error}");
    }
    assert!(yaml.encode(&tagged(Value::from("x"))).is_ok());
}
