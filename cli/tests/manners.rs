//! The command among others: pipes whose reader goes, full disks, signals, time limits, surroundings, contexts.

#[path = "shell/pty.rs"]
mod pty;
mod shell;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use pty::Pty;
use serde_json::Value;
use shell::{LONG, Running, ended, eventually, exits, homing, same_surroundings, signal, text, wait};
use support::{Broker, Suite, TestResult};

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .plain("a_reader_that_goes_ends_a_command_quietly", reader_gone)
        .plain("lines_that_cannot_be_read_are_one_error", unread_lines)
        .plain("a_full_disk_is_an_error_without_a_panic", disk_full)
        .plain("standard_error_that_nobody_reads_is_no_panic", stderr_gone)
        .plain("ctrl_c_ends_what_connects_to_a_silent_peer", interrupted_connecting)
        .plain("ctrl_c_ends_a_read_of_standard_input", interrupted_reading)
        .plain("ctrl_c_ends_stress_and_what_writes_into_a_full_pipe", interrupted_writing)
        .plain("a_time_limit_covers_connecting_and_reports_that_nothing_was_sent", limit_connecting)
        .plain("an_error_as_json_is_one_object_with_kind_message_and_hint", errors_as_json)
        .plain("a_usage_error_as_json_is_whole", usage_as_json)
        .plain("each_line_of_standard_error_is_an_object_where_json_is_asked_for", lines_as_json)
        .plain("the_demo_warns_of_nothing_and_knows_where_it_runs", demo_calm)
        .plain("a_password_command_is_within_the_time_limit", slow_password)
        .plain("a_password_command_ends_with_what_it_has_started_when_the_command_ends", password_ends)
        .plain("a_wrong_time_is_named_before_anything_is_connected", wrong_times)
        .plain("an_option_that_would_do_nothing_is_refused", refused_options)
        .plain("the_help_is_wrapped_once", help_wrapped)
        .plain("demo_and_stress_print_json_and_ignore_the_broker_of_the_surroundings", json_and_surroundings)
        .plain("an_empty_broker_or_prefix_is_wrong_usage", empty_variables)
        .plain("a_name_that_is_empty_is_wrong_usage", empty_names)
        .plain("a_mistyped_command_names_the_one_that_was_meant", mistyped)
        .plain("what_looks_like_an_option_is_no_body", options_and_bodies)
        .plain("no_colours_where_nobody_sees_them", colours)
        .plain("completions_and_manual_pages_are_printed", completions)
        .plain("contexts_are_kept_and_show_no_password", contexts)
        .plain("help_has_groups_and_warns_of_yaml", help)
        .plain("a_command_that_is_advised_has_the_broker_and_the_names_of_this_one", advised_commands)
        .rabbitmq("a_body_may_be_left_out", no_body)
        .rabbitmq("a_time_limit_reports_that_the_message_was_sent", limit_sent)
        .rabbitmq("a_send_to_a_queue_that_nobody_uses_is_reported", unused_queue)
        .rabbitmq("a_watch_ends_with_its_reader_and_its_records_are_separated", watch)
        .rabbitmq("a_watch_is_interrupted_with_130", watch_interrupted)
        .rabbitmq("globs_are_globs", globs)
        .rabbitmq("a_context_and_a_prefix_of_the_surroundings_are_used", surroundings)
        .rabbitmq("many_lines_are_sent_and_answered_in_their_order", lines)
        .rabbitmq("a_task_is_sent_many_times", count)
        .rabbitmq("a_task_may_be_held_back", held_back)
        .rabbitmq("a_task_with_a_key_is_sent_once", once)
        .rabbitmq("events_are_printed", events)
        .rabbitmq("a_task_that_is_only_sent_is_not_counted_as_done", sent_only)
        .rabbitmq("a_broker_that_goes_while_a_server_starts_is_waited_for", lost_while_starting)
        .rabbitmq("an_error_comes_before_the_advice_and_keeps_the_options", advice)
        .rabbitmq("each_message_has_a_line_where_all_are_asked_for", message_lines)
        .rabbitmq("workers_answer_a_ping", ping);
    suite.run()
}

fn empty_names() -> TestResult {
    // Nothing is connected for it.
    let broker = ["--broker", "amqp://127.0.0.1:1"];
    for arguments in [
        &["rpc", "call", ""][..],
        &["rpc", "serve", "", "--exec", "cat"],
        &["task", "list", "--queue", ""],
        &["task", "purge", "--queue", "", "--all"],
        &["task", "requeue", "--queue", "", "--all"],
        &["task", "move", "--to", "", "--all"],
        &["--task-queue", "", "task", "send", "1"],
        &["process", "status", ""],
        &["process", "kill", ""],
        &["broker", "user", "add", ""],
        &["broker", "vhost", "add", ""],
        &["context", "add", "", "--broker", "local:"],
        &["top", "--once", "--queue", ""],
    ] {
        let (_, err) = exits(&ended(homing(&[&broker[..], arguments].concat()))?, 2);
        assert!(err.contains("empty") || err.contains("\"\""), "{arguments:?}: {err}");
    }
    Ok(())
}

fn mistyped() -> TestResult {
    for (arguments, tip) in [
        (&["rcp"][..], "'rpc'"),
        (&["help", "rcp"], "'rpc'"),
        (&["rpc", "cal"], "'call'"),
        (&["task", "send", "--queue", "q", "1"], "'--task-queue'"),
    ] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains("tip: a similar") && err.contains(tip), "{arguments:?}: {err}");
    }
    let (_, err) = exits(&ended(homing(&["--format", "json", "rcp"]))?, 2);
    let error: Value = serde_json::from_str(err.trim())?;
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("'rpc'")), "{err}");
    Ok(())
}

fn on(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = homing(&["--broker", broker.url(), "--prefix", broker.prefix()]);
    command.args(arguments);
    command
}

/// Runs it with a reader that takes one line and goes.
fn head(mut command: Command) -> Result<(Option<i32>, String, Duration), std::io::Error> {
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut String::new())?;
    }
    let output = wait(child)?;
    Ok((output.status.code(), text(&output.stderr), begun.elapsed()))
}

fn reader_gone() -> TestResult {
    for arguments in [&["demo"][..], &["stress", "--seconds", "25"], &["--help"]] {
        let (code, err, took) = head(homing(arguments))?;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(took < Duration::from_secs(15), "{arguments:?} took {took:?}");
    }
    Ok(())
}

fn disk_full() -> TestResult {
    for arguments in [&["demo"][..], &["stress", "--seconds", "0.1"], &["--help"], &["completions", "bash"], &["man"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
        let child = homing(arguments).stdout(full).stderr(Stdio::piped()).spawn()?;
        let (_, err) = exits(&wait(child)?, 1);
        assert!(err.contains("No space left") && !err.contains("panicked"), "{arguments:?}: {err}");
    }
    Ok(())
}

fn stderr_gone() -> TestResult {
    let mut child = homing(&["task", "send", "{unclosed"]).stderr(Stdio::piped()).spawn()?;
    drop(child.stderr.take());
    assert_eq!(child.wait()?.code(), Some(2), "a panic would be 101");
    Ok(())
}

/// Starts it, gives it a moment, interrupts it, and demands its end soon.
fn interrupted(mut command: Command, by: &str, code: i32) -> Result<String, Box<dyn std::error::Error>> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_millis(400));
    let begun = Instant::now();
    signal(child.id(), by);
    let (_, err) = exits(&wait(child)?, code);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
    Ok(err)
}

fn interrupted_connecting() -> TestResult {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("amqp://{}?connection_timeout=60000", silent.local_addr()?);
    for arguments in [
        &["rpc", "call", "x"][..],
        &["rpc", "serve", "x", "--echo"],
        &["task", "send"],
        &["task", "work", "--echo"],
        &["task", "list"],
        &["broadcast", "send"],
        &["broadcast", "watch"],
        &["events"],
        &["doctor"],
    ] {
        let mut command = homing(&["--broker", &url]);
        command.args(arguments);
        interrupted(command, "INT", 130)?;
    }
    let err = interrupted(homing(&["--broker", &url, "task", "send"]), "TERM", 143)?;
    assert!(err.contains("nothing was sent"), "{err}");
    Ok(())
}

fn interrupted_reading() -> TestResult {
    let mut command = homing(&["rpc", "call", "x", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let open = child.stdin.take();
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), "INT");
    let (_, err) = exits(&wait(child)?, 130);
    drop(open);
    assert!(err.contains("while reading the body"), "{err}");
    Ok(())
}

fn interrupted_writing() -> TestResult {
    interrupted(homing(&["stress", "--seconds", "25"]), "INT", 130)?;
    // Nobody reads the pipe, and it is full before the command begins.
    let (reader, mut writer) = std::io::pipe()?;
    let filler = writer.try_clone()?;
    let mut full = Command::new("head");
    let mut full = full.args(["-c", "65536", "/dev/zero"]).stdout(filler).spawn()?;
    full.wait()?;
    writer.flush()?;
    let mut command = homing(&["man"]);
    let child = command.stdout(writer).stderr(Stdio::piped()).spawn()?;
    drop(command);
    std::thread::sleep(Duration::from_millis(300));
    signal(child.id(), "INT");
    // It has no signal handling of its own: a command that only prints is ended by the system.
    let output = wait(child)?;
    assert!(!output.status.success());
    drop(reader);
    Ok(())
}

fn limit_connecting() -> TestResult {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("amqp://{}?connection_timeout=60000", silent.local_addr()?);
    for arguments in [
        &["rpc", "call", "x", "1", "--timeout", "300ms"][..],
        &["task", "send", "1", "--timeout", "0.3"],
        &["task", "send", "1", "--no-reply", "--timeout", "0.3s"],
        &["broadcast", "send", "--timeout", "0.3"],
    ] {
        let mut command = homing(&["--broker", &url]);
        command.args(arguments);
        let (_, err) = exits(&ended(command)?, 4);
        assert!(err.contains("nothing was sent"), "{arguments:?}: {err}");
    }
    Ok(())
}

fn errors_as_json() -> TestResult {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let nowhere = format!("amqp://u:sEcret@127.0.0.1:{port}");
    for (arguments, code, kind) in [
        (&["task", "send", "--nope"][..], 2, "usage"),
        (&["task", "send", "{unclosed"], 2, "usage"),
        (&["--broker", &nowhere, "task", "send"], 6, "connection"),
    ] {
        let mut command = homing(&["--format", "json"]);
        command.args(arguments);
        let (out, err) = exits(&ended(command)?, code);
        assert_eq!(out, "");
        let error: Value = serde_json::from_str(&err)?;
        assert_eq!(error["kind"], kind, "{err}");
        assert!(error["message"].is_string() && error["hint"].is_string() && !err.contains("sEcret"), "{err}");
    }
    Ok(())
}

fn json_and_surroundings() -> TestResult {
    let bench = ["--broker", "memory:", "bench", "--seconds", "0.05"];
    exits(&ended(with(&bench))?, 0);
    for arguments in [&["--format", "json", "demo"][..], &["--format", "json", "stress", "--seconds", "0.2"]] {
        let command = with(arguments);
        let (out, _) = exits(&ended(command)?, 0);
        let value: Value = serde_json::from_str(&out)?;
        assert!(value["demo"] == "passed" || value["counts"]["lost"] == 0, "{out}");
    }
    Ok(())
}

/// In surroundings that name a broker and a prefix.
fn with(arguments: &[&str]) -> Command {
    let mut command = homing(arguments);
    command.env("HOMING_BROKER", "amqp://127.0.0.1:1/nobody").env("HOMING_PREFIX", "theirs");
    command
}

fn empty_variables() -> TestResult {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    for name in ["HOMING_PREFIX", "HOMING_CONTEXT"] {
        let mut command = homing(&["--broker", &format!("amqp://127.0.0.1:{port}"), "task", "send"]);
        command.env(name, "");
        // It counts as not set: the command comes as far as the connection.
        exits(&ended(command)?, 6);
    }
    exits(&ended(homing(&["--broker", "", "task", "send"]))?, 2);
    Ok(())
}

fn options_and_bodies() -> TestResult {
    for arguments in [&["task", "send", "--nope"][..], &["rpc", "call", "x", "--nope"], &["broadcast", "send", "-z"]] {
        let (_, err) = exits(&ended(homing(arguments))?, 2);
        assert!(err.contains("unexpected argument"), "{err}");
    }
    // Read as bodies, they come as far as the connection.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let nowhere = format!("amqp://127.0.0.1:{port}");
    for body in [&["--", "--nope"][..], &["--", "- a"], &["-5"], &["-0.5"]] {
        let mut command = homing(&["--broker", &nowhere, "task", "send"]);
        command.args(body);
        exits(&ended(command)?, 6);
    }
    Ok(())
}

fn colours() -> TestResult {
    let escape = '\u{1b}';
    for arguments in [&["--help"][..], &["-vv", "demo"], &["what"]] {
        let output = ended(homing(arguments))?;
        assert!(!text(&output.stdout).contains(escape) && !text(&output.stderr).contains(escape), "{arguments:?}");
    }
    let output = ended(homing(&["-vv", "--color", "always", "demo"]))?;
    assert!(text(&output.stderr).contains(escape), "asked for");
    let output = ended(homing(&["--color=always", "--help"]))?;
    assert!(text(&output.stdout).contains(escape), "asked for");
    Ok(())
}

fn completions() -> TestResult {
    for shell in ["bash", "zsh", "fish"] {
        let (out, _) = exits(&ended(homing(&["completions", shell]))?, 0);
        assert!(out.contains("homing") && out.contains("broadcast"), "{shell}");
    }
    let folder = folder("man")?;
    exits(&ended(homing(&["man", "--out", folder.to_str().ok_or("a path")?]))?, 0);
    let page = std::fs::read_to_string(folder.join("homing-task-work.1"))?;
    assert!(page.contains(".TH") && page.contains("prefetch") && page.contains("75"), "{page}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn folder(what: &str) -> std::io::Result<PathBuf> {
    // With what a path may have.
    let folder = std::env::temp_dir().join(format!("homing ü {}", support::unique(what)));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

fn contexts() -> TestResult {
    let folder = folder("contexts")?;
    let file = folder.join("deep").join("config.toml");
    let with = |arguments: &[&str]| {
        let mut command = homing(arguments);
        command.env("HOMING_CONFIG", &file);
        ended(command)
    };
    let secret = "sEcret";
    let url = format!("amqp://me:{secret}@127.0.0.1:1/v");
    exits(&with(&["context", "add", "one", "--broker", &url, "--prefix", "p"])?, 0);
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let password = folder.join("password");
    std::fs::write(&password, format!("{secret}/@\n"))?;
    let password = password.to_str().ok_or("a path")?;
    exits(&with(&["context", "add", "two", "--broker", "amqp://me@127.0.0.1:1", "--password-file", password])?, 0);
    let failing = ["context", "add", "three", "--broker", "amqp://h", "--password-command", "exit 3"];
    exits(&with(&failing)?, 0);
    exits(&with(&["context", "use", "one"])?, 0);
    let (_, err) = exits(&with(&["--config", "/no/such/file", "task", "list"])?, 2);
    assert!(err.contains("there is no file /no/such/file"), "the broker of another file is not meant: {err}");
    let (out, _) = exits(&with(&["context", "list"])?, 0);
    assert!(out.contains("* one") && out.contains("me:***@") && !out.contains(secret), "{out}");
    let (out, _) = exits(&with(&["--format", "json", "context", "list"])?, 0);
    assert!(out.lines().count() == 3 && !out.contains(secret), "{out}");
    for (arguments, code, part) in [
        (&["task", "send"][..], 6, "127.0.0.1:1"),
        (&["--context", "two", "task", "send"], 6, "127.0.0.1:1"),
        (&["--context", "three", "task", "send"], 1, "password command"),
        (&["--context", "none", "task", "send"], 2, "there are one, three, two"),
        (&["context", "add", "bad name"], 2, "letters"),
        (&["context", "add", "x", "--broker", "sEcret@h"], 2, "amqp://"),
        (&["context", "use", "none"], 2, "no context"),
    ] {
        let (_, err) = exits(&with(arguments)?, code);
        assert!(err.contains(part) && !err.contains(secret), "{arguments:?}: {err}");
    }
    std::fs::write(&file, "contexts = sEcret")?;
    let (_, err) = exits(&with(&["context", "list"])?, 2);
    assert!(err.contains("line 1") && !err.contains(secret), "{err}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn help() -> TestResult {
    let (out, _) = exits(&ended(homing(&["--help"]))?, 0);
    for part in ["\nBroker:", "\nNames on the broker:", "\nOutput:", "7  access refused", "143 by SIGTERM"] {
        assert!(out.contains(part), "{part} is not in: {out}");
    }
    let (out, _) = exits(&ended(homing(&["task", "send", "--help"]))?, 0);
    for part in ["12:30", "010", "null"] {
        assert!(out.contains(part), "{part} is not in: {out}");
    }
    Ok(())
}

fn no_body(broker: &Broker) -> TestResult {
    let _server = Running::start(on(broker, &["rpc", "serve", "echo", "--echo"]))?;
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "rpc", "call", "echo"]))?, 0);
    assert_eq!(out, "null\n");
    Ok(())
}

fn limit_sent(broker: &Broker) -> TestResult {
    let (_, err) = exits(&ended(on(broker, &["task", "send", "1", "--timeout", "1500ms"]))?, 4);
    assert!(err.contains("the message was sent"), "{err}");
    Ok(())
}

fn unused_queue(broker: &Broker) -> TestResult {
    let (_, err) = exits(&ended(on(broker, &["task", "send", "1", "--no-reply"]))?, 0);
    assert!(err.contains("does not exist yet"), "{err}");
    let (_, err) = exits(&ended(on(broker, &["task", "send", "1", "--no-reply"]))?, 0);
    assert!(err.contains("no worker takes tasks"), "{err}");
    let (_, err) = exits(&ended(on(broker, &["--quiet", "task", "send", "1", "--no-reply"]))?, 0);
    assert_eq!(err, "");
    let _worker = Running::start(on(broker, &["task", "work", "--echo"]))?;
    let (_, err) = exits(&ended(on(broker, &["task", "send", "1"]))?, 0);
    assert_eq!(err, "");
    Ok(())
}

fn watch(broker: &Broker) -> TestResult {
    let mut watcher = Running::start(on(broker, &["broadcast", "watch"]))?;
    exits(&ended(on(broker, &["broadcast", "send", "{a: 1}", "--subject", "s"]))?, 0);
    let mut out = BufReader::new(watcher.0.stdout.take().ok_or("no pipe")?);
    let mut lines = (String::new(), String::new());
    out.read_line(&mut lines.0)?;
    out.read_line(&mut lines.1)?;
    assert_eq!(lines.0, "---\n");
    assert!(lines.1.starts_with("time: "), "{lines:?}");
    // Nothing more is sent: it ends all the same.
    drop(out);
    assert_eq!(watcher.ends()?, Some(0));
    Ok(())
}

fn watch_interrupted(broker: &Broker) -> TestResult {
    let mut watcher = Running::start(on(broker, &["broadcast", "watch"]))?;
    assert_eq!(watcher.stop("INT")?.0, Some(130));
    Ok(())
}

fn globs(broker: &Broker) -> TestResult {
    let watch = ["--format", "json", "broadcast", "watch", "--subject", "a.?[0-9](*", "--count", "1"];
    let mut watcher = Running::start(on(broker, &watch))?;
    for subject in ["a.xx(", "axx1(", "pre a.x1(", "a.x1(end"] {
        exits(&ended(on(broker, &["broadcast", "send", "--subject", subject]))?, 0);
    }
    assert_eq!(watcher.ends()?, Some(0));
    let mut out = String::new();
    std::io::Read::read_to_string(&mut watcher.0.stdout.take().ok_or("no pipe")?, &mut out)?;
    assert!(out.contains("a.x1(end"), "{out}");
    Ok(())
}

fn surroundings(broker: &Broker) -> TestResult {
    let folder = folder("surroundings")?;
    let file = folder.join("config.toml");
    let with = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = homing(arguments);
        command.env("HOMING_CONFIG", &file).envs(variables.iter().copied());
        ended(command)
    };
    exits(&with(&["context", "add", "mine", "--broker", broker.url(), "--prefix", broker.prefix()], &[])?, 0);
    exits(&with(&["--context", "mine", "task", "send", "1", "--no-reply"], &[])?, 0);
    let count = ["--format", "json", "task", "list"];
    let (out, _) = exits(&with(&count, &[("HOMING_BROKER", broker.url()), ("HOMING_PREFIX", broker.prefix())])?, 0);
    assert!(out.contains("\"ready\":1") && out.contains(broker.prefix()), "{out}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn lines(broker: &Broker) -> TestResult {
    let _worker = Running::start(on(broker, &["task", "work", "--echo", "--prefetch", "4"]))?;
    let mut command = on(broker, &["task", "send", "--lines"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or("no pipe")?;
    let mut expected = String::new();
    for n in 0..300 {
        writeln!(input, "{n}")?;
        expected.push_str(&format!("{n}\n"));
    }
    writeln!(input, "\n{{unclosed")?;
    drop(input);
    let (out, err) = exits(&wait(child)?, 1);
    assert_eq!(out, expected);
    assert!(err.contains("line 302") && err.contains("1 of 301 tasks failed"), "{err}");
    Ok(())
}

/// Guards: a directory as standard input, whose every read fails: a command that never ends, and a warning for each.
fn unread_lines() -> TestResult {
    let mut send = homing(&["--broker", "amqp://127.0.0.1:1", "task", "send", "--lines", "--no-reply"]);
    send.stdin(std::fs::File::open("/")?);
    let child = send.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (_, err) = exits(&wait(child)?, 1);
    assert_eq!(err.matches("standard input cannot be read").count(), 1, "{err}");
    Ok(())
}

fn count(broker: &Broker) -> TestResult {
    exits(&ended(on(broker, &["task", "send", "x", "--count", "25", "--no-reply"]))?, 0);
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "task", "list"]))?, 0);
    assert!(out.contains("\"ready\":25"), "{out}");
    Ok(())
}

fn held_back(broker: &Broker) -> TestResult {
    for (arguments, part) in [
        (&["--at", "tomorrow"][..], "not a point in time in UTC"),
        (&["--at", "2020-01-31T12:00:00Z", "--delay", "1s"], "cannot be used with"),
        (&["--delay", "100d", "--no-reply"], "45 days"),
    ] {
        let output = ended(on(broker, &[&["task", "send", "x"], arguments].concat()))?;
        let err = text(&output.stderr);
        assert!(output.status.code() == Some(2) && err.contains(part), "{arguments:?}: {err}");
    }
    let ready = || -> Result<bool, libtest_mimic::Failed> {
        let (out, _) = exits(&ended(on(broker, &["--format", "json", "task", "list"]))?, 0);
        Ok(out.contains("\"ready\":1"))
    };
    // A time that has passed is now.
    exits(&ended(on(broker, &["task", "send", "now", "--at", "2020-01-01 00:00:00", "--no-reply"]))?, 0);
    assert!(ready()?, "it is there at once");
    exits(&ended(on(broker, &["task", "send", "later", "--delay", "8s", "--no-reply"]))?, 0);
    assert!(ready()?, "the second is held back");
    let until = Instant::now() + LONG;
    while ready()? {
        assert!(Instant::now() < until, "it does not come");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn once(broker: &Broker) -> TestResult {
    let send =
        |arguments: &[&str]| ended(on(broker, &[&["--quiet", "task", "send", "--no-reply"], arguments].concat()));
    exits(&send(&["x", "--unique", "invoice 17"])?, 0);
    let (_, err) = exits(&send(&["x", "--unique", "invoice 17"])?, 8);
    assert!(err.contains("\"invoice 17\"") && err.contains("600s"), "{err}");
    let (_, err) = exits(&send(&["x", "--unique", "invoice 17", "--format", "json"])?, 8);
    assert!(err.contains("\"kind\":\"duplicate_task\""), "{err}");
    exits(&send(&["x", "--unique", "invoice 18", "--unique-for", "1h"])?, 0);
    let (_, err) = exits(&send(&["x", "--unique", "invoice 18", "--unique-for", "1h"])?, 8);
    assert!(err.contains("3600s"), "by the time that was given: {err}");
    exits(&send(&["x"])?, 0);
    let (out, _) = exits(&ended(on(broker, &["--format", "json", "task", "list"]))?, 0);
    assert!(out.contains("\"ready\":3"), "{out}");
    for (arguments, part) in [
        (&["x", "--unique-for", "5s"][..], "--unique <KEY>"),
        (&["x", "--unique", "k", "--count", "2"], "cannot be used with"),
        (&["x", "--unique", "k", "--unique-for", "46d"], "45 days"),
        (&["x", "--unique", "k", "--unique-for", "0"], "zero"),
    ] {
        let (_, err) = exits(&send(arguments)?, 2);
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    Ok(())
}

fn events(broker: &Broker) -> TestResult {
    let mut watcher = Running::start(on(broker, &["--format", "json", "events"]))?;
    let (code, out) = watcher.stop("INT")?;
    assert_eq!(code, Some(130));
    let (once, _) = exits(&ended(on(broker, &["--format", "json", "events", "--count", "1"]))?, 0);
    assert_eq!(once.lines().count(), 1, "{once}");
    let event: Value = serde_json::from_str(out.lines().next().unwrap_or(""))?;
    assert!(event["event"] == "connected" && event["time"].is_string(), "{out}");
    Ok(())
}

fn ping(broker: &Broker) -> TestResult {
    let (out, err) = exits(&ended(on(broker, &["worker", "ping", "--wait", "0.3"]))?, 0);
    assert!(out.is_empty() && err.contains("none"), "{out}{err}");
    let _worker = Running::start(on(broker, &["task", "work", "--echo"]))?;
    let _server = Running::start(on(broker, &["rpc", "serve", "x", "--echo"]))?;
    let (out, _) = exits(&ended(on(broker, &["worker", "ping"]))?, 0);
    assert!(out.contains("task  ") && out.contains("rpc  x  homing process "), "{out}");
    let (out, _) = exits(&ended(on(broker, &["rpc", "list"]))?, 0);
    assert!(out.starts_with("x  homing process ") && !out.contains('"'), "{out}");
    Ok(())
}

fn objects(text: &str) -> Result<Vec<Value>, serde_json::Error> {
    text.lines().map(serde_json::from_str).collect()
}

fn usage_as_json() -> TestResult {
    for (arguments, part) in [
        (&["rpc", "call"][..], "<RECIPIENT>"),
        (&["task", "purge"], "--reason"),
        (&["task", "work"], "--exec"),
        (&["rpc", "call", "x", "--color", "never-ever"], "auto, always, never"),
        (&["rpc"], "subcommand"),
        (&["tsk"], "tsk"),
    ] {
        for json in [&["--format", "json"][..], &["--log-format=json"]] {
            let mut command = homing(json);
            let (_, err) = exits(
                &ended({
                    command.args(arguments);
                    command
                })?,
                2,
            );
            let error: Value = serde_json::from_str(&err)?;
            assert!(
                error["kind"] == "usage" && error["message"].as_str().is_some_and(|text| text.contains(part)),
                "{err}"
            );
        }
    }
    Ok(())
}

fn lines_as_json() -> TestResult {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let nowhere = format!("amqp://127.0.0.1:{port}");
    for json in ["--format", "--log-format"] {
        let waits = ["--broker", &nowhere, json, "json", "--reconnect", "300ms", "task", "send"];
        let (_, err) = exits(&ended(homing(&waits))?, 6);
        let lines = objects(&err)?;
        assert!(
            lines.len() == 2 && lines.iter().all(|line| line["level"].is_string() && line["message"].is_string()),
            "{err}"
        );
        assert!(lines[0]["level"] == "INFO" && lines[1]["kind"] == "connection", "{err}");
        let (_, err) = exits(&ended(homing(&["-vv", json, "json", "demo"]))?, 0);
        assert!(objects(&err)?.len() > 3, "{err}");
    }
    let (_, err) = exits(&ended(homing(&["--broker", &nowhere, "--format", "json", "doctor"]))?, 6);
    let error: Value = serde_json::from_str(&err)?;
    assert!(error["kind"] == "connection" && error["hint"].is_null(), "no advice to do what was done: {err}");
    Ok(())
}

fn demo_calm() -> TestResult {
    let (out, err) = exits(&ended(homing(&["demo"]))?, 0);
    assert!(err.is_empty() && out.contains("inside this process"), "{out}{err}");
    let (out, _) = exits(&ended(homing(&["--broker", "memory:", "demo"]))?, 0);
    assert!(out.contains("homing demo, inside this process"), "{out}");
    Ok(())
}

fn slow_password() -> TestResult {
    let folder = folder("password")?;
    let with = |arguments: &[&str]| {
        let mut command = homing(arguments);
        command.env("HOMING_CONFIG", folder.join("config.toml"));
        ended(command)
    };
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("amqp://u@{}", silent.local_addr()?);
    exits(&with(&["context", "add", "slow", "--broker", &url, "--password-command", "sleep 25; echo x"])?, 0);
    exits(&with(&["context", "add", "late", "--broker", &url, "--password-command", "sleep 1; echo x"])?, 0);
    for command in
        [&["task", "send"][..], &["rpc", "call", "x"], &["task", "purge", "--all"], &["process", "kill", "1"]]
    {
        let begun = Instant::now();
        let (_, err) = exits(&with(&[&["--context", "slow"], command, &["--timeout", "500ms"]].concat())?, 4);
        assert!(err.contains("password command") && err.contains("nothing was sent"), "{err}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{command:?} took {:?}", begun.elapsed());
    }
    let mut waiting = homing(&["--context", "slow", "task", "list"]);
    let mut waiting = waiting.env("HOMING_CONFIG", folder.join("config.toml")).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(waiting.stderr.take().ok_or("no pipe")?).read_line(&mut line)?;
    signal(waiting.id(), "INT");
    waiting.wait()?;
    assert!(line.contains("waiting for the password command"), "{line}");
    let begun = Instant::now();
    let (_, err) = exits(&with(&["--context", "late", "task", "send", "--timeout", "3s"])?, 4);
    assert!(err.contains("timed out after 3s"), "by the limit that was given: {err}");
    assert!(begun.elapsed() < Duration::from_millis(3900), "the limit is that of both: {:?}", begun.elapsed());
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn password_ends() -> TestResult {
    let folder = folder("password end")?;
    let noted = folder.join("noted");
    // Started in the background, it outlives its shell unless it is ended, too, and the end of its terminal. Who has started the
    // first is gone already.
    let lives = format!(
        "trap '' HUP; echo $$ >> '{0}'; (sleep 1000 & echo $! >> '{0}'); sleep 1000 & echo $! >> '{0}'; wait",
        noted.display()
    );
    let with = |arguments: &[&str]| {
        let mut command = homing(arguments);
        command.env("HOMING_CONFIG", folder.join("config.toml"));
        command
    };
    let add = |name, command| with(&["context", "add", name, "--broker", "amqp://u@h", "--password-command", command]);
    exits(&ended(add("plain", &lives))?, 0);
    exits(&ended(add("stubborn", &format!("trap '' INT TERM; {lives}")))?, 0);
    let processes = || -> Vec<String> {
        let noted = std::fs::read_to_string(&noted).unwrap_or_default();
        noted.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    };
    for context in ["plain", "stubborn"] {
        for terminal in [false, true] {
            for (by, code) in [("TERM", 143), ("INT", 130), ("time", 4)] {
                let _ = std::fs::remove_file(&noted);
                let (limit, said) = match by {
                    "time" => ("3s", "timed out while the password command"),
                    _ => ("1h", "interrupted while the password command"),
                };
                let command = with(&["--context", context, "task", "send", "--timeout", limit]);
                if terminal {
                    let mut running = Pty::start(&command)?;
                    eventually("it is started", || by == "time" || processes().len() == 3);
                    match by {
                        "INT" => running.press("\u{3}")?,
                        "TERM" => running.signal(by),
                        _ => {}
                    }
                    let screen = running.ends(code);
                    assert!(screen.contains(said), "{context} {by}: {screen}");
                } else {
                    let mut apart = Command::new("setsid");
                    apart.arg(command.get_program()).args(command.get_args());
                    same_surroundings(&command, &mut apart);
                    let running = apart.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
                    eventually("it is started", || by == "time" || processes().len() == 3);
                    if by != "time" {
                        signal(running.id(), by);
                    }
                    let (_, err) = exits(&wait(running)?, code);
                    assert!(
                        err.contains("password command") && err.contains("nothing was sent"),
                        "{context} {by}: {err}"
                    );
                }
                for process in processes() {
                    eventually(&format!("{context}, {terminal}, {by}: process {process} is still there"), || {
                        // What nobody waits for is a zombie.
                        let status = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
                        status.is_empty() || status.contains(") Z ")
                    });
                }
            }
        }
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn wrong_times() -> TestResult {
    // Nobody listens there: with a connection the exit code would be 6.
    let nowhere = "amqp://127.0.0.1:1";
    for (arguments, part) in [
        (&["task", "send", "--timeout", "-1"][..], "not a time"),
        (&["worker", "ping", "--wait", "-1"], "not a time"),
        (&["task", "send", "--at", "soon"], "not a point in time in UTC"),
        (&["task", "send", "--at", "2030-01-31T12:00:00+02:00"], "UTC"),
        (&["task", "send", "--at", "2999-01-01T00:00:00Z"], "45 days"),
        (&["task", "send", "--delay", "90d"], "45 days"),
    ] {
        let (_, err) = exits(
            &ended({
                let mut command = homing(&["--broker", nowhere]);
                command.args(arguments);
                command
            })?,
            2,
        );
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let (_, err) = exits(&ended(homing(&["man", "--out", "/proc/no/such"]))?, 1);
    assert!(err.contains("/proc/no/such"), "{err}");
    Ok(())
}

fn refused_options() -> TestResult {
    let folder = folder("refused")?;
    let with = |arguments: &[&str], variable: Option<&str>| {
        let mut command = homing(arguments);
        command.env("HOMING_CONFIG", folder.join("config.toml"));
        if let Some(url) = variable {
            command.env("HOMING_BROKER", url);
        }
        ended(command)
    };
    let nowhere = "amqp://u@h";
    for (arguments, part) in [
        (&["context", "add", "x"][..], "--broker"),
        (&["context", "add", "x", "--broker", nowhere, "--reconnect", "for-ever"], "--reconnect"),
        (&["context", "add", "x", "--broker", "amqp://u:p@h", "--password-file", "f"], "leave one out"),
        (&["context", "add", "x", "--broker", "amqp://u@h,amqp://u:p@i", "--password-command", "c"], "leave one out"),
        (&["task", "send", "--in-flight", "3"], "--lines"),
        (&["task", "send", "--as-they-come"], "--lines"),
    ] {
        let (_, err) = exits(&with(arguments, Some(nowhere))?, 2);
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let both = "amqp://u@h/v,amqps://w@i:1";
    exits(&with(&["context", "add", "x", "--broker", both], None)?, 0);
    let (out, _) = exits(&with(&["context", "list"], None)?, 0);
    assert!(out.contains(both), "{out}");
    let (_, err) = exits(&with(&["context", "use", "x"], None)?, 0);
    assert!(err.contains("\"x\" is the default") && !err.contains("warning"), "{err}");
    let (_, err) = exits(&with(&["context", "use", "x"], Some(nowhere))?, 0);
    assert!(err.contains("HOMING_BROKER is set"), "{err}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn help_wrapped() -> TestResult {
    for arguments in [
        &["--help"][..],
        &["task", "work", "--help"],
        &["rpc", "serve", "--help"],
        &["task", "send", "--help"],
        &["process", "launch", "--help"],
        &["process", "kill", "--help"],
    ] {
        let (out, _) = exits(&ended(homing(arguments))?, 0);
        let heads = ["\nExit codes:", "\nThe command of", "\nBodies:", "\nArguments:", "\nProcesses:"];
        // The last, since the usage has an `Arguments:` too.
        let tail = heads.iter().filter_map(|head| out.rfind(head)).min().ok_or("a tail")?;
        let lines: Vec<&str> = out[tail..].lines().collect();
        for pair in lines.windows(2) {
            let indent = |line: &str| line.len() - line.trim_start().len();
            // Where a line is short and its sentence goes on in the same column, it was wrapped twice.
            let short = pair[0].trim().len() < 50 && !pair[0].ends_with(['.', ':', ';', ')', ',']);
            let goes_on = indent(pair[0]) == indent(pair[1]) && pair[1].trim().starts_with(char::is_lowercase);
            assert!(!(short && goes_on && !pair[0].contains("homing process launch")), "{arguments:?}: {pair:?}");
            assert!(pair[0].chars().count() <= 100, "{pair:?}");
        }
    }
    let (out, _) = exits(&ended(homing(&["task", "work", "--help"]))?, 0);
    assert!(out.contains("HOMING_NO_REPLY"), "{out}");
    Ok(())
}

fn sent_only(broker: &Broker) -> TestResult {
    let (_, err) = exits(&ended(on(broker, &["task", "send", "x", "--count", "3", "--no-reply"]))?, 0);
    assert!(err.contains("3 tasks sent, 0 failed") && !err.contains("done"), "{err}");
    let (_, err) = exits(&ended(on(broker, &["task", "send", "x", "--count", "1", "--no-reply"]))?, 0);
    assert!(err.contains("1 task sent") && err.contains("behind 3 others"), "{err}");
    Ok(())
}

/// A way to the broker that cuts what goes through it after this time, once.
fn cut_once(to: String, after: Duration) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let begun = std::sync::Arc::new(std::sync::OnceLock::<Instant>::new());
    std::thread::spawn(move || {
        for here in listener.incoming().flatten() {
            let Ok(there) = std::net::TcpStream::connect(&to) else { continue };
            let first = *begun.get_or_init(Instant::now);
            let pairs = [(here.try_clone(), there.try_clone()), (there.try_clone(), here.try_clone())];
            for (from, to) in pairs {
                let (Ok(mut from), Ok(mut to)) = (from, to) else { continue };
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
            // Both connections of the first communicator.
            if let Some(left) = after.checked_sub(first.elapsed()) {
                std::thread::spawn(move || {
                    std::thread::sleep(left);
                    let _ = here.shutdown(std::net::Shutdown::Both);
                    let _ = there.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    Ok(port)
}

fn lost_while_starting(broker: &Broker) -> TestResult {
    let (_, rest) = broker.url().split_once("://").ok_or("a URL")?;
    let (user, address) = rest.rsplit_once('@').ok_or("a user")?;
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    for arguments in [&["rpc", "serve", "x", "--echo"][..], &["broadcast", "watch"], &["task", "work", "--echo"]] {
        for after in (150..500).step_by(25) {
            let port = cut_once(host.to_owned(), Duration::from_millis(after))?;
            let url = format!("amqp://{user}@127.0.0.1:{port}/{path}");
            let mut command = homing(&["--broker", &url, "--prefix", broker.prefix()]);
            command.args(arguments);
            // It begins, whenever the cut comes. A cut during the handshake is a first connection that cannot be made.
            match Running::start(command) {
                Ok(mut running) => drop(running.stop("TERM")?),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!error.contains("was lost"), "{arguments:?} {after}: {error}");
                }
            }
        }
    }
    Ok(())
}

fn advice(broker: &Broker) -> TestResult {
    let (_, err) = exits(&ended(on(broker, &["process", "status", "77"]))?, 3);
    let lines: Vec<&str> = err.lines().collect();
    assert!(
        lines.len() == 2 && lines[1].contains("process continue 77") && lines[0].contains("cannot be reached"),
        "{err}"
    );
    let (_, err) = exits(&ended(on(broker, &["process", "kill", "77"]))?, 3);
    assert!(!err.contains("process continue"), "whoever kills it does not want it run: {err}");
    let folder = folder("advice")?;
    let with = |arguments: &[&str]| {
        let mut command = homing(arguments);
        command.env("HOMING_CONFIG", folder.join("config.toml"));
        ended(command)
    };
    exits(&with(&["context", "add", "mine", "--broker", broker.url(), "--prefix", broker.prefix()])?, 0);
    let (_, err) = exits(&with(&["--context", "mine", "process", "play", "77", "78"])?, 3);
    assert!(
        err.trim_end().lines().last().is_some_and(|last| last.contains("homing --context mine process continue PID")),
        "{err}"
    );
    let (_, err) = exits(&with(&["--format", "json", "--context", "mine", "process", "status", "77", "78"])?, 3);
    let last: Value = serde_json::from_str(err.lines().last().unwrap_or(""))?;
    assert!(
        last["kind"] == "unroutable" && last["hint"].as_str().is_some_and(|hint| hint.contains("continue")),
        "{err}"
    );
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn advised_commands() -> TestResult {
    let folder = std::env::temp_dir().join(support::unique("adv"));
    std::fs::create_dir_all(&folder)?;
    let (broker, store) = (format!("local:{}", folder.join("l").display()), folder.join("p.db").display().to_string());
    let on = |arguments: &[&str]| {
        let mut command = homing(&["--broker", &broker, "--prefix", "it's"]);
        command.args(arguments).env("XDG_RUNTIME_DIR", &folder);
        command
    };
    let begin = format!(r"`homing --broker {broker} --prefix 'it'\''s' ");
    let (_, err) = exits(&ended(on(&["run", "--store", &store, "--", "true"]))?, 3);
    assert!(err.contains(&format!("{begin}worker --store {store}`")), "{err}");
    let worker = Running::start(on(&["worker", "--workers", "1", "--store", &store]))?;
    let (_, err) = exits(&ended(on(&["worker", "--workers", "1", "--store", &store]))?, 1);
    for command in ["status", "add"] {
        assert!(err.contains(&format!(r"`homing --prefix 'it'\''s' workers {command} --store {store}`")), "{err}");
    }
    let mut run = on(&["run", "--store", &store, "--", "sh", "-c", "echo begun; exec sleep 60"]);
    let mut run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(run.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    assert_eq!(line, "begun\n");
    signal(run.id(), "TERM");
    let (_, err) = exits(&wait(run)?, 143);
    assert!(
        err.contains(&format!("{begin}process kill 1`"))
            && err.contains(&format!("`homing process report 1 --follow --store {store}`")),
        "{err}"
    );
    exits(&ended(on(&["process", "kill", "1"]))?, 0);
    drop(worker);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn message_lines(broker: &Broker) -> TestResult {
    let output = ended(on(broker, &["-vv", "task", "send", "1", "--no-reply"]))?;
    let (_, err) = exits(&output, 0);
    let lines: Vec<&str> = err.lines().filter(|line| line.contains("close") && line.contains("send")).collect();
    assert!(lines.len() == 1 && lines[0].contains("homing.outcome=\"ok\""), "{err}");
    let (_, err) = exits(&ended(on(broker, &["-v", "task", "send", "1", "--no-reply"]))?, 0);
    assert!(!err.contains("homing.outcome"), "{err}");
    Ok(())
}
