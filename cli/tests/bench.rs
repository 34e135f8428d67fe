//! `homing bench`: that its numbers are numbers, over a broker in the process and over RabbitMQ, and what it says to wrong
//! input. No time is asserted.

use std::process::{Command, Output, Stdio};

fn bench(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_homing"))
        .arg("bench")
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("HOMING_BROKER")
        .env_remove("RUST_LOG")
        .output()
        .expect("the command starts");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into_owned())
}

const WORKS: [&str; 6] = [
    "RPC, one at a time",
    "RPC, 100 in flight",
    "RPC, 1000 in flight",
    "task publish, confirmed",
    "task, sent and answered",
    "broadcast publish, confirmed",
];

fn numbers_are_numbers(broker: &str, limits: &[&str]) {
    let (code, out, err) = bench(&["--broker", broker, "--seconds", "0.2", "--format", "json"]);
    assert_eq!(code, Some(0), "{err}");
    // The bar is for terminals.
    assert_eq!(err, "");
    let rows: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let works: Vec<&str> = rows.iter().filter_map(|row| row["work"].as_str()).collect();
    assert_eq!(works, WORKS);
    for row in &rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} of {row}"));
        assert!(number("per_second") > 0.0, "{row}");
        assert!(number("p50_us") > 0.0 && number("p50_us") <= number("p99_us"), "{row}");
        assert!(number("cpu_us") > 0.0, "{row}");
        assert!(row["limited_by"].as_str().is_some_and(|limit| limits.contains(&limit)), "{row}");
    }
    // By the law of Little: rate times latency is what was under way, roughly.
    let in_flight = rows[2]["per_second"].as_f64().unwrap_or(0.0) * rows[2]["p50_us"].as_f64().unwrap_or(0.0) / 1e6;
    assert!((100.0..10_000.0).contains(&in_flight), "{in_flight} under way instead of 1000: {}", rows[2]);
}

#[test]
fn a_broker_in_the_process_is_measured() {
    numbers_are_numbers("memory:", &["client"]);
}

#[test]
fn rabbitmq_is_measured() {
    match std::env::var("HOMING_TEST_AMQP") {
        Ok(broker) => numbers_are_numbers(&broker, &["client", "network", "broker"]),
        Err(_) if std::env::var_os("HOMING_TEST_REQUIRE").is_some() => panic!("HOMING_TEST_AMQP is not set"),
        Err(_) => eprintln!("skipped: HOMING_TEST_AMQP is not set"),
    }
}

#[test]
fn the_table_names_every_work_and_what_limits_it() {
    let (code, out, err) = bench(&["--broker", "memory:", "--seconds", "0.1"]);
    assert_eq!(code, Some(0), "{err}");
    for work in WORKS {
        let row = out.lines().find(|line| line.starts_with(work)).unwrap_or_else(|| panic!("no {work:?} in\n{out}"));
        assert!(row.contains("client ("), "{row}");
    }
}

#[test]
fn wrong_input_says_what_is_wrong() {
    for (arguments, code, said) in [
        (&["--seconds", "0"][..], 2, "a number of seconds over 0"),
        (&["--seconds", "soon"], 2, "a number of seconds"),
        (&["--prefix", "aiida-x"], 2, "names of its own"),
        (&["--broker", "amqp://guest:secret@127.0.0.1:1/"], 6, "nothing listens at 127.0.0.1:1"),
        (&["--broker", "http://x"], 2, "amqp"),
    ] {
        let (ended, _, err) = bench(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: {err}");
        assert!(!err.contains("secret"), "{err}");
    }
}
