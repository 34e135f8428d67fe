//! Clients of others against the server, by short programs of ours: pika, Celery, dramatiq. Without a Python that has them there is
//! nothing to run, unless it is required.

use crate::server;
use std::path::PathBuf;
use std::process::Command;

/// Runs a program that needs a module, with the port of a server of its own.
fn run(module: &str, program: &str) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python =
        std::env::var_os("HOMING_TEST_PYTHON").map_or_else(|| root.join("tests/.venv/bin/python"), PathBuf::from);
    let import = format!("import {module}");
    let is_there = Command::new(&python).args(["-c", &import]).output().is_ok_and(|output| output.status.success());
    if !is_there {
        assert!(std::env::var_os("HOMING_TEST_REQUIRE").is_none(), "{module} is required: see CONTRIBUTING.md");
        return;
    }
    let (_server, address) = server();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/server").join(program);
    let mut command = Command::new(python);
    let output = command.args(["-W", "ignore"]).arg(script).arg(address.port().to_string()).output();
    let output = output.expect("it runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn pika_finds_what_it_expects() {
    run("pika", "pika_client.py");
}

#[test]
fn celery_has_its_results_retries_chords_and_the_tasks_of_a_killed_worker() {
    run("celery", "celery_client.py");
}

#[test]
fn dramatiq_has_its_retries_delays_priorities_and_dead_letters() {
    run("dramatiq", "dramatiq_client.py");
}
