//! The README's example, copied as a user would copy it: its `Cargo.toml` and its `main.rs` make a program.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The first block of this language behind a line that contains this.
fn block<'a>(page: &'a str, behind: &str, language: &str) -> &'a str {
    let (_, rest) = page.split_once(behind).unwrap_or_else(|| panic!("no {behind}"));
    let (_, rest) = rest.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language}"));
    rest.split_once("```").unwrap_or_else(|| panic!("{behind} has no end")).0
}

/// Checks a program as a user would: in a package of its own, which depends on what the README names.
fn checked(package: &str, program: &str) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("README.md")).unwrap();
    let dependencies = block(&page, "`Cargo.toml`:", "toml");
    assert!(dependencies.contains("path = \"../homing\""), "{dependencies}");
    let here = dependencies.replace("../homing", root.to_str().unwrap());
    // Guards: two packages of one name in one target folder, of which cargo takes what it has of one for the other's.
    let head = format!("[package]\nname = \"{package}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n");
    let package = root.join("target/readme").join(package);
    std::fs::create_dir_all(package.join("src")).unwrap();
    std::fs::write(package.join("Cargo.toml"), format!("{head}{here}")).unwrap();
    std::fs::write(package.join("src/main.rs"), program).unwrap();
    // The versions that are there, so that nothing has to be fetched.
    std::fs::copy(root.join("Cargo.lock"), package.join("Cargo.lock")).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["check", "--offline", "--quiet"]).current_dir(&package).stdin(Stdio::null());
    cargo.env("CARGO_TARGET_DIR", root.join("target/readme/target")).env("RUSTFLAGS", "-D warnings");
    cargo.output().unwrap()
}

#[test]
fn the_example_is_a_program_when_it_is_copied_in_full() {
    let page = include_str!("../README.md");
    let output = checked("copied", block(page, "`src/main.rs`:", "rust"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A type that serde knows is the most likely one to be returned where it cannot be.
#[test]
fn the_compiler_explains_what_a_handler_may_return() {
    let program = |handler: &str| {
        format!(
            "struct Own;\nfn main() {{\n    drop(homing::RpcSubscriber::future(|_: homing::RpcRequest| async {{ {handler} }}));\n}}\n"
        )
    };
    for handler in ["Own", "std::io::Result::Ok(Own)"] {
        let output = checked("wrong", &program(handler));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains("a handler cannot return"), "{handler}: {error}");
        assert!(error.contains("`Answer::of(&value)`") && error.contains("RpcSubscriber::typed"), "{handler}: {error}");
    }
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
fn each_feature_is_named_where_a_user_looks_for_it() {
    let manifest = include_str!("../Cargo.toml");
    let (_, features) = manifest.split_once("\n[features]\n").expect("features");
    let features = features.split("\n[").next().unwrap_or_default();
    let names = features.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).filter(|name| *name != "default");
    let readme = include_str!("../README.md");
    let (_, listed) = readme.split_once("features: ").expect("the list of the README");
    let listed: Vec<&str> = listed.lines().next().unwrap_or_default().split(", ").collect();
    let (_, guide) = include_str!("../src/guide.md").split_once("# Features").expect("the list of the guide");
    let mut known = 0;
    for name in names {
        assert!(listed.iter().any(|one| one.split(' ').next() == Some(name)), "{name} is not in README.md: {listed:?}");
        assert!(guide.contains(&format!("\n- `{name}`")), "{name} is not in src/guide.md");
        known += 1;
    }
    assert!(known > 5, "{known}");
}

/// rustdoc hides such lines; elsewhere they are shown, and no program when they are copied.
#[test]
fn no_example_of_a_page_has_lines_that_only_rustdoc_hides() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("benches/README.md")];
    pages.extend(std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for page in pages.into_iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(&page).unwrap();
        for block in text.split("\n```rust").skip(1).filter_map(|rest| rest.split_once("\n```")) {
            let hidden = block.0.lines().find(|line| *line == "#" || line.starts_with("# "));
            assert_eq!(hidden, None, "{}", page.display());
        }
    }
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
        "docs/python.md",
        "docs/python-binding.md",
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
