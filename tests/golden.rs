//! The captured messages of kiwipy, plumpy and AiiDA's kind (`tests/wire`), by value.
//!
//! The expectations were made by PyYAML (`tests/wire/forms.py`), never by our own encoder.

use base64::Engine;
use homing::Value;
use homing::codec::{Codec, Limits, Yaml};

const CAPTURED: &str = include_str!("wire/kiwipy-plumpy.ndjson");
const EXPECTED: &str = include_str!("wire/expected.ndjson");

fn pairs() -> Vec<(serde_json::Value, Vec<u8>, Value)> {
    let captured = CAPTURED.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let expected = EXPECTED.lines().map(|line| Value::from_json(&serde_json::from_str(line).unwrap()).unwrap());
    let pairs = captured.zip(expected).map(|(message, expected)| {
        let body = message["body_base64"].as_str().unwrap();
        let body = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
        (message, body, expected)
    });
    pairs.collect()
}

#[test]
fn every_captured_body_is_read_as_pyyaml_reads_it() {
    let pairs = pairs();
    assert_eq!(pairs.len(), 220);
    assert_eq!(EXPECTED.lines().count(), 220);
    for (message, body, expected) in pairs {
        let value = Yaml::default().decode(&body).unwrap();
        assert_eq!(value, expected, "{}", message["label"]);
    }
}

#[test]
fn every_captured_value_is_written_and_read_back_the_same() {
    for (message, _, expected) in pairs() {
        let body = Yaml::default().encode(&expected).unwrap();
        assert_eq!(Yaml::default().decode(&body).unwrap(), expected, "{}", message["label"]);
    }
}

#[test]
fn a_billion_laughs_are_an_error_in_no_time() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..12 {
        let list = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    let error = Yaml::default().decode(bomb.as_bytes()).unwrap_err();
    assert_eq!(error.kind(), homing::ErrorKind::Decode);
    assert!(error.to_string().contains("aliases"), "{error}");
}

#[test]
fn a_body_nested_a_million_deep_is_an_error_and_no_crash() {
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("? ", ""), ("- ", ""), ("!!python/tuple [", "]")] {
        let body = format!("{}{}", open.repeat(1_000_000), close.repeat(1_000_000));
        let error = Yaml::default().decode(body.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), homing::ErrorKind::Decode, "{open}");
    }
}

#[test]
fn limits_are_kept_and_named() {
    let mut small = Limits::default();
    (small.max_bytes, small.max_depth, small.max_nodes, small.max_aliases) = (100, 5, 20, 2);
    let yaml = Yaml::with_limits(small);
    for (body, wanted) in [
        ("x".repeat(101), "100"),
        ("[[[[[[1]]]]]]".to_owned(), "deep"),
        (format!("[{}]", "1,".repeat(30)), "20"),
        ("[&a 1, *a, *a, *a]".to_owned(), "2 aliases"),
    ] {
        let error = yaml.decode(body.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn what_is_no_body_is_an_error_that_repeats_nothing_of_it() {
    for body in [
        &b"\xff\xfea"[..],
        b"\xc3\x28 sEcret",
        b"{sEcret",
        b"[sEcret",
        b"\"sEcret",
        b"a: b: sEcret",
        b"*sEcret",
        b"&a [*a]",
        b"!!int sEcret",
        b"!!binary sEcret!",
        b"!!timestamp sEcret",
        b"? [sEcret]\n: 1\n",
        b"--- 1\n--- sEcret\n",
        b"<<: sEcret",
        b"%sEcret\n---\n1",
        b"!<sEcret",
    ] {
        match Yaml::default().decode(body) {
            Err(error) => {
                assert_eq!(error.kind(), homing::ErrorKind::Decode);
                assert!(!format!("{error} {error:?}").contains("Ecret"), "{error:?}");
            }
            Ok(value) => assert!(body.starts_with(b"%"), "{} was read as {value}", String::from_utf8_lossy(body)),
        }
    }
}

#[test]
fn random_bytes_are_never_a_panic() {
    let seed = std::env::var("HOMING_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    println!("HOMING_TEST_SEED={seed}");
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let bodies: Vec<Vec<u8>> = pairs().into_iter().map(|(_, body, _)| body).collect();
    let odd = b"{}[]:,-?*&!|>'\"%@`#~\n \t<=01e.\\\xc3\xff";
    for _ in 0..20_000 {
        let mut body = bodies[next() % bodies.len()].clone();
        for _ in 0..=next() % 4 {
            let at = next() % (body.len() + 1);
            match next() % 3 {
                0 if at < body.len() => body[at] = odd[next() % odd.len()],
                1 => body.insert(at, odd[next() % odd.len()]),
                _ => body.truncate(at),
            }
        }
        if let Ok(value) = Yaml::default().decode(&body) {
            let again = Yaml::default().encode(&value).unwrap();
            assert_eq!(Yaml::default().decode(&again).unwrap(), value, "{}", String::from_utf8_lossy(&body));
        }
    }
}
