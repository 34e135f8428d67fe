//! Every command block of README and docs is run, in its order, as a reader would type it; what is not this command is looked
//! for where it should be.

mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use shell::{Running, ended, homing, same_surroundings, text};
use support::{Broker, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.deadline(Duration::from_secs(240));
    suite
        .rabbitmq("every_command_in_the_documents_runs_in_its_order", |broker| documents(broker, Does::Run))
        .plain("every_command_in_the_documents_is_understood", || documents(&Broker::memory(), Does::Understand))
        .plain("every_other_line_in_the_documents_names_what_is_there", || documents(&Broker::memory(), Does::Look))
        .plain("a_block_is_read_as_a_shell_reads_it", reading);
    suite.run()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    Run,
    Understand,
    Look,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// README, docs and the first lines of the examples.
fn sources() -> Vec<PathBuf> {
    let root = root();
    let mut all = vec![root.join("README.md"), root.join("benches/README.md")];
    for (directory, extension) in [("docs", "md"), ("examples/src/bin", "rs")] {
        let mut found: Vec<PathBuf> = fs::read_dir(root.join(directory))
            .unwrap_or_else(|error| panic!("{directory}: {error}"))
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|known| known == extension))
            .collect();
        found.sort();
        all.extend(found);
    }
    all
}

/// Which lines of a block are commands.
#[derive(Clone, Copy)]
enum Lines {
    All,
    /// Those of this command: the block may be a picture.
    Own,
    None,
}

/// The command lines of each block, without comments.
fn blocks(document: &str) -> Vec<Vec<String>> {
    let mut blocks = Vec::new();
    let mut block: Option<(Lines, Vec<String>)> = None;
    for line in document.lines() {
        let line = line.strip_prefix("//!").map_or(line, |rest| rest.strip_prefix(' ').unwrap_or(rest));
        match (line.trim().strip_prefix("```"), &mut block) {
            (Some(language), None) => {
                let lines = match language.split([',', ' ']).next() {
                    Some("sh" | "bash" | "shell" | "console") => Lines::All,
                    Some("text" | "") => Lines::Own,
                    _ => Lines::None,
                };
                block = Some((lines, Vec::new()));
            }
            (Some(_), Some((_, lines))) => {
                if !lines.is_empty() {
                    blocks.push(std::mem::take(lines));
                }
                block = None;
            }
            (None, Some((which, lines))) => {
                let command = without_comment(line.trim().trim_start_matches("$ ")).trim();
                let is_command = match which {
                    Lines::All => !command.is_empty(),
                    Lines::Own => command.starts_with("homing "),
                    Lines::None => false,
                };
                if is_command {
                    lines.push(command.to_owned());
                }
            }
            (None, None) => {}
        }
    }
    blocks
}

/// The commands within sentences: what stands between two backticks, on one line.
fn inline(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in document.lines() {
        let line = line.strip_prefix("//!").unwrap_or(line);
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(
                line.split('`').skip(1).step_by(2).filter(|text| text.starts_with("homing ")).map(str::to_owned),
            );
        }
    }
    found
}

/// A command as it stands in a sentence. A name alone, or one that is cut short or leaves a number open, is asked for its help.
fn in_full(command: &str) -> String {
    const NAMES_ONLY: usize = 3;
    let words: Vec<&str> = command.split_whitespace().collect();
    let is_open = |word: &&str| *word == "…" || (word.len() <= 2 && word.chars().all(|c| c.is_ascii_uppercase()));
    let is_helped = command.ends_with("--help") || command.starts_with("homing help");
    if is_helped || (words.len() > NAMES_ONLY && !words.iter().any(is_open)) {
        return command.to_owned();
    }
    let names: Vec<&str> = words.into_iter().take_while(|word| !word.starts_with('-') && !is_open(word)).collect();
    format!("{} --help", names.join(" "))
}

/// The line up to a `#` that begins a word outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        match (quote, character) {
            (None, '#') if before.is_whitespace() => return &line[..at],
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if open == character => quote = None,
            _ => {}
        }
        before = character;
    }
    line
}

fn reading() {
    let document = "```text\nhoming demo    # no broker\n┌──┐\n```\n\n```sh\n$ cargo run -- demo\n# only words\n```\n```toml\nhoming = \"1\"\n```";
    assert_eq!(blocks(document), [vec!["homing demo"], vec!["cargo run -- demo"]]);
    assert_eq!(without_comment("homing rpc call x '{a: \"#1\"}' # why"), "homing rpc call x '{a: \"#1\"}' ");
    assert_eq!(without_comment("a#b"), "a#b");
    let sentences = "`homing demo` and `x`:\n```sh\n`homing no`\n```\n//! then `homing rpc call x 1`.";
    assert_eq!(inline(sentences), ["homing demo", "homing rpc call x 1"]);
    assert_eq!(in_full("homing rpc call x 1"), "homing rpc call x 1");
    assert_eq!(in_full("homing stress --seed-fault …"), "homing stress --help");
    assert_eq!(in_full("homing worker --workers N"), "homing worker --help");
}

/// Where the commands find what they name: a script to run, a file of bodies, `jq`.
fn surroundings() -> PathBuf {
    let directory = std::env::temp_dir().join(support::unique("documents"));
    fs::create_dir_all(&directory).expect("a directory");
    let script = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    };
    script("do-one", "cat");
    // It is not everywhere, and what it does is not the matter here.
    script("jq", "cat");
    script("make", "echo made");
    script("simulate", "echo simulated");
    fs::write(directory.join("jobs.txt"), "{job: 1}\n{job: 2}\n").expect("written");
    fs::write(directory.join("ada.password"), "not to be guessed\n").expect("written");
    directory
}

fn documents(broker: &Broker, does: Does) -> TestResult {
    let directory = surroundings();
    let mut run = 0;
    for source in sources() {
        let name = source.strip_prefix(root())?.display().to_string();
        let document = fs::read_to_string(&source)?;
        if does == Does::Understand {
            for line in inline(&document) {
                for command in own(&line).iter().filter(|command| !needs_a_process(command)) {
                    understood(&directory, &name, &in_full(command))?;
                }
            }
        }
        // Those that run until they are told to end: a later block is another shell, beside which they go on.
        let mut background = Vec::new();
        for block in blocks(&document) {
            for line in &block {
                let commands = own(line);
                if does == Does::Look {
                    if commands.is_empty() {
                        look(&name, line);
                    }
                    continue;
                }
                for command in commands {
                    match does {
                        Does::Understand => understood(&directory, &name, &command)?,
                        _ if needs_a_process(&command) || takes_a_known_port(&command) || moves_away(&command) => {
                            continue;
                        }
                        _ => start(broker, &directory, &name, &command, &mut background)?,
                    }
                    run += 1;
                }
            }
        }
    }
    fs::remove_dir_all(directory)?;
    assert!(does == Does::Look || run > 15, "{run} commands were found");
    Ok(())
}

/// The line as lines of this command, if it is of that.
fn own(line: &str) -> Vec<String> {
    if let Some((_, arguments)) = line.strip_prefix("cargo run").and_then(|rest| rest.split_once(" -- ")) {
        return vec![format!("homing {arguments}")];
    }
    if !line.starts_with("homing ") {
        return Vec::new();
    }
    let mut all = Vec::new();
    // `homing completions SHELL, homing man`: two.
    for line in line.split(", homing ").map(|line| line.trim_start_matches("homing ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let is_choice = |word: &&str| word.contains('|') && *word != "|" && !word.starts_with(['\'', '"']);
        let is_placeholder = |word: &&str| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        match (words.iter().find(|word| is_choice(word)), words.iter().find(|word| is_placeholder(word))) {
            // `homing context add|use|list`: each is there.
            (Some(choice), _) => {
                all.extend(choice.split('|').map(|one| format!("homing {} --help", line.replace(*choice, one))));
            }
            // It takes a command, and no `--help`.
            (None, Some(_)) if line.starts_with("help ") => all.push("homing help task send".to_owned()),
            (None, Some(placeholder)) => all.push(format!("homing {} --help", line.replace(*placeholder, ""))),
            (None, None) => all.push(format!("homing {line}")),
        }
    }
    all
}

/// A view needs a terminal, and there is none here: one frame of it.
fn without_a_terminal(line: &str) -> String {
    let is_view =
        line.split_whitespace().any(|word| word == "top") && !line.contains("--once") && !line.contains("--help");
    if is_view { format!("{line} --once") } else { line.to_owned() }
}

/// There is none here, and `--aiida` reads AiiDA's own configuration.
fn needs_a_process(line: &str) -> bool {
    line.contains(" process ") || line.contains("--aiida")
}

/// Somebody may have it. cli/tests/broker.rs runs one on a free port.
fn takes_a_known_port(line: &str) -> bool {
    line.starts_with("homing broker run")
}

/// It names a server of somebody's. cli/tests/moving does it.
fn moves_away(line: &str) -> bool {
    line.starts_with("homing broker move")
}

/// A line, as the shell runs it. A command that stays gets its signals itself.
fn shell(directory: &Path, line: &str, stays: bool) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{}{line}", if stays { "exec " } else { "" })]).current_dir(directory);
    let own = Path::new(env!("CARGO_BIN_EXE_homing")).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{}:{path}", own.display(), directory.display()));
    same_surroundings(&homing(&[]), &mut command);
    command.env("HOMING_STORE", directory.join("processes.db")).env("XDG_DATA_HOME", directory).stdin(Stdio::null());
    command
}

/// A line is one that the command takes, whatever comes of it: nobody listens there.
fn understood(directory: &Path, document: &str, line: &str) -> TestResult {
    // What takes its time.
    let takes_time = ["homing demo", "homing stress", "homing broker"].iter().any(|command| line.starts_with(command))
        || (line.contains("local:") && !line.contains(" context "));
    let help = if takes_time { " --help" } else { "" };
    let line = format!("{}{help}", line.replace(" --aiida", "").trim_end_matches(['&', ' ']));
    let line = without_a_terminal(&line);
    let mut command = shell(directory, &line, false);
    command.env("HOMING_BROKER", "amqp://127.0.0.1:1").env("HOMING_CONFIG", directory.join("config.toml"));
    let output = ended(command)?;
    let err = text(&output.stderr);
    assert!(output.status.code().is_some_and(|code| code != 2), "{document}: {line}: {err}");
    Ok(())
}

/// Runs a line by the shell, to its end or until its document ends.
fn start(broker: &Broker, directory: &Path, document: &str, line: &str, background: &mut Vec<Running>) -> TestResult {
    let line = &without_a_terminal(line.trim_end_matches(['&', ' ']));
    let stays = ["homing rpc serve", "homing task work", "homing broadcast watch", "homing events", "homing worker --"];
    let stays = stays.iter().any(|command| line.starts_with(command)) && !line.ends_with("--help");
    let mut command = shell(directory, line, stays);
    command.env("HOMING_BROKER", broker.url()).env("HOMING_PREFIX", broker.prefix());
    if stays {
        let started = Running::start(command).map_err(|error| format!("{document}: {line}: {error}"))?;
        background.push(started);
        return Ok(());
    }
    let output = ended(command)?;
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{document}: `{line}` exits with {}\nout: {out}\nerr: {err}", output.status);
    Ok(())
}

/// A line that is not this command: what it names has to be there.
#[track_caller]
fn look(document: &str, line: &str) {
    let root = root();
    let after = |option: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != option);
        words.nth(1).map(str::to_owned)
    };
    let is_there = |path: PathBuf| assert!(path.exists(), "{document}: `{line}`: {} is not there", path.display());
    // Assignments before a command.
    let command = line.split_whitespace().find(|word| !word.contains('=')).unwrap_or_default();
    match command {
        "cargo" => {
            let package = if after("-p").as_deref() == Some("homing-broker") { "crates/broker" } else { "" };
            let manifest = fs::read_to_string(root.join(package).join("Cargo.toml")).expect("the manifest");
            for (option, directory) in [("--bench", "benches"), ("--test", "tests")] {
                if let Some(name) = after(option) {
                    let named = manifest.contains(&format!("name = \"{name}\""));
                    let file = root.join(directory).join(format!("{name}.rs"));
                    let of_home = root.join("crates/home/tests").join(format!("{name}.rs"));
                    assert!(named || file.exists() || of_home.exists(), "{document}: `{line}`: no {option} {name}");
                }
            }
            if let Some(name) = after("--bin") {
                is_there(root.join("examples/src/bin").join(format!("{name}.rs")));
            }
            if let Some(path) = after("--path") {
                is_there(root.join(path).join("Cargo.toml"));
            }
        }
        python if python.ends_with("/bin/python") => is_there(root.join(after(python).unwrap_or_default())),
        script if ["tests/", "loom-tests/", "python/"].iter().any(|folder| script.starts_with(folder)) => {
            is_there(root.join(script));
        }
        // Of others.
        "cd" | "curl" | "docker" | "git" => {}
        _ => panic!("{document}: `{line}`: say in cli/tests/documents.rs how this is run"),
    }
}
