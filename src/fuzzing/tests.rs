//! Every input that a fuzzer has once found something with, kept in `tests/fuzz-cases/<target>`, and a small fuzzer of our
//! own for every day: no nightly compiler, no coverage, some thousand inputs.

use std::path::Path;

use base64::Engine;

/// The name of a target, and what it does with an input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] =
    [("yaml", super::yaml), ("reply", super::reply), ("task", super::task), ("url", super::url)];

#[test]
fn what_was_found_once_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz-cases");
    let mut tried = 0;
    for (name, target) in TARGETS {
        let Ok(folder) = std::fs::read_dir(root.join(name)) else { continue };
        for case in folder {
            let path = case.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            tried += 1;
        }
    }
    assert!(tried > 0, "no case in {}", root.display());
}

#[test]
fn captured_messages_with_a_few_changes_break_nothing() {
    let seed = std::env::var("HOMING_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("HOMING_TEST_SEED={seed}");
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap()
    };
    let captured = include_str!("../../tests/wire/kiwipy-plumpy.ndjson").lines().map(|line| {
        let message = serde_json::from_str::<serde_json::Value>(line).unwrap();
        base64::engine::general_purpose::STANDARD.decode(message["body_base64"].as_str().unwrap()).unwrap()
    });
    let bodies: Vec<Vec<u8>> = captured.collect();
    let urls =
        ["amqp://u:p@h:5672/v?heartbeat=60&timeout=2.5", "amqps://[::1]/%2F?cacertfile=a&frame_max=4096", "memory:x"];
    let pieces: Vec<&[u8]> =
        "&a |*a|[|]|{|}|: |, |? |- |!!python/tuple |!x |!!binary |<<: |\n|\"|'|~|1e+5|0x1|1:30|2020-01-01|\
                              .nan|%|%2F|@|:|/|?|=|\u{2028}|\\L|#|>-\n"
            .split('|')
            .map(str::as_bytes)
            .collect();
    for round in 0..6000 {
        let (_, target) = TARGETS[round % TARGETS.len()];
        let mut input = if round % 4 == 3 {
            urls[next() % urls.len()].as_bytes().to_vec()
        } else {
            bodies[next() % bodies.len()].clone()
        };
        for _ in 0..=next() % 5 {
            let at = next() % (input.len() + 1);
            match next() % 5 {
                0 => input.truncate(at),
                1 => drop(input.drain(at..(at + next() % 8).min(input.len()))),
                2 if at < input.len() => input[at] ^= 1 << (next() % 8),
                _ => drop(input.splice(at..at, pieces[next() % pieces.len()].iter().copied())),
            }
        }
        let shown = input.clone();
        let held = std::panic::catch_unwind(|| target(&input));
        assert!(held.is_ok(), "round {round}: {:?}", String::from_utf8_lossy(&shown));
    }
}
