//! The README's example, copied as a user would copy it: its `Cargo.toml` and its `main.rs` make a program.

use std::path::Path;
use std::process::{Command, Stdio};

/// The first block of this language behind a line that contains this.
fn block<'a>(page: &'a str, behind: &str, language: &str) -> &'a str {
    let (_, rest) = page.split_once(behind).unwrap_or_else(|| panic!("no {behind}"));
    let (_, rest) = rest.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language}"));
    rest.split_once("```").unwrap_or_else(|| panic!("{behind} has no end")).0
}

#[test]
fn the_example_is_a_program_when_it_is_copied_in_full() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("README.md")).unwrap();
    let dependencies = block(&page, "`Cargo.toml`:", "toml");
    assert!(dependencies.contains("path = \"../homing\""), "{dependencies}");
    let here = dependencies.replace("../homing", root.to_str().unwrap());
    let package = root.join("target/readme");
    std::fs::create_dir_all(package.join("src")).unwrap();
    let head = "[package]\nname = \"copied\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n";
    std::fs::write(package.join("Cargo.toml"), format!("{head}{here}")).unwrap();
    std::fs::write(package.join("src/main.rs"), block(&page, "`src/main.rs`:", "rust")).unwrap();
    // The versions that are there, so that nothing has to be fetched.
    std::fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--offline", "--quiet"]).current_dir(&package).stdin(Stdio::null());
    cargo.env("CARGO_TARGET_DIR", package.join("target")).env("RUSTFLAGS", "-D warnings");
    let output = cargo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn there_are_exactly_two_commands_to_set_it_up() {
    let page = include_str!("../README.md");
    let commands: Vec<&str> = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| block.split_once("```"))
        .map(|(block, _)| block.trim())
        .collect();
    assert_eq!(commands, ["cargo run --release -- demo", "tests/run"]);
}

#[test]
fn the_pages_that_it_links_to_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/kiwipy.md",
        "docs/proof.md",
        "docs/processes.md",
        "docs/faults.md",
        "docs/wire.md",
        "docs/architecture.md",
    ] {
        let text = std::fs::read_to_string(root.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let folder = root.join(page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let link = link.split('#').next().unwrap_or_default();
            if !link.is_empty() && !link.starts_with("http") {
                assert!(folder.with_file_name("").join(link).exists(), "{page} links to {link}");
            }
        }
    }
}
