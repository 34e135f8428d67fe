//! Bodies that a peer could send and that once broke a reader, or could have. (The inputs that a fuzzer found are in
//! `tests/fuzz-cases`; the library's own tests try them.)

use homing::codec::{Codec, Json, Limits, Tagged, Yaml, parse_text};
use homing::{ErrorKind, Value};

fn limits(set: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits);
    limits
}

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
    let yaml = Yaml::with_limits(limits(|limits| (limits.max_bytes, limits.max_nodes) = (100_000, 10_000)));
    let long = "x".repeat(50_000);
    let anchors: String = (0..90).map(|n| format!("&a{n} [")).collect();
    let aliases: String = (0..90).map(|n| format!("*a{n}, ")).collect();
    for (body, what) in [
        // A long text, many times over: few values, and without a limit 5 MB here and 600 GB from a body of 64 MiB.
        (format!("[&a \"{long}\"{}]", ", *a".repeat(100)), "a long text"),
        // Each anchor keeps a copy of all that is within it, for the aliases that follow.
        (format!("- {anchors}{}{}\n- [{aliases}]", "x, ".repeat(1000), "]".repeat(90)), "anchors around many values"),
        (format!("- {anchors}\"{long}\"{}\n- [{aliases}]", "]".repeat(90)), "anchors around a long text"),
    ] {
        let error = yaml.decode(body.as_bytes()).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Decode, "{what}");
        assert!(error.to_string().contains("anchors and aliases"), "{what}: {error}");
    }
    let value = yaml.decode(format!("[&a \"{}\", *a]", "x".repeat(40_000)).as_bytes());
    assert!(value.is_ok_and(|value| value.as_slice().is_some_and(|items| items.len() == 2)));
}

#[test]
fn an_integer_keeps_all_its_digits_or_is_an_error() {
    let yaml = Yaml::default();
    // Decimal digits are limited as in Python; to a power of two any number of them is read, in no time.
    for (body, is_read) in [
        ("9".repeat(4300), true),
        ("9".repeat(4301), false),
        ("9".repeat(1_000_000), false),
        (format!("0x{}", "f".repeat(3571)), true),
        (format!("0x{}", "f".repeat(3572)), true),
        (format!("-0x{}", "f".repeat(4_000_000)), true),
        (format!("0{}", "7".repeat(1_000_000)), true),
        (format!("0b{}", "1_0".repeat(1_000_000)), true),
        (format!("1{}", ":59".repeat(1000)), true),
        (format!("1{}", ":59".repeat(1_000_000)), false),
        (format!("1{}.5", ":59".repeat(1_000_000)), false),
    ] {
        let start = &body[..10];
        let Ok(value) = yaml.decode(body.as_bytes()) else {
            assert!(!is_read, "{start}");
            continue;
        };
        assert!(is_read && matches!(value, Value::BigInt(_)), "{start}");
        let written = yaml.encode(&value).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(yaml.decode(&written).ok().as_ref(), Some(&value), "{start}");
        assert_eq!(Value::from_json_text(&value.to_json_text()).ok(), Some(value), "{start}");
    }
}

#[test]
fn hostile_bodies_take_no_time_and_no_stack() {
    let yaml = Yaml::default();
    let anchors: String = (0..100_000).map(|n| format!("- &a{n} {{k{n}: [x, y]}}\n")).collect();
    // Each anchor is in another, and none is ever referred to.
    let nested: String = (0..90).map(|n| format!("&n{n} [")).collect();
    let bodies: [(&str, String, bool); 16] = [
        ("an anchor on everything", anchors, true),
        ("anchors within anchors", format!("{nested}{}{}", "x, ".repeat(500_000), "]".repeat(90)), true),
        ("a long string", format!("\"{}\"", "\\n".repeat(5_000_000)), true),
        ("many lines", "a\n".repeat(2_000_000), true),
        ("empty lines in quotes", format!("'{}'", "\n".repeat(5_000_000)), true),
        ("empty lines in a block scalar", format!("|+\n{}", "\n".repeat(5_000_000)), true),
        ("a long comment", format!("#{}\n1", " #".repeat(5_000_000)), true),
        ("spaces", " ".repeat(10_000_000), true),
        ("a key that is too long", format!("{}: 1", "k".repeat(10_000_000)), false),
        ("brackets that close", "]".repeat(1_000_000), false),
        ("commas", format!("[{}]", ",".repeat(1_000_000)), false),
        ("question marks", "? ".repeat(1_000_000), false),
        ("colons", ": ".repeat(1_000_000), false),
        ("tags", "!a ".repeat(1_000_000), false),
        ("escapes of a tag", format!("!{} x", "%41".repeat(1_000_000)), true),
        ("documents", "---\n".repeat(1_000_000), false),
    ];
    for (what, body, is_read) in bodies {
        let value = yaml.decode(body.as_bytes());
        assert_eq!(value.is_ok(), is_read, "{what}: {:?}", value.err());
    }
    for limits in [limits(|limits| limits.max_depth = usize::MAX)] {
        let (yaml, json) = (Yaml::with_limits(limits.clone()), Json::with_limits(limits));
        for open in ["[", "{a: ", "- ", "[a: ", "? ", "{? "] {
            assert!(yaml.decode(open.repeat(1_000_000).as_bytes()).is_err(), "{open}");
        }
        assert!(json.decode("[".repeat(1_000_000).as_bytes()).is_err());
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for codec in [&yaml as &dyn Codec, &json] {
            let value = codec.decode(deep.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
            assert!(codec.encode(&value).is_ok());
            assert_eq!(value.to_json_text(), deep);
            assert_eq!(Value::from_json_text(&deep).ok(), Some(value));
        }
    }
}

#[test]
fn a_json_text_means_the_same_alone_and_in_a_list() {
    for text in [
        "1e22",
        "18446744073709551617",
        "-0",
        "1E5",
        "1.50",
        "\"yes\"",
        "null",
        "true",
        "\"2024-02-30\"",
        "\"\\ud83d\\ude00\"",
        "\"=\"",
        "[]",
        "{\"$tuple\":[1e22]}",
        "{\"$timestamp\":\"2024-02-29\"}",
        "{\"<<\":1,\"=\":2}",
    ] {
        let alone = parse_text(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let listed = parse_text(format!("[{text}]").as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(listed, Value::List(vec![alone.clone()]), "{text}");
        let named =
            parse_text(format!(" {{\"n\": {text}}}\n").as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(named, Value::from_iter([("n", alone.clone())]), "{text}");
        let utf_16: Vec<u8> = format!("\u{feff}[{text}]").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(parse_text(&utf_16).ok(), Some(listed), "{text}");
        assert_eq!(parse_text(alone.to_json_text().as_bytes()).ok(), Some(alone), "{text}");
    }
    let integer = |text: &str| parse_text(text.as_bytes()).ok().and_then(|value| value.get("n").cloned());
    assert_eq!(integer("{\"n\": 18446744073709551617}"), integer("{n: 18446744073709551617}"));
    // What is JSON by its syntax is never read as YAML, where it would be something else.
    for text in
        ["1e400", "[1e400]", "\"\\ud800\"", "{\"$what\": 1}", "{\"$timestamp\": \"2024-02-30\"}", "{\"$bytes\": 1}"]
    {
        assert!(parse_text(text.as_bytes()).is_err(), "{text}");
    }
    for (text, expected) in
        [("yes", Value::Bool(true)), ("[1e22, x]", Value::List(vec!["1e22".into(), "x".into()])), ("", Value::Null)]
    {
        assert_eq!(parse_text(text.as_bytes()).ok(), Some(expected), "{text}");
    }
}

#[test]
fn json_text_keeps_the_order_of_keys() {
    let text = r#"{"z":1,"a":{"y":2,"b":3},"m":[{"$map":[[1,2],["x",{"q":1,"c":2}]]}]}"#;
    let value = Value::from_json_text(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(value.to_json_text(), text);
    let body = Yaml::default().encode(&value).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(Yaml::default().decode(&body).map(|value| value.to_json_text()).ok().as_deref(), Some(text));
    assert_eq!(format!("{value}"), text);
}

#[test]
fn what_is_read_at_a_limit_can_be_written() {
    let yaml = Yaml::with_limits(limits(|limits| (limits.max_depth, limits.max_nodes) = (6, 12)));
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
