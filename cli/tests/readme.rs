//! Every command line of the README and of docs is one that the command understands.

use std::path::Path;

mod shell;

use shell::{ended, homing};

/// The words of a command line, up to a comment, a redirection or an ampersand.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            '#' | '<' | '&' if !quoted => break,
            ' ' if !quoted => words.push(String::new()),
            character => words.last_mut().expect("one").push(character),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_line_of_the_pages_is_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut commands = 0;
    for page in ["README.md", "docs/kiwipy.md", "docs/processes.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect(page);
        let blocks = text.split("```text\n").skip(1).filter_map(|block| block.split_once("```"));
        for line in blocks.flat_map(|(block, _)| block.lines()).filter(|line| line.starts_with("homing ")) {
            let mut arguments = words(line);
            arguments.remove(0);
            // It reads AiiDA's own configuration.
            arguments.retain(|argument| argument != "--aiida");
            // What takes its time, or asks for a terminal.
            if ["stress", "demo"].contains(&arguments[0].as_str()) {
                arguments.push("--help".to_owned());
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = homing(&arguments);
            // Nobody listens there.
            command.env("HOMING_BROKER", "amqp://127.0.0.1:1").env("HOMING_CONFIG", "/nonexistent/config.toml");
            let output = ended(command).expect(line);
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code().is_some_and(|code| code != 2), "{page}: {line}: {err}");
            commands += 1;
        }
    }
    assert!(commands > 15, "{commands} commands");
}
