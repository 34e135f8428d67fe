//! A short run of pika against the server. Without a Python that has pika there is nothing to run, unless it is required.

use crate::server;
use std::path::PathBuf;
use std::process::Command;

#[test]
fn pika_finds_what_it_expects() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python =
        std::env::var_os("HOMING_TEST_PYTHON").map_or_else(|| root.join("tests/.venv/bin/python"), PathBuf::from);
    let has_pika =
        Command::new(&python).args(["-c", "import pika"]).output().is_ok_and(|output| output.status.success());
    if !has_pika {
        assert!(std::env::var_os("HOMING_TEST_REQUIRE").is_none(), "pika is required: see CONTRIBUTING.md");
        return;
    }
    let (_server, address) = server();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/server/pika_client.py");
    let output = Command::new(python).arg(script).arg(address.port().to_string()).output().expect("it runs");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
