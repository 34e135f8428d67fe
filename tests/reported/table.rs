//! The tables of `docs/faults.md`: each row names tests, and each of them is there.

use std::path::Path;

use crate::support::{Suite, TestResult};

pub(crate) fn add(suite: &mut Suite) {
    suite.plain("each_row_of_the_table_names_tests_that_are_there", each_row);
}

/// All Rust source of the repository in one string.
fn sources(folder: &Path, into: &mut String) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, into)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

fn each_row() -> TestResult {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = String::new();
    for folder in ["src", "tests", "cli", "crates"] {
        sources(&root.join(folder), &mut text)?;
    }
    let page = std::fs::read_to_string(root.join("docs/faults.md"))?;
    let mut rows = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| tests |")) {
        let tests = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test in: {row}");
        for name in names {
            let is_there = [format!("fn {name}("), format!("{name}\"")].iter().any(|place| text.contains(place));
            assert!(is_there, "{name} is not there: {row}");
        }
        rows += 1;
    }
    assert!(rows > 35, "{rows} rows");
    Ok(())
}
